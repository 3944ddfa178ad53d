//! A log that is reached again and is not the same: a replica took over that never got the last events, or a dump was
//! restored. Nobody may miss anything silently, and no number may mean two things.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, DatabaseServer, Kind, Proxy, Server, another_clock, eventually,
    inside::{self, log},
    listener::Door,
    on_database_servers, on_each_database, run, sized,
    socketio::{Incoming, SocketIo, Transport},
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

const LIMIT: Duration = Duration::from_secs(60);
const BEAT: (&str, &str) = ("CHAT_HEARTBEAT_S", "1");

/// Sends so many messages from one to the other, one after the other; all are acknowledged.
async fn send(from: &Client, to: &str, texts: impl IntoIterator<Item = String>) -> Vec<i64> {
    let mut sent = Vec::new();
    for text in texts {
        sent.push(
            from.send(to, &text, Some(&text)).await.unwrap()["_id"]
                .as_i64()
                .unwrap(),
        );
    }
    sent
}

fn texts(name: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{name}-{n}"))
}

async fn epoch(database: &Database) -> String {
    database.text("SELECT epoch FROM log_head").await
}

async fn head(database: &Database) -> i64 {
    database.number("SELECT position FROM log_head").await
}

async fn epochs(database: &Database) -> Vec<String> {
    inside::rows(database, "epochs", "epoch, last_position", "last_position").await
}

async fn is_clean(server: &Server) {
    let outcome = server.run(&["verify"]).await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
}

/// Up to where cursors of ended epochs resume that reach no further.
async fn lost_ends(database: &Database) -> Vec<String> {
    inside::rows(database, "lost_ends", "epoch, common_position", "epoch").await
}

/// A node in a cluster whose servers have one name, behind a proxy.
async fn named_node(database: &Database) -> (Server, Proxy) {
    let proxy = Proxy::before(database).await;
    let url = proxy.url(database);
    let settings = [("CHAT_DATABASE_URL", url.as_str()), NAMED, BEAT];
    (Server::start(database, &settings).await, proxy)
}

const NAMED: (&str, &str) = ("CHAT_DATABASE_IDENTITY", "cluster");

