//! The tail of the committed log: the one source of everything that readers are given.
//!
//! Each node has one. Batches that the node wrote itself come through memory and are passed on when they continue
//! what was passed on before; all else is read from the database, by polling that is quick while other nodes write
//! and pauses up to a bound while they do not.
//!
//! Invariant: the tail passes over the contiguous prefix only, row = last + 1. A read that shows p and not p-1 stops
//! before p and is repeated at once, for on MariaDB p-1 may be committed and not visible yet. Two holes are allowed:
//! those at or below the log's floor, and the jump where a new epoch begins. Any other that stays is an alarm, never
//! something to skip.
//!
//! When the hand-over from the writer is full the batch is dropped there, and read from the database here.

use std::{sync::Arc, time::Duration};

use chat_domain::{
    Position,
    cursor::Cursor,
    event::Recorded,
    ports::{EPOCH_JUMP, Head, Outbox, PageLimit, StoreError},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    error::Causes,
    handover::{Committed, Origin},
};

/// Takes what the tail passes on. Called from one task, in order; must not block.
pub trait Publish: Send + Sync {
    /// Events that follow those published before, since when they are known, and how far the log is known with them.
    fn publish(&self, events: &[Arc<Recorded>], origin: &Origin, at: &Cursor);

    /// The log lost what was published after some position, and goes on from here.
    fn restart(&self, at: &Cursor);
}

#[derive(Debug, Clone)]
pub struct TailOptions {
    /// The shortest pause between two polls, while other nodes write.
    pub least_pause: Duration,
    /// The longest, while nothing comes.
    pub most_pause: Duration,
    pub page: PageLimit,
}

impl Default for TailOptions {
    fn default() -> Self {
        Self {
            least_pause: Duration::from_millis(4),
            most_pause: Duration::from_millis(50),
            page: PageLimit {
                events: 1000,
                bytes: 4 << 20,
            },
        }
    }
}

/// How long a hole may stay before it is an alarm.
pub const GAP_ALARM: Duration = Duration::from_secs(1);
/// How often the epoch is looked at while nothing comes.
const EPOCH_CHECK: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(1);

/// Asks the tail to look now, and tells how it is.
#[derive(Clone, Default)]
pub struct TailHandle {
    poke: Arc<Notify>,
    health: Arc<Mutex<Health>>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Health {
    /// The last proven position; none before the first read.
    pub position: Option<Position>,
    /// Since when a hole has been there.
    pub gap_since: Option<Instant>,
    /// Whether the last read failed.
    pub failing: bool,
}

impl TailHandle {
    /// A hint that there is something new. It saves latency; polling is the truth.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    pub fn health(&self) -> Health {
        *self.health.lock()
    }

    fn set(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.health.lock());
    }
}

pub struct Tail {
    outbox: Arc<dyn Outbox>,
    committed: mpsc::Receiver<Committed>,
    publish: Arc<dyn Publish>,
    options: TailOptions,
    handle: TailHandle,
    stop: CancellationToken,
}

impl Tail {
    pub fn new(
        outbox: Arc<dyn Outbox>,
        committed: mpsc::Receiver<Committed>,
        publish: Arc<dyn Publish>,
        options: TailOptions,
        stop: CancellationToken,
    ) -> Self {
        Self {
            outbox,
            committed,
            publish,
            options,
            handle: TailHandle::default(),
            stop,
        }
    }

    pub fn handle(&self) -> TailHandle {
        self.handle.clone()
    }

