//! `messages`: a copy of each message from the log.

use chat_domain::{Position, event::MESSAGE_SENT};

use crate::flavor::Flavor;

/// Copies messages from the log into their projection, inside the database: their content crosses the wire once.
/// `received_at` is null but of messages that were there before the log.
pub(crate) fn copy(flavor: Flavor, first: Position, last: Position, received_at: &str) -> String {
    format!(
        "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, \
         conversation_id, seq) SELECT position, actor_id, receiver_id, {}, {received_at}, content, content_type, \
         conversation_id, seq FROM outbox WHERE position BETWEEN {first} AND {last} AND type = '{MESSAGE_SENT}'",
        flavor.seconds("occurred_at"),
    )
}
