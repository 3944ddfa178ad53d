//! Behind real proxies: nginx with the file that is shipped, nginx as it comes out of its box, and HAProxy.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, Kind, Reply, Server,
    front::{Configuration, Front},
    listener::{Door, Listener, Step},
    reply,
    server::{now, token},
    socketio::{SocketIo, Transport},
};
use futures_util::{StreamExt, future::join_all};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING},
};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// So that a heartbeat comes while one waits for it.
const SETTINGS: &[(&str, &str)] = &[("CHAT_HEARTBEAT_S", "1")];

/// Polling needs one node, or a proxy that keeps an address with its node.
async fn two_nodes() -> (Database, Server, Server) {
    let database = Database::fresh(Kind::MariaDb).await;
    let one = Server::start(&database, SETTINGS).await;
    let other = Server::start(&database, SETTINGS).await;
    (database, one, other)
}

async fn events_pass_in_order_while_the_connection_is_open(configuration: Configuration, door: Door) {
    const EVENTS: usize = 100;
    let (_database, one, other) = two_nodes().await;
    let sticky = configuration.is_sticky() || door != Door::Polling;
    let nodes = if sticky { vec![&one, &other] } else { vec![&one] };
    let nginx = Front::start(configuration, &nodes).await;
    let mut listener = Listener::connect(door, &nginx.url(), &one.token("alice"), None)
        .await
        .unwrap();
    let bob = one.client("bob");
    let first = bob.send("alice", "first", None).await.unwrap();
    assert_eq!(listener.event(LIMIT).await["message"]["_id"], first["_id"]);

    // Somebody else's event moves the cursor of a quiet user on.
    let before = listener.cursor().to_string();
    bob.send("carol", "not for alice", None).await.unwrap();
    loop {
        match tokio::time::timeout(LIMIT, listener.next()).await.unwrap() {
            Some(Step::Passed) if listener.cursor() != before => break,
            Some(Step::Passed) => {}
            other => panic!("{other:?}"),
        }
    }

    let through = chat_tests::Client::new(&nginx.url(), &one.token("bob"));
    let mut sent = Vec::new();
    for number in 0..EVENTS {
        let message = through.send("alice", &number.to_string(), None).await.unwrap();
        sent.push(message["_id"].clone());
    }
    let mut seen = Vec::new();
    while seen.len() < EVENTS {
        seen.push(listener.event(LIMIT).await["message"]["_id"].clone());
    }
    assert_eq!(seen, sent, "each once and in order");
    assert_eq!(listener.lost, 0, "nothing went missing on the way");
}

