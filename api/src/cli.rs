//! The command line.
//!
//! What is asked for wrongly is clap's to say (exit code 2). What is understood and refused, or fails, is one line on
//! stderr and exit code 1. `migrate check` that finds something which is refused ends with 3.

use std::{
    error::Error,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use chat_domain::ids::UserId;
use chat_migration::{DownOptions, IdMap};
use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ErrorKind},
};

use crate::{
    asyncapi,
    auth::Signer,
    config::{self, Config, Given, KeySource, Options, Variables},
    documents, healthcheck, id_map,
    maintenance::{self, MigrateAction},
    serve, telemetry,
};

/// The chat server: people and programs send messages to each other and never miss one.
///
/// Every option can also be given as an environment variable, as shown with it. An unknown variable that begins with
/// CHAT_ is an error, unless it is one of those that Kubernetes makes for a service.
#[derive(Parser)]
#[command(name = "chat-system", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT (what happens without a command)
    Serve,
    /// Apply or undo the migrations of the database, or say which are applied
    Migrate {
        #[arg(value_enum)]
        action: MigrateAction,
        /// With `down`: go on although the log holds messages, which are lost
        #[arg(long)]
        discard_messages: bool,
        /// With `down`: give an adopted legacy table back with all messages, although its columns have no place
        /// for the keys, content types and read marks since then, which are lost
        #[arg(long, conflicts_with = "discard_messages")]
        discard_log: bool,
        /// With `check` and `up`: new names for the ids of a legacy table that are no user ids; a line is
        /// `old,new`, and the lines that `check` lists need only the new ones
        #[arg(long, value_name = "FILE")]
        map_ids: Option<PathBuf>,
    },
    /// Print a token, signed with the configured secret
    Token {
        /// The user id that the token is for
        #[arg(long, value_name = "ID")]
        user: String,
        /// Seconds that the token is good for
        #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
        expires_in: u64,
    },
    /// Print the OpenAPI document
    Openapi,
    /// Print the AsyncAPI document
    Asyncapi,
    /// Ask the server at this CHAT_LISTEN whether it is ready; exit code 1 and the reason when it is not
    Healthcheck,
    /// Compare the projections with the log; exit code 1 and a list when something differs
    Verify,
    /// Build the projections anew from the log
    Rebuild,
    /// The history of the log
    Epoch {
        #[command(subcommand)]
        action: EpochAction,
    },
}

#[derive(Subcommand)]
pub enum EpochAction {
    /// Begin a new history: after a restore, when the log may have lost its end
    New,
}

/// What `migrate check` ends with where something stands in the way; 1 is a check that failed.
const REFUSED: u8 = 3;

/// Runs the binary.
pub fn run() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Usage(error)) => error.exit(),
        Err(Refused::Value(line)) => return fail(&line),
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => fail(&format!("{error:#}")),
    }
}

pub enum Refused {
    Usage(clap::Error),
    /// One line.
    Value(String),
}

/// Parses the command line and the environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let variables = Variables::of_this_process();
    if let Some(line) = variables.unknown() {
        return Err(Refused::Value(line));
    }
    let mut args: Vec<_> = args.into_iter().collect();
    let flags = variables.trimmed(&args);
    // After the program's name.
    args.splice(1.min(args.len())..1.min(args.len()), flags);
    let parsed = Cli::command().try_get_matches_from(args).and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.options.given = Given::new(&variables, &cli.options, &matches);
        Ok(cli)
    });
    parsed.map_err(|error| match value_refused(&error) {
        Some(line) => Refused::Value(line),
        None => Refused::Usage(error),
    })
}

