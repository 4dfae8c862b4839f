//! What a seed decides: which runs there are on the shared state, what happens to whom, and after which event.

use nix::sys::signal::Signal::{self, *};

/// Random numbers that are the same for the same seed on every machine (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `from` to `to`, both included.
    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    fn percent(&mut self, of: u64) -> bool {
        self.between(1, 100) <= of
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.next() % of.len() as u64).expect("it is an index")]
    }
}

/// How the state is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Table,
    Lockfile,
    Both,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Table, Self::Lockfile, Self::Both];
}

/// What a run's Terraform does. The numbers are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Quick,
    /// Sleeps while it applies, and ends at an interrupt.
    Sleep(u64),
    /// Hangs while it plans, whatever it is asked.
    Hang,
    /// Is killed by what it runs.
    Dies,
    /// Has a process of the real AWS provider while it sleeps, where that is there.
    Provider,
}

/// The CI that runs it: its variables, and how it cancels a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ci {
    None,
    GitHub,
    Azure,
    GitLab,
    GitLabSteps,
    Jenkins,
    Buildkite,
    Docker,
    Kubernetes,
    Systemd,
}

/// Whom a CI signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The process that the CI started.
    Entry,
    EntrysGroup,
    EntrysChildren,
    /// It and all below it, children first.
    EntrysTree,
    /// Every process of the job, wherever it went.
    Everybody,
}

impl Ci {
    const ALL: [Self; 10] = [
        Self::None,
        Self::GitHub,
        Self::Azure,
        Self::GitLab,
        Self::GitLabSteps,
        Self::Jenkins,
        Self::Buildkite,
        Self::Docker,
        Self::Kubernetes,
        Self::Systemd,
    ];

    /// The signals of a cancel and how long each is given, in milliseconds; as in `tests/simulators`, a fifth as long or less.
    pub fn ladder(self) -> &'static [(Signal, Whom, u64)] {
        use Whom::*;
        match self {
            Self::None => &[(SIGINT, EntrysGroup, 4000), (SIGKILL, Entry, 0)],
            Self::GitHub => &[(SIGINT, Entry, 1500), (SIGTERM, Entry, 500), (SIGKILL, Entry, 0)],
            Self::Azure => &[(SIGTERM, EntrysChildren, 1500), (SIGTERM, EntrysChildren, 500), (SIGKILL, Entry, 0)],
            Self::GitLab => &[(SIGTERM, EntrysGroup, 3000), (SIGKILL, EntrysGroup, 0)],
            Self::GitLabSteps => &[(SIGTERM, Entry, 1000), (SIGKILL, EntrysGroup, 0)],
            Self::Jenkins => &[(SIGTERM, EntrysTree, 1000), (SIGTERM, EntrysTree, 3000), (SIGKILL, Entry, 0)],
            Self::Buildkite => &[(SIGTERM, EntrysGroup, 1800), (SIGKILL, EntrysGroup, 0)],
            Self::Docker => &[(SIGTERM, Entry, 2000), (SIGKILL, Everybody, 0)],
            Self::Kubernetes => &[(SIGTERM, EntrysChildren, 3000), (SIGKILL, Everybody, 0)],
            Self::Systemd => &[(SIGTERM, Everybody, 3000), (SIGKILL, Everybody, 0)],
        }
    }
}

/// How tfguard stands in the job's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Exec,
    BelowShell,
    /// tfguard guards a script that calls Terraform.
    AroundScript,
    Attached,
}

/// What a run has less of than usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Nothing,
    /// So many descriptors.
    Descriptors(u64),
    /// So many processes and threads, as a user of its own.
    Processes(u64),
    /// So many KiB for its session.
    Disk(u64),
}

#[derive(Clone, Copy, Debug)]
pub struct RunPlan {
    pub ci: Ci,
    pub entry: Entry,
    pub work: Work,
    pub lack: Lack,
    /// It runs as a user of its own.
    pub own_user: bool,
    pub grace: u64,
    /// What Terraform is given as `-lock-timeout`, in seconds.
    pub lock_timeout: u64,
    /// When it starts.
    pub after: u64,
    /// How long its cleanup step waits, in seconds; none where the job has no such step.
    pub cleanup: Option<u64>,
    pub lease: Option<LeasePlan>,
}

