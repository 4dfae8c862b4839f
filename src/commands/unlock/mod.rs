//! `tfguard unlock`: deletes one lock conditionally, after a look whether its holder lives.
//!
//! `decide` says what is to be deleted and whether it may be, without I/O; the rest looks, shows, asks and deletes.

mod decide;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::commands::judged::{HalfLook, HalfSeen, JudgedLock, SeenLock, Unread};
use crate::commands::page::Page;
use crate::commands::target::{State, Target};
use crate::commands::unlock::decide::{Finding, Wish, find, is_broken, is_of_another, needs_a_yes};
use crate::commands::{Answer, Failure, block_on, confirm, describe, print};
use crate::model::{
    Environment, FoundLock, Half, HalfOutcome, Holder, Liveness, LockClaim, LockId, Sighting, UnconditionalDelete,
};
use crate::run::{Expired, Expiry, IN_FLIGHT, Terraform, unleased, write_report};
use crate::session::{Machine, nodename, terraforms};
use crate::store::{RELEASE_BUDGET, ReleaseTerms, Released};
use crate::text::{printable, printable_whole};
use crate::{exit, model, store};

const ANOTHER: &str = "another lock has taken its place and was not touched";
const QUESTION: &str = "Delete it? Be certain that no Terraform of this state is running.";
/// How long removing what is left of the lease of a lockfile may take: it means nothing without its lock.
const TIDYING: Duration = Duration::from_secs(10);

/// The options of `tfguard unlock`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lock's ID, as Terraform shows it
    #[arg(value_name = "LOCK_ID", required_unless_present = "broken")]
    pub id: Option<String>,

    /// Delete what blocks the state and isn't a lock
    ///
    /// That is an item without Info, an empty or broken lockfile, or a lock that was copied from another state.
    #[arg(long, conflicts_with = "id", help_heading = "Deleting")]
    pub broken: bool,

    /// Do not ask
    ///
    /// Delete the lock without a question also where nobody can tell whether its holder lives. Refused while a Terraform of
    /// this machine works on the state.
    #[arg(long, help_heading = "Deleting")]
    pub yes: bool,

    /// Wait out the lock's lease, and delete it if nobody renews that
    ///
    /// Only a lock of a run with --lease has one. Nobody is asked: a lease that was not renewed for all of its length, and a
    /// tenth more, is a dead run's.
    #[arg(long, conflicts_with_all = ["broken", "yes", "without_conditions"], help_heading = "Deleting")]
    pub expired: bool,

    /// Only show what would be done
    #[arg(long, help_heading = "Deleting")]
    pub dry_run: bool,

    /// Write who did what as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,

    /// Choose what to do in stores without conditions
    ///
    /// What to do with a lockfile in a store that does not keep the condition of a conditional delete.
    #[arg(long, value_name = "POLICY", default_value = "refuse", hide_short_help = true, help_heading = "Deleting")]
    pub without_conditions: UnconditionalDelete,

    /// The state.
    #[command(flatten)]
    pub target: Target,
}

/// Deletes; gives tfguard's exit code.
///
/// # Errors
/// When the state is not known, or its lock could not be looked at.
pub fn run(args: &Args) -> Result<u8, Failure> {
    if let Some(id) = &args.id {
        id.parse::<LockId>()?;
    }
    block_on(async {
        let state = args.target.state().await?;
        let wish = args.id.as_deref().map_or(Wish::Broken, Wish::Lock);
        Unlock { args, wish, state, machine: Machine::here(&Environment::own()) }.run().await
    })
}

struct Unlock<'a> {
    args: &'a Args,
    wish: Wish<'a>,
    state: State,
    machine: Machine,
}

/// What became of the wish.
struct Ended {
    consent: Consent,
    outcome: Outcome,
    /// The same in words.
    why: String,
    /// What became of each half that was to be deleted.
    halves: Vec<Half>,
}

impl Ended {
    /// Without a question and without a deletion.
    fn unasked(outcome: Outcome, why: impl Into<String>) -> Self {
        Self { outcome, ..Self::refused(Consent::NotAsked, why) }
    }

