//! Clients that send with a key and send again until they are answered, as a client should, and what must be in the
//! log in the end: each of their messages once, and nothing else.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chat_domain::Position;
use tokio::time::interval;

use crate::{Client, Database, Problem, inside, run};

/// How long a client sends again before it gives up.
const LIMIT: Duration = Duration::from_secs(90);

/// A send that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub actor: String,
    pub key: String,
    pub id: Position,
    /// Refusals and silences before the answer.
    pub retries: u32,
}

/// Somebody's client.
#[derive(Clone, Debug)]
pub struct Sender {
    pub actor: String,
    pub client: Client,
}

impl Sender {
    pub fn new(server: &crate::Server, actor: &str) -> Sender {
        Sender {
            actor: actor.into(),
            client: server.client(actor),
        }
    }

    /// Sends once; the key is the text.
    pub async fn send(&self, key: &str) -> Result<Sent, Problem> {
        let message = self.client.send("bob", key, Some(key)).await?;
        assert_eq!(
            (&message["text"], &message["sender_id"]),
            (&key.into(), &self.actor.as_str().into())
        );
        let id = message["_id"].as_i64().expect("a message has an _id");
        Ok(Sent {
            actor: self.actor.clone(),
            key: key.into(),
            id,
            retries: 0,
        })
    }

    /// Sends again after a silence and after a temporary refusal. Panics at any other, and when it takes too long.
    pub async fn send_until_answered(&self, key: &str) -> Sent {
        let begin = Instant::now();
        let mut retries = 0;
        // Not as fast as it can: a server that is gone refuses at once.
        let mut tries = interval(Duration::from_millis(20));
        loop {
            tries.tick().await;
            match self.send(key).await {
                Ok(sent) => return Sent { retries, ..sent },
                Err(problem) if matches!(problem.status, 0 | 503) => {
                    assert!(
                        begin.elapsed() < LIMIT,
                        "{key} is not answered within {LIMIT:?}: {problem}"
                    );
                    retries += 1;
                }
                Err(problem) => panic!("{key} was refused: {problem}"),
            }
        }
    }
}

/// Where each key of each actor stands in the log, however often it does.
pub async fn recorded(database: &Database) -> BTreeMap<(String, String), Vec<Position>> {
    let rows = inside::rows(database, "outbox", "position, actor_id, command_key", "position").await;
    let mut recorded: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let columns: Vec<_> = row.splitn(3, '|').collect();
        let [position, actor, key] = columns[..] else {
            panic!("{row}")
        };
        let position = position.parse().expect("a position is a number");
        recorded
            .entry((actor.to_string(), key.to_string()))
            .or_default()
            .push(position);
    }
    recorded
}

/// Each send is in the log once, at the position that was answered, and nothing else is; `verify` finds nothing.
pub async fn check_exactly_once(database: &Database, sent: &[Sent]) {
    let mut expected: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for Sent { actor, key, id, .. } in sent {
        expected
            .entry((actor.clone(), key.clone()))
            .or_default()
            .push(*id);
    }
    let recorded = recorded(database).await;
    for (who, ids) in &expected {
        assert_eq!(
            recorded.get(who),
            Some(ids),
            "{who:?} is in the log once, where it was answered to be"
        );
    }
    for (who, positions) in &recorded {
        assert!(
            expected.contains_key(who),
            "nobody was answered for {who:?} at {positions:?}"
        );
    }
    let verified = run(database, &["verify"], &[]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}
