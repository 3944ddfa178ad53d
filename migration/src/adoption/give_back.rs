//! The way back.

use sea_orm_migration::SchemaManager;
use tracing::info;

use super::{
    CLOSED, OURS, RECORD, ROWS_IN_A_STEP, Record, SEED, Shape, Sql, State, Steps, create_closed,
    drop_what_is_left,
    ids::{self, Names},
    shape,
};
use crate::dialect::drop_tables;
use crate::error::{During, Error, Result};
use crate::{BOOKKEEPING, DownOptions, guard};

/// The largest number that the legacy column holds.
const LARGEST_ID: i64 = u32::MAX as i64;

/// The tables of the log; `log_head` first, so that nothing is written to what goes.
const LOG: [&str; 7] = [
    "log_head",
    "checkpoints",
    "participants",
    "conversations",
    "outbox",
    "epochs",
    "lost_ends",
];

pub(super) async fn run(
    manager: &SchemaManager<'_>,
    sql: &Sql<'_>,
    record: Record,
    options: DownOptions,
) -> Result<()> {
    let place = shape(sql, "messages").await?;
    match record.state {
        State::Adopting if place != Shape::Ours => {
            Record::enter(sql, State::Cancelling).await?;
            cancel(manager, sql).await
        }
        State::Cancelling => cancel(manager, sql).await,
        State::Discarding => discard(manager).await,
        State::Returning => return_rows(manager, sql, record).await,
        State::Adopting | State::Clearing | State::Adopted => {
            if record.state == State::Adopted {
                guard::refuse_tables(manager, &[SEED, OURS, CLOSED]).await?;
            }
            stop_writers(sql, &record, options).await?;
            // An adoption may have been interrupted at its very end.
            drop_what_is_left(manager).await?;
            if options.discard_messages {
                return discard(manager).await;
            }
            let record = Record::read(sql).await?.unwrap_or(record);
            return_rows(manager, sql, record).await
        }
    }
}

/// The legacy table is whole; it goes back to its place, and what was made of it goes.
async fn cancel(manager: &SchemaManager<'_>, sql: &Sql<'_>) -> Result<()> {
    if shape(sql, "messages").await? == Shape::Closed && sql.exists(SEED).await? {
        sql.rename(&[("messages", CLOSED), (SEED, "messages")]).await?;
        info!("the legacy table is in its place again");
    }
    drop_the_log(manager).await
}

/// Decides whether the log may go, and lets nobody write to it any more. The head is locked first, as writers lock it:
/// what they have committed is seen here, and afterwards they find no head.
async fn stop_writers(sql: &Sql<'_>, record: &Record, options: DownOptions) -> Result<()> {
    sql.run("START TRANSACTION").await?;
    let head: Vec<i64> = sql
        .column("SELECT position FROM log_head WHERE id = 1 FOR UPDATE")
        .await?;
    let head = *head.first().ok_or(Error::HeadMissing)?;
    let state = if options.discard_messages {
        State::Discarding
    } else {
        refuse_loss(sql, record, head, options).await?;
        State::Returning
    };
    sql.run(&format!(
        "UPDATE {RECORD} SET state = '{}', line = {head}, position = 0 WHERE id = 1",
        state.name()
    ))
    .await?;
    sql.run("DELETE FROM log_head").await?;
    if sql.exists(BOOKKEEPING).await? {
        sql.run(&format!("DELETE FROM {BOOKKEEPING}")).await?;
    }
    sql.run("COMMIT").await.map(|_| ())
}

async fn refuse_loss(sql: &Sql<'_>, record: &Record, head: i64, options: DownOptions) -> Result<()> {
    let line = record.line.unwrap_or(0);
    let last: i64 = sql
        .value("SELECT CAST(COALESCE(MAX(_id), 0) AS SIGNED) FROM messages")
        .await?;
    if last > LARGEST_ID {
        return Err(Error::IdTooLarge { id: last });
    }
    refuse_incomplete(sql).await?;
    let events: i64 = sql
        .value(&format!(
            "SELECT CAST(COUNT(*) AS SIGNED) FROM outbox WHERE position > {line}"
        ))
        .await?;
    if events > 0 && !options.discard_log {
        return Err(Error::LosesLog { events });
    }
    // What was received is in the table only once the projector was there.
    let received: Vec<i64> = sql
        .column("SELECT position FROM checkpoints WHERE name = 'received_at'")
        .await?;
    let unseen: i64 = sql
        .value(&format!(
            "SELECT CAST(COUNT(*) AS SIGNED) FROM outbox WHERE position > {} AND position <= {head} \
             AND received_after < COALESCE(up_to_seq, seq)",
            received.first().copied().unwrap_or(0)
        ))
        .await?;
    if unseen > 0 {
        return Err(Error::ReceivedBehind);
    }
    Ok(())
}

