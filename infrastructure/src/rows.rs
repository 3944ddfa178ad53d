//! Rows of the outbox and the events that they hold, both ways.

use std::{collections::HashMap, fmt, sync::Arc};

use bytes::Bytes;
use chat_domain::{
    Position,
    command::ReceiptKind,
    content::{Content, ContentType},
    event::{Event, MESSAGE_SENT, RECEIPT_READ, RECEIPT_RECEIVED, Recorded, UpTo},
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
    ports::{PageLimit, StoreError},
};
use sea_orm::{
    DbErr, QueryResult,
    sqlx::{Arguments, mysql::MySqlArguments},
};

use crate::{database::Database, flavor::Flavor, sql};

/// The columns of the outbox, in the order in which [`values`] gives them.
const COLUMNS: &str = "position, type, conversation_id, actor_id, via, command_key, command_hash, occurred_at, \
     receiver_id, seq, up_to_id, up_to_seq, received_after, content_type, content, fields";

/// Of the fields of an adopted message: when it was received, in seconds.
const RECEIVED_AT: &str = "received_at";

/// The columns that are not null in the row of a message without `via`, in the order of [`message_values`] and
/// [`bind_messages`].
const MESSAGE_COLUMNS: &str = "type, occurred_at, position, conversation_id, actor_id, command_key, command_hash, \
     receiver_id, seq, received_after, content_type, content";

/// Its content and its mark, if the event is a message without `via`.
fn own_message(recorded: &Recorded) -> Option<(&Content, i64)> {
    match &recorded.event {
        Event::MessageSent {
            content: Some(content),
            received_after,
            received_at: None,
        } if recorded.via.is_none() => Some((content, *received_after)),
        _ => None,
    }
}

/// The INSERT of events; `occurred_at` says where their time comes from.
pub(crate) fn insert(flavor: Flavor, recorded: &[Arc<Recorded>], occurred_at: &dyn fmt::Display) -> String {
    let messages: Option<Vec<_>> = recorded.iter().map(|r| Some((r, own_message(r)?))).collect();
    // What most batches are, and half as long to read for the server.
    if let Some(messages) = messages {
        let rows = sql::list(messages.into_iter().map(|(recorded, message)| {
            fmt::from_fn(move |f| message_values(flavor, recorded, message, occurred_at, f))
        }));
        return format!("INSERT INTO outbox ({MESSAGE_COLUMNS}) VALUES {rows}");
    }
    let rows = sql::list(
        recorded
            .iter()
            .map(|recorded| fmt::from_fn(|f| values(flavor, recorded, occurred_at, f))),
    );
    format!("INSERT INTO outbox ({COLUMNS}) VALUES {rows}")
}

fn message_values(
    flavor: Flavor,
    recorded: &Recorded,
    (content, received_after): (&Content, i64),
    occurred_at: &dyn fmt::Display,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    write!(
        f,
        "('{MESSAGE_SENT}',{},{},{},{},{},{},{},{},{},{},{})",
        occurred_at,
        recorded.position,
        recorded.conversation.0,
        sql::user(&recorded.actor_id),
        sql::text(flavor, recorded.key.as_str()),
        sql::hex(&recorded.hash),
        sql::user(&recorded.receiver_id),
        recorded.seq,
        received_after,
        sql::text(flavor, content.content_type.as_str()),
        sql::bytes(flavor, &content.bytes),
    )
}

/// The INSERT of so many messages, each from its sender's own hand, to be prepared: their values are bound by
/// [`bind_messages`], their time stands in the session.
pub(crate) fn insert_messages(flavor: Flavor, messages: usize) -> String {
    let row = format!("('{MESSAGE_SENT}',{},?,?,?,?,?,?,?,?,?,?)", flavor.drawn_time());
    let rows = sql::list(std::iter::repeat_n(row, messages));
    format!("INSERT INTO outbox ({MESSAGE_COLUMNS}) VALUES {rows}")
}

/// So many messages at most, for a statement takes 65,535 values.
pub(crate) const MOST_BOUND: usize = u16::MAX as usize / 10;

/// The values of messages; `None` unless all of them are that, and from their senders' own hands.
pub(crate) fn bind_messages(recorded: &[Arc<Recorded>]) -> Option<MySqlArguments> {
    let mut values = MySqlArguments::default();
    for recorded in recorded {
        let (content, received_after) = own_message(recorded)?;
        let mut bind = || {
            values.add(recorded.position)?;
            values.add(recorded.conversation.0)?;
            values.add(recorded.actor_id.as_str())?;
            values.add(recorded.key.as_str())?;
            values.add(&recorded.hash[..])?;
            values.add(recorded.receiver_id.as_str())?;
            values.add(recorded.seq)?;
            values.add(received_after)?;
            values.add(content.content_type.as_str())?;
            values.add(&content.bytes[..])
        };
        bind().ok()?;
    }
    Some(values)
}

