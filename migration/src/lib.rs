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
//! - **Old and new together.** A migration whose name says `expand` only adds what a program that does not know it
//!   need not know: its tables, columns that may be null or have a default, its indexes. The name is what the database
//!   keeps, so a program that is older than the schema can tell whether it may still serve. All others it refuses.
//! - **A legacy table is adopted**, and given back, where somebody asks for it (module `adoption`); a server
//!   that starts never does that by itself.
//!
//! Everything takes the caller's [`DatabaseConnection`], pool or not. Handing over a connection that is used for
//! nothing else was refused: whoever forgets it would lose the lock without noticing. On MySQL and MariaDB the work
//! runs on a connection of its own, opened with the pool's own options; on SQLite in one transaction of the given
//! pool. The database (on SQLite the file: `mode=rwc`) has to exist or be created by that connection.

mod dialect;
mod m20261123_000001_create_log;
mod m20261123_000002_create_projections;
mod m20261201_000004_expand_lost_ends;

mod adoption;
#[cfg(feature = "upcoming")]
mod upcoming;

mod error;
mod guard;
mod turn;

use std::time::Duration;

use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait, QueryOrder,
    Statement,
};
use sea_orm_migration::{
    IntoSchemaManagerConnection, MigrationTrait, MigratorTrait, SchemaManager, seaql_migrations,
};

use adoption::Stage;
pub use adoption::{CheckOptions, Finding, IdMap, Report, Verdict};
pub use error::Error;
use error::{During, Result};
use turn::{Patience, Turn};

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
    /// What has to be gone on with before anything else: an adoption, or a `down`, that was interrupted.
    pub unfinished: Option<String>,
}

/// What [`down`] may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownOptions {
    /// Drop the log even when it holds events, which destroys them: `migrate down --discard-messages`.
    pub discard_messages: bool,
    /// Give an adopted table back with all messages, but without what its columns have no place for:
    /// `migrate down --discard-log`.
    pub discard_log: bool,
}

/// Whether a migration leaves everything in place that programs before it use. Its name says so, after its number:
/// `m20261201_000004_expand_reactions`.
pub fn only_expands(name: &str) -> bool {
    name.split('_').nth(2) == Some("expand")
}

/// Says what is applied. Writes nothing and needs no right but to read.
pub async fn status(db: &DatabaseConnection) -> Result<Status> {
    read_status(db).await
}

/// Refuses a schema that this program cannot work on: one that a newer version has migrated by more than expanding it,
/// and one that is between two states. What is pending is not its subject: whoever serves without migrating first
/// looks at [`Status::pending`].
pub async fn check_version(db: &DatabaseConnection) -> Result<()> {
    status(db).await?.refuse_newer()?;
    refuse_unfinished(adoption::stage(db).await?)
}

/// Refuses, beyond that, a schema that a newer version has expanded: for whoever makes tables anew, and would leave out
/// what it does not know.
pub async fn check_same_version(db: &DatabaseConnection) -> Result<()> {
    check_version(db).await?;
    status(db).await?.refuse_unknown()
}

/// Applies what is pending and gives its names. Safe to run at once from many replicas, and again after it was
/// interrupted. With nothing pending it only reads. A legacy table is refused.
pub async fn up(db: &DatabaseConnection) -> Result<Vec<String>> {
    go_up(db, Adopt::No).await
}

/// As [`up`], and adopts a legacy table where there is one; goes on with an adoption that was interrupted. `ids`
/// are new names for users whose ids there are no user ids.
pub async fn up_adopting(db: &DatabaseConnection, ids: &IdMap) -> Result<Vec<String>> {
    adoption::refuse_other_names(db, ids).await?;
    go_up(db, Adopt::Yes(ids)).await
}

/// Says what adopting the legacy table would mean; `None` where there is none. Writes nothing.
pub async fn check_adoption(
    db: &DatabaseConnection,
    options: CheckOptions,
    ids: &IdMap,
) -> Result<Option<Report>> {
    adoption::refuse_other_names(db, ids).await?;
    if db.get_database_backend() != DbBackend::MySql {
        return Ok(None);
    }
    let turn = Turn::take(db, TURN_WAIT).await?;
    let outcome = adoption::check(turn.connection(), options, ids).await;
    turn.end(outcome).await
}

