//! The socket.io door, spoken to by the clients that are out there: the newest socket.io-client, an old one, and
//! python-socketio, over websocket, over polling, and from one to the other. What they are given is what the other
//! doors give; a transport that loses something costs a `resume`, and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use chat_tests::{
    Client, Database, Kind, Proxy, Server,
    chatter::position_of,
    eventually, on_each_database,
    plain::Plain,
    server::{now, token},
    sized,
    sockets::{Library, Received, Sockets, binary},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(60);

/// The ways in which a socket may be connected, by a name, and the transport that each ends on.
const WAYS: [(&str, &str, &[&str]); 3] = [
    ("over websocket", "websocket", &["websocket"]),
    ("over polling", "polling", &["polling"]),
    ("upgraded", "websocket", &["polling", "websocket"]),
];

macro_rules! with_each_library {
    ($($(#[$about:meta])* async fn $name:ident($library:ident) $body:block)+) => {$(
        $(#[$about])*
        mod $name {
            use super::*;

            async fn scenario($library: Library) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn newest() {
                scenario(Library::Newest).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn old() {
                scenario(Library::Old).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn python() {
                scenario(Library::Python).await;
            }
        }
    )+};
}

with_each_library! {
    async fn a_client_does_over_each_transport_what_can_be_done_over_rest(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let sockets = Sockets::start(library).await;
        for (name, transport, transports) in WAYS {
            let ready = sockets.ready(name, server.port(), auth(&server, "alice"), json!({"transports": transports})).await;
            assert_eq!((&ready["user_id"], &ready["heartbeat_s"]), (&json!("alice"), &json!(15)), "{ready}");
            let reached = || async { sockets.transport(name).await == transport };
            eventually("the transport is the one that was asked for", LIMIT, reached).await;
            if transports.len() > 1 && library != Library::Python {
                let opened = sockets.named(name, "$open");
                assert_eq!(opened[0].args, [json!("polling")], "it began with polling");
                assert_eq!(sockets.wait_for(name, "$upgrade", 1).await[0].args, [json!("websocket")]);
            }
            does_everything(&server, &sockets, name).await;
            sockets.disconnect(name).await;
        }
    }

    async fn a_client_that_is_refused_for_good_gets_the_bare_code(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let sockets = Sockets::start(library).await;
        let expired = token(&json!({"sub": "alice", "exp": now() - 3600}));
        let refusals = [
            ("token_missing", 401, json!({})),
            ("token_invalid", 401, json!({"token": "nonsense"})),
            ("token_expired", 401, json!({"token": expired})),
            ("cursor_invalid", 400, json!({"token": server.token("alice"), "after": "?"})),
        ];
        for (_, _, transports) in WAYS {
            for (code, status, auth) in &refusals {
                let name = format!("{code} {transports:?}");
                sockets.connect(&name, server.port(), auth.clone(), json!({"transports": transports})).await;
                let error = sockets.wait_for(&name, "$connect_error", 1).await[0].data().clone();
                assert_eq!(error["message"], *code, "{error}");
                assert_eq!((&error["data"]["code"], &error["data"]["status"]), (&json!(code), &json!(status)), "{error}");
                assert!(!sockets.is_connected(&name).await);
                if library == Library::Newest {
                    assert_eq!(error["active"], false, "the library does not try again: {error}");
                }
                sockets.disconnect(&name).await;
            }
        }
    }

    async fn a_client_that_is_cut_off_comes_back_by_itself_and_misses_nothing(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let proxy = Proxy::to(server.port()).await;
        let sockets = Sockets::start(library).await;
        let bob = server.client("bob");
        for (name, _, transports) in WAYS {
            let options = json!({"transports": transports, "follow": true, "reconnectionDelay": 100});
            sockets.ready(name, proxy.port(), auth(&server, "alice"), options).await;
        }
        bob.send("alice", "before", None).await.unwrap();
        for (name, ..) in WAYS {
            sockets.wait_for(name, "event", 1).await;
        }
        proxy.refuse(true);
        proxy.cut();
        bob.send("alice", "meanwhile", None).await.unwrap();
        for (name, ..) in WAYS {
            sockets.wait_for(name, "$disconnect", 1).await;
        }
        proxy.refuse(false);
        for (name, ..) in WAYS {
            sockets.wait_for(name, "ready", 2).await;
        }
        bob.send("alice", "after", None).await.unwrap();
        for (name, ..) in WAYS {
            sockets.wait_for(name, "event", 3).await;
            check_chain(&sockets.received(name));
            assert_eq!(texts(&sockets.events(name)), ["before", "meanwhile", "after"], "{:?}", name);
        }
    }

    /// The library's own idea of a server that goes away for a moment.
    async fn a_server_that_stops_says_so_and_its_clients_come_back_when_it_is_there_again(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let mut server = Server::start(&database, &[]).await;
        let sockets = Sockets::start(library).await;
        for (name, transport, transports) in WAYS {
            let options = json!({"transports": transports, "follow": true, "reconnectionDelay": 100});
            sockets.ready(name, server.port(), auth(&server, "alice"), options).await;
            // What is said in the middle of an upgrade may be lost with the polls. An ack over the new transport ends it.
            eventually("it is over its transport", LIMIT, || async { sockets.transport(name).await == transport }).await;
            sockets.done(name, "conversations", json!({})).await;
        }
        server.stop().await;
        for (name, ..) in WAYS {
            let closing = sockets.wait_for(name, "closing", 1).await[0].data().clone();
            assert_eq!(closing["code"], "shutdown", "{closing}");
            assert!(closing["retry_after"].as_u64().is_some_and(|seconds| seconds > 0), "{closing}");
            let why = sockets.wait_for(name, "$disconnect", 1).await[0].data().clone();
            // Not the server's `disconnect()`, after which a client stays away. Python calls everything so.
            let reason = why["reason"].as_str().unwrap();
            assert!(reason.starts_with("transport") || library == Library::Python, "{name}: {why}");
        }
        server.restart().await;
        server.client("bob").send("alice", "hi again", None).await.unwrap();
        for (name, ..) in WAYS {
            sockets.wait_for(name, "event", 1).await;
            check_chain(&sockets.received(name));
            assert_eq!(texts(&sockets.events(name)), ["hi again"]);
        }
    }
}

/// Every command, every form of content, and what is no command, on one socket of alice's.
async fn does_everything(server: &Server, sockets: &Sockets, name: &str) {
    let alice = server.client("alice");
    let begun = sockets.named(name, "ready").last().unwrap().data().clone();

    // Text, with a key that comes twice.
    let key = name.replace(' ', "-");
    let send = json!({"receiver_id": "bob", "text": "hi \u{2028} \"bob\" 🦀\n", "key": key});
    let sent = sockets.emit(name, "send", send.clone()).await;
    let message = &sent["result"];
    assert_eq!(sent, json!({"result": message}), "exactly one of the two");
    assert_eq!(*message, stored(&alice, message).await);
    assert_eq!(message["text"], send["text"]);
    let again = sockets.emit(name, "send", send).await;
    assert_eq!(again, json!({"result": message, "replayed": true}));
    let reused = json!({"receiver_id": "bob", "text": "other", "key": key});
    assert_eq!(sockets.refused(name, "send", reused).await["code"], "key_reused");

    // Bytes, as bytes and as base64: they come as bytes.
    let bytes = BASE64.encode((0..=255).collect::<Vec<u8>>());
    let mut sent_bytes = Vec::new();
    for data in [binary(&bytes), json!(bytes)] {
        let send = json!({"receiver_id": "bob", "data": data, "content_type": "image/png"});
        let message = sockets.done(name, "send", send).await;
        assert_eq!(
            (&message["data"], &message["content_type"]),
            (&binary(&bytes), &json!("image/png"))
        );
        assert_eq!(in_base64(&message), stored(&alice, &message).await);
        sent_bytes.push(message);
    }
    // The same form as REST's: bytes that are text are text.
    let send = json!({"receiver_id": "bob", "data": binary("aGk="), "content_type": "text/plain"});
    assert_eq!(sockets.done(name, "send", send).await["text"], "hi");

    // A sender gets its own events, after `ready`, in order, with the key.
    let events = sockets.wait_for(name, "event", 4).await;
    let events: Vec<_> = events.iter().map(|event| event.data().clone()).collect();
    check_chain(&sockets.received(name));
    assert_eq!((&events[0]["message"], &events[0]["key"]), (message, &json!(key)));
    assert_eq!(
        [&events[1]["message"], &events[2]["message"]],
        [&sent_bytes[0], &sent_bytes[1]]
    );

    // Receipts: bob's, from whose side they are.
    let marked = sockets
        .done(name, "receipt", json!({"type": "read", "up_to": message["_id"]}))
        .await;
    let by_rest = alice
        .receipt("read", message["_id"].as_i64().unwrap())
        .await
        .unwrap();
    assert_eq!(marked, by_rest);

    // History and conversations, as REST gives them.
    for query in [
        vec![("with", "bob")],
        vec![("with", "bob"), ("after", "0"), ("limit", "2")],
        vec![
            ("with", "bob"),
            ("since", "0"),
            ("until", "4000000000"),
            ("limit", "3"),
        ],
        vec![("with", "bob"), ("before", "3")],
    ] {
        // Numbers are numbers here.
        let typed = |(name, text): &(&str, &str)| {
            (
                name.to_string(),
                text.parse::<i64>().map_or(json!(text), |number| json!(number)),
            )
        };
        let payload = Value::Object(query.iter().map(typed).collect());
        let page = sockets.done(name, "history", payload).await;
        assert_eq!(
            in_base64(&page),
            alice.history(&query).await.unwrap(),
            "{query:?}"
        );
    }
    let page = sockets.done(name, "history", json!({"with": "bob"})).await;
    assert!(
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .any(|message| message["data"] == binary(&bytes)),
        "{page}"
    );
    let conversations = sockets.done(name, "conversations", json!({})).await;
    assert_eq!(in_base64(&conversations), alice.conversations().await.unwrap());
    let conversations = sockets.done(name, "conversations", json!({"limit": 1})).await;
    assert_eq!(conversations["conversations"].as_array().unwrap().len(), 1);

    // A fresh token, good for longer.
    let expires_at = now() + 7200;
    let fresh = token(&json!({"sub": "alice", "exp": expires_at}));
    assert_eq!(
        sockets.done(name, "authenticate", json!({"token": fresh})).await,
        json!({"expires_at": expires_at})
    );

    refuses_what_is_no_command(sockets, name).await;

    // And from the beginning of this connection once more.
    assert_eq!(
        sockets
            .done(name, "resume", json!({"after": begun["cursor"]}))
            .await,
        json!({})
    );
    let ready = sockets.wait_for(name, "ready", 2).await[1].data().clone();
    assert_eq!(ready["cursor"], begun["cursor"]);
    eventually("the events come once more", LIMIT, || async {
        sockets.events(name).len() >= 8
    })
    .await;
    assert_eq!(sockets.events(name)[4..8], events[..4]);
    assert_eq!(
        sockets.named(name, "$connect").len(),
        1,
        "nothing of this has cost the connection"
    );
    assert_eq!(sockets.named(name, "$disconnect"), []);
}

async fn refuses_what_is_no_command(sockets: &Sockets, name: &str) {
    let unknown = sockets.refused(name, "teleport", json!({"to": "mars"})).await;
    assert_eq!(unknown["code"], "event_unknown", "{unknown}");
    assert!(
        unknown["status"].is_number() && unknown["title"].is_string() && unknown["type"].is_string(),
        "{unknown}"
    );
    for event in [
        "send",
        "receipt",
        "history",
        "conversations",
        "resume",
        "authenticate",
    ] {
        for payload in [json!("text"), json!(7), json!([]), json!(true)] {
            let problem = sockets.refused(name, event, payload.clone()).await;
            assert_eq!(problem["code"], "body_invalid", "{event} {payload}: {problem}");
        }
    }
    for (event, payload) in [
        ("send", json!({})),
        ("send", json!({"receiver_id": 7, "text": "hi"})),
        ("send", json!({"receiver_id": "bob", "text": ["hi"]})),
        ("send", json!({"receiver_id": "bob", "data": 7})),
        (
            "send",
            json!({"receiver_id": "bob", "data": {"_placeholder": true, "num": 0}}),
        ),
        ("receipt", json!({"type": "eaten", "up_to": 1})),
        ("receipt", json!({"type": "read", "up_to": "1"})),
        ("history", json!({"with": 7})),
        ("conversations", json!({"limit": "many"})),
        ("resume", json!({})),
        ("authenticate", json!({"token": 7})),
    ] {
        let problem = sockets.refused(name, event, payload.clone()).await;
        assert_eq!(problem["code"], "body_invalid", "{event} {payload}: {problem}");
    }
    for (event, payload, code) in [
        (
            "send",
            json!({"receiver_id": "b b", "text": "hi"}),
            "user_id_invalid",
        ),
        ("send", json!({"receiver_id": "bob"}), "content_missing"),
        (
            "send",
            json!({"receiver_id": "bob", "text": "hi", "data": "aGk="}),
            "content_ambiguous",
        ),
        ("send", json!({"receiver_id": "bob", "text": ""}), "content_empty"),
        ("send", json!({"receiver_id": "bob", "data": "?"}), "data_invalid"),
        (
            "send",
            json!({"receiver_id": "bob", "text": "hi", "key": "a b"}),
            "key_invalid",
        ),
        (
            "receipt",
            json!({"type": "read", "up_to": 1_000_000}),
            "message_not_found",
        ),
        ("resume", json!({"after": "?"}), "cursor_invalid"),
        ("authenticate", json!({"token": "nonsense"}), "token_invalid"),
    ] {
        let problem = sockets.refused(name, event, payload.clone()).await;
        assert_eq!(problem["code"], code, "{event} {payload}: {problem}");
    }
}

on_each_database! {
    /// Two senders over REST and two over socket.io, text and bytes; one reader at each door.
    async fn all_doors_give_the_same_events_in_the_same_order(kind) {
        let each = sized(60, 250);
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[("CHAT_HEARTBEAT_S", "1")]).await;
        let sockets = Sockets::start(Library::Newest).await;
        let mut stream = server.client("alice").events(None).await.unwrap();
        let begin = stream.named("ready", LIMIT).await.id;
        for (name, _, transports) in WAYS {
            sockets.ready(name, server.port(), auth(&server, "alice"), json!({"transports": transports})).await;
        }
        let polling = tokio::spawn(poll(server.client("alice"), begin.clone(), 4 * each));

        let contents = |sender: usize| -> Vec<Value> {
            let mut rng = StdRng::seed_from_u64(sender as u64);
            (0..each).map(|n| content(&mut rng, sender, n)).collect()
        };
        let mut senders = Vec::new();
        for sender in 0..2 {
            let (client, contents) = (server.client(&format!("rest-{sender}")), contents(sender));
            senders.push(tokio::spawn(async move {
                for content in contents {
                    client.send_body(&in_base64(&content), None).await.unwrap();
                }
            }));
        }
        for (sender, transport) in [(2, "websocket"), (3, "polling")] {
            let name = format!("socket-{sender}");
            sockets.ready(&name, server.port(), auth(&server, &name), json!({"transports": [transport]})).await;
        }
        let by_socket = async |sender: usize| {
            for contents in contents(sender).chunks(10) {
                let acks = sockets.emit_all(&format!("socket-{sender}"), "send", contents.to_vec()).await;
                assert!(acks.iter().all(|ack| ack["result"].is_object()), "{acks:?}");
            }
        };
        tokio::join!(by_socket(2), by_socket(3));
        for sender in senders {
            sender.await.unwrap();
        }

        let expected: Vec<_> = stream.take(4 * each, LIMIT).await.into_iter().map(without_prev).collect();
        assert!(expected.is_sorted_by_key(|event| event["position"].as_i64()));
        let (texts, bytes): (Vec<_>, Vec<_>) = expected.iter().partition(|event| event["message"]["text"].is_string());
        assert!(texts.len() > each && bytes.len() > each, "there are both");
        assert_eq!(polling.await.unwrap(), expected, "by long poll");
        for (name, ..) in WAYS {
            sockets.wait_for(name, "event", 4 * each).await;
            check_chain(&sockets.received(name));
            let events = sockets.events(name);
            let data = events.iter().filter(|event| event["message"]["data"]["$binary"].is_string());
            assert_eq!(data.count(), bytes.len(), "{name}: bytes are bytes");
            let events: Vec<_> = events.iter().map(in_base64).map(without_prev).collect();
            assert_eq!(events, expected, "{name}");
        }
        assert_eq!(sockets.transport("upgraded").await, "websocket");
    }

    async fn sends_in_a_row_on_one_socket_are_committed_in_their_order(kind) {
        // More than a socket's pipeline takes at once.
        let count = sized(400, 2000);
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let sockets = Sockets::start(Library::Newest).await;
        for transport in ["websocket", "polling"] {
            let auth = auth(&server, transport);
            sockets.ready(transport, server.port(), auth, json!({"transports": [transport]})).await;
            let sends = (0..count).map(|n| json!({"receiver_id": "bob", "text": n.to_string(), "key": n.to_string()}));
            let acks = sockets.emit_all(transport, "send", sends.collect()).await;
            for (n, ack) in acks.iter().enumerate() {
                assert_eq!(
                    (&ack["result"]["text"], &ack["result"]["seq"]),
                    (&json!(n.to_string()), &json!(n + 1)),
                    "over {transport}: {ack}"
                );
            }
            sockets.wait_for(transport, "event", count).await;
            check_chain(&sockets.received(transport));
            let in_order: Vec<_> = (0..count).map(|n| n.to_string()).collect();
            assert_eq!(texts(&sockets.events(transport)), in_order, "over {transport}");
        }
        assert_eq!(database.number("SELECT COUNT(*) FROM outbox").await, 2 * count as i64);
        let outcome = server.run(&["verify"]).await;
        assert_eq!(outcome.code, 0, "{}", outcome.stdout);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_at_the_moment_of_the_connect_is_never_lost() {
    let each = sized(40, 100);
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let sockets = Sockets::start(Library::Newest).await;
    let mut names = Vec::new();
    for transport in ["websocket", "polling"] {
        for n in 0..each {
            let name = format!("{transport}-{n}");
            let first = json!({"event": "send", "payload": {"receiver_id": "bob", "text": name}});
            let options = json!({"transports": [transport], "first": first});
            sockets
                .connect(&name, server.port(), auth(&server, &name), options)
                .await;
            names.push(name);
        }
    }
    for name in &names {
        let acked = sockets.wait_for(name, "$acked", 1).await[0].args.clone();
        assert_eq!(
            (&acked[0], &acked[1]["result"]["text"]),
            (&json!("send"), &json!(name)),
            "{acked:?}"
        );
    }
    assert_eq!(
        database.number("SELECT COUNT(*) FROM outbox").await,
        2 * each as i64
    );
}

with_each_library! {
    async fn a_connection_goes_on_with_another_token_and_ends_without(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let sockets = Sockets::start(library).await;
        // All that is to be done before it ends takes a second, and on a busy machine a few.
        let ends_at = now() + 12;
        let short = token(&json!({"sub": "alice", "exp": ends_at}));
        for name in ["renewed", "left"] {
            let auth = json!({"token": short});
            sockets.ready(name, server.port(), auth, json!({"transports": ["websocket"]})).await;
        }
        sockets
            .ready("left polling", server.port(), json!({"token": short}), json!({"transports": ["polling"]}))
            .await;
        for name in ["renewed", "left", "left polling"] {
            let expiring = sockets.wait_for(name, "expiring", 1).await[0].data().clone();
            assert_eq!(expiring, json!({"expires_at": ends_at}));
        }
        let expired = token(&json!({"sub": "alice", "exp": now() - 3600}));
        for (token, code) in [
            (server.token("bob"), "token_user_mismatch"),
            (expired, "token_expired"),
            ("nonsense".into(), "token_invalid"),
        ] {
            let problem = sockets.refused("renewed", "authenticate", json!({"token": token})).await;
            assert_eq!(problem["code"], code, "{problem}");
        }
        let longer = now() + 3600;
        let fresh = token(&json!({"sub": "alice", "exp": longer}));
        assert_eq!(
            sockets.done("renewed", "authenticate", json!({"token": fresh})).await,
            json!({"expires_at": longer})
        );

        for name in ["left", "left polling"] {
            let closing = sockets.wait_for(name, "closing", 1).await[0].data().clone();
            assert_eq!(closing["code"], "token_expired", "{closing}");
            assert!(now() >= ends_at, "not before its end");
            let why = sockets.wait_for(name, "$disconnect", 1).await[0].data().clone();
            let of_server = ["io server disconnect", "server disconnect"];
            assert!(of_server.contains(&why["reason"].as_str().unwrap()), "{name}: {why}");
            assert_ne!(why["active"], true, "{name}: the library does not come back by itself");
        }
        // Past the first token's end, on the connection of the beginning.
        eventually("the first token is past its end", LIMIT, || async { now() > ends_at + 1 }).await;
        let sent = sockets.done("renewed", "send", json!({"receiver_id": "bob", "text": "still here"})).await;
        sockets.wait_for("renewed", "event", 1).await;
        assert_eq!(sockets.events("renewed")[0]["message"], sent);
        assert_eq!(sockets.named("renewed", "$connect").len(), 1);
        assert_eq!(sockets.named("renewed", "expiring").len(), 1, "the new one has an hour");
        for name in ["left", "left polling"] {
            assert_eq!(sockets.named(name, "$connect").len(), 1);
            assert!(sockets.events(name).is_empty(), "nothing is delivered without a token");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_old_chain_follows_the_ack_of_resume() {
    let rounds = sized(8, 30);
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let sockets = Sockets::start(Library::Newest).await;
    for transport in ["websocket", "polling"] {
        let name = transport;
        let ready = sockets
            .ready(
                name,
                server.port(),
                auth(&server, "alice"),
                json!({"transports": [transport]}),
            )
            .await;
        let mut cursors = vec![ready["cursor"].clone()];
        let mut asked = 0;
        // Messages flow all the time, most of them in the middle of a resume.
        for round in 0..rounds {
            let sends =
                (0..20).map(|n| json!({"receiver_id": "alice", "text": format!("{transport} {round} {n}")}));
            let bob = format!("bob-{round}-{transport}");
            sockets
                .ready(
                    &bob,
                    server.port(),
                    auth(&server, &bob),
                    json!({"transports": ["websocket"]}),
                )
                .await;
            let resumes: Vec<_> = (0..1 + round % 5)
                .map(|n| json!({"after": cursors[(round * 7 + n) % cursors.len()]}))
                .collect();
            asked += resumes.len();
            let (_, acks) = tokio::join!(
                sockets.emit_all(&bob, "send", sends.collect()),
                sockets.emit_all(name, "resume", resumes),
            );
            assert!(acks.iter().all(|ack| *ack == json!({"result": {}})), "{acks:?}");
            sockets.disconnect(&bob).await;
            cursors = sockets
                .events(name)
                .iter()
                .map(|event| event["cursor"].clone())
                .chain([ready["cursor"].clone()])
                .collect();
        }
        // Once more from the beginning: it is all there.
        sockets
            .done(name, "resume", json!({"after": ready["cursor"]}))
            .await;
        let total = rounds * 20;
        let last_chain = |received: &[Received]| {
            let from = received
                .iter()
                .rposition(|received| received.event == "ready")
                .unwrap();
            let events = received[from..]
                .iter()
                .filter(|received| received.event == "event");
            events.map(|event| event.data().clone()).collect::<Vec<_>>()
        };
        let whole = || async { last_chain(&sockets.received(name)).len() >= total };
        eventually("the last chain is whole", LIMIT, whole).await;

        let received = sockets.received(name);
        assert_eq!(
            check_chain(&received),
            asked + 1,
            "over {transport}: each resume is acked"
        );
        let begun = sockets.named(name, "ready").len();
        assert!(begun <= asked + 2, "over {transport}: merged, never more");
        let mut texts = texts(&last_chain(&received));
        texts.sort();
        texts.dedup();
        assert_eq!(
            (texts.len(), last_chain(&received).len()),
            (total, total),
            "over {transport}"
        );
        sockets.disconnect(name).await;
    }
}

/// The server loses about 20 deliveries of each client, as a transport might, and the line is cut again and again; some
/// clients watch the chain and the others do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_lines_find_every_loss_and_a_client_without_the_chain_does_not() {
    let (count, lose_one_in) = sized((300, "15"), (1000, "50"));
    let database = Database::fresh(Kind::Sqlite).await;
    let settings = [("CHAT_LOSE_ONE_IN", lose_one_in), ("CHAT_HEARTBEAT_S", "1")];
    let server = Server::start(&database, &settings).await;
    let proxies = [Proxy::to(server.port()).await, Proxy::to(server.port()).await];
    let sockets = Sockets::start(Library::Newest).await;
    let polling = breaking_websockets(proxies[1].port(), false).await;
    let watching = [
        (
            "over websocket",
            Plain::socket(&server, "alice", proxies[0].port(), &["follow"]).await,
        ),
        (
            "over polling",
            Plain::socket(&server, "alice", polling, &["follow"]).await,
        ),
    ];
    for (_, client) in &watching {
        client.wait_for("ready", 1, LIMIT).await;
    }
    for (name, _, transports) in WAYS {
        sockets
            .ready(
                name,
                server.port(),
                auth(&server, "alice"),
                json!({"transports": transports}),
            )
            .await;
    }
    let bob = server.client("bob");
    // They are cut four times.
    let part = count / 4;
    for n in 0..count {
        bob.send("alice", &n.to_string(), None).await.unwrap();
        if n % part != part / 2 {
            continue;
        }
        for (proxy, (way, client)) in proxies.iter().zip(&watching) {
            // It is connected then.
            eventually(&format!("{way}: it has all so far"), LIMIT, || async {
                client.texts().len() > n
            })
            .await;
            let cuts = || client.stderr().matches("transport").count();
            let before = cuts();
            // At one try or another a poll is under way.
            eventually(&format!("{way}: it is cut off"), LIMIT, || async {
                proxy.cut();
                cuts() > before
            })
            .await;
        }
    }
    let all: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    for (way, client) in &watching {
        eventually("the plain client has the last message", LIMIT, || async {
            client.texts().last() == all.last()
        })
        .await;
        assert_eq!(client.texts(), all, "{way}: complete, in order, none twice");
        assert_eq!(client.named("reset"), []);
        assert!(
            !client.named("lost").is_empty(),
            "{way}: it has noticed something"
        );
    }
    for (name, ..) in WAYS {
        // One in 50 of a thousand, or one in 15 of 300, each by itself: that none is lost has a probability of 2 in a
        // billion at most.
        eventually(
            "the others have heartbeats behind the last message",
            LIMIT,
            || async {
                let received = sockets.received(name);
                let last = received.last().filter(|last| last.event == "heartbeat");
                last.is_some_and(|last| position_of(last.data()["cursor"].as_str().unwrap()) >= count as i64)
            },
        )
        .await;
        let seen = sockets.events(name).len();
        assert!(seen < count, "{name}: without the chain all {seen} are there");
    }
}

/// Polls that are cut off take what they carry with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_that_is_cut_off_takes_nothing_with_it_for_good() {
    let count = sized(180, 600);
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[("CHAT_HEARTBEAT_S", "1")]).await;
    let proxy = Proxy::to(server.port()).await;
    let sockets = Sockets::start(Library::Newest).await;
    let options = json!({
        "transports": ["polling"], "follow": true, "reconnectionDelay": 10, "reconnectionDelayMax": 50, "timeout": 2000
    });
    sockets
        .ready("alice", proxy.port(), auth(&server, "alice"), options)
        .await;
    let bob = server.client("bob");
    for n in 0..count {
        bob.send("alice", &n.to_string(), None).await.unwrap();
        if n % 60 == 59 {
            // At one try or another a poll is under way; it may be one that has just begun anew.
            let count = |event| sockets.named("alice", event).len();
            let (cuts, ready) = (count("$disconnect"), count("ready"));
            eventually("a poll is cut off", LIMIT, || async {
                proxy.cut();
                count("$disconnect") > cuts
            })
            .await;
            sockets.wait_for("alice", "ready", ready + 1).await;
        }
    }
    let last = (count - 1).to_string();
    eventually("the last message is there", LIMIT, || async {
        sockets
            .events("alice")
            .last()
            .is_some_and(|event| event["message"]["text"] == *last)
    })
    .await;
    check_chain(&sockets.received("alice"));
    let all: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(
        texts(&sockets.events("alice")),
        all,
        "complete, in order, none twice"
    );
}

with_each_library! {
    /// As many proxies do it: the upgrade is answered, and then nothing passes.
    async fn a_client_whose_websocket_carries_nothing_goes_on_polling(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let port = breaking_websockets(server.port(), false).await;
        let sockets = Sockets::start(library).await;
        let options = json!({"transports": ["polling", "websocket"], "follow": true});
        sockets.ready("alice", port, auth(&server, "alice"), options).await;
        for n in 0..3 {
            server.client("bob").send("alice", &n.to_string(), None).await.unwrap();
            sockets.wait_for("alice", "event", n + 1).await;
        }
        let sent = sockets.done("alice", "send", json!({"receiver_id": "bob", "text": "3"})).await;
        assert_eq!(sent["text"], "3");
        sockets.wait_for("alice", "event", 4).await;
        assert_eq!(texts(&sockets.events("alice")), ["0", "1", "2", "3"]);
        check_chain(&sockets.received("alice"));
        assert_eq!(sockets.transport("alice").await, "polling");
        assert_eq!(sockets.named("alice", "$connect").len(), 1, "on its first connection");
    }

    async fn a_client_whose_websocket_breaks_in_the_middle_of_the_upgrade_comes_back(library) {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let port = breaking_websockets(server.port(), true).await;
        let sockets = Sockets::start(library).await;
        let options = json!({"transports": ["polling", "websocket"], "follow": true, "reconnectionDelay": 100});
        sockets.connect("alice", port, auth(&server, "alice"), options).await;
        // The second websocket is a good one.
        let upgraded = || async {
            sockets.is_connected("alice").await && sockets.transport("alice").await == "websocket"
        };
        eventually("it is connected over a websocket", LIMIT, upgraded).await;
        server.client("bob").send("alice", "hi", None).await.unwrap();
        sockets.wait_for("alice", "event", 1).await;
        assert_eq!(texts(&sockets.events("alice")), ["hi"]);
        check_chain(&sockets.received("alice"));
    }
}

/// A proxy to a port that spoils the upgrade of a session to a websocket: either each one carries nothing from the
/// client, or the first one is cut once the client's first frame has passed.
async fn breaking_websockets(to: u16, first_is_cut: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let spoilt = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let spoilt = spoilt.clone();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                // The request's head comes in one piece: none of these clients writes it in two.
                let mut head = vec![0; 16 << 10];
                let length = client.read(&mut head).await?;
                head.truncate(length);
                server.write_all(&head).await?;
                let head = String::from_utf8_lossy(&head);
                let steps_up = head.contains("transport=websocket") && head.contains("sid=");
                if !steps_up || first_is_cut && spoilt.swap(true, Ordering::Relaxed) {
                    return tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::select! {
                    done = tokio::io::copy(&mut from_server, &mut to_client) => done.map(|bytes| (bytes, 0)),
                    done = async {
                        let mut frame = [0; 1024];
                        let mut length = from_client.read(&mut frame).await?;
                        if first_is_cut {
                            to_server.write_all(&frame[..length]).await?;
                        } else {
                            while length > 0 {
                                length = from_client.read(&mut frame).await?;
                            }
                        }
                        Ok((0, 0))
                    } => done,
                }
            });
        }
    });
    port
}

/// What a socket says when it connects.
fn auth(server: &Server, user: &str) -> Value {
    json!({"token": server.token(user)})
}

/// A message as REST gives it.
async fn stored(client: &Client, message: &Value) -> Value {
    client.message(message["_id"].as_i64().unwrap()).await.unwrap()
}

/// As it is in JSON: bytes in base64.
fn in_base64(value: &Value) -> Value {
    match value {
        Value::Object(object) if object.contains_key("$binary") => object["$binary"].clone(),
        Value::Object(object) => object
            .iter()
            .map(|(name, field)| (name.clone(), in_base64(field)))
            .collect(),
        Value::Array(items) => items.iter().map(in_base64).collect(),
        other => other.clone(),
    }
}

/// What is before an event is another thing at each door: heartbeats come when they come.
fn without_prev(mut event: Value) -> Value {
    event.as_object_mut().unwrap().remove("prev").unwrap();
    event
}

fn texts(events: &[Value]) -> Vec<String> {
    let text = |event: &Value| event["message"]["text"].as_str().unwrap().to_string();
    events.iter().map(text).collect()
}

/// Holds the chain on a socket that has lost nothing: each delivery names the one before it, `ready` and `reset` begin
/// anew, and so must what comes after a connect and after the ack of a `resume`. Gives the number of those acks.
fn check_chain(received: &[Received]) -> usize {
    let mut chain = None;
    let mut resumed = 0;
    for received in received {
        match received.event.as_str() {
            "$connect" => chain = None,
            "$acked" if received.args[0] == "resume" => {
                resumed += usize::from(received.args[1]["result"].is_object());
                chain = None;
            }
            "ready" | "reset" => chain = Some(received.data()["cursor"].clone()),
            "event" | "heartbeat" => {
                let delivery = received.data();
                assert_eq!(
                    Some(&delivery["prev"]),
                    chain.as_ref(),
                    "the chain is broken before {delivery}"
                );
                chain = Some(delivery["cursor"].clone());
            }
            _ => {}
        }
    }
    resumed
}

/// Follows by long polls from a cursor until so many events have come, and holds the chain.
async fn poll(client: Client, mut cursor: String, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    while events.len() < count {
        let page = client.poll(&cursor, 5).await.unwrap();
        for event in page["events"].as_array().unwrap() {
            assert_eq!(
                event["prev"],
                cursor.as_str(),
                "the chain is broken before {event}"
            );
            cursor = event["cursor"].as_str().unwrap().to_string();
            events.push(without_prev(event.clone()));
        }
        cursor = page["cursor"].as_str().unwrap().to_string();
    }
    events
}

/// A message to alice: text with everything that an encoding may stumble over, or bytes.
fn content(rng: &mut StdRng, sender: usize, n: usize) -> Value {
    const PIECES: [&str; 14] = [
        "plain",
        "ünïcödé",
        "漢字",
        "🦀👩‍👩‍👧",
        "\"quoted\"",
        "'",
        "\\",
        "\\u0041",
        "\u{2028}",
        "\u{2029}",
        "\r\n\t",
        "\u{1e}42[]",
        "\u{0}",
        "<script>&amp;",
    ];
    if n.is_multiple_of(2) {
        let pieces = (0..rng.random_range(1..6)).map(|_| PIECES[rng.random_range(0..PIECES.len())]);
        let text = format!("{sender}-{n} {}", pieces.collect::<String>());
        json!({"receiver_id": "alice", "text": text})
    } else {
        let bytes: Vec<u8> = (0..rng.random_range(1..400)).map(|_| rng.random()).collect();
        json!({"receiver_id": "alice", "data": binary(&BASE64.encode(bytes)), "content_type": "application/octet-stream"})
    }
}
