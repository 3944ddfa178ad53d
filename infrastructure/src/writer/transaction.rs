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

use chat_domain::{
    Micros,
    batch::{Batch, decide_batch},
    cursor::Cursor,
    facts::Needs,
};
use sea_orm::{DbErr, QueryResult, sqlx::mysql::MySqlArguments};

use super::{
    Fate, Waiting, facts,
    memory::{self, Memory},
};
use crate::{
    epoch::epoch_of,
    flavor::Flavor,
    planted::{self, Defect},
    primary::{self, Primary},
    projections, rows,
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
    statements.extend(facts::read(flavor, &unknown, &keys));
    let rows = session.script(statements.join("; ")).await?;
    let (head, now) = head(&rows).map_err(SessionError::unreadable)?;
    if seen.is_some_and(|seen| !primary::reaches(&head, &seen)) {
        return Err(SessionError::Moved);
    }
    let remembered = memory.recall(&head);
    let more = match &remembered {
        Some(_) => Vec::new(),
        // Somebody else has written since: what was thought to be known is read after all.
        None => {
            session
                .script(facts::read(flavor, &needs, &[]).join("; "))
                .await?
        }
    };
    let mut facts = remembered.unwrap_or_default();
    for row in rows.iter().chain(&more) {
        facts::add(&mut facts, row).map_err(SessionError::unreadable)?;
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
    let projections = projections::project(flavor, &batch.recorded, &facts);
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
    let projections = projections::project(flavor, &batch.recorded, facts);
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
