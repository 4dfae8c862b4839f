//! Keys, profiles and roles.

use std::path::Path;

use tfguard::aws::{AwsClients, BackendError};

use crate::backend_resolution::bed::{Case, ENV_KEYS, FROM_INSTANCE, Prepared, STS_ANSWERS, check_all, connect};

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
    for (block, variables, setting) in
        [("profile = \"gone\"", ENV_KEYS, "profile"), ("", &[("AWS_PROFILE", "gone")], "AWS_PROFILE")]
    {
        let env = [variables, &instance, &[("AWS_SHARED_CREDENTIALS_FILE", "{dir}/creds")]].concat();
        let files = &[("creds", "[gone]\naws_access_key_id = AKIAFILE\naws_secret_access_key = s\n")];
        let answers = &[("/container-role", "", FROM_INSTANCE)];
        let case = Case { name: block, block, env: &env, files, answers, key: "AKIAFILE", ..Case::default() };
        let prepared = Prepared::new(&case);
        prepared.check(&case);
        std::fs::write(prepared.dir.path().join("creds"), CREDENTIALS).unwrap();
        let seen = prepared.proxy.seen().len();
        let error = prepared.aws.block_on(AwsClients::connect(&prepared.backend())).unwrap_err();
        assert!(matches!(error, BackendError::Unusable { setting: named, .. } if named == setting), "{error}");
        assert!(error.to_string().contains("\"gone\""), "{error}");
        assert_eq!(prepared.proxy.seen().len(), seen);
    }
}

#[test]
fn roles_are_assumed_as_terraform_assumes_them() {
    check_all(&[
        Case {
            name: "a role with everything",
            block: "assume_role = {\nrole_arn = \"arn:aws:iam::123456789012:role/state\"\nduration = \"1h30m\"\n\
                    external_id = \"ext\"\nsession_name = \"ci\"\n\
                    policy = \"{\\\"Version\\\":\\\"2012-10-17\\\",\\\"Statement\\\":[]}\"\n\
                    policy_arns = [\"arn:aws:iam::aws:policy/ReadOnlyAccess\"]\ntags = { team = \"a\" }\n}",
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

#[test]
fn keys_in_the_environment_are_taken_before_a_profile_there_and_after_one_in_the_block() {
    const CONFIG: &str = "[profile deploy]\nrole_arn = arn:aws:iam::123456789012:role/deploy\n\
        credential_source = Environment\n\
        [profile keys]\naws_access_key_id = AKIAKEYS\naws_secret_access_key = s\nsource_profile = keys\n\
        role_arn = arn:aws:iam::123456789012:role/keys\nrole_session_name = ci\n";
    const ENV: &[(&str, &str)] = &[ENV_KEYS[0], ENV_KEYS[1], ("AWS_CONFIG_FILE", "{dir}/config")];
    const FILES: &[(&str, &str)] = &[("config", CONFIG)];
    check_all(&[
        Case {
            name: "a profile that is its own source",
            block: "profile = \"keys\"",
            env: ENV,
            files: FILES,
            answers: STS_ANSWERS,
            key: "ASIAASSUMED",
            ..Case::default()
        },
        Case {
            name: "a profile in the environment",
            env: &[ENV[0], ENV[1], ENV[2], ("AWS_PROFILE", "deploy")],
            files: FILES,
            key: "AKIAENV",
            ..Case::default()
        },
    ]);
}

/// Guards against a supervisor that stands still for ever: the SDK opens these files itself, and waits in there.
#[test]
fn a_token_that_has_no_end_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = serde_json::json!({"bucket": "b", "key": "k", "region": "eu-west-1"});
    let text = format!(
        "[profile web]\nrole_arn = arn:aws:iam::123456789012:role/web\nweb_identity_token_file = {}\n",
        at("token")
    );
    std::fs::write(at("config"), text).unwrap();
    std::fs::create_dir_all(at(".aws/sso/cache")).unwrap();
    let login = at(".aws/sso/cache/d25187dc137f35c88bc80ec8c3ffbdb17b5eb873.json");
    let (home, token, profile) = (at(""), at("token"), at("config"));
    let cases = [
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*token, &[("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*token)][..]),
        ("web_identity_token_file", &*token, &[("AWS_CONFIG_FILE", &*profile), ("AWS_PROFILE", "web")]),
        ("sso_session", &*login, &[("HOME", &*home)]),
    ];
    for (setting, path, env) in cases {
        let makes: [fn(&Path); 3] = [
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
            |path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        ];
        for make in makes {
            make(Path::new(path));
            let error = connect(dir.path(), &config, env).err().unwrap_or_else(|| panic!("{setting}: it was taken"));
            let text = error.to_string();
            assert!(text.contains(setting) && text.contains(path), "{text}");
            std::fs::remove_file(path).unwrap();
        }
        std::fs::write(path, "{}").unwrap();
        connect(dir.path(), &config, env).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
