//! engine.io 4, case by case, from its published description: the handshake, payloads, heartbeats, closing and the
//! step up to a websocket. What of it does not apply is listed in `docs/protocols.md`.

use std::time::{Duration, Instant};

use chat_tests::{Database, Kind, Server, eventually, free_port, metrics::metric};
use futures_util::{SinkExt, StreamExt, future::join_all};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

const LIMIT: Duration = Duration::from_secs(20);

/// Short, so that a case does not wait for long.
const SETTINGS: [(&str, &str); 2] = [("CHAT_PING_INTERVAL_S", "1"), ("CHAT_PING_TIMEOUT_S", "1")];

type Websocket = WebSocketStream<TcpStream>;

struct Engine {
    _database: Database,
    server: Server,
    http: Client,
}

impl Engine {
    async fn start() -> Engine {
        Engine::with(&SETTINGS).await
    }

    async fn with(settings: &[(&str, &str)]) -> Engine {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, settings).await;
        Engine {
            _database: database,
            server,
            http: Client::builder().no_proxy().build().unwrap(),
        }
    }

    async fn ask(&self, method: Method, query: &str, body: &str) -> (StatusCode, String) {
        let url = format!("{}/socket.io/?{query}", self.server.url());
        let answer = self.http.request(method, url).body(body.to_owned()).send();
        let answer = timeout(LIMIT, answer).await.unwrap().unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn get(&self, query: &str) -> (StatusCode, String) {
        self.ask(Method::GET, query, "").await
    }

    /// The query of a new session by polling.
    async fn session(&self) -> String {
        let (status, body) = self.get("EIO=4&transport=polling").await;
        assert_eq!(status, StatusCode::OK);
        let open: Value = serde_json::from_str(body.strip_prefix('0').unwrap()).unwrap();
        format!("EIO=4&transport=polling&sid={}", open["sid"].as_str().unwrap())
    }

    async fn websocket(&self, query: &str) -> Result<Websocket, tungstenite::Error> {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port()))
            .await
            .unwrap();
        let url = format!("ws://127.0.0.1:{}/socket.io/?{query}", self.server.port());
        client_async(url, stream).await.map(|(socket, _)| socket)
    }

    /// The status line and the rest of the answer to a head that is written as it is.
    async fn raw(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.server.port()))
            .await
            .unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = timeout(LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    /// A websocket for a session that has none left to give.
    async fn refuses(&self, query: &str) {
        let refused = self.websocket(query).await;
        let Err(tungstenite::Error::Http(answer)) = refused else {
            panic!("{query}: {refused:?}")
        };
        assert_eq!(answer.status(), 400, "{query}");
        let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
        assert_eq!(body, json!({"code": 3, "message": "Bad request"}));
    }

    async fn is_gone(&self, session: &str) {
        assert_eq!(self.get(session).await.0, StatusCode::BAD_REQUEST, "{session}");
    }
}

