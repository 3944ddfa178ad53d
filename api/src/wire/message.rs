//! A message, and a page of them.

use chat_domain::views;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Binary, Data};

/// A message. Textual content in valid UTF-8 is `text`, all else is `data`; an erased message has neither, and no
/// `content_type`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message<'a> {
    /// Grows in the order that everybody sees.
    #[serde(rename = "_id")]
    #[schema(example = 4182, minimum = 1)]
    pub id: i64,
    #[schema(example = "alice,bob")]
    pub conversation_id: &'a str,
    /// Counts the messages of the conversation: 1, 2, 3… without a hole.
    #[schema(example = 17, minimum = 1)]
    pub seq: i64,
    #[schema(example = "alice")]
    pub sender_id: &'a str,
    #[schema(example = "bob")]
    pub receiver_id: &'a str,
    /// Seconds since the Unix epoch, by the database's clock.
    #[schema(example = 1_790_000_000)]
    pub sent_at: i64,
    /// When the receiver first said that it has the message, in seconds since the Unix epoch.
    #[schema(required = true)]
    pub received_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "text/plain")]
    pub content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hi")]
    pub text: Option<&'a str>,
    /// Base64 with padding (standard alphabet).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, content_encoding = "base64")]
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

/// A page of a conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct History<'a> {
    pub messages: Vec<Message<'a>>,
    /// Where the page goes on in its own order.
    #[schema(required = true, example = "/v1/messages?with=bob&before=4182&limit=50")]
    pub next: Option<String>,
    /// Where the messages on the other side of the first one are: that page has the other order.
    #[schema(required = true, example = "/v1/messages?with=bob&after=4231&limit=50")]
    pub prev: Option<String>,
    /// Taken before the page was read: a stream from here misses nothing that the page does not show.
    #[schema(example = "k7f3q2:5230")]
    pub cursor: String,
}
