//! Websockets, which are accepted here so that what goes through them is counted ([`Counted`]): those that begin a
//! session, and the step from polling up to one, which waits for a sign that the websocket carries anything.
//!
//! The crate engineioxide begins the step at the moment at which it accepts the websocket: from then on polls are
//! given nothing, and a session whose step is not completed in time is ended. Behind a proxy that accepts a websocket
//! and swallows what goes through it a client would be given nothing for ever, come back again and again, and poll
//! hundreds of times a second. So the crate sees such a websocket once the client's probe has come. Where none comes,
//! the websocket is closed and the session goes on polling, as with every other server.
//!
//! A session steps up to one websocket at a time. The crate would take several, and whichever of them failed would end
//! the session of the one that did not.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{
        HeaderName, HeaderValue, Method, StatusCode, Uri,
        header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    response::{IntoResponse, Response},
};
use bytes::{Buf, BytesMut};
use engineioxide::{TransportType, service::EngineIoService};
use hyper::{service::Service, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Sockets, Transport,
    flow::{Counted, Flow},
};

/// How long the client's first frame may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

type Stream = Counted<TokioIo<Upgraded>>;

/// What a request that asks for a websocket is answered with (RFC 6455, section 4.2).
pub(super) struct Handshake {
    accept: HeaderValue,
}

pub(super) fn handshake(request: &Request) -> Option<Handshake> {
    let has = |name: HeaderName, wanted: &str| {
        let values = request.headers().get_all(name).into_iter();
        let mut tokens = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        tokens.any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let asked = request.method() == Method::GET
        && has(UPGRADE, "websocket")
        && has(CONNECTION, "upgrade")
        && has(SEC_WEBSOCKET_VERSION, "13");
    let key = request.headers().get(SEC_WEBSOCKET_KEY).filter(|_| asked)?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
    Some(Handshake { accept })
}

/// Begins a session with a websocket.
pub(super) fn begin(
    engine: EngineIoService<Sockets>,
    mut request: Request,
    handshake: Handshake,
    flow: Flow,
) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let begun = Request::from_parts(parts, ());
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let stream: Stream = Counted::new(TokioIo::new(upgraded), flow);
            // It refuses only what is refused before.
            let _ = engine.call((stream, begun)).await;
        }
    });
    handshake.accepted()
}

/// Accepts the websocket that a session by polling is to step up to, unless it has one.
pub(super) fn step_up(
    engine: EngineIoService<Sockets>,
    mut request: Request,
    handshake: Handshake,
    transport: Arc<Transport>,
    flow: Flow,
) -> Option<Response> {
    let only = transport.data.websocket.clone().try_lock_owned().ok()?;
    if transport.transport_type() == TransportType::Websocket {
        return None;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let uri = request.uri().clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let stream: Stream = Counted::new(TokioIo::new(upgraded), flow);
            go_on(engine, transport, uri, stream).await;
        }
        drop(only);
    });
    Some(handshake.accepted())
}

impl Handshake {
    fn accepted(self) -> Response {
        let headers = [
            (UPGRADE, HeaderValue::from_static("websocket")),
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (SEC_WEBSOCKET_ACCEPT, self.accept),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

async fn go_on(engine: EngineIoService<Sockets>, transport: Arc<Transport>, uri: Uri, mut stream: Stream) {
    let mut begin = BytesMut::with_capacity(64);
    let Ok(Ok(1..)) = timeout(PROBE_LIMIT, stream.read_buf(&mut begin)).await else {
        return;
    };
    // The client goes on polling until the probe is answered; once it is, nobody fetches what is kept back.
    if timeout(PROBE_LIMIT, transport.data.payload.whole())
        .await
        .is_err()
    {
        return;
    }
    let ended = CancellationToken::new();
    let probed = Probed {
        begin: begin.freeze(),
        stream,
        _ended: ended.clone().drop_guard(),
    };
    let mut request = axum::http::Request::new(());
    *request.uri_mut() = uri.clone();
    if engine.call((probed, request)).await.is_err() {
        return;
    }
    ended.cancelled().await;
    close_if_polling(&engine, uri).await;
}

/// A websocket that broke in the middle of the step leaves a session that gives its polls nothing. It is ended as a
/// client would end it; of a session that stepped up, or that is gone, that is refused.
async fn close_if_polling(engine: &EngineIoService<Sockets>, uri: Uri) {
    let uri = uri
        .to_string()
        .replace("transport=websocket", "transport=polling");
    if let Ok(close) = Request::post(uri).body(Body::from("1")) {
        let Ok(_) = engine.call(close).await;
    }
}

/// A stream of which the first bytes are read already.
struct Probed<S> {
    begin: Bytes,
    stream: S,
    _ended: DropGuard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Probed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begin.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.begin.len().min(buf.remaining());
        buf.put_slice(&self.begin[..length]);
        self.begin.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Probed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
