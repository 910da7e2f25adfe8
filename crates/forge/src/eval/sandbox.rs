//! Running the programs that a model wrote, in nothing but the sandbox that somebody named.
//!
//! The sandbox is a shell command: it reads the program on standard input and says by its exit status whether it ran
//! without an error. Limits on time, memory, files and network are its own business. Before any model is asked it is
//! tried on a program that must pass and on one that must fail, so that a command that accepts everything, or cannot
//! even start, is not taken for a measurement.

use crate::fault::usage;
use anyhow::{Context as _, Result};
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

const RIGHT: &str = "assert 1 + 1 == 2\n";
const WRONG: &str = "assert 1 + 1 == 3\n";

/// A command that judges Python programs.
pub(super) struct Sandbox {
    command: String,
}

impl Sandbox {
    /// Tries the command.
    pub(super) fn open(command: &str) -> Result<Self> {
        let sandbox = Self {
            command: command.to_string(),
        };
        for (program, wanted) in [(RIGHT, true), (WRONG, false)] {
            if sandbox.passes(program)? != wanted {
                return usage(format!(
                    "--sandbox {command}: it {} `{}`; it must read a Python program on standard input and exit with 0 exactly when that runs without an error, as in --sandbox 'timeout 10 python3 -' inside of a container",
                    if wanted { "rejects" } else { "accepts" },
                    program.trim_end()
                ));
            }
        }
        Ok(sandbox)
    }

    /// Whether a program runs without an error.
    pub(super) fn passes(&self, program: &str) -> Result<bool> {
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("--sandbox: no shell `sh` can be started")?;
        if let Some(mut input) = child.stdin.take() {
            match input.write_all(program.as_bytes()) {
                // A program that is not read to its end has its exit status all the same.
                Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                    return Err(e).context("--sandbox: the program cannot be handed over");
                }
                _ => {}
            }
        }
        let status = child.wait().context("--sandbox: waiting for the command")?;
        Ok(status.success())
    }
}
