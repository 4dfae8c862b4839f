//! The shared configuration files, as far as Terraform follows them and the Rust SDK does not.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::PathBuf;

use aws_config::profile::{Profile, ProfileSet};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_types::os_shim_internal::{Env, Fs};

use crate::lock::told;

use super::attributes::Role;
use super::s3::set;
use super::shared_file::{alias, rewritten};
use super::{BackendError, S3Backend};

/// The AWS SDK for Go takes no shorter session of a profile's role than its default, in minutes (`credsFromAssumeRole`
/// in its `config/resolve_credentials.go`).
const SHORTEST: u64 = 15;

/// The shared files that Terraform reads.
pub(super) struct SharedFiles {
    /// What is in them, for the SDK.
    pub contents: EnvConfigFiles,
    /// Those that could not be read, with the reason. Terraform passes over them too.
    pub unread: Vec<String>,
}

/// The name of the profile that the settings select, as the SDK knows it.
pub(super) fn selected(backend: &S3Backend) -> Option<Cow<'_, str>> {
    set(&backend.attributes.profile).map(alias)
}

/// What the shared files say, with `env` for Terraform's environment.
pub(super) async fn load(backend: &S3Backend, env: &Env, files: &SharedFiles) -> Result<ProfileSet, BackendError> {
    let selected = selected(backend).map(|name| Cow::Owned(name.into_owned()));
    let loaded = aws_config::profile::load(&Fs::real(), env, &files.contents, selected).await;
    loaded.map_err(|error| BackendError::Unusable {
        setting: "shared_config_files",
        reason: format!("the shared files cannot be understood: {}", told(&error)),
    })
}

/// Reads the shared files that the backend names, where it names any; the other kind is where it is by default.
///
/// The SDK does not read them itself: it would take paths from tfguard's directory, and see less in them than Terraform.
pub(super) fn read(backend: &S3Backend) -> SharedFiles {
    let attributes = &backend.attributes;
    let variable = |name: &str| backend.surroundings.var(name);
    let of = |list: &Option<Vec<String>>, name: &str| -> Vec<PathBuf> {
        match list {
            Some(list) => list.iter().map(|path| backend.path(path)).collect(),
            None => variable(name).map(|path| backend.path(path)).into_iter().collect(),
        }
    };
    let home = backend.surroundings.home().unwrap_or_default().join(".aws");
    let mut config = of(&attributes.shared_config_files, "AWS_SHARED_CONFIG_FILE");
    if config.is_empty() {
        // In this variable nothing is expanded.
        let named = variable("AWS_CONFIG_FILE").map(|path| backend.surroundings.dir.join(path));
        config.push(named.unwrap_or_else(|| home.join("config")));
    }
    let mut credentials = of(&attributes.shared_credentials_files, "AWS_SHARED_CREDENTIALS_FILE");
    // The variable wins over the old attribute.
    if credentials.is_empty() {
        credentials.extend(set(&attributes.shared_credentials_file).map(|path| backend.path(path)));
    }
    if credentials.is_empty() {
        credentials.push(home.join("credentials"));
    }
    let mut contents = EnvConfigFiles::builder();
    let mut unread = Vec::new();
    for (kind, paths) in [(EnvConfigFileKind::Config, config), (EnvConfigFileKind::Credentials, credentials)] {
        for path in paths {
            let content = std::fs::read(&path).unwrap_or_else(|error| {
                // Where nobody names a file, there need be none.
                if error.kind() != ErrorKind::NotFound || !path.starts_with(&home) {
                    unread.push(format!("{}: {error}", path.display()));
                }
                Vec::new()
            });
            contents = contents.with_contents(kind, rewritten(&content, &backend.surroundings.dir));
        }
    }
    SharedFiles { contents: contents.build(), unread }
}

/// The roles of a profile at whose end stands `credential_source = Environment`, in the order in which they are assumed.
/// None for every other profile.
pub(super) fn roles_on_environment(profiles: &ProfileSet) -> Option<Vec<Role>> {
    let (mut name, mut roles) = (profiles.selected_profile(), Vec::new());
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
