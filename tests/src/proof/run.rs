//! One run: a world is built, people come, it is broken for a while, everything becomes whole, everybody catches up,
//! and the checker reads what was noted.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    checker::{self, Findings},
    faults::{Node, World, set_clock},
    history::{self, History, Reading, What},
    library,
    log::Log,
    reading::Reader,
    workload::{self, CONTENT_LIMIT, Crowd, Doors, Outcomes},
};
use crate::{Database, DatabaseServer, Kind, Proxy, Server, another_clock, guard::temporary_folder};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    /// One on SQLite.
    pub nodes: usize,
    pub seed: u64,
    /// At least; the run goes on until each outcome of a send is above 1 % of all.
    pub lasts: Duration,
    /// A defect of the server that is switched on.
    pub planted: Option<&'static str>,
    /// Parts of the names of the only faults that come; all come where there is none.
    pub only: Vec<String>,
    /// Parts of the names of faults that come before any other, one after the other, however short the run is.
    pub first: Vec<String>,
    /// Whether a replica follows the database, which then has a binary log; only on MariaDB.
    pub standby: bool,
    /// Whether the database is that of a Galera cluster of three, one of which is written to; only on MariaDB.
    pub cluster: bool,
    /// Of the database server, more than the harness gives by itself.
    pub database_arguments: Vec<String>,
    /// Where the history is kept; else it goes with the test process.
    pub keep: Option<PathBuf>,
}

impl Plan {
    pub fn new(kind: Kind, lasts: Duration) -> Plan {
        let cluster = kind == Kind::MariaDb && env::var("PROOF_CLUSTER").as_deref() == Ok("yes");
        let standby = env::var("PROOF_STANDBY").as_deref() != Ok("no");
        Plan {
            kind,
            nodes: if kind == Kind::Sqlite { 1 } else { 3 },
            seed: seed(),
            lasts,
            planted: None,
            only: list("PROOF_FAULTS"),
            first: Vec::new(),
            standby: kind == Kind::MariaDb && standby && !cluster,
            cluster,
            database_arguments: list("PROOF_DATABASE_ARGUMENTS"),
            keep: env::var_os("PROOF_HISTORY").map(PathBuf::from),
        }
    }
}

/// `PROOF_SEED`, or another one each time.
pub fn seed() -> u64 {
    let given = env::var("PROOF_SEED").ok().filter(|seed| !seed.is_empty());
    given.map_or_else(
        || rand::rng().random_range(0..1_000_000),
        |seed| seed.parse().expect("PROOF_SEED is a number"),
    )
}

