//! Whether the server can serve, as each of its parts says.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

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
        self.0.lock()
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
