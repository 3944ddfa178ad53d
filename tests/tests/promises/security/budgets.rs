//! What a user, an address and all together hold of this node, on every door: each budget refuses with its code, shows
//! in the metrics, gives back what it took, and leaves everybody else alone.
//!
//! The tests connect from 127.0.0.1, which is a trusted proxy and has no limit of its own.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chat_tests::{
    Client, Database, Events, Kind, Server, eventually, free_port,
    metrics::{shown_at, value},
    ok,
    raw::narrow_connection,
    reply,
    server::{now, token},
    sized,
    socketio::{SocketIo, Transport},
};
use futures_util::future::join_all;
use reqwest::{RequestBuilder, header::ACCEPT};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(60);
const TRANSPORTS: [Transport; 2] = [Transport::Websocket, Transport::Polling];

/// The largest content of [`tight`].
const CONTENT: usize = 40_960;

/// A server whose budgets are as small as they may be: a quarter of a mebibyte in and a mebibyte out for a user.
async fn tight(more: &[(&str, &str)]) -> (Database, Server, u16) {
    let database = Database::fresh(Kind::Sqlite).await;
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let settings = [
        ("CHAT_ADMIN_LISTEN", admin.as_str()),
        ("CHAT_CONTENT_LIMIT", "40960"),
        ("CHAT_BODIES_LIMIT", "1048576"),
        ("CHAT_ANSWERS_LIMIT", "4194304"),
    ];
    let server = Server::start(&database, &[&settings, more].concat()).await;
    (database, server, port)
}

async fn metric(admin: u16, name: &str) -> f64 {
    value(&shown_at(admin).await, name)
}

async fn assert_refused(request: RequestBuilder, status: u16, code: &str) {
    let answer = reply(request).await;
    assert_eq!(
        (answer.status, answer.body["code"].as_str()),
        (status, Some(code)),
        "{answer:?}"
    );
    let header = answer.headers.get("retry-after").unwrap().to_str().unwrap();
    assert_eq!(answer.body["retry_after"].to_string(), header);
}

async fn connect(server: &Server, user: &str, transport: Transport) -> SocketIo {
    let socket = SocketIo::connect(transport, &server.url(), &server.token(user), None).await;
    let mut socket = socket.unwrap();
    socket.named("ready", LIMIT).await;
    socket
}

fn message(length: usize) -> Value {
    json!({"receiver_id": "bob", "text": "x".repeat(length)})
}

/// A websocket, byte by byte.
struct RawSocket(TcpStream);

