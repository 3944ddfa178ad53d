//! One read for all who ask at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

/// A read of which at most one is under way. Whoever asks meanwhile gets what the next one finds, which begins after
/// that: no answer is older than its question, and a thousand questions at once are two reads.
pub(crate) struct SharedRead<T> {
    begun: AtomicU64,
    /// The number of the last one that ended, and what it found.
    last: Mutex<Option<(u64, T)>>,
}

impl<T> Default for SharedRead<T> {
    fn default() -> Self {
        Self {
            begun: AtomicU64::new(0),
            last: Mutex::new(None),
        }
    }
}

impl<T: Clone> SharedRead<T> {
    /// What `read` finds, or one that another has begun since.
    pub(crate) async fn get(&self, read: impl Future<Output = T>) -> T {
        let asked = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((number, found)) = &*last
            && *number > asked
        {
            return found.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let found = read.await;
        *last = Some((number, found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn, ready},
        pin::{Pin, pin},
        sync::{Arc, atomic::AtomicUsize},
        task::Poll,
    };

    use tokio::{sync::Notify, task::JoinSet};

    use super::*;

    #[tokio::test]
    async fn a_thousand_who_ask_while_one_reads_share_the_next_read() {
        let (shared, reads) = (Arc::new(SharedRead::default()), Arc::new(AtomicUsize::new(0)));
        let go = Arc::new(Notify::new());
        let mut all = JoinSet::new();
        for _ in 0..=1000 {
            let (shared, reads, go) = (shared.clone(), reads.clone(), go.clone());
            all.spawn(async move {
                let read = async {
                    let number = reads.fetch_add(1, Ordering::SeqCst) + 1;
                    if number == 1 {
                        go.notified().await;
                    }
                    number
                };
                shared.get(read).await
            });
        }
        // Each of them asks.
        tokio::task::yield_now().await;
        go.notify_one();
        let mut found = all.join_all().await;
        found.sort_unstable();
        assert_eq!((found[0], &found[1..]), (1, &[2; 1000][..]));
    }

    #[tokio::test]
    async fn what_was_found_before_the_question_is_no_answer() {
        let shared = SharedRead::default();
        assert_eq!(shared.get(ready(1)).await, 1);
        assert_eq!(shared.get(ready(2)).await, 2);
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_read_to_the_next() {
        let shared = SharedRead::default();
        {
            let mut given_up = pin!(shared.get(pending::<i32>()));
            assert!(is_to_come(given_up.as_mut()).await);
            let mut next = pin!(shared.get(ready(2)));
            assert!(is_to_come(next.as_mut()).await, "one at a time");
        }
        assert_eq!(shared.get(ready(3)).await, 3);
    }

    async fn is_to_come<T>(mut future: Pin<&mut impl Future<Output = T>>) -> bool {
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
    }
}
