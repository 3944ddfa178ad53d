//! The harness behind the tests of what is promised: real databases, the real server, and real faults between them.
//!
//! A test takes a fresh database, starts the server on it, and speaks to it as clients do:
//!
//! ```no_run
//! use chat_tests::{Database, Kind, Server};
//!
//! # #[tokio::main] async fn main() {
//! let database = Database::fresh(Kind::Sqlite).await;
//! let server = Server::start(&database, &[]).await;
//! let sent = server.client("alice").send("bob", "hi", Some("key-1")).await.unwrap();
//! assert_eq!(sent["seq"], 1);
//! # }
//! ```
//!
//! Everything that is started ends with the test process, however that ends (see [`guard`]), and stands in one
//! temporary folder on free ports of 127.0.0.1, so runs beside each other do not meet.
//! The harness panics rather than return errors: a test has nothing better to do with them.

mod harness;

pub mod chatter;
pub mod counting;
pub mod documents;
pub mod front;
pub mod image;
pub mod inside;
pub mod issuer;
pub mod keyed;
pub mod listener;
pub mod logs;
pub mod markdown;
pub mod metrics;
pub mod mutation;
pub mod observed;
pub mod plain;
pub mod ports;
pub mod proof;
pub mod raw;
pub mod schemas;
pub mod seed;
pub mod sockets;
pub mod socketio;
pub mod unlocked;
pub mod veil;

pub use harness::*;
