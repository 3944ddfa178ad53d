//! Accepts connections and speaks HTTP/1 on them.
//!
//! The loop is our own, because `axum::serve` has no limit on how long a request's head may take, no write that
//! fails when its reader has stopped, and waits for open streams for ever when it stops. What is bounded here, for a
//! connection: the time until its first request, the time between two of them, the time that a write may stand still
//! (websockets too: their transport knows no such limit), and the bytes that are buffered. Connections themselves are
//! bounded by [`Places`], in all and for each address: an idle one makes room for a new one. Beyond the limit a few more
//! are accepted, answered `too_many_connections` in the form that the clients of their door come back from, and closed;
//! when even more come, the oldest of those few is cut, so that a silent crowd is never waited for. When no file is left in
//! spite of that, accepting pauses for a moment.

mod places;
mod stall;
mod unread;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

pub use self::places::{Places, REFUSALS};
use self::{
    places::{Peer, Place, Refusal, Seat},
    stall::StallGuard,
    unread::{Rest, Written, lend},
};
use crate::metrics::{self, Cut};

/// How long a new connection may take for the head of its first request.
const FIRST_HEAD: Duration = Duration::from_secs(10);

/// How long a connection is kept between two requests, unless configured.
pub const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// The same of a trusted proxy. Longer than what proxies keep theirs for, which is ten minutes at some clouds: a node that
/// closes first makes them lose requests.
pub const KEEP_ALIVE_OF_PROXIES: Duration = Duration::from_secs(620);

/// Silence after which a peer is asked whether it is there.
const PROBED_AFTER: Duration = Duration::from_secs(30);

/// How long what was written may stay without acknowledgement. Much more than a write may stand still: Linux counts a
/// reader that takes little at a time, through a small window, as one that takes nothing.
#[cfg(target_os = "linux")]
const GONE_AFTER: Duration = Duration::from_secs(120);

/// Bytes that the kernel takes before it can send them. It would take megabytes, and what is written now, a ping of
/// socket.io's say, would reach a slow reader after all of them, and its answer too late.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 << 10;

/// The most that is buffered of a connection in each direction: heads must fit, and it is what a stream whose reader
/// has stopped holds.
const BUFFER: usize = 32 << 10;

/// How long one that finds no place may take to ask and to be answered.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How long a body may go on after the answer to its request is there, and how long that of one who finds no place.
const REST_TIME: Duration = Duration::from_secs(10);
const REFUSED_REST_TIME: Duration = Duration::from_secs(1);

/// Held as long as a connection is open, whoever has it.
struct Open {
    _tracked: TaskTrackerToken,
    _place: Option<Place>,
}

/// What a connection may take.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// How long a write may stand still.
    pub stall: Duration,
    /// How long a connection may take for the head of its next request, idle or not.
    pub keep_alive: Duration,
    /// The same of a trusted proxy.
    pub keep_alive_of_proxies: Duration,
    /// Bytes of a body that are read after its request was answered without them, so that its sender sees the answer.
    pub unread: usize,
}

/// How the server is stopped.
#[derive(Clone)]
pub struct Shutdown {
    /// Stop accepting; connections end with the request that they are at.
    pub stop: CancellationToken,
    /// Cancelled by the server once it accepts no more: the hub then closes its streams.
    pub streams: CancellationToken,
    /// How long connections may take to end.
    pub limit: Duration,
}

