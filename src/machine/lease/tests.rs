//! Every order of events in a model of the world, with the machines as they are shipped.

mod search;
mod world;

use std::time::{Duration, Instant};

use self::search::{Seen, search, walk};
use self::world::{Bug, Protocol, Role, Setting};
use super::*;

/// Short, and as tight as they can be: a child of a slow clock is killed in the very tick in which an observer with a fast
/// one deletes. So a mistake of one tick shows.
const TIGHT: Times = Times {
    length: Duration::from_secs(20),
    beat: Duration::from_millis(4900),
    renew: Duration::from_secs(12),
    kill: Duration::from_millis(19800),
    wait: Duration::from_millis(20200),
};
/// What a slow and a fast clock count in a tick.
const SLOW: Duration = Duration::from_millis(4950);
const FAST: Duration = Duration::from_millis(5050);

const RATES: &[Duration] = &[SLOW, FAST, FAST];

const ONE: &[Role] = &[Role::Run, Role::Reclaim];
const TWO: &[Role] = &[Role::Run, Role::Reclaim, Role::Reclaim];
const PLAIN: &[Role] = &[Role::Run, Role::Reclaim, Role::Plain];
const UNLOCK: &[Role] = &[Role::Run, Role::Unlock, Role::Plain];

fn setting(protocol: Protocol, roles: &'static [Role], faults: u8) -> Setting {
    Setting { protocol, times: TIGHT, roles, rates: RATES, faults, bug: None, unguarded: false }
}

fn holds(setting: Setting) {
    let begun = Instant::now();
    let Setting { protocol, times, roles, faults, .. } = setting;
    let title = format!("{protocol:?}, {roles:?}, {:?}, up to {faults} faults", times.length);
    match search(setting) {
        Ok(Seen { states, steps, dead, slowest }) => println!(
            "{title}: {states} states, {steps} steps in {:?}; {dead} with a dead holder, reclaimed after {slowest} ticks at most",
            begun.elapsed()
        ),
        Err(violation) => panic!("{title}: {}", violation.story()),
    }
}

/// What a `cargo test` has the time for; the rest is below.
#[test]
fn no_order_of_events_breaks_the_lease_of_an_item() {
    holds(setting(Protocol::Item, ONE, 1));
    holds(setting(Protocol::Item, UNLOCK, 1));
    holds(setting(Protocol::Item, TWO, 0));
}

#[test]
fn no_order_of_events_breaks_the_lease_of_a_lockfile() {
    holds(setting(Protocol::Lockfile, ONE, 1));
}

/// Several faults at once, three commands, and the times of a real lease: `cargo test --release --lib lease -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes and gigabytes, in a release build"]
fn no_order_of_many_events_breaks_the_lease() {
    let real = Times::of(Duration::from_secs(45)).unwrap();
    for protocol in [Protocol::Item, Protocol::Lockfile] {
        for roles in [ONE, TWO, PLAIN, UNLOCK] {
            let faults = if (protocol, roles) == (Protocol::Lockfile, TWO) { 0 } else { 1 };
            holds(setting(protocol, roles, faults));
        }
        for rates in [&[FAST, SLOW], &[SLOW, SLOW], &[FAST, FAST]] {
            holds(Setting { rates, ..setting(protocol, ONE, 1) });
        }
        holds(Setting { times: real, ..setting(protocol, ONE, 1) });
    }
    holds(setting(Protocol::Item, ONE, 2));
}

/// Deeper than the search goes: more faults, more commands, the times of a real lease.
#[test]
fn no_random_schedule_breaks_the_lease() {
    let real = Times::of(Duration::from_secs(45)).unwrap();
    let mut steps = 0;
    for seed in 0..400 {
        for (protocol, roles) in
            [(Protocol::Item, TWO), (Protocol::Item, PLAIN), (Protocol::Lockfile, TWO), (Protocol::Lockfile, PLAIN)]
        {
            let times = if seed % 2 == 0 { TIGHT } else { real };
            let setting = Setting { times, ..setting(protocol, roles, 6) };
            match walk(setting, seed, 200) {
                Ok(taken) => steps += taken,
                Err(violation) => panic!("seed {seed}, {setting:?}: {}", violation.story()),
            }
        }
    }
    println!("1600 random schedules: {steps} steps");
}

/// For each rule what breaks it, and the promise that is broken then, by the shortest way there.
#[test]
fn every_rule_is_needed() {
    use Bug::*;
    use Protocol::*;
    for (bug, protocol, roles, promise) in [
        (BeatWithoutLock, Item, ONE, "a beat of 0 is written where its lock is not"),
        (BeatWithoutVersion, Item, ONE, "a beat of 0 overwrites another than the one before it"),
        (LossIgnored, Item, ONE, "the child of 0 outlives its lease"),
        (RenewedAfterLoss, Item, ONE, "0 renews a lock that it has lost"),
        (LogUnread, Item, ONE, "0 counts a lock as lost that Terraform gave back"),
        (UnknownIsDone, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (UnknownIsNotDone, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (CountedFromAnswer, Item, ONE, "the child of 0 outlives its lease"),
        (ContinuedFirst, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (ClockStandsStill, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (NameIgnored, Lockfile, PLAIN, "1 deletes the lock of 2, whose child lives"),
        (FailedReadIgnored, Item, ONE, "1 reclaims a lock less than a wait after a read that failed"),
        (WaitTooShort, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (WaitRestarted, Item, ONE, "the lock of a dead holder is never reclaimed"),
        (CountedFromCreated, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (UnleasedReclaimed, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (JournalUnread, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (JournalWithoutSent, Item, ONE, "1 deletes the lock of 0, whose child lives"),
        (DeleteWithoutLock, Item, UNLOCK, "1 deletes another lock than the one it watched"),
        (DeleteWithoutVersion, Item, ONE, "1 deletes a lock that was renewed meanwhile"),
        (FenceSkipped, Lockfile, ONE, "1 deletes a lock that was renewed meanwhile"),
    ] {
        // That one shows without any fault, and sooner so.
        let faults = u8::from(bug != NameIgnored);
        let setting = Setting { bug: Some(bug), ..setting(protocol, roles, faults) };
        let violation = search(setting).expect_err("a promise is broken");
        println!("{bug:?}: {}", violation.story());
        assert_eq!(violation.promise, promise, "{bug:?}");
    }
}

/// The times of the search leave no room: it would see it if they were too short for the clocks.
#[test]
fn clocks_that_differ_by_more_break_it() {
    const RATES: &[Duration] = &[Duration::from_millis(4945), FAST];
    let violation =
        search(Setting { rates: RATES, ..setting(Protocol::Item, ONE, 1) }).expect_err("a promise is broken");
    assert_eq!(violation.promise, "1 deletes the lock of 0, whose child lives");
}

/// No lease can fence a Terraform whose tfguard is not at work: the documents say so.
#[test]
fn a_child_without_a_guard_at_work_is_not_fenced() {
    let setting = Setting { unguarded: true, ..setting(Protocol::Item, ONE, 1) };
    let violation = search(setting).expect_err("a promise is broken");
    println!("{}", violation.story());
    assert_eq!(violation.promise, "1 deletes the lock of 0, whose child lives");
}
