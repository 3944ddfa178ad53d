//! A connection whose writes fail when they stand still: a reader that has stopped, with its window full, would
//! otherwise hold its stream for as long as it likes.
//!
//! And one whose end waits for what is still being sent to it. A system resets a connection that is closed with bytes
//! unread, and the reset overtakes the answer. So the write side is closed first, and for a while what comes is read
//! and dropped.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::Open;
use crate::metrics::{self, Cut};

/// How long the end of a connection waits for what is under way, and for how much of it.
const LINGER: Duration = Duration::from_secs(3);
const LINGER_BYTES: usize = 8 << 20;

pub(super) struct StallGuard<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write is pending, and while the end is waited for.
    timer: Pin<Box<Sleep>>,
    running: bool,
    stalled: bool,
    /// Bytes are under way that nobody will read.
    unread: Arc<AtomicBool>,
    /// What was dropped since the write side was closed; none before.
    dropped: Option<usize>,
    _open: Open,
}

impl<S> StallGuard<S> {
    pub(super) fn new(stream: S, limit: Duration, unread: Arc<AtomicBool>, open: Open) -> Self {
        Self {
            stream,
            limit,
            timer: Box::pin(sleep(limit)),
            running: false,
            stalled: false,
            unread,
            dropped: None,
            _open: open,
        }
    }

    fn guard<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.running = false;
            return written;
        }
        if !self.running {
            self.running = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.timer.as_mut().poll(cx));
        if !self.stalled {
            self.stalled = true;
            metrics::cut(Cut::Stalled);
        }
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the reader has stopped",
        )))
    }
}

impl<S: AsyncRead + Unpin> StallGuard<S> {
    /// Ready at the peer's end, or when it has had its time. Where nothing is known to be under way and nothing is
    /// there, that is at once.
    fn linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut dropped = match self.dropped {
            Some(dropped) => dropped,
            None => {
                self.timer.as_mut().reset(Instant::now() + LINGER);
                0
            }
        };
        let mut scrap = [0; 4 << 10];
        loop {
            self.dropped = Some(dropped);
            let mut scrap = ReadBuf::new(&mut scrap);
            match Pin::new(&mut self.stream).poll_read(cx, &mut scrap) {
                Poll::Ready(Ok(())) if !scrap.filled().is_empty() && dropped < LINGER_BYTES => {
                    dropped += scrap.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if dropped == 0 && !self.unread.load(Ordering::Relaxed) => {
                    return Poll::Ready(());
                }
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.dropped.is_none() {
            let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.guard(cx, ended))?;
        }
        self.linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn guard<S>(stream: S, unread: bool) -> StallGuard<S> {
        let open = Open {
            _tracked: TaskTracker::new().token(),
            _place: None,
        };
        let unread = Arc::new(AtomicBool::new(unread));
        StallGuard::new(stream, Duration::from_secs(30), unread, open)
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_what_is_under_way_and_for_nothing_else() {
        // Nothing is there, and nothing is known to come.
        let (ours, _theirs) = tokio::io::duplex(16);
        let begun = Instant::now();
        guard(ours, false).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);

        // What is there is read until the peer has seen the end, and ends too.
        for unread in [false, true] {
            let (ours, mut theirs) = tokio::io::duplex(16);
            theirs.write_all(&[7; 16]).await.unwrap();
            let peer = tokio::spawn(async move {
                theirs.write_all(&[7; 100]).await.unwrap();
                tokio::io::AsyncReadExt::read_to_end(&mut theirs, &mut Vec::new())
                    .await
                    .unwrap();
                sleep(Duration::from_secs(1)).await;
            });
            let begun = Instant::now();
            guard(ours, unread).shutdown().await.unwrap();
            assert_eq!(begun.elapsed(), Duration::from_secs(1));
            peer.await.unwrap();
        }

        // Who neither sends nor ends has so much time.
        let (ours, _theirs) = tokio::io::duplex(16);
        let begun = Instant::now();
        guard(ours, true).shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stands_still_fails_and_a_slow_one_does_not() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut guarded = guard(ours, false);
        // The clock moves by itself when all wait: the reader takes a little now and then, longer than the limit.
        let reader = tokio::spawn(async move {
            for _ in 0..5 {
                sleep(Duration::from_secs(20)).await;
                tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut [0; 4])
                    .await
                    .unwrap();
            }
            theirs
        });
        let begun = Instant::now();
        guarded.write_all(&[7; 24]).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(100));
        let _still_open = reader.await.unwrap();
        let error = guarded.write_all(&[7; 1]).await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed()),
            (io::ErrorKind::TimedOut, Duration::from_secs(130))
        );
    }
}
