//! History: the messages of a conversation and the list of conversations, read from the projections.
//!
//! Every page is bounded by the head, read before it as a statement of its own, so that its cursor passes nothing
//! that the page did not show. What a page costs follows its length: a range of `_id` or `sent_at` is turned into a
//! range of `seq`, by the log's index over the conversation's events, and a page is a range of the unique index
//! `(conversation_id, seq)`. At or below the log's floor, where `sent_at` is as another program wrote it and may go
//! back, a range of `sent_at` is looked for row by row among the conversation's messages.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use chat_domain::{
    Position,
    content::{Content, ContentType},
    facts::Participant,
    ids::{ConversationId, UserId},
    ports::{Head, PAGE_BYTES, PageLimit, StoreError, Timeline},
    views::{ConversationPage, ConversationView, Message, MessagePage, MessageRange, Order, ParticipantView},
};
use sea_orm::{DbErr, FromQueryResult, QueryResult, Value};

use crate::{
    database::Database,
    entities::messages,
    flavor::Index,
    outbox::read_head,
    rows::{Body, content_columns, fetch_bodies, unavailable},
    sql,
};

#[derive(Clone)]
pub struct SqlTimeline {
    /// For pages of messages, which need the log too.
    database: Database,
    /// For all that needs less.
    others: Database,
}

/// Messages of a conversation.
struct SeqRange {
    above: i64,
    up_to: i64,
    /// Whether the times of these rows have to be looked at.
    by_time: bool,
}

impl SqlTimeline {
    pub fn new(database: Database) -> Self {
        Self {
            others: database.share(),
            database: database.share(),
        }
    }

    /// The same, for reads that do not need the log.
    fn beside_the_log(&self) -> Self {
        Self {
            database: self.others.clone(),
            others: self.others.clone(),
        }
    }

    async fn all(
        &self,
        sql: String,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        self.database
            .query_all(self.database.statement(sql, values))
            .await
    }

    async fn one(
        &self,
        sql: String,
        values: impl IntoIterator<Item = Value>,
    ) -> Result<Option<QueryResult>, DbErr> {
        self.database
            .query_one(self.database.statement(sql, values))
            .await
    }

    /// The number of a conversation and what the user may see of it: the one way from a user to its messages.
    async fn conversation_of(
        &self,
        user: &UserId,
        (column, value): (&str, Value),
    ) -> Result<Option<(i64, Participant)>, DbErr> {
        let select = format!(
            "SELECT c.id, p.from_position, p.to_position, p.received_seq, p.read_seq FROM conversations c \
             JOIN participants p ON p.conversation_id = c.id WHERE c.{column} = ? AND p.user_id = ?"
        );
        let row = self.one(select, [value, user.as_str().into()]).await?;
        row.map(|row| Ok((row.try_get("", "id")?, participant(&row)?)))
            .transpose()
    }

    /// Turns a range of `_id` and `sent_at` into ranges of `seq`. There are two where it goes over the log's floor.
    async fn seq_ranges(
        &self,
        number: i64,
        participant: &Participant,
        range: &MessageRange,
        head: &Head,
    ) -> Result<Vec<SeqRange>, DbErr> {
        let mut lower = range
            .after
            .unwrap_or(0)
            .max(participant.from_position.saturating_sub(1));
        let mut upper = participant
            .to_position
            .unwrap_or(head.position)
            .min(head.position);
        if let Some(before) = range.before {
            upper = upper.min(before.saturating_sub(1));
        }
        let mut ranges = Vec::new();
        if range.since.is_some() || range.until.is_some() {
            if lower < head.floor {
                let adopted = self.seqs_of(number, (lower, upper.min(head.floor))).await?;
                ranges.extend(adopted.map(|seqs| SeqRange {
                    by_time: true,
                    ..seqs
                }));
                lower = head.floor;
            }
            match self.times_to_ids(range, head.floor, (lower, upper)).await? {
                Some(narrowed) => (lower, upper) = narrowed,
                None => return Ok(ranges),
            }
        }
        ranges.extend(self.seqs_of(number, (lower, upper)).await?);
        Ok(ranges)
    }

