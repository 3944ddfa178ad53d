//! What goes out on one socket: packets into the transport's buffer, with waiting while it is full.
//!
//! The buffer takes so many packets and refuses the next one; it says nothing when it has room again. So whoever
//! sends asks again, as often as the reader's pace has shown to be worth it. It is never filled to the brim: the
//! transport puts its own pings there and ends a session whose ping is refused, so a slow reader that is alive would
//! be thrown out. And it is bounded in bytes as well: a packet has to find as many free places as it has kilobytes, so
//! that what a reader that has stopped holds here is some 30 kB and at most one large packet.
//!
//! A transport that has given up its client (no answer to a ping, a broken connection) says so only once its buffer
//! has been empty for a moment, which this side, with more to send, never lets it be. So whoever sends asks now and
//! then whether the transport still knows the session, and stops if not.

use std::{
    iter,
    sync::{Arc, Weak},
    time::Duration,
};

use engineioxide::{DisconnectReason, Str};
use tokio::{
    sync::mpsc::error::TrySendError,
    time::{Instant, sleep},
};

use super::{Engine, Transport, packet::Outgoing};

/// Packets that the transport's buffer takes.
pub(super) const BUFFER: usize = 32;

/// Places that stay free for the transport's own packets.
const SPARE: usize = 2;

/// Bytes of a packet for each place.
const PLACE: usize = 1 << 10;

/// Between two questions whether there is room.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(32);

/// Between two questions whether the session is known.
const KNOWN_EVERY: Duration = Duration::from_secs(1);

/// How long the client may take, after the last packet, to fetch it.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

pub(super) struct Sender {
    transport: Arc<Transport>,
    engine: Weak<Engine>,
    pause: Duration,
    asked_at: Instant,
}

impl Sender {
    pub(super) fn new(transport: Arc<Transport>, engine: Weak<Engine>) -> Self {
        Self {
            transport,
            engine,
            pause: FIRST_PAUSE,
            asked_at: Instant::now(),
        }
    }

    pub(super) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Returns once the packet is in the buffer.
    pub(super) async fn send(&mut self, packet: Outgoing) -> Result<(), Gone> {
        let places = (1 + packet.weight() / PLACE).min(BUFFER - SPARE);
        self.is_known().await?;
        loop {
            self.wait_for(places + SPARE).await?;
            // The transport itself may have taken the place since.
            if let Ok(permit) = self.transport.reserve() {
                permit.emit_many(Str::from(packet.text), packet.attachments.into());
                return Ok(());
            }
        }
    }

    /// Waits until the client has fetched everything, for a while.
    pub(super) async fn drain(&mut self) {
        let _ = tokio::time::timeout(DRAIN_LIMIT, self.wait_for(BUFFER)).await;
    }

    /// Ends the transport. A client of socket.io comes back from that by itself.
    ///
    /// The transport would send a last packet of its own, which says that the server has closed the session. Clients
    /// in Python stay away after that one, and come back when the connection just ends; so there is no room for it.
    pub(super) fn close(&self) {
        let full: Vec<_> = iter::from_fn(|| self.transport.reserve().ok()).collect();
        self.transport.close(DisconnectReason::ClosingServer);
        drop(full);
    }

    /// Waits until so many places are free at once.
    async fn wait_for(&mut self, places: usize) -> Result<(), Gone> {
        if self.has_room(places)? {
            self.pause = (self.pause / 2).max(FIRST_PAUSE);
            return Ok(());
        }
        loop {
            tokio::select! {
                () = sleep(self.pause) => {}
                () = self.transport.data.ended.cancelled() => return Err(Gone),
            }
            if self.has_room(places)? {
                return Ok(());
            }
            self.pause = (self.pause * 2).min(LAST_PAUSE);
            self.is_known().await?;
        }
    }

    fn has_room(&self, places: usize) -> Result<bool, Gone> {
        let mut held = Vec::with_capacity(places);
        for _ in 0..places {
            match self.transport.reserve() {
                Ok(permit) => held.push(permit),
                Err(TrySendError::Full(())) => return Ok(false),
                Err(TrySendError::Closed(())) => return Err(Gone),
            }
        }
        Ok(true)
    }

    async fn is_known(&mut self) -> Result<(), Gone> {
        if self.asked_at.elapsed() < KNOWN_EVERY {
            return Ok(());
        }
        self.asked_at = Instant::now();
        let engine = self.engine.upgrade().ok_or(Gone)?;
        if engine.knows(&self.transport).await {
            Ok(())
        } else {
            Err(Gone)
        }
    }
}
