//! Everything that there is at one moment.

use crate::Scene;

pub type Position = u8;

/// Two nodes, by their numbers.
pub const NODES: [usize; 2] = [0, 1];

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The rows of `outbox`, in the order in which they were committed.
    pub log: Vec<Row>,
    /// The position in `log_head`.
    pub head: Position,
    /// The last position that was drawn, where they are drawn outside of the lock.
    pub drawn: Position,
    /// The transaction that holds the lock on `log_head`.
    pub transaction: Option<Transaction>,
    /// What the sender of each command knows.
    pub sends: Vec<Send>,
    pub nodes: [Node; 2],
    pub reader: Reader,
    /// What may still go wrong.
    pub left: Faults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    pub position: Position,
    /// Whose key it has.
    pub command: u8,
}

/// How often each of these may happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A node is killed.
    pub crashes: u8,
    /// A writer loses its connection to the database.
    pub cuts: u8,
    /// A batch's deadline passes.
    pub deadlines: u8,
    /// The reader's connection ends.
    pub disconnects: u8,
    /// A delivery is lost on the way, and the connection stays.
    pub losses: u8,
}

/// As the database has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub node: usize,
    pub rows: Vec<Row>,
    /// Whether the rows and the COMMIT were sent.
    pub written: bool,
    /// Whether its writer is gone, so that nobody hears what becomes of it.
    pub orphaned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Send {
    Todo,
    /// At this node. `again`: an earlier try had an unknown outcome.
    Waiting {
        node: usize,
        again: bool,
    },
    /// Recorded, the node said, at this position.
    Acknowledged(Position),
    /// Nothing was written, the node said, and nobody tried before.
    Refused,
    /// This node did not say. The sender sends it again.
    Unknown {
        node: usize,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub up: bool,
    pub writer: Writer,
    pub tail: Tail,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Commands that wait.
    pub queue: Vec<u8>,
    /// The batch in hand.
    pub batch: Vec<u8>,
    /// A COMMIT with the batch in it may have been received.
    pub in_doubt: bool,
    /// The position before those that were drawn outside of the lock.
    pub drawn_after: Position,
    pub stage: Stage,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    /// No transaction.
    #[default]
    Idle,
    /// It holds the lock and has decided.
    Locked(Decided),
    /// It has sent rows and COMMIT, and waits for the answer.
    Written(Decided),
    /// The database has committed; the answer is on its way.
    Committed(Decided),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decided {
    /// For each command of the batch the position of its event, new or found.
    pub answers: Vec<(u8, Position)>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tail {
    /// How far the log is passed on; none before it has read the head.
    pub at: Option<Position>,
    pub began: Position,
    /// How many rows were committed when it last did something: its next read shows those, whatever else it shows.
    pub shown: usize,
    /// Batches of its own writer that wait.
    pub handed: Vec<Vec<Position>>,
    /// Whether there was a hint, for a tail that waits for one.
    pub hinted: bool,
    /// What it has passed on.
    pub published: Vec<Position>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    /// Whether it has loaded or connected before.
    pub begun: bool,
    /// That of the last delivery which it has dealt with.
    pub cursor: Position,
    /// The positions that it was given.
    pub got: Vec<Position>,
    pub subscription: Option<Subscription>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subscription {
    pub node: usize,
    pub mode: Mode,
    pub examined: Position,
    /// The cursor of the last delivery.
    pub last: Position,
    /// Positions read from the database and not delivered yet.
    pub page: Vec<Position>,
    pub inbox: Inbox,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Inbox {
    pub armed: bool,
    pub events: Vec<Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    CatchingUp,
    /// It has seen that it has read up to the tail, and not armed its inbox yet.
    Arming,
    Joining {
        armed_at: Position,
    },
    Live,
}

impl State {
    pub(crate) fn first(scene: &Scene) -> Self {
        let node = Node {
            up: true,
            writer: Writer::default(),
            tail: Tail {
                at: Some(0),
                ..Tail::default()
            },
        };
        Self {
            log: Vec::new(),
            head: 0,
            drawn: 0,
            transaction: None,
            sends: vec![Send::Todo; scene.commands.into()],
            nodes: [node.clone(), node],
            reader: Reader::default(),
            left: scene.faults,
        }
    }

    pub(crate) fn row_of(&self, command: u8) -> Option<Row> {
        self.log.iter().copied().find(|row| row.command == command)
    }

    /// The positions between two that the reader may see, ascending.
    pub(crate) fn visible(&self, scene: &Scene, after: Position, up_to: Position) -> Vec<Position> {
        let rows = self.log.iter().filter(|row| scene.shows(row.command));
        let mut positions: Vec<_> = rows.map(|row| row.position).collect();
        positions.retain(|&position| after < position && position <= up_to);
        positions.sort_unstable();
        positions
    }
}

impl Subscription {
    /// One that resumes from a cursor.
    pub(crate) fn from(node: usize, cursor: Position) -> Self {
        Self {
            node,
            mode: Mode::CatchingUp,
            examined: cursor,
            last: cursor,
            page: Vec::new(),
            inbox: Inbox::default(),
        }
    }
}
