//! History through a long conversation: every message once, whichever way it is walked and whatever arrives meanwhile,
//! at a cost that follows the page and neither the depth nor the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use chat_domain::{
    ports::Timeline,
    views::{MessageRange, Order},
};
use chat_infrastructure::timeline::SqlTimeline;
use chat_tests::{
    Client, Database, Server,
    counting::Counted,
    logs::{Fill, Filled, fill},
    ok, on_each_database,
    ports::{direct, user},
    run, sized,
};
use serde_json::{Value, json};

/// The messages of the conversation with bob in full; a tenth as many go to five hundred others beside it.
const LONG: Fill<'_> = Fill {
    messages: 110_000,
    from: "bob",
    to: "alice",
    others: 500,
    other: "u",
    bytes: 40,
};

on_each_database! {
    async fn a_filled_log_is_one_that_the_writer_could_have_written(kind) {
        let database = Database::fresh(kind).await;
        assert_eq!(run(&database, &["migrate", "up"], &[]).await.code, 0);
        let filled = fill(&database, &Fill { messages: 2000, others: 30, ..LONG }).await;
        let again = fill(&database, &Fill { messages: 500, from: "carol", others: 20, other: "v", ..LONG }).await;
        assert_eq!((filled.main, again.after, again.last), (1819, 2000, 2500));
        for seq in [1, 10, 11, 1819] {
            let id = filled.id(seq);
            let row = format!("FROM messages WHERE _id = {id} AND sender_id = 'bob' AND sent_at = {}", filled.sent_at(seq));
            assert_eq!(database.number(&format!("SELECT seq {row}")).await, seq);
        }
        let outcome = run(&database, &["verify"], &[]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.stdout);
        assert!(outcome.stdout.contains("2500 events, 2500 messages, 52 conversations"), "{}", outcome.stdout);
    }

    /// The last messages of a page are together more than a page holds: it is shorter, and nothing is left out.
    async fn conversations_that_end_in_large_messages_are_all_there(kind) {
        const OTHERS: i64 = 20;
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let large = "x".repeat(256 << 10);
        for other in 0..OTHERS {
            server.client(&format!("other-{other}")).send("bob", &large, None).await.unwrap();
        }
        let (mut path, mut pages, mut found) = ("/v1/conversations?limit=200".to_owned(), 0, Vec::new());
        loop {
            let page = ok(server.client("bob").get(&path)).await.unwrap();
            for conversation in page["conversations"].as_array().unwrap() {
                assert_eq!((&conversation["unread"], &conversation["last_message"]["seq"]), (&json!(1), &json!(1)));
                found.push(conversation["last_message"]["_id"].as_i64().unwrap());
            }
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            path = next.to_owned();
        }
        assert_eq!(found, (1..=OTHERS).rev().collect::<Vec<_>>());
        assert!(pages > 1, "they fit into one page");
    }

    async fn history_goes_through_a_long_conversation_without_a_double_or_a_hole(kind) {
        let database = Database::fresh(kind).await;
        assert_eq!(run(&database, &["migrate", "up"], &[]).await.code, 0);
        let filled = fill(&database, &Fill { messages: sized(11_000, LONG.messages), ..LONG }).await;
        assert_eq!(filled.main, sized(10_000, 100_000));
        check_cost_of_pages(&database, &filled).await;

        let server = Server::start(&database, &[]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let sender = tokio::spawn(send_until([server.client("alice"), server.client("bob")], stop.clone()));
        let begun = Instant::now();
        let (alice, last) = (server.client("alice"), i64::MAX);
        let (up, down, since, until, seconds) = tokio::join!(
            walk(&alice, "after=0".into()),
            walk(&alice, format!("before={last}")),
            walk(&alice, format!("since={}", filled.second)),
            walk(&alice, format!("until={}", u32::MAX)),
            walk_by_seconds(&alice, &filled),
        );
        stop.store(true, Ordering::Relaxed);
        let sent = sender.await.unwrap();
        eprintln!("{kind:?}: five walks in {:?}, {sent} messages arrived meanwhile", begun.elapsed());
        assert!(sent > 10, "messages arrived meanwhile: {sent}");

        let newest = filled.main + sent;
        for (name, walked) in [("after", &up), ("since", &since)] {
            let end = i64::try_from(walked.len()).unwrap();
            assert!(filled.main <= end && end <= newest, "{name} ends at {end}");
            assert!(walked.iter().map(|(seq, _)| *seq).eq(1..=end), "{name} has a double or a hole");
            assert!(walked.is_sorted_by(|a, b| a.1 < b.1), "{name} is in order");
        }
        for (name, walked) in [("before", &down), ("until", &until)] {
            let begin = i64::try_from(walked.len()).unwrap();
            assert!(filled.main <= begin && begin <= newest, "{name} begins at {begin}");
            assert!(walked.iter().map(|(seq, _)| *seq).eq((1..=begin).rev()), "{name} has a double or a hole");
            assert!(walked.is_sorted_by(|a, b| a.1 > b.1), "{name} is in order");
        }
        assert!(seconds.iter().map(|(seq, _)| *seq).eq(1..=filled.main), "the seconds have a double or a hole");
        for (seq, id) in &seconds {
            assert_eq!(*id, filled.id(*seq));
        }
        check_starts(&alice, &filled).await;
        // All that came is found by whoever looks now.
        assert_eq!(walk(&alice, format!("after={}", filled.id(filled.main))).await.len(), usize::try_from(sent).unwrap());
    }
}

/// Rows that the database reads for a page, with the head and the look at the conversation: at most three times the
/// page, at any depth, by each bound.
async fn check_cost_of_pages(database: &Database, filled: &Filled) {
    let counted = Counted::connect(database).await;
    let timeline = SqlTimeline::new(counted.connected.clone());
    let (alice, conversation) = (user("alice"), direct("alice", "bob"));
    for limit in [50, 200] {
        let (mut least, mut most) = (u64::MAX, 0);
        for seq in [1, 1_000, filled.main / 2, filled.main - 1_000, filled.main] {
            let (id, second) = (filled.id(seq), filled.sent_at(seq));
            let up = MessageRange {
                order: Order::Ascending,
                limit,
                ..MessageRange::default()
            };
            let down = MessageRange {
                order: Order::Descending,
                ..up.clone()
            };
            for (name, range) in [
                (
                    "after",
                    MessageRange {
                        after: Some(id - 1),
                        ..up.clone()
                    },
                ),
                (
                    "before",
                    MessageRange {
                        before: Some(id + 1),
                        ..down.clone()
                    },
                ),
                (
                    "since",
                    MessageRange {
                        since: Some(second),
                        ..up.clone()
                    },
                ),
                (
                    "until",
                    MessageRange {
                        until: Some(second),
                        ..down.clone()
                    },
                ),
                (
                    "a second",
                    MessageRange {
                        since: Some(second),
                        until: Some(second),
                        ..up.clone()
                    },
                ),
                (
                    "a wide range",
                    MessageRange {
                        after: Some(id - 1),
                        before: Some(filled.last),
                        until: Some(second + 9),
                        ..up
                    },
                ),
                ("the newest", down),
            ] {
                let page = || timeline.messages(&alice, &conversation, range.clone());
                // Once more, for the first one also learns the tables.
                page().await.unwrap();
                let (page, rows) = counted.rows(page()).await;
                let messages = page.unwrap().messages;
                assert!(!messages.is_empty());
                assert!(
                    rows <= 3 * limit as u64,
                    "{rows} rows for a page of {limit} by {name} at {seq}"
                );
                if messages.len() == limit {
                    assert!(rows >= limit as u64, "the measure sees the rows: {rows}");
                    (least, most) = (least.min(rows), most.max(rows));
                }
            }
        }
        eprintln!(
            "{:?}: {least} to {most} rows read for a full page of {limit}, at any depth",
            database.kind()
        );
        assert!(
            most - least <= 20,
            "the cost depends on more than the page: {least} to {most} rows"
        );
    }
    // One without an index costs what it passes over: the measure would show it.
    let skipped = "SELECT COUNT(*) FROM messages WHERE reciver_id = 'alice'";
    let (_, rows) = counted.rows(counted.run(skipped)).await;
    assert!(
        rows > filled.main as u64 / 10,
        "{rows} rows for a read of everything"
    );
}

/// Where a page by time begins and ends.
async fn check_starts(client: &Client, filled: &Filled) {
    for second in (filled.second..=filled.sent_at(filled.main)).step_by(sized(1, 10)) {
        let first = (1..=filled.main).find(|seq| filled.sent_at(*seq) >= second);
        let last = (1..=filled.main).rev().find(|seq| filled.sent_at(*seq) <= second);
        let second = second.to_string();
        let page = client
            .history(&[("with", "bob"), ("since", &second), ("limit", "1")])
            .await
            .unwrap();
        assert_eq!(page["messages"][0]["seq"].as_i64(), first);
        let page = client
            .history(&[("with", "bob"), ("until", &second), ("limit", "1")])
            .await
            .unwrap();
        assert_eq!(page["messages"][0]["seq"].as_i64(), last);
    }
}

/// Follows `next` to the end; each message's `seq` and `_id`.
async fn walk(client: &Client, bound: String) -> Vec<(i64, i64)> {
    let mut walked = Vec::new();
    let mut next = Some(format!("/v1/messages?with=bob&{bound}&limit=200"));
    while let Some(url) = next {
        let page: Value = ok(client.get(&url)).await.unwrap();
        let messages = page["messages"].as_array().unwrap();
        let number = |message: &Value, name: &str| message[name].as_i64().unwrap();
        walked.extend(
            messages
                .iter()
                .map(|message| (number(message, "seq"), number(message, "_id"))),
        );
        next = page["next"].as_str().map(str::to_string);
    }
    walked
}

/// Second by second, each with as many pages as it needs.
async fn walk_by_seconds(client: &Client, filled: &Filled) -> Vec<(i64, i64)> {
    let mut walked = Vec::new();
    for second in filled.second..=filled.sent_at(filled.main) {
        walked.extend(walk(client, format!("since={second}&until={second}")).await);
    }
    walked
}

/// Sends to the conversation and beside it until told to stop; how many there were in it.
async fn send_until([alice, bob]: [Client; 2], stop: Arc<AtomicBool>) -> i64 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        bob.send("alice", "live", None).await.unwrap();
        alice.send("somebody", "else", None).await.unwrap();
        alice.send("bob", "live", None).await.unwrap();
        sent += 2;
    }
    sent
}
