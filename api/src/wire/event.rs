//! An event as readers get it.
//!
//! Two readers' JSON of one event differs in `cursor` and `prev` only, and in how a door carries bytes. So [`event_body`] is made once for an event,
//! and [`frame`] puts those two before it, for each reader.

use std::collections::BTreeMap;

use chat_domain::{
    Micros,
    cursor::Cursor,
    event::{self, Recorded},
};
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use utoipa::ToSchema;

use super::{Binary, Message};
use crate::terms;

/// Something that happened, with its place in the chain: `prev` is the `cursor` of the delivery before it.
#[derive(Serialize, ToSchema)]
pub struct Event<'a> {
    /// Go on from here after this event. Opaque.
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
    /// The `cursor` of the delivery before it.
    #[schema(value_type = terms::Cursor)]
    pub prev: String,
    #[serde(flatten)]
    pub body: EventBody<'a>,
}

/// What happened. Types and fields may come: ignore those that you do not know, and step the chain all the same.
#[derive(Serialize, ToSchema)]
pub struct EventBody<'a> {
    /// The event's place in the log; of a `message.sent`, the `_id` of its message.
    #[schema(value_type = terms::Position)]
    pub position: i64,
    #[serde(rename = "type")]
    #[schema(value_type = terms::EventType)]
    pub kind: &'a str,
    #[schema(value_type = terms::ConversationId)]
    pub conversation_id: &'a str,
    #[schema(value_type = terms::UserId)]
    pub actor_id: &'a str,
    /// The service that acted for the actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<terms::UserId>, nullable = false)]
    pub via: Option<&'a str>,
    /// UTC, by the database's clock, with microseconds.
    #[schema(example = "2026-11-22T10:15:30.123456Z", format = DateTime, max_length = 27, pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z$")]
    pub occurred_at: String,
    /// The key that the actor's client gave to its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<terms::CommandKey>, nullable = false)]
    pub key: Option<&'a str>,
    /// Of `message.sent`: the message as it was at that moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message: Option<Message<'a>>,
    /// Of receipts: everything up to this message is received, or read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub up_to: Option<UpTo>,
    /// What a type of a newer version has.
    #[serde(flatten)]
    #[schema(ignore)]
    pub others: BTreeMap<&'a str, &'a Value>,
}

/// A message of the event's conversation.
#[derive(Serialize, ToSchema)]
pub struct UpTo {
    #[serde(rename = "_id")]
    #[schema(value_type = terms::MessageId)]
    pub id: i64,
    #[schema(value_type = terms::Seq)]
    pub seq: i64,
}

/// An event for the documents.
pub(crate) fn event_of_example<'a>(
    cursor: &str,
    prev: &str,
    kind: &'a str,
    actor_id: &'a str,
    message: Option<Message<'a>>,
    up_to: Option<UpTo>,
) -> Event<'a> {
    let position = cursor
        .rsplit(':')
        .next()
        .and_then(|position| position.parse().ok());
    Event {
        cursor: cursor.to_owned(),
        prev: prev.to_owned(),
        body: EventBody {
            position: position.unwrap_or_default(),
            kind,
            conversation_id: "alice,bob",
            actor_id,
            via: None,
            occurred_at: rfc3339(1_790_000_000_123_456),
            key: message.is_some().then_some("c1-88"),
            message,
            up_to,
            others: BTreeMap::new(),
        },
    }
}

/// The event's JSON without `cursor` and `prev`: an object, never an empty one.
pub fn event_body(recorded: &Recorded, binary: &mut Binary) -> String {
    let message = recorded.message();
    let mut body = EventBody {
        position: recorded.position,
        kind: recorded.event.kind(),
        conversation_id: recorded.conversation_id.as_str(),
        actor_id: recorded.actor_id.as_str(),
        via: recorded.via.as_ref().map(|via| via.as_str()),
        occurred_at: rfc3339(recorded.occurred_at),
        key: recorded.key.of_client(),
        message: None,
        up_to: None,
        others: BTreeMap::new(),
    };
    match &recorded.event {
        event::Event::MessageSent { .. } => {
            body.message = message.as_ref().map(|message| Message::new(message, binary));
        }
        event::Event::ReceiptMoved { up_to, .. } => {
            body.up_to = Some(UpTo {
                id: up_to.id,
                seq: up_to.seq,
            })
        }
        event::Event::Other { fields, .. } => {
            let own = |name: &str| !ENVELOPE.contains(&name);
            body.others = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .filter(|(n, _)| own(n))
                .collect();
        }
    }
    serde_json::to_string(&body).expect("strings, numbers and JSON values always serialise")
}

/// The fields of the envelope, which a stored field of the same name does not replace.
const ENVELOPE: [&str; 9] = [
    "cursor",
    "prev",
    "position",
    "type",
    "conversation_id",
    "actor_id",
    "via",
    "occurred_at",
    "key",
];