    fn refused(consent: Consent, why: impl Into<String>) -> Self {
        Self { consent, outcome: Outcome::Refused, why: why.into(), halves: Vec::new() }
    }
}

impl Unlock<'_> {
    async fn run(&self) -> Result<u8, Failure> {
        let started = Timestamp::now();
        let looks = self.state.look_at_lock().await;
        let path = self.state.lock_id();
        let mut lock = None;
        let ended = match find(self.wish, &path, &looks) {
            Finding::NotSeen(unread) => return Err(Failure::NotRead(unread)),
            Finding::NotLocked => {
                let why = format!("{} is not locked: nothing to do", printable(&path));
                let doubts = self.state.doubts(&looks).into_iter().map(|doubt| format!("\n{}", not_read(&doubt)));
                Ended::unasked(Outcome::Gone, why + &doubts.collect::<String>())
            }
            Finding::Other(seen) => Ended::unasked(Outcome::Refused, self.about_another(seen, &looks)?),
            Finding::This(seen) => self.delete(lock.insert(seen.judge(&self.machine, started, None)), &looks).await?,
        };
        let code = match ended.outcome {
            Outcome::Gone | Outcome::WouldDelete | Outcome::Deleted => {
                print(&format!("{}\n", ended.why))?;
                0
            }
            Outcome::Refused | Outcome::Left => {
                tracing::warn!("{}", ended.why);
                exit::LOCK_LEFT
            }
        };
        if let Some(file) = &self.args.report {
            let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
            let ci = model::Run::detect(&Environment::own());
            // Documented in `docs/operator.md`.
            let report = json!({
                "schema": 1,
                "command": "unlock",
                "tfguard": env!("CARGO_PKG_VERSION"),
                "exit_code": code,
                "started": started,
                "ended": Timestamp::now(),
                "by": { "user": user, "host": nodename(), "ci": ci },
                "state": path,
                "id": self.args.id,
                "lock": lock.map(|lock| lock.view()),
                "consent": ended.consent,
                "outcome": ended.outcome,
                "why": ended.why,
                "halves": ended.halves,
            });
            write_report(file, &report);
        }
        Ok(code)
    }

    /// Shows what is there, asks if need be, deletes.
    async fn delete(&self, lock: &JudgedLock, looks: &[HalfLook]) -> Result<Ended, Failure> {
        let at_work = self.at_work(&self.machine);
        let living = at_work.iter().map(|terraform| format!("at work on this machine: {}\n", printable(terraform)));
        print(&(self.intention(lock, looks) + &living.collect::<String>()))?;
        let verdict = self.verdict(lock);
        let Some(is_to_be_asked) = needs_a_yes(self.wish, &verdict) else {
            return Ok(Ended::unasked(Outcome::Refused, stays(lock, &verdict)));
        };
        let by_lease = self.args.expired && is_to_be_asked;
        if self.args.dry_run {
            let without = lock.lock.halves.iter().find(|half| by_lease && half.seen.leased.lease().is_none());
            if let Some(HalfSeen { seen, .. }) = without {
                let why = undecided(&unleased(&seen.lock, Some(&seen.leased)));
                return Ok(Ended::unasked(Outcome::Refused, why));
            }
            let why = match is_to_be_asked && !(self.args.yes && at_work.is_empty()) {
                _ if by_lease => "dry run: nothing was deleted; tfguard would wait out its lease first",
                true => "dry run: nothing was deleted; tfguard would ask first",
                false => "dry run: nothing was deleted",
            };
            return Ok(Ended::unasked(Outcome::WouldDelete, why));
        }
        if by_lease {
            return Ok(self.outwait(lock, looks).await);
        }
        let consent = match is_to_be_asked.then(|| self.consent(&at_work)) {
            None => Consent::NotNeeded,
            Some(Ok(consent)) => consent,
            Some(Err(refused)) => return Ok(refused),
        };
        if consent != Consent::Given {
            // Whoever died may have done so a moment ago. A person's answer takes longer than this.
            tokio::time::sleep(IN_FLIGHT).await;
        }
        // The record of who holds a young lock may have come meanwhile. One that is dead stays so.
        if is_to_be_asked && let Some(why) = self.alive_by_now(consent).await {
            return Ok(Ended::refused(consent, why));
        }
        let mut halves = Vec::new();
        for half in &lock.lock.halves {
            halves.push(Half { place: half.place.clone(), outcome: self.release(half).await.into() });
        }
        Ok(self.ended(consent, halves, looks))
    }

    /// Who allows it, or why nobody does.
    fn consent(&self, at_work: &[String]) -> Result<Consent, Ended> {
        let (consent, why) = match self.args.yes {
            true if at_work.is_empty() => return Ok(Consent::ByOption),
            true => (Consent::NotAsked, may_be_alive(at_work)),
            false => match confirm(QUESTION) {
                Answer::Yes => return Ok(Consent::Given),
                Answer::No => (Consent::Refused, "not confirmed, so nothing was deleted".to_owned()),
                Answer::NobodyThere if !at_work.is_empty() => (Consent::NobodyThere, may_be_alive(at_work)),
                Answer::NobodyThere => {
                    let why = "nothing was deleted: whether its holder lives is not known, and there is no terminal to \
                               ask on. Once you are certain that no Terraform of it runs any more, add --yes";
                    (Consent::NobodyThere, why.to_owned())
                }
            },
        };
        Err(Ended::refused(consent, why))
    }

    /// Waits until the lock's lease has run out, and deletes it then.
    async fn outwait(&self, lock: &JudgedLock, looks: &[HalfLook]) -> Ended {
        let places = lock.lock.halves.iter().map(|half| half.place.clone());
        let id = lock.lock.id().unwrap_or_default();
        let mut expiry = Expiry::of_state(&self.state.clients, places).only(id);
        let watched = expiry.watch().await;
        let halves = expiry.gone();
        let (outcome, why) = match watched {
            Ok(Expired::Free | Expired::Gone | Expired::Reclaimed) => {
                return self.ended(Consent::ByLease, halves, looks);
            }
            Err(error) => (Outcome::Left, format!("NOT deleted: {}", error.on_lines())),
            Ok(Expired::Renewed) => {
                (Outcome::Refused, "the lock stays: its lease was renewed, so its run is alive".to_owned())
            }
            Ok(Expired::Another) => (Outcome::Refused, ANOTHER.to_owned()),
            Ok(Expired::Stays(why)) => (Outcome::Refused, undecided(&why)),
        };
        Ended { consent: Consent::ByLease, outcome, why, halves }
    }

    /// What came of all halves, and what to do next.
    fn ended(&self, consent: Consent, halves: Vec<Half>, looks: &[HalfLook]) -> Ended {
        let of_halves = halves.iter().map(|Half { place, outcome }| {
            let place = printable(&place.to_string());
            match outcome {
                HalfOutcome::Deleted => (Outcome::Deleted, format!("deleted: {place}")),
                HalfOutcome::AlreadyGone => (Outcome::Gone, format!("already gone: {place}")),
                HalfOutcome::GoneWithStore { why } => {
                    (Outcome::Gone, format!("gone with its table or bucket: {place}: {}", printable(why)))
                }
                HalfOutcome::NotOurs { holder } => {
                    let another = match holder {
                        FoundLock::Held(info) => printable(&format!("{} by {}", info.id, info.who)),
                        FoundLock::Malformed(_) => "something that isn't a lock".to_owned(),
                    };
                    (Outcome::Refused, format!("{ANOTHER}: {place} has {another}"))
                }
                HalfOutcome::Left { why } | HalfOutcome::NotOwn { why } => {
                    (Outcome::Left, format!("NOT deleted: {place}: {}", printable(why)))
                }
            }
        });
        let of_unread = looks.iter().filter_map(HalfLook::unread);
        let of_unread = of_unread.map(|unread| (Outcome::Left, printable_whole(&format!("NOT READ: {unread}"))));
        let (outcomes, lines): (Vec<_>, Vec<_>) = of_halves.chain(of_unread).unzip();
        let outcome = outcomes.into_iter().max().unwrap_or(Outcome::Gone);
        let mut why = lines.join("\n");
        if outcome == Outcome::Deleted {
            why += &self.next();
        }
        Ended { consent, outcome, why, halves }
    }

    /// What to do once a lock is deleted, on a line of its own.
    fn next(&self) -> String {
        let (target, state) = (&self.args.target, &self.state);
        let program = state.program().unwrap_or("terraform");
        let plan = match target.terraform(state, program) {
            Some(terraform) => format!("`{terraform} plan`"),
            None => format!("`{program} plan` in its directory"),
        };
        let verify = target.command(state, &["verify"]);
        format!("\nnext: run `{verify}`, then {plan}; what was being changed may be missing from the state")
    }

    /// Looks again: why what is to be deleted must stay, if by now its holder is known to be alive.
    async fn alive_by_now(&self, consent: Consent) -> Option<String> {
        let machine = Machine::here(&Environment::own());
        let at_work = self.at_work(&machine);
        if consent == Consent::ByOption && !at_work.is_empty() {
            return Some(may_be_alive(&at_work));
        }
        let looks = self.state.look_at_lock().await;
        let Finding::This(seen) = find(self.wish, &self.state.lock_id(), &looks) else { return None };
        let lock = seen.judge(&machine, Timestamp::now(), None);
        let verdict = self.verdict(&lock);
        verdict.is_alive().then(|| stays(&lock, &verdict))
    }

    /// The living Terraforms of this machine that may have the lock, guarded or not.
    fn at_work(&self, machine: &Machine) -> Vec<String> {
        let file = self.state.backend.file_place(&self.state.key);
        let unguarded = terraforms().into_iter().filter_map(|(id, name)| {
            let terraform = Terraform::read(id, false)?;
            let works = terraform.works_on(&self.state.key, &file);
            works.then(|| format!("{name} (process {}) in {}", id.pid, terraform.cwd.display()))
        });
        let guarded = self
            .args
            .id
            .iter()
            .flat_map(|lock| machine.may_hold(lock))
            .map(|holder| format!("{} (process {}) of {}", holder.name, holder.id.pid, holder.session.display()));
        guarded.chain(unguarded).collect()
    }

    /// Deletes one half, if it still is what was shown.
    async fn release(&self, half: &HalfSeen) -> Released {
        let store = self.state.clients.open(&half.place, self.args.without_conditions);
        match self.claim(half) {
            Some(claim) => {
                let terms = ReleaseTerms { may_still_appear: false, unlock_in_flight: false, budget: RELEASE_BUDGET };
                let released = store::release(&store, &claim, None, &terms).await;
                if matches!(released, Released::Deleted | Released::AlreadyGone) {
                    let ended = tokio::time::timeout(TIDYING, store.end_lease(&claim.id)).await;
                    ended.unwrap_or(Ok(())).unwrap_or_else(|error| tracing::debug!("its lease stays: {error}"));
                }
                released
            }
            // Other programs than Terraform give IDs of other shapes, or none.
            None => store::release_seen(&store, &half.seen, RELEASE_BUDGET).await,
        }
    }

    fn claim(&self, half: &HalfSeen) -> Option<LockClaim> {
        let FoundLock::Held(info) = &half.seen.lock else { return None };
        let claim = LockClaim::of_found(info.clone(), self.state.bucket(), &self.state.key);
        claim.ok().filter(|_| self.wish == Wish::Lock(&info.id))
    }

    fn intention(&self, lock: &JudgedLock, looks: &[HalfLook]) -> String {
        let mut text = match self.wish {
            Wish::Lock(_) => describe::lock(lock, Page::of_stdout()),
            // They have nothing in common but the state.
            Wish::Broken => lock.lock.halves.iter().map(|half| self.describe(half.clone())).collect(),
        };
        let others = looks.iter().filter_map(HalfLook::half);
        for other in others.filter(|other| lock.lock.halves.iter().all(|half| half.place != other.place)) {
            let how = if is_broken(&other.seen, &self.state.lock_id()) { " (--broken deletes it)" } else { "" };
            let what = describe::in_a_line(&other.seen);
            let line = printable(&format!("stays, and blocks the state: {what}, at {}{how}", other.place));
            text += &format!("{line}\n");
        }
        text + &self.unseen(looks)
    }

    /// What could not be looked at, a line for each.
    fn unseen(&self, looks: &[HalfLook]) -> String {
        let unread = looks.iter().filter_map(HalfLook::unread).chain(self.state.doubts(looks));
        unread.map(|unread| format!("{}\n", not_read(&unread))).collect()
    }

    fn describe(&self, half: HalfSeen) -> String {
        describe::lock(&self.judge(half), Page::of_stdout())
    }

    /// One half by itself.
    fn judge(&self, half: HalfSeen) -> JudgedLock {
        SeenLock { state: self.state.lock_id(), halves: vec![half] }.judge(&self.machine, Timestamp::now(), None)
    }

    /// The verdict that counts: what is broken may be so in one half, and in the other the copy of somebody's lock.
    fn verdict(&self, lock: &JudgedLock) -> Liveness {
        let mut verdicts = lock.lock.halves.iter().map(|half| self.judge(half.clone()).judged.verdict);
        verdicts.find(Liveness::is_alive).unwrap_or_else(|| lock.judged.verdict.clone())
    }

    /// Something is there, and not what was asked for.
    fn about_another(&self, seen: &Sighting, looks: &[HalfLook]) -> Result<String, Failure> {
        let path = self.state.lock_id();
        let found = looks.iter().filter_map(HalfLook::half).map(|half| self.describe(half));
        print(&(found.collect::<String>() + &self.unseen(looks)))?;
        let all_read = looks.iter().all(|look| look.unread().is_none());
        Ok(match self.wish {
            Wish::Lock(id) if seen.id() == Some(id) && is_of_another(seen, &path) => format!(
                "the lock {} says that it is another state's, so nothing was deleted. Check bucket and key; if the \
                 lock was copied here, delete it with --broken",
                printable(id)
            ),
            Wish::Lock(id) => {
                let by = if all_read { printable(id) } else { format!("{} where tfguard could look", printable(id)) };
                format!("{} is not locked by {by}, so nothing was deleted", printable(&path))
            }
            Wish::Broken => {
                "the lock isn't broken, so nothing was deleted. To delete it, give its ID instead of --broken"
                    .to_owned()
            }
        })
    }
}

