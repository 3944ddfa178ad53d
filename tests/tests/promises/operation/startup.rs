//! What the server checks before it serves: each check, set wrong, is one clear line on stderr and exit code 1.

use std::{collections::BTreeSet, fs, time::Duration};

use chat_tests::{
    CommitFault, Database, DatabaseServer, Kind, Outcome, Proxy, Server,
    databases::not_run,
    eventually, on_database_servers, on_each_database, run, run_alone,
    server::{jwt_secret, now, token},
    start_command,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
/// Nothing but the refusal itself: what is logged on the way to it would stand beside it.
const QUIET: (&str, &str) = ("CHAT_LOG", "off");

/// Starts the server, sees that it refuses, and returns its one line.
async fn refused(database: &Database, settings: &[(&str, &str)]) -> String {
    let mut all = vec![QUIET];
    all.extend_from_slice(settings);
    line_of(&run(database, &["serve"], &all).await)
}

fn line_of(outcome: &Outcome) -> String {
    let line = outcome.stderr.strip_suffix('\n').unwrap_or(&outcome.stderr);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""), "{outcome:?}");
    assert!(
        line.starts_with("chat-system: ") && !line.contains('\n'),
        "one line: {outcome:?}"
    );
    line["chat-system: ".len()..].to_string()
}

/// A database whose schema is up to date, as a server left it.
async fn migrated(database: &Database) {
    let done = run(database, &["migrate", "up"], &[]).await;
    assert_eq!(done.code, 0, "{done:?}");
}

mod durability {
    use super::*;

    on_database_servers! {
        async fn a_log_that_is_not_flushed_at_commit_is_refused_unless_waived(kind) {
            for value in ["0", "2"] {
                let argument = format!("--innodb-flush-log-at-trx-commit={value}");
                let server = DatabaseServer::dedicated(kind, &[&argument]).await;
                let text = format!(
                    "innodb_flush_log_at_trx_commit is {value}, and must be 1 for acknowledged to mean durable"
                );
                refused_unless_waived(&server.fresh().await, &text).await;
            }
        }

        async fn a_binary_log_that_is_not_flushed_is_refused_unless_waived(kind) {
            // MySQL has a binary log by itself, MariaDB only when told so.
            let server = DatabaseServer::dedicated(kind, &["--log-bin=binlog", "--sync-binlog=0", "--server-id=1"]).await;
            let text = "sync_binlog is 0 with a binary log, and must be 1 for acknowledged to mean durable";
            refused_unless_waived(&server.fresh().await, text).await;
        }

        async fn each_durability_setting_that_is_wrong_is_named_and_a_necessary_one_is_never_waived(kind) {
            let arguments = ["--innodb-flush-log-at-trx-commit=2", "--log-bin=binlog", "--sync-binlog=100", "--server-id=1", "--max-allowed-packet=1M"];
            let server = DatabaseServer::dedicated(kind, &arguments).await;
            let database = server.fresh().await;
            let line = refused(&database, &[]).await;
            for text in ["innodb_flush_log_at_trx_commit is 2", "sync_binlog is 100", "max_allowed_packet is 1048576"] {
                assert!(line.contains(text), "{text}: {line}");
            }
            let waived = refused(&database, &[("CHAT_ALLOW_LAX_DURABILITY", "true")]).await;
            assert!(waived.starts_with("max_allowed_packet is 1048576, and must be at least "), "{waived}");
            assert!(!waived.contains("innodb_flush_log") && !waived.contains("allow-lax-durability"), "{waived}");
        }
    }

    /// Without a binary log it does not matter how it would be flushed.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sync_binlog_does_not_matter_without_a_binary_log() {
        let server = DatabaseServer::dedicated(Kind::MariaDb, &["--sync-binlog=0"]).await;
        let database = server.fresh().await;
        assert_eq!(database.number("SELECT @@log_bin").await, 0);
        Server::start(&database, &[]).await.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_that_does_not_flush_at_commit_is_refused_unless_waived() {
        for (value, number) in [("OFF", 0), ("normal", 1), ("1", 1)] {
            let database = Database::fresh(Kind::Sqlite).await;
            let url = format!("{}?synchronous={value}", database.url());
            let text = format!(
                "SQLite's synchronous is {number}, and must be 2 (FULL) for acknowledged to mean durable"
            );
            refused_unless_waived_at(&database, &url, &text).await;
        }
        for value in ["FULL", "extra", "2", "3"] {
            let database = Database::fresh(Kind::Sqlite).await;
            let url = format!("{}?synchronous={value}&journal_mode=wal", database.url());
            Server::start(&database, &[("CHAT_DATABASE_URL", &url)])
                .await
                .stop()
                .await;
        }
    }

    async fn refused_unless_waived(database: &Database, text: &str) {
        refused_unless_waived_at(database, &database.url(), text).await;
    }

    async fn refused_unless_waived_at(database: &Database, url: &str, text: &str) {
        let at = ("CHAT_DATABASE_URL", url);
        let line = refused(database, &[at]).await;
        let hint = "(--allow-lax-durability serves in spite of settings that can lose acknowledged messages)";
        assert_eq!(line, format!("{text} {hint}"));
        let mut server = Server::start(database, &[at, ("CHAT_ALLOW_LAX_DURABILITY", "true")]).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        server.stop().await;
        // A statement is slow where the machine is busy.
        let warnings: Vec<_> = server
            .log()
            .lines()
            .filter(|line| line.contains(" WARN ") && !line.contains("slow statement: "))
            .map(str::to_string)
            .collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].ends_with(&format!("{text}; acknowledged messages can be lost")),
            "{warnings:?}"
        );
        // The flag alone says the same as the variable, and `false` is as if nothing was said.
        let line = refused(database, &[at, ("CHAT_ALLOW_LAX_DURABILITY", "false")]).await;
        assert!(line.starts_with(text), "{line}");
    }
}

