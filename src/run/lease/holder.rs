//! Keeps the leases of this run's locks: a machine for each half of a lock, its clock, and its requests, which go beside
//! Terraform and never in its way. What the machines want of the run, the supervisor does (`run/supervisor/leasing.rs`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::aws::{AwsClients, S3Backend, StoreError};
use crate::machine::lease::holder::{Action, Event, Holder as Machine};
use crate::machine::lease::{Answer, Times};
use crate::model::{
    Holder, Known, Lease, LeaseNote, LeaseVersion, Leased, LockClaim, LockId, LockPlace, ProcessId, Stage, Subject,
};
use crate::run::locks::traced::Identified;
use crate::session::{Journal, SessionDir, awaitable, boot_time};
use crate::store::{Leasehold, NotClaimed, Store, UnconditionalDelete};
use crate::text::describe;

/// Before the first beat credentials are fetched and the lock is read: that never takes longer.
const LONGEST_FIRST: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due where the system gives no alarm.
const WITHOUT_ALARM: Duration = Duration::from_millis(200);
/// How long what is left of leases may take to be removed at the end.
const CLEAN_UP: Duration = Duration::from_secs(5);
/// How long it may take to take a lease away from a lock that stays: credentials may have to be fetched for it.
const LONGEST_UNLEASE: Duration = Duration::from_secs(8);

/// So often in each lease the front looks whether its supervisor is suspended, and so many looks in a row tell that it is. Who
/// takes its place then can renew the lease before Terraform has to be stopped.
const LOOKS: (u32, u32) = (24, 6);

/// Waits until the supervisor of a run with a lease stands still, so that nobody renews it and nobody would stop Terraform.
pub async fn suspended_supervisor(session: &SessionDir, times: Option<Times>) -> ProcessId {
    let Some(times) = times else { return std::future::pending().await };
    let (mut before, mut looks) = (None, 0);
    loop {
        tokio::time::sleep(times.length / LOOKS.0).await;
        let leased = Journal::read(session).ok().filter(|journal| journal.leases.iter().any(|lease| !lease.lost));
        let supervisor = leased.and_then(|journal| journal.supervisor);
        // One that is stopped and continued all the time does work in between.
        let stands_still = supervisor.and_then(|supervisor| Some((supervisor, supervisor.suspended_at()?)));
        looks = match stands_still {
            None => 0,
            still if still == before => looks + 1,
            Some(_) => 1,
        };
        if let Some((supervisor, _)) = stands_still.filter(|_| looks >= LOOKS.1) {
            return supervisor;
        }
        before = stands_still;
    }
}

/// The leases of this run's locks.
#[derive(Debug)]
pub struct Leases {
    times: Option<Times>,
    halves: Vec<Half>,
    /// On the clock that goes on while the machine is suspended; tokio's does not. None where the system gives none: then the
    /// time is looked at.
    alarm: Option<AsyncFd<OwnedFd>>,
    to_self: UnboundedSender<Reply>,
    replies: UnboundedReceiver<Reply>,
    wanted: VecDeque<(usize, Action<LeaseVersion>)>,
    /// It was checked whether the run's locks can have any.
    is_checked: bool,
}

/// One half of a lock, with its lease.
#[derive(Debug)]
struct Half {
    target: Target,
    /// How far Terraform has come with the lock.
    stage: Stage,
    machine: Machine<LeaseVersion>,
    is_asking: bool,
    is_stopped: bool,
    lost: bool,
    /// The last confirmed beat, as of the last look at what there is to say.
    last_beat: Option<LeaseVersion>,
    /// People were told that beats since then failed.
    told_failing: bool,
}

/// Beside what a lease is kept, and what is known of that.
#[derive(Debug, Clone)]
struct Target {
    lock: Subject,
    place: LockPlace,
    /// None where a dead supervisor kept the lease, and its lock was not read of yet.
    backend: Option<S3Backend>,
    opened: Option<Opened>,
    /// What is there, as far as it was read or written.
    hold: Option<Leasehold>,
}

/// The store of a half, reachable, and what is known of its lock.
#[derive(Debug, Clone)]
struct Opened {
    store: Store,
    claim: LockClaim,
}

/// A request of a half, with all that it needs.
struct Request {
    at: usize,
    target: Target,
    session: Holder,
    /// Terraform does not say when it has the lock: it may be waiting for it.
    may_wait: bool,
    length: Duration,
    limit: Duration,
    /// The beat itself was sent.
    is_sent: bool,
    /// What went wrong.
    why: Option<String>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    at: usize,
    opened: Option<Opened>,
    hold: Option<Leasehold>,
    event: Event<LeaseVersion>,
    why: Option<String>,
}

