//! One directory, its environment, and what Terraform and tfguard send from there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tfguard::aws::{AwsClients, BackendError, S3Backend, StoreError, Surroundings};
use tfguard::model::{LockClaim, LockKinds};
use tfguard::store::UnconditionalDelete;
use tfguard::terraform::{Backend, read_backend, workspace};

use crate::support::{Answer, Aws, FaultProxy, Match, Seen, Tools};

/// In the settings, `{url}` is where the proxy listens and `{dir}` the working directory.
#[derive(Default)]
pub struct Case<'a> {
    pub name: &'a str,
    /// The lines of the backend block, beside those that every case has.
    pub block: &'a str,
    pub env: &'a [(&'a str, &'a str)],
    /// Beside the configuration.
    pub files: &'a [(&'a str, &'a str)],
    /// Global options of Terraform.
    pub args: &'a [&'a str],
    /// What the proxy answers by itself: to a part of the path and of the body.
    pub answers: &'a [(&'a str, &'a str, &'a str)],
    /// The key that signs.
    pub key: &'a str,
    /// Settings that other cases have in the block.
    pub without: &'a [&'a str],
}

pub const ENV_KEYS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "AKIAENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
pub const ASSUMED: &str = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
    <Credentials><AccessKeyId>ASIAASSUMED</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>\
    <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
pub const BY_WEB: &str = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
    <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
    <SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
    </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
pub const STS_ANSWERS: &[(&str, &str, &str)] =
    &[("", "Action=AssumeRoleWithWebIdentity", BY_WEB), ("", "Action=AssumeRole&", ASSUMED)];
pub const FROM_INSTANCE: &str = "{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"ASIAINSTANCE\",\
    \"SecretAccessKey\":\"s\",\"Token\":\"t\",\"Expiration\":\"2099-01-01T00:00:00Z\",\"LastUpdated\":\"2026-01-01T00:00:00Z\"}";

/// What a request tells of its sender's settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    pub host: String,
    pub path: String,
    pub key: String,
    pub region: String,
    pub service: String,
    pub token: Option<String>,
    pub table: Option<String>,
    pub lock_id: Option<String>,
}

impl Sent {
    pub fn of(seen: &Seen) -> Self {
        let scope =
            seen.header("authorization").and_then(|value| value.split_once("Credential=")).map(|(_, rest)| rest);
        let scope: Vec<&str> =
            scope.unwrap_or_default().split([',', ' ']).next().unwrap_or_default().split('/').collect();
        let part = |at: usize| scope.get(at).copied().unwrap_or_default().to_owned();
        let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let lock_id = body.pointer("/Item/LockID/S").or_else(|| body.pointer("/Key/LockID/S"));
        Self {
            host: seen.header("host").unwrap_or_default().to_owned(),
            path: seen.path.split('?').next().unwrap_or_default().to_owned(),
            key: part(0),
            region: part(2),
            service: part(3),
            token: seen.header("x-amz-security-token").map(str::to_owned),
            table: body["TableName"].as_str().map(str::to_owned),
            lock_id: lock_id.and_then(|id| id.as_str()).map(str::to_owned),
        }
    }
}

/// Who sent a request to STS, and its parameters.
pub type StsRequest = (Sent, BTreeMap<String, String>);

/// Without a session's name that nobody has set.
pub fn sts_request(seen: &Seen) -> StsRequest {
    let text = seen.text();
    let mut parameters: BTreeMap<_, _> = text
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace('+', "%20")))
        .collect();
    // What the SDK for Go says by default; for a profile's role, the SDK for Rust leaves it to STS.
    if parameters.get("DurationSeconds").is_some_and(|seconds| seconds == "900") {
        parameters.remove("DurationSeconds");
    }
    let unset = |name: &String| {
        let name = name.strip_prefix("aws-go-sdk-").unwrap_or(name);
        name == "tfguard" || name.bytes().all(|byte| byte.is_ascii_digit())
    };
    if parameters.get("RoleSessionName").is_some_and(unset) {
        parameters.remove("RoleSessionName");
    }
    (Sent::of(seen), parameters)
}

