//! Backup and restore as `docs/operations.md` says it: its own commands are run, as the users that it names. What
//! readers are told afterwards is asserted on every door, for those who come back and for those who never left.
//!
//! What begins a new epoch by itself, and what a fail-over does, is tested in `failover`.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chat_tests::{
    Client, Database, DatabaseServer, Kind, Server, databases, eventually,
    guard::temporary_folder,
    inside::{self, log},
    listener::Door,
    markdown::Document,
    on_each_database, sized,
    socketio::SocketIo,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);
const BEAT: (&str, &str) = ("CHAT_HEARTBEAT_S", "1");
const KEPT: i64 = 40;

/// How many messages are sent after the backup, and go with it.
fn count_lost() -> usize {
    sized(100, 1000)
}

/// How many are sent afterwards: more, so that their numbers would pass those that were lost.
fn count_new() -> usize {
    count_lost() + 100
}

/// Sends so many messages, some at a time; gives their numbers, in order.
async fn send(from: &Client, name: &str, count: usize) -> Vec<i64> {
    let texts: Vec<_> = (0..count).map(|n| format!("{name}-{n}")).collect();
    let mut sent = Vec::new();
    for some in texts.chunks(50) {
        let sends = some.iter().map(|text| from.send("bob", text, Some(text)));
        let answers = join_all(sends).await;
        sent.extend(
            answers
                .into_iter()
                .map(|message| message.unwrap()["_id"].as_i64().unwrap()),
        );
    }
    sent.sort_unstable();
    sent
}

/// The commands of the document under two headings, in one language.
fn documented(section: &str, part: &str, language: &str) -> Vec<String> {
    let document = Document::read(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/operations.md"
    )));
    let blocks = document.blocks_under(section, language);
    let of_part = blocks
        .into_iter()
        .filter(|block| block.under.iter().any(|name| name == part));
    of_part.map(|block| block.text.clone()).collect()
}

/// The one that begins with a program.
fn command(section: &str, part: &str, program: &str) -> String {
    let mut blocks = documented(section, part, "sh");
    blocks.retain(|block| block.split_whitespace().next() == Some(program));
    let [block] = &blocks[..] else {
        panic!("{section}, {part}: one block that begins with {program}, not {blocks:?}")
    };
    block.clone()
}

/// Where an operator works: a folder with what the document says is in it.
struct Desk {
    folder: TempDir,
    path: String,
    url: String,
}

