//! Whether Terraform only plans or is changing things.

use crate::model::{Entry, Phase, Stage};
use crate::observe::hclog::{Level, Record};
use crate::observe::ledger::Ledger;

/// A record that says what Terraform begins to do.
///
/// The texts are those of `internal/backend/local/backend_{plan,apply,refresh}.go`, alike in Terraform 1.0 to 1.15 and
/// OpenTofu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marker {
    /// A plan or an apply starts; an apply plans first, unless it was given a plan.
    Starting,
    /// A plan, or the apply's own, is made.
    CallingPlan,
    /// The plan is told, and saved where that was asked for.
    PlanCompleted,
    /// Resources are changed.
    CallingApply,
    /// The state is read anew, and written at the end.
    CallingRefresh,
}

impl Marker {
    /// What a record marks. `None`: nothing.
    pub fn read(record: &Record) -> Option<Self> {
        if record.logger != "backend/local" || record.level != Level::Info || record.torn {
            return None;
        }
        Some(match record.message.as_str() {
            "starting Plan operation" | "starting Apply operation" => Self::Starting,
            "plan calling Plan" | "apply calling Plan" => Self::CallingPlan,
            "plan operation completed" => Self::PlanCompleted,
            "apply calling Apply" => Self::CallingApply,
            "refresh calling Refresh" => Self::CallingRefresh,
            _ => return None,
        })
    }

    /// Whether Terraform does this only once it has its lock (`opPlan`, `opApply` and `opRefresh` in the same files:
    /// the lock is taken in `localRun`, between "starting" and "calling").
    pub fn is_under_lock(self) -> bool {
        self != Self::Starting
    }
}

/// Follows the phase of a session.
///
/// Several Terraforms may share the log, and a record does not say whose it is. So the answer errs towards
/// [`Phase::Applying`]: an apply is over only when as many locks of applies as there were applies are being released
/// and no other such lock is open. With `-lock=false` it is never over.
///
/// What plans is planning only while it does: whatever a script does next, by Terraform or not, may change things.
#[derive(Debug, Clone, Default)]
pub struct PhaseTracker {
    last: Option<Marker>,
    applies: usize,
    refreshes: usize,
}

impl PhaseTracker {
    /// Enters a marker.
    pub fn enter(&mut self, marker: Marker) {
        match marker {
            Marker::CallingApply => self.applies += 1,
            Marker::CallingRefresh => self.refreshes += 1,
            _ => {}
        }
        self.last = Some(marker);
    }

    /// A Terraform begins, and has not said yet what it does.
    pub fn begin(&mut self) {
        self.last = None;
    }

    /// What the session is doing, given its locks.
    pub fn phase(&self, ledger: &Ledger) -> Phase {
        if is_changing(self.applies, "OperationTypeApply", ledger)
            || is_changing(self.refreshes, "OperationTypeRefresh", ledger)
        {
            return Phase::Applying;
        }
        // `state mv`, `import`, a migration and their like hold locks and mark no phase. An attempt that was refused
        // looks like one that holds on Terraform 1.6 to 1.9.
        let other_open = ledger.entries().iter().any(|entry| {
            !entry.stage.is_over()
                && !matches!(entry.claim.operation.as_str(), "OperationTypePlan" | "OperationTypeApply")
        });
        let plans = match self.last {
            Some(Marker::Starting) => true,
            Some(Marker::CallingPlan) => !is_planned(ledger),
            _ => false,
        };
        if plans && !other_open { Phase::Planning } else { Phase::Unknown }
    }
}

/// Whether those who planned have released their locks, as far as they are known.
fn is_planned(ledger: &Ledger) -> bool {
    let plans = |entry: &&Entry| matches!(entry.claim.operation.as_str(), "OperationTypePlan" | "OperationTypeApply");
    let mut stages = ledger.entries().iter().filter(plans).map(|entry| entry.stage).peekable();
    stages.peek().is_some() && stages.all(Stage::is_over)
}

