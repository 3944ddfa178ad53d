//! Traces as a collector gets them: the way of one message, from a request that is part of its caller's trace to its
//! delivery. The collector is the test's own, and reads protobuf by hand.
#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// The binary with these variables, and with none of those around the test.
fn server(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-system"));
    let ours = |name: &str| name.starts_with("CHAT_") || name.starts_with("OTEL_");
    for (name, _) in env::vars_os().filter(|(name, _)| ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
        .env("CHAT_JWT_SECRET", SECRET)
        .envs(variables.iter().copied());
    command
}

/// Takes what is posted to it, until the test ends.
struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Taken>>>,
}

/// The head of a request, and its body.
type Taken = (String, Vec<u8>);

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let takes = taken.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let (head, length) = read_head(&mut stream);
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                takes.lock().unwrap().push((head, body));
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        });
        Self { address, taken }
    }
}

/// The lines up to the empty one, and the length of the body.
fn read_head(stream: &mut impl BufRead) -> (String, usize) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(stream.read_line(&mut head).unwrap() > 0, "it broke off: {head:?}");
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().unwrap());
    (head, length)
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn start(mut command: Command) -> (Self, SocketAddr) {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let running = Self(child);
        let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
            let (_, address) = line.split_once("listening on http://")?;
            address.trim_end_matches('/').parse().ok()
        });
        // Nobody waits for a pipe that is full.
        thread::spawn(move || lines.for_each(drop));
        (running, address.expect("it listens"))
    }

    fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.0.wait().unwrap().success());
    }
}

/// One field of a message of protobuf: those with a length; the others are passed over.
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                varint(&mut bytes);
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        if key & 7 == 2 {
            found.push((key >> 3, value));
        }
    }
    found
}

fn inside(messages: Vec<&[u8]>, number: u64) -> Vec<&[u8]> {
    let all = messages.into_iter().flat_map(fields);
    all.filter(|(found, _)| *found == number)
        .map(|(_, value)| value)
        .collect()
}

#[derive(Debug, Clone, PartialEq)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    /// Traces and spans.
    links: Vec<(String, String)>,
}

fn spans(body: &[u8]) -> Vec<Span> {
    let hex = |message: &[u8], number| {
        let bytes = inside(vec![message], number).first().copied().unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let of_resources = inside(vec![body], 1);
    let of_scopes = inside(of_resources, 2);
    let read = |span: &[u8]| Span {
        name: String::from_utf8(inside(vec![span], 5)[0].to_vec()).unwrap(),
        trace: hex(span, 1),
        id: hex(span, 2),
        parent: hex(span, 4),
        links: inside(vec![span], 13)
            .iter()
            .map(|link| (hex(link, 1), hex(link, 2)))
            .collect(),
    };
    inside(of_scopes, 2).into_iter().map(read).collect()
}

#[test]
fn otlp_carries_the_way_of_a_message_and_nothing_that_is_in_it() {
    let collector = Collector::start();
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite://{}", folder.path().join("chat.db").display());
    let endpoint = format!("http://{}/", collector.address);
    let (running, address) = Running::start(server(&[
        ("CHAT_LISTEN", "127.0.0.1:0"),
        ("CHAT_DATABASE_URL", &database),
        ("CHAT_OTLP_ENDPOINT", &endpoint),
        ("CHAT_DRAIN_S", "0"),
    ]));
    let token = |user: &str| {
        let output = server(&[]).args(["token", "--user", user]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (alice, bob) = (token("alice"), token("bob"));

    let mut listening = BufReader::new(TcpStream::connect(address).unwrap());
    let ask =
        format!("GET /v1/events?access_token={bob} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n");
    listening.get_mut().write_all(ask.as_bytes()).unwrap();
    listening
        .get_ref()
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut wait_for = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(listening.read_line(&mut line).unwrap() > 0, "no {text}");
        }
    };
    wait_for("event: ready");
    let mut sending = BufReader::new(TcpStream::connect(address).unwrap());
    let body = r#"{"receiver_id":"bob","text":"a-secret-of-theirs"}"#;
    let send = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {alice}\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    sending.get_mut().write_all(send.as_bytes()).unwrap();
    assert!(read_head(&mut sending).0.starts_with("http/1.1 201"));
    wait_for("a-secret-of-theirs");
    running.stop();

    let taken = collector.taken.lock().unwrap();
    for (head, body) in taken.iter() {
        assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"), "{head}");
        let text = String::from_utf8_lossy(body);
        for secret in [alice.as_str(), &bob, "a-secret-of-theirs", "access_token"] {
            assert!(!text.contains(secret), "{secret} in {text:?}");
        }
    }
    let spans: Vec<_> = taken.iter().flat_map(|(_, body)| spans(body)).collect();
    let mut by_name: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in &spans {
        by_name.entry(&span.name).or_default().push(span);
    }
    let requests = &by_name["request"];
    let request = requests.iter().find(|span| span.trace == TRACE);
    let request = request.unwrap_or_else(|| panic!("no request of the caller's trace: {spans:?}"));
    assert_eq!(request.parent, CALLER);
    assert_eq!(
        requests.iter().filter(|span| span.parent.is_empty()).count(),
        1,
        "the stream's begins a trace"
    );
    let [command] = by_name["command"][..] else {
        panic!("{spans:?}")
    };
    assert_eq!((&command.trace, &command.parent), (&request.trace, &request.id));
    let [batch] = by_name["batch"][..] else {
        panic!("{spans:?}")
    };
    assert_eq!(batch.links, [(command.trace.clone(), command.id.clone())]);
    assert_eq!(batch.parent, "");
    let [delivery] = by_name["delivery"][..] else {
        panic!("{spans:?}")
    };
    assert_eq!((&delivery.trace, &delivery.parent), (&batch.trace, &batch.id));
}
