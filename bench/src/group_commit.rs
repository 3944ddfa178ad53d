//! The real writer, with so many senders at once.

use std::sync::Arc;

use chat_domain::{
    command::{Action, Command},
    content::Content,
    ids::{CommandKey, UserId},
    ports::EventLog,
};
use chat_infrastructure::writer::{GroupCommit, WriterOptions};
use chat_tests::Database;
use tokio::sync::mpsc;

use crate::{CONTENT, Window, prepared};

pub(crate) async fn measure(database: &Database, in_flight: usize) -> anyhow::Result<f64> {
    let connected = prepared(database).await?;
    let (committed, mut batches) = mpsc::channel(64);
    let tail = tokio::spawn(async move { while batches.recv().await.is_some() {} });
    let options = WriterOptions::default();
    let (log, writer) = GroupCommit::start(&connected, options, committed);
    let window = Arc::new(Window::new());
    let senders: Vec<_> = (0..in_flight)
        .map(|sender| {
            let (log, window) = (log.clone(), window.clone());
            tokio::spawn(async move {
                let mut counted = 0;
                for n in 0.. {
                    if window.is_over() {
                        break;
                    }
                    log.execute(command(sender, n)?).await?;
                    counted += u64::from(window.counts());
                }
                anyhow::Ok(counted)
            })
        })
        .collect();
    let mut done = 0;
    for sender in senders {
        done += sender.await??;
    }
    drop(log);
    writer.stop().await;
    tail.await?;
    Ok(window.rate(done))
}

fn command(sender: usize, n: u64) -> anyhow::Result<Command> {
    Ok(Command {
        actor_id: UserId::parse(&format!("user-{sender}"))?,
        via: None,
        key: CommandKey::parse(&format!("{sender}-{n}"))?,
        action: Action::SendMessage {
            receiver_id: UserId::parse(&format!("user-{}", sender / 2))?,
            content: Content::text("x".repeat(CONTENT)),
        },
    })
}
