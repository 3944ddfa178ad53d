//! Real socket.io clients, held by a driver in their own language: `tests/clients/driver.mjs` for socket.io-client,
//! `driver.py` for python-socketio. A test tells a driver what to do and sees everything that happens to its sockets.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
    time::timeout,
};

use crate::{
    eventually,
    guard::{Process, temporary_folder},
    plain,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Which client is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The newest socket.io-client.
    Newest,
    /// An early 4.x, as it stands in programs that nobody touches.
    Old,
    /// python-socketio.
    Python,
}

/// One process that holds sockets. Dropped, it is killed, and its connections with it.
#[derive(Debug)]
pub struct Sockets {
    shared: Arc<Shared>,
    // The lines of two commands do not mix, and commands arrive in the order in which they are given.
    commands: tokio::sync::Mutex<OwnedWriteHalf>,
    next_id: AtomicU64,
    process: Process,
    folder: TempDir,
}

/// Something that happened to a socket. What the server emitted has its own name; `$connect`, `$disconnect` and
/// `$connect_error` are what became of the connection, and `$acked` is an ack, with the name of what it is for. From
/// JavaScript also `$open` and `$upgrade`, with the transport.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    pub event: String,
    pub args: Vec<Value>,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<BTreeMap<String, Vec<Received>>>,
    answers: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
}

/// Bytes, in what is emitted and in what comes.
pub fn binary(base64: &str) -> Value {
    json!({"$binary": base64})
}

impl Library {
    pub const ALL: [Library; 3] = [Library::Newest, Library::Old, Library::Python];

    fn command(self) -> (PathBuf, Vec<String>, PathBuf) {
        let folder = plain::folder();
        let modules = folder.join("node_modules");
        let node = |package: &str| {
            let arguments = vec![folder.join("driver.mjs").display().to_string(), package.into()];
            ("node".into(), arguments, modules.join(package))
        };
        match self {
            Library::Newest => node("socket.io-client"),
            Library::Old => node("socket.io-client-old"),
            Library::Python => {
                let python = folder.join(".venv/bin/python");
                (
                    python.clone(),
                    vec![folder.join("driver.py").display().to_string()],
                    python,
                )
            }
        }
    }
}

