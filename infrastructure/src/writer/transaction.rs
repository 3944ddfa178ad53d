//! One transaction of the group commit.
//!
//! - [`attempt`], in two round trips: take the head lock and read the facts, then write the events with their
//!   projections and commit. Between the two, nothing is awaited.
//! - [`foresee`] and [`commit`], in one: what the writer remembers (`memory`) says all that a batch needs, so it is decided
//!   before the lock is taken, while the batch before it still commits. The statement that takes the lock fails unless
//!   the log ends where that was true, and then the batch is decided again in two.
//!
//! A batch that was decided ahead and is as large as a batch may be binds the values of its events to a prepared
//! statement: that is two round trips more, and spares the server the reading of as many literals.
//!
//! Keys are looked up only where one may be there already: for all others the unique index says so, and then the batch
//! is decided again with every key looked up.

use std::{collections::BTreeMap, fmt, sync::Arc};

use chat_domain::{
    Micros, Position,
    batch::{Batch, decide_batch},
    cursor::Cursor,
    event::{Event, MESSAGE_SENT, Recorded},
    facts::{Conversation, Earlier, Facts, MessagePlace, Needs, Participant},
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
};
use sea_orm::{DbErr, QueryResult, sqlx::mysql::MySqlArguments};

use super::{
    Fate, Waiting,
    memory::{self, Memory},
};
use crate::{
    epoch::epoch_of,
    flavor::Flavor,
    planted::{self, Defect},
    primary::{self, Primary},
    rows,
    session::{Session, SessionError},
    sql,
};

/// Which keys are looked up before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// Those of commands that may have been committed before.
    InDoubt,
    /// All that a client has chosen.
    All,
}

/// Decides the commands and commits what they lead to. On an error the transaction may still be open.
pub(super) async fn attempt(
    session: &mut Session,
    primary: &Primary,
    memory: &mut Memory,
    part: &mut [Waiting],
    keys: Keys,
) -> Result<Batch, SessionError> {
    let flavor = session.flavor;
    let seen = primary.seen();
    let needs = Needs::of(part.iter().map(|waiting| &waiting.command));
    let mut unknown = needs.clone();
    memory.reduce(&mut unknown);
    let keys: Vec<_> = part
        .iter()
        .filter(|w| w.in_doubt() || keys == Keys::All && !w.command.key.is_of_server())
        .map(|w| (&w.command.actor_id, &w.command.key))
        .collect();
    let mut statements = take_lock(flavor);
    statements.extend(read_facts(flavor, &unknown, &keys));
    let rows = session.script(statements.join("; ")).await?;
    let (head, now) = head(&rows).map_err(SessionError::unreadable)?;
    if seen.is_some_and(|seen| !primary::reaches(&head, &seen)) {
        return Err(SessionError::Moved);
    }
    let remembered = memory.recall(&head);
    let more = match &remembered {
        Some(_) => Vec::new(),
        // Somebody else has written since: what was thought to be known is read after all.
        None => session.script(read_facts(flavor, &needs, &[]).join("; ")).await?,
    };
    let mut facts = remembered.unwrap_or_default();
    for row in rows.iter().chain(&more) {
        add_fact(&mut facts, row).map_err(SessionError::unreadable)?;
    }

    let commands = part.iter().map(|waiting| &waiting.command);
    let batch = decide_batch(&mut facts, commands, head.position, now);
    if batch.recorded.is_empty() {
        session.script("ROLLBACK".into()).await?;
        memory.keep(facts, head);
        return Ok(batch);
    }
    let position = batch.recorded.last().map_or(head.position, |last| last.position);
    let events = rows::insert(flavor, &batch.recorded, &now);
    let projections = project(flavor, &batch.recorded, &facts);
    send_off(part, &batch)?;
    let end =
        format!("{events}; {projections}; UPDATE log_head SET position = {position} WHERE id = 1; COMMIT");
    session.script(flavor.together(&end)).await?;
    let committed = Cursor { position, ..head };
    memory.keep(facts, committed.clone());
    primary.saw(committed, &batch.recorded);
    Ok(batch)
}

/// A batch that was decided on what will be true when the batch before it is committed, and what writes it.
pub(super) struct Foreseen {
    batch: Batch,
    /// Takes the lock if the log ends where the batch begins, and draws the time.
    begin: String,
    events: Events,
    /// The projections, the time, and the COMMIT.
    end: String,
    /// Where the log ends then.
    head: Cursor,
}

/// How the events of a batch are written.
enum Events {
    Text(String),
    Prepared(String, MySqlArguments),
}

