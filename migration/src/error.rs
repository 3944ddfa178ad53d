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
        "the table `messages` has no column `conversation_id`: it is an existing table of an earlier chat, which this \
         version cannot adopt yet; nothing was changed, name an empty database"
    )]
    SeedTable,

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
