//! The rules: given events, when a command comes, then events or a rejection.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use chat_domain::{
    Position,
    batch::{Batch, Marked, Outcome, decide_batch},
    command::{Action, Command, ReceiptKind},
    content::Content,
    event::{Event, Recorded, UpTo},
    evolve::evolve,
    facts::{Facts, Needs},
    ids::{CommandKey, ConversationId, ConversationNumber, UserId},
    rejection::Rejection,
};

fn user(id: &str) -> UserId {
    UserId::parse(id).unwrap()
}

/// A log in a test: commands go in, facts are kept.
#[derive(Default)]
struct Log {
    facts: Facts,
    head: Position,
    commands: u128,
}

impl Log {
    fn run(&mut self, commands: Vec<Command>) -> Batch {
        let batch = decide_batch(
            &mut self.facts,
            &commands,
            self.head,
            1_790_000_000_000_000 + self.head,
        );
        self.head += batch.recorded.len() as Position;
        batch
    }

    fn execute(&mut self, command: Command) -> Result<Outcome, Rejection> {
        self.run(vec![command]).outcomes.remove(0)
    }

    fn command(&mut self, actor: &str, action: Action) -> Command {
        self.commands += 1;
        Command {
            actor_id: user(actor),
            via: None,
            key: CommandKey::of_server(self.commands),
            may_begin: true,
            action,
        }
    }

    fn send(&mut self, from: &str, to: &str, text: &str) -> Command {
        let action = Action::SendMessage {
            receiver_id: user(to),
            content: Content::text(text),
        };
        self.command(from, action)
    }

    fn sent(&mut self, from: &str, to: &str) -> Position {
        let command = self.send(from, to, "hi");
        match self.execute(command) {
            Ok(Outcome::Sent(recorded)) => recorded.position,
            other => panic!("a send came to {other:?}"),
        }
    }

    fn receipt(&mut self, actor: &str, kind: ReceiptKind, up_to: Position) -> Result<(i64, i64), Rejection> {
        let command = self.command(actor, Action::SendReceipt { kind, up_to });
        match self.execute(command)? {
            Outcome::Marked(Marked {
                received_seq,
                read_seq,
                ..
            }) => Ok((received_seq, read_seq)),
            other => panic!("a receipt came to {other:?}"),
        }
    }

    fn marks(&self, conversation: &str, of: &str) -> (i64, i64) {
        let key = (ConversationId::parse(conversation).unwrap(), user(of));
        let participant = &self.facts.participants[&key];
        (participant.received_seq, participant.read_seq)
    }
}

#[test]
fn seq_counts_each_conversation_from_1_without_a_hole() {
    let mut log = Log::default();
    let commands = vec![
        log.send("alice", "bob", "1"),
        log.send("alice", "carol", "1"),
        log.send("bob", "alice", "2"),
        log.send("alice", "bob", "3"),
    ];
    let batch = log.run(commands);
    let seen: Vec<_> = batch
        .recorded
        .iter()
        .map(|r| (r.position, r.conversation_id.as_str(), r.seq))
        .collect();
    assert_eq!(
        seen,
        [
            (1, "alice,bob", 1),
            (2, "alice,carol", 1),
            (3, "alice,bob", 2),
            (4, "alice,bob", 3)
        ]
    );
    // The number of a conversation is the position of the event that began it.
    let numbers: Vec<_> = batch.recorded.iter().map(|r| r.conversation.0).collect();
    assert_eq!(numbers, [1, 2, 1, 1]);
}

#[test]
fn the_same_key_gives_the_first_result_and_records_nothing() {
    let mut log = Log::default();
    let command = log.send("alice", "bob", "hi");
    let batch = log.run(vec![command.clone(), command.clone()]);
    assert_eq!(batch.recorded.len(), 1);
    assert_eq!(batch.outcomes[1], Ok(Outcome::SentBefore(1)));
    log.sent("bob", "alice");
    assert_eq!(log.execute(command), Ok(Outcome::SentBefore(1)));
    assert_eq!(log.head, 2);
}

#[test]
fn the_same_key_with_another_body_is_refused_and_keys_belong_to_their_actor() {
    let mut log = Log::default();
    let first = log.send("alice", "bob", "hi");
    let other = Command {
        action: log.send("alice", "bob", "ho").action,
        ..first.clone()
    };
    let of_bob = Command {
        actor_id: user("bob"),
        ..first.clone()
    };
    let batch = log.run(vec![first, other, of_bob]);
    assert_eq!(batch.outcomes[1], Err(Rejection::KeyReused));
    assert!(matches!(batch.outcomes[2], Ok(Outcome::Sent(_))));
}

