//! What was told of the ledger's records, held until a trusted header shows that it is true.
//!
//! A chain's header of block h + 1 commits to all records after block h. So the client keeps the authenticated map of all records, of
//! which it holds the hashes alone, writes into it every update that an endpoint gives, and compares the root. Equal roots mean
//! that no value was changed, none was made up and none was left out, in one comparison for any number of records. Until
//! then nothing that was told leaves this file.
//!
//! It never hands out a record that is not proven, and nothing that was told changes the map before it is. So a lie costs what was
//! read with it, and no more: reading goes on from the last block that was proven, at another endpoint.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    chain::{
        Key,
        authenticated::Tree,
        records::{Account, Changes, Job, Model, Node, Object, ObjectId, RoundRecord, Task, Updates},
    },
    codec,
    types::{Digest, NodeKey, Time},
};

/// Bytes of updates that are held until they are proven. A chain of 100,000 nodes and as many tasks is read from its beginning in
/// less. When they are more, the read fails: the endpoint floods, or the ledger has outgrown this client.
const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;
/// What a page counts for by itself, in bytes, so that empty ones end too.
const PAGE_BYTES: usize = 64;
/// Records in one of the parts that proven changes are handed on in, as in a page of changes.
const PART: usize = 1_000;
/// The longest record in bytes: a job of a thousand shards.
const MAX_RECORD: usize = 4 * 1024 * 1024;

/// Why what was told is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::chain) enum Refusal {
    #[error("its records after block {height} have the app hash {found}, the chain's is {wanted}")]
    Root { height: u64, found: String, wanted: String },
    #[error("its updates go back from block {from} to block {to}")]
    Back { from: u64, to: u64 },
    #[error("its updates name one record twice")]
    Twice,
    #[error("its updates begin anew again and again")]
    Anew,
    #[error("its updates have more than {MAX_HELD_BYTES} bytes before anything of them can be proven")]
    Flood,
    #[error("its record under the key {key} is proven, and not what this program can read: update it")]
    Record { key: String, reason: String },
}

impl Refusal {
    /// Whether an honest endpoint never gives cause for it.
    pub(in crate::chain) fn is_lie(&self) -> bool {
        !matches!(self, Self::Record { .. } | Self::Flood)
    }
}

/// What came of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chain) enum Taken {
    /// The next page is needed.
    More,
    /// The records are those after this block, if the page was true.
    Until(u64),
    /// Nothing happened since.
    Nothing,
}

/// The records of one ledger as they were told.
pub(in crate::chain) struct Replica {
    /// Whose account is of interest.
    own: NodeKey,
    /// All records of the proven height, as hashes.
    tree: Tree,
    proven: Option<u64>,
    /// The own account's nonce at the proven height.
    nonce: u64,
    told: Told,
}

/// What is not proven.
#[derive(Default)]
struct Told {
    /// Updates are held up to here.
    read: Option<u64>,
    /// They are whole: the records after this block.
    pending: Option<u64>,
    updates: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// They begin from nothing.
    anew: bool,
}

/// Height and time, of the ledger's own record of them.
#[derive(Deserialize)]
struct Clock {
    time: Time,
}

impl Replica {
    /// Knows nothing. `own` is the account whose nonce is asked for.
    pub(in crate::chain) fn new(own: NodeKey) -> Self {
        Self { own, tree: Tree::new(), proven: None, nonce: 0, told: Told::default() }
    }

    /// Forgets what was told and is not proven.
    pub(in crate::chain) fn discard(&mut self) {
        self.told = Told { read: self.proven, ..Told::default() };
    }

    /// What to ask for: what came after this height; everything, if none.
    pub(in crate::chain) fn after(&self) -> Option<u64> {
        self.told.read
    }

    /// The height whose records wait for the header of the next block.
    pub(in crate::chain) fn pending(&self) -> Option<u64> {
        self.told.pending
    }

    /// Up to where all is proven.
    pub(in crate::chain) fn proven(&self) -> Option<u64> {
        self.proven
    }

    /// The nonce of the own account's next transaction at the proven height.
    pub(in crate::chain) fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Takes a page of updates. After an error the caller forgets what was told: [`Replica::discard`].
    pub(in crate::chain) fn take(&mut self, page: Updates) -> Result<Taken, Refusal> {
        if page.whole {
            if self.told.read.is_none() || self.told.anew {
                return Err(Refusal::Anew);
            }
            self.told = Told { anew: true, ..Told::default() };
        }
        if let Some(from) = self.told.read
            && (page.height < from || page.more && page.height == from)
        {
            return Err(Refusal::Back { from, to: page.height });
        }
        if self.told.read == Some(page.height) && page.records.is_empty() {
            return Ok(Taken::Nothing);
        }
        self.told.hold(page)?;
        Ok(self.told.pending.map_or(Taken::More, Taken::Until))
    }

