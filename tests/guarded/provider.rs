//! Real resources of the real AWS provider, where a mirror has it: `TFGUARD_TEST_PROVIDERS` names one, unpacked, as
//! `terraform providers mirror` and `filesystem_mirror` have it; else those that Terraform itself looks into.

use super::*;
use nix::sys::signal::Signal::SIGTERM;

/// An object, made at once, and then an item, whose request the gate holds.
fn project_held_by(gate: &Gate, proxy: &FaultProxy, mirror: &Path) -> Project<'static> {
    let (aws, url) = (Aws::shared(), proxy.url());
    let (bucket, table) = (aws.unique("objects"), aws.unique("items"));
    aws.create_bucket(&bucket, false);
    aws.create_table(&table);
    let resources = format!(
        r#"resource "aws_s3_object" "made" {{
  bucket  = "{bucket}"
  key     = "made"
  content = "made"
}}
resource "aws_dynamodb_table_item" "held" {{
  table_name = "{table}"
  hash_key   = "LockID"
  item       = jsonencode({{ LockID = {{ S = "held-item" }} }})
  depends_on = [aws_s3_object.made]
}}
"#
    );
    proxy.rule(Match::dynamodb("PutItem").body("held-item"), [gate.hold()]);
    project_of(mirror, url, &resources).init(&terraform())
}

/// A project with these resources of AWS at `url`, and a lock table.
pub fn project_of(mirror: &Path, url: &str, resources: &str) -> Project<'static> {
    let configuration = format!(
        r#"terraform {{
  required_providers {{
    aws = {{ source = "hashicorp/aws" }}
  }}
}}
provider "aws" {{
  region                      = "{region}"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  s3_use_path_style           = true
  endpoints {{
    dynamodb = "{url}"
    iam      = "{url}"
    s3       = "{url}"
    sqs      = "{url}"
    sts      = "{url}"
  }}
}}
{resources}"#,
        region = Aws::REGION
    );
    let project = project(Kind::Hcl(configuration)).table();
    let cli = format!("provider_installation {{\n  filesystem_mirror {{\n    path = {mirror:?}\n  }}\n}}\n");
    std::fs::write(project.work().join("../home/.terraformrc"), cli).expect("a file can be written");
    project
}

#[test]
fn a_cancelled_apply_of_real_resources_saves_what_it_made_and_unlocks() {
    let Some(mirror) = aws_provider_mirror() else { return };
    let (gate, proxy) = (Gate::new(), FaultProxy::start(Aws::shared().url()));
    let project = project_held_by(&gate, &proxy, &mirror);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).new_group().start();
    gate.wait_for(1, SOON);
    let provider = |line: &String| line.contains("terraform-provider-aws");
    assert!(project.guard().processes().iter().any(provider), "{:?}", project.guard().processes());
    run.signal(SIGTERM);
    // The provider gives up the request that is held, which may be carried out all the same: no plan will see that.
    let exit = run.wait(SOON).expect_code(121);
    assert!(
        exit.err().contains("aws_dynamodb_table_item.held: its creation was begun and no end of it seen"),
        "{exit}"
    );
    assert!(!exit.err().contains("aws_s3_object.made:"), "{exit}");
    assert_eq!(exit.out().matches("Interrupt received.").count(), 1, "{exit}");
    // A provider that receives a signal itself dies of it.
    assert!(!exit.err().contains("Plugin did not respond") && !exit.err().contains("plugin exited"), "{exit}");
    assert!(exit.err().contains("released by Terraform"), "{exit}");
    assert_clean(&project);
    let state = project.state().expect("a state").to_string();
    assert!(state.contains("aws_s3_object"), "{state}");
}

#[test]
fn the_lock_of_a_killed_apply_of_real_resources_is_deleted_when_its_provider_is_gone() {
    let Some(mirror) = aws_provider_mirror() else { return };
    let (gate, proxy) = (Gate::new(), FaultProxy::start(Aws::shared().url()));
    let project = project_held_by(&gate, &proxy, &mirror);
    let run = project.tfguard(TFGUARD, [""; 0], APPLY).new_group().start();
    gate.wait_for(1, SOON);
    kill(pid_of(&journal(&project)["child"]["id"]));
    let exit = run.wait(SOON).expect_code(121);
    assert!(exit.err().contains("aws_s3_object.made: made, id made"), "{exit}");
    assert!(exit.err().contains("left by Terraform, deleted by tfguard"), "{exit}");
    assert_clean(&project);
}
