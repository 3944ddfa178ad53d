//! Shows that a node serves: its writer's session holds one of a fixed number of named locks, which the server frees
//! with the connection. Maintenance that must be alone takes them all. On SQLite the lock file does this.

use super::{Session, SessionError};
use crate::flavor::Flavor;
use sea_orm::sqlx;

/// How many nodes may write to one database.
const NODES: u32 = 64;

#[derive(Debug, thiserror::Error)]
#[error("no place is free for this node: maintenance is running, or {NODES} nodes serve")]
struct NoPlace;

/// Takes a place among the nodes that serve.
pub(crate) async fn take(session: &mut Session) -> Result<(), SessionError> {
    if session.flavor == Flavor::Sqlite {
        return Ok(());
    }
    for node in 0..NODES {
        if lock(session, node).await? {
            return Ok(());
        }
    }
    Err(SessionError::Away(sqlx::Error::Configuration(Box::new(NoPlace))))
}

/// Takes every place, or says that a node serves. The places are held as long as the session.
pub(crate) async fn take_all(session: &mut Session) -> Result<bool, SessionError> {
    if session.flavor == Flavor::Sqlite {
        return Ok(true);
    }
    for node in 0..NODES {
        if !lock(session, node).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn lock(session: &mut Session, node: u32) -> Result<bool, SessionError> {
    let name = format!("CONCAT('chat-node-{node}-', LEFT(SHA2(DATABASE(), 256), 16))");
    let rows = session
        .script(format!("SELECT CAST(GET_LOCK({name}, 0) AS SIGNED) AS locked"))
        .await?;
    let locked = rows.first().map(|row| row.try_get::<Option<i64>>("", "locked"));
    match locked {
        Some(Ok(locked)) => Ok(locked == Some(1)),
        Some(Err(error)) => Err(SessionError::Away(sqlx::Error::Decode(Box::new(error)))),
        None => Ok(false),
    }
}
