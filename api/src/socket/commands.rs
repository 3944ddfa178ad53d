//! What a client may ask over a socket, and how it is answered: one argument, `{"result": …}` or `{"problem": …}`.

use bytes::Bytes;
use chat_domain::{cursor::After, ids::CommandKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::packet::{Event, Outgoing, json};
use crate::{
    auth::Caller,
    limits::{Door, Room},
    metrics,
    operations::{ConversationList, ListConversations, ListMessages, MessageList, Sent},
    problem::{Code, Problem, parse_json},
    wire::{Binary, Draft, Message, NewData, NewReceipt, NewText, Receipt, terms},
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
    matches!(arguments(event), Ok((name, _)) if name == "resume")
}

impl Command {
    pub(super) fn parse(event: &Event) -> Result<Self, Problem> {
        let (name, payload) = arguments(event)?;
        let payload = payload.map_or("{}", RawValue::get);
        Ok(match name.as_str() {
            "send" => {
                let send: SendMessage = parse(payload)?;
                Self::Send {
                    key: key(send.key.as_deref())?,
                    draft: send.draft(&event.attachments)?,
                }
            }
            "receipt" => {
                let Key { key: given } = parse(payload)?;
                Self::Receipt {
                    key: key(given.as_deref())?,
                    receipt: parse(payload)?,
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

/// The event's name and its one argument.
fn arguments(event: &Event) -> Result<(String, Option<&RawValue>), Problem> {
    let invalid = |detail: &str| Problem::new(Code::BodyInvalid).detail(detail);
    let arguments: Vec<&RawValue> =
        serde_json::from_str(&event.json).map_err(|error| Problem::new(Code::JsonInvalid).detail(error))?;
    let (name, payload) = match arguments[..] {
        [name] => (name, None),
        [name, payload] => (name, Some(payload)),
        _ => return Err(invalid("an event has a name and one argument, an object")),
    };
    let name = serde_json::from_str(name.get()).map_err(|_| invalid("an event's name is a string"))?;
    Ok((name, payload))
}

fn parse<T: DeserializeOwned>(payload: &str) -> Result<T, Problem> {
    parse_json(payload.as_bytes())
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
        #[serde(untagged)]
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

#[derive(Deserialize)]
struct Key {
    key: Option<String>,
}

/// Begin the stream anew.
#[derive(Deserialize, ToSchema)]
pub struct Resume {
    #[schema(value_type = terms::After)]
    after: String,
}

/// Go on with another token.
#[derive(Deserialize, ToSchema)]
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
