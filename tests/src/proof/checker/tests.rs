//! Handmade histories: one that holds, and for each rule the smallest change that breaks it.

use serde_json::json;

use super::*;
use crate::proof::history::Sending;

/// Alice sends twice to bob, who reads both and says so; a service sees everything; one send is refused, one unknown.
struct Made {
    history: Vec<What>,
    log: Log,
}

fn row(position: Position, key: &str, seq: i64, content: &str) -> Row {
    Row {
        position,
        kind: "message.sent".into(),
        conversation: "alice,bob".into(),
        actor: "alice".into(),
        receiver: "bob".into(),
        key: key.into(),
        occurred_at: 1_000_000 * position,
        seq,
        up_to: None,
        content: content.into(),
    }
}

fn receipt_row(position: Position) -> Row {
    Row {
        kind: "receipt.read".into(),
        actor: "bob".into(),
        receiver: "alice".into(),
        key: format!("r-{position}"),
        up_to: Some((2, 2)),
        content: Vec::new(),
        ..row(position, "", 0, "")
    }
}

fn message(row: &Row) -> Value {
    json!({
        "_id": row.position, "conversation_id": row.conversation, "seq": row.seq, "sender_id": row.actor,
        "receiver_id": row.receiver, "sent_at": row.occurred_at / 1_000_000, "received_at": null,
        "content_type": "text/plain", "text": String::from_utf8(row.content.clone()).unwrap(),
    })
}

fn event(epoch: &str, prev: Position, row: &Row) -> Value {
    let mut event = json!({
        "cursor": format!("{epoch}:{}", row.position), "prev": format!("{epoch}:{prev}"), "position": row.position,
        "type": row.kind, "conversation_id": row.conversation, "actor_id": row.actor,
        "occurred_at": row.occurred_at.to_string(), "key": row.key,
    });
    match row.up_to {
        Some((id, seq)) => event["up_to"] = json!({"_id": id, "seq": seq}),
        None => event["message"] = message(row),
    }
    event
}

fn begin(operation: u64, user: &str, action: Action) -> What {
    What::Begin {
        operation,
        user: user.into(),
        node: 0,
        door: Sending::Rest,
        action,
    }
}

fn send(operation: u64, key: &str, content: &str) -> What {
    let action = Action::Send {
        key: key.into(),
        receiver: "bob".into(),
        content: content.into(),
    };
    begin(operation, "alice", action)
}

fn end(operation: u64, answer: Answer) -> What {
    What::End { operation, answer }
}

fn accepted(operation: u64, row: &Row) -> What {
    end(operation, Answer::Ok { result: message(row) })
}

fn connect(reader: u32, user: &str, door: Reading, after: Option<&str>) -> What {
    What::Connect {
        reader,
        user: user.into(),
        door,
        everything: user == "archive",
        node: 0,
        after: after.map(str::to_owned),
    }
}

fn ready(reader: u32, cursor: &str) -> What {
    What::Ready {
        reader,
        cursor: cursor.into(),
    }
}

fn delivery(reader: u32, event: Value) -> What {
    What::Delivery { reader, event }
}

fn marks(operation: u64, seq: i64) -> What {
    let result =
        json!({"conversation_id": "alice,bob", "user_id": "bob", "received_seq": seq, "read_seq": seq});
    end(operation, Answer::Ok { result })
}

fn read_receipt(operation: u64, key: &str) -> What {
    let action = Action::Receipt {
        key: key.into(),
        kind: "read".into(),
        up_to: 2,
    };
    begin(operation, "bob", action)
}

