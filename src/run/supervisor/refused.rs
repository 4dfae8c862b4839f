//! Finds out, once the child has ended, who has the lock that it was refused.
//!
//! That it was refused is known by its log and what is in the lock's place now, and by what Terraform told people, where
//! tfguard has that. The words only serve to tell people more: they make no lock this run's own.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use crate::aws::{AwsClients, S3Backend};
use crate::model::{
    Ending, FoundLock, HalfOutcome, Holder, Liveness, LockAccount, LockId, LockInfo, LockPlace, Recorded, RefusedLock,
    Settings, Sighting, Stage, TraceAccount, bucket_and_key,
};
use crate::observe::item::ItemTerms;
use crate::observe::{PrintedHolder, PrintedRefusal};
use crate::run::supervisor::Supervisor;
use crate::run::terraforms::has_rival;
use crate::session::{Judged, Machine, SessionFile};
use crate::store::{RefusedItself, Suspicion, UnconditionalDelete};
use crate::terraform::Backend;
use crate::{files, terraform, text};

/// Looking at the lock never takes longer: the run is over, and the CI waits.
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// Terraform's words for it are among the last that it says.
const TAIL: u64 = 1024 * 1024;

/// A lock that Terraform was refused.
pub(crate) struct Refused {
    /// Who has it.
    pub(crate) holder: PrintedHolder,
    /// Where it is, if that is on S3 and known.
    places: Option<Places>,
}

/// Where the lock of a state is.
struct Places {
    backend: S3Backend,
    halves: Vec<LockPlace>,
    /// Where the backend is configured.
    settings: Settings,
}

impl Supervisor<'_> {
    /// Finds out who has the lock that the child was refused, if it was.
    pub(crate) async fn explain_refusal(&mut self) {
        let ended_in_error = matches!(self.journal.account.ending, Some(Ending::Exited { code: 1.., .. }));
        if !ended_in_error || self.journal.account.lock_left() {
            return;
        }
        let Some(refused) = self.refused_by_log().or_else(|| self.refused_by_words()) else { return };
        let info = refused.holder.info.as_ref();
        let itself = info.map_or(RefusedItself::No, |info| self.refused_itself(info));
        if let RefusedItself::Likely(lock) = itself {
            self.journal.account.other_locks.push(*lock);
            return;
        }
        let found = match &refused.places {
            // Whoever wants the run to stop does not want to wait for this.
            Some(places) if self.journal.account.requests.is_empty() && !places.halves.is_empty() => look(places).await,
            _ => None,
        };
        let mut refused = self.explain(refused, found);
        if let (RefusedItself::Perhaps(why), Liveness::Unknown { .. }) = (itself, &refused.verdict) {
            refused.verdict = Liveness::Unknown { why };
        }
        self.journal.account.refused = Some(refused);
    }

    /// Whether the child itself may have the lock, on a backend that does not log its locks.
    fn refused_itself(&self, info: &LockInfo) -> RefusedItself {
        if self.log.observer.product().is_none() || self.log.observer.under_lock().is_some() {
            return RefusedItself::No;
        }
        let Self { job, journal, .. } = self;
        let intent = journal.intent.as_ref();
        let suspicion = Suspicion::of(&job.directory, &job.command, &job.env, self.log.child_is_terraform, intent);
        let Suspicion::Lock(case) = suspicion else { return RefusedItself::No };
        let contested = has_rival(&case.contested(), &info.operation);
        case.refused(info, ItemTerms { contested, ..self.item_terms() })
    }

    /// It asked for a lock, never said that it has it, and another one is there.
    fn refused_by_log(&self) -> Option<Refused> {
        let account = &self.journal.account;
        let of_lock = |lock: &LockAccount| {
            let there = lock.halves.iter().find_map(|half| match &half.outcome {
                HalfOutcome::NotOurs { holder: FoundLock::Held(info) } => Some(info.clone()),
                _ => None,
            });
            Some((there?, self.places_of_own(lock)))
        };
        let of_trace = |trace: &TraceAccount| match &trace.holder {
            Some(FoundLock::Held(info)) => Some((info.clone(), self.places_of(&trace.entry.trace.lock_id()))),
            _ => None,
        };
        let by_lock = account.locks.iter().filter(|lock| lock.stage == Stage::Attempted).filter_map(of_lock);
        let by_trace = account.traces.iter().filter(|trace| trace.entry.stage == Stage::Attempted).filter_map(of_trace);
        let (info, places) = by_lock.chain(by_trace).next()?;
        Some(Refused { holder: info.into(), places })
    }

    /// It said so on its stderr, or with `-json` on its stdout.
    pub(crate) fn refused_by_words(&self) -> Option<Refused> {
        let spools = [SessionFile::Stderr, SessionFile::Stdout].into_iter();
        let found = spools
            .flat_map(|spool| self.job.session.open_file(spool))
            .find_map(|spool| PrintedRefusal::find(&String::from_utf8_lossy(&files::tail(&spool, TAIL).ok()?)));
        let holder = found?.holder?;
        // Its own, after the answer to its request was lost: that one was looked after.
        if self.journal.account.locks.iter().any(|lock| lock.claim.id.as_str() == holder.id) {
            return None;
        }
        let places = holder.info.as_ref().and_then(|info| self.places_of(&info.path));
        Some(Refused { holder, places })
    }

    /// Where the lock of a state is, by its path.
    fn places_of(&self, path: &str) -> Option<Places> {
        let lock = self.journal.account.locks.iter().find(|lock| lock.claim.lock_id() == path);
        if let Some(places) = lock.and_then(|lock| self.places_of_own(lock)) {
            return Some(places);
        }
        let surroundings = self.job.surroundings();
        let (plan_file, backend) = terraform::read_backend_of(self.job.arguments(), &surroundings);
        let Ok(Backend::S3(backend)) = backend else { return None };
        let (halves, (_, state_key)) = (backend.places_of_state(path)?, bucket_and_key(path)?);
        let settings = Settings::of(&backend, state_key, surroundings.dir, plan_file);
        Some(Places { backend: *backend, halves, settings })
    }

    /// Where a lock is that the child asked for.
    fn places_of_own(&self, lock: &LockAccount) -> Option<Places> {
        let backend = self.locator.backend(&lock.claim).ok()?.clone();
        Some(Places { backend, halves: lock.places.clone(), settings: lock.settings.clone()? })
    }

    fn explain(&self, Refused { holder, places }: Refused, found: Option<Option<Sighting>>) -> RefusedLock {
        let is_free = found == Some(None);
        let (PrintedHolder { id, info: lock }, recorded) = match found.flatten() {
            Some(Sighting { lock: FoundLock::Held(info), recorded, .. }) => (info.into(), recorded),
            _ => (holder, Recorded::Nothing),
        };
        let machine = Machine::here(&self.job.env);
        let Judged { holder, verdict } = match &lock {
            Some(info) => machine.judge(info, &recorded),
            None => {
                let why = "only the ID of its lock could be read".to_owned();
                Judged { holder: None, verdict: Liveness::Unknown { why } }
            }
        };
        let ci = self.journal.account.ci.as_ref();
        let runner = self.journal.runner.as_deref();
        let link = holder.as_ref().and_then(Holder::link);
        let is_of_job = machine.is_of_job(&id, ci, runner);
        // People copy it into a shell, and a stranger may have made it up.
        let unlock = match places {
            Some(Places { settings: Settings { directory, flags, .. }, .. }) => {
                // What has no ID of Terraform's goes by another option.
                let id = Some(id.as_str()).filter(|id| id.parse::<LockId>().is_ok());
                text::run_in(Some(&directory), &text::unlock(id, &flags))
            }
            None => {
                let program = self.journal.account.product().program();
                let terraform = self.job.terraform(program, false);
                let end_of_options = if id.starts_with('-') { "-- " } else { "" };
                let command = format!("{terraform} force-unlock {end_of_options}{}", text::quote(&id));
                text::run_in(Some(&self.job.surroundings().dir), &command)
            }
        };
        let next = next(is_free, &verdict, is_of_job, link.as_deref(), &unlock);
        RefusedLock { id, lock, holder, verdict, free: is_free, at: Timestamp::now(), next }
    }
}

