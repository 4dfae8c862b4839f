//! `tfguard locks`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::TFGUARD;
use crate::operator::bed::{Bed, OWN, json, reach};
use crate::support::{Answer, Aws, Exit, Guard, Kind, LockInfo, Match, Project, Reply, Run, Server, Tools};

/// The lock of a state, from `--format json`.
#[track_caller]
fn lock_of<'a>(listed: &'a Value, state: &str) -> &'a Value {
    let found: Vec<_> = listed["locks"].as_array().unwrap().iter().filter(|lock| lock["state"] == state).collect();
    assert_eq!(found.len(), 1, "{state}: {listed:#}");
    found[0]
}

/// A table and a bucket with everything that can lie there.
fn menagerie() -> Bed {
    let bed = Bed::new();
    bed.in_both(&bed.lock("both", OWN));
    bed.object("both", "{}");
    bed.item(&bed.path("both-md5"), &[("Digest", "d41d8cd98f00b204e9800998ecf8427e")]);
    bed.item(&bed.path("broken-digest-md5"), &[]);
    bed.in_table(&bed.lock("gone", "1bb7d84c-f09d-7909-0219-02f6e8d9eeb4"));
    bed.item(&bed.path("ghost"), &[("ExpiresAt", "7")]);
    bed.item(&bed.path("malformed"), &[("Info", "not JSON")]);
    bed.item(&bed.path("named-md5"), &[("Info", &bed.lock("named-md5", OWN).json())]);
    bed.object("empty.tflock", "");
    bed.object("garbage.tflock", "<html>");
    bed.aws.put_object(&bed.bucket, "copied.tflock", bed.lock("elsewhere", OWN).json().into_bytes());
    bed
}

#[test]
fn everything_that_can_lie_in_a_table_and_a_bucket_is_told_apart() {
    let bed = menagerie();
    let exit = bed.tfguard(&["locks", "--table", &bed.table, "--bucket", &bed.bucket, "--format", "json"]).run();
    let listed = json(&exit.expect_code(0));
    let of = |key: &str| lock_of(&listed, &bed.path(key));

    let both = of("both");
    assert_eq!((&both["id"], &both["verdict"], &both["stale"]), (&json!(OWN), &json!("unknown"), &json!([])));
    let kinds: Vec<_> = both["places"].as_array().unwrap().iter().map(|place| place["kind"].clone()).collect();
    assert_eq!(kinds, ["lockfile", "dynamodb"], "both halves are one lock");
    assert_eq!((&both["state_exists"], &of("gone")["state_exists"]), (&json!(true), &json!(false)));
    assert!(of("gone")["notes"][0].as_str().unwrap().contains("no state object"), "{listed:#}");
    for (key, defect) in [("ghost", "ghost"), ("malformed", "malformed"), ("empty", "empty"), ("garbage", "malformed")]
    {
        let lock = of(key);
        assert_eq!((&lock["defect"], &lock["stale"][0], &lock["id"]), (&json!(defect), &json!(defect), &json!(null)));
    }
    assert_eq!(of("garbage")["content"], "<html>");
    assert_eq!(of("named-md5")["id"], OWN, "a lock whose key ends as digests' do");
    let path = bed.path("elsewhere");
    assert!(of("copied")["notes"][0].as_str().unwrap().contains(&path), "{listed:#}");
    assert_eq!((&listed["summary"]["locks"], &listed["summary"]["stale"]), (&json!(8), &json!(4)));
    bed.assert_only_read();
}