impl Made {
    fn new() -> Made {
        let rows = vec![row(1, "a", 1, "one"), row(2, "b", 2, "two"), receipt_row(3)];
        let history = vec![
            connect(1, "bob", Reading::Websocket, Some("0")),
            ready(1, "e:0"),
            connect(2, "archive", Reading::LongPoll, Some("0")),
            ready(2, "e:0"),
            send(0, "a", "one"),
            accepted(0, &rows[0]),
            delivery(1, event("e", 0, &rows[0])),
            delivery(2, event("e", 0, &rows[0])),
            send(1, "b", "two"),
            end(
                1,
                Answer::Unknown {
                    why: "hung up".into(),
                },
            ),
            send(2, "b", "two"),
            accepted(2, &rows[1]),
            send(3, "c", ""),
            end(
                3,
                Answer::Refused {
                    code: "content_empty".into(),
                },
            ),
            send(4, "d", "never answered, never recorded"),
            What::Gone {
                reader: 1,
                why: "left".into(),
            },
            connect(1, "bob", Reading::Websocket, Some("e:1")),
            ready(1, "e:1"),
            delivery(1, event("e", 1, &rows[1])),
            delivery(2, event("e", 1, &rows[1])),
            read_receipt(5, "r-3"),
            marks(5, 2),
            delivery(1, event("e", 2, &rows[2])),
            delivery(2, event("e", 2, &rows[2])),
            What::Head { position: 3 },
            What::Verified {
                code: 0,
                said: String::new(),
            },
        ];
        let log = Log {
            epoch: "e".into(),
            head: 3,
            rows,
            marks: [(("bob".into(), "alice,bob".into()), (2, 2))].into(),
            ..Log::default()
        };
        Made { history, log }
    }

    fn check(self) -> Findings {
        self.check_where_one_waits(usize::MAX, Duration::ZERO)
    }

    /// As if what stands there, and all after it, had come so much later.
    fn check_where_one_waits(self, there: usize, waits: Duration) -> Findings {
        let waits = u64::try_from(waits.as_micros()).unwrap();
        let entries = self.history.into_iter().enumerate();
        let entries = entries.map(|(n, what)| {
            let at = n as u64 + if n >= there { waits } else { 0 };
            Entry { at, what }
        });
        check(entries, &self.log)
    }

    /// The rules that are broken after a change.
    fn after(change: impl FnOnce(&mut Made)) -> Vec<Rule> {
        let mut made = Made::new();
        change(&mut made);
        let mut rules: Vec<_> = made
            .check()
            .violations
            .iter()
            .map(|violation| violation.rule)
            .collect();
        rules.sort();
        rules.dedup();
        rules
    }

    /// Where the first entry is of which this holds.
    fn at(&self, is: impl Fn(&What) -> bool) -> usize {
        self.history.iter().position(is).unwrap()
    }

    /// The delivery of a position to a reader.
    fn delivery(&self, reader: u32, position: Position) -> usize {
        self.at(|what| matches!(what, What::Delivery { reader: r, event } if (*r, &event["position"]) == (reader, &json!(position))))
    }

    fn event(&mut self, reader: u32, position: Position) -> &mut Value {
        let at = self.delivery(reader, position);
        match &mut self.history[at] {
            What::Delivery { event, .. } => event,
            _ => unreachable!("looked for"),
        }
    }

    /// The log lost what was after 2, and went on with one more in a new epoch.
    fn lose_the_end(&mut self, may_lose: bool) {
        let new = Row {
            position: EPOCH_JUMP + 3,
            ..receipt_row(3)
        };
        self.log.rows[2] = new;
        self.log.epochs = vec![("e".into(), 2)];
        self.log.epoch = "f".into();
        self.history.insert(
            0,
            What::FaultBegin {
                fault: 0,
                kind: "fail-over".into(),
                detail: String::new(),
                in_flight: 1,
                may_lose,
                holds_answers_up: false,
            },
        );
        let new = self.log.rows[2].clone();
        let at = self.at(|what| matches!(what, What::Head { .. }));
        let reset = |reader| What::Reset {
            reader,
            cursor: format!("f:{}", EPOCH_JUMP + 2),
            reason: "other_epoch".into(),
        };
        let event = event("f", EPOCH_JUMP + 2, &new);
        self.history.splice(
            at..at,
            [reset(1), delivery(1, event.clone()), reset(2), delivery(2, event)],
        );
    }
}

#[test]
fn a_history_that_holds_is_found_to_hold_and_is_counted() {
    let found = Made::new().check();
    assert_eq!(found.violations, []);
    let sends = Sends {
        accepted: 2,
        refused: 1,
        unknown: 2,
    };
    assert_eq!((found.sends, found.receipts, found.connections), (sends, 1, 3));
    assert_eq!(
        found.deliveries,
        [(Reading::Websocket, 3), (Reading::LongPoll, 3)].into()
    );
}

