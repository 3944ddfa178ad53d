//! The AsyncAPI document: what goes over socket.io, Server-Sent Events and long polls, message by message.
//!
//! The schemas are those of the OpenAPI document, taken from the same types; what is here is which message goes which
//! way, and with which codes a command may be refused. `openapi/asyncapi.json` in the repository is what
//! `chat-system asyncapi` prints; a test holds them together, and another drives a server and holds every message that
//! it sees to the document.
//!
//! The document speaks for the server: it `receive`s commands and `send`s events. By hand and not by a crate of AsyncAPI types:
//! those that there are know version 2, and none takes schemas of utoipa.

mod messages;
mod schemas;

use serde_json::{Map, Value, json};

use self::messages::{MESSAGES, Message, Way};
use crate::problem::Code;

pub use self::messages::refusals;

/// The whole document.
pub fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Chat System: streams",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": servers(),
        "channels": channels(),
        "operations": operations(),
        "components": {
            "schemas": schemas::schemas(),
            "securitySchemes": security_schemes(),
        },
    })
}

/// The document as the repository holds it.
pub fn pretty() -> String {
    let mut text =
        serde_json::to_string_pretty(&document()).expect("a document of strings and numbers serialises");
    text.push('\n');
    text
}

const ABOUT: &str = "What happens, as it happens, without a gap. The contract is additive: fields, types of events, \
    named events and codes may come, and none goes or changes. **Ignore what you do not know**, and step the chain all the \
    same.\n\n**The chain.** Every delivery (an event, or a heartbeat) carries `cursor` and `prev`; `prev` is the `cursor` of \
    the delivery before it on this connection, the first one's that of `ready` or `reset`. A client that sees another `prev` has lost \
    something: it emits `resume` with its own cursor, ignores deliveries until the next `ready` or `reset`, and goes on.\n\n\
    What is asked and answered over HTTP is described by the OpenAPI document, `/openapi.json`.";

fn servers() -> Value {
    let host = json!({"default": "127.0.0.1:3000", "description": "Where the server is"});
    let server = |protocol: &str, security: &[&str], description: &str| {
        let security: Vec<_> = security
            .iter()
            .map(|name| json!({"$ref": format!("#/components/securitySchemes/{name}")}))
            .collect();
        json!({
            "host": "{host}",
            "protocol": protocol,
            "description": description,
            "variables": {"host": host},
            "security": security,
        })
    };
    json!({
        "socket": server("socket.io", &["handshake"], "socket.io (protocol 5), over websocket and over HTTP polling, at the path `/socket.io/`"),
        "http": server("http", &["bearer", "access_token"], "Plain HTTP"),
    })
}

fn security_schemes() -> Value {
    json!({
        "handshake": {
            "type": "apiKey", "in": "user",
            "description": "The token in the `auth` of socket.io's CONNECT: `{token, after?}`; see the message `connect`",
        },
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "access_token": {
            "type": "httpApiKey", "in": "query", "name": "access_token",
            "description": "For a client that cannot send headers: a browser's `EventSource`",
        },
    })
}

/// The channels, by their names here.
const CHANNELS: [(&str, &str, &str, &str); 3] = [
    (
        "socket",
        "/",
        "socket",
        "The namespace `/` of socket.io. Each command is acked with one argument, `{\"result\": …}` or `{\"problem\": …}`. \
         Bytes travel as bytes. Commands are taken in the order in which they come.",
    ),
    (
        "stream",
        "/v1/events",
        "http",
        "Server-Sent Events (`Accept: text/event-stream`). Each `data:` is a payload; the frame's `event:` is the message's \
         name, and an event of the log has none. `id:` is the cursor to go on after.",
    ),
    (
        "poll",
        "/v1/events",
        "http",
        "Long poll, where no stream passes. `after` of the next is `cursor` of the last.",
    ),
];

fn channels() -> Value {
    let mut channels = Map::new();
    for (channel, address, server, description) in CHANNELS {
        let own = MESSAGES.iter().filter(|message| message.channel == channel);
        let messages: Map<_, _> = own
            .map(|message| (message.key.to_owned(), describe(message)))
            .collect();
        let described = json!({
            "address": address,
            "description": description,
            "servers": [{"$ref": format!("#/servers/{server}")}],
            "messages": messages,
        });
        channels.insert(channel.to_owned(), described);
    }
    channels.into()
}

fn describe(message: &Message) -> Value {
    let codes = refusals(message.channel, message.key);
    let mut described = json!({
        "name": message.name,
        "title": message.title,
        "contentType": "application/json",
        "payload": (message.payload)(),
        "examples": examples(message, &codes),
    });
    if !codes.is_empty() {
        let lines = codes
            .iter()
            .map(|code| format!("- `{}`: {}", code.as_str(), code.title()));
        let lines: Vec<_> = lines.collect();
        described["description"] = json!(format!("Codes:\n\n{}", lines.join("\n")));
        let names: Vec<_> = codes.iter().map(|code| code.as_str()).collect();
        described["x-codes"] = json!(names);
    }
    described
}

fn examples(message: &Message, codes: &[Code]) -> Value {
    let mut examples: Vec<_> = (message.examples)()
        .into_iter()
        .map(|payload| json!({"payload": payload}))
        .collect();
    if let Some(refused) = message.refused {
        let of_code = |code: &Code| json!({"name": code.as_str(), "payload": refused(*code)});
        examples.extend(codes.iter().map(of_code));
    }
    examples.into()
}

fn operations() -> Value {
    let mut operations = Map::new();
    for message in MESSAGES {
        let action = match message.way {
            Way::Received => "receive",
            Way::Sent => "send",
            Way::Replied => continue,
        };
        let reference = |key: &str| json!({"$ref": format!("#/channels/{}/messages/{key}", message.channel)});
        let channel = json!({"$ref": format!("#/channels/{}", message.channel)});
        let mut operation = json!({
            "action": action,
            "channel": channel,
            "title": message.title,
            "messages": [reference(message.key)],
        });
        if !message.replies.is_empty() {
            let replies: Vec<_> = message.replies.iter().map(|key| reference(key)).collect();
            operation["reply"] = json!({"channel": channel, "messages": replies});
        }
        operations.insert(format!("{}_{}", message.channel, message.key), operation);
    }
    operations.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_what_the_server_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/asyncapi.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == pretty(),
            "run `make openapi` (chat-system asyncapi > openapi/asyncapi.json)"
        );
    }

    #[test]
    fn each_reply_is_a_message_of_its_channel_and_each_message_has_an_example() {
        for message in MESSAGES {
            for reply in message.replies {
                let found = MESSAGES
                    .iter()
                    .find(|other| (other.channel, other.key) == (message.channel, reply));
                assert_eq!(
                    found.map(|reply| reply.way),
                    Some(Way::Replied),
                    "{} {reply}",
                    message.channel
                );
            }
            let examples = examples(message, &refusals(message.channel, message.key));
            assert_ne!(examples, json!([]), "{} {}", message.channel, message.key);
        }
    }
}
