//! The roots that name a state, independent of how a file lays it out (proof.md, "State root").
//!
//! H is SHA-256. Integers are big-endian. A text is preceded by its length as u32.
//!
//! - **chunk root** of a tensor: the RFC 6962 root ([`merkle`]) over its raw little-endian bytes cut into chunks of 1 MiB, the
//!   last one shorter; for a tensor without elements, H of nothing.
//! - **tensor leaf**: H(0x00 ‖ text "atlas/tensor/v1" ‖ text name ‖ text dtype ‖ rank as u32 ‖ each dimension as u64 ‖
//!   chunk root). The dtype is spelled as in safetensors, for example `F32`.
//! - **params root**: the RFC 6962 root over the tensor leaves, sorted by the UTF-8 bytes of their names. The
//!   optimizer's root is the same over the optimizer's tensors, or 32 zero bytes where there is no optimizer file.
//! - **state root**: H(0x02 ‖ params root ‖ optimizer root ‖ step as u64 ‖ H(extra)), where `extra` is the bytes of the
//!   script's `state.json`, empty if it has none.

use std::{io, ops::Range, thread};

use super::{Content, Error, Layout, MAX_FILE_BYTES, Spec, Tensors, merkle};
use crate::{
    store::Files,
    types::{ContentId, Digest, Step},
};

/// What a leaf of the chunk tree covers, in bytes.
const CHUNK_BYTES: u64 = 1024 * 1024;
/// A thread is worth starting for this many chunks (about 5 ms of hashing).
const CHUNKS_A_THREAD: usize = 8;
/// More threads than this gain nothing: memory is the limit then.
const MAX_THREADS: usize = 16;
const TENSOR_DOMAIN: &str = "atlas/tensor/v1";

/// The optimizer root of a state without optimizer.
pub const NO_OPTIMIZER: Digest = Digest([0; 32]);

/// The params root of the tensors that `layout` finds in `content`. Hashes on all cores; memory stays below a chunk
/// a thread and 32 bytes a chunk, whatever the size.
pub fn params_root<C: Content + ?Sized>(layout: &Layout, content: &C) -> io::Result<Digest> {
    let ranges: Vec<Range<u64>> = layout.tensors.values().flat_map(|placed| chunks(&placed.range)).collect();
    let hashes = chunk_hashes(&ranges, content)?;
    let mut hashes = hashes.as_slice();
    let mut leaf = |(name, placed): (&String, &super::Placed)| {
        let (own, rest) = hashes.split_at(chunks(&placed.range).count());
        hashes = rest;
        tensor_leaf(name, &placed.spec, &merkle::root(own))
    };
    let leaves: Vec<Digest> = layout.tensors.iter().map(&mut leaf).collect();
    Ok(merkle::root(&leaves))
}

/// The params root of a whole safetensors file.
pub fn of_file(file: &[u8]) -> Result<Digest, Error> {
    Ok(params_root(&Layout::parse(file, file.len() as u64)?, file)?)
}

/// The params root of tensors in memory.
///
/// # Panics
/// Never: memory is read without error.
pub fn of_tensors(tensors: &Tensors) -> Digest {
    let leaf = |(name, tensor): (&str, &super::Tensor)| {
        let ranges: Vec<_> = chunks(&(0..tensor.data.len() as u64)).collect();
        let hashes = chunk_hashes(&ranges, &tensor.data[..]).expect("chunks lie inside the tensor");
        tensor_leaf(name, &tensor.spec, &merkle::root(&hashes))
    };
    merkle::root(&tensors.iter().map(leaf).collect::<Vec<_>>())
}

/// The params root of a stored model: what a job's first round begins from.
pub fn of_content(files: &dyn Files, model: &ContentId) -> Result<Digest, Error> {
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    of_file(&files.read(model, limit)?)
}

/// The state root after `step` steps of a round.
pub fn state_root(params_root: &Digest, opt_root: &Digest, step: Step, extra: &[u8]) -> Digest {
    let step = u64::from(step).to_be_bytes();
    merkle::hash(&[&[0x02], &params_root.0, &opt_root.0, &step, &Digest::of(extra).0])
}

/// The state root at a round's start, where the script has no state of its own yet.
pub fn start_root(params_root: &Digest, opt_root: &Digest) -> Digest {
    state_root(params_root, opt_root, 0, &[])
}

fn tensor_leaf(name: &str, spec: &Spec, chunk_root: &Digest) -> Digest {
    let mut bytes = vec![0x00];
    let mut text = |text: &str| {
        bytes.extend(length(text.len()).to_be_bytes());
        bytes.extend(text.as_bytes());
    };
    text(TENSOR_DOMAIN);
    text(name);
    text(&spec.dtype.to_string());
    bytes.extend(length(spec.shape.len()).to_be_bytes());
    spec.shape.iter().for_each(|dimension| bytes.extend((*dimension as u64).to_be_bytes()));
    bytes.extend(chunk_root.0);
    Digest::of(&bytes)
}

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("names and ranks are bounded far below 4 GiB by the format")
}

