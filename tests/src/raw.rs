//! HTTP byte by byte, for requests that no client library would send.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// A connection that holds little on the way: a small window, and segments so small that the server's side of the
/// kernel buffers little as well.
pub async fn narrow_connection(port: u16) -> TcpStream {
    let connect = async {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(1024)?;
        socket.set_tcp_mss(536)?;
        socket.set_nonblocking(true)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpSocket::from_std_stream(socket.into()).connect(address).await
    };
    connect.await.expect("the server listens")
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct RawReply {
    pub status: u16,
    /// Each line of the head after the first, as it came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl RawReply {
    /// A header's text, or "".
    pub fn header(&self, name: &str) -> &str {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON, or as a string where it is none.
    pub fn json(&self) -> Value {
        let text = || Value::String(String::from_utf8_lossy(&self.body).into_owned());
        serde_json::from_slice(&self.body).unwrap_or_else(|_| text())
    }
}

/// What is done once the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The connection stays open.
    Wait,
    /// Nothing more will come: the server sees the end of what the client sends.
    HalfClose,
}

/// Sends bytes on a connection of its own and reads one answer. `None`: the server closed without one.
///
/// A server that has waited for `patience` for more to come, or has nothing to say yet, is told that nothing will.
pub async fn exchange(port: u16, bytes: &[u8], then: Then, patience: Duration) -> Option<RawReply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("the server listens");
    // A server that refuses may have closed before it has read everything.
    let _ = stream.write_all(bytes).await;
    if then == Then::HalfClose {
        let _ = stream.shutdown().await;
    }
    let mut answer = Answer::default();
    let mut patient = then == Then::Wait;
    loop {
        let mut chunk = [0; 16 << 10];
        let read = if patient {
            match timeout(patience, stream.read(&mut chunk)).await {
                Ok(read) => read,
                Err(_) => {
                    patient = false;
                    let _ = stream.shutdown().await;
                    continue;
                }
            }
        } else {
            timeout(Duration::from_secs(60), stream.read(&mut chunk))
                .await
                .expect("the server ends a connection that was closed on its other side")
        };
        match read {
            Ok(0) | Err(_) => return answer.parse(),
            Ok(length) => {
                answer.bytes.extend_from_slice(&chunk[..length]);
                if answer.is_complete() {
                    return answer.parse();
                }
            }
        }
    }
}

#[derive(Default)]
struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    fn head_length(&self) -> Option<usize> {
        let end = self.bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        Some(end + 4)
    }

    /// With a `content-length` once all of it is there; a stream once it has begun.
    fn is_complete(&self) -> bool {
        let Some(head) = self.head_length() else {
            return false;
        };
        let Some(reply) = self.parse() else { return false };
        match reply.header("content-length").parse::<usize>() {
            Ok(length) => self.bytes.len() >= head + length,
            Err(_) => reply.header("transfer-encoding") == "chunked",
        }
    }

    fn parse(&self) -> Option<RawReply> {
        let head = self.head_length()?;
        let text = String::from_utf8_lossy(&self.bytes[..head]);
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_string(), value.trim().to_string()))
        };
        // What follows is the answer to what the server took for the next request.
        let mut body = self.bytes[head..].to_vec();
        let headers: Vec<_> = lines.filter_map(header).collect();
        let mut reply = RawReply {
            status,
            headers,
            body: Vec::new(),
        };
        body.truncate(reply.header("content-length").parse().unwrap_or(usize::MAX));
        reply.body = body;
        Some(reply)
    }
}
