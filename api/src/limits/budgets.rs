//! The bytes that a user, an address and everybody have on their way in and out of this node.
//!
//! Each body, frame, page and event is bounded by itself; without this, there could be as many of them as there are
//! connections. What is counted is counted as it comes and until it has gone: a body grows with its bytes, whatever its
//! head announced, and an answer is counted until its last byte is written.
//!
//! The first [`FREE`] bytes of each are not counted: they are part of what a connection costs, and connections are
//! counted. So what is small passes however much anybody else holds. Of what is counted, a user has a quarter and an
//! address half: one of either alone never takes what all others need.

use std::{net::IpAddr, sync::Arc};

use axum::body::Bytes;
use chat_domain::ids::UserId;

use super::counts::Counts;
use crate::{
    metrics::{self, Way},
    problem::{Code, Problem},
};

/// Bytes of each body, answer and event that anybody may always have.
pub const FREE: usize = 16 << 10;

/// Of the largest, so many fit at least, whatever is configured.
const LARGEST_LEAST: usize = 4;

/// Who has something: as far as it is known, and as far as it is limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holder {
    pub user: Option<UserId>,
    /// Not that of a trusted proxy.
    pub(super) address: Option<IpAddr>,
}

pub(super) struct Budget {
    way: Way,
    users: Counts<UserId>,
    addresses: Counts<IpAddr>,
    all: Counts<()>,
}

impl Budget {
    pub(super) fn new(way: Way, all: usize, largest: usize) -> Arc<Self> {
        let all = all.max(LARGEST_LEAST * largest);
        Arc::new(Self {
            way,
            users: Counts::new(all / 4),
            addresses: Counts::new(all / 2),
            all: Counts::new(all),
        })
    }

    fn take(&self, holder: &Holder, bytes: usize) -> Result<(), Problem> {
        let Holder { user, address } = holder;
        if user.as_ref().is_some_and(|user| !self.users.add(user, bytes)) {
            return Err(refusal(self.way, "by one user"));
        }
        if address.is_some_and(|address| !self.addresses.add(&address, bytes)) {
            self.give_back_of_user(user.as_ref(), bytes);
            return Err(refusal(self.way, "from one address"));
        }
        if !self.all.add(&(), bytes) {
            self.give_back_of_user(user.as_ref(), bytes);
            self.give_back_of_address(*address, bytes);
            return Err(refusal(self.way, "by all together"));
        }
        metrics::took(self.way, bytes);
        Ok(())
    }

    fn give_back(&self, holder: &Holder, bytes: usize) {
        self.give_back_of_user(holder.user.as_ref(), bytes);
        self.give_back_of_address(holder.address, bytes);
        self.all.give_back(&(), bytes);
        metrics::gave_back(self.way, bytes);
    }

    fn give_back_of_user(&self, user: Option<&UserId>, bytes: usize) {
        if let Some(user) = user {
            self.users.give_back(user, bytes);
        }
    }

    fn give_back_of_address(&self, address: Option<IpAddr>, bytes: usize) {
        if let Some(address) = address {
            self.addresses.give_back(&address, bytes);
        }
    }
}

/// What one thing takes of a budget. Dropped, it is given back.
pub struct Room {
    budget: Arc<Budget>,
    holder: Holder,
    bytes: usize,
    counted: usize,
}

