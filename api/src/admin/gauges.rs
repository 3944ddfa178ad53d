//! What is a state and not an event: looked at when somebody asks for the metrics.

use std::{sync::Arc, time::Duration};

use chat_infrastructure::standing::{Gauges, Stored};
use metrics::{Gauge, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;

use super::process;
use crate::{server::Places, state::AppState};

/// How long the database may take for its part: what the others say is shown all the same.
const DATABASE_LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Sampler {
    handle: PrometheusHandle,
    app: AppState,
    places: Places,
    /// None for a log in memory.
    gauges: Option<Gauges>,
    start_time: Option<f64>,
    /// The server and the epoch that were shown last.
    shown: Arc<Mutex<Option<(String, String)>>>,
}

impl Sampler {
    pub fn new(handle: PrometheusHandle, app: AppState, places: Places, gauges: Option<Gauges>) -> Self {
        Self {
            handle,
            app,
            places,
            gauges,
            start_time: process::start_time(),
            shown: Arc::default(),
        }
    }

    /// Looks at everything and shows it with what was counted.
    pub async fn render(&self) -> String {
        let hub = &self.app.hub;
        let catching_up = hub.catching_up();
        let live = hub.subscriptions().saturating_sub(catching_up);
        set(gauge!(crate::metrics::SUBSCRIPTIONS, "state" => "live"), live);
        set(
            gauge!(crate::metrics::SUBSCRIPTIONS, "state" => "catching_up"),
            catching_up,
        );
        set(
            gauge!(crate::metrics::READY),
            u8::from(self.app.readiness.missing().is_empty()),
        );
        set(
            gauge!(crate::metrics::OPEN_CONNECTIONS),
            self.places.taken() as u64,
        );
        set(
            gauge!(crate::metrics::OPEN_CONNECTIONS_LIMIT),
            self.places.most() as u64,
        );
        if let Some(gauges) = &self.gauges {
            self.show_log(gauges).await;
        }
        if let Some(bytes) = process::resident_memory() {
            set(gauge!(crate::metrics::RESIDENT_MEMORY), bytes);
        }
        if let Some(files) = process::open_files() {
            set(gauge!(crate::metrics::OPEN_FDS), files as u64);
        }
        if let Some(files) = process::most_files() {
            set(gauge!(crate::metrics::MAX_FDS), files);
        }
        if let Some(began) = self.start_time {
            gauge!(crate::metrics::START_TIME).set(began);
        }
        self.handle.render()
    }

    /// Where the database says nothing now, nobody knows how far behind anything is.
    async fn show_log(&self, gauges: &Gauges) {
        let standing = gauges.look(DATABASE_LIMIT).await;
        set(
            gauge!(crate::metrics::DATABASE_UP),
            u8::from(standing.stored.is_some()),
        );
        self.show_primary(standing.primary);
        let tail = standing.tail.unwrap_or_default();
        set(gauge!(crate::metrics::TAIL_POSITION), tail);
        let known = |figure: fn(Stored, i64) -> i64| {
            let stored = standing.stored;
            stored.map_or(f64::NAN, |stored| figure(stored, tail).max(0) as f64)
        };
        gauge!(crate::metrics::LOG_HEAD).set(known(|stored, _| stored.head));
        gauge!(crate::metrics::TAIL_LAG).set(known(|stored, tail| stored.head - tail));
        gauge!(crate::metrics::PROJECTOR_LAG).set(known(|stored, _| stored.head - stored.projected));
        gauge!(crate::metrics::TAIL_GAP).set(standing.gap.as_secs_f64());
        set(
            gauge!(crate::metrics::QUEUE_COMMANDS),
            standing.queued.commands as u64,
        );
        gauge!(crate::metrics::OLDEST_COMMAND).set(standing.queued.oldest.as_secs_f64());
        set(gauge!(crate::metrics::QUEUE_BYTES), standing.queued.bytes as u64);
        let pool = standing.pool;
        set(
            gauge!(crate::metrics::DATABASE_CONNECTIONS, "state" => "used"),
            pool.used,
        );
        set(
            gauge!(crate::metrics::DATABASE_CONNECTIONS, "state" => "idle"),
            pool.idle,
        );
        set(gauge!(crate::metrics::DATABASE_CONNECTIONS_LIMIT), pool.most);
    }

    /// A series that was shown once stays, so the one of before says that it is over.
    fn show_primary(&self, primary: (String, String)) {
        let mut shown = self.shown.lock();
        if let Some(before) = shown.as_ref().filter(|before| **before != primary) {
            set(log_info(before), 0_u8);
        }
        set(log_info(&primary), 1_u8);
        *shown = Some(primary);
    }
}

fn log_info((server, epoch): &(String, String)) -> Gauge {
    gauge!(crate::metrics::LOG_INFO, "server" => server.clone(), "epoch" => epoch.clone())
}

trait Figure {
    fn figure(self) -> f64;
}

macro_rules! figures {
    ($($kind:ty)*) => { $(impl Figure for $kind { fn figure(self) -> f64 { self as f64 } })* };
}

figures!(u64 i64 u32 u8);

fn set(gauge: Gauge, value: impl Figure) {
    gauge.set(value.figure());
}
