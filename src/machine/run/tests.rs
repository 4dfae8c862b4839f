//! Every order of events up to a useful depth, with the promises checked on each.

use std::collections::{BTreeMap, HashMap};

use super::*;

const GRACE: Duration = Duration::from_secs(300);
const CLEANUP: Duration = Duration::from_secs(400);
const OWN: Duration = Duration::from_secs(500);
const PLANNING: Duration = Duration::from_secs(10);
const TERMS: Terms = Terms {
    grace: GRACE,
    cleanup_grace: CLEANUP,
    own_grace: OWN,
    planning_grace: PLANNING,
    patience: PATIENCE,
    deadline: None,
};

/// Nobody is alive; somebody is, but no Terraform.
const INSPECTED_GONE: Event = Event::Inspected { alive: false, terraforms: false };
const INSPECTED_ALIVE: Event = Event::Inspected { alive: true, terraforms: false };

fn machine(deadline: Option<u64>) -> Machine {
    Machine::new(Terms { deadline: deadline.map(Duration::from_secs), ..TERMS })
}

fn signal(everybody: bool) -> StopRequest {
    StopRequest::Signal { name: "SIGTERM".to_owned(), from_pid: None, everybody }
}

/// What happened, and when; none stands for the passing of time.
type Story = Vec<(Moment, Option<Event>)>;

/// What the world has seen and done: enough to judge each action by the promises.
#[derive(Debug, Clone, Default)]
struct Witness {
    stop_requested: bool,
    /// How long the child has from its interrupt, by what was requested before.
    grace: Option<Duration>,
    /// When its time is over, by what was requested up to now.
    end: Option<Moment>,
    reported: bool,
    interrupts: u32,
    /// When the first stop was requested.
    looking_since: Option<Moment>,
    /// Somebody signals every process, and it was known before the interrupt.
    everybody: bool,
    /// When Terraform is known to have been interrupted, by whomever, with a stop requested.
    stopping_since: Option<Moment>,
    phase: Phase,
    ended: bool,
    /// Terraforms outlive the child.
    orphans: bool,
    unclean: bool,
    locks_left: bool,
    /// The child died of a signal.
    killed: bool,
    /// The last answer to an inspection after the child's end.
    gone: bool,
    asked: Vec<Action>,
    finished: bool,
    /// Its lock has a lease, which may end.
    leased: bool,
    lease_ended: bool,
}

impl Witness {
    /// Judges the actions that an event led to.
    fn judge(&mut self, machine: &mut Machine, now: Moment, story: &Story) {
        while let Some(action) = machine.poll_action() {
            let told = || format!("{action:?} after {story:#?}");
            assert!(!self.finished, "P4: nothing follows the end: {}", told());
            match action {
                Action::Interrupt => {
                    self.interrupts += 1;
                    assert_eq!(self.interrupts, 1, "P3: one interrupt: {}", told());
                    assert!(self.stop_requested, "P3: nobody asked: {}", told());
                    assert!(!self.reported, "P3: Terraform was interrupted already: {}", told());
                    assert!(self.is_at_work(), "there is nobody to interrupt: {}", told());
                    assert!(!self.lease_ended, "it was to be killed: {}", told());
                    let look = if self.everybody { LOOK_EVERYBODY } else { LOOK };
                    let since = self.looking_since.expect("asked");
                    assert!(now >= since + look, "P3: somebody else may just have interrupted it: {}", told());
                    self.begins_to_stop(now);
                }
                Action::NoteInterrupt => {
                    assert!(self.reported && self.stop_requested && self.is_at_work(), "{}", told());
                    self.begins_to_stop(now);
                }
                Action::InterruptNewcomers => {
                    assert!(self.stopping_since.is_some() && self.is_at_work(), "P3: {}", told());
                }
                Action::Kill if !self.is_at_work() => {
                    let asked = self.stop_requested || self.lease_ended;
                    assert!(asked || self.killed || (self.unclean && self.locks_left), "{}", told());
                }
                Action::Kill if self.lease_ended => self.unclean = true,
                Action::Kill => {
                    let since = self.stopping_since.expect("killed without an interrupt");
                    let planned = (self.phase == Phase::Planning).then_some(since + PLANNING);
                    let end = self.end.into_iter().chain(planned).min().expect("an interrupt has an end");
                    assert_eq!(now, end, "not killed at the end of its grace: {}", told());
                    self.unclean = true;
                }
                Action::ReadLog => assert!(!self.is_at_work(), "{}", told()),
                Action::Inspect => {
                    assert!(self.ended, "{}", told());
                    self.gone = false;
                }
                Action::Release => {
                    assert!(!self.is_at_work() && self.gone && self.locks_left, "P2: {}", told());
                }
                Action::Finish(_) => self.finished = true,
            }
            if matches!(action, Action::ReadLog | Action::Inspect | Action::Release) {
                self.asked.push(action);
            }
        }
    }

