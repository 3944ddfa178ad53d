//! Every message: where it goes, which way, what it carries, and the codes of its refusals.

use serde::Serialize;
use serde_json::{Value, json};

use super::schemas::{ack, reference};
use crate::{examples, openapi, problem::Code};

/// Seen from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Received,
    /// To whoever it concerns.
    Sent,
    /// To whoever asked.
    Replied,
}

pub(super) struct Message {
    pub(super) channel: &'static str,
    /// Its name in the document.
    pub(super) key: &'static str,
    /// Its name on the wire.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) way: Way,
    /// The keys of what it is answered with.
    pub(super) replies: &'static [&'static str],
    pub(super) payload: fn() -> Value,
    pub(super) examples: fn() -> Vec<Value>,
    /// The example of a code.
    pub(super) refused: Option<fn(Code) -> Value>,
}

const fn message(
    channel: &'static str,
    key: &'static str,
    title: &'static str,
    payload: fn() -> Value,
    examples: fn() -> Vec<Value>,
) -> Message {
    Message {
        channel,
        key,
        name: key,
        title,
        way: Way::Sent,
        replies: &[],
        payload,
        examples,
        refused: None,
    }
}

impl Message {
    const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    const fn asking(self, replies: &'static [&'static str]) -> Self {
        Self {
            way: Way::Received,
            replies,
            ..self
        }
    }

    const fn replied(self) -> Self {
        Self {
            way: Way::Replied,
            ..self
        }
    }

    const fn refusing(self, refused: fn(Code) -> Value) -> Self {
        Self {
            refused: Some(refused),
            ..self
        }
    }
}

