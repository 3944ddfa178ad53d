use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, header::AUTHORIZATION},
};
use chat_domain::{ids::UserId, ports::ExecuteError, rejection::Rejection};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use super::openapi_text;
use crate::{
    limits::{FREE, HEAD_LIMIT, LimitsOptions},
    openapi::refusals,
    problem::Code,
    testing::{Answer, CONTENT_LIMIT, SECRET, Server, Setup, limits},
};

#[test]
fn the_committed_document_is_what_the_server_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == openapi_text(),
        "run `make openapi` (chat-system openapi > openapi/openapi.json)"
    );
}

#[test]
fn every_operation_is_named_for_its_handler_and_has_its_refusals() {
    let document = json!(super::openapi());
    let mut names = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            names.push(operation["operationId"].as_str().unwrap().to_owned());
            assert!(operation["responses"]["500"].is_object(), "{operation}");
        }
    }
    names.sort();
    assert_eq!(
        names,
        [
            "check_health",
            "check_readiness",
            "create_development_token",
            "get_message",
            "list_conversations",
            "list_messages",
            "send_message",
            "send_receipt",
            "stream_events",
        ]
    );
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["license"]["name"], "MIT OR Apache-2.0");
}

/// What cannot be had in here: the tests that have it are named.
fn is_elsewhere(operation: &str, code: Code) -> bool {
    match code {
        // A token whose key cannot be fetched: tests/tests/promises/security/keys.rs.
        Code::NotReady => operation != "check_readiness",
        // A panic; `get_message` has one in these tests, and the layer that answers it stands around all routes.
        Code::Internal => operation != "get_message",
        _ => false,
    }
}

/// Each code of each operation comes from the server, with its status; `call` holds every refusal to the document.
#[tokio::test(start_paused = true)]
async fn each_code_of_each_operation_can_be_provoked() {
    let mut provoked = 0;
    for item in json!(super::openapi())["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let operation = operation["operationId"].as_str().unwrap();
            for code in refusals(operation) {
                if is_elsewhere(operation, code) {
                    continue;
                }
                let answer = provoke(operation, code).await;
                assert_eq!(
                    (answer.code(), answer.status),
                    (code.as_str(), code.status()),
                    "{operation}"
                );
                provoked += 1;
            }
        }
    }
    assert!(provoked > 90, "{provoked}");
}

/// A client that believes that it has said something is not served as if it had not.
#[tokio::test]
async fn each_operation_refuses_a_field_and_a_parameter_that_nobody_knows() {
    let server = Server::with(Setup {
        development: true,
        ..Setup::default()
    });
    let (mut bodies, mut queries) = (0, 0);
    for item in json!(super::openapi())["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let name = operation["operationId"].as_str().unwrap();
            if operation["requestBody"].is_object() {
                let mut asked = Asked::of(name);
                asked.body["of_tomorrow"] = json!(1);
                let answer = server.call(asked.request()).await;
                assert_eq!(answer.code(), "body_invalid", "{name}");
                assert_eq!(answer.body["errors"][0]["pointer"], "/of_tomorrow", "{name}");
                bodies += 1;
            }
            // Whatever probes a server may add what it likes.
            if !name.starts_with("check_") {
                let mut asked = Asked::of(name);
                asked.path += if asked.path.contains('?') { "&" } else { "?" };
                asked.path += "of_tomorrow=1";
                let answer = server.call(asked.request()).await;
                assert_eq!(answer.code(), "parameter_invalid", "{name}");
                assert_eq!(answer.body["errors"][0]["parameter"], "of_tomorrow", "{name}");
                queries += 1;
            }
        }
    }
    assert!(bodies >= 3 && queries >= 7, "{bodies} and {queries}");
}

/// A request that would be answered well.
struct Asked {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Value,
}

