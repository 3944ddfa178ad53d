//! What a step changes.

use crate::{
    Action, Decided, Defect, Inbox, Mode, Node, Position, Reader, Row, Scene, Send, Stage, State,
    Subscription, Tail, Transaction, Writer,
};

impl Scene {
    /// The state after a step that is possible in this one.
    pub(crate) fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Execute { command, node } => next.execute(command, node),
            Action::Gather(node) => self.gather(&mut next, node),
            Action::Lock(node) => self.lock(&mut next, node),
            Action::Recall(node) => {
                next.transaction = None;
                next.answer(node);
            }
            Action::Write(node) => self.write(&mut next, node),
            Action::Commit => next.commit(),
            Action::RollBack => next.transaction = None,
            Action::Finish(node) => self.finish(&mut next, node),
            Action::Cut(node) => next.cut(node),
            Action::GiveUp(node) => self.give_up(&mut next, node),
            Action::LookUp(node) => next.look_up(node),
            Action::Crash(node) => next.crash(node),
            Action::Start(node) => next.nodes[node].up = true,
            Action::TailBegin(node) => next.tail_begins(node),
            Action::TailTake(node) => self.tail_takes(&mut next, node),
            Action::TailRead { node, missed } => self.tail_reads(&mut next, node, missed),
            Action::Load => {
                let reader = Reader {
                    begun: true,
                    cursor: state.head,
                    got: state.visible(self, 0, state.head),
                    subscription: None,
                };
                next.reader = reader;
            }
            Action::Subscribe(node) => {
                next.reader.begun = true;
                next.reader.subscription = Some(Subscription::from(node, state.reader.cursor));
            }
            Action::Disconnect => {
                next.left.disconnects -= 1;
                next.reader.subscription = None;
            }
            Action::LoseDelivery => next.left.losses -= 1,
            _ => {}
        }
        match action {
            Action::ReadPage
            | Action::CaughtUp
            | Action::Arm
            | Action::GoLive
            | Action::Deliver
            | Action::FallBack
            | Action::Heartbeat
            | Action::LoseDelivery => self.subscription(&mut next, action)?,
            _ => {}
        }
        Some(next)
    }

    fn gather(&self, state: &mut State, node: usize) {
        let writer = &mut state.nodes[node].writer;
        writer.batch = std::mem::take(&mut writer.queue);
        if self.has(Defect::DrawsOutsideTheLock) {
            writer.drawn_after = state.drawn;
            state.drawn += writer.batch.len() as Position;
        } else if self.has(Defect::CommitsWhateverWasForeseen) {
            writer.drawn_after = state.head;
        }
    }

    fn lock(&self, state: &mut State, node: usize) {
        let writer = &state.nodes[node].writer;
        let after = if self.has(Defect::DrawsOutsideTheLock) || self.has(Defect::CommitsWhateverWasForeseen) {
            writer.drawn_after
        } else {
            state.head
        };
        let mut decided = Decided {
            answers: Vec::new(),
            rows: Vec::new(),
        };
        for &command in &writer.batch {
            let row = state.row_of(command).unwrap_or_else(|| {
                let position = after + 1 + decided.rows.len() as Position;
                let row = Row { position, command };
                decided.rows.push(row);
                row
            });
            decided.answers.push((command, row.position));
        }
        state.transaction = Some(Transaction {
            node,
            rows: decided.rows.clone(),
            written: false,
            orphaned: false,
        });
        state.nodes[node].writer.stage = Stage::Locked(decided);
    }

    fn write(&self, state: &mut State, node: usize) {
        if let Some(transaction) = &mut state.transaction {
            transaction.written = true;
        }
        let writer = &mut state.nodes[node].writer;
        writer.in_doubt = true;
        if let Stage::Locked(decided) = std::mem::take(&mut writer.stage) {
            if self.has(Defect::AnswersBeforeTheCommit) {
                for &(command, position) in &decided.answers {
                    state.sends[usize::from(command)] = Send::Acknowledged(position);
                }
            }
            writer.stage = Stage::Written(decided);
        }
    }

    fn finish(&self, state: &mut State, node: usize) {
        let Node { writer, tail, .. } = &mut state.nodes[node];
        if let Stage::Committed(decided) = &writer.stage
            && tail.handed.len() < self.handed
        {
            let positions = decided.rows.iter().map(|row| row.position);
            tail.handed.push(positions.collect());
        }
        state.answer(node);
    }

    fn give_up(&self, state: &mut State, node: usize) {
        state.left.deadlines -= 1;
        let writer = &mut state.nodes[node].writer;
        let in_doubt = writer.in_doubt && !self.has(Defect::ForgetsTheDoubt);
        for command in std::mem::take(&mut writer.batch) {
            let send = &mut state.sends[usize::from(command)];
            *send = match send {
                Send::Waiting { again: false, .. } if !in_doubt => Send::Refused,
                // A defect may have answered before.
                Send::Acknowledged(position) => Send::Acknowledged(*position),
                _ => Send::Unknown { node },
            };
        }
        writer.in_doubt = false;
    }

    fn tail_takes(&self, state: &mut State, node: usize) {
        let tail = &mut state.nodes[node].tail;
        let batch = tail.handed.remove(0);
        let at = tail.at.unwrap_or_default();
        let (first, last) = (batch[0], batch[batch.len() - 1]);
        let trusts = self.has(Defect::TailTrustsHints) && first > at;
        if first == at + 1 || trusts {
            self.publish(state, node, &batch);
        } else if last > at {
            state.nodes[node].tail.hinted = self.has(Defect::TailWaitsForHints);
        }
        state.tail_has_seen(self, node);
    }

    fn tail_reads(&self, state: &mut State, node: usize, missed: Option<u8>) {
        let tail = &mut state.nodes[node].tail;
        tail.hinted = false;
        let mut at = tail.at.unwrap_or_default();
        let shown = (0..).zip(&state.log).filter(|(n, _)| Some(*n) != missed);
        let mut rows: Vec<_> = shown.map(|(_, row)| row.position).collect();
        rows.retain(|&position| position > at);
        rows.sort_unstable();
        let mut proven = Vec::new();
        for position in rows {
            if position != at + 1 && !self.has(Defect::TailPassesHoles) {
                break;
            }
            proven.push(position);
            at = position;
        }
        self.publish(state, node, &proven);
        state.tail_has_seen(self, node);
    }

    fn publish(&self, state: &mut State, node: usize, positions: &[Position]) {
        for &position in positions {
            let row = state.log.iter().find(|row| row.position == position);
            let is_visible = row.is_some_and(|row| self.shows(row.command));
            let tail = &mut state.nodes[node].tail;
            tail.published.push(position);
            tail.at = Some(position);
            let subscription = state.reader.subscription.as_mut();
            let Some(subscription) = subscription.filter(|s| s.node == node && is_visible) else {
                continue;
            };
            let inbox = &mut subscription.inbox;
            if !inbox.armed {
                continue;
            }
            inbox.events.push(position);
            if inbox.events.len() > self.inbox {
                if self.has(Defect::StaysLiveAfterAnOverflow) {
                    inbox.events.pop();
                } else {
                    *inbox = Inbox::default();
                }
            }
        }
    }

    /// A step of the reader's subscription.
    fn subscription(&self, state: &mut State, action: Action) -> Option<()> {
        let mut subscription = state.reader.subscription.take()?;
        let at = state.nodes[subscription.node].tail.at?;
        let mut delivered = None;
        match action {
            Action::ReadPage => {
                let up_to = match subscription.mode {
                    Mode::Joining { armed_at } => armed_at,
                    _ => at,
                };
                subscription.page = state.visible(self, subscription.examined, up_to);
                subscription.examined = up_to;
            }
            Action::CaughtUp => subscription.mode = Mode::Arming,
            Action::Arm => {
                subscription.inbox = Inbox {
                    armed: true,
                    events: Vec::new(),
                };
                subscription.mode = if self.has(Defect::JoinsLiveAfterReading) {
                    Mode::Live
                } else {
                    Mode::Joining { armed_at: at }
                };
            }
            Action::GoLive => subscription.mode = Mode::Live,
            Action::FallBack => subscription.mode = Mode::CatchingUp,
            Action::Heartbeat => {
                if subscription.mode == Mode::Live {
                    if !subscription.inbox.armed || !subscription.inbox.events.is_empty() {
                        return None;
                    }
                    subscription.examined = subscription.examined.max(at);
                }
                delivered = Some((subscription.examined, false));
            }
            Action::Deliver | Action::LoseDelivery => {
                if subscription.page.is_empty() {
                    let position = subscription.inbox.events.remove(0);
                    if position > subscription.examined {
                        subscription.examined = position;
                        delivered = Some((position, true));
                    } else if action == Action::LoseDelivery {
                        return None;
                    }
                } else {
                    delivered = Some((subscription.page.remove(0), true));
                }
            }
            _ => return None,
        }
        if let Some((cursor, is_event)) = delivered {
            let prev = std::mem::replace(&mut subscription.last, cursor);
            if action != Action::LoseDelivery {
                self.receive(state, &mut subscription, (prev, cursor), is_event);
            }
        }
        state.reader.subscription = Some(subscription);
        Some(())
    }

    /// The reader's side of the chain: a delivery that does not follow is ignored, and the reader resumes from its cursor.
    fn receive(
        &self,
        state: &mut State,
        subscription: &mut Subscription,
        (prev, cursor): (Position, Position),
        is_event: bool,
    ) {
        let reader = &mut state.reader;
        if prev != reader.cursor && !self.has(Defect::IgnoresTheChain) {
            *subscription = Subscription::from(subscription.node, reader.cursor);
            return;
        }
        reader.cursor = cursor;
        if is_event {
            reader.got.push(cursor);
        }
    }
}

