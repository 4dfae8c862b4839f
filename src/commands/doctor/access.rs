//! What the credentials may do, judged by the answers to requests that change nothing.

use serde::Serialize;

use super::finding::Area::Permissions;
use super::finding::{Finding, Severity};
use super::permissions::{Need, On, Permission};
use crate::lock::StoreError;

/// The answer to a request that tries a permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was permitted: carried out, or refused for its condition or for a missing object.
    Allowed,
    /// It was denied.
    Denied(String),
    /// It failed in another way.
    Failed(String),
    /// It was not sent.
    NotAsked(&'static str),
}

impl Answer {
    /// What an error of the service says of the permission.
    #[must_use]
    pub fn of_error(error: &StoreError) -> Self {
        match error {
            StoreError::Denied { detail, .. } => Self::Denied(detail.clone()),
            other => Self::Failed(other.to_string()),
        }
    }

    /// What a KMS key said that was asked by the service for the one who asked this, where it was asked for this action:
    /// S3 names it, DynamoDB does not always.
    #[must_use]
    pub fn of_kms(&self, action: &str) -> Option<&str> {
        let is_about =
            |detail: &str| !detail.contains("perform: kms:") || detail.contains(&format!("perform: {action} "));
        match self {
            Self::Denied(detail) if is_of_kms(detail) && is_about(detail) => Some(detail),
            _ => None,
        }
    }

    /// The same of a whole result.
    pub fn of<T>(result: &Result<T, StoreError>) -> Self {
        match result {
            Ok(_) => Self::Allowed,
            Err(error) => Self::of_error(error),
        }
    }
}

/// Whether it is a KMS key that refused: the texts of S3 and of DynamoDB.
fn is_of_kms(detail: &str) -> bool {
    ["perform: kms:", "KMS key access denied", "customer master key"].iter().any(|text| detail.contains(text))
}

/// Whether the credentials have a permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "access", rename_all = "kebab-case")]
pub enum Access {
    /// They have.
    Present,
    /// They have not.
    Missing {
        /// What the service said.
        detail: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// A permission that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Which.
    #[serde(flatten)]
    pub permission: Permission,
    /// What came of it.
    #[serde(flatten)]
    pub access: Access,
}

/// What was answered, and what helps to understand it.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The answers.
    pub list: Vec<(Permission, Answer)>,
    /// Reading an item that no lock uses, beside the lock's own.
    pub unused_item: Option<Answer>,
    /// Reading an object that nobody uses, beside the lockfile.
    pub unused_object: Option<Answer>,
}

impl Answers {
    fn answer(&self, action: &str, on: On) -> Option<&Answer> {
        self.list
            .iter()
            .find(|(permission, _)| permission.action == action && permission.on == on)
            .map(|(_, answer)| answer)
    }

    /// Judges all of them.
    #[must_use]
    pub fn judge(&self) -> Vec<Tried> {
        self.list
            .iter()
            .map(|(permission, answer)| Tried { permission: *permission, access: self.access(permission, answer) })
            .collect()
    }

