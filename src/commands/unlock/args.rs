//! The options.

use std::path::PathBuf;

use crate::commands::target::Target;
use crate::model::WithoutConditions;

/// The options of `tfguard unlock`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lock's ID, as Terraform shows it where it is refused the lock
    #[arg(value_name = "LOCK_ID", required_unless_present = "broken")]
    pub id: Option<String>,

    /// Delete what blocks the state and is no lock of it: an item without Info, an empty or broken lockfile, a lock
    /// that was copied from another state
    #[arg(long, env = "TFGUARD_BROKEN", conflicts_with = "id")]
    pub broken: bool,

    /// Do not ask where nobody can tell whether the holder lives
    #[arg(long, env = "TFGUARD_YES")]
    pub yes: bool,

    /// Only show what would be done
    #[arg(long, env = "TFGUARD_DRY_RUN")]
    pub dry_run: bool,

    /// Write who did what to this file, as JSON
    #[arg(long, env = "TFGUARD_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// What to do with a lockfile in a store that does not keep the condition of a conditional delete
    #[arg(long, env = "TFGUARD_WITHOUT_CONDITIONS", value_name = "POLICY", default_value = "refuse")]
    pub without_conditions: WithoutConditions,

    /// The state.
    #[command(flatten)]
    pub target: Target,
}
