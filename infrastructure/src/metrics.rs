//! What the writer, the tail and the projector count, and what can be asked of them.
//!
//! Counters and histograms go to whatever recorder the process has, by handles that are taken once, when the part
//! starts: without a recorder a count costs nothing. What is a state and not an event is not recorded but asked for
//! ([`Gauges`]), when somebody looks. `api` describes all of it, and shows it.

use std::time::Duration;

use chat_domain::Position;
use metrics::{Counter, Histogram, counter, histogram};

use crate::{
    database::Database,
    flavor::Flavor,
    outbox, projector,
    tail::TailHandle,
    writer::{GroupCommit, Queued},
};

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

/// Whom to ask for what is.
#[derive(Clone)]
pub struct Gauges {
    pub database: Database,
    pub log: GroupCommit,
    pub tail: TailHandle,
}

/// How it stands at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// What the database says; none where it does not answer.
    pub stored: Option<Stored>,
    /// How far the log was passed on; none before the tail began.
    pub tail: Option<Position>,
    /// How long an event has been missing in the log.
    pub gap: Duration,
    pub queued: Queued,
    pub pool: Pool,
    /// The database server that is written to, by what it says of itself, and the epoch of its log.
    pub primary: (String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub head: Position,
    /// How far `recived_at` is filled.
    pub projected: Position,
}

/// The connections for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub used: u32,
    pub idle: u32,
    pub most: u32,
}

impl Gauges {
    /// Looks. The database is given so long to answer.
    pub async fn look(&self, limit: Duration) -> Standing {
        let stored = tokio::time::timeout(limit, self.stored()).await;
        // After the head: a tail that has passed it on is seen to have.
        let health = self.tail.health();
        Standing {
            stored: stored.ok().flatten(),
            tail: health.position,
            gap: health.gap_since.map(|since| since.elapsed()).unwrap_or_default(),
            queued: self.log.queued(),
            pool: pool(&self.database),
            primary: self.database.primary.standing(),
        }
    }

    async fn stored(&self) -> Option<Stored> {
        let projected = projector::position(&self.database).await.ok()??;
        let head = outbox::read_head(&self.database).await.ok()?.position;
        Some(Stored { head, projected })
    }
}

fn pool(database: &Database) -> Pool {
    let (open, idle, most) = match database.flavor {
        Flavor::Sqlite => {
            let pool = database.pool.get_sqlite_connection_pool();
            (pool.size(), pool.num_idle(), pool.options().get_max_connections())
        }
        Flavor::MariaDb | Flavor::MySql => {
            let pool = database.pool.get_mysql_connection_pool();
            (pool.size(), pool.num_idle(), pool.options().get_max_connections())
        }
    };
    let idle = u32::try_from(idle).unwrap_or(u32::MAX).min(open);
    Pool {
        used: open - idle,
        idle,
        most,
    }
}
