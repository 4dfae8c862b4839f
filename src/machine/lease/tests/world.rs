//! A model of the world around the machines: commands with their clocks, a store, requests that are lost, late or doubled,
//! processes that are frozen and killed, and people.
//!
//! Time goes in ticks. Everything that happens within a tick happens in any order. A request is answered within one tick or
//! given up; its clock tells each command the time, and the clocks have rates of their own.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use crate::machine::lease::holder::{self, Holder};
use crate::machine::lease::observer::{self, Observer};
use crate::machine::lease::{Answer, Lease, Moment, Sight, Times};
use crate::model::Known;

pub(super) type Id = u8;
pub(super) type Version = u16;

thread_local! {
    static LAST: Cell<Version> = const { Cell::new(0) };
}

fn fresh() -> Version {
    LAST.set(LAST.get() + 1);
    LAST.get()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Protocol {
    /// Lock and lease in one item.
    Item,
    /// A lockfile, and an object beside it for the lease.
    Lockfile,
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// `tfguard --lease -- terraform apply`
    Run,
    /// `tfguard --lease --reclaim -- terraform apply`
    Reclaim,
    /// `tfguard unlock --expired`
    Unlock,
    /// `terraform apply`
    Plain,
}

/// How tfguard is broken, to see whether the search finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Rule 1: a beat is sent without its condition on the lock.
    BeatWithoutLock,
    /// Rule 1: a beat is sent without its condition on the previous version.
    BeatWithoutVersion,
    /// Rule 2: a lost lock is taken for the orderly end.
    LossIgnored,
    /// Rule 2: a lock that is lost is renewed again.
    RenewedAfterLoss,
    /// Rule 2: Terraform's log isn't read before a lock counts as lost.
    LogUnread,
    /// Rule 3: a beat without an answer counts as landed.
    UnknownIsDone,
    /// Rule 3: a beat without an answer counts as one that cannot land.
    UnknownIsNotDone,
    /// Rule 4: the deadlines count from the answer.
    CountedFromAnswer,
    /// Rule 5: the child goes on before the holder looks at its clock.
    ContinuedFirst,
    /// Rule 5: the clock stands still while the holder is suspended.
    ClockStandsStill,
    /// Rule 6: whatever lease is there counts as that of the lock.
    NameIgnored,
    /// Rule 6: a failed read is taken for one that found the same as before.
    FailedReadIgnored,
    /// Rule 6: the observer doesn't wait until the holder must be dead.
    WaitTooShort,
    /// Rule 6: the wait begins anew at each look.
    WaitRestarted,
    /// Rule 7: the wait counts from when the lock was taken.
    CountedFromCreated,
    /// Rule 7: a lock without a lease counts as leased.
    UnleasedReclaimed,
    /// Rule 8: whoever takes over begins anew.
    JournalUnread,
    /// Rule 8: the journal has only the confirmed version.
    JournalWithoutSent,
    /// Rule 9: a delete is sent without its condition on the lock.
    DeleteWithoutLock,
    /// Rule 9: an item is deleted without the condition on the version.
    DeleteWithoutVersion,
    /// A lockfile is deleted without having been fenced.
    FenceSkipped,
}

/// One world to explore.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub protocol: Protocol,
    pub times: Times,
    pub roles: &'static [Role],
    /// By how much each clock goes on at a tick.
    pub rates: &'static [Duration],
    /// How many faults happen at most.
    pub faults: u8,
    pub bug: Option<Bug>,
    /// Count also children without a guard that is at work, which no lease can fence.
    pub unguarded: bool,
}

