//! A socket.io session at its edges: slow readers, readers that are gone, commands by the thousand, a chain that is
//! begun anew, and what comes before and after the session proper.

use std::time::Duration;

use chat_tests::{
    Database, Kind, Server, eventually,
    logs::{Fill, fill},
    socketio::{Incoming, SocketIo, Transport},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{interval, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const LIMIT: Duration = Duration::from_secs(60);

/// The database goes with its folder when it is dropped.
async fn start(settings: &[(&str, &str)]) -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, settings).await;
    (database, server)
}

async fn connect(server: &Server, user: &str, after: Option<&str>) -> SocketIo {
    SocketIo::connect(Transport::Websocket, &server.url(), &server.token(user), after)
        .await
        .unwrap_or_else(|refusal| panic!("{refusal}"))
}

/// A connection whose reader takes little at a time.
async fn narrow(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    let address: std::net::SocketAddr = ([127, 0, 0, 1], server.port()).into();
    socket.connect(&address.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    TcpStream::from_std(socket.into()).unwrap()
}

/// A long log for bob, and a server on it whose pings come every second.
async fn with_backlog(ping_timeout_s: &str) -> (Database, Server) {
    let database = Database::fresh(Kind::Sqlite).await;
    let settings = [
        ("CHAT_PING_INTERVAL_S", "1"),
        ("CHAT_PING_TIMEOUT_S", ping_timeout_s),
    ];
    let mut server = Server::start(&database, &settings).await;
    server.stop().await;
    let backlog = Fill {
        messages: 20_000,
        from: "alice",
        to: "bob",
        others: 10,
        other: "other",
        bytes: 100,
    };
    fill(&database, &backlog).await;
    server.restart().await;
    (database, server)
}

/// A websocket that is bob's and goes on from the beginning of the log.
async fn reader(server: &Server) -> WebSocketStream<TcpStream> {
    let url = format!(
        "ws://127.0.0.1:{}/socket.io/?EIO=4&transport=websocket",
        server.port()
    );
    let (mut socket, _) = client_async(url, narrow(server).await).await.unwrap();
    let auth = json!({"token": server.token("bob"), "after": "0"});
    socket.send(Message::text(format!("40{auth}"))).await.unwrap();
    socket
}

/// Reads 250 packets a second, which is far behind, until so many pings have come, for as long as there are packets. Gives
/// how many events came, how many pings, and whether the connection is still there.
async fn read_slowly(
    socket: &mut WebSocketStream<TcpStream>,
    answers: bool,
    enough: usize,
) -> (usize, usize, bool) {
    let (mut events, mut pings) = (0, 0);
    let mut pace = interval(Duration::from_millis(4));
    while pings < enough {
        pace.tick().await;
        match timeout(LIMIT, socket.next()).await.expect("silence") {
            Some(Ok(Message::Text(text))) if text.as_str() == "2" => {
                pings += 1;
                if answers && socket.send(Message::text("3")).await.is_err() {
                    return (events, pings, false);
                }
            }
            Some(Ok(Message::Text(text))) if text.starts_with("42[\"event\"") => events += 1,
            Some(Ok(Message::Text(_))) => {}
            _ => return (events, pings, false),
        }
    }
    (events, pings, true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_far_behind_and_answers_pings_stays() {
    // What is on the way to it holds up the pings and their answers for seconds, and for longer on a busy machine.
    let (_database, server) = with_backlog("60").await;
    let mut socket = reader(&server).await;
    // The next ping comes only when the last one was answered.
    let (events, pings, there) = read_slowly(&mut socket, true, 3).await;
    assert!(there, "it was thrown out after {events} events and {pings} pings");
    assert!(pings > 2 && events < 5000, "{events} events, {pings} pings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_reads_and_does_not_answer_pings_is_ended_although_there_is_always_more_to_send() {
    let (_database, server) = with_backlog("2").await;
    let mut socket = reader(&server).await;
    let ended = timeout(LIMIT, read_slowly(&mut socket, false, usize::MAX)).await;
    let (events, _, there) = ended.expect("it is still sent to");
    assert!(!there, "it is still there after {events} events");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_past_the_queue_are_refused_in_their_turn_and_a_flood_ends_the_connection() {
    const COMMANDS: u64 = 7000;
    let (_database, server) = start(&[]).await;
    let mut socket = SocketIo::open_over(narrow(&server).await, &server.url())
        .await
        .unwrap();
    socket.log_in(&server.token("alice"), None).await.unwrap();
    // Nothing is read meanwhile: the answers fill what there is to be filled, and then the queue does.
    for _ in 0..COMMANDS {
        socket.emit("nothing", &json!({})).await.expect("it is there");
    }
    let mut codes = Vec::new();
    while (codes.len() as u64) < COMMANDS {
        match timeout(LIMIT, socket.next()).await.unwrap().expect("it is there") {
            Incoming::Ack { id, data, .. } => {
                assert_eq!(id, codes.len() as u64, "each is answered, in its turn");
                codes.push(data["problem"]["code"].as_str().unwrap().to_owned());
            }
            Incoming::Event { name, .. } => assert!(["ready", "heartbeat"].contains(&name.as_str())),
            other => panic!("{other:?}"),
        }
    }
    let refused = codes.iter().filter(|code| *code == "overloaded").count();
    let unknown = codes.iter().filter(|code| *code == "event_unknown").count();
    assert!(refused > 0 && unknown > 4000, "{refused} and {unknown}");
    assert_eq!(refused + unknown, codes.len());

    let mut flooding = SocketIo::open_over(narrow(&server).await, &server.url())
        .await
        .unwrap();
    flooding.log_in(&server.token("alice"), None).await.unwrap();
    let mut sent = 0;
    while flooding.emit("nothing", &json!({})).await.is_some() {
        sent += 1;
        // More than there is room for on the way to a server that has much else to do.
        assert!(sent < 1_000_000, "it may go on for ever");
    }
    // Nobody else was disturbed.
    let answer = socket.ask("conversations", &json!({})).await.unwrap();
    assert_eq!(answer["result"]["conversations"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resumes_that_come_together_begin_one_chain_and_nothing_of_the_old_one_follows_their_answer() {
    const RESUMES: usize = 20;
    let (_database, server) = start(&[]).await;
    let (alice, bob) = (server.client("alice"), "bob");
    for n in 0..50 {
        alice.send(bob, &format!("{n}"), None).await.unwrap();
    }
    let mut socket = connect(&server, bob, Some("0")).await;
    let first = socket.named("ready", LIMIT).await;
    let resume = json!({"after": first["cursor"]});
    let mut last = 0;
    for _ in 0..RESUMES {
        last = socket.emit("resume", &resume).await.unwrap();
    }
    alice.send(bob, "last", None).await.unwrap();
    let (mut answered, mut readies) = (0, 0);
    let mut chain = first["cursor"].clone();
    let mut texts = Vec::new();
    while texts.last() != Some(&json!("last")) || answered < RESUMES {
        match timeout(LIMIT, socket.next()).await.unwrap().expect("it is there") {
            Incoming::Ack { id, data, .. } => {
                assert_eq!(data, json!({"result": {}}));
                answered += 1;
                if id == last {
                    let (name, ready) = socket.event(LIMIT).await;
                    assert_eq!((name.as_str(), &ready["cursor"]), ("ready", &first["cursor"]));
                    readies += 1;
                    chain = ready["cursor"].clone();
                    texts.clear();
                }
            }
            Incoming::Event { name, data, .. } if name == "ready" => {
                readies += 1;
                chain = data["cursor"].clone();
                texts.clear();
            }
            Incoming::Event { data, .. } => {
                assert_eq!(data["prev"], chain);
                chain = data["cursor"].clone();
                texts.push(data["message"]["text"].clone());
            }
            other => panic!("{other:?}"),
        }
    }
    let all: Vec<Value> = (0..50)
        .map(|n| json!(n.to_string()))
        .chain([json!("last")])
        .collect();
    assert_eq!(texts, all);
    assert!(readies < RESUMES, "{readies} chains for {RESUMES} resumes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_is_somebodys_a_connection_gets_nothing_and_ends_soon() {
    let (_database, server) = start(&[]).await;
    let url = server.url();
    for transport in [Transport::Websocket, Transport::Polling] {
        let mut socket = SocketIo::open(transport, &url).await.unwrap();
        // A command of nobody's, and a namespace that is not served.
        assert!(socket.write(r#"420["conversations",{}]"#).await);
        assert!(socket.write("40/rooms,{}").await);
        let refused = json!({"message": "Invalid namespace"});
        assert_eq!(socket.next().await, Some(Incoming::Refused(refused)));
        // A refused token may be followed by a good one.
        let refusal = socket.log_in("x", None).await.unwrap_err();
        assert_eq!(refusal.body["message"], "token_invalid");
        assert_eq!(refusal.body["data"]["code"], "token_invalid");
        let refusal = socket.log_in(&server.token("bob"), Some("?")).await.unwrap_err();
        assert_eq!(refusal.body["message"], "cursor_invalid");
        socket.log_in(&server.token("bob"), None).await.unwrap();
        assert!(socket.write("40{}").await, "a second CONNECT changes nothing");
        assert_eq!(socket.event(LIMIT).await.0, "ready");
        let answer = socket.ask("conversations", &json!({})).await.unwrap();
        assert_eq!(answer["result"]["conversations"], json!([]));
    }
    let mut silent = SocketIo::open(Transport::Websocket, &url).await.unwrap();
    let end = timeout(LIMIT, silent.next()).await;
    assert_eq!(end.expect("a connection that says nothing is ended"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_sockets_and_a_place_is_given_back_with_each() {
    let (_database, server) = start(&[("CHAT_CONNECTIONS_PER_USER", "1")]).await;
    let mut first = connect(&server, "bob", None).await;
    assert_eq!(first.event(LIMIT).await.0, "ready");
    let mut second = connect(&server, "bob", None).await;
    let (name, closing) = second.event(LIMIT).await;
    assert_eq!(name, "closing");
    assert_eq!(closing, json!({"code": "too_many_connections", "retry_after": 5}));
    assert_eq!(timeout(LIMIT, second.next()).await.unwrap(), None);
    let _other = connect(&server, "alice", None).await.named("ready", LIMIT).await;
    // The client's own farewell, over a transport that stays for a while.
    assert!(first.write("41").await);
    eventually("the place is free", LIMIT, || async {
        connect(&server, "bob", None).await.event(LIMIT).await.0 == "ready"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_pings_and_never_polls_is_ended() {
    let (_database, server) = start(&[("CHAT_STALL_TIMEOUT_S", "2"), ("CHAT_HEARTBEAT_S", "1")]).await;
    let mut socket = SocketIo::connect(Transport::Polling, &server.url(), &server.token("bob"), None)
        .await
        .unwrap_or_else(|refusal| panic!("{refusal}"));
    socket.abort_poll();
    let alice = server.client("alice");
    // More than is kept for somebody who does not fetch it.
    for _ in 0..50 {
        alice.send("bob", &"x".repeat(4000), None).await.unwrap();
    }
    let mut pace = interval(Duration::from_millis(200));
    let gone = async {
        while socket.write("3").await {
            pace.tick().await;
        }
    };
    timeout(LIMIT, gone).await.expect("it is still there");
}

/// A quoted input is escaped twice: this one's would be fourteen times as long, and kept for as long as nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_short_whatever_it_is_about() {
    const SHORT: usize = 2048;
    let (_database, server) = start(&[]).await;
    let odd = "\u{7f}".repeat(100_000);
    let mut socket = SocketIo::open(Transport::Websocket, &server.url()).await.unwrap();
    // Before it is known who connects, a message has 32 KiB.
    let less = &odd[..30_000];
    for auth in [json!(less), json!({"token": less}), json!({"token": [less]})] {
        assert!(socket.write(&format!("40{auth}")).await);
        let Some(Incoming::Refused(refused)) = timeout(LIMIT, socket.next()).await.unwrap() else {
            panic!("it is not refused");
        };
        assert!(refused.to_string().len() < SHORT, "{refused}");
    }
    socket.log_in(&server.token("alice"), None).await.unwrap();
    for (command, payload) in [
        ("send", json!(odd)),
        ("send", json!({"receiver_id": odd, "text": "x"})),
        ("receipt", json!({"type": odd, "up_to": 1})),
        (odd.as_str(), json!({})),
    ] {
        let refused = timeout(LIMIT, socket.ask(command, &payload))
            .await
            .unwrap()
            .unwrap();
        assert!(
            refused["problem"].is_object() && refused.to_string().len() < SHORT,
            "{refused}"
        );
    }
    // The name of a namespace is given back.
    let mut other = SocketIo::open(Transport::Websocket, &server.url()).await.unwrap();
    assert!(other.write("40/other,").await);
    assert!(matches!(
        timeout(LIMIT, other.next()).await.unwrap(),
        Some(Incoming::Refused(_))
    ));
    assert!(other.write(&format!("40/{odd},")).await);
    assert_eq!(timeout(LIMIT, other.next()).await.unwrap(), None, "it is closed");
}
