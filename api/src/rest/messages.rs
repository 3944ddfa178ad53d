//! `/v1/messages`: to send, to list, to get one.

use axum::{
    extract::State,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{LINK, LOCATION},
    },
    response::{IntoResponse, Response},
};
use chat_domain::{
    Position,
    batch::Outcome,
    command::Command,
    ids::{ConversationId, UserId},
    views::{MessagePage, MessageRange, Order},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::key::Key;
use crate::{
    auth::Caller,
    problem::{Code, Json, Path, Problem, Query},
    state::AppState,
    wire::{History, Message, NewMessage},
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Send a message
///
/// It is answered once the message is durable. Give an `Idempotency-Key` and a send can be repeated, however late, and
/// is recorded once: the answer is then again 201, with the message as it is now and `Idempotency-Replayed: true`. Without
/// a key, a send that is repeated may double.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 64 visible ASCII characters, unique among your commands", example = "c1-88")),
    request_body(content = NewMessage, examples(
        ("text" = (value = json!({"receiver_id": "bob", "text": "hi"}))),
        ("data" = (value = json!({"receiver_id": "bob", "data": "iVBORw0KGgo=", "content_type": "image/png"}))),
    )),
    responses((status = 201, description = "The message is recorded", body = Message<'_>, headers(
        ("Location" = String, description = "The URL of the message"),
        ("Idempotency-Replayed" = String, description = "`true` if it was recorded before with the same key"),
    ))),
)]
pub async fn send_message(
    State(app): State<AppState>,
    caller: Caller,
    Key(key): Key,
    Json(body): Json<NewMessage>,
) -> Result<Response, Problem> {
    app.limits.admit_send(&caller.user_id)?;
    let action = body.action(app.content_limit)?;
    let user = caller.user_id.clone();
    let outcome = app
        .log
        .execute(Command {
            actor_id: caller.user_id,
            via: None,
            key,
            action,
        })
        .await?;
    let (message, replayed) = match outcome {
        Outcome::Sent(recorded) => (recorded.message(), false),
        Outcome::SentBefore(id) => (app.timeline.message(&user, id).await?, true),
        Outcome::Marked(_) => return Err(Problem::new(Code::Internal)),
    };
    let message = message.ok_or_else(|| Problem::new(Code::MessageNotFound))?;
    let location = format!("/v1/messages/{}", message.id);
    let mut response = (
        StatusCode::CREATED,
        [(LOCATION, location)],
        axum::Json(Message::from(&message)),
    )
        .into_response();
    if replayed {
        response
            .headers_mut()
            .insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MessagePath {
    /// Of a message that you sent or received.
    #[param(example = 4182)]
    #[serde(rename = "_id")]
    id: Position,
}

/// Get a message
#[utoipa::path(
    get, path = "/v1/messages/{_id}", tag = "messages",
    params(MessagePath),
    responses((status = 200, description = "The message as it is now", body = Message<'_>)),
)]
pub async fn get_message(
    State(app): State<AppState>,
    caller: Caller,
    Path(path): Path<MessagePath>,
) -> Result<Response, Problem> {
    let message = app.timeline.message(&caller.user_id, path.id).await?;
    let message = message.ok_or_else(|| Problem::new(Code::MessageNotFound))?;
    Ok(axum::Json(Message::from(&message)).into_response())
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListMessages {
    /// The other one: a user id.
    #[param(required = true, example = "bob")]
    with: Option<String>,
    /// Only messages with a smaller `_id`.
    before: Option<Position>,
    /// Only messages with a greater `_id`, ascending.
    after: Option<Position>,
    /// Only messages sent at this second or later, ascending.
    since: Option<i64>,
    /// Only messages sent at this second or earlier.
    until: Option<i64>,
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
}

/// List the messages of a conversation
///
/// The newest first; the oldest first when `after` or `since` is given. All bounds hold together: a range that
/// contradicts itself holds nothing, and neither does a conversation that there is not.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages",
    params(ListMessages),
    responses((status = 200, description = "A page of messages", body = History<'_>, headers(
        ("Link" = String, description = "`next` and `prev`, where there are such"),
    ))),
)]
pub async fn list_messages(
    State(app): State<AppState>,
    caller: Caller,
    Query(query): Query<ListMessages>,
) -> Result<Response, Problem> {
    let with = query.with.as_deref().ok_or_else(|| {
        Problem::new(Code::ParameterInvalid).at_parameter("with", "the user id of the other one is needed")
    })?;
    let with = UserId::parse(with).map_err(|invalid| Problem::from(invalid).at_parameter("with", invalid))?;
    let conversation = ConversationId::direct(&caller.user_id, &with);
    let range = query.range()?;
    let page = app
        .timeline
        .messages(&caller.user_id, &conversation, range.clone())
        .await?;
    let links = Links::new(&with, &range, &page);
    let header = links.header();
    let history = History {
        messages: page.messages.iter().map(Message::from).collect(),
        next: links.next,
        prev: links.prev,
        cursor: page.cursor.to_string(),
    };
    Ok((header.map(|links| [(LINK, links)]), axum::Json(history)).into_response())
}

