//! Pages for people: `/`, `/docs` and the document that `/docs` shows. Everything comes from the binary, so they work
//! without the internet, and all links are relative, so they work behind a proxy that adds a prefix.
//!
//! `/` is the chat page where the binary was built with it, else a small page that says how to get it.

use std::sync::{Arc, LazyLock};

use axum::{
    extract::{Path, RawPathParams, State},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, X_FRAME_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use utoipa_swagger_ui::Config;

use crate::{
    chat_page,
    problem::{Code, Problem},
    state::AppState,
};

const HOME: &str = include_str!("pages/home.html");
const HOME_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Swagger UI writes styles into its elements and draws pictures from `data:`.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

fn page_headers(policy: &'static str) -> [(HeaderName, &'static str); 4] {
    [
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (CACHE_CONTROL, "no-cache"),
    ]
}

pub async fn show_home(State(app): State<AppState>, request: HeaderMap) -> Response {
    match &app.chat_page {
        Some(page) => (page_headers(chat_page::POLICY), page.index(&request)).into_response(),
        None => {
            let html = [(CONTENT_TYPE, "text/html; charset=utf-8")];
            (page_headers(HOME_POLICY), html, HOME).into_response()
        }
    }
}

/// What the chat page asks for.
pub async fn show_asset(
    State(app): State<AppState>,
    Path(name): Path<String>,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let page = app.chat_page.as_ref();
    page.and_then(|page| page.asset(&name, &request))
        .ok_or_else(|| Problem::new(Code::RouteNotFound))
}

pub async fn show_openapi() -> Response {
    const DOCUMENT: &str = include_str!("../../../openapi/openapi.json");
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, DOCUMENT).into_response()
}

pub async fn show_asyncapi() -> Response {
    const DOCUMENT: &str = include_str!("../../../openapi/asyncapi.json");
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")];
    (headers, DOCUMENT).into_response()
}

/// The page's own links are relative to `/docs/`.
pub async fn redirect_to_docs() -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(LOCATION, "docs/")]).into_response()
}

pub async fn show_docs(path: RawPathParams) -> Result<Response, Problem> {
    static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
        // Without `validator_url` the page would ask swagger.io whether a document on a public name is valid.
        Arc::new(
            Config::from("../openapi.json")
                .validator_url("none")
                .try_it_out_enabled(true),
        )
    });
    let file = path.iter().next().map_or("", |(_, file)| file);
    match utoipa_swagger_ui::serve(file, CONFIG.clone()) {
        Ok(Some(file)) => {
            let content_type = [(CONTENT_TYPE, file.content_type)];
            Ok((page_headers(DOCS_POLICY), content_type, file.bytes.into_owned()).into_response())
        }
        Ok(None) => Err(Problem::new(Code::RouteNotFound)),
        Err(error) => {
            tracing::error!(error = error.as_ref(), file, "a file of the docs cannot be made");
            Err(Problem::new(Code::Internal))
        }
    }
}
