//! `tfguard inspect`: one state and its lock.

use super::{Failure, Target, block_on, print, printable};
use crate::lock::{FoundLock, LockStore as _, UnconditionalDelete};

/// The options of `tfguard inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The state.
    #[command(flatten)]
    pub target: Target,
}

/// Looks; gives tfguard's exit code.
///
/// # Errors
/// When the state is not known, or nothing could be looked at.
pub fn run(args: &Args) -> Result<u8, Failure> {
    block_on(async {
        let state = args.target.state().await?;
        let mut text = format!("state {}\n", printable(&state.lock_id()));
        for half in state.halves() {
            let store = state.clients.open(&half.place, UnconditionalDelete::Refuse);
            let found = match store.read().await? {
                None => "no lock".to_owned(),
                Some(FoundLock::Held(info)) => format!("lock {} by {} ({})", info.id, info.who, info.operation),
                Some(FoundLock::Malformed(_)) => "something that is no lock, and blocks like one".to_owned(),
            };
            text += &format!("{}: {}\n", half.place, printable(&found));
        }
        print(&text)?;
        Ok(0)
    })
}
