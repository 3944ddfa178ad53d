//! Connections that are cut at random while messages flow. What share of them arrives in the end, and how many twice?
//! Both servers have the same clients, who connect again at once; ours say how far they had come, which the Node stack
//! has no word for.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chat_tests::Server;
use futures_util::future::try_join_all;
use rand::Rng;
use tokio::time::{sleep, timeout_at};

use super::Setting;
use crate::{
    client::{Connection, Heard, accepted, command, heard, message_id},
    load::name,
    peer::node,
    report::Bound,
    target::{CHAT, SETTINGS, Target},
};

const CLIENTS: usize = 50;
const CONTENT: usize = 100;
/// Between two messages to one client.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection lives so many milliseconds, and then its client is away for a moment.
const LIFE_MS: std::ops::Range<u64> = 50..1000;
const AWAY: Duration = Duration::from_millis(10);
const QUIET: Duration = Duration::from_secs(2);

pub(crate) async fn measure(setting: &mut Setting) -> anyhow::Result<()> {
    let (ours, theirs) = (setting.mariadb.fresh().await, setting.mariadb.fresh().await);
    let server = Server::start(&ours, &SETTINGS).await;
    let peer = node(&theirs).await;
    for target in [Target::chat(&server), peer.target(super::send::NODE)] {
        let name = target.name;
        let length = setting.size.length() * 2;
        let came = jitter(target, length).await?;
        let share = 100.0 * came.arrived as f64 / came.sent as f64;
        let report = &mut setting.report;
        report.figure("jitter", name, "cuts", "", came.cuts as f64);
        report.figure("jitter", name, "acknowledged sends", "", came.sent as f64);
        report.figure("jitter", name, "delivered", "%", share);
        report.figure("jitter", name, "delivered twice", "", came.twice as f64);
        if name == CHAT {
            report.goal(
                "delivered under jitter, %",
                share,
                Bound::AtLeast(100.0),
                Some(100.0),
            );
            let what = "delivered twice under jitter";
            report.goal(what, came.twice as f64, Bound::AtMost(0.0), None);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Came {
    sent: usize,
    arrived: usize,
    twice: usize,
    cuts: usize,
}

async fn jitter(target: Target, length: Duration) -> anyhow::Result<Came> {
    let over = Arc::new(AtomicBool::new(false));
    let receivers: Vec<_> = (0..CLIENTS)
        .map(|user| tokio::spawn(receive(target.clone(), user, over.clone())))
        .collect();
    // All are there once before anything is sent.
    sleep(Duration::from_secs(1)).await;
    let until = Instant::now() + length;
    let senders = (0..CLIENTS).map(|user| send(&target, user, until));
    let sent: Vec<HashSet<u64>> = try_join_all(senders).await?;
    over.store(true, Ordering::Relaxed);
    let mut came = Came::default();
    for (receiver, sent) in receivers.into_iter().zip(sent) {
        let received = receiver.await??;
        came.sent += sent.len();
        came.arrived += sent.intersection(&received.seen).count();
        came.twice += received.twice;
        came.cuts += received.cuts;
    }
    Ok(came)
}

/// Sends on a connection that is not cut; the numbers of what was acknowledged.
async fn send(target: &Target, user: usize, until: Instant) -> anyhow::Result<HashSet<u64>> {
    let mut connection = Connection::open(target.port, &(target.auth)(&format!("sender{user}"))).await?;
    let text = "x".repeat(CONTENT);
    let mut sent = HashSet::new();
    for n in 0.. {
        if Instant::now() >= until {
            break;
        }
        connection
            .write(command(n, &name(user), &text, &n.to_string()))
            .await?;
        loop {
            if let Heard::Ack(_, answer) = heard(&connection.next().await?) {
                accepted(answer)?;
                sent.extend(message_id(answer));
                break;
            }
        }
        sleep(PAUSE).await;
    }
    Ok(sent)
}

#[derive(Default)]
struct Received {
    seen: HashSet<u64>,
    twice: usize,
    cuts: usize,
}

/// Is cut and comes back, until the senders are done; then reads until it is quiet.
async fn receive(target: Target, user: usize, over: Arc<AtomicBool>) -> anyhow::Result<Received> {
    let mut received = Received::default();
    let mut cursor: Option<String> = None;
    loop {
        let mut auth = (target.auth)(&name(user));
        if let Some(cursor) = &cursor {
            auth["after"] = cursor.as_str().into();
        }
        let last = over.load(Ordering::Relaxed);
        let mut connection = Connection::open(target.port, &auth).await?;
        let life = rand::rng().random_range(LIFE_MS);
        let mut cut = Instant::now() + if last { QUIET } else { Duration::from_millis(life) };
        while let Ok(packet) = timeout_at(cut.into(), connection.next()).await {
            let packet = packet?;
            cursor = cursor_of(&packet).map(ToOwned::to_owned).or(cursor);
            if let Heard::Event(event) = heard(&packet) {
                let new = message_id(event).is_none_or(|id| received.seen.insert(id));
                received.twice += usize::from(!new);
                if last {
                    cut = Instant::now() + QUIET;
                }
            }
        }
        if last {
            return Ok(received);
        }
        received.cuts += 1;
        drop(connection);
        sleep(AWAY).await;
    }
}

/// How far a packet brings its reader.
fn cursor_of(packet: &str) -> Option<&str> {
    let rest = &packet[packet.find(r#""cursor":""#)? + r#""cursor":""#.len()..];
    Some(&rest[..rest.find('"')?])
}
