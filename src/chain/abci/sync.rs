//! State sync, without its disk: a snapshot cut into chunks for others, and one that is put together from theirs.
//!
//! A chunk comes from a stranger through CometBFT. Each is checked against its digest in the snapshot's metadata, and
//! the ledger that comes out against the app hash that CometBFT's light client trusts; nothing is believed before.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tendermint_proto::v0_38::abci::{
    Snapshot as Offer, response_apply_snapshot_chunk::Result as Applied, response_offer_snapshot::Result as Offered,
};

use crate::{
    chain::{
        ledger::{Ledger, MAX_SNAPSHOT},
        snapshot::{self, Snapshot},
    },
    codec,
    types::Digest,
};

/// Bytes of a chunk but the last. CometBFT carries at most 16 MB in one message.
pub(super) const CHUNK: usize = 8 * 1024 * 1024;
/// The form of snapshots and of their metadata. A validator takes no other.
const FORMAT: u32 = 1;
/// The most chunks of a snapshot: those of the largest one, and the last for what stands around it.
const MAX_CHUNKS: usize = MAX_SNAPSHOT / CHUNK + 1;
/// The longest metadata in bytes: a digest for each chunk.
const MAX_METADATA: usize = 64 * (MAX_CHUNKS + 1);

/// What the metadata says: the digest of each chunk, in order.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    chunks: Vec<Digest>,
}

/// How a snapshot whose file is `bytes` is offered to others.
pub(super) fn describe(height: u64, bytes: &[u8]) -> Offer {
    let chunks: Vec<Digest> = bytes.chunks(CHUNK).map(Digest::of).collect();
    let count = u32::try_from(chunks.len()).expect("a snapshot has at most a few hundred chunks");
    let metadata = codec::encode(&Metadata { chunks });
    let hash = Bytes::copy_from_slice(&Digest::of(&metadata).0);
    Offer { height, format: FORMAT, chunks: count, hash, metadata: metadata.into() }
}

/// Where a chunk lies in a file of so many bytes; nowhere if there is no such chunk.
pub(super) fn chunk(length: u64, format: u32, index: u32) -> Range<u64> {
    let start = u64::from(index) * CHUNK as u64;
    if format == FORMAT && start < length { start..length.min(start + CHUNK as u64) } else { 0..0 }
}

/// A snapshot that is being put together.
#[derive(Debug)]
pub(super) struct Restoring {
    height: u64,
    app_hash: Digest,
    digests: Vec<Digest>,
    bytes: Vec<u8>,
    applied: usize,
}

/// What became of a chunk.
#[derive(Debug)]
pub(super) enum Step {
    /// The next one is wanted.
    More,
    /// It is not what the metadata says: from another sender, please.
    Refetch,
    /// Everything is there, and it is what was promised.
    Done { ledger: Box<Ledger>, snapshot: Snapshot },
    /// Everything is there, and it is not what was promised.
    Wrong(String),
}

impl Restoring {
    /// Begins with an offer, whose app hash CometBFT's light client trusts.
    pub(super) fn begin(offer: &Offer, app_hash: &[u8]) -> Result<Self, Offered> {
        if offer.format != FORMAT {
            return Err(Offered::RejectFormat);
        }
        let metadata: Metadata = codec::decode(&offer.metadata, MAX_METADATA).map_err(|_| Offered::Reject)?;
        let app_hash = Digest::from_slice(app_hash).ok_or(Offered::Reject)?;
        let count = metadata.chunks.len();
        let fits = (1..=MAX_CHUNKS).contains(&count) && usize::try_from(offer.chunks) == Ok(count);
        if !fits || Digest::of(&offer.metadata).0 != offer.hash[..] {
            return Err(Offered::Reject);
        }
        Ok(Self { height: offer.height, app_hash, digests: metadata.chunks, bytes: Vec::new(), applied: 0 })
    }

    /// Takes the next chunk.
    pub(super) fn apply(&mut self, index: u32, chunk: &[u8]) -> Step {
        let next = usize::try_from(index) == Ok(self.applied) && chunk.len() <= CHUNK;
        if !next || self.digests.get(self.applied) != Some(&Digest::of(chunk)) {
            return Step::Refetch;
        }
        self.bytes.extend_from_slice(chunk);
        self.applied += 1;
        if self.applied < self.digests.len() {
            return Step::More;
        }
        match self.finish() {
            Ok((ledger, snapshot)) => Step::Done { ledger: Box::new(ledger), snapshot },
            Err(reason) => Step::Wrong(reason),
        }
    }

    fn finish(&mut self) -> Result<(Ledger, Snapshot), String> {
        let bytes = std::mem::take(&mut self.bytes);
        let snapshot = snapshot::decode(&bytes).ok_or("it is no snapshot of this program")?;
        let ledger = Ledger::restore(&snapshot.state).map_err(|error| error.to_string())?;
        if (ledger.height(), snapshot.height) != (self.height, self.height) {
            return Err(format!("it has height {}, not {}", ledger.height(), self.height));
        }
        if ledger.app_hash() != self.app_hash {
            return Err(format!("it has app hash {}, the chain {}", ledger.app_hash(), self.app_hash));
        }
        Ok((ledger, snapshot))
    }
}

