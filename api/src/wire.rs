//! The JSON that the doors speak, as types of its own: the words of the domain under the names of the contract.
//!
//! The contract is additive, and so are these shapes: fields and types of events may come, none goes or changes.
//! Readers ignore what they do not know. We refuse it: a field that is passed over is a wish that somebody believes to be
//! granted. A message that has been erased has neither
//! `content_type` nor `text` nor `data`, and everything else: a reader that knows nothing of erasure shows an empty
//! message, and there is no flag that one could forget to read.

mod binary;
mod content;
mod conversation;
mod event;
mod json;
mod message;
mod receipt;
mod stream;

pub use self::{
    binary::{Attachment, Binary, Data},
    content::{Draft, MessageForm, NewData, NewMessage, NewText},
    conversation::{Conversation, Conversations, Participant, json_length as conversation_length},
    event::{Event, UpTo, event_body, frame},
    json::parse_json,
    message::{History, Message, json_length as message_length},
    receipt::{NewReceipt, Receipt, ReceiptType},
    stream::{Closing, EventPage, Expiring, FEATURES, Heartbeat, Ready, Reset},
};
pub(crate) use self::{event::event_of_example, receipt::whole_number};
