//! How many conversations a user may begin in an hour.
//!
//! Whether a send begins one is known to the writer alone, who decides under the log's lock. So a send takes a place on
//! its way there, one for all sends to the same receiver: the place says whether a conversation may be begun, and with
//! the outcome it is known whether one was. A send to a conversation that is there needs no place, and one that was
//! recorded before is answered from its record, whatever is left.
//!
//! The hour slides: what was begun counts until it is an hour old.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use chat_domain::ids::UserId;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

/// Users tracked before the first sweep.
const SWEEP_LEAST: usize = 1024;

pub(super) struct Beginnings {
    per_hour: usize,
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    begun: HashMap<UserId, Begun>,
    sweep_at: usize,
}

#[derive(Default)]
struct Begun {
    /// When, in the last hour; the oldest first.
    at: VecDeque<Instant>,
    /// To whom sends are on their way that may begin a conversation, and how many.
    sends: HashMap<UserId, usize>,
}

/// A send on its way to the writer.
pub struct Beginning {
    beginnings: Arc<Beginnings>,
    user: UserId,
    receiver: UserId,
    may_begin: bool,
}

impl Beginnings {
    pub(super) fn new(per_hour: usize) -> Arc<Self> {
        Arc::new(Self {
            per_hour,
            users: Mutex::default(),
        })
    }

    pub(super) fn send(self: &Arc<Self>, user: &UserId, receiver: &UserId) -> Beginning {
        let now = Instant::now();
        let mut users = self.users();
        users.forget_the_silent(now);
        let begun = users.begun.entry(user.clone()).or_default();
        begun.forget(now);
        let has_place = begun.sends.contains_key(receiver);
        let may_begin = has_place || begun.at.len() + begun.sends.len() < self.per_hour;
        if may_begin {
            *begun.sends.entry(receiver.clone()).or_default() += 1;
        }
        Beginning {
            beginnings: self.clone(),
            user: user.clone(),
            receiver: receiver.clone(),
            may_begin,
        }
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock()
    }
}

impl Users {
    /// Looks for them after as many have come as there were, so that a send costs the same however many there are.
    fn forget_the_silent(&mut self, now: Instant) {
        if self.begun.len() < self.sweep_at.max(SWEEP_LEAST) {
            return;
        }
        self.begun.retain(|_, begun| {
            begun.forget(now);
            !(begun.at.is_empty() && begun.sends.is_empty())
        });
        self.begun.shrink_to_fit();
        self.sweep_at = self.begun.len() * 2;
    }
}

impl Begun {
    fn forget(&mut self, now: Instant) {
        let is_old = |at: &mut Instant| now.duration_since(*at) >= HOUR;
        while self.at.pop_front_if(is_old).is_some() {}
    }
}

impl Beginning {
    pub fn may_begin(&self) -> bool {
        self.may_begin
    }

    /// It has begun a conversation.
    pub fn began(&self) {
        let mut users = self.beginnings.users();
        let begun = users.begun.entry(self.user.clone()).or_default();
        begun.at.push_back(Instant::now());
        // All others on their way find the conversation there.
        begun.sends.remove(&self.receiver);
    }

    /// Seconds until another may be begun.
    pub fn wait(&self) -> u32 {
        let users = self.beginnings.users();
        let at = users.begun.get(&self.user).map(|begun| &begun.at);
        let first = at.and_then(|at| at.get(at.len().checked_sub(self.beginnings.per_hour)?));
        let wait = first.map_or(Duration::ZERO, |first| HOUR.saturating_sub(first.elapsed()));
        u32::try_from(wait.as_millis().div_ceil(1000)).map_or(u32::MAX, |seconds| seconds.max(1))
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        if !self.may_begin {
            return;
        }
        let mut users = self.beginnings.users();
        let Some(begun) = users.begun.get_mut(&self.user) else {
            return;
        };
        if let Some(count) = begun.sends.get_mut(&self.receiver) {
            *count -= 1;
            if *count == 0 {
                begun.sends.remove(&self.receiver);
            }
        }
        if begun.at.is_empty() && begun.sends.is_empty() {
            users.begun.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    fn send(beginnings: &Arc<Beginnings>, to: &str) -> Beginning {
        beginnings.send(&user("alice"), &user(to))
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_begun_in_any_hour_and_what_is_no_beginning_takes_none() {
        let beginnings = Beginnings::new(2);
        for _ in 0..5 {
            assert!(send(&beginnings, "bob").may_begin(), "none was begun");
        }
        send(&beginnings, "bob").began();
        tokio::time::advance(Duration::from_secs(600)).await;
        send(&beginnings, "carol").began();
        let refused = send(&beginnings, "dave");
        assert!(!refused.may_begin());
        assert_eq!(refused.wait(), 3000);
        assert!(beginnings.send(&user("bob"), &user("dave")).may_begin());
        tokio::time::advance(Duration::from_secs(3000)).await;
        let third = send(&beginnings, "dave");
        assert!(third.may_begin());
        third.began();
        drop(third);
        assert_eq!(send(&beginnings, "erin").wait(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn sends_on_their_way_to_one_receiver_have_one_place_and_those_to_others_have_others() {
        let beginnings = Beginnings::new(2);
        let to_bob: Vec<_> = (0..5).map(|_| send(&beginnings, "bob")).collect();
        let to_carol = send(&beginnings, "carol");
        assert!(to_bob.iter().all(Beginning::may_begin) && to_carol.may_begin());
        let refused = send(&beginnings, "dave");
        assert!(!refused.may_begin());
        assert_eq!(refused.wait(), 1, "those on their way may come to nothing");
        // The first begins the conversation, and the others find it there.
        to_bob[0].began();
        drop(to_bob);
        drop(to_carol);
        assert!(send(&beginnings, "dave").may_begin());
        send(&beginnings, "dave").began();
        assert!(!send(&beginnings, "erin").may_begin());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_begun_nothing_for_an_hour_is_forgotten() {
        let beginnings = Beginnings::new(1);
        for n in 0..3 * SWEEP_LEAST {
            drop(beginnings.send(&user(&format!("user{n}")), &user("bob")));
        }
        assert!(beginnings.users().begun.is_empty());
        for n in 0..3 * SWEEP_LEAST {
            tokio::time::advance(HOUR).await;
            beginnings.send(&user(&format!("user{n}")), &user("bob")).began();
        }
        assert!(beginnings.users().begun.len() <= SWEEP_LEAST);
    }
}