#[test]
fn an_acknowledged_send_that_is_not_there_or_is_another_is_found() {
    let rules = Made::after(|made| {
        // What was answered last: 5 is nowhere.
        let at = made.at(|what| matches!(what, What::End { operation: 2, .. }));
        made.history[at] = accepted(2, &row(5, "b", 2, "two"));
    });
    assert_eq!(rules, [Rule::Acknowledged]);
    let rules = Made::after(|made| {
        let at = made.at(|what| matches!(what, What::End { operation: 2, .. }));
        made.history[at] = accepted(2, &row(1, "b", 1, "two"));
    });
    assert_eq!(rules, [Rule::Acknowledged]);
}

#[test]
fn a_refused_send_that_is_there_is_found() {
    let rules = Made::after(|made| {
        let at = made.at(|what| matches!(what, What::End { operation: 2, .. }));
        made.history[at] = end(
            2,
            Answer::Refused {
                code: "key_invalid".into(),
            },
        );
        let at = made.at(|what| matches!(what, What::End { operation: 1, .. }));
        made.history[at] = end(
            1,
            Answer::Refused {
                code: "key_invalid".into(),
            },
        );
    });
    assert_eq!(rules, [Rule::Refused]);
}

#[test]
fn an_answer_that_comes_late_is_found_where_nothing_held_it_up() {
    let late = |waits, holds_answers_up| {
        let mut made = Made::new();
        let begin = made.at(|what| matches!(what, What::Begin { operation: 2, .. }));
        let fault = What::FaultBegin {
            fault: 0,
            kind: "a fault".into(),
            detail: String::new(),
            in_flight: 1,
            may_lose: false,
            holds_answers_up,
        };
        made.history.insert(begin + 1, fault);
        let end = made.at(|what| matches!(what, What::End { operation: 2, .. }));
        made.history.insert(end, What::FaultEnd { fault: 0 });
        let found = made.check_where_one_waits(end, waits);
        let rules: Vec<_> = found.violations.iter().map(|violation| violation.rule).collect();
        (rules, found.longest_wait.as_secs())
    };
    let limit = COMMAND_TIMEOUT + ON_THE_WAY;
    let second = Duration::from_secs(1);
    assert_eq!(late(limit - second, false), (vec![], (limit - second).as_secs()));
    assert_eq!(
        late(limit + second, false),
        (vec![Rule::Late], (limit + second).as_secs())
    );
    assert_eq!(late(limit + second, true), (vec![], 0));
}

#[test]
fn a_send_that_is_there_twice_is_found_whatever_its_key() {
    for key in ["b", "d"] {
        let rules = Made::after(|made| {
            let double = Row {
                occurred_at: 9_000_000,
                ..row(4, key, 3, "two")
            };
            made.log.rows.push(double.clone());
            for reader in [1, 2] {
                made.history
                    .insert(made.history.len() - 2, delivery(reader, event("e", 3, &double)));
            }
            if key == "d" {
                let at = made.at(|what| matches!(what, What::Begin { operation: 4, .. }));
                made.history[at] = send(4, "d", "two");
            }
        });
        assert_eq!(rules, [Rule::Once], "{key}");
    }
}

#[test]
fn what_nobody_sent_is_found() {
    let rules = Made::after(|made| {
        made.history.retain(|what| {
            !matches!(
                what,
                What::Begin { operation: 5, .. } | What::End { operation: 5, .. }
            )
        });
    });
    assert_eq!(rules, [Rule::NobodySent]);
    let rules = Made::after(|made| {
        for operation in [1, 2] {
            let at = made.at(|what| matches!(what, What::Begin { operation: o, .. } if *o == operation));
            made.history[at] = send(operation, "b", "something else");
        }
    });
    assert_eq!(rules, [Rule::Acknowledged, Rule::NobodySent]);
}

