//! What a node remembers of the log: which event it saw under which number, for the newest events one by one, and for
//! older ones here and there.
//!
//! A log that lost its end and was written on shows other events under numbers that were seen. A row tells itself apart
//! by its position, its time in microseconds and its key, which is random or its sender's own.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use chat_domain::{Micros, Position, event::Recorded};

/// Every so many positions one is remembered, and so many of these: of each of the newest 512 events, and back to
/// half a million of them in all.
const LEVELS: [(Position, usize); 3] = [(1, 512), (64, 256), (4096, 128)];

/// What tells one event from another that has the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) fn new(occurred_at: Micros, actor_id: &str, key: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (occurred_at, actor_id, key).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl From<&Recorded> for Mark {
    fn from(recorded: &Recorded) -> Self {
        Self::new(
            recorded.occurred_at,
            recorded.actor_id.as_str(),
            recorded.key.as_str(),
        )
    }
}

type Seen = Option<(Position, Mark)>;

/// Each position has its one place on each level, which a later one takes over.
#[derive(Debug)]
pub(crate) struct Remembered {
    levels: [Vec<Seen>; LEVELS.len()],
}

impl Default for Remembered {
    fn default() -> Self {
        Self {
            levels: LEVELS.map(|(_, length)| vec![None; length]),
        }
    }
}

impl Remembered {
    /// Adds events, of which the last are the newest.
    pub(crate) fn add(&mut self, events: &[Arc<Recorded>]) {
        let [(_, newest), (sparse, _), ..] = LEVELS;
        let (older, newest) = events.split_at(events.len().saturating_sub(newest));
        let older = older.iter().filter(|event| event.position % sparse == 0);
        for event in older.chain(newest) {
            self.see(event.position, Mark::from(&**event));
        }
    }

    /// What was seen first under a number stays: it is what tells that another event has it now.
    pub(crate) fn see(&mut self, position: Position, mark: Mark) {
        for (seen, (stride, _)) in self.levels.iter_mut().zip(LEVELS) {
            if position % stride == 0
                && let Some(place) = place(seen, position / stride)
                && place.is_none_or(|(before, _)| before < position)
            {
                *place = Some((position, mark));
            }
        }
    }

    /// All of it, in order.
    pub(crate) fn all(&self) -> BTreeMap<Position, Mark> {
        self.levels.iter().flatten().copied().flatten().collect()
    }

    /// Forgets what is not so any more; what was seen meanwhile stays.
    pub(crate) fn forget(&mut self, gone: &BTreeMap<Position, Mark>) {
        let is_gone = |seen: &Seen| seen.is_some_and(|(position, mark)| gone.get(&position) == Some(&mark));
        for seen in self.levels.iter_mut().flatten() {
            if is_gone(seen) {
                *seen = None;
            }
        }
    }
}

fn place(seen: &mut [Seen], number: Position) -> Option<&mut Seen> {
    let length = Position::try_from(seen.len()).ok()?;
    let at = usize::try_from(number.checked_rem(length)?).ok()?;
    seen.get_mut(at)
}

/// What is remembered, held to the log as it is now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// The first number under which another event stands now.
    pub(crate) taken: Option<Position>,
    /// Whether numbers are remembered that the log has not reached.
    pub(crate) is_short: bool,
    /// The last event that is as it was seen, before any that is not; 0 where none is.
    pub(crate) common: Position,
    /// What is not so any more.
    pub(crate) gone: BTreeMap<Position, Mark>,
}

