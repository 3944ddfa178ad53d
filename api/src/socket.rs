//! The door of browsers: socket.io, over websocket and over HTTP polling.
//!
//! The transport is engine.io, from the crate engineioxide; socket.io's own layer above it is ours and thin, because
//! the promises hang on it: commands are taken in the order in which they were received, every one is answered, and
//! what goes out waits for room instead of being dropped. The layer of the crate socketioxide, which stands on the same
//! transport, was tried and refused: it runs handlers of one socket side by side; an answer that finds the buffer full
//! is dropped and cannot be kept (of 1,000 commands with a client that reads 100 packets a second, 960 to 970 were
//! never answered); and it does not show the buffer's free places, so that a reader which is behind has a full one
//! when a ping is due and is thrown out (ten of ten, at the first such ping).
//!
//! The transport itself promises nothing: what an aborted poll or a broken connection takes with it is found by the
//! client in the chain of cursors, and fetched again with `resume`.
//!
//! In reading order: `packet` is what goes over the wire, `queue` what a client has asked for, `sender` what goes
//! out, `payload` how much of it one poll takes, `flow` how much of both is counted, `sessions` which are there,
//! `commands` what can be asked, `session` the one task of each socket, `upgrade` the beginning of a websocket and the
//! step to one.
//!
//! A client that stops reading is ended by whichever finds it first: the transport's ping, which gets no answer, or
//! the connection's write, which stands still (see [`crate::server`]).

mod packet;
mod queue;
mod sender;
mod payload;
mod flow;
mod sessions;
mod commands;
mod session;
mod upgrade;

use std::{fmt, mem, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chat_domain::{cursor::After, ids::UserId};
use engineioxide::{
    DisconnectReason, Socket, Str, config::EngineIoConfig, handler::EngineIoHandler, service::EngineIoService,
};
use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

pub use self::commands::{Authenticate, Authenticated, ReceiptForm, Resume, SendForm};
use self::{
    flow::{Flow, LONGEST_CONNECT, NoRoom},
    packet::{Decoder, Event, Malformed, Outgoing, Packet, Received},
    payload::KeptBack,
    queue::{Flooded, Queue},
    sender::{BUFFER, Sender, Sizes},
    sessions::{Polls, Sessions},
};
use crate::{
    auth::Caller,
    door::Door,
    limits::{self, ClientAddress, read_body, refuse_encoding},
    metrics::{self, Cut, Way},
    problem::{Code, Problem, ProblemBody},
    state::AppState,
    telemetry::has_own_line,
    terms,
    wire::{NewMessage, parse_json},
};

const PATH: &str = "/socket.io";

/// How long a connection may take until it says who it is.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of commands that may wait for one socket; one command of any size always may.
const QUEUE_BYTES: usize = 1 << 20;

type Transport = Socket<Connection>;

/// The routes of this door.
pub fn router(app: &AppState) -> Router<AppState> {
    let most = NewMessage::body_limit(app.content_limit);
    let config = EngineIoConfig::builder()
        .req_path(PATH)
        .ping_interval(app.pings.interval)
        .ping_timeout(app.pings.timeout)
        .max_buffer_size(BUFFER)
        .max_payload(most as u64)
        .ws_max_message_size(most)
        .ws_max_frame_size(most)
        .build();
    let sessions: Arc<Sessions> = Arc::default();
    app.limits.make_room_by({
        let sessions = Arc::downgrade(&sessions);
        move |user| {
            if let Some(sessions) = sessions.upgrade() {
                sessions.end_abandoned(user);
            }
        }
    });
    let app = app.clone();
    let sockets = Sockets { app, sessions };
    let service = EngineIoService::with_config(Arc::new(sockets.clone()), config);
    Router::new()
        .route_service("/socket.io", service.clone())
        .route_service("/socket.io/", service.clone())
        .layer(middleware::from_fn_with_state((sockets, service), admit))
}

/// What engine.io says of a request that it refuses.
fn refuse(code: u8, message: &'static str) -> Response {
    #[derive(Serialize)]
    struct Refused {
        code: u8,
        message: &'static str,
    }
    metrics::rejected(Code::RequestInvalid, Door::SocketIo);
    (StatusCode::BAD_REQUEST, axum::Json(Refused { code, message })).into_response()
}

/// Refuses what is no request of engine.io by its head, so that the transport sees only what is counted and nothing is
/// read of a body that nobody wants. Refuses a new session for the time being, in the one form from which every client
/// comes back by itself; what is refused for good is refused once the client has said who it is. And reads what is posted
/// to a session, within the limits of all bodies: the transport would wait for it for ever.
async fn admit(
    State((Sockets { app, sessions }, engine)): State<(Sockets, EngineIoService<Sockets>)>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|parameter| parameter.strip_prefix(name))
    };
    if parameter("EIO=") != Some("4") {
        return Ok(refuse(5, "Unsupported protocol version"));
    }
    let websocket = match parameter("transport=") {
        Some("polling") => false,
        Some("websocket") => true,
        _ => return Ok(refuse(0, "Transport unknown")),
    };
    let session = match parameter("sid=") {
        None => None,
        Some(sid) => match sid.parse().ok().and_then(|sid| sessions.get(sid)) {
            Some(session) => Some(session),
            None => return Ok(refuse(1, "Session ID unknown")),
        },
    };
    let Some(session) = session else {
        if request.method() != Method::GET {
            return Ok(refuse(2, "Bad handshake method"));
        }
        let handshake = upgrade::handshake(&request);
        if websocket && handshake.is_none() {
            return Ok(refuse(3, "Bad request"));
        }
        if let Some(code) = app.hub.refuses() {
            return Err(Problem::new(code));
        }
        let place = app.limits.connect(Door::SocketIo, address)?;
        let flow = Flow::new(&app.limits, app.limits.holder(address, None));
        let extensions = request.extensions_mut();
        extensions.insert(Place(Arc::new(Mutex::new(place))));
        extensions.insert(flow.clone());
        return Ok(match handshake.filter(|_| websocket) {
            Some(handshake) => upgrade::begin(engine, request, handshake, flow),
            None => next.run(request).await,
        });
    };
    let (transport, flow) = session;
    if websocket {
        let handshake = upgrade::handshake(&request);
        let accepted =
            handshake.and_then(|handshake| upgrade::step_up(engine, request, handshake, transport, flow));
        return Ok(accepted.unwrap_or_else(|| refuse(3, "Bad request")));
    }
    match *request.method() {
        Method::GET => {
            let _poll = transport.data.polls.begin();
            let answer = payload::bound(&transport.data.payload, next.run(request)).await;
            Ok(flow.count_answer(answer).await)
        }
        Method::POST => {
            refuse_encoding(request.headers())?;
            let (parts, body) = request.into_parts();
            let holder = flow.holder();
            let most = match holder.user {
                Some(_) => NewMessage::body_limit(app.content_limit),
                None => LONGEST_CONNECT,
            };
            let mut room = app.limits.room(Way::In, &holder);
            let body = read_body(body, most, &mut room).await?;
            Ok(next.run(Request::from_parts(parts, body.into())).await)
        }
        _ => Ok(refuse(3, "Bad request")),
    }
}

