//! Websockets, which are accepted here so that what goes through them is counted ([`Counted`]): those that begin a
//! session, and the step from polling up to one, which waits for a sign that the websocket carries anything.
//!
//! The crate engineioxide begins the step at the moment at which it accepts the websocket: from then on polls are
//! given nothing, and a session whose step is not completed in time is ended. Behind a proxy that accepts a websocket
//! and swallows what goes through it a client would be given nothing for ever, come back again and again, and poll
//! hundreds of times a second. So the crate sees such a websocket once the client's probe has come. Where none comes, the websocket is closed and the session goes on polling, as with every other server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{
        Extensions, HeaderValue, Method, StatusCode, Uri,
        header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
    },
    response::{IntoResponse, Response},
};
use bytes::{Buf, BytesMut};
use engineioxide::service::EngineIoService;
use hyper::{service::Service, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Sockets,
    flow::{Counted, Flow},
};

/// How long the client's first frame may take.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

type Stream = Counted<TokioIo<Upgraded>>;

/// Accepts the websocket, if the request is to begin a session with one. What else it may be the transport answers.
pub(super) fn begin(
    engine: &EngineIoService<Sockets>,
    request: &mut Request,
    flow: &Flow,
) -> Option<Response> {
    let mut parameters = request.uri().query().unwrap_or_default().split('&');
    if request.method() != Method::GET || !parameters.any(|parameter| parameter == "EIO=4") {
        return None;
    }
    let engine = engine.clone();
    let mut begun = axum::http::Request::new(());
    *begun.uri_mut() = request.uri().clone();
    *begun.headers_mut() = request.headers().clone();
    accept(request, flow, |extensions| {
        *begun.extensions_mut() = extensions;
        move |stream| async move {
            // It refuses only what is refused above.
            let _ = engine.call((stream, begun)).await;
        }
    })
}

/// Accepts the websocket, if the request is to step up to one.
pub(super) fn step_up(
    engine: &EngineIoService<Sockets>,
    request: &mut Request,
    flow: &Flow,
) -> Option<Response> {
    let (engine, uri) = (engine.clone(), request.uri().clone());
    accept(request, flow, |_| move |stream| go_on(engine, uri, stream))
}

fn accept<S, F>(request: &mut Request, flow: &Flow, serve: impl FnOnce(Extensions) -> S) -> Option<Response>
where
    S: FnOnce(Stream) -> F + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let mut parameters = request.uri().query().unwrap_or_default().split('&');
    if !parameters.any(|parameter| parameter == "transport=websocket") {
        return None;
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY)?;
    let accepted = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
    let upgrade = hyper::upgrade::on(&mut *request);
    let serve = serve(std::mem::take(request.extensions_mut()));
    let flow = flow.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            serve(Counted::new(TokioIo::new(upgraded), flow)).await;
        }
    });
    let headers = [
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (SEC_WEBSOCKET_ACCEPT, accepted),
    ];
    Some((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

async fn go_on<S>(engine: EngineIoService<Sockets>, uri: Uri, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut begin = BytesMut::with_capacity(64);
    let Ok(Ok(1..)) = timeout(PROBE_LIMIT, stream.read_buf(&mut begin)).await else {
        return;
    };
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
