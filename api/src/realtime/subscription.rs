//! One reader's stream of deliveries, from one cursor on, for every door alike.
//!
//! It catches up from the database in pages, then arms its inbox and reads the rest up to the position at which it
//! was armed, then goes on live. So nothing falls between and nothing comes twice: an event at or below that position
//! is in the last page, one above it in the inbox. When the inbox overflows, the subscription goes back to catching
//! up from its own cursor. A slow reader costs time for itself and the memory of one page and one inbox.
//!
//! Each delivery carries `prev`, the cursor of the one before it: whoever finds another `prev` has lost something.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chat_domain::{
    Position,
    cursor::{Cursor, ResetReason},
    event::Recorded,
    ports::{Page, PageLimit, PageRange, Reader},
};
use chat_infrastructure::planted::{self, Defect};
use tokio::time::Instant;

use super::hub::{Inbox, Shared, Taken, warn};
use crate::metrics;

#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    /// Complete from this cursor on.
    Ready { cursor: Cursor, head: Position },
    /// Not complete: reload. The stream goes on live from this cursor.
    Reset {
        cursor: Cursor,
        reason: ResetReason,
        oldest: Position,
    },
    Event {
        cursor: Cursor,
        prev: Cursor,
        event: Arc<Recorded>,
    },
    /// The log was examined up to this cursor, and held nothing more for this reader.
    Heartbeat { cursor: Cursor, prev: Cursor },
    /// The last delivery.
    Closing { code: &'static str, retry_after: u32 },
}

pub(super) enum Greeting {
    Ready {
        /// Where the reader was, or nothing for one that begins now.
        position: Option<Position>,
    },
    Reset {
        reason: ResetReason,
        oldest: Position,
    },
}

/// What a page holds at most: a stalled reader keeps one.
const PAGE: PageLimit = PageLimit {
    events: 128,
    bytes: 96 << 10,
};
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
const RETRY_AFTER_SHUTDOWN_S: u32 = 2;

pub struct Subscription {
    shared: Arc<Shared>,
    reader: Reader,
    inbox: Arc<Inbox>,
    greeting: Option<Delivery>,
    /// Events read from the database and not delivered yet.
    page: VecDeque<Arc<Recorded>>,
    /// Everything for the reader up to here was delivered, once `page` is empty.
    examined: Position,
    /// The cursor of the last delivery.
    last: Cursor,
    generation: u64,
    mode: Mode,
    heartbeat_at: Instant,
    closed: bool,
}

enum Advanced {
    Delivery(Delivery),
    /// Nothing to deliver yet, and more to do for it.
    Further,
    /// All that the tail has passed on was delivered.
    AtTheEnd,
}

#[derive(Clone, Copy)]
enum Mode {
    /// Reading the database, in windows of this width, up to where the tail is.
    CatchingUp {
        width: Position,
    },
    /// The inbox holds everything after the position at which it was armed; the pages up to it are still read.
    Joining {
        armed_at: Position,
        width: Position,
    },
    Live,
}

impl Mode {
    fn is_live(self) -> bool {
        matches!(self, Self::Live)
    }
}

impl Subscription {
    /// `None` where the tail has not begun.
    pub(super) fn begin(
        shared: Arc<Shared>,
        reader: Reader,
        inbox: Arc<Inbox>,
        greeting: Greeting,
        joined: (Cursor, u64),
    ) -> Option<Self> {
        let resumes = matches!(greeting, Greeting::Ready { position: Some(_) });
        let at = if resumes { Some(joined) } else { shared.arm(&inbox) };
        let Some((at, generation)) = at else {
            shared.remove(&reader, &inbox);
            return None;
        };
        let examined = match greeting {
            Greeting::Ready {
                position: Some(position),
            } => position,
            _ => at.position,
        };
        let cursor = Cursor {
            epoch: at.epoch,
            position: examined,
        };
        let delivery = match greeting {
            Greeting::Ready { .. } => Delivery::Ready {
                cursor: cursor.clone(),
                head: at.position,
            },
            Greeting::Reset { reason, oldest } => Delivery::Reset {
                cursor: cursor.clone(),
                reason,
                oldest,
            },
        };
        if let Delivery::Reset { reason, .. } = &delivery {
            metrics::reset(*reason);
        }
        let mode = if resumes {
            shared.catching_up.fetch_add(1, Ordering::Relaxed);
            Mode::CatchingUp {
                width: PageRange::WHOLE,
            }
        } else {
            Mode::Live
        };
        Some(Self {
            heartbeat_at: Instant::now() + shared.options.heartbeat,
            shared,
            reader,
            inbox,
            greeting: Some(delivery),
            page: VecDeque::new(),
            examined,
            last: cursor,
            generation,
            mode,
            closed: false,
        })
    }

