//! Watches a lock until it is gone, and deletes it once its lease has run out: the world around the lease's observers.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::aws::{AwsClients, StoreError, within};
use crate::machine::lease::observer::{Action, Event, Finish, Observer};
use crate::machine::lease::{Answer, Lease as Term, Sight, Times};
use crate::model::{
    Environment, FoundLock, Half, HalfOutcome, Holder, Lease, LeaseVersion, Leased, LockPlace, ProcessId, RefusedLock,
    Sighting, World,
};
use crate::run::IN_FLIGHT;
use crate::session::{Judged, Machine, boot_time};
use crate::store::{Leasehold, Store, UnconditionalDelete};
use crate::text::{describe, printable};

/// The limit of one request.
const LONGEST_REQUEST: Duration = Duration::from_secs(10);
/// tokio's clock stands still while the machine is suspended, so it is not asked for more at once.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// Between two lines about a lock that is still there.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How many looks may fail where no lease was seen yet.
const FIRST_LOOKS: u32 = 3;

/// Watches the halves of a state's lock.
pub(crate) struct Expiry {
    clients: AwsClients,
    halves: Vec<Watched>,
    /// The only lock that may be deleted; any that has a lease where it is none.
    only: Option<String>,
    /// The locks that people were told of, the last one last.
    told: Vec<String>,
    /// When there was a line about one.
    told_at: Instant,
    /// People were told that its holder lives although its lease has run out.
    told_alive: bool,
    /// Looks that failed one after another.
    failed: u32,
}

/// One half of the lock.
struct Watched {
    place: LockPlace,
    store: Store,
    observer: Observer<String, LeaseVersion>,
    /// The lock and its lease as they were read last.
    found: Option<Found>,
    /// What its observer wants to write.
    due: Option<Action<String, LeaseVersion>>,
    /// Why its holder must be dead, where that is proven by more than its lease.
    dead: Option<String>,
    /// The lock that its observer wanted to delete last, and why.
    wanted: (String, String),
    /// A delete was sent: whether it was answered with success.
    deleted: Option<bool>,
    end: Option<Finish>,
}

/// A lock, and its lease where it has an ID.
type Found = (Sighting, Option<Leasehold>);

/// How the watch of a lock ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expired {
    /// There is no lock, and there was none.
    Free,
    /// There is none any more, and tfguard deleted none.
    Gone,
    /// There is none any more, and tfguard deleted it, or a half of it.
    Reclaimed,
    /// There is one that no lease decides on, for this reason.
    Stays(String),
    /// The only lock that was to be watched was renewed.
    Renewed,
    /// There is another lock than that.
    Another,
}

impl Expiry {
    /// Watches the lock in these places, whoever's it is, for as long as it is renewed.
    pub(crate) fn of_state(clients: &AwsClients, places: impl IntoIterator<Item = LockPlace>) -> Self {
        let halves = places.into_iter().map(|place| Watched {
            observer: match place {
                LockPlace::DynamoDb { .. } => Observer::new(None),
                LockPlace::Lockfile { .. } => Observer::new(Some(LeaseVersion::fresh)),
            },
            store: clients.open(&place, UnconditionalDelete::Refuse),
            place,
            found: None,
            due: None,
            dead: None,
            wanted: Default::default(),
            deleted: None,
            end: None,
        });
        Self {
            clients: clients.clone(),
            halves: halves.collect(),
            only: None,
            told: Vec::new(),
            told_at: Instant::now(),
            told_alive: false,
            failed: 0,
        }
    }

    /// Watches this lock only, and only until it is renewed.
    pub(crate) fn only(self, lock: &str) -> Self {
        Self { only: Some(lock.to_owned()), ..self }
    }

