//! The plain clients of `tests/clients`: forty lines each that follow the contract find every loss, come back by
//! themselves, and go on past what they do not know.

use std::{
    fs, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chat_tests::{
    Database, Kind, Proxy, Server, eventually, on_each_database,
    plain::{self, Plain},
    sized,
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_plain_clients_have_at_most_forty_lines_and_their_lock_file_names_no_registry() {
    for name in ["events.mjs", "chat.sh", "socket.mjs", "poll.mjs"] {
        let lines = fs::read_to_string(plain::folder().join(name))
            .unwrap()
            .lines()
            .count();
        assert!(lines <= 40, "{name} has {lines} lines");
    }
    let lock = fs::read_to_string(plain::folder().join("package-lock.json")).unwrap();
    assert!(lock.contains("\"integrity\""));
    assert!(
        !lock.contains("\"resolved\"") && !lock.contains("registry"),
        "{lock}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_clients_of_a_stream_find_a_lost_event_and_go_back_for_it() {
    let whole = "retry: 100\n\nevent: ready\nid: e:1\ndata: {\"cursor\":\"e:1\",\"head\":9}\n\n\
                 id: e:2\ndata: {\"cursor\":\"e:2\",\"prev\":\"e:1\",\"type\":\"message.sent\",\"message\":{\"text\":\"2\"}}\n\n\
                 event: heartbeat\nid: e:3\ndata: {\"cursor\":\"e:3\",\"prev\":\"e:2\"}\n\n\
                 id: e:4\ndata: {\"cursor\":\"e:4\",\"prev\":\"e:3\",\"type\":\"message.sent\",\"message\":{\"text\":\"4\"}}\n\n";
    // An event that lacks, and a heartbeat that does: either way the next delivery names a cursor not seen.
    let event = "id: e:2\ndata: {\"cursor\":\"e:2\",\"prev\":\"e:1\",\"type\":\"message.sent\",\"message\":{\"text\":\"2\"}}\n\n";
    let heartbeat = "event: heartbeat\nid: e:3\ndata: {\"cursor\":\"e:3\",\"prev\":\"e:2\"}\n\n";
    for (lost, back_to) in [(event, "e:1"), (heartbeat, "e:2")] {
        let (broken, rest) = (whole.replace(lost, ""), whole.replace("e:1", back_to));
        assert_ne!(broken, whole);
        let rest = if back_to == "e:2" {
            rest.replacen(&event.replace("e:1", "e:2"), "", 1)
        } else {
            rest
        };
        for node in [true, false] {
            let (port, requests) = canned("text/event-stream", vec![broken.clone(), rest.clone()]).await;
            let client = if node {
                Plain::events_at(port, "token", None).await
            } else {
                Plain::chat_at(port, "token", &["follow"]).await
            };
            eventually("the last message is there", LIMIT, || async {
                client.texts().contains(&"4".into())
            })
            .await;
            assert_eq!(client.texts(), ["2", "4"], "{}", client.stdout());
            assert_eq!(client.named("lost").len(), 1, "{}", client.stdout());
            let requests = requests.lock().unwrap().clone();
            let back = requests[1].to_ascii_lowercase();
            let asked = [
                format!("after={}", back_to.replace(':', "%3a")),
                format!("last-event-id: {back_to}"),
            ];
            assert!(asked.iter().any(|asked| back.contains(asked)), "{back}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poll_mjs_finds_a_lost_event_in_a_page_and_before_it_and_goes_back_for_it() {
    let event = |n: u8, prev: u8| {
        let (cursor, prev) = (format!("e:{n}"), format!("e:{prev}"));
        json!({"cursor": cursor, "prev": prev, "type": "message.sent", "message": {"text": n.to_string()}})
    };
    let page = |events: &[serde_json::Value], last: u8| {
        json!({"events": events, "cursor": format!("e:{last}"), "head": 9, "more": false}).to_string()
    };
    let pages = vec![
        page(&[event(2, 1), event(4, 3)], 4),
        page(&[event(3, 2), event(4, 3)], 5),
        page(&[event(7, 6)], 7),
        page(&[event(6, 5), event(7, 6)], 7),
    ];
    let (port, requests) = canned("application/json", pages).await;
    let client = Plain::poll_at(port, "token", Some("e:1")).await;
    eventually("the last message is there", LIMIT, || async {
        client.texts().contains(&"7".into())
    })
    .await;
    assert_eq!(client.texts(), ["2", "3", "4", "6", "7"], "{}", client.stdout());
    assert_eq!(client.named("lost").len(), 2, "{}", client.stdout());
    let requests = requests.lock().unwrap().clone();
    for (request, after) in requests.iter().zip(["e:1", "e:2", "e:5", "e:5"]) {
        let asked = format!("after={}&", after.replace(':', "%3A"));
        assert!(request.contains(&asked), "{asked} in {request}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_that_has_received_only_ready_comes_back_and_misses_nothing() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    // What is there before is not news for somebody who begins now.
    server.client("bob").send("alice", "before", None).await.unwrap();
    let proxy = Proxy::to(server.port()).await;
    let clients = [
        Plain::events(&server, "alice", proxy.port(), None).await,
        Plain::chat(&server, "alice", proxy.port(), &["follow"]).await,
        Plain::socket(&server, "alice", proxy.port(), &["follow"]).await,
        Plain::poll(&server, "alice", proxy.port(), None).await,
    ];
    let polls = clients.len() - 1;
    for client in &clients {
        client.wait_for("ready", 1, LIMIT).await;
    }
    proxy.refuse(true);
    proxy.cut();
    server
        .client("bob")
        .send("alice", "meanwhile", None)
        .await
        .unwrap();
    proxy.refuse(false);
    for client in &clients {
        client.wait_for("message.sent", 1, LIMIT).await;
    }
    server.client("bob").send("alice", "after", None).await.unwrap();
    for (n, client) in clients.iter().enumerate() {
        client.wait_for("message.sent", 2, LIMIT).await;
        assert_eq!(client.texts(), ["meanwhile", "after"]);
        assert_eq!(client.named("reset"), []);
        let ready = client.named("ready");
        if n == polls {
            assert_eq!(
                ready.len(),
                1,
                "a poll has no beginning that could be told: {}",
                client.stdout()
            );
            continue;
        }
        assert_eq!(ready.len(), 2, "{}", client.stdout());
        assert_eq!(
            ready[1].cursor(),
            ready[0].cursor(),
            "it goes on from where it was"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_client_with_a_lost_cursor_gets_one_reset_and_is_ready_the_next_time() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    server.client("bob").send("alice", "before", None).await.unwrap();
    let proxy = Proxy::to(server.port()).await;
    let clients = [
        Plain::events(&server, "alice", proxy.port(), Some("gone:7")).await,
        Plain::chat(&server, "alice", proxy.port(), &["follow", "gone:7"]).await,
        Plain::socket(&server, "alice", proxy.port(), &["follow", "gone:7"]).await,
        Plain::poll(&server, "alice", proxy.port(), Some("gone:7")).await,
    ];
    let polls = clients.len() - 1;
    for client in &clients {
        client.wait_for("reset", 1, LIMIT).await;
    }
    proxy.refuse(true);
    proxy.cut();
    server
        .client("bob")
        .send("alice", "meanwhile", None)
        .await
        .unwrap();
    proxy.refuse(false);
    for (n, client) in clients.iter().enumerate() {
        // `events.mjs` still has the lost cursor in its URL: the one in Last-Event-ID wins.
        client.wait_for("message.sent", 1, LIMIT).await;
        assert_eq!(client.texts(), ["meanwhile"]);
        let (reset, ready) = (client.named("reset"), client.named("ready"));
        assert_eq!(reset.len(), 1, "{}", client.stdout());
        assert_eq!(reset[0].data["reason"], "other_epoch");
        assert_eq!(ready.len(), usize::from(n != polls), "{}", client.stdout());
        if n == polls {
            continue;
        }
        assert_eq!(ready[0].cursor(), reset[0].cursor());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chat_sh_sends_once_although_its_answer_is_lost() {
    sends_once_although_its_answer_is_lost(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_mjs_sends_once_although_its_answer_is_lost() {
    sends_once_although_its_answer_is_lost(true).await;
}

async fn sends_once_although_its_answer_is_lost(socket: bool) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    // The message's number comes only when it is recorded: that is kept back, and then the line is cut.
    let (port, is_kept_back) = keeping_back(server.port(), "\"seq\":1").await;
    let proxy = Proxy::to(port).await;
    let text = "it's \"quoted\" \\ and\ttwo\nlines";
    let command = ["send", "bob", text];
    let mut client = if socket {
        Plain::socket(&server, "alice", proxy.port(), &command).await
    } else {
        Plain::chat(&server, "alice", proxy.port(), &command).await
    };
    let there = || database.number("SELECT COUNT(*) FROM outbox");
    eventually("the answer is kept back", LIMIT, || async {
        is_kept_back.load(Ordering::SeqCst)
    })
    .await;
    assert_eq!(there().await, 1, "it is recorded");
    assert_eq!(client.stdout(), "", "it was answered before the line was cut");
    proxy.cut();
    assert_eq!(client.exit(LIMIT).await, 0, "{}", client.stderr());
    let printed: serde_json::Value = serde_json::from_str(&client.stdout()).unwrap();
    assert_eq!((&printed["text"], &printed["seq"]), (&json!(text), &json!(1)));
    let failed = if socket { "transport" } else { "curl:" };
    assert!(
        client.stderr().contains(failed),
        "the first try failed: {}",
        client.stderr()
    );
    assert_eq!(there().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_end_when_they_are_refused_for_good() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let mut clients = [
        Plain::events_at(server.port(), "nonsense", None).await,
        Plain::chat_at(server.port(), "nonsense", &["follow"]).await,
        Plain::chat_at(server.port(), "nonsense", &["send", "bob", "hi"]).await,
        Plain::socket_at(server.port(), "nonsense", &["follow"]).await,
        Plain::socket_at(server.port(), "nonsense", &["send", "bob", "hi"]).await,
        Plain::poll_at(server.port(), "nonsense", None).await,
    ];
    for client in &mut clients {
        assert_eq!(
            client.exit(LIMIT).await,
            1,
            "{} {}",
            client.stdout(),
            client.stderr()
        );
    }
    for client in &clients[2..] {
        assert!(client.stderr().contains("token_invalid"), "{}", client.stderr());
    }
    let (port, token) = (server.port(), server.token("alice"));
    let mut clients = [
        Plain::socket_at(port, &token, &["follow", "?"]).await,
        Plain::poll_at(port, &token, Some("?")).await,
    ];
    for client in &mut clients {
        assert_eq!(client.exit(LIMIT).await, 1, "{}", client.stdout());
        assert!(client.stderr().contains("cursor_invalid"), "{}", client.stderr());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_come_back_from_a_node_that_restarts_without_its_database_and_miss_nothing() {
    let least = Duration::from_secs(sized(4, 20));
    let database = Database::fresh(Kind::MariaDb).await;
    let proxy = Proxy::before(&database).await;
    let mut server = Server::start(&database, &[("CHAT_DATABASE_URL", &proxy.url(&database))]).await;
    let clients = [
        Plain::events(&server, "alice", server.port(), None).await,
        Plain::chat(&server, "alice", server.port(), &["follow"]).await,
        Plain::socket(&server, "alice", server.port(), &["follow"]).await,
        Plain::poll(&server, "alice", server.port(), None).await,
    ];
    for client in &clients {
        client.wait_for("ready", 1, LIMIT).await;
    }
    let bob = server.client("bob");
    let mut sent = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let text = format!("{round}-{n}");
            bob.send("alice", &text, None).await.unwrap();
            sent.push(text);
        }
        let away = Instant::now();
        match round {
            // It is told to stop, without its database; so it comes back, and waits for it.
            0 => {
                proxy.refuse(true);
                proxy.cut();
                server.stop().await;
                server.respawn().await;
                let before = clients.each_ref().map(failures);
                eventually("each client has come in vain", LIMIT, || async {
                    let failed = clients
                        .iter()
                        .map(failures)
                        .zip(before)
                        .all(|(now, before)| now > before);
                    failed && away.elapsed() >= least
                })
                .await;
                proxy.refuse(false);
                server.ready().await;
            }
            // It has no time to say goodbye.
            1 => {
                server.kill9().await;
                server.restart().await;
            }
            _ => {}
        }
    }
    for client in &clients {
        client.wait_for("message.sent", sent.len(), LIMIT).await;
        assert_eq!(client.texts(), sent);
        assert_eq!(client.named("reset"), []);
    }
}

/// How often a client has said that it has no connection.
fn failures(client: &Plain) -> usize {
    client.stderr().lines().count() + client.named("error").len() + client.named("closing").len()
}

on_each_database! {
    /// What a newer version will write passes through this server, and through clients that do not know it.
    async fn an_event_of_an_unknown_type_is_passed_on_and_clients_step_over_it(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let bob = server.client("bob");
        let first = bob.send("alice", "one", None).await.unwrap();
        let clients = [
            Plain::events(&server, "alice", server.port(), Some("0")).await,
            Plain::chat(&server, "alice", server.port(), &["follow", "0"]).await,
            Plain::socket(&server, "alice", server.port(), &["follow", "0"]).await,
            Plain::poll(&server, "alice", server.port(), Some("0")).await,
        ];
        for client in &clients {
            client.wait_for("message.sent", 1, LIMIT).await;
        }
        let mut stream = server.client("alice").events(Some("0")).await.unwrap();
        stream.event(LIMIT).await;

        plant_star(&database, first["_id"].as_i64().unwrap()).await;
        let star = stream.event(LIMIT).await;
        assert_eq!(
            (&star["type"], &star["position"], &star["actor_id"], &star["conversation_id"]),
            (&json!("message.starred"), &json!(2), &json!("bob"), &json!("alice,bob")),
        );
        assert_eq!((&star["stars"], &star["message_id"]), (&json!([1, {"of": "five"}]), &first["_id"]));
        let second = bob.send("alice", "two", None).await.unwrap();
        assert_eq!((&second["_id"], &second["seq"]), (&json!(3), &json!(2)));
        assert_eq!(stream.event(LIMIT).await["prev"], star["cursor"]);

        for client in &clients {
            // Neither reports a broken chain, so both have stepped over the star.
            client.wait_for("message.sent", 2, LIMIT).await;
            assert_eq!(client.texts(), ["one", "two"]);
            assert_eq!(client.named("ready").len(), 1, "it was never cut off");
        }
        for n in [0, 2, 3] {
            assert_eq!(clients[n].named("message.starred"), [], "it does not know it");
        }
        assert_eq!(clients[1].named("message.starred")[0].data["stars"], star["stars"]);
        // From the database and by long poll it is the same, and whoever comes back at it goes on.
        let page = server.client("alice").poll("0", 0).await.unwrap();
        assert_eq!(page["events"][1]["stars"], star["stars"]);
        let page = server.client("alice").poll(star["cursor"].as_str().unwrap(), 0).await.unwrap();
        assert_eq!(page["events"][0]["message"]["text"], "two");
        let outcome = server.run(&["verify"]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    }
}

/// Writes the event that a newer version might, as its writer would: under the lock of the head.
async fn plant_star(database: &Database, message: i64) {
    let txn = database.root().await.begin().await.unwrap();
    let fields = json!({"message_id": message, "stars": [1, {"of": "five"}]});
    let hash = "00".repeat(32);
    for sql in [
        "UPDATE log_head SET position = position + 1 WHERE id = 1".to_string(),
        format!(
            "INSERT INTO outbox (position, type, conversation_id, actor_id, via, command_key, command_hash, occurred_at, \
             receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields) \
             SELECT h.position, 'message.starred', 1, 'bob', NULL, 'star', x'{hash}', h.last_time, 'alice', 1, NULL, \
             NULL, 0, NULL, NULL, '{fields}' FROM log_head h"
        ),
        "UPDATE conversations SET last_position = (SELECT position FROM log_head) WHERE id = 1".to_string(),
    ] {
        txn.execute_unprepared(&sql).await.unwrap();
    }
    txn.commit().await.unwrap();
}

/// A proxy to a port that keeps back the first answer in which the server says this, with all that follows it on its
/// connection. Whether it has.
async fn keeping_back(to: u16, said: &'static str) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let is_kept_back = Arc::new(AtomicBool::new(false));
    let kept = is_kept_back.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let answers = async {
                    let mut buffer = vec![0; 64 << 10];
                    loop {
                        let length = from_server.read(&mut buffer).await?;
                        let answer = &buffer[..length];
                        let is_said = answer.windows(said.len()).any(|part| part == said.as_bytes());
                        if is_said && !kept.swap(true, Ordering::SeqCst) {
                            std::future::pending::<()>().await;
                        }
                        if length == 0 {
                            return io::Result::Ok(());
                        }
                        to_client.write_all(answer).await?;
                    }
                };
                tokio::select! {
                    ended = answers => ended,
                    ended = tokio::io::copy(&mut from_client, &mut to_server) => ended.map(drop),
                }
            });
        }
    });
    (port, is_kept_back)
}

/// A server that answers one request after the other with these bodies, and keeps the connections open.
async fn canned(content_type: &'static str, bodies: Vec<String>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = requests.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        for body in bodies {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(connection.read_u8().await.unwrap());
            }
            kept.lock().unwrap().push(String::from_utf8(request).unwrap());
            // A stream has no end.
            let length = match content_type {
                "text/event-stream" => String::new(),
                _ => format!("content-length: {}\r\n", body.len()),
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{length}connection: close\r\n\r\n"
            );
            connection
                .write_all(format!("{head}{body}").as_bytes())
                .await
                .unwrap();
            open.push(connection);
        }
        std::future::pending::<()>().await;
    });
    (port, requests)
}
