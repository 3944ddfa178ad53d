//! What is open at a time: a stream while it lives, a long poll while it waits, a socket.io session.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use chat_domain::ids::UserId;

use super::{
    Door,
    counts::{Counts, Place},
};
use crate::{
    metrics,
    problem::{Code, Problem},
};

pub(super) struct Connections {
    users: Arc<Users>,
    addresses: Arc<Counts<IpAddr>>,
}

struct Users {
    counts: Arc<Counts<UserId>>,
    make_room: OnceLock<MakeRoom>,
}

/// Gives places of this user back that are of no use, if there are any.
type MakeRoom = Box<dyn Fn(&UserId) + Send + Sync>;

/// The places of one connection. Dropped, it gives them back.
pub struct Connection {
    door: Door,
    users: Arc<Users>,
    user: Option<Place<UserId>>,
    _address: Option<Place<IpAddr>>,
}

impl Connections {
    pub(super) fn new(per_user: usize, per_address: usize) -> Self {
        Self {
            users: Arc::new(Users {
                counts: Arc::new(Counts::new(per_user)),
                make_room: OnceLock::new(),
            }),
            addresses: Arc::new(Counts::new(per_address)),
        }
    }

    /// Who is asked for a place where a user has none left.
    pub(super) fn make_room_by(&self, make_room: impl Fn(&UserId) + Send + Sync + 'static) {
        let _ = self.users.make_room.set(Box::new(make_room));
    }

    /// Without an address: one that is not limited.
    pub(super) fn connect(&self, door: Door, address: Option<IpAddr>) -> Result<Connection, Problem> {
        let place = match address {
            Some(address) => {
                let full = || Problem::new(Code::TooManyConnections).detail("Too many from one address.");
                Some(self.addresses.take(address, 1).ok_or_else(full)?)
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

impl Users {
    fn take(&self, user: &UserId) -> Option<Place<UserId>> {
        let take = || self.counts.take(user.clone(), 1);
        take().or_else(|| {
            self.make_room.get()?(user);
            take()
        })
    }
}

impl Connection {
    /// Takes a place of this user's, once it is known whose connection this is.
    pub fn of_user(&mut self, user: &UserId) -> Result<(), Problem> {
        let full = || Problem::new(Code::TooManyConnections).detail("Too many of one user.");
        self.user = Some(self.users.take(user).ok_or_else(full)?);
        Ok(())
    }

    /// Gives the place of its user back: nobody is connected over it any more.
    pub fn of_nobody(&mut self) {
        self.user = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        metrics::disconnected(self.door);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
    fn a_place_of_no_use_is_given_back_before_a_user_is_refused() {
        let connections = Connections::new(1, 9);
        let open = |name| {
            let mut connection = connect(&connections, "192.0.2.1").unwrap();
            connection.of_user(&user(name)).map(|()| connection)
        };
        let useless = Arc::new(Mutex::new(None));
        connections.make_room_by({
            let useless = useless.clone();
            move |full| {
                assert_eq!(full, &user("alice"));
                drop(useless.lock().unwrap().take());
            }
        });
        *useless.lock().unwrap() = open("alice").ok();
        let _other = open("bob").ok().unwrap();
        let newcomer = open("alice");
        assert!(newcomer.is_ok());
        assert!(open("alice").is_err(), "there is none left of no use");
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
}