impl Leases {
    /// Goes on from what a dead supervisor of this boot wrote down.
    pub fn new(times: Option<Times>, notes: &[LeaseNote]) -> Self {
        let (to_self, replies) = unbounded_channel();
        let (halves, wanted) = (Vec::new(), VecDeque::new());
        let mut leases = Self { times, halves, alarm: None, to_self, replies, wanted, is_checked: false };
        let now = boot_time();
        for LeaseNote { lock, place, known, lost } in notes {
            if known.confirmed.iter().chain(&known.sent).all(|beat| beat.at <= now) {
                leases.add(lock.clone(), place.clone(), Stage::Held, known.clone(), *lost);
            }
        }
        leases
    }

    fn add(&mut self, lock: Subject, place: LockPlace, stage: Stage, known: Known<LeaseVersion>, lost: bool) {
        let Some(times) = self.times else { return };
        if self.alarm.is_none() {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let made = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags).map_err(io::Error::from);
            let alarm = made.and_then(awaitable);
            self.alarm = alarm.inspect_err(|error| tracing::debug!("no timer ({error}); looking at the time")).ok();
        }
        let last_beat = known.confirmed.as_ref().map(|beat| beat.version);
        let machine = if lost { Machine::lost } else { Machine::new }(times, known, LeaseVersion::fresh);
        let target = Target { lock, place, backend: None, opened: None, hold: None };
        let (is_asking, told_failing) = (false, false);
        self.halves.push(Half { target, stage, machine, is_asking, is_stopped: lost, lost, last_beat, told_failing });
    }

    /// Whether there should be leases and are none. True once at most.
    pub fn are_missing(&mut self) -> bool {
        self.times.is_some() && !std::mem::replace(&mut self.is_checked, true) && self.halves.is_empty()
    }

    /// Notes how far a lock has come; why it has no lease, where it should have one.
    pub fn note(&mut self, lock: &Subject, stage: Stage, backend: Result<&S3Backend, String>) -> Option<String> {
        self.times?;
        for half in self.halves.iter_mut().filter(|half| half.target.lock.is(lock)) {
            (half.stage, half.target.lock) = (stage, lock.clone());
            if stage == Stage::Unlocked {
                half.machine.handle(Event::Ended, boot_time());
            }
        }
        if stage.is_over() || (stage == Stage::Attempted && !lock.is_silent()) {
            return None;
        }
        let places = |backend: &S3Backend| match lock {
            Subject::Lock(claim) => backend.places(claim).map_err(|error| error.to_string()),
            Subject::Trace(trace) => Ok(vec![backend.file_place(&trace.state_key)]),
        };
        let places = match backend.clone().and_then(places) {
            Ok(places) => places,
            Err(why) => {
                let renewed = self.halves.iter().any(|half| half.target.lock.may_be_same(lock) && half.has_beaten());
                let state = lock.claim().lock_id();
                return (stage == Stage::Held).then(|| match renewed {
                    true => format!("the lease of the lock of {state} can't be renewed: {why}"),
                    false => without_lease(lock, &why),
                });
            }
        };
        for place in places {
            // Whichever way it is told first drives the half. Two would evict each other's beats.
            let is_told = |half: &Half| !half.stage.is_over() && half.target.lock.may_be_same(lock);
            let is_it = |half: &Half| half.target.place == place && (half.target.lock.is(lock) || is_told(half));
            if !self.halves.iter().any(is_it) {
                self.add(lock.clone(), place.clone(), stage, Known::default(), false);
            }
            if let Some(half) = self.halves.iter_mut().find(|half| is_it(half)) {
                half.target.backend = backend.clone().ok().cloned();
            }
        }
        None
    }

    /// Waits until a machine wants to be called, or a request was answered.
    pub async fn due(&mut self) -> Option<Reply> {
        let next = self.halves.iter().filter_map(|half| half.machine.next_time()).min();
        if let (Some(alarm), Some(next)) = (&self.alarm, next) {
            let at = Timespec::try_from(next.max(Duration::from_nanos(1))).unwrap_or_default();
            let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
            let _ = rustix::time::timerfd_settime(alarm.get_ref(), TimerfdTimerFlags::ABSTIME, &once);
        }
        let (alarm, replies) = (&self.alarm, &mut self.replies);
        let due = poll_fn(|context| {
            // Whatever woke this process: it may have been suspended.
            if next.is_some_and(|next| next <= boot_time()) {
                return Poll::Ready(None);
            }
            while let Some(Poll::Ready(Ok(mut rung))) = alarm.as_ref().map(|alarm| alarm.poll_read_ready(context)) {
                rung.clear_ready();
            }
            replies.poll_recv(context)
        });
        match next {
            Some(_) if alarm.is_none() => timeout(WITHOUT_ALARM, due).await.unwrap_or_default(),
            _ => due.await,
        }
    }

    /// Calls the machines; what there is to say of a lease that could not be given.
    pub fn wake(&mut self, reply: Option<Reply>) -> Option<String> {
        self.halves.iter_mut().for_each(|half| half.machine.handle_time(boot_time()));
        let trouble = reply.and_then(|Reply { at, opened, hold, event, why }| {
            let half = &mut self.halves[at];
            (half.target.opened, half.target.hold, half.is_asking) = (opened, hold, false);
            half.machine.handle(event, boot_time());
            half.tell(self.times, why)
        });
        self.collect();
        trouble
    }

    fn collect(&mut self) {
        for (at, half) in self.halves.iter_mut().enumerate() {
            while let Some(action) = half.machine.poll_action() {
                match action {
                    Action::Kill => self.wanted.push_front((at, action)),
                    action => self.wanted.push_back((at, action)),
                }
            }
        }
    }

    /// What is wanted of the run, a kill first.
    pub fn poll_action(&mut self) -> Option<(usize, Action<LeaseVersion>)> {
        self.wanted.pop_front()
    }

    /// How far Terraform has come with a lock.
    pub fn stage(&self, at: usize) -> Stage {
        self.halves[at].stage
    }

    /// The lock's ID, or that of none while it is not known.
    pub fn lock(&self, at: usize) -> LockId {
        let target = &self.halves[at].target;
        target.opened.as_ref().map_or_else(|| target.lock.claim().id, |opened| opened.claim.id.clone())
    }

    /// The state of a lock.
    pub fn state(&self, at: usize) -> String {
        self.halves[at].target.lock.claim().lock_id()
    }

    /// How long a child that is stopped because of its lease has until it is killed.
    pub fn left(&self) -> Option<Duration> {
        let stopped = self.halves.iter().filter(|half| half.is_stopped);
        let end = stopped.filter_map(|half| half.machine.kill_at()).min()?;
        Some(Duration::from_secs(end.saturating_sub(boot_time()).as_secs()))
    }

    /// Answers whether Terraform's log tells of the end of a lock.
    pub fn log_read(&mut self, at: usize, over: bool) {
        self.halves[at].machine.handle(Event::LogRead { over }, boot_time());
        self.collect();
    }

    /// Terraform is stopped, because the lease was not renewed, or because the lock was lost and is not touched any more.
    pub fn stopped(&mut self, at: usize, lost: bool) {
        self.halves[at].is_stopped = true;
        self.halves[at].lost |= lost;
    }

    /// Nothing of the run is alive.
    pub fn end(&mut self) {
        self.halves.iter_mut().for_each(|half| half.machine.handle(Event::Ended, boot_time()));
        self.wanted.clear();
    }

    /// The notes for whoever takes this supervisor's place.
    pub fn notes(&self) -> Vec<LeaseNote> {
        let note = |half: &Half| {
            let Target { lock, place, .. } = half.target.clone();
            LeaseNote { lock, place, known: half.machine.known().clone(), lost: half.lost }
        };
        self.halves.iter().filter(|half| half.stage != Stage::Unlocked).map(note).collect()
    }

    /// Sends a beat of a half, or reads it.
    pub fn ask(&mut self, at: usize, action: Action<LeaseVersion>, session: Holder) {
        let Some(request) = self.request(at, session) else { return };
        self.halves[at].is_asking = true;
        let to_self = self.to_self.clone();
        tokio::spawn(async move {
            let _ = to_self.send(request.send(action).await);
        });
    }

    fn request(&self, at: usize, session: Holder) -> Option<Request> {
        let (times, half) = (self.times?, &self.halves[at]);
        let is_first = half.target.opened.is_none() || half.machine.known().confirmed.is_none();
        Some(Request {
            at,
            target: half.target.clone(),
            session,
            may_wait: half.stage == Stage::Attempted && half.machine.known().confirmed.is_none(),
            length: times.length,
            is_sent: false,
            why: None,
            limit: if is_first { LONGEST_FIRST.min(times.renew / 2) } else { times.request() },
        })
    }

    /// Waits for what is under way: a beat may land after what is done next.
    pub async fn settle(&mut self, longest: Duration) {
        let answered = timeout(longest, async {
            while self.halves.iter().any(|half| half.is_asking) {
                let Some(Reply { at, opened, .. }) = self.replies.recv().await else { break };
                (self.halves[at].target.opened, self.halves[at].is_asking) = (opened, false);
            }
        });
        let _ = answered.await;
    }

    /// Takes the leases away from the locks of the states that `stay` locked although nobody renews the lease any more. Of
    /// which states that could not be done.
    pub async fn unlease(&self, stay: impl Fn(&str) -> bool, session: impl Fn(LockId) -> Holder) -> Vec<String> {
        let is_left = |half: &Half| !half.lost && half.stage != Stage::Unlocked && half.has_beaten();
        let left = (0..self.halves.len()).filter(|at| is_left(&self.halves[*at]) && stay(&self.state(*at)));
        let done = left.map(async |at| {
            let request = self.request(at, session(self.lock(at)));
            let done = timeout(LONGEST_UNLEASE, async { request?.unlease().await.ok() }).await;
            (done != Ok(Some(true))).then(|| self.state(at))
        });
        join_all(done).await.into_iter().flatten().collect()
    }

    /// Removes what is left of the leases of locks that Terraform released.
    pub async fn clean_up(&mut self) {
        self.settle(CLEAN_UP).await;
        let removed = timeout(CLEAN_UP, async {
            let is_left = |half: &&Half| !half.lost && half.stage == Stage::Unlocked && half.has_beaten();
            let opened = self.halves.iter().filter(is_left).filter_map(|half| half.target.opened.as_ref());
            for ended in join_all(opened.map(|Opened { store, claim }| store.end_lease(&claim.id))).await {
                ended.unwrap_or_else(|error| tracing::debug!("what is left of a lease stays: {error}"));
            }
        });
        let _ = removed.await;
    }
}

