//! Plants what MariaDB does now and then, as often as a test wants it: reads that show position p and not yet p-1.
//! And a tail that believes its reads, so that the tests show that they would notice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chat_domain::{
    Position,
    event::Recorded,
    ports::{EpochEnd, Head, Outbox, Page, PageLimit, PageRange, Reader, StoreError},
};
use chat_infrastructure::{handover::Origin, tail::Publish};
use tokio::time::interval;

/// An outbox before which each position that `every` divides is hidden from the first `times` reads that would show it.
/// Until then pages do not show it either, and the head, which is proven, stays below it.
pub struct Veil {
    outbox: Arc<dyn Outbox>,
    every: Position,
    times: u32,
    /// How often each position was hidden from [`Outbox::read_after`].
    hidden: Mutex<BTreeMap<Position, u32>>,
    gaps: AtomicU64,
    unproven_pages: AtomicU64,
}

impl Veil {
    pub fn before(outbox: Arc<dyn Outbox>, every: Position, times: u32) -> Arc<Veil> {
        Arc::new(Veil {
            outbox,
            every,
            times,
            hidden: Mutex::default(),
            gaps: AtomicU64::new(0),
            unproven_pages: AtomicU64::new(0),
        })
    }

    /// How many reads have shown a position and not the one before it.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Relaxed)
    }

    /// How many pages were asked for up to a position, and were not shown one below it.
    pub fn unproven_pages(&self) -> u64 {
        self.unproven_pages.load(Ordering::Relaxed)
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeMap<Position, u32>> {
        self.hidden.lock().expect("no panic under the lock")
    }

    /// The first position up to `head` that is still hidden.
    fn first_hidden(&self, head: Position) -> Option<Position> {
        let hidden = self.hidden();
        (1..)
            .map(|n| n * self.every)
            .take_while(|&p| p <= head)
            .find(|&p| self.is_hidden(&hidden, p))
    }

    fn is_hidden(&self, hidden: &BTreeMap<Position, u32>, position: Position) -> bool {
        position % self.every == 0 && hidden.get(&position).is_none_or(|&times| times < self.times)
    }
}

#[async_trait]
impl Outbox for Veil {
    async fn head(&self) -> Result<Head, StoreError> {
        let mut head = self.outbox.head().await?;
        if let Some(hidden) = self.first_hidden(head.position) {
            head.position = hidden - 1;
        }
        Ok(head)
    }

    async fn earlier_epochs(&self) -> Result<Vec<EpochEnd>, StoreError> {
        self.outbox.earlier_epochs().await
    }

    async fn read_after(&self, after: Position, limit: PageLimit) -> Result<Vec<Arc<Recorded>>, StoreError> {
        let rows = self.outbox.read_after(after, limit).await?;
        let mut hidden = self.hidden();
        let mut shown = Vec::with_capacity(rows.len());
        for row in rows {
            if self.is_hidden(&hidden, row.position) {
                *hidden.entry(row.position).or_default() += 1;
            } else {
                shown.push(row);
            }
        }
        let positions = shown.iter().map(|row| row.position);
        if !positions.eq((after + 1..).take(shown.len())) {
            self.gaps.fetch_add(1, Ordering::Relaxed);
        }
        Ok(shown)
    }

    async fn page(&self, reader: &Reader, range: PageRange, limit: PageLimit) -> Result<Page, StoreError> {
        let mut page = self.outbox.page(reader, range, limit).await?;
        let hidden = self.hidden();
        let before = page.events.len();
        page.events
            .retain(|event| !self.is_hidden(&hidden, event.position));
        if page.events.len() < before {
            self.unproven_pages.fetch_add(1, Ordering::Relaxed);
        }
        Ok(page)
    }
}

/// A tail as it is often written, and wrongly: it goes on from the last row that it saw. Follows the log until it is
/// aborted.
pub async fn naive_tail(outbox: Arc<dyn Outbox>, publish: Arc<dyn Publish>) {
    const PAGE: PageLimit = PageLimit {
        events: 1000,
        bytes: 4 << 20,
    };
    let mut at = outbox.head().await.expect("the head is readable").cursor();
    publish.publish(&[], &Origin::elsewhere(), &at);
    let mut polls = interval(Duration::from_millis(4));
    loop {
        polls.tick().await;
        let rows = outbox
            .read_after(at.position, PAGE)
            .await
            .expect("the log is readable");
        if let Some(last) = rows.last() {
            at.position = last.position;
            publish.publish(&rows, &Origin::elsewhere(), &at);
        }
    }
}
