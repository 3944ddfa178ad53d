//! What the server counts about itself, in the form of Prometheus.
//!
//! Whoever does a thing counts it, through the functions here (and those of `chat_infrastructure::metrics`). What is a
//! state, as the head of the log, is looked at when somebody asks ([`Sampler`](crate::admin::Sampler)). Without `CHAT_ADMIN_LISTEN` nothing is
//! recorded, and a count costs a look at an empty place; with it, what is counted for each event goes by handles that
//! are taken once. Labels have few values, and none that a client chose: no user, no address, no path.
//!
//! A table below has all of them; the docs have the same ones, which a test sees to.

use std::{sync::OnceLock, time::Duration};

use chat_domain::cursor::ResetReason;
use chat_infrastructure::{
    handover::{Origin, Written},
    metrics::{BATCH_COMMANDS, BATCH_COMMIT_SECONDS, BATCH_RETRIES, EPOCHS_BEGUN, OUTCOMES_UNKNOWN},
};
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::{door::Door, problem::Code};

/// By `code` and `door`.
pub const REJECTIONS: &str = "chat_rejections_total";
/// By `door`.
pub const CONNECTIONS: &str = "chat_connections";
/// By `reason`.
pub(crate) const CONNECTIONS_CUT: &str = "chat_connections_cut_total";
pub const SENDS: &str = "chat_sends_total";
/// By `way`.
pub const HELD_BYTES: &str = "chat_held_bytes";
/// By `state`.
pub const READS: &str = "chat_reads";
/// By `door`.
pub(crate) const DELIVERIES: &str = "chat_deliveries_total";
/// By `written`.
pub(crate) const DELIVERY_SECONDS: &str = "chat_delivery_seconds";
/// By `reason`.
pub(crate) const RESETS: &str = "chat_resets_total";
pub(crate) const OPEN_CONNECTIONS: &str = "chat_open_connections";
pub(crate) const OPEN_CONNECTIONS_LIMIT: &str = "chat_open_connections_limit";
/// By `state`.
pub(crate) const SUBSCRIPTIONS: &str = "chat_subscriptions";
pub(crate) const LOG_HEAD: &str = "chat_log_head_position";
/// By `server` and `epoch`.
pub(crate) const LOG_INFO: &str = "chat_log_info";
pub(crate) const TAIL_POSITION: &str = "chat_tail_position";
pub(crate) const TAIL_LAG: &str = "chat_tail_lag_events";
pub(crate) const TAIL_GAP: &str = "chat_tail_gap_seconds";
pub(crate) const PROJECTOR_LAG: &str = "chat_projector_lag_events";
pub(crate) const QUEUE_COMMANDS: &str = "chat_writer_queue_commands";
pub(crate) const OLDEST_COMMAND: &str = "chat_oldest_command_seconds";
pub(crate) const QUEUE_BYTES: &str = "chat_writer_queue_bytes";
/// By `state`.
pub(crate) const DATABASE_CONNECTIONS: &str = "chat_database_connections";
pub(crate) const DATABASE_CONNECTIONS_LIMIT: &str = "chat_database_connections_limit";
pub(crate) const DATABASE_UP: &str = "chat_database_up";
pub(crate) const READY: &str = "chat_ready";
/// By `version` and `otlp`.
pub(crate) const BUILD_INFO: &str = "chat_build_info";
pub(crate) const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
pub(crate) const OPEN_FDS: &str = "process_open_fds";
pub(crate) const MAX_FDS: &str = "process_max_fds";
pub(crate) const START_TIME: &str = "process_start_time_seconds";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric, its kind, and what its `# HELP` says.
const TABLE: &[(&str, Kind, &str)] = &[
    (
        REJECTIONS,
        Kind::Counter,
        "Requests, commands and connections that were refused, by the code of the problem and the door.",
    ),
    (
        CONNECTIONS,
        Kind::Gauge,
        "Streams, waiting long polls and sockets that are open, by door.",
    ),
    (
        OPEN_CONNECTIONS,
        Kind::Gauge,
        "Connections of all clients, idle ones included.",
    ),
    (
        OPEN_CONNECTIONS_LIMIT,
        Kind::Gauge,
        "How many connections there may be.",
    ),
    (
        CONNECTIONS_CUT,
        Kind::Counter,
        "Connections that the server cut, by the reason: the reader had stopped (stalled), nothing was asked (silent), pings were not answered (ping_timeout), it was no socket.io (malformed), too many commands waited (flooded), it was idle and another one needed its place (made_room), no room was left for what it sent (overloaded).",
    ),
    (
        SENDS,
        Kind::Counter,
        "Sends within their users' limits, whatever became of them.",
    ),
    (
        HELD_BYTES,
        Kind::Gauge,
        "Bytes that are counted by user, address and all together: of bodies and frames that come (in), and of answers and events that are not written yet (out).",
    ),
    (
        READS,
        Kind::Gauge,
        "Reads of history and lists, by state (at_work, waiting).",
    ),
    (
        BATCH_COMMANDS,
        Kind::Histogram,
        "Commands in a transaction of the writer that was committed.",
    ),
    (
        BATCH_COMMIT_SECONDS,
        Kind::Histogram,
        "Time of such a transaction, from before the head lock to after the COMMIT.",
    ),
    (
        BATCH_RETRIES,
        Kind::Counter,
        "Transactions of the writer that ran again, by the reason.",
    ),
    (
        OUTCOMES_UNKNOWN,
        Kind::Counter,
        "Commands of which the sender was told that their outcome is not known.",
    ),
    (
        QUEUE_COMMANDS,
        Kind::Gauge,
        "Commands that wait for the writer or are being written.",
    ),
    (
        OLDEST_COMMAND,
        Kind::Gauge,
        "How long the oldest of them has waited.",
    ),
    (
        QUEUE_BYTES,
        Kind::Gauge,
        "Bytes of commands that wait for the writer or are being written.",
    ),
    (
        EPOCHS_BEGUN,
        Kind::Counter,
        "Epochs of the log that this node began, because the log may have lost its end.",
    ),
    (
        LOG_HEAD,
        Kind::Gauge,
        "The last position of the log, as the database last said.",
    ),
    (
        LOG_INFO,
        Kind::Gauge,
        "1 for the database server that this node writes to and the epoch of its log, 0 for those of before.",
    ),
    (
        TAIL_POSITION,
        Kind::Gauge,
        "The position up to which this node has passed the log on.",
    ),
    (
        TAIL_LAG,
        Kind::Gauge,
        "How many positions the tail is behind the head.",
    ),
    (
        TAIL_GAP,
        Kind::Gauge,
        "How long the tail has waited for an event that is missing in the log, 0 where none is.",
    ),
    (
        PROJECTOR_LAG,
        Kind::Gauge,
        "How many positions the projector, on whatever node, is behind the head.",
    ),
    (
        SUBSCRIPTIONS,
        Kind::Gauge,
        "Subscriptions that follow the tail (live), and those that read the database (catching_up).",
    ),
    (
        DELIVERIES,
        Kind::Counter,
        "Events that were handed to readers, by door.",
    ),
    (
        DELIVERY_SECONDS,
        Kind::Histogram,
        "From the commit of an event of this node (here), or its reading by the tail (elsewhere), to the handing over at a door; live events only.",
    ),
    (
        RESETS,
        Kind::Counter,
        "Subscriptions that were told that they cannot go on from where they were, by the reason.",
    ),
    (
        DATABASE_CONNECTIONS,
        Kind::Gauge,
        "Connections to the database for reading, by state (used, idle).",
    ),
    (
        DATABASE_CONNECTIONS_LIMIT,
        Kind::Gauge,
        "How many connections to the database for reading there may be.",
    ),
    (
        DATABASE_UP,
        Kind::Gauge,
        "1 if the database answered within a second when these metrics were asked for, else 0; it may also be that no connection was free. The head and the lags are NaN then.",
    ),
    (
        READY,
        Kind::Gauge,
        "1 if the server can serve, as /readyz says, else 0.",
    ),
    (BUILD_INFO, Kind::Gauge, "1, with what was built in the labels."),
    (RESIDENT_MEMORY, Kind::Gauge, "Resident memory of the process."),
    (
        OPEN_FDS,
        Kind::Gauge,
        "Open files of the process, connections included.",
    ),
    (MAX_FDS, Kind::Gauge, "How many files the process may have open."),
    (
        START_TIME,
        Kind::Gauge,
        "When the process began, in seconds since 1970.",
    ),
];

