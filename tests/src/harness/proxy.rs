//! A TCP proxy that breaks connections on command: between the server and its database, or a client and the server.
//!
//! It also reads along for MySQL's COMMIT, so that the outcome of a commit gets lost for real: the writer must find
//! out what happened, and every way in which it may have happened can be made here. And it stops a connection at a
//! statement, for a test that kills a program just there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::databases::Database;

/// What becomes of a COMMIT; the client's connection is cut in each case but the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The server commits, its answer never arrives.
    AnswerLost,
    /// The server never sees it and rolls back.
    CommitLost,
    /// The client is cut at once; the server sees the COMMIT only after this time, and holds its locks until then.
    CommitLate(Duration),
    /// The same, until the test calls [`Proxy::deliver_commits`].
    CommitHeldBack,
    /// Nobody is cut and nothing comes any more: the server waits with its locks held, until it gives the client up.
    Held,
}

/// Forwards what comes to its port. Dropped, it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    orders: watch::Sender<Orders>,
    commits: Mutex<Commits>,
    stop: Mutex<Stop>,
}

/// What every connection follows.
#[derive(Clone, Debug)]
struct Orders {
    /// Where new connections go.
    target: SocketAddr,
    refuse: bool,
    stall: bool,
    delay: Duration,
    /// Of a connection that began in an earlier one, one direction ends.
    half: u64,
    /// A connection that began in an earlier generation ends.
    generation: u64,
    /// How often the commits that were held back were delivered.
    deliveries: u64,
}

#[derive(Debug)]
struct Commits {
    fault: CommitFault,
    next: u64,
    probability: f64,
    broken: u64,
}

