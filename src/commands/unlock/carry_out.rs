//! Looks, shows, asks, deletes.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::aws::StoreError;
use crate::commands::judged::{HalfLook, HalfSeen, JudgedLock, SeenLock, Unread, View};
use crate::commands::page::Page;
use crate::commands::target::State;
use crate::commands::unlock::args::Args;
use crate::commands::unlock::decide::{Finding, Permission, Wish, find, is_broken, is_of_another, permission};
use crate::commands::{Answer, Failure, block_on, confirm, describe, print};
use crate::model::{FoundLock, Half, HalfOutcome, Holder, Liveness, LockClaim, LockId, LockPlace, Sighting};
use crate::run::{Expired, Expiry, IN_FLIGHT, Terraform, unleased, write_report};
use crate::session::{Machine, nodename, terraforms};
use crate::store::{RELEASE_BUDGET, ReleaseTerms, Released};
use crate::text::printable;
use crate::{exit, model, store};

const QUESTION: &str = "Delete it? Be certain that no Terraform of this state is running.";
/// How long removing what is left of the lease of a lockfile may take: it means nothing without its lock.
const TIDYING: Duration = Duration::from_secs(10);

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
        Unlock { args, wish, state, machine: Machine::here(|name| std::env::var_os(name)) }.run().await
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
    lock: Option<JudgedLock>,
    consent: Consent,
    outcome: Outcome,
    why: String,
    halves: Vec<Half>,
}

impl Ended {
    fn without_lock(outcome: Outcome, why: String) -> Self {
        Self { lock: None, consent: Consent::NotAsked, outcome, why, halves: Vec::new() }
    }

    fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Deleted | Outcome::Gone | Outcome::WouldDelete => 0,
            Outcome::Refused | Outcome::Left => exit::LOCK_LEFT,
        }
    }
}

