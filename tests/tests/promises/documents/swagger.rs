//! `/docs` in a real browser, as somebody uses it who reads the API for the first time.

use std::{fs::File, path::Path, time::Duration};

use chat_tests::{
    Client, Database, Kind, Server,
    guard::{Process, temporary_folder},
    ok, plain, reply,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(180);
const CHROMIUM: &str = "/usr/bin/chromium";

/// With a secret, as in production, where there are no development tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authorizes_and_sends_a_message_where_a_key_is_configured() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start(&database, &[]).await;
    let token = server.token("alice");
    send_from_the_page(&server, &token).await;
    let none = reply(
        Client::new(&server.url(), "")
            .post("/dev/token")
            .json(&json!({"user_id": "alice"})),
    )
    .await;
    assert_eq!(none.status, 404, "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_authorizes_and_sends_a_message_with_a_development_token() {
    let database = Database::fresh(Kind::Sqlite).await;
    let server = Server::start_for_development(&database, &[]).await;
    let client = Client::new(&server.url(), "");
    let signed = ok(client.post("/dev/token").json(&json!({"user_id": "alice"})))
        .await
        .unwrap();
    send_from_the_page(&server, signed["token"].as_str().unwrap()).await;
}

async fn send_from_the_page(server: &Server, token: &str) {
    let text = "tried out \u{1f44b}";
    let seen = page(server, token, text).await;
    assert_eq!(seen["status"].as_str().unwrap().trim(), "201", "{seen}");
    let message = &seen["body"];
    assert_eq!(
        (&message["sender_id"], &message["receiver_id"], &message["text"]),
        (&json!("alice"), &json!("bob"), &json!(text))
    );
    // The page shows it, and the server has it.
    let shown = seen["shown"].as_str().unwrap();
    assert!(
        shown.contains(text) && shown.contains(&message["_id"].to_string()),
        "{shown}"
    );
    let client = Client::new(&server.url(), token);
    assert_eq!(
        &client.message(message["_id"].as_i64().unwrap()).await.unwrap(),
        message
    );
    // Nothing was kept from it by its policy, and it asked nobody else.
    let policy = seen["policy"].as_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert_eq!((&seen["errors"], &seen["elsewhere"]), (&json!([]), &json!([])));
    let links = seen["asyncapi"].as_array().unwrap();
    assert!(!links.is_empty(), "{seen}");
    for link in links {
        let path = link.as_str().unwrap().strip_prefix(&server.url()).unwrap();
        assert_eq!(ok(client.get(path)).await.unwrap()["asyncapi"], "3.0.0", "{link}");
    }
}

async fn page(server: &Server, token: &str, text: &str) -> Value {
    assert!(
        Path::new(CHROMIUM).exists(),
        "{CHROMIUM} is missing: run tests/prepare"
    );
    let folder = temporary_folder("swagger");
    let output = |name: &str| File::create(folder.path().join(name)).unwrap();
    let mut process = Process::start(Path::new("node"), |command| {
        command
            .arg(plain::folder().join("swagger.mjs"))
            .args([CHROMIUM, &server.url(), token, "bob", text])
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .stdout(output("stdout"))
            .stderr(output("stderr"));
    })
    .await;
    let code = process.wait(LIMIT).await;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(code, 0, "{}\n{}", read("stdout"), read("stderr"));
    serde_json::from_str(&read("stdout")).unwrap()
}
