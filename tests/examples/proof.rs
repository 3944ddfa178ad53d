//! `make proof`: a run for `PROOF_MINUTES` (10) on `PROOF_DATABASE` (mariadb), which `PROOF_SEED` repeats. `PROOF_HISTORY`
//! names the file that the history is kept in. Ends with 1 where the checker finds anything.

use std::{env, process::ExitCode, time::Duration};

use chat_tests::{
    Kind,
    proof::run::{Plan, run},
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let minutes: f64 = variable("PROOF_MINUTES", "10")
        .parse()
        .expect("PROOF_MINUTES is a number");
    let kind = match variable("PROOF_DATABASE", "mariadb").as_str() {
        "sqlite" => Kind::Sqlite,
        "mariadb" => Kind::MariaDb,
        "mysql" => Kind::MySql,
        other => panic!("PROOF_DATABASE is sqlite, mariadb or mysql, and not {other}"),
    };
    let findings = run(&Plan::new(kind, Duration::from_secs_f64(minutes * 60.0))).await;
    ExitCode::from(u8::from(!findings.violations.is_empty()))
}

fn variable(name: &str, default: &str) -> String {
    let value = env::var(name).unwrap_or_default();
    if value.is_empty() {
        default.to_owned()
    } else {
        value
    }
}
