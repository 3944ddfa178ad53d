use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp as now};
use serde_json::{Value, json};

use super::*;
use crate::auth::testing::{ALGORITHMS, public_pem, signed as signed_with, token};

const LEEWAY: u64 = 5;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn signed(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn verify(claims: &Value) -> Result<Verified, TokenError> {
    Verifier::hs256(SECRET).verify_now(&signed(Algorithm::HS256, SECRET, claims))
}

#[test]
fn a_token_names_a_user_until_it_expires() {
    let expires_at = now() + 60;
    let user_id = UserId::parse("alice").unwrap();
    let verified = Verified {
        user_id,
        expires_at,
        ends_at: expires_at + LEEWAY,
        scopes: Scopes::default(),
    };
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
    let missing = || TokenError::UserMissing("sub".to_owned());
    let invalid = || TokenError::UserInvalid("sub".to_owned());
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
        (json!({"exp": soon}), missing()),
        (json!({"sub": 7, "exp": soon}), missing()),
        (json!({"sub": "not a user", "exp": soon}), invalid()),
        (json!({"sub": "", "exp": soon}), invalid()),
    ] {
        assert_eq!(verify(&claims), Err(error), "{claims}");
    }
    for claims in [json!({"sub": "alice", "exp": "never"}), json!([])] {
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
            Verifier::hs256(SECRET).verify_now(token),
            Err(TokenError::Invalid),
            "{token}"
        );
    }
}

#[test]
fn each_algorithm_is_checked_with_its_key_and_with_no_other() {
    for algorithm in ALGORITHMS {
        let verifier = Verifier::new(
            Key::from_pem(public_pem(algorithm)).unwrap(),
            &TokenRules::default(),
        );
        for kid in [None, Some("whatever")] {
            let verified = verifier.verify_now(&token(algorithm, kid)).unwrap();
            assert_eq!(verified.user_id.as_str(), "alice");
        }
        for other in ALGORITHMS.into_iter().filter(|other| *other != algorithm) {
            assert_eq!(verifier.verify_now(&token(other, None)), Err(TokenError::Invalid));
        }
        let good = token(algorithm, None);
        let parts: Vec<_> = good.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("{good}")
        };
        let message = format!("{header}.{payload}");
        let changed = if signature.starts_with('A') { "B" } else { "A" };
        for token in [
            format!("{message}."),
            format!("{message}.{changed}{}", &signature[1..]),
            format!("{message}.{signature}AAAA"),
            format!("{header}.e30.{signature}"),
            // {"alg":"none"}
            format!("eyJhbGciOiJub25lIn0.{payload}."),
            format!("eyJhbGciOiJub25lIn0.{payload}.{signature}"),
        ] {
            assert_eq!(verifier.verify_now(&token), Err(TokenError::Invalid), "{token}");
        }
    }
}

/// The old attack: the header says HS256, and the secret is what everybody knows.
#[test]
fn a_public_key_is_no_secret() {
    let claims = json!({"sub": "alice", "exp": now() + 60});
    for algorithm in ALGORITHMS {
        let pem = public_pem(algorithm);
        let verifier = Verifier::new(Key::from_pem(pem).unwrap(), &TokenRules::default());
        let der = crate::auth::testing::der(pem);
        let of_the_end = |count: usize| der[der.len().saturating_sub(count)..].to_vec();
        for secret in [
            pem.as_bytes().to_vec(),
            pem.trim_end().as_bytes().to_vec(),
            der.clone(),
            of_the_end(32),
            of_the_end(64),
            of_the_end(65),
            Vec::new(),
        ] {
            for forged in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let token = signed(forged, &secret, &claims);
                assert_eq!(verifier.verify_now(&token), Err(TokenError::Invalid));
            }
        }
    }
}

#[test]
fn what_the_header_wants_understood_and_is_not_is_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["exp".to_owned()]);
    let claims = json!({"sub": "alice", "exp": now() + 60});
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(
        Verifier::hs256(SECRET).verify_now(&token),
        Err(TokenError::Invalid)
    );
}

