//! What one user, one address and all together may take of a node: each limit refuses with its code, says when to come
//! again, touches nobody else, gives back what it took, and shows in the metrics.
//!
//! The tests connect from 127.0.0.1, which is a trusted proxy unless they say otherwise: each address they want, they
//! have by `X-Forwarded-For`.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, Events, Frame, Kind, Problem, Server, eventually, free_port,
    metrics::{shown_at, value},
    ok,
    plain::Plain,
    reply,
    socketio::{Incoming, Refusal, SocketIo, Transport},
};
use futures_util::future::join_all;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(60);

/// As documentation has them (RFC 5737, RFC 3849).
const HERE: &str = "192.0.2.1";
const THERE: &str = "198.51.100.7";

async fn start(settings: &[(&str, &str)]) -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, settings).await;
    (database, server)
}

/// A request for `/v1/events` from an address, or from this machine's own.
fn events_from(server: &Server, user: &str, address: Option<&str>) -> RequestBuilder {
    let request = server.client(user).get("/v1/events");
    match address {
        Some(address) => request.header("X-Forwarded-For", address),
        None => request,
    }
}

/// A stream and the first thing that it said.
async fn stream_from(server: &Server, user: &str, address: Option<&str>) -> (Events, Frame) {
    let mut events = Events::open(events_from(server, user, address)).await.unwrap();
    let first = events.next(LIMIT).await.unwrap();
    (events, first)
}

async fn open(server: &Server, user: &str, address: Option<&str>) -> Events {
    let (events, first) = stream_from(server, user, address).await;
    assert_eq!(first.event, "ready", "{first:?}");
    events
}

async fn is_open_to(server: &Server, user: &str, address: Option<&str>) -> bool {
    stream_from(server, user, address).await.1.event == "ready"
}

/// On both forms of `/v1/events`: a stream that closes at once, and a problem.
async fn assert_full(server: &Server, user: &str, address: Option<&str>) {
    let (mut events, first) = stream_from(server, user, address).await;
    assert_eq!((first.event.as_str(), first.id.as_str()), ("closing", ""));
    assert_eq!(
        first.data,
        json!({"code": "too_many_connections", "retry_after": 5})
    );
    assert_eq!(events.next(LIMIT).await, None);
    let refused = poll_from(server, user, address).await.unwrap_err();
    assert_eq!(
        (refused.status, refused.code.as_str(), refused.retry_after()),
        (503, "too_many_connections", Some(5))
    );
}

async fn poll_from(server: &Server, user: &str, address: Option<&str>) -> Result<Value, Problem> {
    ok(events_from(server, user, address).query(&[("wait", "0")])).await
}

/// A stream, as soon as there is a place for it.
async fn open_at_last(server: &Server, user: &str, address: Option<&str>) -> Events {
    let opened = Mutex::new(None);
    eventually("a place is given back", LIMIT, || async {
        let (events, first) = stream_from(server, user, address).await;
        let ready = first.event == "ready";
        if ready {
            *opened.lock().unwrap() = Some(events);
        }
        ready
    })
    .await;
    opened.into_inner().unwrap().unwrap()
}

