//! The lease of a lock: its beats, and the requests by which a dead holder's lock is taken away.
//!
//! An item has its lease in an attribute, so that one request beats it on the condition that the lock is the very one. A
//! lockfile has an object of its own beside it: the lockfile itself, its ETag and its versions stay as Terraform made them.
//! Nothing here is sent without a condition. Each call is bounded in time by its caller, as those of
//! [`crate::store::Store`].

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;

use crate::aws::{SseCustomerKey, StoreError, classify};
use crate::files::random_number;
use crate::model::{
    Content, Holder, LARGEST_LEASE, LEASE_ATTRIBUTE, LEASE_SUFFIX, Lease, LeaseVersion, Leased, LockClaim, LockId,
    Sighting,
};
use crate::store::lockfile::examination::Conditions;
use crate::store::lockfile::{LockfileStore, Outcome, head, no_etag, outcome};
use crate::store::open::Store;
use crate::store::{Claimed, IMPOSSIBLE_ETAG};

/// A lock's lease as it was read, with what the conditions of requests about it name.
#[derive(Debug, Clone, PartialEq)]
pub struct Leasehold {
    /// What was in the lease's place.
    pub leased: Leased,
    names: Names,
}

/// What the condition of a request names: the very lock, and what was in the place of its lease.
#[derive(Debug, Clone, PartialEq)]
enum Names {
    /// Attributes of an item.
    Item { info: AttributeValue, lease: Option<AttributeValue> },
    /// ETags.
    Objects { lockfile: String, lease: Option<String> },
}

impl LeaseVersion {
    /// A version that no other beat has.
    pub fn fresh() -> Self {
        Self(random_number())
    }
}

impl Store {
    /// Reads the claimed lock's lease, consistently, if the lock is there and the session's. `session`: the record that it
    /// writes beside its locks.
    ///
    /// # Errors
    /// When the store could not be asked or its answer makes no sense.
    pub async fn held_lease(&self, claim: &LockClaim, session: &Holder) -> Result<Claimed<Leasehold>, StoreError> {
        match self {
            Self::Table(store) => match store.claimed(claim, Some(session)).await? {
                Ok(item) => self.lease_of(&Sighting::of_item(&item)).await.map(Ok),
                Err(other) => Ok(Err(other)),
            },
            Self::Lockfile(store) => store.held_lease(claim, session).await,
        }
    }

    /// The lease of a lock that was seen here. Of a lockfile it is read now.
    ///
    /// # Errors
    /// As of [`Self::held_lease`]; also for what has no lock ID.
    pub async fn lease_of(&self, seen: &Sighting) -> Result<Leasehold, StoreError> {
        let Some(id) = seen.id() else { return Err(StoreError::Misdirected("it has no ID".to_owned())) };
        match (self, &seen.content) {
            (Self::Table(_), Content::Item { info: Some(info), lease }) => {
                let names = Names::Item { info: info.clone(), lease: lease.clone() };
                Ok(Leasehold { leased: seen.leased.clone(), names })
            }
            (Self::Lockfile(store), Content::Object { etag, .. }) => store.lease(etag.as_deref(), id).await,
            _ => Err(StoreError::Misdirected("it was seen elsewhere".to_owned())),
        }
    }

