//! What goes out on one socket: packets into the transport's buffer, with waiting while it is full.
//!
//! The buffer takes so many packets and refuses the next one; it says nothing when it has room again. So whoever
//! sends asks again, as often as the reader's pace has shown to be worth it. It is never filled to the brim: the
//! transport puts its own pings there and ends a session whose ping is refused, so a slow reader that is alive would
//! be thrown out. And it is bounded in bytes as well: a packet has to find as many free places as it has kilobytes, so
//! that what a reader that has stopped holds here is some 30 kB and at most one large packet.
//!
//! That bound has another use. A transport that has given up its client (no answer to a ping) finds out only between
//! two flushes, and with more than its websocket's own buffer (128 kB) to write at once it comes to none.

use std::{sync::Arc, time::Duration};

use engineioxide::{DisconnectReason, Str};
use tokio::{sync::mpsc::error::TrySendError, time::sleep};

use super::{Transport, packet::Outgoing};

/// Packets that the transport's buffer takes.
pub(super) const BUFFER: usize = 32;

/// Places that stay free for the transport's own packets.
const SPARE: usize = 2;

/// Bytes of a packet for each place.
const PLACE: usize = 1 << 10;

/// Between two questions whether there is room.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(32);

/// How long the client may take, after the last packet, to fetch it.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

pub(super) struct Sender {
    transport: Arc<Transport>,
    pause: Duration,
}

impl Sender {
    pub(super) fn new(transport: Arc<Transport>) -> Self {
        Self {
            transport,
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Returns once the packet is in the buffer.
    pub(super) async fn send(&mut self, packet: Outgoing) -> Result<(), Gone> {
        let places = (1 + packet.weight() / PLACE).min(BUFFER - SPARE);
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
    pub(super) fn close(&self) {
        self.transport.close(DisconnectReason::ClosingServer);
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
}
