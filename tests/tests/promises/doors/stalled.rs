//! Clients that stop reading, by the thousand in full, through each door: they cost the others nothing and the server
//! little, are thrown out, and hold up no shutdown. And sessions that are begun and abandoned, which leave nothing behind.
//!
//! The tests with readers that stall measure: the runner gives them the machine alone.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, Kind, Server, eventually,
    listener::{Door, Listener, Step},
    raw::narrow_connection,
    sized,
    socketio::SocketIo,
};
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

/// Untaken bytes of a connection whose reader has stopped.
const FULL: u64 = 8 << 10;

const LIMIT: Duration = Duration::from_secs(60);

fn readers() -> usize {
    sized(200, 1000)
}

/// Whose the readers are, in turn: of each user there are fifty.
fn users() -> usize {
    readers() / 50
}

/// What each reader has to get: more than all buffers on the way hold.
const MESSAGES: usize = 60;
const BYTES: usize = 4096;

/// A reader that has stopped. Dropped, its connection is closed.
enum Stalled {
    Connection { _open: TcpStream },
    Socket(Box<SocketIo>),
}

impl Stalled {
    /// What is on its way to it stands still once there is something.
    async fn connect(server: &Server, http: &reqwest::Client, door: Door, user: &str) -> Stalled {
        let (token, url) = (server.token(user), server.url());
        let request = |query: &str, accept: &str| {
            format!(
                "GET /v1/events{query} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\naccept: {accept}\r\n\r\n",
                &url["http://".len()..]
            )
        };
        let request = match door {
            Door::Stream => request("", "text/event-stream"),
            Door::LongPoll => request("?after=0&limit=200", "application/json"),
            Door::Websocket => {
                let socket = SocketIo::open_over(narrow_connection(server.port()).await, &url).await;
                let mut socket = socket.unwrap();
                socket.log_in(&token, None).await.unwrap();
                return Stalled::Socket(Box::new(socket));
            }
            Door::Polling => {
                let mut socket = SocketIo::open_polling(http.clone(), &url).await.unwrap();
                socket.log_in(&token, None).await.unwrap();
                return Stalled::Socket(Box::new(socket));
            }
        };
        let mut connection = narrow_connection(server.port()).await;
        connection.write_all(request.as_bytes()).await.unwrap();
        // Only the head, or the stream may not have begun.
        connection.read_exact(&mut [0; 64]).await.unwrap();
        Stalled::Connection { _open: connection }
    }

    /// Whether the server still has it.
    async fn is_there(&mut self) -> bool {
        match self {
            // An ack that nobody asked for. A pong would keep the session alive.
            Stalled::Socket(socket) => socket.write("430[]").await,
            Stalled::Connection { .. } => true,
        }
    }
}

fn user(number: usize) -> String {
    format!("stalled-{}", number % users())
}

/// Connects so many readers through a door, gives each of them more than it takes, and waits until they stand still.
async fn stalled(server: &Server, http: &reqwest::Client, door: Door, readers: usize) -> Vec<Stalled> {
    // A long poll finds it in the log.
    if door == Door::LongPoll {
        feed(server).await;
    }
    let before = server.connections_with_untaken(FULL);
    let connecting = (0..readers).map(|number| {
        let user = user(number);
        async move { Stalled::connect(server, http, door, &user).await }
    });
    let stalled: Vec<_> = stream::iter(connecting).buffer_unordered(50).collect().await;
    if door != Door::LongPoll {
        feed(server).await;
    }
    if door != Door::Polling {
        eventually("all of them stand still", LIMIT, || async {
            server.connections_with_untaken(FULL) >= before + readers
        })
        .await;
    }
    stalled
}

async fn feed(server: &Server) {
    let text = "x".repeat(BYTES);
    let sends = (0..users() * MESSAGES).map(|number| {
        let (client, user, text) = (server.client("filler"), user(number), &text);
        async move { client.send(&user, text, None).await.unwrap() }
    });
    stream::iter(sends)
        .buffer_unordered(20)
        .for_each(async |_| {})
        .await;
}

