//! A client of the socket.io door that is small enough to be run by the thousand: engine.io 4 and socket.io 5 by
//! hand, over a websocket or over polling. It answers pings while it is read from, and does nothing else by itself.
//! It never upgrades, and never comes back.

use std::{collections::VecDeque, fmt, pin::Pin, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::{SinkExt, StreamExt};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message},
};

const PATH: &str = "/socket.io/?EIO=4&transport=";

/// Between two packets in one body of polling.
const SEPARATOR: char = '\u{1e}';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Websocket,
    Polling,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    Connected(Value),
    /// CONNECT_ERROR.
    Refused(Value),
    /// Where `data` has a placeholder, the attachment stands beside it.
    Event {
        name: String,
        data: Value,
        attachments: Vec<Vec<u8>>,
    },
    Ack {
        id: u64,
        data: Value,
        attachments: Vec<Vec<u8>>,
    },
    Disconnected,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Of the handshake; 200 where that went well and the CONNECT was refused; 0 where nothing was said.
    pub status: u16,
    /// The problem, or what CONNECT_ERROR holds.
    pub body: Value,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status, self.body)
    }
}

/// A connection. Dropped, it is cut, and a poll that waits is aborted.
pub struct SocketIo {
    wire: Wire,
    /// What engine.io's open packet says.
    pub open: Value,
    /// What the answer to CONNECT says.
    pub connected: Value,
    received: VecDeque<Frame>,
    /// A packet that waits for its attachments.
    partial: Option<(usize, Incoming)>,
    /// Read while an ack was waited for.
    put_off: VecDeque<Incoming>,
    next_id: u64,
}

enum Wire {
    Websocket(Box<WebSocketStream<TcpStream>>),
    Polling(Polling),
}

struct Polling {
    http: reqwest::Client,
    /// With the session.
    url: String,
    poll: Option<Pin<Box<dyn Future<Output = Option<String>> + Send>>>,
}

#[derive(Debug)]
enum Frame {
    Text(String),
    Binary(Vec<u8>),
}

impl SocketIo {
    /// Opens, connects with a token from a cursor or from now, and waits until the server has taken it.
    pub async fn connect(
        transport: Transport,
        url: &str,
        token: &str,
        after: Option<&str>,
    ) -> Result<SocketIo, Refusal> {
        let mut socket = SocketIo::open(transport, url).await?;
        socket.log_in(token, after).await?;
        Ok(socket)
    }

    /// Does engine.io's handshake and no more.
    pub async fn open(transport: Transport, url: &str) -> Result<SocketIo, Refusal> {
        match transport {
            Transport::Websocket => {
                let stream = TcpStream::connect(host(url)).await.map_err(nothing)?;
                SocketIo::open_over(stream, url).await
            }
            Transport::Polling => {
                let http = reqwest::Client::builder().no_proxy().build();
                SocketIo::open_polling(http.expect("a plain HTTP client"), url).await
            }
        }
    }

    /// A websocket over a connection that was made before.
    pub async fn open_over(stream: TcpStream, url: &str) -> Result<SocketIo, Refusal> {
        let request = format!("ws://{}{PATH}websocket", host(url));
        let (socket, _) = client_async(request, stream).await.map_err(|error| match error {
            tungstenite::Error::Http(answer) => Refusal {
                status: answer.status().as_u16(),
                body: answer.body().as_deref().map_or(Value::Null, json_of),
            },
            error => nothing(error),
        })?;
        SocketIo::opened(Wire::Websocket(Box::new(socket))).await
    }

    /// Polling by a client of HTTP that others may use too.
    pub async fn open_polling(http: reqwest::Client, url: &str) -> Result<SocketIo, Refusal> {
        let polling = Polling {
            http,
            url: format!("{url}{PATH}polling"),
            poll: None,
        };
        let answer = polling.http.get(&polling.url).send().await.map_err(nothing)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(nothing)?;
        if status != StatusCode::OK {
            return Err(Refusal {
                status: status.as_u16(),
                body: json_of(&body),
            });
        }
        let mut socket = SocketIo::new(Wire::Polling(polling));
        socket.take_body(&String::from_utf8_lossy(&body));
        socket.read_open().await
    }

    async fn opened(wire: Wire) -> Result<SocketIo, Refusal> {
        SocketIo::new(wire).read_open().await
    }

    fn new(wire: Wire) -> SocketIo {
        SocketIo {
            wire,
            open: Value::Null,
            connected: Value::Null,
            received: VecDeque::new(),
            partial: None,
            put_off: VecDeque::new(),
            next_id: 0,
        }
    }

    async fn read_open(mut self) -> Result<SocketIo, Refusal> {
        let first = self
            .frame()
            .await
            .ok_or_else(|| nothing("it closed before it opened"))?;
        let Frame::Text(text) = first else {
            panic!("binary before the open packet")
        };
        let open = text.strip_prefix('0').expect("the first packet is open");
        self.open = serde_json::from_str(open).expect("open holds JSON");
        if let Wire::Polling(polling) = &mut self.wire {
            let sid = self.open["sid"].as_str().expect("open names the session");
            polling.url = format!("{}&sid={sid}", polling.url);
        }
        Ok(self)
    }

