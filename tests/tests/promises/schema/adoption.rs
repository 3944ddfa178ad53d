//! A legacy table, made by its exact SQL, is adopted with its rows, served, and given back; interrupted anywhere.
//!
//! `ADOPTION_ROWS=1000000` says how many rows the tables have, and `ADOPTION_FIGURES` has the binary's time and memory
//! told.

use std::time::{Duration, Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use chat_tests::{
    Database, DatabaseServer, Outcome, Proxy, Running, Server, eventually,
    inside::{self, schema},
    listener::{Door, Listener},
    on_database_servers, run, seed, sized, start_command,
};
use futures_util::{StreamExt, stream};
use sea_orm::sqlx::{self, AssertSqlSafe, Connection, MySqlConnection};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(600);
const QUIET: (&str, &str) = ("CHAT_LOG", "off");

const APPLIED: [&str; 4] = [
    "m20261123_000001_create_log",
    "m20261123_000002_create_projections",
    "m20261201_000004_expand_lost_ends",
    "m20261125_000003_adopt_seed_table",
];
/// What an old client does.
const OLD_INSERT: &str = "INSERT INTO messages (sender_id, reciver_id, sent_at, data) VALUES ('user1', 'user2', 1700000000, 'late')";
const COLUMNS: [&str; 6] = ["_id", "sender_id", "reciver_id", "sent_at", "recived_at", "data"];

/// How many databases a test works on at once, where it takes one for each case.
const AT_ONCE: usize = 4;

/// How many rows go over in one transaction.
const STEP: i64 = 10_000;

/// How many rows the table has that is adopted without an accident.
fn rows() -> i64 {
    given_rows().unwrap_or_else(|| sized(20_000, 1_000_000))
}

/// How many rows the table has whose adoption is killed: so many that each place in them where it is
/// killed is in another step.
fn rows_of_the_killed() -> i64 {
    given_rows().unwrap_or_else(|| sized(4 * STEP, 100_000))
}

fn given_rows() -> Option<i64> {
    let given = std::env::var("ADOPTION_ROWS").ok();
    given.map(|rows| rows.parse().unwrap())
}

/// The `_id` of a row of [`fill_seed`], which counts them from 0.
fn id_of(row: i64) -> i64 {
    5 + row + row / 1000 * 7
}

/// Rows of a table that was in use for years: holes in `_id`, the last rows deleted, and something of everything odd
/// that can be adopted. What it is then is kept beside it.
async fn fill_seed(database: &Database, rows: i64) {
    let digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
                  SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    for begin in (0..rows).step_by(10_000) {
        database
            .execute(&format!(
                "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data) \
                 SELECT 5 + n + n DIV 1000 * 7, CONCAT('user', n % 97), CONCAT('user', n * 31 % 89), 1600000000 + n, \
                 IF(n % 5 = 0, NULL, 1600000003 + n), CONCAT('message ', n, REPEAT(' and more', n % 20)) \
                 FROM (SELECT {begin} + a.d + 10 * b.d + 100 * c.d + 1000 * e.d AS n \
                 FROM {digits} a, {digits} b, {digits} c, {digits} e) numbers WHERE n < {rows} ORDER BY n"
            ))
            .await;
    }
    for sql in [
        "UPDATE messages SET data = NULL WHERE _id % 1009 = 0",
        "UPDATE messages SET data = '' WHERE _id % 1013 = 0",
        "UPDATE messages SET data = x'00ff10' WHERE _id % 1019 = 0",
        // Half of a surrogate, which is no UTF-8, and a letter of four bytes, which is.
        "UPDATE messages SET data = x'eda080' WHERE _id % 1021 = 0",
        "UPDATE messages SET data = x'f09fa680' WHERE _id % 1031 = 0",
        "UPDATE messages SET sent_at = 0 WHERE _id % 5003 = 0",
        "UPDATE messages SET sent_at = 4294967295 WHERE _id % 7001 = 0",
        "UPDATE messages SET sent_at = sent_at - 500 WHERE _id % 3001 = 0",
        "UPDATE messages SET recived_at = sent_at - 1 WHERE _id % 1511 = 0 AND sent_at > 0",
        "UPDATE messages SET sender_id = 'User5' WHERE _id % 2003 = 0",
        "UPDATE messages SET reciver_id = sender_id WHERE _id % 1601 = 0",
        "UPDATE messages SET data = REPEAT('long ', 60000), sender_id = 'user5', reciver_id = 'user6' WHERE _id = 506",
    ] {
        database.execute(sql).await;
    }
    database
        .execute("INSERT INTO messages (sender_id, reciver_id, sent_at, data) VALUES ('a', 'b', 1, 'x'), ('a', 'b', 1, 'y')")
        .await;
    database
        .execute("DELETE FROM messages WHERE sender_id = 'a'")
        .await;
    keep(database).await;
}

async fn keep(database: &Database) {
    database
        .execute("CREATE TABLE kept (PRIMARY KEY (_id)) SELECT * FROM messages")
        .await;
}

/// How many rows are not byte for byte what they were, in both directions up to a number.
async fn differing(database: &Database, table: &str, up_to: i64) -> i64 {
    let same: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("CAST(k.{column} AS BINARY) <=> CAST(m.{column} AS BINARY)"))
        .collect();
    let changed = database
        .number(&format!(
            "SELECT COUNT(*) FROM kept k LEFT JOIN {table} m ON m._id = k._id WHERE NOT ({})",
            same.join(" AND ")
        ))
        .await;
    let new = database
        .number(&format!(
            "SELECT COUNT(*) FROM {table} m LEFT JOIN kept k ON k._id = m._id WHERE k._id IS NULL AND m._id <= {up_to}"
        ))
        .await;
    changed + new
}

async fn definition(database: &Database) -> String {
    let tables = schema(database).await;
    let of_messages = |line: &&String| line.starts_with("CREATE TABLE `messages` (");
    tables.iter().find(of_messages).unwrap().clone()
}

async fn migrate(database: &Database, arguments: &[&str]) -> Outcome {
    let arguments: Vec<_> = ["migrate"].iter().chain(arguments).copied().collect();
    run(database, &arguments, &[QUIET]).await
}

async fn goes(database: &Database, arguments: &[&str]) -> String {
    let outcome = migrate(database, arguments).await;
    assert_eq!(
        (outcome.code, outcome.stderr.as_str()),
        (0, ""),
        "{arguments:?}: {outcome:?}"
    );
    outcome.stdout
}

