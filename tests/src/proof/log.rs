//! What the database holds in the end, as the checker looks at it.

use std::collections::BTreeMap;

use chat_domain::Position;

use crate::{Database, inside};

#[derive(Clone, Debug, Default)]
pub struct Log {
    pub epoch: String,
    pub head: Position,
    /// Each epoch that ended, with the last position that it kept, in the order in which they ended.
    pub epochs: Vec<(String, Position)>,
    /// In order.
    pub rows: Vec<Row>,
    /// What each participant has received and read of a conversation.
    pub marks: BTreeMap<(String, String), (i64, i64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub position: Position,
    pub kind: String,
    pub conversation: String,
    pub actor: String,
    pub receiver: String,
    pub key: String,
    pub occurred_at: i64,
    pub seq: i64,
    pub up_to: Option<(Position, i64)>,
    pub content: Vec<u8>,
}

impl Log {
    pub async fn read(database: &Database) -> Log {
        let epochs = inside::rows(database, "epochs", "epoch, last_position", "last_position").await;
        let epochs = epochs.iter().map(|row| {
            let (epoch, last) = row.split_once('|').expect("two columns");
            (epoch.to_owned(), number(last))
        });
        let marks = inside::rows(
            database,
            "participants p JOIN conversations c ON c.id = p.conversation_id",
            "p.user_id, c.name, p.received_seq, p.read_seq",
            "p.user_id",
        )
        .await;
        let marks = marks.iter().map(|row| {
            let [user, conversation, received, read] = columns(row);
            (
                (user.into(), conversation.into()),
                (number(received), number(read)),
            )
        });
        let rows = inside::rows(
            database,
            "outbox o JOIN conversations c ON c.id = o.conversation_id",
            "o.position, o.type, c.name, o.actor_id, o.receiver_id, o.command_key, o.occurred_at, o.seq, \
             o.up_to_id, o.up_to_seq, HEX(o.content)",
            "o.position",
        )
        .await;
        Log {
            epoch: database.text("SELECT epoch FROM log_head").await,
            head: database.number("SELECT position FROM log_head").await,
            epochs: epochs.collect(),
            rows: rows.iter().map(|row| Row::parse(row)).collect(),
            marks: marks.collect(),
        }
    }
}

impl Row {
    fn parse(line: &str) -> Row {
        let [
            position,
            kind,
            conversation,
            actor,
            receiver,
            key,
            occurred_at,
            seq,
            up_to_id,
            up_to_seq,
            content,
        ] = columns(line);
        Row {
            position: number(position),
            kind: kind.into(),
            conversation: conversation.into(),
            actor: actor.into(),
            receiver: receiver.into(),
            key: key.into(),
            occurred_at: number(occurred_at),
            seq: number(seq),
            up_to: (up_to_id != "NULL").then(|| (number(up_to_id), number(up_to_seq))),
            content: if content == "NULL" {
                Vec::new()
            } else {
                unhex(content)
            },
        }
    }

    /// Whether it is a message.
    pub fn is_message(&self) -> bool {
        self.kind == "message.sent"
    }

    /// Whether somebody may see it.
    pub fn concerns(&self, user: &str) -> bool {
        self.actor == user || self.receiver == user
    }
}

/// None of what is asked for here can hold a `|`.
fn columns<const COUNT: usize>(line: &str) -> [&str; COUNT] {
    let columns: Vec<_> = line.split('|').collect();
    columns.try_into().unwrap_or_else(|_| panic!("{line}"))
}

fn number(text: &str) -> i64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("HEX gives digits");
    (0..text.len()).step_by(2).map(digit).collect()
}
