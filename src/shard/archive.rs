//! DAGs of the block store out to CAR streams and in from them.

use std::{
    collections::HashSet,
    io::{self, Read},
};

use bytes::Bytes;

use super::car;
use crate::{
    store::{
        BlockStore, blocks,
        dag_pb::{self, DAG_PB},
    },
    types::ContentId,
};

/// Why a DAG could not be archived or taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream is no CAR.
    #[error(transparent)]
    Car(#[from] car::Error),
    /// The block store refused.
    #[error(transparent)]
    Store(#[from] blocks::Error),
    /// The store can't be read, or the sink takes no more.
    #[error("the archive could not be written")]
    Io(#[from] io::Error),
    /// A block of the DAG is not here.
    #[error("block {0} is not in the store; fetch it first")]
    Missing(ContentId),
    /// A block whose links can't be read.
    #[error("{cid}: {source}")]
    Content {
        /// The block.
        cid: ContentId,
        /// What is wrong.
        source: dag_pb::Error,
    },
}

/// Hands the CAR of `root` to `sink` piece by piece, each block once, verified. Blocks. Memory grows with the number
/// of blocks by about 100 bytes each, and not with their size.
pub fn export(
    store: &BlockStore,
    root: &ContentId,
    sink: &mut dyn FnMut(Bytes) -> io::Result<()>,
) -> Result<(), Error> {
    sink(car::header(root).into())?;
    let mut open = vec![*root];
    let mut seen = HashSet::new();
    while let Some(cid) = open.pop() {
        if !seen.insert(cid) {
            continue;
        }
        let block = store.get_verified(&cid)?.ok_or(Error::Missing(cid))?;
        sink(car::section_head(&cid, block.len()).into())?;
        if cid.0.codec() == DAG_PB {
            let links = dag_pb::links(&cid, &block).map_err(|source| Error::Content { cid, source })?;
            open.extend(links.into_iter().rev());
        }
        sink(block)?;
    }
    Ok(())
}

/// Verifies and keeps every block of a CAR stream, syncs, and returns the roots that it names. Blocks.
///
/// The stream may hold less than whole DAGs; whoever needs them whole fetches the roots, which completes them.
pub fn import(store: &BlockStore, stream: impl Read) -> Result<Vec<ContentId>, Error> {
    let _kept_meanwhile = store.importing();
    let mut reader = car::Reader::new(stream)?;
    while let Some((cid, block)) = reader.next_block()? {
        store.put(&cid, &block)?;
    }
    store.sync()?;
    Ok(reader.roots().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shard::Files,
        store::{Files as _, Quota},
    };

    #[test]
    fn a_dag_goes_out_of_one_store_and_into_another() {
        let directory = tempfile::tempdir().unwrap();
        let open = |name| BlockStore::open(&directory.path().join(name), Quota { bytes: 1 << 30 }).unwrap();
        let (one, other) = (open("one"), open("other"));
        let bytes: Vec<u8> = (0_u64..).flat_map(u64::to_be_bytes).take(3 << 20).collect();
        let root = Files::new(one.clone()).import_bytes(&bytes).unwrap();
        let mut archive = Vec::new();
        export(&one, &root, &mut |piece| {
            archive.extend_from_slice(&piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(import(&other, &archive[..]).unwrap(), [root]);
        assert!(Files::new(other.clone()).read(&root, bytes.len()).unwrap() == bytes);

        *archive.last_mut().unwrap() ^= 1;
        let error = import(&open("third"), &archive[..]).unwrap_err();
        assert!(matches!(error, Error::Store(blocks::Error::Mismatch(_))), "{error}");
        let absent = dag_pb::content_id(dag_pb::RAW, b"absent");
        assert!(matches!(export(&one, &absent, &mut |_| Ok(())), Err(Error::Missing(_))));
    }
}
