//! What a stream carries beside events, and the answer of a long poll.

use serde::Serialize;
use utoipa::ToSchema;

use super::Event;
use crate::terms;

/// The stream is complete from its cursor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready<'a> {
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
    /// The last position of the log at this moment.
    #[schema(value_type = terms::Position)]
    pub head: i64,
    #[schema(value_type = terms::UserId)]
    pub user_id: &'a str,
    /// A heartbeat comes at least this often, in seconds.
    #[schema(example = 15, minimum = 1, maximum = 3600)]
    pub heartbeat_s: u64,
    /// What this server can do beyond the first version of this contract. Ask for nothing that is not named here.
    #[schema(value_type = terms::Features)]
    pub features: &'a [&'a str],
}

/// None yet: what comes after the first version of the contract has a name here.
pub const FEATURES: &[&str] = &[];

/// The stream is not complete: load by REST what is wanted; the stream goes on live from its cursor.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reset<'a> {
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
    #[schema(value_type = terms::ResetReason)]
    pub reason: &'a str,
    /// The first position that is still there.
    #[schema(value_type = terms::Position)]
    pub oldest: i64,
}

/// Nothing happened for this reader between `prev` and `cursor`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heartbeat {
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
    #[schema(value_type = terms::Cursor)]
    pub prev: String,
}

/// The caller's token is about to expire, and the stream ends with it: come back with a new one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Expiring {
    /// The token's `exp`.
    #[schema(value_type = terms::Seconds)]
    pub expires_at: u64,
}

/// The last thing of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Closing<'a> {
    /// `shutdown`, `token_expired`, `overloaded`, `too_many_connections`, `starting` or `not_ready`, and others in the
    /// future.
    #[schema(value_type = terms::ProblemCode)]
    pub code: &'a str,
    /// Come again after so many seconds.
    #[schema(example = 5, minimum = 0, maximum = 86400)]
    pub retry_after: u32,
}

/// The answer of a long poll. Poll again with `after` = `cursor`, at once if there is `more`. The chain goes on from
/// poll to poll: the first event's `prev` is the cursor that the poll asked after.
#[derive(Serialize, ToSchema)]
pub struct EventPage<'a> {
    /// Each with its place in the chain.
    #[schema(max_items = 200)]
    pub events: Vec<Event<'a>>,
    #[schema(value_type = terms::Cursor)]
    pub cursor: String,
    /// The last position of the log, as far as this answer knows.
    #[schema(value_type = terms::Position)]
    pub head: i64,
    /// There may be more already.
    #[schema(example = false)]
    pub more: bool,
    /// As in `ready`.
    #[schema(value_type = terms::Features)]
    pub features: &'a [&'a str],
}
