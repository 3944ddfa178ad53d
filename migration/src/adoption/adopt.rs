//! The way there.

use sea_orm_migration::{MigrationName, MigratorTrait, SchemaManager};
use tracing::info;

use super::{
    ADOPTED, CLOSED, CheckOptions, IdMap, OURS, RECORD, ROWS_IN_A_STEP, Record, SEED, Shape, Sql, State,
    Steps, check, create_closed, drop_what_is_left,
    ids::{self, Names},
    others, shape,
    sql::{DDL_WAIT_S, IS_NO_TEXT, next_number},
};
use crate::dialect::drop_tables;
use crate::error::{During, Error, Result};
use crate::turn::is_lock_wait;
use crate::{BOOKKEEPING, Migrator, guard, m20261123_000001_create_log, m20261123_000002_create_projections};

/// How long moving the table aside waits for a transaction that uses it.
const RENAME_WAIT_S: u32 = 5;

/// Names the primary key as the index to take.
const BY_KEY: &str = "FORCE INDEX (PRIMARY)";
/// Conversations by their names.
const BY_NAME: &str = "FORCE INDEX (conversations_name)";

pub(super) async fn run(manager: &SchemaManager<'_>, sql: &Sql<'_>, ours: &[i64], ids: &IdMap) -> Result<()> {
    if shape(sql, "messages").await? == Shape::Seed {
        // An adoption that got no further than its record has its names already.
        let stored = match Record::read(sql).await? {
            Some(_) => ids::stored(sql).await?,
            None => IdMap::new(),
        };
        let ids = if ids.is_empty() { &stored } else { ids };
        close(manager, sql, ours, ids).await?;
    }
    let Some(mut record) = Record::read(sql).await? else {
        return Ok(());
    };
    // A RENAME that was the last thing before an interruption: everything is there but the record of it.
    if shape(sql, "messages").await? != Shape::Ours {
        let line = match record.line {
            Some(line) => line,
            None => draw_the_line(manager, sql).await?,
        };
        create_tables(manager).await?;
        record = Record::read(sql).await?.unwrap_or(record);
        take_over(sql, &record, line).await?;
        open(manager, sql, line).await?;
    }
    record_migrations(sql).await?;
    clear_up(manager, sql).await?;
    info!(messages = record.messages, "the table is adopted");
    Ok(())
}

/// The tables that are in the way of an adoption, each as it is refused.
pub(super) async fn in_the_way(manager: &SchemaManager<'_>, sql: &Sql<'_>) -> Result<Vec<Error>> {
    let mut refused = guard::tables_beside(manager, &[SEED, OURS]).await?;
    if !matches!(shape(sql, CLOSED).await?, Shape::Absent | Shape::Closed) {
        refused.push(Error::InTheWay { table: CLOSED });
    }
    Ok(refused)
}

/// Looks at the table, and closes it to everybody.
async fn close(manager: &SchemaManager<'_>, sql: &Sql<'_>, ours: &[i64], ids: &IdMap) -> Result<()> {
    if let Some(refused) = in_the_way(manager, sql).await?.into_iter().next() {
        return Err(refused);
    }
    let report = check::examine(sql, "messages", CheckOptions::default(), ids).await?;
    if report.is_refused() {
        return Err(Error::NotAdoptable(report.refusals()));
    }
    info!(
        messages = report.messages,
        seconds = report.seconds(),
        disk_bytes = report.disk_bytes(),
        "the legacy table can be adopted; that takes about so long, and so much disk"
    );
    others::refuse_connected(sql, ours).await?;
    if check::last_id(sql, "messages").await? > report.last {
        return Err(Error::RowsCame);
    }

    // Before the record, without which no table of names means anything.
    drop_tables(manager, &[ids::TABLE])
        .await
        .during("forget the new names of before")?;
    if !report.ids.is_empty() {
        ids::store(manager, sql, &report.ids).await?;
    }
    Record::create_table(manager).await?;
    let definition = sql.definition("messages").await?;
    let literal = definition.replace('\\', "\\\\").replace('\'', "''");
    sql.run(&format!(
        "REPLACE INTO {RECORD} (id, state, definition, line, messages, position) \
         VALUES (1, '{}', '{literal}', NULL, {}, 0)",
        State::Adopting.name(),
        report.messages
    ))
    .await?;
    create_closed(manager).await?;
    sql.wait_for_tables(RENAME_WAIT_S).await?;
    let closed = sql.rename(&[("messages", SEED), (CLOSED, "messages")]).await;
    sql.wait_for_tables(DDL_WAIT_S).await?;
    match closed {
        Ok(()) => {
            info!("the table is closed: what an old client sends now is refused");
            Ok(())
        }
        Err(error) => {
            forget(manager).await?;
            Err(match error {
                Error::Database { source, .. } if is_lock_wait(&source) => Error::TableInUse,
                error => error,
            })
        }
    }
}

