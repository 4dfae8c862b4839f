//! Who is interrupted: Terraforms, once each, and the program that runs them when that does no harm.

use crate::model::ProcessId;
use crate::session::{Survivor, Tree};

/// Programs that go on to their next command when the one they wait for has ended, and whose traps may pass a signal on.
const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "zsh", "busybox"];

/// What is known when a stop is due.
#[derive(Debug)]
pub struct Scene<'a> {
    /// What is alive.
    pub tree: &'a Tree,
    /// The command's process.
    pub child: Option<ProcessId>,
    /// Who has had the interrupt.
    pub before: &'a [ProcessId],
    /// A Terraform below the command is left to a guard of its own.
    pub guards: bool,
    /// The command is a Terraform by its name: whatever else it may be, it ends with its Terraform.
    pub command_is_terraform: bool,
}

/// Who receives SIGINT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// Each of these, at once.
    pub now: Vec<ProcessId>,
    /// The command receives it when no Terraform is alive any more.
    pub command_waits: bool,
    /// Terraforms that may not be signalled: what stands above them receives it, if that may be.
    pub relayed: Vec<ProcessId>,
    /// Who should receive it, and nobody may send it.
    pub unreachable: Vec<Survivor>,
}

/// Decides who receives SIGINT.
///
/// A Terraform that no guard has receives it itself. The command that runs Terraforms receives it at once where all that
/// it could pass it on to are guards, which count requests (Terragrunt then starts no further unit). A shell receives it
/// after its Terraforms: it would go on to its next command, or end the pipe that Terraform's output goes to. Where there
/// is no Terraform, the whole group receives it, as a terminal would do it.
///
/// Where nobody can look who is alive, a command that is called as a Terraform receives it.
///
/// For another user's Terraform the nearest process above it receives it that may be signalled, as what started it passes
/// it on; a shell does not.
pub fn targets(scene: &Scene) -> Targets {
    let Scene { tree, child, before, guards, command_is_terraform } = *scene;
    let fresh = |id: &ProcessId| !before.contains(id);
    let terraforms: Vec<ProcessId> = tree.terraforms().map(|terraform| terraform.id).collect();
    let mut targets = Targets::default();
    for terraform in tree.terraforms().filter(|terraform| fresh(&terraform.id)) {
        let above = |found: &&Survivor| tree.survivors.iter().find(|above| above.id.pid == found.parent);
        let mut chain = std::iter::successors(Some(terraform), above).take(tree.survivors.len());
        match chain.find(|found| !found.out_of_reach) {
            Some(found) if !is_shell(found) => {
                targets.now.extend(Some(found.id).filter(fresh));
                targets.relayed.extend(terraform.out_of_reach.then_some(terraform.id));
            }
            _ => targets.unreachable.push(terraform.clone()),
        }
    }
    let command = tree.survivors.iter().find(|found| Some(found.id) == child && !found.out_of_reach);
    let command = command.filter(|command| !terraforms.contains(&command.id) && fresh(&command.id));
    if tree.survivors.is_empty() && tree.hidden && command_is_terraform {
        targets.now.extend(child.filter(fresh));
    } else if terraforms.is_empty() && !guards && before.is_empty() {
        let (beyond, within): (Vec<_>, Vec<_>) = tree.survivors.iter().partition(|found| found.out_of_reach);
        targets.now.extend(within.iter().map(|found| found.id));
        if within.is_empty() {
            targets.unreachable.extend(beyond.into_iter().cloned());
        }
    } else if let Some(command) = command.filter(|_| !command_is_terraform) {
        targets.command_waits = !terraforms.is_empty() || (guards && is_shell(command));
        if !targets.command_waits {
            targets.now.push(command.id);
        }
    }
    targets.now.sort_unstable_by_key(|process| process.pid);
    targets.now.dedup();
    targets
}

