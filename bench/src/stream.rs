//! A stream of Server-Sent Events as it is on the wire, for counting what comes without taking it apart.

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An open stream. Dropped, it is cut.
pub(crate) struct Stream {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// The end of what was read before, in which the beginning of what is looked for may be.
    rest: Vec<u8>,
}

impl Stream {
    /// Opens the stream of a user, from a cursor or from now, and reads until it has begun.
    pub(crate) async fn open(port: u16, token: &str, after: Option<&str>) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let after = after
            .map(|after| format!("Last-Event-ID: {after}\r\n"))
            .unwrap_or_default();
        let request = format!(
            "GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\
             Authorization: Bearer {token}\r\n{after}\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut stream = Self {
            socket,
            buffer: vec![0; 64 << 10],
            rest: Vec::new(),
        };
        let mut head = Vec::new();
        while !contains(&head, b"event: ready") && !contains(&head, b"event:ready") {
            let read = stream.socket.read(&mut stream.buffer).await?;
            ensure!(
                read > 0 && head.len() < 8192,
                "no stream: {}",
                String::from_utf8_lossy(&head)
            );
            head.extend_from_slice(&stream.buffer[..read]);
        }
        ensure!(
            head.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        stream.rest = head;
        Ok(stream)
    }

    /// Reads until this many more of `what` have come.
    pub(crate) async fn count(&mut self, what: &[u8], wanted: usize) -> anyhow::Result<()> {
        let mut found = 0;
        loop {
            let keep = last_start(&self.rest, what);
            found += occurrences(&self.rest, what);
            self.rest.drain(..keep);
            if found >= wanted {
                return Ok(());
            }
            let read = self.socket.read(&mut self.buffer).await?;
            (read > 0).then_some(()).context("the stream ended")?;
            self.rest.extend_from_slice(&self.buffer[..read]);
        }
    }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

fn occurrences(text: &[u8], what: &[u8]) -> usize {
    text.windows(what.len()).filter(|window| *window == what).count()
}

/// From where on `what` may begin that has not come whole.
fn last_start(text: &[u8], what: &[u8]) -> usize {
    text.len().saturating_sub(what.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_in_two_is_counted_once() {
        let (one, two) = (&b"data:{}\n\nda"[..], &b"ta:{}\n\n"[..]);
        assert_eq!(occurrences(one, b"data:"), 1);
        let mut rest = one[last_start(one, b"data:")..].to_vec();
        rest.extend_from_slice(two);
        assert_eq!(occurrences(&rest, b"data:"), 1);
    }
}
