//! The configuration: flags and environment variables, read once, checked before anything starts.
//!
//! [`Options`] is what was given, [`Config`] what it means. Errors name the variable, not only the flag: most
//! configurations are written in files of variables.

mod limits;
mod secret;
mod tokens;
mod variables;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use chat_domain::content::Content;
use clap::{ArgAction, ArgMatches, Args, parser::ValueSource};

use self::{limits::LimitArguments, tokens::TokenArguments};
pub use self::{
    secret::Secret,
    tokens::{KeySource, TokenOptions},
    variables::{Variables, variable_of},
};
use crate::{
    auth::JwksError,
    limits::LimitsOptions,
    state::Pings,
    telemetry::{self, LogFormat},
};

/// What can be configured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options (also as environment variables)")]
pub struct Options {
    /// Address and port to listen on. Anything but loopback needs a key for tokens
    #[arg(
        long,
        global = true,
        env = "CHAT_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:3000"
    )]
    pub listen: SocketAddr,

    /// The database: sqlite://PATH, or mysql://USER:PASSWORD@HOST:PORT/NAME (MySQL and MariaDB). An SQLite URL may set
    /// two pragmas, ?journal_mode=wal&synchronous=full; others than these, or extra, do not keep the promises. A
    /// server's may say how TLS is used: ?ssl-mode=VERIFY_IDENTITY&ssl-ca=PATH (and ssl-cert, ssl-key)
    /// [default: sqlite://./data/chat.db]
    #[arg(
        long,
        global = true,
        env = "CHAT_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Option<String>,

    /// A file that holds the database's URL
    #[arg(long, global = true, env = "CHAT_DATABASE_URL_FILE", value_name = "PATH")]
    pub database_url_file: Option<PathBuf>,

    /// Connections to the database for reading; the writer has one more of its own
    #[arg(
        long,
        global = true,
        env = "CHAT_DATABASE_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 8
    )]
    pub database_connections: u32,

    /// One name for all servers of a database cluster that loses nothing when another of them takes over (Aurora); without
    /// it another server begins a new epoch of the log
    #[arg(long, global = true, env = "CHAT_DATABASE_IDENTITY", value_name = "NAME")]
    pub database_identity: Option<String>,

    #[command(flatten)]
    pub tokens: TokenArguments,

    /// Apply pending migrations when `serve` starts: true or false
    #[arg(long, global = true, env = "CHAT_MIGRATE", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub migrate: bool,

    /// Serve although the database may lose what was acknowledged, with a warning
    #[arg(
        long, global = true, env = "CHAT_ALLOW_LAX_DURABILITY", value_name = "BOOL", default_value_t = false,
        action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true",
    )]
    pub allow_lax_durability: bool,

    /// What is logged, as a filter of the Rust crate tracing: info, or debug,chat_api=trace
    #[arg(
        long,
        global = true,
        env = "CHAT_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,

    /// The form of the log on stderr
    #[arg(
        long,
        global = true,
        env = "CHAT_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// The largest content of a message, in bytes: at most 16777216 (16 MiB)
    #[arg(long, global = true, env = "CHAT_CONTENT_LIMIT", value_name = "BYTES", default_value_t = Content::DEFAULT_LIMIT)]
    pub content_limit: usize,

    /// How many commands may wait to be written before more are refused
    #[arg(
        long,
        global = true,
        env = "CHAT_QUEUE_COMMANDS",
        value_name = "COUNT",
        default_value_t = 4096
    )]
    pub queue_commands: usize,

    /// How many commands are written in one transaction at most
    #[arg(
        long,
        global = true,
        env = "CHAT_BATCH_COMMANDS",
        value_name = "COUNT",
        default_value_t = 1000
    )]
    pub batch_commands: usize,

    /// How many bytes of commands are written in one transaction at most; one command always fits
    #[arg(long, global = true, env = "CHAT_BATCH_BYTES", value_name = "BYTES", default_value_t = 1 << 20)]
    pub batch_bytes: usize,

    /// The longest pause between two looks at what other nodes wrote, in milliseconds
    #[arg(
        long,
        global = true,
        env = "CHAT_POLL_MS",
        value_name = "MILLISECONDS",
        default_value_t = 50
    )]
    pub poll_ms: u64,

    /// The longest silence of a stream, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_HEARTBEAT_S",
        value_name = "SECONDS",
        default_value_t = 15
    )]
    pub heartbeat_s: u64,

    /// How often the server asks a socket.io client whether it is there, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_PING_INTERVAL_S",
        value_name = "SECONDS",
        default_value_t = 25
    )]
    pub ping_interval_s: u64,

    /// How long a socket.io client may take to answer that, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_PING_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 20
    )]
    pub ping_timeout_s: u64,

    /// How long a connection's write may stand still, because its reader has stopped, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_STALL_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 30
    )]
    pub stall_timeout_s: u64,

    /// How long an idle connection is kept between two requests, in seconds: longer than every proxy in front keeps its
    /// own [default: 75, and 620 for a proxy in CHAT_TRUSTED_PROXIES]
    #[arg(long, global = true, env = "CHAT_KEEP_ALIVE_S", value_name = "SECONDS")]
    pub keep_alive_s: Option<u64>,

    /// How long a command may take before its outcome is given up, in milliseconds
    #[arg(
        long,
        global = true,
        env = "CHAT_COMMAND_TIMEOUT_MS",
        value_name = "MILLISECONDS",
        default_value_t = 10_000
    )]
    pub command_timeout_ms: u64,

    #[command(flatten)]
    pub limits: LimitArguments,

    /// Another address and port, for the operator: /metrics in the form of Prometheus, /healthz and /readyz. Without a
    /// token, so not for the world [default: none]
    #[arg(long, global = true, env = "CHAT_ADMIN_LISTEN", value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<SocketAddr>,

    /// Where traces are sent, as OTLP over HTTP with protobuf: the collector's base URL, such as
    /// http://127.0.0.1:4318. Only a server that was built with the feature otlp knows how; OTEL_EXPORTER_OTLP_ENDPOINT
    /// says the same [default: none]
    #[arg(long, global = true, env = "CHAT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// How long the server goes on serving after SIGTERM, with /readyz failing already, so that whoever sends it clients
    /// sends no more, in seconds. A second signal ends it, and SIGINT has none
    #[arg(
        long,
        global = true,
        env = "CHAT_DRAIN_S",
        value_name = "SECONDS",
        default_value_t = 3
    )]
    pub drain_s: u64,

    /// How long connections may take to end when the server stops, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_SHUTDOWN_TIMEOUT_S",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    pub shutdown_timeout_s: u64,

    /// Lose one of so many deliveries on the way to a socket: a fault for the tests, which only debug builds know
    #[cfg(debug_assertions)]
    #[arg(
        long,
        global = true,
        env = "CHAT_LOSE_ONE_IN",
        value_name = "COUNT",
        default_value_t = 0,
        hide = true
    )]
    pub lose_one_in: u32,

    /// How they came, as far as an operator should know of it.
    #[arg(skip)]
    pub given: Given,
}

