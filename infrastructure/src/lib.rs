//! The log on MySQL, MariaDB and SQLite.
//!
//! A command goes through [`writer`] (the group commit), becomes rows of the outbox and of its projections in one
//! transaction, and is answered. The [`tail`] follows the committed outbox and feeds whoever publishes it;
//! [`outbox`] and [`timeline`] read it back; the [`projector`] fills `recived_at` behind it. [`verify`] and
//! [`rebuild`] hold the projections to the log. [`primary`] watches that it is the log of before, [`epoch`] begins
//! another where it may not be. [`metrics`] is what an operator may count and ask. [`planted`] is for the tests only.
//!
//! Invariants: only the writer commits events, only the tail feeds readers, and no cursor passes a position that is
//! not proven (see `chat_domain::ports`).

pub mod flavor;
pub mod location;
pub mod database;
pub mod requirements;
pub mod session;
pub mod primary;
mod remembered;
mod sql;
mod rows;
mod shared_read;
pub mod entities;
pub mod metrics;
pub mod writer;
pub mod outbox;
pub mod tail;
pub mod timeline;
pub mod projector;
mod fold;
pub mod verify;
pub mod rebuild;
pub mod epoch;
pub mod planted;
