//! The long poll: a subscription for the length of one request.
//!
//! The chain that a client sees goes from poll to poll: the first event's `prev` is the cursor that was asked after,
//! and the answer's `cursor` is where the next poll begins. Heartbeats have no place in an answer, so what they step
//! over is stepped over between two events.

use std::time::Duration;

use axum::{
    body::Bytes,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use chat_domain::{
    Position,
    cursor::{After, Cursor},
};
use serde_json::{Map, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    auth::Caller,
    problem::{Code, Problem},
    realtime::subscription::{Delivery, Subscription},
    state::AppState,
    wire::{Binary, event_body, frame},
};

/// Bytes of events in one answer. One event always fits.
const ANSWER_BYTES: usize = 1 << 20;

/// What catching up may take beyond the time that the client waits: `wait=0` asks for what is there, and reading it
/// takes a moment.
const CATCH_UP: Duration = Duration::from_secs(10);

pub(super) async fn poll(
    app: &AppState,
    caller: Caller,
    after: After,
    limit: usize,
    wait: Duration,
) -> Result<Response, Problem> {
    let deadline = Instant::now() + wait.min(caller.expires_in());
    let asked = match &after {
        After::Cursor(cursor) => Some(cursor.clone()),
        After::Now | After::Beginning => None,
    };
    let subscription = app.hub.subscribe(caller.user_id, after).await;
    let mut subscription = subscription.map_err(|starting| Problem::new(Code::Starting).detail(starting))?;
    let mut page: Option<Page> = None;
    take(&mut page, subscription.next().await)?;
    if let (Some(page), Some(asked)) = (&mut page, asked) {
        // Where an epoch has begun since, `ready` names the same place in the new one.
        page.prev = asked;
    }
    let mut more = collect(&mut subscription, &mut page, limit, deadline + CATCH_UP).await?;
    while !more && page.as_ref().is_none_or(|page| page.events.is_empty()) {
        let Ok(delivery) = timeout_at(deadline, subscription.next()).await else {
            break;
        };
        take(&mut page, delivery)?;
        more = collect(&mut subscription, &mut page, limit, deadline + CATCH_UP).await?;
    }
    let mut page = page.ok_or_else(|| Problem::new(Code::Unavailable))?;
    if !more {
        // A quiet user moves on too: the next poll looks no further back than this one did.
        page.cursor = subscription.examined();
    }
    Ok(page.answer(more))
}

/// Takes what is at hand, until the page is full or there is no more. Returns whether there may be more.
async fn collect(
    subscription: &mut Subscription,
    page: &mut Option<Page>,
    limit: usize,
    deadline: Instant,
) -> Result<bool, Problem> {
    while !page.as_ref().is_some_and(|page| page.is_full(limit)) {
        let delivery = match timeout_at(deadline, subscription.next_at_hand()).await {
            Ok(Some(delivery)) => delivery,
            Ok(None) => return Ok(false),
            Err(_) => return Ok(true),
        };
        // What was read before the server began to close is not lost to the client, only left for the next poll.
        let closing = matches!(delivery, Delivery::Closing { .. });
        if closing && page.as_ref().is_some_and(|page| !page.events.is_empty()) {
            return Ok(true);
        }
        take(page, delivery)?;
    }
    Ok(true)
}

fn take(page: &mut Option<Page>, delivery: Delivery) -> Result<(), Problem> {
    match (delivery, page) {
        (Delivery::Ready { cursor, head }, page) => *page = Some(Page::new(cursor, head)),
        (
            Delivery::Reset {
                cursor,
                reason,
                oldest,
            },
            _,
        ) => {
            let fields = json!({"cursor": cursor.to_string(), "reason": reason.as_str(), "oldest": oldest});
            let fields = if let serde_json::Value::Object(fields) = fields {
                fields
            } else {
                Map::new()
            };
            return Err(Problem {
                fields,
                ..Problem::new(Code::CursorReset)
            });
        }
        (Delivery::Closing { code, retry_after }, _) => {
            return Err(Problem::new(Code::of_closing(code)).retry_after(retry_after.max(1)));
        }
        (Delivery::Event { cursor, event, .. }, Some(page)) => {
            page.push(cursor, &event_body(&event, &mut Binary::Base64))
        }
        (Delivery::Heartbeat { cursor, .. }, Some(page)) => page.cursor = cursor,
        // The first delivery is ready or reset.
        (Delivery::Event { .. } | Delivery::Heartbeat { .. }, None) => {
            return Err(Problem::new(Code::Internal));
        }
    }
    Ok(())
}

struct Page {
    events: Vec<String>,
    bytes: usize,
    /// The `cursor` of the event before, or that of `ready`.
    prev: Cursor,
    cursor: Cursor,
    head: Position,
}

impl Page {
    fn new(cursor: Cursor, head: Position) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            prev: cursor.clone(),
            cursor,
            head,
        }
    }

    fn is_full(&self, limit: usize) -> bool {
        self.events.len() >= limit || self.bytes >= ANSWER_BYTES
    }

    fn push(&mut self, cursor: Cursor, body: &str) {
        let event = frame(&cursor, &self.prev, body);
        self.bytes += event.len();
        self.events.push(event);
        self.prev = cursor.clone();
        self.cursor = cursor;
    }

    fn answer(&self, more: bool) -> Response {
        let head = self.head.max(self.cursor.position);
        let (events, cursor) = (self.events.join(","), &self.cursor);
        let body = format!(r#"{{"events":[{events}],"cursor":"{cursor}","head":{head},"more":{more}}}"#);
        ([(CONTENT_TYPE, "application/json")], Bytes::from(body)).into_response()
    }
}
