//! When what is done counts.

use std::time::{Duration, Instant};

/// What is done before it counts.
const WARM_UP: Duration = Duration::from_secs(2);

/// From the end of the warm-up to the end of the measurement.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    pub(crate) fn new(length: Duration) -> Self {
        let from = Instant::now() + WARM_UP;
        Self {
            from,
            to: from + length,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.to
    }

    /// Whether something that was just done counts.
    pub(crate) fn counts(&self) -> bool {
        self.covers(Instant::now())
    }

    pub(crate) fn covers(&self, moment: Instant) -> bool {
        (self.from..self.to).contains(&moment)
    }

    pub(crate) fn rate(&self, done: u64) -> f64 {
        done as f64 / (self.to - self.from).as_secs_f64()
    }
}
