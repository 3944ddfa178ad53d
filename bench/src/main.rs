//! `make bench`: how fast it is, beside its peers, in one run on one machine. Only the ratios mean something on a machine
//! that does other things; the absolute figures are context.
//!
//! Each scenario ([`scenario`]) brings up the real server, in the profile in which this program is built, and what it is
//! compared with ([`peer`]), on a private MariaDB that is as durable as production's, and lets them take turns. All load
//! comes from this program, over loopback ([`client`], [`load`]).

#![expect(clippy::print_stdout, reason = "the figures are what the program is for")]

mod client;
mod fill;
mod load;
mod peer;
mod report;
mod scenario;
mod stream;
mod target;
mod window;

use std::path::PathBuf;

use chat_tests::{DatabaseServer, Kind};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    peer::Bare,
    report::Report,
    scenario::{Setting, Size, catch_up, fanout, history, idle, jitter, resume, send, single, wire, writer},
};

#[derive(Parser)]
struct Arguments {
    /// Larger sizes and longer measurements.
    #[arg(long)]
    full: bool,
    /// Only these.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// The folder for the figures and plots.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Is a server to compare with, on a free port that it prints.
    Peer { bare: Bare },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Writer,
    Single,
    Send,
    Fanout,
    Wire,
    Idle,
    Resume,
    Jitter,
    History,
    CatchUp,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Peer { bare }) = arguments.command {
        return peer::serve(bare).await;
    }
    let mariadb = DatabaseServer::dedicated(Kind::MariaDb, &[&half_of_the_memory()]).await;
    let mut setting = Setting {
        mariadb,
        size: if arguments.full { Size::Full } else { Size::Quick },
        report: Report::default(),
    };
    setting.report.about = about(&setting).await?;
    for (name, value) in &setting.report.about {
        println!("{name}: {value}");
    }
    let is_wanted = |scenario: &Scenario| arguments.only.is_empty() || arguments.only.contains(scenario);
    for scenario in Scenario::value_variants()
        .iter()
        .filter(|scenario| is_wanted(scenario))
    {
        let setting = &mut setting;
        match scenario {
            Scenario::Writer => writer::measure(setting).await,
            Scenario::Single => single::measure(setting).await,
            Scenario::Send => send::measure(setting).await,
            Scenario::Fanout => fanout::measure(setting).await,
            Scenario::Wire => wire::measure(setting).await,
            Scenario::Idle => idle::measure(setting).await,
            Scenario::Resume => resume::measure(setting).await,
            Scenario::Jitter => jitter::measure(setting).await,
            Scenario::History => history::measure(setting).await,
            Scenario::CatchUp => catch_up::measure(setting).await,
        }?;
    }
    setting.report.finish(&arguments.out)
}

/// For the buffer pool, as operators are told to do. 1 GiB where it is not known.
fn half_of_the_memory() -> String {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    format!(
        "--innodb-buffer-pool-size={}K",
        kilobytes.map_or(1 << 20, |all| all / 2)
    )
}

/// The machine, and the versions of what runs.
async fn about(setting: &Setting) -> anyhow::Result<Vec<(String, String)>> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cores = std::thread::available_parallelism()?;
    let node = tokio::process::Command::new("node")
        .arg("--version")
        .output()
        .await?;
    let about = [
        (
            "machine",
            format!(
                "{cores} cores, {}",
                cpu.unwrap_or("?").trim_start_matches(['\t', ':', ' '])
            ),
        ),
        ("database", setting.mariadb.version().await),
        ("node", String::from_utf8_lossy(&node.stdout).trim().to_owned()),
        ("socket.io", peer::node_package("socket.io")?),
        ("mysql2", peer::node_package("mysql2")?),
        (
            "profile",
            if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        ),
    ];
    Ok(about.map(|(name, value)| (name.to_owned(), value)).to_vec())
}
