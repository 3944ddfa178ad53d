//! Nobody sees what is not theirs: each route, for each kind of caller, while others chat.
//!
//! The secret is one message of `alice` to `bob`. The callers who must learn nothing of it are those whom a careless
//! comparison would take for one of the two: another case, a prefix, an extension of an id.

use std::{collections::BTreeSet, time::Duration};

use chat_tests::{
    Client, Database, Events, Reply, Server,
    chatter::{self, Chatter, position_of},
    inside, ok, on_each_database, reply, run_alone,
    server::{now, token},
};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const OWNER: &str = "alice";
const PEER: &str = "bob";
const CONVERSATION: &str = "alice,bob";
const KEY: &str = "the-key-of-the-secret";

/// Strangers, and those who are nearly `alice` or `bob`.
const OUTSIDERS: [&str; 6] = ["carol", "Alice", "alic", "alice2", "BOB", "bo"];

/// Every operation of the document stands here: what it shows to whom is in [`Asked::of`].
const OPERATIONS: [&str; 9] = [
    "send_message",
    "list_messages",
    "get_message",
    "list_conversations",
    "send_receipt",
    "stream_events",
    "check_health",
    "check_readiness",
    "create_development_token",
];

on_each_database! {
    async fn nobody_sees_what_is_not_theirs(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, chatter::SETTINGS).await;
        let secret = server.client(OWNER).send(PEER, "the secret", Some(KEY)).await.unwrap();
        let secret = secret["_id"].as_i64().unwrap();
        // A conversation of two others, so that an id in the path is not only refused for its number.
        let other = server.client("dave").send("erin", "theirs", None).await.unwrap()["_id"].as_i64().unwrap();
        server.client(PEER).receipt("received", secret).await.unwrap();

        let talkers = [(OWNER, PEER), (PEER, OWNER), ("Alice", PEER), ("alic", PEER), ("alice2", OWNER), ("carol", "dave")];
        let listeners = [OWNER, PEER, "carol", "Alice", "alic", "alice2", "BOB", "bo", "dave"];
        let chatter = Chatter::start(&server, &database, &talkers, &listeners).await;

        for operation in OPERATIONS {
            for asked in Asked::of(operation, secret) {
                for outsider in OUTSIDERS {
                    let answer = asked.ask(&server.client(outsider)).await;
                    asked.check_outsider(outsider, &answer, secret);
                }
                let mut parties = Vec::new();
                for party in [OWNER, PEER] {
                    let answer = asked.ask(&server.client(party)).await;
                    asked.check_party(party, &answer, secret);
                    parties.push(answer);
                }
                let expired = token(&json!({"sub": OWNER, "exp": now() - 60}));
                for (token, code) in [("", "token_missing"), (&*expired, "token_expired")] {
                    let answer = asked.ask(&Client::new(&server.url(), token)).await;
                    asked.check_without_token(code, &answer, secret);
                }
            }
        }
        strangers_learn_nothing_from_a_refusal(&server, secret, other).await;
        marks_are_those_of_the_parties(&database).await;
        let chatted = chatter.finish(&server, &database).await;
        assert!(chatted.messages() > 2 * talkers.len(), "{} messages", chatted.messages());
        let verified = server.run(&["verify"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

on_each_database! {
    /// A service with the scope sends as others, and the log keeps that it did; nobody else does, and nobody reads so.
    async fn only_its_scope_lets_a_service_act_for_others(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let service = scoped(&server, "bridge", "openid chat.send_as");
        let mut bob = server.client("bob").events(None).await.unwrap();
        bob.named("ready", LIMIT).await;
        let send = |client: &Client, act_as: &[&str], key: &str| {
            let body = json!({"receiver_id": "bob", "text": "hi"});
            let request = client.post("/v1/messages").header("Idempotency-Key", key).json(&body);
            act_as.iter().fold(request, |request, user| request.header("Act-As", *user))
        };

        let sent = ok(send(&service, &["alice"], "k")).await.unwrap();
        assert_eq!((&sent["sender_id"], &sent["conversation_id"]), (&json!("alice"), &json!("alice,bob")));
        let event = bob.next(LIMIT).await.unwrap().data;
        assert_eq!((&event["actor_id"], &event["via"]), (&json!("alice"), &json!("bridge")));
        assert_eq!(event["message"], sent);
        let up_to = sent["_id"].as_i64().unwrap();
        let receipt = service.post("/v1/receipts").header("Act-As", "bob").json(&json!({"type": "read", "up_to": up_to}));
        assert_eq!(ok(receipt).await.unwrap()["user_id"], "bob");
        let event = bob.next(LIMIT).await.unwrap().data;
        assert_eq!((&event["actor_id"], &event["via"]), (&json!("bob"), &json!("bridge")));

        // Keys are the actor's: whoever sends it again meets the same message, and the service's own key is another.
        for again in [reply(send(&service, &["alice"], "k")).await, reply(send(&server.client("alice"), &[], "k")).await] {
            assert_eq!(again.header("idempotency-replayed"), "true", "{again:?}");
            assert_eq!(again.body["_id"], up_to);
        }
        let own = ok(send(&service, &[], "k")).await.unwrap();
        assert_eq!(own["sender_id"], "bridge");
        let event = bob.next(LIMIT).await.unwrap().data;
        assert_eq!((&event["actor_id"], &event["via"]), (&json!("bridge"), &Value::Null));
        // As itself it acts for nobody else.
        ok(send(&service, &["bridge"], "self")).await.unwrap();
        assert_eq!(bob.next(LIMIT).await.unwrap().data["via"], Value::Null);

        let head = position_of(bob.cursor().unwrap());
        for (client, act_as, status, code) in [
            (server.client("mallory"), &["alice"][..], 403, "scope_missing"),
            (server.client("alice"), &["alice"], 403, "scope_missing"),
            (scoped(&server, "mallory", "chat.send_ass chat.read_all"), &["alice"], 403, "scope_missing"),
            (scoped(&server, "mallory", ""), &["not a user"], 403, "scope_missing"),
            (service.clone(), &["not a user"], 400, "user_id_invalid"),
            (service.clone(), &[""], 400, "user_id_invalid"),
            (service.clone(), &["~room"], 400, "user_id_invalid"),
            (service.clone(), &["alice", "carol"], 400, "user_id_invalid"),
            (Client::new(&server.url(), ""), &["alice"], 401, "token_missing"),
        ] {
            let receipt = act_as.iter().fold(client.post("/v1/receipts"), |request, user| request.header("Act-As", *user));
            let receipt = receipt.json(&json!({"type": "read", "up_to": up_to}));
            for request in [send(&client, act_as, "new"), receipt] {
                let refused = reply(request).await;
                assert_eq!((refused.status, &refused.body["code"]), (status, &json!(code)), "{act_as:?} {refused:?}");
                if status != 401 {
                    assert_eq!(refused.body["errors"][0]["header"], "Act-As", "{refused:?}");
                }
            }
        }
        for path in ["/v1/messages?with=bob", "/v1/messages/1", "/v1/conversations", "/v1/events?after=0&wait=0"] {
            let get = || service.get(path).header("Act-As", "alice");
            for request in [get(), get().header(ACCEPT, "text/event-stream, application/json")] {
                let refused = reply(request).await;
                assert_eq!((refused.status, &refused.body["code"]), (403, &json!("scope_missing")), "{path}");
            }
        }
        let now = server.client("bob").poll("", 0).await.unwrap();
        assert_eq!(now["head"], head, "what was refused is not in the log");
        let verified = server.run(&["verify"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
    }
}

on_each_database! {
    /// A service with the scope, and that asks for it, follows everybody: the same events in the same chain.
    async fn only_its_scope_shows_a_service_the_events_of_everybody(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &[]).await;
        let service = scoped(&server, "bridge", "chat.read_all");
        // More than a page.
        let mut all = Vec::new();
        for n in 0..50 {
            for (from, to) in [("alice", "bob"), ("carol", "carol"), ("bridge", "dave")] {
                all.push(server.client(from).send(to, &n.to_string(), None).await.unwrap()["_id"].as_i64().unwrap());
            }
        }
        server.client("bob").receipt("read", all[0]).await.unwrap();
        all.push(all.last().unwrap() + 1);
        let everything = |query: &str| service.get(&format!("/v1/events?all=true&{query}"));

        // From the beginning, and live.
        let mut stream = Events::open(everything("after=0")).await.unwrap();
        let ready = stream.named("ready", LIMIT).await;
        assert_eq!(ready.data["user_id"], "bridge");
        let mut seen: Vec<_> = stream.take(all.len(), LIMIT).await.iter().map(position).collect();
        assert_eq!(seen, all);
        let middle = stream.cursor().unwrap().to_owned();
        for (from, to) in [("erin", "frank"), ("alice", "bob")] {
            all.push(server.client(from).send(to, "live", None).await.unwrap()["_id"].as_i64().unwrap());
        }
        seen.extend(stream.take(2, LIMIT).await.iter().map(position));
        assert_eq!(seen, all);

        // The long poll goes the same way, page by page, and so does a stream that comes back.
        let (mut after, mut polled) = ("0".to_owned(), Vec::new());
        loop {
            let page = ok(everything(&format!("after={after}&wait=0&limit=40"))).await.unwrap();
            let events = page["events"].as_array().unwrap();
            for event in events {
                assert!(after == "0" || event["prev"] == after, "{event}");
                after = event["cursor"].as_str().unwrap().to_owned();
            }
            polled.extend(events.iter().map(position));
            after = page["cursor"].as_str().unwrap().to_owned();
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(polled, all);
        let mut again = Events::open(everything(&format!("after={middle}"))).await.unwrap();
        again.named("ready", LIMIT).await;
        let rest: Vec<_> = again.take(2, LIMIT).await.iter().map(position).collect();
        assert_eq!(rest, all[all.len() - 2..]);

        // Its own, unless it asks.
        let own: Vec<_> = all[..150].iter().skip(2).step_by(3).copied().collect();
        for query in ["", "&all=false"] {
            let page = ok(service.get(&format!("/v1/events?after=0&wait=0&limit=200{query}"))).await.unwrap();
            let positions: Vec<_> = page["events"].as_array().unwrap().iter().map(position).collect();
            assert_eq!(positions, own);
        }
        // And no more than the events.
        assert_eq!(service.message(all[0]).await.unwrap_err().status, 404);
        for (client, status, code) in [
            (server.client("alice"), 403, "scope_missing"),
            (scoped(&server, "alice", "chat.send_as chat.read_alls"), 403, "scope_missing"),
            (Client::new(&server.url(), ""), 401, "token_missing"),
        ] {
            for accept in ["application/json", "text/event-stream"] {
                let request = client.get("/v1/events?after=0&wait=0&all=true").header(ACCEPT, accept);
                let refused = reply(request).await;
                assert_eq!((refused.status, &refused.body["code"]), (status, &json!(code)), "{refused:?}");
            }
        }
        let maybe = reply(service.get("/v1/events?all=maybe")).await;
        assert_eq!((maybe.status, &maybe.body["code"]), (400, &json!("parameter_invalid")));
    }
}

fn position(event: &Value) -> i64 {
    event["position"].as_i64().unwrap()
}

fn scoped(server: &Server, user: &str, scope: &str) -> Client {
    let token = token(&json!({"sub": user, "exp": now() + 3600, "scope": scope}));
    Client::new(&server.url(), &token)
}

/// The table has a row for each operation that there is, and each route of the table is asked.
#[tokio::test]
async fn each_operation_of_the_document_has_a_row_in_the_table() {
    let printed = run_alone(&["openapi"], &[]).await;
    assert_eq!(printed.code, 0, "{printed:?}");
    let document: Value = serde_json::from_str(&printed.stdout).unwrap();
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            found.insert(id.to_string());
            for asked in Asked::of(id, 7) {
                let asked_path = asked.path.split('?').next().unwrap();
                assert_eq!(
                    (asked.method, asked_path),
                    (method.as_str(), path.replace("{_id}", "7").as_str()),
                    "{id}"
                );
            }
            let public = operation["security"]
                .as_array()
                .is_some_and(|needs| needs.is_empty() || needs == &[json!({})]);
            assert_eq!(
                Asked::of(id, 7).iter().all(|asked| asked.shows == Shows::Public),
                public,
                "{id}"
            );
        }
    }
    assert_eq!(found, OPERATIONS.map(str::to_string).into());
}

/// Who is shown what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// The secret to its two parties, and to others an empty answer of the same form.
    ToParties,
    /// 404 to others.
    OnlyToParties,
    /// To this one of the two, because of whom the query names.
    To(&'static str),
    /// 403 to whoever has no scope, the two parties too.
    ToServices,
    /// Nothing of the secret to anybody; each acts for itself.
    Own,
    /// The same to all, with a token or without.
    Public,
}

/// One request, to be made by each caller.
struct Asked {
    operation: &'static str,
    method: &'static str,
    path: String,
    stream: bool,
    key: Option<&'static str>,
    body: Option<Value>,
    shows: Shows,
}

impl Asked {
    fn of(operation: &str, secret: i64) -> Vec<Asked> {
        let get = |path: &str, shows| Asked {
            operation: "",
            method: "get",
            path: path.into(),
            stream: false,
            key: None,
            body: None,
            shows,
        };
        let post = |path: &str, body: Value, shows| Asked {
            method: "post",
            body: Some(body),
            ..get(path, shows)
        };
        let operation = OPERATIONS.into_iter().find(|known| *known == operation);
        let operation = operation.unwrap_or_else(|| panic!("a new operation needs a row here"));
        let asked = match operation {
            // The same key and the same body as the secret's: only its sender meets it again.
            "send_message" => vec![Asked {
                key: Some(KEY),
                ..post(
                    "/v1/messages",
                    json!({"receiver_id": PEER, "text": "the secret"}),
                    Shows::Own,
                )
            }],
            "list_messages" => vec![
                get("/v1/messages?with=bob&after=0&limit=200", Shows::To(OWNER)),
                get("/v1/messages?with=alice&after=0&limit=200", Shows::To(PEER)),
                get("/v1/messages?with=alice&since=0&limit=1", Shows::To(PEER)),
                get(
                    &format!("/v1/messages?with=bob&before={}", secret + 1),
                    Shows::To(OWNER),
                ),
                get(
                    &format!("/v1/messages?with=bob&after={}&before={}", secret - 1, secret + 1),
                    Shows::To(OWNER),
                ),
            ],
            "get_message" => vec![get(&format!("/v1/messages/{secret}"), Shows::OnlyToParties)],
            "list_conversations" => vec![
                get("/v1/conversations?limit=200", Shows::ToParties),
                get("/v1/conversations?before=9007199254740991", Shows::ToParties),
            ],
            "send_receipt" => vec![
                post(
                    "/v1/receipts",
                    json!({"type": "received", "up_to": secret}),
                    Shows::OnlyToParties,
                ),
                post(
                    "/v1/receipts",
                    json!({"type": "read", "up_to": secret}),
                    Shows::OnlyToParties,
                ),
            ],
            "stream_events" => {
                let poll = get("/v1/events?after=0&wait=0&limit=200", Shows::ToParties);
                let stream = Asked {
                    stream: true,
                    ..get("/v1/events?after=0", Shows::ToParties)
                };
                let everything = get("/v1/events?all=true&after=0&wait=0", Shows::ToServices);
                vec![poll, stream, everything]
            }
            "check_health" => vec![get("/healthz", Shows::Public)],
            "check_readiness" => vec![get("/readyz", Shows::Public)],
            "create_development_token" => {
                vec![post("/dev/token", json!({"user_id": OWNER}), Shows::Public)]
            }
            other => unreachable!("{other}"),
        };
        asked
            .into_iter()
            .map(|asked| Asked { operation, ..asked })
            .collect()
    }

    /// The answer; that of a stream is what it delivers until it has come to where the log was.
    async fn ask(&self, client: &Client) -> Reply {
        let method = self.method.to_uppercase().parse().unwrap();
        let mut request = client.request(method, &self.path);
        if let Some(key) = self.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = &self.body {
            request = request.json(body);
        }
        if !self.stream {
            return reply(request).await;
        }
        let refused = match client.events(Some("0")).await {
            Ok(events) => return Self::until_now(events).await,
            Err(refused) => refused,
        };
        // The same refusal comes to who asks by hand.
        let by_hand = reply(request.header(ACCEPT, "text/event-stream")).await;
        assert_eq!(by_hand.status, refused.status);
        by_hand
    }

    async fn until_now(mut events: Events) -> Reply {
        let ready = events.named("ready", LIMIT).await;
        let head = ready.data["head"].as_i64().unwrap();
        let mut frames = vec![ready.data];
        while position_of(events.cursor().unwrap()) < head {
            frames.push(events.next(LIMIT).await.unwrap().data);
        }
        Reply {
            status: 200,
            headers: Default::default(),
            body: Value::Array(frames),
        }
    }

    fn check_outsider(&self, who: &str, answer: &Reply, secret: i64) {
        let what = format!("{} {} for {who}: {answer:?}", self.operation, self.path);
        match self.shows {
            Shows::Public => return self.check_public(answer),
            Shows::ToServices => return self.check_scope(answer),
            Shows::Own => {
                assert_eq!(answer.status, 201, "{what}");
                assert_eq!(answer.header("idempotency-replayed"), "", "{what}");
            }
            Shows::OnlyToParties => {
                assert_eq!(
                    (answer.status, &answer.body["code"]),
                    (404, &json!("message_not_found")),
                    "{what}"
                );
                return;
            }
            Shows::ToParties | Shows::To(_) => assert_eq!(answer.status, 200, "{what}"),
        }
        assert!(!shows(&answer.body, secret), "{what}");
        assert!(
            !answer.body.to_string().contains(&format!("\"{CONVERSATION}\"")),
            "{what}"
        );
    }

    fn check_party(&self, who: &str, answer: &Reply, secret: i64) {
        let what = format!("{} {} for {who}: {answer:?}", self.operation, self.path);
        match self.shows {
            Shows::Public => self.check_public(answer),
            Shows::ToServices => self.check_scope(answer),
            Shows::Own => {
                assert_eq!(answer.status, 201, "{what}");
                let mine = who == OWNER;
                assert_eq!(
                    answer.header("idempotency-replayed"),
                    if mine { "true" } else { "" },
                    "{what}"
                );
                assert_eq!(shows(&answer.body, secret), mine, "{what}");
            }
            Shows::To(only) => {
                assert_eq!(answer.status, 200, "{what}");
                assert_eq!(shows(&answer.body, secret), who == only, "{what}");
            }
            Shows::OnlyToParties | Shows::ToParties => {
                assert_eq!(answer.status, 200, "{what}");
                assert!(
                    answer.body.to_string().contains(&format!("\"{CONVERSATION}\"")),
                    "{what}"
                );
                if self.operation != "send_receipt" && self.operation != "list_conversations" {
                    assert!(shows(&answer.body, secret), "{what}");
                }
            }
        }
    }

    fn check_without_token(&self, code: &str, answer: &Reply, secret: i64) {
        let what = format!("{} {}: {answer:?}", self.operation, self.path);
        if self.shows == Shows::Public {
            return self.check_public(answer);
        }
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (401, &json!(code)),
            "{what}"
        );
        assert_eq!(answer.content_type(), "application/problem+json", "{what}");
        assert!(answer.header("www-authenticate").starts_with("Bearer "), "{what}");
        assert!(!shows(&answer.body, secret), "{what}");
    }

    fn check_scope(&self, answer: &Reply) {
        let refused = (answer.status, &answer.body["code"]);
        assert_eq!(
            refused,
            (403, &json!("scope_missing")),
            "{}: {answer:?}",
            self.path
        );
    }

    fn check_public(&self, answer: &Reply) {
        let expected = match self.operation {
            "check_health" => (200, json!("ok\n")),
            "check_readiness" => (200, json!("ready\n")),
            // With a secret of its own the server has no such door.
            _ => (404, json!("route_not_found")),
        };
        let body = if answer.status == 404 {
            &answer.body["code"]
        } else {
            &answer.body
        };
        assert_eq!(
            (answer.status, body),
            (expected.0, &expected.1),
            "{}: {answer:?}",
            self.operation
        );
    }
}

/// Whether an answer holds the message anywhere, by its number.
fn shows(body: &Value, secret: i64) -> bool {
    match body {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let names_it = matches!(name.as_str(), "_id" | "position") && value == secret;
            names_it || shows(value, secret)
        }),
        Value::Array(items) => items.iter().any(|item| shows(item, secret)),
        _ => false,
    }
}

