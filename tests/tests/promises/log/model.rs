//! What a real run shows is found again in the model, and what it did not do is not: sends to two nodes with commits
//! whose answers are lost, a node that is killed among them, and a reader that resumes.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chat_model::replay::{Logged, Refused, Seen, replay, replay_lines};
use chat_tests::{
    Client, CommitFault, Database, Events, Kind, Problem, Proxy, Server, chatter::position_of, eventually,
    inside, on_each_database, sized,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

const LIMIT: Duration = Duration::from_secs(60);

/// How many sends come to a node that hears nothing any more. Each that nobody answers multiplies the states that are
/// looked at.
fn unheard() -> usize {
    sized(1, 2)
}

on_each_database! {
    async fn a_run_is_found_again_in_the_model_and_what_it_did_not_do_is_not(kind) {
        let (trace, unseen) = recorded(kind).await;
        let lines: Vec<_> = trace.iter().map(|seen| serde_json::to_string(seen).expect("JSON")).collect();
        let begun = Instant::now();
        let found = replay_lines(&lines.join("\n"), &unseen);
        let found = found.unwrap_or_else(|refused| panic!("{refused}\n{}", lines.join("\n")));
        let count = |wanted: fn(&Seen) -> bool| trace.iter().filter(|seen| wanted(seen)).count();
        println!(
            "{kind:?}: {} lines ({} sends, {} without an answer, {} deliveries): {} states in {:?}",
            trace.len(),
            count(|seen| matches!(seen, Seen::Sent { .. })),
            count(|seen| matches!(seen, Seen::Unknown { .. })),
            count(|seen| matches!(seen, Seen::Delivered { .. })),
            found.states,
            begun.elapsed(),
        );
        for (what, forged) in forged(&trace, &unseen) {
            let refused = replay(&forged, &unseen);
            assert!(matches!(refused, Err(Refused::Impossible { .. })), "{what}: {refused:?}");
        }
    }
}

/// Each way in which the trace could have been, had something gone wrong.
fn forged(trace: &[Seen], unseen: &[u8]) -> Vec<(&'static str, Vec<Seen>)> {
    let delivered: Vec<_> = (0..trace.len())
        .filter(|&line| matches!(trace[line], Seen::Delivered { .. }))
        .collect();
    let middle = delivered.len() / 2;
    let (one, next) = (delivered[middle], delivered[middle + 1]);
    let last = *delivered.last().expect("there are deliveries");
    let with = |change: &dyn Fn(&mut Vec<Seen>)| {
        let mut trace = trace.to_vec();
        change(&mut trace);
        trace
    };
    let with_rows = |change: &dyn Fn(&mut Vec<Logged>)| {
        with(&|trace| {
            if let Some(Seen::Log { rows }) = trace.last_mut() {
                change(rows);
            }
        })
    };
    let is_seen = |row: &Logged| !unseen.contains(&row.command);
    vec![
        ("two deliveries swapped", with(&|trace| trace.swap(one, next))),
        ("a delivery lost", with(&|trace| drop(trace.remove(one)))),
        ("the last delivery lost", with(&|trace| drop(trace.remove(last)))),
        (
            "a delivery doubled",
            with(&|trace| trace.insert(one, trace[one].clone())),
        ),
        (
            "somebody else's message",
            with(&|trace| {
                let Some(Seen::Log { rows }) = trace.last() else {
                    return;
                };
                let Seen::Delivered { position } = trace[one] else {
                    return;
                };
                let other = rows
                    .iter()
                    .rev()
                    .find(|row| row.position < position && !is_seen(row));
                let position = other.expect("there are others' messages").position;
                trace.insert(one, Seen::Delivered { position });
            }),
        ),
        (
            "an acknowledgement without a row",
            with_rows(&|rows| rows.truncate(rows.len() - 1)),
        ),
        (
            "a send recorded twice",
            with_rows(&|rows| {
                rows.push(Logged {
                    position: rows.last().map_or(1, |row| row.position + 1),
                    command: rows[0].command,
                });
            }),
        ),
        (
            "two rows in the other's place",
            with_rows(&|rows| {
                let first = rows[0].command;
                rows[0].command = rows[1].command;
                rows[1].command = first;
            }),
        ),
        (
            "a reader that resumes further on than it was",
            with(&|trace| {
                let resumed = trace
                    .iter_mut()
                    .rev()
                    .find(|seen| matches!(seen, Seen::Connected { .. }));
                if let Some(Seen::Connected { cursor, .. }) = resumed {
                    *cursor += 1;
                }
            }),
        ),
    ]
}

/// Runs it, and gives the trace and which commands the reader may not see.
async fn recorded(kind: Kind) -> (Vec<Seen>, Vec<u8>) {
    let database = Database::fresh(kind).await;
    let mut run = Run::start(&database).await;

    // The reader loads what there is, and connects with its cursor while more comes.
    run.send_all(&[0, 1, 0, 1]).await;
    let mut reader = run.load().await;
    reader.connect(&run, 0).await;
    run.send_all(&[1, 0, 0, 1]).await;
    run.delivered().await;
    run.examined().await;
    reader.disconnect().await;
    let meanwhile = run.begin_all(&[0, 1, 1]);
    reader.connect(&run, 0).await;
    run.answered(meanwhile).await;

    run.lose_answers().await;

    let in_flight = run.begin_all(sized::<&[usize]>(&[0, 1, 0], &[0, 0, 1, 0, 0]));
    run.kill(0, in_flight, reader.ended()).await;
    if kind == Kind::Sqlite {
        run.restart(0).await;
        reader.connect(&run, 0).await;
    } else {
        reader.connect(&run, 1).await;
        run.send_all(&[1, 1]).await;
        run.restart(0).await;
    }
    run.send_again().await;
    run.send_all(&[0, 1]).await;
    run.delivered().await;
    run.end(&database).await
}

struct Run {
    /// The first, and where the database allows it a second.
    nodes: Vec<Server>,
    /// Between the second node and the database.
    proxy: Option<Proxy>,
    trace: Trace,
    sent: u8,
    /// Those that have no answer yet.
    unknown: Vec<u8>,
}

type Trace = Arc<Mutex<Vec<Seen>>>;
type InFlight = JoinSet<(u8, Result<(), Problem>)>;

fn saw(trace: &Trace, seen: Seen) {
    trace.lock().expect("no panic under the lock").push(seen);
}

/// Every third message is between two others.
fn is_unseen(command: u8) -> bool {
    command % 3 == 2
}

impl Run {
    async fn start(database: &Database) -> Run {
        let heartbeat = ("CHAT_HEARTBEAT_S", "1");
        let mut nodes = vec![Server::start(database, &[heartbeat]).await];
        let mut proxy = None;
        if database.kind() != Kind::Sqlite {
            let between = Proxy::before(database).await;
            let url = between.url(database);
            nodes.push(Server::start(database, &[heartbeat, ("CHAT_DATABASE_URL", &url)]).await);
            proxy = Some(between);
        }
        Run {
            nodes,
            proxy,
            trace: Trace::default(),
            sent: 0,
            unknown: Vec::new(),
        }
    }

    /// The node with this number, or the one that there is.
    fn node(&self, node: usize) -> usize {
        node.min(self.nodes.len() - 1)
    }

    /// Sends new messages to nodes, all at once.
    fn begin_all(&mut self, nodes: &[usize]) -> InFlight {
        let mut in_flight = JoinSet::new();
        for &node in nodes {
            self.begin(self.sent, node, &mut in_flight);
            self.sent += 1;
        }
        in_flight
    }

    fn begin(&self, command: u8, node: usize, in_flight: &mut InFlight) {
        let node = self.node(node);
        let (from, to) = if is_unseen(command) {
            ("carol", "dave")
        } else {
            ("alice", "bob")
        };
        let client = self.nodes[node].client(from);
        let trace = self.trace.clone();
        saw(&trace, Seen::Sent { command, node });
        in_flight.spawn(async move {
            let key = command.to_string();
            let message = match client.send(to, &key, Some(&key)).await {
                Ok(message) => message,
                Err(problem) => return (command, Err(problem)),
            };
            let position = message["_id"].as_i64().and_then(|id| id.try_into().ok());
            let position = position.expect("a small number");
            saw(&trace, Seen::Acknowledged { command, position });
            (command, Ok(()))
        });
    }

    async fn answered(&mut self, mut in_flight: InFlight) {
        let begun = Instant::now();
        while let Some(answer) = in_flight.join_next().await {
            let (command, answer) = answer.expect("no panic");
            let Err(problem) = answer else { continue };
            // What a node says whose commits are broken, and nothing else.
            let seen = match (problem.status, problem.code.as_str()) {
                (503, "outcome_unknown") => Seen::Unknown { command },
                (503, "unavailable") => Seen::Refused { command },
                _ => panic!("{command} is not answered: {problem}"),
            };
            assert!(
                begun.elapsed() < LIMIT,
                "{command} is not answered within {LIMIT:?}: {problem}"
            );
            saw(&self.trace, seen);
            sleep(Duration::from_millis(100)).await;
            self.begin(command, 1, &mut in_flight);
        }
    }

    async fn send_all(&mut self, nodes: &[usize]) {
        let in_flight = self.begin_all(nodes);
        self.answered(in_flight).await;
    }

    /// Loads the history with the reader's only peer, while nothing is on its way.
    async fn load(&self) -> Reader {
        let page = self.nodes[0]
            .client("bob")
            .history(&[("with", "alice"), ("after", "0")])
            .await;
        let page = page.expect("history is given");
        let cursor = page["cursor"].as_str().expect("a cursor").to_string();
        let messages = page["messages"].as_array().expect("messages");
        let positions = messages.iter().map(|message| small(message["_id"].as_i64()));
        let loaded = Seen::Loaded {
            cursor: small(Some(position_of(&cursor))),
            positions: positions.collect(),
        };
        saw(&self.trace, loaded);
        Reader::new(self.trace.clone(), cursor)
    }

    /// Breaks commits of the second node in each way; its writer settles them by itself.
    async fn lose_answers(&mut self) {
        let late = CommitFault::CommitLate(Duration::from_millis(100));
        for fault in [CommitFault::AnswerLost, CommitFault::CommitLost, late] {
            let Some(proxy) = self.proxy.take() else {
                return;
            };
            saw(&self.trace, Seen::Cut { node: 1 });
            let before = proxy.commits_broken();
            proxy.break_next_commits(fault, 1);
            self.send_all(&[1, 0, 1]).await;
            assert_eq!(proxy.commits_broken(), before + 1, "{fault:?}");
            self.proxy = Some(proxy);
        }
    }

    /// Kills a node while sends are on their way. What it had answered is written down before, and what it had
    /// delivered.
    async fn kill(&mut self, node: usize, mut in_flight: InFlight, reader_ended: impl Future<Output = ()>) {
        let (_, first) = in_flight
            .join_next()
            .await
            .expect("there are sends")
            .expect("no panic");
        assert!(first.is_ok(), "nothing is broken yet: {first:?}");
        // What comes now has no answer, whatever became of those before.
        self.nodes[node].sigstop();
        for _ in 0..unheard() {
            self.begin(self.sent, node, &mut in_flight);
            self.sent += 1;
        }
        self.nodes[node].kill9().await;
        reader_ended.await;
        let answers = in_flight.join_all().await;
        saw(&self.trace, Seen::Killed { node });
        for (command, answer) in answers {
            if let Err(problem) = answer {
                assert_eq!(problem.status, 0, "{command}: {problem}");
                saw(&self.trace, Seen::Unknown { command });
                self.unknown.push(command);
            }
        }
        assert!(self.unknown.len() >= unheard(), "{:?}", self.unknown);
    }

    async fn restart(&mut self, node: usize) {
        saw(&self.trace, Seen::Started { node });
        self.nodes[node].restart().await;
    }

    /// Whoever has no answer sends again, elsewhere.
    async fn send_again(&mut self) {
        let mut in_flight = JoinSet::new();
        for command in std::mem::take(&mut self.unknown) {
            self.begin(command, 1, &mut in_flight);
        }
        self.answered(in_flight).await;
    }

    /// Waits until the reader has all that was acknowledged.
    async fn delivered(&self) {
        let trace = || self.trace.lock().expect("no panic under the lock").clone();
        let acknowledged = |seen: &Seen| match *seen {
            Seen::Acknowledged { command, position } if !is_unseen(command) => Some(position),
            _ => None,
        };
        let last = trace()
            .iter()
            .filter_map(acknowledged)
            .max()
            .expect("there are answers");
        eventually("the reader has everything", LIMIT, || async {
            trace().contains(&Seen::Delivered { position: last })
        })
        .await;
    }

    /// Waits until the reader is told how far the log was examined.
    async fn examined(&self) {
        let told = || {
            let trace = self.trace.lock().expect("no panic under the lock");
            trace
                .iter()
                .filter(|seen| matches!(seen, Seen::Heartbeat { .. }))
                .count()
        };
        let before = told();
        eventually("a heartbeat comes", LIMIT, || async { told() > before }).await;
    }

    async fn end(self, database: &Database) -> (Vec<Seen>, Vec<u8>) {
        let rows = inside::rows(database, "outbox", "position, command_key", "position").await;
        let row = |row: &String| {
            let (position, command) = row.split_once('|').expect("two columns");
            Logged {
                position: position.parse().expect("a small number"),
                command: command.parse().expect("a key of ours"),
            }
        };
        let rows = rows.iter().map(row).collect();
        // Nothing that comes later belongs to it.
        let mut trace = std::mem::take(&mut *self.trace.lock().expect("no panic under the lock"));
        trace.push(Seen::Log { rows });
        (
            trace,
            (0..self.sent).filter(|&command| is_unseen(command)).collect(),
        )
    }
}

fn small(number: Option<i64>) -> u8 {
    number
        .and_then(|number| number.try_into().ok())
        .expect("a small number")
}

/// Bob's stream, and where it is.
struct Reader {
    trace: Trace,
    cursor: String,
    following: Option<Following>,
}

struct Following {
    stop: mpsc::Sender<()>,
    /// Gives the cursor of the last frame.
    task: JoinHandle<String>,
}

impl Reader {
    fn new(trace: Trace, cursor: String) -> Reader {
        Reader {
            trace,
            cursor,
            following: None,
        }
    }

    async fn connect(&mut self, run: &Run, node: usize) {
        let client: Client = run.nodes[node].client("bob");
        let begun = Instant::now();
        let (events, ready) = loop {
            let mut events = client.events(Some(&self.cursor)).await.expect("the stream opens");
            let first = events.next(LIMIT).await.expect("a frame");
            // A node that is not as far as the cursor yet says that it is to be asked later.
            if first.event != "closing" {
                break (events, first);
            }
            assert_eq!(first.data["code"], "starting", "{first:?}");
            assert!(begun.elapsed() < LIMIT, "{first:?}");
            sleep(Duration::from_millis(100)).await;
        };
        assert_eq!(
            (ready.event.as_str(), ready.id.as_str()),
            ("ready", self.cursor.as_str())
        );
        let cursor = small(Some(position_of(&self.cursor)));
        saw(&self.trace, Seen::Connected { node, cursor });
        let (stop, stopped) = mpsc::channel(1);
        let task = tokio::spawn(follow(events, self.trace.clone(), self.cursor.clone(), stopped));
        self.following = Some(Following { stop, task });
    }

    /// Goes away in the middle of whatever comes.
    async fn disconnect(&mut self) {
        let following = self.following.take().expect("it is connected");
        following.stop.send(()).await.expect("it follows");
        self.cursor = following.task.await.expect("no panic");
    }

    /// Waits for the end of the stream.
    async fn ended(&mut self) {
        let following = self.following.take().expect("it is connected");
        self.cursor = following.task.await.expect("no panic");
    }
}

async fn follow(
    mut events: Events,
    trace: Trace,
    mut cursor: String,
    mut stopped: mpsc::Receiver<()>,
) -> String {
    loop {
        let frame = tokio::select! {
            Some(()) = stopped.recv() => {
                saw(&trace, Seen::Disconnected);
                return cursor;
            }
            frame = events.next(LIMIT) => frame,
        };
        let Some(frame) = frame else {
            return cursor;
        };
        let position = small(Some(position_of(&frame.id)));
        match frame.event.as_str() {
            "message" => saw(&trace, Seen::Delivered { position }),
            "heartbeat" => saw(&trace, Seen::Heartbeat { cursor: position }),
            other => panic!("{other}: {frame:?}"),
        }
        cursor = frame.id;
    }
}
