//! Who is subscribed, and what they are handed as the tail passes it on.
//!
//! The hub takes what the tail publishes and puts it into the inboxes of those who may see it. It never waits for a
//! reader: an inbox that is full is emptied and marked, and its subscription goes back to the database.
//!
//! Publishing events, moving the position and arming an inbox happen under one lock. So an inbox that was armed at
//! position p holds every event after p, and no heartbeat says that the log was examined further than what was
//! handed out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chat_domain::{
    Position,
    cursor::{After, Cursor, ResetReason},
    event::Recorded,
    ids::UserId,
    ports::{Head, Outbox, Reader, StoreError},
};
use chat_infrastructure::{
    handover::Origin,
    planted::{self, Defect},
    tail::{Publish, TailHandle},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::subscription::{Greeting, Subscription};
use crate::problem::Code;

#[derive(Debug, Clone)]
pub struct HubOptions {
    /// How often a quiet subscription says how far the log was examined for it.
    pub heartbeat: Duration,
    /// How many events, and how many bytes of them, wait for one reader before it goes back to the database.
    pub inbox_events: usize,
    pub inbox_bytes: usize,
    /// How long a reader that resumes waits until this node has read what was committed when it asked. Without it the
    /// reader gets that as soon as the node has it, but a poll that does not wait might miss what was acknowledged
    /// before it.
    pub patience: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            inbox_events: 128,
            inbox_bytes: 64 << 10,
            patience: Duration::from_millis(250),
        }
    }
}

/// Why there is no new subscription: the server has not yet read the log, cannot read it now, or stops. It may be tried
/// again, here or at another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub Code);

#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) options: HubOptions,
    pub(super) outbox: Arc<dyn Outbox>,
    pub(super) closing: CancellationToken,
    tail: Mutex<Option<TailHandle>>,
    state: Mutex<State>,
    /// Follows the position in `state`, for those who wait for it.
    moved: watch::Sender<Position>,
    subscriptions: AtomicU64,
    pub(super) catching_up: AtomicU64,
}

#[derive(Default)]
struct State {
    /// How far the tail has come; none before it began.
    at: Option<Cursor>,
    /// Grows when the log lost its end under the readers.
    generation: u64,
    inboxes: HashMap<UserId, Vec<Arc<Inbox>>>,
    /// Of those who see every event.
    of_everything: Vec<Arc<Inbox>>,
}

impl State {
    fn all_inboxes(&self) -> impl Iterator<Item = &Arc<Inbox>> {
        self.inboxes.values().flatten().chain(&self.of_everything)
    }
}

/// How long a reader waits for this node's tail to reach a cursor that another node gave out.
const BEHIND_LIMIT: Duration = Duration::from_secs(3);

