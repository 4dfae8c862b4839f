//! `tfguard verify`: is the state whole, and what to do if not. With `--fix-digest`, the one writer of digests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::judged::Unread;
use crate::commands::target::{State, Target};
use crate::commands::{Answer, Failure, Format, block_on, confirm, print, print_json};
use crate::exit;
use crate::files;
use crate::model::{Account, Environment, StateVerdict, Unsaved};
use crate::session::{Journal, Machine, SessionDir};
use crate::state::{
    Expected, Fix, Judgement, Look, Looker, PATIENCE, Seen, Site, Step, compare, describe, describe_digest, errored,
    fix, imports, step,
};
use crate::text::{printable, printable_command, printable_whole};

/// The options of `tfguard verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,

    /// Expect this lineage
    #[arg(long, value_name = "LINEAGE", help_heading = "Expected")]
    pub lineage: Option<String>,

    /// Expect this serial or a higher one
    ///
    /// Give a serial that the state had before.
    #[arg(long, value_name = "NUMBER", value_parser = serial, help_heading = "Expected")]
    pub serial: Option<u64>,

    /// Write the state's digest into the lock table
    ///
    /// It replaces the digest that is shown, once you have said yes.
    #[arg(long, help_heading = "Repair")]
    pub fix_digest: bool,

    /// Write it without asking
    #[arg(long, help_heading = "Repair")]
    pub yes: bool,

    /// Only show what would be written
    #[arg(long, help_heading = "Repair")]
    pub dry_run: bool,

    /// Print only import blocks for what the state lacks
    ///
    /// Print, and print nothing else on stdout, `import` blocks for what killed Terraforms had made and the state lacks, by
    /// the sessions of this machine.
    #[arg(long, conflicts_with = "fix_digest", help_heading = "Resources")]
    pub imports: bool,

    /// Take them from a run's report
    ///
    /// The file that `--report` of the run wrote, instead of the sessions of this machine.
    #[arg(long, value_name = "REPORT", requires = "imports", help_heading = "Resources")]
    pub from: Option<PathBuf>,

    /// Print text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = "Output")]
    pub format: Format,
}

fn serial(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "a serial is a whole number")
}

/// What became of `--fix-digest`.
#[derive(Serialize)]
struct Fixed {
    outcome: Outcome,
    #[serde(flatten)]
    fix: Option<Fix>,
    /// In words.
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Written,
    /// It would be written.
    DryRun,
    /// The person said no, or nobody was there to be asked.
    Declined,
    /// Something was changed since it was shown; nothing was written.
    Changed,
    /// It may not be written.
    Refused,
    /// It fits already.
    NotNeeded,
}

/// Looks, and repairs the digest if that is asked for; gives tfguard's exit code.
///
/// # Errors
/// When the state is not known, or could not be looked at.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        let state = match (args.target.state().await, &args.from) {
            (Ok(state), _) => state,
            // Where no state is to be compared with, the report is all there is.
            (Err(failure), Some(report)) => return print_uncompared(report)?.ok_or(failure.into()),
            (Err(failure), None) => return Err(failure.into()),
        };
        Verify::new(args, state).run().await
    })
}

/// The longest report that is read. A journal, whose account it is, is no longer.
const LONGEST_REPORT: u64 = 64 * 1024 * 1024;

fn read_report(path: &Path) -> Result<Account, Failure> {
    let read = files::read_path(path, LONGEST_REPORT).and_then(|text| Ok(serde_json::from_slice(&text)?));
    read.map_err(|error| Failure::Report { path: path.display().to_string(), error })
}

/// Prints what a report names of Terraforms whose state it does not name; gives tfguard's exit code. None where there is nothing.
fn print_uncompared(report: &Path) -> Result<Option<u8>, Failure> {
    let account = read_report(report)?;
    let unsaved: Vec<_> = account.all_unsaved().filter(|unsaved| unsaved.state.is_none()).collect();
    if !unsaved.iter().any(|unsaved| unsaved.needs_a_look()) {
        return Ok(None);
    }
    tracing::warn!("these are not compared with a state: what it has by now is among them");
    print(&imports(&unsaved))?;
    Ok(Some(0))
}

struct Verify<'a> {
    args: &'a Args,
    state: State,
    looker: Looker,
    expected: Expected,
    machine: Machine,
}

impl<'a> Verify<'a> {
    fn new(args: &'a Args, state: State) -> Self {
        let halves = state.halves().into_iter().map(|half| (half.place, half.expected));
        let looker = Looker::new(&state.clients, &state.key, halves);
        let expected = Expected { lineage: args.lineage.clone(), serial: args.serial };
        let machine = Machine::here(&Environment::own());
        Self { args, state, looker, expected, machine }
    }

