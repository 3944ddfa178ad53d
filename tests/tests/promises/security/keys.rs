//! Tokens that somebody else signs: with a public key or a set of keys the real server takes those that it should and
//! no others, through every door, and follows the issuer's keys as they change.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, Events, Kind, Server, eventually,
    issuer::{Issuer, SigningKey, jwks, key_file},
    listener::{Door, Listener},
    ok, reply, run_alone,
    server::now,
    socketio::{SocketIo, Transport},
};
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);

async fn start(settings: &[(&str, &str)]) -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, settings).await;
    (database, server)
}

/// What a token's bearer is told by REST: 201, or the status and code of the refusal.
async fn told(server: &Server, token: &str) -> (u16, String) {
    let answer = reply(
        Client::new(&server.url(), token)
            .post("/v1/messages")
            .json(&json!({
                "receiver_id": "bob", "text": "hi"
            })),
    )
    .await;
    let code = answer.body["code"].as_str().unwrap_or_default().to_owned();
    (answer.status, code)
}

async fn is_good(server: &Server, token: &str) -> bool {
    told(server, token).await.0 == 201
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn warnings(server: &Server, text: &str) -> usize {
    let log = server.log();
    log.lines()
        .filter(|line| line.contains(" WARN ") && line.contains(text))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_key_of_each_type_opens_every_door_to_its_tokens_and_to_no_others() {
    let keys = [
        (Algorithm::RS256, "rsa-public.pem"),
        (Algorithm::ES256, "p256-public.pem"),
        (Algorithm::EdDSA, "ed25519-public.pem"),
    ];
    let token_of = |algorithm| SigningKey::of("some name", algorithm).token("alice");
    for (algorithm, file) in keys {
        let path = key_file(file);
        let pem = fs::read_to_string(&path).unwrap();
        let (_database, server) = start(&[("CHAT_JWT_PUBLIC_KEY_FILE", path.to_str().unwrap())]).await;
        let token = token_of(algorithm);
        assert!(is_good(&server, &token).await);
        for door in Door::ALL {
            Listener::connect(door, &server.url(), &token, None)
                .await
                .unwrap();
        }
        let secret = EncodingKey::from_secret(pem.as_bytes());
        let claims = json!({"sub": "alice", "exp": now() + 3600});
        let mut forged = vec![
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap(),
            server.token("alice"),
        ];
        forged.extend(
            keys.iter()
                .filter(|(other, _)| *other != algorithm)
                .map(|(other, _)| token_of(*other)),
        );
        for forged in forged {
            assert_eq!(told(&server, &forged).await, refused(401, "token_invalid"));
            let socket = SocketIo::connect(Transport::Websocket, &server.url(), &forged, None).await;
            assert_eq!(socket.err().unwrap().body["message"], "token_invalid");
        }
        assert!(!server.log().contains(pem.lines().nth(1).unwrap()));
    }
    // A variable holds one too.
    let pem = fs::read_to_string(key_file("p256-public.pem")).unwrap();
    let (_database, server) = start(&[("CHAT_JWT_PUBLIC_KEY", &pem)]).await;
    assert!(is_good(&server, &token_of(Algorithm::ES256)).await);
    let made = server.run(&["token", "--user", "alice"]).await;
    assert_eq!((made.code, made.stdout.as_str()), (1, ""), "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_audience_and_leeway_are_those_of_the_configuration() {
    let settings = [
        ("CHAT_JWT_ISSUER", "https://users.example"),
        ("CHAT_JWT_AUDIENCE", "chat, talk"),
        ("CHAT_JWT_LEEWAY_S", "300"),
    ];
    let (_database, server) = start(&settings).await;
    let token = |iss: &str, aud: Value, exp: u64| {
        chat_tests::server::token(&json!({"sub": "alice", "exp": exp, "iss": iss, "aud": aud}))
    };
    let (iss, soon) = ("https://users.example", now() + 3600);
    assert!(is_good(&server, &token(iss, json!("talk"), soon)).await);
    assert!(is_good(&server, &token(iss, json!(["shop", "chat"]), now() - 60)).await);
    for bad in [
        token("https://users.example.evil", json!("chat"), soon),
        token(iss, json!("shop"), soon),
        server.token("alice"),
    ] {
        assert_eq!(told(&server, &bad).await, refused(401, "token_invalid"));
    }
    let expired = token(iss, json!("chat"), now() - 400);
    assert_eq!(told(&server, &expired).await, refused(401, "token_expired"));
    // The command makes tokens that its own server takes.
    let made = server.run(&["token", "--user", "alice"]).await;
    assert!(is_good(&server, made.stdout.trim()).await, "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_s_id_may_be_in_a_claim_of_the_issuer_s_own_on_every_door() {
    const CLAIM: &str = "https://example.com/user_id";
    let (_database, server) = start(&[("CHAT_JWT_USER_CLAIM", CLAIM)]).await;
    let token = |sub: Value, id: Value| {
        chat_tests::server::token(&json!({"sub": sub, CLAIM: id, "exp": now() + 3600}))
    };
    // As providers have it.
    for sub in [
        "auth0|5f7c8ec7c33c6c004bbafe82",
        "f47ac10b-58cc-4372-a567-0e02b2c3d479",
        "alice",
    ] {
        let good = token(json!(sub), json!("alice"));
        assert_eq!(
            Client::new(&server.url(), &good)
                .send("bob", "hi", None)
                .await
                .unwrap()["sender_id"],
            "alice"
        );
        for door in Door::ALL {
            Listener::connect(door, &server.url(), &good, None).await.unwrap();
        }
    }
    for id in [
        Value::Null,
        json!("auth0|5f7c8ec7c33c6c004bbafe82"),
        json!(["alice"]),
    ] {
        let bad = token(json!("alice"), id);
        let answer = reply(Client::new(&server.url(), &bad).get("/v1/conversations")).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (401, &json!("token_invalid"))
        );
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(
            detail.contains(CLAIM) && detail.contains("CHAT_JWT_USER_CLAIM"),
            "{detail}"
        );
        let socket = SocketIo::connect(Transport::Websocket, &server.url(), &bad, None).await;
        assert_eq!(socket.err().unwrap().body["data"]["detail"], detail);
    }
    let made = server.run(&["token", "--user", "carol"]).await;
    let sent = Client::new(&server.url(), made.stdout.trim())
        .send("bob", "hi", None)
        .await;
    assert_eq!(sent.unwrap()["sender_id"], "carol");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_s_id_that_is_refused_is_told_the_rule() {
    let (_database, server) = start(&[]).await;
    let bad = server.token("f47ac10b-58cc-4372-a567-0e02b2c3d479");
    let answer = reply(Client::new(&server.url(), &bad).get("/v1/conversations")).await;
    assert_eq!(answer.body["code"], "token_invalid");
    let detail = answer.body["detail"].as_str().unwrap();
    for part in ["1 to 32 of A-Z a-z 0-9 . _ @ + : -", "CHAT_JWT_USER_CLAIM"] {
        assert!(detail.contains(part), "{detail}");
        assert!(
            answer.header("www-authenticate").contains(part),
            "{:?}",
            answer.header("www-authenticate")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_good_for_too_long_is_refused_on_every_door() {
    let (_database, server) = start(&[("CHAT_JWT_MAX_LIFETIME_S", "600")]).await;
    let token =
        |iat: u64, exp: u64| chat_tests::server::token(&json!({"sub": "alice", "iat": iat, "exp": exp}));
    let good = token(now(), now() + 600);
    assert!(is_good(&server, &good).await);
    let no_beginning = chat_tests::server::token(&json!({"sub": "alice", "exp": now() + 3600}));
    for bad in [
        token(now(), now() + 3600),
        token(now() - 3600, now() + 60),
        no_beginning,
    ] {
        let answer = reply(Client::new(&server.url(), &bad).get("/v1/events?wait=0")).await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (401, &json!("token_invalid"))
        );
        assert!(
            answer.body["detail"].as_str().unwrap().contains("600 seconds"),
            "{:?}",
            answer.body
        );
        for door in Door::ALL {
            assert!(Listener::connect(door, &server.url(), &bad, None).await.is_err());
        }
        let mut socket = SocketIo::connect(Transport::Websocket, &server.url(), &good, None)
            .await
            .unwrap();
        let ack = socket.ask("authenticate", &json!({"token": bad})).await.unwrap();
        assert_eq!(ack["problem"]["code"], "token_invalid");
    }
    // The command makes none that its own server refuses.
    let made = server
        .run(&["token", "--user", "alice", "--expires-in", "600"])
        .await;
    assert!(is_good(&server, made.stdout.trim()).await, "{made:?}");
    let made = server.run(&["token", "--user", "alice"]).await;
    assert!(
        made.code == 1 && made.stderr.contains("CHAT_JWT_MAX_LIFETIME_S"),
        "{made:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn white_space_around_a_token_does_not_count_on_any_door() {
    let (_database, server) = start(&[]).await;
    let (url, plain) = (server.url(), server.token("alice"));
    for token in [
        format!("{plain}\n"),
        format!(" {plain}\r\n"),
        format!("{plain}\n\n"),
    ] {
        for transport in [Transport::Websocket, Transport::Polling] {
            let mut socket = SocketIo::connect(transport, &url, &token, None).await.unwrap();
            let ack = socket
                .ask("authenticate", &json!({"token": token}))
                .await
                .unwrap();
            assert!(ack["result"]["expires_at"].is_u64(), "{ack}");
        }
        let query = token.replace('\n', "%0A").replace('\r', "%0D").replace(' ', "+");
        let path = format!("/v1/events?wait=0&access_token={query}");
        assert_eq!(reply(Client::new(&url, "").get(&path)).await.status, 200);
    }
    // A header cannot have a line break, and spaces before its end are nobody's.
    let header = |value: String| {
        reply(
            Client::new(&url, "")
                .get("/v1/conversations")
                .header("authorization", value),
        )
    };
    assert_eq!(header(format!("Bearer   {plain} ")).await.status, 200);
    let broken = plain.replacen('.', "\n.", 1);
    let refused = SocketIo::connect(Transport::Websocket, &url, &broken, None)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.body["message"], "token_invalid");
    assert!(
        refused.body["data"]["detail"]
            .as_str()
            .unwrap()
            .contains("line break"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_logins_of_sockets_are_in_the_log_with_code_and_address() {
    let (_database, server) = start(&[("CHAT_LOG", "debug")]).await;
    let (url, good) = (server.url(), server.token("alice"));
    let expired = chat_tests::server::token(&json!({"sub": "alice", "exp": now() - 60}));
    let logged = |command: &str, code: &str| {
        let log = server.log();
        let is_it = |line: &&str| {
            [
                "refused",
                "socket_io",
                "client.address=127.0.0.1",
                &format!("command=\"{command}\""),
            ]
            .iter()
            .all(|part| line.contains(part))
                && line.contains(&format!("code=\"{code}\""))
        };
        log.lines().filter(is_it).count()
    };
    for transport in [Transport::Websocket, Transport::Polling] {
        let before = logged("connect", "token_expired");
        SocketIo::connect(transport, &url, &expired, None)
            .await
            .err()
            .unwrap();
        assert_eq!(
            logged("connect", "token_expired"),
            before + 1,
            "{transport:?}: {}",
            server.log()
        );
        SocketIo::connect(transport, &url, "no-token", None)
            .await
            .err()
            .unwrap();
        let mut socket = SocketIo::connect(transport, &url, &good, None).await.unwrap();
        let before = logged("authenticate", "token_user_mismatch");
        let bob = json!({"token": server.token("bob")});
        let ack = socket.ask("authenticate", &bob).await.unwrap();
        assert_eq!(ack["problem"]["code"], "token_user_mismatch");
        for _ in 0..20 {
            socket.ask("authenticate", &bob).await.unwrap();
        }
        assert_eq!(logged("authenticate", "token_user_mismatch"), before + 21);
    }
    assert_eq!(logged("connect", "token_invalid"), 2);
    // Those that follow the first one of an address are summed up, as those of requests are.
    eventually("they are summed up", LIMIT, || async {
        server.log().contains("refused repeatedly")
    })
    .await;
    let log = server.log();
    let own = log
        .lines()
        .filter(|line| line.contains(" INFO ") && line.contains("socket_io"));
    assert!(own.count() < 20, "{log}");
    assert!(!server.log().contains(&expired));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_issuer_without_an_audience_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    fs::write(&file, jwks(&[&SigningKey::new("a")])).unwrap();
    let public = key_file("p256-public.pem");
    let warned = "CHAT_JWT_AUDIENCE is not set";
    for keys in [
        ("CHAT_JWKS_FILE", file.to_str().unwrap()),
        ("CHAT_JWT_PUBLIC_KEY_FILE", public.to_str().unwrap()),
    ] {
        let (_database, server) = start(&[keys]).await;
        assert_eq!(warnings(&server, warned), 1, "{keys:?}");
        let (_database, server) = start(&[keys, ("CHAT_JWT_AUDIENCE", "chat")]).await;
        assert_eq!(warnings(&server, warned), 0, "{keys:?}");
    }
    // Whoever has a secret of their own has no other service on it.
    let (_database, server) = start(&[]).await;
    assert_eq!(warnings(&server, warned), 0);
}

/// In one moment, so that nobody reads half of it.
fn replace(file: &Path, text: impl AsRef<[u8]>) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks.json");
    let [old, new, other] = ["2026-10", "2026-11", "2026-11"].map(SigningKey::new);
    replace(&file, jwks(&[&old]));
    let (_database, server) = start(&[("CHAT_JWKS_FILE", file.to_str().unwrap())]).await;
    let (by_old, by_new) = (old.token("alice"), new.token("alice"));
    assert!(is_good(&server, &by_old).await);
    replace(&file, jwks(&[&old, &new]));
    let stands = "CHAT_JWKS_FILE was read again";
    eventually(stands, LIMIT, || async { is_good(&server, &by_new).await }).await;
    assert!(
        is_good(&server, &by_old).await,
        "the old one goes when its key goes"
    );
    // A token by another key under the same name is what it is.
    assert_eq!(
        told(&server, &other.token("alice")).await,
        refused(401, "token_invalid")
    );

    // Half a file is no file. This one and the next are written in place: whoever reads meanwhile reads nothing, which is
    // no file either.
    fs::write(&file, "{\"keys\":[").unwrap();
    eventually("it is seen", LIMIT, || async {
        warnings(&server, "cannot be read") == 1
    })
    .await;
    assert!(is_good(&server, &by_old).await && is_good(&server, &by_new).await);

    fs::write(&file, jwks(&[&new])).unwrap();
    // No token with an unknown key has to come for that.
    eventually(stands, LIMIT, || async { !is_good(&server, &by_old).await }).await;
    assert_eq!(told(&server, &by_old).await, refused(401, "token_invalid"));
    assert!(is_good(&server, &by_new).await);
    assert_eq!(
        warnings(&server, "cannot be read"),
        1,
        "once for each time that it breaks"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_at_a_url_is_found_at_once_and_forged_ones_cause_no_storm() {
    let issuer = Issuer::start().await;
    let [old, new, newer] = ["old", "new", "newer"].map(SigningKey::new);
    issuer.publish(&[&old]);
    let (_database, server) = start(&[("CHAT_JWKS_URL", issuer.url())]).await;
    assert!(is_good(&server, &old.token("alice")).await);
    assert_eq!(issuer.fetches(), 1);

    issuer.publish(&[&old, &new]);
    // All doors at once, and each of them with the first token that names the new key.
    let (url, begin) = (server.url(), Instant::now());
    let token = new.token("alice");
    let doors = Door::ALL.map(|door| Listener::connect(door, &url, &token, None));
    for (door, connected) in Door::ALL.into_iter().zip(join_all(doors).await) {
        assert!(connected.is_ok(), "{door:?}: {:?}", connected.err());
    }
    assert_eq!(issuer.fetches(), 2, "all waited for one fetch");

    // Ten seconds pass from one to the next, whatever is claimed.
    let most = || 3 + begin.elapsed().as_secs() / 10;
    issuer.publish(&[&old, &new, &newer]);
    let forged: Vec<_> = (0..100)
        .map(|number| SigningKey::new(&format!("forged {number}")).token("alice"))
        .collect();
    let told_all = join_all(forged.iter().map(|token| told(&server, token))).await;
    assert_eq!(told_all, vec![refused(401, "token_invalid"); 100]);
    let fetches = issuer.fetches() as u64;
    assert!(fetches <= most(), "{fetches} fetches");
    assert!(is_good(&server, &old.token("alice")).await && is_good(&server, &token).await);
    // The pause passes, and the newer key is found.
    eventually("the newer key is found", LIMIT, || async {
        is_good(&server, &newer.token("alice")).await
    })
    .await;
    let fetches = issuer.fetches() as u64;
    assert!(fetches <= most(), "{fetches} fetches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_fails_changes_nothing() {
    let issuer = Issuer::start().await;
    let [old, new] = ["old", "new"].map(SigningKey::new);
    issuer.publish(&[&old]);
    let settings = [("CHAT_JWKS_URL", issuer.url()), ("CHAT_JWKS_REFRESH_S", "1")];
    let (_database, server) = start(&settings).await;
    let alice = old.token("alice");
    for failure in [
        None,
        Some("<html>".into()),
        Some("{\"keys\":[]}".into()),
        Some("x".repeat(2 << 20)),
    ] {
        let before = issuer.fetches();
        issuer.answer(failure);
        eventually("it was tried again", LIMIT, || async {
            issuer.fetches() >= before + 2
        })
        .await;
        assert!(is_good(&server, &alice).await);
        let ready = reply(server.client("nobody").get("/readyz")).await;
        assert_eq!(ready.status, 200, "{ready:?}");
    }
    eventually("it was said", LIMIT, || async {
        warnings(&server, "cannot be read") > 3
    })
    .await;
    // Whether such a key exists cannot be known now: not for good, so that nobody is thrown out by it.
    let renewed = new.token("alice");
    assert_eq!(told(&server, &renewed).await, refused(503, "not_ready"));
    let socket = SocketIo::connect(Transport::Websocket, &server.url(), &alice, None).await;
    let mut socket = socket.ok().unwrap();
    let answer = socket.ask("authenticate", &json!({ "token": renewed })).await;
    assert_eq!(answer.unwrap()["problem"]["code"], "not_ready");

    issuer.publish(&[&new]);
    eventually("the new key is there", LIMIT, || async {
        is_good(&server, &renewed).await
    })
    .await;
    // The socket has lived on, and goes on with the new token.
    let answer = socket.ask("authenticate", &json!({ "token": renewed })).await;
    assert!(answer.unwrap()["result"]["expires_at"].is_u64());
    assert_eq!(told(&server, &alice).await, refused(401, "token_invalid"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issuer_that_is_away_at_the_start_is_waited_for() {
    let issuer = Issuer::start().await;
    let key = SigningKey::new("first");
    let token = key.token("alice");
    let database = Database::fresh(Kind::Sqlite).await;
    let mut server = Server::spawn(&database, &[("CHAT_JWKS_URL", issuer.url())]).await;
    let anybody = Client::new(&server.url(), "");
    eventually("only the keys are missing", LIMIT, || async {
        let problem = ok(anybody.get("/readyz")).await.unwrap_err();
        assert!(problem.status == 0 || problem.status == 503, "{problem}");
        problem.body["detail"] == "keys: the keys of tokens have not been read yet"
    })
    .await;

    // Each door says it in the form from which its clients come back by themselves.
    assert_eq!(told(&server, &token).await, refused(503, "not_ready"));
    let poll = Client::new(&server.url(), &token).poll("0", 0).await.unwrap_err();
    assert_eq!((poll.code.as_str(), poll.retry_after()), ("not_ready", Some(3)));
    let mut events = Events::connect(&server.url(), &token, None).await.unwrap();
    let closing = json!({"code": "not_ready", "retry_after": 3});
    let first = events.next(LIMIT).await.unwrap();
    assert_eq!((first.event.as_str(), &first.data), ("closing", &closing));
    assert_eq!(events.next(LIMIT).await, None);
    for transport in [Transport::Websocket, Transport::Polling] {
        let mut socket = SocketIo::connect(transport, &server.url(), &token, None)
            .await
            .unwrap();
        assert_eq!(socket.event(LIMIT).await, ("closing".to_owned(), closing.clone()));
        let end = tokio::time::timeout(LIMIT, socket.next()).await;
        assert_eq!(end.unwrap(), None, "the transport closes");
    }
    // A token that is missing is missing all the same.
    assert_eq!(told(&server, "").await, refused(401, "token_missing"));

    issuer.publish(&[&key]);
    server.ready().await;
    assert!(is_good(&server, &token).await);
    for door in Door::ALL {
        Listener::connect(door, &server.url(), &token, None)
            .await
            .unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_over_tls_from_whom_this_machine_trusts() {
    let issuer = Issuer::start_tls().await;
    let key = SigningKey::new("first");
    issuer.publish(&[&key]);
    let certificate = key_file("tls.pem");
    let trusting = ("SSL_CERT_FILE", certificate.to_str().unwrap());
    let (_database, server) = start(&[("CHAT_JWKS_URL", issuer.url()), trusting]).await;
    assert!(is_good(&server, &key.token("alice")).await);
    assert_eq!(issuer.fetches(), 1);

    let database = Database::fresh(Kind::Sqlite).await;
    let wary = Server::spawn(&database, &[("CHAT_JWKS_URL", issuer.url())]).await;
    wary.listening().await;
    eventually("it does not trust", LIMIT, || async {
        warnings(&wary, "cannot be read") > 0
    })
    .await;
    assert!(wary.log().contains("no TLS"), "{}", wary.log());
    assert_eq!(told(&wary, &key.token("alice")).await, refused(503, "not_ready"));
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_public_key_opens_every_address_as_a_secret_does() {
    let database = Database::fresh(Kind::Sqlite).await;
    let (url, key) = (database.url(), key_file("p256-public.pem"));
    let settings = [
        ("CHAT_DATABASE_URL", url.as_str()),
        ("CHAT_JWT_PUBLIC_KEY_FILE", key.to_str().unwrap()),
        ("CHAT_LISTEN", "0.0.0.0:1"),
    ];
    let migrated = run_alone(&["migrate", "up"], &settings).await;
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let without = run_alone(&["migrate", "up"], &[settings[0], settings[2]]).await;
    assert!(without.stderr.contains("CHAT_LISTEN: "), "{without:?}");
}