/// All that [`up_adopting`] refuses before it looks at the legacy table, which is [`check_adoption`]'s. Writes
/// nothing.
pub async fn refusals(db: &DatabaseConnection) -> Result<Vec<Error>> {
    let status = status(db).await?;
    let mut refused: Vec<_> = status.refuse_newer().err().into_iter().collect();
    match adoption::stage(db).await? {
        Stage::GoingBack => refused.push(Error::DownInterrupted),
        Stage::Waiting => refused.extend(adoption::in_the_way(db).await?),
        Stage::None if !status.pending.is_empty() => {
            let manager = SchemaManager::new(db);
            refused.extend(guard::tables_of_others(&manager).await?);
            if refused.is_empty() {
                refused.extend(guard::refuse_log_without_head(&manager).await.err());
            }
            if db.get_database_backend() == DbBackend::MySql {
                // What it lacks is the report's to say.
                refused.retain(|error| !matches!(error, Error::SeedTable));
            }
        }
        Stage::None | Stage::Unfinished(_) | Stage::Adopted { .. } => {}
    }
    Ok(refused)
}

/// Drops everything that [`up`] has made and gives the names of the migrations undone; an adopted table is given back.
/// Refuses while the log holds events that would be lost, unless told to discard them. Interrupted, it can be run
/// again.
pub async fn down(db: &DatabaseConnection, options: DownOptions) -> Result<Vec<String>> {
    status(db).await?.refuse_unknown()?;
    let turn = Turn::take(db, TURN_WAIT).await?;
    let outcome = undo(turn.connection(), options).await;
    turn.end(outcome).await
}

#[derive(Clone, Copy)]
enum Adopt<'a> {
    /// With these names.
    Yes(&'a IdMap),
    No,
}

async fn go_up(db: &DatabaseConnection, adopt: Adopt<'_>) -> Result<Vec<String>> {
    let status = status(db).await?;
    status.refuse_newer()?;
    let stage = adoption::stage(db).await?;
    let is_settled = matches!(stage, Stage::None | Stage::Adopted { is_clear: true });
    if status.pending.is_empty() && is_settled {
        return Ok(status.pending);
    }
    let ours = adoption::own_connections(db).await?;
    let turn = Turn::take(db, TURN_WAIT).await?;
    let outcome = apply(turn.connection(), adopt, &ours).await;
    turn.end(outcome).await
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let released: [Box<dyn MigrationTrait>; 3] = [
            Box::new(m20261123_000001_create_log::Migration),
            Box::new(m20261123_000002_create_projections::Migration),
            Box::new(m20261201_000004_expand_lost_ends::Migration),
        ];
        #[cfg(feature = "upcoming")]
        let released = released.into_iter().chain(upcoming::migrations());
        released.into_iter().collect()
    }
}

async fn apply(db: &DatabaseTransaction, adopt: Adopt<'_>, ours: &[i64]) -> Result<Vec<String>> {
    let before = read_status(db).await?;
    before.refuse_newer()?;
    let manager = SchemaManager::new(db);
    match adoption::stage(db).await? {
        Stage::None | Stage::Adopted { is_clear: true } => {}
        Stage::Adopted { is_clear: false } => adoption::clear_up(db).await?,
        stage @ (Stage::Waiting | Stage::Unfinished(_)) => match (adopt, stage) {
            (Adopt::Yes(ids), _) => adoption::adopt(db, ours, ids).await?,
            // Said by the guard, where migrations are pending.
            (Adopt::No, Stage::Waiting) => {}
            (Adopt::No, stage) => refuse_unfinished(stage)?,
        },
        stage @ Stage::GoingBack => refuse_unfinished(stage)?,
    }
    let status = read_status(db).await?;
    if !status.pending.is_empty() {
        status.refuse_unknown()?;
        guard::refuse_tables_of_others(&manager).await?;
        guard::refuse_log_without_head(&manager).await?;
        apply_pending(db, &status.pending).await?;
    }
    let after = read_status(db).await?.applied.into_iter();
    Ok(after.filter(|name| !before.applied.contains(name)).collect())
}

