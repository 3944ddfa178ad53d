//! The keys that tokens are checked with.
//!
//! A key is of one algorithm, which follows from the key itself: RS256, ES256 or EdDSA by its type, HS256 for the
//! secret. What a token's header says only chooses among the keys, so a public key never passes for a secret. A key
//! that is here is sound: what could not check a signature is refused when it is read, not at the first token.

mod pem;

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use rsa::{BigUint, RsaPublicKey};
use serde::Deserialize;

const RSA_BITS_LEAST: usize = 2048;

/// A key, and the one algorithm that it is for. `Debug` shows nothing of the key itself.
#[derive(Clone)]
pub struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", self.algorithm)
    }
}

/// Why something is no key for us. Nothing of it is shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error(
        "it is no public key in PEM (-----BEGIN PUBLIC KEY-----), no certificate and no base64 of either"
    )]
    Pem,
    #[error(
        "its end is missing (-----END …-----): a variable or a file of one line takes \\n for each end of a line"
    )]
    Cut,
    #[error("it has more than one part (-----BEGIN …-----), and one public key belongs here")]
    Several,
    #[error("it is a request for a certificate, and the public key or the certificate belongs here")]
    Request,
    #[error("it is a key of SSH: `ssh-keygen -e -m pkcs8 -f FILE` makes PEM of it")]
    Ssh,
    #[error("it is a key of PGP, and none that signs tokens")]
    Pgp,
    #[error("it is JSON: a JSON Web Key Set belongs into a file that CHAT_JWKS_FILE names")]
    Jwk,
    #[error("it is a private key, and only the public one belongs here")]
    Private,
    #[error("keys of this type are not known here: RSA, P-256 and Ed25519 are")]
    Type,
    #[error("an RSA key of {0} bits is too short, {RSA_BITS_LEAST} are needed")]
    Short(usize),
    #[error("the key is malformed")]
    Malformed,
    #[error("symmetric keys have no place in a key set")]
    Symmetric,
    #[error("it is not for signatures")]
    Use,
    #[error("its algorithm is not known here, or not its type's: RS256, ES256 and EdDSA are known")]
    Algorithm,
    #[error("another key has its kid")]
    Twice,
}

impl Key {
    pub fn hs256(secret: &[u8]) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            decoding: DecodingKey::from_secret(secret),
        }
    }

    fn rsa(modulus: BigUint, exponent: BigUint) -> Result<Self, KeyError> {
        let bits = modulus.bits();
        if bits < RSA_BITS_LEAST {
            return Err(KeyError::Short(bits));
        }
        let decoding = DecodingKey::from_rsa_raw_components(&modulus.to_bytes_be(), &exponent.to_bytes_be());
        RsaPublicKey::new(modulus, exponent).map_err(|_| KeyError::Malformed)?;
        Ok(Self {
            algorithm: Algorithm::RS256,
            decoding,
        })
    }

    /// A point as SEC 1 has it.
    fn p256(point: &[u8]) -> Result<Self, KeyError> {
        p256::PublicKey::from_sec1_bytes(point).map_err(|_| KeyError::Malformed)?;
        Ok(Self {
            algorithm: Algorithm::ES256,
            decoding: DecodingKey::from_ec_der(point),
        })
    }

    fn ed25519(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = bytes.try_into().ok();
        let key = key.and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(bytes).ok());
        // Anybody can sign for a weak one.
        if key.is_none_or(|key| key.is_weak()) {
            return Err(KeyError::Malformed);
        }
        Ok(Self {
            algorithm: Algorithm::EdDSA,
            decoding: DecodingKey::from_ed_der(bytes),
        })
    }
}

/// The keys of a JWKS (RFC 7517) that can be used here.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    keys: Vec<(Option<String>, Key)>,
    /// A line about each key that is left out.
    pub(super) skipped: Vec<String>,
}

