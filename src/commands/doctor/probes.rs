//! Tries what the credentials may do, by requests that change nothing: reading is done on the real names; what would write
//! or delete has a condition that cannot hold, or is about what is not there, and names what nobody uses.

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{Tag, Tagging};
use serde::Serialize;

use crate::aws::{StoreError, classify};
use crate::commands::doctor::checks::{Area, Finding, Severity};
use crate::commands::doctor::facts::{Facts, IMPOSSIBLE, Table};
use crate::commands::doctor::permissions::{Audience, On, Permission, Subject, UNUSED};
use crate::commands::target::State;
use crate::model::lockfile_key;
use crate::store::IMPOSSIBLE_ETAG;

/// Whether the credentials have a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "access", rename_all = "kebab-case")]
pub enum Access {
    /// They have: the request was carried out, or refused for its condition or because the thing is not there.
    Present,
    /// They have not.
    Missing { detail: String },
    /// It cannot be told.
    Unknown { why: String },
}

impl Access {
    /// What the answer to a request says.
    fn of<T>(result: &Result<T, StoreError>) -> Self {
        match result {
            Ok(_) => Self::Present,
            Err(StoreError::Denied { detail, .. }) => Self::Missing { detail: detail.clone() },
            Err(other) => Self::Unknown { why: other.to_string() },
        }
    }
}

/// A permission that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    #[serde(flatten)]
    pub permission: Permission,
    /// What came of it.
    #[serde(flatten)]
    pub access: Access,
}

/// Tries what the pipelines of this state need, as far as it can be tried.
pub async fn probe(state: &State, subject: &Subject, facts: &Facts) -> Vec<Tried> {
    if facts.bucket().is_none() {
        return Vec::new();
    }
    let (s3, dynamodb) = (state.clients.s3(), state.clients.dynamodb());
    let prober = Prober { s3, dynamodb, subject, table: facts.table() };
    let mut tried: Vec<Tried> = Vec::new();
    for permission in subject.needed(Audience::Pipeline) {
        let Some(mut access) = prober.ask(permission.action, permission.on).await else { continue };
        let has = |action: &str| {
            tried.iter().any(|tried| tried.permission.action == action && tried.access == Access::Present)
        };
        if let Access::Missing { .. } = access
            && let Some(why) = prober.proves_nothing(permission, has).await
        {
            access = Access::Unknown { why: why.to_owned() };
        }
        tried.push(Tried { permission: *permission, access });
    }
    tried
}

struct Prober<'a> {
    s3: aws_sdk_s3::Client,
    dynamodb: aws_sdk_dynamodb::Client,
    subject: &'a Subject,
    table: Option<&'a Table>,
}

