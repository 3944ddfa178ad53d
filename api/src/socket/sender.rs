//! What goes out on one socket: packets into the transport's buffer, with waiting while it is full.
//!
//! The buffer takes so many packets and refuses the next one; it says nothing when it has room again. So whoever
//! sends asks again, as often as the reader's pace has shown to be worth it. It is never filled to the brim: the
//! transport puts its own pings there and ends a session whose ping is refused, so a slow reader that is alive would
//! be thrown out.
//!
//! And it is bounded in bytes as well. Packets leave it in order, so if it holds some number of them they are the last
//! so many that were put there; how large those were is remembered. What a reader that has stopped holds here is 32 kB,
//! or one packet that is larger. That bound has another use: a transport that has given up its client (no answer to a
//! ping) finds out only between two flushes, and with more than its websocket's own buffer (128 kB) to write at once
//! it comes to none. What is large counts in the budget of its user, as all that goes out does ([`Flow`]).

use std::{collections::VecDeque, iter, sync::Arc, time::Duration};

use engineioxide::{DisconnectReason, Str};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::mpsc::error::TrySendError,
    time::{Instant, sleep},
};

use super::{
    Transport,
    flow::{Flow, NoRoom},
    packet::Outgoing,
};
use crate::metrics::{self, Cut};

/// Packets that the transport's buffer takes.
pub(super) const BUFFER: usize = 32;

/// Places that stay free for the transport's own packets.
const SPARE: usize = 2;

/// Bytes of the packets in the buffer; one of any size always fits.
const BYTES: usize = 32 << 10;

/// Between two questions whether there is room.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(256);

/// How long the client may take, after the last packet, to fetch it.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// The client is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

pub(super) struct Sender {
    transport: Arc<Transport>,
    /// How long there may be no room before the client is given up.
    stall: Duration,
    pause: Duration,
}

/// The sizes of the last packets, the newest first. They lie with the transport, as its buffer does: one session on it
/// may follow another.
#[derive(Default)]
pub(super) struct Sizes(Mutex<VecDeque<usize>>);

impl Sizes {
    fn put(&self, size: usize) {
        let mut sizes = self.lock();
        sizes.truncate(BUFFER - 1);
        sizes.push_front(size);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.0.lock()
    }
}

/// Bytes that are counted as on their way out, and given back where they never get there.
struct Leaving<'a> {
    flow: &'a Flow,
    bytes: usize,
}

impl Leaving<'_> {
    /// They are in the transport's buffer. It is counted where its bytes leave.
    fn sent(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.flow.left(self.bytes);
    }
}

impl Sender {
    pub(super) fn new(transport: Arc<Transport>, stall: Duration) -> Self {
        Self {
            transport,
            stall,
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Returns once the packet is in the buffer.
    pub(super) async fn send(&mut self, packet: Outgoing) -> Result<(), Gone> {
        let size = packet.weight();
        let transport = self.transport.clone();
        let places = BUFFER - beside(size, &transport.data.sizes.lock());
        let leaving = wait_for_room(&transport, size, self.stall).await?;
        loop {
            self.wait_for(places).await?;
            // The transport itself may have taken the place since.
            if let Ok(permit) = transport.reserve() {
                permit.emit_many(Str::from(packet.text), packet.attachments.into());
                leaving.sent();
                transport.data.sizes.put(size);
                return Ok(());
            }
        }
    }

    /// Waits until the client has taken what it was sent, before a page is read for it: a client that asks for many and
    /// takes none holds one.
    pub(super) async fn until_taken(&self) -> Result<(), Gone> {
        let flow = Flow::of(&self.transport).ok_or(Gone)?;
        tokio::select! {
            () = flow.until_left() => Ok(()),
            () = sleep(self.stall) => Err(Gone),
            () = self.transport.data.ended.cancelled() => Err(Gone),
        }
    }

    /// Waits until the client has fetched everything, for a while.
    pub(super) async fn drain(&mut self) {
        let _ = tokio::time::timeout(DRAIN_LIMIT, async {
            if self.wait_for(BUFFER).await.is_ok() {
                self.transport.data.payload.fetched().await;
            }
        })
        .await;
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

    /// Waits until so many places are free at once. A client that answers pings and fetches nothing, as one that polls
    /// can, holds what is here for as long as it likes; so there is an end to the waiting as there is to a write.
    async fn wait_for(&mut self, places: usize) -> Result<(), Gone> {
        if self.has_room(places)? {
            self.pause = (self.pause / 2).max(FIRST_PAUSE);
            return Ok(());
        }
        let given_up = Instant::now() + self.stall;
        while Instant::now() < given_up {
            tokio::select! {
                () = sleep(self.pause) => {}
                () = self.transport.data.ended.cancelled() => return Err(Gone),
            }
            if self.has_room(places)? {
                return Ok(());
            }
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        Err(Gone)
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

/// Waits until so many bytes more may go out, to all that the user has open.
async fn wait_for_room(transport: &Transport, bytes: usize, stall: Duration) -> Result<Leaving<'_>, Gone> {
    let flow = Flow::of(transport).ok_or(Gone)?;
    let given_up = Instant::now() + stall;
    while flow.leaves(bytes) == Err(NoRoom) {
        if Instant::now() >= given_up {
            metrics::cut(Cut::Overloaded);
            return Err(Gone);
        }
        tokio::select! {
            () = sleep(LAST_PAUSE) => {}
            () = transport.data.ended.cancelled() => return Err(Gone),
        }
    }
    Ok(Leaving { flow, bytes })
}

/// How many of the last packets may still be in the buffer when one of this size is put there.
fn beside(size: usize, last: &VecDeque<usize>) -> usize {
    let all = last.iter().scan(size, |bytes, size| {
        *bytes += size;
        Some(*bytes)
    });
    let fit = all.take_while(|bytes| *bytes <= BYTES).count();
    // What was never sent is not there.
    let fit = if fit == last.len() { BUFFER } else { fit };
    fit.min(BUFFER - SPARE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_buffer_is_bounded_in_packets_and_in_bytes() {
        const MOST: usize = BUFFER - SPARE - 1;
        for (size, last, fit) in [
            (1, vec![], MOST),
            (BYTES * 9, vec![], MOST),
            (1, vec![1; BUFFER], MOST),
            (1, vec![BYTES - 1], MOST),
            (1, vec![BYTES], 0),
            (BYTES, vec![1, 1], 0),
            (BYTES / 4, vec![BYTES / 4; BUFFER], 3),
            (1, [vec![10; 5], vec![BYTES; 9]].concat(), 5),
        ] {
            assert_eq!(beside(size, &last.clone().into()), fit, "{size} after {last:?}");
        }
    }
}
