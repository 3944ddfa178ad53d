//! What `/metrics` says is right, is in the docs, and is what the board and the alerts ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use chat_api::problem::Code;
use chat_tests::{
    Database, Kind, Server, eventually, free_port,
    metrics::{metric, shown_at, value},
    on_each_database, run,
};
use serde_json::Value;

use super::LIMIT;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A family as Prometheus' parser reads it.
struct Family {
    kind: String,
    help: String,
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// By name, a counter's with `_total`.
fn parse(shown: &str) -> BTreeMap<String, Family> {
    let clients: PathBuf = repository().join("tests/clients");
    let mut python = Command::new(clients.join(".venv/bin/python"))
        .arg(clients.join("metrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tests/prepare makes the venv");
    python.stdin.take().unwrap().write_all(shown.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{shown}");
    let families: Value = serde_json::from_slice(&output.stdout).unwrap();
    let family = |family: &Value| {
        let text = |name: &str| family[name].as_str().unwrap().to_string();
        let sample = |sample: &Value| {
            let labels = sample[1].as_object().unwrap().iter();
            let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_string()));
            // What is infinite is no number in JSON, and none of ours is.
            (
                sample[0].as_str().unwrap().to_string(),
                labels.collect(),
                sample[2].as_f64().unwrap(),
            )
        };
        let (mut name, kind) = (text("name"), text("type"));
        if kind == "counter" {
            name += "_total";
        }
        let samples = family["samples"].as_array().unwrap().iter().map(sample).collect();
        (
            name,
            Family {
                kind,
                help: text("help"),
                samples,
            },
        )
    };
    families.as_array().unwrap().iter().map(family).collect()
}

/// Two nodes on one database, or one on SQLite, whose readers have seen what each of them wrote.
struct Nodes {
    database: Database,
    servers: Vec<(Server, u16)>,
}

const SENDS: usize = 20;

/// What is shown once it is so, or else in the end: a look at a machine that is busy may find what passes by itself. So it
/// has to be at two looks one after the other: what is counted too often goes past it.
async fn shown_once(port: u16, is_so: impl Fn(&str) -> bool) -> String {
    const BETWEEN: Duration = Duration::from_millis(250);
    let begin = Instant::now();
    let mut was_so = false;
    loop {
        let shown = shown_at(port).await;
        let is_so = is_so(&shown);
        if (was_so && is_so) || begin.elapsed() > LIMIT / 2 {
            return shown;
        }
        was_so = is_so;
        let pause = if is_so { BETWEEN } else { Duration::from_millis(10) };
        tokio::time::sleep(pause).await;
    }
}

impl Nodes {
    async fn busy(kind: Kind) -> Self {
        let database = Database::fresh(kind).await;
        let mut servers = Vec::new();
        for _ in 0..if kind == Kind::Sqlite { 1 } else { 2 } {
            let port = free_port();
            let admin = format!("127.0.0.1:{port}");
            servers.push((
                Server::start(&database, &[("CHAT_ADMIN_LISTEN", &admin)]).await,
                port,
            ));
        }
        let mut streams = Vec::new();
        for (server, _) in &servers {
            let mut stream = server.client("bob").events(None).await.unwrap();
            stream.named("ready", LIMIT).await;
            streams.push(stream);
        }
        let alice = servers[0].0.client("alice");
        for n in 0..SENDS {
            alice.send("bob", &n.to_string(), None).await.unwrap();
        }
        for stream in &mut streams {
            stream.take(SENDS, LIMIT).await;
        }
        // A cursor of nobody's, and somebody who has everything to read still.
        let reset = servers[0]
            .0
            .client("carol")
            .poll("zzzzzzzz:5", 0)
            .await
            .unwrap_err();
        assert_eq!(reset.code, "cursor_reset");
        let page = servers[0].0.client("bob").poll("0", 0).await.unwrap();
        assert_eq!(page["events"].as_array().unwrap().len(), SENDS);
        for (_, port) in &servers {
            let port = *port;
            eventually("the tail and the projector are at the head", LIMIT, || async {
                let shown = shown_at(port).await;
                let zero = |name| value(&shown, name) == 0.0;
                value(&shown, "chat_tail_position") == SENDS as f64 && zero("chat_projector_lag_events")
            })
            .await;
            // The streams are at an end, and what they counted is counted.
            assert_eq!(metric(port, r#"chat_connections{door="sse"}"#).await, 1.0);
        }
        drop(streams);
        Self { database, servers }
    }
}

on_each_database! {
    async fn what_happened_is_what_is_shown(kind) {
        let nodes = Nodes::busy(kind).await;
        let sends = SENDS as f64;
        let expected = [
            ("chat_sends_total", sends),
            (r#"chat_deliveries_total{door="sse"}"#, sends),
            (r#"chat_deliveries_total{door="long_poll"}"#, sends),
            ("chat_batch_commands_sum", sends),
            (r#"chat_resets_total{reason="other_epoch"}"#, 1.0),
            ("chat_log_head_position", sends),
            ("chat_tail_position", sends),
            ("chat_tail_lag_events", 0.0),
            ("chat_tail_gap_seconds", 0.0),
            ("chat_writer_queue_commands", 0.0),
            ("chat_database_connections_limit", 8.0),
            ("chat_database_up", 1.0),
            ("chat_ready", 1.0),
            (r#"chat_subscriptions{state="catching_up"}"#, 0.0),
            (r#"chat_rejections_total{code="cursor_reset",door="long_poll"}"#, 1.0),
        ];
        let is_so = |shown: &str| expected.iter().all(|(name, expected)| value(shown, name) == *expected);
        let shown = shown_once(nodes.servers[0].1, is_so).await;
        for (name, expected) in expected {
            assert_eq!(value(&shown, name), expected, "{name} in {shown}");
        }
        assert_eq!(value(&shown, "chat_batch_commands_count"), value(&shown, "chat_batch_commit_seconds_count"));
        for above_zero in [
            "chat_batch_commit_seconds_sum",
            r#"chat_delivery_seconds_sum{written="here"}"#,
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            assert!(value(&shown, above_zero) > 0.0, "{above_zero} in {shown}");
        }
        assert!(value(&shown, "process_max_fds") > value(&shown, "process_open_fds"));
        // What the tail's own look at the database found before the writer had told of it is not from here.
        let written = |place| value(&shown, &format!(r#"chat_delivery_seconds_count{{written="{place}"}}"#));
        assert!(written("here") > 0.0 && written("here") + written("elsewhere") == sends, "{shown}");
        // The other node's readers got everything from its tail.
        if let Some((_, port)) = nodes.servers.get(1) {
            let from_there = |shown: &str| value(shown, r#"chat_delivery_seconds_count{written="elsewhere"}"#);
            let shown = shown_once(*port, |shown| from_there(shown) == sends).await;
            assert_eq!(from_there(&shown), sends, "{shown}");
            assert_eq!(value(&shown, "chat_batch_commands_count"), 0.0, "{shown}");
        }
    }

    /// By these the alert tells nodes that write to different databases.
    async fn the_server_and_the_epoch_that_a_node_writes_to_are_shown(kind) {
        let nodes = Nodes::busy(kind).await;
        let database = &nodes.database;
        let epoch = async || database.text("SELECT epoch FROM log_head").await;
        let is = |shown: &str, epoch: &str, figure: &str| {
            let series = shown.lines().filter(|line| line.starts_with("chat_log_info{") && line.ends_with(&format!(" {figure}")));
            series.filter(|line| line.contains(&format!("epoch=\"{epoch}\""))).count() == 1
        };
        let server_of = |shown: &str| {
            let line = shown.lines().find(|line| line.starts_with("chat_log_info{") && line.ends_with(" 1")).unwrap();
            line.split("server=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let before = epoch().await;
        let mut servers = BTreeSet::new();
        for (_, port) in &nodes.servers {
            let shown = shown_once(*port, |shown| is(shown, &before, "1")).await;
            assert!(is(&shown, &before, "1"), "{shown}");
            servers.insert(server_of(&shown));
        }
        assert_eq!(servers.len(), 1, "all nodes write to one: {servers:?}");
        assert_eq!(servers.first().unwrap().is_empty(), kind == Kind::Sqlite, "{servers:?}");

        let begun = run(database, &["epoch", "new"], &[]).await;
        assert_eq!(begun.code, 0, "{begun:?}");
        let (node, port) = &nodes.servers[0];
        node.client("alice").send("bob", "in the new one", None).await.unwrap();
        let after = epoch().await;
        let is_so = |shown: &str| is(shown, &after, "1") && is(shown, &before, "0");
        let shown = shown_once(*port, is_so).await;
        assert!(is_so(&shown), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_reads_it_and_the_docs_and_the_board_and_the_alerts_know_it() {
    let nodes = Nodes::busy(Kind::Sqlite).await;
    let families = parse(&shown_at(nodes.servers[0].1).await);
    for (name, family) in &families {
        assert!(family.help.len() > 20, "{name} has no help");
        assert!(!family.samples.is_empty(), "{name} has no samples");
        if family.kind == "histogram" {
            assert_histogram(name, family);
        }
    }

    let documented = documented(&read("docs/operations.md"));
    let shown: BTreeMap<_, _> = families
        .iter()
        .map(|(name, family)| (name.clone(), family.kind.clone()))
        .collect();
    assert_eq!(documented, shown, "docs/operations.md beside /metrics");

    let board: Value = serde_json::from_str(&read("docker/grafana/chat-system.json")).unwrap();
    let mut expressions = Vec::new();
    collect(&board, "expr", &mut expressions);
    assert!(expressions.len() > 15, "{expressions:?}");
    let rules = read("docker/prometheus/rules.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let alerts: Vec<_> = alerts.map(|line| line.trim_matches('\'').to_string()).collect();
    assert_eq!(
        alerts.len(),
        rules.matches("- alert: ").count(),
        "each on one line"
    );
    for expression in expressions.iter().chain(&alerts) {
        assert_known(expression, &families);
    }

    // The alert on refusals knows each code that is the server's own fault, and waits for none that passes by itself.
    let known: BTreeSet<_> = families["chat_rejections_total"]
        .samples
        .iter()
        .map(|(_, labels, _)| labels["code"].as_str())
        .collect();
    for code in Code::ALL.iter().filter(|code| code.status().is_server_error()) {
        assert!(
            known.contains(code.as_str()),
            "{code:?} is there from the beginning"
        );
    }
    let refusals = alerts
        .iter()
        .find(|line| line.contains("chat_rejections_total"))
        .unwrap();
    let named = refusals
        .split("code=~\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let named: BTreeSet<_> = named.split('|').collect();
    // These are said while a server begins or ends, to whoever asks whether it is ready, and where a client is at a limit
    // of its own.
    let expected = ["starting", "shutdown", "not_ready", "too_many_connections"];
    let expected: BTreeSet<_> = Code::ALL
        .iter()
        .filter(|code| code.status().is_server_error() && !expected.contains(&code.as_str()))
        .map(|code| code.as_str())
        .collect();
    assert_eq!(named, expected);
}

/// Buckets never decrease, and the last one has all.
fn assert_histogram(name: &str, family: &Family) {
    let mut by_labels: BTreeMap<Vec<_>, (Vec<f64>, f64)> = BTreeMap::new();
    for (sample, labels, value) in &family.samples {
        let others = labels.iter().filter(|(name, _)| *name != "le").collect();
        let (buckets, count) = by_labels.entry(others).or_default();
        if sample.ends_with("_bucket") {
            buckets.push(*value);
        } else if sample.ends_with("_count") {
            *count = *value;
        }
    }
    for (labels, (buckets, count)) in by_labels {
        assert!(
            buckets.len() > 10 && buckets.is_sorted(),
            "{name} {labels:?}: {buckets:?}"
        );
        assert_eq!(buckets.last(), Some(&count), "{name} {labels:?}");
    }
}

/// The rows of the section "Metrics": the name and the kind.
fn documented(docs: &str) -> BTreeMap<String, String> {
    let section = docs
        .split("\n## Metrics\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        Some((name.to_string(), cells.next()?.to_string()))
    };
    section.lines().filter_map(row).collect()
}

fn collect(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == name => found.push(text.clone()),
                    _ => collect(value, name, found),
                }
            }
        }
        Value::Array(array) => array.iter().for_each(|value| collect(value, name, found)),
        _ => {}
    }
}

/// Every metric of an expression is shown, and so are the labels that it is chosen by.
fn assert_known(expression: &str, families: &BTreeMap<String, Family>) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut metrics = 0;
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '"') {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = text.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        if !name.starts_with("chat_") && !name.starts_with("process_") {
            continue;
        }
        metrics += 1;
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            families.get(base).filter(|family| family.kind == "histogram")
        });
        let family = families
            .get(name)
            .or(base)
            .unwrap_or_else(|| panic!("{name} is not shown: {expression}"));
        assert_eq!(base.is_some(), family.kind == "histogram", "{name}: {expression}");
        let Some(chosen) = after.strip_prefix('{') else {
            continue;
        };
        for term in chosen.split('}').next().unwrap().split(',') {
            let label: String = term.trim().chars().take_while(|c| is_name(*c)).collect();
            // Prometheus adds these to whatever it reads.
            let known = ["instance", "job"].contains(&label.as_str())
                || family
                    .samples
                    .iter()
                    .any(|(_, labels, _)| labels.contains_key(&label));
            assert!(known, "{label} is no label of {name}: {expression}");
        }
    }
    assert!(metrics > 0, "no metric of ours: {expression}");
}
