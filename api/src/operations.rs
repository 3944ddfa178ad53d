//! What can be asked for, whatever door it is asked through: from the parsed request to what is answered, without
//! the form of either. REST and socket.io call these, so that neither has a rule that the other has not.

use chat_domain::{
    Position,
    batch::{Marked, Outcome},
    command::{Action, Command},
    ids::{CommandKey, ConversationId, UserId},
    views::{ConversationPage, Message, MessagePage, MessageRange, Order},
};
use serde::Deserialize;
use tracing::Instrument;
use utoipa::IntoParams;

use crate::{
    auth::Actor,
    problem::{Code, Problem},
    state::App,
    wire::{self, Binary, Draft, terms},
};

/// A message that is recorded.
pub struct Sent {
    pub message: Message,
    /// It was recorded before, with the same key; the message is as it is now.
    pub replayed: bool,
}

/// Nothing is awaited before the command is in the writer's queue, so that a door which begins two of these in order
/// has them recorded in order.
///
/// The limit on sends is the actor's, as are its keys, whoever acts for it.
pub async fn send_message(app: &App, actor: Actor, key: CommandKey, draft: Draft) -> Result<Sent, Problem> {
    app.limits.admit_send(&actor.user_id)?;
    let action = draft.action(app.content_limit)?;
    let user = actor.user_id.clone();
    match execute(app, actor, key, action).await? {
        Outcome::Sent(recorded) => recorded.message().map(|message| Sent {
            message,
            replayed: false,
        }),
        Outcome::SentBefore(id) => app.timeline.message(&user, id).await?.map(|message| Sent {
            message,
            replayed: true,
        }),
        Outcome::Marked(_) => return Err(Problem::new(Code::Internal)),
    }
    .ok_or_else(|| Problem::new(Code::MessageNotFound))
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
    let command = Command {
        actor_id: actor.user_id,
        via: actor.via,
        key,
        action,
    };
    let kind = match &command.action {
        Action::SendMessage { .. } => "send",
        Action::SendReceipt { .. } => "receipt",
    };
    let span = tracing::debug_span!("command", kind);
    Ok(app.log.execute(command).instrument(span).await?)
}

/// Which messages of a conversation.
#[derive(Deserialize, IntoParams)]
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

pub async fn list_messages(app: &App, user: &UserId, asked: ListMessages) -> Result<MessageList, Problem> {
    let with = asked.with.as_deref().ok_or_else(|| {
        Problem::new(Code::ParameterInvalid).at_parameter("with", "the user id of the other one is needed")
    })?;
    let with = UserId::parse(with).map_err(|invalid| Problem::from(invalid).at_parameter("with", invalid))?;
    let conversation = ConversationId::direct(user, &with);
    let range = asked.range()?;
    let page = app.timeline.messages(user, &conversation, range.clone()).await?;
    let (next, prev) = links(&with, &range, &page);
    Ok(MessageList { page, next, prev })
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
    user: &UserId,
    asked: ListConversations,
) -> Result<ConversationList, Problem> {
    let limit = limit(asked.limit)?;
    let page = app.timeline.conversations(user, asked.before, limit).await?;
    let next = page
        .next_before
        .map(|before| format!("/v1/conversations?before={before}&limit={limit}"));
    Ok(ConversationList {
        page,
        user: user.clone(),
        next,
    })
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
