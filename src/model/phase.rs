//! What Terraform is doing.

use serde::{Deserialize, Serialize};

/// What Terraform is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is known that makes a kill harmless.
    #[default]
    Unknown,
    /// Every Terraform of the session only reads and compares: killing it loses nothing.
    Planning,
    /// Resources or the state are being changed.
    Applying,
}