impl Asked {
    fn of(operation: &str) -> Self {
        let (method, path, body) = match operation {
            "send_message" => (
                Method::POST,
                "/v1/messages",
                json!({"receiver_id": "bob", "text": "hi"}),
            ),
            "list_messages" => (Method::GET, "/v1/messages?with=bob", Value::Null),
            "get_message" => (Method::GET, "/v1/messages/1", Value::Null),
            "list_conversations" => (Method::GET, "/v1/conversations", Value::Null),
            "send_receipt" => (Method::POST, "/v1/receipts", json!({"type": "read", "up_to": 1})),
            "stream_events" => (Method::GET, "/v1/events?wait=0", Value::Null),
            "check_health" => (Method::GET, "/healthz", Value::Null),
            "check_readiness" => (Method::GET, "/readyz", Value::Null),
            "create_development_token" => (Method::POST, "/dev/token", json!({"user_id": "alice"})),
            other => panic!("a new operation needs a request here: {other}"),
        };
        let token = token(get_current_timestamp() + 60);
        let headers = vec![
            ("authorization", format!("Bearer {token}")),
            ("content-type", "application/json".into()),
            ("host", "localhost".into()),
        ];
        Self {
            method,
            path: path.into(),
            headers,
            body,
        }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
    }

    fn with(&self, body: Body) -> Request<Body> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .body(body)
            .unwrap();
        for (name, value) in &self.headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(HeaderName::from_static(name), value);
        }
        request
    }

    fn request(&self) -> Request<Body> {
        self.with(match &self.body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        })
    }
}

/// With the scopes, so that a refusal is about what it is about.
fn token(exp: u64) -> String {
    let claims = json!({"sub": "alice", "exp": exp, "scope": "chat.send_as"});
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(SECRET),
    )
    .unwrap()
}

async fn provoke(operation: &str, code: Code) -> Answer {
    let (mut asked, mut setup) = (Asked::of(operation), Setup::default());
    setup.development = operation == "create_development_token" && code != Code::RouteNotFound;
    setup.failing = match code {
        Code::Overloaded if operation.starts_with("send") => Some(ExecuteError::Overloaded),
        Code::Unavailable => Some(ExecuteError::Unavailable),
        Code::OutcomeUnknown => Some(ExecuteError::OutcomeUnknown),
        Code::CommandRefused => Some(ExecuteError::Rejected(Rejection::CommandRefused)),
        // Where the handler panics.
        Code::Internal => Some(ExecuteError::Unavailable),
        _ => None,
    };
    setup.following = code != Code::Starting;
    setup.limits = match code {
        Code::RateLimited => LimitsOptions {
            sends_per_second: 1,
            sends_burst: 1,
            reads_per_second: 1,
            reads_burst: 1,
            ..limits()
        },
        // Nothing passes that is counted at all.
        Code::Overloaded => LimitsOptions {
            bodies: if operation == "create_development_token" {
                1
            } else {
                limits().bodies
            },
            answers: 1,
            largest: 1,
            reads_at_work: 1,
            ..limits()
        },
        Code::TooManyConversations => LimitsOptions {
            new_conversations: 1,
            ..limits()
        },
        _ => limits(),
    };
    if code == Code::Overloaded {
        setup.content_limit = FREE;
    }
    let server = Server::with(setup);
    if let Some(answer) = provoke_by_body(&server, &asked, code).await {
        return answer;
    }
    let mut before = None;
    match code {
        Code::TokenMissing => asked.headers.retain(|(name, _)| *name != AUTHORIZATION.as_str()),
        Code::TokenInvalid => asked.set("authorization", "Bearer nonsense"),
        Code::TokenExpired => asked.set("authorization", &format!("Bearer {}", token(1))),
        Code::ScopeMissing if operation.starts_with("send") => {
            asked.set(
                "authorization",
                &format!("Bearer {}", crate::testing::token("alice")),
            );
            asked.set("act-as", "bob");
        }
        Code::ScopeMissing => asked.set("act-as", "bob"),
        Code::NotReady => server.readiness.part("tail").not_ready("a gap stays"),
        Code::RequestInvalid => asked.headers.push(("host", "another".into())),
        Code::HeadersTooLarge => asked.set("x-long", &"x".repeat(HEAD_LIMIT)),
        Code::MediaTypeUnsupported => asked.set("content-type", "text/plain"),
        Code::KeyInvalid => asked.set("idempotency-key", "not a key"),
        Code::KeyReused => {
            asked.set("idempotency-key", "k");
            before = Some(Asked {
                body: json!({"receiver_id": "carol", "text": "another"}),
                ..Asked::of("send_message")
            });
        }
        Code::UserIdInvalid if operation == "list_messages" => asked.path = "/v1/messages?with=~".into(),
        Code::UserIdInvalid => asked.set("act-as", "~"),
        Code::RateLimited => before = Some(Asked::of(operation)),
        Code::TooManyConversations => {
            let token = crate::testing::token("alice");
            asked.set("authorization", &format!("Bearer {token}"));
            server.send("alice", "carol", "the one that she may begin").await;
        }
        Code::Overloaded if operation == "stream_events" => {
            for _ in 0..3 {
                server.send("alice", "bob", &"x".repeat(FREE / 2)).await;
            }
            asked.path += "&after=0";
        }
        Code::Overloaded if !operation.starts_with("send") => {
            let alice = UserId::parse("alice").unwrap();
            let holder = server.app.limits.holder([192, 0, 2, 1].into(), Some(&alice));
            let _held = server.app.limits.begin_read(&holder).await.ok().unwrap();
            return server.call(asked.request()).await;
        }
        Code::ParameterInvalid if operation == "get_message" => asked.path = "/v1/messages/x".into(),
        Code::ParameterInvalid => {
            asked.path = format!("{}?limit=0&with=bob", asked.path.split('?').next().unwrap())
        }
        Code::CursorInvalid => asked.path += "&after=x",
        Code::CursorReset => asked.path += "&after=another:1",
        Code::NotAcceptable => asked.set("accept", "text/html"),
        Code::DevHostRefused => asked.set("host", "chat.example"),
        Code::Internal => asked.path = "/v1/messages/666".into(),
        Code::Shutdown => server.hub.close(),
        _ => {}
    }
    if operation == "create_development_token" && code == Code::UserIdInvalid {
        asked.body = json!({"user_id": "~"});
    }
    if let Some(mut before) = before {
        before.headers.extend(
            asked
                .headers
                .iter()
                .filter(|(name, _)| *name == "idempotency-key")
                .cloned(),
        );
        server.call(before.request()).await;
    }
    // There is no place for another connection; one for another stream of the user's is missing in rest/events/tests.rs.
    if code == Code::TooManyConnections {
        return server.full().call(asked.request()).await;
    }
    let mut answer = server.call(asked.request()).await;
    // The second of two may still be within a limit that is by the second.
    while code == Code::RateLimited && answer.code().is_empty() {
        answer = server.call(asked.request()).await;
    }
    answer
}

