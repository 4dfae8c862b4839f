//! The scripts of the page about monitoring, run as they stand there, by the AWS CLI and against the stand-in for AWS.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{blocks, text};
use crate::TFGUARD;
use crate::support::*;

/// The scripts below a heading of the page.
fn scripts(heading: &str) -> Vec<String> {
    let page = text("docs/monitoring.md").replace("eu-west-1", Aws::REGION);
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = blocks(section.split("\n## ").next().unwrap());
    section.into_iter().filter(|block| block.info == "sh").map(|block| block.text).collect()
}

/// A script in bash, with tfguard on PATH.
fn script(guard: &Guard, aws: &Aws, script: &str) -> Run {
    let path = format!("{}:{}", Path::new(TFGUARD).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let run = Run::new("bash", guard).args(["-c", script]).envs(Aws::ENV).env("PATH", path);
    run.env("AWS_ENDPOINT_URL", aws.url()).env("AWS_DEFAULT_REGION", Aws::REGION)
}

/// Also when a table cannot be read: an alert looks at what the file then says of it.
#[test]
fn the_file_for_prometheus_is_replaced_by_a_whole_one_only() {
    let aws = Aws::start();
    aws.create_table("terraform-locks");
    let (guard, dir) = (Guard::new(), tempfile::tempdir().unwrap());
    let scripts = scripts("Prometheus");
    let [page] = &*scripts else { panic!("one script: {scripts:?}") };
    let page = page.replace("/var/lib/node_exporter", dir.path().to_str().unwrap());
    let file = || fs::read_to_string(dir.path().join("tfguard.prom")).unwrap();

    script(&guard, &aws, &page).run().expect_code(0);
    assert!(file().contains("tfguard_place_up{place=\"dynamodb:terraform-locks\"} 1\n"), "{}", file());
    script(&guard, &aws, &page.replace("terraform-locks", "another")).run();
    let replaced = file();
    assert!(replaced.contains("tfguard_place_up{place=\"dynamodb:another\"} 0\n"), "{replaced}");
    assert_ne!(script(&guard, &aws, &page.replace("--older-than", "--odler-than")).run().code, Some(0));
    assert_eq!(file(), replaced);
}

#[test]
fn the_cloudwatch_commands_send_the_number_of_stale_locks_and_set_the_alarm() {
    let scripts = scripts("CloudWatch");
    let [metric, alarm] = &*scripts else { panic!("two scripts: {scripts:?}") };

    let aws = Aws::start();
    let table = "terraform-locks";
    aws.create_table(table);
    for state in ["a", "b"] {
        aws.plant_lock(table, &LockInfo::foreign(&format!("acme-states/{state}.tfstate")));
    }
    let guard = Guard::new();
    let cli = format!("aws() {{ '{}' -m awscli \"$@\"; }}", Tools::get().aws_cli().display());
    let run = |words: &str| script(&guard, &aws, &format!("{cli}\n{words}")).run();
    let asked = |words: &str| -> Value { serde_json::from_str(&run(words).expect_code(0).out()).unwrap() };
    let sent = || {
        let day = "--start-time \"$(date -u -d '-1 day' +%FT%TZ)\" --end-time \"$(date -u -d '+1 day' +%FT%TZ)\"";
        let found = asked(&format!(
            "aws cloudwatch get-metric-statistics --namespace Terraform --metric-name StaleLocks \
             --statistics Maximum --period 86400 {day}"
        ));
        found["Datapoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| point["Maximum"].as_f64().unwrap())
            .collect::<Vec<_>>()
    };

    // A table that is not there is no table without locks.
    assert_ne!(run(&metric.replace(table, "another")).code, Some(0));
    assert_eq!(sent(), [0.0; 0]);
    run(metric).expect_code(0);
    assert_eq!(sent(), [2.0]);
    run(alarm).expect_code(0);
    let set = asked("aws cloudwatch describe-alarms");
    let set = &set["MetricAlarms"][0];
    assert_eq!((&set["Namespace"], &set["MetricName"]), (&"Terraform".into(), &"StaleLocks".into()), "{set}");
    assert_eq!(set["TreatMissingData"], "breaching", "{set}");
}
