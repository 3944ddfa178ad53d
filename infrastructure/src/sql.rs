//! Text of SQL, and where the databases differ in it.
//!
//! The writer sends several statements in one packet, which the servers take as text only, so values stand in the
//! text. What may stand there: identifiers and keys whose grammar was checked, numbers, and bytes in hex.

use chat_domain::ids::{ConversationId, UserId};

use crate::database::Flavor;

/// Marks a literal that [`text`] or [`hex`] made, or a number, so that nothing else is put into a statement.
pub(crate) struct Literal(String);

impl std::fmt::Display for Literal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text as a literal. The writer's session fixes `sql_mode`, so that a backslash escapes on MySQL and MariaDB.
pub(crate) fn text(flavor: Flavor, text: &str) -> Literal {
    let quoted = text.replace('\'', "''");
    Literal(match flavor {
        Flavor::Sqlite => format!("'{quoted}'"),
        Flavor::MariaDb | Flavor::MySql => format!("'{}'", quoted.replace('\\', "\\\\")),
    })
}

pub(crate) fn optional_text(flavor: Flavor, value: Option<&str>) -> Literal {
    value.map_or_else(|| Literal("NULL".into()), |value| text(flavor, value))
}

/// Bytes as a literal.
pub(crate) fn hex(bytes: &[u8]) -> Literal {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut literal = String::with_capacity(bytes.len() * 2 + 3);
    literal.push_str("x'");
    for byte in bytes {
        literal.push(char::from(DIGITS[usize::from(byte >> 4)]));
        literal.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    literal.push('\'');
    Literal(literal)
}

pub(crate) fn user(id: &UserId) -> Literal {
    Literal(format!("'{id}'"))
}

pub(crate) fn conversation(id: &ConversationId) -> Literal {
    Literal(format!("'{id}'"))
}

pub(crate) fn optional_number(value: Option<i64>) -> Literal {
    Literal(value.map_or_else(|| "NULL".into(), |value| value.to_string()))
}

/// Literals with commas between.
pub(crate) fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut joined = String::new();
    for item in items {
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&item.to_string());
    }
    joined
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
    fn bytes_are_hex() {
        assert_eq!(hex(&[]).to_string(), "x''");
        assert_eq!(hex(&[0, 0x27, 0xff]).to_string(), "x'0027ff'");
    }
}
