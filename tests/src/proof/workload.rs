//! People who send: with a key for each message, again with the same key when they have no answer, over REST and over
//! socket.io. Some hang up after they have asked, some ask for what has to be refused, and all of them tell what they
//! have received and read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chat_domain::Position;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::history::{Action, Answer, History, Sending};
use crate::{
    Client, Problem, ok,
    server::{now, token},
    socketio::{Incoming, SocketIo, Transport, put_back},
};

/// What a send may hold; more is refused.
pub const CONTENT_LIMIT: usize = 2048;

/// Longer than a command may take: who has waited so long has no answer.
const PATIENCE: Duration = Duration::from_secs(12);

/// The doors of the nodes, as clients reach them.
#[derive(Clone, Debug)]
pub struct Doors {
    pub urls: Arc<Vec<String>>,
}

impl Doors {
    pub fn url(&self, node: usize) -> &str {
        &self.urls[node]
    }

    /// A client of each node, for one token.
    fn clients(&self, token: &str) -> Vec<Client> {
        self.urls.iter().map(|url| Client::new(url, token)).collect()
    }

    pub fn any(&self, rng: &mut StdRng) -> usize {
        rng.random_range(0..self.urls.len())
    }

    /// Another one, where there are several.
    pub fn other(&self, node: usize) -> usize {
        (node + 1) % self.urls.len()
    }
}

/// A token that no jump of a clock ends.
pub fn lasting_token(user: &str, scope: &str) -> String {
    token(&json!({"sub": user, "exp": now() + 30 * 86_400, "scope": scope}))
}

/// What everybody who sends has in common.
#[derive(Clone, Debug)]
pub struct Crowd {
    pub doors: Doors,
    pub history: History,
    pub users: Arc<Vec<String>>,
    pub in_flight: Arc<AtomicUsize>,
    pub outcomes: Arc<Outcomes>,
    pub stop: watch::Receiver<bool>,
    /// Between two sends of one sender.
    pub pace: Duration,
}