macro_rules! through_each_configuration {
    ($($name:ident: $door:expr,)+) => {$(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn shipped() {
                events_pass_in_order_while_the_connection_is_open(Configuration::Shipped, $door).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn default() {
                events_pass_in_order_while_the_connection_is_open(Configuration::Default, $door).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn haproxy() {
                events_pass_in_order_while_the_connection_is_open(Configuration::HaProxy, $door).await;
            }
        }
    )+};
}

through_each_configuration! {
    streams_pass: Door::Stream,
    long_polls_pass: Door::LongPoll,
    websockets_pass: Door::Websocket,
    polling_passes: Door::Polling,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_session_stays_on_its_node_through_the_shipped_file_alone() {
    const SESSIONS: usize = 8;
    const ASKED: usize = 20;
    let (_database, one, other) = two_nodes().await;
    let nodes = [&one, &other];

    let shipped = Front::start(Configuration::Shipped, &nodes).await;
    let sessions = (0..SESSIONS).map(|_| async {
        let socket = SocketIo::connect(Transport::Polling, &shipped.url(), &one.token("alice"), None).await;
        let mut socket = socket.unwrap();
        for number in 0..ASKED {
            let send = json!({"receiver_id": "bob", "text": number.to_string()});
            let ack = socket.ask("send", &send).await.expect("the session goes on");
            assert_eq!(ack["result"]["text"], number.to_string(), "{ack}");
        }
    });
    join_all(sessions).await;

    // Round robin sends each second request to the node that does not know the session.
    let default = Front::start(Configuration::Default, &nodes).await;
    let socket = SocketIo::open(Transport::Polling, &default.url()).await.unwrap();
    let sid = socket.open["sid"].as_str().unwrap();
    let mut refused = 0;
    for _ in 0..6 {
        let url = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
        let client = chat_tests::Client::new(&default.url(), "");
        let answer = chat_tests::reply(client.post(&url).body("3")).await;
        if answer.status == 400 {
            assert_eq!(answer.body["message"], "Session ID unknown", "{answer:?}");
            refused += 1;
        }
    }
    assert!(refused > 0, "round robin met the other node");
}

/// nginx compresses all that it may, and the client offers it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_streams_is_compressed_by_the_shipped_file() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, SETTINGS).await;
    let nginx = Front::start(Configuration::Shipped, &[&server]).await;
    let client = chat_tests::Client::new(&nginx.url(), &server.token("alice"));
    let encoding = |headers: &reqwest::header::HeaderMap| headers.get(CONTENT_ENCODING).cloned();

    let page = client.get("/openapi.json").header(ACCEPT_ENCODING, "gzip");
    let page = page.send().await.unwrap();
    assert_eq!(
        encoding(page.headers()).unwrap(),
        "gzip",
        "this nginx does compress"
    );

    let stream = client.get("/v1/events").header(ACCEPT_ENCODING, "gzip");
    let stream = stream.header(ACCEPT, "text/event-stream").send().await.unwrap();
    assert_eq!(encoding(stream.headers()), None);
    let first = stream.bytes_stream().next().await.unwrap().unwrap();
    assert!(first.starts_with(b"retry:"), "{first:?}");

    for path in ["/v1/events?wait=0", "/socket.io/?EIO=4&transport=polling"] {
        let answer = client
            .get(path)
            .header(ACCEPT_ENCODING, "gzip")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (answer.status(), encoding(answer.headers())),
            (StatusCode::OK, None),
            "{path}"
        );
    }
}

/// nginx's own defaults with compression of all types: what is said arrives when it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_passes_a_proxy_that_compresses() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, SETTINGS).await;
    let nginx = Front::start(Configuration::Default, &[&server]).await;
    let client = chat_tests::Client::new(&nginx.url(), &server.token("alice"));
    let stream = client.get("/v1/events").header(ACCEPT_ENCODING, "gzip");
    let stream = stream.header(ACCEPT, "text/event-stream").send().await.unwrap();
    eprintln!("content-encoding: {:?}", stream.headers().get(CONTENT_ENCODING));
    let mut chunks = stream.bytes_stream();
    for number in 0..5 {
        let begun = Instant::now();
        let chunk = tokio::time::timeout(LIMIT, chunks.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(!chunk.is_empty(), "chunk {number} after {:?}", begun.elapsed());
    }
}

/// A token in the query of a stream is in no log of the shipped configuration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_file_logs_no_token() {
    let database = Database::fresh(Kind::Sqlite).await;
    let mut server = Server::start(&database, SETTINGS).await;
    let nginx = Front::start(Configuration::Shipped, &[&server]).await;
    let token = server.token("alice");
    let path = format!("/v1/events?access_token={token}&wait=0");
    let client = chat_tests::Client::new(&nginx.url(), "");
    assert_eq!(chat_tests::reply(client.get(&path)).await.status, 200);
    // An error is where nginx names the request.
    server.kill9().await;
    assert_eq!(chat_tests::reply(client.get(&path)).await.status, 502);
    chat_tests::eventually("both are logged", LIMIT, || async {
        nginx.log().matches("GET /v1/events").count() >= 2
    })
    .await;
    let signature = token.rsplit('.').next().unwrap();
    assert!(!nginx.log().contains(signature), "{}", nginx.log());
}