    /// Whether the child, or a Terraform that outlives it, may be at work.
    fn is_at_work(&self) -> bool {
        !self.ended || self.orphans
    }

    fn begins_to_stop(&mut self, now: Moment) {
        self.stopping_since = Some(now);
        self.end = self.grace.map(|grace| now + grace);
    }

    fn asked_for_stop(&mut self, leaves: Duration, now: Moment) {
        self.stop_requested = true;
        self.looking_since.get_or_insert(now);
        match &mut self.end {
            Some(end) => *end = (*end).min(now + leaves),
            None => self.grace = self.grace.into_iter().chain([leaves]).min(),
        }
    }

    /// What may happen next.
    fn possible(&self) -> Vec<Event> {
        let mut events = vec![Event::StopRequested(signal(false)), Event::StopRequested(signal(true))];
        if self.finished {
            return events;
        }
        events.push(Event::StopRequested(StopRequest::Release));
        if self.leased && !self.lease_ended {
            events.push(Event::LeaseEnded);
        }
        if self.is_at_work() {
            events.extend([
                Event::InterruptReported,
                Event::TerraformStarted,
                Event::PhaseChanged(Phase::Planning),
                Event::PhaseChanged(Phase::Applying),
            ]);
        }
        if !self.ended {
            for (unclean, orphans) in [(false, false), (true, false), (false, true), (true, true)] {
                events.push(Event::ChildEnded { unclean, orphans });
            }
        }
        match self.asked.first() {
            Some(Action::ReadLog) => {
                for (locks_left, orphaned) in [(false, false), (true, false), (true, true)] {
                    events.push(Event::LogRead { locks_left, orphaned, killed: false });
                }
                if self.unclean {
                    events.push(Event::LogRead { locks_left: false, orphaned: false, killed: true });
                }
            }
            Some(Action::Inspect) => {
                events.extend([INSPECTED_GONE, INSPECTED_ALIVE]);
                if self.orphans {
                    events.push(Event::Inspected { alive: true, terraforms: true });
                }
            }
            Some(Action::Release) => events.push(Event::ReleaseEnded),
            _ => {}
        }
        // Who is asked to kill may find that it may not.
        if self.unclean && self.stopping_since.is_some() {
            events.push(Event::OutOfReach);
        }
        events
    }

    fn note(&mut self, event: &Event, now: Moment) {
        match event {
            Event::StopRequested(request) => {
                self.asked_for_stop(if *request == StopRequest::Release { CLEANUP } else { GRACE }, now);
                self.everybody |= matches!(request, StopRequest::Signal { everybody: true, .. });
            }
            Event::InterruptReported => self.reported = true,
            Event::PhaseChanged(phase) => self.phase = *phase,
            Event::TerraformStarted => {}
            Event::ChildEnded { unclean, orphans } => {
                self.ended = true;
                self.orphans = *orphans;
                self.unclean |= unclean;
            }
            Event::LogRead { locks_left, orphaned, killed } => {
                self.unclean |= orphaned;
                self.killed |= killed;
                self.locks_left = *locks_left;
                self.asked.remove(0);
            }
            Event::Inspected { alive, terraforms } => {
                self.gone = !alive;
                self.orphans &= terraforms;
                self.asked.remove(0);
            }
            Event::ReleaseEnded => {
                self.asked.remove(0);
            }
            Event::LeaseEnded => self.lease_ended = true,
            Event::OutOfReach => {}
        }
    }
}