    /// Watches until the lock is gone. May be dropped at any time: each request has its condition.
    ///
    /// # Errors
    /// When the lock cannot be looked at, or not be deleted.
    pub(crate) async fn watch(&mut self) -> Result<Expired, StoreError> {
        loop {
            for at in 0..self.halves.len() {
                self.halves[at].observer.handle_time(boot_time());
                if let Some(ended) = self.obey(at).await? {
                    return Ok(ended);
                }
            }
            // A lock is dead only if each half of it is.
            while self.halves.iter().all(|half| half.due.is_some() || half.end.is_some())
                && let Some(at) = self.halves.iter().position(|half| half.due.is_some())
                && !(0..self.halves.len()).any(|half| self.is_seen_alive(half))
            {
                self.write(at).await?;
                if let Some(ended) = self.obey(at).await? {
                    return Ok(ended);
                }
            }
            if self.halves.iter().all(|half| half.end.is_some()) {
                if self.halves.iter().any(|half| half.end == Some(Finish::Reclaimed)) {
                    return Ok(Expired::Reclaimed);
                }
                let Some(lock) = self.told.last() else { return Ok(Expired::Free) };
                tracing::info!("lock {} is gone", printable(lock));
                return Ok(Expired::Gone);
            }
            self.tell();
            let next = self.halves.iter().filter_map(|half| half.observer.next_time()).min();
            let left = next.map_or(LONGEST_SLEEP, |next| next.saturating_sub(boot_time()));
            sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Whether a delete was sent: whether one was answered with success.
    pub(crate) fn deleted(&self) -> Option<bool> {
        self.halves.iter().filter_map(|half| half.deleted).max()
    }

    /// What became of the halves, as far as they are gone.
    pub(crate) fn gone(&self) -> Vec<Half> {
        let gone = self.halves.iter().filter_map(|half| {
            let outcome = match half.end? {
                Finish::Reclaimed => HalfOutcome::Deleted,
                Finish::Free => HalfOutcome::AlreadyGone,
                Finish::Unleased => return None,
            };
            Some(Half { place: half.place.clone(), outcome })
        });
        gone.collect()
    }

    /// Does what the observer of a half wants, but for what it wants to write.
    async fn obey(&mut self, at: usize) -> Result<Option<Expired>, StoreError> {
        while let Some(action) = self.halves[at].observer.poll_action() {
            match action {
                Action::Read => {
                    if let Some(ended) = self.look(at).await? {
                        return Ok(Some(ended));
                    }
                }
                Action::Finish(Finish::Unleased) => {
                    return Ok(Some(Expired::Stays(self.halves[at].unleased())));
                }
                Action::Finish(finish) => {
                    let half = &mut self.halves[at];
                    half.end = Some(finish);
                    if finish == Finish::Reclaimed {
                        tracing::warn!("{}", half.deletion());
                    }
                }
                write @ (Action::Fence { .. } | Action::Delete { .. }) => self.halves[at].due = Some(write),
            }
        }
        Ok(None)
    }

    /// Reads a half.
    async fn look(&mut self, at: usize) -> Result<Option<Expired>, StoreError> {
        let mut found = self.read(at).await;
        // A run's first beat comes a moment after its lock. And a lockfile is not read at once with its lease: both may have
        // gone in between.
        if found.as_ref().is_ok_and(|found| found.as_ref().is_some_and(|found| sight(found).lease.is_none())) {
            sleep(IN_FLIGHT).await;
            found = self.read(at).await;
        }
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.failed += 1;
                if !error.is_retryable() || (self.told.is_empty() && self.failed >= FIRST_LOOKS) {
                    return Err(error);
                }
                let place = &self.halves[at].place;
                tracing::info!("{place} could not be read, so the wait begins anew: {}", error.in_a_line());
                self.halves[at].observer.handle(Event::ReadFailed, boot_time());
                return Ok(None);
            }
        };
        self.failed = 0;
        let is_only = |(seen, _): &Found| self.only.as_deref().is_none_or(|only| seen.id() == Some(only));
        if !found.as_ref().is_none_or(is_only) {
            return Ok(Some(Expired::Another));
        }
        let half = &mut self.halves[at];
        let before = half.observer.watch().map(|watch| watch.lease.clone());
        half.observer.handle(Event::Read(found.as_ref().map(sight)), boot_time());
        let now = half.observer.watch().map(|watch| &watch.lease);
        let is_renewed = before.as_ref().zip(now).is_some_and(|(before, now)| before.lock == now.lock && before != now);
        half.found = found;
        if is_renewed && self.only.is_some() {
            return Ok(Some(Expired::Renewed));
        }
        if before.is_none() && half.observer.watch().is_some() {
            // Else all of the lease were waited out for nothing.
            if let Some(why) = half.store.keeps_no_conditions().await {
                let why = format!("no lock can be reclaimed from {}: {why}", half.place);
                return Ok(Some(Expired::Stays(printable(&why))));
            }
        }
        Ok(self.judge(at).await)
    }

