//! The log on MySQL, MariaDB and SQLite.
//!
//! A command goes through [`writer`] (the group commit), becomes rows of the outbox and of its `projections` in one
//! transaction, and is answered. The writer hands what it has committed over to the [`tail`] ([`handover`]), which follows
//! the committed outbox and feeds its publisher. [`outbox`] and [`timeline`] read the log and the projections back.
//! [`followers`] fill behind the log what no sender waits for. [`maintenance`] holds the projections to the log.
//! [`primary`] watches that it is the log of before, and [`epoch`] begins another where it may not be. [`metrics`] counts,
//! and [`standing`] shows how all of it stands. [`planted`] is for the tests only.
//!
//! Invariants: only the writer commits events, only the tail feeds readers, and no cursor passes a position that is
//! not proven (see `chat_domain::ports`).

mod error;
pub mod flavor;
pub mod location;
mod sql;
pub mod session;
pub mod metrics;
pub mod epoch;
mod remembered;
pub mod primary;
pub mod database;
pub mod requirements;
mod rows;
mod shared_read;
pub mod entities;
mod projections;
pub mod handover;
pub mod writer;
pub mod outbox;
pub mod tail;
pub mod timeline;
pub mod followers;
pub mod standing;
pub mod maintenance;
pub mod planted;
