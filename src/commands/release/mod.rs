//! `tfguard release`, the cleanup step of a CI job: finishes what dead or dying runs of this very job left.
//!
//! For each session of the job, by what is alive of it:
//! * its supervisor: it is asked to stop, the rest of the output is shown as it comes, its end is awaited,
//!   and a lock that it could not release is tried again;
//! * no supervisor: this process takes its place, interrupts Terraform unless the journal says that it was done, waits,
//!   kills, releases;
//! * nothing: the rest of the output is shown, and a lock that could not be released is tried again, with the
//!   credentials there are now.
//!
//! Where the session belongs to another PID namespace of this kernel (the job's container is gone, its volume stayed),
//! the kernel still tells whether a Terraform holds the session's log. Of another boot or machine nothing can be known,
//! and nothing is touched.

mod alive;
mod dry_run;
mod found;
mod ours;
mod tell;
mod unsupervised;

use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use crate::commands::release::found::Found;
use crate::model::{Account, Environment, ProcessId, StopRequest, World};
use crate::report::ci::Summary;
use crate::run::{Failure, InnerGuards, Plan, Requests, requests};
use crate::session::{SessionDir, goes_on, is_of_this_kernel};
use crate::text::{duration, in_a_line};
use crate::{ci, exit};

/// What is kept of the time to wait for the kill and the release.
const RESERVE: Duration = Duration::from_secs(30);
/// What is kept to tell of all that, when the time is over.
const TO_TELL: Duration = Duration::from_secs(5);
/// Why nothing can be known of a copy.
const COPY: &str = "is a copy of a session's directory: whether its Terraform runs is told only by the original, so its \
                    locks are not touched";

/// The options of `tfguard release`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Args {
    /// Wait this long for a Terraform that is still alive
    ///
    /// Half a minute of it is kept for the kill and the release.
    #[arg(long, env = "TFGUARD_WAIT", value_name = "DURATION", value_parser = duration, default_value = "4m")]
    pub wait: Duration,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,

    /// Print only import blocks for what was not saved
    ///
    /// Print, and print nothing else on stdout, `import` blocks for what a killed Terraform had made and not saved.
    #[arg(long)]
    pub imports: bool,
}

/// Finishes the sessions of this job; gives tfguard's exit code: 0 when nothing is left.
pub fn run(plan: &Plan, asked: Args) -> Result<u8, Failure> {
    crate::aws::distrust_checkout();
    let runtime = crate::run::runtime().map_err(Failure::Start)?;
    let code = runtime.block_on(async {
        let (to_self, requests) = unbounded_channel();
        requests::from_signals(to_self.clone(), plan.heed_hangup, false, None).map_err(Failure::Start)?;
        let until = Instant::now() + asked.wait;
        // Also who waits for no Terraform has time to release the lock of a dead one.
        let end = Instant::now() + asked.wait.max(RESERVE) + TO_TELL;
        let (summaries, unsaved) = (Vec::new(), Vec::new());
        let step = CleanupStep { plan, asked, until, end, to_self, requests, summaries, unsaved };
        Ok(step.run().await)
    });
    runtime.shutdown_background();
    code
}

/// The exit code of two sessions: a state that needs a look counts less than a lock that is left.
fn worse(one: u8, other: u8) -> u8 {
    std::cmp::max_by_key(one, other, |code| if *code == exit::STATE_NEEDS_A_LOOK { 1 } else { *code })
}

/// The cleanup step of a job.
struct CleanupStep<'a> {
    plan: &'a Plan,
    asked: Args,
    /// When its wait is over, for all sessions together.
    until: Instant,
    /// When all is to be over, whatever comes.
    end: Instant,
    to_self: UnboundedSender<StopRequest>,
    requests: Requests,
    /// What was said of the job's runs.
    summaries: Vec<Summary>,
    /// Whose blocks are to be printed, and whether somebody heard what became of it.
    unsaved: Vec<(SessionDir, Account, bool)>,
}