    /// Waits for the next delivery. Cancel safe: what was not returned comes with the next call.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if let Some(delivery) = self.next_at_hand().await {
                return delivery;
            }
            tokio::select! {
                () = self.inbox.changed() => {}
                () = self.shared.closing.cancelled() => {}
                () = tokio::time::sleep_until(self.heartbeat_at) => {
                    if let Some(heartbeat) = self.heartbeat() {
                        return heartbeat;
                    }
                }
            }
        }
    }

    /// The next delivery of what is in the log, or nothing once all that the tail has passed on was delivered.
    /// Cancel safe.
    pub async fn next_at_hand(&mut self) -> Option<Delivery> {
        loop {
            if let Some(greeting) = self.greeting.take() {
                return Some(greeting);
            }
            if self.closed {
                return std::future::pending().await;
            }
            if self.shared.closing.is_cancelled() {
                self.closed = true;
                return Some(Delivery::Closing {
                    code: "shutdown",
                    retry_after: RETRY_AFTER_SHUTDOWN_S,
                });
            }
            if let Some(event) = self.page.pop_front() {
                return Some(self.event(event));
            }
            match self.advance().await {
                Advanced::Delivery(delivery) => return Some(delivery),
                Advanced::AtTheEnd => return None,
                Advanced::Further => {}
            }
        }
    }

    /// How far the log was examined for the reader, where all that the tail has passed on was delivered. What is
    /// delivered later has a greater cursor.
    pub fn examined(&mut self) -> Cursor {
        if self.greeting.is_none() && self.page.is_empty() && matches!(self.mode, Mode::Live) {
            self.examine();
        }
        self.cursor_at(self.examined.max(self.last.position))
    }

    /// One step towards the next delivery, with nothing of a page left.
    async fn advance(&mut self) -> Advanced {
        let Some((at, generation)) = self.shared.at() else {
            return Advanced::AtTheEnd;
        };
        if generation != self.generation {
            return Advanced::Delivery(self.restart());
        }
        // A stream that reads for long, or cannot read, still says that it lives.
        if !matches!(self.mode, Mode::Live) && Instant::now() >= self.heartbeat_at {
            let (cursor, prev) = self.step(self.examined);
            return Advanced::Delivery(Delivery::Heartbeat { cursor, prev });
        }
        match self.mode {
            Mode::CatchingUp { width } if self.examined < at.position => {
                if let Some(width) = self.read(at.position, width).await {
                    self.enter(Mode::CatchingUp { width });
                }
            }
            Mode::CatchingUp { width } => {
                if let Some((at, _)) = self.shared.arm(&self.inbox) {
                    self.enter(Mode::Joining {
                        armed_at: at.position,
                        width,
                    });
                }
            }
            Mode::Joining { armed_at, width } if self.examined < armed_at => {
                if let Some(width) = self.read(armed_at, width).await {
                    self.enter(Mode::Joining { armed_at, width });
                }
            }
            Mode::Joining { .. } => self.enter(Mode::Live),
            Mode::Live => match self.inbox.take() {
                Taken::Event(event, _) if event.position <= self.examined => {}
                Taken::Event(event, origin) => {
                    metrics::handed_over(&origin);
                    if planted::strikes(Defect::SwapDeliveries)
                        && let Taken::Event(next, _) = self.inbox.take()
                    {
                        self.page.push_back(event);
                        return Advanced::Delivery(self.event(next));
                    }
                    return Advanced::Delivery(self.event(event));
                }
                Taken::Overflowed => self.enter(Mode::CatchingUp {
                    width: PageRange::WHOLE,
                }),
                Taken::Nothing => return Advanced::AtTheEnd,
            },
        }
        Advanced::Further
    }

    /// Reads a page up to a position, and returns the width for the next one.
    async fn read(&mut self, up_to: Position, width: Position) -> Option<Position> {
        let range = PageRange {
            after: self.examined,
            up_to,
            width,
        };
        let page = tokio::select! {
            page = self.shared.outbox.page(&self.reader, range, PAGE) => page,
            () = self.shared.closing.cancelled() => return None,
            () = tokio::time::sleep_until(self.heartbeat_at) => return None,
        };
        match page {
            Ok(Page {
                events,
                complete_to,
                next_width,
            }) => {
                self.page = events.into();
                self.examined = complete_to;
                Some(next_width)
            }
            Err(error) => {
                warn(&error, "a page for a reader cannot be read; it is tried again");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => {}
                    () = self.shared.closing.cancelled() => {}
                }
                None
            }
        }
    }

    fn event(&mut self, event: Arc<Recorded>) -> Delivery {
        self.examined = self.examined.max(event.position);
        let (cursor, prev) = self.step(event.position);
        Delivery::Event { cursor, prev, event }
    }

    /// Says how far the log was examined.
    fn heartbeat(&mut self) -> Option<Delivery> {
        if !self.examine() {
            return None;
        }
        let (cursor, prev) = self.step(self.examined);
        Some(Delivery::Heartbeat { cursor, prev })
    }

    /// Moves on to where the tail is, if nothing waits. The position is read before the inbox is found empty: what
    /// lies at or below it had been put there.
    fn examine(&mut self) -> bool {
        let Some((at, generation)) = self.shared.at() else {
            return false;
        };
        if generation != self.generation || !self.inbox.is_quiet() {
            return false;
        }
        self.examined = self.examined.max(at.position);
        true
    }

    /// The log lost its end: what was delivered from there is not so any more.
    fn restart(&mut self) -> Delivery {
        let Some((at, generation)) = self.shared.arm(&self.inbox) else {
            self.closed = true;
            return Delivery::Closing {
                code: "starting",
                retry_after: RETRY_AFTER_SHUTDOWN_S,
            };
        };
        self.page.clear();
        self.examined = at.position;
        self.generation = generation;
        self.enter(Mode::Live);
        self.last = at.clone();
        metrics::reset(ResetReason::OtherEpoch);
        Delivery::Reset {
            cursor: at,
            reason: ResetReason::OtherEpoch,
            oldest: 1,
        }
    }

    fn enter(&mut self, mode: Mode) {
        match (self.mode.is_live(), mode.is_live()) {
            (true, false) => self.shared.catching_up.fetch_add(1, Ordering::Relaxed),
            (false, true) => self.shared.catching_up.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.mode = mode;
    }

    /// Moves the chain on to a position.
    fn step(&mut self, position: Position) -> (Cursor, Cursor) {
        self.heartbeat_at = Instant::now() + self.shared.options.heartbeat;
        let cursor = self.cursor_at(position);
        let prev = std::mem::replace(&mut self.last, cursor.clone());
        (cursor, prev)
    }

    /// A position in the present epoch, in which all positions before it mean what they meant.
    fn cursor_at(&self, position: Position) -> Cursor {
        let epoch = self.shared.at().map(|(at, _)| at.epoch);
        Cursor {
            epoch: epoch.unwrap_or_else(|| self.last.epoch.clone()),
            position,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if !self.mode.is_live() {
            self.shared.catching_up.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.remove(&self.reader, &self.inbox);
    }
}
