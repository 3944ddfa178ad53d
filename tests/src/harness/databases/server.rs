//! A private MariaDB or MySQL server, one that tests share or a test's own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::Signal,
    unistd::{Uid, User},
};
use sea_orm::sqlx::{self, Connection, MySqlConnection, mysql::MySqlConnectOptions};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use super::{
    Database, GRANTS, Kind, Place, available,
    shared::{copy, shared},
};
use crate::harness::{
    disk::on_a_disk_that_may_be_full,
    guard::{Process, temporary_folder},
    wait::{free_port, random_name},
};

const START_LIMIT: Duration = Duration::from_secs(120);
/// In its folder, while its disk is full.
const FULL_DISK: &str = "full-disk";

/// A private MariaDB or MySQL server: its folder, its port, and its process while it runs.
#[derive(Debug)]
pub struct DatabaseServer {
    pub(super) kind: Kind,
    program: PathBuf,
    arguments: Vec<String>,
    /// What it finds in its environment.
    pub(super) environment: Vec<(String, String)>,
    address: Address,
    // Before the folder, so that the process is gone when the folder goes. None, too, where another process started it.
    process: Option<Process>,
    folder: TempDir,
    /// It begins where it stands in the log of its cluster, and is there when it has what the others have.
    is_of_a_cluster: bool,
    users: Mutex<Vec<(String, String)>>,
}

impl DatabaseServer {
    /// A server of the test's own, with more arguments, which it may kill, stop and start again.
    pub async fn dedicated(kind: Kind, arguments: &[&str]) -> DatabaseServer {
        DatabaseServer::dedicated_in(kind, arguments, Vec::new()).await
    }

    /// The same, with something in its environment.
    pub async fn dedicated_in(
        kind: Kind,
        arguments: &[&str],
        environment: Vec<(String, String)>,
    ) -> DatabaseServer {
        let mut server = DatabaseServer::new(kind, arguments, environment).await;
        server.initialize().await;
        server.start_anywhere(&[]).await;
        server
    }

    /// A server of a cluster, which it begins, or joins with nothing.
    pub(super) async fn of_a_cluster(
        arguments: &[&str],
        environment: Vec<(String, String)>,
        begins: bool,
    ) -> DatabaseServer {
        let mut server = DatabaseServer::new(Kind::MariaDb, arguments, environment).await;
        server.is_of_a_cluster = true;
        if begins {
            server.initialize().await;
            server.start_anywhere(&["--wsrep-new-cluster".into()]).await;
        } else {
            fs::create_dir(server.data()).expect("a folder in the temporary folder");
            server.start_anywhere(&[]).await;
        }
        server
    }

