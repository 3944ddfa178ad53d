//! The part of a request's body that nobody has read when the answer is there.
//!
//! Most refusals need only the head. Were the connection closed then, with bytes still to come, the system would reset
//! it, and whoever is sending the body may never see the answer: nginx takes that for a failure of the node, and a
//! client that keeps its connections sends its next request into one that is gone. So a bounded rest is read and
//! dropped before the answer. Where it is longer, or slower, the answer says `Connection: close`, and the connection's
//! end waits a little for the bytes that are under way (see [`super::stall`]).

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Request, StatusCode,
    body::{Frame, Incoming, SizeHint},
    header::EXPECT,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::timeout;

use super::places::Busy;

/// How much is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// A request's body, of which the server keeps a hand on.
pub(super) struct Lent(Arc<Mutex<Owned>>);

struct Owned {
    body: Incoming,
    /// Somebody has asked for it: a client that waits for `100 Continue` sends it then.
    asked: bool,
}

/// The server's hand.
pub(super) struct Lender {
    owned: Arc<Mutex<Owned>>,
    expects_continue: bool,
}

/// The request as handlers get it, and what is left of its body afterwards; nothing where it has none.
pub(super) fn lend(request: Request<Incoming>) -> (Request<Body>, Option<Lender>) {
    if request.body().is_end_stream() {
        return (request.map(Body::new), None);
    }
    let expects_continue = expects_continue(request.headers());
    let (head, body) = request.into_parts();
    let owned = Arc::new(Mutex::new(Owned { body, asked: false }));
    let lender = Lender {
        owned: owned.clone(),
        expects_continue,
    };
    (Request::from_parts(head, Body::new(Lent(owned))), Some(lender))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let expected = headers.get(EXPECT);
    expected.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

impl Lender {
    /// Reads what is left. `false` where the connection cannot go on: there is more, or it does not come.
    pub(super) async fn read_rest(self, status: StatusCode, rest: Rest) -> bool {
        {
            let owned = lock(&self.owned);
            let left = owned.body.size_hint().lower();
            if owned.body.is_end_stream() {
                return true;
            }
            // Whoever waits for leave to send it has sent none of it; whoever took too long is not waited for again.
            if (self.expects_continue && !owned.asked) || status == StatusCode::REQUEST_TIMEOUT {
                return false;
            }
            if left > rest.bytes as u64 {
                return false;
            }
        }
        let mut body = Lent(self.owned);
        let reading = async {
            let mut read = 0;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > rest.bytes {
                    return false;
                }
            }
            true
        };
        timeout(rest.time, reading).await.unwrap_or(false)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut owned = lock(&self.0);
        owned.asked = true;
        Pin::new(&mut owned.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}

fn lock(owned: &Mutex<Owned>) -> MutexGuard<'_, Owned> {
    owned.lock()
}

/// An answer's body. The connection is busy until it is written.
pub(super) struct Written {
    pub(super) body: Body,
    pub(super) _busy: Option<Busy>,
}

impl HttpBody for Written {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
