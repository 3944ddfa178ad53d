//! What can be asked for, whatever door it is asked through: from the parsed request to what is answered, without
//! the form of either. REST and socket.io call these, so that neither has a rule that the other has not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use chat_domain::{
    Position,
    batch::{Marked, Outcome},
    command::{Action, Command},
    ids::{CommandKey, ConversationId, UserId},
    ports::{ExecuteError, PAGE_BYTES},
    rejection::Rejection,
    views::{ConversationPage, ConversationView, Message, MessagePage, MessageRange, Order},
};
use futures_util::FutureExt;
use serde::Deserialize;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tracing::Instrument;
use utoipa::IntoParams;

use crate::{
    auth::Actor,
    limits::{Beginning, Holder, Room},
    problem::{Code, Problem},
    state::App,
    terms,
    wire::{self, Binary, Draft},
};

/// A message that is recorded.
pub struct Sent {
    pub message: Message,
    /// It was recorded before, with the same key; the message is as it is now.
    pub replayed: bool,
    /// Of the message as JSON.
    pub room: Room,
}

/// Nothing is awaited before the command is in the writer's queue, so that a door which begins two of these in order
/// has them recorded in order.
///
/// The limits on sends and on new conversations are the actor's, as are its keys, whoever acts for it. The room of the
/// answer is the holder's, and is taken first: what is recorded is never refused.
///
/// Where the command is known to be recorded and its message cannot be read, or not within the limit, the answer is that
/// the outcome is not known: `unavailable` would say that nothing was recorded.
pub async fn send_message(
    app: &App,
    holder: &Holder,
    actor: Actor,
    key: CommandKey,
    draft: Draft,
) -> Result<Sent, Problem> {
    app.limits.admit_send(&actor.user_id)?;
    let action = draft.action(app.content_limit)?;
    let room = app.limits.answer(holder, action_length(&actor, &action))?;
    let user = actor.user_id.clone();
    let deadline = Instant::now() + app.command_timeout;
    let (message, replayed) = match execute(app, actor, key, action).await? {
        Outcome::Sent(recorded) => (recorded.message(), false),
        Outcome::SentBefore(id) => {
            let read = timeout_at(deadline, app.timeline.message(&user, id)).await;
            // Why it cannot be read stands in the log.
            let Ok(Ok(message)) = read.map(|read| read.map_err(Problem::from)) else {
                return Err(ExecuteError::OutcomeUnknown.into());
            };
            (message, true)
        }
        Outcome::Marked(_) => return Err(Problem::new(Code::Internal)),
    };
    let message = message.ok_or_else(|| Problem::new(Code::MessageNotFound))?;
    Ok(Sent {
        message,
        replayed,
        room,
    })
}

/// Bytes of the message that this will be, as JSON, at most.
fn action_length(actor: &Actor, action: &Action) -> usize {
    let Action::SendMessage { receiver_id, content } = action else {
        return 0;
    };
    wire::message_length(&Message {
        id: 0,
        conversation_id: ConversationId::direct(&actor.user_id, receiver_id),
        seq: 0,
        sender_id: actor.user_id.clone(),
        receiver_id: receiver_id.clone(),
        sent_at: 0,
        received_at: None,
        content: Some(content.clone()),
    })
}

/// As [`send_message`], nothing is awaited before the command is in the queue.
pub async fn send_receipt(
    app: &App,
    actor: Actor,
    key: CommandKey,
    receipt: wire::NewReceipt,
) -> Result<Marked, Problem> {
    match execute(app, actor, key, receipt.action()).await? {
        Outcome::Marked(marked) => Ok(marked),
        Outcome::Sent(_) | Outcome::SentBefore(_) => Err(Problem::new(Code::Internal)),
    }
}

async fn execute(app: &App, actor: Actor, key: CommandKey, action: Action) -> Result<Outcome, Problem> {
    let (kind, beginning) = match &action {
        Action::SendMessage { receiver_id, .. } if !actor.is_service => {
            let beginning = app.limits.begin_conversation(&actor.user_id, receiver_id);
            ("send", Some(beginning))
        }
        Action::SendMessage { .. } => ("send", None),
        Action::SendReceipt { .. } => ("receipt", None),
    };
    let command = Command {
        actor_id: actor.user_id,
        via: actor.via,
        key,
        may_begin: beginning.as_ref().is_none_or(Beginning::may_begin),
        action,
    };
    let span = tracing::debug_span!("command", kind);
    let log = app.log.clone();
    let Some(beginning) = beginning else {
        return Ok(log.execute(command).instrument(span).await?);
    };
    let executed = async move {
        let outcome = log.execute(command).await;
        if matches!(&outcome, Ok(Outcome::Sent(recorded)) if recorded.seq == 1) {
            beginning.began();
        }
        outcome.map_err(|error| match error {
            ExecuteError::Rejected(Rejection::TooManyConversations) => {
                Problem::from(error).retry_after(beginning.wait())
            }
            error => error.into(),
        })
    };
    ToTheEnd(Some(Box::pin(executed.instrument(span)))).await
}

