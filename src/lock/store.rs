//! A place where a lock lives, opened.

use std::future::Future;

use super::{FoundLock, LockClaim, LockPlace, Stranger};
use crate::holder::{Holder, Recorded};

/// One half of a lock, reachable. Each call sends its request once and is bounded in time by the caller; dropping the
/// future gives the request up, though the server may still carry it out.
pub trait LockStore {
    /// Where it is.
    fn place(&self) -> &LockPlace;

    /// Deletes the lock if, at that very moment and by the server's own judgement, it is the claimed one, and, where a
    /// session claims it, if the session's Terraform can have taken it. `session`: the record that it writes beside its
    /// locks; none where a person decides.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known: see [`StoreError::is_ambiguous`].
    fn delete_if(
        &self,
        claim: &LockClaim,
        session: Option<&Holder>,
    ) -> impl Future<Output = Result<Deletion, StoreError>> + Send;

    /// Reads the lock, consistently.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    fn read(&self) -> impl Future<Output = Result<Option<FoundLock>, StoreError>> + Send;
}

/// A place of locks beside which the record of a lock's holder can stand. As of a [`LockStore`], each request is sent
/// once, and time is the caller's to bound.
pub trait HolderStore: LockStore {
    /// Writes the holder beside the lock, if the lock is the claimed one and the holder's own. Never changes the lock itself.
    ///
    /// It may land late: what it then meets is the claimed lock, or it does nothing that a reader would believe.
    ///
    /// # Errors
    /// When the store could not be asked, does not want it, or has no room for it.
    fn annotate(
        &self,
        claim: &LockClaim,
        holder: &Holder,
    ) -> impl Future<Output = Result<Annotation, StoreError>> + Send;

    /// Reads the lock, consistently, and the record beside it. That the record alone cannot be read is no error.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    fn read_held(&self) -> impl Future<Output = Result<Option<HeldLock>, StoreError>> + Send;
}

/// What came of one attempt to write the holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Annotation {
    /// It is written.
    Written,
    /// The claimed lock is not there, but this or nothing.
    NotThere(Option<FoundLock>),
    /// It is another run's.
    NotOwn(Stranger),
}

/// A lock and what was found beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// The lock.
    pub lock: FoundLock,
    /// Its holder, by the record beside it.
    pub recorded: Recorded,
}

/// What came of one attempt to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    /// The claimed lock was there and this request removed it.
    Deleted,
    /// There was no lock.
    Absent,
    /// There is a lock, and it is not the claimed one.
    NotOurs(FoundLock),
    /// The claimed lock is there, and is not one that the session's Terraform can have taken.
    NotOwn(Stranger),
}

/// Why a store could not be asked, or what was wrong with its answer. `detail` is what the service or the network said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The credentials are valid but may not do this.
    #[error("{action} was denied: {detail}. Grant {action} on this {} to the role that runs Terraform", on(action))]
    Denied {
        /// The IAM action that is missing, for instance `dynamodb:DeleteItem`.
        action: &'static str,
        /// What the service said.
        detail: String,
    },
    /// There are no credentials, or they could not be had.
    #[error("no AWS credentials could be had: {detail}. Provide those that Terraform used, and try again")]
    CredentialsMissing {
        /// What each source said.
        detail: String,
    },
    /// The credentials are no longer valid.
    #[error("the AWS credentials have expired: {detail}. Try again with fresh ones")]
    CredentialsExpired {
        /// What the service said.
        detail: String,
    },
    /// The service does not accept the credentials or the signature.
    #[error("the AWS credentials were not accepted: {detail}. Check the key, the secret and this machine's clock")]
    CredentialsRejected {
        /// What the service said.
        detail: String,
    },
    /// The service is busy.
    #[error("throttled: {detail}. Try again later")]
    Throttled {
        /// What the service said.
        detail: String,
    },
    /// No answer in time, or the connection broke after the request was sent: it may have been carried out.
    #[error("no answer: {detail}")]
    TimedOut {
        /// What was waited for.
        detail: String,
    },
    /// The service failed within (5xx): it may have carried out the request.
    #[error("the service failed: {detail}. Try again later")]
    ServiceFailed {
        /// What the service said.
        detail: String,
    },
    /// The request did not leave this machine.
    #[error("the endpoint cannot be reached: {detail}. Check network, proxy, CA bundle and endpoint")]
    Unreachable {
        /// What the network said.
        detail: String,
    },
    /// Somebody else changed the object at the same time.
    #[error("another request changed the object at the same time: {detail}. Try again")]
    Conflict {
        /// What the service said.
        detail: String,
    },
    /// There is no such table.
    #[error("there is no such DynamoDB table: {detail}. Check dynamodb_table, region and account")]
    NoSuchTable {
        /// What the service said.
        detail: String,
    },
    /// There is no such bucket.
    #[error("there is no such bucket: {detail}. Check bucket, region and account")]
    NoSuchBucket {
        /// What the service said.
        detail: String,
    },
    /// The service refuses the request for a reason that repeating it does not change.
    #[error("the service refuses the request: {detail}. Check region, table, bucket and account")]
    Refused {
        /// What the service said.
        detail: String,
    },
    /// The store does not keep the condition of a conditional delete, or nobody can tell whether it does.
    #[error(
        "the lockfile stays: {detail}. Allow an unconditional delete after a second look (--without-conditions \
         second-look), or remove the object by hand"
    )]
    NoConditions {
        /// What showed it.
        detail: String,
    },
    /// The claim cannot name a lock of this place.
    #[error("the lock claimed does not belong here: {detail}")]
    Misdirected {
        /// What does not fit.
        detail: String,
    },
    /// The answer makes no sense.
    #[error("the answer makes no sense: {detail}. Is the endpoint really an AWS API?")]
    Nonsense {
        /// What it was.
        detail: String,
    },
}

fn on(action: &str) -> &'static str {
    if action.starts_with("kms:") { "KMS key" } else { "place" }
}

impl StoreError {
    /// Whether the request may have been carried out nevertheless.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::ServiceFailed { .. } | Self::Nonsense { .. })
    }

    /// Whether the service refuses whoever asks in this way, so that one who was refused a lock before left nothing.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. }
                | Self::CredentialsMissing { .. }
                | Self::CredentialsExpired { .. }
                | Self::CredentialsRejected { .. }
                | Self::NoSuchTable { .. }
                | Self::NoSuchBucket { .. }
                | Self::Refused { .. }
        )
    }

    /// Whether nobody answered.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether the same request may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. }
                | Self::TimedOut { .. }
                | Self::ServiceFailed { .. }
                | Self::Unreachable { .. }
                | Self::Conflict { .. }
                | Self::Nonsense { .. }
        )
    }
}
