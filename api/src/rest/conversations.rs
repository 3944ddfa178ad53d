//! `/v1/conversations`.

use axum::{
    extract::State,
    http::header::LINK,
    response::{IntoResponse, Response},
};

use super::answer;
use super::extract::Query;
use crate::{
    auth::Caller,
    examples,
    limits::Holder,
    operations::{self, ListConversations},
    problem::Problem,
    state::AppState,
    wire::{Binary, Conversations},
};

/// List your conversations
///
/// The one with the newest message first.
#[utoipa::path(
    get, path = "/v1/conversations", tag = "conversations",
    params(ListConversations),
    responses((status = 200, description = "A page of conversations", body = Conversations<'_>, headers(
        ("Link" = String, description = "`next`, where there is one"),
    ), example = json!(examples::conversations()))),
)]
pub async fn list_conversations(
    State(app): State<AppState>,
    caller: Caller,
    holder: Holder,
    Query(query): Query<ListConversations>,
) -> Result<Response, Problem> {
    let (list, room) = operations::list_conversations(&app, &holder, &caller.user_id, query).await?;
    let link = list.next.as_ref();
    let link = link.map(|next| [(LINK, format!(r#"<{next}>; rel="next""#))]);
    Ok((link, answer::json(room, &list.body(&mut Binary::Base64))?).into_response())
}

#[cfg(test)]
mod tests;
