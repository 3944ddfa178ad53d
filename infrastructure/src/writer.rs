//! The group commit: the only place that writes events.
//!
//! Commands from all connections of the node wait in one bounded queue for one task, which takes all that wait,
//! decides and writes them in one transaction (`transaction`), and answers each sender after the COMMIT. While one
//! batch commits, the next one gathers, and is decided ahead if it is a whole one; nothing waits on a timer.
//!
//! What happens when something fails:
//! - the transaction lost against another: the whole batch is decided again from fresh facts;
//! - the connection broke, whether or not COMMIT was on its way: the same batch runs again on a new connection as an
//!   ordinary transaction. The head lock waits for a COMMIT still in flight, the keys tell what is there, and what is
//!   missing is written. Nothing is looked up without the lock: a plain SELECT can find nothing although the
//!   transaction commits afterwards;
//! - the database refuses what is written: the batch is split until the one bad command alone is refused;
//! - a command's deadline passes: its sender learns at that moment that nothing was written, or that this is not known,
//!   whatever the writer waits for. A command whose sender was told that nothing was written is not written any more.
//!
//! When the queue is full, senders are told to come again. While the database is away they are told at once.

mod facts;
mod memory;
mod transaction;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chat_domain::{
    batch::{Batch, Outcome},
    command::Command,
    ids::CommandKey,
    ports::{EventLog, ExecuteError},
    rejection::Rejection,
};
use metrics::Counter;
use parking_lot::Mutex;
use rand::Rng;
use sea_orm::sqlx;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument, Span, debug, debug_span, error, info, warn};

use crate::{
    database::Database,
    error::Causes,
    flavor::Flavor,
    handover::{Committed, Origin, Written},
    location::Location,
    metrics::{self as figures, RetryReason, WriterMetrics},
    planted::{self, Defect},
    primary::Primary,
    session::{Session, SessionError, node_slots},
    writer::{
        memory::Memory,
        transaction::{Foreseen, Keys},
    },
};

#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// How many commands may wait.
    pub queue_commands: usize,
    /// How many bytes of commands may wait.
    pub queue_bytes: usize,
    /// How many commands one transaction takes: a batch's time is every other node's latency.
    pub batch_commands: usize,
    pub batch_bytes: usize,
    /// How long a command may wait for its answer.
    pub command_timeout: Duration,
    /// How long one transaction may take before its connection is given up.
    pub transaction_timeout: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            queue_commands: 4096,
            queue_bytes: 64 << 20,
            batch_commands: 1000,
            batch_bytes: 1 << 20,
            command_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(5),
        }
    }
}

/// Takes commands for the writer. Clones share one queue.
#[derive(Clone)]
pub struct GroupCommit {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    queue_bytes: usize,
    status: Arc<Status>,
    command_timeout: Duration,
    outcomes_unknown: Counter,
}

/// What the writer is doing, for whoever asks.
#[derive(Debug, Default)]
pub struct Status {
    begun: AtomicBool,
    away: AtomicBool,
    batches: AtomicU64,
    commands: AtomicU64,
    foreseen: AtomicU64,
    misjudged: AtomicU64,
    /// When each command came that has no outcome yet, in the queue or in the writer's hand.
    waiting: Mutex<BTreeSet<Came>>,
    numbers: AtomicU64,
    /// Since when the writer has tried to write, and nothing came to pass.
    trying_since: Mutex<Option<Instant>>,
}

/// With a number, as two may come at once.
type Came = (Instant, u64);

/// How long the writer may try before no command is expected to pass.
pub const BLOCKED_AFTER: Duration = Duration::from_secs(3);

impl Status {
    /// Whether the writer has connected, and looked whose log it is.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    pub fn is_available(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }

    /// Whether the database has let nothing be written for a while: something is locked, or it does not answer. An idle
    /// writer tries now and then, so this is known without a command, too.
    pub fn is_blocked(&self) -> bool {
        let since = *self.trying_since.lock();
        since.is_some_and(|since| since.elapsed() >= BLOCKED_AFTER)
    }

