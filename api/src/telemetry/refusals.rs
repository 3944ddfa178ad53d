//! Refusals in the log. Anybody can have requests refused, as many as a line carries: so the first one of an address
//! has a line with all that is known of it, and those that follow are summed up, in one line a second. Of so many
//! addresses at a time each has its own sum, all further ones share another. Metrics count each refusal.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    net::IpAddr,
    sync::LazyLock,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

/// How many addresses have sums of their own.
const ADDRESSES: usize = 100;

/// Between two lines about an address.
const PAUSE: Duration = Duration::from_secs(1);

static SUMS: LazyLock<Sums> = LazyLock::new(Sums::default);

/// By address; none for all that have no sum of their own.
#[derive(Default)]
struct Sums(Mutex<HashMap<Option<IpAddr>, Sum>>);

#[derive(Default)]
struct Sum {
    refusals: u64,
    /// Of the last one.
    code: Option<&'static str>,
}

/// Whether this refusal has a line of its own. If not, it is counted in a line that comes.
pub(crate) fn has_own_line(address: IpAddr, code: Option<&'static str>) -> bool {
    match SUMS.add(address, code) {
        Some(key) => {
            tokio::spawn(sum_up(key));
            true
        }
        None => false,
    }
}

/// Says each second what was refused in it, until nothing was.
async fn sum_up(key: Option<IpAddr>) {
    loop {
        sleep(PAUSE).await;
        let Some(Sum { refusals, code }) = SUMS.take(key) else {
            return;
        };
        match key {
            Some(address) => tracing::info!(client.address = %address, refusals, code, "refused repeatedly"),
            None => tracing::info!(refusals, code, "refused, of many other addresses"),
        }
    }
}

impl Sums {
    /// What is to be summed up from now on; nothing where that is done already, and this refusal is counted with it.
    fn add(&self, address: IpAddr, code: Option<&'static str>) -> Option<Option<IpAddr>> {
        let mut sums = self.lock();
        let has_own = sums.len() < ADDRESSES || sums.contains_key(&Some(address));
        match sums.entry(has_own.then_some(address)) {
            Entry::Vacant(vacant) => {
                let key = *vacant.key();
                vacant.insert(Sum::default());
                Some(key)
            }
            Entry::Occupied(mut occupied) => {
                let sum = occupied.get_mut();
                sum.refusals += 1;
                sum.code = code;
                None
            }
        }
    }

    /// What was counted since the last time. Nothing, and the end of counting, where that is none.
    fn take(&self, key: Option<IpAddr>) -> Option<Sum> {
        let mut sums = self.lock();
        let sum = mem::take(sums.get_mut(&key)?);
        if sum.refusals == 0 {
            sums.remove(&key);
            return None;
        }
        Some(sum)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, Sum>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_refusal_of_an_address_stands_alone_and_the_others_are_summed_up() {
        let sums = Sums::default();
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(sums.add(here, Some("a")), Some(Some(here)));
        assert_eq!(sums.add(there, Some("a")), Some(Some(there)));
        for code in ["a", "b", "c"] {
            assert_eq!(sums.add(here, Some(code)), None);
        }
        let sum = sums.take(Some(here)).unwrap();
        assert_eq!((sum.refusals, sum.code), (3, Some("c")));
        // It goes on for as long as there is something to say.
        assert_eq!(sums.add(here, Some("d")), None);
        assert_eq!(sums.take(Some(here)).unwrap().refusals, 1);
        assert!(sums.take(Some(here)).is_none() && sums.take(Some(there)).is_none());
        assert_eq!(sums.add(here, Some("e")), Some(Some(here)));
    }

    #[test]
    fn many_addresses_share_one_sum() {
        let sums = Sums::default();
        let mut lines = 0;
        for last in 0..=255 {
            for _ in 0..3 {
                lines += usize::from(sums.add([192, 0, 2, last].into(), None).is_some());
            }
        }
        assert_eq!(lines, ADDRESSES + 1);
        assert_eq!(sums.lock().len(), ADDRESSES + 1);
        assert_eq!(
            sums.take(None).unwrap().refusals as usize,
            3 * (256 - ADDRESSES) - 1
        );
    }
}
