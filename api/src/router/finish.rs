//! What stands around all routes: the request's id, the body of every problem, the line in the log, and the headers
//! that every answer has.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::Response,
};
use tracing::Instrument;

use crate::{
    door::Door,
    limits::ClientAddress,
    metrics,
    problem::{Problem, short},
    telemetry,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the log and a problem call a request: the caller's `X-Request-Id` if it is 1 to 64 of
/// `A-Z a-z 0-9 . _ -`, else 32 hex digits of our own.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sane = |value: &&HeaderValue| {
            let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
            (1..=64).contains(&value.len()) && value.as_bytes().iter().all(allowed)
        };
        let drawn = || HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>()));
        match headers.get(X_REQUEST_ID).filter(sane) {
            Some(value) => Self(value.clone()),
            None => Self(drawn().unwrap_or_else(|_| HeaderValue::from_static("none"))),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

pub(crate) async fn finish(mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let client = request.extensions().get::<ClientAddress>().copied();
    let door = Door::of(request.uri(), request.headers());
    let span = tracing::info_span!("request", request.id = id.as_str());
    telemetry::begin_request(&span, request.headers(), &method);

    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    let problem = problem.or_else(|| is_bare(&response).then(|| Problem::from(status)));
    let code = problem.as_ref().map(|problem| problem.code.as_str());
    if let Some(problem) = problem {
        metrics::rejected(problem.code, door);
        write_body(&mut response, &problem, &id);
    }
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.0);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What the doors answer belongs to one person, at one moment.
    headers
        .entry(CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));

    let _entered = span.enter();
    let address = client.map(|ClientAddress(address)| address);
    let client = address.map(tracing::field::display);
    let route = route.as_ref().map(MatchedPath::as_str);
    let (status, duration_ms) = (status.as_u16(), begun.elapsed().as_micros() as f64 / 1000.0);
    telemetry::end_request(&span, route, status);
    // What nobody finds is no news, and of what an address is refused again and again there is a sum. All of it is in the
    // debug log.
    let is_told = status >= 400
        && status != 404
        && address.is_none_or(|address| telemetry::has_own_line(address, code));
    // The path without its query, which may hold a token, quoted and cut: anybody can ask for any path, by any method.
    macro_rules! line {
        ($level:ident, $what:literal) => {
            tracing::$level!(
                method = %short(&method),
                path = %short(format_args!("{path:?}")),
                route,
                status,
                code,
                client.address = client,
                duration_ms,
                $what
            )
        };
    }
    if status < 400 {
        line!(debug, "answered");
    } else if is_told {
        line!(info, "refused");
    } else {
        line!(debug, "refused");
    }
    response
}

/// A refusal that no handler of ours made: axum's, which has plain text or nothing in it. What speaks a protocol of its
/// own inside these routes keeps its own answers.
fn is_bare(response: &Response) -> bool {
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    let content_type = response.headers().get(CONTENT_TYPE);
    let plain = content_type.is_none_or(|value| value.as_bytes().starts_with(b"text/plain"));
    refused && plain && status != StatusCode::UPGRADE_REQUIRED
}

/// Headers of the problem stay (`Allow`, `Retry-After`), those of the body that was there do not.
fn write_body(response: &mut Response, problem: &Problem, id: &RequestId) {
    let body = serde_json::to_vec(&problem.body(Some(id.as_str()))).unwrap_or_default();
    *response.status_mut() = problem.code.status();
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(challenge) = problem
        .challenge
        .as_deref()
        .and_then(|text| HeaderValue::from_str(text).ok())
    {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    *response.body_mut() = Body::from(body);
}