    /// CONNECT, until the answer.
    pub async fn log_in(&mut self, token: &str, after: Option<&str>) -> Result<(), Refusal> {
        let mut auth = json!({ "token": token });
        if let Some(after) = after {
            auth["after"] = json!(after);
        }
        if !self.write(&format!("40{auth}")).await {
            return Err(nothing("it closed before CONNECT"));
        }
        loop {
            match self.read().await {
                Some(Incoming::Connected(connected)) => {
                    self.connected = connected;
                    return Ok(());
                }
                Some(Incoming::Refused(body)) => return Err(Refusal { status: 200, body }),
                Some(other) => self.put_off.push_back(other),
                None => return Err(nothing("it closed after CONNECT")),
            }
        }
    }

    /// What the server says next; `None` where the connection is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        if let Some(incoming) = self.put_off.pop_front() {
            return Some(incoming);
        }
        self.read().await
    }

    /// The next event's name and argument. Panics where there is none within `limit`, or anything else comes.
    pub async fn event(&mut self, limit: Duration) -> (String, Value) {
        let next = timeout(limit, self.next()).await;
        match next.unwrap_or_else(|_| panic!("no event within {limit:?}")) {
            Some(Incoming::Event { name, data, .. }) => (name, data),
            other => panic!("not an event: {other:?}"),
        }
    }

    /// The argument of the next event with this name; others before it are skipped.
    pub async fn named(&mut self, name: &str, limit: Duration) -> Value {
        loop {
            let (found, data) = self.event(limit).await;
            if found == name {
                return data;
            }
        }
    }

    /// Emits and asks for an ack; gives the ack's number. `None` where the connection is gone.
    pub async fn emit(&mut self, name: &str, argument: &Value) -> Option<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let packet = format!("42{id}{}", json!([name, argument]));
        self.write(&packet).await.then_some(id)
    }

    /// Emits and waits for the ack; what else comes meanwhile is kept for [`next`](Self::next). `None` where the
    /// connection is gone, and nobody knows whether it was done.
    pub async fn ask(&mut self, name: &str, argument: &Value) -> Option<Value> {
        let asked = self.emit(name, argument).await?;
        loop {
            match self.read().await? {
                Incoming::Ack { id, data, .. } if id == asked => return Some(data),
                other => self.put_off.push_back(other),
            }
        }
    }

    /// Writes one packet of engine.io, whatever it is. Whether the server took it.
    pub async fn write(&mut self, packet: &str) -> bool {
        match &mut self.wire {
            Wire::Websocket(socket) => socket.send(Message::text(packet)).await.is_ok(),
            Wire::Polling(polling) => {
                let posting = polling.posting(packet.to_string());
                posting.await
            }
        }
    }

    /// Aborts the poll that waits; the next read begins another one.
    pub fn abort_poll(&mut self) {
        if let Wire::Polling(polling) = &mut self.wire {
            polling.poll = None;
        }
    }

    async fn read(&mut self) -> Option<Incoming> {
        loop {
            let incoming = match self.frame().await? {
                Frame::Binary(bytes) => {
                    let (missing, packet) = self.partial.as_mut().expect("an attachment follows its packet");
                    *missing -= 1;
                    match packet {
                        Incoming::Event { attachments, .. } | Incoming::Ack { attachments, .. } => {
                            attachments.push(bytes);
                        }
                        other => panic!("an attachment of {other:?}"),
                    }
                    if *missing > 0 {
                        continue;
                    }
                    self.partial.take().map(|(_, packet)| packet)
                }
                Frame::Text(text) => match text.split_at_checked(1) {
                    Some(("2", _)) => {
                        self.pong().await;
                        None
                    }
                    Some(("4", packet)) => match parse(packet) {
                        (0, packet) => Some(packet),
                        partial => {
                            self.partial = Some(partial);
                            None
                        }
                    },
                    Some(("6", _)) => None,
                    Some(("1", _)) => return None,
                    _ => panic!("not a packet of engine.io: {text}"),
                },
            };
            if incoming.is_some() {
                return incoming;
            }
        }
    }

    async fn pong(&mut self) {
        match &mut self.wire {
            Wire::Websocket(socket) => {
                // Where it fails, the next read says so.
                let _ = socket.send(Message::text("3")).await;
            }
            // Whoever waits for the next packet may go away at any moment; the pong is not to go with him.
            Wire::Polling(polling) => drop(tokio::spawn(polling.posting("3".into()))),
        }
    }

    /// The next packet of engine.io, or `None` at the end.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.received.pop_front() {
                return Some(frame);
            }
            match &mut self.wire {
                Wire::Websocket(socket) => match socket.next().await?.ok()? {
                    Message::Text(text) => return Some(Frame::Text(text.to_string())),
                    Message::Binary(bytes) => return Some(Frame::Binary(bytes.to_vec())),
                    Message::Close(_) => return None,
                    _ => {}
                },
                Wire::Polling(polling) => {
                    let body = polling.poll().await?;
                    self.take_body(&body);
                }
            }
        }
    }

    fn take_body(&mut self, body: &str) {
        let packets = body.split(SEPARATOR).filter(|packet| !packet.is_empty());
        let frames = packets.map(|packet| match packet.strip_prefix('b') {
            Some(base64) => Frame::Binary(unbase64(base64)),
            None => Frame::Text(packet.to_string()),
        });
        self.received.extend(frames);
    }
}

