//! The proof: real nodes, a real database and real clients, everything broken that can be broken, every operation and
//! every delivery written down, and the whole history checked afterwards against the promises.
//!
//! The parts know little of each other, so that none can hide what another does:
//!
//! - [`history`] is what was asked, answered, delivered and broken, one line of JSON for each, in a file;
//! - [`workload`] are the people: they send with keys over REST and socket.io, send again what they have no answer for,
//!   hang up, ask for what is refused, and read through every door;
//! - [`faults`] breaks things by a schedule that a seed gives;
//! - [`checker`] reads the file and the database, and nothing else, and says what promise was not held;
//! - [`run`] puts them together.
//!
//! Decided: clients do what the contract asks of them and no more, and they judge nothing: a client that panicked at a
//! broken chain would end the run with the history that shows why. Refused: a simulated network or clock. What is
//! tested is the program that is shipped, with the kernel and the databases below it.

pub mod history;

pub mod log;

pub mod checker;

pub mod workload;

pub mod reading;

pub mod library;

pub mod faults;

pub mod run;
