//! Readiness fails, the server serves on, then it closes.

use std::time::Duration;

use chat_tests::{Database, Kind, Server, eventually, free_port, reply};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::LIMIT;

async fn readiness(server: &Server) -> u16 {
    reply(server.client("nobody").get("/readyz")).await.status
}

/// Until a second signal, or for this long.
async fn draining(seconds: &str) -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[("CHAT_DRAIN_S", seconds)]).await;
    (database, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_first_then_streams_close_then_nobody_listens() {
    let (_database, mut server) = draining("3600").await;
    let alice = server.client("alice");
    let mut events = server.client("bob").events(None).await.unwrap();
    events.named("ready", LIMIT).await;

    server.signal(Signal::SIGTERM);
    eventually("readiness fails", LIMIT, || async {
        readiness(&server).await == 503
    })
    .await;
    // Everything is served as before: what is open, and what is new.
    let sent = alice.send("bob", "while it drains", None).await.unwrap();
    assert_eq!(events.event(LIMIT).await["message"]["_id"], sent["_id"]);
    let mut late = server.client("carol").events(None).await.unwrap();
    late.named("ready", LIMIT).await;
    assert_eq!(readiness(&server).await, 503);

    // Whoever sends it again does not want to wait.
    server.signal(Signal::SIGTERM);
    for stream in [&mut events, &mut late] {
        let closing = stream.named("closing", LIMIT).await;
        assert_eq!(closing.data["code"], "shutdown");
        assert_eq!(stream.next(LIMIT).await, None, "closing is the last");
    }
    assert!(TcpStream::connect(("127.0.0.1", server.port())).await.is_err());
    assert_eq!(server.exit(LIMIT).await, 0);
    let log = server.log();
    assert!(!log.contains("were cut") && log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_drain_ends_by_itself_and_an_interrupt_has_none() {
    let (_database, mut server) = draining("1").await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.exit(LIMIT).await, 0);
    assert!(server.log().contains("serves on for a while"), "{}", server.log());

    let (_database, mut server) = draining("3600").await;
    server.signal(Signal::SIGINT);
    assert_eq!(server.exit(Duration::from_secs(60)).await, 0);
}

/// As the first process of a container it ends by no signal that it does not listen for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_its_database_ends_when_it_is_told_to() {
    let database = Database::fresh(Kind::Sqlite).await;
    let nobody = format!("mysql://chat@127.0.0.1:{}/chat", free_port());
    let mut server = Server::spawn(&database, &[("CHAT_DATABASE_URL", &nobody)]).await;
    eventually("it waits", LIMIT, || async {
        server.log().contains("the database is away")
    })
    .await;
    server.signal(Signal::SIGTERM);
    assert_eq!(server.exit(LIMIT).await, 0, "{}", server.log());
    assert!(
        server.log().contains("stopped before it was ready"),
        "{}",
        server.log()
    );
}
