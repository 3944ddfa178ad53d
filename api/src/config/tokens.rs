//! The options of tokens: where the keys are that they are checked with, and what they must say.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    ConfigError, Secret, seconds,
    secret::{given, one_line},
    value, within,
};
use crate::auth::{JwksSource, JwksUrl, Key, TokenRules, check_file};

const JWT_SECRET_LEAST: usize = 32;

#[derive(Debug, Args)]
pub struct TokenArguments {
    /// The secret that tokens are signed with (HS256): 32 bytes or more. Without it and without another source of keys
    /// the server runs in development mode: on loopback only, and POST /dev/token gives a token to anybody on this
    /// machine
    #[arg(
        long,
        global = true,
        env = "CHAT_JWT_SECRET",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub jwt_secret: Option<String>,

    /// A file that holds the JWT secret. Spaces and line breaks at its ends do not count
    #[arg(long, global = true, env = "CHAT_JWT_SECRET_FILE", value_name = "PATH")]
    pub jwt_secret_file: Option<PathBuf>,

    /// The public key that tokens are checked with, in PEM, or a certificate with it; also on one line, with \n where
    /// lines end or nothing. Its type says the algorithm: RSA of 2048 bits or more RS256, P-256 ES256, Ed25519 EdDSA
    #[arg(long, global = true, env = "CHAT_JWT_PUBLIC_KEY", value_name = "PEM")]
    pub jwt_public_key: Option<String>,

    /// A file that holds the public key
    #[arg(long, global = true, env = "CHAT_JWT_PUBLIC_KEY_FILE", value_name = "PATH")]
    pub jwt_public_key_file: Option<PathBuf>,

    /// A file with a JSON Web Key Set that tokens are checked with, read again when it changes
    #[arg(long, global = true, env = "CHAT_JWKS_FILE", value_name = "PATH")]
    pub jwks_file: Option<PathBuf>,

    /// Where a JSON Web Key Set is fetched that tokens are checked with: https://… (http://… on trusted networks)
    #[arg(
        long,
        global = true,
        env = "CHAT_JWKS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub jwks_url: Option<String>,

    /// How often it is fetched, in seconds; a token with a key that is not known has it fetched at once
    #[arg(
        long,
        global = true,
        env = "CHAT_JWKS_REFRESH_S",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    pub jwks_refresh_s: u64,

    /// The issuer (iss) that every token must name [default: any, or none]
    #[arg(long, global = true, env = "CHAT_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,

    /// The audience (aud) that every token must name: one of these, with commas between [default: any, or none]
    #[arg(long, global = true, env = "CHAT_JWT_AUDIENCE", value_name = "AUDIENCES")]
    pub jwt_audience: Option<String>,

    /// By how much the clocks of the issuer and of this server may differ, in seconds
    #[arg(
        long,
        global = true,
        env = "CHAT_JWT_LEEWAY_S",
        value_name = "SECONDS",
        default_value_t = 5
    )]
    pub jwt_leeway_s: u64,

    /// The claim that holds the user's id, by its whole name: user_id, or https://…/user_id
    #[arg(
        long,
        global = true,
        env = "CHAT_JWT_USER_CLAIM",
        value_name = "CLAIM",
        default_value = "sub"
    )]
    pub jwt_user_claim: String,

    /// For how long a token may be good at most, from iat to exp, or from now where it has no iat, in seconds
    /// [default: any time]
    #[arg(long, global = true, env = "CHAT_JWT_MAX_LIFETIME_S", value_name = "SECONDS")]
    pub jwt_max_lifetime_s: Option<u64>,
}

/// The claims that say something else than who it is.
const OTHER_CLAIMS: [&str; 6] = ["exp", "nbf", "iat", "iss", "aud", "scope"];

/// Where the keys are that tokens are checked with.
#[derive(Debug, Clone)]
pub enum KeySource {
    Secret(Secret),
    PublicKey(Key),
    Jwks(JwksSource),
}

#[derive(Debug, Clone)]
pub struct TokenOptions {
    /// None: development mode.
    pub keys: Option<KeySource>,
    pub rules: TokenRules,
}

impl TokenArguments {
    pub fn check(&self) -> Result<TokenOptions, ConfigError> {
        let rules = self.rules()?;
        let keys = self.keys()?;
        if keys.is_none() {
            let needs_key =
                |variable| Err(value(variable, "without a key there is nothing to check it with"));
            if rules.issuer.is_some() {
                return needs_key("CHAT_JWT_ISSUER");
            }
            if !rules.audience.is_empty() {
                return needs_key("CHAT_JWT_AUDIENCE");
            }
            if rules.user_claim != TokenRules::default().user_claim {
                return needs_key("CHAT_JWT_USER_CLAIM");
            }
            if rules.max_lifetime.is_some() {
                return needs_key("CHAT_JWT_MAX_LIFETIME_S");
            }
        }
        Ok(TokenOptions { keys, rules })
    }

