//! On SQLite, each test on a new file. MySQL and MariaDB are tested with the rest of the system.

use std::time::Duration;

use sea_orm_migration::sea_orm::sqlx::sqlite::SqliteSynchronous;
use sea_orm_migration::sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement,
};
use sea_orm_migration::{MigrationTrait, MigratorTrait, SchemaManager};
use tempfile::TempDir;

use crate::turn::Turn;
use crate::{
    DownOptions, Error, Migrator, check_same_version, check_version, down, m20261123_000001_create_log,
    only_expands, status, up,
};

const LOG: &str = "m20261123_000001_create_log";
const PROJECTIONS: &str = "m20261123_000002_create_projections";
const LOST_ENDS: &str = "m20261201_000004_expand_lost_ends";
const NEWER: &str = "INSERT INTO seaql_migrations VALUES ('m20991231_000001_of_tomorrow', 0)";
const EVENT: &str = "INSERT INTO outbox (position, type, conversation_id, actor_id, command_key, command_hash, occurred_at, \
     receiver_id, seq, received_after) VALUES (7, 'message.sent', 7, 'alice', 'c1', x'00', 0, 'bob', 1, 0)";

struct File {
    folder: TempDir,
}

impl File {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    async fn connect(&self) -> DatabaseConnection {
        // Short, so that a taken lock shows at once, and the waiting is done by the code under test.
        self.connect_waiting(Duration::from_millis(10)).await
    }

    async fn connect_waiting(&self, busy_timeout: Duration) -> DatabaseConnection {
        let path = self.folder.path().join("chat.db");
        let mut options = ConnectOptions::new(format!("sqlite://{}?mode=rwc", path.display()));
        options.max_connections(4).map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .busy_timeout(busy_timeout)
                .synchronous(SqliteSynchronous::Off)
        });
        Database::connect(options).await.unwrap()
    }
}

async fn run(db: &DatabaseConnection, sql: &str) {
    db.execute_unprepared(sql).await.unwrap();
}

/// One line a row, its columns (all text) with a space between.
async fn rows(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let rows = db
        .query_all_raw(Statement::from_string(DbBackend::Sqlite, sql))
        .await
        .unwrap();
    rows.iter()
        .map(|row| row.try_get_by_index::<String>(0).unwrap())
        .collect()
}

async fn tables(db: &DatabaseConnection) -> Vec<String> {
    rows(
        db,
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name",
    )
    .await
}

async fn head(db: &DatabaseConnection) -> Vec<String> {
    rows(db, "SELECT format('%d %s %d %d %d %d %s', id, epoch, position, last_time, floor, oldest, server_id) FROM log_head")
        .await
}

#[tokio::test]
async fn up_creates_the_schema_once() {
    let file = File::new();
    let db = file.connect().await;
    let before = status(&db).await.unwrap();
    assert_eq!(
        (before.applied.len(), before.pending),
        (0, [LOG, PROJECTIONS, LOST_ENDS].map(str::to_owned).to_vec())
    );
    assert_eq!(tables(&db).await, [] as [&str; 0], "status writes nothing");

    assert_eq!(up(&db).await.unwrap(), [LOG, PROJECTIONS, LOST_ENDS]);
    let made = head(&db).await;
    assert_eq!(up(&db).await.unwrap(), [] as [&str; 0]);
    assert_eq!(head(&db).await, made);

    let after = status(&db).await.unwrap();
    assert_eq!(
        (after.applied, after.pending.len()),
        ([LOG, PROJECTIONS, LOST_ENDS].map(str::to_owned).to_vec(), 0)
    );
    check_version(&db).await.unwrap();

    let [made] = made.as_slice() else {
        panic!("one head, not {made:?}")
    };
    let epoch = made.split(' ').nth(1).unwrap();
    assert!(
        epoch.len() == 8
            && epoch
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
        "{epoch}"
    );
    assert_eq!(made.replace(epoch, "?"), "1 ? 0 0 0 1 ");
    assert_eq!(
        rows(&db, "SELECT name || ' ' || position FROM checkpoints").await,
        ["received_at 0"]
    );
}

