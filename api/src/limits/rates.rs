//! How often a user may do something: for long so many times in a second, and a burst of more after silence (GCRA, the
//! crate governor).

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chat_domain::ids::UserId;
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};

use crate::problem::{Code, Problem};

/// Users tracked before the first sweep.
const SWEEP_LEAST: usize = 1024;

pub(super) struct Rate {
    limiter: DefaultKeyedRateLimiter<UserId>,
    clock: DefaultClock,
    until_sweep: AtomicUsize,
}

impl Rate {
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        Self {
            limiter: RateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            until_sweep: AtomicUsize::new(SWEEP_LEAST),
        }
    }

    pub(super) fn admit(&self, user: &UserId) -> Result<(), Problem> {
        self.forget_the_silent();
        match self.limiter.check_key(user) {
            Ok(()) => Ok(()),
            Err(until) => {
                let seconds = whole_seconds(until.wait_time_from(self.clock.now()));
                Err(Problem::new(Code::RateLimited).retry_after(seconds))
            }
        }
    }

    /// A user whose burst is whole again is as good as one who was never here. They are looked for after as many calls
    /// as there are users to look at, so that a call costs the same however many there are, and at most twice as many
    /// are remembered as have something to remember.
    fn forget_the_silent(&self) {
        if self.until_sweep.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        self.until_sweep
            .store(self.limiter.len().max(SWEEP_LEAST), Ordering::Relaxed);
    }
}

/// At least one, and never too few: who comes again then is let in.
fn whole_seconds(wait: Duration) -> u32 {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[test]
    fn a_user_who_comes_too_often_waits_and_nobody_else_does() {
        let sends = Rate::new(1, 5);
        let refused: Vec<_> = (0..1000)
            .filter_map(|_| sends.admit(&user("alice")).err())
            .collect();
        assert!(
            (1..=995).contains(&refused.len()),
            "{} were refused",
            refused.len()
        );
        for problem in &refused {
            assert_eq!((problem.code, problem.retry_after), (Code::RateLimited, Some(1)));
        }
        assert_eq!(sends.admit(&user("bob")), Ok(()));
    }

    #[test]
    fn the_wait_is_in_whole_seconds_and_never_too_short() {
        let milliseconds = [0, 1, 1000, 1001, 4200].map(|wait| whole_seconds(Duration::from_millis(wait)));
        assert_eq!(milliseconds, [1, 1, 1, 2, 5]);
        assert_eq!(whole_seconds(Duration::MAX), u32::MAX);
    }

    #[test]
    fn who_has_long_been_silent_is_forgotten() {
        // A million in a second: each is whole again long before the next ones are counted.
        let sends = Rate::new(1_000_000, 1);
        for n in 0..20 * SWEEP_LEAST {
            sends.admit(&user(&format!("user{n}"))).unwrap();
        }
        assert!(sends.limiter.len() < 10 * SWEEP_LEAST, "{}", sends.limiter.len());
    }
}
