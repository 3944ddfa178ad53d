//! What is open at a time: a stream while it lives, a long poll while it waits, a socket.io session.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chat_domain::ids::UserId;

use super::Door;
use crate::{
    metrics,
    problem::{Code, Problem},
};

pub(super) struct Connections {
    users: Arc<Counts<UserId>>,
    addresses: Arc<Counts<IpAddr>>,
}

/// The places of one connection. Dropped, it gives them back.
pub struct Connection {
    door: Door,
    users: Arc<Counts<UserId>>,
    user: Option<Place<UserId>>,
    _address: Option<Place<IpAddr>>,
}

impl Connections {
    pub(super) fn new(per_user: usize, per_address: usize) -> Self {
        Self {
            users: Arc::new(Counts::new(per_user)),
            addresses: Arc::new(Counts::new(per_address)),
        }
    }

    /// Without an address: one that is not limited.
    pub(super) fn connect(&self, door: Door, address: Option<IpAddr>) -> Result<Connection, Problem> {
        let place = match address {
            Some(address) => {
                let full = || Problem::new(Code::TooManyConnections).detail("Too many from one address.");
                Some(self.addresses.take(network(address)).ok_or_else(full)?)
            }
            None => None,
        };
        metrics::connected(door);
        Ok(Connection {
            door,
            users: self.users.clone(),
            user: None,
            _address: place,
        })
    }
}

impl Connection {
    /// Takes a place of this user's, once it is known whose connection this is.
    pub fn of_user(&mut self, user: &UserId) -> Result<(), Problem> {
        let full = || Problem::new(Code::TooManyConnections).detail("Too many of one user.");
        self.user = Some(self.users.take(user.clone()).ok_or_else(full)?);
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        metrics::disconnected(self.door);
    }
}

/// Who has one IPv6 address has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// How many places each has taken. Who has none is not in it.
struct Counts<K> {
    limit: usize,
    taken: Mutex<HashMap<K, usize>>,
}

struct Place<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    fn take(self: &Arc<Self>, key: K) -> Option<Place<K>> {
        let mut taken = self.taken();
        let count = taken.get(&key).copied().unwrap_or_default();
        if count >= self.limit {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        Some(Place {
            counts: self.clone(),
            key,
        })
    }
}

impl<K: Eq + Hash> Counts<K> {
    fn give_back(&self, key: &K) {
        let mut taken = self.taken();
        let Some(count) = taken.get_mut(key) else { return };
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
            // By half, so that it is seldom done.
            if taken.len() < taken.capacity() / 4 {
                let twice = taken.len() * 2;
                taken.shrink_to(twice);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.counts.give_back(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn connect(connections: &Connections, address: &str) -> Result<Connection, Code> {
        let connection = connections.connect(Door::Sse, Some(address.parse().unwrap()));
        connection.map_err(|problem| problem.code)
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let connections = Connections::new(1, 2);
        let first = connect(&connections, "192.0.2.1").ok();
        let _second = connect(&connections, "192.0.2.1").ok();
        assert_eq!(
            connect(&connections, "192.0.2.1").err(),
            Some(Code::TooManyConnections)
        );
        assert!(connect(&connections, "192.0.2.2").is_ok());
        drop(first);
        assert!(connect(&connections, "192.0.2.1").is_ok());
        for _ in 0..9 {
            assert!(connections.connect(Door::Sse, None).is_ok());
        }
    }

    #[test]
    fn the_ipv6_addresses_of_one_network_are_one() {
        let connections = Connections::new(1, 1);
        let _held = connect(&connections, "2001:db8:0:1::1").ok();
        assert!(connect(&connections, "2001:db8:0:1:ffff::9").is_err());
        assert!(connect(&connections, "2001:db8:0:2::1").is_ok());
    }

    #[test]
    fn a_user_has_so_many_places_from_wherever_and_gets_them_back() {
        let connections = Connections::new(2, 1);
        let open = |address| {
            let mut connection = connect(&connections, address).unwrap_or_else(|code| panic!("{code:?}"));
            let taken = connection.of_user(&user("alice"));
            (
                connection,
                taken.map_err(|problem| (problem.code, problem.retry_after)),
            )
        };
        let (first, taken) = open("192.0.2.1");
        assert_eq!(taken, Ok(()));
        let (_second, taken) = open("192.0.2.2");
        assert_eq!(taken, Ok(()));
        let (mut third, taken) = open("192.0.2.3");
        assert_eq!(taken, Err((Code::TooManyConnections, Some(5))));
        assert_eq!(third.of_user(&user("bob")), Ok(()));
        drop(first);
        assert_eq!(open("192.0.2.1").1, Ok(()));
    }

    #[test]
    fn who_is_gone_takes_no_memory() {
        let connections = Connections::new(1, 1);
        let open = (0..10_000u32).map(|n| {
            let address = IpAddr::V4(n.into());
            let mut connection = connections.connect(Door::SocketIo, Some(address)).ok().unwrap();
            connection.of_user(&user(&format!("user{n}"))).unwrap();
            connection
        });
        let open: Vec<_> = open.collect();
        assert_eq!(connections.users.taken().len(), 10_000);
        drop(open);
        assert!(connections.users.taken().is_empty() && connections.addresses.taken().is_empty());
        assert!(connections.users.taken().capacity() < 100);
        assert!(connections.addresses.taken().capacity() < 100);
    }
}