    /// Narrows a range of `_id` to one of `sent_at`, above the floor.
    async fn times_to_ids(
        &self,
        range: &MessageRange,
        floor: Position,
        (mut lower, mut upper): (Position, Position),
    ) -> Result<Option<(Position, Position)>, DbErr> {
        let mut first_time = 0;
        if floor > 0 {
            // Spares the index the times of what lies below, most of which are earlier.
            let select = format!(
                "SELECT CAST(sent_at AS {}) AS sent_at FROM messages WHERE _id > ? ORDER BY _id LIMIT 1",
                self.database.flavor.integer()
            );
            match self.one(select, [floor.into()]).await? {
                Some(row) => first_time = row.try_get::<i64>("", "sent_at")?,
                None => return Ok(None),
            }
        }
        let time = self.database.flavor.force_index(Index::MessagesTime);
        let first_sent = |comparison: &str, second: i64| {
            let (comparison, second) = if second < first_time {
                (">=", first_time)
            } else {
                (comparison, second)
            };
            let select = format!(
                "SELECT _id FROM messages {time} WHERE sent_at {comparison} ? AND _id > ? \
                 ORDER BY sent_at, _id LIMIT 1"
            );
            self.one(select, [second.into(), floor.into()])
        };
        // `sent_at` never decreases along `_id`, so a bound of the one is a bound of the other.
        if let Some(since) = range.since {
            match first_sent(">=", since).await? {
                Some(row) => lower = lower.max(row.try_get::<Position>("", "_id")? - 1),
                None => return Ok(None),
            }
        }
        if let Some(until) = range.until
            && let Some(row) = first_sent(">", until).await?
        {
            upper = upper.min(row.try_get::<Position>("", "_id")? - 1);
        }
        Ok(Some((lower, upper)))
    }

    /// The range of `seq` of a conversation in a range of positions.
    async fn seqs_of(
        &self,
        number: i64,
        (lower, upper): (Position, Position),
    ) -> Result<Option<SeqRange>, DbErr> {
        if upper <= lower {
            return Ok(None);
        }
        let seq_at = format!(
            "SELECT seq FROM outbox {} WHERE conversation_id = ? AND position <= ? ORDER BY position DESC LIMIT 1",
            self.database.flavor.force_index(Index::OutboxConversation)
        );
        let select = format!("SELECT ({seq_at}) AS above, ({seq_at}) AS up_to");
        let values = [number.into(), lower.into(), number.into(), upper.into()];
        let Some(row) = self.one(select, values).await? else {
            return Ok(None);
        };
        let above: Option<i64> = row.try_get("", "above")?;
        let up_to: Option<i64> = row.try_get("", "up_to")?;
        Ok(up_to.map(|up_to| SeqRange {
            above: above.unwrap_or(0),
            up_to,
            by_time: false,
        }))
    }

    /// The messages of rows, as many as fit, and whether that is all of them.
    async fn messages_of(&self, rows: &[QueryResult], limit: PageLimit) -> Result<Vec<Message>, DbErr> {
        let mut places = Vec::with_capacity(rows.len());
        for row in rows {
            places.push((row.try_get("", "_id")?, Body::read(row)?));
        }
        let (fitting, mut bodies) =
            fetch_bodies(&self.database, ("messages", "_id", "data"), &places, limit).await?;
        let mut messages = Vec::with_capacity(fitting);
        for (row, (id, body)) in rows.iter().zip(places).take(fitting) {
            let bytes = match body {
                Body::None => None,
                Body::Here(bytes) => Some(bytes),
                Body::Left(_) => bodies.remove(&id),
            };
            messages.push(message(
                messages::Model {
                    id,
                    sender_id: row.try_get("", "sender_id")?,
                    receiver_id: row.try_get("", "reciver_id")?,
                    sent_at: row.try_get("", "sent_at")?,
                    received_at: row.try_get("", "recived_at")?,
                    data: None,
                    content_type: row.try_get("", "content_type")?,
                    conversation_id: row.try_get("", "conversation_id")?,
                    seq: row.try_get("", "seq")?,
                },
                bytes,
            )?);
        }
        Ok(messages)
    }

