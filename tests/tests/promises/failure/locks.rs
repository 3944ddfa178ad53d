//! What a node does while the database holds it up: a table or everything is locked, all connections for one kind of
//! read wait, or connections are ended one after the other. Nobody waits for longer than was promised, whoever was told
//! that nothing was recorded was told the truth, and what is not locked goes on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chat_tests::{
    Database, DatabaseServer, Kind, Server, eventually, free_port,
    keyed::{Sender, Sent, check_exactly_once, recorded},
    metrics::gauge,
    on_database_servers,
};
use futures_util::future::join_all;
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(20);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);
/// For the way there and back, on a machine that is busy with other tests.
const ON_THE_WAY: Duration = Duration::from_secs(3);
/// A node knows after 3 to 4 seconds that no send passes, and this is twice as long.
const TOLD_WITHIN: Duration = Duration::from_secs(8);
const SENDS: usize = 6;

/// A node that tells its figures.
async fn start(database: &Database) -> (Server, u16) {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let command_timeout = COMMAND_TIMEOUT.as_millis().to_string();
    let settings = [
        ("CHAT_ADMIN_LISTEN", admin.as_str()),
        ("CHAT_COMMAND_TIMEOUT_MS", command_timeout.as_str()),
    ];
    (Server::start(database, &settings).await, port)
}

/// Locks, looks how the node bears it, and unlocks; gives back what was recorded.
async fn while_locked(
    database: &Database,
    (node, admin): (&Server, u16),
    what: &str,
    (lock, unlock): (&str, &str),
) -> Vec<Sent> {
    let sender = Sender::new(node, "alice");
    let mut sent = vec![sender.send_until_answered(&format!("before-{what}")).await];
    node.ready().await;
    let mut holder = database.session().await;
    holder.execute(lock).await;

    // Nobody sends, and it is told all the same.
    eventually(&format!("not ready behind {lock}"), TOLD_WITHIN, || async {
        !node.is_ready().await
    })
    .await;
    let keys: Vec<_> = (0..SENDS).map(|n| format!("{n}-behind-{what}")).collect();
    let sends = keys.iter().map(|key| {
        let sender = &sender;
        async move {
            let begin = Instant::now();
            (key, sender.send(key).await, begin.elapsed())
        }
    });
    let waits = async {
        let waiting = "chat_writer_queue_commands";
        eventually("those who wait are counted", COMMAND_TIMEOUT, || async {
            gauge(admin, waiting).await == SENDS as f64
                && gauge(admin, "chat_oldest_command_seconds").await > 0.5
        })
        .await;
    };
    let (answers, ()) = tokio::join!(join_all(sends), waits);
    let mut refused = Vec::new();
    for (key, answer, waited) in answers {
        let problem = answer.unwrap_err();
        println!("{:?}: {key}: {} after {waited:?}", database.kind(), problem.code);
        assert!(
            waited < COMMAND_TIMEOUT + ON_THE_WAY,
            "{key}: {problem} after {waited:?}"
        );
        match problem.code.as_str() {
            "unavailable" => refused.push(key),
            "outcome_unknown" => {}
            _ => panic!("{key}: {problem}"),
        }
    }
    assert!(!node.is_ready().await, "{lock}");

    holder.execute(unlock).await;
    node.ready().await;
    sent.push(sender.send_until_answered(&format!("after-{what}")).await);
    let log = recorded(database).await;
    for key in refused {
        let positions = log.get(&("alice".into(), key.clone()));
        assert_eq!(positions, None, "{key} was answered with `unavailable`");
    }
    for key in &keys {
        sent.push(sender.send_until_answered(key).await);
    }
    sent
}

async fn behind_tables(kind: Kind, tables: &[&str]) {
    let database = Database::fresh(kind).await;
    let (node, admin) = start(&database).await;
    let mut sent = Vec::new();
    for table in tables {
        let lock = format!("LOCK TABLES {table} WRITE");
        sent.extend(while_locked(&database, (&node, admin), table, (&lock, "UNLOCK TABLES")).await);
    }
    check_exactly_once(&database, &sent).await;
}