#[test]
fn the_table_for_people_shows_what_json_does() {
    let bed = menagerie();
    let exit = bed.tfguard(&["locks", "--table", &bed.table, "--bucket", &format!("s3://{}/e", bed.bucket)]).run();
    let exit = exit.expect_code(0);
    let out = exit.out();
    let line =
        |key: &str| out.lines().find(|line| line.starts_with(&format!("{} ", bed.path(key)))).unwrap_or_default();
    assert!(line("both").contains(OWN) && line("both").contains("runner@build-7f9c4"), "{exit}");
    assert!(line("ghost").contains("ghost") && line("empty").contains("empty"), "{exit}");
    assert!(!out.contains("garbage"), "not below the prefix: {exit}");
    assert!(out.ends_with("6 locks, 3 stale; holders: 0 alive, 0 dead, 6 unknown\n"), "{exit}");
    assert!(!out.contains("both-md5") && !out.contains("broken-digest"), "digests are no locks: {exit}");
}

#[test]
fn the_monitors_format_has_each_lock_and_the_sums() {
    let bed = menagerie();
    let words = ["locks", "--table", &bed.table, "--format", "prometheus", "--older-than", "1h"];
    let out = bed.tfguard(&words).run().expect_code(0).out();
    let created = "2026-03-04T05:06:07Z".parse::<jiff::Timestamp>().unwrap().as_second();
    let both = format!(
        "tfguard_lock_created_timestamp_seconds{{state=\"{}\",id=\"{OWN}\",operation=\"OperationTypeApply\",\
         who=\"runner@build-7f9c4\",run=\"\",verdict=\"unknown\",stale=\"old\",place=\"dynamodb:{}\"}} {created}\n",
        bed.path("both"),
        bed.table
    );
    assert!(out.contains(&both), "{out}");
    assert!(out.contains(&format!("stale=\"ghost\",place=\"dynamodb:{}\"}} NaN\n", bed.table)), "{out}");
    assert!(out.contains("tfguard_stale_locks 5\n") && out.contains("tfguard_locks{verdict=\"unknown\"} 5\n"), "{out}");
    assert!(out.contains(&format!("tfguard_place_up{{place=\"dynamodb:{}\"}} 1\n", bed.table)), "{out}");
    // Samples of a family stand together, below its type.
    let mut families: Vec<_> = out.lines().filter(|line| !line.starts_with("# HELP")).collect();
    families.dedup_by_key(|line| line.trim_start_matches("# TYPE ").split(['{', ' ']).next().unwrap().to_owned());
    assert_eq!(families.len(), 5, "{families:?}");
}

