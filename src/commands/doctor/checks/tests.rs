use super::*;
use crate::aws::StoreError;
use crate::ci::{Ancestor, Chain};
use crate::commands::doctor::checks::Severity;
use crate::commands::doctor::facts::{self, Described, Facts, Identity, Session};
use crate::commands::doctor::permissions::Subject;
use crate::commands::target::TargetError;
use crate::model::{Provider, Term};
use crate::session::DirectoryError;

/// A place where everything is as it should be.
fn good() -> Facts {
    let keys = "LockID HASH S".to_owned();
    Facts {
        provider: Some(Provider::GithubActions),
        cleanup_step: true,
        grace: Term::new(Duration::from_secs(210), "it waits"),
        chain: chain(&["Runner.Worker", "tfguard"]),
        reader: None,
        session: Ok(Session { place: "/tmp/tfguard".into(), shared: Some(("RUNNER_TEMP", true)) }),
        programs: vec![("terraform is /bin/terraform".to_owned(), false)],
        state: Ok(Subject { table: Some("locks".to_owned()), lockfile: true, ..Subject::default() }),
        now: "2026-01-01T10:00:00Z".parse().unwrap(),
        left: None,
        identity: Some(Identity { who: Ok("ci".to_owned()), end: "2026-01-01T11:00:00Z".parse().ok() }),
        bucket: Some(Ok(facts::Bucket {
            region: Ok(None),
            versioning: Ok(true),
            encryption: Ok(Some("AES256".to_owned())),
        })),
        table: Some(Ok(facts::Table {
            described: Ok(Described { keys, encryption: "a key" }),
            expires_by: Ok(None),
            recovery: Ok(true),
            keeps_conditions: Ok(true),
        })),
    }
}

fn chain(top_down: &[&str]) -> Chain {
    let process = |name: &&str| Ancestor { pid: 9, name: (*name).to_owned(), ..Ancestor::default() };
    Chain(top_down.iter().rev().map(process).collect())
}

fn session(facts: &mut Facts) -> &mut Session {
    facts.session.as_mut().unwrap()
}

fn table(facts: &mut Facts) -> &mut facts::Table {
    facts.table.as_mut().unwrap().as_mut().unwrap()
}

fn bucket(facts: &mut Facts) -> &mut facts::Bucket {
    facts.bucket.as_mut().unwrap().as_mut().unwrap()
}

fn identity(facts: &mut Facts) -> &mut Identity {
    facts.identity.as_mut().unwrap()
}

fn halves(facts: &mut Facts, table: bool, lockfile: bool) {
    let table = table.then(|| "locks".to_owned());
    facts.state = Ok(Subject { table, lockfile, ..Subject::default() });
}

fn denied<T>() -> Result<T, StoreError> {
    Err(StoreError::Denied { action: "x", detail: "no".to_owned() })
}

fn told(facts: &Facts) -> Vec<(&'static str, Severity)> {
    let findings = CHECKS.iter().filter_map(|check| check.finding(facts));
    findings.map(|found| (found.id, found.severity)).filter(|found| found.1 != Severity::Ok).collect()
}

type Case = (&'static [(&'static str, Severity)], fn(&mut Facts));

