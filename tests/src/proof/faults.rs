//! What is broken, and how it is made whole again.
//!
//! A fault begins while sends are in flight, lasts for a moment, and ends; now and then two last at once, in different
//! places. Before the next one everything is whole again, so that what happens can be told from what came before.

use std::{
    fs, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use super::{
    history::{History, What},
    workload::lasting_token,
};
use crate::{
    Client, CommitFault, Database, DatabaseServer, Kind, Proxy, Server,
    databases::{Ending, Session},
    eventually,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A node with the proxies in front of it and behind it.
#[derive(Debug)]
pub struct Node {
    pub server: Server,
    pub clients: Proxy,
    /// To its database; none on SQLite.
    pub link: Option<Proxy>,
    /// What its clock is moved by.
    pub clock: PathBuf,
}

impl Node {
    /// More reads at once than it has connections, of users who are nobody else.
    fn ask_for_messages(&self) {
        const READS: usize = 24;
        let url = format!("http://127.0.0.1:{}", self.clients.port());
        for n in 0..READS {
            let client = Client::new(&url, &lasting_token(&format!("curious-{n}"), ""));
            tokio::spawn(async move {
                // Whatever comes of it.
                let _ = client.history(&[("with", "user-1")]).await;
            });
        }
    }
}

/// Everything that can be broken.
#[derive(Debug)]
pub struct World {
    pub kind: Kind,
    pub nodes: Vec<Node>,
    /// None on SQLite.
    pub database_server: Option<DatabaseServer>,
    pub database: Database,
    /// What its server's clock is moved by, a MariaDB's.
    pub clock_of_the_database: PathBuf,
    /// What follows the database, and is there to take over; none where nothing does.
    pub standby: Option<(DatabaseServer, Database)>,
    /// The servers that commit together with the database's, each of which can take its place; none where it is alone.
    pub others: Vec<(DatabaseServer, Database)>,
    pub history: History,
    pub in_flight: Arc<AtomicUsize>,
    pub faults: u64,
    /// What is to be put back.
    pub dump: Vec<u8>,
    /// Who has something locked.
    pub locking: Option<Session>,
    /// Connections that are being ended.
    pub ending: Option<Ending>,
    /// Only faults whose kind has one of these in its name; all of them where there is none.
    pub only: Vec<String>,
}

/// What may be broken at the same time as something else is: what is in another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Node(usize),
    Clients(usize),
    Link(usize),
    Database,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillNode(usize),
    FreezeNode(usize),
    /// Each in turn, as when a new version is rolled out.
    RestartAll,
    /// The clock of the node, which is that of the database on SQLite, in seconds.
    MoveClock(usize, i64),
    /// The file takes nothing more.
    FullDisk(usize),
    CutClients(usize),
    StallClients(usize),
    DelayClients(usize),
    HalfCloseClients(usize),
    CutLink(usize),
    StallLink(usize),
    DelayLink(usize),
    HalfCloseLink(usize),
    /// COMMITs on the way to the database, and answers on the way back, are lost.
    LoseCommits(usize, CommitFault),
    /// The network stands still between a node that holds the head lock and its database.
    CutOffWithLock(usize),
    /// The node itself stands still at that moment.
    FreezeWithLock(usize),
    KillDatabase,
    RestartDatabase,
    FreezeDatabase,
    ReadOnlyDatabase,
    /// Somebody has locked a table, for reads too.
    LockTable(&'static str),
    /// Somebody has locked everything against writes: a backup, or another program with the file.
    LockAll,
    /// Messages are locked, and more people ask a node for them than it has connections.
    FullPool(usize),
    /// A node is started anew, and connections are ended again and again meanwhile.
    EndConnectionsAtStart(usize),
    /// The disk of its server takes nothing more. Some servers end then.
    FullDatabaseDisk,
    /// The clock of its server, from which `sent_at` is drawn, in seconds.
    MoveDatabaseClock(i64),
    /// A dump is taken, people go on, and the dump is put back under the nodes: the log loses its end.
    Restore,
    /// The primary is gone for good, and its replica takes over.
    FailOver(Replication),
    /// Of servers that commit together, the one that is written to; another one takes its place.
    KillWriter,
    /// That one and the one that took its place, before the third has noticed; it goes on alone then, as an operator
    /// tells it to.
    KillTwo,
    /// Another one of them.
    KillOther,
    FreezeOther,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The replica hears no more of what people do while the fault lasts: the log loses its end.
    Cut,
    /// Nobody is answered before the replica has it.
    SemiSynchronous,
}

impl Fault {
    /// The name under which it is counted.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::KillNode(_) => "kill -9 of a node",
            Fault::FreezeNode(_) => "SIGSTOP of a node",
            Fault::RestartAll => "restart of each node in turn",
            Fault::MoveClock(..) => "a node's clock jumps",
            Fault::FullDisk(_) => "a full disk",
            Fault::CutClients(_) => "clients are cut off",
            Fault::StallClients(_) => "clients are stalled",
            Fault::DelayClients(_) => "clients are delayed",
            Fault::HalfCloseClients(_) => "clients are half-closed",
            Fault::CutLink(_) => "a node's database is cut off",
            Fault::StallLink(_) => "a node's database is stalled",
            Fault::DelayLink(_) => "a node's database is delayed",
            Fault::HalfCloseLink(_) => "a node's database half-closed",
            Fault::LoseCommits(_, CommitFault::AnswerLost) => "cut after COMMIT",
            Fault::LoseCommits(_, CommitFault::CommitLost) => "cut before COMMIT",
            Fault::LoseCommits(..) => "COMMIT arrives late",
            Fault::CutOffWithLock(_) => "cut off with the head lock",
            Fault::FreezeWithLock(_) => "SIGSTOP with the head lock",
            Fault::KillDatabase => "kill -9 of the database",
            Fault::RestartDatabase => "restart of the database",
            Fault::FreezeDatabase => "SIGSTOP of the database",
            Fault::ReadOnlyDatabase => "read-only database",
            Fault::LockTable(_) => "a table is locked",
            Fault::LockAll => "everything is locked",
            Fault::FullPool(_) => "a node's pool is full",
            Fault::EndConnectionsAtStart(_) => "connections are ended at a start",
            Fault::FullDatabaseDisk => "a full disk of the database",
            Fault::MoveDatabaseClock(_) => "the database's clock jumps",
            Fault::Restore => "restore of an old dump",
            Fault::KillWriter => "a cluster loses its writer",
            Fault::KillTwo => "a cluster loses two servers",
            Fault::KillOther => "a cluster loses a server",
            Fault::FreezeOther => "SIGSTOP of a cluster's server",
            Fault::FailOver(Replication::Cut) => "fail-over, the end is lost",
            Fault::FailOver(Replication::SemiSynchronous) => "fail-over, semi-synchronous",
        }
    }

    /// Whether what was acknowledged may be gone afterwards.
    fn may_lose(self) -> bool {
        matches!(self, Fault::Restore | Fault::FailOver(Replication::Cut))
    }

    /// Whether an answer may come late: a node, or the way to it, stands still.
    fn holds_answers_up(self) -> bool {
        matches!(
            self,
            Fault::FreezeNode(_)
                | Fault::FreezeWithLock(_)
                | Fault::StallClients(_)
                | Fault::DelayClients(_)
                | Fault::HalfCloseClients(_)
        )
    }

    fn place(self) -> Option<Place> {
        Some(match self {
            Fault::KillNode(node)
            | Fault::FreezeNode(node)
            | Fault::MoveClock(node, _)
            | Fault::FullDisk(node) => Place::Node(node),
            Fault::CutClients(node)
            | Fault::StallClients(node)
            | Fault::DelayClients(node)
            | Fault::HalfCloseClients(node) => Place::Clients(node),
            Fault::CutLink(node)
            | Fault::StallLink(node)
            | Fault::DelayLink(node)
            | Fault::HalfCloseLink(node)
            | Fault::LoseCommits(node, _) => Place::Link(node),
            Fault::KillDatabase
            | Fault::RestartDatabase
            | Fault::FreezeDatabase
            | Fault::ReadOnlyDatabase
            | Fault::LockTable(_)
            | Fault::LockAll
            | Fault::FullDatabaseDisk
            | Fault::MoveDatabaseClock(_)
            | Fault::KillWriter
            | Fault::KillTwo
            | Fault::KillOther
            | Fault::FreezeOther => Place::Database,
            // It is about all of them.
            Fault::RestartAll
            | Fault::CutOffWithLock(_)
            | Fault::FreezeWithLock(_)
            | Fault::FullPool(_)
            | Fault::EndConnectionsAtStart(_)
            | Fault::Restore
            | Fault::FailOver(_) => return None,
        })
    }

    /// How long it lasts.
    fn lasts(self, rng: &mut StdRng) -> Duration {
        let range = match self {
            Fault::FreezeDatabase
            | Fault::FreezeOther
            | Fault::FreezeNode(_)
            | Fault::StallLink(_)
            | Fault::LockTable(_)
            | Fault::LockAll
            | Fault::FullPool(_)
            | Fault::StallClients(_) => 300..6000,
            Fault::CutOffWithLock(_) | Fault::FreezeWithLock(_) => 4000..6000,
            Fault::CutClients(_)
            | Fault::HalfCloseClients(_)
            | Fault::CutLink(_)
            | Fault::HalfCloseLink(_) => 50..300,
            Fault::RestartAll => 1..2,
            _ => 200..3000,
        };
        Duration::from_millis(rng.random_range(range))
    }
}

