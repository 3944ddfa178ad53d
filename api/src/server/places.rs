//! How many connections there may be, in all and of one address, and which of them makes room for another.
//!
//! A connection takes its place when it is accepted, before it has asked for anything. While a request is dealt with,
//! and once it is a websocket, the place is its own. A connection that is idle, because it has not asked yet or because
//! its last answer is written, keeps its place only as long as nobody else needs it: the one that has been idle for
//! longest is cut, of the address that is full, or of all where all are full. Idle connections of trusted proxies come
//! last: a proxy may just be sending somebody's request on one of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::Router;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    limits::{self, Counts, Limits},
    metrics::{self, Cut},
};

/// How many connections beyond the limit are answered at a time.
pub const REFUSALS: usize = 32;

/// How many connections there may be, and what those get that come after.
#[derive(Clone)]
pub struct Places {
    most: usize,
    free: Arc<Semaphore>,
    of_addresses: Option<OfAddresses>,
    idle: Arc<Mutex<Idle>>,
    refusals: Arc<Semaphore>,
    pub(super) full: Router,
}

#[derive(Clone)]
struct OfAddresses {
    limits: Limits,
    taken: Arc<Counts<IpAddr>>,
}

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// An address that has so many and no more.
    Counted(IpAddr),
    /// Everybody may be behind it.
    Proxy,
    /// The operator, who is not counted.
    Anybody,
}

impl Places {
    /// `full` answers whoever finds no place.
    pub fn new(connections: usize, full: Router) -> Self {
        let most = connections.min(Semaphore::MAX_PERMITS);
        Self {
            most,
            free: Arc::new(Semaphore::new(most)),
            of_addresses: None,
            idle: Arc::default(),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            full,
        }
    }

    /// With so many places for each address; `limits` knows which addresses are counted.
    #[must_use]
    pub fn limit_addresses(mut self, most: usize, limits: Limits) -> Self {
        self.of_addresses = Some(OfAddresses {
            limits,
            taken: Arc::new(Counts::new(most)),
        });
        self
    }

    pub fn most(&self) -> usize {
        self.most
    }

    pub fn taken(&self) -> usize {
        self.most.saturating_sub(self.free.available_permits())
    }

    pub(super) fn peer(&self, peer: SocketAddr) -> Peer {
        match &self.of_addresses {
            None => Peer::Anybody,
            Some(addresses) => match addresses.limits.counted(peer.ip().to_canonical()) {
                Some(address) => Peer::Counted(address),
                None => Peer::Proxy,
            },
        }
    }

    /// A place, if there is one or an idle connection makes room. Called by the one task that accepts connections, so
    /// nobody else takes the room that was made.
    pub(super) async fn take(&self, peer: Peer) -> Option<Place> {
        let of_address = match (&self.of_addresses, peer) {
            (Some(addresses), Peer::Counted(address)) => {
                let mut place = addresses.taken.take(address, 1);
                if place.is_none() && self.make_room(Some(address)).await {
                    place = addresses.taken.take(address, 1);
                }
                Some(place?)
            }
            _ => None,
        };
        let mut free = self.free.clone().try_acquire_owned();
        if free.is_err() && self.make_room(None).await {
            free = self.free.clone().try_acquire_owned();
        }
        let gone = CancellationToken::new();
        let seat = Arc::new(Seat {
            peer,
            idle: self.idle.clone(),
            state: Mutex::new(State::Leaving),
            cut: CancellationToken::new(),
            gone: gone.clone(),
        });
        let place = Place {
            _all: free.ok()?,
            _of_address: of_address,
            seat: seat.clone(),
            _gone: gone.drop_guard(),
        };
        lock(&self.idle).add(&seat);
        Some(place)
    }

    /// Cuts the connection that has been idle for longest, of this address or of all. Returns once it is gone, or
    /// `false` where there is none.
    async fn make_room(&self, address: Option<IpAddr>) -> bool {
        let Some(seat) = lock(&self.idle).take_oldest(address) else {
            return false;
        };
        metrics::cut(Cut::MadeRoom);
        seat.cut.cancel();
        seat.gone.cancelled().await;
        true
    }

