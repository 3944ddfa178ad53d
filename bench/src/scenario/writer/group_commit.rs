//! The real writer, with so many senders at once, who write to so many conversations in turn.

use std::time::Duration;

use chat_domain::{
    command::{Action, Command},
    content::Content,
    ids::{CommandKey, UserId},
    ports::EventLog,
};
use chat_tests::Database;

use super::CONTENT;
use crate::{fill::Writing, window::Window};

pub(super) async fn measure(
    database: &Database,
    in_flight: usize,
    conversations: usize,
    length: Duration,
) -> anyhow::Result<f64> {
    let (log, writing) = Writing::start(database).await?;
    let window = Window::new(length);
    let senders: Vec<_> = (0..in_flight)
        .map(|sender| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut counted = 0;
                for n in 0_usize.. {
                    if window.is_over() {
                        break;
                    }
                    let conversation = (sender + n * in_flight) % conversations;
                    log.execute(command(sender, n, conversation)?).await?;
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
    writing.end().await?;
    Ok(window.rate(done))
}

fn command(sender: usize, n: usize, conversation: usize) -> anyhow::Result<Command> {
    let actor = format!("user-{conversation}");
    Ok(Command {
        actor_id: UserId::parse(&actor)?,
        via: None,
        key: CommandKey::parse(&format!("{sender}-{n}"))?,
        may_begin: true,
        action: Action::SendMessage {
            receiver_id: UserId::parse(&format!("{actor}-peer"))?,
            content: Content::text("x".repeat(CONTENT)),
        },
    })
}
