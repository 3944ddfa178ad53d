//! The chat page of `frontend/web`, served from the binary: `index.html` at `/`, and beside it, in `assets/`, what it
//! asks for.
//!
//! The names of assets carry a hash of what is in them, so they are kept for ever; the page itself is asked for anew each
//! time, and is `304` where it has not changed. The server tells the page two facts about itself in a `<meta>` element:
//! whether it gives development tokens, and how large a message may be. What is worth it was compressed when it was built
//! (`NAME.gz` beside `NAME`); nothing is compressed here.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// The files of a built page, by their names. Empty where it was not built.
pub type Files = &'static [(&'static str, &'static [u8])];

/// What the build script has found.
pub const EMBEDDED: Files = include!(concat!(env!("OUT_DIR"), "/chat_page.rs"));

const INDEX: &str = "index.html";
/// Where the server's facts go.
const FACTS: &str = r#"<meta name="chat-server" content="">"#;

/// What the page may do: run its own scripts, which cannot make elements from text, and talk to this server. The
/// websocket of the same origin is part of 'self'. Pictures that somebody has sent are blobs.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
    font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What the server tells the page.
#[derive(Debug, Clone)]
pub struct Facts {
    pub development: bool,
    pub content_limit: usize,
    pub user_claim: String,
}

pub struct ChatPage {
    index: File,
    assets: BTreeMap<&'static str, File>,
}

struct File {
    content_type: &'static str,
    cache: &'static str,
    plain: Body,
    gzip: Option<Body>,
}

/// Bytes and their name.
struct Body {
    bytes: Bytes,
    etag: HeaderValue,
}

impl ChatPage {
    /// None where there is no page among the files.
    pub fn new(files: Files, facts: Facts) -> Option<Self> {
        let find = |name: &str| {
            files
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| *bytes)
        };
        let index = str::from_utf8(find(INDEX)?).ok()?;
        let told = format!(
            r#"<meta name="chat-server" content="sign-in={}; content-limit={}; user-claim={}">"#,
            if facts.development { "development" } else { "token" },
            facts.content_limit,
            // No sign of HTML or of this list is left of it.
            form_urlencoded::byte_serialize(facts.user_claim.as_bytes()).collect::<String>(),
        );
        let index = File {
            content_type: "text/html; charset=utf-8",
            cache: "no-cache",
            plain: Body::new(Bytes::from(index.replacen(FACTS, &told, 1))),
            gzip: None,
        };
        let assets = files.iter().filter(|(name, _)| name.starts_with("assets/"));
        let assets = assets.filter_map(|&(name, bytes)| {
            let asset = File {
                content_type: content_type(name)?,
                cache: "public, max-age=31536000, immutable",
                plain: Body::new(Bytes::from_static(bytes)),
                gzip: find(&format!("{name}.gz")).map(|bytes| Body::new(Bytes::from_static(bytes))),
            };
            Some((name, asset))
        });
        Some(Self {
            index,
            assets: assets.collect(),
        })
    }

    pub fn index(&self, request: &HeaderMap) -> Response {
        self.index.answer(request)
    }

    /// What is at `assets/NAME`.
    pub fn asset(&self, name: &str, request: &HeaderMap) -> Option<Response> {
        let asset = self.assets.get(format!("assets/{name}").as_str())?;
        Some(asset.answer(request))
    }
}

impl File {
    fn answer(&self, request: &HeaderMap) -> Response {
        let gzip = self.gzip.as_ref().filter(|_| accepts_gzip(request));
        let body = gzip.unwrap_or(&self.plain);
        let mut headers = HeaderMap::from_iter([
            (CACHE_CONTROL, HeaderValue::from_static(self.cache)),
            (ETAG, body.etag.clone()),
        ]);
        if self.gzip.is_some() {
            headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        if is_known(request, &body.etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if gzip.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        (headers, body.bytes.clone()).into_response()
    }
}

impl Body {
    fn new(bytes: Bytes) -> Self {
        let hash = BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(&bytes)[..15]);
        let etag = HeaderValue::from_str(&format!("\"{hash}\""));
        Self {
            bytes,
            etag: etag.unwrap_or(HeaderValue::from_static("\"\"")),
        }
    }
}

/// Only what a build makes. None for all else, which is not served.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "woff2" => "font/woff2",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}

/// The words of a header that is a list with commas between.
fn words(request: &HeaderMap, header: HeaderName) -> impl Iterator<Item = &str> {
    let values = request.get_all(header).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    words(request, ACCEPT_ENCODING).any(|word| {
        let (name, weight) = word.split_once(';').unwrap_or((word, ""));
        let refused = weight
            .trim()
            .strip_prefix("q=")
            .is_some_and(|q| q.parse() == Ok(0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    words(request, IF_NONE_MATCH)
        .any(|known| known == "*" || known.trim_start_matches("W/").as_bytes() == etag)
}

#[cfg(test)]
mod tests;
