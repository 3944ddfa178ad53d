//! The harness itself: what every other test relies on.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chat_tests::{
    CommitFault, Database, DatabaseServer, Events, Kind, Proxy, Server, StalledEvents, databases::GRANTS,
    eventually, on_database_servers, on_each_database, server::now, server::token,
};
use sea_orm::{
    ConnectionTrait,
    sqlx::{self, Connection, MySqlConnection},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(60);

on_each_database! {
    async fn fresh_databases_are_empty_and_separate(kind) {
        let (one, other) = (Database::fresh(kind).await, Database::fresh(kind).await);
        one.execute("CREATE TABLE probe (id BIGINT PRIMARY KEY)").await;
        one.execute("INSERT INTO probe VALUES (7)").await;
        assert_eq!(one.number("SELECT id FROM probe").await, 7);
        assert!(other.root().await.execute_unprepared("SELECT id FROM probe").await.is_err());
        assert_ne!(one.url(), other.url());
    }

    async fn the_server_is_killed_and_restarted_and_stops_cleanly(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        let (port, pid) = (server.port(), server.pid());
        server.kill9().await;
        assert!(!exists(pid) && !server.is_running());
        server.restart().await;
        assert_eq!(server.port(), port);
        assert_ne!(server.pid(), pid);
        server.sigstop();
        assert!(server.is_running());
        server.sigcont();
        server.ready().await;
        server.stop().await;
        let verified = server.run(&["verify"]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
        let refused = chat_tests::run(&database, &["no-such-command"], &[]).await;
        assert_ne!(refused.code, 0);
        assert!(!refused.stderr.is_empty(), "{refused:?}");
    }
}

on_database_servers! {
    async fn the_user_has_the_named_rights_on_its_own_database_and_no_others(kind) {
        let (own, other) = (Database::fresh(kind).await, Database::fresh(kind).await);
        let mut user = connect(&own.url()).await;
        for sql in [
            "CREATE TABLE probe (id BIGINT PRIMARY KEY)",
            "ALTER TABLE probe ADD COLUMN text VARCHAR(10), ADD INDEX by_text (text)",
            "INSERT INTO probe VALUES (1, 'x')",
            "UPDATE probe SET text = 'y'",
            "DELETE FROM probe",
            "DROP TABLE probe",
        ] {
            run(&mut user, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        let foreign = other.url().rsplit('/').next().unwrap().to_string();
        for sql in [
            format!("CREATE TABLE `{foreign}`.probe (id BIGINT)"),
            "CREATE DATABASE chat_mine".into(),
            "CREATE DATABASE chatXmine".into(),
            "SELECT * FROM mysql.user".into(),
            "SET GLOBAL innodb_flush_log_at_trx_commit = 0".into(),
            "CREATE PROCEDURE probe() SELECT 1".into(),
        ] {
            assert!(run(&mut user, &sql).await.is_err(), "allowed: {sql}");
        }
        assert!(!GRANTS.contains("LOCK TABLES"));
    }

    async fn a_database_goes_with_its_fixture(kind) {
        let stays = Database::fresh(kind).await;
        let name = Database::fresh(kind).await.url().rsplit('/').next().unwrap().to_string();
        let count = format!(
            "SELECT (SELECT COUNT(*) FROM information_schema.schemata WHERE schema_name = '{name}') \
             + (SELECT COUNT(*) FROM mysql.user WHERE user = '{name}')"
        );
        eventually("neither database nor user is left", LIMIT, || async { stays.number(&count).await == 0 }).await;
    }

    async fn the_server_is_as_durable_as_production(kind) {
        let database = Database::fresh(kind).await;
        assert_eq!(database.number("SELECT @@innodb_flush_log_at_trx_commit").await, 1);
        assert_eq!(database.number("SELECT @@max_connections").await, 1000);
        assert_eq!(database.number("SELECT @@max_allowed_packet").await, 64 << 20);
        if kind == Kind::MySql {
            assert_eq!(database.number("SELECT @@log_bin * @@sync_binlog").await, 1);
        }
    }

    async fn a_dedicated_server_keeps_its_data_and_its_port_over_a_kill_9(kind) {
        let mut server = DatabaseServer::dedicated(kind, &["--wait-timeout=77"]).await;
        let database = server.fresh().await;
        let (port, pid) = (server.port(), server.pid());
        assert_eq!(database.number("SELECT @@GLOBAL.wait_timeout").await, 77);
        database.execute("CREATE TABLE probe (id BIGINT PRIMARY KEY); INSERT INTO probe VALUES (7)").await;
        server.kill9().await;
        assert!(!exists(pid));
        server.start().await;
        assert_eq!(server.port(), port);
        assert_eq!(database.number("SELECT id FROM probe").await, 7);
        server.stop().await;
        server.start().await;
        // The user logs in without TLS too, which a proxy needs.
        connect(&format!("{}?ssl-mode=disabled", database.url())).await;
    }

    async fn a_frozen_server_answers_when_it_is_thawed(kind) {
        let server = DatabaseServer::dedicated(kind, &[]).await;
        let database = server.fresh().await;
        assert_eq!(database.number("SELECT 1").await, 1);
        server.sigstop();
        let asked = Instant::now();
        let frozen = tokio::time::timeout(Duration::from_millis(300), database.number("SELECT 1")).await;
        assert!(frozen.is_err(), "it answered while frozen, after {:?}", asked.elapsed());
        server.sigcont();
        assert_eq!(database.number("SELECT 2").await, 2);
    }

    async fn the_proxy_loses_the_answer_of_a_commit_that_was_made(kind) {
        let (database, proxy) = behind_proxy(kind).await;
        proxy.break_next_commits(CommitFault::AnswerLost, 1);
        commit_one(&proxy.url(&database), 1).await.expect_err("the connection is cut");
        eventually("the row is there", LIMIT, || async { rows(&database).await == 1 }).await;
        assert_eq!(proxy.commits_broken(), 1);
        commit_one(&proxy.url(&database), 2).await.expect("only one commit was to be broken");
    }

    async fn the_proxy_loses_a_commit(kind) {
        let (database, proxy) = behind_proxy(kind).await;
        proxy.break_commits(CommitFault::CommitLost, 1.0);
        for id in 1..=3 {
            commit_one(&proxy.url(&database), id).await.expect_err("the connection is cut");
        }
        proxy.break_commits(CommitFault::CommitLost, 0.0);
        // Waits for the locks of the lost ones, so that they are decided.
        commit_one(&proxy.url(&database), 1).await.expect("nothing is broken any more");
        assert_eq!((rows(&database).await, proxy.commits_broken()), (1, 3));
    }

    async fn the_proxy_delivers_a_commit_after_its_client_is_gone(kind) {
        let (database, proxy) = behind_proxy(kind).await;
        proxy.break_next_commits(CommitFault::CommitHeldBack, 1);
        commit_one(&proxy.url(&database), 1).await.expect_err("the connection is cut");
        assert_eq!(rows(&database).await, 0, "a plain look finds nothing");
        // The same key again waits for the lock, and then meets the row.
        let url = database.url();
        let delivered = async {
            let inserting = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE 'INSERT%'";
            eventually("it waits", LIMIT, || async { database.number(inserting).await > 0 }).await;
            assert_eq!(rows(&database).await, 0);
            proxy.deliver_commits();
        };
        let (again, ()) = tokio::join!(commit_one(&url, 1), delivered);
        let again = again.expect_err("the row is there by now");
        assert!(again.to_string().contains("Duplicate"), "{again}");
        assert_eq!(rows(&database).await, 1);
    }

    async fn the_proxy_delivers_a_commit_after_a_time(kind) {
        let (database, proxy) = behind_proxy(kind).await;
        proxy.break_next_commits(CommitFault::CommitLate(Duration::from_millis(50)), 1);
        commit_one(&proxy.url(&database), 1).await.expect_err("the connection is cut");
        eventually("the row is there", LIMIT, || async { rows(&database).await == 1 }).await;
    }

    async fn the_proxy_stops_a_connection_at_a_statement(kind) {
        let (database, proxy) = behind_proxy(kind).await;
        for (stops_after, left) in [(false, 0), (true, 1)] {
            if stops_after {
                proxy.stop_after("INSERT INTO probe");
            } else {
                proxy.stop_before("INSERT INTO probe");
            }
            let stopped = async {
                let mut connection = connect(&proxy.url(&database)).await;
                run(&mut connection, "DELETE FROM probe").await.unwrap();
                run(&mut connection, "INSERT INTO probe VALUES (7)").await
            };
            let seen = async {
                eventually("it stops", LIMIT, || async { proxy.has_stopped() }).await;
                eventually("what was passed on is done", LIMIT, || async { rows(&database).await == left }).await;
            };
            tokio::select! {
                answer = stopped => panic!("it was answered: {answer:?}"),
                () = seen => {}
            }
            commit_one(&proxy.url(&database), 8).await.expect("others go on");
            database.execute("DELETE FROM probe").await;
        }
    }
}

#[tokio::test]
async fn the_proxy_cuts_refuses_stalls_and_delays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap().port()).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert!(echoes(&mut stream).await);

    proxy.stall(true);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), echoes(&mut stream))
            .await
            .is_err()
    );
    proxy.stall(false);
    assert_eq!(
        stream.read_u8().await.unwrap(),
        b'x',
        "what was held back arrives"
    );

    proxy.delay(Duration::from_millis(50));
    let begin = Instant::now();
    assert!(echoes(&mut stream).await);
    assert!(
        begin.elapsed() >= Duration::from_millis(100),
        "held back in each direction"
    );
    proxy.delay(Duration::ZERO);

    proxy.cut();
    assert!(!echoes(&mut stream).await);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert!(
        echoes(&mut stream).await,
        "new connections are served after a cut"
    );

    proxy.refuse(true);
    let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert!(!echoes(&mut refused).await);
    assert!(echoes(&mut stream).await, "those that are open stay");
}

