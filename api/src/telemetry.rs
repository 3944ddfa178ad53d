//! The log: lines on stderr, as text or JSON. stdout belongs to what commands print. With the feature `otlp`, traces too.
//!
//! A line that cannot be written is lost and nothing else: the subscriber would say so on stderr with a macro that
//! panics where it cannot, and a panic there is logged, which ends the process. A log on a disk that is full must not.
//!
//! Whatever the filter asks for, of other people's crates there is nothing below INFO: at debug and trace some of them
//! write what they transport, tokens and messages in it (tungstenite each frame).

mod refusals;
#[cfg(feature = "otlp")]
mod traces;

use std::{io::IsTerminal, panic};

use axum::http::{HeaderMap, Method};
use clap::ValueEnum;
use tracing::{Level, Metadata, Span, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, ParseError, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

pub(crate) use self::refusals::has_own_line;
use crate::problem::short;

/// The standard's variables that say where traces go to.
const STANDARD_ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Checks a filter without using it.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(filter)
}

/// Whether the standard's variables ask for traces.
pub fn is_asked_for_traces() -> bool {
    let given = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    STANDARD_ENDPOINTS.iter().any(given)
}

/// What has to be ended after everything else.
#[derive(Default)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    exporter: Option<traces::Exporter>,
}

impl Telemetry {
    /// Sends the last traces.
    pub fn end(&self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = &self.exporter {
            exporter.end();
        }
    }
}

/// Begins to log, and to send traces where `endpoint` or the standard's variables say where to. Needs a runtime for
/// that.
#[cfg(feature = "otlp")]
pub fn start_with_traces(
    filter: EnvFilter,
    format: LogFormat,
    endpoint: Option<&str>,
) -> anyhow::Result<Telemetry> {
    if endpoint.is_none() && !is_asked_for_traces() {
        start(filter, format);
        return Ok(Telemetry::default());
    }
    let exporter = traces::Exporter::start(endpoint)?;
    let started = tracing_subscriber::registry()
        .with(lines(filter, format))
        .with(exporter.layer())
        .try_init();
    if started.is_ok() {
        log_panics();
    }
    Ok(Telemetry {
        exporter: Some(exporter),
    })
}

/// Begins to log, and says that there are no traces where somebody asks for some.
#[cfg(not(feature = "otlp"))]
pub fn start_with_traces(filter: EnvFilter, format: LogFormat, _: Option<&str>) -> anyhow::Result<Telemetry> {
    start(filter, format);
    if is_asked_for_traces() {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, and this server was built without the feature otlp: it sends no traces"
        );
    }
    Ok(Telemetry::default())
}

/// Says of a request's span what is known when it begins, and whose trace it is part of.
pub fn begin_request(span: &Span, headers: &HeaderMap, method: &Method) {
    #[cfg(feature = "otlp")]
    traces::begin_request(span, headers, method.as_str());
    #[cfg(not(feature = "otlp"))]
    let _ = (span, headers, method);
}

/// Says what became of it.
pub fn end_request(span: &Span, route: Option<&str>, status: u16) {
    #[cfg(feature = "otlp")]
    traces::end_request(span, route, status);
    #[cfg(not(feature = "otlp"))]
    let _ = (span, route, status);
}

/// Begins to log. A panic is logged too, as an error, instead of what Rust prints by itself: it is handled where it
/// is caught, and that is not always a place that knows of it.
pub fn start(filter: EnvFilter, format: LogFormat) {
    let started = tracing_subscriber::registry()
        .with(lines(filter, format))
        .try_init();
    // A second start in one process, as in tests, keeps the first.
    if started.is_ok() {
        log_panics();
    }
}

fn lines<S>(filter: EnvFilter, format: LogFormat) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync + 'static,
{
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // The hint keeps that of the other filter.
    let discreet = filter_fn(is_discreet).with_max_level_hint(LevelFilter::TRACE);
    lines.with_filter(filter.and(discreet))
}

/// What may be logged at all: everything of ours, for no line of ours has a token or a content in it.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("chat_") || *metadata.level() <= Level::INFO
}

fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("?");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        // It may quote what somebody sent.
        tracing::error!(panic.place = place, panic.text = short(text), "a task panicked");
    }));
}