/// Tables that a send or a reader needs.
const LOCKED: [&str; 6] = [
    "outbox",
    "log_head",
    "messages",
    "conversations",
    "participants",
    "checkpoints",
];

impl World {
    /// The next fault, or two at once.
    pub fn choose(&self, rng: &mut StdRng, bag: &mut Vec<Fault>) -> Vec<Fault> {
        let mut draw = |rng: &mut StdRng| {
            if bag.is_empty() {
                *bag = self.all(rng);
            }
            // Each comes as often as any other.
            bag.swap_remove(rng.random_range(0..bag.len()))
        };
        let first = draw(rng);
        if !rng.random_bool(0.25) {
            return vec![first];
        }
        let second = draw(rng);
        match (first.place(), second.place()) {
            (Some(one), Some(other)) if one != other => vec![first, second],
            _ => {
                bag.push(second);
                vec![first]
            }
        }
    }

    /// For each of these names, a fault whose kind has it in its own.
    pub fn named(&self, names: &[String], rng: &mut StdRng) -> Vec<Fault> {
        let mut found = Vec::new();
        for name in names {
            let all = self.all(rng);
            let fault = all.into_iter().find(|fault| fault.kind().contains(name.as_str()));
            found.push(fault.unwrap_or_else(|| panic!("there is no fault {name} here")));
        }
        found
    }