/// A cluster lost its last commits while two nodes that have seen them cannot reach it, and a third one, which has not,
/// writes as many events on.
async fn numbers_that_others_took_begin_an_epoch(kind: Kind, count_taken: usize, reason: &str) {
    const KEPT: i64 = 40;
    let database = Database::fresh(kind).await;
    let (one, proxy_of_one) = named_node(&database).await;
    let (two, proxy_of_two) = named_node(&database).await;
    let old = epoch(&database).await;
    let stream = watch_stream(one.client("bob")).await;
    let kept = send(&one.client("alice"), "bob", texts("kept", KEPT as usize)).await;
    let lost = send(&one.client("alice"), "bob", texts("lost", 20)).await;
    for node in [&one, &two] {
        answer(Door::Stream, node, "bob", "0", lost[19]).await;
    }
    for proxy in [&proxy_of_one, &proxy_of_two] {
        proxy.refuse(true);
        proxy.cut();
    }
    inside::go_back(&database, KEPT).await;
    let mut third = Server::start(&database, &[NAMED, BEAT]).await;
    let taken = send(&third.client("alice"), "bob", texts("taken", count_taken)).await;
    assert_eq!((taken[0], kept[39] + 1), (lost[0], lost[0]), "the same numbers");
    third.restart().await;
    send(&third.client("alice"), "bob", texts("again", 1)).await;
    assert_eq!(
        epochs(&database).await,
        [] as [String; 0],
        "nobody who was there remembers anything"
    );
    let last = head(&database).await;
    let watched_third = watch_stream(third.client("bob")).await;

    proxy_of_one.refuse(false);
    let new = [format!("{old}|{last}")];
    eventually("a new epoch", LIMIT, || async { epochs(&database).await == new }).await;
    assert_eq!(lost_ends(&database).await, [format!("{old}|{KEPT}")]);
    eventually("the node says why", LIMIT, || async {
        one.log().contains(reason)
    })
    .await;
    // The second one remembers as much, and finds that it was settled.
    proxy_of_two.refuse(false);
    two.ready().await;
    let nodes = [&one, &two, &third];
    eventually("each node leaves the log of before", LIMIT, || async {
        nodes.iter().all(|node| node.log().contains("log truncated"))
    })
    .await;
    let mut after = Vec::new();
    for (n, node) in nodes.into_iter().enumerate() {
        let first = format!("after-{n}-0");
        eventually("a message is taken", LIMIT, || async {
            node.client("alice")
                .send("bob", &first, Some(&first))
                .await
                .is_ok()
        })
        .await;
        // The same key: what it was given.
        after.extend(send(&node.client("alice"), "bob", texts(&format!("after-{n}"), 3)).await);
    }
    after.extend(send(&one.client("alice"), "bob", [END.to_string()]).await);
    assert!(after[0] > last + 1_000_000, "{after:?}");

    // Whoever stayed was told once, also where nothing was lost: it may have come from elsewhere.
    for watched in [stream, watched_third] {
        let watched = tokio::time::timeout(LIMIT, watched).await.unwrap().unwrap();
        assert_eq!(watched.resets.len(), 1, "{:?}", watched.resets);
        assert_eq!(watched.resets[0]["reason"], "other_epoch");
        assert!(
            watched.texts.values().all(|texts| texts.len() == 1),
            "{:?}",
            watched.texts
        );
        let seen: Vec<_> = watched.texts.keys().copied().collect();
        assert!(seen.ends_with(&after), "{seen:?} and not {after:?}");
    }
    // All that was seen under numbers which others took, and all that a reader may have missed one of.
    let cursors = [
        0,
        1,
        KEPT - 1,
        KEPT,
        KEPT + 1,
        last - 1,
        last,
        KEPT + 20,
        last + 1,
    ];
    for node in nodes {
        cursors_are_kept_up_to(KEPT, cursors, &old, node, &database).await;
        is_clean(node).await;
    }
    // It is settled.
    for (node, proxy) in [(&one, &proxy_of_one), (&two, &proxy_of_two)] {
        proxy.cut();
        eventually("a message is taken", LIMIT, || async {
            node.client("alice").send("bob", "on it goes", None).await.is_ok()
        })
        .await;
    }
    third.restart().await;
    send(&third.client("alice"), "bob", texts("at-last", 1)).await;
    assert_eq!(epochs(&database).await.len(), 1);
}

/// When a database is started again, by its own clock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Whenever,
    /// In the second in which it was started before.
    AtTheSameTime,
}

/// Without a binary log InnoDB shows a commit to others before it is on the disk: a crash may take what readers have
/// seen, and the numbers would be drawn a second time.
async fn started_again_it_begins_an_epoch(mut engine: DatabaseServer, again: Again) {
    const SENT: i64 = 40;
    const STARTS: usize = 5;
    let database = engine.fresh().await;
    let begun = started_at(&database).await;
    let mut server = Server::start(&database, &[BEAT]).await;
    let old = epoch(&database).await;
    send(&server.client("alice"), "bob", texts("before", SENT as usize)).await;
    match again {
        Again::Whenever => {
            engine.kill9().await;
            engine.start().await;
        }
        Again::AtTheSameTime => {
            // A start may take a moment longer. The node meets only the one that counts.
            server.sigstop();
            let mut begun_again = None;
            for _ in 0..STARTS {
                engine.kill9().await;
                engine.start().await;
                begun_again = Some(started_at(&database).await);
                if begun_again == Some(begun) {
                    break;
                }
            }
            assert_eq!(
                begun_again,
                Some(begun),
                "by its own clock, in one of {STARTS} starts"
            );
            server.sigcont();
        }
    }
    eventually("a message is taken", LIMIT, || async {
        server
            .client("alice")
            .send("bob", "after", Some("after"))
            .await
            .is_ok()
    })
    .await;
    assert_eq!(epochs(&database).await, [format!("{old}|{SENT}")]);
    // 41 and 42 are who saw more than the disk has.
    let cursors = [0, 1, SENT - 1, SENT, SENT + 1, SENT + 2];
    cursors_are_kept_up_to(SENT, cursors, &old, &server, &database).await;
    // A node that comes back to the same life of the database begins none.
    server.kill9().await;
    server.restart().await;
    send(&server.client("alice"), "bob", texts("again", 2)).await;
    assert_eq!(epochs(&database).await.len(), 1);
    is_clean(&server).await;
}