/// The connection's place within the limits. It lies in the request that began the session, which the transport keeps
/// as long as the session, and is given back with it.
#[derive(Clone)]
struct Place(Arc<Mutex<limits::Connection>>);

impl Place {
    /// Once it is known who connects.
    fn of_user(transport: &Transport, user: &UserId) -> Result<(), Problem> {
        let Some(Self(place)) = transport.req_parts.extensions.get::<Self>() else {
            return Err(Problem::new(Code::Internal));
        };
        place.lock().of_user(user)?;
        transport.data.lock().user = Some(user.clone());
        Ok(())
    }

    fn of_nobody(transport: &Transport) {
        if let Some(Self(place)) = transport.req_parts.extensions.get::<Self>() {
            place.lock().of_nobody();
        }
        transport.data.lock().user = None;
    }
}

/// What belongs to one connection of the transport.
#[derive(Default)]
pub(crate) struct Connection {
    state: Mutex<Connecting>,
    polls: Polls,
    payload: KeptBack,
    /// Of the packets that were sent last.
    sizes: Sizes,
    /// Held by the websocket that a session by polling steps up to.
    websocket: Arc<tokio::sync::Mutex<()>>,
    /// Held by the session that is connected: the next one begins when it has ended.
    turn: tokio::sync::Mutex<()>,
    /// The transport is gone.
    ended: CancellationToken,
}

struct Connecting {
    decoder: Decoder,
    phase: Phase,
    user: Option<UserId>,
    /// Since when nobody is connected.
    nobody_since: Instant,
    /// There is a task that ends the transport if that goes on.
    watched: bool,
    /// Of the session that is connected.
    queue: Arc<Queue>,
    left: CancellationToken,
}

impl Default for Connecting {
    fn default() -> Self {
        Self {
            decoder: Decoder::default(),
            phase: Phase::default(),
            user: None,
            nobody_since: Instant::now(),
            watched: false,
            queue: Arc::default(),
            left: CancellationToken::new(),
        }
    }
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has not said who it is.
    #[default]
    Nobody,
    Authenticating,
    Connected,
}