fn refusal(outcome: &Outcome) -> &str {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    let line = outcome.stderr.strip_suffix('\n').unwrap();
    assert!(
        line.starts_with("chat-system: ") && !line.contains('\n'),
        "one line: {outcome:?}"
    );
    &line["chat-system: ".len()..]
}

async fn refuses(database: &Database, arguments: &[&str], text: &str) {
    let outcome = migrate(database, arguments).await;
    let line = refusal(&outcome);
    assert!(line.contains(text), "{line} and not {text}");
}

async fn verifies(database: &Database) {
    let verified = run(database, &["verify"], &[QUIET]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.stdout.starts_with("everything agrees: "), "{verified:?}");
}

/// A client of the original system's: it logs in as the service does, and knows nothing of it.
struct OldClient(MySqlConnection);

impl OldClient {
    async fn connect(database: &Database) -> Self {
        Self(MySqlConnection::connect(&database.url()).await.unwrap())
    }

    async fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut self.0)
            .await
            .map(|_| ())
    }

    /// Refused in every `sql_mode`.
    async fn is_kept_out(database: &Database) {
        let mut client = Self::connect(database).await;
        for mode in ["'STRICT_ALL_TABLES'", "''"] {
            client
                .run(&format!("SET SESSION sql_mode = {mode}"))
                .await
                .unwrap();
            let refused = client.run(OLD_INSERT).await;
            assert!(refused.is_err(), "sql_mode {mode}");
            let values = "INSERT INTO messages VALUES (NULL, 'user1', 'user2', 1700000000, NULL, 'late')";
            assert!(client.run(values).await.is_err(), "sql_mode {mode}");
        }
        client.0.close().await.unwrap();
    }
}

/// Where a command is killed: beside a statement of it. What this query counts is there then.
struct Point {
    name: &'static str,
    says: String,
    /// Whether the database has that statement.
    is_passed_on: bool,
    query: String,
}

impl Point {
    /// While the database works on the statement.
    fn at(name: &'static str, says: &str, query: impl Into<String>) -> Self {
        Self {
            name,
            says: says.into(),
            is_passed_on: true,
            query: query.into(),
        }
    }

    /// Before the database has the statement.
    fn before(name: &'static str, says: &str, query: impl Into<String>) -> Self {
        Self {
            is_passed_on: false,
            ..Self::at(name, says, query)
        }
    }

    /// In the step after that which goes past so many hundredths of the table.
    fn in_step_after(name: &'static str, share: i64, rows: i64) -> Self {
        let least = id_of(rows - 1) * share / 100;
        let end = |step: i64| id_of(step * STEP - 1);
        let step = (1..).find(|step| end(*step) >= least).unwrap();
        assert!((step + 1) * STEP <= rows, "{name}: there is one more step");
        Self::at(
            name,
            &format!("UPDATE adoption SET position = {} ", end(step + 1)),
            format!("SELECT position = {} FROM adoption", end(step)),
        )
    }

    async fn is_reached(&self, database: &Database) -> bool {
        database.number(&self.query).await > 0
    }
}

fn table(name: &str) -> String {
    format!(
        "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = '{name}'"
    )
}

/// Runs a command and kills it with SIGKILL at a point. What it had sent to the database is over when this returns.
async fn kill_at(database: &Database, arguments: &[&str], point: &Point) {
    let proxy = Proxy::before(database).await;
    if point.is_passed_on {
        proxy.stop_after(&point.says);
    } else {
        proxy.stop_before(&point.says);
    }
    let url = proxy.url(database);
    let settings = [QUIET, ("CHAT_DATABASE_URL", url.as_str())];
    let running: Running = start_command(database, arguments, &settings).await;
    eventually(point.name, LIMIT, || async {
        proxy.has_stopped() || !running.is_running()
    })
    .await;
    assert!(
        proxy.has_stopped(),
        "{}: it ended: {}",
        point.name,
        running.stderr()
    );
    drop(running);
    eventually("its connections end", LIMIT, || async {
        let connected =
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND user <> 'root'";
        database.number(connected).await == 0
    })
    .await;
    assert!(point.is_reached(database).await, "{}", point.name);
}

/// What a client is shown of a row.
fn shown(data: Option<&str>) -> (Option<String>, Option<Vec<u8>>, Option<&'static str>) {
    let Some(hex) = data else {
        return (None, None, None);
    };
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None, Some("text/plain")),
        Err(error) => (None, Some(error.into_bytes()), Some("application/octet-stream")),
    }
}

fn bytes_of(data: &Value) -> Vec<u8> {
    match data {
        Value::String(base64) => BASE64_STANDARD.decode(base64).unwrap(),
        other => panic!("data is {other}"),
    }
}

/// A row as it was: `_id|sender|receiver|sent_at|recived_at|hex of data`.
async fn kept_rows(database: &Database, condition: &str) -> Vec<Vec<String>> {
    let columns = "_id, sender_id, reciver_id, sent_at, recived_at, HEX(data)";
    let rows = inside::rows(database, &format!("kept WHERE {condition}"), columns, "_id").await;
    rows.iter()
        .map(|row| row.split('|').map(str::to_string).collect())
        .collect()
}

fn check_message(message: &Value, row: &[String]) {
    assert_eq!(message["_id"].to_string(), row[0]);
    assert_eq!(
        (&message["sender_id"], &message["receiver_id"]),
        (&json!(row[1]), &json!(row[2])),
        "{message}"
    );
    assert_eq!(message["sent_at"].to_string(), row[3], "{message}");
    let received = message["received_at"]
        .as_i64()
        .map_or("NULL".into(), |at| at.to_string());
    assert_eq!(received, row[4], "{message}");
    let data = (row[5] != "NULL").then_some(row[5].as_str());
    let (text, bytes, content_type) = shown(data);
    assert_eq!(message["text"].as_str(), text.as_deref(), "{row:?}");
    assert_eq!(message["content_type"].as_str(), content_type, "{row:?}");
    match bytes {
        Some(bytes) if message["data"].is_string() => assert_eq!(bytes_of(&message["data"]), bytes),
        // On socket.io bytes are attachments.
        Some(_) => assert!(!message["data"].is_null(), "{message}"),
        None => assert!(message["data"].is_null(), "{message}"),
    }
}

fn of_user(user: &str) -> String {
    format!("(BINARY sender_id = '{user}' OR BINARY reciver_id = '{user}')")
}

fn of_pair(one: &str, other: &str) -> String {
    format!(
        "((BINARY sender_id = '{one}' AND BINARY reciver_id = '{other}') OR \
         (BINARY sender_id = '{other}' AND BINARY reciver_id = '{one}'))"
    )
}

