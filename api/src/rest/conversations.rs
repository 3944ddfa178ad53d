//! `/v1/conversations`.

use axum::{
    extract::State,
    http::header::LINK,
    response::{IntoResponse, Response},
};
use chat_domain::Position;
use serde::Deserialize;
use utoipa::IntoParams;

use super::messages::limit;
use crate::{
    auth::Caller,
    problem::{Problem, Query},
    state::AppState,
    wire::{Conversation, Conversations},
};

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListConversations {
    /// Only conversations whose last message has a smaller `_id`.
    before: Option<Position>,
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
}

/// List your conversations
///
/// The one with the newest message first.
#[utoipa::path(
    get, path = "/v1/conversations", tag = "conversations",
    params(ListConversations),
    responses((status = 200, description = "A page of conversations", body = Conversations<'_>, headers(
        ("Link" = String, description = "`next`, where there is one"),
    ))),
)]
pub async fn list_conversations(
    State(app): State<AppState>,
    caller: Caller,
    Query(query): Query<ListConversations>,
) -> Result<Response, Problem> {
    let limit = limit(query.limit)?;
    let page = app
        .timeline
        .conversations(&caller.user_id, query.before, limit)
        .await?;
    let next = page
        .next_before
        .map(|before| format!("/v1/conversations?before={before}&limit={limit}"));
    let link = next
        .as_ref()
        .map(|next| [(LINK, format!(r#"<{next}>; rel="next""#))]);
    let conversations = page
        .conversations
        .iter()
        .map(|view| Conversation::new(view, &caller.user_id))
        .collect();
    let body = Conversations {
        conversations,
        next,
        cursor: page.cursor.to_string(),
    };
    Ok((link, axum::Json(body)).into_response())
}

#[cfg(test)]
mod tests;