    async fn read_messages(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        range: &MessageRange,
        head: &Head,
    ) -> Result<(Vec<Message>, bool), DbErr> {
        let nothing = (Vec::new(), false);
        let of_name = ("name", conversation.as_str().into());
        let Some((number, participant)) = self.conversation_of(user, of_name).await? else {
            return Ok(nothing);
        };
        let seqs = self.seq_ranges(number, &participant, range, head).await?;
        if seqs.is_empty() {
            return Ok(nothing);
        }
        let mut values: Vec<Value> = vec![number.into()];
        let mut ranges = Vec::new();
        for seqs in &seqs {
            let mut within = vec!["m.seq > ?", "m.seq <= ?"];
            values.extend([seqs.above.into(), seqs.up_to.into()]);
            if seqs.by_time {
                within.extend(range.since.map(|_| "m.sent_at >= ?"));
                within.extend(range.until.map(|_| "m.sent_at <= ?"));
                values.extend(range.since.into_iter().chain(range.until).map(Value::from));
            }
            ranges.push(format!("({})", within.join(" AND ")));
        }
        let direction = match range.order {
            Order::Ascending => "ASC",
            Order::Descending => "DESC",
        };
        let select = format!(
            "SELECT {} FROM messages m {} WHERE m.conversation_id = ? AND ({}) \
             ORDER BY m.seq {direction} LIMIT ?",
            message_columns(),
            self.database.flavor.force_index(Index::MessagesSeq),
            ranges.join(" OR "),
        );
        values.push((range.limit as i64 + 1).into());
        let rows = self.all(select, values).await?;
        let limit = PageLimit {
            events: range.limit,
            bytes: PAGE_BYTES,
        };
        let messages = self.messages_of(&rows, limit).await?;
        let more = messages.len() < rows.len();
        Ok((messages, more))
    }

    async fn read_message(&self, user: &UserId, id: Position) -> Result<Option<Message>, DbErr> {
        // Who may not see a message is told by the same statement as who asks for one that is not there, so that the time
        // it takes does not tell which it is.
        let select = "SELECT m.* FROM messages m JOIN participants p ON p.conversation_id = m.conversation_id \
             WHERE m._id = ? AND p.user_id = ? AND p.from_position <= m._id \
             AND (p.to_position IS NULL OR m._id <= p.to_position)";
        let values = [id.into(), user.as_str().into()];
        let select = self.database.statement(select, values);
        let Some(row) = self.database.query_one(select).await? else {
            return Ok(None);
        };
        let mut row = messages::Model::from_query_result(&row, "")?;
        let bytes = row.data.take().map(Bytes::from);
        message(row, bytes).map(Some)
    }

