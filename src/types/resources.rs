//! What a machine has, offers or asks for.

use serde::{Deserialize, Serialize};

/// An amount of each resource. Integers, because amounts are booked on the ledger and compared exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Thousandths of a CPU core.
    pub cpu_millicores: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk.
    pub storage_bytes: u64,
    /// Whole GPUs.
    pub gpu_count: u32,
}

impl Resources {
    /// The name of the first resource of which `self` has less than `wanted`; `None` if `wanted` fits.
    pub fn lacks(&self, wanted: &Self) -> Option<&'static str> {
        [
            (self.cpu_millicores < wanted.cpu_millicores, "cpu"),
            (self.memory_bytes < wanted.memory_bytes, "memory"),
            (self.storage_bytes < wanted.storage_bytes, "storage"),
            (self.gpu_count < wanted.gpu_count, "gpu"),
        ]
        .into_iter()
        .find_map(|(short, name)| short.then_some(name))
    }

    /// The same for all of `wanted` together: whether what a node registered is enough for all that it holds. A ledger's rule for a
    /// lease, which a node looks at before it asks for one.
    pub fn lacks_for(&self, wanted: impl IntoIterator<Item = Self>) -> Option<&'static str> {
        self.lacks(&wanted.into_iter().fold(Self::default(), |sum, more| sum.plus(&more)))
    }

    /// `self + other`, each saturating.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_add(other.cpu_millicores),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            storage_bytes: self.storage_bytes.saturating_add(other.storage_bytes),
            gpu_count: self.gpu_count.saturating_add(other.gpu_count),
        }
    }

    /// `self − other`, each stopping at zero.
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_sub(other.cpu_millicores),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            storage_bytes: self.storage_bytes.saturating_sub(other.storage_bytes),
            gpu_count: self.gpu_count.saturating_sub(other.gpu_count),
        }
    }
}
