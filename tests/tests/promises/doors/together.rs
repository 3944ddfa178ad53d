//! All doors at once: many clients that are cut again and again, and two nodes of which one dies. Whatever is cut,
//! everybody ends with exactly what he may see, in order, none of it twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chat_domain::Position;
use chat_tests::{
    Client, Database, Kind, Server,
    chatter::position_of,
    inside::{Logged, log},
    keyed::{Sent, check_exactly_once},
    listener::{Door, Listener, Step},
    sized,
    socketio::{SocketIo, Transport},
};
use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

const LIMIT: Duration = Duration::from_secs(60);

/// What one client heard over all its connections.
struct Heard {
    user: String,
    door: Door,
    cursor: String,
    events: Vec<Value>,
    /// How often the test cut it.
    cuts: usize,
    /// How often it found the chain broken.
    lost: usize,
    /// How often the server ended it, or had no connection for it.
    ended: usize,
}

/// What all clients follow.
#[derive(Clone, Default)]
struct Orders {
    /// Of the nodes, in the order in which they are tried.
    nodes: Vec<String>,
    /// Listen until everything up to here was examined, uncut.
    listen_to: Option<Position>,
}

impl Heard {
    fn new(user: &str, door: Door) -> Heard {
        Heard {
            user: user.into(),
            door,
            cursor: "0".into(),
            events: Vec::new(),
            cuts: 0,
            lost: 0,
            ended: 0,
        }
    }

    /// Follows until it was cut so often at random moments, and then uncut up to where the orders say.
    async fn listen(mut self, token: String, cuts: usize, orders: watch::Receiver<Orders>) -> Heard {
        const LONGEST_LIFE_MS: u64 = 1600;
        let mut connection: Option<Listener> = None;
        while self.cuts < cuts {
            let life = Duration::from_millis(rand::rng().random_range(0..LONGEST_LIFE_MS));
            tokio::select! {
                () = sleep(life) => {
                    self.cuts += 1;
                    match &mut connection {
                        // What was on its way in the poll is lost, and the session goes on.
                        Some(listener) if self.door == Door::Polling && self.cuts.is_multiple_of(2) => {
                            listener.abort_poll();
                        }
                        _ => self.end(connection.take()),
                    }
                }
                _ = self.follow(&mut connection, &token, &orders, false) => {}
            }
        }
        while !self.follow(&mut connection, &token, &orders, true).await {}
        self.end(connection);
        self
    }

    /// Connects where it is not connected, and listens until the connection ends (false), or, where it is to, until
    /// the end of what is ordered (true). Cancel safe: what was heard is kept.
    async fn follow(
        &mut self,
        connection: &mut Option<Listener>,
        token: &str,
        orders: &watch::Receiver<Orders>,
        to_the_end: bool,
    ) -> bool {
        if connection.is_none() {
            let nodes = orders.borrow().nodes.clone();
            let url = &nodes[self.ended % nodes.len()];
            match Listener::connect(self.door, url, token, Some(&self.cursor)).await {
                Ok(listener) => *connection = Some(listener),
                Err(_) => {
                    self.ended += 1;
                    // As a client would: not as fast as it can.
                    sleep(Duration::from_millis(100)).await;
                    return false;
                }
            }
        }
        let listener = connection.as_mut().expect("connected above");
        loop {
            let head = orders.borrow().listen_to;
            let here = if self.cursor == "0" {
                0
            } else {
                position_of(&self.cursor)
            };
            if to_the_end && head.is_some_and(|head| here >= head) {
                return true;
            }
            let Some(step) = listener.next().await else {
                self.ended += 1;
                self.end(connection.take());
                return false;
            };
            self.cursor = listener.cursor().to_string();
            if let Step::Event(event) = step {
                self.events.push(event);
            }
        }
    }

    fn end(&mut self, connection: Option<Listener>) {
        self.lost += connection.map_or(0, |listener| listener.lost);
    }

