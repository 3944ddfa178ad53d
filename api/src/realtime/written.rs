//! A delivery as the streams write it: a name, and one object of JSON.

use chat_domain::ids::UserId;
use serde::Serialize;

use super::subscription::Delivery;
use crate::{
    auth::Caller,
    wire::{Binary, Closing, Expiring, FEATURES, Heartbeat, Ready, Reset, event_body, frame},
};

/// The name of what is in the log.
pub const EVENT: &str = "event";

#[derive(Debug)]
pub struct Written {
    pub name: &'static str,
    /// Where a reader goes on after this; none for what leaves it where it was.
    pub cursor: Option<String>,
    pub json: String,
}

impl Delivery {
    pub fn write(&self, user_id: &UserId, heartbeat_s: u64, binary: &mut Binary) -> Written {
        match self {
            Self::Ready { cursor, head } => {
                let cursor = cursor.to_string();
                let ready = Ready {
                    cursor: cursor.clone(),
                    head: *head,
                    user_id: user_id.as_str(),
                    heartbeat_s,
                    features: FEATURES,
                };
                written("ready", Some(cursor), &ready)
            }
            Self::Reset {
                cursor,
                reason,
                oldest,
            } => {
                let cursor = cursor.to_string();
                let reset = Reset {
                    cursor: cursor.clone(),
                    reason: reason.as_str(),
                    oldest: *oldest,
                };
                written("reset", Some(cursor), &reset)
            }
            Self::Event { cursor, prev, event } => Written {
                name: EVENT,
                json: frame(cursor, prev, &event_body(event, binary)),
                cursor: Some(cursor.to_string()),
            },
            Self::Heartbeat { cursor, prev } => {
                let cursor = cursor.to_string();
                let heartbeat = Heartbeat {
                    cursor: cursor.clone(),
                    prev: prev.to_string(),
                };
                written("heartbeat", Some(cursor), &heartbeat)
            }
            Self::Closing { code, retry_after } => closing(code, *retry_after),
        }
    }
}

/// The last thing: it leaves the reader where it was.
pub fn closing(code: &str, retry_after: u32) -> Written {
    written("closing", None, &Closing { code, retry_after })
}

/// The caller's token expires: it leaves the reader where it was.
pub fn expiring(caller: &Caller) -> Written {
    let expires_at = caller.expires_at;
    written("expiring", None, &Expiring { expires_at })
}

fn written(name: &'static str, cursor: Option<String>, data: &impl Serialize) -> Written {
    let json = serde_json::to_string(data).expect("strings and numbers always serialise");
    Written { name, cursor, json }
}
