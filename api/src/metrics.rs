//! What the server counts about itself, in the form of Prometheus.
//!
//! Whoever does a thing counts it, through the functions here. Without `CHAT_ADMIN_LISTEN` nothing is recorded, and a
//! count costs a look at an empty place. Labels have few values, and none that a client chose: no user, no address, no
//! path.

use std::{sync::OnceLock, time::Duration};

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::{limits::Door, problem::Code};

/// By `code` and `door`.
pub const REJECTIONS: &str = "chat_rejections_total";
/// By `door`.
pub const CONNECTIONS: &str = "chat_connections";
pub const SENDS: &str = "chat_sends_total";

const UPKEEP: Duration = Duration::from_secs(5);

/// A problem left the server, as an answer, an ack or a `closing`.
pub fn rejected(code: Code, door: Door) {
    counter!(REJECTIONS, "code" => code.as_str(), "door" => door.as_str()).increment(1);
}

/// A send was within its user's limit.
pub fn send_admitted() {
    counter!(SENDS).increment(1);
}

pub fn connected(door: Door) {
    gauge!(CONNECTIONS, "door" => door.as_str()).increment(1);
}

pub fn disconnected(door: Door) {
    gauge!(CONNECTIONS, "door" => door.as_str()).decrement(1);
}

/// Begins to record. A process records once: a second call gives the same handle.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let begin = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("something else in this process records the metrics");
        }
        describe();
        handle
    };
    HANDLE.get_or_init(begin).clone()
}

/// What the exporter gathers it puts in order now and then, whether it is asked for or not.
pub async fn keep_up(handle: PrometheusHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        handle.run_upkeep();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(UPKEEP) => {}
        }
    }
}

fn describe() {
    describe_counter!(
        REJECTIONS,
        "Requests, commands and connections that were refused, by the code of the problem and the door."
    );
    describe_gauge!(
        CONNECTIONS,
        "Streams, waiting long polls and sockets that are open, by door."
    );
    describe_counter!(
        SENDS,
        "Sends within their users' limits, whatever became of them."
    );
    // There from the beginning, so that the first one is seen as a step.
    counter!(SENDS).absolute(0);
    for door in [Door::Sse, Door::LongPoll, Door::SocketIo] {
        gauge!(CONNECTIONS, "door" => door.as_str()).set(0);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header::ACCEPT};

    use super::*;

    #[test]
    fn what_is_counted_is_shown_and_a_second_start_records_in_the_same_place() {
        let (first, second) = (install(), install());
        // No other test has this pair.
        rejected(Code::KeyReused, Door::SocketIo);
        rejected(Code::KeyReused, Door::SocketIo);
        for shown in [first.render(), second.render()] {
            for line in [
                "# TYPE chat_rejections_total counter",
                r#"chat_rejections_total{code="key_reused",door="socket_io"} 2"#,
                "# TYPE chat_connections gauge",
                r#"chat_connections{door="socket_io"} "#,
                "# TYPE chat_sends_total counter",
            ] {
                assert!(shown.contains(line), "{line} in {shown}");
            }
            for described in [REJECTIONS, CONNECTIONS, SENDS] {
                assert!(
                    shown.contains(&format!("# HELP {described} ")),
                    "{described} in {shown}"
                );
            }
        }
    }

    #[test]
    fn the_door_is_that_of_the_route_and_of_the_form_that_is_asked_for() {
        let door = |path: &str, accept: Option<&'static str>| {
            let accept = accept.map(|accept| (ACCEPT, HeaderValue::from_static(accept)));
            let headers: HeaderMap = accept.into_iter().collect();
            Door::of(&path.parse().unwrap(), &headers).as_str()
        };
        assert_eq!(door("/v1/messages?with=bob", None), "rest");
        assert_eq!(door("/nothing", Some("text/event-stream")), "rest");
        assert_eq!(door("/v1/events?wait=3", None), "long_poll");
        assert_eq!(door("/v1/events", Some("text/html")), "long_poll");
        assert_eq!(door("/v1/events", Some("text/event-stream")), "sse");
        assert_eq!(door("/socket.io/?EIO=4", None), "socket_io");
    }
}