/// The line about an option that is right and whose value is not, wherever the value came from.
fn value_refused(error: &clap::Error) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let context = |kind| error.get(kind).map(ToString::to_string);
    let option = context(ContextKind::InvalidArg)?;
    let flag = option.split([' ', '=', '[']).next()?;
    let variable = config::variable_of(flag.strip_prefix("--")?)?;
    let given = context(ContextKind::InvalidValue)?;
    let reason = match (error.source(), context(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(valid)) => format!("it is one of {valid}"),
        (None, None) => "it is not valid".to_owned(),
    };
    Some(format!("{variable}: {given:?}: {reason}"))
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Openapi => print(&documents::openapi_text()).map(done),
        Command::Asyncapi => print(&asyncapi::pretty()).map(done),
        Command::Healthcheck => healthcheck::check(cli.options.listen).map(done),
        Command::Token { user, expires_in } => print_token(&cli.options, &user, expires_in).map(done),
        Command::Serve => with_config(cli.options, serve::serve).map(done),
        Command::Migrate {
            action: MigrateAction::Check,
            map_ids,
            ..
        } => {
            let ids = new_names(map_ids.as_deref())?;
            let adoptable = with_config(cli.options, |config| maintenance::check_migration(config, ids))?;
            Ok(if adoptable {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(REFUSED)
            })
        }
        Command::Migrate {
            action,
            discard_messages,
            discard_log,
            map_ids,
        } => {
            let options = DownOptions {
                discard_messages,
                discard_log,
            };
            if map_ids.is_some() && action != MigrateAction::Up {
                bail!("--map-ids is for `migrate check` and `migrate up`");
            }
            let ids = new_names(map_ids.as_deref())?;
            with_config(cli.options, |config| {
                maintenance::migrate(config, action, options, ids)
            })
            .map(done)
        }
        Command::Rebuild => with_config(cli.options, maintenance::rebuild).map(done),
        Command::Epoch {
            action: EpochAction::New,
        } => with_config(cli.options, maintenance::renew_epoch).map(done),
        Command::Verify => {
            let same = with_config(cli.options, maintenance::verify)?;
            Ok(if same {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
    }
}

fn new_names(file: Option<&Path>) -> anyhow::Result<IdMap> {
    let read = file.map(|file| id_map::read(file).context("--map-ids"));
    Ok(read.transpose()?.unwrap_or_default())
}

/// Begins to log, and runs what needs the whole configuration.
fn with_config<F, T>(options: Options, run: impl FnOnce(Config) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let config = Config::try_from(options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let telemetry = {
        let _entered = runtime.enter();
        let filter = telemetry::parse_filter(&config.log)?;
        telemetry::start_with_traces(filter, config.log_format, config.otlp_endpoint.as_deref())?
    };
    let outcome = runtime.block_on(run(config));
    telemetry.end();
    // Nothing that blocks may hold up the end.
    runtime.shutdown_background();
    outcome
}

fn print_token(options: &Options, user: &str, expires_in: u64) -> anyhow::Result<()> {
    let user_id = UserId::parse(user).with_context(|| format!("--user {user:?}"))?;
    let tokens = options.tokens.check()?;
    let secret = match &tokens.keys {
        Some(KeySource::Secret(secret)) => secret,
        Some(KeySource::PublicKey(_) | KeySource::Jwks(_)) => bail!(
            "only CHAT_JWT_SECRET signs tokens; those that a public key checks come from whoever has the private one"
        ),
        None => bail!(
            "no secret is configured (CHAT_JWT_SECRET or CHAT_JWT_SECRET_FILE); a server without one gives \
             development tokens: POST /dev/token {{\"user_id\":\"{user_id}\"}}"
        ),
    };
    if let Some(most) = tokens.rules.max_lifetime.filter(|most| expires_in > *most) {
        bail!("--expires-in {expires_in}: CHAT_JWT_MAX_LIFETIME_S lets a token be good for {most} seconds");
    }
    let signed = Signer::new(secret.bytes(), tokens.rules.clone())
        .sign(&user_id, expires_in)
        .context("the token cannot be signed")?;
    print(&format!("{}\n", signed.token))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("stdout cannot be written")
}

fn fail(line: &str) -> ExitCode {
    // Where stderr is gone there is nobody to tell.
    let _ = writeln!(io::stderr(), "chat-system: {line}");
    ExitCode::FAILURE
}