/// What a run has to do with leases, all of them the shortest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasePlan {
    /// Its lock has one.
    pub holds: bool,
    /// It takes over what a dead run holds by one.
    pub reclaims: bool,
    /// It writes no record beside its lock, so that nobody on this machine sees whether it lives, as if it ran on another.
    pub is_elsewhere: bool,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Tfguard,
    Terraform,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    TakeLock,
    ReadLock,
    DeleteLock,
    ReadState,
    WriteState,
    /// A renewal, or the write before a lockfile is taken over.
    WriteLease,
    Anything,
}

/// What becomes of a request. The numbers are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Never arrives.
    Dropped,
    /// Is carried out, and its answer is lost.
    AnswerLost,
    Late(u64),
    /// Arrives after its sender gave it up, or not at all.
    TimedOut(u64),
    Twice,
    TwiceLate(u64),
    ServerError,
    Throttled,
    Denied,
    Expired,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub run: usize,
    pub sender: Sender,
    pub about: About,
    pub fate: Fate,
    /// The first request that has it, counted from 1, and how many do.
    pub first: usize,
    pub count: usize,
}

/// After which event something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// The run was started.
    Started,
    /// This request of the run's has arrived, or an earlier one as often.
    Request(Sender, About),
    /// The run's Terraform is at work.
    Asleep,
    /// The run's Terraform has said that it was interrupted.
    Interrupted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    Front,
    Supervisor,
    /// Both of tfguard's at once.
    Tfguard,
    Terraform,
    TerraformsGroup,
    Provider,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Cancel,
    Kill(Victim),
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Suspend(Victim, u64),
    /// Somebody else interrupts Terraform.
    Interrupt,
    /// A person unlocks by force, and somebody else takes the lock.
    TakeOver,
    /// A plain Terraform applies on the same state.
    PlainTerraform,
    /// `tfguard release` beside the run.
    Release,
    /// The run's credentials end.
    EndCredentials,
    FillDisk,
    /// Nobody may write into the run's session directories.
    ReadOnly,
    /// No request of the run's arrives for so many milliseconds; then all do, also those that a fault waited for.
    CutOff(u64),
    /// What lives of tfguard may open so many files.
    LimitDescriptors(u64),
}

/// What is done to which run.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    pub run: usize,
    pub after: Trigger,
    /// And this many milliseconds later.
    pub delay: u64,
    pub deed: Deed,
}

pub struct Schedule {
    pub seed: u64,
    pub kind: Kind,
    /// The workspace is there already, so that no run has to make it.
    pub workspace: bool,
    pub runs: Vec<RunPlan>,
    pub faults: Vec<Fault>,
    pub acts: Vec<Act>,
}

impl Schedule {
    pub fn of(seed: u64) -> Self {
        // Of its own, so that what was drawn before there were these is drawn again.
        let mut more = Dice::new(seed ^ 0x1ea5_e000_0000_0011);
        match more.between(1, 100) {
            1..=10 => Self::with_leases(seed, &mut more),
            11..=20 => Self::with_late_upload(seed, &mut more),
            _ => Self::ordinary(seed),
        }
    }

    /// A state upload is under way when its Terraform dies.
    fn with_late_upload(seed: u64, dice: &mut Dice) -> Self {
        let mut schedule = Self::ordinary(seed);
        let upload = (Sender::Terraform, About::WriteState);
        let fate = Fate::Late(dice.between(300, 3000));
        schedule.runs[0].work = dice.one(&[Work::Quick, Work::Sleep(500)]);
        schedule.acts.retain(|act| act.run != 0);
        schedule.faults.retain(|fault| fault.run != 0);
        schedule.faults.push(Fault { run: 0, sender: upload.0, about: upload.1, fate, first: 1, count: 2 });
        let victim = dice.one(&[Victim::Terraform, Victim::TerraformsGroup, Victim::All]);
        let (after, delay) = (Trigger::Request(upload.0, upload.1), dice.between(0, 300));
        schedule.acts.push(Act { run: 0, after, delay, deed: Deed::Kill(victim) });
        schedule
    }

