//! What tests of several modules need: a real store, small models, a worker's finished round.

use std::sync::Arc;

use tempfile::TempDir;

use super::{Dtype, Spec, Tensors};
use crate::{
    shard,
    store::{BlockStore, Quota},
};

/// A block store in a directory that vanishes with it.
pub(crate) struct Store {
    pub(crate) files: Arc<shard::Files>,
    pub(crate) directory: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(&directory.path().join("blocks"), Quota { bytes: 1 << 30 }).unwrap();
        Self { files: Arc::new(shard::Files::new(store)), directory }
    }
}

/// A model of one F32 tensor `w` with these values.
pub(crate) fn model(values: &[f32]) -> Tensors {
    let mut tensors = Tensors::default();
    add(&mut tensors, "w", &[values.len()], values);
    tensors
}

/// Adds an F32 tensor.
pub(crate) fn add(tensors: &mut Tensors, name: &str, shape: &[usize], values: &[f32]) {
    let spec = Spec { dtype: Dtype::F32, shape: shape.to_vec() };
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensors.insert(name.into(), spec, data.into()).unwrap();
}
