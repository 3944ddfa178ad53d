//! What somebody asks for, in the imperative.

use sha2::{Digest, Sha256};

use crate::{
    Position,
    content::Content,
    ids::{CommandKey, UserId},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub actor_id: UserId,
    /// The service that acts for the actor, if one does.
    pub via: Option<UserId>,
    /// The client's, or one that the server made: a command is repeatable from the moment that it is queued.
    pub key: CommandKey,
    /// Whether a send may begin a conversation. Its door counts how many the actor begins.
    pub may_begin: bool,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    SendMessage {
        receiver_id: UserId,
        content: Content,
    },
    /// Cumulative: everything up to this message is received or read.
    SendReceipt {
        kind: ReceiptKind,
        up_to: Position,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptKind {
    Received,
    /// Implies received.
    Read,
}

/// Tells whether a key came back with the same command.
pub type CommandHash = [u8; 32];

impl Command {
    /// A hash over what is asked for, each part with its length before it. Who asks is not in it: keys are the actor's.
    ///
    /// Everything is taken apart here, so that a new field of a command does not compile until it is decided whether it is
    /// asked for. If it is, it becomes two parts, its name and its value, and only where it is given: a command without it
    /// keeps its hash.
    pub fn hash(&self) -> CommandHash {
        let Self {
            actor_id: _,
            via: _,
            key: _,
            may_begin: _,
            action,
        } = self;
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match action {
            Action::SendMessage { receiver_id, content } => {
                let Content { content_type, bytes } = content;
                part(b"send");
                part(receiver_id.as_str().as_bytes());
                part(content_type.as_str().as_bytes());
                part(bytes);
            }
            Action::SendReceipt { kind, up_to } => {
                part(match kind {
                    ReceiptKind::Received => b"received",
                    ReceiptKind::Read => b"read",
                });
                part(&up_to.to_be_bytes());
            }
        }
        hash.finalize().into()
    }

    /// What the command weighs in a queue or a batch, in bytes.
    pub fn weight(&self) -> usize {
        256 + match &self.action {
            Action::SendMessage { content, .. } => content.bytes.len(),
            Action::SendReceipt { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::content::ContentType;

    fn send(actor: &str, receiver: &str, content: Content) -> Command {
        Command {
            actor_id: UserId::parse(actor).unwrap(),
            via: None,
            key: CommandKey::of_server(1),
            may_begin: true,
            action: Action::SendMessage {
                receiver_id: UserId::parse(receiver).unwrap(),
                content,
            },
        }
    }

    #[test]
    fn the_hash_tells_what_is_asked_for_and_not_who_asks() {
        let hash = send("alice", "bob", Content::text("hi")).hash();
        assert_eq!(hash, send("carol", "bob", Content::text("hi")).hash());
        assert_ne!(hash, send("alice", "bo", Content::text("hi")).hash());
        assert_ne!(hash, send("alice", "bob", Content::text("hi!")).hash());
    }

    /// Rows keep their hash for ever: a change of this function would make every key that is sent again a conflict. A
    /// command may get fields; one without them keeps the hash that it has here.
    #[test]
    fn the_hash_of_a_command_never_changes() {
        let picture = Content {
            content_type: ContentType::parse("image/png").unwrap(),
            bytes: Bytes::from_static(b"\x00\xff"),
        };
        let receipt = |kind| Command {
            action: Action::SendReceipt { kind, up_to: 4182 },
            ..send("alice", "bob", Content::text("hi"))
        };
        for (command, expected) in [
            (
                send("alice", "bob", Content::text("hi")),
                "d4469d6a3b24426e5d3078a6b754c008f95c671526f22a547a079f5b167ad83c",
            ),
            (
                send("alice", "bob", picture),
                "020cd29a8bc0accecc13196af4fc076ef293ca72d1ce9872f28c8da48489a441",
            ),
            (
                receipt(ReceiptKind::Received),
                "3dbd9471bd9c4636c2d6fd55d1196affe40e0235a0dc07193434b607cc778d24",
            ),
            (
                receipt(ReceiptKind::Read),
                "ff53de62079eceeb435ed907d943d8069ee84e07bc57b6df1117c5bebaf764c5",
            ),
        ] {
            let hex: String = command.hash().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected, "{command:?}");
        }
    }
}
