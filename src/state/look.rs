//! Looks at a state: twice and more where it seems to be at odds with its digest, since a writer may be at work.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::fs::{CWD, OFlags};
use tokio::time::Instant;

use crate::aws::{AwsClients, StoreError};
use crate::files;
use crate::model::{Flaw, FoundLock, LockInfo, LockPlace, Recorded, Sighting, StateFinding};
use crate::state::judge::{Judgement, is_at_odds, judge};
use crate::state::seen::{Errored, Expected, Held, Seen, StateObject, StoredDigest};
use crate::state::store::{DigestItem, DigestStore, StateStore};

/// How long state and digest may be at odds before that is said. Terraform itself waits as long before it gives up
/// (`consistencyRetryTimeout` in its S3 client).
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Earlier versions that are read at most; each can be large.
const MOST_READ: usize = 12;
/// Where Terraform puts a state that it cannot upload.
const ERRORED: &str = "errored.tfstate";

/// Looks at one state.
#[derive(Debug)]
pub struct Looker {
    state: StateStore,
    digest: Option<DigestStore>,
    clients: AwsClients,
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
    pub fn new(clients: &AwsClients, key: &str, locks: impl IntoIterator<Item = (LockPlace, bool)>) -> Self {
        Self {
            state: StateStore::new(clients, key),
            digest: DigestStore::new(clients, key),
            clients: clients.clone(),
            locks: locks.into_iter().collect(),
        }
    }

    /// The store of its digest. None without a table.
    pub fn digest(&self) -> Option<&DigestStore> {
        self.digest.as_ref()
    }