/// The next text of a websocket, or nothing at its end.
async fn text(socket: &mut Websocket) -> Option<String> {
    loop {
        match timeout(LIMIT, socket.next())
            .await
            .expect("something comes in time")
        {
            Some(Ok(Message::Text(text))) => return Some(text.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            _ => return None,
        }
    }
}

async fn closes(socket: &mut Websocket) {
    while text(socket).await.is_some() {}
}

fn check_open(packet: &str, upgrades: &Value) {
    let open: Value = serde_json::from_str(packet.strip_prefix('0').unwrap()).unwrap();
    assert_eq!(open["sid"].as_str().unwrap().len(), 16, "{open}");
    assert_eq!(open["upgrades"], *upgrades, "{open}");
    assert_eq!(
        (&open["pingInterval"], &open["pingTimeout"]),
        (&json!(1000), &json!(1000)),
        "{open}"
    );
    assert!(open["maxPayload"].as_u64().unwrap() > 0, "{open}");
}

#[tokio::test]
async fn a_handshake_opens_a_session_over_each_transport() {
    let engine = Engine::start().await;
    let (status, body) = engine.get("EIO=4&transport=polling").await;
    assert_eq!(status, StatusCode::OK);
    check_open(&body, &json!(["websocket"]));
    let mut socket = engine.websocket("EIO=4&transport=websocket").await.unwrap();
    check_open(&text(&mut socket).await.unwrap(), &json!([]));
    // Clients add parameters of their own.
    let (status, _) = engine.get("EIO=4&transport=polling&t=abc&b64=1&tenant=7").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_no_handshake_is_refused() {
    let engine = Engine::start().await;
    for query in [
        "",
        "transport=polling",
        "EIO=abc&transport=polling",
        "EIO=3&transport=polling",
        "EIO=4",
        "EIO=4&transport=unknown",
        "EIO=4&transport=polling&sid=",
        "EIO=4&transport=polling&sid=nobody",
        "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(engine.get(query).await.0, StatusCode::BAD_REQUEST, "GET {query}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let (status, _) = engine.ask(method.clone(), "EIO=4&transport=polling", "").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method}");
    }
    for query in [
        "transport=websocket",
        "EIO=3&transport=websocket",
        "EIO=4&transport=unknown",
    ] {
        let refused = engine.websocket(query).await;
        let Err(tungstenite::Error::Http(answer)) = refused else {
            panic!("{query}: {refused:?}")
        };
        assert_eq!(answer.status(), 400, "{query}");
    }
}

/// Before there is a websocket, not by a websocket that says nothing.
#[tokio::test]
async fn a_websocket_for_a_session_that_is_not_there_is_refused_in_the_form_of_engine_io() {
    let engine = Engine::start().await;
    for sid in ["nobody", "AAAAAAAAAAAAAAAA", ""] {
        let refused = engine
            .websocket(&format!("EIO=4&transport=websocket&sid={sid}"))
            .await;
        let Err(tungstenite::Error::Http(answer)) = refused else {
            panic!("{sid}: {refused:?}")
        };
        assert_eq!(answer.status(), 400, "{sid}");
        let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
        assert_eq!(body, json!({"code": 1, "message": "Session ID unknown"}));
    }
}

#[tokio::test]
async fn only_a_handshake_of_websockets_is_answered_with_101() {
    let engine = Engine::start().await;
    let session = engine.session().await;
    let stepping_up = session.replace("transport=polling", "transport=websocket");
    let whole = [
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for query in ["EIO=4&transport=websocket", &stepping_up] {
        let head = |lines: &[&str]| {
            let lines = lines.join("\r\n");
            format!("GET /socket.io/?{query} HTTP/1.1\r\nHost: chat.test\r\n{lines}\r\n\r\n")
        };
        for missing in 0..whole.len() {
            let mut lines = whole.to_vec();
            let missing = lines.remove(missing);
            let answer = engine.raw(&head(&lines)).await;
            assert!(
                answer.starts_with("HTTP/1.1 400"),
                "{query} without {missing}: {answer}"
            );
        }
        let other = ["Upgrade: h2c", whole[1], whole[2], whole[3]];
        let answer = engine.raw(&head(&other)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{query}: {answer}");
        let answer = engine.raw(&head(&whole)).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{query}: {answer}");
    }
}

#[tokio::test]
async fn a_payload_holds_several_packets_and_what_is_no_packet_ends_the_session() {
    let engine = Engine::start().await;
    let session = engine.session().await;
    let token = engine.server.token("alice");
    let packets = [
        format!("40{}", json!({ "token": token })),
        r#"421["conversations",{}]"#.to_owned(),
        r#"422["teleport"]"#.to_owned(),
    ];
    let (status, body) = engine.ask(Method::POST, &session, &packets.join("\u{1e}")).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "ok"));
    let mut got = Vec::new();
    while !got.iter().any(|packet: &String| packet.starts_with("432[")) {
        let (status, body) = engine.get(&session).await;
        assert_eq!(status, StatusCode::OK);
        got.extend(body.split('\u{1e}').map(str::to_owned));
        engine.ask(Method::POST, &session, "3").await;
    }
    assert!(got.iter().any(|packet| packet.starts_with("40{")), "{got:?}");
    assert!(got.iter().any(|packet| packet.starts_with("431[")), "{got:?}");

    for nonsense in ["abc", "9", "4\u{1e}abc"] {
        let session = engine.session().await;
        engine.ask(Method::POST, &session, nonsense).await;
        let gone = async { while engine.get(&session).await.0 == StatusCode::OK {} };
        timeout(LIMIT, gone)
            .await
            .unwrap_or_else(|_| panic!("{nonsense:?} ends nothing"));
    }
    let mut socket = engine.websocket("EIO=4&transport=websocket").await.unwrap();
    socket.send(Message::text("abc")).await.unwrap();
    closes(&mut socket).await;
}

#[tokio::test]
async fn a_session_lives_as_long_as_pings_are_answered() {
    let engine = Engine::start().await;
    let mut socket = engine.websocket("EIO=4&transport=websocket").await.unwrap();
    text(&mut socket).await.unwrap();
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(text(&mut socket).await.as_deref(), Some("2"));
        socket.send(Message::text("3")).await.unwrap();
    }
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "they come every second"
    );
    closes(&mut socket).await;

    let session = engine.session().await;
    let (_, body) = engine.get(&session).await;
    assert_eq!(body, "2");
    let gone = async { while engine.get(&session).await.0 == StatusCode::OK {} };
    timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn a_session_that_is_closed_by_its_client_is_gone() {
    let engine = Engine::start().await;
    let session = engine.session().await;
    let (status, _) = engine.ask(Method::POST, &session, "1").await;
    assert_eq!(status, StatusCode::OK);
    engine.is_gone(&session).await;
    let mut socket = engine.websocket("EIO=4&transport=websocket").await.unwrap();
    text(&mut socket).await.unwrap();
    socket.send(Message::text("1")).await.unwrap();
    closes(&mut socket).await;
}

