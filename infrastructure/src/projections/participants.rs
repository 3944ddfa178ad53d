//! `participants`: what each user may see of a conversation, and how far that user has received and read it.

use std::fmt;

use chat_domain::{
    facts::Participant,
    ids::{ConversationNumber, UserId},
};

use crate::{flavor::Flavor, sql};

pub(crate) fn upsert<'f>(
    flavor: Flavor,
    rows: impl Iterator<Item = (ConversationNumber, &'f UserId, &'f Participant)>,
) -> String {
    let rows = sql::list(rows.map(|(number, user, p)| {
        let to = sql::optional_number(p.to_position);
        let (from, received, read) = (p.from_position, p.received_seq, p.read_seq);
        let (user, number) = (sql::user(user), number.0);
        fmt::from_fn(move |f| write!(f, "({user},{number},{from},{to},{received},{read})"))
    }));
    format!(
        "INSERT INTO participants (user_id, conversation_id, from_position, to_position, received_seq, read_seq) \
         VALUES {rows} {}",
        flavor.on_conflict(
            "user_id, conversation_id",
            &["to_position", "received_seq", "read_seq"]
        )
    )
}
