//! The memory of all bodies that are read at a time. Each is bounded by itself; without this, as many as there are
//! connections could come at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Code, Problem};

/// Bodies of the largest size that fit at least, whatever is configured.
const BODIES_LEAST: usize = 4;

pub(super) struct Bodies {
    largest: usize,
    /// A permit is a byte.
    free: Arc<Semaphore>,
}

impl Bodies {
    pub(super) fn new(all: usize, largest: usize) -> Self {
        let all = all.max(BODIES_LEAST * largest).min(Semaphore::MAX_PERMITS);
        Self {
            largest,
            free: Arc::new(Semaphore::new(all)),
        }
    }

    pub(super) fn admit(&self, length: Option<u64>) -> Result<OwnedSemaphorePermit, Problem> {
        // One that says that it is larger is not read further than this.
        let length = length.and_then(|length| usize::try_from(length).ok());
        let bytes = u32::try_from(length.unwrap_or(self.largest).min(self.largest)).unwrap_or(u32::MAX);
        let place = self.free.clone().try_acquire_many_owned(bytes);
        place.map_err(|_| {
            Problem::new(Code::Overloaded).detail("Too much is being sent to this server at once.")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_so_many_bytes() {
        let bodies = Bodies::new(1000, 100);
        let _small: Vec<_> = (0..6).map(|_| bodies.admit(Some(50)).unwrap()).collect();
        let _unknown: Vec<_> = (0..6).map(|_| bodies.admit(None).unwrap()).collect();
        let last = bodies.admit(Some(u64::MAX)).unwrap();
        let refused = bodies.admit(Some(1)).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::Overloaded, Some(1)));
        assert!(bodies.admit(Some(0)).is_ok());
        drop(last);
        assert!(bodies.admit(Some(1)).is_ok());
    }

    #[test]
    fn four_of_the_largest_always_fit() {
        let bodies = Bodies::new(1, 100);
        let all: Vec<_> = (0..4).map(|_| bodies.admit(None).unwrap()).collect();
        assert!(bodies.admit(Some(1)).is_err());
        assert_eq!(all.len(), 4);
    }
}
