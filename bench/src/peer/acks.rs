//! Acknowledges at once and delivers to nobody: what is left is the cost of the load itself.

use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::{accept_async, tungstenite::Message};

const OPEN: &str =
    r#"0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":100000}"#;

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut socket = accept_async(stream).await?;
    socket.send(Message::text(OPEN)).await?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        if text.starts_with("40") {
            socket.send(Message::text(r#"40{"sid":"x"}"#)).await?;
        } else if let Some((id, _)) = text.strip_prefix("42").and_then(|rest| rest.split_once('[')) {
            let ack = format!(r#"43{id}[{{"result":{{"_id":1}}}}]"#);
            socket.send(Message::text(ack)).await?;
        }
    }
    Ok(())
}
