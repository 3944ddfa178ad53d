//! The client that makes the load: socket.io over a websocket, as cheap as it can be. It writes packets that the caller
//! has made, and looks into what comes only as far as it must, so that the machine's time goes to the server.

use std::{future::poll_fn, pin::Pin, task::Poll};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, Utf8Bytes},
};

/// A connection that has logged in. Dropped, it is cut.
pub(crate) struct Connection {
    socket: WebSocketStream<TcpStream>,
}

/// What a packet is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// Of the command with this number, with what was answered.
    Ack(usize, &'a str),
    /// The event of that name, with its argument behind it.
    Event(&'a str),
    Other,
}

impl Connection {
    pub(crate) async fn open(port: u16, auth: &Value) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let url = format!("ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket");
        let (socket, _) = client_async(url, stream).await?;
        let mut connection = Self { socket };
        connection.expect("0").await?;
        connection.write(format!("40{auth}")).await?;
        connection.expect("40").await?;
        Ok(connection)
    }

    /// Waits for a packet that begins so; gives it whole.
    pub(crate) async fn expect(&mut self, start: &str) -> anyhow::Result<Utf8Bytes> {
        loop {
            let text = self.next().await?;
            if text.starts_with("44") {
                bail!("refused: {text}");
            }
            if text.starts_with(start) {
                return Ok(text);
            }
        }
    }

    /// The next packet that is none of engine.io's own. Cancel safe.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Utf8Bytes> {
        loop {
            let message = self.socket.next().await.context("the server closed")??;
            if let Some(text) = self.take(message).await? {
                return Ok(text);
            }
        }
    }

    /// The next packet if it is there already.
    pub(crate) async fn next_now(&mut self) -> anyhow::Result<Option<Utf8Bytes>> {
        loop {
            let ready = poll_fn(|context| match Pin::new(&mut self.socket).poll_next(context) {
                Poll::Ready(message) => Poll::Ready(Some(message)),
                Poll::Pending => Poll::Ready(None),
            });
            let Some(message) = ready.await else {
                return Ok(None);
            };
            let message = message.context("the server closed")??;
            if let Some(text) = self.take(message).await? {
                return Ok(Some(text));
            }
        }
    }

    async fn take(&mut self, message: Message) -> anyhow::Result<Option<Utf8Bytes>> {
        match message {
            Message::Text(text) if text.as_str() == "2" => {
                self.write("3".into()).await?;
                Ok(None)
            }
            Message::Text(text) => Ok(Some(text)),
            Message::Close(_) => bail!("the server closed"),
            _ => Ok(None),
        }
    }

    pub(crate) async fn write(&mut self, packet: String) -> anyhow::Result<()> {
        Ok(self.socket.send(Message::text(packet)).await?)
    }

    /// Puts a packet into the buffer, which [`flush`](Self::flush) sends.
    pub(crate) async fn feed(&mut self, packet: String) -> anyhow::Result<()> {
        Ok(self.socket.feed(Message::text(packet)).await?)
    }

    pub(crate) async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.socket.flush().await?)
    }
}

/// A command that asks for an ack with this number.
pub(crate) fn command(id: usize, receiver: &str, text: &str, key: &str) -> String {
    format!(r#"42{id}["send",{{"receiver_id":"{receiver}","text":"{text}","key":"{key}"}}]"#)
}

pub(crate) fn heard(packet: &str) -> Heard<'_> {
    if let Some(event) = packet.strip_prefix(r#"42["event","#) {
        return Heard::Event(event);
    }
    let ack = packet.strip_prefix("43").and_then(|rest| {
        let end = rest.find('[')?;
        Some(Heard::Ack(rest[..end].parse().ok()?, &rest[end..]))
    });
    ack.unwrap_or(Heard::Other)
}

/// Refuses the ack of a send that was not taken.
pub(crate) fn accepted(answer: &str) -> anyhow::Result<()> {
    ensure!(
        answer.starts_with(r#"[{"result""#),
        "a send was refused: {answer}"
    );
    Ok(())
}

/// The whole number behind `name` in a piece of JSON, the first one.
pub(crate) fn number(json: &str, name: &str) -> Option<u64> {
    let from = json.find(name)? + name.len();
    let rest = &json[from..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The number of the message in an event.
pub(crate) fn message_id(event: &str) -> Option<u64> {
    number(event, r#""_id":"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart() {
        assert_eq!(
            heard(r#"4317[{"result":{}}]"#),
            Heard::Ack(17, r#"[{"result":{}}]"#)
        );
        assert_eq!(
            heard(r#"42["event",{"position":4}]"#),
            Heard::Event(r#"{"position":4}]"#)
        );
        assert_eq!(heard(r#"42["heartbeat",{}]"#), Heard::Other);
        assert_eq!(heard("6"), Heard::Other);
    }

    #[test]
    fn the_number_of_a_message_is_found() {
        assert_eq!(
            message_id(r#"{"message":{"_id":4182,"text":"t=17,3"}}"#),
            Some(4182)
        );
        assert_eq!(number("t=17,3", "t="), Some(17));
        assert_eq!(message_id("{}"), None);
    }
}
