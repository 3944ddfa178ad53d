//! Holds the projections to the log: folds it from the beginning and compares every row, in one snapshot, so that a
//! node may serve meanwhile.

use std::collections::{BTreeMap, HashMap};

use chat_domain::{
    Position,
    event::{MESSAGE_SENT, Recorded},
    facts::{Conversation, Participant},
    ids::{ConversationId, UserId},
    seconds,
};
use sea_orm::{DbErr, QueryResult};

use super::fold::{self, Fold, FoldError};
use crate::{database::Database, entities::checkpoints, flavor::Flavor, session::Session};

#[derive(Debug, Default)]
pub struct Report {
    pub position: Position,
    pub events: u64,
    pub messages: u64,
    pub conversations: u64,
    /// What differs, in words; at most [`LISTED`].
    pub differences: Vec<String>,
    /// How many differences there are in all.
    pub different: u64,
}

const FIRST: Position = 1;

/// How many differences a report lists.
pub const LISTED: usize = 1000;

impl Report {
    fn add(&mut self, difference: String) {
        self.different += 1;
        if self.differences.len() < LISTED {
            self.differences.push(difference);
        }
    }
}

/// Compares all of it.
pub async fn verify(database: &Database) -> Result<Report, FoldError> {
    let mut session = snapshot(database).await?;
    let (head, ends) = fold::head(&mut session).await?;
    let mut check = Check {
        flavor: database.flavor,
        report: Report {
            position: head.position,
            ..Report::default()
        },
        received: HashMap::new(),
        adopted: HashMap::new(),
    };
    let mut fold = Fold::new(head.clone(), ends);
    loop {
        let after = fold.position;
        let events = fold::read(&mut session, database.flavor, after, head.position).await?;
        let Some(last) = events.last() else { break };
        let last = last.position;
        for event in &events {
            fold.add(event, |difference| check.report.add(difference));
            check.remember_received(event);
        }
        fold.forget_commands();
        check.messages(&mut session, after, last).await?;
    }
    if fold.position != head.position && !fold.hole_is_allowed(head.position + 1) {
        check.report.add(format!(
            "outbox: it ends at {}, log_head says {}",
            fold.position, head.position
        ));
    }
    // Numbers that were jumped over have no events, and so no messages.
    check.messages(&mut session, fold.position, head.position).await?;
    check.report.events = fold.events;
    check.beyond(&mut session, head.position).await?;
    check.received_at(&mut session, head.position).await?;
    check.conversations(&mut session, &fold).await?;
    check.participants(&mut session, &fold).await?;
    session.close().await;
    Ok(check.report)
}

/// A session that sees one moment of the database. The head lock is held while the snapshot is taken: on MariaDB a
/// snapshot beside a COMMIT may show an event and not the one before it.
async fn snapshot(database: &Database) -> Result<Session, FoldError> {
    let flavor = database.flavor;
    let mut session = Session::connect(&database.location, flavor).await?;
    let look = "SELECT position FROM log_head WHERE id = 1";
    if flavor == Flavor::Sqlite {
        session.script(format!("BEGIN; {look}")).await?;
        return Ok(session);
    }
    let mut lock = Session::connect(&database.location, flavor).await?;
    lock.script(format!("START TRANSACTION; {look} FOR UPDATE"))
        .await?;
    let begin = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";
    session.script(format!("{begin}; {look}")).await?;
    lock.script("ROLLBACK".into()).await?;
    lock.close().await;
    Ok(session)
}

struct Check {
    flavor: Flavor,
    report: Report,
    /// Of each receiver in a conversation: the events that say what it has received, ascending.
    received: HashMap<(i64, UserId), Vec<Received>>,
    /// Of each conversation that was there before the log: the last message of that time.
    adopted: HashMap<i64, i64>,
}

struct Received {
    after: i64,
    up_to: i64,
    at: i64,
    position: Position,
}

impl Check {
    fn remember_received(&mut self, event: &Recorded) {
        if event.is_adopted() {
            self.adopted.insert(event.conversation.0, event.seq);
        }
        let Some((after, up_to)) = event.received_range() else {
            return;
        };
        let received = Received {
            after,
            up_to,
            at: seconds(event.occurred_at),
            position: event.position,
        };
        let receiver = (event.conversation.0, event.actor_id.clone());
        self.received.entry(receiver).or_default().push(received);
    }