fn without_lease(lock: &Subject, why: &str) -> String {
    let state = lock.claim().lock_id();
    format!("the lock of {state} has no lease, so nobody can reclaim it, and Terraform goes on without one: {why}")
}

impl Half {
    fn has_beaten(&self) -> bool {
        *self.machine.known() != Known::default()
    }

    /// Says what is new of its lease; gives what is wrong with one that was never given.
    fn tell(&mut self, times: Option<Times>, why: Option<String>) -> Option<String> {
        let confirmed = self.machine.known().confirmed.as_ref().map(|beat| beat.version);
        let (before, failing) = (std::mem::replace(&mut self.last_beat, confirmed), self.told_failing);
        let times = times?;
        let state = self.target.lock.claim().lock_id();
        if confirmed != before {
            self.told_failing = false;
            let length = describe(times.length);
            match before {
                None => tracing::info!("the lock of {state} has a lease of {length} beside {}", self.target.place),
                Some(_) if failing => tracing::info!("the lease of the lock of {state} is renewed again"),
                Some(_) => {}
            }
            return None;
        }
        let is_over = self.has_beaten() && self.machine.kill_at().is_none();
        let why = why.filter(|_| !failing && !is_over)?;
        self.told_failing = true;
        if !self.has_beaten() {
            return Some(without_lease(&self.target.lock, &why));
        }
        tracing::warn!("the lease of the lock of {state} could not be renewed; trying again: {why}");
        None
    }
}

