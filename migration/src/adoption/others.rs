//! Who else is connected.
//!
//! A user without the right PROCESS, as ours is, sees its own connections only; so an old client that logs in as
//! somebody else and is silent cannot be seen. It is found all the same, by what it does: its open transaction holds
//! up the RENAME, its new rows show while the table is looked at, and once the table is closed its INSERT fails.

use std::time::Duration;

use sea_orm_migration::DbErr;
use sea_orm_migration::sea_orm::sqlx;
use sea_orm_migration::sea_orm::{DatabaseConnection, DbBackend, RuntimeErr};
use tokio::time::{Instant, sleep};

use super::Sql;
use crate::error::{During, Error, Result};

/// A process that was killed is connected until the server has noticed.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a pool that is not in use, by the server's numbers.
pub(crate) async fn own_connections(db: &DatabaseConnection) -> Result<Vec<i64>> {
    if db.get_database_backend() != DbBackend::MySql {
        return Ok(Vec::new());
    }
    let pool = db.get_mysql_connection_pool();
    let mut held = Vec::new();
    let mut numbers = Vec::new();
    let operation = "find out which connections are ours";
    let failed = |error: sqlx::Error| DbErr::Query(RuntimeErr::SqlxError(error.into()));
    // One that was used just now may still be on its way back.
    while numbers.len() < usize::try_from(pool.size()).unwrap_or(usize::MAX) {
        let mut connection = pool.acquire().await.map_err(failed).during(operation)?;
        let number = sqlx::query_scalar("SELECT CAST(CONNECTION_ID() AS SIGNED)")
            .fetch_one(&mut *connection)
            .await;
        numbers.push(number.map_err(failed).during(operation)?);
        held.push(connection);
    }
    Ok(numbers)
}

/// Refuses while somebody else is connected to this database, as far as that can be seen.
pub(super) async fn refuse_connected(sql: &Sql<'_>, ours: &[i64]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let others = connected(sql, ours).await?;
        if others.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::OthersConnected(others.join(", ")));
        }
        sleep(PAUSE).await;
    }
}

async fn connected(sql: &Sql<'_>, ours: &[i64]) -> Result<Vec<String>> {
    let ours: Vec<_> = ours.iter().map(|number| format!(", {number}")).collect();
    sql.column(&format!(
        "SELECT CONCAT('connection ', id, ' of ', user, ' from ', host) FROM information_schema.processlist \
         WHERE db = DATABASE() AND id NOT IN (CONNECTION_ID(){}) ORDER BY id",
        ours.concat()
    ))
    .await
}
