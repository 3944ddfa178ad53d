//! `verify`, `rebuild`, `epoch new`, the end of a server, and every shape in which an event was ever stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_domain::{
    command::ReceiptKind,
    event::{Event, Recorded},
    ports::{Outbox, PageLimit},
};
use chat_infrastructure::{database::Database as Connected, location::Location, outbox::SqlOutbox};
use chat_tests::{
    Database, Kind, Outcome, Proxy, Server,
    chatter::{self, Chatter, position_of, whole_history},
    eventually,
    inside::{projections, rows},
    on_database_servers, on_each_database, run, sized, start_command,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);
const QUIET: (&str, &str) = ("CHAT_LOG", "off");

async fn command(database: &Database, arguments: &[&str]) -> Outcome {
    run(database, arguments, &[QUIET]).await
}

async fn succeeds(database: &Database, arguments: &[&str]) -> String {
    let outcome = command(database, arguments).await;
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (0, ""),
        "{arguments:?}: {outcome:?}"
    );
    outcome.stdout
}

async fn is_clean(database: &Database) {
    let said = succeeds(database, &["verify"]).await;
    assert!(said.starts_with("everything agrees: "), "{said}");
}

fn refusal(outcome: &Outcome) -> &str {
    let line = outcome.stderr.strip_suffix('\n').unwrap_or(&outcome.stderr);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    assert!(
        line.starts_with("chat-system: ") && !line.contains('\n'),
        "one line: {outcome:?}"
    );
    &line["chat-system: ".len()..]
}

async fn head(database: &Database) -> i64 {
    database.number("SELECT position FROM log_head").await
}

/// A short log with something of everything, and every `recived_at` filled; nothing serves.
///
/// 1 alice to bob · 2 bob to alice · 3 alice to bob, 200 KB of bytes · 4 carol to herself · 5 bob has received 3 ·
/// 6 alice to carol · 7 carol has read 6 · 8 dave to alice, which she has not received
async fn short_log(database: &Database) {
    let mut server = Server::start(database, &[]).await;
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|user| server.client(user));
    alice.send("bob", "one", Some("k")).await.unwrap();
    bob.send("alice", "two, it's \\ \"quoted\" 🦀", None)
        .await
        .unwrap();
    let body = json!({"receiver_id": "bob", "data": "AP8K".repeat(200_000 / 3), "content_type": "image/png"});
    alice.send_body(&body, None).await.unwrap();
    carol.send("carol", "a note", None).await.unwrap();
    bob.receipt("received", 3).await.unwrap();
    alice.send("carol", "six", None).await.unwrap();
    carol.receipt("read", 6).await.unwrap();
    dave.send("alice", "eight", None).await.unwrap();
    assert_eq!(head(database).await, 8);
    eventually("the projector is done", LIMIT, || async {
        database
            .number("SELECT position FROM checkpoints WHERE name = 'received_at'")
            .await
            == 8
    })
    .await;
    server.stop().await;
}

const MESSAGE_5: &str = "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, \
    conversation_id, seq) VALUES (5, 'alice', 'bob', 1, NULL, x'00', 'text/plain', 1, 77)";

