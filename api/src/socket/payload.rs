//! How much one poll takes.
//!
//! The transport gives a poll everything that is in its buffer. Clients in Python refuse a payload of more than 16
//! packets, break the connection, and come back to the same payload. So what is beyond the 16th is kept back here and
//! given to the next poll; attachments are packets too, so one event may take several polls.

use std::{future::Future, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

use crate::problem::{Code, Problem};

/// Packets in one payload.
const MOST: usize = 16;

/// Between two packets. JSON and base64 never contain it.
const SEPARATOR: u8 = 0x1e;

/// Between two questions whether all is fetched.
const PAUSE: Duration = Duration::from_millis(5);

/// What the next poll gets first.
#[derive(Default)]
pub(super) struct KeptBack(Mutex<State>);

#[derive(Default)]
struct State {
    packets: Option<Bytes>,
    /// The client steps up to a websocket, and will poll no more.
    whole: bool,
}

impl KeptBack {
    /// Waits until nothing is kept back.
    pub(super) async fn fetched(&self) {
        while self.lock().packets.is_some() {
            sleep(PAUSE).await;
        }
    }

    /// Waits until nothing is kept back; from then on nothing is.
    pub(super) async fn whole(&self) {
        loop {
            {
                let mut state = self.lock();
                if state.packets.is_none() {
                    state.whole = true;
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Keeps back what is too much for one poll, and gives the rest.
    fn keep(&self, packets: Bytes) -> Bytes {
        let mut state = self.lock();
        if state.whole {
            return packets;
        }
        let (now, later) = split(packets);
        state.packets = later;
        now
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

fn split(packets: Bytes) -> (Bytes, Option<Bytes>) {
    let mut separators = packets.iter().enumerate().filter(|(_, byte)| **byte == SEPARATOR);
    let end = separators.nth(MOST - 1).map(|(at, _)| at);
    match end {
        None => (packets, None),
        Some(end) => (packets.slice(..end), Some(packets.slice(end + 1..))),
    }
}

/// The answer to a poll, within the bound.
pub(super) async fn bound(kept: &KeptBack, poll: impl Future<Output = Response>) -> Response {
    let before = kept.lock().packets.take();
    if let Some(packets) = before {
        let mut answer = Response::new(Body::from(kept.keep(packets)));
        let text = HeaderValue::from_static("text/plain; charset=UTF-8");
        answer.headers_mut().insert(CONTENT_TYPE, text);
        return answer;
    }
    let answer = poll.await;
    if answer.status() != StatusCode::OK {
        return answer;
    }
    let (mut parts, body) = answer.into_parts();
    let Ok(packets) = to_bytes(body, usize::MAX).await else {
        return Problem::new(Code::Internal).into_response();
    };
    parts.headers.remove(CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(kept.keep(packets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(packets: usize) -> Bytes {
        let packets: Vec<_> = (0..packets).map(|n| format!("4{n}")).collect();
        packets.join("\u{1e}").into()
    }

    #[tokio::test]
    async fn one_poll_takes_sixteen_packets_and_the_next_ones_the_others_in_order() {
        for packets in [1, 15, 16, 17, 32, 33, 201] {
            let kept = KeptBack::default();
            let mut fetched = Vec::new();
            let mut polls = 0;
            loop {
                let engine = async {
                    assert_eq!(polls, 0, "what is kept back comes first");
                    Response::new(Body::from(payload(packets)))
                };
                let answer = bound(&kept, engine).await;
                let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
                let body = String::from_utf8(body.to_vec()).unwrap();
                let taken: Vec<_> = body.split('\u{1e}').map(str::to_owned).collect();
                assert!(taken.len() <= MOST, "{packets}: {}", taken.len());
                fetched.extend(taken);
                polls += 1;
                if kept.lock().packets.is_none() {
                    break;
                }
            }
            assert_eq!(polls, packets.div_ceil(MOST));
            assert_eq!(fetched.join("\u{1e}"), payload(packets));
        }
    }

    #[tokio::test]
    async fn a_client_that_steps_up_to_a_websocket_gets_all_at_once() {
        let kept = KeptBack::default();
        kept.whole().await;
        let answer = bound(&kept, async { Response::new(Body::from(payload(40))) }).await;
        assert_eq!(
            to_bytes(answer.into_body(), usize::MAX).await.unwrap(),
            payload(40)
        );
    }
}
