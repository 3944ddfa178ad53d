//! A batch of commands, decided one after the other: each sees what those before it changed.

use std::sync::Arc;

use crate::{
    Micros, Position,
    command::{Action, Command},
    decide::{decide, recall},
    event::Recorded,
    evolve::evolve,
    facts::Facts,
    ids::{ConversationId, ConversationNumber, UserId},
    rejection::Rejection,
};

/// What a command came to, for its sender.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The event of a send, recorded now.
    Sent(Arc<Recorded>),
    /// The send was recorded before, at this position.
    SentBefore(Position),
    Marked(Marked),
}

/// The marks of a user in a conversation after its receipt: seqs, 0 for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub conversation_id: ConversationId,
    pub user_id: UserId,
    pub received_seq: i64,
    pub read_seq: i64,
}

pub struct Batch {
    /// One for each command, in order.
    pub outcomes: Vec<Result<Outcome, Rejection>>,
    /// The new events, at the positions after `head`, in order and without a hole.
    pub recorded: Vec<Arc<Recorded>>,
}

impl Batch {
    /// Puts in the moment, where it was not known yet when this was decided.
    pub fn happened_at(&mut self, now: Micros) {
        for recorded in &mut self.recorded {
            Arc::make_mut(recorded).occurred_at = now;
        }
        let mut recorded = self.recorded.iter();
        for outcome in &mut self.outcomes {
            if let Ok(Outcome::Sent(sent)) = outcome
                && let Some(recorded) = recorded.find(|recorded| recorded.position == sent.position)
            {
                *sent = recorded.clone();
            }
        }
    }
}

/// Decides commands in order at one moment of the database's clock; `facts` are left as they are after the last.
pub fn decide_batch<'a>(
    facts: &mut Facts,
    commands: impl IntoIterator<Item = &'a Command>,
    head: Position,
    now: Micros,
) -> Batch {
    let mut batch = Batch {
        outcomes: Vec::new(),
        recorded: Vec::new(),
    };
    for command in commands {
        let position = head + 1 + batch.recorded.len() as Position;
        let outcome = decide_one(facts, command, position, now);
        let outcome = outcome.map(|(outcome, recorded)| {
            batch.recorded.extend(recorded);
            outcome
        });
        batch.outcomes.push(outcome);
    }
    batch
}

type New = Option<Arc<Recorded>>;

fn decide_one(
    facts: &mut Facts,
    command: &Command,
    position: Position,
    now: Micros,
) -> Result<(Outcome, New), Rejection> {
    let earlier = recall(facts, command)?.map(|earlier| earlier.position);
    let mut new = None;
    if earlier.is_none()
        && let Some(decided) = decide(facts, command)?
    {
        let conversation = facts.conversations.get(&decided.conversation_id);
        let receiver_id = decided.conversation_id.peer_of(&command.actor_id);
        let recorded = Arc::new(Recorded {
            position,
            occurred_at: now,
            conversation: conversation.map_or(ConversationNumber(position), |c| c.number),
            conversation_id: decided.conversation_id,
            actor_id: command.actor_id.clone(),
            receiver_id: receiver_id.unwrap_or_else(|| command.actor_id.clone()),
            via: command.via.clone(),
            key: command.key.clone(),
            hash: command.hash(),
            seq: decided.seq,
            event: decided.event,
        });
        evolve(facts, &recorded);
        new = Some(recorded);
    }
    let outcome = match (&command.action, earlier, &new) {
        (Action::SendMessage { .. }, Some(position), _) => Outcome::SentBefore(position),
        (Action::SendMessage { .. }, None, Some(recorded)) => Outcome::Sent(recorded.clone()),
        // A send is decided or rejected, never nothing.
        (Action::SendMessage { .. }, None, None) => return Err(Rejection::CommandRefused),
        (Action::SendReceipt { up_to, .. }, ..) => Outcome::Marked(marked(facts, command, *up_to)?),
    };
    Ok((outcome, new))
}

fn marked(facts: &Facts, command: &Command, up_to: Position) -> Result<Marked, Rejection> {
    let place = facts.messages.get(&up_to).ok_or(Rejection::MessageNotFound)?;
    let actor = (place.conversation_id.clone(), command.actor_id.clone());
    let participant = facts.participants.get(&actor).ok_or(Rejection::MessageNotFound)?;
    let (conversation_id, user_id) = actor;
    Ok(Marked {
        conversation_id,
        user_id,
        received_seq: participant.received_seq,
        read_seq: participant.read_seq,
    })
}