type Faults = Vec<(String, &'static str)>;

/// What is done to the messages, and what `verify` must say of it.
fn faults_of_messages() -> Faults {
    let mut faults = Faults::new();
    let mut add = |sql: &str, says| faults.push((sql.to_string(), says));
    add("DELETE FROM messages WHERE _id = 2", "messages: _id 2 is missing");
    add("DELETE FROM messages WHERE _id = 1", "messages: _id 1 is missing");
    add("DELETE FROM messages WHERE _id = 8", "messages: _id 8 is missing");
    add("DELETE FROM messages", "messages: _id 6 is missing");
    for (column, value) in [
        ("data", "x'00'"),
        ("data", "NULL"),
        ("data", "x''"),
        ("seq", "99"),
        ("conversation_id", "4"),
        ("sender_id", "'Alice'"),
        ("reciver_id", "'bo'"),
        ("sent_at", "sent_at + 1"),
        ("content_type", "'text/Plain'"),
    ] {
        add(
            &format!("UPDATE messages SET {column} = {value} WHERE _id = 3"),
            "messages: _id 3 differs from its event",
        );
    }
    add(
        "UPDATE messages SET recived_at = 1 WHERE _id = 1",
        "messages: _id 1 has recived_at Some(1) instead of Some(",
    );
    add(
        "UPDATE messages SET recived_at = recived_at + 1 WHERE _id = 6",
        "messages: _id 6 has recived_at Some(",
    );
    add(
        "UPDATE messages SET recived_at = NULL WHERE _id = 3",
        "messages: _id 3 has recived_at None instead of Some(",
    );
    add(
        "UPDATE messages SET recived_at = 5 WHERE _id = 8",
        "messages: _id 8 has recived_at Some(5) instead of None",
    );
    add(MESSAGE_5, "messages: _id 5 has no event");
    let message = |id: &str| MESSAGE_5.replacen("(5,", &format!("({id},"), 1);
    add(&message("99"), "messages: _id 99 is past the head");
    add(&message("0"), "messages: _id 0 is before the first");
    add(&message("-7"), "messages: _id -7 is before the first");
    faults
}

/// The same of the other projections.
fn faults_beside_messages() -> Faults {
    let mut faults = Faults::new();
    let mut add = |sql: &str, says| faults.push((sql.to_string(), says));
    for column in ["seq", "last_position", "last_message_id"] {
        for change in ["+ 1", "- 1"] {
            add(
                &format!("UPDATE conversations SET {column} = {column} {change} WHERE id = 1"),
                "conversations: id 1 is (",
            );
        }
    }
    add(
        "UPDATE conversations SET name = 'Alice,bob' WHERE id = 1",
        "conversations: id 1 is (",
    );
    add(
        "DELETE FROM conversations WHERE id = 4",
        "conversations: id 4 is missing",
    );
    add(
        "INSERT INTO conversations (id, name, seq, last_position, last_message_id) VALUES (5, 'x,y', 1, 5, 5)",
        "conversations: id 5 has no event",
    );
    for column in ["received_seq", "read_seq", "from_position"] {
        for change in ["+ 1", "- 1"] {
            let sql = format!(
                "UPDATE participants SET {column} = {column} {change} WHERE user_id = 'bob' AND conversation_id = 1"
            );
            add(&sql, "participants: (1, \"bob\") is (");
        }
    }
    add(
        "UPDATE participants SET to_position = 8 WHERE user_id = 'alice' AND conversation_id = 8",
        "participants: (8, \"alice\") is (",
    );
    add(
        "UPDATE participants SET user_id = 'Bob' WHERE user_id = 'bob' AND conversation_id = 1",
        "participants: (1, \"Bob\") has no event",
    );
    add(
        "DELETE FROM participants WHERE user_id = 'bob' AND conversation_id = 1",
        "participants: (1, \"bob\") is missing",
    );
    add(
        "INSERT INTO participants (user_id, conversation_id, from_position, to_position, received_seq, read_seq) \
         VALUES ('eve', 1, 1, NULL, 0, 0)",
        "participants: (1, \"eve\") has no event",
    );
    add(
        "DELETE FROM checkpoints WHERE name = 'received_at'",
        "checkpoints: received_at is missing",
    );
    add(
        "UPDATE checkpoints SET position = 9 WHERE name = 'received_at'",
        "checkpoints: received_at is at 9, past the head",
    );
    faults
}

/// What is done to the log itself, which no rebuild mends.
fn faults_of_the_log() -> Faults {
    let row = |position: &str| {
        let columns = "type, conversation_id, actor_id, via, command_hash, occurred_at, receiver_id, seq, up_to_id, up_to_seq, \
                       received_after, content_type, content, fields";
        format!(
            "INSERT INTO outbox (position, command_key, {columns}) SELECT {position}, 'another', {columns} FROM outbox \
             WHERE position = 1"
        )
    };
    vec![
        (
            "DELETE FROM outbox WHERE position = 5".into(),
            "outbox: positions 5 to 5 are missing",
        ),
        (
            "DELETE FROM outbox WHERE position = 1".into(),
            "outbox: positions 1 to 1 are missing",
        ),
        (
            "DELETE FROM outbox WHERE position IN (3, 4)".into(),
            "outbox: positions 3 to 4 are missing",
        ),
        (
            "DELETE FROM outbox WHERE position = 8".into(),
            "outbox: it ends at 7, log_head says 8",
        ),
        (
            "DELETE FROM outbox".into(),
            "outbox: it ends at 0, log_head says 8",
        ),
        (
            "UPDATE log_head SET position = 9".into(),
            "outbox: it ends at 8, log_head says 9",
        ),
        (
            "UPDATE log_head SET position = 7".into(),
            "outbox: position 8 is past the head",
        ),
        (row("50"), "outbox: position 50 is past the head"),
        (row("0"), "outbox: position 0 is before the first"),
        (
            "UPDATE outbox SET occurred_at = 1000000 WHERE position = 5".into(),
            "outbox: occurred_at decreases at position 5",
        ),
        (
            "UPDATE outbox SET seq = 7 WHERE position = 3".into(),
            "outbox: position 3 has seq 7 instead of 3",
        ),
        (
            "UPDATE outbox SET seq = 0 WHERE position = 5".into(),
            "outbox: position 5 has seq 0 instead of 3",
        ),
        (
            "UPDATE outbox SET conversation_id = 99 WHERE position = 2".into(),
            "outbox: position 2 has conversation_id 99 instead of 1",
        ),
        (
            "UPDATE outbox SET content = x'00' WHERE position = 2".into(),
            "messages: _id 2 differs from its event",
        ),
        (
            "UPDATE outbox SET receiver_id = 'eve' WHERE position = 8".into(),
            "messages: _id 8 differs from its event",
        ),
        (
            "UPDATE outbox SET up_to_seq = 2 WHERE position = 5".into(),
            "participants: (1, \"bob\") is (",
        ),
        (
            "UPDATE outbox SET type = 'receipt.read' WHERE position = 5".into(),
            "participants: (1, \"bob\") is (",
        ),
    ]
}

/// Each is told, and a rebuild makes the projections what they were.
async fn faults_are_found_and_mended(kind: Kind, faults: Faults) {
    let database = Database::fresh(kind).await;
    short_log(&database).await;
    is_clean(&database).await;
    let before = projections(&database).await;
    assert_eq!(before.len(), 6 + 4 + 7 + 1, "{before:#?}");
    for (sql, says) in faults {
        database.execute(&sql).await;
        let found = command(&database, &["verify"]).await;
        assert_eq!((found.code, found.stderr.as_str()), (1, ""), "{sql}: {found:?}");
        assert!(
            found.stdout.contains(says),
            "{sql} is told as {says:?}: {found:?}"
        );
        let last = found.stdout.lines().last().unwrap();
        assert!(last.contains(" differences: 8 events"), "{found:?}");
        let said = succeeds(&database, &["rebuild"]).await;
        assert_eq!(said, "made anew: 4 conversations from 8 events\n");
        assert_eq!(
            projections(&database).await,
            before,
            "the same rows as before {sql}"
        );
    }
    is_clean(&database).await;
}

on_each_database! {
    async fn a_log_that_is_not_there_is_missed_and_not_made(kind) {
        let mut database = Database::fresh(kind).await;
        if kind == Kind::Sqlite {
            database.reopen().await;
            fs::remove_file(database.file()).unwrap();
        }
        let needs_a_log = [&["verify"][..], &["rebuild"], &["epoch", "new"]];
        let others = [&["migrate", "status"][..], &["migrate", "check"], &["migrate", "down"]];
        for arguments in needs_a_log.into_iter().chain(others) {
            let outcome = command(&database, arguments).await;
            if needs_a_log.contains(&arguments) {
                let said = refusal(&outcome);
                assert!(said.contains("`chat-system migrate up`"), "{arguments:?}: {said}");
            }
            if kind == Kind::Sqlite {
                assert!(!database.file().exists(), "{arguments:?} made a file");
            } else {
                let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
                assert_eq!(database.number(tables).await, 0, "{arguments:?} made tables");
            }
        }
    }
}

on_each_database! {
    async fn verify_finds_each_fault_of_the_messages_and_rebuild_mends_it(kind) {
        faults_are_found_and_mended(kind, faults_of_messages()).await;
    }

    async fn verify_finds_each_fault_beside_the_messages_and_rebuild_mends_it(kind) {
        faults_are_found_and_mended(kind, faults_beside_messages()).await;
    }

    async fn verify_finds_each_fault_of_the_log(kind) {
        let database = Database::fresh(kind).await;
        short_log(&database).await;
        is_clean(&database).await;
        for table in ["outbox", "log_head"] {
            database.execute(&format!("CREATE TABLE {table}_copy AS SELECT * FROM {table}")).await;
        }
        for (sql, says) in faults_of_the_log() {
            database.execute(&sql).await;
            let found = command(&database, &["verify"]).await;
            assert_eq!((found.code, found.stderr.as_str()), (1, ""), "{sql}: {found:?}");
            assert!(found.stdout.contains(says), "{sql} is told as {says:?}: {found:?}");
            for table in ["outbox", "log_head"] {
                database.execute(&format!("DELETE FROM {table}")).await;
                database.execute(&format!("INSERT INTO {table} SELECT * FROM {table}_copy")).await;
            }
        }
        // A row that says nothing is no difference but the end of it.
        database.execute("UPDATE outbox SET up_to_id = NULL WHERE position = 5").await;
        let found = command(&database, &["verify"]).await;
        assert!(refusal(&found).contains("cannot be read, at position 5: a receipt without its message"), "{found:?}");
        database.execute("UPDATE outbox SET up_to_id = 3 WHERE position = 5").await;
        is_clean(&database).await;
    }

    async fn all_faults_at_once_are_told_and_mended(kind) {
        let database = Database::fresh(kind).await;
        short_log(&database).await;
        let before = projections(&database).await;
        for sql in [
            "DELETE FROM messages WHERE _id = 2", "UPDATE messages SET data = NULL WHERE _id = 3", MESSAGE_5,
            "UPDATE messages SET recived_at = 5 WHERE _id = 8", "UPDATE conversations SET seq = 9 WHERE id = 6",
            "DELETE FROM participants WHERE user_id = 'carol'",
        ] {
            database.execute(sql).await;
        }
        let found = command(&database, &["verify"]).await;
        assert_eq!(found.code, 1);
        assert!(found.stdout.contains("7 differences: 8 events, 6 messages, 4 conversations, head at 8\n"), "{found:?}");
        assert_eq!(found.stdout.lines().count(), 8, "{found:?}");
        succeeds(&database, &["rebuild"]).await;
        assert_eq!(projections(&database).await, before);
        is_clean(&database).await;
        // It serves on from what was rebuilt.
        let server = Server::start(&database, &[]).await;
        assert_eq!(whole_history(&server.client("bob"), "alice").await.len(), 3);
        assert_eq!(server.client("alice").send("bob", "nine", None).await.unwrap()["seq"], 4);
    }

    /// Erasure does not exist yet; what it will leave behind does not stand in the way of anything.
    async fn an_erased_message_is_no_difference(kind) {
        let database = Database::fresh(kind).await;
        short_log(&database).await;
        for (table, column, key) in [("outbox", "content", "position"), ("messages", "data", "_id")] {
            database.execute(&format!("UPDATE {table} SET {column} = NULL WHERE {key} = 3")).await;
        }
        is_clean(&database).await;
        let before = projections(&database).await;
        succeeds(&database, &["rebuild"]).await;
        assert_eq!(projections(&database).await, before);
        is_clean(&database).await;
    }

    async fn verify_is_clean_while_a_node_serves_and_writes(kind) {
        let database = Database::fresh(kind).await;
        let server = Arc::new(Server::start(&database, chatter::SETTINGS).await);
        let talkers = [("alice", "bob"), ("bob", "alice"), ("carol", "carol")];
        let chatter = Chatter::start(&server, &database, &talkers, &["bob"]).await;
        let stop = Arc::new(AtomicBool::new(false));
        let others = tokio::spawn({
            let (server, stop) = (server.clone(), stop.clone());
            async move {
                let (dave, erin) = (server.client("dave"), server.client("erin"));
                let large = json!({"receiver_id": "erin", "data": "AP8K".repeat(60_000), "content_type": "video/mp4"});
                let mut rounds = 0;
                while !stop.load(Ordering::Relaxed) {
                    let sent = dave.send_body(&large, None).await.unwrap()["_id"].as_i64().unwrap();
                    erin.receipt("received", sent).await.unwrap();
                    erin.receipt("read", sent).await.unwrap();
                    erin.send("dave", "answer", None).await.unwrap();
                    rounds += 1;
                }
                rounds
            }
        });
        let mut heads = BTreeSet::new();
        for _ in 0..6 {
            is_clean(&database).await;
            heads.insert(head(&database).await);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(others.await.unwrap() > 0);
        assert!(heads.len() > 1, "the log grew meanwhile: {heads:?}");
        chatter.finish(&server, &database).await;
        is_clean(&database).await;
    }

    async fn rebuild_is_refused_while_a_node_serves(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        let text = match kind {
            Kind::Sqlite => "another process uses the SQLite file",
            Kind::MariaDb | Kind::MySql => "a node serves this database: stop every node first",
        };
        // The node's own projector moves its checkpoint.
        eventually("the projector has nothing to do", LIMIT, || async {
            database.number("SELECT position FROM checkpoints WHERE name = 'received_at'").await == 1
        }).await;
        let before = projections(&database).await;
        let refused = command(&database, &["rebuild"]).await;
        assert!(refusal(&refused).starts_with(text), "{refused:?}");
        assert_eq!(projections(&database).await, before);
        assert_eq!(database.number("SELECT COUNT(*) FROM checkpoints WHERE name = 'rebuild'").await, 0);
        server.client("alice").send("bob", "undisturbed", None).await.unwrap();
        server.stop().await;
        succeeds(&database, &["rebuild"]).await;
        server.restart().await;
        assert_eq!(whole_history(&server.client("bob"), "alice").await.len(), 2);
    }

    async fn a_rebuild_that_is_killed_keeps_servers_away_until_it_is_run_again(kind) {
        let database = Database::fresh(kind).await;
        long_log(&database).await;
        let before = projections(&database).await;
        let marked = || async { database.number("SELECT COUNT(*) FROM checkpoints WHERE name = 'rebuild'").await == 1 };

        let halt = Halt::plant(&database).await;
        let url = halt.url(&database);
        let running = start_command(&database, &["rebuild"], &[QUIET, ("CHAT_DATABASE_URL", &url)]).await;
        let is_there = || async {
            marked().await && database.number("SELECT COUNT(*) FROM messages").await == Halt::MESSAGES
        };
        eventually("some of it is there again", LIMIT, is_there).await;
        // Frozen, so that it is at work for as long as the test looks.
        running.signal(Signal::SIGSTOP);
        assert!(running.is_running() && marked().await);
        let refused = command(&database, &["serve"]).await;
        let text = match kind {
            Kind::Sqlite => "another process uses the SQLite file",
            Kind::MariaDb | Kind::MySql => "a rebuild of the projections was interrupted: run `chat-system rebuild` again",
        };
        assert!(refusal(&refused).starts_with(text), "{refused:?}");
        drop(running);
        halt.remove(&database).await;
        assert!(marked().await, "it was killed in the middle");
        let refused = command(&database, &["serve"]).await;
        assert_eq!(refusal(&refused), "a rebuild of the projections was interrupted: run `chat-system rebuild` again");
        let found = command(&database, &["verify"]).await;
        assert_eq!(found.code, 1, "half of it is missing");

        // A database server may take a moment to see that the killed one is gone.
        eventually("it is run again", LIMIT, || async {
            let outcome = command(&database, &["rebuild"]).await;
            assert!(outcome.code == 0 || outcome.stderr.contains("a node serves this database"), "{outcome:?}");
            outcome.code == 0
        })
        .await;
        assert!(!marked().await);
        assert_eq!(projections(&database).await, before);
        is_clean(&database).await;
        let server = Server::start(&database, &[]).await;
        server.client("alice").send("bob", "on it goes", None).await.unwrap();
    }

    async fn a_new_epoch_jumps_and_keeps_the_old_cursors_that_it_can(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, chatter::SETTINGS).await;
        let (alice, bob) = (server.client("alice"), server.client("bob"));
        for text in ["one", "two"] {
            alice.send("bob", text, None).await.unwrap();
        }
        let page = bob.poll("0", 0).await.unwrap();
        let cursors: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| event["cursor"].as_str().unwrap().to_string()).collect();
        let old = cursors[0].split(':').next().unwrap().to_string();
        assert_eq!(cursors, [format!("{old}:1"), format!("{old}:2")]);

        let said = succeeds(&database, &["epoch", "new"]).await;
        let new = database.text("SELECT epoch FROM log_head").await;
        assert_ne!(new, old);
        assert_eq!(said, format!("the epoch {old} ended at 2, {new} begins\n"));
        let columns = "epoch, position, floor, oldest";
        assert_eq!(rows(&database, "log_head", columns, "id").await, [format!("{new}|1000002|0|1")]);
        assert_eq!(rows(&database, "epochs", "epoch, last_position", "last_position").await, [format!("{old}|2")]);
        is_clean(&database).await;
        // Where nothing may be, a message is still found.
        database.execute(&MESSAGE_5.replacen("(5,", "(500,", 1)).await;
        let found = command(&database, &["verify"]).await;
        assert!(found.code == 1 && found.stdout.contains("messages: _id 500 has no event"), "{found:?}");
        database.execute("DELETE FROM messages WHERE _id = 500").await;

        let three = alice.send("bob", "three", None).await.unwrap();
        assert_eq!((&three["_id"], &three["seq"]), (&json!(1_000_003), &json!(3)));
        // The second one first: it waits until this node has read so far.
        for (cursor, texts) in [(&cursors[1], vec!["three"]), (&cursors[0], vec!["two", "three"])] {
            let page = bob.poll(cursor, 30).await.unwrap();
            let found: Vec<_> = page["events"].as_array().unwrap().iter().map(|event| event["message"]["text"].as_str().unwrap()).collect();
            assert_eq!(found, texts, "after {cursor}");
            assert!(page["cursor"].as_str().unwrap().starts_with(&format!("{new}:")), "{page}");
        }
        let lost = bob.poll(&format!("{old}:3"), 0).await.unwrap_err();
        assert_eq!((lost.status, lost.code.as_str(), &lost.body["reason"]), (410, "cursor_reset", &json!("other_epoch")));
        let ahead = bob.poll(&format!("{new}:1000004"), 0).await.unwrap_err();
        assert_eq!((ahead.status, &ahead.body["reason"]), (410, &json!("ahead")));
        is_clean(&database).await;

        // Twice, with nothing between.
        succeeds(&database, &["epoch", "new"]).await;
        succeeds(&database, &["epoch", "new"]).await;
        assert_eq!(head(&database).await, 3_000_003);
        is_clean(&database).await;
        assert_eq!(alice.send("bob", "four", None).await.unwrap()["_id"], 3_000_004);
        is_clean(&database).await;
        eventually("both are there", LIMIT, || async {
            let page = bob.poll(&cursors[1], 1).await.unwrap();
            page["events"].as_array().unwrap().len() == 2
        }).await;
        drop(server);
        eventually("the node is gone", LIMIT, || async { command(&database, &["rebuild"]).await.code == 0 }).await;
        is_clean(&database).await;
    }

    async fn a_server_that_stops_says_so_and_keeps_what_it_acknowledged(kind) {
        const SHUTDOWN_S: u64 = 20;
        let (count, reader_count) = sized((6, 3), (20, 8));
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[("CHAT_SHUTDOWN_TIMEOUT_S", &SHUTDOWN_S.to_string())]).await;
        let counters = |count: usize| -> Arc<Vec<AtomicUsize>> { Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect()) };
        let heard = counters(reader_count);
        let mut readers = Vec::new();
        for reader in 0..reader_count {
            let heard = heard.clone();
            let mut events = server.client(&format!("to{reader}")).events(Some("0")).await.unwrap();
            events.named("ready", LIMIT).await;
            readers.push(tokio::spawn(async move {
                let mut seen = Vec::new();
                while let Some(frame) = events.next(LIMIT).await {
                    if frame.event == "closing" {
                        assert_eq!(events.next(LIMIT).await, None, "closing is the last");
                        return (seen, frame.data);
                    }
                    seen.extend(frame.data["position"].as_i64());
                    heard[reader].store(seen.len(), Ordering::Relaxed);
                }
                panic!("a stream ended without closing, after {} events", seen.len());
            }));
        }
        let acknowledged = counters(count);
        let mut senders = Vec::new();
        for sender in 0..count {
            let (client, acknowledged) = (server.client(&format!("from{sender}")), acknowledged.clone());
            senders.push(tokio::spawn(async move {
                let mut sent = BTreeMap::new();
                for n in 0.. {
                    let text = format!("{sender}-{n}");
                    match client.send(&format!("to{}", sender % reader_count), &text, Some(&text)).await {
                        Ok(message) => {
                            acknowledged[sender].fetch_add(1, Ordering::Relaxed);
                            sent.insert(message["_id"].as_i64().unwrap(), text);
                        }
                        // Refused in words, or nobody is there any more.
                        Err(problem) => {
                            assert!(matches!(problem.status, 0 | 503), "{problem}");
                            return sent;
                        }
                    }
                }
                sent
            }));
        }
        let all = |counters: &[AtomicUsize], least: usize| counters.iter().all(|counter| counter.load(Ordering::Relaxed) >= least);
        eventually("the load runs", LIMIT, || async { all(&acknowledged, 11) && all(&heard, 1) }).await;
        server.signal(Signal::SIGTERM);
        let code = server.exit(Duration::from_secs(SHUTDOWN_S + 10)).await;
        assert_eq!(code, 0, "the exit code after SIGTERM");
        let log = server.log();
        assert!(log.contains("stopped") && !log.contains("were cut") && !log.contains("panicked"), "{log}");
        for reader in readers {
            let (seen, closing) = reader.await.unwrap();
            assert_eq!(closing["code"], "shutdown", "{closing}");
            assert!(closing["retry_after"].as_u64().unwrap() > 0, "{closing}");
            assert!(!seen.is_empty() && seen.is_sorted());
        }
        let mut sent = BTreeMap::new();
        for sender in senders {
            sent.extend(sender.await.unwrap());
        }
        let stored = rows(&database, "messages", "_id, HEX(data)", "_id").await;
        let stored: BTreeMap<i64, &str> = stored.iter().map(|row| row.split_once('|').unwrap()).map(|(id, hex)| (id.parse().unwrap(), hex)).collect();
        for (id, text) in &sent {
            let hex: String = text.bytes().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!(stored.get(id), Some(&hex.as_str()), "{id} was acknowledged");
        }
        assert!(sent.len() > 10 * count);
        is_clean(&database).await;
        server.restart().await;
        let page = server.client("to0").poll("0", 0).await.unwrap();
        assert!(position_of(page["cursor"].as_str().unwrap()) > 0);
    }

    async fn every_stored_shape_of_an_event_is_understood(kind) {
        let database = Database::fresh(kind).await;
        succeeds(&database, &["migrate", "up"]).await;
        let fixtures = fixtures();
        for fixture in fixtures.values() {
            database.execute(&insert(&fixture["row"])).await;
        }
        let connected = Connected::connect(Location::parse(&database.url()).unwrap(), 2).await.unwrap();
        let limit = PageLimit { events: 1000, bytes: usize::MAX };
        let read = SqlOutbox::new(connected).read_after(0, limit).await.unwrap();
        let mut shapes = BTreeSet::new();
        assert_eq!(read.len(), fixtures.len());
        for recorded in read {
            let (name, fixture) = fixtures.iter().find(|(_, fixture)| fixture["row"]["position"] == recorded.position).unwrap();
            assert_eq!(meaning(&recorded), fixture["means"], "{name}");
            shapes.insert(shape(&recorded.event));
        }
        assert_eq!(shapes, BTreeSet::from(SHAPES), "each shape of an event has a fixture");
        // And the log that they make is a log: it can be folded.
        database.execute("UPDATE log_head SET position = 8").await;
        succeeds(&database, &["rebuild"]).await;
        let found = succeeds(&database, &["verify"]).await;
        assert!(found.starts_with("everything agrees: 8 events, 4 messages"), "{found}");
    }
}

