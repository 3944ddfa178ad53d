//! The schema, up and down, on MySQL, MariaDB and SQLite: one file a migration, SeaORM's migrator around them.
//!
//! The binary calls [`up`] before it serves, the command line calls [`up`], [`down`] and [`status`], the tests call
//! all of them. What SeaORM's migrator leaves open is settled here:
//!
//! - **One at a time.** Replicas that start together take turns (module `turn`). The state is looked at again once
//!   the turn is ours, so the second replica finds nothing left to do.
//! - **Interrupted is not broken.** On SQLite a whole run is one transaction. On MySQL and MariaDB every statement of
//!   DDL commits by itself, so each migration can be run again from wherever it stopped: tables with
//!   `IF NOT EXISTS` and their indexes inside, rows only where they are absent.
//! - **Nothing of others, nothing unseen.** A table that is not ours is never taken over and never dropped, a schema
//!   newer than the program is left alone, and a log that holds messages is only dropped when told so in words
//!   (module `guard`).
//!
//! Everything takes the caller's [`DatabaseConnection`], pool or not. Handing over a connection that is used for
//! nothing else was refused: whoever forgets it would lose the lock without noticing. On MySQL and MariaDB the work
//! runs on a connection of its own, opened with the pool's own options; on SQLite in one transaction of the given
//! pool. The database (on SQLite the file: `mode=rwc`) has to exist or be created by that connection.

mod dialect;
mod m20261123_000001_create_log;
mod m20261123_000002_create_projections;

mod error;
mod guard;
mod turn;

use std::time::Duration;

use sea_orm_migration::sea_orm::{DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait, QueryOrder};
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationTrait, MigratorTrait, SchemaManager, seaql_migrations,
};

pub use error::Error;
use error::{During, Result};
use turn::Turn;

/// How long a replica waits for another one's migration before it gives up.
const TURN_WAIT: Duration = Duration::from_secs(120);

/// SeaORM's own table of what was applied.
const BOOKKEEPING: &str = "seaql_migrations";

/// What is applied and what is not, each in the order of application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// Applied by a newer version of the program; this one does not know them.
    pub unknown: Vec<String>,
}

/// What [`down`] may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownOptions {
    /// Drop the log even when it holds events, which destroys them: `migrate down --discard-messages`.
    pub discard_messages: bool,
}

/// Says what is applied. Writes nothing and needs no right but to read.
pub async fn status(db: &DatabaseConnection) -> Result<Status> {
    read_status(db).await
}

/// Refuses a schema that a newer version of the program has migrated. What is pending is not its subject: whoever
/// serves without migrating first looks at [`Status::pending`].
pub async fn check_version(db: &DatabaseConnection) -> Result<()> {
    status(db).await?.refuse_newer()
}

/// Applies what is pending and gives its names. Safe to run at once from many replicas, and again after it was
/// interrupted. With nothing pending it only reads.
pub async fn up(db: &DatabaseConnection) -> Result<Vec<String>> {
    let status = status(db).await?;
    status.refuse_newer()?;
    if status.pending.is_empty() {
        return Ok(status.pending);
    }
    let turn = Turn::take(db, TURN_WAIT).await?;
    let outcome = apply(turn.connection()).await;
    turn.end(outcome).await
}

/// Drops everything that [`up`] has made and gives the names of the migrations undone. Refuses while the log holds
/// events, unless told to discard them. Interrupted, it can be run again; so can [`up`].
pub async fn down(db: &DatabaseConnection, options: DownOptions) -> Result<Vec<String>> {
    check_version(db).await?;
    let turn = Turn::take(db, TURN_WAIT).await?;
    let outcome = undo(turn.connection(), options).await;
    turn.end(outcome).await
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_create_log::Migration),
            Box::new(m20261123_000002_create_projections::Migration),
        ]
    }
}

async fn apply(db: &DatabaseTransaction) -> Result<Vec<String>> {
    let status = read_status(db).await?;
    status.refuse_newer()?;
    if !status.pending.is_empty() {
        let manager = SchemaManager::new(db);
        guard::refuse_tables_of_others(&manager).await?;
        guard::refuse_log_without_head(&manager).await?;
        Migrator::up(db, None).await.during("apply the migrations")?;
    }
    Ok(status.pending)
}

/// Not SeaORM's `down`: that one deletes a migration's record after its tables, so that an interruption leaves a
/// schema that counts as applied and is not there. Here head and records go first and together, and the tables of
/// every migration that this program knows follow, recorded or not.
async fn undo(db: &DatabaseTransaction, options: DownOptions) -> Result<Vec<String>> {
    let status = read_status(db).await?;
    status.refuse_newer()?;
    let manager = SchemaManager::new(db);
    guard::refuse_tables_of_others(&manager).await?;
    guard::stop_writers(&manager, options).await?;
    let recorded = manager
        .has_table(BOOKKEEPING)
        .await
        .during("look for the table of migrations")?;
    if recorded {
        seaql_migrations::Entity::delete_many()
            .exec(db)
            .await
            .during("forget the migrations")?;
    }
    // On MySQL and MariaDB the first DROP commits what was done up to here: from now on nobody can write to the log.
    for migration in Migrator::migrations().iter().rev() {
        migration.down(&manager).await.during("drop the tables")?;
    }
    if recorded {
        Migrator::uninstall(db)
            .await
            .during("drop the table of migrations")?;
    }
    Ok(status.applied.into_iter().rev().collect())
}

async fn read_status<'c>(db: impl IntoSchemaManagerConnection<'c>) -> Result<Status> {
    let recorded = recorded(&SchemaManager::new(db))
        .await
        .during("read which migrations are applied")?;
    let known: Vec<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    let (applied, pending) = known.iter().cloned().partition(|name| recorded.contains(name));
    let unknown = recorded
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    Ok(Status {
        applied,
        pending,
        unknown,
    })
}

/// SeaORM's own readers either create the table first, or fail on a name that they do not know.
async fn recorded(manager: &SchemaManager<'_>) -> Result<Vec<String>, DbErr> {
    if !manager.has_table(BOOKKEEPING).await? {
        return Ok(Vec::new());
    }
    let order = seaql_migrations::Column::Version;
    let rows = seaql_migrations::Entity::find()
        .order_by_asc(order)
        .all(manager.get_connection())
        .await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

impl Status {
    fn refuse_newer(&self) -> Result<()> {
        if self.unknown.is_empty() {
            Ok(())
        } else {
            Err(Error::NewerSchema(self.unknown.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests;
