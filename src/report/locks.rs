//! What became of each lock, and what to do about it.

use std::path::Path;

use jiff::Timestamp;

use crate::model::{
    Account, FoundLock, Grade, Half, HalfOutcome, LockAccount, LockClaim, LockInfo, LockKinds, LockOutcome, LockPlace,
    OtherLock, OtherOutcome, RefusedLock, Settings, Stage, StateAccount, TraceAccount,
};
use crate::report::finding::{Finding, Outcome, operation};
use crate::text::{ago, printable, printable_whole};
use crate::{terraform, text};

impl Settings {
    /// The command that removes a lock there, or without an ID what is no lock in its place, and where to run it.
    pub(crate) fn unlock(&self, id: Option<&str>) -> String {
        let Self { directory, flags, anywhere, .. } = self;
        match terraform::unit_of(directory) {
            // The directory may be gone where somebody reads this.
            _ if !anywhere.is_empty() => format!("run: {}", text::unlock(id, anywhere)),
            // The flags name the whole place.
            Some(_) => format!("run: {}", text::unlock(id, flags)),
            None => text::run_in(Some(directory), &text::unlock(id, flags)),
        }
    }
}

impl LockAccount {
    /// The one command that removes it, or without an ID what is no lock in its place, and where to run it: `otherwise`,
    /// if it is not known where its settings are.
    pub(crate) fn unlock(&self, id: Option<&str>, otherwise: Option<&Path>) -> String {
        match &self.settings {
            Some(settings) => settings.unlock(id),
            // Its directory is set up for another backend.
            None if self.claim.is_migration_destination() => self.unlock_without_directory(id),
            None => text::run_in(otherwise, &text::unlock(id, &[])),
        }
    }

    fn unlock_without_directory(&self, id: Option<&str>) -> String {
        let LockClaim { bucket, state_key, kinds, .. } = &self.claim;
        let table = if *kinds == LockKinds::Lockfile { &[][..] } else { &["--table", "TABLE"] };
        let flags = [&["--bucket", bucket, "--key", state_key, "--region", "REGION"], table].concat();
        let command = text::unlock(id, &flags.into_iter().map(str::to_owned).collect::<Vec<_>>());
        format!("run, with the region, table and endpoints of the backend that the state was moved to: {command}")
    }

    /// Whether what blocks the state is no lock, and so has no ID by which Terraform could name it.
    pub(super) fn has_no_lock_in_its_place(&self) -> bool {
        let is_none = |half: &Half| matches!(half.outcome, HalfOutcome::NotOurs { holder: FoundLock::Malformed(_) });
        self.halves.iter().any(is_none)
    }

    /// Whether its lockfile is in a store that is not AWS's own.
    fn is_at_another_store(&self) -> bool {
        self.places.iter().any(|place| matches!(place, LockPlace::Lockfile { endpoint: Some(_), .. }))
    }

    /// `sure`: what somebody has to be sure of before it is deleted by hand.
    pub(super) fn finding(&self, account: &Account, sure: &str) -> Finding {
        let LockClaim { id, operation, .. } = &self.claim;
        let (outcome, what) = self.outcome(account.product().name());
        let grade = match self.grade {
            Grade::Record => "",
            Grade::Request => " (known by the request that took it)",
            Grade::Item => " (judged by the lock's own text: no log names it)",
        };
        let mut halves: Vec<_> = self.halves.iter().map(half_in_words).collect();
        // Another lock may be in the place of both.
        halves.dedup();
        let state = self.claim.lock_id();
        let line = format!("lock {id} of {state} ({operation}): {what}{grade}{}", halves.concat());
        // Nothing but its own text speaks for it, and that was not enough to try a release.
        let is_doubtful = self.grade == Grade::Item && self.halves.is_empty() && outcome == Outcome::Left;
        let id = (!is_doubtful).then(|| id.to_string());
        Finding { id, next: self.next(account, sure), ..Finding::new(state, outcome, line) }
    }

    /// What became of it, as a word and as a clause.
    fn outcome(&self, product: &str) -> (Outcome, String) {
        match &self.outcome {
            Some(LockOutcome::Unlocked) => (Outcome::Unlocked, format!("released by {product}")),
            Some(LockOutcome::Released) => (Outcome::Released, format!("left by {product}, deleted by tfguard")),
            // Of a lock that nobody was seen to have it cannot be said that it is not there any more.
            Some(LockOutcome::Gone) if self.stage == Stage::Attempted && self.grade != Grade::Item => {
                let marker = if self.is_at_another_store() {
                    ". If this happens again, the store refuses to create the lockfile though there is none: it may \
                     keep a delete marker"
                } else {
                    ""
                };
                (Outcome::Gone, format!("not there, and nothing shows that {product} got it{marker}"))
            }
            Some(LockOutcome::Gone) => (Outcome::Gone, "not there any more".to_owned()),
            Some(LockOutcome::TakenAway) => (Outcome::TakenAway, taken_away(product)),
            Some(LockOutcome::NotOwn(why)) => {
                (Outcome::Foreign, format!("not known to be this run's, so not touched: {why}"))
            }
            Some(LockOutcome::Kept) => (Outcome::Kept, "left in place, as --on-death says".to_owned()),
            Some(LockOutcome::Left(why)) => (Outcome::Left, format!("NOT released: {why}")),
            None => (Outcome::Unknown, "not accounted for".to_owned()),
        }
    }

