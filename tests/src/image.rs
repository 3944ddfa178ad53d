//! An image without Docker: the steps of a Dockerfile, carried out in folders of this machine.
//!
//! What there is of Docker's language here is what our file uses; anything else panics, so that a step which is not
//! carried out is noticed. A stage is a folder that stands for its `/`. `COPY` takes from the context as `.dockerignore`
//! leaves it, and keeps the files' times, as Docker does. `RUN` steps run with this machine's tools in the folder of
//! their `WORKDIR`, so none may name a path from `/`. The base of a stage is not there: a stage that needs something of
//! its own base needs a `RUN`, and the last stage may have none.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    os::unix::fs::chown,
    path::{Component, Path, PathBuf},
    process::Command,
};

use nix::unistd::Uid;

/// A line of a Dockerfile, with those that continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    pub name: String,
    pub arguments: String,
}

/// What the last stage came to.
#[derive(Debug)]
pub struct Image {
    /// Its `/`, without what its base has.
    pub root: PathBuf,
    /// From `/`, as in the image.
    pub folder: String,
    pub environment: BTreeMap<String, String>,
    pub user: String,
    pub entrypoint: Vec<String>,
    pub healthcheck: Vec<String>,
    /// What each `RUN` step wrote, in order.
    pub outputs: Vec<String>,
}

/// Instructions in order. Comments and empty lines between continued lines do not count, as in Docker.
pub fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let mut found = Vec::new();
    let mut line = String::new();
    for part in dockerfile.lines().map(str::trim) {
        if part.is_empty() || part.starts_with('#') {
            continue;
        }
        match part.strip_suffix('\\') {
            Some(begin) => line += begin,
            None => {
                line += part;
                let (name, arguments) = line.split_once(' ').expect("an instruction has arguments");
                found.push(Instruction {
                    name: name.to_ascii_uppercase(),
                    arguments: arguments.trim().to_owned(),
                });
                line.clear();
            }
        }
    }
    assert_eq!(line, "", "the last line is continued");
    found
}

struct Stage {
    name: String,
    root: PathBuf,
    folder: String,
    variables: BTreeMap<String, String>,
}

impl Stage {
    /// Where a path of the stage is on this machine.
    fn path(&self, path: &str) -> PathBuf {
        let from = if path.starts_with('/') { "/" } else { &self.folder };
        let inside = Path::new(from).join(path);
        let parts = inside.components().filter_map(|part| match part {
            Component::Normal(part) => Some(part),
            Component::RootDir | Component::CurDir => None,
            other => panic!("{path}: {other:?} cannot be carried out here"),
        });
        self.root.join(parts.collect::<PathBuf>())
    }

