//! axum's own Server-Sent Events with its keep-alive: what a stream costs in memory that is quiet.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use futures_util::{StreamExt, stream};
use tokio::net::TcpListener;

const SILENCE: Duration = Duration::from_secs(15);

pub(super) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let router = Router::new().route(
        "/v1/events",
        get(async || {
            let first = stream::once(async { Ok::<_, Infallible>(Event::default().event("ready")) });
            Sse::new(first.chain(stream::pending())).keep_alive(KeepAlive::new().interval(SILENCE))
        }),
    );
    axum::serve(listener, router).await?;
    Ok(())
}
