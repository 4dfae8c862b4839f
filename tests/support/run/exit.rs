//! How a program ended.

use std::fmt;

use nix::sys::signal::Signal;

/// How a program ended, and all it wrote.
pub struct Exit {
    /// What it exited with, unless it died of a signal.
    pub code: Option<i32>,
    /// The number of the signal it died of.
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Exit {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Panics, with all it wrote, unless it exited with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Panics, with all it wrote, unless it died of `signal`.
    #[track_caller]
    pub fn expect_signal(self, signal: Signal) -> Self {
        assert_eq!(self.signal, Some(signal as i32), "{self}");
        self
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => writeln!(f, "exited with {code}")?,
            (None, signal) => writeln!(f, "died of signal {}", signal.unwrap_or_default())?,
        }
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.out(), self.err())
    }
}
