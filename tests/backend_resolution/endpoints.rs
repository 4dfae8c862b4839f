//! Regions, endpoints, proxies, authorities, and where the state is.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use tfguard::aws::{BackendError, StoreError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::TFGUARD;
use crate::backend_resolution::bed::{Case, ENV_KEYS, Prepared, check_all, connect, record};
use crate::support::{Action, Answer, Aws, Guard, LockInfo, Match, Run, Seen};

const SERVICES: &str = "[default]\nservices = local\n\
    [services local]\ns3 =\n  endpoint_url = {url}\ndynamodb =\n  endpoint_url = {url}\n";

/// A store that ignores the condition of a delete is one also where only a shared file leads to it.
#[test]
fn a_store_that_a_shared_file_names_is_examined() {
    for config in ["[default]\nendpoint_url = {url}\n", SERVICES] {
        let env = &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_CONFIG_FILE", "{dir}/config")];
        let files = &[("config", config)];
        let prepared = Prepared::new(&Case { env, files, without: &["endpoints"], ..Case::default() });
        assert_eq!(prepared.terraform("init"), None, "{config}");
        prepared.proxy.rule(Match::http("DELETE", ""), [Action::Strip("if-match")]);
        let claim = prepared.claim(&prepared.backend());
        let own = LockInfo {
            id: claim.id.to_string(),
            operation: claim.operation.clone(),
            who: claim.who.clone(),
            ..LockInfo::foreign(&claim.lock_id())
        };
        prepared.aws.plant_lockfile(&own);
        let answers = prepared.tfguard();
        assert!(matches!(answers[0], Err(StoreError::NoConditions(_))), "{config}: {answers:?}");
        assert!(prepared.aws.lockfile(&claim.lock_id()).is_some(), "{config}");
    }
}