    fn expanded(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.variables {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        assert!(!text.contains("${"), "{text}: a variable that is not known");
        text
    }
}

/// Carries all steps out in `scratch`, which is emptied first. `arguments` are those of `--build-arg`, `environment` is
/// added to that of the `RUN` steps.
pub fn build(
    context: &Path,
    dockerfile: &str,
    scratch: &Path,
    arguments: &[(&str, &str)],
    environment: &[(&str, &str)],
) -> Image {
    if scratch.exists() {
        fs::remove_dir_all(scratch).expect("the scratch folder can be emptied");
    }
    let files = context_files(context);
    let mut stages: Vec<Stage> = Vec::new();
    let mut image = Image {
        root: PathBuf::new(),
        folder: "/".into(),
        environment: BTreeMap::new(),
        user: "0".into(),
        entrypoint: Vec::new(),
        healthcheck: Vec::new(),
        outputs: Vec::new(),
    };
    for Instruction {
        name,
        arguments: text,
    } in instructions(dockerfile)
    {
        if name == "FROM" {
            let name = text.split_once(" AS ").map_or("", |(_, name)| name).to_owned();
            let root = scratch.join(format!("stage-{}", stages.len()));
            fs::create_dir_all(&root).expect("the scratch folder takes folders");
            image.environment.clear();
            image.user = "0".into();
            stages.push(Stage {
                name,
                root,
                folder: "/".into(),
                variables: BTreeMap::new(),
            });
            continue;
        }
        let (stage, earlier) = stages.split_last_mut().expect("a Dockerfile begins with FROM");
        match name.as_str() {
            "ARG" => {
                let (name, default) = text.split_once('=').expect("an ARG with a default");
                let given = arguments.iter().find(|(given, _)| *given == name);
                let value = given.map_or(default, |(_, value)| value);
                stage.variables.insert(name.into(), value.into());
            }
            "ENV" => {
                let (name, value) = text.split_once('=').expect("ENV NAME=VALUE");
                let value = stage.expanded(value);
                stage.variables.insert(name.into(), value.clone());
                image.environment.insert(name.into(), value);
            }
            "WORKDIR" => {
                stage.folder = stage.expanded(&text);
                fs::create_dir_all(stage.path(".")).expect("the folder can be made");
            }
            "COPY" => copy(&stage.expanded(&text), stage, earlier, context, &files),
            "RUN" => image.outputs.push(run(&text, stage, environment)),
            "USER" => image.user = stage.expanded(&text),
            "ENTRYPOINT" => image.entrypoint = list(&text),
            "HEALTHCHECK" => {
                let (_, command) = text.split_once("CMD ").expect("HEALTHCHECK … CMD […]");
                image.healthcheck = list(command);
            }
            "EXPOSE" => {}
            other => panic!("{other} cannot be carried out here"),
        }
    }
    let last = stages.pop().expect("a Dockerfile has a stage");
    image.root = last.root;
    image.folder = last.folder;
    image
}

/// The form with brackets, which needs no shell.
fn list(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run(command: &str, stage: &Stage, environment: &[(&str, &str)]) -> String {
    let outside = command
        .split([' ', '=', '>', '<', '"', '\''])
        .find(|word| word.starts_with('/'));
    assert_eq!(outside, None, "a step that cannot be carried out here: {command}");
    let mut shell = Command::new("sh");
    // In an image nobody says anything of a package or a folder. Build scripts of dependencies watch what cargo says of
    // the test's (ring's does): passed on, it would have half of the tree built anew here, and again outside.
    for (name, _) in env::vars_os() {
        let is_of_the_test = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_") || name.starts_with("NEXTEST"));
        if is_of_the_test && name != "CARGO_HOME" && name != "CARGO_INCREMENTAL" {
            shell.env_remove(name);
        }
    }
    let output = shell
        .args(["-c", command])
        .current_dir(stage.path("."))
        .envs(&stage.variables)
        .envs(environment.iter().copied())
        .output()
        .expect("sh runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "RUN {command}\n{text}");
    text
}

fn copy(text: &str, stage: &Stage, earlier: &[Stage], context: &Path, files: &[PathBuf]) {
    let mut from = None;
    let mut owner = None;
    let mut paths = Vec::new();
    for word in text.split_whitespace() {
        match word.split_once('=') {
            Some(("--from", name)) => from = Some(name),
            Some(("--chown", name)) => owner = Some(name),
            _ if word.starts_with("--") => panic!("COPY {word} cannot be carried out here"),
            _ => paths.push(word),
        }
    }
    let to = paths.pop().expect("COPY has a target");
    assert!(
        paths.len() == 1 || to.ends_with('/'),
        "COPY {text}: a target of many ends with a slash"
    );
    for path in paths {
        assert!(!path.contains('*'), "COPY {text}: no patterns here");
        let (source, taken): (PathBuf, Vec<PathBuf>) = match from {
            Some(name) => {
                let stage = earlier.iter().find(|stage| stage.name == name);
                let source = stage.expect("a stage before this one").path(path);
                (source.clone(), all_below(&source))
            }
            None => (
                context.join(path),
                files
                    .iter()
                    .map(|file| context.join(file))
                    .filter(|file| file.starts_with(context.join(path)))
                    .collect(),
            ),
        };
        let source = source.components().collect::<PathBuf>();
        assert!(
            source.exists() && (source.is_dir() || !taken.is_empty()),
            "COPY {text}: {path} is not there, or .dockerignore leaves it out"
        );
        let target = stage.path(to);
        if source.is_dir() {
            fs::create_dir_all(&target).expect("the folder can be made");
            set_owner(&target, owner);
        }
        for file in taken {
            let inside = file.strip_prefix(&source).expect("it is below the source");
            let target = match (source.is_dir(), to.ends_with('/')) {
                (true, _) => target.join(inside),
                (false, true) => target.join(file.file_name().expect("a file has a name")),
                (false, false) => target.clone(),
            };
            copy_file(&file, &target);
            set_owner(&target, owner);
        }
    }
}

/// With its time and its mode.
fn copy_file(from: &Path, to: &Path) {
    let work = || {
        fs::create_dir_all(to.parent().expect("a file is in a folder"))?;
        fs::copy(from, to)?;
        let modified = fs::metadata(from)?.modified()?;
        File::options().write(true).open(to)?.set_modified(modified)
    };
    work().unwrap_or_else(|error| panic!("{} to {}: {error}", from.display(), to.display()));
}

fn set_owner(path: &Path, owner: Option<&str>) {
    let Some((user, group)) = owner.and_then(|owner| owner.split_once(':')) else {
        return;
    };
    let number = |text: &str| text.parse::<u32>().expect("owners are numbers");
    // Nobody else may give files away.
    if Uid::effective().is_root() {
        let done = chown(path, Some(number(user)), Some(number(group)));
        done.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn all_below(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("the folder can be read");
    entries
        .flat_map(|entry| all_below(&entry.expect("the folder can be read").path()))
        .collect()
}

/// What `.dockerignore` leaves of a folder, relative to it.
pub fn context_files(context: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(context.join(".dockerignore")).expect("there is a .dockerignore");
    let patterns: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.strip_prefix('!') {
            Some(pattern) => (pattern, false),
            None => (line, true),
        })
        .map(|(pattern, leaves_out)| (pattern.trim_matches('/'), leaves_out))
        .collect();
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(context.join(&folder)).expect("the folder can be read");
        for entry in entries {
            let entry = entry.expect("the folder can be read");
            let path = folder.join(entry.file_name());
            let is_folder = entry.file_type().expect("it has a type").is_dir();
            let left_out = is_left_out(&path, &patterns);
            let holds_an_exception = || {
                patterns
                    .iter()
                    .any(|(pattern, leaves_out)| !leaves_out && Path::new(pattern).starts_with(&path))
            };
            match is_folder {
                true if !left_out || holds_an_exception() => folders.push(path),
                false if !left_out => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// The last pattern that fits the path, or a folder above it, says.
fn is_left_out(path: &Path, patterns: &[(&str, bool)]) -> bool {
    let fits = |pattern: &str| {
        let pattern: Vec<_> = pattern.split('/').collect();
        path.ancestors().any(|path| {
            let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
            !names.is_empty() && is_match(&pattern, &names.iter().map(AsRef::as_ref).collect::<Vec<_>>())
        })
    };
    let last = patterns.iter().rev().find(|(pattern, _)| fits(pattern));
    last.is_some_and(|(_, leaves_out)| *leaves_out)
}

fn is_match(pattern: &[&str], names: &[&str]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=names.len()).any(|skipped| is_match(rest, &names[skipped..])),
        ([part, pattern @ ..], [name, names @ ..]) => is_name(part, name) && is_match(pattern, names),
        _ => false,
    }
}

/// `*` stands for any part of a name.
fn is_name(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((begin, rest)) => name.strip_prefix(begin).is_some_and(|left| {
            (0..=left.len()).any(|at| left.is_char_boundary(at) && is_name(rest, &left[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    fn file(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it takes folders");
        fs::write(path, text).expect("it takes files");
    }

    fn files_below(root: &Path) -> Vec<String> {
        let mut files: Vec<_> = all_below(root)
            .iter()
            .map(|path| path.strip_prefix(root).expect("below").display().to_string())
            .collect();
        files.sort();
        files
    }

    #[test]
    fn the_context_is_what_the_ignore_file_leaves() {
        let context = tempdir().expect("a folder");
        let ignored = "# a comment\ntarget\n*.md\n**/node_modules\ntests/*\n!tests/Cargo.toml\n";
        file(context.path(), ".dockerignore", ignored);
        for path in [
            "README.md",
            "api/README.md",
            "api/src/lib.rs",
            "api/target.rs",
            "target/debug/a",
            "a/node_modules/b/c",
            "tests/Cargo.toml",
            "tests/src/lib.rs",
            "tests/Cargo.toml.d/x",
        ] {
            file(context.path(), path, "");
        }
        let left: Vec<_> = context_files(context.path())
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(
            left,
            [
                ".dockerignore",
                "api/README.md",
                "api/src/lib.rs",
                "api/target.rs",
                "tests/Cargo.toml"
            ]
        );
    }

    #[test]
    fn steps_are_carried_out_and_the_last_stage_is_what_is_left() {
        let (context, scratch) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        file(context.path(), ".dockerignore", "secret\n");
        file(context.path(), "one", "1");
        file(context.path(), "folder/two", "2");
        file(context.path(), "secret", "3");
        let dockerfile = "FROM big AS build\nARG WHAT=nothing\n# a comment\nWORKDIR /src\nCOPY one folder/two parts/\n\
            COPY . .\nRUN cat parts/one \\\n  # between\n  parts/two && echo \"$WHAT\" >made && test ! -e secret\n\
            FROM small\nENV NAME=value\nCOPY --from=build /src/made /bin/made\nCOPY --from=build /src/folder /data\n\
            USER 7:7\nWORKDIR /home\nHEALTHCHECK --interval=1s CMD [\"made\", \"ill\"]\nENTRYPOINT [\"made\"]\n";
        let image = build(context.path(), dockerfile, scratch.path(), &[("WHAT", "it")], &[]);
        assert_eq!(files_below(&image.root), ["bin/made", "data/two"]);
        assert_eq!(
            fs::read_to_string(image.root.join("bin/made")).expect("made"),
            "it\n"
        );
        assert_eq!(image.outputs, ["12"]);
        assert_eq!((image.folder.as_str(), image.user.as_str()), ("/home", "7:7"));
        assert_eq!(image.environment["NAME"], "value");
        assert_eq!(
            (image.healthcheck, image.entrypoint),
            (vec!["made".into(), "ill".into()], vec!["made".into()])
        );
    }

    #[test]
    #[should_panic(expected = "is not there, or .dockerignore leaves it out")]
    fn a_file_that_is_left_out_cannot_be_copied() {
        let (context, scratch) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        file(context.path(), ".dockerignore", "one\n");
        file(context.path(), "one", "1");
        build(context.path(), "FROM x\nCOPY one two\n", scratch.path(), &[], &[]);
    }

    #[test]
    #[should_panic(expected = "a step that cannot be carried out here")]
    fn a_step_that_would_touch_this_machine_is_refused() {
        let (context, scratch) = (tempdir().expect("a folder"), tempdir().expect("a folder"));
        file(context.path(), ".dockerignore", "");
        build(
            context.path(),
            "FROM x\nRUN echo x >/etc/x\n",
            scratch.path(),
            &[],
            &[],
        );
    }
}
