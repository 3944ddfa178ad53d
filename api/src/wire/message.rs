//! A message, and a page of them.

use chat_domain::views;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Binary, Data};
use crate::terms;

/// A message. Textual content in valid UTF-8 is `text`, all else is `data`; an erased message has neither, and no
/// `content_type`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message<'a> {
    #[serde(rename = "_id")]
    #[schema(value_type = terms::MessageId)]
    pub id: i64,
    #[schema(value_type = terms::ConversationId)]
    pub conversation_id: &'a str,
    #[schema(value_type = terms::Seq)]
    pub seq: i64,
    #[schema(value_type = terms::UserId)]
    pub sender_id: &'a str,
    #[schema(value_type = terms::UserId)]
    pub receiver_id: &'a str,
    /// By the database's clock.
    #[schema(value_type = terms::Seconds)]
    pub sent_at: i64,
    /// When the receiver first said that it has the message; null until then.
    #[schema(value_type = Option<terms::Seconds>, required = true)]
    pub received_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<terms::ContentType>, nullable = false)]
    pub content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hi", nullable = false)]
    pub text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<terms::Base64>, nullable = false)]
    pub data: Option<Data>,
}

impl<'a> Message<'a> {
    pub fn new(message: &'a views::Message, binary: &mut Binary) -> Self {
        let content = message.content.as_ref();
        let text = content.and_then(|content| content.as_text());
        let data = content
            .filter(|_| text.is_none())
            .map(|content| binary.data(&content.bytes));
        Self {
            id: message.id,
            conversation_id: message.conversation_id.as_str(),
            seq: message.seq,
            sender_id: message.sender_id.as_str(),
            receiver_id: message.receiver_id.as_str(),
            sent_at: message.sent_at,
            received_at: message.received_at,
            content_type: content.map(|content| content.content_type.as_str()),
            text,
            data,
        }
    }
}

/// Bytes of the names, the numbers and the punctuation of a message as JSON, at most.
const FIELDS: usize = 320;

/// Bytes of a message as JSON, at most: what is written is hardly less.
pub fn json_length(message: &views::Message) -> usize {
    let content = message.content.as_ref().map_or(0, |content| {
        let text = content.as_text();
        let content_type = escaped_length(content.content_type.as_str());
        content_type + text.map_or_else(|| content.bytes.len().div_ceil(3) * 4, escaped_length)
    });
    let ids = [&message.sender_id, &message.receiver_id].map(|id| id.as_str().len());
    FIELDS + message.conversation_id.as_str().len() + ids[0] + ids[1] + content
}

/// Bytes of a text in JSON, without its quotes.
fn escaped_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}

/// A page of a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct History<'a> {
    #[schema(max_items = 200)]
    pub messages: Vec<Message<'a>>,
    /// Where the page goes on in its own order.
    #[schema(
        required = true,
        example = "/v1/messages?with=bob&before=4182&limit=50",
        max_length = 512
    )]
    pub next: Option<String>,
    /// Where the messages on the other side of the first one are: that page has the other order.
    #[schema(
        required = true,
        example = "/v1/messages?with=bob&after=4231&limit=50",
        max_length = 512
    )]
    pub prev: Option<String>,
    /// Taken before the page was read: a stream from here misses nothing that the page does not show.
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_domain::{
        content::{Content, ContentType},
        ids::{ConversationId, UserId},
    };

    use super::*;

    fn message(content: Option<Content>) -> views::Message {
        let user = |name: &str| UserId::parse(name).unwrap();
        views::Message {
            id: i64::MAX,
            conversation_id: ConversationId::direct(&user("alice"), &user("bob")),
            seq: i64::MAX,
            sender_id: user("alice"),
            receiver_id: user("bob"),
            sent_at: i64::MAX,
            received_at: Some(i64::MAX),
            content,
        }
    }

    #[test]
    fn what_is_counted_is_no_less_than_what_is_written_and_hardly_more() {
        let every = (0..=0x7f_u8).map(char::from).collect::<String>();
        let quoted = ContentType::parse(r#"text/plain; a="b\""#).unwrap();
        let data = |length| Content {
            content_type: ContentType::octet_stream(),
            bytes: Bytes::from(vec![0xff; length]),
        };
        for content in [
            None,
            Some(Content::text("hi")),
            Some(Content::text("\u{1}".repeat(10_000))),
            Some(Content::text(every.repeat(100))),
            Some(Content::text("grüße 👋 \u{2028}".repeat(100))),
            Some(Content {
                content_type: quoted,
                bytes: Bytes::from_static(b"hi"),
            }),
            Some(data(1)),
            Some(data(2)),
            Some(data(9999)),
        ] {
            let message = message(content);
            let written = serde_json::to_vec(&Message::new(&message, &mut Binary::Base64)).unwrap();
            let counted = json_length(&message);
            let range = written.len()..written.len() + FIELDS;
            assert!(range.contains(&counted), "{counted} of {}", written.len());
        }
    }
}
