//! What happened, one line of JSON for each thing, in the order in which it was noted.
//!
//! An operation is noted before anything of it is sent, and its answer after it has come, so that the times between
//! hold the operation. Notes go through a bounded queue to one thread that writes; whoever notes waits when it is full.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Instant,
};

use chat_domain::Position;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since the run began.
    pub at: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The run itself.
    Run {
        seed: u64,
        about: String,
    },
    /// Somebody is about to ask a node for something.
    Begin {
        operation: u64,
        user: String,
        node: usize,
        door: Sending,
        action: Action,
    },
    /// What came of it. An operation without an end is unknown.
    End {
        operation: u64,
        #[serde(flatten)]
        answer: Answer,
    },
    /// A reader connects: from a cursor, from the beginning ("0"), or from now.
    Connect {
        reader: u32,
        user: String,
        door: Reading,
        /// Everybody's events, by the scope `chat.read_all`.
        everything: bool,
        node: usize,
        after: Option<String>,
    },
    /// Complete from this cursor.
    Ready {
        reader: u32,
        cursor: String,
    },
    /// Not complete: the reader has been told so, and goes on from this cursor.
    Reset {
        reader: u32,
        cursor: String,
        reason: String,
    },
    /// A durable event as it came, with its place in the chain.
    Delivery {
        reader: u32,
        event: Value,
    },
    /// The log was examined up to here: a heartbeat, or the end of a page.
    Passed {
        reader: u32,
        prev: String,
        cursor: String,
    },
    /// Something came that does not follow; the reader has asked to go on from its own cursor.
    Broken {
        reader: u32,
        expected: String,
        found: String,
    },
    /// The connection ended, by whomever.
    Gone {
        reader: u32,
        why: String,
    },
    /// The reader has ended and is not expected to know what came later.
    Left {
        reader: u32,
    },
    FaultBegin {
        fault: u64,
        kind: String,
        detail: String,
        /// Sends that were begun and not answered.
        in_flight: usize,
        /// What was acknowledged may be lost by this one: the log loses its end.
        may_lose: bool,
        /// Answers may come late: a node, or the way to it, stands still.
        #[serde(default)]
        holds_answers_up: bool,
    },
    FaultEnd {
        fault: u64,
    },
    /// Everything is whole again, nobody sends any more, and this is where the log ends: every reader that has not left
    /// must come so far.
    Head {
        position: Position,
    },
    /// What `chat-system verify` ended with.
    Verified {
        code: i32,
        said: String,
    },
}

/// The doors that commands come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sending {
    Rest,
    SocketIo,
    /// Through the client library, whichever door it takes.
    Library,
}

/// The doors that events come through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    Websocket,
    Polling,
    Stream,
    LongPoll,
    /// Through the client library, which goes from one door to the other by itself.
    Library,
}

impl Reading {
    /// The doors of the server.
    pub const ALL: [Reading; 4] = [
        Reading::Websocket,
        Reading::Polling,
        Reading::Stream,
        Reading::LongPoll,
    ];
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// The text, or base64 where it is data.
    Send {
        key: String,
        receiver: String,
        content: String,
    },
    Receipt {
        key: String,
        kind: String,
        up_to: Position,
    },
}

impl Action {
    pub fn key(&self) -> &str {
        match self {
            Action::Send { key, .. } | Action::Receipt { key, .. } => key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// What REST returns, or what an ack holds.
    Ok { result: Value },
    /// Nothing was recorded.
    Refused { code: String },
    /// Nobody knows.
    Unknown { why: String },
}

/// Notes what happens. Clones write to the same file.
#[derive(Clone, Debug)]
pub struct History {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    notes: SyncSender<Entry>,
    operations: AtomicU64,
}

/// The thread that writes.
#[derive(Debug)]
pub struct Writing(JoinHandle<std::io::Result<()>>);

/// Some seconds of the fastest run.
const QUEUE: usize = 20_000;

impl History {
    pub fn create(path: &Path) -> (History, Writing) {
        let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (notes, noted) = sync_channel::<Entry>(QUEUE);
        let writing = std::thread::spawn(move || {
            let mut file = BufWriter::with_capacity(1 << 20, file);
            for entry in noted {
                serde_json::to_writer(&mut file, &entry)?;
                file.write_all(b"\n")?;
            }
            file.flush()
        });
        let shared = Shared {
            begun: Instant::now(),
            notes,
            operations: AtomicU64::new(0),
        };
        let history = History {
            shared: Arc::new(shared),
        };
        (history, Writing(writing))
    }

    pub fn note(&self, what: What) {
        let at = u64::try_from(self.shared.begun.elapsed().as_micros()).expect("a run is shorter");
        let noted = self.shared.notes.send(Entry { at, what });
        noted.expect("the history is written as long as somebody notes");
    }

    /// Notes that an operation begins; gives its number.
    pub fn begin(&self, user: &str, node: usize, door: Sending, action: Action) -> u64 {
        let operation = self.shared.operations.fetch_add(1, Ordering::Relaxed);
        self.note(What::Begin {
            operation,
            user: user.into(),
            node,
            door,
            action,
        });
        operation
    }

    pub fn end(&self, operation: u64, answer: Answer) {
        self.note(What::End { operation, answer });
    }
}

impl Writing {
    /// Waits until all of it is in the file: until every [`History`] is gone.
    pub fn finish(self) {
        let written = self.0.join().expect("writing does not panic");
        written.expect("the history is written");
    }
}

/// The entries of a file.
pub fn read(path: &Path) -> impl Iterator<Item = Entry> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::with_capacity(1 << 20, file).lines();
    lines.map(|line| {
        let line = line.expect("the history can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_noted_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let (history, writing) = History::create(&path);
        let action = Action::Send {
            key: "k".into(),
            receiver: "bob".into(),
            content: "hi".into(),
        };
        let operation = history.begin("alice", 1, Sending::Rest, action.clone());
        let answers = [
            Answer::Ok {
                result: json!({"_id": 1}),
            },
            Answer::Refused {
                code: "content_empty".into(),
            },
            Answer::Unknown {
                why: "hung up".into(),
            },
        ];
        for answer in answers.clone() {
            history.end(operation, answer);
        }
        drop(history);
        writing.finish();
        let read: Vec<_> = read(&path).map(|entry| entry.what).collect();
        let mut expected = vec![What::Begin {
            operation: 0,
            user: "alice".into(),
            node: 1,
            door: Sending::Rest,
            action,
        }];
        expected.extend(answers.map(|answer| What::End { operation: 0, answer }));
        assert_eq!(read, expected);
    }
}
