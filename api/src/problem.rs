//! Every refusal, in one form: problem details (RFC 9457) with a stable code.
//!
//! A [`Problem`] becomes a response in two steps. [`IntoResponse`] gives status and headers and leaves the problem in
//! the response's extensions; [`finish`](crate::router), which stands around all routes, writes the body, because
//! only it knows the request's id. It also turns what axum itself refuses (no such route, wrong method) into
//! problems, so that no error leaves the server in another form. What hyper refuses before there is a request (a
//! malformed head: 400, one far above our own limit: 431) has a bare status: nothing of ours sees it.
//!
//! Which status: 400 where what was sent does not follow the grammar, 422 where it does and a rule refuses it, 503
//! where the same request may succeed later, 429 where it may and its sender has sent too much.

mod code;

use std::{any::Any, fmt};

use axum::{
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use chat_domain::{
    Position,
    ports::{ExecuteError, StoreError},
    rejection::{Invalid, Rejection},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::terms;

pub use self::code::Code;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub code: Code,
    pub detail: Option<String>,
    /// Seconds.
    pub retry_after: Option<u32>,
    pub errors: Vec<FieldError>,
    /// Of `cursor_reset`: where the log can be followed from.
    pub lost: Option<Box<LostCursor>>,
    /// The `WWW-Authenticate` of a 401.
    pub challenge: Option<String>,
}

/// What is wrong with one part of the request. Exactly one of `pointer`, `parameter` and `header` says which.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/text", nullable = false, max_length = 1024)]
    pub pointer: Option<String>,
    /// The name of a parameter of the path or the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit", nullable = false, max_length = 1024)]
    pub parameter: Option<String>,
    /// The name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Act-As", nullable = false, max_length = 1024)]
    pub header: Option<String>,
    /// For people.
    #[schema(example = "limit is 1 to 200", max_length = 257)]
    pub detail: String,
}

/// Details quote the input, which may be escaped several times: they are capped, or a large input would have an answer many
/// times as large, or such a line in the log.
const DETAIL_LIMIT: usize = 256;

/// Cuts foreign text before it is quoted anywhere.
pub(crate) fn short(detail: impl fmt::Display) -> String {
    struct Short(String);

    impl fmt::Write for Short {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let room = DETAIL_LIMIT - self.0.len();
            self.0.push_str(&text[..text.floor_char_boundary(room)]);
            if text.len() <= room {
                Ok(())
            } else {
                Err(fmt::Error)
            }
        }
    }

    let mut short = Short(String::new());
    if fmt::write(&mut short, format_args!("{detail}")).is_err() {
        short.0.push('…');
    }
    short.0
}

impl Problem {
    pub fn new(code: Code) -> Self {
        let retry_after = code.retry_after();
        Self {
            code,
            detail: None,
            retry_after,
            errors: Vec::new(),
            lost: None,
            challenge: None,
        }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = Some(short(detail));
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same request may succeed later, without the client doing anything about it.
    pub fn is_temporary(&self) -> bool {
        self.code.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    /// Says which field of the body is wrong; the detail is that of the whole problem too.
    #[must_use]
    pub fn at(self, pointer: impl Into<String>, detail: impl fmt::Display) -> Self {
        self.field(
            FieldError {
                pointer: Some(short(pointer.into())),
                ..FieldError::default()
            },
            detail,
        )
    }

    /// Of a part of the body that was read alone: where that part is.
    #[must_use]
    pub fn within(mut self, parent: &str) -> Self {
        for pointer in self.errors.iter_mut().filter_map(|error| error.pointer.as_mut()) {
            pointer.insert_str(0, parent);
        }
        self
    }

    #[must_use]
    pub fn at_parameter(self, name: impl Into<String>, detail: impl fmt::Display) -> Self {
        self.field(
            FieldError {
                parameter: Some(short(name.into())),
                ..FieldError::default()
            },
            detail,
        )
    }

    #[must_use]
    pub fn at_header(self, name: impl Into<String>, detail: impl fmt::Display) -> Self {
        self.field(
            FieldError {
                header: Some(short(name.into())),
                ..FieldError::default()
            },
            detail,
        )
    }

    fn field(mut self, mut field: FieldError, detail: impl fmt::Display) -> Self {
        field.detail = short(detail);
        self.detail.get_or_insert_with(|| field.detail.clone());
        self.errors.push(field);
        self
    }

    /// The JSON of the problem.
    pub fn body(&self, request_id: Option<&str>) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:chat-system:problem:{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            code: self.code.as_str().to_owned(),
            detail: self.detail.clone(),
            request_id: request_id.map(str::to_owned),
            retry_after: self.retry_after,
            errors: self.errors.clone(),
            lost: self.lost.as_deref().cloned(),
        }
    }
}

/// A problem as its reader gets it (`application/problem+json`, RFC 9457). `code` says what is wrong and never
/// changes its meaning; `title` and `detail` are for people. New codes may come: treat one that you do not know by its
/// status.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:chat-system:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(
        example = "urn:chat-system:problem:content_too_large",
        max_length = 128,
        pattern = "^urn:chat-system:problem:[a-z_]+$"
    )]
    pub kind: String,
    /// For people.
    #[schema(example = "The content is too large", max_length = 128)]
    pub title: String,
    /// That of the answer.
    #[schema(example = 413, minimum = 400, maximum = 599)]
    pub status: u16,
    #[schema(value_type = terms::ProblemCode)]
    pub code: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "the content has 262145 bytes, 262144 are the limit",
        nullable = false,
        max_length = 257
    )]
    pub detail: Option<String>,
    /// The answer's `X-Request-Id`: what the server's log calls this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "4f1c2b3a",
        nullable = false,
        max_length = 64,
        pattern = "^[A-Za-z0-9._-]+$"
    )]
    pub request_id: Option<String>,
    /// Seconds after which the same request may succeed; also in the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1, nullable = false, minimum = 1, maximum = 86400)]
    pub retry_after: Option<u32>,
    /// Which parts of the request are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    #[serde(flatten)]
    pub lost: Option<LostCursor>,
}

