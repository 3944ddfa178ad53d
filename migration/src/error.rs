//! What can go wrong, each as one line that says what to do. A failure of the database keeps its cause as the source.

use sea_orm_migration::DbErr;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the database was migrated by a newer version of this program, which added {0}: start that version"
    )]
    NewerSchema(String),

    #[error(
        "the table `messages` has no column `conversation_id`: it is an existing table of an earlier chat; nothing was \
         changed, on MySQL and MariaDB `chat-system migrate check` says what adopting it means and \
         `chat-system migrate up` adopts it, else name an empty database"
    )]
    SeedTable,

    #[error("the table `messages` cannot be adopted as it is; nothing was changed: {0}")]
    NotAdoptable(String),

    #[error(
        "somebody else is connected to this database, and may write to the table that is to be adopted; nothing was \
         changed, stop the old clients first: {0}"
    )]
    OthersConnected(String),

    #[error(
        "rows came into the table `messages` while it was looked at; nothing was changed, stop the old clients first"
    )]
    RowsCame,

    #[error(
        "a transaction of somebody else uses the table `messages`; nothing was changed, stop the old clients first"
    )]
    TableInUse,

    #[error(
        "the table `{table}` is in the way of an adoption; nothing was changed, drop it or name a database of its own"
    )]
    InTheWay { table: &'static str },

    #[error("there is no legacy table whose ids could get other names (--map-ids)")]
    NobodyToName,

    #[error(
        "the table was adopted, or is being adopted, with other new names than these (--map-ids); nothing was changed, \
         leave them out or give the same, or begin anew with `chat-system migrate down`"
    )]
    OtherNames,

    #[error(
        "there are {found} rows where {expected} were counted: somebody has changed a table while rows went over; \
         `migrate down` takes the adoption back"
    )]
    SeedChanged { found: i64, expected: i64 },

    #[error(
        "a legacy table is adopted half-way ({0}): run `chat-system migrate up`, which goes on, or \
         `chat-system migrate down`, which gives it back"
    )]
    AdoptionUnfinished(String),

    #[error("a `migrate down` was interrupted: run it again")]
    DownInterrupted,

    #[error(
        "the log holds {events} events since the table was adopted, whose keys, content types and read marks the original system's \
         table has no columns for; nothing was changed, --discard-log gives the table back without them, with all \
         messages"
    )]
    LosesLog { events: i64 },

    #[error(
        "the message {id} does not fit into the legacy table, whose _id is INT UNSIGNED; nothing was changed, \
         --discard-messages destroys the log and its messages for good"
    )]
    IdTooLarge { id: i64 },

    #[error(
        "the table `messages` does not have all messages of the log, as after an interrupted `rebuild`; nothing was \
         changed, run `chat-system rebuild` first"
    )]
    MessagesIncomplete,

    #[error(
        "the log holds receipts that are not in the table `messages` yet; nothing was changed, stop every node and try \
         again"
    )]
    ReceivedBehind,

    #[error(
        "the table `{table}` has no column `{column}`: it belongs to another program; nothing was changed, name a \
         database of its own"
    )]
    ForeignTable {
        table: &'static str,
        column: &'static str,
    },

    #[error(
        "the log holds messages up to position {last_position}, which would be lost; nothing was changed, \
         --discard-messages destroys them for good"
    )]
    HoldsMessages { last_position: i64 },

    #[error(
        "the log holds messages but its row in `log_head` is gone, as after an interrupted \
         `migrate down --discard-messages`: run that again, or restore the database"
    )]
    HeadMissing,

    #[error(
        "another process has been migrating this database for {seconds} seconds: wait for it, or stop it"
    )]
    TurnTimeout { seconds: u64 },

    #[error("the database server gave up on GET_LOCK, by which migrations take turns: try again")]
    TurnRefused,

    #[error("the database URL names no database")]
    NoDatabase,

    #[error("only MySQL, MariaDB and SQLite are supported, not {0}")]
    Unsupported(&'static str),

    #[error("failed to {operation}")]
    Database { operation: &'static str, source: DbErr },
}

/// Says of a failure of the database during which step it happened.
pub(crate) trait During<T> {
    fn during(self, operation: &'static str) -> Result<T>;
}

impl<T> During<T> for Result<T, DbErr> {
    fn during(self, operation: &'static str) -> Result<T> {
        self.map_err(|source| Error::Database { operation, source })
    }
}