    /// A place among those who are refused; whoever has had one for longest gives his up where there is no other.
    pub(super) async fn refuse(&self, refused: &mut VecDeque<CancellationToken>) -> Option<Refusal> {
        refused.retain(|cut| !cut.is_cancelled());
        if self.refusals.available_permits() == 0
            && let Some(oldest) = refused.pop_front()
        {
            oldest.cancel();
        }
        let place = self.refusals.clone().acquire_owned().await.ok()?;
        let cut = CancellationToken::new();
        refused.push_back(cut.clone());
        Some(Refusal { _place: place, cut })
    }
}

/// Held as long as a connection is open for which there is no place.
pub(super) struct Refusal {
    _place: OwnedSemaphorePermit,
    pub(super) cut: CancellationToken,
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

/// Held as long as a connection is open. Dropped, it gives the place back.
pub(super) struct Place {
    _all: OwnedSemaphorePermit,
    _of_address: Option<limits::CountsPlace<IpAddr>>,
    seat: Arc<Seat>,
    // The last one: whoever waits for it finds the others given back.
    _gone: DropGuard,
}

impl Place {
    pub(super) fn seat(&self) -> Arc<Seat> {
        self.seat.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut idle = lock(&self.seat.idle);
        if let State::Idle(number) = std::mem::replace(&mut *lock(&self.seat.state), State::Leaving) {
            idle.remove(&self.seat, number);
        }
    }
}

/// What the connection and the table of idle ones know of a place. The state changes under the table's lock.
pub(super) struct Seat {
    peer: Peer,
    idle: Arc<Mutex<Idle>>,
    state: Mutex<State>,
    cut: CancellationToken,
    gone: CancellationToken,
}

enum State {
    /// Since when, in the table's numbers.
    Idle(u64),
    /// With so many requests.
    Busy(usize),
    /// It was told to make room, or is gone.
    Leaving,
}

/// Held while a request is dealt with.
pub(super) struct Busy(Option<Arc<Seat>>);

impl Seat {
    /// Whoever holds it is not asked to make room. Nothing where it was asked to already.
    pub(super) fn begin(self: &Arc<Self>) -> Option<Busy> {
        let mut idle = lock(&self.idle);
        let mut state = lock(&self.state);
        *state = match *state {
            State::Idle(number) => {
                idle.remove(self, number);
                State::Busy(1)
            }
            State::Busy(requests) => State::Busy(requests + 1),
            State::Leaving => return None,
        };
        Some(Busy(Some(self.clone())))
    }

    /// Another connection needs the place.
    pub(super) async fn is_cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Busy {
    /// For as long as the connection is there.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Some(seat) = self.0.take() else { return };
        let mut idle = lock(&seat.idle);
        let mut state = lock(&seat.state);
        match *state {
            State::Busy(1) => {
                drop(state);
                idle.add(&seat);
            }
            State::Busy(requests) => *state = State::Busy(requests - 1),
            State::Idle(_) | State::Leaving => {}
        }
    }
}

/// Those that are idle, by how long they have been.
#[derive(Default)]
struct Idle {
    last: u64,
    /// Those of proxies after all others.
    all: BTreeMap<(bool, u64), Arc<Seat>>,
    of_addresses: BTreeSet<(IpAddr, u64)>,
}

impl Idle {
    fn add(&mut self, seat: &Arc<Seat>) {
        self.last += 1;
        *lock(&seat.state) = State::Idle(self.last);
        self.all
            .insert((seat.peer == Peer::Proxy, self.last), seat.clone());
        if let Peer::Counted(address) = seat.peer {
            self.of_addresses.insert((address, self.last));
        }
    }

    fn remove(&mut self, seat: &Seat, number: u64) {
        self.all.remove(&(seat.peer == Peer::Proxy, number));
        if let Peer::Counted(address) = seat.peer {
            self.of_addresses.remove(&(address, number));
        }
    }

    /// The one that has been idle for longest, which is to leave.
    fn take_oldest(&mut self, address: Option<IpAddr>) -> Option<Arc<Seat>> {
        let (key, seat) = match address {
            None => self.all.iter().next()?,
            Some(address) => {
                let mut own = self.of_addresses.range((address, 0)..=(address, u64::MAX));
                self.all.get_key_value(&(false, own.next()?.1))?
            }
        };
        let (number, seat) = (key.1, seat.clone());
        self.remove(&seat, number);
        *lock(&seat.state) = State::Leaving;
        Some(seat)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::LimitsOptions, testing};

