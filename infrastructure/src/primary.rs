//! The primary: the one database server that all nodes write to and read from, and what this node has seen of its
//! log.
//!
//! A log that is reached again may not be the same: a replica took over and never got the last events, or a dump was
//! restored. Its numbers would be drawn a second time, and a reader who comes back would miss what took them without a
//! sign of it. So the writer looks, under the head lock, whenever it connects and before each batch:
//!
//! - **Who is it?** `log_head` keeps the identity of the server that was last written to. Another one begins a new
//!   epoch. So does the same one when the log's tables were made anew, as a restored dump makes them.
//!   And so does one that was started again: without a binary log, InnoDB shows a commit to others before it is on the
//!   disk, so that a crash can take what readers of any node have seen, and only the database knows that it crashed.
//! - **Is what was seen still there?** A head below what this node has seen begins a new epoch too.
//! - **Is it still what was seen?** A log that lost its end may have been written on before this node looks, and reach
//!   further than ever. The node remembers which events it has written and read (`remembered`), and holds them to the
//!   rows. Where others stand under their numbers, a new epoch begins, and no cursor after the last event that is the same
//!   resumes: what follows it is in the log, and is given once more to those who come back from before it.
//!
//! A new epoch where nothing was lost costs a jump of the numbers and nothing else, so doubt is decided that way.
//! Servers of one storage, as Aurora's, lose nothing between them: there a configured name stands for all of them. So it
//! may for Galera's, whose servers can lose what they acknowledged when several of them crash: what went is found then by
//! each node that has seen it. A loss that no living node remembers is not.
//!
//! - **Does it keep what it says?** A server that the writer meets later may be laxer than that at which the node started:
//!   one that does not flush at commit is refused as it would be at the start.
//!
//! Readers follow the writer: a connection of the pool that was opened before the primary changed is closed, and one
//! that comes out at another server is refused. Otherwise one page could come from a server that is behind the tail.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chat_domain::{Position, cursor::Cursor, event::Recorded, ports::EpochEnd};
use parking_lot::{Mutex, MutexGuard};
use sea_orm::{
    DbErr, QueryResult,
    sqlx::{self, Row, mysql::MySqlConnection},
};
use tokio::{sync::Notify, time::Instant};
use tracing::{info, warn};

use crate::{
    epoch::{self, LockedHead},
    flavor::Flavor,
    metrics,
    remembered::{Compared, Mark, Remembered},
    session::{Session, SessionError},
    sql,
};

/// What this node knows of the primary. Its writer says what it found; everybody else asks.
#[derive(Debug, Default)]
pub struct Primary {
    /// The configured identity.
    name: Option<String>,
    /// Whether a server that does not flush at commit is refused.
    refuses_lax: bool,
    known: Mutex<Known>,
    suspicion: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// What the writer writes to; none before it connected, and none on SQLite.
    server: Option<Server>,
    /// A place in the log that is committed.
    seen: Option<Cursor>,
    remembered: Remembered,
}

#[derive(Debug, Clone)]
struct Server {
    identity: Identity,
    /// Who it says that it is, where a name stands for it.
    own: String,
    flavor: Flavor,
    since: Instant,
}

/// What a database server says of itself.
struct Answer {
    identity: Identity,
    own: String,
    is_read_only: bool,
    flush: i64,
}

/// Who a database server says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    /// Which server it is, with which log, and since when.
    server: String,
    /// What it drew when it started, which tells two starts within one second apart. It draws again when its clock goes
    /// back.
    draw: String,
}

impl Identity {
    /// What `log_head` keeps, in at most 64 characters.
    fn stored(&self) -> String {
        match self.draw.as_str() {
            "" => self.server.clone(),
            draw => format!("{}/{draw}", self.server),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("the database server is read_only: it is not the primary")]
    ReadOnly,
    #[error(
        "innodb_flush_log_at_trx_commit is {0} on this database server, and must be 1 for acknowledged to mean durable"
    )]
    Lax(i64),
    #[error("this is the database server {found}, and not {expected}, which the writer writes to")]
    AnotherServer { found: String, expected: String },
}

