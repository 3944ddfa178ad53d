//! The environment. A variable that is misspelt would otherwise be ignored, and the default hold where somebody thinks
//! that it does not. What Kubernetes puts there for a service whose name begins like our variables is told from that by
//! its shape, its value included.

use std::{ffi::OsString, net::IpAddr};

use clap::{Args, Command};

use super::Options;
use crate::trimmed::trimmed;

const PREFIX: &str = "CHAT_";

/// Variables with their values, of those alone that begin like ours.
#[derive(Debug)]
pub struct Variables(Vec<(String, String)>);

impl FromIterator<(OsString, OsString)> for Variables {
    fn from_iter<T: IntoIterator<Item = (OsString, OsString)>>(all: T) -> Self {
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let all = all.into_iter().map(|(name, value)| (text(name), text(value)));
        let mut ours: Vec<_> = all.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        ours.sort();
        Self(ours)
    }
}

impl Variables {
    pub fn of_this_process() -> Self {
        std::env::vars_os().collect()
    }

    /// A line about the first one that is none of ours.
    pub fn unknown(&self) -> Option<String> {
        let known = known_variables();
        let (unknown, _) = self
            .0
            .iter()
            .find(|(name, value)| !known.contains(name) && !is_service_link(name, value))?;
        let nearest = known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)))?;
        Some(format!(
            "{unknown} is not a variable that this server knows; the nearest one is {nearest}"
        ))
    }

    /// The names of Kubernetes' service links among them.
    pub fn service_links(&self) -> Vec<String> {
        let known = known_variables();
        let links = self
            .0
            .iter()
            .filter(|(name, value)| !known.contains(name) && is_service_link(name, value));
        links.map(|(name, _)| name.clone()).collect()
    }

    /// Flags that say the same as those variables whose values have white space at an end: a flag wins over its
    /// variable. Not of secrets, which are trimmed where they are read; not where the flag is given.
    pub fn trimmed(&self, args: &[OsString]) -> Vec<OsString> {
        let command = options();
        let mut flags = Vec::new();
        for argument in command
            .get_arguments()
            .filter(|argument| !argument.is_hide_env_values_set())
        {
            let (Some(variable), Some(flag)) = (argument.get_env(), argument.get_long()) else {
                continue;
            };
            let Some((_, value)) = self.0.iter().find(|(name, _)| variable == name.as_str()) else {
                continue;
            };
            let flag = format!("--{flag}");
            let is_given = args.iter().any(|arg| {
                let arg = arg.to_string_lossy();
                arg.split('=').next() == Some(&flag)
            });
            if trimmed(value) != value && !is_given {
                flags.push(format!("{flag}={}", trimmed(value)).into());
            }
        }
        flags
    }
}

/// Whether Kubernetes makes such a variable for a service, with such a value: for `chat` and also for `chat-system`.
///
/// `CHAT_SERVICE_HOST=10.0.0.1`, `CHAT_SERVICE_PORT=3000`, `CHAT_SERVICE_PORT_HTTP=3000`, `CHAT_PORT=tcp://10.0.0.1:3000`,
/// `CHAT_PORT_3000_TCP=tcp://10.0.0.1:3000`, and that one's `_PROTO=tcp`, `_PORT=3000` and `_ADDR=10.0.0.1`.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |text: &str| text.parse::<u16>().is_ok();
    let is_protocol = |text: &str| ["tcp", "udp", "sctp"].contains(&text);
    let is_address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let is_place = |text: &str| {
        text.split_once("://").is_some_and(|(protocol, place)| {
            let place = place.rsplit_once(':');
            is_protocol(protocol) && place.is_some_and(|(address, port)| is_address(address) && is_port(port))
        })
    };
    // What follows _PORT_: 3000_TCP, and what it is of that.
    let of_a_port = |rest: &str| {
        let mut parts = rest.splitn(3, '_');
        let (port, protocol, what) = (parts.next(), parts.next(), parts.next());
        let is_named = port.is_some_and(is_port)
            && protocol.is_some_and(|protocol| is_protocol(&protocol.to_ascii_lowercase()));
        let has_value = match what {
            None => is_place(value),
            Some("PROTO") => is_protocol(value),
            Some("PORT") => is_port(value),
            Some("ADDR") => is_address(value),
            Some(_) => false,
        };
        is_named && has_value
    };
    // The name of the service may have any of these in it.
    (name.ends_with("_SERVICE_HOST") && is_address(value))
        || (name.ends_with("_SERVICE_PORT") && is_port(value))
        || (name.contains("_SERVICE_PORT_") && is_port(value))
        || (name.ends_with("_PORT") && is_place(value))
        || name
            .rsplit_once("_PORT_")
            .is_some_and(|(_, rest)| of_a_port(rest))
}

/// The variable of an option, by the option's long name.
pub fn variable_of(option: &str) -> Option<String> {
    let command = options();
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(option))?;
    argument.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// As the options name them, so that neither list can fall behind.
fn known_variables() -> Vec<String> {
    let command = options();
    let variables = command.get_arguments().filter_map(|argument| argument.get_env());
    variables
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

fn options() -> Command {
    Options::augment_args(Command::new("chat-system"))
}
