//! Messages that are there before something is measured: as many as one likes through the real writer, or millions of
//! rows by SQL.

use chat_domain::{
    command::{Action, Command},
    content::Content,
    ids::UserId,
    ports::EventLog,
};
use chat_infrastructure::{
    database::Database as Connected,
    location::Location,
    writer::{GroupCommit, WriterOptions, WriterTask},
};
use chat_tests::Database;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, task::JoinHandle};

const IN_FLIGHT: usize = 2000;

/// A database with the schema, ready to be written to.
pub(crate) async fn prepared(database: &Database) -> anyhow::Result<Connected> {
    let connected = Connected::connect(Location::parse(&database.url())?, 4).await?;
    chat_migration::up(&connected.pool).await?;
    Ok(connected)
}

/// The real writer on a database with the schema, and somebody who takes what it has committed.
pub(crate) struct Writing {
    writer: WriterTask,
    tail: JoinHandle<()>,
}

impl Writing {
    pub(crate) async fn start(database: &Database) -> anyhow::Result<(GroupCommit, Self)> {
        let connected = prepared(database).await?;
        let (committed, mut batches) = mpsc::channel(64);
        let tail = tokio::spawn(async move { while batches.recv().await.is_some() {} });
        let (log, writer) = GroupCommit::start(&connected, WriterOptions::default(), committed);
        Ok((log, Self { writer, tail }))
    }

    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.writer.stop().await;
        Ok(self.tail.await?)
    }
}

/// Sends so many messages, each from and to whom `users` says, as another node would beside one that serves.
pub(crate) async fn send(
    database: &Database,
    count: usize,
    content: usize,
    users: impl Fn(usize) -> (String, String),
) -> anyhow::Result<()> {
    let (log, writing) = Writing::start(database).await?;
    stream::iter(0..count)
        .map(|n| {
            let (sender, receiver) = users(n);
            let log = &log;
            async move {
                let command = Command {
                    actor_id: UserId::parse(&sender)?,
                    via: None,
                    key: GroupCommit::new_key(),
                    may_begin: true,
                    action: Action::SendMessage {
                        receiver_id: UserId::parse(&receiver)?,
                        content: Content::text("x".repeat(content)),
                    },
                };
                log.execute(command).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<()>()
        .await?;
    drop(log);
    writing.end().await
}

/// Makes a log of so many messages and their history, by the database itself: conversations of 1,000 messages each
/// between two users, `a0` and `b0`, `a1` and `b1`, …, which take turns, so that what belongs together lies far apart.
/// Nothing is left to be done behind the log.
pub(crate) async fn history(database: &Database, rows: usize) -> anyhow::Result<()> {
    prepared(database).await?;
    let conversations = rows / PER_CONVERSATION;
    database
        .execute(&format!(
            "INSERT INTO conversations (id, name, seq, last_position, last_message_id)
             SELECT seq, CONCAT('a', seq - 1, ',b', seq - 1), {PER_CONVERSATION}, last, last
             FROM (SELECT seq, {rows} - {conversations} + seq AS last FROM seq_1_to_{conversations}) AS numbered"
        ))
        .await;
    for side in ["a", "b"] {
        database
            .execute(&format!(
                "INSERT INTO participants (user_id, conversation_id, from_position, received_seq, read_seq)
                 SELECT CONCAT('{side}', seq - 1), seq, 0, 0, 0 FROM seq_1_to_{conversations}"
            ))
            .await;
    }
    for from in (0..rows).step_by(CHUNK) {
        let to = (from + CHUNK).min(rows);
        let numbered = format!(
            "SELECT seq AS position, MOD(seq - 1, {conversations}) AS pair,
                    (seq - 1) DIV {conversations} + 1 AS number, 1700000000 + seq DIV 10 AS second
             FROM seq_{}_to_{to}",
            from + 1
        );
        database
            .execute(&format!(
                "INSERT INTO outbox (position, type, conversation_id, actor_id, command_key, command_hash, occurred_at,
                                     receiver_id, seq, received_after, content_type, content)
                 SELECT position, 'message.sent', pair + 1, CONCAT('a', pair), position, REPEAT('h', 32),
                        second * 1000000, CONCAT('b', pair), number, number - 1, 'text/plain', REPEAT('x', {CONTENT})
                 FROM ({numbered}) AS numbered"
            ))
            .await;
        database
            .execute(&format!(
                "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, data, content_type, conversation_id, seq)
                 SELECT position, CONCAT('a', pair), CONCAT('b', pair), second, REPEAT('x', {CONTENT}), 'text/plain',
                        pair + 1, number
                 FROM ({numbered}) AS numbered"
            ))
            .await;
    }
    database
        .execute(&format!(
            "UPDATE checkpoints SET position = {rows};
             UPDATE log_head SET position = {rows}, last_time = (SELECT MAX(occurred_at) FROM outbox) WHERE id = 1"
        ))
        .await;
    Ok(())
}

/// Messages of a conversation of [`history`].
pub(crate) const PER_CONVERSATION: usize = 1000;
const CONTENT: usize = 100;
const CHUNK: usize = 500_000;
