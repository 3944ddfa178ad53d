//! The conversations of a user.

use chat_domain::{ids::UserId, views};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Binary, Message, message};
use crate::terms;

#[derive(Debug, Serialize, ToSchema)]
pub struct Conversations<'a> {
    /// The one with the newest message first.
    #[schema(max_items = 200)]
    pub conversations: Vec<Conversation<'a>>,
    /// Where the page goes on.
    #[schema(
        required = true,
        example = "/v1/conversations?before=4182&limit=50",
        max_length = 512
    )]
    pub next: Option<String>,
    /// Taken before the page was read: a stream from here misses nothing that the page does not show.
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Conversation<'a> {
    #[schema(value_type = terms::ConversationId)]
    pub conversation_id: &'a str,
    /// The other one; null for a room.
    #[schema(value_type = Option<terms::UserId>, required = true)]
    pub with: Option<String>,
    /// How many messages there are.
    #[schema(value_type = terms::Seq)]
    pub seq: i64,
    /// How many of them the caller has not marked as read.
    #[schema(value_type = terms::Count)]
    pub unread: i64,
    /// Null where there is none, or none that the caller may see.
    #[schema(required = true)]
    pub last_message: Option<Message<'a>>,
    /// Sorted by user id.
    pub participants: Vec<Participant<'a>>,
    /// Whether these are all. A conversation with many may come to list some of them.
    pub participants_complete: bool,
}

/// How far somebody has received and read: the `seq` of the last such message, 0 for none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Participant<'a> {
    #[schema(value_type = terms::UserId)]
    pub user_id: &'a str,
    #[schema(value_type = terms::Seq)]
    pub received_seq: i64,
    #[schema(value_type = terms::Seq)]
    pub read_seq: i64,
}

/// Bytes of the names, the numbers and the punctuation of a conversation and of a participant as JSON, at most.
const FIELDS: usize = 192;
const PARTICIPANT_FIELDS: usize = 96;

/// Bytes of a conversation as JSON, at most.
pub fn json_length(view: &views::ConversationView) -> usize {
    let participants = view.participants.iter();
    let participants =
        participants.map(|participant| PARTICIPANT_FIELDS + participant.user_id.as_str().len());
    // The other one's id is a part of the conversation's.
    FIELDS
        + 2 * view.conversation_id.as_str().len()
        + participants.sum::<usize>()
        + view.last_message.as_ref().map_or(0, message::json_length)
}

impl<'a> Conversation<'a> {
    pub fn new(view: &'a views::ConversationView, reader: &UserId, binary: &mut Binary) -> Self {
        let participant = |participant: &'a views::ParticipantView| Participant {
            user_id: participant.user_id.as_str(),
            received_seq: participant.received_seq,
            read_seq: participant.read_seq,
        };
        Self {
            conversation_id: view.conversation_id.as_str(),
            with: view
                .conversation_id
                .peer_of(reader)
                .map(|peer| peer.as_str().to_owned()),
            seq: view.seq,
            unread: view.unread,
            last_message: view
                .last_message
                .as_ref()
                .map(|message| Message::new(message, binary)),
            participants: view.participants.iter().map(participant).collect(),
            participants_complete: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use chat_domain::ids::ConversationId;

    use super::*;

    #[test]
    fn what_is_counted_is_no_less_than_what_is_written() {
        let user = |name: &str| UserId::parse(name).unwrap();
        let participant = |name: &str| views::ParticipantView {
            user_id: user(name),
            received_seq: i64::MAX,
            read_seq: i64::MAX,
        };
        for participants in [vec![], vec![participant("alice"), participant("bob")]] {
            let view = views::ConversationView {
                conversation_id: ConversationId::direct(&user("alice"), &user("bob")),
                seq: i64::MAX,
                unread: i64::MAX,
                last_message: None,
                participants,
            };
            let written = Conversation::new(&view, &user("alice"), &mut Binary::Base64);
            let written = serde_json::to_vec(&written).unwrap().len();
            let counted = json_length(&view);
            assert!(
                (written..written + 300).contains(&counted),
                "{counted} of {written}"
            );
        }
    }
}
