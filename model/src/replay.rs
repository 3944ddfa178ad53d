//! Finds what a real run showed again in the model.
//!
//! A trace is what can be seen from outside, in the order in which it was seen, and at its end the rows of the log.
//! Each thing seen must be allowed by the model after those before it; what nobody sees is searched for between them,
//! in every order. So a trace that is refused cannot have come from a system that works as the model does.
//!
//! The search leaves out what no trace can tell from what it looks at: each command makes a batch of its own and comes
//! to its node when the lock is free; the tail is as far behind as the reader allows, moves by one row at a time, and
//! reads what its writer would have handed over. What the trace says later (the rows of the log, and what each sender
//! was answered) ends a branch that contradicts it at once. Requests and answers may be lost between a sender and its
//! node, which the model itself does not say.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{Action, Faults, NODES, Position, Scene, Send, State};

/// Something seen. Each is written down before what it begins, and after what it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "snake_case", deny_unknown_fields)]
pub enum Seen {
    /// A command goes to a node, for the first time or again.
    Sent {
        command: u8,
        node: usize,
    },
    /// It was recorded, the node said, now or before.
    Acknowledged {
        command: u8,
        position: Position,
    },
    /// Nothing was written, the node said.
    Refused {
        command: u8,
    },
    /// There was no answer, or that it is not known.
    Unknown {
        command: u8,
    },
    /// From now on a node's connection to the database may break, once.
    Cut {
        node: usize,
    },
    /// A node was killed; all that it had sent has been read.
    Killed {
        node: usize,
    },
    Started {
        node: usize,
    },
    /// The reader was given what there is.
    Loaded {
        cursor: Position,
        positions: Vec<Position>,
    },
    Connected {
        node: usize,
        cursor: Position,
    },
    Delivered {
        position: Position,
    },
    Heartbeat {
        cursor: Position,
    },
    /// The reader went away; what was on its way to it is lost.
    Disconnected,
    /// The end: the rows of the log, when all is answered and delivered.
    Log {
        rows: Vec<Logged>,
    },
}

/// A row of the log, by whose key it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logged {
    pub position: Position,
    pub command: u8,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// States, over all moments between two things seen.
    pub states: usize,
}

/// Why a trace is none of the model's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("line {line}: {reason}")]
    Unreadable { line: usize, reason: String },
    /// Nothing that can have happened before leads to it.
    #[error("line {line} cannot be: {seen:?}")]
    Impossible { line: usize, seen: Seen },
    #[error("line {line}: more than {MOST_STATES} states to look at")]
    TooMuch { line: usize },
}

const MOST_STATES: usize = 200_000;

/// Reads a trace, one object of JSON a line, and replays it.
pub fn replay_lines(trace: &str, unseen: &[u8]) -> Result<Found, Refused> {
    let read = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| Refused::Unreadable {
            line: n + 1,
            reason: error.to_string(),
        })
    };
    let trace: Vec<Seen> = trace.lines().enumerate().map(read).collect::<Result<_, _>>()?;
    replay(&trace, unseen)
}

/// Replays a trace, of whose commands the reader may not see those in `unseen`.
pub fn replay(trace: &[Seen], unseen: &[u8]) -> Result<Found, Refused> {
    let told = Told::by(trace)?;
    let scene = Scene {
        commands: told.commands,
        unseen: unseen.to_vec(),
        inbox: usize::MAX,
        handed: 0,
        torn: false,
        faults: Faults {
            crashes: u8::MAX,
            cuts: 0,
            deadlines: u8::MAX,
            disconnects: u8::MAX,
            losses: 0,
        },
        defect: None,
    };
    let mut here = HashSet::from([Place {
        state: State::first(&scene),
        tries: vec![0; scene.commands.into()],
    }]);
    let mut search = Search {
        scene: &scene,
        told: &told,
        begun: vec![Vec::new(); scene.commands.into()],
        cut: [false; 2],
        reader_next: None,
        states: 0,
    };
    for (line, seen) in (1..).zip(trace) {
        search.reader_next = trace[line - 1..].iter().find_map(reader_needs);
        search.spread(&mut here).map_err(|()| Refused::TooMuch { line })?;
        here = here
            .iter()
            .filter_map(|place| search.after(place, seen))
            .collect();
        if here.is_empty() {
            let seen = seen.clone();
            return Err(Refused::Impossible { line, seen });
        }
        match *seen {
            Seen::Sent { command, node } => search.begun[usize::from(command)].push(node),
            Seen::Cut { node } => search.cut[node] = true,
            _ => {}
        }
    }
    Ok(Found {
        states: search.states,
    })
}

