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

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use tower::ServiceExt;

    use crate::{metrics, testing::Server};

    #[tokio::test]
    async fn the_operator_sees_metrics_and_readiness_and_nothing_else() {
        let server = Server::new();
        let tail = server.readiness.part("tail");
        let admin = super::router(server.app.clone(), metrics::install());
        let ask = async |path: &str| {
            let answer = admin
                .clone()
                .oneshot(Request::get(path).body(Body::empty()).unwrap())
                .await
                .unwrap();
            let (head, body) = answer.into_parts();
            let text = to_bytes(body, usize::MAX).await.unwrap().to_vec();
            let content_type = head.headers["content-type"].to_str().unwrap().to_owned();
            (
                head.status.as_u16(),
                content_type,
                String::from_utf8(text).unwrap(),
            )
        };
        let (status, content_type, text) = ask("/metrics").await;
        assert_eq!((status, content_type.as_str()), (200, super::EXPOSITION));
        assert!(text.contains("# TYPE chat_connections gauge"), "{text}");
        assert_eq!(ask("/healthz").await.0, 200);
        let (status, content_type, text) = ask("/readyz").await;
        assert_eq!((status, content_type.as_str()), (503, "application/problem+json"));
        assert!(text.contains("not_ready"), "{text}");
        tail.ready();
        assert_eq!(ask("/readyz").await.0, 200);
        for path in ["/", "/v1/messages", "/dev/token", "/metrics/"] {
            let (status, _, text) = ask(path).await;
            assert_eq!(status, 404, "{path}");
            assert!(text.contains("route_not_found"), "{text}");
        }
    }
}