/// From here, if everything goes well, the end is reached.
fn ends_when_all_goes_well(mut machine: Machine, mut witness: Witness, mut now: Moment, story: &Story) {
    if !witness.ended {
        let end = Event::ChildEnded { unclean: false, orphans: false };
        witness.note(&end, now);
        machine.handle(end, now);
        witness.judge(&mut machine, now, story);
    }
    for _ in 0..10 {
        let answer = match witness.asked.first() {
            Some(Action::ReadLog) => Event::LogRead { locks_left: true, orphaned: false, killed: false },
            Some(Action::Inspect) => INSPECTED_GONE,
            Some(Action::Release) => Event::ReleaseEnded,
            _ if witness.finished => return,
            _ => {
                now = machine.next_time().unwrap_or_else(|| panic!("P4: stuck after {story:#?}"));
                machine.handle_time(now);
                witness.judge(&mut machine, now, story);
                continue;
            }
        };
        witness.note(&answer, now);
        machine.handle(answer, now);
        witness.judge(&mut machine, now, story);
    }
    panic!("P4: no end after {story:#?}");
}

#[derive(Default)]
struct Explorer {
    /// Each situation, and how many events were tried after it.
    seen: HashMap<String, u32>,
    /// A machine in each phase of its life, and the moment.
    phases: BTreeMap<String, (Machine, Witness, Moment)>,
}

/// The phase of a machine's life: its state without times, and what changes how it takes events.
fn phase_of(machine: &Machine) -> String {
    let state = match machine.state {
        State::Looking { everybody, .. } => format!("Looking, everybody: {everybody}"),
        State::Stopping { .. } => "Stopping".to_owned(),
        State::Killing { .. } => "Killing".to_owned(),
        State::Clearing { again, kill, then_release, .. } => {
            format!("Clearing, again: {}, kill: {kill}, then_release: {then_release}", again.is_some())
        }
        state => format!("{state:?}"),
    };
    format!("{state}; interrupted: {}, orphans: {}", machine.interrupted, machine.orphans.is_some())
}

impl Explorer {
    /// Every order of so many events that can happen.
    fn explored(deadline: Option<u64>, leased: bool, depth: u32) -> Self {
        let mut explorer = Self::default();
        let witness = Witness { leased, ..Witness::default() };
        explorer.explore(&machine(deadline), &witness, Duration::ZERO, depth, &mut Story::new());
        explorer
    }

    fn explore(&mut self, machine: &Machine, witness: &Witness, now: Moment, depth: u32, story: &mut Story) {
        let Machine { grace, state, phase, interrupted, orphans, .. } = machine;
        let situation = format!("{now:?}{grace:?}{state:?}{phase:?}{interrupted}{orphans:?}{witness:?}");
        match self.seen.get_mut(&situation) {
            Some(tried) if *tried >= depth => return,
            Some(tried) => *tried = depth,
            None => drop(self.seen.insert(situation, depth)),
        }
        self.phases.entry(phase_of(machine)).or_insert_with(|| (machine.clone(), witness.clone(), now));
        ends_when_all_goes_well(machine.clone(), witness.clone(), now, story);
        if depth == 0 {
            return;
        }
        for event in witness.possible() {
            let (mut machine, mut witness) = (machine.clone(), witness.clone());
            story.push((now, Some(event.clone())));
            witness.note(&event, now);
            machine.handle(event, now);
            witness.judge(&mut machine, now, story);
            self.explore(&machine, &witness, now, depth - 1, story);
            story.pop();
        }
        if let Some(time) = machine.next_time() {
            let (mut machine, mut witness) = (machine.clone(), witness.clone());
            let just_before = time.saturating_sub(Duration::from_nanos(1));
            if just_before >= now {
                machine.handle_time(just_before);
                assert_eq!(machine.poll_action(), None, "acted before its time after {story:#?}");
            }
            let now = time.max(now);
            story.push((now, None));
            // The deadline is a request, and the machine makes it itself.
            if machine.state == State::Running && machine.time_of_state() == Some(time) {
                witness.asked_for_stop(OWN, now);
            }
            machine.handle_time(now);
            witness.judge(&mut machine, now, story);
            self.explore(&machine, &witness, now, depth - 1, story);
            story.pop();
        }
    }
}

#[test]
fn the_promises_hold_in_every_order_of_events() {
    for (deadline, leased, depth) in [(None, false, 11), (Some(60), false, 11), (None, true, 9)] {
        let explorer = Explorer::explored(deadline, leased, depth);
        println!(
            "deadline {deadline:?}, lease {leased}: {} situations in {} phases",
            explorer.seen.len(),
            explorer.phases.len()
        );
        assert!(explorer.seen.len() > 10_000, "only {} states were reached", explorer.seen.len());
    }
}

