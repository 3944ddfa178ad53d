//! What the model allows is found, and what it does not is refused, at the line where it shows.

use chat_model::{
    Action, Faults, Scene, Send, State,
    replay::{Logged, Refused, Seen, replay, replay_lines},
};
use stateright::Model;

/// Three sends through two nodes, one of them over the death of its node; a reader that resumes.
fn trace() -> Vec<Seen> {
    let row = |position, command| Logged { position, command };
    vec![
        Seen::Sent { command: 0, node: 0 },
        Seen::Connected { node: 0, cursor: 0 },
        Seen::Acknowledged {
            command: 0,
            position: 1,
        },
        Seen::Sent { command: 1, node: 1 },
        Seen::Sent { command: 2, node: 0 },
        Seen::Delivered { position: 1 },
        Seen::Killed { node: 0 },
        Seen::Unknown { command: 2 },
        Seen::Sent { command: 2, node: 1 },
        Seen::Connected { node: 1, cursor: 1 },
        Seen::Delivered { position: 2 },
        Seen::Acknowledged {
            command: 2,
            position: 2,
        },
        Seen::Heartbeat { cursor: 3 },
        Seen::Acknowledged {
            command: 1,
            position: 3,
        },
        Seen::Started { node: 0 },
        Seen::Log {
            rows: vec![row(1, 0), row(2, 2), row(3, 1)],
        },
    ]
}

#[test]
fn what_the_model_allows_is_found() {
    assert!(replay(&trace(), &[1]).is_ok());
    let lines: Vec<_> = trace()
        .iter()
        .map(|seen| serde_json::to_string(seen).expect("JSON"))
        .collect();
    assert_eq!(replay_lines(&lines.join("\n"), &[1]), replay(&trace(), &[1]));
}

#[test]
fn a_send_that_never_came_to_its_node_may_be_sent_again() {
    let again = with(|trace| {
        if let Some(Seen::Log { rows }) = trace.last_mut() {
            rows.push(Logged {
                position: 4,
                command: 3,
            });
        }
        let answered = Seen::Acknowledged {
            command: 3,
            position: 4,
        };
        let delivered = Seen::Delivered { position: 4 };
        trace.splice(15..15, [Seen::Sent { command: 3, node: 1 }, delivered, answered]);
        trace.splice(
            8..8,
            [Seen::Sent { command: 3, node: 0 }, Seen::Unknown { command: 3 }],
        );
    });
    assert!(replay(&again, &[1]).is_ok());
}

#[test]
fn what_it_does_not_allow_is_refused_where_it_shows() {
    // Somebody else's message is not the reader's.
    refused(trace(), &[], 13);
    // A delivery that never came, at its end.
    refused(with(|trace| drop(trace.remove(10))), &[1], 12);
    // One that came twice.
    refused(
        with(|trace| trace.insert(11, Seen::Delivered { position: 2 })),
        &[1],
        12,
    );
    // One that came before what is before it.
    refused(with(|trace| trace[5] = Seen::Delivered { position: 2 }), &[1], 6);
    // A reader that resumes from where it was not.
    refused(
        with(|trace| trace[9] = Seen::Connected { node: 1, cursor: 2 }),
        &[1],
        10,
    );
    // A killed node answers nobody.
    let answered = [Seen::Sent { command: 3, node: 0 }, Seen::Refused { command: 3 }];
    refused(with(|trace| drop(trace.splice(8..8, answered))), &[1], 10);
    // A send that is acknowledged and has no row.
    let more = [
        Seen::Sent { command: 3, node: 1 },
        Seen::Acknowledged {
            command: 3,
            position: 4,
        },
    ];
    refused(with(|trace| drop(trace.splice(15..15, more))), &[1], 17);
    // One that has two.
    let double = |trace: &mut Vec<Seen>| {
        if let Some(Seen::Log { rows }) = trace.last_mut() {
            rows.push(Logged {
                position: 4,
                command: 0,
            });
        }
    };
    refused(with(double), &[1], 16);
    // One that is said later not to be written, where it is needed.
    refused(with(|trace| trace[13] = Seen::Refused { command: 1 }), &[1], 13);
}