    const HERE: [u8; 4] = [192, 0, 2, 1];
    const THERE: [u8; 4] = [198, 51, 100, 7];
    const PROXY: [u8; 4] = [10, 0, 0, 1];

    fn places(most: usize, of_an_address: usize) -> Places {
        let limits = Limits::new(LimitsOptions {
            trusted_proxies: "10.0.0.0/8".parse().unwrap(),
            ..testing::limits()
        });
        Places::new(most, Router::new()).limit_addresses(of_an_address, limits)
    }

    /// A connection as the listener has it: it ends when it is told to.
    struct Connected {
        seat: Arc<Seat>,
        ended: tokio::task::JoinHandle<()>,
    }

    impl Connected {
        fn is_cut(&self) -> bool {
            self.seat.cut.is_cancelled()
        }
    }

    async fn connect(places: &Places, address: [u8; 4]) -> Option<Connected> {
        let place = places.take(places.peer(SocketAddr::from((address, 1)))).await?;
        let seat = place.seat();
        let ended = tokio::spawn({
            let seat = seat.clone();
            async move {
                seat.is_cut().await;
                drop(place);
            }
        });
        Some(Connected { seat, ended })
    }

    #[tokio::test]
    async fn of_an_address_that_is_full_the_connection_that_was_idle_for_longest_makes_room() {
        let places = places(8, 3);
        let first = connect(&places, HERE).await.unwrap();
        let second = connect(&places, HERE).await.unwrap();
        let third = connect(&places, HERE).await.unwrap();
        let other = connect(&places, THERE).await.unwrap();
        // It has asked, and is idle again, for less time than the others.
        drop(first.seat.begin().unwrap());
        let busy = second.seat.begin().unwrap();
        let fourth = connect(&places, HERE).await.unwrap();
        assert!(third.is_cut(), "it was idle for longest");
        assert!(third.seat.begin().is_none(), "what it asks now comes too late");
        assert!(!first.is_cut() && !second.is_cut() && !other.is_cut());
        let fifth = connect(&places, HERE).await.unwrap();
        assert!(first.is_cut());
        let held: Vec<_> = [&fourth, &fifth].map(|held| held.seat.begin().unwrap()).into();
        assert!(connect(&places, HERE).await.is_none(), "none of them is idle");
        assert!(connect(&places, THERE).await.is_some());
        assert_eq!(places.taken(), 5);
        drop((busy, held));
        assert!(connect(&places, HERE).await.is_some() && second.is_cut());
        // What was cut is gone, and has given everything back.
        third.ended.await.unwrap();
    }

    #[tokio::test]
    async fn where_all_places_are_taken_idle_connections_make_room_and_those_of_proxies_last() {
        let places = places(3, 3);
        let proxy = connect(&places, PROXY).await.unwrap();
        let first = connect(&places, HERE).await.unwrap();
        let second = connect(&places, THERE).await.unwrap();
        let third = connect(&places, [203, 0, 113, 5]).await.unwrap();
        assert!(first.is_cut() && !proxy.is_cut());
        let busy = [&second, &third].map(|held| held.seat.begin().unwrap());
        let fourth = connect(&places, HERE).await.unwrap();
        assert!(proxy.is_cut(), "nobody else is idle");
        let [one, other] = busy;
        let socket = fourth.seat.begin().unwrap();
        assert!(connect(&places, PROXY).await.is_none());
        // A websocket is never idle; the others are when their requests have ended.
        socket.keep();
        drop((one, other));
        assert!(connect(&places, HERE).await.is_some() && connect(&places, HERE).await.is_some());
        assert!(second.is_cut() && third.is_cut() && !fourth.is_cut());
    }

    #[tokio::test]
    async fn a_place_is_given_back_whatever_its_state_and_nothing_of_it_is_left() {
        let places = places(2, 1);
        for _ in 0..5 {
            let peer = places.peer(SocketAddr::from((HERE, 1)));
            let idle = places.take(peer).await.unwrap();
            drop(idle);
            let busy = places.take(peer).await.unwrap();
            let request = busy.seat().begin().unwrap();
            drop(busy);
            drop(request);
        }
        assert_eq!(places.taken(), 0);
        let idle = lock(&places.idle);
        assert!(idle.all.is_empty() && idle.of_addresses.is_empty());
    }
}
