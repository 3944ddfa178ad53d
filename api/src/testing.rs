//! The doors on a log in memory: what the tests of this crate share.
//!
//! Every problem that a test sees is held to the OpenAPI document: a code that its operation does not list fails the
//! test, whatever that was about.

use std::{cell::Cell, sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_TYPE},
};
use chat_domain::{
    Micros, Position,
    batch::Outcome,
    command::Command,
    cursor::Epoch,
    ids::{ConversationId, UserId},
    memory::MemoryLog,
    ports::{EventLog, ExecuteError, Outbox, PageLimit, StoreError, Timeline},
    views::{ConversationPage, Message, MessagePage, MessageRange},
};
use chat_infrastructure::{handover::Origin, tail::Publish};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    auth::{Signer, Verifier},
    chat_page::{ChatPage, Facts, Files},
    limits::{Limits, LimitsOptions},
    openapi,
    problem::Code,
    readiness::Readiness,
    realtime::hub::{Hub, HubOptions},
    router,
    state::{App, AppState, Pings},
    wire::NewMessage,
};

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(crate) const CONTENT_LIMIT: usize = 100;
pub(crate) const BEGIN: i64 = 1_790_000_000;

pub(crate) struct Server {
    pub(crate) app: AppState,
    pub(crate) router: Router,
    pub(crate) hub: Hub,
    pub(crate) readiness: Readiness,
}

/// What a test may want otherwise.
pub(crate) struct Setup {
    pub(crate) development: bool,
    /// The files of a chat page.
    pub(crate) page: Files,
    /// Whether the tail has begun.
    pub(crate) following: bool,
    pub(crate) heartbeat: Duration,
    /// The log and the timeline answer with this.
    pub(crate) failing: Option<ExecuteError>,
    pub(crate) limits: LimitsOptions,
    pub(crate) content_limit: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            development: false,
            page: &[],
            following: true,
            heartbeat: Duration::from_secs(15),
            failing: None,
            limits: limits(),
            content_limit: CONTENT_LIMIT,
        }
    }
}

/// One with signs of its own in HTML.
pub(crate) const USER_CLAIM: &str = "https://e.com/id;>";

/// What no test reaches that is not about them.
pub(crate) fn limits() -> LimitsOptions {
    LimitsOptions {
        sends_per_second: 1_000_000,
        sends_burst: 1_000_000,
        reads_per_second: 1_000_000,
        reads_burst: 1_000_000,
        reads_at_work: 8,
        new_conversations: 1_000_000,
        connections_per_user: 1000,
        connections_per_address: 1000,
        // What a router has for its peer that is called without a listener.
        trusted_proxies: "0.0.0.0".parse().unwrap(),
        bodies: 1 << 20,
        answers: 64 << 20,
        largest: NewMessage::body_limit(CONTENT_LIMIT),
    }
}

