//! Who receives the one interrupt.

use std::collections::HashSet;

use crate::session::{Interrupted, ProcessId, Tree};

/// Shells pass no signal on by themselves, and need one of their own to end a script. Other programs that start Terraform
/// may pass it on, and then Terraform would have two (Terragrunt does), or kill their children on it (Python).
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];

/// Who receives SIGINT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Each of these processes.
    Processes {
        /// At once.
        now: Vec<ProcessId>,
        /// When no Terraform is alive any more: the script's shell. A trap of its may pass the signal on, and Terraform
        /// would have two.
        later: Option<ProcessId>,
    },
    /// No Terraform is to be seen, so the whole group, as a terminal would do it.
    Group,
}

/// Decides who receives SIGINT, given what is alive, the child, and who had it before.
#[must_use]
pub fn targets(tree: &Tree, child: Option<ProcessId>, before: &Interrupted) -> Targets {
    let terraforms: HashSet<ProcessId> = tree.terraforms().map(|terraform| terraform.id).collect();
    if terraforms.is_empty() && *before == Interrupted::default() {
        return Targets::Group;
    }
    let is_shell =
        |id: &ProcessId| tree.survivors.iter().any(|found| found.id == *id && SHELLS.contains(&found.name.as_str()));
    let shell = child.filter(|child| !terraforms.contains(child) && is_shell(child) && !before.includes(*child));
    let (later, shell) = if terraforms.is_empty() { (None, shell) } else { (shell, None) };
    let terraforms = terraforms.into_iter().filter(|terraform| !before.includes(*terraform));
    let mut now: Vec<_> = terraforms.chain(shell).collect();
    now.sort_unstable_by_key(|process| process.pid);
    Targets::Processes { now, later }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Survivor;

    fn id(pid: i32) -> ProcessId {
        ProcessId { pid, start_ticks: u64::from(pid.unsigned_abs()) }
    }

    fn tree(processes: &[(i32, &str, bool)]) -> Tree {
        let survivors = processes.iter().map(|(pid, name, holds_log)| Survivor {
            id: id(*pid),
            name: (*name).to_owned(),
            is_terraform: *holds_log,
            holds_log: *holds_log,
        });
        Tree { survivors: survivors.collect(), hidden: false }
    }

    fn interrupt(processes: &[(i32, &str, bool)], before: &Interrupted) -> Targets {
        targets(&tree(processes), Some(id(10)), before)
    }

    fn now(pids: &[i32]) -> Targets {
        Targets::Processes { now: pids.iter().copied().map(id).collect(), later: None }
    }

    /// Guards against a trap that passes the signal on to a Terraform that has it already.
    #[test]
    fn a_shell_receives_it_when_its_terraforms_are_gone() {
        let alive = [(10, "bash", false), (11, "terraform", true)];
        let both = Targets::Processes { now: vec![id(11)], later: Some(id(10)) };
        assert_eq!(interrupt(&alive, &Interrupted::default()), both);
        let before = Interrupted { processes: vec![id(11)], all_started_until: None };
        assert_eq!(interrupt(&alive, &before), Targets::Processes { now: vec![], later: Some(id(10)) });
        assert_eq!(interrupt(&[(10, "bash", false), (12, "sleep", false)], &before), now(&[10]));
        let all = Interrupted { processes: vec![], all_started_until: Some(11) };
        assert_eq!(interrupt(&alive, &all), now(&[]));
    }

    #[test]
    fn terraform_alone_receives_it_and_its_providers_do_not() {
        let alive = [(10, "terraform", true), (11, "terraform-provi", false), (12, "sleep", false)];
        assert_eq!(interrupt(&alive, &Interrupted::default()), now(&[10]));
    }

    #[test]
    fn every_terraform_below_a_script_receives_it_and_the_shell_later() {
        let alive = [(10, "bash", false), (11, "terraform", true), (12, "terraform", true)];
        let all = Targets::Processes { now: vec![id(11), id(12)], later: Some(id(10)) };
        assert_eq!(interrupt(&alive, &Interrupted::default()), all);
    }

    #[test]
    fn a_program_that_may_pass_it_on_does_not_receive_it() {
        let alive = [(10, "terragrunt", false), (11, "terraform", true)];
        assert_eq!(interrupt(&alive, &Interrupted::default()), now(&[11]));
    }

    #[test]
    fn without_a_terraform_the_group_receives_it() {
        assert_eq!(interrupt(&[(10, "make", false)], &Interrupted::default()), Targets::Group);
    }

    #[test]
    fn nobody_receives_it_twice() {
        let alive = [(10, "bash", false), (11, "terraform", true), (12, "terraform", true)];
        let before = Interrupted { processes: vec![id(10), id(11)], all_started_until: None };
        assert_eq!(interrupt(&alive, &before), now(&[12]));
        let group = Interrupted { processes: vec![], all_started_until: Some(11) };
        assert_eq!(interrupt(&alive, &group), now(&[12]));
        assert_eq!(interrupt(&[(10, "make", false)], &group), now(&[]));
    }
}
