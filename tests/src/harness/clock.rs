//! A process with a clock of its own.

use std::{fs, path::PathBuf};

/// The environment of a process whose time of day `libfaketime` gives it, by these settings. Durations stay as they are.
pub fn another_clock(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries
        .chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")])
        .find(|path| path.exists())
        .expect("libfaketime is needed: apt-get install faketime");
    let library = library.display().to_string();
    [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]
    .iter()
    .chain(settings)
    .map(|&(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}