/// Takes the record away, and what keeps old clients out. The legacy table is in its place.
async fn forget(manager: &SchemaManager<'_>) -> Result<()> {
    drop_tables(manager, &[CLOSED, RECORD, ids::TABLE])
        .await
        .during("forget the adoption")
}

/// Looks again, now that nobody can write, and writes down up to where numbers are taken.
async fn draw_the_line(manager: &SchemaManager<'_>, sql: &Sql<'_>) -> Result<i64> {
    let names = ids::stored(sql).await?;
    let report = check::examine(sql, SEED, CheckOptions::default(), &names).await?;
    if report.is_refused() {
        // It came between the first look and the closing.
        sql.rename(&[("messages", CLOSED), (SEED, "messages")]).await?;
        forget(manager).await?;
        return Err(Error::NotAdoptable(report.refusals()));
    }
    let next = next_number(&sql.definition(SEED).await?);
    let line = report.last.max(next - 1);
    sql.run(&format!(
        "UPDATE {RECORD} SET line = {line}, messages = {} WHERE id = 1",
        report.messages
    ))
    .await?;
    Ok(line)
}

/// All tables but `messages`, and ours beside it. The log has no head yet.
async fn create_tables(manager: &SchemaManager<'_>) -> Result<()> {
    let operation = "make the tables";
    Migrator::install(manager.get_connection())
        .await
        .during(operation)?;
    m20261123_000001_create_log::create_tables(manager)
        .await
        .during(operation)?;
    m20261123_000002_create_projections::create_tables(manager, OURS)
        .await
        .during(operation)
}

async fn take_over(sql: &Sql<'_>, record: &Record, line: i64) -> Result<()> {
    let mut after = record.position;
    if after > 0 {
        info!(after, "the adoption goes on");
    }
    let mut told = after;
    let mut steps = Steps::new();
    let names = Names::of(sql).await?;
    while let Some((last, count)) = steps.next(sql, SEED, after).await? {
        take_step(sql, &names, (after, last), count).await?;
        after = last;
        if after - told >= ROWS_IN_A_STEP {
            info!(id = after, of = line, "rows are taken over");
            told = after;
        }
    }
    for table in [SEED, OURS] {
        let count: i64 = sql
            .value(&format!("SELECT CAST(COUNT(*) AS SIGNED) FROM {table}"))
            .await?;
        if count != record.messages {
            return Err(Error::SeedChanged {
                found: count,
                expected: record.messages,
            });
        }
    }
    Ok(())
}

/// Takes the rows of one step over, all or none of them. Each statement says where it begins, at the rows of the step,
/// and by which index it goes on. A planner that guesses has read everything that is over already, again in each step; and
/// one whose statistics are older than the step before takes a table that was filled there for an empty one, and scans it
/// for each row.
async fn take_step(sql: &Sql<'_>, names: &Names, (after, last): (i64, i64), count: i64) -> Result<()> {
    let range = format!("_id > {after} AND _id <= {last}");
    let positions = format!("position > {after} AND position <= {last}");
    let select = format!("SELECT CAST(_id AS SIGNED) FROM {SEED} WHERE {range} AND {IS_NO_TEXT}");
    let mut bytes: Vec<i64> = sql.column(&select).await?;
    // An empty list is no SQL, and there is no row 0.
    bytes.push(0);
    let bytes: Vec<_> = bytes.iter().map(ToString::to_string).collect();

    sql.run("START TRANSACTION").await?;
    let name = names.conversation();
    sql.run(&format!(
        "INSERT INTO conversations (id, name, seq, last_position, last_message_id) \
         SELECT n.first, n.name, 0, 0, 0 FROM (SELECT MIN(_id) AS first, {name} AS name FROM {SEED} {BY_KEY} \
         WHERE {range} GROUP BY 2) n LEFT JOIN conversations c {BY_NAME} ON c.name = n.name WHERE c.id IS NULL ORDER BY n.first"
    ))
    .await?;
    let logged = sql.run(&log_rows(names, &range, &bytes.join(","))).await?;
    let copied = sql
        .run(&format!(
            "INSERT INTO {OURS} (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, \
             conversation_id, seq) SELECT s._id, o.actor_id, o.receiver_id, s.sent_at, s.recived_at, s.data, \
             o.content_type, o.conversation_id, o.seq FROM {SEED} s {BY_KEY} STRAIGHT_JOIN outbox o {BY_KEY} \
             ON o.position = s._id WHERE s._id > {after} AND s._id <= {last} ORDER BY s._id"
        ))
        .await?;
    for found in [logged, copied] {
        if found != count {
            return Err(Error::SeedChanged {
                found,
                expected: count,
            });
        }
    }
    sql.run(&format!(
        "UPDATE (SELECT conversation_id, MAX(seq) AS seq, MAX(position) AS last FROM outbox {BY_KEY} \
         WHERE {positions} GROUP BY conversation_id) n STRAIGHT_JOIN conversations c {BY_KEY} ON c.id = n.conversation_id \
         SET c.seq = n.seq, c.last_position = n.last, c.last_message_id = n.last"
    ))
    .await?;
    let members = |column: &str| {
        format!(
            "SELECT o.{column} AS user_id, c.id, c.seq FROM outbox o {BY_KEY} STRAIGHT_JOIN conversations c {BY_KEY} \
             ON c.id = o.conversation_id WHERE {positions}"
        )
    };
    sql.run(&format!(
        "INSERT INTO participants (user_id, conversation_id, from_position, to_position, received_seq, read_seq) \
         SELECT m.user_id, m.id, m.id, NULL, m.seq, m.seq FROM ({} UNION {}) m ORDER BY m.user_id, m.id \
         ON DUPLICATE KEY UPDATE received_seq = VALUES(received_seq), read_seq = VALUES(read_seq)",
        members("actor_id"),
        members("receiver_id"),
    ))
    .await?;
    sql.run(&format!("UPDATE {RECORD} SET position = {last} WHERE id = 1"))
        .await?;
    sql.run("COMMIT").await.map(|_| ())
}

