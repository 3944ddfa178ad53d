use std::io::Write;

use clap::Parser;

use super::*;
use crate::{
    auth::TokenRules,
    cli::{self, Cli, Refused},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn config(args: &[&str]) -> Result<Config, ConfigError> {
    let args = ["chat-system"].iter().chain(args);
    Config::try_from(Cli::try_parse_from(args).unwrap().options)
}

fn refused(args: &[&str]) -> String {
    config(args).unwrap_err().to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = config(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(config.database_url.expose(), "sqlite://./data/chat.db");
    assert!(config.tokens.keys.is_none() && config.migrate && !config.allow_lax_durability);
    assert_eq!((config.database_connections, config.content_limit), (8, 262_144));
    assert_eq!(
        (config.queue_commands, config.batch_commands, config.batch_bytes),
        (4096, 1000, 1_048_576)
    );
    let limits = &config.limits;
    assert_eq!(
        (limits.connections_per_user, limits.connections_per_address),
        (100, 1000)
    );
    assert_eq!((limits.sends_per_second, limits.sends_burst), (200, 4000));
    assert_eq!(limits.trusted_proxies, "127.0.0.0/8, ::1".parse().unwrap());
    assert_eq!((limits.bodies, config.admin_listen), (64 << 20, None));
    assert_eq!(config.tokens.rules, TokenRules::default());
    let times = [
        config.poll,
        config.heartbeat,
        config.command_timeout,
        config.shutdown_timeout,
        config.drain,
    ];
    assert_eq!(
        times.map(|time| time.as_millis()),
        [50, 15_000, 10_000, 10_000, 3000]
    );
    assert_eq!((config.connections, config.otlp_endpoint), (None, None));
}

#[test]
fn options_stand_before_or_after_the_command() {
    assert_eq!(config(&["serve", "--poll-ms", "7"]).unwrap().poll.as_millis(), 7);
    assert_eq!(config(&["--poll-ms", "7", "serve"]).unwrap().poll.as_millis(), 7);
    assert!(
        config(&["--allow-lax-durability", "serve"])
            .unwrap()
            .allow_lax_durability
    );
    assert!(
        !config(&["--allow-lax-durability=false"])
            .unwrap()
            .allow_lax_durability
    );
    assert!(!config(&["migrate", "up", "--migrate", "false"]).unwrap().migrate);
}

#[test]
fn values_out_of_range_are_named() {
    for (args, variable) in [
        (["--content-limit", "0"], "CHAT_CONTENT_LIMIT"),
        (["--content-limit", "16777217"], "CHAT_CONTENT_LIMIT"),
        (["--database-connections", "0"], "CHAT_DATABASE_CONNECTIONS"),
        (["--queue-commands", "0"], "CHAT_QUEUE_COMMANDS"),
        (["--batch-commands", "0"], "CHAT_BATCH_COMMANDS"),
        (["--batch-bytes", "0"], "CHAT_BATCH_BYTES"),
        (["--poll-ms", "0"], "CHAT_POLL_MS"),
        (["--heartbeat-s", "0"], "CHAT_HEARTBEAT_S"),
        (["--command-timeout-ms", "99"], "CHAT_COMMAND_TIMEOUT_MS"),
        (["--shutdown-timeout-s", "3601"], "CHAT_SHUTDOWN_TIMEOUT_S"),
        (["--drain-s", "3601"], "CHAT_DRAIN_S"),
        (["--connections", "0"], "CHAT_CONNECTIONS"),
        (["--otlp-endpoint", "collector:4318"], "CHAT_OTLP_ENDPOINT"),
        (["--connections-per-user", "0"], "CHAT_CONNECTIONS_PER_USER"),
        (["--connections-per-address", "0"], "CHAT_CONNECTIONS_PER_ADDRESS"),
        (
            ["--trusted-proxies", "10.0.0.0/8,localhost"],
            "CHAT_TRUSTED_PROXIES",
        ),
        (["--sends-per-second", "0"], "CHAT_SENDS_PER_SECOND"),
        (["--sends-burst", "1000001"], "CHAT_SENDS_BURST"),
        (["--bodies-limit", "1048575"], "CHAT_BODIES_LIMIT"),
        (["--log", "a=b=c"], "CHAT_LOG"),
        (
            ["--jwt-secret", "0123456789abcdef0123456789abcde"],
            "CHAT_JWT_SECRET",
        ),
        (["--jwt-secret", ""], "CHAT_JWT_SECRET"),
        (["--jwt-public-key", SECRET], "CHAT_JWT_PUBLIC_KEY"),
        (["--jwt-public-key", ""], "CHAT_JWT_PUBLIC_KEY"),
        (["--jwks-file", "/nonexistent"], "CHAT_JWKS_FILE"),
        (["--jwks-url", ""], "CHAT_JWKS_URL"),
        (["--jwks-url", "ftp://users.example"], "CHAT_JWKS_URL"),
        (["--jwks-refresh-s", "0"], "CHAT_JWKS_REFRESH_S"),
        (["--jwt-leeway-s", "301"], "CHAT_JWT_LEEWAY_S"),
        (["--jwt-issuer", ""], "CHAT_JWT_ISSUER"),
        (["--jwt-audience", "a,,b"], "CHAT_JWT_AUDIENCE"),
        // Development tokens name neither.
        (["--jwt-issuer", "users"], "CHAT_JWT_ISSUER"),
        (["--jwt-audience", "chat"], "CHAT_JWT_AUDIENCE"),
        (["--database-url", "postgres://u:p@h/d"], "CHAT_DATABASE_URL"),
        (["--database-url", ""], "CHAT_DATABASE_URL"),
    ] {
        let line = refused(&args);
        assert!(
            line.starts_with(&format!("{variable}: ")) && !line.contains('\n'),
            "{line}"
        );
    }
    assert_eq!(
        config(&["--content-limit", "16777216"]).unwrap().content_limit,
        16 << 20
    );
}

#[test]
fn traces_are_for_a_server_that_was_built_with_them() {
    let given = config(&["--otlp-endpoint", "http://127.0.0.1:4318"]);
    if cfg!(feature = "otlp") {
        assert!(given.unwrap().otlp_endpoint.is_some());
    } else {
        let line = given.unwrap_err().to_string();
        assert!(line.contains("built without the feature otlp"), "{line}");
    }
}

#[test]
fn values_that_cannot_be_read_are_one_line_and_wrong_usage_is_clap_s() {
    let parse = |args: &[&str]| cli::parse(["chat-system"].iter().chain(args).map(Into::into));
    for (args, start) in [
        (["--content-limit", "many"], "CHAT_CONTENT_LIMIT: \"many\": "),
        (["--listen", "nowhere"], "CHAT_LISTEN: \"nowhere\": "),
        (["--admin-listen", "9000"], "CHAT_ADMIN_LISTEN: \"9000\": "),
        (["--migrate", "maybe"], "CHAT_MIGRATE: \"maybe\": "),
        (
            ["--log-format", "xml"],
            "CHAT_LOG_FORMAT: \"xml\": it is one of text, json",
        ),
    ] {
        match parse(&args) {
            Err(Refused::Value(line)) => assert!(line.starts_with(start) && !line.contains('\n'), "{line}"),
            _ => panic!("{args:?}"),
        }
    }
    for args in [["--nonsense", "1"], ["migrate", "sideways"], ["epoch", "old"]] {
        assert!(matches!(parse(&args), Err(Refused::Usage(_))), "{args:?}");
    }
}

#[test]
fn without_a_key_only_loopback_is_listened_on() {
    for open in ["0.0.0.0:3000", "[::]:3000", "192.168.1.2:3000"] {
        assert!(
            refused(&["--listen", open]).starts_with("CHAT_LISTEN: "),
            "{open}"
        );
        config(&["--listen", open, "--jwt-secret", SECRET]).unwrap();
    }
    for loopback in [
        "127.0.0.1:0",
        "127.1.2.3:3000",
        "[::1]:3000",
        "[::ffff:127.0.0.1]:3000",
    ] {
        config(&["--listen", loopback]).unwrap();
    }
}

#[test]
fn secrets_come_from_files_too_and_are_never_shown() {
    let (secret, url) = (
        file(&format!("{SECRET}\r\n")),
        file("mysql://chat:hidden@db/chat\n"),
    );
    let (secret_path, url_path) = (secret.path().to_str().unwrap(), url.path().to_str().unwrap());
    let config = config(&["--jwt-secret-file", secret_path, "--database-url-file", url_path]).unwrap();
    assert!(matches!(&config.tokens.keys, Some(KeySource::Secret(secret)) if secret.expose() == SECRET));
    assert_eq!(config.database_url.expose(), "mysql://chat:hidden@db/chat");
    let shown = format!("{config:?}");
    assert!(!shown.contains("hidden") && !shown.contains(SECRET), "{shown}");

    assert!(refused(&["--jwt-secret-file", secret_path, "--jwt-secret", SECRET]).contains("both given"));
    assert!(refused(&["--jwt-secret-file", "/nonexistent"]).starts_with("CHAT_JWT_SECRET_FILE: "));
    assert!(!refused(&["--database-url", "hidden"]).contains("hidden"));
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest_known_one() {
    let unknown = |names: &[&str]| unknown_variable(names.iter().map(Into::into));
    assert_eq!(
        unknown(&["PATH", "CHAT_LISTEN", "CHAT_JWT_SECRET_FILE", "CHATTY"]),
        None
    );
    let line = unknown(&["CHAT_LISTEN", "CHAT_DATABASE_ULR"]).unwrap();
    assert!(
        line.starts_with("CHAT_DATABASE_ULR ") && line.ends_with(" CHAT_DATABASE_URL"),
        "{line}"
    );
}

#[test]
fn keys_come_from_one_place() {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/keys/p256-public.pem");
    let pem = std::fs::read_to_string(key).unwrap();
    let set =
        file(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"gIoQ1zIw5it5hhajelWYMpAyf4jsYYVqi7XqxqRw7FI"}]}"#);
    let sources = [
        ("CHAT_JWT_SECRET", ["--jwt-secret", SECRET]),
        ("CHAT_JWT_PUBLIC_KEY", ["--jwt-public-key-file", key]),
        ("CHAT_JWKS_FILE", ["--jwks-file", set.path().to_str().unwrap()]),
        ("CHAT_JWKS_URL", ["--jwks-url", "http://127.0.0.1:1/keys"]),
    ];
    for (index, (first, one)) in sources.iter().enumerate() {
        let rules = [
            "--jwt-issuer",
            "users",
            "--jwt-audience",
            "chat, talk",
            "--listen",
            "0.0.0.0:1",
        ];
        let config = config(&[&one[..], &rules].concat()).unwrap();
        assert_eq!(config.tokens.rules.audience, ["chat", "talk"]);
        for (second, other) in &sources[index + 1..] {
            let line = refused(&[*one, *other].concat());
            assert_eq!(
                line,
                format!("{second}: {first} is given too: keys come from one place")
            );
        }
    }
    let pem = format!("--jwt-public-key={pem}");
    config(&[&pem]).unwrap();
    assert!(refused(&[&pem, "--jwt-public-key-file", key]).contains("both given"));
}
