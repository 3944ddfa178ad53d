//! The parameters of a server's URL. They are checked here, before there is a connection, because sqlx ignores what it
//! does not know, and a certificate that checks nothing: whoever misspells `ssl-mode` would send everything in clear.
//!
//! The modes are MySQL's. Certificates are read again for each connection, so that they can be renewed in their place.

use std::{borrow::Cow, fs, path::Path};

use sea_orm::sqlx::{self, mysql::MySqlSslMode};

use super::DatabaseError;

const MODES: &str = "DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY";

pub(super) fn check_parameters(url: &str) -> Result<(), DatabaseError> {
    let wrong = |what: String| Err(DatabaseError::Parameter(what));
    let (mut mode, mut ca, mut certificate, mut key) = (None, None, None, None);
    let mut socket = None;
    for (name, value) in parameters(url) {
        let place = match &*name {
            "ssl-mode" => &mut mode,
            "ssl-ca" => &mut ca,
            "ssl-cert" => &mut certificate,
            "ssl-key" => &mut key,
            "socket" => &mut socket,
            _ => {
                return wrong(format!(
                    "there is no parameter {name:?}: those of a server are ssl-mode, ssl-ca, ssl-cert, ssl-key and socket"
                ));
            }
        };
        if place.replace(value).is_some() {
            return wrong(format!("{name} is given twice"));
        }
    }
    let mode = match mode.as_deref().map(str::parse::<MySqlSslMode>) {
        None => MySqlSslMode::Preferred,
        Some(Ok(mode)) => mode,
        Some(Err(_)) => return wrong(format!("ssl-mode is {MODES}")),
    };
    match (mode, &ca) {
        (MySqlSslMode::VerifyCa, None) => {
            return wrong(
                "ssl-mode=VERIFY_CA needs ssl-ca, the file of the authority that it is about".into(),
            );
        }
        (MySqlSslMode::VerifyCa | MySqlSslMode::VerifyIdentity, _) | (_, None) => {}
        (_, Some(_)) => {
            return wrong("ssl-ca checks nothing without ssl-mode=VERIFY_CA or VERIFY_IDENTITY".into());
        }
    }
    match (mode, &certificate, &key) {
        (_, None, None) => {}
        (MySqlSslMode::Disabled, _, _) => {
            return wrong("ssl-cert and ssl-key are for TLS, which ssl-mode=DISABLED does without".into());
        }
        (_, Some(_), Some(_)) => {}
        _ => return wrong("ssl-cert and ssl-key are given together".into()),
    }
    check_file("ssl-ca", ca.as_deref(), "CERTIFICATE-----")?;
    check_file("ssl-cert", certificate.as_deref(), "CERTIFICATE-----")?;
    check_file("ssl-key", key.as_deref(), "PRIVATE KEY-----")
}

fn parameters(url: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let query = query.split('#').next().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
}

/// Whether there is such a thing in the file; what is in it, the connection finds out.
fn check_file(parameter: &'static str, path: Option<&str>, what: &str) -> Result<(), DatabaseError> {
    let Some(path) = path.map(Path::new) else {
        return Ok(());
    };
    let text = fs::read(path).map_err(|source| DatabaseError::Certificate {
        parameter,
        path: path.into(),
        source,
    })?;
    if String::from_utf8_lossy(&text).contains(what) {
        return Ok(());
    }
    Err(DatabaseError::Parameter(format!(
        "{parameter}: {} has no {} in PEM",
        path.display(),
        what.trim_end_matches('-').to_lowercase()
    )))
}

/// Whether one of the two does not want the other's TLS, or its certificate: waiting does not help.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // As rustls says what went wrong in the handshake.
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn refusal(query: &str) -> String {
        match check_parameters(&format!("mysql://u:p@h/d?{query}")) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (query, says) in [
            ("sslmode=REQUIRED", "there is no parameter \"sslmode\""),
            ("ssl_mode=REQUIRED", "there is no parameter \"ssl_mode\""),
            ("charset=latin1", "there is no parameter \"charset\""),
            ("ssl-mode=REQUIRED&ssl-mode=DISABLED", "ssl-mode is given twice"),
            ("ssl-mode=verify", "ssl-mode is DISABLED, PREFERRED"),
            ("ssl-mode=", "ssl-mode is DISABLED, PREFERRED"),
            ("ssl-mode=VERIFY_CA", "ssl-mode=VERIFY_CA needs ssl-ca"),
            ("ssl-ca=/x", "ssl-ca checks nothing without"),
            ("ssl-mode=REQUIRED&ssl-ca=/x", "ssl-ca checks nothing without"),
            ("ssl-cert=/x", "ssl-cert and ssl-key are given together"),
            ("ssl-key=/x", "ssl-cert and ssl-key are given together"),
            (
                "ssl-mode=DISABLED&ssl-cert=/x&ssl-key=/y",
                "ssl-cert and ssl-key are for TLS",
            ),
            (
                "ssl-mode=VERIFY_CA&ssl-ca=/nowhere/ca.pem",
                "ssl-ca: /nowhere/ca.pem cannot be read",
            ),
        ] {
            let line = refusal(query);
            assert!(
                line.starts_with(&format!("the database URL: {says}")),
                "{query}: {line:?}"
            );
        }
        for query in [
            "",
            "ssl-mode=required",
            "ssl-mode=DISABLED&socket=/run/mysqld.sock",
            "ssl-mode=VERIFY_IDENTITY#x",
        ] {
            assert_eq!(refusal(query), "", "{query}");
        }
    }

    #[test]
    fn a_file_holds_what_it_is_named_for() {
        let certificate = file("-----BEGIN CERTIFICATE-----\n…");
        let key = file("-----BEGIN PRIVATE KEY-----\n…");
        let (certificate, key) = (certificate.path().display(), key.path().display());
        assert_eq!(
            refusal(&format!("ssl-mode=VERIFY_IDENTITY&ssl-ca={certificate}")),
            ""
        );
        assert_eq!(
            refusal(&format!("ssl-mode=REQUIRED&ssl-cert={certificate}&ssl-key={key}")),
            ""
        );
        let line = refusal(&format!("ssl-mode=VERIFY_CA&ssl-ca={key}"));
        assert!(line.ends_with("has no certificate in PEM"), "{line}");
        let line = refusal(&format!("ssl-cert={certificate}&ssl-key={certificate}"));
        assert!(line.ends_with("has no private key in PEM"), "{line}");
    }
}