impl State {
    fn execute(&mut self, command: u8, node: usize) {
        let send = &mut self.sends[usize::from(command)];
        let again = matches!(send, Send::Unknown { .. });
        *send = Send::Waiting { node, again };
        self.nodes[node].writer.queue.push(command);
    }

    fn commit(&mut self) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        let last = transaction.rows.last().map_or(0, |row| row.position);
        self.head = self.head.max(last);
        self.log.extend(transaction.rows);
        if transaction.orphaned {
            return;
        }
        let writer = &mut self.nodes[transaction.node].writer;
        if let Stage::Written(decided) = std::mem::take(&mut writer.stage) {
            writer.stage = Stage::Committed(decided);
        }
    }

    /// Answers the senders of a batch that is recorded.
    fn answer(&mut self, node: usize) {
        let writer = &mut self.nodes[node].writer;
        if let Stage::Locked(decided) | Stage::Committed(decided) = std::mem::take(&mut writer.stage) {
            for (command, position) in decided.answers {
                self.sends[usize::from(command)] = Send::Acknowledged(position);
            }
        }
        writer.batch.clear();
        writer.in_doubt = false;
        writer.drawn_after = 0;
    }

    fn cut(&mut self, node: usize) {
        self.left.cuts -= 1;
        self.nodes[node].writer.stage = Stage::Idle;
        self.orphan(node);
    }

    /// Its writer is gone; what it holds is for the database to end.
    fn orphan(&mut self, node: usize) {
        if let Some(transaction) = &mut self.transaction
            && transaction.node == node
        {
            transaction.orphaned = true;
        }
    }

    fn look_up(&mut self, node: usize) {
        let writer = &mut self.nodes[node].writer;
        writer.in_doubt = false;
        for command in std::mem::take(&mut writer.batch) {
            let found = self.row_of(command);
            let send = &mut self.sends[usize::from(command)];
            *send = match (found, &send) {
                (Some(row), _) => Send::Acknowledged(row.position),
                (None, Send::Waiting { again: false, .. }) => Send::Refused,
                (None, _) => Send::Unknown { node },
            };
        }
    }

    fn crash(&mut self, node: usize) {
        self.left.crashes -= 1;
        self.nodes[node] = Node {
            up: false,
            writer: Writer::default(),
            tail: Tail::default(),
        };
        self.orphan(node);
        for send in &mut self.sends {
            if matches!(send, Send::Waiting { node: at, .. } if *at == node) {
                *send = Send::Unknown { node };
            }
        }
        if self.reader.subscription.as_ref().is_some_and(|s| s.node == node) {
            self.reader.subscription = None;
        }
    }

    fn tail_begins(&mut self, node: usize) {
        let tail = &mut self.nodes[node].tail;
        tail.at = Some(self.head);
        tail.began = self.head;
    }

    /// A read that begins from now on shows all that is committed now.
    fn tail_has_seen(&mut self, scene: &Scene, node: usize) {
        if scene.torn {
            self.nodes[node].tail.shown = self.log.len();
        }
    }
}