impl Sockets {
    pub async fn start(library: Library) -> Sockets {
        let (program, mut arguments, needed) = library.command();
        assert!(
            needed.exists(),
            "{} is missing: run tests/prepare",
            needed.display()
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        // Its guard holds its stdin, so it speaks over a connection of its own.
        arguments.insert(1, port.to_string());
        let folder = temporary_folder("sockets");
        let output = |name| File::create(folder.path().join(name)).expect("the temporary folder takes files");
        let process = Process::start(Path::new(&program), |command| {
            command.args(arguments);
            // Whatever proxy this machine has for the world is not for 127.0.0.1.
            command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
            command.stdout(output("stdout")).stderr(output("stderr"));
        })
        .await;
        let (connection, _) = timeout(LIMIT, listener.accept())
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "the driver does not come: {}",
                    read(&folder.path().join("stderr"))
                )
            })
            .expect("the driver comes");
        let (from, to) = connection.into_split();
        let shared = Arc::<Shared>::default();
        tokio::spawn(listen(from, shared.clone()));
        Sockets {
            shared,
            commands: tokio::sync::Mutex::new(to),
            next_id: AtomicU64::new(1),
            process,
            folder,
        }
    }

    /// Begins to connect a new socket to a server at a port of 127.0.0.1; what comes of it is [`received`](Self::received).
    /// `auth` is the handshake's. The options are the library's own, and those that the driver adds.
    pub async fn connect(&self, name: &str, port: u16, auth: Value, options: Value) {
        let command = json!({"do": "connect", "name": name, "port": port, "auth": auth, "options": options});
        self.order(command).await;
    }

    /// Connects and waits until the stream of events has begun.
    pub async fn ready(&self, name: &str, port: u16, auth: Value, options: Value) -> Value {
        self.connect(name, port, auth, options).await;
        self.wait_for(name, "ready", 1).await[0].data().clone()
    }

    /// What the handshakes from now on say.
    pub async fn set_auth(&self, name: &str, auth: Value) {
        self.order(json!({"do": "auth", "name": name, "auth": auth}))
            .await;
    }

    /// Emits, and waits for the ack, which has one argument.
    pub async fn emit(&self, name: &str, event: &str, payload: Value) -> Value {
        self.emit_all(name, event, vec![payload]).await.remove(0)
    }

    /// Emits all of them at once, in this order, without waiting for an ack in between; the acks.
    pub async fn emit_all(&self, name: &str, event: &str, payloads: Vec<Value>) -> Vec<Value> {
        let command = json!({"do": "emit", "name": name, "event": event, "payloads": payloads});
        let answer = self.order(command).await;
        let Value::Array(acks) = answer else {
            panic!("acks: {answer}")
        };
        acks.iter().map(one).collect()
    }

    /// Emits, and waits for a result.
    pub async fn done(&self, name: &str, event: &str, payload: Value) -> Value {
        let ack = self.emit(name, event, payload).await;
        assert!(ack.get("problem").is_none(), "{event}: {ack}");
        ack.get("result")
            .unwrap_or_else(|| panic!("{event}: {ack}"))
            .clone()
    }

    /// Emits, and waits for a problem.
    pub async fn refused(&self, name: &str, event: &str, payload: Value) -> Value {
        let ack = self.emit(name, event, payload).await;
        assert!(ack.get("result").is_none(), "{event}: {ack}");
        ack.get("problem")
            .unwrap_or_else(|| panic!("{event}: {ack}"))
            .clone()
    }

    /// `polling` or `websocket`.
    pub async fn transport(&self, name: &str) -> String {
        let answer = self.order(json!({"do": "transport", "name": name})).await;
        answer
            .as_str()
            .unwrap_or_else(|| panic!("a transport: {answer}"))
            .to_string()
    }

    pub async fn is_connected(&self, name: &str) -> bool {
        self.order(json!({"do": "connected", "name": name})).await == true
    }

    pub async fn disconnect(&self, name: &str) {
        self.order(json!({"do": "disconnect", "name": name})).await;
    }

    /// Everything that has happened to a socket so far.
    pub fn received(&self, name: &str) -> Vec<Received> {
        lock(&self.shared.received).get(name).cloned().unwrap_or_default()
    }

    /// That of one event.
    pub fn named(&self, name: &str, event: &str) -> Vec<Received> {
        let mut received = self.received(name);
        received.retain(|received| received.event == event);
        received
    }

    /// The durable events that a socket was given.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let events = self.named(name, "event");
        events.iter().map(|event| event.data().clone()).collect()
    }

    /// Waits until an event has come so often.
    pub async fn wait_for(&self, name: &str, event: &str, count: usize) -> Vec<Received> {
        let what = format!("{count} {event} at {name}");
        let there = || async { self.count(name, event) >= count };
        let limited = timeout(LIMIT, eventually(&what, LIMIT * 2, there)).await;
        assert!(
            limited.is_ok(),
            "not within {LIMIT:?}: {what}; the last things were {:#?}\n{}",
            self.last(name),
            self.stderr()
        );
        self.named(name, event)
    }

    fn count(&self, name: &str, event: &str) -> usize {
        let received = lock(&self.shared.received);
        let received = received.get(name).into_iter().flatten();
        received.filter(|received| received.event == event).count()
    }

    fn last(&self, name: &str) -> Vec<Received> {
        let received = self.received(name);
        received[received.len().saturating_sub(5)..].to_vec()
    }

    /// What the driver itself complains of.
    pub fn stderr(&self) -> String {
        read(&self.folder.path().join("stderr"))
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    async fn order(&self, mut command: Value) -> Value {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        command["id"] = json!(id);
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.answers).insert(id, answer);
        let line = format!("{command}\n");
        self.commands
            .lock()
            .await
            .write_all(line.as_bytes())
            .await
            .expect("the driver listens");
        let answer = timeout(LIMIT, answered).await;
        let answer = answer.unwrap_or_else(|_| {
            panic!(
                "no answer to {command:.300}; the last things were {:#?}\n{}",
                self.last(command["name"].as_str().unwrap_or_default()),
                self.stderr()
            )
        });
        answer.unwrap_or_else(|_| panic!("the driver has ended: {}", self.stderr()))
    }
}

impl Received {
    /// What the server emits has one argument.
    pub fn data(&self) -> &Value {
        let [data] = &self.args[..] else {
            panic!("one argument: {self:?}")
        };
        data
    }
}

/// An ack's one argument.
fn one(ack: &Value) -> Value {
    match ack.as_array().map(Vec::as_slice) {
        Some([one]) => one.clone(),
        _ => panic!("an ack has one argument: {ack}"),
    }
}

async fn listen(from: OwnedReadHalf, shared: Arc<Shared>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        if let Some(id) = line["id"].as_u64() {
            let waiting = lock(&shared.answers).remove(&id);
            // A test that has given up waiting is told nothing more.
            let _ = waiting.map(|waiting| waiting.send(line["answer"].take()));
            continue;
        }
        let args = match line["args"].take() {
            Value::Array(args) => args,
            other => panic!("arguments: {other}"),
        };
        let [name, event] = ["name", "event"].map(|field| line[field].as_str().expect("a name").to_string());
        lock(&shared.received)
            .entry(name)
            .or_default()
            .push(Received { event, args });
    }
    // Whoever waits for an answer now learns that there will be none.
    lock(&shared.answers).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic under the lock")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