impl Hub {
    pub fn new(outbox: Arc<dyn Outbox>, options: HubOptions) -> Self {
        let shared = Shared {
            options,
            outbox,
            closing: CancellationToken::new(),
            tail: Mutex::default(),
            state: Mutex::default(),
            moved: watch::Sender::new(0),
            subscriptions: AtomicU64::new(0),
            catching_up: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Lets the hub ask the tail to look, when a reader knows of something that it does not.
    pub fn attach(&self, tail: TailHandle) {
        *self.shared.tail.lock() = Some(tail);
    }

    /// Ends every subscription with `closing`, and gives out no new ones.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }

    /// Waits for [`close`](Self::close).
    pub async fn closed(&self) {
        self.shared.closing.cancelled().await;
    }

    /// Why there can be no new subscription now, if there cannot.
    pub fn refuses(&self) -> Option<Code> {
        if self.shared.closing.is_cancelled() {
            return Some(Code::Shutdown);
        }
        self.shared.lock().at.is_none().then_some(Code::Starting)
    }

    fn refusal(&self) -> Refused {
        Refused(self.refuses().unwrap_or(Code::Starting))
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> u64 {
        self.shared.subscriptions.load(Ordering::Relaxed)
    }

    /// How many of them read the database and not what the tail passes on.
    pub fn catching_up(&self) -> u64 {
        self.shared.catching_up.load(Ordering::Relaxed)
    }

    /// Begins a stream of what a reader may see. Its first delivery is `ready` or `reset`.
    pub async fn subscribe(&self, reader: impl Into<Reader>, after: After) -> Result<Subscription, Refused> {
        let reader = reader.into();
        let cursor = match after {
            After::Now => None,
            After::Beginning => Some(None),
            After::Cursor(cursor) => Some(Some(cursor)),
        };
        let inbox = Arc::new(Inbox::default());
        let (greeting, joined) = loop {
            // What is judged here is true of this life of the log only.
            let judged_in = self.shared.lock().generation;
            let greeting = match &cursor {
                None => Greeting::Ready { position: None },
                Some(cursor) => self.greet(cursor.clone()).await.map_err(|error| {
                    warn(&error, "a reader cannot be resumed now");
                    self.refusal()
                })?,
            };
            let mut state = self.shared.lock();
            let Some(at) = state.at.clone().filter(|_| !self.shared.closing.is_cancelled()) else {
                drop(state);
                return Err(self.refusal());
            };
            if cursor.is_some() && state.generation != judged_in {
                continue;
            }
            match &reader {
                Reader::User(user) => state.inboxes.entry(user.clone()).or_default().push(inbox.clone()),
                Reader::Everything => state.of_everything.push(inbox.clone()),
            }
            break (greeting, (at, state.generation));
        };
        self.shared.subscriptions.fetch_add(1, Ordering::Relaxed);
        Subscription::begin(self.shared.clone(), reader, inbox, greeting, joined)
            .ok_or_else(|| self.refusal())
    }

    /// Decides whether everything after a cursor can be given. A reset waits for the tail too: its cursor is to lie
    /// behind what the reader is told to reload.
    async fn greet(&self, cursor: Option<Cursor>) -> Result<Greeting, StoreError> {
        let head = self.shared.outbox.head().await?;
        let (position, reset) = self.judge(cursor, &head).await?;
        let needed = if reset.is_some() { head.position } else { position };
        self.wait_for(&head, needed, BEHIND_LIMIT).await?;
        // A tail that does not come so far has its own alarm.
        let _ = self
            .wait_for(&head, head.position, self.shared.options.patience)
            .await;
        Ok(match reset {
            Some(reason) => Greeting::Reset {
                reason,
                oldest: head.oldest,
            },
            None => Greeting::Ready {
                position: Some(position),
            },
        })
    }

    /// The position of a cursor, and why it cannot be resumed from, if it cannot.
    async fn judge(
        &self,
        cursor: Option<Cursor>,
        head: &Head,
    ) -> Result<(Position, Option<ResetReason>), StoreError> {
        let position = cursor.as_ref().map_or(0, |cursor| cursor.position);
        let reset = match cursor {
            Some(cursor) if cursor.epoch != head.epoch => {
                let earlier = self.shared.outbox.earlier_epochs().await?;
                let end = earlier.iter().find(|end| end.epoch == cursor.epoch);
                end.is_none_or(|end| position > end.common)
                    .then_some(ResetReason::OtherEpoch)
            }
            _ => (position > head.position).then_some(ResetReason::Ahead),
        };
        let pruned = || (position + 1 < head.oldest).then_some(ResetReason::Pruned);
        Ok((position, reset.or_else(pruned)))
    }

    /// Another node may have given out a cursor, or begun an epoch, that this node's tail has not reached yet.
    async fn wait_for(&self, head: &Head, position: Position, limit: Duration) -> Result<(), StoreError> {
        let reached = || {
            let state = self.shared.lock();
            state
                .at
                .as_ref()
                .is_some_and(|at| at.epoch == head.epoch && at.position >= position)
        };
        let mut moved = self.shared.moved.subscribe();
        let waiting = async {
            while !reached() {
                if let Some(tail) = &*self.shared.tail.lock() {
                    tail.poke();
                }
                if moved.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(limit, waiting)
            .await
            .map_err(|late| StoreError::Unavailable(Box::new(late)))
    }
}

/// With the cause, which the text of the error does not repeat.
pub(super) fn warn(error: &StoreError, what: &'static str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}

impl Publish for Hub {
    fn publish(&self, events: &[Arc<Recorded>], origin: &Origin, at: &Cursor) {
        let origin = Arc::new(origin.clone());
        let mut state = self.shared.lock();
        for event in events {
            for user in event.audience() {
                for inbox in state.inboxes.get(user).into_iter().flatten() {
                    if planted::strikes(Defect::DropDelivery) {
                        continue;
                    }
                    inbox.put(event, &origin, &self.shared.options);
                }
            }
            if planted::strikes(Defect::ForeignMessage) {
                for inbox in state.inboxes.values().flatten() {
                    inbox.put(event, &origin, &self.shared.options);
                }
            }
            for inbox in &state.of_everything {
                inbox.put(event, &origin, &self.shared.options);
            }
        }
        state.at = Some(at.clone());
        drop(state);
        self.shared.moved.send_replace(at.position);
    }

    fn restart(&self, at: &Cursor) {
        let mut state = self.shared.lock();
        state.generation += 1;
        state.at = Some(at.clone());
        for inbox in state.all_inboxes() {
            inbox.overflow();
        }
        drop(state);
        self.shared.moved.send_replace(at.position);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// How far everything has been handed out, and in which life of the log.
    pub(super) fn at(&self) -> Option<(Cursor, u64)> {
        let state = self.lock();
        state.at.clone().map(|at| (at, state.generation))
    }

    /// From the returned position on, every event for the inbox's reader is put into it.
    pub(super) fn arm(&self, inbox: &Inbox) -> Option<(Cursor, u64)> {
        let state = self.lock();
        inbox.arm();
        state.at.clone().map(|at| (at, state.generation))
    }

    pub(super) fn remove(&self, reader: &Reader, inbox: &Arc<Inbox>) {
        let mut state = self.lock();
        let is_other = |other: &Arc<Inbox>| !Arc::ptr_eq(other, inbox);
        match reader {
            Reader::Everything => state.of_everything.retain(is_other),
            Reader::User(user) => {
                if let Some(inboxes) = state.inboxes.get_mut(user) {
                    inboxes.retain(is_other);
                    if inboxes.is_empty() {
                        state.inboxes.remove(user);
                    }
                }
            }
        }
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The live events that wait for one reader. It holds nothing until it is armed.
#[derive(Default)]
pub(super) struct Inbox {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Default)]
struct Held {
    armed: bool,
    events: VecDeque<(Arc<Recorded>, Arc<Origin>)>,
    bytes: usize,
}

pub(super) enum Taken {
    Event(Arc<Recorded>, Arc<Origin>),
    /// Nothing waits.
    Nothing,
    /// It was full, or never armed: what it would hold has to be read from the database.
    Overflowed,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    fn arm(&self) {
        *self.lock() = Held {
            armed: true,
            ..Held::default()
        };
    }

    fn put(&self, event: &Arc<Recorded>, origin: &Arc<Origin>, options: &HubOptions) {
        let mut held = self.lock();
        if !held.armed {
            return;
        }
        held.bytes += event.weight();
        held.events.push_back((event.clone(), origin.clone()));
        // One event of any size always fits.
        let too_many = held.events.len() > options.inbox_events;
        if too_many || (held.bytes > options.inbox_bytes && held.events.len() > 1) {
            *held = Held::default();
        }
        drop(held);
        self.filled.notify_one();
    }

    fn overflow(&self) {
        *self.lock() = Held::default();
        self.filled.notify_one();
    }

    pub(super) fn take(&self) -> Taken {
        let mut held = self.lock();
        match held.events.pop_front() {
            Some((event, origin)) => {
                held.bytes -= event.weight();
                Taken::Event(event, origin)
            }
            None if held.armed => Taken::Nothing,
            None => Taken::Overflowed,
        }
    }

    /// Waits until something may have changed.
    pub(super) async fn changed(&self) {
        self.filled.notified().await;
    }

    pub(super) fn is_quiet(&self) -> bool {
        let held = self.lock();
        held.armed && held.events.is_empty()
    }
}