impl Polling {
    /// One poll; one that was begun and not waited for is gone on with.
    async fn poll(&mut self) -> Option<String> {
        let poll = self.poll.get_or_insert_with(|| {
            let request = self.http.get(&self.url);
            Box::pin(async move {
                // A test that fails shows why its connection ended.
                let ended = |error: reqwest::Error| eprintln!("a poll ended: {error:?}");
                let answer = request.send().await.map_err(ended).ok()?;
                if answer.status() != StatusCode::OK {
                    eprintln!("a poll was answered with {}", answer.status());
                    return None;
                }
                answer.text().await.map_err(ended).ok()
            })
        });
        let body = poll.await;
        self.poll = None;
        body
    }

    /// Borrows nothing, so that it goes on whatever becomes of the connection.
    fn posting(&self, body: String) -> impl Future<Output = bool> + use<> {
        let request = self.http.post(&self.url).header(CONTENT_TYPE, "text/plain");
        let request = request.body(body);
        async { request.send().await.is_ok_and(|answer| answer.status() == 200) }
    }
}

impl fmt::Debug for SocketIo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SocketIo")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// How many attachments follow, and the packet: `TYPE[COUNT-][NAMESPACE,][ACK]JSON`. Another namespace than `/` is
/// passed over: nothing but a refusal comes from one.
fn parse(packet: &str) -> (usize, Incoming) {
    let (kind, rest) = packet
        .split_at_checked(1)
        .expect("a packet of socket.io has a type");
    let (count, rest) = match kind {
        "5" | "6" => rest
            .split_once('-')
            .expect("a binary packet says how many attachments it has"),
        _ => ("0", rest),
    };
    let rest = match rest.split_once(',') {
        Some((namespace, rest)) if namespace.starts_with('/') => rest,
        _ => rest,
    };
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (id, json) = rest.split_at(digits);
    let value = || serde_json::from_str::<Value>(json).unwrap_or_else(|error| panic!("{packet}: {error}"));
    let first = |values: &Value, at: usize| {
        assert_eq!(
            values.as_array().map(Vec::len),
            Some(at + 1),
            "one argument: {packet}"
        );
        values[at].clone()
    };
    let incoming = match kind {
        "0" => Incoming::Connected(value()),
        "1" => Incoming::Disconnected,
        "2" | "5" => {
            let values = value();
            Incoming::Event {
                name: values[0].as_str().expect("an event has a name").to_string(),
                data: first(&values, 1),
                attachments: Vec::new(),
            }
        }
        "3" | "6" => Incoming::Ack {
            id: id.parse().expect("an ack has a number"),
            data: first(&value(), 0),
            attachments: Vec::new(),
        },
        "4" => Incoming::Refused(value()),
        _ => panic!("not a packet of socket.io: {packet}"),
    };
    (count.parse().expect("a count"), incoming)
}

/// Puts the bytes of a message in place, in base64 as the doors without attachments carry them.
pub fn put_back(message: &mut Value, attachments: &[Vec<u8>]) {
    let Some(data) = message.get_mut("data") else {
        return;
    };
    let bytes = data["num"]
        .as_u64()
        .and_then(|at| attachments.get(usize::try_from(at).ok()?));
    if let Some(bytes) = bytes {
        *data = json!(STANDARD.encode(bytes));
    }
}

fn host(url: &str) -> &str {
    url.strip_prefix("http://").expect("the server speaks plain HTTP")
}

fn nothing(error: impl fmt::Display) -> Refusal {
    Refusal {
        status: 0,
        body: json!(error.to_string()),
    }
}

fn json_of(bytes: impl AsRef<[u8]>) -> Value {
    let bytes = bytes.as_ref();
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

fn unbase64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).expect("an attachment is base64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_read() {
        let event = |data: Value| Incoming::Event {
            name: "event".into(),
            data,
            attachments: Vec::new(),
        };
        assert_eq!(parse(r#"2["event",{"a":1}]"#), (0, event(json!({"a": 1}))));
        assert_eq!(
            parse(r#"52-["event",{"a":{"_placeholder":true,"num":0}}]"#),
            (2, event(json!({"a": {"_placeholder": true, "num": 0}})))
        );
        let ack = Incoming::Ack {
            id: 17,
            data: json!({"result": {}}),
            attachments: Vec::new(),
        };
        assert_eq!(parse(r#"317[{"result":{}}]"#), (0, ack));
        assert_eq!(
            parse(r#"0{"sid":"x"}"#),
            (0, Incoming::Connected(json!({"sid": "x"})))
        );
        assert_eq!(
            parse(r#"4{"message":"token_invalid"}"#),
            (0, Incoming::Refused(json!({"message": "token_invalid"})))
        );
    }
}
