//! What a client sends: exactly one of `text` and `data`.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use chat_domain::{
    command::Action,
    content::{Content, ContentType},
    ids::UserId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::{Code, Problem};
use crate::terms::{Base64, ContentType as ContentTypeTerm, TextualType, UserId as UserIdTerm, null};

/// A message to be sent, as a client writes it; [`MessageForm`] is how the documents describe it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMessage {
    pub receiver_id: String,
    pub text: Option<String>,
    pub data: Option<String>,
    pub content_type: Option<String>,
}

/// A message to be sent. Exactly one of `text` and `data`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = NewMessage)]
pub enum MessageForm {
    Text(NewText),
    Data(NewData),
}

/// A message of text.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewText {
    /// Somebody never seen before, or oneself, is fine.
    #[schema(value_type = UserIdTerm)]
    pub receiver_id: String,
    /// The content as text.
    #[schema(example = "hi", min_length = 1, max_length = 16_777_216)]
    pub text: String,
    /// `text/plain` if absent or null.
    #[schema(value_type = Option<TextualType>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Absent, or null.
    #[schema(schema_with = null, required = false)]
    #[serde(skip_serializing_if = "is_absent")]
    pub data: (),
}

/// A message of anything else.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewData {
    /// Somebody never seen before, or oneself, is fine.
    #[schema(value_type = UserIdTerm)]
    pub receiver_id: String,
    /// The content as bytes.
    #[schema(value_type = Base64)]
    pub data: String,
    /// `application/octet-stream` if absent or null.
    #[schema(value_type = Option<ContentTypeTerm>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Absent, or null.
    #[schema(schema_with = null, required = false)]
    #[serde(skip_serializing_if = "is_absent")]
    pub text: (),
}

fn is_absent((): &()) -> bool {
    true
}

impl NewMessage {
    pub fn draft(self) -> Result<Draft, Problem> {
        let data = self.data.as_deref().map(Draft::base64).transpose()?;
        Ok(Draft {
            receiver_id: self.receiver_id,
            text: self.text,
            data,
            content_type: self.content_type,
        })
    }

    /// The largest body that a message within the limit can need. JSON may write any one byte of a text in six
    /// (`\u0000`), so that no content which fits is refused for the way its client escapes; base64 needs less.
    pub const fn body_limit(content_limit: usize) -> usize {
        content_limit * 6 + 4096
    }
}

/// A message to be sent, whatever form its bytes came in.
pub struct Draft {
    pub receiver_id: String,
    pub text: Option<String>,
    pub data: Option<Bytes>,
    pub content_type: Option<String>,
}

impl Draft {
    pub fn base64(data: &str) -> Result<Bytes, Problem> {
        let bytes = BASE64_STANDARD.decode(data);
        let bytes = bytes.map_err(|error| Problem::new(Code::DataInvalid).at("/data", error))?;
        Ok(bytes.into())
    }

    pub fn action(self, content_limit: usize) -> Result<Action, Problem> {
        let receiver_id = UserId::parse(&self.receiver_id)
            .map_err(|invalid| Problem::from(invalid).at("/receiver_id", invalid))?;
        let content_type = self.content_type.as_deref().map(ContentType::parse).transpose();
        let content_type =
            content_type.map_err(|invalid| Problem::from(invalid).at("/content_type", invalid))?;
        let (pointer, content_type, bytes) = match (self.text, self.data) {
            (Some(_), Some(_)) => return Err(Problem::new(Code::ContentAmbiguous)),
            (None, None) => return Err(Problem::new(Code::ContentMissing)),
            (Some(text), None) => {
                let content_type = content_type.unwrap_or_else(ContentType::text_plain);
                if !content_type.is_textual() {
                    let detail =
                        "text needs a textual content type (text/*, JSON, XML); send other content as data";
                    return Err(Problem::new(Code::ContentTypeInvalid).at("/content_type", detail));
                }
                ("/text", content_type, text.into())
            }
            (None, Some(bytes)) => {
                let content_type = content_type.unwrap_or_else(ContentType::octet_stream);
                ("/data", content_type, bytes)
            }
        };
        let content = Content::try_new(content_type, bytes, content_limit)
            .map_err(|rejection| Problem::from(rejection).at(pointer, rejection))?;
        Ok(Action::SendMessage { receiver_id, content })
    }
}
