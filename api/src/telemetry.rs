//! The log: lines on stderr, as text or JSON. stdout belongs to what commands print.

use std::{io::IsTerminal, panic};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, filter::ParseError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Checks a filter without using it.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(filter)
}

/// Begins to log. A panic is logged too, as an error, instead of what Rust prints by itself: it is handled where it
/// is caught, and that is not always a place that knows of it.
pub fn start(filter: EnvFilter, format: LogFormat) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    // A second start in one process, as in tests, keeps the first.
    if started.is_ok() {
        panic::set_hook(Box::new(|panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("?");
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(panic.place = place, panic.text = text, "a task panicked");
        }));
    }
}
