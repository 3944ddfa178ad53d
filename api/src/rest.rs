//! The HTTP doors. Each is four moves: extract, build the command or the range, call, map the answer.

pub mod messages;
pub mod conversations;
pub mod receipts;
pub mod events;
pub mod health;
pub mod development;
pub mod pages;
mod key;
