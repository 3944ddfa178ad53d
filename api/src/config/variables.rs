//! A variable that is misspelt would otherwise be ignored, and the default hold where somebody thinks that it does
//! not.

use std::ffi::OsString;

use clap::{Args, Command};

use super::Options;

const PREFIX: &str = "CHAT_";

/// A line about the first variable that begins like ours and is none of ours.
pub fn unknown_variable(names: impl IntoIterator<Item = OsString>) -> Option<String> {
    let known = known_variables();
    let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
    let mut unknown: Vec<_> = names
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .collect();
    unknown.sort();
    let unknown = unknown.into_iter().next()?;
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, &unknown).total_cmp(&strsim::jaro_winkler(b, &unknown)))?;
    Some(format!(
        "{unknown} is not a variable that this server knows; the nearest one is {nearest}"
    ))
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