    fn tries(&self) {
        self.trying_since.lock().get_or_insert_with(Instant::now);
    }

    fn succeeded(&self) {
        *self.trying_since.lock() = None;
    }

    /// Transactions committed, and commands answered by them.
    pub fn committed(&self) -> (u64, u64) {
        (
            self.batches.load(Ordering::Relaxed),
            self.commands.load(Ordering::Relaxed),
        )
    }

    /// Batches that were decided ahead: those that came to pass, and those that did not.
    pub fn foreseen(&self) -> (u64, u64) {
        (
            self.foreseen.load(Ordering::Relaxed),
            self.misjudged.load(Ordering::Relaxed),
        )
    }
}

/// What has no outcome yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    pub commands: usize,
    pub bytes: usize,
    /// How long the oldest command has waited.
    pub oldest: Duration,
}

struct Waiting {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, ExecuteError>>,
    deadline: Instant,
    fate: Arc<Fate>,
    /// That of whoever asked.
    span: Span,
    _bytes: OwnedSemaphorePermit,
    _counted: Counted,
}

/// Whether a command may be recorded, as its sender and the writer agree on it.
#[derive(Debug, Default)]
struct Fate(AtomicU8);

impl Fate {
    const UNDECIDED: u8 = 0;
    /// A COMMIT with this command in it may have been received by the database.
    const IN_DOUBT: u8 = 1;
    /// Its sender was told that nothing was written, and nothing will be.
    const WITHDRAWN: u8 = 2;

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::SeqCst) == state
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .0
            .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        changed.is_ok()
    }

    /// What the sender learns whose deadline has passed.
    fn at_the_deadline(&self) -> ExecuteError {
        if self.change(Self::UNDECIDED, Self::WITHDRAWN) || self.is(Self::WITHDRAWN) {
            ExecuteError::Unavailable
        } else {
            ExecuteError::OutcomeUnknown
        }
    }
}

/// Counts a command as long as it is there.
struct Counted {
    status: Arc<Status>,
    came: Came,
}

impl Counted {
    fn new(status: &Arc<Status>, now: Instant) -> Self {
        let came = (now, status.numbers.fetch_add(1, Ordering::Relaxed));
        status.waiting.lock().insert(came);
        Self {
            status: status.clone(),
            came,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.status.waiting.lock().remove(&self.came);
    }
}

/// A batch that gathers.
#[derive(Default)]
struct Gathered {
    part: Vec<Waiting>,
    bytes: usize,
    /// Decided ahead, with nothing to be added.
    foreseen: Option<Foreseen>,
}

impl Gathered {
    fn push(&mut self, waiting: Waiting) {
        self.bytes += waiting.command.weight();
        self.part.push(waiting);
    }

    /// A command that is larger than a batch goes alone.
    fn is_whole(&self, options: &WriterOptions) -> bool {
        self.part.len() >= options.batch_commands || self.bytes >= options.batch_bytes
    }
}

impl Waiting {
    fn answer(self, answer: Result<Outcome, ExecuteError>) {
        // The sender may have gone; the command is recorded all the same.
        let _ = self.answer.send(answer);
    }

    fn in_doubt(&self) -> bool {
        self.fate.is(Fate::IN_DOUBT)
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline <= now || self.fate.is(Fate::WITHDRAWN)
    }

    fn give_up(self) {
        let answer = self.fate.at_the_deadline();
        self.answer(Err(answer));
    }
}

/// The task that writes. It ends when every [`GroupCommit`] is gone or `stop` was called, after what waits is done.
pub struct WriterTask {
    pub status: Arc<Status>,
    stop: tokio_util::sync::CancellationToken,
    task: JoinHandle<()>,
}

impl WriterTask {
    /// Takes no more commands, writes those that wait, and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            error!(error = %error, "the writer ended badly");
        }
    }
}

