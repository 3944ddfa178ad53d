//! The schema goes up and down, on each database, from the command line, with everything that may come between.

use std::time::Duration;

use chat_tests::{
    Database, Kind, Outcome, Proxy, Server, eventually, inside::schema, on_database_servers,
    on_each_database, run, seed, start_command,
};

const LIMIT: Duration = Duration::from_secs(120);
const NAMES: [&str; 3] = [
    "m20261123_000001_create_log",
    "m20261123_000002_create_projections",
    "m20261201_000004_expand_lost_ends",
];
/// In the order in which they are undone.
const REVERSED: [&str; 3] = [NAMES[2], NAMES[1], NAMES[0]];
const NEWER: &str =
    "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20991231_000001_of_tomorrow', 0)";
const QUIET: (&str, &str) = ("CHAT_LOG", "off");

async fn migrate(database: &Database, arguments: &[&str]) -> Outcome {
    let arguments: Vec<_> = ["migrate"].iter().chain(arguments).copied().collect();
    run(database, &arguments, &[QUIET]).await
}

async fn says(database: &Database, arguments: &[&str], lines: &[String]) {
    let outcome = migrate(database, arguments).await;
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome:?}");
    assert_eq!(
        outcome.stdout.lines().collect::<Vec<_>>(),
        lines,
        "migrate {arguments:?}"
    );
}

async fn refuses(database: &Database, arguments: &[&str], text: &str) {
    let outcome = migrate(database, arguments).await;
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    let line = outcome.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one line: {outcome:?}");
    assert!(
        line.starts_with("chat-system: ") && line.contains(text),
        "{line} and not {text}"
    );
}

fn each(what: &str, names: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    names.into_iter().map(|name| format!("{what} {name}")).collect()
}

async fn head(database: &Database) -> String {
    let rows = chat_tests::inside::rows(
        database,
        "log_head",
        "id, epoch, position, last_time, floor, oldest, server_id",
        "id",
    );
    let rows = rows.await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].clone()
}

