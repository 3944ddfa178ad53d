//! What the server counts about itself, in the form of Prometheus.
//!
//! Counted is by whoever does it, through the functions here, whether anybody asks or not: without
//! `CHAT_ADMIN_LISTEN` nothing is recorded, and a count costs a look at an empty place. Labels have few values, none of them from
//! clients: no user, no address, no path.

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
