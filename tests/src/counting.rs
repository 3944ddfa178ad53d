//! Counts the rows that a database reads for some work, so that a test can hold a cost to a bound that no machine's
//! speed moves.
//!
//! MariaDB and MySQL count themselves, for each session. SQLite tells the steps of its virtual machine, which are held
//! to the steps that one row of a plain range scan takes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use chat_infrastructure::{database::Database as Connected, location::Location};
use sea_orm::{ConnectionTrait, Statement};

use crate::{Database, Kind};

/// A database behind a single connection.
pub struct Counted {
    pub connected: Connected,
    kind: Kind,
    steps: Arc<AtomicU64>,
    /// Servers: what asking costs. SQLite: the steps of a row.
    unit: f64,
}

/// Rows of a table with `position` 1 to 2000 at least, read by an index as pages are.
const SCAN: &str = "SELECT o.position, o.type, o.conversation_id, o.actor_id, o.command_key, o.occurred_at, o.receiver_id, \
     o.seq, CASE WHEN LENGTH(o.content) <= 2048 THEN o.content END, LENGTH(o.content) FROM outbox o \
     INDEXED BY outbox_conversation WHERE o.conversation_id = (SELECT conversation_id FROM outbox WHERE position = 1) \
     AND o.position > 0 LIMIT";

impl Counted {
    /// On a log whose first conversation has 200 messages at least.
    pub async fn connect(database: &Database) -> Counted {
        let location = Location::parse(&database.url()).expect("the harness writes URLs");
        let connected = Connected::connect(location, 1)
            .await
            .expect("the database is there");
        let mut counted = Counted {
            connected,
            kind: database.kind(),
            steps: Arc::default(),
            unit: 1.0,
        };
        if counted.kind == Kind::Sqlite {
            counted.count_steps().await;
            let mut scans = Vec::new();
            for rows in [100, 200, 100, 200] {
                let before = counted.raw().await;
                counted.run(&format!("{SCAN} {rows}")).await;
                scans.push(counted.raw().await - before);
            }
            // The second round knows its statements.
            counted.unit = (scans[3] - scans[2]) as f64 / 100.0;
            assert!(counted.unit >= 1.0, "{scans:?}");
        } else {
            let (first, second, third) = (counted.raw().await, counted.raw().await, counted.raw().await);
            assert_eq!(second - first, third - second, "what asking costs is known");
            counted.unit = (third - second) as f64;
        }
        counted
    }

    /// What the work gives, and how many rows were read for it.
    pub async fn rows<T>(&self, work: impl Future<Output = T>) -> (T, u64) {
        let before = self.raw().await;
        let given = work.await;
        let read = (self.raw().await - before) as f64;
        let rows = if self.kind == Kind::Sqlite {
            read / self.unit
        } else {
            read - self.unit
        };
        (given, rows.round() as u64)
    }

    async fn count_steps(&self) {
        let pool = self.connected.pool.get_sqlite_connection_pool();
        let mut connection = pool.acquire().await.expect("the one connection");
        let steps = self.steps.clone();
        let mut handle = connection.lock_handle().await.expect("nobody else has it");
        handle.set_progress_handler(1, move || {
            steps.fetch_add(1, Ordering::Relaxed);
            true
        });
    }

    async fn raw(&self) -> u64 {
        if self.kind == Kind::Sqlite {
            return self.steps.load(Ordering::SeqCst);
        }
        let rows = self.run("SHOW SESSION STATUS LIKE 'Handler_read%'").await;
        let value = |row: &sea_orm::QueryResult| row.try_get_by_index::<String>(1).expect("a value");
        rows.iter()
            .map(|row| value(row).parse::<u64>().expect("a number"))
            .sum()
    }

    /// Any statement on the one connection.
    pub async fn run(&self, sql: &str) -> Vec<sea_orm::QueryResult> {
        let statement = Statement::from_string(self.connected.pool.get_database_backend(), sql);
        let rows = self.connected.pool.query_all_raw(statement).await;
        rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
