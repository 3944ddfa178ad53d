//! Real databases: SQLite in a file, a MariaDB and a MySQL that the tests of a run share, and servers of a test's own that
//! it may kill.
//!
//! They are as durable as production's. A test gets a fresh database with a user that has the rights named in
//! docs/operations.md and no others, for the server under test, and a connection as root to look inside and to plant things.

mod server;

mod shared;

mod available;

mod each;

mod replication;

mod cluster;

mod session;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, QueryResult, Statement, TryGetable,
    sqlx::{self, Connection, MySqlConnection},
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

pub use self::{
    available::not_run,
    server::DatabaseServer,
    session::{Ending, Session},
    shared::SharedServers,
};
use self::{server::Address, shared::shared};
use super::{guard::temporary_folder, wait::eventually};

/// The rights of the user that the server under test connects as, on its own database only.
pub const GRANTS: &str = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Sqlite,
    MariaDb,
    MySql,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Sqlite, Kind::MariaDb, Kind::MySql];
}

/// A database for one test, dropped with this value.
#[derive(Debug)]
pub struct Database {
    kind: Kind,
    place: Place,
    root: OnceCell<DatabaseConnection>,
}

#[derive(Debug)]
enum Place {
    File(TempDir),
    Server {
        address: Address,
        name: String,
        user: String,
        password: String,
    },
}

