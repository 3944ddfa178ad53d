//! Adopts the legacy table `messages` with its rows, and gives it back.
//!
//! MySQL and MariaDB commit every statement of DDL by itself, and a million rows fit into no transaction, so the work
//! is a row of steps, each of which can be interrupted anywhere and repeated. The table `adoption` says how far it is.
//!
//! - **The door is closed first.** One atomic RENAME moves the legacy table aside and puts an empty table in its place
//!   that has none of its columns. From then on every INSERT of an old client fails, whatever its `sql_mode`, and a
//!   version of this program that knows no adoption finds a table `messages` that is not its own, and refuses.
//!   Not taken: new columns without a default (a client that is not strict inserts all the same), a trigger (needs a
//!   right that our user has not), a CHECK (may not name a counted column).
//! - **Rows go over in steps**, inside the database, each with its log row, its conversation and its marks, and the
//!   checkpoint with them in one transaction. This process holds a few numbers at a time.
//! - **The head of the log comes last**, and then one more atomic RENAME opens the door again, on the new table. What
//!   was there before is dropped after that.
//!
//! The way back is the same: head and bookkeeping go in one transaction, which stops every writer; rows go over in
//! steps; one RENAME opens the door on the legacy table, made by the statement that was kept.
//!
//! Altering the table in place was refused: it copies the table too, in one statement that says nothing of its
//! progress and begins anew when it is interrupted, and meanwhile the table is neither the one nor the other.

mod adopt;
mod check;
mod give_back;
mod ids;
mod others;
mod sql;

use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend};
use sea_orm_migration::{DbErr, IntoSchemaManagerConnection, SchemaManager};

pub use check::{CheckOptions, Finding, Report, Verdict};
pub use ids::IdMap;
pub(crate) use others::own_connections;
pub(crate) use sql::Sql;

use crate::DownOptions;
use crate::dialect::{Dialect, drop_tables};
use crate::error::{During, Error, Result};

/// How many rows go over in one transaction.
const ROWS_IN_A_STEP: i64 = 10_000;

/// How many bytes of content one transaction takes at most, or one row.
const BYTES_IN_A_STEP: i64 = 64 << 20;

/// Recorded with the other migrations once a table was adopted. A version that does not know it knows no adopted rows
/// either, and would lose what it cannot read of them when it makes the projections anew.
pub(crate) const ADOPTED: &str = "m20261125_000003_adopt_seed_table";

/// The one row of it says how far an adoption is, and what to give back.
pub(crate) const RECORD: &str = "adoption";
/// The legacy table, while it is not in its place.
const SEED: &str = "messages_seed";
/// Our table, while it is not in its place.
const OURS: &str = "messages_adopted";
/// What stands in the place of both meanwhile, and its only column.
const CLOSED: &str = "messages_closed";
const CLOSED_COLUMN: &str = "closed_for_adoption";

/// The columns of the legacy table.
const COLUMNS: [&str; 6] = ["_id", "sender_id", "reciver_id", "sent_at", "recived_at", "data"];

/// How far the adoption of a table is, or its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Rows go over to the log.
    Adopting,
    /// All is adopted; what stood beside it while it went on is dropped.
    Clearing,
    /// Whatever stands beside the table now is somebody else's.
    Adopted,
    /// The adoption is taken back before it was done: the legacy table is still whole.
    Cancelling,
    /// Rows go back to the legacy table.
    Returning,
    /// Everything goes.
    Discarding,
}

impl State {
    const ALL: [Self; 6] = [
        Self::Adopting,
        Self::Clearing,
        Self::Adopted,
        Self::Cancelling,
        Self::Returning,
        Self::Discarding,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Adopting => "adopting",
            Self::Clearing => "clearing",
            Self::Adopted => "adopted",
            Self::Cancelling => "cancelling",
            Self::Returning => "returning",
            Self::Discarding => "discarding",
        }
    }
}

/// The row of `adoption`.
#[derive(Clone, Debug)]
struct Record {
    state: State,
    /// The statement that made the legacy table.
    definition: String,
    /// The last number that was given out, once the table is closed. No number at or below it is drawn again.
    line: Option<i64>,
    /// How many rows there are to go over.
    messages: i64,
    /// Rows up to this `_id` have gone over.
    position: i64,
}

/// Which table stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Absent,
    Seed,
    Ours,
    Closed,
    Strange,
}

