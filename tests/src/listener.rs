//! One reader for all doors: whoever listens follows the contract (the chain, `resume`, the cursor), and a test says
//! only through which door.

use std::{collections::VecDeque, fmt, pin::Pin, time::Duration};

use serde_json::{Value, json};

use crate::{
    Client, Events, Problem,
    socketio::{Incoming, SocketIo, Transport},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    Stream,
    LongPoll,
    Websocket,
    Polling,
}

impl Door {
    pub const ALL: [Door; 4] = [Door::Stream, Door::LongPoll, Door::Websocket, Door::Polling];

    /// Of a door of socket.io.
    pub fn transport(self) -> Option<Transport> {
        match self {
            Door::Websocket => Some(Transport::Websocket),
            Door::Polling => Some(Transport::Polling),
            Door::Stream | Door::LongPoll => None,
        }
    }
}

/// Longer than any silence of a server that works.
const SILENCE: Duration = Duration::from_secs(60);

/// What a long poll waits for an event.
const WAIT_S: u64 = 2;

/// Somebody who listens. Dropped, the connection is cut.
pub struct Listener {
    wire: Wire,
    cursor: String,
    /// How often the chain was found broken, and mended by `resume`.
    pub lost: usize,
}

enum Wire {
    Stream(Events),
    LongPoll(LongPoll),
    Socket { socket: SocketIo, resuming: bool },
}

/// A poll that waits, whoever awaits it.
type Waiting = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send>>;

struct LongPoll {
    client: Client,
    poll: Option<Waiting>,
    events: VecDeque<Value>,
    /// Where the page ends.
    end: String,
}

/// A delivery of the chain.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Event(Value),
    /// The log was examined up to the listener's new cursor.
    Passed,
}

impl Listener {
    /// Connects from a cursor or from now, and waits for `ready`. Panics at `reset`.
    pub async fn connect(
        door: Door,
        url: &str,
        token: &str,
        after: Option<&str>,
    ) -> Result<Listener, String> {
        let (wire, cursor) = match door {
            Door::Stream => {
                let mut events = Events::connect(url, token, after)
                    .await
                    .map_err(|p| p.to_string())?;
                let first = events
                    .next(SILENCE)
                    .await
                    .ok_or("the stream ended before ready")?;
                if first.event == "closing" {
                    return Err(format!("closing: {}", first.data));
                }
                assert_eq!(first.event, "ready", "{first:?}");
                (Wire::Stream(events), cursor_of(&first.data))
            }
            Door::LongPoll => {
                let client = Client::new(url, token);
                let page = client
                    .poll(after.unwrap_or_default(), 0)
                    .await
                    .map_err(|p| p.to_string())?;
                let poll = LongPoll {
                    client,
                    poll: None,
                    end: cursor_of(&page),
                    events: events_of(&page),
                };
                // The first event of the page follows what was asked for.
                let from = poll.events.front().map_or(poll.end.as_str(), |first| {
                    first["prev"].as_str().expect("an event has prev")
                });
                let from = match after {
                    Some(after) if after != "0" => after.to_string(),
                    _ => from.to_string(),
                };
                (Wire::LongPoll(poll), from)
            }
            Door::Websocket | Door::Polling => {
                let transport = door.transport().expect("a door of socket.io");
                let socket = SocketIo::connect(transport, url, token, after).await;
                let mut socket = socket.map_err(|refusal| refusal.to_string())?;
                let cursor = ready(&mut socket).await?;
                (
                    Wire::Socket {
                        socket,
                        resuming: false,
                    },
                    cursor,
                )
            }
        };
        Ok(Listener {
            wire,
            cursor,
            lost: 0,
        })
    }

