//! People who chat in the background of a test, and what must be true of them in the end: each stream and each poll
//! held exactly what its user may see, and everything that was acknowledged is there, in order.

use std::{collections::BTreeMap, time::Duration};

use chat_domain::Position;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{
    Client, Database, Server,
    inside::{Logged, log},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Between two messages of one person to another: the traffic is there to run beside a test, not to load the machine.
const PACE: Duration = Duration::from_millis(40);

/// The settings of a server that people chat on: its heartbeats say soon how far a quiet stream has come.
pub const SETTINGS: &[(&str, &str)] = &[("CHAT_HEARTBEAT_S", "1")];

/// Chatting that goes on until [`finish`](Self::finish).
pub struct Chatter {
    begun_at: Position,
    orders: watch::Sender<Orders>,
    talkers: Vec<JoinHandle<Talked>>,
    listeners: Vec<Listener>,
}

struct Listener {
    user: String,
    door: &'static str,
    heard: JoinHandle<Vec<Value>>,
}

#[derive(Clone, Copy, Default)]
struct Orders {
    stop_talking: bool,
    /// Listen until everything up to here was examined.
    listen_to: Option<Position>,
}

/// What one person has sent to another, in order; each was acknowledged.
pub struct Talked {
    pub from: String,
    pub to: String,
    pub messages: Vec<Value>,
}

/// What came of it.
pub struct Chatted {
    pub talked: Vec<Talked>,
    /// The log since it began.
    pub log: Vec<Logged>,
}

impl Chatter {
    /// Lets `talkers` send from the first of each pair to the second, and everybody in `listeners` follow over a
    /// stream and over long polls. The server needs [`SETTINGS`].
    pub async fn start(
        server: &Server,
        database: &Database,
        talkers: &[(&str, &str)],
        listeners: &[&str],
    ) -> Chatter {
        let begun_at = database.number("SELECT position FROM log_head").await;
        let (orders, _) = watch::channel(Orders::default());
        let mut begun = Vec::new();
        for user in listeners {
            let stream = stream(server.client(user), orders.subscribe()).await;
            begun.push(Listener {
                user: user.to_string(),
                door: "stream",
                heard: stream,
            });
            let poll = poll(server.client(user), orders.subscribe()).await;
            begun.push(Listener {
                user: user.to_string(),
                door: "poll",
                heard: poll,
            });
        }
        let talkers = talkers.iter();
        let talkers = talkers.map(|(from, to)| {
            tokio::spawn(talk(
                server.client(from),
                from.to_string(),
                to.to_string(),
                orders.subscribe(),
            ))
        });
        Chatter {
            begun_at,
            talkers: talkers.collect(),
            listeners: begun,
            orders,
        }
    }

    /// Ends it and checks all of it.
    pub async fn finish(self, server: &Server, database: &Database) -> Chatted {
        self.orders.send_modify(|orders| orders.stop_talking = true);
        let mut talked = Vec::new();
        for talker in self.talkers {
            talked.push(talker.await.expect("a talker was refused"));
        }
        let head = database.number("SELECT position FROM log_head").await;
        self.orders.send_modify(|orders| orders.listen_to = Some(head));
        let log = log(database, self.begun_at).await;
        for listener in self.listeners {
            let heard = listener.heard.await.expect("a listener was cut off");
            check_heard(&listener.user, listener.door, &heard, &log, &talked);
        }
        for ((one, other), sent) in by_conversation(&talked) {
            check_history(server, &one, &other, &sent).await;
        }
        Chatted { talked, log }
    }
}

impl Chatted {
    /// How many messages were acknowledged.
    pub fn messages(&self) -> usize {
        self.talked.iter().map(|talked| talked.messages.len()).sum()
    }
}

async fn talk(client: Client, from: String, to: String, orders: watch::Receiver<Orders>) -> Talked {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut messages = Vec::new();
    while !orders.borrow().stop_talking || messages.is_empty() {
        pace.tick().await;
        let number = messages.len();
        let text = format!("{from} to {to}, number {number}");
        let sent = client.send(&to, &text, Some(&format!("{to}-{number}"))).await;
        let sent = sent.unwrap_or_else(|problem| panic!("{from} was refused: {problem}"));
        assert_eq!(
            (&sent["text"], &sent["sender_id"], &sent["receiver_id"]),
            (&json!(text), &json!(from), &json!(to))
        );
        messages.push(sent);
    }
    Talked { from, to, messages }
}

/// Follows a stream from now on; it has begun when this returns.
async fn stream(client: Client, orders: watch::Receiver<Orders>) -> JoinHandle<Vec<Value>> {
    let mut events = client.events(None).await.expect("a stream opens");
    events.named("ready", LIMIT).await;
    tokio::spawn(async move {
        let mut heard = Vec::new();
        loop {
            let frame = events.next(LIMIT).await.expect("the stream goes on");
            let position = position_of(
                frame.data["cursor"]
                    .as_str()
                    .expect("no stream ends before the test"),
            );
            if frame.event == "message" {
                heard.push(frame.data);
            }
            if orders.borrow().listen_to.is_some_and(|head| position >= head) {
                return heard;
            }
        }
    })
}

/// Follows by long polls from now on, and holds the chain from poll to poll.
async fn poll(client: Client, orders: watch::Receiver<Orders>) -> JoinHandle<Vec<Value>> {
    // An empty cursor is none: from now.
    let first = client.poll("", 0).await.expect("a poll is answered");
    let mut cursor = first["cursor"].as_str().expect("a cursor").to_string();
    let mut heard = events_of(&first);
    tokio::spawn(async move {
        while orders
            .borrow()
            .listen_to
            .is_none_or(|head| position_of(&cursor) < head)
        {
            let page = client.poll(&cursor, 1).await.expect("a poll is answered");
            for event in events_of(&page) {
                assert_eq!(
                    event["prev"],
                    cursor.as_str(),
                    "the chain is broken before {event}"
                );
                cursor = event["cursor"].as_str().expect("a cursor").to_string();
                heard.push(event);
            }
            cursor = page["cursor"].as_str().expect("a cursor").to_string();
        }
        heard
    })
}

fn events_of(page: &Value) -> Vec<Value> {
    page["events"].as_array().expect("a page has events").clone()
}

/// Cursors are opaque to clients; a test may look inside.
pub fn position_of(cursor: &str) -> Position {
    let (_, position) = cursor.rsplit_once(':').expect("a cursor of ours");
    position.parse().expect("a position")
}

fn check_heard(user: &str, door: &str, heard: &[Value], log: &[Logged], talked: &[Talked]) {
    let expected: Vec<_> = log.iter().filter(|event| event.concerns(user)).collect();
    let found: Vec<_> = heard
        .iter()
        .map(|event| event["position"].as_i64().expect("a position"))
        .collect();
    let positions: Vec<_> = expected.iter().map(|event| event.position).collect();
    assert_eq!(
        found, positions,
        "{user}'s {door} holds exactly what {user} may see"
    );
    for (event, logged) in heard.iter().zip(&expected) {
        assert_eq!(
            (&event["type"], &event["actor_id"]),
            (&json!(logged.kind), &json!(logged.actor_id))
        );
    }
    let heard: BTreeMap<_, _> = heard
        .iter()
        .map(|event| (event["position"].as_i64(), event))
        .collect();
    let mine = talked
        .iter()
        .filter(|talked| talked.from == user || talked.to == user);
    for message in mine.flat_map(|talked| &talked.messages) {
        let event = heard.get(&message["_id"].as_i64());
        let event = event.unwrap_or_else(|| panic!("{user}'s {door} lacks {message}"));
        for field in [
            "_id",
            "seq",
            "sender_id",
            "receiver_id",
            "sent_at",
            "text",
            "conversation_id",
        ] {
            assert_eq!(
                event["message"][field], message[field],
                "{user}'s {door}: {field} of {message}"
            );
        }
    }
}

type Pair = (String, String);

fn by_conversation(talked: &[Talked]) -> BTreeMap<Pair, Vec<&Value>> {
    let mut conversations: BTreeMap<Pair, Vec<&Value>> = BTreeMap::new();
    for Talked { from, to, messages } in talked {
        let (one, other) = if from <= to { (from, to) } else { (to, from) };
        conversations
            .entry((one.clone(), other.clone()))
            .or_default()
            .extend(messages);
    }
    for messages in conversations.values_mut() {
        messages.sort_by_key(|message| message["_id"].as_i64());
    }
    conversations
}

/// Both sides find every acknowledged message in their history, in order, and `seq` has no hole.
async fn check_history(server: &Server, one: &str, other: &str, sent: &[&Value]) {
    for (user, with) in [(one, other), (other, one)] {
        let history = whole_history(&server.client(user), with).await;
        for (index, message) in history.iter().enumerate() {
            assert_eq!(message["seq"], index + 1, "seq counts without a hole: {message}");
        }
        let ids: Vec<_> = history.iter().map(|message| message["_id"].as_i64()).collect();
        assert!(ids.is_sorted(), "{user}'s history is in order");
        let found: BTreeMap<_, _> = history
            .iter()
            .map(|message| (message["_id"].as_i64(), message))
            .collect();
        for message in sent {
            let there = found.get(&message["_id"].as_i64());
            let there = there.unwrap_or_else(|| panic!("{user}'s history lacks {message}"));
            assert_eq!(
                (&there["text"], &there["seq"]),
                (&message["text"], &message["seq"])
            );
        }
    }
}

/// All messages with somebody, ascending, page by page.
pub async fn whole_history(client: &Client, with: &str) -> Vec<Value> {
    let mut messages: Vec<Value> = Vec::new();
    loop {
        let after = messages
            .last()
            .map_or_else(|| "0".into(), |last| last["_id"].to_string());
        let page = client
            .history(&[("with", with), ("after", &after), ("limit", "200")])
            .await;
        let page = page.expect("history is given");
        messages.extend(
            page["messages"]
                .as_array()
                .expect("a page has messages")
                .iter()
                .cloned(),
        );
        if page["next"].is_null() {
            return messages;
        }
    }
}
