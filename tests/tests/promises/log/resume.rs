//! Whoever comes back with its last cursor gets everything after it, once and in order, or is told that it cannot:
//! from any point in the log, by any door, across epochs and outages, and however far behind it is.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chat_domain::{
    Position,
    ports::{Outbox, PageLimit, PageRange, Reader, Timeline},
};
use chat_infrastructure::{
    database::Database as Connected, location::Location, outbox::SqlOutbox, timeline::SqlTimeline,
};
use chat_tests::{
    Client, Database, DatabaseServer, Kind, Proxy, Server,
    counting::Counted,
    eventually,
    inside::log,
    logs::{Fill, fill},
    ok, on_each_database,
    plain::Plain,
    ports::{Ports, user},
    run, sized,
};
use futures_util::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sea_orm::sqlx::Connection;
use serde_json::{Value, json};
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

const LIMIT: Duration = Duration::from_secs(120);
const END: &str = "the end";

on_each_database! {
    /// Half of the messages are written while the readers read.
    async fn readers_from_random_cursors_get_each_event_once_and_in_order(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[("CHAT_HEARTBEAT_S", "1")]).await;
        let (count, readers_count) = sized((300, 12), (1000, 24));
        let half = count / 2;
        send_among_people(&server, 0..half).await;
        let epoch = database.text("SELECT epoch FROM log_head").await;
        let mut rng = StdRng::seed_from_u64(4);
        let mut readers = JoinSet::new();
        for n in 0..readers_count {
            let position = if n < 3 { 0 } else { rng.random_range(0..=i64::from(half)) };
            let cursor = format!("{epoch}:{position}");
            let alice = server.client("alice");
            match n % 3 {
                0 => readers.spawn(async move { ("stream", position, read_stream(alice, cursor).await) }),
                1 => readers.spawn(async move { ("poll", position, read_polls(alice, cursor).await) }),
                _ => readers.spawn(async move { ("history", position, read_history(alice, position).await) }),
            };
        }
        send_among_people(&server, half..count - 1).await;
        server.client("bob").send("alice", END, None).await.unwrap();
        let log = log(&database, 0).await;
        assert_eq!(log.len(), count as usize);
        while let Some(read) = readers.join_next().await {
            let (door, position, seen) = read.unwrap();
            let expected: Vec<_> = log.iter().filter(|event| {
                let others = [event.actor_id.as_str(), event.receiver_id.as_str()];
                event.position > position && event.concerns("alice") && (door != "history" || others.contains(&"bob"))
            }).map(|event| event.position).collect();
            assert!(expected.len() > 20);
            assert_eq!(seen, expected, "{door} from {position}");
        }
    }

    async fn a_lost_cursor_gets_one_reset_with_its_reason_and_live_events_follow(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let first = database.text("SELECT epoch FROM log_head").await;
        send_to_alice(&server, 30).await;
        assert_eq!(server.run(&["epoch", "new"]).await.code, 0);
        let second = database.text("SELECT epoch FROM log_head").await;
        send_to_alice(&server, 5).await;
        for (lost, reason) in [
            ("unknown1:3".to_string(), "other_epoch"),
            (format!("{first}:31"), "other_epoch"),
            (format!("{first}:1000033"), "other_epoch"),
            (format!("{second}:9000000"), "ahead"),
        ] {
            check_reset(&server, &lost, reason, 1).await;
        }
        // The first ten events are taken away.
        database.execute("UPDATE log_head SET floor = 10, oldest = 11 WHERE id = 1").await;
        database.execute("DELETE FROM outbox WHERE position <= 10").await;
        for lost in ["0".to_string(), format!("{first}:0"), format!("{first}:9"), format!("{second}:5")] {
            check_reset(&server, &lost, "pruned", 11).await;
        }
        // The event after this cursor is the first that is still there.
        let mut events = server.client("alice").events(Some(&format!("{first}:10"))).await.unwrap();
        assert_eq!(events.next(LIMIT).await.unwrap().event, "ready");
        assert_eq!(events.event(LIMIT).await["position"], 11);
    }

    /// Sends go on all the while, so that the switches fall among them.
    async fn a_new_epoch_under_a_running_node_loses_nothing_and_earlier_cursors_resume(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[("CHAT_HEARTBEAT_S", "1")]).await;
        let epoch = || database.text("SELECT epoch FROM log_head");
        let mut epochs = vec![epoch().await];
        send_to_alice(&server, 10).await;
        let (begun, first_read) = oneshot::channel();
        let live = tokio::spawn(read_stream_to_the_end(server.client("alice"), "0".into(), begun));
        first_read.await.unwrap();
        let polls = tokio::spawn(read_polls(server.client("alice"), "0".into()));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = tokio::spawn(send_until(server.client("bob"), stop.clone()));
        for switches in [1, 1, 3] {
            for _ in 0..switches {
                assert_eq!(server.run(&["epoch", "new"]).await.code, 0);
                epochs.push(epoch().await);
            }
            send_to_alice(&server, 10).await;
        }
        stop.store(true, Ordering::Relaxed);
        let acknowledged = sender.await.unwrap();
        server.client("bob").send("alice", END, None).await.unwrap();

        let all: Vec<_> = log(&database, 0).await.iter().map(|event| event.position).collect();
        assert_eq!(all.len(), 40 + acknowledged + 1);
        let (seen, cursors) = live.await.unwrap();
        assert_eq!(seen, all, "the live stream");
        assert_eq!(polls.await.unwrap(), all, "the live polls");
        let named: BTreeSet<_> = cursors.iter().map(|cursor| cursor.split_once(':').unwrap().0.to_string()).collect();
        assert!(named.contains(&epochs[0]) && named.contains(&epochs[5]), "{named:?} of {epochs:?}");

        // The cursors that were handed out resume, and so do those at and below each switch.
        let step = sized((cursors.len() / 20).max(7), 7);
        let mut resumed: BTreeSet<_> = cursors.into_iter().step_by(step).collect();
        for name in &epochs[..5] {
            let end = database.number(&format!("SELECT last_position FROM epochs WHERE epoch = '{name}'")).await;
            resumed.extend([format!("{name}:{end}"), format!("{name}:{}", end - 3), format!("{name}:0")]);
        }
        for cursor in resumed {
            let position: Position = cursor.split_once(':').unwrap().1.parse().unwrap();
            let expected: Vec<_> = all.iter().copied().filter(|event| *event > position).collect();
            // At the very end there is nothing more to wait for.
            if !expected.is_empty() {
                let alice = server.client("alice");
                assert_eq!(read_stream(alice.clone(), cursor.clone()).await, expected, "stream after {cursor}");
                assert_eq!(read_polls(alice, cursor.clone()).await, expected, "polls after {cursor}");
            }
        }
        let outcome = server.run(&["verify"]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    }

    /// In a log of a million events, in full, a user with three pays for three.
    async fn a_user_with_three_events_in_a_long_log_resumes_from_the_beginning_in_one_bounded_read(kind) {
        const ROWS: u64 = 50;
        let database = Database::fresh(kind).await;
        assert_eq!(run(&database, &["migrate", "up"], &[]).await.code, 0);
        let (total, ports) = (sized(30_000, events_in_the_long_log(kind)), Ports::on(&database).await);
        let mut expected = Vec::new();
        for (part, from) in ["ann", "ben", "cid"].iter().enumerate() {
            let filling = Fill {
                messages: total / 3,
                from,
                to: "dan",
                others: 300,
                other: &format!("u{part}-"),
                bytes: 20,
            };
            fill(&database, &filling).await;
            expected.push(ports.send(["ann", "eve", "ann"][part], "carol", "hi").await.position);
        }
        let head = ports.outbox.head().await.unwrap().position;
        assert!(head >= total);

        let counted = Counted::connect(&database).await;
        let outbox = SqlOutbox::new(counted.connected.clone());
        let (carol, limit) = (Reader::User(user("carol")), PageLimit { events: 128, bytes: 96 << 10 });
        let range = PageRange { after: 0, up_to: head, width: PageRange::WHOLE };
        // Once more, for the first one also learns the tables.
        outbox.page(&carol, range, limit).await.unwrap();
        let (page, rows) = counted.rows(outbox.page(&carol, range, limit)).await;
        let page = page.unwrap();
        let positions: Vec<_> = page.events.iter().map(|event| event.position).collect();
        assert_eq!((positions, page.complete_to), (expected.clone(), head), "one read is all");
        eprintln!("{kind:?}: a user with 3 events in {head}: about {rows} rows read");
        assert!(rows < ROWS, "{rows} rows were read");
        // Whoever sees everything pays for the page, wherever in the log it is.
        let limit = PageLimit { events: 100, bytes: usize::MAX };
        for after in [0, head / 2, head - 101] {
            let range = PageRange { after, up_to: head, width: PageRange::WHOLE };
            let (page, rows) = counted.rows(outbox.page(&Reader::Everything, range, limit)).await;
            let page = page.unwrap();
            assert_eq!((page.events.len(), page.complete_to), (100, after + 100));
            eprintln!("{kind:?}: a page of 100 of everything after {after}: about {rows} rows read");
            assert!(rows < 100 + ROWS, "{rows} rows were read");
        }
        // The measure sees what a read of everything costs.
        let (_, all) = counted.rows(outbox.read_after(0, PageLimit { events: 1000, bytes: usize::MAX })).await;
        assert!(all > 500, "{all}");

        let server = Server::start(&database, &[]).await;
        let page = server.client("carol").poll("0", 0).await.unwrap();
        let positions: Vec<_> = page["events"].as_array().unwrap().iter().map(position).collect();
        assert_eq!((positions, &page["more"]), (expected.clone(), &json!(false)));
        let mut events = server.client("carol").events(Some("0")).await.unwrap();
        let positions: Vec<_> = events.take(3, LIMIT).await.iter().map(position).collect();
        assert_eq!(positions, expected);
    }

    /// A connection prepares each text once and keeps a hundred of them: there are few, whoever reads and however much.
    async fn reading_for_hundreds_takes_a_handful_of_statements(kind) {
        const READERS: usize = 150;
        const FEW: usize = 40;
        let database = Database::fresh(kind).await;
        let ports = Ports::on(&database).await;
        for reader in 0..READERS {
            for sender in 0..=reader % 5 {
                ports.send(&format!("sender-{sender}"), &format!("reader-{reader}"), "hi").await;
            }
        }
        let head = ports.outbox.head().await.unwrap().position;
        let location = Location::parse(&database.url()).unwrap();
        let connected = Connected::connect(location, 1).await.unwrap();
        let (outbox, timeline) = (SqlOutbox::new(connected.clone()), SqlTimeline::new(connected.clone()));
        for number in 0..READERS {
            let (reader, conversations) = (user(&format!("reader-{number}")), number % 5 + 1);
            let limit = PageLimit { events: 10 + number, bytes: 96 << 10 };
            let range = PageRange { after: 0, up_to: head, width: PageRange::WHOLE };
            let page = outbox.page(&Reader::User(reader.clone()), range, limit).await.unwrap();
            assert_eq!(page.events.len(), conversations);
            let page = timeline.conversations(&reader, None, 10 + number).await.unwrap();
            assert_eq!(page.conversations.len(), conversations);
        }
        let prepared = match kind {
            Kind::Sqlite => {
                let pool = connected.pool.get_sqlite_connection_pool();
                pool.acquire().await.unwrap().cached_statements_size()
            }
            _ => {
                let pool = connected.pool.get_mysql_connection_pool();
                pool.acquire().await.unwrap().cached_statements_size()
            }
        };
        assert!((1..FEW).contains(&prepared), "{prepared}");
    }
}

