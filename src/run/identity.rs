//! `tfguard release --run-identity`: the cleanup step of a job of which there is no session here, because it ran in
//! another container or on another machine. It looks at the lock of the current directory's state.
//!
//! It deletes that lock if the record beside it is of this very job, and the run is dead by proof, or was in a container
//! that the CI is known to have ended before ([`ci::Container`]). In everything else it says what it knows.

use jiff::Timestamp;
use tokio::time::{Duration, timeout};

use super::plan::Plan;
use super::release::{Located, Releaser, Started};
use super::{new_account, states};
use crate::backend::GivenSettings;
use crate::ci;
use crate::commands::{State, TargetError, printable};
use crate::holder::{Holder, Machine, Verdict};
use crate::lock::{
    FoundLock, HeldLock, HolderStore as _, LockClaim, LockInfo, LockPlace, StoreError, UnconditionalDelete,
};
use crate::observe::{Entry, Grade, Leftover, Stage};
use crate::report::{Account, Ending, LockAccount, LockOutcome, Settings};
use crate::session::{ProcessId, Tree, World};

/// Looking at one half of the lock never takes longer.
const LONGEST_LOOK: Duration = Duration::from_secs(15);

/// What becomes of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// It is another job's, and none of ours.
    NotOurs,
    /// It goes, for this reason.
    Release(String),
    /// It stays, for this reason.
    Stay(String),
}

/// The job whose cleanup step this is.
struct Own<'a> {
    run: Option<&'a ci::Run>,
    runner: Option<String>,
    container: Option<ci::Container>,
    world: World,
    /// The first process of its PID namespace.
    init: Option<ProcessId>,
}

impl Own<'_> {
    fn decide(&self, holder: &Holder, verdict: &Verdict) -> Decision {
        if !self.run.is_some_and(|run| holder.is_of_job(run, self.runner.as_deref())) {
            return Decision::NotOurs;
        }
        match verdict {
            Verdict::Dead { why } => Decision::Release(why.clone()),
            Verdict::Unknown { .. } if self.ended_with_its_container(holder) => {
                Decision::Release("its container was GitLab's, which has ended it before this one".to_owned())
            }
            Verdict::Alive { why } | Verdict::Unknown { why } => Decision::Stay(why.clone()),
        }
    }

    /// It was in a container of the CI's, on this very kernel, which is not this container.
    fn ended_with_its_container(&self, holder: &Holder) -> bool {
        let (here, there) = (&self.world, &holder.world);
        self.container == Some(ci::Container::GitlabDocker)
            && holder.container == self.container
            && !here.boot_id.is_empty()
            && here.boot_id == there.boot_id
            && here.pid_namespace != 0
            && there.pid_namespace != 0
            && (here.pid_namespace != there.pid_namespace || self.is_younger_than(holder))
    }

    /// It ran before there was this PID namespace. The number of one that is gone is soon given to another.
    fn is_younger_than(&self, holder: &Holder) -> bool {
        let began = self.init.map(|init| init.start_ticks);
        holder.supervisor.zip(began).is_some_and(|(supervisor, began)| supervisor.start_ticks < began)
    }
}

/// Releases what the job left; gives the account of it, none where nothing is this job's.
///
/// # Errors
/// When it cannot be known whether the job left a lock: why.
pub async fn release(plan: &Plan, dry_run: bool) -> Result<Option<Account>, String> {
    let here = std::env::current_dir().unwrap_or_default();
    let state = match State::of_directory(&here, plan.env.clone(), None, &GivenSettings::default()).await {
        Ok(state) => state,
        // What has no backend has no lock of ours.
        Err(error @ (TargetError::NotInitialised { .. } | TargetError::Local { .. })) => {
            tracing::debug!("{error}");
            return Ok(None);
        }
        Err(error) => return Err(format!("whether this job left a lock cannot be known here: {error}")),
    };
    let (found, error) = look(plan, &state).await;
    let unknown = |error| format!("whether this job left a lock of {} cannot be known: {error}", state.lock_id());
    let Some(Found { holder, .. }) = found.first() else {
        return error.map_or(Ok(None), |error| Err(unknown(error)));
    };
    let mut account = account(plan, holder);
    account.troubles.extend(error.map(unknown));
    let mut releaser = Releaser::default();
    for Found { info, decision, .. } in found {
        let lock = format!("lock {} of {}", printable(&info.id), state.lock_id());
        let claim =
            LockClaim::of_found(info, state.bucket(), &state.key).map_err(|error| format!("{lock}: {error}"))?;
        let entry = Entry { claim, stage: Stage::Held, grade: Grade::Record };
        let flags = state.backend.flags_of(&state.key, false);
        let settings = Settings { directory: here.clone(), plan_file: None, flags };
        let mut lock_account = LockAccount::new(&entry, Vec::new(), Some(settings));
        match decision {
            Decision::NotOurs => continue,
            Decision::Stay(why) => {
                let why = format!("it is this job's and stays: {}", printable(&why));
                if dry_run {
                    tracing::info!("{lock}: {why}");
                }
                // Whatever is alive of it, or may be, has not told how it ended.
                account.ending = None;
                (lock_account.places, lock_account.outcome) = (places(&state), Some(LockOutcome::Left(why)));
            }
            Decision::Release(why) => {
                tracing::info!("{lock} was left by this job: {}", printable(&why));
                if dry_run {
                    tracing::info!("lock {}: would delete it by condition", entry.claim.id);
                } else {
                    delete(plan, entry, &mut releaser, &mut lock_account).await;
                }
            }
        }
        account.locks.push(lock_account);
    }
    if dry_run {
        return Ok(None);
    }
    if account.ending.is_some() {
        states::look(&mut account, &releaser).await;
    }
    account.ended = Some(Timestamp::now());
    Ok(Some(account))
}

