//! Bad input, beside good traffic: each is refused with its own stable code, nothing breaks, and what others send
//! meanwhile stays complete.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chat_tests::{
    Database, Kind, Server,
    chatter::Chatter,
    mutation::mutate,
    on_each_database,
    raw::{RawReply, Then, exchange},
    server::{jwt_secret, now, token},
    sized,
};
use futures_util::{StreamExt, stream};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

const TALKERS: [(&str, &str); 4] = [
    ("alice", "bob"),
    ("bob", "alice"),
    ("carol", "alice"),
    ("dave", "dave"),
];
const LISTENERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const CONTENT_LIMIT: usize = 4096;
/// As [`chat_tests::chatter::SETTINGS`], with a small limit so that a body at it is quickly sent.
const SETTINGS: [(&str, &str); 2] = [("CHAT_HEARTBEAT_S", "1"), ("CHAT_CONTENT_LIMIT", "4096")];
const PATIENCE: Duration = Duration::from_secs(20);

on_each_database! {
    async fn bad_input_is_refused_with_a_stable_code_and_harms_nobody(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, &SETTINGS).await;
        let theirs = server.client("erin").send("frank", "not mallory's", None).await.unwrap()["_id"].clone();
        let chatter = Chatter::start(&server, &database, &TALKERS, &LISTENERS).await;
        let before = database.number("SELECT COUNT(*) FROM outbox WHERE actor_id = 'mallory'").await;
        let table = cases(&server, &theirs);
        let mut wrong = Vec::new();
        for case in &table {
            let answer = exchange(server.port(), &case.bytes, case.then, PATIENCE).await;
            if let Err(what) = case.check(answer.as_ref()) {
                wrong.push(what);
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
        let after = database.number("SELECT COUNT(*) FROM outbox WHERE actor_id = 'mallory'").await;
        assert_eq!(before, after, "nothing that was refused was recorded");

        for case in accepted(&server) {
            let answer = exchange(server.port(), &case.bytes, case.then, PATIENCE).await.unwrap();
            assert_eq!(answer.status, case.status, "{}: {answer:?}", case.name);
        }
        serves_on(&server, &database, chatter).await;
    }
}

/// Mutations of valid requests: whatever they became, the server answers with something below 500, or closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_mutations_of_valid_requests_break_nothing() {
    const WANTED: [u16; 7] = [200, 201, 400, 401, 404, 405, 415];
    /// At once.
    const ROUND: usize = 500;
    const MOST: usize = 10_000;
    let least = sized(1000, 2000);
    let database = Database::fresh(Kind::MariaDb).await;
    let server = Server::start(&database, &SETTINGS).await;
    let chatter = Chatter::start(&server, &database, &TALKERS, &LISTENERS).await;
    let valid = valid_requests(&server);
    for (name, bytes) in &valid {
        let answer = exchange(server.port(), bytes, Then::Wait, PATIENCE)
            .await
            .unwrap();
        assert!((200..300).contains(&answer.status), "{name} is valid: {answer:?}");
    }
    let port = server.port();
    let mut rng = StdRng::seed_from_u64(0x5eed);
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut sent = 0;
    let all_came =
        |statuses: &BTreeMap<u16, usize>| WANTED.iter().all(|status| statuses.contains_key(status));
    // Which mutations still are requests differs with the tokens.
    while sent < least || (!all_came(&statuses) && sent < MOST) {
        let requests: Vec<Arc<[u8]>> = (0..ROUND)
            .map(|_| {
                let mut bytes = valid.choose(&mut rng).unwrap().1.clone();
                for _ in 0..rng.random_range(1..=4) {
                    mutate(&mut bytes, &mut rng);
                }
                bytes.into()
            })
            .collect();
        sent += ROUND;
        let answers = stream::iter(requests).map(|bytes| async move {
            let then = if bytes.len() % 4 == 0 {
                Then::HalfClose
            } else {
                Then::Wait
            };
            // What is missing of a request never comes; this ends the wait for it.
            let answer = exchange(port, &bytes, then, Duration::from_secs(5)).await;
            (bytes, answer)
        });
        let answers: Vec<_> = answers.buffer_unordered(ROUND).collect().await;
        for (bytes, answer) in &answers {
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            *statuses.entry(status).or_default() += 1;
            assert!(status < 500, "{answer:?} to {:?}", String::from_utf8_lossy(bytes));
            if let Some(answer) = answer
                && status >= 400
                && !is_bare(answer)
            {
                check_problem(answer, status, None).unwrap_or_else(|what| panic!("{what}: {answer:?}"));
            }
        }
    }
    // It is not all cut off at the first line: a good part reaches the doors, and is accepted or refused by a rule.
    let answered = sent - statuses.get(&0).copied().unwrap_or(0);
    assert!(answered > sent / 2, "{statuses:?}");
    for status in WANTED {
        assert!(statuses.contains_key(&status), "no {status} among {statuses:?}");
    }
    serves_on(&server, &database, chatter).await;
}

