//! Holds a history to the promises: pure, over what was noted and what the database holds in the end.
//!
//! | rule | what is held |
//! |---|---|
//! | `acknowledged` | What was answered with a message is in the log, as that message, at that position. |
//! | `refused` | What was refused, and nothing else became of it, is not there. |
//! | `once` | No command is there twice, whatever became of its answers. |
//! | `nobody_sent` | Nothing is there that nobody asked for. |
//! | `chain` | `prev` is the cursor of the delivery before; who resumes begins where it was. |
//! | `order` | A reader sees positions grow. |
//! | `missing` | From where a reader began up to its cursor, it saw everything that it may see. |
//! | `foreign` | It saw nothing that it may not see, and nothing that is not in the log. |
//! | `equal` | An event is the same JSON on every door and for every reader, and says what the log says. |
//! | `seq` | The messages of a conversation count 1, 2, 3… |
//! | `receipts` | Marks never go back, in the log and in the answers; what was answered stays. |
//! | `time` | The time never decreases along the log. |
//! | `reset` | Nobody is told to reload for nothing. |
//! | `stuck` | In the end every reader knows the whole log. |
//! | `verify` | `chat-system verify` finds nothing. |
//! | `failure` | Nothing is answered with a failure of the server. |
//! | `late` | No command is answered later than its limit, where the node and the way to it did not stand still. |
//!
//! **Epochs.** Where a history may have lost its end, numbers jump: those in the jump may have been given out in the
//! epoch that ended, and are not in the log any more. There, and only there, a reader may have seen what is not in the
//! log: a database that crashes may take what it had shown and not made durable. Whoever saw it is told so by a `reset`
//! before its cursor goes past the jump. What was acknowledged may be gone only where a fault was one that may lose it.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chat_domain::{Position, ports::EPOCH_JUMP};
use serde_json::Value;

use super::{
    history::{Action, Answer, Entry, Reading, Sending, What},
    log::{Log, Row},
};

/// How long a node of a run lets a command wait.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(4);
/// For the way there and back, and for a machine that does much else.
const ON_THE_WAY: Duration = Duration::from_millis(2500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    Acknowledged,
    Refused,
    Once,
    NobodySent,
    Chain,
    Order,
    Missing,
    Foreign,
    Equal,
    Seq,
    Receipts,
    Time,
    Reset,
    Stuck,
    Verify,
    Failure,
    Late,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

/// What the check found, and how much there was to check.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub violations: Vec<Violation>,
    pub sends: Sends,
    pub refusals: BTreeMap<String, u64>,
    pub unknowns: BTreeMap<String, u64>,
    /// Of a command for its answer, without the time in which a node or the way to it stood still.
    pub longest_wait: Duration,
    pub receipts: u64,
    pub deliveries: BTreeMap<Reading, u64>,
    pub connections: u64,
    pub resets: u64,
    /// Commands that were acknowledged and went with the end of an epoch, as a fault may do.
    pub lost: u64,
    pub faults: BTreeMap<String, Faults>,
    pub events: usize,
    pub epochs: usize,
}

/// By what came of each attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sends {
    pub accepted: u64,
    pub refused: u64,
    pub unknown: u64,
}

impl Sends {
    pub fn all(self) -> u64 {
        self.accepted + self.refused + self.unknown
    }
}

#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub count: u64,
    pub least_in_flight: usize,
    pub most_in_flight: usize,
    /// The longest time in which nobody was acknowledged while such a fault lasted, in microseconds.
    pub longest_silence: u64,
}

/// Checks a whole history.
pub fn check(history: impl Iterator<Item = Entry>, log: &Log) -> Findings {
    let mut checker = Checker::new(log);
    for entry in history {
        checker.take(entry);
    }
    checker.finish()
}

