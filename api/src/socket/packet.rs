//! The packets of socket.io (protocol 5) as text: `<type>[<attachments>-][<namespace>,][<ack>][JSON]`, with the bytes
//! of a binary packet in frames of their own after it.
//!
//! Reading is total: what is no packet is [`Malformed`], and the connection it came on is closed, as other servers do.
//! The frame of a packet and the name of an event are read here; other JSON is read where it is understood.

use std::{fmt, mem};

use bytes::Bytes;
use engineioxide::Str;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{ConnectError, Connected};
use crate::problem::ProblemBody;

/// How many pieces of binary one packet may have. No command has more than one; somebody who sends more is told what
/// is wrong with the command, up to a bound.
const MOST_ATTACHMENTS: usize = 16;

/// What a client sent, whole.
#[derive(Debug, PartialEq)]
pub(super) struct Received {
    /// Empty for the one that everybody uses, `/`.
    pub(super) namespace: String,
    pub(super) packet: Packet,
}

#[derive(Debug, PartialEq)]
pub(super) enum Packet {
    Connect {
        /// JSON, or empty.
        auth: Str,
    },
    Disconnect,
    Event(Event),
    /// The answer to something that this server never asks.
    Ack,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Event {
    /// The number that the client wants its answer under.
    pub(super) ack: Option<u64>,
    pub(super) name: String,
    pub(super) payload: Payload,
    /// Bytes of the JSON, which the payload keeps all of.
    pub(super) length: usize,
    pub(super) attachments: Vec<Bytes>,
}

/// What stands behind an event's name.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Payload {
    #[default]
    None,
    /// JSON.
    One(Str),
    /// No command has them.
    Several,
}

impl Event {
    pub(super) fn weight(&self) -> usize {
        let attached: usize = self.attachments.iter().map(Bytes::len).sum();
        mem::size_of::<Self>() + self.name.len() + self.length + attached
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Puts packets together from the texts and the bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// A binary packet, and how many of its attachments have not come yet.
    unfinished: Option<(Received, usize)>,
}

impl Decoder {
    /// `None` where bytes are still to come.
    pub(super) fn text(&mut self, text: &Str) -> Result<Option<Received>, Malformed> {
        if self.unfinished.is_some() {
            return Err(Malformed);
        }
        let (received, attachments) = read(text).ok_or(Malformed)?;
        if attachments == 0 {
            return Ok(Some(received));
        }
        self.unfinished = Some((received, attachments));
        Ok(None)
    }

    /// `limit`: bytes of a whole packet.
    pub(super) fn binary(&mut self, bytes: Bytes, limit: usize) -> Result<Option<Received>, Malformed> {
        let (mut received, missing) = self.unfinished.take().ok_or(Malformed)?;
        if let Packet::Event(event) = &mut received.packet {
            event.attachments.push(bytes);
            if event.weight() > limit {
                return Err(Malformed);
            }
        }
        if missing == 1 {
            return Ok(Some(received));
        }
        self.unfinished = Some((received, missing - 1));
        Ok(None)
    }
}

/// Bytes of a namespace's name: it is given back in a refusal.
const LONGEST_NAMESPACE: usize = 64;

fn read(text: &Str) -> Option<(Received, usize)> {
    const BINARY_EVENT: u8 = b'5';
    const BINARY_ACK: u8 = b'6';
    let kind = *text.as_bytes().first()?;
    // The first byte may begin a longer character.
    let mut rest = text.as_str().get(1..)?;
    let mut attachments = 0;
    if matches!(kind, BINARY_EVENT | BINARY_ACK) {
        let (count, after) = rest.split_once('-')?;
        attachments = digits(count)?;
        if attachments > MOST_ATTACHMENTS {
            return None;
        }
        rest = after;
    }
    let mut namespace = "";
    if rest.starts_with('/') {
        (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
    }
    if namespace.len() > LONGEST_NAMESPACE {
        return None;
    }
    let namespace = namespace.strip_suffix('/').unwrap_or(namespace).to_owned();
    let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, json) = rest.split_at(number);
    let ack = if number.is_empty() {
        None
    } else {
        Some(digits(number)?)
    };
    let json = text.slice(text.len() - json.len()..);
    let packet = match kind {
        b'0' if ack.is_none() => Packet::Connect { auth: json },
        b'1' if ack.is_none() => Packet::Disconnect,
        b'2' | BINARY_EVENT => {
            let Arguments { name, payload, more } = serde_json::from_str(&json).ok()?;
            let payload = match payload {
                None => Payload::None,
                Some(_) if more => Payload::Several,
                Some(payload) => {
                    let begin = payload.get().as_ptr().addr() - json.as_ptr().addr();
                    Payload::One(json.slice(begin..begin + payload.get().len()))
                }
            };
            Packet::Event(Event {
                ack,
                name,
                payload,
                length: json.len(),
                attachments: Vec::new(),
            })
        }
        b'3' | BINARY_ACK if ack.is_some() => Packet::Ack,
        _ => return None,
    };
    Some((Received { namespace, packet }, attachments))
}

/// The JSON of an event: an array of its name and what goes with it. Anything else is no event.
struct Arguments<'a> {
    name: String,
    payload: Option<&'a RawValue>,
    more: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Arguments<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;