/// After a kill -9 the database is away for some seconds, and until somebody was refused and a reader has come in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_database_costs_no_message() {
    let least = Duration::from_secs(sized(4, 20));
    let mut engine = DatabaseServer::dedicated(Kind::MariaDb, &[]).await;
    let database = engine.fresh().await;
    let server = Server::start(&database, &[]).await;
    let early = Plain::events(&server, "alice", server.port(), None).await;
    early.wait_for("ready", 1, LIMIT).await;
    let mut late: Option<Plain> = None;

    let refused = Arc::new(Mutex::new(BTreeSet::new()));
    let mut sends = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(250));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut killed, mut back) = (None, None);
    let mut number = 0;
    while back.is_none_or(|back: Instant| back.elapsed() < Duration::from_secs(2)) {
        ticks.tick().await;
        sends.spawn(send_until_answered(server.client("bob"), number, refused.clone()));
        number += 1;
        if number == 8 {
            // Another one is on its way at this moment.
            sends.spawn(send_until_answered(
                server.client("bob"),
                1_000_000,
                refused.clone(),
            ));
            engine.kill9().await;
            killed = Some(Instant::now());
        }
        let away = killed.map_or(Duration::ZERO, |killed| killed.elapsed());
        if late.is_none() && away > least / 4 {
            late = Some(Plain::events(&server, "alice", server.port(), Some("0")).await);
        }
        let is_met = refused.lock().unwrap().contains("unavailable")
            && late.as_ref().is_some_and(|late| !late.named("error").is_empty());
        assert!(
            back.is_some() || away < LIMIT,
            "nobody has noticed: {:?}",
            refused.lock().unwrap()
        );
        if back.is_none() && away >= least && is_met {
            engine.start().await;
            back = Some(Instant::now());
        }
    }
    let mut ids = BTreeSet::new();
    let sent = sends.len();
    while let Some(send) = sends.join_next().await {
        ids.insert(send.unwrap());
    }
    let refused = refused.lock().unwrap().clone();
    eprintln!("{sent} messages; refusals while the database was away: {refused:?}");
    assert_eq!(ids.len(), sent, "every message has a place of its own");
    assert!(refused.contains("unavailable"), "{refused:?}");

    let recorded = log(&database, 0).await;
    let positions: BTreeSet<_> = recorded.iter().map(|event| event.position).collect();
    assert_eq!((positions, recorded.len()), (ids, sent), "each is recorded once");
    for client in [&early, late.as_ref().unwrap()] {
        client.wait_for("message.sent", sent, LIMIT).await;
        let seen: Vec<_> = client
            .named("message.sent")
            .iter()
            .map(|line| line.data["message"]["_id"].clone())
            .collect();
        let all: Vec<_> = recorded.iter().map(|event| json!(event.position)).collect();
        assert_eq!(seen, all, "each once and in order");
        assert_eq!(client.named("reset"), []);
    }
    let outcome = server.run(&["verify"]).await;
    assert_eq!(outcome.code, 0, "{}", outcome.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_far_behind_catches_up_while_new_ones_arrive() {
    let behind: Position = sized(10_000, 100_000);
    let database = Database::fresh(Kind::MariaDb).await;
    assert_eq!(run(&database, &["migrate", "up"], &[]).await.code, 0);
    let filling = Fill {
        messages: behind,
        from: "bob",
        to: "alice",
        others: 50,
        other: "u",
        bytes: 40,
    };
    fill(&database, &filling).await;
    let server = Server::start(&database, &[]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let sender = tokio::spawn(send_until(server.client("bob"), stop.clone()));
    let mut events = server.client("alice").events(Some("0")).await.unwrap();
    assert_eq!(events.next(LIMIT).await.unwrap().event, "ready");
    let begun = Instant::now();
    let mut expected = 1;
    loop {
        let event = events.event(LIMIT).await;
        assert_eq!(event["position"], expected, "each once and in order");
        if expected == behind / 2 {
            eventually("new ones arrive", LIMIT, || async {
                database.number("SELECT position FROM log_head").await > behind + 10
            })
            .await;
        }
        if expected == behind {
            eprintln!("caught up with {behind} events in {:?}", begun.elapsed());
            stop.store(true, Ordering::Relaxed);
            server.client("bob").send("alice", END, None).await.unwrap();
        }
        if event["message"]["text"] == END {
            break;
        }
        expected += 1;
    }
    // The end may have overtaken the sender's last one.
    let acknowledged = Position::try_from(sender.await.unwrap()).unwrap();
    assert!(acknowledged > 10, "new ones arrived meanwhile: {acknowledged}");
    while expected < behind + acknowledged + 1 {
        expected += 1;
        assert_eq!(events.event(LIMIT).await["position"], expected);
    }
}

/// As after a network's failure. What they read is more than a database that is far away gives within the time that
/// anybody waits for a connection to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_come_back_at_once_are_resumed_and_the_others_go_on_meanwhile() {
    const READERS: usize = 200;
    const AWAY: Duration = Duration::from_millis(5);
    let database = Database::fresh(Kind::MariaDb).await;
    let proxy = Proxy::before(&database).await;
    let settings = [
        ("CHAT_DATABASE_URL", proxy.url(&database)),
        ("CHAT_DATABASE_CONNECTIONS", "2".into()),
        ("CHAT_CONNECTIONS_PER_USER", READERS.to_string()),
        ("CHAT_CONNECTIONS_PER_ADDRESS", (2 * READERS).to_string()),
    ];
    let server = Server::start(
        &database,
        &settings.each_ref().map(|(name, value)| (*name, value.as_str())),
    )
    .await;
    let sent = send_in_parallel(&server, 3, "missed").await;
    let mut carol = server.client("carol").events(None).await.unwrap();
    assert_eq!(carol.next(LIMIT).await.unwrap().event, "ready");
    proxy.delay(AWAY);

    let is_over = Arc::new(AtomicBool::new(false));
    let meanwhile = {
        let (is_over, dave, carol_herself) = (is_over.clone(), server.client("dave"), server.client("carol"));
        tokio::spawn(async move {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                dave.send("carol", "hello", None).await.unwrap();
                carol.event(LIMIT).await;
                carol_herself.history(&[("with", "dave")]).await.unwrap();
                times += 1;
            }
            times
        })
    };
    let begun = Instant::now();
    let coming_back = (0..READERS).map(|_| {
        let alice = server.client("alice");
        async move {
            let mut events = alice.events(Some("0")).await.unwrap();
            let events = events.take(3, LIMIT).await;
            events.iter().map(position).collect::<Vec<_>>()
        }
    });
    let seen: Vec<_> = stream::iter(coming_back)
        .buffer_unordered(READERS)
        .collect()
        .await;
    let took = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let times = meanwhile.await.unwrap();
    eprintln!("{READERS} were resumed in {took:?}; meanwhile the others wrote and read {times} times");
    assert_eq!(seen, vec![sent; READERS]);
    assert!(took > Duration::from_secs(3), "it was no test: {took:?}");
    assert!(times > 5, "{times}");
    assert!(!server.log().contains("timed out"), "{}", server.log());
}

