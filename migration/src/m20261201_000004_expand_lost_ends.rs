//! `lost_ends`: of each epoch that ended and whose numbers were given out twice near its end, the last position that all
//! who read it have in common. A cursor of such an epoch resumes up to there.
//!
//! A table, and no column of `epochs`: nodes tell a restored log by the time at which that one was made, and to alter it
//! changes that time on MariaDB.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, drop_tables};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[expect(
    elided_lifetimes_in_paths,
    reason = "async_trait tells the signature from the trait's by its spelling"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = Dialect::of(manager);
        let mut lost_ends = sql.table("lost_ends");
        lost_ends
            .col(sql.text("epoch", 16).primary_key())
            .col(sql.number("common_position"));
        sql.create(manager, lost_ends, []).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        drop_tables(manager, &["lost_ends"]).await
    }
}
