//! Each code of a refusal moves its counter, whatever door it comes through.

use chat_api::problem::Code;
use chat_tests::{
    Client, CommitFault, Database, Kind, Problem, Proxy, Server, eventually, free_port,
    metrics::metric,
    ok,
    raw::{RawReply, Then, exchange},
    reply,
    server::{now, token},
    socketio::{SocketIo, Transport},
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use nix::sys::signal::Signal;
use reqwest::{
    Method, RequestBuilder,
    header::{ACCEPT, CONTENT_TYPE, HOST},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinHandle};

use super::LIMIT;

/// Bytes of the largest content.
const CONTENT: usize = 10 << 10;

struct Stage {
    database: Database,
    proxy: Proxy,
    server: Server,
    admin: u16,
    /// Gives a command up after a second.
    hasty: Server,
    hasty_admin: u16,
    hasty_proxy: Proxy,
    development: Server,
    development_admin: u16,
    /// The answer to half a body, which takes half a minute.
    half_a_body: Option<JoinHandle<Option<RawReply>>>,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::fresh(Kind::MariaDb).await;
        let proxy = Proxy::before(&database).await;
        let (admin, hasty_admin, development_admin) = (free_port(), free_port(), free_port());
        let (listen, url) = (format!("127.0.0.1:{admin}"), proxy.url(&database));
        let settings = [
            ("CHAT_DATABASE_URL", url.as_str()),
            ("CHAT_ADMIN_LISTEN", &listen),
            ("CHAT_CONTENT_LIMIT", "10240"),
            ("CHAT_CONNECTIONS_PER_USER", "1"),
            ("CHAT_SENDS_PER_SECOND", "1"),
            ("CHAT_SENDS_BURST", "10"),
            ("CHAT_NEW_CONVERSATIONS_PER_HOUR", "1"),
            ("CHAT_QUEUE_COMMANDS", "1"),
            ("CHAT_BATCH_COMMANDS", "1"),
            ("CHAT_COMMAND_TIMEOUT_MS", "30000"),
            ("CHAT_SHUTDOWN_TIMEOUT_S", "60"),
        ];
        let server = Server::start(&database, &settings).await;
        let hasty_proxy = Proxy::before(&database).await;
        let (listen, url) = (format!("127.0.0.1:{hasty_admin}"), hasty_proxy.url(&database));
        let settings = [
            ("CHAT_DATABASE_URL", url.as_str()),
            ("CHAT_ADMIN_LISTEN", &listen),
            ("CHAT_COMMAND_TIMEOUT_MS", "1000"),
        ];
        let hasty = Server::start(&database, &settings).await;
        let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON outbox FOR EACH ROW BEGIN \
             IF NEW.content = 'venom' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF; END";
        database.execute(trigger).await;
        let listen = format!("127.0.0.1:{development_admin}");
        let development = Server::start_for_development(&database, &[("CHAT_ADMIN_LISTEN", &listen)]).await;
        let half_a_body = tokio::spawn({
            let (port, half) = (server.port(), half_a_send(&server, Code::BodyTimeout));
            async move { exchange(port, half.as_bytes(), Then::Wait, LIMIT).await }
        });
        Self {
            database,
            proxy,
            server,
            admin,
            hasty,
            hasty_admin,
            hasty_proxy,
            development,
            development_admin,
            half_a_body: Some(half_a_body),
        }
    }

    /// Somebody of this case alone, for the limits are a user's.
    fn client(&self, code: Code) -> Client {
        self.server.client(code.as_str())
    }

    fn get(&self, code: Code, path: &str) -> RequestBuilder {
        self.client(code).get(path)
    }

    fn send(&self, code: Code, body: &Value) -> RequestBuilder {
        self.client(code).post("/v1/messages").json(body)
    }

    async fn counted(&self, code: Code, door: &str) -> f64 {
        let admin = match code {
            Code::DevHostRefused => self.development_admin,
            Code::OutcomeUnknown => self.hasty_admin,
            _ => self.admin,
        };
        let name = format!(
            r#"chat_rejections_total{{code="{}",door="{door}"}}"#,
            code.as_str()
        );
        metric(admin, &name).await
    }

    /// An answer with this code.
    async fn refused(&self, code: Code, request: RequestBuilder) {
        let answer = reply(request).await;
        assert_eq!(answer.body["code"], code.as_str(), "{:?}", answer.body);
        assert_eq!(answer.status, code.status().as_u16());
    }

    /// An ack with this code.
    async fn refused_on_a_socket(&self, code: Code, event: &str, payload: Value) {
        let token = self.server.token(code.as_str());
        let socket = SocketIo::connect(Transport::Websocket, &self.server.url(), &token, None).await;
        let mut socket = socket.unwrap();
        socket.named("ready", LIMIT).await;
        let ack = socket.ask(event, &payload).await.unwrap();
        assert_eq!(ack["problem"]["code"], code.as_str(), "{ack}");
    }

    /// Has the code refused; says through which door it went, or why it cannot be provoked here.
    async fn provoke(&mut self, code: Code) -> Result<&'static str, &'static str> {
        let text = json!({"receiver_id": "bob", "text": "hi"});
        match code {
            Code::RequestInvalid => self.refused(code, self.get(code, "/docs/%FF")).await,
            Code::JsonInvalid => {
                let request = self
                    .client(code)
                    .post("/v1/messages")
                    .header(CONTENT_TYPE, "application/json");
                self.refused(code, request.body("hello")).await;
            }
            Code::BodyInvalid => self.refused(code, self.send(code, &json!([]))).await,
            Code::BodyIncomplete => {
                let half = half_a_send(&self.server, code);
                exchange(self.server.port(), half.as_bytes(), Then::HalfClose, LIMIT).await;
                eventually("it is counted", LIMIT, || async {
                    self.counted(code, "rest").await > 0.0
                })
                .await;
            }
            Code::ParameterInvalid => {
                self.refused(code, self.get(code, "/v1/conversations?limit=0"))
                    .await
            }
            Code::UserIdInvalid => self.refused(code, self.get(code, "/v1/messages?with=%21")).await,
            Code::ConversationIdInvalid => return Err("no door takes the id of a conversation"),
            Code::KeyInvalid => {
                let request = self.send(code, &text).header("Idempotency-Key", "k".repeat(65));
                self.refused(code, request).await;
            }
            Code::CursorInvalid => {
                self.refused(code, self.get(code, "/v1/events?after=%21")).await;
                return Ok("long_poll");
            }
            Code::ContentMissing => {
                self.refused(code, self.send(code, &json!({"receiver_id": "bob"})))
                    .await
            }
            Code::ContentAmbiguous => {
                let both =
                    json!({"receiver_id": "bob", "text": "a", "data": "YQ==", "content_type": "image/png"});
                self.refused(code, self.send(code, &both)).await;
            }
            Code::ContentTypeInvalid => {
                let body = json!({"receiver_id": "bob", "data": "YQ==", "content_type": "png"});
                self.refused(code, self.send(code, &body)).await;
            }
            Code::DataInvalid => {
                let body = json!({"receiver_id": "bob", "data": "*", "content_type": "image/png"});
                self.refused(code, self.send(code, &body)).await;
            }
            Code::EventUnknown => {
                self.refused_on_a_socket(code, "dance", json!({})).await;
                return Ok("socket_io");
            }
            Code::TokenMissing => {
                self.refused(code, Client::new(&self.server.url(), "").get("/v1/messages"))
                    .await;
            }
            Code::TokenInvalid => {
                self.refused(code, Client::new(&self.server.url(), "x").get("/v1/messages"))
                    .await;
            }
            Code::TokenExpired => {
                let expired = token(&json!({"sub": "alice", "exp": now() - 60}));
                self.refused(
                    code,
                    Client::new(&self.server.url(), &expired).get("/v1/messages"),
                )
                .await;
            }
            Code::TokenUserMismatch => {
                let other = json!({"token": self.server.token("somebody-else")});
                self.refused_on_a_socket(code, "authenticate", other).await;
                return Ok("socket_io");
            }
            Code::ScopeMissing => {
                self.refused(code, self.get(code, "/v1/events?all=true")).await;
                return Ok("long_poll");
            }
            Code::DevHostRefused => {
                let request = Client::new(&self.development.url(), "").post("/dev/token");
                let request = request
                    .header(HOST, "evil.example")
                    .json(&json!({"user_id": "alice"}));
                self.refused(code, request).await;
            }
            Code::RouteNotFound => self.refused(code, self.get(code, "/nothing")).await,
            Code::MessageNotFound => self.refused(code, self.get(code, "/v1/messages/999999")).await,
            Code::MethodNotAllowed => {
                self.refused(code, self.client(code).request(Method::DELETE, "/v1/messages"))
                    .await;
            }
            Code::NotAcceptable => {
                self.refused(code, self.get(code, "/v1/events").header(ACCEPT, "image/png"))
                    .await;
                return Ok("long_poll");
            }
            Code::BodyTimeout => {
                let answer = self.half_a_body.take().unwrap().await.unwrap();
                assert_eq!(answer.unwrap().json()["code"], code.as_str());
            }
            Code::CursorReset => {
                self.refused(code, self.get(code, "/v1/events?after=zzzzzzzz:5&wait=0"))
                    .await;
                return Ok("long_poll");
            }
            Code::BodyTooLarge | Code::ContentTooLarge => {
                let length = if code == Code::BodyTooLarge {
                    10 * CONTENT
                } else {
                    CONTENT + 1
                };
                let large = json!({"receiver_id": "bob", "text": "x".repeat(length)});
                self.refused(code, self.send(code, &large)).await;
            }
            Code::MediaTypeUnsupported => {
                let request = self
                    .client(code)
                    .post("/v1/messages")
                    .header(CONTENT_TYPE, "text/plain");
                self.refused(code, request.body("hi")).await;
            }
            Code::ContentEmpty => {
                self.refused(code, self.send(code, &json!({"receiver_id": "bob", "text": ""})))
                    .await;
            }
            Code::KeyReused => {
                let keyed = |body: &Value| self.send(code, body).header("Idempotency-Key", "one");
                ok(keyed(&text)).await.unwrap();
                self.refused(code, keyed(&json!({"receiver_id": "bob", "text": "other"})))
                    .await;
            }
            Code::CommandRefused => {
                let venom = json!({"receiver_id": "bob", "text": "venom"});
                self.refused(code, self.send(code, &venom)).await;
            }
            Code::RateLimited => {
                let answers = join_all((0..20).map(|_| ok(self.send(code, &text)))).await;
                let is_refused = |answer: &Result<_, Problem>| {
                    answer
                        .as_ref()
                        .is_err_and(|problem| problem.code == code.as_str())
                };
                assert!(answers.iter().any(is_refused), "{answers:?}");
            }
            Code::TooManyConversations => {
                ok(self.send(code, &text)).await.unwrap();
                let another = json!({"receiver_id": "carol", "text": "hi"});
                self.refused(code, self.send(code, &another)).await;
            }
            Code::HeadersTooLarge => {
                let request = self
                    .get(code, "/v1/conversations")
                    .header("x-large", "x".repeat(17 << 10));
                self.refused(code, request).await;
            }
            Code::Internal => {
                return Err("it would be a defect; the router's own tests have a handler that panics");
            }
            Code::Overloaded => {
                // One is being written, one waits, and nothing comes back from the database until somebody is refused.
                self.proxy.stall(true);
                let mut sends: FuturesUnordered<_> = (0..20)
                    .map(|n| {
                        let client = self.server.client(&format!("crowd{n}"));
                        async move { client.send("bob", "hi", None).await }
                    })
                    .collect();
                let mut refused = 0;
                while let Some(answer) = sends.next().await {
                    if answer.is_err_and(|problem| problem.code == code.as_str()) {
                        refused += 1;
                        self.proxy.stall(false);
                    }
                }
                self.proxy.stall(false);
                assert!(refused > 0, "all found a place");
                self.server.ready().await;
            }
            Code::TooManyConnections => {
                let mut held = self.client(code).events(None).await.unwrap();
                held.named("ready", LIMIT).await;
                self.refused(code, self.get(code, "/v1/events?wait=0")).await;
                return Ok("long_poll");
            }
            Code::Unavailable | Code::NotReady => {
                let misses = || self.server.log().matches("the database is away").count();
                let before = misses();
                self.proxy.refuse(true);
                self.proxy.cut();
                // Until then, its writer would keep a command and try again.
                eventually("the writer misses its database", LIMIT, || async {
                    misses() > before
                })
                .await;
                eventually("the database is missed", LIMIT, || async {
                    let answer = match code {
                        Code::NotReady => reply(self.get(code, "/readyz")).await,
                        _ => reply(self.send(code, &text)).await,
                    };
                    answer.body["code"] == code.as_str()
                })
                .await;
                self.proxy.refuse(false);
                self.server.ready().await;
            }
            Code::OutcomeUnknown => {
                let client = self.hasty.client(code.as_str());
                // The projector commits too, and may meet the fault instead.
                eventually("an outcome is not known", LIMIT, || async {
                    self.hasty_proxy
                        .break_next_commits(CommitFault::CommitHeldBack, 1);
                    let answer = reply(client.post("/v1/messages").json(&text)).await;
                    self.hasty_proxy.deliver_commits();
                    answer.body["code"] == code.as_str()
                })
                .await;
                assert!(metric(self.hasty_admin, "chat_outcomes_unknown_total").await >= 1.0);
                let retries = r#"chat_batch_retries_total{reason="connection"}"#;
                assert!(metric(self.hasty_admin, retries).await >= 1.0);
                self.hasty.ready().await;
            }
            Code::Starting => {
                return Err(
                    "the tail has begun before a test can ask; the unit tests of /v1/events have a hub without",
                );
            }
            Code::Shutdown => {
                // The operator's listener stays while a request is not at its end.
                let mut held = TcpStream::connect(("127.0.0.1", self.server.port()))
                    .await
                    .unwrap();
                let half = half_a_send(&self.server, code);
                held.write_all(half.as_bytes()).await.unwrap();
                let waiting = tokio::spawn(reply(self.get(code, "/v1/events?wait=60")));
                let polls = r#"chat_connections{door="long_poll"}"#;
                eventually("the poll waits", LIMIT, || async {
                    metric(self.admin, polls).await == 1.0
                })
                .await;
                self.server.signal(Signal::SIGTERM);
                assert_eq!(waiting.await.unwrap().body["code"], code.as_str());
                let counted = self.counted(code, "long_poll").await;
                drop(held);
                assert_eq!(counted, 1.0);
                assert_eq!(self.server.exit(LIMIT).await, 0);
                return Err("the server is gone when it is asked again; it was asked before");
            }
        }
        Ok("rest")
    }
}