/// What there is to do before the schema can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No legacy table is or was here.
    None,
    /// One waits to be adopted.
    Waiting,
    /// One is adopted half-way.
    Unfinished(String),
    /// One was adopted; what is left of it may still have to be dropped.
    Adopted { is_clear: bool },
    /// A `down` was interrupted.
    GoingBack,
}

pub(crate) async fn stage<'c, C: IntoSchemaManagerConnection<'c>>(connection: C) -> Result<Stage> {
    let connection = connection.into_database_executor();
    if connection.get_database_backend() != DbBackend::MySql {
        return Ok(Stage::None);
    }
    let sql = Sql::new(connection);
    let Some(record) = Record::read(&sql).await? else {
        return Ok(match shape(&sql, "messages").await? {
            Shape::Seed => Stage::Waiting,
            _ => Stage::None,
        });
    };
    Ok(match record.state {
        State::Clearing => Stage::Adopted { is_clear: false },
        State::Adopted => Stage::Adopted { is_clear: true },
        State::Adopting => Stage::Unfinished(match record.line {
            Some(line) => format!("up to _id {} of {line}", record.position),
            None => "at its beginning".into(),
        }),
        State::Cancelling | State::Returning | State::Discarding => Stage::GoingBack,
    })
}

/// Adopts the table, from wherever the adoption is. `ours` are the connections of this process; an adoption that was
/// interrupted goes on with the names that it began with.
pub(crate) async fn adopt(session: &DatabaseTransaction, ours: &[i64], ids: &IdMap) -> Result<()> {
    let sql = Sql::new(session);
    sql.prepare().await?;
    adopt::run(&SchemaManager::new(session), &sql, ours, ids).await
}

/// Refuses new names where there is nobody to name, or where others were taken already.
pub(crate) async fn refuse_other_names(db: &DatabaseConnection, ids: &IdMap) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    match stage(db).await? {
        Stage::None => Err(Error::NobodyToName),
        Stage::Unfinished(_) | Stage::Adopted { .. } => {
            let stored = ids::stored(&Sql::new(db)).await?;
            if stored.iter().all(|(old, new)| ids.get(old) == Some(new)) {
                Ok(())
            } else {
                Err(Error::OtherNames)
            }
        }
        Stage::Waiting | Stage::GoingBack => Ok(()),
    }
}

/// The tables that are in the way of an adoption, each as it is refused.
pub(crate) async fn in_the_way(db: &DatabaseConnection) -> Result<Vec<Error>> {
    adopt::in_the_way(&SchemaManager::new(db), &Sql::new(db)).await
}

/// Ends an adoption that was interrupted at its very end.
pub(crate) async fn clear_up(session: &DatabaseTransaction) -> Result<()> {
    adopt::clear_up(&SchemaManager::new(session), &Sql::new(session)).await
}

async fn drop_what_is_left(manager: &SchemaManager<'_>) -> Result<()> {
    drop_tables(manager, &[SEED, CLOSED])
        .await
        .during("drop what the adoption has left")
}

/// Says what is in the table, and what would become of it; `None` where there is no such table. Writes nothing.
pub(crate) async fn check(
    session: &DatabaseTransaction,
    options: CheckOptions,
    ids: &IdMap,
) -> Result<Option<Report>> {
    let sql = Sql::new(session);
    let record = Record::read(&sql).await?;
    let table = match (shape(&sql, "messages").await?, record) {
        // What a strange one lacks is said.
        (Shape::Seed, _) | (Shape::Strange, None) => "messages",
        (Shape::Closed, Some(record)) if record.state == State::Adopting => SEED,
        _ => return Ok(None),
    };
    sql.prepare().await?;
    // Of one that is half adopted the names are settled.
    let settled = match table {
        SEED => Some(ids::stored(&sql).await?),
        _ => None,
    };
    let ids = settled.as_ref().unwrap_or(ids);
    check::examine(&sql, table, options, ids).await.map(Some)
}

/// Gives the legacy table back, from wherever the adoption is. `Ok(false)` where none was adopted.
pub(crate) async fn give_back(session: &DatabaseTransaction, options: DownOptions) -> Result<bool> {
    if session.get_database_backend() != DbBackend::MySql {
        return Ok(false);
    }
    let sql = Sql::new(session);
    let Some(record) = Record::read(&sql).await? else {
        return Ok(false);
    };
    sql.prepare().await?;
    give_back::run(&SchemaManager::new(session), &sql, record, options).await?;
    Ok(true)
}

