//! Sends by many connections at once, each a user who writes to its neighbour: so many in flight for each (closed loop),
//! or so many a second whatever comes of them (open loop).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::{sync::Barrier, time::sleep_until};

use crate::{
    client::{self, Connection, Heard, accepted, command, heard, message_id},
    report::histogram,
    target::Target,
    window::Window,
};

/// What came of a load.
pub(crate) struct Outcome {
    /// Acknowledged sends a second.
    pub(crate) rate: f64,
    /// From the send, or in an open loop from when it was due, to its ack, in microseconds.
    pub(crate) acks: Histogram<u64>,
    /// From when it was due to its arrival at the receiver; in an open loop only.
    pub(crate) deliveries: Histogram<u64>,
    pub(crate) delivered: u64,
    /// Deliveries with a smaller number than one before them on the same connection.
    pub(crate) out_of_order: u64,
}

impl Outcome {
    fn new() -> Self {
        Self {
            rate: 0.0,
            acks: histogram(),
            deliveries: histogram(),
            delivered: 0,
            out_of_order: 0,
        }
    }

    fn add(&mut self, other: &Outcome) {
        self.rate += other.rate;
        self.acks += &other.acks;
        self.deliveries += &other.deliveries;
        self.delivered += other.delivered;
        self.out_of_order += other.out_of_order;
    }
}

/// How the sends come.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many in flight on each connection.
    Window(usize),
    /// So many a second on all of them together.
    Rate(f64),
}

/// Users are `u0`, `u1`, …, and an even one and the odd one after it write to each other.
pub(crate) async fn run(
    target: &Target,
    connections: usize,
    pace: Pace,
    content: usize,
    length: Duration,
) -> anyhow::Result<Outcome> {
    ensure!(connections.is_multiple_of(2), "users come in pairs");
    let begin = Arc::new(Barrier::new(connections));
    let run = new_run();
    let users = (0..connections).map(|user| {
        let (target, begin) = (target.clone(), begin.clone());
        let sending = async move {
            let mut sender = Sender::connect(&target, user, content, run).await?;
            begin.wait().await;
            sender.window = Window::new(length);
            match pace {
                Pace::Window(window) => sender.closed(window).await?,
                Pace::Rate(rate) => sender.open(connections, rate).await?,
            }
            anyhow::Ok(sender.outcome)
        };
        async { tokio::spawn(sending).await? }
    });
    let mut all = Outcome::new();
    for outcome in try_join_all(users).await? {
        all.add(&outcome);
    }
    Ok(all)
}

/// One user with one send in flight; the time of each ack.
pub(crate) async fn alone(
    target: &Target,
    content: usize,
    length: Duration,
) -> anyhow::Result<Histogram<u64>> {
    let mut sender = Sender::connect(target, 0, content, new_run()).await?;
    sender.window = Window::new(length);
    sender.closed(1).await?;
    Ok(sender.outcome.acks)
}

/// Keys begin with it: those of one run are none of another's.
fn new_run() -> u32 {
    rand::random()
}

pub(crate) fn name(user: usize) -> String {
    format!("u{user}")
}

struct Sender {
    connection: Connection,
    user: usize,
    receiver: String,
    content: usize,
    run: u32,
    window: Window,
    /// The number of the last message that came.
    last: u64,
    outcome: Outcome,
}

impl Sender {
    async fn connect(target: &Target, user: usize, content: usize, run: u32) -> anyhow::Result<Self> {
        Ok(Self {
            connection: Connection::open(target.port, &(target.auth)(&name(user))).await?,
            user,
            receiver: name(user ^ 1),
            content,
            run,
            window: Window::new(Duration::ZERO),
            last: 0,
            outcome: Outcome::new(),
        })
    }

