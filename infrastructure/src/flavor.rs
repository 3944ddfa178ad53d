//! Which database it is, and where the databases differ in their SQL.

use sea_orm::DbBackend;

/// Which database it is, where that makes a difference to the SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    Sqlite,
    MariaDb,
    MySql,
}

impl Flavor {
    pub(crate) fn backend(self) -> DbBackend {
        match self {
            Self::Sqlite => DbBackend::Sqlite,
            Self::MariaDb | Self::MySql => DbBackend::MySql,
        }
    }
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

    /// The type that CAST makes a number of, for a column that is unsigned in the legacy table.
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
                let set: Vec<_> = columns.iter().map(|c| format!("{c} = excluded.{c}")).collect();
                format!("ON CONFLICT ({key}) DO UPDATE SET {}", set.join(","))
            }
            Self::MariaDb | Self::MySql => {
                let set: Vec<_> = columns.iter().map(|c| format!("{c} = VALUES({c})")).collect();
                format!("ON DUPLICATE KEY UPDATE {}", set.join(","))
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
