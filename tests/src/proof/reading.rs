//! People who read: through every door, from their last cursor whenever they come back, and they come back often. They
//! follow the contract (the chain, `resume`, the cursor), note what they are given, and judge nothing.

use std::{pin::Pin, time::Duration};

use chat_domain::Position;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    history::{History, Reading, What},
    workload::{Doors, lasting_token},
};
use crate::{
    Client, Events, ok,
    socketio::{Incoming, SocketIo, Transport, put_back},
};

/// Who reads what, and how.
#[derive(Clone, Debug)]
pub struct Reader {
    pub id: u32,
    pub user: String,
    pub door: Reading,
    pub everything: bool,
    /// From the beginning, or from now.
    pub from_the_beginning: bool,
    pub doors: Doors,
    pub history: History,
    /// Goes for good after so long; else it stays to the end.
    pub leaves_after: Option<Duration>,
    /// Where the log ends, once it is whole and nobody sends any more.
    pub head: watch::Receiver<Option<Position>>,
    /// Where a message of somebody else was seen last, for whoever tells receipts.
    pub seen: Option<watch::Sender<Position>>,
    pub seed: u64,
}

/// A heartbeat comes every second: a connection that is silent for so long is dead.
const SILENCE: Duration = Duration::from_secs(5);

enum Wire {
    Stream(Events),
    LongPoll(Client),
    Socket(Box<SocketIo>),
}

/// What comes over a wire.
enum Got {
    Ready(String),
    Reset(String, String),
    Event(Value),
    Passed {
        prev: String,
        cursor: String,
    },
    /// Nothing that concerns a reader.
    Other,
    Gone(String),
}

type Next<'a> = Pin<Box<dyn Future<Output = Vec<Got>> + Send + 'a>>;

impl Reader {
    /// Reads until the end of the log is known and reached; gives up a while after it is known.
    pub async fn read(mut self) {
        const LAST_LIMIT: Duration = Duration::from_secs(180);
        let mut rng = StdRng::seed_from_u64(self.seed);
        let token = lasting_token(&self.user, if self.everything { "chat.read_all" } else { "" });
        let mut node = self.doors.any(&mut rng);
        let mut cursor: Option<String> = None;
        let mut give_up = None;
        let leaves_at = self.leaves_after.map(|after| Instant::now() + after);
        loop {
            if self.is_at_the_end(cursor.as_deref()) {
                return;
            }
            if self.head.borrow().is_none() && leaves_at.is_some_and(|at| Instant::now() >= at) {
                return self.history.note(What::Left { reader: self.id });
            }
            if self.head.borrow().is_some() {
                let limit = *give_up.get_or_insert_with(|| Instant::now() + LAST_LIMIT);
                if Instant::now() >= limit {
                    return;
                }
            }
            let from = if self.from_the_beginning {
                Some("0".to_owned())
            } else {
                None
            };
            let after = cursor.clone().or(from);
            self.history.note(What::Connect {
                reader: self.id,
                user: self.user.clone(),
                door: self.door,
                everything: self.everything,
                node,
                after: after.clone(),
            });
            let stays = Duration::from_millis(rng.random_range(500..8000));
            let why = match timeout(SILENCE, self.connect(node, &token, after.as_deref())).await {
                Ok(Ok(wire)) => self.follow(wire, after, &mut cursor, stays, &mut rng).await,
                Ok(Err(why)) => why,
                Err(_) => "no connection".into(),
            };
            self.history.note(What::Gone { reader: self.id, why });
            node = if rng.random_bool(0.5) {
                self.doors.other(node)
            } else {
                node
            };
            sleep(Duration::from_millis(rng.random_range(10..300))).await;
        }
    }

    fn is_at_the_end(&self, cursor: Option<&str>) -> bool {
        let head = *self.head.borrow();
        let at = cursor.and_then(|cursor| cursor.rsplit_once(':')?.1.parse::<Position>().ok());
        matches!((head, at), (Some(head), Some(at)) if at >= head)
    }