    fn access(&self, permission: &Permission, answer: &Answer) -> Access {
        let detail = match answer {
            Answer::Allowed => return Access::Present,
            Answer::Failed(why) => return Access::Unknown { why: why.clone() },
            Answer::NotAsked(why) => return Access::Unknown { why: (*why).to_owned() },
            Answer::Denied(detail) => detail,
        };
        let unknown = |why: &str| Access::Unknown { why: why.to_owned() };
        if is_of_kms(detail) && !matches!(permission.on, On::Key | On::TableKey) {
            return unknown("the KMS key refused before it showed");
        }
        let lists = self.is_allowed("s3:ListBucket", On::Bucket);
        match (permission.on, permission.action) {
            // What may be missing, or surely is.
            (On::State | On::Lockfile, _) if !lists => {
                unknown("S3 denies every request for a missing object where s3:ListBucket is not granted")
            }
            (On::Items, "dynamodb:GetItem") => Access::Missing { detail: detail.clone() },
            // These are tried on a name beside the real one. Where the same credentials may read the one and not the
            // other, the policy names single items.
            (On::Items, _) if self.limited(self.answer("dynamodb:GetItem", On::Items), &self.unused_item) => unknown(
                "the policy names single items, and it is tried on one that no lock uses: add the item <lock>.tfguard-doctor to dynamodb:LeadingKeys",
            ),
            (On::Lockfile, action)
                if action != "s3:GetObject"
                    && self.limited(self.answer("s3:GetObject", On::Lockfile), &self.unused_object) =>
            {
                unknown(
                    "the policy names single objects, and it is tried on one that nobody uses: grant it on <key>.tflock*",
                )
            }
            // S3 User Guide, "Conditional requests": a condition on an ETag asks for s3:GetObject too.
            (On::Lockfile, "s3:DeleteObject" | "s3:PutObject") if !self.is_allowed("s3:GetObject", On::Lockfile) => {
                unknown("S3 asks for s3:GetObject too before it looks at the condition under which it is tried")
            }
            _ => Access::Missing { detail: detail.clone() },
        }
    }

    fn is_allowed(&self, action: &str, on: On) -> bool {
        self.answer(action, on) == Some(&Answer::Allowed)
    }

    fn limited(&self, real: Option<&Answer>, unused: &Option<Answer>) -> bool {
        real == Some(&Answer::Allowed) && matches!(unused, Some(Answer::Denied(_)))
    }
}

/// What follows: a finding for each permission that is not there.
#[must_use]
pub fn findings(tried: &[Tried]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let present = tried.iter().filter(|tried| tried.access == Access::Present).count();
    if present > 0 {
        findings.push(Finding::ok(
            Permissions,
            "granted",
            format!("{present} of {} permissions are granted", tried.len()),
        ));
    }
    // By reason: a table that is not there would otherwise be told of once for each action.
    let mut untold: Vec<(&String, Vec<String>)> = Vec::new();
    for Tried { permission, access } in tried {
        let on = match permission.on {
            On::Bucket => "the bucket",
            On::State => "the state's object",
            On::Lockfile => "the lockfile",
            On::Unused => "unused names beside the lockfile",
            On::Table => "the lock table",
            On::Items => "the state's items in the lock table",
            On::Key => "the key of the objects",
            On::TableKey => "the key of the lock table",
        };
        let needed = permission.needed_by.iter().map(|need| need.name()).collect::<Vec<_>>().join(", ");
        let action = permission.action;
        match access {
            Access::Present => {}
            Access::Missing { detail } => findings.push(
                Finding::new(
                    Permissions,
                    "missing",
                    severity(permission),
                    format!("{action} on {on} is denied: {detail}"),
                )
                .why(format!("needed by {needed}"))
                .fix(format!(
                    "grant {action}; `tfguard doctor --iam-policy{}` prints the whole policy{}",
                    match permission.on {
                        On::Key => " --kms-key <KEY>",
                        On::TableKey => " --table-kms-key <KEY>",
                        _ => "",
                    },
                    role(permission)
                )),
            ),
            Access::Unknown { why } => match untold.iter_mut().find(|(known, _)| *known == why) {
                Some((_, list)) => list.push(format!("{action} on {on}")),
                None => untold.push((why, vec![format!("{action} on {on}")])),
            },
        }
    }
    findings.extend(untold.into_iter().map(|(why, list)| {
        Finding::note(Permissions, "untold", format!("cannot be told: {}", list.join(", "))).why(why.clone())
    }));
    findings
}

/// What Terraform and the release cannot do without is a problem; what only makes the work of people easier is not.
fn severity(permission: &Permission) -> Severity {
    let needs = permission.needed_by;
    if needs.iter().any(|need| matches!(need, Need::Terraform | Need::Release)) {
        Severity::Problem
    } else if needs.contains(&Need::Annotate) {
        Severity::Warning
    } else {
        Severity::Note
    }
}

