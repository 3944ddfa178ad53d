//! What operators see and do: metrics with the board and the alerts on them, the end of a server, the limit on open
//! files, TLS to the database.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

#[path = "operation/files.rs"]
mod files;
#[path = "operation/metrics.rs"]
mod metrics;
#[path = "operation/refusals.rs"]
mod refusals;
#[path = "operation/states.rs"]
mod states;
#[path = "operation/stopping.rs"]
mod stopping;
#[path = "operation/tls.rs"]
mod tls;

use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
