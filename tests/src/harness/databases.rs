//! Real databases: SQLite in a file, a private MariaDB and a private MySQL for each test process, started when first
//! asked for, and servers of a test's own that it may kill.
//!
//! They are as durable as production's. A test gets a fresh database with a user that has the rights named in the
//! README and no others, for the server under test, and a connection as root to look inside and to plant things.

mod server;

mod available;

mod each;

use std::{path::PathBuf, thread};

use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DbBackend, QueryResult, Statement, TryGetable,
    sqlx::{self, Connection, MySqlConnection},
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use self::server::Address;
pub use self::{available::not_run, server::DatabaseServer};
use super::guard::temporary_folder;

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
    /// A fresh, empty database; on MariaDB and MySQL on the server of this test process.
    pub async fn fresh(kind: Kind) -> Database {
        let place = match kind {
            Kind::Sqlite => Place::File(temporary_folder("sqlite")),
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
        // Not waited for: it saves disk in long runs, and nothing depends on it.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut root = MySqlConnection::connect_with(&options).await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut root).await?;
                anyhow::Ok(())
            })
        });
    }
}