/// Why no key of a set fits a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The token names a key that is not in the set. A newer set may have it.
    Unknown,
    /// The key that the token names is of another algorithm, or it names none and not exactly one fits.
    Unfit,
}

#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("it is not a JSON Web Key Set")]
    Malformed(#[source] serde_json::Error),
    #[error("no key in it can be used ({})", skipped(.0))]
    Empty(Vec<String>),
}

fn skipped(lines: &[String]) -> String {
    match lines {
        [] => "there is none".to_owned(),
        lines => lines.join("; "),
    }
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWKS. What cannot be used in it is left out; a set of which nothing is left is an error.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeySetError> {
        // Some editors begin a file with a byte order mark.
        let json = json.strip_prefix("\u{feff}".as_bytes()).unwrap_or(json);
        let jwks: Jwks = serde_json::from_slice(json).map_err(KeySetError::Malformed)?;
        let mut set = Self::default();
        for (index, value) in jwks.keys.into_iter().enumerate() {
            let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| KeyError::Malformed);
            let named = jwk.as_ref().ok().and_then(|jwk| jwk.kid.clone());
            if let Err(error) = jwk.and_then(|jwk| set.add(&jwk)) {
                let kid: String = named.iter().flat_map(|kid| kid.chars()).take(64).collect();
                set.skipped
                    .push(format!("key {} (kid {kid:?}): {error}", index + 1));
            }
        }
        if set.keys.is_empty() {
            return Err(KeySetError::Empty(set.skipped));
        }
        Ok(set)
    }

    fn add(&mut self, jwk: &Jwk) -> Result<(), KeyError> {
        let key = jwk.key()?;
        let taken = |(kid, other): &(Option<String>, Key)| {
            kid.is_some() && *kid == jwk.kid && other.algorithm == key.algorithm
        };
        if self.keys.iter().any(taken) {
            return Err(KeyError::Twice);
        }
        self.keys.push((jwk.kid.clone(), key));
        Ok(())
    }

    /// The key for a token whose header says these.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Missing> {
        let Some(kid) = kid else {
            let mut fitting = self.keys.iter().filter(|(_, key)| key.algorithm == algorithm);
            return match (fitting.next(), fitting.next()) {
                (Some((_, key)), None) => Ok(key),
                _ => Err(Missing::Unfit),
            };
        };
        let mut named = self
            .keys
            .iter()
            .filter(|(id, _)| id.as_deref() == Some(kid))
            .peekable();
        named.peek().ok_or(Missing::Unknown)?;
        let fitting = named.find(|(_, key)| key.algorithm == algorithm);
        fitting.map(|(_, key)| key).ok_or(Missing::Unfit)
    }
}

impl Jwk {
    fn key(&self) -> Result<Key, KeyError> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        let for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(verifies);
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => return Err(KeyError::Symmetric),
            _ if !for_signatures => return Err(KeyError::Use),
            ("RSA", _) => {
                let number = |text| bytes(text).map(|bytes| BigUint::from_bytes_be(&bytes));
                Key::rsa(number(&self.n)?, number(&self.e)?)?
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                if (x.len(), y.len()) != (32, 32) {
                    return Err(KeyError::Malformed);
                }
                // SEC 1: 4 says that both coordinates follow.
                Key::p256(&[&[4], x.as_slice(), y.as_slice()].concat())?
            }
            ("OKP", Some("Ed25519")) => Key::ed25519(&bytes(&self.x)?)?,
            _ => return Err(KeyError::Type),
        };
        match self.alg.as_deref().map(str::parse) {
            None => Ok(key),
            Some(Ok(algorithm)) if key.algorithm == algorithm => Ok(key),
            Some(_) => Err(KeyError::Algorithm),
        }
    }
}

fn bytes(text: &Option<String>) -> Result<Vec<u8>, KeyError> {
    let text = text.as_ref().ok_or(KeyError::Malformed)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Malformed)
}

#[cfg(test)]
mod tests;