impl From<Wrong> for sqlx::Error {
    fn from(wrong: Wrong) -> Self {
        Self::Configuration(Box::new(wrong))
    }
}

impl Primary {
    /// A name that stands for all servers of a cluster which loses nothing between them.
    pub fn new(name: Option<String>) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Refuses a server that does not flush at commit, wherever the writer meets it.
    pub fn refusing_lax(self, refuses_lax: bool) -> Self {
        Self { refuses_lax, ..self }
    }

    /// The server that is written to, by what it says of itself, and the epoch of its log; empty where none is known.
    pub(crate) fn standing(&self) -> (String, String) {
        let known = self.lock();
        let server = known.server.as_ref().map(|server| server.own.clone());
        let epoch = known.seen.as_ref().map(|seen| seen.epoch.as_str().to_owned());
        (server.unwrap_or_default(), epoch.unwrap_or_default())
    }

    /// How far the log was seen. What a later statement shows must reach it.
    pub(crate) fn seen(&self) -> Option<Cursor> {
        self.lock().seen.clone()
    }

    /// The writer has committed these events, and seen the log so far, under the lock.
    pub(crate) fn saw(&self, cursor: Cursor, committed: &[Arc<Recorded>]) {
        let mut known = self.lock();
        known.seen = Some(cursor);
        known.remembered.add(committed);
    }

    /// These events were read, to be passed on.
    pub(crate) fn passed(&self, events: &[Arc<Recorded>]) {
        if !events.is_empty() {
            self.lock().remembered.add(events);
        }
    }

    /// A reader has seen the head at `now`; `before` is what was known when it asked.
    pub(crate) fn read(&self, before: Option<&Cursor>, now: &Cursor) {
        let Some(before) = before else { return };
        if !reaches(now, before) {
            self.suspicion.notify_one();
            return;
        }
        if let Some(seen) = &mut self.lock().seen
            && seen.epoch == now.epoch
        {
            seen.position = seen.position.max(now.position);
        }
    }

    /// Waits until somebody has read a head that does not reach what was seen.
    pub(crate) async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Looks whose log this is, and whether it still holds what was seen, before anything is written; begins a new
    /// epoch where it may have lost its end. Safe to run again after a failure at any point.
    pub(crate) async fn confirm(&self, session: &mut Session) -> Result<(), SessionError> {
        let flavor = session.flavor;
        let answer = self.ask(session).await?;
        match &answer {
            Some(answer) if answer.is_read_only => return Err(SessionError::Away(Wrong::ReadOnly.into())),
            Some(answer) if answer.flush != 1 && self.refuses_lax => {
                return Err(SessionError::Away(Wrong::Lax(answer.flush).into()));
            }
            _ => {}
        }
        let server = answer.as_ref().map(|answer| answer.identity.stored());
        let seen = self.seen();
        let head = epoch::lock_head(session).await?;
        let changed = match (&head.server, &server) {
            (Some(stored), Some(server)) => stored != server,
            _ => false,
        };
        let (compared, last) = self.compare(session, &head).await?;
        let is_other = seen.as_ref().is_some_and(|seen| seen.epoch != head.cursor.epoch);
        let ends = if is_other || compared.taken.is_some() {
            epoch::ends(session).await?
        } else {
            Vec::new()
        };
        let lost = seen.as_ref().is_some_and(|seen| {
            !reaches(&head.cursor, seen) && ends.iter().all(|end| end.epoch != seen.epoch)
        }) || compared.is_short;
        // Another node may have been the first to find it.
        let taken = compared.taken.filter(|taken| {
            let settles = |end: &EpochEnd| end.last_position >= *taken && end.common < *taken;
            !ends.iter().any(settles)
        });
        let reason = match (changed, taken, lost) {
            (true, ..) => Some("the log is on another database server"),
            (_, Some(_), _) => Some("other events took numbers that were seen"),
            (.., true) => Some("the head of the log went back"),
            _ => None,
        };
        let cursor = if let Some(reason) = reason {
            // A replica that takes over has not been written to since. Anywhere else, what nobody here remembers may be
            // other events, too.
            let in_doubt = taken.is_some() || lost && !changed && compared.common < head.cursor.position;
            let common = in_doubt.then_some(compared.common);
            let after = epoch::switch(session, &head, server.as_deref(), common).await?;
            metrics::epoch_begun();
            warn!(
                before = %head.cursor, after = %after, server = server.as_deref(), common,
                "{reason}: a new epoch begins, for the log may have lost its end",
            );
            after
        } else if head.server.is_none() && server.is_some() {
            let server = sql::optional_text(flavor, server.as_deref());
            session
                .script(format!(
                    "UPDATE log_head SET server_id = {server} WHERE id = 1; COMMIT"
                ))
                .await?;
            head.cursor
        } else {
            session.script("ROLLBACK".into()).await?;
            head.cursor
        };
        let mut known = self.lock();
        known.remembered.forget(&compared.gone);
        if let Some((position, mark)) = last {
            known.remembered.see(position, mark);
        }
        drop(known);
        self.found(answer.map(|answer| (answer.identity, answer.own, flavor)), cursor);
        Ok(())
    }

