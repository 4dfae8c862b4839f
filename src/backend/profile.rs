//! The shared configuration files, as far as Terraform follows them and the Rust SDK does not.

use std::borrow::Cow;

use aws_config::profile::{Profile, ProfileSet};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};

use super::S3Backend;
use super::attributes::Role;
use super::s3::set;

/// The AWS SDK for Go takes no shorter session of a profile's role than its default, in minutes (`credsFromAssumeRole`
/// in its `config/resolve_credentials.go`).
const SHORTEST: u64 = 15;

/// Reads the shared files of the backend, with `env` for Terraform's environment. None if they cannot be understood: the
/// SDK, which needs them too, says why.
pub(super) async fn load(backend: &S3Backend, env: &Env) -> Option<ProfileSet> {
    let files = files(backend).unwrap_or_default();
    let selected = set(&backend.attributes.profile).map(|name| Cow::Owned(name.to_owned()));
    aws_config::profile::load(&Fs::real(), env, &files, selected).await.ok()
}

/// The shared files that the backend names, where it names any; the other kind stays where it is by default.
pub(super) fn files(backend: &S3Backend) -> Option<EnvConfigFiles> {
    let attributes = &backend.attributes;
    let of = |list: &Option<Vec<String>>, variable: &str| -> Vec<String> {
        match list {
            Some(list) => list.clone(),
            None => backend.surroundings.var(variable).map(str::to_owned).into_iter().collect(),
        }
    };
    let config = of(&attributes.shared_config_files, "AWS_SHARED_CONFIG_FILE");
    let mut credentials = of(&attributes.shared_credentials_files, "AWS_SHARED_CREDENTIALS_FILE");
    // The variable wins over the old attribute.
    if credentials.is_empty() {
        credentials.extend(set(&attributes.shared_credentials_file).map(str::to_owned));
    }
    if config.is_empty() && credentials.is_empty() {
        return None;
    }
    let mut files = EnvConfigFiles::builder();
    for (kind, list) in [(EnvConfigFileKind::Config, &config), (EnvConfigFileKind::Credentials, &credentials)] {
        for path in list {
            files = files.with_file(kind, backend.path(path));
        }
    }
    let files = files.include_default_config_file(config.is_empty());
    Some(files.include_default_credentials_file(credentials.is_empty()).build())
}

/// The roles of a profile at whose end stands `credential_source = Environment`, in the order in which they are assumed.
/// None for every other profile.
pub(super) fn roles_on_environment(profiles: &ProfileSet, name: &str) -> Option<Vec<Role>> {
    let (mut name, mut roles) = (name, Vec::new());
    // No chain is longer than there are profiles.
    for _ in profiles.profiles() {
        let profile = profiles.get_profile(name)?;
        roles.extend(role(profile));
        if profile.get("credential_source") == Some("Environment") {
            roles.reverse();
            return Some(roles);
        }
        name = profile.get("source_profile")?;
    }
    None
}

fn role(profile: &Profile) -> Option<Role> {
    let text = |key| profile.get(key).filter(|text| !text.is_empty()).map(str::to_owned);
    let seconds = text("duration_seconds").and_then(|seconds| seconds.parse::<u64>().ok());
    Some(Role {
        role_arn: Some(text("role_arn")?),
        duration: seconds.filter(|seconds| seconds / 60 > SHORTEST).map(|seconds| format!("{seconds}s")),
        external_id: text("external_id"),
        session_name: text("role_session_name"),
        ..Role::default()
    })
}
