//! How much each of many has taken: the one table behind the limits of users and addresses.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::{Mutex, MutexGuard};

/// How much each has taken of what each may have. Who has nothing is not in it, so it takes no memory for those who
/// are gone.
pub(crate) struct Counts<K> {
    limit: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// Dropped, it is given back.
pub(crate) struct Place<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    key: K,
    amount: usize,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    /// Nothing where it would be more than the limit.
    pub(crate) fn take(self: &Arc<Self>, key: K, amount: usize) -> Option<Place<K>> {
        self.add(&key, amount).then(|| Place {
            counts: self.clone(),
            key,
            amount,
        })
    }

    /// As [`take`](Self::take); the caller gives it back.
    pub(super) fn add(&self, key: &K, amount: usize) -> bool {
        let mut taken = self.taken();
        let before = taken.get(key).copied().unwrap_or_default();
        match before.checked_add(amount).filter(|after| *after <= self.limit) {
            Some(0) => true,
            Some(after) => {
                taken.insert(key.clone(), after);
                true
            }
            None => false,
        }
    }
}

impl<K: Eq + Hash> Counts<K> {
    pub(super) fn give_back(&self, key: &K, amount: usize) {
        let mut taken = self.taken();
        let Some(count) = taken.get_mut(key) else { return };
        *count -= amount;
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
        self.taken.lock()
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.counts.give_back(&self.key, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_have_so_much_and_gets_it_back() {
        let counts = Arc::new(Counts::new(10));
        let seven = counts.take("a", 7);
        assert!(seven.is_some() && counts.take("a", 4).is_none());
        let three = counts.take("a", 3);
        assert!(three.is_some() && counts.take("a", 1).is_none() && counts.take("a", usize::MAX).is_none());
        assert!(counts.take("b", 10).is_some());
        drop(seven);
        assert!(counts.take("a", 8).is_none() && counts.take("a", 7).is_some());
        drop(three);
        assert!(counts.take("a", 10).is_some());
        assert!(counts.take("a", 0).is_some());
        assert!(counts.taken().is_empty());
    }

    #[test]
    fn who_is_gone_takes_no_memory() {
        let counts = Arc::new(Counts::new(1));
        let all: Vec<_> = (0..10_000).map(|n| counts.take(n, 1).unwrap()).collect();
        assert_eq!(counts.taken().len(), 10_000);
        drop(all);
        assert!(counts.taken().is_empty() && counts.taken().capacity() < 100);
    }
}