    /// Whether the lock is still the very one that was read, where the condition of a beat does not say so: a lockfile.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn is_unchanged(&self, read: &Leasehold) -> Result<bool, StoreError> {
        match (self, &read.names) {
            (Self::Lockfile(store), Names::Objects { lockfile, .. }) => store.is_there(lockfile).await,
            _ => Ok(true),
        }
    }

    /// Finds out whether the store keeps the condition of a beat, where that is not known: before a lockfile's first, when
    /// nothing in the store names its lock.
    ///
    /// # Errors
    /// When it does not, or nobody can tell. No lease of the lock is there then.
    pub async fn examine_writes(&self, read: &Leasehold) -> Result<(), StoreError> {
        match self {
            Self::Lockfile(store) if read.leased.lease().is_none() => store.examine_writes().await,
            _ => Ok(()),
        }
    }

    /// Writes a lease in place of what was read there, if that is still the very one, and in a table the lock too: what is
    /// there now then, else none. A request that was not answered may land later, and is under the same condition then.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known.
    pub async fn beat(&self, from: &Leasehold, lease: &Lease) -> Result<Option<Leasehold>, StoreError> {
        let names = match (self, &from.names) {
            (Self::Table(store), Names::Item { info, lease: old }) => {
                let unchanged = [("Info", Some(info)), (LEASE_ATTRIBUTE, old.as_ref())];
                let new = lease.to_json();
                let is_done = store.update_unchanged(&unchanged, LEASE_ATTRIBUTE, Some(new.clone())).await?;
                is_done.then(|| Names::Item { info: info.clone(), lease: Some(AttributeValue::S(new)) })
            }
            (Self::Lockfile(store), Names::Objects { lockfile, lease: old }) => {
                let etag = store.put_lease(lease, old.as_deref()).await?;
                etag.map(|etag| Names::Objects { lockfile: lockfile.clone(), lease: Some(etag) })
            }
            _ => return Err(elsewhere()),
        };
        Ok(names.map(|names| Leasehold { leased: Leased::Lease(lease.clone()), names }))
    }

    /// Deletes a dead holder's lock if it and its lease are still the very ones that were read. Whether this did; if not,
    /// something changed, and nothing is proven any more.
    ///
    /// The delete of a lockfile cannot name its lease. So that has to be this process's own by then, the fence: a
    /// [`Self::beat`] of it, after which no beat of the holder's can succeed. The lease goes last; whoever is killed in
    /// between leaves a lease that the next one waits for.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known. Then the lock and its lease are to be read again.
    pub async fn delete_leased(&self, dead: &Leasehold) -> Result<bool, StoreError> {
        if dead.leased.lease().is_none() {
            return Err(StoreError::Misdirected("it has no lease of its own".to_owned()));
        }
        match (self, &dead.names) {
            (Self::Table(store), Names::Item { info, lease: Some(lease) }) => {
                store.delete_unchanged(&[("Info", Some(info)), (LEASE_ATTRIBUTE, Some(lease))]).await
            }
            (Self::Lockfile(store), Names::Objects { lockfile, lease: Some(lease) }) => {
                store.delete_leased(lockfile, lease).await
            }
            _ => Err(elsewhere()),
        }
    }

    /// Takes the lease away from a claimed lock that stays though nobody renews it any more, if both are still the very ones
    /// that are read. Whether the lock has none now.
    ///
    /// # Errors
    /// As of [`Self::held_lease`], or its answer is not known.
    pub async fn unlease(&self, claim: &LockClaim, session: &Holder) -> Result<bool, StoreError> {
        let Ok(read) = self.held_lease(claim, session).await? else { return Ok(true) };
        if read.leased.lease().is_none() {
            return Ok(true);
        }
        match (self, &read.names) {
            (Self::Table(store), Names::Item { info, lease: Some(lease) }) => {
                let unchanged = [("Info", Some(info)), (LEASE_ATTRIBUTE, Some(lease))];
                store.update_unchanged(&unchanged, LEASE_ATTRIBUTE, None).await
            }
            (Self::Lockfile(store), Names::Objects { lease: Some(lease), .. }) => store.unlease(lease).await,
            _ => Err(elsewhere()),
        }
    }

    /// Why [`Self::delete_leased`] can delete nothing here. None also where that could not be found out.
    pub async fn keeps_no_conditions(&self) -> Option<&str> {
        let Self::Lockfile(store) = self else { return None };
        match store.conditions().await {
            Ok(Conditions::NotKept(detail)) => Some(detail),
            _ => None,
        }
    }

    /// Removes what is left of the lease of a lock that is gone.
    ///
    /// # Errors
    /// When the store could not be asked, or its answer is not known.
    pub async fn end_lease(&self, lock: &LockId) -> Result<(), StoreError> {
        match self {
            // It went with the item.
            Self::Table(_) => Ok(()),
            Self::Lockfile(store) => store.end_lease(lock).await,
        }
    }
}

fn elsewhere() -> StoreError {
    StoreError::Misdirected("its lease was read elsewhere".to_owned())
}

impl LockfileStore {
    fn lease_key(&self) -> String {
        format!("{}{LEASE_SUFFIX}", self.key)
    }

    async fn held_lease(&self, claim: &LockClaim, session: &Holder) -> Result<Claimed<Leasehold>, StoreError> {
        let body = match self.claimed(claim, Some(session)).await? {
            Ok(body) => body,
            Err(other) => return Ok(Err(other)),
        };
        self.lease(body.etag.as_deref(), claim.id.as_str()).await.map(Ok)
    }

    /// The lease beside the lockfile that has this ETag and names this lock.
    pub(super) async fn lease(&self, lockfile: Option<&str>, lock: &str) -> Result<Leasehold, StoreError> {
        let lockfile = lockfile.ok_or_else(no_etag)?.to_owned();
        let (leased, lease) = match self.get_object(&self.lease_key(), LARGEST_LEASE).await? {
            Some(object) => (Leased::read(&object.bytes, lock), Some(object.etag.ok_or_else(no_etag)?)),
            None => (Leased::Nothing, None),
        };
        Ok(Leasehold { leased, names: Names::Objects { lockfile, lease } })
    }

