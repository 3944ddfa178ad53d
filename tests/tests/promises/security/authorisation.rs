//! Who may do and see what: every operation of both documents, for everybody who may ask, on a running server.
//!
//! The secret is one message of `alice`, the owner, to `bob`, the peer. The rows are those of the documents: an operation that
//! has none fails, and so does a row without an operation. `access.rs` goes into the depth of REST, with callers who are
//! nearly one of the two, while others chat.

use std::{collections::BTreeSet, sync::Mutex, time::Duration};

use chat_tests::{
    Client, Database, Events, Kind, Reply, Server,
    documents::Document,
    reply,
    server::{now, token},
    socketio::{Incoming, SocketIo, Transport},
};
use futures_util::{StreamExt, stream};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
const CONVERSATION: &str = "alice,bob";
const KEY: &str = "the-key-of-the-secret";

/// How many cells are asked at once. Ten of them wait for the end of a token.
const AT_ONCE: usize = 24;
/// How long such a token is good.
const SHORT_S: u64 = 15;

const ROLES: [&str; 7] = [
    "owner",
    "peer",
    "stranger",
    "anonymous",
    "expired",
    "sender",
    "reader",
];

/// What a cell says: `secret` where the secret is shown, `own` where the answer is good and nothing of it is there, else the
/// code of the refusal. After a `?` stands what of an operation is asked; of what is followed, also the type of an event.
///
/// `sender` is a service with the scope `chat.send_as`, `reader` one with `chat.read_all`.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 7]); 53] = [
    // OpenAPI.                     owner            peer              stranger            anonymous        expired          sender               reader
    ("send_message",               ["secret",        "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("send_message?as",            ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "secret",            "scope_missing"]),
    ("list_messages",              ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("list_messages?as",           ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "scope_missing"]),
    ("get_message",                ["secret",        "secret",         "message_not_found", "token_missing", "token_expired", "message_not_found", "message_not_found"]),
    ("get_message?as",             ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "scope_missing"]),
    ("list_conversations",         ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("list_conversations?as",      ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "scope_missing"]),
    ("send_receipt",               ["secret",        "secret",         "message_not_found", "token_missing", "token_expired", "message_not_found", "message_not_found"]),
    ("send_receipt?as",            ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "secret",            "scope_missing"]),
    ("stream_events",              ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_events?as",           ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "scope_missing"]),
    ("stream_events?all",          ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "secret"]),
    ("check_health",               ["own",           "own",            "own",              "own",           "own",           "own",               "own"]),
    ("check_readiness",            ["own",           "own",            "own",              "own",           "own",           "own",               "own"]),
    // With a key of its own the server signs nothing.
    ("create_development_token",   ["route_not_found"; 7]),
    // AsyncAPI: what a client says. On socket.io a scope opens nothing.
    ("socket_connect",             ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_send",                ["secret",        "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_receipt",             ["secret",        "secret",         "message_not_found", "token_missing", "token_expired", "message_not_found", "message_not_found"]),
    ("socket_history",             ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_conversations",       ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_resume",              ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_authenticate",        ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    // With the token of the owner.
    ("socket_authenticate?other",  ["own",           "token_user_mismatch", "token_user_mismatch", "token_missing", "token_expired", "token_user_mismatch", "token_user_mismatch"]),
    ("socket_other",               ["event_unknown", "event_unknown",  "event_unknown",    "token_missing", "token_expired", "event_unknown",     "event_unknown"]),
    ("stream_open",                ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_open?as",             ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "scope_missing"]),
    ("stream_open?all",            ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "own"]),
    ("poll_ask",                   ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("poll_ask?all",               ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "secret"]),
    // AsyncAPI: what a client is sent.
    ("socket_ready",               ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event",               ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event?message.sent",  ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event?receipt.received", ["secret",     "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event?receipt.read",  ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event?live",          ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_event?resumed",       ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_heartbeat",           ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_reset",               ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_expiring",            ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("socket_closing",             ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    // Before anybody has said who it is.
    ("socket_refused",             ["headers_too_large"; 7]),
    ("stream_ready",               ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event",               ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event?message.sent",  ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event?receipt.received", ["secret",     "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event?receipt.read",  ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event?live",          ["secret",        "secret",         "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_event?all",           ["scope_missing", "scope_missing",  "scope_missing",    "token_missing", "token_expired", "scope_missing",     "secret"]),
    ("stream_heartbeat",           ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_reset",               ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_expiring",            ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
    ("stream_closing",             ["own",           "own",            "own",              "token_missing", "token_expired", "own",               "own"]),
];

#[tokio::test]
async fn each_operation_of_both_documents_has_a_row() {
    let mut operations = BTreeSet::new();
    for item in Document::openapi()
        .await
        .at("/paths")
        .as_object()
        .unwrap()
        .values()
    {
        let ids = item
            .as_object()
            .unwrap()
            .values()
            .map(|operation| operation["operationId"].as_str().unwrap().to_owned());
        operations.extend(ids);
    }
    operations.extend(
        Document::asyncapi()
            .await
            .at("/operations")
            .as_object()
            .unwrap()
            .keys()
            .cloned(),
    );
    let rows: BTreeSet<_> = TABLE
        .iter()
        .map(|(row, _)| row.split('?').next().unwrap().to_owned())
        .collect();
    assert_eq!(rows, operations);
}

#[tokio::test]
async fn each_type_of_event_has_a_row_wherever_events_are_followed() {
    let document = Document::asyncapi().await;
    let types = document
        .at("/components/schemas/EventType/examples")
        .as_array()
        .unwrap();
    let operations = document.at("/operations").as_object().unwrap();
    let mut expected = BTreeSet::new();
    for operation in operations
        .keys()
        .filter(|operation| operation.ends_with("_event"))
    {
        expected.extend(
            types
                .iter()
                .map(|kind| format!("{operation}?{}", kind.as_str().unwrap())),
        );
    }
    let rows: BTreeSet<_> = TABLE
        .iter()
        .map(|(row, _)| (*row).to_owned())
        .filter(|row| row.contains("_event?") && row.contains('.'))
        .collect();
    assert_eq!(rows, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cell_is_what_the_server_does_over_websocket() {
    check_the_table(Transport::Websocket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cell_is_what_the_server_does_over_polling() {
    check_the_table(Transport::Polling).await;
}

async fn check_the_table(transport: Transport) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(
        &database,
        &[("CHAT_HEARTBEAT_S", "1"), ("CHAT_JWT_LEEWAY_S", "0")],
    )
    .await;
    let secret = server
        .client("alice")
        .send("bob", "the secret", Some(KEY))
        .await
        .unwrap();
    let secret = secret["_id"].as_i64().unwrap();
    for kind in ["received", "read"] {
        server.client("bob").receipt(kind, secret).await.unwrap();
    }
    let roles = ROLES.map(|name| Role::new(name, transport, &server));
    let mut cells = Vec::new();
    for (n, role) in roles.iter().enumerate() {
        cells.extend(TABLE.map(|(row, expected)| (role, ROLES[n], row, expected[n])));
    }
    // Those that wait begin first.
    cells.sort_by_key(|(_, _, row, _)| !row.ends_with("_closing"));
    let secrets = &Secrets::new(secret);
    let asked = stream::iter(cells).map(|(role, name, row, expected)| async move {
        let found = role.cell(row, secrets).await;
        (found != expected).then(|| format!("{row} for {name}: {found}, and not {expected}"))
    });
    let wrong: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The numbers of all secrets that there are, whichever cell they came from: none of them may be shown in another.
struct Secrets {
    first: i64,
    all: Mutex<Vec<i64>>,
}

impl Secrets {
    fn new(first: i64) -> Secrets {
        Secrets {
            first,
            all: Mutex::new(vec![first]),
        }
    }

    fn add(&self, secret: i64) {
        self.all.lock().unwrap().push(secret);
    }

    fn hold(&self, number: i64) -> bool {
        self.all.lock().unwrap().contains(&number)
    }
}

struct Role<'s> {
    server: &'s Server,
    transport: Transport,
    user: &'static str,
    /// Whose conversation with it is asked for.
    other: &'static str,
    token: String,
    scope: &'static str,
}

impl<'s> Role<'s> {
    fn new(name: &str, transport: Transport, server: &'s Server) -> Role<'s> {
        let (user, other, scope) = match name {
            "owner" => ("alice", "bob", ""),
            "peer" => ("bob", "alice", ""),
            "stranger" => ("carol", "alice", ""),
            "sender" => ("bridge", "alice", "chat.send_as"),
            "reader" => ("archive", "alice", "chat.read_all"),
            // Who it would be counts for nothing.
            "anonymous" | "expired" => ("alice", "bob", ""),
            other => panic!("{other} is nobody"),
        };
        let token = match name {
            "anonymous" => String::new(),
            "expired" => token(&json!({"sub": user, "exp": now() - 60})),
            _ => token(&json!({"sub": user, "exp": now() + 3600, "scope": scope})),
        };
        Role {
            server,
            transport,
            user,
            other,
            token,
            scope,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.server.url(), &self.token)
    }

    /// What the server does, in the words of the table.
    async fn cell(&self, row: &str, secrets: &Secrets) -> String {
        let (operation, variant) = row.split_once('?').unwrap_or((row, ""));
        match operation.split_once('_') {
            Some(("socket", message)) => self.socket(message, variant, secrets).await,
            Some(("stream", message)) if message != "events" => self.stream(message, variant, secrets).await,
            _ => word(&self.ask(operation, variant, secrets.first).await, secrets),
        }
    }

    async fn ask(&self, operation: &str, variant: &str, secret: i64) -> Reply {
        let client = self.client();
        let request = match operation {
            "send_message" => {
                let message = json!({"receiver_id": "bob", "text": "the secret"});
                client
                    .post("/v1/messages")
                    .header("Idempotency-Key", KEY)
                    .json(&message)
            }
            "list_messages" => client.get(&format!("/v1/messages?after=0&with={}", self.other)),
            "get_message" => client.get(&format!("/v1/messages/{secret}")),
            "list_conversations" => client.get("/v1/conversations?limit=200"),
            "send_receipt" => client
                .post("/v1/receipts")
                .json(&json!({"type": "received", "up_to": secret})),
            "stream_events" | "poll_ask" => client.get("/v1/events?after=0&wait=0&limit=200"),
            "check_health" => client.get("/healthz"),
            "check_readiness" => client.get("/readyz"),
            "create_development_token" => client.post("/dev/token").json(&json!({"user_id": "alice"})),
            other => panic!("{other} has a row, and nothing that asks for it"),
        };
        reply(match variant {
            "as" => request.header("Act-As", "alice"),
            "all" => request.query(&[("all", "true")]),
            _ => request,
        })
        .await
    }

    async fn socket(&self, message: &str, variant: &str, secrets: &Secrets) -> String {
        if message == "refused" {
            let long = self
                .client()
                .get("/socket.io/?EIO=4&transport=polling")
                .header("x-long", "x".repeat(20_000));
            return word(&reply(long).await, secrets);
        }
        // Who is refused gets no further, whatever it wanted.
        let mut socket = match self.connect(&self.token, "0").await {
            Ok(socket) => socket,
            Err(code) => return code,
        };
        let secret = secrets.first;
        let payload = match message {
            "send" => json!({"receiver_id": "bob", "text": "the secret", "key": KEY}),
            "receipt" => json!({"type": "received", "up_to": secret}),
            "history" => json!({"with": self.other, "after": 0}),
            "conversations" => json!({"limit": 200}),
            "resume" => json!({"after": "0"}),
            "authenticate" if variant == "other" => json!({"token": self.server.token("alice")}),
            "authenticate" => json!({"token": self.token}),
            "other" => return word_of(&ask(&mut socket, "nonsense", &json!({})).await, secrets),
            _ => return self.delivered(socket, message, variant, secrets).await,
        };
        word_of(&ask(&mut socket, message, &payload).await, secrets)
    }

    async fn connect(&self, token: &str, after: &str) -> Result<SocketIo, String> {
        let url = self.server.url();
        let mut socket = SocketIo::open(self.transport, &url).await.unwrap();
        if token.is_empty() {
            assert!(socket.write("40{}").await);
            let Some(Incoming::Refused(error)) = timeout(LIMIT, socket.next()).await.unwrap() else {
                panic!("nobody is connected");
            };
            return Err(error["message"].as_str().unwrap().to_owned());
        }
        let connected = socket.log_in(token, Some(after)).await;
        connected
            .map_err(|refusal| refusal.body["message"].as_str().unwrap().to_owned())
            .map(|()| socket)
    }

    /// What comes over a socket by itself.
    async fn delivered(
        &self,
        mut socket: SocketIo,
        message: &str,
        variant: &str,
        secrets: &Secrets,
    ) -> String {
        match message {
            "connect" => word_of(&socket.connected, secrets),
            "ready" => {
                let ready = until(&mut socket, "ready").await;
                assert_eq!(ready["user_id"], self.user);
                word_of(&ready, secrets)
            }
            "event" => {
                let mut live = None;
                if variant == "live" {
                    until(&mut socket, "ready").await;
                    live = Some(self.new_secret(secrets).await);
                }
                if variant == "resumed" {
                    until(&mut socket, "ready").await;
                    ask(&mut socket, "resume", &json!({"after": "0"})).await;
                    until(&mut socket, "ready").await;
                }
                let marker = format!("marker-{}", rand::random::<u64>());
                let sent = ask(
                    &mut socket,
                    "send",
                    &json!({"receiver_id": self.user, "text": "x", "key": marker}),
                )
                .await;
                assert!(sent["result"]["_id"].is_number(), "{sent}");
                loop {
                    let event = until(&mut socket, "event").await;
                    if is_secret(&event, variant, live, secrets) {
                        return "secret".into();
                    }
                    if event["key"] == json!(marker) {
                        return "own".into();
                    }
                }
            }
            "heartbeat" => word_of(&until(&mut socket, "heartbeat").await, secrets),
            "reset" => {
                let mut lost = self.connect(&self.token, "another:7").await.unwrap();
                word_of(&until(&mut lost, "reset").await, secrets)
            }
            "expiring" | "closing" => {
                // Said a minute ahead, so at once.
                let exp = now() + if message == "closing" { SHORT_S } else { 50 };
                let short = token(&json!({"sub": self.user, "exp": exp, "scope": self.scope}));
                let mut short = self.connect(&short, "0").await.unwrap();
                let last = until(&mut short, message).await;
                assert!(message == "closing" || last["expires_at"] == exp, "{last}");
                let code = last["code"].as_str().unwrap_or("token_expired");
                assert_eq!(code, "token_expired");
                if shows(&last, secrets) {
                    "secret".into()
                } else {
                    "own".into()
                }
            }
            other => panic!("{other} has a row, and nothing that waits for it"),
        }
    }

    async fn new_secret(&self, secrets: &Secrets) -> i64 {
        let sent = self
            .server
            .client("alice")
            .send("bob", "another secret", None)
            .await;
        let secret = sent.unwrap()["_id"].as_i64().unwrap();
        secrets.add(secret);
        secret
    }

    async fn stream(&self, message: &str, variant: &str, secrets: &Secrets) -> String {
        let query = |after: &str| match variant {
            "all" => format!("/v1/events?after={after}&all=true"),
            _ => format!("/v1/events?after={after}"),
        };
        let open = async |client: &Client, after: &str| {
            let request = client.get(&query(after));
            let request = if variant == "as" {
                request.header("Act-As", "alice")
            } else {
                request
            };
            Events::open(request.header(ACCEPT, "text/event-stream")).await
        };
        let mut stream = match open(&self.client(), "0").await {
            Ok(stream) => stream,
            Err(refused) => return refused.code,
        };
        let shown = match message {
            "open" => return "own".into(),
            "ready" => {
                let ready = stream.named("ready", LIMIT).await.data;
                assert_eq!(ready["user_id"], self.user);
                ready
            }
            "heartbeat" => stream.named("heartbeat", LIMIT).await.data,
            "reset" => {
                open(&self.client(), "another:7")
                    .await
                    .unwrap()
                    .named("reset", LIMIT)
                    .await
                    .data
            }
            "expiring" | "closing" => {
                // Said a minute ahead, so at once.
                let exp = now() + if message == "closing" { SHORT_S } else { 50 };
                let short = token(&json!({"sub": self.user, "exp": exp, "scope": self.scope}));
                let short = Client::new(&self.server.url(), &short);
                let last = open(&short, "0").await.unwrap().named(message, LIMIT).await.data;
                assert!(
                    last["expires_at"] == exp || last["code"] == "token_expired",
                    "{last}"
                );
                return if shows(&last, secrets) {
                    "secret".into()
                } else {
                    "own".into()
                };
            }
            "event" => return self.streamed(stream, variant, secrets).await,
            other => panic!("{other} has a row, and nothing that waits for it"),
        };
        word_of(&shown, secrets)
    }

    async fn streamed(&self, mut stream: Events, variant: &str, secrets: &Secrets) -> String {
        let mut live = None;
        if variant == "live" {
            stream.named("ready", LIMIT).await;
            live = Some(self.new_secret(secrets).await);
        }
        let marker = format!("marker-{}", rand::random::<u64>());
        self.client().send(self.user, "x", Some(&marker)).await.unwrap();
        loop {
            let event = stream.event(LIMIT).await;
            if is_secret(&event, variant, live, secrets) {
                return "secret".into();
            }
            if event["key"] == json!(marker) {
                return "own".into();
            }
        }
    }
}

async fn ask(socket: &mut SocketIo, command: &str, payload: &Value) -> Value {
    timeout(LIMIT, socket.ask(command, payload))
        .await
        .expect("an ack")
        .expect("a connection")
}

/// The next event of this name.
async fn until(socket: &mut SocketIo, wanted: &str) -> Value {
    let read = async {
        loop {
            if let Incoming::Event { name, data, .. } = socket.next().await.expect("a connection")
                && name == wanted
            {
                return data;
            }
        }
    };
    timeout(LIMIT, read)
        .await
        .unwrap_or_else(|_| panic!("no {wanted}"))
}

/// Live, only the one that this cell has sent counts: others came from the log, or from elsewhere.
fn is_secret(event: &Value, variant: &str, live: Option<i64>, secrets: &Secrets) -> bool {
    if let Some(position) = live {
        return event["position"] == position;
    }
    // Of one type; the other variants are no types.
    (!variant.contains('.') || event["type"] == variant) && shows(event, secrets)
}

fn word(answer: &Reply, secrets: &Secrets) -> String {
    if answer.status < 400 {
        return word_of(&answer.body, secrets);
    }
    assert!(!shows(&answer.body, secrets), "{answer:?}");
    answer.body["code"].as_str().unwrap().to_owned()
}

fn word_of(answer: &Value, secrets: &Secrets) -> String {
    let code = [&answer["problem"]["code"], &answer["code"]]
        .into_iter()
        .find_map(Value::as_str);
    match code {
        Some(code) => code.to_owned(),
        None if shows(answer, secrets) => "secret".to_owned(),
        None => "own".to_owned(),
    }
}

/// Whether an answer holds a secret anywhere: its number, or its conversation.
fn shows(body: &Value, secrets: &Secrets) -> bool {
    match body {
        Value::Object(fields) => fields.iter().any(|(name, value)| match name.as_str() {
            "_id" | "position" => value.as_i64().is_some_and(|number| secrets.hold(number)),
            "conversation_id" => value == CONVERSATION,
            _ => shows(value, secrets),
        }),
        Value::Array(items) => items.iter().any(|item| shows(item, secrets)),
        _ => false,
    }
}
