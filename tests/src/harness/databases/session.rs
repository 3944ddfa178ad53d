//! A connection of a test's own, with all rights: what it locks stays locked until it says otherwise or is dropped.

use std::time::Duration;

use sea_orm::sqlx::{self, Connection, Executor, MySqlConnection, SqliteConnection};
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

use super::{Database, Place};

#[derive(Debug)]
pub enum Session {
    Server(MySqlConnection),
    File(SqliteConnection),
}

impl Database {
    pub async fn session(&self) -> Session {
        match &self.place {
            Place::File(_) => {
                let connection = SqliteConnection::connect(&self.url()).await;
                Session::File(connection.expect("the file is there"))
            }
            Place::Server { address, name, .. } => {
                let connection = MySqlConnection::connect_with(&address.options().database(name)).await;
                Session::Server(connection.expect("root connects"))
            }
        }
    }

    /// Ends the newest connection of the server under test again and again, until [`Ending::stop`]. Panics for SQLite.
    pub async fn end_connections(&self) -> Ending {
        // Now and then one lives for long enough to come to the next statement.
        const PAUSE: Duration = Duration::from_millis(7);
        let (user, _, _) = self.login();
        let Session::Server(mut root) = self.session().await else {
            panic!("SQLite has no connections")
        };
        let newest = format!(
            "SELECT CAST(MAX(id) AS SIGNED) FROM information_schema.processlist WHERE user = '{user}'"
        );
        let (stop, mut stopped) = oneshot::channel();
        let ending = async move {
            let mut ended = 0;
            while stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let newest = sqlx::AssertSqlSafe(newest.clone());
                let id: Option<i64> = sqlx::query_scalar(newest)
                    .fetch_one(&mut root)
                    .await
                    .expect("root may look");
                if let Some(id) = id {
                    let kill = sqlx::AssertSqlSafe(format!("KILL CONNECTION {id}"));
                    // It may have ended by itself.
                    ended += usize::from(root.execute(kill).await.is_ok());
                }
                sleep(PAUSE).await;
            }
            ended
        };
        Ending {
            stop,
            task: tokio::spawn(ending),
        }
    }
}

impl Session {
    pub async fn execute(&mut self, statement: &str) {
        let sql = sqlx::AssertSqlSafe(statement.to_string());
        let done = match self {
            Session::Server(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(|_| ()),
            Session::File(connection) => connection.execute(sqlx::raw_sql(sql)).await.map(|_| ()),
        };
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Connections that are being ended.
#[derive(Debug)]
pub struct Ending {
    stop: oneshot::Sender<()>,
    task: JoinHandle<usize>,
}

impl Ending {
    /// How many were ended.
    pub async fn stop(self) -> usize {
        // It may have failed, which is told below.
        let _ = self.stop.send(());
        self.task.await.expect("no panic")
    }
}