    /// A run holds its lock by a lease, and one or two others wait for its end.
    fn with_leases(seed: u64, dice: &mut Dice) -> Self {
        let kind = dice.one(&Kind::ALL);
        let mut acts = Vec::new();
        let mut holder = leased(dice, 0, true, false);
        holder.work = Work::Sleep(20_000);
        holder.cleanup = holder.cleanup.filter(|_| dice.percent(40));
        let deed = match dice.between(0, 9) {
            // Its machine is lost.
            0..=3 => {
                holder.cleanup = None;
                Some(Deed::Kill(Victim::All))
            }
            4 => Some(Deed::Suspend(Victim::All, dice.between(10_000, 32_000))),
            5 => Some(Deed::Suspend(Victim::Supervisor, dice.between(10_000, 32_000))),
            6 | 7 => Some(Deed::CutOff(dice.between(8000, 40_000))),
            8 => Some(Deed::Kill(dice.one(&[Victim::Tfguard, Victim::Supervisor, Victim::Front]))),
            _ => None,
        };
        if let Some(deed) = deed {
            // Seldom before there is a lease, mostly between two renewals.
            let earliest = dice.one(&[0, 3000, 3000, 3000]);
            acts.push(Act { run: 0, after: Trigger::Asleep, delay: dice.between(earliest, earliest + 6000), deed });
        }
        let mut runs = vec![holder];
        for number in 1..=dice.one(&[1, 1, 2]) {
            let holds = dice.percent(60);
            let mut observer = leased(dice, number, holds, true);
            observer.work = dice.one(&[Work::Quick, Work::Sleep(500), Work::Sleep(1500), Work::Dies]);
            observer.after = dice.between(4000, 10_000);
            runs.push(observer);
            if dice.percent(35) {
                // While it waits, or when it takes over.
                let about = dice.one(&[About::ReadLock, About::WriteLease, About::DeleteLock]);
                let longest = if about == About::ReadLock { 26_000 } else { 1000 };
                let (after, delay) = (Trigger::Request(Sender::Tfguard, about), dice.between(0, longest));
                let deed = match dice.between(1, 6) {
                    1 => Deed::Cancel,
                    2 => Deed::Kill(dice.one(&[Victim::Tfguard, Victim::All])),
                    3 | 4 => Deed::Suspend(Victim::All, dice.between(100, 25_000)),
                    5 => Deed::CutOff(dice.between(1000, 20_000)),
                    _ => Deed::EndCredentials,
                };
                acts.push(Act { run: runs.len() - 1, after, delay, deed });
            }
        }
        if dice.percent(10) {
            let deed = dice.one(&[Deed::TakeOver, Deed::PlainTerraform]);
            acts.push(Act { run: 0, after: Trigger::Asleep, delay: dice.between(0, 20_000), deed });
        }
        let faults = (0..dice.one(&[0, 1, 1, 2, 3])).map(|_| {
            let about = dice.one(&[About::WriteLease, About::WriteLease, About::ReadLock, About::DeleteLock]);
            let first = usize::try_from(dice.between(1, 9)).expect("it is small");
            let (sender, count) = (Sender::Tfguard, dice.one(&[1, 1, 2, 4, 8]));
            // Whoever takes over tries for as long as it takes.
            let (first, count) = if about == About::DeleteLock { (1, count.min(2)) } else { (first, count) };
            Fault { run: dice.one(&[0, 0, 1]), sender, about, fate: fate(dice), first, count }
        });
        let faults = faults.collect();
        Self { seed, kind, workspace: dice.percent(75), runs, faults, acts }
    }

