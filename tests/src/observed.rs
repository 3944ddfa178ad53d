//! What readers saw of a log, in the order in which they saw it, and the one check of that: no position is seen after
//! a larger one, and none is missing.
//!
//! The check knows nothing of how the log is written or read, so the same one is held to the log of the product and
//! to logs and readers that are wrong on purpose ([`crate::unlocked`], [`crate::veil`]), where it must find the fault.

use std::collections::{BTreeMap, BTreeSet};

use chat_domain::{
    Position,
    ports::{Outbox, PageLimit},
};
use tokio::sync::watch;

use crate::Database;

/// What one reader saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub reader: String,
    /// It asked for everything after this position.
    pub after: Position,
    /// Its cursor says that it was given everything up to this one.
    pub up_to: Position,
    /// In the order in which they came.
    pub positions: Vec<Position>,
}

/// What a reader was wronged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Seen after one that is larger, or twice.
    OutOfOrder {
        reader: String,
        position: Position,
        after: Position,
    },
    /// In the log, passed by the reader's cursor, and never seen.
    Missing { reader: String, position: Position },
    /// Seen, and not in the log.
    NotInTheLog { reader: String, position: Position },
}

impl Observed {
    pub fn new(reader: impl Into<String>, after: Position) -> Observed {
        Observed {
            reader: reader.into(),
            after,
            up_to: after,
            positions: Vec::new(),
        }
    }

    /// The reader saw an event.
    pub fn saw(&mut self, position: Position) {
        self.positions.push(position);
        self.passed(position);
    }

    /// The reader's cursor says so much.
    pub fn passed(&mut self, position: Position) {
        self.up_to = self.up_to.max(position);
    }
}

/// Holds what readers saw to the positions that the log holds in the end; each reader may see all of them.
pub fn check(observed: &[Observed], log: &[Position]) -> Vec<Fault> {
    let log: BTreeSet<_> = log.iter().copied().collect();
    observed
        .iter()
        .flat_map(|observed| check_one(observed, &log))
        .collect()
}

fn check_one(observed: &Observed, log: &BTreeSet<Position>) -> Vec<Fault> {
    let reader = || observed.reader.clone();
    let mut faults = Vec::new();
    let mut largest = observed.after;
    for &position in &observed.positions {
        if position <= largest {
            faults.push(Fault::OutOfOrder {
                reader: reader(),
                position,
                after: largest,
            });
        }
        largest = largest.max(position);
    }
    let seen: BTreeSet<_> = observed.positions.iter().copied().collect();
    for &position in log
        .range(observed.after + 1..=observed.up_to)
        .filter(|position| !seen.contains(position))
    {
        faults.push(Fault::Missing {
            reader: reader(),
            position,
        });
    }
    for &position in seen.difference(log) {
        faults.push(Fault::NotInTheLog {
            reader: reader(),
            position,
        });
    }
    faults
}

/// Every position in the log.
pub async fn positions(database: &Database) -> Vec<Position> {
    let logged = crate::inside::log(database, 0).await;
    logged.into_iter().map(|logged| logged.position).collect()
}

/// How many faults there are of each kind, for a message that can be read.
pub fn summary(faults: &[Fault]) -> BTreeMap<(&str, &str), Vec<Position>> {
    let mut summary: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for fault in faults {
        let (what, reader, position) = match fault {
            Fault::OutOfOrder { reader, position, .. } => ("out of order", reader, position),
            Fault::Missing { reader, position } => ("missing", reader, position),
            Fault::NotInTheLog { reader, position } => ("not in the log", reader, position),
        };
        summary
            .entry((reader.as_str(), what))
            .or_default()
            .push(*position);
    }
    summary
}

const PAGE: PageLimit = PageLimit {
    events: 1000,
    bytes: 1 << 20,
};

/// Follows a log as fast as it can, the proven way: the head first, then the rows up to it. Ends when `written` says
/// that nothing more is written and that was read.
pub async fn follow(
    outbox: &dyn Outbox,
    reader: &str,
    after: Position,
    written: watch::Receiver<bool>,
) -> Observed {
    let mut observed = Observed::new(reader, after);
    loop {
        let last_time = *written.borrow();
        let head = outbox.head().await.expect("the head is readable").position;
        while observed.up_to < head {
            let rows = outbox
                .read_after(observed.up_to, PAGE)
                .await
                .expect("the log is readable");
            let before = observed.positions.len();
            for row in rows.iter().take_while(|row| row.position <= head) {
                observed.saw(row.position);
            }
            if observed.positions.len() == before {
                observed.passed(head);
            }
        }
        if last_time {
            return observed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(after: Position, up_to: Position, positions: &[Position]) -> Observed {
        Observed {
            reader: "r".into(),
            after,
            up_to,
            positions: positions.into(),
        }
    }

    #[test]
    fn a_reader_that_was_given_everything_in_order_is_content() {
        assert_eq!(check(&[observed(1, 5, &[2, 3, 5])], &[1, 2, 3, 5, 6]), []);
    }

    #[test]
    fn each_fault_is_found() {
        let reader = || "r".to_string();
        let log = [1, 2, 3, 4];
        let missing = || Fault::Missing {
            reader: reader(),
            position: 3,
        };
        assert_eq!(check(&[observed(0, 4, &[1, 2, 4])], &log), [missing()]);
        assert_eq!(
            check(&[observed(0, 3, &[1, 2])], &log),
            [missing()],
            "a cursor that runs ahead"
        );
        let late = Fault::OutOfOrder {
            reader: reader(),
            position: 3,
            after: 4,
        };
        assert_eq!(check(&[observed(0, 4, &[1, 2, 4, 3])], &log), [late]);
        let twice = Fault::OutOfOrder {
            reader: reader(),
            position: 2,
            after: 2,
        };
        assert_eq!(check(&[observed(0, 2, &[1, 2, 2])], &log), [twice]);
        let invented = Fault::NotInTheLog {
            reader: reader(),
            position: 5,
        };
        assert_eq!(check(&[observed(0, 5, &[1, 2, 3, 4, 5])], &log), [invented]);
    }
}
