//! How bodies are read: bounded in bytes and in time, and counted as they come.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, header::CONTENT_ENCODING},
};
use http_body_util::BodyExt;

use super::Room;
use crate::problem::{Code, Problem};

/// How long a body may take, from the end of the request's head: a client that sends a byte now and then holds a
/// connection and a buffer. A body that says how long it is gets a second more for each of these many bytes.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_RATE: u64 = 64 << 10;

/// A body of so many bytes at most, within the limit of time. The room grows with what has come, and is to be held as
/// long as the body.
pub async fn read_body(body: Body, most: usize, room: &mut Room) -> Result<Vec<u8>, Problem> {
    let announced = body.size_hint();
    if announced.lower() > most as u64 {
        return Err(Problem::new(Code::BodyTooLarge));
    }
    let time = BODY_TIME + Duration::from_secs(announced.lower() / BODY_RATE);
    let whole = announced.exact().and_then(|length| usize::try_from(length).ok());
    let read = tokio::time::timeout(time, gather(body, most, whole.unwrap_or(most), room)).await;
    read.unwrap_or_else(|_| Err(Problem::new(Code::BodyTimeout)))
}

/// `whole`: bytes that it comes to, as far as that is known.
async fn gather(mut body: Body, most: usize, whole: usize, room: &mut Room) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(Code::BodyIncomplete))?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > most {
            return Err(Problem::new(Code::BodyTooLarge));
        }
        if length > bytes.capacity() {
            // Twice as much each time, so that little is copied, and no more than it can come to.
            let capacity = (bytes.capacity() * 2).clamp(length, whole.max(length));
            room.hold(capacity)?;
            bytes.reserve_exact(capacity - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// A body is as it is: what decompresses would have to bound what comes out.
pub fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Ok(());
    }
    let detail = "the body must not be compressed";
    Err(Problem::new(Code::MediaTypeUnsupported).at_header("Content-Encoding", detail))
}