impl Prober<'_> {
    fn lockfile(&self, suffix: &str) -> String {
        lockfile_key(&self.subject.key) + suffix
    }

    fn item(&self, suffix: &str) -> AttributeValue {
        AttributeValue::S(format!("{}/{}{suffix}", self.subject.bucket, self.subject.key))
    }

    /// Tries one. None where it would really write, or only a service asks, or there is no table.
    async fn ask(&self, action: &'static str, on: On) -> Option<Access> {
        let (bucket, key, unused) = (&self.subject.bucket, &self.subject.key, self.lockfile(UNUSED));
        let name = self.subject.table.as_deref().unwrap_or_default();
        let (s3, dynamodb) = (&self.s3, &self.dynamodb);
        Some(match (on, action) {
            (On::Bucket, "s3:ListBucket") => {
                harmless(action, s3.list_objects_v2().bucket(bucket).prefix(key).max_keys(1).send().await)
            }
            (On::State, "s3:GetObject") => self.read(action, key).await,
            (On::Lockfile, "s3:GetObject") => self.read(action, &self.lockfile("")).await,
            (On::Lockfile, "s3:DeleteObject") => {
                let delete = s3.delete_object().bucket(bucket).key(&unused).if_match(IMPOSSIBLE_ETAG).send().await;
                // A store that ignores conditions and keeps versions has made a delete marker.
                if let Some(marker) = delete.as_ref().ok().and_then(|done| done.version_id()) {
                    let gone = s3.delete_object().bucket(bucket).key(unused).version_id(marker).send().await;
                    gone.inspect_err(|error| tracing::debug!("a delete marker stays: {error}")).ok();
                }
                harmless(action, delete)
            }
            (On::Lockfile, "s3:GetObjectTagging") => {
                harmless(action, s3.get_object_tagging().bucket(bucket).key(unused).send().await)
            }
            // On an object that is not there, it cannot be carried out.
            (On::Lockfile, "s3:PutObjectTagging") => {
                let tag = Tag::builder().key("tfguard").value("doctor").build().ok()?;
                let tags = Tagging::builder().tag_set(tag).build().ok()?;
                harmless(action, s3.put_object_tagging().bucket(bucket).key(unused).tagging(tags).send().await)
            }
            (On::Items, "dynamodb:GetItem") if self.table.is_some() => self.get_item("").await,
            (On::Items, "dynamodb:DeleteItem") => Access::of(&self.table?.keeps_conditions),
            // Where conditions are ignored, it would write.
            (On::Items, _) if self.table?.keeps_conditions == Ok(false) => return None,
            (On::Items, "dynamodb:PutItem") => {
                let put = dynamodb.put_item().table_name(name).item("LockID", self.item(UNUSED));
                harmless(action, put.condition_expression(IMPOSSIBLE).send().await)
            }
            (On::Items, "dynamodb:UpdateItem") => {
                let update = dynamodb.update_item().table_name(name).key("LockID", self.item(UNUSED));
                harmless(action, update.condition_expression(IMPOSSIBLE).send().await)
            }
            _ => return None,
        })
    }

    /// Reads one byte: the rest can hold secrets.
    async fn read(&self, action: &'static str, key: &str) -> Access {
        let request = self.s3.get_object().bucket(&self.subject.bucket).key(key).range("bytes=0-0");
        harmless(action, request.send().await)
    }

    async fn get_item(&self, suffix: &str) -> Access {
        let get = self.dynamodb.get_item().set_table_name(self.subject.table.clone());
        let get = get.key("LockID", self.item(suffix)).projection_expression("LockID");
        harmless("dynamodb:GetItem", get.send().await)
    }

    /// Why a denial does not show that the permission is missing, if it does not. `has`: what was tried before.
    async fn proves_nothing(&self, permission: &Permission, has: impl Fn(&str) -> bool) -> Option<&'static str> {
        let is_denied = |access| matches!(access, Access::Missing { .. });
        match (permission.on, permission.action) {
            (On::State | On::Lockfile, _) if !has("s3:ListBucket") => {
                Some("S3 denies every request for a missing object where s3:ListBucket is not granted")
            }
            // A condition on an ETag asks for s3:GetObject too (S3 User Guide, "Conditional requests").
            (On::Lockfile, action)
                if action != "s3:GetObject" && is_denied(self.read(action, &self.lockfile(UNUSED)).await) =>
            {
                Some(
                    "it is tried on a name that nobody uses, which may not even be read: grant all of it on <key>.tflock*",
                )
            }
            (On::Items, action)
                if action != "dynamodb:GetItem"
                    && has("dynamodb:GetItem")
                    && is_denied(self.get_item(UNUSED).await) =>
            {
                Some(
                    "the policy names single items, and it is tried on one that no lock uses: add the item <lock>.tfguard-doctor to dynamodb:LeadingKeys",
                )
            }
            _ => None,
        }
    }
}

