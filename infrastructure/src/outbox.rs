//! Reads the committed log from the database.
//!
//! A reader who comes back is given what it may see in windows of positions, over the conversations that have
//! something new for it. One read looks at the whole rest of the log first: for most readers that is little, and the
//! read ends there. Where it is more than a page, windows follow whose width adapts to how many events they held.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chat_domain::{
    Position,
    event::Recorded,
    facts::Participant,
    ids::UserId,
    ports::{EpochEnd, Head, Outbox, Page, PageLimit, PageRange, Reader, StoreError},
};
use sea_orm::{DbErr, QueryResult, Value};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    database::Database,
    epoch::{self, epoch_of},
    flavor::Index,
    rows::{self, unavailable},
    shared_read::SharedRead,
    sql,
};

#[derive(Clone)]
pub struct SqlOutbox {
    /// For the tail and the head, which everybody needs.
    database: Database,
    /// For pages.
    pages: Database,
    /// Every reader that comes back asks for the head, and all may come back at once.
    heads: Arc<SharedRead<Result<Head, DbErr>>>,
    /// Readers that catch up use a share of the pool at most, first come, first served, so that the tail always finds a
    /// connection.
    turns: Arc<Semaphore>,
}

impl SqlOutbox {
    pub fn new(database: Database) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(database.share_of_connections())),
            pages: database.share(),
            database,
            heads: Arc::default(),
        }
    }

    /// What may be seen of each of the user's conversations that has events after a position, by their numbers.
    async fn conversations(&self, user: &UserId, after: Position) -> Result<Vec<(i64, Participant)>, DbErr> {
        let select = format!(
            "SELECT p.conversation_id, p.from_position, p.to_position FROM participants p {} conversations c \
             ON c.id = p.conversation_id WHERE p.user_id = ? AND c.last_position > ? ORDER BY p.conversation_id",
            self.database.flavor.ordered_join(),
        );
        let values = [user.as_str().into(), after.into()];
        let rows = self.pages.query_all(self.pages.statement(select, values)).await?;
        let read = |row: &QueryResult| {
            let participant = Participant {
                from_position: row.try_get("", "from_position")?,
                to_position: row.try_get("", "to_position")?,
                received_seq: 0,
                read_seq: 0,
            };
            Ok((row.try_get("", "conversation_id")?, participant))
        };
        rows.iter().map(read).collect()
    }

    /// At most `most` rows of the conversations between two positions, in no order.
    async fn rows_of_conversations(
        &self,
        conversations: &[(i64, Participant)],
        (after, up_to): (Position, Position),
        most: usize,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let mut rows = Vec::new();
        for chunk in conversations.chunks(CONVERSATIONS_IN_A_READ) {
            let (ids, mut values) = sql::padded(chunk.iter().map(|(id, _)| *id));
            let select = format!(
                "SELECT {} FROM outbox o {} WHERE o.conversation_id IN ({ids}) AND o.position > ? \
                 AND o.position <= ? LIMIT ?",
                rows::selected(),
                self.database.flavor.force_index(Index::OutboxConversation),
            );
            values.extend([after, up_to, (most - rows.len()) as i64].map(Value::from));
            let statement = self.database.statement(select, values);
            rows.extend(self.pages.query_all(statement).await?);
            if rows.len() >= most {
                break;
            }
        }
        Ok(rows)
    }

    /// The rows of the log between two positions that are in the user's conversations.
    async fn rows_of_window(
        &self,
        user: &UserId,
        (after, up_to): (Position, Position),
    ) -> Result<Vec<QueryResult>, DbErr> {
        let flavor = self.database.flavor;
        let select = format!(
            "SELECT {} FROM outbox o {} {} participants p WHERE o.position > ? AND o.position <= ? \
             AND p.user_id = ? AND p.conversation_id = o.conversation_id",
            rows::selected(),
            flavor.force_index(Index::OutboxPosition),
            flavor.ordered_join(),
        );
        let values = [after.into(), up_to.into(), user.as_str().into()];
        self.pages.query_all(self.pages.statement(select, values)).await
    }

    /// The rows of the log after a position, in order.
    async fn rows_after(
        &self,
        database: &Database,
        (after, up_to): (Position, Position),
        most: usize,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let select = format!(
            "SELECT {} FROM outbox o {} WHERE o.position > ? AND o.position <= ? ORDER BY o.position LIMIT ?",
            rows::selected(),
            database.flavor.force_index(Index::OutboxPosition),
        );
        let values = [after, up_to, most as i64].map(Value::from);
        database.query_all(database.statement(select, values)).await
    }

    /// A page of the whole log: what is looked at is what is in it.
    async fn read_everything(&self, range: PageRange, limit: PageLimit) -> Result<Page, StoreError> {
        let PageRange { after, up_to, width } = range;
        let found = self
            .rows_after(&self.pages, (after, up_to), limit.events)
            .await
            .map_err(unavailable)?;
        let events = rows::events(&self.pages, &found, limit).await?;
        // Up to the last one that fits; there is nothing between it and the next, and nothing after the last of all.
        let is_whole = events.len() == found.len() && found.len() < limit.events;
        let last = events.last().map_or(up_to, |event| event.position);
        Ok(Page {
            complete_to: if is_whole { up_to } else { last },
            events,
            next_width: width,
        })
    }

    async fn read_page(&self, user: &UserId, range: PageRange, limit: PageLimit) -> Result<Page, StoreError> {
        let PageRange { after, up_to, .. } = range;
        let conversations = self.conversations(user, after).await.map_err(unavailable)?;
        // A window of so many positions cannot hold more events than a page.
        let narrowest = limit.events as Position;
        let mut width = range.width.max(narrowest);
        let (end, mut found) = loop {
            let end = after.saturating_add(width).min(up_to);
            if conversations.is_empty() {
                break (up_to, Vec::new());
            }
            if width <= narrowest {
                break (
                    end,
                    self.rows_of_window(user, (after, end))
                        .await
                        .map_err(unavailable)?,
                );
            }
            let most = limit.events + 1;
            let found = self
                .rows_of_conversations(&conversations, (after, end), most)
                .await
                .map_err(unavailable)?;
            if found.len() <= limit.events {
                break (end, found);
            }
            // Of a read of the whole rest nothing is known but that it is too much: begin with the narrowest.
            width = if width == PageRange::WHOLE {
                narrowest
            } else {
                (width / 2).max(narrowest)
            };
        };
        let positions = found.iter().map(|row| row.try_get::<Position>("", "position"));
        let mut positions = positions.collect::<Result<Vec<_>, _>>().map_err(unavailable)?;
        let mut order: Vec<_> = (0..found.len()).collect();
        order.sort_unstable_by_key(|&row| positions[row]);
        let mut sorted = Vec::with_capacity(found.len());
        let mut slots: Vec<_> = found.drain(..).map(Some).collect();
        sorted.extend(order.iter().filter_map(|&row| slots[row].take()));
        positions.sort_unstable();

        let full = sorted.len();
        let mut events = rows::events(&self.pages, &sorted, limit).await?;
        // Where contents were too much for one page, it ends before the first that did not fit.
        let complete_to = if events.len() < full {
            positions[events.len()] - 1
        } else {
            end
        };
        let may_see = |event: &Arc<Recorded>| {
            let mine = conversations.binary_search_by_key(&event.conversation.0, |(number, _)| *number);
            mine.is_ok_and(|place| conversations[place].1.may_see(event.position))
        };
        events.retain(may_see);
        let next_width = if full * 2 < limit.events {
            width.saturating_mul(2)
        } else {
            width
        };
        Ok(Page {
            events,
            complete_to,
            next_width,
        })
    }
}

