//! How an event changes the facts. Infallible, and free of rules: what is in the log has happened.

use crate::{
    command::ReceiptKind,
    event::{Event, Recorded},
    facts::{Conversation, Earlier, Facts, MessagePlace, Participant},
    ids::UserId,
};

pub fn evolve(facts: &mut Facts, recorded: &Recorded) {
    let id = &recorded.conversation_id;
    let key = (recorded.actor_id.clone(), recorded.key.clone());
    facts.keys.insert(
        key,
        Earlier {
            position: recorded.position,
            hash: recorded.hash,
        },
    );

    let conversation = facts
        .conversations
        .entry(id.clone())
        .or_insert_with(|| Conversation {
            number: recorded.conversation,
            seq: 0,
            last_position: 0,
            last_message_id: 0,
        });
    let begins = conversation.last_position == 0;
    conversation.last_position = recorded.position;
    if let Event::MessageSent { .. } = recorded.event {
        conversation.seq = recorded.seq;
        conversation.last_message_id = recorded.position;
        let place = MessagePlace {
            conversation_id: id.clone(),
            seq: recorded.seq,
        };
        facts.messages.insert(recorded.position, place);
    }
    if begins {
        for member in recorded.audience() {
            participant(facts, recorded, member);
        }
    }

    if recorded.is_adopted() {
        for member in recorded.audience() {
            let member = participant(facts, recorded, member);
            member.received_seq = member.received_seq.max(recorded.seq);
            member.read_seq = member.read_seq.max(recorded.seq);
        }
        return;
    }
    let (received, read) = match &recorded.event {
        Event::MessageSent { .. } => (recorded.seq, recorded.seq),
        Event::ReceiptMoved {
            kind: ReceiptKind::Received,
            up_to,
            ..
        } => (up_to.seq, 0),
        Event::ReceiptMoved {
            kind: ReceiptKind::Read,
            up_to,
            ..
        } => (up_to.seq, up_to.seq),
        Event::Other { .. } => return,
    };
    let actor = participant(facts, recorded, &recorded.actor_id);
    actor.received_seq = actor.received_seq.max(received);
    actor.read_seq = actor.read_seq.max(read);
}

fn participant<'f>(facts: &'f mut Facts, recorded: &Recorded, user: &UserId) -> &'f mut Participant {
    let key = (recorded.conversation_id.clone(), user.clone());
    facts.participants.entry(key).or_insert_with(|| Participant {
        from_position: recorded.position,
        to_position: None,
        received_seq: 0,
        read_seq: 0,
    })
}
