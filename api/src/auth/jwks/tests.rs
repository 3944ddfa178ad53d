use std::io::Write;

use futures_util::{FutureExt, future::join_all};
use jsonwebtoken::Algorithm;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    auth::{
        TokenError, TokenRules, Verifier,
        testing::{jwk, jwks, token, with},
    },
    readiness::Readiness,
};

const ALGORITHM: Algorithm = Algorithm::EdDSA;

fn set_of(kid: &str) -> Vec<u8> {
    jwks(&[with(jwk(ALGORITHM), &json!({"kid": kid}))])
}

/// An answer to whoever asks, once.
async fn answering(answer: Vec<u8>) -> JwksUrl {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys?tenant=7", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.unwrap();
            request.extend(byte);
        }
        assert!(request.starts_with(b"GET /keys?tenant=7 HTTP/1.1\r\nhost: 127.0.0.1:"));
        // Whoever has heard enough goes.
        let _ = stream.write_all(&answer).await;
    });
    url.parse().unwrap()
}

async fn fetched(answer: impl Into<Vec<u8>>) -> Result<Vec<u8>, JwksError> {
    answering(answer.into()).await.fetch(100).await
}

#[tokio::test]
async fn a_set_is_fetched_within_its_bounds() {
    let exact = "x".repeat(100);
    for answer in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{exact}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\n{exact}\r\n0\r\n\r\n"),
        format!("HTTP/1.0 200 OK\r\n\r\n{exact}"),
    ] {
        assert_eq!(fetched(answer).await.unwrap(), exact.as_bytes());
    }
    for large in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 101\r\n\r\n{exact}x"),
        format!("HTTP/1.0 200 OK\r\n\r\n{exact}x"),
    ] {
        assert!(matches!(fetched(large).await, Err(JwksError::Large)));
    }
    for (answer, status) in [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404),
        ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\n\r\n", 302),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
    ] {
        let error = fetched(answer).await.unwrap_err();
        assert!(
            matches!(error, JwksError::Fetch(FetchError::Status(found)) if found.as_u16() == status),
            "{error:?}"
        );
    }
    let broken = fetched("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    assert!(
        matches!(broken, Err(JwksError::Fetch(FetchError::Body(_)))),
        "{broken:?}"
    );
    for nonsense in ["", "220 mail.example\r\n"] {
        let refused = fetched(nonsense).await;
        assert!(
            matches!(refused, Err(JwksError::Fetch(FetchError::Http(_)))),
            "{refused:?}"
        );
    }
}