#[test]
fn a_send_moves_the_marks_of_its_sender_and_of_nobody_else() {
    let mut log = Log::default();
    log.sent("alice", "bob");
    log.sent("alice", "bob");
    assert_eq!(
        (log.marks("alice,bob", "alice"), log.marks("alice,bob", "bob")),
        ((2, 2), (0, 0))
    );
    let command = log.send("bob", "alice", "hi");
    let batch = log.run(vec![command]);
    assert_eq!(log.marks("alice,bob", "bob"), (3, 3));
    // With its message, bob has received the two before it.
    assert_eq!(batch.recorded[0].received_range(), Some((0, 2)));
    let command = log.send("bob", "alice", "hi");
    assert_eq!(log.run(vec![command]).recorded[0].received_range(), None);
}

#[test]
fn receipts_are_cumulative_and_never_go_back() {
    let mut log = Log::default();
    let ids: Vec<_> = (0..3).map(|_| log.sent("alice", "bob")).collect();
    assert_eq!(log.receipt("bob", ReceiptKind::Received, ids[1]), Ok((2, 0)));
    let head = log.head;
    assert_eq!(log.receipt("bob", ReceiptKind::Received, ids[0]), Ok((2, 0)));
    assert_eq!(log.receipt("bob", ReceiptKind::Received, ids[1]), Ok((2, 0)));
    assert_eq!(log.head, head, "a receipt that changes nothing is no event");
    // Read implies received.
    assert_eq!(log.receipt("bob", ReceiptKind::Read, ids[2]), Ok((3, 3)));
    assert_eq!(log.receipt("bob", ReceiptKind::Received, ids[2]), Ok((3, 3)));
}

#[test]
fn a_receipt_says_which_messages_are_received_with_it() {
    let mut log = Log::default();
    let ids: Vec<_> = (0..3).map(|_| log.sent("alice", "bob")).collect();
    let command = log.command(
        "bob",
        Action::SendReceipt {
            kind: ReceiptKind::Received,
            up_to: ids[0],
        },
    );
    let first = log.run(vec![command]).recorded.remove(0);
    assert_eq!((first.received_range(), first.seq), (Some((0, 1)), 3));
    let command = log.command(
        "bob",
        Action::SendReceipt {
            kind: ReceiptKind::Read,
            up_to: ids[2],
        },
    );
    let second = log.run(vec![command]).recorded.remove(0);
    assert_eq!(second.received_range(), Some((1, 3)));
    let up_to = UpTo { id: ids[2], seq: 3 };
    assert_eq!(
        second.event,
        Event::ReceiptMoved {
            kind: ReceiptKind::Read,
            up_to,
            received_after: 1
        }
    );
}

#[test]
fn a_receipt_for_what_one_may_not_see_is_not_told_from_one_for_nothing() {
    let mut log = Log::default();
    let id = log.sent("alice", "bob");
    for (actor, up_to) in [
        ("carol", id),
        ("Bob", id),
        ("bob", id + 1),
        ("bob", 0),
        ("bob", -1),
    ] {
        assert_eq!(
            log.receipt(actor, ReceiptKind::Read, up_to),
            Err(Rejection::MessageNotFound),
            "{actor} {up_to}"
        );
    }
}

#[test]
fn one_can_write_to_oneself() {
    let mut log = Log::default();
    let command = log.send("alice", "alice", "note");
    let event = log.run(vec![command]).recorded.remove(0);
    assert_eq!(
        (event.conversation_id.as_str(), event.audience().count()),
        ("alice,alice", 1)
    );
    assert_eq!(event.received_range(), Some((0, 1)));
    assert_eq!(log.marks("alice,alice", "alice"), (1, 1));
}

#[test]
fn a_batch_decides_as_its_commands_one_by_one() {
    let script = |log: &mut Log| {
        let first = log.send("alice", "bob", "1");
        let again = first.clone();
        let receipt = log.command(
            "bob",
            Action::SendReceipt {
                kind: ReceiptKind::Read,
                up_to: 1,
            },
        );
        vec![
            first,
            again,
            receipt,
            log.send("bob", "alice", "2"),
            log.send("carol", "bob", "1"),
        ]
    };
    let (mut together, mut alone) = (Log::default(), Log::default());
    let commands = script(&mut together);
    let batch = together.run(commands);
    let one_by_one: Vec<_> = script(&mut alone)
        .into_iter()
        .map(|command| alone.execute(command))
        .collect();
    let shown = |outcomes: &[Result<Outcome, Rejection>]| -> Vec<_> {
        outcomes
            .iter()
            .map(|o| {
                o.as_ref()
                    .map(|o| match o {
                        Outcome::Sent(recorded) => (recorded.position, recorded.seq),
                        Outcome::SentBefore(position) => (*position, 0),
                        Outcome::Marked(marked) => (marked.received_seq, marked.read_seq),
                    })
                    .map_err(|e| *e)
            })
            .collect()
    };
    assert_eq!(shown(&batch.outcomes), shown(&one_by_one));
    assert_eq!(together.facts.conversations, alone.facts.conversations);
    assert_eq!(together.facts.participants, alone.facts.participants);
}