/// A command that goes on where its sender is gone, as what it comes to is counted.
struct ToTheEnd<F: Future<Output: Send> + Send + 'static>(Option<Pin<Box<F>>>);

impl<F: Future<Output: Send> + Send + 'static> Future for ToTheEnd<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.0 else {
            return Poll::Pending;
        };
        let polled = future.poll_unpin(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for ToTheEnd<F> {
    fn drop(&mut self) {
        if let Some(future) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(future);
        }
    }
}

/// A message as it is now, and the room of its JSON.
pub async fn get_message(
    app: &App,
    holder: &Holder,
    user: &UserId,
    id: Position,
) -> Result<(Message, Room), Problem> {
    app.limits.admit_read(user)?;
    let _reading = app.limits.begin_read(holder).await?;
    let message = app.timeline.message(user, id).await?;
    let message = message.ok_or_else(|| Problem::new(Code::MessageNotFound))?;
    let room = app.limits.answer(holder, wire::message_length(&message))?;
    Ok((message, room))
}

/// Bytes of a page's JSON beside what it holds.
const PAGE_FIELDS: usize = 1280;

/// How many of these fit into a page, and the bytes of a page of them.
fn fitting<T>(all: &[T], length: impl Fn(&T) -> usize) -> (usize, usize) {
    let mut bytes = PAGE_FIELDS;
    for (index, one) in all.iter().enumerate() {
        let length = length(one);
        if index > 0 && bytes + length > PAGE_BYTES {
            return (index, bytes);
        }
        bytes += length;
    }
    (all.len(), bytes)
}

/// Which messages of a conversation.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListMessages {
    /// The other one: a user id.
    #[param(value_type = terms::UserId, required = true, example = "bob")]
    with: Option<String>,
    /// Only messages with a smaller `_id`.
    #[param(value_type = Option<terms::Bound>)]
    before: Option<Position>,
    /// Only messages with a greater `_id`, ascending.
    #[param(value_type = Option<terms::Bound>)]
    after: Option<Position>,
    /// Only messages sent at this second (since the Unix epoch) or later, ascending.
    #[param(value_type = Option<terms::Bound>)]
    since: Option<i64>,
    /// Only messages sent at this second (since the Unix epoch) or earlier.
    #[param(value_type = Option<terms::Bound>)]
    until: Option<i64>,
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50, example = 50)]
    limit: Option<usize>,
}

/// A page of a conversation, with where to go from it.
pub struct MessageList {
    page: MessagePage,
    pub next: Option<String>,
    pub prev: Option<String>,
}

pub async fn list_messages(
    app: &App,
    holder: &Holder,
    user: &UserId,
    asked: ListMessages,
) -> Result<(MessageList, Room), Problem> {
    app.limits.admit_read(user)?;
    let with = asked.with.as_deref().ok_or_else(|| {
        Problem::new(Code::ParameterInvalid).at_parameter("with", "the user id of the other one is needed")
    })?;
    let with = UserId::parse(with).map_err(|invalid| Problem::from(invalid).at_parameter("with", invalid))?;
    let conversation = ConversationId::direct(user, &with);
    let range = asked.range()?;
    let _reading = app.limits.begin_read(holder).await?;
    let mut page = app.timeline.messages(user, &conversation, range.clone()).await?;
    let (count, bytes) = fitting(&page.messages, wire::message_length);
    page.more |= count < page.messages.len();
    page.messages.truncate(count);
    let room = app.limits.answer(holder, bytes)?;
    let (next, prev) = links(&with, &range, &page);
    Ok((MessageList { page, next, prev }, room))
}

impl MessageList {
    pub fn body(&self, binary: &mut Binary) -> wire::History<'_> {
        let messages = self.page.messages.iter();
        wire::History {
            messages: messages
                .map(|message| wire::Message::new(message, binary))
                .collect(),
            next: self.next.clone(),
            prev: self.prev.clone(),
            cursor: self.page.cursor.to_string(),
        }
    }
}

