//! All clients come back at once, as after a network's failure, each with a cursor from before and something missed.

use std::{collections::HashSet, time::Instant};

use anyhow::{Context, ensure};
use chat_tests::Server;
use futures_util::future::try_join_all;
use serde_json::Value;

use super::Setting;
use crate::{
    client::{Connection, Heard, heard, message_id},
    fill,
    load::name,
    report::{Curve, histogram},
    target::{SETTINGS, Target},
};

const CONTENT: usize = 100;
const MISSED: usize = 10;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let counts: &[usize] = setting.size.pick(&[100, 1000], &[100, 1000, 10_000]);
    let mut points = Vec::new();
    for &count in counts {
        let database = setting.mariadb.fresh().await;
        let server = Server::start(&database, &SETTINGS).await;
        fill::send(&database, count, CONTENT, |n| ("sender".into(), name(n))).await?;
        let page: Value = server
            .client(&name(0))
            .get("/v1/conversations")
            .send()
            .await?
            .json()
            .await?;
        let cursor = page["cursor"].as_str().context("a page has a cursor")?.to_owned();
        fill::send(&database, count * MISSED, CONTENT, |n| {
            ("sender".into(), name(n % count))
        })
        .await?;
        let target = Target::chat(&server);
        let begun = Instant::now();
        let clients = (0..count).map(|user| {
            let (target, cursor) = (target.clone(), cursor.clone());
            async move { tokio::spawn(come_back(target, user, cursor, begun)).await? }
        });
        let mut times = histogram();
        for taken in try_join_all(clients).await? {
            times.saturating_record(taken);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let subject = format!("{count} clients at once, {MISSED} missed by each");
        setting
            .report
            .figure("resume", &subject, "until all were complete", "s", seconds);
        setting.report.times("resume", &subject, "complete", &times);
        points.push((count as f64, seconds));
    }
    setting.report.curve(Curve {
        name: "resume",
        title: "Clients that come back at once, until all have what they missed",
        x: "clients",
        y: "seconds",
        series: vec![("all complete".into(), points)],
    });
    Ok(())
}

/// Reads until everything missed is there, each once; how long that took, in microseconds.
async fn come_back(target: Target, user: usize, cursor: String, begun: Instant) -> anyhow::Result<u64> {
    let mut auth = (target.auth)(&name(user));
    auth["after"] = cursor.into();
    let mut connection = Connection::open(target.port, &auth).await?;
    let mut seen = HashSet::new();
    while seen.len() < MISSED {
        let packet = connection.next().await?;
        ensure!(!packet.starts_with(r#"42["reset""#), "a reset: {packet}");
        if let Heard::Event(event) = heard(&packet) {
            let id = message_id(event).context("an event of a message")?;
            ensure!(seen.insert(id), "message {id} came twice");
        }
    }
    Ok(u64::try_from(begun.elapsed().as_micros())?)
}
