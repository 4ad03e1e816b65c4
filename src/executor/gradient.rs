//! A gradient in place of a model: what a job with `output = "gradient"` leaves, turned into the model of one step.
//!
//! The rest of the node knows trained models alone. A gradient points uphill, so the model is the round's model minus it;
//! their difference, which becomes the update, is then the gradient again, and the outer step applies the learning rate.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::de::{DeserializeSeed, Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};

use crate::tensor::{self, Dtype, Schema, Tensor, Tensors};

/// A gradient as a safetensors file, below `out/`.
const FILE: &str = "update.safetensors";
/// A gradient as nested lists, below `out/`.
const TEXT: &str = "gradients.json";
/// The longest such text in bytes (script contract, "Outputs"). A longer one is refused before it is read.
const MAX_TEXT: u64 = 64 * 1024 * 1024;

/// Why a gradient is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("the job asks for a gradient, and there is neither `out/{FILE}` nor `out/{TEXT}`")]
    Missing,
    /// It can't be read, or the model not written.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too long.
    #[error("`out/{TEXT}` is over {MAX_TEXT} bytes; write `out/{FILE}`")]
    TooLong,
    /// It is no such text.
    #[error("`out/{TEXT}`: {0}")]
    Text(#[from] serde_json::Error),
    /// It does not fit the model.
    #[error("the gradient does not fit the model: {0}")]
    Tensor(#[from] tensor::Error),
    /// The model is of another kind.
    #[error("tensor `{0}` of the model is not F32, so it has no gradient")]
    NotFloat(String),
}

/// Writes `out/model.safetensors`: the model at `base` minus the gradient in `outputs`.
///
/// # Errors
/// If there is no gradient, or it has other names, shapes or types than the model, or a value that is not finite.
pub(super) fn apply(base: &Path, outputs: &Path) -> Result<(), Error> {
    let model = Tensors::parse(read(base)?.into())?;
    if let Some((name, _)) = model.iter().find(|(_, tensor)| tensor.spec.dtype != Dtype::F32) {
        return Err(Error::NotFloat(name.chars().take(80).collect()));
    }
    let gradient = read_gradient(outputs, &model.schema())?;
    gradient.check_schema(&model)?;
    gradient.check_finite()?;
    let mut trained = Tensors::default();
    for (name, tensor) in model.iter() {
        let step = gradient.get(name).map_or(&[][..], |gradient| &gradient.data);
        trained.insert(name.to_owned(), tensor.spec.clone(), minus(tensor, step).into())?;
    }
    trained.check_finite()?;
    let path = outputs.join("model.safetensors");
    fs::write(&path, trained.to_safetensors()).map_err(|source| Error::Io { path, source })
}

fn minus(tensor: &Tensor, step: &[u8]) -> Vec<u8> {
    let pairs = tensor::floats(&tensor.data).zip(tensor::floats(step));
    pairs.flat_map(|(weight, step)| (weight - step).to_le_bytes()).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > tensor::MAX_FILE_BYTES {
        return Err(tensor::Error::FileTooLong { length }.into());
    }
    fs::read(path).map_err(failed)
}

fn read_gradient(outputs: &Path, schema: &Schema) -> Result<Tensors, Error> {
    let (file, text) = (outputs.join(FILE), outputs.join(TEXT));
    if file.is_file() {
        return Ok(Tensors::parse(read(&file)?.into())?);
    }
    let metadata = fs::metadata(&text).map_err(|_| Error::Missing)?;
    if metadata.len() > MAX_TEXT {
        return Err(Error::TooLong);
    }
    parse(&read(&text)?, schema)
}

/// Reads `{"gradients": {name: nested lists of numbers}}` into the shapes of `schema`. Memory is that of the tensors, whatever
/// the text holds.
///
/// # Errors
/// If it is no such text, or names or shapes are others than those of `schema`.
pub fn parse(text: &[u8], schema: &Schema) -> Result<Tensors, Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let values = reader.deserialize_map(Document { schema })?;
    reader.end()?;
    let mut tensors = Tensors::default();
    for (name, values) in values {
        let spec = schema.get(&name).cloned().ok_or(Error::Missing)?;
        tensors.insert(name, spec, values.into())?;
    }
    Ok(tensors)
}

