use std::net::SocketAddr;

use axum::{
    body::Body,
    extract::ConnectInfo,
    routing::{get, post},
};
use futures_util::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    limits::{Limits, LimitsOptions},
    testing,
};

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    left: tokio::task::JoinHandle<usize>,
}

async fn start(limit: Duration) -> Running {
    start_with(limit, 100).await
}

async fn start_with(limit: Duration, places: usize) -> Running {
    run(limit, self::places(places), bounds()).await
}

fn places(most: usize) -> Places {
    let full = Router::new().fallback(|| async { ([("connection", "close")], "full") });
    Places::new(most, full)
}

fn bounds() -> Bounds {
    Bounds {
        stall: Duration::from_secs(30),
        keep_alive: KEEP_ALIVE,
        keep_alive_of_proxies: KEEP_ALIVE_OF_PROXIES,
        unread: UNREAD,
    }
}

async fn run(limit: Duration, places: Places, bounds: Bounds) -> Running {
    let shutdown = Shutdown {
        stop: CancellationToken::new(),
        streams: CancellationToken::new(),
        limit,
    };
    let streams = shutdown.streams.clone();
    let router = Router::new()
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
        )
        // Gives a word, and ends when the hub would end it.
        .route(
            "/polite",
            get(|| async move { endless(async move { streams.cancelled().await }) }),
        )
        .route("/stubborn", get(|| async { endless(std::future::pending()) }))
        .route("/echo", post(|body: String| async { body }))
        .route("/refuse", post(|| async { StatusCode::UNAUTHORIZED }))
        .route("/late", post(|| async { StatusCode::REQUEST_TIMEOUT }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let left = tokio::spawn(serve(listener, router, places, bounds, shutdown.clone()));
    Running {
        address,
        shutdown,
        left,
    }
}

fn endless(end: impl Future<Output = ()> + Send + 'static) -> Body {
    Body::from_stream(stream::unfold(
        (Some("word"), Box::pin(end)),
        |(word, mut end)| async move {
            match word {
                Some(word) => Some((Ok::<_, std::convert::Infallible>(word), (None, end))),
                None => {
                    end.as_mut().await;
                    None
                }
            }
        },
    ))
}

async fn ask(address: SocketAddr, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let read = timeout(Duration::from_secs(60), stream.read_u8())
            .await
            .expect("nothing came");
        text.push(read.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&text))));
    }
    String::from_utf8(text).unwrap()
}

/// Bytes of a body that are read though nobody needs them.
const UNREAD: usize = 1 << 20;

fn manners() -> Manners {
    Manners {
        keep_alive: KEEP_ALIVE,
        rest: Rest {
            bytes: UNREAD,
            time: REST_TIME,
        },
        seat: None,
        unread: Arc::default(),
    }
}

