//! `chat-system`, the binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_api::cli::run()
}
