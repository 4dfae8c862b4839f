//! What all have in common.

use crate::simulators::*;
use crate::support::*;
use crate::templates::SOON;
use crate::templates::read::Variables;

/// A state with a lock of its own and, next to it, somebody else's.
pub fn project() -> Project<'static> {
    project_of(Kind::Sleep)
}

/// The same, whose apply does not end by itself.
pub fn hanging() -> Project<'static> {
    project_of(Kind::HangInApply)
}

pub fn project_of(kind: Kind) -> Project<'static> {
    let project = Project::new(Aws::shared(), kind).table().lockfile().init(&Tools::get().any_terraform());
    project.aws().plant_lock(project.table_name(), &foreign(&project));
    project.aws().plant_lockfile(&foreign(&project));
    project
}

fn foreign(project: &Project) -> LockInfo {
    LockInfo::foreign(&format!("{}/network/other.tfstate", project.bucket()))
}

/// Cancels a job when it applies, and looks at what is left.
#[track_caller]
pub fn cancel(project: &Project, started: Box<dyn Started + '_>) -> Ended {
    started.log().wait_for_stdout("asleep", SOON);
    end(project, started)
}

/// The same of a [`hanging`] one.
#[track_caller]
pub fn cancel_hanging(project: &Project, started: Box<dyn Started + '_>) -> Ended {
    project.wait_for_hang(SOON);
    end(project, started)
}

#[track_caller]
fn end(project: &Project, started: Box<dyn Started + '_>) -> Ended {
    assert!(project.lock().is_some() && project.lock_in_bucket().is_some(), "an apply holds its lock");
    let ended = started.cancel();
    let log = ended.log();
    project.guard().assert_no_process_left(SOON);
    assert_eq!((project.lock(), project.lock_in_bucket()), (None, None), "no own lock is left: {log}");
    let theirs = foreign(project);
    assert_eq!(project.aws().lock(project.table_name(), &theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert_eq!(project.aws().lockfile(&theirs.path).expect("it stays")["ID"], theirs.id, "{log}");
    assert!(!log.contains("Two interrupts") && !log.contains("tfguard: error"), "{log}");
    ended
}

/// Where Terraform's words are shown once.
#[track_caller]
pub fn assert_interrupted_by_tfguard(ended: &Ended) {
    let log = ended.log();
    assert_eq!(log.matches("Interrupt received.").count(), 1, "{log}");
    assert!(log.contains("tfguard: stop requested"), "{log}");
    assert!(ended.cleanup.iter().all(|cleanup| cleanup.code == Some(0)), "{log}");
}

/// By whom it is told, the cleanup or the front that was still alive when the supervisor was done, is for the machine's
/// speed to decide.
#[track_caller]
pub fn assert_deleted_by_tfguard(ended: &Ended) {
    let log = ended.log();
    assert!(log.contains("left by Terraform, deleted by tfguard"), "{log}");
    assert!(ended.cleanup.iter().all(|cleanup| cleanup.code == Some(0)), "{log}");
}

/// The one string that has this text in it.
#[track_caller]
pub fn the_one(scripts: &[String], text: &str) -> String {
    let mut found = scripts.iter().filter(|script| script.contains(text));
    let (Some(script), None) = (found.next(), found.next()) else { panic!("one script with {text:?}: {scripts:?}") };
    script.clone()
}

pub fn with_variables<'a>(job: Job<'a>, variables: &Variables) -> Job<'a> {
    variables.iter().fold(job, |job, (name, value)| job.env(name, value))
}

/// The plan that the template applies.
pub fn plan(started: Box<dyn Started + '_>) {
    let ended = started.finish();
    assert_eq!(ended.script.code, Some(0), "{}", ended.log());
}