/// The one safe next step. `is_of_job`: an earlier run of this very job has the lock, and its session is on this machine.
fn next(is_free: bool, verdict: &Liveness, is_of_job: bool, link: Option<&str>, unlock: &str) -> String {
    match verdict {
        _ if is_free => "run it again: the lock has been released meanwhile".to_owned(),
        _ if is_of_job => "it is this job's own; run: tfguard release".to_owned(),
        Liveness::Alive { .. } => {
            "wait until that run has ended, then run this again (--lock-timeout 10m has it wait by itself)".to_owned()
        }
        Liveness::Dead { .. } => unlock.to_owned(),
        Liveness::Unknown { .. } => {
            let look = link.map(|link| format!("look at {link}; ")).unwrap_or_default();
            format!("{look}once you are sure that nothing of that run is alive, {unlock}")
        }
    }
}

/// What is in the lock's place now: the half that tells most. None if that could not be seen in time.
async fn look(Places { backend, halves, .. }: &Places) -> Option<Option<Sighting>> {
    let look = async {
        let clients = AwsClients::connect(backend).await.map_err(|error| error.to_string())?;
        let mut found: Option<Sighting> = None;
        for place in halves {
            let held = clients.open(place, UnconditionalDelete::Refuse).look().await;
            let held = held.map_err(|error| error.in_a_line())?;
            if held.as_ref().is_some_and(|held| held.recorded.holder().is_some()) {
                return Ok(held);
            }
            found = found.or(held);
        }
        Ok::<_, String>(found)
    };
    let looked = timeout(LONGEST_LOOK, look).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    looked.inspect_err(|why| tracing::debug!("the lock cannot be looked at: {why}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_step_is_a_safe_one() {
        let why = || "because".to_owned();
        let (alive, dead) = (Liveness::Alive { why: why() }, Liveness::Dead { why: why() });
        let unknown = Liveness::Unknown { why: why() };
        let unlock = "run in /d: tfguard unlock x";
        let link = Some("https://ci/7");
        for verdict in [&alive, &dead, &unknown] {
            assert!(next(true, verdict, true, link, unlock).starts_with("run it again"));
            assert!(next(false, verdict, true, link, unlock).ends_with("run: tfguard release"));
        }
        assert!(next(false, &alive, false, link, unlock).starts_with("wait until"));
        assert_eq!(next(false, &dead, false, link, unlock), unlock);
        let asked = next(false, &unknown, false, link, unlock);
        assert!(asked.starts_with("look at https://ci/7; once you are sure") && asked.ends_with(unlock), "{asked}");
        assert!(next(false, &unknown, false, None, unlock).starts_with("once you are sure"));
    }
}
