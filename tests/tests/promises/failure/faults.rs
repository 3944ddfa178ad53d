//! What happens when something breaks in the middle of a send: a node that freezes with the lock, an answer that is
//! lost, a process that is killed, a command that the database refuses. Whatever was answered is true, and whatever
//! is sent again with its key is there once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chat_domain::{
    batch::Outcome,
    command::{Action, Command},
    content::Content,
    ids::CommandKey,
    ports::{EventLog, ExecuteError},
    rejection::Rejection,
};
use chat_infrastructure::{
    database::Database as Connected,
    location::Location,
    writer::{GroupCommit, WriterOptions},
};
use chat_tests::{
    CommitFault, Database, Kind, Problem, Proxy, Server,
    databases::{GRANTS, not_run},
    eventually, inside,
    keyed::{Sender, Sent, check_exactly_once, recorded},
    on_database_servers, on_each_database,
    ports::{Ports, user},
    run, sized,
};
use futures_util::{FutureExt, future::join_all, poll};
use sea_orm::{
    ConnectionTrait, Statement,
    sqlx::{Connection, MySqlConnection},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(60);

on_database_servers! {
    async fn a_node_that_is_stopped_with_the_lock_holds_up_the_others_for_seconds_and_loses_nothing(kind) {
        const GO_ON_LIMIT: Duration = Duration::from_secs(10);

        let database = Database::fresh(kind).await;
        let proxy = Proxy::before(&database).await;
        let login = second_user(&database, &proxy).await;
        let others = Server::start(&database, &[]).await;
        let node = Server::start(&database, &[("CHAT_DATABASE_URL", &login.url)]).await;
        let on_others = Load::start(&others, "others", 8);
        let on_node = Load::start(&node, "node", 8);

        let mut tries = 0;
        let (stopped_at, connection) = loop {
            tries += 1;
            assert!(tries <= 20, "the node was never stopped with the lock");
            on_node.answers(5).await;
            let held = proxy.commits_broken();
            proxy.break_next_commits(CommitFault::Held, 1);
            // From here on the node holds the lock, and its COMMIT is not on its way.
            eventually("the node is about to commit", LIMIT, || async { proxy.commits_broken() > held }).await;
            let stopped_at = Instant::now();
            node.sigstop();
            if let Some(connection) = holds_the_lock(&database, &login.user).await {
                break (stopped_at, connection);
            }
            // It was the projector's COMMIT that was held.
            node.sigcont();
        };
        // Begun while the lock is held, so what comes of it is what the others can do.
        let sent = Sender::new(&others, "somebody").send_until_answered("meanwhile").await;
        let waited = stopped_at.elapsed();
        println!("{kind:?}: stopped with the lock at the {tries}. try; the others went on after {waited:?}");
        assert!(waited <= GO_ON_LIMIT, "the others went on after {waited:?}");
        on_others.answers(20).await;
        eventually("the database has ended the connection of the stopped node", LIMIT, || async {
            let select = format!("SELECT COUNT(*) FROM information_schema.processlist WHERE id = {connection}");
            database.number(&select).await == 0
        })
        .await;

        node.sigcont();
        on_node.answers(20).await;
        let mut all = on_others.stop().await;
        all.extend(on_node.stop().await);
        all.push(sent);
        check_exactly_once(&database, &all).await;
        node.ready().await;
    }

    async fn a_commit_whose_answer_is_cut_off_is_recorded_once(kind) {
        let wanted = sized(40, 200);
        let database = Database::fresh(kind).await;
        let proxy = Proxy::before(&database).await;
        let settings = [("CHAT_DATABASE_URL", proxy.url(&database)), ("CHAT_LOG", "warn".into())];
        let server = Server::start(&database, &settings.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
        let senders = ["alice", "carol", "dave"].map(|actor| Sender::new(&server, actor));

        let mut sent = Vec::new();
        let mut cuts = BTreeMap::new();
        let mut unknown = 0;
        while cuts.values().sum::<usize>() < wanted {
            let round = sent.len();
            let cut: usize = cuts.values().sum();
            let (name, fault) = match cut % 3 {
                0 => ("AnswerLost", CommitFault::AnswerLost),
                1 => ("CommitLost", CommitFault::CommitLost),
                // Now and then longer than a transaction waits for the lock.
                _ if cut % 60 == 2 => ("CommitLate", CommitFault::CommitLate(Duration::from_millis(2300))),
                _ => ("CommitLate", CommitFault::CommitLate(Duration::from_millis(60))),
            };
            let before = writer_cuts(&server);
            proxy.break_next_commits(fault, 1);
            let answers = senders.iter().enumerate().map(|(n, sender)| {
                let key = format!("{round}-{n}");
                async move { (sender.send(&key).await, sender.send_until_answered(&key).await) }
            });
            for (first, again) in join_all(answers).await {
                match first {
                    Ok(first) => assert_eq!(first, again, "the same key, the same message"),
                    Err(problem) => {
                        assert_eq!((name, problem.code.as_str()), ("CommitLate", "outcome_unknown"), "{problem}");
                        unknown += 1;
                    }
                }
                sent.push(again);
            }
            // The projector commits too, and may have met the fault instead.
            if writer_cuts(&server) > before {
                *cuts.entry(name).or_default() += 1;
            }
        }
        println!("{kind:?}: {cuts:?}, {} sends, {unknown} of them answered with outcome_unknown first", sent.len());
        assert!(cuts.values().all(|&cuts| cuts >= wanted / 3), "{cuts:?}");
        assert!(proxy.commits_broken() >= wanted as u64);
        check_exactly_once(&database, &sent).await;
    }

    async fn three_nodes_that_start_at_once_on_an_empty_database_all_come_up(kind) {
        let alone = Database::fresh(kind).await;
        Server::start(&alone, &[]).await;
        let database = Database::fresh(kind).await;
        let nodes = tokio::join!(
            Server::start(&database, &[]),
            Server::start(&database, &[]),
            Server::start(&database, &[]),
        );
        let history = async |database| inside::rows(database, "seaql_migrations", "version", "version").await;
        assert_eq!(history(&database).await, history(&alone).await, "one history of migrations");
        assert_eq!(inside::schema(&database).await, inside::schema(&alone).await);
        assert_eq!(database.number("SELECT COUNT(*) FROM log_head").await, 1);
        assert_eq!(database.number("SELECT COUNT(*) FROM checkpoints").await, 1);

        let mut sent = Vec::new();
        for (n, node) in [nodes.0, nodes.1, nodes.2].iter().enumerate() {
            sent.push(Sender::new(node, "alice").send(&format!("by-node-{n}")).await.unwrap());
        }
        assert_eq!(sent.iter().map(|sent| sent.id).collect::<Vec<_>>(), [1, 2, 3]);
        check_exactly_once(&database, &sent).await;
    }
}

on_database_servers! {
    /// What bounds it: the database ends a session that is silent for three seconds (`wait_timeout`, on MariaDB
    /// `idle_write_transaction_timeout`), and with it the transaction that holds the lock. Others ask for the lock again
    /// every two seconds (`innodb_lock_wait_timeout`).
    async fn nobody_waits_for_long_behind_a_node_that_is_frozen_or_cut_off_with_the_lock(kind) {
        const GO_ON_LIMIT: Duration = Duration::from_secs(10);

        let database = Database::fresh(kind).await;
        let proxy = Proxy::before(&database).await;
        let url = proxy.url(&database);
        let node = Server::start(&database, &[("CHAT_DATABASE_URL", &url)]).await;
        let others = [Server::start(&database, &[]).await, Server::start(&database, &[]).await];
        let mut sent = Vec::new();
        for round in 0..sized(2, 4) {
            let is_frozen = round % 2 == 0;
            let held = proxy.commits_broken();
            proxy.break_next_commits(CommitFault::Held, 1);
            let (sender, key) = (Sender::new(&node, "holder"), format!("held-{round}"));
            let on_node = tokio::spawn(async move { sender.send_until_answered(&key).await });
            // From here on the node holds the lock, and its COMMIT is not on its way.
            eventually("the node is about to commit", LIMIT, || async { proxy.commits_broken() > held }).await;
            let begin = Instant::now();
            if is_frozen {
                node.sigstop();
            }
            let waiting = others.iter().enumerate().map(|(n, other)| {
                let sender = Sender::new(other, &format!("other-{n}"));
                async move {
                    let sent = sender.send_until_answered(&format!("behind-{round}")).await;
                    (sent, begin.elapsed())
                }
            });
            for (answered, waited) in join_all(waiting).await {
                println!("{kind:?}, frozen: {is_frozen}: {} waited {waited:?}", answered.actor);
                assert!(waited <= GO_ON_LIMIT, "{} waited {waited:?}", answered.actor);
                sent.push(answered);
            }
            if is_frozen {
                node.sigcont();
            }
            // The projector's COMMIT may have been the one that was held.
            sent.push(on_node.await.unwrap());
        }
        check_exactly_once(&database, &sent).await;
    }
}

on_database_servers! {
    /// What a network swallowed is waited for neither by the node, when it is to end, nor by the database, which frees
    /// what the transaction had locked.
    async fn a_projector_whose_commit_is_swallowed_holds_up_nobody(kind) {
        let database = Database::fresh(kind).await;
        let proxy = Proxy::before(&database).await;
        let url = proxy.url(&database);
        let mut node = Server::start(&database, &[("CHAT_DATABASE_URL", &url)]).await;
        let other = Server::start(&database, &[]).await;
        hold_the_projector(&node, &proxy).await;
        let message = other.client("alice").send("bob", "to be filled", None).await.unwrap();
        let id = message["_id"].as_i64().unwrap();
        other.client("bob").receipt("received", id).await.unwrap();
        let is_filled = format!("SELECT COUNT(*) FROM messages WHERE _id = {id} AND recived_at IS NOT NULL");
        eventually("a node fills what the database has freed", LIMIT, || async {
            database.number(&is_filled).await == 1
        })
        .await;
        hold_the_projector(&node, &proxy).await;
        node.stop().await;
    }
}

/// Nobody writes at the node meanwhile, so the COMMIT that is held is the projector's, which has the checkpoint locked.
async fn hold_the_projector(node: &Server, proxy: &Proxy) {
    let before = proxy.commits_broken();
    eventually("the projector's COMMIT is held", LIMIT, || async {
        let message = node.client("alice").send("bob", "hello", None).await.unwrap();
        let id = message["_id"].as_i64().unwrap();
        node.client("bob").receipt("received", id).await.unwrap();
        proxy.break_next_commits(CommitFault::Held, 1);
        let is_held = async {
            while proxy.commits_broken() == before {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // It may have come before: then there is none until somebody sends again.
        let _ = timeout(Duration::from_secs(1), is_held).await;
        proxy.break_next_commits(CommitFault::Held, 0);
        proxy.commits_broken() > before
    })
    .await;
}

on_each_database! {
    /// While nobody else writes, batches are decided ahead. Here somebody else does, now and then, and keys come again;
    /// until some batches have come to pass as foreseen, and some have not.
    async fn batches_that_were_decided_ahead_are_decided_again_where_it_came_otherwise(kind) {
        const BETWEEN: usize = 20;
        let (senders, turns) = sized((24, 20), (48, 60));
        // What the other writer sends comes between, and the keys that come again.
        let least = if kind == Kind::Sqlite { 1 } else { 2 };

        let database = Database::fresh(kind).await;
        let ports = Ports::on(&database).await;
        let options = WriterOptions { batch_commands: 8, ..WriterOptions::default() };
        let mut writers = Vec::new();
        // One process writes to an SQLite file.
        for _ in 0..if kind == Kind::Sqlite { 1 } else { 2 } {
            let location = Location::parse(&database.url()).unwrap();
            let connected = Connected::connect(location, 1).await.unwrap();
            writers.push(GroupCommit::start(&connected, options.clone(), mpsc::channel(1).0));
        }
        let (log, other) = (writers[0].0.clone(), writers[writers.len() - 1].0.clone());
        let send = |log: &GroupCommit, sender: usize, key: String| {
            let log = log.clone();
            async move {
                let outcome = log.execute(Command {
                    actor_id: user(&format!("user-{sender}")),
                    via: None,
                    key: CommandKey::parse(&key).unwrap(),
                    may_begin: true,
                    action: Action::SendMessage { receiver_id: user("bob"), content: Content::text("hi") },
                });
                let position = match outcome.await.unwrap() {
                    Outcome::Sent(recorded) => {
                        assert!(recorded.occurred_at > 0);
                        recorded.position
                    }
                    Outcome::SentBefore(position) => position,
                    Outcome::Marked(_) => unreachable!(),
                };
                (format!("user-{sender}"), key, position)
            }
        };
        let (status, is_over) = (writers[0].1.status.clone(), AtomicBool::new(false));
        let begun = Instant::now();
        let is_enough = || {
            let (foreseen, misjudged) = status.foreseen();
            foreseen > 0 && misjudged >= least || begun.elapsed() > LIMIT / 2
        };
        let talk = (0..senders).map(|sender| {
            let (log, send, is_enough) = (&log, &send, &is_enough);
            async move {
                let mut sent = Vec::new();
                let mut turn = 0;
                while turn < turns || !is_enough() {
                    let key = format!("{turn}");
                    sent.push(send(log, sender, key.clone()).await);
                    if sender == 0 && turn >= turns - 5 {
                        sent.push(send(log, sender, key).await);
                    }
                    turn += 1;
                }
                sent
            }
        });
        let talk = async {
            let talked = join_all(talk).await;
            is_over.store(true, Ordering::SeqCst);
            talked
        };
        // Each time when batches have come to pass as foreseen again.
        let between = async {
            let (mut sent, mut seen) = (Vec::new(), 0);
            while !is_over.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5)).await;
                let (foreseen, _) = status.foreseen();
                if foreseen > seen && (sent.len() < BETWEEN || !is_enough()) {
                    seen = foreseen;
                    sent.push(send(&other, senders, format!("{}", sent.len())).await);
                }
            }
            sent
        };
        let (talk, between) = tokio::join!(talk, between);

        let (foreseen, misjudged) = status.foreseen();
        println!("{kind:?}: {foreseen} batches came to pass as foreseen, {misjudged} did not");
        assert!(foreseen > 0 && misjudged >= least, "{foreseen} and {misjudged}");
        let there = recorded(&database).await;
        let mut sent = BTreeSet::new();
        for (actor, key, position) in talk.into_iter().flatten().chain(between) {
            sent.insert((actor.clone(), key.clone()));
            assert_eq!(there[&(actor, key)], [position]);
        }
        assert!(sent.len() >= senders * turns && there.len() == sent.len(), "{} of {}", there.len(), sent.len());
        drop((log, other));
        for (log, writer) in writers {
            drop(log);
            writer.stop().await;
        }
        let head = database.number("SELECT position FROM log_head").await;
        assert!(ports.events().await.iter().map(|event| event.position).eq(1..=head));
        drop(ports);
        let verified = run(&database, &["verify"], &[]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
    }

    async fn a_key_that_comes_twice_at_once_on_two_nodes_is_one_message(kind) {
        let times = sized(12, 50);
        let database = Database::fresh(kind).await;
        let mut nodes = vec![Server::start(&database, &[]).await];
        // One server process on an SQLite file.
        if kind != Kind::Sqlite {
            nodes.push(Server::start(&database, &[]).await);
        }
        let send = async |node: &Server, key: &str, text: &str| {
            node.client("alice").send("bob", text, Some(key)).await
        };
        let mut sent = Vec::new();
        for n in 0..times {
            let key = format!("key-{n}");
            let (one, other) = (&nodes[0], &nodes[nodes.len() - 1]);
            let (first, second) = tokio::join!(send(one, &key, &key), send(other, &key, &key));
            let (first, second) = (first.unwrap(), second.unwrap());
            assert_eq!(first, second, "one answer");
            sent.push(first);
        }
        for restarted in [false, true] {
            if restarted {
                for node in &mut nodes {
                    node.kill9().await;
                    node.restart().await;
                }
            }
            for (n, first) in sent.iter().enumerate() {
                let key = format!("key-{n}");
                for node in &nodes {
                    assert_eq!(&send(node, &key, &key).await.unwrap(), first, "restarted: {restarted}");
                    let reused = send(node, &key, "another text").await.unwrap_err();
                    assert_eq!((reused.status, reused.code.as_str()), (422, "key_reused"), "restarted: {restarted}");
                }
            }
        }
        let sent = sent.iter().enumerate().map(|(n, message)| Sent {
            actor: "alice".into(),
            key: format!("key-{n}"),
            id: message["_id"].as_i64().unwrap(),
            retries: 0,
        });
        check_exactly_once(&database, &sent.collect::<Vec<_>>()).await;
    }
}

/// Its log is a file on a disk that is full, and every line that it would write fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_log_cannot_be_written_serves_on() {
    let database = Database::fresh(Kind::MariaDb).await;
    let settings = [("CHAT_LOG", "debug")];
    let server = Server::start_on_a_disk_that_may_be_full(&database, &settings).await;
    let sender = Sender::new(&server, "alice");
    let mut sent = vec![sender.send("before").await.unwrap()];
    server.limit_files_to(Some(1)).await;
    let log = server.log();
    sent.push(sender.send("meanwhile").await.unwrap());
    assert_eq!(server.log(), log, "nothing can be written");
    assert!(server.is_running());
    server.limit_files_to(None).await;
    sent.push(sender.send("afterwards").await.unwrap());
    assert!(server.log().len() > log.len(), "it logs each send");
    check_exactly_once(&database, &sent).await;
}

mod a_node_that_is_killed_with_sends_in_flight_loses_and_doubles_nothing {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        scenario(Kind::Sqlite).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn mariadb() {
        scenario(Kind::MariaDb).await;
    }

    async fn scenario(kind: Kind) {
        const MOST_TRIES: usize = 30;
        let (wanted, least_in_flight, senders) = sized((2, 10, 100), (5, 50, 400));
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        let mut all = Vec::new();
        let (mut kills, mut tries) = (0, 0);
        // A kill that happens to come when nearly all are answered is held to the same, and does not count.
        while kills < wanted {
            tries += 1;
            assert!(
                tries <= MOST_TRIES,
                "{kills} of {tries} kills came with {least_in_flight} sends in flight"
            );
            let (killing, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let sending = (0..senders).map(|n| {
                let sender = Sender::new(&server, &format!("sender-{n}"));
                tokio::spawn(until_killed(sender, tries, killing.clone(), answered.clone()))
            });
            let sending: Vec<_> = sending.collect();
            eventually("sends are answered", LIMIT, || async {
                answered.load(Ordering::Relaxed) > senders
            })
            .await;
            // From here on no send begins: what is not answered was in flight when the signal came.
            killing.store(true, Ordering::SeqCst);
            server.kill9().await;

            let (mut acknowledged, mut in_flight) = (Vec::new(), Vec::new());
            for sender in sending {
                let (sent, unanswered) = sender.await.unwrap();
                acknowledged.extend(sent);
                in_flight.extend(unanswered);
            }
            server.restart().await;
            let recorded = recorded(&database).await;
            for Sent { actor, key, id, .. } in acknowledged.iter().chain(&all) {
                let there = recorded.get(&(actor.clone(), key.clone()));
                assert_eq!(there, Some(&vec![*id]), "{actor} was answered for {key}");
            }
            let of = |(actor, key): &(String, String)| {
                recorded.get(&(actor.clone(), key.clone())).map_or(0, Vec::len)
            };
            let there: Vec<_> = in_flight.iter().map(of).collect();
            assert!(there.iter().all(|&times| times <= 1), "{there:?}");
            println!(
                "{kind:?}, kill {tries}: {} answered, {} in flight, of which {} are in the log",
                acknowledged.len(),
                in_flight.len(),
                there.iter().sum::<usize>(),
            );
            kills += usize::from(in_flight.len() >= least_in_flight);
            let again = in_flight.iter().map(|(actor, key)| {
                let sender = Sender::new(&server, actor);
                async move { sender.send_until_answered(key).await }
            });
            for (sent, who) in join_all(again).await.into_iter().zip(&in_flight) {
                if let Some(before) = recorded.get(who) {
                    assert_eq!(&vec![sent.id], before, "{who:?} was there before");
                }
                acknowledged.push(sent);
            }
            all.extend(acknowledged);
            check_exactly_once(&database, &all).await;
        }
    }

    /// Sends one after the other until the server is gone or about to be; gives what was answered, and what was not.
    async fn until_killed(
        sender: Sender,
        kill: usize,
        killing: Arc<AtomicBool>,
        answered: Arc<AtomicUsize>,
    ) -> (Vec<Sent>, Option<(String, String)>) {
        let mut sent = Vec::new();
        while !killing.load(Ordering::SeqCst) {
            let key = format!("{kill}-{}", sent.len());
            match sender.send(&key).await {
                Ok(answer) => {
                    sent.push(answer);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(Problem { status: 0, .. }) => return (sent, Some((sender.actor, key))),
                Err(problem) => panic!("{key} was refused: {problem}"),
            }
        }
        (sent, None)
    }
}

mod a_command_that_the_database_refuses_is_refused_alone_among_255_good_ones_in_a_batch {
    use super::*;

    // On one thread: the writer cannot take anything until all of the batch is queued.
    #[tokio::test]
    async fn sqlite() {
        scenario(Kind::Sqlite).await;
    }

    #[tokio::test]
    async fn mariadb() {
        scenario(Kind::MariaDb).await;
    }

    #[tokio::test]
    async fn mysql() {
        if !not_run(Kind::MySql, "a command that the database refuses").await {
            scenario(Kind::MySql).await;
        }
    }

    const BATCH: usize = 256;

    async fn scenario(kind: Kind) {
        let database = Database::fresh(kind).await;
        let ports = Ports::on(&database).await;
        // The tables that a send writes, each with a rule of its own.
        for (table, column, poison) in [("outbox", "content", "poison"), ("messages", "data", "venom")] {
            database.execute(&trigger(kind, table, column, poison)).await;
        }
        if kind != Kind::Sqlite {
            let check = "ALTER TABLE outbox ADD CONSTRAINT no_bane CHECK (content <> x'62616e65')";
            database.execute(check).await;
        }
        let poisons = if kind == Kind::Sqlite {
            vec!["poison", "venom"]
        } else {
            vec!["poison", "venom", "bane"]
        };
        let (committed, _kept) = mpsc::channel(1);
        let connected = Connected::connect(Location::parse(&database.url()).unwrap(), 1)
            .await
            .unwrap();
        let options = WriterOptions {
            queue_commands: BATCH,
            batch_commands: BATCH,
            ..WriterOptions::default()
        };
        let (log, writer) = GroupCommit::start(&connected, options, committed);
        eventually("the writer has begun", LIMIT, || async {
            send(&log, "first", "good").await.is_ok()
        })
        .await;

        for (poison, bad) in poisons.into_iter().zip([0, 100, 255]) {
            let (batches, commands) = writer.status.committed();
            let key = |n: usize| format!("{poison}-{n}");
            let mut sends: Vec<_> = (0..BATCH)
                .map(|n| {
                    let content = if n == bad { poison } else { "good" };
                    let (log, key) = (log.clone(), key(n));
                    async move { send(&log, &key, content).await }.boxed()
                })
                .collect();
            for send in &mut sends {
                assert!(poll!(send).is_pending(), "it waits in the queue");
            }
            assert_eq!(
                send(&log, "one-more", "good").await,
                Err(ExecuteError::Overloaded),
                "the queue is full"
            );
            for (n, outcome) in join_all(sends).await.into_iter().enumerate() {
                if n == bad {
                    assert_eq!(outcome, Err(ExecuteError::Rejected(Rejection::CommandRefused)));
                } else {
                    assert!(matches!(outcome, Ok(Outcome::Sent(_))), "{n} came to {outcome:?}");
                }
            }
            let after = writer.status.committed();
            // One of 256 is found by halving eight times, and each other half is one transaction: they were one batch.
            assert_eq!((after.0 - batches, after.1 - commands), (8, BATCH as u64 - 1));
            let there = recorded(&database).await;
            let count = |n| there.get(&("alice".into(), key(n))).map_or(0, Vec::len);
            assert!((0..BATCH).all(|n| count(n) == usize::from(n != bad)));
            // Nothing of it stays: the key is free, and the writer goes on.
            assert!(matches!(
                send(&log, &key(bad), "good").await,
                Ok(Outcome::Sent(_))
            ));
        }
        writer.stop().await;
        assert!(
            ports
                .events()
                .await
                .iter()
                .map(|event| event.position)
                .eq(1..=database.number("SELECT position FROM log_head").await)
        );
        drop(ports);
        let verified = run(&database, &["verify"], &[]).await;
        assert_eq!(verified.code, 0, "{verified:?}");

        let server = Server::start(&database, &[]).await;
        let refused = server
            .client("alice")
            .send_body(&json!({"receiver_id": "bob", "text": "venom"}), None)
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (422, "command_refused"),
            "{refused}"
        );
    }

    async fn send(log: &GroupCommit, key: &str, content: &str) -> Result<Outcome, ExecuteError> {
        let action = Action::SendMessage {
            receiver_id: user("bob"),
            content: Content::text(content),
        };
        let key = CommandKey::parse(key).unwrap();
        log.execute(Command {
            actor_id: user("alice"),
            via: None,
            key,
            may_begin: true,
            action,
        })
        .await
    }

    /// A rule of the database against one content.
    fn trigger(kind: Kind, table: &str, column: &str, poison: &str) -> String {
        let refuse = match kind {
            Kind::Sqlite => {
                format!("WHEN NEW.{column} = CAST('{poison}' AS BLOB) BEGIN SELECT RAISE(ABORT, 'no'); END")
            }
            Kind::MariaDb | Kind::MySql => format!(
                "FOR EACH ROW IF NEW.{column} = '{poison}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
            ),
        };
        format!("CREATE TRIGGER no_{poison} BEFORE INSERT ON {table} {refuse}")
    }
}

/// Clients of one server that send one message after the other, each until it is answered.
struct Load {
    stop: watch::Sender<bool>,
    answered: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<Vec<Sent>>>,
}

impl Load {
    fn start(server: &Server, name: &str, senders: usize) -> Load {
        let (stop, _) = watch::channel(false);
        let answered = Arc::new(AtomicUsize::new(0));
        let senders = (0..senders).map(|n| {
            let sender = Sender::new(server, &format!("{name}-{n}"));
            let (stop, answered) = (stop.subscribe(), answered.clone());
            tokio::spawn(async move {
                let mut sent = Vec::new();
                while !*stop.borrow() {
                    sent.push(sender.send_until_answered(&sent.len().to_string()).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                sent
            })
        });
        let senders = senders.collect();
        Load {
            stop,
            answered,
            senders,
        }
    }

    /// Waits until so many more are answered.
    async fn answers(&self, more: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + more;
        eventually("sends are answered", LIMIT, || async {
            self.answered.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// Ends after what is sent now; gives everything that was answered.
    async fn stop(self) -> Vec<Sent> {
        self.stop.send_replace(true);
        join_all(self.senders)
            .await
            .into_iter()
            .flat_map(Result::unwrap)
            .collect()
    }
}

/// A user of the same database with another name, by which a node's connections are known apart.
struct Login {
    user: String,
    /// Through the proxy.
    url: String,
}

async fn second_user(database: &Database, proxy: &Proxy) -> Login {
    const PASSWORD: &str = "second";
    let (_, _, name) = database.login();
    let user = format!("{name}_2");
    let pattern = name.replace('_', "\\_");
    database
        .execute(&format!(
            "CREATE USER `{user}`@`%` IDENTIFIED BY '{PASSWORD}'; GRANT {GRANTS} ON `{pattern}`.* TO `{user}`@`%`"
        ))
        .await;
    let url = |port: u16| format!("mysql://{user}:{PASSWORD}@127.0.0.1:{port}/{name}");
    // Over TLS, which MySQL wants of a user who comes for the first time.
    let first = MySqlConnection::connect(&url(database.port())).await.unwrap();
    first.close().await.unwrap();
    let url = format!("{}?ssl-mode=disabled", url(proxy.port()));
    Login { user, url }
}

/// Whether a node that is stopped holds the head lock: then the id of its writer's connection.
///
/// A node's writer is the connection that holds a named lock; this node's connections are those of `user`. It has the
/// head lock when it has changed a row, which is the head first of all, and the database waits for it to say something,
/// and goes on waiting.
async fn holds_the_lock(database: &Database, user: &str) -> Option<i64> {
    const LOOKS: usize = 10;
    let place = |n: u32| format!("IS_USED_LOCK(CONCAT('chat-node-{n}-', LEFT(SHA2(DATABASE(), 256), 16)))");
    let places: Vec<_> = (0..4).map(place).collect();
    let select = format!(
        "SELECT CAST(p.id AS SIGNED) AS id, CAST(t.trx_id AS CHAR) AS trx FROM information_schema.processlist p \
         JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id \
         WHERE p.user = '{user}' AND p.command = 'Sleep' AND t.trx_rows_modified > 0 AND p.id IN ({})",
        places.join(", ")
    );
    // InnoDB shows a copy, which it does not renew before nobody has looked at it for 100 ms.
    let mut looks = interval(Duration::from_millis(150));
    let mut before = None;
    for _ in 0..LOOKS {
        looks.tick().await;
        let query = Statement::from_string(database.backend(), &select);
        let row = database.root().await.query_one_raw(query).await.unwrap();
        let look = row.map(|row| {
            let id: i64 = row.try_get("", "id").unwrap();
            let trx: String = row.try_get("", "trx").unwrap();
            (id, trx)
        });
        if look.is_some() && look == before {
            return look.map(|(id, _)| id);
        }
        before = look;
    }
    None
}

/// How often the writer lost its connection.
fn writer_cuts(server: &Server) -> usize {
    server.log().matches("the writer lost its connection").count()
}
