//! What is read: `messages`, `conversations`, `participants`, each rebuilt from the log when need be, and
//! `checkpoints`, how far the work has come that is done outside the writer's transaction.
//!
//! `messages` keeps the legacy columns to the letter, misspellings included. `_id` is the position of the event that
//! sent the message and is not counted by the table, and nothing has a default: a client of the original system's that still
//! inserts by itself fails loudly instead of drawing a number that the log will need.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, drop_tables, index, unique};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[expect(
    elided_lifetimes_in_paths,
    reason = "async_trait tells the signature from the trait's by its spelling"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_tables(manager, "messages").await?;
        insert_checkpoint(manager, "received_at", 0).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(
            manager,
            &["checkpoints", "participants", "conversations", "messages"],
        )
        .await
    }
}

/// The tables, with `messages` under a name that it may have while rows go over to it. Under that one, no client that
/// is not strict gets a row in: what it leaves out would be 0.
pub(crate) async fn create_tables(
    manager: &SchemaManager<'_>,
    messages_name: &'static str,
) -> Result<(), DbErr> {
    let sql = Dialect::of(manager);

    let mut messages = sql.table(messages_name);
    messages
        .col(sql.key("_id"))
        .col(sql.text("sender_id", 32))
        .col(sql.text("reciver_id", 32))
        .col(sql.seconds("sent_at"))
        .col(sql.seconds("recived_at").null())
        .col(sql.content("data"))
        .col(sql.text("content_type", 127))
        .col(sql.number("conversation_id"))
        .col(sql.number("seq"));
    if messages_name != "messages" {
        messages.check(Check::named("messages_seq_counts", Expr::col("seq").gt(0)));
    }
    let indexes = [
        unique("messages_conversation_seq", ["conversation_id", "seq"]),
        index("message_time_index", ["sent_at"]),
    ];
    sql.create(manager, messages, indexes).await?;

    let mut conversations = sql.table("conversations");
    conversations
        .col(sql.key("id"))
        .col(sql.text("name", 65))
        .col(sql.number("seq"))
        .col(sql.number("last_position"))
        .col(sql.number("last_message_id"));
    sql.create(manager, conversations, [unique("conversations_name", ["name"])])
        .await?;

    let mut participants = sql.clustered_table("participants");
    participants
        .col(sql.text("user_id", 32))
        .col(sql.number("conversation_id"))
        .col(sql.number("from_position"))
        .col(sql.number("to_position").null())
        .col(sql.number("received_seq"))
        .col(sql.number("read_seq"))
        .primary_key(Index::create().col("user_id").col("conversation_id"));
    sql.create(
        manager,
        participants,
        [index("participants_conversation", ["conversation_id"])],
    )
    .await?;

    let mut checkpoints = sql.table("checkpoints");
    checkpoints
        .col(sql.text("name", 32).primary_key())
        .col(sql.number("position"));
    sql.create(manager, checkpoints, []).await
}

/// Asked and then inserted, which is safe because migrations take turns.
pub(crate) async fn insert_checkpoint(
    manager: &SchemaManager<'_>,
    name: &str,
    position: i64,
) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let checkpoint = Query::select()
        .column("position")
        .from("checkpoints")
        .and_where(Expr::col("name").eq(name))
        .take();
    if db.query_one(&checkpoint).await?.is_some() {
        return Ok(());
    }
    let checkpoint = Query::insert()
        .into_table("checkpoints")
        .columns(["name", "position"])
        .values([name.into(), position.into()])
        .map_err(|error| DbErr::Custom(error.to_string()))?
        .take();
    db.execute(&checkpoint).await.map(|_| ())
}