/// Writes the row of any event.
fn values(
    flavor: Flavor,
    recorded: &Recorded,
    occurred_at: &dyn fmt::Display,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let (mut up_to, mut received, mut content_type, mut content, mut fields) = (None, 0, None, None, None);
    match &recorded.event {
        Event::MessageSent {
            content: sent,
            received_after,
            received_at,
        } => {
            received = *received_after;
            fields = received_at.map(|at| serde_json::json!({ RECEIVED_AT: at }).to_string());
            content_type = sent.as_ref().map(|c| c.content_type.as_str());
            content = sent.as_ref().map(|c| &c.bytes);
        }
        Event::ReceiptMoved {
            up_to: to,
            received_after,
            ..
        } => {
            received = *received_after;
            up_to = Some(*to);
        }
        Event::Other { fields: other, .. } => {
            fields = Some(serde_json::Value::from(other.clone()).to_string())
        }
    }
    write!(
        f,
        "({},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{})",
        recorded.position,
        sql::text(flavor, recorded.event.kind()),
        recorded.conversation.0,
        sql::user(&recorded.actor_id),
        sql::optional_text(flavor, recorded.via.as_ref().map(UserId::as_str)),
        sql::text(flavor, recorded.key.as_str()),
        sql::hex(&recorded.hash),
        occurred_at,
        sql::user(&recorded.receiver_id),
        recorded.seq,
        sql::optional_number(up_to.map(|to| to.id)),
        sql::optional_number(up_to.map(|to| to.seq)),
        received,
        sql::optional_text(flavor, content_type),
        content.map_or(sql::Literal::Null, |content| sql::bytes(flavor, content)),
        sql::optional_text(flavor, fields.as_deref()),
    )
}

/// Content up to this many bytes comes with its row; larger content is fetched when it is known to fit.
const INLINE: usize = 2048;

/// The columns of the outbox for a read, each with the table's alias `o`.
pub(crate) fn selected() -> String {
    format!("{}, {}", selected_without_content(), content_columns("o.content"))
}

pub(crate) fn selected_without_content() -> &'static str {
    "o.position, o.type, o.conversation_id, o.actor_id, o.via, o.command_key, o.command_hash, o.occurred_at, \
     o.receiver_id, o.seq, o.up_to_id, o.up_to_seq, o.received_after, o.content_type, o.fields"
}

/// The two columns that [`Body`] is read from.
pub(crate) fn content_columns(column: &str) -> String {
    format!(
        "CASE WHEN LENGTH({column}) <= {INLINE} THEN {column} END AS content, LENGTH({column}) AS content_length"
    )
}

/// Content as a row has it.
pub(crate) enum Body {
    None,
    Here(Bytes),
    /// So many bytes, not fetched yet.
    Left(usize),
}

impl Body {
    pub(crate) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let length: Option<i64> = row.try_get("", "content_length")?;
        let here: Option<Vec<u8>> = row.try_get("", "content")?;
        Ok(match (here, length) {
            (Some(bytes), _) => Self::Here(bytes.into()),
            (None, Some(length)) => Self::Left(usize::try_from(length).unwrap_or(usize::MAX)),
            (None, None) => Self::None,
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Here(bytes) => bytes.len(),
            Self::Left(length) => *length,
        }
    }
}

/// Bounds rows by the bytes that they will hold, and fetches the large contents of those that fit.
///
/// Returns how many of the rows fit, and the fetched contents by position. `table` and `key` name where they are.
pub(crate) async fn fetch_bodies(
    database: &Database,
    (table, key, column): (&str, &str, &str),
    rows: &[(Position, Body)],
    limit: PageLimit,
) -> Result<(usize, HashMap<Position, Bytes>), DbErr> {
    let mut bytes = 0;
    let mut fitting = 0;
    for (_, body) in rows {
        bytes += body.len() + size_of::<Recorded>() + 128;
        if fitting == limit.events || (fitting > 0 && bytes > limit.bytes) {
            break;
        }
        fitting += 1;
    }
    let left: Vec<_> = rows[..fitting]
        .iter()
        .filter(|(_, body)| matches!(body, Body::Left(_)))
        .collect();
    let mut bodies = HashMap::new();
    if !left.is_empty() {
        let (positions, values) = sql::padded(left.iter().map(|(position, _)| *position));
        let select = format!(
            "SELECT {key} AS position, {column} AS content FROM {table} WHERE {key} IN ({positions})"
        );
        for row in database.query_all(database.statement(select, values)).await? {
            let content: Option<Vec<u8>> = row.try_get("", "content")?;
            bodies.extend(
                content
                    .map(|content| Ok::<_, DbErr>((row.try_get("", "position")?, content.into())))
                    .transpose()?,
            );
        }
    }
    Ok((fitting, bodies))
}