impl Request {
    /// Never longer than its limit. What was not answered by then may yet be carried out, once it was sent.
    async fn send(mut self, action: Action<LeaseVersion>) -> Reply {
        let limit = self.limit;
        let silence = || format!("no answer within {} ms", limit.as_millis());
        let event = match action {
            Action::Beat { previous, version } => {
                let answer = timeout(limit, self.beat(previous, version)).await.unwrap_or_else(|_| Err(silence()));
                Event::Answered(answer.unwrap_or_else(|why| {
                    self.why = Some(why);
                    if self.is_sent { Answer::Unknown } else { Answer::NotDone }
                }))
            }
            _ => timeout(limit, self.read()).await.unwrap_or_else(|_| Err(silence())).unwrap_or_else(|why| {
                self.why = Some(why);
                Event::ReadFailed
            }),
        };
        let Self { at, target: Target { opened, hold, .. }, why, .. } = self;
        Reply { at, opened, hold, event, why }
    }

    /// An error is of what came before the beat was sent, or says nothing of whether it landed.
    async fn beat(&mut self, previous: Option<LeaseVersion>, version: LeaseVersion) -> Result<Answer, String> {
        let Opened { store, claim } = self.open().await?;
        let hold = match self.target.hold.take() {
            Some(hold) => hold,
            None => match store.held_lease(&claim, &self.session).await.map_err(|error| error.in_a_line())? {
                Ok(hold) => hold,
                Err(NotClaimed::NotThere(_)) if self.may_wait => return Ok(Answer::NotDone),
                Err(_) => return Ok(Answer::Refused),
            },
        };
        let is_expected = match &hold.leased {
            Leased::Foreign(why) => return Err(why.clone()),
            Leased::Lease(lease) => Some(lease.version) == previous,
            Leased::Nothing | Leased::OfAnother(_) => previous.is_none(),
        };
        let is_expected = is_expected && store.is_unchanged(&hold).await.map_err(|error| error.in_a_line())?;
        if !is_expected {
            return Ok(Answer::Refused);
        }
        store.examine_writes(&hold).await.map_err(|error| error.in_a_line())?;
        self.is_sent = true;
        let lease = Lease::new(claim.id, version, self.length);
        let beaten = store.beat(&hold, &lease).await;
        self.target.hold = Some(hold);
        match beaten {
            Ok(Some(hold)) => {
                self.target.hold = Some(hold);
                Ok(Answer::Done)
            }
            Ok(None) => Ok(Answer::Refused),
            Err(error) => {
                self.is_sent = may_land(&error);
                Err(error.in_a_line())
            }
        }
    }

