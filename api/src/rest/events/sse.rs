//! Server-Sent Events, written by hand: a stream of bytes, one chunk for each delivery. hyper gathers what is there
//! and writes it at once; what a reader that has stopped holds is one chunk here and hyper's write buffer.

use std::{convert::Infallible, fmt::Write, pin::Pin};

use axum::{
    body::{Body, Bytes},
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use chat_domain::{cursor::After, ids::UserId};
use futures_util::stream;
use serde::Serialize;
use tokio::time::Sleep;

use crate::{
    auth::Caller,
    realtime::{
        hub::Starting,
        subscription::{Delivery, Subscription},
    },
    state::AppState,
    wire::{Binary, Closing, Heartbeat, Ready, Reset, event_body, frame},
};

/// Milliseconds after which a client that has lost its stream comes back.
const RETRY: u32 = 2000;

/// nginx buffers answers unless told not to.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn stream(app: AppState, caller: Caller, after: After) -> Response {
    let expiry = Box::pin(tokio::time::sleep(caller.expires_in()));
    let source = match app.hub.subscribe(caller.user_id.clone(), after).await {
        Ok(subscription) => Source::Live {
            subscription: Box::new(subscription),
            expiry,
        },
        Err(Starting) => {
            let mut last = retry(RETRY);
            closing(&mut last, "starting", 1);
            return answer(Body::from(last));
        }
    };
    let reader = Reader {
        user_id: caller.user_id,
        heartbeat_s: app.heartbeat.as_secs(),
        source,
        begun: false,
    };
    answer(Body::from_stream(stream::unfold(reader, |mut reader| async {
        let chunk = reader.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), reader))
    })))
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
    user_id: UserId,
    heartbeat_s: u64,
    source: Source,
    begun: bool,
}

enum Source {
    Live {
        subscription: Box<Subscription>,
        expiry: Pin<Box<Sleep>>,
    },
    Ended,
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        let Source::Live { subscription, expiry } = &mut self.source else {
            return None;
        };
        let delivery = tokio::select! {
            delivery = subscription.next() => delivery,
            () = expiry => Delivery::Closing { code: "token_expired", retry_after: 0 },
        };
        let mut chunk = if self.begun { String::new() } else { retry(RETRY) };
        self.begun = true;
        match delivery {
            Delivery::Ready { cursor, head } => {
                let (cursor, user_id) = (cursor.to_string(), self.user_id.as_str());
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
                let data = frame(&cursor, &prev, &event_body(&event, &mut Binary::Base64));
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