/// An event's JSON for one reader: `body` is what [`event_body`] made.
pub fn frame(cursor: &Cursor, prev: &Cursor, body: &str) -> String {
    // A cursor is letters, digits and a colon: nothing that JSON would escape.
    let rest = body.strip_prefix('{').unwrap_or(body);
    format!(r#"{{"cursor":"{cursor}","prev":"{prev}",{rest}"#)
}

fn rfc3339(micros: Micros) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000);
    time.unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(&FORMAT)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use chat_domain::{
        command::ReceiptKind,
        content::{Content, ContentType},
        cursor::Epoch,
        ids::{CommandKey, ConversationId, ConversationNumber, UserId},
    };
    use serde_json::json;

    use super::*;

    fn recorded(event: event::Event) -> Recorded {
        let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
        Recorded {
            position: 4182,
            occurred_at: 1_795_342_530_123_456,
            conversation: ConversationNumber(1),
            conversation_id: ConversationId::direct(&alice, &bob),
            actor_id: alice,
            receiver_id: bob,
            via: None,
            key: CommandKey::parse("c1-88").unwrap(),
            hash: [0; 32],
            seq: 17,
            event,
        }
    }

    fn sent(content: Option<Content>) -> event::Event {
        event::Event::MessageSent {
            content,
            received_after: 0,
            received_at: None,
        }
    }

    fn body(recorded: &Recorded) -> Value {
        serde_json::from_str(&event_body(recorded, &mut Binary::Base64)).unwrap()
    }

    #[test]
    fn a_message_comes_as_the_contract_shows_it() {
        let epoch = Epoch::parse("k7f3q2").unwrap();
        let [cursor, prev] = [4182, 4177].map(|position| Cursor {
            epoch: epoch.clone(),
            position,
        });
        assert_eq!(
            frame(
                &cursor,
                &prev,
                &event_body(&recorded(sent(Some(Content::text("hi\n")))), &mut Binary::Base64)
            ),
            concat!(
                r#"{"cursor":"k7f3q2:4182","prev":"k7f3q2:4177","position":4182,"type":"message.sent","#,
                r#""conversation_id":"alice,bob","actor_id":"alice","occurred_at":"2026-11-22T10:15:30.123456Z","#,
                r#""key":"c1-88","message":{"_id":4182,"conversation_id":"alice,bob","seq":17,"sender_id":"alice","#,
                r#""receiver_id":"bob","sent_at":1795342530,"received_at":null,"content_type":"text/plain","#,
                r#""text":"hi\n"}}"#,
            ),
        );
    }

    #[test]
    fn content_that_is_no_text_is_data_in_base64() {
        let content_type = ContentType::parse("image/png").unwrap();
        let content = Content {
            content_type,
            bytes: vec![0xff, 0, 1, 2].into(),
        };
        let message = &body(&recorded(sent(Some(content))))["message"];
        assert_eq!(
            (&message["data"], &message["content_type"]),
            (&json!("/wABAg=="), &json!("image/png"))
        );
        assert!(message.get("text").is_none());
    }

    #[test]
    fn an_erased_message_has_no_content_and_no_content_type() {
        let message = &body(&recorded(sent(None)))["message"];
        let fields: Vec<_> = message.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            [
                "_id",
                "conversation_id",
                "received_at",
                "receiver_id",
                "sender_id",
                "sent_at",
                "seq"
            ]
        );
    }

    #[test]
    fn a_receipt_says_up_to_where_and_a_key_of_the_server_is_not_shown() {
        let up_to = event::UpTo { id: 4182, seq: 17 };
        let kind = ReceiptKind::Read;
        let mut receipt = recorded(event::Event::ReceiptMoved {
            kind,
            up_to,
            received_after: 0,
        });
        receipt.key = CommandKey::of_server(1);
        let body = body(&receipt);
        assert_eq!(
            (&body["type"], &body["up_to"]),
            (&json!("receipt.read"), &json!({"_id": 4182, "seq": 17}))
        );
        assert!(body.get("key").is_none() && body.get("message").is_none());
    }

    #[test]
    fn an_event_of_a_newer_version_is_passed_on_and_cannot_replace_the_envelope() {
        let fields = json!({"emoji": "+1", "actor_id": "mallory", "cursor": "x", "message": 7});
        let fields = fields.as_object().unwrap().clone();
        let body = body(&recorded(event::Event::Other {
            kind: "reaction.added".into(),
            fields,
        }));
        assert_eq!(
            (&body["type"], &body["emoji"], &body["actor_id"], &body["message"]),
            (&json!("reaction.added"), &json!("+1"), &json!("alice"), &json!(7)),
        );
        assert!(body.get("cursor").is_none());
    }
}