struct Checker<'l> {
    log: &'l Log,
    rows: HashMap<Position, &'l Row>,
    /// Where each user's events stand.
    visible: HashMap<&'l str, Vec<Position>>,
    all: Vec<Position>,
    open: HashMap<u64, Open>,
    commands: HashMap<(String, String), Command>,
    readers: BTreeMap<u32, Reader>,
    /// What the JSON of each event hashes to, without its place in the chain.
    bodies: HashMap<Position, u64>,
    /// The greatest marks of each user in each conversation that an answer said, with the time of that answer.
    marks: HashMap<(String, String), Vec<Marks>>,
    head: Option<Position>,
    may_lose: bool,
    /// Faults that may lose, and last.
    losing: HashSet<u64>,
    /// When the last of them ended.
    last_loss: u64,
    /// Those that last: what they are, since when, and until when.
    faults: HashMap<u64, (String, u64, Option<u64>)>,
    last_acknowledged: u64,
    /// When nodes, or ways to them, stood still: since when, and until when.
    held_up: BTreeMap<u64, (u64, Option<u64>)>,
    found: Findings,
    /// Of each rule, so that one defect does not fill the memory.
    counts: HashMap<Rule, usize>,
}

const MOST_OF_A_RULE: usize = 20;

/// When it was answered, and what is received and read then.
type Marks = (u64, i64, i64);

struct Open {
    at: u64,
    user: String,
    door: Sending,
    action: Action,
}

#[derive(Default)]
struct Command {
    accepted: Vec<Position>,
    refused: bool,
    unknown: bool,
    /// What may be recorded: what was sent and not refused.
    contents: HashSet<(String, String)>,
}

struct Reader {
    user: String,
    door: Reading,
    everything: bool,
    asked: Option<String>,
    cursor: Option<String>,
    segment: Option<Segment>,
    left: bool,
}

/// A stretch of the log that a reader was given without being told to reload.
struct Segment {
    from: Position,
    seen: Vec<Position>,
}

fn split(cursor: &str) -> (&str, Position) {
    let (epoch, position) = cursor.rsplit_once(':').unwrap_or(("", cursor));
    (epoch, position.parse().unwrap_or(-1))
}

impl<'l> Checker<'l> {
    fn new(log: &'l Log) -> Self {
        let mut visible: HashMap<&str, Vec<Position>> = HashMap::new();
        for row in &log.rows {
            visible.entry(&row.actor).or_default().push(row.position);
            if row.receiver != row.actor {
                visible.entry(&row.receiver).or_default().push(row.position);
            }
        }
        Checker {
            log,
            rows: log.rows.iter().map(|row| (row.position, row)).collect(),
            visible,
            all: log.rows.iter().map(|row| row.position).collect(),
            open: HashMap::new(),
            commands: HashMap::new(),
            readers: BTreeMap::new(),
            bodies: HashMap::new(),
            marks: HashMap::new(),
            head: None,
            may_lose: false,
            losing: HashSet::new(),
            last_loss: 0,
            faults: HashMap::new(),
            last_acknowledged: 0,
            held_up: BTreeMap::new(),
            found: Findings::default(),
            counts: HashMap::new(),
        }
    }

    fn violated(&mut self, rule: Rule, what: impl FnOnce() -> String) {
        let count = self.counts.entry(rule).or_default();
        *count += 1;
        if *count <= MOST_OF_A_RULE {
            self.found.violations.push(Violation { rule, what: what() });
        }
    }