    fn ordinary(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let kind = dice.one(&Kind::ALL);
        let count = dice.one(&[1, 1, 1, 2, 2, 3]);
        let mut runs: Vec<_> = (0..count).map(|number| run(&mut dice, number)).collect();
        let mut acts = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            // What hangs has to be ended.
            let needs_an_end = matches!(run.work, Work::Hang | Work::Sleep(10_000..) | Work::Provider);
            let deeds = if needs_an_end { dice.between(0, 2) } else { dice.between(0, 3) };
            if run.work == Work::Provider {
                let victim =
                    dice.one(&[Victim::Provider, Victim::Provider, Victim::Terraform, Victim::TerraformsGroup]);
                let deed = dice.one(&[Deed::Kill(victim), Deed::Suspend(victim, 2000)]);
                acts.push(Act { run: number, after: Trigger::Asleep, delay: delay(&mut dice), deed });
            }
            acts.extend((0..deeds).map(|_| act(&mut dice, number, run)));
            if needs_an_end || dice.percent(30) {
                let after = if run.work == Work::Hang {
                    Trigger::Request(Sender::Terraform, About::TakeLock)
                } else {
                    trigger(&mut dice)
                };
                acts.push(Act { run: number, after, delay: delay(&mut dice), deed: Deed::Cancel });
            }
        }
        let mut faults: Vec<_> = (0..dice.one(&[0, 0, 1, 1, 2, 3])).map(|_| fault(&mut dice, count)).collect();
        if dice.percent(15) {
            // Between tfguard's look at the lock and its delete, the lock changes hands.
            let delete = (Sender::Tfguard, About::DeleteLock);
            let run = usize::try_from(dice.between(0, count - 1)).expect("it is an index");
            let fate = Fate::Late(dice.between(100, 900));
            faults.insert(0, Fault { run, sender: delete.0, about: delete.1, fate, first: 1, count: 1 });
            acts.push(Act { run, after: Trigger::Asleep, delay: 0, deed: Deed::Kill(Victim::Terraform) });
            acts.push(Act { run, after: Trigger::Request(delete.0, delete.1), delay: 0, deed: Deed::TakeOver });
        }
        for act in acts.iter().filter(|act| act.deed == Deed::ReadOnly) {
            // Root writes wherever it wants.
            runs[act.run].own_user |= !matches!(runs[act.run].lack, Lack::Disk(_));
        }
        Self { seed, kind, workspace: dice.percent(75), runs, faults, acts }
    }
}

fn run(dice: &mut Dice, number: u64) -> RunPlan {
    let entry = dice.one(&[
        Entry::Exec,
        Entry::Exec,
        Entry::BelowShell,
        Entry::BelowShell,
        Entry::AroundScript,
        Entry::Attached,
    ]);
    let work = match dice.between(1, 60) {
        1 => Work::Provider,
        2..=6 => Work::Quick,
        7..=30 => Work::Sleep(dice.between(100, 1500)),
        31..=48 => Work::Sleep(20_000),
        49..=54 => Work::Hang,
        _ => Work::Dies,
    };
    let lack = match dice.between(1, 20) {
        1 => Lack::Descriptors(dice.between(64, 98)),
        2 => Lack::Processes(dice.between(2, 40)),
        3 => Lack::Disk(dice.between(40, 400)),
        _ => Lack::Nothing,
    };
    RunPlan {
        ci: dice.one(&Ci::ALL),
        entry,
        work,
        lack,
        own_user: matches!(lack, Lack::Processes(_)),
        grace: dice.between(1, 4),
        lock_timeout: dice.one(&[0, 0, 2, 5]),
        after: number * dice.between(0, 800),
        cleanup: dice.percent(80).then(|| dice.between(2, 12)),
        lease: None,
    }
}

