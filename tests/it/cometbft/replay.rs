//! An independent judge: all blocks of a chain, fetched over its RPC and applied to a ledger of the test's own.

use std::collections::BTreeMap;

use atlas_node::{
    chain::ledger::{Genesis, Ledger},
    types::{Digest, Time},
};
use tendermint::{Genesis as Beginning, block::Height};
use tendermint_rpc::{Client as _, HttpClient};

use super::writer::Writer;

/// What a replay found: the block and the code of every transaction.
pub(super) struct Replayed {
    pub(super) height: u64,
    places: BTreeMap<Digest, Vec<(u64, u32)>>,
}

/// Replays blocks 1 to `height`; every header must have the app hash that the ledger comes to.
pub(super) async fn replay(rpc: &HttpClient, height: u64) -> Replayed {
    let genesis: Beginning<Genesis> = rpc.genesis().await.unwrap();
    let mut ledger = Ledger::new(genesis.app_state).unwrap();
    let mut places = BTreeMap::<Digest, Vec<(u64, u32)>>::new();
    for height in 1..=height {
        let block = rpc.block(Height::try_from(height).unwrap()).await.unwrap().block;
        let signed = hex::encode(block.header.app_hash.as_bytes());
        assert_eq!(signed, ledger.app_hash().to_string(), "before block {height}");
        let nanos = block.header.time.unix_timestamp_nanos();
        let result = ledger.apply_block(Time(u64::try_from(nanos / 1_000_000).unwrap()), &block.data);
        for (bytes, result) in block.data.iter().zip(&result.results) {
            places.entry(Digest::of(bytes)).or_default().push((height, result.code));
        }
    }
    Replayed { height, places }
}

impl Replayed {
    /// Everything that the writer was told to be final is in the block that it was told, once, and did what it says.
    pub(super) fn holds(&self, writer: &Writer) {
        for (hash, height) in &writer.committed {
            let places = self.places.get(hash).map(Vec::as_slice);
            assert_eq!(places, Some(&[(*height, 0)][..]), "transaction {hash}");
        }
    }

    /// How many transactions were in a block and did nothing.
    pub(super) fn failed(&self) -> usize {
        self.places.values().flatten().filter(|(_, code)| *code != 0).count()
    }
}