    async fn connect(&self, node: usize, token: &str, after: Option<&str>) -> Result<Wire, String> {
        let url = self.doors.url(node);
        let socket = |transport| async move {
            let socket = SocketIo::connect(transport, url, token, after).await;
            socket
                .map(|socket| Wire::Socket(Box::new(socket)))
                .map_err(|refusal| refusal.to_string())
        };
        match self.door {
            Reading::Websocket => socket(Transport::Websocket).await,
            Reading::Polling => socket(Transport::Polling).await,
            Reading::Stream => {
                let request = self.request(&Client::new(url, token), after);
                Events::open(request)
                    .await
                    .map(Wire::Stream)
                    .map_err(|p| p.to_string())
            }
            Reading::LongPoll => Ok(Wire::LongPoll(Client::new(url, token))),
            Reading::Library => Err("the library connects by itself".into()),
        }
    }

    fn request(&self, client: &Client, after: Option<&str>) -> reqwest::RequestBuilder {
        let after = after.map(|after| ("after", after));
        let everything = self.everything.then_some(("all", "true"));
        client
            .get("/v1/events")
            .query(after.as_slice())
            .query(everything.as_slice())
    }

    /// Notes what comes until the connection ends, or this reader ends it. Says why.
    async fn follow(
        &mut self,
        mut wire: Wire,
        after: Option<String>,
        cursor: &mut Option<String>,
        stays: Duration,
        rng: &mut StdRng,
    ) -> String {
        let until = Instant::now() + stays;
        let (mut is_greeted, mut resuming) = (false, false);
        let mut asked = after;
        loop {
            if self.is_at_the_end(cursor.as_deref()) {
                return "the end".into();
            }
            let next: Next<'_> = match &mut wire {
                Wire::Stream(events) => Box::pin(of_stream(events)),
                Wire::Socket(socket) => Box::pin(of_socket(socket)),
                Wire::LongPoll(client) => {
                    let request = self.request(client, cursor.as_deref().or(asked.as_deref()));
                    Box::pin(of_poll(request, cursor.clone().or(asked.take())))
                }
            };
            let got = tokio::select! {
                got = timeout(SILENCE, next) => match got {
                    Ok(got) => got,
                    Err(_) => return "silence".into(),
                },
                () = sleep_until(until), if self.head.borrow().is_none() => return "left".into(),
            };
            for got in got {
                match got {
                    Got::Gone(why) => return why,
                    Got::Other => {}
                    // The answer to an older `resume`, which an event has overtaken.
                    Got::Ready(at) if is_greeted && !is_same_place(&at, cursor) => {
                        resuming = self.broken(&mut wire, cursor, &at).await;
                        if !resuming {
                            return "broken".into();
                        }
                    }
                    Got::Ready(at) => {
                        is_greeted = true;
                        self.history.note(What::Ready {
                            reader: self.id,
                            cursor: at.clone(),
                        });
                        (*cursor, resuming) = (Some(at), false);
                    }
                    Got::Reset(at, reason) => {
                        is_greeted = true;
                        self.history.note(What::Reset {
                            reader: self.id,
                            cursor: at.clone(),
                            reason,
                        });
                        (*cursor, resuming) = (Some(at), false);
                    }
                    Got::Event(_) | Got::Passed { .. } if resuming => {}
                    Got::Event(event) => {
                        let prev = event["prev"].as_str().unwrap_or_default();
                        if Some(prev) != cursor.as_deref() {
                            resuming = self.broken(&mut wire, cursor, prev).await;
                            if !resuming {
                                return "broken".into();
                            }
                            continue;
                        }
                        *cursor = event["cursor"].as_str().map(str::to_owned);
                        self.tell(&event);
                        self.history.note(What::Delivery {
                            reader: self.id,
                            event,
                        });
                    }
                    Got::Passed { prev, cursor: at } => {
                        if Some(&prev) != cursor.as_ref() {
                            resuming = self.broken(&mut wire, cursor, &prev).await;
                            if !resuming {
                                return "broken".into();
                            }
                            continue;
                        }
                        self.history.note(What::Passed {
                            reader: self.id,
                            prev,
                            cursor: at.clone(),
                        });
                        *cursor = Some(at);
                    }
                }
            }
            // Now and then one reads slowly.
            if rng.random_range(0..400) == 0 && self.head.borrow().is_none() {
                sleep(Duration::from_millis(rng.random_range(100..1500))).await;
            }
            if rng.random_range(0..200) == 0
                && let Wire::Socket(socket) = &mut wire
            {
                socket.abort_poll();
                resuming = false;
            }
        }
    }

    /// Something does not follow. On a socket the reader asks to go on from where it is; elsewhere it comes back.
    async fn broken(&self, wire: &mut Wire, cursor: &Option<String>, found: &str) -> bool {
        let expected = cursor.clone().unwrap_or_default();
        self.history.note(What::Broken {
            reader: self.id,
            expected: expected.clone(),
            found: found.to_owned(),
        });
        match wire {
            Wire::Socket(socket) => {
                let after = json!({"after": expected});
                let resume = socket.emit("resume", &after);
                matches!(timeout(SILENCE, resume).await, Ok(Some(_)))
            }
            Wire::Stream(_) | Wire::LongPoll(_) => false,
        }
    }

    fn tell(&self, event: &Value) {
        if let (Some(seen), Some(id)) = (&self.seen, event["message"]["_id"].as_i64())
            && event["actor_id"] != self.user.as_str()
        {
            seen.send_replace(id);
        }
    }
}

