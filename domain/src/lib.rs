//! The rules and the words of the chat system.
//!
//! A [`command::Command`] is decided against [`facts::Facts`] and becomes an event, or a
//! [`rejection::Rejection`]. The event is stored in the log (the `outbox`), and everything that anybody sees is
//! folded from the log. Both databases and the in-memory log run the same [`decide`](decide::decide) and the same
//! [`evolve`](evolve::evolve), through [`batch::decide_batch`].
//!
//! Absent on purpose: I/O, clocks, randomness, SQL, HTTP, tokio. Time and ids come in as values. The only `async`
//! is in the signatures of the [`ports`].

pub mod ids;
pub mod content;
pub mod cursor;
pub mod command;
pub mod event;
pub mod rejection;
pub mod facts;
pub mod decide;
pub mod evolve;
pub mod batch;
pub mod views;
pub mod ports;
#[cfg(feature = "memory")]
pub mod memory;

/// The place of an event in the log: 1, 2, 3… in commit order. The `_id` of a message is its event's position.
pub type Position = i64;

/// Microseconds since the Unix epoch, by the database's clock. Never decreases along the log.
pub type Micros = i64;

/// The seconds of `sent_at` and `received_at`: the floor of the microseconds.
pub const fn seconds(micros: Micros) -> i64 {
    micros.div_euclid(1_000_000)
}