impl Desk {
    fn new(programs: Option<&Path>, url: &str) -> Desk {
        let folder = temporary_folder("desk");
        // target/PROFILE, where the binary is and, in deps, this test.
        let own = match env::var_os("SERVER_BINARY") {
            Some(binary) => Path::new(&binary).parent().unwrap().to_owned(),
            None => env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned(),
        };
        let folders = [Some(own.as_path()), programs].into_iter().flatten();
        let mut path: String = folders.map(|folder| format!("{}:", folder.display())).collect();
        path += &env::var("PATH").unwrap();
        Desk {
            folder,
            path,
            url: url.to_owned(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The option file of the document for another user.
    fn options(&self, name: &str, port: u16, user: &str, password: &str) {
        let [text] = &documented("Backup", "MySQL and MariaDB", "ini")[..] else {
            panic!("one option file")
        };
        let replaced = [
            ("port = 3306", format!("port = {port}")),
            ("user = backup", format!("user = {user}")),
            ("…", password.into()),
        ];
        let text = replaced.iter().fold(text.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        });
        fs::write(self.file(name), text).unwrap();
    }

    async fn run(&self, script: &str) -> String {
        let mut command = Command::new("bash");
        command
            .args(["-euc", script])
            .current_dir(self.folder.path())
            .env("PATH", &self.path)
            .env("CHAT_DATABASE_URL", &self.url)
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{text}");
        text
    }
}

/// What a door says to somebody who comes with a cursor, and the first position after it.
type Told = (String, Value, Option<i64>);

/// Asks until it is told: a node that is not as far as the cursor yet says that it is to be asked later.
async fn told(door: Door, server: &Server, after: &str) -> Told {
    let begun = Instant::now();
    loop {
        if let Some(told) = told_once(door, server, after).await {
            return told;
        }
        assert!(
            begun.elapsed() < LIMIT,
            "{door:?} after {after}: it only says later"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// What it says, or nothing where the node says that it is to be asked later.
async fn told_once(door: Door, server: &Server, after: &str) -> Option<Told> {
    let first = |event: &Value| event["position"].as_i64();
    match door {
        Door::Stream => {
            let mut events = server.client("bob").events(Some(after)).await.unwrap();
            let frame = events.next(LIMIT).await.unwrap();
            let position = match frame.event.as_str() {
                "closing" => {
                    assert_eq!(frame.data["code"], "starting", "{frame:?}");
                    return None;
                }
                "ready" => first(&events.event(LIMIT).await),
                _ => None,
            };
            Some((frame.event, frame.data, position))
        }
        Door::LongPoll => match server.client("bob").poll(after, 20).await {
            Ok(page) => Some(("ready".into(), page.clone(), first(&page["events"][0]))),
            Err(problem) if problem.status == 503 => {
                assert_eq!(problem.code, "starting", "{problem}");
                None
            }
            Err(problem) => {
                assert_eq!((problem.status, problem.code.as_str()), (410, "cursor_reset"));
                Some(("reset".into(), problem.body, None))
            }
        },
        Door::Websocket | Door::Polling => {
            let transport = door.transport().unwrap();
            let token = server.token("bob");
            let mut socket = SocketIo::connect(transport, &server.url(), &token, Some(after))
                .await
                .unwrap();
            let (name, data) = socket.event(LIMIT).await;
            let position = match name.as_str() {
                "closing" => {
                    assert_eq!(data["code"], "starting", "{data}");
                    return None;
                }
                "ready" => first(&socket.named("event", LIMIT).await),
                _ => None,
            };
            Some((name, data, position))
        }
    }
}

/// On every door: a cursor from before the backup goes on with the next event, one past it gets `reset`, also where
/// the numbers have long passed it.
async fn is_told(server: &Server, database: &Database, old: &str) {
    let log: Vec<_> = log(database, 0)
        .await
        .iter()
        .map(|event| event.position)
        .collect();
    let lost = KEPT + i64::try_from(count_lost()).unwrap();
    for door in Door::ALL {
        for position in [1, KEPT - 1, KEPT, KEPT + 1, lost - 1, lost, lost + 1] {
            let (name, data, next) = told(door, server, &format!("{old}:{position}")).await;
            let what = format!("{door:?} after {position}: {name} {data}");
            if position <= KEPT {
                let expected = log.iter().copied().find(|other| *other > position);
                assert_eq!((name.as_str(), next), ("ready", expected), "{what}");
            } else {
                assert_eq!(
                    (name.as_str(), &data["reason"]),
                    ("reset", &"other_epoch".into()),
                    "{what}"
                );
            }
        }
    }
}

/// The users that the document makes, on a server of the test's own.
async fn with_documented_users(kind: Kind) -> (DatabaseServer, Database, String) {
    let server = DatabaseServer::dedicated(kind, &[]).await;
    let [nodes] = &documented("The database", "MySQL and MariaDB", "sql")[..] else {
        panic!("one block makes the nodes' user")
    };
    let [backup] = &documented("Backup", "MySQL and MariaDB", "sql")[..] else {
        panic!("one block makes the user of backups")
    };
    let password = "a-password-of-this-test".to_string();
    for block in [nodes, backup] {
        assert!(block.contains('…'), "{block}");
        server.execute(&block.replace('…', &password)).await;
    }
    let database = server.named("chat", "chat", &password).await;
    (server, database, password)
}

async fn epoch(database: &Database) -> String {
    database.text("SELECT epoch FROM log_head").await
}

async fn restored_from_a_dump(kind: Kind) {
    let (server, database, password) = with_documented_users(kind).await;
    let programs = (kind == Kind::MySql).then(|| server.program_folder());
    let desk = Desk::new(programs, &database.url());
    desk.options("backup.cnf", server.port(), "backup", &password);
    desk.options("restore.cnf", server.port(), "chat", &password);
    let (dump, restore) = match kind {
        Kind::MySql => ("mysqldump", "mysql"),
        _ => ("mariadb-dump", "mariadb"),
    };
    let dump = command("Backup", "MySQL and MariaDB", dump);
    let restore = command("Restore", "MySQL and MariaDB", restore);

    let mut node = Server::start(&database, &[BEAT]).await;
    let old = epoch(&database).await;
    send(&node.client("alice"), "kept", usize::try_from(KEPT).unwrap()).await;
    // Bytes that mean something to a database's client.
    let odd = json!({"receiver_id": "bob", "data": "AAECJyJcCg0aJQD/", "content_type": "x/y"});
    let before = node.client("alice").history(&[("with", "bob")]).await.unwrap()["messages"].clone();
    desk.run(&dump).await;
    node.client("alice").send_body(&odd, None).await.unwrap();
    send(&node.client("alice"), "lost", count_lost() - 1).await;
    node.stop().await;

    database.another_second().await;
    let said = desk.run(&restore).await;
    assert!(said.contains(&format!("head at {KEPT}")), "{said}");
    node.restart().await;
    assert!(
        node.log()
            .contains("a new epoch begins, for the log may have lost its end"),
        "{}",
        node.log()
    );
    assert_eq!(
        node.client("alice").history(&[("with", "bob")]).await.unwrap()["messages"],
        before
    );
    let new = send(&node.client("alice"), "new", count_new()).await;
    assert!(new[0] > 1_000_000 && new.len() > count_lost());
    is_told(&node, &database, &old).await;
    assert_eq!(node.run(&["verify"]).await.code, 0);

    // A dump while somebody writes is one moment of the log: it is whole, whatever it has and has not.
    let writer = node.client("carol");
    let (stop, sent) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let writing = tokio::spawn({
        let (stop, sent) = (stop.clone(), sent.clone());
        async move {
            while !stop.is_cancelled() {
                let burst = (0..20).map(|_| writer.send("bob", "meanwhile", None));
                sent.fetch_add(join_all(burst).await.len(), Ordering::Relaxed);
            }
        }
    });
    let mut copies = Vec::new();
    for round in 0..3 {
        let before = sent.load(Ordering::Relaxed);
        eventually("somebody writes", LIMIT, || async {
            sent.load(Ordering::Relaxed) >= before + 40
        })
        .await;
        desk.run(&dump).await;
        let copy = server.fresh().await;
        let other = Desk::new(programs, &copy.url());
        fs::rename(desk.file("chat.sql"), other.file("chat.sql")).unwrap();
        let (user, password, name) = copy.login();
        other.options("restore.cnf", server.port(), &user, &password);
        let said = other
            .run(&restore.replace(" chat <", &format!(" {name} <")))
            .await;
        assert!(said.contains("everything agrees"), "{round}: {said}");
        copies.push(copy.number("SELECT position FROM log_head").await);
    }
    stop.cancel();
    writing.await.unwrap();
    assert!(sent.load(Ordering::Relaxed) > 100);
    assert!(copies.is_sorted() && copies[0] < copies[2], "{copies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_dump_and_its_restore_on_mariadb() {
    restored_from_a_dump(Kind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_dump_and_its_restore_on_mysql() {
    if !databases::not_run(Kind::MySql, "the_documents_dump_and_its_restore_on_mysql").await {
        restored_from_a_dump(Kind::MySql).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_copy_and_its_restore_on_sqlite() {
    let mut database = Database::fresh(Kind::Sqlite).await;
    let desk = Desk::new(None, &database.url());
    symlink(database.file().parent().unwrap(), desk.file("data")).unwrap();
    let mut node = Server::start(&database, &[BEAT]).await;
    let old = epoch(&database).await;
    send(&node.client("alice"), "kept", usize::try_from(KEPT).unwrap()).await;
    desk.run(&command("Backup", "SQLite", "sqlite3")).await;
    send(&node.client("alice"), "lost", count_lost()).await;
    node.stop().await;
    drop(node);
    // The nodes' URL is not the copy's: the commands say themselves which file they mean.
    let said = desk.run(&command("Restore", "SQLite", "cp")).await;
    assert!(
        said.contains(&format!("the epoch {old} ended at {KEPT}")),
        "{said}"
    );
    assert_eq!(
        fs::read_dir(desk.folder.path())
            .unwrap()
            .filter(|entry| {
                entry
                    .as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("restored")
            })
            .count(),
        0,
        "nothing of the copy is left beside it"
    );
    // The connection of the test's own is to the file that was replaced.
    database.reopen().await;
    let node = Server::start(&database, &[BEAT]).await;
    let new = send(&node.client("alice"), "new", count_new()).await;
    assert_eq!(new[0], 1_000_000 + KEPT + 1);
    is_told(&node, &database, &old).await;
    assert_eq!(node.run(&["verify"]).await.code, 0);
}

/// Somebody who never leaves, on one door: everything that it is told, up to a text. `at` is where it has come to.
async fn watch(door: Door, server: &Server, end: &str, at: &AtomicI64) -> (Vec<(i64, String)>, Vec<Value>) {
    let (mut seen, mut resets) = (Vec::new(), Vec::new());
    let note = |seen: &mut Vec<(i64, String)>, event: &Value| {
        let text = event["message"]["text"].as_str().unwrap().to_owned();
        seen.push((event["position"].as_i64().unwrap(), text.clone()));
        at.store(event["position"].as_i64().unwrap(), Ordering::SeqCst);
        text == end
    };
    match door {
        Door::Stream => {
            let mut events = server.client("bob").events(Some("0")).await.unwrap();
            loop {
                let frame = events.next(LIMIT).await.expect("the stream stays open");
                match frame.event.as_str() {
                    "reset" => resets.push(frame.data),
                    "message" | "event" if note(&mut seen, &frame.data) => return (seen, resets),
                    _ => {}
                }
            }
        }
        Door::LongPoll => {
            let mut cursor = "0".to_owned();
            loop {
                match server.client("bob").poll(&cursor, 5).await {
                    Ok(page) => {
                        cursor = page["cursor"].as_str().unwrap().to_owned();
                        let events = page["events"].as_array().unwrap();
                        let mut ended = false;
                        for event in events {
                            ended |= note(&mut seen, event);
                        }
                        if ended {
                            return (seen, resets);
                        }
                    }
                    Err(problem) if problem.status == 410 => {
                        cursor = problem.body["cursor"].as_str().unwrap().to_owned();
                        resets.push(problem.body);
                    }
                    Err(problem) => assert_eq!(problem.status, 503, "{problem}"),
                }
            }
        }
        Door::Websocket | Door::Polling => {
            let transport = door.transport().unwrap();
            let token = server.token("bob");
            let mut socket = SocketIo::connect(transport, &server.url(), &token, Some("0"))
                .await
                .unwrap();
            loop {
                match socket.event(LIMIT).await {
                    (name, data) if name == "reset" => resets.push(data),
                    (name, data) if name == "event" && note(&mut seen, &data) => return (seen, resets),
                    _ => {}
                }
            }
        }
    }
}

on_each_database! {
    /// The head goes back under a node that runs and whose readers stay: each is told, on its own door, and none sees
    /// two things under one number.
    async fn readers_who_stay_are_told_on_every_door_when_the_head_goes_back(kind) {
        let database = Database::fresh(kind).await;
        let server = Arc::new(Server::start(&database, &[BEAT]).await);
        let at: Arc<[AtomicI64; 4]> = Arc::default();
        let watching: Vec<_> = Door::ALL.into_iter().enumerate().map(|(n, door)| {
            let (server, at) = (server.clone(), at.clone());
            tokio::spawn(async move { watch(door, &server, "the-end", &at[n]).await })
        }).collect();
        send(&server.client("alice"), "kept", 20).await;
        send(&server.client("alice"), "lost", 30).await;
        eventually("all have seen what will be lost", LIMIT, || async {
            at.iter().all(|at| at.load(Ordering::SeqCst) == 50)
        }).await;
        inside::go_back(&database, 20).await;
        eventually("a new epoch", LIMIT, || async {
            database.number("SELECT COUNT(*) FROM epochs").await == 1
        }).await;
        eventually("the node has noticed", LIMIT, || async { server.log().contains("log truncated") }).await;
        let new = send(&server.client("alice"), "new", 40).await;
        let last = server.client("alice").send("bob", "the-end", None).await.unwrap()["_id"].as_i64().unwrap();
        for (door, watched) in Door::ALL.into_iter().zip(watching) {
            let (seen, mut resets) = watched.await.unwrap();
            // Who asks before the node has noticed is told so, too.
            if door == Door::LongPoll {
                resets.retain(|reset| reset["reason"] != "ahead");
            }
            assert_eq!(resets.len(), 1, "{door:?}: {resets:?}");
            assert_eq!(resets[0]["reason"], "other_epoch", "{door:?}");
            let mut numbers: Vec<_> = seen.iter().map(|(position, _)| *position).collect();
            assert!(numbers.is_sorted(), "{door:?}: {numbers:?}");
            numbers.dedup();
            assert_eq!(numbers.len(), seen.len(), "{door:?}: a number came twice");
            // From the cursor of the reset on; what is up to it, the reader has been told to load.
            let cursor = resets[0]["cursor"].as_str().unwrap();
            let from: i64 = cursor.split_once(':').unwrap().1.parse().unwrap();
            let later = |positions: &[i64]| positions.iter().copied().filter(|p| *p > from).collect::<Vec<_>>();
            let mut expected = later(&new);
            expected.push(last);
            assert!(from >= 1_000_000 && from < last, "{door:?}: {cursor}");
            assert_eq!(later(&numbers), expected, "{door:?}: all that came after {cursor}");
        }
    }
}