impl Room {
    pub(super) fn new(budget: &Arc<Budget>, holder: Holder) -> Self {
        Self {
            budget: budget.clone(),
            holder,
            bytes: 0,
            counted: 0,
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds so many bytes from now on, be it more or fewer than before. Where that is refused, it holds what it did.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Problem> {
        let counted = bytes.saturating_sub(FREE);
        if counted > self.counted {
            self.budget.take(&self.holder, counted - self.counted)?;
        } else if counted < self.counted {
            self.budget.give_back(&self.holder, self.counted - counted);
        }
        (self.bytes, self.counted) = (bytes, counted);
        Ok(())
    }

    /// Bytes that are counted until nobody has them any more.
    pub fn around(self, bytes: Vec<u8>) -> Bytes {
        struct Held {
            bytes: Vec<u8>,
            _room: Room,
        }

        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }

        Bytes::from_owner(Held { bytes, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.budget.give_back(&self.holder, self.counted);
        }
    }
}

fn refusal(way: Way, whose: &str) -> Problem {
    let what = match way {
        Way::In => "Too much is being sent at once",
        Way::Out => "Too much is waiting to be read",
    };
    Problem::new(Code::Overloaded).detail(format!("{what} {whose}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(user: &str, address: &str) -> Holder {
        Holder {
            user: Some(UserId::parse(user).unwrap()),
            address: Some(address.parse().unwrap()),
        }
    }

    fn take(budget: &Arc<Budget>, holder: Holder, bytes: usize) -> Result<Room, (Code, Option<u32>)> {
        let mut room = Room::new(budget, holder);
        let held = room.hold(FREE + bytes);
        held.map(|()| room)
            .map_err(|problem| (problem.code, problem.retry_after))
    }

    const REFUSED: Option<(Code, Option<u32>)> = Some((Code::Overloaded, Some(1)));

    #[test]
    fn a_user_has_a_quarter_an_address_half_and_all_together_the_whole() {
        for way in Way::ALL {
            let budget = Budget::new(way, 400, 1);
            let of_alice = take(&budget, holder("alice", "192.0.2.1"), 100).ok().unwrap();
            for address in ["192.0.2.1", "192.0.2.2"] {
                assert_eq!(take(&budget, holder("alice", address), 1).err(), REFUSED);
            }
            let of_bob = take(&budget, holder("bob", "192.0.2.1"), 100).ok().unwrap();
            assert_eq!(take(&budget, holder("carol", "192.0.2.1"), 1).err(), REFUSED);
            let rest =
                ["carol", "dave"].map(|user| take(&budget, holder(user, "192.0.2.2"), 100).ok().unwrap());
            for nobody in [Holder::default(), holder("erin", "192.0.2.3")] {
                assert_eq!(take(&budget, nobody, 1).err(), REFUSED);
            }
            // What was refused has taken nothing, and what is gone is given back to each.
            drop((of_alice, of_bob, rest));
            let again = ["alice", "bob"].map(|user| take(&budget, holder(user, "192.0.2.1"), 100).is_ok());
            assert_eq!(again, [true, true]);
            assert!(take(&budget, Holder::default(), 400).is_ok());
        }
    }

    #[test]
    fn what_is_small_passes_however_much_is_held() {
        let budget = Budget::new(Way::In, 400, 1);
        let _all = take(&budget, Holder::default(), 400).ok().unwrap();
        let mut small = Room::new(&budget, holder("alice", "192.0.2.1"));
        assert_eq!(small.hold(FREE), Ok(()));
        let refused = small.hold(FREE + 1).unwrap_err();
        assert_eq!((refused.code, small.bytes()), (Code::Overloaded, FREE));
    }

    #[test]
    fn room_grows_and_shrinks_with_what_it_is_for() {
        let budget = Budget::new(Way::Out, 400, 1);
        let mut room = take(&budget, Holder::default(), 300).ok().unwrap();
        assert_eq!(take(&budget, Holder::default(), 101).err(), REFUSED);
        room.hold(FREE + 200).unwrap();
        let other = take(&budget, Holder::default(), 200).ok().unwrap();
        assert!(room.hold(FREE + 201).is_err());
        drop(other);
        assert!(room.hold(FREE + 400).is_ok());
        room.hold(0).unwrap();
        assert!(take(&budget, Holder::default(), 400).is_ok());
    }

    #[test]
    fn the_largest_always_fits_for_each_user() {
        let budget = Budget::new(Way::In, 1, 100);
        assert!(take(&budget, holder("alice", "192.0.2.1"), 100).is_ok());
    }

    #[test]
    fn bytes_are_counted_until_the_last_part_of_them_is_gone() {
        let budget = Budget::new(Way::Out, 400, 1);
        let room = take(&budget, Holder::default(), 400).ok().unwrap();
        let mut bytes = room.around(vec![7; 10]);
        let last = bytes.split_off(9);
        drop(bytes);
        assert_eq!(take(&budget, Holder::default(), 1).err(), REFUSED);
        assert_eq!(last[..], [7]);
        drop(last);
        assert!(take(&budget, Holder::default(), 400).is_ok());
    }
}