#[test]
fn a_url_names_a_host_and_holds_no_password() {
    let parse = |text: &str| text.parse::<JwksUrl>();
    for (url, port, open) in [
        ("http://127.0.0.1:8080/keys", 8080, false),
        ("http://[::1]/keys", 80, false),
        ("http://localhost", 80, false),
        ("http://users.internal/keys", 80, true),
        ("https://users.example/keys?a=b", 443, false),
        ("https://192.0.2.1:8443/", 8443, false),
    ] {
        let parsed = parse(url).unwrap();
        assert!(
            format!("{parsed:?}").ends_with(&format!(":{port})")),
            "{parsed:?}"
        );
        assert_eq!(parsed.is_open(), open, "{url}");
    }
    assert!(!format!("{:?}", parse("http://h/keys?secret=hidden").unwrap()).contains("hidden"));
    for (url, reason) in [
        ("", "it is not a URL"),
        ("users.example/keys", "it is not a URL"),
        ("/keys", "it is not a URL"),
        ("ftp://users.example/keys", "it is not a URL"),
        ("https://", "it is not a URL"),
        ("https://user:hidden@users.example/keys", "a URL with a user"),
        ("https://users_%.example/keys", "it is not a URL"),
    ] {
        let error = parse(url).unwrap_err().to_string();
        assert!(
            error.starts_with(reason) && !error.contains("hidden"),
            "{url}: {error}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_waits_for_one_reading_and_the_next_is_asked_for_after_a_pause() {
    let keys = Arc::new(Jwks::new());
    let reading = || keys.lock().reading;
    let ask = || async {
        let all = join_all((0..50).map(|_| keys.renewed()));
        tokio::time::timeout(Duration::from_secs(1), all).await
    };
    let answer = async {
        keys.asked.notified().await;
        assert!(reading() == Reading::Asked);
        keys.begin();
        tokio::task::yield_now().await;
        keys.finish(Ok(None));
    };
    let (waited, ()) = tokio::join!(ask(), answer);
    assert!(waited.is_ok());
    assert!(!keys.is_away());
    for _ in 0..9 {
        assert!(ask().await.is_ok(), "nobody waits");
        assert!(reading() == Reading::None, "no reading is asked for");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(keys.renewed().now_or_never().is_none());
    assert!(reading() == Reading::Asked);
    // A reading that runs already answers too, without another being asked for.
    keys.begin();
    assert!(keys.renewed().now_or_never().is_none());
    assert!(reading() == Reading::Runs);
    keys.finish(Err(()));
    assert!(keys.is_away());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_says_nothing_is_not_waited_for_long() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let source = JwksSource::Url {
        url: url.parse().unwrap(),
        every: Duration::from_secs(300),
    };
    let readiness = Readiness::default();
    let (keys, mut refresh) = Refresh::new(source, readiness.part("keys"));
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(refresh.renew().await, Duration::from_secs(pause));
    }
    assert!(keys.current().is_none() && keys.is_away());
    assert_eq!(readiness.missing(), [("keys", NOT_READ.to_owned())]);
}

#[tokio::test]
async fn a_file_is_read_again_and_a_reading_that_fails_changes_nothing() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&set_of("old")).unwrap();
    check_file(file.path()).unwrap();
    let source = JwksSource::File(file.path().to_owned());
    let readiness = Readiness::default();
    let (keys, mut refresh) = Refresh::new(source, readiness.part("keys"));
    let verifier = Verifier::of_set(keys.clone(), &TokenRules::default());
    let (old, new) = (token(ALGORITHM, Some("old")), token(ALGORITHM, Some("new")));
    assert_eq!(verifier.verify_now(&old), Err(TokenError::KeyUnknown));
    assert_eq!(readiness.missing().len(), 1);
    assert_eq!(refresh.renew().await, FILE_PAUSE);
    assert_eq!(readiness.missing(), []);
    assert!(verifier.verify_now(&old).is_ok());
    assert_eq!(verifier.verify_now(&new), Err(TokenError::KeyUnknown));

    let large = vec![b' '; SIZE_LIMIT + 1];
    for bad in [&b"{"[..], b"", b"{\"keys\":[]}", &large] {
        std::fs::write(file.path(), bad).unwrap();
        assert!(check_file(file.path()).is_err());
        assert_eq!(refresh.renew().await, FILE_PAUSE);
        assert!(keys.is_away() && verifier.verify_now(&old).is_ok());
        assert_eq!(readiness.missing(), [], "it serves with what it knows");
    }
    std::fs::write(file.path(), set_of("new")).unwrap();
    refresh.renew().await;
    assert!(!keys.is_away() && verifier.verify_now(&new).is_ok());
    assert_eq!(verifier.verify_now(&old), Err(TokenError::KeyUnknown));
}

/// The whole of it: the token that comes first with a new key waits for the keys to be read.
#[tokio::test]
async fn a_key_that_is_not_known_is_looked_for_before_its_token_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set_of("old")).unwrap();
    let readiness = Readiness::default();
    let (keys, refresh) = Refresh::new(JwksSource::File(file.path().to_owned()), readiness.part("keys"));
    let verifier = Verifier::of_set(keys.clone(), &TokenRules::default());
    let stop = CancellationToken::new();
    let task = tokio::spawn(refresh.run(stop.clone()));
    verifier.verify(&token(ALGORITHM, Some("old"))).await.unwrap();
    // What was asked for before does not stand in the way.
    keys.lock().asked_at = None;
    std::fs::write(file.path(), set_of("new")).unwrap();
    verifier.verify(&token(ALGORITHM, Some("new"))).await.unwrap();
    let forged = verifier.verify(&token(ALGORITHM, Some("forged"))).await;
    assert_eq!(forged, Err(TokenError::KeyUnknown));
    keys.lock().asked_at = None;
    std::fs::remove_file(file.path()).unwrap();
    let unknown = verifier.verify(&token(ALGORITHM, Some("newer"))).await;
    assert_eq!(unknown, Err(TokenError::KeysAway));
    stop.cancel();
    task.await.unwrap();
}
