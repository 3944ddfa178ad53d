//! Bytes on the wire for a message of 100 bytes, on each door, as TCP carries them: received by a client to whom it is
//! sent, one message at a time, and sent by one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use chat_tests::{
    Kind, Server,
    socketio::{SocketIo, Transport},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::Setting;
use crate::{
    stream::Stream,
    target::{SETTINGS, token},
};

const CONTENT: usize = 100;
const MESSAGES: usize = 100;
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let database = chat_tests::Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &SETTINGS).await;
    let sender = server.client("sender");
    for door in ["websocket", "polling", "SSE", "long-poll"] {
        let wire = Wire::before(server.port()).await?;
        let receiver = tokio::spawn(receive(door, wire.port));
        // It has begun, and says nothing more.
        sleep(Duration::from_secs(1)).await;
        let before = wire.counts();
        for n in 0..MESSAGES {
            let (text, key) = ("x".repeat(CONTENT), format!("{door}-{n}"));
            let sent = sender.send("receiver", &text, Some(&key)).await;
            sent.map_err(|problem| anyhow::anyhow!("a send was refused: {problem:?}"))?;
            sleep(PAUSE).await;
        }
        receiver.await??;
        let (down, up) = wire.counts();
        let each = |bytes: u64| bytes as f64 / MESSAGES as f64;
        let report = &mut setting.report;
        report.figure(
            "wire",
            door,
            "received for a message",
            "bytes",
            each(down - before.0),
        );
        report.figure("wire", door, "sent for a message", "bytes", each(up - before.1));
    }
    for door in ["send by websocket, with the echo", "send by REST"] {
        let wire = Wire::before(server.port()).await?;
        let (begun, ended) = send(door, wire.port, &wire).await?;
        let each = |bytes: u64| bytes as f64 / MESSAGES as f64;
        let report = &mut setting.report;
        report.figure("wire", door, "sent", "bytes", each(ended.1 - begun.1));
        report.figure(
            "wire",
            door,
            "received, with the echo",
            "bytes",
            each(ended.0 - begun.0),
        );
    }
    Ok(())
}

/// Reads all messages through a door.
async fn receive(door: &'static str, port: u16) -> anyhow::Result<()> {
    let (url, token) = (format!("http://127.0.0.1:{port}"), token("receiver"));
    match door {
        "SSE" => {
            let mut stream = Stream::open(port, &token, None).await?;
            stream.count(b"\"_id\":", MESSAGES).await
        }
        "long-poll" => {
            let http = reqwest::Client::builder().no_proxy().build()?;
            let (mut after, mut left) = (None::<String>, MESSAGES);
            while left > 0 {
                let mut request = http
                    .get(format!("{url}/v1/events"))
                    .bearer_auth(&token)
                    .query(&[("wait", "30")]);
                if let Some(after) = &after {
                    request = request.query(&[("after", after)]);
                }
                let page: Value = request.send().await?.error_for_status()?.json().await?;
                left -= page["events"].as_array().context("a page has events")?.len();
                after = page["cursor"].as_str().map(ToOwned::to_owned);
            }
            Ok(())
        }
        _ => {
            let transport = match door {
                "polling" => Transport::Polling,
                _ => Transport::Websocket,
            };
            let connecting = SocketIo::connect(transport, &url, &token, None).await;
            let mut socket = connecting.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
            for _ in 0..MESSAGES {
                socket.named("event", Duration::from_secs(30)).await;
            }
            Ok(())
        }
    }
}

/// Sends all messages through a door; what had been carried before and after.
async fn send(door: &str, port: u16, wire: &Wire) -> anyhow::Result<((u64, u64), (u64, u64))> {
    let (url, token) = (format!("http://127.0.0.1:{port}"), token("writer"));
    let message =
        |n: usize| json!({"receiver_id": "receiver", "text": "x".repeat(CONTENT), "key": n.to_string()});
    if door == "send by REST" {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let begun = wire.counts();
        for n in 0..MESSAGES {
            let mut message = message(n);
            message.as_object_mut().and_then(|fields| fields.remove("key"));
            let request = http
                .post(format!("{url}/v1/messages"))
                .bearer_auth(&token)
                .header("Idempotency-Key", format!("rest-{n}"));
            request.json(&message).send().await?.error_for_status()?;
        }
        return Ok((begun, wire.counts()));
    }
    let connecting = SocketIo::connect(Transport::Websocket, &url, &token, None).await;
    let mut socket = connecting.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    socket.named("ready", Duration::from_secs(10)).await;
    let begun = wire.counts();
    for n in 0..MESSAGES {
        let ack = socket
            .ask("send", &message(n))
            .await
            .context("the server closed")?;
        anyhow::ensure!(ack.get("result").is_some(), "a send was refused: {ack}");
    }
    for _ in 0..MESSAGES {
        socket.named("event", Duration::from_secs(10)).await;
    }
    Ok((begun, wire.counts()))
}

/// A port before a server's, which counts what it carries.
struct Wire {
    port: u16,
    down: Arc<AtomicU64>,
    up: Arc<AtomicU64>,
}

impl Wire {
    async fn before(server: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let wire = Self {
            port: listener.local_addr()?.port(),
            down: Arc::default(),
            up: Arc::default(),
        };
        let (down, up) = (wire.down.clone(), wire.up.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await?;
                let server = TcpStream::connect(("127.0.0.1", server)).await?;
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, up.clone()));
                tokio::spawn(carry(from_server, to_client, down.clone()));
            }
            #[expect(unreachable_code, reason = "it says what the block's errors are")]
            anyhow::Ok(())
        });
        Ok(wire)
    }

    /// Bytes to the client, and from it.
    fn counts(&self) -> (u64, u64) {
        (self.down.load(Ordering::Relaxed), self.up.load(Ordering::Relaxed))
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    count: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}