/// What is given back is the table `messages`, and the log goes: the one has to have all of the other. A `rebuild` that
/// was interrupted, or is at work, leaves it half empty.
async fn refuse_incomplete(sql: &Sql<'_>) -> Result<()> {
    let rebuilding: i64 = sql
        .value("SELECT CAST(COUNT(*) AS SIGNED) FROM checkpoints WHERE name = 'rebuild'")
        .await?;
    let missing: i64 = sql
        .value(
            "SELECT CAST((SELECT COUNT(*) FROM outbox WHERE type = 'message.sent') AS SIGNED) \
             - CAST((SELECT COUNT(*) FROM messages) AS SIGNED)",
        )
        .await?;
    if rebuilding != 0 || missing != 0 {
        return Err(Error::MessagesIncomplete);
    }
    Ok(())
}

async fn return_rows(manager: &SchemaManager<'_>, sql: &Sql<'_>, record: Record) -> Result<()> {
    if shape(sql, "messages").await? == Shape::Ours {
        // What an adoption that was interrupted at its very end has left behind.
        drop_what_is_left(manager).await?;
        create_closed(manager).await?;
        sql.rename(&[("messages", OURS), (CLOSED, "messages")]).await?;
    }
    if shape(sql, "messages").await? == Shape::Closed {
        fill(sql, &record).await?;
        sql.rename(&[("messages", CLOSED), (SEED, "messages")]).await?;
        info!("the legacy table is in its place again");
    }
    drop_the_log(manager).await
}

/// Makes the legacy table by the statement that made it, and puts the rows into it.
async fn fill(sql: &Sql<'_>, record: &Record) -> Result<()> {
    if !sql.exists(SEED).await? {
        let made = record.definition.replacen("`messages`", &format!("`{SEED}`"), 1);
        sql.run(&made).await?;
    }
    let mut after = record.position;
    let mut told = after;
    let mut steps = Steps::new();
    let names = Names::of(sql).await?;
    let (sender, receiver) = (names.old_id("sender_id"), names.old_id("reciver_id"));
    while let Some((last, count)) = steps.next(sql, OURS, after).await? {
        sql.run("START TRANSACTION").await?;
        let copied = sql
            .run(&format!(
                "INSERT INTO {SEED} (_id, sender_id, reciver_id, sent_at, recived_at, data) \
                 SELECT _id, {sender}, {receiver}, sent_at, recived_at, data FROM {OURS} \
                 WHERE _id > {after} AND _id <= {last} ORDER BY _id"
            ))
            .await?;
        if copied != count {
            return Err(Error::SeedChanged {
                found: copied,
                expected: count,
            });
        }
        sql.run(&format!("UPDATE {RECORD} SET position = {last} WHERE id = 1"))
            .await?;
        sql.run("COMMIT").await?;
        after = last;
        if after - told >= ROWS_IN_A_STEP {
            info!(id = after, "rows are given back");
            told = after;
        }
    }
    let rows_of = async |table: &str| {
        sql.value::<i64>(&format!("SELECT CAST(COUNT(*) AS SIGNED) FROM {table}"))
            .await
    };
    // Counted now that nobody can reach it any more.
    let (found, expected) = (rows_of(SEED).await?, rows_of(OURS).await?);
    if found != expected {
        return Err(Error::SeedChanged { found, expected });
    }
    let next = (record.line.unwrap_or(0) + 1).min(LARGEST_ID);
    sql.run(&format!("ALTER TABLE {SEED} AUTO_INCREMENT = {next}"))
        .await
        .map(|_| ())
}

/// Drops what is of the log, the record last. `messages` is the legacy table.
async fn drop_the_log(manager: &SchemaManager<'_>) -> Result<()> {
    let operation = "drop the tables of the log";
    drop_tables(manager, &LOG).await.during(operation)?;
    drop_tables(manager, &[OURS, CLOSED, BOOKKEEPING, ids::TABLE, RECORD])
        .await
        .during(operation)
}

/// Drops everything, as told.
async fn discard(manager: &SchemaManager<'_>) -> Result<()> {
    drop_tables(manager, &["messages", SEED])
        .await
        .during("drop the messages")?;
    drop_the_log(manager).await
}