    /// Holds what is remembered to the log, whose head is locked; also gives the log's last event.
    async fn compare(
        &self,
        session: &mut Session,
        head: &LockedHead,
    ) -> Result<(Compared, Option<(Position, Mark)>), SessionError> {
        let remembered = self.lock().remembered.all();
        let head = head.cursor.position;
        let positions = remembered.range(..head).map(|(position, _)| *position);
        let select = format!(
            "SELECT position, occurred_at, actor_id, command_key FROM outbox WHERE position IN ({})",
            sql::list(positions.chain([head]))
        );
        let rows = session.script(select).await?;
        let read = |row: &QueryResult| -> Result<_, DbErr> {
            let (actor, key): (String, String) =
                (row.try_get("", "actor_id")?, row.try_get("", "command_key")?);
            let mark = Mark::new(row.try_get("", "occurred_at")?, &actor, &key);
            Ok((row.try_get("", "position")?, mark))
        };
        let rows: Result<BTreeMap<Position, Mark>, _> = rows.iter().map(read).collect();
        let rows = rows.map_err(SessionError::unreadable)?;
        let last = rows.last_key_value().filter(|(position, _)| **position == head);
        let last = last.map(|(position, mark)| (*position, *mark));
        Ok((Compared::new(remembered, &rows, head), last))
    }

    /// Breaks the session's silence, and finds out whether something could be written: whether the server still is the
    /// primary, for nothing that is written elsewhere would be seen here, and whether nobody has locked what a command
    /// needs. All of it is one round trip, so that the head is never locked across the network.
    pub(crate) async fn ping(&self, session: &mut Session) -> Result<(), SessionError> {
        if session.flavor == Flavor::Sqlite {
            session
                .script(format!("{}; ROLLBACK", session.flavor.begin()))
                .await?;
            return Ok(());
        }
        let tables = [
            ("outbox", "position", "0"),
            ("messages", "_id", "0"),
            ("conversations", "id", "0"),
            ("participants", "user_id", "''"),
        ];
        // No row has this key, so none is locked.
        let opened = tables
            .map(|(table, key, none)| format!("SELECT {key} FROM {table} WHERE {key} = {none} FOR UPDATE"));
        let rows = session
            .script(format!(
                "SELECT {IS_READ_ONLY} AS is_read_only; {}; \
                 UPDATE log_head SET last_time = last_time WHERE id = 1; {}; ROLLBACK",
                session.flavor.begin(),
                opened.join("; ")
            ))
            .await?;
        match rows.first().map(|row| row.try_get::<i64>("", "is_read_only")) {
            Some(Ok(0)) => Ok(()),
            _ => Err(SessionError::Away(Wrong::ReadOnly.into())),
        }
    }

