//! The limit on open files, which is the limit on everything: connections of clients, of the database, of the
//! operator, and the files of SQLite.
//!
//! The soft limit is raised to the hard one. What is left after the server's own needs is what clients can have; the
//! listener takes no more than that at a time, so that a crowd at the door never keeps the server from its database.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// What is open whatever is configured: standard streams, the runtime's, listeners, SQLite's files, the operator's
/// connections, a set of keys that is fetched, a folder that is looked into.
const OWN: u64 = 64;
/// Files of one connection to an SQLite database: the file, its log, its index.
const OF_A_DATABASE_CONNECTION: u64 = 3;
/// With fewer than this the server is of no use.
const LEAST_CONNECTIONS: usize = 16;
/// The operator is warned only below this many connections.
const PLENTY: usize = 4096;
/// Where the limit says nothing.
const MOST_CONNECTIONS: usize = 1_000_000;

/// How many files may be open; `None` for any number. Raises the limit as far as this process may.
pub fn raise_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Systems that say "unlimited" and do not mean it.
        Err(_) => current,
    }
}

/// How many connections clients may have open at a time.
#[derive(Debug, PartialEq, Eq)]
pub struct Connections {
    pub limit: usize,
    /// How many of them an address may have: others always find a place beside it.
    pub of_an_address: usize,
    /// What an operator should know of it.
    pub warning: Option<String>,
}

/// Divides the files, or says in a line why they do not suffice.
pub fn divide(files: Option<u64>, config: &Config) -> Result<Connections, String> {
    let own = OWN
        // The clients' and the operator's, and one of each that is not dealt with yet.
        + 2 * (crate::server::REFUSALS as u64 + 1)
        + OF_A_DATABASE_CONNECTION * (u64::from(config.database_connections) + 2);
    let left = match files {
        Some(files) => usize::try_from(files.saturating_sub(own)).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let wanted_of_an_address = config.limits.connections_per_address;
    let of_an_address = |limit: usize| wanted_of_an_address.min(limit / 2).max(1);
    let have = files.unwrap_or(u64::MAX);
    let raise = "raise the limit (ulimit -n, LimitNOFILE=)";
    match config.connections {
        Some(wanted) if wanted > left => Err(format!(
            "CHAT_CONNECTIONS: {wanted} connections and {own} files of the server's own are more than the {have} \
             that this process may have open: {raise}"
        )),
        Some(limit) => Ok(Connections {
            limit,
            of_an_address: of_an_address(limit),
            warning: None,
        }),
        None if left < LEAST_CONNECTIONS => Err(format!(
            "this process may have {have} files open, of which the server needs {own} for itself: {raise}"
        )),
        None => {
            let limit = left.min(MOST_CONNECTIONS);
            let warning = if of_an_address(limit) < wanted_of_an_address {
                Some(format!(
                    "{limit} connections are all that the limit on open files ({have}) leaves, and an address has half \
                     of them, fewer than CHAT_CONNECTIONS_PER_ADDRESS ({wanted_of_an_address}): {raise}"
                ))
            } else {
                (limit < PLENTY).then(|| {
                    format!(
                        "{limit} connections are all that the limit on open files ({have}) leaves: {raise}"
                    )
                })
            };
            Ok(Connections {
                limit,
                of_an_address: of_an_address(limit),
                warning,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn divided(files: Option<u64>, args: &[&str]) -> Result<Connections, String> {
        let args = ["chat-system"].iter().chain(args);
        let config = Config::try_from(Cli::try_parse_from(args).unwrap().options).unwrap();
        divide(files, &config)
    }

    #[test]
    fn clients_have_what_the_server_leaves() {
        let all = divided(Some(100_000), &[]).unwrap();
        assert_eq!(all.warning, None);
        let fewer = divided(Some(100_000), &["--database-connections", "108"]).unwrap();
        assert_eq!(
            all.limit - fewer.limit,
            300,
            "each of a hundred more takes its files"
        );
        assert_eq!(divided(None, &[]).unwrap().limit, MOST_CONNECTIONS);
        assert_eq!(
            divided(Some(1000), &["--connections", "500"]),
            Ok(Connections {
                limit: 500,
                of_an_address: 250,
                warning: None
            })
        );
    }

    #[test]
    fn an_address_has_half_of_all_places_at_most() {
        let of_an_address = |args: &[&str]| divided(Some(100_000), args).unwrap().of_an_address;
        assert_eq!(of_an_address(&[]), 1000);
        assert_eq!(of_an_address(&["--connections", "240"]), 120);
        assert_eq!(of_an_address(&["--connections", "1"]), 1);
        let few = ["--connections", "240", "--connections-per-address", "7"];
        assert_eq!(of_an_address(&few), 7);
    }

    #[test]
    fn a_limit_that_is_low_is_warned_of_and_one_that_is_too_low_refused() {
        let low = divided(Some(2400), &[]).unwrap();
        assert!(low.warning.unwrap().contains("(2400) leaves: raise"));
        let lower = divided(Some(1024), &[]).unwrap();
        assert!(
            lower
                .warning
                .unwrap()
                .contains("CHAT_CONNECTIONS_PER_ADDRESS (1000)")
        );
        let line = divided(Some(100), &[]).unwrap_err();
        assert!(line.starts_with("this process may have 100 files open"), "{line}");
        let line = divided(Some(1000), &["--connections", "1000"]).unwrap_err();
        assert!(
            line.starts_with("CHAT_CONNECTIONS: 1000 connections and"),
            "{line}"
        );
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        assert_eq!(raise_limit(), getrlimit(Resource::Nofile).current);
    }
}