    fn take(&mut self, Entry { at, what }: Entry) {
        match what {
            What::Run { .. } => {}
            What::Begin {
                operation,
                user,
                door,
                action,
                ..
            } => {
                let open = Open {
                    at,
                    user,
                    door,
                    action,
                };
                self.open.insert(operation, open);
            }
            What::End { operation, answer } => match self.open.remove(&operation) {
                Some(open) => self.answered(at, open, answer),
                None => panic!("operation {operation} ends and never began"),
            },
            What::Connect {
                reader,
                user,
                door,
                everything,
                after,
                ..
            } => self.connects(reader, user, door, everything, after),
            What::Ready { reader, cursor } => self.ready(reader, cursor),
            What::Reset {
                reader,
                cursor,
                reason,
            } => self.reset(reader, cursor, &reason),
            What::Delivery { reader, event } => self.delivered(reader, &event),
            What::Passed { reader, prev, cursor } => self.step(reader, &prev, cursor),
            What::Broken {
                reader,
                expected,
                found,
            } => {
                let state = self.readers.get_mut(&reader).expect("it has connected");
                state.asked = Some(expected.clone());
                let door = state.door;
                // An aborted poll takes with it what was on the way; anywhere else nothing gets lost by itself.
                if door != Reading::Polling {
                    self.violated(Rule::Chain, || {
                        format!("reader {reader} on {door:?} was at {expected} and got what follows {found}")
                    });
                }
            }
            What::Gone { .. } => {}
            What::Left { reader } => {
                self.close_segment(reader);
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.left = true;
                }
            }
            What::FaultBegin {
                fault,
                kind,
                in_flight,
                may_lose,
                holds_answers_up,
                ..
            } => {
                let faults = self.found.faults.entry(kind.clone()).or_default();
                faults.least_in_flight = if faults.count == 0 {
                    in_flight
                } else {
                    faults.least_in_flight.min(in_flight)
                };
                faults.count += 1;
                faults.most_in_flight = faults.most_in_flight.max(in_flight);
                self.faults.insert(fault, (kind, at, None));
                if holds_answers_up {
                    self.held_up.insert(fault, (at, None));
                }
                if may_lose {
                    self.may_lose = true;
                    self.losing.insert(fault);
                }
            }
            What::FaultEnd { fault } => {
                if self.losing.remove(&fault) {
                    self.last_loss = at;
                    self.marks.clear();
                }
                if let Some((_, _, end)) = self.faults.get_mut(&fault) {
                    *end = Some(at);
                }
                if let Some((_, end)) = self.held_up.get_mut(&fault) {
                    *end = Some(at);
                }
            }
            What::Head { position } => self.head = Some(position),
            What::Verified { code, said } => {
                if code != 0 {
                    self.violated(Rule::Verify, || format!("verify ended with {code}: {said}"));
                }
            }
        }
    }

    /// Whether a position is in a jump between two epochs: given out in the one that ended, and not kept.
    fn is_lost(&self, position: Position) -> bool {
        let in_jump = |last: Position| last < position && position <= last + EPOCH_JUMP;
        self.log.epochs.iter().any(|(_, last)| in_jump(*last))
    }

    fn answered(&mut self, at: u64, open: Open, answer: Answer) {
        let Open {
            at: begun_at,
            user,
            door,
            action,
        } = open;
        // The library asks again by itself.
        if door != Sending::Library {
            self.waited((begun_at, at), || format!("{user}'s {action:?}: {answer:?}"));
        }
        if let Answer::Unknown { why } | Answer::Refused { code: why } = &answer
            && why == "internal"
        {
            self.violated(Rule::Failure, || {
                format!("{user}'s {action:?} met a failure of the server")
            });
        }
        if let Action::Send { .. } = &action {
            match &answer {
                Answer::Ok { .. } => {
                    self.found.sends.accepted += 1;
                    self.acknowledged_at(at);
                }
                Answer::Refused { code } => {
                    self.found.sends.refused += 1;
                    *self.found.refusals.entry(code.clone()).or_default() += 1;
                }
                Answer::Unknown { why } => {
                    self.found.sends.unknown += 1;
                    *self.found.unknowns.entry(why.clone()).or_default() += 1;
                }
            }
        }
        self.note_command(&user, &action, &answer);
        match (&action, &answer) {
            (
                Action::Send {
                    key,
                    receiver,
                    content,
                },
                Answer::Ok { result },
            ) => {
                let may_be_lost = self.may_be_lost(begun_at);
                self.sent(&user, (key, receiver, content), result, may_be_lost);
            }
            (Action::Receipt { up_to, .. }, Answer::Ok { result }) => {
                self.found.receipts += 1;
                self.marked(begun_at, at, &user, *up_to, result);
            }
            _ => {}
        }
    }

    /// From when to when somebody waited for an answer.
    fn waited(&mut self, (begun, ended): (u64, u64), what: impl FnOnce() -> String) {
        let held_up: u64 = self
            .held_up
            .values()
            .map(|(from, to)| to.unwrap_or(ended).min(ended).saturating_sub(begun.max(*from)))
            .sum();
        let waited = Duration::from_micros((ended - begun).saturating_sub(held_up));
        self.found.longest_wait = self.found.longest_wait.max(waited);
        if waited > COMMAND_TIMEOUT + ON_THE_WAY {
            self.violated(Rule::Late, || format!("after {waited:?}, {}", what()));
        }
    }

    fn note_command(&mut self, user: &str, action: &Action, answer: &Answer) {
        let key = (user.to_owned(), action.key().to_owned());
        let command = self.commands.entry(key).or_default();
        match answer {
            Answer::Refused { .. } => {
                command.refused = true;
                return;
            }
            Answer::Unknown { .. } => command.unknown = true,
            Answer::Ok { result } => command.accepted.push(result["_id"].as_i64().unwrap_or_default()),
        }
        if let Action::Send {
            receiver, content, ..
        } = action
        {
            command.contents.insert((receiver.clone(), content.clone()));
        }
    }

    /// How long nobody had been answered, for the faults of that time.
    fn acknowledged_at(&mut self, at: u64) {
        let before = std::mem::replace(&mut self.last_acknowledged, at);
        self.faults.retain(|_, (kind, begun, end)| {
            let silence = at.saturating_sub(before.max(*begun));
            if let Some(faults) = self.found.faults.get_mut(kind) {
                faults.longest_silence = faults.longest_silence.max(silence);
            }
            end.is_none()
        });
    }

    /// Whether what is answered now, and began then, may have been told by a log that lost its end afterwards.
    fn may_be_lost(&self, begun_at: u64) -> bool {
        !self.losing.is_empty() || self.may_lose && begun_at <= self.last_loss
    }

    fn sent(
        &mut self,
        user: &str,
        (key, receiver, content): (&str, &str, &str),
        result: &Value,
        may_be_lost: bool,
    ) {
        let Some(id) = result["_id"].as_i64() else {
            return self.violated(Rule::Acknowledged, || {
                format!("{user} got no message for {key}: {result}")
            });
        };
        let Some(row) = self.rows.get(&id) else {
            if may_be_lost && self.is_lost(id) {
                self.found.lost += 1;
            } else {
                self.violated(Rule::Acknowledged, || {
                    format!("{user} was answered for {key} with {id}, which is not in the log")
                });
            }
            return;
        };
        let is_it = row.is_message()
            && (row.actor.as_str(), row.key.as_str(), row.receiver.as_str()) == (user, key, receiver)
            && result["seq"] == row.seq
            && result["sent_at"] == row.occurred_at.div_euclid(1_000_000)
            && result["conversation_id"] == row.conversation.as_str()
            && row.content == bytes(result)
            && text_of(result) == Some(content);
        if !is_it {
            let row = (*row).clone();
            self.violated(Rule::Acknowledged, || {
                format!("{user} was answered for {key} with {result}, and the log has {row:?}")
            });
        }
    }

    fn marked(&mut self, begun_at: u64, at: u64, user: &str, up_to: Position, result: &Value) {
        let conversation = result["conversation_id"].as_str().unwrap_or_default().to_owned();
        let marks = ["received_seq", "read_seq"].map(|name| result[name].as_i64().unwrap_or(-1));
        let [received, read] = marks;
        let who = (user.to_owned(), conversation);
        if self.may_be_lost(begun_at) {
            return;
        }
        let earlier = self.marks.entry(who.clone()).or_default();
        // What was answered before this was asked.
        let behind = earlier
            .iter()
            .find(|(answered, r, d)| *answered < begun_at && (*r > received || *d > read))
            .copied();
        earlier.retain(|(_, r, d)| *r > received || *d > read);
        earlier.push((at, received, read));
        if let Some((_, r, d)) = behind {
            self.violated(Rule::Receipts, || {
                format!("{who:?} was at received {r} and read {d}, and then answered {result} for {up_to}")
            });
        }
        let last = self.log.marks.get(&who).copied();
        if !self.may_lose && last.is_none_or(|(r, d)| r < received || d < read) {
            self.violated(Rule::Receipts, || {
                format!("{who:?} was answered {result}, and ends at {last:?}")
            });
        }
    }

    fn connects(&mut self, id: u32, user: String, door: Reading, everything: bool, after: Option<String>) {
        self.found.connections += 1;
        let reader = self.readers.entry(id).or_insert_with(|| Reader {
            user,
            door,
            everything,
            asked: None,
            cursor: None,
            segment: None,
            left: false,
        });
        let (at, asked) = (reader.cursor.clone(), after.clone());
        reader.asked = after;
        if at.is_some() && at != asked {
            self.violated(Rule::Chain, || {
                format!("reader {id} was at {at:?} and asked after {asked:?}")
            });
        }
    }

    fn ready(&mut self, id: u32, cursor: String) {
        let Some(reader) = self.readers.get(&id) else {
            panic!("reader {id} never connected")
        };
        let asked = reader.asked.clone();
        let position = split(&cursor).1;
        match &asked {
            Some(asked) if asked != "0" => {
                if split(asked).1 != position {
                    self.violated(Rule::Chain, || {
                        format!("reader {id} asked after {asked}, and is said to be complete from {cursor}")
                    });
                }
                self.crosses(id, asked, &cursor);
            }
            Some(_) if position != 0 => {
                self.violated(Rule::Chain, || {
                    format!("reader {id} asked from the beginning, and is complete from {cursor}")
                });
            }
            _ => {}
        }
        let reader = self.readers.get_mut(&id).expect("looked up");
        reader.cursor = Some(cursor);
        reader.segment.get_or_insert(Segment {
            from: position,
            seen: Vec::new(),
        });
    }

    /// A cursor goes on in another epoch only where the one before kept all up to it.
    fn crosses(&mut self, id: u32, from: &str, to: &str) {
        let ((epoch, position), (other, _)) = (split(from), split(to));
        if epoch == other {
            return;
        }
        let end = self.log.epochs.iter().find(|(ended, _)| ended == epoch);
        if end.is_none_or(|(_, last)| position > *last) {
            let end = end.cloned();
            self.violated(Rule::Reset, || {
                format!("reader {id} went on from {from} to {to} without a reset; the epoch ended at {end:?}")
            });
        }
    }

    fn reset(&mut self, id: u32, cursor: String, reason: &str) {
        self.found.resets += 1;
        if self.log.epochs.is_empty() {
            self.violated(Rule::Reset, || {
                format!("reader {id} was reset to {cursor} ({reason}) for nothing")
            });
        }
        self.close_segment(id);
        let Some(reader) = self.readers.get_mut(&id) else {
            panic!("reader {id} never connected")
        };
        reader.segment = Some(Segment {
            from: split(&cursor).1,
            seen: Vec::new(),
        });
        reader.cursor = Some(cursor);
    }

    fn step(&mut self, id: u32, prev: &str, cursor: String) {
        let Some(reader) = self.readers.get(&id) else {
            panic!("reader {id} never connected")
        };
        let at = reader.cursor.clone();
        if at.as_deref() != Some(prev) {
            self.violated(Rule::Chain, || {
                format!("reader {id} was at {at:?} and got what follows {prev}")
            });
        }
        if split(&cursor).1 < split(prev).1 {
            self.violated(Rule::Order, || {
                format!("reader {id} went back from {prev} to {cursor}")
            });
        }
        self.crosses(id, prev, &cursor);
        let reader = self.readers.get_mut(&id).expect("looked up");
        reader.cursor = Some(cursor);
    }

    fn delivered(&mut self, id: u32, event: &Value) {
        let field = |name: &str| event[name].as_str().unwrap_or_default();
        self.step(id, field("prev"), field("cursor").to_owned());
        let position = event["position"].as_i64().unwrap_or(-1);
        let reader = self.readers.get_mut(&id).expect("it has stepped");
        *self.found.deliveries.entry(reader.door).or_default() += 1;
        let (user, everything) = (reader.user.clone(), reader.everything);
        let last = reader
            .segment
            .as_ref()
            .map(|segment| segment.seen.last().copied().unwrap_or(segment.from));
        if let Some(segment) = &mut reader.segment {
            segment.seen.push(position);
        }
        if last.is_none_or(|last| position <= last) {
            self.violated(Rule::Order, || {
                format!("reader {id} of {user} saw {position} after {last:?}")
            });
        }
        if position != split(field("cursor")).1 {
            self.violated(Rule::Chain, || {
                format!("reader {id}: another cursor than its own: {event}")
            });
        }
        if !everything && !field("conversation_id").split(',').any(|member| member == user) {
            self.violated(Rule::Foreign, || {
                format!("reader {id} of {user} saw what it may not: {event}")
            });
        }
        match self.rows.get(&position) {
            Some(row) if !says(event, row) => {
                let row = (*row).clone();
                self.violated(Rule::Equal, || {
                    format!("reader {id} saw {event}, and the log has {row:?}")
                });
            }
            None if !self.is_lost(position) => {
                self.violated(Rule::Foreign, || {
                    format!("reader {id} saw what is not in the log: {event}")
                });
            }
            _ => {}
        }
        let hash = body_hash(event);
        if *self.bodies.entry(position).or_insert(hash) != hash {
            self.violated(Rule::Equal, || {
                format!("reader {id} saw another {event} than others")
            });
        }
    }

    /// What a reader saw of a stretch is what it may see of it.
    fn close_segment(&mut self, id: u32) {
        let Some(reader) = self.readers.get_mut(&id) else {
            return;
        };
        let Some(Segment { from, seen }) = reader.segment.take() else {
            return;
        };
        let to = reader.cursor.as_deref().map_or(from, |cursor| split(cursor).1);
        let (user, door) = (reader.user.clone(), reader.door);
        let visible = if reader.everything {
            &self.all
        } else {
            self.visible.get(user.as_str()).unwrap_or(const { &Vec::new() })
        };
        let within = visible.partition_point(|p| *p <= from)..visible.partition_point(|p| *p <= to);
        let seen: HashSet<_> = seen.into_iter().collect();
        let missing: Vec<_> = visible
            .get(within)
            .unwrap_or_default()
            .iter()
            .filter(|position| !seen.contains(position))
            .copied()
            .collect();
        if let (Some(first), count) = (missing.first(), missing.len()) {
            self.violated(Rule::Missing, || {
                format!(
                    "reader {id} of {user} on {door:?}, from {from} to {to}, never saw {count}, {first} first"
                )
            });
        }
    }

    fn finish(mut self) -> Findings {
        // What never ended is unknown.
        for (_, Open { user, action, .. }) in std::mem::take(&mut self.open) {
            if let Action::Send { .. } = &action {
                self.found.sends.unknown += 1;
                *self.found.unknowns.entry("never answered".into()).or_default() += 1;
            }
            self.note_command(&user, &action, &Answer::Unknown { why: String::new() });
        }
        let ids: Vec<_> = self.readers.keys().copied().collect();
        for id in ids {
            self.close_segment(id);
            let reader = &self.readers[&id];
            let at = reader.cursor.as_deref().map(|cursor| split(cursor).1);
            let (user, door, left) = (reader.user.clone(), reader.door, reader.left);
            if let Some(head) = self.head
                && !left
                && at.is_none_or(|at| at < head)
            {
                self.violated(Rule::Stuck, || {
                    format!("reader {id} of {user} on {door:?} ends at {at:?}, and the log at {head}")
                });
            }
        }
        self.check_commands();
        self.check_log();
        self.found.events = self.log.rows.len();
        self.found.epochs = self.log.epochs.len();
        self.found
    }

    /// Commands against the log.
    fn check_commands(&mut self) {
        let mut recorded: HashMap<(&str, &str), Vec<&Row>> = HashMap::new();
        for row in &self.log.rows {
            recorded.entry((&row.actor, &row.key)).or_default().push(row);
        }
        let commands = std::mem::take(&mut self.commands);
        for ((user, key), rows) in &recorded {
            let Some(command) = commands.get(&((*user).to_owned(), (*key).to_owned())) else {
                let row = rows[0].clone();
                self.violated(Rule::NobodySent, || format!("{row:?}"));
                continue;
            };
            if rows.len() > 1 {
                self.violated(Rule::Once, || {
                    format!("{user}'s {key} is there {} times", rows.len())
                });
            }
            let is_unwanted = command.accepted.is_empty() && !command.unknown;
            if is_unwanted {
                self.violated(Rule::Refused, || {
                    format!("{user}'s {key} was refused and is there: {:?}", rows[0])
                });
            }
            let says_another = rows.iter().find(|row| {
                let content = |content: &str| {
                    content.as_bytes() == row.content
                        || STANDARD.decode(content).is_ok_and(|bytes| bytes == row.content)
                };
                row.is_message()
                    && !is_unwanted
                    && !command
                        .contents
                        .iter()
                        .any(|(to, text)| *to == row.receiver && content(text))
            });
            if let Some(row) = says_another {
                self.violated(Rule::NobodySent, || format!("{user}'s {key} became {row:?}"));
            }
        }
        // Every content is said once by its sender, whatever its key became.
        let mut contents = HashMap::new();
        for row in self.log.rows.iter().filter(|row| row.is_message()) {
            let said = (&row.actor, &row.content);
            if let Some(before) = contents.insert(said, row.position) {
                let position = row.position;
                self.violated(Rule::Once, || {
                    format!("{} said the same at {before} and at {position}", row.actor)
                });
            }
        }
    }

    /// The log by itself.
    fn check_log(&mut self) {
        let mut seqs: HashMap<&str, i64> = HashMap::new();
        let mut marks: HashMap<(&str, &str, &str), i64> = HashMap::new();
        let mut time = i64::MIN;
        let mut last = 0;
        for row in &self.log.rows {
            if row.is_message() {
                let seq = seqs.entry(&row.conversation).or_default();
                *seq += 1;
                if row.seq != *seq {
                    let expected = *seq;
                    *seq = row.seq;
                    self.violated(Rule::Seq, || format!("{expected} was to come: {row:?}"));
                }
            } else if let Some((_, seq)) = row.up_to {
                let mark = marks
                    .entry((&row.conversation, &row.actor, &row.kind))
                    .or_insert(0);
                if seq <= *mark {
                    let before = *mark;
                    self.violated(Rule::Receipts, || format!("it was at {before} before {row:?}"));
                }
                *mark = seq.max(*mark);
            }
            if row.occurred_at < time {
                self.violated(Rule::Time, || format!("it was {time} before {row:?}"));
            }
            time = row.occurred_at;
            let mut before = last;
            while self.log.epochs.iter().any(|(_, end)| *end == before) {
                before += EPOCH_JUMP;
            }
            if row.position != before + 1 {
                self.violated(Rule::Seq, || {
                    format!("a hole in the log between {last} and {row:?}")
                });
            }
            last = row.position;
        }
    }
}

