//! `/healthz` and `/readyz`.

use axum::extract::State;

use crate::{
    problem::{Code, Problem},
    state::AppState,
};

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, description = "It is", body = String, content_type = "text/plain", example = json!("ok\n"))))]
pub async fn check_health() -> &'static str {
    "ok\n"
}

/// Whether the server can serve
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()),
    responses((status = 200, description = "It can", body = String, content_type = "text/plain", example = json!("ready\n"))))]
pub async fn check_readiness(State(app): State<AppState>) -> Result<&'static str, Problem> {
    let missing = app.readiness.missing();
    if missing.is_empty() {
        return Ok("ready\n");
    }
    let reasons: Vec<_> = missing
        .iter()
        .map(|(part, reason)| format!("{part}: {reason}"))
        .collect();
    Err(Problem::new(Code::NotReady).detail(reasons.join("; ")))
}