/// What an operator should know of the way in which options came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Variables that begin like ours and are Kubernetes' service links.
    pub service_links: Vec<String>,
    /// Lines about secrets that everybody on the machine can read.
    pub in_the_open: Vec<String>,
}

impl Given {
    /// By the command line as clap has read it.
    pub fn new(variables: &Variables, options: &Options, matches: &ArgMatches) -> Self {
        let is_on_the_command_line = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let in_the_open = |what: &str, instead: &str| {
            format!(
                "{what} stands in the list of processes, where everybody on this machine can read it: give {instead} \
                 instead"
            )
        };
        let mut given = Self {
            service_links: variables.service_links(),
            in_the_open: Vec::new(),
        };
        let of = |text: &Option<String>, is_secret: fn(&str) -> bool| text.as_deref().is_some_and(is_secret);
        let secrets = [
            (
                "jwt_secret",
                true,
                "--jwt-secret",
                "CHAT_JWT_SECRET_FILE or CHAT_JWT_SECRET",
            ),
            (
                "database_url",
                of(&options.database_url, secret::has_password),
                "the password in --database-url",
                "CHAT_DATABASE_URL_FILE or CHAT_DATABASE_URL",
            ),
            (
                "jwks_url",
                of(&options.tokens.jwks_url, |url| url.contains('?')),
                "the query of --jwks-url",
                "CHAT_JWKS_URL",
            ),
        ];
        for (id, is_secret, what, instead) in secrets {
            if is_secret && is_on_the_command_line(id) {
                given.in_the_open.push(in_the_open(what, instead));
            }
        }
        given
    }
}

