//! One order for everybody: no position is seen after a larger one, and none is missing, however many write and
//! wherever one reads. Each test of it is shown to fail where the order is not kept.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chat_api::realtime::{
    hub::{Hub, HubOptions},
    subscription::{Delivery, Subscription},
};
use chat_domain::{Position, cursor::After, ports::Outbox};
use chat_infrastructure::{
    database::Database as Connected,
    location::Location,
    outbox::SqlOutbox,
    tail::{Tail, TailOptions},
};
use chat_tests::{
    Client, Database, DatabaseServer, Events, Kind, Server,
    chatter::position_of,
    eventually,
    observed::{Fault, Observed, check, follow, positions, summary},
    on_database_servers, on_each_database,
    ports::{Ports, user},
    sized,
    unlocked::UnlockedLog,
    veil::{Veil, naive_tail},
};
use futures_util::future::join_all;
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, TransactionTrait,
    sqlx::{self, Connection, MySqlConnection},
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);

on_database_servers! {
    /// Two nodes, writers and readers on both, and readers of the tables themselves.
    async fn tail_does_not_skip_events_when_writers_commit_out_of_order(kind) {
        let (writers_on_a_node, sends_of_a_writer) = sized((8, 30), (16, 60));
        let database = Database::fresh(kind).await;
        let settings = [("CHAT_HEARTBEAT_S", "1")];
        let nodes = [Server::start(&database, &settings).await, Server::start(&database, &settings).await];

        let (written, _) = watch::channel(false);
        let (end, _) = watch::channel(None);
        let readers_of_tables = ["table 1", "table 2"].map(|name| {
            let (url, written) = (database.url(), written.subscribe());
            tokio::spawn(async move { follow(&outbox(&url).await, name, 0, written).await })
        });
        let bobs = nodes.each_ref().map(|node| node.client("bob"));
        let [first, second] = bobs.clone();
        let streams = [
            tokio::spawn(stream("stream of node 1", vec![first.clone()], usize::MAX, end.subscribe())),
            tokio::spawn(stream("stream of node 2", vec![second.clone()], usize::MAX, end.subscribe())),
            // Reads on with its last cursor on the other node.
            tokio::spawn(stream("stream that changes nodes", vec![first, second], 40, end.subscribe())),
        ];

        let writers = (0..2 * writers_on_a_node).map(|writer| {
            let client = nodes[writer % 2].client(&format!("writer-{writer}"));
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for n in 0..sends_of_a_writer {
                    ids.push(id(&client.send("bob", &n.to_string(), None).await.unwrap()));
                }
                ids
            })
        });
        let mut acknowledged = Vec::new();
        for ids in join_all(writers.collect::<Vec<_>>()).await {
            let ids = ids.unwrap();
            assert!(ids.is_sorted(), "a writer's messages are in its order: {ids:?}");
            acknowledged.extend(ids);
        }
        written.send_replace(true);
        let log = positions(&database).await;
        end.send_replace(log.last().copied());

        let mut observed = Vec::new();
        for reader in readers_of_tables.into_iter().chain(streams) {
            observed.push(reader.await.unwrap());
        }
        let all = Position::try_from(2 * writers_on_a_node * sends_of_a_writer).unwrap();
        acknowledged.sort_unstable();
        assert_eq!(acknowledged, (1..=all).collect::<Vec<_>>(), "positions have no holes, and none is given twice");
        assert_eq!(log, acknowledged, "what was acknowledged is what the log holds");
        let faults = check(&observed, &log);
        assert!(faults.is_empty(), "{:#?}", summary(&faults));
        for reader in &observed {
            assert_eq!(reader.up_to, all, "{} came to the end", reader.reader);
        }
        clean(&nodes[0]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_draws_positions_without_the_lock_is_caught_in_each_run() {
    const WRITERS: usize = 8;
    const SENDS_OF_A_WRITER: usize = 30;

    let database = Database::fresh(Kind::MariaDb).await;
    chat_migration::up(database.root().await).await.unwrap();
    let runs = sized(3, 10);
    let mut others_missing = 0;
    for run in 1..=runs {
        let before = database.number("SELECT position FROM log_head").await;
        // One of the writers is so slow that its row comes after all others have been read.
        let (planted, slow) = draw_and_hold(&database).await;
        let (written, _) = watch::channel(false);
        let readers = ["table 1", "table 2"].map(|name| {
            let (url, written) = (database.url(), written.subscribe());
            tokio::spawn(async move { follow(&outbox(&url).await, name, before, written).await })
        });
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let mut log = UnlockedLog::connect(&database).await;
            writers.push(tokio::spawn(async move {
                for n in 0..SENDS_OF_A_WRITER {
                    log.send(&format!("writer-{writer}"), "bob", &n.to_string()).await;
                }
            }));
        }
        for writer in join_all(writers).await {
            writer.unwrap();
        }
        written.send_replace(true);
        let observed: Vec<_> = join_all(readers).await.into_iter().map(Result::unwrap).collect();
        slow.commit().await.unwrap();
        let faults = check(&observed, &positions(&database).await);
        let missing: Vec<_> = faults
            .iter()
            .filter_map(|fault| match fault {
                Fault::Missing { position, .. } => Some(*position),
                _ => None,
            })
            .collect();
        println!("run {run}: {} positions passed unseen", missing.len());
        assert!(
            missing.contains(&planted),
            "run {run}: the check has not noticed that positions were drawn without the lock"
        );
        others_missing += missing.iter().filter(|position| **position != planted).count();
    }
    // What was held proves the check; only the others prove that [`UnlockedLog`] draws without the lock.
    assert!(
        others_missing > 0,
        "in {runs} runs the writers themselves left no position unseen"
    );
}