on_database_servers! {
    async fn sends_behind_a_locked_log_are_answered_within_the_limit_and_told_the_truth(kind) {
        behind_tables(kind, &["outbox", "log_head"]).await;
    }

    async fn sends_behind_a_locked_projection_are_answered_within_the_limit_and_told_the_truth(kind) {
        behind_tables(kind, &["messages", "participants"]).await;
    }

    async fn sends_to_a_database_that_is_locked_whole_are_answered_within_the_limit_and_told_the_truth(kind) {
        let server = DatabaseServer::dedicated(kind, &[]).await;
        let database = server.fresh().await;
        let (node, admin) = start(&database).await;
        let lock = ("FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES");
        let mut sent = while_locked(&database, (&node, admin), "everything", lock).await;

        server.sigstop();
        eventually("not ready before a frozen database", TOLD_WITHIN, || async { !node.is_ready().await }).await;
        server.sigcont();
        sent.push(Sender::new(&node, "alice").send_until_answered("thawed").await);
        check_exactly_once(&database, &sent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sends_to_a_file_that_is_locked_are_answered_within_the_limit_and_told_the_truth() {
    let database = Database::fresh(Kind::Sqlite).await;
    let (node, admin) = start(&database).await;
    let sent = while_locked(
        &database,
        (&node, admin),
        "the-file",
        ("BEGIN EXCLUSIVE", "ROLLBACK"),
    )
    .await;
    check_exactly_once(&database, &sent).await;
}

on_database_servers! {
    /// More reads than there are connections want what is locked; their conversations are recorded, and the log is free.
    async fn reads_of_a_locked_table_end_and_leave_connections_to_the_others(kind) {
        const READERS: usize = 12;

        let database = Database::fresh(kind).await;
        let (node, _) = start(&database).await;
        let bob = node.client("bob");
        let alice = Sender::new(&node, "alice");
        let before = alice.send_until_answered("once").await;
        let readers: Vec<_> = (0..READERS).map(|n| node.client(&format!("reader-{n}"))).collect();
        for reader in &readers {
            reader.send("bob", "hello", None).await.unwrap();
        }
        let mut live = bob.events(None).await.unwrap();
        live.named("ready", LIMIT).await;
        let mut holder = database.session().await;
        holder.execute("LOCK TABLES messages WRITE").await;
        let is_locked = AtomicBool::new(true);

        let reads = readers.iter().map(|reader| async {
            let begin = Instant::now();
            let problem = reader.history(&[("with", "bob")]).await.unwrap_err();
            assert!(is_locked.load(Ordering::SeqCst), "it waited for the lock");
            assert!(matches!(problem.code.as_str(), "unavailable" | "overloaded"), "{problem}");
            begin.elapsed()
        });
        let others = async {
            // The reads stand by now.
            sleep(Duration::from_millis(500)).await;
            let page = bob.poll("0", 0).await.unwrap();
            assert_eq!(page["events"].as_array().unwrap().len(), READERS + 1);
            let mut again = bob.events(Some("0")).await.unwrap();
            again.take(READERS + 1, LIMIT).await;
            // It is known to be recorded, and cannot be read.
            match alice.send("once").await {
                Ok(again) => assert_eq!(again.id, before.id),
                Err(problem) => assert_eq!(problem.code, "outcome_unknown", "{problem}"),
            }
            assert!(is_locked.load(Ordering::SeqCst));
        };
        let (waited, ()) = tokio::join!(join_all(reads), others);
        println!("{kind:?}: reads of what is locked ended after {:?}", waited.iter().max().unwrap());
        is_locked.store(false, Ordering::SeqCst);
        holder.execute("UNLOCK TABLES").await;

        assert_eq!(alice.send_until_answered("once").await.id, before.id);
        for reader in &readers {
            eventually("what was locked can be read", LIMIT, || async {
                reader.history(&[("with", "bob")]).await.is_ok_and(|page| page["messages"].as_array().unwrap().len() == 1)
            })
            .await;
        }
        drop(live);
    }

    async fn a_node_starts_although_its_connections_are_ended_again_and_again(kind) {
        let database = Database::fresh(kind).await;
        let ending = database.end_connections().await;
        let mut node = Server::spawn(&database, &[]).await;
        sleep(Duration::from_secs(4)).await;
        let ended = ending.stop().await;
        println!("{kind:?}: {ended} connections were ended at the start");
        assert!(ended > 3, "the node met nothing");
        assert!(node.is_running(), "{}", node.log());
        node.ready().await;
        Sender::new(&node, "alice").send_until_answered("hello").await;
        node.stop().await;
    }
}
