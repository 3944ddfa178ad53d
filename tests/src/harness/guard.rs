//! Processes that end with the test process, and the one temporary folder that goes with it.
//!
//! Destructors do not run after a kill -9, an abort or a timeout of the CI, so each server is the child of a small
//! guard (`tests/harness/guard.sh`) that notices the end of a pipe. Refused: `PR_SET_PDEATHSIG`, which needs unsafe
//! code and fires when the *thread* that started the server ends; stopping by name, which hits strangers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::wait::eventually;

const GUARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/guard.sh");

/// A new temporary folder inside the folder of this test process; removed when dropped.
pub fn temporary_folder(name: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(process_folder())
        .expect("a folder in the test's temporary folder")
}

/// `/tmp/chat-tests-…`, removed by its guard after everything in it has ended.
fn process_folder() -> &'static Path {
    static FOLDER: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (folder, _guard) = FOLDER.get_or_init(|| {
        let folder = tempfile::Builder::new()
            .prefix("chat-tests-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let mut command = guard(&folder);
        // It outlives this process a little, and must not hold its output open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let guard = command.spawn().expect("bash runs the guard");
        (folder, guard)
    });
    folder
}

fn guard(folder: &Path) -> Command {
    // In a session of its own. Ctrl-C in the terminal ends the tests, and the guards clean up after them; and the
    // kernel sends no SIGHUP to a guard whose child is frozen at the moment when the tests end.
    let mut command = Command::new("setsid");
    command.args(["bash", GUARD]).arg(folder).stdin(Stdio::piped());
    command
}

/// A running program under its guard. Dropped, it is killed at once.
#[derive(Debug)]
pub struct Process {
    guard: Child,
    pid: Pid,
}

impl Process {
    /// Starts `program`; `prepare` gives it arguments, environment and where its output goes (nowhere by default).
    pub async fn start(program: &Path, prepare: impl FnOnce(&mut Command)) -> Process {
        let folder = process_folder();
        let pid_file = folder.join(format!("pid-{}", super::wait::random_name(12)));
        let mut command = guard(folder);
        command
            .arg(&pid_file)
            .arg(program)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        prepare(&mut command);
        let guard = command.spawn().expect("bash runs the guard");
        let mut pid = None;
        eventually(
            "the guard names the pid of its child",
            Duration::from_secs(30),
            || {
                let text = fs::read_to_string(&pid_file).unwrap_or_default();
                pid = text.strip_suffix('\n').and_then(|line| line.parse().ok());
                std::future::ready(pid.is_some())
            },
        )
        .await;
        let _ = fs::remove_file(&pid_file);
        Process {
            guard,
            pid: Pid::from_raw(pid.expect("waited for")),
        }
    }

    /// The pid of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Sends a signal to exactly this program. A SIGSTOP reaches one thread after the other: returns once all stand.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.pid));
        if signal == Signal::SIGSTOP {
            let limit = Instant::now() + Duration::from_secs(10);
            while !self.is_stopped() {
                assert!(Instant::now() < limit, "{} does not stop", self.pid);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn is_stopped(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses and may hold any.
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
            state.is_none_or(|state| matches!(state, b'T' | b't' | b'Z' | b'X'))
        })
    }

    /// The exit code (128 + n after signal n), or None while it runs.
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = self.guard.try_wait().expect("the guard is our child")?;
        Some(status.code().expect("nobody kills the guard"))
    }

    /// Waits for its end and gives the exit code.
    pub async fn wait(&mut self, limit: Duration) -> i32 {
        let what = format!("process {} ends", self.pid);
        eventually(&what, limit, || std::future::ready(self.exit_code().is_some())).await;
        self.exit_code().expect("waited for")
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(30)).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.guard.try_wait(), Ok(None)) {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.guard.wait();
        }
    }
}