    /// A server that was not set up.
    async fn new(kind: Kind, arguments: &[&str], environment: Vec<(String, String)>) -> DatabaseServer {
        let folder = temporary_folder(match kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::MariaDb => "mariadb",
            Kind::MySql => "mysql",
        });
        DatabaseServer {
            kind,
            program: available::program(kind).await,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment,
            address: Address {
                port: free_port(),
                root_password: random_name(20),
            },
            process: None,
            folder,
            is_of_a_cluster: false,
            users: Mutex::default(),
        }
    }

    /// A server that was set up, started and stopped: what the first start makes, certificates and the like, is in its data
    /// folder as well.
    pub(super) async fn template(kind: Kind) -> DatabaseServer {
        let mut server = DatabaseServer::new(kind, &[], Vec::new()).await;
        server.install().await;
        server.start_anywhere(&[]).await;
        server.stop().await;
        // Each server has an identity and a log of its own.
        for entry in fs::read_dir(server.data())
            .expect("the data folder is there")
            .flatten()
        {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == "auto.cnf" || name.starts_with("binlog.") {
                fs::remove_file(entry.path()).expect("the data folder is ours");
            }
        }
        server
    }

    /// A server whose data folder is a copy of that of a template.
    pub(super) async fn begun_from(template: &DatabaseServer) -> DatabaseServer {
        let mut server = DatabaseServer::new(template.kind, &[], Vec::new()).await;
        copy(&template.data(), &server.data()).await;
        server.start_anywhere(&[]).await;
        server
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn start_anywhere(&mut self, more: &[String]) {
        while !self.try_start(more).await {
            self.address.port = free_port();
        }
    }

    /// The environment of a server that [`fill_disk`](Self::fill_disk) does something to, and of those that follow it.
    pub fn on_a_disk_that_may_be_full(environment: Vec<(String, String)>) -> Vec<(String, String)> {
        // Each stands in its data folder.
        on_a_disk_that_may_be_full(&format!("../{FULL_DISK}"), environment)
    }

    /// Whether its disk takes nothing more.
    pub fn fill_disk(&self, is_full: bool) {
        let file = self.folder.path().join(FULL_DISK);
        let done = if is_full {
            fs::write(file, "")
        } else {
            fs::remove_file(file)
        };
        done.expect("the disk of the test is not full");
    }

    /// The server that all tests share which need none of their own.
    pub(super) async fn shared(kind: Kind) -> &'static DatabaseServer {
        static MARIADB: OnceCell<DatabaseServer> = OnceCell::const_new();
        static MYSQL: OnceCell<DatabaseServer> = OnceCell::const_new();
        let server = match kind {
            Kind::Sqlite => panic!("SQLite has no server"),
            Kind::MariaDb => &MARIADB,
            Kind::MySql => &MYSQL,
        };
        server
            .get_or_init(|| async {
                if let Some(shared) = shared(kind) {
                    let mut server = DatabaseServer::new(kind, &[], Vec::new()).await;
                    server.address = shared.address.clone();
                    available::tell_version(kind, &shared.version);
                    return server;
                }
                let server = DatabaseServer::dedicated(kind, &[]).await;
                available::tell_version(kind, &server.version().await);
                server
            })
            .await
    }

    /// A fresh, empty database on this server, and a user for it.
    pub async fn fresh(&self) -> Database {
        let name = format!("chat_{}", random_name(10));
        let (user, password) = (name.clone(), random_name(20));
        self.execute(&format!(
            "CREATE DATABASE `{name}`; CREATE USER `{user}`@`%` IDENTIFIED BY '{password}'; \
             GRANT {GRANTS} ON `{pattern}`.* TO `{user}`@`%`",
            // An underscore in a GRANT stands for any character.
            pattern = name.replace('_', "\\_"),
        ))
        .await;
        self.log_in_once(&user, &password).await;
        self.users
            .lock()
            .expect("no panic under the lock")
            .push((user.clone(), password.clone()));
        let place = Place::Server {
            address: self.address.clone(),
            name,
            user,
            password,
        };
        Database {
            kind: self.kind,
            place,
            root: OnceCell::new(),
        }
    }

    /// A database that is there, with a user that is there.
    pub async fn named(&self, name: &str, user: &str, password: &str) -> Database {
        self.log_in_once(user, password).await;
        Database {
            kind: self.kind,
            place: Place::Server {
                address: self.address.clone(),
                name: name.into(),
                user: user.into(),
                password: password.into(),
            },
            root: OnceCell::new(),
        }
    }

    /// A database of another server that this one has too, with its user, as a replica does.
    pub async fn holding(&self, other: &Database) -> Database {
        let Place::Server {
            name, user, password, ..
        } = &other.place
        else {
            panic!("SQLite has no server")
        };
        self.named(name, user, password).await
    }

    /// Runs statements as root.
    pub async fn execute(&self, sql: &str) {
        let mut root = self.connect().await.expect("root connects");
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut root).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub fn port(&self) -> u16 {
        self.address.port
    }

    /// Where its own client programs stand, MySQL's beside the server; MariaDB's are installed.
    pub fn program_folder(&self) -> &Path {
        self.program.parent().expect("a program is in a folder")
    }

    /// What its client programs need to be told to find it.
    pub fn client_arguments(&self) -> [String; 3] {
        let port = format!("--port={}", self.port());
        ["--protocol=tcp".into(), "--host=127.0.0.1".into(), port]
    }

    pub fn root_password(&self) -> &str {
        &self.address.root_password
    }

    /// The pid of the running server.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// SIGKILL, as when the machine lost its power but not its disk's cache.
    pub async fn kill9(&mut self) {
        self.process
            .take()
            .expect("the database server runs")
            .kill9()
            .await;
    }

    /// A clean shutdown.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the database server runs");
        process.signal(Signal::SIGTERM);
        process.wait(START_LIMIT).await;
    }

    /// Freezes it: connections stay open and nothing answers.
    pub fn sigstop(&self) {
        self.running().signal(Signal::SIGSTOP);
    }

    pub fn sigcont(&self) {
        self.running().signal(Signal::SIGCONT);
    }

    /// Starts it again after [`kill9`](Self::kill9) or [`stop`](Self::stop): same port, same data, same arguments.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "the database server still runs");
        let more = if self.is_of_a_cluster {
            let place = self.place_in_the_cluster().await;
            vec![format!("--wsrep-start-position={place}")]
        } else {
            Vec::new()
        };
        assert!(
            self.try_start(&more).await,
            "port {} was taken meanwhile",
            self.port()
        );
        if self.is_of_a_cluster {
            self.when_synced().await;
        }
        let users = self.users.lock().expect("no panic under the lock").clone();
        for (user, password) in users {
            self.log_in_once(&user, &password).await;
        }
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| process.exit_code().is_none())
    }

    /// Starts it again if it has ended by itself.
    pub async fn start_if_it_ended(&mut self) {
        if !self.is_running() {
            self.process = None;
            self.start().await;
        }
    }

    /// What the server writes about itself.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the database server runs")
    }

    /// What the server says its version is.
    pub async fn version(&self) -> String {
        let mut root = self.connect().await.expect("root connects");
        sqlx::query_scalar("SELECT VERSION()")
            .fetch_one(&mut root)
            .await
            .expect("the server has a version")
    }

    pub(super) async fn connect(&self) -> Result<MySqlConnection, sqlx::Error> {
        MySqlConnection::connect_with(&self.address.options()).await
    }

    /// Logs a user in over TLS, after which MySQL knows its password and takes it without TLS too. Only so can a proxy
    /// read along: sqlx has no other way to a `caching_sha2_password` account on a plain connection.
    async fn log_in_once(&self, user: &str, password: &str) {
        if self.kind == Kind::MySql {
            let options = self.address.options().username(user).password(password);
            MySqlConnection::connect_with(&options)
                .await
                .expect("the new user may log in");
        }
    }

    /// Makes the data folder: a copy, where there is one to copy from.
    async fn initialize(&self) {
        match shared(self.kind) {
            Some(shared) => shared.copy_template(&self.data()).await,
            None => self.install().await,
        }
    }

    /// Makes the data folder as an operator does.
    async fn install(&self) {
        let data = format!("--datadir={}", self.data().display());
        let program = match self.kind {
            Kind::MariaDb => PathBuf::from("mariadb-install-db"),
            _ => self.program.clone(),
        };
        let mut process = Process::start(&program, |command| {
            self.at_home(command);
            if self.kind == Kind::MariaDb {
                command.args([
                    "--no-defaults",
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ]);
                command.arg(user_argument());
            } else {
                command.arg("--initialize-insecure");
            }
            command.arg(data);
        })
        .await;
        assert_eq!(
            process.wait(START_LIMIT).await,
            0,
            "{program:?} failed:\n{}",
            self.log()
        );
    }

    /// Starts the server and waits until it answers. False when somebody else took its port.
    async fn try_start(&mut self, more: &[String]) -> bool {
        let mut process = self.run(more).await;
        let begin = Instant::now();
        loop {
            match self.connect().await {
                Ok(_) => break,
                Err(_) if process.exit_code().is_some() => {
                    let log = self.log();
                    assert!(
                        log.contains("already in use"),
                        "the database server did not start:\n{log}"
                    );
                    return false;
                }
                Err(error) => {
                    assert!(begin.elapsed() < START_LIMIT, "{error}; its log:\n{}", self.log());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        self.process = Some(process);
        true
    }

    /// Runs the program with what the server gets, and more.
    pub(super) async fn run(&self, more: &[String]) -> Process {
        let folder = self.folder.path();
        let path = |name: &str| folder.join(name).display().to_string();
        let init = path("init.sql");
        let password = &self.address.root_password;
        // On one line each, and harmless when run again at the next start. A replica has a password of its own.
        let root = format!(
            "SET SESSION sql_log_bin = 0;\n\
             CREATE USER IF NOT EXISTS root@`127.0.0.1` IDENTIFIED BY '{password}';\n\
             ALTER USER root@`127.0.0.1` IDENTIFIED BY '{password}';\n\
             GRANT ALL PRIVILEGES ON *.* TO root@`127.0.0.1` WITH GRANT OPTION;\n"
        );
        fs::write(&init, root).expect("the temporary folder takes files");
        Process::start(&self.program, |command| {
            if self.kind == Kind::MariaDb {
                command.args(["--no-defaults".into(), user_argument()]);
            } else {
                command.args(["--mysqlx=OFF", "--performance-schema=OFF", "--sync-binlog=1"]);
            }
            command
                .arg(format!("--datadir={}", path("data")))
                .arg(format!("--socket={}", path("socket")))
                .arg(format!("--pid-file={}", path("pid")))
                .arg(format!("--init-file={init}"))
                .arg(format!("--port={}", self.address.port))
                .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
                .args([
                    "--innodb-flush-log-at-trx-commit=1",
                    "--innodb-buffer-pool-size=128M",
                ])
                .args(["--max-connections=1000", "--max-allowed-packet=64M"])
                .args(&self.arguments)
                .args(more)
                .envs(self.environment.iter().map(|(name, value)| (name, value)));
            self.at_home(command);
        })
        .await
    }

    /// Output into its log, and temporary tables into its own folder: a MariaDB that starts clears away those of others
    /// that share /tmp with it (of six that were set up at once, two failed).
    fn at_home(&self, command: &mut Command) {
        let log = || {
            File::options()
                .append(true)
                .create(true)
                .open(self.folder.path().join("log"))
        };
        let log = || log().expect("the temporary folder takes files");
        command
            .env("TMPDIR", self.folder.path())
            .stdout(log())
            .stderr(log());
    }
}

/// MariaDB refuses to run as root unless told to.
fn user_argument() -> String {
    let user = User::from_uid(Uid::effective())
        .ok()
        .flatten()
        .expect("we are somebody");
    format!("--user={}", user.name)
}

/// How to reach a database server as root.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) port: u16,
    pub(super) root_password: String,
}

impl Address {
    pub(super) fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username("root")
            .password(&self.root_password)
    }
}