/// Waits until the server has nothing to do: what a moment before was fed to it or cut off it is worked off.
async fn at_rest(server: &Server) {
    const MOMENT: Duration = Duration::from_millis(250);
    const LITTLE: u64 = 5;
    eventually("the server is at rest", LIMIT, || async {
        let before = processor(server);
        tokio::time::sleep(MOMENT).await;
        processor(server) - before <= LITTLE
    })
    .await;
}

/// Hundredths of a second of a processor that the server took, as the kernel counts them.
fn processor(server: &Server) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields = fields.split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// Five people who write to five others, and how long it takes.
struct Pairs {
    senders: Vec<Client>,
    begun: Instant,
    arrivals: mpsc::Receiver<Duration>,
}

impl Pairs {
    const PAIRS: usize = 5;

    /// Two servers work at it at once. In the gate one processor is enough for both: where there is none left, sends wait
    /// in a queue, and a little more work makes it much longer.
    fn pace() -> Duration {
        Duration::from_millis(sized(10, 4))
    }

    fn sends() -> usize {
        sized(300, 1000)
    }

    async fn start(server: &Server, door: Door) -> Pairs {
        let (arrived, arrivals) = mpsc::channel(Self::sends());
        let begun = Instant::now();
        for pair in 0..Self::PAIRS {
            let token = server.token(&format!("receiver-{pair}"));
            let mut listener = Listener::connect(door, &server.url(), &token, None)
                .await
                .unwrap();
            let arrived = arrived.clone();
            tokio::spawn(async move {
                // Until the server ends.
                while let Some(step) = listener.next().await {
                    let Step::Event(event) = step else { continue };
                    let sent_at = event["message"]["text"].as_str().unwrap().parse().unwrap();
                    let latency = begun.elapsed().saturating_sub(Duration::from_micros(sent_at));
                    if arrived.send(latency).await.is_err() {
                        return;
                    }
                }
            });
        }
        let senders = (0..Self::PAIRS).map(|pair| server.client(&format!("sender-{pair}")));
        Pairs {
            senders: senders.collect(),
            begun,
            arrivals,
        }
    }

    /// Sends at its pace, whether or not it is answered, until all has arrived; how long each took.
    async fn measure(&mut self) -> Vec<Duration> {
        let mut pace = interval(Self::pace());
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..Self::sends() {
            pace.tick().await;
            let pair = number % Self::PAIRS;
            let client = self.senders[pair].clone();
            let text = self.begun.elapsed().as_micros().to_string();
            tokio::spawn(async move {
                client
                    .send(&format!("receiver-{pair}"), &text, None)
                    .await
                    .unwrap()
            });
        }
        let mut latencies = Vec::new();
        while latencies.len() < Self::sends() {
            latencies.push(timeout(LIMIT, self.arrivals.recv()).await.unwrap().unwrap());
        }
        latencies
    }
}

/// What so many sends cost: how long each took, and what the server computed, in hundredths of a second.
#[derive(Default)]
struct Cost {
    latencies: Vec<Duration>,
    processor: u64,
}

impl Cost {
    fn add(&mut self, more: Cost) {
        self.latencies.extend(more.latencies);
        self.processor += more.processor;
    }

    /// The time that 99 % took at most, and what the server computed, as multiples.
    fn beside(&mut self, other: &mut Cost) -> (f64, f64) {
        let most = |latencies: &mut Vec<Duration>| {
            latencies.sort();
            latencies[latencies.len() * 99 / 100]
        };
        let (most, least) = (most(&mut self.latencies), most(&mut other.latencies));
        let processor = self.processor as f64 / other.processor as f64;
        println!("99 % within {most:?} beside {least:?}, {processor:.2} times the processor");
        (most.div_duration_f64(least), processor)
    }
}

/// A server with people who write to each other.
struct Side {
    server: Server,
    pairs: Pairs,
    _database: Database,
}