    /// What somebody has to do about it.
    fn next(&self, account: &Account, sure: &str) -> Option<String> {
        let claim = &self.claim;
        let is_its = |state: &&StateAccount| (&state.bucket, &state.state_key) == (&claim.bucket, &claim.state_key);
        let mut states = account.states.iter().filter(is_its);
        let waiting = states.clone().find(|state| state.needs_its_lock());
        let unlock = || self.unlock(Some(claim.id.as_str()), None);
        Some(match (&self.outcome, waiting) {
            (Some(LockOutcome::TakenAway), _) => match states.next() {
                Some(state) => state.next.clone(),
                None => in_its_place(self.settings.as_ref(), "tfguard verify"),
            },
            (Some(LockOutcome::NotOwn(_)), _) => in_its_place(self.settings.as_ref(), "tfguard inspect"),
            (Some(LockOutcome::Kept | LockOutcome::Left(_)) | None, Some(state)) => format!(
                "keep the lock until the state that Terraform could not upload is uploaded. How to do that, and then \
                 unlock: {}",
                state.next
            ),
            (Some(LockOutcome::Kept), _) => format!("when you have looked at the state, {}", unlock()),
            (Some(LockOutcome::Left(_)), _) => format!("once you are sure that {sure}, {}", unlock()),
            _ if self.has_no_lock_in_its_place() => {
                format!("if it is left from a lock that was not written whole, {}", self.unlock(None, None))
            }
            _ => return None,
        })
    }
}

/// What there is to say of the place of a half, behind what became of the lock.
fn half_in_words(half: &Half) -> String {
    let place = &half.place;
    match &half.outcome {
        HalfOutcome::NotOurs { holder: FoundLock::Held(holder) } => another(holder),
        HalfOutcome::NotOurs { holder: FoundLock::Malformed(_) } => {
            format!("; something that isn't a lock is at {place} and was not touched")
        }
        HalfOutcome::Left { .. } => format!(" [{place}]"),
        HalfOutcome::GoneWithStore { why } => format!("; its table or bucket is gone, too: {why}"),
        HalfOutcome::Deleted | HalfOutcome::AlreadyGone | HalfOutcome::NotOwn { .. } => String::new(),
    }
}

impl TraceAccount {
    /// Nothing is to be said of one whose lock is told of otherwise, or that the child never had.
    pub(super) fn finding(&self, account: &Account, sure: &str) -> Option<Finding> {
        let (state, product) = (self.entry.trace.lock_id(), account.product().name());
        let is_told = account.locks.iter().any(|lock| lock.claim.lock_id() == state);
        let other = match &self.holder {
            Some(FoundLock::Held(holder)) => another(holder),
            _ => String::new(),
        };
        let (outcome, what, next) = match &self.outcome {
            Some(LockOutcome::Left(why)) => {
                let inspect = in_its_place(self.settings.as_ref(), "tfguard inspect");
                let next = format!(
                    "{inspect}; if it shows a lock, and you are sure that {sure}, run `tfguard unlock` with its ID"
                );
                (Outcome::Left, format!("NOT released: {why}"), Some(next))
            }
            _ if is_told => return None,
            Some(LockOutcome::Unlocked) if self.entry.stage.is_over() => {
                (Outcome::Unlocked, format!("released by {product}"), None)
            }
            Some(LockOutcome::TakenAway) => {
                let next = in_its_place(self.settings.as_ref(), "tfguard verify");
                (Outcome::TakenAway, taken_away(product) + &other, Some(next))
            }
            Some(LockOutcome::Gone)
                if !other.is_empty() && (self.entry.stage != Stage::Attempted || account.refused.is_none()) =>
            {
                (Outcome::Gone, format!("not there any more{other}"), None)
            }
            _ => return None,
        };
        let line = format!("lockfile of {state}: {what}");
        Some(Finding { next, ..Finding::new(state, outcome, line) })
    }
}