/// Many readers have stopped; each has more to get than all buffers on the way hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_cost_the_others_nothing_and_the_server_256_kb_each() {
    const KILOBYTES: u64 = 256;
    // About what the kernel keeps for a reader that takes nothing.
    const UNTAKEN: u64 = 48 << 10;
    let (readers, messages) = sized((60, 600), (200, 1500));
    let database = Database::fresh(Kind::MariaDb).await;
    let server = Server::start(&database, &[]).await;
    let text = "x".repeat(4096);
    // What the server needs for the work itself is not theirs.
    let mut good = server.client("alice").events(None).await.unwrap();
    send_in_parallel(&server, 300, &text).await;
    good.take(300, LIMIT).await;
    let before = server.memory("VmRSS");

    let mut stalled = Vec::new();
    for _ in 0..readers / 2 {
        stalled.push(server.client("alice").stalled_events(None).await);
    }
    let (acknowledged, seen) = tokio::join!(
        send_in_parallel(&server, messages, &text),
        good.take(messages, LIMIT)
    );
    let seen: Vec<_> = seen.iter().map(position).collect();
    assert_eq!(seen, acknowledged, "the good reader got every event, in order");
    // The other half reads the same from the database, each for itself.
    for _ in 0..readers / 2 {
        stalled.push(server.client("alice").stalled_events(Some("0")).await);
    }
    eventually("all of them stand still", LIMIT, || async {
        server.connections_with_untaken(UNTAKEN) == readers
    })
    .await;
    let last = server.client("bob").send("alice", END, None).await.unwrap();
    assert_eq!(good.event(LIMIT).await["position"], last["_id"]);

    let peak = server.memory("VmHWM").max(server.memory("VmRSS"));
    let each = (peak - before) / u64::try_from(readers).unwrap();
    eprintln!("{readers} stalled readers: from {before} kB to {peak} kB at the peak, {each} kB each");
    assert!(each <= KILOBYTES, "{each} kB each");
    assert_eq!(stalled.len(), readers);
}

