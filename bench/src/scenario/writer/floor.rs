//! The least that any design must do: multi-row INSERTs into `messages`, on one connection, as durable.

use std::time::Duration;

use chat_tests::Database;
use sea_orm::{ConnectionTrait, Statement, TransactionTrait};

use super::CONTENT;
use crate::{fill::prepared, window::Window};

pub(super) async fn measure(database: &Database, rows: usize, length: Duration) -> anyhow::Result<f64> {
    let pool = prepared(database).await?.pool;
    let data = vec![b'x'; CONTENT];
    let row = "(?,?,?,UNIX_TIMESTAMP(),NULL,?,'text/plain',?,?)";
    let insert = format!(
        "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, \
         conversation_id, seq) VALUES {}",
        vec![row; rows].join(",")
    );
    let window = Window::new(length);
    let (mut id, mut done) = (0_i64, 0);
    while !window.is_over() {
        let mut values = Vec::with_capacity(rows * 6);
        for sender in 0..rows as i64 {
            id += 1;
            values.extend([
                id.into(),
                format!("user-{sender}").into(),
                format!("user-{}", sender / 2).into(),
                data.clone().into(),
                sender.into(),
                id.into(),
            ]);
        }
        let transaction = pool.begin().await?;
        transaction
            .execute_raw(Statement::from_sql_and_values(
                pool.get_database_backend(),
                &insert,
                values,
            ))
            .await?;
        transaction.commit().await?;
        done += rows as u64 * u64::from(window.counts());
    }
    Ok(window.rate(done))
}