/// What is told, and nothing else, where this is amiss in a place that is otherwise good.
const CASES: &[Case] = &[
    (&[], |_| {}),
    (&[("exec", Warning)], |facts| facts.chain = chain(&["Runner.Worker", "bash", "tfguard"])),
    (&[("node", Warning)], |facts| facts.chain = chain(&["Runner.Worker", "node", "tfguard"])),
    (&[("pipe", Warning)], |facts| facts.reader = Some("tee".to_owned())),
    (&[("grace", Warning)], |facts| {
        facts.grace.duration = LONG_ENOUGH / 2;
        facts.cleanup_step = false;
    }),
    (&[], |facts| facts.grace.duration = LONG_ENOUGH / 2),
    (&[("grace", Warning)], |facts| {
        facts.grace.duration = LONG_ENOUGH / 2;
        facts.provider = Some(Provider::Buildkite);
    }),
    (&[("session-place", Problem)], |facts| facts.session = Err(DirectoryError::Symlink("/x".into()))),
    (&[("session-shared", Note)], |facts| session(facts).shared = Some(("RUNNER_TEMP", false))),
    (&[("program", Note)], |facts| facts.programs.push(("tofu is /bin/tofu-bin".to_owned(), true))),
    (&[], |facts| facts.programs.clear()),
    (&[("state", Problem)], |facts| facts.state = Err(TargetError::NoRegion)),
    (&[("state", Problem)], |facts| facts.state = Err(TargetError::NotInitialised { dir: "/x".into() })),
    (&[("state", Note)], |facts| facts.state = Err(Local { dir: "/x".into() })),
    (&[("locking", Problem)], |facts| halves(facts, false, false)),
    (&[], |facts| halves(facts, true, false)),
    (&[], |facts| halves(facts, false, true)),
    (&[("credentials", Problem)], |facts| identity(facts).who = denied()),
    (&[("expiry", Warning)], |facts| identity(facts).end = "2026-01-01T10:10:00Z".parse().ok()),
    (&[("expiry", Warning)], |facts| identity(facts).end = "2026-01-01T09:00:00Z".parse().ok()),
    (&[("expiry", Warning)], |facts| facts.left = Some(Duration::from_secs(2 * 3600))),
    (&[], |facts| {
        identity(facts).end = "2026-01-01T10:10:00Z".parse().ok();
        facts.left = Some(Duration::from_secs(300));
    }),
    (&[], |facts| identity(facts).end = None),
    (&[("table", Problem)], |facts| table(facts).described = Ok(Described::default())),
    (&[("table", Problem)], |facts| facts.table = Some(Err(StoreError::NoSuchTable(String::new())))),
    (&[("table", Note)], |facts| table(facts).described = denied()),
    (&[("ttl", Warning)], |facts| table(facts).expires_by = Ok(Some("Expires".to_owned()))),
    (&[("ttl", Note)], |facts| table(facts).expires_by = denied()),
    (&[("recovery", Note)], |facts| table(facts).recovery = Ok(false)),
    (&[("conditions", Problem)], |facts| table(facts).keeps_conditions = Ok(false)),
    (&[], |facts| table(facts).keeps_conditions = denied()),
    (&[("bucket", Problem)], |facts| bucket(facts).region = Ok(Some("us-east-1".to_owned()))),
    (&[("bucket", Problem)], |facts| facts.bucket = Some(Err(StoreError::NoSuchBucket(String::new())))),
    (&[("bucket", Note)], |facts| bucket(facts).region = denied()),
    (&[("versioning", Warning)], |facts| bucket(facts).versioning = Ok(false)),
    (&[("encryption", Note)], |facts| bucket(facts).encryption = Ok(None)),
    // Outside a CI nothing is asked of what only a CI does.
    (&[], |facts| {
        facts.chain = chain(&["node", "bash", "tfguard"]);
        facts.grace.duration = LONG_ENOUGH / 2;
        (facts.provider, facts.cleanup_step) = (None, false);
    }),
];

#[test]
fn what_is_amiss_is_told_and_nothing_else() {
    for (number, (expected, change)) in CASES.iter().enumerate() {
        let mut facts = good();
        change(&mut facts);
        assert_eq!(told(&facts), *expected, "case {number}");
    }
}

/// Guards against a check that nobody has seen say no, one that is never right, and one without words.
#[test]
fn each_check_is_wrong_in_a_case_and_has_its_words() {
    for check in CHECKS {
        assert!(CASES.iter().any(|case| case.0 == [(check.id, check.severity)]), "{} {:?}", check.id, check.severity);
        let words = [check.right, check.wrong, check.remedy];
        assert!(words.iter().all(|words| !words.is_empty() && !words.ends_with('.')), "{}", check.id);
    }
    let right: Vec<_> = CHECKS.iter().filter_map(|check| check.finding(&good())).map(|found| found.id).collect();
    assert!(CHECKS.iter().all(|check| right.contains(&check.id)), "{right:?}");
}

#[test]
fn the_detail_stands_in_the_sentence_and_the_reason_beside_what_is_unknown() {
    let mut facts = good();
    facts.reader = Some("tee".to_owned());
    table(&mut facts).expires_by = denied();
    let of = |id| CHECKS.iter().find(|check| check.id == id).unwrap().finding(&facts).unwrap();
    assert!(of("pipe").seen.starts_with("tee reads stdout by a pipe: a shell stays around it"));
    let super::Finding { seen, why, fix, .. } = of("ttl");
    assert_eq!(seen, "cannot be told: items do not expire (TTL)");
    assert!(why.unwrap().contains("no") && fix.is_none());
}

/// What its version does not know is not advised, nor the program of another product.
#[test]
fn a_way_to_lock_is_advised_by_product_and_version() {
    for (program, knows_lockfiles, advice) in [
        (Some("tofu"), Some(true), "set `use_lockfile = true`, and run `tofu init -reconfigure`"),
        (Some("terraform"), Some(false), "set dynamodb_table, and run `terraform init -reconfigure`"),
        (None, None, "or dynamodb_table, and run `terraform init -reconfigure`"),
    ] {
        let mut facts = good();
        facts.state = Ok(Subject { program, knows_lockfiles, ..Subject::default() });
        let check = CHECKS.iter().find(|check| check.id == "locking").unwrap();
        let fix = check.finding(&facts).unwrap().fix.unwrap();
        assert!(fix.ends_with(advice), "{fix}");
    }
    let mut facts = good();
    facts.programs =
        [("terraform is /a", false), ("tofu is /b", true)].map(|(name, node)| (name.to_owned(), node)).into();
    facts.state = Ok(Subject { program: Some("terraform"), ..Subject::default() });
    let check = CHECKS.iter().find(|check| check.id == "program").unwrap();
    assert_eq!(check.finding(&facts).unwrap().seen, "terraform is /a");
}
