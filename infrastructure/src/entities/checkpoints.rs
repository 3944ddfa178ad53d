//! How far each projector has come.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "checkpoints")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub position: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// `recived_at` is filled up to this event.
pub const RECEIVED_AT: &str = "received_at";

/// There while the projections are made anew, and after a rebuild that was interrupted.
pub const REBUILD: &str = "rebuild";
