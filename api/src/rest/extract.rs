//! Axum's extractors with problems for rejections.

use std::convert::Infallible;

use axum::{
    extract::{FromRequest, FromRequestParts, Request, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, HeaderName, header::CONTENT_TYPE, request::Parts},
    middleware::Next,
    response::Response,
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    auth::TokenUser,
    limits::{ClientAddress, Holder, Room, read_body, refuse_encoding},
    metrics::Way,
    problem::{Code, Problem},
    state::AppState,
    wire::{NewMessage, parse_json},
};

/// A JSON body. Wrong JSON is `json_invalid`; JSON of the wrong form, a field that is not known included, is
/// `body_invalid` with a pointer to what is wrong. With it comes the room of the body, to be held as long as what was
/// in it.
pub struct Json<T>(pub T, pub Room);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::MediaTypeUnsupported));
        }
        refuse_encoding(request.headers())?;
        let (parts, body) = request.into_parts();
        let mut room = app.limits.room(Way::In, &holder(&parts, app));
        let body = read_body(body, NewMessage::body_limit(app.content_limit), &mut room).await?;
        let value = parse_json(&body).map_err(name_the_header)?;
        Ok(Self(value, room))
    }
}

/// No body has a field for the key of a command. A client that puts its key there would believe that it may send
/// again, so it is told where keys go.
fn name_the_header(mut problem: Problem) -> Problem {
    for error in &mut problem.errors {
        let field = error
            .pointer
            .as_deref()
            .and_then(|pointer| pointer.strip_prefix('/'));
        if field.is_some_and(|field| field == "key" || spelling(field) == "idempotencykey") {
            error.detail = "the key of a command is the header Idempotency-Key, not a field".to_owned();
            problem.detail = Some(error.detail.clone());
        }
    }
    problem
}

/// The headers that change what a request means, as they are written.
const HEADERS: [&str; 3] = ["Idempotency-Key", "Act-As", "Last-Event-ID"];

/// Refuses a wrong spelling of a header that changes what a request means. Passed over, it would have a command recorded
/// twice, or for somebody else, or a stream begin at the wrong place. Other headers are none of ours: proxies add what
/// they like.
pub async fn refuse_misspelt_headers(request: Request, next: Next) -> Result<Response, Problem> {
    for name in request.headers().keys().map(HeaderName::as_str) {
        let meant = HEADERS.iter().find(|known| spelling(known) == spelling(name));
        if let Some(meant) = meant
            && !meant.eq_ignore_ascii_case(name)
        {
            let detail = format!("this header is spelt {meant}");
            return Err(Problem::new(Code::RequestInvalid).at_header(name, detail));
        }
    }
    Ok(next.run(request).await)
}

/// What all spellings of a name have in common.
fn spelling(name: &str) -> String {
    let letters = name.chars().filter(|c| !matches!(c, '-' | '_'));
    let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    match letters.strip_prefix('x') {
        Some(rest) => rest.to_owned(),
        None => letters,
    }
}

fn holder(parts: &Parts, app: &AppState) -> Holder {
    let user = parts.extensions.get().map(|TokenUser(user)| user);
    match parts.extensions.get() {
        Some(&ClientAddress(address)) => app.limits.holder(address, user),
        None => Holder::default(),
    }
}

/// Whose the request is, for all that is counted. To be extracted after the caller.
impl FromRequestParts<AppState> for Holder {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        Ok(holder(parts, app))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = essence
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The parameters of the query. One that is not known is refused, and so is a known one twice.
pub struct Query<T>(pub T);

/// The query of an operation that has no parameters there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        serde_path_to_error::deserialize(pairs)
            .map(Self)
            .map_err(|error| {
                let name = error.path().iter().next().map(ToString::to_string);
                let problem = Problem::new(Code::ParameterInvalid);
                match name {
                    Some(name) => problem.at_parameter(name, error.into_inner()),
                    None => problem.detail(error.into_inner()),
                }
            })
    }
}

/// The parameters of the path.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value))
            .map_err(|rejection| {
                let PathRejection::FailedToDeserializePathParams(failure) = rejection else {
                    return Problem::new(Code::Internal);
                };
                let problem = Problem::new(Code::ParameterInvalid);
                match failure.kind() {
                    ErrorKind::ParseErrorAtKey { key, .. }
                    | ErrorKind::DeserializeError { key, .. }
                    | ErrorKind::InvalidUtf8InPathParam { key } => problem.at_parameter(key, failure.kind()),
                    other => problem.detail(other),
                }
            })
    }
}
