//! Whether the lock that is there can be the dead child's own.
//!
//! This is the weakest grade of evidence ([`crate::observe::Grade::Item`]): nobody saw the child take the lock, the
//! lock itself tells. Two runs of one user on one machine, of the same Terraform and the same command, that want the
//! same state at the same moment can be mistaken for each other. So nothing is released on it unless asked for, and
//! whatever more is known is used: what Terraform logs after it has its lock bounds when that lock was made.

use jiff::{SignedDuration, Timestamp};

use super::command::{Command, INIT};
use crate::lock::LockInfo;

/// All that is known of the child that its lock must fit.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What it was told to do.
    pub command: Command,
    /// `user@host`, as Terraform would write it.
    pub who: String,
    /// Its version.
    pub version: String,
    /// When it was started, or earlier.
    pub started: Timestamp,
    /// When it was dead.
    pub ended: Timestamp,
    /// When it logged something that it does only once it has its lock.
    pub passed: Option<Timestamp>,
    /// A Terraform that lives on this machine may hold the lock.
    pub contested: bool,
}

/// Whose lock it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All there is says that it is the child's.
    Own,
    /// It cannot be the child's, for this reason.
    Foreign(String),
    /// It can be the child's; this is missing.
    Unproven(String),
}

impl Evidence {
    /// Judges a lock.
    #[must_use]
    pub fn judge(&self, info: &LockInfo) -> Verdict {
        let Ok(created) = info.created.parse::<Timestamp>() else {
            return Verdict::Unproven("it does not say when it was made".to_owned());
        };
        // The lock for the work comes after, and cannot exist beside it.
        let init = info.operation == INIT && self.passed.is_none();
        if !init && !self.command.operations.contains(&info.operation.as_str()) {
            return Verdict::Foreign(format!(
                "its operation is {}, which is not what was run here",
                shown(&info.operation)
            ));
        }
        if info.who != self.who {
            return Verdict::Foreign(format!("its holder is {}, not {}", shown(&info.who), self.who));
        }
        if info.version != self.version {
            return Verdict::Foreign(format!("its Terraform is {}, not {}", shown(&info.version), self.version));
        }
        // The holder is on this machine, so it is the same clock, and no slack is due. A clock that was set back
        // meanwhile leaves the lock where it is.
        if let Some(foreign) = self.outside(created) {
            return foreign;
        }
        if self.command.waits && self.passed.is_none() {
            return Verdict::Unproven(
                "Terraform may still have been waiting for somebody else's lock when it ended (-lock-timeout)"
                    .to_owned(),
            );
        }
        if self.contested && self.passed.is_none() {
            return Verdict::Unproven(
                "Terraform did not log that it had its lock, and one that is alive on this machine may hold it"
                    .to_owned(),
            );
        }
        Verdict::Own
    }

    /// Made when the child cannot have made it.
    fn outside(&self, created: Timestamp) -> Option<Verdict> {
        // The log has whole milliseconds.
        let last = self.passed.map_or(self.ended, |passed| self.ended.min(passed + SignedDuration::from_millis(1)));
        if created < self.started {
            Some(Verdict::Foreign(format!("it was made at {created}, before this run began")))
        } else if created > last {
            Some(Verdict::Foreign(format!("it was made at {created}, when this run had its lock already or was over")))
        } else {
            None
        }
    }
}

/// Foreign text, fit for a terminal.
fn shown(text: &str) -> String {
    match text {
        "" => "unknown".to_owned(),
        text => text.chars().take(128).collect::<String>().escape_debug().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    fn evidence() -> Evidence {
        Evidence {
            command: Command { operations: &["OperationTypeApply"], waits: false },
            who: "root@vm".into(),
            version: "1.11.4".into(),
            started: time("04:00:00"),
            ended: time("05:00:00"),
            passed: None,
            contested: false,
        }
    }

    fn own() -> LockInfo {
        LockInfo {
            id: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".into(),
            operation: "OperationTypeApply".into(),
            info: String::new(),
            who: "root@vm".into(),
            version: "1.11.4".into(),
            created: "2026-11-20T04:00:01.5Z".into(),
            path: String::new(),
        }
    }

    #[test]
    fn a_lock_that_fits_in_all_is_own() {
        assert_eq!(evidence().judge(&own()), Verdict::Own);
    }

    #[test]
    fn a_lock_that_differs_in_anything_is_not() {
        let foreign = [
            LockInfo { operation: "OperationTypePlan".into(), ..own() },
            LockInfo { operation: String::new(), ..own() },
            LockInfo { who: "root@vm2".into(), ..own() },
            LockInfo { who: "Root@vm".into(), ..own() },
            LockInfo { who: String::new(), ..own() },
            LockInfo { version: "1.11.40".into(), ..own() },
            LockInfo { created: "2026-11-20T03:59:59.999999999Z".into(), ..own() },
            LockInfo { created: "2026-11-20T05:00:00.000000001Z".into(), ..own() },
        ];
        for info in foreign {
            assert!(matches!(evidence().judge(&info), Verdict::Foreign(_)), "{info:?}");
        }
        for created in ["", "0001-01-01", "2026-11-20 04:00:01 +0000 UTC"] {
            let info = LockInfo { created: created.into(), ..own() };
            assert!(matches!(evidence().judge(&info), Verdict::Unproven(_)), "{info:?}");
        }
    }

    /// Guards the lock of a run that was waiting and got the state after ours had released it and before it died.
    #[test]
    fn a_lock_made_after_the_child_had_its_own_is_foreign() {
        let passed = Evidence { passed: Some(time("04:00:02")), ..evidence() };
        assert_eq!(passed.judge(&own()), Verdict::Own);
        let later = LockInfo { created: "2026-11-20T04:00:02.1Z".into(), ..own() };
        assert!(matches!(passed.judge(&later), Verdict::Foreign(_)));
    }

    #[test]
    fn a_child_that_may_have_been_waiting_owns_nothing_unless_it_went_on() {
        let waiting = Evidence { command: Command { waits: true, ..evidence().command }, ..evidence() };
        assert!(matches!(waiting.judge(&own()), Verdict::Unproven(_)));
        assert_eq!(Evidence { passed: Some(time("04:30:00")), ..waiting }.judge(&own()), Verdict::Own);
    }

    #[test]
    fn a_lock_that_another_may_hold_is_own_only_of_a_child_that_went_on() {
        let contested = Evidence { contested: true, ..evidence() };
        assert!(matches!(contested.judge(&own()), Verdict::Unproven(_)));
        assert_eq!(Evidence { passed: Some(time("04:30:00")), ..contested }.judge(&own()), Verdict::Own);
    }

    #[test]
    fn the_lock_for_a_new_workspace_is_own_until_the_work_began() {
        let init = LockInfo { operation: "init".into(), ..own() };
        assert_eq!(evidence().judge(&init), Verdict::Own);
        let passed = Evidence { passed: Some(time("04:30:00")), ..evidence() };
        assert!(matches!(passed.judge(&init), Verdict::Foreign(_)));
    }

    #[test]
    fn foreign_text_does_not_reach_the_terminal_raw() {
        let Verdict::Foreign(why) = evidence().judge(&LockInfo { who: "\u{1b}[2J".repeat(100), ..own() }) else {
            panic!()
        };
        assert!(!why.contains('\u{1b}') && why.len() < 2000);
    }
}
