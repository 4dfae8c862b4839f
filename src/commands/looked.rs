//! A look at both halves of one state's lock.

use crate::aws::StoreError;
use crate::commands::judged::HalfSeen;
use crate::commands::target::{HalfPlace, State};
use crate::model::Sighting;

/// What was seen at one half.
#[derive(Debug)]
pub struct HalfLook {
    /// Where was looked.
    pub at: HalfPlace,
    /// What was there.
    pub seen: Result<Option<Sighting>, StoreError>,
}

impl HalfLook {
    /// What was there, if something was.
    #[must_use]
    pub fn found(&self) -> Option<&Sighting> {
        self.seen.as_ref().ok()?.as_ref()
    }

    /// Why it could not be looked at, where Terraform locks there.
    #[must_use]
    pub fn failure(&self) -> Option<&StoreError> {
        self.seen.as_ref().err().filter(|_| self.at.expected)
    }

    /// What was there, with its place.
    #[must_use]
    pub fn half(&self) -> Option<HalfSeen> {
        let seen = self.found()?.clone();
        Some(HalfSeen { place: self.at.place.clone(), seen, expected: self.at.expected })
    }
}

impl State {
    /// Looks at both halves of the lock, a table consistently.
    pub async fn look_at_lock(&self) -> Vec<HalfLook> {
        let reader = self.clients.reader();
        let looks = self.halves().into_iter().map(|at| {
            let reader = &reader;
            async move {
                let seen = reader.look(&at.place).await;
                if let Err(error) = &seen {
                    tracing::debug!("{}: {error}", at.place);
                }
                HalfLook { at, seen }
            }
        });
        futures_util::future::join_all(looks).await
    }

    /// Where else a lock of it may be, of which flags alone do not tell whether Terraform locks there.
    #[must_use]
    pub fn doubts(&self, looks: &[HalfLook]) -> Vec<String> {
        if self.dir.is_some() {
            return Vec::new();
        }
        let unread = looks.iter().filter(|look| !look.at.expected);
        let unread = unread.filter_map(|look| Some(format!("{}: {}", look.at.place, look.seen.as_ref().err()?)));
        let table = self.backend.table().is_none();
        let table =
            table.then(|| "a DynamoDB table: none was named. If the state locks in one, give --table".to_owned());
        unread.chain(table).collect()
    }
}
