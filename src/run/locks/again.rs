//! What a cleanup step does once more for a run of which everything is dead: releases what could not be released, and looks
//! at what its states lacked.

use tokio::time::Instant;

use crate::model::{Entry, Evidence, Grade, LockOutcome};
use crate::observe::Left;
use crate::run::job::Job;
use crate::run::locks::locate::{Locator, Started};
use crate::run::locks::release::{IN_FLIGHT, Terms};
use crate::run::locks::states;
use crate::session::{Journal, goes_on, is_of_this_kernel, may_be_alive};

/// Tries again to release the locks that are left, also those of the guards below, whose sessions are kept for it. Nothing
/// of the session itself is alive; of those below it that is seen here.
pub(crate) async fn release_again(job: &Job, journal: &mut Journal, until: Instant) {
    for inner in job.session.inner() {
        let Ok(mut below) = Journal::read(&inner) else { continue };
        let over = below.account.ended.is_some() && is_of_this_kernel(&below);
        if over && below.account.lock_left() && !goes_on(until, || may_be_alive(&inner, &below)).await {
            below.account.survivors.clear();
            Box::pin(release_again(&job.of_journal(&inner, &below), &mut below, until)).await;
        }
        let accounts = &mut journal.account.terraforms;
        match accounts.iter_mut().find(|known| known.session == below.account.session) {
            Some(known) => *known = below.account,
            // The run had nothing left to look at it with.
            None if below.account.ended.is_none() || below.account.can_be_tried_again() => accounts.push(below.account),
            None => {}
        }
    }
    let started = Started::dead(job);
    let mut locator = Locator::new(journal.backend.clone());
    let is_left = |outcome: &Option<LockOutcome>| matches!(outcome, Some(LockOutcome::Left(_)));
    let traces = journal.account.traces.iter().filter(|trace| is_left(&trace.outcome));
    let traces = traces.map(|trace| Left::long_ago(trace.entry.clone())).collect();
    let mut left = Vec::new();
    for lock in &mut journal.account.locks {
        locator.note_moved(&lock.claim);
        if !is_left(&lock.outcome) || job.locks.on_death.keeps(&lock.claim.operation) {
            continue;
        }
        // What is known of a lock only by what it says itself was judged when its Terraform had just died. To judge it
        // again is a person's; whether it is still there is not.
        if lock.grade == Grade::Item && (lock.halves.is_empty() || job.locks.evidence != Evidence::Item) {
            locator.locate(&lock.claim, &mut lock.places, &mut lock.settings, started);
            if locator.is_gone(&lock.claim).await {
                lock.outcome = Some(LockOutcome::Gone);
            }
            continue;
        }
        left.push(Left::long_ago(Entry { claim: lock.claim.clone(), stage: lock.stage, grade: lock.grade }));
    }
    locator.identify_traces(traces, &mut left, started, false, journal).await;
    let terms = Terms { unclean: true, uploaded: Instant::now() + IN_FLIGHT, exited_zero: false, just_ended: false };
    locator.settle(&left, started, terms, journal).await;
    states::look(&mut journal.account, &locator, job, None, states::BUDGET).await;
    if let Err(error) = journal.write(&job.session) {
        tracing::warn!("{error}");
    }
}

/// Compares what a run had made, and its state lacked, once more with that state: somebody may have imported it.
pub(crate) async fn compare_again(job: &Job, journal: &mut Journal) {
    for inner in job.session.inner() {
        let Ok(mut below) = Journal::read(&inner) else { continue };
        let accounts = &mut journal.account.terraforms;
        if let Some(known) = accounts.iter_mut().find(|known| known.session == below.account.session)
            && known.lacks_resources()
        {
            Box::pin(compare_again(&job.of_journal(&inner, &below), &mut below)).await;
            *known = below.account;
        }
    }
    let Some(unsaved) = journal.account.unsaved.first().cloned() else { return };
    let mut locator = Locator::new(journal.backend.clone());
    for lock in &mut journal.account.locks {
        locator.locate(&lock.claim, &mut lock.places, &mut lock.settings, Started::dead(job));
    }
    states::look(&mut journal.account, &locator, job, Some(unsaved), states::BUDGET).await;
    if let Err(error) = journal.write(&job.session) {
        tracing::warn!("{error}");
    }
}
