//! The group commit alone, without a door, beside what one would do without it and beside the least that any design
//! must do:
//!
//! - **group commit**: commands with keys from so many senders at once, one send in flight each, through the real
//!   writer: idempotency, `seq`, log and projections included;
//! - **one transaction a message**: the same rows under the same head lock, each message in a transaction of its own,
//!   from 32 connections with prepared statements;
//! - **floor**: multi-row INSERTs into `messages` alone, on one connection, of as many rows as are in flight.

mod floor;
mod group_commit;
mod one_by_one;

use super::{Setting, median};
use crate::report::{Bound, Curve};

const CONTENT: usize = 200;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let length = setting.size.length();
    let (mut of_floor, mut of_one_by_one) = (Vec::new(), Vec::new());
    for _ in 0..setting.size.rounds() {
        let one_by_one = one_by_one::measure(&setting.mariadb.fresh().await, length).await?;
        setting.report.figure(
            "writer",
            "one transaction a message",
            "messages",
            "/s",
            one_by_one,
        );
        for in_flight in [256, 2000] {
            let floor = floor::measure(&setting.mariadb.fresh().await, in_flight, length).await?;
            let database = setting.mariadb.fresh().await;
            let group = group_commit::measure(&database, in_flight, in_flight, length).await?;
            let report = &mut setting.report;
            let subject = format!("floor, {in_flight} rows");
            report.figure("writer", subject, "messages", "/s", floor);
            let subject = format!("group commit, {in_flight} in flight");
            report.figure("writer", subject, "messages", "/s", group);
            if in_flight == 2000 {
                of_floor.push(group / floor);
                of_one_by_one.push(group / one_by_one);
            }
        }
    }
    let what = "group commit at 2,000 in flight, of the floor";
    let report = &mut setting.report;
    report.goal(what, median(of_floor), Bound::AtLeast(0.35), Some(0.5));
    let what = "group commit at 2,000 in flight, beside one transaction a message";
    report.goal(what, median(of_one_by_one), Bound::AtLeast(6.0), Some(10.0));
    conversations(setting).await
}

/// The rate as the conversations grow that are written to.
async fn conversations(setting: &mut Setting) -> anyhow::Result<()> {
    let counts: &[usize] = setting
        .size
        .pick(&[10, 10_000], &[10, 100, 1000, 10_000, 100_000]);
    let mut points = Vec::new();
    for &count in counts {
        let database = setting.mariadb.fresh().await;
        let rate = group_commit::measure(&database, 1000, count, setting.size.length()).await?;
        let subject = format!("group commit, {count} conversations");
        setting.report.figure("writer", subject, "messages", "/s", rate);
        points.push((count as f64, rate));
    }
    setting.report.curve(Curve {
        name: "conversations",
        title: "The group commit, 1,000 sends in flight",
        x: "conversations that are written to",
        y: "messages a second",
        series: vec![("group commit".into(), points)],
    });
    Ok(())
}
