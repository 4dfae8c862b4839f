//! Learns who has the lock of an `http` backend, and gives it back if it is the dead child's.
//!
//! The protocol has no question but "may I have it?", and a server that says yes has given it: then it is given back
//! at once, as by a second Terraform that only looks. Terraform itself cannot be sent to look: up to 1.14 it does not
//! show what the server says of the holder.
//!
//! Some servers ignore the body of the request that gives back, and open whoever's lock it is. So such a request is
//! sent only right after the server said whose lock is there, and one that was not answered is not simply sent again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use super::requests::{LockAnswer, LockServer, RequestError};
use crate::lock::LockInfo;
use crate::other::evidence::{Shown, shown};
use crate::report::OtherOutcome;

/// How long it may all take.
const BUDGET: Duration = Duration::from_secs(30);
/// Between two attempts, doubled at each up to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// The operation of tfguard's own lock. No Terraform has it, so it also gives away a server that answers with the
/// asker's words in place of the holder's.
pub const OPERATION: &str = "tfguard-look";

/// What is to be done about the lock that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is the child's: give it back.
    Release,
    /// Leave it, which is to be accounted for so.
    Leave(OtherOutcome),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// Nobody had the lock.
    Free,
    /// The child's lock was there and was given back.
    Released(LockInfo),
    /// The child's lock was there and is there no more, by whatever request.
    Gone(LockInfo),
    /// This lock is there, and was not touched.
    Held(LockInfo, OtherOutcome),
    /// The child's lock is there, and could not be given back.
    Failed(LockInfo, String),
    /// Nobody had the lock when tfguard asked, so tfguard got it, and could not give it back.
    Stuck {
        /// The child's lock, if it was seen before. It is there no more.
        gone: Option<LockInfo>,
        /// tfguard's own.
        own: LockInfo,
        /// Why.
        why: String,
    },
    /// Nobody knows.
    Unclear(String),
}

/// Looks who has the lock, and gives it back if `decide` says so. `who` is the name under which tfguard asks.
pub async fn settle(server: &LockServer, who: &str, decide: impl Fn(&Shown) -> Decision) -> Settled {
    let own = own_lock(who);
    let asked = serde_json::to_vec(&own).unwrap_or_default();
    let until = Instant::now() + BUDGET;
    let mut backoff = BACKOFF.0;
    let mut tried: Option<LockInfo> = None;
    let mut taken = Taken::No;
    let trouble = loop {
        let trouble = match (look(server, &own, &asked, &mut taken).await, &tried) {
            (Ok(None), None) => return Settled::Free,
            (Ok(None), Some(info)) => return Settled::Gone(info.clone()),
            (Ok(Some((found, _))), Some(info)) if found.info().id != info.id => return Settled::Gone(info.clone()),
            (Ok(Some((found, body))), _) => {
                if let Decision::Leave(outcome) = decide(&found) {
                    return Settled::Held(found.into_info(), outcome);
                }
                match server.unlock(&body).await {
                    Ok(()) => return Settled::Released(found.into_info()),
                    Err(error) => {
                        tried = Some(found.into_info());
                        Trouble::of_unlock(&error)
                    }
                }
            }
            (Err(trouble), _) => trouble,
        };
        if !trouble.again || Instant::now() + backoff >= until {
            break trouble.text;
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    };
    let may_be_left = || format!("{trouble}; tfguard's own look may be left there as lock {}", own.id);
    match (taken, tried) {
        (Taken::Yes, gone) => Settled::Stuck { gone, own, why: trouble },
        (Taken::Perhaps, Some(info)) => Settled::Failed(info, may_be_left()),
        (Taken::Perhaps, None) => Settled::Unclear(may_be_left()),
        (Taken::No, Some(info)) => Settled::Failed(info, trouble),
        (Taken::No, None) => Settled::Unclear(trouble),
    }
}

/// Whether tfguard itself has the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    No,
    /// It asked and was not answered.
    Perhaps,
    /// The server said so, and not that it was given back.
    Yes,
}

struct Trouble {
    text: String,
    again: bool,
}

impl Trouble {
    /// Whatever the server says against it (404, 409, 423, …), the next look tells whether the lock is there.
    fn of_unlock(error: &RequestError) -> Self {
        Self { again: !matches!(error, RequestError::Denied(_)), text: error.to_string() }
    }
}

impl From<RequestError> for Trouble {
    fn from(error: RequestError) -> Self {
        Self { again: error.is_retryable(), text: error.to_string() }
    }
}

/// One look: who has the lock, and the server's words about it. None: nobody.
async fn look(
    server: &LockServer,
    own: &LockInfo,
    asked: &[u8],
    taken: &mut Taken,
) -> Result<Option<(Shown, Vec<u8>)>, Trouble> {
    let answer = server.lock(asked).await.inspect_err(|error| {
        if matches!(error, RequestError::Silent(_)) && *taken == Taken::No {
            *taken = Taken::Perhaps;
        }
    })?;
    let LockAnswer::Held { body, ahead } = answer else {
        give_back(server, asked, taken).await?;
        return Ok(None);
    };
    let info = LockInfo::parse(&body).ok().filter(|info| !info.id.is_empty());
    let Some(info) = info else {
        return Err(Trouble {
            text: "the lock server says that the state is locked, and not by whom".to_owned(),
            again: false,
        });
    };
    if info.id == own.id {
        // An earlier request of this look's arrived, its answer did not.
        give_back(server, asked, taken).await?;
        return Ok(None);
    }
    *taken = Taken::No;
    let shown = if info.operation == OPERATION {
        if shown_by_tfguard(&info, own) {
            return Err(Trouble {
                text: format!("another tfguard ({}) is looking at the lock", shown(&info.who)),
                again: true,
            });
        }
        Shown::GitLab { info, ahead: ahead.unwrap_or(SignedDuration::ZERO) }
    } else {
        Shown::Whole(info)
    };
    Ok(Some((shown, body)))
}

/// Gives back what tfguard got for asking.
async fn give_back(server: &LockServer, asked: &[u8], taken: &mut Taken) -> Result<(), Trouble> {
    *taken = Taken::Yes;
    server.unlock(asked).await.map_err(|error| Trouble::of_unlock(&error))?;
    *taken = Taken::No;
    Ok(())
}

/// Whether a lock of tfguard's operation is a tfguard's: then it has its own time and host. One that repeats the asker
/// has the asker's `Info`, which is unique.
fn shown_by_tfguard(info: &LockInfo, own: &LockInfo) -> bool {
    info.info != own.info
}

fn own_lock(who: &str) -> LockInfo {
    let id = random_id();
    LockInfo {
        info: format!("tfguard looks for the lock of a Terraform that died ({id})"),
        id,
        operation: OPERATION.to_owned(),
        who: who.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created: Timestamp::now().to_string(),
        path: String::new(),
    }
}

/// An ID of the shape that Terraform's have.
fn random_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    // Seeded by the system.
    let [high, low] =
        [0, 1].map(|part| RandomState::new().hash_one((part, std::process::id(), Timestamp::now().as_nanosecond())));
    let hex = format!("{high:016x}{low:016x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tfguards_own_lock_is_one_that_terraform_can_read() {
        let (one, other) = (own_lock("root@vm"), own_lock("root@vm"));
        assert_ne!(one.id, other.id);
        assert!(one.id.parse::<crate::lock::LockId>().is_ok() && one.created.parse::<Timestamp>().is_ok());
        assert!(shown_by_tfguard(&other, &one) && !shown_by_tfguard(&one.clone(), &one));
    }
}
