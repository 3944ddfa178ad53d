//! What readers are shown: projections of the log.

use crate::{
    Position,
    content::Content,
    cursor::Cursor,
    ids::{ConversationId, UserId},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: Position,
    pub conversation_id: ConversationId,
    pub seq: i64,
    pub sender_id: UserId,
    pub receiver_id: UserId,
    /// Whole seconds since the Unix epoch.
    pub sent_at: i64,
    pub received_at: Option<i64>,
    /// `None` once the message has been erased.
    pub content: Option<Content>,
}

/// Which messages of a conversation to list. All bounds hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageRange {
    /// `_id` below this.
    pub before: Option<Position>,
    /// `_id` above this.
    pub after: Option<Position>,
    /// `sent_at` at or after this second.
    pub since: Option<i64>,
    /// `sent_at` at or before this second.
    pub until: Option<i64>,
    /// Ascending from the lower bound, or descending from the upper one.
    pub order: Order,
    /// How many at most. A page of large messages may hold fewer.
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    Ascending,
    #[default]
    Descending,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePage {
    pub messages: Vec<Message>,
    /// Whether the range holds messages after the last of these, in the page's order.
    pub more: bool,
    /// Taken before the page was read: a stream from here misses nothing that the page does not show.
    pub cursor: Cursor,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationView {
    pub conversation_id: ConversationId,
    pub seq: i64,
    /// Messages that the reader has not marked as read.
    pub unread: i64,
    pub last_message: Option<Message>,
    /// Sorted by user id.
    pub participants: Vec<ParticipantView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantView {
    pub user_id: UserId,
    pub received_seq: i64,
    pub read_seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationPage {
    /// The one with the newest message first.
    pub conversations: Vec<ConversationView>,
    /// Where the next page begins: conversations whose last message is before this.
    pub next_before: Option<Position>,
    /// Taken before the page was read.
    pub cursor: Cursor,
}