/// The second of its start, as the database tells it.
async fn started_at(database: &Database) -> i64 {
    let status = match database.kind() {
        Kind::MariaDb => "information_schema",
        _ => "performance_schema",
    };
    let sql = format!(
        "SELECT UNIX_TIMESTAMP() - (SELECT CAST(variable_value AS SIGNED) FROM {status}.global_status \
         WHERE variable_name = 'Uptime')"
    );
    database.number(&sql).await
}

/// What a door says first to somebody with this cursor, `ready` or `reset` with its data, and the positions of the
/// events that come then, up to one that must come.
type Answer = (String, Value, Vec<i64>);

/// Asks until it is answered: a node that is not as far as the cursor yet says that it is to be asked later.
async fn answer(door: Door, server: &Server, user: &str, after: &str, up_to: i64) -> Answer {
    let begun = Instant::now();
    loop {
        if let Some(answer) = first_answer(door, server, user, after, up_to).await {
            return answer;
        }
        assert!(
            begun.elapsed() < LIMIT,
            "{door:?} after {after}: it only says later"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// The answer, or nothing where the node says that it is to be asked later.
async fn first_answer(door: Door, server: &Server, user: &str, after: &str, up_to: i64) -> Option<Answer> {
    let positions_until = |mut events: Vec<i64>, position: i64| {
        events.push(position);
        (position == up_to, events)
    };
    match door {
        Door::Stream => {
            let mut events = server.client(user).events(Some(after)).await.unwrap();
            let first = events.next(LIMIT).await.unwrap();
            if first.event == "closing" {
                assert_eq!(first.data["code"], "starting", "{first:?}");
                return None;
            }
            let (mut done, mut positions) = (first.event == "reset", Vec::new());
            while !done {
                let position = events.event(LIMIT).await["position"].as_i64().unwrap();
                (done, positions) = positions_until(positions, position);
            }
            Some((first.event, first.data, positions))
        }
        Door::LongPoll => {
            let client = server.client(user);
            let (mut cursor, mut positions) = (after.to_string(), Vec::new());
            let mut first = Value::Null;
            loop {
                match client.poll(&cursor, 20).await {
                    Err(problem) if problem.status == 410 => {
                        assert_eq!(problem.code, "cursor_reset");
                        assert!(first.is_null(), "a reset in the middle: {problem}");
                        return Some(("reset".into(), problem.body, positions));
                    }
                    Err(problem) if problem.status == 503 && first.is_null() => {
                        assert_eq!(problem.code, "starting", "{problem}");
                        return None;
                    }
                    page => {
                        let page = page.unwrap();
                        cursor = page["cursor"].as_str().unwrap().to_string();
                        for event in page["events"].as_array().unwrap() {
                            let (done, found) =
                                positions_until(positions, event["position"].as_i64().unwrap());
                            positions = found;
                            if done {
                                return Some(("ready".into(), page, positions));
                            }
                        }
                        first = page;
                    }
                }
            }
        }
        Door::Websocket | Door::Polling => {
            let transport = door.transport().unwrap();
            let mut socket = SocketIo::connect(transport, &server.url(), &server.token(user), Some(after))
                .await
                .unwrap();
            let (name, data) = socket.event(LIMIT).await;
            if name == "closing" {
                assert_eq!(data["code"], "starting", "{data}");
                return None;
            }
            let (mut done, mut positions) = (name == "reset", Vec::new());
            while !done {
                let position = socket.named("event", LIMIT).await["position"].as_i64().unwrap();
                (done, positions) = positions_until(positions, position);
            }
            Some((name, data, positions))
        }
    }
}

/// Each cursor of an epoch up to `kept` resumes through every door with all that came later, and each above it is told
/// that it cannot.
async fn cursors_are_kept_up_to(
    kept: i64,
    cursors: impl IntoIterator<Item = i64>,
    epoch: &str,
    server: &Server,
    database: &Database,
) {
    let all: Vec<_> = log(database, 0)
        .await
        .iter()
        .map(|event| event.position)
        .collect();
    let last = *all.last().unwrap();
    for position in cursors {
        for door in Door::ALL {
            let what = format!("{door:?} after {epoch}:{position}");
            let (first, data, events) =
                answer(door, server, "bob", &format!("{epoch}:{position}"), last).await;
            if position <= kept {
                let expected: Vec<_> = all.iter().copied().filter(|event| *event > position).collect();
                assert_eq!((first.as_str(), events), ("ready", expected), "{what}");
            } else {
                assert_eq!(
                    (first.as_str(), &data["reason"]),
                    ("reset", &"other_epoch".into()),
                    "{what}: {data}"
                );
            }
        }
    }
}

/// What somebody saw who never left, as long as there is something to see.
#[derive(Debug, Default)]
struct Watched {
    /// The texts that each position had.
    texts: BTreeMap<i64, BTreeSet<String>>,
    resets: Vec<Value>,
}

impl Watched {
    fn note(&mut self, name: &str, data: &Value) -> bool {
        match name {
            "event" | "message" => {
                let text = data["message"]["text"].as_str().unwrap().to_string();
                let ends = text == END;
                let position = data["position"].as_i64().unwrap();
                self.texts.entry(position).or_default().insert(text);
                ends
            }
            "reset" => {
                self.resets.push(data.clone());
                false
            }
            _ => false,
        }
    }
}

/// The text that ends the watching.
const END: &str = "the-end";

/// Follows a stream from here on, which is open when this returns.
async fn watch_stream(client: Client) -> JoinHandle<Watched> {
    let mut watched = Watched::default();
    let mut events = client.events(Some("0")).await.unwrap();
    let first = events.next(LIMIT).await.expect("the stream opens");
    watched.note(&first.event, &first.data);
    tokio::spawn(async move {
        loop {
            let frame = events.next(LIMIT).await.expect("the stream stays open");
            if watched.note(&frame.event, &frame.data) {
                return watched;
            }
        }
    })
}

async fn watch_socket(mut socket: SocketIo) -> Watched {
    let mut watched = Watched::default();
    loop {
        match socket.next().await {
            Some(Incoming::Event { name, data, .. }) => {
                if watched.note(&name, &data) {
                    return watched;
                }
            }
            Some(_) => {}
            None => panic!("the socket stays open"),
        }
    }
}

fn stop_following(kind: Kind) -> &'static str {
    match kind {
        Kind::MariaDb => "STOP SLAVE",
        _ => "STOP REPLICA",
    }
}

/// A primary and its replica, with a database that both have.
async fn pair(kind: Kind) -> (DatabaseServer, DatabaseServer, Database, Database) {
    let primary = DatabaseServer::to_be_followed(kind, &[], Vec::new()).await;
    let replica = primary.empty_replica().await;
    let database = primary.fresh().await;
    eventually("the replica has the database", LIMIT, || async {
        let select = format!(
            "SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{}'",
            database.url().rsplit('/').next().unwrap()
        );
        replica.fresh().await.number(&select).await == 1
    })
    .await;
    let copy = replica.holding(&database).await;
    (primary, replica, database, copy)
}

on_database_servers! {
    async fn a_fail_over_to_a_replica_that_lost_its_end_resets_those_who_saw_it_and_no_others(kind) {
        let (count_kept, count_lost, count_afterwards) = sized((40, 15, 20), (100, 30, 50));
        let (mut primary, replica, database, copy) = pair(kind).await;
        let proxy = Proxy::to(primary.port()).await;
        let url = proxy.url(&database);
        let settings = [("CHAT_DATABASE_URL", url.as_str()), BEAT];
        let nodes = [Server::start(&database, &settings).await, Server::start(&database, &settings).await];
        let [one, two] = &nodes;
        let old = epoch(&database).await;

        let stream = watch_stream(two.client("bob")).await;
        let socket = SocketIo::connect(Transport::Websocket, &one.url(), &one.token("bob"), Some("0")).await.unwrap();
        let socket = tokio::spawn(watch_socket(socket));
        let kept = send(&one.client("alice"), "bob", texts("kept", count_kept)).await;
        eventually("the replica has what there is", LIMIT, || async {
            copy.number("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'outbox'").await > 0
                && copy.number("SELECT COUNT(*) FROM outbox").await == count_kept as i64
        })
        .await;
        replica.execute(stop_following(kind)).await;
        let lost = send(&two.client("alice"), "bob", texts("lost", count_lost)).await;
        assert_eq!((kept.len(), lost[0]), (count_kept, count_kept as i64 + 1));
        // Those who watch have seen what will be lost.
        for node in &nodes {
            answer(Door::Stream, node, "bob", "0", *lost.last().unwrap()).await;
        }

        primary.kill9().await;
        proxy.point_to(replica.port());
        eventually("both find a server that only reads", LIMIT, || async {
            nodes.iter().all(|node| node.log().contains("read_only: it is not the primary"))
        })
        .await;
        for node in &nodes {
            let refused = node.client("alice").send("bob", "too early", None).await.unwrap_err();
            assert_eq!((refused.status, refused.code.as_str()), (503, "unavailable"), "{refused}");
            eventually("the node says that it is not ready", LIMIT, || async {
                reqwest::get(format!("{}/readyz", node.url())).await.unwrap().status() == 503
            })
            .await;
        }
        replica.execute("SET GLOBAL read_only = 0").await;
        for node in &nodes {
            node.ready().await;
        }
        assert_eq!(epochs(&copy).await, [format!("{old}|{count_kept}")], "one switch, whoever came first");
        // What comes before a node has noticed is what its readers are told to load.
        eventually("both have noticed", LIMIT, || async {
            nodes.iter().all(|node| node.log().contains("log truncated"))
        })
        .await;
        let afterwards = send(&one.client("alice"), "bob", texts("afterwards", count_afterwards)).await;
        assert!(afterwards[0] > *lost.last().unwrap() + 1, "{afterwards:?}");
        let again = send(&two.client("alice"), "bob", texts("lost", count_lost)).await;
        send(&two.client("alice"), "bob", [END.to_string()]).await;

        // Whoever stayed was told, has seen everything, and no number twice.
        for watched in [stream.await.unwrap(), socket.await.unwrap()] {
            assert_eq!(watched.resets.len(), 1, "{:?}", watched.resets);
            assert_eq!(watched.resets[0]["reason"], "other_epoch");
            assert!(watched.texts.values().all(|texts| texts.len() == 1), "{:?}", watched.texts);
            let seen: Vec<_> = watched.texts.keys().copied().collect();
            let after = afterwards.iter().chain(&again);
            let expected: Vec<_> = kept.iter().chain(&lost).chain(after).copied().collect();
            assert_eq!(seen[..expected.len()], expected, "all that was acknowledged, before and after");
        }
        let (last_kept, last_lost) = (count_kept as i64, *lost.last().unwrap());
        let cursors = [0, 1, last_kept - 1, last_kept, last_kept + 1, last_lost - 1, last_lost, last_lost + 1, afterwards[0]];
        cursors_are_kept_up_to(last_kept, cursors, &old, two, &copy).await;
        for node in &nodes {
            is_clean(node).await;
        }

        // It is settled: nodes that come later find nothing new.
        let server_id = copy.text("SELECT server_id FROM log_head").await;
        let third = Server::start(&copy, &[]).await;
        third.client("alice").send("bob", "on it goes", None).await.unwrap();
        assert_eq!(epochs(&copy).await.len(), 1);
        assert_eq!(copy.text("SELECT server_id FROM log_head").await, server_id);
        drop((third, nodes));
    }

    async fn a_server_that_only_reads_is_refused_at_the_start(kind) {
        let server = DatabaseServer::dedicated(kind, &[]).await;
        let database = server.fresh().await;
        assert_eq!(run(&database, &["migrate", "up"], &[]).await.code, 0);
        server.execute("SET GLOBAL read_only = 1").await;
        let refused = run(&database, &["serve"], &[("CHAT_MIGRATE", "false")]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("the database server is read_only: it is not the primary"), "{refused:?}");
    }

    async fn a_database_that_is_started_again_begins_an_epoch(kind) {
        started_again_it_begins_an_epoch(DatabaseServer::dedicated(kind, &[]).await, Again::Whenever).await;
    }

    /// A machine may learn the time only after its database was started.
    async fn so_does_one_that_was_started_at_the_same_time_by_its_own_clock(kind) {
        // It learns the time soon: a MySQL whose clock is wrong for good takes a processor for itself, and may never be up.
        let late = another_clock(&[("FAKETIME", "@2026-01-01 00:00:00"), ("FAKETIME_STOP_AFTER_SECONDS", "5")]);
        let engine = DatabaseServer::dedicated_in(kind, &[], late).await;
        started_again_it_begins_an_epoch(engine, Again::AtTheSameTime).await;
    }

    /// A primary that becomes a replica of another, in good order: the nodes leave it, and lose nothing.
    async fn a_planned_switch_begins_an_epoch_and_loses_nothing(kind) {
        const SENT: usize = 40;
        let (primary, replica, database, copy) = pair(kind).await;
        let proxy = Proxy::to(primary.port()).await;
        let url = proxy.url(&database);
        let node = Server::start(&database, &[("CHAT_DATABASE_URL", url.as_str()), BEAT]).await;
        let old = epoch(&database).await;
        let stream = watch_stream(node.client("bob")).await;
        let mut sent = send(&node.client("alice"), "bob", texts("before", SENT)).await;
        primary.execute("SET GLOBAL read_only = 1").await;
        eventually("the replica has everything", LIMIT, || async {
            copy.number("SELECT COUNT(*) FROM information_schema.tables WHERE table_name = 'outbox'").await > 0
                && head(&copy).await == SENT as i64
        })
        .await;
        replica.execute(&format!("{}; SET GLOBAL read_only = 0", stop_following(kind))).await;
        // Connections that are open stay with the old one: the writer leaves it because it cannot write, and takes the
        // readers along.
        proxy.point_to(replica.port());
        eventually("the node writes on the other server", LIMIT, || async {
            match node.client("alice").send("bob", "first", Some("first")).await {
                Ok(_) => true,
                Err(problem) => {
                    assert_eq!(problem.code, "unavailable", "{problem}");
                    false
                }
            }
        })
        .await;
        // The same key: what it was given at last.
        sent.extend(send(&node.client("alice"), "bob", ["first".to_string(), END.to_string()]).await);
        let watched = tokio::time::timeout(LIMIT, stream).await.unwrap().unwrap();
        assert_eq!(watched.resets, [] as [Value; 0], "nobody had seen what is lost, for nothing is");
        assert_eq!(watched.texts.keys().copied().collect::<Vec<_>>(), sent);
        assert_eq!(epochs(&copy).await, [format!("{old}|{SENT}")]);
        is_clean(&node).await;
        assert_eq!(head(&database).await, SENT as i64, "nothing was written on the old one");
        let left = "SELECT COUNT(*) FROM information_schema.processlist WHERE user LIKE 'chat%'";
        eventually("no reader is left on the old one", LIMIT, || async { database.number(left).await == 0 }).await;
        drop(node);
    }

    async fn a_dump_that_is_restored_under_a_stopped_node_begins_an_epoch_by_itself(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[BEAT]).await;
        let old = epoch(&database).await;
        send(&server.client("alice"), "bob", texts("kept", 40)).await;
        let dump = database.dump().await;
        let lost = sized(100, 1000);
        send(&server.client("alice"), "bob", texts("lost", lost)).await;
        server.stop().await;
        database.restore(&dump).await;
        assert_eq!(head(&database).await, 40);
        server.restart().await;
        assert_eq!(epochs(&database).await, [format!("{old}|40")]);
        // Numbers that would have passed the old head.
        send(&server.client("alice"), "bob", texts("new", lost + 100)).await;
        let end = 40 + lost as i64;
        cursors_are_kept_up_to(40, [1, 40, 41, end, end + 1, end + 50], &old, &server, &database).await;
        is_clean(&server).await;
    }

    async fn a_dump_that_is_restored_while_a_node_cannot_reach_it_begins_an_epoch(kind) {
        let database = Database::fresh(kind).await;
        let proxy = Proxy::before(&database).await;
        let url = proxy.url(&database);
        let server = Server::start(&database, &[("CHAT_DATABASE_URL", url.as_str()), BEAT]).await;
        let old = epoch(&database).await;
        let stream = watch_stream(server.client("bob")).await;
        send(&server.client("alice"), "bob", texts("kept", 40)).await;
        let dump = database.dump().await;
        let lost = send(&server.client("alice"), "bob", texts("lost", 60)).await;
        answer(Door::Stream, &server, "bob", "0", *lost.last().unwrap()).await;
        proxy.refuse(true);
        proxy.cut();
        database.restore(&dump).await;
        proxy.refuse(false);
        server.ready().await;
        eventually("a message is taken", LIMIT, || async {
            server.client("alice").send("bob", "new", Some("new")).await.is_ok()
        })
        .await;
        send(&server.client("alice"), "bob", texts("new", 70)).await;
        send(&server.client("alice"), "bob", [END.to_string()]).await;
        let watched = stream.await.unwrap();
        assert_eq!(watched.resets.len(), 1, "{watched:?}");
        assert!(watched.texts.values().all(|texts| texts.len() == 1), "{watched:?}");
        cursors_are_kept_up_to(40, [1, 40, 41, 100, 101, 110], &old, &server, &database).await;
        is_clean(&server).await;
    }

    /// Another server of a cluster may be set otherwise than that at which the node started.
    async fn a_server_that_does_not_flush_is_refused_wherever_the_writer_meets_it(kind) {
        let server = DatabaseServer::dedicated(kind, &[]).await;
        let database = server.fresh().await;
        let proxy = Proxy::to(server.port()).await;
        let url = proxy.url(&database);
        let at = ("CHAT_DATABASE_URL", url.as_str());
        let node = Server::start(&database, &[at, ("CHAT_DATABASE_IDENTITY", "cluster")]).await;
        node.client("alice").send("bob", "before", None).await.unwrap();
        server.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2").await;
        proxy.cut();
        let says = "innodb_flush_log_at_trx_commit is 2 on this database server";
        eventually("the node says what is wrong", LIMIT, || async { node.log().contains(says) }).await;
        let refused = node.client("alice").send("bob", "meanwhile", Some("k")).await.unwrap_err();
        assert_eq!(refused.code, "unavailable", "{refused}");
        server.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1").await;
        eventually("the node writes again", LIMIT, || async {
            node.client("alice").send("bob", "meanwhile", Some("k")).await.is_ok()
        })
        .await;
        drop(node);
        // Waived, it is as at the start.
        let waived = Server::start(&database, &[at, ("CHAT_ALLOW_LAX_DURABILITY", "true")]).await;
        server.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2").await;
        proxy.cut();
        eventually("the node writes", LIMIT, || async {
            waived.client("alice").send("bob", "lax", Some("l")).await.is_ok()
        })
        .await;
    }

    /// The head is where it was, or further: only who has seen them knows that these numbers named other events.
    async fn numbers_that_others_took_under_the_name_of_a_cluster_begin_an_epoch(kind) {
        numbers_that_others_took_begin_an_epoch(kind, 30, "other events took numbers that were seen").await;
    }

    async fn so_do_some_of_them_where_the_head_went_back_too(kind) {
        numbers_that_others_took_begin_an_epoch(kind, 10, "other events took numbers that were seen").await;
    }

    async fn nodes_that_come_back_to_the_same_log_begin_no_epoch(kind) {
        let database = Database::fresh(kind).await;
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(named_node(&database).await);
        }
        for round in 0..4 {
            for (n, (node, proxy)) in nodes.iter_mut().enumerate() {
                send(&node.client("alice"), "bob", texts(&format!("sent-{round}-{n}"), 30)).await;
                proxy.cut();
                eventually("a message is taken", LIMIT, || async {
                    node.client("carol").send("dan", "again", None).await.is_ok()
                })
                .await;
            }
        }
        let (node, _) = &mut nodes[0];
        node.kill9().await;
        node.restart().await;
        send(&node.client("alice"), "bob", texts("restarted", 2)).await;
        assert_eq!(epochs(&database).await, [] as [String; 0]);
        assert_eq!(lost_ends(&database).await, [] as [String; 0]);
    }

    async fn the_name_of_a_cluster_stands_for_all_its_servers(kind) {
        let database = Database::fresh(kind).await;
        let stored = || database.text("SELECT server_id FROM log_head");
        let mut server = Server::start(&database, &[("CHAT_DATABASE_IDENTITY", "cluster-1")]).await;
        assert_eq!(stored().await, "cluster-1");
        server.client("alice").send("bob", "hi", None).await.unwrap();
        let dump = database.dump().await;
        server.stop().await;
        // Another server of the cluster, as far as anybody can tell.
        database.restore(&dump).await;
        server.restart().await;
        server.client("alice").send("bob", "hi again", None).await.unwrap();
        assert_eq!(epochs(&database).await, [] as [String; 0]);
        server.stop().await;
        // Under another name it is another log.
        server.set("CHAT_DATABASE_IDENTITY", "cluster-2");
        server.restart().await;
        assert_eq!((stored().await.as_str(), epochs(&database).await.len()), ("cluster-2", 1));
        server.stop().await;
        for bad in ["", " ", "ü", &"x".repeat(65)] {
            let refused = run(&database, &["serve"], &[("CHAT_DATABASE_IDENTITY", bad)]).await;
            assert_eq!(refused.code, 1, "{refused:?}");
            assert!(refused.stderr.contains("CHAT_DATABASE_IDENTITY"), "{refused:?}");
        }
    }
}