/// As many as can be filled in well below a minute.
fn events_in_the_long_log(kind: Kind) -> Position {
    match kind {
        Kind::MariaDb | Kind::Sqlite => 1_000_000,
        Kind::MySql => 200_000,
    }
}

/// A lost cursor, by stream and by long poll.
async fn check_reset(server: &Server, lost: &str, reason: &str, oldest: i64) {
    let alice = server.client("alice");
    let problem = alice.poll(lost, 0).await.unwrap_err();
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (410, "cursor_reset"),
        "{lost}"
    );
    assert_eq!(
        (&problem.body["reason"], &problem.body["oldest"]),
        (&json!(reason), &json!(oldest)),
        "{lost}"
    );
    let polled = problem.body["cursor"].as_str().unwrap().to_string();
    let page = alice.poll(&polled, 0).await.unwrap();
    assert_eq!((&page["events"], &page["cursor"]), (&json!([]), &json!(polled)));

    let mut events = alice.events(Some(lost)).await.unwrap();
    let reset = events.next(LIMIT).await.unwrap();
    assert_eq!(reset.event, "reset", "{lost}");
    assert_eq!(
        reset.data,
        json!({"cursor": polled, "reason": reason, "oldest": oldest}),
        "{lost}"
    );
    let sent = server.client("bob").send("alice", lost, None).await.unwrap();
    let live = events.next(LIMIT).await.unwrap();
    assert_eq!(
        (live.event.as_str(), &live.data["message"]["_id"]),
        ("message", &sent["_id"]),
        "{lost}"
    );

    // As an EventSource comes back: its URL still names the lost cursor, the header wins.
    let again = alice.get("/v1/events").query(&[("after", lost), ("wait", "0")]);
    let page = ok(again.header("Last-Event-ID", &reset.id)).await.unwrap();
    assert_eq!(page["events"], json!([live.data]), "{lost}");
    let mut events = alice.events(Some(&reset.id)).await.unwrap();
    let ready = events.next(LIMIT).await.unwrap();
    assert_eq!((ready.event.as_str(), &ready.id), ("ready", &reset.id), "{lost}");
    assert_eq!(events.next(LIMIT).await.unwrap().data, live.data, "{lost}");
}

