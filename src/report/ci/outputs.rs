//! What programs want to know of a run: names and values.

use serde_json::{Value, json};

use crate::report::ci::summary::Summary;
use crate::report::finding::{Finding, Outcome};

/// The values that later steps and jobs can use.
#[derive(Debug, PartialEq, Eq)]
pub struct Outputs<'a> {
    /// What became of the lock, or the state, that fared worst; `none` if there was none.
    pub outcome: &'static str,
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
            |finding: &&Finding| json!({ "id": finding.id, "state": finding.state, "outcome": finding.outcome.name() });
        Self {
            outcome: worst.map_or("none", Outcome::name),
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