#[test]
fn stale_is_what_is_old_if_asked_or_no_lock_and_fail_says_so() {
    let bed = Bed::new();
    let now = jiff::Timestamp::now();
    let lock =
        |key: &str, id: &str, created: jiff::Timestamp| LockInfo { created: created.to_string(), ..bed.lock(key, id) };
    bed.in_table(&lock("young", OWN, now));
    let code = |options: &[&str]| {
        let words = [&["locks", "--table", bed.table.as_str(), "--fail"], options].concat();
        bed.tfguard(&words).run().code
    };
    assert_eq!(code(&[]), Some(0));
    assert_eq!(code(&["--older-than", "2h"]), Some(0));
    bed.in_table(&lock("old", "1bb7d84c-f09d-7909-0219-02f6e8d9eeb4", now - jiff::SignedDuration::from_hours(3)));
    assert_eq!(code(&[]), Some(0), "age alone means nothing where nobody asked");
    assert_eq!(code(&["--older-than", "2h"]), Some(122));
    let words = ["locks", "--table", &bed.table, "--older-than", "2h", "--stale", "--format", "json"];
    let listed = json(&bed.tfguard(&words).run().expect_code(0));
    assert_eq!(listed["locks"].as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!((&listed["locks"][0]["stale"], &listed["summary"]["locks"]), (&json!(["old"]), &json!(2)));
    bed.item(&bed.path("ghost"), &[]);
    assert_eq!(code(&[]), Some(122));
}

#[test]
fn a_directory_shows_its_states_lock_and_several_are_shown_at_once() {
    let terraform = Tools::get().any_terraform();
    let projects = [(); 2].map(|()| Project::new(Aws::shared(), Kind::Quick).table().lockfile().init(&terraform));
    for project in &projects {
        let lock = LockInfo::foreign(&project.lock_id());
        project.aws().plant_lock(project.table_name(), &lock);
        project.aws().plant_lockfile(&lock);
    }
    let here = projects[0].command(TFGUARD).args(["locks", "--format=json"]).run().expect_code(0);
    let listed = json(&here);
    assert_eq!(lock_of(&listed, &projects[0].lock_id())["places"].as_array().unwrap().len(), 2, "{listed:#}");
    let other = projects[1].work();
    let both = projects[0].command(TFGUARD).args(["locks", "--format=json", "--chdir=."]);
    let both = both.arg("--chdir").arg(&other).args(["--table", projects[0].table_name(), "--region", Aws::REGION]);
    let both = both.args(["--dynamodb-endpoint", projects[0].aws().url()]).run().expect_code(0);
    let listed = json(&both);
    assert_eq!(listed["locks"].as_array().unwrap().len(), 2, "the table's lock is the directory's: {listed:#}");
    assert_eq!(lock_of(&listed, &projects[0].lock_id())["places"].as_array().unwrap().len(), 2, "{listed:#}");
    // The key was changed: the lock of the old one blocks nobody, and is nobody's.
    let old = LockInfo::foreign(&format!("{}/before", projects[0].bucket()));
    projects[0].aws().plant_lock(projects[0].table_name(), &old);
    let words = ["locks", "--format=json", "--chdir=.", "--table", projects[0].table_name(), "--region", Aws::REGION];
    let both = projects[0].command(TFGUARD).args(words).args(["--dynamodb-endpoint", projects[0].aws().url()]);
    let listed = json(&both.run().expect_code(0));
    let notes = |state: &str| lock_of(&listed, state)["notes"].to_string();
    assert!(notes(&old.path).contains("none of the directories") && notes(&old.path).contains("no state object"));
    assert!(!notes(&projects[0].lock_id()).contains("none of the directories"), "{listed:#}");
    // Where a half cannot be read, only the other is known.
    projects[1]
        .aws()
        .block_on(projects[1].aws().dynamodb().delete_table().table_name(projects[1].table_name()).send())
        .unwrap();
    let half = projects[1].command(TFGUARD).args(["locks", "--format=json"]).run().expect_code(125);
    let listed = json(&half);
    assert_eq!(lock_of(&listed, &projects[1].lock_id())["places"].as_array().unwrap().len(), 1, "{listed:#}");
    assert!(half.err().contains("no such DynamoDB table"), "{half}");
    let missing = projects[0].command(TFGUARD).args(["locks", "--chdir", "missing"]).run().expect_code(125);
    assert!(missing.err().contains("terraform init"), "{missing}");
}

#[test]
fn what_cannot_be_read_is_said_and_does_not_stop_the_rest() {
    let bed = Bed::new();
    bed.in_table(&bed.lock("a", OWN));
    bed.item(&bed.path("ghost"), &[]);
    bed.aws.plant_lockfile(&bed.lock("b", OWN));
    bed.aws.plant_lockfile(&bed.lock("c", OWN));
    bed.proxy
        .rule(Match::dynamodb("Scan").body("denied-table"), [Answer::dynamodb("AccessDeniedException", "no").into()]);
    bed.proxy.rule(Match::http("GET", "/b.tflock"), [Answer::s3(403, "AccessDenied", "no").into()]);
    let tables = format!("missing-table,denied-table,{}", bed.table);
    let words = ["locks", "--table", &tables, "--bucket", &bed.bucket, "--bucket", "no-bucket", "--format", "json"];
    let exit = bed.tfguard(&words).run().expect_code(125);
    let listed = json(&exit);
    let states: Vec<_> = listed["locks"].as_array().unwrap().iter().map(|lock| lock["state"].clone()).collect();
    assert_eq!(states.len(), 3, "{listed:#}");
    let errors: Vec<_> = listed["summary"]["places"].as_array().unwrap().iter().map(|place| &place["error"]).collect();
    let says = |at: usize, text: &str| assert!(errors[at].as_str().unwrap_or_default().contains(text), "{errors:#?}");
    says(0, "reading 1 of its lockfiles failed, the first: object ");
    says(1, "no such bucket");
    says(2, "no such DynamoDB table");
    says(3, "dynamodb:Scan was denied");
    assert!(errors[4].is_null(), "{errors:?}");
    assert!(exit.err().contains("Grant dynamodb:Scan"), "{exit}");
    let empty = bed.tfguard(&["locks", "--bucket", "no-bucket"]).run().expect_code(125);
    assert_eq!(empty.out(), "could not read s3://no-bucket/\n", "not seen is not gone: {empty}");
    let fail = bed.tfguard(&[&words[..], &["--fail"]].concat()).run();
    assert_eq!(fail.code, Some(122), "that something is stale is told first: {fail}");
}

/// Whoever may lock a state writes texts that others look at.
#[test]
fn foreign_texts_steer_no_terminal() {
    let bed = Bed::new();
    let hostile = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}\"} 1\nfake 2 \\";
    let lock = LockInfo {
        who: hostile.to_owned(),
        operation: hostile.to_owned(),
        path: hostile.to_owned(),
        ..bed.lock("a", OWN)
    };
    bed.item(&bed.path("a"), &[("Info", &lock.json())]);
    bed.item(&bed.path("b"), &[("Info", hostile)]);
    bed.item(&format!("{}/{hostile}", bed.bucket), &[]);
    for format in ["table", "json", "prometheus"] {
        let exit = bed.tfguard(&["locks", "--table", &bed.table, "--format", format, "-v"]).run().expect_code(0);
        let steers = |char: char| char != '\n' && (char.is_control() || char == '\u{202e}');
        assert!(!exit.out().contains(steers) && !exit.err().contains(steers), "{format}: {exit}");
        assert!(!exit.out().lines().any(|line| line.starts_with("fake")), "{format}: {exit}");
        if format == "json" {
            assert_eq!(lock_of(&json(&exit), &bed.path("a"))["who"], hostile, "the value is what it was");
        }
    }
    let exit = bed.about("a", &["inspect"]).run();
    assert!(!exit.out().contains(|char: char| char != '\n' && char.is_control()), "{exit}");
}