/// What came of a request for something that is not there, or that its condition keeps from being done: any answer but a
/// denial shows that it was permitted.
fn harmless<T, E>(action: &'static str, result: Result<T, SdkError<E, HttpResponse>>) -> Access
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Err(error) = result else { return Access::Present };
    // Not found, in conflict, condition not met, range that cannot be.
    let status = error.raw_response().map(|raw| raw.status().as_u16());
    let is_none = matches!(status, Some(404 | 409 | 412 | 416)) && error.code() != Some("NoSuchBucket");
    if is_none || error.code() == Some("ConditionalCheckFailedException") {
        return Access::Present;
    }
    Access::of::<()>(&Err(classify(action, error)))
}

/// What is told of them: a finding for each that is missing or cannot be told.
pub fn findings(tried: &[Tried]) -> Vec<Finding> {
    let finding = |id, severity, seen, why, fix| Finding { id, area: Area::Permissions, severity, seen, why, fix };
    let present = tried.iter().filter(|tried| tried.access == Access::Present).count();
    let granted = format!("{present} of {} permissions are granted", tried.len());
    let mut findings = Vec::new();
    if present > 0 {
        findings.push(finding("granted", Severity::Ok, granted, None, None));
    }
    findings.extend(tried.iter().filter_map(|Tried { permission, access }| {
        let what = format!("{} on {}", permission.action, permission.on.name());
        let needed_by = format!("needed by {}", permission.needed_by.join(", "));
        match access {
            Access::Present => None,
            Access::Unknown { why } => {
                Some(finding("untold", Severity::Note, format!("cannot be told: {what}"), Some(why.clone()), None))
            }
            Access::Missing { detail } => {
                let (seen, fix) = (format!("{what} is denied: {detail}"), remedy(permission, detail));
                Some(finding("missing", severity(permission), seen, Some(needed_by), Some(fix)))
            }
        }
    }));
    findings
}

/// What only records the holder is no problem.
fn severity(permission: &Permission) -> Severity {
    if permission.is_for(&["terraform", "release"]) { Severity::Problem } else { Severity::Warning }
}

/// What to grant: to the credentials, or, where the service says that it was a KMS key that refused it, on that key.
fn remedy(permission: &Permission, detail: &str) -> String {
    let by_key =
        ["perform: kms:", "KMS key access denied", "customer master key"].iter().any(|text| detail.contains(text));
    let (what, option) = if by_key {
        ("kms:Decrypt, and kms:GenerateDataKey to pipelines, on that KMS key", " --kms-key <KEY>")
    } else {
        (permission.action, "")
    };
    format!("grant {what}; `tfguard doctor --iam-policy{option}` prints the whole policy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::permissions::PERMISSIONS;

    #[test]
    fn what_the_release_needs_is_a_problem_and_each_refusal_has_its_remedy() {
        let by_key = "User: x is not authorized to perform: kms:Decrypt on resource: y";
        for (action, on, detail, expected, fix) in [
            (
                "dynamodb:DeleteItem",
                On::Items,
                "no",
                Severity::Problem,
                "dynamodb:DeleteItem; `tfguard doctor --iam-policy`",
            ),
            (
                "s3:DeleteObject",
                On::Lockfile,
                "no",
                Severity::Problem,
                "s3:DeleteObject; `tfguard doctor --iam-policy`",
            ),
            (
                "dynamodb:UpdateItem",
                On::Items,
                "no",
                Severity::Warning,
                "dynamodb:UpdateItem; `tfguard doctor --iam-policy`",
            ),
            ("s3:GetObject", On::State, by_key, Severity::Problem, "kms:Decrypt, and"),
            ("dynamodb:GetItem", On::Items, "KMS key access denied error", Severity::Problem, "kms:Decrypt, and"),
        ] {
            let permission = *PERMISSIONS.iter().find(|found| (found.action, found.on) == (action, on)).unwrap();
            let found = findings(&[Tried { permission, access: Access::Missing { detail: detail.to_owned() } }]);
            assert_eq!((found.len(), found[0].severity), (1, expected), "{found:?}");
            assert!(found[0].fix.as_ref().unwrap().starts_with(&format!("grant {fix}")), "{found:?}");
        }
    }
}
