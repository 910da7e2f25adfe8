//! Standard output: results only. A reader that goes away (`forge runs | head`) ends the program quietly.

use serde_json::Value;
use std::io::{ErrorKind, Write};

/// Writes text as it is.
pub(crate) fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        if e.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("forge: cannot write to standard output: {e}");
        std::process::exit(1);
    }
}

/// Writes a line.
pub(crate) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Writes JSON.
pub(crate) fn json(value: &Value) {
    line(&format!("{value:#}"));
}
