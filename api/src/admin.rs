//! The operator's listener: what is counted, whether the server lives, whether it can serve. It asks for no token, and
//! stands on an address of its own so that it need not be where the doors are.

use axum::{Router, extract::Request, http::header::CONTENT_TYPE, middleware, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    problem::{self, Code, Problem},
    rest::health,
    state::AppState,
};

/// The form in which Prometheus reads.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn router(app: AppState, metrics: PrometheusHandle) -> Router {
    let show_metrics = async move |_: Request| ([(CONTENT_TYPE, EXPOSITION)], metrics.render());
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(health::check_health))
        .route("/readyz", get(health::check_readiness))
        .fallback(|| async { Problem::new(Code::RouteNotFound) })
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::finish))
        .with_state(app)
}
