//! The rules. `decide` is pure and total: everything that it needs is in the command and the facts.

use crate::{
    command::{Action, Command, ReceiptKind},
    event::{Event, UpTo},
    facts::{Earlier, Facts},
    ids::ConversationId,
    rejection::Rejection,
};

/// What a command leads to, before it has a place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    pub conversation_id: ConversationId,
    pub seq: i64,
    pub event: Event,
}

/// Finds whether the command was recorded before: then it is not decided again.
pub fn recall<'f>(facts: &'f Facts, command: &Command) -> Result<Option<&'f Earlier>, Rejection> {
    match facts.keys.get(&(command.actor_id.clone(), command.key.clone())) {
        Some(earlier) if earlier.hash != command.hash() => Err(Rejection::KeyReused),
        earlier => Ok(earlier),
    }
}

/// Decides a command that was not recorded before. No event means that what it asks for is so already.
pub fn decide(facts: &Facts, command: &Command) -> Result<Option<Decided>, Rejection> {
    match &command.action {
        Action::SendMessage { receiver_id, content } => {
            let conversation_id = ConversationId::direct(&command.actor_id, receiver_id);
            let conversation = facts.conversations.get(&conversation_id);
            if conversation.is_none() && !command.may_begin {
                return Err(Rejection::TooManyConversations);
            }
            let seq = conversation.map_or(0, |c| c.seq) + 1;
            let sender = facts
                .participants
                .get(&(conversation_id.clone(), command.actor_id.clone()));
            let received_after = sender.map_or(0, |p| p.received_seq);
            let event = Event::MessageSent {
                content: Some(content.clone()),
                received_after,
                received_at: None,
            };
            Ok(Some(Decided {
                conversation_id,
                seq,
                event,
            }))
        }
        Action::SendReceipt { kind, up_to } => {
            let place = facts.messages.get(up_to).ok_or(Rejection::MessageNotFound)?;
            let conversation_id = place.conversation_id.clone();
            let actor = (conversation_id.clone(), command.actor_id.clone());
            let participant = facts.participants.get(&actor).filter(|p| p.may_see(*up_to));
            let participant = participant.ok_or(Rejection::MessageNotFound)?;
            let conversation = facts
                .conversations
                .get(&conversation_id)
                .ok_or(Rejection::MessageNotFound)?;
            let mark = match kind {
                ReceiptKind::Received => participant.received_seq,
                ReceiptKind::Read => participant.read_seq,
            };
            if place.seq <= mark {
                return Ok(None);
            }
            let up_to = UpTo {
                id: *up_to,
                seq: place.seq,
            };
            let event = Event::ReceiptMoved {
                kind: *kind,
                up_to,
                received_after: participant.received_seq,
            };
            Ok(Some(Decided {
                conversation_id,
                seq: conversation.seq,
                event,
            }))
        }
    }
}