/// Decides a batch ahead, where the memory knows all that it needs. The memory goes on as if it were committed. One that
/// has `whole` events is a whole one.
pub(super) fn foresee(
    flavor: Flavor,
    memory: &mut Memory,
    part: &[Waiting],
    whole: usize,
) -> Option<Foreseen> {
    if part.iter().any(Waiting::in_doubt) {
        return None;
    }
    let commands = || part.iter().map(|waiting| &waiting.command);
    let (facts, at) = memory.foresee(commands())?;
    let batch = decide_batch(facts, commands(), at.position, 0);
    let Some(last) = batch.recorded.last() else {
        memory.forget();
        return None;
    };
    let begin = at.clone();
    at.position = last.position;
    let head = at.clone();
    let projections = project(flavor, &batch.recorded, facts);
    memory::leave_projections(facts);
    let recorded = &batch.recorded;
    let is_whole = recorded.len() == whole && whole <= rows::MOST_BOUND && flavor != Flavor::Sqlite;
    let events = match is_whole.then(|| rows::bind_messages(recorded)).flatten() {
        Some(values) => Events::Prepared(rows::insert_messages(flavor, whole), values),
        None => Events::Text(rows::insert(flavor, recorded, &flavor.drawn_time())),
    };
    let begin = format!(
        "{}; UPDATE log_head SET last_time = {}(last_time, {}), \
         position = CASE WHEN epoch = {} AND position = {} THEN {} END WHERE id = 1{}",
        flavor.begin(),
        flavor.greatest(),
        flavor.now_micros(),
        sql::text(flavor, begin.epoch.as_str()),
        begin.position,
        head.position,
        flavor.keep_drawn_time(),
    );
    Some(Foreseen {
        batch,
        begin,
        events,
        end: format!(
            "{projections}; SELECT {} AS last_time; COMMIT",
            flavor.drawn_time()
        ),
        head,
    })
}

/// Commits a batch that was decided ahead. On an error the transaction may still be open.
pub(super) async fn commit(
    session: &mut Session,
    primary: &Primary,
    part: &mut [Waiting],
    foreseen: Foreseen,
) -> Result<Batch, SessionError> {
    let Foreseen {
        mut batch,
        begin,
        events,
        end,
        head,
    } = foreseen;
    // Only the head's position can come to nothing: somebody else has written.
    let moved = SessionError::of_null_to_retry;
    let last = match events {
        Events::Text(events) => session.flavor.together(&format!("{begin}; {events}; {end}")),
        Events::Prepared(insert, values) => {
            session.script(begin).await.map_err(moved)?;
            session.run_prepared(insert, values).await?;
            session.flavor.together(&end)
        }
    };
    send_off(part, &batch)?;
    let rows = session.script(last).await.map_err(|error| {
        // Nothing was committed, and nothing had been before. A deadlock says less: a cluster says it of its COMMITs, too.
        if matches!(error, SessionError::Refused(_)) {
            for waiting in part.iter() {
                waiting.fate.change(Fate::IN_DOUBT, Fate::UNDECIDED);
            }
        }
        moved(error)
    })?;
    let drawn = rows.first().map(|row| row.try_get("", "last_time"));
    let now = drawn
        .unwrap_or_else(|| Err(DbErr::RecordNotFound("log_head".into())))
        .map_err(SessionError::unreadable)?;
    batch.happened_at(now);
    primary.saw(head, &batch.recorded);
    Ok(batch)
}

/// From here on the COMMIT may be received, whatever the answer; unless somebody has withdrawn, who must not be in it.
fn send_off(part: &mut [Waiting], batch: &Batch) -> Result<(), SessionError> {
    let mut sent_off = Vec::with_capacity(part.len());
    for waiting in part.iter() {
        if waiting.fate.change(Fate::UNDECIDED, Fate::IN_DOUBT) {
            sent_off.push(&waiting.fate);
        } else if waiting.fate.is(Fate::WITHDRAWN) {
            for fate in sent_off {
                fate.change(Fate::IN_DOUBT, Fate::UNDECIDED);
            }
            return Err(SessionError::Withdrawn);
        }
    }
    if planted::strikes(Defect::AckBeforeCommit) {
        for (waiting, outcome) in part.iter_mut().zip(&batch.outcomes) {
            planted::answer_early(&mut waiting.answer, outcome);
        }
    }
    Ok(())
}

