//! What became of one lock or state, in a sentence for people and a word for programs.

use jiff::Timestamp;

use crate::model::{Fate, OtherLock, OtherOutcome, Product, RefusedLock, StateAccount, Unsaved};
use crate::text::{ago, printable, printable_whole};

/// What became of a lock, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its ID, if it is known. A stranger may have written it.
    pub id: Option<String>,
    /// Its state: `bucket/key`, or the backend where it is not in S3.
    pub state: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The same in one line.
    pub line: String,
    /// What else is known, a line for each thing.
    pub details: Vec<String>,
    /// What somebody has to do now.
    pub next: Option<String>,
}

impl Finding {
    /// What became of something that has no ID, where there is nothing to do.
    pub fn new(state: String, outcome: Outcome, line: String) -> Self {
        Self { id: None, state, outcome, line, details: Vec::new(), next: None }
    }
}

/// What became of a lock, from what troubles nobody to what somebody has to see to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is not there: nobody had it, or it was released as its holder died.
    Gone,
    /// Terraform released it.
    Unlocked,
    /// It is somebody else's, and stays.
    Foreign,
    /// Terraform left it, tfguard released it.
    Released,
    /// Left on purpose.
    Kept,
    /// Somebody took it away while Terraform was at work.
    TakenAway,
    /// No lock: the state needs a look.
    NeedsALook,
    /// Nobody could see whether it was left.
    Unknown,
    /// It may be there, against tfguard's intention.
    Left,
}

impl Outcome {
    /// The word for programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Unlocked => "unlocked",
            Self::Foreign => "foreign",
            Self::Released => "released",
            Self::Kept => "kept",
            Self::TakenAway => "taken-away",
            Self::NeedsALook => "needs-a-look",
            Self::Unknown => "unknown",
            Self::Left => "left",
        }
    }
}

/// What there is to say of a state.
impl StateAccount {
    /// What there is to say of it, if it needs a look.
    pub(crate) fn finding(&self) -> Option<Finding> {
        let (first, more) = self.findings.split_first()?;
        let more = match more.len() {
            0 => String::new(),
            1 => " (and one more thing)".to_owned(),
            count => format!(" (and {count} more things)"),
        };
        let state = format!("{}/{}", self.bucket, self.state_key);
        let line = format!("state s3://{state} needs a look: {first}{more}");
        let next = Some(format!("before anything else is run on this state, {}", self.next));
        Some(Finding { next, ..Finding::new(state, Outcome::NeedsALook, line) })
    }
}

/// So many resources are named one by one where everything is told in short.
const NAMED: usize = 10;

/// What there is to say of what Terraform did and did not save.
impl Unsaved {
    /// `verify`: the command that looks at the state, and where to run it.
    pub(crate) fn finding(&self, verify: &str, product: Product) -> Finding {
        let program = product.program();
        let count = |is: Fate| self.resources.iter().filter(|resource| resource.is == is).count();
        let [made, may_exist, destroyed] =
            [count(Fate::Made) + count(Fate::Replaced), count(Fate::MayExist), count(Fate::Destroyed)];
        let state = self.state.as_ref().map_or_else(|| "the state".to_owned(), |state| format!("state s3://{state}"));
        let some = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        let told = [some(made, "made"), some(may_exist, "that may exist"), some(self.left_out, "more")];
        let told = told.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let is_urgent = self.needs_a_look();
        let product = product.name();
        let mut line = match (is_urgent, made + self.left_out) {
            (true, 0) => format!("{state} may lack resources that {product} was making: {told}"),
            (true, _) if !self.compared => format!("{state} may lack resources that {product} made: {told}"),
            (true, _) => format!("{state} lacks resources that {product} made: {told}"),
            (false, _) => format!("{state}: no resource is known that it lacks"),
        };
        if destroyed > 0 {
            line += &format!("; {destroyed} destroyed and still in it, which a plan finds out");
        }
        for what in &self.unseen {
            line += &format!("; NOT known: {what}");
        }
        let lines: Vec<_> = self.lines().collect();
        let mut details: Vec<_> = lines.iter().take(NAMED).map(|line| printable(line)).collect();
        details.extend(some(lines.len().saturating_sub(NAMED), "more: see the report"));
        let what = if made > 0 { "to import what was made" } else { "look whether it exists, and if so, to import it" };
        let next = match &self.state {
            Some(_) => format!(
                "{what}, {verify} --imports > recovered.tf && {program} plan (in a cleanup step: tfguard release \
                 --imports; elsewhere: --from the file of --report)"
            ),
            // `verify` has nothing to compare with.
            None => format!("{what}, tfguard release --imports > recovered.tf && {program} plan"),
        };
        let outcome = if is_urgent { Outcome::NeedsALook } else { Outcome::Gone };
        let finding = Finding::new(self.state.clone().unwrap_or_default(), outcome, printable_whole(&line));
        Finding { details, next: is_urgent.then_some(next), ..finding }
    }

    /// A line for each resource that the state lacks.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.resources.iter().filter(|resource| resource.is != Fate::Destroyed).map(ToString::to_string)
    }
}

