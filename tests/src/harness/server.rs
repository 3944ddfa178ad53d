//! The server under test: the real binary, configured as in production, on a free port of 127.0.0.1.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    client::Client,
    databases::Database,
    guard::{Process, temporary_folder},
    wait::{eventually, free_port, random_name},
};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// A command on a million rows takes its time.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);

/// A server on a database. Dropped, it is killed; when the test fails, the end of its log is shown.
#[derive(Debug)]
pub struct Server {
    port: u16,
    settings: BTreeMap<String, String>,
    /// A program with its arguments that becomes the server; none where it is started by itself.
    under: Vec<String>,
    // Before the folder, so that the process is gone when the folder goes.
    process: Option<Process>,
    folder: TempDir,
}

/// What a command of the binary did.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Server {
    /// Starts the server and waits until it is ready. The settings are added to the harness's own and win over them:
    /// `("CHAT_DATABASE_URL", &proxy.url(&database))` puts a proxy in between.
    pub async fn start(database: &Database, settings: &[(&str, &str)]) -> Server {
        Server::spawn(database, settings).await.when_ready().await
    }

    /// As [`start`](Self::start), in a process that may have so many files open: `256`, or `100:400` for a soft limit
    /// and a hard one.
    pub async fn start_with_files(database: &Database, settings: &[(&str, &str)], files: &str) -> Server {
        Server::spawn_with_files(database, settings, files)
            .await
            .when_ready()
            .await
    }

    /// The same, without waiting for anything.
    pub async fn spawn_with_files(database: &Database, settings: &[(&str, &str)], files: &str) -> Server {
        let mut server = Server::new(all_settings(database, settings));
        server.under = vec!["prlimit".into(), format!("--nofile={files}")];
        server.respawn().await;
        server
    }

    /// As [`start`](Self::start), in a process that lives on where [`limit_files_to`](Self::limit_files_to) refuses a
    /// write, as on a disk that is full.
    pub async fn start_on_a_disk_that_may_be_full(database: &Database, settings: &[(&str, &str)]) -> Server {
        let mut server = Server::new(all_settings(database, settings));
        // What is ignored stays ignored in the program that it becomes.
        let ignore = "trap '' XFSZ; exec \"$@\"";
        server.under = ["bash", "-c", ignore, "bash"].map(String::from).to_vec();
        server.respawn().await;
        server.when_ready().await
    }

    /// As [`start`](Self::start), without a key: it signs tokens for anybody.
    pub async fn start_for_development(database: &Database, settings: &[(&str, &str)]) -> Server {
        let mut settings = all_settings(database, settings);
        settings.remove("CHAT_JWT_SECRET");
        let mut server = Server::new(settings);
        server.respawn().await;
        server.when_ready().await
    }

    async fn when_ready(mut self) -> Server {
        loop {
            self.ready_or_ended().await;
            if self.is_running() {
                return self;
            }
            assert!(
                self.log().contains("already in use"),
                "the server ended before it was ready"
            );
            self.port = free_port();
            self.respawn().await;
        }
    }

    fn new(settings: BTreeMap<String, String>) -> Server {
        Server {
            port: free_port(),
            settings,
            under: Vec::new(),
            process: None,
            folder: temporary_folder("server"),
        }
    }

    /// Starts the server without waiting for anything.
    pub async fn spawn(database: &Database, settings: &[(&str, &str)]) -> Server {
        let mut server = Server::new(all_settings(database, settings));
        server.respawn().await;
        server
    }

    /// Waits until it answers, ready or not.
    pub async fn listening(&self) {
        eventually("the server answers", READY_LIMIT, || async {
            self.client("nobody").get("/healthz").send().await.is_ok()
        })
        .await;
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&self) {
        self.ready_or_ended().await;
        assert!(self.is_running(), "the server ended before it was ready");
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// A token for a user, good for an hour, on every server of this test process.
    pub fn token(&self, user: &str) -> String {
        token(&json!({"sub": user, "exp": now() + 3600}))
    }

    /// A client that speaks for a user.
    pub fn client(&self, user: &str) -> Client {
        Client::new(&self.url(), &self.token(user))
    }

    /// What it has written to stderr so far, over all its starts.
    pub fn log(&self) -> String {
        read(&self.log_path())
    }

    /// A figure of `/proc/PID/status`, in kB: `VmRSS`, or `VmHWM` for the most that it ever was.
    pub fn memory(&self, name: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find(|line| line.starts_with(name));
        let figure = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        figure.expect("the kernel says how much memory it has")
    }

    /// How many of its connections have more than so many bytes in the kernel that their clients do not take.
    pub fn connections_with_untaken(&self, bytes: u64) -> usize {
        const ESTABLISHED: &str = "01";
        let here = format!(":{:04X}", self.port);
        let is_full = |line: &&str| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let [_, local, _, state, queues, ..] = columns[..] else {
                return false;
            };
            let sent = queues
                .split_once(':')
                .map(|(sent, _)| u64::from_str_radix(sent, 16));
            local.ends_with(&here)
                && state == ESTABLISHED
                && sent.is_some_and(|sent| sent.is_ok_and(|sent| sent > bytes))
        };
        read(Path::new("/proc/net/tcp")).lines().filter(is_full).count()
    }

    /// Runs a command of the binary with this server's settings, whether it runs or not.
    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        run_with(&self.settings, arguments).await
    }

    /// Whether the process is there; a frozen one is.
    pub fn is_running(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| Path::new(&format!("/proc/{}", process.pid())).exists())
    }

    /// SIGKILL, as when the machine was gone.
    pub async fn kill9(&mut self) {
        self.process.take().expect("the server runs").kill9().await;
    }

    /// SIGTERM; waits for the end and asserts that it was a clean one.
    pub async fn stop(&mut self) {
        self.running().signal(Signal::SIGTERM);
        assert_eq!(self.exit(STOP_LIMIT).await, 0, "the exit code after SIGTERM");
    }

    /// Waits until it ends by itself and gives the exit code.
    pub async fn exit(&mut self, limit: Duration) -> i32 {
        let code = self.process.as_mut().expect("the server runs").wait(limit).await;
        self.process = None;
        code
    }

    /// Sends a signal and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn sigstop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn sigcont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Starts it again with the same settings on the same port, after a SIGKILL if it still runs; waits until ready.
    pub async fn restart(&mut self) {
        self.respawn().await;
        self.ready().await;
    }

    /// As [`restart`](Self::restart), without waiting.
    pub async fn respawn(&mut self) {
        self.process = None;
        let process = start(&self.settings, self.folder.path(), &self.under, |command| {
            command
                .env("CHAT_LISTEN", format!("127.0.0.1:{}", self.port))
                .stderr(append(&self.log_path()));
        });
        self.process = Some(process.await);
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.into(), value.into());
    }

    async fn ready_or_ended(&self) {
        eventually("the server is ready", READY_LIMIT, || async {
            self.is_ready().await || !self.is_running()
        })
        .await;
    }

    /// Whether `/readyz` says 200.
    pub async fn is_ready(&self) -> bool {
        let asking = self
            .client("nobody")
            .get("/readyz")
            .timeout(Duration::from_secs(5));
        asking.send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// How large a file may become that it writes, in bytes, from now on: a write past it fails.
    pub async fn limit_files_to(&self, bytes: Option<u64>) {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let done = tokio::process::Command::new("prlimit")
            .arg(format!("--pid={}", self.pid()))
            .arg(format!("--fsize={limit}:unlimited"))
            .status()
            .await;
        assert!(done.is_ok_and(|status| status.success()), "prlimit sets limits");
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("stderr")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(60);
            let tail: Vec<_> = log.lines().skip(from).collect();
            eprintln!(
                "--- the end of the log of the server on port {}:\n{}\n---",
                self.port,
                tail.join("\n")
            );
        }
    }
}

