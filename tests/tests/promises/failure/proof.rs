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

/// A run in which everything may be broken, for so many seconds in full. However short it is, a node is killed in it, and
/// these come besides; unless somebody who looks for a cause has only others come.
fn plan(kind: Kind, seconds: u64, besides: &[&str]) -> Plan {
    let mut plan = Plan::new(kind, Duration::from_secs(sized(12, seconds)));
    if plan.only.is_empty() {
        let first = ["kill -9 of a node"].iter().chain(besides);
        plan.first = first.map(ToString::to_string).collect();
    }
    plan
}

/// Nothing was found, and there was enough to find it in.
fn holds(plan: &Plan, findings: &Findings) {
    assert!(findings.violations.is_empty(), "\n{}", findings.table());
    for first in &plan.first {
        assert!(
            findings.faults.keys().any(|kind| kind.contains(first.as_str())),
            "{first} did not come: {:?}",
            findings.faults
        );
    }
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
    let mut plan = plan(Kind::MariaDb, 60, &[]);
    plan.standby = false;
    holds(&plan, &run(&plan).await);
}

/// With a binary log, and with every kind of fail-over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_mariadb_with_three_nodes_and_a_replica() {
    let fail_overs = ["fail-over, the end is lost", "fail-over, semi-synchronous"];
    let mut plan = plan(Kind::MariaDb, 75, &fail_overs);
    plan.standby = true;
    let findings = run(&plan).await;
    assert!(
        plan.first.is_empty() || findings.epochs > 0,
        "a log on another server is in another epoch:\n{}",
        findings.table()
    );
    holds(&plan, &findings);
}

/// Servers that commit together lose nothing, and no epoch ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_a_galera_cluster_of_three() {
    let mut plan = plan(
        Kind::MariaDb,
        45,
        &["a cluster loses its writer", "a cluster loses two servers"],
    );
    plan.standby = false;
    plan.cluster = true;
    let findings = run(&plan).await;
    assert_eq!(findings.epochs, 0, "\n{}", findings.table());
    holds(&plan, &findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_mysql_with_three_nodes() {
    if !not_run(Kind::MySql, "nothing_is_found_on_mysql_with_three_nodes").await {
        let plan = plan(Kind::MySql, 60, &[]);
        holds(&plan, &run(&plan).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_on_sqlite() {
    let plan = plan(Kind::Sqlite, 45, &[]);
    holds(&plan, &run(&plan).await);
}

/// A defect of the server is found by the same run, and by the rule that is meant to find it. Most show themselves at
/// once; those that need a fault besides get that fault and no other, so that the run can be short. What a fault meets
/// is left to chance: where a short run does not show the defect, another one does. In full one run is enough.
async fn finds(defect: &'static str, kind: Kind, faults: &[&str], rules: &[Rule]) {
    let runs = sized(3, 1);
    let is_meant = |violation: &Violation| rules.contains(&violation.rule);
    for number in 1..=runs {
        let mut plan = Plan::new(kind, Duration::from_secs(sized(8, 15)));
        plan.planted = Some(defect);
        plan.standby = false;
        plan.only = faults.iter().map(ToString::to_string).collect();
        let found = run(&plan).await;
        if found.violations.iter().any(is_meant) {
            return;
        }
        assert!(
            number < runs,
            "{defect} is not found in {runs} runs:\n{}",
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
