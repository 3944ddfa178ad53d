//! socket.io 5, case by case, from its published description: CONNECT, DISCONNECT, events, acknowledgements, binary,
//! and what is malformed. What of it does not apply is listed in `docs/protocols.md`.

use std::time::Duration;

use chat_tests::{
    Client, Database, Kind, Server, free_port,
    metrics::metric,
    socketio::{Incoming, SocketIo, Transport},
    sockets::{Library, Sockets},
};
use serde_json::{Value, json};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

const TRANSPORTS: [Transport; 2] = [Transport::Websocket, Transport::Polling];

async fn start() -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    (database, server)
}

async fn open(server: &Server, transport: Transport) -> SocketIo {
    SocketIo::open(transport, &server.url()).await.unwrap()
}

async fn connected(server: &Server, transport: Transport) -> SocketIo {
    let token = server.token("alice");
    SocketIo::connect(transport, &server.url(), &token, None)
        .await
        .unwrap()
}

/// The next thing that is no `ready` or `heartbeat`; nothing at the end.
async fn next(socket: &mut SocketIo) -> Option<Incoming> {
    loop {
        match timeout(LIMIT, socket.next())
            .await
            .expect("something comes in time")
        {
            Some(Incoming::Event { name, .. }) if name == "ready" || name == "heartbeat" => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn a_client_connects_to_the_main_namespace_and_to_no_other() {
    let (_database, server) = start().await;
    for transport in TRANSPORTS {
        let mut socket = connected(&server, transport).await;
        assert!(socket.connected["sid"].is_string(), "{}", socket.connected);
        for namespace in ["/random", "/custom"] {
            assert!(socket.write(&format!("40{namespace},{{}}")).await);
            // The name stands before the refusal.
            let refused = next(&mut socket).await;
            assert_eq!(
                refused,
                Some(Incoming::Refused(json!({"message": "Invalid namespace"})))
            );
        }
        assert!(socket.ask("conversations", &json!({})).await.unwrap()["result"].is_object());
    }
}

#[tokio::test]
async fn a_transport_over_which_nobody_connects_is_closed() {
    let (_database, server) = start().await;
    for transport in TRANSPORTS {
        let mut socket = open(&server, transport).await;
        assert_eq!(next(&mut socket).await, None, "{transport:?}");
    }
}

/// Its transport stays: another CONNECT begins another session, whose stream has nothing of the one before.
#[tokio::test]
async fn a_client_that_leaves_the_namespace_keeps_its_transport_and_may_connect_again() {
    let (_database, server) = start().await;
    for transport in TRANSPORTS {
        let mut socket = connected(&server, transport).await;
        let first = socket.connected.clone();
        socket.named("ready", LIMIT).await;
        assert!(socket.write("41").await);
        server
            .client("bob")
            .send("alice", "to nobody", None)
            .await
            .unwrap();
        socket.log_in(&server.token("alice"), None).await.unwrap();
        assert_eq!(
            first["sid"], socket.connected["sid"],
            "{transport:?}: it is the same transport"
        );
        let ready = socket.named("ready", LIMIT).await;
        let sent = server
            .client("bob")
            .send("alice", "hi again", None)
            .await
            .unwrap();
        let event = socket.named("event", LIMIT).await;
        assert_eq!(event["prev"], ready["cursor"]);
        assert_eq!(event["message"]["_id"], sent["_id"]);
        assert!(socket.ask("conversations", &json!({})).await.unwrap()["result"].is_object());
    }
}

#[tokio::test]
async fn the_place_of_a_client_that_left_the_namespace_is_free() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[("CHAT_CONNECTIONS_PER_USER", "1")]).await;
    let mut first = connected(&server, Transport::Websocket).await;
    first.named("ready", LIMIT).await;
    assert!(first.write("41").await);
    let taken = async {
        loop {
            let mut second = connected(&server, Transport::Websocket).await;
            if second.event(LIMIT).await.0 == "ready" {
                return;
            }
        }
    };
    timeout(LIMIT, taken).await.unwrap();
}

#[tokio::test]
async fn a_client_that_left_and_stays_silent_is_closed() {
    let (_database, server) = start().await;
    let mut socket = connected(&server, Transport::Websocket).await;
    assert!(socket.write("41").await);
    assert_eq!(next(&mut socket).await, None);
}

#[tokio::test]
async fn events_are_acknowledged_with_and_without_bytes() {
    let (_database, server) = start().await;
    for transport in TRANSPORTS {
        let mut socket = connected(&server, transport).await;
        let text = json!({"receiver_id": "bob", "text": "hi"});
        let ack = socket.ask("send", &text).await.unwrap();
        assert_eq!(ack["result"]["text"], "hi", "{ack}");
        // Without a number there is no answer; the next one that has one is answered.
        assert!(socket.write(&format!("42{}", json!(["send", text]))).await);
        assert!(socket.ask("conversations", &json!({})).await.unwrap()["result"].is_object());
        let history = socket.ask("history", &json!({"with": "bob"})).await.unwrap();
        assert!(
            history["result"]["messages"].as_array().unwrap().len() >= 2,
            "{history}"
        );
    }
    // Bytes both ways, by a real client.
    let sockets = Sockets::start(Library::Newest).await;
    let auth = json!({"token": server.token("carol")});
    sockets.ready("carol", server.port(), auth, json!({})).await;
    let data = chat_tests::sockets::binary("AQID");
    let sent = sockets
        .done("carol", "send", json!({"receiver_id": "bob", "data": data}))
        .await;
    assert_eq!(sent["data"], data, "{sent}");
}

#[tokio::test]
async fn a_packet_that_is_malformed_closes_the_connection() {
    let (_database, server) = start().await;
    for transport in TRANSPORTS {
        for malformed in [
            "4abc",
            "4",
            "44{}",
            "47",
            "42{}",
            "42[]",
            "42[1]",
            "42",
            r#"42abc["send",{}]"#,
            r#"421["send""#,
            "421{}",
            r#"4299999999999999999999["send",{}]"#,
            r#"45["send",{}]"#,
            r#"4517-["send",{}]"#,
            r#"451-{}"#,
            r#"451-["send",{}]"#,
        ] {
            let mut socket = connected(&server, transport).await;
            socket.write(malformed).await;
            if malformed == r#"451-["send",{}]"# {
                // Bytes were to come.
                socket.write(r#"42["conversations",{}]"#).await;
            }
            assert_eq!(next(&mut socket).await, None, "{transport:?} {malformed}");
        }
    }
}

#[tokio::test]
async fn a_command_with_a_name_that_nobody_knows_is_refused_and_nothing_of_it_is_done() {
    let (_database, server) = start().await;
    let mut socket = connected(&server, Transport::Websocket).await;
    let all: [(&str, Value); 8] = [
        (
            "send",
            json!({"receiver_id": "bob", "text": "hi", "of_tomorrow": 1}),
        ),
        (
            "send",
            json!({"receiver_id": "bob", "text": "hi", "idempotency_key": "a"}),
        ),
        ("receipt", json!({"type": "read", "up_to": 1, "Key": "a"})),
        ("history", json!({"with": "bob", "limt": 1})),
        ("conversations", json!({"with": "bob"})),
        ("resume", json!({"after": "0", "lastEventId": "0"})),
        ("authenticate", json!({"token": "x", "user": "y"})),
        (
            "send",
            json!({"receiver_id": "bob", "data": {"_placeholder": true, "num": 0, "x": 1}}),
        ),
    ];
    for (name, payload) in all {
        let problem = socket.ask(name, &payload).await.unwrap()["problem"].clone();
        assert_eq!(problem["code"], "body_invalid", "{name} {payload}: {problem}");
        assert!(
            problem["errors"][0]["pointer"].is_string(),
            "{name} {payload}: {problem}"
        );
    }
    let listed = socket.ask("conversations", &json!({})).await.unwrap();
    assert_eq!(listed["result"]["conversations"], json!([]));

    let mut socket = open(&server, Transport::Websocket).await;
    let auth = json!({"token": server.token("alice"), "lastEventId": "0"});
    assert!(socket.write(&format!("40{auth}")).await);
    let Some(Incoming::Refused(refused)) = next(&mut socket).await else {
        panic!("it is refused")
    };
    assert_eq!(refused["message"], "body_invalid");
    assert_eq!(
        refused["data"]["errors"][0]["pointer"], "/auth/lastEventId",
        "{refused}"
    );
}

/// python-engineio refuses a payload of more than 16 packets and connects anew.
#[tokio::test]
async fn a_client_in_python_that_polls_catches_up_over_one_connection() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[("CHAT_SENDS_BURST", "1000")]).await;
    let bob: Client = server.client("bob");
    for n in 0..300 {
        if n % 3 == 0 {
            let bytes = json!({"receiver_id": "alice", "data": "AQID"});
            bob.send_body(&bytes, None).await.unwrap();
        } else {
            bob.send("alice", &n.to_string(), None).await.unwrap();
        }
    }
    let sockets = Sockets::start(Library::Python).await;
    let auth = json!({"token": server.token("alice"), "after": "0"});
    let options = json!({"transports": ["polling"], "follow": true});
    sockets.ready("alice", server.port(), auth, options).await;
    let events = sockets.wait_for("alice", "event", 300).await;
    assert_eq!(events.len(), 300);
    let names: Vec<_> = sockets
        .received("alice")
        .into_iter()
        .map(|received| received.event)
        .collect();
    assert!(
        !names
            .iter()
            .any(|name| name == "closing" || name == "$disconnect"),
        "{names:?}"
    );
    assert_eq!(sockets.named("alice", "$connect").len(), 1);
}

