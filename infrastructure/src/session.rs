//! One connection of its own, outside every pool: the writer's, and that of maintenance.
//!
//! Its session bounds what a frozen or cut-off process can do to the others: the server ends a connection that is
//! silent for three seconds and rolls its transaction back, which frees the head lock. Whoever holds a session pings
//! it while it is idle.

pub(crate) mod node_slots;

use std::time::Duration;

use sea_orm::{
    DbErr, QueryResult,
    sqlx::{
        self, AssertSqlSafe, Connection, Either,
        mysql::{MySqlArguments, MySqlConnection, MySqlDatabaseError},
        sqlite::SqliteConnection,
    },
};
use tokio_stream::StreamExt;

use crate::{flavor::Flavor, location::Location};

pub struct Session {
    connection: Inner,
    pub flavor: Flavor,
}

enum Inner {
    Sqlite(SqliteConnection),
    Server(MySqlConnection),
}

/// Why a statement failed, as far as it decides what to do next.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The transaction lost against another one: decide it again from fresh facts.
    #[error("the transaction has to be tried again")]
    Retry(#[source] sqlx::Error),
    /// What was written is at fault: a constraint, a value, a packet.
    #[error("the database refuses what is written")]
    Refused(#[source] sqlx::Error),
    /// The connection, or the server behind it, is of no use now.
    #[error("the database is away")]
    Away(#[source] sqlx::Error),
    /// The head of the log is not where it was seen: it has to be found out what became of the log.
    #[error("the head of the log is not where it was seen")]
    Moved,
    /// Somebody does not wait any more, and was told that nothing is written.
    #[error("a command was withdrawn")]
    Withdrawn,
}

impl SessionError {
    /// Of a script in which only a null says that another transaction was first.
    pub(crate) fn of_null_to_retry(self) -> Self {
        match self {
            Self::Refused(error) if is_null(&error) => Self::Retry(error),
            other => other,
        }
    }

    /// The database answered, with something that cannot be.
    pub(crate) fn unreadable(error: DbErr) -> Self {
        Self::Away(sqlx::Error::Decode(Box::new(error)))
    }
}

/// How long the server waits for a holder of a lock that is silent.
pub(crate) const SILENCE_S: u32 = 3;
/// How long a statement waits for a lock: for the head's, and for a table's that somebody else has locked whole.
pub(crate) const LOCK_WAIT_S: u32 = 2;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

impl Session {
    pub async fn connect(location: &Location, flavor: Flavor) -> Result<Self, SessionError> {
        let connecting = async {
            match location {
                Location::Sqlite { file, pragmas } => {
                    let options = Location::sqlite_options(file, pragmas);
                    Ok(Inner::Sqlite(SqliteConnection::connect_with(&options).await?))
                }
                Location::Server(options) => Ok(Inner::Server(MySqlConnection::connect_with(options).await?)),
            }
        };
        let connection = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(SessionError::Away)?,
            Err(_) => return Err(SessionError::Away(sqlx::Error::PoolTimedOut)),
        };
        let mut session = Self { connection, flavor };
        let bounds = match flavor {
            Flavor::Sqlite => return Ok(session),
            Flavor::MariaDb => format!(", idle_write_transaction_timeout = {SILENCE_S}"),
            Flavor::MySql => String::new(),
        };
        // The SQL mode is fixed so that literals mean the same on every server, and no value is cut silently.
        session
            .script(format!(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', time_zone = '+00:00', \
                 wait_timeout = {SILENCE_S}, net_read_timeout = {SILENCE_S}, net_write_timeout = {SILENCE_S}, \
                 innodb_lock_wait_timeout = {LOCK_WAIT_S}, lock_wait_timeout = {LOCK_WAIT_S}{bounds}; \
                 SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
            ))
            .await?;
        Ok(session)
    }

    /// Runs statements in one round trip, and returns the rows of all of them in order.
    ///
    /// The text must hold nothing that was not put there through `crate::sql`.
    pub async fn script(&mut self, sql: String) -> Result<Vec<QueryResult>, SessionError> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        let mut rows = Vec::new();
        let run = async {
            match &mut self.connection {
                Inner::Sqlite(connection) => {
                    let mut results = sql.fetch_many(connection);
                    while let Some(result) = results.next().await {
                        if let Either::Right(row) = result? {
                            rows.push(row.into());
                        }
                    }
                }
                Inner::Server(connection) => {
                    let mut results = sql.fetch_many(connection);
                    while let Some(result) = results.next().await {
                        if let Either::Right(row) = result? {
                            rows.push(row.into());
                        }
                    }
                }
            }
            Ok(())
        };
        run.await.map_err(classify)?;
        Ok(rows)
    }

    /// Runs one statement on a server that is prepared the first time, with its values.
    pub async fn run_prepared(&mut self, sql: String, values: MySqlArguments) -> Result<(), SessionError> {
        let Inner::Server(connection) = &mut self.connection else {
            return Err(SessionError::Away(sqlx::Error::Protocol("not a server".into())));
        };
        let run = sqlx::query_with(AssertSqlSafe(sql), values).execute(connection);
        run.await.map(drop).map_err(classify)
    }

    /// Breaks the silence.
    pub async fn ping(&mut self) -> Result<(), SessionError> {
        match &mut self.connection {
            Inner::Sqlite(connection) => connection.ping().await,
            Inner::Server(connection) => connection.ping().await,
        }
        .map_err(classify)
    }

    /// Says goodbye, so that the server frees what the session holds at once.
    pub async fn close(self) {
        let closing = async {
            match self.connection {
                Inner::Sqlite(connection) => connection.close().await,
                Inner::Server(connection) => connection.close().await,
            }
        };
        // A connection that cannot be closed is closed by being dropped.
        let _ = tokio::time::timeout(CONNECT_TIMEOUT, closing).await;
    }
}

/// Whether a column that takes no null was to get one.
fn is_null(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return false;
    };
    match database.try_downcast_ref::<MySqlDatabaseError>() {
        Some(server) => server.number() == 1048,
        None => database.kind() == sqlx::error::ErrorKind::NotNullViolation,
    }
}

fn classify(error: sqlx::Error) -> SessionError {
    let sqlx::Error::Database(database) = &error else {
        return SessionError::Away(error);
    };
    if let Some(server) = database.try_downcast_ref::<MySqlDatabaseError>() {
        return match server.number() {
            // Lock wait, deadlock, record changed since the snapshot.
            1205 | 1213 | 1020 => SessionError::Retry(error),
            // Not null, duplicate, packet, out of range, too long, bad value, signalled, expression, checks.
            1048 | 1062 | 1153 | 1264 | 1366 | 1406 | 1644 | 1690 | 3819 | 4025 => {
                SessionError::Refused(error)
            }
            _ => SessionError::Away(error),
        };
    }
    // SQLite: the primary code is the low byte of the extended one.
    match database
        .code()
        .and_then(|code| code.parse::<u32>().ok())
        .map(|code| code & 0xff)
    {
        Some(5 | 6) => SessionError::Retry(error),
        Some(18..=20) => SessionError::Refused(error),
        _ => SessionError::Away(error),
    }
}