/// All pages of a conversation, forwards, within a range.
async fn history(server: &Server, user: &str, with: &str, range: &[(&str, String)]) -> Vec<Value> {
    let mut messages = Vec::new();
    let mut after = "0".to_string();
    loop {
        let mut query = vec![("with", with), ("after", after.as_str()), ("limit", "200")];
        query.extend(range.iter().map(|(name, value)| (*name, value.as_str())));
        let page = server.client(user).history(&query).await.unwrap();
        let found = page["messages"].as_array().unwrap().clone();
        let Some(last) = found.last() else { return messages };
        after = last["_id"].to_string();
        messages.extend(found);
        if page["next"].is_null() {
            return messages;
        }
    }
}

/// A served adopted log is right for whoever reads it.
async fn reads_right(server: &Server, database: &Database, count: i64, line: i64) {
    let rows = kept_rows(database, &of_user("user5")).await;
    assert!(rows.len() > 100, "{}", rows.len());
    for door in Door::ALL {
        let mut listener = Listener::connect(door, &server.url(), &server.token("user5"), Some("0"))
            .await
            .unwrap();
        for row in &rows {
            let event = listener.event(LIMIT).await;
            assert_eq!(
                (&event["type"], event["position"].to_string()),
                (&json!("message.sent"), row[0].clone()),
                "{door:?}"
            );
            check_message(&event["message"], row);
        }
        // From the middle of it, at a number that is a hole.
        let hole = database
            .number("SELECT MIN(a._id) + 1 FROM kept a LEFT JOIN kept b ON b._id = a._id + 1 WHERE b._id IS NULL AND a._id > 3000")
            .await;
        let (epoch, _) = listener.cursor().split_once(':').unwrap();
        let after = format!("{epoch}:{hole}");
        let mut listener = Listener::connect(door, &server.url(), &server.token("user5"), Some(&after))
            .await
            .unwrap();
        let next = listener.event(LIMIT).await;
        let expected = rows
            .iter()
            .find(|row| row[0].parse::<i64>().unwrap() > hole)
            .unwrap();
        assert_eq!(next["position"].to_string(), expected[0], "{door:?}");
    }

    // The conversation with the most in it that is odd, and the one with himself.
    for peer in ["user6", "user5", "User5"] {
        let rows = kept_rows(database, &of_pair("user5", peer)).await;
        let mut messages = history(server, "user5", peer, &[]).await;
        messages.retain(|message| message["_id"].as_i64().unwrap() <= line);
        assert_eq!(messages.len(), rows.len(), "with {peer}");
        for (n, (message, row)) in messages.iter().zip(&rows).enumerate() {
            check_message(message, row);
            assert_eq!(message["seq"], json!(n + 1));
        }
    }
    // Times that go back are found by what they are.
    let pair = database
        .text("SELECT CONCAT(sender_id, ' ', reciver_id) FROM kept WHERE sent_at = 4294967295 AND BINARY sender_id <> 'User5' ORDER BY _id LIMIT 1")
        .await;
    let (one, other) = pair.split_once(' ').unwrap();
    for (since, until) in [
        (None, Some(1_600_000_000 + count / 2)),
        (Some(1_600_000_000 + count / 2), None),
        (Some(1), Some(1_600_000_000 + count / 5)),
        (Some(4_294_967_295_i64), None),
        (None, Some(0)),
    ] {
        let mut range = Vec::new();
        let mut condition = of_pair(one, other);
        if let Some(since) = since {
            range.push(("since", since.to_string()));
            condition += &format!(" AND sent_at >= {since}");
        }
        if let Some(until) = until {
            range.push(("until", until.to_string()));
            condition += &format!(" AND sent_at <= {until}");
        }
        let rows = kept_rows(database, &condition).await;
        let found = history(server, one, other, &range).await;
        let found: Vec<_> = found
            .iter()
            .filter(|m| m["_id"].as_i64().unwrap() <= line)
            .map(|m| m["_id"].to_string())
            .collect();
        let expected: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(found, expected, "since {since:?} until {until:?}");
    }
    let conversations = server.client("user5").conversations().await.unwrap();
    for conversation in conversations["conversations"].as_array().unwrap() {
        assert_eq!(conversation["unread"], 0, "{conversation}");
    }
}

async fn projections(database: &Database) -> Vec<String> {
    let mut sums = Vec::new();
    for (table, columns, _) in inside::PROJECTIONS {
        let columns = columns.replace(", ", ", '|', ");
        let columns: Vec<_> = columns
            .split(", '|', ")
            .map(|column| format!("COALESCE({column}, 'NULL')"))
            .collect();
        let line = format!("SHA2(CONCAT_WS('|', {}), 256)", columns.join(", "));
        let sum = format!(
            "SELECT CONCAT(COUNT(*), ' ', SUM(CAST(CONV(LEFT({line}, 10), 16, 10) AS UNSIGNED))) FROM {table}"
        );
        sums.push(format!("{table}: {}", database.text(&sum).await));
    }
    sums
}

async fn projected(database: &Database) {
    eventually("the projector is done", LIMIT, || async {
        let behind = "SELECT (SELECT position FROM log_head) - (SELECT position FROM checkpoints WHERE name = 'received_at')";
        database.number(behind).await == 0
    })
    .await;
}

/// Tells how long a command took and the most memory that it had, where somebody wants to know.
async fn measured(database: &Database, arguments: &[&str]) -> String {
    let begin = Instant::now();
    let running = start_command(database, arguments, &[("CHAT_LOG", "info")]).await;
    let mut peak = 0;
    // A larger table may take longer.
    let limit = LIMIT * u32::try_from(rows() / 100_000).unwrap().max(1);
    eventually("the command ends", limit, || {
        peak = running.memory("VmHWM").unwrap_or(peak).max(peak);
        std::future::ready(!running.is_running())
    })
    .await;
    let outcome = running.outcome(LIMIT).await;
    assert_eq!(outcome.code, 0, "{outcome:?}");
    assert!(
        peak < 64 << 10,
        "{arguments:?} had {peak} kB, however many rows there are"
    );
    if std::env::var_os("ADOPTION_FIGURES").is_some() {
        eprintln!(
            "{arguments:?} on {:?}: {:?}, {peak} kB at most",
            database.kind(),
            begin.elapsed()
        );
    }
    // It says what it will take, and how far it is.
    for part in ["can be adopted", "rows are taken over", "the table is adopted"] {
        assert!(
            arguments != ["migrate", "up"] || outcome.stderr.contains(part),
            "{part}: {}",
            outcome.stderr
        );
    }
    outcome.stdout
}

