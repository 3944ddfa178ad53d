//! Why a command, or a piece of input, is refused. Each has a stable code.

/// Input that does not follow the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("a user id is 1 to 32 of A-Z a-z 0-9 . _ @ + : -")]
    UserId,
    #[error("a conversation id is the two user ids, sorted, with a comma between")]
    ConversationId,
    #[error("a key is 1 to 64 visible ASCII characters")]
    Key,
    #[error("a content type is type/subtype, at most 127 ASCII characters")]
    ContentType,
    #[error("a cursor is one that this server gave out, or 0")]
    Cursor,
}

impl Invalid {
    pub fn code(self) -> &'static str {
        match self {
            Self::UserId => "user_id_invalid",
            Self::ConversationId => "conversation_id_invalid",
            Self::Key => "key_invalid",
            Self::ContentType => "content_type_invalid",
            Self::Cursor => "cursor_invalid",
        }
    }
}

/// A decision against a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the content is empty")]
    ContentEmpty,
    #[error("the content has {size} bytes, the limit is {limit}")]
    ContentTooLarge { size: usize, limit: usize },
    #[error("there is no such message, or you may not see it")]
    MessageNotFound,
    #[error("the key was used with another command before")]
    KeyReused,
    #[error("you have begun too many conversations within an hour")]
    TooManyConversations,
    /// The database refused what this command, and no other of its batch, would have written.
    #[error("the database refused the command")]
    CommandRefused,
}

impl Rejection {
    pub fn code(self) -> &'static str {
        match self {
            Self::ContentEmpty => "content_empty",
            Self::ContentTooLarge { .. } => "content_too_large",
            Self::MessageNotFound => "message_not_found",
            Self::KeyReused => "key_reused",
            Self::TooManyConversations => "too_many_conversations",
            Self::CommandRefused => "command_refused",
        }
    }
}