on_each_database! {
    async fn up_and_down_and_up_make_the_same_schema(kind) {
        let database = Database::fresh(kind).await;
        let empty = schema(&database).await;
        assert_eq!(empty, [] as [&str; 0]);
        says(&database, &["status"], &each("pending", NAMES)).await;
        assert_eq!(schema(&database).await, empty, "status writes nothing");
        says(&database, &["down"], &["nothing was applied".into()]).await;
        assert_eq!(schema(&database).await, empty);

        says(&database, &["up"], &each("applied", NAMES)).await;
        let made = schema(&database).await;
        let tables = made.iter().filter(|line| line.contains("CREATE TABLE")).count();
        assert_eq!(tables, 9, "eight tables of ours and that of the migrations: {made:#?}");
        let first = head(&database).await;
        says(&database, &["up"], &["nothing is pending".into()]).await;
        says(&database, &["status"], &each("applied", NAMES)).await;
        assert_eq!((head(&database).await, schema(&database).await), (first.clone(), made.clone()));

        says(&database, &["down"], &each("undone", REVERSED)).await;
        assert_eq!(schema(&database).await, empty, "nothing is left");
        says(&database, &["down"], &["nothing was applied".into()]).await;
        says(&database, &["status"], &each("pending", NAMES)).await;

        says(&database, &["up"], &each("applied", NAMES)).await;
        assert_eq!(schema(&database).await, made);
        assert_ne!(head(&database).await, first, "another log, so another epoch");
        let mut server = Server::start(&database, &[("CHAT_MIGRATE", "false")]).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        server.stop().await;
        assert_eq!(run(&database, &["verify"], &[]).await.code, 0);
    }

    async fn replicas_that_start_at_once_all_come_up(kind) {
        const REPLICAS: usize = 5;
        let database = Database::fresh(kind).await;
        let mut started = Vec::new();
        for _ in 0..REPLICAS {
            started.push(start_command(&database, &["migrate", "up"], &[QUIET]).await);
        }
        let mut applied = 0;
        for replica in started {
            let outcome = replica.outcome(LIMIT).await;
            assert_eq!(outcome.code, 0, "{outcome:?}");
            match outcome.stdout.lines().collect::<Vec<_>>()[..] {
                ["nothing is pending"] => {}
                ref lines => {
                    assert_eq!(lines, each("applied", NAMES));
                    applied += 1;
                }
            }
        }
        assert_eq!(applied, 1, "one migrates, the others find it done");
        head(&database).await;
        assert_eq!(database.number("SELECT COUNT(*) FROM checkpoints").await, 1);
        // And several servers, where a database takes more than one.
        if kind != Kind::Sqlite {
            let database = Database::fresh(kind).await;
            let mut servers = Vec::new();
            for _ in 0..3 {
                servers.push(Server::spawn(&database, &[]).await);
            }
            for server in &servers {
                server.ready().await;
            }
            let first = servers[0].client("alice").send("bob", "hi", Some("k")).await.unwrap();
            assert_eq!(servers[2].client("alice").send("bob", "hi", Some("k")).await.unwrap(), first);
        }
    }

    async fn down_keeps_a_log_that_holds_messages_until_told_to_discard_them(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        for text in ["one", "two", "three"] {
            server.client("alice").send("bob", text, None).await.unwrap();
        }
        if kind == Kind::Sqlite {
            refuses(&database, &["down", "--discard-messages"], "another process uses the SQLite file").await;
        }
        server.stop().await;
        let before = (schema(&database).await, chat_tests::inside::projections(&database).await, head(&database).await);
        let text = "the log holds messages up to position 3, which would be lost; nothing was changed, --discard-messages \
                    destroys them for good";
        refuses(&database, &["down"], text).await;
        let after = (schema(&database).await, chat_tests::inside::projections(&database).await, head(&database).await);
        assert_eq!(after, before);
        says(&database, &["down", "--discard-messages"], &each("undone", REVERSED)).await;
        assert_eq!(schema(&database).await, [] as [&str; 0]);
    }

    async fn an_older_program_refuses_a_newer_schema(kind) {
        let database = Database::fresh(kind).await;
        says(&database, &["up"], &each("applied", NAMES)).await;
        database.execute(NEWER).await;
        let before = (schema(&database).await, head(&database).await);
        let text = "the database was migrated by a newer version of this program, which added m20991231_000001_of_tomorrow: \
                    start that version";
        refuses(&database, &["up"], text).await;
        refuses(&database, &["down", "--discard-messages"], text).await;
        let mut lines = each("applied", NAMES);
        lines.push("unknown m20991231_000001_of_tomorrow".into());
        says(&database, &["status"], &lines).await;
        for command in [&["serve"][..], &["verify"], &["rebuild"], &["epoch", "new"]] {
            let outcome = run(&database, command, &[QUIET]).await;
            assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{command:?}: {outcome:?}");
            assert_eq!(outcome.stderr, format!("chat-system: {text}\n"), "{command:?}");
        }
        assert_eq!((schema(&database).await, head(&database).await), before, "nothing was touched");
    }

    /// DDL commits by itself on the servers, so an interruption may leave any of this; each is gone on from.
    async fn an_interrupted_up_is_repeated(kind) {
        let database = Database::fresh(kind).await;
        says(&database, &["up"], &each("applied", NAMES)).await;
        let made = schema(&database).await;
        let begun = head(&database).await;
        let forget_second = format!("DELETE FROM seaql_migrations WHERE version = '{}'", NAMES[1]);
        let forget_third = format!("DELETE FROM seaql_migrations WHERE version = '{}'", NAMES[2]);
        for (left, pending) in [
            // Nothing of the second is recorded, and part of it is there.
            (vec![forget_second.as_str(), "DROP TABLE checkpoints", "DROP TABLE participants"], vec![NAMES[1]]),
            (vec![&forget_second, "DELETE FROM checkpoints"], vec![NAMES[1]]),
            (vec![&forget_second], vec![NAMES[1]]),
            (vec![&forget_third, "DROP TABLE lost_ends"], vec![NAMES[2]]),
            (vec![&forget_third], vec![NAMES[2]]),
            // All of the first is there but its record; nothing of the second.
            (vec!["DELETE FROM seaql_migrations", "DROP TABLE messages", "DROP TABLE conversations", "DROP TABLE participants",
                "DROP TABLE checkpoints"], NAMES.to_vec()),
            (vec!["DROP TABLE seaql_migrations", "DROP TABLE epochs"], NAMES.to_vec()),
        ] {
            for sql in &left {
                database.execute(sql).await;
            }
            says(&database, &["status"], &{
                let mut lines = each("applied", NAMES.into_iter().filter(|name| !pending.contains(name)));
                lines.extend(each("pending", pending.clone()));
                lines
            }).await;
            says(&database, &["up"], &each("applied", pending)).await;
            assert_eq!(schema(&database).await, made, "after {left:?}");
            assert_eq!(head(&database).await, begun, "the head that was there stays, after {left:?}");
            assert_eq!(database.number("SELECT COUNT(*) FROM checkpoints WHERE name = 'received_at'").await, 1);
        }
        Server::start(&database, &[]).await.client("alice").send("bob", "hi", None).await.unwrap();
    }

    /// A head is never put over a log that has events.
    async fn a_log_without_its_head_is_not_given_another(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        server.stop().await;
        database.execute("DELETE FROM log_head").await;
        database.execute("DELETE FROM seaql_migrations").await;
        refuses(&database, &["up"], "the log holds messages but its row in `log_head` is gone").await;
        refuses(&database, &["down"], "the log holds messages up to position 1").await;
        assert_eq!(database.number("SELECT COUNT(*) FROM outbox").await, 1);
        assert_eq!(database.number("SELECT COUNT(*) FROM log_head").await, 0);
        // No migration was recorded any more; the tables go all the same.
        says(&database, &["down", "--discard-messages"], &["nothing was applied".into()]).await;
        assert_eq!(schema(&database).await, [] as [&str; 0]);
    }

    async fn the_table_of_another_program_is_not_touched(kind) {
        let database = Database::fresh(kind).await;
        database.execute("CREATE TABLE participants (race VARCHAR(10), runner VARCHAR(10))").await;
        database.execute("INSERT INTO participants VALUES ('marathon', 'alice')").await;
        let before = schema(&database).await;
        let text = "the table `participants` has no column `from_position`: it belongs to another program; nothing was \
                    changed, name a database of its own";
        for arguments in [&["up"][..], &["down"], &["down", "--discard-messages"]] {
            refuses(&database, arguments, text).await;
        }
        assert_eq!(schema(&database).await, before);
        assert_eq!(database.number("SELECT COUNT(*) FROM participants").await, 1);
    }
}

