//! Locks whose ID the child's log does not tell: lockfiles known by checksum or ETag, and locks that nothing logs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::release::{Located, Releaser, Started};
use super::rivals;
use super::supervisor::Job;
use crate::backend::{self, AwsClients, Backend, S3Backend, Store, Surroundings};
use crate::command::{self, Flavour, Product};
use crate::lock::{FoundLock, LockClaim, LockInfo, LockPlace, LockStore as _, Traced, UnconditionalDelete};
use crate::observe::item::{self, Baseline, ItemTerms, Misfit};
use crate::observe::{Believed, Entry, Expectations, Grade, LeftTrace};
use crate::other::{Command, Contested};
use crate::report::{Account, LockAccount, LockOutcome, Settings, TraceAccount};
use crate::session::Tree;

/// How long an upload may take to land after the death of the process that sent it, as in [`crate::lock::release`].
const LANDS_WITHIN: Duration = Duration::from_secs(8);
/// How long the place is asked in all.
const BUDGET: Duration = Duration::from_secs(20);
/// One request never takes longer.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(8);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Job {
    /// Where the child runs, as far as the command tells.
    pub(super) fn surroundings(&self) -> Option<Surroundings> {
        let arguments = self.command.get(1..).unwrap_or_default();
        Some(Surroundings::of_command(&self.directory, arguments, self.env.clone()))
    }

    /// The beginning of a command line by which a person runs Terraform in the child's place.
    pub(super) fn terraform(&self, program: &str, chdir: bool) -> Option<String> {
        let surroundings = self.surroundings()?;
        Some(surroundings.terraform(program, &backend::workspace(&surroundings), chdir))
    }

    /// Which records in the child's log are believed.
    pub(super) fn believed(&self) -> Believed {
        let requests = self.flavour != Flavour::Terraform;
        let state = requests.then(|| self.surroundings()).flatten().and_then(|surroundings| {
            let backend = s3(&surroundings)?;
            let key = backend.state_key(&backend::workspace(&surroundings));
            Some((backend.bucket().to_owned(), key))
        });
        let named = self.command.first().and_then(|program| command::product(program));
        Believed { records: named != Some(Product::OpenTofu), requests, states: state.into_iter().collect() }
    }
}

fn s3(surroundings: &Surroundings) -> Option<Box<S3Backend>> {
    match backend::read_backend(surroundings) {
        Ok(Backend::S3(backend)) => Some(backend),
        _ => None,
    }
}