impl Unlock<'_> {
    async fn run(&self) -> Result<u8, Failure> {
        let started = Timestamp::now();
        let looks = self.state.look_at_lock().await;
        let path = self.state.lock_id();
        let at_work = self.at_work(&self.machine);
        let ended = match find(self.wish, &path, &looks) {
            Finding::NotSeen(place, error) => {
                return Err(Failure::NotLookedAt { state: place.to_string(), error: error.clone() });
            }
            Finding::NotLocked => {
                let why = format!("{} is not locked: nothing to do", printable(&path));
                let doubts = self.state.doubts(&looks).into_iter().map(|doubt| not_read(&doubt));
                Ended::without_lock(Outcome::Gone, [why].into_iter().chain(doubts).collect::<Vec<_>>().join("\n"))
            }
            Finding::Other(seen) => Ended::without_lock(Outcome::Refused, self.about_another(seen, &looks)?),
            Finding::This(seen) => {
                let lock = seen.judge(&self.machine);
                self.delete(lock, &looks, &at_work).await?
            }
        };
        let code = ended.exit_code();
        match ended.outcome {
            Outcome::Refused | Outcome::Left => tracing::warn!("{}", ended.why),
            _ => print(&format!("{}\n", ended.why))?,
        }
        if let Some(file) = &self.args.report {
            let now = Timestamp::now();
            write_report(
                file,
                &Report {
                    schema: 1,
                    command: "unlock",
                    tfguard: env!("CARGO_PKG_VERSION"),
                    exit_code: code,
                    started,
                    ended: now,
                    by: By::this_process(),
                    state: &path,
                    id: self.args.id.as_deref(),
                    lock: ended.lock.as_ref().map(|lock| lock.view(None, started)),
                    consent: ended.consent,
                    outcome: ended.outcome,
                    why: ended.why,
                    halves: ended.halves,
                },
            );
        }
        Ok(code)
    }

    /// Shows what is there, asks if need be, deletes.
    async fn delete(&self, lock: JudgedLock, looks: &[HalfLook], at_work: &[String]) -> Result<Ended, Failure> {
        let halves: Vec<_> = lock.lock.halves().cloned().collect();
        let living = at_work.iter().map(|terraform| format!("at work on this machine: {}\n", printable(terraform)));
        print(&(self.intention(&lock, looks) + &living.collect::<String>()))?;
        let ended = |consent, outcome, why: &str| Ended {
            lock: Some(lock.clone()),
            consent,
            outcome,
            why: why.to_owned(),
            halves: Vec::new(),
        };
        let verdict = self.verdict(&lock);
        let permission = permission(self.wish, &verdict);
        if permission == Permission::Refused {
            return Ok(ended(Consent::NotAsked, Outcome::Refused, &stays(&lock, &verdict)));
        }
        if self.args.dry_run {
            let by_lease = self.args.expired && permission == Permission::ToBeAsked;
            if let Some(half) = halves.iter().find(|half| by_lease && half.seen.leased.lease().is_none()) {
                let why = undecided(&unleased(&half.seen.lock, Some(&half.seen.leased)));
                return Ok(ended(Consent::NotAsked, Outcome::Refused, &why));
            }
            let why = match permission {
                _ if by_lease => "dry run: nothing was deleted; tfguard would wait out its lease first",
                Permission::ToBeAsked if !self.args.yes || !at_work.is_empty() => {
                    "dry run: nothing was deleted; tfguard would ask first"
                }
                _ => "dry run: nothing was deleted",
            };
            return Ok(ended(Consent::NotAsked, Outcome::WouldDelete, why));
        }
        if self.args.expired && permission == Permission::ToBeAsked {
            return Ok(self.outwait(&lock, looks).await);
        }
        let consent = match permission {
            Permission::Given => Consent::NotNeeded,
            _ if self.args.yes && !at_work.is_empty() => {
                return Ok(ended(Consent::NotAsked, Outcome::Refused, &may_be_alive(at_work)));
            }
            _ if self.args.yes => Consent::ByOption,
            _ => match confirm(QUESTION) {
                Answer::Yes => Consent::Given,
                Answer::No => {
                    return Ok(ended(Consent::Refused, Outcome::Refused, "not confirmed, so nothing was deleted"));
                }
                Answer::NobodyThere if !at_work.is_empty() => {
                    return Ok(ended(Consent::NobodyThere, Outcome::Refused, &may_be_alive(at_work)));
                }
                Answer::NobodyThere => {
                    let why = "nothing was deleted: whether its holder lives is not known, and there is no terminal to \
                               ask on. Once you are certain that no Terraform of it runs any more, add --yes";
                    return Ok(ended(Consent::NobodyThere, Outcome::Refused, why));
                }
            },
        };
        if consent != Consent::Given {
            // Whoever died may have done so a moment ago. A person's answer takes longer than this.
            tokio::time::sleep(IN_FLIGHT).await;
        }
        // The record of who holds a young lock may have come meanwhile. One that is dead stays so.
        if permission == Permission::ToBeAsked
            && let Some(why) = self.alive_by_now(consent).await
        {
            return Ok(ended(consent, Outcome::Refused, &why));
        }
        let mut done = Vec::new();
        for half in &halves {
            let outcome = HalfOutcome::from(self.release(half).await);
            done.push(Half { place: half.place.clone(), outcome });
        }
        let unseen: Vec<_> = looks.iter().filter_map(|look| Some((&look.at.place, look.failure()?))).collect();
        let (outcome, mut why) = told(&done, &unseen);
        if outcome == Outcome::Deleted {
            why += &self.next();
        }
        Ok(Ended { halves: done, ..ended(consent, outcome, &why) })
    }

    /// Waits until the lock's lease has run out, and deletes it then.
    async fn outwait(&self, lock: &JudgedLock, looks: &[HalfLook]) -> Ended {
        let places = lock.lock.halves().map(|half| half.place.clone());
        let id = lock.lock.id().unwrap_or_default();
        let mut expiry = Expiry::of_state(&self.state.clients, places).only(id);
        let watched = expiry.watch().await;
        let halves = expiry.gone();
        let (outcome, mut why) = match watched {
            Err(error) => (Outcome::Left, format!("NOT deleted: {}", error.on_lines())),
            Ok(Expired::Free | Expired::Gone | Expired::Reclaimed) => {
                let unseen: Vec<_> = looks.iter().filter_map(|look| Some((&look.at.place, look.failure()?))).collect();
                told(&halves, &unseen)
            }
            Ok(Expired::Renewed) => {
                (Outcome::Refused, "the lock stays: its lease was renewed, so its run is alive".to_owned())
            }
            Ok(Expired::Another) => {
                (Outcome::Refused, "another lock has taken its place and was not touched".to_owned())
            }
            Ok(Expired::Stays(why)) => (Outcome::Refused, undecided(&why)),
        };
        if outcome == Outcome::Deleted {
            why += &self.next();
        }
        Ended { lock: Some(lock.clone()), consent: Consent::ByLease, outcome, why, halves }
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
        let machine = Machine::here(|name| std::env::var_os(name));
        let at_work = self.at_work(&machine);
        if consent == Consent::ByOption && !at_work.is_empty() {
            return Some(may_be_alive(&at_work));
        }
        let looks = self.state.look_at_lock().await;
        let Finding::This(seen) = find(self.wish, &self.state.lock_id(), &looks) else { return None };
        let lock = seen.judge(&machine);
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
            Wish::Lock(_) => describe::lock(lock, Timestamp::now(), Page::of_stdout()),
            // They have nothing in common but the state.
            Wish::Broken => lock.lock.halves().map(|half| self.describe(half.clone())).collect(),
        };
        for look in looks {
            let line = match &look.seen {
                Err(error) if look.at.expected => {
                    not_read(&Unread { what: look.at.place.to_string(), error: Some(error.clone()) })
                }
                Ok(Some(seen)) if lock.lock.halves().all(|half| half.place != look.at.place) => {
                    let how = if is_broken(seen, &self.state.lock_id()) { " (--broken deletes it)" } else { "" };
                    printable(&format!(
                        "stays, and blocks the state: {}, at {}{how}",
                        describe::in_a_line(seen),
                        look.at.place
                    ))
                }
                _ => continue,
            };
            text += &format!("{line}\n");
        }
        for doubt in self.state.doubts(looks) {
            text += &format!("{}\n", not_read(&doubt));
        }
        text
    }

    fn describe(&self, half: HalfSeen) -> String {
        describe::lock(&self.judge(half), Timestamp::now(), Page::of_stdout())
    }

    /// One half by itself.
    fn judge(&self, half: HalfSeen) -> JudgedLock {
        SeenLock { state: self.state.lock_id(), first: half, others: Vec::new() }.judge(&self.machine)
    }

    /// The verdict that counts: what is broken may be so in one half, and in the other the copy of somebody's lock.
    fn verdict(&self, lock: &JudgedLock) -> Liveness {
        let mut verdicts = lock.lock.halves().map(|half| self.judge(half.clone()).judged.verdict);
        verdicts.find(Liveness::is_alive).unwrap_or_else(|| lock.judged.verdict.clone())
    }

    /// Something is there, and not what was asked for.
    fn about_another(&self, seen: &Sighting, looks: &[HalfLook]) -> Result<String, Failure> {
        let path = self.state.lock_id();
        print(&looks.iter().filter_map(HalfLook::half).map(|half| self.describe(half)).collect::<String>())?;
        Ok(match self.wish {
            Wish::Lock(id) if seen.id() == Some(id) && is_of_another(seen, &path) => format!(
                "the lock {} says that it is another state's, so nothing was deleted. Check bucket and key; if the \
                 lock was copied here, delete it with --broken",
                printable(id)
            ),
            Wish::Lock(id) => {
                format!("{} is not locked by {}, so nothing was deleted", printable(&path), printable(id))
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

/// What came of all halves, in words.
fn told(halves: &[Half], unseen: &[(&LockPlace, &StoreError)]) -> (Outcome, String) {
    let mut outcome = Outcome::Gone;
    let mut told = Vec::new();
    for Half { place, outcome: of_half } in halves {
        let place = printable(&place.to_string());
        told.push(match of_half {
            HalfOutcome::Deleted => {
                if outcome == Outcome::Gone {
                    outcome = Outcome::Deleted;
                }
                format!("deleted: {place}")
            }
            HalfOutcome::AlreadyGone => format!("already gone: {place}"),
            HalfOutcome::GoneWithStore { why } => format!("gone with its table or bucket: {place}: {}", printable(why)),
            HalfOutcome::NotOurs { holder } => {
                let another = match holder {
                    FoundLock::Held(info) => format!("{} by {}", info.id, info.who),
                    FoundLock::Malformed(_) => "something that isn't a lock".to_owned(),
                };
                // Gone, but the state is locked.
                if outcome != Outcome::Left {
                    outcome = Outcome::Refused;
                }
                format!("another lock has taken its place and was not touched: {place} has {}", printable(&another))
            }
            HalfOutcome::Left { why } | HalfOutcome::NotOwn { why } => {
                outcome = Outcome::Left;
                format!("NOT deleted: {place}: {}", printable(why))
            }
        });
    }
    for (place, error) in unseen {
        outcome = Outcome::Left;
        told.push(format!("NOT READ: {}: {}", printable(&place.to_string()), printable(&error.in_a_line())));
    }
    (outcome, told.join("\n"))
}

/// The file of `tfguard unlock --report`. Documented in `docs/operator.md`.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub schema: u32,
    /// Always `unlock`.
    pub command: &'static str,
    pub tfguard: &'static str,
    pub exit_code: u8,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub by: By,
    /// The state: `<bucket>/<state key>`.
    pub state: &'a str,
    /// The ID that was given. None with `--broken`.
    pub id: Option<&'a str>,
    /// What was there and was to be deleted. None if it was not there.
    pub lock: Option<View<'a>>,
    /// Who allowed it.
    pub consent: Consent,
    /// What came of it.
    pub outcome: Outcome,
    /// The same in words.
    pub why: String,
    /// What became of each half that was to be deleted.
    pub halves: Vec<Half>,
}

/// Who runs tfguard.
#[derive(Debug, Serialize)]
pub struct By {
    user: Option<String>,
    host: Option<String>,
    ci: Option<model::Run>,
}

impl By {
    /// Whoever runs this process.
    pub fn this_process() -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        Self { user, host: nodename(), ci: model::Run::detect(|name| std::env::var(name).ok()) }
    }
}

/// Who allowed the deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
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

/// What came of an unlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is deleted.
    Deleted,
    /// It went away before it was deleted, or was not there.
    Gone,
    /// It would be deleted (`--dry-run`).
    WouldDelete,
    /// It stays, because tfguard or a person said so, or another one is there.
    Refused,
    /// It may still be there, against the intention.
    Left,
}
