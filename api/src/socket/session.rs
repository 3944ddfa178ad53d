//! One socket from the moment that it is somebody's: one task, which alone takes its commands and alone sends to it.
//!
//! So what the client sees has an order of its own making: nothing of an old chain follows the answer to `resume`,
//! and commands are begun in the order in which they came. Sends and receipts are begun one after the other without
//! waiting for the commit between them, so that a row of them shares a transaction; everything else waits until those
//! before it are answered, so that what was sent is there when history is asked for.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use chat_domain::cursor::After;
use futures_util::{FutureExt, StreamExt, stream::FuturesOrdered};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Place, Transport,
    commands::{Answer, Command, is_resume},
    flow::Flow,
    log_refused_login,
    packet::Outgoing,
    queue::{Queue, Waiting},
    sender::{Gone, Sender},
};
use crate::{
    auth::{Actor, Caller},
    door::Door,
    limits::Holder,
    metrics, operations,
    problem::{Code, Problem},
    realtime::{
        hub::Refused,
        subscription::{Delivery, Subscription},
        written::{self, Written},
    },
    state::AppState,
    wire::Binary,
};

/// Commands of one socket that are in the writer's queue at once.
const PIPELINE: usize = 256;

/// How a session ends by the server's will.
struct Closing {
    code: Code,
    retry_after: u32,
}

enum End {
    Gone,
    Closing(Closing),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<Refused> for End {
    fn from(Refused(code): Refused) -> Self {
        Problem::new(code).into()
    }
}

/// A refusal for the time being: permanent ones come before there is a session.
impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::closing(problem.code)
    }
}

impl End {
    fn closing(code: Code) -> Self {
        let retry_after = code.retry_after().unwrap_or(0);
        Self::Closing(Closing { code, retry_after })
    }
}

struct Session {
    app: AppState,
    /// Whose all that is counted is.
    holder: Holder,
    queue: Arc<Queue>,
    transport: Arc<Transport>,
    sender: Sender,
    caller: Caller,
    expires_at: Instant,
    /// When to say so; none once it was said.
    expiring_at: Option<Instant>,
    begun: FuturesOrdered<Begun>,
}

/// A command in the writer's queue, and the number that its answer goes under.
type Begun = Pin<Box<dyn Future<Output = (Option<u64>, Answer)> + Send>>;

/// `left`: the client has left the namespace, or its transport is gone.
pub(super) async fn run(
    app: AppState,
    sender: Sender,
    caller: Caller,
    after: After,
    (queue, left): (Arc<Queue>, CancellationToken),
) {
    let transport = sender.transport().clone();
    // A session that the client has left may be at its last packet.
    let _turn = transport.data.turn.lock().await;
    let mut session = Session {
        holder: Flow::of(&transport).map(Flow::holder).unwrap_or_default(),
        app,
        queue,
        transport: transport.clone(),
        sender,
        expires_at: Instant::now(),
        expiring_at: None,
        begun: FuturesOrdered::new(),
        caller: caller.clone(),
    };
    session.set_caller(caller);
    let end = tokio::select! {
        biased;
        () = left.cancelled() => End::Gone,
        end = session.converse(after) => match end {
            Err(end) => end,
            Ok(never) => match never {},
        },
    };
    if let End::Closing(closing) = end {
        metrics::rejected(closing.code, Door::SocketIo);
        // Gone meanwhile: nobody is left to be told.
        let _ = session.close(&closing).await;
        hold_back(&session.app, &session.transport, &closing).await;
    } else if left.is_cancelled() && !transport.data.ended.is_cancelled() {
        Place::of_nobody(&transport);
        return;
    }
    session.sender.close();
}

/// Keeps the transport of one who was told to come back later for so long. For clients of socket.io a transport that
/// opened is a success, after which they come back within a second, again and again; so it is not given back before it
/// is of use. Who takes `closing` at its word leaves by itself.
async fn hold_back(app: &AppState, transport: &Transport, closing: &Closing) {
    // Another token, or another node, is of use at once.
    if matches!(closing.code, Code::TokenExpired | Code::Shutdown) {
        return;
    }
    tokio::select! {
        () = sleep(Duration::from_secs(closing.retry_after.into())) => {}
        () = transport.data.ended.cancelled() => {}
        () = app.hub.closed() => {}
    }
}

