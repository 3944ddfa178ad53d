//! The documents say what is: every option, code, command, link and path in them exists, and every option and code
//! stands in them. What an operator copies for backup and restore is run by the tests of `restore`.
//!
//! A new option needs a row in the tables of `docs/operations.md`, a new code one in those of `docs/limits.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use chat_api::{
    cli::{self, Cli},
    config::{Config, Options},
    problem::Code,
};
use chat_domain::cursor::ResetReason;
use chat_tests::markdown::{Document, value};
use clap::{Arg, Args, Command, Parser, error::ErrorKind};

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// README and docs, by their paths from the top.
fn documents() -> BTreeMap<PathBuf, Document> {
    let docs = fs::read_dir(top().join("docs")).unwrap();
    let docs = docs.map(|entry| PathBuf::from("docs").join(entry.unwrap().file_name()));
    docs.chain(["README.md".into()])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.clone(), Document::read(&top().join(path))))
        .collect()
}

fn document(path: &str) -> Document {
    Document::read(&top().join(path))
}

fn options() -> Command {
    Options::augment_args(Command::new("chat-system"))
}

/// Those that are for operators, by their variables.
fn arguments(command: &Command) -> BTreeMap<String, &Arg> {
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let named = shown.filter_map(|argument| Some((argument.get_env()?.to_str()?.to_owned(), argument)));
    named.collect()
}

/// As the table is to have it: the option's own, what its help says, or none.
fn default_of(argument: &Arg) -> String {
    let own = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_str().unwrap());
    let own = own.collect::<Vec<_>>().join(",");
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let told = help
        .split_once("[default: ")
        .and_then(|(_, rest)| rest.split_once(']'));
    match (own.is_empty(), told) {
        (false, _) => own,
        (true, Some((told, _))) => told.to_owned(),
        (true, None) => "none".to_owned(),
    }
}

/// The bounds of a number, as the program itself says them to whoever gives one that is too large.
fn bounds_of(argument: &Arg) -> Option<String> {
    const NUMBERS: [&str; 4] = ["COUNT", "BYTES", "SECONDS", "MILLISECONDS"];
    let kind = argument.get_value_names()?.first()?.as_str();
    NUMBERS.contains(&kind).then(|| {
        let flag = argument.get_long().unwrap();
        let too_large = format!("--{flag}={}", u32::MAX);
        let refusal = match Cli::try_parse_from(["chat-system", &too_large]) {
            Ok(cli) => Config::try_from(cli.options).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let bounds = refusal.split_once("is not within ").unwrap_or_else(|| {
            panic!("{too_large} is refused without its bounds: {refusal}");
        });
        bounds.1.trim().to_owned()
    })
}

#[test]
fn the_table_of_options_has_each_with_its_flag_its_default_and_its_bounds() {
    let head = ["variable", "flag", "default", "bounds", "meaning"];
    let operations = document("docs/operations.md");
    let command = options();
    let real = arguments(&command);
    let mut documented = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in operations.tables_with(&head).iter().flat_map(|table| &table.rows) {
        let variable = value(&row[0]);
        if !documented.insert(variable.to_owned()) {
            wrong.push(format!("{variable} stands there twice"));
        }
        let Some(argument) = real.get(variable) else {
            wrong.push(format!("{variable} is no option: take its row out"));
            continue;
        };
        let flag = format!("--{}", argument.get_long().unwrap());
        let (default, bounds) = (default_of(argument), bounds_of(argument).unwrap_or_default());
        for (what, told, real) in [
            ("flag", value(&row[1]), flag),
            ("default", value(&row[2]), default),
            ("bounds", &row[3], bounds),
        ] {
            if told != real {
                wrong.push(format!(
                    "{variable}: its {what} is {real:?}, and the table says {told:?}"
                ));
            }
        }
        if row[4].is_empty() {
            wrong.push(format!("{variable} has no meaning"));
        }
    }
    for (variable, argument) in &real {
        if !documented.contains(variable) {
            let (default, bounds) = (default_of(argument), bounds_of(argument).unwrap_or_default());
            let flag = argument.get_long().unwrap();
            wrong.push(format!(
                "{variable} is missing; its row: | `{variable}` | `--{flag}` | `{default}` | {bounds} | … |"
            ));
        }
    }
    assert!(
        real.len() > 30 && wrong.is_empty(),
        "docs/operations.md, Configuration:\n{}",
        wrong.join("\n")
    );
}

/// The words of a text that begin like our variables.
fn variables(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    words
        .filter(|word| word.starts_with("CHAT_") && !word.ends_with('_'))
        .collect()
}

#[test]
fn every_variable_that_is_named_anywhere_is_an_option() {
    let command = options();
    let real = arguments(&command);
    let mut files: Vec<_> = documents().into_keys().collect();
    for folder in ["docker", "docker/grafana", "docker/prometheus"] {
        let shipped = fs::read_dir(top().join(folder)).unwrap().map(Result::unwrap);
        let shipped = shipped.filter(|entry| entry.file_type().unwrap().is_file());
        files.extend(shipped.map(|entry| Path::new(folder).join(entry.file_name())));
    }
    for path in files.iter().filter(|path| !path.ends_with(".env")) {
        let text = fs::read_to_string(top().join(path)).unwrap();
        for variable in variables(&text) {
            assert!(
                real.contains_key(variable),
                "{}: {variable} is no option",
                path.display()
            );
        }
    }
}

/// Rows by the code in their first cell.
fn rows(document: &Document, head: &[&str]) -> BTreeMap<String, Vec<String>> {
    let [table] = document.tables_with(head)[..] else {
        panic!("one table with the head {head:?}")
    };
    let rows: BTreeMap<_, _> = table
        .rows
        .iter()
        .map(|row| (value(&row[0]).to_owned(), row.clone()))
        .collect();
    assert_eq!(rows.len(), table.rows.len(), "{head:?}: a row stands there twice");
    rows
}

fn same(what: &str, told: impl IntoIterator<Item = String>, real: impl IntoIterator<Item = &'static str>) {
    let told: BTreeSet<_> = told.into_iter().collect();
    let real: BTreeSet<_> = real.into_iter().map(str::to_owned).collect();
    let missing: Vec<_> = real.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&real).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "docs/limits.md, {what}: missing are {missing:?}, and there are no {unknown:?}"
    );
}

