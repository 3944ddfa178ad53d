//! The plain clients in `tests/clients`, run as their users run them: a process each, whose lines are read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Server, eventually,
    guard::{Process, temporary_folder},
};

/// A client that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Plain {
    process: Process,
    folder: TempDir,
}

/// What a client has printed: a name and what came with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// `ready`, `reset`, `message.sent` and so on; `lost` where the client found the chain broken.
    pub name: String,
    pub data: Value,
}

/// The folder of the clients.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

impl Plain {
    /// `events.mjs` on a server at a port of 127.0.0.1, from a cursor or from now.
    pub async fn events(server: &Server, user: &str, port: u16, after: Option<&str>) -> Plain {
        Plain::events_at(port, &server.token(user), after).await
    }

    pub async fn events_at(port: u16, token: &str, after: Option<&str>) -> Plain {
        Plain::node("events.mjs", port, token, after.as_slice()).await
    }

    /// `poll.mjs` on a server at a port of 127.0.0.1, from a cursor or from now.
    pub async fn poll(server: &Server, user: &str, port: u16, after: Option<&str>) -> Plain {
        Plain::poll_at(port, &server.token(user), after).await
    }

    pub async fn poll_at(port: u16, token: &str, after: Option<&str>) -> Plain {
        Plain::node("poll.mjs", port, token, after.as_slice()).await
    }

    /// `socket.mjs` with its command.
    pub async fn socket(server: &Server, user: &str, port: u16, command: &[&str]) -> Plain {
        Plain::socket_at(port, &server.token(user), command).await
    }

    pub async fn socket_at(port: u16, token: &str, command: &[&str]) -> Plain {
        Plain::node("socket.mjs", port, token, command).await
    }

    /// `chat.sh` with its command.
    pub async fn chat(server: &Server, user: &str, port: u16, command: &[&str]) -> Plain {
        Plain::chat_at(port, &server.token(user), command).await
    }

    pub async fn chat_at(port: u16, token: &str, command: &[&str]) -> Plain {
        let mut arguments = vec![folder().join("chat.sh").display().to_string()];
        arguments.push(format!("http://127.0.0.1:{port}"));
        arguments.extend(command.iter().map(ToString::to_string));
        Plain::run("bash", &arguments, token).await
    }

    async fn node(script: &str, port: u16, token: &str, more: &[&str]) -> Plain {
        for module in ["eventsource", "socket.io-client"] {
            let module = folder().join("node_modules").join(module);
            assert!(
                module.exists(),
                "{} is missing: run tests/prepare",
                module.display()
            );
        }
        let mut arguments = vec![folder().join(script).display().to_string()];
        arguments.push(format!("http://127.0.0.1:{port}"));
        arguments.extend(more.iter().map(ToString::to_string));
        Plain::run("node", &arguments, token).await
    }

    async fn run(program: &str, arguments: &[String], token: &str) -> Plain {
        let folder = temporary_folder("plain");
        let output = |name| File::create(folder.path().join(name)).expect("the temporary folder takes files");
        let process = Process::start(Path::new(program), |command| {
            command.args(arguments).env("TOKEN", token);
            // Whatever proxy this machine has for the world is not for 127.0.0.1.
            command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
            command.stdout(output("stdout")).stderr(output("stderr"));
        })
        .await;
        Plain { process, folder }
    }

    /// What it has written so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.folder.path().join("stdout")).expect("it was created")
    }

    pub fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).expect("it was created")
    }

    /// The whole lines that it has printed so far.
    pub fn lines(&self) -> Vec<Line> {
        let text = self.stdout();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Line::read).collect()
    }

    /// The lines of one name.
    pub fn named(&self, name: &str) -> Vec<Line> {
        let mut lines = self.lines();
        lines.retain(|line| line.name == name);
        lines
    }

    /// The texts of the messages that it has printed.
    pub fn texts(&self) -> Vec<String> {
        let sent = self.named("message.sent");
        let text = |line: &Line| line.data["message"]["text"].as_str().expect("a text").to_string();
        sent.iter().map(text).collect()
    }

    /// Waits until it has printed so many lines of a name, and gives them. Panics when it has lost something meanwhile.
    pub async fn wait_for(&self, name: &str, count: usize, limit: Duration) -> Vec<Line> {
        let what = format!("{count} lines {name} of a plain client");
        eventually(&what, limit, || async { self.named(name).len() >= count }).await;
        assert_eq!(self.named("lost"), [], "it has lost something");
        self.named(name)
    }

    /// Waits until it ends by itself; its exit code.
    pub async fn exit(&mut self, limit: Duration) -> i32 {
        self.process.wait(limit).await
    }
}

impl Line {
    /// `events.mjs` prints JSON with a type, `chat.sh` a name and JSON; an event's name is its type.
    fn read(line: &str) -> Line {
        let (name, json) = match line.split_once(' ') {
            Some((name, json)) if !name.starts_with('{') => (name, json),
            _ if line.starts_with('{') => ("", line),
            _ => (line, "null"),
        };
        let data: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = match name {
            "" | "event" => data["type"].as_str().expect("a type"),
            name => name,
        };
        Line {
            name: name.to_string(),
            data,
        }
    }

    pub fn cursor(&self) -> &str {
        self.data["cursor"].as_str().expect("a cursor")
    }
}