    fn keys(&self) -> Result<Option<KeySource>, ConfigError> {
        let every = seconds("CHAT_JWKS_REFRESH_S", self.jwks_refresh_s, 1, 24 * 3600)?;
        let sources = [
            ("CHAT_JWT_SECRET", self.jwt_secret()?.map(KeySource::Secret)),
            (
                "CHAT_JWT_PUBLIC_KEY",
                self.jwt_public_key()?.map(KeySource::PublicKey),
            ),
            ("CHAT_JWKS_FILE", self.jwks_file()?.map(KeySource::Jwks)),
            ("CHAT_JWKS_URL", self.jwks_url(every)?.map(KeySource::Jwks)),
        ];
        let mut sources = sources
            .into_iter()
            .filter_map(|(name, source)| Some((name, source?)));
        let (first, second) = (sources.next(), sources.next());
        match (first, second) {
            (Some((first, _)), Some((second, _))) => Err(value(
                second,
                format!("{first} is given too: keys come from one place"),
            )),
            (first, _) => Ok(first.map(|(_, source)| source)),
        }
    }

    /// The secret that tokens are signed with. An empty one is refused like any other that is too short: a variable
    /// that was left empty by mistake does not switch development mode on.
    fn jwt_secret(&self) -> Result<Option<Secret>, ConfigError> {
        let variable = "CHAT_JWT_SECRET";
        let secret = given(variable, self.jwt_secret.as_ref(), self.jwt_secret_file.as_ref())?;
        let Some(secret) = secret else {
            return Ok(None);
        };
        let length = secret.bytes().len();
        if length < JWT_SECRET_LEAST {
            let reason = format!("{length} bytes are too few, {JWT_SECRET_LEAST} are needed");
            return Err(value(variable, reason));
        }
        // Whoever checks tokens with a public key as the secret lets everybody sign them.
        if secret.expose().starts_with("-----BEGIN") {
            let reason = "it is in PEM: a public key belongs into CHAT_JWT_PUBLIC_KEY, and no other one here";
            return Err(value(variable, reason));
        }
        one_line(variable, secret.expose())?;
        Ok(Some(secret))
    }

    fn jwt_public_key(&self) -> Result<Option<Key>, ConfigError> {
        let variable = "CHAT_JWT_PUBLIC_KEY";
        let pem = given(
            variable,
            self.jwt_public_key.as_ref(),
            self.jwt_public_key_file.as_ref(),
        )?;
        let key = pem.map(|pem| Key::from_pem(pem.expose())).transpose();
        key.map_err(|error| value(variable, error))
    }

    fn jwks_file(&self) -> Result<Option<JwksSource>, ConfigError> {
        let Some(path) = &self.jwks_file else {
            return Ok(None);
        };
        check_file(path).map_err(|source| ConfigError::Jwks {
            variable: "CHAT_JWKS_FILE",
            path: path.clone(),
            source,
        })?;
        Ok(Some(JwksSource::File(path.clone())))
    }

    fn jwks_url(&self, every: Duration) -> Result<Option<JwksSource>, ConfigError> {
        let variable = "CHAT_JWKS_URL";
        let Some(url) = &self.jwks_url else {
            return Ok(None);
        };
        let url = one_line(variable, url)?.parse::<JwksUrl>();
        let url = url.map_err(|error| value(variable, error))?;
        Ok(Some(JwksSource::Url { url, every }))
    }

    fn rules(&self) -> Result<TokenRules, ConfigError> {
        let named = |variable, text: &str| {
            let text = one_line(variable, text)?;
            if text.is_empty() {
                return Err(value(variable, "a name is empty"));
            }
            Ok(text.to_owned())
        };
        let issuer = self.jwt_issuer.as_deref();
        let audience = self.jwt_audience.iter().flat_map(|names| names.split(','));
        Ok(TokenRules {
            issuer: issuer.map(|name| named("CHAT_JWT_ISSUER", name)).transpose()?,
            audience: audience
                .map(|name| named("CHAT_JWT_AUDIENCE", name))
                .collect::<Result<_, _>>()?,
            leeway: within("CHAT_JWT_LEEWAY_S", self.jwt_leeway_s, 0, 300)?,
            user_claim: user_claim(&self.jwt_user_claim)?,
            max_lifetime: self.jwt_max_lifetime_s.map(max_lifetime).transpose()?,
        })
    }
}

/// A name that a refusal can show as it is.
fn user_claim(name: &str) -> Result<String, ConfigError> {
    let variable = "CHAT_JWT_USER_CLAIM";
    let name = one_line(variable, name)?;
    let allowed = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if !(1..=128).contains(&name.len()) || !name.bytes().all(allowed) {
        let reason = "the name of a claim is 1 to 128 visible characters of ASCII, without \" and \\";
        return Err(value(variable, reason));
    }
    if OTHER_CLAIMS.contains(&name) {
        return Err(value(variable, format!("the claim {name} is no user's id")));
    }
    Ok(name.to_owned())
}

fn max_lifetime(given: u64) -> Result<u64, ConfigError> {
    const TEN_YEARS: u64 = 10 * 365 * 24 * 3600;
    within("CHAT_JWT_MAX_LIFETIME_S", given, 1, TEN_YEARS)
}
