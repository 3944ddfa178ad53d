//! The server against its own document, by schemathesis: requests that the document allows and requests that it does not,
//! made up by the thousand, and every answer held to it. What is checked, and why where a check needs help, stands in
//! `tests/schemathesis`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use chat_tests::{
    Database, Kind, Server,
    documents::Document,
    guard::{Process, temporary_folder},
    plain,
    server::{now, token},
    sized,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

/// One after the other and in full, the phases take two minutes of an idle machine.
const LIMIT: Duration = Duration::from_secs(1200);

/// Each in a process of its own, on a server of its own: what one of them makes up does not depend on the others.
const PHASES: [&str; 3] = ["examples,coverage", "fuzzing", "stateful"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_does_what_its_document_says() {
    let with_key = join_all(PHASES.map(of_a_user));
    let (with_key, without_key) = tokio::join!(with_key, of_nobody());
    let mut report = Report::default();
    for run in with_key.iter().chain([&without_key]) {
        report.add(run);
    }

    let document = Document::openapi().await;
    let mut operations = BTreeSet::new();
    for (path, item) in document.at("/paths").as_object().unwrap() {
        operations.extend(
            item.as_object()
                .unwrap()
                .keys()
                .map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    report.check(&operations);
}

/// For a user who has data, and who is a service: with the scopes, what only they allow is reached too.
async fn of_a_user(phases: &str) -> Run {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let data = write_data(&server).await;
    let claims = json!({"sub": "alice", "exp": now() + 7200, "scope": "chat.send_as chat.read_all"});
    let which = [
        "--phases",
        phases,
        "--exclude-operation-id",
        "create_development_token",
    ];
    let run = explore(&server, &token(&claims), &data, &which).await;
    let verified = server.run(&["verify"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
    run
}

/// The one door that is only there without a key.
async fn of_nobody() -> Run {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start_for_development(&database, &[]).await;
    let which = ["--include-operation-id", "create_development_token"];
    let data = json!({"messages": [], "cursors": []});
    explore(&server, "none", &data, &which).await
}

/// Messages both ways, one of bytes, one received; returns their ids and cursors.
async fn write_data(server: &Server) -> Value {
    let (alice, bob) = (server.client("alice"), server.client("bob"));
    let mut messages = Vec::new();
    for n in 0..20 {
        let (from, to) = if n % 2 == 0 {
            (&alice, "bob")
        } else {
            (&bob, "alice")
        };
        let sent = from.send(to, &format!("message {n}"), None).await.unwrap();
        messages.push(sent["_id"].clone());
    }
    let bytes = json!({"receiver_id": "bob", "data": "iVBORw0KGgo=", "content_type": "image/png"});
    messages.push(alice.send_body(&bytes, None).await.unwrap()["_id"].clone());
    bob.receipt("received", messages[4].as_i64().unwrap())
        .await
        .unwrap();
    let page = alice.poll("0", 0).await.unwrap();
    let cursors: Vec<_> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["cursor"].clone())
        .collect();
    json!({"messages": messages, "cursors": cursors})
}

struct Run {
    code: i32,
    folder: TempDir,
}

impl Run {
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

fn settings_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis")
}

async fn explore(server: &Server, token: &str, data: &Value, which: &[&str]) -> Run {
    let program = plain::folder().join(".venv/bin/st");
    assert!(
        program.exists(),
        "{} is missing: run tests/prepare",
        program.display()
    );
    let folder = temporary_folder("schemathesis");
    let output = |name: &str| File::create(folder.path().join(name)).unwrap();
    let mut process = Process::start(&program, |command| {
        command
            .arg("--config-file")
            .arg(settings_folder().join("schemathesis.toml"))
            .args(["--no-color", "run", &format!("{}/openapi.json", server.url())])
            .args(which)
            .args(["--max-examples", sized("40", "300")])
            .args(["--report", "ndjson", "--report-ndjson-path", "report.ndjson"])
            .current_dir(folder.path())
            .env("CHAT_TEST_TOKEN", token)
            .env("CHAT_TEST_DATA", data.to_string())
            .env("CHAT_TEST_HOOKS", settings_folder().join("hooks.py"))
            // Whatever proxy this machine has for the world is not for 127.0.0.1.
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(output("stdout"))
            .stderr(output("stderr"));
    })
    .await;
    let code = process.wait(LIMIT).await;
    Run { code, folder }
}

/// The statuses of all answers, by operation.
#[derive(Default)]
struct Report {
    statuses: BTreeMap<String, BTreeMap<u64, usize>>,
    checks: BTreeSet<String>,
    phases: BTreeSet<String>,
}

impl Report {
    fn add(&mut self, run: &Run) {
        // The end of its output is the list of what it found, with how to do it again.
        assert_eq!(run.code, 0, "{}\n{}", run.read("stdout"), run.read("stderr"));
        for line in run.read("report.ndjson").lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let Some(scenario) = event.get("ScenarioFinished") else {
                continue;
            };
            assert!(
                ["success", "skip"].contains(&scenario["status"].as_str().unwrap()),
                "{scenario}"
            );
            self.phases.insert(scenario["phase"].as_str().unwrap().to_owned());
            self.add_scenario(&scenario["recorder"]);
        }
    }

    fn add_scenario(&mut self, recorder: &Value) {
        for (id, interaction) in recorder["interactions"].as_object().into_iter().flatten() {
            let status = interaction["response"]["status_code"]
                .as_u64()
                .unwrap_or_default();
            let case = &recorder["cases"][id]["value"];
            // A scenario of several operations is called otherwise; one of a single operation tries other methods too.
            let operation = match recorder["label"].as_str().unwrap() {
                "Stateful tests" => format!(
                    "{} {}",
                    case["method"].as_str().unwrap(),
                    case["path"].as_str().unwrap()
                ),
                label => label.to_owned(),
            };
            *self
                .statuses
                .entry(operation)
                .or_default()
                .entry(status)
                .or_default() += 1;
        }
        for check in recorder["checks"]
            .as_object()
            .into_iter()
            .flatten()
            .flat_map(|(_, checks)| checks.as_array().unwrap())
        {
            assert_eq!(check["status"], "success", "{check}");
            self.checks.insert(check["name"].as_str().unwrap().to_owned());
        }
    }

    fn check(&self, operations: &BTreeSet<String>) {
        let statuses = &self.statuses;
        assert_eq!(&statuses.keys().cloned().collect::<BTreeSet<_>>(), operations);
        let total: usize = statuses.values().flat_map(BTreeMap::values).sum();
        for (operation, statuses) in statuses {
            let all: usize = statuses.values().sum();
            let done: usize = statuses
                .iter()
                .filter(|(status, _)| (200..300).contains(*status))
                .map(|(_, count)| count)
                .sum();
            println!(
                "{operation}: {all} cases, {}% 2xx: {statuses:?}",
                done * 100 / all
            );
            assert!(done * 100 >= all * 20, "{operation}: {done} of {all}");
            assert!(
                statuses.keys().all(|status| (200..500).contains(status)),
                "{operation}: {statuses:?}"
            );
            // What takes nothing has not much that could be made up.
            let least = if operation.ends_with('z') {
                5
            } else {
                sized(30, 100)
            };
            assert!(all >= least, "{operation}: {all} cases");
        }
        println!("{total} cases; checks: {:?}", self.checks);
        assert!(total >= sized(500, 2000), "{total} cases");
        let phases = ["examples", "coverage", "fuzzing", "stateful"].map(String::from);
        assert!(
            phases.iter().all(|phase| self.phases.contains(phase)),
            "{:?}",
            self.phases
        );
        for check in [
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_headers_conformance",
            "response_schema_conformance",
            "negative_data_rejection",
            "positive_data_acceptance",
            "missing_required_header",
            "unsupported_method",
            "allow_header_conformance",
            "use_after_free",
            "ensure_resource_availability",
            "ignored_auth",
            "object_level_authorization",
        ] {
            assert!(self.checks.contains(check), "{check} was not made");
        }
    }
}