on_database_servers! {
    async fn rebuild_is_refused_until_the_last_of_two_nodes_is_gone(kind) {
        let database = Database::fresh(kind).await;
        let mut one = Server::start(&database, &[]).await;
        let mut two = Server::start(&database, &[]).await;
        one.client("alice").send("bob", "hi", None).await.unwrap();
        let text = "a node serves this database: stop every node first";
        assert_eq!(refusal(&command(&database, &["rebuild"]).await), text);
        one.stop().await;
        assert_eq!(refusal(&command(&database, &["rebuild"]).await), text);
        one.restart().await;
        two.stop().await;
        assert_eq!(refusal(&command(&database, &["rebuild"]).await), text);
        one.stop().await;
        succeeds(&database, &["rebuild"]).await;
        is_clean(&database).await;
    }
}

/// Brings a rebuild of the long log to a halt in its middle, where it stays until it is killed.
enum Halt {
    /// SQLite: a row that takes for ever to be written.
    Trigger,
    /// A server: the statement does not come through.
    Proxy(Proxy),
}

impl Halt {
    /// So many messages are there again then: those of one statement.
    const MESSAGES: i64 = 5000;

    async fn plant(database: &Database) -> Halt {
        let next = Halt::MESSAGES + 1;
        if database.kind() == Kind::Sqlite {
            let trigger = format!(
                "CREATE TRIGGER halt BEFORE INSERT ON messages WHEN NEW._id = {next} \
                 BEGIN SELECT COUNT(*) FROM outbox a, outbox b, outbox c; END"
            );
            database.execute(&trigger).await;
            return Halt::Trigger;
        }
        let proxy = Proxy::before(database).await;
        proxy.stop_before(&format!("position BETWEEN {next} AND"));
        Halt::Proxy(proxy)
    }

