//! The legacy table, its column names included: messages by the position of their event.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "messages")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false, column_name = "_id")]
    pub id: i64,
    pub sender_id: String,
    #[sea_orm(column_name = "reciver_id")]
    pub receiver_id: String,
    pub sent_at: u32,
    #[sea_orm(column_name = "recived_at")]
    pub received_at: Option<u32>,
    #[sea_orm(column_type = "custom(\"LONGBLOB\")", nullable)]
    pub data: Option<Vec<u8>>,
    pub content_type: String,
    pub conversation_id: i64,
    pub seq: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
