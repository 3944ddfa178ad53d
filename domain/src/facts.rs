//! What a decision may look at: the state that the log folds to, as far as a batch of commands needs it.

use std::collections::{BTreeSet, HashMap};

use crate::{
    Position,
    command::{Action, Command, CommandHash},
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub conversations: HashMap<ConversationId, Conversation>,
    pub participants: HashMap<(ConversationId, UserId), Participant>,
    /// The messages that receipts point at.
    pub messages: HashMap<Position, MessagePlace>,
    /// The commands that were recorded before, by actor and key.
    pub keys: HashMap<(UserId, CommandKey), Earlier>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub number: ConversationNumber,
    /// How many messages it has.
    pub seq: i64,
    /// The position of its last event of any type.
    pub last_position: Position,
    pub last_message_id: Position,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// What the participant may see: the events from this position…
    pub from_position: Position,
    /// …to this one, or all that come.
    pub to_position: Option<Position>,
    pub received_seq: i64,
    pub read_seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePlace {
    pub conversation_id: ConversationId,
    pub seq: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    pub position: Position,
    pub hash: CommandHash,
}

impl Participant {
    pub fn may_see(&self, position: Position) -> bool {
        self.from_position <= position && self.to_position.is_none_or(|last| position <= last)
    }
}

/// The facts that a batch of commands needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Conversations that this batch writes to, each with its sender.
    pub conversations: BTreeSet<(ConversationId, UserId)>,
    pub participants: BTreeSet<UserId>,
    pub messages: BTreeSet<Position>,
}

impl Needs {
    pub fn of<'a>(commands: impl IntoIterator<Item = &'a Command>) -> Self {
        let mut needs = Self::default();
        for command in commands {
            needs.participants.insert(command.actor_id.clone());
            match &command.action {
                Action::SendMessage { receiver_id, .. } => {
                    let conversation = ConversationId::direct(&command.actor_id, receiver_id);
                    needs
                        .conversations
                        .insert((conversation, command.actor_id.clone()));
                }
                Action::SendReceipt { up_to, .. } => {
                    needs.messages.insert(*up_to);
                }
            }
        }
        needs
    }
}
