//! Every message of the AsyncAPI document is driven out of a server, over each transport, and everything that comes is held to
//! the document: its schema, closed, and the codes that it may have. What is not documented fails, and so does what is
//! documented and never comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chat_tests::{
    Client, Database, Events, Kind, Server,
    documents::{Document, pointer},
    reply, run,
    schemas::Validator,
    server::{now, token},
    socketio::{Incoming, SocketIo, Transport},
};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

const SETTINGS: &[(&str, &str)] = &[
    ("CHAT_HEARTBEAT_S", "1"),
    ("CHAT_JWT_LEEWAY_S", "0"),
    ("CHAT_CONTENT_LIMIT", "1024"),
    // Whoever polls is told that it ends while it is still let in.
    ("CHAT_DRAIN_S", "3"),
];

/// How long a token is good whose end is awaited: long enough to connect with it on a busy machine.
const SHORT_S: u64 = 10;

/// The codes that need a fault, and the tests that make it. They hold the code to its door, as these tests hold the rest.
const ELSEWHERE: &[(&str, &[&str])] = &[
    // The database away, slow, or refusing: failure/faults.rs, and the tests of the doors in api/src/openapi/tests.rs.
    (
        "unavailable",
        &["send_ack", "receipt_ack", "history_ack", "conversations_ack"],
    ),
    ("outcome_unknown", &["send_ack", "receipt_ack"]),
    ("command_refused", &["send_ack", "receipt_ack"]),
    ("internal", &["send_ack", "receipt_ack", "refused"]),
    // A queue that is full, or a budget: the tests of api/src/socket/queue.rs, security/limits.rs and budgets.rs.
    (
        "overloaded",
        &[
            "send_ack",
            "receipt_ack",
            "history_ack",
            "conversations_ack",
            "resume_ack",
            "authenticate_ack",
            "other_ack",
            "refused",
            "closing",
        ],
    ),
    // Budgets that are used up: security/budgets.rs, on every door.
    ("rate_limited", &["history_ack", "conversations_ack", "refused"]),
    ("too_many_conversations", &["send_ack"]),
    // The moment after the start, and the moment before the end: operation/startup.rs and api/src/rest/events/tests.rs.
    ("starting", &["closing", "refused"]),
    ("shutdown", &["refused"]),
    // Keys that cannot be fetched: security/keys.rs.
    ("not_ready", &["closing", "authenticate_ack", "refused"]),
    // Half a body, for half a minute: security/input.rs.
    ("body_timeout", &["refused"]),
    ("body_incomplete", &["refused"]),
];

