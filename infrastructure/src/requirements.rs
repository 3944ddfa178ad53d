//! What the promises need from a database, checked at start.
//!
//! A server that loses its last second when the power fails acknowledges what it has not got. Settings of that kind
//! can be waived by whoever runs it ([`Kind::Durability`]); all else cannot.

use chat_domain::content::Content;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use crate::{
    database::{Database, Flavor, server_version},
    entities::checkpoints,
    primary::IS_READ_ONLY,
    sql,
    writer::WriterOptions,
};

/// A requirement that the database does not meet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unmet {
    pub kind: Kind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Acknowledged messages can be lost with the machine. May be waived.
    Durability,
    /// The server cannot work like this.
    Necessary,
}

/// The tables whose engine and collation matter.
const TABLES: &[&str] = &[
    "log_head",
    "epochs",
    "outbox",
    "messages",
    "conversations",
    "participants",
    "checkpoints",
];

const LEAST_MYSQL: (u32, u32) = (8, 4);
const LEAST_MARIADB: (u32, u32) = (10, 11);

/// Lists what is not met, of a database whose schema is up to date.
pub async fn check(
    database: &Database,
    writer: &WriterOptions,
    content_limit: usize,
) -> Result<Vec<Unmet>, DbErr> {
    let mut unmet = match database.flavor {
        Flavor::Sqlite => sqlite(database).await?,
        Flavor::MariaDb | Flavor::MySql => server(database, writer, content_limit).await?,
    };
    let select = "SELECT position FROM checkpoints WHERE name = ?";
    let rebuild = database.statement(select, [checkpoints::REBUILD.into()]);
    if database.pool.query_one_raw(rebuild).await?.is_some() {
        let text = "a rebuild of the projections was interrupted: run `chat-system rebuild` again";
        unmet.push(Unmet {
            kind: Kind::Necessary,
            text: text.into(),
        });
    }
    Ok(unmet)
}

async fn sqlite(database: &Database) -> Result<Vec<Unmet>, DbErr> {
    let mut unmet = Vec::new();
    let row = one(database, "PRAGMA journal_mode").await?;
    let journal: String = row.try_get_by_index(0)?;
    if !journal.eq_ignore_ascii_case("wal") {
        unmet.push(Unmet {
            kind: Kind::Necessary,
            text: format!(
                "SQLite's journal_mode is {journal}, and must be wal: readers would block the writer"
            ),
        });
    }
    let row = one(database, "PRAGMA synchronous").await?;
    let synchronous: i64 = row.try_get_by_index(0)?;
    if synchronous < 2 {
        unmet.push(Unmet {
            kind: Kind::Durability,
            text: format!(
                "SQLite's synchronous is {synchronous}, and must be 2 (FULL) for acknowledged to mean durable"
            ),
        });
    }
    Ok(unmet)
}

