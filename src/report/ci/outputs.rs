//! What programs want to know of a run: names and values.

use serde::Serialize;

use super::Summary;
use crate::report::{Finding, Outcome};

/// The values that later steps and jobs can use.
#[derive(Debug, PartialEq, Eq)]
pub struct Outputs<'a> {
    /// What became of the lock, or the state, that fared worst; `none` if there was none.
    pub outcome: &'static str,
    /// Whether somebody has to do something about a lock.
    pub lock_left: bool,
    /// The ID of the run's own lock that fared worst, as far as one is known; empty if none is.
    pub lock_id: &'a str,
    /// Those of all of its own.
    pub lock_ids: Vec<&'a str>,
    /// Every lock.
    pub locks: Vec<Lock<'a>>,
}

/// One lock.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Lock<'a> {
    pub id: Option<&'a str>,
    pub state: &'a str,
    pub outcome: &'static str,
}

impl<'a> Outputs<'a> {
    /// Of some runs as of one.
    pub fn of(summaries: &'a [Summary]) -> Self {
        let mut findings: Vec<&Finding> = summaries.iter().flat_map(|summary| &summary.findings).collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.outcome));
        let worst = findings.first().map(|finding| finding.outcome);
        Self {
            outcome: worst.map_or("none", Outcome::name),
            lock_left: worst == Some(Outcome::Left),
            lock_id: findings.iter().find_map(|finding| own_id(finding)).unwrap_or_default(),
            lock_ids: findings.iter().filter_map(|finding| own_id(finding)).collect(),
            locks: findings
                .iter()
                .filter(|finding| finding.outcome != Outcome::NeedsALook)
                .map(|finding| Lock {
                    id: finding.id.as_deref(),
                    state: &finding.state,
                    outcome: finding.outcome.name(),
                })
                .collect(),
        }
    }

    /// Every lock, also somebody else's that was in the way, as JSON in one line.
    pub fn locks_json(&self) -> String {
        serde_json::to_string(&self.locks).unwrap_or_default()
    }
}

/// A script may be about to remove the lock that it is told: never somebody else's.
fn own_id(finding: &Finding) -> Option<&str> {
    finding.id.as_deref().filter(|_| finding.outcome != Outcome::Foreign)
}
