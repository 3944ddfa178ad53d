//! The long poll: a subscription for the length of one request.
//!
//! The chain that a client sees goes from poll to poll: the first event's `prev` is the cursor that was asked after,
//! and the answer's `cursor` is where the next poll begins. Heartbeats have no place in an answer, so what they step
//! over is stepped over between two events.

use std::{net::IpAddr, time::Duration};

use axum::response::Response;
use chat_domain::{
    Position,
    cursor::{After, Cursor},
    ports::Reader,
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::{
    auth::Caller,
    door::Door,
    limits::{Holder, Room},
    metrics,
    problem::{Code, LostCursor, Problem},
    realtime::{
        hub::Refused,
        subscription::{Delivery, Subscription},
    },
    rest::answer,
    state::AppState,
    wire::{Binary, FEATURES, event_body, frame},
};

/// Bytes of events in one answer, which a reader that has stopped keeps. One event always fits.
const ANSWER_BYTES: usize = 128 << 10;

/// Those of an answer beside its events, and the commas between them.
const PAGE_FIELDS: usize = 512;

/// What catching up may take beyond the time that the client waits: `wait=0` asks for what is there, and reading it
/// takes a moment.
const CATCH_UP: Duration = Duration::from_secs(10);

pub(super) async fn poll(
    app: &AppState,
    address: IpAddr,
    holder: &Holder,
    caller: Caller,
    reader: Reader,
    after: After,
    (limit, wait): (usize, Duration),
) -> Result<Response, Problem> {
    app.limits.admit_read(&caller.user_id)?;
    let _connection = app
        .limits
        .connect_user(Door::LongPoll, address, &caller.user_id)?;
    let deadline = Instant::now() + wait.min(caller.expires_in());
    let asked = match &after {
        After::Cursor(cursor) => Some(cursor.clone()),
        After::Now | After::Beginning => None,
    };
    let subscription = app.hub.subscribe(reader, after).await;
    let mut subscription = subscription.map_err(|Refused(code)| Problem::new(code))?;
    let mut page = match subscription.next().await {
        // Where an epoch has begun since, `ready` names the same place in the new one.
        Delivery::Ready { cursor, head } => Page::new(asked.unwrap_or_else(|| cursor.clone()), cursor, head),
        other => return Err(refusal(other)),
    };
    let mut more = collect(&mut subscription, &mut page, limit, deadline + CATCH_UP).await?;
    while !more && page.events.is_empty() {
        let Ok(delivery) = timeout_at(deadline, subscription.next()).await else {
            break;
        };
        page.take(delivery)?;
        more = collect(&mut subscription, &mut page, limit, deadline + CATCH_UP).await?;
    }
    if !more {
        // A quiet user moves on too: the next poll looks no further back than this one did.
        page.cursor = subscription.examined();
    }
    metrics::delivered(Door::LongPoll, page.events.len());
    let room = app.limits.answer(holder, page.bytes + PAGE_FIELDS)?;
    Ok(page.answer(more, room))
}

/// Takes what is at hand, until the page is full or there is no more. Returns whether there may be more.
async fn collect(
    subscription: &mut Subscription,
    page: &mut Page,
    limit: usize,
    deadline: Instant,
) -> Result<bool, Problem> {
    while !page.is_full(limit) {
        let delivery = match timeout_at(deadline, subscription.next_at_hand()).await {
            Ok(Some(delivery)) => delivery,
            Ok(None) => return Ok(false),
            Err(_) => return Ok(true),
        };
        // What was read before the server began to close is not lost to the client, only left for the next poll.
        let closing = matches!(delivery, Delivery::Closing { .. });
        if closing && !page.events.is_empty() {
            return Ok(true);
        }
        page.take(delivery)?;
    }
    Ok(true)
}

/// What ends a poll: what is neither an event nor a heartbeat.
fn refusal(delivery: Delivery) -> Problem {
    match delivery {
        Delivery::Reset {
            cursor,
            reason,
            oldest,
        } => {
            let lost = LostCursor {
                cursor: cursor.to_string(),
                reason: reason.as_str(),
                oldest,
            };
            Problem {
                lost: Some(Box::new(lost)),
                ..Problem::new(Code::CursorReset)
            }
        }
        Delivery::Closing { code, retry_after } => {
            Problem::new(Code::of_closing(code)).retry_after(retry_after.max(1))
        }
        // A subscription begins once, and with nothing else.
        Delivery::Ready { .. } | Delivery::Event { .. } | Delivery::Heartbeat { .. } => {
            Problem::new(Code::Internal)
        }
    }
}

struct Page {
    events: Vec<String>,
    bytes: usize,
    /// The `cursor` of the event before, or the one that was asked after.
    prev: Cursor,
    cursor: Cursor,
    head: Position,
}

impl Page {
    fn new(prev: Cursor, cursor: Cursor, head: Position) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            prev,
            cursor,
            head,
        }
    }

    fn is_full(&self, limit: usize) -> bool {
        self.events.len() >= limit || self.bytes >= ANSWER_BYTES
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), Problem> {
        match delivery {
            Delivery::Event { cursor, event, .. } => {
                self.push(cursor, &event_body(&event, &mut Binary::Base64))
            }
            Delivery::Heartbeat { cursor, .. } => self.cursor = cursor,
            other => return Err(refusal(other)),
        }
        Ok(())
    }

    fn push(&mut self, cursor: Cursor, body: &str) {
        let event = frame(&cursor, &self.prev, body);
        self.bytes += event.len();
        self.events.push(event);
        self.prev = cursor.clone();
        self.cursor = cursor;
    }

    fn answer(&self, more: bool, room: Room) -> Response {
        let head = self.head.max(self.cursor.position);
        let (events, cursor) = (self.events.join(","), &self.cursor);
        let features = json!(FEATURES);
        let body = format!(
            r#"{{"events":[{events}],"cursor":"{cursor}","head":{head},"more":{more},"features":{features}}}"#
        );
        answer::of_bytes(room.around(body.into()))
    }
}
