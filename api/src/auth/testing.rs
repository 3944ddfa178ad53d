//! An issuer for the unit tests, with one key of each type.

use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use serde_json::{Value, json};

macro_rules! key_file {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/keys/",
            $name,
            ".pem"
        ))
    };
}
pub(super) use key_file;

pub(super) const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

pub(super) fn public_pem(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::RS256 => key_file!("rsa-public"),
        Algorithm::ES256 => key_file!("p256-public"),
        Algorithm::EdDSA => key_file!("ed25519-public"),
        other => panic!("{other:?}"),
    }
}

pub(super) fn private_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_der(&der(key_file!("rsa"))),
        Algorithm::ES256 => EncodingKey::from_ec_der(&der(key_file!("p256"))),
        Algorithm::EdDSA => EncodingKey::from_ed_der(&der(key_file!("ed25519"))),
        other => panic!("{other:?}"),
    }
}

pub(super) fn der(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(base64).unwrap()
}

/// The public key as a set has it, without `kid` and `alg`.
pub(super) fn jwk(algorithm: Algorithm) -> Value {
    let jwk = Jwk::from_encoding_key(&private_key(algorithm), algorithm).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk.as_object_mut().unwrap().remove("alg");
    jwk
}

/// With more members, or other ones.
pub(super) fn with(mut jwk: Value, members: &Value) -> Value {
    let members = members.as_object().unwrap().clone();
    jwk.as_object_mut().unwrap().extend(members);
    jwk
}

pub(super) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

pub(super) fn signed(algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = kid.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &private_key(algorithm)).unwrap()
}

/// Alice's, good for a minute.
pub(super) fn token(algorithm: Algorithm, kid: Option<&str>) -> String {
    let exp = jsonwebtoken::get_current_timestamp() + 60;
    signed(algorithm, kid, &json!({"sub": "alice", "exp": exp}))
}