    /// Compares the messages whose events are after one position and up to another, inside the database.
    async fn messages(
        &mut self,
        session: &mut Session,
        after: Position,
        last: Position,
    ) -> Result<(), FoldError> {
        let differs = |one: &str, other: &str| match self.flavor {
            Flavor::Sqlite => format!("{one} IS NOT {other}"),
            Flavor::MariaDb | Flavor::MySql => format!("NOT ({one} <=> {other})"),
        };
        let sent_at = self.flavor.seconds("o.occurred_at");
        let columns = [
            ("m.sender_id", "o.actor_id"),
            ("m.reciver_id", "o.receiver_id"),
            ("m.sent_at", &sent_at),
            ("m.data", "o.content"),
            ("m.content_type", "o.content_type"),
            ("m.conversation_id", "o.conversation_id"),
            ("m.seq", "o.seq"),
        ];
        let mut comparison: Vec<_> = columns.iter().map(|(one, other)| differs(one, other)).collect();
        // Nothing but its own event says when a message was received that was there before the log.
        let received_at = differs("m.recived_at", self.flavor.adopted_received_at());
        comparison.push(format!("(o.received_after >= o.seq AND {received_at})"));
        let rows = session
            .script(format!(
                "SELECT o.position, m._id FROM outbox o LEFT JOIN messages m ON m._id = o.position \
                 WHERE o.position > {after} AND o.position <= {last} AND o.type = '{MESSAGE_SENT}' \
                 AND (m._id IS NULL OR {})",
                comparison.join(" OR ")
            ))
            .await?;
        for row in rows {
            let position: Position = row.try_get("", "position")?;
            let id: Option<Position> = row.try_get("", "_id")?;
            let what = if id.is_some() {
                "differs from its event"
            } else {
                "is missing"
            };
            self.report.add(format!("messages: _id {position} {what}"));
        }
        let rows = session
            .script(format!(
                "SELECT m._id FROM messages m LEFT JOIN outbox o ON o.position = m._id AND o.type = '{MESSAGE_SENT}' \
                 WHERE m._id > {after} AND m._id <= {last} AND o.position IS NULL"
            ))
            .await?;
        for row in rows {
            self.report.add(format!(
                "messages: _id {} has no event",
                row.try_get::<Position>("", "_id")?
            ));
        }
        Ok(())
    }

    /// Looks for rows before the first position and past the head.
    async fn beyond(&mut self, session: &mut Session, head: Position) -> Result<(), FoldError> {
        for (table, key) in [("outbox", "position"), ("messages", "_id")] {
            for (outside, what) in [
                (format!("< {FIRST}"), "is before the first"),
                (format!("> {head}"), "is past the head"),
            ] {
                let select =
                    format!("SELECT {key} AS k FROM {table} WHERE {key} {outside} ORDER BY {key} LIMIT 10");
                for row in session.script(select).await? {
                    self.report.add(format!(
                        "{table}: {key} {} {what}",
                        row.try_get::<Position>("", "k")?
                    ));
                }
            }
        }
        Ok(())
    }

    async fn received_at(&mut self, session: &mut Session, head: Position) -> Result<(), FoldError> {
        let select = format!(
            "SELECT position FROM checkpoints WHERE name = '{}'",
            checkpoints::RECEIVED_AT
        );
        let rows = session.script(select).await?;
        let Some(checkpoint) = rows
            .first()
            .map(|row| row.try_get::<Position>("", "position"))
            .transpose()?
        else {
            self.report.add("checkpoints: received_at is missing".into());
            return Ok(());
        };
        if checkpoint > head {
            // What comes up to there would never be filled.
            self.report.add(format!(
                "checkpoints: received_at is at {checkpoint}, past the head"
            ));
        }
        let mut after = Position::MIN;
        loop {
            let rows = session
                .script(format!(
                    "SELECT _id, conversation_id, seq, reciver_id, CAST(recived_at AS {}) AS recived_at \
                     FROM messages WHERE _id > {after} ORDER BY _id LIMIT {}",
                    self.flavor.integer(),
                    fold::EVENTS_IN_A_READ
                ))
                .await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.try_get("", "_id")?;
            for row in &rows {
                self.report.messages += 1;
                self.one_received_at(row, checkpoint)?;
            }
        }
    }