#[test]
fn the_tables_of_codes_have_each_with_its_status() {
    let limits = document("docs/limits.md");
    let codes = rows(
        &limits,
        &[
            "code",
            "status",
            "again after",
            "where",
            "meaning",
            "what the client does",
        ],
    );
    same(
        "Codes",
        codes.keys().cloned(),
        Code::ALL.iter().map(|code| code.as_str()),
    );
    for code in Code::ALL {
        let row = &codes[code.as_str()];
        assert_eq!(row[1], code.status().as_u16().to_string(), "{code:?}");
        let again = code
            .retry_after()
            .map(|seconds| seconds.to_string())
            .unwrap_or_default();
        assert_eq!(row[2], again, "{code:?}: again after");
        assert!(row[3..].iter().all(|cell| !cell.is_empty()), "{code:?}: {row:?}");
    }
    let closing = rows(&limits, &["code", "when", "what else the client does"]);
    same(
        "Codes of closing",
        closing.into_keys(),
        Code::CLOSING.iter().map(|code| code.as_str()),
    );
    let reasons = rows(&limits, &["reason", "meaning"]);
    same(
        "Reasons of reset",
        reasons.into_keys(),
        ResetReason::ALL.iter().map(|reason| reason.as_str()),
    );
}

#[test]
fn every_code_that_is_named_anywhere_exists() {
    // Cells of refusals, and what stands after a status: `503` `overloaded`.
    let statuses: BTreeSet<_> = Code::ALL
        .iter()
        .map(|code| code.status().as_u16().to_string())
        .collect();
    let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let mut found = 0;
    for (path, document) in documents() {
        for pair in document
            .code()
            .windows(2)
            .filter(|pair| statuses.contains(pair[0]))
        {
            let is_name = pair[1].contains('_')
                && pair[1]
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(
                !is_name || names.contains(pair[1]),
                "{}: {pair:?} is no code",
                path.display()
            );
            found += usize::from(is_name);
        }
        let refusals = document.tables.iter().map(|(_, table)| table);
        for table in refusals.filter(|table| {
            table
                .head
                .last()
                .is_some_and(|head| head == "refusal" || head == "when it is reached")
        }) {
            for cell in table.rows.iter().filter_map(|row| row.last()) {
                let codes = cell
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .filter(|code| code.contains('_') && !code.starts_with("CHAT_"));
                for code in codes {
                    assert!(names.contains(code), "{}: {code:?} is no code", path.display());
                    found += 1;
                }
            }
        }
    }
    assert!(found > 20, "only {found} were looked at");
}