pub struct Prepared {
    pub aws: &'static Aws,
    pub proxy: FaultProxy,
    pub dir: tempfile::TempDir,
    pub args: Vec<OsString>,
    pub env: HashMap<OsString, OsString>,
}

pub fn fill(text: &str, proxy: &FaultProxy, dir: &Path) -> String {
    text.replace("{url}", proxy.url())
        .replace("{address}", proxy.url().trim_start_matches("http://"))
        .replace("{dir}", &dir.display().to_string())
}

impl Prepared {
    pub fn new(case: &Case) -> Self {
        let aws = Aws::shared();
        let proxy = FaultProxy::start(aws.url());
        for (path, body, answer) in case.answers {
            let matching = if path.is_empty() { Match::any() } else { Match::http("GET", path) };
            proxy.rule(matching.body(body), [Answer::new(200, *answer).into()]);
        }
        let dir = tempfile::tempdir().unwrap();
        let (bucket, table) = (aws.unique("resolution"), aws.unique("resolution"));
        aws.create_bucket(&bucket, false);
        aws.create_table(&table);
        let fill = |text: &str| fill(text, &proxy, dir.path());
        let common = [
            ("region", r#""us-east-1""#),
            ("endpoints", r#"{ s3 = "{url}", dynamodb = "{url}", sts = "{url}", iam = "{url}" }"#),
            ("use_path_style", "true"),
            ("skip_metadata_api_check", "true"),
            ("use_lockfile", "true"),
        ];
        let mut block = format!(
            "bucket = \"{bucket}\"\nkey = \"a/k\"\ndynamodb_table = \"{table}\"\nskip_credentials_validation = true\n\
             skip_requesting_account_id = true\nskip_region_validation = true\n"
        );
        for (name, value) in common.into_iter().filter(|(name, _)| !case.without.contains(name)) {
            block += &format!("{name} = {value}\n");
        }
        let configuration = format!("terraform {{\nbackend \"s3\" {{\n{block}{}\n}}\n}}\n", case.block);
        let infra = dir.path().join("infra");
        std::fs::create_dir_all(&infra).unwrap();
        std::fs::write(infra.join("main.tf"), fill(&configuration)).unwrap();
        for (name, content) in case.files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, fill(content)).unwrap();
        }
        let mut env: HashMap<OsString, OsString> =
            case.env.iter().map(|(name, value)| (name.into(), fill(value).into())).collect();
        env.insert("HOME".into(), dir.path().into());
        env.insert("PATH".into(), std::env::var_os("PATH").unwrap_or_default());
        env.insert("CHECKPOINT_DISABLE".into(), "1".into());
        let args = case.args.iter().map(OsString::from).collect();
        Self { aws, proxy, dir, args, env }
    }

    pub fn fill(&self, text: &str) -> String {
        fill(text, &self.proxy, self.dir.path())
    }

    pub fn cwd(&self) -> PathBuf {
        if self.args.is_empty() { self.dir.path().join("infra") } else { self.dir.path().to_owned() }
    }

