//! Random changes of valid input, of the kinds that break parsers.

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// One random change.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    const PIECES: [&[u8]; 24] = [
        b"\0",
        b"\r\n",
        b"\r\n\r\n",
        b"%00",
        b"%FF",
        b"%",
        b"-1",
        b"0",
        b"9223372036854775808",
        b"99999999999999999999",
        b"null",
        b"{",
        b"}",
        b"[",
        b"\"",
        b"\\u0000",
        b"\\",
        b"'",
        b";",
        b"&",
        b"=",
        b" ",
        b"\xff\xfe",
        b"\xf0\x9f\xa6\x80",
    ];
    let at = rng.random_range(0..bytes.len().max(1)).min(bytes.len());
    let end = (at + rng.random_range(1..=40)).min(bytes.len());
    match rng.random_range(0..8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if at < bytes.len() => bytes[at] = rng.random(),
        2 => drop(bytes.drain(at..end)),
        3 => drop(bytes.splice(
            at..at,
            PIECES.choose(rng).expect("there are pieces").iter().copied(),
        )),
        4 => drop(bytes.splice(
            at..end,
            PIECES.choose(rng).expect("there are pieces").iter().copied(),
        )),
        5 => {
            let again = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        6 => bytes.truncate(end.max(1)),
        _ => {
            let filler = vec![*b"xA0/".choose(rng).expect("there are pieces"); rng.random_range(1..6000)];
            bytes.splice(at..at, filler);
        }
    }
    if bytes.is_empty() {
        bytes.push(b'\n');
    }
}