impl RawSocket {
    /// Before it has said who it is.
    async fn open(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        let key = BASE64_STANDARD.encode([7; 16]);
        let head = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\n\
             upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut socket = Self(stream);
        socket.until(r#""sid""#).await;
        socket
    }

    async fn connect(server: &Server, user: &str) -> Self {
        let mut socket = Self::open(server).await;
        let packet = format!(r#"40{{"token":"{}"}}"#, server.token(user));
        socket.begin_frame(packet.len(), packet.as_bytes()).await;
        socket.until("ready").await;
        socket
    }

    /// A frame of text of so many bytes, of which these come.
    async fn begin_frame(&mut self, length: usize, bytes: &[u8]) {
        let mut frame = vec![0x81, 0x80 | 127];
        frame.extend((length as u64).to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(bytes);
        // The server may have closed before it has read everything.
        let _ = self.0.write_all(&frame).await;
    }

    async fn until(&mut self, text: &str) {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(text) {
            let mut chunk = [0; 4096];
            let length = timeout(LIMIT, self.0.read(&mut chunk)).await.unwrap().unwrap();
            assert!(length > 0, "{} ended it", String::from_utf8_lossy(&read));
            read.extend(&chunk[..length]);
        }
    }

    async fn ended(mut self) {
        let mut rest = Vec::new();
        // Reset, where it had not read all.
        let _ = timeout(LIMIT, self.0.read_to_end(&mut rest))
            .await
            .expect("it is closed");
    }
}

/// A body of which so many bytes have come.
async fn unfinished_body(server: &Server, user: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        server.token(user),
        bytes + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; bytes]).await.unwrap();
    stream
}

const HELD_IN: &str = r#"chat_held_bytes{way="in"}"#;
const HELD_OUT: &str = r#"chat_held_bytes{way="out"}"#;

/// A user's quarter of what may come in, and what is not counted of one.
const QUARTER: usize = 256 << 10;
const FREE: usize = 16 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_is_counted_on_every_door() {
    let (_database, server, admin) = tight(&[]).await;
    let alice = server.client("alice");
    let mut websocket = RawSocket::connect(&server, "alice").await;
    let polling = connect(&server, "alice", Transport::Polling).await;
    let sid = polling.open["sid"].as_str().unwrap().to_owned();
    let post = |text: &Value| {
        let packet = format!("42{}", json!(["send", text]));
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        Client::new(&server.url(), "").post(&path).body(packet)
    };

    let holds = async |bytes: usize| {
        eventually("the bodies have come", LIMIT, || async {
            metric(admin, HELD_IN).await >= bytes as f64
        })
        .await;
    };

    // Bodies fill her quarter to some bytes. The rest is for what is small.
    const FIRST: usize = QUARTER - 20_000;
    const SECOND: usize = 34_000;
    let large = message(CONTENT);
    let held = unfinished_body(&server, "alice", FIRST).await;
    for _ in 0..2 {
        let silent = unfinished_body(&server, "alice", 1).await;
        holds(FIRST - FREE).await;
        alice.send_body(&large, None).await.unwrap();
        let filled = unfinished_body(&server, "alice", SECOND).await;
        holds(FIRST - FREE + SECOND - FREE).await;
        assert_refused(alice.post("/v1/messages").json(&large), 503, "overloaded").await;
        assert_refused(post(&large), 503, "overloaded").await;
        alice.send("bob", "hi", None).await.unwrap();
        server.client("carol").send_body(&large, None).await.unwrap();
        drop((silent, filled));
        eventually("it is given back", LIMIT, || async {
            alice.send_body(&large, None).await.is_ok()
        })
        .await;
    }
    let filled = unfinished_body(&server, "alice", SECOND).await;
    holds(FIRST - FREE + SECOND - FREE).await;
    let cut = r#"chat_connections_cut_total{reason="overloaded"}"#;
    assert_eq!(metric(admin, cut).await, 0.0);
    websocket
        .begin_frame(CONTENT * 2, &vec![b'x'; CONTENT + FREE])
        .await;
    websocket.ended().await;
    assert_eq!(metric(admin, cut).await, 1.0);
    for door in ["rest", "socket_io"] {
        let rejections = format!(r#"chat_rejections_total{{code="overloaded",door="{door}"}}"#);
        assert!(metric(admin, &rejections).await >= 2.0, "{door}");
    }
    drop((held, filled));
    eventually("all is given back", LIMIT, || async {
        metric(admin, HELD_IN).await == 0.0
    })
    .await;
}

/// Asks for something on a connection of its own, and never reads it.
async fn unread(server: &Server, user: &str, path: &str) -> TcpStream {
    unread_as("*/*", server, user, path).await
}

async fn unread_as(accept: &str, server: &Server, user: &str, path: &str) -> TcpStream {
    let mut stream = narrow_connection(server.port()).await;
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nauthorization: Bearer {}\r\n\r\n",
        server.token(user)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_out_is_counted_on_every_door() {
    let (_database, server, admin) = tight(&[]).await;
    let alice = server.client("alice");
    // As JSON each is six times as long, and larger than a page of several.
    let text = "\u{1}".repeat(CONTENT);
    let mut last = 0;
    for _ in 0..4 {
        last = alice.send("bob", &text, None).await.unwrap()["_id"]
            .as_i64()
            .unwrap();
    }
    let mut sockets = Vec::new();
    for transport in TRANSPORTS {
        sockets.push(connect(&server, "alice", transport).await);
    }
    let page = "/v1/messages?with=bob&limit=200";
    let read = ok(alice.get(page)).await.unwrap();
    let bytes = read.to_string().len();
    assert!((240_000..256_000).contains(&bytes), "{bytes} of JSON in a page");
    assert!(read["next"].is_string());

    // The quarter of a user is a mebibyte.
    let mut held = Vec::new();
    for count in 1..=4 {
        held.push(unread(&server, "alice", page).await);
        eventually("the page is held", LIMIT, || async {
            metric(admin, HELD_OUT).await > f64::from(count) * 220_000.0
        })
        .await;
    }
    let poll = "/v1/events?after=0&wait=0";
    for path in [page, &format!("/v1/messages/{last}"), "/v1/conversations", poll] {
        assert_refused(alice.get(path), 503, "overloaded").await;
    }
    let send = json!({"receiver_id": "bob", "text": text});
    assert_refused(alice.post("/v1/messages").json(&send), 503, "overloaded").await;
    let stream = alice
        .get("/v1/events?after=0")
        .header(ACCEPT, "text/event-stream");
    let mut stream = Events::open(stream).await.unwrap();
    assert_eq!(stream.next(LIMIT).await.unwrap().event, "ready");
    let last_words = stream.next(LIMIT).await.unwrap();
    assert_eq!(
        (last_words.event.as_str(), last_words.data),
        ("closing", json!({"code": "overloaded", "retry_after": 1}))
    );
    for socket in &mut sockets {
        for (command, asked) in [
            ("history", json!({"with": "bob", "limit": 200})),
            ("conversations", json!({"before": last + 1})),
            ("send", send.clone()),
        ] {
            let ack = socket.ask(command, &asked).await.unwrap();
            assert_eq!(ack["problem"]["code"], "overloaded", "{command}: {ack}");
        }
        // What is small passes.
        let ack = socket
            .ask("send", &json!({"receiver_id": "carol", "text": "hi"}))
            .await
            .unwrap();
        assert!(ack["result"].is_object(), "{ack}");
    }
    alice.send("bob", "hi", None).await.unwrap();
    // And so does everybody else.
    ok(server.client("bob").get("/v1/messages?with=alice&limit=200"))
        .await
        .unwrap();

    drop(held);
    eventually("the page is given back", LIMIT, || async {
        metric(admin, HELD_OUT).await == 0.0
    })
    .await;
    for socket in &mut sockets {
        let ack = socket
            .ask("history", &json!({"with": "bob", "limit": 200}))
            .await
            .unwrap();
        assert!(ack["result"].is_object());
    }
    ok(alice.get(poll)).await.unwrap();
    for door in ["rest", "sse", "long_poll", "socket_io"] {
        let rejections = format!(r#"chat_rejections_total{{code="overloaded",door="{door}"}}"#);
        assert!(metric(admin, &rejections).await >= 1.0, "{door}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_new_conversations_are_counted_on_every_door() {
    let (_database, server, admin) = tight(&[
        ("CHAT_READS_PER_SECOND", "1"),
        ("CHAT_READS_BURST", "1"),
        ("CHAT_NEW_CONVERSATIONS_PER_HOUR", "2"),
    ])
    .await;
    let id = server.client("zoe").send("alice", "hi", None).await.unwrap()["_id"].clone();
    let reads = [
        "/v1/messages?with=zoe".to_owned(),
        format!("/v1/messages/{id}"),
        "/v1/conversations".to_owned(),
        "/v1/events?wait=0".to_owned(),
    ];
    // All at once, or a slow machine would read no more than it may.
    for path in &reads {
        let alice = server.client("alice");
        let answers = join_all((0..20).map(|_| reply(alice.get(path)))).await;
        let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
        assert!(refused.len() > 5, "{path}");
        for answer in refused {
            assert_eq!(
                (answer.status, &answer.body["code"]),
                (429, &json!("rate_limited"))
            );
        }
        assert_eq!(reply(server.client("zoe").get(path)).await.status, 200, "{path}");
        // The promise is about this time and no other.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let send = |to: &str| json!({"receiver_id": to, "text": "hi"});
    for (user, transport) in ["ada", "eve"].into_iter().zip(TRANSPORTS) {
        let mut socket = connect(&server, user, transport).await;
        for (command, payload) in [("history", json!({"with": "bob"})), ("conversations", json!({}))] {
            let mut refused = 0;
            for _ in 0..5 {
                let ack = socket.ask(command, &payload).await.unwrap();
                refused += usize::from(ack["problem"]["code"] == "rate_limited");
            }
            assert!(refused > 0, "{command}");
        }
        for to in ["bob", "bob", "carol"] {
            let ack = socket.ask("send", &send(to)).await.unwrap();
            assert!(ack["result"].is_object(), "{ack}");
        }
        // Whatever the door, and at once: the next conversation is one too many, and those that are there go on.
        let ack = socket.ask("send", &send("dave")).await.unwrap();
        let problem = &ack["problem"];
        assert_eq!(
            (&problem["code"], &problem["status"]),
            (&json!("too_many_conversations"), &json!(429))
        );
        assert!(problem["retry_after"].as_u64().unwrap() > 3000, "{problem}");
        let client = server.client(user);
        assert_refused(
            client.post("/v1/messages").json(&send("dave")),
            429,
            "too_many_conversations",
        )
        .await;
        client.send("bob", "hi", None).await.unwrap();
    }
    // A service begins what it likes, for whomever.
    let service = token(&json!({"sub": "service", "exp": now() + 3600, "scope": "chat.send_as"}));
    let service = Client::new(&server.url(), &service);
    for number in 0..5 {
        let to = send(&format!("user{number}"));
        for request in [
            service.post("/v1/messages"),
            service.post("/v1/messages").header("Act-As", "ada"),
        ] {
            ok(request.json(&to)).await.unwrap();
        }
    }
    for (code, door) in [
        ("rate_limited", "rest"),
        ("rate_limited", "long_poll"),
        ("rate_limited", "socket_io"),
        ("too_many_conversations", "rest"),
        ("too_many_conversations", "socket_io"),
    ] {
        let rejections = format!(r#"chat_rejections_total{{code="{code}",door="{door}"}}"#);
        assert!(metric(admin, &rejections).await >= 1.0, "{code} at {door}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_who_does_not_wait_for_answers_begins_no_more_conversations() {
    let (_database, server, _) = tight(&[("CHAT_NEW_CONVERSATIONS_PER_HOUR", "3")]).await;
    // Each connection is cut as soon as the request has gone.
    for number in 0..20 {
        let body = json!({"receiver_id": format!("user{number}"), "text": "hi"}).to_string();
        let request = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            server.token("mallory"),
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mallory = server.client("mallory");
    let next = AtomicUsize::new(0);
    eventually("she may begin no other", LIMIT, || async {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let sent = mallory.send(&format!("other{number}"), "hi", None).await;
        sent.is_err_and(|problem| problem.code == "too_many_conversations")
    })
    .await;
    let begun = ok(mallory.get("/v1/conversations")).await.unwrap();
    assert_eq!(begun["conversations"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_and_does_not_come_keeps_nobody_from_sending() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    const ANNOUNCED: usize = 1_500_000;
    let mut held = Vec::new();
    for number in 0..44 {
        let address = ["192.0.2.1", "198.51.100.7"][number % 2];
        let (path, token) = if number < 22 {
            ("/socket.io/?EIO=4&transport=polling", String::new())
        } else {
            (
                "/v1/messages",
                format!("authorization: Bearer {}\r\n", server.token("mallory")),
            )
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nx-forwarded-for: {address}\r\n{token}\
             content-type: application/json\r\ncontent-length: {ANNOUNCED}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let begun = Instant::now();
    for address in ["192.0.2.1", "198.51.100.7", "203.0.113.5"] {
        for text in ["hi".to_owned(), "x".repeat(200_000)] {
            let send = server.client("alice").post("/v1/messages");
            let send = send.header("X-Forwarded-For", address);
            ok(send.json(&json!({"receiver_id": "bob", "text": text})))
                .await
                .unwrap();
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    // The first are of no session, which their heads say; the answer waits for a part of the body.
    for stream in &mut held[..22] {
        let mut status = [0; 12];
        timeout(LIMIT, stream.read_exact(&mut status))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&status, b"HTTP/1.1 400");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stand_still_hold_bounded_memory_on_every_door() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let alice = server.client("alice");
    let text = "\u{1}".repeat(256 << 10);
    for _ in 0..sized(6, 16) {
        alice.send("bob", &text, None).await.unwrap();
    }
    let before = server.memory("VmRSS");
    let readers = sized(30, 60);
    let mut held = Vec::new();
    for _ in 0..readers {
        held.push(unread(&server, "alice", "/v1/messages?with=bob&limit=200").await);
    }
    let mut sockets = Vec::new();
    for _ in 0..readers / 2 {
        let connection = narrow_connection(server.port()).await;
        let mut socket = SocketIo::open_over(connection, &server.url()).await.unwrap();
        socket.log_in(&server.token("alice"), None).await.unwrap();
        for _ in 0..5 {
            socket
                .emit("history", &json!({"with": "bob", "limit": 200}))
                .await
                .unwrap();
        }
        sockets.push(socket);
    }
    // As long as all of it would take to be read from the database and written.
    tokio::time::sleep(Duration::from_secs(sized(3, 10))).await;
    let grown = server.memory("VmHWM").saturating_sub(before) >> 10;
    println!("{readers} readers: from {} to {grown} MiB more", before >> 10);
    // The user's quarter of 64 MiB, what is being read, and what each connection has by itself.
    assert!(grown < 96, "{grown} MiB more");
    ok(server.client("bob").get("/v1/messages?with=alice&limit=200"))
        .await
        .unwrap();
    drop((held, sockets));
}

/// What one reader that stands still may hold, where no message is larger.
const READER: usize = 256_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_holds_at_most_256_kb_on_every_door() {
    let database = Database::fresh(Kind::Sqlite).await;
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let server = Server::start(&database, &[("CHAT_ADMIN_LISTEN", admin.as_str())]).await;
    let alice = server.client("alice");
    let text = "x".repeat(40 << 10);
    for number in 0..15 {
        alice.send(&format!("user{number}"), &text, None).await.unwrap();
        alice.send("bob", &text, None).await.unwrap();
    }
    let history = "/v1/messages?with=bob&limit=200";
    ok(alice.get(history)).await.unwrap();
    let asked = json!({"with": "bob", "limit": 200});

    let readers = sized(5, 20);
    let mut held = Vec::new();
    let mut sockets = Vec::new();
    let doors = ["history", "list", "long poll", "stream", "websocket", "polling"];
    for door in doors {
        let already = metric(port, HELD_OUT).await;
        let before = server.memory("VmRSS");
        for _ in 0..readers {
            match door {
                "history" => held.push(unread(&server, "alice", history).await),
                "list" => held.push(unread(&server, "alice", "/v1/conversations?limit=200").await),
                "long poll" => held.push(unread(&server, "alice", "/v1/events?after=0&wait=0").await),
                "stream" => {
                    held.push(unread_as("text/event-stream", &server, "alice", "/v1/events?after=0").await);
                }
                "websocket" => {
                    let connection = narrow_connection(server.port()).await;
                    let mut socket = SocketIo::open_over(connection, &server.url()).await.unwrap();
                    socket.log_in(&server.token("alice"), Some("0")).await.unwrap();
                    for _ in 0..5 {
                        socket.emit("history", &asked).await.unwrap();
                    }
                    sockets.push(socket);
                }
                _ => {
                    let mut socket = connect(&server, "alice", Transport::Polling).await;
                    for _ in 0..5 {
                        socket.emit("history", &asked).await.unwrap();
                    }
                    let sid = socket.open["sid"].as_str().unwrap();
                    let poll = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
                    held.push(unread(&server, "alice", &poll).await);
                    sockets.push(socket);
                }
            }
        }
        let mut most = 0.0_f64;
        // As long as all of it would take to be read from the database and written.
        let end = Instant::now() + Duration::from_secs(sized(2, 5));
        while Instant::now() < end {
            most = most.max(metric(port, HELD_OUT).await - already);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let grown = (server.memory("VmRSS").saturating_sub(before) << 10) as usize;
        let each = most as usize / readers;
        println!(
            "{door}: {each} bytes held by each reader, {} of memory",
            grown / readers
        );
        assert!((10_000..=READER).contains(&each), "{door}: {each}");
    }
    drop((held, sockets));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_of_nobody_hold_next_to_nothing() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let before = server.memory("VmRSS");
    let sockets = sized(50, 150);
    const FRAME: usize = 1_570_000;
    let opened = join_all((0..sockets).map(|_| async {
        let mut socket = RawSocket::open(&server).await;
        socket.begin_frame(FRAME, &vec![b'x'; FRAME - 1]).await;
        socket
    }));
    let opened = opened.await;
    let grown = server.memory("VmHWM").saturating_sub(before) >> 10;
    println!("{sockets} sockets: from {} to {grown} MiB more", before >> 10);
    assert!(grown < 16, "{grown} MiB more");
    for socket in opened {
        socket.ended().await;
    }
    // A token of 16 kB is no such frame: it is refused for what it is.
    let mut long = RawSocket::open(&server).await;
    let packet = format!(r#"40{{"token":"{}"}}"#, "x".repeat(16_000));
    long.begin_frame(packet.len(), packet.as_bytes()).await;
    long.until("token_invalid").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_users_reads_wait_for_one_another_and_others_pass() {
    let database = Database::fresh(Kind::MariaDb).await;
    let (port, admin) = {
        let port = free_port();
        (port, format!("127.0.0.1:{port}"))
    };
    let settings = [
        ("CHAT_ADMIN_LISTEN", admin.as_str()),
        ("CHAT_NEW_CONVERSATIONS_PER_HOUR", "100000"),
        ("CHAT_SENDS_BURST", "100000"),
    ];
    let server = Server::start(&database, &settings).await;
    let alice = server.client("alice");
    let users: Vec<_> = (0..sized(20, 20_000))
        .map(|number| format!("user{number}"))
        .collect();
    for users in users.chunks(200) {
        let sends = users
            .iter()
            .map(|user| async { alice.send(user, "hi", None).await.unwrap() });
        join_all(sends).await;
    }
    let states = async || {
        let shown = shown_at(port).await;
        ["at_work", "waiting"].map(|state| value(&shown, &format!(r#"chat_reads{{state="{state}"}}"#)))
    };
    assert_eq!(states().await, [0.0, 0.0]);
    let done = AtomicBool::new(false);
    let crowd = async {
        let rounds = (0..60).map(|_| async {
            let mut took = Vec::new();
            for _ in 0..10 {
                let begun = Instant::now();
                ok(alice.get("/v1/conversations?limit=200")).await.unwrap();
                took.push(begun.elapsed());
            }
            took
        });
        let took = join_all(rounds).await.concat();
        done.store(true, Ordering::Relaxed);
        took
    };
    let watch = async {
        let mut most = [0.0_f64; 2];
        let mut took = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let now = states().await;
            most = [most[0].max(now[0]), most[1].max(now[1])];
            let begun = Instant::now();
            ok(server.client("bob").get("/v1/conversations")).await.unwrap();
            took.push(begun.elapsed());
        }
        (most, took)
    };
    let (mut hers, ([at_work, waiting], mut his)) = tokio::join!(crowd, watch);
    hers.sort_unstable();
    his.sort_unstable();
    let (her_median, his_p99) = (hers[hers.len() / 2], his[his.len() * 99 / 100]);
    println!(
        "her median {her_median:?}, his 99th percentile {his_p99:?} of {}",
        his.len()
    );
    // She waits for herself, and he does not wait for her.
    assert!(his_p99 < her_median, "{his_p99:?}, {her_median:?}");
    // A quarter of eight connections for her, and one for him.
    assert!(
        at_work <= 3.0 && waiting > 10.0,
        "{at_work} at work, {waiting} waiting"
    );
    assert_eq!(states().await, [0.0, 0.0]);
}
