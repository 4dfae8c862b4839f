//! What there is to say of a state: that it needs a look, and what it lacks of what Terraform did.

use crate::model::{Fate, Product, StateAccount, Unsaved};
use crate::report::finding::{Finding, Outcome};
use crate::text::{printable, printable_whole};

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
