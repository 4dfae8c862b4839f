//! Chaos: many guarded runs of a real Terraform at once on shared states, to which a seed decides what happens, and a checker
//! that compares what the API and the machine saw with the promises. docs/chaos.md tells how to run it for long.

mod bed;
mod checker;
mod lack;
mod play;
mod recorder;
mod rules;
mod schedule;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bed::Bed;
use checker::{Figures, check};
use play::{Permits, play};
use schedule::Schedule;

use crate::support::{skipped, terraform_on_path};

/// How many schedules there are, and what the first one's seed is; each next one's is one more.
const SCHEDULES: (&str, u64) = ("TFGUARD_CHAOS_SCHEDULES", 24);
const SEED: (&str, u64) = ("TFGUARD_CHAOS_SEED", 1);
/// How many are played at once. Most of their time is waiting.
const AT_ONCE: (&str, u64) = ("TFGUARD_CHAOS_AT_ONCE", 16);

fn setting((name, default): (&str, u64)) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}"))
}

/// Past the test harness, which keeps the words of what passes.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn permits() -> Permits {
    let works = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    };
    let permits = Permits {
        users: works("setpriv", &["--reuid=200000", "--regid=200000", "--clear-groups", "true"]),
        provider: crate::support::aws_provider_mirror().is_some(),
        mounts: works("unshare", &["--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]),
    };
    if !permits.users {
        skipped("this machine permits no users of one's own: no limits of processes and no read-only directories");
    }
    if !permits.mounts {
        skipped("this machine permits no mounts: no full disks");
    }
    permits
}

/// What was found so far.
#[derive(Default)]
struct Tally {
    figures: Figures,
    played: usize,
    failed: Vec<u64>,
    longest: Duration,
}

#[test]
fn no_schedule_breaks_a_promise() {
    let Some((_, terraform)) = terraform_on_path() else {
        return skipped("no terraform of version 1.10 or later on PATH, so there is no chaos");
    };
    let (count, first, at_once) = (setting(SCHEDULES), setting(SEED), setting(AT_ONCE));
    let count = usize::try_from(count).expect("it is a count");
    let (bed, permits) = (Bed::new(terraform), permits());
    let shows = std::env::var_os("TFGUARD_CHAOS_SHOW").is_some();
    let (next, tally) = (AtomicUsize::new(0), Mutex::<Tally>::default());
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..at_once.min(count as u64) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let schedule = Schedule::of(first.wrapping_add(number as u64));
                    let began = Instant::now();
                    let evidence = catch_unwind(AssertUnwindSafe(|| play(&bed, permits, &schedule)));
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.played += 1;
                    tally.longest = tally.longest.max(began.elapsed());
                    match evidence {
                        Ok(evidence) => {
                            let verdict = check(&evidence);
                            tally.figures.add(verdict.figures);
                            if shows {
                                say(&format!("{schedule}{evidence}"));
                            }
                            if !verdict.violations.is_empty() {
                                tally.failed.push(schedule.seed);
                                say(&failure(&schedule, &verdict.violations, &evidence));
                            }
                        }
                        // It said why.
                        Err(_) => {
                            tally.failed.push(schedule.seed);
                            say(&format!("CHAOS: the harness failed\n{schedule}"));
                        }
                    }
                    if tally.played.is_multiple_of(50) {
                        say(&progress(&tally, count, start.elapsed()));
                    }
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    say(&progress(&tally, count, start.elapsed()));
    assert!(tally.failed.is_empty(), "these seeds break a promise, as told above: {:?}", tally.failed);
    let Figures { deleted, interrupted, requests, .. } = tally.figures;
    // What saw nothing happen would find nothing broken.
    assert!(count < 24 || (deleted > 0 && interrupted > 0 && requests > 0), "nothing happened: {:?}", tally.figures);
}

fn progress(tally: &Tally, count: usize, time: Duration) -> String {
    let rate = tally.played as f64 / time.as_secs_f64();
    format!(
        "CHAOS: {} of {count} schedules in {:.0} s ({rate:.2} a second, the longest {:.0} s), {} violations; {:?}",
        tally.played,
        time.as_secs_f64(),
        tally.longest.as_secs_f64(),
        tally.failed.len(),
        tally.figures
    )
}

fn failure(schedule: &Schedule, violations: &[(&str, String)], evidence: &str) -> String {
    let mut text = format!("CHAOS: a promise is broken\n{schedule}");
    for (rule, why) in violations {
        text += &format!("  BROKEN {rule}: {why}\n");
    }
    text += &format!(
        "  again: TFGUARD_CHAOS_SEED={} TFGUARD_CHAOS_SCHEDULES=1 cargo test --locked --test tfguard -- chaos:: --nocapture\n",
        schedule.seed
    );
    // All that is known, for whoever looks for the cause.
    text + evidence
}