/// Others wait for the same read, and one connection may be dead without a word.
const HEAD_LIMIT: Duration = Duration::from_secs(3);

/// Bounds the text of one statement.
const CONVERSATIONS_IN_A_READ: usize = 500;

#[async_trait]
impl Outbox for SqlOutbox {
    async fn head(&self) -> Result<Head, StoreError> {
        let read = async {
            let primary = &self.database.primary;
            let seen = primary.seen();
            let head = timeout(HEAD_LIMIT, read_head(&self.database)).await;
            let head = head.map_err(|_| DbErr::Custom("the head was not read in time".into()))??;
            primary.read(seen.as_ref(), &head.cursor());
            Ok(head)
        };
        self.heads.get(read).await.map_err(unavailable)
    }

    async fn earlier_epochs(&self) -> Result<Vec<EpochEnd>, StoreError> {
        let rows = self
            .database
            .query_all(self.database.statement(epoch::ENDS, []))
            .await;
        let ends: Result<_, _> = rows.map_err(unavailable)?.iter().map(epoch::end_of).collect();
        ends.map_err(unavailable)
    }

    async fn read_after(&self, after: Position, limit: PageLimit) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let range = (after, Position::MAX);
        let rows = self.rows_after(&self.database, range, limit.events).await;
        let events = rows::events(&self.database, &rows.map_err(unavailable)?, limit).await?;
        self.database.primary.passed(&events);
        Ok(events)
    }

    async fn page(&self, reader: &Reader, range: PageRange, limit: PageLimit) -> Result<Page, StoreError> {
        // Never closed.
        let _turn = self.turns.acquire().await;
        match reader {
            Reader::User(user) => self.read_page(user, range, limit).await,
            Reader::Everything => self.read_everything(range, limit).await,
        }
    }
}

/// Reads the head as a statement of its own: what it says is proven for every statement after it.
pub(crate) async fn read_head(database: &Database) -> Result<Head, DbErr> {
    let select = "SELECT epoch, position, floor, oldest FROM log_head WHERE id = 1";
    let row = database.query_one(database.statement(select, [])).await?;
    head_of(&row.ok_or_else(|| DbErr::RecordNotFound("log_head".into()))?)
}

pub(crate) fn head_of(row: &QueryResult) -> Result<Head, DbErr> {
    let number = |column| row.try_get::<Position>("", column);
    Ok(Head {
        epoch: epoch_of(row)?,
        position: number("position")?,
        floor: number("floor")?,
        oldest: number("oldest")?,
    })
}