/// What there is to say of a lock that nobody logged.
impl OtherLock {
    pub(crate) fn finding(&self) -> Finding {
        let line = match &self.holder {
            // A stranger may have written it.
            Some(holder) => {
                let [id, operation, who, created] = [&holder.id, &holder.operation, &holder.who, &holder.created]
                    .map(|text| text.chars().take(128).collect::<String>().escape_debug().to_string());
                // Only the ID was shown.
                let by =
                    if who.is_empty() { String::new() } else { format!(" ({operation}) by {who} since {created}") };
                format!("lock {id}{by}, backend {}: ", self.backend)
            }
            None => format!("lock of the state, backend {}: ", self.backend),
        };
        let (outcome, what) = match &self.outcome {
            OtherOutcome::Free => (Outcome::Gone, "nobody has it".to_owned()),
            OtherOutcome::Released => {
                (Outcome::Released, "left by this run, as all that it says shows, and released by tfguard".to_owned())
            }
            OtherOutcome::Gone => (Outcome::Gone, "not there any more".to_owned()),
            OtherOutcome::Foreign { why } => (Outcome::Foreign, format!("somebody else's, not touched: {why}")),
            OtherOutcome::Kept => (Outcome::Kept, "left in place, as --on-death says".to_owned()),
            OtherOutcome::Left { why } => (Outcome::Left, format!("NOT released: {why}")),
            OtherOutcome::Unknown { why, .. } => {
                (Outcome::Unknown, format!("NOT known whether this run left it: {why}"))
            }
        };
        let id = self.holder.as_ref().map(|holder| holder.id.clone());
        Finding { id, next: self.next(), ..Finding::new(format!("backend {}", self.backend), outcome, line + &what) }
    }

    /// The next step, if there is one.
    fn next(&self) -> Option<String> {
        // The unlock of this backend names no lock (OpenTofu's does since 1.10).
        let opens_any = if self.backend == "http" { " (it opens whatever lock is there then)" } else { "" };
        let sure = "once you are sure that this is the lock of this run and that nothing of it is alive";
        match &self.command {
            Some(command) => Some(format!("{sure}, run: {command}{opens_any}")),
            None if self.is_left() => {
                let (terraform, place) = match &self.terraform {
                    Some(terraform) => (terraform.as_str(), ""),
                    None => ("terraform", " in its directory"),
                };
                Some(format!(
                    "run `{terraform} plan`{place}; if the lock is refused, {sure}, run: {terraform} force-unlock \
                     <the ID it shows>{opens_any}"
                ))
            }
            None => None,
        }
    }
}

/// What there is to say of the lock that Terraform was refused.
impl RefusedLock {
    /// A stranger may have written the lock and the record.
    pub(crate) fn finding(&self) -> Finding {
        let holder = self.holder.as_ref().map(|holder| printable(&format!("held by {holder}")));
        Finding {
            id: Some(self.id.clone()),
            state: self.lock.as_ref().map(|lock| lock.path.clone()).unwrap_or_default(),
            outcome: Outcome::Foreign,
            line: self.lock_line(),
            details: holder.into_iter().chain((!self.free).then(|| printable(&self.verdict.to_string()))).collect(),
            next: Some(printable_whole(&self.next)),
        }
    }

    fn lock_line(&self) -> String {
        let shown = |text: &str| printable(&text.chars().take(200).collect::<String>());
        let Some(lock) = &self.lock else {
            return format!("the state is locked: lock {}; its holder could not be read", shown(&self.id));
        };
        let since = lock.created.parse::<Timestamp>();
        let since = since.map_or_else(|_| shown(&lock.created), |created| ago(created, self.at));
        format!(
            "the state {} {} locked by {} since {since} for {} (version {}): lock {}",
            shown(&lock.path),
            if self.free { "was" } else { "is" },
            shown(&lock.who),
            operation(&shown(&lock.operation)),
            shown(&lock.version),
            shown(&self.id)
        )
    }
}

/// What the holder of a lock does, in a word: Terraform's `OperationTypeApply`
/// (`internal/backend/backendrun/operationtype_string.go`) is `apply`.
pub fn operation(operation: &str) -> String {
    operation.strip_prefix("OperationType").map_or_else(|| operation.to_owned(), str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UnsavedResource;

    #[test]
    fn what_was_not_compared_is_not_said_to_lack() {
        let resources = vec![UnsavedResource::new("a.b", Fate::Made)];
        for (state, compared, says, next) in [
            (Some("b/k"), true, "state s3://b/k lacks resources that", "look --imports > recovered.tf"),
            (Some("b/k"), false, "state s3://b/k may lack resources that", "look --imports > recovered.tf"),
            (None, false, "the state may lack resources that", "to import what was made, tfguard release --imports"),
        ] {
            let state = state.map(str::to_owned);
            let unsaved = Unsaved { state, compared, resources: resources.clone(), ..Unsaved::default() };
            let finding = unsaved.finding("look", Product::Terraform);
            assert!(finding.line.starts_with(says), "{finding:?}");
            assert!(finding.next.as_ref().unwrap().contains(next), "{finding:?}");
        }
    }
}