#[tokio::test]
async fn a_session_steps_up_to_a_websocket_after_a_probe() {
    let engine = Engine::start().await;
    let session = engine.session().await;
    // The first ping.
    engine.get(&session).await;
    engine.ask(Method::POST, &session, "3").await;
    let stepping_up = session.replace("transport=polling", "transport=websocket");
    let mut socket = engine.websocket(&stepping_up).await.unwrap();
    socket.send(Message::text("2probe")).await.unwrap();
    assert_eq!(text(&mut socket).await.as_deref(), Some("3probe"));
    socket.send(Message::text("5")).await.unwrap();
    let token = engine.server.token("alice");
    let connect = format!("40{}", json!({ "token": token }));
    socket.send(Message::text(connect)).await.unwrap();
    loop {
        let packet = text(&mut socket).await.unwrap();
        if packet == "2" {
            socket.send(Message::text("3")).await.unwrap();
        } else if packet.starts_with("40{") {
            break;
        }
    }
    // A session has one websocket, and polls no more.
    assert!(engine.websocket(&stepping_up).await.is_err());
    assert_eq!(engine.get(&session).await.0, StatusCode::BAD_REQUEST);
}

/// Each message comes once and in order, whatever part of them by polling and whatever part by the websocket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_websockets_at_once_a_session_steps_up_to_one_and_keeps_its_messages() {
    const MESSAGES: usize = 80;
    const AT_ONCE: usize = 8;
    let port = free_port();
    let admin = format!("127.0.0.1:{port}");
    let engine = Engine::with(&[("CHAT_ADMIN_LISTEN", &admin), ("CHAT_SENDS_BURST", "1000")]).await;
    let bob = engine.server.client("bob");
    let send = async |numbers: std::ops::Range<usize>| {
        for number in numbers {
            bob.send("alice", &number.to_string(), None).await.unwrap();
        }
    };
    send(0..MESSAGES / 2).await;
    let session = engine.session().await;
    let stepping_up = session.replace("transport=polling", "transport=websocket");
    let connect = json!({"token": engine.server.token("alice"), "after": "0"});
    engine.ask(Method::POST, &session, &format!("40{connect}")).await;
    let polling = async {
        let mut packets: Vec<String> = Vec::new();
        while !packets.iter().any(|packet| packet == "6") {
            let (status, body) = engine.get(&session).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            packets.extend(body.split('\u{1e}').map(str::to_owned));
        }
        packets
    };
    let stepping = async {
        let tried = join_all((0..AT_ONCE).map(|_| engine.websocket(&stepping_up))).await;
        let (mut accepted, refused): (Vec<_>, Vec<_>) = tried.into_iter().partition(Result::is_ok);
        assert_eq!((accepted.len(), refused.len()), (1, AT_ONCE - 1));
        let mut socket = accepted.remove(0).unwrap();
        engine.refuses(&stepping_up).await;
        socket.send(Message::text("2probe")).await.unwrap();
        assert_eq!(text(&mut socket).await.as_deref(), Some("3probe"));
        engine.refuses(&stepping_up).await;
        socket
    };
    let sending = send(MESSAGES / 2..MESSAGES);
    let (mut packets, mut socket, ()) = tokio::join!(polling, stepping, sending);
    socket.send(Message::text("5")).await.unwrap();
    let texts = |packets: &[String]| -> Vec<String> {
        let events = packets.iter().filter_map(|packet| packet.strip_prefix("42"));
        let events = events.map(|json| serde_json::from_str::<Value>(json).unwrap());
        let events = events.filter(|event| event[0] == "event");
        events
            .map(|event| event[1]["message"]["text"].as_str().unwrap().to_owned())
            .collect()
    };
    while texts(&packets).len() < MESSAGES {
        packets.push(text(&mut socket).await.expect("the session goes on"));
    }
    let all: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(texts(&packets), all);
    engine.refuses(&stepping_up).await;
    socket.send(Message::text("1")).await.unwrap();
    closes(&mut socket).await;
    eventually("nothing is left of it", LIMIT, || async {
        metric(port, r#"chat_connections{door="socket_io"}"#).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_websocket_that_ends_before_its_probe_leaves_the_session_polling_and_makes_room_for_another() {
    let engine = Engine::with(&[]).await;
    let session = engine.session().await;
    let stepping_up = session.replace("transport=polling", "transport=websocket");
    let first = engine.websocket(&stepping_up).await.unwrap();
    engine.refuses(&stepping_up).await;
    drop(first);
    let connect = json!({"token": engine.server.token("alice")});
    engine.ask(Method::POST, &session, &format!("40{connect}")).await;
    // The first ping may come alone, before it.
    loop {
        let (status, body) = engine.get(&session).await;
        assert_eq!(status, StatusCode::OK);
        if body.contains("40{") {
            break;
        }
        assert_eq!(body, "2");
    }
    let another = async {
        loop {
            if let Ok(socket) = engine.websocket(&stepping_up).await {
                return socket;
            }
        }
    };
    let mut socket = timeout(LIMIT, another).await.expect("there is room for another");
    socket.send(Message::text("2probe")).await.unwrap();
    assert_eq!(text(&mut socket).await.as_deref(), Some("3probe"));
    socket.send(Message::text("5")).await.unwrap();
    let ask = r#"427["conversations",{}]"#;
    socket.send(Message::text(ask)).await.unwrap();
    while !text(&mut socket)
        .await
        .expect("the session goes on")
        .starts_with("437[")
    {}
}

#[tokio::test]
async fn a_compressed_body_is_refused_and_so_is_a_request_without_one_host() {
    let engine = Engine::start().await;
    let session = engine.session().await;
    let token = engine.server.token("alice");
    for path in [
        format!("/socket.io/?{session}"),
        "/v1/messages".into(),
        "/v1/receipts".into(),
    ] {
        let request = engine.http.post(format!("{}{path}", engine.server.url()));
        let request = request
            .bearer_auth(&token)
            .header("content-type", "application/json");
        let answer = request
            .header("content-encoding", "gzip")
            .body("x")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "media_type_unsupported");
        assert_eq!(problem["errors"][0]["header"], "Content-Encoding");
    }
    for path in ["/v1/messages", "/socket.io/?EIO=4&transport=polling", "/healthz"] {
        for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
            let answer = engine.raw(&format!("GET {path} HTTP/1.1\r\n{hosts}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 400"), "{path} {hosts:?}: {answer}");
            assert!(
                answer.contains(r#""code":"request_invalid""#),
                "{path} {hosts:?}: {answer}"
            );
        }
        let answer = engine.raw(&format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        assert!(!answer.contains("request_invalid"), "{path}: {answer}");
    }
}