/// Where the next connection stops that says this.
#[derive(Debug, Default)]
struct Stop {
    statement: Option<Statement>,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Statement {
    text: String,
    is_passed_on: bool,
}

/// What ends a connection as the client knows it.
enum End {
    Commit(CommitFault),
    Stop(Statement),
}

impl Proxy {
    /// Forwards to a port of 127.0.0.1.
    pub async fn to(port: u16) -> Proxy {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let port = listener
            .local_addr()
            .expect("a bound socket has an address")
            .port();
        let orders = Orders {
            target,
            refuse: false,
            stall: false,
            delay: Duration::ZERO,
            half: 0,
            generation: 0,
            deliveries: 0,
        };
        let commits = Commits {
            fault: CommitFault::AnswerLost,
            next: 0,
            probability: 0.0,
            broken: 0,
        };
        let shared = Arc::new(Shared {
            orders: watch::channel(orders).0,
            commits: Mutex::new(commits),
            stop: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Proxy {
            port,
            shared,
            accepting,
        }
    }

    /// In front of a database's server; see [`url`](Self::url).
    pub async fn before(database: &Database) -> Proxy {
        Proxy::to(database.port()).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database through this proxy, without TLS, so that the proxy can read along.
    pub fn url(&self, database: &Database) -> String {
        format!("{}?ssl-mode=disabled", database.url_at(self.port))
    }

    /// Ends all connections; new ones are served.
    pub fn cut(&self) {
        self.shared.orders.send_modify(|orders| orders.generation += 1);
    }

    /// Ends one direction of all connections, that from the client; the other one stays open. New ones are served.
    pub fn half_close(&self) {
        self.shared.orders.send_modify(|orders| orders.half += 1);
    }

    /// Forwards new connections to another port from now on, as an address does that moves to another server.
    pub fn point_to(&self, port: u16) {
        self.shared
            .orders
            .send_modify(|orders| orders.target.set_port(port));
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.shared.orders.send_modify(|orders| orders.refuse = refuse);
    }

    /// Whether nothing is forwarded any more while connections stay open, as when a firewall forgot them.
    pub fn stall(&self, stall: bool) {
        self.shared.orders.send_modify(|orders| orders.stall = stall);
    }

    /// How long everything is held back, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.shared.orders.send_modify(|orders| orders.delay = delay);
    }

    /// Breaks the next `count` commits.
    pub fn break_next_commits(&self, fault: CommitFault, count: u64) {
        let mut commits = self.shared.commits();
        (commits.fault, commits.next) = (fault, count);
    }

    /// Breaks each commit with this probability, until called with 0.
    pub fn break_commits(&self, fault: CommitFault, probability: f64) {
        let mut commits = self.shared.commits();
        (commits.fault, commits.probability) = (fault, probability);
    }

    /// How many commits were broken so far.
    pub fn commits_broken(&self) -> u64 {
        self.shared.commits().broken
    }

    /// Lets the server have the commits that were held back so far.
    pub fn deliver_commits(&self) {
        self.shared.orders.send_modify(|orders| orders.deliveries += 1);
    }

    /// Stops the first connection whose client says this: the statement goes nowhere, nor does anything after it, and
    /// the client waits for an answer until it ends. Only of a program that says one thing at a time.
    pub fn stop_before(&self, text: &str) {
        self.stop_at(text, false);
    }

    /// The same, once the server has the statement.
    pub fn stop_after(&self, text: &str) {
        self.stop_at(text, true);
    }

    fn stop_at(&self, text: &str, is_passed_on: bool) {
        let statement = Some(Statement {
            text: text.into(),
            is_passed_on,
        });
        *self.shared.stop() = Stop {
            statement,
            stopped: false,
        };
    }

    /// Whether a connection has stopped where the test told it to.
    pub fn has_stopped(&self) -> bool {
        self.shared.stop().stopped
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

impl Shared {
    fn commits(&self) -> std::sync::MutexGuard<'_, Commits> {
        self.commits.lock().expect("no panic under the lock")
    }

    fn stop(&self) -> std::sync::MutexGuard<'_, Stop> {
        self.stop.lock().expect("no panic under the lock")
    }

    /// Whether the connection ends, or stops, with this chunk from the client.
    fn end(&self, chunk: &[u8]) -> Option<End> {
        let is_there = |statement: &mut Statement| {
            let text = statement.text.as_bytes();
            chunk.windows(text.len()).any(|window| window == text)
        };
        let stop = self.stop().statement.take_if(is_there);
        stop.map(End::Stop).or_else(|| self.fault(chunk).map(End::Commit))
    }

    /// Whether this chunk from the client is a COMMIT to be broken, and how.
    fn fault(&self, chunk: &[u8]) -> Option<CommitFault> {
        // Not the READ COMMITTED with which a session begins.
        let mut commits = (0..chunk.len())
            .map(|at| &chunk[at..])
            .filter(|rest| rest.starts_with(b"COMMIT"));
        if commits.all(|rest| rest.starts_with(b"COMMITTED")) {
            return None;
        }
        let mut commits = self.commits();
        // Only a COMMIT of what was begun before leaves a lock behind.
        let begins = chunk.windows(17).any(|window| window == b"START TRANSACTION");
        if commits.fault == CommitFault::Held && begins {
            return None;
        }
        let counted = commits.next > 0;
        if !counted && !rand::rng().random_bool(commits.probability) {
            return None;
        }
        commits.next -= u64::from(counted);
        commits.broken += 1;
        Some(commits.fault)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut orders = shared.orders.subscribe();
            let Orders {
                target,
                refuse,
                generation,
                ..
            } = *orders.borrow();
            if refuse {
                return;
            }
            let cut = async move {
                orders
                    .wait_for(|orders| orders.generation != generation)
                    .await
                    .map(drop)
            };
            tokio::select! {
                _ = cut => {}
                _ = connection(client, target, &shared) => {}
            }
        });
    }
}

async fn connection(client: TcpStream, target: SocketAddr, shared: &Shared) -> io::Result<()> {
    let half = shared.orders.borrow().half;
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut broken = None;
    tokio::select! {
        ended = forward(&mut from_server, &mut to_client, shared, None, |_| false) => ended?,
        ended = forward(&mut from_client, &mut to_server, shared, Some(half), |chunk| {
            broken = shared.end(chunk).map(|end| (end, chunk.to_vec()));
            broken.is_some()
        }) => ended?,
    }
    if let Some((End::Stop(statement), chunk)) = &broken {
        if statement.is_passed_on {
            to_server.write_all(chunk).await?;
        }
        shared.stop().stopped = true;
        // Until the client ends, whatever the server does meanwhile.
        let mut nowhere = tokio::io::sink();
        return tokio::io::copy(&mut from_client, &mut nowhere).await.map(drop);
    }
    if let Some((End::Commit(CommitFault::Held), _)) = broken {
        // Until either side ends it: what else the client says goes nowhere.
        let mut nowhere = tokio::io::sink();
        return tokio::select! {
            ended = forward(&mut from_server, &mut to_client, shared, None, |_| false) => ended,
            ended = tokio::io::copy(&mut from_client, &mut nowhere) => ended.map(drop),
        };
    }
    let deliveries = shared.orders.borrow().deliveries;
    drop((from_client, to_client));
    // The client is cut; what the server sees is up to the fault. Its answer is awaited before its connection is
    // closed, or the reset could overtake the COMMIT.
    let Some((End::Commit(fault), commit)) = broken else {
        return Ok(());
    };
    match fault {
        CommitFault::CommitLost | CommitFault::Held => return Ok(()),
        CommitFault::CommitLate(time) => tokio::time::sleep(time).await,
        CommitFault::CommitHeldBack => {
            let mut orders = shared.orders.subscribe();
            let _ = orders.wait_for(|orders| orders.deliveries != deliveries).await;
        }
        CommitFault::AnswerLost => {}
    }
    to_server.write_all(&commit).await?;
    from_server.read(&mut [0; 1024]).await.map(drop)
}

/// Copies until the end of `from`, or until `stop` holds for a chunk, which is then not forwarded. Where `half` is given
/// and is not the present one any more, the other side is told that nothing more comes, and this goes on for ever.
async fn forward(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
    half: Option<u64>,
    mut stop: impl FnMut(&[u8]) -> bool,
) -> io::Result<()> {
    let mut orders = shared.orders.subscribe();
    let mut closing = shared.orders.subscribe();
    let mut closed = std::pin::pin!(async {
        let is_over = |orders: &Orders| half.is_some_and(|half| half != orders.half);
        closing.wait_for(is_over).await.map(drop)
    });
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length?,
            _ = &mut closed => {
                to.shutdown().await?;
                return std::future::pending().await;
            }
        };
        let delay = orders.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let _ = orders.wait_for(|orders| !orders.stall).await;
        if length == 0 || stop(&buffer[..length]) {
            return Ok(());
        }
        to.write_all(&buffer[..length]).await?;
    }
}
