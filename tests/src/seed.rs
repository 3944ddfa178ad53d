//! The table of the chat that was there before this one.

use crate::Database;

/// To the letter, as the chat before this one told its users to make it.
const SEED: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS messages(
   _id INT UNSIGNED NOT NULL AUTO_INCREMENT,
   sender_id VARCHAR(32) NOT NULL,
   reciver_id VARCHAR(32) NOT NULL,
   sent_at INT UNSIGNED NOT NULL,
   recived_at INT UNSIGNED,
   data LONGBLOB,
   PRIMARY KEY (_id)
);",
    "CREATE INDEX message_time_index ON messages (sent_at);",
];

/// Makes the table, empty.
pub async fn make(database: &Database) {
    for sql in SEED {
        database.execute(sql).await;
    }
}
