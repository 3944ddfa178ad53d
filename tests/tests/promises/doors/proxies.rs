//! Behind a real nginx: with the file that is shipped, and with nginx as it comes out of its box.

use std::time::{Duration, Instant};

use chat_tests::{
    Database, Kind, Server,
    listener::{Door, Listener, Step},
    nginx::{Configuration, Nginx},
    socketio::{SocketIo, Transport},
};
use futures_util::{StreamExt, future::join_all};
use reqwest::{
    StatusCode,
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
    let sticky = configuration == Configuration::Shipped || door != Door::Polling;
    let nodes = if sticky { vec![&one, &other] } else { vec![&one] };
    let nginx = Nginx::start(configuration, &nodes).await;
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

    let shipped = Nginx::start(Configuration::Shipped, &nodes).await;
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
    let default = Nginx::start(Configuration::Default, &nodes).await;
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
    let nginx = Nginx::start(Configuration::Shipped, &[&server]).await;
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
    let nginx = Nginx::start(Configuration::Default, &[&server]).await;
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
    let nginx = Nginx::start(Configuration::Shipped, &[&server]).await;
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