/// Refuses for the time being whoever would get a session, in the form that clients come back from by themselves.
pub(super) async fn refuse(app: &AppState, mut sender: Sender, problem: &Problem) {
    let closing = Closing {
        code: problem.code,
        retry_after: problem.retry_after.unwrap_or(0),
    };
    let last = written::closing(closing.code.as_str(), closing.retry_after);
    let sid = sender.transport().id.to_string();
    for packet in [
        Outgoing::connect(&sid),
        Outgoing::event(last.name, &last.json, Vec::new()),
    ] {
        if sender.send(packet).await == Err(Gone) {
            return;
        }
    }
    sender.drain().await;
    hold_back(app, sender.transport(), &closing).await;
    sender.close();
}

enum Never {}

impl Session {
    async fn converse(&mut self, after: After) -> Result<Never, End> {
        let sid = self.transport.id.to_string();
        self.sender.send(Outgoing::connect(&sid)).await?;
        let user = self.caller.user_id.clone();
        Place::of_user(&self.transport, &user)?;
        let mut subscription = self.app.hub.subscribe(user, after).await?;
        loop {
            if Instant::now() >= self.expires_at {
                return Err(End::closing(Code::TokenExpired));
            }
            tokio::select! {
                delivery = subscription.next() => self.deliver(delivery).await?,
                Some((ack, answer)) = self.begun.next(), if !self.begun.is_empty() => {
                    self.answer(ack, answer).await?;
                }
                () = self.queue.filled(), if self.begun.len() < PIPELINE => {
                    self.take(&mut subscription).await?;
                }
                () = sleep_until(self.expiring_at.unwrap_or(self.expires_at)) => {
                    if self.expiring_at.take().is_some() {
                        self.write(&written::expiring(&self.caller), Vec::new()).await?;
                    }
                }
            }
        }
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), End> {
        if let Delivery::Closing { code, retry_after } = delivery {
            let code = Code::of_closing(code);
            return Err(End::Closing(Closing { code, retry_after }));
        }
        if self.is_lost(&delivery) {
            return Ok(());
        }
        if matches!(delivery, Delivery::Event { .. }) {
            metrics::delivered(Door::SocketIo, 1);
        }
        let mut binary = Binary::attached();
        let heartbeat_s = self.app.heartbeat.as_secs();
        let written = delivery.write(&self.caller.user_id, heartbeat_s, &mut binary);
        Ok(self.write(&written, binary.into_attachments()).await?)
    }

    async fn write(&mut self, written: &Written, attachments: Vec<Bytes>) -> Result<(), Gone> {
        let packet = Outgoing::event(written.name, &written.json, attachments);
        self.sender.send(packet).await
    }

    /// The fault of the tests.
    fn is_lost(&self, delivery: &Delivery) -> bool {
        let lossy = matches!(delivery, Delivery::Event { .. } | Delivery::Heartbeat { .. });
        lossy && self.app.lose_one_in > 0 && rand::random_range(0..self.app.lose_one_in) == 0
    }

    /// Takes one command, if there is one.
    async fn take(&mut self, subscription: &mut Subscription) -> Result<(), End> {
        let event = match self.queue.take() {
            None => return Ok(()),
            Some(Waiting::Refused { ack }) => {
                self.begin(ack, async { Answer::problem(&Problem::new(Code::Overloaded)) });
                return Ok(());
            }
            Some(Waiting::Command(event)) => event,
        };
        if let Some(flow) = Flow::of(&self.transport) {
            flow.taken(event.weight());
        }
        let (app, user) = (self.app.clone(), self.caller.user_id.clone());
        let holder = self.holder.clone();
        let actor = Actor::from(self.caller.clone());
        let ack = event.ack;
        match Command::parse(&event) {
            Err(problem) => self.begin(ack, async move { Answer::problem(&problem) }),
            Ok(Command::Send { key, draft }) => self.begin(ack, async move {
                let sent = operations::send_message(&app, &holder, actor, key, draft).await;
                Answer::of(sent, Answer::sent)
            }),
            Ok(Command::Receipt { key, receipt }) => self.begin(ack, async move {
                let marked = operations::send_receipt(&app, actor, key, receipt).await;
                Answer::of(marked, Answer::marked)
            }),
            Ok(Command::History(asked)) => {
                self.settle().await?;
                self.sender.until_taken().await?;
                let list = operations::list_messages(&app, &holder, &user, asked).await;
                self.answer(ack, Answer::of(list, Answer::history)).await?;
            }
            Ok(Command::Conversations(asked)) => {
                self.settle().await?;
                self.sender.until_taken().await?;
                let list = operations::list_conversations(&app, &holder, &user, asked).await;
                self.answer(ack, Answer::of(list, Answer::conversations)).await?;
            }
            Ok(Command::Authenticate(token)) => {
                self.settle().await?;
                let answer = match Caller::authenticate(&app.verifier, Some(&token)).await {
                    Err(problem) => self.refuse_login(&problem),
                    Ok(caller) if caller.user_id != user => {
                        self.refuse_login(&Problem::new(Code::TokenUserMismatch))
                    }
                    Ok(caller) => {
                        let answer = Answer::authenticated(&caller);
                        self.set_caller(caller);
                        answer
                    }
                };
                self.answer(ack, answer).await?;
            }
            Ok(Command::Resume(after)) => {
                self.settle().await?;
                *subscription = self.resume(ack, after).await?;
            }
        }
        Ok(())
    }

