//! What one client has asked for and what is not begun yet, in the order in which it came.
//!
//! It is filled where the transport reads, which cannot wait, and emptied by the socket's one task. So it is bounded
//! in two steps: past the first bound a command stays as a note that it is to be refused with `overloaded`, so that
//! every command is answered in its turn; a client that goes on past the second one loses its connection.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::packet::Event;

/// Commands that may wait. Somebody who sends thousands in a row without waiting for one answer is served.
const MOST: usize = 4096;

/// Notes of commands to be refused that may wait beside them.
const MOST_REFUSED: usize = 4096;

#[derive(Debug, PartialEq)]
pub(super) enum Waiting {
    Command(Event),
    /// The queue was full when it came.
    Refused {
        ack: Option<u64>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    held: Mutex<Held>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Held {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    refused: usize,
}

impl Held {
    fn refuse(&mut self, ack: Option<u64>) -> Result<(), Flooded> {
        if self.refused == MOST_REFUSED {
            return Err(Flooded);
        }
        self.refused += 1;
        self.waiting.push_back(Waiting::Refused { ack });
        Ok(())
    }
}

/// The client does not stop in spite of refusals.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flooded;

impl Queue {
    /// `most_bytes`: of the commands that wait. One of any size always fits. Says whether it waits as a command.
    pub(super) fn put(&self, event: Event, most_bytes: usize) -> Result<bool, Flooded> {
        let mut held = self.lock();
        let weight = event.weight();
        let commands = held.waiting.len() - held.refused;
        let fits = commands < MOST && (commands == 0 || held.bytes + weight <= most_bytes);
        if fits {
            held.bytes += weight;
            held.waiting.push_back(Waiting::Command(event));
        } else {
            held.refuse(event.ack)?;
        }
        drop(held);
        self.filled.notify_one();
        Ok(fits)
    }

    /// Leaves a note for a command that there is no room for.
    pub(super) fn refuse(&self, ack: Option<u64>) -> Result<(), Flooded> {
        self.lock().refuse(ack)?;
        self.filled.notify_one();
        Ok(())
    }

    /// Takes all that is there, and gives what the commands among it weigh.
    pub(super) fn clear(&self) -> usize {
        std::mem::take(&mut *self.lock()).bytes
    }

    /// Waits until something is there. Cancel safe: nothing is taken.
    pub(super) async fn filled(&self) {
        while self.lock().waiting.is_empty() {
            self.filled.notified().await;
        }
    }

    pub(super) fn take(&self) -> Option<Waiting> {
        self.take_if(|_| true)
    }

    /// Takes the next one if it is such a one.
    pub(super) fn take_if(&self, wanted: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        let mut held = self.lock();
        let next = held.waiting.pop_front_if(|next| wanted(next))?;
        match &next {
            Waiting::Command(event) => held.bytes -= event.weight(),
            Waiting::Refused { .. } => held.refused -= 1,
        }
        Some(next)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ack: u64, size: usize) -> Event {
        Event {
            ack: Some(ack),
            length: size,
            ..Event::default()
        }
    }

    #[test]
    fn what_is_cleared_is_weighed_and_there_is_room_again() {
        let queue = Queue::default();
        let [small, large] = [event(1, 10), event(2, 1000)];
        let weight = small.weight();
        assert_eq!(queue.put(small, 900), Ok(true));
        assert_eq!(queue.put(large, 900), Ok(false));
        assert_eq!(queue.clear(), weight);
        assert_eq!(queue.take(), None);
        assert_eq!(queue.put(event(3, 1000), 900), Ok(true));
    }

    #[test]
    fn a_full_queue_notes_what_is_refused_in_its_turn_and_then_gives_up() {
        let queue = Queue::default();
        let total = (MOST + MOST_REFUSED) as u64;
        for number in 0..total {
            let waits = queue.put(event(number, 1), 1 << 20);
            assert_eq!(waits, Ok(number < MOST as u64));
        }
        assert_eq!(queue.refuse(None), Err(Flooded));
        assert_eq!(queue.put(event(0, 1), 1 << 20), Err(Flooded));
        for number in 0..total {
            let expected = if number < MOST as u64 {
                Waiting::Command(event(number, 1))
            } else {
                Waiting::Refused { ack: Some(number) }
            };
            assert_eq!(queue.take(), Some(expected));
        }
        assert_eq!(queue.take(), None);
        queue.put(event(0, 1), 1 << 20).unwrap();
    }

    #[test]
    fn bytes_are_bounded_and_one_command_of_any_size_fits() {
        let queue = Queue::default();
        queue.put(event(1, 5000), 1000).unwrap();
        queue.refuse(Some(2)).unwrap();
        assert!(matches!(queue.take(), Some(Waiting::Command(_))));
        assert_eq!(queue.take(), Some(Waiting::Refused { ack: Some(2) }));
        queue.put(event(3, 100), 1000).unwrap();
        queue.put(event(4, 100), 1000).unwrap();
        assert_eq!(queue.take_if(|_| false), None);
        assert_eq!(queue.take(), Some(Waiting::Command(event(3, 100))));
        assert_eq!(queue.take(), Some(Waiting::Command(event(4, 100))));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let queue = std::sync::Arc::new(Queue::default());
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move {
                queue.filled().await;
                queue.take()
            }
        });
        tokio::task::yield_now().await;
        queue.put(event(1, 1), 1000).unwrap();
        assert_eq!(waiting.await.unwrap(), Some(Waiting::Command(event(1, 1))));
    }
}
