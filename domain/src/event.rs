//! What happened, in the past tense. A stored event is never edited: shapes are only added.

use crate::{
    Micros, Position,
    command::{CommandHash, ReceiptKind},
    content::Content,
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
    seconds,
    views::Message,
};

/// An event with its place in the log: what a row of the outbox says.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    pub position: Position,
    pub occurred_at: Micros,
    pub conversation: ConversationNumber,
    pub conversation_id: ConversationId,
    pub actor_id: UserId,
    /// The other member of a direct conversation.
    pub receiver_id: UserId,
    pub via: Option<UserId>,
    pub key: CommandKey,
    pub hash: CommandHash,
    /// The number of messages in the conversation as of this event; of a message, its own number.
    pub seq: i64,
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    MessageSent {
        /// `None` once the message has been erased.
        content: Option<Content>,
        /// The sender's marks move to its own message: what came before is received with it. Of a message that was
        /// there before the log, its own `seq`: see [`Recorded::is_adopted`].
        received_after: i64,
        /// When it was received, in seconds, where that was before the log: no event of the log says so.
        received_at: Option<i64>,
    },
    ReceiptMoved {
        kind: ReceiptKind,
        up_to: UpTo,
        /// The mark before: this event says that the messages after it, up to `up_to.seq`, are received.
        received_after: i64,
    },
    /// An event of a type that a newer version wrote. It is passed on as it is, and changes nothing that this
    /// version knows.
    Other {
        kind: String,
        fields: serde_json::Map<String, serde_json::Value>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpTo {
    pub id: Position,
    pub seq: i64,
}

pub const MESSAGE_SENT: &str = "message.sent";
pub const RECEIPT_RECEIVED: &str = "receipt.received";
pub const RECEIPT_READ: &str = "receipt.read";

impl Event {
    /// The type, as the log and the wire name it.
    pub fn kind(&self) -> &str {
        match self {
            Self::MessageSent { .. } => MESSAGE_SENT,
            Self::ReceiptMoved {
                kind: ReceiptKind::Received,
                ..
            } => RECEIPT_RECEIVED,
            Self::ReceiptMoved {
                kind: ReceiptKind::Read,
                ..
            } => RECEIPT_READ,
            Self::Other { kind, .. } => kind,
        }
    }
}

impl Recorded {
    /// Who may see the event: the members of its conversation.
    pub fn audience(&self) -> impl Iterator<Item = &UserId> {
        let other = (self.receiver_id != self.actor_id).then_some(&self.receiver_id);
        std::iter::once(&self.actor_id).chain(other)
    }

    /// Whether this is a message that was there before the log: everybody has received and read it already. No other
    /// has been received by its sender before it was sent.
    pub fn is_adopted(&self) -> bool {
        matches!(&self.event, Event::MessageSent { received_after, .. } if *received_after >= self.seq)
    }

    /// The messages that this event says the actor has received: those after the first number, up to the second.
    pub fn received_range(&self) -> Option<(i64, i64)> {
        match &self.event {
            // A message marks everything before it as received by its sender; in a conversation with oneself, itself too.
            Event::MessageSent { received_after, .. } => {
                let last = if self.actor_id == self.receiver_id {
                    self.seq
                } else {
                    self.seq - 1
                };
                (*received_after < last).then_some((*received_after, last))
            }
            Event::ReceiptMoved {
                up_to,
                received_after,
                ..
            } => (*received_after < up_to.seq).then_some((*received_after, up_to.seq)),
            Event::Other { .. } => None,
        }
    }

    /// The message that this event sent, as it was at that moment.
    pub fn message(&self) -> Option<Message> {
        let Event::MessageSent {
            content, received_at, ..
        } = &self.event
        else {
            return None;
        };
        Some(Message {
            id: self.position,
            conversation_id: self.conversation_id.clone(),
            seq: self.seq,
            sender_id: self.actor_id.clone(),
            receiver_id: self.receiver_id.clone(),
            sent_at: seconds(self.occurred_at),
            received_at: *received_at,
            content: content.clone(),
        })
    }

    /// About what the event holds in memory, in bytes.
    pub fn weight(&self) -> usize {
        let content = match &self.event {
            Event::MessageSent {
                content: Some(content),
                ..
            } => content.bytes.len(),
            Event::Other { fields, .. } => fields.len() * 64,
            _ => 0,
        };
        size_of::<Self>() + 128 + content
    }
}
