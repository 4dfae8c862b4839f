//! Keys, profiles and roles.

use tfguard::backend::AwsClients;
use tfguard::lock::StoreError;

use crate::backend_resolution::bed::{Case, ENV_KEYS, FROM_INSTANCE, Prepared, STS_ANSWERS, check_all};

const CREDENTIALS: &str = "[default]\naws_access_key_id=AKIADEFAULT\naws_secret_access_key=s\n\
    [blue]\naws_access_key_id=AKIABLUE\naws_secret_access_key=s\naws_session_token=tok\n";

#[test]
fn keys_are_taken_from_where_terraform_takes_them() {
    const FILES: &[(&str, &str)] = &[("creds", CREDENTIALS)];
    check_all(&[
        Case { name: "keys in the environment", env: ENV_KEYS, key: "AKIAENV", ..Case::default() },
        Case {
            name: "keys in the block win",
            block: "access_key = \"AKIABLOCK\"\nsecret_key = \"s\"\ntoken = \"tok\"",
            env: ENV_KEYS,
            key: "AKIABLOCK",
            ..Case::default()
        },
        Case {
            name: "a token in the environment",
            env: &[("AWS_ACCESS_KEY_ID", "ASIAENV"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "tok")],
            key: "ASIAENV",
            ..Case::default()
        },
        Case {
            name: "the old names of the variables",
            env: &[("AWS_ACCESS_KEY", "AKIAOLD"), ("AWS_SECRET_KEY", "s")],
            key: "AKIAOLD",
            ..Case::default()
        },
        Case {
            name: "half a key in the environment is none",
            env: &[("AWS_ACCESS_KEY_ID", "AKIAHALF"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: FILES,
            key: "AKIADEFAULT",
            ..Case::default()
        },
        Case {
            name: "a profile in the block wins over keys in the environment",
            block: "profile = \"blue\"\nshared_credentials_files = [\"~/creds\"]",
            env: ENV_KEYS,
            files: FILES,
            key: "AKIABLUE",
            ..Case::default()
        },
        Case {
            name: "keys in the environment win over a profile there",
            env: &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_PROFILE", "blue"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: FILES,
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "a profile and its file in the environment",
            env: &[("AWS_PROFILE", "blue"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: FILES,
            key: "AKIABLUE",
            ..Case::default()
        },
        Case {
            name: "a profile by its other variable",
            env: &[("AWS_DEFAULT_PROFILE", "blue"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: FILES,
            key: "AKIABLUE",
            ..Case::default()
        },
        Case {
            name: "of the two variables the first wins",
            env: &[
                ("AWS_PROFILE", "blue"),
                ("AWS_DEFAULT_PROFILE", "default"),
                ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds"),
            ],
            files: FILES,
            key: "AKIABLUE",
            ..Case::default()
        },
        Case {
            name: "the old attribute of one file, relative to the working directory",
            block: "shared_credentials_file = \"../creds\"",
            files: FILES,
            key: "AKIADEFAULT",
            ..Case::default()
        },
        Case {
            name: "the variable wins over the old attribute",
            block: "shared_credentials_file = \"../missing\"",
            env: &[("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: FILES,
            key: "AKIADEFAULT",
            ..Case::default()
        },
        Case {
            name: "a process gives the keys",
            env: &[("AWS_CONFIG_FILE", "{dir}/config")],
            files: &[(
                "config",
                "[default]\ncredential_process = printf '{\"Version\":1,\"AccessKeyId\":\"AKIAPROCESS\",\"SecretAccessKey\":\"s\"}'\n",
            )],
            key: "AKIAPROCESS",
            ..Case::default()
        },
    ]);
}

/// The SDK for Rust gives up such files, and does not know such profiles.
#[test]
fn shared_files_are_read_as_terraform_reads_them() {
    const ENV: &[(&str, &str)] = &[("AWS_CONFIG_FILE", "{dir}/config"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")];
    const INDENTED: &str =
        "junk\nx = 1\n  [default]\n  aws_access_key_id = \"AKIAFILE\"\n\taws_secret_access_key: s\n= 1\n";
    const NAMES: &str = "[my prof]\naws_access_key_id = AKIAFILE\naws_secret_access_key = s\n\
        [\u{fc}ber]\naws_access_key_id = AKIAFILE\naws_secret_access_key = s\n";
    let names = &[("creds", NAMES)];
    check_all(&[
        Case { name: "indented", env: ENV, files: &[("creds", INDENTED)], key: "AKIAFILE", ..Case::default() },
        Case {
            name: "indented endpoints",
            env: &[ENV[0], ENV_KEYS[0], ENV_KEYS[1]],
            files: &[("config", "[default]\n  region = x\n  endpoint_url = {url}\n")],
            without: &["endpoints"],
            key: "AKIAENV",
            ..Case::default()
        },
        Case {
            name: "a blank",
            block: "profile = \"my prof\"",
            env: ENV,
            files: names,
            key: "AKIAFILE",
            ..Case::default()
        },
        Case {
            name: "a letter, in the environment",
            env: &[ENV[1], ("AWS_PROFILE", "\u{fc}ber")],
            files: names,
            key: "AKIAFILE",
            ..Case::default()
        },
        Case {
            name: "a blank in a source",
            block: "profile = \"a b\"",
            env: ENV,
            files: &[
                ("creds", NAMES),
                (
                    "config",
                    "[profile a b]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = my prof\n\
                     role_session_name = ci\n",
                ),
            ],
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
    ]);
}

#[test]
fn what_settings_name_is_relative_to_terraforms_directory() {
    const ENV: &[(&str, &str)] = &[("AWS_CONFIG_FILE", "../config"), ("AWS_PROFILE", "dev")];
    const KEYS: &str = r#"{"Version":1,"AccessKeyId":"AKIAPROCESS","SecretAccessKey":"s"}"#;
    const WEB: &str = "[profile dev]\nrole_arn = arn:aws:iam::123456789012:role/web\nrole_session_name = ci\n\
        web_identity_token_file = ../token\n";
    check_all(&[
        Case {
            name: "a process",
            env: ENV,
            files: &[("config", "[profile dev]\ncredential_process = cat ../keys\n"), ("keys", KEYS)],
            args: &["-chdir=infra"],
            key: "AKIAPROCESS",
            ..Case::default()
        },
        Case {
            name: "a token",
            env: ENV,
            files: &[("config", WEB), ("token", "header.payload.signature")],
            answers: STS_ANSWERS,
            args: &["-chdir=infra"],
            key: "ASIAWEB",
            ..Case::default()
        },
    ]);
}

/// A profile that went away is no leave to take the credentials of the machine, which can be another's.
#[test]
fn no_other_credentials_stand_in_for_a_profile_that_is_not_there() {
    let instance = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{url}/container-role")];
    for (block, variables) in [("profile = \"gone\"", ENV_KEYS), ("", &[("AWS_PROFILE", "gone")])] {
        let env = [variables, &instance, &[("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")]].concat();
        let files = &[("creds", "[gone]\naws_access_key_id = AKIAFILE\naws_secret_access_key = s\n")];
        let answers = &[("/container-role", "", FROM_INSTANCE)];
        let case = Case { name: block, block, env: &env, files, answers, key: "AKIAFILE", ..Case::default() };
        let prepared = Prepared::new(&case);
        prepared.check(&case);
        std::fs::remove_file(prepared.dir.path().join("creds")).unwrap();
        let seen = prepared.proxy.seen().len();
        let error = prepared.aws.block_on(AwsClients::connect(&prepared.backend())).unwrap_err().to_string();
        assert!(error.contains("\"gone\"") && error.contains("/creds: No such file"), "{error}");
        assert_eq!(prepared.proxy.seen().len(), seen);
    }
}

/// Terraform passes over it too, so it is an error only where credentials are missing.
#[test]
fn a_shared_file_that_cannot_be_read_is_named_where_credentials_are_missing() {
    let env = &[("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")];
    let prepared = Prepared::new(&Case { env: &[ENV_KEYS, env].concat(), ..Case::default() });
    assert_eq!(prepared.terraform("init"), None);
    assert!(prepared.tfguard().iter().all(Result::is_ok));
    let mut bare = prepared;
    bare.env.retain(|name, _| !ENV_KEYS.iter().any(|(key, _)| name == key));
    for answer in bare.tfguard() {
        let error = answer.unwrap_err();
        let named = |detail: &str| detail.contains("/creds: No such file");
        assert!(matches!(&error, StoreError::CredentialsMissing { detail } if named(detail)), "{error:?}");
    }
}

#[test]
fn roles_are_assumed_as_terraform_assumes_them() {
    check_all(&[
        Case {
            name: "a role with everything",
            block: "assume_role = {\nrole_arn = \"arn:aws:iam::123456789012:role/state\"\nduration = \"1h30m\"\n\
                    external_id = \"ext\"\nsession_name = \"ci\"\nsource_identity = \"me\"\n\
                    policy = \"{\\\"Version\\\":\\\"2012-10-17\\\",\\\"Statement\\\":[]}\"\n\
                    policy_arns = [\"arn:aws:iam::aws:policy/ReadOnlyAccess\"]\ntags = { team = \"a\" }\n\
                    transitive_tag_keys = [\"team\"]\n}",
            env: ENV_KEYS,
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
        Case {
            name: "a role on top of a key in the block, in a region of its own",
            block: "access_key = \"AKIABLOCK\"\nsecret_key = \"s\"\nsts_region = \"eu-north-1\"\n\
                    assume_role = { role_arn = \"arn:aws:iam::123456789012:role/state\" }",
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
        Case {
            name: "a role of a profile",
            block: "profile = \"deploy\"",
            env: &[("AWS_CONFIG_FILE", "{dir}/config"), ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")],
            files: &[
                ("creds", CREDENTIALS),
                (
                    "config",
                    "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\nsource_profile = blue\n\
                     role_session_name = ci\n",
                ),
            ],
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
        Case {
            name: "a web identity in the block wins over keys in the environment",
            block: "assume_role_with_web_identity = {\nrole_arn = \"arn:aws:iam::123456789012:role/web\"\n\
                    session_name = \"ci\"\nweb_identity_token_file = \"$TOKENS/token\"\n}",
            env: &[ENV_KEYS[0], ENV_KEYS[1], ("TOKENS", "{dir}")],
            files: &[("token", "header.payload.signature")],
            answers: STS_ANSWERS,
            key: "ASIAWEB",
            ..Case::default()
        },
        Case {
            name: "a web identity, then a role",
            block: "assume_role_with_web_identity = {\nrole_arn = \"arn:aws:iam::123456789012:role/web\"\n\
                    web_identity_token = \"header.payload.signature\"\n}\n\
                    assume_role = { role_arn = \"arn:aws:iam::123456789012:role/state\" }",
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
        Case {
            name: "a web identity in the environment wins over the default profile",
            env: &[
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "{dir}/token"),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/web"),
                ("AWS_ROLE_SESSION_NAME", "ci"),
                ("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds"),
            ],
            files: &[("token", "header.payload.signature"), ("creds", CREDENTIALS)],
            answers: STS_ANSWERS,
            key: "ASIAWEB",
            ..Case::default()
        },
    ]);
}

/// A role on top of keys that neither the block nor the shared files have. Keys in the environment come first only where
/// the block names no profile.
#[test]
fn a_profile_on_keys_in_the_environment_is_followed_as_terraform_follows_it() {
    const CONFIG: &str = "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n\
        credential_source = Environment\nrole_session_name = ci\nexternal_id = ext\nduration_seconds = 3600\n\
        [profile top]\nrole_arn = arn:aws:iam::123456789012:role/top\nsource_profile = deploy\n\
        role_session_name = top\nduration_seconds = 901\n\
        [profile keys]\naws_access_key_id = AKIAKEYS\naws_secret_access_key = s\nsource_profile = keys\n\
        role_arn = arn:aws:iam::123456789012:role/keys\nrole_session_name = ci\n";
    const ENV: &[(&str, &str)] = &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_CONFIG_FILE", "{dir}/config")];
    const FILES: &[(&str, &str)] = &[("config", CONFIG)];
    let of =
        |name, block, key| Case { name, block, env: ENV, files: FILES, answers: STS_ANSWERS, key, ..Case::default() };
    let with_token = [ENV[2], ("AWS_ACCESS_KEY", "ASIAENV"), ENV[1], ("AWS_SESSION_TOKEN", "tok")];
    check_all(&[
        of("one role", "profile = \"deploy\"", "ASIAASSUMED"),
        of("two roles", "profile = \"top\"", "ASIAASSUMED"),
        of("a profile that is its own source", "profile = \"keys\"", "ASIAASSUMED"),
        of(
            "a role in the block on top of those",
            "profile = \"top\"\nassume_role = { role_arn = \"arn:aws:iam::123456789012:role/state\" }",
            "ASIAASSUMED",
        ),
        Case { env: &with_token, ..of("keys with a token", "profile = \"deploy\"", "ASIAASSUMED") },
        Case {
            name: "keys in the environment win over such a profile there",
            env: &[ENV[0], ENV[1], ENV[2], ("AWS_PROFILE", "deploy")],
            files: FILES,
            key: "AKIAENV",
            ..Case::default()
        },
    ]);
}