/// What the whole trace says of its commands and its log.
struct Told {
    commands: u8,
    /// For each command what came of its tries, in order.
    outcomes: Vec<Vec<Outcome>>,
    rows: Vec<Logged>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Acknowledged(Position),
    Refused,
    Unknown,
}

impl Told {
    fn by(trace: &[Seen]) -> Result<Self, Refused> {
        let unreadable = |line, reason: &str| Refused::Unreadable {
            line,
            reason: reason.into(),
        };
        let mut outcomes: Vec<Vec<Outcome>> = Vec::new();
        let mut tries: Vec<usize> = Vec::new();
        let mut rows = None;
        for (line, seen) in (1..).zip(trace) {
            if rows.is_some() {
                return Err(unreadable(line, "the log is the end"));
            }
            let (command, outcome) = match seen {
                Seen::Sent { command, node } => {
                    let command = usize::from(*command);
                    if command >= tries.len() {
                        tries.resize(command + 1, 0);
                        outcomes.resize(command + 1, Vec::new());
                    }
                    tries[command] += 1;
                    check_node(*node).ok_or_else(|| unreadable(line, "there is no such node"))?;
                    continue;
                }
                Seen::Cut { node }
                | Seen::Killed { node }
                | Seen::Started { node }
                | Seen::Connected { node, .. } => {
                    check_node(*node).ok_or_else(|| unreadable(line, "there is no such node"))?;
                    continue;
                }
                Seen::Log { rows: all } => {
                    rows = Some(all.clone());
                    continue;
                }
                Seen::Acknowledged { command, position } => (command, Outcome::Acknowledged(*position)),
                Seen::Refused { command } => (command, Outcome::Refused),
                Seen::Unknown { command } => (command, Outcome::Unknown),
                Seen::Loaded { .. }
                | Seen::Delivered { .. }
                | Seen::Heartbeat { .. }
                | Seen::Disconnected => continue,
            };
            let command = usize::from(*command);
            if tries
                .get(command)
                .is_none_or(|&tries| tries != outcomes[command].len() + 1)
            {
                return Err(unreadable(line, "an answer to nothing"));
            }
            outcomes[command].push(outcome);
        }
        let rows = rows.ok_or_else(|| unreadable(trace.len(), "the log is missing"))?;
        let commands = u8::try_from(tries.len()).map_err(|_| unreadable(trace.len(), "too many commands"))?;
        Ok(Self {
            commands,
            outcomes,
            rows,
        })
    }
}

fn check_node(node: usize) -> Option<usize> {
    NODES.contains(&node).then_some(node)
}

/// How far the tail must have come for the reader's next sight.
fn reader_needs(seen: &Seen) -> Option<(Option<usize>, Position)> {
    match *seen {
        Seen::Connected { node, cursor } => Some((Some(node), cursor)),
        Seen::Delivered { position } => Some((None, position)),
        Seen::Heartbeat { cursor } => Some((None, cursor)),
        // What it is given then does not come from a tail.
        Seen::Loaded { .. } | Seen::Disconnected => Some((None, 0)),
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    state: State,
    /// How often each command came to a node.
    tries: Vec<usize>,
}

struct Search<'t> {
    scene: &'t Scene,
    told: &'t Told,
    /// To which nodes each command was sent so far.
    begun: Vec<Vec<usize>>,
    /// Whose connection may break.
    cut: [bool; 2],
    reader_next: Option<(Option<usize>, Position)>,
    states: usize,
}

