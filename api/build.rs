//! Puts the chat page into the binary, where it has been built: every file below `frontend/web/dist/page` becomes an
//! entry of a table that `src/chat_page.rs` includes. It only looks at that folder. Without Node nothing is there,
//! the table is empty, and everything builds all the same.

use std::{
    env,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let here = env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?;
    let out = env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?;
    // The folder is in the repository though what is in it is not: cargo would take one that is missing for changed.
    let dist = Path::new(&here).join("../frontend/web/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let page = dist.join("page");
    let mut files = Vec::new();
    if page.join("index.html").is_file() {
        collect(&page, &mut files)?;
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&page).map_err(io::Error::other)?;
        let name = name
            .to_str()
            .ok_or(io::ErrorKind::InvalidData)?
            .replace('\\', "/");
        let file = file.to_str().ok_or(io::ErrorKind::InvalidData)?;
        writeln!(table, "    ({name:?}, include_bytes!({file:?})),").map_err(io::Error::other)?;
    }
    table.push(']');
    fs::write(Path::new(&out).join("chat_page.rs"), table)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
