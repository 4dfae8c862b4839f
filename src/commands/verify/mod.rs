//! `tfguard verify`: is the state whole, and what to do if not. With `--fix-digest`, the one writer of digests.

mod text;

use serde::Serialize;

use super::inspect::Format;
use super::output::to_json;
use super::{Answer, Failure, State, Target, block_on, confirm, print};
use crate::backend::{InitRecord, Surroundings};
use crate::command::Flavour;
use crate::exit;
use crate::holder::{Machine, Recorded};
use crate::lock::{LockInfo, StoreError};
use crate::verify::{
    Expected, Fix, Format as StateFormat, Judgement, Look, Looker, PATIENCE, Refusal, Seen, Site, Step, Verdict,
    Written, errored, fix, steps,
};

/// The options of `tfguard verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,

    /// The lineage that the state must have
    #[arg(long, env = "TFGUARD_LINEAGE", value_name = "LINEAGE", help_heading = "Expected")]
    pub lineage: Option<String>,

    /// A serial that the state had before, so that it must have this one or a higher one now
    #[arg(long, env = "TFGUARD_SERIAL", value_name = "NUMBER", help_heading = "Expected")]
    pub serial: Option<u64>,

    /// Write the digest of the state into the lock table, in place of the one that is shown
    #[arg(long, env = "TFGUARD_FIX_DIGEST", help_heading = "Repair")]
    pub fix_digest: bool,

    /// Write it without asking
    #[arg(long, env = "TFGUARD_YES", help_heading = "Repair")]
    pub yes: bool,

    /// Only show what would be written
    #[arg(long, env = "TFGUARD_DRY_RUN", help_heading = "Repair")]
    pub dry_run: bool,

    /// How the result looks
    #[arg(long, env = "TFGUARD_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub format: Format,
}

/// What is said of a state. Documented in `docs/verify.md`.
#[derive(Debug, Serialize)]
struct Said<'a> {
    /// Version of this format.
    schema: u32,
    exit_code: u8,
    #[serde(flatten)]
    judgement: &'a Judgement,
    bucket: &'a str,
    key: &'a str,
    region: &'a str,
    #[serde(flatten)]
    seen: &'a Seen,
    /// The findings and notes in words.
    text: Vec<String>,
    steps: &'a [Step],
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a Fixed>,
}

/// What became of `--fix-digest`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
enum Fixed {
    /// It is written.
    Written(Fix),
    /// It would be written.
    DryRun(Fix),
    /// The person said no, or nobody was there to be asked.
    Declined {
        #[serde(flatten)]
        fix: Fix,
        why: &'static str,
    },
    /// Something was changed since it was shown; nothing was written.
    Changed(Fix),
    /// It may not be written.
    Refused { why: String },
    /// It fits already.
    NotNeeded,
}

/// Looks, and repairs the digest if that is asked for; gives tfguard's exit code.
///
/// # Errors
/// When the state is not known, or could not be looked at.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        let state = args.target.state().await?;
        let verify = Verify::new(args, state);
        verify.run().await
    })
}

struct Verify<'a> {
    args: &'a Args,
    state: State,
    looker: Looker,
    expected: Expected,
    machine: Machine,
    opentofu: bool,
}

impl<'a> Verify<'a> {
    fn new(args: &'a Args, state: State) -> Self {
        let halves = state.halves().into_iter().map(|half| (half.place, half.expected));
        let looker = Looker::new(&state.clients, &state.backend, &state.key, halves);
        let expected = Expected { lineage: args.lineage.clone(), serial: args.serial };
        let opentofu = state.dir.as_ref().is_some_and(|dir| {
            let env = std::env::vars_os().collect();
            let record = InitRecord::read(&Surroundings { dir: dir.clone(), env });
            Flavour::decide("".as_ref(), &std::collections::HashMap::new(), record.as_ref()) == Flavour::OpenTofu
        });
        let machine = Machine::here(|name| std::env::var_os(name));
        Self { args, state, looker, expected, machine, opentofu }
    }

    async fn run(&self) -> Result<u8, Failure> {
        let (mut look, mut judgement) = self.look().await?;
        let mut fixed = None;
        if self.args.fix_digest {
            if self.args.format == Format::Text {
                print(&self.text(&look.seen, &judgement))?;
            }
            let outcome = self.fix(&look).await?;
            // Before anything else can fail.
            if self.args.format == Format::Text {
                print(&text::fixed(&outcome, self.site(&look.seen).table.as_deref()))?;
            }
            if matches!(outcome, Fixed::Written(_)) {
                (look, judgement) = self.look().await?;
            }
            fixed = Some(outcome);
        }
        let written = matches!(fixed, Some(Fixed::Written(_)));
        let code = exit_code(&judgement, fixed.as_ref());
        match self.args.format {
            Format::Text if fixed.is_none() || written => print(&self.text(&look.seen, &judgement))?,
            Format::Text => {}
            Format::Json => {
                let said = self.json(&look.seen, &judgement, fixed.as_ref(), code);
                print(&(said.map_err(Failure::Output)? + "\n"))?;
            }
        }
        Ok(code)
    }

