//! Which sessions are this job's.

use std::ffi::OsStr;

use crate::commands::release::CleanupStep;
use crate::model::{self, ProcessId, World};
use crate::session::{Journal, SessionDir, may_be_alive};

impl CleanupStep<'_> {
    /// Whether it is of the same runner, where the CI tells it: the legs of a matrix, or parallel branches, have all other
    /// names in common. What is alive of another one is its own cleanup step's to stop; what is dead, anybody's to finish.
    fn is_on_this_runner(&self, journal: &Journal) -> bool {
        journal.may_be_of_runner(self.plan.runner().as_deref())
    }

    /// Whether anything is alive, or may be, of another runner's run that nobody supervises: its front takes the
    /// supervisor's place.
    pub(super) fn goes_on_elsewhere(&self, session: &SessionDir, journal: &Journal) -> bool {
        let goes_on = !self.is_on_this_runner(journal)
            && (journal.world != World::here()
                || journal.front.is_some_and(ProcessId::is_alive)
                || may_be_alive(session, journal));
        if goes_on {
            tracing::debug!("{} is of this job on another runner, and may be alive", session.path().display());
        }
        goes_on
    }

    /// Whether a living session of this CI run, or of none, is the job's whose cleanup step this is. Outside a CI, and in
    /// one that does not name its jobs, it is where somebody chose a place for the job's sessions, or where it is of
    /// the unit of systemd that is being stopped, unless a person sits before it (then front and supervisor are one
    /// process).
    pub(super) fn is_of_this_job(&self, journal: &Journal) -> bool {
        if !self.is_on_this_runner(journal) {
            return false;
        }
        self.plan.ci.as_ref().is_some_and(model::Run::names_its_job)
            || (journal.front != journal.supervisor
                && (self.plan.env.has("TFGUARD_DIR") || self.is_of_this_unit(journal)))
    }

    /// Whether both were started by one start of a unit of systemd, and this one after its main process had ended: only
    /// there `SERVICE_RESULT` is set (systemd.exec(5)).
    fn is_of_this_unit(&self, journal: &Journal) -> bool {
        let own = |name: &str| self.plan.env.get(name);
        let theirs = journal.supervisor.and_then(|supervisor| {
            let environ = procfs::process::Process::new(supervisor.pid).and_then(|process| process.environ()).ok()?;
            environ.get(OsStr::new("INVOCATION_ID")).cloned()
        });
        own("SERVICE_RESULT").is_some() && theirs.is_some() && theirs.as_deref() == own("INVOCATION_ID")
    }
}
