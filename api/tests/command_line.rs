//! The binary as an operator meets it: what goes to stdout, what to stderr, and the exit codes.

use std::{
    env,
    process::{Command, Output},
};

use chat_api::auth::Verifier;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs the binary with these variables, and with none of those around the test.
fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-system"));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHAT_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs(variables.iter().copied())
        .output()
        .expect("the binary was built for this test")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("all output is text")
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, words: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(words), "{errors}");
    assert!(output.stdout.is_empty());
    if code == 1 {
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
}

#[test]
fn a_token_is_all_that_is_printed() {
    let output = run(
        &["token", "--user", "alice", "--expires-in", "60"],
        &[("CHAT_JWT_SECRET", SECRET)],
    );
    assert!(output.status.success() && output.stderr.is_empty());
    let token = text(&output.stdout).strip_suffix('\n').unwrap();
    assert_eq!(
        Verifier::hs256(SECRET.as_bytes())
            .verify_now(token)
            .unwrap()
            .user_id
            .as_str(),
        "alice"
    );
}

#[test]
fn the_document_is_printed_without_any_configuration() {
    let output = run(&["openapi"], &[]);
    assert!(output.status.success() && output.stderr.is_empty());
    assert_eq!(text(&output.stdout), chat_api::documents::openapi_text());
}

#[test]
fn what_is_refused_is_one_line_and_exit_code_1() {
    let serve: &[&str] = &[];
    for (args, variables, words) in [
        (
            serve,
            [("CHAT_LISTN", "127.0.0.1:0")],
            "CHAT_LISTN is not a variable",
        ),
        (
            serve,
            [("CHAT_CONTENT_LIMIT", "17000000")],
            "CHAT_CONTENT_LIMIT: 17000000 is not within",
        ),
        (
            serve,
            [("CHAT_CONTENT_LIMIT", "many")],
            "CHAT_CONTENT_LIMIT: \"many\": ",
        ),
        (
            serve,
            [("CHAT_LISTEN", "0.0.0.0:0")],
            "CHAT_LISTEN: 0.0.0.0:0 can be reached from elsewhere",
        ),
        (
            serve,
            [("CHAT_JWT_SECRET", "short")],
            "CHAT_JWT_SECRET: 5 bytes are too few",
        ),
        (
            &["token", "--user", "alice"],
            [("CHAT_LOG", "info")],
            "no secret is configured",
        ),
        (
            &["token", "--user", "a b"],
            [("CHAT_JWT_SECRET", SECRET)],
            "a user id is 1 to 32",
        ),
    ] {
        assert_refused(&run(args, &variables), 1, words);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    assert_refused(&run(&["--nonsense"], &[]), 2, "--nonsense");
    assert_refused(&run(&["token"], &[]), 2, "--user");
    assert_refused(&run(&["migrate", "sideways"], &[]), 2, "sideways");
}