#[tokio::test]
async fn the_stream_reader_gives_frames_and_follows_the_chain() {
    let mut events = Events::connect(&stream_of(CHAINED).await, "token", Some("e:1"))
        .await
        .unwrap();
    let ready = events.next(LIMIT).await.unwrap();
    assert_eq!(
        (ready.event.as_str(), ready.id.as_str(), &ready.data["head"]),
        ("ready", "e:1", &json!(9))
    );
    assert_eq!(events.event(LIMIT).await["type"], "message.sent");
    assert_eq!(events.named("closing", LIMIT).await.data["code"], "shutdown");
    assert_eq!(events.cursor(), Some("e:4"));
    assert_eq!(events.next(LIMIT).await, None);
}

#[tokio::test]
#[should_panic(expected = "the chain is broken")]
async fn the_stream_reader_finds_a_lost_frame() {
    let stream = CHAINED.replace("\"prev\":\"e:2\"", "\"prev\":\"e:3\"");
    let mut events = Events::connect(&stream_of(&stream).await, "token", None)
        .await
        .unwrap();
    events.named("closing", LIMIT).await;
}

#[tokio::test]
async fn a_stalled_reader_holds_up_whoever_writes_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _reader = StalledEvents::connect(&url, "token", None).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let flood = stream.write_all(&[b'x'; 16 << 20]);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), flood).await.is_err(),
        "16 MiB were taken"
    );
}

