//! Who is measured: a port of 127.0.0.1 that speaks socket.io, and how one logs in there.

use chat_tests::{Server, server};
use serde_json::{Value, json};

#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) auth: fn(&str) -> Value,
}

pub(crate) const CHAT: &str = "chat-system";

impl Target {
    pub(crate) fn chat(server: &Server) -> Self {
        Self {
            name: CHAT,
            port: server.port(),
            auth: |user| json!({ "token": token(user) }),
        }
    }
}

/// Good for longer than any run.
pub(crate) fn token(user: &str) -> String {
    server::token(&json!({"sub": user, "exp": server::now() + 24 * 3600}))
}

/// What the server is told for load from one address. Everything else is as it comes.
pub(crate) const SETTINGS: [(&str, &str); 5] = [
    ("CHAT_CONNECTIONS_PER_ADDRESS", "1000000"),
    ("CHAT_READS_PER_SECOND", "1000000"),
    ("CHAT_READS_BURST", "1000000"),
    ("CHAT_NEW_CONVERSATIONS_PER_HOUR", "1000000"),
    ("CHAT_LOG", "warn"),
];
