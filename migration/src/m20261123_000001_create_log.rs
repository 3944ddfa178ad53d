//! The log: `log_head`, the row that every writer locks first; `epochs`, the histories before this one; `outbox`, the
//! events, from which all other tables can be rebuilt.

use rand::Rng;
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
        create_tables(manager).await?;
        // Last, so that whoever finds a head finds a log under it.
        insert_head(manager, 0).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["log_head", "outbox", "epochs"]).await
    }
}

pub(crate) async fn create_tables(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let sql = Dialect::of(manager);

    let mut log_head = sql.table("log_head");
    log_head
        .col(sql.tiny_key("id"))
        .col(sql.text("epoch", 16))
        .col(sql.number("position"))
        .col(sql.number("last_time"))
        .col(sql.number("floor"))
        .col(sql.number("oldest"))
        .col(sql.text("server_id", 64).null());
    sql.create(manager, log_head, []).await?;

    let mut epochs = sql.table("epochs");
    epochs
        .col(sql.text("epoch", 16).primary_key())
        .col(sql.number("last_position"))
        .col(sql.number("switched_at"));
    sql.create(manager, epochs, []).await?;

    let mut outbox = sql.table("outbox");
    outbox
        .col(sql.key("position"))
        .col(sql.text("type", 48))
        .col(sql.number("conversation_id"))
        .col(sql.text("actor_id", 32))
        .col(sql.text("via", 32).null())
        .col(sql.text("command_key", 65))
        .col(sql.bytes("command_hash", 32))
        .col(sql.number("occurred_at"))
        .col(sql.text("receiver_id", 32))
        .col(sql.number("seq"))
        .col(sql.number("up_to_id").null())
        .col(sql.number("up_to_seq").null())
        .col(sql.number("received_after"))
        .col(sql.text("content_type", 127).null())
        .col(sql.content("content"))
        .col(sql.long_text("fields").null());
    let indexes = [
        unique("outbox_command", ["actor_id", "command_key"]),
        index("outbox_conversation", ["conversation_id", "position"]),
    ];
    sql.create(manager, outbox, indexes).await
}

/// A log that begins after a position: what is at or below it was there before, with holes.
///
/// Asked and then inserted, which is safe because migrations take turns. `INSERT IGNORE` would hide other errors.
pub(crate) async fn insert_head(manager: &SchemaManager<'_>, position: i64) -> Result<(), DbErr> {
    let db = manager.get_connection();
    let head = Query::select().column("id").from("log_head").take();
    if db.query_one(&head).await?.is_some() {
        return Ok(());
    }
    let head = Query::insert()
        .into_table("log_head")
        .columns(["id", "epoch", "position", "last_time", "floor", "oldest"])
        .values([
            1.into(),
            new_epoch().into(),
            position.into(),
            0.into(),
            position.into(),
            1.into(),
        ])
        .map_err(|error| DbErr::Custom(error.to_string()))?
        .take();
    db.execute(&head).await.map(|_| ())
}

/// Eight of `a-z0-9`: forty bits, for a name that only has to differ from the few before it.
fn new_epoch() -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    (0..8)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect()
}
