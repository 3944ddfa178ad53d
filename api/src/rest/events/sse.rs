//! Server-Sent Events, written by hand: a stream of bytes, one chunk for each delivery. hyper gathers what is there
//! and writes it at once; what a reader that has stopped holds is one chunk here and hyper's write buffer.

use std::{convert::Infallible, fmt::Write, net::IpAddr, pin::Pin};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use chat_domain::{cursor::After, ports};
use futures_util::stream;
use tokio::time::{Sleep, sleep};

use crate::{
    auth::Caller,
    door::Door,
    limits::{Connection, Holder},
    metrics,
    problem::Code,
    realtime::{
        hub::Refused,
        subscription::{Delivery, Subscription},
        written::{EVENT, Written, closing, expiring},
    },
    state::AppState,
    wire::Binary,
};

/// Milliseconds after which a client that has lost its stream comes back.
const RETRY: u32 = 2000;

/// nginx buffers answers unless told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn stream(
    app: AppState,
    address: IpAddr,
    holder: Holder,
    caller: Caller,
    reader: ports::Reader,
    after: After,
) -> Response {
    let connection = match app.limits.connect_user(Door::Sse, address, &caller.user_id) {
        Ok(connection) => connection,
        Err(problem) => return refusal(problem.code),
    };
    let expiry = Box::pin(sleep(caller.expires_in()));
    let warning = Some(Box::pin(sleep(caller.warned_in())));
    let source = match app.hub.subscribe(reader, after).await {
        Ok(subscription) => Source::Live {
            subscription: Box::new(subscription),
            warning,
            expiry,
            _connection: connection,
        },
        Err(Refused(code)) => return refusal(code),
    };
    let reader = Reader {
        app,
        holder,
        caller,
        source,
        begun: false,
    };
    answer(Body::from_stream(stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(reader.count(chunk)), reader))
    })))
}

/// A stream that ends at once: any status but 200 would end an `EventSource` for good.
pub(super) fn refusal(code: Code) -> Response {
    answer(Body::from(retry(RETRY) + &last_words(code)))
}

fn last_words(code: Code) -> String {
    metrics::rejected(code, Door::Sse);
    let retry_after = code.retry_after().unwrap_or(1);
    let mut last = String::new();
    come_again(&mut last, retry_after);
    frame(&mut last, &closing(code.as_str(), retry_after));
    last
}

fn answer(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_ACCEL_BUFFERING, "no"),
    ];
    (headers, body).into_response()
}

struct Reader {
    app: AppState,
    holder: Holder,
    caller: Caller,
    source: Source,
    begun: bool,
}

enum Source {
    Live {
        subscription: Box<Subscription>,
        /// Until it has said that the token expires.
        warning: Option<Pin<Box<Sleep>>>,
        expiry: Pin<Box<Sleep>>,
        _connection: Connection,
    },
    Ended,
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        let Source::Live {
            subscription,
            warning,
            expiry,
            ..
        } = &mut self.source
        else {
            return None;
        };
        let begun = self.begun;
        let warned = async {
            match warning {
                Some(warning) if begun => warning.await,
                _ => std::future::pending().await,
            }
        };
        let delivery = tokio::select! {
            delivery = subscription.next() => delivery,
            () = warned => {
                *warning = None;
                let mut chunk = String::new();
                frame(&mut chunk, &expiring(&self.caller));
                return Some(chunk);
            }
            () = expiry => Delivery::Closing { code: "token_expired", retry_after: 0 },
        };
        let mut chunk = if self.begun { String::new() } else { retry(RETRY) };
        self.begun = true;
        if let Delivery::Closing { code, retry_after } = delivery {
            metrics::rejected(Code::of_closing(code), Door::Sse);
            come_again(&mut chunk, retry_after);
            self.source = Source::Ended;
        }
        if matches!(delivery, Delivery::Event { .. }) {
            metrics::delivered(Door::Sse, 1);
        }
        let heartbeat_s = self.app.heartbeat.as_secs();
        let written = delivery.write(&self.caller.user_id, heartbeat_s, &mut Binary::Base64);
        frame(&mut chunk, &written);
        Some(chunk)
    }

    /// What goes out next, counted until it is written. Where there is no room for it, the stream ends instead: its
    /// reader comes back, and goes on from the event before.
    fn count(&mut self, chunk: String) -> Bytes {
        match self.app.limits.answer(&self.holder, chunk.len()) {
            Ok(room) => room.around(chunk.into()),
            Err(problem) => {
                self.source = Source::Ended;
                Bytes::from(last_words(problem.code))
            }
        }
    }
}

fn retry(milliseconds: u32) -> String {
    format!("retry: {milliseconds}\n\n")
}

/// Of a stream that ends: the reader goes on from where it was, and not before this.
fn come_again(chunk: &mut String, retry_after: u32) {
    if retry_after > 0 {
        chunk.push_str(&retry(retry_after.saturating_mul(1000)));
    }
}

/// What is in the log has no name. JSON has no line breaks outside of its strings, and escapes those inside: one
/// `data:` line holds it.
fn frame(chunk: &mut String, written: &Written) {
    if written.name != EVENT {
        let _ = writeln!(chunk, "event: {}", written.name);
    }
    if let Some(cursor) = &written.cursor {
        let _ = writeln!(chunk, "id: {cursor}");
    }
    let _ = write!(chunk, "data: {}\n\n", written.json);
}
