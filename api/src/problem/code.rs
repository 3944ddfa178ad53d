//! The table of all codes. Codes are only added: one that is here keeps its name, its status and its meaning.

use axum::http::StatusCode;

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $title:literal)*) => {
        /// Why a request was refused, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $title] $variant),* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status),* }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }
        }
    };
}

codes! {
    // What was sent does not follow the grammar.
    RequestInvalid        "request_invalid"         BAD_REQUEST            "The request is malformed"
    JsonInvalid           "json_invalid"            BAD_REQUEST            "The body is not JSON"
    BodyInvalid           "body_invalid"            BAD_REQUEST            "The body has not the expected form"
    BodyIncomplete        "body_incomplete"         BAD_REQUEST            "The body ended early"
    ParameterInvalid      "parameter_invalid"       BAD_REQUEST            "A parameter is missing or has not the expected form"
    UserIdInvalid         "user_id_invalid"         BAD_REQUEST            "That is not a user id"
    ConversationIdInvalid "conversation_id_invalid" BAD_REQUEST            "That is not a conversation id"
    KeyInvalid            "key_invalid"             BAD_REQUEST            "That is not a key"
    CursorInvalid         "cursor_invalid"          BAD_REQUEST            "That is not a cursor"
    ContentMissing        "content_missing"         BAD_REQUEST            "A message needs text or data"
    ContentAmbiguous      "content_ambiguous"       BAD_REQUEST            "A message has text or data, not both"
    ContentTypeInvalid    "content_type_invalid"    BAD_REQUEST            "The content type does not fit"
    DataInvalid           "data_invalid"            BAD_REQUEST            "The data is not base64"
    EventUnknown          "event_unknown"           BAD_REQUEST            "There is no such event"
    // Who asks.
    TokenMissing          "token_missing"           UNAUTHORIZED           "A bearer token is needed"
    TokenInvalid          "token_invalid"           UNAUTHORIZED           "The token is not valid"
    TokenExpired          "token_expired"           UNAUTHORIZED           "The token has expired"
    TokenUserMismatch     "token_user_mismatch"     FORBIDDEN              "The token is another user's"
    ScopeMissing          "scope_missing"           FORBIDDEN              "The token does not allow that"
    DevHostRefused        "dev_host_refused"        FORBIDDEN              "Development tokens are for this machine only"
    // What is asked for.
    RouteNotFound         "route_not_found"         NOT_FOUND              "There is nothing here"
    MessageNotFound       "message_not_found"       NOT_FOUND              "There is no such message"
    MethodNotAllowed      "method_not_allowed"      METHOD_NOT_ALLOWED     "The method is not allowed here"
    NotAcceptable         "not_acceptable"          NOT_ACCEPTABLE         "None of the accepted types can be given"
    BodyTimeout           "body_timeout"            REQUEST_TIMEOUT        "The body did not come in time"
    CursorReset           "cursor_reset"            GONE                   "The log cannot be followed from that cursor"
    BodyTooLarge          "body_too_large"          PAYLOAD_TOO_LARGE      "The body is too large"
    ContentTooLarge       "content_too_large"       PAYLOAD_TOO_LARGE      "The content is too large"
    MediaTypeUnsupported  "media_type_unsupported"  UNSUPPORTED_MEDIA_TYPE "The body must be application/json"
    // Understood, and refused by a rule.
    ContentEmpty          "content_empty"           UNPROCESSABLE_ENTITY   "The content is empty"
    KeyReused             "key_reused"              UNPROCESSABLE_ENTITY   "The key was used with another command before"
    CommandRefused        "command_refused"         UNPROCESSABLE_ENTITY   "The database refused the command"
    // Too much, or too often.
    RateLimited           "rate_limited"            TOO_MANY_REQUESTS      "Too much was sent"
    TooManyConversations  "too_many_conversations"  TOO_MANY_REQUESTS      "Too many conversations were begun"
    HeadersTooLarge       "headers_too_large"       REQUEST_HEADER_FIELDS_TOO_LARGE "The head of the request is too large"
    // Ours.
    Internal              "internal"                INTERNAL_SERVER_ERROR  "The server failed"
    Overloaded            "overloaded"              SERVICE_UNAVAILABLE    "The server has too much to do"
    TooManyConnections    "too_many_connections"    SERVICE_UNAVAILABLE    "There are too many connections"
    Unavailable           "unavailable"             SERVICE_UNAVAILABLE    "The database cannot be reached"
    OutcomeUnknown        "outcome_unknown"         SERVICE_UNAVAILABLE    "Whether the command was recorded is not known"
    Starting              "starting"                SERVICE_UNAVAILABLE    "The server is starting"
    Shutdown              "shutdown"                SERVICE_UNAVAILABLE    "The server stops"
    NotReady              "not_ready"               SERVICE_UNAVAILABLE    "The server is not ready"
}

impl Code {
    /// Seconds after which the same request may succeed, where it may.
    pub fn retry_after(self) -> Option<u32> {
        match self {
            Self::RateLimited | Self::Overloaded | Self::OutcomeUnknown | Self::Starting | Self::Shutdown => {
                Some(1)
            }
            Self::Unavailable | Self::NotReady => Some(3),
            Self::TooManyConnections => Some(5),
            Self::TooManyConversations => Some(60),
            _ => None,
        }
    }

    /// Those that the last thing of a stream or a socket may have.
    pub const CLOSING: &[Self] = &[
        Self::Shutdown,
        Self::TokenExpired,
        Self::Overloaded,
        Self::TooManyConnections,
        Self::Starting,
        Self::NotReady,
    ];

    /// The code of a `closing`, where a long poll has to say the same as a problem.
    pub fn of_closing(name: &str) -> Self {
        let known = Self::CLOSING.iter().find(|code| code.as_str() == name);
        known.copied().unwrap_or(Self::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chat_domain::rejection::{Invalid, Rejection};

    use super::*;
    use crate::problem::Problem;

    #[test]
    fn codes_are_distinct_and_only_those_of_429_and_503_say_when_to_come_again() {
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            let temporary = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
            let temporary = temporary.contains(&code.status());
            assert_eq!(code.retry_after().is_some(), temporary, "{code:?}");
        }
    }

    #[test]
    fn the_codes_of_the_domain_are_the_codes_of_the_wire() {
        let rejections = [
            Rejection::ContentEmpty,
            Rejection::ContentTooLarge { size: 2, limit: 1 },
            Rejection::MessageNotFound,
            Rejection::KeyReused,
            Rejection::TooManyConversations,
            Rejection::CommandRefused,
        ];
        for rejection in rejections {
            assert_eq!(Problem::from(rejection).code.as_str(), rejection.code());
        }
        let invalid = [
            Invalid::UserId,
            Invalid::ConversationId,
            Invalid::Key,
            Invalid::ContentType,
            Invalid::Cursor,
        ];
        for invalid in invalid {
            assert_eq!(Problem::from(invalid).code.as_str(), invalid.code());
        }
    }
}