/// What sends came to so far, which tells the run when it has seen enough of everything. The checker counts anew, from
/// the history.
#[derive(Debug, Default)]
pub struct Outcomes {
    accepted: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Outcomes {
    fn count(&self, answer: &Answer) {
        let outcome = match answer {
            Answer::Ok { .. } => &self.accepted,
            Answer::Refused { .. } => &self.refused,
            Answer::Unknown { .. } => &self.unknown,
        };
        outcome.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether each outcome stays above 1 % of all sends, whatever `more` sends come to.
    pub fn stay_above_one_percent(&self, more: u64) -> bool {
        let outcomes = [&self.accepted, &self.refused, &self.unknown];
        let counts = outcomes.map(|outcome| outcome.load(Ordering::Relaxed));
        let all = counts.iter().sum::<u64>() + more;
        counts.iter().all(|count| count * 100 >= all)
    }
}

/// One send: what it is, and how it is asked for.
struct Draft {
    key: String,
    receiver: String,
    content: String,
    body: Value,
    manner: Manner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Goes away without the answer after so many microseconds, and asks again.
    HangsUp(u64),
    /// Goes away, and never learns it.
    Forgets(u64),
    /// Is refused whatever happens.
    Bad,
}

/// Counts a send as in flight as long as it lives.
pub(super) struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> InFlight {
        count.fetch_add(1, Ordering::SeqCst);
        InFlight(count.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Crowd {
    pub(super) fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    /// Notes what came of a send, which is in flight no more.
    pub(super) fn end(&self, operation: u64, answer: Answer, in_flight: InFlight) {
        self.outcomes.count(&answer);
        self.history.end(operation, answer);
        drop(in_flight);
    }

    async fn pause(&self, rng: &mut StdRng) {
        sleep(Duration::from_millis(rng.random_range(50..400))).await;
    }

    /// A message: its key, to whom it goes, and its text.
    pub(super) fn text(
        &self,
        user: &str,
        name: &str,
        number: u64,
        rng: &mut StdRng,
    ) -> (String, String, String) {
        let key = format!("{name}-{number}");
        // The first of all is a quiet one: its own log stays short, for those who read it from the beginning.
        let receiver = match rng.random_range(0..100) {
            0 => self.users[0].clone(),
            1 => user.to_owned(),
            _ => self.users[rng.random_range(1..self.users.len())].clone(),
        };
        let text = format!("{user} {key} {}", "x".repeat(rng.random_range(0..40)));
        (key, receiver, text)
    }

    fn draft(&self, user: &str, name: &str, number: u64, rng: &mut StdRng) -> Draft {
        let (key, receiver, text) = self.text(user, name, number, rng);
        let plain = |manner| Draft {
            body: json!({"receiver_id": receiver, "text": text}),
            key: key.clone(),
            receiver: receiver.clone(),
            content: text.clone(),
            manner,
        };
        match rng.random_range(0..1000) {
            0..30 => plain(Manner::HangsUp(rng.random_range(0..4000))),
            30..40 => plain(Manner::Forgets(rng.random_range(0..4000))),
            40..60 => {
                let data = STANDARD.encode(format!("\u{0}{text}"));
                Draft {
                    body: json!({"receiver_id": receiver, "data": data, "content_type": "x/y"}),
                    content: data,
                    ..plain(Manner::Plain)
                }
            }
            60..66 => Draft {
                body: json!({"receiver_id": receiver, "text": "x".repeat(CONTENT_LIMIT + 1)}),
                ..plain(Manner::Bad)
            },
            66..72 => Draft {
                key: format!("{name} {number}"),
                ..plain(Manner::Bad)
            },
            72..78 => Draft {
                body: json!({"receiver_id": receiver, "text": ""}),
                ..plain(Manner::Bad)
            },
            78..84 => Draft {
                body: json!({"receiver_id": "not a user", "text": text}),
                ..plain(Manner::Bad)
            },
            _ => plain(Manner::Plain),
        }
    }

    fn begin(&self, user: &str, node: usize, door: Sending, draft: &Draft) -> u64 {
        let action = Action::Send {
            key: draft.key.clone(),
            receiver: draft.receiver.clone(),
            content: draft.content.clone(),
        };
        self.history.begin(user, node, door, action)
    }
}

/// What an answer over REST says.
fn answer(result: Result<Value, Problem>) -> Answer {
    match result {
        Ok(result) => Answer::Ok { result },
        Err(problem) => refusal(&problem.body, problem.status, &problem.code),
    }
}

pub(super) fn refusal(body: &Value, status: u16, code: &str) -> Answer {
    let code = code.to_owned();
    match (status, code.as_str()) {
        (0, _) => Answer::Unknown {
            why: "no answer".into(),
        },
        (_, "outcome_unknown" | "internal") => Answer::Unknown { why: code },
        // Not an answer of the server's.
        (_, "") => Answer::Unknown {
            why: format!("{status} {body}"),
        },
        _ => Answer::Refused { code },
    }
}

/// Whether to ask again.
fn passes(answer: &Answer) -> bool {
    match answer {
        Answer::Ok { .. } => false,
        Answer::Unknown { .. } => true,
        Answer::Refused { code } => [
            "unavailable",
            "overloaded",
            "shutdown",
            "starting",
            "rate_limited",
            "not_ready",
        ]
        .contains(&code.as_str()),
    }
}

/// Sends over REST until it is told to stop.
pub async fn over_rest(crowd: Crowd, user: String, name: String, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let token = lasting_token(&user, "");
    let clients = crowd.doors.clients(&token);
    let mut node = crowd.doors.any(&mut rng);
    let mut pace = interval(crowd.pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        pace.tick().await;
        if crowd.is_over() {
            return;
        }
        let mut draft = crowd.draft(&user, &name, number, &mut rng);
        loop {
            let in_flight = InFlight::new(&crowd.in_flight);
            let operation = crowd.begin(&user, node, Sending::Rest, &draft);
            let request = clients[node]
                .post("/v1/messages")
                .header("Idempotency-Key", &draft.key)
                .json(&draft.body);
            let limit = match draft.manner {
                Manner::HangsUp(micros) | Manner::Forgets(micros) => Duration::from_micros(micros),
                Manner::Plain | Manner::Bad => PATIENCE,
            };
            // Dropped before its end, its connection is closed.
            let answer = match timeout(limit, ok(request)).await {
                Ok(result) => answer(result),
                Err(_) if limit < PATIENCE => Answer::Unknown {
                    why: "hung up".into(),
                },
                Err(_) => Answer::Unknown {
                    why: "no answer".into(),
                },
            };
            crowd.end(operation, answer.clone(), in_flight);
            if !passes(&answer) || matches!(draft.manner, Manner::Forgets(_)) || crowd.is_over() {
                break;
            }
            if matches!(draft.manner, Manner::HangsUp(_)) {
                draft.manner = Manner::Plain;
            }
            node = crowd.doors.other(node);
            crowd.pause(&mut rng).await;
        }
    }
}

/// Sends over a websocket in rows, each without waiting for the answer to the one before, until it is told to stop.
pub async fn over_a_socket(crowd: Crowd, user: String, name: String, seed: u64) {
    const ROW: usize = 8;
    let mut rng = StdRng::seed_from_u64(seed);
    let token = lasting_token(&user, "");
    let mut node = crowd.doors.any(&mut rng);
    let mut socket = None;
    let mut drafts: Vec<Draft> = Vec::new();
    let mut pace = interval(crowd.pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    while !crowd.is_over() {
        pace.tick().await;
        while drafts.len() < rng.random_range(1..=ROW) {
            drafts.push(crowd.draft(&user, &name, number, &mut rng));
            number += 1;
        }
        if socket.is_none() {
            let connecting = SocketIo::connect(Transport::Websocket, crowd.doors.url(node), &token, None);
            match timeout(PATIENCE, connecting).await {
                Ok(Ok(connected)) => socket = Some(connected),
                _ => {
                    node = crowd.doors.other(node);
                    crowd.pause(&mut rng).await;
                    continue;
                }
            }
        }
        let connected = socket.as_mut().expect("connected above");
        let is_whole = row(&crowd, &user, node, connected, &mut drafts).await;
        if !is_whole {
            socket = None;
            node = crowd.doors.other(node);
            crowd.pause(&mut rng).await;
        }
    }
}

/// Sends a row; what stays in `drafts` is to be sent again. Whether the connection is still good.
async fn row(crowd: &Crowd, user: &str, node: usize, socket: &mut SocketIo, drafts: &mut Vec<Draft>) -> bool {
    let mut asked = Vec::new();
    let mut is_whole = true;
    let mut hangs_up = None;
    for draft in drafts.drain(..) {
        let in_flight = InFlight::new(&crowd.in_flight);
        let operation = crowd.begin(user, node, Sending::SocketIo, &draft);
        let mut payload = draft.body.clone();
        payload["key"] = json!(draft.key);
        let id = if is_whole {
            timeout(PATIENCE, socket.emit("send", &payload))
                .await
                .ok()
                .flatten()
        } else {
            None
        };
        is_whole &= id.is_some();
        if let Manner::HangsUp(micros) | Manner::Forgets(micros) = draft.manner {
            hangs_up = Some(Duration::from_micros(micros));
        }
        asked.push((id, operation, draft, in_flight));
    }
    let limit = hangs_up.unwrap_or(PATIENCE);
    let reading = async {
        while is_whole && asked.iter().any(|(id, ..)| id.is_some()) {
            match socket.next().await {
                Some(Incoming::Ack {
                    id,
                    data,
                    attachments,
                }) => {
                    let Some(at) = asked.iter().position(|(asked, ..)| *asked == Some(id)) else {
                        continue;
                    };
                    let (_, operation, draft, in_flight) = asked.remove(at);
                    let answer = ack(data, &attachments);
                    crowd.end(operation, answer.clone(), in_flight);
                    if passes(&answer) {
                        drafts.push(draft);
                    }
                }
                Some(Incoming::Event { .. }) => {}
                _ => break,
            }
        }
    };
    let in_time = timeout(limit, reading).await.is_ok();
    let why = if in_time || hangs_up.is_none() {
        "no answer"
    } else {
        "hung up"
    };
    let is_whole = asked.is_empty() && in_time;
    for (_, operation, mut draft, in_flight) in asked {
        crowd.end(operation, Answer::Unknown { why: why.into() }, in_flight);
        match draft.manner {
            Manner::Forgets(_) => continue,
            Manner::HangsUp(_) => draft.manner = Manner::Plain,
            Manner::Plain | Manner::Bad => {}
        }
        drafts.push(draft);
    }
    is_whole
}

/// What an ack says: one argument with either of the two.
fn ack(mut data: Value, attachments: &[Vec<u8>]) -> Answer {
    match data["problem"].take() {
        Value::Null => {
            let mut result = data["result"].take();
            put_back(&mut result, attachments);
            Answer::Ok { result }
        }
        problem => {
            let status = problem["status"]
                .as_u64()
                .and_then(|status| status.try_into().ok());
            let code = problem["code"].as_str().unwrap_or_default().to_owned();
            refusal(&problem, status.unwrap_or_default(), &code)
        }
    }
}

/// Tells what a reader of the same user has seen as received or read, until it is told to stop.
pub async fn receipts(crowd: Crowd, user: String, mut seen: watch::Receiver<Position>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let token = lasting_token(&user, "");
    let clients = crowd.doors.clients(&token);
    let mut node = crowd.doors.any(&mut rng);
    for number in 0_u64.. {
        let mut stop = crowd.stop.clone();
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|over| *over) => return,
        }
        let up_to = *seen.borrow_and_update();
        let kind = if rng.random_bool(0.5) { "received" } else { "read" };
        let key = format!("receipt-{number}");
        loop {
            let action = Action::Receipt {
                key: key.clone(),
                kind: kind.into(),
                up_to,
            };
            let operation = crowd.history.begin(&user, node, Sending::Rest, action);
            let request = clients[node].post("/v1/receipts").header("Idempotency-Key", &key);
            let request = request.json(&json!({"type": kind, "up_to": up_to}));
            let answer = match timeout(PATIENCE, ok(request)).await {
                Ok(result) => answer(result),
                Err(_) => Answer::Unknown {
                    why: "no answer".into(),
                },
            };
            crowd.history.end(operation, answer.clone());
            if !passes(&answer) || crowd.is_over() {
                break;
            }
            node = crowd.doors.other(node);
            crowd.pause(&mut rng).await;
        }
        sleep(Duration::from_millis(rng.random_range(50..400))).await;
    }
}
