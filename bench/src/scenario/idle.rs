//! What a connection costs in memory that does nothing, beside servers that do nothing else: the growth of the process's
//! memory (`VmRSS`) by so many of them.

use std::fs;

use anyhow::Context;
use chat_tests::{Kind, Server};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Setting;
use crate::{
    client::Connection,
    load::name,
    peer::{Bare, Peer},
    report::{Bound, Curve},
    stream::Stream,
    target::{SETTINGS, Target, token},
};

/// So many are opened at a time.
const AT_ONCE: usize = 64;

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let counts: &[usize] = setting.size.pick(&[500, 2000], &[1000, 3000, 10_000]);
    let mut websockets = [Vec::new(), Vec::new()];
    let mut streams = [Vec::new(), Vec::new()];
    for &count in counts {
        let database = chat_tests::Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &SETTINGS).await;
        let target = Target::chat(&server);
        websockets[0].push((count, sockets(&target, server.pid(), count).await?));
        let peer = Peer::bare(Bare::Socketioxide).await;
        let target = peer.target("socketioxide");
        websockets[1].push((count, sockets(&target, peer.process.pid(), count).await?));

        let server = Server::start(&chat_tests::Database::fresh(Kind::Sqlite).await, &SETTINGS).await;
        streams[0].push((count, open_streams(server.port(), server.pid(), count).await?));
        let peer = Peer::bare(Bare::Sse).await;
        streams[1].push((count, open_streams(peer.port, peer.process.pid(), count).await?));
    }
    let mut series = Vec::new();
    for (door, bare, measured, aim) in [
        ("websocket", "bare socketioxide", &websockets, 20.0),
        ("stream", "bare axum", &streams, 12.0),
    ] {
        let subjects = [format!("{door}, chat-system"), format!("{door}, {bare}")];
        let mut last = [0.0; 2];
        for ((subject, measured), last) in subjects.iter().zip(measured).zip(&mut last) {
            for &(count, kilobytes) in measured {
                *last = kilobytes / count as f64;
                let what = format!("{subject}, {count} connections");
                setting.report.figure("idle", what, "memory of each", "kB", *last);
            }
            let points = measured.iter().map(|&(count, all)| (count as f64, all)).collect();
            series.push((subject.clone(), points));
        }
        let what = format!("memory of an idle {door}, beside {bare}");
        setting
            .report
            .goal(what, last[0] / last[1], Bound::AtMost(1.25), None);
        let what = format!("memory of an idle {door}, kB");
        setting
            .report
            .goal(what, last[0], Bound::AtMost(1.25 * last[1]), Some(aim));
    }
    setting.report.curve(Curve {
        name: "idle",
        title: "Memory of idle connections",
        x: "connections",
        y: "kB",
        series,
    });
    Ok(())
}

/// By how many kB a server grows by so many websockets that have logged in.
async fn sockets(target: &Target, pid: u32, count: usize) -> anyhow::Result<f64> {
    let before = memory(pid)?;
    let _held: Vec<_> = stream::iter(0..count)
        .map(|user| async move { Connection::open(target.port, &(target.auth)(&name(user))).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    settle().await;
    Ok(memory(pid)? - before)
}

async fn open_streams(port: u16, pid: u32, count: usize) -> anyhow::Result<f64> {
    let before = memory(pid)?;
    let _held: Vec<_> = stream::iter(0..count)
        .map(|user| async move { Stream::open(port, &token(&name(user)), None).await })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    settle().await;
    Ok(memory(pid)? - before)
}

/// What a connection needed only to begin is given back.
async fn settle() {
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
}

fn memory(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("the kernel says it")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