impl OtherLock {
    pub(super) fn finding(&self) -> Finding {
        let line = match &self.holder {
            // A stranger may have written it.
            Some(holder) => {
                let [id, operation, who, created] = [&holder.id, &holder.operation, &holder.who, &holder.created]
                    .map(|text| text.chars().take(128).collect::<String>().escape_debug().to_string());
                // Only the ID was shown.
                let by =
                    if who.is_empty() { String::new() } else { format!(" ({operation}) by {who} since {created}") };
                format!("lock {id}{by}, backend {}: ", self.backend)
            }
            None => format!("lock of the state, backend {}: ", self.backend),
        };
        let (outcome, what) = match &self.outcome {
            OtherOutcome::Free => (Outcome::Gone, "nobody has it".to_owned()),
            OtherOutcome::Released => {
                (Outcome::Released, "left by this run, as all that it says shows, and released by tfguard".to_owned())
            }
            OtherOutcome::Gone => (Outcome::Gone, "not there any more".to_owned()),
            OtherOutcome::Foreign { why } => (Outcome::Foreign, format!("somebody else's, not touched: {why}")),
            OtherOutcome::Kept => (Outcome::Kept, "left in place, as --on-death says".to_owned()),
            OtherOutcome::Left { why } => (Outcome::Left, format!("NOT released: {why}")),
            OtherOutcome::Unknown { why, .. } => {
                (Outcome::Unknown, format!("NOT known whether this run left it: {why}"))
            }
        };
        // Nothing but its own text speaks for it: that is enough for people, and for tfguard where it was asked to act on it.
        let is_doubtful = matches!(outcome, Outcome::Left | Outcome::Unknown | Outcome::Kept);
        let id = self.holder.as_ref().filter(|_| !is_doubtful).map(|holder| holder.id.clone());
        Finding { id, next: self.next(), ..Finding::new(format!("backend {}", self.backend), outcome, line + &what) }
    }

    /// The next step, if there is one.
    fn next(&self) -> Option<String> {
        // The unlock of this backend names no lock (OpenTofu's does since 1.10).
        let opens_any = if self.backend == "http" { " (it opens whatever lock is there then)" } else { "" };
        let sure = "once you are sure that this is the lock of this run and that nothing of it is alive";
        match &self.command {
            Some(command) => Some(format!("{sure}, run: {command}{opens_any}")),
            None if self.is_left() => {
                let (terraform, place) = match &self.terraform {
                    Some(terraform) => (terraform.as_str(), ""),
                    None => ("terraform", " in its directory"),
                };
                Some(format!(
                    "run `{terraform} plan`{place}; if the lock is refused, {sure}, run: {terraform} force-unlock \
                     <the ID it shows>{opens_any}"
                ))
            }
            None => None,
        }
    }
}

impl RefusedLock {
    /// A stranger may have written the lock and the record.
    pub(crate) fn finding(&self) -> Finding {
        let holder = self.holder.as_ref().map(|holder| printable(&format!("held by {holder}")));
        Finding {
            id: Some(self.id.clone()),
            state: self.lock.as_ref().map(|lock| lock.path.clone()).unwrap_or_default(),
            outcome: Outcome::Foreign,
            line: self.lock_line(),
            details: holder.into_iter().chain((!self.free).then(|| printable(&self.verdict.to_string()))).collect(),
            next: Some(printable_whole(&self.next)),
        }
    }

    fn lock_line(&self) -> String {
        let shown = |text: &str| printable(&text.chars().take(200).collect::<String>());
        let Some(lock) = &self.lock else {
            return format!("the state is locked: lock {}; its holder could not be read", shown(&self.id));
        };
        let since = lock.created.parse::<Timestamp>();
        let since = since.map_or_else(|_| shown(&lock.created), |created| ago(created, self.at));
        format!(
            "the state {} {} locked by {} since {since} for {} (version {}): lock {}",
            shown(&lock.path),
            if self.free { "was" } else { "is" },
            shown(&lock.who),
            operation(&shown(&lock.operation)),
            shown(&lock.version),
            shown(&self.id)
        )
    }
}

/// A command about a state, and where to run it.
pub(super) fn in_its_place(settings: Option<&Settings>, command: &str) -> String {
    let flags = settings.iter().flat_map(|settings| settings.flags.iter().map(String::as_str));
    let directory = settings.map(|settings| settings.directory.as_path());
    text::run_in(directory, &text::join(command.split(' ').chain(flags)))
}

fn taken_away(product: &str) -> String {
    format!("taken away while {product} was at work, so two may have written")
}

fn another(holder: &LockInfo) -> String {
    let LockInfo { id, who, created, operation, .. } = holder;
    format!("; another one is there now, not touched: {id} by {who} since {created} ({operation})")
}