/// Runs a command of the binary, `["verify"]` say, on a database, and waits for its end.
pub async fn run(database: &Database, arguments: &[&str], settings: &[(&str, &str)]) -> Outcome {
    run_with(&all_settings(database, settings), arguments).await
}

/// Runs a command of the binary with these settings and with none of the harness's own.
pub async fn run_alone(arguments: &[&str], settings: &[(&str, &str)]) -> Outcome {
    run_with(&owned(settings).collect(), arguments).await
}

/// Starts a command of the binary on a database, for a test that does something while it runs.
pub async fn start_command(database: &Database, arguments: &[&str], settings: &[(&str, &str)]) -> Running {
    start_with(&all_settings(database, settings), arguments).await
}

async fn run_with(settings: &BTreeMap<String, String>, arguments: &[&str]) -> Outcome {
    start_with(settings, arguments).await.outcome(COMMAND_LIMIT).await
}

async fn start_with(settings: &BTreeMap<String, String>, arguments: &[&str]) -> Running {
    let folder = temporary_folder("command");
    let process = start(settings, folder.path(), &[], |command| {
        command
            .args(arguments)
            .stdout(append(&folder.path().join("stdout")))
            .stderr(append(&folder.path().join("stderr")));
    })
    .await;
    Running { process, folder }
}

/// A command of the binary that runs. Dropped, it is killed with SIGKILL, and is gone then.
#[derive(Debug)]
pub struct Running {
    // Before the folder, so that the process is gone when the folder goes.
    process: Process,
    folder: TempDir,
}

impl Running {
    /// Waits for its end.
    pub async fn outcome(mut self, limit: Duration) -> Outcome {
        let code = self.process.wait(limit).await;
        Outcome {
            code,
            stdout: read(&self.folder.path().join("stdout")),
            stderr: self.stderr(),
        }
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        read(&self.folder.path().join("stderr"))
    }

    /// Whether the process is there; a frozen one is.
    pub fn is_running(&self) -> bool {
        Path::new(&format!("/proc/{}", self.process.pid())).exists()
    }

