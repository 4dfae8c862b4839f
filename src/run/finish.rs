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

mod foretell;

use std::cell::{Cell, RefCell};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::machine::Terms;
use crate::model::{
    Account, Entry, Evidence, Grade, Holder, LockAccount, LockClaim, LockOutcome, OnDeath, ProcessId, Stage,
    StopRequest, World,
};
use crate::observe::Left;
use crate::report::ci::{Level, Message, Summary};
use crate::run::front::{A_MOMENT, finish_output, relays_of, spools, tell};
use crate::run::inner::InnerGuards;
use crate::run::plan::{Plan, patience_for};
use crate::run::release::Terms as ReleaseTerms;
use crate::run::release::{Located, Releaser, Started};
use crate::run::spool::{Relay, Spool};
use crate::run::supervisor::{Job, Supervisor, expectations};
use crate::run::{Failure, clean_up, conclude, job, report, requests, states};
use crate::session::{Journal, JournalError, SessionDir, SessionFile, Tree, is_log_held};
use crate::text::describe;
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
/// How many moments a session may take to be removed by its front.
const REMOVAL_LOOKS: u32 = 50;
/// Longer than a cleanup step next to this one takes from its claim to its name in the journal.
const ANOTHER_STEP: Duration = Duration::from_secs(5);
/// Longer than the kernel takes to end what was killed, such as a Terraform and its memory.
const DYING: Duration = Duration::from_secs(5);
/// Longer than a front takes from its session to its journal on a machine that is out of breath.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What `tfguard release` was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Cleanup {
    /// How long to wait for a Terraform that is still alive.
    pub wait: Duration,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// Finishes the sessions of this job; gives tfguard's exit code: 0 when nothing is left.
