//! A log as it is often written, and wrongly: positions are drawn without the lock that the product holds until its
//! COMMIT. It stands here so that the tests show that they would notice.

use chat_domain::Position;
use sea_orm::sqlx::{self, Connection, MySqlConnection};

use crate::Database;

/// Writes into the product's tables, on MariaDB or MySQL. The position is drawn by a statement of its own, as an
/// AUTO_INCREMENT is, and the row becomes visible when a transaction commits that began later.
#[derive(Debug)]
pub struct UnlockedLog {
    connection: MySqlConnection,
}

impl UnlockedLog {
    /// The schema must be there.
    pub async fn connect(database: &Database) -> UnlockedLog {
        let connection = MySqlConnection::connect(&database.url()).await;
        UnlockedLog {
            connection: connection.expect("the user may connect"),
        }
    }

    pub async fn send(&mut self, from: &str, to: &str, text: &str) -> Position {
        self.try_send(from, to, text)
            .await
            .unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
    }

    async fn try_send(&mut self, from: &str, to: &str, text: &str) -> Result<Position, sqlx::Error> {
        let draw = "UPDATE log_head SET position = LAST_INSERT_ID(position + 1) WHERE id = 1";
        let drawn = sqlx::query(draw)
            .execute(&mut self.connection)
            .await?
            .last_insert_id();
        let position = Position::try_from(drawn).expect("positions are small");
        let mut transaction = self.connection.begin().await?;
        let insert = "INSERT INTO outbox (position, type, conversation_id, actor_id, via, command_key, command_hash, \
             occurred_at, receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields) \
             VALUES (?, 'message.sent', 1, ?, NULL, ?, ?, 0, ?, 1, NULL, NULL, 0, 'text/plain', ?, NULL)";
        sqlx::query(insert)
            .bind(position)
            .bind(from)
            .bind(position.to_string())
            .bind([0_u8; 32].as_slice())
            .bind(to)
            .bind(text.as_bytes())
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(position)
    }
}