    /// Exactly what the user may see, in the order of the log, and each conversation's `seq` without a hole.
    fn check(&self, log: &[Logged]) {
        let who = format!("{} through {:?}", self.user, self.door);
        let expected = log.iter().filter(|event| event.concerns(&self.user));
        let expected: Vec<_> = expected.map(|event| event.position).collect();
        let seen: Vec<_> = self
            .events
            .iter()
            .map(|event| event["position"].as_i64().unwrap())
            .collect();
        let first = seen
            .iter()
            .zip(&expected)
            .find(|(seen, expected)| seen != expected);
        assert!(
            seen == expected,
            "{who}: {} events seen, {} in the log, the first difference (seen, in the log) is {first:?}",
            seen.len(),
            expected.len()
        );
        let mut counted: BTreeMap<&str, i64> = BTreeMap::new();
        for event in &self.events {
            let conversation = event["conversation_id"].as_str().unwrap();
            let count = counted.entry(conversation).or_default();
            *count += 1;
            assert_eq!(event["message"]["seq"], *count, "{who}: {event}");
        }
    }
}

/// Somebody who sends with keys, through one door, and sends again what was not answered.
struct Sender {
    user: String,
    token: String,
    nodes: Vec<String>,
    door: SendingDoor,
    retries: u32,
    /// The number of the send that waits until this is true, where one waits.
    waits: Option<(usize, watch::Receiver<bool>)>,
}

enum SendingDoor {
    Rest,
    Socket(Option<Box<SocketIo>>),
}

impl Sender {
    /// Sends to everybody in turn; of a hundred sends, five are given up after a moment and repeated.
    async fn send_all(mut self, count: usize, receivers: Vec<String>, pace: Duration) -> Vec<Sent> {
        let mut pace = interval(pace);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sent = Vec::new();
        for number in 0..count {
            if let Some((at, told)) = &mut self.waits
                && *at == number
            {
                told.wait_for(|told| *told).await.unwrap();
            }
            pace.tick().await;
            let key = format!("key-{number}");
            let receiver = &receivers[rand::rng().random_range(0..receivers.len())];
            let begun = Instant::now();
            let retries = self.retries;
            let message = loop {
                assert!(begun.elapsed() < LIMIT, "{} is not answered for {key}", self.user);
                let answer = if rand::rng().random_bool(0.05) {
                    let patience = Duration::from_micros(rand::rng().random_range(0..5000));
                    let answer = timeout(patience, self.send(receiver, &key)).await;
                    if answer.is_err() {
                        // Where the answer was on its way, it is lost.
                        self.door.cut();
                    }
                    answer.ok().flatten()
                } else {
                    self.send(receiver, &key).await
                };
                if let Some(message) = answer {
                    break message;
                }
                self.retries += 1;
                sleep(Duration::from_millis(20)).await;
            };
            assert_eq!(
                (&message["text"], &message["sender_id"]),
                (&json!(key), &json!(self.user))
            );
            sent.push(Sent {
                actor: self.user.clone(),
                key,
                id: message["_id"].as_i64().unwrap(),
                retries: self.retries - retries,
            });
        }
        sent
    }

    /// The message, or nothing where there was no answer or one that says: later.
    async fn send(&mut self, receiver: &str, key: &str) -> Option<Value> {
        let url = &self.nodes[self.retries as usize % self.nodes.len()];
        match &mut self.door {
            SendingDoor::Rest => {
                let client = Client::new(url, &self.token);
                match client.send(receiver, key, Some(key)).await {
                    Ok(message) => Some(message),
                    Err(problem) if matches!(problem.status, 0 | 429 | 502 | 503) => None,
                    Err(problem) => panic!("{key} was refused: {problem}"),
                }
            }
            SendingDoor::Socket(connection) => {
                if connection.is_none() {
                    *connection = SocketIo::connect(Transport::Websocket, url, &self.token, None)
                        .await
                        .ok()
                        .map(Box::new);
                }
                let send = json!({"receiver_id": receiver, "text": key, "key": key});
                let Some(ack) = connection.as_mut()?.ask("send", &send).await else {
                    *connection = None;
                    return None;
                };
                if let Some(status) = ack["problem"]["status"].as_u64() {
                    assert!(matches!(status, 429 | 503), "{key} was refused: {ack}");
                    return None;
                }
                Some(ack["result"].clone())
            }
        }
    }
}

