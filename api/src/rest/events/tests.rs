use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    http::{Request, Response},
};
use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    auth::Caller,
    limits::LimitsOptions,
    testing::{SECRET, Server, Setup, get, limits, read_chunk, read_until},
};

fn stream(user: &str, query: &str) -> Request<Body> {
    let mut request = get(user, &format!("/v1/events{query}"));
    request
        .headers_mut()
        .insert("accept", "text/event-stream".parse().unwrap());
    request
}

async fn begin(server: &Server, request: Request<Body>) -> (BodyDataStream, String) {
    let response: Response<Body> = server.open(request).await;
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(response.headers()[name], value);
    }
    let mut body = response.into_body().into_data_stream();
    let first = read_until(&mut body, "}\n\n").await;
    (body, first)
}

fn numbers(page: &Value) -> Vec<i64> {
    page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["position"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_stream_begins_with_ready_and_goes_on_with_events() {
    let server = Server::new();
    server.send("alice", "bob", "before").await;
    let (mut body, first) = begin(&server, stream("bob", "")).await;
    assert_eq!(
        first,
        "retry: 2000\n\nevent: ready\nid: test:1\n\
         data: {\"cursor\":\"test:1\",\"head\":1,\"user_id\":\"bob\",\"heartbeat_s\":15,\"features\":[]}\n\n"
    );
    server.send("alice", "carol", "not bob's").await;
    server.send("alice", "bob", "line\nbreak").await;
    let event = read_until(&mut body, "}\n\n").await;
    let data = event.strip_prefix("id: test:3\ndata: ").unwrap();
    assert!(
        data.starts_with(r#"{"cursor":"test:3","prev":"test:1","position":3,"type":"message.sent","#),
        "{data}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(data).unwrap()["message"]["text"],
        "line\nbreak"
    );
}

#[tokio::test]
async fn a_stream_resumes_and_the_last_event_id_wins() {
    let server = Server::new();
    for text in ["a", "b", "c"] {
        server.send("alice", "bob", text).await;
    }
    let mut request = stream("bob", "?after=0");
    request
        .headers_mut()
        .insert("last-event-id", "test:2".parse().unwrap());
    let (mut body, first) = begin(&server, request).await;
    assert!(first.contains(r#""cursor":"test:2","head":3"#), "{first}");
    assert!(read_until(&mut body, "}\n\n").await.starts_with("id: test:3\n"));
}

#[tokio::test]
async fn a_lost_cursor_resets_a_stream() {
    let server = Server::new();
    server.send("alice", "bob", "a").await;
    for (after, reason) in [("test:9", "ahead"), ("other:1", "other_epoch")] {
        let (_body, first) = begin(&server, stream("bob", &format!("?after={after}"))).await;
        let reset = format!(r#"{{"cursor":"test:1","reason":"{reason}","oldest":1}}"#);
        assert_eq!(
            first,
            format!("retry: 2000\n\nevent: reset\nid: test:1\ndata: {reset}\n\n")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_has_heartbeats() {
    let server = Server::new();
    let (mut body, _) = begin(&server, stream("bob", "")).await;
    server.send("alice", "carol", "not bob's").await;
    let begun = Instant::now();
    assert_eq!(
        read_until(&mut body, "}\n\n").await,
        "event: heartbeat\nid: test:1\ndata: {\"cursor\":\"test:1\",\"prev\":\"test:0\"}\n\n"
    );
    assert_eq!(begun.elapsed().as_secs(), 15);
}

#[tokio::test]
async fn a_server_that_is_starting_closes_the_stream_with_200() {
    let server = Server::with(Setup {
        following: false,
        ..Setup::default()
    });
    let (mut body, first) = begin(&server, stream("bob", "")).await;
    assert_eq!(
        first,
        "retry: 2000\n\nretry: 1000\n\nevent: closing\ndata: {\"code\":\"starting\",\"retry_after\":1}\n\n"
    );
    assert_eq!(read_chunk(&mut body).await, None);
    let poll = server.get("bob", "/v1/events").await;
    assert_eq!(
        (poll.status.as_u16(), poll.code(), poll.header("retry-after")),
        (503, "starting", "1")
    );
}

#[tokio::test]
async fn a_server_that_stops_closes_its_streams() {
    let server = Server::new();
    let (mut body, _) = begin(&server, stream("bob", "")).await;
    server.hub.close();
    let last = read_until(&mut body, "}\n\n").await;
    assert!(
        last.contains("event: closing\ndata: {\"code\":\"shutdown\",\"retry_after\":"),
        "{last}"
    );
    assert_eq!(read_chunk(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_token() {
    let server = Server::new();
    let claims = json!({"sub": "bob", "exp": get_current_timestamp() + 20});
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    let mut request = stream("bob", "");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let (mut body, _) = begin(&server, request).await;
    let begun = Instant::now();
    let end = "event: closing\ndata: {\"code\":\"token_expired\",\"retry_after\":0}\n\n";
    let rest = read_until(&mut body, end).await;
    assert!(rest.contains("event: heartbeat\n"), "{rest}");
    let expiring = format!(
        "event: expiring\ndata: {}\n\n",
        json!({"expires_at": claims["exp"]})
    );
    assert!(
        rest.starts_with(&expiring),
        "less than a minute was left from the beginning: {rest}"
    );
    assert_eq!(rest.matches("expiring").count(), 1, "{rest}");
    assert!(
        (20..=26).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(read_chunk(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_a_minute_before_its_token_ends_that_it_does() {
    let server = Server::new();
    let claims = json!({"sub": "bob", "exp": get_current_timestamp() + 200});
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET)).unwrap();
    let mut request = stream("bob", "");
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    let (mut body, _) = begin(&server, request).await;
    let begun = Instant::now();
    let expiring = format!(
        "event: expiring\ndata: {}\n\n",
        json!({"expires_at": claims["exp"]})
    );
    read_until(&mut body, &expiring).await;
    assert!(
        (135..=140).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
    // The stream goes on, with its chain as it was.
    let rest = read_until(&mut body, "}\n\n").await;
    assert!(rest.contains("event: heartbeat\n"), "{rest}");
    read_until(&mut body, "{\"code\":\"token_expired\",\"retry_after\":0}\n\n").await;
    assert!(
        (200..=206).contains(&begun.elapsed().as_secs()),
        "{:?}",
        begun.elapsed()
    );
}

const TOO_MANY: &str = "retry: 2000\n\nretry: 5000\n\nevent: closing\n\
     data: {\"code\":\"too_many_connections\",\"retry_after\":5}\n\n";

#[tokio::test]
async fn a_user_has_so_many_streams_and_polls() {
    let server = Server::with(Setup {
        limits: LimitsOptions {
            connections_per_user: 1,
            ..limits()
        },
        ..Setup::default()
    });
    let (body, _) = begin(&server, stream("bob", "")).await;
    let (mut refused, last) = begin(&server, stream("bob", "")).await;
    assert_eq!(last, TOO_MANY);
    assert_eq!(read_chunk(&mut refused).await, None);
    let poll = server.get("bob", "/v1/events?wait=0").await;
    assert_eq!(
        (poll.status.as_u16(), poll.code(), poll.header("retry-after")),
        (503, "too_many_connections", "5")
    );
    assert_eq!(server.get("carol", "/v1/events?wait=0").await.status, 200);
    drop(body);
    assert_eq!(server.get("bob", "/v1/events?wait=0").await.status, 200);
    let (_body, first) = begin(&server, stream("bob", "")).await;
    assert!(first.contains("event: ready"), "{first}");
}

#[tokio::test]
async fn an_address_has_so_many_streams_and_polls_of_all_its_users() {
    let server = Server::with(Setup {
        limits: LimitsOptions {
            connections_per_address: 1,
            ..limits()
        },
        ..Setup::default()
    });
    let from = |address: &'static str, mut request: Request<Body>| {
        request
            .headers_mut()
            .insert("x-forwarded-for", address.parse().unwrap());
        request
    };
    let (body, _) = begin(&server, from("192.0.2.1", stream("bob", ""))).await;
    let (_, last) = begin(&server, from("192.0.2.1", stream("carol", ""))).await;
    assert_eq!(last, TOO_MANY);
    let poll = || get("carol", "/v1/events?wait=0");
    assert_eq!(
        server.call(from("192.0.2.1", poll())).await.code(),
        "too_many_connections"
    );
    assert_eq!(server.call(from("192.0.2.2", poll())).await.status, 200);
    drop(body);
    assert_eq!(server.call(from("192.0.2.1", poll())).await.status, 200);
}

#[tokio::test]
async fn a_poll_gives_what_is_there() {
    let server = Server::new();
    for text in ["a", "b", "c"] {
        server.send("alice", "bob", text).await;
    }
    let page = server.get("bob", "/v1/events?after=0&wait=0").await;
    assert_eq!(
        (numbers(&page.body), &page.body["cursor"]),
        (vec![1, 2, 3], &json!("test:3"))
    );
    assert_eq!(
        (&page.body["head"], &page.body["more"]),
        (&json!(3), &json!(false))
    );
    let chain: Vec<_> = page.body["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["prev"])
        .collect();
    assert_eq!(chain, ["test:0", "test:1", "test:2"]);

    let first = server.get("bob", "/v1/events?after=0&wait=0&limit=2").await;
    assert_eq!(
        (numbers(&first.body), &first.body["more"]),
        (vec![1, 2], &json!(true))
    );
    let next = format!(
        "/v1/events?wait=0&after={}",
        first.body["cursor"].as_str().unwrap()
    );
    assert_eq!(numbers(&server.get("bob", &next).await.body), [3]);
    assert_eq!(
        numbers(&server.get("carol", "/v1/events?after=0&wait=0").await.body),
        [0; 0]
    );
}

#[tokio::test]
async fn each_spelling_of_last_event_id_in_the_query_is_taken_and_the_header_wins_over_it() {
    let server = Server::new();
    for text in ["a", "b", "c"] {
        server.send("alice", "bob", text).await;
    }
    for name in ["last_event_id", "lastEventId", "last-event-id", "Last-Event-ID"] {
        let path = format!("/v1/events?wait=0&{name}=test:1");
        assert_eq!(numbers(&server.get("bob", &path).await.body), [2, 3], "{name}");
        let mut request = get("bob", &path);
        request
            .headers_mut()
            .insert("last-event-id", "test:2".parse().unwrap());
        let page = server.call(request).await;
        assert_eq!(numbers(&page.body), [3], "{name}");
    }
    let same = "/v1/events?wait=0&after=test:1&lastEventId=test:1";
    assert_eq!(numbers(&server.get("bob", same).await.body), [2, 3]);
    let other = server
        .get("bob", "/v1/events?wait=0&after=0&lastEventId=test:1")
        .await;
    assert_eq!(other.status, 400);
    assert_eq!(other.body["errors"][0]["parameter"], "lastEventId");
}

#[tokio::test(start_paused = true)]
async fn a_poll_waits_for_the_first_event_and_no_longer_than_asked() {
    let server = Server::new();
    let begun = Instant::now();
    let empty = server.get("bob", "/v1/events?wait=7").await;
    assert_eq!((numbers(&empty.body), begun.elapsed().as_secs()), (vec![], 7));

    let begun = Instant::now();
    let (page, ()) = tokio::join!(server.get("bob", "/v1/events?after=test:0"), async {
        tokio::time::advance(Duration::from_secs(3)).await;
        server.send("alice", "bob", "hi").await;
    });
    assert_eq!((numbers(&page.body), begun.elapsed().as_secs()), (vec![1], 3));
}

#[tokio::test(start_paused = true)]
async fn what_a_poll_skips_is_no_hole_in_its_chain() {
    let server = Server::with(Setup {
        heartbeat: Duration::from_secs(1),
        ..Setup::default()
    });
    let (page, ()) = tokio::join!(server.get("bob", "/v1/events?after=test:0"), async {
        server.send("alice", "carol", "not bob's").await;
        // Long enough for a heartbeat.
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        server.send("alice", "bob", "hi").await;
    });
    assert_eq!(page.body["events"][0]["prev"], "test:0");
    assert_eq!(page.body["cursor"], "test:2");
    let quiet = server.get("carol", "/v1/events?after=test:1&wait=3").await;
    assert_eq!(
        (numbers(&quiet.body), &quiet.body["cursor"]),
        (vec![], &json!("test:2"))
    );
}

#[tokio::test]
async fn a_lost_cursor_ends_a_poll_with_410() {
    let server = Server::new();
    server.send("alice", "bob", "a").await;
    let answer = server.get("bob", "/v1/events?after=other:7").await;
    assert_eq!((answer.status.as_u16(), answer.code()), (410, "cursor_reset"));
    let fields = ["cursor", "reason", "oldest"].map(|name| answer.body[name].clone());
    assert_eq!(fields, [json!("test:1"), json!("other_epoch"), json!(1)]);
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused() {
    let server = Server::new();
    for (query, code, parameter) in [
        ("?after=x", "cursor_invalid", "after"),
        ("?after=test:-1", "cursor_invalid", "after"),
        ("?wait=61", "parameter_invalid", "wait"),
        ("?wait=x", "parameter_invalid", "wait"),
        ("?limit=0", "parameter_invalid", "limit"),
    ] {
        let answer = server.get("bob", &format!("/v1/events{query}")).await;
        assert_eq!(
            (answer.code(), &answer.body["errors"][0]["parameter"]),
            (code, &json!(parameter)),
            "{query}"
        );
    }
    let mut request = stream("bob", "");
    request
        .headers_mut()
        .insert("last-event-id", "nonsense".parse().unwrap());
    let answer = server.call(request).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["errors"][0]["header"]),
        (400, &json!("Last-Event-ID"))
    );
    let mut request = stream("bob", "?after=nonsense");
    request
        .headers_mut()
        .insert("last-event-id", "0".parse().unwrap());
    assert_eq!(server.call(request).await.code(), "cursor_invalid");
    let mut request = stream("bob", "");
    request
        .headers_mut()
        .insert("accept", "text/html".parse().unwrap());
    assert_eq!(server.call(request).await.status, 406);
}

#[tokio::test]
async fn a_token_without_end_does_not_end_the_timer() {
    let user_id = chat_domain::ids::UserId::parse("alice").unwrap();
    assert!(
        Caller {
            user_id: user_id.clone(),
            expires_at: u64::MAX,
            ends_at: u64::MAX,
            scopes: Default::default(),
        }
        .expires_in()
            > Duration::from_secs(3600)
    );
    assert_eq!(
        Caller {
            user_id,
            expires_at: 0,
            ends_at: 0,
            scopes: Default::default(),
        }
        .expires_in(),
        Duration::ZERO
    );
}
