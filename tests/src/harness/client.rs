//! A user's client over REST, thin enough that a test still reads as the wire contract.

use std::fmt;

use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};
use serde_json::{Value, json};

use super::events::{Events, StalledEvents};

/// Speaks to one server for one user.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// Any answer, as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// JSON where it is JSON, else the text as a string.
    pub body: Value,
}

/// A refusal or failure. Status 0 and code `unreachable`: no answer came, and nobody knows whether it was done.
#[derive(Clone, Debug)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Client {
    pub fn new(url: &str, token: &str) -> Client {
        // Whatever proxy this machine has for the world is not for 127.0.0.1.
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a plain HTTP client");
        Client {
            http,
            url: url.into(),
            token: token.into(),
        }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// `POST /v1/messages`; the message that it gives back.
    pub async fn send(&self, receiver: &str, text: &str, key: Option<&str>) -> Result<Value, Problem> {
        self.send_body(&json!({"receiver_id": receiver, "text": text}), key)
            .await
    }

    /// `POST /v1/messages` with any body.
    pub async fn send_body(&self, body: &Value, key: Option<&str>) -> Result<Value, Problem> {
        let request = self.post("/v1/messages").json(body);
        let request = match key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        ok(request).await
    }

    /// `GET /v1/messages`, with `with`, `after`, `before`, `since`, `until`, `limit`.
    pub async fn history(&self, query: &[(&str, &str)]) -> Result<Value, Problem> {
        ok(self.get("/v1/messages").query(query)).await
    }

    /// `GET /v1/messages/{_id}`.
    pub async fn message(&self, id: i64) -> Result<Value, Problem> {
        ok(self.get(&format!("/v1/messages/{id}"))).await
    }

    /// `GET /v1/conversations`.
    pub async fn conversations(&self) -> Result<Value, Problem> {
        ok(self.get("/v1/conversations")).await
    }

    /// `POST /v1/receipts`; `kind` is `received` or `read`.
    pub async fn receipt(&self, kind: &str, up_to: i64) -> Result<Value, Problem> {
        ok(self
            .post("/v1/receipts")
            .json(&json!({"type": kind, "up_to": up_to})))
        .await
    }

    /// `GET /v1/events` as one long poll.
    pub async fn poll(&self, after: &str, wait_s: u64) -> Result<Value, Problem> {
        ok(self
            .get("/v1/events")
            .query(&[("after", after), ("wait", &wait_s.to_string())]))
        .await
    }

    /// `GET /v1/events` as a stream.
    pub async fn events(&self, after: Option<&str>) -> Result<Events, Problem> {
        Events::connect(&self.url, &self.token, after).await
    }

    /// The stream of a client that has stopped reading.
    pub async fn stalled_events(&self, after: Option<&str>) -> StalledEvents {
        StalledEvents::connect(&self.url, &self.token, after).await
    }

    /// A request with the token, to be completed by the test; see [`reply`] and [`ok`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() {
            request
        } else {
            request.bearer_auth(&self.token)
        }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }
}

/// Sends a request and gives the answer, whatever it is. Panics when there is none.
pub async fn reply(request: RequestBuilder) -> Reply {
    try_reply(request)
        .await
        .unwrap_or_else(|error| panic!("no answer: {error:?}"))
}

/// Sends a request and gives the JSON of a 2xx answer.
pub async fn ok(request: RequestBuilder) -> Result<Value, Problem> {
    match try_reply(request).await {
        Ok(reply) if (200..300).contains(&reply.status) => Ok(reply.body),
        Ok(reply) => Err(Problem::from(reply)),
        Err(error) => Err(Problem::unreachable(&error)),
    }
}

async fn try_reply(request: RequestBuilder) -> Result<Reply, reqwest::Error> {
    let answer = request.send().await?;
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let text = answer.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Reply {
        status,
        headers,
        body,
    })
}

impl Problem {
    pub(super) fn unreachable(error: &reqwest::Error) -> Problem {
        let body = Value::String(format!("{error:?}"));
        Problem {
            status: 0,
            code: "unreachable".into(),
            headers: HeaderMap::new(),
            body,
        }
    }

    /// The header `Retry-After`.
    pub fn retry_after(&self) -> Option<u64> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }
}

impl From<Reply> for Problem {
    fn from(reply: Reply) -> Problem {
        let code = reply.body["code"].as_str().unwrap_or_default().to_string();
        Problem {
            status: reply.status,
            code,
            headers: reply.headers,
            body: reply.body,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.status, self.code, self.body)
    }
}

impl std::error::Error for Problem {}

impl Reply {
    /// A header's text, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub fn content_type(&self) -> &str {
        self.header(CONTENT_TYPE.as_str())
    }
}
