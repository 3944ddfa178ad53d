//! `with-databases COMMAND…`: runs a command whose tests share a MariaDB and a MySQL server, which end with it. Exits as
//! the command does.
//!
//! The command comes after the servers where both want a processor: a test that computes must not keep the others' server
//! from answering.

use std::{
    env,
    process::{Command, ExitCode},
};

use chat_tests::databases::SharedServers;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let command: Vec<_> = env::args_os().skip(1).collect();
    assert!(!command.is_empty(), "with-databases COMMAND…");
    let shared = SharedServers::start().await;
    let status = Command::new("nice")
        .args(["-n", "5"])
        .args(command)
        .envs(shared.environment())
        .status()
        .expect("the command runs");
    ExitCode::from(status.code().map_or(1, |code| u8::try_from(code).unwrap_or(1)))
}
