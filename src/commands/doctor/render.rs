//! The findings for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::access::Tried;
use super::finding::{Finding, Severity};
use super::signals::Chain;
use crate::commands::printable;

/// The version of the JSON format.
const SCHEMA: u32 = 1;

/// All that the doctor found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    tfguard: &'static str,
    /// `<bucket>/<state key>`; none where no state in S3 was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The worst of the findings.
    pub worst: Severity,
    /// In the order of their areas.
    pub findings: Vec<Finding>,
    /// Each permission that was tried.
    pub permissions: Vec<Tried>,
    /// The processes around the doctor.
    pub processes: Chain,
}

impl Report {
    /// Puts findings in order.
    #[must_use]
    pub fn new(state: Option<String>, mut findings: Vec<Finding>, permissions: Vec<Tried>, processes: Chain) -> Self {
        findings.sort_by_key(|finding| finding.area);
        let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
        Self { schema: SCHEMA, tfguard: env!("CARGO_PKG_VERSION"), state, worst, findings, permissions, processes }
    }

    /// For people. What is not as bad as `least` is left out.
    #[must_use]
    pub fn text(&self, least: Severity) -> String {
        let mut text = String::new();
        let mut area = None;
        for finding in self.findings.iter().filter(|finding| finding.severity >= least) {
            if area != Some(finding.area) {
                area = Some(finding.area);
                let _ = writeln!(text, "{}", finding.area.title());
            }
            let _ = writeln!(text, "  {:8} {}", mark(finding.severity), printable(&finding.seen));
            for (name, words) in [("why", &finding.why), ("fix", &finding.fix)] {
                if let Some(words) = words {
                    let _ = writeln!(text, "           {name}: {}", printable(words));
                }
            }
        }
        let count = |severity| self.findings.iter().filter(|finding| finding.severity == severity).count();
        let of = |severity, one: &str| match count(severity) {
            1 => format!("1 {one}"),
            many => format!("{many} {one}s"),
        };
        let [problems, warnings, notes] =
            [(Severity::Problem, "problem"), (Severity::Warning, "warning"), (Severity::Note, "note")]
                .map(|(severity, one)| of(severity, one));
        let _ = writeln!(text, "{problems}, {warnings}, {notes}");
        text
    }
}

fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Note => "note",
        Severity::Warning => "WARNING",
        Severity::Problem => "PROBLEM",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Area;
    use crate::commands::doctor::signals::Stdout;

    #[test]
    fn people_see_what_and_why_and_how_in_order() {
        let chain = Chain { processes: Vec::new(), stdout: Stdout::Other, ignored: Vec::new(), contained: false };
        let findings = vec![
            Finding::problem(Area::Table, "b", "broken\u{1b}[2J").why("it matters").fix("mend it"),
            Finding::ok(Area::Signals, "a", "fine"),
        ];
        let report = Report::new(None, findings, Vec::new(), chain);
        assert_eq!(
            report.text(Severity::Ok),
            "Signals: what a cancel does here\n  ok       fine\nLock table\n  PROBLEM  broken\u{fffd}[2J\n           why: it matters\n           fix: mend it\n1 problem, 0 warnings, 0 notes\n"
        );
        assert!(!report.text(Severity::Warning).contains("fine"));
        assert_eq!(report.worst, Severity::Problem);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["findings"][1],
            serde_json::json!({"id":"b","area":"table","severity":"problem","seen":"broken\u{1b}[2J","why":"it matters","fix":"mend it"})
        );
    }
}
