//! Reads of history and lists: how often a user may ask, and how many of one user and of one address are at work at a
//! time. The others wait their turn, in the order in which they came.
//!
//! All reads share the connections to the database. A user has a quarter of them and an address half: whoever asks for
//! much at once waits for himself, and everybody else finds a connection free.

use std::{collections::HashMap, hash::Hash, net::IpAddr, sync::Arc, time::Duration};

use chat_domain::ids::UserId;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Holder,
    counts::{Counts, Place},
    rates::Rate,
};
use crate::{
    metrics::{self, ReadState},
    problem::{Code, Problem},
};

/// Reads of one user that may wait for those before them.
pub const WAITING_PER_USER: usize = 128;

/// Reads from one address that may wait.
pub const WAITING_PER_ADDRESS: usize = 1024;

/// How long a read waits for its turn: as long as for a connection to the database.
const TURN_LIMIT: Duration = Duration::from_secs(3);

pub(super) struct Reads {
    rate: Rate,
    users: Arc<Turns<UserId>>,
    addresses: Arc<Turns<IpAddr>>,
}

/// Held while something is read.
pub struct Reading {
    _user: Option<Turn<UserId>>,
    _address: Option<Turn<IpAddr>>,
    state: ReadState,
}

impl Reads {
    /// `connections`: to the database.
    pub(super) fn new(rate: Rate, connections: usize) -> Self {
        Self {
            rate,
            users: Turns::new((connections / 4).max(1), WAITING_PER_USER),
            addresses: Turns::new((connections / 2).max(1), WAITING_PER_ADDRESS),
        }
    }

    pub(super) fn admit(&self, user: &UserId) -> Result<(), Problem> {
        self.rate.admit(user)
    }

    /// Waits for a turn.
    pub(super) async fn begin(&self, holder: &Holder) -> Result<Reading, Problem> {
        let full = |whose| {
            Problem::new(Code::Overloaded).detail(format!("Too many reads {whose} wait for one another."))
        };
        let mut reading = Reading::waiting();
        let turns = async {
            if let Some(user) = holder.user.clone() {
                let turn = self.users.wait(user).await;
                reading._user = Some(turn.ok_or_else(|| full("of one user"))?);
            }
            if let Some(address) = holder.address {
                let turn = self.addresses.wait(address).await;
                reading._address = Some(turn.ok_or_else(|| full("from one address"))?);
            }
            Ok(())
        };
        timeout(TURN_LIMIT, turns)
            .await
            .unwrap_or_else(|_| Err(full("before this one")))?;
        reading.begun();
        Ok(reading)
    }
}

impl Reading {
    fn waiting() -> Self {
        metrics::reads(ReadState::Waiting, 1.0);
        Self {
            _user: None,
            _address: None,
            state: ReadState::Waiting,
        }
    }

    fn begun(&mut self) {
        metrics::reads(ReadState::Waiting, -1.0);
        metrics::reads(ReadState::AtWork, 1.0);
        self.state = ReadState::AtWork;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        metrics::reads(self.state, -1.0);
    }
}

/// So many of each may be at work, and so many more may wait.
struct Turns<K> {
    at_work: usize,
    all: Arc<Counts<K>>,
    /// Of those who are here.
    queues: Mutex<HashMap<K, Arc<Semaphore>>>,
}

struct Turn<K: Eq + Hash> {
    turns: Arc<Turns<K>>,
    key: K,
    queue: Arc<Semaphore>,
    /// None while it waits.
    permit: Option<OwnedSemaphorePermit>,
    _place: Place<K>,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    fn new(at_work: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            at_work,
            all: Arc::new(Counts::new(at_work + waiting)),
            queues: Mutex::default(),
        })
    }

    /// Nothing where too many wait already.
    async fn wait(self: &Arc<Self>, key: K) -> Option<Turn<K>> {
        let place = self.all.take(key.clone(), 1)?;
        let queue = {
            let mut queues = self.queues();
            let queue = queues.entry(key.clone());
            queue
                .or_insert_with(|| Arc::new(Semaphore::new(self.at_work)))
                .clone()
        };
        let mut turn = Turn {
            turns: self.clone(),
            key,
            queue,
            permit: None,
            _place: place,
        };
        turn.permit = Some(turn.queue.clone().acquire_owned().await.ok()?);
        Some(turn)
    }
}

impl<K> Turns<K> {
    fn queues(&self) -> MutexGuard<'_, HashMap<K, Arc<Semaphore>>> {
        self.queues.lock()
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut queues = self.turns.queues();
        // The table's and this one: nobody else is there, and nobody comes while it is locked.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    fn holder(user: &str, address: &str) -> Holder {
        Holder {
            user: Some(UserId::parse(user).unwrap()),
            address: Some(address.parse().unwrap()),
        }
    }

    fn reads() -> Reads {
        Reads::new(Rate::new(1_000_000, 1_000_000), 8)
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_a_quarter_of_the_connections_and_an_address_half() {
        let reads = reads();
        let begin = |user, address| reads.begin(&holder(user, address)).now_or_never();
        let mut of_alice: Vec<_> = (0..2).map(|_| begin("alice", "192.0.2.1").unwrap()).collect();
        assert!(begin("alice", "192.0.2.2").is_none());
        let _of_bob: Vec<_> = (0..2).map(|_| begin("bob", "192.0.2.1").unwrap()).collect();
        assert!(begin("carol", "192.0.2.1").is_none());
        assert!(begin("carol", "192.0.2.2").is_some());
        of_alice.pop();
        assert!(begin("alice", "192.0.2.1").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn reads_of_one_user_wait_their_turn_and_too_many_are_refused() {
        let reads = reads();
        let alice = holder("alice", "192.0.2.1");
        let all = (0..WAITING_PER_USER + 2 + 5).map(|_| async {
            let reading = reads.begin(&alice).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
            drop(reading);
            Ok(())
        });
        let all = join_all(all).await;
        let refused: Vec<Problem> = all.into_iter().filter_map(Result::err).collect();
        assert_eq!(refused.len(), 5);
        for problem in refused {
            assert_eq!((problem.code, problem.retry_after), (Code::Overloaded, Some(1)));
        }
        assert!(reads.users.queues().is_empty() && reads.addresses.queues().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_for_a_bounded_time() {
        let reads = reads();
        let alice = holder("alice", "192.0.2.1");
        let _held = (reads.begin(&alice).await, reads.begin(&alice).await);
        let waited = tokio::time::Instant::now();
        let refused = reads.begin(&alice).await.err().unwrap();
        assert_eq!((refused.code, waited.elapsed()), (Code::Overloaded, TURN_LIMIT));
    }
}
