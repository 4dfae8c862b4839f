//! Asking Terraform who holds the state, and having it unlock.

use std::time::Duration;

use crate::observe::{PrintedHolder, PrintedRefusal};
use crate::store::runner::{Answer, NoAnswer, Terraform};

/// The command that asks. `untaint` loads the backend (no provider, no variable), takes the lock, reads the state,
/// finds that the resource is not there, unlocks and ends, before the line that would write anything
/// (`internal/command/untaint.go`, Terraform 0.13 to 1.15 and OpenTofu alike). With `-allow-missing` that is a success,
/// so exit code 0 means that the lock was free.
const LOOK: [&str; 6] =
    ["untaint", "-no-color", "-lock=true", "-lock-timeout=0s", "-allow-missing", "tfguard_lock_probe.no_such_resource"];

/// The operation of the lock that it takes.
pub const OPERATION: &str = LOOK[0];

/// What an unlock that was followed by an answer leaves unanswered.
const RELEASE_FAILED: &str = "Error releasing the state lock";
/// `outputUnlockSuccess` in `internal/command/unlock.go`.
const UNLOCKED: &str = "has been successfully unlocked";

/// Who has the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nobody.
    Free,
    /// Somebody.
    Held(PrintedHolder),
    /// It cannot be said, for this reason.
    Unclear(String),
}

/// Looks who has the lock of the workspace's state.
pub async fn look(terraform: &Terraform, limit: Duration) -> Look {
    match terraform.run(&LOOK, limit).await {
        Ok(answer) => read_look(&answer),
        Err(error @ NoAnswer::NotStarted { .. }) => Look::Unclear(error.to_string()),
        Err(error @ NoAnswer::TimedOut { .. }) => {
            Look::Unclear(format!("{error}; if it had got the lock by then, there is one of operation `untaint` now"))
        }
    }
}

fn read_look(answer: &Answer) -> Look {
    let text = [answer.stderr.as_str(), &answer.stdout].join("\n");
    if text.contains(RELEASE_FAILED) {
        return Look::Unclear(format!("looking at it took the lock, and giving it back failed: {}", summary(&text)));
    }
    match PrintedRefusal::find(&text) {
        Some(PrintedRefusal { holder: Some(holder), .. }) => Look::Held(holder),
        Some(PrintedRefusal { reason, holder: None }) => Look::Unclear(summary(&reason)),
        None if answer.code == Some(0) => Look::Free,
        None => Look::Unclear(summary(&text)),
    }
}

/// Has Terraform unlock the state.
///
/// # Errors
/// When it did not, or did not say so.
pub async fn force_unlock(terraform: &Terraform, id: &str, limit: Duration) -> Result<(), String> {
    let answer =
        terraform.run(&["force-unlock", "-no-color", "-force", id], limit).await.map_err(|error| error.to_string())?;
    read_unlock(&answer)
}

fn read_unlock(answer: &Answer) -> Result<(), String> {
    // Both: a wrapper can end with 0 whatever happened, and a text can be another command's.
    if answer.code == Some(0) && answer.stdout.contains(UNLOCKED) {
        return Ok(());
    }
    Err(summary(&[answer.stderr.as_str(), &answer.stdout].join("\n")))
}

/// The first paragraphs of an error, in one line. An address is cut before its query, which can be a signature.
fn summary(text: &str) -> String {
    let words: Vec<&str> =
        text.split_whitespace().map(|word| if word.contains("://") { before_query(word) } else { word }).collect();
    let line: String = words.join(" ").chars().take(300).collect();
    if line.is_empty() { "Terraform did not say why".to_owned() } else { line.escape_debug().to_string() }
}

