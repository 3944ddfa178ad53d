//! The commands that work on the database beside, or instead of, a server.

use std::io::{self, Write};

use anyhow::{Context, bail};
use chat_domain::ports::Outbox;
use chat_infrastructure::{
    database::Database,
    followers::received_at::{Projector, Step},
    location::{FileLock, Location},
    maintenance::{new_epoch, rebuild as rebuilding, verify as verifying},
    outbox::SqlOutbox,
};
use chat_migration::{CheckOptions, DownOptions, Finding, IdMap, Report, Verdict};

use clap::ValueEnum;

use crate::{
    config::Config,
    serve::{check_server, describe, is_waived, unmet_of_schema, unmet_of_server, warning},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MigrateAction {
    /// Say what `up` and `serve` would refuse, what is odd about a legacy table, and what adopting it means; exit
    /// code 3 when something is refused
    Check,
    /// Apply what is pending; adopt a legacy table (MySQL and MariaDB), or go on with that
    Up,
    /// Undo all; an adopted table is given back
    Down,
    /// Say what is applied and what is pending
    Status,
}

const CONNECTIONS: u32 = 2;

async fn connect(config: &Config) -> anyhow::Result<Database> {
    Ok(Database::connect(Location::parse(config.database_url.expose())?, CONNECTIONS).await?)
}

/// Keeps servers away from an SQLite file, or says that one has it.
fn alone(config: &Config) -> anyhow::Result<Option<FileLock>> {
    Ok(FileLock::take(&Location::parse(config.database_url.expose())?)?)
}

pub async fn migrate(
    config: Config,
    action: MigrateAction,
    options: DownOptions,
    ids: IdMap,
) -> anyhow::Result<()> {
    match action {
        MigrateAction::Up => {
            let database = connect(&config).await?;
            check_server(&database, &config).await?;
            let applied = chat_migration::up_adopting(&database.pool, &ids)
                .await
                .map_err(describe)?;
            tell(&named("applied", &applied, "nothing is pending"))
        }
        MigrateAction::Down => {
            check_file(&config)?;
            let _alone = alone(&config)?;
            let database = connect(&config).await?;
            fill_received_at(&database).await?;
            let undone = chat_migration::down(&database.pool, options)
                .await
                .map_err(describe)?;
            tell(&named("undone", &undone, "nothing was applied"))
        }
        // The command line asks `check_migration`, which has an exit code of its own.
        MigrateAction::Check => check_migration(config, ids).await.map(|_| ()),
        MigrateAction::Status => {
            if let Some(missing) = missing_file(&config)? {
                return tell(&format!("{missing}\n"));
            }
            let database = connect(&config).await?;
            let status = chat_migration::status(&database.pool).await.map_err(describe)?;
            // Of what it does not know, it says whether it can serve all the same.
            let unknown = status.unknown.into_iter().map(|name| {
                if chat_migration::only_expands(&name) {
                    format!("{name} (it only expands the schema: this version can serve)")
                } else {
                    name
                }
            });
            let names = [
                ("applied", status.applied),
                ("pending", status.pending),
                ("unknown", unknown.collect()),
            ];
            let mut lines: String = names.iter().map(|(what, names)| named(what, names, "")).collect();
            if let Some(unfinished) = status.unfinished {
                lines += &format!("{unfinished}\n");
            }
            tell(&lines)
        }
    }
}

/// An adopted table is given back with what was received since; a node that was stopped may not have come so far.
async fn fill_received_at(database: &Database) -> anyhow::Result<()> {
    let status = chat_migration::status(&database.pool).await.map_err(describe)?;
    if !status.is_adopted() || !status.unknown.is_empty() || status.unfinished.is_some() {
        return Ok(());
    }
    let head = SqlOutbox::new(database.clone()).head().await?;
    let mut projector = Projector::new(database.clone());
    while projector.step(head.position).await? == Step::More {}
    Ok(())
}

/// Says what `migrate up` and `serve` would refuse, and what adopting a legacy table means. `Ok(false)` when
/// something is refused.
pub async fn check_migration(config: Config, ids: IdMap) -> anyhow::Result<bool> {
    if let Some(missing) = missing_file(&config)? {
        tell(&format!("{missing}\n"))?;
        return Ok(true);
    }
    let database = connect(&config).await?;
    let mut unmet = unmet_of_server(&database, &config).await?;
    let status = chat_migration::status(&database.pool).await.map_err(describe)?;
    if status.pending.is_empty() && status.unfinished.is_none() {
        unmet.extend(unmet_of_schema(&database).await?);
    }
    let refusals = chat_migration::refusals(&database.pool).await.map_err(describe)?;
    let options = CheckOptions {
        content_limit: config.content_limit as u64,
    };
    let report = chat_migration::check_adoption(&database.pool, options, &ids)
        .await
        .map_err(describe)?;

    let (waived, refused): (Vec<_>, Vec<_>) = unmet.iter().partition(|unmet| is_waived(unmet, &config));
    let mut text: String = waived
        .into_iter()
        .map(|unmet| format!("WARNING: {}\n", warning(unmet)))
        .collect();
    text.extend(refused.iter().map(|unmet| format!("REFUSED: {unmet}\n")));
    text.extend(refusals.iter().map(|refusal| format!("REFUSED: {refusal}\n")));
    let is_refused = !refused.is_empty() || !refusals.is_empty();
    match report {
        Some(report) => {
            text += &described(&report, is_refused);
            tell(&text)?;
            Ok(!is_refused && !report.is_refused())
        }
        None => {
            text += "there is no legacy table to adopt\n";
            tell(&text)?;
            Ok(!is_refused)
        }
    }
}

fn described(report: &Report, is_refused: bool) -> String {
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let mut text = String::new();
    for finding in &report.findings {
        let verdict = match finding.verdict {
            Verdict::Adopted => "adopted",
            Verdict::Refused => "REFUSED",
        };
        text += &format!("{verdict}: {finding}\n{}", listed(finding));
    }
    if is_refused || report.is_refused() {
        text += "the table cannot be adopted as it is; nothing was changed\n";
    } else {
        text += &format!(
            "{} rows, _id {} to {}, {} MiB of data: about {} s, and {} MiB more of disk until it is done\n\
             the table can be adopted: stop the old clients, take a backup, and run `chat-system migrate up`\n",
            report.messages,
            report.first,
            report.last,
            mebibytes(report.bytes),
            report.seconds(),
            mebibytes(report.disk_bytes()),
        );
    }
    text
}

/// A line for each id, as the file of `--map-ids` has them, without the new names.
fn listed(finding: &Finding) -> String {
    let mut lines: String = finding
        .listed
        .iter()
        .map(|id| format!("{},\n", serde_json::Value::from(id.as_str())))
        .collect();
    let more = finding.count.saturating_sub(finding.listed.len() as u64);
    if !finding.listed.is_empty() && more > 0 {
        lines += &format!("and {more} more\n");
    }
    lines
}

fn named(what: &str, names: &[String], none: &str) -> String {
    match names {
        [] if none.is_empty() => String::new(),
        [] => format!("{none}\n"),
        _ => names.iter().map(|name| format!("{what} {name}\n")).collect(),
    }
}

/// Says that an SQLite file is not there. To connect to it, or to lock it, would make it.
fn missing_file(config: &Config) -> anyhow::Result<Option<String>> {
    let Location::Sqlite { file, .. } = Location::parse(config.database_url.expose())? else {
        return Ok(None);
    };
    let is_missing = !file.try_exists()?;
    Ok(is_missing.then(|| {
        format!(
            "there is no database {}: `chat-system migrate up` makes one",
            file.display()
        )
    }))
}

/// For a command that needs a database, and makes none.
fn check_file(config: &Config) -> anyhow::Result<()> {
    missing_file(config)?.map_or(Ok(()), |missing| bail!(missing))
}

/// For a command that needs a log, and makes none.
async fn connect_to_log(config: &Config) -> anyhow::Result<Database> {
    check_file(config)?;
    let database = connect(config).await?;
    chat_migration::check_version(&database.pool)
        .await
        .map_err(describe)?;
    let status = chat_migration::status(&database.pool).await.map_err(describe)?;
    if status.applied.is_empty() {
        bail!("the database has no schema of the chat system: `chat-system migrate up` makes it");
    }
    Ok(database)
}

/// `Ok(false)` when something differs, with the list on stdout. A server may serve meanwhile.
pub async fn verify(config: Config) -> anyhow::Result<bool> {
    let database = connect_to_log(&config).await?;
    let report = verifying::verify(&database).await?;
    for difference in &report.differences {
        tell(&format!("{difference}\n"))?;
    }
    let left_out = report.different - report.differences.len() as u64;
    if left_out > 0 {
        tell(&format!("and {left_out} more\n"))?;
    }
    let counts = format!(
        "{} events, {} messages, {} conversations, head at {}",
        report.events, report.messages, report.conversations, report.position
    );
    tell(&match report.different {
        0 => format!("everything agrees: {counts}\n"),
        different => format!("{different} differences: {counts}\n"),
    })?;
    Ok(report.different == 0)
}

pub async fn rebuild(config: Config) -> anyhow::Result<()> {
    check_file(&config)?;
    let _alone = alone(&config)?;
    let database = connect_to_log(&config).await?;
    chat_migration::check_same_version(&database.pool)
        .await
        .map_err(describe)?;
    let rebuilt = rebuilding::rebuild(&database).await?;
    tell(&format!(
        "made anew: {} conversations from {} events\n",
        rebuilt.conversations, rebuilt.events
    ))
}

pub async fn renew_epoch(config: Config) -> anyhow::Result<()> {
    let database = connect_to_log(&config).await?;
    let (before, after) = new_epoch::begin_new(&database).await?;
    // Nothing stays in a file beside an SQLite one, which somebody may move away.
    database.pool.close().await?;
    tell(&format!(
        "the epoch {} ended at {}, {} begins\n",
        before.epoch, before.position, after.epoch
    ))
}

fn tell(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("stdout cannot be written")
}
