//! Checks tokens.

use std::sync::Arc;

use chat_domain::ids::UserId;
use jsonwebtoken::{Validation, errors::ErrorKind};
use serde::Deserialize;

use super::{
    jwks::Jwks,
    keys::{Key, Missing},
    scopes::Scopes,
};

/// What a token must say beside its user, and by how much clocks may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    /// The only issuer (`iss`), where one is configured.
    pub issuer: Option<String>,
    /// A token is for one of these (`aud`), where any is configured.
    pub audience: Vec<String>,
    /// Seconds by which the clocks of the issuer and ours may differ, at `exp` and at `nbf`.
    pub leeway: u64,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: Vec::new(),
            leeway: 5,
        }
    }
}

/// Checks tokens. The key and its algorithm are ours: what a token's header says of itself chooses among the keys, and
/// decides nothing else.
#[derive(Clone)]
pub struct Verifier {
    keys: Keys,
    validation: Validation,
}

#[derive(Clone)]
enum Keys {
    /// One key for all tokens, whatever `kid` they name.
    One(Arc<Key>),
    /// Keys with names, which change.
    Set(Arc<Jwks>),
}

/// What a token says, once it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub user_id: UserId,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    /// As `expires_at`, with the leeway: from then on the token is refused.
    pub ends_at: u64,
    pub scopes: Scopes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Immature,
    #[error("the token has no expiry (exp)")]
    NoExpiry,
    #[error("the token's subject (sub) is missing or is not a user id")]
    Subject,
    #[error("the token's issuer (iss) is missing or is another one")]
    Issuer,
    #[error("the token's audience (aud) is missing or is another one")]
    Audience,
    #[error("the token is signed with a key (kid) that this server does not know")]
    KeyUnknown,
    /// No fault of the token's.
    #[error("the keys that tokens are checked with cannot be read")]
    KeysAway,
    #[error("the token is malformed, or not signed with the key and the algorithm of this server")]
    Invalid,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// A number of JSON, which may have a fraction.
    exp: Option<f64>,
    /// Names with spaces between (RFC 8693, section 4.2). In another form it is another service's, and grants nothing.
    scope: Option<serde_json::Value>,
}

impl Verifier {
    /// With a secret, and no rules but those that hold for every token.
    pub fn hs256(secret: &[u8]) -> Self {
        Self::new(Key::hs256(secret), &TokenRules::default())
    }

    /// With one key.
    pub fn new(key: Key, rules: &TokenRules) -> Self {
        Self::with(Keys::One(Arc::new(key)), rules)
    }

    /// With the keys of a set, as they are at the time.
    pub fn of_set(keys: Arc<Jwks>, rules: &TokenRules) -> Self {
        Self::with(Keys::Set(keys), rules)
    }

    fn with(keys: Keys, rules: &TokenRules) -> Self {
        let mut validation = Validation::default();
        // The key says which, for each token.
        validation.algorithms.clear();
        validation.leeway = rules.leeway;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &rules.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        // Where no audience is configured, a token that names one is not refused for it.
        validation.validate_aud = !rules.audience.is_empty();
        if validation.validate_aud {
            validation.set_audience(&rules.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Self { keys, validation }
    }

    /// Checks a token. Where it names a key that is not known, the set of keys is read anew first, unless that was
    /// done a moment ago.
    pub async fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let verified = self.verify_now(token);
        let (Err(TokenError::KeyUnknown), Keys::Set(jwks)) = (&verified, &self.keys) else {
            return verified;
        };
        jwks.renewed().await;
        match self.verify_now(token) {
            Err(TokenError::KeyUnknown) if jwks.is_away() => Err(TokenError::KeysAway),
            verified => verified,
        }
    }

    /// Checks a token with the keys that are known.
    pub fn verify_now(&self, token: &str) -> Result<Verified, TokenError> {
        let header = jsonwebtoken::decode_header(token)?;
        // RFC 7515, section 4.1.11: what must be understood and is not. We understand no extension.
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let set;
        let key = match &self.keys {
            Keys::One(key) => key,
            Keys::Set(jwks) => {
                set = jwks.current().ok_or(TokenError::KeyUnknown)?;
                set.find(header.kid.as_deref(), header.alg)?
            }
        };
        let mut validation = self.validation.clone();
        validation.algorithms = vec![key.algorithm];
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation)?.claims;
        let user_id = claims
            .sub
            .and_then(|sub| UserId::parse(&sub).ok())
            .ok_or(TokenError::Subject)?;
        let exp = claims.exp.ok_or(TokenError::NoExpiry)?;
        let scope = claims.scope.as_ref().and_then(|scope| scope.as_str());
        // The cast saturates, and a proven `exp` is not in the past.
        let expires_at = exp as u64;
        Ok(Verified {
            user_id,
            expires_at,
            ends_at: expires_at.saturating_add(self.validation.leeway),
            scopes: Scopes::parse(scope.unwrap_or_default()),
        })
    }
}

impl From<Missing> for TokenError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Unknown => Self::KeyUnknown,
            Missing::Unfit => Self::Invalid,
        }
    }
}

impl From<jsonwebtoken::errors::Error> for TokenError {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::Immature,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::InvalidAudience => Self::Audience,
            ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
                "exp" => Self::NoExpiry,
                "sub" => Self::Subject,
                "iss" => Self::Issuer,
                "aud" => Self::Audience,
                _ => Self::Invalid,
            },
            _ => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests;