/// Follows a stream to the end; comes back with its cursor after each 100 events, in the gate after each 30.
async fn read_stream(client: Client, mut cursor: String) -> Vec<Position> {
    let mut seen = Vec::new();
    loop {
        let mut events = client.events(Some(&cursor)).await.unwrap();
        let ready = events.next(LIMIT).await.unwrap();
        assert_eq!(ready.event, "ready", "after {cursor}: {ready:?}");
        for _ in 0..sized(30, 100) {
            let event = events.event(LIMIT).await;
            seen.push(position(&event));
            if event["message"]["text"] == END {
                return seen;
            }
        }
        cursor = events.cursor().unwrap().to_string();
    }
}

/// Follows one stream to the end; also the cursor of every delivery. `begun` is told once the first one was read.
async fn read_stream_to_the_end(
    client: Client,
    cursor: String,
    begun: oneshot::Sender<()>,
) -> (Vec<Position>, Vec<String>) {
    let mut begun = Some(begun);
    let mut events = client.events(Some(&cursor)).await.unwrap();
    let (mut seen, mut cursors) = (Vec::new(), Vec::new());
    assert_eq!(events.next(LIMIT).await.unwrap().event, "ready");
    loop {
        let frame = events.next(LIMIT).await.unwrap();
        assert!(
            ["message", "heartbeat"].contains(&frame.event.as_str()),
            "{frame:?}"
        );
        cursors.push(frame.id.clone());
        if let Some(begun) = begun.take() {
            begun.send(()).unwrap();
        }
        if frame.event == "message" {
            seen.push(position(&frame.data));
            if frame.data["message"]["text"] == END {
                return (seen, cursors);
            }
        }
    }
}