impl ListMessages {
    fn range(&self) -> Result<MessageRange, Problem> {
        let ascending = self.after.is_some() || self.since.is_some();
        Ok(MessageRange {
            before: self.before,
            after: self.after,
            since: self.since,
            until: self.until,
            order: if ascending {
                Order::Ascending
            } else {
                Order::Descending
            },
            limit: limit(self.limit)?,
        })
    }
}

/// Where to go from a page. `next` stays within the range that was asked for; `prev` begins on the other side of the
/// page's first message and so goes in the other order, without the bounds: they were those of the walk to here.
fn links(with: &UserId, range: &MessageRange, page: &MessagePage) -> (Option<String>, Option<String>) {
    let url = |bounds: &[(&str, Option<i64>)]| {
        let path = "/v1/messages?";
        let mut query = form_urlencoded::Serializer::for_suffix(path.to_owned(), path.len());
        let mut query = query.append_pair("with", with.as_str());
        for (name, value) in bounds.iter().filter_map(|(name, value)| Some((name, (*value)?))) {
            query = query.append_pair(name, &value.to_string());
        }
        query.append_pair("limit", &range.limit.to_string()).finish()
    };
    let (first, last) = (page.messages.first(), page.messages.last());
    let next = last.filter(|_| page.more).map(|last| match range.order {
        Order::Ascending => url(&[
            ("after", Some(last.id)),
            ("before", range.before),
            ("until", range.until),
        ]),
        Order::Descending => url(&[("before", Some(last.id))]),
    });
    let prev = first.and_then(|first| match range.order {
        Order::Ascending => (first.seq > 1).then(|| url(&[("before", Some(first.id))])),
        // A walk that began at the newest has nothing on the other side of its first page.
        Order::Descending => {
            let bounded = range.before.is_some() || range.until.is_some();
            bounded.then(|| url(&[("after", Some(first.id))]))
        }
    });
    (next, prev)
}

/// Which of one's conversations.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListConversations {
    /// Only conversations whose last message has a smaller `_id`.
    #[param(value_type = Option<terms::Bound>)]
    before: Option<Position>,
    /// How many at most.
    #[param(minimum = 1, maximum = 200, default = 50, example = 50)]
    limit: Option<usize>,
}

/// A page of somebody's conversations.
pub struct ConversationList {
    page: ConversationPage,
    user: UserId,
    pub next: Option<String>,
}

pub async fn list_conversations(
    app: &App,
    holder: &Holder,
    user: &UserId,
    asked: ListConversations,
) -> Result<(ConversationList, Room), Problem> {
    app.limits.admit_read(user)?;
    let limit = limit(asked.limit)?;
    let _reading = app.limits.begin_read(holder).await?;
    let mut page = app.timeline.conversations(user, asked.before, limit).await?;
    let (count, bytes) = fitting(&page.conversations, wire::conversation_length);
    if count < page.conversations.len() {
        // The next page begins after a message, so this one ends with one.
        let with_message = |view: &ConversationView| view.last_message.is_some();
        let last = page.conversations[..count].iter().rposition(with_message);
        page.conversations.truncate(last.map_or(count, |last| last + 1));
        let last = page
            .conversations
            .last()
            .and_then(|view| view.last_message.as_ref());
        page.next_before = last.map(|message| message.id).or(page.next_before);
    }
    let room = app.limits.answer(holder, bytes)?;
    let next = page
        .next_before
        .map(|before| format!("/v1/conversations?before={before}&limit={limit}"));
    let user = user.clone();
    Ok((ConversationList { page, user, next }, room))
}

impl ConversationList {
    pub fn body(&self, binary: &mut Binary) -> wire::Conversations<'_> {
        let conversations = self.page.conversations.iter();
        wire::Conversations {
            conversations: conversations
                .map(|view| wire::Conversation::new(view, &self.user, binary))
                .collect(),
            next: self.next.clone(),
            cursor: self.page.cursor.to_string(),
        }
    }
}

/// How many of something a page holds at most.
pub fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    const DEFAULT: usize = 50;
    const MAX: usize = 200;
    let limit = asked.unwrap_or(DEFAULT);
    if (1..=MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(Code::ParameterInvalid).at_parameter("limit", format!("limit is 1 to {MAX}")))
}
