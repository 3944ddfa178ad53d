//! A cache of the conversations that the writer wrote to last.
//!
//! It holds the state that the log folds to at one position, and is valid for that position only: under the head lock the
//! head says whether the log still ends there. If it does not, because another node wrote or the log was replaced, the
//! cache is dropped. It is filled again once the head is found where this writer left it: with two active writers it would
//! never hit.

use chat_domain::{
    command::{Action, Command},
    cursor::Cursor,
    facts::{Facts, Needs},
    ids::ConversationId,
};

/// The cache is emptied when it holds this many conversations.
const CONVERSATIONS: usize = 16_384;

#[derive(Default)]
pub(super) struct Memory {
    /// Where the log ended when this was true.
    at: Option<Cursor>,
    /// Whether anything may be taken from here: the head was where it had been left.
    alone: bool,
    /// Of conversations and participants only.
    facts: Facts,
}

impl Memory {
    /// Takes what is known out of what a batch needs to read, in case the log still ends where it did.
    pub(super) fn reduce(&self, needs: &mut Needs) {
        if !self.alone {
            return;
        }
        // Whoever writes to a conversation that is there takes part in it, so the participant tells of both.
        let known = &self.facts.participants;
        needs.conversations.retain(|member| !known.contains_key(member));
    }

    /// The facts and where the log ends then, if all is known that these commands need.
    pub(super) fn foresee<'c>(
        &mut self,
        commands: impl IntoIterator<Item = &'c Command>,
    ) -> Option<(&mut Facts, &mut Cursor)> {
        let at = self.at.as_mut().filter(|_| self.alone)?;
        let known = &self.facts.participants;
        let is_known = |command: &Command| match &command.action {
            Action::SendMessage { receiver_id, .. } => {
                let conversation = ConversationId::direct(&command.actor_id, receiver_id);
                known.contains_key(&(conversation, command.actor_id.clone()))
            }
            Action::SendReceipt { .. } => false,
        };
        commands
            .into_iter()
            .all(is_known)
            .then_some((&mut self.facts, at))
    }

    /// What was foreseen did not happen.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The facts to begin with, where the log ends at `head`; `None` where what was taken out has to be read after all.
    pub(super) fn recall(&mut self, head: &Cursor) -> Option<Facts> {
        let is_true = self.at.as_ref() == Some(head);
        let was_used = std::mem::replace(&mut self.alone, is_true);
        let facts = std::mem::take(&mut self.facts);
        self.at = None;
        if is_true {
            return Some(facts);
        }
        (!was_used).then(Facts::default)
    }

    /// Keeps what is true now that the log ends at `at`.
    pub(super) fn keep(&mut self, mut facts: Facts, at: Cursor) {
        leave_projections(&mut facts);
        if !self.alone || facts.conversations.len() > CONVERSATIONS {
            facts = Facts::default();
        }
        self.facts = facts;
        self.at = Some(at);
    }
}

/// Leaves what is kept: keys and messages would only grow.
pub(super) fn leave_projections(facts: &mut Facts) {
    facts.keys.clear();
    facts.messages.clear();
}

#[cfg(test)]
mod tests {
    use chat_domain::{
        Position,
        batch::decide_batch,
        command::ReceiptKind,
        content::Content,
        cursor::Epoch,
        ids::{CommandKey, UserId},
    };

    use super::*;

    fn at(position: Position) -> Cursor {
        Cursor {
            epoch: Epoch::parse("k7f3q2").unwrap(),
            position,
        }
    }

    fn send(from: &str, to: &str) -> Command {
        Command {
            actor_id: UserId::parse(from).unwrap(),
            via: None,
            key: CommandKey::of_server(1),
            may_begin: true,
            action: Action::SendMessage {
                receiver_id: UserId::parse(to).unwrap(),
                content: Content::text("hi"),
            },
        }
    }

    /// What would be read for a send, and whether it has to be read after all once the head is known. The send is
    /// committed then.
    fn batch(memory: &mut Memory, head: Position, command: &Command) -> (bool, bool) {
        let mut needs = Needs::of([command]);
        memory.reduce(&mut needs);
        let reads = !needs.conversations.is_empty();
        let recalled = memory.recall(&at(head));
        let reads_again = recalled.is_none();
        let mut facts = recalled.unwrap_or_default();
        decide_batch(&mut facts, [command], head, 0);
        memory.keep(facts, at(head + 1));
        (reads, reads_again)
    }

