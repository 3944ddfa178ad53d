//! Text of SQL, and where the databases differ in it.
//!
//! The writer sends several statements in one packet, which the servers take as text only, so values stand in the
//! text. What may stand there: identifiers and keys whose grammar was checked, numbers, and bytes in hex.

use std::fmt::{self, Write};

use chat_domain::ids::{ConversationId, UserId};
use sea_orm::Value;

use crate::database::Flavor;

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

/// The places of a list of numbers, and what stands there: the last number again up to the next power of two.
///
/// So there are few texts of a statement, each of which is prepared once. A text for each list would fill the cache of
/// prepared statements, and the server is told of each one that leaves it, by a message without an answer: what follows
/// waits for the server's delayed acknowledgement, 40 ms, as sqlx does not set TCP_NODELAY.
pub(crate) fn padded(numbers: impl IntoIterator<Item = i64>) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = numbers.into_iter().map(Value::from).collect();
    if let Some(last) = values.last().cloned() {
        values.resize(values.len().next_power_of_two(), last);
    }
    (list(std::iter::repeat_n('?', values.len())), values)
}

impl Flavor {
    /// The database's clock in microseconds since the Unix epoch, read when the row is written, not when the
    /// statement began: it may have waited for the lock in between.
    pub(crate) fn now_micros(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::MariaDb | Self::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
        }
    }

    pub(crate) fn greatest(self) -> &'static str {
        match self {
            Self::Sqlite => "MAX",
            Self::MariaDb | Self::MySql => "GREATEST",
        }
    }

    /// Keeps the time that was drawn into the head, where it has to be kept.
    pub(crate) fn keep_drawn_time(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::MariaDb | Self::MySql => "; SELECT last_time INTO @now FROM log_head WHERE id = 1",
        }
    }

    /// That time as a value.
    pub(crate) fn drawn_time(self) -> &'static str {
        match self {
            Self::Sqlite => "(SELECT last_time FROM log_head WHERE id = 1)",
            Self::MariaDb | Self::MySql => "@now",
        }
    }

    /// Statements that are answered together. MariaDB answers each by a packet of its own otherwise, and whoever waits
    /// for the last one is woken for each.
    pub(crate) fn together(self, statements: &str) -> String {
        match self {
            Self::MariaDb => format!("BEGIN NOT ATOMIC {statements}; END"),
            Self::MySql | Self::Sqlite => statements.to_owned(),
        }
    }

    /// Begins a transaction that writes.
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::MariaDb | Self::MySql => "START TRANSACTION",
        }
    }

    /// The whole seconds of a column of microseconds.
    pub(crate) fn seconds(self, column: &str) -> String {
        match self {
            Self::Sqlite => format!("{column} / 1000000"),
            Self::MariaDb | Self::MySql => format!("{column} DIV 1000000"),
        }
    }

    /// The type that CAST makes a number of, for a column that is unsigned in the seed's table.
    pub(crate) fn integer(self) -> &'static str {
        match self {
            Self::Sqlite => "INTEGER",
            Self::MariaDb | Self::MySql => "SIGNED",
        }
    }

    /// When a message that was there before the log was received, as its event says. Of all others, null.
    pub(crate) fn adopted_received_at(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(json_extract(fields, '$.received_at') AS INTEGER)",
            Self::MariaDb | Self::MySql => "CAST(JSON_EXTRACT(fields, '$.received_at') AS UNSIGNED)",
        }
    }

    /// What follows an INSERT so that a row with the same key is changed instead.
    pub(crate) fn on_conflict(self, key: &str, columns: &[&str]) -> String {
        match self {
            Self::Sqlite => {
                let set = list(columns.iter().map(|c| format!("{c} = excluded.{c}")));
                format!("ON CONFLICT ({key}) DO UPDATE SET {set}")
            }
            Self::MariaDb | Self::MySql => {
                let set = list(columns.iter().map(|c| format!("{c} = VALUES({c})")));
                format!("ON DUPLICATE KEY UPDATE {set}")
            }
        }
    }

    /// Names the index that a read must take: a planner that guesses from statistics makes the cost of a page
    /// follow the size of the table.
    pub(crate) fn force_index(self, index: Index) -> &'static str {
        match (self, index) {
            (Self::Sqlite, Index::OutboxPosition) => "NOT INDEXED",
            (_, Index::OutboxPosition) => "FORCE INDEX (PRIMARY)",
            (Self::Sqlite, Index::OutboxConversation) => "INDEXED BY outbox_conversation",
            (_, Index::OutboxConversation) => "FORCE INDEX (outbox_conversation)",
            (Self::Sqlite, Index::MessagesSeq) => "INDEXED BY messages_conversation_seq",
            (_, Index::MessagesSeq) => "FORCE INDEX (messages_conversation_seq)",
            (Self::Sqlite, Index::MessagesTime) => "INDEXED BY message_time_index",
            (_, Index::MessagesTime) => "FORCE INDEX (message_time_index)",
        }
    }

    /// Joins two tables in the order written.
    pub(crate) fn ordered_join(self) -> &'static str {
        match self {
            Self::Sqlite => "CROSS JOIN",
            Self::MariaDb | Self::MySql => "STRAIGHT_JOIN",
        }
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Index {
    OutboxPosition,
    OutboxConversation,
    MessagesSeq,
    MessagesTime,
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
