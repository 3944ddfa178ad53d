//! What can happen, one step after the other, and when.
//!
//! Each step names, by file and function, the code that it stands for, or says that it is done to the system.

use crate::{Defect, Mode, NODES, Scene, Send, Stage, State, Subscription};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// A sender's command comes into the queue, for the first time or again.
    /// `infrastructure/src/writer.rs`: `execute`.
    Execute { command: u8, node: usize },
    /// The writer takes all that waits.
    /// `infrastructure/src/writer.rs`: `gather`.
    Gather(usize),
    /// The writer takes the lock, reads the facts, and decides; or it takes the lock where the log ends as it was when
    /// this was decided. `infrastructure/src/writer/transaction.rs`: `attempt`, `take_lock`, `foresee`; `infrastructure/src/writer/facts.rs`: `read`;
    /// `domain/src/batch.rs`: `decide_batch`.
    Lock(usize),
    /// All of the batch was recorded before: the transaction ends, and the senders are answered.
    /// `infrastructure/src/writer/transaction.rs`: `attempt`; `domain/src/decide.rs`: `recall`.
    Recall(usize),
    /// The writer sends the rows, the head and the COMMIT. From now on the batch is in doubt.
    /// `infrastructure/src/projections.rs`: `project`; `infrastructure/src/writer/transaction.rs`: `send_off`, `commit`.
    Write(usize),
    /// Done to the system: the database commits what it has received, whether or not somebody waits for the answer.
    Commit,
    /// Done to the system: the database gives up a transaction whose connection has ended.
    RollBack,
    /// The answer of the COMMIT has come: the batch goes to the tail, and the senders are answered.
    /// `infrastructure/src/writer.rs`: `finish`.
    Finish(usize),
    /// Done to the system: the writer's connection breaks, or the transaction takes too long. The batch stays in hand
    /// and runs again. `infrastructure/src/writer.rs`: `settle`, `reconnect`.
    Cut(usize),
    /// The deadline of the batch in hand passes.
    /// `infrastructure/src/writer.rs`: `give_up`.
    GiveUp(usize),
    /// Only of a defect: the batch in doubt is looked up without the lock. `infrastructure/src/writer.rs`: `settle`.
    LookUp(usize),
    /// Done to the system: a node is killed.
    Crash(usize),
    /// A node starts. `infrastructure/src/writer.rs`: `start`.
    Start(usize),
    /// The tail reads where the log is. `infrastructure/src/tail.rs`: `first_head`.
    TailBegin(usize),
    /// The tail takes a batch of its own writer, and passes it on where it continues what was passed on.
    /// `infrastructure/src/tail.rs`: `follows`, `advance`.
    TailTake(usize),
    /// The tail reads the log, and passes on what is proven. The read misses at most one row, by its place in the log.
    /// `infrastructure/src/tail.rs`: `read`; `api/src/realtime/hub.rs`: `publish`.
    TailRead { node: usize, missed: Option<u8> },
    /// The reader loads what there is, with a cursor that was taken before.
    /// `infrastructure/src/timeline.rs`: `messages`; `infrastructure/src/outbox.rs`: `read_head`.
    Load,
    /// The reader connects from its cursor, once the node's tail has come that far.
    /// `api/src/realtime/hub.rs`: `subscribe`, `greet`, `wait_for`; `api/src/realtime/subscription.rs`: `begin`.
    Subscribe(usize),
    /// The subscription reads a page, up to the tail or up to where it was armed.
    /// `api/src/realtime/subscription.rs`: `read`; `infrastructure/src/outbox.rs`: `page`.
    ReadPage,
    /// The subscription sees that it has read up to the tail. `api/src/realtime/subscription.rs`: `advance`.
    CaughtUp,
    /// The inbox is armed. `api/src/realtime/hub.rs`: `arm`.
    Arm,
    /// The subscription has read up to where it was armed, and goes live.
    /// `api/src/realtime/subscription.rs`: `advance`.
    GoLive,
    /// The next event goes to the reader, from the page or from the inbox.
    /// `api/src/realtime/subscription.rs`: `next_at_hand`, `event`; `api/src/realtime/hub.rs`: `take`.
    Deliver,
    /// The subscription finds that its inbox overflowed, and reads the database again.
    /// `api/src/realtime/subscription.rs`: `advance`; `api/src/realtime/hub.rs`: `overflow`, `put`.
    FallBack,
    /// The reader is told how far the log was examined. `api/src/realtime/subscription.rs`: `heartbeat`, `examine`.
    Heartbeat,
    /// Done to the system: the next event is written, and never arrives.
    LoseDelivery,
    /// Done to the system: the reader's connection ends, and what was on its way with it.
    Disconnect,
}

impl Action {
    /// Whether it is done to the system, which need not happen.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Cut(_) | Self::GiveUp(_) | Self::Crash(_) | Self::LoseDelivery | Self::Disconnect => true,
            Self::Execute { .. }
            | Self::Gather(_)
            | Self::Lock(_)
            | Self::Recall(_)
            | Self::Write(_)
            | Self::Commit
            | Self::RollBack
            | Self::Finish(_)
            | Self::LookUp(_)
            | Self::Start(_)
            | Self::TailBegin(_)
            | Self::TailTake(_)
            | Self::TailRead { .. }
            | Self::Load
            | Self::Subscribe(_)
            | Self::ReadPage
            | Self::CaughtUp
            | Self::Arm
            | Self::GoLive
            | Self::Deliver
            | Self::FallBack
            | Self::Heartbeat => false,
        }
    }
}