    async fn read(&self, at: usize) -> Result<Option<Found>, StoreError> {
        let half = &self.halves[at];
        let read = async {
            let Some(seen) = self.clients.look(&half.place).await? else { return Ok(None) };
            let lease = match seen.id() {
                Some(_) => Some(half.store.lease_of(&seen).await?),
                None => None,
            };
            Ok(Some((seen, lease)))
        };
        within(LONGEST_REQUEST, read).await
    }

    /// Looks whether the holder of the lock that was just read is proven dead, and tells people of the lock if it is new.
    async fn judge(&mut self, at: usize) -> Option<Expired> {
        let Watched { found: Some((seen, Some(lease))), observer, .. } = &self.halves[at] else { return None };
        let (FoundLock::Held(info), Some(lease), true) = (&seen.lock, lease.leased.lease(), observer.watch().is_some())
        else {
            return None;
        };
        let Judged { holder, verdict } = Machine::here(&Environment::own()).judge(info, &seen.recorded);
        if holder.as_ref().is_some_and(is_around) {
            let why = format!("lock {} is held by the run that this is a part of", info.id);
            return Some(Expired::Stays(printable(&why)));
        }
        if !self.told.contains(&info.id) {
            let (id, lock, at, next) = (info.id.clone(), Some(info.clone()), Timestamp::now(), String::new());
            let refused = RefusedLock { id, lock, holder, verdict: verdict.clone(), free: false, at, next };
            let finding = refused.finding();
            // Who named a lock was shown it.
            if self.only.is_none() {
                std::iter::once(finding.line).chain(finding.details).for_each(|line| tracing::info!("{line}"));
            }
            let length = lease.length();
            tracing::info!(
                "it has a lease of {}: waiting until the lock is gone, or was not renewed for {}",
                describe(length),
                describe(Times::of(length).map_or(length, |times| times.wait))
            );
            self.told.push(info.id.clone());
            self.told_at = Instant::now();
        }
        let half = &mut self.halves[at];
        half.dead = verdict.is_dead().then(|| verdict.to_string());
        if half.dead.is_some() {
            // It may have died a moment ago.
            sleep(IN_FLIGHT).await;
            half.observer.handle(Event::HolderDead, boot_time());
        }
        None
    }

    /// Whether the holder is proven to be alive on this machine: a frozen one, say. Then its lock stays, whatever its lease.
    fn is_seen_alive(&mut self, at: usize) -> bool {
        let Some((Sighting { lock: FoundLock::Held(info), recorded, .. }, _)) = &self.halves[at].found else {
            return false;
        };
        let verdict = Machine::here(&Environment::own()).judge(info, recorded).verdict;
        if verdict.is_alive() && !std::mem::replace(&mut self.told_alive, true) {
            tracing::warn!("the lease has run out, and the lock stays all the same: {verdict}");
        }
        verdict.is_alive()
    }

