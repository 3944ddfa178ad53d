//! The peers: other programs that do a part of the work, each in a process of its own.

mod acks;
mod node;
mod socketioxide;
mod sse;

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    time::Duration,
};

use chat_tests::{
    eventually,
    guard::{Process, temporary_folder},
};
use serde_json::json;
use tempfile::TempDir;

pub(crate) use self::node::{node, package as node_package};
use crate::target::Target;

/// One that this program is itself, started again with `peer NAME`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Bare {
    /// Speaks socket.io and acknowledges at once, to show what the load generator can do.
    Acks,
    /// The layer for socket.io that one would take, with one handler.
    Socketioxide,
    /// A stream of events that never has one.
    Sse,
}

/// A peer that runs. Dropped, it is killed.
pub(crate) struct Peer {
    pub(crate) process: Process,
    pub(crate) port: u16,
    _folder: TempDir,
}

impl Peer {
    pub(crate) async fn bare(bare: Bare) -> Self {
        let program = std::env::current_exe().expect("a program knows where it is");
        let name = match bare {
            Bare::Acks => "acks",
            Bare::Socketioxide => "socketioxide",
            Bare::Sse => "sse",
        };
        Self::start(&program, |command| {
            command.args(["peer", name]);
        })
        .await
    }

    /// A program that prints the port on which it listens.
    async fn start(program: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        let folder = temporary_folder("peer");
        let output = |name| File::create(folder.path().join(name)).expect("the temporary folder takes files");
        let process = Process::start(program, |command| {
            command.stdout(output("stdout")).stderr(output("stderr"));
            prepare(command);
        })
        .await;
        let mut port = None;
        eventually("the peer listens", Duration::from_secs(20), || {
            let text = fs::read_to_string(folder.path().join("stdout")).unwrap_or_default();
            port = text.strip_suffix('\n').and_then(|line| line.parse().ok());
            std::future::ready(port.is_some())
        })
        .await;
        Self {
            process,
            port: port.expect("waited for"),
            _folder: folder,
        }
    }

    /// Logs in with a name and no more.
    pub(crate) fn target(&self, name: &'static str) -> Target {
        Target {
            name,
            port: self.port,
            auth: |user| json!({ "user_id": user }),
        }
    }
}

/// Serves until this process is ended.
pub(crate) async fn serve(bare: Bare) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    match bare {
        Bare::Acks => acks::serve(listener).await,
        Bare::Socketioxide => socketioxide::serve(listener).await,
        Bare::Sse => sse::serve(listener).await,
    }
}
