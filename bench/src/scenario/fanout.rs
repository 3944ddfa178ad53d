//! One message to many connections: those of one user, to whom another writes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use chat_tests::Server;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::mpsc, time::timeout};

use super::Setting;
use crate::{
    client::{Connection, Heard, accepted, command, heard},
    peer::node,
    report::Curve,
    target::{SETTINGS, Target},
};

const CONTENT: usize = 100;
const IN_FLIGHT: usize = 8;
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let counts: &[usize] = setting.size.pick(&[100, 1000], &[10, 100, 1000, 5000]);
    let deliveries = setting.size.pick(200_000, 500_000);
    let (ours, theirs) = (setting.mariadb.fresh().await, setting.mariadb.fresh().await);
    let server = Server::start(&ours, &SETTINGS).await;
    let peer = node(&theirs).await;
    let mut series = Vec::new();
    for target in [Target::chat(&server), peer.target(super::send::NODE)] {
        let mut points = Vec::new();
        for &count in counts {
            let rate = fan_out(&target, count, (deliveries / count).min(5000)).await?;
            let subject = format!("{}, {count} connections", target.name);
            setting.report.figure("fanout", subject, "deliveries", "/s", rate);
            points.push((count as f64, rate));
        }
        series.push((target.name.into(), points));
    }
    setting.report.curve(Curve {
        name: "fanout",
        title: "One user's messages to all connections of another",
        x: "connections",
        y: "deliveries a second",
        series,
    });
    Ok(())
}

/// Deliveries a second, until the last connection has the last message.
async fn fan_out(target: &Target, connections: usize, messages: usize) -> anyhow::Result<f64> {
    let (done, mut finished) = mpsc::channel(connections);
    let readers: Vec<_> = stream::iter(0..connections)
        .map(|_| async { Connection::open(target.port, &(target.auth)("many")).await })
        .buffer_unordered(64)
        .try_collect()
        .await?;
    for mut reader in readers {
        let done = done.clone();
        tokio::spawn(async move {
            let mut left = messages;
            while left > 0 {
                let packet = reader.next().await?;
                left -= usize::from(matches!(heard(&packet), Heard::Event(_)));
            }
            done.send(()).await?;
            // Kept open until all have finished.
            while reader.next().await.is_ok() {}
            anyhow::Ok(())
        });
    }
    let mut sender = Connection::open(target.port, &(target.auth)("one")).await?;
    // A run of its own needs keys of its own.
    let run = rand::random::<u32>();
    let text = "x".repeat(CONTENT);
    let begun = Instant::now();
    let (mut sent, mut acked) = (0, 0);
    while acked < messages {
        while sent < messages && sent - acked < IN_FLIGHT {
            sender
                .feed(command(sent, "many", &text, &format!("{run}-{sent}")))
                .await?;
            sent += 1;
        }
        sender.flush().await?;
        if let Heard::Ack(_, answer) = heard(&sender.next().await?) {
            accepted(answer)?;
            acked += 1;
        }
    }
    for _ in 0..connections {
        ensure!(
            timeout(LIMIT, finished.recv()).await?.is_some(),
            "a reader ended before it had everything"
        );
    }
    Ok((connections * messages) as f64 / begun.elapsed().as_secs_f64())
}
