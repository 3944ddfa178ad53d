use serde_json::json;

use super::*;
use crate::auth::testing::{ALGORITHMS, der, jwk, jwks, key_file, public_pem, signed, with};

fn set(keys: &[serde_json::Value]) -> KeySet {
    KeySet::from_jwks(&jwks(keys)).unwrap()
}

#[test]
fn the_type_of_a_key_says_its_algorithm() {
    for algorithm in ALGORITHMS {
        let pem = public_pem(algorithm);
        for pem in [
            pem,
            pem.trim_end(),
            &format!("\n{pem}\n"),
            &pem.replace('\n', "\r\n"),
        ] {
            assert_eq!(Key::from_pem(pem).unwrap().algorithm, algorithm);
        }
        let json = jwks(&[jwk(algorithm)]);
        for json in [json.clone(), ["\u{feff}".as_bytes(), &json, b"\r\n"].concat()] {
            let set = KeySet::from_jwks(&json).unwrap();
            assert_eq!(set.find(None, algorithm).unwrap().algorithm, algorithm);
        }
    }
    let older = Key::from_pem(key_file!("rsa-public-pkcs1")).unwrap();
    assert_eq!(older.algorithm, Algorithm::RS256);
}

/// As it arrives through forms, variables and files of YAML.
fn ways(pem: &str) -> Vec<String> {
    let lines: Vec<_> = pem.trim_end().lines().collect();
    let [begin, body @ .., end] = &lines[..] else {
        panic!("{pem}")
    };
    let base64 = body.concat();
    let columns = |width: usize| {
        let lines = base64
            .as_bytes()
            .chunks(width)
            .map(|line| str::from_utf8(line).unwrap());
        lines.collect::<Vec<_>>().join("\n")
    };
    vec![
        lines.join("\\n"),
        format!("\"{}\"", lines.join("\\n")),
        lines.join("\\r\\n") + "\\r\\n",
        lines.join("\r\n"),
        lines.join(" "),
        lines.concat(),
        lines.join("\n    "),
        format!("  {}\n\n", lines.join("  \n\t")),
        format!("\u{feff}{pem}"),
        format!("'{pem}'"),
        format!("the key of 2026\n\n{pem}"),
        format!("{begin}\n{}\n{end}", columns(76)),
        format!("{begin}\n{}\n{end}", columns(20)),
        format!("{begin}\n{}\n{end}", base64.trim_end_matches('=')),
        base64.clone(),
        columns(64),
        base64
            .replace('+', "-")
            .replace('/', "_")
            .trim_end_matches('=')
            .to_owned(),
    ]
}

#[test]
fn a_public_key_is_taken_in_every_form_in_which_it_is_plain_what_it_is() {
    let older = key_file!("rsa-public-pkcs1");
    let certificate = key_file!("tls");
    let keys = ALGORITHMS.map(|algorithm| (public_pem(algorithm), algorithm));
    for (pem, algorithm) in keys
        .into_iter()
        .chain([(older, Algorithm::RS256), (certificate, Algorithm::ES256)])
    {
        for way in ways(pem) {
            let key = Key::from_pem(&way).unwrap_or_else(|error| panic!("{error}: {way:?}"));
            assert_eq!(key.algorithm, algorithm, "{way:?}");
        }
    }
    // Some libraries write one label over the other form.
    let relabelled = |pem: &str, from: &str, to: &str| pem.replace(from, to);
    for pem in [
        relabelled(older, "RSA PUBLIC KEY", "PUBLIC KEY"),
        relabelled(public_pem(Algorithm::RS256), "PUBLIC KEY", "RSA PUBLIC KEY"),
    ] {
        assert_eq!(Key::from_pem(&pem).unwrap().algorithm, Algorithm::RS256);
    }
}

#[test]
fn the_key_of_a_certificate_is_the_key() {
    let token = signed(Algorithm::ES256, None, &json!({}));
    let of_another_key = Key::from_pem(key_file!("tls")).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let checked = |key: &Key| {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, key.algorithm).unwrap()
    };
    assert!(!checked(&of_another_key));
    assert!(checked(&Key::from_pem(public_pem(Algorithm::ES256)).unwrap()));
    let private = jsonwebtoken::EncodingKey::from_ec_der(&der(key_file!("tls-key")));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &private, Algorithm::ES256).unwrap();
    let good = jsonwebtoken::crypto::verify(
        &signature,
        message.as_bytes(),
        &of_another_key.decoding,
        Algorithm::ES256,
    );
    assert!(good.unwrap());
}

