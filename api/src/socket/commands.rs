//! What a client may ask over a socket, and how it is answered: one argument, `{"result": …}` or `{"problem": …}`.

use bytes::Bytes;
use chat_domain::{cursor::After, ids::CommandKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{
    packet::{Event, Outgoing, Payload, json},
    parse_part,
};
use crate::{
    auth::Caller,
    door::Door,
    limits::Room,
    metrics,
    operations::{ConversationList, ListConversations, ListMessages, MessageList, Sent},
    problem::{Code, Problem},
    terms,
    wire::{Binary, Draft, Message, NewData, NewReceipt, NewText, Receipt, ReceiptType, whole_number},
};

pub(super) enum Command {
    Send {
        key: CommandKey,
        draft: Draft,
    },
    Receipt {
        key: CommandKey,
        receipt: NewReceipt,
    },
    History(ListMessages),
    Conversations(ListConversations),
    Resume(After),
    /// With the new token.
    Authenticate(String),
}

/// Whether a `resume` waits there.
pub(super) fn is_resume(event: &Event) -> bool {
    event.name == "resume"
}

impl Command {
    pub(super) fn parse(event: &Event) -> Result<Self, Problem> {
        let payload = match &event.payload {
            Payload::None => "{}",
            Payload::One(payload) => payload.as_str(),
            Payload::Several => {
                let detail = "an event has a name and one argument, an object";
                return Err(Problem::new(Code::BodyInvalid).detail(detail));
            }
        };
        Ok(match event.name.as_str() {
            "send" => {
                let send: SendMessage = parse(payload)?;
                Self::Send {
                    key: key(send.key.as_deref())?,
                    draft: send.draft(&event.attachments)?,
                }
            }
            "receipt" => {
                let SendReceipt {
                    key: given,
                    kind,
                    up_to,
                } = parse(payload)?;
                Self::Receipt {
                    key: key(given.as_deref())?,
                    receipt: NewReceipt { kind, up_to },
                }
            }
            "history" => Self::History(parse(payload)?),
            "conversations" => Self::Conversations(parse(payload)?),
            "resume" => {
                let Resume { after } = parse(payload)?;
                let after = After::parse(&after);
                Self::Resume(
                    after.map_err(|invalid| Problem::new(Code::CursorInvalid).at("/after", invalid))?,
                )
            }
            "authenticate" => {
                let Authenticate { token } = parse(payload)?;
                Self::Authenticate(token)
            }
            _ => return Err(Problem::new(Code::EventUnknown)),
        })
    }
}

fn parse<T: DeserializeOwned>(payload: &str) -> Result<T, Problem> {
    parse_part(payload, "")
}

fn key(given: Option<&str>) -> Result<CommandKey, Problem> {
    match given {
        None => Ok(CommandKey::of_server(rand::random())),
        Some(key) => {
            CommandKey::parse(key).map_err(|invalid| Problem::new(Code::KeyInvalid).at("/key", invalid))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendMessage {
    receiver_id: String,
    text: Option<String>,
    /// Bytes that came beside the JSON, or base64.
    data: Option<Box<RawValue>>,
    content_type: Option<String>,
    key: Option<String>,
}

impl SendMessage {
    fn draft(self, attachments: &[Bytes]) -> Result<Draft, Problem> {
        #[derive(Deserialize)]
        #[serde(untagged, deny_unknown_fields)]
        enum Data {
            Base64(String),
            Attached { _placeholder: bool, num: usize },
        }
        let data = match self.data.as_deref().map(|data| serde_json::from_str(data.get())) {
            None => None,
            Some(Ok(Data::Base64(text))) => Some(Draft::base64(&text)?),
            Some(Ok(Data::Attached { num, .. })) if num < attachments.len() => Some(attachments[num].clone()),
            Some(_) => {
                return Err(
                    Problem::new(Code::BodyInvalid).at("/data", "data is bytes, or a string in base64")
                );
            }
        };
        Ok(Draft {
            receiver_id: self.receiver_id,
            text: self.text,
            data,
            content_type: self.content_type,
        })
    }
}

/// [`NewReceipt`] with the key. Serde cannot refuse fields that are not known where it flattens, so its fields stand
/// here again.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendReceipt {
    #[serde(rename = "type")]
    kind: ReceiptType,
    #[serde(deserialize_with = "whole_number")]
    up_to: i64,
    key: Option<String>,
}

/// A message to be sent, and its key. Exactly one of `text` and `data`.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = Send)]
pub enum SendForm {
    Text(SendText),
    Data(SendData),
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document")]
pub struct SendText {
    #[serde(flatten)]
    message: NewText,
    #[schema(value_type = Option<terms::CommandKey>)]
    key: Option<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document")]
pub struct SendData {
    #[serde(flatten)]
    message: NewData,
    #[schema(value_type = Option<terms::CommandKey>)]
    key: Option<String>,
}

/// A receipt, and its key.
#[derive(ToSchema)]
#[schema(as = SendReceipt)]
#[expect(dead_code, reason = "for the document")]
pub struct ReceiptForm {
    #[serde(flatten)]
    receipt: NewReceipt,
    #[schema(value_type = Option<terms::CommandKey>)]
    key: Option<String>,
}

/// Begin the stream anew.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    #[schema(value_type = terms::After)]
    after: String,
}

/// Go on with another token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Authenticate {
    /// A JWT of the same user.
    #[schema(example = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln")]
    token: String,
}

/// How long the new token is good.
#[derive(Serialize, ToSchema)]
pub struct Authenticated {
    /// The token's `exp`.
    #[schema(value_type = terms::Seconds)]
    expires_at: u64,
}

/// What a command is answered with.
pub(super) struct Answer {
    json: String,
    attachments: Vec<Bytes>,
    /// Until it goes out, and is counted with all that does.
    room: Option<Room>,
}

impl Answer {
    fn result(result: &impl Serialize, binary: Binary) -> Self {
        #[derive(Serialize)]
        struct Result<'a, R> {
            result: &'a R,
        }
        Self {
            json: json(&Result { result }),
            attachments: binary.into_attachments(),
            room: None,
        }
    }

    pub(super) fn nothing() -> Self {
        #[derive(Serialize)]
        struct Nothing {}
        Self::result(&Nothing {}, Binary::Base64)
    }

    pub(super) fn sent(sent: Sent) -> Self {
        #[derive(Serialize)]
        struct Result<'a> {
            result: Message<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            replayed: Option<bool>,
        }
        let mut binary = Binary::attached();
        let result = Result {
            result: Message::new(&sent.message, &mut binary),
            replayed: sent.replayed.then_some(true),
        };
        Self {
            json: json(&result),
            attachments: binary.into_attachments(),
            room: Some(sent.room),
        }
    }

    pub(super) fn marked(marked: chat_domain::batch::Marked) -> Self {
        Self::result(&Receipt::from(&marked), Binary::Base64)
    }

    pub(super) fn history((list, room): (MessageList, Room)) -> Self {
        let mut binary = Binary::attached();
        let body = list.body(&mut binary);
        Self {
            room: Some(room),
            ..Self::result(&body, binary)
        }
    }

    pub(super) fn conversations((list, room): (ConversationList, Room)) -> Self {
        let mut binary = Binary::attached();
        let body = list.body(&mut binary);
        Self {
            room: Some(room),
            ..Self::result(&body, binary)
        }
    }

    pub(super) fn authenticated(caller: &Caller) -> Self {
        let expires_at = caller.expires_at;
        Self::result(&Authenticated { expires_at }, Binary::Base64)
    }

    pub(super) fn problem(problem: &Problem) -> Self {
        #[derive(Serialize)]
        struct Refused {
            problem: crate::problem::ProblemBody,
        }
        metrics::rejected(problem.code, Door::SocketIo);
        let problem = problem.body(None);
        Self {
            json: json(&Refused { problem }),
            attachments: Vec::new(),
            room: None,
        }
    }

    pub(super) fn of<T>(result: Result<T, Problem>, answer: impl FnOnce(T) -> Self) -> Self {
        match result {
            Ok(value) => answer(value),
            Err(problem) => Self::problem(&problem),
        }
    }

    pub(super) fn packet(self, ack: u64) -> Outgoing {
        drop(self.room);
        Outgoing::ack(ack, &self.json, self.attachments)
    }
}

#[cfg(test)]
mod tests {
    use engineioxide::Str;
    use serde_json::{Value, json};

    use super::*;
    use crate::{asyncapi, socket::Connect};

    fn refused(name: &str, payload: &Value) -> Option<Problem> {
        if name == "CONNECT" {
            return parse_part::<Connect>(&payload.to_string(), "").err();
        }
        let event = Event {
            name: name.to_owned(),
            payload: Payload::One(Str::from(payload.to_string())),
            attachments: vec![Bytes::from_static(&[1])],
            ..Event::default()
        };
        Command::parse(&event).err()
    }

    /// A client that believes that it has said something is not served as if it had not.
    #[test]
    fn each_command_of_the_document_is_refused_with_a_field_that_nobody_knows() {
        let document = asyncapi::document();
        let mut commands = 0;
        for operation in document["operations"].as_object().unwrap().values() {
            if operation["action"] != "receive" || operation["channel"]["$ref"] != "#/channels/socket" {
                continue;
            }
            let place = operation["messages"][0]["$ref"].as_str().unwrap();
            let message = document.pointer(place.trim_start_matches('#')).unwrap();
            let name = message["name"].as_str().unwrap();
            for example in message["examples"].as_array().unwrap() {
                let mut payload = example["payload"].clone();
                let good = refused(name, &payload);
                if good
                    .as_ref()
                    .is_some_and(|problem| problem.code == Code::EventUnknown)
                {
                    continue;
                }
                assert!(good.is_none(), "{name} {payload}: {good:?}");
                payload["of_tomorrow"] = json!(1);
                let problem = refused(name, &payload).unwrap_or_else(|| panic!("{name} {payload}"));
                assert_eq!(problem.code, Code::BodyInvalid, "{name} {payload}");
                let pointer = problem.errors[0].pointer.as_deref();
                assert_eq!(pointer, Some("/of_tomorrow"), "{name} {payload}");
                commands += 1;
            }
        }
        assert!(commands >= 7, "{commands}");
    }
}
