//! The shared configuration files that Terraform's settings name, for the AWS SDK for Rust.
//!
//! The SDK understands less than Terraform's SDK for Go does. A file in which it would see something else is an error, so
//! that no request goes to another place, or with other credentials, than Terraform's.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aws_config::profile::ProfileSet;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};

use crate::aws::answer::with_causes;
use crate::aws::attributes::set;
use crate::aws::paths;
use crate::aws::s3::{BackendError, NOT_SENDABLE, S3Backend, sendable};
use crate::files::checkout_of;

/// A file of one kind, the setting that names it, and whether it may be missing.
type File = (EnvConfigFileKind, PathBuf, &'static str, bool);

/// The shared files that Terraform reads: of each kind those that a setting names, else the default one.
fn files(backend: &S3Backend) -> Vec<File> {
    let attributes = &backend.attributes;
    let variable = |name: &str| backend.surroundings.env.text(name);
    let list = |paths: &Option<Vec<String>>| paths.iter().flatten().map(|path| backend.path(path)).collect();
    let one = |path: Option<&str>| path.map(|path| backend.path(path)).into_iter().collect::<Vec<_>>();
    // In this variable nothing is expanded.
    let plain = variable("AWS_CONFIG_FILE").map(|path| backend.surroundings.dir.join(path)).into_iter().collect();
    let config = [
        ("shared_config_files", list(&attributes.shared_config_files)),
        ("AWS_SHARED_CONFIG_FILE", one(variable("AWS_SHARED_CONFIG_FILE"))),
        ("AWS_CONFIG_FILE", plain),
    ];
    let credentials = [
        ("shared_credentials_files", list(&attributes.shared_credentials_files)),
        ("AWS_SHARED_CREDENTIALS_FILE", one(variable("AWS_SHARED_CREDENTIALS_FILE"))),
        ("shared_credentials_file", one(set(&attributes.shared_credentials_file))),
    ];
    let home = backend.surroundings.home().unwrap_or_default().join(".aws");
    let of = |kind, named: [(&'static str, Vec<PathBuf>); 3], default| -> Vec<File> {
        match named.iter().find(|(_, paths)| !paths.is_empty()) {
            Some((setting, paths)) => paths.iter().map(|path| (kind, path.clone(), *setting, false)).collect(),
            None => vec![(kind, home.join(default), named[0].0, true)],
        }
    };
    let mut all = of(EnvConfigFileKind::Config, config, "config");
    all.extend(of(EnvConfigFileKind::Credentials, credentials, "credentials"));
    all
}

/// Reads the shared files, and what they say together. `env`: Terraform's environment.
pub(crate) async fn read(backend: &S3Backend, env: &Env) -> Result<(EnvConfigFiles, ProfileSet), BackendError> {
    let mut all = EnvConfigFiles::builder();
    for (kind, path, setting, may_be_missing) in files(backend) {
        let unusable = |why: String| BackendError::unusable(setting, format!("{}: {why}", path.display()));
        let bytes = match paths::read(&path) {
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| unusable(error.to_string()))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| unusable("it is not in UTF-8. Save it as UTF-8".to_owned()))?;
        if CHECKOUT_IS_DISTRUSTED.load(Ordering::Relaxed)
            && is_in_checkout(&path, &backend.surroundings.dir)
            && let Some(property) = text.lines().find_map(more_than_a_key)
        {
            return Err(BackendError::InCheckout { path, property });
        }
        if let Some((line, flaw)) = misread(&text) {
            return Err(unusable(format!("tfguard cannot read line {line} as Terraform does: {flaw}")));
        }
        let text = text.lines().map(|line| rooted(line, &backend.surroundings.dir) + "\n").collect::<String>();
        let alone = EnvConfigFiles::builder().with_contents(kind, text.as_str()).build();
        if let Err(error) = aws_config::profile::load(&Fs::real(), env, &alone, None).await {
            return Err(unusable(format!("the AWS SDK for Rust does not understand it: {}", with_causes(&error))));
        }
        all = all.with_contents(kind, text);
    }
    let all = all.build();
    let in_block = set(&backend.attributes.profile);
    let profiles = aws_config::profile::load(&Fs::real(), env, &all, in_block.map(|name| name.to_owned().into())).await;
    let setting = if in_block.is_some() { "profile" } else { "AWS_PROFILE" };
    let profiles = profiles.map_err(|error| BackendError::unusable(setting, with_causes(&error)))?;
    let name = profiles.selected_profile();
    if !is_plain(name) {
        let reason = format!("tfguard does not know profiles with such a name: {name:?}. Name it by {PLAIN}");
        return Err(BackendError::unusable(setting, reason));
    }
    Ok((all, profiles))
}

/// Set in a cleanup step, which comes after all that the job's own code did.
static CHECKOUT_IS_DISTRUSTED: AtomicBool = AtomicBool::new(false);

/// From now on shared files in the checkout of a working directory give no more than keys.
pub fn distrust_checkout() {
    CHECKOUT_IS_DISTRUSTED.store(true, Ordering::Relaxed);
}

/// Whether a file is, or its path leads through, the repository that a directory is in; without one, the directory itself.
fn is_in_checkout(file: &Path, directory: &Path) -> bool {
    let checkout = checkout_of(directory);
    file.starts_with(&checkout) || file.canonicalize().is_ok_and(|file| file.starts_with(&checkout))
}

/// What a line of a shared file says, if it is more than a section, a key, or which role the key assumes where. Shown is only
/// what has the form of a property's name: the rest can be a secret.
fn more_than_a_key(line: &str) -> Option<String> {
    const OF_A_KEY: [&str; 10] = [
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "duration_seconds",
        "external_id",
        "output",
        "region",
        "role_arn",
        "role_session_name",
        "source_profile",
    ];
    let line = line.trim();
    if line.is_empty() || line.starts_with(['#', ';', '[']) {
        return None;
    }
    let (name, has_value) = line.split_once('=').map_or((line, false), |(name, _)| (name.trim(), true));
    if OF_A_KEY.iter().any(|of_a_key| name.eq_ignore_ascii_case(of_a_key)) {
        return None;
    }
    let is_name = has_value && !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    Some(if is_name { format!("`{name}`") } else { "more than keys and roles".to_owned() })
}

/// What a name may consist of (`validate_identifier` in the SDK), which passes over profiles with others.
const PLAIN: &str = "the letters a to z, digits, and _-/.%@:+";

fn is_plain(name: &str) -> bool {
    name.chars().all(|char| char.is_ascii_alphanumeric() || "_-/.%@:+".contains(char))
}

/// The first line, by its number, in which the SDK for Rust would see something else than Terraform's without a word, and
/// what to do.
fn misread(text: &str) -> Option<(usize, &'static str)> {
    // Whether the property above has its value on its own line.
    let mut has_value = false;
    text.lines().enumerate().find_map(|(at, line)| {
        let trimmed = line.trim();
        if trimmed.is_empty() || line.starts_with(['#', ';']) {
            return None;
        }
        let indented = line.starts_with([' ', '\t']);
        let flaw = if indented && has_value {
            Some("it is indented. Begin it without blanks")
        } else if let Some(section) = trimmed.strip_prefix('[') {
            has_value = false;
            let name = section.trim_start().strip_prefix("services ").and_then(|rest| rest.split(']').next());
            let is_odd = name.is_some_and(|name| !is_plain(name.trim()));
            is_odd.then_some("the AWS SDK for Rust doesn't take its name. Use letters from a to z, digits, - and _")
        } else if let Some((key, value)) = trimmed.split_once('=') {
            let comments = [" #", " ;", "\t#", "\t;"];
            let value = comments.iter().fold(value, |value, start| value.split(start).next().unwrap_or(value)).trim();
            has_value = !indented && !value.is_empty();
            let quoted = |quote| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
            if key.contains(':') {
                Some("a colon stands before the `=`. Put `=` in its place")
            } else {
                (quoted('"') || quoted('\'')).then_some("its value is in quotes. Take them away")
            }
        } else {
            // The SDK gives up the file here, and says so.
            None
        };
        flaw.map(|flaw| (at + 1, flaw))
    })
}

/// A line of a shared file whose file or command is found from Terraform's directory: the SDK would look from tfguard's.
fn rooted<'a>(line: &'a str, dir: &Path) -> Cow<'a, str> {
    let property = line.split_once('=').map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim()));
    match property {
        Some((key, path)) if key == "web_identity_token_file" => format!("{key} = {}", dir.join(path).display()).into(),
        Some((key, command)) if key == "credential_process" => {
            format!("{key} = cd {} && {command}", shell_words::quote(&dir.display().to_string())).into()
        }
        _ => line.into(),
    }
}

