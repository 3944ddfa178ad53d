//! JSON Schema, by a validator that others use too (the one in schemathesis): a process beside the tests that is asked line
//! by line. It ends with its stdin, so with the test process.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

use serde_json::{Value, json};

use crate::plain;

/// A schema that the process knows.
#[derive(Clone, Copy, Debug)]
pub struct Validator(usize);

impl Validator {
    pub fn new(schema: &Value) -> Validator {
        let mut asked = process().lock().unwrap_or_else(PoisonError::into_inner);
        asked.ask(&json!({"schema": schema, "values": []}));
        asked.schemas += 1;
        Validator(asked.schemas - 1)
    }

    /// What is wrong with a value, or nothing.
    pub fn wrong(&self, value: &Value) -> Vec<String> {
        let asked = json!({"schema": self.0, "values": [value]});
        let answer = process()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(&asked);
        let wrong = answer.as_array().expect("a list").iter();
        wrong
            .map(|line| line.as_str().expect("a line of text").to_owned())
            .collect()
    }

    /// Which of the values are right.
    pub fn are_valid(&self, values: &[String]) -> Vec<bool> {
        let asked = json!({"schema": self.0, "values": values, "brief": true});
        let answer = process()
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(&asked);
        let valid = answer.as_array().expect("a list").iter();
        valid.map(|valid| valid.as_bool().expect("yes or no")).collect()
    }
}

struct Process {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    schemas: usize,
    _child: Child,
}

fn process() -> &'static Mutex<Process> {
    static PROCESS: OnceLock<Mutex<Process>> = OnceLock::new();
    PROCESS.get_or_init(|| {
        let python = plain::folder().join(".venv/bin/python");
        assert!(
            python.exists(),
            "{} is missing: run tests/prepare",
            python.display()
        );
        let mut child = Command::new(python)
            .arg(plain::folder().join("validate.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python runs");
        Mutex::new(Process {
            stdin: child.stdin.take().expect("piped"),
            stdout: BufReader::new(child.stdout.take().expect("piped")),
            schemas: 0,
            _child: child,
        })
    })
}

impl Process {
    fn ask(&mut self, asked: &Value) -> Value {
        writeln!(self.stdin, "{asked}").expect("the validator listens");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the validator answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} to {asked}"))
    }
}
