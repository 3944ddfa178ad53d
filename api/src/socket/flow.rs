//! What one client has on its way in and out, counted (see [`crate::limits`]).
//!
//! In: the frames of a message that are not all there, and the commands that wait. Before it is known who connects, a
//! message is bounded by what a CONNECT with a token needs; from then on by its user's budget, as bodies are.
//!
//! Out: what was handed to the transport and is not written yet. The transport keeps packets in buffers that nobody else
//! sees, so it is counted where its bytes leave: at the websocket's stream, and with the answers to polls.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Bytes, to_bytes},
    response::Response,
};
use chat_domain::ids::UserId;
use engineioxide::Socket;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::Connection;
use crate::{
    limits::{FREE, Holder, Limits, Room},
    metrics::{self, Cut, Way},
};

/// Bytes of a message before it is known who connects: a CONNECT with a token of 16 kB, however it is escaped.
pub(super) const LONGEST_CONNECT: usize = 32 << 10;

/// No room is left for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// Lies in the request that began the session, which the transport keeps as long as the session.
#[derive(Clone)]
pub(super) struct Flow(Arc<Shared>);

struct Shared {
    limits: Limits,
    held: Mutex<Held>,
    /// Some bytes have left.
    left: Notify,
}

struct Held {
    holder: Holder,
    /// Bytes of the message that is not all there, and of the commands that wait.
    message: usize,
    waiting: usize,
    incoming: Room,
    outgoing: Room,
}

impl Flow {
    /// Of a client that has not said who it is.
    pub(super) fn new(limits: &Limits, holder: Holder) -> Self {
        let held = Held {
            message: 0,
            waiting: 0,
            incoming: limits.room(Way::In, &holder),
            outgoing: limits.room(Way::Out, &holder),
            holder,
        };
        Self(Arc::new(Shared {
            limits: limits.clone(),
            held: Mutex::new(held),
            left: Notify::new(),
        }))
    }

    pub(super) fn of(transport: &Socket<Connection>) -> Option<&Self> {
        transport.req_parts.extensions.get()
    }

    /// Once it is known who connects. What is on its way counts as this user's from then on: on one transport a user
    /// may follow another.
    pub(super) fn of_user(&self, user: &UserId) -> Result<(), NoRoom> {
        let mut held = self.lock();
        if held.holder.user.as_ref() == Some(user) {
            return Ok(());
        }
        let mut holder = held.holder.clone();
        holder.user = Some(user.clone());
        let room = |way, before: &mut Room| -> Result<(), NoRoom> {
            let bytes = before.bytes();
            let mut room = self.0.limits.room(way, &holder);
            room.hold(bytes).map_err(|_| NoRoom)?;
            *before = room;
            Ok(())
        };
        room(Way::In, &mut held.incoming)?;
        room(Way::Out, &mut held.outgoing)?;
        held.holder = holder;
        Ok(())
    }

    /// Whose it is, where that is known.
    pub(super) fn holder(&self) -> Holder {
        self.lock().holder.clone()
    }

    /// So many bytes of a message are there that is not all there yet, of those that it announces.
    fn comes(&self, bytes: usize, announced: u64) -> Result<(), NoRoom> {
        let mut held = self.lock();
        if held.holder.user.is_none() && announced > LONGEST_CONNECT as u64 {
            return Err(NoRoom);
        }
        let waiting = held.waiting;
        held.incoming.hold(bytes + waiting).map_err(|_| NoRoom)?;
        held.message = bytes;
        Ok(())
    }

    /// A command of so many bytes waits from now on.
    pub(super) fn waits(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut held = self.lock();
        let waiting = held.waiting + bytes;
        let all = held.message + waiting;
        held.incoming.hold(all).map_err(|_| NoRoom)?;
        held.waiting = waiting;
        Ok(())
    }

    pub(super) fn taken(&self, bytes: usize) {
        let mut held = self.lock();
        held.waiting = held.waiting.saturating_sub(bytes);
        let all = held.message + held.waiting;
        // It is less than before.
        let _ = held.incoming.hold(all);
    }

    /// A packet of so many bytes goes to the transport.
    pub(super) fn leaves(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut held = self.lock();
        let all = held.outgoing.bytes() + bytes;
        held.outgoing.hold(all).map_err(|_| NoRoom)
    }

    /// So many bytes have left the transport. It adds some of its own, which were never counted.
    pub(super) fn left(&self, bytes: usize) {
        let mut held = self.lock();
        let rest = held.outgoing.bytes().saturating_sub(bytes);
        let _ = held.outgoing.hold(rest);
        self.0.left.notify_waiters();
    }

