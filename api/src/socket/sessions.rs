//! The sessions of engine.io that are there: which one a request is for, and which one its client has left behind.
//!
//! A session by polling has no connection that breaks when its client goes: it stays until a ping is not answered. A
//! client that begins anew meanwhile leaves one behind each time. They have places among those of their user, so when
//! there is none left, one on which no poll has hung for a while gives its place to the newcomer, on whatever door.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chat_domain::ids::UserId;
use engineioxide::{DisconnectReason, TransportType, socket::Sid};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{Place, Transport, flow::Flow};
use crate::metrics::{self, Cut};

/// How long no poll hangs on a session until it counts as left behind. A client polls again at once.
const ABANDONED: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<Sid, Arc<Transport>>>);

impl Sessions {
    pub(super) fn put(&self, transport: Arc<Transport>) {
        self.lock().insert(transport.id, transport);
    }

    pub(super) fn remove(&self, sid: Sid) {
        self.lock().remove(&sid);
    }

    /// With what is counted of it.
    pub(super) fn get(&self, sid: Sid) -> Option<(Arc<Transport>, Flow)> {
        let transport = self.lock().get(&sid)?.clone();
        let flow = Flow::of(&transport)?.clone();
        Some((transport, flow))
    }

    /// Ends the session of this user that was left behind first, if one was.
    pub(super) fn end_abandoned(&self, user: &UserId) {
        let abandoned = self
            .lock()
            .values()
            .filter(|transport| transport.transport_type() == TransportType::Polling)
            .filter(|transport| transport.data.lock().user.as_ref() == Some(user))
            .filter_map(|transport| Some((transport.data.polls.none_for()?, transport)))
            .filter(|(none_for, _)| *none_for >= ABANDONED)
            .max_by_key(|(none_for, _)| *none_for)
            .map(|(_, transport)| transport.clone());
        if let Some(transport) = abandoned {
            metrics::cut(Cut::Abandoned);
            Place::of_nobody(&transport);
            transport.close(DisconnectReason::TransportClose);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sid, Arc<Transport>>> {
        self.0.lock()
    }
}

/// The polls that hang on a session.
pub(super) struct Polls(Mutex<Hanging>);

struct Hanging {
    polls: usize,
    /// The last one ended then.
    ended: Instant,
}

/// Dropped when the poll is answered, or its client is gone.
pub(super) struct Poll<'a>(&'a Polls);

impl Default for Polls {
    fn default() -> Self {
        let ended = Instant::now();
        Self(Mutex::new(Hanging { polls: 0, ended }))
    }
}

impl Polls {
    pub(super) fn begin(&self) -> Poll<'_> {
        self.lock().polls += 1;
        Poll(self)
    }

    /// How long none has hung; nothing while one does.
    fn none_for(&self) -> Option<Duration> {
        let hanging = self.lock();
        (hanging.polls == 0).then(|| hanging.ended.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Hanging> {
        self.0.lock()
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let mut hanging = self.0.lock();
        hanging.polls -= 1;
        hanging.ended = Instant::now();
    }
}