/// Serves until it is told to stop. Returns how many connections had to be cut at the limit.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    places: Places,
    bounds: Bounds,
    shutdown: Shutdown,
) -> usize {
    let connections = TaskTracker::new();
    // A connection that became a websocket is not its task's any more, only its stream is still there.
    let streams = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut refused = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places, &mut refused) => accepted,
            () = shutdown.stop.cancelled() => break,
        };
        let Accepted {
            stream,
            peer,
            whose,
            place,
            refusal,
        } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        prepare(&stream);
        let manners = Manners {
            keep_alive: match whose {
                Peer::Proxy => bounds.keep_alive_of_proxies,
                Peer::Counted(_) | Peer::Anybody => bounds.keep_alive,
            },
            rest: Rest {
                bytes: bounds.unread,
                time: if refusal.is_some() {
                    REFUSED_REST_TIME
                } else {
                    REST_TIME
                },
            },
            seat: place.as_ref().map(Place::seat),
            unread: Arc::default(),
        };
        let open = Open {
            _tracked: streams.token(),
            _place: place,
        };
        let stream = StallGuard::new(stream, bounds.stall, manners.unread.clone(), open);
        let router = if refusal.is_some() {
            places.full.clone()
        } else {
            router.clone()
        };
        let seat = manners.seat.clone();
        let connection = connection(stream, peer, router, manners, shutdown.stop.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            let refused = async {
                match (&refusal, &seat) {
                    (Some(refusal), _) => drop(timeout(REFUSAL_TIME, refusal.cut.cancelled()).await),
                    (None, Some(seat)) => seat.is_cut().await,
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = connection => {}
                () = refused => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    shutdown.streams.cancel();
    connections.close();
    streams.close();
    if timeout(shutdown.limit, streams.wait()).await.is_ok() {
        connections.wait().await;
        return 0;
    }
    let left = streams.len();
    cut.cancel();
    connections.wait().await;
    left
}

struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    whose: Peer,
    place: Option<Place>,
    refusal: Option<Refusal>,
}

/// The next connection, with the place that it has, or has among those that are refused.
async fn accept(
    listener: &TcpListener,
    places: &Places,
    refused: &mut VecDeque<CancellationToken>,
) -> io::Result<Accepted> {
    let (stream, peer) = listener.accept().await?;
    let whose = places.peer(peer);
    let place = places.take(whose).await;
    let refusal = match place {
        Some(_) => None,
        None => places.refuse(refused).await,
    };
    Ok(Accepted {
        stream,
        peer,
        whose,
        place,
        refusal,
    })
}

/// Events are small and each is to leave at once. A peer that is gone without a word is found by what it does not
/// acknowledge: what was written to it, or a probe where nothing is written. All of this fails where the connection is
/// gone already.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let probes = TcpKeepalive::new()
        .with_time(PROBED_AFTER)
        .with_interval(PROBED_AFTER);
    let _ = socket.set_tcp_keepalive(&probes);
    #[cfg(target_os = "linux")]
    let _ = socket
        .set_tcp_user_timeout(Some(GONE_AFTER))
        .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT));
}

/// An error of one connection that was gone before it was accepted is nobody's concern. All others are the
/// machine's, mostly too many open files, and would come again at once.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    ) {
        return;
    }
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a connection cannot be accepted"
    );
    sleep(Duration::from_millis(250)).await;
}

/// How one connection is dealt with.
struct Manners {
    keep_alive: Duration,
    rest: Rest,
    /// None where there is no place for it, or no bound.
    seat: Option<Arc<Seat>>,
    /// Its end has to wait for bytes that are under way.
    unread: Arc<AtomicBool>,
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, manners: Manners, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Arc::new(Notify::new());
    let keep_alive = manners.keep_alive;
    let manners = Arc::new(manners);
    let service = {
        let began = began.clone();
        service_fn(move |mut request: Request<Incoming>| {
            began.notify_one();
            request.extensions_mut().insert(ConnectInfo(peer));
            answer(request, router.clone(), manners.clone())
        })
    };
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(http);

    let mut began = std::pin::pin!(timeout(FIRST_HEAD, began.notified()));
    let (mut waiting, mut stopping) = (true, false);
    let ended = loop {
        tokio::select! {
            ended = http.as_mut() => break ended,
            first = &mut began, if waiting => match first {
                Ok(()) => waiting = false,
                Err(_) => {
                    metrics::cut(Cut::Silent);
                    return tracing::debug!(%peer, "no request came");
                }
            },
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection ended early");
    }
}

/// The answer to a request. The connection is busy until it is written, and idle for as long as it only waits for a body
/// that nobody needs.
async fn answer(
    request: Request<Incoming>,
    router: Router,
    manners: Arc<Manners>,
) -> Result<Response<Written>, Infallible> {
    let begin = async || match &manners.seat {
        None => None,
        Some(seat) => match seat.begin() {
            Some(busy) => Some(busy),
            // It is being cut.
            None => std::future::pending().await,
        },
    };
    let mut busy = begin().await;
    let (request, lender) = lend(request);
    let mut response = router.oneshot(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(busy) = busy.take() {
            busy.keep();
        }
    } else if let Some(lender) = lender {
        drop(busy.take());
        let read = lender.read_rest(response.status(), manners.rest).await;
        busy = begin().await;
        if !read {
            manners.unread.store(true, Ordering::Relaxed);
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
    }
    Ok(response.map(|body| Written { body, _busy: busy }))
}

#[cfg(test)]
mod tests;
