//! `conversations`: how far each conversation has come.

use std::fmt;

use chat_domain::{facts::Conversation, ids::ConversationId};

use crate::{flavor::Flavor, sql};

pub(crate) fn upsert<'f>(
    flavor: Flavor,
    rows: impl Iterator<Item = (&'f ConversationId, &'f Conversation)>,
) -> String {
    let rows = sql::list(rows.map(|(id, c)| {
        let Conversation {
            number,
            seq,
            last_position,
            last_message_id,
        } = c;
        let (number, name) = (number.0, sql::conversation(id));
        fmt::from_fn(move |f| write!(f, "({number},{name},{seq},{last_position},{last_message_id})"))
    }));
    format!(
        "INSERT INTO conversations (id, name, seq, last_position, last_message_id) VALUES {rows} {}",
        flavor.on_conflict("id", &["seq", "last_position", "last_message_id"])
    )
}
