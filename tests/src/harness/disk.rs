//! A process whose disk may be full.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

use super::guard::temporary_folder;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/full_disk.c");

/// The environment of a process whose disk takes nothing more while there is a file of this name, which may be relative
/// to where it stands.
pub fn on_a_disk_that_may_be_full(
    full: &str,
    mut environment: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let library = library().display().to_string();
    match environment.iter_mut().find(|(name, _)| name == "LD_PRELOAD") {
        Some((_, libraries)) => *libraries = format!("{libraries}:{library}"),
        None => environment.push(("LD_PRELOAD".into(), library)),
    }
    environment.push(("FULL_DISK".into(), full.into()));
    environment
}

/// Built when it is first asked for.
fn library() -> PathBuf {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = temporary_folder("full-disk");
        let built = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&folder.path().join("full_disk.so"), Path::new(SOURCE)])
            .arg("-ldl")
            .status();
        assert!(built.is_ok_and(|status| status.success()), "cc builds {SOURCE}");
        folder
    });
    folder.path().join("full_disk.so")
}
