use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Version},
};
use chat_domain::ports::{ExecuteError, PAGE_BYTES};
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use super::PAGES;
use crate::{
    limits::{FREE, HEAD_LIMIT, LimitsOptions},
    testing::{SECRET, Server, Setup, get, limits, post, request},
};

fn plain(method: Method, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap()
}

fn jwt(claims: &Value) -> String {
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(SECRET),
    )
    .unwrap()
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let server = Server::new();
    for path in [
        "/nothing",
        "/v1",
        "/v1/",
        "/v1/messages/",
        "/v1/messages/1/2",
        "/metrics",
        "/dev/token",
    ] {
        assert_eq!(
            server.call(plain(Method::GET, path)).await.code(),
            "route_not_found",
            "{path}"
        );
    }
    let wrong = server.call(plain(Method::DELETE, "/v1/messages")).await;
    assert_eq!((wrong.status.as_u16(), wrong.code()), (405, "method_not_allowed"));
    let mut allowed: Vec<_> = wrong.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    assert_eq!(
        server.get("alice", "/v1/messages/%FF").await.code(),
        "parameter_invalid"
    );
}

#[tokio::test]
async fn a_panic_is_a_problem() {
    let server = Server::with(Setup {
        failing: Some(ExecuteError::Unavailable),
        ..Setup::default()
    });
    let answer = server.get("alice", "/v1/messages/666").await;
    assert_eq!((answer.status.as_u16(), answer.code()), (500, "internal"));
    assert_eq!(answer.body["type"], "urn:chat-system:problem:internal");
}

#[tokio::test]
async fn a_request_keeps_its_id_if_that_is_sane() {
    let server = Server::new();
    let ask = async |id: Option<HeaderValue>| {
        let mut request = plain(Method::GET, "/healthz");
        id.map(|id| request.headers_mut().insert("x-request-id", id));
        server.call(request).await.header("x-request-id").to_owned()
    };
    assert_eq!(
        ask(Some(HeaderValue::from_static("my-id.1_A"))).await,
        "my-id.1_A"
    );
    let long = HeaderValue::from_str(&"x".repeat(65)).unwrap();
    for id in [
        None,
        Some(HeaderValue::from_static("")),
        Some(HeaderValue::from_static("a b")),
        Some(long),
    ] {
        let drawn = ask(id.clone()).await;
        assert!(
            drawn.len() == 32 && drawn.bytes().all(|b| b.is_ascii_hexdigit()),
            "{id:?}: {drawn}"
        );
    }
}