    fn one_received_at(&mut self, row: &QueryResult, checkpoint: Position) -> Result<(), DbErr> {
        let seq: i64 = row.try_get("", "seq")?;
        let found: Option<i64> = row.try_get("", "recived_at")?;
        let conversation: i64 = row.try_get("", "conversation_id")?;
        if self.adopted.get(&conversation).is_some_and(|last| seq <= *last) {
            return Ok(());
        }
        let receiver = UserId::parse(&row.try_get::<String>("", "reciver_id")?);
        let receiver = receiver.map_err(|e| DbErr::Custom(e.to_string()))?;
        let events = self.received.get(&(conversation, receiver));
        let covering = events.and_then(|events| {
            let event = events.get(events.partition_point(|event| event.up_to < seq))?;
            (event.after < seq).then_some(event)
        });
        let right = match covering {
            // Past the checkpoint the projector may have come already, or not.
            Some(event) => found == Some(event.at) || (event.position > checkpoint && found.is_none()),
            None => found.is_none(),
        };
        if !right {
            let id: Position = row.try_get("", "_id")?;
            let expected = covering.map(|event| event.at);
            self.report.add(format!(
                "messages: _id {id} has recived_at {found:?} instead of {expected:?}"
            ));
        }
        Ok(())
    }

    async fn conversations(&mut self, session: &mut Session, fold: &Fold) -> Result<(), FoldError> {
        let expected: BTreeMap<i64, (&ConversationId, &Conversation)> = fold
            .facts
            .conversations
            .iter()
            .map(|(id, c)| (c.number.0, (id, c)))
            .collect();
        self.report.conversations = expected.len() as u64;
        let select = "SELECT id, name, seq, last_position, last_message_id FROM conversations";
        let mut found = BTreeMap::new();
        for row in session.script(select.into()).await? {
            let id: i64 = row.try_get("", "id")?;
            let name: String = row.try_get("", "name")?;
            let numbers: [i64; 3] = [
                row.try_get("", "seq")?,
                row.try_get("", "last_position")?,
                row.try_get("", "last_message_id")?,
            ];
            found.insert(id, (name, numbers));
        }
        let expected = expected.iter().map(|(number, (id, c))| {
            (
                *number,
                (
                    id.as_str().to_owned(),
                    [c.seq, c.last_position, c.last_message_id],
                ),
            )
        });
        compare("conversations: id", &expected.collect(), &found, &mut self.report);
        Ok(())
    }

    async fn participants(&mut self, session: &mut Session, fold: &Fold) -> Result<(), FoldError> {
        let select = "SELECT user_id, conversation_id, from_position, to_position, received_seq, read_seq \
             FROM participants";
        let mut found = BTreeMap::new();
        for row in session.script(select.into()).await? {
            let key: (i64, String) = (row.try_get("", "conversation_id")?, row.try_get("", "user_id")?);
            let marks: [i64; 2] = [row.try_get("", "received_seq")?, row.try_get("", "read_seq")?];
            let from: Position = row.try_get("", "from_position")?;
            let to: Option<Position> = row.try_get("", "to_position")?;
            found.insert(key, (from, to, marks));
        }
        let expected = fold
            .facts
            .participants
            .iter()
            .filter_map(|((id, user), participant)| {
                let number = fold.facts.conversations.get(id)?.number.0;
                let Participant {
                    from_position,
                    to_position,
                    received_seq,
                    read_seq,
                } = participant;
                Some((
                    (number, user.as_str().to_owned()),
                    (*from_position, *to_position, [*received_seq, *read_seq]),
                ))
            });
        compare("participants:", &expected.collect(), &found, &mut self.report);
        Ok(())
    }
}

/// Tells every key whose values are not the same on both sides.
fn compare<K, V>(what: &str, expected: &BTreeMap<K, V>, found: &BTreeMap<K, V>, report: &mut Report)
where
    K: Ord + std::fmt::Debug,
    V: PartialEq + std::fmt::Debug,
{
    for (key, expected) in expected {
        match found.get(key) {
            Some(found) if found == expected => {}
            Some(found) => report.add(format!("{what} {key:?} is {found:?} instead of {expected:?}")),
            None => report.add(format!("{what} {key:?} is missing")),
        }
    }
    for key in found.keys().filter(|key| !expected.contains_key(key)) {
        report.add(format!("{what} {key:?} has no event"));
    }
}