fn chunks(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = range.end;
    (range.start..end).step_by(1024 * 1024).map(move |start| start..end.min(start + CHUNK_BYTES))
}

/// Leaf hashes of the chunks, in order; the work is cut into equal runs, one a thread.
fn chunk_hashes<C: Content + ?Sized>(ranges: &[Range<u64>], content: &C) -> io::Result<Vec<Digest>> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    let threads = cores.min(ranges.len() / CHUNKS_A_THREAD).max(1);
    if threads == 1 {
        return hash_run(ranges, content);
    }
    thread::scope(|scope| {
        let runs = ranges.chunks(ranges.len().div_ceil(threads));
        let workers: Vec<_> = runs.map(|run| scope.spawn(|| hash_run(run, content))).collect();
        let mut hashes = Vec::with_capacity(ranges.len());
        for worker in workers {
            hashes.extend(worker.join().map_err(|_| io::Error::other("a hashing thread panicked"))??);
        }
        Ok(hashes)
    })
}

fn hash_run<C: Content + ?Sized>(ranges: &[Range<u64>], content: &C) -> io::Result<Vec<Digest>> {
    let mut buffer = Vec::new();
    ranges.iter().map(|range| Ok(merkle::leaf(content.piece(range.clone(), &mut buffer)?))).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use safetensors::Dtype;

    use super::*;

    fn tensors(entries: &[(&str, &[usize], Vec<u8>)]) -> Tensors {
        let mut tensors = Tensors::default();
        for (name, shape, data) in entries {
            let spec = Spec { dtype: Dtype::U8, shape: shape.to_vec() };
            tensors.insert((*name).into(), spec, data.clone().into()).unwrap();
        }
        tensors
    }

    #[test]
    fn memory_bytes_and_file_agree_and_so_does_the_definition() {
        let big: Vec<u8> = (0..20 * 1024 * 1024 + 5_u32).map(|i| i.to_le_bytes()[0]).collect();
        let tensors =
            tensors(&[("big", &[big.len()], big.clone()), ("none", &[0], vec![]), ("z", &[2, 1], vec![7, 8])]);
        let bytes = tensors.to_safetensors();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let layout = Layout::parse(&file, bytes.len() as u64).unwrap();

        let leaf = |name: &str, shape: &[u64], data: &[u8]| {
            let hashes: Vec<_> = data.chunks(1 << 20).map(merkle::leaf).collect();
            let mut bytes = b"\0\0\0\0\x0fatlas/tensor/v1".to_vec();
            bytes.extend([&length(name.len()).to_be_bytes()[..], name.as_bytes(), b"\0\0\0\x02U8"].concat());
            bytes.extend(length(shape.len()).to_be_bytes());
            shape.iter().for_each(|dimension| bytes.extend(dimension.to_be_bytes()));
            bytes.extend(merkle::root(&hashes).0);
            Digest::of(&bytes)
        };
        let defined = merkle::root(&[
            leaf("big", &[big.len() as u64], &big),
            leaf("none", &[0], &[]),
            leaf("z", &[2, 1], &[7, 8]),
        ]);
        assert_eq!(of_tensors(&tensors), defined);
        assert_eq!(of_file(&bytes).unwrap(), defined);
        assert_eq!(params_root(&layout, &file).unwrap(), defined);
    }

    #[test]
    fn every_part_of_a_state_moves_its_root() {
        let of = |entries: &[(&str, &[usize], Vec<u8>)]| of_tensors(&tensors(entries));
        let base = of(&[("a", &[4], vec![1, 2, 3, 4])]);
        let others = [
            of(&[("b", &[4], vec![1, 2, 3, 4])]),
            of(&[("a", &[2, 2], vec![1, 2, 3, 4])]),
            of(&[("a", &[4], vec![1, 2, 3, 5])]),
            of(&[("a", &[2], vec![1, 2]), ("b", &[2], vec![3, 4])]),
        ];
        for other in others {
            assert_ne!(base, other);
        }
        let state = state_root(&base, &NO_OPTIMIZER, 0, b"");
        assert_eq!(state, start_root(&base, &NO_OPTIMIZER));
        assert_ne!(state, state_root(&base, &base, 0, b""));
        assert_ne!(state, state_root(&base, &NO_OPTIMIZER, 1, b""));
        assert_ne!(state, state_root(&base, &NO_OPTIMIZER, 0, b"{}"));
    }
}
