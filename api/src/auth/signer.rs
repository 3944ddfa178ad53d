//! Makes tokens.

use chat_domain::ids::UserId;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde::Serialize;

use super::{TokenRules, Verifier};

/// Signs tokens (HS256).
#[derive(Clone)]
pub struct Signer {
    key: EncodingKey,
    rules: TokenRules,
}

pub struct Signed {
    pub token: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Signer {
    pub fn hs256(secret: &[u8]) -> Self {
        Self::new(secret, TokenRules::default())
    }

    /// Its tokens say what a verifier with these rules wants to hear.
    pub fn new(secret: &[u8], rules: TokenRules) -> Self {
        Self {
            key: EncodingKey::from_secret(secret),
            rules,
        }
    }

    /// A signer with a key that nobody else has, and the verifier of its tokens. They are good for as long as the
    /// process lives.
    pub fn of_this_process() -> (Self, Verifier) {
        let secret: [u8; 32] = rand::random();
        (Self::hs256(&secret), Verifier::hs256(&secret))
    }

    pub fn sign(&self, user_id: &UserId, expires_in: u64) -> Result<Signed, jsonwebtoken::errors::Error> {
        let iat = get_current_timestamp();
        let claims = Claims {
            sub: user_id.as_str(),
            iat,
            exp: iat.saturating_add(expires_in),
            iss: self.rules.issuer.as_deref(),
            aud: self.rules.audience.first().map(String::as_str),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)?;
        Ok(Signed {
            token,
            expires_at: claims.exp,
        })
    }
}
