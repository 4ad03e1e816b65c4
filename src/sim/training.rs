//! What a simulated script computes: a hash chain in the form of a small model.
//!
//! Its state after a step is a hash of everything before it: the round's model, the optimizer state it began from, the
//! data, the seed and each step. A batch that is lost, done twice or done from another state therefore changes the
//! model, and with it every root after it. Real roots, updates and aggregates are computed from these tensors by the
//! code that does it in production.

use bytes::Bytes;

use super::content::Directory;
use crate::{
    tensor::{
        Dtype, Spec, Tensors,
        checkpoint::{MODEL, OPTIMIZER},
    },
    types::Digest,
};

/// Records that a step sees.
pub(super) const BATCH: u64 = 32;
/// Name of the model's one tensor.
const WEIGHTS: &str = "weights";
/// Name of the optimizer's one tensor: the bytes of the chain, as floats.
const CHAIN: &str = "chain";
/// A weight is a byte of the chain divided by this.
const SCALE: f32 = 256.0;

/// The state of a script between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(Digest);

/// What fixes a round of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    /// The model file.
    pub(super) model: &'a [u8],
    /// The optimizer file that the round begins from.
    pub(super) optimizer: Option<&'a [u8]>,
    /// Bytes of the shard.
    pub(super) data: &'a [u8],
    /// The slot's seed of this cursor.
    pub(super) seed: &'a Digest,
}

impl Chain {
    /// The state at a round's start.
    pub(super) fn begin(inputs: &Inputs<'_>) -> Self {
        let optimizer = inputs.optimizer.unwrap_or_default();
        let parts = [inputs.model, optimizer, inputs.data].map(|part| Digest::of(part).0);
        Self(Digest::of_parts("atlas/sim/begin", &[&parts[0], &parts[1], &parts[2], &inputs.seed.0]))
    }

    /// The state after the steps from `from` up to `to`, with this seed.
    pub(super) fn advance(self, seed: &Digest, from: u32, to: u32) -> Self {
        (from..to).fold(self, |chain, step| {
            Self(Digest::of_parts("atlas/sim/step", &[&chain.0.0, &seed.0, &step.to_be_bytes()]))
        })
    }

    /// The checkpoint's directory in this state.
    pub(super) fn to_directory(self) -> Directory {
        Directory::of([(MODEL, self.model()), (OPTIMIZER, self.optimizer())])
    }

    /// The state that a checkpoint's directory holds.
    pub(super) fn from_directory(directory: &Directory) -> Option<Self> {
        let file = directory.0.get(OPTIMIZER)?;
        let tensors = Tensors::parse(Bytes::copy_from_slice(file)).ok()?;
        let floats = tensors.get(CHAIN)?.data.chunks_exact(4).map(|bytes| bytes.try_into().map(f32::from_le_bytes));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it was a byte when it was written"
        )]
        let bytes: Vec<u8> = floats.map(|float| float.map(|float| float as u8)).collect::<Result<_, _>>().ok()?;
        Digest::from_slice(&bytes).map(Self)
    }

    fn model(self) -> Vec<u8> {
        file(WEIGHTS, self.0.0.map(|byte| f32::from(byte) / SCALE))
    }

    fn optimizer(self) -> Vec<u8> {
        file(CHAIN, self.0.0.map(f32::from))
    }
}

/// The model that a job begins from.
pub(super) fn initial_model(seed: u64) -> Vec<u8> {
    Chain(Digest::of_parts("atlas/sim/model", &[&seed.to_be_bytes()])).model()
}

fn file(tensor: &str, values: [f32; 32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut tensors = Tensors::default();
    let spec = Spec { dtype: Dtype::F32, shape: vec![values.len()] };
    tensors.insert(tensor.to_owned(), spec, data.into()).expect("32 floats fit a shape of 32");
    tensors.to_safetensors()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs<'a>(model: &'a [u8], seed: &'a Digest) -> Inputs<'a> {
        Inputs { model, optimizer: None, data: b"shard", seed }
    }

    #[test]
    fn a_round_that_was_interrupted_ends_as_one_that_was_not() {
        let seed = Digest::of(b"seed");
        let begin = Chain::begin(&inputs(b"model", &seed));
        let whole = begin.advance(&seed, 0, 50);
        let half = Chain::from_directory(&begin.advance(&seed, 0, 30).to_directory()).unwrap();
        assert_eq!(half.advance(&seed, 30, 50), whole);
        assert_ne!(half.advance(&seed, 29, 50), whole, "a batch done twice shows");
        assert_ne!(half.advance(&seed, 31, 50), whole, "a batch left out shows");
    }

    #[test]
    fn every_input_matters() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let base = Chain::begin(&inputs(b"model", &one));
        assert_ne!(base, Chain::begin(&inputs(b"other", &one)));
        assert_ne!(base, Chain::begin(&inputs(b"model", &two)));
        assert_ne!(base, Chain::begin(&Inputs { optimizer: Some(b"o"), ..inputs(b"model", &one) }));
        assert_ne!(base, Chain::begin(&Inputs { data: b"x", ..inputs(b"model", &one) }));
    }
}