/// What came, held to the document.
struct Held {
    document: Document,
    validators: BTreeMap<String, Validator>,
    seen: BTreeSet<(&'static str, String)>,
    codes: BTreeSet<(&'static str, String, String)>,
    /// The types of events, and `via` where one had it.
    events: BTreeSet<(&'static str, String)>,
}

impl Held {
    async fn new() -> Held {
        Held {
            document: Document::asyncapi().await,
            validators: BTreeMap::new(),
            seen: BTreeSet::new(),
            codes: BTreeSet::new(),
            events: BTreeSet::new(),
        }
    }

    /// What came elsewhere.
    fn add(&mut self, other: Held) {
        self.seen.extend(other.seen);
        self.codes.extend(other.codes);
        self.events.extend(other.events);
    }

    /// A message came.
    fn take(&mut self, channel: &'static str, key: &str, payload: &Value) {
        let at = pointer(&["channels", channel, "messages", key]);
        let message = self
            .document
            .value
            .pointer(&at)
            .unwrap_or_else(|| panic!("{channel} has no {key}: {payload}"));
        let schema = format!("{at}/payload");
        let validator = self
            .validators
            .entry(schema.clone())
            .or_insert_with(|| self.document.validator(&schema));
        let wrong = validator.wrong(payload);
        assert!(wrong.is_empty(), "{channel} {key}: {wrong:#?}\n{payload}");
        let events = match key {
            "event" => std::slice::from_ref(payload),
            "page" => payload["events"].as_array().unwrap(),
            _ => &[],
        };
        for event in events {
            let kind = event["type"].as_str().unwrap().to_owned();
            self.events.insert((channel, kind));
            if event.get("via").is_some() {
                self.events.insert((channel, "via".to_owned()));
            }
        }
        let code = [
            &payload["code"],
            &payload["problem"]["code"],
            &payload["data"]["code"],
        ];
        if let Some(code) = code.into_iter().find_map(Value::as_str) {
            let known = message["x-codes"]
                .as_array()
                .is_some_and(|codes| codes.contains(&json!(code)));
            assert!(known, "{channel} {key} does not list {code}: {payload}");
            self.codes.insert((channel, key.to_owned(), code.to_owned()));
        }
        self.seen.insert((channel, key.to_owned()));
    }

    /// The examples of what a client may say.
    fn examples(&self, channel: &str, key: &str) -> Vec<Value> {
        let at = pointer(&["channels", channel, "messages", key, "examples"]);
        let examples = self.document.at(&at).as_array().unwrap().iter();
        examples.map(|example| example["payload"].clone()).collect()
    }

    /// Everything that a channel has has come.
    fn finish(&self, channel: &'static str) {
        let mut expected = BTreeSet::new();
        for operation in self.document.at("/operations").as_object().unwrap().values() {
            let sent = (operation["action"] == "send").then_some(&operation["messages"]);
            for message in sent
                .into_iter()
                .chain(operation.pointer("/reply/messages"))
                .flat_map(|list| list.as_array().unwrap())
            {
                let path: Vec<_> = message["$ref"].as_str().unwrap().split('/').collect();
                if path[2] == channel {
                    expected.insert((channel, path[4].to_owned()));
                }
            }
        }
        let seen: BTreeSet<_> = self
            .seen
            .iter()
            .filter(|(of, _)| *of == channel)
            .cloned()
            .collect();
        assert_eq!(seen, expected, "what came, and what is documented");
        let types = self.document.at("/components/schemas/EventType/examples");
        let types = types
            .as_array()
            .unwrap()
            .iter()
            .map(|kind| kind.as_str().unwrap());
        let events: BTreeSet<_> = types
            .chain(["via"])
            .map(|kind| (channel, kind.to_owned()))
            .collect();
        let came: BTreeSet<_> = self
            .events
            .iter()
            .filter(|(of, _)| *of == channel)
            .cloned()
            .collect();
        assert_eq!(
            came, events,
            "the events that came, and those that are documented"
        );
        let mut missing = Vec::new();
        for (_, key) in &expected {
            let at = pointer(&["channels", channel, "messages", key, "x-codes"]);
            for code in self
                .document
                .value
                .pointer(&at)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let code = code.as_str().unwrap();
                let elsewhere = ELSEWHERE
                    .iter()
                    .any(|(of, keys)| *of == code && keys.contains(&key.as_str()));
                if !elsewhere && !self.codes.contains(&(channel, key.clone(), code.to_owned())) {
                    missing.push((key.clone(), code.to_owned()));
                }
            }
        }
        assert!(missing.is_empty(), "documented, and never came: {missing:?}");
    }

    /// Reads what comes until an event of this name has.
    async fn until(&mut self, socket: &mut SocketIo, name: &str) -> Value {
        let read = async {
            loop {
                match socket
                    .next()
                    .await
                    .unwrap_or_else(|| panic!("it ended before {name}"))
                {
                    Incoming::Event {
                        name: found, data, ..
                    } => {
                        self.take("socket", &found, &data);
                        if found == name {
                            return data;
                        }
                    }
                    other => panic!("nobody asked for {other:?}"),
                }
            }
        };
        timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("no {name}"))
    }

    /// Asks, and holds the answer.
    async fn ask(&mut self, socket: &mut SocketIo, command: &str, payload: &Value) -> Value {
        let ack = timeout(LIMIT, socket.ask(command, payload))
            .await
            .expect("an ack")
            .expect("a connection");
        let at = pointer(&["channels", "socket", "messages", command]);
        let key = if self.document.value.pointer(&at).is_some() {
            command
        } else {
            "other"
        };
        self.take("socket", &format!("{key}_ack"), &ack);
        ack
    }

    async fn connect(
        &mut self,
        transport: Transport,
        server: &Server,
        token: &str,
        after: Option<&str>,
    ) -> SocketIo {
        let socket = SocketIo::connect(transport, &server.url(), token, after)
            .await
            .unwrap();
        self.take("socket", "connected", &socket.connected);
        socket
    }
}

/// Where the next message is the one that the examples speak of.
async fn server_of_examples(database: &Database) -> Server {
    let migrated = run(database, &["migrate", "up"], &[]).await;
    assert_eq!(migrated.code, 0, "{migrated:?}");
    database
        .execute("UPDATE log_head SET epoch = 'k7f3q2', position = 4181, floor = 4181")
        .await;
    Server::start(database, SETTINGS).await
}

fn claims(user: &str, seconds: u64) -> String {
    token(&json!({"sub": user, "exp": now() + seconds}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_io_over_websocket_says_what_is_documented() {
    socket_io_says_what_is_documented(Transport::Websocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_io_over_polling_says_what_is_documented() {
    socket_io_says_what_is_documented(Transport::Polling).await;
}

async fn socket_io_says_what_is_documented(transport: Transport) {
    let database = Database::fresh(Kind::Sqlite).await;
    let mut server = server_of_examples(&database).await;
    let mut held = Held::new().await;
    let (alice, bob) = (server.token("alice"), server.token("bob"));
    let mut alices = held.connect(transport, &server, &alice, None).await;
    held.until(&mut alices, "ready").await;

    // The examples, in the order of their story.
    for example in held.examples("socket", "send") {
        let sent = held.ask(&mut alices, "send", &example).await;
        assert!(sent["result"]["_id"].is_number(), "{sent}");
        let event = held.until(&mut alices, "event").await;
        assert_eq!(
            (&event["type"], &event["key"]),
            (&json!("message.sent"), &example["key"])
        );
        assert_eq!(held.ask(&mut alices, "send", &example).await["replayed"], true);
    }
    let mut bobs = held.connect(transport, &server, &bob, Some("0")).await;
    for example in held.examples("socket", "receipt") {
        let marked = held.ask(&mut bobs, "receipt", &example).await;
        assert_eq!(marked["result"]["user_id"], "bob", "{marked}");
    }
    send_as(&server, "alice", "bob").await;
    while held.until(&mut bobs, "event").await.get("via").is_none() {}
    for command in ["history", "conversations", "resume"] {
        for example in held.examples("socket", command) {
            let answer = held.ask(&mut alices, command, &example).await;
            assert!(answer["result"].is_object(), "{command} {example}: {answer}");
        }
    }
    held.until(&mut alices, "ready").await;
    for mut example in held.examples("socket", "authenticate") {
        example["token"] = json!(claims("alice", 7200));
        let answer = held.ask(&mut alices, "authenticate", &example).await;
        assert!(answer["result"]["expires_at"].is_number(), "{answer}");
    }
    for example in held.examples("socket", "other") {
        let answer = held.ask(&mut alices, "nonsense", &example).await;
        assert_eq!(answer["problem"]["code"], "event_unknown");
    }
    held.until(&mut alices, "heartbeat").await;
    let refusals = async {
        commands_are_refused_as_documented(&mut held, &mut alices, &server).await;
        connections_are_refused_as_documented(&mut held, transport, &server).await;
    };
    let (expired, ()) = tokio::join!(a_token_ends_as_documented(transport, &server), refusals);
    held.add(expired);

    // A cursor of another history; a server that ends. Without heartbeats, for what is said to one who has just been given
    // something, and has not polled again, is lost with his server.
    server.set("CHAT_HEARTBEAT_S", "60");
    server.restart().await;
    let mut lost = held.connect(transport, &server, &alice, Some("another:7")).await;
    assert_eq!(held.until(&mut lost, "reset").await["reason"], "other_epoch");
    let ((), closing) = tokio::join!(server.stop(), held.until(&mut lost, "closing"));
    assert_eq!(closing["code"], "shutdown");

    limits_are_said_as_documented(&mut held, transport, &database).await;
    held.finish("socket");
}

async fn a_token_ends_as_documented(transport: Transport, server: &Server) -> Held {
    let mut held = Held::new().await;
    let token = claims("alice", SHORT_S);
    let mut short = held.connect(transport, server, &token, None).await;
    held.until(&mut short, "expiring").await;
    assert_eq!(held.until(&mut short, "closing").await["code"], "token_expired");
    held
}

async fn commands_are_refused_as_documented(held: &mut Held, socket: &mut SocketIo, server: &Server) {
    let expired = token(&json!({"sub": "alice", "exp": now() - 60}));
    let large = "x".repeat(1025);
    let refusals = [
        ("send", json!({"receiver_id": "bob"}), "content_missing"),
        (
            "send",
            json!({"receiver_id": "bob", "text": "a", "data": "QQ=="}),
            "content_ambiguous",
        ),
        (
            "send",
            json!({"receiver_id": "~", "text": "a"}),
            "user_id_invalid",
        ),
        (
            "send",
            json!({"receiver_id": "bob", "text": "a", "content_type": "image/png"}),
            "content_type_invalid",
        ),
        ("send", json!({"receiver_id": "bob", "data": "?"}), "data_invalid"),
        ("send", json!({"receiver_id": "bob", "text": ""}), "content_empty"),
        (
            "send",
            json!({"receiver_id": "bob", "text": large}),
            "content_too_large",
        ),
        (
            "send",
            json!({"receiver_id": "bob", "text": "a", "key": " "}),
            "key_invalid",
        ),
        (
            "send",
            json!({"receiver_id": "bob", "text": "another", "key": "c1-88"}),
            "key_reused",
        ),
        (
            "receipt",
            json!({"type": "read", "up_to": 1}),
            "message_not_found",
        ),
        (
            "receipt",
            json!({"type": "read", "up_to": 4182, "key": ""}),
            "key_invalid",
        ),
        (
            "receipt",
            json!({"type": "read", "up_to": 4182, "key": "c1-88"}),
            "key_reused",
        ),
        ("history", json!({"with": "bob", "limit": 0}), "parameter_invalid"),
        ("history", json!({"with": "~"}), "user_id_invalid"),
        ("conversations", json!({"limit": 201}), "parameter_invalid"),
        ("resume", json!({"after": "?"}), "cursor_invalid"),
        ("authenticate", json!({"token": "nonsense"}), "token_invalid"),
        ("authenticate", json!({"token": expired}), "token_expired"),
        (
            "authenticate",
            json!({"token": server.token("bob")}),
            "token_user_mismatch",
        ),
    ];
    for (command, payload, code) in refusals {
        let refused = held.ask(socket, command, &payload).await;
        assert_eq!(refused["problem"]["code"], code, "{command} {payload}");
    }
    for command in [
        "send",
        "receipt",
        "history",
        "conversations",
        "resume",
        "authenticate",
    ] {
        let refused = held.ask(socket, command, &json!([7])).await;
        assert_eq!(refused["problem"]["code"], "body_invalid", "{command}");
    }
    // A name alone, and more than one argument.
    for (packet, code) in [
        (r#"42900["teleport"]"#, "event_unknown"),
        (r#"42901["send",{},{}]"#, "body_invalid"),
    ] {
        assert!(socket.write(packet).await);
        let ack = async {
            loop {
                match socket.next().await.unwrap() {
                    Incoming::Ack { data, .. } => return data,
                    Incoming::Event { name, data, .. } => held.take("socket", &name, &data),
                    other => panic!("{other:?}"),
                }
            }
        };
        let ack = timeout(LIMIT, ack).await.unwrap();
        assert_eq!(ack["problem"]["code"], code, "{packet}");
        held.take("socket", "other_ack", &ack);
    }
}

async fn connections_are_refused_as_documented(held: &mut Held, transport: Transport, server: &Server) {
    let expired = token(&json!({"sub": "alice", "exp": now() - 60}));
    let alice = server.token("alice");
    let refusals = [
        ("[7]".to_owned(), "body_invalid"),
        ("{}".to_owned(), "token_missing"),
        (json!({"token": "nonsense"}).to_string(), "token_invalid"),
        (json!({"token": expired}).to_string(), "token_expired"),
        (
            json!({"token": alice, "after": "?"}).to_string(),
            "cursor_invalid",
        ),
    ];
    for (auth, code) in refusals {
        let mut socket = SocketIo::open(transport, &server.url()).await.unwrap();
        assert!(socket.write(&format!("40{auth}")).await);
        let Some(Incoming::Refused(error)) = timeout(LIMIT, socket.next()).await.unwrap() else {
            panic!("{auth} is not refused");
        };
        assert_eq!(error["message"], code, "{auth}");
        held.take("socket", "connect_error", &error);
    }
    let client = Client::new(&server.url(), "");
    let long = client
        .get("/socket.io/?EIO=4&transport=polling")
        .header("x-long", "x".repeat(20_000));
    let polling = SocketIo::open(Transport::Polling, &server.url()).await.unwrap();
    let sid = polling.open["sid"].as_str().unwrap();
    let post = || client.post(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}"));
    let large = post()
        .header("content-type", "text/plain")
        .body("x".repeat(64 << 10));
    let compressed = post().header("content-encoding", "gzip").body("x");
    let of_two_hosts = post().header("host", "a").header("host", "b");
    for (request, code) in [
        (long, "headers_too_large"),
        (large, "body_too_large"),
        (compressed, "media_type_unsupported"),
        (of_two_hosts, "request_invalid"),
    ] {
        let refused = reply(request).await;
        assert_eq!(refused.body["code"], code, "{refused:?}");
        held.take("socket", "refused", &refused.body);
    }
}

/// A server that allows next to nothing.
async fn limits_are_said_as_documented(held: &mut Held, transport: Transport, database: &Database) {
    let settings = [
        ("CHAT_SENDS_PER_SECOND", "1"),
        ("CHAT_SENDS_BURST", "1"),
        ("CHAT_CONNECTIONS_PER_USER", "1"),
        ("CHAT_CONNECTIONS_PER_ADDRESS", "2"),
        // Whose addresses have no limit.
        ("CHAT_TRUSTED_PROXIES", ""),
    ];
    let server = Server::start(database, &settings).await;
    let mut first = held
        .connect(transport, &server, &server.token("alice"), None)
        .await;
    let message = json!({"receiver_id": "bob", "text": "often"});
    // All at once, or a slow machine would send no more than it may.
    const SENDS: usize = 10;
    for _ in 0..SENDS {
        first.emit("send", &message).await.unwrap();
    }
    let mut refused = Vec::new();
    let mut acks = 0;
    while acks < SENDS {
        match timeout(LIMIT, first.next()).await.unwrap().unwrap() {
            Incoming::Ack { data, .. } => {
                held.take("socket", "send_ack", &data);
                acks += 1;
                refused.extend(data["problem"]["code"].as_str().map(String::from));
            }
            Incoming::Event { name, data, .. } => held.take("socket", &name, &data),
            other => panic!("nobody asked for {other:?}"),
        }
    }
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|code| code == "rate_limited"), "{refused:?}");
    let mut second = held
        .connect(transport, &server, &server.token("alice"), None)
        .await;
    assert_eq!(
        held.until(&mut second, "closing").await["code"],
        "too_many_connections"
    );
    drop(second);
    // The address has two places, and each session takes one.
    let mut refused = None;
    for _ in 0..3 {
        let answer = reply(Client::new(&server.url(), "").get("/socket.io/?EIO=4&transport=polling")).await;
        refused = Some(answer).filter(|answer| answer.status == 503).or(refused);
    }
    let refused = refused.expect("the third is one too many");
    assert_eq!(refused.body["code"], "too_many_connections");
    held.take("socket", "refused", &refused.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_say_what_is_documented() {
    let database = Database::fresh(Kind::Sqlite).await;
    let mut server = server_of_examples(&database).await;
    let mut held = Held::new().await;
    let alice = server.client("alice");
    let short = Client::new(&server.url(), &claims("alice", SHORT_S));
    let mut short = open(&short, "").await;
    let mut stream = open(&alice, "").await;
    until(&mut held, &mut stream, "ready").await;
    alice.send("bob", "hi", Some("c1-88")).await.unwrap();
    alice
        .send_body(
            &json!({"receiver_id": "bob", "data": "iVBORw0KGgo=", "content_type": "image/png"}),
            None,
        )
        .await
        .unwrap();
    for kind in ["received", "read"] {
        server.client("bob").receipt(kind, 4182).await.unwrap();
    }
    send_as(&server, "alice", "bob").await;
    let mut types = Vec::new();
    for _ in 0..5 {
        types.push(until(&mut held, &mut stream, "event").await["type"].clone());
    }
    let expected = [
        "message.sent",
        "message.sent",
        "receipt.received",
        "receipt.read",
        "message.sent",
    ];
    assert_eq!(types, expected);
    until(&mut held, &mut stream, "heartbeat").await;
    for example in held.examples("stream", "open") {
        let after = format!("?after={}", example["after"].as_str().unwrap());
        let mut again = open(&alice, &after).await;
        until(&mut held, &mut again, "event").await;
    }
    let mut lost = open(&alice, "?after=another:7").await;
    assert_eq!(
        until(&mut held, &mut lost, "reset").await["reason"],
        "other_epoch"
    );
    refusals_are_as_documented(&mut held, &server, "stream", "text/event-stream").await;
    until(&mut held, &mut short, "expiring").await;
    assert_eq!(
        until(&mut held, &mut short, "closing").await["code"],
        "token_expired"
    );
    server.stop().await;
    assert_eq!(until(&mut held, &mut stream, "closing").await["code"], "shutdown");
    let server = Server::start(&database, &[("CHAT_CONNECTIONS_PER_USER", "1")]).await;
    let mut first = open(&server.client("alice"), "").await;
    until(&mut held, &mut first, "ready").await;
    let mut second = open(&server.client("alice"), "").await;
    assert_eq!(
        until(&mut held, &mut second, "closing").await["code"],
        "too_many_connections"
    );
    held.finish("stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_polls_say_what_is_documented() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = server_of_examples(&database).await;
    let mut held = Held::new().await;
    let alice = server.client("alice");
    alice.send("bob", "hi", Some("c1-88")).await.unwrap();
    for kind in ["received", "read"] {
        server.client("bob").receipt(kind, 4182).await.unwrap();
    }
    send_as(&server, "alice", "bob").await;
    for example in held.examples("poll", "ask") {
        let (after, wait) = (
            example["after"].as_str().unwrap(),
            example["wait"].as_u64().unwrap(),
        );
        let page = alice.poll(after, wait).await.unwrap();
        assert_eq!(page["events"][0]["position"], 4182);
        held.take("poll", "page", &page);
    }
    refusals_are_as_documented(&mut held, &server, "poll", "application/json").await;
    let lost = reply(alice.get("/v1/events?after=another:7&wait=0")).await;
    assert_eq!((lost.status, &lost.body["code"]), (410, &json!("cursor_reset")));
    held.take("poll", "refused", &lost.body);
    drop(server);
    let server = Server::start(&database, &[("CHAT_CONNECTIONS_PER_USER", "1")]).await;
    let mut first = server.client("alice").events(None).await.unwrap();
    first.named("ready", LIMIT).await;
    let refused = reply(server.client("alice").get("/v1/events?wait=0")).await;
    assert_eq!(refused.body["code"], "too_many_connections");
    held.take("poll", "refused", &refused.body);
    held.finish("poll");
}

/// A service speaks for a user: the event has its name as `via`.
async fn send_as(server: &Server, sender: &str, receiver: &str) {
    let scoped = token(&json!({"sub": "bridge", "exp": now() + 3600, "scope": "chat.send_as"}));
    let message = Client::new(&server.url(), &scoped)
        .post("/v1/messages")
        .header("Act-As", sender)
        .json(&json!({"receiver_id": receiver, "text": "from elsewhere"}));
    assert_eq!(reply(message).await.status, 201);
}

async fn open(client: &Client, query: &str) -> Events {
    Events::open(client.get(&format!("/v1/events{query}")))
        .await
        .unwrap()
}

async fn until(held: &mut Held, stream: &mut Events, key: &str) -> Value {
    loop {
        let frame = stream
            .next(LIMIT)
            .await
            .unwrap_or_else(|| panic!("it ended before {key}"));
        // What is in the log has no name of its own.
        let name = if frame.event == "message" {
            "event"
        } else {
            &frame.event
        };
        held.take("stream", name, &frame.data);
        if name == key {
            return frame.data;
        }
    }
}

async fn refusals_are_as_documented(held: &mut Held, server: &Server, channel: &'static str, accept: &str) {
    let expired = token(&json!({"sub": "alice", "exp": now() - 60}));
    let (alice, nobody) = (server.client("alice"), Client::new(&server.url(), ""));
    for (client, query, accept, code) in [
        (&nobody, "", accept, "token_missing"),
        (
            &Client::new(&server.url(), "nonsense"),
            "",
            accept,
            "token_invalid",
        ),
        (&Client::new(&server.url(), &expired), "", accept, "token_expired"),
        (&alice, "?all=true", accept, "scope_missing"),
        (&alice, "?limit=x", accept, "parameter_invalid"),
        (&alice, "?after=x", accept, "cursor_invalid"),
        (&alice, "", "text/html", "not_acceptable"),
    ] {
        let refused = reply(client.get(&format!("/v1/events{query}")).header(ACCEPT, accept)).await;
        assert_eq!(refused.body["code"], code, "{query}: {refused:?}");
        held.take(channel, "refused", &refused.body);
    }
    for (name, value, code) in [
        ("x-long", "x".repeat(20_000), "headers_too_large"),
        ("x-last-event-id", "0".to_owned(), "request_invalid"),
    ] {
        let request = alice.get("/v1/events").header(ACCEPT, accept).header(name, value);
        let refused = reply(request).await;
        assert_eq!(refused.body["code"], code, "{refused:?}");
        held.take(channel, "refused", &refused.body);
    }
}