fn role(permission: &Permission) -> &'static str {
    if severity(permission) == Severity::Note {
        ", with `=operator` that of the people who look after locks"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::permissions::{Features, needed};

    fn all() -> Features {
        Features { table: true, lockfile: true, annotate: true, ..Features::default() }
    }

    fn answers(denied: &[(&str, On)]) -> Answers {
        let of = |permission: &Permission| {
            let is_denied = denied.contains(&(permission.action, permission.on));
            if is_denied { Answer::Denied("no".to_owned()) } else { Answer::Allowed }
        };
        Answers {
            list: needed(all(), Need::ALL).map(|permission| (*permission, of(permission))).collect(),
            unused_item: Some(Answer::Allowed),
            unused_object: Some(Answer::Allowed),
        }
    }

    fn not_present(answers: &Answers) -> Vec<(&'static str, On, bool)> {
        let judged = answers.judge();
        let absent = judged.iter().filter(|tried| tried.access != Access::Present);
        absent
            .map(|tried| (tried.permission.action, tried.permission.on, matches!(tried.access, Access::Missing { .. })))
            .collect()
    }

    #[test]
    fn each_missing_permission_is_the_only_one_told() {
        for permission in needed(all(), Need::ALL) {
            let (action, on) = (permission.action, permission.on);
            assert_eq!(not_present(&answers(&[(action, on)])), [(action, on, true)]);
        }
    }

    /// Guards against the claim that a permission is missing which a policy grants for the real names alone.
    #[test]
    fn a_policy_that_names_single_things_is_understood() {
        let writes = [("dynamodb:DeleteItem", On::Items), ("s3:DeleteObject", On::Lockfile)];
        let denied = Some(Answer::Denied("no".to_owned()));
        let limited = Answers { unused_item: denied.clone(), unused_object: denied.clone(), ..answers(&writes) };
        assert!(not_present(&limited).iter().all(|(_, _, missing)| !missing));
        // Nothing may be read at all: then a denied write says what it says.
        let all = [writes[0], ("dynamodb:GetItem", On::Items)];
        let nothing = Answers { unused_item: denied, ..answers(&all) };
        assert!(not_present(&nothing).iter().all(|(_, _, missing)| *missing));
    }

    #[test]
    fn a_condition_on_an_etag_needs_reading_too() {
        let told = not_present(&answers(&[("s3:GetObject", On::Lockfile), ("s3:DeleteObject", On::Lockfile)]));
        assert_eq!(told, [("s3:GetObject", On::Lockfile, true), ("s3:DeleteObject", On::Lockfile, false)]);
    }

    #[test]
    fn without_list_bucket_a_denied_read_proves_nothing() {
        let both = answers(&[("s3:ListBucket", On::Bucket), ("s3:GetObject", On::Lockfile)]);
        assert_eq!(not_present(&both), [("s3:ListBucket", On::Bucket, true), ("s3:GetObject", On::Lockfile, false)]);
        for (action, on) in [("s3:DeleteObject", On::Lockfile), ("s3:GetObjectVersion", On::State)] {
            let told = not_present(&answers(&[("s3:ListBucket", On::Bucket), (action, on)]));
            assert_eq!(told, [("s3:ListBucket", On::Bucket, true), (action, on, false)]);
        }
    }

    #[test]
    fn what_the_release_needs_is_a_problem_and_the_rest_is_less() {
        let of = |action: &str, on: On| {
            let found = findings(&answers(&[(action, on)]).judge());
            found.last().unwrap().severity
        };
        assert_eq!(of("dynamodb:DeleteItem", On::Items), Severity::Problem);
        assert_eq!(of("s3:DeleteObject", On::Lockfile), Severity::Problem);
        assert_eq!(of("dynamodb:UpdateItem", On::Items), Severity::Warning);
        assert_eq!(of("dynamodb:Scan", On::Table), Severity::Note);
        assert_eq!(findings(&answers(&[]).judge()).len(), 1);
    }
}