/// A variable with commas between its parts.
fn list(name: &str) -> Vec<String> {
    let list = env::var(name).unwrap_or_default();
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Of a node's log, where something was found.
const LINES: usize = 200;

/// The users; the first is quiet, and nearly nobody writes to them.
const USERS: usize = 8;
/// Who sends over REST, and over sockets.
const SENDERS: usize = 12;
const SOCKETS: usize = 4;
const PACE: Duration = Duration::from_millis(40);
/// More sends than begin or end after the last fault: one of each sender, two rows of each socket, and what the libraries
/// hold.
const LAST_SENDS: u64 = 100;

/// Runs it, and gives what the checker found. Says how to repeat it.
pub async fn run(plan: &Plan) -> Findings {
    say(&format!("proof: {plan:?}"));
    let begun = Instant::now();
    let folder = temporary_folder("proof");
    let path = plan.keep.clone().unwrap_or_else(|| folder.path().join("history"));
    let (history, writing) = History::create(&path);
    history.note(What::Run {
        seed: plan.seed,
        about: format!("{plan:?}"),
    });
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut world = build(plan, history.clone(), folder.path()).await;

    let urls = world
        .nodes
        .iter()
        .map(|node| format!("http://127.0.0.1:{}", node.clients.port()));
    let doors = Doors {
        urls: Arc::new(urls.collect()),
    };
    let (stop, stopped) = watch::channel(false);
    let (head, at_head) = watch::channel(None);
    let outcomes = Arc::<Outcomes>::default();
    let users: Vec<_> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let crowd = Crowd {
        doors: doors.clone(),
        history: history.clone(),
        users: Arc::new(users.clone()),
        in_flight: world.in_flight.clone(),
        outcomes: outcomes.clone(),
        stop: stopped.clone(),
        pace: PACE,
    };
    let mut reading = JoinSet::new();
    let mut sending = JoinSet::new();
    let mut next_reader = 0;
    let mut reader = |user: &str, door, everything, from_the_beginning, seen, seed| {
        next_reader += 1;
        Reader {
            id: next_reader,
            user: user.into(),
            door,
            everything,
            from_the_beginning,
            leaves_after: None,
            doors: doors.clone(),
            history: history.clone(),
            head: at_head.clone(),
            seen,
            seed,
        }
    };
    for (n, user) in users.iter().enumerate() {
        // Two doors each, so that each pair of doors is somebody's, and each door four's.
        for (turn, door) in [Reading::ALL[n % 4], Reading::ALL[(n + 1 + n / 4) % 4]]
            .into_iter()
            .enumerate()
        {
            let (seen, told) = watch::channel(0);
            let teller = (turn == 0).then_some(seen);
            if teller.is_some() {
                sending.spawn(workload::receipts(
                    crowd.clone(),
                    user.clone(),
                    told,
                    rng.random(),
                ));
            }
            reading.spawn(reader(user, door, false, true, teller, rng.random()).read());
        }
    }
    // The quiet one on each door, and a service that sees everything on each door that shows it.
    for door in Reading::ALL {
        reading.spawn(reader(&users[0], door, false, true, None, rng.random()).read());
    }
    for door in [Reading::Stream, Reading::LongPoll] {
        reading.spawn(reader("archive", door, true, false, None, rng.random()).read());
    }
    // Somebody with the client library at each node, who sends too.
    for node in 0..plan.nodes {
        let follower = reader(
            &users[1 + node],
            Reading::Library,
            false,
            true,
            None,
            rng.random(),
        );
        let (answered, all_answered) = oneshot::channel();
        let name = format!("l{node}");
        reading.spawn(library::follow(follower, crowd.clone(), node, name, answered));
        sending.spawn(async move {
            let _ = all_answered.await;
        });
    }
    for n in 0..SENDERS {
        let user = users[1 + n % (USERS - 1)].clone();
        sending.spawn(workload::over_rest(
            crowd.clone(),
            user,
            format!("r{n}"),
            rng.random(),
        ));
    }
    for n in 0..SOCKETS {
        let user = users[1 + (n * 2) % (USERS - 1)].clone();
        sending.spawn(workload::over_a_socket(
            crowd.clone(),
            user,
            format!("s{n}"),
            rng.random(),
        ));
    }

    let faults_begin = Instant::now();
    let is_over = || {
        let lasted = faults_begin.elapsed();
        let is_enough = plan.planted.is_some() || outcomes.stay_above_one_percent(LAST_SENDS);
        lasted >= plan.lasts && (is_enough || lasted >= 4 * plan.lasts)
    };
    let mut first = world.named(&plan.first, &mut rng).into_iter();
    let mut bag = Vec::new();
    while !first.as_slice().is_empty() || !is_over() {
        sleep(Duration::from_millis(rng.random_range(300..1500))).await;
        let faults = match first.next() {
            Some(fault) => vec![fault],
            None => world.choose(&mut rng, &mut bag),
        };
        world.suffer(&faults, &mut rng).await;
        // Somebody comes anew, and reads everything from the beginning.
        if rng.random_bool(0.3) {
            let door = Reading::ALL[rng.random_range(0..4)];
            let newcomer = reader(&users[0], door, false, true, None, rng.random());
            let newcomer = Reader {
                leaves_after: Some(Duration::from_secs(20)),
                ..newcomer
            };
            reading.spawn(newcomer.read());
        }
    }

    stop.send_replace(true);
    while let Some(done) = sending.join_next().await {
        done.expect("a sender does not panic");
    }
    let position = world.database.number("SELECT position FROM log_head").await;
    history.note(What::Head { position });
    head.send_replace(Some(position));
    while let Some(done) = reading.join_next().await {
        done.expect("a reader does not panic");
    }
    let verified = world.nodes[0].server.run(&["verify"]).await;
    history.note(What::Verified {
        code: verified.code,
        said: verified.stdout + &verified.stderr,
    });
    let log = Log::read(&world.database).await;
    let said: Vec<_> = world.nodes.iter().map(|node| node.server.log()).collect();
    drop(world);
    drop((crowd, history));
    writing.finish();
    let findings = checker::check(history::read(&path), &log);
    let size = fs::metadata(&path).map_or(0, |about| about.len()) / 1_000_000;
    if let Some(defect) = plan.planted {
        let count = findings.violations.len();
        say(&format!(
            "proof: with {defect} planted, {count} violations are shown"
        ));
        return findings;
    }
    say(&format!(
        "proof: seed {} on {:?} with {} nodes, {} s, {size} MB of history\n{}",
        plan.seed,
        plan.kind,
        plan.nodes,
        begun.elapsed().as_secs(),
        findings.table()
    ));
    if !findings.violations.is_empty() {
        for (n, log) in said.iter().enumerate() {
            let from = log.lines().count().saturating_sub(LINES);
            let end: Vec<_> = log.lines().skip(from).collect();
            say(&format!("the end of what node {n} said:\n{}", end.join("\n")));
        }
    }
    findings
}

async fn build(plan: &Plan, history: History, folder: &Path) -> World {
    let clock_of_the_database = folder.join("clock-of-the-database");
    set_clock(&clock_of_the_database, 0);
    let mut cluster = Vec::new();
    let database_server = match plan.kind {
        Kind::Sqlite => None,
        Kind::MariaDb if plan.cluster => {
            cluster = DatabaseServer::cluster(3).await;
            Some(cluster.remove(0))
        }
        kind => {
            let arguments: Vec<_> = plan.database_arguments.iter().map(String::as_str).collect();
            // A MySQL whose clock is read from a file is too slow to be of use.
            let environment = match kind {
                Kind::MariaDb => moved_by(&clock_of_the_database),
                _ => Vec::new(),
            };
            let environment = DatabaseServer::on_a_disk_that_may_be_full(environment);
            Some(if plan.standby {
                DatabaseServer::to_be_followed(kind, &arguments, environment).await
            } else {
                DatabaseServer::dedicated_in(kind, &arguments, environment).await
            })
        }
    };
    let database = match &database_server {
        Some(server) => server.fresh().await,
        None => Database::fresh(Kind::Sqlite).await,
    };
    let mut others = Vec::new();
    for server in cluster {
        let its_database = server.holding(&database).await;
        others.push((server, its_database));
    }
    let mut nodes = Vec::new();
    for n in 0..plan.nodes {
        let link = match plan.kind {
            Kind::Sqlite => None,
            _ => Some(Proxy::before(&database).await),
        };
        let clock = folder.join(format!("clock-{n}"));
        set_clock(&clock, 0);
        let server = start(plan, &database, link.as_ref(), &clock).await;
        let clients = Proxy::to(server.port()).await;
        nodes.push(Node {
            server,
            clients,
            link,
            clock,
        });
    }
    let standby = match &database_server {
        Some(server) if plan.standby => Some(server.replica_of(&database).await),
        _ => None,
    };
    World {
        kind: plan.kind,
        standby,
        others,
        clock_of_the_database,
        nodes,
        database_server,
        database,
        history,
        in_flight: Arc::new(AtomicUsize::new(0)),
        faults: 0,
        dump: Vec::new(),
        locking: None,
        ending: None,
        only: plan.only.clone(),
    }
}

async fn start(plan: &Plan, database: &Database, link: Option<&Proxy>, clock: &Path) -> Server {
    let url = link.map_or_else(|| database.url(), |link| link.url(database));
    let limit = CONTENT_LIMIT.to_string();
    let command_timeout = checker::COMMAND_TIMEOUT.as_millis().to_string();
    let clock = moved_by(clock);
    let mut settings = vec![
        ("CHAT_DATABASE_URL", url.as_str()),
        ("CHAT_CONTENT_LIMIT", &limit),
        ("CHAT_COMMAND_TIMEOUT_MS", &command_timeout),
        ("CHAT_HEARTBEAT_S", "1"),
        ("CHAT_LOG", "warn"),
    ];
    if plan.cluster {
        settings.push(("CHAT_DATABASE_IDENTITY", "cluster"));
    }
    settings.extend(clock.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if let Some(defect) = plan.planted {
        settings.push(("PLANTED", defect));
    }
    Server::start_on_a_disk_that_may_be_full(database, &settings).await
}

/// The environment of a process whose clock a file moves.
fn moved_by(clock: &Path) -> Vec<(String, String)> {
    let file = clock.display().to_string();
    another_clock(&[("FAKETIME_TIMESTAMP_FILE", &file), ("FAKETIME_NO_CACHE", "1")])
}

/// Straight to stderr, also where the test runner keeps what tests print.
pub fn say(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}