fn is_shell(found: &Survivor) -> bool {
    SHELLS.contains(&found.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Survivor;

    fn id(pid: i32) -> ProcessId {
        ProcessId { pid, start_ticks: u64::from(pid.unsigned_abs()) }
    }

    /// Of these processes, of which 10 is the command's.
    fn interrupt(alive: &[(i32, &str, bool)], before: &[i32], guards: bool) -> Targets {
        let survivors = alive.iter().map(|(pid, name, is_terraform)| Survivor {
            id: id(*pid),
            name: (*name).to_owned(),
            is_terraform: *is_terraform,
            holds_log: *is_terraform,
            parent: pid - 1,
            out_of_reach: name.starts_with("root's "),
        });
        let tree = Tree { survivors: survivors.collect(), hidden: false };
        let before: Vec<_> = before.iter().copied().map(id).collect();
        targets(&Scene { tree: &tree, child: Some(id(10)), before: &before, guards, command_is_terraform: false })
    }

    fn now(pids: &[i32]) -> Targets {
        Targets { now: pids.iter().copied().map(id).collect(), ..Targets::default() }
    }

    fn and_later_the_command(pids: &[i32]) -> Targets {
        Targets { command_waits: true, ..now(pids) }
    }

    #[test]
    fn a_command_that_is_a_terraform_receives_it_where_nobody_can_look() {
        let tree = |hidden| Tree { survivors: Vec::new(), hidden };
        let command = |hidden, before: &[ProcessId], command_is_terraform| {
            let (tree, child) = (&tree(hidden), Some(id(10)));
            targets(&Scene { tree, child, before, guards: false, command_is_terraform })
        };
        assert_eq!(command(true, &[], true), now(&[10]));
        for nobody in [command(false, &[], true), command(true, &[id(10)], true), command(true, &[], false)] {
            assert_eq!(nobody, now(&[]));
        }
    }

    /// Guards against a trap that passes the signal on to a Terraform that has it already.
    #[test]
    fn a_shell_receives_it_when_its_terraforms_are_gone() {
        let alive = [(10, "bash", false), (11, "terraform", true)];
        assert_eq!(interrupt(&alive, &[], false), and_later_the_command(&[11]));
        assert_eq!(interrupt(&alive, &[11], false), and_later_the_command(&[]));
        assert_eq!(interrupt(&[(10, "bash", false), (12, "sleep", false)], &[11], false), now(&[10]));
        let guarded = [(10, "bash", false), (11, "terraform", false)];
        assert_eq!(interrupt(&guarded, &[], true), and_later_the_command(&[]));
        assert_eq!(interrupt(&guarded, &[10], false), now(&[]));
    }

    #[test]
    fn terraform_alone_receives_it_and_its_providers_do_not() {
        let alive = [(10, "terraform", true), (11, "terraform-provi", false), (12, "sleep", false)];
        assert_eq!(interrupt(&alive, &[], false), now(&[10]));
    }

    #[test]
    fn every_unguarded_terraform_below_a_script_receives_it_and_the_shell_later() {
        let alive = [(10, "bash", false), (11, "terraform", true), (12, "terraform", true)];
        assert_eq!(interrupt(&alive, &[], true), and_later_the_command(&[11, 12]));
    }

    /// Whatever Terragrunt passes on reaches guards only, and it starts nothing more.
    #[test]
    fn what_runs_guarded_terraforms_receives_it_at_once() {
        let alive = [(10, "terragrunt", false), (11, "terraform", false)];
        assert_eq!(interrupt(&alive, &[], true), now(&[10]));
        let unguarded = [(10, "terragrunt", false), (11, "terraform", true)];
        assert_eq!(interrupt(&unguarded, &[], true), and_later_the_command(&[11]));
    }

    #[test]
    fn without_a_terraform_the_group_receives_it() {
        let alive = [(10, "make", false), (12, "sleep", false)];
        assert_eq!(interrupt(&alive, &[], false), now(&[10, 12]));
    }

    /// Guards against an interrupt that is said to have been sent and was not.
    #[test]
    fn for_another_users_terraform_the_nearest_that_may_be_signalled_receives_it() {
        let reached = |alive: &[(i32, &str, bool)], before: &[i32]| {
            let Targets { now, relayed, unreachable, .. } = interrupt(alive, before, false);
            let pids = |ids: Vec<ProcessId>| ids.into_iter().map(|id| id.pid).collect::<Vec<_>>();
            (pids(now), pids(relayed), pids(unreachable.into_iter().map(|found| found.id).collect()))
        };
        let relayed = [(10, "sudo", false), (11, "root's terraform", true)];
        assert_eq!(reached(&relayed, &[]), (vec![10], vec![11], vec![]));
        assert_eq!(reached(&relayed, &[10, 11]), (vec![], vec![], vec![]));
        let below_a_shell = [(10, "bash", false), (11, "root's sudo", false), (12, "root's terraform", true)];
        assert_eq!(reached(&below_a_shell, &[]), (vec![], vec![], vec![12]));
        let alone = [(10, "root's sudo", false)];
        assert_eq!(reached(&alone, &[]), (vec![], vec![], vec![10]));
    }

    #[test]
    fn nobody_receives_it_twice() {
        let alive = [(10, "bash", false), (11, "terraform", true), (12, "terraform", true)];
        assert_eq!(interrupt(&alive, &[10, 11], false), now(&[12]));
        assert_eq!(interrupt(&[(10, "make", false)], &[10], false), now(&[]));
        assert_eq!(interrupt(&[(10, "make", false)], &[10], true), now(&[]));
    }
}