/// Follows by long polls to the end, and holds the chain.
async fn read_polls(client: Client, mut cursor: String) -> Vec<Position> {
    let mut seen = Vec::new();
    loop {
        let query = [("after", cursor.as_str()), ("wait", "5"), ("limit", "17")];
        let page = ok(client.get("/v1/events").query(&query)).await.unwrap();
        for event in page["events"].as_array().unwrap() {
            // What `0` is called is up to the server. All else is called what it was, also where an epoch has begun since.
            if cursor != "0" {
                assert_eq!(event["prev"], cursor.as_str(), "{event}");
            }
            cursor = event["cursor"].as_str().unwrap().to_string();
            seen.push(position(event));
            if event["message"]["text"] == END {
                return seen;
            }
        }
        cursor = page["cursor"].as_str().unwrap().to_string();
    }
}

/// Follows the conversation with bob by pages of history to the end.
async fn read_history(client: Client, after: Position) -> Vec<Position> {
    let mut seen = Vec::new();
    loop {
        let after = seen.last().copied().unwrap_or(after).to_string();
        let mut page = client
            .history(&[("with", "bob"), ("after", &after), ("limit", "30")])
            .await
            .unwrap();
        loop {
            for message in page["messages"].as_array().unwrap() {
                seen.push(message["_id"].as_i64().unwrap());
                if message["text"] == END {
                    return seen;
                }
            }
            let Some(next) = page["next"].as_str() else { break };
            page = ok(client.get(next)).await.unwrap();
        }
    }
}

