//! `/dev/token`: a token for anybody, where no key is configured. The server then listens on loopback only, and this
//! door also wants a loopback `Host`, so that a page in a browser on this machine that was rebound to 127.0.0.1 under
//! a name of its own gets none.

use axum::{
    extract::{FromRequestParts, State},
    http::{Uri, header::HOST, request::Parts},
    response::{IntoResponse, Response},
};
use chat_domain::ids::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    problem::{Code, Json, Problem},
    state::AppState,
    wire::terms,
};

/// Seconds that a development token is good for.
const EXPIRES_IN: u64 = 24 * 3600;

#[derive(Deserialize, ToSchema)]
pub struct NewToken {
    /// Whose token it shall be.
    #[schema(value_type = terms::UserId)]
    user_id: String,
}

#[derive(Serialize, ToSchema)]
pub struct Token {
    /// A JWT.
    #[schema(
        example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTc5MDAwMzYwMH0.c2lnbmF0dXJl",
        pattern = "^[A-Za-z0-9_-]+[.][A-Za-z0-9_-]+[.][A-Za-z0-9_-]+$",
        max_length = 4096
    )]
    token: String,
    #[schema(value_type = terms::UserId)]
    user_id: String,
    #[schema(value_type = terms::Seconds)]
    expires_at: u64,
}

/// Get a token for anybody (development only)
///
/// Only where the server runs without a key, and only by a name of this machine: `127.0.0.1`, `[::1]` or `localhost`.
/// The token is good for 24 hours, or until the server restarts.
#[utoipa::path(
    post, path = "/dev/token", tag = "development", security(()),
    request_body(content = NewToken, example = json!({"user_id": "alice"})),
    responses((status = 200, description = "A token", body = Token, example = json!({
        "token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTc5MDAwMzYwMH0.c2lnbmF0dXJl",
        "user_id": "alice",
        "expires_at": 1_790_003_600,
    }))),
)]
pub async fn create_development_token(
    State(app): State<AppState>,
    _: LoopbackHost,
    Json(body): Json<NewToken>,
) -> Result<Response, Problem> {
    let user_id =
        UserId::parse(&body.user_id).map_err(|invalid| Problem::from(invalid).at("/user_id", invalid))?;
    let signer = app
        .development
        .as_ref()
        .ok_or_else(|| Problem::new(Code::RouteNotFound))?;
    let signed = signer.sign(&user_id, EXPIRES_IN).map_err(|error| {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a token cannot be signed"
        );
        Problem::new(Code::Internal)
    })?;
    let token = Token {
        token: signed.token,
        user_id: user_id.as_str().to_owned(),
        expires_at: signed.expires_at,
    };
    Ok(axum::Json(token).into_response())
}

pub struct LoopbackHost;

impl<S: Send + Sync> FromRequestParts<S> for LoopbackHost {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut hosts = parts.headers.get_all(HOST).iter().map(|host| host.to_str().ok());
        let one_host = matches!((hosts.next(), hosts.next()), (Some(Some(host)), None) if is_loopback(host));
        let same_target = target_host(&parts.uri).is_none_or(is_loopback);
        if one_host && same_target {
            Ok(Self)
        } else {
            Err(Problem::new(Code::DevHostRefused))
        }
    }
}

/// The host of a request line that has a whole URL.
fn target_host(uri: &Uri) -> Option<&str> {
    uri.authority().map(|authority| authority.as_str())
}

fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    let is_port = port.bytes().all(|b| b.is_ascii_digit());
    is_port
        && ["127.0.0.1", "[::1]", "localhost"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:3000",
            "localhost",
            "LocalHost:80",
            "[::1]",
            "[::1]:3000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":",
            ":3000",
            "::1",
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil:1",
            "127.0.0.1:x",
            "127.0.0.1:80:80",
            "user@localhost",
            "[::2]",
            "0.0.0.0",
            "127.0.0.2",
            "localhost:3000,evil",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
