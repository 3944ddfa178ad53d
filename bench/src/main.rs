//! `make bench`: how fast the group commit is, beside what one would do without it and beside the least that any
//! design must do, in one run on one private MariaDB. Only the ratios mean something on a machine that does other
//! things; the absolute figures are context.
//!
//! - **group commit**: commands with keys from so many senders at once, one send in flight each, through the real
//!   writer: idempotency, `seq`, log and projections included;
//! - **one transaction a message**: the same rows under the same head lock, each message in a transaction of its own,
//!   from 32 connections with prepared statements;
//! - **floor**: multi-row INSERTs into `messages` alone, on one connection, of as many rows as are in flight.

#![expect(clippy::print_stdout, reason = "the figures are what the program is for")]

mod floor;
mod group_commit;
mod one_by_one;

use std::time::{Duration, Instant};

use chat_tests::{Database, DatabaseServer, Kind};

/// The length of each measurement.
const LENGTH: Duration = Duration::from_secs(8);
/// What is done before it counts.
const WARM_UP: Duration = Duration::from_secs(2);
const CONTENT: usize = 200;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let server = DatabaseServer::dedicated(Kind::MariaDb, &["--innodb-buffer-pool-size=1G"]).await;
    println!("MariaDB, durable, {CONTENT}-byte messages, {LENGTH:?} each\n");
    println!(
        "{:<28}{:>12}{:>14}{:>12}",
        "", "messages/s", "x one by one", "of floor"
    );
    let one_by_one = one_by_one::measure(&server.fresh().await).await?;
    print("one transaction a message", one_by_one, one_by_one, None);
    for in_flight in [256, 2000] {
        let floor = floor::measure(&server.fresh().await, in_flight).await?;
        print(&format!("floor, {in_flight} rows"), floor, one_by_one, None);
        let group = group_commit::measure(&server.fresh().await, in_flight).await?;
        print(
            &format!("group commit, {in_flight} in flight"),
            group,
            one_by_one,
            Some(floor),
        );
    }
    Ok(())
}

fn print(what: &str, rate: f64, one_by_one: f64, floor: Option<f64>) {
    let share = floor
        .map(|floor| format!("{:.2}", rate / floor))
        .unwrap_or_default();
    println!("{what:<28}{rate:>12.0}{:>14.1}{share:>12}", rate / one_by_one);
}

/// A database with the schema, ready to be written to.
async fn prepared(database: &Database) -> anyhow::Result<chat_infrastructure::database::Database> {
    use chat_infrastructure::database::{Database, Location};
    let connected = Database::connect(Location::parse(&database.url())?, 4).await?;
    chat_migration::up(&connected.pool).await?;
    Ok(connected)
}

/// Counts what is done between the end of the warm-up and the end of the measurement.
struct Window {
    from: Instant,
    to: Instant,
}

impl Window {
    fn new() -> Self {
        let from = Instant::now() + WARM_UP;
        Self {
            from,
            to: from + LENGTH,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.to
    }

    /// Whether something that was just done counts.
    fn counts(&self) -> bool {
        (self.from..self.to).contains(&Instant::now())
    }

    fn rate(&self, done: u64) -> f64 {
        done as f64 / (self.to - self.from).as_secs_f64()
    }
}
