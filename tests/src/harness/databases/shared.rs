//! What the tests of a run share: a MariaDB and a MySQL server, and the data folders that further servers begin with.
//!
//! Each test is a process of its own, and a server takes seconds to set up. `with-databases` starts the servers once and
//! tells its command where they are, in a variable for each. Where the variable is missing, as when a single test is run
//! by hand, a test process starts its own.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tokio::process::Command;

use super::{DatabaseServer, Kind, available, server::Address};

/// A server that this process did not start.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: Address,
    pub(super) version: String,
    /// The data folder of a server that was set up and stopped.
    template: PathBuf,
}

/// The shared server of a kind, if `with-databases` started this process.
pub(super) fn shared(kind: Kind) -> Option<&'static Shared> {
    static MARIADB: OnceLock<Option<Shared>> = OnceLock::new();
    static MYSQL: OnceLock<Option<Shared>> = OnceLock::new();
    let shared = match kind {
        Kind::Sqlite => return None,
        Kind::MariaDb => &MARIADB,
        Kind::MySql => &MYSQL,
    };
    shared.get_or_init(|| Shared::from_environment(kind)).as_ref()
}

fn variable(kind: Kind) -> String {
    format!("SHARED_{kind:?}").to_uppercase()
}

impl Shared {
    fn from_environment(kind: Kind) -> Option<Shared> {
        let value = env::var(variable(kind)).ok()?;
        let mut parts = value.splitn(4, ' ');
        let mut next = || parts.next().expect("port, password, version and template");
        let address = Address {
            port: next().parse().expect("the port is a number"),
            root_password: next().into(),
        };
        Some(Shared {
            address,
            version: next().into(),
            template: next().into(),
        })
    }

    /// A data folder for another server.
    pub(super) async fn copy_template(&self, data: &Path) {
        copy(&self.template, data).await;
    }
}

pub(super) async fn copy(template: &Path, data: &Path) {
    let copied = Command::new("cp")
        .args(["--archive", "--reflink=auto", "--no-target-directory"])
        .args([template, data])
        .status()
        .await;
    assert!(
        copied.is_ok_and(|status| status.success()),
        "cp copies a data folder"
    );
}

/// The servers of a run, which end with this value.
#[derive(Debug)]
pub struct SharedServers {
    servers: Vec<Started>,
}

#[derive(Debug)]
struct Started {
    server: DatabaseServer,
    version: String,
    /// It only gives its data folder away.
    template: DatabaseServer,
}

impl SharedServers {
    /// Sets both kinds up at once. MySQL may be missing.
    pub async fn start() -> SharedServers {
        let (mariadb, mysql) = tokio::join!(start(Kind::MariaDb), async {
            match available::mysql().await {
                Some(_) => Some(start(Kind::MySql).await),
                None => None,
            }
        });
        SharedServers {
            servers: [Some(mariadb), mysql].into_iter().flatten().collect(),
        }
    }

    /// What a test process needs to find them.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.servers.iter().map(|started| {
            let Started {
                server,
                version,
                template,
            } = started;
            let (port, password, data) = (server.port(), server.root_password(), template.data());
            (
                variable(server.kind),
                format!("{port} {password} {version} {}", data.display()),
            )
        })
    }
}

async fn start(kind: Kind) -> Started {
    let template = DatabaseServer::template(kind).await;
    let server = DatabaseServer::begun_from(&template).await;
    let version = server.version().await;
    Started {
        server,
        version,
        template,
    }
}
