//! What a Terraform did to resources, and its state does not tell.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a Terraform did to resources and did not come to save in its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsaved {
    /// The state: `<bucket>/<state key>`. None where it is not in S3, or not known.
    pub state: Option<String>,
    /// The version of the Terraform or OpenTofu, as it said.
    pub version: Option<String>,
    /// What tfguard could not see, in words. Where that is the state, every resource that Terraform changed is here.
    pub unseen: Vec<String>,
    /// The resources, by address.
    pub resources: Vec<UnsavedResource>,
    /// So many more are not named here.
    pub left_out: usize,
    /// It was compared with its state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compared: bool,
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsavedResource {
    /// Its address, as HCL has it. One that was deposed is marked so behind it.
    pub address: String,
    /// What became of it.
    pub is: Fate,
    /// Its ID, where Terraform printed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Why its ID may not be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Terraform said that its creation failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// The state had something at its address when it was compared first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_there: bool,
}

impl UnsavedResource {
    /// One of which nothing else is known.
    #[must_use]
    pub fn new(address: &str, is: Fate) -> Self {
        Self { address: address.to_owned(), is, id: None, doubt: None, failed: false, was_there: false }
    }
}

/// What became of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It was made and is not in the state.
    Made,
    /// The same, and the state has the one before it, which may be gone.
    Replaced,
    /// To make it was begun, and no end was seen.
    MayExist,
    /// It was destroyed and is still in the state. A plan finds that out.
    Destroyed,
}

/// So many bytes of addresses and IDs are kept: what is named is to be read by people.
const MOST: usize = 2 * 1024 * 1024;

/// What could not be seen, where that is the state.
const NOT_COMPARED: &str = "its state, so that all that it changed is named";
/// The same, where it could be seen before.
const NOT_COMPARED_AGAIN: &str = "its state as it is by now";

impl Unsaved {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unseen.is_empty() && self.resources.is_empty() && self.left_out == 0
    }

    /// The state is looked at again.
    pub(crate) fn forget_comparison(&mut self) {
        self.unseen.retain(|unseen| ![NOT_COMPARED, NOT_COMPARED_AGAIN].iter().any(|what| unseen.starts_with(what)));
    }

    /// The state could not be seen. `orderly`: Terraform ended by itself, and so has saved what it knew.
    pub fn not_compared(&mut self, why: &str, orderly: bool) {
        self.forget_comparison();
        self.resources.retain(|resource| self.compared || !orderly || resource.is == Fate::MayExist);
        if !self.resources.is_empty() {
            let what = if self.compared { NOT_COMPARED_AGAIN } else { NOT_COMPARED };
            self.unseen.push(format!("{what} ({why})"));
        }
    }

    /// Leaves out what nobody could read.
    pub(crate) fn bound(&mut self) {
        let length =
            |resource: &UnsavedResource| resource.address.len() + resource.id.as_ref().map_or(0, String::len) + 64;
        let mut bytes = 0;
        let many = self.resources.len();
        self.resources.retain(|resource| {
            bytes += length(resource);
            bytes <= MOST
        });
        self.left_out += many - self.resources.len();
    }

    /// Whether something exists, or may exist, that the state does not have.
    #[must_use]
    pub fn needs_a_look(&self) -> bool {
        self.left_out > 0 || self.resources.iter().any(|resource| resource.is != Fate::Destroyed)
    }
}

impl fmt::Display for UnsavedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, is, id, doubt, failed, .. } = self;
        write!(f, "{address}: ")?;
        match (is, id) {
            (Fate::MayExist, _) if *failed => return f.write_str("its creation failed: it may exist"),
            (Fate::MayExist, _) => return f.write_str("its creation was begun and no end of it seen: it may exist"),
            (Fate::Destroyed, _) => return f.write_str("destroyed"),
            (Fate::Made, Some(id)) => write!(f, "made, id {id}"),
            (Fate::Made, None) => f.write_str("made, Terraform did not print its ID"),
            (Fate::Replaced, Some(id)) => write!(f, "made anew, id {id}; the state has the one before"),
            (Fate::Replaced, None) => {
                f.write_str("made anew, Terraform did not print its ID; the state has the one before")
            }
        }?;
        doubt.as_ref().map_or(Ok(()), |doubt| write!(f, " (NOT SURE: {doubt})"))
    }
}