#[tokio::test]
async fn schema_is_the_one_that_is_written_down() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    let columns = "SELECT m.name || ': ' || group_concat(c.name || ' ' || lower(c.type) || iif(c.pk, ' key ' || c.pk, '') \
         || iif(c.\"notnull\", '', ' null') || ifnull(' default ' || c.dflt_value, ''), ', ' ORDER BY c.cid) \
         FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name != 'seaql_migrations' \
         GROUP BY m.name ORDER BY m.name";
    assert_eq!(
        rows(&db, columns).await,
        [
            "checkpoints: name text key 1, position integer",
            "conversations: id integer key 1, name text, seq integer, last_position integer, last_message_id integer",
            "epochs: epoch text key 1, last_position integer, switched_at integer",
            "log_head: id integer key 1, epoch text, position integer, last_time integer, floor integer, \
             oldest integer, server_id text null",
            "lost_ends: epoch text key 1, common_position integer",
            "messages: _id integer key 1, sender_id text, reciver_id text, sent_at integer, recived_at integer null, \
             data blob null, content_type text, conversation_id integer, seq integer",
            "outbox: position integer key 1, type text, conversation_id integer, actor_id text, via text null, \
             command_key text, command_hash blob, occurred_at integer, receiver_id text, seq integer, \
             up_to_id integer null, up_to_seq integer null, received_after integer, content_type text null, \
             content blob null, fields text null",
            "participants: user_id text key 1, conversation_id integer key 2, from_position integer, \
             to_position integer null, received_seq integer, read_seq integer",
        ]
    );
    let indexes = "SELECT format('%s %s %s(%s)', i.name, iif(l.\"unique\", 'unique', 'on'), i.tbl_name, \
         (SELECT group_concat(name, ', ' ORDER BY seqno) FROM pragma_index_info(i.name))) \
         FROM sqlite_master i, pragma_index_list(i.tbl_name) l \
         WHERE i.type = 'index' AND i.sql IS NOT NULL AND l.name = i.name ORDER BY i.name";
    assert_eq!(
        rows(&db, indexes).await,
        [
            "conversations_name unique conversations(name)",
            "message_time_index on messages(sent_at)",
            "messages_conversation_seq unique messages(conversation_id, seq)",
            "outbox_command unique outbox(actor_id, command_key)",
            "outbox_conversation on outbox(conversation_id, position)",
            "participants_conversation on participants(conversation_id)",
        ]
    );
    let without_rowid = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%WITHOUT ROWID'";
    assert_eq!(rows(&db, without_rowid).await, ["participants"]);
    run(&db, EVENT).await;
    assert_eq!(
        rows(&db, "SELECT format('%d', rowid) FROM outbox").await,
        ["7"],
        "the position is the row id"
    );
}

#[tokio::test]
async fn names_are_compared_byte_for_byte() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    run(
        &db,
        "INSERT INTO conversations VALUES (1, 'Alice,bob', 0, 1, 1), (2, 'alice,bob', 0, 2, 2)",
    )
    .await;
    assert_eq!(
        rows(
            &db,
            "SELECT format('%d', id) FROM conversations WHERE name = 'alice,bob'"
        )
        .await,
        ["2"]
    );
}

#[tokio::test]
async fn down_drops_all_and_up_begins_another_history() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    let first = head(&db).await;
    assert_eq!(
        down(&db, DownOptions::default()).await.unwrap(),
        [LOST_ENDS, PROJECTIONS, LOG]
    );
    assert_eq!(tables(&db).await, [] as [&str; 0]);
    assert_eq!(down(&db, DownOptions::default()).await.unwrap(), [] as [&str; 0]);
    assert_eq!(up(&db).await.unwrap(), [LOG, PROJECTIONS, LOST_ENDS]);
    assert_ne!(head(&db).await, first, "a new log has a new epoch");
}

