//! The proof, for seconds in the gate and for a minute in full: everything is broken while people send and read, and the
//! checker finds nothing.

use std::time::Duration;

use chat_tests::{
    Kind,
    databases::not_run,
    proof::{
        checker::{Findings, Rule, Violation},
        history::Reading,
        run::{Plan, run},
    },
    sized,
};

/// A run in which everything may be broken, for so many seconds in full.
fn plan(kind: Kind, seconds: u64) -> Plan {
    Plan::new(kind, Duration::from_secs(sized(12, seconds)))
}

/// Nothing was found, and there was enough to find it in.
fn holds(findings: &Findings) {
    assert!(findings.violations.is_empty(), "\n{}", findings.table());
    let sends = findings.sends;
    for part in [sends.accepted, sends.refused, sends.unknown] {
        assert!(
            part * 100 >= sends.all(),
            "each outcome is more than 1 % of all: {sends:?}"
        );
    }
    for faults in findings.faults.values() {
        assert!(faults.least_in_flight > 0, "{:?}", findings.faults);
    }
    assert_eq!(
        findings.deliveries.len(),
        Reading::ALL.len() + 1,
        "each door, and the library: {:?}",
        findings.deliveries
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_mariadb_with_three_nodes() {
    let mut plan = plan(Kind::MariaDb, 60);
    plan.standby = false;
    holds(&run(&plan).await);
}

/// With a binary log, and with every kind of fail-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_mariadb_with_three_nodes_and_a_replica() {
    let mut plan = plan(Kind::MariaDb, 75);
    plan.standby = true;
    holds(&run(&plan).await);
}

/// Servers that commit together lose nothing, and no epoch ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_a_galera_cluster_of_three() {
    let mut plan = plan(Kind::MariaDb, 45);
    plan.standby = false;
    plan.cluster = true;
    let findings = run(&plan).await;
    assert_eq!(findings.epochs, 0, "\n{}", findings.table());
    holds(&findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_mysql_with_three_nodes() {
    if !not_run(Kind::MySql, "nothing_is_found_on_mysql_with_three_nodes").await {
        holds(&run(&plan(Kind::MySql, 60)).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_sqlite() {
    holds(&run(&plan(Kind::Sqlite, 45)).await);
}

/// A defect of the server is found by the same run, and by the rule that is meant to find it. Most show themselves at
/// once; those that need a fault besides get that fault and no other, so that the run can be short. What a fault meets
/// is left to chance: where one run does not show the defect, another one does.
async fn finds(defect: &'static str, kind: Kind, faults: &[&str], rules: &[Rule]) {
    const RUNS: usize = 3;
    let is_meant = |violation: &Violation| rules.contains(&violation.rule);
    for number in 1..=RUNS {
        let mut plan = Plan::new(kind, Duration::from_secs(sized(8, 15)));
        plan.planted = Some(defect);
        plan.standby = false;
        plan.only = faults.iter().map(ToString::to_string).collect();
        let found = run(&plan).await;
        if found.violations.iter().any(is_meant) {
            return;
        }
        assert!(
            number < RUNS,
            "{defect} is not found in {RUNS} runs:\n{}",
            found.table()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_before_the_commit_is_found() {
    finds(
        "ack_before_commit",
        Kind::MariaDb,
        &["cut before COMMIT"],
        &[Rule::Acknowledged],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_on_retry_is_found() {
    finds(
        "double_on_retry",
        Kind::MariaDb,
        &["COMMIT"],
        &[Rule::Once, Rule::NobodySent],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_is_dropped_is_found() {
    finds("drop_delivery", Kind::Sqlite, &[], &[Rule::Missing]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_deliveries_that_are_swapped_are_found() {
    finds("swap_deliveries", Kind::Sqlite, &[], &[Rule::Order]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_message_is_found() {
    finds("foreign_message", Kind::Sqlite, &[], &[Rule::Foreign]).await;
}
