//! Looks into the tables themselves: what the projections hold row by row, and what the log says that somebody may see.

use chat_domain::Position;
use sea_orm::{ConnectionTrait, Statement};

use crate::{Database, Kind};

/// The tables that `rebuild` makes anew, with the expression of each column that stands in a dump, and their order.
pub const PROJECTIONS: [(&str, &str, &str); 4] = [
    (
        "messages",
        "_id, sender_id, reciver_id, sent_at, recived_at, HEX(data), content_type, conversation_id, seq",
        "_id",
    ),
    (
        "conversations",
        "id, name, seq, last_position, last_message_id",
        "id",
    ),
    (
        "participants",
        "user_id, conversation_id, from_position, to_position, received_seq, read_seq",
        "conversation_id, user_id",
    ),
    ("checkpoints", "name, position", "name"),
];

/// Every row of every projection as a line of text.
pub async fn projections(database: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    for (table, columns, order) in PROJECTIONS {
        for line in rows(database, table, columns, order).await {
            lines.push(format!("{table}: {line}"));
        }
    }
    lines
}

/// The rows of a table, each as a line of text, its columns with `|` between.
pub async fn rows(database: &Database, from: &str, columns: &str, order: &str) -> Vec<String> {
    let columns: Vec<_> = columns
        .split(", ")
        .map(|column| format!("COALESCE(CAST({column} AS CHAR), 'NULL')"))
        .collect();
    let sql = format!(
        "SELECT CONCAT_WS('|', {}) AS line FROM {from} ORDER BY {order}",
        columns.join(", ")
    );
    lines(database, &sql).await
}

/// The first column of a query as root, which is text.
pub async fn lines(database: &Database, sql: &str) -> Vec<String> {
    let query = Statement::from_string(database.backend(), sql);
    let rows = database.root().await.query_all_raw(query).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let text = |row: &sea_orm::QueryResult| {
        let text = row.try_get_by_index::<String>(0);
        text.unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    rows.iter().map(text).collect()
}

/// An event of the log, as far as it decides who may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub position: Position,
    pub kind: String,
    pub actor_id: String,
    pub receiver_id: String,
}

impl Logged {
    /// By the letter, whatever the database's collation makes equal.
    pub fn concerns(&self, user: &str) -> bool {
        self.actor_id == user || self.receiver_id == user
    }
}

/// The log after a position.
pub async fn log(database: &Database, after: Position) -> Vec<Logged> {
    let from = format!("outbox WHERE position > {after}");
    let rows = rows(
        database,
        &from,
        "position, type, actor_id, receiver_id",
        "position",
    )
    .await;
    let logged = |row: &String| {
        let columns: Vec<_> = row.split('|').collect();
        let [position, kind, actor_id, receiver_id] = columns[..] else {
            panic!("{row}")
        };
        Logged {
            position: position.parse().expect("a position is a number"),
            kind: kind.into(),
            actor_id: actor_id.into(),
            receiver_id: receiver_id.into(),
        }
    };
    rows.iter().map(logged).collect()
}

/// The statements that make the tables as they are, without what only says how far the counting has come.
pub async fn schema(database: &Database) -> Vec<String> {
    if database.kind() == Kind::Sqlite {
        let sql =
            "SELECT type || ' ' || name || ': ' || COALESCE(sql, '') FROM sqlite_master ORDER BY type, name";
        return lines(database, sql).await;
    }
    let tables = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name";
    let mut schema = Vec::new();
    for table in lines(database, tables).await {
        let query = Statement::from_string(database.backend(), format!("SHOW CREATE TABLE `{table}`"));
        let row = database.root().await.query_one_raw(query).await;
        let row = row.expect("the table is there").expect("one row");
        schema.push(row.try_get_by_index::<String>(1).expect("a statement"));
    }
    schema
}

/// Takes the end of the log away, with what was projected from it: messages from alice that nobody has read.
pub async fn go_back(database: &Database, to: i64) {
    let marks =
        "SELECT COALESCE(MAX(seq), 0) FROM messages m WHERE m.conversation_id = participants.conversation_id";
    let begin = if database.kind() == Kind::Sqlite {
        "BEGIN IMMEDIATE"
    } else {
        "BEGIN"
    };
    database
        .execute(&format!(
            "{begin}; UPDATE log_head SET position = {to}; DELETE FROM outbox WHERE position > {to}; \
             DELETE FROM messages WHERE _id > {to}; \
             UPDATE conversations SET last_position = {to}, last_message_id = {to}, \
             seq = (SELECT MAX(seq) FROM messages m WHERE m.conversation_id = conversations.id); \
             UPDATE participants SET received_seq = ({marks}), read_seq = ({marks}) WHERE user_id = 'alice'; COMMIT"
        ))
        .await;
}
