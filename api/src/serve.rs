//! `chat-system serve`: the composition root, one straight line from the configuration to the end of the server.
//!
//! The order of the start: the lock on the SQLite file, the database, its settings, its schema, the writer, the tail,
//! the projector, the keys of tokens, the doors. The end goes the other way: readiness fails, and the server serves on
//! for a while so that whoever sends it clients finds out; nothing more is accepted, streams close, the writer finishes
//! what waits, the rest stops.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use axum::Router;
use chat_infrastructure::{
    database::Database,
    followers::received_at::Projector,
    location::{self, DatabaseError, FileLock, Location},
    outbox::SqlOutbox,
    primary::Primary,
    requirements::{self, Kind, Unmet},
    standing::Gauges,
    tail::{GAP_ALARM, Tail, TailHandle, TailOptions},
    timeline::SqlTimeline,
    writer::{GroupCommit, Status, WriterOptions},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    admin,
    admin::Sampler,
    auth::{JwksSource, Key, Refresh, Signer, TokenRules, Verifier},
    chat_page::{self, ChatPage, Facts},
    config::{Config, KeySource, TokenOptions},
    files,
    limits::{Limits, LimitsOptions},
    metrics,
    readiness::{Part, Readiness},
    realtime::hub::{Hub, HubOptions},
    router::{self, router},
    server::{self, Bounds, KEEP_ALIVE, KEEP_ALIVE_OF_PROXIES, Places, Shutdown},
    state::App,
    wire::NewMessage,
};

/// How many committed batches may wait for the tail before it reads them from the database instead.
const BATCHES_TO_TAIL: usize = 64;
/// How long the database's connections may take to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// How long the operator's connections may take to end.
const ADMIN_END: Duration = Duration::from_secs(1);
/// How many connections the operator may have open; those beyond are answered once.
const ADMIN_CONNECTIONS: usize = 16;
/// Bytes of a body that are read for a request that was answered without them: what `docker/nginx.conf` passes on. A body
/// that is within its limit is always read.
const UNREAD: usize = 2 << 20;
const READINESS_INTERVAL: Duration = Duration::from_millis(200);

