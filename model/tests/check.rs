//! Every order in which the steps of a small scene can happen is looked at: the system as it is has no bad one, and
//! each way of building it wrong has.

#![expect(
    clippy::print_stdout,
    reason = "the figures of a run, for who wants to see them"
)]

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Instant,
};

use chat_model::{Defect, Faults, Scene, claims};
use stateright::{Checker, HasDiscoveries, Model};

const NO_FAULTS: Faults = Faults {
    crashes: 0,
    cuts: 0,
    deadlines: 0,
    disconnects: 0,
    losses: 0,
};
/// Two senders, two nodes, one reader, the smallest queues, and the reads of MariaDB.
const SCENE: Scene = Scene {
    commands: 2,
    unseen: Vec::new(),
    inbox: 1,
    handed: 1,
    torn: true,
    faults: NO_FAULTS,
    defect: None,
};

const ALL_DELIVERED: &str = "all is sent, recorded and delivered";
const UNKNOWN: &str = "a commit takes effect, and its writer does not know";
const KILLED: &str = "a commit takes effect after its node was killed";
const OVERFLOW: &str = "an inbox overflows";
const MISSED: &str = "the reader misses a delivery, and has not found out";

#[test]
fn three_commands_of_which_the_reader_may_see_two() {
    let scene = Scene {
        commands: 3,
        unseen: vec![1],
        ..SCENE
    };
    check(scene, &[ALL_DELIVERED, OVERFLOW]);
}

#[test]
fn a_crash_a_lost_answer_and_a_reader_that_resumes() {
    let faults = Faults {
        crashes: 1,
        cuts: 1,
        disconnects: 1,
        ..NO_FAULTS
    };
    check(
        Scene { faults, ..SCENE },
        &[ALL_DELIVERED, OVERFLOW, KILLED, UNKNOWN],
    );
}

#[test]
fn a_lost_answer_a_deadline_a_lost_delivery_and_a_reader_that_resumes() {
    let faults = Faults {
        crashes: 0,
        cuts: 1,
        deadlines: 1,
        disconnects: 1,
        losses: 1,
    };
    check(
        Scene { faults, ..SCENE },
        &[ALL_DELIVERED, OVERFLOW, UNKNOWN, MISSED],
    );
}

/// Looks at all states, finds no bad one, and finds those that make the scene worth looking at.
fn check(scene: Scene, happens: &[&str]) {
    let begun = Instant::now();
    let name = format!("{scene:?}");
    let checker = scene.checker().spawn_bfs().join();
    println!(
        "{name}: {} states, up to {} steps, in {:?}",
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    assert!(checker.is_done());
    for claim in claims() {
        checker.assert_no_discovery(claim.name);
    }
    is_documented(checker.unique_state_count());
    let found: BTreeSet<_> = checker.discoveries().into_keys().collect();
    assert_eq!(found, happens.iter().copied().collect());
}

#[test]
fn each_defect_is_refuted() {
    let faults = Faults {
        cuts: 1,
        deadlines: 1,
        losses: 1,
        ..NO_FAULTS
    };
    for defect in Defect::ALL {
        let scene = Scene {
            faults,
            defect: Some(defect),
            ..SCENE
        };
        let is_broken = HasDiscoveries::AllOf([defect.refuted_by()].into());
        let checker = scene.checker().finish_when(is_broken).spawn_bfs().join();
        let discovery = checker.discovery(defect.refuted_by());
        let steps = discovery
            .unwrap_or_else(|| panic!("{defect:?} is not refuted"))
            .into_actions();
        println!(
            "{defect:?}: \"{}\" fails after {} steps, found among {} states: {steps:?}",
            defect.refuted_by(),
            steps.len(),
            checker.unique_state_count(),
        );
    }
}

/// Without faults no step leads back to where the system was before: it comes to rest, and what holds at rest is reached.
#[test]
fn it_comes_to_rest() {
    let faults = Faults {
        crashes: 1,
        losses: 1,
        ..NO_FAULTS
    };
    let scene = Scene { faults, ..SCENE };
    // By their hashes, as the checker itself knows them.
    let hashes = BuildHasherDefault::<DefaultHasher>::default();
    let mut numbers = HashMap::new();
    let mut steps: Vec<Vec<usize>> = Vec::new();
    let mut todo = VecDeque::from(scene.init_states());
    numbers.insert(hashes.hash_one(&todo[0]), 0);
    while let Some(state) = todo.pop_front() {
        let mut leads_to = Vec::new();
        for (action, next) in scene.next_steps(&state) {
            let new = numbers.len();
            let number = *numbers.entry(hashes.hash_one(&next)).or_insert(new);
            if number == new {
                todo.push_back(next);
            }
            if !action.is_fault() {
                leads_to.push(number);
            }
        }
        steps.push(leads_to);
    }
    // Takes away the states that nothing leads to, until none is left.
    let mut arrivals = vec![0_u32; steps.len()];
    steps.iter().flatten().for_each(|&to| arrivals[to] += 1);
    let mut free: Vec<_> = (0..steps.len()).filter(|&state| arrivals[state] == 0).collect();
    let mut taken = 0;
    while let Some(state) = free.pop() {
        taken += 1;
        for &to in &steps[state] {
            arrivals[to] -= 1;
            if arrivals[to] == 0 {
                free.push(to);
            }
        }
    }
    println!("{taken} of {} states lead nowhere back", steps.len());
    assert_eq!(taken, steps.len());
    is_documented(taken);
}

/// The figure stands in the documentation, with a comma before each three digits.
fn is_documented(states: usize) {
    let digits = states.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(String::from_utf8_lossy)
        .collect();
    let figure = groups.join(",");
    let page = include_str!("../../docs/guarantees.md");
    assert!(page.contains(&figure), "docs/guarantees.md does not say {figure}");
}
