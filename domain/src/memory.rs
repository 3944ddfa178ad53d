//! The log in memory, for tests of what is built on the ports: the same decide and evolve, and the same contract
//! suite as the databases.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    Micros, Position,
    batch::{Outcome, decide_batch},
    command::Command,
    cursor::Epoch,
    event::Recorded,
    facts::{Facts, Participant},
    ids::{ConversationId, UserId},
    ports::{
        EpochEnd, EventLog, ExecuteError, Head, Outbox, Page, PageLimit, PageRange, Reader, StoreError,
        Timeline,
    },
    seconds,
    views::{ConversationPage, ConversationView, Message, MessagePage, MessageRange, Order, ParticipantView},
};

/// One log, held by one process. Clones share it.
#[derive(Clone)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
}

struct State {
    epoch: Epoch,
    facts: Facts,
    events: Vec<Arc<Recorded>>,
    clock: fn() -> Micros,
}

impl MemoryLog {
    /// An empty log that reads the time from `clock`.
    pub fn new(epoch: Epoch, clock: fn() -> Micros) -> Self {
        let state = State {
            epoch,
            facts: Facts::default(),
            events: Vec::new(),
            clock,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn head(&self) -> Head {
        Head {
            epoch: self.epoch.clone(),
            position: self.events.len() as Position,
            floor: 0,
            oldest: 1,
        }
    }

    fn participant(&self, conversation: &ConversationId, user: &UserId) -> Option<&Participant> {
        self.facts.participants.get(&(conversation.clone(), user.clone()))
    }

    fn may_see(&self, user: &UserId, event: &Recorded) -> bool {
        self.participant(&event.conversation_id, user)
            .is_some_and(|p| p.may_see(event.position))
    }

    /// The message as it is now, with the moment when its receiver first said that it is received.
    fn message_now(&self, event: &Recorded) -> Option<Message> {
        let mut message = event.message()?;
        let later = self.events.iter().find_map(|later| {
            let (after, up_to) = later.received_range()?;
            let covers = later.conversation_id == message.conversation_id
                && later.actor_id == message.receiver_id
                && (after < message.seq && message.seq <= up_to);
            covers.then(|| seconds(later.occurred_at))
        });
        message.received_at = message.received_at.or(later);
        Some(message)
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn execute(&self, command: Command) -> Result<Outcome, ExecuteError> {
        let mut state = self.state();
        let head = state.events.len() as Position;
        let now = (state.clock)().max(state.events.last().map_or(0, |e| e.occurred_at));
        let mut batch = decide_batch(&mut state.facts, [&command], head, now);
        state.events.append(&mut batch.recorded);
        match batch.outcomes.pop() {
            Some(outcome) => outcome.map_err(ExecuteError::Rejected),
            None => Err(ExecuteError::Unavailable),
        }
    }
}

#[async_trait]
impl Outbox for MemoryLog {
    async fn head(&self) -> Result<Head, StoreError> {
        Ok(self.state().head())
    }

    async fn earlier_epochs(&self) -> Result<Vec<EpochEnd>, StoreError> {
        Ok(Vec::new())
    }

    async fn read_after(&self, after: Position, limit: PageLimit) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let state = self.state();
        let after = usize::try_from(after).unwrap_or(0).min(state.events.len());
        let mut taken = 0;
        let fits = |event: &&Arc<Recorded>| {
            let first = taken == 0;
            taken += event.weight();
            first || taken <= limit.bytes
        };
        Ok(state.events[after..]
            .iter()
            .take(limit.events)
            .take_while(fits)
            .cloned()
            .collect())
    }

    async fn page(&self, reader: &Reader, range: PageRange, limit: PageLimit) -> Result<Page, StoreError> {
        let state = self.state();
        let mut page = Page {
            events: Vec::new(),
            complete_to: range.up_to.max(range.after),
            next_width: range.width,
        };
        let mut bytes = 0;
        for event in &state.events {
            let wanted = range.after < event.position && event.position <= range.up_to;
            let may_see = match reader {
                Reader::User(user) => state.may_see(user, event),
                Reader::Everything => true,
            };
            if !wanted || !may_see {
                continue;
            }
            bytes += event.weight();
            if page.events.len() == limit.events || (bytes > limit.bytes && !page.events.is_empty()) {
                page.complete_to = page.events.last().map_or(range.after, |e| e.position);
                break;
            }
            page.events.push(event.clone());
        }
        Ok(page)
    }
}

#[async_trait]
impl Timeline for MemoryLog {
    async fn messages(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        range: MessageRange,
    ) -> Result<MessagePage, StoreError> {
        let state = self.state();
        let within = |event: &&Arc<Recorded>| {
            let sent_at = seconds(event.occurred_at);
            event.conversation_id == *conversation
                && state.may_see(user, event)
                && range.before.is_none_or(|before| event.position < before)
                && range.after.is_none_or(|after| event.position > after)
                && range.since.is_none_or(|since| sent_at >= since)
                && range.until.is_none_or(|until| sent_at <= until)
        };
        let mut messages: Vec<_> = state
            .events
            .iter()
            .filter(within)
            .filter_map(|event| state.message_now(event))
            .collect();
        if range.order == Order::Descending {
            messages.reverse();
        }
        let more = messages.len() > range.limit;
        messages.truncate(range.limit);
        Ok(MessagePage {
            messages,
            more,
            cursor: state.head().cursor(),
        })
    }

    async fn message(&self, user: &UserId, id: Position) -> Result<Option<Message>, StoreError> {
        let state = self.state();
        let event = state
            .events
            .iter()
            .find(|event| event.position == id && state.may_see(user, event));
        Ok(event.and_then(|event| state.message_now(event)))
    }

    async fn conversations(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<ConversationPage, StoreError> {
        let state = self.state();
        let mut mine: Vec<_> = state
            .facts
            .conversations
            .iter()
            .filter(|(id, _)| state.participant(id, user).is_some())
            .filter(|(_, conversation)| before.is_none_or(|before| conversation.last_message_id < before))
            .collect();
        mine.sort_by_key(|(_, conversation)| -conversation.last_message_id);
        let more = mine.len() > limit;
        mine.truncate(limit);
        let conversations: Vec<_> = mine
            .iter()
            .map(|(id, _)| state.conversation_view(user, id))
            .collect();
        let next_before = mine
            .last()
            .filter(|_| more)
            .map(|(_, conversation)| conversation.last_message_id);
        Ok(ConversationPage {
            conversations,
            next_before,
            cursor: state.head().cursor(),
        })
    }
}

impl State {
    fn conversation_view(&self, user: &UserId, id: &ConversationId) -> ConversationView {
        let seq = self.facts.conversations.get(id).map_or(0, |c| c.seq);
        let mut participants: Vec<_> = self
            .facts
            .participants
            .iter()
            .filter(|((conversation, _), _)| conversation == id)
            .map(|((_, user_id), p)| ParticipantView {
                user_id: user_id.clone(),
                received_seq: p.received_seq,
                read_seq: p.read_seq,
            })
            .collect();
        participants.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        let read_seq = participants
            .iter()
            .find(|p| p.user_id == *user)
            .map_or(0, |p| p.read_seq);
        let last = self
            .events
            .iter()
            .rev()
            .filter(|event| event.conversation_id == *id);
        let last_message = last.filter_map(|event| self.message_now(event)).next();
        ConversationView {
            conversation_id: id.clone(),
            seq,
            unread: seq - read_seq,
            last_message,
            participants,
        }
    }
}