on_database_servers! {
    /// The whole way, without an accident.
    async fn a_legacy_table_is_adopted_served_and_given_back(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        let count = rows();
        fill_seed(&database, count).await;
        let before = definition(&database).await;
        let line = database.number("SELECT MAX(_id) FROM kept").await + 2;
        assert!(before.contains(&format!("AUTO_INCREMENT={}", line + 1)), "{before}");

        let checked = goes(&database, &["check"]).await;
        for part in [
            "rows have no data: messages without content",
            "rows have empty data",
            "rows have data that is no UTF-8",
            "1 rows have more data than a message may have now (CHAT_CONTENT_LIMIT): they are adopted whole (_id 506)",
            "rows are from somebody to the same",
            "rows have sent_at 0",
            "rows were sent in the future",
            "rows were received before they were sent",
            "rows were never received",
            "rows are older than the row before them",
            "1 groups of ids differ only in case",
            "(User5 and user5)",
            "numbers between the first _id and the last have no row",
            "this user cannot see: triggers",
            &format!("{count} rows, _id 5 to {}", line - 2),
            "the table can be adopted",
        ] {
            assert!(checked.contains(part), "{part}: {checked}");
        }
        assert_eq!(definition(&database).await, before, "a check writes nothing");

        let served = run(&database, &["serve"], &[QUIET]).await;
        assert!(refusal(&served).contains("`chat-system migrate up` adopts it"), "{served:?}");
        assert_eq!(definition(&database).await, before, "a server adopts nothing by itself");

        let applied = measured(&database, &["migrate", "up"]).await;
        assert_eq!(applied.lines().collect::<Vec<_>>(), APPLIED.map(|name| format!("applied {name}")));
        assert_eq!(goes(&database, &["up"]).await, "nothing is pending\n");
        assert_eq!(goes(&database, &["check"]).await, "there is no legacy table to adopt\n");
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
        let head = "SELECT COUNT(*) FROM log_head WHERE oldest = 1 AND position = floor AND position = ";
        assert_eq!(database.number(&format!("{head}{line}")).await, 1);
        verifies(&database).await;
        OldClient::is_kept_out(&database).await;

        let mut server = Server::start(&database, &[]).await;
        reads_right(&server, &database, count, line).await;
        let seq = database.number(&format!("SELECT COUNT(*) FROM kept WHERE {}", of_pair("user5", "user6"))).await;
        let mut listener = Listener::connect(Door::Stream, &server.url(), &server.token("user6"), None).await.unwrap();
        let sent = server.client("user5").send("user6", "new", Some("k")).await.unwrap();
        assert_eq!((&sent["_id"], &sent["seq"]), (&json!(line + 1), &json!(seq + 1)));
        assert_eq!(listener.event(LIMIT).await["message"]["text"], "new");
        assert!(sent["sent_at"].as_i64().unwrap() < 4_294_967_295, "the time is the true one again");
        let of_receiver = server.client("user6").conversations().await.unwrap();
        assert_eq!((&of_receiver["conversations"][0]["with"], &of_receiver["conversations"][0]["unread"]), (&json!("user5"), &json!(1)));
        let marks = server.client("user6").receipt("read", line + 1).await.unwrap();
        assert_eq!((&marks["received_seq"], &marks["read_seq"]), (&json!(seq + 1), &json!(seq + 1)));
        reads_right(&server, &database, count, line).await;
        projected(&database).await;
        server.stop().await;
        verifies(&database).await;

        let projected = projections(&database).await;
        let rebuilt = run(&database, &["rebuild"], &[QUIET]).await;
        assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
        assert_eq!(projections(&database).await, projected, "the log holds all of it");
        assert_eq!(differing(&database, "messages", line).await, 0);
        verifies(&database).await;

        refuses(&database, &["down"], "the log holds 2 events since the table was adopted").await;
        let undone = measured(&database, &["migrate", "down", "--discard-log"]).await;
        assert_eq!(undone.lines().collect::<Vec<_>>(), [APPLIED[3], APPLIED[2], APPLIED[1], APPLIED[0]].map(|name| format!("undone {name}")));
        assert_eq!(differing(&database, "messages", line).await, 0, "the same rows byte for byte");
        let new = inside::rows(&database, &format!("messages WHERE _id > {line}"), "_id, sender_id, reciver_id, recived_at > 0, data", "_id").await;
        assert_eq!(new, [format!("{}|user5|user6|1|new", line + 1)], "and the message since");
        let after = before.replace(&format!("AUTO_INCREMENT={}", line + 1), &format!("AUTO_INCREMENT={}", line + 3));
        assert_eq!(definition(&database).await, after, "the number of the receipt is not given out again");
        assert_eq!(schema(&database).await.len(), 2, "nothing else is left but what the test keeps");

        // The old client goes on.
        OldClient::connect(&database).await.run(OLD_INSERT).await.unwrap();
        assert_eq!(database.number("SELECT MAX(_id) FROM messages").await, line + 3);
    }

    /// Killed all the way there.
    async fn an_adoption_that_was_killed_goes_on(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        let count = rows_of_the_killed();
        fill_seed(&database, count).await;
        let before = definition(&database).await;
        let last = database.number("SELECT MAX(_id) FROM kept").await;
        let has_a_head = "SELECT COUNT(*) FROM log_head";
        for point in [
            Point::at("the record is made", "REPLACE INTO adoption", table("adoption")),
            Point::at("the table is closed", "RENAME TABLE `messages` TO `messages_seed`", table("messages_seed")),
            Point::at("the line is drawn", "UPDATE adoption SET line = ", "SELECT COUNT(*) FROM adoption WHERE line IS NOT NULL"),
            Point::at("the log is made", "CREATE TABLE IF NOT EXISTS `messages_adopted`", table("outbox")),
            Point::in_step_after("some rows are over", 5, count),
            Point::in_step_after("a third is over", 33, count),
            Point::in_step_after("most rows are over", 66, count),
            Point::at("all rows are over", "INSERT INTO `checkpoints`", format!("SELECT position = {last} FROM adoption")),
            Point::before("the log has a head", "RENAME TABLE `messages` TO `messages_closed`", has_a_head),
            Point::at("the table is opened", "RENAME TABLE `messages` TO `messages_closed`", has_a_head),
        ] {
            kill_at(&database, &["migrate", "up"], &point).await;
            if !schema(&database).await.iter().any(|table| table.starts_with("CREATE TABLE `messages_seed`")) {
                continue;
            }
            // Nothing serves, and no old client gets anything in. A version from before finds what it refuses: a table
            // `messages` without a column `conversation_id`, until all is there.
            let columns = "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
                           AND table_name = 'messages' AND column_name = 'conversation_id'";
            let complete = database.number(columns).await == 1;
            assert!(!complete || database.number("SELECT COUNT(*) FROM log_head").await == 1);
            if !complete {
                for settings in [&[QUIET][..], &[QUIET, ("CHAT_MIGRATE", "false")]] {
                    let served = run(&database, &["serve"], settings).await;
                    let line = refusal(&served);
                    assert!(line.contains("is adopted half-way") && line.contains("`chat-system migrate up`"), "{line}");
                }
                for command in [&["verify"][..], &["rebuild"], &["epoch", "new"]] {
                    assert!(refusal(&run(&database, command, &[QUIET]).await).contains("is adopted half-way"));
                }
                assert!(goes(&database, &["status"]).await.contains("is adopted half-way"), "{}", point.name);
                assert!(goes(&database, &["check"]).await.contains("the table can be adopted"), "{}", point.name);
            }
            OldClient::is_kept_out(&database).await;
        }
        goes(&database, &["up"]).await;
        assert_eq!(goes(&database, &["status"]).await, APPLIED.map(|name| format!("applied {name}\n")).concat());
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
        verifies(&database).await;
        let left = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() \
                    AND table_name IN ('messages_seed', 'messages_adopted', 'messages_closed')";
        assert_eq!(database.number(left).await, 0);
        let mut server = Server::start(&database, &[]).await;
        reads_right(&server, &database, count, last).await;
        server.stop().await;
        goes(&database, &["down"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
        assert_eq!(definition(&database).await, before);
        assert_eq!(schema(&database).await.len(), 2);
    }

    /// Killed all the way back.
    async fn a_way_back_that_was_killed_goes_on(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        let count = rows_of_the_killed();
        fill_seed(&database, count).await;
        let before = definition(&database).await;
        goes(&database, &["up"]).await;
        for point in [
            Point::at("writers are stopped", "RENAME TABLE `messages` TO `messages_adopted`",
                "SELECT COUNT(*) FROM adoption WHERE state = 'returning'"),
            Point::at("the legacy table is made", "CREATE TABLE `messages_seed`", table("messages_seed")),
            Point::in_step_after("some rows are back", 10, count),
            Point::in_step_after("most rows are back", 66, count),
            Point::at("the legacy table is back", "RENAME TABLE `messages` TO `messages_closed`",
                "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
                AND table_name = 'messages' AND column_name = 'sender_id' AND (SELECT state FROM adoption) = 'returning'"),
        ] {
            kill_at(&database, &["migrate", "down"], &point).await;
            let served = run(&database, &["serve"], &[QUIET]).await;
            let line = refusal(&served);
            assert!(line.contains("`migrate down` was interrupted"), "{}: {line}", point.name);
            refuses(&database, &["up"], "`migrate down` was interrupted: run it again").await;
        }
        goes(&database, &["down"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
        assert_eq!(definition(&database).await, before);
        assert_eq!(schema(&database).await.len(), 2);
    }

    /// Taken back half-way, the table is what it was, at once.
    async fn a_half_adopted_table_is_given_back(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        let count = 3 * STEP;
        fill_seed(&database, count).await;
        let before = definition(&database).await;
        for point in [
            Point::at("the table is closed", "RENAME TABLE `messages` TO `messages_seed`", table("messages_seed")),
            Point::in_step_after("some rows are over", 5, count),
        ] {
            kill_at(&database, &["migrate", "up"], &point).await;
            let cancelled = Point::at("it is being cancelled", "UPDATE adoption SET state = 'cancelling'",
                "SELECT COUNT(*) FROM adoption WHERE state = 'cancelling'");
            kill_at(&database, &["migrate", "down"], &cancelled).await;
            goes(&database, &["down"]).await;
            assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
            assert_eq!(definition(&database).await, before);
            assert_eq!(schema(&database).await.len(), 2);
        }
        goes(&database, &["up"]).await;
        goes(&database, &["down"]).await;
        assert_eq!(definition(&database).await, before);
        goes(&database, &["up"]).await;
        goes(&database, &["down", "--discard-messages"]).await;
        assert_eq!(schema(&database).await.len(), 1, "destroyed, as told");
    }

    async fn an_adoption_beside_another_client_is_refused(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        fill_seed(&database, 1_000).await;
        let before = schema(&database).await;
        // One that is silent, and logs in as the service does.
        let idle = OldClient::connect(&database).await;
        refuses(&database, &["up"], "somebody else is connected to this database").await;
        assert_eq!(schema(&database).await, before, "nothing was changed");
        idle.0.close().await.unwrap();
        // One that cannot be seen, in the middle of a transaction.
        let root = database.root().await;
        let transaction = sea_orm::TransactionTrait::begin(root).await.unwrap();
        sea_orm::ConnectionTrait::execute_unprepared(&transaction, OLD_INSERT).await.unwrap();
        refuses(&database, &["up"], "a transaction of somebody else uses the table").await;
        transaction.commit().await.unwrap();
        assert_eq!(definition(&database).await.split(" AUTO_INCREMENT").next(), before.iter().find(|t| t.starts_with("CREATE TABLE `messages`")).unwrap().split(" AUTO_INCREMENT").next());
        database.execute("DELETE FROM messages WHERE data = 'late'").await;
        goes(&database, &["up"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
        OldClient::is_kept_out(&database).await;
    }

    /// What cannot be adopted is named, with what to do, and nothing is touched.
    async fn what_cannot_be_adopted_is_refused(kind) {
        let odd_ones = [
            ("INSERT INTO messages VALUES (NULL, 'Bob Smith', 'user1', 1, NULL, 'x'), (NULL, 'user1', '', 1, NULL, 'x')",
                "DELETE FROM messages WHERE sent_at = 1", "2 ids are not 1 to 32 of A-Z a-z 0-9 . _ @ + : - as a user id must be: give these users others, or name new ones with --map-ids (\"\", \"Bob Smith\")\n\"\",\n\"Bob Smith\",\n"),
            ("INSERT INTO messages VALUES (NULL, 'user1 ', 'user1', 1, NULL, 'x'), (NULL, 'b\\nb', 'user1', 1, NULL, 'x')",
                "DELETE FROM messages WHERE sent_at = 1", "2 ids are not"),
            ("SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; INSERT INTO messages VALUES (0, 'user2', 'user1', 1, NULL, 'x'); SET SESSION sql_mode = DEFAULT",
                "DELETE FROM messages WHERE sent_at = 1", "1 rows have _id 0, which is no position in a log: give them another one (_id 0)"),
            ("INSERT INTO messages VALUES (NULL, 'user2', 'user1', 1, NULL, REPEAT('x', 17000000))",
                "DELETE FROM messages WHERE sent_at = 1", "1 rows have more than 16 MiB of data"),
            ("ALTER TABLE messages ADD COLUMN room INT", "ALTER TABLE messages DROP COLUMN room", "1 columns are not as in the legacy table"),
            ("ALTER TABLE messages MODIFY sender_id VARCHAR(64) NOT NULL", "ALTER TABLE messages MODIFY sender_id VARCHAR(32) NOT NULL",
                "(sender_id varchar(64) not null)"),
            ("ALTER TABLE messages ADD UNIQUE (sent_at, _id)", "ALTER TABLE messages DROP INDEX sent_at", "1 unique keys are not in the legacy table"),
            ("ALTER TABLE messages ADD CONSTRAINT early CHECK (sent_at < 4000000000)", "ALTER TABLE messages DROP CONSTRAINT early",
                "1 checks are not in the legacy table, and messages that come later may break them: drop them (early)"),
            ("ALTER TABLE messages PARTITION BY RANGE (_id) (PARTITION p0 VALUES LESS THAN (1000), PARTITION p1 VALUES LESS THAN (2000))",
                "ALTER TABLE messages REMOVE PARTITIONING", "2 partitions are not in the legacy table"),
            ("ALTER TABLE messages ENGINE = MyISAM", "ALTER TABLE messages ENGINE = InnoDB", "1 table is not an ordinary one on InnoDB"),
            ("CREATE TABLE attachments (message INT UNSIGNED NOT NULL, FOREIGN KEY (message) REFERENCES messages (_id))",
                "DROP TABLE attachments", "1 foreign keys begin or end at the table"),
        ];
        stream::iter(odd_ones).for_each_concurrent(AT_ONCE, |(odd, mended, says)| async move {
            let database = Database::fresh(kind).await;
            seed::make(&database).await;
            fill_seed(&database, 100).await;
            database.execute(odd).await;
            let before = schema(&database).await;
            let checked = migrate(&database, &["check"]).await;
            assert_eq!((checked.code, checked.stderr.as_str()), (3, ""), "{odd}: {checked:?}");
            assert!(checked.stdout.contains(&format!("REFUSED: {says}")) || (says.starts_with('(') && checked.stdout.contains(says)), "{odd}: {checked:?}");
            assert!(checked.stdout.ends_with("the table cannot be adopted as it is; nothing was changed\n"));
            refuses(&database, &["up"], "the table `messages` cannot be adopted as it is; nothing was changed").await;
            refuses(&database, &["up"], says.lines().next().unwrap()).await;
            assert_eq!(schema(&database).await, before, "{odd}");
            database.execute(mended).await;
            assert_eq!(migrate(&database, &["check"]).await.code, 0, "{mended}");
        }).await;
        // A log that is there already, or a table under a name that is needed.
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        for table in ["messages_seed", "outbox", "adoption_ids"] {
            database.execute(&format!("CREATE TABLE {table} (x INT)")).await;
        }
        let checked = migrate(&database, &["check"]).await;
        assert_eq!(checked.code, 3, "{checked:?}");
        for table in ["outbox", "messages_seed", "adoption_ids"] {
            assert!(checked.stdout.contains(&format!("REFUSED: the table `{table}` is in the way")), "{table}: {checked:?}");
            refuses(&database, &["up"], &format!("the table `{table}` is in the way")).await;
            database.execute(&format!("DROP TABLE {table}")).await;
        }
        goes(&database, &["check"]).await;
    }

    /// Where there is no table to adopt, `check` says what `up` refuses as well.
    async fn what_up_refuses_without_a_legacy_table_is_refused_by_the_check(kind) {
        let database = Database::fresh(kind).await;
        for table in ["outbox", "checkpoints"] {
            database.execute(&format!("CREATE TABLE {table} (x INT)")).await;
        }
        let checked = migrate(&database, &["check"]).await;
        assert_eq!(checked.code, 3, "{checked:?}");
        for table in ["outbox", "checkpoints"] {
            assert!(checked.stdout.contains(&format!("REFUSED: the table `{table}` has no column")), "{table}: {checked:?}");
        }
        refuses(&database, &["up"], "the table `outbox` has no column").await;
    }

    /// Ids that are none get the names of a file, everywhere, and the old ones back.
    async fn ids_that_are_none_are_adopted_under_the_names_of_a_file(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        for row in [
            "(NULL, 'Bob Smith', 'user1', 1700000000, NULL, 'from Bob')",
            "(NULL, 'user1', 'Bob Smith', 1700000001, 1700000009, 'to Bob')",
            "(NULL, 'Bob Smith', '', 1700000002, NULL, 'to nobody')",
            "(NULL, 'Bob Smith ', 'Bob Smith', 1700000003, NULL, 'two of them')",
            "(NULL, 'bob smith', 'Bob Smith', 1700000003, NULL, 'a third')",
            "(NULL, 'b\nb, \"c\"', 'b\nb, \"c\"', 1700000004, NULL, 'note')",
        ] {
            database.execute(&format!("INSERT INTO messages VALUES {row}")).await;
        }
        database.execute("DROP TABLE kept").await;
        // To which the three of them are one.
        database.execute("ALTER TABLE messages CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci").await;
        keep(&database).await;
        let before = definition(&database).await;

        let checked = migrate(&database, &["check"]).await;
        assert_eq!(checked.code, 3, "{checked:?}");
        let listed: Vec<_> = checked.stdout.lines().filter(|line| line.ends_with("\",")).collect();
        let all = [r#""","#, r#""Bob Smith","#, r#""Bob Smith ","#, r#""bob smith","#, r#""b\nb, \"c\"","#];
        assert_eq!(listed.len(), all.len(), "{checked:?}");
        for id in all {
            assert!(listed.contains(&id), "{id}: {listed:?}");
        }

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids.csv");
        let map = file.to_str().unwrap();
        // Not all of them.
        std::fs::write(&file, "Bob Smith,bob\n").unwrap();
        let checked = migrate(&database, &["check", "--map-ids", map]).await;
        assert_eq!(checked.code, 3, "{checked:?}");
        assert!(checked.stdout.contains("REFUSED: 4 ids are not 1 to 32 of"), "{checked:?}");
        refuses(&database, &["up", "--map-ids", map], "4 ids are not 1 to 32 of").await;
        // The name of somebody else.
        let names = ["nobody", "bob", "bob2", "bob3", "bbc"];
        let lines = |names: [&str; 5]| -> String { all.iter().zip(names).map(|(old, new)| format!("{old}{new}\n")).collect() };
        std::fs::write(&file, lines(["user1", "bob", "bob2", "bob3", "bbc"])).unwrap();
        let taken = "1 new names are those of other users in the table: choose others (\"user1\" for \"\")";
        let checked = migrate(&database, &["check", "--map-ids", map]).await;
        assert!(checked.code == 3 && checked.stdout.contains(&format!("REFUSED: {taken}")), "{checked:?}");
        refuses(&database, &["up", "--map-ids", map], taken).await;
        // A file that is wrong.
        std::fs::write(&file, "Bob Smith,b b\n").unwrap();
        for action in ["check", "up"] {
            refuses(&database, &[action, "--map-ids", map], "line 1: the new id \"b b\" is not 1 to 32 of").await;
        }
        refuses(&database, &["down", "--map-ids", map], "--map-ids is for `migrate check` and `migrate up`").await;
        assert_eq!(definition(&database).await, before, "nothing was changed");

        std::fs::write(&file, lines(names) + "not there,unused\n").unwrap();
        let checked = goes(&database, &["check", "--map-ids", map]).await;
        for part in ["5 ids get the names that you gave them", "1 names that you gave are for ids that are not in the table", "the table can be adopted"] {
            assert!(checked.contains(part), "{part}: {checked}");
        }
        // Interrupted in the middle, it goes on with the names that it began with.
        let closed = Point::at("the table is closed", "RENAME TABLE `messages` TO `messages_seed`", table("messages_seed"));
        kill_at(&database, &["migrate", "up", "--map-ids", map], &closed).await;
        let other = folder.path().join("other.csv");
        std::fs::write(&other, lines(["nobody", "robert", "bob2", "bob3", "bbc"])).unwrap();
        refuses(&database, &["up", "--map-ids", other.to_str().unwrap()], "with other new names than these").await;
        goes(&database, &["up"]).await;
        assert_eq!(goes(&database, &["up", "--map-ids", map]).await, "nothing is pending\n");
        refuses(&database, &["up", "--map-ids", other.to_str().unwrap()], "with other new names than these").await;
        verifies(&database).await;

        let mut server = Server::start(&database, &[]).await;
        let texts = async |user: &str, with: &str| {
            let messages = history(&server, user, with, &[]).await;
            messages.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts("bob", "user1").await, ["from Bob", "to Bob"]);
        assert_eq!(texts("bob", "nobody").await, ["to nobody"]);
        assert_eq!(texts("bob", "bob2").await, ["two of them"]);
        assert_eq!(texts("bob3", "bob").await, ["a third"]);
        assert_eq!(texts("bbc", "bbc").await, ["note"]);
        let mut listener = Listener::connect(Door::Stream, &server.url(), &server.token("bob"), Some("0")).await.unwrap();
        assert_eq!(listener.event(LIMIT).await["message"]["sender_id"], "bob");
        server.client("bob").send("user1", "since", None).await.unwrap();
        projected(&database).await;
        server.stop().await;
        let rebuilt = run(&database, &["rebuild"], &[QUIET]).await;
        assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
        verifies(&database).await;

        let line = database.number("SELECT MAX(_id) FROM kept").await;
        goes(&database, &["down", "--discard-log"]).await;
        assert_eq!(differing(&database, "messages", line).await, 0, "the same rows byte for byte");
        let since = inside::rows(&database, &format!("messages WHERE _id > {line}"), "sender_id, reciver_id, data", "_id").await;
        assert_eq!(since, ["Bob Smith|user1|since"]);
        assert_eq!(schema(&database).await.len(), 2, "nothing else is left but what the test keeps");
    }

    /// A table is not adopted into a server on which nothing would be served.
    async fn a_server_that_serve_would_refuse_is_refused_by_check_and_up(kind) {
        let server = DatabaseServer::dedicated(kind, &["--innodb-flush-log-at-trx-commit=2", "--max-allowed-packet=2M"]).await;
        let database = server.fresh().await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        let before = schema(&database).await;
        for says in ["innodb_flush_log_at_trx_commit is 2", "max_allowed_packet is 2097152"] {
            let checked = migrate(&database, &["check"]).await;
            assert!(checked.code == 3 && checked.stdout.contains(&format!("REFUSED: {says}")), "{checked:?}");
            refuses(&database, &["up"], says).await;
            let served = run(&database, &["serve"], &[QUIET]).await;
            assert!(refusal(&served).contains(says), "{served:?}");
        }
        assert_eq!(schema(&database).await, before);
        // An empty database stays one.
        let empty = server.fresh().await;
        for command in [&["migrate", "up"][..], &["serve"]] {
            let refused = run(&empty, command, &[QUIET]).await;
            assert!(refusal(&refused).contains("max_allowed_packet is 2097152"), "{refused:?}");
        }
        assert_eq!(schema(&empty).await, Vec::<String>::new());
        server.execute("SET GLOBAL max_allowed_packet = 67108864").await;
        let waived = [QUIET, ("CHAT_ALLOW_LAX_DURABILITY", "true")];
        let checked = run(&database, &["migrate", "check"], &waived).await;
        assert!(checked.code == 0 && checked.stdout.starts_with("WARNING: innodb_flush_log_at_trx_commit is 2"), "{checked:?}");
        let adopted = run(&database, &["migrate", "up"], &waived).await;
        assert_eq!(adopted.code, 0, "{adopted:?}");
    }

    /// What deletes messages behind the server's back would part the history from the log.
    async fn events_and_triggers_that_change_messages_are_refused_where_they_can_be_seen(kind) {
        let server = DatabaseServer::dedicated(kind, &[]).await;
        let database = server.fresh().await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        let checked = goes(&database, &["check"]).await;
        assert!(checked.contains("this user cannot see: events"), "{checked}");
        let (user, _, name) = database.login();
        // As the other rights are given: of two patterns a server looks at one.
        let pattern = name.replace('_', "\\_");
        server.execute(&format!("GRANT EVENT, TRIGGER ON `{pattern}`.* TO `{user}`@`%`")).await;
        database.execute("CREATE TABLE users (id INT PRIMARY KEY)").await;
        database.execute("CREATE EVENT counts ON SCHEDULE EVERY 1 DAY DO INSERT INTO users SELECT COUNT(*) FROM messages").await;
        let checked = goes(&database, &["check"]).await;
        assert!(!checked.contains("this user cannot see"), "{checked}");
        let odd_ones = [
            ("CREATE EVENT tidy ON SCHEDULE EVERY 1 DAY DO DELETE FROM messages WHERE sent_at < 5", "DROP EVENT tidy", "the event tidy changes messages"),
            ("CREATE TRIGGER gone AFTER DELETE ON users FOR EACH ROW DELETE FROM messages WHERE sent_at = OLD.id", "DROP TRIGGER gone", "the trigger gone changes messages"),
        ];
        for (odd, mended, says) in odd_ones {
            database.execute(odd).await;
            let checked = migrate(&database, &["check"]).await;
            assert!(checked.code == 3 && checked.stdout.contains(&format!("REFUSED: {says}")), "{checked:?}");
            refuses(&database, &["up"], says).await;
            database.execute(mended).await;
        }
        goes(&database, &["up"]).await;
        // One that was made since.
        for (odd, mended, says) in odd_ones {
            database.execute(odd).await;
            let served = run(&database, &["serve"], &[QUIET]).await;
            assert!(refusal(&served).starts_with(says), "{served:?}");
            database.execute(mended).await;
        }
        Server::start(&database, &[]).await.stop().await;
    }

    /// Other forms of the same table come back as they were.
    async fn the_tables_own_definition_is_given_back(kind) {
        let forms = [
            "ALTER TABLE messages CONVERT TO CHARACTER SET latin1 COLLATE latin1_general_ci",
            "ALTER TABLE messages CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, COMMENT = 'it''s \\\\ odd'",
            "ALTER TABLE messages ADD INDEX by_receiver (reciver_id, sent_at), AUTO_INCREMENT = 5000",
            "ALTER TABLE messages DROP INDEX message_time_index",
        ];
        stream::iter(forms).for_each_concurrent(AT_ONCE, |alter| async move {
            let database = Database::fresh(kind).await;
            seed::make(&database).await;
            fill_seed(&database, 100).await;
            database.execute(alter).await;
            // MySQL writes a column's character set or leaves it out, by the way in which it was set.
            let plain = |schema: Vec<String>| {
                let said = schema.join(";");
                [" CHARACTER SET latin1", " CHARACTER SET utf8mb4"].iter().fold(said, |said, set| said.replace(set, ""))
            };
            let before = plain(schema(&database).await);
            goes(&database, &["up"]).await;
            assert_eq!(differing(&database, "messages", i64::MAX).await, 0, "{alter}");
            verifies(&database).await;
            goes(&database, &["down"]).await;
            assert_eq!(plain(schema(&database).await), before, "{alter}");
            assert_eq!(differing(&database, "messages", i64::MAX).await, 0, "{alter}");
        }).await;
    }

    /// What is given back is `messages`, and the log is dropped: that is refused where the one lacks what the other has.
    async fn a_table_that_lacks_messages_of_the_log_is_not_given_back(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        goes(&database, &["up"]).await;
        let says = "does not have all messages of the log";
        // As a rebuild leaves it that was killed in the middle, and one that was killed at its end.
        database.execute("DELETE FROM messages ORDER BY _id LIMIT 10").await;
        refuses(&database, &["down"], says).await;
        let rebuilt = run(&database, &["rebuild"], &[QUIET]).await;
        assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
        database.execute("INSERT INTO checkpoints (name, position) VALUES ('rebuild', 0)").await;
        refuses(&database, &["down"], says).await;
        database.execute("DELETE FROM checkpoints WHERE name = 'rebuild'").await;
        verifies(&database).await;
        goes(&database, &["down"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
    }

    /// An adoption that was killed at its very end has left the old table there; so has a `down` right after it.
    async fn what_is_left_of_an_adoption_is_not_in_the_way_back(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        goes(&database, &["up"]).await;
        database.execute("CREATE TABLE messages_seed AS SELECT * FROM kept").await;
        database.execute("UPDATE adoption SET state = 'returning', line = (SELECT position FROM log_head), position = 0").await;
        database.execute("DELETE FROM log_head").await;
        goes(&database, &["down"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
    }

    /// What somebody makes under such a name after the adoption is theirs.
    async fn a_table_that_is_made_after_the_adoption_is_not_touched(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        fill_seed(&database, 100).await;
        goes(&database, &["up"]).await;
        database.execute("CREATE TABLE messages_seed AS SELECT * FROM kept").await;
        goes(&database, &["up"]).await;
        drop(Server::start(&database, &[]).await);
        for options in [&["down"][..], &["down", "--discard-messages"]] {
            refuses(&database, options, "the table `messages_seed` is in the way").await;
        }
        assert_eq!(database.number("SELECT COUNT(*) FROM messages_seed").await, 100);
        drop(Server::start(&database, &[]).await);
        database.execute("DROP TABLE messages_seed").await;
        goes(&database, &["down"]).await;
        assert_eq!(differing(&database, "messages", i64::MAX).await, 0);
    }

    /// A table that lacks a column of the original system's is named by `check`, as it is refused by `up`.
    async fn a_table_that_lacks_a_column_is_refused_by_the_check(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        database.execute("ALTER TABLE messages RENAME COLUMN recived_at TO received_at").await;
        let checked = migrate(&database, &["check"]).await;
        assert_eq!(checked.code, 3, "{checked:?}");
        assert!(checked.stdout.contains("REFUSED: 1 columns of the legacy table are missing (recived_at"), "{checked:?}");
    }

    async fn an_empty_table_and_the_largest_number_are_adopted(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        let before = schema(&database).await;
        goes(&database, &["up"]).await;
        verifies(&database).await;
        goes(&database, &["down"]).await;
        assert_eq!(schema(&database).await, before);

        database.execute("INSERT INTO messages VALUES (4294967294, 'alice', 'bob', 1, NULL, 'x')").await;
        keep(&database).await;
        goes(&database, &["up"]).await;
        let mut server = Server::start(&database, &[]).await;
        for id in [4_294_967_295_i64, 4_294_967_296] {
            assert_eq!(server.client("bob").send("alice", "hi", None).await.unwrap()["_id"], id);
        }
        server.stop().await;
        verifies(&database).await;
        refuses(&database, &["down", "--discard-log"], "the message 4294967296 does not fit into the legacy table").await;
        assert_eq!(differing(&database, "messages", 4_294_967_294).await, 0);
        verifies(&database).await;
    }
}