#[test]
fn what_is_no_public_key_that_is_known_here_is_refused_as_what_it_is() {
    let rsa = public_pem(Algorithm::RS256);
    let (first, second) = rsa.split_at(rsa.len() / 2);
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----";
    for (pem, error) in [
        ("", KeyError::Pem),
        ("key", KeyError::Pem),
        ("0123456789abcdef0123456789abcdef", KeyError::Pem),
        ("-----BEGIN PUBLIC KEY", KeyError::Pem),
        (
            "-----BEGIN DH PARAMETERS-----\nMIIB\n-----END DH PARAMETERS-----",
            KeyError::Pem,
        ),
        ("-----BEGIN PUBLIC KEY-----", KeyError::Cut),
        (first, KeyError::Cut),
        (second, KeyError::Pem),
        (&format!("{rsa}{rsa}"), KeyError::Several),
        (&rsa.replace("MIIB", "MIIC"), KeyError::Malformed),
        (&rsa.replace("MIIB", "M*IB"), KeyError::Malformed),
        (request, KeyError::Request),
        (&request.replace("CERT", "NEW CERT"), KeyError::Request),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== alice@host",
            KeyError::Ssh,
        ),
        ("ssh-rsa AAAAB3NzaC1yc2E=", KeyError::Ssh),
        (
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\nxsBN\n-----END PGP PUBLIC KEY BLOCK-----",
            KeyError::Pgp,
        ),
        ("{\"keys\":[]}", KeyError::Jwk),
        (key_file!("p384-public"), KeyError::Type),
        (key_file!("rsa-1024-public"), KeyError::Short(1024)),
        // A point that is not on the curve.
        (
            &public_pem(Algorithm::ES256)
                .replacen("AQcDQgAE", "AQcDQgAEA", 1)
                .replacen("==", "=", 1),
            KeyError::Malformed,
        ),
    ] {
        assert_eq!(Key::from_pem(pem).unwrap_err(), error, "{pem}");
    }
    for private in [key_file!("rsa"), key_file!("p256"), key_file!("ed25519")] {
        for way in ways(private) {
            assert_eq!(Key::from_pem(&way).unwrap_err(), KeyError::Private, "{way}");
        }
        let both = format!("{rsa}{private}");
        assert_eq!(Key::from_pem(&both).unwrap_err(), KeyError::Private);
    }
}

