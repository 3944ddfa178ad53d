//! Axum's extractors with problems for rejections.

use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody},
    extract::{FromRequest, FromRequestParts, Request, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::{Code, Problem};
use crate::{
    limits::{BodyPlace, ClientAddress},
    state::AppState,
};

/// How long a body may take, from the end of the request's head: a client that sends a byte now and then holds a
/// connection and a buffer. A body that says how long it is gets a second more for each of these many bytes.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_RATE: u64 = 64 << 10;

/// A JSON body. Fields that are not known are ignored: a newer client may send more. Wrong JSON is `json_invalid`,
/// JSON of the wrong form `body_invalid` with a pointer to what is wrong.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(Code::MediaTypeUnsupported));
        }
        let (body, _place) = read_body(request, app).await?;
        parse_json(&body).map(Self)
    }
}

/// A body within the limits of size and time, and its place among all of them, to be held as long as it.
pub async fn read_body(request: Request, app: &AppState) -> Result<(Bytes, BodyPlace), Problem> {
    let length = request.body().size_hint().upper();
    let Some(&ClientAddress(address)) = request.extensions().get() else {
        return Err(Problem::new(Code::Internal));
    };
    let place = app.limits.admit_body(length, address)?;
    let time = BODY_TIME + Duration::from_secs(length.unwrap_or(0) / BODY_RATE);
    let body = tokio::time::timeout(time, Bytes::from_request(request, app)).await;
    let body = body.map_err(|_| Problem::new(Code::BodyTimeout))?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::BodyTooLarge),
        _ => Problem::new(Code::BodyIncomplete),
    })?;
    Ok((body, place))
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

/// An object of JSON, whatever it came in.
pub fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let pointer = pointer(error.path());
        let error = error.into_inner();
        match error.classify() {
            Category::Data => Problem::new(Code::BodyInvalid).at(pointer, error),
            // Of a name that is written as a number, serde_json says that it is no JSON.
            _ if serde_json::from_slice::<serde_json::Value>(body).is_ok() => {
                Problem::new(Code::BodyInvalid).at(pointer, error)
            }
            Category::Syntax | Category::Eof | Category::Io => Problem::new(Code::JsonInvalid).detail(error),
        }
    })?;
    json.end()
        .map_err(|error| Problem::new(Code::JsonInvalid).detail(error))?;
    // Serde also fills a struct from an array, in the order of its fields: nothing that we promise.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Problem::new(Code::BodyInvalid).at("", "an object is expected"));
    }
    Ok(value)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segments = path.iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    });
    segments.collect()
}

/// The parameters of the query. Those that are not known are ignored, a known one twice is refused.
pub struct Query<T>(pub T);

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
