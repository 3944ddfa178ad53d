//! Makes tokens.

use chat_domain::ids::UserId;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Map, Value};

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
        let expires_at = iat.saturating_add(expires_in);
        let text = |text: &str| Value::from(text);
        let claims = [
            Some((self.rules.user_claim.as_str(), text(user_id.as_str()))),
            Some(("iat", iat.into())),
            Some(("exp", expires_at.into())),
            self.rules.issuer.as_deref().map(|issuer| ("iss", text(issuer))),
            self.rules
                .audience
                .first()
                .map(|audience| ("aud", text(audience))),
        ];
        let claims = claims.into_iter().flatten();
        let claims: Map<_, _> = claims.map(|(name, value)| (name.to_owned(), value)).collect();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)?;
        Ok(Signed { token, expires_at })
    }
}