/// Reads the events of rows that were selected with [`selected`], as many as fit.
pub(crate) async fn events(
    database: &Database,
    rows: &[QueryResult],
    limit: PageLimit,
) -> Result<Vec<Arc<Recorded>>, StoreError> {
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        places.push((
            row.try_get("", "position").map_err(unavailable)?,
            Body::read(row).map_err(unavailable)?,
        ));
    }
    let fetched = fetch_bodies(database, ("outbox", "position", "content"), &places, limit).await;
    let (fitting, mut bodies) = fetched.map_err(unavailable)?;
    let mut events = Vec::with_capacity(fitting);
    for (row, (position, body)) in rows.iter().zip(places).take(fitting) {
        let bytes = match body {
            Body::None => None,
            Body::Here(bytes) => Some(bytes),
            Body::Left(_) => bodies.remove(&position),
        };
        events.push(Arc::new(event(row, position, bytes)?));
    }
    Ok(events)
}

/// Reads the event of a row, with its content.
pub(crate) fn event(
    row: &QueryResult,
    position: Position,
    bytes: Option<Bytes>,
) -> Result<Recorded, StoreError> {
    read_event(row, position, bytes).map_err(|what| StoreError::Unreadable { position, what })
}

fn read_event(row: &QueryResult, position: Position, bytes: Option<Bytes>) -> Result<Recorded, String> {
    let text = |column: &str| row.try_get::<String>("", column).map_err(|e| e.to_string());
    let number = |column: &str| row.try_get::<i64>("", column).map_err(|e| e.to_string());
    let optional_text = |column: &str| {
        row.try_get::<Option<String>>("", column)
            .map_err(|e| e.to_string())
    };
    let optional_number = |column: &str| row.try_get::<Option<i64>>("", column).map_err(|e| e.to_string());
    let user = |text: String| UserId::parse(&text).map_err(|e| e.to_string());

    let actor_id = user(text("actor_id")?)?;
    let receiver_id = user(text("receiver_id")?)?;
    let hash: Vec<u8> = row.try_get("", "command_hash").map_err(|e| e.to_string())?;
    let kind = text("type")?;
    let receipt = |kind| -> Result<Event, String> {
        let up_to = optional_number("up_to_id")?.zip(optional_number("up_to_seq")?);
        let (id, seq) = up_to.ok_or("a receipt without its message")?;
        Ok(Event::ReceiptMoved {
            kind,
            up_to: UpTo { id, seq },
            received_after: number("received_after")?,
        })
    };
    let fields = || -> Result<serde_json::Map<String, serde_json::Value>, String> {
        let fields = optional_text("fields")?.map(|fields| serde_json::from_str(&fields));
        Ok(fields.transpose().map_err(|e| e.to_string())?.unwrap_or_default())
    };
    let event = match kind.as_str() {
        MESSAGE_SENT => {
            let content_type = optional_text("content_type")?.map(|t| ContentType::parse(&t));
            let content_type = content_type.transpose().map_err(|e| e.to_string())?;
            let content = content_type
                .zip(bytes)
                .map(|(content_type, bytes)| Content { content_type, bytes });
            Event::MessageSent {
                content,
                received_after: number("received_after")?,
                received_at: fields()?.get(RECEIVED_AT).and_then(serde_json::Value::as_i64),
            }
        }
        RECEIPT_RECEIVED => receipt(ReceiptKind::Received)?,
        RECEIPT_READ => receipt(ReceiptKind::Read)?,
        _ => Event::Other {
            kind,
            fields: fields()?,
        },
    };
    Ok(Recorded {
        position,
        occurred_at: number("occurred_at")?,
        conversation: ConversationNumber(number("conversation_id")?),
        conversation_id: ConversationId::direct(&actor_id, &receiver_id),
        actor_id,
        receiver_id,
        via: optional_text("via")?.map(user).transpose()?,
        key: CommandKey::stored(&text("command_key")?).map_err(|e| e.to_string())?,
        hash: hash
            .try_into()
            .map_err(|_| "a command hash that is not 32 bytes")?,
        seq: number("seq")?,
        event,
    })
}

pub(crate) fn unavailable(error: DbErr) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
