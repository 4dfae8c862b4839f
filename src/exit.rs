//! The exit codes, in one table.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// The child is gone but a lock of its own could not be released, or may not be because something of it may be alive;
/// or `unlock` left the lock.
pub const LOCK_LEFT: u8 = 120;
/// The lock is accounted for, but the state needs a look. Says more than how the child ended, less than [`LOCK_LEFT`].
pub const STATE_NEEDS_A_LOOK: u8 = 121;
/// `doctor` found something as bad as `--fail-on` says.
pub const DOCTOR_FOUND: u8 = 1;
/// The command line of a command has a mistake, or there is nothing on it. Of a run it is [`TFGUARD_FAILED`], because 2 is
/// `plan -detailed-exitcode`'s for changes.
pub const USAGE: u8 = 2;
/// `locks --fail` or `inspect` found a lock that is stale.
pub const STALE_LOCK: u8 = 122;
/// Stopped by tfguard itself: `--deadline`, `--before-expiry`, `--lease`.
pub const DEADLINE: u8 = 124;
/// tfguard itself failed: it could not start the child, or it lost the child's exit status.
pub const TFGUARD_FAILED: u8 = 125;
/// The command was found but cannot be executed.
pub const CANNOT_EXECUTE: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;

/// The table as `--help` prints it.
pub const TABLE: &str = "\
Exit codes:
  the command's  it ended by itself (also 0 and 2 of `plan -detailed-exitcode`)
  128 + n        it died of signal n; its locks are accounted for
  1              `doctor` found something as bad as --fail-on says
  2              a command (`tfguard locks`, ...) was typed wrongly
  120            it is gone, but a lock of its own is left (the message says which, why, and what to run);
                 `unlock`: the lock stays
  121            the state needs a look: of a run that died over it, also because it lacks what that
                 run made, or that lost its lock, or by `tfguard verify`
  122            `locks --fail` or `inspect` found a stale lock
  124            tfguard itself stopped it before it was done: --deadline, --before-expiry, --lease
  125            tfguard itself failed (bad option, no session directory, exit status lost)
  126 / 127      the command cannot be executed / was not found";

/// The code for a child that ended with `status`: its own, or 128 + n after signal n, as shells give it.
pub fn of_child(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Makes a panic in any thread end the process at once, with [`TFGUARD_FAILED`]. Whoever takes its place knows what a kill leaves
/// behind, while half a process would go on unseen. It isn't an abort: a core dump would have credentials in it.
pub fn at_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::exit(TFGUARD_FAILED.into());
    }));
}