/// Writes the events. Each says by its `received_after` that it was received and read before the log began. The hash is
/// that of the command that would have sent it, and the key is the server's.
fn log_rows(names: &Names, range: &str, bytes: &str) -> String {
    let (sender, receiver) = (names.new_id("s.sender_id"), names.new_id("s.reciver_id"));
    let name = names.conversation();
    let part = |bytes: &str| format!("UNHEX(LPAD(HEX(OCTET_LENGTH({bytes})), 16, '0')), {bytes}");
    // Bytes all of them, or the data would be read as text.
    let hashed = [
        part("CAST('send' AS BINARY)"),
        part(&format!("CAST({receiver} AS BINARY)")),
        part("CAST(n.content_type AS BINARY)"),
        part("COALESCE(s.data, x'')"),
    ];
    format!(
        "INSERT INTO outbox (position, type, conversation_id, actor_id, via, command_key, command_hash, occurred_at, \
         receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields) \
         SELECT s._id, 'message.sent', n.conversation_id, {sender}, NULL, \
         CONCAT(' ', LPAD(LOWER(HEX(s._id)), 32, '0')), UNHEX(SHA2(CONCAT({}), 256)), s.sent_at * 1000000, {receiver}, \
         n.seq, NULL, NULL, n.seq, n.content_type, s.data, \
         IF(s.recived_at IS NULL, NULL, CONCAT('{{\"received_at\":', s.recived_at, '}}')) \
         FROM (SELECT r._id, r.content_type, c.id AS conversation_id, \
         c.seq + ROW_NUMBER() OVER (PARTITION BY c.id ORDER BY r._id) AS seq \
         FROM (SELECT _id, {name} AS name, \
         IF(data IS NULL OR _id IN ({bytes}), 'application/octet-stream', 'text/plain') AS content_type \
         FROM {SEED} {BY_KEY} WHERE {range}) r STRAIGHT_JOIN conversations c {BY_NAME} ON c.name = r.name) n \
         STRAIGHT_JOIN {SEED} s {BY_KEY} ON s._id = n._id ORDER BY s._id",
        hashed.join(", "),
    )
}

/// Gives the log its head, and everybody the new table.
async fn open(manager: &SchemaManager<'_>, sql: &Sql<'_>, line: i64) -> Result<()> {
    let operation = "give the log its head";
    sql.run("START TRANSACTION").await?;
    m20261123_000002_create_projections::insert_checkpoint(manager, "received_at", line)
        .await
        .during(operation)?;
    m20261123_000001_create_log::insert_head(manager, line)
        .await
        .during(operation)?;
    sql.run("COMMIT").await?;
    sql.rename(&[("messages", CLOSED), (OURS, "messages")]).await
}

async fn record_migrations(sql: &Sql<'_>) -> Result<()> {
    sql.run("START TRANSACTION").await?;
    let [log, projections] = [
        m20261123_000001_create_log::Migration.name(),
        m20261123_000002_create_projections::Migration.name(),
    ]
    .map(str::to_owned);
    for name in [log, projections, ADOPTED.to_owned()] {
        sql.run(&format!("DELETE FROM {BOOKKEEPING} WHERE version = '{name}'"))
            .await?;
        sql.run(&format!(
            "INSERT INTO {BOOKKEEPING} (version, applied_at) VALUES ('{name}', UNIX_TIMESTAMP())"
        ))
        .await?;
    }
    Record::enter(sql, State::Clearing).await?;
    sql.run("COMMIT").await.map(|_| ())
}

/// Drops what stood beside the table while it was adopted. From then on such tables are somebody else's.
pub(super) async fn clear_up(manager: &SchemaManager<'_>, sql: &Sql<'_>) -> Result<()> {
    drop_what_is_left(manager).await?;
    Record::enter(sql, State::Adopted).await
}
