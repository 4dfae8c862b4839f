//! Releases what a dead child left: finds each lock's backend while Terraform lives, deletes by condition afterwards.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use crate::backend::{self, AwsClients, Backend, S3Backend, Surroundings};
use crate::lock::{self, LockClaim, LockKinds, LockPlace, ReleaseTerms, UnconditionalDelete};
use crate::observe::{Leftover, Stage};
use crate::report::{Half, HalfOutcome, LockOutcome};
use crate::session::{ProcessId, Tree};

/// How long the release of one half of a lock may take, retries and all.
const BUDGET: Duration = Duration::from_secs(45);

/// A Terraform that was killed may have a state upload on its way, which the lock does not fence (T §4.6). It is given
/// this time to land before a successor may take the lock. Shortens the window; nothing on this side can close it.
const IN_FLIGHT: Duration = Duration::from_secs(2);

/// The backends of the locks seen so far. Holds credentials, in memory only.
#[derive(Debug, Default)]
pub struct Releaser {
    backends: Vec<(LockClaim, Result<Box<S3Backend>, String>)>,
}

impl Releaser {
    /// Finds the backend to which a new lock belongs, and the places where its halves live. `command` ran with `env`
    /// in the current directory; `look` tells which Terraforms are alive, for those that a script runs elsewhere.
    pub fn locate(
        &mut self,
        claim: &LockClaim,
        command: &[OsString],
        env: &HashMap<OsString, OsString>,
        look: impl FnOnce() -> Tree,
    ) -> Vec<LockPlace> {
        if let Some((_, known)) = self.backends.iter().find(|(known, _)| known == claim) {
            return known.as_ref().ok().and_then(|backend| backend.places(claim).ok()).unwrap_or_default();
        }
        let own =
            std::env::current_dir().ok().map(|dir| Surroundings::of_command(&dir, arguments(command), env.clone()));
        let found = own.ok_or_else(|| "the working directory is gone".to_owned()).and_then(|own| find(claim, &own));
        let found = found.or_else(|why| {
            let elsewhere = look();
            let mut others = elsewhere.terraforms().filter_map(|terraform| surroundings_of(terraform.id));
            others.find_map(|other| find(claim, &other).ok()).ok_or(why)
        });
        let places = found.and_then(|backend| {
            let places = backend.places(claim).map_err(|error| error.to_string())?;
            Ok((backend, places))
        });
        let (backend, places) = match places {
            Ok((backend, places)) => (Ok(backend), places),
            Err(why) => {
                tracing::debug!("lock {}: {why}", claim.id);
                (Err(why), Vec::new())
            }
        };
        self.backends.push((claim.clone(), backend));
        places
    }

    /// Releases a lock whose Terraform is dead. `unclean`: it may have left requests on their way.
    pub async fn release(
        &self,
        leftover: &Leftover,
        unclean: bool,
        unconditional: UnconditionalDelete,
    ) -> (LockOutcome, Vec<Half>) {
        let claim = &leftover.entry.claim;
        let backend = match self.backends.iter().find(|(known, _)| known == claim) {
            Some((_, Ok(backend))) => backend,
            Some((_, Err(why))) => return (LockOutcome::Left(why.clone()), Vec::new()),
            None => return (LockOutcome::Left("its backend was not looked up".to_owned()), Vec::new()),
        };
        let (places, clients) = match (backend.places(claim), AwsClients::connect(backend).await) {
            (Ok(places), Ok(clients)) => (places, clients),
            (Err(error), _) | (_, Err(error)) => return (LockOutcome::Left(error.to_string()), Vec::new()),
        };
        if unclean {
            tokio::time::sleep(IN_FLIGHT).await;
        }
        let terms = ReleaseTerms {
            may_still_appear: leftover.may_still_appear,
            unlock_in_flight: leftover.unlock_in_flight,
            budget: BUDGET,
        };
        let mut halves = Vec::new();
        for place in places {
            tracing::debug!("lock {}: looking at {place}", claim.id);
            let store = clients.open(&place, unconditional);
            let outcome = HalfOutcome::from(lock::release(&store, claim, &terms).await);
            halves.push(Half { place, outcome });
        }
        let outcome = match LockOutcome::of(&halves) {
            // It said before it asked for the lock, would have said that it has it, and ended on its own without: it
            // was refused, most likely for the same reason as tfguard now. (1.6 to 1.9 never say that they have it.)
            LockOutcome::Left(why)
                if leftover.entry.stage == Stage::Attempted && claim.kinds != LockKinds::Unstated && !unclean =>
            {
                LockOutcome::NotTaken(why)
            }
            // 1.6 to 1.9 say that they begin to unlock, and no more.
            LockOutcome::Gone if leftover.entry.stage == Stage::Unlocking => LockOutcome::Unlocked,
            outcome => outcome,
        };
        (outcome, halves)
    }
}

fn find(claim: &LockClaim, surroundings: &Surroundings) -> Result<Box<S3Backend>, String> {
    let dir = surroundings.dir.display();
    match backend::read_backend(surroundings) {
        Ok(Backend::S3(backend)) if backend.stores_state(&claim.bucket, &claim.state_key) => Ok(backend),
        Ok(_) => Err(format!("{dir} is not configured for the state {}", claim.lock_id())),
        Err(error) => Err(error.to_string()),
    }
}

/// A command less the program.
fn arguments(command: &[OsString]) -> &[OsString] {
    command.get(1..).unwrap_or_default()
}

/// Where and how a living Terraform runs, as the kernel has it.
fn surroundings_of(process: ProcessId) -> Option<Surroundings> {
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", process.pid)).ok();
    let dir = std::fs::read_link(format!("/proc/{}/cwd", process.pid)).ok()?;
    let words = |bytes: Vec<u8>| -> Vec<OsString> {
        bytes
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect()
    };
    let command = words(read("cmdline")?);
    let env = words(read("environ")?)
        .iter()
        .filter_map(|variable| {
            let bytes = variable.as_bytes();
            let at = bytes.iter().position(|byte| *byte == b'=')?;
            Some((OsStr::from_bytes(&bytes[..at]).to_owned(), OsStr::from_bytes(&bytes[at + 1..]).to_owned()))
        })
        .collect();
    // It was another process's meanwhile if that one is gone now.
    process.is_alive().then(|| Surroundings::of_command(&dir, arguments(&command), env))
}