/// Messages among a few people, alice mostly with bob, many at once.
async fn send_among_people(server: &Server, numbers: std::ops::Range<u32>) {
    const PAIRS: [(&str, &str); 6] = [
        ("bob", "alice"),
        ("alice", "bob"),
        ("bob", "alice"),
        ("carol", "alice"),
        ("carol", "bob"),
        ("dave", "carol"),
    ];
    let sends = numbers.map(|number| {
        let (from, to) = PAIRS[number as usize % PAIRS.len()];
        let client = server.client(from);
        async move { client.send(to, &number.to_string(), None).await.unwrap() }
    });
    stream::iter(sends).buffer_unordered(16).collect::<Vec<_>>().await;
}

async fn send_to_alice(server: &Server, count: usize) {
    for number in 0..count {
        server
            .client("bob")
            .send("alice", &number.to_string(), None)
            .await
            .unwrap();
    }
}

/// Sends so many messages to alice, many at once; their positions in order.
async fn send_in_parallel(server: &Server, count: usize, text: &str) -> Vec<Position> {
    let client = server.client("bob");
    let sends = (0..count).map(|_| client.send("alice", text, None));
    let sent: Vec<_> = stream::iter(sends).buffer_unordered(64).collect().await;
    let mut positions: Vec<_> = sent
        .into_iter()
        .map(|sent| sent.unwrap()["_id"].as_i64().unwrap())
        .collect();
    positions.sort_unstable();
    positions
}

/// Sends to alice one after the other until told to stop; how many.
async fn send_until(client: Client, stop: Arc<AtomicBool>) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        client.send("alice", "live", None).await.unwrap();
        sent += 1;
    }
    sent
}

/// Sends with a key, and again as often as it is refused; the message's position. The codes of the refusals are collected.
async fn send_until_answered(client: Client, number: u32, refused: Arc<Mutex<BTreeSet<String>>>) -> Position {
    let key = format!("key-{number}");
    loop {
        match client.send("alice", &number.to_string(), Some(&key)).await {
            Ok(sent) => return sent["_id"].as_i64().unwrap(),
            Err(problem) => {
                assert_eq!(problem.status, 503, "{problem}");
                assert!(
                    ["unavailable", "outcome_unknown"].contains(&problem.code.as_str()),
                    "{problem}"
                );
                let pause = problem.retry_after().expect("it says when to come again");
                assert!((1..=10).contains(&pause), "{pause}");
                refused.lock().unwrap().insert(problem.code);
                // As told, the client comes again after a while.
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
        }
    }
}

fn position(event: &Value) -> Position {
    event["position"].as_i64().unwrap()
}