#[test]
fn issuer_and_audience_are_demanded_where_they_are_configured() {
    let rules = TokenRules {
        issuer: Some("https://users.example".to_owned()),
        audience: vec!["chat".to_owned(), "talk".to_owned()],
        leeway: LEEWAY,
        ..TokenRules::default()
    };
    let key = || Key::from_pem(public_pem(Algorithm::ES256)).unwrap();
    let verify = |rules: &TokenRules, iss: Value, aud: Value| {
        let mut claims = json!({"sub": "alice", "exp": now() + 60, "iss": iss, "aud": aud});
        claims
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        Verifier::new(key(), rules).verify_now(&signed_with(Algorithm::ES256, None, &claims))
    };
    let issuer = || json!("https://users.example");
    for audience in [json!("chat"), json!("talk"), json!(["shop", "talk"])] {
        assert!(verify(&rules, issuer(), audience).is_ok());
    }
    for (iss, aud, error) in [
        (Value::Null, json!("chat"), TokenError::Issuer),
        (json!("https://users.example/"), json!("chat"), TokenError::Issuer),
        (json!(""), json!("chat"), TokenError::Issuer),
        (json!(7), json!("chat"), TokenError::Issuer),
        (issuer(), Value::Null, TokenError::Audience),
        (issuer(), json!("chats"), TokenError::Audience),
        (issuer(), json!("chat,talk"), TokenError::Audience),
        (issuer(), json!([]), TokenError::Audience),
        (issuer(), json!([["chat"]]), TokenError::Audience),
    ] {
        assert_eq!(
            verify(&rules, iss.clone(), aud.clone()),
            Err(error),
            "{iss} {aud}"
        );
    }
    assert!(verify(&TokenRules::default(), issuer(), json!("shop")).is_ok());
}

#[test]
fn the_leeway_is_that_of_the_rules() {
    let rules = TokenRules {
        leeway: 100,
        ..TokenRules::default()
    };
    let verify = |rules: &TokenRules, claims: &Value| {
        Verifier::new(Key::hs256(SECRET), rules).verify_now(&signed(Algorithm::HS256, SECRET, claims))
    };
    let (past, soon) = (now() - 50, now() + 50);
    let expired = json!({"sub": "alice", "exp": past});
    let immature = json!({"sub": "alice", "exp": soon + 50, "nbf": soon});
    assert_eq!(verify(&rules, &expired).unwrap().ends_at, past + 100);
    assert!(verify(&rules, &immature).is_ok());
    assert_eq!(verify(&TokenRules::default(), &expired), Err(TokenError::Expired));
    assert_eq!(
        verify(&TokenRules::default(), &immature),
        Err(TokenError::Immature)
    );
}

fn with(rules: &TokenRules, claims: &Value) -> Result<Verified, TokenError> {
    Verifier::new(Key::hs256(SECRET), rules).verify_now(&signed(Algorithm::HS256, SECRET, claims))
}

#[test]
fn the_user_s_id_is_in_the_claim_of_the_rules() {
    let exp = now() + 60;
    for claim in ["user_id", "https://example.com/user_id", "a.b"] {
        let rules = TokenRules {
            user_claim: claim.to_owned(),
            ..TokenRules::default()
        };
        for (id, user) in [(json!("alice"), "alice"), (json!(42), "42")] {
            // What providers have there is no id of ours.
            let claims = json!({"sub": "auth0|5f7c8ec7c33c6c004bbafe82", claim: id, "exp": exp});
            assert_eq!(with(&rules, &claims).unwrap().user_id.as_str(), user);
        }
        let missing = TokenError::UserMissing(claim.to_owned());
        let invalid = TokenError::UserInvalid(claim.to_owned());
        for (id, error) in [
            (Value::Null, &missing),
            (json!(["alice"]), &missing),
            (json!(4.2), &missing),
            (json!(-1), &missing),
            (json!("f47ac10b-58cc-4372-a567-0e02b2c3d479"), &invalid),
        ] {
            let claims = json!({"sub": "alice", claim: id, "exp": exp});
            assert_eq!(with(&rules, &claims).as_ref(), Err(error), "{claims}");
        }
        assert_eq!(with(&rules, &json!({"sub": "alice", "exp": exp})), Err(missing));
        assert!(with(&rules, &json!({"a": {"b": "alice"}, "exp": exp})).is_err());
        // Its own signer's tokens are good.
        let made = crate::auth::Signer::new(SECRET, rules.clone());
        let made = made.sign(&UserId::parse("bob").unwrap(), 60).unwrap().token;
        let taken = Verifier::new(Key::hs256(SECRET), &rules).verify_now(&made);
        assert_eq!(taken.unwrap().user_id.as_str(), "bob");
    }
}

