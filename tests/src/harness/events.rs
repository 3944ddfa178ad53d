//! Readers of the stream of events over Server-Sent Events: one that checks the chain of cursors as it reads, and one
//! that has stopped reading.

use std::{fmt, future::ready, net::SocketAddr, time::Duration};

use eventsource_stream::Eventsource;
use futures_util::{Stream, StreamExt};
use reqwest::{RequestBuilder, header::ACCEPT};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::{io::AsyncWriteExt, net::TcpSocket, time::timeout};

use super::client::{Client, Problem, Reply};

/// One frame of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// As an `EventSource` sees it: the last id that came, "" before the first.
    pub id: String,
    /// `message` where the frame has no name, so for each durable event.
    pub event: String,
    pub data: Value,
}

/// An open stream. Dropped, its connection is cut.
pub struct Events {
    frames: std::pin::Pin<Box<dyn Stream<Item = Frame> + Send>>,
    /// The cursor that the next delivery must name as its `prev`.
    chain: Option<String>,
}

impl Events {
    /// Connects from a cursor (`after`), or from now.
    pub async fn connect(url: &str, token: &str, after: Option<&str>) -> Result<Events, Problem> {
        let after = after.map(|after| ("after", after));
        Events::open(Client::new(url, token).get("/v1/events").query(after.as_slice())).await
    }

    /// Connects with a request of the test's own.
    pub async fn open(request: RequestBuilder) -> Result<Events, Problem> {
        let answer = request.header(ACCEPT, "text/event-stream").send().await;
        let answer = answer.map_err(|error| Problem::unreachable(&error))?;
        if answer.status() != 200 {
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let text = answer.text().await.unwrap_or_default();
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            return Err(Problem::from(Reply {
                status,
                headers,
                body,
            }));
        }
        // A connection that breaks ends the stream just as one that closes: the client resumes from its cursor.
        let frames = answer.bytes_stream().eventsource();
        let frames = frames
            .take_while(|frame| ready(frame.is_ok()))
            .filter_map(|frame| ready(frame.ok()))
            .map(|frame| Frame {
                id: frame.id,
                event: frame.event,
                data: serde_json::from_str(&frame.data).unwrap_or(Value::String(frame.data)),
            });
        Ok(Events {
            frames: Box::pin(frames),
            chain: None,
        })
    }

    /// The next frame, or None at the end of the stream. Panics when nothing comes within `limit`, and when the frame
    /// does not follow the one before it.
    pub async fn next(&mut self, limit: Duration) -> Option<Frame> {
        let frame = timeout(limit, self.frames.next()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no frame within {limit:?}"))?;
        self.check(&frame);
        Some(frame)
    }

    /// The next frame whatever it is, for a reader that judges nothing. `None` at the end of the stream. Cancel safe.
    pub async fn frame(&mut self) -> Option<Frame> {
        self.frames.next().await
    }

    /// The next frame with this name; others before it are skipped. Panics when the stream ends first.
    pub async fn named(&mut self, name: &str, limit: Duration) -> Frame {
        let find = async {
            while let Some(frame) = self.frames.next().await {
                self.check(&frame);
                if frame.event == name {
                    return frame;
                }
            }
            panic!("the stream ended before a frame {name}")
        };
        timeout(limit, find)
            .await
            .unwrap_or_else(|_| panic!("no frame {name} within {limit:?}"))
    }

    /// The next durable event.
    pub async fn event(&mut self, limit: Duration) -> Value {
        self.named("message", limit).await.data
    }

    /// The next `count` durable events, all within `limit`.
    pub async fn take(&mut self, count: usize, limit: Duration) -> Vec<Value> {
        let mut events = Vec::with_capacity(count);
        let fill = async {
            while events.len() < count {
                events.push(self.event(limit).await);
            }
        };
        let all = timeout(limit, fill).await.is_ok();
        assert!(all, "{} of {count} events within {limit:?}", events.len());
        events
    }

    /// The cursor to resume from: that of the last delivery.
    pub fn cursor(&self) -> Option<&str> {
        self.chain.as_deref()
    }

    fn check(&mut self, frame: &Frame) {
        let Some(cursor) = frame.data["cursor"].as_str() else {
            return;
        };
        assert_eq!(frame.id, cursor, "the id of a frame is its cursor: {frame:?}");
        if let Some(prev) = frame.data["prev"].as_str() {
            assert_eq!(
                Some(prev),
                self.chain.as_deref(),
                "the chain is broken before {frame:?}"
            );
        }
        self.chain = Some(cursor.to_string());
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Events")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

/// A client that asked for the stream and never reads: what the server writes fills a tiny window and waits.
#[derive(Debug)]
pub struct StalledEvents {
    _connection: tokio::net::TcpStream,
}

impl StalledEvents {
    pub async fn connect(url: &str, token: &str, after: Option<&str>) -> StalledEvents {
        let host = url.strip_prefix("http://").expect("the server speaks plain HTTP");
        let address: SocketAddr = host.parse().expect("the server is at an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        socket.set_nonblocking(true).expect("a socket for tokio");
        let mut connection = TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await
            .expect("the server listens");
        let query = after.map(|after| format!("?after={after}")).unwrap_or_default();
        let request = format!(
            "GET /v1/events{query} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
             accept: text/event-stream\r\n\r\n"
        );
        connection
            .write_all(request.as_bytes())
            .await
            .expect("the server takes the request");
        StalledEvents {
            _connection: connection,
        }
    }
}
