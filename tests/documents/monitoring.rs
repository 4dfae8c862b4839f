//! The scripts of the page about monitoring, run as they stand there, by the AWS CLI and against the stand-in for AWS.

use std::path::Path;

use serde_json::Value;

use super::{blocks, text};
use crate::TFGUARD;
use crate::support::*;

#[test]
fn the_cloudwatch_commands_send_the_number_of_stale_locks_and_set_the_alarm() {
    let page = text("docs/monitoring.md").replace("eu-west-1", Aws::REGION);
    let (_, section) = page.split_once("\n## CloudWatch\n").unwrap();
    let scripts: Vec<_> = blocks(section.split("\n## ").next().unwrap()).into_iter().map(|block| block.text).collect();
    let [metric, alarm] = &*scripts else { panic!("two scripts: {scripts:?}") };

    let aws = Aws::start();
    let table = "terraform-locks";
    aws.create_table(table);
    for state in ["a", "b"] {
        aws.plant_lock(table, &LockInfo::foreign(&format!("acme-states/{state}.tfstate")));
    }
    let guard = Guard::new();
    let cli = format!("aws() {{ '{}' -m awscli \"$@\"; }}", Tools::get().aws_cli().display());
    let run = |script: &str| {
        let path = format!("{}:{}", Path::new(TFGUARD).parent().unwrap().display(), std::env::var("PATH").unwrap());
        Run::new("bash", &guard)
            .args(["-c", &format!("{cli}\n{script}")])
            .envs(Aws::ENV)
            .env("PATH", path)
            .env("AWS_ENDPOINT_URL", aws.url())
            .env("AWS_DEFAULT_REGION", Aws::REGION)
            .run()
    };
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
