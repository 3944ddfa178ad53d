//! What the domain needs from the outside: the log to write, the outbox to read what is committed, the timeline for
//! history. Adapters: MySQL/MariaDB/SQLite in `chat-infrastructure`, memory in [`crate::memory`]; one contract suite
//! holds them to what is said here.
//!
//! A position is *proven* when every event at or below it can be read by every read that begins later. On MariaDB a
//! single SELECT can show position p and not yet p-1, so no cursor may pass a position that is not proven: either the
//! tail has seen the whole prefix, or [`Outbox::head`] returned it before.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    Position,
    batch::Outcome,
    command::Command,
    cursor::{Cursor, Epoch},
    event::Recorded,
    ids::{ConversationId, UserId},
    rejection::Rejection,
    views::{ConversationPage, Message, MessagePage, MessageRange},
};

/// Executes commands.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Records the event of a command, and returns once that is durable.
    ///
    /// Atomic: the event, its position and the projections are there together or not at all. Positions are drawn in
    /// commit order without a hole, and so is `seq` within a conversation. A command with a key that the actor used
    /// before is not recorded again, however late it comes. A caller that goes away does not take its command back.
    async fn execute(&self, command: Command) -> Result<Outcome, ExecuteError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The queue is full. Nothing was written; send again later.
    #[error("too many commands are waiting")]
    Overloaded,
    /// The database cannot be reached, or the server stops. Nothing was written; send again later.
    #[error("the log cannot be written now")]
    Unavailable,
    /// The answer of a COMMIT was lost and could not be had within the limit. The command may be recorded: send it
    /// again with the same key to learn it.
    #[error("whether the command was recorded is not known")]
    OutcomeUnknown,
}

/// Reads what is committed.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The head of the log. Its position is proven.
    async fn head(&self) -> Result<Head, StoreError>;

    /// The earlier epochs, in the order in which they ended.
    async fn earlier_epochs(&self) -> Result<Vec<EpochEnd>, StoreError>;

    /// Events after a position, ascending, as one read shows them: a hole in what is returned may be an event that
    /// is committed and not visible yet. Only the tail calls this, and proves what it passes on.
    async fn read_after(&self, after: Position, limit: PageLimit) -> Result<Vec<Arc<Recorded>>, StoreError>;

    /// The events that a reader may see after one position and up to another, which must be proven.
    /// What it costs follows what there is for the reader, not the length of the log.
    async fn page(&self, reader: &Reader, range: PageRange, limit: PageLimit) -> Result<Page, StoreError>;
}

/// Who follows the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reader {
    /// Sees the conversations that it participates in.
    User(UserId),
    /// A service that sees every event.
    Everything,
}

impl From<UserId> for Reader {
    fn from(user: UserId) -> Self {
        Self::User(user)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub epoch: Epoch,
    pub position: Position,
    /// Holes between positions exist only at or below this one.
    pub floor: Position,
    /// The first position that is still there.
    pub oldest: Position,
}

impl Head {
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch.clone(),
            position: self.position,
        }
    }
}

/// How far the numbers jump where one epoch follows another, so that none ever means two things.
pub const EPOCH_JUMP: Position = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: Epoch,
    /// Where it ended. What followed has all up to here, and its numbers go on after a jump.
    pub last_position: Position,
    /// Its cursors resume up to here. That is where it ended, unless numbers before were given out twice: what is between
    /// is in the log, and some who read it saw other events under these numbers, or may have missed some.
    pub common: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Exclusive.
    pub after: Position,
    /// Inclusive, proven.
    pub up_to: Position,
    /// How many positions to look at in one read: what the page before said, or all at first.
    pub width: Position,
}

impl PageRange {
    pub const WHOLE: Position = Position::MAX;
}

/// Bytes of a page of history or of a list, at most: as bytes in the store, and as JSON on the wire. One message always
/// fits. A reader that stands still holds one page and a few events, which is at most 256 kB.
pub const PAGE_BYTES: usize = 192 << 10;

/// Bounds what a page holds in memory. One event always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    pub events: usize,
    pub bytes: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Ascending.
    pub events: Vec<Arc<Recorded>>,
    /// Everything for the reader up to this position is in the page or before it.
    pub complete_to: Position,
    /// The width for the next page.
    pub next_width: Position,
}

/// Reads history.
#[async_trait]
pub trait Timeline: Send + Sync {
    /// Messages of a conversation, as far as `user` may see them: none of a conversation that is not the user's.
    async fn messages(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        range: MessageRange,
    ) -> Result<MessagePage, StoreError>;

    /// One message as it is now. `None` also for one that `user` may not see.
    async fn message(&self, user: &UserId, id: Position) -> Result<Option<Message>, StoreError>;

    /// The conversations of `user`, those with the newest message first; from those whose last message is before
    /// `before`.
    async fn conversations(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<ConversationPage, StoreError>;
}

/// A read failed. It may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database cannot be read now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row that this version cannot understand.
    #[error("the log holds a row that cannot be read, at position {position}: {what}")]
    Unreadable { position: Position, what: String },
}
