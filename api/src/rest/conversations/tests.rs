use serde_json::{Value, json};

use crate::testing::Server;

#[tokio::test]
async fn conversations_come_with_the_newest_first() {
    let server = Server::new();
    server.send("alice", "bob", "one").await;
    server.send("carol", "alice", "two").await;
    server.send("bob", "carol", "not alice's").await;
    let page = server.get("alice", "/v1/conversations").await;
    assert_eq!(page.body["cursor"], "test:3");
    assert_eq!(page.body["next"], Value::Null);
    let conversations = page.body["conversations"].as_array().unwrap();
    let with: Vec<_> = conversations
        .iter()
        .map(|c| (&c["with"], &c["unread"], &c["seq"]))
        .collect();
    assert_eq!(
        with,
        [
            (&json!("carol"), &json!(1), &json!(1)),
            (&json!("bob"), &json!(0), &json!(1))
        ]
    );
    assert_eq!(conversations[0]["conversation_id"], "alice,carol");
    assert_eq!(conversations[0]["last_message"]["text"], "two");
    assert_eq!(
        conversations[0]["participants"],
        json!([
            {"user_id": "alice", "received_seq": 0, "read_seq": 0},
            {"user_id": "carol", "received_seq": 1, "read_seq": 1},
        ])
    );
    assert_eq!(conversations[0]["participants_complete"], true);
}

#[tokio::test]
async fn pages_of_conversations_lead_on() {
    let server = Server::new();
    for other in ["bob", "carol", "dave"] {
        server.send("alice", other, "hi").await;
    }
    let first = server.get("alice", "/v1/conversations?limit=2").await;
    assert_eq!(first.body["conversations"].as_array().unwrap().len(), 2);
    let next = first.body["next"].as_str().unwrap();
    assert_eq!(next, "/v1/conversations?before=2&limit=2");
    assert_eq!(first.header("link"), format!(r#"<{next}>; rel="next""#));
    let second = server.get("alice", next).await;
    assert_eq!(second.body["conversations"][0]["with"], "bob");
    assert_eq!((&second.body["next"], second.header("link")), (&Value::Null, ""));
    assert_eq!(
        server.get("alice", "/v1/conversations?limit=no").await.code(),
        "parameter_invalid"
    );
}