#[test]
fn a_refused_user_s_id_is_told_the_rule_and_that_another_claim_can_be_chosen() {
    for sub in [
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
    ] {
        let error = verify(&json!({"sub": sub, "exp": now() + 60}))
            .unwrap_err()
            .to_string();
        for part in [
            "claim sub",
            "1 to 32 of A-Z a-z 0-9 . _ @ + : -",
            "CHAT_JWT_USER_CLAIM",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn a_token_that_is_good_for_too_long_is_refused() {
    let rules = TokenRules {
        max_lifetime: Some(600),
        ..TokenRules::default()
    };
    let now = now();
    let claims = |iat: Value, exp: u64| json!({"sub": "alice", "iat": iat, "exp": exp});
    for (iat, exp) in [
        (json!(now), now + 600),
        (json!(now - 300), now + 300),
        // The issuer's clock is ahead.
        (json!(now + LEEWAY), now + LEEWAY + 600),
        (json!(now as f64 + 0.5), now + 600),
        // There is none.
        (Value::Null, now + 590),
        (json!("yesterday"), now + 590),
    ] {
        assert!(with(&rules, &claims(iat.clone(), exp)).is_ok(), "{iat} {exp}");
    }
    for (iat, exp) in [
        (json!(now), now + 601),
        (json!(now - 3600), now + 60),
        (json!(0), now + 60),
        (Value::Null, now + 700),
        (json!("yesterday"), now + 700),
        // Who says that it begins later has it from now on.
        (json!(now + 10_000), now + 10_100),
        (json!(1e300), now + 700),
    ] {
        assert_eq!(
            with(&rules, &claims(iat.clone(), exp)),
            Err(TokenError::Lifetime(600)),
            "{iat} {exp}"
        );
    }
    assert!(with(&TokenRules::default(), &claims(json!(0), now + 1_000_000_000)).is_ok());
}

#[test]
fn a_token_with_a_space_or_a_line_break_in_it_is_told_so() {
    let token = signed(
        Algorithm::HS256,
        SECRET,
        &json!({"sub": "alice", "exp": now() + 60}),
    );
    let (first, second) = token.split_at(20);
    for broken in [
        format!("{first}\n{second}"),
        format!("{first} {second}"),
        format!("Bearer {token}"),
        format!("{token}\u{0}"),
        format!("{first}ä{second}"),
    ] {
        let refused = Verifier::hs256(SECRET).verify_now(&broken);
        assert_eq!(refused, Err(TokenError::Characters), "{broken:?}");
    }
}

#[test]
fn scopes_are_those_of_the_claim_where_it_is_text() {
    let scopes = |scope: Value| {
        verify(&json!({"sub": "a", "exp": now() + 60, "scope": scope}))
            .unwrap()
            .scopes
    };
    assert!(scopes(json!("openid chat.send_as")).send_as);
    for foreign in [
        json!(["chat.send_as"]),
        json!({"chat.send_as": true}),
        json!(7),
        Value::Null,
    ] {
        assert_eq!(scopes(foreign), Scopes::default());
    }
}
