use axum::{body::Body, http::Method};
use chat_domain::ports::ExecuteError;
use serde_json::{Value, json};

use crate::{
    testing::{BEGIN, CONTENT_LIMIT, Server, Setup, get, post, request},
    wire::NewMessage,
};

fn with_key(user: &str, key: &str, body: &Value) -> axum::http::Request<Body> {
    let mut request = post(user, "/v1/messages", body);
    request
        .headers_mut()
        .insert("idempotency-key", key.parse().unwrap());
    request
}

fn ids(body: &Value) -> Vec<i64> {
    body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["_id"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_text_is_sent_and_read_again() {
    let server = Server::new();
    let sent = server
        .post(
            "alice",
            "/v1/messages",
            &json!({"receiver_id": "bob", "text": "hi"}),
        )
        .await;
    assert_eq!(
        (sent.status.as_u16(), sent.header("location")),
        (201, "/v1/messages/1")
    );
    assert_eq!(sent.header("idempotency-replayed"), "");
    assert_eq!(sent.header("cache-control"), "no-store");
    let message = json!({
        "_id": 1, "conversation_id": "alice,bob", "seq": 1, "sender_id": "alice", "receiver_id": "bob",
        "sent_at": BEGIN, "received_at": null, "content_type": "text/plain", "text": "hi",
    });
    assert_eq!(sent.body, message);
    for reader in ["alice", "bob"] {
        assert_eq!(server.get(reader, "/v1/messages/1").await.body, message);
    }
    assert_eq!(
        server.get("carol", "/v1/messages/1").await.code(),
        "message_not_found"
    );
    assert_eq!(
        server.get("alice", "/v1/messages/2").await.code(),
        "message_not_found"
    );
    let bad = server.get("alice", "/v1/messages/one").await;
    assert_eq!(
        (bad.code(), &bad.body["errors"][0]["parameter"]),
        ("parameter_invalid", &json!("_id"))
    );
}

#[tokio::test]
async fn data_comes_back_as_data_and_textual_data_as_text() {
    let server = Server::new();
    let send = async |body: Value| server.post("alice", "/v1/messages", &body).await.body;
    let picture = send(json!({"receiver_id": "bob", "data": "/wAB", "content_type": "image/png"})).await;
    assert_eq!(
        (&picture["data"], &picture["content_type"]),
        (&json!("/wAB"), &json!("image/png"))
    );
    let untyped = send(json!({"receiver_id": "bob", "data": "aGk=", "text": null})).await;
    assert_eq!(
        (&untyped["data"], &untyped["content_type"]),
        (&json!("aGk="), &json!("application/octet-stream"))
    );
    let text = send(json!({"receiver_id": "bob", "data": "aGk=", "content_type": "text/html"})).await;
    assert_eq!((&text["text"], text.get("data")), (&json!("hi"), None));
    let to_oneself = send(json!({"receiver_id": "alice", "text": "note"})).await;
    assert_eq!(to_oneself["conversation_id"], "alice,alice");
}

#[tokio::test]
async fn a_key_gives_back_the_first_result_as_it_is_now() {
    let server = Server::new();
    let body = json!({"receiver_id": "bob", "text": "hi"});
    let first = server.call(with_key("alice", "k-1", &body)).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    server
        .post("bob", "/v1/receipts", &json!({"type": "received", "up_to": 1}))
        .await;

    let again = server.call(with_key("alice", "k-1", &body)).await;
    assert_eq!(
        (again.status.as_u16(), again.header("location")),
        (201, "/v1/messages/1")
    );
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(again.body["received_at"], BEGIN + 1);

    let other = json!({"receiver_id": "bob", "text": "ho"});
    let reused = server.call(with_key("alice", "k-1", &other)).await;
    assert_eq!((reused.status.as_u16(), reused.code()), (422, "key_reused"));
    // Keys are the actor's.
    assert_eq!(
        server
            .call(with_key(
                "bob",
                "k-1",
                &json!({"receiver_id": "alice", "text": "x"})
            ))
            .await
            .status,
        201
    );
    for bad in ["", "a b", &"k".repeat(65), "ä"] {
        assert_eq!(
            server.call(with_key("alice", bad, &body)).await.code(),
            "key_invalid",
            "{bad:?}"
        );
    }
    let mut twice = with_key("alice", "k-2", &body);
    twice
        .headers_mut()
        .append("idempotency-key", "k-3".parse().unwrap());
    assert_eq!(
        server.call(twice).await.body["errors"][0]["header"],
        "Idempotency-Key"
    );
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_a_code_and_a_pointer() {
    let server = Server::new();
    let large = "x".repeat(CONTENT_LIMIT + 1);
    for (body, code, pointer) in [
        (json!({"receiver_id": "bob"}), "content_missing", None),
        (
            json!({"receiver_id": "bob", "text": "a", "data": "YQ=="}),
            "content_ambiguous",
            None,
        ),
        (
            json!({"receiver_id": "not ok", "text": "a"}),
            "user_id_invalid",
            Some("/receiver_id"),
        ),
        (
            json!({"receiver_id": "~room", "text": "a"}),
            "user_id_invalid",
            Some("/receiver_id"),
        ),
        (
            json!({"receiver_id": "bob", "text": ""}),
            "content_empty",
            Some("/text"),
        ),
        (
            json!({"receiver_id": "bob", "data": ""}),
            "content_empty",
            Some("/data"),
        ),
        (
            json!({"receiver_id": "bob", "text": large}),
            "content_too_large",
            Some("/text"),
        ),
        (
            json!({"receiver_id": "bob", "data": "YQ"}),
            "data_invalid",
            Some("/data"),
        ),
        (
            json!({"receiver_id": "bob", "data": "_-8="}),
            "data_invalid",
            Some("/data"),
        ),
        (
            json!({"receiver_id": "bob", "data": "Y Q=="}),
            "data_invalid",
            Some("/data"),
        ),
        (
            json!({"receiver_id": "bob", "text": "a", "content_type": "image/png"}),
            "content_type_invalid",
            Some("/content_type"),
        ),
        (
            json!({"receiver_id": "bob", "text": "a", "content_type": "text"}),
            "content_type_invalid",
            Some("/content_type"),
        ),
        (json!({"text": "a"}), "body_invalid", Some("")),
        (
            json!({"receiver_id": 7, "text": "a"}),
            "body_invalid",
            Some("/receiver_id"),
        ),
        (
            json!({"receiver_id": "bob", "text": ["a"]}),
            "body_invalid",
            Some("/text"),
        ),
        (json!([]), "body_invalid", Some("")),
    ] {
        let answer = server.post("alice", "/v1/messages", &body).await;
        assert_eq!(
            (answer.code(), answer.body["errors"][0]["pointer"].as_str()),
            (code, pointer),
            "{body}"
        );
    }
    assert_eq!(
        server.get("alice", "/v1/conversations").await.body["conversations"],
        json!([])
    );
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_refused() {
    let server = Server::new();
    let send = async |content_type: &str, body: Vec<u8>| {
        let request = request(Method::POST, "alice", "/v1/messages").header("content-type", content_type);
        server.call(request.body(Body::from(body)).unwrap()).await
    };
    for bad in [
        "",
        "{",
        "hi",
        r#"{"receiver_id":"bob","text":"\ud800"}"#,
        r#"{"receiver_id":"bob","text":"a"} x"#,
    ] {
        assert_eq!(
            send("application/json", bad.into()).await.code(),
            "json_invalid",
            "{bad}"
        );
    }
    assert_eq!(
        send("application/json", b"{\"text\":\"\xff\"}".into())
            .await
            .code(),
        "json_invalid"
    );
    let good = br#"{"receiver_id":"bob","text":"hi"}"#.to_vec();
    for content_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    ] {
        assert_eq!(
            send(content_type, good.clone()).await.code(),
            "media_type_unsupported",
            "{content_type}"
        );
    }
    for content_type in [
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/x+json",
    ] {
        assert_eq!(
            send(content_type, good.clone()).await.status,
            201,
            "{content_type}"
        );
    }
    let too_long = format!(
        r#"{{"x":"{}"}}"#,
        " ".repeat(NewMessage::body_limit(CONTENT_LIMIT))
    );
    assert_eq!(
        send("application/json", too_long.into()).await.code(),
        "body_too_large"
    );
}

#[tokio::test]
async fn content_within_the_limit_is_accepted_however_it_is_written() {
    let server = Server::new();
    let escaped = "\\u0001".repeat(CONTENT_LIMIT);
    let body = format!(r#"{{"receiver_id":"bob","text":"{escaped}"}}"#);
    let request = request(Method::POST, "alice", "/v1/messages").header("content-type", "application/json");
    assert_eq!(
        server.call(request.body(Body::from(body)).unwrap()).await.status,
        201
    );
}

#[tokio::test]
async fn history_goes_down_from_the_newest_and_up_from_a_bound() {
    let server = Server::new();
    for text in ["a", "b", "c", "d", "e"] {
        server.send("alice", "bob", text).await;
    }
    server.send("alice", "carol", "another conversation").await;
    for (query, expected) in [
        ("", &[5, 4, 3, 2, 1][..]),
        ("&before=4", &[3, 2, 1]),
        ("&after=3", &[4, 5]),
        ("&after=1&before=5", &[2, 3, 4]),
        (&format!("&since={}", BEGIN + 3), &[4, 5]),
        (&format!("&until={}", BEGIN + 1), &[2, 1]),
        ("&after=4&before=2", &[]),
        ("&after=9007199254740993", &[]),
        ("&before=-1", &[]),
    ] {
        let page = server
            .get("bob", &format!("/v1/messages?with=alice{query}"))
            .await;
        assert_eq!(ids(&page.body), expected, "{query}");
        assert_eq!(page.body["cursor"], "test:6");
    }
    assert_eq!(
        ids(&server.get("dave", "/v1/messages?with=alice").await.body),
        [0; 0]
    );
}

#[tokio::test]
async fn pages_lead_through_the_whole_history_in_both_directions() {
    let server = Server::new();
    for text in ["a", "b", "c", "d", "e"] {
        server.send("alice", "b+@:b", text).await;
    }
    let walk = async |first: &str, rel: &str| {
        let (mut seen, mut url) = (Vec::new(), Some(first.to_owned()));
        while let Some(next) = url {
            let page = server.get("alice", &next).await;
            let links = ["next", "prev"].map(|rel| {
                page.body[rel]
                    .as_str()
                    .map(|url| format!(r#"<{url}>; rel="{rel}""#))
            });
            assert_eq!(
                page.header("link"),
                links.into_iter().flatten().collect::<Vec<_>>().join(", ")
            );
            seen.extend(ids(&page.body));
            url = page.body[rel].as_str().map(str::to_owned);
        }
        seen
    };
    let with = "/v1/messages?with=b%2B%40%3Ab&limit=2";
    assert_eq!(walk(with, "next").await, [5, 4, 3, 2, 1]);
    assert_eq!(walk(&format!("{with}&after=0"), "next").await, [1, 2, 3, 4, 5]);
    assert_eq!(walk(&format!("{with}&after=1&before=5"), "next").await, [2, 3, 4]);
    let middle = server.get("alice", &format!("{with}&before=4")).await;
    assert_eq!(ids(&middle.body), [3, 2]);
    assert_eq!(
        middle.body["prev"],
        "/v1/messages?with=b%2B%40%3Ab&after=3&limit=2"
    );
    assert_eq!(
        middle.body["next"],
        "/v1/messages?with=b%2B%40%3Ab&before=2&limit=2"
    );
    let up = server.get("alice", &format!("{with}&after=3")).await;
    assert_eq!(
        (
            up.body["next"].as_str(),
            up.body["prev"].as_str().unwrap().contains("before=4")
        ),
        (None, true)
    );
    assert_eq!(server.get("alice", with).await.body["prev"], Value::Null);
}

#[tokio::test]
async fn a_parameter_that_does_not_fit_is_named() {
    let server = Server::new();
    for (query, code, parameter) in [
        ("", "parameter_invalid", "with"),
        ("with=not%20ok", "user_id_invalid", "with"),
        ("with=bob&limit=0", "parameter_invalid", "limit"),
        ("with=bob&limit=201", "parameter_invalid", "limit"),
        ("with=bob&limit=x", "parameter_invalid", "limit"),
        ("with=bob&limit=", "parameter_invalid", "limit"),
        ("with=bob&before=1.5", "parameter_invalid", "before"),
        (
            "with=bob&after=99999999999999999999",
            "parameter_invalid",
            "after",
        ),
        ("with=bob&since=now", "parameter_invalid", "since"),
        ("with=%FF", "user_id_invalid", "with"),
    ] {
        let answer = server.get("alice", &format!("/v1/messages?{query}")).await;
        assert_eq!(
            (answer.code(), answer.body["errors"][0]["parameter"].as_str()),
            (code, Some(parameter)),
            "{query}"
        );
    }
    let twice = server.get("alice", "/v1/messages?with=bob&limit=1&limit=2").await;
    assert_eq!(
        (twice.code(), &twice.body["detail"]),
        ("parameter_invalid", &json!("duplicate field `limit`"))
    );
}

#[tokio::test]
async fn failures_of_the_log_say_whether_to_send_again() {
    let body = json!({"receiver_id": "bob", "text": "hi"});
    for (error, code, retry_after) in [
        (ExecuteError::Overloaded, "overloaded", "1"),
        (ExecuteError::Unavailable, "unavailable", "3"),
        (ExecuteError::OutcomeUnknown, "outcome_unknown", "1"),
    ] {
        let server = Server::with(Setup {
            failing: Some(error),
            ..Setup::default()
        });
        let answer = server.post("alice", "/v1/messages", &body).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (503, code));
        assert_eq!(answer.header("retry-after"), retry_after);
    }
    let server = Server::with(Setup {
        failing: Some(ExecuteError::Unavailable),
        ..Setup::default()
    });
    for path in ["/v1/messages?with=bob", "/v1/messages/1", "/v1/conversations"] {
        assert_eq!(
            server.call(get("alice", path)).await.code(),
            "unavailable",
            "{path}"
        );
    }
}
