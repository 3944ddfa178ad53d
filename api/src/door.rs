//! The doors through which clients come, and how the two of `/v1/events` are told apart.

mod accept;

use axum::http::{HeaderMap, Uri, header::ACCEPT};

pub(crate) use self::accept::{Form, preferred};

/// The doors, as limits and metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// All of HTTP but `/v1/events`.
    Rest,
    Sse,
    LongPoll,
    SocketIo,
}

impl Door {
    pub const ALL: [Self; 4] = [Self::Rest, Self::Sse, Self::LongPoll, Self::SocketIo];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Sse => "sse",
            Self::LongPoll => "long_poll",
            Self::SocketIo => "socket_io",
        }
    }

    /// The door that a request comes to.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Self {
        match uri.path() {
            "/v1/events" => Self::of_events(headers),
            path if path.starts_with("/socket.io/") => Self::SocketIo,
            _ => Self::Rest,
        }
    }

    /// A request that accepts neither form is refused as a page.
    fn of_events(headers: &HeaderMap) -> Self {
        match preferred(headers.get_all(ACCEPT)) {
            Some(Form::Stream) => Self::Sse,
            Some(Form::Page) | None => Self::LongPoll,
        }
    }
}