const GET_POLITE: &str = "GET /polite HTTP/1.1\r\nHost: x\r\n\r\n";
const GET_STUBBORN: &str = "GET /stubborn HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test]
async fn handlers_see_the_peer_and_connections_are_kept() {
    let server = start(Duration::from_secs(60)).await;
    let mut stream = ask(server.address, "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_to(&mut stream, "127.0.0.1").await;
    stream
        .write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    read_to(&mut stream, "127.0.0.1").await;
}

#[tokio::test]
async fn a_stop_lets_streams_end_and_requests_finish() {
    let server = start(Duration::from_secs(60)).await;
    let mut polite = ask(server.address, GET_POLITE).await;
    read_to(&mut polite, "word\r\n").await;
    let mut slow = ask(
        server.address,
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab",
    )
    .await;
    let mut idle = ask(server.address, "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_to(&mut idle, "127.0.0.1").await;

    server.shutdown.stop.cancel();
    read_to(&mut polite, "0\r\n\r\n").await;
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    slow.write_all(b"cd").await.unwrap();
    read_to(&mut slow, "abcd").await;
    assert_eq!(server.left.await.unwrap(), 0);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn who_finds_no_place_is_told_so_and_a_place_that_is_given_back_is_the_next_ones() {
    const GET_PEER: &str = "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n";
    const TURNS: u32 = 20;
    let server = start_with(Duration::from_secs(60), 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = ask(server.address, GET_POLITE).await;
        read_to(&mut stream, "word\r\n").await;
        held.push(stream);
    }
    for _ in 0..3 {
        let mut refused = ask(server.address, GET_PEER).await;
        let answer = read_to(&mut refused, "full").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0, "and ended");
    }
    // Many times as many as may be refused at a time, and those say nothing: nobody waits for their time to be over.
    let mut silent = Vec::new();
    for _ in 0..TURNS as usize * REFUSALS {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let mut behind = ask(server.address, GET_PEER).await;
    // On a busy machine that is seconds; one turn of silence after the other would be twice as long as this.
    timeout(REFUSAL_TIME * TURNS / 2, read_to(&mut behind, "full"))
        .await
        .expect("whoever asks is answered at once");
    held.pop();
    let served = async {
        loop {
            let mut stream = ask(server.address, GET_PEER).await;
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).await.unwrap();
            if answer[..length].ends_with(b"127.0.0.1") {
                return;
            }
        }
    };
    timeout(Duration::from_secs(60), served)
        .await
        .expect("a place is free");
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_limit() {
    let server = start(Duration::from_millis(50)).await;
    let mut stubborn = ask(server.address, GET_STUBBORN).await;
    read_to(&mut stubborn, "word\r\n").await;
    server.shutdown.stop.cancel();
    assert_eq!(server.left.await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed() {
    // In memory: the clock that stands still moves on its own while a socket of the machine is waited for.
    let (mut client, server) = tokio::io::duplex(64);
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let begun = tokio::time::Instant::now();
    client.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    connection(server, peer, Router::new(), manners(), CancellationToken::new()).await;
    assert_eq!(begun.elapsed(), FIRST_HEAD);

    let (mut client, server) = tokio::io::duplex(4096);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let begun = tokio::time::Instant::now();
    connection(server, peer, Router::new(), manners(), CancellationToken::new()).await;
    assert_eq!(begun.elapsed(), KEEP_ALIVE);
}

#[tokio::test]
async fn a_trusted_proxy_keeps_its_connections_for_longer_than_others_do() {
    for (trusted, keeps) in [("127.0.0.0/8", true), ("", false)] {
        let limits = Limits::new(LimitsOptions {
            trusted_proxies: trusted.parse().unwrap(),
            ..testing::limits()
        });
        let bounds = Bounds {
            keep_alive: Duration::from_millis(100),
            ..bounds()
        };
        let places = places(10).limit_addresses(10, limits);
        let server = run(Duration::from_secs(60), places, bounds).await;
        let mut stream = ask(server.address, "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_to(&mut stream, "127.0.0.1").await;
        if keeps {
            let ended = timeout(Duration::from_secs(1), stream.read_u8()).await;
            assert!(ended.is_err(), "{ended:?}");
        } else {
            let ended = timeout(Duration::from_secs(60), stream.read(&mut [0])).await;
            assert_eq!(ended.unwrap().unwrap(), 0);
        }
    }
    // As long as the load balancers of clouds, which cannot be told otherwise, and longer.
    assert!(KEEP_ALIVE_OF_PROXIES > Duration::from_secs(600) && KEEP_ALIVE > Duration::from_secs(60));
}

fn post_to(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_refusal_reads_the_body_that_nobody_needs_and_the_connection_goes_on() {
    let server = start(Duration::from_secs(60)).await;
    let mut stream = ask(server.address, &post_to("/refuse", UNREAD)).await;
    for _ in 0..3 {
        stream.write_all(&vec![b'x'; UNREAD]).await.unwrap();
        let answer = read_to(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(!answer.contains("connection:"), "{answer}");
        stream
            .write_all(post_to("/refuse", UNREAD).as_bytes())
            .await
            .unwrap();
    }
    // In chunks too, whose length nobody knows.
    let chunk = format!("{:x}\r\n{}\r\n", 1000, "x".repeat(1000));
    let head = "POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = ask(server.address, head).await;
    stream.write_all(chunk.repeat(100).as_bytes()).await.unwrap();
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = read_to(&mut stream, "\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 401") && !answer.contains("connection:"),
        "{answer}"
    );
    stream
        .write_all(b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    read_to(&mut stream, "127.0.0.1").await;
}

#[tokio::test]
async fn where_the_body_is_not_read_the_answer_says_that_the_connection_ends_and_is_not_lost() {
    let server = start(Duration::from_secs(60)).await;
    let chunked = "POST /refuse HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, "x".repeat(64 << 10));
    for (head, body) in [
        // It says that it is larger.
        (post_to("/refuse", 4 * UNREAD), vec![b'x'; 4 * UNREAD]),
        // It is, and says nothing.
        (chunked.to_owned(), chunk.repeat(64).into_bytes()),
        // It was waited for already.
        (post_to("/late", 1000), vec![b'x'; 1000]),
    ] {
        let mut stream = ask(server.address, &head).await;
        // All of it is sent before the answer is looked for, as most clients do.
        stream.write_all(&body).await.expect("it is taken");
        let answer = read_to(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "an end, and no reset");
    }
    // Whoever waits for leave to send is told at once, and not asked to.
    let head = post_to("/refuse", 1000).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n");
    let mut stream = ask(server.address, &head).await;
    let answer = read_to(&mut stream, "\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_that_never_comes_is_not_waited_for_without_end_and_its_connection_makes_room() {
    let server = start_with(Duration::from_secs(60), 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(ask(server.address, &post_to("/refuse", 1000)).await);
    }
    let mut other = ask(server.address, "GET /peer HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_to(&mut other, "127.0.0.1").await;
    let mut cut = held.remove(0);
    assert_eq!(cut.read(&mut [0]).await.unwrap_or(0), 0, "it made room");
    let answer = read_to(&mut held[0], "\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"),
        "{answer}"
    );
}
