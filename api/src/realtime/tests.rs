//! The hub and its subscriptions, on the log in memory. The tail is played by hand, so that what happens between two
//! steps of a subscription can be chosen.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chat_domain::{
    Position,
    command::{Action, Command},
    content::Content,
    cursor::{After, Cursor, Epoch, ResetReason},
    event::Recorded,
    ids::{CommandKey, UserId},
    memory::MemoryLog,
    ports::{self, EpochEnd, EventLog, Head, Outbox, Page, PageLimit, PageRange, StoreError},
};
use chat_infrastructure::{handover::Origin, tail::Publish};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    hub::{Hub, HubOptions, Refused},
    subscription::{Delivery, Subscription},
};
use crate::problem::Code;

/// A log whose tail stands still until it is told to go on.
#[derive(Clone)]
struct Log {
    memory: MemoryLog,
    hub: Hub,
    passed: Arc<AtomicUsize>,
    between: Arc<Between>,
    lost: Arc<Mutex<Option<(Head, EpochEnd)>>>,
}

/// Runs something while a page is read: after it was read, and before the subscription has it.
#[derive(Default)]
struct Between(Mutex<Option<Box<dyn FnMut() + Send>>>);

struct Paged {
    memory: MemoryLog,
    between: Arc<Between>,
    /// The head, and how the epoch before it ended, once the log has lost its end.
    lost: Arc<Mutex<Option<(Head, EpochEnd)>>>,
}

#[async_trait]
impl Outbox for Paged {
    async fn head(&self) -> Result<Head, StoreError> {
        let lost = self.lost.lock().unwrap().clone();
        match lost {
            Some((head, _)) => Ok(head),
            None => self.memory.head().await,
        }
    }

    async fn earlier_epochs(&self) -> Result<Vec<EpochEnd>, StoreError> {
        let lost = self.lost.lock().unwrap().clone();
        match lost {
            Some((_, end)) => Ok(vec![end]),
            None => self.memory.earlier_epochs().await,
        }
    }

    async fn read_after(&self, after: Position, limit: PageLimit) -> Result<Vec<Arc<Recorded>>, StoreError> {
        self.memory.read_after(after, limit).await
    }

    async fn page(
        &self,
        reader: &ports::Reader,
        range: PageRange,
        limit: PageLimit,
    ) -> Result<Page, StoreError> {
        let page = self.memory.page(reader, range, limit).await;
        if let Some(run) = &mut *self.between.0.lock().unwrap() {
            run();
        }
        page
    }
}

impl Log {
    fn new(options: HubOptions) -> Self {
        let memory = MemoryLog::new(Epoch::parse("test").unwrap(), || 0);
        let between = Arc::new(Between::default());
        let lost = Arc::default();
        let outbox = Arc::new(Paged {
            memory: memory.clone(),
            between: between.clone(),
            lost: Arc::clone(&lost),
        });
        let log = Self {
            memory,
            hub: Hub::new(outbox, options),
            passed: Arc::default(),
            between,
            lost,
        };
        log.hub.publish(&[], &Origin::elsewhere(), &log.cursor(0));
        log
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            epoch: Epoch::parse("test").unwrap(),
            position,
        }
    }

    async fn send(&self, from: &str, to: &str) {
        let action = Action::SendMessage {
            receiver_id: user(to),
            content: Content::text("hi"),
        };
        let key = CommandKey::of_server(rand::random());
        self.memory
            .execute(Command {
                actor_id: user(from),
                via: None,
                key,
                may_begin: true,
                action,
            })
            .await
            .unwrap();
    }

    /// The tail passes on at most so many events.
    async fn pass(&self, most: usize) {
        let after = self.passed.load(Ordering::Relaxed) as Position;
        let events = self
            .memory
            .read_after(
                after,
                PageLimit {
                    events: most,
                    bytes: usize::MAX,
                },
            )
            .await
            .unwrap();
        self.passed.fetch_add(events.len(), Ordering::Relaxed);
        self.hub.publish(
            &events,
            &Origin::elsewhere(),
            &self.cursor(after + events.len() as Position),
        );
    }

    async fn subscribe(&self, who: &str, after: After) -> Subscription {
        self.hub.subscribe(user(who), after).await.unwrap()
    }
}

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