    /// The next delivery; `None` where the connection is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<Step> {
        match &mut self.wire {
            Wire::Stream(events) => {
                // It holds the chain itself.
                let frame = events.next(SILENCE).await?;
                match frame.event.as_str() {
                    "message" => self.step(frame.data),
                    "heartbeat" => self.pass(&frame.data),
                    "closing" => None,
                    _ => panic!("the stream goes on with {frame:?}"),
                }
            }
            Wire::LongPoll(_) => self.next_of_long_poll().await,
            Wire::Socket { .. } => self.next_of_socket().await,
        }
    }

    async fn next_of_long_poll(&mut self) -> Option<Step> {
        loop {
            let Wire::LongPoll(poll) = &mut self.wire else {
                unreachable!("called for a long poll")
            };
            if let Some(event) = poll.events.pop_front() {
                assert_eq!(
                    event["prev"],
                    self.cursor.as_str(),
                    "the chain is broken before {event}"
                );
                return self.step(event);
            }
            if self.cursor != poll.end {
                self.cursor.clone_from(&poll.end);
                return Some(Step::Passed);
            }
            let (client, after) = (poll.client.clone(), self.cursor.clone());
            let asking = poll
                .poll
                .get_or_insert_with(|| Box::pin(async move { client.poll(&after, WAIT_S).await }));
            let page = asking.await;
            poll.poll = None;
            match page {
                Ok(page) => {
                    (poll.events, poll.end) = (events_of(&page), cursor_of(&page));
                    if poll.events.is_empty() {
                        self.cursor.clone_from(&poll.end);
                        return Some(Step::Passed);
                    }
                }
                Err(problem) if matches!(problem.status, 0 | 502 | 503) => return None,
                Err(problem) => panic!("a poll was refused: {problem}"),
            }
        }
    }

    async fn next_of_socket(&mut self) -> Option<Step> {
        loop {
            let Wire::Socket { socket, resuming } = &mut self.wire else {
                unreachable!("called for a socket")
            };
            let (name, data) = match socket.next().await? {
                Incoming::Event { name, data, .. } => (name, data),
                // Of `resume`.
                Incoming::Ack { data, .. } => {
                    assert!(data["result"].is_object(), "{data}");
                    continue;
                }
                Incoming::Disconnected => return None,
                other => panic!("the socket goes on with {other:?}"),
            };
            match name.as_str() {
                "ready" if cursor_of(&data) == self.cursor => *resuming = false,
                "reset" => panic!("told to reload: {data}"),
                "closing" => return None,
                "event" | "heartbeat" if *resuming => {}
                // A ready from elsewhere answers a `resume` that was overtaken by an event.
                "ready" | "event" | "heartbeat" if data["prev"] != self.cursor.as_str() => {
                    *resuming = true;
                    self.lost += 1;
                    socket.emit("resume", &json!({"after": self.cursor})).await?;
                }
                "event" => return self.step(data),
                "heartbeat" => return self.pass(&data),
                // Clients ignore what they do not know.
                _ => {}
            }
        }
    }

    /// The next event. Panics when none comes within `limit`, and where the connection ends first.
    pub async fn event(&mut self, limit: Duration) -> Value {
        let next = async {
            loop {
                match self.next().await {
                    Some(Step::Event(event)) => return event,
                    Some(Step::Passed) => {}
                    None => panic!("the connection ended"),
                }
            }
        };
        let event = tokio::time::timeout(limit, next).await;
        event.unwrap_or_else(|_| panic!("no event within {limit:?}"))
    }

    /// Aborts the poll that waits, if there is one, and goes on with the session: what was under way is lost, and the
    /// chain says so.
    pub fn abort_poll(&mut self) {
        match &mut self.wire {
            Wire::LongPoll(poll) => poll.poll = None,
            Wire::Socket { socket, resuming } => {
                socket.abort_poll();
                // A `resume` may have been cut short as well.
                *resuming = false;
            }
            Wire::Stream(_) => {}
        }
    }

    /// Where to go on after.
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "what `next` gives, so that each branch is one call"
    )]
    fn step(&mut self, event: Value) -> Option<Step> {
        self.cursor = cursor_of(&event);
        Some(Step::Event(event))
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "what `next` gives, so that each branch is one call"
    )]
    fn pass(&mut self, heartbeat: &Value) -> Option<Step> {
        self.cursor = cursor_of(heartbeat);
        Some(Step::Passed)
    }
}

async fn ready(socket: &mut SocketIo) -> Result<String, String> {
    match socket.next().await {
        Some(Incoming::Event { name, data, .. }) if name == "ready" => Ok(cursor_of(&data)),
        Some(Incoming::Event { name, data, .. }) if name == "closing" => Err(format!("closing: {data}")),
        None => Err("it closed before ready".into()),
        Some(other) => panic!("not ready: {other:?}"),
    }
}

fn cursor_of(data: &Value) -> String {
    data["cursor"].as_str().expect("a cursor").to_string()
}

fn events_of(page: &Value) -> VecDeque<Value> {
    page["events"]
        .as_array()
        .expect("a page has events")
        .clone()
        .into()
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Listener")
            .field("cursor", &self.cursor)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
