//! What programs want to know of a run: names and values.

use serde_json::{Value, json};

use crate::report::ci::summary::Summary;
use crate::report::finding::{Finding, Outcome};

/// The values that later steps and jobs can use.
#[derive(Debug, PartialEq, Eq)]
pub struct Outputs<'a> {
    /// What became of the lock, or the state, that fared worst; `none` if there was none.
    pub outcome: String,
    /// Whether somebody has to do something about a lock.
    pub lock_left: bool,
    /// The IDs of the run's own locks, as far as they are known, worst first.
    pub lock_ids: Vec<&'a str>,
    /// Every lock, also somebody else's that was in the way: a list of objects with `id`, `state` and `outcome`.
    pub locks: Value,
}

impl<'a> Outputs<'a> {
    /// Of some runs as of one.
    pub fn of(summaries: &'a [Summary]) -> Self {
        let mut findings: Vec<&Finding> = summaries.iter().flat_map(|summary| &summary.findings).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.outcome));
        let worst = findings.first().map(|finding| finding.outcome);
        let locks = findings.iter().filter(|finding| finding.outcome != Outcome::NeedsALook);
        let describe =
            |finding: &&Finding| json!({ "id": finding.id, "state": finding.state, "outcome": finding.outcome });
        Self {
            outcome: worst.map_or_else(|| "none".to_owned(), |worst| worst.to_string()),
            lock_left: summaries.iter().any(|summary| summary.lock_left),
            // A script may be about to remove the lock that it is told: never somebody else's.
            lock_ids: findings
                .iter()
                .filter(|finding| finding.outcome != Outcome::Foreign)
                .filter_map(|finding| finding.id.as_deref())
                .collect(),
            locks: locks.map(describe).collect(),
        }
    }

    /// The ID of the run's own lock that fared worst; empty if none is known.
    pub fn lock_id(&self) -> &'a str {
        self.lock_ids.first().copied().unwrap_or_default()
    }
}

/// GitHub Actions: what is added to the file of `GITHUB_OUTPUT`. `delimiter` is a word that nobody could have guessed.
pub fn for_github(summaries: &[Summary], delimiter: &str) -> String {
    let outputs = Outputs::of(summaries);
    let values = [
        ("tfguard-outcome", outputs.outcome.clone()),
        ("tfguard-lock-left", outputs.lock_left.to_string()),
        ("tfguard-lock-id", outputs.lock_id().to_owned()),
        ("tfguard-locks", outputs.locks.to_string()),
    ];
    assignments(&values, delimiter)
}

/// Names and values in the form that every runner takes, with lines in the values.
pub fn assignments(values: &[(&str, String)], delimiter: &str) -> String {
    // If somebody could guess it all the same, it is not the one.
    let mut delimiter = delimiter.to_owned();
    while values.iter().any(|(_, value)| value.contains(&delimiter)) {
        delimiter.push('_');
    }
    // No empty line between them: act, and the runners that share its parser, refuse a file that has one.
    values.iter().map(|(name, value)| format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")).collect()
}

/// The file of `--dotenv`, for `artifacts:reports:dotenv` of GitLab. GitLab wants one `NAME=value` a line, none empty, and expands `$` in a value that a later job uses
/// (gitlab, `app/services/ci/parse_dotenv_artifact_service.rb`); shells that source it take much more for commands. So
/// what is no letter, digit or harmless mark becomes `_`.
pub fn dotenv(summaries: &[Summary]) -> String {
    let outputs = Outputs::of(summaries);
    let ids: Vec<_> = outputs.lock_ids.iter().take(20).map(|id| harmless(id)).collect();
    format!(
        "TFGUARD_RESULT_OUTCOME={}\nTFGUARD_RESULT_LOCK_LEFT={}\nTFGUARD_RESULT_LOCK_ID={}\nTFGUARD_RESULT_LOCK_IDS={}\n",
        outputs.outcome,
        outputs.lock_left,
        harmless(outputs.lock_id()),
        ids.join(",")
    )
}

fn harmless(text: &str) -> String {
    let mark = |char: char| if char.is_ascii_alphanumeric() || "-_.:/@".contains(char) { char } else { '_' };
    // GitLab takes files of five kilobytes.
    text.chars().take(128).map(mark).collect()
}
