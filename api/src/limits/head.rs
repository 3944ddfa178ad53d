//! The head of a request. hyper bounds what it reads, and answers with a bare status; this bound is below that one
//! and answers as everything else does.

use axum::{
    extract::Request,
    http::{HeaderMap, Method, Uri, Version, header::HOST},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::problem::{Code, Problem};

/// Bytes of the method, the target, and the names and values of the headers.
pub const HEAD_LIMIT: usize = 16 << 10;

/// A request of HTTP/1.1 names one host (RFC 9112, section 3.2); of two, a proxy before this server may take the other
/// one.
pub async fn require_host(request: Request, next: Next) -> Response {
    let hosts = request.headers().get_all(HOST).iter().count();
    let least = usize::from(request.version() == Version::HTTP_11);
    if (least..=1).contains(&hosts) {
        return next.run(request).await;
    }
    let detail = format!("a request has one Host, not {hosts}");
    Problem::new(Code::RequestInvalid)
        .at_header("Host", detail)
        .into_response()
}

pub async fn bound_head(request: Request, next: Next) -> Response {
    let length = length(request.method(), request.uri(), request.headers());
    if length <= HEAD_LIMIT {
        return next.run(request).await;
    }
    let detail = format!("{length} bytes are more than {HEAD_LIMIT}.");
    Problem::new(Code::HeadersTooLarge).detail(detail).into_response()
}

fn length(method: &Method, uri: &Uri, headers: &HeaderMap) -> usize {
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path_and_query = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    method.as_str().len() + authority + path_and_query + headers.sum::<usize>()
}
