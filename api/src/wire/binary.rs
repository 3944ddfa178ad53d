//! How content that is no text is written: base64 where JSON is all there is, and beside the JSON where the transport
//! carries bytes.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

/// The bytes of content as JSON holds them.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Data {
    Base64(String),
    Attachment(Attachment),
}

/// Bytes as socket.io carries them: they follow the packet, numbered, and this stands in their place. Clients of
/// socket.io put them there by themselves, and show the bytes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attachment {
    #[schema(example = true)]
    pub _placeholder: bool,
    #[schema(example = 0, minimum = 0, maximum = 15)]
    pub num: usize,
}

/// What becomes of bytes while JSON is written.
#[derive(Debug)]
pub enum Binary {
    Base64,
    /// They are gathered here, and the JSON holds their number.
    Attached(Vec<Bytes>),
}

impl Binary {
    pub fn attached() -> Self {
        Self::Attached(Vec::new())
    }

    pub fn into_attachments(self) -> Vec<Bytes> {
        match self {
            Self::Base64 => Vec::new(),
            Self::Attached(attachments) => attachments,
        }
    }

    pub(super) fn data(&mut self, bytes: &Bytes) -> Data {
        match self {
            Self::Base64 => Data::Base64(BASE64_STANDARD.encode(bytes)),
            Self::Attached(attachments) => {
                attachments.push(bytes.clone());
                Data::Attachment(Attachment {
                    _placeholder: true,
                    num: attachments.len() - 1,
                })
            }
        }
    }
}
