//! What is a state is shown as it is: each gauge moves, and comes back where it was.

use chat_tests::{
    Database, Kind, Proxy, Server, eventually, free_port,
    metrics::{gauge, metric},
    on_each_database,
    server::{now, token},
    socketio::{SocketIo, Transport},
};
use serde_json::json;
use tokio::net::TcpStream;

use super::LIMIT;

async fn start(database: &Database, settings: &[(&str, &str)]) -> (Server, u16) {
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let settings = [settings, &[("CHAT_ADMIN_LISTEN", admin.as_str())]].concat();
    (Server::start(database, &settings).await, port)
}

async fn becomes(port: u16, name: &str, expected: f64) {
    eventually(&format!("{name} is {expected}"), LIMIT, || async {
        gauge(port, name).await == expected
    })
    .await;
}

on_each_database! {
    async fn readers_are_shown_as_what_they_do(kind) {
        const LIVE: &str = r#"chat_subscriptions{state="live"}"#;
        const CATCHING_UP: &str = r#"chat_subscriptions{state="catching_up"}"#;
        let database = Database::fresh(kind).await;
        let (server, port) = start(&database, &[]).await;
        becomes(port, "chat_open_connections", 0.0).await;
        let large = "x".repeat(256 << 10);
        let alice = server.client("alice");
        for _ in 0..40 {
            alice.send("bob", &large, None).await.unwrap();
        }
        drop(alice);
        becomes(port, "chat_open_connections", 0.0).await;
        assert_eq!((gauge(port, LIVE).await, gauge(port, CATCHING_UP).await), (0.0, 0.0));
        let mut live = server.client("carol").events(None).await.unwrap();
        live.named("ready", LIMIT).await;
        becomes(port, LIVE, 1.0).await;
        becomes(port, "chat_open_connections", 1.0).await;
        // It asks for all of it, and takes none.
        let behind = server.client("bob").stalled_events(Some("0")).await;
        becomes(port, CATCHING_UP, 1.0).await;
        becomes(port, LIVE, 1.0).await;
        drop((behind, live));
        becomes(port, CATCHING_UP, 0.0).await;
        becomes(port, LIVE, 0.0).await;
        becomes(port, "chat_open_connections", 0.0).await;
    }

    async fn a_log_whose_head_is_ahead_shows_how_far(kind) {
        let database = Database::fresh(kind).await;
        let (server, port) = start(&database, &[]).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        for lag in ["chat_tail_lag_events", "chat_projector_lag_events", "chat_tail_gap_seconds"] {
            becomes(port, lag, 0.0).await;
        }
        // As if two events were missing in the log.
        database.execute("UPDATE log_head SET position = position + 2").await;
        for lag in ["chat_tail_lag_events", "chat_projector_lag_events"] {
            becomes(port, lag, 2.0).await;
        }
        // What is written after them is not passed on before they are there.
        server.client("alice").send("bob", "later", None).await.unwrap();
        becomes(port, "chat_tail_lag_events", 3.0).await;
        eventually("the gap is shown", LIMIT, || async { gauge(port, "chat_tail_gap_seconds").await > 0.0 }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_is_down_and_what_it_would_say_is_not_known() {
    let database = Database::fresh(Kind::MariaDb).await;
    let proxy = Proxy::before(&database).await;
    let url = proxy.url(&database);
    let (_server, port) = start(&database, &[("CHAT_DATABASE_URL", &url)]).await;
    becomes(port, "chat_database_up", 1.0).await;
    proxy.stall(true);
    becomes(port, "chat_database_up", 0.0).await;
    for lag in [
        "chat_log_head_position",
        "chat_tail_lag_events",
        "chat_projector_lag_events",
    ] {
        assert!(gauge(port, lag).await.is_nan(), "{lag}");
    }
    proxy.stall(false);
    becomes(port, "chat_database_up", 1.0).await;
    becomes(port, "chat_tail_lag_events", 0.0).await;
}

/// What ends a connection is counted, whether it could be told or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_and_streams_that_are_closed_are_counted() {
    let database = Database::fresh(Kind::Sqlite).await;
    let settings = [
        ("CHAT_STALL_TIMEOUT_S", "3"),
        ("CHAT_PING_INTERVAL_S", "1"),
        ("CHAT_PING_TIMEOUT_S", "5"),
        ("CHAT_JWT_LEEWAY_S", "0"),
    ];
    let (server, port) = start(&database, &settings).await;
    let cut = |reason: &str| format!(r#"chat_connections_cut_total{{reason="{reason}"}}"#);
    for reason in [
        "stalled",
        "silent",
        "ping_timeout",
        "malformed",
        "flooded",
        "made_room",
    ] {
        assert_eq!(gauge(port, &cut(reason)).await, 0.0, "{reason}");
    }
    let large = "x".repeat(256 << 10);
    for _ in 0..40 {
        server.client("alice").send("bob", &large, None).await.unwrap();
    }

    let url = server.url();
    let short = || token(&json!({"sub": "dora", "exp": now() + 10}));
    let mut stream = chat_tests::Client::new(&url, &short())
        .events(None)
        .await
        .unwrap();
    let socket = SocketIo::connect(Transport::Websocket, &url, &short(), None).await;
    let mut socket = socket.unwrap();
    let is_closed = async {
        stream.named("closing", LIMIT).await;
    };
    // It is read all the while, so that its pings are answered.
    let is_told = async {
        socket.named("closing", LIMIT).await;
    };
    let are_cut = async {
        let silent = TcpStream::connect(("127.0.0.1", server.port())).await.unwrap();
        let mut malformed = SocketIo::open(Transport::Websocket, &url).await.unwrap();
        assert!(malformed.write("4x").await);
        let unanswered = SocketIo::connect(Transport::Websocket, &url, &server.token("carol"), None).await;
        let unanswered = unanswered.unwrap();
        let stalled = server.client("bob").stalled_events(Some("0")).await;
        for reason in ["malformed", "stalled", "ping_timeout", "silent"] {
            becomes(port, &cut(reason), 1.0).await;
        }
        drop((silent, unanswered, stalled));
    };
    tokio::join!(is_closed, is_told, are_cut);
    for reason in ["malformed", "stalled", "ping_timeout", "silent"] {
        assert_eq!(gauge(port, &cut(reason)).await, 1.0, "{reason}");
    }
    for door in ["sse", "socket_io"] {
        let name = format!(r#"chat_rejections_total{{code="token_expired",door="{door}"}}"#);
        assert_eq!(metric(port, &name).await, 1.0, "{door}");
    }
}
