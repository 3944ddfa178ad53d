//! Mutations of what valid clients say, through every door, beside good traffic: nothing panics, nothing is answered
//! as if it were the server's fault, and the good traffic is whole.

use std::{collections::BTreeMap, time::Duration};

use chat_tests::{
    Database, Kind, Server,
    chatter::{Chatter, position_of},
    inside::log,
    listener::{Door, Listener, Step},
    mutation::mutate,
    sized,
};
use futures_util::{SinkExt, StreamExt};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{Client, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, task::JoinHandle, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const LIMIT: Duration = Duration::from_secs(60);
const SEED: u64 = 0x5eed;

/// How many inputs there are of each kind.
struct Sizes {
    /// Of each kind, at once.
    workers: usize,
    packets: usize,
    frames: usize,
    websocket_bytes: usize,
    bodies: usize,
    requests: usize,
    /// How many requests are taken for what they were before, at the least.
    recorded: usize,
}

impl Sizes {
    fn new() -> Sizes {
        let small = Sizes {
            workers: 4,
            packets: 4_800,
            frames: 1_600,
            websocket_bytes: 100,
            bodies: 3_200,
            requests: 4_000,
            recorded: 5,
        };
        let full = Sizes {
            workers: 8,
            packets: 45_000,
            frames: 14_000,
            websocket_bytes: 1_000,
            bodies: 20_000,
            requests: 20_000,
            recorded: 100,
        };
        sized(small, full)
    }

    fn total(&self) -> usize {
        self.packets + self.frames + self.websocket_bytes + self.bodies + self.requests
    }
}

/// Packets of socket.io, without the `4` of engine.io.
const PACKET_CORPUS: &[&str] = &[
    r#"0{"token":"x","after":"0"}"#,
    r#"0/admin,{"token":"x"}"#,
    "1",
    r#"21["send",{"receiver_id":"eve","text":"hi","key":"k-1"}]"#,
    r#"22["send",{"receiver_id":"eve","data":"AAECAw==","content_type":"image/png"}]"#,
    r#"23["receipt",{"type":"read","up_to":1}]"#,
    r#"24["history",{"with":"eve","before":99,"limit":5}]"#,
    r#"25["history",{"with":"eve","since":0,"until":1999999999}]"#,
    r#"26["conversations",{"limit":5}]"#,
    r#"27["resume",{"after":"0"}]"#,
    r#"28["authenticate",{"token":"x"}]"#,
    r#"2["unheard-of",{},[1,2,null]]"#,
    r#"31["nobody asked"]"#,
    r#"51-9["send",{"receiver_id":"eve","data":{"_placeholder":true,"num":0},"content_type":"image/png"}]"#,
    r#"61-9[{"_placeholder":true,"num":0}]"#,
];

const FRAME_CORPUS: &[&str] = &[
    "1",
    "2",
    "2probe",
    "3",
    "3probe",
    "4",
    "42[\"x\"]",
    "5",
    "6",
    "0{}",
    "bAAEC",
];

const REST_CORPUS: &[(&str, &str)] = &[
    ("/v1/messages", r#"{"receiver_id":"eve","text":"hi"}"#),
    (
        "/v1/messages",
        r#"{"receiver_id":"eve","data":"AAECAw==","content_type":"image/png"}"#,
    ),
    ("/v1/receipts", r#"{"type":"received","up_to":1}"#),
];

const QUERY_CORPUS: &[&str] = &[
    "/v1/messages?with=eve&after=0&before=999&limit=20",
    "/v1/messages?with=eve&since=0&until=1999999999",
    "/v1/conversations?before=999&limit=20",
    "/v1/events?after=0&wait=0&limit=20",
    "/v1/messages/1",
    "/socket.io/?EIO=4&transport=polling",
    "/socket.io/?EIO=4&transport=websocket",
    "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA",
];

/// What became of the inputs, by name.
type Tally = BTreeMap<String, usize>;

/// One of the workers of a kind.
struct Fuzzer {
    port: u16,
    token: String,
    rng: StdRng,
    tally: Tally,
}

impl Fuzzer {
    fn new(server: &Server, kind: u64, worker: usize) -> Fuzzer {
        Fuzzer {
            port: server.port(),
            token: server.token(&format!("mallory-{kind}-{worker}")),
            rng: StdRng::seed_from_u64(SEED + kind * 100 + worker as u64),
            tally: Tally::new(),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn count(&mut self, what: impl ToString) {
        *self.tally.entry(what.to_string()).or_default() += 1;
    }

    fn mutated(&mut self, valid: &str) -> Vec<u8> {
        let mut bytes = valid.as_bytes().to_vec();
        for _ in 0..self.rng.random_range(1..=3) {
            mutate(&mut bytes, &mut self.rng);
        }
        bytes
    }

    /// A websocket that is somebody's.
    async fn websocket(&self) -> WebSocketStream<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let url = format!(
            "ws://127.0.0.1:{}/socket.io/?EIO=4&transport=websocket",
            self.port
        );
        let (mut socket, _) = client_async(url, stream).await.unwrap();
        let connect = format!("40{}", json!({"token": self.token}));
        socket.send(Message::text(connect)).await.unwrap();
        let ready = |message: &Message| {
            message
                .to_text()
                .is_ok_and(|text| text.starts_with(r#"42["ready""#))
        };
        while !ready(&timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap()) {}
        socket
    }

    /// Whether the server still answers on a websocket; until then it has taken everything before.
    async fn answers(&self, socket: &mut WebSocketStream<TcpStream>, number: usize) -> bool {
        let (asked, answer) = (
            format!(r#"4277{number}["still there?"]"#),
            format!("4377{number}["),
        );
        // One that has left connects again; of one that has not, it is passed over.
        let connect = format!("40{}", json!({"token": self.token}));
        for packet in [connect, asked] {
            if socket.send(Message::text(packet)).await.is_err() {
                return false;
            }
        }
        loop {
            match timeout(LIMIT, socket.next()).await.expect("it answers or closes") {
                Some(Ok(Message::Text(text))) if text.starts_with(&answer) => return true,
                Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                    let _ = socket.send(Message::text("3")).await;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Messages over a websocket, each until the server has taken it or has closed.
    async fn messages(mut self, count: usize, corpus: &'static [&'static str], prefix: &str) -> Tally {
        let mut socket = self.websocket().await;
        for number in 0..count {
            let valid = *corpus.choose(&mut self.rng).unwrap();
            let bytes = self.mutated(valid);
            let message = match String::from_utf8(bytes) {
                Ok(text) => Message::text(format!("{prefix}{text}")),
                Err(error) => Message::binary(error.into_bytes()),
            };
            let sent = socket.send(message).await.is_ok();
            // What a binary packet waits for.
            if valid.contains("_placeholder") && self.rng.random_bool(0.9) {
                let bytes = self.mutated("bytes");
                let _ = socket.send(Message::binary(bytes)).await;
            }
            if sent && self.answers(&mut socket, number).await {
                self.count("went on");
            } else {
                self.count("closed");
                socket = self.websocket().await;
            }
        }
        self.tally
    }

    /// Bytes that are hardly frames of a websocket.
    async fn websocket_bytes(mut self, count: usize) -> Tally {
        // A frame of text, masked with zeros: `42["x"]`.
        let valid = b"\x81\x87\x00\x00\x00\x0042[\"x\"]";
        for _ in 0..count {
            let socket = self.websocket().await;
            let mut stream = socket.into_inner();
            let mut bytes = valid.repeat(self.rng.random_range(1..4));
            for _ in 0..self.rng.random_range(1..=3) {
                mutate(&mut bytes, &mut self.rng);
            }
            let sent = stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok();
            self.count(format!("sent {sent}"));
        }
        self.tally
    }

    /// Bodies of polling, some of them to each session.
    async fn bodies(mut self, count: usize) -> Tally {
        const EACH: usize = 20;
        let http = Client::builder().no_proxy().build().unwrap();
        let handshake = format!("{}/socket.io/?EIO=4&transport=polling", self.url());
        let mut done = 0;
        while done < count {
            let open = http.get(&handshake).send().await.unwrap().text().await.unwrap();
            let open: Value = serde_json::from_str(&open[1..]).unwrap();
            let session = format!("{handshake}&sid={}", open["sid"].as_str().unwrap());
            let connect = format!("40{}", json!({"token": self.token}));
            let connected = http.post(&session).body(connect).send().await.unwrap();
            assert_eq!(connected.status(), StatusCode::OK);
            for _ in 0..EACH.min(count - done) {
                done += 1;
                let packets = (0..self.rng.random_range(1..4))
                    .map(|_| match self.rng.random_range(0..4) {
                        0 => (*FRAME_CORPUS.choose(&mut self.rng).unwrap()).to_string(),
                        _ => format!("4{}", PACKET_CORPUS.choose(&mut self.rng).unwrap()),
                    })
                    .collect::<Vec<_>>();
                let body = self.mutated(&packets.join("\u{1e}"));
                let request = http.post(&session).header(CONTENT_TYPE, "text/plain");
                let status = request.body(body.clone()).send().await.unwrap().status();
                self.answered(status, &body);
                if status != StatusCode::OK {
                    break;
                }
            }
            // It may be closed already.
            let _ = http.post(&session).body("1").send().await;
        }
        self.tally
    }

    /// Bodies and queries of REST, and queries of the socket.
    async fn requests(mut self, count: usize) -> Tally {
        let http = Client::builder().no_proxy().build().unwrap();
        for _ in 0..count {
            let (request, input) = if self.rng.random_bool(0.5) {
                let (path, body) = REST_CORPUS.choose(&mut self.rng).unwrap();
                let body = self.mutated(body);
                let request = http.post(format!("{}{path}", self.url()));
                (
                    request
                        .header(CONTENT_TYPE, "application/json")
                        .body(body.clone()),
                    body,
                )
            } else {
                let valid = QUERY_CORPUS.choose(&mut self.rng).unwrap();
                let mut target = self.mutated(valid);
                // Others would not be sent, or would end the head.
                target.retain(|byte| byte.is_ascii_graphic() && *byte != b'#');
                let path = String::from_utf8(target.clone()).unwrap();
                let path = path.trim_start_matches('/');
                (http.get(format!("{}/{path}", self.url())), target)
            };
            // A poll that has lost its `wait` waits for long.
            let polls = input.starts_with(b"/v1/events");
            let patience = if polls { Duration::from_millis(200) } else { LIMIT };
            match request.bearer_auth(&self.token).timeout(patience).send().await {
                Ok(answer) => self.answered(answer.status(), &input),
                Err(error) if error.is_timeout() => {
                    assert!(polls, "no answer to {}", String::from_utf8_lossy(&input));
                    self.count("waits");
                }
                // The client itself refuses some.
                Err(_) => self.count("not sent"),
            }
        }
        self.tally
    }

    fn answered(&mut self, status: StatusCode, input: &[u8]) {
        let fine = !status.is_server_error() || status == StatusCode::SERVICE_UNAVAILABLE;
        assert!(fine, "{status} to {:?}", String::from_utf8_lossy(input));
        self.count(status.as_u16());
    }
}

/// Follows over a socket until it has come to the position that it is told, and gives the positions that it saw.
async fn follow(
    server: &Server,
    door: Door,
    user: &str,
    mut to: watch::Receiver<Option<i64>>,
) -> JoinHandle<Vec<i64>> {
    let mut listener = Listener::connect(door, &server.url(), &server.token(user), Some("0"))
        .await
        .unwrap();
    tokio::spawn(async move {
        let mut seen = Vec::new();
        loop {
            let head = *to.borrow_and_update();
            if head
                .is_some_and(|head| listener.cursor().contains(':') && position_of(listener.cursor()) >= head)
            {
                assert_eq!(listener.lost, 0);
                return seen;
            }
            match timeout(LIMIT, listener.next())
                .await
                .unwrap()
                .expect("nothing ends a good connection")
            {
                Step::Event(event) => seen.push(event["position"].as_i64().unwrap()),
                Step::Passed => {}
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutations_through_every_door_break_nothing() {
    let sizes = Sizes::new();
    let database = Database::fresh(Kind::Sqlite).await;
    let settings = [
        ("CHAT_HEARTBEAT_S", "1"),
        ("CHAT_LOG", "warn"),
        ("CHAT_CONNECTIONS_PER_USER", "1000"),
    ];
    let server = Server::start(&database, &settings).await;
    let (head, _) = watch::channel(None);
    let mut good = Vec::new();
    for door in [Door::Websocket, Door::Polling] {
        good.push((door, follow(&server, door, "alice", head.subscribe()).await));
    }
    let chatter = Chatter::start(
        &server,
        &database,
        &[("alice", "bob"), ("bob", "alice")],
        &["alice", "bob"],
    )
    .await;

    let mut working: Vec<(&str, JoinHandle<Tally>)> = Vec::new();
    for worker in 0..sizes.workers {
        let fuzzer = |kind| Fuzzer::new(&server, kind, worker);
        let each = |all: usize| all / sizes.workers;
        let packets = fuzzer(0).messages(each(sizes.packets), PACKET_CORPUS, "4");
        working.push(("packets", tokio::spawn(packets)));
        let frames = fuzzer(1).messages(each(sizes.frames), FRAME_CORPUS, "");
        working.push(("frames", tokio::spawn(frames)));
        let bytes = fuzzer(2).websocket_bytes(each(sizes.websocket_bytes));
        working.push(("bytes", tokio::spawn(bytes)));
        working.push(("bodies", tokio::spawn(fuzzer(3).bodies(each(sizes.bodies)))));
        let requests = fuzzer(4).requests(each(sizes.requests));
        working.push(("requests", tokio::spawn(requests)));
    }
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for (kind, worker) in working {
        for (what, count) in worker.await.unwrap() {
            *tallies.entry(kind).or_default().entry(what).or_default() += count;
        }
    }
    println!("{tallies:#?}");
    let total: usize = tallies.values().flat_map(Tally::values).sum();
    assert_eq!(total, sizes.total());
    // It is not all cut off at the first byte.
    for (kind, what, least) in [
        ("packets", "went on", sizes.packets / 3),
        ("bodies", "200", sizes.bodies / 10),
        ("requests", "201", sizes.recorded),
    ] {
        assert!(
            tallies[kind].get(what).is_some_and(|count| *count > least),
            "{kind}: {tallies:?}"
        );
    }

    chatter.finish(&server, &database).await;
    let last = database.number("SELECT position FROM log_head").await;
    head.send_modify(|head| *head = Some(last));
    let log = log(&database, 0).await;
    let expected: Vec<_> = log
        .iter()
        .filter(|event| event.concerns("alice"))
        .map(|event| event.position)
        .collect();
    for (door, seen) in good {
        assert_eq!(seen.await.unwrap(), expected, "{door:?} is whole");
    }
    let bad = |line: &&str| line.contains("panicked") || line.contains(" ERROR ");
    assert_eq!(
        server.log().lines().filter(bad).collect::<Vec<_>>(),
        [] as [&str; 0]
    );
    let verified = server.run(&["verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}