impl Releaser {
    /// Finds out which lock a traced lockfile is, once its Terraform is dead: reads the object and compares. None if it
    /// is not there, or another is.
    ///
    /// # Errors
    /// Why it could not be found out.
    pub(super) async fn identify(&self, left: &LeftTrace) -> Result<Option<LockClaim>, String> {
        let trace = &left.entry.trace;
        let backend = self.backend(&trace.without_id())?;
        let clients = AwsClients::connect(backend).await.map_err(|error| error.to_string())?;
        let place = backend.file_place(&trace.state_key);
        let Store::Lockfile(store) = clients.open(&place, UnconditionalDelete::Refuse) else {
            return Err(format!("{place} is no lockfile"));
        };
        let start = Instant::now();
        let watch = if left.may_still_appear { LANDS_WITHIN } else { Duration::ZERO };
        loop {
            let answer = timeout(LONGEST_ATTEMPT, store.compare(trace)).await;
            let over = start.elapsed() >= BUDGET;
            match answer {
                Ok(Ok(Traced::Same(FoundLock::Held(info)))) if info.path == trace.lock_id() => {
                    return trace.claim(info).map(Some).map_err(|error| format!("{place}: {error}"));
                }
                Ok(Ok(Traced::Same(_))) => return Err(format!("{place} is this run's and is no lock of this state")),
                Ok(Ok(Traced::Other(FoundLock::Held(holder)))) if trace.sha256.is_none() && trace.etag.is_none() => {
                    return Err(format!(
                        "the log has neither checksum nor ETag of it, so the lock that is there (ID {} by {} since {}) \
                         may be it or not",
                        holder.id, holder.who, holder.created
                    ));
                }
                Ok(Ok(_)) if start.elapsed() >= watch => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if over || !error.is_retryable() => return Err(error.to_string()),
                Err(_) if over => return Err(format!("{place}: no answer")),
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Releaser {
    /// Tries again to find out which locks the traced lockfiles of an account are that were left. Those become locks
    /// that are left, and can be released as such.
    pub(super) async fn identify_again(
        &mut self,
        account: &mut Account,
        holder: &Expectations,
        command: &[OsString],
        env: &HashMap<OsString, OsString>,
    ) {
        let directory = account.directory.clone();
        let is_left = |trace: &mut TraceAccount| matches!(trace.outcome, Some(LockOutcome::Left(_)));
        for mut trace in account.traces.extract_if(.., is_left).collect::<Vec<_>>() {
            let started = Started { command, directory: &directory, env, child: None, is_terraform: false };
            let before = Located { places: trace.places.clone(), settings: trace.settings.clone() };
            let located = self.locate(&trace.entry.trace.without_id(), before, started, Tree::default);
            (trace.places, trace.settings) = (located.places, located.settings);
            let left = LeftTrace { entry: trace.entry.clone(), may_still_appear: false, unlock_in_flight: false };
            let identified = self.identify(&left).await.and_then(|claim| match claim {
                Some(claim) => holder.check_holder(&claim).map(|()| Some(claim)).map_err(|refused| refused.to_string()),
                None => Ok(None),
            });
            match identified {
                Ok(Some(claim)) => {
                    let entry = Entry { claim, stage: trace.entry.stage, grade: Grade::Request };
                    let mut lock = LockAccount::new(&entry, trace.places, trace.settings);
                    lock.outcome = trace.outcome;
                    account.locks.push(lock);
                    continue;
                }
                Ok(None) => trace.outcome = Some(LockOutcome::Gone),
                Err(why) => trace.outcome = Some(LockOutcome::Left(why)),
            }
            account.traces.push(trace);
        }
    }
}

/// A lock in the table of the child's state that no log tells of.
#[derive(Debug)]
pub struct Unlogged {
    /// The lock, as it says itself.
    pub claim: LockClaim,
    /// Where it is.
    pub places: Vec<LockPlace>,
    /// Where its backend's settings are.
    pub settings: Settings,
    /// When its holder began to ask for it.
    pub created: String,
    /// Whether it fits the child in everything.
    pub fits: Result<(), Misfit>,
}

/// Looks for a lock that nothing logs.
#[derive(Debug, Default)]
pub struct Unlogging {
    /// The look that was begun with the child.
    baseline: Option<JoinHandle<Baseline>>,
}

impl Unlogging {
    /// Begins to look what is there before the child takes its lock, beside it and never in its way. To be called when
    /// the child was just started.
    pub fn begin(job: &Job) -> Self {
        let asked = job.evidence == crate::cli::Evidence::Item && is_due(job, None);
        let baseline = job.surroundings().filter(|_| asked).map(|surroundings| {
            tokio::spawn(async move {
                let found = look(&surroundings).await;
                let answered = Timestamp::now();
                let baseline = match found {
                    Some((_, _, Ok(None))) => Baseline::Absent,
                    Some((_, _, Ok(Some(FoundLock::Held(info))))) => Baseline::Present { id: info.id, answered },
                    _ => Baseline::Unknown,
                };
                tracing::debug!("looked at the state's lock beside the start of the command: {baseline:?}");
                baseline
            })
        });
        Self { baseline }
    }

    /// Looks what is there now that the child, which logged that it is this product, is dead. None if there is nothing.
    /// `passed`: when the child logged that it had its lock. `may_land`: the request that takes the lock may still be on
    /// its way.
    ///
    /// # Errors
    /// Why that could not be seen.
    pub async fn end(
        self,
        job: &Job,
        logged: Option<(Product, &str)>,
        nodename: Option<&str>,
        (started, ended): (Timestamp, Timestamp),
        passed: Option<Timestamp>,
        may_land: bool,
    ) -> Result<Option<Unlogged>, String> {
        let baseline = match self.baseline {
            Some(look) if look.is_finished() => look.await.unwrap_or(Baseline::Unknown),
            Some(look) => {
                look.abort();
                Baseline::Unknown
            }
            None => Baseline::Unknown,
        };
        let Some(surroundings) = job.surroundings() else { return Ok(None) };
        let start = Instant::now();
        let watch = if may_land { LANDS_WITHIN } else { Duration::ZERO };
        let (backend, state_key, found) = loop {
            let Some(looked) = look(&surroundings).await else { return Ok(None) };
            let patience = match &looked.2 {
                Ok(None) => watch,
                Err(Unseen { again: true, .. }) => BUDGET,
                _ => Duration::ZERO,
            };
            if start.elapsed() >= patience {
                break looked;
            }
            sleep(LOOK_EVERY).await;
        };
        let Some(FoundLock::Held(info)) = found.map_err(|unseen| unseen.why)? else { return Ok(None) };
        let account = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        let user: Option<&OsString> = job.env.get(OsStr::new("USER"));
        let who = nodename.map(|nodename| {
            item::who(account.as_ref().map(|user| user.name.as_str()), user.map(OsString::as_os_str), nodename)
        });
        let named = job.command.first().and_then(|program| command::product(program));
        let operations = named
            .and_then(|_| command::subcommand(&job.command))
            .map(|subcommand| item::operations(&subcommand, &backend::workspace(&surroundings)));
        let contested = Contested::S3 { bucket: backend.bucket().to_owned(), key: state_key.clone() };
        let terms = ItemTerms {
            path: format!("{}/{state_key}", backend.bucket()),
            lifetime: (started, ended),
            lasted: SignedDuration::try_from(job.began.elapsed()).unwrap_or_default()
                - Timestamp::now().duration_since(ended),
            who: who.unwrap_or_default(),
            flavour: job.flavour.corrected(logged),
            version: logged.map(|(_, version)| version.to_owned()),
            operations: operations.unwrap_or_default(),
            baseline,
            passed,
            waits: Command::read(&job.command, &job.env).is_some_and(|command| command.waits),
            contested: passed.is_none() && rivals::has_rival(&contested),
        };
        let fits = item::judge(&info, &terms);
        let created = info.created.clone();
        let Ok(claim) = LockClaim::of_found(info, backend.bucket(), &state_key) else { return Ok(None) };
        let settings = Settings::of(&backend, &state_key, surroundings.dir, None, false);
        Ok(Some(Unlogged { places: backend.places(&claim).unwrap_or_default(), settings, claim, created, fits }))
    }
}

/// Whether the child may take a lock that nothing logs: it is one whose locks show only in requests, and has a table.
pub fn is_due(job: &Job, logged: Option<(Product, &str)>) -> bool {
    matches!(job.flavour.corrected(logged), Flavour::OpenTofu | Flavour::OldTerraform)
        && job
            .surroundings()
            .and_then(|surroundings| s3(&surroundings))
            .is_some_and(|backend| backend.table().is_some())
}

/// Who has the lock of the state that Terraform has there. None where that cannot be seen, or is not in S3 with a table.
pub(super) async fn holder(surroundings: &Surroundings) -> Option<Option<LockInfo>> {
    let (_, _, found) = look(surroundings).await?;
    match found.ok()? {
        None => Some(None),
        Some(FoundLock::Held(info)) => Some(Some(info)),
        Some(FoundLock::Malformed(_)) => None,
    }
}

/// A lock's place could not be looked at.
struct Unseen {
    why: String,
    /// Another look can go better.
    again: bool,
}

/// What a look at a state's lock brought.
type Looked = (Box<S3Backend>, String, Result<Option<FoundLock>, Unseen>);

/// The lock of the selected workspace's state in its table.
async fn look(surroundings: &Surroundings) -> Option<Looked> {
    let backend = s3(surroundings)?;
    let state_key = backend.state_key(&backend::workspace(surroundings));
    let place = backend.table_place(&state_key)?;
    let found = async {
        let clients = AwsClients::connect(&backend).await.map_err(|error| (error.to_string(), false))?;
        let read = clients.open(&place, UnconditionalDelete::Refuse).read().await;
        read.map_err(|error| (error.to_string(), error.is_retryable()))
    };
    let found = timeout(LONGEST_ATTEMPT, found).await.unwrap_or_else(|_| Err(("no answer".to_owned(), true)));
    let found = found.map_err(|(why, again)| Unseen { why: format!("{place}: {why}"), again });
    if let Err(Unseen { why, .. }) = &found {
        tracing::debug!("{why}");
    }
    Some((backend, state_key, found))
}