/// Every event, with each value that makes a difference, and the passing of time.
fn events() -> Vec<Option<Event>> {
    use StopRequest::{
        ChildDied, CredentialsEnd, Deadline, FrontDied, LeaseNotRenewed, LockLost, Outer, ParentDied, Release,
    };
    let end = jiff::Timestamp::UNIX_EPOCH;
    let requests = [
        signal(false),
        signal(true),
        FrontDied,
        ParentDied,
        Release,
        Outer { left: None },
        Outer { left: Some(CLEANUP) },
        ChildDied,
        Deadline,
        CredentialsEnd { end },
        LeaseNotRenewed,
        LockLost,
    ];
    let mut events: Vec<_> = requests.map(Event::StopRequested).into();
    events.extend([Phase::Unknown, Phase::Planning, Phase::Applying].map(Event::PhaseChanged));
    events.extend([
        Event::InterruptReported,
        Event::TerraformStarted,
        Event::OutOfReach,
        Event::ReleaseEnded,
        Event::LeaseEnded,
    ]);
    for (one, two) in [(false, false), (false, true), (true, false), (true, true)] {
        events.push(Event::ChildEnded { unclean: one, orphans: two });
        events.push(Event::Inspected { alive: one, terraforms: two });
        for killed in [false, true] {
            events.push(Event::LogRead { locks_left: one, orphaned: two, killed });
        }
    }
    events.into_iter().map(Some).chain([None]).collect()
}

/// What holds whatever happens, also what cannot: an answer that nobody asked for, an end that comes twice.
#[derive(Debug, Clone)]
struct Bare {
    machine: Machine,
    now: Moment,
    interrupts: u32,
    reported: bool,
    requested: bool,
    ended: bool,
    finished: bool,
}

impl Bare {
    fn take(&mut self, event: Option<&Event>, story: &dyn Fn() -> String) {
        match event {
            Some(event) => {
                self.reported |= *event == Event::InterruptReported;
                self.requested |= matches!(event, Event::StopRequested(_));
                self.ended |= matches!(event, Event::ChildEnded { .. });
                self.machine.handle(event.clone(), self.now);
            }
            None => {
                self.now = self.machine.next_time().unwrap_or(self.now).max(self.now);
                self.requested |= self.machine.state == State::Running;
                self.machine.handle_time(self.now);
            }
        }
        while let Some(action) = self.machine.poll_action() {
            assert!(!self.finished, "P4: {action:?} after the end: {}", story());
            match action {
                Action::Interrupt => {
                    self.interrupts += 1;
                    assert!(self.interrupts == 1 && self.requested && !self.reported, "P3: {}", story());
                    let is_at_work = !self.ended || self.machine.orphans.is_some();
                    assert!(is_at_work, "there is nobody to interrupt: {}", story());
                }
                Action::Release => assert!(self.ended, "P2: {}", story()),
                Action::Finish(_) => self.finished = true,
                _ => {}
            }
        }
    }
}

#[test]
fn every_pair_and_triple_of_events_is_taken_in_every_phase() {
    let events = events();
    let phases = Explorer::explored(Some(60), false, 7).phases;
    let mut taken = [0_u64; 3];
    for (phase, (machine, witness, now)) in &phases {
        let start = Bare {
            machine: machine.clone(),
            now: *now,
            interrupts: witness.interrupts,
            reported: witness.reported,
            requested: witness.stop_requested,
            ended: witness.ended,
            finished: witness.finished,
        };
        let mut after = vec![(start, Vec::new())];
        for (length, taken) in (1..).zip(&mut taken) {
            let mut next = Vec::new();
            for (before, story) in &after {
                for event in &events {
                    let mut bare: Bare = before.clone();
                    bare.take(event.as_ref(), &|| format!("{phase}: {story:?}, then {event:?}"));
                    *taken += 1;
                    if length < 3 {
                        next.push((bare, [story.as_slice(), &[event]].concat()));
                    }
                }
            }
            after = next;
        }
    }
    let [one, two, three] = taken;
    println!("{} phases, {} events: {one} single ones, {two} pairs, {three} triples", phases.len(), events.len());
    let all = (phases.len() * events.len().pow(3)) as u64;
    assert!(three == all && phases.len() >= 38, "{three} of {all} triples in {} phases", phases.len());
    let states = ["Running", "Looking", "Stopping", "Killing", "Reading", "Clearing", "Releasing", "Finished"];
    for state in states {
        assert!(phases.keys().any(|phase| phase.starts_with(state)), "no machine was found in {state}");
    }
}