/// Guards against a file that a scraper refuses as a whole, because two samples have the same labels: keys that differ in
/// characters that nobody sees, something at both places of a state, and places that are named twice.
#[test]
fn no_two_samples_of_the_monitors_format_are_the_same() {
    let bed = menagerie();
    let long = "x".repeat(900);
    let odd = ["\u{1}", "\u{2}", "\u{202e}", "\u{7f}", "\\u0001", "\\", "#", "##", "# #", &long, &format!("{long}y")];
    for key in odd {
        bed.item(&bed.path(&format!("odd{key}")), &[]);
    }
    bed.object("ghost.tflock", "");
    let tables = format!("{0},{0}", bed.table);
    let buckets = format!("{0},{0}/,s3://{0}/e", bed.bucket);
    let words = ["locks", "--table", &tables, "--bucket", &buckets, "--format", "prometheus"];
    let out = bed.tfguard(&words).run().expect_code(0).out();
    let samples: Vec<_> = out.lines().filter(|line| !line.starts_with('#')).collect();
    let series: std::collections::HashSet<_> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.len(), samples.len(), "{out}");
    let locks = samples.iter().filter(|line| line.starts_with("tfguard_lock_created")).count();
    assert_eq!(locks, 9 + odd.len(), "{out}");
    assert!(out.contains(&format!("tfguard_locks{{verdict=\"unknown\"}} {locks}\n")), "each counts once: {out}");
    for escaped in [r#"odd\\u0001","#, r#"odd\\u202e","#, r#"odd\\u005cu0001","#, r#"odd\\","#, r#"odd#\\u0023","#] {
        assert!(out.contains(escaped), "{escaped}: {out}");
    }
}