pub fn finish(plan: &Plan, cleanup: Cleanup) -> Result<u8, Failure> {
    let Cleanup { wait, dry_run } = cleanup;
    crate::aws::distrust_checkout();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    let code = runtime.block_on(async {
        let (to_us, mut requests) = unbounded_channel();
        requests::from_signals(to_us.clone(), plan.heed_hangup, false, None).map_err(Failure::Start)?;
        let mut worst = 0;
        let told = RefCell::default();
        let (sessions, refused) = SessionDir::all_and_refused(|name| std::env::var_os(name));
        for why in &refused {
            // Whether it is of this job cannot be known.
            warn(
                plan,
                format!(
                    "{why}; a run of this job that has its session there is not finished, and its lock may be left: \
                     once that is mended, or as the user of that run, run `tfguard release` again"
                ),
            );
            worst = exit::TFGUARD_FAILED;
        }
        let until = Instant::now() + wait;
        // Also who waits for no Terraform has time to release the lock of a dead one.
        let end = Instant::now() + wait.max(RESERVE) + TO_TELL;
        let found = sessions.into_iter().map(|session| Found {
            plan,
            session,
            wait,
            until,
            end,
            dry_run,
            asked: Cell::default(),
            attended: Cell::default(),
            spools: Cell::default(),
            told: &told,
        });
        let found: Vec<_> = found.collect();
        found.iter().filter(|_| !dry_run).for_each(Found::ask);
        for found in found {
            let ended = timeout_at(end, found.finish(&to_us, &mut requests)).await;
            let ended = ended.unwrap_or_else(|_| {
                let session = found.session.path().display();
                warn(
                    plan,
                    format!(
                        "the time of this step is over, and {session} is not finished: run `tfguard release` again"
                    ),
                );
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
        let told = told.into_inner();
        if !told.is_empty() {
            let env = |name: &str| plan.env.get(OsStr::new(name))?.to_str().map(str::to_owned);
            if let Some(how) = ci::how_the_job_ended(env) {
                tracing::info!("{how}");
            }
            plan.publisher.publish(&told).await;
        }
        Ok(worst)
    });
    runtime.shutdown_background();
    code
}

/// Whether something is still so when what was killed a moment ago, as by the end of a container, has had time to die.
async fn goes_on(until: Instant, is_so: impl Fn() -> bool) -> bool {
    let until = until.min(Instant::now() + DYING);
    while is_so() {
        if Instant::now() >= until {
            return true;
        }
        tokio::time::sleep(A_MOMENT).await;
    }
    false
}

/// How much a code says beside those of other sessions: a state that needs a look, less than a lock that is left.
fn weight(code: u8) -> u8 {
    if code == exit::STATE_NEEDS_A_LOOK { 1 } else { code }
}

/// What comes next for a session.
enum Next {
    /// Nothing: the exit code.
    Done(u8),
    /// What there is of it has changed.
    LookAgain,
}

/// Takes back this process's own request, if the run was over before anybody heard it: it is not to cut the rest of the
/// output short.
fn take_back(to_us: &UnboundedSender<StopRequest>, requests: &mut UnboundedReceiver<StopRequest>) {
    let others: Vec<_> = std::iter::from_fn(|| requests.try_recv().ok()).collect();
    for request in others.into_iter().filter(|request| *request != StopRequest::Release) {
        let _ = to_us.send(request);
    }
}

/// Whether a journal is of the kernel that runs here. One that does not tell its boot ID may be any; then only a living
/// supervisor is proof, by its start time.
fn is_of_this_kernel(journal: &Journal) -> bool {
    let here = World::here().boot_id;
    journal.world.boot_id == here && (!here.is_empty() || journal.supervisor.is_some_and(ProcessId::is_alive))
}

/// Whether another process can take the place of a supervisor that is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adoptable {
    /// It can.
    Yes,
    /// The run had not come to start its command.
    NothingStarted,
    /// A Terraform of another container still runs.
    Held,
    /// Whether one does cannot be known.
    Unknowable,
}

impl Adoptable {
    /// Looks. Where the session is of another PID namespace of this kernel (a container that is gone), nobody holds its log
    /// when everything in it is gone; until `until` that is waited for.
    pub(crate) async fn look(job: &Job, journal: &Journal, until: Instant) -> Self {
        if !is_of_this_kernel(journal) {
            return Self::Unknowable;
        }
        let started = journal.child.is_some() || job.session.path_of(SessionFile::Child).exists();
        if journal.world == World::here() {
            return if started { Self::Yes } else { Self::NothingStarted };
        }
        let wrote_nothing = std::fs::metadata(job.session.log()).map_or(true, |log| log.len() == 0);
        if wrote_nothing && !started {
            return Self::NothingStarted;
        }
        let is_held = || journal.open_log(&job.session).ok().and_then(|log| is_log_held(&log));
        match goes_on(until, || is_held() == Some(true)).await {
            true => Self::Held,
            false if is_held() == Some(false) => Self::Yes,
            false => Self::Unknowable,
        }
    }
}

/// Takes the place of a supervisor that is dead, as far as that is [`Adoptable`]. The session's claim is held.
pub(crate) async fn adopt(job: &Job, mut journal: Journal, requests: &mut UnboundedReceiver<StopRequest>) -> Account {
    if journal.world == World::here()
        && let Some(supervisor) = Supervisor::take_over(job, journal.clone())
    {
        return supervisor.run(requests).await;
    }
    // Its process IDs are those of other processes here.
    journal.child = None;
    Supervisor::take_over_dead(job, journal).run(requests).await
}

/// One session that was found.
struct Found<'a> {
    plan: &'a Plan,
    session: SessionDir,
    wait: Duration,
    /// When that is over, for all sessions together.
    until: Instant,
    /// When all is to be over, whatever comes.
    end: Instant,
    dry_run: bool,
    /// The supervisor that was asked to stop.
    asked: Cell<Option<ProcessId>>,
    /// Keeps the session until what became of it was said.
    attended: Cell<Option<File>>,
    /// What of the output nobody had passed on then.
    spools: Cell<Option<(Option<Spool>, Option<Spool>)>>,
    /// What was said of the job's runs.
    told: &'a RefCell<Vec<Summary>>,
}

impl Found<'_> {
    /// Asks for the stop of a run of this job that is supervised. Of all runs before the end of one is awaited: a CI does not
    /// give each of them its whole grace.
    fn ask(&self) {
        let Ok(journal) = Journal::read(&self.session) else { return };
        let ours = journal.account.ci == self.plan.ci && is_of_this_kernel(&journal) && journal.world == World::here();
        // A copy's supervisor is the original's.
        let ours = ours && !self.is_copy(&journal) && self.session.is_claimed() != Some(false);
        let Some(supervisor) = journal.supervisor.filter(|supervisor| ours && supervisor.is_alive()) else { return };
        // Looked at before: nobody may see what its front passes on from here on.
        if self.is_of_this_job(&journal) {
            let spools = spools(&self.session);
            self.attended.set(self.session.attend());
            if !supervisor.signal(requests::RELEASE) {
                return;
            }
            self.asked.set(Some(supervisor));
            self.spools.set(Some(spools));
        }
    }

    /// Whether somebody copied the session: whatever lives of the run holds the files of the original.
    fn is_copy(&self, journal: &Journal) -> bool {
        journal.open_log(&self.session).is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
    }

    fn relays(&self) -> Result<(Relay, Relay), Failure> {
        let spools = self.spools.take().unwrap_or_else(|| spools(&self.session));
        relays_of(spools).map_err(Failure::Start)
    }

    async fn finish(
        &self,
        to_us: &UnboundedSender<StopRequest>,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> Result<u8, Failure> {
        loop {
            if let Next::Done(code) = self.step(self.until, to_us, requests).await? {
                return Ok(code);
            }
        }
    }

    async fn step(
        &self,
        until: Instant,
        to_us: &UnboundedSender<StopRequest>,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> Result<Next, Failure> {
        let done = |code| Ok(Next::Done(code));
        let Some(journal) = self.journal().await? else { return done(0) };
        if journal.account.ci != self.plan.ci {
            tracing::debug!("{} is another job's", self.session.path().display());
            return done(0);
        }
        if !is_of_this_kernel(&journal) {
            let why = "was left by this job on another machine, or before a restart: whether its Terraform runs cannot \
                       be known from here, so its locks are not touched";
            return done(self.cannot_know(&journal, why));
        }
        if self.is_copy(&journal) {
            return done(self.cannot_know(&journal, COPY));
        }
        if self.dry_run {
            self.foretell(&journal);
            return done(0);
        }
        let claim = match self.session.claim() {
            Err(_) if !self.session.exists() => return done(0),
            claim => claim?,
        };
        if claim.is_none() {
            return self.await_supervisor(&journal, until, requests).await;
        }
        let Some(journal) = self.journal().await? else { return done(0) };
        if self.goes_on_elsewhere(&journal) {
            return done(0);
        }
        // Who supervises holds the claim until the run is concluded.
        let here = journal.world == World::here() && journal.account.ended.is_none();
        if let Some(supervisor) = journal.supervisor.filter(|supervisor| here && Some(*supervisor) != ProcessId::own())
            && goes_on(until, || supervisor.is_alive()).await
        {
            return done(self.cannot_know(&journal, COPY));
        }
        // A guard below it may not have accounted for its Terraform when it ended.
        let over = journal.account.ended.is_some() && InnerGuards::of(&self.session).at_work().is_empty();
        done(match over {
            true => self.look_again(journal, until, requests).await?,
            false => self.take_over(journal, until, to_us, requests).await?,
        })
    }

    /// Reads the journal; none where the front of the run is removing its session at this moment, because everything is
    /// accounted for, or was killed before it wrote one, and so before it started anything.
    async fn journal(&self) -> Result<Option<Journal>, JournalError> {
        for _ in 0..REMOVAL_LOOKS {
            match Journal::read(&self.session) {
                Err(JournalError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
                read => return read.map(Some),
            }
            if !self.session.exists() {
                return Ok(None);
            }
            tokio::time::sleep(A_MOMENT).await;
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
        if !self.dry_run && self.session.age().is_some_and(|age| age >= FORGOTTEN) {
            self.session.remove();
        }
        Ok(None)
    }

    /// The supervisor lives, and does the work.
    async fn await_supervisor(
        &self,
        journal: &Journal,
        until: Instant,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> Result<Next, Failure> {
        let done = |code| Ok(Next::Done(code));
        if !self.is_of_this_job(journal) {
            let dies = async |supervisor: ProcessId| {
                tokio::time::timeout(REMOVAL_LOOKS * A_MOMENT, supervisor.gone()).await.is_ok()
            };
            return match journal.supervisor {
                // It had been killed, and still held its claim for a moment.
                Some(supervisor) if Instant::now() < until && dies(supervisor).await => {
                    tokio::time::sleep(A_MOMENT).await;
                    Ok(Next::LookAgain)
                }
                _ => {
                    tracing::debug!("{} is alive and may be somebody else's", self.session.path().display());
                    done(0)
                }
            };
        }
        if journal.world != World::here() {
            // Who holds it may be another cleanup step, next to this one, that is about to write itself down.
            let patience = Instant::now() + ANOTHER_STEP;
            while Instant::now() < patience {
                tokio::time::sleep(A_MOMENT).await;
                let Some(journal) = self.journal().await? else { return done(0) };
                if journal.world == World::here() || self.session.claim().is_ok_and(|claim| claim.is_some()) {
                    return Ok(Next::LookAgain);
                }
            }
            return done(self.cannot_reach());
        }
        let Some(supervisor) = journal.supervisor.filter(|supervisor| supervisor.is_alive()) else {
            // It died just now, or has not written itself down yet.
            if Instant::now() < until {
                tokio::time::sleep(A_MOMENT).await;
                return Ok(Next::LookAgain);
            }
            let why = "is held by a process that does not say which it is, so it is left to that one";
            return done(exit::LOCK_LEFT.max(self.cannot_know(journal, why)));
        };
        let (stdout, stderr) = self.relays()?;
        if self.asked.get() != Some(supervisor) {
            self.attended.set(self.session.attend());
            if !supervisor.signal(requests::RELEASE) {
                tracing::debug!("the supervisor is ending just now");
            }
        }
        let ended = tokio::time::timeout_at(until, supervisor.gone()).await;
        if ended.is_err() {
            self.attended.take();
            let (program, wait) = (&journal.account.program, describe(self.wait));
            let answered = Journal::read(&self.session).is_ok_and(|journal| !journal.account.requests.is_empty());
            self.warn(if answered {
                format!(
                    "{program} is still running after {wait}; it is being stopped, and its lock released after it, without \
                     being waited for"
                )
            } else {
                format!(
                    "{program} is still running after {wait}, and whether its supervisor, process {}, heard the request to \
                     stop it cannot be seen: it may be suspended (`kill -CONT {0}` lets it go on). Run `tfguard release` \
                     again then",
                    supervisor.pid
                )
            });
            finish_output(stdout, stderr, requests).await;
            return done(exit::LOCK_LEFT);
        }
        let Some(Journal { account, .. }) = self.journal().await? else {
            // The front of the run lives too and has told what happened.
            finish_output(stdout, stderr, requests).await;
            return done(0);
        };
        if account.ended.is_none() || account.lock_left() {
            // It was killed meanwhile, or could not release: with the credentials of this step it may be possible.
            finish_output(stdout, stderr, requests).await;
            return Ok(Next::LookAgain);
        }
        let heard = self.tell(&account, stdout, stderr, requests).await;
        clean_up(&self.session, &account, !heard);
        done(left_behind(&account))
    }

    /// Whether it is of the same runner, where the CI tells it: the legs of a matrix, or parallel branches, have all other
    /// names in common. What is alive of another one is its own cleanup step's to stop; what is dead, anybody's to finish.
    fn is_on_this_runner(&self, journal: &Journal) -> bool {
        journal.may_be_of_runner(self.plan.runner().as_deref())
    }

    /// Whether anything is alive, or may be, of another runner's run that nobody supervises: its front takes the
    /// supervisor's place.
    fn goes_on_elsewhere(&self, journal: &Journal) -> bool {
        let goes_on = !self.is_on_this_runner(journal)
            && (journal.world != World::here()
                || journal.front.is_some_and(ProcessId::is_alive)
                || may_be_alive(&self.session, journal));
        if goes_on {
            tracing::debug!("{} is of this job on another runner, and may be alive", self.session.path().display());
        }
        goes_on
    }

    /// Whether a living session of this CI run, or of none, is the job's whose cleanup step this is. Outside a CI, and in
    /// one that does not name its jobs, it is where somebody chose a place for the job's sessions, or where it is of
    /// the unit of systemd that is being stopped, unless a person sits before it (then front and supervisor are one
    /// process).
    fn is_of_this_job(&self, journal: &Journal) -> bool {
        let place = self.plan.env.get(OsStr::new("TFGUARD_DIR"));
        if !self.is_on_this_runner(journal) {
            return false;
        }
        self.plan.ci.as_ref().is_some_and(model::Run::names_its_job)
            || (journal.front != journal.supervisor
                && (place.is_some_and(|place| !place.is_empty()) || self.is_of_this_unit(journal)))
    }

    /// Whether both were started by one start of a unit of systemd, and this one after its main process had ended: only
    /// there `SERVICE_RESULT` is set (systemd.exec(5)).
    fn is_of_this_unit(&self, journal: &Journal) -> bool {
        let own = |name: &str| self.plan.env.get(OsStr::new(name));
        let theirs = journal.supervisor.and_then(|supervisor| {
            let environ = procfs::process::Process::new(supervisor.pid).and_then(|process| process.environ()).ok()?;
            environ.get(OsStr::new("INVOCATION_ID")).cloned()
        });
        own("SERVICE_RESULT").is_some() && theirs.is_some() && theirs.as_ref() == own("INVOCATION_ID")
    }

    /// Nobody supervises the run, and its child may be alive.
    async fn take_over(
        &self,
        mut journal: Journal,
        until: Instant,
        to_us: &UnboundedSender<StopRequest>,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> Result<u8, Failure> {
        let job = self.job(&journal);
        let adoptable = Adoptable::look(&job, &journal, until).await;
        match adoptable {
            Adoptable::Yes => {}
            Adoptable::NothingStarted => {
                self.session.remove();
                return Ok(0);
            }
            Adoptable::Held => return Ok(self.cannot_reach()),
            Adoptable::Unknowable => {
                let why = "was left by this job in another container: whether its Terraform runs cannot be known from \
                           here, so its locks are not touched";
                return Ok(exit::LOCK_LEFT.max(self.cannot_know(&journal, why)));
            }
        }
        if journal.child.is_some_and(|child| child.id.is_alive())
            && self.grace().duration < SHORTEST_GRACE.min(self.wait / 4)
        {
            self.warn(format!(
                "{} is still running and has nobody who supervises it, and the time of this step is over: run \
                 `tfguard release` again",
                journal.account.program
            ));
            return Ok(exit::LOCK_LEFT);
        }
        let (stdout, stderr) = self.relays()?;
        journal.account.grace = Some(self.grace());
        let _ = to_us.send(StopRequest::Release);
        let account = adopt(&job, journal, requests).await;
        take_back(to_us, requests);
        conclude(self.plan, &self.session, &account);
        let heard = self.tell(&account, stdout, stderr, requests).await;
        clean_up(&self.session, &account, !heard);
        Ok(left_behind(&account))
    }

    /// Everything is over, but nobody was there to see it, or a lock was left.
    async fn look_again(
        &self,
        mut journal: Journal,
        until: Instant,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> Result<u8, Failure> {
        let (stdout, stderr) = self.relays()?;
        let is_due = journal.account.lock_left() || !journal.account.survivors.is_empty();
        if is_due && !goes_on(until, || may_be_alive(&self.session, &journal)).await {
            journal.account.survivors.clear();
            if journal.account.lock_left() {
                release_again(&self.job(&journal), &mut journal, until).await;
            }
        }
        let heard = self.tell(&journal.account, stdout, stderr, requests).await;
        let code = left_behind(&journal.account);
        if !heard || journal.account.can_be_tried_again() {
            clean_up(&self.session, &journal.account, !heard);
        } else {
            // It was told, by the run and once more here. To say it again would tell nothing.
            self.session.remove();
        }
        Ok(code)
    }

    fn job(&self, journal: &Journal) -> Job {
        let mut job = job(self.plan, self.session.clone(), &journal.account);
        // Terraform's own words for its backend are relative to where it ran.
        job.directory.clone_from(&journal.account.directory);
        job.on_death = self.on_death(journal);
        job.until = Some(self.end);
        job.flavour = crate::run::flavour(&[OsString::from(&journal.account.program)], &job.directory, &job.env);
        let (grace, none) = (self.grace().duration, Duration::ZERO);
        let patience = patience_for(&journal.account.program);
        job.terms = Terms { grace, cleanup_grace: none, own_grace: none, deadline: None, patience, ..job.terms };
        job
    }

    /// The run may have been told by its command line what this step was not.
    fn on_death(&self, journal: &Journal) -> OnDeath {
        journal.on_death.map_or(self.plan.on_death, |told| told.and(self.plan.on_death))
    }

    /// What a Terraform has whose run this process takes over.
    fn grace(&self) -> model::Term {
        let left = self.until.saturating_duration_since(Instant::now());
        let duration = left.saturating_sub(RESERVE).max(left / 2);
        model::Term { duration, why: "tfguard release waits no longer".to_owned() }
    }

    /// Says why nothing is done about a session, and which locks of it may be there.
    fn cannot_know(&self, journal: &Journal, why: &str) -> u8 {
        self.warn(format!("{} {why}", self.session.path().display()));
        let may_be_left = |lock: &&LockAccount| match &lock.outcome {
            None => lock.stage != Stage::Unlocked,
            Some(outcome) => matches!(outcome, LockOutcome::Left(_)),
        };
        let mut code = left_behind(&journal.account);
        let below = InnerGuards::of(&self.session).accounts();
        for account in std::iter::once(&journal.account).chain(&below) {
            for lock in account.locks.iter().filter(may_be_left) {
                code = exit::LOCK_LEFT;
                let LockAccount { claim: LockClaim { id, .. }, .. } = lock;
                self.warn(format!(
                    "lock {id} of {}: once you are sure that no Terraform of that run is alive, {}",
                    lock.claim.lock_id(),
                    lock.unlock(Some(id.as_str()), Some(&account.directory))
                ));
            }
        }
        code
    }

    fn cannot_reach(&self) -> u8 {
        self.warn(format!(
            "{} is supervised from another container: run `tfguard release` in that one",
            self.session.path().display()
        ));
        exit::LOCK_LEFT
    }

    /// Whether somebody heard it.
    async fn tell(
        &self,
        account: &Account,
        stdout: Relay,
        stderr: Relay,
        requests: &mut UnboundedReceiver<StopRequest>,
    ) -> bool {
        // Whoever supervised may have been asked for none.
        report(self.plan, account);
        let (summary, heard) = tell(self.plan, &self.session, account, stdout, stderr, requests).await;
        self.told.borrow_mut().push(summary);
        heard
    }

    fn warn(&self, text: String) {
        warn(self.plan, text);
    }
}

/// Whether one of the processes that were left at the end is, or may be, still there.
fn may_be_alive(session: &SessionDir, journal: &Journal) -> bool {
    match journal.open_log(session) {
        Ok(log) if journal.world == World::here() => !Tree::look(journal.child.as_ref(), &log).is_gone(),
        Ok(log) => is_log_held(&log) != Some(false),
        // tfguard removes it only where everybody was seen to be gone.
        Err(error) => error.kind() != io::ErrorKind::NotFound || !journal.account.survivors.is_empty(),
    }
}

/// Tries again to release the locks that are left, also those of the guards below, whose sessions are kept for it. Nothing
/// of the session itself is alive; of those below it that is seen here.
async fn release_again(job: &Job, journal: &mut Journal, until: Instant) {
    for inner in job.session.inner() {
        let Ok(mut below) = Journal::read(&inner) else { continue };
        let over = below.account.ended.is_some() && is_of_this_kernel(&below);
        if over && below.account.lock_left() && !goes_on(until, || may_be_alive(&inner, &below)).await {
            below.account.survivors.clear();
            Box::pin(release_again(&job.of_inner(&inner, &below), &mut below, until)).await;
        }
        let accounts = &mut journal.account.terraforms;
        if let Some(known) = accounts.iter_mut().find(|known| known.session == below.account.session) {
            *known = below.account;
        }
    }
    let command = [OsString::from(&journal.account.program)];
    let mut releaser = Releaser::new(journal.backend.clone());
    let holder = expectations(journal);
    releaser.identify_again(&mut journal.account, &holder, &command, &job.env).await;
    let record = journal.clone();
    let sessions_record = |claim: &LockClaim| Holder::of_session(&record, job.session.path(), claim.id.clone());
    for lock in &mut journal.account.locks {
        releaser.note_moved(&lock.claim);
        if !matches!(lock.outcome, Some(LockOutcome::Left(_))) || job.on_death.keeps(&lock.claim) {
            continue;
        }
        let entry = Entry { claim: lock.claim.clone(), stage: lock.stage, grade: lock.grade };
        let leftover = Left { entry, may_still_appear: false, unlock_in_flight: false };
        let (directory, env) = (&job.directory, &job.env);
        let started = Started { command: &command, directory, env, asked: &[], child: None, is_terraform: false };
        let place = Located { places: lock.places.clone(), settings: lock.settings.clone() };
        let Located { places, settings } = releaser.locate(&lock.claim, place, started, Tree::default);
        (lock.places, lock.settings) = (places, settings);
        // What is known of a lock only by what it says itself was judged when its Terraform had just died. To judge it
        // again is a person's; whether it is still there is not.
        if lock.grade == Grade::Item && (lock.halves.is_empty() || job.evidence != Evidence::Item) {
            if releaser.is_gone(&lock.claim).await {
                lock.outcome = Some(LockOutcome::Gone);
            }
            continue;
        }
        let session = &sessions_record(&lock.claim);
        let terms = ReleaseTerms { unclean: true, just_ended: false, job, session };
        let (outcome, halves) = releaser.release(&leftover, terms).await;
        (lock.outcome, lock.halves) = (Some(outcome), halves);
    }
    states::look(&mut journal.account, &releaser, job).await;
    if let Err(error) = journal.write(&job.session) {
        tracing::warn!("{error}");
    }
}

/// Says why this step cannot finish a run.
fn warn(plan: &Plan, text: String) {
    tracing::warn!("{text}");
    let message = Message::new(Level::Warning, "A run is not finished", &text);
    let command = plan.publisher.command(&message);
    if !command.is_empty() {
        // The run may be in the midst of a line.
        crate::log::raw(format!("\n{command}"));
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
