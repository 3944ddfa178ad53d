//! The functions that the model's steps stand for are still there.

use std::{fs, path::Path};

/// Each step says in its comment what it stands for: "`file`: `function`, `function`", or that it is done to the system.
#[test]
fn each_step_names_functions_that_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let source = include_str!("../src/action.rs");
    let (_, steps) = source.split_once("pub enum Action {\n").expect("the steps");
    let (steps, _) = steps.split_once("\n}\n").expect("the end of the steps");

    let mut comment = String::new();
    let mut checked = 0;
    for line in steps.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            comment += text;
            continue;
        }
        let named = named(&comment);
        let is_outside = comment.contains("Done to the system:");
        assert!(!named.is_empty() || is_outside, "{line} stands for nothing");
        for (file, function) in named {
            let code =
                fs::read_to_string(top.join(&file)).unwrap_or_else(|error| panic!("{line}: {file}: {error}"));
            let is_there = ["(", "<"]
                .iter()
                .any(|after| code.contains(&format!("fn {function}{after}")));
            assert!(is_there, "{line}: there is no function {function} in {file}");
            checked += 1;
        }
        comment.clear();
    }
    assert!(checked > 30, "only {checked} names were found");
}

/// The pairs of file and function: what stands in backticks, after the file that it is in.
fn named(comment: &str) -> Vec<(String, String)> {
    let mut file = "";
    let mut named = Vec::new();
    for quoted in comment.split('`').skip(1).step_by(2) {
        if quoted.ends_with(".rs") {
            file = quoted;
        } else if !file.is_empty() {
            named.push((file.to_string(), quoted.to_string()));
        }
    }
    named
}
