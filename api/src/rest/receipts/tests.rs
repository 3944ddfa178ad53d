use serde_json::json;

use crate::testing::Server;

#[tokio::test]
async fn a_receipt_moves_the_marks_and_never_back() {
    let server = Server::new();
    for text in ["a", "b", "c"] {
        server.send("alice", "bob", text).await;
    }
    let receipt = async |kind: &str, up_to: i64| {
        server
            .post("bob", "/v1/receipts", &json!({"type": kind, "up_to": up_to}))
            .await
            .body
    };
    let marks = |received: i64, read: i64| json!({"conversation_id": "alice,bob", "user_id": "bob", "received_seq": received, "read_seq": read});
    assert_eq!(receipt("received", 2).await, marks(2, 0));
    assert_eq!(receipt("read", 3).await, marks(3, 3));
    assert_eq!(receipt("read", 1).await, marks(3, 3));
}

#[tokio::test]
async fn a_receipt_for_what_one_may_not_see_is_refused() {
    let server = Server::new();
    server.send("alice", "bob", "hi").await;
    for (user, body, code) in [
        ("carol", json!({"type": "read", "up_to": 1}), "message_not_found"),
        ("bob", json!({"type": "read", "up_to": 2}), "message_not_found"),
        ("bob", json!({"type": "read", "up_to": -1}), "message_not_found"),
        ("bob", json!({"type": "seen", "up_to": 1}), "body_invalid"),
        ("bob", json!({"type": "read"}), "body_invalid"),
        ("bob", json!({"type": "read", "up_to": "1"}), "body_invalid"),
    ] {
        assert_eq!(
            server.post(user, "/v1/receipts", &body).await.code(),
            code,
            "{body}"
        );
    }
}
