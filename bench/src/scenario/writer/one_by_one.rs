//! The naive outbox: one transaction a message, under the same head lock, from several connections at once.

use std::time::Duration;

use chat_tests::Database;
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait,
    Value,
};

use super::CONTENT;
use crate::{fill::prepared, window::Window};

const CONNECTIONS: u32 = 32;

pub(super) async fn measure(database: &Database, length: Duration) -> anyhow::Result<f64> {
    prepared(database).await?;
    let mut options = ConnectOptions::new(database.url());
    options
        .max_connections(CONNECTIONS)
        .min_connections(CONNECTIONS)
        .sqlx_logging(false);
    let pool = sea_orm::Database::connect(options).await?;
    // Each sender writes to itself, so that the conversations are as many as the senders.
    for sender in 1..=i64::from(CONNECTIONS) {
        let insert =
            "INSERT INTO conversations (id, name, seq, last_position, last_message_id) VALUES (?,?,0,0,0)";
        run(
            &pool,
            insert,
            [sender.into(), format!("user-{sender},user-{sender}").into()],
        )
        .await?;
    }
    let window = Window::new(length);
    let senders: Vec<_> = (1..=i64::from(CONNECTIONS))
        .map(|sender| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut counted = 0;
                while !window.is_over() {
                    send(&pool, sender).await?;
                    counted += u64::from(window.counts());
                }
                anyhow::Ok(counted)
            })
        })
        .collect();
    let mut done = 0;
    for sender in senders {
        done += sender.await??;
    }
    Ok(window.rate(done))
}

async fn send(pool: &DatabaseConnection, sender: i64) -> anyhow::Result<()> {
    let txn = pool.begin().await?;
    run(
        &txn,
        "UPDATE log_head SET position = position + 1 WHERE id = 1",
        [],
    )
    .await?;
    let position = one(&txn, "SELECT position FROM log_head WHERE id = ?", 1).await?;
    let seq = one(&txn, "SELECT seq FROM conversations WHERE id = ?", sender).await? + 1;
    let user = format!("user-{sender}");
    run(
        &txn,
        "INSERT INTO outbox (position, type, conversation_id, actor_id, command_key, command_hash, occurred_at, \
         receiver_id, seq, received_after, content_type, content) \
         VALUES (?, 'message.sent', ?, ?, ?, ?, 0, ?, ?, 0, 'text/plain', ?)",
        [
            position.into(),
            sender.into(),
            user.clone().into(),
            position.to_string().into(),
            vec![0; 32].into(),
            user.clone().into(),
            seq.into(),
            vec![b'x'; CONTENT].into(),
        ],
    )
    .await?;
    run(
        &txn,
        "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, data, content_type, conversation_id, seq) \
         VALUES (?, ?, ?, UNIX_TIMESTAMP(), ?, 'text/plain', ?, ?)",
        [
            position.into(),
            user.clone().into(),
            user.into(),
            vec![b'x'; CONTENT].into(),
            sender.into(),
            seq.into(),
        ],
    )
    .await?;
    let update = "UPDATE conversations SET seq = ?, last_position = ?, last_message_id = ? WHERE id = ?";
    run(
        &txn,
        update,
        [seq.into(), position.into(), position.into(), sender.into()],
    )
    .await?;
    txn.commit().await?;
    Ok(())
}

async fn run(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
) -> anyhow::Result<()> {
    let backend = connection.get_database_backend();
    connection
        .execute_raw(Statement::from_sql_and_values(backend, sql, values))
        .await?;
    Ok(())
}

async fn one(txn: &DatabaseTransaction, sql: &str, id: i64) -> anyhow::Result<i64> {
    let statement = Statement::from_sql_and_values(txn.get_database_backend(), sql, [id.into()]);
    let row = txn
        .query_one_raw(statement)
        .await?
        .ok_or_else(|| anyhow::anyhow!("no row for {sql}"))?;
    Ok(row.try_get_by_index(0)?)
}
