//! Servers that follow another, and one that takes over.

use std::time::Duration;

use sea_orm::sqlx::{self, Row};

use super::{Database, DatabaseServer, GRANTS, Kind};
use crate::harness::wait::eventually;

const LIMIT: Duration = Duration::from_secs(60);

/// What a server needs to follow another, and to be followed.
fn arguments(kind: Kind, id: u32) -> Vec<String> {
    let id = format!("--server-id={id}");
    let more: &[&str] = match kind {
        Kind::MariaDb => &["--log-slave-updates"],
        _ => &["--gtid-mode=ON", "--enforce-gtid-consistency=ON"],
    };
    let all = ["--log-bin=binlog", "--sync-binlog=1", &id]
        .into_iter()
        .chain(more.iter().copied());
    all.map(String::from).collect()
}

/// Who may read the log of a server.
const REPLICA: &str = "CREATE USER IF NOT EXISTS repl@'%' IDENTIFIED BY 'repl'; \
                       GRANT REPLICATION SLAVE ON *.* TO repl@'%'";

impl DatabaseServer {
    /// A server that others can follow, with more arguments, and something in its environment.
    pub async fn to_be_followed(
        kind: Kind,
        more: &[&str],
        environment: Vec<(String, String)>,
    ) -> DatabaseServer {
        let id = rand::random_range(1..u32::MAX);
        let arguments = arguments(kind, id);
        let arguments: Vec<_> = arguments
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        DatabaseServer::dedicated_in(kind, &arguments, environment).await
    }

    /// A server that has nothing either, follows this one from here on, and writes nothing by itself.
    pub async fn empty_replica(&self) -> DatabaseServer {
        let replica = DatabaseServer::to_be_followed(self.kind, &[], self.environment.clone()).await;
        self.execute(REPLICA).await;
        let port = self.port();
        let follow = match self.kind {
            Kind::MariaDb => {
                let at = self.text("SELECT CAST(@@GLOBAL.gtid_binlog_pos AS CHAR)").await;
                format!(
                    "RESET MASTER; SET GLOBAL gtid_slave_pos = '{at}'; {}",
                    follow(port)
                )
            }
            _ => {
                let at = self.text("SELECT @@GLOBAL.gtid_executed").await;
                format!(
                    "RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged = '{at}'; CHANGE REPLICATION SOURCE TO \
                     SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'repl', SOURCE_PASSWORD = 'repl', \
                     SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1; START REPLICA; SET GLOBAL read_only = 1"
                )
            }
        };
        replica.execute(&follow).await;
        replica
    }

    /// A MariaDB that has what this one has of a database, follows it, and writes nothing by itself. What it is told is
    /// what an operator would tell it.
    pub async fn replica_of(&self, database: &Database) -> (DatabaseServer, Database) {
        let replica = DatabaseServer::to_be_followed(Kind::MariaDb, &[], self.environment.clone()).await;
        self.execute(REPLICA).await;
        let (user, password, name) = database.login();
        replica
            .execute(&format!(
                "SET SESSION sql_log_bin = 0; CREATE DATABASE `{name}`; \
                 CREATE USER `{user}`@`%` IDENTIFIED BY '{password}'; \
                 GRANT {GRANTS} ON `{pattern}`.* TO `{user}`@`%`; {REPLICA}; RESET MASTER",
                pattern = name.replace('_', "\\_"),
            ))
            .await;
        let copy = replica.holding(database).await;
        let dump = database.dump_for_a_replica().await;
        copy.restore(&[b"SET SESSION sql_log_bin = 0;\n", &dump[..]].concat())
            .await;
        replica.execute(&follow(self.port())).await;
        (replica, copy)
    }

    /// Hears no more of the server that it follows.
    pub async fn stop_listening(&self) {
        self.execute("STOP SLAVE IO_THREAD").await;
    }

    /// From now on the server that is followed answers nobody before this one, a MariaDB, has what is committed.
    pub async fn make_semi_synchronous(&self, primary: &DatabaseServer) {
        self.execute(
            "SET GLOBAL rpl_semi_sync_slave_enabled = 1; STOP SLAVE IO_THREAD; START SLAVE IO_THREAD",
        )
        .await;
        primary
            .execute(
                "SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_SYNC'; \
                 SET GLOBAL rpl_semi_sync_master_timeout = 600000; SET GLOBAL rpl_semi_sync_master_enabled = 1",
            )
            .await;
        eventually("the replica confirms what it gets", LIMIT, || async {
            let select = "SELECT COUNT(*) FROM information_schema.global_status WHERE \
                          (variable_name = 'RPL_SEMI_SYNC_MASTER_CLIENTS' AND variable_value > 0) \
                          OR (variable_name = 'RPL_SEMI_SYNC_MASTER_STATUS' AND variable_value = 'ON')";
            primary.number(select).await == 2
        })
        .await;
    }

    /// Does what it has heard of and not done yet, and takes writes from then on.
    pub async fn take_over(&self) {
        self.execute("STOP SLAVE IO_THREAD").await;
        eventually("the replica has done all that it heard of", LIMIT, || async {
            let state = self.of_the_replica("Slave_SQL_Running_State").await;
            let error = self.of_the_replica("Last_SQL_Error").await;
            assert_eq!(error, "", "a replica that cannot go on");
            state.starts_with("Slave has read all relay log")
        })
        .await;
        self.execute("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0")
            .await;
    }

    async fn of_the_replica(&self, column: &str) -> String {
        let mut root = self.connect().await.expect("root connects");
        let row = sqlx::query("SHOW SLAVE STATUS").fetch_one(&mut root).await;
        // Between two states it is in none.
        let value: Option<String> = row.expect("it is a replica").get(column);
        value.unwrap_or_default()
    }

    async fn text(&self, select: &str) -> String {
        let mut root = self.connect().await.expect("root connects");
        let text = sqlx::query_scalar(sqlx::AssertSqlSafe(select))
            .fetch_one(&mut root)
            .await;
        text.unwrap_or_else(|error| panic!("{select}: {error}"))
    }

    async fn number(&self, select: &str) -> i64 {
        let mut root = self.connect().await.expect("root connects");
        let number = sqlx::query_scalar(sqlx::AssertSqlSafe(select))
            .fetch_one(&mut root)
            .await;
        number.unwrap_or_else(|error| panic!("{select}: {error}"))
    }
}

/// MariaDB's way, from where it is said to be.
fn follow(port: u16) -> String {
    format!(
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'repl', \
         MASTER_PASSWORD = 'repl', MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos; START SLAVE; \
         SET GLOBAL read_only = 1"
    )
}
