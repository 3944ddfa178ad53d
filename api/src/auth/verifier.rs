//! Checks tokens.

use chat_domain::ids::UserId;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::Deserialize;

/// Seconds by which the clocks of the issuer and ours may differ, at `exp` and at `nbf`.
pub(super) const LEEWAY: u64 = 5;

/// Checks tokens against one key and one algorithm: what a token's header says of itself decides nothing.
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// What a token says, once it is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub user_id: UserId,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
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
    #[error("the token is malformed, or not signed with the key and the algorithm of this server")]
    Invalid,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// A number of JSON, which may have a fraction.
    exp: Option<f64>,
}

impl Verifier {
    pub fn hs256(secret: &[u8]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        // No audience is configured: a token that names one is not refused for it.
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self {
            key: DecodingKey::from_secret(secret),
            validation,
        }
    }

    pub fn verify(&self, token: &str) -> Result<Verified, TokenError> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation)?.claims;
        let user_id = claims
            .sub
            .and_then(|sub| UserId::parse(&sub).ok())
            .ok_or(TokenError::Subject)?;
        let exp = claims.exp.ok_or(TokenError::NoExpiry)?;
        // The cast saturates, and a proven `exp` is not in the past.
        Ok(Verified {
            user_id,
            expires_at: exp as u64,
        })
    }
}

impl From<jsonwebtoken::errors::Error> for TokenError {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.kind() {
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::Immature,
            ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => Self::NoExpiry,
            ErrorKind::MissingRequiredClaim(claim) if claim == "sub" => Self::Subject,
            _ => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, get_current_timestamp as now};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn signed(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
    }

    fn verify(claims: &Value) -> Result<Verified, TokenError> {
        Verifier::hs256(SECRET).verify(&signed(Algorithm::HS256, SECRET, claims))
    }

    #[test]
    fn a_token_names_a_user_until_it_expires() {
        let expires_at = now() + 60;
        let user_id = UserId::parse("alice").unwrap();
        let verified = Verified { user_id, expires_at };
        let claims = json!({"sub": "alice", "exp": expires_at, "aud": "somebody", "iss": "x", "other": [1]});
        assert_eq!(verify(&claims), Ok(verified.clone()));
        assert_eq!(
            verify(&json!({"sub": "alice", "exp": expires_at as f64 + 0.5})),
            Ok(verified)
        );
    }

    #[test]
    fn claims_that_do_not_hold_are_refused() {
        let soon = now() + 60;
        for (claims, error) in [
            (
                json!({"sub": "alice", "exp": now() - LEEWAY - 2}),
                TokenError::Expired,
            ),
            (json!({"sub": "alice", "exp": 0}), TokenError::Expired),
            (json!({"sub": "alice"}), TokenError::NoExpiry),
            (
                json!({"sub": "alice", "exp": soon, "nbf": soon}),
                TokenError::Immature,
            ),
            (json!({"exp": soon}), TokenError::Subject),
            (json!({"sub": "not a user", "exp": soon}), TokenError::Subject),
            (json!({"sub": "", "exp": soon}), TokenError::Subject),
        ] {
            assert_eq!(verify(&claims), Err(error), "{claims}");
        }
        for claims in [
            json!({"sub": 7, "exp": soon}),
            json!({"sub": "alice", "exp": "never"}),
            json!([]),
        ] {
            assert!(verify(&claims).is_err(), "{claims}");
        }
    }

    #[test]
    fn a_token_of_another_key_or_algorithm_is_refused() {
        let claims = json!({"sub": "alice", "exp": now() + 60});
        let other_key = signed(Algorithm::HS256, b"fedcba9876543210fedcba9876543210", &claims);
        let other_algorithm = signed(Algorithm::HS512, SECRET, &claims);
        let good = signed(Algorithm::HS256, SECRET, &claims);
        let (_, rest) = good.split_once('.').unwrap();
        let (payload, _) = rest.split_once('.').unwrap();
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        let none_with_signature = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{rest}");
        for token in [
            &other_key,
            &other_algorithm,
            &unsigned,
            &none_with_signature,
            "",
            "x",
            "a.b.c",
            payload,
        ] {
            assert_eq!(
                Verifier::hs256(SECRET).verify(token),
                Err(TokenError::Invalid),
                "{token}"
            );
        }
    }
}