impl Connection {
    fn lock(&self) -> MutexGuard<'_, Connecting> {
        self.state.lock()
    }

    /// Begins a session: where its commands wait, and what says that it is over.
    fn begin(&self) -> (Arc<Queue>, CancellationToken) {
        let mut state = self.lock();
        state.phase = Phase::Connected;
        state.queue = Arc::default();
        state.left = self.ended.child_token();
        (state.queue.clone(), state.left.clone())
    }
}

/// Ends a transport over which nobody is connected for too long.
fn watch(transport: Arc<Transport>) {
    if mem::replace(&mut transport.data.lock().watched, true) {
        return;
    }
    tokio::spawn(async move {
        loop {
            let until = {
                let mut state = transport.data.lock();
                if state.phase == Phase::Connected {
                    state.watched = false;
                    return;
                }
                state.nobody_since + CONNECT_LIMIT
            };
            if Instant::now() >= until {
                metrics::cut(Cut::Silent);
                transport.close(DisconnectReason::TransportClose);
                return;
            }
            tokio::select! {
                () = transport.data.ended.cancelled() => return,
                () = sleep_until(until) => {}
            }
        }
    });
}

/// What a client says of itself when it connects.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// A JWT.
    #[schema(example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln")]
    token: Option<String>,
    #[schema(value_type = Option<terms::AfterOrNow>)]
    after: Option<String>,
}

/// The answer to one who is known.
#[derive(Serialize, ToSchema)]
pub struct Connected<'a> {
    /// The session of socket.io.
    #[schema(example = "zOqYmVqJ3Z1fA")]
    sid: &'a str,
}

/// The answer to one who is refused.
#[derive(Serialize, ToSchema)]
pub struct ConnectError<'a> {
    /// The code of the problem, and nothing else.
    #[schema(value_type = terms::ProblemCode)]
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ProblemBody, required = true)]
    data: Option<&'a ProblemBody>,
}

#[derive(Clone)]
struct Sockets {
    app: AppState,
    sessions: Arc<Sessions>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sockets")
    }
}

impl EngineIoHandler for Sockets {
    type Data = Connection;

    fn on_connect(self: Arc<Self>, transport: Arc<Transport>) {
        self.sessions.put(transport.clone());
        watch(transport);
    }

    fn on_disconnect(&self, transport: Arc<Transport>, reason: DisconnectReason) {
        if reason == DisconnectReason::HeartbeatTimeout {
            metrics::cut(Cut::PingTimeout);
        }
        self.sessions.remove(transport.id);
        transport.data.ended.cancel();
    }

    fn on_message(self: &Arc<Self>, text: Str, transport: Arc<Transport>) {
        let received = transport.data.lock().decoder.text(&text);
        self.received(received, &transport);
    }

    fn on_binary(self: &Arc<Self>, bytes: Bytes, transport: Arc<Transport>) {
        let limit = NewMessage::body_limit(self.app.content_limit);
        let received = transport.data.lock().decoder.binary(bytes, limit);
        self.received(received, &transport);
    }
}

impl Sockets {
    fn received(&self, received: Result<Option<Received>, Malformed>, transport: &Arc<Transport>) {
        match received {
            Ok(None) => {}
            Ok(Some(received)) => self.packet(received, transport),
            Err(Malformed) => {
                metrics::cut(Cut::Malformed);
                transport.close(DisconnectReason::PacketParsingError);
            }
        }
    }

    fn packet(&self, received: Received, transport: &Arc<Transport>) {
        let Received { namespace, packet } = received;
        match packet {
            Packet::Connect { .. } if !namespace.is_empty() => {
                // As every server of socket.io says it.
                let refusal = Outgoing::connect_error(&namespace, "Invalid namespace", None);
                reply(transport, refusal);
            }
            _ if !namespace.is_empty() => {}
            Packet::Connect { auth } => self.connect(&auth, transport),
            Packet::Disconnect => leave(transport),
            Packet::Event(event) => enqueue(event, transport),
            Packet::Ack => {}
        }
    }

    fn connect(&self, auth: &str, transport: &Arc<Transport>) {
        {
            let mut state = transport.data.lock();
            if state.phase != Phase::Nobody {
                return;
            }
            state.phase = Phase::Authenticating;
        }
        let (app, auth, transport) = (self.app.clone(), auth.to_owned(), transport.clone());
        let mut connecting = Box::pin(async move {
            let admitted = authenticate(&app, &auth).await;
            begin(app, admitted, transport);
        });
        // Only a token whose key has to be looked for takes time. For everybody else it is done when this returns, so
        // that a command which follows at once finds the session there.
        if connecting.as_mut().now_or_never().is_none() {
            tokio::spawn(connecting);
        }
    }
}

