//! How far somebody has received and read.

use chat_domain::{
    batch::Marked,
    command::{Action, ReceiptKind},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything up to a message is received, or read. Cumulative, and never backwards: what is so already stays so.
#[derive(Deserialize, ToSchema)]
pub struct NewReceipt {
    #[serde(rename = "type")]
    pub kind: ReceiptType,
    /// The `_id` of the last message that is meant.
    #[schema(example = 4182, minimum = 1)]
    pub up_to: i64,
}

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
    #[schema(example = "alice,bob")]
    pub conversation_id: &'a str,
    #[schema(example = "bob")]
    pub user_id: &'a str,
    #[schema(example = 17)]
    pub received_seq: i64,
    #[schema(example = 17)]
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
