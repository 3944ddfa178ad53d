//! Checks tokens.

use std::sync::Arc;

use chat_domain::{ids::UserId, rejection::Invalid};
use jsonwebtoken::{Validation, errors::ErrorKind, get_current_timestamp};
use serde_json::{Map, Value};

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
    /// Seconds by which the clocks of the issuer and ours may differ, at `exp`, at `nbf` and at `iat`.
    pub leeway: u64,
    /// The claim that holds the user's id. A dot in it is a letter like any other.
    pub user_claim: String,
    /// Seconds for which a token may be good, where that is bounded.
    pub max_lifetime: Option<u64>,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: Vec::new(),
            leeway: 5,
            user_claim: SUBJECT.to_owned(),
            max_lifetime: None,
        }
    }
}

/// Whom a token is about (RFC 7519, section 4.1.2).
const SUBJECT: &str = "sub";

/// Checks tokens. The key and its algorithm are ours: what a token's header says of itself chooses among the keys, and
/// decides nothing else.
#[derive(Clone)]
pub struct Verifier {
    keys: Keys,
    validation: Validation,
    user_claim: String,
    max_lifetime: Option<u64>,
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
    #[error(
        "the token has no user's id: its claim {0} is missing or no text (CHAT_JWT_USER_CLAIM chooses another claim)"
    )]
    UserMissing(String),
    #[error("the token's claim {0} is none: {invalid} (CHAT_JWT_USER_CLAIM chooses another claim)", invalid = Invalid::UserId)]
    UserInvalid(String),
    #[error("the token is good for longer than {0} seconds (CHAT_JWT_MAX_LIFETIME_S)")]
    Lifetime(u64),
    #[error("the token has a space, a line break or another character in it that no token has")]
    Characters,
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
        let mut required = vec!["exp"];
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
        Self {
            keys,
            validation,
            user_claim: rules.user_claim.clone(),
            max_lifetime: rules.max_lifetime,
        }
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
        if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(TokenError::Characters);
        }
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
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &validation)?.claims;
        let user_id = self.user_id(&claims)?;
        // A number of JSON, which may have a fraction.
        let number = |claim: &str| claims.get(claim).and_then(Value::as_f64);
        let exp = number("exp").ok_or(TokenError::NoExpiry)?;
        // Names with spaces between (RFC 8693, section 4.2). In another form it is another service's, and grants nothing.
        let scope = claims.get("scope").and_then(Value::as_str);
        // The cast saturates, and a proven `exp` is not in the past.
        let expires_at = exp as u64;
        if let Some(most) = self.max_lifetime {
            let now = get_current_timestamp();
            // One that says it begins later is good from now on all the same.
            let begun = number("iat").map(|iat| iat as u64);
            let begun = begun.filter(|begun| *begun <= now.saturating_add(self.validation.leeway));
            if expires_at.saturating_sub(begun.unwrap_or(now)) > most {
                return Err(TokenError::Lifetime(most));
            }
        }
        Ok(Verified {
            user_id,
            expires_at,
            ends_at: expires_at.saturating_add(self.validation.leeway),
            scopes: Scopes::parse(scope.unwrap_or_default()),
        })
    }
}

impl Verifier {
    /// A whole number is an id too where the claim is one of the issuer's own: `sub` is text (RFC 7519).
    fn user_id(&self, claims: &Map<String, Value>) -> Result<UserId, TokenError> {
        let claim = self.user_claim.as_str();
        let id = match claims.get(claim) {
            Some(Value::String(text)) => UserId::parse(text),
            Some(Value::Number(number)) if claim != SUBJECT && number.is_u64() => {
                UserId::parse(&number.to_string())
            }
            _ => return Err(TokenError::UserMissing(claim.to_owned())),
        };
        id.map_err(|_| TokenError::UserInvalid(claim.to_owned()))
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
