//! Values that no log and no error shows, given directly or in a file.

use std::{fmt, fs, path::PathBuf};

use super::{ConfigError, Options, value};
use crate::trimmed::trimmed;

const DEFAULT_DATABASE: &str = "sqlite://./data/chat.db";

/// Text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Options {
    pub fn database_url(&self) -> Result<Secret, ConfigError> {
        let variable = "CHAT_DATABASE_URL";
        let url = given(
            variable,
            self.database_url.as_ref(),
            self.database_url_file.as_ref(),
        )?;
        let url = url.unwrap_or_else(|| Secret(DEFAULT_DATABASE.to_owned()));
        one_line(variable, url.expose())?;
        // The URL may hold a password: the error shows only how it begins.
        match url.0.split_once(':').map(|(scheme, _)| scheme) {
            Some("sqlite" | "mysql") => Ok(url),
            Some(scheme) if scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(value(
                    variable,
                    format!("{scheme}: is not known here, only sqlite: and mysql: (MariaDB too) are"),
                ))
            }
            _ => Err(value(variable, "a URL begins with sqlite: or mysql:")),
        }
    }
}

/// A value that was given directly or in a file, without what stands around it.
pub(super) fn given(
    variable: &'static str,
    text: Option<&String>,
    file: Option<&PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    match (text, file) {
        (Some(_), Some(_)) => Err(ConfigError::GivenTwice { variable }),
        (Some(text), None) => Ok(Some(Secret(trimmed(text).to_owned()))),
        (None, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::File {
                variable,
                path: path.clone(),
                source,
            })?;
            Ok(Some(Secret(trimmed(&text).to_owned())))
        }
        (None, None) => Ok(None),
    }
}

/// The same, of a value that has one line. The error does not show it.
pub(super) fn one_line<'a>(variable: &'static str, text: &'a str) -> Result<&'a str, ConfigError> {
    let text = trimmed(text);
    if text.chars().any(char::is_control) {
        let reason = "a line break or another control character stands in the middle of it";
        return Err(value(variable, reason));
    }
    Ok(text)
}

/// Whether a URL has a password before its host.
pub(super) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    user.split_once(':')
        .is_some_and(|(_, password)| !password.is_empty())
}
