//! How log, writer, tail and database stand at one moment, for gauges.

use std::time::Duration;

use chat_domain::Position;

use crate::{
    database::Database,
    flavor::Flavor,
    followers::received_at,
    outbox,
    tail::TailHandle,
    writer::{GroupCommit, Queued},
};

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
        let projected = received_at::position(&self.database).await.ok()??;
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
