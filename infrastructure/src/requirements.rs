//! What the promises need from a database, checked before anything is made in it and at start.
//!
//! A server that loses its last second when the power fails acknowledges what it has not got. Settings of that kind
//! can be waived by whoever runs it ([`Kind::Durability`]); all else cannot. A managed database hides some of its
//! settings, or has them in a form of its own: what cannot be seen is said ([`Kind::Unseen`]), and refused by nobody.

mod changers;

use std::collections::HashMap;

use chat_domain::content::Content;
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use crate::{
    database::{Database, server_version},
    entities::checkpoints,
    flavor::Flavor,
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
    /// Nobody can tell from here. The server works.
    Unseen,
}

/// The tables whose engine and collation matter.
const TABLES: &[&str] = &[
    "log_head",
    "epochs",
    "lost_ends",
    "outbox",
    "messages",
    "conversations",
    "participants",
    "checkpoints",
];

/// 8.0.16 has all that statements need: window functions, `SKIP LOCKED`, the regular expressions of ICU, and CHECKs, which
/// the releases before it take and forget.
const LEAST_MYSQL: [u32; 3] = [8, 0, 16];
const LEAST_MARIADB: [u32; 3] = [10, 11, 0];

/// Lists what is not met of a database whose schema may not be there yet: what `migrate up` would be for nothing on.
pub async fn check_server(
    database: &Database,
    writer: &WriterOptions,
    content_limit: usize,
) -> Result<Vec<Unmet>, DbErr> {
    if database.flavor == Flavor::Sqlite {
        return sqlite(database).await;
    }
    let version = server_version(&database.pool).await?;
    let select = format!(
        "SHOW GLOBAL VARIABLES WHERE variable_name IN ({})",
        sql::list(SETTINGS.iter().map(|name| format!("'{name}'")))
    );
    let rows = database
        .pool
        .query_all_raw(database.statement(select, []))
        .await?;
    let read = |row: &QueryResult| -> Result<_, DbErr> {
        let name: String = row.try_get_by_index(0)?;
        Ok((name.to_ascii_lowercase(), row.try_get_by_index(1)?))
    };
    let settings = Settings {
        flavor: database.flavor,
        version,
        values: rows.iter().map(read).collect::<Result<_, _>>()?,
    };
    let mut unmet = settings.unmet(
        packet_needed(writer, content_limit),
        writer.batch_bytes,
        content_limit,
    );
    let changers = changers::find(database).await?;
    unmet.extend(changers.into_iter().map(|text| Unmet {
        kind: Kind::Necessary,
        text,
    }));
    Ok(unmet)
}

