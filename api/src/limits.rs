//! What one user, one address, and all requests together may take of this node.
//!
//! Each limit refuses with a code of its own and says when to come again, and each refusal is counted
//! ([`metrics`]). All of them hold for one node: behind a proxy that spreads clients over several,
//! a client may have as much of each. Only reads wait, a bounded number for a bounded time: what else waits would hold
//! what is scarce.
//!
//! | what | refusal |
//! |---|---|
//! | the connections of all clients, and those of an address ([`server`](crate::server)) | `too_many_connections` |
//! | the sends of a user in a second, and the reads | `rate_limited` |
//! | the conversations that a user begins in an hour | `too_many_conversations` |
//! | the reads of a user and of an address that are at work at a time | `overloaded`, after a wait |
//! | the streams, long polls and sockets of a user | `too_many_connections` |
//! | those of an address, also behind a proxy that names it | `too_many_connections` |
//! | the bytes that are on their way in, and those on their way out: of a user, an address and all | `overloaded` |
//! | the head of a request | `headers_too_large` |
//!
//! The limits of an address are there for what comes before it is known who calls, so they are generous: many people
//! share an address. They do not hold for an address that is itself a trusted proxy: that is what everybody has behind a
//! proxy that does not say for whom it speaks, and the limit of one would be the limit of all.

mod address;
mod bodies;
mod beginnings;
mod budgets;
mod connections;
mod counts;
mod head;
mod rates;
mod reads;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::http::HeaderMap;
use chat_domain::ids::UserId;

pub(crate) use self::counts::{Counts, Place as CountsPlace};
pub use self::{
    address::{ClientAddress, TrustedProxies},
    beginnings::Beginning,
    bodies::{read_body, refuse_encoding},
    budgets::{FREE, Holder, Room},
    connections::Connection,
    head::{HEAD_LIMIT, bound_head, require_host},
    reads::{Reading, WAITING_PER_ADDRESS, WAITING_PER_USER},
};
use self::{beginnings::Beginnings, budgets::Budget, connections::Connections, rates::Rate, reads::Reads};
use crate::{
    door::Door,
    metrics::{self, Way},
    problem::Problem,
};

#[derive(Debug, Clone)]
pub struct LimitsOptions {
    /// What a user may send for long.
    pub sends_per_second: u32,
    /// What a user may send at once, after a while of silence.
    pub sends_burst: u32,
    /// How often a user may read, in the same way.
    pub reads_per_second: u32,
    pub reads_burst: u32,
    /// Connections to the database that all reads share.
    pub reads_at_work: usize,
    /// How many conversations a user may begin in an hour.
    pub new_conversations: usize,
    pub connections_per_user: usize,
    pub connections_per_address: usize,
    pub trusted_proxies: TrustedProxies,
    /// Bytes of all bodies that are read at a time. Four of the largest always fit.
    pub bodies: usize,
    /// Bytes of all answers and events that are not written yet. Four of the largest always fit.
    pub answers: usize,
    /// Bytes of the largest body, and of the largest answer.
    pub largest: usize,
}

/// Clones share what is taken.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    sends: Rate,
    reads: Reads,
    beginnings: Arc<Beginnings>,
    connections: Connections,
    trusted_proxies: TrustedProxies,
    bytes_in: Arc<Budget>,
    bytes_out: Arc<Budget>,
}

impl Limits {
    pub fn new(options: LimitsOptions) -> Self {
        Self(Arc::new(Shared {
            sends: Rate::new(options.sends_per_second, options.sends_burst),
            reads: Reads::new(
                Rate::new(options.reads_per_second, options.reads_burst),
                options.reads_at_work,
            ),
            beginnings: Beginnings::new(options.new_conversations),
            connections: Connections::new(options.connections_per_user, options.connections_per_address),
            trusted_proxies: options.trusted_proxies,
            bytes_in: Budget::new(Way::In, options.bodies, options.largest),
            bytes_out: Budget::new(Way::Out, options.answers, options.largest),
        }))
    }

    /// Before each send, one that repeats another included: what a repeated send costs is a send.
    pub fn admit_send(&self, user: &UserId) -> Result<(), Problem> {
        self.0.sends.admit(user)?;
        metrics::send_admitted();
        Ok(())
    }

    /// A send on its way to the writer, which may begin a conversation or not.
    pub fn begin_conversation(&self, user: &UserId, receiver: &UserId) -> Beginning {
        self.0.beginnings.send(user, receiver)
    }

    /// Before each read, on whatever door.
    pub fn admit_read(&self, user: &UserId) -> Result<(), Problem> {
        self.0.reads.admit(user)
    }

    /// Waits for a turn at the database.
    pub async fn begin_read(&self, holder: &Holder) -> Result<Reading, Problem> {
        self.0.reads.begin(holder).await
    }

    /// Who has something, for all that is counted by user and address.
    pub fn holder(&self, address: IpAddr, user: Option<&UserId>) -> Holder {
        Holder {
            user: user.cloned(),
            address: self.counted(address),
        }
    }

    /// For bytes that come in or go out; it holds none yet.
    pub fn room(&self, way: Way, holder: &Holder) -> Room {
        let budget = match way {
            Way::In => &self.0.bytes_in,
            Way::Out => &self.0.bytes_out,
        };
        Room::new(budget, holder.clone())
    }

    /// For an answer of so many bytes.
    pub fn answer(&self, holder: &Holder, bytes: usize) -> Result<Room, Problem> {
        let mut room = self.room(Way::Out, holder);
        room.hold(bytes)?;
        Ok(room)
    }

    /// Takes a place for a stream, a long poll or a socket, before it is known whose it is.
    pub fn connect(&self, door: Door, address: IpAddr) -> Result<Connection, Problem> {
        self.0.connections.connect(door, self.counted(address))
    }

    /// Where a user has no place left for one more connection, this is asked to give one back. Whoever says so first is.
    pub fn make_room_by(&self, make_room: impl Fn(&UserId) + Send + Sync + 'static) {
        self.0.connections.make_room_by(make_room);
    }

    /// As [`connect`](Self::connect), where it is known from the beginning whose it is.
    pub fn connect_user(&self, door: Door, address: IpAddr, user: &UserId) -> Result<Connection, Problem> {
        let mut connection = self.connect(door, address)?;
        connection.of_user(user)?;
        Ok(connection)
    }

    /// What an address is counted under: nothing for a trusted proxy. Who has one IPv6 address has all of its /64.
    pub fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        if self.0.trusted_proxies.trust(address) {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        })
    }

    /// For whom a request is, by its peer and what its proxies say.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.0.trusted_proxies.client(peer, headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_ipv6_addresses_of_one_network_are_one_and_a_trusted_proxy_has_no_limit() {
        let limits = Limits::new(LimitsOptions {
            connections_per_address: 1,
            trusted_proxies: "192.0.2.0/24".parse().unwrap(),
            ..testing::limits()
        });
        let connect = |address: &str| limits.connect(Door::Sse, address.parse().unwrap());
        let _held = connect("2001:db8:0:1::1").ok().unwrap();
        assert!(connect("2001:db8:0:1:ffff::9").is_err());
        assert!(connect("2001:db8:0:2::1").is_ok());
        let proxy: Vec<_> = (0..9).map(|_| connect("192.0.2.1")).collect();
        assert!(proxy.iter().all(Result::is_ok));
    }
}