        impl<'de> Visitor<'de> for Array {
            type Value = Arguments<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array that begins with a name")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let name = array.next_element()?;
                let name = name.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let payload = array.next_element()?;
                let mut more = false;
                while array.next_element::<IgnoredAny>()?.is_some() {
                    more = true;
                }
                Ok(Arguments { name, payload, more })
            }
        }

        deserializer.deserialize_seq(Array)
    }
}

/// A number as JavaScript writes a safe one.
fn digits<T: TryFrom<u64>>(text: &str) -> Option<T> {
    const MAX_SAFE: u64 = (1 << 53) - 1;
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = all.then(|| text.parse().ok()).flatten()?;
    (number <= MAX_SAFE).then(|| T::try_from(number).ok()).flatten()
}

/// A packet to be sent: its text, and the bytes that follow it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outgoing {
    pub(super) text: String,
    pub(super) attachments: Vec<Bytes>,
}

impl Outgoing {
    pub(super) fn connect(sid: &str) -> Self {
        Self::plain(format!("0{}", json(&Connected { sid })))
    }

    /// `namespace` as it was [`Received`].
    pub(super) fn connect_error(namespace: &str, message: &str, data: Option<&ProblemBody>) -> Self {
        let separator = if namespace.is_empty() { "" } else { "," };
        let error = json(&ConnectError { message, data });
        Self::plain(format!("4{namespace}{separator}{error}"))
    }

    pub(super) fn disconnect() -> Self {
        Self::plain("1".to_owned())
    }