    /// The header after the pending height has this app hash: what changed is true, and handed on, in parts of which each but the
    /// last says that there is more.
    pub(in crate::chain) fn confirm(&mut self, app_hash: Digest) -> Result<Vec<Changes>, Refusal> {
        let Some(height) = self.told.pending else { return Ok(Vec::new()) };
        let mut empty = self.told.anew.then(Tree::new);
        let staged = empty.as_ref().unwrap_or(&self.tree).stage(self.told.updates.clone());
        let found = staged.root();
        if found != app_hash {
            return Err(Refusal::Root { height, found: found.to_string(), wanted: app_hash.to_string() });
        }
        let updates = &self.told.updates;
        let time = match updates.get(&b"c"[..]) {
            Some(Some(value)) => read::<Clock>(b"c", value)?.time,
            _ => Time::ZERO,
        };
        let own = updates.get(&Key::Account(self.own).to_bytes()).and_then(Option::as_ref);
        let nonce = own.map(|value| read::<Account>(b"a", value)).transpose()?.map(|account| account.nonce);
        let parts = parts(updates, &Part { height, time, app_hash })?;
        if let Some(empty) = empty.take() {
            self.tree = empty;
        }
        self.tree.adopt(staged);
        self.nonce = nonce.unwrap_or(self.nonce);
        self.proven = Some(height);
        self.discard();
        Ok(parts)
    }
}

impl Told {
    fn hold(&mut self, page: Updates) -> Result<(), Refusal> {
        let mut own = BTreeMap::new();
        self.bytes += PAGE_BYTES;
        for update in page.records {
            self.bytes += update.key.len() + update.value.as_ref().map_or(0, Vec::len);
            if own.insert(update.key, update.value).is_some() {
                return Err(Refusal::Twice);
            }
        }
        if self.bytes > MAX_HELD_BYTES {
            return Err(Refusal::Flood);
        }
        self.updates.extend(own);
        self.read = Some(page.height);
        self.pending = (!page.more).then_some(page.height);
        Ok(())
    }
}

struct Part {
    height: u64,
    time: Time,
    app_hash: Digest,
}

impl Part {
    fn empty(&self) -> Changes {
        Changes::none_at(self.height, self.time, self.app_hash)
    }
}

/// The records that a node follows, in parts; at least one.
fn parts(held: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, part: &Part) -> Result<Vec<Changes>, Refusal> {
    let (mut parts, mut count) = (vec![part.empty()], 0);
    let followed = |key: &[u8]| matches!(key.first(), Some(b'n' | b'j' | b't' | b'r' | b'm' | b'h'));
    // Of what is followed only objects are ever removed.
    let removed = |key: &[u8]| key.first() == Some(&b'h');
    let records = held.iter().filter(|(key, value)| followed(key) && (value.is_some() || removed(key)));
    for (key, value) in records {
        if count == PART {
            if let Some(last) = parts.last_mut() {
                last.more = true;
            }
            parts.push(part.empty());
            count = 0;
        }
        if let Some(last) = parts.last_mut() {
            match value {
                Some(value) => add(last, key, value)?,
                None => last.gone.extend(ObjectId::from_key(&key[1..])),
            }
        }
        count += 1;
    }
    Ok(parts)
}

fn add(changes: &mut Changes, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
    match key.first() {
        Some(b'n') => changes.nodes.push(read::<Node>(key, value)?),
        Some(b'j') => changes.jobs.push(read::<Job>(key, value)?),
        Some(b't') => changes.tasks.push(read::<Task>(key, value)?),
        Some(b'r') => changes.rounds.push(read::<RoundRecord>(key, value)?),
        Some(b'm') => changes.models.push(read::<Model>(key, value)?),
        Some(b'h') => changes.objects.push(read::<Object>(key, value)?),
        _ => {}
    }
    Ok(())
}

fn read<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Refusal> {
    codec::decode(value, MAX_RECORD)
        .map_err(|error| Refusal::Record { key: hex::encode(key), reason: error.to_string() })
}
