//! A place where a lock lives, opened.

use std::future::Future;

use crate::aws::StoreError;
use crate::model::{FoundLock, HeldLock, Holder, LockClaim, LockPlace};
use crate::store::own::Stranger;

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
