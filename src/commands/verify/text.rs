//! The result in words.

use std::fmt::Write as _;

use super::Fixed;
use crate::commands::output::{printable_command, printable_whole};
use crate::commands::printable;
use crate::verify::{Fix, Judgement, Seen, Site, Step, StoredDigest, Verdict, describe, is_at_odds};

/// All of it. Whatever comes from the state or the lock is made fit for a terminal.
pub(super) fn text(seen: &Seen, judgement: &Judgement, steps: &[Step], site: &Site) -> String {
    let mut text = format!("state s3://{}/{} ({}): ", printable(&site.bucket), printable(&site.key), site.region);
    text += match judgement.verdict {
        Verdict::Whole if seen.object.is_none() => "not there yet",
        Verdict::Whole => "whole",
        Verdict::BeingWritten => "being written just now",
        Verdict::NeedsALook => "NEEDS A LOOK",
        Verdict::Unknown => "cannot be judged",
    };
    text += "\n";
    if let Some(object) = &seen.object {
        let _ = writeln!(text, "  {}", printable(&describe(object)));
    }
    let table = site.table.as_deref().map(|table| format!(" in table {}", printable(table))).unwrap_or_default();
    let digest = match &seen.digest {
        StoredDigest::NotKept => "not looked at, since no lock table is named".to_owned(),
        StoredDigest::Absent => format!("none{table}"),
        StoredDigest::Malformed => format!("no MD5{table}"),
        StoredDigest::Md5(md5) if is_at_odds(seen.object.as_ref(), Some(md5)) => {
            format!("{md5}{table} is not that of the state")
        }
        StoredDigest::Md5(_) => format!("fits{table}"),
    };
    let _ = writeln!(text, "  digest: {digest}");
    for note in &judgement.notes {
        let _ = writeln!(text, "  note: {}", printable(&note.to_string()));
    }
    if !judgement.findings.is_empty() {
        text += "\nWhat is wrong:\n";
    }
    for (number, finding) in judgement.findings.iter().enumerate() {
        let _ = writeln!(text, "  {}. {}", number + 1, printable_whole(&finding.to_string()));
    }
    if !steps.is_empty() {
        text += "\nWhat to do, in this order:\n";
    }
    for (number, step) in steps.iter().enumerate() {
        let _ = writeln!(text, "  {}. {}", number + 1, printable_whole(&step.say));
        if let Some(command) = &step.run {
            let _ = writeln!(text, "       {}", printable_command(command));
        }
    }
    text
}

/// What is to be replaced.
pub(super) fn old(fix: &Fix) -> &str {
    match &fix.old {
        StoredDigest::Md5(md5) => md5.as_str(),
        StoredDigest::Malformed => "(no MD5)",
        StoredDigest::Absent | StoredDigest::NotKept => "(none)",
    }
}

/// What is about to be written.
pub(super) fn fix(fix: &Fix, site: &Site) -> String {
    format!(
        "\nThe digest of {}/{} in table {}:\n  now: {}\n  to be written: {}, the MD5 of the state that is there now\n\
         This is right if that state is the one you want, as shown above. It is wrong where the store may still serve an \
         older object (a cache or a replica may, AWS's S3 does not): then wait, and look again.\n",
        printable(&site.bucket),
        printable(&site.key),
        printable(site.table.as_deref().unwrap_or_default()),
        old(fix),
        fix.new,
    )
}

/// What came of it.
pub(super) fn fixed(fixed: &Fixed, table: Option<&str>) -> String {
    let table = printable(table.unwrap_or_default());
    match fixed {
        Fixed::Written(fix) => format!("\nDigest {} is written to table {table}. Looked again:\n\n", fix.new),
        Fixed::DryRun(_) => "\nNothing was written (--dry-run).\n".to_owned(),
        Fixed::Declined { why, .. } => format!("\nNothing was written: {why}.\n"),
        Fixed::Changed(_) => {
            "\nNothing was written: state, digest or lock have changed meanwhile. Look again.\n".to_owned()
        }
        Fixed::Refused { why } => format!("\nNo digest can be written: {}.\n", printable(why)),
        Fixed::NotNeeded => "\nThe digest fits, nothing was written.\n".to_owned(),
    }
}
