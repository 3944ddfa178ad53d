//! Defects that the proof plants, to show that its checker would find them.
//!
//! Nothing of this is in a server: it comes with the feature `planted`, which a release build refuses, and even then
//! does nothing until the variable `PLANTED` names a defect. Each hook is one `if` on [`strikes`] at the place where a
//! bug would do the same.

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` makes a server that breaks its promises: it is for debug builds only");

use chat_domain::{batch::Outcome, ports::ExecuteError, rejection::Rejection};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Senders are answered, and then the transaction is committed.
    AckBeforeCommit,
    /// An event never reaches a reader, and the chain says nothing of it.
    DropDelivery,
    /// A batch whose outcome is not known is written again, with keys that tell nothing.
    DoubleOnRetry,
    /// Two events reach a reader in the wrong order.
    SwapDeliveries,
    /// An event reaches everybody.
    ForeignMessage,
}

/// Whether a defect is planted, and shows itself now.
#[cfg(feature = "planted")]
pub fn strikes(defect: Defect) -> bool {
    static PLANTED: std::sync::LazyLock<Option<Defect>> = std::sync::LazyLock::new(|| {
        let name = std::env::var("PLANTED").ok()?;
        let planted = Defect::ALL.into_iter().find(|defect| defect.name() == name);
        tracing::error!(
            defect = name,
            "a defect is planted: this server breaks its promises"
        );
        Some(planted.expect("PLANTED names a defect"))
    });
    *PLANTED == Some(defect) && rand::random_range(0..defect.one_in()) == 0
}

#[cfg(not(feature = "planted"))]
pub const fn strikes(_: Defect) -> bool {
    false
}

#[cfg(feature = "planted")]
impl Defect {
    const ALL: [Self; 5] = [
        Self::AckBeforeCommit,
        Self::DropDelivery,
        Self::DoubleOnRetry,
        Self::SwapDeliveries,
        Self::ForeignMessage,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack_before_commit",
            Self::DropDelivery => "drop_delivery",
            Self::DoubleOnRetry => "double_on_retry",
            Self::SwapDeliveries => "swap_deliveries",
            Self::ForeignMessage => "foreign_message",
        }
    }

    /// The defect fires with probability 1/N. One that shows only beside a fault fires each time.
    fn one_in(self) -> u32 {
        match self {
            Self::AckBeforeCommit | Self::DoubleOnRetry => 1,
            Self::DropDelivery | Self::ForeignMessage => 200,
            Self::SwapDeliveries => 20,
        }
    }
}

/// Answers a sender although nothing is committed; the true answer finds nobody.
pub(crate) fn answer_early(
    answer: &mut oneshot::Sender<Result<Outcome, ExecuteError>>,
    outcome: &Result<Outcome, Rejection>,
) {
    let (nobody, _) = oneshot::channel();
    let early = std::mem::replace(answer, nobody);
    let _ = early.send(outcome.clone().map_err(ExecuteError::Rejected));
}