impl Compared {
    /// `rows` are those at the remembered positions. One that is missing below the head says nothing: it was pruned.
    pub(crate) fn new(
        remembered: BTreeMap<Position, Mark>,
        rows: &BTreeMap<Position, Mark>,
        head: Position,
    ) -> Self {
        let differs = |position: &Position, mark: &Mark| rows.get(position).is_some_and(|row| row != mark);
        let taken = remembered
            .iter()
            .find(|(position, mark)| differs(position, mark))
            .map(|(position, _)| *position);
        let is_same = |position: &Position, mark: &Mark| rows.get(position) == Some(mark);
        let common = remembered
            .range(..taken.unwrap_or(Position::MAX))
            .rfind(|(position, mark)| is_same(position, mark))
            .map_or(0, |(position, _)| *position);
        let is_short = remembered.last_key_value().is_some_and(|(last, _)| *last > head);
        let mut gone = remembered;
        gone.retain(|position, mark| !is_same(position, mark));
        Self {
            taken,
            is_short,
            common,
            gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str) -> Mark {
        Mark::new(1, "alice", name)
    }

    fn seen(name: &str, positions: impl IntoIterator<Item = Position>) -> BTreeMap<Position, Mark> {
        let of_one = |position| (position, mark(&format!("{name}{position}")));
        positions.into_iter().map(of_one).collect()
    }

    fn remembering(seen: &BTreeMap<Position, Mark>) -> Remembered {
        let mut remembered = Remembered::default();
        seen.iter()
            .for_each(|(position, mark)| remembered.see(*position, *mark));
        remembered
    }

    #[test]
    fn the_newest_are_remembered_one_by_one_and_older_ones_here_and_there() {
        let last = 600_000;
        let all = remembering(&seen("a", 1..=last)).all();
        for position in [last, last - 1, last - 511] {
            assert_eq!(
                all.get(&position),
                Some(&mark(&format!("a{position}"))),
                "{position}"
            );
        }
        assert_eq!(all.get(&(last - 513)), None);
        let below = |position: Position| {
            all.range(..=position)
                .next_back()
                .map(|(found, _)| position - found)
        };
        assert!(below(last - 10_000).is_some_and(|distance| distance < 64));
        assert!(below(last - 400_000).is_some_and(|distance| distance < 4096));
        assert_eq!(below(10_000), None, "it is bounded");
        assert!(all.len() <= 512 + 256 + 128, "{}", all.len());
    }

    #[test]
    fn what_was_seen_first_under_a_number_stays() {
        let mut remembered = remembering(&seen("a", 1..=10));
        for (position, mark) in seen("b", 8..=12) {
            remembered.see(position, mark);
        }
        let mut expected = seen("a", 1..=10);
        expected.extend(seen("b", 11..=12));
        assert_eq!(remembered.all(), expected);
    }

    #[test]
    fn the_same_rows_say_nothing_and_neither_do_pruned_ones() {
        let remembered = seen("a", 1..=100);
        let same = Compared::new(remembered.clone(), &remembered, 100);
        assert_eq!((same.taken, same.is_short, same.common), (None, false, 100));
        assert!(same.gone.is_empty());
        let pruned = Compared::new(remembered, &seen("a", 60..=100), 120);
        assert_eq!((pruned.taken, pruned.is_short, pruned.common), (None, false, 100));
    }

    /// Also those that were read after the loss, before anybody looked.
    #[test]
    fn numbers_that_were_taken_are_found_from_the_first_of_them_on() {
        let mut remembered = seen("a", 1..=100);
        remembered.extend(seen("b", 101..=110));
        let mut rows = seen("a", 1..=90);
        rows.extend(seen("b", 91..=110));
        let compared = Compared::new(remembered, &rows, 110);
        assert_eq!(
            (compared.taken, compared.is_short, compared.common),
            (Some(91), false, 90)
        );
        assert_eq!(compared.gone, seen("a", 91..=100));
    }

    #[test]
    fn a_log_that_is_shorter_is_told_with_what_is_left_of_it() {
        let mut rows = seen("a", 1..=80);
        rows.extend(seen("b", 81..=95));
        let compared = Compared::new(seen("a", 1..=100), &rows, 95);
        assert_eq!(
            (compared.taken, compared.is_short, compared.common),
            (Some(81), true, 80)
        );
        assert_eq!(compared.gone, seen("a", 81..=100));
        let compared = Compared::new(seen("a", 1..=100), &seen("a", 1..=80), 80);
        assert_eq!(
            (compared.taken, compared.is_short, compared.common),
            (None, true, 80)
        );
        let nothing = Compared::new(seen("a", 90..=100), &seen("b", 90..=95), 95);
        assert_eq!((nothing.taken, nothing.common), (Some(90), 0));
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_was_seen_meanwhile_is_not() {
        let mut remembered = remembering(&seen("a", 1..=10));
        let gone = seen("a", 8..=10);
        remembered.see(1000, mark("later"));
        remembered.forget(&gone);
        let mut expected = seen("a", 1..=7);
        expected.insert(1000, mark("later"));
        assert_eq!(remembered.all(), expected);
    }
}
