//! What must hold at every moment, and what must happen at some, or nothing would have been looked at.

use stateright::Model;

use crate::{Action, Defect, Mode, NODES, Scene, Send, Stage, State};

/// Something said of a state.
pub struct Claim {
    pub name: &'static str,
    pub holds: fn(&Scene, &State) -> bool,
}

/// What holds in every state.
pub fn claims() -> &'static [Claim] {
    &[
        Claim {
            name: "what is acknowledged is in the log once, where the answer says",
            holds: |_, state| {
                (0..).zip(&state.sends).all(|(command, send)| {
                    let Send::Acknowledged(position) = send else {
                        return true;
                    };
                    let mut rows = state.log.iter().filter(|row| row.command == command);
                    rows.next().is_some_and(|row| row.position == *position) && rows.next().is_none()
                })
            },
        },
        Claim {
            name: "what is said not to be written never is",
            holds: |_, state| {
                let is_refused = |command: u8| state.sends[usize::from(command)] == Send::Refused;
                !state.log.iter().any(|row| is_refused(row.command))
            },
        },
        Claim {
            name: "no key is recorded twice",
            holds: |_, state| {
                let is_later = |(n, row): (usize, &crate::Row)| {
                    state.log[..n].iter().any(|before| before.command == row.command)
                };
                !state.log.iter().enumerate().any(is_later)
            },
        },
        Claim {
            name: "positions follow the commits without a hole",
            holds: |_, state| {
                (1..)
                    .zip(&state.log)
                    .all(|(position, row)| row.position == position)
            },
        },
        Claim {
            name: "every tail passes on the log, in its order and without a hole",
            holds: |_, state| {
                NODES.into_iter().all(|node| {
                    let tail = &state.nodes[node].tail;
                    let log = state.log.iter().map(|row| row.position);
                    let passed = log.filter(|&position| {
                        tail.began < position && tail.at.is_some_and(|at| position <= at)
                    });
                    passed.eq(tail.published.iter().copied())
                })
            },
        },
        Claim {
            name: "the reader has all that it may see up to its cursor, once and in order",
            holds: |scene, state| {
                let reader = &state.reader;
                let visible = state.log.iter().filter(|row| scene.shows(row.command));
                let visible = visible.map(|row| row.position);
                visible
                    .filter(|&position| position <= reader.cursor)
                    .eq(reader.got.iter().copied())
            },
        },
        Claim {
            name: "at rest every sender has its answer, and the reader everything",
            holds: |scene, state| is_complete(scene, state) || !is_at_rest(scene, state),
        },
    ]
}

fn is_complete(scene: &Scene, state: &State) -> bool {
    let answered = |send: &Send| matches!(send, Send::Acknowledged(_) | Send::Refused);
    let tails = NODES.map(|node| state.nodes[node].tail.at);
    state.sends.iter().all(answered)
        && tails == [Some(state.head); 2]
        && state.transaction.is_none()
        && state.reader.subscription.is_some()
        && state.reader.got == state.visible(scene, 0, state.head)
        && state.log.iter().all(|row| row.position <= state.head)
}

/// Whether nothing more happens unless something goes wrong.
fn is_at_rest(scene: &Scene, state: &State) -> bool {
    let mut actions = Vec::new();
    scene.actions(state, &mut actions);
    actions.retain(|action| !action.is_fault());
    !actions
        .into_iter()
        .any(|action: Action| scene.next_state(state, action).is_some())
}

/// What some run must come to, so that the claims are not about nothing.
pub(crate) fn happenings() -> &'static [Claim] {
    &[
        Claim {
            name: "all is sent, recorded and delivered",
            holds: |scene, state| state.log.len() == usize::from(scene.commands) && is_complete(scene, state),
        },
        Claim {
            name: "a commit takes effect, and its writer does not know",
            holds: |_, state| {
                state.log.iter().any(|row| {
                    state.nodes.iter().any(|node| {
                        let writer = &node.writer;
                        writer.in_doubt && writer.stage == Stage::Idle && writer.batch.contains(&row.command)
                    })
                })
            },
        },
        Claim {
            name: "a commit takes effect after its node was killed",
            holds: |_, state| {
                state.log.iter().any(|row| {
                    let send = state.sends[usize::from(row.command)];
                    matches!(send, Send::Unknown { node } if !state.nodes[node].up)
                })
            },
        },
        Claim {
            name: "an inbox overflows",
            holds: |_, state| {
                let subscription = state.reader.subscription.as_ref();
                subscription
                    .is_some_and(|subscription| subscription.mode == Mode::Live && !subscription.inbox.armed)
            },
        },
        Claim {
            name: "the reader misses a delivery, and has not found out",
            holds: |_, state| {
                let subscription = state.reader.subscription.as_ref();
                subscription.is_some_and(|subscription| subscription.last > state.reader.cursor)
            },
        },
    ]
}

impl Defect {
    /// The claim by which the checker refutes it.
    pub fn refuted_by(self) -> &'static str {
        match self {
            Self::DrawsOutsideTheLock | Self::CommitsWhateverWasForeseen => {
                "positions follow the commits without a hole"
            }
            Self::SettlesWithoutTheLock | Self::ForgetsTheDoubt => "what is said not to be written never is",
            Self::AnswersBeforeTheCommit => "what is acknowledged is in the log once, where the answer says",
            Self::TailTrustsHints | Self::TailPassesHoles => {
                "every tail passes on the log, in its order and without a hole"
            }
            Self::TailWaitsForHints => "at rest every sender has its answer, and the reader everything",
            Self::JoinsLiveAfterReading | Self::StaysLiveAfterAnOverflow | Self::IgnoresTheChain => {
                "the reader has all that it may see up to its cursor, once and in order"
            }
        }
    }
}