/// Not SeaORM's `up`: that one stops at a name that it does not know, and an adopted table has left one.
async fn apply_pending(db: &DatabaseTransaction, pending: &[String]) -> Result<()> {
    let operation = "apply the migrations";
    let manager = SchemaManager::new(db);
    Migrator::install(db).await.during(operation)?;
    for migration in Migrator::migrations() {
        let name = migration.name();
        if !pending.iter().any(|pending| pending == name) {
            continue;
        }
        let patience = Patience::new();
        while let Err(error) = migration.up(&manager).await {
            patience.after(error).await.during(operation)?;
        }
        let now = match db.get_database_backend() {
            DbBackend::Sqlite => "unixepoch()",
            _ => "UNIX_TIMESTAMP()",
        };
        let insert = format!("INSERT INTO {BOOKKEEPING} (version, applied_at) VALUES (?, {now})");
        let insert = Statement::from_sql_and_values(db.get_database_backend(), insert, [name.into()]);
        db.execute_raw(insert).await.during(operation)?;
    }
    Ok(())
}

/// Not SeaORM's `down`: that one deletes a migration's record after its tables, so that an interruption leaves a
/// schema that counts as applied and is not there. Here head and records go first and together, and the tables of
/// every migration that this program knows follow, recorded or not.
async fn undo(db: &DatabaseTransaction, options: DownOptions) -> Result<Vec<String>> {
    let status = read_status(db).await?;
    status.refuse_unknown()?;
    let undone = status.applied.into_iter().rev().collect();
    if adoption::give_back(db, options).await? {
        return Ok(undone);
    }
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
        let patience = Patience::new();
        while let Err(error) = migration.down(&manager).await {
            patience.after(error).await.during("drop the tables")?;
        }
    }
    if recorded {
        Migrator::uninstall(db)
            .await
            .during("drop the table of migrations")?;
    }
    Ok(undone)
}

fn refuse_unfinished(stage: Stage) -> Result<()> {
    match stage {
        Stage::Unfinished(progress) => Err(Error::AdoptionUnfinished(progress)),
        Stage::GoingBack => Err(Error::DownInterrupted),
        Stage::None | Stage::Waiting | Stage::Adopted { .. } => Ok(()),
    }
}

async fn read_status<'c>(db: impl IntoSchemaManagerConnection<'c> + Copy) -> Result<Status> {
    let recorded = recorded(&SchemaManager::new(db))
        .await
        .during("read which migrations are applied")?;
    let known: Vec<String> = Migrator::migrations()
        .iter()
        .map(|migration| migration.name().to_owned())
        .collect();
    let (mut applied, pending): (Vec<_>, _) = known.iter().cloned().partition(|name| recorded.contains(name));
    // Recorded on an adopted database only, and pending on none.
    let (adopted, unknown): (Vec<_>, _) = recorded
        .into_iter()
        .filter(|name| !known.contains(name))
        .partition(|name| name == adoption::ADOPTED);
    applied.extend(adopted);
    Ok(Status {
        applied,
        pending,
        unknown,
        unfinished: refuse_unfinished(adoption::stage(db).await?)
            .err()
            .map(|error| error.to_string()),
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
    /// Whether the messages of before were adopted with a legacy table.
    pub fn is_adopted(&self) -> bool {
        self.applied.iter().any(|name| name == adoption::ADOPTED)
    }

    /// Refuses what a newer version has done beyond expanding the schema.
    fn refuse_newer(&self) -> Result<()> {
        let newer: Vec<_> = self.unknown.iter().filter(|name| !only_expands(name)).collect();
        refuse(&newer)
    }

    /// Refuses whatever a newer version has done.
    fn refuse_unknown(&self) -> Result<()> {
        refuse(&self.unknown.iter().collect::<Vec<_>>())
    }
}

fn refuse(newer: &[&String]) -> Result<()> {
    if newer.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = newer.iter().map(|name| name.as_str()).collect();
    Err(Error::NewerSchema(names.join(", ")))
}

#[cfg(test)]
mod tests;
