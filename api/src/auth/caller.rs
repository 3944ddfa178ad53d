//! The extractors that say who calls. Tokens never reach a log: they are in no `Debug`, and the line of a request
//! has no query.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use chat_domain::ids::UserId;

use super::{Scopes, TokenError, Verified, Verifier, actor::ACT_AS};
use crate::{
    problem::{Code, Problem},
    trimmed::trimmed,
};

/// Whoever holds the request's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user_id: UserId,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// As `expires_at`, with the leeway that the verifier grants.
    pub ends_at: u64,
    pub scopes: Scopes,
}

impl Caller {
    /// Waits only where the token's key is not known and may be found (see [`Verifier::verify`]).
    pub async fn authenticate(verifier: &Verifier, token: Option<&str>) -> Result<Self, Problem> {
        let Some(token) = token else {
            return Err(challenge(Problem::new(Code::TokenMissing), None));
        };
        match verifier.verify(trimmed(token)).await {
            Ok(verified) => Ok(verified.into()),
            Err(TokenError::KeysAway) => Err(Problem::new(Code::NotReady).detail(TokenError::KeysAway)),
            Err(error) => {
                let code = if error == TokenError::Expired {
                    Code::TokenExpired
                } else {
                    Code::TokenInvalid
                };
                let problem = Problem::new(code).detail(&error);
                Err(challenge(problem, Some(&error)))
            }
        }
    }

    /// How long from now the token is good, with the leeway. A year at most: timers have
    /// bounds, and a stream that ends is opened again.
    pub fn expires_in(&self) -> Duration {
        from_now(Duration::from_secs(self.ends_at))
    }

    /// How long from now until a stream says that the token expires: a minute before it does, so at once where less
    /// is left.
    pub fn warned_in(&self) -> Duration {
        from_now(Duration::from_secs(self.expires_at).saturating_sub(WARNED))
    }
}

impl From<Verified> for Caller {
    fn from(verified: Verified) -> Self {
        let Verified {
            user_id,
            expires_at,
            ends_at,
            scopes,
        } = verified;
        Self {
            user_id,
            expires_at,
            ends_at,
            scopes,
        }
    }
}

fn from_now(instant: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    instant.saturating_sub(now).min(YEAR)
}

/// How long before its end a stream says that its token expires.
const WARNED: Duration = Duration::from_secs(60);

/// RFC 6750, section 3: no error where no token came.
fn challenge(mut problem: Problem, error: Option<&TokenError>) -> Problem {
    let realm = r#"Bearer realm="chat-system""#;
    problem.challenge = Some(match error {
        None => realm.to_owned(),
        Some(error) => format!(r#"{realm}, error="invalid_token", error_description="{error}""#),
    });
    problem
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Self::of_head(parts, state).await?;
        refuse_act_as(&parts.headers)?;
        Ok(caller)
    }
}

impl Caller {
    /// What the request takes from here on is the caller's.
    pub(super) async fn of_head<S>(parts: &mut Parts, state: &S) -> Result<Self, Problem>
    where
        Verifier: FromRef<S>,
    {
        let caller = Self::authenticate(&Verifier::from_ref(state), bearer(&parts.headers)).await?;
        parts.extensions.insert(TokenUser(caller.user_id.clone()));
        Ok(caller)
    }
}

/// In the extensions of a request, once it is known: whose token it has.
#[derive(Debug, Clone)]
pub struct TokenUser(pub UserId);

/// Nobody reads as somebody else. Who asks for it is told so, rather than given what is its own.
fn refuse_act_as(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(ACT_AS) {
        let detail = "Act-As is for sends and receipts: no scope lets a token read as another user";
        return Err(Problem::new(Code::ScopeMissing).at_header("Act-As", detail));
    }
    Ok(())
}

/// The caller of `/v1/events`: the header, or else `access_token` in the query.
pub struct StreamCaller(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for StreamCaller
where
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let of_query = || {
            query
                .into_iter()
                .find(|(name, _)| name == "access_token")
                .map(|(_, token)| token)
        };
        let verifier = Verifier::from_ref(state);
        let caller = match bearer(&parts.headers) {
            Some(token) => Caller::authenticate(&verifier, Some(token)).await,
            None => Caller::authenticate(&verifier, of_query().as_deref()).await,
        }?;
        parts.extensions.insert(TokenUser(caller.user_id.clone()));
        refuse_act_as(&parts.headers)?;
        Ok(Self(caller))
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}