mod necessary {
    use super::*;

    on_database_servers! {
        async fn a_packet_that_is_too_small_is_refused(kind) {
            let server = DatabaseServer::dedicated(kind, &["--max-allowed-packet=2M"]).await;
            let database = server.fresh().await;
            let line = refused(&database, &[]).await;
            // Twice the batch and one content in hex, and 2 KiB for each command beside its content.
            let least = 2 * ((1 << 20) + (256 << 10)) + 2048 * 1000;
            let text = format!(
                "max_allowed_packet is 2097152, and must be at least {least} bytes for a batch of 1048576 bytes and \
                 contents of 262144"
            );
            assert_eq!(line, text);
            // What is configured decides what is needed: smaller batches fit, larger contents do not fit elsewhere.
            let small = [("CHAT_BATCH_BYTES", "65536"), ("CHAT_BATCH_COMMANDS", "64"), ("CHAT_CONTENT_LIMIT", "65536")];
            Server::start(&database, &small).await.stop().await;
            let database = Database::fresh(kind).await;
            let line = refused(&database, &[("CHAT_BATCH_BYTES", "67108864")]).await;
            assert!(line.starts_with("max_allowed_packet is 67108864, and must be at least "), "{line}");
        }

        async fn a_server_that_is_read_only_is_refused(kind) {
            let server = DatabaseServer::dedicated(kind, &[]).await;
            let database = server.fresh().await;
            migrated(&database).await;
            server.execute("SET GLOBAL read_only = 1").await;
            let line = refused(&database, &[]).await;
            assert_eq!(line, "the database server is read_only: it is not the primary");
            server.execute("SET GLOBAL read_only = 0").await;
            Server::start(&database, &[]).await.stop().await;
        }

        async fn a_table_of_another_collation_is_refused(kind) {
            for table in ["outbox", "participants", "conversations", "messages"] {
                let database = Database::fresh(kind).await;
                migrated(&database).await;
                database.execute(&format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")).await;
                let text = format!(
                    "the table {table} compares by utf8mb4_general_ci, and must compare byte for byte (_bin)"
                );
                assert_eq!(refused(&database, &[]).await, text);
            }
        }

        async fn a_wrong_password_is_one_line_without_the_password(kind) {
            let database = Database::fresh(kind).await;
            let url = database.url();
            let (user, rest) = url.strip_prefix("mysql://").unwrap().split_once(':').unwrap();
            let (password, place) = rest.split_once('@').unwrap();
            let wrong = "not-the-Password-9";
            let line = refused(&database, &[("CHAT_DATABASE_URL", &format!("mysql://{user}:{wrong}@{place}"))]).await;
            assert!(line.starts_with("the database does not answer: "), "{line}");
            assert!(line.contains("Access denied"), "{line}");
            for secret in [password, wrong, jwt_secret()] {
                assert!(!line.contains(secret), "{line}");
            }
            let (host, _) = place.split_once('/').unwrap();
            let line = refused(&database, &[("CHAT_DATABASE_URL", &format!("mysql://{user}:{password}@{host}/chat_nowhere"))]).await;
            assert!(line.starts_with("the database does not answer: ") && !line.contains(password), "{line}");
        }
    }

    /// MySQL has no other engine that keeps a schema like ours; MariaDB has Aria.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_table_on_another_engine_is_refused() {
        for table in ["outbox", "log_head", "checkpoints", "messages"] {
            let database = Database::fresh(Kind::MariaDb).await;
            migrated(&database).await;
            database
                .execute(&format!("ALTER TABLE {table} ENGINE = Aria"))
                .await;
            let line = refused(&database, &[("CHAT_ALLOW_LAX_DURABILITY", "true")]).await;
            assert_eq!(
                line,
                format!("the table {table} is on Aria, and must be on InnoDB")
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_table_on_another_engine_is_refused_on_mysql() {
        if not_run(
            Kind::MySql,
            "startup a_table_on_another_engine_is_refused_on_mysql",
        )
        .await
        {
            return;
        }
        let database = Database::fresh(Kind::MySql).await;
        migrated(&database).await;
        database.execute("ALTER TABLE checkpoints ENGINE = MyISAM").await;
        assert_eq!(
            refused(&database, &[]).await,
            "the table checkpoints is on MyISAM, and must be on InnoDB"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite_with_another_journal_is_refused_and_not_waived() {
        for mode in ["delete", "TRUNCATE", "persist", "memory", "off"] {
            let database = Database::fresh(Kind::Sqlite).await;
            let url = format!("{}?journal_mode={mode}", database.url());
            let settings = [
                ("CHAT_DATABASE_URL", url.as_str()),
                ("CHAT_ALLOW_LAX_DURABILITY", "true"),
            ];
            let line = refused(&database, &settings).await;
            let text = format!(
                "SQLite's journal_mode is {}, and must be wal: readers would block the writer",
                mode.to_lowercase()
            );
            assert_eq!(line, text);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_process_on_the_sqlite_file_is_refused() {
        let database = Database::fresh(Kind::Sqlite).await;
        let server = Server::start(&database, &[]).await;
        let line = refused(&database, &[]).await;
        let file = database.file();
        let text = format!(
            "another process uses the SQLite file {}: one server process on a file",
            file.display()
        );
        assert_eq!(line, text);
        // By another name of the same file too.
        let by_another_name = format!(
            "sqlite://{}/../{}/chat.db",
            file.parent().unwrap().display(),
            file.parent().unwrap().file_name().unwrap().to_str().unwrap()
        );
        let line = refused(&database, &[("CHAT_DATABASE_URL", &by_another_name)]).await;
        assert!(
            line.starts_with("another process uses the SQLite file "),
            "{line}"
        );
        server
            .client("alice")
            .send("bob", "undisturbed", None)
            .await
            .unwrap();
        drop(server);
        Server::start(&database, &[]).await.stop().await;
    }
}

on_each_database! {
    async fn an_interrupted_rebuild_is_refused(kind) {
        let database = Database::fresh(kind).await;
        migrated(&database).await;
        database.execute("INSERT INTO checkpoints (name, position) VALUES ('rebuild', 0)").await;
        let line = refused(&database, &[("CHAT_ALLOW_LAX_DURABILITY", "true")]).await;
        assert_eq!(line, "a rebuild of the projections was interrupted: run `chat-system rebuild` again");
        let rebuilt = run(&database, &["rebuild"], &[]).await;
        assert_eq!(rebuilt.code, 0, "{rebuilt:?}");
        Server::start(&database, &[]).await.stop().await;
    }

    async fn a_schema_that_is_not_up_to_date_is_refused_where_it_is_not_migrated(kind) {
        let database = Database::fresh(kind).await;
        let by_hand = ("CHAT_MIGRATE", "false");
        let line = refused(&database, &[by_hand]).await;
        assert!(line.starts_with("the schema is not up to date (m2"), "{line}");
        assert!(line.ends_with(" pending): run `chat-system migrate up`"), "{line}");
        migrated(&database).await;
        Server::start(&database, &[by_hand]).await.stop().await;
        database.execute("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20991231_000001_of_tomorrow', 0)").await;
        for settings in [&[by_hand][..], &[]] {
            let line = refused(&database, settings).await;
            let text = "the database was migrated by a newer version of this program, which added \
                        m20991231_000001_of_tomorrow: start that version";
            assert_eq!(line, text);
        }
    }
}

mod configuration {
    use super::*;

    #[tokio::test]
    async fn wrong_values_are_one_line_each() {
        let database = Database::fresh(Kind::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        let secret_file = folder.path().join("secret");
        fs::write(&secret_file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let short_file = folder.path().join("short");
        fs::write(&short_file, "short\n").unwrap();
        let (secret_file, short_file) = (secret_file.to_str().unwrap(), short_file.to_str().unwrap());
        for (name, value, line) in [
            (
                "CHAT_DATABASE_ULR",
                "x",
                "CHAT_DATABASE_ULR is not a variable that this server knows; the nearest one is CHAT_DATABASE_URL",
            ),
            ("CHAT_", "x", "CHAT_ is not a variable that this server knows; "),
            (
                "CHAT_JWT_SECRET",
                "0123456789abcdef0123456789abcde",
                "CHAT_JWT_SECRET: 31 bytes are too few, 32 are needed",
            ),
            ("CHAT_JWT_SECRET", "", "CHAT_JWT_SECRET: "),
            (
                "CHAT_JWT_SECRET_FILE",
                secret_file,
                "CHAT_JWT_SECRET and CHAT_JWT_SECRET_FILE are both given: give one of them",
            ),
            (
                "CHAT_JWT_PUBLIC_KEY",
                "hidden",
                "CHAT_JWT_PUBLIC_KEY: it is no public key in PEM (-----BEGIN PUBLIC KEY-----)",
            ),
            (
                "CHAT_JWT_PUBLIC_KEY_FILE",
                secret_file,
                "CHAT_JWT_PUBLIC_KEY: it is no public key in PEM",
            ),
            (
                "CHAT_JWT_PUBLIC_KEY_FILE",
                "/nowhere",
                "CHAT_JWT_PUBLIC_KEY_FILE: /nowhere cannot be read",
            ),
            (
                "CHAT_JWKS_FILE",
                "/nowhere",
                "CHAT_JWKS_FILE: /nowhere cannot be used: the file cannot be read",
            ),
            ("CHAT_JWKS_FILE", secret_file, "CHAT_JWKS_FILE: "),
            (
                "CHAT_JWKS_URL",
                "users.example/keys?hidden",
                "CHAT_JWKS_URL: it is not a URL that begins with http:// or https:// and names a host",
            ),
            (
                "CHAT_JWKS_URL",
                "https://u:hidden@users.example/keys",
                "CHAT_JWKS_URL: a URL with a user or a password is not taken",
            ),
            (
                "CHAT_JWKS_REFRESH_S",
                "0",
                "CHAT_JWKS_REFRESH_S: 0 is not within 1 to 86400",
            ),
            (
                "CHAT_JWT_LEEWAY_S",
                "301",
                "CHAT_JWT_LEEWAY_S: 301 is not within 0 to 300",
            ),
            ("CHAT_JWT_ISSUER", " ", "CHAT_JWT_ISSUER: a name is empty"),
            ("CHAT_JWT_AUDIENCE", "chat,", "CHAT_JWT_AUDIENCE: a name is empty"),
            (
                "CHAT_DATABASE_URL_FILE",
                secret_file,
                "CHAT_DATABASE_URL and CHAT_DATABASE_URL_FILE are both given: give one of them",
            ),
            (
                "CHAT_DATABASE_URL",
                "",
                "CHAT_DATABASE_URL: a URL begins with sqlite: or mysql:",
            ),
            (
                "CHAT_DATABASE_URL",
                "postgres://u:hidden@h/d",
                "CHAT_DATABASE_URL: postgres: is not known here",
            ),
            ("CHAT_DATABASE_URL", "user:hidden@host", "CHAT_DATABASE_URL: "),
            (
                "CHAT_DATABASE_URL",
                "mysql://u:hidden@127.0.0.1:1",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "mysql://u:hidden@127.0.0.1:port/d",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "sqlite://",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "sqlite::memory:",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "sqlite://x.db?journal=wal",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "sqlite://x.db?synchronous=sometimes",
                "the database URL is not understood",
            ),
            (
                "CHAT_DATABASE_URL",
                "sqlite:///proc/nowhere/x.db",
                "the folder of the SQLite file cannot be made",
            ),
            ("CHAT_LISTEN", "nowhere", "CHAT_LISTEN: \"nowhere\": "),
            ("CHAT_LISTEN", "127.0.0.1", "CHAT_LISTEN: \"127.0.0.1\": "),
            (
                "CHAT_LISTEN",
                "127.0.0.1:65536",
                "CHAT_LISTEN: \"127.0.0.1:65536\": ",
            ),
            ("CHAT_MIGRATE", "maybe", "CHAT_MIGRATE: \"maybe\": "),
            (
                "CHAT_ALLOW_LAX_DURABILITY",
                "a little",
                "CHAT_ALLOW_LAX_DURABILITY: \"a little\": ",
            ),
            (
                "CHAT_LOG_FORMAT",
                "xml",
                "CHAT_LOG_FORMAT: \"xml\": it is one of text, json",
            ),
            ("CHAT_LOG", "a=b=c", "CHAT_LOG: "),
            (
                "CHAT_CONTENT_LIMIT",
                "0",
                "CHAT_CONTENT_LIMIT: 0 is not within 1 to 16777216",
            ),
            (
                "CHAT_CONTENT_LIMIT",
                "16777217",
                "CHAT_CONTENT_LIMIT: 16777217 is not within 1 to 16777216",
            ),
            ("CHAT_CONTENT_LIMIT", "many", "CHAT_CONTENT_LIMIT: \"many\": "),
            (
                "CHAT_DATABASE_CONNECTIONS",
                "0",
                "CHAT_DATABASE_CONNECTIONS: 0 is not within 1 to 1000",
            ),
            ("CHAT_QUEUE_COMMANDS", "0", "CHAT_QUEUE_COMMANDS: "),
            ("CHAT_BATCH_COMMANDS", "10001", "CHAT_BATCH_COMMANDS: "),
            ("CHAT_BATCH_BYTES", "-1", "CHAT_BATCH_BYTES: "),
            ("CHAT_POLL_MS", "0", "CHAT_POLL_MS: "),
            ("CHAT_HEARTBEAT_S", "301", "CHAT_HEARTBEAT_S: "),
            ("CHAT_COMMAND_TIMEOUT_MS", "99", "CHAT_COMMAND_TIMEOUT_MS: "),
            ("CHAT_SHUTDOWN_TIMEOUT_S", "3601", "CHAT_SHUTDOWN_TIMEOUT_S: "),
            (
                "CHAT_TRUSTED_PROXIES",
                "10.0.0.0/8;127.0.0.1",
                "CHAT_TRUSTED_PROXIES: ",
            ),
            (
                "CHAT_SENDS_PER_SECOND",
                "0",
                "CHAT_SENDS_PER_SECOND: 0 is not within 1 to 1000000",
            ),
            ("CHAT_SENDS_BURST", "0", "CHAT_SENDS_BURST: "),
            ("CHAT_READS_PER_SECOND", "0", "CHAT_READS_PER_SECOND: "),
            ("CHAT_READS_BURST", "0", "CHAT_READS_BURST: "),
            (
                "CHAT_NEW_CONVERSATIONS_PER_HOUR",
                "0",
                "CHAT_NEW_CONVERSATIONS_PER_HOUR: ",
            ),
            ("CHAT_CONNECTIONS_PER_USER", "0", "CHAT_CONNECTIONS_PER_USER: "),
            (
                "CHAT_CONNECTIONS_PER_ADDRESS",
                "0",
                "CHAT_CONNECTIONS_PER_ADDRESS: ",
            ),
            ("CHAT_PING_INTERVAL_S", "0", "CHAT_PING_INTERVAL_S: "),
            ("CHAT_PING_TIMEOUT_S", "0", "CHAT_PING_TIMEOUT_S: "),
            ("CHAT_STALL_TIMEOUT_S", "0", "CHAT_STALL_TIMEOUT_S: "),
            ("CHAT_BODIES_LIMIT", "1", "CHAT_BODIES_LIMIT: "),
            ("CHAT_ANSWERS_LIMIT", "1", "CHAT_ANSWERS_LIMIT: "),
            ("CHAT_ADMIN_LISTEN", "9000", "CHAT_ADMIN_LISTEN: \"9000\": "),
        ] {
            let mut settings = vec![(name, value)];
            // A wrong filter cannot be switched off by another one.
            if name != "CHAT_LOG" {
                settings.insert(0, QUIET);
            }
            let found = line_of(&run(&database, &["serve"], &settings).await);
            assert!(
                found.starts_with(line),
                "{name}={value}: {found:?} and not {line:?}"
            );
            assert!(!found.contains("hidden"), "{found}");
        }
        let url = database.url();
        let url = ("CHAT_DATABASE_URL", url.as_str());
        for (settings, line) in [
            (
                vec![url, ("CHAT_LISTEN", "0.0.0.0:1")],
                "CHAT_LISTEN: 0.0.0.0:1 can be reached from elsewhere",
            ),
            (
                vec![url, ("CHAT_LISTEN", "[::]:1")],
                "CHAT_LISTEN: [::]:1 can be reached from elsewhere",
            ),
            (
                vec![url, ("CHAT_JWT_SECRET_FILE", short_file)],
                "CHAT_JWT_SECRET: 5 bytes are too few, 32 are needed",
            ),
            (
                vec![url, ("CHAT_JWT_SECRET_FILE", "/nowhere")],
                "CHAT_JWT_SECRET_FILE: /nowhere cannot be read",
            ),
            (
                vec![
                    url,
                    ("CHAT_JWT_SECRET_FILE", secret_file),
                    ("CHAT_JWKS_URL", "https://users.example/keys"),
                ],
                "CHAT_JWKS_URL: CHAT_JWT_SECRET is given too: keys come from one place",
            ),
            (
                vec![url, ("CHAT_JWT_ISSUER", "users")],
                "CHAT_JWT_ISSUER: without a key there is nothing to check it with",
            ),
            (
                vec![("CHAT_DATABASE_URL_FILE", "/nowhere")],
                "CHAT_DATABASE_URL_FILE: /nowhere cannot be read",
            ),
        ] {
            let found = line_of(&run_alone(&["serve"], &settings).await);
            assert!(found.starts_with(line), "{found:?} and not {line:?}");
        }
        let made = chat_tests::inside::schema(&database).await;
        assert_eq!(made, [] as [&str; 0], "nothing was made on the way to a refusal");
    }

    #[tokio::test]
    async fn an_address_in_use_is_one_line() {
        let database = Database::fresh(Kind::Sqlite).await;
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        for variable in ["CHAT_LISTEN", "CHAT_ADMIN_LISTEN"] {
            let line = refused(&database, &[("CHAT_LISTEN", "127.0.0.1:0"), (variable, &address)]).await;
            assert!(
                line.starts_with(&format!("{address} cannot be listened on: ")),
                "{variable}: {line}"
            );
        }
    }

    #[tokio::test]
    async fn help_documents_every_option_and_its_variable() {
        let help = run_alone(&["--help"], &[]).await;
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{help:?}");
        let variables = [
            "CHAT_LISTEN",
            "CHAT_DATABASE_URL",
            "CHAT_DATABASE_URL_FILE",
            "CHAT_DATABASE_CONNECTIONS",
            "CHAT_DATABASE_IDENTITY",
            "CHAT_JWT_SECRET",
            "CHAT_JWT_SECRET_FILE",
            "CHAT_JWT_PUBLIC_KEY",
            "CHAT_JWT_PUBLIC_KEY_FILE",
            "CHAT_JWKS_FILE",
            "CHAT_JWKS_URL",
            "CHAT_JWKS_REFRESH_S",
            "CHAT_JWT_ISSUER",
            "CHAT_JWT_AUDIENCE",
            "CHAT_JWT_LEEWAY_S",
            "CHAT_JWT_USER_CLAIM",
            "CHAT_JWT_MAX_LIFETIME_S",
            "CHAT_MIGRATE",
            "CHAT_ALLOW_LAX_DURABILITY",
            "CHAT_LOG",
            "CHAT_LOG_FORMAT",
            "CHAT_CONTENT_LIMIT",
            "CHAT_QUEUE_COMMANDS",
            "CHAT_BATCH_COMMANDS",
            "CHAT_BATCH_BYTES",
            "CHAT_POLL_MS",
            "CHAT_HEARTBEAT_S",
            "CHAT_COMMAND_TIMEOUT_MS",
            "CHAT_SHUTDOWN_TIMEOUT_S",
            "CHAT_DRAIN_S",
            "CHAT_PING_INTERVAL_S",
            "CHAT_PING_TIMEOUT_S",
            "CHAT_STALL_TIMEOUT_S",
            "CHAT_KEEP_ALIVE_S",
            "CHAT_CONNECTIONS_PER_USER",
            "CHAT_CONNECTIONS_PER_ADDRESS",
            "CHAT_TRUSTED_PROXIES",
            "CHAT_SENDS_PER_SECOND",
            "CHAT_SENDS_BURST",
            "CHAT_READS_PER_SECOND",
            "CHAT_READS_BURST",
            "CHAT_NEW_CONVERSATIONS_PER_HOUR",
            "CHAT_BODIES_LIMIT",
            "CHAT_ANSWERS_LIMIT",
            "CHAT_ADMIN_LISTEN",
            "CHAT_CONNECTIONS",
            "CHAT_OTLP_ENDPOINT",
        ];
        let options = documented_options(&help.stdout);
        for variable in variables {
            let option = format!("--{}", variable["CHAT_".len()..].to_lowercase().replace('_', "-"));
            let (described, shown) = options
                .get(&option)
                .unwrap_or_else(|| panic!("{option} is not in the help"));
            assert_eq!(shown.as_deref(), Some(variable), "{option}");
            assert!(described.len() > 20, "{option} is described by {described:?}");
        }
        // Those of each command, with the command itself.
        for (command, own) in [
            ("migrate", vec!["--discard-messages"]),
            ("token", vec!["--user", "--expires-in"]),
            ("verify", vec![]),
            ("rebuild", vec![]),
            ("openapi", vec![]),
            ("serve", vec![]),
        ] {
            assert!(
                help.stdout
                    .lines()
                    .any(|line| line.trim_start().starts_with(command)),
                "{command}"
            );
            let help = run_alone(&[command, "--help"], &[]).await;
            let options = documented_options(&help.stdout);
            for option in own {
                assert!(
                    options
                        .get(option)
                        .is_some_and(|(described, _)| described.len() > 10),
                    "{command} {option}"
                );
            }
        }
        // And nothing is in the help that the list above does not know.
        let known: BTreeSet<_> = variables.iter().map(|variable| variable.to_string()).collect();
        let found: BTreeSet<_> = options
            .values()
            .filter_map(|(_, variable)| variable.clone())
            .collect();
        assert_eq!(found, known);
        assert!(!help.stdout.contains(jwt_secret()));
    }

    /// Each option's description, and the variable that stands with it.
    fn documented_options(help: &str) -> std::collections::BTreeMap<String, (String, Option<String>)> {
        let mut options = std::collections::BTreeMap::new();
        let mut current = None;
        for line in help.lines() {
            let line = line.trim();
            let at = if line.starts_with("-") {
                line.find("--")
            } else {
                None
            };
            if let Some(at) = at {
                let name: String = line[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
                    .collect();
                // A short description stands on the same line, two spaces further on.
                let described = line[at..].split_once("  ").map_or("", |(_, rest)| rest.trim());
                options.insert(name.clone(), (described.to_string(), None));
                current = Some(name);
            } else if let Some((described, variable)) =
                current.as_ref().and_then(|name| options.get_mut(name))
            {
                match line.strip_prefix("[env: ") {
                    Some(rest) => {
                        *variable = Some(rest.split(['=', ']']).next().unwrap().to_string());
                    }
                    None if line.ends_with(':') && !line.starts_with('[') => current = None,
                    None => {
                        described.push_str(line);
                        described.push(' ');
                    }
                }
            }
        }
        options
    }

    #[tokio::test]
    async fn the_secret_may_stand_in_a_file_and_opens_every_address() {
        let database = Database::fresh(Kind::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        let (secret, url) = (folder.path().join("secret"), folder.path().join("url"));
        fs::write(&secret, format!("{}\n", jwt_secret())).unwrap();
        fs::write(&url, database.url() + "\n").unwrap();
        let settings = [
            ("CHAT_JWT_SECRET_FILE", secret.to_str().unwrap()),
            ("CHAT_DATABASE_URL_FILE", url.to_str().unwrap()),
        ];
        let printed = run_alone(&["token", "--user", "alice"], &settings[..1]).await;
        assert_eq!(printed.code, 0, "{printed:?}");
        let migrated = run_alone(&["migrate", "up"], &settings).await;
        assert_eq!(migrated.code, 0, "{migrated:?}");
        let server = Server::start(&database, &[]).await;
        let client = chat_tests::Client::new(&server.url(), printed.stdout.trim());
        assert_eq!(
            client.send("bob", "hi", None).await.unwrap()["sender_id"],
            "alice"
        );
    }
}

mod how_options_come {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use chat_tests::server::Running;

    use super::*;

    /// The lines of a server that has told about its options, from its start on.
    async fn lines_of(starting: &Running) -> Vec<String> {
        let begun = "the server listens";
        eventually(begun, LIMIT, || async {
            starting.stderr().contains(" listening on ")
        })
        .await;
        starting.stderr().lines().map(str::to_owned).collect()
    }

    fn about<'a>(lines: &'a [String], text: &str) -> Vec<&'a String> {
        lines.iter().filter(|line| line.contains(text)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn service_links_of_kubernetes_stop_no_command_and_are_one_line() {
        let database = Database::fresh(Kind::Sqlite).await;
        let links = [
            ("CHAT_SERVICE_HOST", "10.0.0.1"),
            ("CHAT_SERVICE_PORT", "3000"),
            ("CHAT_SERVICE_PORT_HTTP", "3000"),
            ("CHAT_PORT", "tcp://10.0.0.1:3000"),
            ("CHAT_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
            ("CHAT_PORT_3000_TCP_PROTO", "tcp"),
            ("CHAT_PORT_3000_TCP_PORT", "3000"),
            ("CHAT_PORT_3000_TCP_ADDR", "10.0.0.1"),
            ("CHAT_SYSTEM_SERVICE_HOST", "10.0.0.2"),
            ("CHAT_SYSTEM_PORT", "tcp://10.0.0.2:80"),
        ];
        for command in [
            &["migrate", "up"][..],
            &["verify"],
            &["token", "--user", "alice"],
            &["openapi"],
        ] {
            let outcome = run(&database, command, &links).await;
            assert_eq!(outcome.code, 0, "{command:?}: {outcome:?}");
        }
        let server = Server::start(&database, &links).await;
        let log: Vec<_> = server.log().lines().map(str::to_owned).collect();
        let told = about(&log, "of a service of Kubernetes");
        assert!(told.len() == 1 && told[0].contains("(10 in all)"), "{log:?}");
        assert!(about(&log, " WARN ").is_empty(), "{log:?}");
        let line = refused(&database, &[("CHAT_PORT", "3000")]).await;
        assert!(line.starts_with("CHAT_PORT is not a variable"), "{line}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_line_break_after_a_value_makes_no_other_database_and_no_other_secret() {
        for after in ["\n", "\r\n", "\n\n", " "] {
            let database = Database::fresh(Kind::Sqlite).await;
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("secret");
            fs::write(&file, format!("{}{after}", jwt_secret())).unwrap();
            let url = database.url() + after;
            let by_variables = [
                ("CHAT_DATABASE_URL", url.clone()),
                ("CHAT_JWT_SECRET", format!("{}{after}", jwt_secret())),
                ("CHAT_HEARTBEAT_S", format!("1{after}")),
                ("CHAT_LOG_FORMAT", format!("json{after}")),
            ];
            let by_variables: Vec<_> = by_variables
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let mut server = Server::start(&database, &by_variables).await;
            server.client("alice").send("bob", "hi", None).await.unwrap();
            assert!(
                server.log().lines().all(|line| line.starts_with('{')),
                "{}",
                server.log()
            );
            server.stop().await;
            let by_file = [("CHAT_JWT_SECRET_FILE", file.to_str().unwrap())];
            let made = run_alone(&["token", "--user", "alice"], &by_file).await;
            let server = Server::start(&database, &[("CHAT_DATABASE_URL", &url)]).await;
            let alice = chat_tests::Client::new(&server.url(), made.stdout.trim());
            let page = alice.history(&[("with", "bob")]).await.unwrap();
            assert_eq!(page["messages"][0]["text"], "hi", "{page}");
            let names = fs::read_dir(database.file().parent().unwrap()).unwrap();
            for name in names.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
                assert!(
                    name.starts_with("chat.db") && !name.contains(char::is_whitespace),
                    "{name:?}"
                );
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_secret_in_the_list_of_processes_is_warned_of() {
        let database = Database::fresh(Kind::MariaDb).await;
        let listen = [("CHAT_LISTEN", "127.0.0.1:0")];
        let url = database.url();
        let flags = ["serve", "--database-url", &url, "--jwt-secret", jwt_secret()];
        let starting = start_command(&database, &flags, &listen).await;
        let lines = lines_of(&starting).await;
        let warnings = about(&lines, "stands in the list of processes");
        assert!(warnings.iter().all(|line| line.contains(" WARN ")), "{lines:?}");
        let named = |variable: &str| warnings.iter().filter(|line| line.contains(variable)).count();
        assert_eq!(
            (named("CHAT_JWT_SECRET_FILE"), named("CHAT_DATABASE_URL_FILE")),
            (1, 1),
            "{lines:?}"
        );
        let (_, password, _) = database.login();
        for secret in [jwt_secret(), &password] {
            assert!(about(&lines, secret).is_empty());
        }
        let starting = start_command(&database, &["serve"], &listen).await;
        let lines = lines_of(&starting).await;
        assert!(about(&lines, "list of processes").is_empty(), "{lines:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_folder_and_the_files_of_sqlite_are_for_their_owner_alone() {
        let database = Database::fresh(Kind::Sqlite).await;
        let folder = tempfile::tempdir().unwrap();
        // What is there stays as it is, and others may enter it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = folder.path().join("a/data");
        let file = data.join("chat.db");
        let url = format!("sqlite://{}", file.display());
        let at = [("CHAT_DATABASE_URL", url.as_str())];
        let mode = |path: &std::path::Path| path.metadata().unwrap().mode() & 0o777;
        let mut server = Server::start(&database, &at).await;
        server.client("alice").send("bob", "hi", None).await.unwrap();
        assert_eq!(
            (mode(folder.path()), mode(&data), mode(data.parent().unwrap())),
            (0o755, 0o700, 0o700)
        );
        let files: Vec<_> = fs::read_dir(&data)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(
            files.len() >= 4,
            "the database, its log, its index and the lock: {files:?}"
        );
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        let warned = |server: &Server| server.log().contains("can be read by others");
        assert!(!warned(&server));
        server.stop().await;

        // One that others can read stays so, and is warned of; a folder that nobody can enter keeps them away.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let mut server = Server::start(&database, &at).await;
        assert!(!warned(&server));
        server.stop().await;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Server::start(&database, &at).await;
        assert!(warned(&server), "{}", server.log());
        assert_eq!((mode(&data), mode(&file)), (0o755, 0o644));
        server.stop().await;
    }
}

mod the_log_of_the_server {
    use chat_tests::socketio::{SocketIo, Transport};

    use super::*;

    const FORMS: [&str; 2] = ["text", "json"];
    const TEXT: &str = "MarkerOfATextThatNobodyElseMaySee";
    const DATA: &str = "MarkerOfDataThatNobodyElseMaySee!";

    on_each_database! {
        async fn holds_no_token_and_no_message(kind) {
            for form in FORMS {
                let database = Database::fresh(kind).await;
                let settings = [("CHAT_LOG", "trace"), ("CHAT_LOG_FORMAT", form), ("CHAT_HEARTBEAT_S", "1")];
                let mut server = Server::start(&database, &settings).await;
                let markers = use_it(&server).await;
                server.stop().await;
                let log = server.log();
                assert!(log.lines().count() > 20, "trace logs much: {log}");
                assert!(log.contains("answered"), "{log}");
                nothing_of(&markers, &log);
                if form == "json" {
                    for line in log.lines() {
                        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                        assert!(line["level"].is_string(), "{line}");
                    }
                }
            }
        }
    }

    on_database_servers! {
        /// A statement that takes long is no reason to log what it writes.
        async fn holds_no_message_either_when_the_database_is_slow_or_breaks(kind) {
            let database = Database::fresh(kind).await;
            let proxy = Proxy::before(&database).await;
            let url = format!("{}?ssl-mode=disabled", database.url_at(proxy.port()));
            let settings = [("CHAT_DATABASE_URL", url.as_str()), ("CHAT_COMMAND_TIMEOUT_MS", "60000")];
            let mut server = Server::start(&database, &settings).await;
            let (text, data) = (json!({"text": TEXT}), json!({"data": base64(DATA.as_bytes())}));
            for (key, mut body) in [("a-slow-text", text), ("slow-data", data)] {
                body["receiver_id"] = json!("bob");
                send_slowly(&server, &proxy, key, &body).await;
            }
            let mut markers = Vec::new();
            for fault in [CommitFault::AnswerLost, CommitFault::CommitLost] {
                proxy.break_next_commits(fault, 1);
                markers.extend(use_it(&server).await);
            }
            assert_eq!(proxy.commits_broken(), 2);
            server.stop().await;
            nothing_of(&markers, &server.log());
        }
    }

    /// Sends where each answer of the database takes longer than the second after which sqlx calls a statement slow;
    /// again, if the node has given its connection up over that.
    async fn send_slowly(server: &Server, proxy: &Proxy, key: &str, body: &Value) {
        let alice = server.client("alice");
        eventually("it is sent", LIMIT, || async {
            proxy.delay(Duration::from_millis(550));
            let sent = alice.send_body(body, Some(key)).await;
            proxy.delay(Duration::ZERO);
            if let Err(problem) = &sent {
                assert_eq!(problem.status, 503, "{problem}");
                server.ready().await;
            }
            sent.is_ok()
        })
        .await;
    }

    /// What must not be found, in every form that it may take.
    fn nothing_of(markers: &[String], log: &str) {
        let log = log.to_lowercase();
        for marker in markers {
            let hex: String = marker.bytes().map(|byte| format!("{byte:02x}")).collect();
            for form in [
                marker.to_lowercase(),
                hex,
                base64(marker.as_bytes()).to_lowercase(),
                format!("{:?}", marker.as_bytes()),
            ] {
                let found = log.lines().find(|line| line.contains(&form));
                assert_eq!(found, None, "{marker} is in the log");
            }
        }
    }

    /// Uses each door with markers; returns those markers.
    async fn use_it(server: &Server) -> Vec<String> {
        let (text, data) = (TEXT.to_string(), DATA.to_string());
        let alice = server.client("alice");
        let mut stream = server.client("bob").events(Some("0")).await.unwrap();
        stream.named("ready", LIMIT).await;
        let sent = alice.send("bob", &text, None).await.unwrap();
        let body =
            json!({"receiver_id": "bob", "data": base64(data.as_bytes()), "content_type": "image/png"});
        alice.send_body(&body, None).await.unwrap();
        stream.take(2, LIMIT).await;
        server
            .client("bob")
            .receipt("read", sent["_id"].as_i64().unwrap())
            .await
            .unwrap();
        alice.history(&[("with", "bob")]).await.unwrap();
        alice.conversations().await.unwrap();
        alice.poll("0", 0).await.unwrap();
        let expired = token(&json!({"sub": "alice", "exp": now() - 60}));
        let other = server.token("carol");
        for transport in [Transport::Websocket, Transport::Polling] {
            let mut socket = SocketIo::connect(transport, &server.url(), alice.token(), Some("0"))
                .await
                .unwrap();
            socket.named("event", LIMIT).await;
            for (command, argument) in [
                ("send", json!({"receiver_id": "bob", "text": text})),
                (
                    "send",
                    json!({"receiver_id": "bob", "data": base64(data.as_bytes()), "content_type": "image/png"}),
                ),
                ("send", json!({"receiver_id": "b b", "text": text})),
                ("history", json!({"with": "bob"})),
                ("authenticate", json!({"token": alice.token()})),
                ("authenticate", json!({"token": other})),
                ("authenticate", json!({"token": expired})),
            ] {
                socket.ask(command, &argument).await.unwrap();
            }
            let mut refused = SocketIo::open(transport, &server.url()).await.unwrap();
            refused.log_in(&expired, None).await.unwrap_err();
        }
        // Refused, with the markers in what is refused.
        let in_query = server.token("alice");
        for (path, bearer) in [
            (format!("/v1/events?wait=0&access_token={in_query}"), None),
            (
                format!("/v1/events?wait=0&after=nonsense&access_token={in_query}"),
                None,
            ),
            (format!("/v1/events?wait=0&access_token={expired}"), None),
            ("/v1/conversations".into(), Some(&expired)),
            (format!("/v1/nowhere?access_token={in_query}"), None),
        ] {
            let client = chat_tests::Client::new(&server.url(), bearer.map_or("", |token| token));
            chat_tests::reply(client.get(&path)).await;
        }
        for body in [
            format!("{{\"receiver_id\":\"b b\",\"text\":\"{text}\"}}"),
            format!("{{\"text\":\"{text}"),
            format!("\"{text}\""),
            format!("{{\"receiver_id\":\"bob\",\"data\":\"{data}\"}}"),
        ] {
            let refused = alice
                .post("/v1/messages")
                .header("content-type", "application/json")
                .body(body);
            assert!((400..500).contains(&chat_tests::reply(refused).await.status));
        }
        vec![
            text,
            data,
            alice.token().into(),
            expired,
            in_query,
            other,
            jwt_secret().into(),
        ]
    }

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let group =
                chunk.iter().fold(0, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for index in 0..4 {
                let letter = LETTERS[(group >> (18 - 6 * index) & 63) as usize];
                text.push(if index <= chunk.len() {
                    char::from(letter)
                } else {
                    '='
                });
            }
        }
        text
    }
}

/// A database that is not there yet is waited for; what it refuses is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_waited_for() {
    let database = Database::fresh(Kind::MariaDb).await;
    let proxy = Proxy::before(&database).await;
    proxy.refuse(true);
    let url = database.url_at(proxy.port());
    let starting = start_command(
        &database,
        &["migrate", "status"],
        &[("CHAT_DATABASE_URL", &url), QUIET],
    )
    .await;
    eventually("a command of maintenance does not wait", LIMIT, || {
        std::future::ready(!starting.is_running())
    })
    .await;
    line_of(&starting.outcome(LIMIT).await);
    let server = Server::spawn(&database, &[("CHAT_DATABASE_URL", &url)]).await;
    eventually("it says that the database is away", LIMIT, || async {
        server.log().contains("the database is away; it is tried again")
    })
    .await;
    proxy.refuse(false);
    server.ready().await;
    server.client("alice").send("bob", "hi", None).await.unwrap();
}
