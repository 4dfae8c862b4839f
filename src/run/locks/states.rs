//! Looks at the states that a Terraform died over, once their locks are looked after.

use std::time::Duration;

use futures_util::future::join_all;

use crate::aws::AwsClients;
use crate::model::{
    Account, LockAccount, LockInfo, LockOutcome, LockPlace, Recorded, Relation, Settings, StateAccount, StateFinding,
    Unsaved,
};
use crate::run::job::Job;
use crate::run::locks::locate::Locator;
use crate::state::{Content, Errored, Expected, Judgement, Looker, PATIENCE, Seen, StateObject, compare, errored};
use crate::terraform::read_planned_state;
use crate::text;

/// How long all of it may take: the lock is looked after already, and a CI does not give much.
pub(crate) const BUDGET: Duration = Duration::from_secs(30);
/// What is kept of a cleanup step's time to say what was seen.
const TO_TELL: Duration = Duration::from_secs(2);

/// Looks, perhaps once more, at each state over which a Terraform died, or ended without releasing the lock that it
/// had. What could not be looked at is only noted. `changed`: what it did to resources, to be compared with them. `budget`: how
/// long all of it may take.
pub(crate) async fn look(
    account: &mut Account,
    locator: &Locator,
    job: &Job,
    changed: Option<Unsaved>,
    budget: Duration,
) {
    let unclean = account.has_died();
    let held = |lock: &LockAccount| match &lock.outcome {
        Some(LockOutcome::Released | LockOutcome::TakenAway | LockOutcome::Kept | LockOutcome::Left(_)) => true,
        Some(LockOutcome::Gone) => unclean,
        Some(LockOutcome::Unlocked | LockOutcome::NotOwn(_)) | None => false,
    };
    if changed.is_some() {
        account.unsaved.clear();
    }
    let changed = changed.filter(|changed| !changed.is_empty());
    let applies = account.locks.iter().filter(|lock| lock.claim.operation == "OperationTypeApply");
    let applied = applies.map(|lock| lock.claim.lock_id()).next_back().filter(|_| changed.is_some());
    let is_applied = |lock: &LockAccount| applied.as_ref() == Some(&lock.claim.lock_id());
    let mut locks: Vec<&LockAccount> = Vec::new();
    for lock in account.locks.iter().filter(|lock| held(lock) || is_applied(lock)) {
        // `init` locks a new workspace's state once more, before the command does.
        if !locks.iter().any(|known| known.claim.lock_id() == lock.claim.lock_id()) {
            locks.push(lock);
        }
    }
    let looked = locks.iter().map(async |lock| {
        let changed = changed.clone().filter(|_| is_applied(lock));
        state(account, lock, locator, job.at_most(budget, TO_TELL), changed).await
    });
    let looked = join_all(looked).await;
    let mut unsaved = changed.filter(|_| looked.iter().all(|(_, unsaved)| unsaved.is_none()));
    let mut states = Vec::new();
    for (lock, (state, found)) in locks.into_iter().zip(looked) {
        unsaved = found.or(unsaved);
        if let Some(why) = &state.why {
            tracing::debug!("state s3://{}/{} was not looked at: {why}", state.bucket, state.state_key);
        }
        if held(lock) || state.needs_a_look() {
            states.push(state);
        }
    }
    if let Some(mut unsaved) = unsaved {
        if unsaved.state.is_none() {
            unsaved.not_compared("where it is is not known to tfguard", !unclean);
        }
        unsaved.bound();
        if !unsaved.is_empty() {
            account.unsaved = vec![unsaved];
        }
    }
    // What was seen before is better than nothing.
    let before = std::mem::replace(&mut account.states, states);
    for state in account.states.iter_mut().filter(|state| state.verdict.is_none()) {
        if let Some(known) = before.iter().find(|known| known.is_of(state) && known.verdict.is_some()) {
            *state = known.clone();
        }
    }
}

/// Looks at a state, and compares what was `changed` with it.
async fn state(
    account: &Account,
    lock: &LockAccount,
    locator: &Locator,
    budget: Duration,
    mut changed: Option<Unsaved>,
) -> (StateAccount, Option<Unsaved>) {
    let orderly = !account.has_died();
    let (claim, settings) = (&lock.claim, lock.settings.as_ref());
    // An older one is of another run, which this one's ending says nothing of.
    let errored = settings.and_then(|settings| errored(&settings.directory, Some(account.started)));
    let expected = planned(settings);
    let of_backend = || Some(locator.backend(claim).ok()?.flags_of(&claim.state_key, false));
    let flags = settings.map(|settings| settings.flags.clone()).or_else(of_backend).unwrap_or_default();
    let mut state = StateAccount::new(&claim.bucket, &claim.state_key, settings, flags, &expected);
    // The child is dead, so whoever of its locks is left holds up nobody but others.
    let dead = |info: &LockInfo, _: &Recorded| account.locks.iter().any(|own| own.claim.id.as_str() == info.id);
    let looked = async {
        let (clients, places) = locator.reach(claim).await?;
        examine(&clients, &claim.state_key, places, errored.clone(), &expected, dead).await
    };
    let looked = tokio::time::timeout(budget, looked).await;
    let looked = looked.unwrap_or_else(|_| Err(format!("no answer within {budget:?}")));
    if let Some(changed) = &mut changed {
        match &looked {
            Ok((_, seen)) => compare(changed, seen, orderly),
            Err(why) => changed.not_compared(why, orderly),
        }
        changed.state = Some(claim.lock_id());
    }
    if looked.is_err() {
        // It lies here, whatever is there.
        state.findings.extend(errored.map(|errored| StateFinding::errored(&errored, Relation::NothingToCompare)));
    }
    state.note(looked);
    (state, changed)
}

