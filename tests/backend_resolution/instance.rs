//! Containers and instances.

use crate::backend_resolution::bed::{Case, ENV_KEYS, FROM_INSTANCE, STS_ANSWERS, check};
use crate::support::{Reply, Server};

/// A metadata service as an instance has it.
fn instance() -> Server {
    Server::start(|request| {
        let has_token = request.header("x-aws-ec2-metadata-token") == Some("granted");
        let (status, body) = match request.target.as_str() {
            "/latest/api/token" if request.method == "PUT" => (200, "granted"),
            _ if !has_token => (401, ""),
            "/latest/meta-data/iam/security-credentials/" => (200, "role"),
            "/latest/meta-data/iam/security-credentials/role" => (200, FROM_INSTANCE),
            _ => (404, ""),
        };
        let headers = vec![("x-aws-ec2-metadata-token-ttl-seconds", "600".to_owned())];
        Reply::Answer { status, headers, body: body.into() }
    })
}

#[test]
fn containers_and_instances_give_credentials() {
    check(&Case {
        name: "a container",
        env: &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{url}/container-role")],
        answers: &[("/container-role", "", FROM_INSTANCE)],
        key: "ASIAINSTANCE",
        ..Case::default()
    });
    let on_top_of = |source: &str| {
        format!(
            "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\ncredential_source = {source}\n\
             role_session_name = ci\n"
        )
    };
    check(&Case {
        name: "a role on top of a container's",
        block: "profile = \"deploy\"",
        env: &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{url}/container-role"),
            ("AWS_CONFIG_FILE", "{dir}/config"),
            ENV_KEYS[0],
            ENV_KEYS[1],
        ],
        files: &[("config", &on_top_of("EcsContainer"))],
        answers: &[&[("/container-role", "", FROM_INSTANCE)], STS_ANSWERS].concat(),
        key: "ASIAASSUMED",
        ..Case::default()
    });
    let instance = instance();
    let url = instance.url();
    let url = url.as_str();
    let block = format!("ec2_metadata_service_endpoint = \"{url}\"");
    let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", url), ("AWS_METADATA_URL", url)];
    for (block, env) in [(block.as_str(), &[][..]), ("", &variables[..1]), ("", &variables[1..])] {
        check(&Case {
            name: "an instance",
            block,
            env,
            without: &["skip_metadata_api_check"],
            key: "ASIAINSTANCE",
            ..Case::default()
        });
    }
    check(&Case {
        name: "a role on top of an instance's",
        block: &format!("{block}\nprofile = \"deploy\""),
        env: &[("AWS_CONFIG_FILE", "{dir}/config")],
        files: &[("config", &on_top_of("Ec2InstanceMetadata"))],
        answers: STS_ANSWERS,
        without: &["skip_metadata_api_check"],
        key: "ASIAASSUMED",
        ..Case::default()
    });
}