#[test]
fn regions_and_endpoints_are_those_of_terraform() {
    const KEYS: [(&str, &str); 2] = [ENV_KEYS[0], ENV_KEYS[1]];
    check_all(&[
        Case {
            name: "the region in the environment",
            env: &[KEYS[0], KEYS[1], ("AWS_REGION", "eu-west-1"), ("AWS_DEFAULT_REGION", "eu-west-2")],
            without: &["region"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "the default region in the environment",
            env: &[KEYS[0], KEYS[1], ("AWS_DEFAULT_REGION", "eu-west-2")],
            without: &["region"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "endpoints in the old attributes win over variables",
            block: "endpoint = \"{url}\"\ndynamodb_endpoint = \"{url}\"",
            env: &[
                KEYS[0],
                KEYS[1],
                ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"),
                ("AWS_DYNAMODB_ENDPOINT", "http://127.0.0.1:1"),
            ],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "endpoints in variables",
            env: &[
                KEYS[0],
                KEYS[1],
                ("AWS_ENDPOINT_URL_S3", "{url}"),
                ("AWS_ENDPOINT_URL_DYNAMODB", "{url}"),
                ("AWS_S3_ENDPOINT", "http://127.0.0.1:1"),
                ("AWS_DYNAMODB_ENDPOINT", "http://127.0.0.1:1"),
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "endpoints in old variables",
            env: &[
                KEYS[0],
                KEYS[1],
                ("AWS_S3_ENDPOINT", "{url}"),
                ("AWS_DYNAMODB_ENDPOINT", "{url}"),
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "one endpoint for all in a variable",
            env: &[KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", "{url}")],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "one endpoint for all in a shared file",
            env: &[KEYS[0], KEYS[1], ("AWS_CONFIG_FILE", "{dir}/config")],
            files: &[("config", "[default]\nendpoint_url = {url}\n")],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "endpoints of services in a shared file",
            env: &[KEYS[0], KEYS[1], ("AWS_CONFIG_FILE", "{dir}/config")],
            files: &[("config", SERVICES)],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
    ]);
}

/// A store behind a path, as Supabase has it: the bucket comes after a slash, also where the endpoint ends with none. In
/// the store of the tests that path is a bucket, and what follows an object's key.
#[test]
fn a_bucket_comes_below_the_path_of_an_endpoint() {
    let aws = Aws::shared();
    let path = aws.unique("path");
    aws.create_bucket(&path, false);
    let endpoint = format!("{{url}}/{path}");
    let in_block = |slash: &str| format!("endpoints = {{ s3 = \"{endpoint}{slash}\", dynamodb = \"{{url}}\" }}");
    let in_file = format!(
        "[default]\nservices = x\n[services x]\ns3 =\n  endpoint_url = {endpoint}\ndynamodb =\n  endpoint_url = {{url}}\n"
    );
    let of = |name, block, env| Case {
        name,
        block,
        env,
        files: &[],
        answers: &[("list-type=2", "", "<ListBucketResult/>")],
        without: &["endpoints"],
        key: "AKIAENV",
        ..Case::default()
    };
    let by_variable = [ENV_KEYS, &[("AWS_ENDPOINT_URL_S3", &*endpoint), ("AWS_ENDPOINT_URL", "{url}")]].concat();
    let by_file = [ENV_KEYS, &[("AWS_CONFIG_FILE", "{dir}/config")]].concat();
    check_all(&[
        of("in the block", &in_block(""), ENV_KEYS),
        of("in the block, with a slash", &in_block("/"), ENV_KEYS),
        of("in a variable", "", &by_variable),
        Case { files: &[("config", &in_file)], ..of("in a shared file", "", &by_file) },
    ]);
}

#[test]
fn the_state_is_found_as_terraform_finds_it() {
    const KEYS: [(&str, &str); 2] = [ENV_KEYS[0], ENV_KEYS[1]];
    check_all(&[
        Case { name: "-chdir", env: ENV_KEYS, args: &["-chdir=infra"], key: "AKIAENV", ..Case::default() },
        Case {
            name: "a workspace below a prefix, with data elsewhere",
            block: "workspace_key_prefix = \"ws/x\"",
            env: &[KEYS[0], KEYS[1], ("TF_WORKSPACE", "blue"), ("TF_DATA_DIR", "../data")],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "a workspace below the usual prefix",
            env: &[KEYS[0], KEYS[1], ("TF_WORKSPACE", "blue")],
            key: "AKIAENV",
            ..Case::default()
        },
    ]);
}

/// Which servers are asked, seen by a proxy that lets nobody through: (method, host).
fn hosts(seen: &[Seen]) -> Vec<(String, String)> {
    let mut hosts: Vec<_> =
        seen.iter().map(|seen| (seen.method.to_string(), seen.header("host").unwrap_or_default().to_owned())).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

#[test]
fn proxies_and_kinds_of_endpoints_are_those_of_terraform() {
    use serde_json::json;
    for (settings, env) in [
        (json!({"https_proxy": "{url}"}), None),
        // Without one of their own, encrypted requests take this one.
        (json!({"http_proxy": "{url}"}), None),
        (json!({}), Some(("HTTPS_PROXY", "{url}"))),
        (json!({}), Some(("https_proxy", "{address}"))),
        (json!({"https_proxy": "{url}", "use_path_style": true}), None),
        (json!({"https_proxy": "{url}", "use_fips_endpoint": true, "use_dualstack_endpoint": true}), None),
        (json!({"https_proxy": "{url}"}), Some(("AWS_USE_FIPS_ENDPOINT", "true"))),
        (json!({"https_proxy": "{url}"}), Some(("AWS_USE_DUALSTACK_ENDPOINT", "true"))),
    ] {
        let env: Vec<_> = ENV_KEYS.iter().copied().chain(env).collect();
        let prepared = Prepared::new(&Case { env: &env, ..Case::default() });
        prepared.proxy.rule(Match::any(), [Answer::new(403, "no").into()]);
        let mut config = json!({
            "bucket": "states", "key": "a/k", "region": "us-gov-west-1", "dynamodb_table": "locks",
            "skip_credentials_validation": true, "skip_requesting_account_id": true, "max_retries": 1,
        });
        let filled = prepared.fill(&settings.to_string());
        let filled: serde_json::Value = serde_json::from_str(&filled).unwrap();
        config.as_object_mut().unwrap().extend(filled.as_object().unwrap().clone());
        // Nobody gets through, so `init` records nothing: what it would is written here.
        let infra = prepared.cwd();
        std::fs::remove_file(infra.join("main.tf")).unwrap();
        let block = json!({"terraform": {"backend": {"s3": config}}});
        std::fs::write(infra.join("main.tf.json"), block.to_string()).unwrap();
        let said = prepared.terraform("init");
        let seen = prepared.proxy.seen();
        record(&infra, &config);
        let answers = prepared.tfguard();
        let by_tfguard = hosts(&prepared.proxy.seen()[seen.len()..]);
        let by_terraform = hosts(&seen);
        assert!(!by_terraform.is_empty(), "{settings}: {said:?}");
        for asked in &by_terraform {
            assert!(by_tfguard.contains(asked), "{settings}: {asked:?} not in {by_tfguard:?}; {answers:?}");
        }
        assert!(by_tfguard.iter().any(|(_, host)| host.contains("dynamodb")), "{by_tfguard:?}");
        assert!(answers.iter().all(Result::is_err));
    }
}

/// Terraform takes "false" for no from 1.15 on.
#[test]
fn a_variable_that_says_no_does_not_ask_for_other_endpoints() {
    for no in ["false", "False", "0"] {
        let env = [("HTTPS_PROXY", "{url}"), ("AWS_USE_FIPS_ENDPOINT", no), ("AWS_USE_DUALSTACK_ENDPOINT", no)];
        let prepared = Prepared::new(&Case { env: &[ENV_KEYS, &env].concat(), ..Case::default() });
        prepared.proxy.rule(Match::any(), [Answer::new(403, "no").into()]);
        let config = serde_json::json!({"bucket": "b", "key": "k", "region": "eu-west-1", "dynamodb_table": "locks"});
        record(&prepared.cwd(), &config);
        prepared.tfguard();
        let asked: Vec<_> = hosts(&prepared.proxy.seen()).into_iter().map(|(_, host)| host).collect();
        let expected = ["dynamodb.eu-west-1.amazonaws.com:443", "s3.eu-west-1.amazonaws.com:443"];
        assert_eq!(asked, expected, "{no}");
    }
}

#[test]
fn a_plain_endpoint_by_name_gets_the_bucket_in_its_host_through_the_proxy() {
    let case = Case {
        block: "endpoints = { s3 = \"http://s3.example.test/a/b\", dynamodb = \"http://dynamodb.example.test\" }",
        env: &[ENV_KEYS[0], ENV_KEYS[1], ("HTTP_PROXY", "{url}")],
        without: &["endpoints", "use_path_style"],
        ..Case::default()
    };
    let prepared = Prepared::new(&case);
    prepared.proxy.rule(Match::any(), [Answer::s3(403, "AccessDenied", "no").into()]);
    prepared.terraform("init");
    let seen = prepared.proxy.seen();
    let by_terraform = hosts(&seen);
    prepared.tfguard();
    let by_tfguard = hosts(&prepared.proxy.seen()[seen.len()..]);
    let host = &by_terraform[0].1;
    assert!(host.ends_with(".s3.example.test"), "{by_terraform:?}");
    assert!(by_tfguard.iter().any(|(_, asked)| asked == host), "{by_tfguard:?}");
    assert!(by_tfguard.iter().any(|(_, asked)| asked == "dynamodb.example.test"), "{by_tfguard:?}");
    let asked: Vec<_> = prepared.proxy.seen().into_iter().filter(|seen| seen.path.contains(".tflock")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|seen| seen.path.contains("/a/b/a/k.tflock")), "{asked:?}");
}

/// Nobody listens at the proxy. The endpoints are at an address of this machine that, unlike 127.0.0.1, Go sends to a
/// proxy.
#[test]
fn hosts_are_asked_without_the_proxy_where_terraform_asks_them_so() {
    const DEAD: (&str, &str) = ("HTTP_PROXY", "http://127.0.0.1:1");
    for (line, exempt) in [
        ("", "*"),
        ("", "a.example, *"),
        ("", "a.example, 0.0.0.0"),
        ("", "0.0.0.0/8"),
        ("no_proxy = \"0.0.0.0\"", "a.example"),
        ("http_proxy = \"\"", ""),
    ] {
        let env = [ENV_KEYS, &[DEAD]].concat();
        let case = Case { name: exempt, block: line, env: &env, key: "AKIAENV", ..Case::default() };
        let mut prepared = Prepared::new(&case);
        let port = prepared.proxy.url().rsplit(':').next().unwrap().to_owned();
        prepared.env.insert("NO_PROXY".into(), exempt.into());
        let configuration = prepared.cwd().join("main.tf");
        let text = std::fs::read_to_string(&configuration).unwrap();
        let elsewhere = format!("http://0.0.0.0:{port}");
        std::fs::write(&configuration, text.replace(prepared.proxy.url(), &elsewhere)).unwrap();
        prepared.check(&case);

        // Without the exemption the proxy is asked.
        prepared.env.insert("NO_PROXY".into(), "0.0.0.1, 0.0.0.1:80, *.example".into());
        let seen = prepared.proxy.seen().len();
        let failed = prepared.tfguard().iter().all(Result::is_err);
        let exempt_by_block = !line.is_empty();
        assert_eq!((failed, prepared.proxy.seen().len() == seen), (!exempt_by_block, !exempt_by_block), "{line}");

        // What Terraform takes for an exemption, and the SDK does not, is no leave to ask the proxy.
        let entry = format!("0.0.0.0:{port}");
        prepared.env.insert("NO_PROXY".into(), format!("a.example, {entry}").into());
        for answer in prepared.tfguard() {
            let named = |detail: &str| detail.contains("NO_PROXY") && detail.contains(&entry);
            let refused = matches!(&answer, Err(StoreError::Unreachable(detail)) if named(detail));
            assert_ne!(refused, exempt_by_block, "{line}: {answer:?}");
        }
    }
}

/// Ends TLS in front of the API, with a certificate of its own authority.
struct Tls {
    url: String,
    authority: String,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Tls {
    fn start(upstream: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = Self::serve(listener, acceptor, upstream) => {}
                    _ = ended => {}
                }
            });
        });
        Self { url, authority: made.cert.pem(), end: Some(end), thread: Some(thread) }
    }

    async fn serve(listener: TcpListener, acceptor: TlsAcceptor, upstream: String) {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, upstream) = (acceptor.clone(), upstream.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await?;
                let mut server = TcpStream::connect(upstream).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn an_authority_of_the_users_own_is_trusted_where_terraform_trusts_it() {
    const CONFIG: &str = "[default]\nca_bundle = ../ca.pem\n[profile dev]\nca_bundle = {dir}/ca.pem\n\
        aws_access_key_id = AKIAENV\naws_secret_access_key = s\n[profile wrong]\nca_bundle = {dir}/config\n";
    const FILE: (&str, &str) = ("AWS_CONFIG_FILE", "{dir}/config");
    for (line, variables) in [
        ("custom_ca_bundle = \"../ca.pem\"", &[][..]),
        ("", &[("AWS_CA_BUNDLE", "{dir}/ca.pem")]),
        ("", &[FILE]),
        ("", &[FILE, ("AWS_PROFILE", "dev")]),
        ("profile = \"dev\"", &[FILE]),
        ("", &[FILE, ("AWS_PROFILE", "wrong"), ("AWS_CA_BUNDLE", "{dir}/ca.pem")]),
    ] {
        let env = [ENV_KEYS, variables].concat();
        let files = &[("config", CONFIG)];
        let case = Case { name: line, block: line, env: &env, files, key: "AKIAENV", ..Case::default() };
        let prepared = Prepared::new(&case);
        let tls = Tls::start(prepared.proxy.url());
        std::fs::write(prepared.dir.path().join("ca.pem"), &tls.authority).unwrap();
        let configuration = prepared.cwd().join("main.tf");
        let text = std::fs::read_to_string(&configuration).unwrap();
        std::fs::write(&configuration, text.replace(prepared.proxy.url(), &tls.url)).unwrap();
        prepared.check(&case);

        std::fs::write(prepared.dir.path().join("ca.pem"), Tls::start(prepared.proxy.url()).authority.as_str())
            .unwrap();
        for answer in prepared.tfguard() {
            let error = answer.unwrap_err();
            assert!(matches!(&error, StoreError::Unreachable(_)), "{error:?}");
            assert!(error.hint().is_some_and(|hint| hint.contains("AWS_CA_BUNDLE")), "{error:?}");
        }
    }
}

/// The SDK looks for them by the environment of tfguard.
#[test]
fn the_systems_authorities_are_those_of_tfguards_own_environment_and_others_are_an_error() {
    let prepared = Prepared::new(&Case { env: ENV_KEYS, ..Case::default() });
    let tls = Tls::start(prepared.proxy.url());
    let (right, wrong) = (prepared.dir.path().join("right.pem"), prepared.dir.path().join("wrong.pem"));
    std::fs::write(&right, &tls.authority).unwrap();
    std::fs::write(&wrong, Tls::start(prepared.proxy.url()).authority.as_str()).unwrap();
    let config = serde_json::json!({
        "bucket": "states", "key": "a/k", "region": "us-east-1", "dynamodb_table": "locks",
        "use_path_style": true, "endpoints": {"s3": tls.url, "dynamodb": tls.url},
    });
    record(&prepared.cwd(), &config);
    let guard = Guard::new();
    let inspect = |authority: &Path| {
        let run = Run::new(TFGUARD, &guard).current_dir(prepared.cwd()).envs(ENV_KEYS.iter().copied());
        run.env("SSL_CERT_FILE", authority).arg("inspect").run()
    };
    assert!(!inspect(&right).to_string().contains("certificate"), "{}", inspect(&right));
    assert!(prepared.proxy.seen().iter().any(|seen| seen.text().contains("locks")));
    let seen = prepared.proxy.seen().len();
    let exit = inspect(&wrong).to_string();
    assert!(exit.contains("invalid peer certificate") && exit.contains("SSL_CERT_FILE"), "{exit}");
    assert_eq!(prepared.proxy.seen().len(), seen);

    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let error = connect(&prepared.cwd(), &config, &[(name, right.to_str().unwrap())]).unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting, .. } if setting == name), "{error}");
    }
}