async fn server(
    database: &Database,
    writer: &WriterOptions,
    content_limit: usize,
) -> Result<Vec<Unmet>, DbErr> {
    let mut unmet = Vec::new();
    let mut necessary = |text: String| {
        unmet.push(Unmet {
            kind: Kind::Necessary,
            text,
        })
    };

    let version = server_version(&database.pool).await?;
    let (name, least) = match database.flavor {
        Flavor::MariaDb => ("MariaDB", LEAST_MARIADB),
        Flavor::MySql | Flavor::Sqlite => ("MySQL", LEAST_MYSQL),
    };
    if is_older(&version, least) {
        necessary(format!(
            "{name} is {version}, and must be {}.{} or newer",
            least.0, least.1
        ));
    }

    let select = format!(
        "SELECT CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS SIGNED) AS flush_log, \
         CAST(@@GLOBAL.log_bin AS SIGNED) AS log_bin, CAST(@@GLOBAL.sync_binlog AS SIGNED) AS sync_binlog, \
         CAST(@@GLOBAL.max_allowed_packet AS SIGNED) AS packet, {IS_READ_ONLY} AS is_read_only"
    );
    let row = one(database, &select).await?;
    let number = |column: &str| row.try_get::<i64>("", column);
    if number("is_read_only")? != 0 {
        necessary("the database server is read_only: it is not the primary".into());
    }
    let needed = packet_needed(writer, content_limit);
    let packet = number("packet")?;
    if packet < needed {
        necessary(format!(
            "max_allowed_packet is {packet}, and must be at least {needed} bytes for a batch of {} bytes and \
             contents of {content_limit}",
            writer.batch_bytes
        ));
    }

    let names = sql::list(TABLES.iter().map(|table| format!("'{table}'")));
    let select = format!(
        "SELECT CAST(table_name AS CHAR) AS name, CAST(engine AS CHAR) AS engine, \
         CAST(table_collation AS CHAR) AS collation FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name IN ({names})"
    );
    let tables = database
        .pool
        .query_all_raw(database.statement(select, []))
        .await?;
    for table in &tables {
        let text = |column: &str| table.try_get::<String>("", column);
        let (name, engine, collation) = (text("name")?, text("engine")?, text("collation")?);
        if !engine.eq_ignore_ascii_case("InnoDB") {
            necessary(format!("the table {name} is on {engine}, and must be on InnoDB"));
        }
        if !collation.ends_with("_bin") {
            necessary(format!(
                "the table {name} compares by {collation}, and must compare byte for byte (_bin)"
            ));
        }
    }

    let mut lax = |text: String| {
        unmet.push(Unmet {
            kind: Kind::Durability,
            text,
        })
    };
    let flush = number("flush_log")?;
    if flush != 1 {
        lax(format!(
            "innodb_flush_log_at_trx_commit is {flush}, and must be 1 for acknowledged to mean durable"
        ));
    }
    let sync = number("sync_binlog")?;
    if number("log_bin")? != 0 && sync != 1 {
        lax(format!(
            "sync_binlog is {sync} with a binary log, and must be 1 for acknowledged to mean durable"
        ));
    }
    Ok(unmet)
}

/// The largest packet that the writer sends: a batch ends with the command that fills it, content is written in hex,
/// and each row has some fields beside it.
fn packet_needed(writer: &WriterOptions, content_limit: usize) -> i64 {
    let content = 2 * (writer.batch_bytes + content_limit.min(Content::MAX_LIMIT));
    let fields = 2048 * writer.batch_commands;
    i64::try_from(content + fields).unwrap_or(i64::MAX)
}

fn is_older(version: &str, least: (u32, u32)) -> bool {
    release(version).is_none_or(|found| found < least)
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

async fn one(database: &Database, select: &str) -> Result<QueryResult, DbErr> {
    let row = database
        .pool
        .query_one_raw(database.statement(select, []))
        .await?;
    row.ok_or_else(|| DbErr::RecordNotFound(select.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_from_version_texts() {
        assert_eq!(release("10.11.19-MariaDB-0+deb12u1"), Some((10, 11)));
        assert_eq!(release("9.7.4-2"), Some((9, 7)));
        assert_eq!(release("five"), None);
    }

    #[test]
    fn a_database_that_is_too_old_is_told_from_one_that_is_not() {
        for old in [
            "10.10.99-MariaDB",
            "10.6.18-MariaDB-log",
            "5.5.68-MariaDB",
            "9.11.0",
            "MariaDB",
            "",
        ] {
            assert!(is_older(old, LEAST_MARIADB), "{old:?}");
        }
        for new in [
            "10.11.0-MariaDB",
            "10.11.19-MariaDB-0+deb12u1",
            "11.4.2-MariaDB",
            "12.0",
        ] {
            assert!(!is_older(new, LEAST_MARIADB), "{new:?}");
        }
        for old in ["8.0.36", "8.3.9-log", "5.7.44", "8"] {
            assert!(is_older(old, LEAST_MYSQL), "{old:?}");
        }
        for new in ["8.4.0", "8.10.1", "9.0.1", "9.7.4-2", "10.1"] {
            assert!(!is_older(new, LEAST_MYSQL), "{new:?}");
        }
    }
}
