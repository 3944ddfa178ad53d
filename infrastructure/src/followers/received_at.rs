//! Fills `recived_at` behind the log: outside the head lock, in bounded steps, from a checkpoint.
//!
//! An event says that its actor has received the messages of a range; each of them for this actor that has no
//! `recived_at` yet gets the event's time. Filling a range twice changes nothing, so a step that dies half-way, or
//! runs on two nodes at once, does no harm; the checkpoint moves in the transaction that fills the last range before
//! it. Nothing else changes `recived_at`.

use std::time::Duration;

use chat_domain::{Position, event::Recorded, seconds};
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IsolationLevel,
    SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    database::Database,
    entities::checkpoints,
    flavor::{Flavor, Index},
    rows,
    session::SILENCE_S,
    tail::TailHandle,
};

/// How many events one step looks at, and how many messages it changes at most.
const EVENTS_IN_A_STEP: Position = 1000;
const MESSAGES_IN_A_STEP: i64 = 2000;
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How long one may take: an answer that never comes is not waited for.
const STEP_LIMIT: Duration = Duration::from_secs(10);

pub struct Projector {
    database: Database,
    /// An event whose range is larger than a step, and the `seq` up to which it is filled.
    part_done: Option<(Position, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Everything up to the bound is filled.
    Done,
    More,
    /// Another node is at it.
    Elsewhere,
}

impl Projector {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            part_done: None,
        }
    }

    /// Follows the tail until it is stopped.
    pub async fn run(mut self, tail: TailHandle, stop: CancellationToken) {
        let mut done = None;
        loop {
            let bound = tail.health().position;
            let mut pause = PAUSE;
            if let Some(position) = bound.filter(|_| bound != done) {
                let step = tokio::select! {
                    step = timeout(STEP_LIMIT, self.step(position)) => step,
                    () = stop.cancelled() => return,
                };
                match step.unwrap_or_else(|_| Err(DbErr::Custom("a step took too long".into()))) {
                    Ok(Step::Done) => done = bound,
                    Ok(Step::More) => pause = Duration::ZERO,
                    Ok(Step::Elsewhere) => {}
                    Err(error) => {
                        warn!(error = %error, "recived_at cannot be filled now; it is tried again");
                        pause = PAUSE_AFTER_FAILURE;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Fills what the next events say, up to a proven position.
    pub async fn step(&mut self, bound: Position) -> Result<Step, DbErr> {
        let options = TransactionOptions {
            isolation_level: (self.database.flavor != Flavor::Sqlite)
                .then_some(IsolationLevel::ReadCommitted),
            access_mode: None::<AccessMode>,
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        };
        let database = self.database.clone();
        let txn = database.pool.begin_with_options(options).await?;
        // A node that is frozen here, or cut off, must not hold up the others. It stays so for this connection; one that
        // was idle for longer is made anew.
        if database.flavor != Flavor::Sqlite {
            let bound = format!("SET SESSION wait_timeout = {SILENCE_S}");
            txn.execute_unprepared(&bound).await?;
        }
        let Some(checkpoint) = take_checkpoint(&database, &txn).await? else {
            return Ok(Step::Elsewhere);
        };
        let mut end = (checkpoint + EVENTS_IN_A_STEP).min(bound);
        if end <= checkpoint {
            return Ok(Step::Done);
        }
        let mut room = MESSAGES_IN_A_STEP;
        for event in events_that_receive(&database, &txn, (checkpoint, end)).await? {
            let Some((mut after, last)) = event.received_range() else {
                continue;
            };
            if let Some((position, filled)) = self.part_done
                && position == event.position
            {
                after = after.max(filled);
            }
            let up_to = last.min(after + room);
            fill(&database, &txn, &event, (after, up_to)).await?;
            room -= up_to - after;
            if up_to < last {
                self.part_done = Some((event.position, up_to));
                end = event.position - 1;
                break;
            }
        }
        let update = "UPDATE checkpoints SET position = ? WHERE name = ?";
        txn.execute_raw(database.statement(update, [end.into(), checkpoints::RECEIVED_AT.into()]))
            .await?;
        txn.commit().await?;
        Ok(if end < bound { Step::More } else { Step::Done })
    }
}

/// How far `recived_at` is filled, whoever fills it.
pub(crate) async fn position(database: &Database) -> Result<Option<Position>, DbErr> {
    let select = "SELECT position FROM checkpoints WHERE name = ?";
    let read = database.statement(select, [checkpoints::RECEIVED_AT.into()]);
    let row = database.query_one(read).await?;
    row.map(|row| row.try_get("", "position")).transpose()
}

/// Where the projector is, held until the transaction ends.
async fn take_checkpoint(database: &Database, txn: &DatabaseTransaction) -> Result<Option<Position>, DbErr> {
    if database.flavor == Flavor::Sqlite {
        let row = checkpoints::Entity::find_by_id(checkpoints::RECEIVED_AT)
            .one(txn)
            .await?;
        return Ok(row.map(|row| row.position));
    }
    let select = "SELECT position FROM checkpoints WHERE name = ? FOR UPDATE SKIP LOCKED";
    let row = txn
        .query_one_raw(database.statement(select, [checkpoints::RECEIVED_AT.into()]))
        .await?;
    row.map(|row| row.try_get("", "position")).transpose()
}

async fn events_that_receive(
    database: &Database,
    txn: &DatabaseTransaction,
    (after, end): (Position, Position),
) -> Result<Vec<Recorded>, DbErr> {
    let select = format!(
        "SELECT {} FROM outbox o {} WHERE o.position > ? AND o.position <= ? \
         AND o.received_after < COALESCE(o.up_to_seq, o.seq) ORDER BY o.position",
        rows::selected_without_content(),
        database.flavor.force_index(Index::OutboxPosition),
    );
    let rows = txn
        .query_all_raw(database.statement(select, [after.into(), end.into()]))
        .await?;
    let read =
        |row| rows::event(row, row.try_get("", "position")?, None).map_err(|e| DbErr::Custom(e.to_string()));
    rows.iter().map(read).collect()
}

async fn fill(
    database: &Database,
    txn: &DatabaseTransaction,
    event: &Recorded,
    (after, up_to): (i64, i64),
) -> Result<(), DbErr> {
    let update = format!(
        "UPDATE messages {} SET recived_at = ? WHERE conversation_id = ? AND seq > ? AND seq <= ? \
         AND reciver_id = ? AND recived_at IS NULL",
        database.flavor.force_index(Index::MessagesSeq),
    );
    let values = [
        seconds(event.occurred_at).into(),
        event.conversation.0.into(),
        after.into(),
        up_to.into(),
        event.actor_id.as_str().into(),
    ];
    txn.execute_raw(database.statement(update, values)).await?;
    Ok(())
}