pub(super) const TICK: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Being {
    None,
    Alive,
    Frozen,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Before,
    Observing,
    /// Its Terraform may take the lock.
    Starting,
    Running,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    /// The lock alone; then the lease, if there is a lock. An item gives both at once.
    Read,
    ReadLease(Id),
    /// First part of the beat of a lockfile: is it ours, and which version is to be replaced?
    Head {
        previous: Option<Version>,
        version: Version,
        sent: Moment,
    },
    Beat {
        previous: Option<Version>,
        version: Version,
        sent: Moment,
    },
    Fence {
        lock: Id,
        seen: Version,
        version: Version,
    },
    Delete {
        lock: Id,
        version: Version,
    },
    /// Delete the object of a lease.
    Tidy(Version),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reply {
    Pending,
    Lost,
    Ready(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Outcome {
    Answer(Answer),
    Sight(Option<(Id, Option<(Id, Version)>)>),
    Then(Op),
}

#[derive(Debug, Clone)]
struct Asked {
    op: Op,
    at: Moment,
    reply: Reply,
}

#[derive(Debug, Clone)]
struct Party {
    role: Role,
    stage: Stage,
    clock: Moment,
    guard: Being,
    child: Being,
    /// Terraform's log says so.
    unlocking: bool,
    observer: Option<Observer<Id, Version>>,
    holder: Option<Holder<Version>>,
    asked: Option<Asked>,
    journal: Known<Version>,
    lock: Option<Id>,
    /// It cannot reach the store.
    cut: bool,
    /// A person deleted its lock.
    robbed: bool,
    stopped: bool,
    lost: bool,
    /// When its last beat that landed was sent.
    landed: Option<Moment>,
    /// When its last read failed.
    failed: Option<Moment>,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    setting: Setting,
    lock: Option<Id>,
    /// The lock that it names, and its version.
    lease: Option<(Id, Version)>,
    /// Its version is an observer's.
    fenced: bool,
    parties: Vec<Party>,
    /// Requests that nobody waits for any more. Each may land yet.
    late: Vec<(usize, Op)>,
    faults: u8,
    locks: Id,
    last_version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Tick,
    /// A command is started.
    Start(usize),
    /// Its Terraform takes the lock.
    Take(usize),
    /// Its Terraform logs that it is about to unlock.
    Unlocking(usize),
    /// Its Terraform has unlocked and ended.
    Unlocked(usize),
    /// tfguard sees that its Terraform has ended.
    Notice(usize),
    /// tfguard deletes the lock of the Terraform it killed.
    Release(usize),
    /// Its request is served, and it gets the answer; a frozen one once it is awake.
    Serve(usize),
    /// It is told by the processes of this machine that the holder is dead.
    Prove(usize),
    /// A late request lands.
    Land(usize),
    /// Its request is served, and the answer is lost.
    LoseReply(usize),
    /// Its request is served twice, and it gets the second answer.
    Double(usize),
    /// Its request is denied.
    Deny(usize),
    /// It gives up its request, which may land yet.
    GiveUp(usize),
    /// It is cut off from the store.
    Cut(usize),
    Heal(usize),
    /// tfguard is frozen, and its Terraform with it or not.
    Freeze(usize, bool),
    Wake(usize),
    /// Everything of it dies.
    Crash(usize),
    /// tfguard dies, its Terraform lives on.
    GuardDies(usize),
    /// What is left of tfguard takes over.
    TakeOver(usize),
    /// A person deletes whatever lock is there.
    ForceUnlock,
}

impl Step {
    pub fn is_fault(self) -> bool {
        use Step::*;
        matches!(
            self,
            LoseReply(_)
                | Double(_)
                | Deny(_)
                | GiveUp(_)
                | Cut(_)
                | Freeze(..)
                | Crash(_)
                | GuardDies(_)
                | ForceUnlock
        )
    }
}

type Checked = Result<(), String>;

fn ensure(holds: bool, violation: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(violation()) }
}

impl World {
    pub fn new(setting: Setting) -> Self {
        let party = |&role: &Role| Party {
            role,
            stage: if let Role::Run | Role::Plain = role { Stage::Starting } else { Stage::Before },
            clock: Moment::ZERO,
            guard: if role == Role::Run { Being::Alive } else { Being::None },
            child: Being::None,
            unlocking: false,
            observer: None,
            holder: None,
            asked: None,
            journal: Known::default(),
            lock: None,
            cut: false,
            robbed: false,
            stopped: false,
            lost: false,
            landed: None,
            failed: None,
        };
        Self {
            setting,
            lock: None,
            lease: None,
            fenced: false,
            parties: setting.roles.iter().map(party).collect(),
            late: Vec::new(),
            faults: 0,
            locks: 0,
            last_version: 0,
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.setting.bug == Some(bug)
    }

    /// All that can happen next.
    pub fn steps(&self) -> Vec<Step> {
        use Step::*;
        let mut steps = Vec::new();
        let mut may_tick = true;
        for (p, party) in self.parties.iter().enumerate() {
            let at_work = party.guard == Being::Alive;
            match party.stage {
                Stage::Before => steps.push(Start(p)),
                Stage::Starting if self.lock.is_none() && (at_work || party.role == Role::Plain) => steps.push(Take(p)),
                _ => {}
            }
            if party.child == Being::Alive {
                steps.push(if party.unlocking { Unlocked(p) } else { Unlocking(p) });
            }
            if party.stage == Stage::Running && at_work && party.child == Being::None {
                steps.push(Notice(p));
                may_tick = false;
            }
            if party.stage == Stage::Running && at_work && party.child == Being::Dead {
                steps.push(Release(p));
                may_tick = false;
            }
            if let Some(asked) = &party.asked {
                let expired = party.clock - asked.at >= TICK.mul_f64(0.98);
                may_tick &= !(at_work && expired);
                let is_pending = asked.reply == Reply::Pending && !party.cut;
                if is_pending || (at_work && matches!(asked.reply, Reply::Ready(_))) {
                    steps.push(Serve(p));
                }
                // For one that changes nothing they are the same as to give it up.
                if is_pending && !matches!(asked.op, Op::Read | Op::ReadLease(_) | Op::Head { .. }) {
                    steps.extend([LoseReply(p), Double(p), Deny(p)]);
                }
                if at_work && (expired || !matches!(asked.reply, Reply::Ready(_))) {
                    steps.push(GiveUp(p));
                }
            }
            if at_work && self.proven(p) {
                steps.push(Prove(p));
            }
            match party.guard {
                Being::Alive if matches!(party.stage, Stage::Observing | Stage::Running) => {
                    steps.extend([Crash(p), Freeze(p, true)]);
                    if party.child == Being::Alive {
                        steps.extend([GuardDies(p), Freeze(p, false)]);
                    }
                    if party.asked.is_some() && !party.cut {
                        steps.push(Cut(p));
                    }
                }
                Being::Frozen => steps.push(Wake(p)),
                Being::Dead if matches!(party.child, Being::Alive | Being::Frozen) => {
                    steps.extend([TakeOver(p), Crash(p)])
                }
                _ => {}
            }
            if party.role == Role::Plain && party.child == Being::Alive {
                steps.push(Crash(p));
            }
            if party.cut {
                steps.push(Heal(p));
            }
        }
        steps.extend((0..self.late.len()).map(Land));
        if self.lock.is_some() {
            steps.push(ForceUnlock);
        }
        if may_tick {
            steps.push(Tick);
        }
        steps.retain(|step| !self.costs(*step) || self.faults < self.setting.faults);
        steps
    }

    /// Whether it is one of the faults that are counted.
    fn costs(&self, step: Step) -> bool {
        match step {
            Step::GiveUp(p) => {
                let party = &self.parties[p];
                let asked = party.asked.as_ref().expect("one");
                asked.reply == Reply::Pending && !party.cut && party.clock - asked.at < TICK * 3 / 2
            }
            _ => step.is_fault(),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// The promise that it broke.
    pub fn take(&mut self, step: Step) -> Checked {
        use Step::*;
        LAST.set(self.last_version);
        self.faults += u8::from(self.costs(step));
        match step {
            Tick => self.tick()?,
            Start(p) => self.start(p)?,
            Take(p) => self.take_lock(p)?,
            Unlocking(p) => self.parties[p].unlocking = true,
            Unlocked(p) => {
                self.parties[p].child = Being::None;
                if self.lock == self.parties[p].lock {
                    self.remove_lock();
                }
                if self.parties[p].role == Role::Plain {
                    self.parties[p].stage = Stage::Over;
                }
            }
            Notice(p) => {
                let (party, now) = self.party(p);
                party.holder.as_mut().expect("one").handle(holder::Event::Ended, now);
                self.drain(p)?;
                self.leave(p);
            }
            Release(p) => {
                if self.lock == self.parties[p].lock {
                    self.remove_lock();
                }
                self.leave(p);
            }
            Serve(p) => {
                if self.asked(p).reply == Reply::Pending {
                    let outcome = self.serve_asked(p)?;
                    self.asked(p).reply = Reply::Ready(outcome);
                }
                if self.parties[p].guard == Being::Alive {
                    self.answer(p)?;
                }
            }
            Prove(p) => {
                let (party, now) = self.party(p);
                party.observer.as_mut().expect("one").handle(observer::Event::HolderDead, now);
                party.failed = None;
                self.drain(p)?;
            }
            Land(i) => {
                let (p, op) = self.late.remove(i);
                self.serve(p, op)?;
            }
            LoseReply(p) => {
                self.serve_asked(p)?;
                self.asked(p).reply = Reply::Lost;
            }
            Double(p) => {
                self.serve_asked(p)?;
                let outcome = self.serve_asked(p)?;
                self.asked(p).reply = Reply::Ready(outcome);
            }
            Deny(p) => {
                self.asked(p).reply = Reply::Ready(Outcome::Answer(Answer::NotDone));
            }
            GiveUp(p) => {
                // What never left for the store was surely not done.
                let answer = match self.asked(p).op {
                    Op::Head { .. } => Answer::NotDone,
                    _ => Answer::Unknown,
                };
                if self.asked(p).reply == Reply::Pending && !self.parties[p].cut {
                    self.abandon(p);
                }
                let reply = Reply::Ready(Outcome::Answer(answer));
                let at = self.parties[p].clock;
                self.parties[p].asked = Some(Asked { op: Op::Read, at, reply });
                self.answer(p)?;
            }
            Cut(p) => self.parties[p].cut = true,
            Heal(p) => self.parties[p].cut = false,
            Freeze(p, child) => {
                self.parties[p].guard = Being::Frozen;
                if child && self.parties[p].child == Being::Alive {
                    self.parties[p].child = Being::Frozen;
                }
            }
            Wake(p) => {
                self.parties[p].guard = Being::Alive;
                if !self.has(Bug::ContinuedFirst) {
                    self.look_at_clock(p)?;
                }
                if self.parties[p].child == Being::Frozen {
                    self.parties[p].child = Being::Alive;
                }
            }
            Crash(p) => {
                let party = &mut self.parties[p];
                (party.guard, party.stage) = (Being::Dead, Stage::Over);
                if party.child != Being::None {
                    party.child = Being::Dead;
                }
                (party.holder, party.observer) = (None, None);
                self.abandon(p);
            }
            GuardDies(p) => {
                let party = &mut self.parties[p];
                party.guard = Being::Dead;
                party.holder = None;
                self.abandon(p);
            }
            TakeOver(p) => {
                let known = match self.setting.bug {
                    Some(Bug::JournalUnread) => Known::default(),
                    Some(Bug::JournalWithoutSent) => Known { sent: Vec::new(), ..self.parties[p].journal.clone() },
                    _ => self.parties[p].journal.clone(),
                };
                let times = self.setting.times;
                let party = &mut self.parties[p];
                party.guard = Being::Alive;
                party.holder = Some(Holder::new(times, known, fresh));
                (party.stopped, party.lost) = (false, false);
                self.look_at_clock(p)?;
            }
            ForceUnlock => {
                for party in &mut self.parties {
                    party.robbed |= party.lock == self.lock;
                }
                self.remove_lock();
            }
        }
        self.last_version = LAST.get();
        self.forget_what_cannot_land();
        self.check()
    }

    fn party(&mut self, p: usize) -> (&mut Party, Moment) {
        let party = &mut self.parties[p];
        let now = party.clock;
        (party, now)
    }

    fn asked(&mut self, p: usize) -> &mut Asked {
        self.parties[p].asked.as_mut().expect("a request")
    }

    fn tick(&mut self) -> Checked {
        for p in 0..self.parties.len() {
            let rate = self.setting.rates[p];
            if self.parties[p].guard != Being::Frozen || !self.has(Bug::ClockStandsStill) {
                self.parties[p].clock += rate;
            }
        }
        (0..self.parties.len()).try_for_each(|p| self.drain(p))
    }

    fn start(&mut self, p: usize) -> Checked {
        let observer = match self.setting.protocol {
            Protocol::Item => Observer::new(None),
            Protocol::Lockfile => Observer::new(Some(fresh)),
        };
        let party = &mut self.parties[p];
        (party.stage, party.guard, party.observer) = (Stage::Observing, Being::Alive, Some(observer));
        self.drain(p)
    }

    fn take_lock(&mut self, p: usize) -> Checked {
        self.locks += 1;
        self.lock = Some(self.locks);
        let (lock, times) = (self.locks, self.setting.times);
        let party = &mut self.parties[p];
        (party.stage, party.child, party.lock) = (Stage::Running, Being::Alive, Some(lock));
        if party.role != Role::Plain {
            party.holder = Some(Holder::new(times, Known::default(), fresh));
        }
        self.drain(p)
    }

    /// A command has done all it had to.
    fn leave(&mut self, p: usize) {
        let party = &mut self.parties[p];
        party.stage = Stage::Over;
        let known = party.holder.take().and_then(|holder| holder.known().confirmed.clone());
        self.abandon(p);
        if let (Protocol::Lockfile, Some(beat)) = (self.setting.protocol, known) {
            self.late.push((p, Op::Tidy(beat.version)));
        }
    }

    fn remove_lock(&mut self) {
        self.lock = None;
        if self.setting.protocol == Protocol::Item {
            self.lease = None;
        }
    }

    /// Nobody waits for the request any more.
    fn abandon(&mut self, p: usize) {
        if let Some(asked) = self.parties[p].asked.take()
            && asked.reply == Reply::Pending
        {
            self.late.push((p, asked.op));
        }
    }

    /// Whether the processes of the lock's holder, on the same machine, are seen to be gone.
    fn proven(&self, p: usize) -> bool {
        let watch = self.parties[p].observer.as_ref().and_then(Observer::watch);
        let dead = |lock| {
            let mut holders = self.parties.iter().filter(|party| party.lock == Some(lock));
            holders.all(|party| party.guard == Being::Dead && party.child == Being::Dead)
        };
        self.parties[p].asked.is_none() && watch.is_some_and(|watch| !watch.dead && dead(watch.lease.lock))
    }

    fn serve_asked(&mut self, p: usize) -> Result<Outcome, String> {
        let op = self.asked(p).op;
        self.serve(p, op)
    }

    /// The store's part.
    fn serve(&mut self, p: usize, op: Op) -> Result<Outcome, String> {
        let item = self.setting.protocol == Protocol::Item;
        let mine = self.parties[p].lock;
        let version_there = self.lease.map(|lease| lease.1);
        let done = |done| Outcome::Answer(if done { Answer::Done } else { Answer::Refused });
        Ok(match op {
            Op::Read => match self.lock {
                Some(lock) if item => Outcome::Sight(Some((lock, self.lease))),
                Some(lock) => Outcome::Then(Op::ReadLease(lock)),
                None => Outcome::Sight(None),
            },
            Op::ReadLease(lock) => Outcome::Sight(Some((lock, self.lease))),
            Op::Head { .. } if self.lock != mine => done(false),
            Op::Head { previous, version, sent } => {
                let others = self.lease.filter(|lease| Some(lease.0) != mine).map(|lease| lease.1);
                Outcome::Then(Op::Beat { previous: previous.or(others), version, sent })
            }
            Op::Beat { previous, version, sent } => {
                let lock_fits = self.lock == mine || !item;
                let version_fits = version_there == previous;
                let lands = (lock_fits || self.has(Bug::BeatWithoutLock))
                    && (version_fits || self.has(Bug::BeatWithoutVersion));
                if lands {
                    ensure(lock_fits, || format!("a beat of {p} is written where its lock is not"))?;
                    ensure(version_fits, || format!("a beat of {p} overwrites another than the one before it"))?;
                    self.lease = Some((mine.expect("a lock"), version));
                    self.fenced = false;
                    self.parties[p].landed = Some(sent);
                }
                done(lands)
            }
            Op::Fence { lock, seen, version } => {
                let lands = version_there == Some(seen);
                if lands {
                    self.lease = Some((lock, version));
                    self.fenced = true;
                }
                done(lands)
            }
            Op::Delete { lock, version } => {
                let lock_fits = self.lock == Some(lock);
                let unleased = self.has(Bug::UnleasedReclaimed) && self.lease.is_none();
                let version_fits = version_there == Some(version) || unleased;
                let lands = self.lock.is_some()
                    && (lock_fits || self.has(Bug::DeleteWithoutLock))
                    && (!item
                        || version_fits
                        || self.has(Bug::DeleteWithoutVersion)
                        || self.has(Bug::DeleteWithoutLock));
                if lands {
                    ensure(lock_fits, || format!("{p} deletes another lock than the one it watched"))?;
                    ensure(version_fits || self.fenced || self.has(Bug::DeleteWithoutLock), || {
                        format!("{p} deletes a lock that was renewed meanwhile")
                    })?;
                    let mut holders = self.parties.iter().enumerate().filter(|(_, party)| party.lock == Some(lock));
                    let lives = holders.find(|(_, party)| party.is_living(self.setting.unguarded));
                    ensure(lives.is_none(), || {
                        format!("{p} deletes the lock of {}, whose child lives", lives.unwrap().0)
                    })?;
                    self.remove_lock();
                    if !item {
                        self.late.push((p, Op::Tidy(version)));
                    }
                }
                done(lands)
            }
            Op::Tidy(version) => {
                if version_there == Some(version) {
                    ensure(self.lease.map(|lease| lease.0) != self.lock, || format!("{p} deletes a living lease"))?;
                    self.lease = None;
                }
                done(true)
            }
        })
    }

    /// The machine gets its answer.
    fn answer(&mut self, p: usize) -> Checked {
        let Some(Asked { reply: Reply::Ready(outcome), op, at }) = self.parties[p].asked.take() else { return Ok(()) };
        if let Outcome::Then(op) = outcome {
            self.parties[p].asked = Some(Asked { op, at, reply: Reply::Pending });
            return Ok(());
        }
        let (name_ignored, unleased) = (self.has(Bug::NameIgnored), self.has(Bug::UnleasedReclaimed));
        let (bug, times) = (self.setting.bug, self.setting.times);
        let (party, now) = self.party(p);
        let sight = |sight: Option<(Id, Option<(Id, Version)>)>| {
            sight.map(|(lock, lease)| {
                let lease = if unleased { lease.or(Some((lock, 0))) } else { lease };
                let lease = lease.map(|(named, version)| {
                    let named = if name_ignored { lock } else { named };
                    Lease { lock: named, version, times }
                });
                Sight { lock, lease }
            })
        };
        if let Some(holder) = &mut party.holder {
            let reads = holder.state == holder::State::Reading;
            holder.handle(
                match outcome {
                    // As `Store::held_lease` judges it.
                    Outcome::Sight(seen) => {
                        let seen = sight(seen).filter(|seen| Some(seen.lock) == party.lock);
                        let version = seen.as_ref().and_then(Sight::own_lease).map(|lease| lease.version);
                        holder::Event::Read { there: seen.is_some(), version }
                    }
                    Outcome::Answer(_) if reads => holder::Event::ReadFailed,
                    Outcome::Answer(answer) => holder::Event::Answered(match (answer, bug) {
                        (Answer::Unknown, Some(Bug::UnknownIsDone)) => Answer::Done,
                        (Answer::Unknown, Some(Bug::UnknownIsNotDone)) => Answer::NotDone,
                        _ => answer,
                    }),
                    Outcome::Then(_) => unreachable!("{op:?}"),
                },
                now,
            );
            if bug == Some(Bug::CountedFromAnswer)
                && outcome == Outcome::Answer(Answer::Done)
                && let Some(beat) = &mut holder.known.confirmed
            {
                beat.at = now;
            }
        } else if let Some(observer) = &mut party.observer {
            let reads = observer.state == observer::State::Reading;
            let event = match outcome {
                Outcome::Sight(seen) => observer::Event::Read(sight(seen)),
                Outcome::Answer(_) if reads => {
                    party.failed = Some(now);
                    match (bug, observer.watch()) {
                        (Some(Bug::FailedReadIgnored), Some(watch)) => {
                            let (lock, lease) = (watch.lease.lock, Some(watch.lease.clone()));
                            observer::Event::Read(Some(Sight { lock, lease }))
                        }
                        _ => observer::Event::ReadFailed,
                    }
                }
                Outcome::Answer(answer) => observer::Event::Answered(answer),
                Outcome::Then(_) => unreachable!("{op:?}"),
            };
            observer.handle(event, now);
            if let Some(watch) = &mut observer.watch {
                watch.since = match bug {
                    Some(Bug::CountedFromCreated) => Moment::ZERO,
                    Some(Bug::WaitTooShort) => watch.since.saturating_sub(TICK),
                    Some(Bug::WaitRestarted) => now,
                    _ => watch.since,
                };
            }
        }
        self.drain(p)
    }

    /// What comes first whenever a command may have been suspended.
    fn look_at_clock(&mut self, p: usize) -> Checked {
        let (party, now) = self.party(p);
        if let Some(holder) = &mut party.holder {
            holder.handle_time(now);
        }
        self.drain(p)
    }

    /// Does what its machine says, and lets it have the time.
    fn drain(&mut self, p: usize) -> Checked {
        if self.parties[p].guard != Being::Alive {
            return Ok(());
        }
        loop {
            let (party, now) = self.party(p);
            if let Some(action) = party.holder.as_mut().and_then(Holder::poll_action) {
                self.obey_holder(p, action)?;
            } else if let Some(action) = party.observer.as_mut().and_then(Observer::poll_action) {
                self.obey_observer(p, action)?;
            } else if let Some(holder) = &mut party.holder
                && holder.next_time().is_some_and(|time| time <= now)
            {
                holder.handle_time(now);
            } else if let Some(observer) = &mut party.observer
                && observer.next_time().is_some_and(|time| time <= now)
            {
                observer.handle_time(now);
            } else {
                return Ok(());
            }
        }
    }

    fn ask(&mut self, p: usize, op: Op) -> Checked {
        let (party, at) = self.party(p);
        ensure(party.asked.is_none(), || format!("{p} sends a request while another is under way: {op:?}"))?;
        party.asked = Some(Asked { op, at, reply: Reply::Pending });
        Ok(())
    }

    fn obey_holder(&mut self, p: usize, action: holder::Action<Version>) -> Checked {
        let (lock_there, lease_there) = (self.lock, self.lease);
        let (protocol, faults, bug) = (self.setting.protocol, self.faults, self.setting.bug);
        let (party, now) = self.party(p);
        let holder = party.holder.as_mut().expect("one");
        match action {
            holder::Action::Beat { previous, version } => {
                ensure(!party.lost, || format!("{p} renews a lock that it has lost"))?;
                party.journal = holder.known().clone();
                let sent = now;
                self.ask(
                    p,
                    match protocol {
                        Protocol::Item => Op::Beat { previous, version, sent },
                        Protocol::Lockfile => Op::Head { previous, version, sent },
                    },
                )
            }
            holder::Action::Read => self.ask(p, Op::Read),
            holder::Action::ReadLog => {
                let over = party.unlocking || party.child == Being::None;
                let over = match bug {
                    Some(Bug::LossIgnored) => true,
                    Some(Bug::LogUnread) => false,
                    _ => over,
                };
                holder.handle(holder::Event::LogRead { over }, now);
                if bug == Some(Bug::RenewedAfterLoss) && !over {
                    holder.state = holder::State::Resting;
                }
                Ok(())
            }
            holder::Action::Stop { lost } => {
                // The first beat of a lockfile may have to be sent twice: the lease of the lock before is tidied away.
                let amiss = faults > 0 || party.unlocking || holder.known().confirmed.is_none();
                ensure(amiss, || format!("{p} has Terraform stop (lost: {lost}), and nothing is amiss"))?;
                let again = if lost { party.lost } else { party.stopped };
                ensure(!again, || format!("{p} asks twice to stop"))?;
                party.stopped = true;
                party.lost = lost;
                let over = party.unlocking || party.child == Being::None;
                ensure(!(party.lost && over), || format!("{p} counts a lock as lost that Terraform gave back"))?;
                let ours = |version: Version| {
                    let known = holder.known();
                    known
                        .confirmed
                        .iter()
                        .chain(&known.sent)
                        .chain(&party.journal.sent)
                        .any(|beat| beat.version == version)
                };
                let held = lock_there == party.lock
                    && lease_there.is_some_and(|lease| Some(lease.0) == party.lock && ours(lease.1));
                ensure(!(party.lost && held), || format!("{p} counts a lock as lost that it holds"))
            }
            holder::Action::Kill => {
                let amiss = faults > 0 || holder.known().confirmed.is_none();
                ensure(amiss, || format!("{p} kills Terraform, and nothing is amiss"))?;
                ensure(holder.poll_action().is_none(), || format!("{p} does more than to kill"))?;
                if party.child != Being::None {
                    party.child = Being::Dead;
                }
                self.abandon(p);
                Ok(())
            }
        }
    }

    fn obey_observer(&mut self, p: usize, action: observer::Action<Id, Version>) -> Checked {
        let wait = self.setting.times.wait;
        let fence_skipped = self.has(Bug::FenceSkipped);
        let (party, now) = self.party(p);
        if let observer::Action::Fence { .. } | observer::Action::Delete { .. } = action {
            let watch = party.observer.as_ref().and_then(Observer::watch).expect("a watch");
            let fresh = watch.dead || party.failed.is_none_or(|failed| now - failed >= wait);
            ensure(fresh, || format!("{p} reclaims a lock less than a wait after a read that failed"))?;
        }
        match action {
            observer::Action::Read => self.ask(p, Op::Read),
            observer::Action::Fence { lock, seen, .. } if fence_skipped => {
                self.ask(p, Op::Delete { lock, version: seen })
            }
            observer::Action::Fence { lock, seen, version } => self.ask(p, Op::Fence { lock, seen, version }),
            observer::Action::Delete { lock, version } => self.ask(p, Op::Delete { lock, version }),
            observer::Action::Finish(_) => {
                party.observer = None;
                party.failed = None;
                party.stage = if party.role == Role::Unlock { Stage::Over } else { Stage::Starting };
                Ok(())
            }
        }
    }

    /// Versions and locks are never the same twice, so what is refused now is refused for ever.
    fn forget_what_cannot_land(&mut self) {
        let (lock, lease) = (self.lock, self.lease.map(|lease| lease.1));
        let item = self.setting.protocol == Protocol::Item;
        let unconditional =
            [Bug::BeatWithoutLock, Bug::BeatWithoutVersion, Bug::DeleteWithoutLock, Bug::DeleteWithoutVersion];
        let keep = unconditional.into_iter().any(|bug| self.has(bug));
        let parties = &self.parties;
        self.late.retain(|(p, op)| match *op {
            Op::Read | Op::ReadLease(_) | Op::Head { .. } => false,
            Op::Beat { .. } | Op::Delete { .. } if keep => true,
            Op::Beat { previous, .. } => lease == previous && (!item || lock == parties[*p].lock),
            Op::Fence { seen, .. } => lease == Some(seen),
            Op::Delete { lock: meant, version } => lock == Some(meant) && (!item || lease == Some(version)),
            Op::Tidy(version) => lease == Some(version),
        });
    }

    /// The promises that can be seen in a state.
    fn check(&self) -> Checked {
        let living = || {
            let parties = self.parties.iter().enumerate();
            parties.filter(|(_, party)| party.is_living(self.setting.unguarded) && !party.robbed).map(|(p, _)| p)
        };
        ensure(living().count() < 2, || format!("two living children: {:?}", living().collect::<Vec<_>>()))?;
        for (p, party) in self.parties.iter().enumerate() {
            let Some(landed) = party.landed.filter(|_| party.robbed && party.is_living(false) && !party.unlocking)
            else {
                continue;
            };
            let kill = self.setting.times.kill;
            ensure(party.clock - landed < kill, || format!("the child of {p} outlives its lease"))?;
        }
        Ok(())
    }

    /// What comes next where nothing goes wrong and an observer is at work on the lock of a dead or frozen holder. None: it isn't so.
    pub fn next_to_reclaim(&self) -> Option<Step> {
        let lock = self.lock?;
        let leased = self.lease.is_some_and(|lease| lease.0 == lock);
        let mut holders = self.parties.iter().filter(|party| party.lock == Some(lock));
        let dead = holders
            .all(|party| party.guard == Being::Frozen || (party.guard, party.child) == (Being::Dead, Being::Dead));
        let observes = |party: &Party| party.guard == Being::Alive && party.observer.is_some() && !party.cut;
        if !(leased && dead && self.parties.iter().any(observes)) {
            return None;
        }
        let waits = |party: &Party| party.guard == Being::Alive && party.asked.is_some();
        let Some(p) = self.parties.iter().position(waits) else { return Some(Step::Tick) };
        let lost =
            self.parties[p].cut || self.parties[p].asked.as_ref().is_some_and(|asked| asked.reply == Reply::Lost);
        Some(if lost { Step::GiveUp(p) } else { Step::Serve(p) })
    }
}

/// Gathers what tells one state from another: times by what is left of them, versions and locks by when they are named first.
#[derive(Default)]
struct Key {
    bytes: Vec<u8>,
    versions: Vec<Version>,
    locks: Vec<Id>,
}

impl Key {
    fn push(&mut self, value: impl Into<u32>) {
        self.bytes.push(u8::try_from(value.into()).expect("small"));
    }

    /// How long ago, at most `most`.
    fn since(&mut self, now: Moment, then: Option<Moment>, most: Duration) {
        let passed = then.map(|then| now.saturating_sub(then).min(most + TICK).as_millis() / 10 + 1);
        self.bytes.extend(u16::try_from(passed.unwrap_or(0)).expect("small").to_le_bytes());
    }

    fn version(&mut self, version: Option<Version>) {
        let Some(version) = version else { return self.push(0_u8) };
        let known = self.versions.iter().position(|known| *known == version);
        self.push(known.map_or(self.versions.len(), |at| at) as u32 + 1);
        if known.is_none() {
            self.versions.push(version);
        }
    }

    fn lock(&mut self, lock: Option<Id>) {
        let Some(lock) = lock else { return self.push(0_u8) };
        let known = self.locks.iter().position(|known| *known == lock);
        self.push(known.map_or(self.locks.len(), |at| at) as u32 + 1);
        if known.is_none() {
            self.locks.push(lock);
        }
    }

    fn op(&mut self, op: Op, now: Moment, kill: Duration) {
        match op {
            Op::Read => self.push(0_u8),
            Op::ReadLease(lock) => {
                self.push(1_u8);
                self.lock(Some(lock));
            }
            Op::Head { previous, version, sent } | Op::Beat { previous, version, sent } => {
                self.push(if matches!(op, Op::Head { .. }) { 2_u8 } else { 3 });
                self.version(previous);
                self.version(Some(version));
                self.since(now, Some(sent), kill);
            }
            Op::Fence { lock, seen, version } => {
                self.push(4_u8);
                self.lock(Some(lock));
                self.version(Some(seen));
                self.version(Some(version));
            }
            Op::Delete { lock, version } => {
                self.push(5_u8);
                self.lock(Some(lock));
                self.version(Some(version));
            }
            Op::Tidy(version) => {
                self.push(6_u8);
                self.version(Some(version));
            }
        }
    }

    fn known(&mut self, known: &Known<Version>, now: Moment, kill: Duration) {
        self.version(known.confirmed.as_ref().map(|beat| beat.version));
        self.since(now, known.confirmed.as_ref().map(|beat| beat.at), kill);
        self.push(known.sent.len() as u32);
        for beat in &known.sent {
            self.version(Some(beat.version));
            self.since(now, Some(beat.at), kill);
        }
    }
}

impl World {
    /// The same for two worlds from which the same can follow.
    pub fn key(&self) -> u128 {
        let times = self.setting.times;
        let (kill, wait) = (times.kill, times.wait);
        let mut key = Key::default();
        key.push(self.faults);
        key.push(self.fenced);
        key.lock(self.lock);
        key.lock(self.lease.map(|lease| lease.0));
        key.version(self.lease.map(|lease| lease.1));
        for party in &self.parties {
            let now = party.clock;
            key.push(party.stage as u32 * 16 + party.guard as u32 * 4 + party.child as u32);
            let flags = [party.unlocking, party.cut, party.robbed, party.stopped, party.lost];
            key.push(flags.into_iter().fold(0, |all, flag| all * 2 + u32::from(flag)));
            key.lock(party.lock);
            if let Some(asked) = &party.asked {
                key.op(asked.op, now, kill);
                key.since(now, Some(asked.at), TICK);
                match asked.reply {
                    Reply::Pending => key.push(0_u8),
                    Reply::Lost => key.push(1_u8),
                    Reply::Ready(Outcome::Answer(answer)) => key.push(2 + answer as u32),
                    Reply::Ready(Outcome::Sight(sight)) => {
                        key.push(6_u8);
                        key.lock(sight.map(|sight| sight.0));
                        key.lock(sight.and_then(|sight| sight.1).map(|lease| lease.0));
                        key.version(sight.and_then(|sight| sight.1).map(|lease| lease.1));
                    }
                    Reply::Ready(Outcome::Then(op)) => {
                        key.push(7_u8);
                        key.op(op, now, kill);
                    }
                }
            }
            if let Some(holder) = &party.holder {
                key.push(8 + holder.state as u32);
                key.push(holder.stopped);
                key.since(holder.beat_at, Some(now), kill);
                key.known(&holder.known, now, kill);
            }
            if let Some(observer) = &party.observer {
                let (state, until) = match observer.state {
                    observer::State::Resting { until } => (0_u8, until),
                    observer::State::Reading => (1, now),
                    observer::State::Fencing => (2, now),
                    observer::State::Deleting => (3, now),
                    observer::State::Finished => (4, now),
                };
                key.push(16 + state);
                key.since(until, Some(now), wait);
                key.push(observer.deleted);
                if let Some(watch) = &observer.watch {
                    key.push(u8::from(watch.dead) + 1);
                    key.lock(Some(watch.lease.lock));
                    key.version(Some(watch.lease.version));
                    key.version(watch.fence);
                    key.since(now, Some(watch.since), wait);
                }
                key.since(now, party.failed, wait);
            }
            let more = self.faults < self.setting.faults;
            if party.stage == Stage::Running && (more || party.guard == Being::Dead) {
                key.known(&party.journal, now, kill);
            }
            if party.stage == Stage::Running && (more || party.robbed) {
                key.since(now, party.landed, kill);
            }
        }
        for (p, op) in &self.late {
            key.push(32 + *p as u32);
            key.op(*op, self.parties[*p].clock, kill);
        }
        let mut hashers = [DefaultHasher::new(), DefaultHasher::new()];
        hashers[1].write_u8(1);
        let [low, high] = hashers.map(|mut hasher| {
            hasher.write(&key.bytes);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }
}

impl Party {
    /// Whether its Terraform may change the state, and by all that its guard knows it may.
    fn is_living(&self, unguarded: bool) -> bool {
        let guarded = self.role == Role::Plain || self.guard == Being::Alive;
        match self.child {
            Being::Alive => guarded || unguarded,
            Being::Frozen => guarded,
            Being::None | Being::Dead => false,
        }
    }
}