    /// Follows the log from its present head until it is stopped.
    pub async fn run(mut self) {
        let Some(head) = self.first_head().await else {
            return;
        };
        let mut at = head.cursor();
        info!(outbox.epoch = %at.epoch, outbox.position = at.position, "the tail begins");
        self.passed_over(&at);
        let mut pause = self.options.least_pause;
        let mut epoch_checked = Instant::now();
        loop {
            let committed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                committed = self.committed.recv() => match committed {
                    Some(committed) => Some(committed),
                    // The writer has ended; other nodes may go on.
                    None => {
                        tokio::select! {
                            () = self.stop.cancelled() => return,
                            () = tokio::time::sleep(pause) => None,
                            () = self.handle.poke.notified() => None,
                        }
                    }
                },
                () = tokio::time::sleep(pause) => None,
                () = self.handle.poke.notified() => None,
            };
            if let Some(committed) = &committed {
                match Self::follows(&committed.events, at.position) {
                    Follows::AtOnce => {
                        self.advance(&committed.events, &committed.origin, &mut at);
                        continue;
                    }
                    Follows::Known => continue,
                    Follows::Later => {}
                }
            }
            match self.read(&mut at, committed.as_ref()).await {
                Ok(0) if epoch_checked.elapsed() >= EPOCH_CHECK => {
                    epoch_checked = Instant::now();
                    if let Err(error) = self.check_epoch(&mut at).await {
                        self.failed(&error);
                    }
                    pause = (pause * 2).min(self.options.most_pause);
                }
                Ok(0) => pause = (pause * 2).min(self.options.most_pause),
                Ok(_) => pause = self.options.least_pause,
                Err(error) => {
                    self.failed(&error);
                    pause = (pause * 2).min(LAST_BACKOFF);
                }
            }
        }
    }

    async fn first_head(&self) -> Option<Head> {
        let mut pause = self.options.least_pause;
        loop {
            match self.outbox.head().await {
                Ok(head) => return Some(head),
                Err(error) => self.failed(&error),
            }
            pause = (pause * 2).min(LAST_BACKOFF);
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn follows(committed: &[Arc<Recorded>], position: Position) -> Follows {
        match (committed.first(), committed.last()) {
            (Some(first), _) if first.position == position + 1 => Follows::AtOnce,
            (_, Some(last)) if last.position > position => Follows::Later,
            _ => Follows::Known,
        }
    }

    /// Reads everything that is proven now, in which `own` may be; returns how many events that was.
    async fn read(&self, at: &mut Cursor, own: Option<&Committed>) -> Result<usize, StoreError> {
        let mut read = 0;
        loop {
            let rows = self.outbox.read_after(at.position, self.options.page).await?;
            self.handle.set(|health| health.failing = false);
            let proven = (1..)
                .zip(&rows)
                .take_while(|(n, row)| row.position == at.position + n)
                .count();
            self.advance_read(&rows[..proven], own, at);
            read += proven;
            if proven < rows.len() {
                self.hole(at, rows[proven].position).await?;
                return Ok(read);
            }
            self.handle.set(|health| health.gap_since = None);
            if rows.is_empty() {
                return Ok(read);
            }
        }
    }

    fn advance(&self, events: &[Arc<Recorded>], origin: &Origin, at: &mut Cursor) {
        if let Some(last) = events.last() {
            at.position = last.position;
            self.passed(events, origin, at);
        }
    }

    /// Of what was read, the node's own batch comes from its commit.
    fn advance_read(&self, rows: &[Arc<Recorded>], own: Option<&Committed>, at: &mut Cursor) {
        let elsewhere = Origin::elsewhere();
        let ends = own.and_then(|own| Some((own, own.events.first()?.position, own.events.last()?.position)));
        let Some((own, first, last)) = ends else {
            return self.advance(rows, &elsewhere, at);
        };
        let (others, rest) = rows.split_at(rows.partition_point(|row| row.position < first));
        let (owned, rest) = rest.split_at(rest.partition_point(|row| row.position <= last));
        self.advance(others, &elsewhere, at);
        self.advance(owned, &own.origin, at);
        self.advance(rest, &elsewhere, at);
    }

    /// Passes on that the log is known further, without an event.
    fn passed_over(&self, at: &Cursor) {
        self.passed(&[], &Origin::elsewhere(), at);
    }

    fn passed(&self, events: &[Arc<Recorded>], origin: &Origin, at: &Cursor) {
        self.publish.publish(events, origin, at);
        self.handle.set(|health| health.position = Some(at.position));
    }

    /// A row was shown that does not follow: a new epoch began in between, or the hole is one that the log's floor
    /// allows, or the row before it is not visible yet. In any case the next read comes at once.
    async fn hole(&self, at: &mut Cursor, next: Position) -> Result<(), StoreError> {
        let head = self.check_epoch(at).await?;
        if at.position < next && next <= head.floor + 1 {
            at.position = next - 1;
            self.passed_over(at);
        }
        let mut alarm = false;
        self.handle.set(|health| {
            let since = *health.gap_since.get_or_insert_with(Instant::now);
            alarm = since.elapsed() >= GAP_ALARM;
        });
        if alarm {
            error!(
                outbox.position = at.position,
                "the event after this position is missing in the log"
            );
            tokio::time::sleep(self.options.most_pause).await;
        }
        self.handle.poke();
        Ok(())
    }

    /// Passes over the jump to a new epoch, once everything before it has been passed on.
    async fn check_epoch(&self, at: &mut Cursor) -> Result<Head, StoreError> {
        let head = self.outbox.head().await?;
        if head.epoch == at.epoch {
            return Ok(head);
        }
        let ends = self.outbox.earlier_epochs().await?;
        let Some(first) = ends.iter().position(|end| end.epoch == at.epoch) else {
            warn!(outbox.epoch = %head.epoch, "the log belongs to another history now");
            *at = head.cursor();
            self.publish.restart(at);
            return Ok(head);
        };
        // Several may have begun with nothing between them.
        for (end, ended) in ends.iter().enumerate().skip(first) {
            let last = ended.last_position;
            // Of numbers that were given out twice nobody can tell which events a reader has seen.
            if at.position > ended.common {
                warn!(outbox.epoch = %head.epoch, outbox.position = ended.common, "log truncated: the head is behind what was delivered");
                *at = head.cursor();
                self.publish.restart(at);
                break;
            }
            if at.position < last {
                break;
            }
            let next = ends.get(end + 1).map_or(&head.epoch, |next| &next.epoch);
            *at = Cursor {
                epoch: next.clone(),
                position: last + EPOCH_JUMP,
            };
            info!(outbox.epoch = %at.epoch, outbox.position = at.position, "a new epoch begins");
            self.passed_over(at);
        }
        Ok(head)
    }

    fn failed(&self, error: &StoreError) {
        let mut first = false;
        self.handle
            .set(|health| first = !std::mem::replace(&mut health.failing, true));
        if first {
            error!(error = %Causes(error), "the tail cannot read the log; it tries again");
        }
    }
}

enum Follows {
    AtOnce,
    Later,
    /// The tail has read it from the database already.
    Known,
}