type Values = Vec<(String, Vec<u8>)>;

struct Document<'a> {
    schema: &'a Schema,
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"{"gradients": {name: nested lists of numbers}}"#)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        match map.next_key::<String>()? {
            Some(key) if key == "gradients" => {}
            other => return Err(A::Error::custom(format!("expected the key `gradients`, found {other:?}"))),
        }
        let values = map.next_value_seed(Named { schema: self.schema })?;
        match map.next_key::<String>()? {
            None => Ok(values),
            Some(key) => Err(A::Error::custom(format!("unknown key `{}`", key.chars().take(80).collect::<String>()))),
        }
    }
}

struct Named<'a> {
    schema: &'a Schema,
}

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Values;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Values, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        let mut all = Values::new();
        while let Some(name) = map.next_key::<String>()? {
            let short = || name.chars().take(80).collect::<String>();
            let spec = self.schema.get(&name).ok_or_else(|| A::Error::custom(format!("no tensor `{}`", short())))?;
            if all.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("tensor `{}` stands twice", short())));
            }
            let mut values = Vec::with_capacity(spec.elements() * size_of::<f32>());
            map.next_value_seed(Elements { shape: &spec.shape, values: &mut values })?;
            all.push((name, values));
        }
        Ok(all)
    }
}

/// The elements of one tensor, or of a slice of it, as nested lists of exactly this shape.
struct Elements<'a> {
    shape: &'a [usize],
    values: &'a mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.shape.is_empty() {
            let value = <f32 as serde::Deserialize>::deserialize(deserializer)?;
            self.values.extend_from_slice(&value.to_le_bytes());
            return Ok(());
        }
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nested lists of the shape {:?}", self.shape)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((length, inner)) = self.shape.split_first() else { return Ok(()) };
        for found in 0..*length {
            let next = list.next_element_seed(Elements { shape: inner, values: self.values })?;
            if next.is_none() {
                return Err(A::Error::invalid_length(found, &self));
            }
        }
        match list.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::invalid_length(length + 1, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::testing::model;

    fn setting(gradient: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("base"), model(&[1.0, 2.0]).to_safetensors()).unwrap();
        fs::write(directory.path().join(TEXT), gradient).unwrap();
        directory
    }

    fn name() -> String {
        model(&[1.0, 2.0]).iter().next().unwrap().0.to_owned()
    }

    fn refused(gradient: &str) -> String {
        let directory = setting(gradient);
        apply(&directory.path().join("base"), directory.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_gradient_as_text_or_as_tensors_gives_the_same_model_downhill() {
        let directory = setting(&format!(r#"{{"gradients": {{"{}": [0.25, -1]}}}}"#, name()));
        let (base, out) = (directory.path().join("base"), directory.path());
        apply(&base, out).unwrap();
        let from_text = fs::read(out.join("model.safetensors")).unwrap();
        assert_eq!(from_text, model(&[0.75, 3.0]).to_safetensors());
        fs::write(out.join(FILE), model(&[0.25, -1.0]).to_safetensors()).unwrap();
        apply(&base, out).unwrap();
        assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), from_text);
    }

    #[test]
    fn whatever_does_not_fit_the_model_is_refused_with_the_reason() {
        let gradient = |values: &str| format!(r#"{{"gradients": {{"{}": {values}}}}}"#, name());
        assert!(refused(&gradient("[1]")).contains("length 1"));
        assert!(refused(&gradient("[1, 2, 3]")).contains("length 3"));
        assert!(refused(&gradient("[[1], 2]")).contains("f32"));
        assert!(refused(&gradient("[1e39, 2]")).contains("infinite"));
        assert!(refused(&gradient("[NaN, 2]")).contains("expected"));
        assert!(refused(r#"{"gradients": {}}"#).contains("only one of the two has it"));
        assert!(refused(r#"{"gradients": {"other": [1]}}"#).contains("no tensor `other`"));
        assert!(refused(r#"{"grad": {}}"#).contains("gradients"));
        assert!(refused(&"[".repeat(100_000)).contains("out/gradients.json"));
        let directory = setting("{}");
        fs::remove_file(directory.path().join(TEXT)).unwrap();
        assert!(matches!(apply(&directory.path().join("base"), directory.path()), Err(Error::Missing)));
    }
}