impl SendingDoor {
    fn cut(&mut self) {
        if let SendingDoor::Socket(connection) = self {
            *connection = None;
        }
    }
}

fn senders(users: &[String], nodes: &[String], token: impl Fn(&str) -> String) -> Vec<Sender> {
    let sender = |(number, user): (usize, &String)| Sender {
        user: user.clone(),
        token: token(user),
        nodes: nodes.to_vec(),
        door: if number.is_multiple_of(2) {
            SendingDoor::Rest
        } else {
            SendingDoor::Socket(None)
        },
        retries: 0,
        waits: None,
    };
    users.iter().enumerate().map(sender).collect()
}

async fn answered(senders: Vec<JoinHandle<Vec<Sent>>>) -> Vec<Sent> {
    let mut all = Vec::new();
    for sender in senders {
        all.extend(sender.await.unwrap());
    }
    all
}

/// Waits for the listeners, holds what they heard to the log, and gives the sums of their cuts, losses and ends.
async fn check_all(
    database: &Database,
    orders: &watch::Sender<Orders>,
    listeners: Vec<JoinHandle<Heard>>,
) -> BTreeMap<Door, (usize, usize, usize, usize)> {
    let head = database.number("SELECT position FROM log_head").await;
    orders.send_modify(|orders| orders.listen_to = Some(head));
    let log = log(database, 0).await;
    let mut sums: BTreeMap<_, (usize, usize, usize, usize)> = BTreeMap::new();
    for listener in listeners {
        let heard = timeout(3 * LIMIT, listener)
            .await
            .expect("everybody comes to the end")
            .unwrap();
        heard.check(&log);
        let sum = sums.entry(heard.door).or_default();
        *sum = (
            sum.0 + heard.events.len(),
            sum.1 + heard.cuts,
            sum.2 + heard.lost,
            sum.3 + heard.ended,
        );
    }
    for (door, (events, cuts, lost, ended)) in &sums {
        println!(
            "{door:?}: {events} events, {cuts} cuts, {lost} losses found by the chain, {ended} ended by the server"
        );
    }
    sums
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_cut_again_and_again_miss_nothing_and_get_nothing_twice() {
    // Each user listens through four doors.
    let (count, messages, cuts) = sized((10, 1_000, 10), (50, 20_000, 50));
    let begun = Instant::now();
    let database = Database::fresh(Kind::Sqlite).await;
    // Beside what the cuts lose, one of so many deliveries to sockets is lost by the server itself.
    let settings = [
        ("CHAT_HEARTBEAT_S", "1"),
        ("CHAT_LOG", "warn"),
        ("CHAT_LOSE_ONE_IN", "200"),
    ];
    let server = Server::start(&database, &settings).await;
    let users: Vec<_> = (0..count).map(|number| format!("user-{number}")).collect();
    let orders = watch::Sender::new(Orders {
        nodes: vec![server.url()],
        listen_to: None,
    });

    let mut listeners = Vec::new();
    for user in &users {
        for door in Door::ALL {
            let heard = Heard::new(user, door);
            listeners.push(tokio::spawn(heard.listen(
                server.token(user),
                cuts,
                orders.subscribe(),
            )));
        }
    }
    let all = senders(&users, &[server.url()], |user| server.token(user)).into_iter();
    let all = all.map(|sender| {
        tokio::spawn(sender.send_all(messages / count, users.clone(), Duration::from_millis(100)))
    });
    let sent = answered(all.collect()).await;
    let retries: u32 = sent.iter().map(|sent| sent.retries).sum();
    println!(
        "{} messages, {retries} of them sent again, after {:?}",
        sent.len(),
        begun.elapsed()
    );
    assert_eq!(sent.len(), messages);
    assert!(retries > 0, "answers were lost");

    let sums = check_all(&database, &orders, listeners).await;
    println!("all of it in {:?}", begun.elapsed());
    assert!(sums.values().all(|(_, cut, ..)| *cut == count * cuts), "{sums:?}");
    check_exactly_once(&database, &sent).await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_on_one_node_arrives_through_every_door_of_the_other_within_60_ms() {
    const MEDIAN: Duration = Duration::from_millis(60);
    let times = sized(60, 200);
    let database = Database::fresh(Kind::MariaDb).await;
    let one = Server::start(&database, &[]).await;
    let other = Server::start(&database, &[]).await;
    let (arrived, mut arrivals) = mpsc::channel(16);
    for door in Door::ALL {
        let listener = Listener::connect(door, &other.url(), &other.token("alice"), None).await;
        let mut listener = listener.unwrap();
        let arrived = arrived.clone();
        tokio::spawn(async move {
            for _ in 0..times {
                let event = listener.event(LIMIT).await;
                let text = event["message"]["text"].as_str().unwrap().to_string();
                if arrived.send((door, text, Instant::now())).await.is_err() {
                    return;
                }
            }
        });
    }
    let mut latencies: BTreeMap<Door, Vec<Duration>> = BTreeMap::new();
    for number in 0..times {
        let (client, text) = (one.client("bob"), number.to_string());
        let sent_at = Instant::now();
        client.send("alice", &text, None).await.unwrap();
        for _ in Door::ALL {
            let (door, arrived, at) = timeout(LIMIT, arrivals.recv()).await.unwrap().unwrap();
            assert_eq!(arrived, text, "{door:?}");
            latencies.entry(door).or_default().push(at - sent_at);
        }
    }
    for (door, mut latencies) in latencies {
        latencies.sort();
        let (median, slow) = (latencies[times / 2], latencies[times * 99 / 100]);
        println!("{door:?} of the other node: median {median:?}, 99 % {slow:?}");
        assert!(median < MEDIAN, "{door:?}: {median:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_a_node_that_is_killed_go_on_at_the_other_and_miss_nothing() {
    let (count, messages) = sized((4, 60), (8, 200));
    let database = Database::fresh(Kind::MariaDb).await;
    let settings = &[("CHAT_HEARTBEAT_S", "1"), ("CHAT_LOG", "warn")];
    let mut one = Server::start(&database, settings).await;
    let other = Server::start(&database, settings).await;
    let nodes = [one.url(), other.url()];
    let users: Vec<_> = (0..count).map(|number| format!("user-{number}")).collect();
    let orders = watch::Sender::new(Orders {
        nodes: nodes.to_vec(),
        listen_to: None,
    });
    let mut listeners = Vec::new();
    for user in &users {
        for door in Door::ALL {
            listeners.push(tokio::spawn(Heard::new(user, door).listen(
                one.token(user),
                0,
                orders.subscribe(),
            )));
        }
    }
    // The last quarter comes afterwards for certain, however busy the machine is.
    let (killed, told) = watch::channel(false);
    let all = senders(&users, &nodes, |user| one.token(user)).into_iter();
    let all = all
        .map(|mut sender| {
            sender.waits = Some((messages * 3 / 4, told.clone()));
            tokio::spawn(sender.send_all(messages, users.clone(), Duration::from_millis(20)))
        })
        .collect::<Vec<_>>();
    let whole: i64 = (count * messages).try_into().unwrap();
    let head = async || database.number("SELECT position FROM log_head").await;
    chat_tests::eventually("half of it is sent", LIMIT, || async {
        head().await >= whole / 2
    })
    .await;
    one.kill9().await;
    let sent_before = head().await;
    assert!(sent_before < whole, "{sent_before} of {whole}");
    killed.send_replace(true);
    let sent = answered(all).await;
    let sums = check_all(&database, &orders, listeners).await;
    assert!(
        sums.values().all(|(.., ended)| *ended >= count),
        "everybody was on the node that died: {sums:?}"
    );
    check_exactly_once(&database, &sent).await;
}

/// The JSON of each event as it stands on the wire, by door.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_the_same_to_the_byte_through_every_door() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let alice = server.client("alice");
    let (bytes, base64) = ([0_u8, 159, 146, 150, 255], "AJ+Slv8=");
    let contents = [
        json!({"text": "plain"}),
        json!({"text": "\u{2028}\"\\/\u{0}\u{7f}é\u{1f600}<>\n\t"}),
        json!({"data": base64, "content_type": "application/x-bytes; a=\"b\""}),
        json!({"text": "{\"cursor\":1}", "content_type": "application/json"}),
    ];
    for mut content in contents.clone() {
        content["receiver_id"] = json!("bob");
        alice.send_body(&content, Some("key\"~")).await.ok();
        alice.send_body(&content, None).await.unwrap();
    }
    alice.receipt("read", 1).await.unwrap();
    server.client("bob").receipt("read", 2).await.unwrap();
    let (bob, token) = (server.client("bob"), server.token("bob"));

    let page = bob.get("/v1/events?after=0&wait=0").send().await.unwrap();
    let page = page.text().await.unwrap();
    let events = page.strip_prefix("{\"events\":[").unwrap();
    let events = &events[..events.rfind("],\"cursor\"").unwrap()];
    let by_poll: Vec<String> = events
        .split("},{\"cursor\":")
        .enumerate()
        .map(|(n, part)| {
            if n == 0 {
                part.to_owned()
            } else {
                format!("{{\"cursor\":{part}")
            }
        })
        .map(|part| {
            if part.ends_with("}}") {
                part
            } else {
                format!("{part}}}")
            }
        })
        .collect();
    assert!(by_poll.len() > contents.len(), "{page}");

    let stream = bob
        .get("/v1/events?after=0")
        .header("Accept", "text/event-stream")
        .send();
    let mut stream = stream.await.unwrap();
    let mut text = String::new();
    let in_stream = |text: &str| -> Vec<String> {
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| data.contains("\"position\""))
            .map(str::to_owned)
            .collect()
    };
    while in_stream(&text).len() < by_poll.len() {
        let chunk = timeout(LIMIT, stream.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(in_stream(&text), by_poll);

    // Bytes come beside the JSON, which has a placeholder where base64 stands elsewhere.
    let placeholder = "{\"_placeholder\":true,\"num\":0}";
    let in_packet = |packet: &str| {
        let json = packet
            .strip_prefix("42[\"event\",")
            .or(packet.strip_prefix("451-[\"event\","))?;
        Some(
            json.strip_suffix(']')?
                .replace(placeholder, &format!("\"{base64}\"")),
        )
    };
    let connect = format!("40{}", json!({"token": token, "after": "0"}));
    let url = format!(
        "ws://127.0.0.1:{}/socket.io/?EIO=4&transport=websocket",
        server.port()
    );
    let (mut socket, _) = connect_async(url).await.unwrap();
    socket.send(Message::text(connect.as_str())).await.unwrap();
    let (mut by_websocket, mut beside) = (Vec::new(), Vec::new());
    while by_websocket.len() < by_poll.len() {
        match timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(packet) => by_websocket.extend(in_packet(&packet)),
            Message::Binary(attached) => beside.push(attached.to_vec()),
            _ => {}
        }
    }
    assert_eq!(by_websocket, by_poll);
    assert!(
        !beside.is_empty() && beside.iter().all(|beside| *beside == bytes),
        "{beside:?}"
    );

    let http = server.client("nobody");
    let path = "/socket.io/?EIO=4&transport=polling";
    let open = http.get(path).send().await.unwrap().text().await.unwrap();
    let open: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    let session = format!("{path}&sid={}", open["sid"].as_str().unwrap());
    http.post(&session).body(connect).send().await.unwrap();
    let mut by_polling = Vec::new();
    while by_polling.len() < by_poll.len() {
        let body = timeout(LIMIT, http.get(&session).send()).await.unwrap().unwrap();
        for packet in body.text().await.unwrap().split('\u{1e}') {
            match packet.strip_prefix('b') {
                Some(attached) => assert_eq!(attached, base64),
                None => by_polling.extend(in_packet(packet)),
            }
        }
    }
    assert_eq!(by_polling, by_poll);
}