    fn url(&self, database: &Database) -> String {
        match self {
            Halt::Trigger => database.url(),
            Halt::Proxy(proxy) => proxy.url(database),
        }
    }

    async fn remove(self, database: &Database) {
        if matches!(self, Halt::Trigger) {
            database.execute("DROP TRIGGER halt").await;
        }
    }
}

const LONG: i64 = 16_384;

/// So many messages of alice to bob, written into the log by the database itself; the projections are made by `rebuild`.
async fn long_log(database: &Database) {
    succeeds(database, &["migrate", "up"]).await;
    let columns = "type, conversation_id, actor_id, command_hash, receiver_id, content_type, content";
    let hash = "00".repeat(32);
    database
        .execute(&format!(
            "INSERT INTO outbox (position, command_key, occurred_at, seq, received_after, {columns}) VALUES \
             (1, 'k1', 1790000000000000, 1, 0, 'message.sent', 1, 'alice', x'{hash}', 'bob', 'text/plain', x'6869')"
        ))
        .await;
    let mut count: i64 = 1;
    while count < LONG {
        let key = match database.kind() {
            Kind::Sqlite => format!("'k' || (position + {count})"),
            Kind::MariaDb | Kind::MySql => format!("CONCAT('k', position + {count})"),
        };
        database
            .execute(&format!(
                "INSERT INTO outbox (position, command_key, occurred_at, seq, received_after, {columns}) \
                 SELECT position + {count}, {key}, occurred_at + {count}, seq + {count}, seq + {count} - 1, {columns} FROM outbox"
            ))
            .await;
        count *= 2;
    }
    database
        .execute(&format!(
            "UPDATE log_head SET position = {count}, last_time = 1790000000000000 + {count}"
        ))
        .await;
    succeeds(database, &["rebuild"]).await;
    is_clean(database).await;
}