/// A client that polls and begins anew leaves a session behind each time; they do not take its user's places.
#[tokio::test]
async fn a_session_by_polling_that_its_client_left_behind_makes_room() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[("CHAT_CONNECTIONS_PER_USER", "2")]).await;
    let mut live = connected(&server, Transport::Websocket).await;
    live.named("ready", LIMIT).await;
    let mut left = connected(&server, Transport::Polling).await;
    left.named("ready", LIMIT).await;
    // A poll hangs on it: it is alive.
    assert!(timeout(Duration::from_secs(3), left.next()).await.is_err());
    let mut refused = connected(&server, Transport::Polling).await;
    let (name, closing) = refused.event(LIMIT).await;
    assert_eq!(
        (name.as_str(), &closing["code"]),
        ("closing", &json!("too_many_connections"))
    );
    left.abort_poll();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut newcomer = connected(&server, Transport::Polling).await;
    assert_eq!(newcomer.event(LIMIT).await.0, "ready");
    // The one over a websocket goes on.
    assert!(live.ask("conversations", &json!({})).await.unwrap()["result"].is_object());
}

#[tokio::test]
async fn a_session_by_polling_that_its_client_left_behind_makes_room_on_each_door() {
    const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let settings = [
        ("CHAT_CONNECTIONS_PER_USER", "1"),
        ("CHAT_ADMIN_LISTEN", admin.as_str()),
    ];
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &settings).await;
    let connect = async |transport, user| {
        let token = server.token(user);
        let socket = SocketIo::connect(transport, &server.url(), &token, None).await;
        socket.unwrap_or_else(|refusal| panic!("{refusal}"))
    };
    let mut left = Vec::new();
    for user in USERS {
        let mut socket = connect(Transport::Polling, user).await;
        socket.named("ready", LIMIT).await;
        let refused = server.client(user).poll("0", 0).await.unwrap_err();
        assert_eq!(refused.code, "too_many_connections", "it is not left yet");
        socket.abort_poll();
        left.push(socket);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let [alice, bob, carol, dave] = USERS;
    let mut websocket = connect(Transport::Websocket, alice).await;
    assert_eq!(websocket.event(LIMIT).await.0, "ready");
    let mut polling = connect(Transport::Polling, bob).await;
    assert_eq!(polling.event(LIMIT).await.0, "ready");
    let mut stream = server.client(carol).events(None).await.unwrap();
    assert_eq!(stream.next(LIMIT).await.unwrap().event, "ready");
    assert!(server.client(dave).poll("0", 0).await.is_ok());
    let abandoned = metric(port, r#"chat_connections_cut_total{reason="abandoned"}"#).await;
    assert_eq!(abandoned, USERS.len() as f64);
    // One that is alive gives nothing.
    let refused = server.client(alice).poll("0", 0).await.unwrap_err();
    assert_eq!(refused.code, "too_many_connections");
}