fn is_changing(calls: usize, operation: &str, ledger: &Ledger) -> bool {
    let mut locks = ledger.entries().iter().filter(|entry| entry.claim.operation == operation).map(|entry| entry.stage);
    let over = locks.clone().filter(|stage| stage.is_over()).count();
    calls > 0 && (over < calls || locks.any(|stage: Stage| !stage.is_over()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Grade;
    use crate::model::LockClaim;
    use crate::model::LockKinds;
    use crate::observe::locks::LockEvent;
    use crate::observe::locks::LoggedPlace;
    use Phase::{Applying, Planning, Unknown};

    /// A step of a session: a marker, or an event of the lock `n` that was taken for `operation`.
    enum Step {
        Begin,
        Mark(Marker),
        Take(u8, &'static str),
        Free(u8, &'static str),
    }
    use Step::{Begin, Free, Mark, Take};

    fn claim(n: u8, operation: &str) -> LockClaim {
        LockClaim {
            id: format!("00000000-0000-0000-0000-0000000000{n:02x}").parse().unwrap(),
            operation: operation.into(),
            who: "ci@runner".into(),
            version: "1.9.8".into(),
            bucket: "bucket".into(),
            state_key: format!("key{n}"),
            kinds: LockKinds::Unstated,
        }
    }

    fn check(steps: &[(Step, Phase)]) {
        let (mut tracker, mut ledger) = (PhaseTracker::default(), Ledger::default());
        assert_eq!(tracker.phase(&ledger), Unknown);
        for (at, (step, phase)) in steps.iter().enumerate() {
            match step {
                Begin => tracker.begin(),
                Mark(marker) => tracker.enter(*marker),
                Take(n, operation) => {
                    let event = LockEvent::Take { claim: claim(*n, operation), done: false };
                    ledger.enter(&event, Grade::Record).unwrap();
                }
                Free(n, operation) => {
                    let place = LoggedPlace::of(&claim(*n, operation));
                    ledger.enter(&LockEvent::Release { place, done: false }, Grade::Record).unwrap();
                }
            }
            assert_eq!(tracker.phase(&ledger), *phase, "step {at}");
        }
    }

    const PLAN: &str = "OperationTypePlan";
    const APPLY: &str = "OperationTypeApply";
    const REFRESH: &str = "OperationTypeRefresh";

    #[test]
    fn one_command_after_the_other() {
        use Marker::*;
        check(&[
            (Mark(Starting), Planning),
            // The hidden lock of a new workspace, under which the state is created.
            (Take(1, "init"), Unknown),
            (Free(1, "init"), Planning),
            (Take(2, PLAN), Planning),
            (Mark(CallingPlan), Planning),
            (Mark(PlanCompleted), Unknown),
            (Free(2, PLAN), Unknown),
            (Mark(Starting), Planning),
            (Take(3, APPLY), Planning),
            (Mark(CallingPlan), Planning),
            (Mark(CallingApply), Applying),
            (Free(3, APPLY), Unknown),
            (Take(4, REFRESH), Unknown),
            (Mark(CallingRefresh), Applying),
            (Free(4, REFRESH), Unknown),
            (Mark(Starting), Planning),
            (Take(5, "state-mv"), Unknown),
        ]);
    }

    /// A script goes on: with a command of its own, with a Terraform that changes things and marks nothing (`test`,
    /// `state`), after a plan that failed.
    #[test]
    fn what_comes_after_a_plan_is_no_plan() {
        use Marker::*;
        for over in [PlanCompleted, CallingApply] {
            check(&[(Mark(Starting), Planning), (Mark(over), if over == PlanCompleted { Unknown } else { Applying })]);
        }
        check(&[(Mark(Starting), Planning), (Begin, Unknown), (Mark(Starting), Planning)]);
        check(&[
            (Mark(Starting), Planning),
            (Take(1, APPLY), Planning),
            (Mark(CallingPlan), Planning),
            (Free(1, APPLY), Unknown),
            (Begin, Unknown),
            (Mark(Starting), Planning),
            (Take(2, PLAN), Planning),
            (Mark(CallingPlan), Planning),
        ]);
    }

    #[test]
    fn several_at_once_are_applying_until_the_last_apply_is_over() {
        use Marker::*;
        check(&[
            (Take(1, APPLY), Unknown),
            (Mark(CallingPlan), Planning),
            (Take(2, APPLY), Planning),
            (Mark(CallingApply), Applying),
            (Mark(Starting), Applying),
            (Free(2, APPLY), Applying),
            (Mark(CallingPlan), Applying),
            (Free(1, APPLY), Unknown),
        ]);
        // Nobody unlocks what was never locked; the other's unlock is not taken for it.
        check(&[
            (Mark(CallingApply), Applying),
            (Take(1, APPLY), Applying),
            (Mark(CallingApply), Applying),
            (Free(1, APPLY), Applying),
            (Mark(Starting), Applying),
        ]);
    }
}
