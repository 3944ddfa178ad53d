//! `/v1/messages`: to send, to list, to get one.

use axum::{
    extract::State,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{LINK, LOCATION},
    },
    response::{IntoResponse, Response},
};
use chat_domain::Position;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    answer,
    extract::{Json, NoParameters, Path, Query},
    key::Key,
};
use crate::{
    auth::{Actor, Caller},
    examples,
    limits::Holder,
    operations::{self, ListMessages, Sent},
    problem::Problem,
    state::AppState,
    terms::{CommandKey, MessageId, UserId},
    wire::{Binary, History, Message, MessageForm, NewMessage},
};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Send a message
///
/// It is answered once the message is durable. Give an `Idempotency-Key` and a send can be repeated, however late, and
/// is recorded once: the answer is then again 201, with the message as it is now and `Idempotency-Replayed: true`. Without
/// a key, a send that is repeated may double.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages",
    params(("Idempotency-Key" = Option<CommandKey>, Header, description = "Unique among your commands: the same key again is the same command"),
        ("Act-As" = Option<UserId>, Header, description = "For a service whose token has the scope `chat.send_as`: the user who sends. The event names the service as `via`")),
    request_body(content = MessageForm, examples(
        ("text" = (value = json!(examples::new_text()))),
        ("data" = (value = json!(examples::new_data()))),
    )),
    responses((status = 201, description = "The message is recorded", body = Message<'_>, headers(
        ("Location" = String, description = "The URL of the message"),
        ("Idempotency-Replayed" = String, description = "`true` if it was recorded before with the same key"),
    ), example = json!(examples::message()))),
)]
pub async fn send_message(
    State(app): State<AppState>,
    actor: Actor,
    holder: Holder,
    Key(key): Key,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body, _room): Json<NewMessage>,
) -> Result<Response, Problem> {
    let sent = operations::send_message(&app, &holder, actor, key, body.draft()?).await?;
    let Sent {
        message,
        replayed,
        room,
    } = sent;
    let location = format!("/v1/messages/{}", message.id);
    let mut response = (
        StatusCode::CREATED,
        [(LOCATION, location)],
        answer::json(room, &Message::new(&message, &mut Binary::Base64))?,
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
    #[param(value_type = MessageId, example = 4182)]
    #[serde(rename = "_id")]
    id: Position,
}

/// Get a message
#[utoipa::path(
    get, path = "/v1/messages/{_id}", tag = "messages",
    params(MessagePath),
    responses((status = 200, description = "The message as it is now", body = Message<'_>, example = json!(examples::received_message()))),
)]
pub async fn get_message(
    State(app): State<AppState>,
    caller: Caller,
    holder: Holder,
    Path(path): Path<MessagePath>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let (message, room) = operations::get_message(&app, &holder, &caller.user_id, path.id).await?;
    answer::json(room, &Message::new(&message, &mut Binary::Base64))
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
    ), example = json!(examples::history()))),
)]
pub async fn list_messages(
    State(app): State<AppState>,
    caller: Caller,
    holder: Holder,
    Query(query): Query<ListMessages>,
) -> Result<Response, Problem> {
    let (list, room) = operations::list_messages(&app, &holder, &caller.user_id, query).await?;
    let link = |url: &Option<String>, rel| url.as_ref().map(|url| format!(r#"<{url}>; rel="{rel}""#));
    let links: Vec<_> = [link(&list.next, "next"), link(&list.prev, "prev")]
        .into_iter()
        .flatten()
        .collect();
    let links = (!links.is_empty()).then(|| [(LINK, links.join(", "))]);
    Ok((links, answer::json(room, &list.body(&mut Binary::Base64))?).into_response())
}

#[cfg(test)]
mod tests;
