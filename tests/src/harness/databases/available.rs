//! Which database servers this machine has, and telling the one who reads the run's output.
//!
//! What goes straight to stderr is in the test runner's report, where `tests/report` finds the lines `DATABASE: …` and
//! `NOT RUN: …` for the end of a run.

use std::{collections::BTreeSet, io::Write, path::PathBuf, process::Stdio, sync::Mutex};

use tokio::{process::Command, sync::OnceCell};

use super::Kind;

const MYSQL_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/databases/mysql-from-debian");

/// True, and said loudly, when `kind` cannot be had here, so that the test must return. Only MySQL may be missing.
pub async fn not_run(kind: Kind, test: &str) -> bool {
    let missing = kind == Kind::MySql && mysql().await.is_none();
    if missing {
        say(&format!("NOT RUN: {test} (no MySQL)"));
    }
    missing
}

/// The program of a server.
pub(super) async fn program(kind: Kind) -> PathBuf {
    match kind {
        Kind::Sqlite => panic!("SQLite has no server"),
        Kind::MariaDb => [
            "/usr/sbin/mariadbd",
            "/usr/libexec/mariadbd",
            "/usr/local/sbin/mariadbd",
        ]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("MariaDB is needed for this test: apt-get install mariadb-server-core mariadb-client-core"),
        Kind::MySql => mysql()
            .await
            .expect("MySQL is needed for this test; ask not_run() first")
            .clone(),
    }
}

/// Says once in each process which version the tests run against.
pub(super) fn tell_version(kind: Kind, version: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let line = format!("DATABASE: {kind:?} {version}");
    if TOLD.lock().expect("no panic under the lock").insert(line.clone()) {
        say(&line);
    }
}

pub(super) async fn mysql() -> Option<&'static PathBuf> {
    static MYSQL: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let found = MYSQL.get_or_init(|| async {
        let output = Command::new(MYSQL_SCRIPT)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("bash runs scripts");
        if output.status.success() {
            let path = String::from_utf8(output.stdout).expect("a path in UTF-8");
            return Some(PathBuf::from(path.trim_end()));
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(3),
            "mysql-from-debian is broken:\n{reason}"
        );
        say(&format!(
            "MYSQL NOT AVAILABLE: {}",
            reason.lines().last().unwrap_or("no reason given")
        ));
        None
    });
    found.await.as_ref()
}

fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}