impl Side {
    async fn start(door: Door) -> Side {
        let settings = [
            ("CHAT_LOG", "warn"),
            // Room for an answer of each.
            ("CHAT_ANSWERS_LIMIT", "268435456"),
            // Three times as long as they have to stand still.
            ("CHAT_STALL_TIMEOUT_S", sized("15", "20")),
            ("CHAT_PING_INTERVAL_S", "5"),
            ("CHAT_PING_TIMEOUT_S", "25"),
        ];
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &settings).await;
        let mut pairs = Pairs::start(&server, door).await;
        // What the server needs for the work itself is not the readers'.
        feed(&server).await;
        pairs.measure().await;
        Side {
            server,
            pairs,
            _database: database,
        }
    }
}

/// At the same time on both servers: what else the machine does meets them alike.
async fn measure(sides: &mut [Side; 2]) -> [Cost; 2] {
    for side in &*sides {
        at_rest(&side.server).await;
    }
    let processors = |sides: &[Side; 2]| sides.each_ref().map(|side| processor(&side.server));
    let before = processors(sides);
    let [one, other] = &mut *sides;
    let (one, other) = tokio::join!(one.pairs.measure(), other.pairs.measure());
    let after = processors(sides);
    let cost = |side: usize, latencies| Cost {
        latencies,
        processor: after[side] - before[side],
    };
    [cost(0, one), cost(1, other)]
}