/// The traffic is complete, the log of the server has no panic and no error, and it serves.
async fn serves_on(server: &Server, database: &Database, chatter: Chatter) {
    let chatted = chatter.finish(server, database).await;
    assert!(
        chatted.messages() > TALKERS.len(),
        "{} messages ran beside",
        chatted.messages()
    );
    let log = server.log();
    let bad = |line: &&str| line.contains("panicked") || line.contains(" ERROR ");
    assert_eq!(log.lines().filter(bad).collect::<Vec<_>>(), [] as [&str; 0]);
    server
        .client("alice")
        .send("bob", "still there?", None)
        .await
        .unwrap();
    let verified = server.run(&["verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

/// One input and what must come of it.
struct Case {
    name: String,
    bytes: Vec<u8>,
    then: Then,
    status: u16,
    /// The code, or `None` where hyper answers before there is a request, with a bare status.
    code: Option<&'static str>,
}

impl Case {
    fn check(&self, answer: Option<&RawReply>) -> Result<(), String> {
        let name = &self.name;
        // Whoever still writes when a head is refused for its size may not get to read the answer.
        if answer.is_none() && self.status == 431 {
            return Ok(());
        }
        let Some(answer) = answer else {
            return Err(format!("{name}: no answer"));
        };
        let Some(code) = self.code else {
            let fine = answer.status == self.status && is_bare(answer);
            return if fine {
                Ok(())
            } else {
                Err(format!("{name}: {answer:?}"))
            };
        };
        check_problem(answer, self.status, Some(code)).map_err(|what| format!("{name}: {what}"))
    }
}

/// What hyper answers by itself has no body.
fn is_bare(answer: &RawReply) -> bool {
    matches!(answer.status, 400 | 414 | 431) && answer.body.is_empty()
}

fn check_problem(answer: &RawReply, status: u16, code: Option<&str>) -> Result<(), String> {
    let body = answer.json();
    let found = body["code"].as_str().unwrap_or_default();
    let code = code.unwrap_or(found);
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_string();
    let right = answer.status == status
        && answer.header("content-type") == "application/problem+json"
        && body["status"] == status
        && !code.is_empty()
        && found == code
        && text("type") == format!("urn:chat-system:problem:{code}")
        && !text("title").is_empty()
        && text("request_id") == answer.header("x-request-id")
        && !answer.header("x-request-id").is_empty();
    if right {
        Ok(())
    } else {
        Err(format!("not {status} {code}: {} {body}", answer.status))
    }
}

/// A request as it goes over the wire.
#[derive(Clone)]
struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn get(target: impl Into<String>, token: &str) -> Request {
        let headers = vec![("authorization".into(), format!("Bearer {token}").into_bytes())];
        Request {
            method: "GET",
            target: target.into(),
            headers,
            body: Vec::new(),
        }
    }

    fn post(target: impl Into<String>, token: &str, body: impl Into<Vec<u8>>) -> Request {
        let json = ("content-type".into(), b"application/json".to_vec());
        let mut request = Request {
            method: "POST",
            body: body.into(),
            ..Request::get(target, token)
        };
        request.headers.push(json);
        request
    }

    fn method(self, method: &'static str) -> Request {
        Request { method, ..self }
    }

    fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Request {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes_of_length(self.body.len())
    }

    /// With another `content-length` than the body has.
    fn bytes_of_length(&self, length: usize) -> Vec<u8> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nhost: 127.0.0.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        if length > 0 || self.method != "GET" {
            bytes.extend_from_slice(format!("content-length: {length}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn refused(self, name: impl Into<String>, status: u16, code: &'static str) -> Case {
        Case {
            name: name.into(),
            bytes: self.bytes(),
            then: Then::Wait,
            status,
            code: Some(code),
        }
    }
}

fn text(length: usize) -> String {
    json!({"receiver_id": "bob", "text": "x".repeat(length)}).to_string()
}

/// Base64 without a library: groups of three zero bytes, and what is left.
fn zeros_in_base64(length: usize) -> String {
    let rest = match length % 3 {
        0 => "",
        1 => "AA==",
        _ => "AAA=",
    };
    "AAAA".repeat(length / 3) + rest
}

/// The table: input, status, code.
fn cases(server: &Server, theirs: &Value) -> Vec<Case> {
    let token = server.token("mallory");
    let mut cases = Vec::new();
    bad_tokens(&mut cases, &token);
    bad_bodies(&mut cases, &token);
    bad_keys(&mut cases, &token);
    bad_parameters(&mut cases, &token);
    unknown_names(&mut cases, &token);
    bad_routes(&mut cases, &token, theirs);
    bad_http(&mut cases, &token);
    cases
}

fn bad_tokens(cases: &mut Vec<Case>, good: &str) {
    let soon = now() + 3600;
    let secret = EncodingKey::from_secret(jwt_secret().as_bytes());
    let signed = |algorithm, key: &EncodingKey, claims: &Value| {
        jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
    };
    let claims = json!({"sub": "mallory", "exp": soon});
    let (head_and_claims, signature) = good.rsplit_once('.').unwrap();
    let (_, payload) = head_and_claims.split_once('.').unwrap();
    // {"alg":"none","typ":"JWT"} and {"alg":"None"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let none_signed = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.{signature}");
    let none_in_capitals = format!("eyJhbGciOiJOb25lIn0.{payload}.");
    let other_key = EncodingKey::from_secret(b"another secret that is 32 bytes long");
    let tokens: Vec<(&str, String, &str)> = vec![
        ("alg none", none, "token_invalid"),
        ("alg none with a signature", none_signed, "token_invalid"),
        ("alg None", none_in_capitals, "token_invalid"),
        (
            "another key",
            signed(Algorithm::HS256, &other_key, &claims),
            "token_invalid",
        ),
        (
            "another algorithm",
            signed(Algorithm::HS512, &secret, &claims),
            "token_invalid",
        ),
        ("no signature", format!("{head_and_claims}."), "token_invalid"),
        (
            "a signature cut short",
            good[..good.len() - 2].into(),
            "token_invalid",
        ),
        ("no token at all", "x".into(), "token_invalid"),
        ("dots", "..".into(), "token_invalid"),
        (
            "claims that are no object",
            signed(Algorithm::HS256, &secret, &json!([])),
            "token_invalid",
        ),
        (
            "expired",
            token(&json!({"sub": "mallory", "exp": now() - 3600})),
            "token_expired",
        ),
        (
            "expired in 1970",
            token(&json!({"sub": "mallory", "exp": 0})),
            "token_expired",
        ),
        (
            "not valid yet",
            token(&json!({"sub": "mallory", "exp": soon, "nbf": soon})),
            "token_invalid",
        ),
        ("without exp", token(&json!({"sub": "mallory"})), "token_invalid"),
        (
            "exp as text",
            token(&json!({"sub": "mallory", "exp": "never"})),
            "token_invalid",
        ),
        ("without sub", token(&json!({"exp": soon})), "token_invalid"),
        (
            "sub with a space",
            token(&json!({"sub": "not a user", "exp": soon})),
            "token_invalid",
        ),
        (
            "empty sub",
            token(&json!({"sub": "", "exp": soon})),
            "token_invalid",
        ),
        (
            "sub of 33 characters",
            token(&json!({"sub": "x".repeat(33), "exp": soon})),
            "token_invalid",
        ),
        (
            "sub with a comma",
            token(&json!({"sub": "alice,bob", "exp": soon})),
            "token_invalid",
        ),
        (
            "sub of a room",
            token(&json!({"sub": "~room", "exp": soon})),
            "token_invalid",
        ),
        (
            "sub beyond ASCII",
            token(&json!({"sub": "älice", "exp": soon})),
            "token_invalid",
        ),
        (
            "sub as a number",
            token(&json!({"sub": 7, "exp": soon})),
            "token_invalid",
        ),
    ];
    for (name, token, code) in &tokens {
        for request in [
            Request::get("/v1/conversations", token),
            Request::post("/v1/messages", token, text(1)),
            Request::get(format!("/v1/events?wait=0&access_token={token}"), "").without("authorization"),
        ] {
            let name = format!("{} {} with {name}", request.method, request.target);
            cases.push(request.refused(name, 401, code));
        }
    }
    let bare = || Request::get("/v1/conversations", good).without("authorization");
    let query =
        |name: &str| Request::get(format!("/v1/conversations?{name}={good}"), "").without("authorization");
    for (name, request, code) in [
        ("no header", bare(), "token_missing"),
        (
            "an empty header",
            bare().header("authorization", ""),
            "token_missing",
        ),
        (
            "another scheme",
            bare().header("authorization", format!("Basic {good}")),
            "token_missing",
        ),
        (
            "a scheme alone",
            bare().header("authorization", "Bearer"),
            "token_missing",
        ),
        (
            "bytes that are no text",
            bare().header("authorization", b"Bearer \xff"),
            "token_missing",
        ),
        (
            "the token in the query of a door that takes none there",
            query("access_token"),
            "token_missing",
        ),
    ] {
        cases.push(request.refused(name, 401, code));
    }
}

fn bad_bodies(cases: &mut Vec<Case>, token: &str) {
    let send = |body: &str| Request::post("/v1/messages", token, body);
    let receipt = |body: &str| Request::post("/v1/receipts", token, body);
    let long = "x".repeat(33);
    let one_too_many = json!({"receiver_id": "bob", "data": zeros_in_base64(CONTENT_LIMIT + 1)}).to_string();
    let wide = json!({"receiver_id": "bob", "text": "é".repeat(CONTENT_LIMIT / 2) + "x"}).to_string();
    let deep = format!(
        "{{\"receiver_id\":\"bob\",\"text\":{}{}}}",
        "[".repeat(400),
        "]".repeat(400)
    );
    let table: Vec<(&str, String, u16, &str)> = vec![
        ("nothing", String::new(), 400, "json_invalid"),
        ("no JSON", "hello".into(), 400, "json_invalid"),
        (
            "JSON cut short",
            "{\"receiver_id\":\"bob\",\"te".into(),
            400,
            "json_invalid",
        ),
        (
            "two bodies",
            "{\"receiver_id\":\"bob\",\"text\":\"a\"}{}".into(),
            400,
            "json_invalid",
        ),
        (
            "a comment",
            "{/**/\"receiver_id\":\"bob\",\"text\":\"a\"}".into(),
            400,
            "json_invalid",
        ),
        (
            "half a surrogate pair",
            "{\"receiver_id\":\"bob\",\"text\":\"\\ud800\"}".into(),
            400,
            "json_invalid",
        ),
        (
            "a bare control character",
            "{\"receiver_id\":\"bob\",\"text\":\"a\u{1}\"}".into(),
            400,
            "json_invalid",
        ),
        ("nested 400 deep", deep, 400, "body_invalid"),
        ("an array", "[]".into(), 400, "body_invalid"),
        (
            "an array in the order of the fields",
            "[\"bob\",\"hi\",null,null]".into(),
            400,
            "body_invalid",
        ),
        ("null", "null".into(), 400, "body_invalid"),
        ("a text", "\"hi\"".into(), 400, "body_invalid"),
        ("no receiver", "{\"text\":\"a\"}".into(), 400, "body_invalid"),
        (
            "receiver a number",
            "{\"receiver_id\":7,\"text\":\"a\"}".into(),
            400,
            "body_invalid",
        ),
        (
            "receiver null",
            "{\"receiver_id\":null,\"text\":\"a\"}".into(),
            400,
            "body_invalid",
        ),
        (
            "text a number",
            "{\"receiver_id\":\"bob\",\"text\":7}".into(),
            400,
            "body_invalid",
        ),
        (
            "text a list",
            "{\"receiver_id\":\"bob\",\"text\":[\"a\"]}".into(),
            400,
            "body_invalid",
        ),
        (
            "data an object",
            "{\"receiver_id\":\"bob\",\"data\":{}}".into(),
            400,
            "body_invalid",
        ),
        (
            "receiver twice",
            "{\"receiver_id\":\"bob\",\"receiver_id\":\"eve\",\"text\":\"a\"}".into(),
            400,
            "body_invalid",
        ),
        (
            "content type a number",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"content_type\":1}".into(),
            400,
            "body_invalid",
        ),
        (
            "neither text nor data",
            "{\"receiver_id\":\"bob\"}".into(),
            400,
            "content_missing",
        ),
        (
            "text null alone",
            "{\"receiver_id\":\"bob\",\"text\":null}".into(),
            400,
            "content_missing",
        ),
        (
            "both text and data",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"data\":\"AAAA\"}".into(),
            400,
            "content_ambiguous",
        ),
        (
            "receiver empty",
            "{\"receiver_id\":\"\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver too long",
            json!({"receiver_id": long, "text": "a"}).to_string(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a space",
            "{\"receiver_id\":\"b ob\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a comma",
            "{\"receiver_id\":\"alice,bob\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver a room",
            "{\"receiver_id\":\"~room\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a quote",
            "{\"receiver_id\":\"b'ob\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a backslash",
            "{\"receiver_id\":\"b\\\\ob\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a zero byte",
            "{\"receiver_id\":\"b\\u0000\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver beyond ASCII",
            "{\"receiver_id\":\"bòb\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        (
            "receiver with a line break",
            "{\"receiver_id\":\"bob\\n\",\"text\":\"a\"}".into(),
            400,
            "user_id_invalid",
        ),
        ("text empty", text(0), 422, "content_empty"),
        (
            "data empty",
            "{\"receiver_id\":\"bob\",\"data\":\"\"}".into(),
            422,
            "content_empty",
        ),
        (
            "text one byte too long",
            text(CONTENT_LIMIT + 1),
            413,
            "content_too_large",
        ),
        (
            "text of two-byte letters one byte too long",
            wide,
            413,
            "content_too_large",
        ),
        ("data one byte too long", one_too_many, 413, "content_too_large"),
        (
            "a body far too large",
            text(CONTENT_LIMIT * 6 + 4096),
            413,
            "body_too_large",
        ),
        (
            "data without padding",
            "{\"receiver_id\":\"bob\",\"data\":\"AA\"}".into(),
            400,
            "data_invalid",
        ),
        (
            "data of one character",
            "{\"receiver_id\":\"bob\",\"data\":\"A\"}".into(),
            400,
            "data_invalid",
        ),
        (
            "data with a space",
            "{\"receiver_id\":\"bob\",\"data\":\"AA AA\"}".into(),
            400,
            "data_invalid",
        ),
        (
            "data in the URL alphabet",
            "{\"receiver_id\":\"bob\",\"data\":\"-_-_\"}".into(),
            400,
            "data_invalid",
        ),
        (
            "data with bits left over",
            "{\"receiver_id\":\"bob\",\"data\":\"AB==\"}".into(),
            400,
            "data_invalid",
        ),
        (
            "text as an image",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"content_type\":\"image/png\"}".into(),
            400,
            "content_type_invalid",
        ),
        (
            "a content type that is none",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"content_type\":\"text\"}".into(),
            400,
            "content_type_invalid",
        ),
        (
            "an empty content type",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"content_type\":\"\"}".into(),
            400,
            "content_type_invalid",
        ),
        (
            "a content type with a line break",
            "{\"receiver_id\":\"bob\",\"text\":\"a\",\"content_type\":\"text/plain\\r\\nx: y\"}".into(),
            400,
            "content_type_invalid",
        ),
        (
            "a content type of 128 characters",
            json!({"receiver_id": "bob", "text": "a", "content_type": format!("text/{}", "x".repeat(123))})
                .to_string(),
            400,
            "content_type_invalid",
        ),
    ];
    for (name, body, status, code) in table {
        cases.push(send(&body).refused(format!("send: {name}"), status, code));
    }
    cases.push(
        Request::post(
            "/v1/messages",
            token,
            b"{\"receiver_id\":\"bob\",\"text\":\"\xff\xfe\"}".to_vec(),
        )
        .refused("send: text that is not UTF-8", 400, "json_invalid"),
    );
    for (name, value) in [
        ("none", None),
        ("text/plain", Some("text/plain")),
        ("form", Some("application/x-www-form-urlencoded")),
        ("nonsense", Some("json")),
        ("empty", Some("")),
    ] {
        let request = send(&text(1)).without("content-type");
        let request = match value {
            Some(value) => request.header("content-type", value),
            None => request,
        };
        cases.push(request.refused(
            format!("send: header content-type: {name}"),
            415,
            "media_type_unsupported",
        ));
    }
    let most = i64::MAX.to_string();
    let table: Vec<(&str, String, u16, &str)> = vec![
        ("nothing", String::new(), 400, "json_invalid"),
        ("an array", "[1]".into(), 400, "body_invalid"),
        ("no type", "{\"up_to\":1}".into(), 400, "body_invalid"),
        ("no up_to", "{\"type\":\"read\"}".into(), 400, "body_invalid"),
        (
            "an array in the order of the fields",
            "[\"read\",1]".into(),
            400,
            "body_invalid",
        ),
        (
            "type a number",
            "{\"type\":7,\"up_to\":1}".into(),
            400,
            "body_invalid",
        ),
        (
            "type a list",
            "{\"type\":[],\"up_to\":1}".into(),
            400,
            "body_invalid",
        ),
        (
            "an unknown type",
            "{\"type\":\"seen\",\"up_to\":1}".into(),
            400,
            "body_invalid",
        ),
        (
            "type in capitals",
            "{\"type\":\"Read\",\"up_to\":1}".into(),
            400,
            "body_invalid",
        ),
        (
            "up_to a text",
            "{\"type\":\"read\",\"up_to\":\"1\"}".into(),
            400,
            "body_invalid",
        ),
        (
            "up_to a fraction",
            "{\"type\":\"read\",\"up_to\":1.5}".into(),
            400,
            "body_invalid",
        ),
        (
            "up_to beyond 64 bits",
            "{\"type\":\"read\",\"up_to\":99999999999999999999}".into(),
            400,
            "body_invalid",
        ),
        (
            "up_to 0",
            "{\"type\":\"read\",\"up_to\":0}".into(),
            404,
            "message_not_found",
        ),
        (
            "up_to -1",
            "{\"type\":\"received\",\"up_to\":-1}".into(),
            404,
            "message_not_found",
        ),
        (
            "up_to the least number",
            format!("{{\"type\":\"read\",\"up_to\":{}}}", i64::MIN),
            404,
            "message_not_found",
        ),
        (
            "up_to the greatest number",
            format!("{{\"type\":\"read\",\"up_to\":{most}}}"),
            404,
            "message_not_found",
        ),
    ];
    for (name, body, status, code) in table {
        cases.push(receipt(&body).refused(format!("receipt: {name}"), status, code));
    }
    let wrong = receipt("{}").without("content-type");
    cases.push(wrong.refused("receipt: no content-type", 415, "media_type_unsupported"));
}

fn bad_keys(cases: &mut Vec<Case>, token: &str) {
    for path in ["/v1/messages", "/v1/receipts"] {
        let body = if path == "/v1/messages" {
            text(1)
        } else {
            "{\"type\":\"read\",\"up_to\":1}".into()
        };
        let request = || Request::post(path, token, body.clone());
        let long = "k".repeat(65);
        let keys: [(&str, &[u8]); 6] = [
            ("empty", b""),
            ("of 65 characters", long.as_bytes()),
            ("beyond ASCII", "clé".as_bytes()),
            ("bytes that are no text", b"\xff\xfe"),
            ("with a space", b"a b"),
            ("with a tab", b"a\tb"),
        ];
        for (name, key) in keys {
            cases.push(request().header("idempotency-key", key).refused(
                format!("{path}: key {name}"),
                400,
                "key_invalid",
            ));
        }
        let twice = request()
            .header("idempotency-key", "a")
            .header("idempotency-key", "b");
        cases.push(twice.refused(format!("{path}: two keys"), 400, "key_invalid"));
    }
}

fn bad_parameters(cases: &mut Vec<Case>, token: &str) {
    let mut get = |target: &str, status, code| {
        cases.push(Request::get(target, token).refused(format!("GET {target}"), status, code));
    };
    for limit in [
        "0",
        "-1",
        "201",
        "abc",
        "99999999999999999999",
        "",
        "1.5",
        "%00",
        "1e2",
        "0x10",
        "+",
        "null",
    ] {
        for path in [
            "/v1/messages?with=bob&",
            "/v1/conversations?",
            "/v1/events?wait=0&",
        ] {
            get(&format!("{path}limit={limit}"), 400, "parameter_invalid");
        }
    }
    for name in ["before", "after", "since", "until"] {
        for value in [
            "abc",
            "",
            "1.5",
            "99999999999999999999",
            "-9223372036854775809",
            "%FF",
            "1%00",
        ] {
            get(
                &format!("/v1/messages?with=bob&{name}={value}"),
                400,
                "parameter_invalid",
            );
        }
    }
    get("/v1/conversations?before=abc", 400, "parameter_invalid");
    get("/v1/messages", 400, "parameter_invalid");
    for unknown in [
        "limt=1",
        "Limit=1",
        "access_token=x",
        "lastEventId=0",
        "key=a",
        "_=1",
        "%00=1",
    ] {
        for path in ["/v1/messages?with=bob&", "/v1/messages/1?", "/v1/conversations?"] {
            get(&format!("{path}{unknown}"), 400, "parameter_invalid");
        }
    }
    for unknown in [
        "limt=1",
        "key=a",
        "lasteventid=0",
        "last_event_id=0&lastEventId=a:1",
        "last_event_id=0&last_event_id=0",
        "after=0&last-event-id=a:1",
        "lastEventId=0&Last-Event-ID=a:1",
    ] {
        get(&format!("/v1/events?wait=0&{unknown}"), 400, "parameter_invalid");
    }
    for name in ["last_event_id", "lastEventId", "last-event-id", "Last-Event-ID"] {
        get(&format!("/v1/events?wait=0&{name}=1"), 400, "cursor_invalid");
    }
    get("/v1/messages?with=bob&with=eve", 400, "parameter_invalid");
    get("/v1/messages?with=bob&limit=1&limit=2", 400, "parameter_invalid");
    for with in [
        "",
        "a%20b",
        "a,b",
        "~room",
        "%FF",
        "%C3%A4",
        "%00",
        "a%0Ab",
        "x'%20OR%201=1--",
    ] {
        get(&format!("/v1/messages?with={with}"), 400, "user_id_invalid");
    }
    get(
        &format!("/v1/messages?with={}", "x".repeat(33)),
        400,
        "user_id_invalid",
    );
    for wait in ["-1", "61", "abc", "99999999999999999999", "0.5", ""] {
        get(
            &format!("/v1/events?after=0&wait={wait}"),
            400,
            "parameter_invalid",
        );
    }
    for cursor in [
        "1",
        "abc",
        "a:",
        ":1",
        "a:-1",
        "a:01",
        "A:1",
        "a:1:2",
        "a:99999999999999999999",
        "%FF",
        "a:%201",
        "abcdefghijklmnopq:1",
        "0:",
        "00",
        "%00",
        "a:1%00",
    ] {
        get(
            &format!("/v1/events?wait=0&after={cursor}"),
            400,
            "cursor_invalid",
        );
    }
    for cursor in [&b"1"[..], b"abc", b"a:-1", b"\xff", b"a:1:2"] {
        for accept in ["application/json", "text/event-stream"] {
            let request = Request::get("/v1/events?wait=0&after=0", token)
                .header("last-event-id", cursor)
                .header("accept", accept);
            let name = format!("Last-Event-ID {:?} for {accept}", String::from_utf8_lossy(cursor));
            cases.push(request.refused(name, 400, "cursor_invalid"));
        }
    }
    for (accept, cursor, status, code) in [
        ("application/json", "zzzzzzzz:1", 410, "cursor_reset"),
        ("text/html", "0", 406, "not_acceptable"),
        ("text/event-stream;q=0", "0", 406, "not_acceptable"),
        ("image/*, */*;q=0", "0", 406, "not_acceptable"),
        ("text/event-stream", "nonsense", 400, "cursor_invalid"),
    ] {
        let request =
            Request::get(format!("/v1/events?wait=0&after={cursor}"), token).header("accept", accept);
        cases.push(request.refused(format!("accept {accept} after {cursor}"), status, code));
    }
}

/// A client that believes that it has said something must not be served as if it had not.
fn unknown_names(cases: &mut Vec<Case>, token: &str) {
    let receipt = "{\"type\":\"read\",\"up_to\":1}";
    for path in ["/v1/messages", "/v1/receipts"] {
        let body = |field: &str| {
            let valid = if path == "/v1/messages" {
                text(1)
            } else {
                receipt.into()
            };
            format!("{},{field}}}", valid.trim_end_matches('}'))
        };
        let valid = || body("\"x\":1").replace(",\"x\":1", "");
        let huge = format!("\"{}\":1", "n".repeat(3000));
        for field in [
            "\"key\":\"a\"",
            "\"key\":null",
            "\"idempotency_key\":\"a\"",
            "\"of_tomorrow\":[1]",
            "\"Text\":\"a\"",
            "\"\":1",
            &huge,
        ] {
            let name = format!("{path}: the field {:.40}", field);
            cases.push(Request::post(path, token, body(field)).refused(name, 400, "body_invalid"));
        }
        for parameter in ["key=a", "idempotency_key=a", "x", "access_token=a"] {
            let request = Request::post(format!("{path}?{parameter}"), token, valid());
            cases.push(request.refused(format!("POST {path}?{parameter}"), 400, "parameter_invalid"));
        }
        for header in [
            "Idempotency_Key",
            "IdempotencyKey",
            "X-Idempotency-Key",
            "x_idempotency_key",
            "Act_As",
            "ActAs",
            "X-Act-As",
        ] {
            let request = Request::post(path, token, valid()).header(header, "a");
            cases.push(request.refused(format!("{path}: the header {header}"), 400, "request_invalid"));
        }
    }
    for header in ["LastEventId", "Last_Event_ID", "X-Last-Event-ID"] {
        for accept in ["application/json", "text/event-stream"] {
            let request = Request::get("/v1/events?wait=0&after=0", token)
                .header(header, "0")
                .header("accept", accept);
            let name = format!("the header {header} for {accept}");
            cases.push(request.refused(name, 400, "request_invalid"));
        }
    }
}

fn bad_routes(cases: &mut Vec<Case>, token: &str, theirs: &Value) {
    for (id, status, code) in [
        ("abc", 400, "parameter_invalid"),
        ("1.5", 400, "parameter_invalid"),
        ("99999999999999999999", 400, "parameter_invalid"),
        ("-9223372036854775809", 400, "parameter_invalid"),
        ("%20", 400, "parameter_invalid"),
        ("%FF", 400, "parameter_invalid"),
        ("1%00", 400, "parameter_invalid"),
        ("1;DROP", 400, "parameter_invalid"),
        ("0", 404, "message_not_found"),
        ("-1", 404, "message_not_found"),
        ("9223372036854775807", 404, "message_not_found"),
        (&theirs.to_string(), 404, "message_not_found"),
        ("1/2", 404, "route_not_found"),
        ("", 404, "route_not_found"),
    ] {
        cases.push(Request::get(format!("/v1/messages/{id}"), token).refused(
            format!("message {id:?}"),
            status,
            code,
        ));
    }
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/v2/messages",
        "/V1/messages",
        "/v1/messages/",
        "//v1/messages",
        "/v1/users",
        "/v1/../etc/passwd",
        "/%2e%2e/",
        "/v1%2Fmessages",
        "/dev/token",
        "/docs/nothing",
        "/docs/../../x",
        "/v1/%FF",
    ] {
        cases.push(Request::get(path, token).refused(format!("GET {path}"), 404, "route_not_found"));
    }
    cases.push(Request::get("/docs/%FF", token).refused("GET /docs/%FF", 400, "request_invalid"));
    let sign = Request::post("/dev/token", token, "{\"user_id\":\"alice\"}");
    cases.push(sign.refused("POST /dev/token", 404, "route_not_found"));
    for (path, allowed) in [
        ("/v1/messages", "GET POST HEAD"),
        ("/v1/messages/1", "GET HEAD"),
        ("/v1/conversations", "GET HEAD"),
        ("/v1/receipts", "POST"),
        ("/v1/events", "GET HEAD"),
        ("/healthz", "GET HEAD"),
        ("/readyz", "GET HEAD"),
        ("/", "GET HEAD"),
        ("/docs", "GET HEAD"),
        ("/openapi.json", "GET HEAD"),
    ] {
        for method in [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get",
        ] {
            if !allowed.split(' ').any(|known| known == method) {
                let request = Request::get(path, token).method(method);
                cases.push(request.refused(format!("{method} {path}"), 405, "method_not_allowed"));
            }
        }
    }
}

/// What is not HTTP, or not whole. `None` as the code: hyper refuses it before there is a request.
fn bad_http(cases: &mut Vec<Case>, token: &str) {
    let whole = Request::post("/v1/messages", token, text(100));
    let mut case = |name: &str, bytes: Vec<u8>, then, status, code| {
        cases.push(Case {
            name: name.into(),
            bytes,
            then,
            status,
            code,
        });
    };
    let mut cut = whole.clone();
    cut.body.truncate(50);
    case(
        "a body that is cut",
        cut.bytes_of_length(whole.body.len()),
        Then::HalfClose,
        400,
        Some("body_incomplete"),
    );
    let chunked = whole.clone().header("transfer-encoding", "chunked");
    let head = |request: &Request| {
        let bytes = request.bytes_of_length(0);
        let text = String::from_utf8(bytes)
            .unwrap()
            .replace("content-length: 0\r\n", "");
        text.split_inclusive("\r\n\r\n").next().unwrap().to_string()
    };
    case(
        "a chunk without a length",
        format!("{}zz\r\n", head(&chunked)).into_bytes(),
        Then::Wait,
        400,
        Some("body_incomplete"),
    );
    case(
        "a chunk that is cut",
        format!("{}40\r\n{{\"rec", head(&chunked)).into_bytes(),
        Then::HalfClose,
        400,
        Some("body_incomplete"),
    );
    let huge = "x".repeat(200 << 10);
    case(
        "a huge header",
        whole.clone().header("x-huge", &huge).bytes(),
        Then::Wait,
        431,
        None,
    );
    let mut many = whole.clone();
    for n in 0..200 {
        many = many.header(&format!("x-{n}"), "y");
    }
    case("200 headers", many.bytes(), Then::Wait, 431, None);
    case(
        "a huge target",
        Request::get(format!("/v1/messages?with={huge}"), token).bytes(),
        Then::Wait,
        431,
        None,
    );
    case(
        "a huge token",
        Request::get("/v1/conversations", &"x".repeat(12 << 10)).bytes(),
        Then::Wait,
        401,
        Some("token_invalid"),
    );
    case(
        "a token that is larger than a head may be",
        Request::get("/v1/conversations", &"x".repeat(20 << 10)).bytes(),
        Then::Wait,
        431,
        Some("headers_too_large"),
    );
    case(
        "a target that is larger than a head may be",
        Request::get(format!("/v1/messages?with={}", "x".repeat(17 << 10)), token).bytes(),
        Then::Wait,
        431,
        Some("headers_too_large"),
    );
    for (name, bytes) in [
        ("no HTTP", &b"hello\r\n\r\n"[..]),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        ("an unknown version", b"GET / HTTP/7.7\r\n\r\n"),
        (
            "a raw byte in the target",
            b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        ),
        ("a space in the target", b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n"),
        (
            "a zero byte in a header",
            b"GET / HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
        ),
        ("a header without a name", b"GET / HTTP/1.1\r\n: x\r\n\r\n"),
        (
            "a length that is no number",
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        ),
        (
            "two lengths",
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        ),
        (
            "a negative length",
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        ),
    ] {
        case(name, bytes.to_vec(), Then::Wait, 400, None);
    }
}

/// At the limit, and strange but right.
fn accepted(server: &Server) -> Vec<Case> {
    let token = &server.token("mallory");
    let send = |body: String| Request::post("/v1/messages", token, body);
    let escaped = format!(
        "{{\"receiver_id\":\"bob\",\"text\":\"{}\"}}",
        "\\u0000".repeat(CONTENT_LIMIT)
    );
    let bytes = json!({"receiver_id": "bob", "data": zeros_in_base64(CONTENT_LIMIT)}).to_string();
    let to_long = json!({"receiver_id": "x".repeat(32), "text": "a"}).to_string();
    let all_letters = json!({"receiver_id": "Aa0._@+:-", "text": "a"}).to_string();
    let type_127 =
        json!({"receiver_id": "bob", "text": "a", "content_type": format!("text/{}", "x".repeat(122))})
            .to_string();
    let with_charset = send(text(1))
        .without("content-type")
        .header("content-type", "Application/JSON; charset=utf-8");
    let key = send(text(1)).header("idempotency-key", "!~".repeat(32));
    let requests = vec![
        ("text at the limit", send(text(CONTENT_LIMIT)), 201),
        (
            "text at the limit, escaped as far as JSON can",
            send(escaped),
            201,
        ),
        ("data at the limit", send(bytes), 201),
        ("a receiver of 32 characters", send(to_long), 201),
        ("a receiver of all kinds of characters", send(all_letters), 201),
        ("a content type of 127 characters", send(type_127), 201),
        ("a content-type with a charset", with_charset, 201),
        ("a key of 64 characters", key, 201),
        (
            "limit 200",
            Request::get("/v1/messages?with=bob&limit=200", token),
            200,
        ),
        ("limit 1", Request::get("/v1/conversations?limit=1", token), 200),
        (
            "bounds that hold nothing",
            Request::get(
                "/v1/messages?with=bob&after=9223372036854775807&before=-9223372036854775808",
                token,
            ),
            200,
        ),
    ];
    let case = |(name, request, status): (&str, Request, u16)| Case {
        name: name.into(),
        bytes: request.bytes(),
        then: Then::Wait,
        status,
        code: None,
    };
    requests.into_iter().map(case).collect()
}

fn valid_requests(server: &Server) -> Vec<(&'static str, Vec<u8>)> {
    let token = &server.token("mallory");
    let data = json!({"receiver_id": "eve", "data": "AAECAwQ=", "content_type": "image/png"}).to_string();
    vec![
        (
            "send text",
            Request::post("/v1/messages", token, text(20))
                .header("idempotency-key", "key-1")
                .bytes(),
        ),
        ("send data", Request::post("/v1/messages", token, data).bytes()),
        (
            "history",
            Request::get("/v1/messages?with=bob&after=0&before=999&limit=20", token).bytes(),
        ),
        (
            "history by time",
            Request::get("/v1/messages?with=bob&since=0&until=1999999999", token).bytes(),
        ),
        ("message", Request::post("/v1/messages", token, text(1)).bytes()),
        (
            "conversations",
            Request::get("/v1/conversations?before=999&limit=20", token).bytes(),
        ),
        (
            "poll",
            Request::get("/v1/events?after=0&wait=0&limit=20", token)
                .header("accept", "application/json")
                .bytes(),
        ),
        (
            "stream",
            Request::get("/v1/events?after=0", token)
                .header("accept", "text/event-stream")
                .bytes(),
        ),
        ("health", Request::get("/healthz", token).bytes()),
        ("docs", Request::get("/docs/index.html", token).bytes()),
        ("document", Request::get("/openapi.json", token).bytes()),
    ]
}