    /// Runs a command of Terraform to its end; what it says, if it fails.
    pub fn terraform(&self, command: &str) -> Option<String> {
        let output = std::process::Command::new(Tools::get().any_terraform())
            .args(&self.args)
            .args([command, "-input=false", "-no-color"])
            .current_dir(self.cwd())
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (!output.status.success())
            .then(|| format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    pub fn surroundings(&self) -> Surroundings {
        Surroundings::of_command(&self.cwd(), &self.args, self.env.clone().into_iter().collect())
    }

    /// Lets Terraform take and release a lock, and tfguard ask for one: both send the same.
    #[track_caller]
    pub fn check(&self, case: &Case) {
        let said = [self.terraform("init"), self.terraform("plan")];
        let seen = self.proxy.seen();
        let by_terraform = sent(&seen);
        assert_eq!(said[0], None, "{}", case.name);
        let answers = self.tfguard();
        let by_tfguard = sent(&self.proxy.seen()[seen.len()..]);
        let name = case.name;
        assert_eq!(by_tfguard, by_terraform, "{name}: {answers:?} {said:?}");
        let services: Vec<_> = by_terraform.0.iter().map(|sent| sent.service.as_str()).collect();
        assert_eq!(services, ["dynamodb", "s3"], "{name}: {said:?}");
        assert!(by_terraform.0.iter().all(|sent| sent.key == case.key), "{name}: {by_terraform:?}");
    }

    /// The backend that is recorded.
    pub fn backend(&self) -> Box<S3Backend> {
        let Backend::S3(backend) = read_backend(&self.surroundings()).unwrap() else { panic!("no S3 backend") };
        backend
    }

    /// A lock of the backend's state.
    pub fn claim(&self, backend: &S3Backend) -> LockClaim {
        LockClaim {
            id: "4bb7d84c-f09d-7909-0219-02f6e8d9eeb4".parse().unwrap(),
            operation: "OperationTypePlan".to_owned(),
            who: "root@vm".to_owned(),
            version: "1.11.4".to_owned(),
            bucket: backend.bucket().to_owned(),
            state_key: backend.state_key(&workspace(&self.surroundings())),
            kinds: LockKinds::Both,
        }
    }

    /// Asks for a lock, in both halves, as to release it. Usually it is not there.
    pub fn tfguard(&self) -> Vec<Result<(), StoreError>> {
        let backend = self.backend();
        let claim = self.claim(&backend);
        self.aws.block_on(async {
            let clients = AwsClients::connect(&backend).await.unwrap();
            let mut answers = Vec::new();
            for place in backend.places(&claim).unwrap() {
                let store = clients.open(&place, UnconditionalDelete::Refuse);
                answers.push(store.delete_if(&claim, None).await.map(|_| ()));
            }
            answers
        })
    }
}

pub fn is_lock_request(seen: &Seen) -> bool {
    matches!(seen.operation(), Some("PutItem" | "GetItem" | "DeleteItem")) && !seen.text().contains("-md5")
        || seen.path.contains(".tflock")
}

/// The requests for the lock, and those to STS.
pub fn sent(seen: &[Seen]) -> (Vec<Sent>, Vec<StsRequest>) {
    let mut locks: Vec<_> = seen.iter().filter(|seen| is_lock_request(seen)).map(Sent::of).collect();
    let mut sts: Vec<_> = seen.iter().filter(|seen| seen.text().contains("Action=Assume")).map(sts_request).collect();
    locks.sort();
    locks.dedup();
    sts.sort();
    sts.dedup();
    (locks, sts)
}

#[track_caller]
pub fn check(case: &Case) {
    Prepared::new(case).check(case);
}

pub fn check_all(cases: &[Case]) {
    for case in cases {
        check(case);
    }
}

/// Records a backend as `init` would.
pub fn record(dir: &Path, config: &serde_json::Value) {
    let data = dir.join(".terraform");
    std::fs::create_dir_all(&data).unwrap();
    let record = serde_json::json!({"version": 3, "backend": {"type": "s3", "hash": 1, "config": config}});
    std::fs::write(data.join("terraform.tfstate"), record.to_string()).unwrap();
}

pub fn connect(dir: &Path, config: &serde_json::Value, env: &[(&str, &str)]) -> Result<AwsClients, BackendError> {
    record(dir, config);
    let surroundings = Surroundings { dir: dir.to_owned(), env: env.iter().copied().collect() };
    let Backend::S3(backend) = read_backend(&surroundings)? else { panic!("no S3 backend") };
    Aws::shared().block_on(AwsClients::connect(&backend))
}