impl Server {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let memory = MemoryLog::new(Epoch::parse("test").unwrap(), clock);
        let options = HubOptions {
            heartbeat: setup.heartbeat,
            ..HubOptions::default()
        };
        let hub = Hub::new(Arc::new(memory.clone()), options);
        if setup.following {
            hub.publish(
                &[],
                &Origin::elsewhere(),
                &chat_domain::cursor::Cursor {
                    epoch: Epoch::parse("test").unwrap(),
                    position: 0,
                },
            );
        }
        let readiness = Readiness::default();
        let (log, timeline): (Arc<dyn EventLog>, Arc<dyn Timeline>) = match setup.failing {
            Some(error) => (Arc::new(Failing(error)), Arc::new(Failing(error))),
            None => (
                Arc::new(Published {
                    memory: memory.clone(),
                    hub: hub.clone(),
                }),
                Arc::new(memory.clone()),
            ),
        };
        let facts = Facts {
            development: setup.development,
            content_limit: setup.content_limit,
            user_claim: USER_CLAIM.into(),
        };
        let app = Arc::new(App {
            log,
            timeline,
            hub: hub.clone(),
            verifier: Verifier::hs256(SECRET),
            development: setup.development.then(|| Signer::hs256(SECRET)),
            chat_page: ChatPage::new(setup.page, facts),
            readiness: readiness.clone(),
            limits: Limits::new(setup.limits),
            content_limit: setup.content_limit,
            command_timeout: Duration::from_secs(10),
            heartbeat: setup.heartbeat,
            pings: Pings::default(),
            stall: Duration::from_secs(30),
            lose_one_in: 0,
        });
        Self {
            router: router::router(app.clone()),
            app,
            hub,
            readiness,
        }
    }

    /// What answers where there is no place for another connection.
    pub(crate) fn full(self) -> Self {
        Self {
            router: router::full(self.app.clone()),
            ..self
        }
    }

    /// Sends a request and gives the answer once its head is there.
    pub(crate) async fn open(&self, mut request: Request<Body>) -> Response<Body> {
        let host = axum::http::HeaderValue::from_static("chat.test");
        request.headers_mut().entry("host").or_insert(host);
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request and gives the whole answer.
    pub(crate) async fn call(&self, request: Request<Body>) -> Answer {
        let route = (request.method().clone(), request.uri().path().to_owned());
        let answer = Answer::read(self.open(request).await).await;
        answer.hold_to_the_document(&route.0, &route.1);
        answer
    }

    pub(crate) async fn get(&self, user: &str, path: &str) -> Answer {
        self.call(get(user, path)).await
    }

    pub(crate) async fn post(&self, user: &str, path: &str, body: &Value) -> Answer {
        self.call(post(user, path, body)).await
    }

    /// Sends a text and gives the `_id` of its message.
    pub(crate) async fn send(&self, from: &str, to: &str, text: &str) -> Position {
        let answer = self
            .post(from, "/v1/messages", &json!({"receiver_id": to, "text": text}))
            .await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        answer.body["_id"].as_i64().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    async fn read(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Self {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    fn hold_to_the_document(&self, method: &Method, path: &str) {
        if !self.status.is_client_error() && !self.status.is_server_error() {
            return;
        }
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let code = Code::ALL
            .iter()
            .find(|code| code.as_str() == self.code())
            .unwrap();
        assert_eq!(
            (self.status, &self.body["status"]),
            (code.status(), &json!(code.status().as_u16()))
        );
        assert_eq!(self.body["request_id"], self.header("x-request-id"));
        assert_eq!(
            self.body["retry_after"].to_string().replace("null", ""),
            self.header("retry-after")
        );
        assert_eq!(
            self.header("www-authenticate").is_empty(),
            self.status != StatusCode::UNAUTHORIZED
        );
        if let Some(operation) = operation(method, path) {
            assert!(
                openapi::refusals(operation).contains(code),
                "{operation} does not list {}",
                code.as_str()
            );
        }
    }
}

fn operation(method: &Method, path: &str) -> Option<&'static str> {
    Some(match (method.as_str(), path) {
        ("POST", "/v1/messages") => "send_message",
        ("GET", "/v1/messages") => "list_messages",
        ("GET", path)
            if path
                .strip_prefix("/v1/messages/")
                .is_some_and(|id| !id.is_empty() && !id.contains('/')) =>
        {
            "get_message"
        }
        ("GET", "/v1/conversations") => "list_conversations",
        ("POST", "/v1/receipts") => "send_receipt",
        ("GET", "/v1/events") => "stream_events",
        ("GET", "/healthz") => "check_health",
        ("GET", "/readyz") => "check_readiness",
        ("POST", "/dev/token") => "create_development_token",
        _ => return None,
    })
}

pub(crate) fn token(user: &str) -> String {
    Signer::hs256(SECRET)
        .sign(&UserId::parse(user).unwrap(), 3600)
        .unwrap()
        .token
}

pub(crate) fn get(user: &str, path: &str) -> Request<Body> {
    request(Method::GET, user, path).body(Body::empty()).unwrap()
}

pub(crate) fn post(user: &str, path: &str, body: &Value) -> Request<Body> {
    let request = request(Method::POST, user, path).header(CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

pub(crate) fn request(method: Method, user: &str, path: &str) -> axum::http::request::Builder {
    let bearer = format!("Bearer {}", token(user));
    Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", bearer)
}

/// Reads a stream until its text ends with this.
pub(crate) async fn read_until(body: &mut BodyDataStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        text.push_str(
            &read_chunk(body)
                .await
                .unwrap_or_else(|| panic!("ended after {text:?}")),
        );
    }
    text
}

/// `None` at the end of the stream.
pub(crate) async fn read_chunk(body: &mut BodyDataStream) -> Option<String> {
    let read = tokio::time::timeout(Duration::from_secs(60), body.next());
    let read = read.await.expect("nothing came within a minute");
    read.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap())
}

/// Each test has a thread of its own: one second for each look at the clock.
fn clock() -> Micros {
    thread_local!(static NOW: Cell<Micros> = const { Cell::new(BEGIN * 1_000_000) });
    NOW.replace(NOW.get() + 1_000_000)
}

/// Passes on to the hub what was written, as the tail does.
struct Published {
    memory: MemoryLog,
    hub: Hub,
}

#[async_trait]
impl EventLog for Published {
    async fn execute(&self, command: Command) -> Result<Outcome, ExecuteError> {
        let before = self.memory.head().await.map_err(|_| ExecuteError::Unavailable)?;
        let outcome = self.memory.execute(command).await?;
        let limit = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let events = self.memory.read_after(before.position, limit).await.unwrap();
        self.hub.publish(
            &events,
            &Origin::elsewhere(),
            &self.memory.head().await.unwrap().cursor(),
        );
        Ok(outcome)
    }
}

struct Failing(ExecuteError);

impl Failing {
    fn away<T>() -> Result<T, StoreError> {
        Err(StoreError::Unavailable("the database is away".into()))
    }
}

#[async_trait]
impl EventLog for Failing {
    async fn execute(&self, _: Command) -> Result<Outcome, ExecuteError> {
        Err(self.0)
    }
}

#[async_trait]
impl Timeline for Failing {
    async fn messages(
        &self,
        _: &UserId,
        _: &ConversationId,
        _: MessageRange,
    ) -> Result<MessagePage, StoreError> {
        Self::away()
    }

    async fn message(&self, _: &UserId, id: Position) -> Result<Option<Message>, StoreError> {
        if id == 666 {
            panic!("a handler panics")
        } else {
            Self::away()
        }
    }

    async fn conversations(
        &self,
        _: &UserId,
        _: Option<Position>,
        _: usize,
    ) -> Result<ConversationPage, StoreError> {
        Self::away()
    }
}