    /// One of each kind that this world can have.
    fn all(&self, rng: &mut StdRng) -> Vec<Fault> {
        let node = |rng: &mut StdRng| rng.random_range(0..self.nodes.len());
        let jump = |rng: &mut StdRng| {
            let jumps = [-86_400, -3600, -30, -2, 2, 30, 3600, 86_400];
            *jumps.choose(rng).expect("there are some")
        };
        let mut all = vec![
            Fault::KillNode(node(rng)),
            Fault::KillNode(node(rng)),
            Fault::FreezeNode(node(rng)),
            Fault::RestartAll,
            Fault::CutClients(node(rng)),
            Fault::StallClients(node(rng)),
            Fault::DelayClients(node(rng)),
            Fault::HalfCloseClients(node(rng)),
        ];
        if self.kind == Kind::Sqlite {
            all.extend([Fault::FullDisk(node(rng)), Fault::LockAll]);
        } else {
            all.extend([
                Fault::CutLink(node(rng)),
                Fault::StallLink(node(rng)),
                Fault::DelayLink(node(rng)),
                Fault::HalfCloseLink(node(rng)),
                Fault::LoseCommits(node(rng), CommitFault::AnswerLost),
                Fault::LoseCommits(node(rng), CommitFault::CommitLost),
                Fault::LoseCommits(node(rng), CommitFault::CommitLate(Duration::from_millis(60))),
                Fault::CutOffWithLock(node(rng)),
                Fault::FreezeWithLock(node(rng)),
                Fault::KillDatabase,
                Fault::RestartDatabase,
                Fault::FreezeDatabase,
                Fault::ReadOnlyDatabase,
                Fault::EndConnectionsAtStart(node(rng)),
            ]);
        }
        if !self.others.is_empty() {
            all.extend([
                Fault::KillWriter,
                Fault::KillTwo,
                Fault::KillOther,
                Fault::FreezeOther,
            ]);
        } else if self.kind != Kind::Sqlite {
            let table = *LOCKED.choose(rng).expect("there are some");
            all.extend([
                Fault::FullDatabaseDisk,
                Fault::Restore,
                // A cluster has no locks of whole tables.
                Fault::LockTable(table),
                Fault::LockAll,
                Fault::FullPool(node(rng)),
            ]);
        }
        if self.kind == Kind::MariaDb && self.others.is_empty() {
            all.push(Fault::MoveDatabaseClock(jump(rng)));
        }
        if self.standby.is_some() {
            all.extend([
                Fault::FailOver(Replication::Cut),
                Fault::FailOver(Replication::SemiSynchronous),
            ]);
        }
        all.push(Fault::MoveClock(node(rng), jump(rng)));
        if !self.only.is_empty() {
            all.retain(|fault| self.only.iter().any(|only| fault.kind().contains(only.as_str())));
            assert!(!all.is_empty(), "there is no fault {:?} here", self.only);
        }
        all
    }

