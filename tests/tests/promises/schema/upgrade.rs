//! The schema is expanded under nodes that serve: a node of the version before goes on, comes back after a restart, and
//! serves together with one that was started afterwards. What does more than expand is refused.

use std::time::Duration;

use chat_tests::{
    Database, Kind, Server,
    chatter::{self, Chatter},
    eventually, inside,
    listener::{Door, Listener},
    on_database_servers, on_each_database, run, start_command,
};
use sea_orm::{ConnectionTrait, TransactionTrait};

const LIMIT: Duration = Duration::from_secs(120);
const QUIET: (&str, &str) = ("CHAT_LOG", "off");
const NAME: &str = "m20991231_000001_expand_reactions";

/// What makes the binary one of the next version, which brings that migration.
const NEXT: (&str, &str) = ("UPCOMING", "1");

async fn record(database: &Database, name: &str) {
    database
        .execute(&format!(
            "INSERT INTO seaql_migrations (version, applied_at) VALUES ('{name}', 0)"
        ))
        .await;
}

/// Waits until so many messages more were sent than now.
async fn traffic(database: &Database, messages: i64) {
    let head = "SELECT position FROM log_head";
    let before = database.number(head).await;
    eventually("messages are sent", LIMIT, || async {
        database.number(head).await >= before + messages
    })
    .await;
}

/// Reads everything that a user may see, as far as it is written when this begins.
async fn hears_all(server: &Server, database: &Database, user: &str) {
    let written = inside::log(database, 0).await;
    let written = written.iter().filter(|event| event.concerns(user));
    let (url, token) = (server.url(), server.token(user));
    let mut listener = Listener::connect(Door::Stream, &url, &token, Some("0"))
        .await
        .unwrap();
    for event in written {
        assert_eq!(listener.event(LIMIT).await["position"], event.position, "{user}");
    }
}

on_each_database! {
    async fn nodes_of_both_versions_serve_while_the_schema_is_expanded(kind) {
        let database = Database::fresh(kind).await;
        let mut before = Server::start(&database, chatter::SETTINGS).await;
        let talkers = [("alice", "bob"), ("bob", "alice"), ("carol", "alice")];
        let chatting = Chatter::start(&before, &database, &talkers, &["alice", "bob", "carol"]).await;
        traffic(&database, 20).await;
        // The node serves on, with statements that it prepared before.
        let status = run(&database, &["migrate", "status"], &[QUIET, NEXT]).await;
        assert!(status.stdout.ends_with(&format!("pending {NAME}\n")), "{status:?}");
        let up = run(&database, &["migrate", "up"], &[QUIET, NEXT]).await;
        assert_eq!((up.code, up.stdout), (0, format!("applied {NAME}\n")), "{}", up.stderr);
        traffic(&database, 20).await;

        // A node of the next version, beside the first where the database takes two.
        if kind != Kind::Sqlite {
            let settings: Vec<_> = chatter::SETTINGS.iter().copied().chain([NEXT]).collect();
            let mut after = Server::start(&database, &settings).await;
            let talkers = [("erin", "frank"), ("frank", "erin")];
            let beside = Chatter::start(&after, &database, &talkers, &["erin", "frank"]).await;
            traffic(&database, 20).await;
            let chatted = beside.finish(&after, &database).await;
            assert!(chatted.messages() > 0);
            // Each has what the other one wrote, before the change and after it.
            hears_all(&after, &database, "alice").await;
            hears_all(&before, &database, "erin").await;
            after.stop().await;
        }
        let chatted = chatting.finish(&before, &database).await;
        assert!(chatted.messages() > 20, "{}", chatted.messages());

        // The old node comes back, whether it would migrate or not, and its commands that only read or add work.
        for migrate in ["true", "false"] {
            before.set("CHAT_MIGRATE", migrate);
            before.restart().await;
            before.client("alice").send("bob", "back again", None).await.unwrap();
        }
        before.stop().await;
        let verified = run(&database, &["verify"], &[QUIET]).await;
        assert_eq!(verified.code, 0, "{verified:?}");
        let renewed = run(&database, &["epoch", "new"], &[QUIET]).await;
        assert_eq!(renewed.code, 0, "{renewed:?}");
        let up = run(&database, &["migrate", "up"], &[QUIET]).await;
        assert_eq!((up.code, up.stdout.as_str()), (0, "nothing is pending\n"));
        let status = run(&database, &["migrate", "status"], &[QUIET]).await;
        let line = format!("unknown {NAME} (it only expands the schema: this version can serve)\n");
        assert!(status.stdout.ends_with(&line), "{status:?}");

        // Those that make tables anew, or drop them, would leave out what they do not know.
        for command in [&["rebuild"][..], &["migrate", "down", "--discard-messages"]] {
            let refused = run(&database, command, &[QUIET]).await;
            let text = format!(
                "chat-system: the database was migrated by a newer version of this program, which added {NAME}: start that version\n"
            );
            assert_eq!((refused.code, refused.stderr), (1, text), "{command:?}");
        }
    }

    async fn a_schema_that_was_contracted_is_refused_by_the_version_before(kind) {
        let database = Database::fresh(kind).await;
        let mut server = Server::start(&database, &[]).await;
        record(&database, "m20991231_000001_expand_reactions").await;
        record(&database, "m20991231_000002_contract_receipts").await;
        // One that runs is not stopped: whoever contracts waits until none does.
        server.client("alice").send("bob", "hi", None).await.unwrap();
        server.stop().await;
        let text = "chat-system: the database was migrated by a newer version of this program, which added \
                    m20991231_000002_contract_receipts: start that version\n";
        for settings in [&[QUIET][..], &[QUIET, ("CHAT_MIGRATE", "false")]] {
            let refused = run(&database, &["serve"], settings).await;
            assert_eq!((refused.code, refused.stderr.as_str()), (1, text));
        }
        for command in [&["verify"][..], &["epoch", "new"], &["migrate", "up"]] {
            assert_eq!(run(&database, command, &[QUIET]).await.stderr, text, "{command:?}");
        }
    }
}

on_database_servers! {
    /// DDL waits for whoever reads its table, and all who come after wait behind it: not for longer than a moment.
    async fn a_long_read_holds_the_migration_up_and_nobody_else(kind) {
        let database = Database::fresh(kind).await;
        let server = Server::start(&database, chatter::SETTINGS).await;
        let talkers = [("alice", "bob"), ("bob", "alice")];
        let chatting = Chatter::start(&server, &database, &talkers, &["alice", "bob"]).await;
        traffic(&database, 20).await;
        let reading = database.root().await.begin().await.unwrap();
        reading.execute_unprepared("SELECT COUNT(*) FROM outbox").await.unwrap();
        let up = start_command(&database, &["migrate", "up"], &[QUIET, NEXT]).await;
        let waits = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() \
                     AND state = 'Waiting for table metadata lock'";
        eventually("the migration waits", LIMIT, || async { database.number(waits).await > 0 }).await;
        // More than once, so that it is not the time before its first try.
        for _ in 0..3 {
            traffic(&database, 20).await;
            eventually("the migration tries again", LIMIT, || async { database.number(waits).await > 0 }).await;
        }
        assert!(up.is_running());
        reading.rollback().await.unwrap();
        let up = up.outcome(LIMIT).await;
        assert_eq!((up.code, up.stdout), (0, format!("applied {NAME}\n")), "{}", up.stderr);
        let chatted = chatting.finish(&server, &database).await;
        assert!(chatted.messages() > 80, "{}", chatted.messages());
    }
}
