//! Durable, acknowledged sends, beside the original system's own stack on the same database server, and beside a server that
//! acknowledges at once, which shows what the load generator itself can do.

use chat_tests::Server;

use super::{Setting, median};
use crate::{
    load::{Outcome, Pace, run},
    peer::{Bare, Peer, node},
    report::{Bound, Curve},
    target::{SETTINGS, Target},
};

pub(crate) const NODE: &str = "node: socket.io, mysql2";
const CONTENT: usize = 200;
const CONNECTIONS: usize = 256;
const RATE: f64 = 1000.0;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let (ours, theirs) = (setting.mariadb.fresh().await, setting.mariadb.fresh().await);
    let server = Server::start(&ours, &SETTINGS).await;
    let peer = node(&theirs).await;
    let acks = Peer::bare(Bare::Acks).await;
    let targets = [
        Target::chat(&server),
        peer.target(NODE),
        acks.target("acknowledged at once"),
    ];
    for window in [1, 8] {
        closed(setting, &targets, window).await?;
    }
    open(setting, &targets).await?;
    connections(setting, &targets[..2]).await
}

async fn closed(setting: &mut Setting, targets: &[Target; 3], window: usize) -> anyhow::Result<()> {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut outcomes: [Option<Outcome>; 3] = Default::default();
    for _ in 0..setting.size.rounds() {
        for (index, target) in targets.iter().enumerate() {
            let pace = Pace::Window(window);
            let outcome = run(target, CONNECTIONS, pace, CONTENT, setting.size.length()).await?;
            rates[index].push(outcome.rate);
            outcomes[index] = Some(outcome);
        }
    }
    let report = &mut setting.report;
    for ((target, rates), outcome) in targets.iter().zip(&rates).zip(outcomes.iter().flatten()) {
        let subject = format!("{}, window {window}", target.name);
        report.figure("send", &subject, "sends", "/s", median(rates.clone()));
        report.times("send", &subject, "ack", &outcome.acks);
        let share = outcome.out_of_order as f64 / outcome.delivered.max(1) as f64;
        report.figure("send", &subject, "delivered out of order", "%", 100.0 * share);
    }
    let ratio = |other: usize| {
        let pairs = rates[0].iter().zip(&rates[other]);
        median(pairs.map(|(ours, theirs)| ours / theirs).collect())
    };
    let what = format!("sends/s at {CONNECTIONS} connections, window {window}, beside the Node stack");
    report.goal(what, ratio(1), Bound::AtLeast(1.5), Some(2.5));
    let what = format!("what the load generator can do beside that, window {window}");
    report.goal(what, 1.0 / ratio(2), Bound::AtLeast(3.0), None);
    Ok(())
}

async fn open(setting: &mut Setting, targets: &[Target; 3]) -> anyhow::Result<()> {
    let mut p99 = [Vec::new(), Vec::new()];
    for round in 0..setting.size.rounds() {
        for (index, target) in targets[..2].iter().enumerate() {
            let length = setting.size.length();
            let outcome = run(target, CONNECTIONS, Pace::Rate(RATE), CONTENT, length).await?;
            let value = outcome.deliveries.value_at_quantile(0.99);
            p99[index].push(value as f64);
            if round > 0 {
                continue;
            }
            let report = &mut setting.report;
            let subject = format!("{}, open loop", target.name);
            report.figure("send", &subject, "sends", "/s", outcome.rate);
            report.times("send", &subject, "ack", &outcome.acks);
            report.times("send", &subject, "delivery", &outcome.deliveries);
            let share = outcome.out_of_order as f64 / outcome.delivered.max(1) as f64;
            report.figure("send", &subject, "delivered out of order", "%", 100.0 * share);
        }
    }
    let [ours, theirs] = p99;
    let what = format!("delivery p99 at {RATE} sends/s, beside the Node stack");
    let ratio = median(ours) / median(theirs);
    setting
        .report
        .goal(what, ratio, Bound::AtMost(1.0), Some(1.0 / 3.0));
    Ok(())
}

/// The rate as connections grow.
async fn connections(setting: &mut Setting, targets: &[Target]) -> anyhow::Result<()> {
    let counts: &[usize] = setting.size.pick(&[16, 256], &[4, 16, 64, 256, 1024, 4096]);
    let mut series = Vec::new();
    for target in targets {
        let mut points = Vec::new();
        for &count in counts {
            let outcome = run(target, count, Pace::Window(1), CONTENT, setting.size.length()).await?;
            let subject = format!("{}, {count} connections", target.name);
            setting
                .report
                .figure("send", subject, "sends", "/s", outcome.rate);
            points.push((count as f64, outcome.rate));
        }
        series.push((target.name.into(), points));
    }
    setting.report.curve(Curve {
        name: "connections",
        title: "Durable sends, one in flight on each connection",
        x: "connections",
        y: "sends a second",
        series,
    });
    Ok(())
}
