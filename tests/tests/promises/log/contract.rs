//! What the ports promise, on the log in memory, SQLite, MariaDB and Oracle's MySQL: the same tests on each.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use chat_domain::{
    Position,
    batch::Outcome,
    command::{Action, ReceiptKind},
    content::{Content, ContentType},
    event::{Event, Recorded},
    ports::{ExecuteError, PageLimit, PageRange, Reader},
    rejection::Rejection,
    seconds,
    views::{MessageRange, Order},
};
use chat_tests::{
    Database, Kind,
    databases::not_run,
    ports::{Ports, direct, user},
    sized,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

macro_rules! contract {
    ($(async fn $name:ident($ports:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            async fn scenario($ports: Ports) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn memory() {
                scenario(Ports::memory()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                let database = Database::fresh(Kind::Sqlite).await;
                scenario(Ports::on(&database).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() {
                let database = Database::fresh(Kind::MariaDb).await;
                scenario(Ports::on(&database).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() {
                if !not_run(Kind::MySql, concat!("contract ", stringify!($name))).await {
                    let database = Database::fresh(Kind::MySql).await;
                    scenario(Ports::on(&database).await).await;
                }
            }
        }
    )+};
}

contract! {
    async fn positions_and_seqs_have_no_holes_under_concurrent_senders(ports) {
        let ports = Arc::new(ports);
        let senders = (0..32).map(|n| {
            let ports = ports.clone();
            tokio::spawn(async move {
                let (from, to) = (format!("u{}", n % 8), format!("u{}", n % 5));
                let mut sent = Vec::new();
                for text in 0..10 {
                    sent.push(ports.send(&from, &to, &format!("{n}-{text}")).await);
                }
                sent
            })
        });
        let mut answered = Vec::new();
        for sender in senders.collect::<Vec<_>>() {
            let sent = sender.await.unwrap();
            assert!(sent.is_sorted_by_key(|event| event.position), "a sender's events are in its order");
            answered.extend(sent);
        }
        answered.sort_by_key(|event| event.position);
        let log = ports.events().await;
        assert_eq!(log.len(), 320);
        assert_eq!(answered, log, "what was answered is what the log holds");
        assert!((1..).zip(&log).all(|(position, event)| event.position == position));
        assert!(log.is_sorted_by_key(|event| event.occurred_at));
        assert_eq!(ports.outbox.head().await.unwrap().position, 320);
        let mut seqs = std::collections::HashMap::new();
        for event in &log {
            let seq: &mut i64 = seqs.entry(event.conversation_id.clone()).or_default();
            *seq += 1;
            assert_eq!(event.seq, *seq);
        }
    }

    async fn a_key_is_recorded_once_however_often_and_however_many_at_once_it_comes(ports) {
        let ports = Arc::new(ports);
        let send = |text: &str| Action::SendMessage { receiver_id: user("bob"), content: Content::text(text) };
        let at_once: Vec<_> = (0..20).map(|_| {
            let (ports, action) = (ports.clone(), send("hi"));
            tokio::spawn(async move { ports.execute("alice", Some("k'\\1"), action).await.unwrap() })
        }).collect();
        let mut positions = BTreeSet::new();
        let mut first = 0;
        for task in at_once {
            match task.await.unwrap() {
                Outcome::Sent(recorded) => {
                    first += 1;
                    positions.insert(recorded.position);
                }
                Outcome::SentBefore(position) => {
                    positions.insert(position);
                }
                Outcome::Marked(_) => panic!("a send came to marks"),
            }
        }
        assert_eq!((first, positions.len()), (1, 1));
        ports.send("bob", "alice", "later").await;
        let position = positions.pop_first().unwrap();
        assert_eq!(ports.execute("alice", Some("k'\\1"), send("hi")).await, Ok(Outcome::SentBefore(position)));
        let reused = ports.execute("alice", Some("k'\\1"), send("ho")).await;
        assert_eq!(reused, Err(ExecuteError::Rejected(Rejection::KeyReused)));
        // Keys are compared byte for byte, and belong to their actor.
        for (actor, key) in [("alice", "K'\\1"), ("Alice", "k'\\1"), ("bob", "k'\\1")] {
            let action = Action::SendMessage { receiver_id: user("carol"), content: Content::text("hi") };
            let outcome = ports.execute(actor, Some(key), action).await;
            assert!(matches!(outcome, Ok(Outcome::Sent(_))), "{actor} {key}: {outcome:?}");
        }
        assert_eq!(ports.events().await.len(), 5);
    }

    async fn content_comes_back_to_the_byte(ports) {
        let all_bytes: Bytes = (0..=255).collect::<Vec<u8>>().into();
        let contents = [
            Content { content_type: ContentType::octet_stream(), bytes: all_bytes },
            Content::text("it's \\ \"quoted\" \0 and ünïcödé 🦀 % _ \n"),
            Content { content_type: ContentType::parse("image/png").unwrap(), bytes: vec![0; 300_000].into() },
            Content { content_type: ContentType::parse("text/x-o'clock").unwrap_or(ContentType::text_plain()), bytes: "x".into() },
            Content::text("a".repeat(2049)),
            // In the writer's statement larger than one packet of the MySQL protocol (16 MiB).
            Content { content_type: ContentType::octet_stream(), bytes: vec![7; 9 << 20].into() },
        ];
        for content in &contents {
            ports.send_content("alice", "bob", content.clone()).await;
        }
        let in_log: Vec<_> = ports.events().await.iter().map(|event| match &event.event {
            Event::MessageSent { content, .. } => content.clone().unwrap(),
            other => panic!("{other:?}"),
        }).collect();
        assert_eq!(in_log, contents);
        // A page is bounded by bytes too: it may hold fewer than were asked for, and then says that there are more.
        let mut in_history: Vec<Content> = Vec::new();
        loop {
            let after = Some(in_history.len() as Position);
            let range = MessageRange { after, order: Order::Ascending, limit: 10, ..MessageRange::default() };
            let page = ports.timeline.messages(&user("bob"), &direct("alice", "bob"), range).await.unwrap();
            in_history.extend(page.messages.into_iter().map(|message| message.content.unwrap()));
            if !page.more {
                break;
            }
        }
        assert_eq!(in_history, contents);
        let one = ports.timeline.message(&user("bob"), 3).await.unwrap().unwrap();
        assert_eq!(one.content.as_ref(), Some(&contents[2]));
    }

    async fn receipts_move_marks_and_fill_received_at(ports) {
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(ports.send("alice", "bob", &n.to_string()).await.position);
        }
        let marked = ports.receipt("bob", ReceiptKind::Received, ids[1]).await.unwrap();
        assert_eq!((marked.received_seq, marked.read_seq), (2, 0));
        let marked = ports.receipt("bob", ReceiptKind::Read, ids[2]).await.unwrap();
        assert_eq!((marked.received_seq, marked.read_seq), (3, 3));
        let marked = ports.receipt("bob", ReceiptKind::Read, ids[0]).await.unwrap();
        assert_eq!((marked.received_seq, marked.read_seq), (3, 3), "never backwards");
        ports.send("alice", "alice", "a note").await;
        ports.project().await;
        let log = ports.events().await;
        assert_eq!(log.len(), 8, "a receipt that changes nothing is no event");
        let mut received = Vec::new();
        for id in &ids {
            received.push(ports.timeline.message(&user("alice"), *id).await.unwrap().unwrap().received_at);
        }
        let at = |position: usize| Some(seconds(log[position - 1].occurred_at));
        assert_eq!(received, [at(6), at(6), at(7), None, None]);
        let note = ports.timeline.message(&user("alice"), 8).await.unwrap().unwrap();
        assert_eq!(note.received_at, at(8), "a note to oneself is received at once");
        // An answer says that everything before it was received.
        ports.send("bob", "alice", "answer").await;
        ports.project().await;
        let last = ports.timeline.message(&user("alice"), ids[4]).await.unwrap().unwrap();
        assert!(last.received_at.is_some());
        for (actor, up_to) in [("carol", ids[0]), ("Bob", ids[0]), ("bob", 999), ("bob", 8), ("bob", -1)] {
            let refused = ports.receipt(actor, ReceiptKind::Read, up_to).await;
            assert_eq!(refused, Err(ExecuteError::Rejected(Rejection::MessageNotFound)), "{actor} {up_to}");
        }
    }

    async fn nobody_sees_what_is_not_theirs(ports) {
        let id = ports.send("alice", "bob", "secret").await.position;
        ports.send("Alice", "bob", "other").await;
        ports.receipt("bob", ReceiptKind::Read, id).await.unwrap();
        let up_to = ports.outbox.head().await.unwrap().position;
        for (who, mine) in [("alice", 2), ("bob", 3), ("Alice", 1), ("ALICE", 0), ("alic", 0), ("alice1", 0), ("bo", 0)] {
            let range = PageRange { after: 0, up_to, width: PageRange::WHOLE };
            let page = ports.outbox.page(&user(who).into(), range, PageLimit { events: 10, bytes: 1 << 20 }).await.unwrap();
            assert_eq!((page.events.len(), page.complete_to), (mine, up_to), "{who}");
            let sees = matches!(who, "alice" | "bob");
            assert_eq!(ports.timeline.message(&user(who), id).await.unwrap().is_some(), sees, "{who}");
            let range = MessageRange { limit: 10, ..MessageRange::default() };
            let history = ports.timeline.messages(&user(who), &direct("alice", "bob"), range).await.unwrap();
            assert_eq!(history.messages.len(), usize::from(sees), "{who}");
            let conversations = ports.timeline.conversations(&user(who), None, 10).await.unwrap().conversations;
            let expected = match who { "bob" => 2, "alice" | "Alice" => 1, _ => 0 };
            assert_eq!(conversations.len(), expected, "{who}");
        }
    }

    async fn pages_give_each_event_once_in_order_from_anywhere(ports) {
        let mut rng = StdRng::seed_from_u64(1);
        let (commands, proven) = sized((120, 40), (300, 100));
        fill(&ports, &mut rng, commands).await;
        let log = ports.events().await;
        let up_to = log.len() as Position;
        let users = ["a", "b", "c", "d", "nobody"].map(|who| Reader::User(user(who)));
        for reader in users.into_iter().chain([Reader::Everything]) {
            let may_see = |event: &&Arc<Recorded>| match &reader {
                Reader::User(user) => event.audience().any(|one| one == user),
                Reader::Everything => true,
            };
            let mine: Vec<_> = log.iter().filter(may_see).collect();
            for limit in [PageLimit { events: 1, bytes: 1 << 20 }, PageLimit { events: 7, bytes: 1 << 20 },
                          PageLimit { events: 500, bytes: 3000 }, PageLimit { events: 500, bytes: 1 << 20 }] {
                for after in [0, rng.random_range(0..up_to), up_to - 1, up_to] {
                    let mut range = PageRange { after, up_to, width: PageRange::WHOLE };
                    let mut seen = Vec::new();
                    while range.after < up_to {
                        let page = ports.outbox.page(&reader, range, limit).await.unwrap();
                        assert!(page.complete_to > range.after && page.complete_to <= up_to, "it goes on");
                        assert!(page.events.len() <= limit.events);
                        assert!(page.events.iter().all(|e| range.after < e.position && e.position <= page.complete_to));
                        seen.extend(page.events);
                        range = PageRange { after: page.complete_to, up_to, width: page.next_width };
                    }
                    let expected: Vec<_> = mine.iter().filter(|event| event.position > after).copied().cloned().collect();
                    assert_eq!(positions(&seen), positions(&expected), "{reader:?} after {after} {limit:?}");
                    assert_eq!(seen, expected);
                }
            }
        }
        // A page is bounded by what is proven, not by what is there.
        assert!(proven < up_to);
        let range = PageRange { after: 0, up_to: proven, width: PageRange::WHOLE };
        for reader in [user("a").into(), Reader::Everything] {
            let page = ports.outbox.page(&reader, range, PageLimit { events: 1000, bytes: 1 << 20 }).await.unwrap();
            assert!(page.events.iter().all(|event| event.position <= proven));
            assert_eq!(page.complete_to, proven);
        }
    }

    async fn history_is_the_same_however_it_is_asked_for(ports) {
        let mut rng = StdRng::seed_from_u64(2);
        fill(&ports, &mut rng, 200).await;
        ports.project().await;
        let log = ports.events().await;
        let head = log.len() as Position;
        let conversation = direct("a", "b");
        let all: Vec<_> = log.iter().filter(|e| e.conversation_id == conversation).filter_map(|e| e.message()).collect();
        let (first, last) = (all[0].sent_at, all.last().unwrap().sent_at);
        for _ in 0..150 {
            let mut some = |low: i64, high: i64| rng.random_bool(0.5).then(|| rng.random_range(low..=high));
            let range = MessageRange {
                before: some(-1, head + 2),
                after: some(-1, head + 2),
                since: some(first - 1, last + 1),
                until: some(first - 1, last + 1),
                order: if rng.random_bool(0.5) { Order::Ascending } else { Order::Descending },
                limit: rng.random_range(1..20),
            };
            let mut expected: Vec<_> = all.iter().filter(|m| {
                range.before.is_none_or(|before| m.id < before)
                    && range.after.is_none_or(|after| m.id > after)
                    && range.since.is_none_or(|since| m.sent_at >= since)
                    && range.until.is_none_or(|until| m.sent_at <= until)
            }).map(|m| m.id).collect();
            if range.order == Order::Descending {
                expected.reverse();
            }
            let more = expected.len() > range.limit;
            expected.truncate(range.limit);
            let page = ports.timeline.messages(&user("b"), &conversation, range.clone()).await.unwrap();
            let found: Vec<_> = page.messages.iter().map(|m| m.id).collect();
            assert_eq!((found, page.more), (expected, more), "{range:?}");
            assert_eq!(page.cursor.position, head);
        }
    }

    async fn conversations_are_listed_with_the_newest_message_first(ports) {
        for (from, to) in [("me", "a"), ("b", "me"), ("c", "me"), ("me", "a"), ("x", "y"), ("b", "me")] {
            ports.send(from, to, &format!("{from} to {to}")).await;
        }
        let last_of_c = 3;
        ports.receipt("me", ReceiptKind::Received, last_of_c).await.unwrap();
        let first = ports.timeline.conversations(&user("me"), None, 2).await.unwrap();
        let rest = ports.timeline.conversations(&user("me"), first.next_before, 2).await.unwrap();
        assert_eq!(rest.next_before, None);
        let all: Vec<_> = first.conversations.into_iter().chain(rest.conversations).collect();
        let shown: Vec<_> = all.iter().map(|c| {
            let last = c.last_message.as_ref().unwrap();
            (c.conversation_id.as_str(), c.seq, c.unread, last.id)
        }).collect();
        // A receipt moves no conversation up.
        assert_eq!(shown, [("b,me", 2, 2, 6), ("a,me", 2, 0, 4), ("c,me", 1, 1, 3)]);
        let marks: Vec<_> = all[2].participants.iter().map(|p| (p.user_id.as_str(), p.received_seq, p.read_seq)).collect();
        assert_eq!(marks, [("c", 1, 1), ("me", 1, 0)]);
        assert_eq!(first.cursor.position, 7);
    }
}

/// The log in memory and a database, given the same commands, hold the same events.
#[tokio::test]
async fn each_log_records_the_same_events_for_the_same_commands() {
    let mut logs = Vec::new();
    let mut databases = Vec::new();
    for kind in [Kind::Sqlite, Kind::MariaDb, Kind::MySql] {
        if !not_run(kind, "contract each_log_records_the_same_events").await {
            databases.push(Database::fresh(kind).await);
        }
    }
    let mut ports = vec![Ports::memory()];
    for database in &databases {
        ports.push(Ports::on(database).await);
    }
    for ports in &ports {
        fill(ports, &mut StdRng::seed_from_u64(3), 150).await;
        let events: Vec<_> = ports
            .events()
            .await
            .iter()
            .map(|event| {
                (
                    event.position,
                    event.conversation,
                    event.conversation_id.clone(),
                    event.seq,
                    event.hash,
                    event.event.clone(),
                )
            })
            .collect();
        logs.push(events);
    }
    assert!(logs[0].len() > 100);
    for log in &logs[1..] {
        assert_eq!(*log, logs[0]);
    }
}

fn positions(events: &[Arc<Recorded>]) -> Vec<Position> {
    events.iter().map(|event| event.position).collect()
}

/// Sends and receipts among a few people, the same for the same seed.
async fn fill(ports: &Ports, rng: &mut StdRng, commands: usize) {
    const PEOPLE: [&str; 4] = ["a", "b", "c", "d"];
    for n in 0..commands {
        let from = PEOPLE[rng.random_range(0..4)];
        let to = PEOPLE[rng.random_range(0..4)];
        if n > 10 && rng.random_bool(0.3) {
            let up_to = rng.random_range(1..=n as Position);
            let kind = if rng.random_bool(0.5) {
                ReceiptKind::Received
            } else {
                ReceiptKind::Read
            };
            match ports.receipt(from, kind, up_to).await {
                Ok(_) | Err(ExecuteError::Rejected(Rejection::MessageNotFound)) => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            ports.send(from, to, &"x".repeat(rng.random_range(1..300))).await;
        }
    }
}
