//! Begins a new epoch of the log: after a restore, or whenever the log may have lost its end. Numbers jump, so that
//! none ever means two things, and the old epoch is kept with the position at which it ended.

use chat_domain::{
    Micros, Position,
    cursor::{Cursor, Epoch},
    ports::{EPOCH_JUMP, EpochEnd},
};
use rand::Rng;
use sea_orm::{DbErr, QueryResult};

use crate::{
    session::{Session, SessionError},
    sql,
};

/// The head of the log, locked.
pub(crate) struct LockedHead {
    pub(crate) cursor: Cursor,
    /// The database server that it was last written on.
    pub(crate) server: Option<String>,
    now: Micros,
}

/// Begins a transaction with the head lock, and draws the time.
pub(crate) async fn lock_head(session: &mut Session) -> Result<LockedHead, SessionError> {
    let flavor = session.flavor;
    let script = format!(
        "{}; UPDATE log_head SET last_time = {}(last_time, {}) WHERE id = 1; \
         SELECT epoch, position, last_time, server_id FROM log_head WHERE id = 1",
        flavor.begin(),
        flavor.greatest(),
        flavor.now_micros()
    );
    let rows = session.script(script).await?;
    let read = |row: &QueryResult| -> Result<LockedHead, DbErr> {
        Ok(LockedHead {
            cursor: Cursor {
                epoch: epoch_of(row)?,
                position: row.try_get("", "position")?,
            },
            server: row.try_get("", "server_id")?,
            now: row.try_get("", "last_time")?,
        })
    };
    let row = rows
        .first()
        .ok_or_else(|| DbErr::RecordNotFound("log_head".into()));
    row.and_then(read).map_err(SessionError::unreadable)
}

/// Reads how earlier epochs ended, in that order.
pub(crate) const ENDS: &str = "SELECT e.epoch, e.last_position, l.common_position FROM epochs e \
     LEFT JOIN lost_ends l ON l.epoch = e.epoch ORDER BY e.last_position, e.switched_at";

/// A row of [`ENDS`].
pub(crate) fn end_of(row: &QueryResult) -> Result<EpochEnd, DbErr> {
    let last_position = row.try_get("", "last_position")?;
    let common: Option<Position> = row.try_get("", "common_position")?;
    Ok(EpochEnd {
        epoch: epoch_of(row)?,
        last_position,
        common: common.map_or(last_position, |common| common.min(last_position)),
    })
}

/// How earlier epochs ended, in that order.
pub(crate) async fn ends(session: &mut Session) -> Result<Vec<EpochEnd>, SessionError> {
    let rows = session.script(ENDS.into()).await?;
    let ends: Result<_, _> = rows.iter().map(end_of).collect();
    ends.map_err(SessionError::unreadable)
}

/// Ends the present epoch where the head is, begins another, and commits. Says on which server. With `common`, numbers
/// after it were given out twice: no cursor after it resumes, of whichever epoch it is.
pub(crate) async fn switch(
    session: &mut Session,
    head: &LockedHead,
    server: Option<&str>,
    common: Option<Position>,
) -> Result<Cursor, SessionError> {
    let flavor = session.flavor;
    let after = Cursor {
        epoch: new_name(),
        position: head.cursor.position + EPOCH_JUMP,
    };
    let lost_ends = common.map(|common| {
        format!(
            "DELETE FROM lost_ends WHERE common_position > {common}; \
             INSERT INTO lost_ends (epoch, common_position) SELECT e.epoch, {common} FROM epochs e \
             LEFT JOIN lost_ends l ON l.epoch = e.epoch WHERE e.last_position > {common} AND l.epoch IS NULL; "
        )
    });
    let script = format!(
        "INSERT INTO epochs (epoch, last_position, switched_at) VALUES ({}, {}, {}); {}\
         UPDATE log_head SET epoch = {}, position = {}, server_id = {} WHERE id = 1; COMMIT",
        sql::text(flavor, head.cursor.epoch.as_str()),
        head.cursor.position,
        head.now,
        lost_ends.unwrap_or_default(),
        sql::text(flavor, after.epoch.as_str()),
        after.position,
        sql::optional_text(flavor, server),
    );
    session.script(script).await?;
    Ok(after)
}

/// The column `epoch` of a row.
pub(crate) fn epoch_of(row: &QueryResult) -> Result<Epoch, DbErr> {
    Epoch::parse(&row.try_get::<String>("", "epoch")?).map_err(|error| DbErr::Custom(error.to_string()))
}

fn new_name() -> Epoch {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let name: String = (0..8)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect();
    Epoch::parse(&name).expect("eight lower-case letters and digits are a name")
}
