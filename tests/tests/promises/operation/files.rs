//! The limit on open files: raised, divided, and met without harm.

use chat_tests::{
    Database, Events, Kind, Problem, Server, eventually, free_port,
    metrics::metric,
    ok, on_each_database,
    socketio::{SocketIo, Transport},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::LIMIT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let database = Database::fresh(Kind::Sqlite).await;
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let _server = Server::start_with_files(&database, &[("CHAT_ADMIN_LISTEN", &admin)], "200:512").await;
    assert_eq!(metric(port, "process_max_fds").await, 512.0);
    let places = metric(port, "chat_open_connections_limit").await;
    assert!((100.0..512.0).contains(&places), "{places}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_does_not_suffice_is_one_line() {
    let database = Database::fresh(Kind::Sqlite).await;
    let wanted = [("CHAT_CONNECTIONS", "1000")];
    let mut server = Server::spawn_with_files(&database, &wanted, "512").await;
    assert_eq!(server.exit(LIMIT).await, 1);
    let log = server.log();
    assert!(
        log.starts_with("chat-system: CHAT_CONNECTIONS: 1000 connections and"),
        "{log}"
    );
    assert_eq!(log.lines().count(), 1, "{log}");
}

/// Asks again where the connection was cut without an answer, which is not the rule: one that finds no place has two
/// seconds to say what it wants.
async fn answered<T>(ask: impl AsyncFn() -> Option<T>) -> T {
    const CUTS: usize = 3;
    let asking = async {
        for _ in 0..CUTS {
            if let Some(answer) = ask().await {
                return answer;
            }
        }
        panic!("it was cut {CUTS} times without an answer")
    };
    timeout(LIMIT, asking).await.expect("there is an answer")
}

/// A refusal that came.
fn refusal<T>(answer: Result<T, Problem>) -> Option<Problem> {
    answer.err().filter(|problem| problem.status != 0)
}

on_each_database! {
    async fn a_crowd_at_the_door_is_told_so_and_the_server_goes_on(kind) {
        let database = Database::fresh(kind).await;
        let port = free_port();
        let admin = format!("127.0.0.1:{port}");
        let server = Server::start_with_files(&database, &[("CHAT_ADMIN_LISTEN", &admin)], "256").await;
        let places = metric(port, "chat_open_connections_limit").await as usize;
        let mut stream = server.client("bob").events(None).await.unwrap();
        stream.named("ready", LIMIT).await;
        // Kept for when there is no place.
        let mut alice = SocketIo::connect(Transport::Websocket, &server.url(), &server.token("alice"), None)
            .await
            .unwrap();
        let before = json!({"receiver_id": "bob", "text": "before"});
        alice.ask("send", &before).await.unwrap();

        // Streams, which are never idle. And then more than there are files, who say nothing.
        let stream_of = |user| {
            let token = server.token(user);
            format!("GET /v1/events HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n")
        };
        let ask = stream_of("mallory");
        let (mut crowd, mut have_asked) = (Vec::new(), 0);
        for _ in 0..places {
            let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
            let asked = stream.write_all(ask.as_bytes()).await;
            have_asked += usize::from(asked.is_ok() && stream.read_u8().await.is_ok());
            crowd.push(stream);
        }
        // Bob and Alice have places: so many of the last ones find none, and may be cut before they have asked.
        assert!(have_asked + 3 >= places, "{have_asked} of {places} were answered");
        for _ in 0..150 {
            crowd.push(TcpStream::connect(("127.0.0.1", server.port())).await.unwrap());
        }
        eventually("all places are taken", LIMIT, || async {
            metric(port, "chat_open_connections").await as usize == places
        })
        .await;
        // Whoever comes now is refused, in the form of its door.
        let carol = server.client("carol");
        let refused = answered(async || refusal(ok(carol.get("/v1/conversations")).await)).await;
        assert_eq!((refused.status, refused.code.as_str()), (503, "too_many_connections"));
        let closing = answered(async || Events::open(carol.get("/v1/events")).await.ok()?.frame().await).await;
        assert_eq!(closing.event, "closing");
        assert_eq!(closing.data["code"], "too_many_connections");
        let healthy = answered(async || carol.get("/healthz").send().await.ok()).await;
        assert_eq!(healthy.status(), 200);
        for door in ["rest", "sse"] {
            let name = format!(r#"chat_rejections_total{{code="too_many_connections",door="{door}"}}"#);
            assert!(metric(port, &name).await >= 1.0, "{door}");
        }
        // Who has a place goes on, the database included.
        let send = json!({"receiver_id": "bob", "text": "in the crowd"});
        let sent = alice.ask("send", &send).await.unwrap()["result"].clone();
        let mut texts = Vec::new();
        while texts.last().is_none_or(|text| text != "in the crowd") {
            texts.push(stream.event(LIMIT).await["message"]["text"].clone());
        }
        assert_eq!(texts, ["before", "in the crowd"]);
        eventually("the database is there", LIMIT, || async { metric(port, "chat_database_up").await == 1.0 }).await;
        for bad in ["cannot be accepted", "the database is away"] {
            assert!(!server.log().contains(bad), "{}", server.log());
        }

        drop(crowd);
        drop(alice);
        drop(stream);
        eventually("all places are given back", LIMIT, || async {
            metric(port, "chat_open_connections").await == 0.0
        })
        .await;
        let list = ok(server.client("carol").get("/v1/conversations")).await.unwrap();
        assert_eq!(list["conversations"], json!([]));
        assert!(sent["_id"].as_i64().unwrap() > 1);
    }
}
