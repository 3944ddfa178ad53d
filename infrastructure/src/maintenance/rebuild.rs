//! Makes the projections anew from the log. It needs the database for itself: it refuses while a node serves, and
//! keeps nodes away until it is done. What it has done is marked, so that after an interruption no node serves from
//! half of it; running it again starts over.

use chat_domain::Position;
use tracing::info;

use super::fold::{self, Fold, FoldError};
use crate::{
    database::Database,
    entities::checkpoints::{REBUILD, RECEIVED_AT},
    followers::received_at::{Projector, Step},
    projections::{conversations, messages, participants},
    session::{Session, node_slots},
};

/// How many rows one statement writes or deletes.
const ROWS_IN_A_STATEMENT: Position = 5000;

#[derive(Debug)]
pub struct Rebuilt {
    pub events: u64,
    pub conversations: usize,
}

/// On SQLite the caller holds the file's lock.
pub async fn rebuild(database: &Database) -> Result<Rebuilt, FoldError> {
    let flavor = database.flavor;
    let mut session = Session::connect(&database.location, flavor).await?;
    if !node_slots::take_all(&mut session).await? {
        return Err(FoldError::NodeServes);
    }
    let (head, ends) = fold::head(&mut session).await?;
    session
        .script(format!(
            "DELETE FROM checkpoints WHERE name = '{REBUILD}'; \
             INSERT INTO checkpoints (name, position) VALUES ('{REBUILD}', 0)"
        ))
        .await?;
    clear(&mut session).await?;
    info!("the old projections are gone");

    let mut fold = Fold::new(head.clone(), ends);
    loop {
        let after = fold.position;
        let events = fold::read(&mut session, flavor, after, head.position).await?;
        let Some(last) = events.last() else { break };
        session
            .script(messages::copy(
                flavor,
                after + 1,
                last.position,
                flavor.adopted_received_at(),
            ))
            .await?;
        for event in &events {
            // What is wrong with the log itself is for `verify` to say.
            fold.add(event, |_| {});
        }
        fold.forget_commands();
    }
    write_conversations(&mut session, database, &fold).await?;
    info!(
        events = fold.events,
        "messages, conversations and participants are made anew"
    );

    session
        .script(format!(
            "DELETE FROM checkpoints WHERE name = '{RECEIVED_AT}'; \
             INSERT INTO checkpoints (name, position) VALUES ('{RECEIVED_AT}', 0)"
        ))
        .await?;
    let mut projector = Projector::new(database.clone());
    while projector.step(head.position).await? != Step::Done {
        // The session that keeps nodes away must not be silent for long.
        session.ping().await?;
    }
    session
        .script(format!("DELETE FROM checkpoints WHERE name = '{REBUILD}'"))
        .await?;
    session.close().await;
    Ok(Rebuilt {
        events: fold.events,
        conversations: fold.facts.conversations.len(),
    })
}

/// Empties the projections in steps, for one transaction over all rows would fill the undo log.
async fn clear(session: &mut Session) -> Result<(), FoldError> {
    for (table, key) in [
        ("messages", "_id"),
        ("conversations", "id"),
        ("participants", "conversation_id"),
    ] {
        loop {
            let select = format!("SELECT MIN({key}) AS first FROM {table}");
            let rows = session.script(select).await?;
            let first = rows
                .first()
                .map(|row| row.try_get::<Option<Position>>("", "first"))
                .transpose()?
                .flatten();
            let Some(first) = first else { break };
            let end = first + ROWS_IN_A_STATEMENT;
            session
                .script(format!(
                    "DELETE FROM {table} WHERE {key} >= {first} AND {key} < {end}"
                ))
                .await?;
        }
    }
    Ok(())
}

async fn write_conversations(
    session: &mut Session,
    database: &Database,
    fold: &Fold,
) -> Result<(), FoldError> {
    let all: Vec<_> = fold.facts.conversations.iter().collect();
    for chunk in all.chunks(ROWS_IN_A_STATEMENT as usize) {
        session
            .script(conversations::upsert(database.flavor, chunk.iter().copied()))
            .await?;
    }
    let all: Vec<_> = fold.facts.participants.iter().collect();
    for chunk in all.chunks(ROWS_IN_A_STATEMENT as usize) {
        let rows = chunk.iter().filter_map(|((id, user), participant)| {
            Some((fold.facts.conversations.get(id)?.number, user, *participant))
        });
        session
            .script(participants::upsert(database.flavor, rows))
            .await?;
    }
    Ok(())
}
