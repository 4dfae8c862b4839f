//! Looks at a state: twice and more where it seems to be at odds with its digest, since a writer may be at work.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::judge::{Judgement, is_at_odds, judge, wanted};
use super::store::{DigestItem, DigestStore, StateStore};
use super::{Errored, Expected, Finding, Seen, StateObject, StoredDigest, Version, Versions};
use crate::backend::{AwsClients, Reader, S3Backend};
use crate::holder::Recorded;
use crate::lock::{FoundLock, LockInfo, LockPlace, Sighting, StoreError};

/// How long state and digest may be at odds before that is said. Terraform itself waits as long before it gives up
/// (`consistencyRetryTimeout` in its S3 client).
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Versions that are read at most; each can be large.
const MOST_READ: usize = 12;
/// Where Terraform puts a state that it cannot upload.
const ERRORED: &str = "errored.tfstate";

/// Looks at one state.
#[derive(Debug)]
pub struct Looker {
    state: StateStore,
    digest: Option<DigestStore>,
    reader: Reader,
    /// Where the halves of its lock live, each with whether Terraform locks there. Elsewhere one is looked at if that is
    /// allowed.
    locks: Vec<(LockPlace, bool)>,
}

/// What was seen, and the item that a new digest would replace.
#[derive(Debug)]
pub struct Look {
    /// What was seen.
    pub seen: Seen,
    /// The item of the digest. None without a table.
    pub digest: Option<DigestItem>,
}

impl Looker {
    /// Opens a state. `locks`: where the halves of its lock live, each with whether Terraform locks there.
    #[must_use]
    pub fn new(
        clients: &AwsClients,
        backend: &S3Backend,
        key: &str,
        locks: impl IntoIterator<Item = (LockPlace, bool)>,
    ) -> Self {
        Self {
            state: StateStore::new(clients, backend, key),
            digest: DigestStore::new(clients, backend, key),
            reader: clients.reader(),
            locks: locks.into_iter().collect(),
        }
    }

    /// The store of its digest. None without a table.
    #[must_use]
    pub fn digest(&self) -> Option<&DigestStore> {
        self.digest.as_ref()
    }

    /// Looks until state and digest fit, or somebody who is not `dead` holds the lock, or `patience` is over. With some
    /// patience it looks twice at least, however long one look takes: one alone may have met a writer at work.
    ///
    /// # Errors
    /// When one of the two could not be read.
    pub async fn look(
        &self,
        patience: Duration,
        dead: impl Fn(&LockInfo, &Recorded) -> bool,
    ) -> Result<Look, StoreError> {
        let until = Instant::now() + patience;
        let mut enough = patience.is_zero();
        loop {
            let object = self.state.read().await?;
            let item = match &self.digest {
                Some(digest) => Some(digest.read().await?),
                None => None,
            };
            let digest = item.as_ref().map_or(StoredDigest::NotKept, |item| item.digest.clone());
            let at_odds = is_at_odds(object.as_ref(), digest.md5());
            let lock = if at_odds { self.lock(&dead).await? } else { None };
            let being_written = matches!(lock, Some(FoundLock::Held(_)));
            if !at_odds || being_written || (enough && Instant::now() + EVERY > until) {
                let seen = Seen { object, digest, lock, errored: None, versions: Versions::NotAsked };
                return Ok(Look { seen, digest: item });
            }
            enough = true;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// The state's lock, unless its holder is dead.
    ///
    /// # Errors
    /// When a half could not be read where Terraform locks.
    pub async fn lock(&self, dead: impl Fn(&LockInfo, &Recorded) -> bool) -> Result<Option<FoundLock>, StoreError> {
        let mut malformed = None;
        for (place, expected) in &self.locks {
            match self.reader.look(place).await {
                Ok(Some(Sighting { lock: FoundLock::Held(info), recorded, .. })) => {
                    if !dead(&info, &recorded) {
                        return Ok(Some(FoundLock::Held(info)));
                    }
                }
                Ok(Some(Sighting { lock, .. })) => malformed = Some(lock),
                Ok(None) => {}
                Err(error) if *expected => return Err(error),
                Err(error) => tracing::debug!("{place}: {error}"),
            }
        }
        Ok(malformed)
    }

    /// Judges what was seen; where something is wrong with it, looks at earlier versions too.
    pub async fn judge(&self, seen: &mut Seen, expected: &Expected) -> Judgement {
        let judgement = judge(seen, expected);
        let digest = judgement.findings.iter().find_map(|finding| match finding {
            Finding::DigestDiffers { stored, .. } => Some(stored.clone()),
            _ => None,
        });
        let back = judgement.findings.iter().any(Finding::is_about_content);
        if digest.is_none() && !back {
            return judgement;
        }
        seen.versions = match self.state.versions().await {
            Ok(versions) if versions.is_empty() => Versions::NotKept,
            Ok(versions) => Versions::Listed(versions),
            Err(error) => Versions::Unknown(error.to_string()),
        };
        self.read_versions(seen, expected, digest.as_deref(), back).await;
        judge(seen, expected)
    }

    /// Reads the newest versions, until the one is found that has the digest and one that is a way back.
    async fn read_versions(&self, seen: &mut Seen, expected: &Expected, digest: Option<&str>, back: bool) {
        let (lineage, serial) = wanted(seen.object.as_ref(), expected);
        let Versions::Listed(versions) = &mut seen.versions else { return };
        let has_digest = |version: &Version| digest.is_none_or(|digest| version.has_digest(digest));
        let mut digest_found =
            digest.is_none() || versions.iter().any(|version| !version.latest && has_digest(version));
        let mut back_found = !back;
        for version in versions.iter_mut().filter(|version| !version.latest).take(MOST_READ) {
            if digest_found && back_found {
                return;
            }
            match self.state.read_version(Some(&version.id)).await {
                Ok(Some(object)) => {
                    version.md5 = Some(object.md5);
                    version.content = Some(object.content);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!("version {}: {error}", version.id);
                    if matches!(error, StoreError::Denied { .. }) {
                        seen.versions = Versions::Unknown(error.to_string());
                        return;
                    }
                }
            }
            digest_found |= has_digest(version);
            back_found |= version.is_way_back(lineage.as_deref(), serial);
        }
    }
}

/// What Terraform could not upload from this directory, if there is something: since `since`, if that is given.
#[must_use]
pub fn errored(dir: &Path, since: Option<Timestamp>) -> Option<Errored> {
    let path = dir.join(ERRORED);
    let read = || -> std::io::Result<Option<StateObject>> {
        // A pipe that nobody writes to must not hold anybody up.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
        let found = file.metadata()?;
        let modified = found.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        if !found.is_file() || since.is_some_and(|since| modified.is_some_and(|modified| modified < since)) {
            return Ok(None);
        }
        if found.len() > StateObject::LARGEST as u64 {
            return Ok(Some(StateObject { modified, ..StateObject::too_large() }));
        }
        let mut bytes = Vec::new();
        file.take(StateObject::LARGEST as u64).read_to_end(&mut bytes)?;
        Ok(Some(StateObject { modified, ..StateObject::of(&bytes) }))
    };
    match read() {
        Ok(state) => state.map(|state| Errored { path, state }),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::debug!("{}: {error}", path.display());
            }
            None
        }
    }
}
