//! The database: which kind it is, and the pool that reads go through.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement, sqlx};
use sea_query_sqlx::SqlxValues;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    flavor::Flavor,
    location::{self, DatabaseError, Location, make_folder, make_private},
    primary::Primary,
    session::LOCK_WAIT_S,
};

/// A pool of connections for reads, and the way to the writer's own.
#[derive(Clone)]
pub struct Database {
    pub location: Location,
    pub flavor: Flavor,
    pub pool: DatabaseConnection,
    /// How many the pool has at most.
    pub connections: usize,
    pub primary: Arc<Primary>,
    /// Since when reads are bounded by the server.
    bounded: Arc<OnceLock<Instant>>,
    /// What these reads may take of the pool; without one, all of it.
    share: Option<Arc<Semaphore>>,
}

impl Database {
    /// Connects, and asks the server what it is. `connections` bounds the pool.
    pub async fn connect(location: Location, connections: u32) -> Result<Self, DatabaseError> {
        Self::connect_to(location, connections, Primary::default()).await
    }

    /// As [`connect`](Self::connect), for whoever knows more of the primary than the address.
    pub async fn connect_to(
        location: Location,
        connections: u32,
        primary: Primary,
    ) -> Result<Self, DatabaseError> {
        let primary = Arc::new(primary);
        let bounded = Arc::<OnceLock<Instant>>::default();
        let unreachable = |e: sqlx::Error| {
            let kind = if location::is_refusal(&e) {
                DatabaseError::Tls
            } else {
                DatabaseError::Unreachable
            };
            kind(DbErr::Conn(sea_orm::RuntimeErr::SqlxError(e.into())))
        };
        let (pool, flavor) = match &location {
            Location::Sqlite { file, pragmas } => {
                make_folder(file)?;
                make_private(file)?;
                let pool = sqlx::sqlite::SqlitePoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    // A COMMIT that fails, on a disk that is full, rolls back by itself, and the ROLLBACK after it finds
                    // nothing: sqlx takes the transaction for open, makes a savepoint of the next one, and the
                    // connection reads the moment of that savepoint for ever.
                    .before_acquire(|connection, _| {
                        let is_in_transaction = sqlx::Connection::is_in_transaction(connection);
                        Box::pin(async move { Ok(!is_in_transaction) })
                    })
                    .connect_with(Location::sqlite_options(file, pragmas).optimize_on_close(false, None))
                    .await;
                let pool = sea_orm::SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.map_err(unreachable)?);
                (pool, Flavor::Sqlite)
            }
            Location::Server(options) => {
                let pool = sqlx::mysql::MySqlPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(ACQUIRE_TIMEOUT)
                    .test_before_acquire(false)
                    // The marks and the head that a page is bounded by must be as fresh as the statement.
                    .after_connect({
                        let (primary, bounded) = (primary.clone(), bounded.clone());
                        move |connection, _| {
                            let primary = primary.clone();
                            let is_bounded = bounded.get().is_some();
                            Box::pin(async move {
                                let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
                                sqlx::Executor::execute(&mut *connection, isolation).await?;
                                if is_bounded {
                                    let bounds = sqlx::AssertSqlSafe(session_bounds());
                                    sqlx::Executor::execute(&mut *connection, bounds).await?;
                                }
                                primary.check(connection).await
                            })
                        }
                    })
                    .before_acquire({
                        let (primary, bounded) = (primary.clone(), bounded.clone());
                        move |connection, of| {
                            let is_unbounded = bounded.get().is_some_and(|since| of.age > since.elapsed());
                            let outdated = is_unbounded || primary.is_outdated(of.age);
                            Box::pin(async move {
                                if !outdated && of.idle_for > TESTED_FOR {
                                    sqlx::Connection::ping(connection).await?;
                                }
                                Ok(!outdated)
                            })
                        }
                    })
                    .connect_with(options.as_ref().clone())
                    .await;
                let pool = sea_orm::SqlxMySqlConnector::from_sqlx_mysql_pool(pool.map_err(unreachable)?);
                let version = server_version(&pool).await.map_err(DatabaseError::Unreachable)?;
                let mariadb = version.to_ascii_lowercase().contains("mariadb");
                (pool, if mariadb { Flavor::MariaDb } else { Flavor::MySql })
            }
        };
        Ok(Self {
            location,
            flavor,
            pool,
            connections: connections as usize,
            primary,
            bounded,
            share: None,
        })
    }

    /// From here on a server ends a read that waits or runs for too long. Migrations and their like take longer, and
    /// come before this.
    pub fn bound_reads(&self) {
        self.bounded.get_or_init(Instant::now);
    }

    /// The same database, for reads of one kind: however many of them wait for something that is locked, the others
    /// find connections. Two kinds that stand still leave a quarter of them to the third and to the tail.
    pub(crate) fn share(&self) -> Self {
        Self {
            share: Some(Arc::new(Semaphore::new(self.share_of_connections()))),
            ..self.clone()
        }
    }

    pub(crate) fn share_of_connections(&self) -> usize {
        (self.connections * 3 / 8).max(1)
    }

    /// The rows of a read.
    pub(crate) async fn query_all(&self, read: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let place = match &self.share {
            // Never closed.
            Some(share) => timeout(ACQUIRE_TIMEOUT, share.clone().acquire_owned())
                .await
                .map_err(|_| of_sqlx(sqlx::Error::PoolTimedOut))?
                .ok(),
            None => None,
        };
        let reading = tokio::spawn(read_to_the_end(self.pool.clone(), read, place).in_current_span());
        reading
            .await
            .unwrap_or_else(|ended| Err(DbErr::Custom(ended.to_string())))
    }

    pub(crate) async fn query_one(&self, read: Statement) -> Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all(read).await?.into_iter().next())
    }

    /// A statement with its values, for the pool's kind of database.
    pub(crate) fn statement(
        &self,
        sql: impl Into<String>,
        values: impl IntoIterator<Item = sea_orm::Value>,
    ) -> Statement {
        Statement::from_sql_and_values(self.flavor.backend(), sql, values)
    }
}

