//! The options.

use std::path::PathBuf;

use crate::commands::target::Target;
use crate::model::UnconditionalDelete;

/// The options of `tfguard unlock`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lock's ID, as Terraform shows it
    #[arg(value_name = "LOCK_ID", required_unless_present = "broken")]
    pub id: Option<String>,

    /// Delete what blocks the state and isn't a lock
    ///
    /// That is an item without Info, an empty or broken lockfile, or a lock that was copied from another state.
    #[arg(long, conflicts_with = "id", help_heading = "Deleting")]
    pub broken: bool,

    /// Do not ask
    ///
    /// Delete the lock without a question also where nobody can tell whether its holder lives. Refused while a Terraform of
    /// this machine works on the state.
    #[arg(long, help_heading = "Deleting")]
    pub yes: bool,

    /// Wait out the lock's lease, and delete it if nobody renews that
    ///
    /// Only a lock of a run with --lease has one. Nobody is asked: a lease that was not renewed for all of its length, and a
    /// tenth more, is a dead run's.
    #[arg(long, conflicts_with_all = ["broken", "yes", "without_conditions"], help_heading = "Deleting")]
    pub expired: bool,

    /// Only show what would be done
    #[arg(long, help_heading = "Deleting")]
    pub dry_run: bool,

    /// Write who did what as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub report: Option<PathBuf>,

    /// Treat lockfiles in stores without conditions so
    ///
    /// What to do with a lockfile in a store that does not keep the condition of a conditional delete.
    #[arg(long, value_name = "POLICY", default_value = "refuse", hide_short_help = true, help_heading = "Deleting")]
    pub without_conditions: UnconditionalDelete,

    /// The state.
    #[command(flatten)]
    pub target: Target,
}