#[test]
fn keys_of_a_set_that_cannot_be_used_are_left_out_each_with_its_reason() {
    let [rsa, p256, ed25519] = ALGORITHMS.map(jwk);
    let mut no_modulus = rsa.clone();
    no_modulus.as_object_mut().unwrap().remove("n");
    let other_point = json!({"x": p256["y"], "y": p256["x"]});
    let cases = [
        (
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}),
            KeyError::Symmetric,
        ),
        (
            json!({"kty": "oct", "k": "c2VjcmV0", "use": "enc"}),
            KeyError::Symmetric,
        ),
        (with(rsa.clone(), &json!({"use": "enc"})), KeyError::Use),
        (with(rsa.clone(), &json!({"key_ops": ["encrypt"]})), KeyError::Use),
        (with(rsa.clone(), &json!({"alg": "HS256"})), KeyError::Algorithm),
        (with(rsa.clone(), &json!({"alg": "RS512"})), KeyError::Algorithm),
        (with(rsa.clone(), &json!({"alg": "ES256"})), KeyError::Algorithm),
        (
            with(rsa.clone(), &json!({"alg": "RSA-OAEP"})),
            KeyError::Algorithm,
        ),
        (with(rsa.clone(), &json!({"n": "AQAB"})), KeyError::Short(17)),
        (with(rsa.clone(), &json!({"e": ""})), KeyError::Malformed),
        (no_modulus, KeyError::Malformed),
        (with(p256.clone(), &json!({"crv": "P-384"})), KeyError::Type),
        (with(p256.clone(), &json!({"crv": null})), KeyError::Type),
        (with(p256.clone(), &other_point), KeyError::Malformed),
        (with(p256.clone(), &json!({"x": "AQAB"})), KeyError::Malformed),
        (with(ed25519.clone(), &json!({"crv": "X25519"})), KeyError::Type),
        (with(ed25519.clone(), &json!({"x": "AQAB"})), KeyError::Malformed),
        (with(ed25519.clone(), &json!({"x": "!"})), KeyError::Malformed),
        // The neutral element: everything is signed with it.
        (
            with(
                ed25519.clone(),
                &json!({"x": URL_SAFE_NO_PAD.encode([&[1][..], &[0; 31]].concat())}),
            ),
            KeyError::Malformed,
        ),
        (json!({"kty": "LMS"}), KeyError::Type),
        (json!({"kid": "b"}), KeyError::Malformed),
        (json!("key"), KeyError::Malformed),
        (json!({"kty": "RSA", "kid": 7}), KeyError::Malformed),
    ];
    for (unfit, error) in cases {
        let good = with(p256.clone(), &json!({"kid": "good"}));
        let set = set(&[unfit.clone(), good]);
        assert!(set.find(Some("good"), Algorithm::ES256).is_ok());
        assert_eq!(set.keys.len(), 1, "{unfit}");
        assert!(
            set.skipped.len() == 1 && set.skipped[0].ends_with(&format!(": {error}")),
            "{:?}",
            set.skipped
        );
        let alone = KeySet::from_jwks(&jwks(&[unfit])).unwrap_err();
        assert!(matches!(alone, KeySetError::Empty(_)), "{alone}");
    }
    for malformed in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
        let error = KeySet::from_jwks(malformed.as_bytes()).unwrap_err();
        assert!(matches!(error, KeySetError::Malformed(_)), "{malformed}: {error}");
    }
}

#[test]
fn a_token_s_kid_names_the_key_and_without_one_exactly_one_key_must_fit() {
    let [rsa, p256, ed25519] = ALGORITHMS.map(jwk);
    let named = |jwk: &serde_json::Value, kid: &str| with(jwk.clone(), &json!({"kid": kid, "use": "sig"}));
    let one_each = set(&[named(&rsa, "a"), named(&p256, "b"), ed25519.clone()]);
    let found = |set: &KeySet, kid, algorithm| set.find(kid, algorithm).map(|key| key.algorithm);
    for algorithm in ALGORITHMS {
        assert_eq!(found(&one_each, None, algorithm), Ok(algorithm));
    }
    assert_eq!(
        found(&one_each, Some("a"), Algorithm::RS256),
        Ok(Algorithm::RS256)
    );
    for (kid, algorithm, missing) in [
        (Some("a"), Algorithm::ES256, Missing::Unfit),
        (Some("a"), Algorithm::HS256, Missing::Unfit),
        (Some("c"), Algorithm::RS256, Missing::Unknown),
        (Some(""), Algorithm::EdDSA, Missing::Unknown),
        (None, Algorithm::HS256, Missing::Unfit),
        (None, Algorithm::RS512, Missing::Unfit),
    ] {
        assert_eq!(found(&one_each, kid, algorithm), Err(missing), "{kid:?}");
    }
    let two = set(&[
        named(&p256, "old"),
        named(&p256, "new"),
        named(&rsa, "new"),
        named(&p256, "new"),
    ]);
    assert_eq!(found(&two, None, Algorithm::ES256), Err(Missing::Unfit));
    for algorithm in [Algorithm::ES256, Algorithm::RS256] {
        assert_eq!(found(&two, Some("new"), algorithm), Ok(algorithm));
    }
    assert_eq!(two.skipped, [format!("key 4 (kid \"new\"): {}", KeyError::Twice)]);
}

#[test]
fn nothing_of_a_key_is_shown() {
    assert_eq!(format!("{:?}", Key::hs256(b"secret")), "Key(HS256)");
    let shown = format!("{:?}", set(&[jwk(Algorithm::RS256)]));
    assert!(
        !shown.contains(jwk(Algorithm::RS256)["n"].as_str().unwrap()),
        "{shown}"
    );
}