impl Search<'_> {
    /// Adds all that nobody sees, in every order.
    fn spread(&mut self, here: &mut HashSet<Place>) -> Result<(), ()> {
        let mut todo: Vec<_> = here.iter().cloned().collect();
        while let Some(place) = todo.pop() {
            for action in self.hidden(&place) {
                let Some(state) = self.scene.step(&place.state, action) else {
                    continue;
                };
                let mut next = Place {
                    state,
                    tries: place.tries.clone(),
                };
                if let Action::Execute { command, .. } = action {
                    next.tries[usize::from(command)] += 1;
                }
                if self.is_as_told(&next) && here.insert(next.clone()) {
                    todo.push(next);
                }
            }
            if here.len() > MOST_STATES {
                return Err(());
            }
        }
        self.states += here.len();
        Ok(())
    }

    fn hidden(&self, place: &Place) -> Vec<Action> {
        let state = &place.state;
        let mut actions = Vec::new();
        for (command, nodes) in (0..).zip(&self.begun) {
            if let Some(&node) = nodes.get(place.tries[usize::from(command)])
                && self.may_come(place, command, node)
            {
                actions.push(Action::Execute { command, node });
            }
        }
        self.scene.inside(state, &mut actions);
        actions.retain(|action| match action {
            // It is seen, or moves as below.
            Action::Heartbeat | Action::TailRead { .. } => false,
            Action::Cut(node) => self.cut[*node],
            _ => true,
        });
        // Whatever else happens, happens after these as well as before.
        let at_once = actions.iter().find(|action| {
            matches!(
                action,
                Action::Gather(_) | Action::Write(_) | Action::Recall(_) | Action::Finish(_)
            )
        });
        if let Some(&at_once) = at_once {
            return vec![at_once];
        }
        for node in NODES {
            actions.extend(self.tail_follows(state, node));
        }
        actions
    }

    /// Whether a command that was sent may come to its node: where it is the next in the log, or is there already, or
    /// has no row at all but an answer.
    fn may_come(&self, place: &Place, command: u8, node: usize) -> bool {
        let state = &place.state;
        let at = usize::from(command);
        let writer = &state.nodes[node].writer;
        let is_next = self
            .told
            .rows
            .get(state.log.len())
            .is_some_and(|row| row.command == command);
        let is_refused = self.told.outcomes[at].get(place.tries[at]) == Some(&Outcome::Refused);
        matches!(state.sends[at], Send::Todo | Send::Unknown { .. })
            && state.nodes[node].up
            && state.transaction.is_none()
            && writer.queue.is_empty()
            && writer.batch.is_empty()
            && (is_next || is_refused || state.row_of(command).is_some())
    }

    fn tail_follows(&self, state: &State, node: usize) -> Option<Action> {
        let at = state.nodes[node].tail.at?;
        let (connects_to, needed) = self.reader_next?;
        let subscription = state.reader.subscription.as_ref();
        let is_read = connects_to == Some(node) || subscription.is_some_and(|s| s.node == node);
        if !is_read || at >= needed || usize::from(at) >= state.log.len() {
            return None;
        }
        let after = usize::from(at) + 1;
        let missed = (after < state.log.len())
            .then(|| u8::try_from(after).ok())
            .flatten();
        Some(Action::TailRead { node, missed })
    }

    /// Whether what the trace says later does not contradict a state.
    fn is_as_told(&self, place: &Place) -> bool {
        let rows = place.state.log.iter().map(|row| Logged {
            position: row.position,
            command: row.command,
        });
        let is_log = place.state.log.len() <= self.told.rows.len()
            && rows.eq(self.told.rows[..place.state.log.len()].iter().copied());
        let tries = place.tries.iter().zip(&self.told.outcomes);
        is_log
            && place
                .state
                .sends
                .iter()
                .zip(tries)
                .all(|(send, (&tries, outcomes))| {
                    let outcome = tries.checked_sub(1).and_then(|last| outcomes.get(last));
                    match (send, outcome) {
                        (Send::Todo | Send::Waiting { .. }, _) => true,
                        // The answer may be lost on its way.
                        (Send::Acknowledged(_), Some(Outcome::Unknown)) => true,
                        (Send::Acknowledged(position), Some(Outcome::Acknowledged(told))) => position == told,
                        (Send::Refused, Some(Outcome::Refused)) => true,
                        (Send::Unknown { .. }, Some(Outcome::Unknown)) => true,
                        _ => false,
                    }
                })
    }

    /// The place after something seen, where it can be seen there.
    fn after(&self, place: &Place, seen: &Seen) -> Option<Place> {
        let state = &place.state;
        let send = |command: u8| state.sends.get(usize::from(command)).copied();
        let next = match *seen {
            Seen::Sent { .. } => state.clone(),
            Seen::Acknowledged { command, position } => {
                (send(command)? == Send::Acknowledged(position)).then(|| state.clone())?
            }
            Seen::Refused { command } => (send(command)? == Send::Refused).then(|| state.clone())?,
            Seen::Unknown { command } => return self.unknown(place, command),
            Seen::Cut { .. } => {
                let mut next = state.clone();
                next.left.cuts += 1;
                next
            }
            Seen::Killed { node } => {
                state.nodes[node].up.then_some(())?;
                self.scene.step(state, Action::Crash(node))?
            }
            Seen::Started { node } => {
                (!state.nodes[node].up).then_some(())?;
                let started = self.scene.step(state, Action::Start(node))?;
                self.scene.step(&started, Action::TailBegin(node))?
            }
            Seen::Loaded {
                cursor,
                ref positions,
            } => {
                (!state.reader.begun).then_some(())?;
                let next = self.scene.step(state, Action::Load)?;
                (next.reader.cursor == cursor && next.reader.got == *positions).then_some(next)?
            }
            Seen::Connected { node, cursor } => {
                let may = self.scene.may_subscribe(state, node) && state.reader.cursor == cursor;
                may.then(|| self.scene.step(state, Action::Subscribe(node)))
                    .flatten()?
            }
            Seen::Delivered { position } => {
                let subscription = state.reader.subscription.as_ref()?;
                self.scene.has_next(subscription).then_some(())?;
                let next = self.scene.step(state, Action::Deliver)?;
                let is_it = next.reader.got.len() > state.reader.got.len() && next.reader.cursor == position;
                is_it.then_some(next)?
            }
            Seen::Heartbeat { cursor } => {
                let subscription = state.reader.subscription.as_ref()?;
                subscription.page.is_empty().then_some(())?;
                let next = self.scene.step(state, Action::Heartbeat)?;
                (next.reader.cursor == cursor).then_some(next)?
            }
            Seen::Disconnected => {
                state.reader.subscription.as_ref()?;
                self.scene.step(state, Action::Disconnect)?
            }
            Seen::Log { ref rows } => {
                let is_answered = |send: &Send| matches!(send, Send::Acknowledged(_) | Send::Refused);
                let is_end = state.log.len() == rows.len()
                    && state.sends.iter().all(is_answered)
                    && state.reader.got == state.visible(self.scene, 0, state.head);
                is_end.then(|| state.clone())?
            }
        };
        let next = Place {
            state: next,
            tries: place.tries.clone(),
        };
        self.is_as_told(&next).then_some(next)
    }

    /// The sender has no answer: its command never came to the node, or there was none, or it was lost.
    fn unknown(&self, place: &Place, command: u8) -> Option<Place> {
        let mut next = place.clone();
        let at = usize::from(command);
        let send = next.state.sends.get_mut(at)?;
        let is_on_its_way = next.tries[at] + 1 == self.begun[at].len();
        let is_lost = matches!(send, Send::Acknowledged(_));
        if is_on_its_way || is_lost {
            *send = Send::Unknown {
                node: *self.begun[at].last()?,
            };
            next.tries[at] = self.begun[at].len();
        }
        (matches!(send, Send::Unknown { .. }) && self.is_as_told(&next)).then_some(next)
    }
}
