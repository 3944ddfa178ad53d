//! For whom a command is.

use axum::{
    extract::{FromRef, FromRequestParts},
    http::request::Parts,
};
use chat_domain::{ids::UserId, rejection::Invalid};

use super::{Caller, Verifier};
use crate::problem::{Code, Problem};

pub(super) const ACT_AS: &str = "act-as";

/// The caller of a command, or the user whom a service acts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub user_id: UserId,
    /// The service.
    pub via: Option<UserId>,
    /// The token is a service's, which begins as many conversations as it likes.
    pub is_service: bool,
}

impl From<Caller> for Actor {
    fn from(caller: Caller) -> Self {
        Self {
            user_id: caller.user_id,
            via: None,
            is_service: caller.scopes.send_as,
        }
    }
}

/// With the header `Act-As`, which needs the scope `chat.send_as`.
impl<S: Send + Sync> FromRequestParts<S> for Actor
where
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::of_head(parts, state).await?;
        let mut values = parts.headers.get_all(ACT_AS).iter();
        let (Some(value), more) = (values.next(), values.next()) else {
            return Ok(caller.into());
        };
        if !caller.scopes.send_as {
            let detail = "Act-As needs a token with the scope chat.send_as";
            return Err(Problem::new(Code::ScopeMissing).at_header("Act-As", detail));
        }
        let named = value.to_str().ok().filter(|_| more.is_none());
        let named = named.and_then(|name| UserId::parse(name).ok());
        let invalid = || Problem::from(Invalid::UserId).at_header("Act-As", Invalid::UserId);
        let user_id = named.ok_or_else(invalid)?;
        let via = (caller.user_id != user_id).then_some(caller.user_id);
        Ok(Self {
            user_id,
            via,
            is_service: true,
        })
    }
}