impl GroupCommit {
    /// Starts the writer on a connection of its own.
    pub fn start(
        database: &Database,
        options: WriterOptions,
        committed: mpsc::Sender<Committed>,
    ) -> (Self, WriterTask) {
        let (queue, waiting) = mpsc::channel(options.queue_commands);
        let status = Arc::new(Status::default());
        let stop = tokio_util::sync::CancellationToken::new();
        let door = Self {
            queue,
            bytes: Arc::new(Semaphore::new(options.queue_bytes)),
            queue_bytes: options.queue_bytes,
            status: status.clone(),
            command_timeout: options.command_timeout,
            outcomes_unknown: figures::outcomes_unknown(),
        };
        let writer = Writer {
            location: database.location.clone(),
            flavor: database.flavor,
            primary: database.primary.clone(),
            options,
            waiting,
            committed,
            status: status.clone(),
            session: None,
            memory: Memory::default(),
            look_up_keys_until: None,
            failures: 0,
            metrics: WriterMetrics::new(),
            stop: stop.clone(),
        };
        (
            door,
            WriterTask {
                status,
                stop,
                task: tokio::spawn(writer.run()),
            },
        )
    }

    /// A key for a command that came without one.
    pub fn new_key() -> CommandKey {
        CommandKey::of_server(rand::rng().random())
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn queued(&self) -> Queued {
        let (commands, oldest) = {
            let waiting = self.status.waiting.lock();
            (waiting.len(), waiting.first().copied())
        };
        Queued {
            commands,
            bytes: self.queue_bytes.saturating_sub(self.bytes.available_permits()),
            oldest: oldest.map(|(came, _)| came.elapsed()).unwrap_or_default(),
        }
    }
}

#[async_trait]
impl EventLog for GroupCommit {
    async fn execute(&self, command: Command) -> Result<Outcome, ExecuteError> {
        if !self.status.is_available() {
            return Err(ExecuteError::Unavailable);
        }
        let weight = u32::try_from(command.weight()).unwrap_or(u32::MAX);
        let bytes = self
            .bytes
            .clone()
            .try_acquire_many_owned(weight)
            .map_err(|_| ExecuteError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        let deadline = now + self.command_timeout;
        let fate = Arc::<Fate>::default();
        let waiting = Waiting {
            command,
            answer,
            deadline,
            fate: fate.clone(),
            span: Span::current(),
            _bytes: bytes,
            _counted: Counted::new(&self.status, now),
        };
        self.queue.try_send(waiting).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ExecuteError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => ExecuteError::Unavailable,
        })?;
        let outcome = match timeout_at(deadline, answered).await {
            // The writer answers everything that it took; it can only be gone if it died with the command in hand.
            Ok(answered) => answered.unwrap_or(Err(ExecuteError::OutcomeUnknown)),
            // What it waits for has a limit of its own.
            Err(_) => Err(fate.at_the_deadline()),
        };
        if matches!(outcome, Err(ExecuteError::OutcomeUnknown)) {
            self.outcomes_unknown.increment(1);
        }
        outcome
    }
}

struct Writer {
    location: Location,
    flavor: Flavor,
    primary: Arc<Primary>,
    options: WriterOptions,
    waiting: mpsc::Receiver<Waiting>,
    committed: mpsc::Sender<Committed>,
    status: Arc<Status>,
    session: Option<Session>,
    memory: Memory,
    /// Until when keys are looked up before anything is written: a while after one was there already.
    look_up_keys_until: Option<Instant>,
    /// How often in a row the database failed.
    failures: u32,
    metrics: WriterMetrics,
    stop: tokio_util::sync::CancellationToken,
}

/// Keeps the session's silence well below the limit at which the server ends it.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Who sends one command again often sends more of them, as after a lost connection.
const SENT_AGAIN: Duration = Duration::from_secs(1);