/// Lists what is not met by a schema that is up to date.
pub async fn check_schema(database: &Database) -> Result<Vec<Unmet>, DbErr> {
    let mut unmet = match database.flavor {
        Flavor::Sqlite => Vec::new(),
        Flavor::MariaDb | Flavor::MySql => tables(database).await?,
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

/// What is looked at of a server's settings.
const SETTINGS: [&str; 7] = [
    "aurora_version",
    "innodb_flush_log_at_trx_commit",
    "innodb_read_only",
    "log_bin",
    "max_allowed_packet",
    "read_only",
    "sync_binlog",
];

/// What a server says of itself.
struct Settings {
    flavor: Flavor,
    version: String,
    /// Of [`SETTINGS`], those that it shows.
    values: HashMap<String, String>,
}

impl Settings {
    fn unmet(&self, packet: i64, batch_bytes: usize, content_limit: usize) -> Vec<Unmet> {
        let mut unmet = Vec::new();
        let mut add = |kind, text: String| unmet.push(Unmet { kind, text });
        let (name, least) = match self.flavor {
            Flavor::MariaDb => ("MariaDB", LEAST_MARIADB),
            Flavor::MySql | Flavor::Sqlite => ("MySQL", LEAST_MYSQL),
        };
        if is_older(&self.version, least) {
            let [major, minor, patch] = least;
            let patch = if patch > 0 {
                format!(".{patch}")
            } else {
                String::new()
            };
            add(
                Kind::Necessary,
                format!(
                    "{name} is {}, and must be {major}.{minor}{patch} or newer",
                    self.version
                ),
            );
        }
        // A reader of Aurora says it by the second one.
        let reads_only = |setting| {
            self.text(setting)
                .is_some_and(|value| !["0", "OFF"].contains(&value))
        };
        if reads_only("read_only") || reads_only("innodb_read_only") {
            add(
                Kind::Necessary,
                "the database server is read_only: it is not the primary".into(),
            );
        }
        let mut unseen = Vec::new();
        match self.number("max_allowed_packet") {
            Some(found) if found < packet => add(
                Kind::Necessary,
                format!(
                    "max_allowed_packet is {found}, and must be at least {packet} bytes for a batch of {batch_bytes} \
                     bytes and contents of {content_limit}"
                ),
            ),
            Some(_) => {}
            None => unseen.push("max_allowed_packet"),
        }
        match self.text("innodb_flush_log_at_trx_commit") {
            Some("1") => {}
            Some(found) => add(
                Kind::Durability,
                format!(
                    "innodb_flush_log_at_trx_commit is {found}, and must be 1 for acknowledged to mean durable"
                ),
            ),
            None => unseen.push("innodb_flush_log_at_trx_commit"),
        }
        let has_binlog = self
            .text("log_bin")
            .is_none_or(|value| !["0", "OFF"].contains(&value));
        match self.text("sync_binlog") {
            Some("1") => {}
            _ if !has_binlog => {}
            // Its storage has the binary log, and there is nothing to set.
            Some(found) if self.values.contains_key("aurora_version") => add(
                Kind::Unseen,
                format!("sync_binlog is {found}, which Aurora manages by itself"),
            ),
            Some(found) => add(
                Kind::Durability,
                format!(
                    "sync_binlog is {found} with a binary log, and must be 1 for acknowledged to mean durable"
                ),
            ),
            None => unseen.push("sync_binlog"),
        }
        for setting in unseen {
            add(
                Kind::Unseen,
                format!("{setting} cannot be seen: the database does not show it"),
            );
        }
        unmet
    }

    fn text(&self, setting: &str) -> Option<&str> {
        self.values.get(setting).map(String::as_str)
    }

    fn number(&self, setting: &str) -> Option<i64> {
        self.text(setting)?.parse().ok()
    }
}

async fn tables(database: &Database) -> Result<Vec<Unmet>, DbErr> {
    let mut unmet = Vec::new();
    let mut necessary = |text: String| {
        unmet.push(Unmet {
            kind: Kind::Necessary,
            text,
        })
    };
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
    Ok(unmet)
}

/// The largest packet that the writer sends: a batch ends with the command that fills it, content is written in hex,
/// and each row has some fields beside it.
fn packet_needed(writer: &WriterOptions, content_limit: usize) -> i64 {
    let content = 2 * (writer.batch_bytes + content_limit.min(Content::MAX_LIMIT));
    let fields = 2048 * writer.batch_commands;
    i64::try_from(content + fields).unwrap_or(i64::MAX)
}

fn is_older(version: &str, least: [u32; 3]) -> bool {
    release(version).is_none_or(|found| found < least)
}

/// Of three numbers, the last may be missing: Aurora is `8.0.mysql_aurora.3.08.0`, which says nothing of it, and none
/// that has this form is older than 8.0.23.
fn release(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split(['.', '-']);
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next().unwrap_or(u32::MAX)])
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

    fn settings(version: &str, values: &[(&str, &str)]) -> Settings {
        let usual = [
            ("innodb_flush_log_at_trx_commit", "1"),
            ("innodb_read_only", "OFF"),
            ("log_bin", "ON"),
            ("max_allowed_packet", "67108864"),
            ("read_only", "OFF"),
            ("sync_binlog", "1"),
        ];
        let mut values_of: HashMap<_, _> = usual
            .iter()
            .chain(values)
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        values_of.retain(|_, value| value != "hidden");
        Settings {
            flavor: Flavor::MySql,
            version: version.into(),
            values: values_of,
        }
    }

    fn unmet(settings: &Settings) -> Vec<(Kind, String)> {
        let unmet = settings.unmet(5 << 20, 1 << 20, 256 << 10);
        unmet.into_iter().map(|unmet| (unmet.kind, unmet.text)).collect()
    }

    #[test]
    fn aurora_serves_and_says_which_settings_it_manages() {
        for version in ["8.0.mysql_aurora.3.08.0", "8.0.28", "8.0.39"] {
            let aurora = ("aurora_version", "3.08.0");
            assert_eq!(unmet(&settings(version, &[aurora])), []);
            let managed = "sync_binlog is 0, which Aurora manages by itself".to_owned();
            assert_eq!(
                unmet(&settings(version, &[aurora, ("sync_binlog", "0")])),
                [(Kind::Unseen, managed)]
            );
            // It is off where nobody asked for a binary log.
            let off = [aurora, ("log_bin", "OFF"), ("sync_binlog", "0")];
            assert_eq!(unmet(&settings(version, &off)), []);
            let lax = [aurora, ("innodb_flush_log_at_trx_commit", "2")];
            assert_eq!(unmet(&settings(version, &lax))[0].0, Kind::Durability);
            // Its readers.
            let reader = [aurora, ("innodb_read_only", "ON")];
            assert_eq!(unmet(&settings(version, &reader))[0].0, Kind::Necessary);
        }
    }

    #[test]
    fn a_setting_that_cannot_be_seen_is_said_and_not_refused() {
        for hidden in [
            "innodb_flush_log_at_trx_commit",
            "sync_binlog",
            "max_allowed_packet",
        ] {
            let text = format!("{hidden} cannot be seen: the database does not show it");
            assert_eq!(
                unmet(&settings("8.0.40", &[(hidden, "hidden")])),
                [(Kind::Unseen, text)]
            );
        }
        // One that may have a binary log is as strict as one that has.
        let found = unmet(&settings("8.4.0", &[("log_bin", "hidden"), ("sync_binlog", "0")]));
        assert_eq!(found[0].0, Kind::Durability);
    }

    #[test]
    fn releases_are_read_from_version_texts() {
        assert_eq!(release("10.11.19-MariaDB-0+deb12u1"), Some([10, 11, 19]));
        assert_eq!(release("9.7.4-2"), Some([9, 7, 4]));
        assert_eq!(release("8.0.mysql_aurora.3.08.0"), Some([8, 0, u32::MAX]));
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
        for old in ["8.0.15", "8.0.4-log", "5.7.44", "5.7.mysql_aurora.2.11.4", "8"] {
            assert!(is_older(old, LEAST_MYSQL), "{old:?}");
        }
        for new in [
            "8.0.16",
            "8.0.36-28",
            "8.0.mysql_aurora.3.04.1",
            "8.4.0",
            "8.10.1",
            "9.0.1",
            "9.7.4-2",
            "10.1",
        ] {
            assert!(!is_older(new, LEAST_MYSQL), "{new:?}");
        }
    }
}