fn options() -> HubOptions {
    HubOptions {
        heartbeat: Duration::from_secs(15),
        // The tail stands still on purpose.
        patience: Duration::ZERO,
        ..HubOptions::default()
    }
}

/// Follows the chain, and keeps the positions of the events.
#[derive(Default)]
struct Reader {
    last: Option<Cursor>,
    positions: Vec<Position>,
}

impl Reader {
    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Ready { cursor, .. } | Delivery::Reset { cursor, .. } => {
                assert!(self.last.is_none(), "a stream begins once");
                self.last = Some(cursor);
            }
            Delivery::Event { cursor, prev, event } => {
                assert_eq!(self.last, Some(prev));
                assert_eq!(cursor.position, event.position);
                self.positions.push(event.position);
                self.last = Some(cursor);
            }
            Delivery::Heartbeat { cursor, prev } => {
                assert_eq!(self.last, Some(prev));
                self.last = Some(cursor);
            }
            Delivery::Closing { code, .. } => panic!("closing: {code}"),
        }
    }
}

#[tokio::test]
async fn a_subscription_gives_each_event_once_in_order_whatever_happens_between_its_steps() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let inbox_events = rng.random_range(1..6);
        let log = Log::new(HubOptions {
            inbox_events,
            ..options()
        });
        let mut expected = Vec::new();
        for n in 1..=120 {
            let (from, to) = [("a", "b"), ("b", "c"), ("c", "a")][rng.random_range(0..3)];
            log.send(from, to).await;
            if from == "a" || to == "a" {
                expected.push(n);
            }
        }
        log.pass(rng.random_range(0..60)).await;
        // While a page is under way, the tail goes on.
        let (racing, mut dice) = (log.clone(), StdRng::seed_from_u64(seed));
        *log.between.0.lock().unwrap() = Some(Box::new(move || {
            if dice.random_bool(0.5) {
                futures_util::FutureExt::now_or_never(racing.pass(dice.random_range(0..9)))
                    .expect("the log in memory does not wait");
            }
        }));
        let passed = log.passed.load(Ordering::Relaxed) as Position;
        let from = rng.random_range(0..=passed);
        let after = if rng.random_bool(0.3) {
            After::Now
        } else {
            After::Cursor(log.cursor(from))
        };
        let begin = if after == After::Now { passed } else { from };
        let of_everything = seed % 3 == 0;
        let whose = if of_everything {
            expected = (1..=120).collect();
            ports::Reader::Everything
        } else {
            user("a").into()
        };
        let mut subscription = log.hub.subscribe(whose, after).await.unwrap();
        let mut reader = Reader::default();
        loop {
            match subscription.next_at_hand().await {
                Some(delivery) => reader.take(delivery),
                None if log.passed.load(Ordering::Relaxed) == 120 => break,
                None => {}
            }
            if rng.random_bool(0.3) {
                log.pass(rng.random_range(0..12)).await;
            }
        }
        expected.retain(|position| *position > begin);
        assert_eq!(reader.positions, expected, "seed {seed}");
        *log.between.0.lock().unwrap() = None;
    }
}