#[test]
fn a_place_without_a_name_is_refused() {
    let bed = Bed::new();
    for words in [["--table", ""], ["--table", "a,"], ["--bucket", ","], ["--bucket", "s3://"], ["--bucket", "/a"]] {
        let exit = bed.tfguard(&[&["locks"][..], &words].concat()).run().expect_code(2);
        assert!(exit.err().contains("has a name") && exit.err().contains(words[0]), "{exit}");
        assert!(exit.stdout.is_empty(), "{exit}");
    }
    assert!(bed.proxy.seen().is_empty());
}

/// Nor the CI in whose log a monitor's job shows them: GitHub's runner and Azure's agent obey `##[…]` and `##vso[…]`
/// wherever in a line they are, and GitHub's `::…::` where a line begins so.
#[test]
fn foreign_texts_give_no_orders_to_a_ci() {
    let bed = Bed::new();
    let orders = "##vso[task.setvariable variable=a]b ###[add-path]c";
    let lock = LockInfo { who: orders.to_owned(), operation: orders.to_owned(), ..bed.lock("a", OWN) };
    bed.in_table(&lock);
    bed.item(&bed.path("b"), &[("Info", orders)]);
    bed.item("::add-path::/evil", &[]);
    bed.item(&format!(" ::error::{orders}"), &[]);
    let assert_no_orders = |exit: &Exit| {
        let obeyed = |line: &str| line.contains("##") || line.trim_start().starts_with("::");
        assert!(!exit.out().lines().any(obeyed), "{exit}");
    };
    for format in ["table", "json", "prometheus"] {
        let exit = bed.tfguard(&["locks", "--table", &bed.table, "--format", format]).run().expect_code(0);
        assert_no_orders(&exit);
        if format == "json" {
            assert_eq!(lock_of(&json(&exit), &bed.path("a"))["who"], orders, "the value is what it was");
        }
    }
    for key in ["a", "b"] {
        assert_no_orders(&bed.about(key, &["inspect"]).run());
        assert_no_orders(&bed.about(key, &["unlock", OWN]).run());
    }
}

#[test]
fn a_list_of_several_pages_is_whole() {
    let bed = Bed::new();
    // A page has a megabyte.
    let long = "x".repeat(8000);
    let id = |n: u32| format!("{n:08x}-f09d-7909-0219-02f6e8d9eeb4");
    bed.many((0..300).map(|n| LockInfo { info: long.clone(), ..bed.lock(&n.to_string(), &id(n)) }));
    for n in 0..10 {
        bed.aws.plant_lockfile(&bed.lock(&n.to_string(), &id(n)));
    }
    let words = ["locks", "--table", &bed.table, "--bucket", &bed.bucket, "--format", "json"];
    let listed = json(&bed.tfguard(&words).run().expect_code(0));
    let locks = listed["locks"].as_array().unwrap();
    let states: std::collections::HashSet<_> = locks.iter().map(|lock| lock["state"].as_str().unwrap()).collect();
    assert_eq!((locks.len(), states.len()), (300, 300));
    assert_eq!(locks.iter().filter(|lock| lock["places"].as_array().unwrap().len() == 2).count(), 10);
    let pages = bed.proxy.seen_matching(&Match::dynamodb("Scan")).len();
    assert!(pages > 1, "{pages} page");
    for scan in bed.proxy.seen_matching(&Match::dynamodb("Scan")) {
        assert!(scan.text().contains("ProjectionExpression") && !scan.text().contains("ConsistentRead\":true"));
    }
}