/// Builds everything from the configuration, serves until SIGTERM or SIGINT, and stops in order.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let location = Location::parse(config.database_url.expose())?;
    tell_given(&config);
    let places = files::divide(files::raise_limit(), &config).map_err(anyhow::Error::msg)?;
    if let Some(warning) = &places.warning {
        warn!("{warning}");
    }
    let _file_lock = FileLock::take(&location)?;
    if let Some(file) = location.file_open_to_others() {
        warn!(
            "{} can be read by others on this machine: `chmod go= {}`, or its folder",
            file.display(),
            file.display()
        );
    }
    let mut signals = Signals::new()?;
    let prepared = async {
        let database = connect(location, &config).await?;
        prepare(&database, &config).await?;
        anyhow::Ok(database)
    };
    let database = tokio::select! {
        prepared = prepared => prepared?,
        _ = signals.next() => {
            info!("stopped before it was ready");
            return Ok(());
        }
    };
    database.bound_reads();
    let writer_options = writer_options(&config);

    // Before whatever counts takes its handles.
    let recorded = config.admin_listen.map(|address| (address, metrics::install()));
    let stop = CancellationToken::new();
    let (committed, batches) = mpsc::channel(BATCHES_TO_TAIL);
    let (log, writer) = GroupCommit::start(&database, writer_options, committed);
    let outbox = Arc::new(SqlOutbox::new(database.clone()));
    let hub_options = HubOptions {
        heartbeat: config.heartbeat,
        ..HubOptions::default()
    };
    let hub = Hub::new(outbox.clone(), hub_options);
    let tail_options = TailOptions {
        most_pause: config.poll,
        ..TailOptions::default()
    };
    let tail = Tail::new(outbox, batches, Arc::new(hub.clone()), tail_options, stop.clone());
    let tail_handle = tail.handle();
    hub.attach(tail_handle.clone());
    let tail = tokio::spawn(tail.run());
    let projector = Projector::new(database.clone()).run(tail_handle.clone(), stop.clone());
    let projector = tokio::spawn(projector);
    let gauges = Gauges {
        database: database.clone(),
        log: log.clone(),
        tail: tail_handle.clone(),
    };
    let readiness = Readiness::default();
    let watcher = watch(
        readiness.clone(),
        writer.status.clone(),
        tail_handle,
        stop.clone(),
    );
    let watcher = tokio::spawn(watcher);

    let (verifier, development, refresh) = verifier(&config.tokens, &readiness);
    let refresh = refresh.map(|refresh| tokio::spawn(refresh.run(stop.clone())));
    let stopping = readiness.part("shutdown");
    stopping.ready();
    let facts = Facts {
        development: development.is_some(),
        content_limit: config.content_limit,
        user_claim: config.tokens.rules.user_claim.clone(),
    };
    let limits = Limits::new(LimitsOptions {
        connections_per_address: places.of_an_address,
        ..config.limits.clone()
    });
    let app = Arc::new(App {
        log: Arc::new(log),
        timeline: Arc::new(SqlTimeline::new(database.clone())),
        hub: hub.clone(),
        verifier,
        development,
        chat_page: ChatPage::new(chat_page::EMBEDDED, facts),
        readiness,
        limits: limits.clone(),
        content_limit: config.content_limit,
        command_timeout: config.command_timeout,
        heartbeat: config.heartbeat,
        pings: config.pings,
        stall: config.stall_timeout,
        lose_one_in: config.lose_one_in,
    });
    let places =
        Places::new(places.limit, router::full(app.clone())).limit_addresses(places.of_an_address, limits);
    let admin = match recorded {
        Some((address, handle)) => {
            let sampler = Sampler::new(handle.clone(), app.clone(), places.clone(), Some(gauges));
            let router = admin::router(app.clone(), sampler);
            Some(start_admin(address, router, handle, stop.clone()).await?)
        }
        None => None,
    };
    let listener = listen(config.listen).await?;
    welcome(&config, listener.local_addr()?);

    let shutdown = Shutdown {
        stop: CancellationToken::new(),
        streams: CancellationToken::new(),
        limit: config.shutdown_timeout,
    };
    let bounds = Bounds {
        stall: config.stall_timeout,
        keep_alive: config.keep_alive.unwrap_or(KEEP_ALIVE),
        keep_alive_of_proxies: config.keep_alive.unwrap_or(KEEP_ALIVE_OF_PROXIES),
        unread: UNREAD.max(NewMessage::body_limit(config.content_limit)),
    };
    let serving = server::serve(listener, router(app), places, bounds, shutdown.clone());
    let ending = async {
        drain(signals, &stopping, config.drain).await;
        info!("stopping");
        shutdown.stop.cancel();
        shutdown.streams.cancelled().await;
        hub.close();
    };
    let (cut, ()) = tokio::join!(serving, ending);
    if cut > 0 {
        warn!(
            connections = cut,
            "connections did not end within the limit and were cut"
        );
    }
    writer.stop().await;
    stop.cancel();
    for task in [tail, projector, watcher].into_iter().chain(refresh).chain(admin) {
        task.await.context("a task ended badly")?;
    }
    // One that does not answer is not waited for.
    if let Ok(closed) = timeout(CLOSE_LIMIT, database.pool.close()).await {
        closed.context("the database's connections cannot be closed")?;
    }
    info!("stopped");
    Ok(())
}

/// Says what an operator should know of the configuration.
fn tell_given(config: &Config) {
    let links = &config.given.service_links;
    if let Some(first) = links.first() {
        info!(
            "{first} and others alike ({} in all) are of a service of Kubernetes, and are passed over",
            links.len()
        );
    }
    for line in &config.given.in_the_open {
        warn!("{line}");
    }
}

/// Who checks tokens, who signs them where nobody else does, and who reads the keys again.
fn verifier(tokens: &TokenOptions, readiness: &Readiness) -> (Verifier, Option<Signer>, Option<Refresh>) {
    let rules = &tokens.rules;
    match &tokens.keys {
        Some(KeySource::Secret(secret)) => (Verifier::new(Key::hs256(secret.bytes()), rules), None, None),
        Some(KeySource::PublicKey(key)) => {
            warn_of_other_audiences(rules);
            (Verifier::new(key.clone(), rules), None, None)
        }
        Some(KeySource::Jwks(source)) => {
            if matches!(source, JwksSource::Url { url, .. } if url.is_open()) {
                warn!("CHAT_JWKS_URL is http: whoever stands between can put keys there, and be anybody");
            }
            warn_of_other_audiences(rules);
            let (keys, refresh) = Refresh::new(source.clone(), readiness.part("keys"));
            (Verifier::of_set(keys, rules), None, Some(refresh))
        }
        None => {
            let (signer, verifier) = Signer::of_this_process();
            (verifier, Some(signer), None)
        }
    }
}