#[test]
fn what_is_no_trace_is_said_so() {
    let reason = |trace: &str| match replay_lines(trace, &[]) {
        Err(Refused::Unreadable { line, .. }) => Some(line),
        _ => None,
    };
    assert_eq!(
        reason("{\"seen\":\"disconnected\"}\n{\"seen\":\"nothing\"}"),
        Some(2)
    );
    assert_eq!(
        reason("{\"seen\":\"acknowledged\",\"command\":0,\"position\":1}"),
        Some(1)
    );
    assert_eq!(reason("{\"seen\":\"sent\",\"command\":0,\"node\":2}"), Some(1));
    assert_eq!(reason("{\"seen\":\"sent\",\"command\":0,\"node\":0}"), Some(1));
}

fn with(change: impl FnOnce(&mut Vec<Seen>)) -> Vec<Seen> {
    let mut trace = trace();
    change(&mut trace);
    trace
}

fn refused(trace: Vec<Seen>, unseen: &[u8], at: usize) {
    match replay(&trace, unseen) {
        Err(Refused::Impossible { line, seen }) => assert_eq!(line, at, "refused at {seen:?}"),
        other => panic!("{other:?} of {trace:?}"),
    }
}

/// Runs of the model itself, steps chosen by lot, told as a trace: each must be found. So the replay leaves out nothing
/// that the model can do.
#[test]
fn each_run_of_the_model_is_found() {
    let scene = Scene {
        commands: 4,
        unseen: vec![1],
        inbox: 1,
        handed: 1,
        torn: true,
        faults: Faults {
            crashes: 1,
            cuts: 1,
            deadlines: 1,
            disconnects: 1,
            losses: 0,
        },
        defect: None,
    };
    let (mut seen, mut killed, mut unknown) = (0, 0, 0);
    for seed in 1..=100 {
        let trace = run(&scene, seed);
        let found = replay(&trace, &scene.unseen);
        assert!(found.is_ok(), "seed {seed}: {found:?} of {trace:#?}");
        seen += trace.len();
        killed += trace
            .iter()
            .filter(|seen| matches!(seen, Seen::Killed { .. }))
            .count();
        unknown += trace
            .iter()
            .filter(|seen| matches!(seen, Seen::Unknown { .. }))
            .count();
    }
    assert!(
        seen > 1500 && killed > 50 && unknown > 50,
        "{seen} {killed} {unknown}"
    );
}

/// A run of the model to its end, as it is seen from outside.
fn run(scene: &Scene, seed: u64) -> Vec<Seen> {
    let mut lot = seed;
    let mut draw = |most: usize| {
        // Knuth's; the upper half is good enough to choose by.
        lot = lot
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(lot >> 33).expect("31 bits") % most
    };
    let mut trace = Vec::new();
    let mut state = scene.init_states().remove(0);
    loop {
        let steps = scene.next_steps(&state);
        if steps.is_empty() {
            break;
        }
        let (action, next) = steps[draw(steps.len())].clone();
        tell(scene, &state, &next, action, &mut trace);
        state = next;
    }
    let rows = state.log.iter().map(|row| Logged {
        position: row.position,
        command: row.command,
    });
    trace.push(Seen::Log { rows: rows.collect() });
    trace
}

fn tell(scene: &Scene, before: &State, after: &State, action: Action, trace: &mut Vec<Seen>) {
    let (was, is) = (&before.reader, &after.reader);
    match action {
        Action::Execute { command, node } => trace.push(Seen::Sent { command, node }),
        Action::Cut(node) => trace.push(Seen::Cut { node }),
        Action::Crash(node) => trace.push(Seen::Killed { node }),
        Action::Start(node) => trace.push(Seen::Started { node }),
        Action::Load => trace.push(Seen::Loaded {
            cursor: is.cursor,
            positions: is.got.clone(),
        }),
        Action::Subscribe(node) => trace.push(Seen::Connected {
            node,
            cursor: was.cursor,
        }),
        Action::Deliver if is.got.len() > was.got.len() => {
            trace.push(Seen::Delivered { position: is.cursor })
        }
        Action::Heartbeat => trace.push(Seen::Heartbeat { cursor: is.cursor }),
        Action::Disconnect => trace.push(Seen::Disconnected),
        _ => {}
    }
    for command in 0..scene.commands {
        let [was, is] = [before, after].map(|state| state.sends[usize::from(command)]);
        match is {
            _ if was == is => {}
            Send::Acknowledged(position) => trace.push(Seen::Acknowledged { command, position }),
            Send::Refused => trace.push(Seen::Refused { command }),
            Send::Unknown { .. } => trace.push(Seen::Unknown { command }),
            Send::Todo | Send::Waiting { .. } => {}
        }
    }
}
