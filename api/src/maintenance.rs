//! The commands that work on the database beside, or instead of, a server.

use std::io::{self, Write};

use anyhow::Context;
use chat_domain::ports::Outbox;
use chat_infrastructure::{
    database::{Database, FileLock, Location},
    epoch,
    outbox::SqlOutbox,
    projector::{Projector, Step},
    rebuild as rebuilding, verify as verifying,
};
use chat_migration::{CheckOptions, DownOptions, Verdict};

use crate::{cli::MigrateAction, config::Config, serve::describe};

const CONNECTIONS: u32 = 2;

async fn connect(config: &Config) -> anyhow::Result<Database> {
    Ok(Database::connect(Location::parse(config.database_url.expose())?, CONNECTIONS).await?)
}

/// Keeps servers away from an SQLite file, or says that one has it.
fn alone(config: &Config) -> anyhow::Result<Option<FileLock>> {
    Ok(FileLock::take(&Location::parse(config.database_url.expose())?)?)
}

pub async fn migrate(config: Config, action: MigrateAction, options: DownOptions) -> anyhow::Result<()> {
    match action {
        MigrateAction::Up => {
            let database = connect(&config).await?;
            let applied = chat_migration::up_adopting(&database.pool)
                .await
                .map_err(describe)?;
            tell(&named("applied", &applied, "nothing is pending"))
        }
        MigrateAction::Down => {
            let _alone = alone(&config)?;
            let database = connect(&config).await?;
            fill_received_at(&database).await?;
            let undone = chat_migration::down(&database.pool, options)
                .await
                .map_err(describe)?;
            tell(&named("undone", &undone, "nothing was applied"))
        }
        // The command line asks `check_adoption`, which has an exit code of its own.
        MigrateAction::Check => check_adoption(config).await.map(|_| ()),
        MigrateAction::Status => {
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

/// `Ok(false)` when the table of the seed's cannot be adopted as it is, with the reasons on stdout.
pub async fn check_adoption(config: Config) -> anyhow::Result<bool> {
    let database = connect(&config).await?;
    let options = CheckOptions {
        content_limit: config.content_limit as u64,
    };
    let report = chat_migration::check_adoption(&database.pool, options)
        .await
        .map_err(describe)?;
    let Some(report) = report else {
        tell("there is no table of the seed's to adopt\n")?;
        return Ok(true);
    };
    let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
    let mut text = String::new();
    for finding in &report.findings {
        let verdict = match finding.verdict {
            Verdict::Adopted => "adopted",
            Verdict::Refused => "REFUSED",
        };
        text += &format!("{verdict}: {finding}\n");
    }
    if report.is_refused() {
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
    tell(&text)?;
    Ok(!report.is_refused())
}

fn named(what: &str, names: &[String], none: &str) -> String {
    match names {
        [] if none.is_empty() => String::new(),
        [] => format!("{none}\n"),
        _ => names.iter().map(|name| format!("{what} {name}\n")).collect(),
    }
}

/// `Ok(false)` when something differs, with the list on stdout. A server may serve meanwhile.
pub async fn verify(config: Config) -> anyhow::Result<bool> {
    let database = connect(&config).await?;
    chat_migration::check_version(&database.pool)
        .await
        .map_err(describe)?;
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
    let _alone = alone(&config)?;
    let database = connect(&config).await?;
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
    let database = connect(&config).await?;
    chat_migration::check_version(&database.pool)
        .await
        .map_err(describe)?;
    let (before, after) = epoch::begin_new(&database).await?;
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