/// Reads to the end, whether or not somebody still waits for it: a connection whose query was given up half-way can
/// answer the next one with what is left of it. One that does not answer is closed, and not used again.
async fn read_to_the_end(
    pool: DatabaseConnection,
    read: Statement,
    _place: Option<OwnedSemaphorePermit>,
) -> Result<Vec<QueryResult>, DbErr> {
    let values = SqlxValues(read.values.unwrap_or(sea_orm::Values(Vec::new())));
    let query = sqlx::AssertSqlSafe(read.sql);
    macro_rules! rows {
        ($pool:expr) => {{
            let mut connection = $pool.acquire().await.map_err(of_sqlx)?;
            let rows = sqlx::query_with(query, values).fetch_all(&mut *connection);
            match timeout(READ_LIMIT + GRACE, rows).await {
                Ok(Ok(rows)) => Ok(rows.into_iter().map(Into::into).collect()),
                Ok(Err(error)) => Err(DbErr::Query(sea_orm::RuntimeErr::SqlxError(error.into()))),
                Err(_) => {
                    connection.close_on_drop();
                    Err(DbErr::Custom("the database did not answer in time".into()))
                }
            }
        }};
    }
    match read.db_backend {
        DbBackend::Sqlite => rows!(pool.get_sqlite_connection_pool()),
        _ => rows!(pool.get_mysql_connection_pool()),
    }
}

fn of_sqlx(error: sqlx::Error) -> DbErr {
    DbErr::Conn(sea_orm::RuntimeErr::SqlxError(error.into()))
}

/// What a server is told of a session that reads for people. Each of the two kinds passes over what is for the other.
fn session_bounds() -> String {
    format!(
        "SET SESSION lock_wait_timeout = {LOCK_WAIT_S} /*M!100100 , max_statement_time = {} */ \
         /*!50708 , max_execution_time = {} */",
        READ_LIMIT.as_secs(),
        READ_LIMIT.as_millis()
    )
}

/// How long a read may take before the server ends it.
const READ_LIMIT: Duration = Duration::from_secs(4);

/// How much longer the answer may take before its connection is given up.
const GRACE: Duration = Duration::from_secs(1);

/// How long a read waits for a connection of the pool, and before that for its share.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long it needs no test that a connection is good: the pool tests each one when it comes back.
const TESTED_FOR: Duration = Duration::from_secs(1);

pub(crate) async fn server_version(pool: &DatabaseConnection) -> Result<String, DbErr> {
    let row = pool
        .query_one_raw(Statement::from_string(DbBackend::MySql, "SELECT VERSION()"))
        .await?;
    row.ok_or_else(|| DbErr::RecordNotFound("VERSION()".into()))?
        .try_get_by_index(0)
}

#[cfg(test)]
mod tests {
    use sea_orm::{SqliteTransactionMode, TransactionOptions, TransactionTrait};

    use super::*;

    #[tokio::test]
    async fn a_connection_whose_commit_failed_reads_no_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("chat.db").display());
        let connect = || async {
            Database::connect(Location::parse(&url).unwrap(), 1)
                .await
                .unwrap()
        };
        let (reader, writer) = (connect().await, connect().await);
        writer
            .pool
            .execute_unprepared("CREATE TABLE t (n INTEGER)")
            .await
            .unwrap();
        let begin = || {
            let options = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            reader.pool.begin_with_options(options)
        };
        // What SQLite does where a COMMIT meets a full disk: the transaction is gone, and nobody was told.
        let broken = begin().await.unwrap();
        broken.execute_unprepared("ROLLBACK").await.unwrap();
        broken.commit().await.unwrap_err();
        // The next one looks, and gives up what it began.
        let count = async || {
            let select = Statement::from_string(DbBackend::Sqlite, "SELECT COUNT(*) FROM t");
            let row = reader.pool.query_one_raw(select).await.unwrap().unwrap();
            row.try_get_by_index::<i64>(0).unwrap()
        };
        let next = begin().await.unwrap();
        next.execute_unprepared("SELECT COUNT(*) FROM t").await.unwrap();
        drop(next);
        assert_eq!(count().await, 0);
        writer
            .pool
            .execute_unprepared("INSERT INTO t VALUES (1)")
            .await
            .unwrap();
        assert_eq!(count().await, 1, "what was committed before it was asked for");
    }
}
