//! `/dev/token`: a token for anybody, where no key is configured. The server then listens on loopback only, and this
//! door also wants to be asked on this machine, by a name of it:
//!
//! - A page that was rebound to 127.0.0.1 under a name of its own has that name in `Host`.
//! - A proxy on this machine may say `Host: 127.0.0.1` for everybody in the world. It shows in the headers that proxies
//!   add, in HTTP/1.0 (nginx's own before 1.29.7), or in the `Origin` of the page that a browser shows under the
//!   proxy's name.
//! - A page of somebody else that asks from here has its own `Origin`, and `Sec-Fetch-Site` says so too.

use axum::{
    extract::{FromRequestParts, State},
    http::{
        HeaderMap, HeaderName, Uri, Version,
        header::{FORWARDED, HOST, ORIGIN, VIA},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use chat_domain::ids::UserId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, NoParameters, Query};
use crate::{
    problem::{Code, Problem},
    state::AppState,
    terms,
};

/// Seconds that a development token is good for.
const EXPIRES_IN: u64 = 24 * 3600;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
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
/// Only where the server runs without a key, only by a name of this machine (`127.0.0.1`, `[::1]` or `localhost`), and
/// neither through a proxy nor from another site's page.
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
    _: OnThisMachine,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body, _room): Json<NewToken>,
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

pub struct OnThisMachine;

impl<S: Send + Sync> FromRequestParts<S> for OnThisMachine {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match elsewhere(parts) {
            None => Ok(Self),
            Some(detail) => Err(Problem::new(Code::DevHostRefused).detail(detail)),
        }
    }
}

/// What shows that a request is not from this machine, or not by a name of it.
fn elsewhere(parts: &Parts) -> Option<String> {
    let headers = &parts.headers;
    if !is_only(headers, HOST, is_loopback) || !target_host(&parts.uri).is_none_or(is_loopback) {
        return Some("It is not asked for at 127.0.0.1, [::1] or localhost.".to_owned());
    }
    if let Some(name) = headers.keys().find(|name| is_of_a_proxy(name)) {
        return Some(format!("It is asked for through a proxy ({name})."));
    }
    if parts.version <= Version::HTTP_10 {
        return Some("It is asked for in HTTP/1.0, as through a proxy.".to_owned());
    }
    let of_this_machine = |origin: &str| {
        let host = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(is_loopback)
    };
    if headers.contains_key(ORIGIN) && !is_only(headers, ORIGIN, of_this_machine) {
        return Some("It is asked for by a page from elsewhere (Origin).".to_owned());
    }
    let same_page = |site: &str| ["same-origin", "none"].contains(&site);
    if headers.contains_key(SEC_FETCH_SITE) && !is_only(headers, SEC_FETCH_SITE, same_page) {
        return Some("It is asked for by another page (Sec-Fetch-Site).".to_owned());
    }
    None
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a header is there once and has such a value.
fn is_only(headers: &HeaderMap, name: HeaderName, fits: impl Fn(&str) -> bool) -> bool {
    let mut values = headers.get_all(name).iter().map(|value| value.to_str().ok());
    matches!((values.next(), values.next()), (Some(Some(value)), None) if fits(value))
}

/// Whether proxies add it, and nobody else does.
fn is_of_a_proxy(name: &HeaderName) -> bool {
    const OTHERS: [&str; 7] = [
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-host",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
    ];
    let text = name.as_str();
    *name == FORWARDED || *name == VIA || text.starts_with("x-forwarded-") || OTHERS.contains(&text)
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