/// What is refused before its body is read, each with its status and its code; with tokens that are good elsewhere.
fn refused_uploads(client: &str, server: &Server, size: usize) -> Vec<(RequestBuilder, u16, &'static str)> {
    let body = json!({"receiver_id": "bob", "text": "x".repeat(size - 100)}).to_string();
    let post = |token: &str, path: &str| Client::new(client, token).post(path);
    let json = |request: RequestBuilder| request.header("Content-Type", "application/json");
    let good = server.token("mallory");
    let expired = token(&json!({"sub": "mallory", "exp": now() - 60}));
    let (head, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{head}.{}", "A".repeat(43));
    let other_method = Client::new(client, &good).request(Method::PUT, "/v1/messages");
    [
        (json(post("", "/v1/messages")), 401, "token_missing"),
        (json(post(&expired, "/v1/messages")), 401, "token_expired"),
        (json(post(&forged, "/v1/messages")), 401, "token_invalid"),
        (json(post(&good, "/nope")), 404, "route_not_found"),
        (json(other_method), 405, "method_not_allowed"),
        (
            post(&good, "/v1/messages").header("Content-Type", "text/plain"),
            415,
            "media_type_unsupported",
        ),
        (
            json(post(&good, "/v1/messages")).header("Idempotency-Key", "k".repeat(65)),
            400,
            "key_invalid",
        ),
    ]
    .map(|(request, status, code)| (request.body(body.clone()), status, code))
    .into()
}

/// Somebody's uploads are refused, over and over, while somebody else sends: each hears what a node has to say to it.
async fn refused_uploads_disturb_nobody(configuration: Option<Configuration>, sizes: &[usize]) {
    const ROUNDS: usize = 4;
    let (_database, one, other) = two_nodes().await;
    let front = match configuration {
        Some(configuration) => Some(Front::start(configuration, &[&one, &other]).await),
        None => None,
    };
    let url = front.as_ref().map_or_else(|| one.url(), Front::url);
    let done = AtomicBool::new(false);
    let refused = async {
        for size in sizes {
            for _ in 0..ROUNDS {
                let uploads = refused_uploads(&url, &one, *size);
                let answers = uploads.into_iter().map(|(request, status, code)| async move {
                    let answer = reply(request).await;
                    assert_eq!(
                        (answer.status, answer.body["code"].as_str().unwrap_or_default()),
                        (status, code),
                        "{size} bytes: {answer:?}"
                    );
                });
                join_all(answers).await;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let good = async {
        let client = Client::new(&url, &one.token("alice"));
        let mut sent = 0;
        while !done.load(Ordering::Relaxed) || sent < 50 {
            let answer = client.send("bob", "all the while", None).await;
            answer.unwrap_or_else(|problem| panic!("after {sent}: {problem:?}"));
            sent += 1;
        }
    };
    tokio::join!(refused, good);
    if let Some(front) = &front {
        assert!(!front.log().contains(" 502 "), "{}", front.log());
    }
}

mod refused_uploads_disturb_nobody {
    use super::*;

    /// The largest that the shipped file passes on, and one that fits into no buffer of a proxy.
    const SIZES: [usize; 2] = [20_000, 1_900_000];

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn shipped() {
        refused_uploads_disturb_nobody(Some(Configuration::Shipped), &SIZES).await;
    }

    /// It passes on one megabyte.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn default() {
        refused_uploads_disturb_nobody(Some(Configuration::Default), &[20_000, 900_000]).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn haproxy() {
        refused_uploads_disturb_nobody(Some(Configuration::HaProxy), &SIZES).await;
    }

    /// A client that keeps its connections, without a proxy.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn straight() {
        refused_uploads_disturb_nobody(None, &SIZES).await;
    }
}

/// A body that is larger than what a node reads of it: the answer comes early, and comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_body_has_ended_reaches_its_client() {
    let (_database, one, other) = two_nodes().await;
    let shipped = Front::start(Configuration::Shipped, &[&one, &other]).await;
    let haproxy = Front::start(Configuration::HaProxy, &[&one, &other]).await;
    let too_large = |answer: &Reply| (answer.status, answer.body["code"].clone());
    for url in [one.url(), shipped.url(), haproxy.url()] {
        let client = Client::new(&url, &one.token("alice"));
        for _ in 0..5 {
            let text = "x".repeat(6_000_000);
            let send = client
                .post("/v1/messages")
                .json(&json!({"receiver_id": "bob", "text": text}));
            let answer = reply(send).await;
            assert_eq!(
                too_large(&answer),
                (413, json!("body_too_large")),
                "{url}: {answer:?}"
            );
            client.send("bob", "afterwards", None).await.unwrap();
        }
    }
}

/// Connections that nobody needs for a while are there, or are made anew, when somebody does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_after_a_silence_find_a_connection() {
    let (_database, one, other) = two_nodes().await;
    let mut fronts = Vec::new();
    for configuration in Configuration::ALL {
        fronts.push(Front::start(configuration, &[&one, &other]).await);
    }
    let clients = fronts.iter().map(|front| {
        let client = Client::new(&front.url(), &one.token("alice"));
        async move {
            for silence in [0, 1, 3] {
                // The silence is what this is about.
                tokio::time::sleep(Duration::from_secs(silence)).await;
                let sends = (0..20).map(|_| client.send("bob", "hi", None));
                for sent in join_all(sends).await {
                    sent.unwrap();
                }
            }
        }
    });
    join_all(clients).await;
}

/// A token with so many bytes of claims that nobody reads.
fn large_token(user: &str, bytes: usize) -> String {
    let groups = "g".repeat(bytes * 3 / 4 - 100);
    token(&json!({"sub": user, "exp": now() + 600, "groups": groups}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_12_kb_passes_on_each_door() {
    let (_database, one, other) = two_nodes().await;
    let token = large_token("alice", 12 << 10);
    assert!((12_000..13_000).contains(&token.len()), "{}", token.len());
    for configuration in [Configuration::Shipped, Configuration::HaProxy] {
        let front = Front::start(configuration, &[&one, &other]).await;
        let client = Client::new(&front.url(), &token);
        let mut listeners = Vec::new();
        for door in Door::ALL {
            let listener = Listener::connect(door, &front.url(), &token, None).await;
            listeners.push(listener.unwrap_or_else(|error| panic!("{configuration:?}, {door:?}: {error:?}")));
        }
        let sent = client.send("bob", "hi", None).await.unwrap();
        for listener in &mut listeners {
            assert_eq!(listener.event(LIMIT).await["message"]["_id"], sent["_id"]);
        }
        // In the address, as a browser's stream has it.
        let nobody = Client::new(&front.url(), "");
        let page = reply(nobody.get(&format!("/v1/events?wait=0&access_token={token}"))).await;
        assert_eq!(page.status, 200, "{configuration:?}: {page:?}");
    }
    // The defaults of nginx do not take it; the docs say so.
    let default = Front::start(Configuration::Default, &[&one, &other]).await;
    let refused = reply(Client::new(&default.url(), &token).get("/v1/conversations")).await;
    assert_eq!(refused.status, 400);
}

/// By a node where it gets there, else by the proxy in a node's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_a_head_or_a_body_is_a_problem_through_the_shipped_file() {
    let (_database, one, other) = two_nodes().await;
    let front = Front::start(Configuration::Shipped, &[&one, &other]).await;
    for bytes in [17 << 10, 28 << 10, 40 << 10] {
        let client = Client::new(&front.url(), &large_token("alice", bytes));
        let path = format!("/v1/events?access_token={}", "x".repeat(bytes));
        for request in [
            client.get("/v1/conversations"),
            Client::new(&front.url(), "").get(&path),
        ] {
            let answer = reply(request).await;
            assert_eq!(
                (answer.status, answer.content_type(), &answer.body["code"]),
                (431, "application/problem+json", &json!("headers_too_large")),
                "{bytes} bytes: {answer:?}"
            );
        }
    }
    let client = Client::new(&front.url(), &one.token("alice"));
    let text = "x".repeat(3 << 20);
    let answer = reply(
        client
            .post("/v1/messages")
            .json(&json!({"receiver_id": "bob", "text": text})),
    )
    .await;
    assert_eq!(
        (answer.status, answer.content_type(), &answer.body["code"]),
        (413, "application/problem+json", &json!("body_too_large")),
        "{answer:?}"
    );
}

/// With one node gone, and the other one there, nobody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_gone_is_passed_by() {
    let (_database, one, mut other) = two_nodes().await;
    let fronts = [Configuration::Shipped, Configuration::HaProxy];
    let nodes = [&one, &other];
    let fronts = join_all(fronts.map(|configuration| Front::start(configuration, &nodes))).await;
    other.kill9().await;
    for front in &fronts {
        let client = Client::new(&front.url(), &one.token("alice"));
        for _ in 0..50 {
            client.send("bob", "hi", None).await.unwrap();
        }
    }
}
