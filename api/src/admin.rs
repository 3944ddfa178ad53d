//! The operator's listener: what is counted, whether the server lives, whether it can serve. It asks for no token, and
//! stands on an address of its own so that it need not be where the doors are.

mod gauges;
mod process;

use axum::{Router, extract::Request, http::header::CONTENT_TYPE, middleware, routing::get};
use tower_http::catch_panic::CatchPanicLayer;

pub use self::gauges::Sampler;
use crate::{
    problem::{self, Code, Problem},
    rest::health,
    router::finish,
    state::AppState,
};

/// The form in which Prometheus reads.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn router(app: AppState, metrics: Sampler) -> Router {
    let show_metrics = move |_: Request| {
        let metrics = metrics.clone();
        async move { ([(CONTENT_TYPE, EXPOSITION)], metrics.render().await) }
    };
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(health::check_health))
        .route("/readyz", get(health::check_readiness))
        .fallback(|| async { Problem::new(Code::RouteNotFound) })
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(finish))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use tower::ServiceExt;

    use crate::{metrics, server::Places, testing::Server};

    #[tokio::test]
    async fn the_operator_sees_metrics_and_readiness_and_nothing_else() {
        let server = Server::new();
        let tail = server.readiness.part("tail");
        let places = Places::new(7, server.router.clone());
        let sampler = super::Sampler::new(metrics::install(), server.app.clone(), places, None);
        let admin = super::router(server.app.clone(), sampler);
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
        for line in [
            "# TYPE chat_connections gauge",
            "chat_open_connections_limit 7",
            "chat_ready 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
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