    async fn unlease(mut self) -> Result<bool, String> {
        let Opened { store, claim } = self.open().await?;
        store.unlease(&claim, &self.session).await.map_err(|error| error.in_a_line())
    }

    /// Reads the lock and its lease.
    async fn read(&mut self) -> Result<Event<LeaseVersion>, String> {
        let Opened { store, claim } = self.open().await?;
        let held = store.held_lease(&claim, &self.session).await.map_err(|error| error.in_a_line())?;
        let Ok(hold) = held else { return Ok(Event::Read { there: false, version: None }) };
        let version = hold.leased.lease().map(|lease| lease.version);
        self.target.hold = Some(hold);
        Ok(Event::Read { there: true, version })
    }

    async fn open(&mut self) -> Result<Opened, String> {
        if let Some(opened) = &self.target.opened {
            return Ok(opened.clone());
        }
        let backend = self.target.backend.as_ref().ok_or("its backend is not known")?;
        let clients = AwsClients::connect_trusting_no_checkout(backend).await.map_err(|error| error.to_string())?;
        let store = clients.open(&self.target.place, UnconditionalDelete::Refuse);
        let claim = match &self.target.lock {
            Subject::Lock(claim) => claim.clone(),
            Subject::Trace(trace) => match Identified::look(trace, &store).await.map_err(|unseen| unseen.why)? {
                Identified::Own(claim) => claim,
                Identified::Gone(_) => return Err("the lockfile is not the one that was logged".to_owned()),
            },
        };
        self.session = self.session.clone().of_lock(claim.id.clone());
        Ok(self.target.opened.insert(Opened { store, claim }).clone())
    }
}

/// Whether a beat that failed so may have been carried out, or may yet be.
fn may_land(error: &StoreError) -> bool {
    error.is_retryable() && !matches!(error, StoreError::Unreachable(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Beat, LockKinds};

    /// Guards the kill at the end of a lease on a machine that gives no timer.
    #[tokio::test]
    async fn without_an_alarm_the_time_is_looked_at() {
        let lock = LockClaim::example("k", LockKinds::DynamoDb);
        let place = LockPlace::DynamoDb {
            table: "t".to_owned(),
            lock_id: lock.lock_id(),
            region: "eu-west-1".to_owned(),
            endpoint: None,
        };
        let times = Times::of(Duration::from_secs(15)).unwrap();
        // The kill comes in half a second.
        let at = boot_time().saturating_sub(times.length * 4 / 5);
        let known = Known { confirmed: Some(Beat { version: LeaseVersion(1), at }), sent: Vec::new() };
        let note = LeaseNote { lock: Subject::Lock(lock), place, known, lost: true };
        let mut leases = Leases::new(Some(times), &[note]);
        leases.alarm = None;
        let killed = timeout(Duration::from_secs(60), async {
            loop {
                let reply = leases.due().await;
                leases.wake(reply);
                if matches!(leases.poll_action(), Some((0, Action::Kill))) {
                    return;
                }
            }
        });
        killed.await.expect("it is killed");
    }
}
