//! The schema is expanded under nodes that serve: a node of the version before goes on, comes back after a restart, and
//! serves together with one that was started afterwards. What does more than expand is refused.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::Duration;

use chat_tests::{
    Database, Kind, Server,
    chatter::{self, Chatter},
    eventually, inside,
    listener::{Door, Listener},
    on_each_database, run,
};

const LIMIT: Duration = Duration::from_secs(120);
const QUIET: (&str, &str) = ("CHAT_LOG", "off");
const NAME: &str = "m20991231_000001_expand_reactions";

/// What the next version might do, of every kind that counts as expanding.
const EXPAND: [&str; 6] = [
    "ALTER TABLE outbox ADD COLUMN thread_id BIGINT NULL",
    "ALTER TABLE messages ADD COLUMN edited_at BIGINT NULL",
    "ALTER TABLE participants ADD COLUMN muted BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE log_head ADD COLUMN pruned_at BIGINT NULL",
    "CREATE TABLE reactions (message_id BIGINT NOT NULL, user_id VARCHAR(32) NOT NULL, PRIMARY KEY (message_id, user_id))",
    "CREATE INDEX messages_sender ON messages (sender_id)",
];

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
        for sql in EXPAND {
            database.execute(sql).await;
            // Each of them is followed by sends, on statements that were prepared before it.
            traffic(&database, 5).await;
        }
        record(&database, NAME).await;
        traffic(&database, 20).await;

        // A node that is started now, beside the first where the database takes two.
        if kind != Kind::Sqlite {
            let mut after = Server::start(&database, chatter::SETTINGS).await;
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
