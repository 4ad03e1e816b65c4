//! Content that nodes keep for others, and who holds it now. What may become of it is the ledger's to say.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Node;
use crate::types::{ContentId, Digest, NodeKey, Time};

/// The name of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectId {
    /// Who asked for it.
    pub owner: NodeKey,
    /// SHA-256 of the bytes of its root's CID, so that all names are of one length.
    pub name: Digest,
}

impl ObjectId {
    /// The object of `owner` with this root.
    pub fn of(owner: NodeKey, root: &ContentId) -> Self {
        Self { owner, name: Self::name_of(root) }
    }

    /// What stands for a root in the names of its objects.
    pub fn name_of(root: &ContentId) -> Digest {
        Digest::of(&root.0.to_bytes())
    }

    /// The name that has these bytes as its key of the authenticated map, after the kind.
    pub(in crate::chain) fn from_key(bytes: &[u8]) -> Option<Self> {
        let (owner, name) = bytes.split_at_checked(32)?;
        Some(Self { owner: NodeKey::from_slice(owner)?, name: Digest::from_slice(name)? })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.owner)
    }
}

/// Content that nodes keep for another. Only in ledgers with storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Who asked for it.
    pub owner: NodeKey,
    /// Its root.
    pub root: ContentId,
    /// Bytes of its blocks, as the owner says; a holder takes no more.
    pub bytes: u64,
    /// How many nodes shall hold it.
    pub copies: u32,
    /// Block time from which it is over.
    pub until: Time,
    /// Block time at which it was asked for first.
    pub created_at: Time,
    /// Who said that they hold it, in that order; those whose epoch is not their node's any more hold it no longer.
    pub holders: Vec<Holder>,
}

/// A node that said that it holds an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub node: NodeKey,
    /// Its storage epoch then.
    pub epoch: u64,
}

impl Object {
    /// Its name.
    pub fn id(&self) -> ObjectId {
        ObjectId::of(self.owner, &self.root)
    }

    /// Who holds it now; `node` gives the record of a node.
    pub fn live<'a>(&'a self, node: impl Fn(&NodeKey) -> Option<&'a Node>) -> impl Iterator<Item = NodeKey> {
        let live = move |holder: &&Holder| holder.is_live(node(&holder.node));
        self.holders.iter().filter(live).map(|holder| holder.node)
    }
}

impl Holder {
    /// Whether it holds the object now; `node` is its node's record.
    pub fn is_live(&self, node: Option<&Node>) -> bool {
        node.is_some_and(|node| node.storage_epoch == self.epoch)
    }
}
