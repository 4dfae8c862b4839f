//! `tfguard release`, the cleanup step of a CI job: finishes what dead or dying runs of this very job left.
//!
//! For each session of the job, by what is alive of it:
//! * its supervisor: it is asked to stop, the rest of the output is shown as it comes, its end is awaited,
//!   and a lock that it could not release is tried again;
//! * no supervisor: this process takes its place, interrupts Terraform unless the journal says that it was done, waits,
//!   kills, releases;
//! * nothing: the rest of the output is shown, and a lock that could not be released is tried again, with the
//!   credentials there are now.
//!
//! Where the session belongs to another PID namespace of this kernel (the job's container is gone, its volume stayed),
//! the kernel still tells whether a Terraform holds the session's log. Of another boot or machine nothing can be known,
//! and nothing is touched.

mod dry_run;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::machine::Terms;
use crate::model::{Account, Environment, LockAccount, LockClaim, LockOutcome, ProcessId, Stage, StopRequest, World};
use crate::report::ci::{Level, Message, Summary};
use crate::run::{
    Failure, InnerGuards, Job, Output, Plan, Requests, Spools, Supervisor, clean_up, compare_again, conclude,
    release_again, report, requests, spools,
};
use crate::session::{
    Adoptable, FORGOTTEN, Journal, JournalError, POLL_INTERVAL, SessionDir, SessionFile, goes_on, is_log_held,
    is_of_this_kernel, may_be_alive,
};
use crate::state::imports;
use crate::text::{describe, in_a_line};
use crate::{ci, exit, model};

/// With less time than this for a Terraform that nobody supervises, it is left alone: a kill would come at once.
const SHORTEST_GRACE: Duration = Duration::from_secs(10);
/// What is kept of the time to wait for the kill and the release.
const RESERVE: Duration = Duration::from_secs(30);
/// What is kept to tell of all that, when the time is over.
const TO_TELL: Duration = Duration::from_secs(5);
/// Why nothing can be known of a copy.
const COPY: &str = "is a copy of a session's directory: whether its Terraform runs is told only by the original, so its \
                    locks are not touched";
/// How often it is looked whether a session was removed by its front.
const REMOVAL_LOOKS: u32 = 50;
/// Longer than a cleanup step next to this one takes from its claim to its name in the journal.
const ANOTHER_STEP: Duration = Duration::from_secs(5);

/// What `tfguard release` was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Cleanup {
    /// How long to wait for a Terraform that is still alive.
    pub wait: Duration,
    /// Only says what would be done.
    pub dry_run: bool,
    /// Prints `import` blocks, and nothing else on stdout.
    pub imports: bool,
}

/// Finishes the sessions of this job; gives tfguard's exit code: 0 when nothing is left.
pub fn run(plan: &Plan, Cleanup { wait, dry_run, imports }: Cleanup) -> Result<u8, Failure> {
    crate::aws::distrust_checkout();
    let runtime = crate::run::runtime().map_err(Failure::Start)?;
    let code = runtime.block_on(async {
        let (to_self, requests) = unbounded_channel();
        requests::from_signals(to_self.clone(), plan.heed_hangup, false, None).map_err(Failure::Start)?;
        let until = Instant::now() + wait;
        // Also who waits for no Terraform has time to release the lock of a dead one.
        let end = Instant::now() + wait.max(RESERVE) + TO_TELL;
        let (summaries, unsaved) = (Vec::new(), Vec::new());
        let step = CleanupStep { plan, wait, until, end, dry_run, imports, to_self, requests, summaries, unsaved };
        Ok(step.run().await)
    });
    runtime.shutdown_background();
    code
}

/// How much a code says beside those of other sessions: a state that needs a look, less than a lock that is left.
fn weight(code: u8) -> u8 {
    if code == exit::STATE_NEEDS_A_LOOK { 1 } else { code }
}

/// One session that was found.
struct Found {
    session: SessionDir,
    /// The supervisor that was asked to stop.
    asked: Option<ProcessId>,
    /// Keeps the session until what became of it was said.
    attended: Option<File>,
    /// What of the output nobody had passed on when the supervisor was asked.
    spools: Option<Spools>,
}

impl Found {
    /// Passes on the output that nobody had passed on. `apart`: nothing of it to stdout.
    fn relay(&mut self, apart: bool) -> Result<Output, Failure> {
        let spools = self.spools.take().unwrap_or_else(|| spools(&self.session));
        Output::relay(spools, apart).map_err(Failure::Start)
    }

