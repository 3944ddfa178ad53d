//! The original system's own stack, `peers/node`.

use std::{fs, path::Path};

use chat_tests::{Database, seed};
use serde_json::Value;

use super::Peer;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node");

/// On the legacy table, which is made in this empty database.
pub(crate) async fn node(database: &Database) -> Peer {
    let folder = Path::new(FOLDER);
    assert!(
        folder.join("node_modules").exists(),
        "{FOLDER}/node_modules is missing: `make bench` puts it there"
    );
    seed::make(database).await;
    Peer::start(Path::new("node"), |command| {
        command.arg(folder.join("server.mjs")).arg(database.url());
    })
    .await
}

/// The version of one of its packages.
pub(crate) fn package(name: &str) -> anyhow::Result<String> {
    let path = Path::new(FOLDER)
        .join("node_modules")
        .join(name)
        .join("package.json");
    let package: Value = serde_json::from_slice(&fs::read(path)?)?;
    Ok(package["version"].as_str().unwrap_or_default().to_owned())
}