    /// Breaks something while sends are in flight, and makes it whole.
    pub async fn suffer(&mut self, faults: &[Fault], rng: &mut StdRng) {
        let mut begun = Vec::new();
        let mut lasts = Duration::ZERO;
        for &fault in faults {
            let number = self.faults;
            self.faults += 1;
            lasts = lasts.max(fault.lasts(rng));
            self.begin(number, fault).await;
            begun.push(number);
        }
        sleep(lasts).await;
        for (&fault, number) in faults.iter().zip(begun).rev() {
            self.end(fault).await;
            self.history.note(What::FaultEnd { fault: number });
        }
        self.heal().await;
    }

    /// Waits for sends in flight, and says that it begins.
    async fn note(&self, number: u64, fault: Fault) {
        let mut in_flight = 0;
        eventually("sends are in flight", LIMIT, || {
            in_flight = self.in_flight.load(Ordering::SeqCst);
            std::future::ready(in_flight > 0)
        })
        .await;
        self.history.note(What::FaultBegin {
            fault: number,
            kind: fault.kind().into(),
            detail: format!("{fault:?}"),
            in_flight,
            may_lose: fault.may_lose(),
            holds_answers_up: fault.holds_answers_up(),
        });
    }

    async fn begin(&mut self, number: u64, fault: Fault) {
        // Of these two the moment comes when a node is about to commit.
        if let Fault::CutOffWithLock(node) | Fault::FreezeWithLock(node) = fault {
            let link = self.nodes[node].link.as_ref().expect("not on SQLite");
            let before = link.commits_broken();
            link.break_next_commits(CommitFault::Held, 1);
            eventually("a node commits", LIMIT, || {
                std::future::ready(link.commits_broken() > before)
            })
            .await;
            self.note(number, fault).await;
            if let Fault::FreezeWithLock(node) = fault {
                self.nodes[node].server.sigstop();
            }
            return;
        }
        self.note(number, fault).await;
        match fault {
            Fault::KillNode(node) => self.nodes[node].server.kill9().await,
            Fault::FreezeNode(node) => self.nodes[node].server.sigstop(),
            Fault::RestartAll => {
                for node in &mut self.nodes {
                    node.server.stop().await;
                    node.server.restart().await;
                }
            }
            Fault::MoveClock(node, seconds) => set_clock(&self.nodes[node].clock, seconds),
            Fault::FullDisk(node) => self.nodes[node].server.limit_files_to(Some(4096)).await,
            Fault::CutClients(node) => self.nodes[node].clients.cut(),
            Fault::StallClients(node) => self.nodes[node].clients.stall(true),
            Fault::DelayClients(node) => self.nodes[node].clients.delay(Duration::from_millis(80)),
            Fault::HalfCloseClients(node) => self.nodes[node].clients.half_close(),
            Fault::CutLink(node) => self.link(node).cut(),
            Fault::StallLink(node) => self.link(node).stall(true),
            Fault::DelayLink(node) => self.link(node).delay(Duration::from_millis(25)),
            Fault::HalfCloseLink(node) => self.link(node).half_close(),
            Fault::LoseCommits(node, fault) => {
                // One for sure, also where few come.
                self.link(node).break_next_commits(fault, 1);
                self.link(node).break_commits(fault, 0.2);
            }
            Fault::KillDatabase => self.server().kill9().await,
            Fault::RestartDatabase => self.server().stop().await,
            Fault::FreezeDatabase => self.server().sigstop(),
            Fault::ReadOnlyDatabase => self.server().execute("SET GLOBAL read_only = 1").await,
            Fault::LockTable(table) => self.lock(&format!("LOCK TABLES {table} WRITE")).await,
            Fault::LockAll if self.kind == Kind::Sqlite => self.lock("BEGIN EXCLUSIVE").await,
            Fault::LockAll => self.lock("FLUSH TABLES WITH READ LOCK").await,
            Fault::FullPool(node) => {
                self.lock("LOCK TABLES messages WRITE").await;
                self.nodes[node].ask_for_messages();
            }
            Fault::EndConnectionsAtStart(node) => {
                self.nodes[node].server.kill9().await;
                self.ending = Some(self.database.end_connections().await);
                self.nodes[node].server.respawn().await;
            }
            Fault::FullDatabaseDisk => self.server().fill_disk(true),
            Fault::MoveDatabaseClock(seconds) => set_clock(&self.clock_of_the_database, seconds),
            Fault::Restore => self.dump = self.database.dump().await,
            Fault::FailOver(replication) => self.prepare_to_fail_over(replication).await,
            Fault::KillWriter => self.kill_writer().await,
            Fault::KillTwo => {
                self.kill_writer().await;
                sleep(Duration::from_millis(300)).await;
                self.kill_writer().await;
            }
            Fault::KillOther => self.other().kill9().await,
            Fault::FreezeOther => self.other().sigstop(),
            Fault::CutOffWithLock(_) | Fault::FreezeWithLock(_) => unreachable!("begun above"),
        }
    }