fn before_query(address: &str) -> &str {
    address.split_once('?').map_or(address, |(before, _)| before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, stdout: &str, stderr: &str) -> Answer {
        Answer { code: Some(code), stdout: stdout.into(), stderr: stderr.into() }
    }

    const REFUSED: &str = "\nError: Error acquiring the state lock\n\nError message: state blob is already locked\nLock Info:\n  ID:        4bb7d84c-f09d-7909-0219-02f6e8d9eeb4\n  Path:      states/prod\n  Operation: OperationTypeApply\n  Who:       root@vm\n  Version:   1.11.4\n  Created:   2026-11-20 04:11:22 +0000 UTC\n  Info:      \n\n\nTerraform acquires a state lock to protect the state from being written\n";

    #[test]
    fn a_look_is_free_only_by_exit_code_and_silence() {
        let missing = "\nWarning: No such resource instance\n\nResource instance tfguard_lock_probe.no_such_resource was not found, but this is\nnot an error because -allow-missing was set.\n";
        assert_eq!(read_look(&answer(0, missing, "")), Look::Free);
        assert!(matches!(read_look(&answer(1, missing, "")), Look::Unclear(_)));
        let unreleased = "\nError: Error releasing the state lock\n\nError message: no network\n";
        assert!(
            matches!(read_look(&answer(0, missing, unreleased)), Look::Unclear(why) if why.contains("giving it back failed"))
        );
    }

    #[test]
    fn a_refusal_names_the_holder() {
        let Look::Held(PrintedHolder::Known(info)) = read_look(&answer(1, "", REFUSED)) else { panic!() };
        assert_eq!((info.who.as_str(), info.created.as_str()), ("root@vm", "2026-11-20T04:11:22Z"));
    }

    #[test]
    fn a_signed_address_is_not_repeated() {
        for error in [
            "Error: GET \"https://a.blob.core.windows.net/c/k?sv=1&sig=hush\": 403",
            "Error: Error acquiring the state lock\n\nError message: https://x/?sig=hush denied",
        ] {
            let Look::Unclear(why) = read_look(&answer(1, "", error)) else { panic!() };
            assert!(!why.contains("hush") && why.contains("https://"), "{why}");
        }
    }

    #[test]
    fn an_error_of_another_kind_is_told() {
        for (text, words) in [
            (
                "\nError: Backend initialization required, please run \"terraform init\"\n\nReason: x\n",
                "Backend initialization required",
            ),
            (
                "\nError: Error acquiring the state lock\n\nError message: access denied\n\nTerraform acquires a state lock\n",
                "access denied",
            ),
            ("", "did not say why"),
        ] {
            assert!(matches!(read_look(&answer(1, "", text)), Look::Unclear(why) if why.contains(words)), "{text}");
        }
    }

    /// The answers of `force-unlock` on each backend, from `internal/command/unlock.go` and the backends' `Unlock`.
    #[test]
    fn only_terraforms_word_and_exit_code_together_mean_unlocked() {
        let success = "Terraform state has been successfully unlocked!\n\nThe state has been unlocked, and Terraform commands should now be able to\nobtain a new lock on the remote state.\n";
        assert_eq!(read_unlock(&answer(0, success, "")), Ok(()));
        assert_eq!(read_unlock(&answer(0, &success.replace("Terraform", "OpenTofu"), "")), Ok(()));
        assert!(read_unlock(&answer(1, success, "")).is_err() && read_unlock(&answer(0, "", "")).is_err());
        for reason in [
            "googleapi: Error 412: At least one of the pre-conditions you specified did not hold., conditionNotMet",
            "Lock ID should be numerical value, got 'x'",
            "lock id \"a\" does not match existing lock",
            "failed to retrieve lock info: blob metadata \"terraformlockid\" was empty",
            "state is already unlocked",
            "lock id mismatch, a != b",
            "lock ID 'a' does not match the existing lock ID 'b'",
        ] {
            let why = read_unlock(&answer(1, "", &format!("Failed to unlock state: {reason}\n"))).unwrap_err();
            assert!(why.starts_with("Failed to unlock state: "), "{why}");
        }
    }
}
