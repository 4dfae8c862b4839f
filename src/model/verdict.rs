//! Whether a lock's holder lives. Pure: [`judge`] decides, `facts` goes and looks.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::holder::Holder;
use crate::text::utc;

/// Whether a lock's holder lives. `why`: the proof, or what is known without one, as a clause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Liveness {
    /// Proven: a process of the run lives. The lock must stay.
    Alive { why: String },
    /// Proven: everything of the run that could write the state has ended. The lock protects nobody.
    Dead { why: String },
    /// Neither is proven.
    Unknown { why: String },
}

impl Liveness {
    /// The holder is proven to be alive.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. })
    }

    /// The holder is proven to be dead.
    pub fn is_dead(&self) -> bool {
        matches!(self, Self::Dead { .. })
    }

    /// One word for it: `alive`, `dead` or `unknown`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Alive { .. } => "alive",
            Self::Dead { .. } => "dead",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The proof, or what is known without one.
    pub fn why(&self) -> &str {
        let (Self::Alive { why } | Self::Dead { why } | Self::Unknown { why }) = self;
        why
    }
}

impl fmt::Display for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = match self {
            Self::Alive { .. } => "is alive",
            Self::Dead { .. } => "is dead",
            Self::Unknown { .. } => "may be alive or dead",
        };
        write!(f, "the holder {said}: {}", self.why())
    }
}

/// What this machine knows of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whether it is this machine on which the holder ran.
    pub boot: Boot,
    /// The recorded processes; none where their IDs mean other processes or nothing, in another PID namespace.
    pub processes: Option<Processes>,
    pub session: Session,
}

/// Whether a record was written under the kernel that runs here. A kernel's boot ID is random; the machine ID is no
/// help, as it is copied with the images of virtual machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    Same,
    /// It was not: another machine, or this one before it was restarted.
    Other {
        /// The host has the same name. A hint only.
        same_name: bool,
    },
    /// The system does not tell its boot ID.
    Hidden,
}

/// Which of the recorded processes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processes {
    pub supervisor: bool,
    pub child: bool,
}

/// What there is of a holder's session on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// No session whose journal names the lock.
    NotHere,
    /// A session whose journal names the lock.
    Here {
        /// When it ended by its journal, if then everything of it was seen to be gone.
        concluded: Option<Timestamp>,
        /// Whether somebody supervises it; none where that cannot be told.
        supervised: Option<bool>,
        /// Its Terraform's log.
        log: Log,
        /// The living processes of its child's group, as `name (pid)`.
        group: Vec<String>,
        /// There may be others of it, which cannot be seen from here.
        hidden: bool,
    },
}

/// A session's log: every Terraform of the session has it open for writing for its whole life, and the kernel knows,
/// across PID namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Somebody has it open.
    Held,
    /// Nobody has.
    Free,
    /// It is not there.
    Missing,
    /// The file system does not tell.
    Untold,
}

