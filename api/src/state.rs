//! What the doors use. The composition root fills it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_domain::ports::{EventLog, Timeline};

use crate::{
    auth::{Signer, Verifier},
    limits::Limits,
    realtime::hub::Hub,
    rest::pages::chat::ChatPage,
    socket::Pings,
};

pub type AppState = Arc<App>;

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

/// Whether the server can serve: when each of its parts says so. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

/// The voice of one part.
#[derive(Clone)]
pub struct Part {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a part, not ready until it says so.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part {
            name,
            readiness: self.clone(),
        };
        part.not_ready("has not started");
        part
    }

    /// The parts that are not ready, each with the reason.
    pub fn missing(&self) -> Vec<(&'static str, String)> {
        let reason = |(name, reason): (&&'static str, &Option<String>)| Some((*name, reason.clone()?));
        self.parts().iter().filter_map(reason).collect()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    pub fn ready(&self) {
        self.readiness.parts().insert(self.name, None);
    }

    /// The reason is shown to whoever asks `/readyz`: no secrets, no addresses.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.readiness.parts().insert(self.name, Some(reason.into()));
    }
}