    fn refuse_login(&self, problem: &Problem) -> Answer {
        log_refused_login(&self.transport, "authenticate", problem.code);
        Answer::problem(problem)
    }

    /// Begins the stream anew. A client that asks several times gets one stream, from where it asked last.
    async fn resume(&mut self, ack: Option<u64>, mut after: After) -> Result<Subscription, End> {
        let mut acks = vec![ack];
        loop {
            let user = self.caller.user_id.clone();
            let subscription = self.app.hub.subscribe(user, after).await?;
            let Some(again) = self.take_resume(&mut acks).await? else {
                for ack in acks {
                    self.answer(ack, Answer::nothing()).await?;
                }
                return Ok(subscription);
            };
            after = again;
        }
    }

    /// Takes what waits in front, as long as it is `resume`; gives the last one's cursor.
    async fn take_resume(&mut self, acks: &mut Vec<Option<u64>>) -> Result<Option<After>, End> {
        let mut last = None;
        let wanted = |next: &Waiting| matches!(next, Waiting::Command(event) if is_resume(event));
        while let Some(Waiting::Command(event)) = self.queue.take_if(wanted) {
            if let Some(flow) = Flow::of(&self.transport) {
                flow.taken(event.weight());
            }
            match Command::parse(&event) {
                Ok(Command::Resume(after)) => {
                    acks.push(event.ack);
                    last = Some(after);
                }
                Ok(_) => {}
                Err(problem) => self.answer(event.ack, Answer::problem(&problem)).await?,
            }
        }
        Ok(last)
    }

    /// Begins a command: what it does up to the writer's queue is done when this returns.
    fn begin(&mut self, ack: Option<u64>, answer: impl Future<Output = Answer> + Send + 'static) {
        let mut answer = Box::pin(answer);
        self.begun.push_back(match answer.as_mut().now_or_never() {
            Some(answer) => Box::pin(async move { (ack, answer) }),
            None => Box::pin(async move { (ack, answer.await) }),
        });
    }

    /// Waits for everything that was begun, and answers it.
    async fn settle(&mut self) -> Result<(), Gone> {
        while let Some((ack, answer)) = self.begun.next().await {
            self.answer(ack, answer).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, ack: Option<u64>, answer: Answer) -> Result<(), Gone> {
        match ack {
            Some(ack) => self.sender.send(answer.packet(ack)).await,
            None => Ok(()),
        }
    }

    fn set_caller(&mut self, caller: Caller) {
        self.expires_at = Instant::now() + caller.expires_in();
        self.expiring_at = Some(Instant::now() + caller.warned_in());
        self.caller = caller;
    }

    /// The last words: what was begun is answered, and the client is told why it ends. Whoever is to stay away until
    /// it has another token is disconnected; everybody else loses the transport, and comes back.
    async fn close(&mut self, closing: &Closing) -> Result<(), Gone> {
        debug!(code = closing.code.as_str(), "a socket is closed");
        self.settle().await?;
        let last = written::closing(closing.code.as_str(), closing.retry_after);
        self.write(&last, Vec::new()).await?;
        if closing.code == Code::TokenExpired {
            self.sender.send(Outgoing::disconnect()).await?;
        }
        self.sender.drain().await;
        Ok(())
    }
}