const BUCKETS: &[(&str, &[f64])] = &[
    (
        BATCH_COMMANDS,
        &[
            1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
        ],
    ),
    (
        BATCH_COMMIT_SECONDS,
        &[
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        ],
    ),
    (
        DELIVERY_SECONDS,
        &[
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            10.0, 30.0,
        ],
    ),
];

/// What the exporter gathers of histograms takes memory until then.
const UPKEEP: Duration = Duration::from_secs(1);

/// The handles of what is counted for each event.
struct Handles {
    sends: Counter,
    held: [Gauge; Way::ALL.len()],
    reads: [Gauge; ReadState::ALL.len()],
    connections: [Gauge; Door::ALL.len()],
    deliveries: [Counter; Door::ALL.len()],
    delivery_here: Histogram,
    delivery_elsewhere: Histogram,
    resets: [Counter; ResetReason::ALL.len()],
}

/// Empty until something records.
static HANDLES: OnceLock<Handles> = OnceLock::new();

/// What is counted in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::In, Self::Out];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// What a read of history or of a list does.
#[derive(Debug, Clone, Copy)]
pub enum ReadState {
    Waiting,
    AtWork,
}

impl ReadState {
    const ALL: [Self; 2] = [Self::Waiting, Self::AtWork];

    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::AtWork => "at_work",
        }
    }
}

/// Why a connection was cut.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    Stalled,
    Silent,
    PingTimeout,
    Malformed,
    Flooded,
    MadeRoom,
    Overloaded,
    Abandoned,
}