/// Takes the head lock and draws the time.
fn take_lock(flavor: Flavor) -> Vec<String> {
    let (greatest, now) = (flavor.greatest(), flavor.now_micros());
    vec![
        flavor.begin().into(),
        format!("UPDATE log_head SET last_time = {greatest}(last_time, {now}) WHERE id = 1"),
        "SELECT 'h' AS fact, epoch, position, last_time FROM log_head WHERE id = 1".into(),
    ]
}

/// Reads what the batch needs. Each row begins with a letter for what it is.
fn read_facts(flavor: Flavor, needs: &Needs, keys: &[(&UserId, &CommandKey)]) -> Vec<String> {
    let mut statements = Vec::new();
    if !keys.is_empty() {
        let mut by_actor: BTreeMap<&UserId, Vec<&CommandKey>> = BTreeMap::new();
        for (actor, key) in keys {
            by_actor.entry(actor).or_default().push(key);
        }
        let mut terms = String::new();
        for (actor, keys) in by_actor {
            let separator = if terms.is_empty() { "" } else { " OR " };
            let keys = sql::list(keys.iter().map(|key| sql::text(flavor, key.as_str())));
            terms += &format!(
                "{separator}(actor_id = {} AND command_key IN ({keys}))",
                sql::user(actor)
            );
        }
        statements.push(format!(
            "SELECT 'k' AS fact, position, actor_id, command_key, command_hash FROM outbox WHERE {terms}"
        ));
    }
    // From what is named to who takes part in it: the other way costs what somebody's conversations are.
    let join = flavor.ordered_join();
    let members = sql::list(needs.participants.iter().map(sql::user));
    if !needs.conversations.is_empty() {
        let names = sql::list(needs.conversations.iter().map(|(id, _)| sql::conversation(id)));
        statements.push(format!(
            "SELECT 'c' AS fact, {CONVERSATION} FROM conversations c {join} participants p \
             ON p.conversation_id = c.id WHERE c.name IN ({names}) AND p.user_id IN ({members})"
        ));
    }
    if !needs.messages.is_empty() {
        let ids = sql::list(&needs.messages);
        statements.push(format!(
            "SELECT 'm' AS fact, m._id AS message_id, m.seq AS message_seq, {CONVERSATION} FROM messages m \
             {join} conversations c ON c.id = m.conversation_id {join} participants p ON p.conversation_id = c.id \
             WHERE m._id IN ({ids}) AND p.user_id IN ({members})"
        ));
    }
    statements
}

const CONVERSATION: &str = "c.id, c.name, c.seq, c.last_position, c.last_message_id, p.user_id, p.from_position, \
     p.to_position, p.received_seq, p.read_seq";

/// The head, and the time drawn.
fn head(rows: &[QueryResult]) -> Result<(Cursor, Micros), DbErr> {
    for row in rows {
        if row.try_get::<String>("", "fact")? == "h" {
            let cursor = Cursor {
                epoch: epoch_of(row)?,
                position: row.try_get("", "position")?,
            };
            return Ok((cursor, row.try_get("", "last_time")?));
        }
    }
    Err(DbErr::RecordNotFound("log_head".into()))
}

fn add_fact(facts: &mut Facts, row: &QueryResult) -> Result<(), DbErr> {
    match row.try_get::<String>("", "fact")?.as_str() {
        "h" => {}
        "k" => {
            let actor = user(row, "actor_id")?;
            let key = CommandKey::stored(&row.try_get::<String>("", "command_key")?).map_err(custom)?;
            let hash: Vec<u8> = row.try_get("", "command_hash")?;
            let hash = hash
                .try_into()
                .map_err(|_| DbErr::Custom("a hash that is not 32 bytes".into()))?;
            let position = row.try_get("", "position")?;
            facts.keys.insert((actor, key), Earlier { position, hash });
        }
        kind => {
            let id = conversation(facts, row)?;
            if kind == "m" {
                let place = MessagePlace {
                    conversation_id: id,
                    seq: row.try_get("", "message_seq")?,
                };
                facts.messages.insert(row.try_get("", "message_id")?, place);
            }
        }
    }
    Ok(())
}

fn conversation(facts: &mut Facts, row: &QueryResult) -> Result<ConversationId, DbErr> {
    let id = ConversationId::parse(&row.try_get::<String>("", "name")?).map_err(custom)?;
    facts.conversations.insert(
        id.clone(),
        Conversation {
            number: ConversationNumber(row.try_get("", "id")?),
            seq: row.try_get("", "seq")?,
            last_position: row.try_get("", "last_position")?,
            last_message_id: row.try_get("", "last_message_id")?,
        },
    );
    facts.participants.insert(
        (id.clone(), user(row, "user_id")?),
        Participant {
            from_position: row.try_get("", "from_position")?,
            to_position: row.try_get("", "to_position")?,
            received_seq: row.try_get("", "received_seq")?,
            read_seq: row.try_get("", "read_seq")?,
        },
    );
    Ok(id)
}