#[tokio::test]
async fn down_keeps_a_log_that_holds_messages_until_told_to_discard_them() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    run(&db, EVENT).await;
    let before = (tables(&db).await, head(&db).await);
    let refused = down(&db, DownOptions::default()).await.unwrap_err();
    assert!(
        matches!(refused, Error::HoldsMessages { last_position: 7 }),
        "{refused}"
    );
    assert_eq!((tables(&db).await, head(&db).await), before);

    // A log pruned to nothing still has its messages.
    run(&db, "DELETE FROM outbox").await;
    run(
        &db,
        "INSERT INTO messages VALUES (3, 'alice', 'bob', 0, NULL, x'00', 'text/plain', 3, 1)",
    )
    .await;
    let refused = down(&db, DownOptions::default()).await.unwrap_err();
    assert!(
        matches!(refused, Error::HoldsMessages { last_position: 3 }),
        "{refused}"
    );

    down(
        &db,
        DownOptions {
            discard_messages: true,
            ..DownOptions::default()
        },
    )
    .await
    .unwrap();
    assert_eq!(tables(&db).await, [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn replicas_that_start_at_once_all_come_up() {
    for _ in 0..10 {
        let file = File::new();
        // As the server connects: whoever looks what is there waits for a commit of another one.
        let connect = || file.connect_waiting(Duration::from_secs(5));
        let (one, two, three) = (connect().await, connect().await, connect().await);
        let start = |db: DatabaseConnection| tokio::spawn(async move { up(&db).await });
        let (one, two, three) = tokio::join!(start(one), start(two), start(three));
        let mut applied = [one, two, three].map(|replica| replica.unwrap().unwrap().len());
        applied.sort_unstable();
        assert_eq!(applied, [0, 0, 3], "one migrates, two find it done");
        assert_eq!(head(&file.connect().await).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_is_waited_for_where_sqlite_does_not_wait() {
    let file = File::new();
    let (one, two) = (file.connect().await, file.connect().await);
    let held = Turn::take(&one, Duration::ZERO).await.unwrap();
    let waiting = tokio::spawn(async move { Turn::take(&two, Duration::from_secs(60)).await });
    // Many times as long as SQLite waits.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    held.end(Ok(())).await.unwrap();
    waiting.await.unwrap().unwrap().end(Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_turn_that_never_comes_is_an_error() {
    let file = File::new();
    let (one, two) = (file.connect().await, file.connect().await);
    let held = Turn::take(&one, Duration::ZERO).await.unwrap();
    let refused = Turn::take(&two, Duration::from_millis(50)).await.err();
    assert!(matches!(refused, Some(Error::TurnTimeout { .. })), "{refused:?}");
    drop(held);
    Turn::take(&two, Duration::from_secs(10))
        .await
        .unwrap()
        .end(Ok(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    run(&db, NEWER).await;
    assert_eq!(
        status(&db).await.unwrap().unknown,
        ["m20991231_000001_of_tomorrow"]
    );
    let refused = [
        check_version(&db).await.unwrap_err(),
        up(&db).await.unwrap_err(),
        down(
            &db,
            DownOptions {
                discard_messages: true,
                ..DownOptions::default()
            },
        )
        .await
        .unwrap_err(),
    ];
    for error in refused {
        let Error::NewerSchema(names) = error else {
            panic!("{error}")
        };
        assert_eq!(names, "m20991231_000001_of_tomorrow");
    }
    assert_eq!(head(&db).await.len(), 1, "nothing was dropped");
}

/// MySQL keeps what was done before an interruption; here it is done by hand.
#[tokio::test]
async fn an_interrupted_up_goes_on() {
    let file = File::new();
    let db = file.connect().await;
    m20261123_000001_create_log::Migration
        .up(&SchemaManager::new(&db))
        .await
        .unwrap();
    let begun = head(&db).await;
    run(&db, "DROP TABLE epochs").await;
    assert_eq!(up(&db).await.unwrap(), [LOG, PROJECTIONS, LOST_ENDS]);
    assert_eq!(head(&db).await, begun, "the head that was there stays");
    assert_eq!(tables(&db).await.len(), 9);

    run(&db, "DELETE FROM seaql_migrations").await;
    run(&db, "DELETE FROM log_head").await;
    assert_eq!(up(&db).await.unwrap(), [LOG, PROJECTIONS, LOST_ENDS]);
    assert_eq!(head(&db).await.len(), 1);
    assert_eq!(rows(&db, "SELECT name FROM checkpoints").await, ["received_at"]);
}

/// As after a `down` that was interrupted between taking the head away and dropping the log.
#[tokio::test]
async fn an_interrupted_down_goes_on_and_never_gets_a_new_head_over_old_events() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    run(&db, EVENT).await;
    run(&db, "DELETE FROM log_head").await;
    run(&db, "DELETE FROM seaql_migrations").await;
    run(&db, "DROP TABLE participants").await;
    let refused = up(&db).await.unwrap_err();
    assert!(matches!(refused, Error::HeadMissing), "{refused}");
    assert_eq!(head(&db).await, [] as [&str; 0]);
    assert!(matches!(
        down(&db, DownOptions::default()).await,
        Err(Error::HoldsMessages { last_position: 7 })
    ));
    down(
        &db,
        DownOptions {
            discard_messages: true,
            ..DownOptions::default()
        },
    )
    .await
    .unwrap();
    assert_eq!(tables(&db).await, [] as [&str; 0]);
}

#[tokio::test]
async fn the_tables_of_others_are_not_touched() {
    let seed = "CREATE TABLE messages (_id INTEGER PRIMARY KEY, sender_id VARCHAR(32), reciver_id VARCHAR(32), \
                sent_at INTEGER, recived_at INTEGER, data BLOB)";
    let other = "CREATE TABLE participants (race TEXT, runner TEXT)";
    for (sql, table) in [(seed, "messages"), (other, "participants")] {
        let file = File::new();
        let db = file.connect().await;
        run(&db, sql).await;
        for refused in [
            up(&db).await.unwrap_err(),
            down(
                &db,
                DownOptions {
                    discard_messages: true,
                    ..DownOptions::default()
                },
            )
            .await
            .unwrap_err(),
        ] {
            match &refused {
                Error::SeedTable => assert_eq!(table, "messages"),
                Error::ForeignTable {
                    table: named,
                    column: "from_position",
                } => assert_eq!(*named, table),
                _ => panic!("{refused}"),
            }
            assert!(!refused.to_string().contains('\n'), "{refused}");
        }
        assert_eq!(tables(&db).await, [table], "nothing was made and nothing dropped");
    }
}

/// What it only adds, this program need not know: it goes on serving, and makes or drops nothing.
#[tokio::test]
async fn a_schema_that_was_only_expanded_is_served() {
    let file = File::new();
    let db = file.connect().await;
    up(&db).await.unwrap();
    run(
        &db,
        "INSERT INTO seaql_migrations VALUES ('m20991231_000001_expand_reactions', 0)",
    )
    .await;
    check_version(&db).await.unwrap();
    assert_eq!(up(&db).await.unwrap(), [] as [&str; 0]);
    let discard = DownOptions {
        discard_messages: true,
        ..DownOptions::default()
    };
    for refused in [
        check_same_version(&db).await.unwrap_err(),
        down(&db, discard).await.unwrap_err(),
    ] {
        let Error::NewerSchema(names) = refused else {
            panic!("{refused}")
        };
        assert_eq!(names, "m20991231_000001_expand_reactions");
    }
    // Together with one that does more, that one is named.
    run(&db, NEWER).await;
    let Err(Error::NewerSchema(names)) = check_version(&db).await else {
        panic!("it is refused")
    };
    assert_eq!(names, "m20991231_000001_of_tomorrow");
}

/// The name is what an older program goes by, so each says what it does; the first ones are older than the rule.
#[test]
fn every_migration_after_the_first_says_whether_it_only_expands() {
    for migration in Migrator::migrations() {
        let name = migration.name();
        let kind = name.split('_').nth(2).unwrap();
        assert!(
            [LOG, PROJECTIONS].contains(&name) || ["expand", "contract"].contains(&kind),
            "{name}"
        );
        assert_eq!(only_expands(name), kind == "expand");
    }
    for name in [
        LOG,
        crate::adoption::ADOPTED,
        "m20991231_000001_of_tomorrow",
        "m20991231_000001_contract_expand_x",
        "expand",
    ] {
        assert!(!only_expands(name), "{name}");
    }
}