pub(super) static MESSAGES: &[Message] = &[
    message(
        "socket",
        "connect",
        "Say who you are, in socket.io's CONNECT",
        || reference("Connect"),
        || {
            vec![
                json!({"token": TOKEN}),
                json!({"token": TOKEN, "after": "k7f3q2:4177"}),
            ]
        },
    )
    .named("CONNECT")
    .asking(&["connected", "connect_error"]),
    message(
        "socket",
        "connected",
        "You are connected",
        || reference("Connected"),
        || vec![json!({"sid": "zOqYmVqJ3Z1fA"})],
    )
    .named("CONNECT")
    .replied(),
    message(
        "socket",
        "connect_error",
        "You are refused for good: `message` is the bare code",
        || reference("ConnectError"),
        Vec::new,
    )
    .named("CONNECT_ERROR")
    .refusing(|code| json!({"message": code.as_str(), "data": openapi::example(code)}))
    .replied(),
    message(
        "socket",
        "refused",
        "The answer of HTTP to a handshake, or to what a polling client posts, that is refused for now",
        || reference("Problem"),
        Vec::new,
    )
    .named("HTTP")
    .refusing(openapi::example),
    message(
        "socket",
        "send",
        "Send a message",
        || reference("Send"),
        || {
            let (mut text, mut data) = (json!(examples::new_text()), json!(examples::new_data()));
            (text["key"], data["key"]) = (json!("c1-88"), json!("c1-90"));
            vec![text, data]
        },
    )
    .asking(&["send_ack"]),
    message(
        "socket",
        "send_ack",
        "The message is recorded, or why not",
        || ack("Message", true),
        || {
            vec![
                result(examples::message()),
                json!({"result": examples::received_message(), "replayed": true}),
            ]
        },
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "receipt",
        "Say that messages are received, or read",
        || reference("SendReceipt"),
        || {
            vec![
                json!({"type": "received", "up_to": 4182, "key": "c1-89"}),
                json!({"type": "read", "up_to": 4182}),
            ]
        },
    )
    .asking(&["receipt_ack"]),
    message(
        "socket",
        "receipt_ack",
        "Your marks, or why not",
        || ack("Receipt", false),
        || vec![result(examples::receipt())],
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "history",
        "List the messages of a conversation",
        || reference("ListMessages"),
        || {
            vec![
                json!({"with": "bob"}),
                json!({"with": "bob", "after": 0, "limit": 50}),
            ]
        },
    )
    .asking(&["history_ack"]),
    message(
        "socket",
        "history_ack",
        "A page, or why not",
        || ack("History", false),
        || vec![result(examples::history())],
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "conversations",
        "List your conversations",
        || reference("ListConversations"),
        || vec![json!({}), json!({"limit": 50})],
    )
    .asking(&["conversations_ack"]),
    message(
        "socket",
        "conversations_ack",
        "A page, or why not",
        || ack("Conversations", false),
        || vec![result(examples::conversations())],
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "resume",
        "Begin the stream anew, after this cursor",
        || reference("Resume"),
        || vec![json!({"after": "k7f3q2:4177"}), json!({"after": "0"})],
    )
    .asking(&["resume_ack"]),
    message(
        "socket",
        "resume_ack",
        "Nothing of the old chain follows; `ready` or `reset` does",
        || ack("Nothing", false),
        || vec![result(json!({}))],
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "authenticate",
        "Go on with a new token of the same user",
        || reference("Authenticate"),
        || vec![json!({"token": TOKEN})],
    )
    .asking(&["authenticate_ack"]),
    message(
        "socket",
        "authenticate_ack",
        "How long it is good, or why it is not",
        || ack("Authenticated", false),
        || vec![result(json!({"expires_at": 1_790_003_600}))],
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "other",
        "Any event of another name, and what is no event",
        || reference("Other"),
        || vec![json!(null)],
    )
    .named("*")
    .asking(&["other_ack"]),
    message(
        "socket",
        "other_ack",
        "Why not",
        || reference("Refusal"),
        Vec::new,
    )
    .refusing(refused)
    .replied(),
    message(
        "socket",
        "ready",
        "The stream is complete from here",
        || reference("Ready"),
        || vec![json!(examples::ready())],
    ),
    message(
        "socket",
        "event",
        "Something happened",
        || reference("Event"),
        events,
    ),
    message(
        "socket",
        "heartbeat",
        "Nothing happened",
        || reference("Heartbeat"),
        || vec![json!(examples::heartbeat())],
    ),
    message(
        "socket",
        "reset",
        "The cursor is lost: load by REST what is wanted",
        || reference("Reset"),
        || vec![json!(examples::reset())],
    ),
    message(
        "socket",
        "expiring",
        "The token expires in a minute: `authenticate`",
        || reference("Expiring"),
        || vec![json!(examples::expiring())],
    ),
    message(
        "socket",
        "closing",
        "The last thing: why it ends",
        || reference("Closing"),
        Vec::new,
    )
    .refusing(closing),
    message(
        "stream",
        "open",
        "Open the stream: the parameters of the query",
        || reference("StreamEvents"),
        || vec![json!({"after": "k7f3q2:4177"})],
    )
    .named("GET")
    .asking(&["refused"]),
    message(
        "stream",
        "refused",
        "Refused for good: any status but 200 ends an `EventSource`",
        || reference("Problem"),
        Vec::new,
    )
    .named("HTTP")
    .refusing(openapi::example)
    .replied(),
    message(
        "stream",
        "ready",
        "The stream is complete from here",
        || reference("Ready"),
        || vec![json!(examples::ready())],
    ),
    message(
        "stream",
        "event",
        "Something happened",
        || reference("Event"),
        events,
    )
    .named("message"),
    message(
        "stream",
        "heartbeat",
        "Nothing happened",
        || reference("Heartbeat"),
        || vec![json!(examples::heartbeat())],
    ),
    message(
        "stream",
        "reset",
        "The cursor is lost: load by REST what is wanted",
        || reference("Reset"),
        || vec![json!(examples::reset())],
    ),
    message(
        "stream",
        "expiring",
        "The token expires in a minute: come back with a new one",
        || reference("Expiring"),
        || vec![json!(examples::expiring())],
    ),
    message(
        "stream",
        "closing",
        "The last thing: why it ends; also where the server cannot serve now",
        || reference("Closing"),
        Vec::new,
    )
    .refusing(closing),
    message(
        "poll",
        "ask",
        "Ask for what happened: the parameters of the query",
        || reference("StreamEvents"),
        || vec![json!({"after": "k7f3q2:4177", "wait": 25})],
    )
    .named("GET")
    .asking(&["page", "refused"]),
    message(
        "poll",
        "page",
        "What happened",
        || reference("EventPage"),
        || vec![json!(examples::event_page())],
    )
    .replied(),
    message(
        "poll",
        "refused",
        "Why not; a lost cursor is `cursor_reset`",
        || reference("Problem"),
        Vec::new,
    )
    .named("HTTP")
    .refusing(openapi::example)
    .replied(),
];