impl Record {
    async fn read(sql: &Sql<'_>) -> Result<Option<Self>> {
        if !has_all(&sql.columns(RECORD).await?, &["state", "definition"]) {
            return Ok(None);
        }
        let select = format!("SELECT state, definition, line, messages, position FROM {RECORD} WHERE id = 1");
        let Some(row) = sql.row(&select).await? else {
            return Ok(None);
        };
        let read = || {
            let name: String = row.try_get("", "state")?;
            let state = State::ALL.into_iter().find(|state| state.name() == name);
            Ok(Some(Self {
                state: state.ok_or_else(|| DbErr::Custom(format!("adoption.state is {name:?}")))?,
                definition: row.try_get("", "definition")?,
                line: row.try_get("", "line")?,
                messages: row.try_get("", "messages")?,
                position: row.try_get("", "position")?,
            }))
        };
        read().during("read how far the adoption is")
    }

    async fn create_table(manager: &SchemaManager<'_>) -> Result<()> {
        let sql = Dialect::of(manager);
        let mut table = sql.table(RECORD);
        table
            .col(sql.tiny_key("id"))
            .col(sql.text("state", 16))
            .col(sql.long_text("definition"))
            .col(sql.number("line").null())
            .col(sql.number("messages"))
            .col(sql.number("position"));
        sql.create(manager, table, [])
            .await
            .during("make the record of the adoption")
    }

    async fn enter(sql: &Sql<'_>, state: State) -> Result<()> {
        let update = format!("UPDATE {RECORD} SET state = '{}' WHERE id = 1", state.name());
        sql.run(&update).await.map(|_| ())
    }
}

async fn shape(sql: &Sql<'_>, table: &str) -> Result<Shape> {
    let columns = sql.columns(table).await?;
    Ok(if columns.is_empty() {
        Shape::Absent
    } else if has_all(&columns, &[CLOSED_COLUMN]) {
        Shape::Closed
    } else if has_all(&columns, &["_id", "conversation_id"]) {
        Shape::Ours
    } else if has_all(&columns, &COLUMNS) {
        Shape::Seed
    } else {
        Shape::Strange
    })
}

fn has_all(columns: &[String], wanted: &[&str]) -> bool {
    wanted
        .iter()
        .all(|name| columns.iter().any(|column| column == name))
}

/// The table that stands in the place of `messages` while rows go over. It has a key because some servers demand one.
async fn create_closed(manager: &SchemaManager<'_>) -> Result<()> {
    let sql = Dialect::of(manager);
    let mut table = sql.table(CLOSED);
    table.col(sql.tiny_key(CLOSED_COLUMN));
    sql.create(manager, table, [])
        .await
        .during("make the table that keeps old clients out")
}

/// The way over a table, in steps of bounded rows and bytes.
struct Steps {
    /// Rows of the next step. What was too much for one is hardly less for the next: to find that out costs a reading of
    /// all these contents.
    limit: i64,
}

impl Steps {
    fn new() -> Self {
        Self {
            limit: ROWS_IN_A_STEP,
        }
    }

    /// The last `_id` of the next step, and how many rows it has. `None` at the end.
    async fn next(&mut self, sql: &Sql<'_>, table: &str, after: i64) -> Result<Option<(i64, i64)>> {
        let (last, count) = next_step(sql, table, after, self.limit).await?;
        self.limit = (2 * count).clamp(1, ROWS_IN_A_STEP);
        Ok(last.map(|last| (last, count)))
    }
}

async fn next_step(sql: &Sql<'_>, table: &str, after: i64, mut limit: i64) -> Result<(Option<i64>, i64)> {
    loop {
        let row = sql
            .row(&format!(
                "SELECT CAST(MAX(_id) AS SIGNED) AS last, CAST(COUNT(*) AS SIGNED) AS counted, \
                 CAST(COALESCE(SUM(size), 0) AS SIGNED) AS bytes FROM (SELECT _id, OCTET_LENGTH(data) AS size \
                 FROM {table} WHERE _id > {after} ORDER BY _id LIMIT {limit}) step"
            ))
            .await?;
        let read = || -> Result<_, DbErr> {
            let row = row.as_ref().ok_or_else(|| DbErr::RecordNotFound(table.into()))?;
            let last: Option<i64> = row.try_get("", "last")?;
            Ok((
                last,
                row.try_get::<i64>("", "counted")?,
                row.try_get::<i64>("", "bytes")?,
            ))
        };
        let (last, count, bytes) = read().during("find the next rows")?;
        if bytes <= BYTES_IN_A_STEP || count <= 1 {
            return Ok((last, count));
        }
        limit = count / 2;
    }
}