    /// A figure of `/proc/PID/status`, in kB, as [`Server::memory`] gives it; `None` once it has ended.
    pub fn memory(&self, name: &str) -> Option<u64> {
        let status = read(Path::new(&format!("/proc/{}/status", self.process.pid())));
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Sends a signal and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

/// Signs a token with any claims, as the user-management service would.
pub fn token(claims: &Value) -> String {
    token_with(jwt_secret(), claims)
}

/// The same for a server that has another secret.
pub fn token_with(secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).expect("claims are JSON")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// One for all servers of this test process, so that tokens are good on each node.
pub fn jwt_secret() -> &'static str {
    static SECRET: OnceLock<String> = OnceLock::new();
    SECRET.get_or_init(|| random_name(48))
}

fn all_settings(database: &Database, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let ours = [
        ("CHAT_DATABASE_URL", database.url()),
        ("CHAT_JWT_SECRET", jwt_secret().into()),
        // Tests send, read and begin as fast as they can, and open what they like, as few users.
        ("CHAT_SENDS_PER_SECOND", "1000000".into()),
        ("CHAT_SENDS_BURST", "1000000".into()),
        ("CHAT_READS_PER_SECOND", "1000000".into()),
        ("CHAT_READS_BURST", "1000000".into()),
        ("CHAT_NEW_CONVERSATIONS_PER_HOUR", "1000000".into()),
        ("CHAT_CONNECTIONS_PER_USER", "100000".into()),
        // Nobody has to find out that they stop.
        ("CHAT_DRAIN_S", "0".into()),
    ];
    let ours = ours.into_iter().map(|(name, value)| (name.to_string(), value));
    let mut all: BTreeMap<_, _> = ours.chain(owned(settings)).collect();
    // Keys come from one place: whoever says where wants no other.
    let is_own = |(name, _): &(&str, &str)| OTHER_KEYS.contains(name);
    if settings.iter().any(is_own) && !settings.iter().any(|(name, _)| *name == "CHAT_JWT_SECRET") {
        all.remove("CHAT_JWT_SECRET");
    }
    all
}

const OTHER_KEYS: [&str; 4] = [
    "CHAT_JWT_PUBLIC_KEY",
    "CHAT_JWT_PUBLIC_KEY_FILE",
    "CHAT_JWKS_FILE",
    "CHAT_JWKS_URL",
];

fn owned(settings: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let settings = settings.iter();
    settings.map(|(name, value)| (name.to_string(), value.to_string()))
}

/// Starts the binary with these settings and with none of ours: a `CHAT_` variable that it does not know is an error.
async fn start(
    settings: &BTreeMap<String, String>,
    folder: &Path,
    under: &[String],
    prepare: impl FnOnce(&mut Command),
) -> Process {
    let binary = binary().await;
    let program = under.first().map_or(binary, Path::new);
    Process::start(program, |command| {
        if let [_, arguments @ ..] = under {
            command.args(arguments).arg(binary);
        }
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHAT_")) {
            command.env_remove(name);
        }
        command.envs(settings).current_dir(folder);
        prepare(command);
    })
    .await
}

/// The `chat-system` that `SERVER_BINARY` names, or else the one beside the test's own executable, brought up to date once
/// in each test process.
async fn binary() -> &'static Path {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY
        .get_or_init(|| async {
            if let Some(built) = env::var_os("SERVER_BINARY") {
                return built.into();
            }
            // target/PROFILE/deps/test-0123456789abcdef
            let test = env::current_exe().expect("a test knows where it is");
            let folder = test
                .ancestors()
                .nth(2)
                .expect("a test stands in target/PROFILE/deps");
            let target = folder.parent().expect("target/PROFILE");
            let profile = match folder.file_name().and_then(|name| name.to_str()) {
                Some("debug") | None => "dev",
                Some(name) => name,
            };
            let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = tokio::process::Command::new(cargo);
            // What cargo says of the test's package, build scripts of dependencies watch (ring's does): passed on, it
            // would have half of the tree built anew here, and again by the next cargo outside.
            for (name, _) in env::vars_os() {
                let of_the_test = name.to_str().is_some_and(|name| name.starts_with("CARGO_"));
                if of_the_test && name != "CARGO_HOME" {
                    build.env_remove(name);
                }
            }
            let output = build
                .args([
                    "build",
                    "--quiet",
                    "-p",
                    "chat-api",
                    "--all-features",
                    "--bin",
                    "chat-system",
                    "--profile",
                    profile,
                ])
                .arg("--target-dir")
                .arg(target)
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
                .stdin(Stdio::null())
                .output()
                .await
                .expect("cargo runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "chat-system does not build:\n{errors}");
            folder.join("chat-system")
        })
        .await
}

fn append(path: &Path) -> File {
    File::options()
        .append(true)
        .create(true)
        .open(path)
        .expect("the temporary folder takes files")
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