/// The words of ABCI for what became of a chunk.
pub(super) fn verdict(step: &Step) -> Applied {
    match step {
        Step::More | Step::Done { .. } => Applied::Accept,
        Step::Refetch => Applied::Retry,
        Step::Wrong(_) => Applied::RejectSnapshot,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{genesis, transaction},
        *,
    };
    use crate::types::Time;

    /// A ledger of some blocks, and its snapshot's file.
    fn grown() -> (Ledger, Bytes) {
        let mut ledger = Ledger::new(genesis()).unwrap();
        for nonce in 0..5 {
            ledger.apply_block(Time(1_700_000_000_000 + nonce), &[transaction(1, nonce).to_vec()]);
        }
        let snapshot = Snapshot { height: ledger.height(), offset: 0, state: ledger.snapshot() };
        (ledger, snapshot::encode(&snapshot).into())
    }

    fn restoring(ledger: &Ledger, bytes: &Bytes) -> Restoring {
        Restoring::begin(&describe(ledger.height(), bytes), &ledger.app_hash().0).unwrap()
    }

    #[test]
    fn a_snapshot_goes_over_in_chunks_and_gives_the_same_ledger() {
        let (ledger, bytes) = grown();
        let mut restoring = restoring(&ledger, &bytes);
        let Step::Done { ledger: restored, snapshot } = restoring.apply(0, &bytes) else {
            panic!("the only chunk was the last");
        };
        assert_eq!((restored.app_hash(), restored.height()), (ledger.app_hash(), 5));
        assert_eq!(snapshot::encode(&snapshot), bytes, "whoever restored it offers the same bytes");
    }

    #[test]
    fn chunks_follow_on_each_other_and_there_are_none_behind_the_last_or_of_another_format() {
        let size = CHUNK as u64;
        let offer = describe(9, &vec![7; CHUNK + 3]);
        assert_eq!((offer.height, offer.chunks), (9, 2));
        let found = [0, 1, 2, u32::MAX].map(|index| chunk(size + 3, FORMAT, index));
        assert_eq!(found, [0..size, size..size + 3, 0..0, 0..0]);
        assert_eq!(chunk(size, FORMAT + 1, 0), 0..0);
    }

    #[test]
    fn a_chunk_that_is_bent_or_out_of_turn_is_fetched_again_and_spoils_nothing() {
        let (ledger, bytes) = grown();
        let mut restoring = restoring(&ledger, &bytes);
        let mut bent = bytes.to_vec();
        bent[40] ^= 1;
        assert!(matches!(restoring.apply(0, &bent), Step::Refetch));
        assert!(matches!(restoring.apply(1, &bytes), Step::Refetch));
        assert!(matches!(restoring.apply(0, &bytes), Step::Done { .. }));
        assert!(matches!(restoring.apply(1, &bytes), Step::Refetch), "there is no further chunk");
    }

    #[test]
    fn a_whole_snapshot_of_another_state_or_height_is_refused_with_the_reason() {
        let (ledger, bytes) = grown();
        let mut other = Restoring::begin(&describe(5, &bytes), &[7; 32]).unwrap();
        assert!(matches!(other.apply(0, &bytes), Step::Wrong(reason) if reason.contains("app hash")));
        let mut other = Restoring::begin(&describe(6, &bytes), &ledger.app_hash().0).unwrap();
        assert!(matches!(other.apply(0, &bytes), Step::Wrong(reason) if reason.contains("height")));
        let garbage = Bytes::from_static(b"no snapshot at all");
        let mut other = Restoring::begin(&describe(5, &garbage), &ledger.app_hash().0).unwrap();
        assert!(matches!(other.apply(0, &garbage), Step::Wrong(_)));
    }

    #[test]
    fn an_offer_that_lies_is_refused_before_a_chunk_is_fetched() {
        let (ledger, bytes) = grown();
        let refused = |change: fn(&mut Offer)| {
            let mut offer = describe(5, &bytes);
            change(&mut offer);
            Restoring::begin(&offer, &ledger.app_hash().0).unwrap_err()
        };
        assert_eq!(refused(|offer| offer.format = 2), Offered::RejectFormat);
        assert_eq!(refused(|offer| offer.chunks = 2), Offered::Reject);
        assert_eq!(refused(|offer| offer.hash = Bytes::from_static(&[1; 32])), Offered::Reject);
        assert_eq!(refused(|offer| offer.metadata = Bytes::from_static(b"\xff")), Offered::Reject);
        assert_eq!(refused(|offer| offer.metadata = vec![0; MAX_METADATA + 1].into()), Offered::Reject);
        assert_eq!(Restoring::begin(&describe(5, &bytes), &[1, 2]).unwrap_err(), Offered::Reject);
    }
}