#[test]
fn a_broken_chain_is_found_and_on_polling_only_where_it_is_not_mended() {
    let rules = Made::after(|made| made.event(1, 2)["prev"] = json!("e:0"));
    assert_eq!(rules, [Rule::Chain]);
    // Who resumes is to begin where it was.
    let rules = Made::after(|made| {
        let at = made.at(|what| *what == ready(1, "e:1"));
        made.history[at] = ready(1, "e:2");
    });
    assert!(rules.contains(&Rule::Chain), "{rules:?}");
    let broken = |reader| What::Broken {
        reader,
        expected: "e:1".into(),
        found: "e:2".into(),
    };
    let rules = Made::after(|made| {
        let at = made.delivery(1, 2);
        made.history.splice(at..at, [broken(1), ready(1, "e:1")]);
    });
    assert_eq!(rules, [Rule::Chain], "a websocket loses nothing");
    let rules = Made::after(|made| {
        for what in &mut made.history {
            if let What::Connect { reader: 1, door, .. } = what {
                *door = Reading::Polling;
            }
        }
        let at = made.delivery(1, 2);
        made.history.splice(at..at, [broken(1), ready(1, "e:1")]);
    });
    assert_eq!(rules, []);
}

#[test]
fn two_deliveries_in_the_wrong_order_and_one_that_comes_twice_are_found() {
    let rules = Made::after(|made| {
        let (one, two) = (made.delivery(2, 1), made.delivery(2, 2));
        made.history.swap(one, two);
        // The chain says nothing of it.
        made.event(2, 2)["prev"] = json!("e:0");
        made.event(2, 1)["prev"] = json!("e:2");
        made.event(2, 3)["prev"] = json!("e:1");
    });
    assert_eq!(rules, [Rule::Order]);
    let rules = Made::after(|made| {
        let at = made.delivery(2, 2);
        let mut again = made.event(2, 2).clone();
        again["prev"] = json!("e:2");
        made.history.insert(at + 1, delivery(2, again));
    });
    assert_eq!(rules, [Rule::Order]);
}

#[test]
fn a_delivery_that_never_came_is_found_although_the_chain_is_whole() {
    let rules = Made::after(|made| {
        let at = made.delivery(1, 2);
        made.history.remove(at);
        made.event(1, 3)["prev"] = json!("e:1");
    });
    assert_eq!(rules, [Rule::Missing]);
    // Passed over by a heartbeat.
    let rules = Made::after(|made| {
        let at = made.delivery(2, 3);
        made.history[at] = What::Passed {
            reader: 2,
            prev: "e:2".into(),
            cursor: "e:3".into(),
        };
    });
    assert_eq!(rules, [Rule::Missing]);
}

#[test]
fn somebody_elses_message_and_one_that_is_not_in_the_log_are_found() {
    let rules = Made::after(|made| {
        for what in &mut made.history {
            if let What::Connect { reader: 1, user, .. } = what {
                *user = "carol".into();
            }
        }
    });
    assert_eq!(rules, [Rule::Foreign]);
    let rules = Made::after(|made| {
        let at = made.delivery(2, 3);
        let ghost = row(4, "z", 3, "nowhere");
        made.history.insert(at + 1, delivery(2, event("e", 3, &ghost)));
    });
    assert_eq!(rules, [Rule::Foreign]);
}

#[test]
fn an_event_that_differs_from_door_to_door_or_from_the_log_is_found() {
    let rules = Made::after(|made| made.event(1, 2)["occurred_at"] = json!("another time"));
    assert_eq!(rules, [Rule::Equal]);
    let rules = Made::after(|made| {
        for reader in [1, 2] {
            made.event(reader, 2)["message"]["text"] = json!("tow");
        }
    });
    assert_eq!(rules, [Rule::Equal]);
}

#[test]
fn holes_in_seq_and_in_the_log_are_found() {
    let rules = Made::after(|made| {
        made.log.rows[1].seq = 3;
        for reader in [1, 2] {
            made.event(reader, 2)["message"]["seq"] = json!(3);
        }
        let at = made.at(|what| matches!(what, What::End { operation: 2, .. }));
        let answered = made.log.rows[1].clone();
        made.history[at] = accepted(2, &answered);
    });
    assert_eq!(rules, [Rule::Seq]);
    let rules = Made::after(|made| {
        made.log.rows[2].position = 4;
        for reader in [1, 2] {
            let event = made.event(reader, 3);
            (event["position"], event["cursor"]) = (json!(4), json!("e:4"));
        }
    });
    assert_eq!(rules, [Rule::Seq]);
}