#[test]
fn whoever_never_ends_is_given_up_in_bounded_time() {
    let mut machine = machine(None);
    machine.handle(Event::StopRequested(signal(false)), Duration::ZERO);
    let mut actions = Vec::new();
    while let Some(time) = machine.next_time() {
        machine.handle_time(time);
        actions.extend(std::iter::from_fn(|| machine.poll_action()));
        assert!(time < Duration::from_secs(400));
    }
    assert_eq!(actions, [Action::Interrupt, Action::Kill, Action::Finish(Finish::Alive)]);
}

#[test]
fn a_tree_that_never_goes_keeps_its_lock() {
    let mut machine = machine(None);
    machine.handle(Event::ChildEnded { unclean: true, orphans: false }, Duration::ZERO);
    machine.handle(Event::LogRead { locks_left: true, orphaned: false, killed: false }, Duration::ZERO);
    let mut now = Duration::ZERO;
    let last = loop {
        match machine.poll_action() {
            Some(Action::Inspect) => machine.handle(INSPECTED_ALIVE, now),
            Some(Action::Finish(finish)) => break finish,
            Some(_) => {}
            None => {
                now = machine.next_time().unwrap();
                machine.handle_time(now);
            }
        }
    };
    assert_eq!(last, Finish::Alive);
    assert_eq!(now, PATIENCE);
}

#[test]
fn an_apply_that_begins_after_the_interrupt_gets_the_whole_grace() {
    let mut machine = machine(None);
    machine.handle(Event::PhaseChanged(Phase::Planning), Duration::ZERO);
    machine.handle(Event::StopRequested(signal(false)), Duration::ZERO);
    machine.handle_time(LOOK);
    assert_eq!(machine.next_time(), Some(LOOK + PLANNING));
    machine.handle(Event::PhaseChanged(Phase::Applying), Duration::from_secs(5));
    assert_eq!(machine.next_time(), Some(LOOK + GRACE));
}

#[test]
fn a_grace_shorter_than_that_of_planning_holds_for_planning_too() {
    let mut machine = Machine::new(Terms { grace: Duration::from_secs(3), ..TERMS });
    machine.handle(Event::PhaseChanged(Phase::Planning), Duration::ZERO);
    assert_eq!(machine.grace(), Duration::from_secs(3));
}

#[test]
fn who_asks_tells_how_long_there_is() {
    let interrupted_by = |request| {
        let mut machine = machine(None);
        machine.handle(Event::StopRequested(request), Duration::ZERO);
        machine.handle_time(LOOK);
        machine
    };
    let end = jiff::Timestamp::UNIX_EPOCH;
    for (request, grace) in [
        (signal(false), GRACE),
        (StopRequest::FrontDied, GRACE),
        (StopRequest::ParentDied, GRACE),
        (StopRequest::Release, CLEANUP),
        (StopRequest::Outer { left: Some(CLEANUP) }, CLEANUP),
        (StopRequest::Outer { left: None }, GRACE),
        (StopRequest::ChildDied, OWN),
        (StopRequest::Deadline, OWN),
        (StopRequest::CredentialsEnd { end }, OWN),
    ] {
        assert_eq!(interrupted_by(request).next_time(), Some(LOOK + grace));
    }
    // tfguard stops in good time, and then the CI cancels the job.
    let mut machine = interrupted_by(StopRequest::Deadline);
    let now = Duration::from_secs(100);
    machine.handle(Event::StopRequested(signal(false)), now);
    assert_eq!(machine.next_time(), Some(now + GRACE));
    machine.handle(Event::StopRequested(StopRequest::Release), now * 2);
    machine.handle(Event::StopRequested(signal(false)), now * 2);
    assert_eq!(machine.next_time(), Some(now + GRACE), "nobody who asks again gives more time");
}

