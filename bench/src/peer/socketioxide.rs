//! socketioxide as it comes, with one handler: what a socket costs in memory that does nothing.

use axum::Router;
use socketioxide::{
    SocketIo,
    extract::{AckSender, Data, SocketRef},
};
use tokio::net::TcpListener;

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let (layer, io) = SocketIo::new_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("send", async |Data::<serde_json::Value>(sent), ack: AckSender| {
            // Whoever asked may have gone.
            let _ = ack.send(&sent);
        });
    });
    axum::serve(listener, Router::new().layer(layer)).await?;
    Ok(())
}