/// Leaves the namespace; the transport stays, and may connect again. What is no session cannot be left.
fn leave(transport: &Arc<Transport>) {
    let queue = {
        let mut state = transport.data.lock();
        if state.phase != Phase::Connected {
            drop(state);
            return transport.close(DisconnectReason::TransportClose);
        }
        state.phase = Phase::Nobody;
        state.nobody_since = Instant::now();
        state.left.cancel();
        mem::take(&mut state.queue)
    };
    if let Some(flow) = Flow::of(transport) {
        flow.taken(queue.clear());
    }
    watch(transport.clone());
}

fn begin(app: AppState, admitted: Result<(Caller, After), Problem>, transport: Arc<Transport>) {
    match admitted {
        Ok((caller, after)) => {
            if Flow::of(&transport).is_none_or(|flow| flow.of_user(&caller.user_id) == Err(NoRoom)) {
                metrics::cut(Cut::Overloaded);
                return transport.close(DisconnectReason::TransportError);
            }
            let begun = transport.data.begin();
            let sender = Sender::new(transport, app.stall);
            let session = session::run(app, sender, caller, after, begun);
            tokio::spawn(session);
        }
        Err(problem) => {
            metrics::rejected(problem.code, Door::SocketIo);
            log_refused_login(&transport, "connect", problem.code);
            if problem.is_temporary() {
                let sender = Sender::new(transport, app.stall);
                tokio::spawn(async move { session::refuse(&app, sender, &problem).await });
                return;
            }
            transport.data.lock().phase = Phase::Nobody;
            let (code, body) = (problem.code.as_str(), problem.body(None));
            reply(&transport, Outgoing::connect_error("", code, Some(&body)));
        }
    }
}

/// A line as that of a refused request: on this door logins are packets, and no request is refused.
fn log_refused_login(transport: &Transport, command: &str, code: Code) {
    let address = transport.req_parts.extensions.get::<ClientAddress>();
    let address = address.map(|ClientAddress(address)| *address);
    let client = address.map(tracing::field::display);
    let (status, code) = (code.status().as_u16(), code.as_str());
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                door = "socket_io",
                command,
                status,
                code,
                client.address = client,
                "refused"
            )
        };
    }
    if address.is_none_or(|address| has_own_line(address, Some(code))) {
        line!(info);
    } else {
        line!(debug);
    }
}

/// What is sent before there is a session finds the buffer empty, unless the client asks without end.
fn reply(transport: &Arc<Transport>, packet: Outgoing) {
    if transport.emit(packet.text).is_err() {
        transport.close(DisconnectReason::TransportError);
    }
}

fn enqueue(event: Event, transport: &Arc<Transport>) {
    let put = {
        let state = transport.data.lock();
        // A command before there is a user is nobody's.
        if state.phase != Phase::Connected {
            return;
        }
        let weight = event.weight();
        let flow = Flow::of(transport);
        if flow.is_some_and(|flow| flow.waits(weight) == Err(NoRoom)) {
            state.queue.refuse(event.ack)
        } else {
            state.queue.put(event, QUEUE_BYTES).map(|waits| {
                if let Some(flow) = flow.filter(|_| !waits) {
                    flow.taken(weight);
                }
            })
        }
    };
    if put == Err(Flooded) {
        metrics::cut(Cut::Flooded);
        transport.close(DisconnectReason::TransportError);
    }
}

/// An object of JSON that is a part of a packet.
fn parse_part<T: DeserializeOwned>(json: &str, at: &str) -> Result<T, Problem> {
    parse_json(json.as_bytes()).map_err(|problem| match problem.code {
        Code::JsonInvalid => {
            Problem::new(Code::BodyInvalid).at(at, problem.detail.as_deref().unwrap_or_default())
        }
        _ => problem.within(at),
    })
}

async fn authenticate(app: &AppState, auth: &str) -> Result<(Caller, After), Problem> {
    let auth = if auth.is_empty() { "{}" } else { auth };
    let auth: Connect = parse_part(auth, "/auth")?;
    let caller = Caller::authenticate(&app.verifier, auth.token.as_deref()).await?;
    let after = match auth.after.as_deref() {
        None | Some("") => After::Now,
        Some(after) => After::parse(after)
            .map_err(|invalid| Problem::new(Code::CursorInvalid).at("/auth/after", invalid))?,
    };
    Ok((caller, after))
}
