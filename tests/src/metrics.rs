//! What a server shows of itself at `CHAT_ADMIN_LISTEN`.

use crate::{Client, reply};

/// What the operator's listener shows.
pub async fn shown_at(port: u16) -> String {
    let answer = reply(Client::new(&format!("http://127.0.0.1:{port}"), "").get("/metrics")).await;
    assert_eq!(answer.status, 200);
    answer.body.as_str().expect("text").to_owned()
}

/// The value behind a name with its labels, 0 where it is not shown yet.
pub fn value(shown: &str, name: &str) -> f64 {
    find(shown, name).unwrap_or(0.0)
}

/// The same, from what is shown now.
pub async fn metric(port: u16, name: &str) -> f64 {
    value(&shown_at(port).await, name)
}

/// The value of what is always shown.
pub async fn gauge(port: u16, name: &str) -> f64 {
    let shown = shown_at(port).await;
    find(&shown, name).unwrap_or_else(|| panic!("{name} is not in {shown}"))
}

fn find(shown: &str, name: &str) -> Option<f64> {
    let mut lines = shown.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}
