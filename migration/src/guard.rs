//! What a migration refuses to touch, looked at before anything is changed.

use sea_orm_migration::SchemaManager;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::sea_query::{Expr, Func, Query};

use crate::DownOptions;
use crate::error::{During, Error, Result};

/// Our tables, each with a column by which it is told from another program's table of the same name.
const TABLES: [(&str, &str); 10] = [
    ("log_head", "last_time"),
    ("epochs", "last_position"),
    ("lost_ends", "common_position"),
    ("outbox", "command_hash"),
    ("messages", "conversation_id"),
    ("conversations", "last_message_id"),
    ("participants", "from_position"),
    ("checkpoints", "position"),
    ("adoption", "definition"),
    ("adoption_ids", "new_id"),
];

/// The migrations say `IF NOT EXISTS` and `IF EXISTS`; this keeps them from taking over, or dropping, what is not
/// theirs. A table `messages` of an earlier chat is adopted before they run, or refused here.
pub(crate) async fn refuse_tables_of_others(manager: &SchemaManager<'_>) -> Result<()> {
    let refused = tables_of_others(manager).await?.into_iter().next();
    refused.map_or(Ok(()), Err)
}

/// Every such table, as it is refused.
pub(crate) async fn tables_of_others(manager: &SchemaManager<'_>) -> Result<Vec<Error>> {
    let mut refused = Vec::new();
    for (table, column) in TABLES {
        if is_strange(manager, table, column)
            .await
            .during("look for existing tables")?
        {
            refused.push(if table == "messages" {
                Error::SeedTable
            } else {
                Error::ForeignTable { table, column }
            });
        }
    }
    Ok(refused)
}

/// Refuses where one of these tables is there.
pub(crate) async fn refuse_tables(manager: &SchemaManager<'_>, names: &[&'static str]) -> Result<()> {
    let refused = tables_there(manager, names).await?.into_iter().next();
    refused.map_or(Ok(()), Err)
}

async fn tables_there(manager: &SchemaManager<'_>, names: &[&'static str]) -> Result<Vec<Error>> {
    let mut refused = Vec::new();
    for &table in names {
        if manager
            .has_table(table)
            .await
            .during("look for existing tables")?
        {
            refused.push(Error::InTheWay { table });
        }
    }
    Ok(refused)
}

/// An adoption makes all of its tables; nothing may be under their names, or under those of the tables given.
pub(crate) async fn tables_beside(
    manager: &SchemaManager<'_>,
    others: &[&'static str],
) -> Result<Vec<Error>> {
    // Those are there before the table is closed.
    let early = ["messages", "adoption", "adoption_ids"];
    let ours = TABLES.into_iter().map(|(table, _)| table);
    let made = ours.filter(|table| !early.contains(table));
    let names: Vec<_> = made.chain(others.iter().copied()).collect();
    let mut refused = tables_there(manager, &names).await?;
    for (table, column) in TABLES {
        if table != "messages"
            && early.contains(&table)
            && is_strange(manager, table, column)
                .await
                .during("look for existing tables")?
        {
            refused.push(Error::InTheWay { table });
        }
    }
    Ok(refused)
}

/// A new head begins at position 0, and must never be put over a log that has events.
pub(crate) async fn refuse_log_without_head(manager: &SchemaManager<'_>) -> Result<()> {
    let operation = "read the head of the log";
    let head = lock_head(manager).await.during(operation)?;
    let last = last_position(manager).await.during(operation)?;
    if head.is_none() && last.is_some() {
        Err(Error::HeadMissing)
    } else {
        Ok(())
    }
}

/// Takes the head of the log away. Writers lock it first, so once it is locked here none is at work, what they have
/// committed is seen, and afterwards they find no head to write under.
pub(crate) async fn stop_writers(manager: &SchemaManager<'_>, options: DownOptions) -> Result<()> {
    let operation = "stop the writers of the log";
    let head = lock_head(manager).await.during(operation)?;
    if !options.discard_messages
        && let Some(last_position) = last_position(manager).await.during(operation)?
    {
        return Err(Error::HoldsMessages { last_position });
    }
    if head.is_some() {
        let delete = Query::delete().from_table("log_head").take();
        manager
            .get_connection()
            .execute(&delete)
            .await
            .during(operation)?;
    }
    Ok(())
}

async fn is_strange(manager: &SchemaManager<'_>, table: &str, column: &str) -> Result<bool, DbErr> {
    Ok(manager.has_table(table).await? && !manager.has_column(table, column).await?)
}

/// `None` without the row, or without the table.
async fn lock_head(manager: &SchemaManager<'_>) -> Result<Option<()>, DbErr> {
    if !manager.has_table("log_head").await? {
        return Ok(None);
    }
    let head = Query::select()
        .column("position")
        .from("log_head")
        .lock_exclusive()
        .take();
    Ok(manager.get_connection().query_one(&head).await?.map(|_| ()))
}

/// The last event, or the last message where the log was pruned to nothing. Locking reads see what is committed,
/// whatever snapshot MariaDB has taken.
async fn last_position(manager: &SchemaManager<'_>) -> Result<Option<i64>, DbErr> {
    for (table, key) in [("outbox", "position"), ("messages", "_id")] {
        if !manager.has_table(table).await? {
            continue;
        }
        let last = Query::select()
            .expr_as(Func::max(Expr::col(key)), "last")
            .from(table)
            .lock_exclusive()
            .take();
        if let Some(row) = manager.get_connection().query_one(&last).await?
            && let Some(last) = row.try_get("", "last")?
        {
            return Ok(Some(last));
        }
    }
    Ok(None)
}
