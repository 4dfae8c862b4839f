//! Variables for later jobs, in the format of `artifacts:reports:dotenv` of GitLab.

use crate::report::ci::outputs::Outputs;
use crate::report::ci::summary::Summary;

/// The file. GitLab wants one `NAME=value` a line, none empty, and expands `$` in a value that a later job uses
/// (gitlab, `app/services/ci/parse_dotenv_artifact_service.rb`); shells that source it take much more for commands. So
/// what is no letter, digit or harmless mark becomes `_`.
pub fn variables(summaries: &[Summary]) -> String {
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