#[test]
fn tokens_are_signed_for_the_server() {
    let token = token(&json!({"sub": "alice", "exp": now() + 60}));
    let key = jsonwebtoken::DecodingKey::from_secret(chat_tests::server::jwt_secret().as_bytes());
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let claims = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["sub"], "alice");
}

#[tokio::test]
async fn nothing_is_left_after_a_kill_9_of_the_test_process() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            concat!(module_path!(), "::holds_databases_until_it_is_killed")
                .split_once("::")
                .unwrap()
                .1,
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let held = lines
        .find_map(|line| Some(line.split_once("HELD ")?.1.to_string()))
        .unwrap();
    let (pid, folder) = held.split_once(' ').unwrap();
    let (pid, folder) = (pid.parse().unwrap(), Path::new(folder));
    assert!(exists(pid) && folder.exists());
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the server has ended", LIMIT, || async { !exists(pid) }).await;
    eventually("the folder is removed", LIMIT, || async { !folder.exists() }).await;
}

/// Not a test: the process that `nothing_is_left_after_a_kill_9_of_the_test_process` kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn holds_databases_until_it_is_killed() {
    let server = DatabaseServer::dedicated(Kind::MariaDb, &[]).await;
    // A server that does not even hear TERM goes too.
    server.sigstop();
    let file = Database::fresh(Kind::Sqlite).await.file();
    let folder = file.ancestors().nth(2).unwrap();
    let held = format!("HELD {} {}\n", server.pid(), folder.display());
    std::io::stdout().write_all(held.as_bytes()).unwrap();
    std::future::pending::<()>().await;
}

const CHAINED: &str = concat!(
    "retry: 500\n\n",
    "event: ready\nid: e:1\ndata: {\"cursor\":\"e:1\",\"head\":9}\n\n",
    ": a comment\n\n",
    "id: e:2\ndata: {\"cursor\":\"e:2\",\"prev\":\"e:1\",\"type\":\"message.sent\"}\n\n",
    "event: heartbeat\nid: e:4\ndata: {\"cursor\":\"e:4\",\"prev\":\"e:2\"}\n\n",
    "event: closing\ndata: {\"code\":\"shutdown\",\"retry_after\":1}\n\n",
);

/// The URL of a server that answers one request with this stream.
async fn stream_of(body: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let answer = format!("{head}{body}");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    url
}

async fn behind_proxy(kind: Kind) -> (Database, Proxy) {
    let database = Database::fresh(kind).await;
    database
        .execute("CREATE TABLE probe (id BIGINT PRIMARY KEY)")
        .await;
    let proxy = Proxy::before(&database).await;
    (database, proxy)
}

async fn commit_one(url: &str, id: i64) -> Result<(), sqlx::Error> {
    let mut connection = connect(url).await;
    let mut transaction = connection.begin().await?;
    sqlx::query("INSERT INTO probe VALUES (?)")
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn rows(database: &Database) -> i64 {
    database.number("SELECT COUNT(*) FROM probe").await
}

async fn connect(url: &str) -> MySqlConnection {
    MySqlConnection::connect(url).await.unwrap()
}

async fn run(connection: &mut MySqlConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_string()))
        .execute(connection)
        .await
        .map(drop)
}

async fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok()
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
