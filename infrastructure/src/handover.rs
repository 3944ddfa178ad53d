//! What the writer hands to the tail: the events of a committed batch, and since when this node knows them.

use std::{sync::Arc, time::Instant};

use chat_domain::event::Recorded;
use tracing::Span;

/// The events of one committed batch, on their way to the tail. When that queue is full they are dropped: the tail
/// reads them from the database.
#[derive(Debug)]
pub struct Committed {
    pub events: Vec<Arc<Recorded>>,
    /// When the COMMIT was answered.
    pub origin: Origin,
}

/// When events became known to this node, and how. It goes with them to their readers, for the metrics and the traces
/// only: a moment of a clock that is this process's own, as that of the database is another one.
#[derive(Debug, Clone)]
pub struct Origin {
    pub written: Written,
    pub since: Instant,
    /// Ends when the last reader that listens has them.
    pub span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// By this node: the moment is that of the COMMIT.
    Here,
    /// By another: the moment is that at which the tail had read them.
    Elsewhere,
}

impl Origin {
    /// Of what the tail has read just now.
    pub fn elsewhere() -> Self {
        Self {
            written: Written::Elsewhere,
            since: Instant::now(),
            span: Span::none(),
        }
    }
}
