//! A message, and a page of them.

use chat_domain::views;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Binary, Data, terms};

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