on_each_database! {
    /// The node and its connections stay; the log goes back under them in one transaction.
    async fn a_head_that_goes_back_under_a_running_node_begins_an_epoch(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[BEAT]).await;
        let old = epoch(&database).await;
        let stream = watch_stream(server.client("bob")).await;
        for round in 0..2_i64 {
            let begins = head(&database).await;
            send(&server.client("alice"), "bob", texts(&format!("kept-{round}"), 20)).await;
            let last = send(&server.client("alice"), "bob", texts(&format!("lost-{round}"), 30)).await[29];
            answer(Door::Stream, &server, "bob", "0", last).await;
            let kept = begins + 20;
            inside::go_back(&database, kept).await;
            if round == 0 {
                // Nobody writes: the node finds it by itself.
                eventually("a new epoch", LIMIT, || async { epochs(&database).await.len() == 1 }).await;
            }
        }
        // Here the writer may be the first to see it, and must not draw a number that somebody has seen.
        send(&server.client("alice"), "bob", texts("new", 40)).await;
        send(&server.client("alice"), "bob", [END.to_string()]).await;
        let watched = stream.await.unwrap();
        assert_eq!(watched.resets.len(), 2, "{:?}", watched.resets);
        assert!(watched.texts.values().all(|texts| texts.len() == 1), "{watched:?}");
        assert_eq!(epochs(&database).await.len(), 2);
        cursors_are_kept_up_to(20, [1, 20, 21, 50, 51, 60], &old, &server, &database).await;
        is_clean(&server).await;
    }
}

