//! What supervising needs to know of a run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::aws::Surroundings;
use crate::machine::Terms;
use crate::machine::lease::Times;
use crate::model::{Account, Environment, Product, product};
use crate::observe::Expectations;
use crate::run::options::LockOptions;
use crate::run::plan::{Plan, patience_for};
use crate::session::{Journal, SessionDir, passed_since};
use crate::terraform;
use crate::terraform::{Flavour, InitRecord};

/// Everything that supervising needs to know of the run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The command. Empty where the run was begun by another process, whose child may be any.
    pub command: Vec<OsString>,
    /// The directory that it runs in.
    pub directory: PathBuf,
    /// The environment of the command, but for what is added.
    pub env: Environment,
    /// What the guards below this one are told, as variables.
    pub inherited: Vec<(OsString, OsString)>,
    /// Its session.
    pub session: SessionDir,
    /// The machine's times.
    pub terms: Terms,
    /// What was asked for about its locks. Of their leases, `lease` has what came of it.
    pub locks: LockOptions,
    /// What the command is.
    pub flavour: Flavour,
    /// The times of its locks' leases, if they have any.
    pub(crate) lease: Option<Times>,
    /// When the session began; the machine's moments count from here.
    pub began: Instant,
    /// When a cleanup step has no more time.
    pub until: Option<Instant>,
}

impl Job {
    /// The job of a plan, as the journal of its run began.
    pub fn new(plan: &Plan, session: SessionDir, journal: &Journal) -> Self {
        // A supervisor that takes over counts from the same beginning.
        let passed = journal.began.map_or(Duration::ZERO, passed_since);
        let directory = std::env::current_dir().unwrap_or_default();
        Self {
            command: plan.command.clone(),
            env: plan.env.clone(),
            inherited: plan.options.inherited.clone(),
            session,
            terms: plan.terms.as_decided(&journal.account),
            locks: plan.options.locks.clone(),
            flavour: flavour(&plan.command, &directory, &plan.env),
            directory,
            lease: plan.lease,
            began: Instant::now().checked_sub(passed).unwrap_or_else(Instant::now),
            until: None,
        }
    }

    /// The job of a session whose supervisor is dead.
    #[must_use]
    pub fn of_journal(&self, session: &SessionDir, journal: &Journal) -> Self {
        let account = &journal.account;
        let on_death = journal.on_death.map_or(self.locks.on_death, |policy| policy.max(self.locks.on_death));
        Self {
            command: Vec::new(),
            inherited: Vec::new(),
            directory: account.directory.clone(),
            session: session.clone(),
            terms: Terms { deadline: None, patience: patience_for(&account.program), ..self.terms },
            locks: LockOptions { on_death, ..self.locks.clone() },
            lease: journal.lease.and_then(|length| Times::of(length).ok()),
            flavour: flavour(&[OsString::from(&account.program)], &account.directory, &self.env),
            began: Instant::now(),
            ..self.clone()
        }
    }

    /// The time that something may take: `longest`, or less where a cleanup step has less left beyond `reserve`.
    pub fn at_most(&self, longest: Duration, reserve: Duration) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(Instant::now()).saturating_sub(reserve);
        self.until.map_or(longest, |until| left(until).min(longest))
    }

    /// Whether the command is no Terraform: each that it starts by name has a guard of its own.
    pub fn runs_guards(&self) -> bool {
        !self.command.is_empty() && self.product().is_none()
    }

    /// Its arguments, without the program.
    pub fn arguments(&self) -> &[OsString] {
        self.command.get(1..).unwrap_or_default()
    }

    /// What the command is by its name; none for a script, and where no command is known.
    pub fn product(&self) -> Option<Product> {
        self.command.first().and_then(|program| product(program))
    }

    /// Where the child runs, as far as the command tells.
    pub fn surroundings(&self) -> Surroundings {
        Surroundings::of_command(&self.directory, self.arguments(), self.env.clone())
    }

    /// The beginning of a command line by which a person runs Terraform in the child's place.
    pub fn terraform(&self, program: &str, chdir: bool) -> String {
        let surroundings = self.surroundings();
        surroundings.terraform(program, &terraform::workspace(&surroundings), chdir)
    }
}

/// What a command that runs in `directory` is, by its name and by what `init` left there.
fn flavour(command: &[OsString], directory: &Path, env: &Environment) -> Flavour {
    let arguments = command.get(1..).unwrap_or_default();
    let record = InitRecord::of(&Surroundings::of_command(directory, arguments, env.clone()));
    let program = command.first().map(OsString::as_os_str).unwrap_or_default();
    Flavour::decide(program, record.as_ref())
}

/// What the records in the log of a session's child have to fit.
pub fn expectations(journal: &Journal) -> Expectations {
    Expectations { started: journal.account.started, nodename: journal.nodename.clone() }
}

/// Notes something that went wrong for tfguard, and says it if it is new.
pub fn trouble(account: &mut Account, what: String) {
    if !account.troubles.contains(&what) {
        tracing::warn!("{what}");
        account.troubles.push(what);
    }
}