    #[test]
    fn what_was_written_last_is_not_read_again_while_nobody_else_writes() {
        let mut memory = Memory::default();
        let (one, other) = (send("alice", "bob"), send("carol", "bob"));
        assert_eq!(batch(&mut memory, 0, &one), (true, false));
        assert_eq!(
            batch(&mut memory, 1, &one),
            (true, false),
            "the first time that nobody did"
        );
        assert_eq!(batch(&mut memory, 2, &one), (false, false));
        assert_eq!(
            batch(&mut memory, 3, &other),
            (true, false),
            "another conversation"
        );
        assert_eq!(batch(&mut memory, 4, &other), (false, false));
        assert_eq!(batch(&mut memory, 5, &one), (false, false));
        assert!(memory.facts.keys.is_empty() && memory.facts.messages.is_empty());
    }

    #[test]
    fn nothing_is_taken_from_it_once_somebody_else_has_written() {
        let mut memory = Memory::default();
        let send = send("alice", "bob");
        for head in 0..3 {
            batch(&mut memory, head, &send);
        }
        // Another node wrote 4.
        assert_eq!(batch(&mut memory, 4, &send), (false, true));
        assert_eq!(batch(&mut memory, 6, &send), (true, false), "and goes on");
        assert_eq!(batch(&mut memory, 8, &send), (true, false));
        assert_eq!(batch(&mut memory, 9, &send), (true, false));
        assert_eq!(batch(&mut memory, 10, &send), (false, false), "alone again");
    }

    #[test]
    fn a_batch_that_came_to_nothing_leaves_nothing_behind() {
        let mut memory = Memory::default();
        let send = send("alice", "bob");
        for head in 0..3 {
            batch(&mut memory, head, &send);
        }
        let facts = memory.recall(&at(3));
        assert!(facts.is_some_and(|facts| !facts.participants.is_empty()));
        // It was not kept: nobody knows what became of the transaction.
        assert_eq!(batch(&mut memory, 3, &send), (true, true));
    }

    #[test]
    fn what_is_all_known_can_be_foreseen_and_nothing_else() {
        let mut memory = Memory::default();
        let (known, unknown) = (send("alice", "bob"), send("carol", "bob"));
        let receipt = Command {
            action: Action::SendReceipt {
                kind: ReceiptKind::Read,
                up_to: 1,
            },
            ..known.clone()
        };
        for head in 0..2 {
            assert!(memory.foresee([&known]).is_none(), "not yet, at {head}");
            batch(&mut memory, head, &known);
        }
        for commands in [&[&known, &unknown][..], &[&unknown], &[&receipt]] {
            assert!(memory.foresee(commands.iter().copied()).is_none(), "{commands:?}");
        }
        // Two batches ahead, and then one that is decided under the lock.
        for head in 2..4 {
            let (facts, end) = memory.foresee([&known]).unwrap();
            assert_eq!(*end, at(head));
            decide_batch(facts, [&known], head, 0);
            leave_projections(facts);
            end.position += 1;
            assert_eq!(facts.conversations.values().map(|c| c.seq).sum::<i64>(), head);
        }
        assert_eq!(batch(&mut memory, 4, &unknown), (true, false));
        memory.forget();
        assert!(memory.foresee([&known]).is_none(), "what did not happen");
    }

    #[test]
    fn another_epoch_is_another_log() {
        let mut memory = Memory::default();
        memory.keep(Facts::default(), at(7));
        let other = Cursor {
            epoch: Epoch::parse("zzzzzz").unwrap(),
            position: 7,
        };
        memory.recall(&other);
        assert!(!memory.alone);
    }

    #[test]
    fn it_holds_so_many_conversations_and_no_more() {
        let mut memory = Memory::default();
        for (head, n) in (0..).zip(0..=CONVERSATIONS + 2) {
            batch(&mut memory, head, &send("alice", &format!("u{n}")));
        }
        assert!(memory.facts.conversations.len() < 10, "it began anew");
    }
}
