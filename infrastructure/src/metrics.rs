//! What the writer, the tail and the followers count.
//!
//! Counters and histograms go to the recorder of the process, by handles that are taken once, when the part starts:
//! without a recorder a count costs nothing. What is a state and not an event is not counted but asked for
//! ([`standing`](crate::standing)). `api` describes all of it, and shows it.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};

/// Commands of a transaction that was committed.
pub const BATCH_COMMANDS: &str = "chat_batch_commands";
/// Seconds of such a transaction, from before the lock to after the COMMIT.
pub const BATCH_COMMIT_SECONDS: &str = "chat_batch_commit_seconds";
/// By `reason`.
pub const BATCH_RETRIES: &str = "chat_batch_retries_total";
pub const OUTCOMES_UNKNOWN: &str = "chat_outcomes_unknown_total";
pub const EPOCHS_BEGUN: &str = "chat_epochs_begun_total";

/// Why a batch, or a part of one, ran again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryReason {
    /// It lost against another transaction.
    Conflict,
    /// The database refused something in it.
    Refused,
    /// The head of the log was not where it was seen.
    Moved,
    /// The connection broke.
    Connection,
    /// The transaction took too long.
    Timeout,
}

impl RetryReason {
    pub const ALL: [Self; 5] = [
        Self::Conflict,
        Self::Refused,
        Self::Moved,
        Self::Connection,
        Self::Timeout,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Moved => "moved",
            Self::Connection => "connection",
            Self::Timeout => "timeout",
        }
    }
}

/// The handles of the writer.
pub(crate) struct WriterMetrics {
    batch_commands: Histogram,
    commit_seconds: Histogram,
    retries: [Counter; RetryReason::ALL.len()],
}

impl WriterMetrics {
    pub(crate) fn new() -> Self {
        Self {
            batch_commands: histogram!(BATCH_COMMANDS),
            commit_seconds: histogram!(BATCH_COMMIT_SECONDS),
            retries: RetryReason::ALL.map(|reason| counter!(BATCH_RETRIES, "reason" => reason.as_str())),
        }
    }

    pub(crate) fn committed(&self, commands: usize, time: Duration) {
        self.batch_commands.record(commands as f64);
        self.commit_seconds.record(time);
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        self.retries[reason as usize].increment(1);
    }
}

/// What senders were told.
pub(crate) fn outcomes_unknown() -> Counter {
    counter!(OUTCOMES_UNKNOWN)
}

/// An epoch began by this node's doing.
pub(crate) fn epoch_begun() {
    counter!(EPOCHS_BEGUN).increment(1);
}
