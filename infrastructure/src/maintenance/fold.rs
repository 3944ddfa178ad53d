//! Folds the log from its beginning, as `verify` and `rebuild` do: the same `evolve` as the writer, over rows without
//! their content.

use chat_domain::{
    Micros, Position,
    event::{Event, Recorded},
    evolve::evolve,
    facts::Facts,
    ports::{EPOCH_JUMP, Head},
};
use sea_orm::{DbErr, QueryResult};

use crate::{
    flavor::{Flavor, Index},
    rows,
    session::{Session, SessionError},
};

pub(crate) const EVENTS_IN_A_READ: i64 = 5000;

/// The state of the projections, and where the log is not as it should be.
pub(crate) struct Fold {
    pub facts: Facts,
    pub position: Position,
    pub events: u64,
    time: Micros,
    head: Head,
    /// Where epochs ended.
    ends: Vec<Position>,
}

impl Fold {
    pub(crate) fn new(head: Head, ends: Vec<Position>) -> Self {
        Self {
            facts: Facts::default(),
            position: 0,
            events: 0,
            time: 0,
            head,
            ends,
        }
    }

    /// Adds an event; tells what is wrong with it.
    pub(crate) fn add(&mut self, recorded: &Recorded, mut wrong: impl FnMut(String)) {
        let position = recorded.position;
        if position != self.position + 1 && !self.hole_is_allowed(position) {
            wrong(format!(
                "outbox: positions {} to {} are missing",
                self.position + 1,
                position - 1
            ));
        }
        // What was there before the log has the times of another program.
        let is_ours = position > self.head.floor;
        if is_ours && recorded.occurred_at < self.time {
            wrong(format!("outbox: occurred_at decreases at position {position}"));
        }
        let conversation = self.facts.conversations.get(&recorded.conversation_id);
        let number = conversation.map_or(position, |c| c.number.0);
        if recorded.conversation.0 != number {
            let found = recorded.conversation.0;
            wrong(format!(
                "outbox: position {position} has conversation_id {found} instead of {number}"
            ));
        }
        let seq = conversation.map_or(0, |c| c.seq);
        let expected = match recorded.event {
            Event::MessageSent { .. } => seq + 1,
            Event::ReceiptMoved { .. } => seq,
            Event::Other { .. } => recorded.seq,
        };
        if recorded.seq != expected {
            wrong(format!(
                "outbox: position {position} has seq {} instead of {expected}",
                recorded.seq
            ));
        }
        if is_ours {
            self.time = self.time.max(recorded.occurred_at);
        }
        self.position = position;
        self.events += 1;
        evolve(&mut self.facts, recorded);
    }

    /// Drops what only decisions need, so that memory follows conversations and not events.
    pub(crate) fn forget_commands(&mut self) {
        self.facts.keys.clear();
        self.facts.messages.clear();
    }

    /// Whether the numbers between the last event and the next, or the head, may be missing.
    pub(crate) fn hole_is_allowed(&self, next: Position) -> bool {
        next <= self.head.floor + 1 || self.jumps().any(|reached| next == reached + 1)
    }

    /// Where the numbers go on after the last event: an epoch that ended there jumps, and so does each that followed it
    /// without an event between.
    fn jumps(&self) -> impl Iterator<Item = Position> {
        std::iter::successors(Some(self.position), move |&position| {
            self.ends.contains(&position).then_some(position + EPOCH_JUMP)
        })
        .skip(1)
    }
}

/// Reads the next events of the log, without their content.
pub(crate) async fn read(
    session: &mut Session,
    flavor: Flavor,
    after: Position,
    up_to: Position,
) -> Result<Vec<Recorded>, FoldError> {
    let select = format!(
        "SELECT {} FROM outbox o {} WHERE o.position > {after} AND o.position <= {up_to} \
         ORDER BY o.position LIMIT {EVENTS_IN_A_READ}",
        rows::selected_without_content(),
        flavor.force_index(Index::OutboxPosition),
    );
    let rows = session.script(select).await?;
    let event = |row: &QueryResult| Ok(rows::event(row, row.try_get("", "position")?, None)?);
    rows.iter().map(event).collect()
}

/// The head, and where earlier epochs ended, as the session sees them.
pub(crate) async fn head(session: &mut Session) -> Result<(Head, Vec<Position>), FoldError> {
    let rows = session
        .script("SELECT epoch, position, floor, oldest FROM log_head WHERE id = 1".into())
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| DbErr::RecordNotFound("log_head".into()))?;
    let head = crate::outbox::head_of(row)?;
    let rows = session
        .script("SELECT last_position FROM epochs ORDER BY last_position".into())
        .await?;
    let ends = rows
        .iter()
        .map(|row| row.try_get("", "last_position"))
        .collect::<Result<_, _>>()?;
    Ok((head, ends))
}

#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Row(#[from] DbErr),
    #[error(transparent)]
    Store(#[from] chat_domain::ports::StoreError),
    #[error("a node serves this database: stop every node first")]
    NodeServes,
}

#[cfg(test)]
mod tests {
    use chat_domain::cursor::Epoch;

    use super::*;

    fn after(position: Position, ends: &[Position]) -> Fold {
        let head = Head {
            epoch: Epoch::parse("e").unwrap(),
            position: 9_000_000,
            floor: 5,
            oldest: 1,
        };
        let mut fold = Fold::new(head, ends.to_vec());
        fold.position = position;
        fold
    }

    #[test]
    fn numbers_jump_where_an_epoch_ended_and_nowhere_else() {
        let fold = after(66, &[66]);
        assert!(fold.hole_is_allowed(1_000_067));
        for next in [68, 1_000_066, 1_000_068, 2_000_067] {
            assert!(!fold.hole_is_allowed(next), "{next}");
        }
        assert!(!after(65, &[66]).hole_is_allowed(1_000_067), "66 is missing");
        assert!(after(2, &[]).hole_is_allowed(6), "below the floor");
    }

    #[test]
    fn epochs_without_an_event_jump_together_also_where_others_follow() {
        let fold = after(66, &[66, 1_000_066, 2_000_070]);
        assert!(fold.hole_is_allowed(2_000_067));
        for next in [2_000_066, 3_000_067, 3_000_071] {
            assert!(!fold.hole_is_allowed(next), "{next}");
        }
    }
}