    /// `json` is the event's one argument.
    pub(super) fn event(name: &str, json: &str, attachments: Vec<Bytes>) -> Self {
        let text = match attachments.len() {
            0 => format!(r#"2["{name}",{json}]"#),
            count => format!(r#"5{count}-["{name}",{json}]"#),
        };
        Self { text, attachments }
    }

    /// `json` is the answer's one argument.
    pub(super) fn ack(number: u64, json: &str, attachments: Vec<Bytes>) -> Self {
        let text = match attachments.len() {
            0 => format!("3{number}[{json}]"),
            count => format!("6{count}-{number}[{json}]"),
        };
        Self { text, attachments }
    }

    pub(super) fn weight(&self) -> usize {
        self.text.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }

    fn plain(text: String) -> Self {
        Self {
            text,
            attachments: Vec::new(),
        }
    }
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and JSON values always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &'static str) -> Result<Option<Received>, Malformed> {
        Decoder::default().text(&Str::from(text))
    }

    fn event(ack: Option<u64>, name: &str, payload: Payload, length: usize) -> Received {
        Received {
            namespace: String::new(),
            packet: Packet::Event(Event {
                ack,
                name: name.into(),
                payload,
                length,
                attachments: vec![],
            }),
        }
    }

    #[test]
    fn packets_are_read() {
        let connect = |namespace: &str, auth: &'static str| Received {
            namespace: namespace.into(),
            packet: Packet::Connect { auth: auth.into() },
        };
        for (text, received) in [
            ("0", connect("", "")),
            (r#"0{"token":"x"}"#, connect("", r#"{"token":"x"}"#)),
            (r#"0/,{"token":"x"}"#, connect("", r#"{"token":"x"}"#)),
            ("0/rooms", connect("/rooms", "")),
            ("0/rooms,{}", connect("/rooms", "{}")),
            (
                r#"2["send",{}]"#,
                event(None, "send", Payload::One("{}".into()), 11),
            ),
            (
                r#"212["send" , {"a": 1} ]"#,
                event(Some(12), "send", Payload::One(r#"{"a": 1}"#.into()), 20),
            ),
            (
                r#"29007199254740991["x"]"#,
                event(Some(9_007_199_254_740_991), "x", Payload::None, 5),
            ),
            (r#"50-["x"]"#, event(None, "x", Payload::None, 5)),
            (r#"2["x",1,2]"#, event(None, "x", Payload::Several, 9)),
        ] {
            assert_eq!(whole(text), Ok(Some(received)), "{text}");
        }
        for (text, packet) in [
            ("1", Packet::Disconnect),
            ("1/,", Packet::Disconnect),
            ("30[]", Packet::Ack),
        ] {
            assert_eq!(whole(text).unwrap().unwrap().packet, packet, "{text}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for text in [
            "",
            "7",
            "x",
            "é",
            "4{}",
            "5",
            "5[\"x\"]",
            "5-[]",
            "5x-[]",
            "517-[]",
            "51",
            "3[]",
            "6-1[]",
            "61-[]",
            "29007199254740992[]",
            "2184467440737095516150[]",
            "012{}",
            "5999999999999999999999-[]",
            "5+1-[]",
            "2",
            "2{}",
            "2[]",
            "2[1]",
            "2[null]",
            "21[]",
            r#"2abc["send"]"#,
            r#"2["send""#,
            r#"2["send"]x"#,
            r#"2["send",nonsense]"#,
            r#"2"send""#,
            "50-[]",
        ] {
            assert_eq!(whole(text), Err(Malformed), "{text}");
        }
    }

    #[test]
    fn a_binary_packet_is_whole_once_all_its_bytes_have_come() {
        let mut decoder = Decoder::default();
        let bytes = |byte| Bytes::from(vec![byte; 3]);
        assert_eq!(decoder.binary(bytes(0), 9000), Err(Malformed));
        assert_eq!(decoder.text(&Str::from(r#"52-7["send"]"#)), Ok(None));
        assert_eq!(decoder.binary(bytes(1), 9000), Ok(None));
        let received = decoder.binary(bytes(2), 9000).unwrap().unwrap();
        let expected = Event {
            ack: Some(7),
            name: "send".to_owned(),
            payload: Payload::None,
            length: 8,
            attachments: vec![bytes(1), bytes(2)],
        };
        assert_eq!(received.packet, Packet::Event(expected));
        assert_eq!(decoder.text(&Str::from(r#"51-["x"]"#)), Ok(None));
        assert_eq!(
            decoder.text(&Str::from("2[]")),
            Err(Malformed),
            "bytes were to come"
        );
        let mut decoder = Decoder::default();
        assert_eq!(decoder.text(&Str::from(r#"51-["x"]"#)), Ok(None));
        assert_eq!(decoder.binary(Bytes::from(vec![0; 1000]), 999), Err(Malformed));
    }

    #[test]
    fn packets_are_written() {
        let bytes = || vec![Bytes::from_static(b"x")];
        let mut refused = crate::problem::Problem::new(crate::problem::Code::TokenMissing).body(None);
        refused.title = "a".to_owned();
        for (packet, text) in [
            (Outgoing::connect("abc"), r#"0{"sid":"abc"}"#),
            (Outgoing::disconnect(), "1"),
            (Outgoing::event("ready", "{}", vec![]), r#"2["ready",{}]"#),
            (Outgoing::event("event", "{}", bytes()), r#"51-["event",{}]"#),
            (Outgoing::ack(7, "{}", vec![]), "37[{}]"),
            (Outgoing::ack(7, "{}", bytes()), "61-7[{}]"),
            (Outgoing::connect_error("", "a\"", None), r#"4{"message":"a\""}"#),
            (
                Outgoing::connect_error("/x", "a", Some(&refused)),
                r#"4/x,{"message":"a","data":{"type":"urn:chat-system:problem:token_missing","title":"a","status":401,"code":"token_missing"}}"#,
            ),
        ] {
            assert_eq!(packet.text, text);
        }
    }
}