/// The shapes that there are. The `match` in [`shape`] has no arm for all else: a new kind of event does not compile
/// until it stands there, and then needs a fixture.
const SHAPES: [&str; 5] = [
    "message.sent",
    "message.sent erased",
    "receipt.received",
    "receipt.read",
    "other",
];

fn shape(event: &Event) -> &'static str {
    match event {
        Event::MessageSent {
            content: Some(_),
            received_after: _,
            received_at: _,
        } => "message.sent",
        Event::MessageSent {
            content: None,
            received_after: _,
            received_at: _,
        } => "message.sent erased",
        Event::ReceiptMoved {
            kind: ReceiptKind::Received,
            up_to: _,
            received_after: _,
        } => "receipt.received",
        Event::ReceiptMoved {
            kind: ReceiptKind::Read,
            up_to: _,
            received_after: _,
        } => "receipt.read",
        Event::Other { kind: _, fields: _ } => "other",
    }
}

/// Every field of an event, as the fixtures name them.
fn meaning(recorded: &Recorded) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let Recorded {
        position,
        occurred_at,
        conversation,
        conversation_id,
        actor_id,
        receiver_id,
        via,
        key,
        hash,
        seq,
        event,
    } = recorded;
    let mut means = json!({
        "position": position,
        "occurred_at": occurred_at,
        "conversation": conversation.0,
        "conversation_id": conversation_id.as_str(),
        "actor_id": actor_id.as_str(),
        "receiver_id": receiver_id.as_str(),
        "via": via.as_ref().map(|via| via.as_str()),
        "key": key.as_str(),
        "hash": hex(hash),
        "seq": seq,
        "kind": event.kind(),
        "shape": shape(event),
    });
    let fields = match event {
        Event::MessageSent {
            content: Some(content),
            received_after,
            received_at: _,
        } => json!({
            "received_after": received_after,
            "content_type": content.content_type.as_str(),
            "content": hex(&content.bytes),
            "text": content.as_text(),
        }),
        Event::MessageSent {
            content: None,
            received_after,
            received_at: _,
        } => json!({"received_after": received_after}),
        Event::ReceiptMoved {
            kind: _,
            up_to,
            received_after,
        } => {
            json!({"received_after": received_after, "up_to": {"id": up_to.id, "seq": up_to.seq}})
        }
        Event::Other { kind: _, fields } => json!({"fields": fields}),
    };
    means
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    means
}

/// The fixtures by the names of their files. One that is here is never changed: rows like it are in somebody's log.
fn fixtures() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/outbox");
    let mut fixtures = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let fixture = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fixtures.insert(path.file_name().unwrap().to_str().unwrap().to_string(), fixture);
    }
    fixtures
}

/// The row as it would have been written, in a literal of each column's kind.
fn insert(row: &Value) -> String {
    let row = row.as_object().unwrap();
    let values = row.iter().map(|(column, value)| match value {
        Value::Null => "NULL".to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if column == "content" || column == "command_hash" => format!("x'{text}'"),
        // Written in hex, so that no database reads a backslash in its own way.
        Value::String(text) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            format!("CAST(x'{hex}' AS CHAR)")
        }
        other => panic!("{column}: {other}"),
    });
    let (columns, values): (Vec<_>, Vec<_>) = (row.keys().cloned().collect(), values.collect());
    format!(
        "INSERT INTO outbox ({}) VALUES ({})",
        columns.join(", "),
        values.join(", ")
    )
}
