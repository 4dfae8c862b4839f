//! The bucket of state and lockfile as it is.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::types::{BucketVersioningStatus, ServerSideEncryption};

use super::credentials::{self, ServerClock};
use super::finding::Area::Bucket;
use super::finding::Finding;
use crate::lock::{StoreError, understand};

/// What could be learned of a bucket. An error is what the service answered.
#[derive(Debug)]
pub struct BucketFacts {
    /// The region that it says it is in where it does not let itself be reached. None where it does: stores that are
    /// not AWS's call their regions what they like, and take requests for others.
    pub region: Result<Option<String>, StoreError>,
    /// Whether it keeps versions.
    pub versioning: Result<Versioning, StoreError>,
    /// How objects are encrypted that do not say it themselves.
    pub encryption: Result<Option<ServerSideEncryption>, StoreError>,
    /// Whether objects can be locked against deletion.
    pub object_lock: Result<bool, StoreError>,
}

impl BucketFacts {
    /// Why the service did not take the credentials, if that is so. A HEAD's answer cannot say it.
    #[must_use]
    pub fn refused_credentials(&self) -> Option<&StoreError> {
        let errors = [self.region.as_ref().err(), self.versioning.as_ref().err()];
        errors.into_iter().flatten().find(|error| credentials::are_refused(error))
    }
}

/// Whether a bucket keeps versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versioning {
    /// It does.
    On,
    /// It did once.
    Suspended,
    /// It never did.
    Off,
}

/// Asks for them, and looks at the server's clock on the way.
pub async fn look(client: &Client, bucket: &str, clock: &ServerClock) -> BucketFacts {
    let head = client.head_bucket().bucket(bucket).customize().interceptor(clock.clone()).send().await;
    // A bucket elsewhere answers with an error that says where it is.
    let region = match head {
        Ok(_) => Ok(None),
        Err(error) => {
            let raw = error.raw_response();
            let elsewhere = raw.and_then(|raw| raw.headers().get("x-amz-bucket-region")).map(str::to_owned);
            let missing = raw.is_some_and(|raw| raw.status().as_u16() == 404);
            match elsewhere {
                Some(region) => Ok(Some(region)),
                None if missing => Err(StoreError::NoSuchBucket { detail: "HTTP 404".to_owned() }),
                None => Err(understand("s3:ListBucket", error)),
            }
        }
    };
    if let Err(error) = &region
        && error.is_silence()
    {
        // It would be waited for as long again for each question.
        let error = error.clone();
        return BucketFacts {
            versioning: Err(error.clone()),
            encryption: Err(error.clone()),
            object_lock: Err(error),
            region,
        };
    }
    let versioning = client.get_bucket_versioning().bucket(bucket).send().await;
    let encryption = client.get_bucket_encryption().bucket(bucket).send().await;
    let object_lock = client.get_object_lock_configuration().bucket(bucket).send().await;
    BucketFacts {
        region,
        versioning: versioning
            .map(|answer| match answer.status() {
                Some(BucketVersioningStatus::Enabled) => Versioning::On,
                Some(BucketVersioningStatus::Suspended) => Versioning::Suspended,
                _ => Versioning::Off,
            })
            .map_err(|error| understand("s3:GetBucketVersioning", error)),
        encryption: match encryption {
            Ok(answer) => Ok(answer.server_side_encryption_configuration().and_then(|encryption| {
                let by_default = encryption.rules().first()?.apply_server_side_encryption_by_default()?;
                Some(by_default.sse_algorithm().clone())
            })),
            Err(error) if error.code() == Some("ServerSideEncryptionConfigurationNotFoundError") => Ok(None),
            Err(error) => Err(understand("s3:GetEncryptionConfiguration", error)),
        },
        object_lock: match object_lock {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("ObjectLockConfigurationNotFoundError") => Ok(false),
            Err(error) => Err(understand("s3:GetBucketObjectLockConfiguration", error)),
        },
    }
}

