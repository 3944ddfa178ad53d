//! The ports of the domain, on each thing that implements them: for tests that need no server around them.

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use chat_domain::{
    Position,
    batch::{Marked, Outcome},
    command::{Action, Command, ReceiptKind},
    content::Content,
    cursor::{Cursor, Epoch},
    event::Recorded,
    ids::{CommandKey, ConversationId, UserId},
    memory::MemoryLog,
    ports::{EventLog, ExecuteError, Outbox, PageLimit, Timeline},
};
use chat_infrastructure::{
    database::Database as Connected,
    followers::received_at::{Projector, Step},
    handover::{Committed, Origin},
    location::Location,
    outbox::SqlOutbox,
    tail::Publish,
    timeline::SqlTimeline,
    writer::{GroupCommit, WriterOptions, WriterTask},
};
use tokio::sync::mpsc;

use crate::Database;

/// The three ports on one log.
pub struct Ports {
    pub log: Arc<dyn EventLog>,
    pub outbox: Arc<dyn Outbox>,
    pub timeline: Arc<dyn Timeline>,
    sql: Option<Sql>,
}

struct Sql {
    connected: Connected,
    _writer: WriterTask,
    committed: Mutex<Option<mpsc::Receiver<Committed>>>,
}

impl Ports {
    pub fn memory() -> Ports {
        let clock = || {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("the clock is past 1970");
            i64::try_from(now.as_micros()).expect("the year is below 200,000")
        };
        let log = MemoryLog::new(Epoch::parse("memory").expect("a name"), clock);
        Ports {
            log: Arc::new(log.clone()),
            outbox: Arc::new(log.clone()),
            timeline: Arc::new(log),
            sql: None,
        }
    }

    /// On a database, whose schema is brought up to date.
    pub async fn on(database: &Database) -> Ports {
        Self::at(&database.url(), WriterOptions::default()).await
    }

    pub async fn at(url: &str, options: WriterOptions) -> Ports {
        let location = Location::parse(url).expect("the harness writes URLs");
        let connected = Connected::connect(location, 8)
            .await
            .expect("the database is there");
        chat_migration::up(&connected.pool)
            .await
            .expect("the schema goes up");
        let (to_tail, committed) = mpsc::channel(64);
        let (log, writer) = GroupCommit::start(&connected, options, to_tail);
        Ports {
            log: Arc::new(log),
            outbox: Arc::new(SqlOutbox::new(connected.clone())),
            timeline: Arc::new(SqlTimeline::new(connected.clone())),
            sql: Some(Sql {
                connected,
                _writer: writer,
                committed: Mutex::new(Some(committed)),
            }),
        }
    }

    /// The database under the ports, where there is one.
    pub fn connected(&self) -> Option<&Connected> {
        self.sql.as_ref().map(|sql| &sql.connected)
    }

    /// What the writer hands to the tail; can be taken once.
    pub fn take_committed(&self) -> mpsc::Receiver<Committed> {
        let sql = self.sql.as_ref().expect("the log in memory has no writer");
        let taken = sql.committed.lock().expect("no panic under the lock").take();
        taken.expect("it is taken once")
    }

    /// Lets the projector do everything that the log asks for.
    pub async fn project(&self) {
        let Some(sql) = &self.sql else { return };
        let head = self.outbox.head().await.expect("the head is readable").position;
        let mut projector = Projector::new(sql.connected.clone());
        while projector.step(head).await.expect("the projector works") != Step::Done {}
    }

    pub async fn execute(
        &self,
        actor: &str,
        key: Option<&str>,
        action: Action,
    ) -> Result<Outcome, ExecuteError> {
        let key = key.map_or_else(GroupCommit::new_key, |key| CommandKey::parse(key).expect("a key"));
        self.log
            .execute(Command {
                actor_id: user(actor),
                via: None,
                key,
                may_begin: true,
                action,
            })
            .await
    }

    pub async fn send(&self, from: &str, to: &str, text: &str) -> Arc<Recorded> {
        self.send_content(from, to, Content::text(text)).await
    }

    pub async fn send_content(&self, from: &str, to: &str, content: Content) -> Arc<Recorded> {
        match self
            .execute(
                from,
                None,
                Action::SendMessage {
                    receiver_id: user(to),
                    content,
                },
            )
            .await
        {
            Ok(Outcome::Sent(recorded)) => recorded,
            other => panic!("a send came to {other:?}"),
        }
    }

    pub async fn receipt(
        &self,
        actor: &str,
        kind: ReceiptKind,
        up_to: Position,
    ) -> Result<Marked, ExecuteError> {
        match self
            .execute(actor, None, Action::SendReceipt { kind, up_to })
            .await?
        {
            Outcome::Marked(marked) => Ok(marked),
            other => panic!("a receipt came to {other:?}"),
        }
    }

    /// The whole log.
    pub async fn events(&self) -> Vec<Arc<Recorded>> {
        let limit = PageLimit {
            events: 1000,
            bytes: usize::MAX,
        };
        let mut events: Vec<Arc<Recorded>> = Vec::new();
        loop {
            let after = events.last().map_or(0, |event| event.position);
            let more = self
                .outbox
                .read_after(after, limit)
                .await
                .expect("the log is readable");
            if more.is_empty() {
                return events;
            }
            events.extend(more);
        }
    }
}

pub fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a user id")
}

pub fn direct(one: &str, other: &str) -> ConversationId {
    ConversationId::direct(&user(one), &user(other))
}

/// Keeps what a tail passes on.
#[derive(Default)]
pub struct Collected {
    pub events: Mutex<Vec<Arc<Recorded>>>,
    pub restarts: Mutex<Vec<Cursor>>,
}

impl Collected {
    pub fn positions(&self) -> Vec<Position> {
        self.events
            .lock()
            .expect("no panic under the lock")
            .iter()
            .map(|event| event.position)
            .collect()
    }
}

impl Publish for Collected {
    fn publish(&self, events: &[Arc<Recorded>], _: &Origin, _: &Cursor) {
        self.events
            .lock()
            .expect("no panic under the lock")
            .extend(events.iter().cloned());
    }

    fn restart(&self, at: &Cursor) {
        self.restarts
            .lock()
            .expect("no panic under the lock")
            .push(at.clone());
    }
}
