//! Cursors: a place in one history of the log.
//!
//! An epoch names a history. Numbers mean the same in two epochs only up to the position where one followed the
//! other, so a cursor carries both. On the wire it is opaque.

use std::{fmt, sync::Arc};

use crate::{Position, rejection::Invalid};

/// The name of a history of the log: a few lower-case letters and digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    pub const MAX_LEN: usize = 16;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::Cursor)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Everything up to and with `position` in the history `epoch` has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub epoch: Epoch,
    pub position: Position,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.position)
    }
}

/// Where a reader wants to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// No cursor: from now.
    Now,
    /// `0`: from the beginning.
    Beginning,
    Cursor(Cursor),
}

impl After {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if text == "0" {
            return Ok(Self::Beginning);
        }
        let (epoch, position) = text.split_once(':').ok_or(Invalid::Cursor)?;
        let canonical = !position.starts_with(['+', '-']) && (position == "0" || !position.starts_with('0'));
        match position.parse::<Position>() {
            Ok(position) if canonical => Ok(Self::Cursor(Cursor {
                epoch: Epoch::parse(epoch)?,
                position,
            })),
            _ => Err(Invalid::Cursor),
        }
    }
}

/// Why the log cannot be followed from a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The cursor is past the end of the log.
    Ahead,
    /// The cursor belongs to another history.
    OtherEpoch,
    /// What follows the cursor is not there any more.
    Pruned,
}

impl ResetReason {
    pub const ALL: [Self; 3] = [Self::Ahead, Self::OtherEpoch, Self::Pruned];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::OtherEpoch => "other_epoch",
            Self::Pruned => "pruned",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_it_was_written() {
        let cursor = Cursor {
            epoch: Epoch::parse("k7f3q2").unwrap(),
            position: 4182,
        };
        assert_eq!(cursor.to_string(), "k7f3q2:4182");
        assert_eq!(After::parse("k7f3q2:4182"), Ok(After::Cursor(cursor)));
        assert_eq!(After::parse("0"), Ok(After::Beginning));
    }

    #[test]
    fn anything_else_is_no_cursor() {
        for bad in [
            "",
            "1",
            "k7f3q2",
            "k7f3q2:",
            "k:-1",
            "k:+1",
            "k:01",
            "K:1",
            "k:1:2",
            "k:9223372036854775808",
            "k: 1",
        ] {
            assert_eq!(After::parse(bad), Err(Invalid::Cursor), "{bad:?}");
        }
    }
}
