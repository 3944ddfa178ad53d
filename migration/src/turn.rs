//! Replicas that start together take turns.
//!
//! A turn is one transaction, because a transaction keeps its connection: the lock cannot be held by one connection of
//! a pool while the work runs on another, and if the connection dies, the work fails instead of going on unlocked.
//!
//! - **SQLite:** an immediate transaction is the lock, and makes the whole run all or nothing. A lock file was
//!   refused: it would add nothing, and not bind anybody who opens the database without it.
//! - **MySQL, MariaDB:** `GET_LOCK`, which belongs to the session. Transaction here means little more than the
//!   connection, as DDL commits. The session is a private one, opened with the options of the caller's pool and closed
//!   in the end, so that the lock is free again however the turn ends, cancelled included; in the caller's pool a
//!   connection would come back with the lock still held. A lock row was refused: it outlives its holder.

use std::time::Duration;

use sea_orm_migration::sea_orm::sqlx::mysql::MySqlPoolOptions;
use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, RuntimeErr,
    SqliteTransactionMode, SqlxMySqlConnector, Statement, TransactionOptions, TransactionTrait, sqlx,
};
use tokio::time::{Instant, sleep};

use crate::error::{During, Error, Result};

/// A DDL statement waits for the transactions that use its table, and later statements queue behind it. So DDL waits 2 s
/// for its lock, pauses 1 s so that queued writers run, and retries for 120 s.
const DDL_WAIT_S: u32 = 2;
const DDL_PAUSE: Duration = Duration::from_secs(1);
const DDL_LIMIT: Duration = Duration::from_secs(120);

/// SQLite waits by itself (`busy_timeout`); this is for connections where that is nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

pub(crate) struct Turn {
    transaction: DatabaseTransaction,
    private: Option<DatabaseConnection>,
}

impl Turn {
    pub(crate) async fn take(db: &DatabaseConnection, wait: Duration) -> Result<Self> {
        match db.get_database_backend() {
            DbBackend::MySql => Self::take_named_lock(db, wait).await,
            DbBackend::Sqlite => Self::take_write_lock(db, wait).await,
            other => Err(Error::Unsupported(other.as_str())),
        }
    }

    /// The connection that holds the lock, and the only one to work on.
    pub(crate) fn connection(&self) -> &DatabaseTransaction {
        &self.transaction
    }

    /// Commits what went well, rolls back what did not, and lets the next one in.
    pub(crate) async fn end<T>(self, outcome: Result<T>) -> Result<T> {
        let ended = match &outcome {
            Ok(_) => self.transaction.commit().await.during("commit the migration"),
            Err(_) => self
                .transaction
                .rollback()
                .await
                .during("roll the migration back"),
        };
        if let Some(private) = self.private {
            // Closing can only fail for a connection that is lost already, and then the lock is free.
            private.close().await.ok();
        }
        // What went wrong first is what the reader wants to know.
        outcome.and_then(|value| ended.map(|()| value))
    }

    async fn take_named_lock(db: &DatabaseConnection, wait: Duration) -> Result<Self> {
        let options = db.get_mysql_connection_pool().connect_options();
        let pool = MySqlPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        let private = SqlxMySqlConnector::from_sqlx_mysql_pool(pool.connect_lazy_with((*options).clone()));
        let transaction = begin(&private).await.during("connect for the migration")?;
        let turn = Self {
            transaction,
            private: Some(private),
        };
        let outcome = get_lock(&turn.transaction, wait).await;
        match outcome {
            Ok(()) => Ok(turn),
            Err(error) => turn.end(Err(error)).await,
        }
    }

    async fn take_write_lock(db: &DatabaseConnection, wait: Duration) -> Result<Self> {
        let deadline = Instant::now() + wait;
        loop {
            match begin(db).await {
                Ok(transaction) => {
                    return Ok(Self {
                        transaction,
                        private: None,
                    });
                }
                Err(error) if !is_busy(&error) => {
                    return Err(error).during("lock the database for the migration");
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(Error::TurnTimeout {
                        seconds: wait.as_secs(),
                    });
                }
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }
}

/// READ COMMITTED, because `down` has to see what was committed while it waited for the head of the log.
async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let on_mysql = db.get_database_backend() == DbBackend::MySql;
    db.begin_with_options(TransactionOptions {
        isolation_level: on_mysql.then_some(IsolationLevel::ReadCommitted),
        access_mode: None,
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
    })
    .await
}

async fn get_lock(session: &DatabaseTransaction, wait: Duration) -> Result<()> {
    let operation = "lock the database for the migration";
    // Without a database MySQL fails in its own way, and MariaDB in another.
    let name = session
        .query_one_raw(Statement::from_string(
            DbBackend::MySql,
            "SELECT DATABASE() AS name",
        ))
        .await;
    let name = name
        .during(operation)?
        .map(|row| row.try_get::<Option<String>>("", "name"));
    if name.transpose().during(operation)?.flatten().is_none() {
        return Err(Error::NoDatabase);
    }
    // The name holds for the whole server, so it has the database's in it; MySQL allows it 64 characters, and has
    // lost SHA1() and MD5() by 9.7.
    let sql = format!(
        "SELECT CAST(GET_LOCK(CONCAT('chat_migration.', IF(CHAR_LENGTH(DATABASE()) > 48, \
         LEFT(SHA2(DATABASE(), 256), 48), DATABASE())), {}) AS SIGNED) AS taken",
        wait.as_secs()
    );
    let taken = session
        .query_one_raw(Statement::from_string(DbBackend::MySql, sql))
        .await;
    let taken = taken
        .during(operation)?
        .map(|row| row.try_get::<Option<i64>>("", "taken"));
    match taken.transpose().during(operation)?.flatten() {
        Some(1) => session
            .execute_unprepared(&format!("SET SESSION lock_wait_timeout = {DDL_WAIT_S}"))
            .await
            .map(|_| ())
            .during("prepare the session"),
        Some(_) => Err(Error::TurnTimeout {
            seconds: wait.as_secs(),
        }),
        None => Err(Error::TurnRefused),
    }
}

/// For work that can be done again from wherever it stopped: how long it is tried until its tables are free.
pub(crate) struct Patience {
    deadline: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            deadline: Instant::now() + DDL_LIMIT,
        }
    }

    /// Pauses so that queued writers run, if the work is to be tried again; otherwise gives the error back.
    pub(crate) async fn after(&self, error: DbErr) -> Result<(), DbErr> {
        if !is_lock_wait(&error) || Instant::now() >= self.deadline {
            return Err(error);
        }
        sleep(DDL_PAUSE).await;
        Ok(())
    }
}

/// Whether a statement has waited as long as it may, for a table or a row.
pub(crate) fn is_lock_wait(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause))) = error
    else {
        return false;
    };
    let cause = cause
        .as_database_error()
        .and_then(|cause| cause.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>());
    cause.is_some_and(|cause| cause.number() == 1205)
}

fn is_busy(error: &DbErr) -> bool {
    const SQLITE_BUSY: u32 = 5;
    let (DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = error else {
        return false;
    };
    let RuntimeErr::SqlxError(cause) = cause else {
        return false;
    };
    let Some(code) = cause
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
    else {
        return false;
    };
    // The extended codes of SQLite have the plain one in their lowest byte.
    code.parse::<u32>().is_ok_and(|code| code & 0xff == SQLITE_BUSY)
}