    /// Returns once next to nothing is on its way out.
    pub(super) async fn until_left(&self) {
        loop {
            let left = self.0.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.lock().outgoing.bytes() <= FREE {
                return;
            }
            left.await;
        }
    }

    /// The answer to a poll, which is whole: its bytes have left once nobody has them any more.
    pub(super) async fn count_answer(self, answer: Response) -> Response {
        struct Leaving {
            bytes: Bytes,
            flow: Flow,
        }

        impl AsRef<[u8]> for Leaving {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }

        impl Drop for Leaving {
            fn drop(&mut self) {
                self.flow.left(self.bytes.len());
            }
        }

        let (head, body) = answer.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
        let leaving = Bytes::from_owner(Leaving { bytes, flow: self });
        Response::from_parts(head, leaving.into())
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock()
    }
}

/// Follows the frames of a websocket (RFC 6455, section 5.2) in the bytes that a client sends, to know how much of a
/// message is there. What is no websocket the transport finds by itself.
#[derive(Default)]
struct Frames {
    head: [u8; LONGEST_HEAD],
    /// Bytes of the head that are there.
    read: usize,
    /// Bytes of the frame's payload that have not come.
    missing: u64,
    /// Bytes of the message that are there.
    message: usize,
}

const LONGEST_HEAD: usize = 14;

impl Frames {
    /// Reads on. Gives the bytes of the message that is not all there, and those that the longest one was to have which
    /// came here, with the frames that are known of it.
    fn read(&mut self, mut bytes: &[u8]) -> (usize, u64) {
        let mut longest = self.announced();
        while let Some((&first, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let missing = usize::try_from(self.missing).unwrap_or(usize::MAX);
                let here = missing.min(bytes.len());
                self.missing -= here as u64;
                if !self.is_control() {
                    self.message += here;
                }
                bytes = &bytes[here..];
            } else {
                self.head[self.read] = first;
                self.read += 1;
                bytes = rest;
                if self.read < self.head_length() {
                    continue;
                }
                self.missing = self.payload_length();
                longest = longest.max(self.announced());
            }
            if self.missing == 0 {
                self.end();
            }
        }
        (self.message, longest)
    }

    fn announced(&self) -> u64 {
        let frame = if self.is_control() { 0 } else { self.missing };
        frame.saturating_add(self.message as u64)
    }

    fn end(&mut self) {
        const FIN: u8 = 0x80;
        if self.head[0] & FIN != 0 && !self.is_control() {
            self.message = 0;
        }
        self.read = 0;
    }

    fn is_control(&self) -> bool {
        self.head[0] & 0x08 != 0
    }

    fn head_length(&self) -> usize {
        if self.read < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }

    fn payload_length(&self) -> u64 {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        match self.head[1] & 0x7f {
            126 => number(&self.head[2..4]),
            127 => number(&self.head[2..10]),
            length => length.into(),
        }
    }
}