on_database_servers! {
    /// What adopts it is `migrate up`; see the tests of adoption.
    async fn the_table_of_the_chat_before_is_left_alone_by_all_else(kind) {
        let database = Database::fresh(kind).await;
        seed::make(&database).await;
        database.execute("INSERT INTO messages (sender_id, reciver_id, sent_at, data) VALUES ('alice', 'bob', 1600000000, 'hi')").await;
        let columns = "_id, sender_id, reciver_id, sent_at, recived_at, HEX(data)";
        let rows = chat_tests::inside::rows(&database, "messages", columns, "_id").await;
        assert_eq!(rows, ["1|alice|bob|1600000000|NULL|6869"]);
        let before = schema(&database).await;
        let text = "the table `messages` has no column `conversation_id`: it is an existing table of an earlier chat; \
                    nothing was changed, on MySQL and MariaDB `chat-system migrate check` says what adopting it means \
                    and `chat-system migrate up` adopts it, else name an empty database";
        for arguments in [&["down"][..], &["down", "--discard-messages"]] {
            refuses(&database, arguments, text).await;
        }
        let served = run(&database, &["serve"], &[QUIET]).await;
        assert_eq!((served.code, served.stderr), (1, format!("chat-system: {text}\n")));
        assert_eq!(schema(&database).await, before);
        assert_eq!(chat_tests::inside::rows(&database, "messages", columns, "_id").await, rows);
    }

    /// Everything above ran as the user with the named rights only; here is that it has no more than them.
    async fn the_named_rights_are_enough(kind) {
        let database = Database::fresh(kind).await;
        let user = database.url().strip_prefix("mysql://").unwrap().split(':').next().unwrap().to_string();
        let grants = chat_tests::inside::lines(&database, &format!("SHOW GRANTS FOR `{user}`@`%`")).await;
        assert_eq!(grants.len(), 2, "{grants:?}");
        assert!(grants.iter().any(|grant| grant.starts_with("GRANT USAGE ON *.*")), "{grants:?}");
        let of_database = grants.iter().find(|grant| !grant.starts_with("GRANT USAGE")).unwrap();
        let mut rights: Vec<_> = of_database["GRANT ".len()..].split(" ON ").next().unwrap().split(", ").collect();
        rights.sort_unstable();
        let mut named: Vec<_> = chat_tests::databases::GRANTS.split(", ").collect();
        named.sort_unstable();
        assert_eq!(rights, named);
        says(&database, &["up"], &each("applied", NAMES)).await;
        says(&database, &["down"], &each("undone", REVERSED)).await;
    }

    /// Killed between its statements; repeated, it goes on.
    async fn an_up_that_was_killed_is_repeated(kind) {
        let whole = {
            let database = Database::fresh(kind).await;
            says(&database, &["up"], &each("applied", NAMES)).await;
            schema(&database).await
        };
        for statement in [
            "CREATE TABLE IF NOT EXISTS `log_head`",
            "CREATE TABLE IF NOT EXISTS `outbox`",
            "INSERT INTO `log_head`",
            "INSERT INTO seaql_migrations",
            "CREATE TABLE IF NOT EXISTS `messages`",
            "CREATE TABLE IF NOT EXISTS `participants`",
            "INSERT INTO `checkpoints`",
            "CREATE TABLE IF NOT EXISTS `lost_ends`",
        ] {
            let database = Database::fresh(kind).await;
            let proxy = Proxy::before(&database).await;
            proxy.stop_before(statement);
            let url = proxy.url(&database);
            let running = start_command(&database, &["migrate", "up"], &[QUIET, ("CHAT_DATABASE_URL", &url)]).await;
            eventually(statement, LIMIT, || async { !running.is_running() || proxy.has_stopped() }).await;
            assert!(proxy.has_stopped(), "{statement}: it ended: {}", running.stderr());
            drop(running);
            let again = migrate(&database, &["up"]).await;
            assert_eq!(again.code, 0, "{again:?}");
            assert_eq!(schema(&database).await, whole);
            head(&database).await;
        }
    }
}
