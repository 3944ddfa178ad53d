//! What is shipped beside the program: the image, and the compose file with MySQL, two nodes and nginx.
//!
//! There is no Docker here. Each step of the image is carried out in a folder ([`chat_tests::image`]), in the profile
//! `dev` and with the dependencies that the tests have built, as a release build takes minutes; `IMAGE_PROFILE=release`
//! does it as Docker would. The compose file is read by `docker-compose`, and what it says is done: MySQL is started
//! with its settings, the user is made by its script, a node runs with its environment.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use chat_api::config::{Options, Variables};
use chat_tests::{
    Client, DatabaseServer, Kind, Server, databases, eventually, free_port,
    guard::{Process, temporary_folder},
    image::{self, Image, Instruction},
    server,
};
use clap::{Args, Command as Clap};
use nix::{sys::signal::Signal, unistd::Uid};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A program that `tests/prepare` installs.
fn tool(name: &str) -> Command {
    let path = top().join("tests/clients/.venv/bin").join(name);
    assert!(path.exists(), "{} is missing: run tests/prepare", path.display());
    Command::new(path)
}

// The image.

#[test]
fn hadolint_has_nothing_to_say() {
    let output = tool("hadolint")
        .arg(top().join("docker/Dockerfile"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    for line in read("docker/Dockerfile").lines() {
        assert!(
            !line.contains("hadolint ignore"),
            "without a reason that is checked here: {line}"
        );
    }
    // It does say what is wrong where something is.
    let folder = temporary_folder("hadolint");
    let wrong = folder.path().join("Dockerfile");
    fs::write(
        &wrong,
        "FROM debian:latest\nRUN cd /tmp && apt-get install curl\n",
    )
    .unwrap();
    let output = tool("hadolint").arg(&wrong).output().unwrap();
    assert!(
        !output.status.success() && text(&output).contains("DL3007"),
        "{}",
        text(&output)
    );
}

/// The folder that this test was built in.
fn target() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

fn build_image() -> Image {
    let profile = env::var("IMAGE_PROFILE").unwrap_or_else(|_| "dev".into());
    let target = target();
    // One folder, so that a run finds what the last one has built of the same sources.
    image::build(
        top(),
        &read("docker/Dockerfile"),
        &target.join("image"),
        &[("PROFILE", &profile)],
        &[
            ("CARGO_BUILD_BUILD_DIR", target.to_str().unwrap()),
            // All that is needed is here, as this test is.
            ("CARGO_NET_OFFLINE", "true"),
        ],
    )
}

/// The crates that a step has compiled.
fn compiled(output: &str) -> Vec<&str> {
    let lines = output
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Compiling "));
    lines.map(|line| line.split(' ').next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_is_the_server_alone_and_runs_as_a_user_without_rights() {
    let image = tokio::task::spawn_blocking(build_image).await.unwrap();

    // The last step builds on the layer of the one before: it compiles our crates, each of them, and nothing else.
    let [_, _, last] = &image.outputs[..] else {
        panic!("three steps: the chat page, the dependencies, and the server")
    };
    let mut ours = compiled(last);
    ours.sort();
    assert_eq!(
        ours,
        ["chat-api", "chat-domain", "chat-infrastructure", "chat-migration"]
    );

    // Nothing but the program is in it. For the table of its size: --nocapture.
    let files = Command::new("find")
        .arg(&image.root)
        .args(["-type", "f", "-printf", "%s /%P\n"])
        .output();
    let files = text(&files.unwrap());
    println!("{files}");
    let names: Vec<_> = files
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(names, ["/usr/local/bin/chat-system"]);

    // The base has the C library and GCC's, and no others.
    let program = image.root.join("usr/local/bin/chat-system");
    let needed = text(&Command::new("ldd").arg(&program).output().unwrap());
    for line in needed.lines() {
        let name = line.split_whitespace().next().unwrap();
        let name = name.rsplit('/').next().unwrap();
        let known = ["linux-vdso.so.1", "libc.so.6", "libm.so.6", "libgcc_s.so.1"];
        assert!(known.contains(&name) || name.starts_with("ld-linux"), "{needed}");
    }

    let container = Container::of(&image);
    let port = free_port().to_string();
    let listen = format!("0.0.0.0:{port}");
    assert_eq!(image.environment["CHAT_LISTEN"], "0.0.0.0:3000");
    let secret = "0123456789abcdef0123456789abcdef";
    let settings = [("CHAT_LISTEN", listen.as_str()), ("CHAT_JWT_SECRET", secret)];

    let version = container.run(&["chat-system", "--version"], &[]);
    assert!(text(&version).starts_with("chat-system "), "{}", text(&version));
    // Without a key it does not serve the world.
    let refused = container.run(&["chat-system"], &[]);
    assert!(
        text(&refused).contains("CHAT_LISTEN: 0.0.0.0:3000 can be reached from elsewhere"),
        "{}",
        text(&refused)
    );

    let healthcheck: Vec<_> = image.healthcheck.iter().map(String::as_str).collect();
    let away = container.run(&healthcheck, &settings[..1]);
    assert_eq!(
        (away.status.code(), text(&away).contains("does not answer")),
        (Some(1), true),
        "{}",
        text(&away)
    );

    let entrypoint: Vec<_> = image.entrypoint.iter().map(String::as_str).collect();
    let mut server = container.start(&entrypoint, &settings).await;
    eventually("the health check is content", LIMIT, || async {
        container.run(&healthcheck, &settings[..1]).status.success()
    })
    .await;
    if Uid::effective().is_root() {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(field("Uid:"), "65532 65532 65532 65532");
        assert_eq!(field("Gid:"), "65532 65532 65532 65532");
        assert_eq!(field("CapEff:"), "0000000000000000");
    }
    let claims = json!({"sub": "alice", "exp": server::now() + 3600});
    let token = server::token_with(secret, &claims);
    let alice = Client::new(&format!("http://127.0.0.1:{port}"), &token);
    assert_eq!(alice.send("bob", "hi", None).await.unwrap()["seq"], 1);
    let page = alice.get("/").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("content=\"sign-in=token; content-limit="), "{page}");
    // Its file is where a volume is mounted.
    let database = container.folder().join("data/chat.db");
    assert!(database.exists(), "{}", database.display());
    if Uid::effective().is_root() {
        assert_eq!(fs::metadata(&database).unwrap().uid(), 65532);
    }

    // One that hangs is not healthy, and a stop is a clean one.
    server.signal(Signal::SIGSTOP);
    let hangs = container.run(&healthcheck, &settings[..1]);
    assert_eq!(hangs.status.code(), Some(1), "{}", text(&hangs));
    server.signal(Signal::SIGCONT);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait(LIMIT).await, 0);
}

/// A copy of an image where its user may go, and programs in it with the rights of that user.
struct Container {
    place: tempfile::TempDir,
    inside: String,
    environment: BTreeMap<String, String>,
    user: String,
}

impl Container {
    fn of(image: &Image) -> Container {
        let place = temporary_folder("image");
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open(place.path(), 0o755);
        // The folder of this test process can be gone through, and not be listed.
        open(place.path().parent().unwrap(), 0o711);
        let copied = Command::new("cp")
            .args(["-a", "--no-target-directory"])
            .args([&image.root, place.path()])
            .output();
        let copied = copied.unwrap();
        assert!(copied.status.success(), "{}", text(&copied));
        Container {
            place,
            inside: image.folder.clone(),
            environment: image.environment.clone(),
            user: image.user.clone(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.place.path().join(self.inside.trim_start_matches('/'))
    }

    /// A program by its name, as the PATH of an image finds it, and what goes before it.
    fn words(&self, command: &[&str]) -> Vec<String> {
        let program = self.place.path().join("usr/local/bin").join(command[0]);
        let mut words = Vec::new();
        if Uid::effective().is_root() {
            let (user, group) = self.user.split_once(':').expect("USER has both");
            words = vec![
                "setpriv".into(),
                format!("--reuid={user}"),
                format!("--regid={group}"),
                "--clear-groups".into(),
                "--no-new-privs".into(),
                "--bounding-set=-all".into(),
                "--inh-caps=-all".into(),
            ];
        }
        words.push(program.display().to_string());
        words.extend(command[1..].iter().map(ToString::to_string));
        words
    }

    fn run(&self, command: &[&str], settings: &[(&str, &str)]) -> Output {
        let words = self.words(command);
        Command::new(&words[0])
            .args(&words[1..])
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", env::var("PATH").unwrap())
            .envs(&self.environment)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    async fn start(&self, command: &[&str], settings: &[(&str, &str)]) -> Process {
        let words = self.words(command);
        let folder = self.folder();
        Process::start(Path::new(&words[0]), |command| {
            // The guard's own folder must stay reachable for it, and is, by its whole path.
            command.args(&words[1..]).current_dir(folder);
            command.envs(&self.environment).envs(settings.iter().copied());
        })
        .await
    }
}

// The compose file.

const SECRETS: [(&str, &str); 3] = [
    ("CHAT_JWT_SECRET", "SentinelOfTokens0123456789abcdefgh"),
    ("MYSQL_CHAT_PASSWORD", "SentinelOfTheNodes"),
    ("MYSQL_ROOT_PASSWORD", "SentinelOfRoot"),
];

fn docker_compose(variables: &[(&str, &str)]) -> Output {
    // An .env of whoever runs the tests is none of ours.
    let folder = temporary_folder("env");
    let empty = folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    Command::new("docker-compose")
        .arg("--file")
        .arg(top().join("docker/compose.yml"))
        .arg("--env-file")
        .arg(&empty)
        .arg("config")
        .env_clear()
        .env("PATH", env::var("PATH").unwrap())
        .envs(variables.iter().copied())
        .output()
        .expect("docker-compose is needed: run tests/prepare")
}

/// YAML as JSON.
fn parsed(yaml: &str) -> Value {
    let folder = temporary_folder("yaml");
    let path = folder.path().join("file.yml");
    fs::write(&path, yaml).unwrap();
    let program = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = tool("python").args(["-c", program]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// As docker-compose understands it, with all secrets.
fn compose() -> Value {
    let output = docker_compose(&SECRETS);
    assert!(output.status.success(), "{}", text(&output));
    parsed(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn without_a_secret_the_compose_file_says_which_one_it_wants() {
    let file = read("docker/compose.yml");
    for (name, _) in SECRETS {
        let begin = format!("${{{name}:?");
        let message = file.split_once(&begin).unwrap().1.split_once('}').unwrap().0;
        for missing in [None, Some((name, ""))] {
            let given: Vec<_> = SECRETS
                .into_iter()
                .filter(|(other, _)| *other != name)
                .chain(missing)
                .collect();
            let output = docker_compose(&given);
            assert!(
                !output.status.success() && text(&output).contains(message),
                "{name} {missing:?}: {}",
                text(&output)
            );
        }
    }
}

/// All texts of a document, with the key that each stands under.
fn texts(value: &Value, key: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| texts(value, key, found)),
        Value::Array(values) => values.iter().for_each(|value| texts(value, key, found)),
        Value::String(text) => found.push((key.to_owned(), text.clone())),
        _ => {}
    }
}

#[test]
fn no_secret_stands_in_the_files() {
    let mut found = Vec::new();
    texts(&parsed(&read("docker/compose.yml")), "", &mut found);
    let asked_for = |text: &str| text.starts_with("${") && text.contains(":?") && text.ends_with('}');
    for (key, text) in &found {
        let is_secret = ["SECRET", "PASSWORD", "TOKEN", "KEY"]
            .iter()
            .any(|word| key.contains(word));
        assert!(!is_secret || asked_for(text), "{key}: {text}");
        if let Some((_, rest)) = text.split_once("://")
            && let Some((login, _)) = rest.rsplit_once('@')
        {
            let (_, password) = login.split_once(':').expect("a user and a password");
            assert!(asked_for(password), "{key}: {text}");
        }
    }
    assert!(found.iter().any(|(key, _)| key == "CHAT_JWT_SECRET"), "{found:?}");

    // What is given goes where it belongs, and nowhere else.
    let mut found = Vec::new();
    texts(&compose(), "", &mut found);
    for (name, secret) in SECRETS {
        let mut keys: Vec<_> = found
            .iter()
            .filter(|(_, text)| text.contains(secret))
            .map(|(key, _)| key)
            .collect();
        keys.dedup();
        let expected = if name == "MYSQL_CHAT_PASSWORD" {
            vec!["CHAT_DATABASE_URL", name]
        } else {
            vec![name]
        };
        assert_eq!(keys, expected);
    }
    for Instruction { name, arguments } in image::instructions(&read("docker/Dockerfile")) {
        let is_secret = ["SECRET", "PASSWORD", "TOKEN", "KEY"]
            .iter()
            .any(|word| arguments.contains(word));
        assert!(
            !(["ENV", "ARG"].contains(&name.as_str()) && is_secret),
            "{name} {arguments}"
        );
    }
}

/// Seconds of `30s` or `1m30s`.
fn seconds(text: &str) -> u64 {
    let (minutes, rest) = text.split_once('m').unwrap_or(("0", text));
    let seconds = rest.trim_end_matches('s');
    let number = |text: &str| {
        if text.is_empty() {
            0
        } else {
            text.parse::<u64>().unwrap()
        }
    };
    number(minutes) * 60 + number(seconds)
}

#[test]
fn the_services_start_in_order_stop_in_peace_and_show_the_world_one_port() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let names: Vec<_> = services.keys().collect();
    assert_eq!(names, ["chat-1", "chat-2", "mysql", "nginx"]);
    for (name, service) in services {
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        let (image, tag) = service["image"]
            .as_str()
            .unwrap()
            .split_once(':')
            .unwrap_or(("chat-system", "ours"));
        assert!(
            image == "chat-system" || tag.starts_with(|c: char| c.is_ascii_digit()),
            "{name}: {image}:{tag}"
        );
        assert_eq!(
            service.get("ports").is_some(),
            name == "nginx",
            "{name} is published"
        );
        for (needed, how) in service
            .get("depends_on")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            assert_eq!(how["condition"], "service_healthy", "{name} on {needed}");
            // Ours has its check in the image.
            let has_one = !services[needed]["healthcheck"].is_null() || needed.starts_with("chat-");
            assert!(has_one, "{needed}");
        }
        for volume in service
            .get("volumes")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let file = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(
                !file.starts_with('/') || Path::new(file).exists(),
                "{name}: {file}"
            );
        }
    }
    assert_eq!(
        services["nginx"]["ports"],
        json!([{"published": 80, "target": 80}])
    );

    let options = Options::augment_args(Clap::new("chat-system"));
    let default = |variable: &str| {
        let argument = options
            .get_arguments()
            .find(|argument| argument.get_env() == Some(variable.as_ref()))?;
        argument
            .get_default_values()
            .first()?
            .to_str()?
            .parse::<u64>()
            .ok()
    };
    assert!(default("CHAT_SHUTDOWN_TIMEOUT_S").is_some());
    let nginx = read("docker/nginx.conf");
    for name in ["chat-1", "chat-2"] {
        let node = &services[name];
        let environment = node["environment"].as_object().unwrap();
        let names = environment.keys().map(|name| (name.into(), "".into()));
        assert_eq!(names.collect::<Variables>().unknown(), None);
        let limit = |variable| match environment.get(variable) {
            Some(value) => Some(value.as_str().unwrap().parse().unwrap()),
            None => default(variable),
        };
        // Two seconds more for what goes on after the last connection.
        let stops_in: u64 = ["CHAT_DRAIN_S", "CHAT_SHUTDOWN_TIMEOUT_S"]
            .into_iter()
            .filter_map(limit)
            .sum();
        let grace = seconds(node["stop_grace_period"].as_str().unwrap());
        assert!(grace >= stops_in + 2, "{name}: {grace} for {stops_in}");
        for kind in ["soft", "hard"] {
            assert!(node["ulimits"]["nofile"][kind].as_u64().unwrap() >= 65536);
        }
        assert_eq!(
            (&node["read_only"], &node["cap_drop"]),
            (&json!(true), &json!(["ALL"]))
        );
        assert_eq!(
            nginx.matches(&format!("server {name}:3000 max_fails=0;")).count(),
            2,
            "both upstreams have {name}"
        );
        // The proxy that is believed is this nginx, and the operator's listener is not behind it.
        let front = &services["nginx"]["networks"]["front"]["ipv4_address"];
        assert_eq!(&environment["CHAT_TRUSTED_PROXIES"], front);
        let (_, port) = environment["CHAT_ADMIN_LISTEN"]
            .as_str()
            .unwrap()
            .split_once(':')
            .unwrap();
        assert!(
            !nginx.contains(port),
            "nginx.conf names the operator's port {port}"
        );
    }
    assert_eq!(compose["networks"]["back"]["internal"], true);
    assert_eq!(
        services["mysql"]["networks"]
            .as_object()
            .unwrap()
            .keys()
            .collect::<Vec<_>>(),
        ["back"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_runs_with_the_environment_and_the_mysql_of_the_compose_file() {
    if databases::not_run(
        Kind::MySql,
        "a_node_runs_with_the_environment_and_the_mysql_of_the_compose_file",
    )
    .await
    {
        return;
    }
    let compose = compose();
    let mysql = &compose["services"]["mysql"];
    let arguments: Vec<_> = mysql["command"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect();
    let database = DatabaseServer::dedicated(Kind::MySql, &arguments).await;
    assert_eq!(mysql["environment"]["MYSQL_DATABASE"], "chat");
    database.execute("CREATE DATABASE chat").await;

    // As MySQL's image runs it, but for where the server is.
    let script = top().join("docker/mysql-user.sh");
    assert_eq!(
        fs::metadata(&script).unwrap().permissions().mode() & 0o111,
        0o111,
        "the image runs it as it is"
    );
    let make_user = |password: &str| {
        let path = format!(
            "{}:{}",
            database.program_folder().display(),
            env::var("PATH").unwrap()
        );
        Command::new(&script)
            .args(database.client_arguments())
            .env("PATH", path)
            .env("MYSQL_ROOT_PASSWORD", database.root_password())
            .env("MYSQL_CHAT_PASSWORD", password)
            .output()
            .unwrap()
    };
    let refused = make_user("it's");
    assert!(
        !refused.status.success() && text(&refused).contains("no quotes"),
        "{}",
        text(&refused)
    );
    let password = mysql["environment"]["MYSQL_CHAT_PASSWORD"].as_str().unwrap();
    let made = make_user(password);
    assert!(made.status.success(), "{}", text(&made));
    let grants = database.fresh().await;
    let rights = "SELECT GROUP_CONCAT(privilege_type ORDER BY 1 SEPARATOR ', ') \
                  FROM information_schema.schema_privileges WHERE grantee = '''chat''@''%'''";
    let mut expected: Vec<_> = databases::GRANTS.split(", ").collect();
    expected.sort();
    assert_eq!(grants.text(rights).await, expected.join(", "));

    // With the names of the compose file's network, which are this machine here.
    let node = &compose["services"]["chat-1"]["environment"];
    let url = node["CHAT_DATABASE_URL"].as_str().unwrap();
    let url = url.replace("@mysql:3306/", &format!("@127.0.0.1:{}/", database.port()));
    let admin = format!("127.0.0.1:{}", free_port());
    let mut settings: Vec<_> = node
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    settings.push(("CHAT_DATABASE_URL", &url));
    settings.push(("CHAT_ADMIN_LISTEN", &admin));
    let server = Server::start(&grants, &settings).await;
    let token = server::token_with(
        SECRETS[0].1,
        &json!({"sub": "alice", "exp": server::now() + 3600}),
    );
    let alice = Client::new(&server.url(), &token);
    assert_eq!(alice.send("bob", "hi", None).await.unwrap()["seq"], 1);
    let metrics = reqwest::get(format!("http://{admin}/metrics")).await.unwrap();
    assert!(metrics.text().await.unwrap().contains("chat_sends_total"));
    assert_eq!(server.run(&["verify"]).await.code, 0);
}