/// The stream of a websocket, of which both ways are counted.
pub(super) struct Counted<S> {
    stream: S,
    flow: Flow,
    frames: Frames,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, flow: Flow) -> Self {
        Self {
            stream,
            flow,
            frames: Frames::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let (here, whole) = self.frames.read(&buf.filled()[before..]);
        Poll::Ready(self.flow.comes(here, whole).map_err(|NoRoom| {
            // Nothing is read where reading fails.
            buf.set_filled(before);
            metrics::cut(Cut::Overloaded);
            io::Error::other("there is no room for what the client sends")
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.flow.left(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.flow.left(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::{
        limits::{FREE, LimitsOptions},
        testing,
    };

    /// A frame of a client, with its mask.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..0x1_0000 => {
                frame.push(0x80 | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(std::iter::repeat_n(7, payload));
        frame
    }

    const TEXT: u8 = 0x81;
    const FIRST: u8 = 0x01;
    const LAST: u8 = 0x80;
    const PING: u8 = 0x89;

    #[test]
    fn what_is_there_of_a_message_is_known_however_it_comes() {
        let all: Vec<u8> = [
            frame(TEXT, 0),
            frame(TEXT, 125),
            frame(TEXT, 126),
            frame(FIRST, 1000),
            frame(PING, 5),
            frame(LAST, 70_000),
            frame(TEXT, 3),
        ]
        .concat();
        for step in [1, 2, 3, 7, 100, 4096, all.len()] {
            let (mut frames, mut most) = (Frames::default(), (0, 0));
            for bytes in all.chunks(step) {
                let (here, whole) = frames.read(bytes);
                assert!(here as u64 <= whole);
                most = most.max((here, whole));
            }
            assert_eq!(frames.read(&[]), (0, 0), "step {step}");
            if step == 1 {
                assert_eq!(most, (70_999, 71_000));
            }
        }
        let mut frames = Frames::default();
        let announced = &frame(TEXT, 1 << 20)[..14];
        assert_eq!(frames.read(announced), (0, 1 << 20));
        let largest = [&[TEXT, 0xff][..], &[0xff; 12]].concat();
        assert_eq!(Frames::default().read(&largest), (0, u64::MAX));
    }

    fn flow(limits: &Limits) -> Flow {
        Flow::new(limits, limits.holder([192, 0, 2, 1].into(), None))
    }

    /// Whether all of it is read, as the transport reads it.
    async fn sends(flow: &Flow, bytes: &[u8]) -> io::Result<()> {
        let (mut theirs, ours) = duplex(1 << 20);
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let mut stream = Counted::new(ours, flow.clone());
        while stream.read(&mut [0; 4096]).await? > 0 {}
        Ok(())
    }

    #[tokio::test]
    async fn a_message_is_small_until_it_is_known_who_connects_and_within_the_budget_then() {
        let limits = Limits::new(LimitsOptions {
            bodies: 400 << 10,
            largest: 1,
            ..testing::limits()
        });
        let (alice, nobody) = (flow(&limits), flow(&limits));
        let large = frame(TEXT, LONGEST_CONNECT + 1);
        assert!(sends(&nobody, &frame(TEXT, LONGEST_CONNECT)).await.is_ok());
        assert!(sends(&nobody, &large[..20]).await.is_err(), "it is announced");
        let parts = [frame(FIRST, LONGEST_CONNECT), frame(LAST, 1)].concat();
        assert!(sends(&nobody, &parts).await.is_err());
        alice.of_user(&UserId::parse("alice").unwrap()).unwrap();
        assert!(sends(&alice, &large).await.is_ok());
        // A user has a quarter.
        let most = frame(TEXT, (100 << 10) + FREE + 10_000);
        let unfinished = most.len() - 10_100;
        assert!(sends(&alice, &most[..unfinished]).await.is_ok());
        assert_eq!(alice.waits(1000), Err(NoRoom));
        assert!(sends(&alice, &most).await.is_err());
        assert!(
            sends(&alice, &frame(TEXT, 1)).await.is_ok(),
            "the message is gone"
        );
        assert_eq!(alice.waits(1000), Ok(()));
        alice.taken(1000);
    }

    #[test]
    fn what_is_on_its_way_is_counted_of_the_user_who_comes_next_on_the_same_transport() {
        let limits = Limits::new(LimitsOptions {
            answers: 400,
            largest: 1,
            ..testing::limits()
        });
        let (first, second) = (flow(&limits), flow(&limits));
        let [alice, bob] = ["alice", "bob"].map(|name| UserId::parse(name).unwrap());
        first.of_user(&alice).unwrap();
        first.leaves(FREE + 100).unwrap();
        for _ in 0..2 {
            first.of_user(&alice).unwrap();
            assert_eq!(first.leaves(1), Err(NoRoom), "a new session empties no buffer");
        }
        first.of_user(&bob).unwrap();
        assert_eq!(first.leaves(1), Err(NoRoom));
        second.of_user(&alice).unwrap();
        assert_eq!(
            second.leaves(FREE + 100),
            Ok(()),
            "alice has nothing there any more"
        );
        assert_eq!(second.of_user(&bob), Err(NoRoom), "bob has all that he may have");
    }

    #[tokio::test]
    async fn a_packet_is_counted_until_its_bytes_have_left() {
        let limits = Limits::new(LimitsOptions {
            answers: 400,
            largest: 1,
            ..testing::limits()
        });
        let flow = flow(&limits);
        flow.of_user(&UserId::parse("alice").unwrap()).unwrap();
        flow.leaves(FREE + 100).unwrap();
        assert_eq!(flow.leaves(1), Err(NoRoom));
        let (ours, mut theirs) = duplex(1 << 20);
        let mut stream = Counted::new(ours, flow.clone());
        stream.write_all(&[7; 60]).await.unwrap();
        assert_eq!(flow.leaves(61), Err(NoRoom));
        assert_eq!(flow.leaves(60), Ok(()));
        theirs.read_exact(&mut [0; 60]).await.unwrap();

        // Whether it is read, or its client is gone before.
        for is_read in [true, false] {
            let answer = Response::new(vec![7; 100].into());
            let answer = flow.clone().count_answer(answer).await;
            assert_eq!(flow.leaves(1), Err(NoRoom));
            if is_read {
                let bytes = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
                assert_eq!((bytes.len(), flow.leaves(1)), (100, Err(NoRoom)));
            } else {
                drop(answer);
            }
            assert_eq!(flow.leaves(100), Ok(()));
        }
    }
}