    /// Of AWS it is known. Elsewhere what nothing may let through is put, and it names no lock, should it get through.
    async fn examine_writes(&self) -> Result<(), StoreError> {
        if self.conditions.get() == Some(&Conditions::Kept) {
            return Ok(());
        }
        let nothing = Lease::new(LockId::none(), LeaseVersion(0), Lease::SHORTEST);
        let Some(etag) = self.put_lease(&nothing, Some(IMPOSSIBLE_ETAG)).await? else { return Ok(()) };
        if let Err(error) = outcome(self.delete(&self.lease_key(), Some(&etag)).await) {
            tracing::debug!("a lease of no lock stays, which means nothing: {error}");
        }
        Err(StoreError::UnconditionalWrites)
    }

    async fn delete_leased(&self, lockfile: &str, lease: &str) -> Result<bool, StoreError> {
        self.keeps_conditions().await?;
        let is_deleted = match outcome(self.delete(&self.key, Some(lockfile)).await)? {
            Outcome::Done(_) => true,
            Outcome::ConditionFailed | Outcome::NoSuchKey => false,
            Outcome::Unsupported(detail) => return Err(StoreError::NoConditions(detail)),
        };
        if let Err(error) = outcome(self.delete(&self.lease_key(), Some(lease)).await) {
            tracing::debug!("the lease of a lock that is gone stays, which means nothing: {error}");
        }
        Ok(is_deleted)
    }

    async fn end_lease(&self, lock: &LockId) -> Result<(), StoreError> {
        let key = self.lease_key();
        let Some(object) = self.get_object(&key, LARGEST_LEASE).await? else { return Ok(()) };
        let is_own = matches!(Leased::read(&object.bytes, lock.as_str()), Leased::Lease(_));
        match object.etag.filter(|_| is_own) {
            Some(etag) => self.unlease(&etag).await.map(drop),
            None => Ok(()),
        }
    }

    /// Deletes the lease that has this ETag. Whether it is gone.
    async fn unlease(&self, etag: &str) -> Result<bool, StoreError> {
        self.keeps_conditions().await?;
        let done = outcome(self.delete(&self.lease_key(), Some(etag)).await)?;
        Ok(matches!(done, Outcome::Done(_) | Outcome::NoSuchKey))
    }

    /// Refuses where the store keeps no conditions.
    async fn keeps_conditions(&self) -> Result<(), StoreError> {
        match self.conditions().await? {
            Conditions::Kept => Ok(()),
            Conditions::NotKept(detail) => Err(StoreError::NoConditions(detail.clone())),
        }
    }

    /// Whether the lockfile is the very one that has this ETag.
    async fn is_there(&self, etag: &str) -> Result<bool, StoreError> {
        let found = head(&self.client, &self.bucket, &self.key, self.customer_key.as_ref()).await?;
        Ok(found.is_some_and(|found| found.e_tag() == Some(etag)))
    }

    /// Puts a lease in place of the one that has this ETag, or where there is none: its ETag. None if something else is
    /// there.
    async fn put_lease(&self, lease: &Lease, old: Option<&str>) -> Result<Option<String>, StoreError> {
        let [algorithm, key, md5] = SseCustomerKey::parameters(self.customer_key.as_ref());
        let request = self.client.put_object().bucket(&self.bucket).key(self.lease_key());
        let request = request.set_sse_customer_algorithm(algorithm).set_sse_customer_key(key);
        let mut request = match old {
            Some(etag) => request.if_match(etag),
            None => request.if_none_match("*"),
        };
        if let Some((how, key)) = &self.encryption {
            request = request.server_side_encryption(how.clone()).set_ssekms_key_id(key.clone());
        }
        let body = ByteStream::from(lease.to_json().into_bytes());
        match request.set_sse_customer_key_md5(md5).content_type("application/json").body(body).send().await {
            Ok(answer) => answer.e_tag.map(Some).ok_or_else(|| StoreError::Nonsense("it has no ETag".to_owned())),
            Err(error) => {
                let status = error.raw_response().map(|raw| raw.status().as_u16());
                match error.code() {
                    Some("PreconditionFailed" | "NoSuchKey") => Ok(None),
                    _ if status == Some(412) => Ok(None),
                    // It knows no such condition, and did nothing.
                    _ if status == Some(501) => Err(StoreError::UnconditionalWrites),
                    _ => Err(classify("s3:PutObject", error)),
                }
            }
        }
    }
}