    async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::KillNode(node) => self.nodes[node].server.respawn().await,
            Fault::FreezeNode(node) | Fault::FreezeWithLock(node) => self.nodes[node].server.sigcont(),
            Fault::MoveClock(node, _) => set_clock(&self.nodes[node].clock, 0),
            Fault::FullDisk(node) => self.nodes[node].server.limit_files_to(None).await,
            Fault::StallClients(node) => self.nodes[node].clients.stall(false),
            Fault::DelayClients(node) => self.nodes[node].clients.delay(Duration::ZERO),
            Fault::StallLink(node) => self.link(node).stall(false),
            Fault::DelayLink(node) => self.link(node).delay(Duration::ZERO),
            Fault::LoseCommits(node, fault) => {
                self.link(node).break_next_commits(fault, 0);
                self.link(node).break_commits(fault, 0.0);
            }
            Fault::KillDatabase | Fault::RestartDatabase => self.server().start().await,
            Fault::FreezeDatabase => self.server().sigcont(),
            Fault::ReadOnlyDatabase => self.server().execute("SET GLOBAL read_only = 0").await,
            // With its connection goes what somebody had locked.
            Fault::LockTable(_) | Fault::LockAll | Fault::FullPool(_) => self.locking = None,
            Fault::EndConnectionsAtStart(node) => {
                let ending = self.ending.take().expect("it has begun");
                ending.stop().await;
                assert!(
                    self.nodes[node].server.is_running(),
                    "a node does not start:\n{}",
                    self.nodes[node].server.log()
                );
            }
            Fault::FullDatabaseDisk => {
                self.server().fill_disk(false);
                // Whoever waits at a binary log looks again after a minute.
                let has_binary_log = self.kind == Kind::MySql || self.standby.is_some();
                if has_binary_log && self.server().is_running() {
                    self.server().kill9().await;
                    self.server().start().await;
                }
            }
            Fault::MoveDatabaseClock(_) => set_clock(&self.clock_of_the_database, 0),
            Fault::Restore => {
                let links: Vec<_> = self.nodes.iter().filter_map(|node| node.link.as_ref()).collect();
                for link in &links {
                    link.refuse(true);
                    link.cut();
                }
                self.database.restore(&self.dump).await;
                for link in links {
                    link.refuse(false);
                }
            }
            Fault::FailOver(_) => self.fail_over().await,
            Fault::KillWriter | Fault::KillOther => self.other().start().await,
            Fault::KillTwo => {
                self.server().go_on_alone().await;
                join_all(self.others.iter_mut().map(|(server, _)| server.start())).await;
            }
            Fault::FreezeOther => self.other().sigcont(),
            Fault::RestartAll
            | Fault::CutClients(_)
            | Fault::HalfCloseClients(_)
            | Fault::CutLink(_)
            | Fault::HalfCloseLink(_)
            | Fault::CutOffWithLock(_) => {}
        }
    }

    async fn lock(&mut self, statement: &str) {
        let mut session = self.database.session().await;
        session.execute(statement).await;
        self.locking = Some(session);
    }

    /// The replica has what was answered before this, and from now on misses everything, or nothing.
    async fn prepare_to_fail_over(&self, replication: Replication) {
        let (standby, copy) = self.standby.as_ref().expect("it is drawn only with one");
        let primary = self.database_server.as_ref().expect("not on SQLite");
        if replication == Replication::SemiSynchronous {
            standby.make_semi_synchronous(primary).await;
        }
        let head = "SELECT position FROM log_head";
        let there = self.database.number(head).await;
        eventually("the replica has what is there", LIMIT, || async {
            copy.number(head).await >= there
        })
        .await;
        if replication == Replication::Cut {
            standby.stop_listening().await;
        }
    }

    /// The primary is fenced, by its end. Its address moves to the replica, and that one gets a replica of its own.
    async fn fail_over(&mut self) {
        let (standby, copy) = self.standby.take().expect("it is drawn only with one");
        self.server().kill9().await;
        for node in &self.nodes {
            let link = node.link.as_ref().expect("not on SQLite");
            link.point_to(standby.port());
        }
        standby.take_over().await;
        let next = standby.replica_of(&copy).await;
        self.database_server = Some(standby);
        self.database = copy;
        self.standby = Some(next);
    }

    /// Another server of the cluster takes the place of the one that is written to, which is killed.
    async fn kill_writer(&mut self) {
        let (mut lost, its_database) = self.others.remove(0);
        mem::swap(&mut lost, self.server());
        let its_database = mem::replace(&mut self.database, its_database);
        lost.kill9().await;
        for node in &self.nodes {
            let link = node.link.as_ref().expect("not on SQLite");
            link.point_to(self.database.port());
        }
        self.others.push((lost, its_database));
    }

    /// Waits until every node is ready. One that did not come up while its database was away is started again, and so is
    /// a database that did not survive.
    async fn heal(&mut self) {
        if !self.others.is_empty() {
            let writer = self.database_server.iter();
            for server in writer.chain(self.others.iter().map(|(server, _)| server)) {
                server.when_synced().await;
            }
        }
        for node in &mut self.nodes {
            let begin = std::time::Instant::now();
            while !node.server.is_ready().await {
                assert!(
                    begin.elapsed() < LIMIT,
                    "a node is ready again:\n{}",
                    node.server.log()
                );
                if let Some(database_server) = &mut self.database_server {
                    database_server.start_if_it_ended().await;
                }
                if !node.server.is_running() {
                    node.server.respawn().await;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn link(&self, node: usize) -> &Proxy {
        self.nodes[node].link.as_ref().expect("not on SQLite")
    }

    /// Of the cluster, the server that was written to before this one.
    fn other(&mut self) -> &mut DatabaseServer {
        let other = self.others.last_mut();
        &mut other.expect("it is drawn only in a cluster").0
    }

    fn server(&mut self) -> &mut DatabaseServer {
        self.database_server.as_mut().expect("not on SQLite")
    }
}

/// What libfaketime reads at each look at the clock.
pub fn set_clock(file: &PathBuf, seconds: i64) {
    let new = file.with_extension("new");
    let written = fs::write(&new, format!("{seconds:+}s\n")).and_then(|()| fs::rename(&new, file));
    written.expect("the temporary folder takes files");
}