    /// What the server says of itself. None on SQLite, which has no server.
    async fn ask(&self, session: &mut Session) -> Result<Option<Answer>, SessionError> {
        let Some(select) = question(session.flavor) else {
            return Ok(None);
        };
        let rows = session.script(select).await?;
        let read = |row: &QueryResult| -> Result<_, DbErr> {
            let own: String = row.try_get("", "server")?;
            Ok(Answer {
                identity: self.named(own.clone(), row.try_get("", "draw")?),
                own,
                is_read_only: row.try_get::<i64>("", "is_read_only")? != 0,
                flush: row.try_get("", "flushes")?,
            })
        };
        let row = rows
            .first()
            .ok_or_else(|| DbErr::RecordNotFound("the identity of the database server".into()));
        row.and_then(read).map(Some).map_err(SessionError::unreadable)
    }

    /// Refuses a connection for reading that came out at another server than the writer's.
    pub(crate) async fn check(&self, connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
        let known = self.lock().server.clone();
        let Some(Server { flavor, identity, .. }) = known else {
            return Ok(());
        };
        let Some(question) = question(flavor) else {
            return Ok(());
        };
        let answer = sqlx::raw_sql(sqlx::AssertSqlSafe(question)).fetch_one(connection);
        let row = answer.await?;
        // Not the draw: a clock that went back is no reason to read nothing.
        let found = self.named(row.try_get("server")?, String::new()).server;
        let expected = identity.server;
        if found == expected {
            Ok(())
        } else {
            Err(Wrong::AnotherServer { found, expected }.into())
        }
    }

    /// Whether a connection of this age may still be at the server of before.
    pub(crate) fn is_outdated(&self, age: Duration) -> bool {
        let known = self.lock();
        known
            .server
            .as_ref()
            .is_some_and(|server| age > server.since.elapsed())
    }

    fn found(&self, server: Option<(Identity, String, Flavor)>, cursor: Cursor) {
        let mut known = self.lock();
        known.seen = Some(cursor);
        let Some((identity, own, flavor)) = server else {
            return;
        };
        match &mut known.server {
            Some(known) if known.identity == identity => known.own = own,
            known => {
                info!(server = identity.stored(), "connected to primary");
                *known = Some(Server {
                    identity,
                    own,
                    flavor,
                    since: Instant::now(),
                });
            }
        }
    }