/// Draws a position as [`UnlockedLog`] does, and writes its row, which nobody sees before this is committed.
async fn draw_and_hold(database: &Database) -> (Position, DatabaseTransaction) {
    database
        .execute("UPDATE log_head SET position = position + 1 WHERE id = 1")
        .await;
    let position = database.number("SELECT position FROM log_head").await;
    let slow = database.root().await.begin().await.unwrap();
    let insert = format!(
        "INSERT INTO outbox (position, type, conversation_id, actor_id, via, command_key, command_hash, occurred_at, \
         receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields) \
         VALUES ({position}, 'message.sent', 1, 'slow', NULL, '{position}', x'{hash}', 0, 'bob', 1, NULL, NULL, 0, \
         'text/plain', 'hi', NULL)",
        hash = "00".repeat(32)
    );
    slow.execute_unprepared(&insert).await.unwrap();
    (position, slow)
}

on_each_database! {
    /// Reads that show p and not yet p-1 are planted before the tail and the pages of those who resume.
    async fn no_cursor_passes_a_position_that_is_not_proven(kind) {
        let proven = Planted::run(kind, Proof::Kept).await;
        assert!(proven.veil.gaps() > 0, "reads with a hole were planted");
        let faults = check(&proven.observed, &proven.log);
        assert!(faults.is_empty(), "{:#?}", summary(&faults));
        assert_eq!(proven.veil.unproven_pages(), 0, "no page was asked for up to what is not proven");
        for reader in &proven.observed {
            assert_eq!(reader.up_to, *proven.log.last().unwrap(), "{} is delayed, and comes to the end", reader.reader);
        }

        let naive = Planted::run(kind, Proof::Left).await;
        let faults = check(&naive.observed, &naive.log);
        for reader in ["live", "resuming", "late"] {
            let skipped = faults.iter().any(|fault| matches!(fault, Fault::Missing { reader: r, .. } if r == reader));
            assert!(skipped, "without the proof the {reader} reader skips: {:#?}", summary(&faults));
        }
        let planted = |fault: &Fault| matches!(fault, Fault::Missing { position, .. } if position % EVERY == 0);
        assert!(faults.iter().all(planted), "{:#?}", summary(&faults));
        assert!(naive.veil.unproven_pages() > 0);
    }

    /// The tables show p and not yet p-1, with the head still below both, while the real server reads them.
    async fn no_cursor_of_history_passes_a_position_that_is_not_proven(kind) {
        const PROVEN: Position = 7;
        const HIDDEN: Position = 8;
        const SHOWN: Position = 9;

        let database = Database::fresh(kind).await;
        let mut plant = Plant::prepare(&database, PROVEN, SHOWN).await;
        let server = Server::start(&database, &[("CHAT_HEARTBEAT_S", "1")]).await;
        let bob = server.client("bob");
        let mut live = bob.events(Some("0")).await.unwrap();
        let mut seen_live = Observed::new("live", 0);
        for event in live.take(PROVEN as usize, LIMIT).await {
            seen_live.saw(event["position"].as_i64().unwrap());
        }

        plant.show(SHOWN).await;
        // It says so itself when the hole stays.
        eventually("the tail has come to the hole", LIMIT, || async {
            let ready = bob.get("/readyz").send().await.unwrap();
            ready.status() == 503 && ready.text().await.unwrap().contains("missing in the log")
        })
        .await;

        let mut readers = Vec::new();
        let history = bob.history(&[("with", "alice"), ("after", "0")]).await.unwrap();
        readers.push(page("history", &history["messages"], &history));
        let newest = bob.history(&[("with", "alice"), ("limit", "3")]).await.unwrap();
        assert_eq!(ids(&newest["messages"]), [7, 6, 5], "history shows nothing past the head");
        let polled = bob.poll("0", 0).await.unwrap();
        readers.push(page("long poll", &polled["events"], &polled));
        let conversations = bob.conversations().await.unwrap();
        assert!(position_of(conversations["cursor"].as_str().unwrap()) <= PROVEN);
        let mut resumed = bob.events(Some("0")).await.unwrap();
        let mut seen_resumed = Observed::new("resumed", 0);
        for event in resumed.take(PROVEN as usize, LIMIT).await {
            seen_resumed.saw(event["position"].as_i64().unwrap());
        }
        // What a client does whose cursor is the largest position that it can see.
        let epoch = database.text("SELECT epoch FROM log_head").await;
        let mut naive = Observed::new("naive", 0);
        for position in positions(&database).await {
            naive.saw(position);
        }
        let naive_cursor = format!("{epoch}:{}", database.number("SELECT MAX(position) FROM outbox").await);
        assert_eq!(naive.positions, [1, 2, 3, 4, 5, 6, 7, 9]);

        plant.show_all().await;
        for (observed, mut events) in [(seen_live, live), (seen_resumed, resumed)] {
            readers.push(to_the_end(&mut events, observed, SHOWN).await);
        }
        for (observed, cursor) in readers.iter_mut().zip([&history, &polled]) {
            let cursor = cursor["cursor"].as_str().unwrap();
            assert_eq!(position_of(cursor), PROVEN, "the cursor of {} waits for what is not proven", observed.reader);
            let mut events = bob.events(Some(cursor)).await.unwrap();
            *observed = to_the_end(&mut events, observed.clone(), SHOWN).await;
        }
        let log = positions(&database).await;
        let faults = check(&readers, &log);
        assert!(faults.is_empty(), "{:#?}", summary(&faults));
        assert_eq!(readers.iter().map(|reader| reader.positions.len()).collect::<Vec<_>>(), [9; 4]);

        let mut events = bob.events(Some(&naive_cursor)).await.unwrap();
        let naive = to_the_end(&mut events, naive, SHOWN).await;
        let skipped = Fault::Missing { reader: "naive".into(), position: HIDDEN };
        assert_eq!(check(&[naive], &log), [skipped], "a cursor of MAX(position) skips, and the check says so");
        server.ready().await;
        clean(&server).await;
    }
}