fn leased(dice: &mut Dice, number: u64, holds: bool, reclaims: bool) -> RunPlan {
    let mut run = run(dice, number);
    run.lease = Some(LeasePlan { holds, reclaims, is_elsewhere: dice.percent(65) });
    (run.lack, run.own_user) = (Lack::Nothing, false);
    // What systemd sends to Terraform itself can come after the interrupt of a lease that ends.
    run.ci = if run.ci == Ci::Systemd { Ci::Docker } else { run.ci };
    run.entry = if run.entry == Entry::Attached { Entry::Exec } else { run.entry };
    run
}

fn delay(dice: &mut Dice) -> u64 {
    match dice.between(0, 2) {
        0 => 0,
        1 => dice.between(1, 100),
        _ => dice.between(100, 1200),
    }
}

fn trigger(dice: &mut Dice) -> Trigger {
    use About::*;
    match dice.between(1, 10) {
        1 => Trigger::Started,
        2 | 3 => {
            Trigger::Request(Sender::Terraform, dice.one(&[TakeLock, ReadState, WriteState, DeleteLock, Anything]))
        }
        4 => Trigger::Request(Sender::Tfguard, dice.one(&[ReadLock, DeleteLock, Anything])),
        5..=8 => Trigger::Asleep,
        _ => Trigger::Interrupted,
    }
}

fn act(dice: &mut Dice, number: usize, run: &RunPlan) -> Act {
    use Victim::*;
    let deed = match dice.between(1, 24) {
        1..=6 => {
            Deed::Kill(dice.one(&[Front, Supervisor, Tfguard, Tfguard, Terraform, TerraformsGroup, Provider, All]))
        }
        7..=10 => Deed::Suspend(
            dice.one(&[Front, Supervisor, Tfguard, Terraform, TerraformsGroup, Provider, All]),
            dice.between(100, 3000),
        ),
        11 | 12 => Deed::Interrupt,
        13..=15 => Deed::TakeOver,
        16 => Deed::PlainTerraform,
        17 | 18 => Deed::Release,
        19 | 20 => Deed::EndCredentials,
        21 if matches!(run.lack, Lack::Disk(_)) => Deed::FillDisk,
        21 | 22 => Deed::ReadOnly,
        23 => Deed::LimitDescriptors(dice.between(0, 20)),
        _ => Deed::Cancel,
    };
    Act { run: number, after: trigger(dice), delay: delay(dice), deed }
}

fn fault(dice: &mut Dice, runs: u64) -> Fault {
    use About::*;
    let (sender, about) = dice.one(&[
        (Sender::Terraform, TakeLock),
        (Sender::Terraform, TakeLock),
        (Sender::Terraform, DeleteLock),
        (Sender::Terraform, ReadLock),
        (Sender::Terraform, ReadState),
        (Sender::Terraform, WriteState),
        (Sender::Tfguard, ReadLock),
        (Sender::Tfguard, DeleteLock),
        (Sender::Tfguard, DeleteLock),
        (Sender::Tfguard, Anything),
    ]);
    let fate = fate(dice);
    let first = usize::try_from(dice.between(1, 2)).expect("it is small");
    let run = usize::try_from(dice.between(0, runs - 1)).expect("it is an index");
    Fault { run, sender, about, fate, first, count: dice.one(&[1, 1, 1, 2, 4]) }
}

fn fate(dice: &mut Dice) -> Fate {
    match dice.between(1, 12) {
        1 => Fate::Dropped,
        2 | 3 => Fate::AnswerLost,
        4 | 5 => Fate::Late(dice.between(100, 2500)),
        6 => Fate::TimedOut(dice.between(3000, 9000)),
        7 => Fate::Twice,
        8 => Fate::TwiceLate(dice.between(50, 1500)),
        9 => Fate::ServerError,
        10 => Fate::Throttled,
        11 => Fate::Denied,
        _ => Fate::Expired,
    }
}

impl std::fmt::Display for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {:?}, workspace {}", self.seed, self.kind, if self.workspace { "there" } else { "new" })?;
        for (number, run) in self.runs.iter().enumerate() {
            writeln!(f, "  run {number}: {run:?}")?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault:?}"))?;
        self.acts.iter().try_for_each(|act| writeln!(f, "  {act:?}"))
    }
}
