//! What the doors use. The composition root fills it.

use std::{sync::Arc, time::Duration};

use axum::extract::FromRef;
use chat_domain::ports::{EventLog, Timeline};

use crate::{
    auth::{Signer, Verifier},
    chat_page::ChatPage,
    limits::Limits,
    readiness::Readiness,
    realtime::hub::Hub,
};

pub type AppState = Arc<App>;

impl FromRef<AppState> for Verifier {
    fn from_ref(app: &AppState) -> Self {
        app.verifier.clone()
    }
}

pub struct App {
    pub log: Arc<dyn EventLog>,
    pub timeline: Arc<dyn Timeline>,
    pub hub: Hub,
    pub verifier: Verifier,
    /// Makes tokens for anybody on this machine: where no key is configured, and only there.
    pub development: Option<Signer>,
    /// None where the binary was built without it.
    pub chat_page: Option<ChatPage>,
    pub readiness: Readiness,
    pub limits: Limits,
    /// Bytes of a message's content.
    pub content_limit: usize,
    /// How long a command may wait for its answer.
    pub command_timeout: Duration,
    /// The longest silence of a stream.
    pub heartbeat: Duration,
    pub pings: Pings,
    /// How long a reader may take nothing.
    pub stall: Duration,
    /// Of so many deliveries one is lost between the subscription and the socket; 0: none. The tests of debug builds
    /// set it, to show that nobody behind the socket can tell.
    pub lose_one_in: u32,
}

/// How the transport finds out that a client is gone.
#[derive(Debug, Clone, Copy)]
pub struct Pings {
    pub interval: Duration,
    /// How long a client may take to answer one.
    pub timeout: Duration,
}

impl Default for Pings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(25),
            timeout: Duration::from_secs(20),
        }
    }
}