/// For real: two nodes write, and idle transactions make the window wide in which a read on MariaDB shows p and not
/// p-1. A client is too slow to meet it, so the readers loop inside the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_the_proven_way_beside_idle_transactions_show_no_hole() {
    const PROVEN_READERS: u64 = 3;
    const IDLE: i64 = 200;
    const WRITERS_ON_A_NODE: usize = 24;
    // Those who are beside the readers make the window: fewer of them, and no reader could meet it.
    let polls: u64 = sized(60_000, 500_000);
    let (least_sent, least_with_rows) = sized((200, 100), (1000, 100));
    // Of its own: open transactions slow down everything else on a server.
    let own = DatabaseServer::dedicated(Kind::MariaDb, &[]).await;
    let database = own.fresh().await;
    let nodes = [
        Server::start(&database, &[]).await,
        Server::start(&database, &[]).await,
    ];
    for sql in PROCEDURES {
        database.execute(sql).await;
    }
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        let mut connection = MySqlConnection::connect(&database.url()).await.unwrap();
        sqlx::raw_sql("START TRANSACTION; INSERT INTO other (x) VALUES (1)")
            .execute(&mut connection)
            .await
            .unwrap();
        idle.push(connection);
    }
    assert_eq!(
        database
            .number("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified = 1")
            .await,
        IDLE
    );

    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let writers = (0..2 * WRITERS_ON_A_NODE).map(|writer| {
        let client = nodes[writer % 2].client(&format!("writer-{writer}"));
        let (stop, sent) = (stop.clone(), sent.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.send("bob", "hi", None).await.unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let of = async |what: &str, reader: &str| {
        database
            .number(&format!(
                "SELECT CAST(SUM({what}) AS SIGNED) FROM polls WHERE reader = '{reader}'"
            ))
            .await
    };
    let (begun, begun_at) = (Instant::now(), sent.load(Ordering::Relaxed));
    let each = polls.div_ceil(PROVEN_READERS);
    let sent = loop {
        let proven = (0..PROVEN_READERS).map(|_| call(&database, format!("CALL read_proven({each})")));
        tokio::join!(
            join_all(proven),
            call(&database, format!("CALL read_naive({each})"))
        );
        let sent = sent.load(Ordering::Relaxed) - begun_at;
        // Once more where few have written meanwhile.
        let is_enough = of("with_rows", "proven").await > least_with_rows && sent > least_sent;
        if is_enough || begun.elapsed() > LIMIT / 2 {
            break sent;
        }
    };
    stop.store(true, Ordering::Relaxed);
    for writer in join_all(writers).await {
        writer.unwrap();
    }

    for reader in ["proven", "naive"] {
        println!(
            "{reader}: {} polls, {} of them with something new, {} with a hole; {sent} sends meanwhile",
            of("polls", reader).await,
            of("with_rows", reader).await,
            of("gaps", reader).await,
        );
    }
    assert!(of("polls", "proven").await >= polls.cast_signed());
    assert!(
        of("with_rows", "proven").await > least_with_rows && sent > least_sent,
        "the readers met the writers"
    );
    assert_eq!(
        of("gaps", "proven").await,
        0,
        "a read the proven way has shown a hole"
    );
    drop(idle);
    clean(&nodes[0]).await;
}

/// A poll has a hole when fewer rows are shown than there are positions up to the largest, or up to the head.
const PROCEDURES: [&str; 4] = [
    "CREATE TABLE other (id INT PRIMARY KEY AUTO_INCREMENT, x INT) ENGINE=InnoDB",
    "CREATE TABLE polls (reader VARCHAR(10), polls BIGINT, with_rows BIGINT, gaps BIGINT) ENGINE=InnoDB",
    "CREATE PROCEDURE read_proven(most BIGINT) BEGIN
        DECLARE seen, shown, head, polls, with_rows, gaps BIGINT DEFAULT 0;
        SELECT position INTO seen FROM log_head WHERE id = 1;
        WHILE polls < most DO
            SELECT position INTO head FROM log_head WHERE id = 1;
            SELECT COUNT(*) INTO shown FROM outbox WHERE position > seen AND position <= head;
            SET polls = polls + 1;
            IF head > seen THEN SET with_rows = with_rows + 1; END IF;
            IF shown <> head - seen THEN SET gaps = gaps + 1; END IF;
            SET seen = head;
        END WHILE;
        INSERT INTO polls VALUES ('proven', polls, with_rows, gaps);
    END",
    "CREATE PROCEDURE read_naive(most BIGINT) BEGIN
        DECLARE seen, shown, largest, polls, with_rows, gaps BIGINT DEFAULT 0;
        SELECT position INTO seen FROM log_head WHERE id = 1;
        WHILE polls < most DO
            SELECT COUNT(*), MAX(position) INTO shown, largest FROM outbox WHERE position > seen;
            SET polls = polls + 1;
            IF shown > 0 THEN
                SET with_rows = with_rows + 1;
                IF shown <> largest - seen THEN SET gaps = gaps + 1; END IF;
                SET seen = largest;
            END IF;
        END WHILE;
        INSERT INTO polls VALUES ('naive', polls, with_rows, gaps);
    END",
];

async fn call(database: &Database, sql: String) {
    database.root().await.execute_unprepared(&sql).await.unwrap();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Proof {
    Kept,
    Left,
}

/// Each of these positions is hidden from some reads.
const EVERY: Position = 5;
const TIMES: u32 = 3;

/// What readers saw through a veil.
struct Planted {
    veil: Arc<Veil>,
    observed: Vec<Observed>,
    log: Vec<Position>,
}

impl Planted {
    /// One writer's events reach a node only by reading, as those of another node do; three readers follow meanwhile.
    async fn run(kind: Kind, proof: Proof) -> Planted {
        let events: Position = sized(203, 403);
        let database = Database::fresh(kind).await;
        let ports = Arc::new(Ports::on(&database).await);
        let veil = Veil::before(ports.outbox.clone(), EVERY, TIMES);
        let hub = Hub::new(
            veil.clone(),
            HubOptions {
                heartbeat: Duration::from_millis(50),
                ..HubOptions::default()
            },
        );
        let stop = CancellationToken::new();
        let tail = match proof {
            Proof::Kept => {
                let (_, committed) = mpsc::channel(1);
                let publish = Arc::new(hub.clone());
                let tail = Tail::new(
                    veil.clone(),
                    committed,
                    publish,
                    TailOptions::default(),
                    stop.clone(),
                );
                hub.attach(tail.handle());
                tokio::spawn(tail.run())
            }
            Proof::Left => tokio::spawn(naive_tail(veil.clone(), Arc::new(hub.clone()))),
        };
        let readers = [
            tokio::spawn(subscriber("live", hub.clone(), usize::MAX, events)),
            tokio::spawn(subscriber("resuming", hub.clone(), 7, events)),
            tokio::spawn(async move {
                eventually("the tail is half-way", LIMIT, || async {
                    tail_at(&hub).await >= events / 2
                })
                .await;
                subscriber("late", hub, usize::MAX, events).await
            }),
        ];
        let senders = (0..4).map(|sender| {
            let ports = ports.clone();
            tokio::spawn(async move {
                for n in (sender..events).step_by(4) {
                    ports
                        .send(&format!("writer-{sender}"), "bob", &n.to_string())
                        .await;
                }
            })
        });
        for sender in join_all(senders.collect::<Vec<_>>()).await {
            sender.unwrap();
        }
        let mut observed = Vec::new();
        for reader in readers {
            observed.push(
                tokio::time::timeout(LIMIT, reader)
                    .await
                    .expect("a reader comes to the end")
                    .unwrap(),
            );
        }
        stop.cancel();
        tail.abort();
        let log = positions(&database).await;
        assert_eq!(log, (1..=events).collect::<Vec<_>>());
        Planted { veil, observed, log }
    }
}

/// Follows the log for `bob`, and begins again with its last cursor after so many events. Ends at a position, or when
/// it is told that what follows its cursor is not to be had.
async fn subscriber(name: &str, hub: Hub, events_at_once: usize, end: Position) -> Observed {
    let mut observed = Observed::new(name, 0);
    let mut after = After::Beginning;
    loop {
        let mut subscription = subscribe(&hub, after.clone()).await;
        let mut events = 0;
        while events < events_at_once {
            let cursor = match subscription.next().await {
                Delivery::Event { cursor, .. } => {
                    observed.saw(cursor.position);
                    events += 1;
                    cursor
                }
                Delivery::Ready { cursor, .. } | Delivery::Heartbeat { cursor, .. } => cursor,
                Delivery::Reset { .. } => return observed,
                Delivery::Closing { .. } => panic!("nobody closes the hub"),
            };
            observed.passed(cursor.position);
            after = After::Cursor(cursor);
            if observed.up_to >= end {
                return observed;
            }
        }
    }
}

/// How far the tail has come; 0 before it begins.
async fn tail_at(hub: &Hub) -> Position {
    let Ok(mut subscription) = hub.subscribe(user("bob"), After::Now).await else {
        return 0;
    };
    match subscription.next().await {
        Delivery::Ready { head, .. } => head,
        other => panic!("a stream begins with {other:?}"),
    }
}

/// The tail may not have begun.
async fn subscribe(hub: &Hub, after: After) -> Subscription {
    let begun = || async { hub.subscribe(user("bob"), After::Now).await.is_ok() };
    eventually("the tail begins", LIMIT, begun).await;
    hub.subscribe(user("bob"), after).await.unwrap()
}

/// A log whose end is kept aside, to be shown row by row.
struct Plant<'d> {
    database: &'d Database,
}

const TABLES: [(&str, Option<&str>); 5] = [
    ("outbox", Some("position")),
    ("messages", Some("_id")),
    ("conversations", None),
    ("participants", None),
    ("log_head", None),
];

impl<'d> Plant<'d> {
    /// Writes messages of `alice` to `bob`, and takes away those after `proven`, so that it is as before they were sent.
    async fn prepare(database: &'d Database, proven: Position, last: Position) -> Plant<'d> {
        let ports = Ports::on(database).await;
        for n in 1..=proven {
            ports.send("alice", "bob", &n.to_string()).await;
        }
        for (table, _) in TABLES {
            database
                .execute(&format!("CREATE TABLE early_{table} AS SELECT * FROM {table}"))
                .await;
        }
        for n in proven + 1..=last {
            ports.send("alice", "bob", &n.to_string()).await;
        }
        for (table, _) in TABLES {
            database
                .execute(&format!("CREATE TABLE late_{table} AS SELECT * FROM {table}"))
                .await;
            database.execute(&format!("DELETE FROM {table}")).await;
            database
                .execute(&format!("INSERT INTO {table} SELECT * FROM early_{table}"))
                .await;
        }
        Plant { database }
    }

    /// Shows one of the events that were taken away, and leaves the head where it is.
    async fn show(&mut self, position: Position) {
        let show = |(table, key): (&str, Option<&str>)| match key {
            Some(key) => format!("INSERT INTO {table} SELECT * FROM late_{table} WHERE {key} = {position}"),
            None => format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM late_{table}"),
        };
        let tables = TABLES.into_iter().filter(|(table, _)| *table != "log_head");
        self.in_one_transaction(tables.map(show)).await;
    }

    /// Shows everything.
    async fn show_all(&mut self) {
        let show = |(table, key): (&str, Option<&str>)| match key {
            Some(key) => {
                format!(
                    "INSERT INTO {table} SELECT * FROM late_{table} WHERE {key} NOT IN (SELECT {key} FROM {table})"
                )
            }
            None => format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM late_{table}"),
        };
        self.in_one_transaction(TABLES.into_iter().map(show)).await;
    }

    async fn in_one_transaction(&self, statements: impl Iterator<Item = String>) {
        let begin = match self.database.kind() {
            Kind::Sqlite => "BEGIN IMMEDIATE",
            Kind::MariaDb | Kind::MySql => "START TRANSACTION",
        };
        let statements: Vec<_> = statements.collect();
        self.database
            .execute(&format!("{begin}; {}; COMMIT", statements.join("; ")))
            .await;
    }
}

/// What a page of history or of a long poll has shown.
fn page(reader: &str, shown: &serde_json::Value, page: &serde_json::Value) -> Observed {
    let mut observed = Observed::new(reader, 0);
    ids(shown).into_iter().for_each(|position| observed.saw(position));
    observed.passed(position_of(page["cursor"].as_str().unwrap()));
    observed
}

fn ids(shown: &serde_json::Value) -> Vec<Position> {
    let id = |shown: &serde_json::Value| shown["_id"].as_i64().or(shown["position"].as_i64()).unwrap();
    shown.as_array().unwrap().iter().map(id).collect()
}

fn id(message: &serde_json::Value) -> Position {
    message["_id"].as_i64().unwrap()
}

/// Follows the stream of events, with a new stream on the next of the clients after so many events.
async fn stream(
    name: &str,
    clients: Vec<Client>,
    events_at_once: usize,
    end: watch::Receiver<Option<Position>>,
) -> Observed {
    let mut observed = Observed::new(name, 0);
    let mut cursor = "0".to_string();
    for client in clients.iter().cycle() {
        let mut events = connected(client, &cursor, &mut observed).await;
        let mut taken = 0;
        while taken < events_at_once {
            taken += usize::from(observe(&mut events, &mut observed).await);
            if end.borrow().is_some_and(|end| observed.up_to >= end) {
                return observed;
            }
        }
        cursor = events.cursor().unwrap().to_string();
    }
    unreachable!("a cycle has no end")
}

/// A stream after a cursor. A node that is not as far as the cursor yet says that it is to be asked later.
async fn connected(client: &Client, cursor: &str, observed: &mut Observed) -> Events {
    let begun = Instant::now();
    loop {
        let mut events = client.events(Some(cursor)).await.unwrap();
        let first = events.next(LIMIT).await.expect("a stream begins");
        if first.event == "ready" {
            observed.passed(position_of(first.data["cursor"].as_str().unwrap()));
            return events;
        }
        assert_eq!(
            (first.event.as_str(), &first.data["code"]),
            ("closing", &"starting".into()),
            "{}",
            first.data
        );
        assert!(
            begun.elapsed() < LIMIT,
            "after {cursor}: it only says later: {}",
            first.data
        );
        sleep(Duration::from_millis(100)).await;
    }
}

async fn to_the_end(events: &mut Events, mut observed: Observed, end: Position) -> Observed {
    while observed.up_to < end || !examined(events, end) {
        observe(events, &mut observed).await;
    }
    observed
}

/// Whether the stream itself has come so far, whatever its reader has seen elsewhere.
fn examined(events: &Events, end: Position) -> bool {
    events.cursor().is_some_and(|cursor| position_of(cursor) >= end)
}

/// Takes a frame of a stream; true for an event.
async fn observe(events: &mut Events, observed: &mut Observed) -> bool {
    let frame = events.next(LIMIT).await.expect("the stream goes on");
    match frame.event.as_str() {
        "message" => observed.saw(frame.data["position"].as_i64().unwrap()),
        "ready" | "heartbeat" => observed.passed(position_of(frame.data["cursor"].as_str().unwrap())),
        other => panic!("a frame {other}: {}", frame.data),
    }
    frame.event == "message"
}

/// An outbox on connections of its own.
async fn outbox(url: &str) -> impl Outbox {
    let connected = Connected::connect(Location::parse(url).unwrap(), 1)
        .await
        .unwrap();
    SqlOutbox::new(connected)
}

async fn clean(server: &Server) {
    let verified = server.run(&["verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}