/// A request whose body does not come as announced.
fn half_a_send(server: &Server, code: Code) -> String {
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{",
        server.token(code.as_str())
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_code_moves_its_counter() {
    let mut stage = Stage::new().await;
    // One takes long, and in the end there is no server.
    let last = [Code::BodyTimeout, Code::Shutdown];
    let codes = Code::ALL.iter().filter(|code| !last.contains(code));
    let mut not_here = Vec::new();
    for code in codes.copied().chain(last) {
        let doors = ["rest", "sse", "long_poll", "socket_io"];
        let mut before = Vec::new();
        for door in doors {
            // The half body was sent to a server that had refused nobody.
            before.push(match code {
                Code::BodyTimeout => 0.0,
                _ => stage.counted(code, door).await,
            });
        }
        match stage.provoke(code).await {
            Ok(door) => {
                let before = before[doors.iter().position(|known| *known == door).unwrap()];
                let after = stage.counted(code, door).await;
                assert!(after > before, "{code:?} at {door}: {before}, then {after}");
            }
            Err(reason) => not_here.push((code, reason)),
        }
    }
    // Whoever takes another one out of this test says so here too.
    let codes: Vec<_> = not_here.iter().map(|(code, _)| *code).collect();
    assert_eq!(
        codes,
        [
            Code::ConversationIdInvalid,
            Code::Internal,
            Code::Starting,
            Code::Shutdown
        ],
        "{not_here:?}"
    );
    drop(stage.database);
}
