//! A migration as a next version may bring it, of every kind that counts as expanding: for the test that runs `migrate
//! up` of that version beside nodes of this one.
//!
//! Nothing of it is in a server: it comes with the feature `upcoming`, which a release build refuses, and even then is
//! not there until the variable `UPCOMING` is set, so that one binary of the tests stands for both versions.

#[cfg(not(debug_assertions))]
compile_error!("the feature `upcoming` is for the tests only");

use sea_orm_migration::prelude::*;

use crate::dialect::Dialect;

/// What comes after everything that is released.
pub(crate) fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    if std::env::var_os("UPCOMING").is_none() {
        return Vec::new();
    }
    vec![Box::new(Migration)]
}

struct Migration;

/// Columns, one of which may not be null and has a default.
const COLUMNS: [(&str, &str, bool); 4] = [
    ("outbox", "thread_id", true),
    ("messages", "edited_at", true),
    ("participants", "muted", false),
    ("log_head", "pruned_at", true),
];

const TABLE: &str = "reactions";
const INDEX: &str = "messages_sender";

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20991231_000001_expand_reactions"
    }
}

#[expect(
    elided_lifetimes_in_paths,
    reason = "async_trait tells the signature from the trait's by its spelling"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = Dialect::of(manager);
        for (table, column, nullable) in COLUMNS {
            if manager.has_column(table, column).await? {
                continue;
            }
            let mut definition = sql.number(column);
            if nullable {
                definition.null();
            } else {
                definition.default(0);
            }
            manager
                .alter_table(Table::alter().table(table).add_column(definition).take())
                .await?;
        }
        let mut reactions = sql.table(TABLE);
        reactions.col(sql.key("message_id")).col(sql.text("user_id", 32));
        sql.create(manager, reactions, []).await?;
        if !manager.has_index("messages", INDEX).await? {
            let index = Index::create()
                .name(INDEX)
                .table("messages")
                .col("sender_id")
                .take();
            manager.create_index(index).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table(TABLE).if_exists().take())
            .await
    }
}