impl Database {
    /// A fresh, empty database; on MariaDB and MySQL on the shared server.
    pub async fn fresh(kind: Kind) -> Database {
        let place = match kind {
            Kind::Sqlite => {
                let folder = temporary_folder("sqlite");
                // As a server makes its own.
                let private = fs::Permissions::from_mode(0o700);
                fs::set_permissions(folder.path(), private).expect("the folder is ours");
                Place::File(folder)
            }
            Kind::MariaDb | Kind::MySql => return DatabaseServer::shared(kind).await.fresh().await,
        };
        let database = Database {
            kind,
            place,
            root: OnceCell::new(),
        };
        available::tell_version(kind, &database.text("SELECT sqlite_version()").await);
        database
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What `CHAT_DATABASE_URL` is for the server under test.
    pub fn url(&self) -> String {
        match &self.place {
            Place::File(folder) => format!("sqlite://{}", folder.path().join("chat.db").display()),
            Place::Server { address, .. } => self.url_at(address.port),
        }
    }

    /// The same database by another port of 127.0.0.1, such as a proxy's. Panics for SQLite.
    pub fn url_at(&self, port: u16) -> String {
        match &self.place {
            Place::File(_) => panic!("SQLite has no port"),
            Place::Server {
                name, user, password, ..
            } => {
                format!("mysql://{user}:{password}@127.0.0.1:{port}/{name}")
            }
        }
    }

    /// The port of its server. Panics for SQLite.
    pub fn port(&self) -> u16 {
        match &self.place {
            Place::File(_) => panic!("SQLite has no port"),
            Place::Server { address, .. } => address.port,
        }
    }

    /// The user of the server under test, its password, and the database's name. Panics for SQLite.
    pub fn login(&self) -> (String, String, String) {
        match &self.place {
            Place::File(_) => panic!("SQLite has no users"),
            Place::Server {
                name, user, password, ..
            } => (user.clone(), password.clone(), name.clone()),
        }
    }

    /// Ends the connections as root; the next look inside makes new ones. For a file that was replaced.
    pub async fn reopen(&mut self) {
        if let Some(root) = self.root.take() {
            root.close().await.expect("it is open");
        }
    }

    /// The file of a SQLite database. Panics for the others.
    pub fn file(&self) -> PathBuf {
        match &self.place {
            Place::File(folder) => folder.path().join("chat.db"),
            Place::Server { .. } => panic!("only SQLite is a file"),
        }
    }

    /// A small pool of connections with all rights (for SQLite: a second connection to the file), made when first used.
    pub async fn root(&self) -> &DatabaseConnection {
        self.root
            .get_or_init(|| async {
                let url = match &self.place {
                    Place::File(_) => format!("{}?mode=rwc", self.url()),
                    Place::Server { address, name, .. } => {
                        format!(
                            "mysql://root:{}@127.0.0.1:{}/{name}",
                            address.root_password, address.port
                        )
                    }
                };
                let mut options = ConnectOptions::new(url);
                options.max_connections(4).sqlx_logging(false);
                sea_orm::Database::connect(options).await.expect("root connects")
            })
            .await
    }

    /// Runs statements as root.
    pub async fn execute(&self, sql: &str) {
        let done = self.root().await.execute_unprepared(sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The number that a query as root gives, signed or not; `COUNT(*)` and the like.
    pub async fn number(&self, sql: &str) -> i64 {
        let row = self.row(sql).await.unwrap_or_else(|| panic!("{sql}: no row"));
        let unsigned = |error| {
            row.try_get_by_index::<u64>(0)
                .map(u64::cast_signed)
                .map_err(|_| error)
        };
        row.try_get_by_index(0)
            .or_else(unsigned)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The text that a query as root gives.
    pub async fn text(&self, sql: &str) -> String {
        self.value(sql).await.unwrap_or_else(|| panic!("{sql}: no row"))
    }

    /// The first column of the first row of a query as root, if there is a row.
    pub async fn value<T: TryGetable>(&self, sql: &str) -> Option<T> {
        let row = self.row(sql).await?;
        Some(
            row.try_get_by_index(0)
                .unwrap_or_else(|error| panic!("{sql}: {error}")),
        )
    }

    async fn row(&self, sql: &str) -> Option<QueryResult> {
        let query = Statement::from_string(self.backend(), sql);
        let row = self.root().await.query_one_raw(query).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// A dump of all tables, as an operator takes it. Panics for SQLite.
    pub async fn dump(&self) -> Vec<u8> {
        self.client(
            "mariadb-dump",
            &["--single-transaction", "--hex-blob"],
            Vec::new(),
        )
        .await
    }

    /// A dump with the place in the server's log that it was taken at. Only of a MariaDB.
    async fn dump_for_a_replica(&self) -> Vec<u8> {
        let arguments = ["--single-transaction", "--hex-blob", "--master-data=1", "--gtid"];
        self.client("mariadb-dump", &arguments, Vec::new()).await
    }

    /// Waits until tables that are made are not of the second in which those of the log were: by that, they are told apart.
    pub async fn another_second(&self) {
        let of_this_second = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() \
             AND table_name = 'epochs' AND UNIX_TIMESTAMP(create_time) >= UNIX_TIMESTAMP()";
        eventually("another second", Duration::from_secs(10), || async {
            self.number(of_this_second).await == 0
        })
        .await;
    }

    /// Puts a dump back: each table is dropped and made anew.
    pub async fn restore(&self, dump: &[u8]) {
        self.another_second().await;
        self.client("mariadb", &[], dump.to_vec()).await;
    }

    /// Runs a program of the database's as root, which gets `input` and whose output is returned.
    async fn client(&self, program: &'static str, arguments: &[&str], input: Vec<u8>) -> Vec<u8> {
        let Place::Server { address, name, .. } = &self.place else {
            panic!("SQLite has no programs")
        };
        let mut command = Command::new(program);
        command
            .args(["--no-defaults", "--host=127.0.0.1", "--user=root"])
            .arg(format!("--port={}", address.port))
            .args(arguments)
            .arg(name)
            .env("MYSQL_PWD", &address.root_password)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let work = move || {
            let mut child = command.spawn()?;
            let mut stdin = child.stdin.take().expect("it is piped");
            let writer = thread::spawn(move || stdin.write_all(&input));
            let output = child.wait_with_output()?;
            let written = writer.join().expect("writing does not panic");
            anyhow::ensure!(
                output.status.success() && written.is_ok(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(output.stdout)
        };
        let done = tokio::task::spawn_blocking(work)
            .await
            .expect("it does not panic");
        done.unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    pub fn backend(&self) -> DbBackend {
        match self.kind {
            Kind::Sqlite => DbBackend::Sqlite,
            Kind::MariaDb | Kind::MySql => DbBackend::MySql,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Place::Server {
            address, name, user, ..
        } = &self.place
        else {
            return;
        };
        let sql = format!("DROP DATABASE IF EXISTS `{name}`; DROP USER IF EXISTS `{user}`");
        let options = address.options();
        let is_shared = shared(self.kind).is_some_and(|shared| shared.address.port == address.port);
        let dropping = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut root = MySqlConnection::connect_with(&options).await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut root).await?;
                anyhow::Ok(())
            })
        });
        // The server outlives this process, and what is left would fill its memory. On one of the test's own nothing
        // depends on it, and it may be frozen.
        if is_shared {
            let _ = dropping.join();
        }
    }
}