impl Cut {
    const ALL: [Self; 8] = [
        Self::Stalled,
        Self::Silent,
        Self::PingTimeout,
        Self::Malformed,
        Self::Flooded,
        Self::MadeRoom,
        Self::Overloaded,
        Self::Abandoned,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Silent => "silent",
            Self::PingTimeout => "ping_timeout",
            Self::Malformed => "malformed",
            Self::Flooded => "flooded",
            Self::MadeRoom => "made_room",
            Self::Overloaded => "overloaded",
            Self::Abandoned => "abandoned",
        }
    }
}

pub fn cut(reason: Cut) {
    counter!(CONNECTIONS_CUT, "reason" => reason.as_str()).increment(1);
}

/// A problem left the server, as an answer, an ack or a `closing`.
pub fn rejected(code: Code, door: Door) {
    counter!(REJECTIONS, "code" => code.as_str(), "door" => door.as_str()).increment(1);
}

/// A send was within its user's limit.
pub fn send_admitted() {
    if let Some(handles) = HANDLES.get() {
        handles.sends.increment(1);
    }
}

/// Bytes are counted from now on.
pub fn took(way: Way, bytes: usize) {
    if let Some(handles) = HANDLES.get() {
        handles.held[way as usize].increment(bytes as f64);
    }
}

pub fn gave_back(way: Way, bytes: usize) {
    if let Some(handles) = HANDLES.get() {
        handles.held[way as usize].decrement(bytes as f64);
    }
}

/// So many reads more are in a state.
pub fn reads(state: ReadState, more: f64) {
    if let Some(handles) = HANDLES.get() {
        handles.reads[state as usize].increment(more);
    }
}

pub fn connected(door: Door) {
    if let Some(handles) = HANDLES.get() {
        handles.connections[door as usize].increment(1);
    }
}

pub fn disconnected(door: Door) {
    if let Some(handles) = HANDLES.get() {
        handles.connections[door as usize].decrement(1);
    }
}

/// Events were handed to a reader.
pub fn delivered(door: Door, events: usize) {
    if let Some(handles) = HANDLES.get() {
        handles.deliveries[door as usize].increment(events as u64);
    }
}

/// A live event is on its way out of a door.
pub fn handed_over(origin: &Origin) {
    if let Some(handles) = HANDLES.get() {
        let histogram = match origin.written {
            Written::Here => &handles.delivery_here,
            Written::Elsewhere => &handles.delivery_elsewhere,
        };
        histogram.record(origin.since.elapsed());
    }
}

pub fn reset(reason: ResetReason) {
    if let Some(handles) = HANDLES.get() {
        handles.resets[reason as usize].increment(1);
    }
}

/// Begins to record. A process records once: a second call gives the same handle.
pub fn install() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let begin = || {
        let builder = BUCKETS
            .iter()
            .fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
                let name = Matcher::Full((*name).to_owned());
                builder
                    .set_buckets_for_metric(name, buckets)
                    .expect("there are buckets")
            });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("something else in this process records the metrics");
        }
        describe();
        begin_counting();
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
    for (name, kind, help) in TABLE {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
}

/// Registers all series at the start, so that the first count is seen as a step. Of rejections only the codes that have
/// alerts: most pairs of code and door never come.
fn begin_counting() {
    let _ = HANDLES.set(Handles {
        sends: counter!(SENDS),
        held: Way::ALL.map(|way| gauge!(HELD_BYTES, "way" => way.as_str())),
        reads: ReadState::ALL.map(|state| gauge!(READS, "state" => state.as_str())),
        connections: Door::ALL.map(|door| gauge!(CONNECTIONS, "door" => door.as_str())),
        deliveries: Door::ALL.map(|door| counter!(DELIVERIES, "door" => door.as_str())),
        delivery_here: histogram!(DELIVERY_SECONDS, "written" => "here"),
        delivery_elsewhere: histogram!(DELIVERY_SECONDS, "written" => "elsewhere"),
        resets: ResetReason::ALL.map(|reason| counter!(RESETS, "reason" => reason.as_str())),
    });
    counter!(EPOCHS_BEGUN).absolute(0);
    for reason in Cut::ALL {
        counter!(CONNECTIONS_CUT, "reason" => reason.as_str()).absolute(0);
    }
    for code in Code::ALL.iter().filter(|code| code.status().is_server_error()) {
        for door in Door::ALL {
            counter!(REJECTIONS, "code" => code.as_str(), "door" => door.as_str()).absolute(0);
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "otlp" => if cfg!(feature = "otlp") { "true" } else { "false" })
        .set(1);
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
        }
    }

    #[test]
    fn names_follow_the_conventions_and_each_has_a_line_of_help() {
        for (name, kind, help) in TABLE {
            let ours = name.starts_with("chat_") || name.starts_with("process_");
            assert!(
                ours && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert!(
                help.len() > 20 && help.ends_with('.') && !help.contains('\n'),
                "{name}"
            );
            assert_eq!(
                TABLE.iter().filter(|(other, ..)| other == name).count(),
                1,
                "{name}"
            );
            let buckets = BUCKETS.iter().find(|(other, _)| other == name);
            assert_eq!(*kind == Kind::Histogram, buckets.is_some(), "{name}");
            assert!(buckets.is_none_or(|(_, buckets)| buckets.is_sorted()), "{name}");
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