impl Scene {
    /// Adds what can happen now.
    pub(crate) fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for (command, send) in (0..).zip(&state.sends) {
            let node = match send {
                Send::Todo => usize::from(command % 2),
                // The sender goes elsewhere.
                Send::Unknown { node } => 1 - node,
                _ => continue,
            };
            if state.nodes[node].up {
                actions.push(Action::Execute { command, node });
            }
        }
        self.inside(state, actions);
        if !state.reader.begun {
            actions.push(Action::Load);
        }
        for node in NODES {
            if self.may_subscribe(state, node) {
                actions.push(Action::Subscribe(node));
            }
            if state.left.crashes > 0 && state.nodes[node].up {
                actions.push(Action::Crash(node));
            }
            if !state.nodes[node].up {
                actions.push(Action::Start(node));
            }
        }
        if let Some(subscription) = &state.reader.subscription {
            if self.has_next(subscription) {
                actions.push(Action::Deliver);
                if state.left.losses > 0 {
                    actions.push(Action::LoseDelivery);
                }
            }
            if state.left.disconnects > 0 {
                actions.push(Action::Disconnect);
            }
        }
    }

    /// Adds what can happen now and nobody outside sees.
    pub(crate) fn inside(&self, state: &State, actions: &mut Vec<Action>) {
        for node in NODES {
            self.of_writer(state, node, actions);
            self.of_tail(state, node, actions);
        }
        if let Some(transaction) = &state.transaction {
            if transaction.written {
                actions.push(Action::Commit);
            }
            if transaction.orphaned {
                actions.push(Action::RollBack);
            }
        }
        if let Some(subscription) = &state.reader.subscription {
            self.of_subscription(state, subscription, actions);
        }
    }

    fn of_writer(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let writer = &state.nodes[node].writer;
        match &writer.stage {
            Stage::Idle if writer.batch.is_empty() => {
                if !writer.queue.is_empty() {
                    actions.push(Action::Gather(node));
                }
            }
            Stage::Idle => {
                if writer.in_doubt && self.has(Defect::SettlesWithoutTheLock) {
                    actions.push(Action::LookUp(node));
                } else if state.transaction.is_none() {
                    actions.push(Action::Lock(node));
                }
                if state.left.deadlines > 0 {
                    actions.push(Action::GiveUp(node));
                }
            }
            Stage::Locked(decided) if decided.rows.is_empty() => actions.push(Action::Recall(node)),
            Stage::Locked(_) => actions.push(Action::Write(node)),
            Stage::Written(_) => {}
            Stage::Committed(_) => actions.push(Action::Finish(node)),
        }
        if state.left.cuts > 0 && writer.stage != Stage::Idle {
            actions.push(Action::Cut(node));
        }
    }

    fn of_tail(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let tail = &state.nodes[node].tail;
        if !state.nodes[node].up {
            return;
        }
        if tail.at.is_none() {
            actions.push(Action::TailBegin(node));
            return;
        }
        if !tail.handed.is_empty() {
            actions.push(Action::TailTake(node));
        }
        if self.has(Defect::TailWaitsForHints) && !tail.hinted {
            return;
        }
        actions.push(Action::TailRead { node, missed: None });
        if self.torn {
            let missed = (tail.shown..state.log.len()).filter_map(|row| u8::try_from(row).ok());
            actions.extend(missed.map(|row| Action::TailRead {
                node,
                missed: Some(row),
            }));
        }
    }

    pub(crate) fn may_subscribe(&self, state: &State, node: usize) -> bool {
        let node = &state.nodes[node];
        let reader = &state.reader;
        reader.subscription.is_none() && node.up && node.tail.at.is_some_and(|at| at >= reader.cursor)
    }

    pub(crate) fn has_next(&self, subscription: &Subscription) -> bool {
        !subscription.page.is_empty()
            || (subscription.mode == Mode::Live && !subscription.inbox.events.is_empty())
    }

    fn of_subscription(&self, state: &State, subscription: &Subscription, actions: &mut Vec<Action>) {
        let Some(at) = state.nodes[subscription.node].tail.at else {
            return;
        };
        if !subscription.page.is_empty() {
            return;
        }
        match subscription.mode {
            Mode::CatchingUp if subscription.examined < at => actions.push(Action::ReadPage),
            Mode::CatchingUp => actions.push(Action::CaughtUp),
            Mode::Arming => actions.push(Action::Arm),
            Mode::Joining { armed_at } if subscription.examined < armed_at => actions.push(Action::ReadPage),
            Mode::Joining { .. } => actions.push(Action::GoLive),
            Mode::Live if subscription.inbox.events.is_empty() && !subscription.inbox.armed => {
                actions.push(Action::FallBack);
            }
            Mode::Live => {}
        }
        actions.push(Action::Heartbeat);
    }
}