/// The tail runs on a thread of its own, a few events ahead of the reader, and an inbox of one event overflows all the
/// time: the stream joins again and again, at every moment of a publication.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_joins_while_the_tail_runs_misses_nothing() {
    // In full before a release, as the tests of the whole system are (`make soak`).
    let is_full = std::env::var("SOAK").is_ok_and(|soak| soak == "yes");
    let (rounds, events): (usize, usize) = if is_full { (5, 3000) } else { (3, 1000) };
    for _ in 0..rounds {
        let log = Log::new(HubOptions {
            inbox_events: 1,
            ..options()
        });
        for _ in 0..events {
            log.send("a", "b").await;
        }
        let mut stream = log.subscribe("a", After::Beginning).await;
        let read = Arc::new(AtomicUsize::new(0));
        let tail = tokio::spawn({
            let (log, read) = (log.clone(), read.clone());
            async move {
                while log.passed.load(Ordering::Relaxed) < events {
                    if log.passed.load(Ordering::Relaxed) < read.load(Ordering::Relaxed) + 3 {
                        log.pass(1).await;
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut reader = Reader::default();
        while reader.positions.len() < events {
            let delivery = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
            reader.take(delivery.expect("the stream goes on"));
            read.store(reader.positions.len(), Ordering::Relaxed);
        }
        assert_eq!(reader.positions, (1..=events as Position).collect::<Vec<_>>());
        tail.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_says_how_far_the_log_was_examined_and_no_further() {
    let log = Log::new(options());
    let mut quiet = log.subscribe("quiet", After::Now).await;
    assert_eq!(
        quiet.next().await,
        Delivery::Ready {
            cursor: log.cursor(0),
            head: 0
        }
    );
    log.send("a", "b").await;
    log.send("a", "b").await;
    log.pass(1).await;
    assert_eq!(
        quiet.next().await,
        Delivery::Heartbeat {
            cursor: log.cursor(1),
            prev: log.cursor(0)
        }
    );
    log.pass(1).await;
    assert_eq!(quiet.examined(), log.cursor(2));
    assert_eq!(
        quiet.next().await,
        Delivery::Heartbeat {
            cursor: log.cursor(2),
            prev: log.cursor(1)
        }
    );
}

#[tokio::test]
async fn what_was_examined_is_named_in_the_present_epoch() {
    let log = Log::new(options());
    let mut quiet = log.subscribe("quiet", After::Now).await;
    assert_eq!(
        quiet.next().await,
        Delivery::Ready {
            cursor: log.cursor(0),
            head: 0
        }
    );
    let next = Cursor {
        epoch: Epoch::parse("next").unwrap(),
        position: 1_000_000,
    };
    log.hub.publish(&[], &Origin::elsewhere(), &next);
    assert_eq!(quiet.examined(), next);
}

#[tokio::test]
async fn nothing_is_handed_to_those_who_may_not_see_it() {
    let log = Log::new(options());
    let mut streams = Vec::new();
    for who in ["a", "b", "A", "c"] {
        streams.push((who, log.subscribe(who, After::Beginning).await, Reader::default()));
    }
    let everything = log
        .hub
        .subscribe(ports::Reader::Everything, After::Beginning)
        .await;
    streams.push(("everybody", everything.unwrap(), Reader::default()));
    // Live from here on.
    for (_, stream, reader) in &mut streams {
        reader.take(stream.next().await);
        assert_eq!(stream.next_at_hand().await, None);
    }
    log.send("a", "b").await;
    log.send("A", "c").await;
    log.send("d", "d").await;
    log.pass(3).await;
    for (who, stream, reader) in &mut streams {
        while let Some(delivery) = stream.next_at_hand().await {
            reader.take(delivery);
        }
        let mine: &[Position] = match *who {
            "a" | "b" => &[1],
            "everybody" => &[1, 2, 3],
            _ => &[2],
        };
        assert_eq!(reader.positions, mine, "{who}");
    }
    assert_eq!(log.hub.subscriptions(), 5);
    drop(streams);
    assert_eq!(log.hub.subscriptions(), 0);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_resumed_from_is_reset_once_and_the_stream_goes_on() {
    let log = Log::new(options());
    log.send("a", "b").await;
    log.pass(1).await;
    let other = Cursor {
        epoch: Epoch::parse("other").unwrap(),
        position: 1,
    };
    for (cursor, reason) in [
        (log.cursor(2), ResetReason::Ahead),
        (other, ResetReason::OtherEpoch),
    ] {
        let mut stream = log.subscribe("a", After::Cursor(cursor)).await;
        let passed = log.passed.load(Ordering::Relaxed) as Position;
        assert_eq!(
            stream.next().await,
            Delivery::Reset {
                cursor: log.cursor(passed),
                reason,
                oldest: 1
            }
        );
        log.send("b", "a").await;
        log.pass(1).await;
        assert!(matches!(stream.next().await, Delivery::Event { prev, .. } if prev == log.cursor(passed)));
    }
}

#[tokio::test(start_paused = true)]
async fn who_resumes_is_given_what_was_committed_before_it_asked() {
    let log = Log::new(HubOptions {
        patience: Duration::from_secs(1),
        ..options()
    });
    log.send("a", "b").await;
    let asking = tokio::spawn({
        let log = log.clone();
        async move { log.subscribe("a", After::Beginning).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!asking.is_finished(), "the tail is behind");
    log.pass(1).await;
    let mut stream = asking.await.unwrap();
    assert!(matches!(stream.next().await, Delivery::Ready { head: 1, .. }));
    assert!(matches!(
        stream.next_at_hand().await,
        Some(Delivery::Event { .. })
    ));

    // A tail that does not come is not waited for without end.
    log.send("a", "b").await;
    let mut stream = log.subscribe("a", After::Beginning).await;
    assert!(matches!(stream.next().await, Delivery::Ready { head: 1, .. }));
}

#[tokio::test]
async fn readers_of_a_log_that_lost_its_end_are_told() {
    let log = Log::new(options());
    let mut stream = log.subscribe("a", After::Now).await;
    stream.next().await;
    let restarted = Cursor {
        epoch: Epoch::parse("new").unwrap(),
        position: 1_000_000,
    };
    log.hub.restart(&restarted);
    let reset = Delivery::Reset {
        cursor: restarted,
        reason: ResetReason::OtherEpoch,
        oldest: 1,
    };
    assert_eq!(stream.next().await, reset);
}

#[tokio::test(start_paused = true)]
async fn who_resumes_while_the_log_loses_its_end_is_judged_by_what_is_left() {
    let log = Log::new(HubOptions {
        patience: Duration::from_secs(1),
        ..options()
    });
    for _ in 0..3 {
        log.send("a", "b").await;
    }
    log.pass(2).await;
    let asking = [2, 1].map(|position| {
        let log = log.clone();
        tokio::spawn(async move {
            let cursor = log.cursor(position);
            log.subscribe("a", After::Cursor(cursor)).await
        })
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        asking.iter().all(|asking| !asking.is_finished()),
        "the tail is behind"
    );
    let restarted = Cursor {
        epoch: Epoch::parse("new").unwrap(),
        position: 1_000_001,
    };
    let head = Head {
        epoch: restarted.epoch.clone(),
        position: restarted.position,
        ..log.memory.head().await.unwrap()
    };
    let end = EpochEnd {
        epoch: log.cursor(0).epoch,
        last_position: 1,
        common: 1,
    };
    *log.lost.lock().unwrap() = Some((head, end));
    log.hub.restart(&restarted);
    let [lost, kept] = asking;
    let reset = Delivery::Reset {
        cursor: restarted.clone(),
        reason: ResetReason::OtherEpoch,
        oldest: 1,
    };
    assert_eq!(lost.await.unwrap().next().await, reset);
    let ready = Delivery::Ready {
        cursor: Cursor {
            position: 1,
            ..restarted.clone()
        },
        head: restarted.position,
    };
    assert_eq!(kept.await.unwrap().next().await, ready);
}

#[tokio::test]
async fn a_hub_that_closes_ends_its_streams_and_begins_none() {
    let log = Log::new(options());
    let mut stream = log.subscribe("a", After::Now).await;
    stream.next().await;
    log.hub.close();
    assert!(matches!(
        stream.next().await,
        Delivery::Closing { code: "shutdown", .. }
    ));
    assert!(matches!(
        log.hub.subscribe(user("a"), After::Now).await,
        Err(Refused(Code::Shutdown))
    ));
    assert_eq!(log.hub.subscriptions(), 1);
    drop(stream);
    assert_eq!(log.hub.subscriptions(), 0);
}

#[tokio::test]
async fn before_the_tail_has_begun_nobody_is_subscribed() {
    let memory = Arc::new(MemoryLog::new(Epoch::parse("test").unwrap(), || 0));
    let hub = Hub::new(memory, options());
    assert!(matches!(
        hub.subscribe(user("a"), After::Now).await,
        Err(Refused(Code::Starting))
    ));
    assert_eq!(hub.subscriptions(), 0);
}

#[tokio::test]
async fn a_slow_reader_holds_no_more_than_its_inbox() {
    let log = Log::new(HubOptions {
        inbox_events: 8,
        ..options()
    });
    let mut stream = log.subscribe("a", After::Now).await;
    for _ in 0..100 {
        log.send("a", "b").await;
    }
    log.pass(100).await;
    // It comes back through the log, and misses nothing.
    let mut reader = Reader::default();
    while let Some(delivery) = stream.next_at_hand().await {
        reader.take(delivery);
    }
    assert_eq!(reader.positions, (1..=100).collect::<Vec<_>>());
}