impl CleanupStep<'_> {
    /// Gives tfguard's exit code.
    async fn run(mut self) -> u8 {
        let mut worst = 0;
        let (sessions, refused) = SessionDir::all_and_refused(&Environment::own());
        for why in &refused {
            // Whether it is of this job cannot be known.
            self.warn(&format!(
                "{}. A run of this job that has its session there is not finished, and its lock may be left: once that is \
                 mended, or as the user of that run, run `tfguard release` again",
                in_a_line(&why.to_string())
            ));
            worst = exit::TFGUARD_FAILED;
        }
        let mut found: Vec<_> = sessions.into_iter().map(Found::new).collect();
        if !self.asked.dry_run {
            found.iter_mut().for_each(|found| self.ask(found));
        }
        for mut found in found {
            let ended = timeout_at(self.end, self.finish(&mut found)).await;
            let ended = ended.unwrap_or_else(|_| {
                self.warn(&format!(
                    "the time of this step is over, and {} is not finished: run `tfguard release` again",
                    found.session.path().display()
                ));
                Ok(exit::LOCK_LEFT)
            });
            // Whatever relay there was, it may not take any words any more.
            crate::log::directly();
            let code = ended.unwrap_or_else(|failure| {
                tracing::error!("{failure}");
                failure.exit_code()
            });
            worst = worse(worst, code);
        }
        if !self.print_imports() {
            worst = worse(worst, exit::STATE_NEEDS_A_LOOK);
        }
        if !self.summaries.is_empty() {
            if let Some(how) = ci::how_the_job_ended(&self.plan.env) {
                tracing::info!("{how}");
            }
            self.plan.publisher.publish(&self.summaries).await;
        }
        worst
    }

    async fn finish(&mut self, found: &mut Found) -> Result<u8, Failure> {
        loop {
            if let Some(code) = self.step(found).await? {
                return Ok(code);
            }
        }
    }

    /// None where what there is of the session has changed, and has to be looked at again.
    async fn step(&mut self, found: &mut Found) -> Result<Option<u8>, Failure> {
        let session = found.session.clone();
        let Some(journal) = found.journal(self.asked.dry_run).await? else { return Ok(Some(0)) };
        if journal.account.ci != self.plan.ci {
            tracing::debug!("{} is another job's", session.path().display());
            return Ok(Some(0));
        }
        if !is_of_this_kernel(&journal) {
            let why = "was left by this job on another machine, or before a restart: whether its Terraform runs cannot \
                       be known from here, so its locks are not touched";
            return Ok(Some(self.cannot_know(&session, &journal, why)));
        }
        if found.is_copy(&journal) {
            return Ok(Some(self.cannot_know(&session, &journal, COPY)));
        }
        if self.asked.dry_run {
            self.say_what_would_be_done(&session, &journal).await;
            return Ok(Some(0));
        }
        let claim = match session.claim() {
            // Its front is just removing it.
            Err(error) if error.is_not_found() || !session.exists() => return Ok(Some(0)),
            claim => claim?,
        };
        if claim.is_none() {
            return self.await_supervisor(found, &journal).await;
        }
        let Some(journal) = found.journal(false).await? else { return Ok(Some(0)) };
        if self.goes_on_elsewhere(&session, &journal) {
            return Ok(Some(0));
        }
        // Who supervises holds the claim until the run is concluded.
        let here = journal.world == World::here() && journal.account.ended.is_none();
        if let Some(supervisor) = journal.supervisor.filter(|supervisor| here && Some(*supervisor) != ProcessId::own())
            && goes_on(self.until, || supervisor.is_alive()).await
        {
            return Ok(Some(self.cannot_know(&session, &journal, COPY)));
        }
        // A guard below it may not have accounted for its Terraform when it ended.
        let is_over = journal.account.ended.is_some() && InnerGuards::of(&session).at_work().is_empty();
        let code = if is_over { self.look_again(found, journal).await } else { self.take_over(found, journal).await };
        code.map(Some)
    }
}