/// What became of the commands of one part of a batch.
enum Settled {
    Answered,
    /// The database refused what the part would have written; nothing of it is there.
    Refused(SessionError),
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Gathered::default();
        loop {
            if self.stop.is_cancelled() {
                self.waiting.close();
            }
            if batch.part.is_empty() {
                if self.session.is_none() && !self.stop.is_cancelled() {
                    self.reconnect().await;
                    continue;
                }
                let first = tokio::select! {
                    biased;
                    () = self.stop.cancelled(), if !self.waiting.is_closed() => continue,
                    first = self.waiting.recv() => first,
                    () = self.primary.suspected() => {
                        self.confirm().await;
                        continue;
                    }
                    () = tokio::time::sleep(PING_INTERVAL) => {
                        self.ping().await;
                        continue;
                    }
                };
                match first {
                    Some(first) => batch.push(first),
                    None => break,
                }
            }
            self.gather(&mut batch);
            batch = self.commit(batch).await;
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Takes what waits, up to the limits of a batch.
    fn gather(&mut self, batch: &mut Gathered) {
        while !batch.is_whole(&self.options) {
            let Ok(waiting) = self.waiting.try_recv() else {
                break;
            };
            batch.push(waiting);
        }
    }

    /// Commits and answers a batch, part by part where the database refuses something in it. Returns what has gathered
    /// meanwhile.
    async fn commit(&mut self, batch: Gathered) -> Gathered {
        let mut next = Gathered::default();
        let mut foreseen = batch.foreseen.or_else(|| self.foresee(&batch.part));
        let mut parts = vec![batch.part];
        while let Some(mut part) = parts.pop() {
            match self.settle(&mut part, foreseen.take(), &mut next).await {
                Settled::Answered => {}
                Settled::Refused(error) if part.len() <= 1 => {
                    for waiting in part {
                        let error = &error as &dyn std::error::Error;
                        warn!(
                            error = %Causes(error),
                            actor_id = %waiting.command.actor_id,
                            "the database refused a command"
                        );
                        self.status.succeeded();
                        waiting.answer(Err(Rejection::CommandRefused.into()));
                    }
                }
                Settled::Refused(_) => {
                    let second = part.split_off(part.len() / 2);
                    parts.push(second);
                    parts.push(part);
                }
            }
        }
        next
    }

    /// Decides a batch ahead, where that can be done.
    fn foresee(&mut self, part: &[Waiting]) -> Option<Foreseen> {
        if self.looks_up_keys() {
            return None;
        }
        transaction::foresee(self.flavor, &mut self.memory, part, self.options.batch_commands)
    }

    fn looks_up_keys(&self) -> bool {
        self.look_up_keys_until
            .is_some_and(|until| Instant::now() < until)
    }

    /// Commits a batch that was decided ahead. Meanwhile the next one gathers, and as soon as it is a whole one it is
    /// decided, too.
    async fn commit_foreseen(
        &mut self,
        session: &mut Session,
        part: &mut [Waiting],
        foreseen: Foreseen,
        next: &mut Gathered,
    ) -> Result<Batch, SessionError> {
        let primary = self.primary.clone();
        let mut committing = pin!(transaction::commit(session, &primary, part, foreseen));
        loop {
            tokio::select! {
                biased;
                committed = &mut committing => return committed,
                Some(waiting) = self.waiting.recv(), if !next.is_whole(&self.options) => {
                    next.push(waiting);
                    if next.is_whole(&self.options) {
                        next.foreseen = self.foresee(&next.part);
                    }
                }
            }
        }
    }

    /// Tries a part until it is committed, refused, or all its deadlines have passed.
    async fn settle(
        &mut self,
        part: &mut Vec<Waiting>,
        mut foreseen: Option<Foreseen>,
        next: &mut Gathered,
    ) -> Settled {
        let mut refused_before = false;
        loop {
            let now = Instant::now();
            let mut late = part.extract_if(.., |waiting| waiting.is_late(now)).peekable();
            if late.peek().is_some() && foreseen.take().is_some() {
                self.memory.forget();
            }
            late.for_each(Waiting::give_up);
            self.status.tries();
            if part.is_empty() {
                return Settled::Answered;
            }
            let Some(mut session) = self.session.take() else {
                self.reconnect().await;
                continue;
            };
            let span = batch_span(part);
            let begun = std::time::Instant::now();
            let keys = if refused_before || self.looks_up_keys() {
                Keys::All
            } else {
                Keys::InDoubt
            };
            let limit = self.options.transaction_timeout;
            let attempted = if let Some(foreseen) = foreseen.take() {
                let attempt = self.commit_foreseen(&mut session, part, foreseen, next);
                let attempted = timeout(limit, attempt.instrument(span.clone())).await;
                let Status {
                    foreseen, misjudged, ..
                } = &*self.status;
                let count = if let Ok(Ok(_)) = attempted {
                    foreseen
                } else {
                    misjudged
                };
                count.fetch_add(1, Ordering::Relaxed);
                attempted
            } else {
                let attempt = transaction::attempt(&mut session, &self.primary, &mut self.memory, part, keys);
                timeout(limit, attempt.instrument(span.clone())).await
            };
            if !matches!(attempted, Ok(Ok(_))) {
                self.memory.forget();
                next.foreseen = None;
            }
            match attempted {
                Ok(Ok(batch)) => {
                    self.session = Some(session);
                    self.metrics.committed(part.len(), begun.elapsed());
                    self.finish(std::mem::take(part), batch, &span);
                    return Settled::Answered;
                }
                Ok(Err(SessionError::Retry(error))) => {
                    self.metrics.retried(RetryReason::Conflict);
                    debug!(error = %error, "a batch is decided again");
                    self.roll_back(session).await;
                }
                Ok(Err(refused @ SessionError::Refused(_))) => {
                    self.metrics.retried(RetryReason::Refused);
                    self.roll_back(session).await;
                    // Once more, with all keys looked up: a duplicate may be a command that was sent again.
                    if keys == Keys::All && refused_before {
                        return Settled::Refused(refused);
                    }
                    refused_before = true;
                    self.look_up_keys_until = Some(Instant::now() + SENT_AGAIN);
                }
                // Those who withdrew are left out of it.
                Ok(Err(SessionError::Withdrawn)) => self.roll_back(session).await,
                Ok(Err(SessionError::Moved)) => {
                    self.metrics.retried(RetryReason::Moved);
                    self.roll_back(session).await;
                    self.confirm().await;
                }
                Ok(Err(SessionError::Away(error))) => {
                    self.metrics.retried(RetryReason::Connection);
                    self.failures += 1;
                    warn!(error = %error, "the writer lost its connection; the batch runs again on a new one");
                    if planted::strikes(Defect::DoubleOnRetry) {
                        let in_doubt = part.iter_mut().filter(|waiting| waiting.in_doubt());
                        in_doubt.for_each(|waiting| waiting.command.key = GroupCommit::new_key());
                    }
                }
                Err(_) => {
                    self.metrics.retried(RetryReason::Timeout);
                    self.failures += 1;
                    warn!("a transaction took too long; its connection is given up");
                }
            }
        }
    }

    fn finish(&mut self, part: Vec<Waiting>, batch: Batch, span: &Span) {
        self.failures = 0;
        self.status.succeeded();
        self.status.batches.fetch_add(1, Ordering::Relaxed);
        self.status
            .commands
            .fetch_add(part.len() as u64, Ordering::Relaxed);
        if !batch.recorded.is_empty() {
            let origin = Origin {
                written: Written::Here,
                since: std::time::Instant::now(),
                span: debug_span!(parent: span, "delivery", events = batch.recorded.len()),
            };
            let _ = self.committed.try_send(Committed {
                events: batch.recorded,
                origin,
            });
        }
        for (waiting, outcome) in part.into_iter().zip(batch.outcomes) {
            waiting.answer(outcome.map_err(ExecuteError::Rejected));
        }
    }

    /// Ends the transaction and keeps the session, or drops both.
    async fn roll_back(&mut self, mut session: Session) {
        let rollback = session.script("ROLLBACK".into());
        if let Ok(Ok(_)) = timeout(ROLLBACK_TIMEOUT, rollback).await {
            self.session = Some(session);
        }
    }

    /// Finds out what became of the log that is not as it was seen.
    async fn confirm(&mut self) {
        let Some(mut session) = self.session.take() else {
            return;
        };
        match timeout(
            self.options.transaction_timeout,
            self.primary.confirm(&mut session),
        )
        .await
        {
            Ok(Ok(())) => self.session = Some(session),
            Ok(Err(SessionError::Retry(_))) => self.roll_back(session).await,
            _ => self.failures += 1,
        }
    }

    /// While nothing is to be written: keeps the session, and finds out whether something could be.
    async fn ping(&mut self) {
        let Some(mut session) = self.session.take() else {
            return;
        };
        self.status.tries();
        match timeout(self.options.transaction_timeout, self.primary.ping(&mut session)).await {
            Ok(Ok(())) => {
                self.failures = 0;
                self.status.succeeded();
                self.session = Some(session);
            }
            // Another transaction has what it needs.
            Ok(Err(SessionError::Retry(_))) => self.roll_back(session).await,
            _ => self.failures += 1,
        }
    }

    /// Connects. After one failure at once, for a COMMIT may wait to be settled; after more, with a pause before it
    /// that grows up to a bound.
    async fn reconnect(&mut self) {
        if self.failures > 1 {
            self.pause().await;
        }
        self.status.tries();
        let connecting = async {
            let mut session = Session::connect(&self.location, self.flavor).await?;
            node_slots::take(&mut session).await?;
            self.primary.confirm(&mut session).await?;
            Ok::<_, SessionError>(session)
        };
        let limit = self.options.transaction_timeout;
        let connected = timeout(limit, connecting).await;
        let too_long = |_| Err(SessionError::Away(sqlx::Error::PoolTimedOut));
        match connected.unwrap_or_else(too_long) {
            Ok(session) => {
                self.status.begun.store(true, Ordering::Relaxed);
                if self.status.away.swap(false, Ordering::Relaxed) {
                    info!("the database is back");
                }
                self.session = Some(session);
            }
            // The database is there, and another transaction has the lock; it may be a COMMIT of our own.
            Err(SessionError::Retry(error)) => info!(error = %error, "waiting for the head lock"),
            Err(error) => {
                self.failures += 1;
                if !self.status.away.swap(true, Ordering::Relaxed) {
                    error!(error = %Causes(&error), "the database is away; commands are refused until it is back");
                }
            }
        }
    }

    /// Waits. While the database is away, what was queued before the door knew is refused meanwhile.
    async fn pause(&mut self) {
        let doublings = self.failures.saturating_sub(2).min(10);
        let until = Instant::now() + (FIRST_BACKOFF * 2_u32.pow(doublings)).min(LAST_BACKOFF);
        if self.status.is_available() {
            tokio::time::sleep_until(until).await;
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                waiting = self.waiting.recv() => match waiting {
                    Some(waiting) => waiting.give_up(),
                    None => return tokio::time::sleep_until(until).await,
                },
            }
        }
    }
}

/// The transaction of a batch, for traces: it follows from each command in it.
fn batch_span(part: &[Waiting]) -> Span {
    let span = debug_span!(parent: None, "batch", commands = part.len());
    if !span.is_disabled() {
        for waiting in part {
            span.follows_from(&waiting.span);
        }
    }
    span
}