    async fn run(&self) -> Result<u8, Failure> {
        let (mut look, mut judgement) = self.look().await?;
        if self.args.imports {
            return self.print_imports(&look.seen, &judgement);
        }
        let is_text = self.args.format == Format::Text;
        let mut fixed = None;
        if self.args.fix_digest {
            if is_text {
                print(&self.text(&look.seen, &judgement))?;
            }
            let outcome = self.fix(&look).await?;
            if is_text {
                // Before anything else can fail.
                print(&format!("\n{}\n", printable(&outcome.text)))?;
            }
            if outcome.outcome == Outcome::Written {
                (look, judgement) = self.look().await?;
            }
            fixed = Some(outcome);
        }
        let code = match (judgement.verdict, fixed.as_ref().map(|fixed| fixed.outcome)) {
            (_, Some(Outcome::Declined | Outcome::Changed | Outcome::Refused)) => exit::STATE_NEEDS_A_LOOK,
            (StateVerdict::Whole | StateVerdict::BeingWritten, _) => 0,
            (StateVerdict::NeedsALook, _) => exit::STATE_NEEDS_A_LOOK,
            (StateVerdict::Unknown, _) => exit::TFGUARD_FAILED,
        };
        if !is_text {
            print_json(&self.json(&look.seen, &judgement, fixed.as_ref(), code))?;
        } else if fixed.is_none_or(|fixed| fixed.outcome == Outcome::Written) {
            print(&self.text(&look.seen, &judgement))?;
        }
        Ok(code)
    }

    /// Prints the blocks for what the state lacks by now. What else is wrong with it is told on stderr.
    fn print_imports(&self, seen: &Seen, judgement: &Judgement) -> Result<u8, Failure> {
        let accounts = match &self.args.from {
            Some(path) => vec![read_report(path)?],
            None => SessionDir::all(&Environment::own())
                .iter()
                .filter_map(|session| Some(Journal::read(session).ok()?.account))
                .collect(),
        };
        let state = self.state.lock_id();
        let of_state = accounts.iter().flat_map(Account::all_unsaved).filter(|it| it.state.as_ref() == Some(&state));
        let mut unsaved: Vec<Unsaved> = of_state.cloned().collect();
        if unsaved.is_empty() {
            let printed = self.args.from.as_deref().map_or(Ok(None), print_uncompared)?;
            return printed.ok_or_else(|| Failure::NothingUnsaved { state: self.name() });
        }
        for unsaved in &mut unsaved {
            compare(unsaved, seen, false);
            for why in &unsaved.unseen {
                tracing::warn!("NOT known: {}", printable_whole(why));
            }
        }
        let lacks = unsaved.iter().any(Unsaved::needs_a_look);
        print(&imports(&unsaved.iter().collect::<Vec<_>>()))?;
        if !lacks {
            tracing::info!("{} has by now all that is known to have been made", printable(&self.name()));
        }
        for finding in &judgement.findings {
            let (state, finding) = (printable(&self.name()), printable_whole(&finding.to_string()));
            tracing::warn!("state {state} needs a look: {finding}");
        }
        Ok(if judgement.findings.is_empty() { 0 } else { exit::STATE_NEEDS_A_LOOK })
    }

    async fn look(&self) -> Result<(Look, Judgement), Failure> {
        let mut look = self.look_for(PATIENCE).await?;
        let judgement = self.looker.judge(&mut look.seen, &self.expected).await;
        Ok((look, judgement))
    }

    async fn look_for(&self, patience: Duration) -> Result<Look, Failure> {
        let errored = self.args.target.dir(&self.state).and_then(|dir| errored(&dir, None));
        let dead = |info: &_, recorded: &_| self.machine.judge(info, recorded).verdict.is_dead();
        let look = self.looker.look(patience, errored, self.args.fix_digest, dead).await;
        look.map_err(|error| Failure::NotRead(Unread { what: self.name(), error: Some(error) }))
    }

    fn name(&self) -> String {
        format!("s3://{}", self.state.lock_id())
    }

