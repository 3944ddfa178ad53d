//! Begins a new epoch of the log: after a restore, or whenever the log may have lost its end. Numbers jump, so that
//! none ever means two things, and the old epoch is kept with the position at which it ended.

use chat_domain::{
    cursor::{Cursor, Epoch},
    ports::EPOCH_JUMP,
};
use rand::Rng;
use sea_orm::{DbErr, sqlx};

use crate::{
    database::Database,
    session::{Session, SessionError},
    sql,
};

/// Switches to a new epoch; returns the head before and after.
pub async fn begin_new(database: &Database) -> Result<(Cursor, Cursor), SessionError> {
    let flavor = database.flavor;
    let mut session = Session::connect(&database.location, flavor).await?;
    let script = format!(
        "{}; UPDATE log_head SET last_time = {}(last_time, {}) WHERE id = 1; \
         SELECT epoch, position, last_time FROM log_head WHERE id = 1",
        flavor.begin(),
        flavor.greatest(),
        flavor.now_micros()
    );
    let rows = session.script(script).await?;
    let read = || -> Result<(Cursor, i64), DbErr> {
        let row = rows
            .first()
            .ok_or_else(|| DbErr::RecordNotFound("log_head".into()))?;
        let epoch =
            Epoch::parse(&row.try_get::<String>("", "epoch")?).map_err(|e| DbErr::Custom(e.to_string()))?;
        Ok((
            Cursor {
                epoch,
                position: row.try_get("", "position")?,
            },
            row.try_get("", "last_time")?,
        ))
    };
    let (before, now) = read().map_err(|e| SessionError::Away(sqlx::Error::Decode(Box::new(e))))?;
    let after = Cursor {
        epoch: new_name(),
        position: before.position + EPOCH_JUMP,
    };
    let script = format!(
        "INSERT INTO epochs (epoch, last_position, switched_at) VALUES ({}, {}, {now}); \
         UPDATE log_head SET epoch = {}, position = {} WHERE id = 1; COMMIT",
        sql::text(flavor, before.epoch.as_str()),
        before.position,
        sql::text(flavor, after.epoch.as_str()),
        after.position,
    );
    session.script(script).await?;
    session.close().await;
    Ok((before, after))
}

fn new_name() -> Epoch {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut rng = rand::rng();
    let name: String = (0..8)
        .map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())]))
        .collect();
    Epoch::parse(&name).expect("eight lower-case letters and digits are a name")
}
