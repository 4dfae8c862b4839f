//! A session that nobody supervises any more: this process takes the supervisor's place, or looks again at what is left.

use std::time::Duration;

use tokio::time::Instant;

use crate::commands::release::found::Found;
use crate::commands::release::{CleanupStep, RESERVE};
use crate::exit;
use crate::machine::Terms;
use crate::model::{self, StopRequest};
use crate::run::{Failure, InnerGuards, Job, Supervisor, compare_again, conclude, release_again};
use crate::session::{Adoptable, Journal, SessionDir, goes_on, may_be_alive};

/// With no more time than this for a Terraform that nobody supervises, it is left alone: a kill would come at once.
const SHORTEST_GRACE: Duration = Duration::from_secs(10);

impl CleanupStep<'_> {
    /// Nobody supervises the run, and its child may be alive.
    pub(super) async fn take_over(&mut self, found: &mut Found, mut journal: Journal) -> Result<u8, Failure> {
        let session = found.session.clone();
        let job = self.job(&session, &journal);
        match Adoptable::look(&job.session, &journal, self.until).await {
            Adoptable::Yes => {}
            Adoptable::NothingStarted => {
                session.remove();
                return Ok(0);
            }
            Adoptable::Held => return Ok(self.cannot_reach(&session)),
            Adoptable::Unknowable => {
                let why = "was left by this job in another container: whether its Terraform runs cannot be known from \
                           here, so its locks are not touched";
                self.cannot_know(&session, &journal, why);
                return Ok(exit::LOCK_LEFT);
            }
        }
        if journal.child.is_some_and(|child| child.id.is_alive())
            && self.grace().duration <= SHORTEST_GRACE.min(self.asked.wait / 4)
        {
            self.warn(&format!(
                "{} is still running and nobody supervises it, and this step has no time left for it: run \
                 `tfguard release` again, with a longer --wait",
                journal.account.program
            ));
            return Ok(exit::LOCK_LEFT);
        }
        let output = found.relay(self.asked.imports)?;
        journal.account.grace = Some(self.grace());
        let _ = self.to_self.send(StopRequest::Release);
        let mut account = Supervisor::adopt(&job, journal, &mut self.requests)
            .await
            .map_err(|error| Failure::NotTakenOver(error.to_string()))?;
        // This process's own request, where the run was over before anybody heard it, is not to cut the output short.
        let others: Vec<_> = std::iter::from_fn(|| self.requests.try_recv().ok()).collect();
        for request in others.into_iter().filter(|request| *request != StopRequest::Release) {
            let _ = self.to_self.send(request);
        }
        conclude(self.plan, &session, &account);
        self.conclude(found, &mut account, output).await;
        Ok(account.needs_somebody().unwrap_or(0))
    }

    /// Everything is over, but nobody was there to see it, or a lock was left.
    pub(super) async fn look_again(&mut self, found: &mut Found, mut journal: Journal) -> Result<u8, Failure> {
        let session = found.session.clone();
        let output = found.relay(self.asked.imports)?;
        let is_due = journal.account.lock_left() || !journal.account.survivors.is_empty();
        if is_due && !goes_on(self.until, || may_be_alive(&session, &journal)).await {
            journal.account.survivors.clear();
            if journal.account.lock_left() {
                release_again(&self.job(&session, &journal), &mut journal, self.until).await;
            }
        }
        if journal.account.lacks_resources() {
            compare_again(&self.job(&session, &journal), &mut journal).await;
        }
        let heard = self.conclude(found, &mut journal.account, output).await;
        let is_printed_later = self.unsaved.iter().any(|(later, ..)| *later.name() == *session.name());
        let is_told = heard && !is_printed_later && !InnerGuards::of(&session).are_hidden();
        if is_told && !journal.account.can_be_tried_again() && !journal.account.lacks_resources() {
            // It was told, by the run and once more here. To say it again would tell nothing.
            session.remove();
        }
        Ok(journal.account.needs_somebody().unwrap_or(0))
    }

    /// The run as this process goes on with it, or tries again to release what it left.
    pub(super) fn job(&self, session: &SessionDir, journal: &Journal) -> Job {
        let mut job = Job::new(self.plan, session.clone(), journal).of_journal(session, journal);
        let (grace, none) = (self.grace().duration, Duration::ZERO);
        job.until = Some(self.end);
        job.terms = Terms { grace, cleanup_grace: none, own_grace: none, ..job.terms };
        job
    }

    /// What a Terraform has whose run this process takes over.
    fn grace(&self) -> model::Term {
        let left = self.until.saturating_duration_since(Instant::now());
        let duration = left.saturating_sub(RESERVE).max(left / 2);
        model::Term { duration, why: "tfguard release waits no longer".to_owned() }
    }
}
