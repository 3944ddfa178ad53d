//! Answers that may be large: JSON whose bytes are counted until they are written.

use axum::{
    body::Bytes,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    limits::Room,
    problem::{Code, Problem},
};

/// `room`: for as many bytes as it can come to.
pub(super) fn json(room: Room, value: &impl Serialize) -> Result<Response, Problem> {
    let mut json = Vec::with_capacity(room.bytes());
    serde_json::to_writer(&mut json, value).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "an answer cannot be written"
        );
        Problem::new(Code::Internal)
    })?;
    Ok(of_bytes(room.around(json)))
}

pub(super) fn of_bytes(json: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], json).into_response()
}
