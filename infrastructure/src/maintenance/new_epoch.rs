//! Begins a new epoch by hand.

use chat_domain::cursor::Cursor;

use crate::{
    database::Database,
    epoch::{lock_head, switch},
    session::{Session, SessionError},
};

/// Switches to a new epoch; returns the head before and after.
pub async fn begin_new(database: &Database) -> Result<(Cursor, Cursor), SessionError> {
    let mut session = Session::connect(&database.location, database.flavor).await?;
    let mut attempts = 1;
    let head = loop {
        match lock_head(&mut session).await {
            // A node holds the lock for longer than is waited for it once.
            Err(SessionError::Retry(_)) if attempts < LOCK_ATTEMPTS => {
                session.script("ROLLBACK".into()).await?;
                attempts += 1;
            }
            locked => break locked?,
        }
    };
    // Whoever writes next says whose log it is.
    let after = switch(&mut session, &head, None, None).await?;
    session.close().await;
    Ok((head.cursor, after))
}

/// How often the lock is waited for: for longer than a node that froze can hold it.
const LOCK_ATTEMPTS: u32 = 5;