    async fn closed(&mut self, window: usize) -> anyhow::Result<()> {
        // A place for each send in flight: when it went, and how often the place was used.
        let mut places = vec![Instant::now(); window];
        let text = "x".repeat(self.content);
        let mut next = 0;
        for place in 0..window {
            self.feed(place, &mut next, &text).await?;
        }
        self.connection.flush().await?;
        let mut acked = 0;
        while !self.window.is_over() {
            let mut packet = Some(self.connection.next().await?);
            while let Some(text_of) = packet {
                match heard(&text_of) {
                    Heard::Ack(place, answer) => {
                        accepted(answer)?;
                        let now = Instant::now();
                        if self.window.counts() {
                            acked += 1;
                            self.outcome.acks.saturating_record(micros(now - places[place]));
                        }
                        places[place] = now;
                        self.feed(place, &mut next, &text).await?;
                    }
                    Heard::Event(event) => self.arrived(event),
                    Heard::Other => {}
                }
                packet = self.connection.next_now().await?;
            }
            self.connection.flush().await?;
        }
        self.outcome.rate = self.window.rate(acked);
        Ok(())
    }

    async fn feed(&mut self, place: usize, next: &mut usize, text: &str) -> anyhow::Result<()> {
        let key = format!("{}-{}-{next}", self.run, self.user);
        *next += 1;
        self.connection
            .feed(command(place, &self.receiver, text, &key))
            .await
    }

    /// The text says who sent it and when it was due, in microseconds of a clock that all senders have.
    async fn open(&mut self, connections: usize, rate: f64) -> anyhow::Result<()> {
        let begin = clock();
        let every = Duration::from_secs_f64(connections as f64 / rate);
        let first = Instant::now() + every.mul_f64(self.user as f64 / connections as f64);
        let mut due = Vec::new();
        let mut acked = 0;
        loop {
            let at = first + every * u32::try_from(due.len())?;
            let sending = !self.window.is_over();
            if !sending && acked == due.len() {
                break;
            }
            tokio::select! {
                packet = self.connection.next() => match heard(&packet?) {
                    Heard::Ack(id, answer) => {
                        accepted(answer)?;
                        acked += 1;
                        if self.window.covers(due[id]) {
                            self.outcome.acks.saturating_record(micros(due[id].elapsed()));
                        }
                    }
                    Heard::Event(event) => self.arrived_in_time(event, begin),
                    Heard::Other => {}
                },
                () = sleep_until(at.into()), if sending => {
                    let mark = format!("t={},{};", micros(at - begin), self.user);
                    let text = format!("{mark:x<width$}", width = self.content);
                    let key = format!("{}-{}-{}", self.run, self.user, due.len());
                    let packet = command(due.len(), &self.receiver, &text, &key);
                    due.push(at);
                    self.connection.write(packet).await?;
                }
            }
        }
        // What is on its way to this one still comes.
        let quiet = Instant::now() + Duration::from_secs(1);
        while let Ok(packet) = tokio::time::timeout_at(quiet.into(), self.connection.next()).await {
            if let Heard::Event(event) = heard(&packet?) {
                self.arrived_in_time(event, begin);
            }
        }
        let counted = due.iter().filter(|at| self.window.covers(**at)).count();
        self.outcome.rate = self.window.rate(counted as u64);
        Ok(())
    }

    fn arrived(&mut self, event: &str) {
        let id = message_id(event).unwrap_or_default();
        self.outcome.out_of_order += u64::from(id < self.last);
        self.last = self.last.max(id);
        self.outcome.delivered += 1;
    }

    fn arrived_in_time(&mut self, event: &str, begin: Instant) {
        self.arrived(event);
        let (Some(due), Some(sender)) = (client::number(event, "t="), sender_of(event)) else {
            return;
        };
        let due = begin + Duration::from_micros(due);
        if sender != self.user && self.window.covers(due) {
            self.outcome.deliveries.saturating_record(micros(due.elapsed()));
        }
    }
}

/// Who sent it, as the text says: `t=TIME,SENDER;`.
fn sender_of(event: &str) -> Option<usize> {
    let mark = &event[event.find("t=")?..];
    client::number(mark, ",").map(|sender| sender as usize)
}

/// The moment at which this program first asked; all senders count from it.
fn clock() -> Instant {
    static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGIN.get_or_init(Instant::now)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_says_who_sent_it() {
        assert_eq!(sender_of(r#"{"position":3,"text":"t=1700,12;xxx"}"#), Some(12));
    }
}