    /// Sends what an observer wants to write.
    async fn write(&mut self, at: usize) -> Result<(), StoreError> {
        let half = &mut self.halves[at];
        let (Some(action), Some((_, Some(hold)))) = (half.due.take(), &mut half.found) else { return Ok(()) };
        let (own, deleted) = (hold.leased.lease().cloned(), half.deleted);
        if let Some(own) = &own {
            let waited = || describe(Times::of(own.length()).map_or(own.length(), |times| times.wait));
            let why = half.dead.clone().unwrap_or_else(|| format!("nobody renewed its lease for {}", waited()));
            half.wanted = (own.lock.to_string(), why);
        }
        let done = match (&action, own) {
            (Action::Fence { seen, version, .. }, Some(own)) if own.version == *seen => {
                let fence = Lease::new(own.lock.clone(), *version, own.length());
                let fenced = async {
                    if half.store.is_unchanged(hold).await? { half.store.beat(hold, &fence).await } else { Ok(None) }
                };
                within(LONGEST_REQUEST, fenced).await.map(|fenced| fenced.map(|fenced| *hold = fenced).is_some())
            }
            (Action::Delete { version, .. }, Some(own)) if own.version == *version => {
                // Before it is sent: a stop may come before its answer.
                half.deleted = Some(false);
                within(LONGEST_REQUEST, half.store.delete_leased(hold)).await
            }
            // What is there is not what it decided on.
            _ => Ok(false),
        };
        let answer = match done {
            Ok(true) => {
                if matches!(action, Action::Delete { .. }) {
                    half.deleted = Some(true);
                }
                Answer::Done
            }
            Ok(false) => Answer::Refused,
            Err(error) if error.is_retryable() => {
                tracing::info!("{}: {}", half.place, error.in_a_line());
                Answer::Unknown
            }
            Err(error) => {
                if matches!(error, StoreError::Denied { .. } | StoreError::NoConditions(_)) {
                    half.deleted = deleted;
                }
                return Err(error);
            }
        };
        half.observer.handle(Event::Answered(answer), boot_time());
        Ok(())
    }

    /// Says now and then that the lock is still there, and when it was renewed.
    fn tell(&mut self) {
        let watched = self.halves.iter().filter_map(|half| half.observer.watch()).map(|watch| watch.since);
        let (Some(since), Some(lock)) = (watched.max(), self.told.last()) else { return };
        if self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            let unchanged = Duration::from_secs(boot_time().saturating_sub(since).as_secs());
            tracing::info!(
                "still waiting for lock {}: its lease was not renewed for {} while watched",
                printable(lock),
                describe(unchanged)
            );
        }
    }
}

impl Watched {
    /// What became of it, once it is gone and a delete was sent.
    fn deletion(&self) -> String {
        let Self { place, wanted: (lock, why), .. } = self;
        printable(&match self.deleted == Some(true) {
            true => format!("lock {lock} deleted at {place}: {why}"),
            false => format!("lock {lock} is gone from {place}; a request of tfguard's may have deleted it"),
        })
    }

    /// Why no lease decides on it, as a clause.
    fn unleased(&self) -> String {
        let Some((seen, lease)) = &self.found else { return String::new() };
        unleased(&seen.lock, lease.as_ref().map(|lease| &lease.leased))
    }
}

/// Why no lease decides on a lock that has none, as a clause.
pub(crate) fn unleased(lock: &FoundLock, leased: Option<&Leased>) -> String {
    match (lock, leased) {
        (FoundLock::Held(_), Some(Leased::Foreign(why))) => printable(why),
        (FoundLock::Held(info), _) => printable(&format!("lock {} by {} has no lease", info.id, info.who)),
        (FoundLock::Malformed(_), _) => "what is there isn't a lock".to_owned(),
    }
}

/// Whether this process is below the holder's Terraform, which waits for it in turn. Its supervisor may be the guard around
/// this one, which has taken the place of a dead one.
fn is_around(holder: &Holder) -> bool {
    let child = holder.child.map(|child| child.id);
    let mut above = std::iter::successors(ProcessId::own(), |process| process.parent());
    holder.world == World::here() && above.any(|process| Some(process) == child)
}

/// A half as its observer sees it.
fn sight((seen, lease): &Found) -> Sight<String, LeaseVersion> {
    let lease = lease.as_ref().and_then(|lease| lease.leased.lease()).and_then(|lease| {
        let times = Times::of(lease.length()).ok()?;
        Some(Term { lock: lease.lock.to_string(), version: lease.version, times })
    });
    Sight { lock: seen.id().unwrap_or_default().to_owned(), lease }
}