    /// Whether somebody copied the session: whatever lives of the run holds the files of the original.
    fn is_copy(&self, journal: &Journal) -> bool {
        journal.open_log(&self.session).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    /// Reads the journal; none where the front of the run is removing its session at this moment, because everything is
    /// accounted for, or was killed before it wrote one, and so before it started anything.
    async fn journal(&self, dry_run: bool) -> Result<Option<Journal>, JournalError> {
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

/// The cleanup step of a job.
struct CleanupStep<'a> {
    plan: &'a Plan,
    wait: Duration,
    /// When that is over, for all sessions together.
    until: Instant,
    /// When all is to be over, whatever comes.
    end: Instant,
    dry_run: bool,
    imports: bool,
    to_self: UnboundedSender<StopRequest>,
    requests: Requests,
    /// What was said of the job's runs.
    summaries: Vec<Summary>,
    /// Whose blocks are to be printed, and whether somebody heard what became of it.
    unsaved: Vec<(SessionDir, Account, bool)>,
}

impl CleanupStep<'_> {
    /// Gives tfguard's exit code.
    async fn run(mut self) -> u8 {
        let mut worst = 0;
        let (sessions, refused) = SessionDir::all_and_refused(&Environment::own());
        for why in &refused {
            // Whether it is of this job cannot be known.
            self.warn(&format!(
                "{}. A run of this job that has its session there is not finished, and its lock may be left: once that is \
                 mended, or as the user of that run, run `tfguard release` again",
                in_a_line(&why.to_string())
            ));
            worst = exit::TFGUARD_FAILED;
        }
        let new = |session| Found { session, asked: None, attended: None, spools: None };
        let mut found: Vec<_> = sessions.into_iter().map(new).collect();
        if !self.dry_run {
            found.iter_mut().for_each(|found| self.ask(found));
        }
        for mut found in found {
            let ended = timeout_at(self.end, self.finish(&mut found)).await;
            let ended = ended.unwrap_or_else(|_| {
                self.warn(&format!(
                    "the time of this step is over, and {} is not finished: run `tfguard release` again",
                    found.session.path().display()
                ));
                Ok(exit::LOCK_LEFT)
            });
            // Whatever relay there was, it may not take any words any more.
            crate::log::directly();
            let code = ended.unwrap_or_else(|failure| {
                tracing::error!("{failure}");
                failure.exit_code()
            });
            worst = std::cmp::max_by_key(worst, code, |code| weight(*code));
        }
        if !self.print_imports() {
            worst = std::cmp::max_by_key(worst, exit::STATE_NEEDS_A_LOOK, |code| weight(*code));
        }
        if !self.summaries.is_empty() {
            if let Some(how) = ci::how_the_job_ended(&self.plan.env) {
                tracing::info!("{how}");
            }
            self.plan.publisher.publish(&self.summaries).await;
        }
        worst
    }

    /// Asks for the stop of a run of this job that is supervised. Of all runs before the end of one is awaited: a CI does not
    /// give each of them its whole grace.
    fn ask(&self, found: &mut Found) {
        let Ok(journal) = Journal::read(&found.session) else { return };
        let ours = journal.account.ci == self.plan.ci && is_of_this_kernel(&journal) && journal.world == World::here();
        // A copy's supervisor is the original's.
        let ours = ours && !found.is_copy(&journal) && found.session.is_claimed() != Some(false);
        let Some(supervisor) = journal.supervisor.filter(|supervisor| ours && supervisor.is_alive()) else { return };
        // Looked at before: nobody may see what its front passes on from here on.
        if self.is_of_this_job(&journal) {
            let spools = spools(&found.session);
            found.attended = found.session.attend();
            if supervisor.signal(requests::RELEASE) {
                (found.asked, found.spools) = (Some(supervisor), Some(spools));
            }
        }
    }

    async fn finish(&mut self, found: &mut Found) -> Result<u8, Failure> {
        loop {
            if let Some(code) = self.step(found).await? {
                return Ok(code);
            }
        }
    }

    /// None where what there is of the session has changed, and has to be looked at again.
    async fn step(&mut self, found: &mut Found) -> Result<Option<u8>, Failure> {
        let session = found.session.clone();
        let Some(journal) = found.journal(self.dry_run).await? else { return Ok(Some(0)) };
        if journal.account.ci != self.plan.ci {
            tracing::debug!("{} is another job's", session.path().display());
            return Ok(Some(0));
        }
        if !is_of_this_kernel(&journal) {
            let why = "was left by this job on another machine, or before a restart: whether its Terraform runs cannot \
                       be known from here, so its locks are not touched";
            return Ok(Some(self.cannot_know(&session, &journal, why)));
        }
        if found.is_copy(&journal) {
            return Ok(Some(self.cannot_know(&session, &journal, COPY)));
        }
        if self.dry_run {
            self.say_what_would_be_done(&session, &journal).await;
            return Ok(Some(0));
        }
        let claim = match session.claim() {
            Err(_) if !session.exists() => return Ok(Some(0)),
            claim => claim?,
        };
        if claim.is_none() {
            return self.await_supervisor(found, &journal).await;
        }
        let Some(journal) = found.journal(false).await? else { return Ok(Some(0)) };
        if self.goes_on_elsewhere(&session, &journal) {
            return Ok(Some(0));
        }
        // Who supervises holds the claim until the run is concluded.
        let here = journal.world == World::here() && journal.account.ended.is_none();
        if let Some(supervisor) = journal.supervisor.filter(|supervisor| here && Some(*supervisor) != ProcessId::own())
            && goes_on(self.until, || supervisor.is_alive()).await
        {
            return Ok(Some(self.cannot_know(&session, &journal, COPY)));
        }
        // A guard below it may not have accounted for its Terraform when it ended.
        let is_over = journal.account.ended.is_some() && InnerGuards::of(&session).at_work().is_empty();
        let code = if is_over { self.look_again(found, journal).await } else { self.take_over(found, journal).await };
        code.map(Some)
    }

    /// The supervisor lives, and does the work.
    async fn await_supervisor(&mut self, found: &mut Found, journal: &Journal) -> Result<Option<u8>, Failure> {
        let (session, until) = (found.session.clone(), self.until);
        if !self.is_of_this_job(journal) {
            let dies =
                async |supervisor: ProcessId| timeout(REMOVAL_LOOKS * POLL_INTERVAL, supervisor.gone()).await.is_ok();
            return match journal.supervisor {
                // It had been killed, and still held its claim for a moment.
                Some(supervisor) if Instant::now() < until && dies(supervisor).await => {
                    sleep(POLL_INTERVAL).await;
                    Ok(None)
                }
                _ => {
                    tracing::debug!("{} is alive and may be somebody else's", session.path().display());
                    Ok(Some(0))
                }
            };
        }
        if journal.world != World::here() {
            // Who holds it may be another cleanup step, next to this one, that is about to write itself down.
            let patience = Instant::now() + ANOTHER_STEP;
            while Instant::now() < patience {
                sleep(POLL_INTERVAL).await;
                let Some(journal) = found.journal(false).await? else { return Ok(Some(0)) };
                if journal.world == World::here() || session.claim().is_ok_and(|claim| claim.is_some()) {
                    return Ok(None);
                }
            }
            return Ok(Some(self.cannot_reach(&session)));
        }
        let Some(supervisor) = journal.supervisor.filter(|supervisor| supervisor.is_alive()) else {
            // It died just now, or has not written itself down yet.
            if Instant::now() < until {
                sleep(POLL_INTERVAL).await;
                return Ok(None);
            }
            let why = "is in the hands of a process that doesn't identify itself, so it is left to that process";
            self.cannot_know(&session, journal, why);
            return Ok(Some(exit::LOCK_LEFT));
        };
        let output = found.relay(self.imports)?;
        if found.asked != Some(supervisor) {
            found.attended = session.attend();
            if !supervisor.signal(requests::RELEASE) {
                tracing::debug!("the supervisor is ending just now");
            }
        }
        if timeout_at(until, supervisor.gone()).await.is_err() {
            found.attended = None;
            let account = Journal::read(&session).map(|journal| journal.account).unwrap_or_default();
            let (below, _) = InnerGuards::of(&session).accounts();
            let locks = account.locks.iter().chain(below.iter().flat_map(|below| &below.locks));
            let held = locks.filter(|lock| !lock.stage.is_over());
            let held: String =
                held.map(|lock| format!(" (lock {} of {})", lock.claim.id, lock.claim.lock_id())).collect();
            let heard = match account.requests.is_empty() && account.ending.is_none() {
                true => format!(
                    "whether its supervisor, process {}, heard the request to stop it cannot be seen: it may be suspended \
                     (`kill -CONT {0}` lets it go on)",
                    supervisor.pid
                ),
                false => "tfguard ends it and releases its lock".to_owned(),
            };
            self.warn(&format!(
                "{} is not accounted for after {}{held}, and this step no longer waits: {heard}. Run `tfguard release` \
                 again to hear what came of it",
                journal.account.program,
                describe(self.wait)
            ));
            output.finish(&mut self.requests).await;
            return Ok(Some(exit::LOCK_LEFT));
        }
        let Some(Journal { mut account, .. }) = found.journal(false).await? else {
            // The front of the run lives too and has told what happened.
            output.finish(&mut self.requests).await;
            return Ok(Some(0));
        };
        if account.ended.is_none() || account.lock_left() {
            // It was killed meanwhile, or could not release: with the credentials of this step it may be possible.
            output.finish(&mut self.requests).await;
            return Ok(None);
        }
        self.conclude(found, &mut account, output).await;
        Ok(Some(left_behind(&account)))
    }

    /// Whether it is of the same runner, where the CI tells it: the legs of a matrix, or parallel branches, have all other
    /// names in common. What is alive of another one is its own cleanup step's to stop; what is dead, anybody's to finish.
    fn is_on_this_runner(&self, journal: &Journal) -> bool {
        journal.may_be_of_runner(self.plan.runner().as_deref())
    }

    /// Whether anything is alive, or may be, of another runner's run that nobody supervises: its front takes the
    /// supervisor's place.
    fn goes_on_elsewhere(&self, session: &SessionDir, journal: &Journal) -> bool {
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
    fn is_of_this_job(&self, journal: &Journal) -> bool {
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

    /// Nobody supervises the run, and its child may be alive.
    async fn take_over(&mut self, found: &mut Found, mut journal: Journal) -> Result<u8, Failure> {
        let session = found.session.clone();
        let job = self.job(&session, &journal);
        match Adoptable::look(&job.session, &journal, self.until).await {
            Adoptable::Yes => {}
            Adoptable::NothingStarted => {
                session.remove();
                return Ok(0);
            }
            Adoptable::Held => return Ok(self.cannot_reach(&session)),
            Adoptable::Unknowable => {
                let why = "was left by this job in another container: whether its Terraform runs cannot be known from \
                           here, so its locks are not touched";
                self.cannot_know(&session, &journal, why);
                return Ok(exit::LOCK_LEFT);
            }
        }
        if journal.child.is_some_and(|child| child.id.is_alive())
            && self.grace().duration < SHORTEST_GRACE.min(self.wait / 4)
        {
            self.warn(&format!(
                "{} is still running and nobody supervises it, and the time of this step is over: run \
                 `tfguard release` again",
                journal.account.program
            ));
            return Ok(exit::LOCK_LEFT);
        }
        let output = found.relay(self.imports)?;
        journal.account.grace = Some(self.grace());
        let _ = self.to_self.send(StopRequest::Release);
        let mut account = Supervisor::adopt(&job, journal, &mut self.requests)
            .await
            .map_err(|error| Failure::NotTakenOver(error.to_string()))?;
        // This process's own request, where the run was over before anybody heard it, is not to cut the output short.
        let others: Vec<_> = std::iter::from_fn(|| self.requests.try_recv().ok()).collect();
        for request in others.into_iter().filter(|request| *request != StopRequest::Release) {
            let _ = self.to_self.send(request);
        }
        conclude(self.plan, &session, &account);
        self.conclude(found, &mut account, output).await;
        Ok(left_behind(&account))
    }

    /// Everything is over, but nobody was there to see it, or a lock was left.
    async fn look_again(&mut self, found: &mut Found, mut journal: Journal) -> Result<u8, Failure> {
        let session = found.session.clone();
        let output = found.relay(self.imports)?;
        let is_due = journal.account.lock_left() || !journal.account.survivors.is_empty();
        if is_due && !goes_on(self.until, || may_be_alive(&session, &journal)).await {
            journal.account.survivors.clear();
            if journal.account.lock_left() {
                release_again(&self.job(&session, &journal), &mut journal, self.until).await;
            }
        }
        if journal.account.lacks_resources() {
            compare_again(&self.job(&session, &journal), &mut journal).await;
        }
        let heard = self.conclude(found, &mut journal.account, output).await;
        let is_printed_later = self.unsaved.iter().any(|(later, ..)| *later.name() == *session.name());
        let is_told = heard && !is_printed_later && !InnerGuards::of(&session).are_hidden();
        if is_told && !journal.account.can_be_tried_again() && !journal.account.lacks_resources() {
            // It was told, by the run and once more here. To say it again would tell nothing.
            session.remove();
        }
        Ok(left_behind(&journal.account))
    }

    /// The run as this process goes on with it, or tries again to release what it left.
    fn job(&self, session: &SessionDir, journal: &Journal) -> Job {
        let mut job = Job::new(self.plan, session.clone(), &journal.account).of_journal(session, journal);
        let (grace, none) = (self.grace().duration, Duration::ZERO);
        job.until = Some(self.end);
        job.terms = Terms { grace, cleanup_grace: none, own_grace: none, ..job.terms };
        job
    }

    /// What a Terraform has whose run this process takes over.
    fn grace(&self) -> model::Term {
        let left = self.until.saturating_duration_since(Instant::now());
        let duration = left.saturating_sub(RESERVE).max(left / 2);
        model::Term { duration, why: "tfguard release waits no longer".to_owned() }
    }

    /// Says why nothing is done about a session, and which locks of it may be there.
    fn cannot_know(&self, session: &SessionDir, journal: &Journal, why: &str) -> u8 {
        self.warn(&format!("{} {why}", session.path().display()));
        let mut code = left_behind(&journal.account);
        let (below, _) = InnerGuards::of(session).accounts();
        for account in std::iter::once(&journal.account).chain(&below) {
            for lock in account.locks.iter().filter(|lock| may_be_left(lock)) {
                code = exit::LOCK_LEFT;
                let LockClaim { id, .. } = &lock.claim;
                self.warn(&format!(
                    "lock {id} of {}: once you are sure that no Terraform of that run is alive, {}",
                    lock.claim.lock_id(),
                    lock.unlock(Some(id.as_str()), Some(&account.directory))
                ));
            }
        }
        code
    }

    fn cannot_reach(&self, session: &SessionDir) -> u8 {
        self.warn(&format!(
            "{} is supervised from another container: run `tfguard release` in that one",
            session.path().display()
        ));
        exit::LOCK_LEFT
    }

    /// Passes on the rest of the output, gives the account of the run, and removes what nobody will want. Whether somebody
    /// heard it.
    async fn conclude(&mut self, found: &Found, account: &mut Account, output: Output) -> bool {
        // Whoever supervised may have been asked for none.
        report(self.plan, account);
        let (summary, heard) = output.finish_with(self.plan, &found.session, account, &mut self.requests).await;
        self.summaries.push(summary);
        if self.imports && account.lacks_resources() {
            self.unsaved.push((found.session.clone(), account.clone(), heard));
            account.forget_unsaved();
        } else {
            clean_up(&found.session, account, !heard);
        }
        heard
    }

    /// Prints the `import` blocks of all runs, or nobody could tell which of them are of one address. What was printed needs
    /// nobody any more. Whether that came about.
    fn print_imports(&mut self) -> bool {
        let all: Vec<_> = self.unsaved.iter().flat_map(|(_, account, _)| account.all_unsaved()).collect();
        let printed = io::stdout().lock().write_all(imports(&all).as_bytes());
        if let Err(error) = &printed {
            tracing::error!("the import blocks cannot be written: {error}");
        }
        for (session, account, heard) in &mut self.unsaved {
            if printed.is_ok() {
                account.forget_unsaved();
            }
            clean_up(session, account, !*heard);
        }
        printed.is_ok()
    }

    /// Says why this step cannot finish a run.
    fn warn(&self, text: &str) {
        tracing::warn!("{text}");
        let message = Message::new(Level::Warning, "A run is not finished", text);
        let command = self.plan.publisher.command(&message);
        if !command.is_empty() {
            // The run may be in the midst of a line.
            crate::log::raw(format!("\n{command}"));
        }
    }
}

/// Whether a lock may be there still, as far as an account tells.
fn may_be_left(lock: &LockAccount) -> bool {
    match &lock.outcome {
        None => lock.stage != Stage::Unlocked,
        Some(outcome) => matches!(outcome, LockOutcome::Left(_)),
    }
}

fn left_behind(account: &Account) -> u8 {
    if account.lock_left() {
        exit::LOCK_LEFT
    } else if account.state_needs_a_look() {
        exit::STATE_NEEDS_A_LOOK
    } else {
        0
    }
}
