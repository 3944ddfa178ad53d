//! `/v1/events`: what happens, as Server-Sent Events or as a long poll, from one subscription each.

mod poll;
mod sse;

use std::time::Duration;

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, header::ACCEPT},
    response::Response,
};
use chat_domain::{cursor::After, ports::Reader};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Query;
use crate::{
    auth::{Caller, StreamCaller},
    door::{Form, preferred},
    examples,
    limits::{ClientAddress, Holder},
    operations::limit,
    problem::{Code, Problem},
    state::AppState,
    terms,
    wire::EventPage,
};

const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamEvents {
    /// Go on after this cursor. `0`: from the beginning. Absent: from now.
    #[param(value_type = Option<terms::AfterOrNow>, example = "0")]
    after: Option<String>,
    /// Long poll: how many seconds to wait for the first event.
    #[param(minimum = 0, maximum = 60, default = 25, example = 0)]
    wait: Option<u64>,
    /// Long poll: how many events at most.
    #[param(minimum = 1, maximum = 200, default = 50, example = 50)]
    limit: Option<usize>,
    /// The events of everybody, for a service whose token has the scope `chat.read_all`; without it, your own.
    #[param(default = false, example = false)]
    all: Option<bool>,
    /// As the header `Last-Event-ID`, for clients that cannot give one: instead of `after`. Also spelt `lastEventId` and
    /// `last-event-id`. The header wins over it.
    #[param(value_type = Option<terms::AfterOrNow>)]
    last_event_id: Option<String>,
    #[param(ignore)]
    #[serde(rename = "lastEventId")]
    last_event_id_of_javascript: Option<String>,
    #[param(ignore)]
    #[serde(rename = "last-event-id", alias = "Last-Event-ID")]
    last_event_id_of_the_header: Option<String>,
    /// [`StreamCaller`] has read it: it is the security scheme `access_token`.
    #[expect(dead_code, reason = "so that it is a parameter that is known")]
    #[param(ignore)]
    access_token: Option<String>,
}

/// Follow what happens
///
/// With `Accept: text/event-stream` a stream (SSE): first `ready`, or `reset` when the cursor is lost, then events
/// without a name and `heartbeat`s, a minute before the token ends `expiring`, at the end `closing`. Each `data:` is a
/// JSON object, each `id:` the cursor to go on after, so that a browser's `EventSource` resumes by itself. When the
/// server cannot serve now, the answer is still 200 with a `closing`: any other status would end an `EventSource` for
/// good.
///
/// Otherwise a long poll: the events after the cursor as soon as there is one, or none after `wait` seconds. A lost
/// cursor is 410 `cursor_reset`, with the fields of `reset`: `cursor` to go on after, `reason`, `oldest`.
///
/// Types and fields of events, and named events, may come: ignore those that you do not know, and go on from their
/// cursor all the same.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(StreamEvents, ("Last-Event-ID" = Option<terms::AfterOrNow>, Header, description = "Wins over `after`")),
    security(("bearer" = []), ("access_token" = [])),
    responses((status = 200, description = "A stream, or a page", content(
        (EventPage<'_> = "application/json", example = json!(examples::event_page())),
        (String = "text/event-stream", example = json!(examples::stream())),
    ))),
)]
pub async fn stream_events(
    State(app): State<AppState>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    caller: Result<StreamCaller, Problem>,
    holder: Holder,
    headers: HeaderMap,
    Query(query): Query<StreamEvents>,
) -> Result<Response, Problem> {
    let form = preferred(headers.get_all(ACCEPT));
    let caller = match caller {
        Ok(StreamCaller(caller)) => caller,
        Err(problem) if form == Some(Form::Stream) && problem.is_temporary() => {
            return Ok(sse::refusal(problem.code));
        }
        Err(problem) => return Err(problem),
    };
    let form = form.ok_or_else(|| Problem::new(Code::NotAcceptable))?;
    let after = query.after(&headers)?;
    let reader = query.reader(&caller)?;
    match form {
        Form::Stream => Ok(sse::stream(app, address, holder, caller, reader, after).await),
        Form::Page => {
            let (limit, wait) = (limit(query.limit)?, query.wait()?);
            poll::poll(&app, address, &holder, caller, reader, after, (limit, wait)).await
        }
    }
}

/// A stream that says why there is none, and ends.
pub(crate) fn refuse_stream(code: Code) -> Response {
    sse::refusal(code)
}

impl StreamEvents {
    /// `Last-Event-ID` wins over the query, because a browser that comes back sends it with the URL that it began with.
    /// `after` is validated even then. Two values in one query that differ are refused, as neither is the newer one.
    fn after(&self, headers: &HeaderMap) -> Result<After, Problem> {
        let mut asked = None;
        for (name, value) in [
            ("after", &self.after),
            ("last_event_id", &self.last_event_id),
            ("lastEventId", &self.last_event_id_of_javascript),
            ("last-event-id", &self.last_event_id_of_the_header),
        ] {
            let Some(text) = value.as_deref().filter(|text| !text.is_empty()) else {
                continue;
            };
            let after = After::parse(text)
                .map_err(|_| Problem::new(Code::CursorInvalid).at_parameter(name, INVALID_CURSOR))?;
            if asked.as_ref().is_some_and(|before| *before != after) {
                let detail = "the query names two different places to go on after";
                return Err(Problem::new(Code::ParameterInvalid).at_parameter(name, detail));
            }
            asked = Some(after);
        }
        let asked = asked.unwrap_or(After::Now);
        let last = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty());
        if let Some(id) = last {
            let after = id.to_str().ok().and_then(|id| After::parse(id).ok());
            let problem = || Problem::new(Code::CursorInvalid).at_header("Last-Event-ID", INVALID_CURSOR);
            return after.ok_or_else(problem);
        }
        Ok(asked)
    }

    /// `all=true` is opt-in, so that a service gets its own events by default.
    fn reader(&self, caller: &Caller) -> Result<Reader, Problem> {
        if self.all != Some(true) {
            return Ok(Reader::User(caller.user_id.clone()));
        }
        if !caller.scopes.read_all {
            let detail = "all=true needs a token with the scope chat.read_all";
            return Err(Problem::new(Code::ScopeMissing).at_parameter("all", detail));
        }
        Ok(Reader::Everything)
    }

    fn wait(&self) -> Result<Duration, Problem> {
        const DEFAULT: u64 = 25;
        const MAX: u64 = 60;
        let seconds = self.wait.unwrap_or(DEFAULT);
        if seconds <= MAX {
            return Ok(Duration::from_secs(seconds));
        }
        Err(Problem::new(Code::ParameterInvalid).at_parameter("wait", format!("wait is 0 to {MAX} seconds")))
    }
}

const INVALID_CURSOR: chat_domain::rejection::Invalid = chat_domain::rejection::Invalid::Cursor;

#[cfg(test)]
mod tests;
