//! The memory of all bodies that are read at a time. Each is bounded by itself; without this, as many as there are
//! connections could come at once.
//!
//! A body takes its place before it comes, so whoever announces bodies and sends none holds places all the same, for as
//! long as a body may take. So an address has half of them at most: one alone cannot keep everybody from sending.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::counts::{Counts, Place};
use crate::problem::{Code, Problem};

/// Bodies of the largest size that fit at least, whatever is configured.
const BODIES_LEAST: usize = 4;

pub(super) struct Bodies {
    largest: usize,
    /// A permit is a byte.
    free: Arc<Semaphore>,
    addresses: Arc<Counts<IpAddr>>,
}

/// The place of a body. Dropped, it is given back.
pub struct BodyPlace {
    _all: OwnedSemaphorePermit,
    _address: Option<Place<IpAddr>>,
}

impl Bodies {
    pub(super) fn new(all: usize, largest: usize) -> Self {
        let all = all.max(BODIES_LEAST * largest).min(Semaphore::MAX_PERMITS);
        Self {
            largest,
            free: Arc::new(Semaphore::new(all)),
            addresses: Arc::new(Counts::new(all / 2)),
        }
    }

    /// Without an address: of one that is not limited.
    pub(super) fn admit(&self, length: Option<u64>, address: Option<IpAddr>) -> Result<BodyPlace, Problem> {
        // One that says that it is larger is not read further than this.
        let length = length.and_then(|length| usize::try_from(length).ok());
        let bytes = length.unwrap_or(self.largest).min(self.largest);
        let full =
            |whose| Problem::new(Code::Overloaded).detail(format!("Too much is being sent at once {whose}."));
        let of_address = match address {
            Some(address) => Some(
                self.addresses
                    .take(address, bytes)
                    .ok_or_else(|| full("from one address"))?,
            ),
            None => None,
        };
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let all = self.free.clone().try_acquire_many_owned(permits);
        Ok(BodyPlace {
            _all: all.map_err(|_| full("to this server"))?,
            _address: of_address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(bodies: &Bodies, length: Option<u64>) -> Result<BodyPlace, (Code, Option<u32>)> {
        let admitted = bodies.admit(length, None);
        admitted.map_err(|problem| (problem.code, problem.retry_after))
    }

    #[test]
    fn bodies_share_so_many_bytes() {
        let bodies = Bodies::new(1000, 100);
        let _small: Vec<_> = (0..6).map(|_| admit(&bodies, Some(50)).ok().unwrap()).collect();
        let _unknown: Vec<_> = (0..6).map(|_| admit(&bodies, None).ok().unwrap()).collect();
        let last = admit(&bodies, Some(u64::MAX)).ok().unwrap();
        assert_eq!(admit(&bodies, Some(1)).err(), Some((Code::Overloaded, Some(1))));
        assert!(admit(&bodies, Some(0)).is_ok());
        drop(last);
        assert!(admit(&bodies, Some(1)).is_ok());
    }

    #[test]
    fn four_of_the_largest_always_fit() {
        let bodies = Bodies::new(1, 100);
        let all: Vec<_> = (0..4).map(|_| admit(&bodies, None).ok().unwrap()).collect();
        assert!(admit(&bodies, Some(1)).is_err());
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn an_address_has_half_of_them() {
        let bodies = Bodies::new(400, 100);
        let (one, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let held: Vec<_> = (0..2)
            .map(|_| bodies.admit(None, Some(one)).ok().unwrap())
            .collect();
        assert!(bodies.admit(Some(1), Some(one)).is_err());
        assert!(bodies.admit(None, Some(other)).is_ok());
        drop(held);
        assert!(bodies.admit(None, Some(one)).is_ok());
        // What the address would have had is given back where there is nothing left for anybody.
        let all: Vec<_> = (0..4).map(|_| admit(&bodies, None).ok().unwrap()).collect();
        assert!(bodies.admit(None, Some(one)).is_err() && bodies.admit(None, Some(one)).is_err());
        drop(all);
        assert!(bodies.admit(None, Some(one)).is_ok());
    }
}
