//! Whether a store keeps the condition of a conditional delete, found out without the lock.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use md5::{Digest as _, Md5};
use tokio::time::timeout;

use crate::aws::{StoreError, classify};
use crate::files;
use crate::store::lockfile::{LockfileStore, Outcome, outcome};

/// What is in the object that is made to examine a store.
const EXAMINED: &[u8] = b"tfguard made this object to see whether conditional deletes work here\n";
/// How often removing it is tried.
const REMOVALS: u32 = 3;
/// No object has this ETag: it is no MD5 and no multipart sum.
pub(crate) const IMPOSSIBLE_ETAG: &str = "\"tfguard-matches-nothing\"";

/// How long an examination may take: a connection that hangs must not use up the time of the release.
const LONGEST: Duration = Duration::from_secs(10);

fn not_examined() -> StoreError {
    StoreError::TimedOut("the look whether the store keeps conditions was given up".to_owned())
}

/// Whether a store keeps the condition of a conditional delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conditions {
    Kept,
    /// Ignored or refused: what showed it.
    NotKept(String),
}

impl Conditions {
    fn ignored() -> Self {
        Self::NotKept("this store ignores the condition of a conditional delete".to_owned())
    }

    fn refused(detail: &str) -> Self {
        Self::NotKept(format!("this store refuses conditional deletes ({detail})"))
    }
}

/// The object that was made to examine a store. It is told of unless it is gone, also where the examination is given up
/// because it takes too long.
struct LeftObject(Option<String>);

impl LeftObject {
    fn is_gone(&mut self) {
        self.0 = None;
    }
}

impl Drop for LeftObject {
    fn drop(&mut self) {
        if let Some(object) = &self.0 {
            tracing::warn!(
                "{object} may be left: tfguard made it to see whether this store keeps conditions and could not remove \
                 it; it means nothing, delete it"
            );
        }
    }
}

impl LockfileStore {
    pub(crate) async fn conditions(&self) -> Result<&Conditions, StoreError> {
        // In a task of its own, which goes on where the time of one attempt is over: the next one finds what it found, and it
        // removes what it made.
        let store = self.clone();
        let examined = tokio::spawn(async move {
            let examine = async || timeout(LONGEST, store.examine()).await.unwrap_or_else(|_| Err(not_examined()));
            store.conditions.get_or_try_init(examine).await.map(|_| ())
        });
        let examined = examined.await.unwrap_or_else(|_| Err(not_examined()));
        let examined = examined.and_then(|()| self.conditions.get().ok_or_else(not_examined));
        examined.map_err(|error| match error {
            StoreError::Denied { action, detail } => StoreError::Denied {
                action,
                detail: format!(
                    "{detail} (tried on an unused name, {}.tfguard-…, to see whether deletes keep their condition here)",
                    self.key
                ),
            },
            other => other,
        })
    }

    /// Finds out, with requests that can hurt nothing, whether the store keeps the condition of a conditional delete.
    ///
    /// A delete with an ETag that nothing has is sent for a name that nobody uses. 412 says that the condition was
    /// looked at. 404 is what AWS says there, and also what a store says that knows no conditions but complains about
    /// missing objects, as Google's does; success, what one says that ignores conditions, and also one that keeps them where
    /// there is something (versitygw). Then the same is tried on a small object made for it, which is removed again, with
    /// all that a store that keeps versions has kept of it.
    ///
    /// It needs `s3:DeleteObject`, and after another answer than 412 `s3:PutObject`, on that name; where this is denied
    /// nothing is known, and nothing is deleted.
    async fn examine(&self) -> Result<Conditions, StoreError> {
        let unused = format!("{}.tfguard-{}", self.key, files::random());
        match outcome(self.delete(&unused, Some(IMPOSSIBLE_ETAG)).await)? {
            Outcome::ConditionFailed => Ok(Conditions::Kept),
            Outcome::Unsupported(detail) => Ok(Conditions::refused(&detail)),
            Outcome::NoSuchKey => self.examine_with(&unused, None).await,
            Outcome::Done(marker) => self.examine_with(&unused, marker).await,
        }
    }

    /// The second half of [`Self::examine`], with an object of our own. `marker`: the version of the delete marker that the
    /// first half made.
    async fn examine_with(&self, unused: &str, marker: Option<String>) -> Result<Conditions, StoreError> {
        let mut left = LeftObject(Some(format!("s3://{}/{unused}", self.bucket)));
        let mut versions: Vec<_> = marker.into_iter().collect();
        let body = ByteStream::from_static(EXAMINED);
        let made = self.client.put_object().bucket(&self.bucket).key(unused).if_none_match("*").body(body).send().await;
        let (etag, examined) = match made {
            Ok(made) => {
                versions.extend(made.version_id);
                let examined = match outcome(self.delete(unused, Some(IMPOSSIBLE_ETAG)).await) {
                    Ok(Outcome::Done(marker)) => {
                        versions.extend(marker);
                        Ok(Conditions::ignored())
                    }
                    Ok(Outcome::ConditionFailed) => Ok(Conditions::Kept),
                    Ok(Outcome::Unsupported(detail)) => Ok(Conditions::refused(&detail)),
                    Ok(Outcome::NoSuchKey) => Ok(Conditions::refused("HTTP 404 for an object that is there")),
                    Err(error) => Err(error),
                };
                (made.e_tag, examined)
            }
            Err(error) if error.raw_response().is_some_and(|raw| raw.status().as_u16() < 500) => {
                left.is_gone();
                self.remove_versions(unused, &versions).await;
                return Err(classify("s3:PutObject", error));
            }
            // It may have been made all the same.
            Err(error) => (None, Err(classify("s3:PutObject", error))),
        };
        let is_ignored = examined == Ok(Conditions::ignored());
        let by_version = !versions.is_empty() && self.remove_versions(unused, &versions).await;
        // A delete without a version would only put a delete marker before what is kept.
        if by_version || is_ignored || self.remove_examined(unused, etag).await {
            left.is_gone();
        }
        examined
    }

    /// Removes versions of the object that was made to examine the store. Whether all are gone.
    async fn remove_versions(&self, unused: &str, versions: &[String]) -> bool {
        let mut are_gone = true;
        for version in versions {
            let request = self.client.delete_object().bucket(&self.bucket).key(unused).version_id(version);
            if let Err(error) = request.send().await {
                let error = classify("s3:DeleteObjectVersion", error);
                tracing::debug!("a version of the object that was made to examine the store stays: {error}");
                are_gone = false;
            }
        }
        are_gone
    }

    /// Removes the object that was made to examine the store. Whether it is gone.
    ///
    /// Only where the store itself wants no condition there is none: nobody else has an object of this name.
    async fn remove_examined(&self, unused: &str, etag: Option<String>) -> bool {
        let made = etag.is_some();
        let mut if_match = Some(etag.unwrap_or_else(|| md5_etag(EXAMINED)));
        for _ in 0..REMOVALS {
            match outcome(self.delete(unused, if_match.as_deref()).await) {
                Ok(Outcome::Done(_)) => return true,
                Ok(Outcome::NoSuchKey) if !made || if_match.is_none() => return true,
                Ok(Outcome::NoSuchKey | Outcome::Unsupported(_)) => if_match = None,
                Ok(Outcome::ConditionFailed) => return false,
                Err(error) => tracing::debug!("the object that was made to examine the store stays: {error}"),
            }
        }
        false
    }
}

/// The ETag of an object that is not encrypted with a key of its own.
fn md5_etag(content: &[u8]) -> String {
    let hex: String = Md5::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}
