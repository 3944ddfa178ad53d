//! What a message carries: bytes and their content type.
//!
//! Text types (`text/*`, JSON, XML) in valid UTF-8 are shown as `text`, all else as `data`: which of the two follows
//! from the content itself, so one content has one form, however it was sent.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::rejection::{Invalid, Rejection};

/// A MIME type with its parameters: at most 127 visible ASCII characters or spaces.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ContentType(Arc<str>);

impl ContentType {
    pub const MAX_LEN: usize = 127;

    pub fn text_plain() -> Self {
        Self("text/plain".into())
    }

    pub fn octet_stream() -> Self {
        Self("application/octet-stream".into())
    }

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let essence = text.split(';').next().unwrap_or_default().trim_end();
        let token = |t: &str| {
            !t.is_empty()
                && t.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        let well_formed = essence
            .split_once('/')
            .is_some_and(|(kind, sub)| token(kind) && token(sub));
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if well_formed && printable && text.len() <= Self::MAX_LEN {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::ContentType)
        }
    }

    /// Whether content of this type is text, if its bytes are valid UTF-8.
    pub fn is_textual(&self) -> bool {
        let essence = self
            .0
            .split(';')
            .next()
            .unwrap_or_default()
            .trim_end()
            .to_ascii_lowercase();
        essence.starts_with("text/")
            || matches!(essence.as_str(), "application/json" | "application/xml")
            || essence.ends_with("+json")
            || essence.ends_with("+xml")
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The content of a message. Its bytes never appear in `Debug` output, which ends in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    pub content_type: ContentType,
    pub bytes: Bytes,
}

impl Content {
    /// The largest limit that can be configured.
    pub const MAX_LIMIT: usize = 16 << 20;
    pub const DEFAULT_LIMIT: usize = 256 << 10;

    pub fn try_new(content_type: ContentType, bytes: Bytes, limit: usize) -> Result<Self, Rejection> {
        match bytes.len() {
            0 => Err(Rejection::ContentEmpty),
            size if size > limit => Err(Rejection::ContentTooLarge { size, limit }),
            _ => Ok(Self { content_type, bytes }),
        }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self {
            content_type: ContentType::text_plain(),
            bytes: text.into().into(),
        }
    }

    /// The content as text, where it is shown as text.
    pub fn as_text(&self) -> Option<&str> {
        self.content_type
            .is_textual()
            .then(|| std::str::from_utf8(&self.bytes).ok())
            .flatten()
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({:?}, {} bytes)", self.content_type, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_follow_the_grammar() {
        for good in [
            "text/plain",
            "image/svg+xml",
            "text/plain; charset=utf-8",
            "application/vnd.a.b+json",
        ] {
            assert_eq!(ContentType::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "text",
            "text/",
            "/plain",
            "text/pl ain",
            "text/plain\r\nX: y",
            "a/b/c",
            "ä/b",
        ] {
            assert_eq!(ContentType::parse(bad), Err(Invalid::ContentType), "{bad:?}");
        }
        assert_eq!(
            ContentType::parse(&format!("text/{}", "x".repeat(123))),
            Err(Invalid::ContentType)
        );
    }

    #[test]
    fn text_types_in_valid_utf8_are_text_and_all_else_is_data() {
        let shown = |kind: &str, bytes: &'static [u8]| {
            let content_type = ContentType::parse(kind).unwrap();
            Content {
                content_type,
                bytes: Bytes::from_static(bytes),
            }
            .as_text()
            .map(str::to_owned)
        };
        for kind in [
            "text/plain",
            "TEXT/HTML; charset=utf-8",
            "application/json",
            "a/b+json",
            "image/svg+xml",
        ] {
            assert_eq!(shown(kind, b"hi").as_deref(), Some("hi"), "{kind}");
            assert_eq!(shown(kind, &[0xff]), None, "{kind}");
        }
        assert_eq!(shown("image/png", b"hi"), None);
    }
}