/// A long poll that waits, as soon as there is a place for it. Aborted, its connection is cut.
async fn waiting_poll_at_last(server: &Server, admin: u16, user: &str) -> JoinHandle<Result<Value, Problem>> {
    let poll = || {
        let request = events_from(server, user, None).query(&[("wait", "60")]);
        tokio::spawn(ok(request))
    };
    let waiting = Mutex::new(poll());
    eventually("a long poll waits", LIMIT, || async {
        if waiting.lock().unwrap().is_finished() {
            *waiting.lock().unwrap() = poll();
        }
        // One that is refused is counted too, for less than the time between two looks.
        for _ in 0..2 {
            if value(&shown_at(admin).await, r#"chat_connections{door="long_poll"}"#) != 1.0 {
                return false;
            }
        }
        true
    })
    .await;
    waiting.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_sends_too_much_is_let_in_again_after_the_wait() {
    let (_database, server) = start(&[("CHAT_SENDS_PER_SECOND", "1"), ("CHAT_SENDS_BURST", "5")]).await;
    let alice = server.client("alice");
    // All at once, or a slow machine would send no more than it may.
    let sends = (0..100).map(|n| {
        let alice = alice.clone();
        async move { alice.send("bob", &n.to_string(), Some(&format!("key-{n}"))).await }
    });
    let answers = join_all(sends).await;
    let recorded = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((5..100).contains(&recorded), "{recorded} of 100 were recorded");
    let mut wait = 0;
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!((refused.status, refused.code.as_str()), (429, "rate_limited"));
        assert_eq!(refused.body["retry_after"].as_u64(), refused.retry_after());
        wait = wait.max(refused.retry_after().unwrap());
    }
    assert!(wait >= 1);
    let carol = server.client("carol");
    carol.send("bob", "of another user", None).await.unwrap();

    // The promise is about this time and no other.
    tokio::time::sleep(Duration::from_secs(wait)).await;
    alice.send("bob", "after the wait", None).await.unwrap();
    let history = alice.history(&[("with", "bob"), ("limit", "200")]).await.unwrap();
    let messages = history["messages"].as_array().unwrap().len();
    assert_eq!(messages, recorded + 1, "what was refused was not recorded");
    // Reading and receipts are no sends.
    let bob = server.client("bob");
    let last = history["messages"][0]["_id"].as_i64().unwrap();
    for _ in 0..20 {
        bob.receipt("read", last).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_that_is_repeated_counts_as_one() {
    let (_database, server) = start(&[("CHAT_SENDS_PER_SECOND", "1"), ("CHAT_SENDS_BURST", "3")]).await;
    let alice = server.client("alice");
    let first = alice.send("bob", "hi", Some("key")).await.unwrap();
    let mut refused = 0;
    for answer in join_all((0..100).map(|_| alice.send("bob", "hi", Some("key")))).await {
        match answer {
            Ok(again) => assert_eq!(again["_id"], first["_id"]),
            Err(problem) => {
                assert_eq!(problem.code, "rate_limited");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_connections_and_gets_their_places_back() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let (_database, server) =
        start(&[("CHAT_CONNECTIONS_PER_USER", "3"), ("CHAT_ADMIN_LISTEN", &admin)]).await;
    let first = open(&server, "alice", Some(HERE)).await;
    let _second = open(&server, "alice", Some(THERE)).await;
    let third = waiting_poll_at_last(&server, port, "alice").await;
    assert_full(&server, "alice", None).await;
    assert_full(&server, "alice", Some(HERE)).await;
    assert!(is_open_to(&server, "bob", Some(HERE)).await);
    // What needs no connection that stays goes on.
    let alice = server.client("alice");
    alice.send("bob", "hi", None).await.unwrap();
    // The poll has its event, and with it its end.
    let page = third.await.unwrap().unwrap();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);

    let fourth = open_at_last(&server, "alice", None).await;
    assert_full(&server, "alice", None).await;
    drop(fourth);
    let _fifth = open_at_last(&server, "alice", None).await;
    assert_full(&server, "alice", None).await;
    drop(first);
    let sixth = waiting_poll_at_last(&server, port, "alice").await;
    assert_full(&server, "alice", None).await;
    sixth.abort();
    let _seventh = open_at_last(&server, "alice", None).await;
    assert_full(&server, "alice", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_of_all_its_users() {
    let (_database, server) = start(&[("CHAT_CONNECTIONS_PER_ADDRESS", "2")]).await;
    let first = open(&server, "alice", Some(HERE)).await;
    // What a client has written before what the proxy adds says nothing.
    let _second = open(&server, "bob", Some(&format!("{THERE}, {HERE}"))).await;
    assert_full(&server, "carol", Some(HERE)).await;
    assert_full(&server, "alice", Some(&format!("{THERE},{HERE}:4711"))).await;
    assert!(is_open_to(&server, "alice", Some(THERE)).await);
    drop(first);
    open_at_last(&server, "carol", Some(HERE)).await;

    // One network of IPv6 is one address.
    let _third = open(&server, "alice", Some("2001:db8:0:1::1")).await;
    let _fourth = open(&server, "alice", Some("2001:db8:0:1:ffff::2")).await;
    assert_full(&server, "alice", Some("2001:db8:0:1::3")).await;
    assert!(is_open_to(&server, "alice", Some("2001:db8:0:2::1")).await);

    // The proxy's own address is everybody's who comes through one that says nothing.
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(open(&server, "alice", None).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_trusted_proxy_speaks_for_itself_only() {
    let (_database, server) = start(&[
        ("CHAT_CONNECTIONS_PER_ADDRESS", "2"),
        ("CHAT_TRUSTED_PROXIES", ""),
    ])
    .await;
    let first = open(&server, "alice", Some(HERE)).await;
    let _second = open(&server, "bob", Some(THERE)).await;
    assert_full(&server, "carol", Some("203.0.113.5")).await;
    assert_full(&server, "carol", None).await;
    drop(first);
    open_at_last(&server, "carol", None).await;
    let nobody = Client::new(&server.url(), "");
    nobody.get("/v1/conversations").send().await.unwrap();
    eventually("the log names the peer", LIMIT, || async {
        server.log().contains("client.address=127.0.0.1")
    })
    .await;
    assert!(!server.log().contains(HERE), "{}", server.log());
}

/// Requests whose bodies come but for their last byte, each of another user.
async fn endless_bodies(server: &Server, count: usize, address: &str) -> Vec<TcpStream> {
    const BYTES: usize = 26_000;
    let mut streams = Vec::new();
    for number in 0..count {
        let request = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-forwarded-for: {address}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
            server.token(&format!("mallory{number}")),
            BYTES + 1,
            "x".repeat(BYTES),
        );
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        // One for which there is no room is refused while it comes.
        let _ = stream.write_all(request.as_bytes()).await;
        streams.push(stream);
    }
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refusal_shows_in_the_metrics() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let settings = [
        ("CHAT_ADMIN_LISTEN", admin.as_str()),
        // Four of the largest bodies (six times this and 4096) fit, a quarter for each user.
        ("CHAT_CONTENT_LIMIT", "40960"),
        ("CHAT_BODIES_LIMIT", "1048576"),
        ("CHAT_CONNECTIONS_PER_USER", "1"),
        ("CHAT_CONNECTIONS_PER_ADDRESS", "1"),
        ("CHAT_SENDS_PER_SECOND", "1"),
        ("CHAT_SENDS_BURST", "1"),
    ];
    let (_database, mut server) = start(&settings).await;
    let rejections = async |code: &str, door: &str| {
        let name = format!(r#"chat_rejections_total{{code="{code}",door="{door}"}}"#);
        value(&shown_at(port).await, &name)
    };

    // A user, then an address.
    let held = open(&server, "alice", Some(HERE)).await;
    assert_full(&server, "alice", Some(THERE)).await;
    assert_full(&server, "bob", Some(HERE)).await;
    for door in ["sse", "long_poll"] {
        assert_eq!(rejections("too_many_connections", door).await, 2.0, "{door}");
    }
    assert_eq!(
        value(&shown_at(port).await, r#"chat_connections{door="sse"}"#),
        1.0
    );
    drop(held);
    eventually("the stream is not counted any more", LIMIT, || async {
        value(&shown_at(port).await, r#"chat_connections{door="sse"}"#) == 0.0
    })
    .await;

    let alice = server.client("alice");
    let answers = join_all((0..10).map(|_| alice.send("bob", "hi", None))).await;
    let refused = answers.into_iter().filter_map(Result::err);
    let refused = refused.filter(|problem| problem.code == "rate_limited").count();
    assert!(refused >= 3, "{refused} of 10");
    assert_eq!(rejections("rate_limited", "rest").await, refused as f64);
    assert!(value(&shown_at(port).await, "chat_sends_total") >= 1.0);

    for path in ["/v1/conversations", "/v1/events"] {
        let request = server
            .client("alice")
            .get(path)
            .header("x-large", "x".repeat(17 << 10));
        let answer = reply(request).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (431, &json!("headers_too_large"))
        );
    }
    for door in ["rest", "long_poll"] {
        assert_eq!(rejections("headers_too_large", door).await, 1.0, "{door}");
    }

    // Bodies take room as they come. An address has half of it, in which 54 of these fit.
    let mut held = Vec::new();
    // Of bodies that come piece by piece some are refused in the middle, and leave room for others.
    let fill = async |held: &mut Vec<TcpStream>, address: &str, bytes: f64| {
        let end = Instant::now() + LIMIT;
        while value(&shown_at(port).await, r#"chat_held_bytes{way="in"}"#) < bytes {
            assert!(Instant::now() < end, "the room of {address} is not taken");
            held.extend(endless_bodies(&server, 10, address).await);
            sleep(Duration::from_millis(20)).await;
        }
    };
    fill(&mut held, HERE, 519_000.0).await;
    let mut users = 0;
    let mut send_from = |address| {
        users += 1;
        let client = server.client(&format!("user{users}"));
        let send = client.post("/v1/messages").header("X-Forwarded-For", address);
        ok(send.json(&json!({"receiver_id": "bob", "text": "x".repeat(40_000)})))
    };
    let is_refused = |sent: Result<Value, Problem>| match sent {
        Ok(_) => false,
        Err(problem) => {
            let refusal = (problem.status, problem.code.as_str(), problem.retry_after());
            assert_eq!(refusal, (503, "overloaded", Some(1)));
            true
        }
    };
    eventually("no place is left for a body from there", LIMIT, || {
        let sent = send_from(HERE);
        async move { is_refused(sent.await) }
    })
    .await;
    send_from(THERE).await.unwrap();
    fill(&mut held, THERE, 1_038_000.0).await;
    eventually("no place is left for a body", LIMIT, || {
        let sent = send_from("203.0.113.5");
        async move { is_refused(sent.await) }
    })
    .await;
    assert!(rejections("overloaded", "rest").await >= 1.0);
    // What is small passes all the same.
    let small = server
        .client("small")
        .post("/v1/messages")
        .header("X-Forwarded-For", HERE);
    ok(small.json(&json!({"receiver_id": "bob", "text": "hi"})))
        .await
        .unwrap();
    drop(held);
    for address in [HERE, THERE, "203.0.113.5"] {
        eventually("the places of bodies that were cut are free", LIMIT, || {
            let sent = send_from(address);
            async move { sent.await.is_ok() }
        })
        .await;
    }

    let nobody = Client::new(&server.url(), "").get("/v1/messages");
    assert_eq!(reply(nobody).await.status, 401);
    assert_eq!(rejections("token_missing", "rest").await, 1.0);
    let shown = shown_at(port).await;
    for private in ["alice", HERE, "/v1/"] {
        assert!(!shown.contains(private), "{private} in {shown}");
    }
    // The operator's listener ends with the rest.
    server.stop().await;
}

const TRANSPORTS: [Transport; 2] = [Transport::Websocket, Transport::Polling];

/// A socket and the first event that it is sent.
async fn socket_of(
    server: &Server,
    user: &str,
    transport: Transport,
) -> Result<(SocketIo, String, Value), Refusal> {
    let mut socket = SocketIo::connect(transport, &server.url(), &server.token(user), None).await?;
    let (name, data) = socket.event(LIMIT).await;
    Ok((socket, name, data))
}

async fn open_socket(server: &Server, user: &str, transport: Transport) -> SocketIo {
    let (socket, name, data) = socket_of(server, user, transport).await.unwrap();
    assert_eq!(name, "ready", "{data}");
    socket
}

/// A socket, as soon as there is a place for it.
async fn open_socket_at_last(server: &Server, user: &str, transport: Transport) -> SocketIo {
    let opened = Mutex::new(None);
    eventually("a place is given back", LIMIT, || async {
        match socket_of(server, user, transport).await {
            Ok((socket, name, _)) if name == "ready" => *opened.lock().unwrap() = Some(socket),
            _ => return false,
        }
        true
    })
    .await;
    opened.into_inner().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_a_user_count_with_the_streams() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let (_database, server) =
        start(&[("CHAT_CONNECTIONS_PER_USER", "3"), ("CHAT_ADMIN_LISTEN", &admin)]).await;
    let _stream = open(&server, "alice", None).await;
    let websocket = open_socket(&server, "alice", Transport::Websocket).await;
    let mut polling = open_socket(&server, "alice", Transport::Polling).await;
    let sockets = r#"chat_connections{door="socket_io"}"#;
    assert_eq!(value(&shown_at(port).await, sockets), 2.0);

    let are_full = async {
        assert_full(&server, "alice", None).await;
        for transport in TRANSPORTS {
            let begun = Instant::now();
            let (mut refused, name, data) = socket_of(&server, "alice", transport).await.unwrap();
            assert_eq!(
                (name.as_str(), data),
                (
                    "closing",
                    json!({"code": "too_many_connections", "retry_after": 5})
                ),
                "{transport:?}"
            );
            // Without a DISCONNECT, after which clients would stay away.
            assert_eq!(refused.next().await, None, "{transport:?}");
            // Whoever does not keep to `retry_after` by himself comes back from the connection's end within a second.
            assert!(begun.elapsed() >= Duration::from_secs(5), "{transport:?}");
            drop(open_socket(&server, "bob", transport).await);
        }
        let rejections = r#"chat_rejections_total{code="too_many_connections",door="socket_io"}"#;
        assert_eq!(value(&shown_at(port).await, rejections), 2.0);

        // A connection that breaks, and a session that its client ends.
        drop(websocket);
        let websocket = open_socket_at_last(&server, "alice", Transport::Websocket).await;
        assert_full(&server, "alice", None).await;
        websocket
    };
    // A poll hangs on the session all the while: one that is left behind would give its place.
    let polls = async { while polling.next().await.is_some() {} };
    let _websocket = tokio::select! {
        websocket = are_full => websocket,
        () = polls => panic!("the session goes on"),
    };
    assert!(polling.write("1").await);
    let _polling = open_socket_at_last(&server, "alice", Transport::Polling).await;
    assert_full(&server, "alice", None).await;
}

/// The official client comes back by itself from whatever ends its connection, and takes one that opened for a success.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_socket_io_beyond_its_limit_comes_back_as_seldom_as_it_is_told_to() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let (_database, mut server) =
        start(&[("CHAT_CONNECTIONS_PER_USER", "1"), ("CHAT_ADMIN_LISTEN", &admin)]).await;
    let held = open(&server, "alice", None).await;
    let client = Plain::socket(&server, "alice", server.port(), &["follow"]).await;
    let rejections = async || {
        let name = r#"chat_rejections_total{code="too_many_connections",door="socket_io"}"#;
        value(&shown_at(port).await, name)
    };
    eventually("it was refused", LIMIT, || async { rejections().await >= 1.0 }).await;
    // The promise is about this time: with five seconds between two tries, and one more of the client's own.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let tries = rejections().await;
    assert!((2.0..=3.0).contains(&tries), "{tries} times in 12 seconds");
    // It is let in once there is a place.
    drop(held);
    client.wait_for("ready", 1, LIMIT).await;
    drop(client);

    // One that is told to stay away does not keep the server from stopping.
    let _held = open_at_last(&server, "alice", None).await;
    let refused = socket_of(&server, "alice", Transport::Websocket).await.unwrap();
    assert_eq!(refused.1, "closing");
    let begun = Instant::now();
    server.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// A connection from an address of this machine's, of which there are many.
async fn connect_from(address: &str, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
}

/// The status of the answer to a request, or none where the connection ends without one.
async fn status_of(stream: &mut TcpStream, request: &str) -> Option<u16> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    head.split(' ').nth(1)?.parse().ok()
}

/// Refused for want of a token where there is a place.
const ASK: &str = "GET /v1/conversations HTTP/1.1\r\nHost: x\r\n\r\n";

/// With a proxy's address, which is not limited, and without: what is idle makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_have_asked_and_say_nothing_keep_nobody_out() {
    const PLACES: usize = 240;
    for trusted in ["", "127.0.0.0/8"] {
        let port = free_port();
        let (_database, server) = start(&[
            ("CHAT_CONNECTIONS", &PLACES.to_string()),
            ("CHAT_TRUSTED_PROXIES", trusted),
            ("CHAT_ADMIN_LISTEN", &format!("127.0.0.1:{port}")),
        ])
        .await;
        let mut crowd = Vec::new();
        for number in 0..2 * PLACES {
            let mut stream = connect_from("127.0.0.1", server.port()).await;
            // Each second one does not even ask.
            if number % 2 == 0 {
                assert_eq!(status_of(&mut stream, ASK).await, Some(401), "{number}");
            }
            crowd.push(stream);
        }
        for address in ["127.0.0.2", "127.0.0.3", "127.0.0.1"] {
            let begun = Instant::now();
            let mut stream = connect_from(address, server.port()).await;
            assert_eq!(status_of(&mut stream, ASK).await, Some(401), "{address}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
        let shown = shown_at(port).await;
        assert!(value(&shown, r#"chat_connections_cut_total{reason="made_room"}"#) >= PLACES as f64);
        let open = value(&shown, "chat_open_connections");
        let most = if trusted.is_empty() {
            PLACES / 2 + 2
        } else {
            PLACES
        };
        assert!(open <= most as f64, "{open} of {most}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_half_of_all_places_whatever_it_does_with_them() {
    const PLACES: usize = 20;
    let (_database, server) = start(&[
        ("CHAT_CONNECTIONS", &PLACES.to_string()),
        ("CHAT_TRUSTED_PROXIES", ""),
    ])
    .await;
    let request = |user: &str| {
        let token = server.token(user);
        format!(
            "GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
    };
    // Streams, and requests whose bodies do not come.
    let body = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\
         Expect: 100-continue\r\nAuthorization: Bearer {}\r\n\r\n",
        server.token("mallory")
    );
    let mut held = Vec::new();
    for number in 0..PLACES / 2 {
        let mut stream = connect_from("127.0.0.1", server.port()).await;
        if number % 2 == 0 {
            assert_eq!(status_of(&mut stream, &request("mallory")).await, Some(200));
        } else {
            // Until a request is read, its connection makes room.
            assert_eq!(status_of(&mut stream, &body).await, Some(100));
        }
        held.push(stream);
    }
    eventually("there is no other from there", LIMIT, || async {
        let mut stream = connect_from("127.0.0.1", server.port()).await;
        status_of(&mut stream, ASK).await == Some(503)
    })
    .await;
    for number in 0..PLACES / 2 {
        let mut stream = connect_from("127.0.0.2", server.port()).await;
        assert_eq!(
            status_of(&mut stream, &request("alice")).await,
            Some(200),
            "{number}"
        );
        held.push(stream);
    }
}

/// Pipelined on one connection, with as much in each request as a head takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_write_a_line_a_second_and_never_all_that_was_asked() {
    const REQUESTS: usize = 300;
    let (_database, server) = start(&[("CHAT_TRUSTED_PROXIES", "")]).await;
    let begun = Instant::now();
    let refused = [
        (404, format!("GET /{} HTTP/1.1", "a".repeat(15_500))),
        (401, format!("GET /v1/messages/{} HTTP/1.1", "1".repeat(15_000))),
        (405, format!("{} /v1/messages HTTP/1.1", "M".repeat(15_000))),
        (431, format!("GET /{} HTTP/1.1", "a".repeat(20_000))),
        (400, format!("GET /docs/%FF{} HTTP/1.1", "a".repeat(15_000))),
    ];
    for (status, line) in &refused {
        let request = format!("{line}\r\nHost: x\r\n\r\n");
        let mut stream = connect_from("127.0.0.9", server.port()).await;
        let (mut reading, mut writing) = stream.split();
        let write = async {
            for _ in 0..REQUESTS {
                writing.write_all(request.as_bytes()).await.unwrap();
            }
        };
        let read = async {
            let (mut text, mut answers) = (Vec::new(), 0);
            while answers < REQUESTS {
                assert!(reading.read_buf(&mut text).await.unwrap() > 0);
                answers = String::from_utf8_lossy(&text).matches("HTTP/1.1 ").count();
            }
            String::from_utf8_lossy(&text)
                .matches(&format!("HTTP/1.1 {status}"))
                .count()
        };
        assert_eq!(tokio::join!(read, write).0, REQUESTS, "{status}");
    }
    // All of them are there, in sums; what nobody finds is not.
    let count = || {
        let log = server.log();
        let ours = || log.lines().filter(|line| line.contains("127.0.0.9"));
        let sums = ours().filter_map(|line| {
            let (_, sum) = line.split_once("refusals=")?;
            sum.split(' ').next()?.parse::<usize>().ok()
        });
        let alone = ours().filter(|line| line.contains("method=")).count();
        sums.sum::<usize>() + alone
    };
    let counted = (refused.len() - 1) * REQUESTS;
    eventually("all are counted", LIMIT, || async { count() >= counted }).await;
    assert_eq!(count(), counted);
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("127.0.0.9")).collect();
    let most = begun.elapsed().as_secs() as usize + 3;
    assert!(lines.len() <= most, "{} lines, {most} at most", lines.len());
    assert!(lines.iter().all(|line| line.len() < 1000), "{lines:?}");
    assert!(!log.contains("status=404"));

    // Whoever looks for one of them has the debug log, where a line is short as well.
    let (_database, server) = start(&[("CHAT_LOG", "debug")]).await;
    for (_, line) in &refused {
        let mut stream = connect_from("127.0.0.1", server.port()).await;
        let request = format!("{line}\r\nHost: x\r\n\r\n");
        assert!(status_of(&mut stream, &request).await.is_some());
    }
    let log = server.log();
    assert!(log.contains("status=404") && log.contains("a…"), "{log}");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest < 1000, "{longest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_gone_without_a_word_gives_its_place_back() {
    let each = TRANSPORTS.map(|transport| async move {
        let (_database, server) = start(&[
            ("CHAT_CONNECTIONS_PER_USER", "1"),
            ("CHAT_PING_INTERVAL_S", "1"),
            ("CHAT_PING_TIMEOUT_S", "10"),
        ])
        .await;
        // It is not read from, so no ping is answered, and its connection stays.
        let _silent = open_socket(&server, "alice", transport).await;
        assert_full(&server, "alice", None).await;
        open_at_last(&server, "alice", None).await;
    });
    join_all(each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_of_an_address_are_refused_at_the_handshake() {
    let (_database, server) = start(&[
        ("CHAT_CONNECTIONS_PER_ADDRESS", "2"),
        ("CHAT_TRUSTED_PROXIES", ""),
    ])
    .await;
    for held_by in TRANSPORTS {
        // One of somebody, and one of nobody yet.
        let somebody = open_at_last(&server, "alice", None).await;
        let nobody = Mutex::new(None);
        eventually("a place is given back", LIMIT, || async {
            let opened = SocketIo::open(held_by, &server.url()).await;
            let opened = opened.map(|socket| *nobody.lock().unwrap() = Some(socket));
            opened.is_ok()
        })
        .await;
        for transport in TRANSPORTS {
            let refused = SocketIo::open(transport, &server.url()).await.map(|_| ());
            let Refusal { status, body } = refused.unwrap_err();
            assert_eq!(
                (status, &body["code"], &body["retry_after"]),
                (503, &json!("too_many_connections"), &json!(5)),
                "{transport:?}"
            );
        }
        assert_full(&server, "bob", None).await;
        drop(somebody);
        let mut bob = open_socket_at_last(&server, "bob", held_by).await;
        // Polling has no connection that could break.
        let mut nobody = nobody.into_inner().unwrap().unwrap();
        assert!(bob.write("1").await && nobody.write("1").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_sends_on_a_socket_counts_with_the_rest() {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let (_database, server) = start(&[
        ("CHAT_SENDS_PER_SECOND", "1"),
        ("CHAT_SENDS_BURST", "5"),
        ("CHAT_ADMIN_LISTEN", &admin),
    ])
    .await;
    let mut socket = open_socket(&server, "alice", Transport::Websocket).await;
    // All at once, or a slow machine would send no more than it may.
    for n in 0..50 {
        let send = json!({"receiver_id": "bob", "text": n.to_string()});
        socket.emit("send", &send).await.unwrap();
    }
    let (mut recorded, mut refused) = (0, 0);
    while recorded + refused < 50 {
        let incoming = timeout(LIMIT, socket.next()).await.unwrap();
        let Incoming::Ack { data: ack, .. } = incoming.unwrap() else {
            continue;
        };
        if ack["result"].is_object() {
            recorded += 1;
            continue;
        }
        let problem = &ack["problem"];
        assert_eq!(
            (&problem["code"], &problem["status"], &problem["retry_after"]),
            (&json!("rate_limited"), &json!(429), &json!(1))
        );
        refused += 1;
    }
    assert!(recorded >= 5 && refused > 0, "{recorded} and {refused}");
    let rejections = r#"chat_rejections_total{code="rate_limited",door="socket_io"}"#;
    assert_eq!(value(&shown_at(port).await, rejections), f64::from(refused));

    // The same limit on both doors: in a row of sends without pause one is refused, and was not on its own.
    let alice = server.client("alice");
    let rest = join_all((0..20).map(|_| alice.send("bob", "by REST", None))).await;
    assert!(rest.iter().any(Result::is_err), "{rest:?}");
    // What is no send is not limited.
    for _ in 0..20 {
        let ack = socket.ask("conversations", &json!({})).await.unwrap();
        assert!(ack["result"].is_object(), "{ack}");
    }
    // The promise is about this time and no other.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let send = json!({"receiver_id": "bob", "text": "after the wait"});
    let ack = socket.ask("send", &send).await.unwrap();
    assert!(ack["result"].is_object(), "{ack}");
}