fn user(row: &QueryResult, column: &str) -> Result<UserId, DbErr> {
    UserId::parse(&row.try_get::<String>("", column)?).map_err(custom)
}

fn custom(error: impl std::error::Error) -> DbErr {
    DbErr::Custom(error.to_string())
}

/// Writes the projections that the events change.
fn project(flavor: Flavor, recorded: &[Arc<Recorded>], facts: &Facts) -> String {
    let mut statements = Vec::new();
    let mut messages = recorded
        .iter()
        .filter(|recorded| matches!(recorded.event, Event::MessageSent { .. }))
        .map(|recorded| recorded.position);
    if let Some(first) = messages.next() {
        let last = messages.next_back().unwrap_or(first);
        statements.push(project_messages(flavor, first, last, "NULL"));
    }
    statements.extend(project_conversations(flavor, recorded, facts));
    statements.join("; ")
}

/// Copies messages from the log into their projection, inside the database: their content crosses the wire once.
/// `received_at` is null but of messages that were there before the log.
pub(crate) fn project_messages(flavor: Flavor, first: Position, last: Position, received_at: &str) -> String {
    format!(
        "INSERT INTO messages (_id, sender_id, reciver_id, sent_at, recived_at, data, content_type, \
         conversation_id, seq) SELECT position, actor_id, receiver_id, {}, {received_at}, content, content_type, \
         conversation_id, seq FROM outbox WHERE position BETWEEN {first} AND {last} AND type = '{MESSAGE_SENT}'",
        flavor.seconds("occurred_at"),
    )
}

/// Writes the conversations and marks that the events changed, as they are after the last of them.
fn project_conversations(flavor: Flavor, recorded: &[Arc<Recorded>], facts: &Facts) -> Vec<String> {
    let mut conversations = BTreeMap::new();
    let mut participants = BTreeMap::new();
    for event in recorded {
        conversations.insert(&event.conversation_id, &**event);
        participants.insert((&event.conversation_id, &event.actor_id), &**event);
        // The event that began the conversation gave it its number, and made its members participants.
        if event.conversation.0 == event.position {
            participants.extend(
                event
                    .audience()
                    .map(|member| ((&event.conversation_id, member), &**event)),
            );
        }
    }
    let mut statements = Vec::new();
    if !conversations.is_empty() {
        let rows = conversations
            .keys()
            .filter_map(|id| Some((*id, facts.conversations.get(*id)?)));
        statements.push(upsert_conversations(flavor, rows));
    }
    if !participants.is_empty() {
        let rows = participants.keys().filter_map(|(id, user)| {
            let participant = facts.participants.get(&((*id).clone(), (*user).clone()))?;
            Some((facts.conversations.get(*id)?.number, *user, participant))
        });
        statements.push(upsert_participants(flavor, rows));
    }
    statements
}

pub(crate) fn upsert_conversations<'f>(
    flavor: Flavor,
    rows: impl Iterator<Item = (&'f ConversationId, &'f Conversation)>,
) -> String {
    let rows = sql::list(rows.map(|(id, c)| {
        let Conversation {
            number,
            seq,
            last_position,
            last_message_id,
        } = c;
        let (number, name) = (number.0, sql::conversation(id));
        fmt::from_fn(move |f| write!(f, "({number},{name},{seq},{last_position},{last_message_id})"))
    }));
    format!(
        "INSERT INTO conversations (id, name, seq, last_position, last_message_id) VALUES {rows} {}",
        flavor.on_conflict("id", &["seq", "last_position", "last_message_id"])
    )
}

pub(crate) fn upsert_participants<'f>(
    flavor: Flavor,
    rows: impl Iterator<Item = (ConversationNumber, &'f UserId, &'f Participant)>,
) -> String {
    let rows = sql::list(rows.map(|(number, user, p)| {
        let to = sql::optional_number(p.to_position);
        let (from, received, read) = (p.from_position, p.received_seq, p.read_seq);
        let (user, number) = (sql::user(user), number.0);
        fmt::from_fn(move |f| write!(f, "({user},{number},{from},{to},{received},{read})"))
    }));
    format!(
        "INSERT INTO participants (user_id, conversation_id, from_position, to_position, received_seq, read_seq) \
         VALUES {rows} {}",
        flavor.on_conflict(
            "user_id, conversation_id",
            &["to_position", "received_seq", "read_seq"]
        )
    )
}