/// Who has the private key signs for more services than this one, as a rule.
fn warn_of_other_audiences(rules: &TokenRules) {
    if rules.audience.is_empty() {
        warn!(
            "CHAT_JWT_AUDIENCE is not set: every token that is signed with these keys is taken, also one for another \
             service"
        );
    }
}

/// Connects, and waits for a database that is not there yet. What it refuses is refused at once.
async fn connect(location: Location, config: &Config) -> Result<Database, DatabaseError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let primary =
            Primary::new(config.database_identity.clone()).refusing_lax(!config.allow_lax_durability);
        match Database::connect_to(location.clone(), config.database_connections, primary).await {
            Err(error) if error.may_pass() => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the database is away; it is tried again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_PAUSE);
            }
            done => return done,
        }
    }
}

/// Between two tries at a database that may be there later.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Why the server cannot begin, and whether it can later without anybody doing something about it.
struct Unprepared {
    may_pass: bool,
    error: anyhow::Error,
}

impl From<chat_migration::Error> for Unprepared {
    fn from(error: chat_migration::Error) -> Self {
        let may_pass = matches!(
            &error,
            chat_migration::Error::Database { source, .. } if location::may_pass(source)
        );
        Self {
            may_pass,
            error: describe(error),
        }
    }
}

impl From<anyhow::Error> for Unprepared {
    fn from(error: anyhow::Error) -> Self {
        let may_pass = error.downcast_ref().is_some_and(location::may_pass);
        Self { may_pass, error }
    }
}

/// Looks at the settings and brings the schema up to date. A connection that breaks meanwhile is as a database that is
/// not there yet: all of it can be done again.
async fn prepare(database: &Database, config: &Config) -> anyhow::Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        let prepared = async {
            // Before anything is made on a server that is refused.
            check_server(database, config).await?;
            prepare_schema(database, config.migrate).await?;
            refuse(unmet_of_schema(database).await?, config)?;
            Ok::<_, Unprepared>(())
        };
        match prepared.await {
            Ok(()) => return Ok(()),
            Err(Unprepared {
                may_pass: true,
                error,
            }) => warn!(error = %format!("{error:#}"), "the database broke off; it is tried again"),
            Err(Unprepared { error, .. }) => return Err(error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

async fn prepare_schema(database: &Database, migrate: bool) -> Result<(), Unprepared> {
    if migrate {
        for name in chat_migration::up(&database.pool).await? {
            info!(migration = name, "applied");
        }
        return Ok(());
    }
    chat_migration::check_version(&database.pool).await?;
    let pending = chat_migration::status(&database.pool).await?.pending;
    if !pending.is_empty() {
        let pending = pending.join(", ");
        return Err(anyhow!(
            "the schema is not up to date ({pending} pending): run `chat-system migrate up`"
        )
        .into());
    }
    Ok(())
}

/// A migration's error on one line, with its cause once.
pub fn describe(error: chat_migration::Error) -> anyhow::Error {
    match &error {
        chat_migration::Error::Database { source, .. } => anyhow::anyhow!("{error}: {source}"),
        _ => anyhow::anyhow!("{error}"),
    }
}

const UNREADABLE: &str = "the database's settings cannot be read";

fn writer_options(config: &Config) -> WriterOptions {
    WriterOptions {
        queue_commands: config.queue_commands,
        batch_commands: config.batch_commands,
        batch_bytes: config.batch_bytes,
        command_timeout: config.command_timeout,
        // What waits may be a good many batches, and must hold one command of any size.
        queue_bytes: (64 << 20).max(4 * config.content_limit),
        ..WriterOptions::default()
    }
}

/// Refuses a database server on which nothing can be served, whatever is in it.
pub async fn check_server(database: &Database, config: &Config) -> anyhow::Result<()> {
    refuse(unmet_of_server(database, config).await?, config)
}

pub async fn unmet_of_server(database: &Database, config: &Config) -> anyhow::Result<Vec<Unmet>> {
    requirements::check_server(database, &writer_options(config), config.content_limit)
        .await
        .context(UNREADABLE)
}

/// What a schema that is up to date does not meet.
pub async fn unmet_of_schema(database: &Database) -> anyhow::Result<Vec<Unmet>> {
    requirements::check_schema(database).await.context(UNREADABLE)
}

/// Whether a server serves although this is not met.
pub fn is_waived(unmet: &Unmet, config: &Config) -> bool {
    match unmet.kind {
        Kind::Unseen => true,
        Kind::Durability => config.allow_lax_durability,
        Kind::Necessary => false,
    }
}

/// What a server warns of that serves in spite of it.
pub fn warning(unmet: &Unmet) -> String {
    match unmet.kind {
        Kind::Durability => format!("{unmet}; acknowledged messages can be lost"),
        Kind::Unseen | Kind::Necessary => unmet.to_string(),
    }
}

fn refuse(unmet: Vec<Unmet>, config: &Config) -> anyhow::Result<()> {
    let (waived, refused): (Vec<_>, Vec<_>) = unmet.into_iter().partition(|unmet| is_waived(unmet, config));
    for unmet in &waived {
        warn!("{}", warning(unmet));
    }
    if refused.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = refused.iter().map(ToString::to_string).collect();
    let hint = if refused.iter().any(|unmet| unmet.kind == Kind::Durability) {
        " (--allow-lax-durability serves in spite of settings that can lose acknowledged messages)"
    } else {
        ""
    };
    bail!("{}{hint}", texts.join("; "))
}

/// The operator's listener stays until the end, so that it tells of the end too.
async fn start_admin(
    address: SocketAddr,
    router: Router,
    handle: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = listen(address).await?;
    info!("metrics: http://{}/metrics", listener.local_addr()?);
    let places = Places::new(ADMIN_CONNECTIONS, router.clone());
    let shutdown = Shutdown {
        stop: stop.clone(),
        streams: CancellationToken::new(),
        limit: ADMIN_END,
    };
    let bounds = Bounds {
        stall: ADMIN_END,
        keep_alive: KEEP_ALIVE,
        keep_alive_of_proxies: KEEP_ALIVE,
        unread: 0,
    };
    Ok(tokio::spawn(async move {
        tokio::join!(
            server::serve(listener, router, places, bounds, shutdown),
            metrics::keep_up(handle, stop)
        );
    }))
}

/// How many connections may wait to be accepted, as far as the system lets them (`net.core.somaxconn`): whoever finds no
/// place tries again after a second, and after more.
const BACKLOG: u32 = 65_535;

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let listening = socket.and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    });
    listening.with_context(|| format!("{address} cannot be listened on"))
}

