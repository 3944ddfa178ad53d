//! What the kernel says of this process. Where it says nothing, on other systems than Linux, nothing is shown.

use std::fs;

use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, getrlimit},
};

pub(super) fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

pub(super) fn open_files() -> Option<usize> {
    // Linux 6.2 and newer say how many there are; else they are counted, which takes time where they are many.
    let said = fs::metadata("/proc/self/fd").ok()?.len();
    if said > 0 {
        return usize::try_from(said).ok();
    }
    // The folder itself is open while it is read.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

pub(super) fn most_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// When the process began, in seconds since 1970: the kernel counts in ticks since it began itself.
pub(super) fn start_time() -> Option<f64> {
    let of_process = fs::read_to_string("/proc/self/stat").ok()?;
    // The name stands in parentheses, and may hold any of what separates the others.
    let (_, fields) = of_process.rsplit_once(')')?;
    let ticks: f64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let of_kernel = fs::read_to_string("/proc/stat").ok()?;
    let began = of_kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(began.trim().parse::<f64>().ok()? + ticks / clock_ticks_per_second() as f64)
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_kernel_says_what_this_process_is() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        // A test runs for less than an hour, and the kernel's second is a round one.
        let began = start_time().unwrap();
        assert!((now - 3600.0..now + 2.0).contains(&began), "{began} and {now}");
        assert!(resident_memory().unwrap() > 1 << 20);
        let before = open_files().unwrap();
        let _file = fs::File::open("/proc/self/stat").unwrap();
        assert!(before > 2 && most_files().is_none_or(|most| most > before as u64));
    }
}