/// An SQLite file tells nobody that it was put back: the operator does.
#[tokio::test]
async fn an_sqlite_file_that_is_put_back_needs_a_new_epoch_and_gets_it_by_command() {
    let database = Database::fresh(Kind::Sqlite).await;
    let mut server = Server::start(&database, &[BEAT]).await;
    let old = epoch(&database).await;
    send(&server.client("alice"), "bob", texts("kept", 40)).await;
    let copy = database.file().with_extension("backup");
    database
        .execute(&format!("VACUUM INTO '{}'", copy.display()))
        .await;
    let lost = sized(100, 1000);
    send(&server.client("alice"), "bob", texts("lost", lost)).await;
    server.stop().await;
    drop(server);
    let url = format!("sqlite://{}", copy.display());
    let settings = [("CHAT_DATABASE_URL", url.as_str())];
    let outcome = run(&database, &["epoch", "new"], &settings).await;
    assert_eq!(
        (
            outcome.code,
            outcome.stdout.contains(&format!("the epoch {old} ended at 40"))
        ),
        (0, true),
        "{outcome:?}"
    );
    std::fs::rename(&copy, database.file()).unwrap();
    for rest in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(database.file().with_extension(rest));
    }
    let server = Server::start(&database, &[BEAT]).await;
    let alice = server.client("alice");
    let first = send(&alice, "bob", texts("new", lost + 100)).await[0];
    assert_eq!(first, 1_000_041);
    let end = 40 + lost as i64;
    for door in Door::ALL {
        for (position, expected) in [(40, "ready"), (41, "reset"), (end, "reset"), (end + 1, "reset")] {
            let (found, data, _) = answer(door, &server, "bob", &format!("{old}:{position}"), first).await;
            assert_eq!(found, expected, "{door:?} after {position}: {data}");
        }
    }
    is_clean(&server).await;
}
