//! What operators see and do: the start of a server and its checks, its end, metrics with the board and the alerts on
//! them, the limit on open files, TLS to the database, the commands of maintenance, what is deployed.

mod deploy;
mod files;
mod maintenance;
mod metrics;
mod refusals;
mod startup;
mod states;
mod stopping;
mod tls;

use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
