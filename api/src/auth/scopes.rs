//! What a token allows beyond its own user: for services, by the claim `scope`.

/// The scopes of a token that mean something here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes {
    /// `chat.send_as`: to send as another user, whom the header `Act-As` names. The event keeps who did it (`via`).
    pub send_as: bool,
    /// `chat.read_all`: to follow the events of everybody.
    pub read_all: bool,
}

impl Scopes {
    pub(super) fn parse(text: &str) -> Self {
        let has = |scope| text.split(' ').any(|given| given == scope);
        Self {
            send_as: has("chat.send_as"),
            read_all: has("chat.read_all"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_a_whole_word() {
        let (none, send_as, both) = (
            Scopes::default(),
            Scopes {
                send_as: true,
                read_all: false,
            },
            Scopes {
                send_as: true,
                read_all: true,
            },
        );
        for (text, scopes) in [
            ("", none),
            ("openid chat", none),
            (
                "chat.send_as.all Chat.send_as xchat.send_as chat.send_as,chat.read_all",
                none,
            ),
            ("chat.send_as", send_as),
            ("openid  chat.send_as ", send_as),
            ("chat.read_all openid chat.send_as", both),
        ] {
            assert_eq!(Scopes::parse(text), scopes, "{text:?}");
        }
    }
}