/// What is wrong with a body, or with how it comes.
async fn provoke_by_body(server: &Server, asked: &Asked, code: Code) -> Option<Answer> {
    let body = match code {
        Code::JsonInvalid => Body::from("{"),
        Code::BodyInvalid => Body::from("[]"),
        Code::BodyIncomplete => {
            let broken = Err::<&[u8], _>(std::io::Error::other("the connection broke"));
            Body::from_stream(futures_util::stream::iter([broken]))
        }
        Code::BodyTimeout => {
            Body::from_stream(futures_util::stream::pending::<Result<&[u8], std::io::Error>>())
        }
        Code::BodyTooLarge => Body::from("x".repeat(CONTENT_LIMIT * 6 + 4097)),
        Code::ContentMissing => Body::from(r#"{"receiver_id":"bob"}"#),
        Code::ContentAmbiguous => Body::from(r#"{"receiver_id":"bob","text":"a","data":"QQ=="}"#),
        Code::ContentTypeInvalid => {
            Body::from(r#"{"receiver_id":"bob","text":"a","content_type":"image/png"}"#)
        }
        Code::DataInvalid => Body::from(r#"{"receiver_id":"bob","data":"?"}"#),
        Code::ContentEmpty => Body::from(r#"{"receiver_id":"bob","text":""}"#),
        Code::ContentTooLarge => {
            Body::from(json!({"receiver_id": "bob", "text": "x".repeat(CONTENT_LIMIT + 1)}).to_string())
        }
        Code::Overloaded if asked.path == "/dev/token" => Body::from(" ".repeat(2 * FREE)),
        _ => return None,
    };
    Some(server.call(asked.with(body)).await)
}