/// Where an epoch has begun since, a place has another name.
fn is_same_place(one: &str, other: &Option<String>) -> bool {
    let position = |cursor: &str| cursor.rsplit_once(':').map(|(_, position)| position.to_owned());
    other
        .as_deref()
        .is_some_and(|other| position(other) == position(one))
}

fn text(data: &Value, name: &str) -> String {
    data[name].as_str().unwrap_or_default().to_owned()
}

/// A named delivery of a stream or of a socket.
fn delivery(name: &str, data: Value) -> Got {
    match name {
        "ready" => Got::Ready(text(&data, "cursor")),
        "reset" => Got::Reset(text(&data, "cursor"), text(&data, "reason")),
        "event" | "message" => Got::Event(data),
        "heartbeat" => Got::Passed {
            prev: text(&data, "prev"),
            cursor: text(&data, "cursor"),
        },
        "closing" => Got::Gone(format!("closing: {}", text(&data, "code"))),
        _ => Got::Other,
    }
}

async fn of_stream(events: &mut Events) -> Vec<Got> {
    let got = match events.frame().await {
        Some(frame) => delivery(&frame.event, frame.data),
        None => Got::Gone("the stream ended".into()),
    };
    vec![got]
}

async fn of_socket(socket: &mut SocketIo) -> Vec<Got> {
    let got = match socket.next().await {
        Some(Incoming::Event {
            name,
            mut data,
            attachments,
        }) => {
            if let Some(message) = data.get_mut("message") {
                put_back(message, &attachments);
            }
            delivery(&name, data)
        }
        Some(Incoming::Disconnected) | None => Got::Gone("the socket ended".into()),
        Some(_) => Got::Other,
    };
    vec![got]
}

/// One poll after a cursor: what it held, and where it ends.
async fn of_poll(request: reqwest::RequestBuilder, after: Option<String>) -> Vec<Got> {
    match ok(request.query(&[("wait", "1")])).await {
        Ok(page) => {
            let events = page["events"].as_array().cloned().unwrap_or_default();
            let end = text(&page, "cursor");
            let begin = match after.as_deref() {
                // The chain begins at what was asked after, if that is a place.
                Some(after) if after != "0" => None,
                // From the beginning, also where there is nothing for this reader yet. An epoch may have begun since the
                // first event was read.
                Some(_) => {
                    let named = events
                        .first()
                        .map_or_else(|| end.clone(), |first| text(first, "prev"));
                    let epoch = named.rsplit_once(':').map_or("", |(epoch, _)| epoch);
                    Some(format!("{epoch}:0"))
                }
                None => Some(
                    events
                        .first()
                        .map_or_else(|| end.clone(), |first| text(first, "prev")),
                ),
            };
            let last = events.last().map(|last| text(last, "cursor"));
            let at = last.or_else(|| begin.clone()).or(after).unwrap_or_default();
            let passed = (at != end).then_some(Got::Passed {
                prev: at,
                cursor: end,
            });
            begin
                .map(Got::Ready)
                .into_iter()
                .chain(events.into_iter().map(Got::Event))
                .chain(passed)
                .chain([Got::Other])
                .collect()
        }
        Err(problem) if problem.status == StatusCode::GONE.as_u16() => {
            vec![Got::Reset(
                text(&problem.body, "cursor"),
                text(&problem.body, "reason"),
            )]
        }
        Err(problem) => vec![Got::Gone(format!("{} {}", problem.status, problem.code))],
    }
}