/// The commands of ours in a line of a shell, without variables before them and what is done with their output.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" # ").next().unwrap_or_default();
    let parts = line.split(['|', ';', '&', '(', ')']);
    let words = parts.map(|part| {
        let words = part.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
        let words = words.skip_while(|word| word.contains('=') && !word.starts_with('-'));
        words
            .take_while(|word| !word.starts_with(['>', '<']))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words
        .filter(|words| {
            words
                .first()
                .is_some_and(|word| word.rsplit('/').next() == Some("chat-system"))
        })
        .collect()
}

#[test]
fn every_command_exists_with_its_flags() {
    let mut tried = BTreeSet::new();
    for (path, document) in documents() {
        let blocks = document
            .blocks
            .iter()
            .filter(|block| ["sh", "bash"].contains(&block.language.as_str()));
        let text: Vec<_> = blocks.map(|block| block.text.replace("\\\n", " ")).collect();
        let in_blocks = text.iter().flat_map(|text| text.lines()).map(|line| (line, true));
        // In a sentence a command may stand without what it needs.
        for (line, is_whole) in in_blocks.chain(document.code().into_iter().map(|code| (code, false))) {
            for words in commands(line) {
                let known = Cli::try_parse_from(&words);
                let fine = match known.as_ref().map_err(clap::Error::kind) {
                    Ok(_) | Err(ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => true,
                    Err(ErrorKind::MissingRequiredArgument) => !is_whole,
                    Err(_) => false,
                };
                assert!(
                    fine,
                    "{}: {}: {}",
                    path.display(),
                    words.join(" "),
                    known.err().unwrap()
                );
                tried.insert(words[1..].join(" "));
            }
        }
    }
    for command in [
        "verify",
        "rebuild",
        "epoch new",
        "migrate up",
        "healthcheck",
        "--help",
    ] {
        assert!(tried.contains(command), "{command} is not among {tried:?}");
    }
    // And one that does not exist is refused.
    assert!(cli::parse(["chat-system", "migrate", "sideways"].map(OsString::from)).is_err());
}

#[test]
fn every_command_of_the_program_is_documented() {
    let all = documents();
    let code: String = all
        .values()
        .flat_map(|document| document.code())
        .map(|code| format!("{code}\n"))
        .collect();
    let program = <Cli as clap::CommandFactory>::command();
    for command in program.get_subcommands() {
        assert!(
            code.contains(&format!("chat-system {}", command.get_name())),
            "{} is not",
            command.get_name()
        );
    }
}

#[test]
fn every_link_leads_somewhere() {
    let documents = documents();
    let mut followed = 0;
    for (path, document) in &documents {
        for link in document.links() {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            followed += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => normal(&path.parent().unwrap().join(file)),
            };
            assert!(
                top().join(&target).exists(),
                "{}: {link} leads nowhere",
                path.display()
            );
            if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let other = Document::read(&top().join(&target));
                assert!(
                    other.anchors().iter().any(|name| name == anchor),
                    "{}: {link}: no such heading",
                    path.display()
                );
            }
        }
    }
    assert!(followed > 30, "only {followed}");
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => assert!(normal.pop(), "{} leads out", path.display()),
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn what_cargo_builds_is_found_wherever_it_builds() {
    let cargo_s = tempfile::tempdir().unwrap();
    fs::write(
        cargo_s.path().join("config.toml"),
        "[build]\ntarget-dir = \"/somewhere/else\"\n",
    )
    .unwrap();
    let home = cargo_s.path().to_str().unwrap();
    let folder = |variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(top().join("tests/target-folder"));
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
            command.env_remove(name);
        }
        let output = command.envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    let usual = fs::canonicalize(top()).unwrap().join("target");
    assert_eq!(Path::new(&folder(&[])), usual);
    assert_eq!(folder(&[("CARGO_TARGET_DIR", "/somewhere")]), "/somewhere");
    assert_eq!(folder(&[("CARGO_HOME", home)]), "/somewhere/else");
    assert_eq!(
        folder(&[("CARGO_HOME", home), ("CARGO_TARGET_DIR", "/somewhere")]),
        "/somewhere"
    );
    // And nobody looks for it in one place only.
    for file in ["Makefile", "tests/run", "frontend/test"] {
        let text = fs::read_to_string(top().join(file)).unwrap();
        for built in ["target/debug", "target/release"] {
            let mut places = text.match_indices(built);
            assert!(places.all(|(at, _)| text[..at].ends_with('$')), "{file}: {built}");
        }
        assert!(text.contains("tests/target-folder"), "{file}");
    }
}

#[test]
fn every_path_of_the_repository_that_is_named_exists() {
    let folders: Vec<_> = fs::read_dir(top())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        // What is not there before something ran.
        .filter(|name| !["target", "data"].contains(&name.as_str()))
        .collect();
    let mut found = 0;
    for (path, document) in documents() {
        for code in document.code() {
            let is_path = !code.contains([' ', '{', '*', '…'])
                && code
                    .split_once('/')
                    .is_some_and(|(first, _)| folders.iter().any(|name| name == first));
            if is_path {
                found += 1;
                assert!(
                    top().join(code).exists(),
                    "{}: {code} is not there",
                    path.display()
                );
            }
        }
    }
    assert!(found > 1, "only {found}");
}
