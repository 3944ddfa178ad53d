use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};

use super::*;
use crate::testing::{Answer, Server, Setup};

const PAGE: Files = &[
    ("assets/index-Ab12.css", b"a{}"),
    ("assets/index-Ab12.js", b"let a = 1"),
    ("assets/index-Ab12.js.gz", b"compressed"),
    ("assets/notes.txt", b"not of a known type"),
    (
        "index.html",
        br#"<!doctype html><meta name="chat-server" content=""><script type="module" src="./assets/index-Ab12.js"></script>"#,
    ),
];

fn with(page: Files) -> Server {
    Server::with(Setup {
        page,
        ..Setup::default()
    })
}

async fn ask(server: &Server, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(Body::empty())
        .unwrap();
    for (name, value) in headers {
        request
            .headers_mut()
            .append(*name, HeaderValue::from_str(value).unwrap());
    }
    server.call(request).await
}

#[tokio::test]
async fn the_page_is_at_the_top_and_may_run_nothing_but_its_own_scripts() {
    let server = with(PAGE);
    let page = ask(&server, Method::GET, "/", &[]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    assert_eq!(page.header("x-frame-options"), "DENY");
    let policy = page.header("content-security-policy");
    for directive in [
        "default-src 'none';",
        "script-src 'self';",
        "frame-ancestors 'none';",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(page.body.as_str().unwrap().contains("./assets/index-Ab12.js"));
}

#[tokio::test]
async fn the_page_is_told_how_one_signs_in_how_large_a_message_may_be_and_which_claim_is_the_user() {
    for (development, told) in [
        (
            false,
            "sign-in=token; content-limit=100; user-claim=https%3A%2F%2Fe.com%2Fid%3B%3E",
        ),
        (
            true,
            "sign-in=development; content-limit=100; user-claim=https%3A%2F%2Fe.com%2Fid%3B%3E",
        ),
    ] {
        let server = Server::with(Setup {
            page: PAGE,
            development,
            ..Setup::default()
        });
        let page = ask(&server, Method::GET, "/", &[]).await;
        let element = format!(r#"<meta name="chat-server" content="{told}">"#);
        assert!(page.body.as_str().unwrap().contains(&element), "{}", page.body);
    }
}

#[tokio::test]
async fn assets_are_kept_for_ever_and_the_page_is_asked_for_anew() {
    let server = with(PAGE);
    let page = ask(&server, Method::GET, "/", &[]).await;
    assert_eq!(page.header("cache-control"), "no-cache");
    let asset = ask(&server, Method::GET, "/assets/index-Ab12.css", &[]).await;
    assert_eq!(
        asset.header("cache-control"),
        "public, max-age=31536000, immutable"
    );
    assert_eq!(asset.header("content-type"), "text/css; charset=utf-8");
    for (path, etag) in [
        ("/", page.header("etag")),
        ("/assets/index-Ab12.css", asset.header("etag")),
    ] {
        for known in [etag, &format!("W/{etag}"), &format!("\"other\", {etag}"), "*"] {
            let again = ask(&server, Method::GET, path, &[("if-none-match", known)]).await;
            assert_eq!(
                (again.status.as_u16(), again.body.as_str()),
                (304, Some("")),
                "{known}"
            );
            assert_eq!(again.header("etag"), etag);
        }
        let other = ask(&server, Method::GET, path, &[("if-none-match", "\"other\"")]).await;
        assert_eq!(other.status, 200);
    }
    let elsewhere = Server::with(Setup {
        page: PAGE,
        development: true,
        ..Setup::default()
    });
    let told_otherwise = ask(&elsewhere, Method::GET, "/", &[]).await;
    assert_ne!(told_otherwise.header("etag"), page.header("etag"));
}

#[tokio::test]
async fn what_was_compressed_when_it_was_built_goes_to_those_who_accept_it() {
    let server = with(PAGE);
    let path = "/assets/index-Ab12.js";
    let mut etags = Vec::new();
    for (accepted, compressed) in [
        ("gzip, deflate, br", true),
        ("br;q=1, GZIP; q=0.5", true),
        ("br, gzip;q=0", false),
        ("identity", false),
        ("", false),
    ] {
        let answer = ask(&server, Method::GET, path, &[("accept-encoding", accepted)]).await;
        let body = if compressed { "compressed" } else { "let a = 1" };
        assert_eq!(answer.body.as_str(), Some(body), "{accepted}");
        assert_eq!(
            !answer.header("content-encoding").is_empty(),
            compressed,
            "{accepted}"
        );
        assert_eq!(answer.header("content-type"), "text/javascript; charset=utf-8");
        assert_eq!(answer.header("vary"), "Accept-Encoding");
        etags.push(answer.header("etag").to_owned());
    }
    assert_ne!(etags[0], etags[2], "two bodies have two names");
    let plain = ask(
        &server,
        Method::GET,
        "/assets/index-Ab12.css",
        &[("accept-encoding", "gzip")],
    )
    .await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", ""));
}

#[tokio::test]
async fn only_what_the_build_made_is_there() {
    let server = with(PAGE);
    for path in [
        "/index.html",
        "/assets/",
        "/assets/nothing.js",
        "/assets/index-Ab12.js.gz",
        "/assets/notes.txt",
        "/assets/../index.html",
        "/assets/..%2Findex.html",
    ] {
        assert_eq!(
            ask(&server, Method::GET, path, &[]).await.code(),
            "route_not_found",
            "{path}"
        );
    }
    let head = ask(&server, Method::HEAD, "/assets/index-Ab12.css", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.as_str()), (200, Some("")));
    let post = ask(&server, Method::POST, "/assets/index-Ab12.css", &[]).await;
    assert_eq!(post.code(), "method_not_allowed");
}

#[test]
fn without_an_index_there_is_no_page() {
    let facts = || Facts {
        development: false,
        content_limit: 1,
        user_claim: "sub".into(),
    };
    assert!(ChatPage::new(&[("assets/a.js", b"")], facts()).is_none());
    // Whether this very build has one or not, its table can be read.
    let has_index = EMBEDDED.iter().any(|(name, _)| *name == "index.html");
    assert_eq!(ChatPage::new(EMBEDDED, facts()).is_some(), has_index);
}