/// A message of others and one that there is not are refused in the same words.
async fn strangers_learn_nothing_from_a_refusal(server: &Server, secret: i64, other: i64) {
    let client = server.client("mallory");
    let without_id = |answer: Reply| {
        let mut body = answer.body;
        body.as_object_mut().unwrap().remove("request_id");
        let names: BTreeSet<_> = answer.headers.keys().map(ToString::to_string).collect();
        (answer.status, names, body)
    };
    let nowhere = 9_007_199_254_740_991_i64;
    let get = async |id: i64| without_id(reply(client.get(&format!("/v1/messages/{id}"))).await);
    let receipt = async |id: i64| {
        let body = json!({"type": "read", "up_to": id});
        without_id(reply(client.post("/v1/receipts").json(&body)).await)
    };
    for id in [secret, other] {
        assert_eq!(get(id).await, get(nowhere).await);
        assert_eq!(receipt(id).await, receipt(nowhere).await);
    }
}

/// No receipt of a stranger has moved anything, or made anybody a participant.
async fn marks_are_those_of_the_parties(database: &Database) {
    let from = format!(
        "participants p JOIN conversations c ON c.id = p.conversation_id WHERE c.name = '{CONVERSATION}'"
    );
    let marks = inside::rows(database, &from, "p.user_id, p.to_position", "p.user_id").await;
    assert_eq!(marks, ["alice|NULL", "bob|NULL"]);
    let receipts: BTreeSet<_> = inside::log(database, 0)
        .await
        .into_iter()
        .filter(|event| event.kind.starts_with("receipt."))
        .map(|event| event.actor_id)
        .collect();
    assert_eq!(
        receipts,
        BTreeSet::from([PEER.to_string()]),
        "only the receiver had something to receive"
    );
}
