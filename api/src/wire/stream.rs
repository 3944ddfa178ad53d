//! What a stream carries beside events, and the answer of a long poll.

use serde::Serialize;
use utoipa::ToSchema;

use super::Event;

/// The stream is complete from its cursor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready<'a> {
    #[schema(example = "k7f3q2:4177")]
    pub cursor: String,
    /// The last position of the log at this moment.
    #[schema(example = 5230)]
    pub head: i64,
    #[schema(example = "alice")]
    pub user_id: &'a str,
    /// A heartbeat comes at least this often, in seconds.
    #[schema(example = 15)]
    pub heartbeat_s: u64,
}

/// The stream is not complete: load by REST what is wanted; the stream goes on live from its cursor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reset<'a> {
    #[schema(example = "k7f3q2:5230")]
    pub cursor: String,
    /// `ahead`, `other_epoch` or `pruned`.
    #[schema(example = "other_epoch")]
    pub reason: &'a str,
    /// The first position that is still there.
    #[schema(example = 1)]
    pub oldest: i64,
}

/// Nothing happened for this reader between `prev` and `cursor`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heartbeat {
    #[schema(example = "k7f3q2:5230")]
    pub cursor: String,
    #[schema(example = "k7f3q2:4182")]
    pub prev: String,
}

/// The caller's token is about to expire, and the stream ends with it: come back with a new one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Expiring {
    /// Seconds since the Unix epoch: the token's `exp`.
    #[schema(example = 1_790_003_600)]
    pub expires_at: u64,
}

/// The last thing of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Closing<'a> {
    /// `shutdown`, `token_expired`, `overloaded`, `too_many_connections`, `starting` or `not_ready`.
    #[schema(example = "shutdown")]
    pub code: &'a str,
    /// Come again after so many seconds.
    #[schema(example = 5)]
    pub retry_after: u32,
}

/// The answer of a long poll. Poll again with `after` = `cursor`, at once if there is `more`. The chain goes on from
/// poll to poll: the first event's `prev` is the cursor that the poll asked after.
#[derive(Serialize, ToSchema)]
pub struct EventPage<'a> {
    pub events: Vec<Event<'a>>,
    #[schema(example = "k7f3q2:5230")]
    pub cursor: String,
    /// The last position of the log, as far as this answer knows.
    #[schema(example = 5230)]
    pub head: i64,
    pub more: bool,
}
