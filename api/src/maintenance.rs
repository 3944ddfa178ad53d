//! The commands that work on the database beside, or instead of, a server.

use std::io::{self, Write};

use anyhow::Context;
use chat_infrastructure::{
    database::{Database, FileLock, Location},
    epoch, rebuild as rebuilding, verify as verifying,
};
use chat_migration::DownOptions;

use crate::{cli::MigrateAction, config::Config, serve::describe};

const CONNECTIONS: u32 = 2;

async fn connect(config: &Config) -> anyhow::Result<Database> {
    Ok(Database::connect(Location::parse(config.database_url.expose())?, CONNECTIONS).await?)
}

/// Keeps servers away from an SQLite file, or says that one has it.
fn alone(config: &Config) -> anyhow::Result<Option<FileLock>> {
    Ok(FileLock::take(&Location::parse(config.database_url.expose())?)?)
}

pub async fn migrate(config: Config, action: MigrateAction, discard_messages: bool) -> anyhow::Result<()> {
    match action {
        MigrateAction::Up => {
            let database = connect(&config).await?;
            let applied = chat_migration::up(&database.pool).await.map_err(describe)?;
            tell(&named("applied", &applied, "nothing is pending"))
        }
        MigrateAction::Down => {
            let _alone = alone(&config)?;
            let database = connect(&config).await?;
            let options = DownOptions { discard_messages };
            let undone = chat_migration::down(&database.pool, options)
                .await
                .map_err(describe)?;
            tell(&named("undone", &undone, "nothing was applied"))
        }
        MigrateAction::Status => {
            let database = connect(&config).await?;
            let status = chat_migration::status(&database.pool).await.map_err(describe)?;
            let names = [
                ("applied", status.applied),
                ("pending", status.pending),
                ("unknown", status.unknown),
            ];
            let lines: String = names.iter().map(|(what, names)| named(what, names, "")).collect();
            tell(&lines)
        }
    }
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
    chat_migration::check_version(&database.pool)
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