/// Beside a server without them, and the other way round in the next round.
async fn stalled_readers_cost_the_others_nothing(door: Door) {
    const LEAST_ROUNDS: usize = 2;
    /// The machine does other things too: what was disturbed is made up for by more.
    const MOST_ROUNDS: usize = 10;
    const MOST: f64 = 1.2;
    const KILOBYTES: u64 = 256;
    let count = readers();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let (one, other) = tokio::join!(Side::start(door), Side::start(door));
    let mut sides = [one, other];
    let before = sides[0].server.memory("VmRSS");

    let (mut without, mut with) = (Cost::default(), Cost::default());
    let (mut each, mut rounds) = (0, 0);
    let (server, readers, times) = loop {
        let crowded = rounds % 2;
        let readers = stalled(&sides[crowded].server, &http, door, count).await;
        let [mut one, mut other] = measure(&mut sides).await;
        if door != Door::Polling {
            let standing = sides[crowded].server.connections_with_untaken(FULL);
            assert!(standing >= count, "only {standing} still stood at the end");
        }
        if crowded == 1 {
            std::mem::swap(&mut one, &mut other);
        }
        with.add(one);
        without.add(other);
        if rounds == 0 {
            // Later there may be some of a round before.
            each = (sides[0].server.memory("VmHWM") - before) / count as u64;
        }
        rounds += 1;
        let times = with.beside(&mut without);
        println!(
            "with {count} stalled readers of {door:?}, {each} kB each, and without, after {rounds} rounds"
        );
        let server = &sides[crowded].server;
        let is_enough = times.0 <= MOST && times.1 <= MOST && rounds >= LEAST_ROUNDS;
        if is_enough || rounds == MOST_ROUNDS {
            break (server, readers, times);
        }
        drop(readers);
        eventually("those of the round before are gone", LIMIT, || async {
            server.connections_with_untaken(FULL) == 0
        })
        .await;
    };
    assert!(each <= KILOBYTES, "{each} kB each");
    assert!(times.0 <= MOST && times.1 <= MOST, "{times:?}");

    eventually("all of them are thrown out", LIMIT, || async {
        server.connections_with_untaken(FULL) == 0
    })
    .await;
    if door == Door::Polling {
        for mut reader in readers {
            let begun = Instant::now();
            while reader.is_there().await {
                assert!(
                    begun.elapsed() < LIMIT,
                    "a session that nobody polls is still there"
                );
            }
        }
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

mod stalled_readers_cost_the_others_nothing_and_are_thrown_out {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn stream() {
        stalled_readers_cost_the_others_nothing(Door::Stream).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn long_poll() {
        stalled_readers_cost_the_others_nothing(Door::LongPoll).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn websocket() {
        stalled_readers_cost_the_others_nothing(Door::Websocket).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn polling() {
        stalled_readers_cost_the_others_nothing(Door::Polling).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_do_not_hold_up_the_end_of_the_server() {
    const SHUTDOWN: Duration = Duration::from_secs(4);
    let each = readers() / 4;
    let database = Database::fresh(Kind::Sqlite).await;
    let limit = SHUTDOWN.as_secs().to_string();
    let settings = [("CHAT_LOG", "warn"), ("CHAT_SHUTDOWN_TIMEOUT_S", limit.as_str())];
    let mut server = Server::start(&database, &settings).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut all = Vec::new();
    for door in Door::ALL {
        all.extend(stalled(&server, &http, door, each).await);
    }
    let begun = Instant::now();
    server.stop().await;
    println!(
        "ended after {:?} with {} stalled readers",
        begun.elapsed(),
        all.len()
    );
    // A second more, for what is to be done after the limit.
    assert!(
        begun.elapsed() < SHUTDOWN + Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_sessions_leave_nothing_behind() {
    const CONNECTIONS: usize = 20;
    /// What is left after a wave differs by megabytes with the machine's pace, and comes back to the same floor again and
    /// again. The floor of the last waves is no higher than this above that of as many before them, in kB. In full 18 bytes
    /// for each session would be, in the gate 170.
    const MORE: u64 = 1 << 10;
    let sessions = sized(2_000, 10_000);
    // So many waves have one floor; so many are at least begun, and until it is flat.
    let (flat, waves) = sized((3, 6..=24), (6, 12..=40));
    let database = Database::fresh(Kind::Sqlite).await;
    let settings = [
        ("CHAT_LOG", "warn"),
        ("CHAT_PING_INTERVAL_S", "1"),
        ("CHAT_PING_TIMEOUT_S", "1"),
        // Each thread's own heap fills up to the largest wave that it has met, which takes long.
        ("MALLOC_ARENA_MAX", "1"),
    ];
    let server = Server::start(&database, &settings).await;
    let begun = Instant::now();
    let mut after = Vec::new();
    let is_flat = |after: &[u64]| {
        let floor = |waves: &[u64]| *waves.iter().min().unwrap();
        let (before, last) = after.split_at(after.len() - flat);
        floor(last) <= floor(&before[before.len() - flat..]) + MORE
    };
    while after.len() < *waves.start() || !is_flat(&after) {
        assert!(after.len() < *waves.end(), "it grows: {after:?}");
        let port = server.port();
        let opening = (0..CONNECTIONS).map(|_| tokio::spawn(abandon(port, sessions / CONNECTIONS)));
        let mut last = String::new();
        for opened in opening.collect::<Vec<_>>() {
            last = opened.await.unwrap();
        }
        // They end in the order in which they began, more or less. A poll takes the ping and is no pong, which would keep
        // the session.
        let client = server.client("nobody");
        eventually("the last session of the wave is gone", LIMIT, || async {
            let path = format!("/socket.io/?EIO=4&transport=polling&sid={last}");
            chat_tests::reply(client.get(&path)).await.status == 400
        })
        .await;
        after.push(server.memory("VmRSS"));
    }
    println!(
        "{} sessions in {:?}; kB after each wave: {after:?}",
        after.len() * sessions,
        begun.elapsed()
    );
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Does engine.io's handshake again and again on one connection; gives the last session.
async fn abandon(port: u16, sessions: usize) -> String {
    const REQUEST: &[u8] = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut answer = Vec::new();
    for _ in 0..sessions {
        connection.write_all(REQUEST).await.unwrap();
        answer.clear();
        // The open packet is JSON, the last thing of the answer, and the only one with braces.
        while !answer.ends_with(b"}") {
            assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0, "it closed");
        }
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    let body = answer.split(|byte| *byte == b'\n').next_back().unwrap();
    let open: Value = serde_json::from_slice(&body[1..]).unwrap();
    open["sid"].as_str().unwrap().to_string()
}
