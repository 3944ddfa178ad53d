//! What is read instead of the log: messages, conversations and participants, as the log folds to them.
//!
//! The writer changes them in the transaction of the events. `rebuild` makes them anew with the same statements.

pub(crate) mod conversations;
pub(crate) mod messages;
pub(crate) mod participants;

use std::{collections::BTreeMap, sync::Arc};

use chat_domain::{
    event::{Event, Recorded},
    facts::Facts,
};

use crate::flavor::Flavor;

/// Writes the projections that the events change.
pub(crate) fn project(flavor: Flavor, recorded: &[Arc<Recorded>], facts: &Facts) -> String {
    let mut statements = Vec::new();
    let mut messages = recorded
        .iter()
        .filter(|recorded| matches!(recorded.event, Event::MessageSent { .. }))
        .map(|recorded| recorded.position);
    if let Some(first) = messages.next() {
        let last = messages.next_back().unwrap_or(first);
        statements.push(messages::copy(flavor, first, last, "NULL"));
    }
    statements.extend(project_conversations(flavor, recorded, facts));
    statements.join("; ")
}

/// Writes the conversations and marks that the events changed, as they are after the last of them.
fn project_conversations(flavor: Flavor, recorded: &[Arc<Recorded>], facts: &Facts) -> Vec<String> {
    let mut conversations = BTreeMap::new();
    let mut participants = BTreeMap::new();
    for event in recorded {
        conversations.insert(&event.conversation_id, &**event);
        participants.insert((&event.conversation_id, &event.actor_id), &**event);
        // The event that began the conversation gave it its number, and made its members participants.
        if event.conversation.0 == event.position {
            participants.extend(
                event
                    .audience()
                    .map(|member| ((&event.conversation_id, member), &**event)),
            );
        }
    }
    let mut statements = Vec::new();
    if !conversations.is_empty() {
        let rows = conversations
            .keys()
            .filter_map(|id| Some((*id, facts.conversations.get(*id)?)));
        statements.push(conversations::upsert(flavor, rows));
    }
    if !participants.is_empty() {
        let rows = participants.keys().filter_map(|(id, user)| {
            let participant = facts.participants.get(&((*id).clone(), (*user).clone()))?;
            Some((facts.conversations.get(*id)?.number, *user, participant))
        });
        statements.push(participants::upsert(flavor, rows));
    }
    statements
}