/// Whether an event says what the log says.
fn says(event: &Value, row: &Row) -> bool {
    let envelope = event["position"] == row.position
        && event["type"] == row.kind.as_str()
        && event["conversation_id"] == row.conversation.as_str()
        && event["actor_id"] == row.actor.as_str()
        && event["key"] == row.key.as_str();
    let content = if row.is_message() {
        let message = &event["message"];
        message["_id"] == row.position
            && message["seq"] == row.seq
            && message["sender_id"] == row.actor.as_str()
            && message["receiver_id"] == row.receiver.as_str()
            && message["conversation_id"] == row.conversation.as_str()
            && message["sent_at"] == row.occurred_at.div_euclid(1_000_000)
            && bytes(message) == row.content
    } else {
        let (id, seq) = row.up_to.unwrap_or_default();
        event["up_to"]["_id"] == id && event["up_to"]["seq"] == seq
    };
    envelope && content
}

/// The content of a message as its sender gave it.
fn text_of(message: &Value) -> Option<&str> {
    message["text"].as_str().or_else(|| message["data"].as_str())
}

fn bytes(message: &Value) -> Vec<u8> {
    match (&message["text"], &message["data"]) {
        (Value::String(text), _) => text.clone().into_bytes(),
        (_, Value::String(data)) => STANDARD.decode(data).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Of the event without its place in the chain, the fields in order.
fn body_hash(event: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(fields) = event.as_object() {
        let fields: BTreeMap<_, _> = fields
            .iter()
            .filter(|(name, _)| !matches!(name.as_str(), "cursor" | "prev"))
            .collect();
        for (name, value) in fields {
            (name, value.to_string()).hash(&mut hasher);
        }
    }
    hasher.finish()
}

impl Findings {
    /// As a table for whoever reads the run's output.
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let percent = |part: u64| 100.0 * part as f64 / self.sends.all().max(1) as f64;
        let _ = writeln!(text, "{:<34}{:>10}", "events in the log", self.events);
        for (name, count) in [
            ("sends accepted", self.sends.accepted),
            ("sends refused", self.sends.refused),
            ("sends of unknown outcome", self.sends.unknown),
        ] {
            let _ = writeln!(text, "{name:<34}{count:>10}  {:>5.1} %", percent(count));
        }
        for (code, count) in &self.refusals {
            let _ = writeln!(text, "  refused: {code:<23}{count:>10}");
        }
        for (why, count) in &self.unknowns {
            let _ = writeln!(text, "  unknown: {why:<23}{count:>10}");
        }
        let longest_wait = format!("{:.1} s", self.longest_wait.as_secs_f64());
        let _ = writeln!(text, "{:<34}{longest_wait:>10}", "longest wait for an answer");
        let _ = writeln!(text, "{:<34}{:>10}", "receipts answered", self.receipts);
        for (door, count) in &self.deliveries {
            let _ = writeln!(text, "{:<34}{count:>10}", format!("deliveries by {door:?}"));
        }
        let _ = writeln!(text, "{:<34}{:>10}", "connections of readers", self.connections);
        let _ = writeln!(text, "{:<34}{:>10}", "resets", self.resets);
        let _ = writeln!(text, "{:<34}{:>10}", "epochs that ended", self.epochs);
        let _ = writeln!(text, "{:<34}{:>10}", "acknowledged and lost with them", self.lost);
        let all: u64 = self.faults.values().map(|faults| faults.count).sum();
        let _ = writeln!(text, "{:<34}{all:>10}  in flight  longest silence", "faults");
        for (kind, faults) in &self.faults {
            let in_flight = format!("{}-{}", faults.least_in_flight, faults.most_in_flight);
            let _ = writeln!(
                text,
                "  {kind:<32}{:>10}  {in_flight:>9}  {:>13.1} s",
                faults.count,
                faults.longest_silence as f64 / 1e6
            );
        }
        let _ = writeln!(text, "{:<34}{:>10}", "violations", self.violations.len());
        for violation in &self.violations {
            let _ = writeln!(text, "  {:?}: {}", violation.rule, violation.what);
        }
        text
    }
}

#[cfg(test)]
mod tests;
