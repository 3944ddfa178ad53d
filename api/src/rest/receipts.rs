//! `/v1/receipts`.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};

use super::{
    extract::{Json, NoParameters, Query},
    key::Key,
};
use crate::{
    auth::Actor,
    examples, operations,
    problem::Problem,
    state::AppState,
    terms::{CommandKey, UserId},
    wire::{NewReceipt, Receipt},
};

/// Say that messages are received, or read
///
/// Everything up to the message, in its conversation. Never backwards: a receipt for what is so already changes
/// nothing, and is answered with the marks as they are. Reading implies receiving.
#[utoipa::path(
    post, path = "/v1/receipts", tag = "receipts",
    params(("Idempotency-Key" = Option<CommandKey>, Header, description = "Unique among your commands. A receipt can be repeated without one"),
        ("Act-As" = Option<UserId>, Header, description = "For a service whose token has the scope `chat.send_as`: the user who has received or read. The event names the service as `via`")),
    request_body(content = NewReceipt, example = json!({"type": "read", "up_to": 4182})),
    responses((status = 200, description = "Your marks in that conversation", body = Receipt<'_>, example = json!(examples::receipt()))),
)]
pub async fn send_receipt(
    State(app): State<AppState>,
    actor: Actor,
    Key(key): Key,
    Query(NoParameters {}): Query<NoParameters>,
    Json(body, _room): Json<NewReceipt>,
) -> Result<Response, Problem> {
    let marked = operations::send_receipt(&app, actor, key, body).await?;
    Ok(axum::Json(Receipt::from(&marked)).into_response())
}

#[cfg(test)]
mod tests;
