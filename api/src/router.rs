//! All routes, in one table, and what stands around each of them.
//!
//! From outside in: `address::find_client` says for whom the request is; `finish` gives it its id and
//! writes every refusal's body; a panic becomes a problem; a head that is too large, or that does not name one host, goes
//! no further. Nothing compresses, because that buffers streams, and nothing times a request out from outside, because
//! that would cut streams and leave commands with an unknown outcome: what waits has its own limit. Bodies are bounded
//! where they are read ([`limits::read_body`]).

mod address;
mod finish;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header::CONNECTION},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::finish::finish;
use crate::{
    door::Door,
    limits::{self},
    openapi,
    problem::{self, Code, Problem},
    rest::{conversations, development, events, extract, health, messages, pages, receipts},
    socket,
    state::AppState,
};

/// What is documented: this table is also the OpenAPI document's.
pub fn table() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::frame())
        .routes(routes!(messages::send_message, messages::list_messages))
        .routes(routes!(messages::get_message))
        .routes(routes!(conversations::list_conversations))
        .routes(routes!(receipts::send_receipt))
        .routes(routes!(events::stream_events))
        .routes(routes!(health::check_health))
        .routes(routes!(health::check_readiness))
}

/// What is there only without a key. It is in the document all the same, and says so there.
pub fn development_table() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(development::create_development_token))
}

type Page = fn() -> MethodRouter<AppState>;

/// Public pages. Listed so that a test can request each as every kind of caller.
const PAGES: [(&str, Page); 7] = [
    ("/", || get(pages::show_home)),
    ("/assets/{name}", || get(pages::show_asset)),
    ("/openapi.json", || get(pages::show_openapi)),
    ("/asyncapi.json", || get(pages::show_asyncapi)),
    ("/docs", || get(pages::redirect_to_docs)),
    ("/docs/", || get(pages::show_docs)),
    ("/docs/{*file}", || get(pages::show_docs)),
];

fn page_table() -> Router<AppState> {
    PAGES
        .iter()
        .fold(Router::new(), |router, (path, page)| router.route(path, page()))
}

pub fn router(app: AppState) -> Router {
    let (mut routes, _) = table().split_for_parts();
    routes = routes.route_layer(middleware::from_fn(extract::refuse_misspelt_headers));
    if app.development.is_some() {
        routes = routes.merge(Router::from(development_table()));
    }
    let routes = routes
        .merge(page_table())
        .merge(socket::router(&app))
        .fallback(|| async { Problem::new(Code::RouteNotFound) });
    surround(routes, &app).with_state(app)
}

/// What a connection beyond the limit gets: the refusal, in the form of its door, and its end. `/healthz` and `/readyz`
/// still answer, or a full node would be restarted.
pub fn full(app: AppState) -> Router {
    let routes = Router::new()
        .route("/healthz", get(health::check_health))
        .route("/readyz", get(health::check_readiness))
        .fallback(refuse_connection);
    surround(routes, &app)
        .layer(middleware::from_fn(end_connection))
        .with_state(app)
}

fn surround(routes: Router<AppState>, app: &AppState) -> Router<AppState> {
    routes
        .layer(middleware::from_fn(limits::bound_head))
        .layer(middleware::from_fn(limits::require_host))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(finish))
        .layer(middleware::from_fn_with_state(app.clone(), address::find_client))
}

async fn refuse_connection(request: Request) -> Response {
    match Door::of(request.uri(), request.headers()) {
        Door::Sse => events::refuse_stream(Code::TooManyConnections),
        Door::Rest | Door::LongPoll | Door::SocketIo => Problem::new(Code::TooManyConnections)
            .detail("Too many of this address, or of all clients together.")
            .into_response(),
    }
}

async fn end_connection(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

#[cfg(test)]
mod tests;