impl ListMessages {
    fn range(&self) -> Result<MessageRange, Problem> {
        let ascending = self.after.is_some() || self.since.is_some();
        Ok(MessageRange {
            before: self.before,
            after: self.after,
            since: self.since,
            until: self.until,
            order: if ascending {
                Order::Ascending
            } else {
                Order::Descending
            },
            limit: limit(self.limit)?,
        })
    }
}

pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    const DEFAULT: usize = 50;
    const MAX: usize = 200;
    let limit = asked.unwrap_or(DEFAULT);
    if (1..=MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(Code::ParameterInvalid).at_parameter("limit", format!("limit is 1 to {MAX}")))
}

/// Where to go from a page. `next` stays within the range that was asked for; `prev` begins on the other side of the
/// page's first message and so goes in the other order, without the bounds: they were those of the walk to here.
struct Links {
    next: Option<String>,
    prev: Option<String>,
}

impl Links {
    fn new(with: &UserId, range: &MessageRange, page: &MessagePage) -> Self {
        let url = |bounds: &[(&str, Option<i64>)]| {
            let path = "/v1/messages?";
            let mut query = form_urlencoded::Serializer::for_suffix(path.to_owned(), path.len());
            let mut query = query.append_pair("with", with.as_str());
            for (name, value) in bounds.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
                query = query.append_pair(name, &value.to_string());
            }
            query.append_pair("limit", &range.limit.to_string()).finish()
        };
        let (first, last) = (page.messages.first(), page.messages.last());
        let next = last.filter(|_| page.more).map(|last| match range.order {
            Order::Ascending => url(&[
                ("after", Some(last.id)),
                ("before", range.before),
                ("until", range.until),
            ]),
            Order::Descending => url(&[("before", Some(last.id))]),
        });
        let prev = first.and_then(|first| match range.order {
            Order::Ascending => (first.seq > 1).then(|| url(&[("before", Some(first.id))])),
            // A walk that began at the newest has nothing on the other side of its first page.
            Order::Descending => {
                let bounded = range.before.is_some() || range.until.is_some();
                bounded.then(|| url(&[("after", Some(first.id))]))
            }
        });
        Self { next, prev }
    }

    fn header(&self) -> Option<String> {
        let link = |url: &Option<String>, rel| url.as_ref().map(|url| format!(r#"<{url}>; rel="{rel}""#));
        let links: Vec<_> = [link(&self.next, "next"), link(&self.prev, "prev")]
            .into_iter()
            .flatten()
            .collect();
        (!links.is_empty()).then(|| links.join(", "))
    }
}

#[cfg(test)]
mod tests;
