//! The key of a command.

use axum::{extract::FromRequestParts, http::request::Parts};
use chat_domain::{ids::CommandKey, rejection::Invalid};

use crate::problem::{Code, Problem};

const HEADER: &str = "idempotency-key";

/// The header `Idempotency-Key`, or a key of the server: a command has one before it is queued.
pub struct Key(pub CommandKey);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(HEADER).iter();
        let key = match (values.next(), values.next()) {
            (None, _) => Ok(CommandKey::of_server(rand::random())),
            (Some(value), None) => value
                .to_str()
                .map_err(|_| Invalid::Key)
                .and_then(CommandKey::parse),
            (Some(_), Some(_)) => Err(Invalid::Key),
        };
        key.map(Self)
            .map_err(|invalid| Problem::new(Code::KeyInvalid).at_header("Idempotency-Key", invalid))
    }
}
