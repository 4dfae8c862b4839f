//! A session that `tfguard release` found.

use std::fs::File;
use std::io;

use tokio::time::sleep;

use crate::model::ProcessId;
use crate::run::{Failure, Output, Spools, spools};
use crate::session::{FORGOTTEN, Journal, JournalError, POLL_INTERVAL, SessionDir, SessionFile, is_log_held};

/// How often it is looked whether a session was removed by its front.
pub(super) const REMOVAL_LOOKS: u32 = 50;

/// One session that was found.
pub(super) struct Found {
    pub session: SessionDir,
    /// The supervisor that was asked to stop.
    pub asked: Option<ProcessId>,
    /// Keeps the session until what became of it was said.
    pub attended: Option<File>,
    /// What of the output nobody had passed on when the supervisor was asked.
    pub spools: Option<Spools>,
}

impl Found {
    pub fn new(session: SessionDir) -> Self {
        Self { session, asked: None, attended: None, spools: None }
    }

    /// Passes on the output that nobody had passed on. `apart`: nothing of it to stdout.
    pub fn relay(&mut self, apart: bool) -> Result<Output, Failure> {
        let spools = self.spools.take().unwrap_or_else(|| spools(&self.session));
        Output::relay(spools, apart).map_err(Failure::Start)
    }

    /// Whether somebody copied the session: whatever lives of the run holds the files of the original.
    pub fn is_copy(&self, journal: &Journal) -> bool {
        journal.open_log(&self.session).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Reads the journal; none where the front of the run is removing its session at this moment, because everything is
    /// accounted for, or was killed before it wrote one, and so before it started anything.
    pub async fn journal(&self, dry_run: bool) -> Result<Option<Journal>, JournalError> {
        for _ in 0..REMOVAL_LOOKS {
            match Journal::read(&self.session) {
                Err(JournalError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read.map(Some),
            }
            if !self.session.exists() {
                return Ok(None);
            }
            sleep(POLL_INTERVAL).await;
        }
        // The log is made before any Terraform is started, and has been removed before a session is.
        let log = self.session.open_file(SessionFile::Log);
        if log.is_ok_and(|log| is_log_held(&log) == Some(true) || log.metadata().is_ok_and(|log| log.len() != 0)) {
            return Err(JournalError::Missing {
                path: self.session.path_of(SessionFile::Journal).display().to_string(),
            });
        }
        tracing::debug!("{} has no journal, so nothing was started in it", self.session.path().display());
        // A younger one may be another job's, whose front is about to write it.
        if !dry_run && self.session.age().is_some_and(|age| age >= FORGOTTEN) {
            self.session.remove();
        }
        Ok(None)
    }
}