    async fn look(&self) -> Result<(Look, Judgement), Failure> {
        let mut look = self
            .looker
            .look(PATIENCE, |info, recorded| self.is_dead(info, recorded))
            .await
            .map_err(|error| self.failed(error))?;
        look.seen.errored = self.args.target.dir(&self.state).and_then(|dir| errored(&dir, None));
        let judgement = self.looker.judge(&mut look.seen, &self.expected).await;
        Ok((look, judgement))
    }

    fn is_dead(&self, info: &LockInfo, recorded: &Recorded) -> bool {
        self.machine.judge(info, recorded).verdict.is_dead()
    }

    fn failed(&self, error: StoreError) -> Failure {
        Failure::NotLookedAt { state: self.name(), error }
    }

    fn name(&self) -> String {
        format!("s3://{}", self.state.lock_id())
    }

    /// Writes the digest, if everything still is as it was when it was shown.
    async fn fix(&self, shown: &Look) -> Result<Fixed, Failure> {
        let (store, fix) = match (self.looker.digest(), self.decide(shown).await?) {
            (_, Err(refusal)) => return Ok(Fixed::Refused { why: refusal.to_string() }),
            (None, _) => return Ok(Fixed::Refused { why: Refusal::NotKept.to_string() }),
            (_, Ok(None)) => return Ok(Fixed::NotNeeded),
            (Some(store), Ok(Some(fix))) => (store, fix),
        };
        if self.args.format == Format::Text {
            print(&text::fix(&fix, &self.site(&shown.seen)))?;
        }
        if self.args.dry_run {
            return Ok(Fixed::DryRun(fix));
        }
        if !self.args.yes {
            let question = format!("Write digest {} in place of {}?", fix.new, text::old(&fix));
            match confirm(&question) {
                Answer::Yes => {}
                Answer::No => return Ok(Fixed::Declined { fix, why: "it was not confirmed" }),
                Answer::NobodyThere => {
                    let why = "there is no terminal to ask on; give --yes to write it without being asked";
                    return Ok(Fixed::Declined { fix, why });
                }
            }
        }
        // The answer may have taken its time.
        let now = self.looker.look(std::time::Duration::ZERO, |info, recorded| self.is_dead(info, recorded)).await;
        let now = now.map_err(|error| self.failed(error))?;
        let (Ok(Some(still)), Some(item)) = (self.decide(&now).await?, &now.digest) else {
            return Ok(Fixed::Changed(fix));
        };
        if still != fix {
            return Ok(Fixed::Changed(fix));
        }
        Ok(
            match store
                .replace(item, &fix.new)
                .await
                .map_err(|error| Failure::NotWritten { state: self.name(), error })?
            {
                Written::Done => Fixed::Written(fix),
                Written::Changed => Fixed::Changed(fix),
            },
        )
    }

    /// Any lock stands in the way here, be its holder dead or alive.
    async fn decide(&self, look: &Look) -> Result<Result<Option<Fix>, Refusal>, Failure> {
        let lock = self.looker.lock(|_, _| false).await.map_err(|error| self.failed(error))?;
        Ok(fix(&look.seen, &self.expected, lock.as_ref()))
    }

    fn site(&self, seen: &Seen) -> Site {
        let encrypted = seen
            .object
            .as_ref()
            .and_then(|object| object.content.as_ref().ok())
            .is_some_and(|content| content.format == StateFormat::Encrypted);
        let program = if self.opentofu || encrypted { "tofu" } else { "terraform" };
        let terraform = self.args.target.terraform(&self.state, program);
        Site::new(&self.state.backend, &self.state.key, program, terraform, self.command())
    }

    /// This command, less what is done only once.
    fn command(&self) -> String {
        let serial = self.expected.serial.map(|serial| serial.to_string());
        let mut words = vec!["verify"];
        words.extend(self.expected.lineage.iter().flat_map(|lineage| ["--lineage", lineage]));
        words.extend(serial.iter().flat_map(|serial| ["--serial", serial]));
        self.args.target.command(&self.state, &words)
    }

    fn text(&self, seen: &Seen, judgement: &Judgement) -> String {
        let site = self.site(seen);
        text::text(seen, judgement, &steps(seen, judgement, &self.expected, &site), &site)
    }

    fn json(&self, seen: &Seen, judgement: &Judgement, fixed: Option<&Fixed>, code: u8) -> std::io::Result<String> {
        let findings = judgement.findings.iter().map(ToString::to_string);
        let said = Said {
            schema: 1,
            exit_code: code,
            judgement,
            bucket: self.state.bucket(),
            key: &self.state.key,
            region: self.state.backend.region(),
            seen,
            text: findings.chain(judgement.notes.iter().map(ToString::to_string)).collect(),
            steps: &steps(seen, judgement, &self.expected, &self.site(seen)),
            fix: fixed,
        };
        to_json(&said)
    }
}

fn exit_code(judgement: &Judgement, fixed: Option<&Fixed>) -> u8 {
    let undone = matches!(fixed, Some(Fixed::Declined { .. } | Fixed::Changed(_) | Fixed::Refused { .. }));
    match judgement.verdict {
        _ if undone => exit::STATE_NEEDS_A_LOOK,
        Verdict::Whole | Verdict::BeingWritten => 0,
        Verdict::NeedsALook => exit::STATE_NEEDS_A_LOOK,
        Verdict::Unknown => exit::TFGUARD_FAILED,
    }
}