#[tokio::test]
async fn every_door_wants_a_token() {
    let server = Server::new();
    let doors = [
        (Method::POST, "/v1/messages"),
        (Method::GET, "/v1/messages?with=bob"),
        (Method::GET, "/v1/messages/1"),
        (Method::GET, "/v1/conversations"),
        (Method::POST, "/v1/receipts"),
        (Method::GET, "/v1/events"),
    ];
    for (method, path) in doors {
        let answer = server.call(plain(method, path)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code()),
            (401, "token_missing"),
            "{path}"
        );
        assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="chat-system""#);
    }
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_refused_with_a_challenge() {
    let server = Server::new();
    let soon = get_current_timestamp() + 60;
    let good = jwt(&json!({"sub": "alice", "exp": soon}));
    for (authorization, code) in [
        (
            format!("Bearer {}", jwt(&json!({"sub": "alice", "exp": 1}))),
            "token_expired",
        ),
        (
            format!("Bearer {}", jwt(&json!({"sub": "alice"}))),
            "token_invalid",
        ),
        (
            format!("Bearer {}", jwt(&json!({"sub": "a b", "exp": soon}))),
            "token_invalid",
        ),
        (format!("Bearer {good}x"), "token_invalid"),
        ("Bearer ".to_owned(), "token_invalid"),
        ("Bearer".to_owned(), "token_missing"),
        (format!("Basic {good}"), "token_missing"),
        (good.clone(), "token_missing"),
    ] {
        let mut request = plain(Method::GET, "/v1/conversations");
        request
            .headers_mut()
            .insert("authorization", authorization.parse().unwrap());
        let answer = server.call(request).await;
        assert_eq!(answer.code(), code, "{authorization}");
        let challenge = answer.header("www-authenticate");
        assert_eq!(
            challenge.contains(r#"error="invalid_token""#),
            code != "token_missing",
            "{challenge}"
        );
    }
    for scheme in ["bearer", "BEARER"] {
        let mut request = plain(Method::GET, "/v1/conversations");
        request
            .headers_mut()
            .insert("authorization", format!("{scheme} {good}").parse().unwrap());
        assert_eq!(server.call(request).await.status, 200);
    }
    // Only the stream takes a token from the query.
    let refused = server
        .call(plain(
            Method::GET,
            &format!("/v1/conversations?access_token={good}"),
        ))
        .await;
    assert_eq!(refused.code(), "token_missing");
    let taken = server
        .call(plain(
            Method::GET,
            &format!("/v1/events?wait=0&access_token={good}"),
        ))
        .await;
    assert_eq!(taken.status, 200);
    let expired = jwt(&json!({"sub": "alice", "exp": 1}));
    let refused = server
        .call(plain(Method::GET, &format!("/v1/events?access_token={expired}")))
        .await;
    assert_eq!(refused.code(), "token_expired");
}

#[tokio::test]
async fn development_tokens_are_for_this_machine_only() {
    let ask = |host: &str, body: &Value| {
        let request = Request::post("/dev/token")
            .header("host", host)
            .header("content-type", "application/json");
        request.body(Body::from(body.to_string())).unwrap()
    };
    let alice = json!({"user_id": "alice"});
    let server = Server::with(Setup {
        development: true,
        ..Setup::default()
    });
    for host in ["localhost:3000", "127.0.0.1", "[::1]:3000"] {
        let answer = server.call(ask(host, &alice)).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["user_id"]),
            (200, &json!("alice"))
        );
        assert!(answer.body["expires_at"].as_u64().unwrap() > get_current_timestamp());
        let mut request = plain(Method::GET, "/v1/conversations");
        let bearer = format!("Bearer {}", answer.body["token"].as_str().unwrap());
        request
            .headers_mut()
            .insert("authorization", bearer.parse().unwrap());
        assert_eq!(server.call(request).await.status, 200);
    }
    assert_eq!(
        server.call(ask("evil.example", &alice)).await.code(),
        "dev_host_refused"
    );
    let no_host = Request::post("/dev/token").body(Body::empty()).unwrap();
    assert_eq!(server.call(no_host).await.code(), "dev_host_refused");
    // Of this machine's own pages.
    for (name, value) in [
        ("origin", "http://127.0.0.1:3000"),
        ("origin", "http://localhost:5173"),
        ("origin", "https://[::1]"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-site", "none"),
        ("x-request-id", "a"),
    ] {
        let mut request = ask("127.0.0.1:3000", &alice);
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(server.call(request).await.status, 200, "{name}: {value}");
    }
    // Through a proxy that says the upstream's host, or from another site's page.
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "chat.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-server", "chat.example"),
        ("forwarded", "for=192.0.2.7"),
        ("via", "1.1 proxy"),
        ("x-real-ip", "192.0.2.7"),
        ("cf-connecting-ip", "192.0.2.7"),
        ("origin", "https://chat.example"),
        ("origin", "http://localhost.chat.example"),
        ("origin", "http://192.168.1.2:3000"),
        ("origin", "null"),
        ("origin", ""),
        ("origin", "file://"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-site", "something-new"),
    ] {
        let mut request = ask("127.0.0.1:3000", &alice);
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = server.call(request).await;
        assert_eq!(answer.code(), "dev_host_refused", "{name}: {value}");
        assert!(
            answer.body["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
        );
    }
    let mut twice = ask("127.0.0.1:3000", &alice);
    for origin in ["http://127.0.0.1:3000", "https://chat.example"] {
        twice.headers_mut().append("origin", origin.parse().unwrap());
    }
    assert_eq!(server.call(twice).await.code(), "dev_host_refused");
    let mut by_nginx = ask("127.0.0.1:3000", &alice);
    *by_nginx.version_mut() = axum::http::Version::HTTP_10;
    assert_eq!(server.call(by_nginx).await.code(), "dev_host_refused");
    assert_eq!(
        server
            .call(ask("localhost", &json!({"user_id": "a b"})))
            .await
            .code(),
        "user_id_invalid"
    );

    let keyed = Server::new();
    assert_eq!(
        keyed.call(ask("localhost", &alice)).await.code(),
        "route_not_found"
    );
}