/// What follows. `region` is that of the backend. `lockfile`: locks live here too.
#[must_use]
pub fn findings(facts: &BucketFacts, bucket: &str, region: &str, lockfile: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.region {
        Ok(Some(found)) if found != region => findings.push(
            Finding::problem(Bucket, "bucket", format!("{bucket} is in {found}, and the backend says {region}"))
                .why("S3 sends requests for it away, and the lock table is looked for in the wrong region")
                .fix(format!("set region = \"{found}\" in the backend block, or use the bucket that was meant")),
        ),
        Ok(_) => findings.push(Finding::ok(Bucket, "bucket", format!("{bucket} is there"))),
        Err(StoreError::NoSuchBucket { .. }) => {
            return vec![
                Finding::problem(Bucket, "bucket", format!("there is no bucket {bucket}"))
                    .why("Terraform can neither read nor write its state")
                    .fix("create it, or set bucket right in the backend block"),
            ];
        }
        Err(error) => findings.push(unknown("bucket", "the bucket's region", error)),
    }
    match &facts.versioning {
        Ok(Versioning::On) => {
            findings.push(Finding::ok(Bucket, "versioning", "it keeps versions: a damaged state can be taken back"));
            if lockfile {
                findings.push(
                    Finding::note(
                        Bucket,
                        "lockfile-versions",
                        "each lockfile leaves a version and a delete marker behind",
                    )
                    .fix("let a lifecycle rule end noncurrent versions and expired delete markers after some days"),
                );
            }
        }
        Ok(versioning) => {
            let seen =
                if *versioning == Versioning::Off { "it keeps no versions" } else { "it has stopped to keep versions" };
            findings.push(
                Finding::warning(Bucket, "versioning", seen)
                    .why("a state that is damaged or overwritten is lost")
                    .fix("turn versioning on"),
            );
        }
        Err(error) => findings.push(unknown("versioning", "whether it keeps versions", error)),
    }
    match &facts.encryption {
        Ok(Some(algorithm)) if algorithm.as_str().starts_with("aws:kms") => {
            findings.push(Finding::ok(Bucket, "encryption", format!("objects are encrypted with {algorithm}")).why(
                "Terraform needs kms:Decrypt and kms:GenerateDataKey on that key, tfguard kms:Decrypt for lockfiles",
            ))
        }
        Ok(Some(algorithm)) => {
            findings.push(Finding::ok(Bucket, "encryption", format!("objects are encrypted with {algorithm}")))
        }
        Ok(None) => findings.push(
            Finding::note(Bucket, "encryption", "it has no encryption of its own")
                .why("AWS encrypts every object all the same; other stores may not"),
        ),
        Err(error) => findings.push(unknown("encryption", "how objects are encrypted", error)),
    }
    match &facts.object_lock {
        Ok(true) if lockfile => findings.push(
            Finding::note(Bucket, "object-lock", "object lock is on")
                .why("a deleted lockfile's version stays for its retention; a default retention asks for checksums, which Terraform 1.10.0 does not send"),
        ),
        Ok(_) => {}
        // Many stores do not know it, and it matters little.
        Err(_) => {}
    }
    findings
}

fn unknown(id: &'static str, what: &str, error: &StoreError) -> Finding {
    Finding::note(Bucket, id, format!("cannot be told: {what}")).why(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Severity::{self, Note, Ok as Fine, Problem, Warning};

    fn of(facts: &BucketFacts, lockfile: bool) -> Vec<(&'static str, Severity)> {
        findings(facts, "b", "eu-west-1", lockfile).iter().map(|found| (found.id, found.severity)).collect()
    }

    #[test]
    fn what_hurts_one_day_is_told() {
        let good = || BucketFacts {
            region: Ok(Some("eu-west-1".to_owned())),
            versioning: Ok(Versioning::On),
            encryption: Ok(Some(ServerSideEncryption::Aes256)),
            object_lock: Ok(false),
        };
        assert_eq!(of(&good(), false), [("bucket", Fine), ("versioning", Fine), ("encryption", Fine)]);
        assert!(of(&good(), true).contains(&("lockfile-versions", Note)));
        for off in [Versioning::Off, Versioning::Suspended] {
            assert!(of(&BucketFacts { versioning: Ok(off), ..good() }, true).contains(&("versioning", Warning)));
        }
        let elsewhere = BucketFacts { region: Ok(Some("us-east-1".to_owned())), ..good() };
        assert!(of(&elsewhere, false).contains(&("bucket", Problem)));
        let missing = BucketFacts { region: Err(StoreError::NoSuchBucket { detail: String::new() }), ..good() };
        assert_eq!(of(&missing, false), [("bucket", Problem)]);
        let denied = || StoreError::Denied { action: "x", detail: String::new() };
        let denied = BucketFacts {
            region: Err(denied()),
            versioning: Err(denied()),
            encryption: Err(denied()),
            object_lock: Err(denied()),
        };
        assert_eq!(of(&denied, true), [("bucket", Note), ("versioning", Note), ("encryption", Note)]);
    }
}