/// Looks at the state whose lock had a lease and is gone. `stopped`: why to look no longer.
pub(crate) async fn look_after_reclaim(
    clients: &AwsClients,
    state_key: &str,
    places: Vec<LockPlace>,
    settings: &Settings,
    was_deleted: bool,
    stopped: impl Future<Output = String>,
) -> StateAccount {
    let expected = Expected::default();
    // Of a run that released its lock itself there is none: then it is an old one of this directory.
    let errored = was_deleted.then(|| errored(&settings.directory, None)).flatten();
    let flags = settings.flags.clone();
    let mut state = StateAccount::new(clients.backend.bucket(), state_key, Some(settings), flags, &expected);
    let looked = examine(clients, state_key, places, errored, &expected, |_, _| false);
    state.note(tokio::select! {
        biased;
        why = stopped => Err(why),
        looked = looked => looked,
        () = tokio::time::sleep(BUDGET) => Err(format!("no answer within {BUDGET:?}")),
    });
    state
}

async fn examine(
    clients: &AwsClients,
    state_key: &str,
    places: Vec<LockPlace>,
    errored: Option<Errored>,
    expected: &Expected,
    dead: impl Fn(&LockInfo, &Recorded) -> bool,
) -> Result<(Judgement, Seen), String> {
    let looker = Looker::new(clients, state_key, places.into_iter().map(|place| (place, true)));
    let look = looker.look(PATIENCE, errored, false, dead).await;
    let mut seen = look.map_err(|error| error.in_a_line())?.seen;
    Ok((looker.judge(&mut seen, expected).await, seen))
}

impl StateAccount {
    /// One that nobody has looked at yet.
    fn new(
        bucket: &str,
        state_key: &str,
        settings: Option<&Settings>,
        flags: Vec<String>,
        expected: &Expected,
    ) -> Self {
        Self {
            bucket: bucket.to_owned(),
            state_key: state_key.to_owned(),
            verdict: None,
            why: None,
            serial: None,
            lineage: None,
            findings: Vec::new(),
            next: next(settings, flags, expected),
        }
    }

    /// Notes what was seen, or why nothing was.
    fn note(&mut self, looked: Result<(Judgement, Seen), String>) {
        match looked {
            Ok((Judgement { verdict, findings, .. }, seen)) => {
                (self.verdict, self.findings) = (Some(verdict), findings);
                let content = seen.object.and_then(|object| object.content.ok());
                (self.serial, self.lineage) = content.map(|content| (content.serial, content.lineage)).unzip();
            }
            Err(why) => self.why = Some(why),
        }
    }
}

/// The state that a plan was made of, where one was applied: Terraform saw that it was still the one before it began.
/// What it is otherwise, nobody knows without asking AWS while Terraform works.
fn planned(settings: Option<&Settings>) -> Expected {
    let plan = settings.and_then(|settings| settings.plan_file.as_ref());
    let bytes = plan.and_then(|path| read_planned_state(path, StateObject::LARGEST).ok());
    let Some(Ok(content)) = bytes.map(|bytes| Content::read(&bytes)) else { return Expected::default() };
    // Before the first apply there is none, and the plan has an empty one without a lineage.
    if content.lineage.is_empty() {
        return Expected::default();
    }
    Expected { lineage: Some(content.lineage), serial: Some(content.serial) }
}

/// The command that says what to do, and where to run it. Where flags name the state, the directory is named as well: an
/// `errored.tfstate` may be in it.
fn next(settings: Option<&Settings>, flags: Vec<String>, expected: &Expected) -> String {
    let mut words = vec!["tfguard".to_owned(), "verify".to_owned()];
    let mut add = |name: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    };
    add("--chdir", flags.iter().any(|flag| flag == "--bucket").then(|| ".".to_owned()));
    if settings.is_some_and(|settings| settings.plan_file.is_some()) {
        add("--lineage", expected.lineage.clone());
        add("--serial", expected.serial.map(|serial| serial.to_string()));
    }
    words.extend(flags);
    text::run_in(settings.map(|settings| settings.directory.as_path()), &text::join(words))
}
