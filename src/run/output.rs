//! The command's output on its way to the CI, and what tfguard says behind it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use jiff::Timestamp;

use crate::files;
use crate::model::{Account, ProcessId};
use crate::report::ci::Summary;
use crate::run::plan::Plan;
use crate::run::requests::Requests;
use crate::run::spool::{Relay, Spool};
use crate::run::{is_accounted_for, wrapped};
use crate::session::{Journal, SessionDir, SessionFile};

/// The most that is shown of the end of a Terraform's output where what called it is dead, in bytes.
const MOST_OF_A_REST: u64 = 64 * 1024;

/// The spools of stdout and stderr, of which the second may go into the first.
pub type Spools = [Option<Spool>; 2];

/// The spools of a session.
pub fn spools(session: &SessionDir) -> Spools {
    [Spool::open(session, SessionFile::Stdout, 0), Spool::open(session, SessionFile::Stderr, 8)]
}

/// Whether all that the child said was passed on.
pub fn is_passed_on(session: &SessionDir) -> bool {
    spools(session).into_iter().flatten().all(|spool| spool.is_passed_on())
}

/// Both streams.
#[derive(Debug)]
pub struct Output {
    stdout: Relay,
    stderr: Relay,
}

impl Output {
    /// Passes the output on. What tfguard says goes between the lines of stderr. `apart`: nothing to stdout.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn relay([stdout, stderr]: Spools, apart: bool) -> io::Result<Self> {
        let stdout = if apart { Relay::start(stdout, io::stderr())? } else { Relay::start(stdout, io::stdout())? };
        let stderr = Relay::start(stderr, io::stderr())?;
        crate::log::through(stderr.sayer());
        Ok(Self { stdout, stderr })
    }

    /// Passes on the rest.
    pub async fn finish(self, requests: &mut Requests) {
        let mut hurried = false;
        self.stdout.complete();
        self.stderr.complete();
        self.stdout.join(requests, &mut hurried).await;
        self.stderr.join(requests, &mut hurried).await;
        crate::log::directly();
    }

    /// Passes on the rest, then says what happened. And whether somebody was there to hear it: where not, `tfguard release`
    /// says it once more.
    pub async fn finish_with(
        self,
        plan: &Plan,
        session: &SessionDir,
        account: &Account,
        requests: &mut Requests,
    ) -> (Summary, bool) {
        let Self { stdout, stderr } = self;
        let mut hurried = false;
        // Behind all that the child wrote, also where both streams go to one place.
        let of_wrapper = wrapped::conclude(plan, session, account);
        let together = same_file(io::stdout().as_fd(), io::stderr().as_fd());
        if let Some(line) = of_wrapper.clone().filter(|_| !together) {
            stdout.say(line);
        }
        stdout.complete();
        stdout.join(requests, &mut hurried).await;
        if let Some(line) = of_wrapper.filter(|_| together) {
            stderr.say(line);
        }
        if plan.outer.is_none() {
            show_the_rest_of_guards(session, &stderr);
        }
        let summary = announce(plan, session, account, ends_within_a_line(session));
        stderr.complete();
        let heard = stderr.join(requests, &mut hurried).await;
        crate::log::directly();
        (summary, heard)
    }
}

/// Whether two descriptors are one pipe, file or terminal. The child's stdout and stderr then share one spool, so that
/// the order in which it writes to them is kept.
pub fn same_file(one: impl AsFd, other: impl AsFd) -> bool {
    let file = |fd: &dyn AsFd| -> io::Result<(u64, u64, u64)> {
        let file = File::from(fd.as_fd().try_clone_to_owned()?).metadata()?;
        Ok((file.dev(), file.ino(), file.rdev()))
    };
    matches!((file(&one), file(&other)), (Ok(one), Ok(other)) if one == other)
}

/// Says what happened, to the CI in its own language. `within_a_line`: whether the child's last line may have no end.
pub fn announce(plan: &Plan, session: &SessionDir, account: &Account, within_a_line: bool) -> Summary {
    let summary = Summary::of(account);
    // Where the session was removed meanwhile, the guard around this one cannot know what there is to say.
    if plan.is_left_to_outer() && is_accounted_for(session) {
        return summary;
    }
    crate::log::mute(false);
    let (before, after) = plan.publisher.around(&summary, Timestamp::now());
    // What is for the CI is understood at the beginning of a line only.
    if within_a_line && !(before.is_empty() && after.is_empty()) {
        crate::log::raw("\n".to_owned());
    }
    crate::log::raw(before);
    account.say();
    crate::log::raw(after);
    summary
}

/// Shows the rest of the output of Terraforms whose guards could not pass it on, because what called them died or killed them.
fn show_the_rest_of_guards(session: &SessionDir, stderr: &Relay) {
    for inner in session.inner() {
        show_the_rest_of_guards(&inner, stderr);
        let Ok(journal) = Journal::read(&inner) else { continue };
        if journal.front.is_some_and(ProcessId::is_alive) {
            continue;
        }
        let spools = spools(&inner).into_iter().flatten();
        let rest: String = spools.filter_map(|spool| spool.rest(MOST_OF_A_REST)).collect();
        if !rest.trim().is_empty() {
            let (program, directory) = (&journal.account.program, journal.account.directory.display());
            stderr.say(format!("tfguard: {program} in {directory} went on to say:\n{}\n", rest.trim_end()));
        }
    }
}

/// Whether the last line of one of the child's streams has no end.
fn ends_within_a_line(session: &SessionDir) -> bool {
    let is_torn = |file| files::ends_within_a_line(&session.open_file(file).ok()?).ok();
    [SessionFile::Stdout, SessionFile::Stderr].into_iter().any(|file| is_torn(file) == Some(true))
}
