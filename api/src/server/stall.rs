//! A connection whose writes fail when they stand still: a reader that has stopped, with its window full, would
//! otherwise hold its stream for as long as it likes.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::Open;
use crate::metrics::{self, Cut};

pub(super) struct StallGuard<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write is pending.
    timer: Pin<Box<Sleep>>,
    running: bool,
    stalled: bool,
    _open: Open,
}

impl<S> StallGuard<S> {
    pub(super) fn new(stream: S, limit: Duration, open: Open) -> Self {
        Self {
            stream,
            limit,
            timer: Box::pin(sleep(limit)),
            running: false,
            stalled: false,
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

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
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
        let ended = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.guard(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stands_still_fails_and_a_slow_one_does_not() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let open = Open {
            _tracked: TaskTracker::new().token(),
            _place: None,
        };
        let mut guarded = StallGuard::new(ours, Duration::from_secs(30), open);
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