    async fn read_conversations(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<(Vec<ConversationView>, Option<Position>), DbErr> {
        let select = format!(
            "SELECT c.id, c.name, c.seq, c.last_message_id, p.read_seq FROM participants p {} conversations c \
             ON c.id = p.conversation_id WHERE p.user_id = ? AND c.last_message_id < ? \
             ORDER BY c.last_message_id DESC LIMIT ?",
            self.database.flavor.ordered_join(),
        );
        let before = before.unwrap_or(Position::MAX);
        let values = [user.as_str().into(), before.into(), (limit as i64 + 1).into()];
        let rows = self.all(select, values).await?;
        let more = rows.len() > limit;
        let rows = &rows[..rows.len().min(limit)];
        if rows.is_empty() {
            return Ok((Vec::new(), None));
        }
        let column = |name: &str| {
            rows.iter()
                .map(|row| row.try_get::<i64>("", name))
                .collect::<Result<Vec<_>, _>>()
        };
        let numbers = column("id")?;
        let last_ids = column("last_message_id")?;
        let mut members = self.members(&numbers).await?;
        let (mut last_messages, oldest) = self.last_messages(&last_ids).await?;
        let fitting = last_ids.iter().take_while(|id| **id >= oldest).count();
        let (more, rows) = (more || fitting < rows.len(), &rows[..fitting]);
        let mut conversations = Vec::with_capacity(rows.len());
        for (row, (number, last_id)) in rows.iter().zip(numbers.into_iter().zip(&last_ids)) {
            let seq: i64 = row.try_get("", "seq")?;
            let read_seq: i64 = row.try_get("", "read_seq")?;
            let name: String = row.try_get("", "name")?;
            conversations.push(ConversationView {
                conversation_id: ConversationId::parse(&name).map_err(|e| DbErr::Custom(e.to_string()))?,
                seq,
                unread: seq - read_seq,
                last_message: last_messages.remove(last_id),
                participants: members.remove(&number).unwrap_or_default(),
            });
        }
        let next_before = last_ids[..fitting].last().copied().filter(|_| more);
        Ok((conversations, next_before))
    }

    /// The participants of conversations, sorted by user id.
    async fn members(&self, numbers: &[i64]) -> Result<HashMap<i64, Vec<ParticipantView>>, DbErr> {
        let (places, values) = sql::padded(numbers.iter().copied());
        let select = format!(
            "SELECT conversation_id, user_id, received_seq, read_seq FROM participants \
             WHERE conversation_id IN ({places}) ORDER BY user_id"
        );
        let mut members = HashMap::<i64, Vec<ParticipantView>>::new();
        for row in self.all(select, values).await? {
            members
                .entry(row.try_get("", "conversation_id")?)
                .or_default()
                .push(ParticipantView {
                    user_id: user_id(&row.try_get::<String>("", "user_id")?)?,
                    received_seq: row.try_get("", "received_seq")?,
                    read_seq: row.try_get("", "read_seq")?,
                });
        }
        Ok(members)
    }

    /// Messages by id, from the newest on as many as fit into a page, and the id of the oldest that does.
    async fn last_messages(&self, ids: &[Position]) -> Result<(HashMap<Position, Message>, Position), DbErr> {
        let (places, values) = sql::padded(ids.iter().copied());
        let select = format!(
            "SELECT {} FROM messages m WHERE m._id IN ({places}) ORDER BY m._id DESC",
            message_columns()
        );
        let rows = self.all(select, values).await?;
        let limit = PageLimit {
            events: ids.len(),
            bytes: PAGE_BYTES,
        };
        let messages = self.messages_of(&rows, limit).await?;
        let oldest = match messages.last() {
            Some(oldest) if messages.len() < rows.len() => oldest.id,
            _ => 0,
        };
        let messages = messages.into_iter().map(|message| (message.id, message));
        Ok((messages.collect(), oldest))
    }
}

fn message_columns() -> String {
    format!(
        "m._id, m.sender_id, m.reciver_id, m.sent_at, m.recived_at, m.content_type, m.conversation_id, m.seq, {}",
        content_columns("m.data")
    )
}

fn participant(row: &QueryResult) -> Result<Participant, DbErr> {
    Ok(Participant {
        from_position: row.try_get("", "from_position")?,
        to_position: row.try_get("", "to_position")?,
        received_seq: row.try_get("", "received_seq")?,
        read_seq: row.try_get("", "read_seq")?,
    })
}

fn message(row: messages::Model, bytes: Option<Bytes>) -> Result<Message, DbErr> {
    let sender_id = user_id(&row.sender_id)?;
    let receiver_id = user_id(&row.receiver_id)?;
    let content_type = ContentType::parse(&row.content_type).map_err(|e| DbErr::Custom(e.to_string()))?;
    Ok(Message {
        id: row.id,
        conversation_id: ConversationId::direct(&sender_id, &receiver_id),
        seq: row.seq,
        sender_id,
        receiver_id,
        sent_at: row.sent_at.into(),
        received_at: row.received_at.map(i64::from),
        content: bytes.map(|bytes| Content { content_type, bytes }),
    })
}

fn user_id(text: &str) -> Result<UserId, DbErr> {
    UserId::parse(text).map_err(|e| DbErr::Custom(e.to_string()))
}

#[async_trait]
impl Timeline for SqlTimeline {
    async fn messages(
        &self,
        user: &UserId,
        conversation: &ConversationId,
        range: MessageRange,
    ) -> Result<MessagePage, StoreError> {
        let head = read_head(&self.database).await.map_err(unavailable)?;
        let page = self.read_messages(user, conversation, &range, &head).await;
        let (messages, more) = page.map_err(unavailable)?;
        Ok(MessagePage {
            messages,
            more,
            cursor: head.cursor(),
        })
    }

    async fn message(&self, user: &UserId, id: Position) -> Result<Option<Message>, StoreError> {
        let timeline = self.beside_the_log();
        timeline.read_message(user, id).await.map_err(unavailable)
    }

    async fn conversations(
        &self,
        user: &UserId,
        before: Option<Position>,
        limit: usize,
    ) -> Result<ConversationPage, StoreError> {
        let timeline = self.beside_the_log();
        let head = read_head(&timeline.database).await.map_err(unavailable)?;
        let page = timeline.read_conversations(user, before, limit).await;
        let (conversations, next_before) = page.map_err(unavailable)?;
        Ok(ConversationPage {
            conversations,
            next_before,
            cursor: head.cursor(),
        })
    }
}
