//! What is measured, a file each. A scenario brings up what it needs on a database of its own, and tells the report.

pub(crate) mod catch_up;
pub(crate) mod fanout;
pub(crate) mod history;
pub(crate) mod idle;
pub(crate) mod jitter;
pub(crate) mod resume;
pub(crate) mod send;
pub(crate) mod single;
pub(crate) mod wire;
pub(crate) mod writer;

use std::time::Duration;

use chat_tests::DatabaseServer;

use crate::report::Report;

/// What all of them need.
pub(crate) struct Setting {
    /// A private MariaDB, durable.
    pub(crate) mariadb: DatabaseServer,
    pub(crate) size: Size,
    pub(crate) report: Report,
}

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Quick,
    Full,
}

impl Size {
    /// The length of one measurement.
    pub(crate) fn length(self) -> Duration {
        Duration::from_secs(self.pick(5, 10))
    }

    /// How often peers take turns, so that what disturbs the machine meets all of them.
    pub(crate) fn rounds(self) -> usize {
        self.pick(2, 3)
    }

    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Size::Quick => quick,
            Size::Full => full,
        }
    }
}

/// The one in the middle; of two the mean.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}
