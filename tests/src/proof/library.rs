//! Somebody with the client library: it sends what it is told to until it is answered, and gives each thing once,
//! whatever becomes of its connection. It speaks to one node, as an application does that knows one address.

use std::{collections::HashMap, path::Path, process::Stdio, time::Duration};

use chat_domain::Position;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use super::{
    history::{Action, Answer, Sending, What},
    reading::Reader,
    workload::{Crowd, InFlight, lasting_token, refusal},
};
use crate::{guard::Process, plain::folder};

/// How many messages wait in it at once.
const WAITING: usize = 4;
const START_LIMIT: Duration = Duration::from_secs(60);
/// For what is on its way when everything is whole again, and for the rest of the log after that.
const LAST_LIMIT: Duration = Duration::from_secs(180);

/// Sends until the crowd is told to stop, says when all of it is answered, and reads to the end of the log.
pub async fn follow(reader: Reader, crowd: Crowd, node: usize, name: String, answered: oneshot::Sender<()>) {
    let Reader {
        id,
        user,
        door,
        history,
        head,
        seed,
        ..
    } = reader;
    let mut rng = StdRng::seed_from_u64(seed);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener
        .local_addr()
        .expect("a bound socket has an address")
        .port();
    let _process = Process::start(Path::new("node"), |command| {
        command
            .arg(folder().join("library.mjs"))
            .arg(port.to_string())
            .arg(crowd.doors.url(node));
        command
            .env("TOKEN", lasting_token(&user, ""))
            .stderr(Stdio::inherit());
        // Whatever proxy this machine has for the world is not for 127.0.0.1.
        command.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1");
    })
    .await;
    let accepted = timeout(START_LIMIT, listener.accept()).await;
    let (connection, _) = accepted.expect("the library starts").expect("it comes");
    let (told, mut tell) = connection.into_split();
    let mut told = BufReader::new(told).lines();
    history.note(What::Connect {
        reader: id,
        user: user.clone(),
        door,
        everything: false,
        node,
        after: Some("0".into()),
    });

    let mut answered = Some(answered);
    let mut asked: HashMap<String, (u64, InFlight)> = HashMap::new();
    let mut at: Position = -1;
    let mut awaited = (false, false);
    let mut give_up = Instant::now();
    let mut pace = interval(crowd.pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0;
    loop {
        let end = *head.borrow();
        if end.is_some_and(|end| at >= end) {
            return;
        }
        if crowd.is_over()
            && asked.is_empty()
            && let Some(answered) = answered.take()
        {
            let _ = answered.send(());
        }
        // The last answers, and then the rest of the log.
        let awaits = (crowd.is_over() && !asked.is_empty(), end.is_some());
        if awaits != awaited {
            (awaited, give_up) = (awaits, Instant::now() + LAST_LIMIT);
        }
        let line = tokio::select! {
            line = told.next_line() => line.ok().flatten(),
            _ = pace.tick() => {
                if !crowd.is_over() && asked.len() < WAITING {
                    let (key, receiver, content) = crowd.text(&user, &name, number, &mut rng);
                    number += 1;
                    let line = json!({"key": key, "to": receiver, "text": content});
                    let action = Action::Send { key: key.clone(), receiver, content };
                    let operation = history.begin(&user, node, Sending::Library, action);
                    asked.insert(key, (operation, InFlight::new(&crowd.in_flight)));
                    let _ = tell.write_all(format!("{line}\n").as_bytes()).await;
                }
                continue;
            }
            () = sleep_until(give_up), if awaited != (false, false) => None,
        };
        let Some(line) = line else {
            return history.note(What::Gone {
                reader: id,
                why: "the library ended, or hangs".into(),
            });
        };
        let mut line: Value = serde_json::from_str(&line).expect("the library writes JSON");
        let event = line["event"].take();
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        if let Some(key) = line["sent"].as_str().or(line["failed"].as_str()) {
            let answer = match line["status"].as_u64() {
                None => Answer::Ok {
                    result: line["message"].clone(),
                },
                Some(status) => refusal(&line, status.try_into().unwrap_or_default(), &text("code")),
            };
            if let Some((operation, in_flight)) = asked.remove(key) {
                crowd.end(operation, answer, in_flight);
            }
            continue;
        }
        let what = if event.is_object() {
            What::Delivery { reader: id, event }
        } else if line["passed"].is_string() {
            What::Passed {
                reader: id,
                prev: text("prev"),
                cursor: text("passed"),
            }
        } else if line["reset"].is_string() {
            What::Reset {
                reader: id,
                cursor: text("cursor"),
                reason: text("reset"),
            }
        } else {
            What::Ready {
                reader: id,
                cursor: text("ready"),
            }
        };
        let cursor = match &what {
            What::Delivery { event, .. } => event["cursor"].as_str().unwrap_or_default(),
            What::Passed { cursor, .. } | What::Reset { cursor, .. } | What::Ready { cursor, .. } => cursor,
            _ => "",
        };
        at = cursor
            .rsplit_once(':')
            .and_then(|(_, position)| position.parse().ok())
            .unwrap_or(at);
        history.note(what);
    }
}