#[test]
fn a_person_at_a_terminal_sees_how_far_it_is() {
    let bed = menagerie();
    let exit = bed.tfguard(&["locks", "--table", &bed.table]).pty().run().expect_code(0);
    assert!(exit.out().contains("tfguard: 7 read, 5 locks\r\u{1b}[K"), "{exit}");
    let quiet = bed.tfguard(&["locks", "--table", &bed.table, "-q"]).pty().run().expect_code(0);
    assert!(!quiet.out().contains(" read, "), "{quiet}");
    let piped = bed.tfguard(&["locks", "--table", &bed.table]).run().expect_code(0);
    assert!(piped.err().is_empty(), "{piped}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let bed = Bed::new();
    let long = "x".repeat(100_000);
    bed.many((0..10).map(|n| LockInfo { who: long.clone(), ..bed.lock(&n.to_string(), OWN) }));
    let script = ["-c", "\"$@\" | head -c 10; exit 7", "sh", TFGUARD, "locks", "--format=json", "--table", &bed.table];
    let exit = Run::new("sh", &bed.guard).args(script).args(reach(bed.proxy.url())).envs(Aws::ENV).run();
    assert_eq!((exit.code, exit.err().as_str()), (Some(7), ""), "{exit}");
}

/// Guards against "no stale lock" where nobody read the list to its end.
#[test]
fn fail_says_so_also_where_the_reader_has_gone() {
    let bed = Bed::new();
    let long = "x".repeat(100_000);
    bed.many((0..10).map(|n| LockInfo { who: long.clone(), ..bed.lock(&n.to_string(), OWN) }));
    bed.item(&bed.path("ghost"), &[]);
    for format in ["json", "table"] {
        let script =
            ["-c", "{ \"$@\"; echo $? >&2; } | head -c 10", "sh", TFGUARD, "locks", "--fail", "--format", format];
        let run = Run::new("sh", &bed.guard).args(script).args(["--table", &bed.table]);
        let exit = run.args(reach(bed.proxy.url())).envs(Aws::ENV).run();
        assert_eq!(exit.err(), "122\n", "{format}: {exit}");
    }
}

/// A table of 100 000 locks is gone through in pages: what is held does not grow with it, nor with the number of buckets.
/// (The table is played: moto goes through all of it for each page.)
#[test]
fn a_hundred_thousand_locks_are_listed_in_bounded_memory() {
    const LOCKS: u32 = 100_000;
    const PAGE: u32 = 2_000;
    let item = |n: u32| {
        let lock =
            LockInfo { id: format!("{n:08x}-f09d-7909-0219-02f6e8d9eeb4"), ..LockInfo::foreign(&format!("b{n}/{n}")) };
        json!({"LockID": {"S": lock.path}, "Info": {"S": lock.json()}})
    };
    let server = Server::start(move |request| {
        if request.method == "HEAD" {
            return Reply::status(404);
        }
        let first = request.json()["ExclusiveStartKey"]["LockID"]["S"].as_str().map_or(0, |n| n.parse().unwrap());
        let next = first + PAGE;
        let items: Vec<_> = (first..next).map(item).collect();
        let mut page = json!({"Items": items, "Count": PAGE, "ScannedCount": PAGE});
        if next < LOCKS {
            page["LastEvaluatedKey"] = json!({"LockID": {"S": next.to_string()}});
        }
        Reply::json(200, &page)
    });
    for format in ["json", "table"] {
        let guard = Guard::new();
        // Its data, in kilobytes: half of what these locks have.
        let limited =
            ["-c", "ulimit -d 16384; exec \"$@\"", "sh", TFGUARD, "locks", "--table", "t", "--format", format];
        let run = Run::new("sh", &guard).args(limited).args(reach(&server.url())).envs(Aws::ENV);
        let exit = run.start().wait(Duration::from_secs(600)).expect_code(0);
        let rows = exit.out().lines().filter(|line| line.contains("-f09d-7909-0219-02f6e8d9eeb4")).count();
        assert_eq!(rows, LOCKS as usize, "{format}");
    }
}
