//! The server: doors, authentication, documents, the hub and the command line.
//!
//! In reading order, the way of a request: [`server`] accepts connections, [`router`] has the routes and what goes
//! round each of them, [`auth`] says who calls, [`rest`] and [`socket`] are the doors, [`operations`] what they ask for,
//! [`wire`] the JSON that they speak, [`problem`] every refusal, [`limits`] how much may be taken, [`realtime`] what a
//! reader is sent. [`cli`] and [`config`] are what an operator sees.
//!
//! Invariants: a door holds no rule, it parses, asks the domain's ports, and says what they answer. Only the tail
//! feeds the hub, so no handler tells anybody but its own caller what it has done. No token, no content of a message
//! and no query string is ever logged.

mod door;
pub mod terms;
mod tls;
pub mod readiness;
pub mod cli;
pub mod config;
pub mod telemetry;
pub mod metrics;
pub mod serve;
pub mod maintenance;
mod id_map;
pub mod healthcheck;
pub mod files;
pub mod server;
pub mod router;
pub mod admin;
pub mod state;
pub mod auth;
pub mod limits;
pub mod problem;
pub mod wire;
pub mod operations;
pub mod chat_page;
pub mod rest;
pub mod socket;
pub mod realtime;
mod trimmed;
mod examples;
pub mod openapi;
pub mod asyncapi;
pub mod documents;
#[cfg(test)]
mod testing;
