//! Finds the one public key in what an operator has: PEM as it should be, or as it becomes on its way through a form, a
//! variable or a file of YAML (on one line, with `\n` spelt out, indented, in quotes, without the lines around it), or a
//! certificate. Where it is anything else, it says what it is.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use p256::pkcs8::{
    AssociatedOid, PrivateKeyInfo, SubjectPublicKeyInfoRef,
    der::{self, Decode, Reader, Tag, Tagged, asn1::AnyRef, oid::ObjectIdentifier},
};
use rsa::{RsaPublicKey, pkcs1, pkcs1::DecodeRsaPublicKey, traits::PublicKeyParts};

use super::{Key, KeyError};
use crate::trimmed::trimmed;

/// RFC 8410.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

impl Key {
    /// A public key in PEM, a certificate, or the base64 of one of them.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let text = trimmed(text).trim_matches(['"', '\'']);
        let text = text.replace("\\r", "").replace("\\n", "\n");
        let Some((_, begun)) = text.split_once("-----BEGIN ") else {
            return without_label(&text);
        };
        let (label, rest) = begun.split_once("-----").ok_or(KeyError::Pem)?;
        // Beside a public key, too: it has no business here.
        if text.contains("PRIVATE KEY-----") {
            return Err(KeyError::Private);
        }
        if let Some(error) = unfit(label) {
            return Err(error);
        }
        let end = format!("-----END {label}-----");
        let (body, after) = rest.split_once(&end).ok_or(KeyError::Cut)?;
        if after.contains("-----BEGIN ") {
            return Err(KeyError::Several);
        }
        match label {
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "CERTIFICATE" | "X509 CERTIFICATE" => {
                from_der(&decode(body).ok_or(KeyError::Malformed)?)
            }
            _ => Err(KeyError::Pem),
        }
    }
}

/// What is often given instead of a public key.
fn unfit(label: &str) -> Option<KeyError> {
    match label {
        label if label.starts_with("PGP ") => Some(KeyError::Pgp),
        label if label.ends_with("CERTIFICATE REQUEST") => Some(KeyError::Request),
        label if label.starts_with("SSH2 ") => Some(KeyError::Ssh),
        _ => None,
    }
}

fn without_label(text: &str) -> Result<Key, KeyError> {
    let begins = |with: &[&str]| with.iter().any(|start| text.starts_with(start));
    if begins(&["ssh-", "ecdsa-sha2-", "sk-", "---- BEGIN SSH2"]) {
        return Err(KeyError::Ssh);
    }
    if begins(&["{", "["]) {
        return Err(KeyError::Jwk);
    }
    match decode(text) {
        Some(der) if !der.is_empty() => from_der(&der).map_err(|error| match error {
            // Many a word is base64.
            KeyError::Malformed => KeyError::Pem,
            error => error,
        }),
        _ => Err(KeyError::Pem),
    }
}

/// Base64 of either alphabet, padded or not, however it is broken into lines.
fn decode(body: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    let of = |alphabet| GeneralPurpose::new(alphabet, CONFIG).decode(&body).ok();
    of(&alphabet::STANDARD).or_else(|| of(&alphabet::URL_SAFE))
}

/// By what is in it: some write `RSA PUBLIC KEY` over what is a `PUBLIC KEY`.
fn from_der(der: &[u8]) -> Result<Key, KeyError> {
    if let Ok(info) = SubjectPublicKeyInfoRef::from_der(der) {
        return from_info(info);
    }
    if let Ok(key) = RsaPublicKey::from_pkcs1_der(der) {
        return Key::rsa(key.n().clone(), key.e().clone());
    }
    if let Ok(info) = info_of_certificate(der) {
        return from_info(info);
    }
    let is_private = PrivateKeyInfo::from_der(der).is_ok()
        || pkcs1::RsaPrivateKey::from_der(der).is_ok()
        || p256::SecretKey::from_sec1_der(der).is_ok();
    if is_private {
        return Err(KeyError::Private);
    }
    Err(KeyError::Malformed)
}

fn from_info(info: SubjectPublicKeyInfoRef<'_>) -> Result<Key, KeyError> {
    let oid = info.algorithm.oid;
    let bytes = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
    if oid == pkcs1::ALGORITHM_OID {
        let key = RsaPublicKey::try_from(info).map_err(|_| KeyError::Malformed)?;
        return Key::rsa(key.n().clone(), key.e().clone());
    }
    if oid == p256::elliptic_curve::ALGORITHM_OID {
        return match info.algorithm.parameters_oid() {
            Ok(curve) if curve == p256::NistP256::OID => Key::p256(bytes),
            _ => Err(KeyError::Type),
        };
    }
    if oid == ED25519 {
        return Key::ed25519(bytes);
    }
    Err(KeyError::Type)
}

/// The key that a certificate (RFC 5280, section 4.1) is about. Who signed it and for how long does not matter here: the
/// operator trusts the key.
fn info_of_certificate(der: &[u8]) -> der::Result<SubjectPublicKeyInfoRef<'_>> {
    AnyRef::from_der(der)?.sequence(|certificate| {
        let signed = certificate.decode::<AnyRef<'_>>()?;
        let info = signed.sequence(|fields| {
            let version_or_serial = fields.decode::<AnyRef<'_>>()?;
            let has_version = matches!(version_or_serial.tag(), Tag::ContextSpecific { .. });
            // The serial where the version came first; the signature's algorithm, the issuer, the validity, the subject.
            for _ in 0..4 + usize::from(has_version) {
                fields.decode::<AnyRef<'_>>()?;
            }
            let info = fields.decode()?;
            while !fields.is_finished() {
                fields.decode::<AnyRef<'_>>()?;
            }
            Ok(info)
        })?;
        // The signature and its algorithm.
        certificate.decode::<AnyRef<'_>>()?;
        certificate.decode::<AnyRef<'_>>()?;
        Ok(info)
    })
}