fn not_read(unread: &Unread) -> String {
    printable(&format!("not read: {unread}"))
}

/// Why a lock stays whose holder is alive, and what frees it.
fn stays(lock: &JudgedLock, verdict: &Liveness) -> String {
    let holder = lock.judged.holder.as_ref().filter(|holder| holder.ci.is_some());
    let stop = match holder.map(Holder::link) {
        Some(Some(link)) => format!("cancel {link}, whose cleanup step (`tfguard release`) frees the lock"),
        Some(None) => "cancel its job, whose cleanup step (`tfguard release`) frees the lock".to_owned(),
        None => "end it, and its tfguard frees the lock".to_owned(),
    };
    printable(&format!("the lock stays, because {verdict}. To have it freed, {stop}"))
}

/// Why a lock stays on which no lease decides.
fn undecided(why: &str) -> String {
    format!("the lock stays: {why}. To decide on it yourself, leave --expired out")
}

/// Why `--yes` is not enough, and what is.
fn may_be_alive(at_work: &[String]) -> String {
    let what = printable(&at_work.join(", "));
    format!(
        "nothing was deleted: on this machine there is {what}, which may have this lock, and --yes does not count where a \
         Terraform is at work. End it first, or, if you are certain that it does not have the lock, run this on a terminal \
         without --yes"
    )
}

/// Who allowed the deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Consent {
    /// It did not come to that.
    NotAsked,
    /// None was needed: the holder is proven to be dead.
    NotNeeded,
    /// None was needed: the lease decides (`--expired`).
    ByLease,
    /// `--yes`.
    ByOption,
    /// Somebody at the terminal said yes.
    Given,
    /// Somebody at the terminal did not say yes.
    Refused,
    /// There was no terminal to ask on.
    NobodyThere,
}

/// What came of an unlock; of two halves, the later one in this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// It went away before it was deleted, or was not there.
    Gone,
    /// It would be deleted (`--dry-run`).
    WouldDelete,
    /// It is deleted.
    Deleted,
    /// It stays, because tfguard or a person said so, or another one is there.
    Refused,
    /// It may still be there, against the intention.
    Left,
}