#[tokio::test]
async fn health_and_readiness() {
    let server = Server::new();
    assert_eq!(server.call(plain(Method::GET, "/healthz")).await.status, 200);
    assert_eq!(server.call(plain(Method::GET, "/readyz")).await.status, 200);
    let tail = server.readiness.part("tail");
    let answer = server.call(plain(Method::GET, "/readyz")).await;
    assert_eq!(
        (answer.code(), &answer.body["detail"]),
        ("not_ready", &json!("tail: has not started"))
    );
    tail.ready();
    assert_eq!(server.call(plain(Method::GET, "/readyz")).await.status, 200);
    tail.not_ready("a gap stays");
    assert_eq!(server.call(plain(Method::GET, "/readyz")).await.status, 503);
    assert_eq!(server.call(plain(Method::GET, "/healthz")).await.status, 200);
}

#[tokio::test]
async fn pages_come_from_the_binary_and_link_relatively() {
    let server = Server::new();
    let home = server.call(plain(Method::GET, "/")).await;
    assert!(
        home.header("content-security-policy")
            .starts_with("default-src 'none';")
    );
    assert_eq!(home.header("x-content-type-options"), "nosniff");
    let html = home.body.as_str().unwrap();
    assert!(html.contains(r#"href="docs/""#));
    assert!(html.contains("make run"), "it says how to get the chat page");
    let asset = server.call(plain(Method::GET, "/assets/index.js")).await;
    assert_eq!(asset.code(), "route_not_found");

    let redirect = server.call(plain(Method::GET, "/docs")).await;
    assert_eq!(
        (redirect.status.as_u16(), redirect.header("location")),
        (308, "docs/")
    );
    let docs = server.call(plain(Method::GET, "/docs/")).await;
    assert_eq!(docs.header("content-type"), "text/html");
    for absolute in [r#"="/"#, "http://", "https://"] {
        assert!(
            !docs.body.as_str().unwrap().contains(absolute),
            "{absolute} in {}",
            docs.body
        );
    }
    let start = server
        .call(plain(Method::GET, "/docs/swagger-initializer.js"))
        .await;
    assert!(start.body.as_str().unwrap().contains("../openapi.json"));
    assert_eq!(
        server
            .call(plain(Method::GET, "/docs/swagger-ui-bundle.js"))
            .await
            .status,
        200
    );
    assert_eq!(
        server.call(plain(Method::GET, "/docs/nothing")).await.code(),
        "route_not_found"
    );
    assert_eq!(
        server.call(plain(Method::GET, "/openapi.json")).await.body["openapi"],
        "3.1.0"
    );
}

#[tokio::test]
async fn a_head_of_a_page_has_no_body() {
    let server = Server::new();
    let answer = server
        .call(
            request(Method::HEAD, "alice", "/v1/conversations")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, Some("")));
    assert_eq!(server.call(get("alice", "/v1/conversations")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = Server::new();
    let never = Body::from_stream(futures_util::stream::pending::<Result<&[u8], std::io::Error>>());
    let request = request(Method::POST, "alice", "/v1/messages").header("content-type", "application/json");
    let answer = server.call(request.body(never).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.code()), (408, "body_timeout"));
    let broken = [Err::<&[u8], _>(std::io::Error::other("the connection broke"))];
    let broken = Body::from_stream(futures_util::stream::iter(broken));
    let request = crate::testing::request(Method::POST, "alice", "/v1/messages");
    let request = request
        .header("content-type", "application/json")
        .body(broken)
        .unwrap();
    assert_eq!(server.call(request).await.code(), "body_incomplete");
}

#[tokio::test]
async fn a_head_has_so_many_bytes() {
    let server = Server::new();
    let ask = |rest: usize| {
        let mut request = plain(Method::GET, "/healthz?q");
        let used = "GET/healthz?qxhostchat.test".len();
        let value = "x".repeat(HEAD_LIMIT - used + rest);
        request.headers_mut().insert("x", value.parse().unwrap());
        server.call(request)
    };
    assert_eq!(ask(0).await.status, 200);
    let refused = ask(1).await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (431, "headers_too_large")
    );
    // Many small ones, a long target, and a route that there is not.
    let mut many = plain(Method::GET, "/v1/messages");
    for n in 0..50 {
        let name: axum::http::HeaderName = format!("x-{n}").parse().unwrap();
        many.headers_mut().insert(name, "y".repeat(400).parse().unwrap());
    }
    assert_eq!(server.call(many).await.code(), "headers_too_large");
    for path in ["/v1/messages", "/nothing"] {
        let long = plain(Method::GET, &format!("{path}?with={}", "x".repeat(HEAD_LIMIT)));
        assert_eq!(server.call(long).await.code(), "headers_too_large");
    }
}

/// Where there is a place for the connection, and where there is none.
#[tokio::test]
async fn a_request_names_one_host() {
    for server in [Server::new(), Server::new().full()] {
        for path in [
            "/healthz",
            "/v1/messages",
            "/socket.io/?EIO=4&transport=polling",
            "/nothing",
        ] {
            for (version, hosts, is_refused) in [
                (Version::HTTP_11, 0, true),
                (Version::HTTP_11, 1, false),
                (Version::HTTP_11, 2, true),
                (Version::HTTP_10, 0, false),
                (Version::HTTP_10, 2, true),
            ] {
                let mut request = plain(Method::GET, path);
                *request.version_mut() = version;
                for _ in 0..hosts {
                    request
                        .headers_mut()
                        .append("host", HeaderValue::from_static("chat.test"));
                }
                let answer = tower::ServiceExt::oneshot(server.router.clone(), request)
                    .await
                    .unwrap();
                let refused = answer.status() == 400;
                assert_eq!(refused, is_refused, "{path}: {hosts} in {version:?}");
                if refused {
                    let body = axum::body::to_bytes(answer.into_body(), usize::MAX)
                        .await
                        .unwrap();
                    let problem: Value = serde_json::from_slice(&body).unwrap();
                    assert_eq!(
                        (&problem["code"], &problem["errors"][0]["header"]),
                        (&json!("request_invalid"), &json!("Host"))
                    );
                }
            }
        }
    }
}

/// A body that is announced, of which so many bytes come and no more.
fn unfinished_body(user: &str, bytes: usize) -> Request<Body> {
    let some = futures_util::stream::iter([Ok::<_, std::io::Error>("x".repeat(bytes))]);
    let never = futures_util::stream::pending();
    let request = request(Method::POST, user, "/v1/messages").header("content-type", "application/json");
    let request = request.header("host", "chat.test");
    let body = Body::from_stream(futures_util::StreamExt::chain(some, never));
    request.body(body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn bodies_that_are_read_at_a_time_have_so_many_bytes_together() {
    const COUNTED: usize = 10_000;
    let server = Server::with(Setup {
        content_limit: 2 * FREE,
        limits: LimitsOptions {
            bodies: 1,
            largest: COUNTED,
            ..limits()
        },
        ..Setup::default()
    });
    let send = |bytes| json!({"receiver_id": "bob", "text": "x".repeat(bytes)});
    let spawn = |request| tokio::spawn(tower::ServiceExt::oneshot(server.router.clone(), request));
    // Bodies of which next to nothing comes take nothing, however many there are.
    let silent: Vec<_> = (0..100).map(|_| spawn(unfinished_body("mallory", 1))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        server.post("bob", "/v1/messages", &send(FREE + 100)).await.status,
        201
    );
    // Four of the largest always fit, one of each user. They run when this task waits, and then all wait.
    let users = ["alice", "carol", "dave", "erin"];
    let held: Vec<_> = users
        .into_iter()
        .map(|user| spawn(unfinished_body(user, FREE + COUNTED)))
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.post("bob", "/v1/messages", &send(100)).await.status, 201);
    let refused = server.post("bob", "/v1/messages", &send(FREE + 100)).await;
    assert_eq!(
        (
            refused.status.as_u16(),
            refused.code(),
            refused.header("retry-after")
        ),
        (503, "overloaded", "1")
    );
    assert_eq!(server.get("bob", "/v1/conversations").await.status, 200);
    for answer in held.into_iter().chain(silent) {
        assert_eq!(answer.await.unwrap().unwrap().status(), 408);
    }
    assert_eq!(
        server.post("bob", "/v1/messages", &send(FREE + 100)).await.status,
        201
    );
}

#[tokio::test]
async fn a_user_begins_so_many_conversations_in_an_hour_and_a_service_as_many_as_it_likes() {
    let server = Server::with(Setup {
        limits: LimitsOptions {
            new_conversations: 2,
            ..limits()
        },
        ..Setup::default()
    });
    let send = async |to: &str, key: &'static str| {
        let body = json!({"receiver_id": to, "text": "hi"});
        let mut request = post("alice", "/v1/messages", &body);
        let headers = request.headers_mut();
        headers.insert("idempotency-key", HeaderValue::from_static(key));
        server.call(request).await
    };
    for (to, key) in [("bob", "k1"), ("bob", "k2"), ("carol", "k3")] {
        assert_eq!(send(to, key).await.status, 201);
    }
    let refused = send("dave", "k4").await;
    assert_eq!(
        (refused.status.as_u16(), refused.code()),
        (429, "too_many_conversations")
    );
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((3590..=3600).contains(&wait), "{wait}");
    // What is there goes on, what was recorded is answered, and others begin theirs.
    for (to, key, replayed) in [("bob", "k5", ""), ("carol", "k3", "true")] {
        let sent = send(to, key).await;
        assert_eq!(
            (sent.status.as_u16(), sent.header("idempotency-replayed")),
            (201, replayed)
        );
    }
    server.send("dave", "alice", "hi").await;
    assert_eq!(send("dave", "k4").await.status, 201);
}

#[tokio::test]
async fn a_page_is_bounded_by_its_json_and_goes_on_where_it_ends() {
    const LENGTH: usize = 10_000;
    const MESSAGES: usize = 12;
    let server = Server::with(Setup {
        content_limit: LENGTH,
        ..Setup::default()
    });
    // As JSON each is six times as long; as bytes all of them fit.
    let text = "\u{1}".repeat(LENGTH);
    for number in 0..MESSAGES {
        server.send("alice", &format!("user{number}"), &text).await;
        server.send("alice", "bob", &text).await;
    }
    for (first, list) in [
        ("/v1/messages?with=bob&limit=200", "messages"),
        ("/v1/messages?with=bob&limit=200&after=0", "messages"),
        ("/v1/conversations?limit=200", "conversations"),
    ] {
        let (mut next, mut ids) = (Some(first.to_owned()), Vec::new());
        while let Some(path) = next {
            let page = server.get("alice", &path).await;
            let bytes = page.body.to_string().len();
            assert!(
                (PAGE_BYTES / 2..PAGE_BYTES).contains(&bytes) || page.body["next"].is_null(),
                "{bytes}"
            );
            for one in page.body[list].as_array().unwrap() {
                let message = one.get("last_message").unwrap_or(one);
                assert_eq!(message["text"], text);
                ids.push(message["_id"].as_i64().unwrap());
            }
            next = page.body["next"].as_str().map(str::to_owned);
        }
        let all = if list == "messages" {
            MESSAGES
        } else {
            MESSAGES + 1
        };
        assert_eq!(ids.len(), all, "{first}");
        let in_order = ids.is_sorted() || ids.is_sorted_by(|a, b| a > b);
        ids.dedup();
        assert!(in_order && ids.len() == all, "{ids:?}");
    }
    // One that is larger than a page fits all the same.
    let server = Server::with(Setup {
        content_limit: PAGE_BYTES,
        limits: LimitsOptions {
            bodies: 64 << 20,
            ..limits()
        },
        ..Setup::default()
    });
    for _ in 0..2 {
        server.send("alice", "bob", &"x".repeat(PAGE_BYTES)).await;
    }
    let page = server.get("alice", "/v1/messages?with=bob").await;
    assert_eq!(page.body["messages"].as_array().unwrap().len(), 1);
    assert!(page.body["next"].is_string());
}

#[tokio::test]
async fn answers_that_are_not_read_have_so_many_bytes_together_and_give_them_back() {
    const COUNTED: usize = 30_000;
    let server = Server::with(Setup {
        content_limit: 2 * FREE,
        limits: LimitsOptions {
            answers: 1,
            largest: COUNTED,
            ..limits()
        },
        ..Setup::default()
    });
    let text = "x".repeat(2 * FREE);
    let first = server.send("alice", "bob", &text).await;
    server.send("alice", "bob", "hi").await;
    let paths = [
        "/v1/messages?with=bob".to_owned(),
        "/v1/conversations".to_owned(),
        format!("/v1/messages/{first}"),
        "/v1/events?after=0&wait=0".to_owned(),
    ];
    for path in &paths {
        // Two of them are more than a user's quarter.
        let unread = server.open(get("alice", &paths[0])).await;
        let large = path != "/v1/conversations";
        let refused = server.get("alice", path).await;
        let expected = if large { (503, "overloaded") } else { (200, "") };
        assert_eq!((refused.status.as_u16(), refused.code()), expected, "{path}");
        let send = json!({"receiver_id": "bob", "text": text});
        let refused = server.post("alice", "/v1/messages", &send).await;
        assert_eq!((refused.status.as_u16(), refused.code()), (503, "overloaded"));
        assert_eq!(server.get("bob", "/v1/messages?with=alice").await.status, 200);
        drop(unread);
        assert_eq!(server.get("alice", path).await.status, 200, "{path}");
    }
    // Nothing was recorded of what was refused.
    let all = server.get("alice", "/v1/messages?with=bob").await;
    assert_eq!(all.body["messages"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_user_who_reads_too_often_is_told_when_to_come_again() {
    let server = Server::with(Setup {
        limits: LimitsOptions {
            reads_per_second: 1,
            reads_burst: 8,
            ..limits()
        },
        ..Setup::default()
    });
    let id = server.send("alice", "bob", "hi").await;
    let paths = [
        "/v1/messages?with=bob".to_owned(),
        "/v1/conversations".to_owned(),
        format!("/v1/messages/{id}"),
        "/v1/events?wait=0".to_owned(),
    ];
    let mut refused = 0;
    for path in paths.iter().cycle().take(40) {
        let answer = server.get("alice", path).await;
        if answer.status != 200 {
            assert_eq!(
                (
                    answer.status.as_u16(),
                    answer.code(),
                    answer.header("retry-after")
                ),
                (429, "rate_limited", "1")
            );
            refused += 1;
        }
    }
    assert!((20..=32).contains(&refused), "{refused}");
    for path in &paths {
        assert_eq!(server.get("bob", path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_user_who_sends_too_much_is_told_when_to_come_again() {
    let server = Server::with(Setup {
        limits: LimitsOptions {
            sends_per_second: 1,
            sends_burst: 2,
            ..limits()
        },
        ..Setup::default()
    });
    let send = async |user| {
        let mut request = post(
            user,
            "/v1/messages",
            &json!({"receiver_id": "carol", "text": "hi"}),
        );
        request
            .headers_mut()
            .insert("idempotency-key", HeaderValue::from_static("k"));
        server.call(request).await
    };
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(send("alice").await);
    }
    // All but the first are repeated.
    assert_eq!(
        (answers[0].status.as_u16(), answers[1].status.as_u16()),
        (201, 201)
    );
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        assert_eq!(
            (answer.code(), answer.header("retry-after")),
            ("rate_limited", "1")
        );
    }
    assert_eq!(send("bob").await.status, 201);
    assert_eq!(server.get("alice", "/v1/conversations").await.status, 200);
}

#[tokio::test]
async fn each_page_is_the_same_for_everybody() {
    let server = Server::with(Setup {
        page: &[("index.html", b"<title>"), ("assets/page.js", b"1")],
        ..Setup::default()
    });
    for (path, _) in PAGES {
        let path = path.replace("{name}", "page.js").replace("{*file}", "index.css");
        let nobodys = server.call(plain(Method::GET, &path)).await;
        assert!(
            nobodys.status.is_success() || nobodys.status.is_redirection(),
            "{path}: {nobodys:?}"
        );
        let expired = jwt(&json!({"sub": "alice", "exp": 1}));
        let scopes = jwt(
            &json!({"sub": "bridge", "exp": get_current_timestamp() + 60, "scope": "chat.send_as chat.read_all"}),
        );
        for token in [
            crate::testing::token("alice"),
            expired,
            scopes,
            "nonsense".to_owned(),
        ] {
            let mut asked = plain(Method::GET, &path);
            let bearer = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
            asked.headers_mut().insert("authorization", bearer);
            let somebodys = server.call(asked).await;
            assert_eq!(
                (somebodys.status, &somebodys.body),
                (nobodys.status, &nobodys.body),
                "{path}"
            );
        }
    }
}

/// A quoted input is escaped twice: this one's would be fourteen times as long.
#[tokio::test]
async fn a_refusal_is_short_whatever_it_is_about() {
    let server = Server::new();
    let odd = "\u{7f}é".repeat(100);
    for body in [
        json!(odd),
        json!({"receiver_id": [odd]}),
        json!({"receiver_id": "bob", "text": "x", "content_type": odd}),
    ] {
        let refused = server.post("alice", "/v1/messages", &body).await;
        assert!(refused.status.is_client_error(), "{refused:?}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.len() <= 260, "{detail}");
        assert!(refused.body.to_string().len() < 2048, "{refused:?}");
    }
    let refused = server
        .get(
            "alice",
            &format!("/v1/messages?with=bob&limit={}", "x".repeat(9000)),
        )
        .await;
    assert!(refused.body.to_string().len() < 2048, "{refused:?}");
}