    /// The configured name, or what the server says of itself.
    fn named(&self, server: String, draw: String) -> Identity {
        match self.name.clone() {
            Some(server) => Identity {
                server,
                draw: String::new(),
            },
            None => Identity { server, draw },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

/// Whether a head has everything that was seen, as far as it says itself. One of another epoch may, and the epochs
/// before it tell.
pub(crate) fn reaches(head: &Cursor, seen: &Cursor) -> bool {
    head.epoch == seen.epoch && head.position >= seen.position
}

/// Newer servers know more than two words for it. A reader of Aurora is one by its `innodb_read_only`.
const IS_READ_ONLY: &str = "CAST(IF(CAST(@@GLOBAL.read_only AS CHAR) IN ('0', 'OFF') \
     AND CAST(@@GLOBAL.innodb_read_only AS CHAR) IN ('0', 'OFF'), 0, 1) AS SIGNED)";

/// Asks a server who it is, in at most 59 and 4 characters, whether it flushes at commit, and whether it only reads.
///
/// MariaDB has no identity of its own that survives its network card, but servers that replicate from each other must
/// differ in `server_id`. The time at which the table `epochs` was made tells a restored log from the one before, and
/// the time at which the server was started one life of it from another: both terms of that difference are the
/// statement's own time, so it is the same to the second as long as the server lives. Two lives within one second, or
/// of a machine that knows the time only later, differ in the clock sequence of their UUIDs, which is drawn at the start.
fn question(flavor: Flavor) -> Option<String> {
    let (status, server) = match flavor {
        Flavor::Sqlite => return None,
        Flavor::MySql => ("performance_schema", "@@server_uuid"),
        Flavor::MariaDb => ("information_schema", "@@server_id, ':', @@port, '@', @@hostname"),
    };
    Some(format!(
        "SELECT CAST(LEFT(CONCAT(COALESCE((SELECT UNIX_TIMESTAMP(create_time) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name = 'epochs'), 0), '/', \
         UNIX_TIMESTAMP() - (SELECT CAST(variable_value AS SIGNED) FROM {status}.global_status \
         WHERE variable_name = 'Uptime'), '/', {server}), 59) AS CHAR) AS server, \
         CAST(SUBSTRING(UUID(), 20, 4) AS CHAR) AS draw, \
         CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS SIGNED) AS flushes, {IS_READ_ONLY} AS is_read_only"
    ))
}

#[cfg(test)]
mod tests {
    use chat_domain::cursor::Epoch;

    use super::*;

    fn at(epoch: &str, position: i64) -> Cursor {
        Cursor {
            epoch: Epoch::parse(epoch).unwrap(),
            position,
        }
    }

    fn server(name: &str) -> Option<(Identity, String, Flavor)> {
        Some((
            Primary::default().named(name.into(), "b401".into()),
            name.into(),
            Flavor::MySql,
        ))
    }

    fn seeing(cursor: Cursor) -> Primary {
        let primary = Primary::new(None);
        primary.found(server("one"), cursor);
        primary
    }

    async fn is_suspected(primary: &Primary) -> bool {
        tokio::time::timeout(Duration::ZERO, primary.suspected())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_head_below_what_was_seen_is_suspected_and_one_that_was_read_early_is_not() {
        let primary = seeing(at("a", 10));
        let before = primary.seen();
        primary.saw(at("a", 12), &[]);
        primary.read(before.as_ref(), &at("a", 11));
        assert!(!is_suspected(&primary).await, "the writer committed meanwhile");
        assert_eq!(primary.seen(), Some(at("a", 12)));

        primary.read(primary.seen().as_ref(), &at("a", 15));
        assert_eq!(primary.seen(), Some(at("a", 15)), "what another node has written");
        primary.read(primary.seen().as_ref(), &at("a", 14));
        assert!(is_suspected(&primary).await);
        primary.read(primary.seen().as_ref(), &at("b", 99));
        assert!(is_suspected(&primary).await);
        assert_eq!(
            primary.seen(),
            Some(at("a", 15)),
            "only the writer takes another epoch over"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_from_before_another_primary_is_outdated() {
        let primary = Primary::new(None);
        assert!(!primary.is_outdated(Duration::from_secs(9)), "none is known");
        primary.found(server("one"), at("a", 1));
        assert!(primary.is_outdated(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(5)).await;
        primary.found(server("one"), at("a", 2));
        assert!(!primary.is_outdated(Duration::from_secs(4)), "it is the same one");
        primary.found(server("two"), at("b", 3));
        assert!(primary.is_outdated(Duration::from_secs(4)));
        assert!(!primary.is_outdated(Duration::ZERO));
    }

    #[test]
    fn a_configured_name_stands_for_every_server() {
        let primary = Primary::new(Some("cluster".into()));
        let named = primary.named("one".into(), "b401".into());
        assert_eq!(named.stored(), "cluster");
        // Whoever asks is told which one it is all the same.
        primary.found(Some((named.clone(), "one".into(), Flavor::MySql)), at("a", 1));
        assert_eq!(primary.standing(), ("one".into(), "a".into()));
        primary.found(Some((named, "two".into(), Flavor::MySql)), at("a", 2));
        assert_eq!(primary.standing(), ("two".into(), "a".into()));
    }
}