/// A script may be killed, or end without waiting for them.
#[test]
fn terraforms_that_outlive_a_script_have_their_grace() {
    let mut machine = machine(None);
    let actions = |machine: &mut Machine| std::iter::from_fn(|| machine.poll_action()).collect::<Vec<_>>();
    machine.handle(Event::StopRequested(signal(false)), Duration::ZERO);
    machine.handle_time(LOOK);
    assert_eq!(actions(&mut machine), [Action::Interrupt]);
    machine.handle(Event::ChildEnded { unclean: true, orphans: true }, LOOK);
    let end = LOOK + GRACE;
    loop {
        let now = machine.next_time().unwrap();
        machine.handle_time(now);
        match actions(&mut machine)[..] {
            [Action::Inspect] if now < end => machine.handle(Event::Inspected { alive: true, terraforms: true }, now),
            [Action::Inspect, Action::Kill] | [Action::Kill] if now == end => break,
            ref other => panic!("{other:?} at {now:?}"),
        }
    }
    // The log is read when they are dead, and not before.
    machine.handle(INSPECTED_ALIVE, end);
    assert_eq!(actions(&mut machine), [Action::ReadLog]);
}
/// How long a machine waits for one that cannot be killed, `terraform` or not, once the child was told to stop and has ended.
fn waits_for_a_survivor(locks_left: bool, terraforms: bool) -> Duration {
    let (mut machine, mut now) = (machine(None), Duration::ZERO);
    machine.handle(Event::StopRequested(signal(false)), now);
    machine.handle(Event::ChildEnded { unclean: false, orphans: false }, now);
    machine.handle(Event::LogRead { locks_left, orphaned: false, killed: false }, now);
    loop {
        match machine.poll_action() {
            Some(Action::Finish(finish)) => {
                assert_eq!(finish, Finish::Alive);
                return now;
            }
            Some(Action::Inspect) => machine.handle(Event::Inspected { alive: true, terraforms }, now),
            Some(_) => {}
            None => {
                now = machine.next_time().expect("it waits for something");
                machine.handle_time(now);
            }
        }
    }
}

#[test]
fn nobody_waits_long_for_a_survivor_on_whose_end_nothing_depends() {
    for (locks_left, terraforms) in [(true, false), (true, true), (false, true)] {
        assert_eq!(waits_for_a_survivor(locks_left, terraforms), PATIENCE);
    }
    assert_eq!(waits_for_a_survivor(false, false), PATIENCE_WITH_LEFTOVERS);
}

#[test]
fn nobody_waits_long_for_the_end_of_what_may_not_be_killed() {
    let mut machine = machine(None);
    machine.handle(Event::StopRequested(signal(false)), Duration::ZERO);
    while !machine.is_killing() {
        let now = machine.next_time().unwrap();
        machine.handle_time(now);
    }
    let killed = machine.next_time().unwrap() - PATIENCE;
    machine.handle(Event::OutOfReach, killed);
    assert_eq!(machine.next_time(), Some(killed + PATIENCE_WITH_LEFTOVERS));
}

#[test]
fn how_long_terraform_still_has_is_said_ever_less_often_and_not_after_its_time() {
    let terms = Terms { grace: Duration::from_secs(500), ..TERMS };
    let mut machine = Machine::new(terms);
    assert_eq!(machine.next_reminder(Duration::ZERO), None, "nobody was interrupted");
    machine.handle(Event::StopRequested(signal(false)), Duration::ZERO);
    assert_eq!(machine.next_reminder(Duration::ZERO), None, "nor yet");
    machine.handle_time(LOOK);
    let mut said = vec![Duration::ZERO];
    while let Some(at) = machine.next_reminder(*said.last().unwrap()) {
        said.push(at);
    }
    let seconds: Vec<_> = said[1..].iter().map(|at| (*at - LOOK).as_secs()).collect();
    assert_eq!(seconds, [15, 30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 360, 420, 480]);
    // Where this process had no turn for a while, it is said once.
    assert_eq!(machine.next_reminder(LOOK + Duration::from_secs(200)), Some(LOOK + Duration::from_secs(210)));
    machine.handle_time(LOOK + terms.grace);
    assert_eq!(machine.next_reminder(Duration::ZERO), None, "it is being killed");
}

/// Whoever finds the lease run out takes the lock, whatever grace its child had.
#[test]
fn the_end_of_a_lease_is_the_kill_whenever_the_child_lives() {
    let kills = |machine: &mut Machine| {
        machine.handle(Event::LeaseEnded, LOOK);
        std::iter::from_fn(|| machine.poll_action()).filter(|action| *action == Action::Kill).count()
    };
    let mut machine = machine(None);
    assert_eq!(kills(&mut machine.clone()), 1, "at work");
    machine.handle(Event::StopRequested(StopRequest::LeaseNotRenewed), Duration::ZERO);
    assert_eq!(kills(&mut machine.clone()), 1, "before its interrupt");
    machine.handle_time(LOOK);
    assert_eq!(machine.poll_action(), Some(Action::Interrupt));
    assert_eq!(kills(&mut machine), 1, "in its grace");
    assert_eq!(kills(&mut machine), 0, "killed already");
    assert!(machine.is_killing());
}
