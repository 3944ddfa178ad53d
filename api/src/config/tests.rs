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
    assert_eq!((limits.reads_per_second, limits.reads_burst), (500, 5000));
    assert_eq!(limits.new_conversations, 20);
    assert_eq!((limits.bodies, limits.answers), (64 << 20, 64 << 20));
    assert_eq!((limits.reads_at_work, config.admin_listen), (8, None));
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
        (["--keep-alive-s", "0"], "CHAT_KEEP_ALIVE_S"),
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
        (["--reads-per-second", "0"], "CHAT_READS_PER_SECOND"),
        (["--reads-burst", "1000001"], "CHAT_READS_BURST"),
        (
            ["--new-conversations-per-hour", "0"],
            "CHAT_NEW_CONVERSATIONS_PER_HOUR",
        ),
        (["--bodies-limit", "1048575"], "CHAT_BODIES_LIMIT"),
        (["--answers-limit", "4194303"], "CHAT_ANSWERS_LIMIT"),
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
        (["--jwt-max-lifetime-s", "0"], "CHAT_JWT_MAX_LIFETIME_S"),
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

fn variables(variables: &[(&str, &str)]) -> Variables {
    let variables = variables.iter();
    variables
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest_known_one() {
    let unknown = |names: &[&str]| {
        let named: Vec<_> = names.iter().map(|name| (*name, "1")).collect();
        variables(&named).unknown()
    };
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
fn service_links_of_kubernetes_are_passed_over_by_their_shape() {
    let links = [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_HOST", "fd00::1"),
        ("SERVICE_PORT", "3000"),
        ("SERVICE_PORT_HTTP", "3000"),
        ("SERVICE_PORT_HTTP_ADMIN", "9000"),
        ("PORT", "tcp://10.0.0.1:3000"),
        ("PORT", "tcp://[fd00::1]:3000"),
        ("PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("PORT_3000_TCP_PROTO", "tcp"),
        ("PORT_3000_TCP_PORT", "3000"),
        ("PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("PORT_53_UDP", "udp://10.0.0.1:53"),
        ("PORT_53_UDP_PROTO", "udp"),
    ];
    for service in [
        "CHAT",
        "CHAT_SYSTEM",
        "CHAT_SERVICE",
        "CHAT_PORT",
        "CHAT_JWT_SECRET",
    ] {
        for (rest, value) in links {
            let name = format!("{service}_{rest}");
            let found = variables(&[(&name, value), ("CHAT_LISTEN", "127.0.0.1:1"), ("CHAT", value)]);
            assert_eq!(found.unknown(), None, "{name}={value}");
            assert_eq!(found.service_links(), [name]);
        }
    }
    for (name, value) in [
        // What somebody means for this server, who has not looked up how it is called.
        ("CHAT_PORT", "3000"),
        ("CHAT_PORT", "127.0.0.1:3000"),
        ("CHAT_PORT", "http://10.0.0.1:3000"),
        ("CHAT_PORT", "tcp://"),
        ("CHAT_PORT", "tcp://example.com:3000"),
        ("CHAT_PORT", "tcp://10.0.0.1:70000"),
        ("CHAT_HOST", "10.0.0.1"),
        ("CHAT_SERVICE_HOST", "example.com"),
        ("CHAT_SERVICE_PORT", "http"),
        ("CHAT_SERVICE_PORTS", "3000"),
        ("CHAT_SERVICE", "10.0.0.1"),
        ("CHAT_PORT_3000_TCP", "3000"),
        ("CHAT_PORT_3000_TCP_HOST", "10.0.0.1"),
        ("CHAT_PORT_X_TCP", "tcp://10.0.0.1:3000"),
        ("CHAT_PORT_3000_TCP_ADDR", ""),
    ] {
        let found = variables(&[(name, value)]);
        assert!(
            found.unknown().is_some_and(|line| line.starts_with(name)),
            "{name}={value}"
        );
        assert!(found.service_links().is_empty());
    }
}

#[test]
fn white_space_around_the_value_of_a_variable_does_not_count() {
    let flags = |given: &[(&str, &str)], args: &[&str]| {
        let args: Vec<_> = args.iter().map(Into::into).collect();
        variables(given).trimmed(&args)
    };
    let given = [
        ("CHAT_LISTEN", "127.0.0.1:1\r"),
        ("CHAT_POLL_MS", " 7\n"),
        ("CHAT_MIGRATE", "true"),
        ("CHAT_JWT_ISSUER", "users\r\n"),
        // Where they are read: on the command line they would be told from a variable.
        ("CHAT_DATABASE_URL", "sqlite://./chat.db\n"),
    ];
    let all = ["--listen=127.0.0.1:1", "--jwt-issuer=users", "--poll-ms=7"];
    assert_eq!(flags(&given, &["chat-system"]), all);
    for args in [["--poll-ms", "9"], ["serve", "--poll-ms=9"]] {
        assert_eq!(flags(&given, &args), all[..2], "what is given wins");
    }
}

#[test]
fn white_space_around_secrets_and_urls_does_not_count_and_inside_of_them_is_refused() {
    for (before, after) in [
        ("", "\n"),
        ("", "\n\n"),
        ("", "\r\n"),
        (" ", " \t"),
        ("\u{feff}", "\n"),
    ] {
        let around = |text: &str| format!("{before}{text}{after}");
        let (secret, url) = (around(SECRET), around("sqlite://./x.db"));
        let config_of = [
            config(&["--jwt-secret", &secret, "--database-url", &url]).unwrap(),
            config(&[
                "--jwt-secret-file",
                file(&secret).path().to_str().unwrap(),
                "--database-url-file",
                file(&url).path().to_str().unwrap(),
            ])
            .unwrap(),
        ];
        for config in config_of {
            assert!(
                matches!(&config.tokens.keys, Some(KeySource::Secret(secret)) if secret.expose() == SECRET)
            );
            assert_eq!(config.database_url.expose(), "sqlite://./x.db");
        }
        config(&["--jwks-url", &around("https://users.example/keys")]).unwrap();
    }
    for (option, variable, wrong) in [
        (
            "--database-url",
            "CHAT_DATABASE_URL",
            "sqlite://./x.db\nsqlite://./y.db",
        ),
        ("--database-url", "CHAT_DATABASE_URL", "mysql://u:hidden\u{7}@h/d"),
        (
            "--jwt-secret",
            "CHAT_JWT_SECRET",
            "0123456789abcdef\n0123456789abcdef-hidden",
        ),
        ("--jwks-url", "CHAT_JWKS_URL", "https://users.example/\r\nhidden"),
    ] {
        let line = refused(&[option, wrong]);
        let expected =
            format!("{variable}: a line break or another control character stands in the middle of it");
        assert_eq!(line, expected);
    }
}

#[test]
fn a_public_key_is_no_secret_to_sign_with() {
    let pem = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/keys/rsa-public.pem"
    ));
    let line = refused(&[&format!("--jwt-secret={}", pem.unwrap())]);
    assert!(
        line.starts_with("CHAT_JWT_SECRET: it is in PEM") && !line.contains('\n'),
        "{line}"
    );
}

#[test]
fn what_stands_in_the_list_of_processes_is_told() {
    let told = |args: &[&str]| {
        let args = ["chat-system"].iter().chain(args).map(Into::into);
        let Ok(cli) = cli::parse(args) else {
            panic!("they are understood")
        };
        cli.options.given.in_the_open
    };
    let secret = ["--jwt-secret", SECRET];
    let url = ["--database-url", "mysql://chat:hidden@db/chat"];
    for args in [&secret[..], &["serve", secret[0], secret[1]]] {
        let [line] = &told(args)[..] else {
            panic!("one line")
        };
        assert!(
            line.starts_with("--jwt-secret stands in") && line.contains("CHAT_JWT_SECRET_FILE"),
            "{line}"
        );
        assert!(!line.contains(SECRET));
    }
    let [line] = &told(&url)[..] else {
        panic!("one line")
    };
    assert!(
        line.contains("CHAT_DATABASE_URL_FILE") && !line.contains("hidden"),
        "{line}"
    );
    assert_eq!(told(&[&secret[..], &url[..]].concat()).len(), 2);
    let [line] = &told(&["--jwks-url", "https://users.example/keys?key=hidden"])[..] else {
        panic!("one line")
    };
    assert!(
        line.contains("CHAT_JWKS_URL") && !line.contains("hidden"),
        "{line}"
    );
    for harmless in [
        &["--database-url", "sqlite://./a:b@c"][..],
        &["--database-url", "mysql://chat@db:3306/chat"],
        &["--database-url", "mysql://chat:@db/chat"],
        &["--jwt-secret-file", "/run/secrets/jwt"],
        &["--jwks-url", "https://users.example/keys"],
        &[],
    ] {
        assert!(told(harmless).is_empty(), "{harmless:?}");
    }
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

#[test]
fn the_claim_of_the_user_s_id_is_chosen_by_its_whole_name() {
    let claim = |name: &str| config(&["--jwt-secret", SECRET, "--jwt-user-claim", name]);
    for name in ["sub", "user_id", "https://example.com/user_id", "a.b"] {
        assert_eq!(claim(name).unwrap().tokens.rules.user_claim, name);
    }
    for name in ["", "a b", "a\"b", "ä", "exp", "iss", &"x".repeat(129)] {
        let line = claim(name).unwrap_err().to_string();
        assert!(
            line.starts_with("CHAT_JWT_USER_CLAIM: ") && !line.contains('\n'),
            "{line}"
        );
    }
    for option in ["--jwt-user-claim=user_id", "--jwt-max-lifetime-s=60"] {
        assert!(refused(&[option]).contains("without a key"), "{option}");
    }
}