#[test]
fn marks_that_go_back_are_found_in_the_log_and_in_the_answers() {
    let rules = Made::after(|made| {
        let mut back = receipt_row(4);
        back.up_to = Some((1, 1));
        made.log.rows.push(back.clone());
        for reader in [1, 2] {
            made.history
                .insert(made.history.len() - 2, delivery(reader, event("e", 3, &back)));
        }
        made.history.insert(0, read_receipt(6, "r-4"));
    });
    assert_eq!(rules, [Rule::Receipts]);
    let rules = Made::after(|made| {
        let at = made.at(|what| matches!(what, What::Head { .. }));
        made.history.splice(at..at, [read_receipt(6, "r-6"), marks(6, 1)]);
    });
    assert_eq!(rules, [Rule::Receipts]);
    let rules = Made::after(|made| {
        made.log.marks.clear();
    });
    assert_eq!(rules, [Rule::Receipts], "what was answered stays");
}

#[test]
fn time_that_goes_back_is_found() {
    let rules = Made::after(|made| made.log.rows[2].occurred_at = 1);
    assert_eq!(rules, [Rule::Time]);
}

#[test]
fn a_reset_for_nothing_is_found() {
    let rules = Made::after(|made| {
        let at = made.delivery(2, 3);
        made.history.splice(
            at..=at,
            [What::Reset {
                reader: 2,
                cursor: "e:3".into(),
                reason: "ahead".into(),
            }],
        );
    });
    assert_eq!(rules, [Rule::Reset]);
}

#[test]
fn a_reader_that_stays_behind_is_found_and_one_that_left_is_not() {
    let rules = Made::after(|made| {
        let at = made.delivery(1, 3);
        made.history.remove(at);
    });
    assert_eq!(rules, [Rule::Stuck]);
    let rules = Made::after(|made| {
        let at = made.delivery(1, 3);
        made.history[at] = What::Left { reader: 1 };
    });
    assert_eq!(rules, []);
}

#[test]
fn what_verify_finds_and_a_failure_of_the_server_are_found() {
    let rules = Made::after(|made| {
        let last = made.history.len() - 1;
        made.history[last] = What::Verified {
            code: 1,
            said: "a projection differs".into(),
        };
    });
    assert_eq!(rules, [Rule::Verify]);
    let rules = Made::after(|made| {
        let at = made.at(|what| matches!(what, What::End { operation: 1, .. }));
        made.history[at] = end(
            1,
            Answer::Unknown {
                why: "internal".into(),
            },
        );
    });
    assert_eq!(rules, [Rule::Failure]);
}

#[test]
fn a_log_that_may_lose_its_end_holds_only_where_everybody_is_told() {
    assert_eq!(Made::after(|made| made.lose_the_end(true)), []);
    // A database that crashed may take what it had shown, and nothing that was acknowledged.
    assert_eq!(Made::after(|made| made.lose_the_end(false)), []);
    let rules = Made::after(|made| {
        made.lose_the_end(true);
        let at = made.at(|what| matches!(what, What::Reset { reader: 1, .. }));
        made.history[at] = What::Passed {
            reader: 1,
            prev: "e:3".into(),
            cursor: format!("f:{}", EPOCH_JUMP + 2),
        };
    });
    assert_eq!(rules, [Rule::Reset], "a cursor that went past what was lost");
    let lost = |may_lose| {
        Made::after(|made| {
            made.lose_the_end(may_lose);
            let at = made.at(|what| matches!(what, What::Head { .. }));
            made.history.splice(
                at..at,
                [send(7, "lost", "lost"), accepted(7, &row(4, "lost", 3, "lost"))],
            );
        })
    };
    assert_eq!(lost(true), []);
    assert_eq!(lost(false), [Rule::Acknowledged]);
    // What was answered after that fault has ended stays.
    let rules = Made::after(|made| {
        made.lose_the_end(true);
        made.history.insert(1, What::FaultEnd { fault: 0 });
        let at = made.at(|what| matches!(what, What::Head { .. }));
        made.history.splice(
            at..at,
            [send(7, "lost", "lost"), accepted(7, &row(4, "lost", 3, "lost"))],
        );
    });
    assert_eq!(rules, [Rule::Acknowledged]);
}
