//! A test report: each lock is a test, which fails if the lock is left, and each state that needs a look is one that fails.
//! For Jenkins, and whatever else shows such reports.

use std::fmt::Write as _;

use super::Summary;
use crate::report::Outcome;

/// The file.
pub fn suite(summaries: &[Summary]) -> String {
    let mut cases = String::new();
    let (mut tests, mut failures, mut skipped) = (0_usize, 0_usize, 0_usize);
    for summary in summaries {
        for finding in &summary.findings {
            let what = if finding.outcome == Outcome::NeedsALook { "state" } else { "state lock of" };
            let name = xml(&format!("{what} {}", finding.state));
            let _ = writeln!(cases, "    <testcase classname=\"tfguard\" name=\"{name}\">");
            let line = xml(&finding.line);
            let next = finding.next.as_ref().map(|next| xml(&format!("\nNext: {next}"))).unwrap_or_default();
            let _ = match finding.outcome {
                Outcome::Left | Outcome::NeedsALook => {
                    failures += 1;
                    let kind = if finding.outcome == Outcome::Left { "lock-left" } else { finding.outcome.name() };
                    writeln!(cases, "      <failure type=\"{kind}\" message=\"{line}\">{line}{next}</failure>")
                }
                Outcome::Kept => {
                    skipped += 1;
                    writeln!(cases, "      <skipped message=\"{line}\"/>")
                }
                _ => writeln!(cases, "      <system-out>{line}</system-out>"),
            };
            cases += "    </testcase>\n";
            tests += 1;
        }
        if summary.findings.is_empty() {
            let _ = writeln!(
                cases,
                "    <testcase classname=\"tfguard\" name=\"no state lock is left\">\n      \
                 <system-out>{}</system-out>\n    </testcase>",
                xml(&summary.ending)
            );
            tests += 1;
        }
    }
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\"");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"tfguard\" {counts}>\n  \
         <testsuite name=\"tfguard\" {counts}>\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

/// A text in XML. What cannot be written there at all is gone from a summary's texts already.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&apos;")
}
