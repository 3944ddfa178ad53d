//! A set of keys that changes: read from a file or fetched from a URL, and read again.
//!
//! [`Jwks`] is what verifiers look at, [`Refresh`] the one task that reads. It reads when its time has come, and at
//! once when a token names a key that is not known; for that at most once in [`ASKED_PAUSE`], and everybody who asks
//! meanwhile waits for the same reading, so that forged tokens cause no storm. A reading that fails changes nothing:
//! the keys that are known stay, and reading is tried again.

mod fetch;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::fetch::{FetchError, JwksUrl, JwksUrlError};
use super::keys::{KeySet, KeySetError};
use crate::readiness::Part;

/// Between two readings that tokens with unknown keys ask for.
const ASKED_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at a file.
const FILE_PAUSE: Duration = Duration::from_secs(2);
/// Between two tries while they fail: the first, and the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Of one reading.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of a set.
const SIZE_LIMIT: usize = 1 << 20;

/// Where a set of keys is.
#[derive(Debug, Clone)]
pub enum JwksSource {
    File(PathBuf),
    Url {
        url: JwksUrl,
        /// Between two fetches while they succeed.
        every: Duration,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("the file cannot be read")]
    File(#[source] io::Error),
    #[error("it cannot be fetched")]
    Fetch(#[from] FetchError),
    #[error("it is larger than {SIZE_LIMIT} bytes")]
    Large,
    #[error("it took longer than {} seconds", LIMIT.as_secs())]
    Slow,
    #[error(transparent)]
    Set(#[from] KeySetError),
}

/// The keys as they are known now.
pub struct Jwks {
    state: Mutex<State>,
    asked: Notify,
    /// Changes with the end of each reading.
    finished: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    keys: Option<Arc<KeySet>>,
    /// The last reading failed, or there was none yet.
    away: bool,
    reading: Reading,
    asked_at: Option<Instant>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Reading {
    #[default]
    None,
    Asked,
    Runs,
}

impl Jwks {
    fn new() -> Self {
        Self {
            state: Mutex::new(State {
                away: true,
                ..State::default()
            }),
            asked: Notify::new(),
            finished: watch::channel(()).0,
        }
    }

    /// None before the first reading that succeeded.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.lock().keys.clone()
    }

    /// Whether there may be newer keys that cannot be read.
    pub fn is_away(&self) -> bool {
        self.lock().away
    }

    /// Waits for a reading: the one that runs, or one that this call asks for, unless one was asked for a moment ago.
    pub async fn renewed(&self) {
        let mut finished = self.finished.subscribe();
        {
            let mut state = self.lock();
            if state.reading == Reading::None {
                let paused = state.asked_at.is_none_or(|at| at.elapsed() >= ASKED_PAUSE);
                if !paused {
                    return;
                }
                state.asked_at = Some(Instant::now());
                state.reading = Reading::Asked;
                self.asked.notify_one();
            }
        }
        // The task that reads has its own limit; when it has ended, the server has.
        let _ = timeout(2 * LIMIT, finished.changed()).await;
    }

    fn begin(&self) {
        self.lock().reading = Reading::Runs;
    }

    fn finish(&self, read: Result<Option<Arc<KeySet>>, ()>) {
        {
            let mut state = self.lock();
            state.reading = Reading::None;
            state.away = read.is_err();
            if let Ok(Some(keys)) = read {
                state.keys = Some(keys);
            }
        }
        self.finished.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// The task that reads.
pub struct Refresh {
    source: JwksSource,
    jwks: Arc<Jwks>,
    part: Part,
    /// What was read last, so that what has not changed is not warned of again.
    last: Vec<u8>,
    /// Failures in a row.
    failures: u32,
}

impl Refresh {
    /// The part is not ready before the keys were read once.
    pub fn new(source: JwksSource, part: Part) -> (Arc<Jwks>, Self) {
        let jwks = Arc::new(Jwks::new());
        part.not_ready(NOT_READ);
        let refresh = Self {
            source,
            jwks: jwks.clone(),
            part,
            last: Vec::new(),
            failures: 0,
        };
        (jwks, refresh)
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // A reading that began by itself has answered whoever asked before it.
                () = self.jwks.asked.notified() => if self.jwks.lock().reading != Reading::Asked { continue },
                () = sleep_until(next) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                pause = self.renew() => next = Instant::now() + pause,
            }
        }
    }

    /// Reads once. Returns the pause until the next time.
    async fn renew(&mut self) -> Duration {
        self.jwks.begin();
        let read = match timeout(LIMIT, self.source.read()).await {
            Ok(read) => read,
            Err(_) => Err(JwksError::Slow),
        };
        match read.and_then(|bytes| self.take(bytes)) {
            Ok(changed) => {
                if self.failures > 0 {
                    info!("the keys of tokens can be read again");
                }
                self.failures = 0;
                self.part.ready();
                self.jwks.finish(Ok(changed));
            }
            Err(error) => {
                // A file is looked at too often to say it each time.
                if self.failures == 0 || matches!(self.source, JwksSource::Url { .. }) {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the keys of tokens cannot be read; those that are known stay"
                    );
                }
                self.failures = self.failures.saturating_add(1);
                self.jwks.finish(Err(()));
            }
        }
        match &self.source {
            JwksSource::File(_) => FILE_PAUSE,
            JwksSource::Url { every, .. } if self.failures == 0 => *every,
            JwksSource::Url { every, .. } => retry(self.failures).min(*every),
        }
    }

    /// None where nothing has changed.
    fn take(&mut self, bytes: Vec<u8>) -> Result<Option<Arc<KeySet>>, JwksError> {
        if bytes == self.last {
            return Ok(None);
        }
        let set = KeySet::from_jwks(&bytes)?;
        if !set.skipped.is_empty() {
            let keys = set.skipped.join("; ");
            warn!("keys that cannot be used were left out of the set: {keys}");
        }
        self.last = bytes;
        Ok(Some(Arc::new(set)))
    }
}

/// What `/readyz` says.
const NOT_READ: &str = "the keys of tokens have not been read yet";

fn retry(failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(16);
    FIRST_RETRY.saturating_mul(doubled).min(LAST_RETRY)
}

impl JwksSource {
    async fn read(&self) -> Result<Vec<u8>, JwksError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.map_err(|error| JwksError::File(io::Error::other(error)))?
            }
            Self::Url { url, .. } => url.fetch(SIZE_LIMIT).await,
        }
    }
}

/// Reads a set once and says whether it can be used.
pub fn check_file(path: &Path) -> Result<(), JwksError> {
    KeySet::from_jwks(&read_file(path)?)?;
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>, JwksError> {
    let file = File::open(path).map_err(JwksError::File)?;
    let mut bytes = Vec::new();
    let mut bounded = file.take(SIZE_LIMIT as u64 + 1);
    bounded.read_to_end(&mut bytes).map_err(JwksError::File)?;
    if bytes.len() > SIZE_LIMIT {
        return Err(JwksError::Large);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
