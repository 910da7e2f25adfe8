//! Runs one test of this binary in a process of its own, to be killed, starved of disk or locked out.

use std::path::Path;
use std::process::{Command, Output};

const FOLDER: &str = "STORE_TEST_FOLDER";

/// In a child: the folder it works in. In the ordinary test run: `None`, and the test does nothing.
pub(crate) fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}

/// A command that runs the test called `test` in a child.
pub(crate) fn command(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder);
    command
}

/// The same through a shell script that ends in `"$@"`; `$DIR` is the folder.
pub(crate) fn scripted(launcher: &[&str], script: &str, test: &str, folder: &Path) -> Command {
    let inner = command(test, folder);
    let mut command = Command::new(launcher[0]);
    command
        .args(&launcher[1..])
        .args(["sh", "-c", script, "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.env(FOLDER, folder).env("DIR", folder);
    command
}

/// Whether this machine lets us mount a small disk of our own.
pub(crate) fn can_mount() -> bool {
    let probe = "mount -t tmpfs -o size=64k tmpfs /mnt";
    let ran = Command::new("unshare")
        .args(["-rm", "sh", "-c", probe])
        .output();
    ran.is_ok_and(|output| output.status.success())
}

/// Panics with the child's words unless it ended well and really ran its test.
pub(crate) fn assert_passed(output: &Output) {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("1 passed"),
        "child failed:\n{out}\n{err}"
    );
}