#[test]
fn a_batch_needs_the_facts_that_its_commands_name() {
    let mut log = Log::default();
    let send = log.send("bob", "alice", "hi");
    let receipt = log.command(
        "carol",
        Action::SendReceipt {
            kind: ReceiptKind::Read,
            up_to: 7,
        },
    );
    let needs = Needs::of([&send, &receipt]);
    assert!(
        needs
            .conversations
            .iter()
            .map(|(conversation, actor)| (conversation.as_str(), actor.as_str()))
            .eq([("alice,bob", "bob")])
    );
    assert!(needs.participants.iter().map(UserId::as_str).eq(["bob", "carol"]));
    assert!(needs.messages.iter().eq(&[7]));
}

#[test]
fn a_batch_may_be_decided_before_its_time_is_known() {
    const NOW: i64 = 1_790_000_000_000_000;
    let mut log = Log::default();
    let first = log.send("alice", "bob", "hi");
    let receipt = log.command(
        "bob",
        Action::SendReceipt {
            kind: ReceiptKind::Read,
            up_to: 1,
        },
    );
    let second = log.send("bob", "alice", "hi");
    let commands = [first.clone(), first, receipt, second];
    let known = decide_batch(&mut Facts::default(), &commands, 0, NOW);
    let mut ahead = decide_batch(&mut Facts::default(), &commands, 0, 0);
    assert_ne!(ahead.recorded, known.recorded);
    ahead.happened_at(NOW);
    assert_eq!(ahead.recorded, known.recorded);
    assert_eq!(ahead.outcomes, known.outcomes);
}

/// A message that was there before the log, as an adoption writes it.
fn adopted(from: &str, to: &str, position: Position, seq: i64) -> Recorded {
    Recorded {
        position,
        occurred_at: 1_600_000_000_000_000,
        conversation: ConversationNumber(7),
        conversation_id: ConversationId::direct(&user(from), &user(to)),
        actor_id: user(from),
        receiver_id: user(to),
        via: None,
        key: CommandKey::of_server(position.unsigned_abs().into()),
        hash: [0; 32],
        seq,
        event: Event::MessageSent {
            content: None,
            received_after: seq,
            received_at: None,
        },
    }
}

#[test]
fn who_may_begin_no_conversation_goes_on_with_those_that_are_there() {
    let mut log = Log::default();
    let first = log.send("alice", "bob", "hi");
    log.execute(first.clone()).unwrap();
    let barred = |command: Command| Command {
        may_begin: false,
        ..command
    };
    let (to_bob, to_carol) = (log.send("alice", "bob", "hi"), log.send("alice", "carol", "hi"));
    assert!(matches!(log.execute(barred(to_bob)), Ok(Outcome::Sent(_))));
    assert_eq!(
        log.execute(barred(to_carol.clone())),
        Err(Rejection::TooManyConversations)
    );
    // What was recorded is answered from its record.
    assert_eq!(log.execute(barred(first)), Ok(Outcome::SentBefore(1)));
    // In one batch, too, what another has begun is there.
    let begun = log.run(vec![to_carol.clone(), barred(log_again(&to_carol))]);
    assert!(begun.outcomes.iter().all(Result::is_ok), "{:?}", begun.outcomes);
}

/// The same under another key.
fn log_again(command: &Command) -> Command {
    Command {
        key: CommandKey::of_server(u128::MAX),
        ..command.clone()
    }
}

#[test]
fn messages_from_before_the_log_are_received_and_read_by_both() {
    let mut log = Log::default();
    for (position, seq) in [(7, 1), (12, 2)] {
        let message = adopted("alice", "bob", position, seq);
        assert!(message.is_adopted());
        assert_eq!(message.received_range(), None, "the log does not say when");
        evolve(&mut log.facts, &message);
    }
    log.head = 20;
    assert_eq!(log.marks("alice,bob", "alice"), (2, 2));
    assert_eq!(log.marks("alice,bob", "bob"), (2, 2));

    let command = log.send("bob", "alice", "hi");
    let Ok(Outcome::Sent(next)) = log.execute(command) else {
        panic!("it is sent")
    };
    assert_eq!((next.position, next.seq, next.conversation.0), (21, 3, 7));
    assert!(!next.is_adopted());
    assert_eq!(next.received_range(), None, "all before it was received already");
    assert_eq!(log.marks("alice,bob", "alice"), (2, 2));
}

#[test]
fn no_message_of_the_log_itself_counts_as_adopted() {
    let mut log = Log::default();
    for (from, to) in [
        ("alice", "bob"),
        ("alice", "bob"),
        ("bob", "alice"),
        ("carol", "carol"),
        ("carol", "carol"),
    ] {
        let command = log.send(from, to, "hi");
        let Ok(Outcome::Sent(sent)) = log.execute(command) else {
            panic!("it is sent")
        };
        assert!(!sent.is_adopted(), "{sent:?}");
    }
}
