//! The examples of both documents, made of the types that the doors speak: what they show is what serde writes.
//!
//! They tell one story: `alice` has sent `hi` to `bob`, who has received it. A test sends each request of them to a
//! server and compares the answers.

use crate::wire::{
    Closing, Conversation, Conversations, Event, EventPage, Expiring, FEATURES, Heartbeat, History, Message,
    NewData, NewText, Participant, Ready, Receipt, Reset, UpTo, event_of_example,
};

const CURSOR: &str = "k7f3q2:5230";
const BEFORE: &str = "k7f3q2:4177";
const AT: &str = "k7f3q2:4182";

pub(crate) fn message() -> Message<'static> {
    Message {
        id: 4182,
        conversation_id: "alice,bob",
        seq: 17,
        sender_id: "alice",
        receiver_id: "bob",
        sent_at: 1_790_000_000,
        received_at: None,
        content_type: Some("text/plain"),
        text: Some("hi"),
        data: None,
    }
}

pub(crate) fn received_message() -> Message<'static> {
    Message {
        received_at: Some(1_790_000_002),
        ..message()
    }
}

pub(crate) fn new_text() -> NewText {
    NewText {
        receiver_id: "bob".into(),
        text: "hi".into(),
        content_type: None,
        data: (),
    }
}

pub(crate) fn new_data() -> NewData {
    NewData {
        receiver_id: "bob".into(),
        data: "iVBORw0KGgo=".into(),
        content_type: Some("image/png".into()),
        text: (),
    }
}

pub(crate) fn history() -> History<'static> {
    History {
        messages: vec![received_message()],
        next: Some("/v1/messages?with=bob&before=4182&limit=50".into()),
        prev: None,
        cursor: CURSOR.into(),
    }
}

pub(crate) fn conversations() -> Conversations<'static> {
    let participant = |user_id, received_seq, read_seq| Participant {
        user_id,
        received_seq,
        read_seq,
    };
    let conversation = Conversation {
        conversation_id: "alice,bob",
        with: Some("bob".into()),
        seq: 17,
        unread: 2,
        last_message: Some(received_message()),
        participants: vec![participant("alice", 17, 15), participant("bob", 17, 17)],
        participants_complete: true,
    };
    Conversations {
        conversations: vec![conversation],
        next: None,
        cursor: CURSOR.into(),
    }
}

pub(crate) fn receipt() -> Receipt<'static> {
    Receipt {
        conversation_id: "alice,bob",
        user_id: "bob",
        received_seq: 17,
        read_seq: 17,
    }
}

pub(crate) fn sent() -> Event<'static> {
    event_of_example(AT, BEFORE, "message.sent", "alice", Some(message()), None)
}

pub(crate) fn read() -> Event<'static> {
    let up_to = UpTo { id: 4182, seq: 17 };
    event_of_example("k7f3q2:4183", AT, "receipt.read", "bob", None, Some(up_to))
}

pub(crate) fn event_page() -> EventPage<'static> {
    EventPage {
        events: vec![sent()],
        cursor: CURSOR.into(),
        head: 5230,
        more: false,
        features: FEATURES,
    }
}

pub(crate) fn ready() -> Ready<'static> {
    Ready {
        cursor: BEFORE.into(),
        head: 5230,
        user_id: "alice",
        heartbeat_s: 15,
        features: FEATURES,
    }
}

pub(crate) fn reset() -> Reset<'static> {
    Reset {
        cursor: CURSOR.into(),
        reason: "other_epoch",
        oldest: 1,
    }
}

pub(crate) fn heartbeat() -> Heartbeat {
    Heartbeat {
        cursor: CURSOR.into(),
        prev: AT.into(),
    }
}

pub(crate) fn expiring() -> Expiring {
    Expiring {
        expires_at: 1_790_003_600,
    }
}

pub(crate) fn closing(code: &'static str, retry_after: u32) -> Closing<'static> {
    Closing { code, retry_after }
}

/// The beginning of a stream as it comes over HTTP.
pub(crate) fn stream() -> String {
    let (ready, sent) = (serde_json::json!(ready()), serde_json::json!(sent()));
    format!("retry: 2000\n\nevent: ready\nid: {BEFORE}\ndata: {ready}\n\nid: {AT}\ndata: {sent}\n\n")
}