/// Checks that the SDK finds the profile whose credentials Terraform takes, and those by which its roles are assumed. Where
/// one is missing the SDK would go on to the credentials of the container or the machine.
pub(crate) fn check(backend: &S3Backend, profiles: &ProfileSet) -> Result<(), BackendError> {
    let in_block = set(&backend.attributes.profile).is_some();
    let variable = |name: &&str| backend.surroundings.env.text(name).is_some();
    let is_named = in_block || ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"].iter().any(variable);
    let setting = if in_block { "profile" } else { "AWS_PROFILE" };
    let unusable = |reason| Err(BackendError::Unusable { setting, reason });
    let mut name = profiles.selected_profile();
    if profiles.get_profile(name).is_none() && is_named {
        return unusable(format!("the profile {name:?} is in none of the shared files"));
    }
    // No chain is longer than there are profiles.
    for _ in profiles.profiles() {
        let Some(profile) = profiles.get_profile(name) else { break };
        if profile.get("aws_access_key_id").is_some_and(|id| sendable(setting, id).is_err()) {
            return unusable(format!("the aws_access_key_id of the profile {name:?}: {NOT_SENDABLE}"));
        }
        if profile.get("role_arn").is_none() {
            break;
        }
        if in_block && profile.get("credential_source").is_some_and(|source| source.eq_ignore_ascii_case("Environment"))
        {
            return unusable(format!(
                "the profile {name:?} says `credential_source = Environment`, which tfguard follows in no profile of a backend \
                 block. Name the role in the block's `assume_role` in its place"
            ));
        }
        let Some(source) = profile.get("source_profile") else { break };
        if profiles.get_profile(source).is_none() {
            return unusable(format!(
                "the source_profile {source:?} of the profile {name:?} is in none of the shared files, or its name has other \
                 characters than {PLAIN}"
            ));
        }
        name = source;
    }
    Ok(())
}