/// What the server runs with.
#[derive(Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub database_url: Secret,
    pub database_connections: u32,
    pub database_identity: Option<String>,
    pub tokens: TokenOptions,
    pub migrate: bool,
    pub allow_lax_durability: bool,
    pub log: String,
    pub log_format: LogFormat,
    pub content_limit: usize,
    pub queue_commands: usize,
    pub batch_commands: usize,
    pub batch_bytes: usize,
    pub poll: Duration,
    pub heartbeat: Duration,
    pub pings: Pings,
    pub stall_timeout: Duration,
    /// None: what is usual, by the peer.
    pub keep_alive: Option<Duration>,
    pub command_timeout: Duration,
    pub limits: LimitsOptions,
    /// Connections of all clients; none for as many as there can be.
    pub connections: Option<usize>,
    /// None: no metrics.
    pub admin_listen: Option<SocketAddr>,
    /// None: none is exported.
    pub otlp_endpoint: Option<String>,
    pub drain: Duration,
    pub shutdown_timeout: Duration,
    pub lose_one_in: u32,
    pub given: Given,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{variable} and {variable}_FILE are both given: give one of them")]
    GivenTwice { variable: &'static str },
    #[error("{variable}_FILE: {} cannot be read", path.display())]
    File {
        variable: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{variable}: {} cannot be used", path.display())]
    Jwks {
        variable: &'static str,
        path: PathBuf,
        source: JwksError,
    },
    #[error("{variable}: {reason}")]
    Value { variable: &'static str, reason: String },
}

fn value(variable: &'static str, reason: impl ToString) -> ConfigError {
    ConfigError::Value {
        variable,
        reason: reason.to_string(),
    }
}

impl TryFrom<Options> for Config {
    type Error = ConfigError;

    fn try_from(options: Options) -> Result<Self, ConfigError> {
        let tokens = options.tokens.check()?;
        if tokens.keys.is_none() && !options.listen.ip().to_canonical().is_loopback() {
            let reason = format!(
                "{} can be reached from elsewhere, and without a key for tokens anybody would get one: set \
                 CHAT_JWT_SECRET, CHAT_JWT_PUBLIC_KEY, CHAT_JWKS_FILE or CHAT_JWKS_URL, or listen on 127.0.0.1",
                options.listen
            );
            return Err(value("CHAT_LISTEN", reason));
        }
        telemetry::parse_filter(&options.log).map_err(|error| value("CHAT_LOG", error))?;
        Ok(Self {
            listen: options.listen,
            database_url: options.database_url()?,
            database_connections: within("CHAT_DATABASE_CONNECTIONS", options.database_connections, 1, 1000)?,
            database_identity: options.database_identity.map(identity).transpose()?,
            tokens,
            migrate: options.migrate,
            allow_lax_durability: options.allow_lax_durability,
            log_format: options.log_format,
            content_limit: within("CHAT_CONTENT_LIMIT", options.content_limit, 1, Content::MAX_LIMIT)?,
            queue_commands: within("CHAT_QUEUE_COMMANDS", options.queue_commands, 1, 1_000_000)?,
            batch_commands: within("CHAT_BATCH_COMMANDS", options.batch_commands, 1, 10_000)?,
            batch_bytes: within("CHAT_BATCH_BYTES", options.batch_bytes, 1, 64 << 20)?,
            poll: Duration::from_millis(within("CHAT_POLL_MS", options.poll_ms, 1, 10_000)?),
            heartbeat: seconds("CHAT_HEARTBEAT_S", options.heartbeat_s, 1, 300)?,
            pings: Pings {
                interval: seconds("CHAT_PING_INTERVAL_S", options.ping_interval_s, 1, 300)?,
                timeout: seconds("CHAT_PING_TIMEOUT_S", options.ping_timeout_s, 1, 300)?,
            },
            stall_timeout: seconds("CHAT_STALL_TIMEOUT_S", options.stall_timeout_s, 1, 600)?,
            keep_alive: options
                .keep_alive_s
                .map(|given| seconds("CHAT_KEEP_ALIVE_S", given, 1, 86_400))
                .transpose()?,
            command_timeout: Duration::from_millis(within(
                "CHAT_COMMAND_TIMEOUT_MS",
                options.command_timeout_ms,
                100,
                600_000,
            )?),
            limits: options
                .limits
                .check(options.content_limit, options.database_connections)?,
            connections: options.limits.connections()?,
            admin_listen: options.admin_listen,
            otlp_endpoint: options.otlp_endpoint.map(endpoint).transpose()?,
            drain: seconds("CHAT_DRAIN_S", options.drain_s, 0, 3600)?,
            shutdown_timeout: seconds("CHAT_SHUTDOWN_TIMEOUT_S", options.shutdown_timeout_s, 0, 3600)?,
            #[cfg(debug_assertions)]
            lose_one_in: options.lose_one_in,
            #[cfg(not(debug_assertions))]
            lose_one_in: 0,
            log: options.log,
            given: options.given,
        })
    }
}

/// What the column `server_id` of `log_head` takes.
fn identity(name: String) -> Result<String, ConfigError> {
    if (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(name)
    } else {
        let reason = format!("{name:?} is not 1 to 64 visible characters of ASCII");
        Err(value("CHAT_DATABASE_IDENTITY", reason))
    }
}

/// A collector's base URL.
fn endpoint(url: String) -> Result<String, ConfigError> {
    let variable = "CHAT_OTLP_ENDPOINT";
    if !cfg!(feature = "otlp") {
        let reason = "this server was built without the feature otlp, and sends no traces";
        return Err(value(variable, reason));
    }
    let url = secret::one_line(variable, &url)?.to_owned();
    let uri = url.parse::<axum::http::Uri>().ok();
    let known = |uri: &axum::http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    };
    if uri.as_ref().is_some_and(known) {
        Ok(url)
    } else {
        Err(value(
            variable,
            "it is a URL that begins with http:// or https:// and names a host",
        ))
    }
}

fn seconds(variable: &'static str, given: u64, least: u64, most: u64) -> Result<Duration, ConfigError> {
    within(variable, given, least, most).map(Duration::from_secs)
}

fn within<T: PartialOrd + std::fmt::Display>(
    variable: &'static str,
    given: T,
    least: T,
    most: T,
) -> Result<T, ConfigError> {
    if (&least..=&most).contains(&&given) {
        Ok(given)
    } else {
        Err(value(
            variable,
            format!("{given} is not within {least} to {most}"),
        ))
    }
}

#[cfg(test)]
mod tests;