/// Keeps readiness true to what the writer and the tail say of themselves.
async fn watch(readiness: Readiness, status: Arc<Status>, tail: TailHandle, stop: CancellationToken) {
    let parts = (readiness.part("writer"), readiness.part("tail"));
    let say = |part: &Part, wrong: Option<&str>| match wrong {
        Some(wrong) => part.not_ready(wrong),
        None => part.ready(),
    };
    while !stop.is_cancelled() {
        say(
            &parts.0,
            match status.is_available() {
                false => Some("the database is away"),
                true if !status.has_begun() => Some("has not started"),
                true if status.is_blocked() => Some("the database lets nothing be written"),
                true => None,
            },
        );
        let health = tail.health();
        let gap = health.gap_since.is_some_and(|since| since.elapsed() >= GAP_ALARM);
        say(
            &parts.1,
            match health.position {
                None => Some("has not started"),
                Some(_) if gap => Some("an event is missing in the log"),
                Some(_) if health.failing => Some("the database is away"),
                Some(_) => None,
            },
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(READINESS_INTERVAL) => {}
        }
    }
}

fn welcome(config: &Config, address: SocketAddr) {
    info!("listening on http://{address}/");
    info!("the API, to read and to try: http://{address}/docs");
    if config.tokens.keys.is_none() {
        warn!(
            "DEVELOPMENT MODE: no CHAT_JWT_SECRET or other key is set, so anybody on this machine gets a token for any user"
        );
        info!(
            "a token: curl -s http://{address}/dev/token -H 'Content-Type: application/json' \
             -d '{{\"user_id\":\"alice\"}}'"
        );
    }
}

/// Waits until the server is to stop. From the first signal on it says that it is not ready, and serves all the same,
/// until whoever sends it clients must have seen that.
async fn drain(mut signals: Signals, stopping: &Part, time: Duration) {
    let first = signals.next().await;
    stopping.not_ready("the server stops");
    // Who presses Ctrl-C waits for it.
    if first == Signal::Interrupt || time.is_zero() {
        return;
    }
    info!(
        drain_s = time.as_secs(),
        "not ready any more; the server serves on for a while"
    );
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = signals.next() => {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Terminate,
    Interrupt,
}

/// The signals that end the server. They are listened for from the beginning: one that comes before anybody waits for
/// it is there later.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| unix::signal(kind).context("signals cannot be listened for");
        Ok(Self {
            terminate: listen(unix::SignalKind::terminate())?,
            interrupt: listen(unix::SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.interrupt.recv() => Signal::Interrupt,
        }
    }
}