    /// Writes the digest, if everything still is as it was when it was shown.
    async fn fix(&self, shown: &Look) -> Result<Fixed, Failure> {
        let fix_of = |look: &Look| fix(&look.seen, &self.expected);
        let done = |outcome, fix, text: &str| Ok(Fixed { outcome, fix, text: text.to_owned() });
        let (store, fix) = match (self.looker.digest(), fix_of(shown)) {
            (_, Err(why)) => return done(Outcome::Refused, None, &format!("Nothing was written: {why}.")),
            (Some(store), Ok(Some(fix))) => (store, fix),
            _ => return done(Outcome::NotNeeded, None, "The digest fits, nothing was written."),
        };
        let old = fix.old.md5().unwrap_or("(no MD5)").to_owned();
        if self.args.format == Format::Text {
            print(&format!(
                "\nThe digest of {}{}:\n  now: {old}\n  to be written: {}, the MD5 of the state that is there now\n\
                 This is right if that state is the one you want, and wrong where the store may still serve an older \
                 object, as a cache may (AWS's S3 doesn't): then wait, and look again.\n",
                printable(&self.name()),
                self.in_table(),
                fix.new
            ))?;
        }
        if self.args.dry_run {
            return done(Outcome::DryRun, Some(fix), "Nothing was written (--dry-run).");
        }
        let asked =
            if self.args.yes { Answer::Yes } else { confirm(&format!("Write digest {} in place of {old}?", fix.new)) };
        let why = match asked {
            Answer::Yes => None,
            Answer::No => Some("Nothing was written: it was not confirmed."),
            Answer::NobodyThere => Some("Nothing was written: there is no terminal to ask on; give --yes."),
        };
        if let Some(why) = why {
            return done(Outcome::Declined, Some(fix), why);
        }
        // The answer may have taken its time.
        let now = self.look_for(Duration::ZERO).await?;
        let written = match &now.digest {
            Some(item) if fix_of(&now) == Ok(Some(fix.clone())) => store.replace(item, &fix.new).await,
            _ => Ok(false),
        };
        if written.map_err(|error| Failure::NotWritten { state: self.name(), error })? {
            let text = format!("Digest {} is written{}. Looked again:", fix.new, self.in_table());
            return done(Outcome::Written, Some(fix), &text);
        }
        let text = "Nothing was written: state, digest or lock have changed meanwhile. Look again.";
        done(Outcome::Changed, Some(fix), text)
    }

    fn in_table(&self) -> String {
        self.state.backend.table().map(|table| format!(" in table {}", printable(table))).unwrap_or_default()
    }

    /// What to do about each finding.
    fn steps(&self, seen: &Seen, judgement: &Judgement) -> Vec<Step> {
        let objects = [seen.object.as_ref(), seen.errored.as_ref().map(|errored| &errored.state)];
        let contents = objects.into_iter().flatten().filter_map(|object| object.content.as_ref().ok());
        let is_encrypted = contents.into_iter().any(|content| content.encrypted);
        let program = if is_encrypted { "tofu" } else { self.state.program().unwrap_or("terraform") };
        let serial = self.expected.serial.map(|serial| serial.to_string());
        let mut verify = vec!["verify"];
        verify.extend(self.expected.lineage.iter().flat_map(|lineage| ["--lineage", lineage]));
        verify.extend(serial.iter().flat_map(|serial| ["--serial", serial]));
        let site = Site {
            backend: &self.state.backend,
            key: &self.state.key,
            program,
            terraform: self.args.target.terraform(&self.state, program),
            verify: self.args.target.command(&self.state, &verify),
            unlock: self.args.target.command(&self.state, &["unlock"]),
        };
        judgement.findings.iter().map(|finding| step(finding, seen, &site)).collect()
    }

    /// All of it in words. Whatever comes from the state or the lock is made fit for a terminal.
    fn text(&self, seen: &Seen, judgement: &Judgement) -> String {
        let verdict = match judgement.verdict {
            StateVerdict::Whole if seen.object.is_none() => "not there yet",
            StateVerdict::Whole => "whole",
            StateVerdict::BeingWritten => "being written just now",
            StateVerdict::NeedsALook => "NEEDS A LOOK",
            StateVerdict::Unknown => "cannot be judged",
        };
        let mut text = format!("state {} ({}): {verdict}\n", printable(&self.name()), self.state.backend.region());
        if let Some(object) = &seen.object {
            let _ = writeln!(text, "  {}", printable(&describe(object)));
        }
        let digest = describe_digest(seen.object.as_ref(), &seen.digest);
        let digest = digest.unwrap_or_else(|| "not looked at, since no lock table is named".to_owned());
        let _ = writeln!(text, "  digest{}: {digest}", self.in_table());
        for note in &judgement.notes {
            let _ = writeln!(text, "  note: {}", printable_whole(note));
        }
        if !judgement.findings.is_empty() {
            text += "\nWhat is wrong, and what to do, in this order:\n";
        }
        let steps = self.steps(seen, judgement);
        for (number, (finding, Step { say, run })) in judgement.findings.iter().zip(steps).enumerate() {
            let _ = writeln!(text, "  {}. {}.", number + 1, printable_whole(&finding.to_string()));
            let _ = writeln!(text, "     To do: {}{}", printable_whole(&say), if run.is_some() { ":" } else { "." });
            if let Some(command) = run {
                let _ = writeln!(text, "       {}", printable_command(&command));
            }
        }
        text
    }

    /// Documented in `docs/verify.md`.
    fn json(&self, seen: &Seen, judgement: &Judgement, fixed: Option<&Fixed>, code: u8) -> Value {
        json!({
            "schema": 1,
            "exit_code": code,
            "verdict": judgement.verdict,
            "findings": judgement.findings,
            "text": judgement.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "steps": self.steps(seen, judgement),
            "notes": judgement.notes,
            "bucket": self.state.bucket(),
            "key": self.state.key,
            "region": self.state.backend.region(),
            "object": seen.object,
            "digest": seen.digest,
            "lock": seen.lock,
            "errored": seen.errored,
            "earlier": seen.earlier,
            "fix": fixed,
        })
    }
}
