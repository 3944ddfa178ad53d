//! Accepts connections and speaks HTTP/1 on them.
//!
//! The loop is our own, because `axum::serve` has no limit on how long a request's head may take, no write that
//! fails when its reader has stopped, and waits for open streams for ever when it stops. What is bounded here, for a
//! connection: the time until its first request, the time between two of them, the time that a write may stand still
//! (websockets too: their transport knows no such limit), and the bytes that are buffered. Connections themselves are
//! bounded by [`Places`]: who comes after the last one is taken is accepted all the same, as one of a few, told so in
//! the form that its door's clients come back from, and sent away. Where there are more than those few, the one that has
//! been there longest is cut: whoever asks is answered at once, and a silent crowd is never waited for. Where there is no
//! file left in spite of that, accepting pauses, and goes on.

mod stall;

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::ServiceExt;

use self::stall::StallGuard;
use crate::metrics::{self, Cut};

/// How long a new connection may take for the head of its first request.
const FIRST_HEAD: Duration = Duration::from_secs(10);

/// How long a connection may take for the head of the next one, idle or not. Longer than what proxies keep theirs for
/// (60 seconds and less): closing first would make them lose requests.
const NEXT_HEAD: Duration = Duration::from_secs(75);

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

/// How many connections beyond the limit are answered at a time.
pub const REFUSALS: usize = 32;

/// How long one of them may take to ask and to be answered.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// How many connections there may be, and what those get that come after.
#[derive(Clone)]
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    full: Router,
}

impl Places {
    /// `full` answers whoever finds no place.
    pub fn new(connections: usize, full: Router) -> Self {
        let most = connections.min(Semaphore::MAX_PERMITS);
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            full,
        }
    }

    pub fn most(&self) -> usize {
        self.most
    }

    pub fn taken(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    /// A place among those who are refused; whoever has had one for longest gives his up where there is no other.
    async fn refuse(&self, refused: &mut VecDeque<CancellationToken>) -> Option<Refusal> {
        refused.retain(|cut| !cut.is_cancelled());
        if self.refusals.available_permits() == 0
            && let Some(oldest) = refused.pop_front()
        {
            oldest.cancel();
        }
        let place = self.refusals.clone().acquire_owned().await.ok()?;
        let cut = CancellationToken::new();
        refused.push_back(cut.clone());
        Some(Refusal { _place: place, cut })
    }
}

/// Held as long as a connection is open for which there is no place.
struct Refusal {
    _place: OwnedSemaphorePermit,
    cut: CancellationToken,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

/// Held as long as a connection is open, whoever has it.
struct Open {
    _tracked: TaskTrackerToken,
    _place: Option<OwnedSemaphorePermit>,
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
    /// How long a write may stand still.
    pub stall: Duration,
}

/// Serves until it is told to stop. Returns how many connections had to be cut at the limit.
pub async fn serve(listener: TcpListener, router: Router, places: Places, shutdown: Shutdown) -> usize {
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
        let (stream, peer, place, refusal) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        prepare(&stream);
        let open = Open {
            _tracked: streams.token(),
            _place: place,
        };
        let stream = StallGuard::new(stream, shutdown.stall, open);
        let router = if refusal.is_some() {
            places.full.clone()
        } else {
            router.clone()
        };
        let connection = connection(stream, peer, router, shutdown.stop.clone());
        let cut = cut.clone();
        connections.spawn(async move {
            let refused = async {
                match &refusal {
                    Some(refusal) => drop(timeout(REFUSAL_TIME, refusal.cut.cancelled()).await),
                    None => std::future::pending().await,
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

type Accepted = (
    TcpStream,
    SocketAddr,
    Option<OwnedSemaphorePermit>,
    Option<Refusal>,
);

/// The next connection, with the place that it has, or has among those that are refused.
async fn accept(
    listener: &TcpListener,
    places: &Places,
    refused: &mut VecDeque<CancellationToken>,
) -> io::Result<Accepted> {
    let (stream, peer) = listener.accept().await?;
    Ok(match places.free.clone().try_acquire_owned() {
        Ok(place) => (stream, peer, Some(place), None),
        Err(_) => (stream, peer, None, places.refuse(refused).await),
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

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let began = Arc::new(Notify::new());
    let service = {
        let began = began.clone();
        service_fn(move |mut request: Request<Incoming>| {
            began.notify_one();
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request.map(Body::new))
        })
    };
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_HEAD)
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

#[cfg(test)]
mod tests;
