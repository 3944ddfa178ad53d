//! The parts of the harness, from the ground up.

pub mod wait;

pub mod guard;

pub mod size;

pub mod clock;

pub mod disk;

pub mod databases;

pub mod server;

pub mod client;

pub mod events;

pub mod proxy;

pub use client::{Client, Problem, Reply, ok, reply};
pub use clock::another_clock;
pub use databases::{Database, DatabaseServer, Kind};
pub use events::{Events, Frame, StalledEvents};
pub use proxy::{CommitFault, Proxy};
pub use server::{Outcome, Running, Server, run, run_alone, start_command};
pub use size::sized;
pub use wait::{eventually, free_port};
