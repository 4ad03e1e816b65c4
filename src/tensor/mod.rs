//! Tensors as bytes: the safetensors format, the roots that name a state, the encoded update, the kept checkpoint.
//!
//! `proof`, `round` and `recovery` all speak of models, and are siblings that never import each other: what they
//! mean by "the same model" is defined here, once. Everything is a function of bytes; content is read through
//! [`crate::store::Files`]. Nothing here decides, waits or talks to a peer, and no float is ever summed here.

pub mod checkpoint;
mod content;
mod format;
mod guard;
pub mod merkle;
pub mod root;
pub mod update;

pub use content::Content;
pub(crate) use format::floats;
pub use format::{
    Dtype, Error, Layout, MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, Placed, Schema, Spec, Tensor,
    Tensors,
};
pub(crate) use guard::guarded;
