//! A script that can be started at once.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a program of a script. Another process writes it: what this one has open for writing, the kernel does not execute
/// (ETXTBSY), and a process that another test's thread starts just then has it open too, until its own exec.
#[track_caller]
pub fn make_program(path: &Path, script: &str) {
    let mut install = Command::new("sh");
    install.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut install = install.spawn().expect("a shell can be started");
    install.stdin.take().expect("it is a pipe").write_all(script.as_bytes()).expect("a shell reads");
    assert!(install.wait().expect("it ends").success(), "cannot write {}", path.display());
}
