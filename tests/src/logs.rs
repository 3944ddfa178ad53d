//! Long logs, written by SQL in moments: events with their projections as the writer would have left them, so that
//! `verify` finds nothing.

use chat_domain::Position;
use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};

use crate::{Database, Kind};

/// Messages to be appended to a log. Of eleven, ten go from one user to another; the eleventh goes from that other
/// one to somebody else, in turn, so that the conversation stands among many others.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    pub messages: i64,
    pub from: &'a str,
    pub to: &'a str,
    /// How many others there are; their ids are this name and a number.
    pub others: i64,
    pub other: &'a str,
    /// How many bytes of text each message has.
    pub bytes: i64,
}

/// Where the filled messages are.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// The position before the first one.
    pub after: Position,
    pub last: Position,
    /// When the first one would have been sent, in whole seconds; those that follow are a millisecond apart.
    pub second: i64,
    /// How many messages the main conversation has.
    pub main: i64,
}

impl Filled {
    /// The `_id` of a message of the main conversation.
    pub fn id(&self, seq: i64) -> Position {
        self.after + seq + (seq - 1) / 10
    }

    /// Its `sent_at`.
    pub fn sent_at(&self, seq: i64) -> i64 {
        self.second + (self.id(seq) - self.after) / 1000
    }
}

/// Fills a log whose schema is there, while no server runs on it. The conversations must be new.
pub async fn fill(database: &Database, fill: &Fill<'_>) -> Filled {
    let Fill {
        messages,
        from,
        to,
        others,
        other,
        bytes,
    } = *fill;
    let root = database.root().await;
    let begun = root.begin().await.expect("a transaction");
    let txn = Txn {
        txn: begun,
        kind: database.kind(),
    };
    let after = database.number("SELECT position FROM log_head").await;
    // In the past, and after what is there.
    let latest = database.number("SELECT last_time FROM log_head").await;
    let second = if latest == 0 {
        1_700_000_000
    } else {
        latest / 1_000_000 + 1
    };
    let last = after + messages;

    // The i-th message is in conversation k; 0 is the main one. `first` is the i of that conversation's first message.
    let div = txn.div();
    let rows = format!(
        "SELECT i, CASE WHEN i % 11 > 0 THEN 0 ELSE (i {div} 11 - 1) % {others} + 1 END AS k, \
         CASE WHEN i % 11 > 0 THEN i - i {div} 11 ELSE (i {div} 11 - 1) {div} {others} + 1 END AS seq FROM n"
    );
    let number = txn.concat(&[&txn.text(other), "k"]);
    let key = txn.concat(&[&format!("'fill-{after}-'"), &txn.padded("i")]);
    let content = match txn.kind {
        Kind::Sqlite => format!(
            "CAST(substr(i || '{}', 1, {bytes}) AS BLOB)",
            "x".repeat(usize::try_from(bytes).expect("a size"))
        ),
        _ => format!("RPAD(i, {bytes}, 'x')"),
    };
    txn.run(&format!(
        "INSERT INTO outbox (position, type, conversation_id, actor_id, via, command_key, command_hash, occurred_at, \
         receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields) \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {messages}), m AS ({rows}) \
         SELECT {after} + i, 'message.sent', {after} + CASE WHEN k = 0 THEN 1 ELSE k * 11 END, \
         CASE WHEN k = 0 THEN {from} ELSE {to} END, NULL, {key}, {hash}, {second} * 1000000 + i * 1000, \
         CASE WHEN k = 0 THEN {to} ELSE {number} END, seq, NULL, NULL, seq - 1, 'text/plain', {content}, NULL FROM m",
        from = txn.text(from),
        to = txn.text(to),
        hash = format_args!("x'{}'", "00".repeat(32)),
    ))
    .await;
    txn.run(&format!(
        "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, conversation_id, seq) \
         SELECT position, actor_id, receiver_id, occurred_at {div} 1000000, NULL, content, content_type, \
         conversation_id, seq FROM outbox WHERE position > {after}"
    ))
    .await;
    let (least, greatest) = match txn.kind {
        Kind::Sqlite => ("MIN", "MAX"),
        _ => ("LEAST", "GREATEST"),
    };
    let name = txn.concat(&[
        &format!("{least}(b.actor_id, b.receiver_id)"),
        "','",
        &format!("{greatest}(b.actor_id, b.receiver_id)"),
    ]);
    txn.run(&format!(
        "INSERT INTO conversations (id, name, seq, last_position, last_message_id) \
         SELECT b.position, {name}, c.seq, c.last, c.last FROM (SELECT conversation_id, MAX(seq) AS seq, \
         MAX(position) AS last FROM outbox WHERE position > {after} GROUP BY conversation_id) c \
         JOIN outbox b ON b.position = c.conversation_id"
    ))
    .await;
    for (user, mark) in [("actor_id", "c.seq"), ("receiver_id", "0")] {
        txn.run(&format!(
            "INSERT INTO participants (user_id, conversation_id, from_position, to_position, received_seq, read_seq) \
             SELECT b.{user}, c.id, c.id, NULL, {mark}, {mark} FROM conversations c \
             JOIN outbox b ON b.position = c.id WHERE c.id > {after}"
        ))
        .await;
    }
    txn.run(&format!(
        "UPDATE log_head SET position = {last}, last_time = {second} * 1000000 + {messages} * 1000 WHERE id = 1"
    ))
    .await;
    // Nobody has received anything, so there is nothing to project.
    txn.run(&format!(
        "UPDATE checkpoints SET position = {last} WHERE name = 'received_at'"
    ))
    .await;
    txn.txn.commit().await.expect("the log is committed");
    Filled {
        after,
        last,
        second,
        main: messages - messages / 11,
    }
}

struct Txn {
    txn: DatabaseTransaction,
    kind: Kind,
}

impl Txn {
    async fn run(&self, sql: &str) {
        let setting = match self.kind {
            Kind::Sqlite => None,
            Kind::MariaDb => Some("SET SESSION max_recursive_iterations = 100000000, unique_checks = 0"),
            Kind::MySql => Some("SET SESSION cte_max_recursion_depth = 100000000, unique_checks = 0"),
        };
        for sql in setting.into_iter().chain([sql]) {
            let done = self.txn.execute_unprepared(sql).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    fn div(&self) -> &'static str {
        if self.kind == Kind::Sqlite { "/" } else { "DIV" }
    }

    fn text(&self, text: &str) -> String {
        format!("'{text}'")
    }

    fn concat(&self, parts: &[&str]) -> String {
        match self.kind {
            Kind::Sqlite => parts.join(" || "),
            _ => format!("CONCAT({})", parts.join(", ")),
        }
    }

    /// A number with leading zeros, so that an index over it grows at its end.
    fn padded(&self, number: &str) -> String {
        match self.kind {
            Kind::Sqlite => format!("printf('%08d', {number})"),
            _ => format!("LPAD({number}, 8, '0')"),
        }
    }
}
