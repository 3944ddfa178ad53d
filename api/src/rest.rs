//! The HTTP doors. Each is four moves: extract, build the command or the range, call, map the answer.

mod answer;
pub mod conversations;
pub mod development;
pub mod events;
pub mod extract;
pub mod health;
mod key;
pub mod messages;
pub mod pages;
pub mod receipts;