/// A lock that is this job's.
struct Found {
    info: LockInfo,
    holder: Holder,
    decision: Decision,
}

/// Finds the job's locks of a state, and what has to become of them; and why a half of them could not be looked at.
async fn look(plan: &Plan, state: &State) -> (Vec<Found>, Option<StoreError>) {
    let env = |name: &str| plan.env.get(std::ffi::OsStr::new(name))?.to_str().map(str::to_owned);
    let own = Own {
        run: plan.ci.as_ref(),
        runner: plan.runner(),
        container: ci::Container::of_cleanup(env),
        world: World::here(),
        init: ProcessId::of(1),
    };
    let machine = Machine::here(|name| std::env::var_os(name));
    let (mut found, mut failed) = (Vec::<Found>::new(), None);
    for place in &places(state) {
        let read = state.clients.open(place, UnconditionalDelete::Refuse);
        let held = timeout(LONGEST_LOOK, read.read_held()).await;
        let held =
            match held.unwrap_or_else(|_| Err(StoreError::TimedOut { detail: format!("{place} did not answer") })) {
                Ok(held) => held,
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
        let Some(HeldLock { lock: FoundLock::Held(info), recorded }) = held else { continue };
        // Both halves are of one lock.
        if found.iter().any(|known| known.info.id == info.id) {
            continue;
        }
        let judged = machine.judge(&info, &recorded);
        let decision = recorded.holder().map(|holder| (holder, own.decide(holder, &judged.verdict)));
        match decision {
            None | Some((_, Decision::NotOurs)) => {
                let id = printable(&info.id);
                tracing::debug!("lock {id} of {} is not recorded as this job's", state.lock_id());
            }
            Some((holder, decision)) => found.push(Found { holder: holder.clone(), info, decision }),
        }
    }
    (found, failed)
}

/// Where Terraform is set up to lock.
fn places(state: &State) -> Vec<LockPlace> {
    state.halves().into_iter().filter(|half| half.expected).map(|half| half.place).collect()
}

/// The account of a run of which there is no journal, as far as the record beside its lock tells.
fn account(plan: &Plan, holder: &Holder) -> Account {
    let session = holder.session.as_ref().and_then(|path| path.file_name()).unwrap_or_default();
    Account {
        started: holder.started,
        ci: holder.ci.clone(),
        grace: None,
        deadline: None,
        program: "terraform".to_owned(),
        ending: Some(Ending::Unknown { at: Timestamp::now() }),
        ..new_account(plan, session)
    }
}

/// Deletes each half of a lock by its own condition.
async fn delete(plan: &Plan, entry: Entry, releaser: &mut Releaser, lock: &mut LockAccount) {
    if plan.on_death.keeps(&entry.claim) {
        lock.outcome = Some(LockOutcome::Kept);
        return;
    }
    let known = Located { places: Vec::new(), settings: lock.settings.clone() };
    let started = Started { command: &[], env: &plan.env, terraform: None };
    let located = releaser.locate(&entry.claim, known, started, Tree::default);
    (lock.places, lock.settings) = (located.places, located.settings);
    let leftover = Leftover { entry, may_still_appear: false, unlock_in_flight: false };
    // It may have died just now, with a state upload on its way.
    let (outcome, halves) = releaser.release(&leftover, true, plan.unconditional).await;
    (lock.outcome, lock.halves) = (Some(outcome), halves);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(provider: ci::Provider, world: World, container: Option<ci::Container>) -> Holder {
        let text = serde_json::json!({
            "schema": 1, "lock": "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4", "tfguard": "0.1.0",
            "started": "2026-11-20T04:11:21Z", "world": world, "container": container, "runner": "r",
            "ci": {"provider": provider, "url": "https://ci/7", "job": "7"},
        });
        serde_json::from_value(text).unwrap()
    }

    fn world(boot_id: &str, pid_namespace: u64) -> World {
        World { boot_id: boot_id.to_owned(), pid_namespace }
    }

    fn own(run: &ci::Run, container: Option<ci::Container>) -> Own<'_> {
        let init = Some(ProcessId { pid: 1, start_ticks: 100 });
        Own { run: Some(run), runner: Some("r".to_owned()), container, world: world("b", 2), init }
    }

    /// A container often has the number that the one before it had.
    #[test]
    fn a_namespace_of_the_same_number_is_another_if_the_run_is_older() {
        let gitlab = Some(ci::Container::GitlabDocker);
        let unknown = Verdict::Unknown { why: "x".to_owned() };
        for (ticks, goes) in [(None, false), (Some(99), true), (Some(100), false), (Some(200), false)] {
            let mut holder = holder(ci::Provider::Gitlab, world("b", 2), gitlab);
            holder.supervisor = ticks.map(|start_ticks| ProcessId { pid: 7, start_ticks });
            let run = holder.ci.clone().unwrap();
            let decision = own(&run, gitlab).decide(&holder, &unknown);
            assert_eq!(matches!(decision, Decision::Release(_)), goes, "{ticks:?}");
            let unseen = Own { init: None, ..own(&run, gitlab) };
            assert!(matches!(unseen.decide(&holder, &unknown), Decision::Stay(_)), "{ticks:?}");
        }
    }

    /// Without proof of death only one container counts as ended: GitLab's own, of this kernel, that is not this one.
    #[test]
    fn a_lock_goes_only_by_proof_or_with_gitlabs_container() {
        let gitlab = Some(ci::Container::GitlabDocker);
        let verdicts = ["alive", "dead", "unknown"]
            .map(|word| serde_json::from_value::<Verdict>(serde_json::json!({"verdict": word, "why": "x"})).unwrap());
        let worlds = [world("b", 1), world("b", 2), world("c", 1), world("", 1), world("b", 0)];
        for verdict in &verdicts {
            for (number, world) in worlds.iter().enumerate() {
                for there in [None, gitlab, Some(ci::Container::Other)] {
                    for here in [None, gitlab, Some(ci::Container::Other)] {
                        let holder = holder(ci::Provider::Gitlab, world.clone(), there);
                        let run = holder.ci.clone().unwrap();
                        let decision = own(&run, here).decide(&holder, verdict);
                        let gone = here == gitlab && there == gitlab && number == 0;
                        let goes = verdict.is_dead() || (verdict.word() == "unknown" && gone);
                        let context = format!("{verdict:?} {world:?} {there:?} {here:?}: {decision:?}");
                        assert_eq!(matches!(decision, Decision::Release(_)), goes, "{context}");
                        assert_eq!(matches!(decision, Decision::Stay(_)), !goes, "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_lock_of_another_job_is_none_of_ours() {
        let dead = Verdict::Dead { why: "x".to_owned() };
        for provider in [ci::Provider::GithubActions, ci::Provider::Gitlab, ci::Provider::Jenkins] {
            let holder = holder(provider, world("b", 2), None);
            let run = holder.ci.clone().unwrap();
            assert_ne!(own(&run, None).decide(&holder, &dead), Decision::NotOurs);
            let text = || Some("8".to_owned());
            for other in [
                ci::Run { url: text(), ..run.clone() },
                ci::Run { job: text(), ..run.clone() },
                ci::Run { attempt: text(), ..run.clone() },
                ci::Run { provider: ci::Provider::Azure, ..run.clone() },
            ] {
                assert_eq!(own(&other, None).decide(&holder, &dead), Decision::NotOurs, "{other:?}");
            }
            // Jobs of a matrix, or parallel branches, have the same names: the runner tells them apart.
            let elsewhere = Own { runner: Some("s".to_owned()), ..own(&run, None) };
            let same = provider == ci::Provider::Gitlab;
            assert_eq!(elsewhere.decide(&holder, &dead) != Decision::NotOurs, same, "{provider:?}");
            assert_eq!(Own { run: None, ..own(&run, None) }.decide(&holder, &dead), Decision::NotOurs);
        }
        let nameless = holder(ci::Provider::Other, world("b", 2), None);
        let run = nameless.ci.clone().unwrap();
        assert_eq!(own(&run, None).decide(&nameless, &dead), Decision::NotOurs);
    }
}