const TOKEN: &str =
    "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTc5MDAwMzYwMH0.c2lnbmF0dXJl";

fn events() -> Vec<Value> {
    vec![json!(examples::sent()), json!(examples::read())]
}

fn result(result: impl Serialize) -> Value {
    json!({"result": result})
}

fn refused(code: Code) -> Value {
    let mut problem = openapi::example(code);
    // Only an answer of HTTP has an id.
    if let Some(fields) = problem.as_object_mut() {
        fields.remove("request_id");
    }
    json!({"problem": problem})
}

fn closing(code: Code) -> Value {
    json!(examples::closing(code.as_str(), code.retry_after().unwrap_or(0)))
}

/// The codes that a message may carry.
pub fn refusals(channel: &str, key: &str) -> Vec<Code> {
    use Code::*;
    const COMMAND: &[Code] = &[BodyInvalid, Overloaded];
    const READ: &[Code] = &[RateLimited, Unavailable];
    const WRITE: &[Code] = &[
        KeyInvalid,
        KeyReused,
        CommandRefused,
        Unavailable,
        OutcomeUnknown,
        Internal,
    ];
    const CLOSING: &[Code] = &[Starting, Shutdown, TokenExpired, TooManyConnections, NotReady];
    let lists: &[&[Code]] = match (channel, key) {
        ("socket", "connect_error") => &[&[
            BodyInvalid,
            TokenMissing,
            TokenInvalid,
            TokenExpired,
            CursorInvalid,
        ]],
        ("socket", "refused") => &[
            &[Starting, Shutdown, TooManyConnections, HeadersTooLarge],
            &[BodyTooLarge, BodyTimeout, BodyIncomplete, Overloaded],
            &[RequestInvalid, MediaTypeUnsupported],
        ],
        ("socket", "send_ack") => &[
            COMMAND,
            WRITE,
            &[
                UserIdInvalid,
                ContentMissing,
                ContentAmbiguous,
                ContentTypeInvalid,
                DataInvalid,
            ],
            &[ContentTooLarge, ContentEmpty, RateLimited, TooManyConversations],
        ],
        ("socket", "receipt_ack") => &[COMMAND, WRITE, &[MessageNotFound]],
        ("socket", "history_ack") => &[COMMAND, READ, &[ParameterInvalid, UserIdInvalid]],
        ("socket", "conversations_ack") => &[COMMAND, READ, &[ParameterInvalid]],
        ("socket", "resume_ack") => &[COMMAND, &[CursorInvalid]],
        ("socket", "authenticate_ack") => &[
            COMMAND,
            &[TokenInvalid, TokenExpired, TokenUserMismatch, NotReady],
        ],
        ("socket", "other_ack") => &[COMMAND, &[EventUnknown]],
        ("socket", "closing") => &[CLOSING],
        ("stream", "closing") => &[CLOSING, &[Overloaded]],
        ("poll", "refused") => return openapi::refusals("stream_events"),
        ("stream", "refused") => {
            let mut codes = openapi::refusals("stream_events");
            // What is temporary is a `closing`, and a lost cursor a `reset`.
            codes.retain(|code| code.retry_after().is_none() && *code != CursorReset);
            return codes;
        }
        _ => &[],
    };
    lists.iter().flat_map(|list| list.iter().copied()).collect()
}
