//! How far somebody has received and read.

use chat_domain::{
    batch::Marked,
    command::{Action, ReceiptKind},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Unexpected},
};
use utoipa::ToSchema;

use crate::terms;

/// Everything up to a message is received, or read. Cumulative, and never backwards: what is so already stays so.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReceipt {
    #[serde(rename = "type")]
    pub kind: ReceiptType,
    /// The `_id` of the last message that is meant.
    #[serde(deserialize_with = "whole_number")]
    #[schema(value_type = terms::MessageId)]
    pub up_to: i64,
}

/// JSON knows no integers: `7.0` is 7, as JSON Schema has it, and some languages write whole numbers so.
pub(crate) fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(i64),
        Float(f64),
    }
    const MOST: f64 = ((1_i64 << 53) - 1) as f64;
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => Ok(number),
        Number::Float(number) if number.fract() == 0.0 && number.abs() <= MOST => Ok(number as i64),
        Number::Float(number) => Err(D::Error::invalid_type(
            Unexpected::Float(number),
            &"a whole number",
        )),
    }
}

/// How far it is meant.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptType {
    Received,
    /// Implies received.
    Read,
}

impl NewReceipt {
    pub fn action(&self) -> Action {
        let kind = match self.kind {
            ReceiptType::Received => ReceiptKind::Received,
            ReceiptType::Read => ReceiptKind::Read,
        };
        Action::SendReceipt {
            kind,
            up_to: self.up_to,
        }
    }
}

/// The marks of the caller in a conversation: the `seq` of the last message received and read, 0 for none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Receipt<'a> {
    #[schema(value_type = terms::ConversationId)]
    pub conversation_id: &'a str,
    #[schema(value_type = terms::UserId)]
    pub user_id: &'a str,
    #[schema(value_type = terms::Seq)]
    pub received_seq: i64,
    #[schema(value_type = terms::Seq)]
    pub read_seq: i64,
}

impl<'a> From<&'a Marked> for Receipt<'a> {
    fn from(marked: &'a Marked) -> Self {
        Self {
            conversation_id: marked.conversation_id.as_str(),
            user_id: marked.user_id.as_str(),
            received_seq: marked.received_seq,
            read_seq: marked.read_seq,
        }
    }
}
