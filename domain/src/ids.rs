//! Identifiers, parsed at the edge so that inside they cannot be wrong.
//!
//! Every identifier here is plain ASCII without quotes, commas inside a user id, backslashes or spaces: the grammar
//! is what lets a conversation's wire name be built by joining two ids with a comma.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::rejection::Invalid;

/// Somebody who sends and receives: 1 to 32 of `A-Z a-z 0-9 . _ @ + : -`. Users belong to somebody else's service, so
/// any well-formed id is a user.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    pub const MAX_LEN: usize = 32;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._@+:-".contains(&b);
        if fits && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::UserId)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The wire name of a conversation: of two people, their ids sorted bytewise with a comma between.
/// Names that start with `~` are rooms, which nothing makes yet.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationId(Arc<str>);

impl ConversationId {
    pub fn direct(one: &UserId, other: &UserId) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        Self(format!("{first},{second}").into())
    }

    /// The two members of a direct conversation; of a conversation with oneself, twice the same.
    /// `None` for a room.
    pub fn direct_members(&self) -> Option<(UserId, UserId)> {
        let (first, second) = self.0.split_once(',')?;
        Some((UserId(first.into()), UserId(second.into())))
    }

    /// The other member of a direct conversation, as `user` sees it.
    pub fn peer_of(&self, user: &UserId) -> Option<UserId> {
        let (first, second) = self.direct_members()?;
        Some(if first == *user { second } else { first })
    }

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (first, second) = text.split_once(',').ok_or(Invalid::ConversationId)?;
        let id = Self::direct(
            &UserId::parse(first).map_err(|_| Invalid::ConversationId)?,
            &UserId::parse(second).map_err(|_| Invalid::ConversationId)?,
        );
        if *id.0 == *text {
            Ok(id)
        } else {
            Err(Invalid::ConversationId)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A conversation inside the database: the position of the event that began it, so that a rebuild of the
/// projections finds the same number again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationNumber(pub i64);

/// What makes a command repeatable: unique with the actor, and kept as long as the log row.
///
/// A client's key is 1 to 64 visible ASCII characters. A command that came without one gets a key from the server,
/// which begins with a space: no client can write such a key, and it is never shown.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandKey(Arc<str>);

impl CommandKey {
    pub const MAX_LEN: usize = 64;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        if fits && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::Key)
        }
    }

    /// The key of a command that came without one. The caller draws the number: this crate has no randomness.
    pub fn of_server(random: u128) -> Self {
        Self(format!(" {random:032x}").into())
    }

    /// A key as a log row holds it.
    pub fn stored(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix(' ') {
            Some(rest) => Self::parse(rest).map(|_| Self(text.into())),
            None => Self::parse(text),
        }
    }

    pub fn is_of_server(&self) -> bool {
        self.0.starts_with(' ')
    }

    /// The key as its client knows it, or nothing where the server made it.
    pub fn of_client(&self) -> Option<&str> {
        (!self.is_of_server()).then_some(&*self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text_id {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}
text_id!(UserId, ConversationId, CommandKey);

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    #[test]
    fn user_ids_are_1_to_32_characters_of_the_grammar() {
        for good in ["a", "Alice", "a.b_c@d+e:f-9", &"x".repeat(32)] {
            assert_eq!(user(good).as_str(), good);
        }
        for bad in [
            "",
            " ",
            "a b",
            "a,b",
            "~room",
            "ä",
            "a'b",
            "a\\b",
            "a\n",
            "a\0",
            "a/b",
            &"x".repeat(33),
        ] {
            assert_eq!(UserId::parse(bad), Err(Invalid::UserId), "{bad:?}");
        }
    }

    #[test]
    fn a_conversation_is_named_by_its_members_sorted_bytewise() {
        for (one, other, name) in [
            ("bob", "alice", "alice,bob"),
            ("a", "B", "B,a"),
            ("me", "me", "me,me"),
        ] {
            let id = ConversationId::direct(&user(one), &user(other));
            assert_eq!(id.as_str(), name);
            assert_eq!(id.peer_of(&user(one)), Some(user(other)));
            assert_eq!(ConversationId::parse(name), Ok(id));
        }
        for bad in ["alice", "bob,alice", "a,b,c", ",", "a,", "~room"] {
            assert_eq!(
                ConversationId::parse(bad),
                Err(Invalid::ConversationId),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_key_of_the_server_is_none_that_a_client_can_write() {
        let key = CommandKey::of_server(7);
        assert!(key.is_of_server() && key.of_client().is_none());
        assert_eq!(CommandKey::parse(key.as_str()), Err(Invalid::Key));
        assert_eq!(CommandKey::stored(key.as_str()), Ok(key));
        assert_eq!(CommandKey::parse("c1-88").unwrap().of_client(), Some("c1-88"));
        for bad in ["", "a b", "ä", "a\n", &"k".repeat(65)] {
            assert_eq!(CommandKey::parse(bad), Err(Invalid::Key), "{bad:?}");
        }
    }
}
