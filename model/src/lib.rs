//! A model of log, tail and resume: two nodes write one log and follow it, and a reader resumes from either of them.
//!
//! It is small enough that a checker looks at every order in which its steps can happen (`tests/check.rs`), and near
//! enough to the code that what a real server did is found again in it ([`replay`]). Each [`Action`] names the function
//! that it stands for, and `tests/names.rs` holds those names to the source.
//!
//! What is in it: the head lock, a batch's transaction, a COMMIT whose answer is lost and which may take effect later
//! or never, a command's deadline, the death of a node at any moment, senders who send again with the same key, reads
//! on MariaDB that show a position and not the one before it, the hand-over from the writer to the tail, which drops
//! when it is full, inboxes that overflow, deliveries that are lost on the way, cursors, and the chain.
//!
//! What is not: epochs, adopted and pruned rows, receipts, the database's failure as a whole, time. The unique index
//! on keys is left out on purpose: the lock alone must keep a key from being recorded twice.
//!
//! A [`Defect`] changes one step, so that the checker can show that it finds what it is there to find.

mod action;
mod properties;
pub mod replay;
mod state;
mod step;

pub use action::Action;
pub use properties::{Claim, claims};
pub use state::*;

use stateright::{Expectation, Model, Property};

/// What is played: how much of everything there is, what may go wrong and how often, and what is built wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scene {
    /// How many commands are sent, each with a key of its own. The first goes to the first node, the next to the
    /// second, and so on.
    pub commands: u8,
    /// The commands whose events the reader may not see.
    pub unseen: Vec<u8>,
    /// How many events an inbox holds.
    pub inbox: usize,
    /// How many batches wait between a writer and its tail.
    pub handed: usize,
    /// Whether a read may show a position and not the one before it, as on MariaDB.
    pub torn: bool,
    pub faults: Faults,
    pub defect: Option<Defect>,
}

/// A way to build it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Positions are drawn when a batch is gathered, as `AUTO_INCREMENT` does, and not under the lock.
    DrawsOutsideTheLock,
    /// A batch that was decided ahead is committed wherever the log ends by then.
    CommitsWhateverWasForeseen,
    /// A commit with an unknown outcome is looked up without the lock.
    SettlesWithoutTheLock,
    /// A command whose deadline passes is said not to be written, even where a COMMIT with it may have arrived.
    ForgetsTheDoubt,
    /// Senders are answered when the COMMIT is sent.
    AnswersBeforeTheCommit,
    /// The tail passes on what its writer hands over without looking whether something lies between.
    TailTrustsHints,
    /// The tail looks at the log only when its writer hands something over.
    TailWaitsForHints,
    /// The tail passes on all that one read shows.
    TailPassesHoles,
    /// A subscription that has read up to the tail goes live, and does not read again up to where it was armed.
    JoinsLiveAfterReading,
    /// An inbox that is full drops the event and stays live.
    StaysLiveAfterAnOverflow,
    /// The client does not compare `prev` with its cursor.
    IgnoresTheChain,
}

impl Defect {
    pub const ALL: [Self; 11] = [
        Self::DrawsOutsideTheLock,
        Self::CommitsWhateverWasForeseen,
        Self::SettlesWithoutTheLock,
        Self::ForgetsTheDoubt,
        Self::AnswersBeforeTheCommit,
        Self::TailTrustsHints,
        Self::TailWaitsForHints,
        Self::TailPassesHoles,
        Self::JoinsLiveAfterReading,
        Self::StaysLiveAfterAnOverflow,
        Self::IgnoresTheChain,
    ];
}

impl Scene {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Whether the reader may see a command's event.
    fn shows(&self, command: u8) -> bool {
        !self.unseen.contains(&command)
    }
}

impl Model for Scene {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        self.step(state, action).filter(|next| next != state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let always = claims().iter().map(|claim| Property {
            expectation: Expectation::Always,
            name: claim.name,
            condition: claim.holds,
        });
        let sometimes = properties::happenings().iter().map(|happening| Property {
            expectation: Expectation::Sometimes,
            name: happening.name,
            condition: happening.holds,
        });
        always.chain(sometimes).collect()
    }
}