    /// Looks until state and digest fit, or somebody who is not `dead` holds the lock, or `patience` is over. With some
    /// patience it looks twice at least, however long one look takes: one alone may have met a writer at work.
    ///
    /// `errored`: what Terraform could not upload. Then, and where `locked` says so, the lock is looked at anyway.
    ///
    /// # Errors
    /// When something could not be read.
    pub async fn look(
        &self,
        patience: Duration,
        errored: Option<Errored>,
        locked: bool,
        dead: impl Fn(&LockInfo, &Recorded) -> bool,
    ) -> Result<Look, StoreError> {
        let until = Instant::now() + patience;
        let mut enough = patience.is_zero();
        loop {
            let object = self.state.read(None).await?;
            let item = match &self.digest {
                Some(digest) => Some(digest.read().await?),
                None => None,
            };
            let digest = item.as_ref().map_or(StoredDigest::NotKept, |item| item.digest.clone());
            let at_odds = is_at_odds(object.as_ref(), digest.md5());
            let lock = if at_odds || locked || errored.is_some() { self.lock(&dead).await? } else { None };
            let being_written = lock.as_ref().is_some_and(Held::may_be_alive);
            if !at_odds || being_written || (enough && Instant::now() + EVERY > until) {
                return Ok(Look { seen: Seen { object, digest, lock, errored, ..Seen::default() }, digest: item });
            }
            enough = true;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What lies in the place of the lock, one of a holder who may be alive first.
    async fn lock(&self, dead: impl Fn(&LockInfo, &Recorded) -> bool) -> Result<Option<Held>, StoreError> {
        let mut found: Option<Held> = None;
        for (place, expected) in &self.locks {
            match self.clients.look(place).await {
                Ok(Some(Sighting { lock, recorded, .. })) => {
                    let dead = matches!(&lock, FoundLock::Held(info) if dead(info, &recorded));
                    let held = Held { lock, dead };
                    if found.is_none() || held.may_be_alive() {
                        found = Some(held);
                    }
                }
                Ok(None) => {}
                Err(error) if *expected => return Err(error),
                Err(error) => tracing::debug!("{place}: {error}"),
            }
        }
        Ok(found)
    }

    /// Judges what was seen; where something is wrong with it, looks at earlier versions too: for the one whose digest is
    /// in the table, or that could be the present one again.
    pub async fn judge(&self, seen: &mut Seen, expected: &Expected) -> Judgement {
        let Judgement { findings, .. } = judge(seen, expected);
        let present = seen.object.as_ref().and_then(|object| object.content.as_ref().ok());
        let lineage = expected
            .lineage
            .clone()
            .or_else(|| present.map(|content| content.lineage.clone()).filter(|lineage| !lineage.is_empty()));
        let back = Expected { lineage, serial: expected.serial };
        // What is wrong with the object comes first.
        let earlier = match findings.first() {
            Some(StateFinding::DigestDiffers { stored, .. }) => self.earlier(|version| version.md5 == *stored).await,
            Some(StateFinding::Errored { .. }) | None => return judge(seen, expected),
            Some(_) => self.earlier(|version| version.content.as_ref().is_ok_and(|content| back.is_met(content))).await,
        };
        match earlier {
            Ok(earlier) => seen.earlier = Some(earlier),
            Err(why) => seen.no_earlier = Some(why),
        }
        judge(seen, expected)
    }

    /// The newest earlier version that is wanted, or why there is none.
    async fn earlier(&self, wanted: impl Fn(&StateObject) -> bool) -> Result<StateObject, String> {
        let ids = self.state.earlier_versions().await.map_err(|error| error.in_a_line())?;
        let mut trouble = String::new();
        for id in ids.iter().take(MOST_READ) {
            match self.state.read(Some(id)).await {
                Ok(Some(object)) if wanted(&object) => return Ok(StateObject { version: Some(id.clone()), ..object }),
                Ok(_) => {}
                Err(error) => trouble = format!(" ({error})"),
            }
        }
        Err(match ids.len() {
            0 => "the bucket keeps no versions".to_owned(),
            count => format!("none of the newest {} earlier versions fits{trouble}", count.min(MOST_READ)),
        })
    }
}

/// What Terraform could not upload from this directory, if there is something: since `since`, if that is given.
pub fn errored(dir: &Path, since: Option<Timestamp>) -> Option<Errored> {
    let path = dir.join(ERRORED);
    let read = || -> std::io::Result<Option<StateObject>> {
        let file = files::open(CWD, path.as_os_str(), OFlags::RDONLY)?;
        let found = file.metadata()?;
        let modified = found.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
        if since.is_some_and(|since| modified.is_some_and(|modified| modified < since)) {
            return Ok(None);
        }
        if found.len() > StateObject::LARGEST as u64 {
            let flaw = Flaw::TooLarge { limit: StateObject::LARGEST };
            return Ok(Some(StateObject { modified, ..StateObject::unread(StateObject::LARGEST, flaw) }));
        }
        let bytes = files::read(file, StateObject::LARGEST as u64)?;
        Ok(Some(StateObject { modified, ..StateObject::of(&bytes) }))
    };
    let state = match read() {
        Ok(state) => state?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => StateObject::unread(0, Flaw::Unreadable { why: error.to_string() }),
    };
    Some(Errored { path, state })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_read_only_where_that_can_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ERRORED);
        assert_eq!(errored(dir.path(), None), None);
        let unreadable = |errored: Option<Errored>| errored.map(|errored| errored.state.content);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(unreadable(errored(dir.path(), None)), Some(Err(Flaw::Unreadable { .. }))));
        std::fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert!(matches!(unreadable(errored(dir.path(), None)), Some(Err(Flaw::Unreadable { .. }))));
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(StateObject::LARGEST as u64 + 1).unwrap();
        assert!(matches!(unreadable(errored(dir.path(), None)), Some(Err(Flaw::TooLarge { .. }))));
        std::fs::write(&path, "{").unwrap();
        assert!(errored(dir.path(), Some(Timestamp::now() + Duration::from_secs(60))).is_none());
    }

    /// Not every directory has a name that JSON could have.
    #[test]
    fn what_is_left_in_a_directory_of_any_name_can_be_told_in_json() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join(OsStr::from_bytes(b"\xff"));
        std::fs::create_dir(&odd).unwrap();
        std::fs::write(odd.join(ERRORED), "{").unwrap();
        let told = serde_json::to_value(errored(&odd, None)).unwrap();
        assert!(told["path"].is_array(), "{told}");
    }
}