/// Judges a recorded holder.
pub fn judge(holder: &Holder, facts: &Facts) -> Liveness {
    let alive = |why: String| Liveness::Alive { why };
    let dead = |why: String| Liveness::Dead { why };
    let unknown = |why: String| Liveness::Unknown { why };
    if let Session::Here { concluded: Some(at), .. } = &facts.session {
        return dead(format!("its tfguard saw everything of the run end, at {}", utc(*at)));
    }
    let host = holder.host.as_deref().unwrap_or("a machine without a recorded name");
    match facts.boot {
        Boot::Same => {}
        Boot::Other { same_name: true } => {
            return unknown(format!(
                "it ran on {host}: on this machine before a restart, or on another of the same name"
            ));
        }
        Boot::Other { same_name: false } => {
            return unknown(format!("it ran on {host}, which is another machine, or this one before a restart"));
        }
        Boot::Hidden => return unknown(format!("it ran on {host}; whether that is this machine cannot be told")),
    }
    if let Session::Here { log: Log::Held, .. } = facts.session {
        return alive("a Terraform of the run has the run's log open".to_owned());
    }
    let pid = |process: Option<i32>| process.map_or_else(String::new, |pid| format!(" (process {pid})"));
    if facts.processes.is_some_and(|living| living.child) {
        return alive(format!("its command{} runs on this machine", pid(holder.child.map(|child| child.id.pid))));
    }
    let supervised = matches!(facts.session, Session::Here { supervised: Some(true), .. });
    if supervised || facts.processes.is_some_and(|living| living.supervisor) {
        let pid = pid(holder.supervisor.map(|supervisor| supervisor.pid));
        return alive(format!("its tfguard{pid} runs on this machine and looks after the lock"));
    }
    let gone = match facts.processes {
        Some(_) => "its command and its tfguard have ended",
        None => "it ran on this machine in another container, whose processes cannot be seen from here",
    };
    match &facts.session {
        Session::NotHere => {
            let session = holder.session.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default();
            unknown(format!(
                "{gone}, and its session{session} was not found where tfguard looks, so whether another Terraform \
                 of the run is alive is not known (TFGUARD_DIR can name its place)"
            ))
        }
        Session::Here { group, .. } if !group.is_empty() => {
            unknown(format!("{gone}, but of its process group there are still {}", group.join(", ")))
        }
        Session::Here { hidden: true, .. } => {
            unknown(format!("{gone}, but there may be processes of it that cannot be seen from here"))
        }
        Session::Here { log: Log::Free, .. } if facts.processes.is_some() => dead(format!(
            "it ran on this machine, {gone}, and no process has the log open that each Terraform of the run has open"
        )),
        Session::Here { log: Log::Free, supervised: Some(false), .. } => dead(
            "it ran on this machine in another container, nobody supervises it any more, and no process in any \
             container has the log open that each Terraform of the run has open"
                .to_owned(),
        ),
        Session::Here { log: Log::Missing, .. } => unknown(format!(
            "{gone}, and its log is gone, so whether another Terraform of the run is alive is not known"
        )),
        Session::Here { .. } => {
            unknown(format!("{gone}, and whether a Terraform has its log open cannot be told here"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::process::ChildRecord;
    use crate::model::process::ProcessId;
    use crate::model::process::World;

    fn holder() -> Holder {
        let id = |pid| ProcessId { pid, start_ticks: 7 };
        Holder {
            schema: 1,
            lock: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".parse().unwrap(),
            tfguard: "0.1.0".to_owned(),
            started: Timestamp::UNIX_EPOCH,
            ci: None,
            origin: crate::model::ci::Origin::default(),
            host: Some("runner-7".to_owned()),
            world: World { boot_id: "b".to_owned(), pid_namespace: 1 },
            supervisor: Some(id(10)),
            child: Some(ChildRecord { id: id(11), session: 10 }),
            session: Some("/run/s".into()),
        }
    }

    const GONE: Processes = Processes { supervisor: false, child: false };

    fn here() -> Session {
        Session::Here { concluded: None, supervised: Some(false), log: Log::Free, group: Vec::new(), hidden: false }
    }

    fn verdict(boot: Boot, processes: Option<Processes>, session: Session) -> Liveness {
        judge(&holder(), &Facts { boot, processes, session })
    }

    /// Every fact that there can be, against what is proof. Only two ways lead to death: a journal that saw it, and on
    /// the same kernel nobody left who could write the state.
    #[test]
    fn only_proof_is_proof() {
        let booleans = [false, true];
        let boots = [Boot::Same, Boot::Other { same_name: true }, Boot::Other { same_name: false }, Boot::Hidden];
        let mut processes = vec![None];
        processes.extend(
            booleans
                .iter()
                .flat_map(|supervisor| booleans.map(|child| Some(Processes { supervisor: *supervisor, child }))),
        );
        let mut sessions = vec![Session::NotHere];
        for concluded in [None, Some(Timestamp::UNIX_EPOCH)] {
            for supervised in [None, Some(false), Some(true)] {
                for log in [Log::Held, Log::Free, Log::Missing, Log::Untold] {
                    for group in [vec![], vec!["provider (12)".to_owned()]] {
                        for hidden in booleans {
                            let group = group.clone();
                            sessions.push(Session::Here { concluded, supervised, log, group, hidden });
                        }
                    }
                }
            }
        }
        for boot in boots {
            for processes in &processes {
                for session in &sessions {
                    let found = verdict(boot, *processes, session.clone());
                    let concluded = matches!(session, Session::Here { concluded: Some(_), .. });
                    let at_work = matches!(session, Session::Here { log: Log::Held, .. })
                        || matches!(session, Session::Here { supervised: Some(true), .. })
                        || processes.is_some_and(|living| living.child || living.supervisor);
                    let nobody = match (session, processes) {
                        (Session::Here { log: Log::Free, group, hidden: false, supervised, .. }, processes) => {
                            group.is_empty() && (processes.is_some() || *supervised == Some(false))
                        }
                        _ => false,
                    };
                    let same = boot == Boot::Same;
                    let context = format!("{boot:?} {processes:?} {session:?}: {found}");
                    assert_eq!(found.is_dead(), concluded || (same && !at_work && nobody), "{context}");
                    assert_eq!(found.is_alive(), !concluded && same && at_work, "{context}");
                    assert!(found.why().len() > 10, "{context}");
                }
            }
        }
    }

    #[test]
    fn what_is_known_is_said() {
        let same = Boot::Same;
        let terraform = Processes { child: true, ..GONE };
        for (found, said) in [
            (verdict(same, Some(terraform), Session::NotHere), "alive: its command (process 11) runs on this machine"),
            (verdict(same, Some(GONE), Session::NotHere), "its session /run/s was not found where tfguard looks"),
            (verdict(same, Some(GONE), here()), "dead: it ran on this machine"),
            (verdict(same, None, here()), "in another container"),
            (
                verdict(Boot::Other { same_name: true }, None, Session::NotHere),
                "it ran on runner-7: on this machine before",
            ),
            (verdict(Boot::Other { same_name: false }, None, Session::NotHere), "it ran on runner-7, which is another"),
        ] {
            assert!(found.to_string().contains(said), "{found}");
        }
    }
}