/// Of `cursor_reset`, the fields of `reset`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LostCursor {
    /// Of `cursor_reset`: go on after this.
    #[schema(value_type = Option<terms::Cursor>, nullable = false)]
    pub cursor: String,
    /// Of `cursor_reset`: why.
    #[schema(value_type = Option<terms::ResetReason>, nullable = false)]
    pub reason: &'static str,
    /// Of `cursor_reset`: the first position that is still there.
    #[schema(value_type = Option<terms::Position>, nullable = false)]
    pub oldest: Position,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let code = match invalid {
            Invalid::UserId => Code::UserIdInvalid,
            Invalid::ConversationId => Code::ConversationIdInvalid,
            Invalid::Key => Code::KeyInvalid,
            Invalid::ContentType => Code::ContentTypeInvalid,
            Invalid::Cursor => Code::CursorInvalid,
        };
        Self::new(code).detail(invalid)
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let code = match rejection {
            Rejection::ContentEmpty => Code::ContentEmpty,
            Rejection::ContentTooLarge { .. } => Code::ContentTooLarge,
            Rejection::MessageNotFound => Code::MessageNotFound,
            Rejection::KeyReused => Code::KeyReused,
            Rejection::TooManyConversations => Code::TooManyConversations,
            Rejection::CommandRefused => Code::CommandRefused,
        };
        Self::new(code).detail(rejection)
    }
}

impl From<ExecuteError> for Problem {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Rejected(rejection) => rejection.into(),
            ExecuteError::Overloaded => Self::new(Code::Overloaded).detail(error),
            ExecuteError::Unavailable => Self::new(Code::Unavailable).detail(error),
            ExecuteError::OutcomeUnknown => Self::new(Code::OutcomeUnknown).detail(
                "The command may have been recorded. Send it again with the same key: it is not recorded twice, and \
                 the answer says what became of it. Without a key of yours it may double.",
            ),
        }
    }
}

/// Logs the failure, here and nowhere else: what the caller is told has no cause in it.
impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(cause) => {
                tracing::warn!(error = cause.as_ref(), "a read failed");
                Self::new(Code::Unavailable).detail(error)
            }
            StoreError::Unreadable { position, what } => {
                tracing::error!(
                    outbox.position = position,
                    what,
                    "the log holds a row that cannot be read"
                );
                Self::new(Code::Unavailable).detail("A part of the log cannot be read.")
            }
        }
    }
}

/// A status that axum chose by itself.
impl From<StatusCode> for Problem {
    fn from(status: StatusCode) -> Self {
        Self::new(match status {
            StatusCode::NOT_FOUND => Code::RouteNotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            StatusCode::NOT_ACCEPTABLE => Code::NotAcceptable,
            StatusCode::REQUEST_TIMEOUT => Code::BodyTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::MediaTypeUnsupported,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Code::HeadersTooLarge,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            other if other.is_client_error() => Code::RequestInvalid,
            _ => Code::Internal,
        })
    }
}

/// The answer when a handler panicked. The panic hook has logged it.
pub fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Problem::new(Code::Internal).into_response()
}
