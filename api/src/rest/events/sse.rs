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
use chat_domain::cursor::After;
use futures_util::stream;
use serde::Serialize;
use tokio::time::{Sleep, sleep};

use crate::{
    auth::Caller,
    limits::{Connection, Door},
    metrics,
    problem::Code,
    realtime::{
        hub::Starting,
        subscription::{Delivery, Subscription},
    },
    state::AppState,
    wire::{Closing, Expiring, Heartbeat, Ready, Reset, event_body, frame},
};

/// Milliseconds after which a client that has lost its stream comes back.
const RETRY: u32 = 2000;

/// nginx buffers answers unless told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn stream(app: AppState, address: IpAddr, caller: Caller, after: After) -> Response {
    let connection = app.limits.connect(Door::Sse, address);
    let connection = connection.and_then(|mut connection| {
        connection.of_user(&caller.user_id)?;
        Ok(connection)
    });
    let connection = match connection {
        Ok(connection) => connection,
        Err(problem) => return refusal(problem.code),
    };
    let expiry = Box::pin(sleep(caller.expires_in()));
    let warning = Some(Box::pin(sleep(caller.warned_in())));
    let source = match app.hub.subscribe(caller.user_id.clone(), after).await {
        Ok(subscription) => Source::Live {
            subscription: Box::new(subscription),
            warning,
            expiry,
            _connection: connection,
        },
        Err(Starting) => return refusal(Code::Starting),
    };
    let reader = Reader {
        caller,
        heartbeat_s: app.heartbeat.as_secs(),
        source,
        begun: false,
    };
    answer(Body::from_stream(stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), reader))
    })))
}

/// A stream that ends at once: any status but 200 would end an `EventSource` for good.
fn refusal(code: Code) -> Response {
    metrics::rejected(code, Door::Sse);
    let mut last = retry(RETRY);
    closing(&mut last, code.as_str(), code.retry_after().unwrap_or(1));
    answer(Body::from(last))
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
    caller: Caller,
    heartbeat_s: u64,
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
                return Some(self.expiring());
            }
            () = expiry => Delivery::Closing { code: "token_expired", retry_after: 0 },
        };
        let mut chunk = if self.begun { String::new() } else { retry(RETRY) };
        self.begun = true;
        match delivery {
            Delivery::Ready { cursor, head } => {
                let (cursor, user_id) = (cursor.to_string(), self.caller.user_id.as_str());
                let ready = Ready {
                    cursor: cursor.clone(),
                    head,
                    user_id,
                    heartbeat_s: self.heartbeat_s,
                };
                named(&mut chunk, "ready", Some(&cursor), &ready);
            }
            Delivery::Reset {
                cursor,
                reason,
                oldest,
            } => {
                let cursor = cursor.to_string();
                let reset = Reset {
                    cursor: cursor.clone(),
                    reason: reason.as_str(),
                    oldest,
                };
                named(&mut chunk, "reset", Some(&cursor), &reset);
            }
            Delivery::Event { cursor, prev, event } => {
                let data = frame(&cursor, &prev, &event_body(&event));
                let _ = write!(chunk, "id: {cursor}\ndata: {data}\n\n");
            }
            Delivery::Heartbeat { cursor, prev } => {
                let cursor = cursor.to_string();
                let heartbeat = Heartbeat {
                    cursor: cursor.clone(),
                    prev: prev.to_string(),
                };
                named(&mut chunk, "heartbeat", Some(&cursor), &heartbeat);
            }
            Delivery::Closing { code, retry_after } => {
                closing(&mut chunk, code, retry_after);
                self.source = Source::Ended;
            }
        }
        Some(chunk)
    }

    /// Without an id, so that the reader's place stays where it was.
    fn expiring(&self) -> String {
        let mut chunk = String::new();
        let expires_at = self.caller.expires_at;
        named(&mut chunk, "expiring", None, &Expiring { expires_at });
        chunk
    }
}

fn retry(milliseconds: u32) -> String {
    format!("retry: {milliseconds}\n\n")
}

/// The last event of a stream. Without an id: the reader goes on from where it was.
fn closing(chunk: &mut String, code: &str, retry_after: u32) {
    if retry_after > 0 {
        chunk.push_str(&retry(retry_after.saturating_mul(1000)));
    }
    named(chunk, "closing", None, &Closing { code, retry_after });
}

/// JSON has no line breaks outside of its strings, and escapes those inside: one `data:` line holds it.
fn named(chunk: &mut String, name: &str, id: Option<&str>, data: &impl Serialize) {
    let data = serde_json::to_string(data).expect("strings and numbers always serialise");
    let _ = writeln!(chunk, "event: {name}");
    if let Some(id) = id {
        let _ = writeln!(chunk, "id: {id}");
    }
    let _ = write!(chunk, "data: {data}\n\n");
}
