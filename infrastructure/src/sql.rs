//! Text of SQL, and where the databases differ in it.
//!
//! The writer sends several statements in one packet, which the servers take as text only, so values stand in the
//! text. What may stand there: identifiers and keys whose grammar was checked, numbers, and bytes in hex.

use std::fmt::{self, Write};

use chat_domain::ids::{ConversationId, UserId};
use sea_orm::Value;

use crate::flavor::Flavor;

/// A value as it stands in a statement: made here, so that nothing else is put into one, and written straight into it.
#[derive(Clone, Copy)]
pub(crate) enum Literal<'v> {
    Null,
    Number(i64),
    /// Of a grammar that has neither quotes nor backslashes.
    Id(&'v str),
    Text {
        text: &'v str,
        /// Whether a backslash is a character like any other.
        is_plain: bool,
    },
    /// Text as bytes, which need not be as many again as in hex.
    TextBytes(&'v str),
    Hex(&'v [u8]),
}

impl fmt::Display for Literal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Null => f.write_str("NULL"),
            Self::Number(number) => number.fmt(f),
            Self::Id(id) => {
                f.write_char('\'')?;
                f.write_str(id)?;
                f.write_char('\'')
            }
            Self::Text { text, is_plain } => quote(f, text, is_plain),
            Self::TextBytes(text) => {
                f.write_str("_binary")?;
                quote(f, text, false)
            }
            Self::Hex(bytes) => {
                f.write_str("x'")?;
                let mut digits = [0; 256];
                for bytes in bytes.chunks(digits.len() / 2) {
                    let digits = &mut digits[..bytes.len() * 2];
                    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
                        pair[0] = HEX[usize::from(byte >> 4)];
                        pair[1] = HEX[usize::from(byte & 15)];
                    }
                    f.write_str(str::from_utf8(digits).map_err(|_| fmt::Error)?)?;
                }
                f.write_char('\'')
            }
        }
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// In quotes, with what would end them, or would not be itself, written twice.
fn quote(f: &mut fmt::Formatter<'_>, text: &str, is_plain: bool) -> fmt::Result {
    f.write_char('\'')?;
    let mut rest = text;
    while let Some(at) = rest.find(|c| c == '\'' || c == '\\' && !is_plain) {
        let (before, after) = rest.split_at(at + 1);
        f.write_str(before)?;
        f.write_str(&before[at..])?;
        rest = after;
    }
    f.write_str(rest)?;
    f.write_char('\'')
}

/// Text as a literal. The writer's session fixes `sql_mode`, so that a backslash escapes on MySQL and MariaDB.
pub(crate) fn text(flavor: Flavor, text: &str) -> Literal<'_> {
    let is_plain = flavor == Flavor::Sqlite;
    Literal::Text { text, is_plain }
}

pub(crate) fn optional_text(flavor: Flavor, value: Option<&str>) -> Literal<'_> {
    value.map_or(Literal::Null, |value| text(flavor, value))
}

/// Bytes as a literal. The servers take what is text as it is, which is half as long; SQLite ends a statement at a zero.
pub(crate) fn bytes(flavor: Flavor, bytes: &[u8]) -> Literal<'_> {
    match str::from_utf8(bytes) {
        Ok(text) if flavor != Flavor::Sqlite => Literal::TextBytes(text),
        _ => Literal::Hex(bytes),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> Literal<'_> {
    Literal::Hex(bytes)
}

pub(crate) fn user(id: &UserId) -> Literal<'_> {
    Literal::Id(id.as_str())
}

pub(crate) fn conversation(id: &ConversationId) -> Literal<'_> {
    Literal::Id(id.as_str())
}

pub(crate) fn optional_number(value: Option<i64>) -> Literal<'static> {
    value.map_or(Literal::Null, Literal::Number)
}

/// Literals with commas between.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut joined = String::new();
    for item in items {
        if !joined.is_empty() {
            joined.push(',');
        }
        // A string takes all that is written to it.
        let _ = write!(joined, "{item}");
    }
    joined
}

/// Placeholders and values of an IN list, padded with the last number to a power of two, so that few statement texts are
/// prepared.
///
/// With one text for each length, statements would leave the cache of prepared statements all the time. sqlx tells the
/// server of each one that leaves, in a message without an answer, and the next message then waits 40 ms for the server's
/// delayed acknowledgement, as sqlx does not set TCP_NODELAY.
pub(crate) fn padded(numbers: impl IntoIterator<Item = i64>) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = numbers.into_iter().map(Value::from).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    (list(std::iter::repeat_n('?', values.len())), values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_literal() {
        assert_eq!(text(Flavor::Sqlite, "a'b\\").to_string(), "'a''b\\'");
        assert_eq!(text(Flavor::MariaDb, "a'b\\").to_string(), "'a''b\\\\'");
        assert_eq!(
            text(Flavor::MySql, "\\' OR 1=1 --").to_string(),
            "'\\\\'' OR 1=1 --'"
        );
    }

    #[test]
    fn lists_of_many_lengths_have_few_texts() {
        let (places, values) = padded([7, 8, 9]);
        assert_eq!(places, "?,?,?,?");
        assert_eq!(values, [7_i64, 8, 9, 9].map(Value::from));
        let texts: std::collections::HashSet<_> = (1..=500).map(|n| padded(0..n).0).collect();
        assert_eq!(texts.len(), 10);
    }

    #[test]
    fn bytes_are_hex_unless_they_are_text_for_a_server() {
        assert_eq!(hex(&[]).to_string(), "x''");
        assert_eq!(hex(&[0, 0x27, 0xff]).to_string(), "x'0027ff'");
        let long: Vec<_> = (0..300).map(|n| (n % 256) as u8).collect();
        let expected: String = long.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex(&long).to_string(), format!("x'{expected}'"));
        assert_eq!(bytes(Flavor::Sqlite, b"hi").to_string(), "x'6869'");
        assert_eq!(
            bytes(Flavor::MySql, "it's \\ \0 é".as_bytes()).to_string(),
            "_binary'it''s \\\\ \0 é'"
        );
        assert_eq!(bytes(Flavor::MariaDb, &[0xff, 0x27]).to_string(), "x'ff27'");
    }
}
