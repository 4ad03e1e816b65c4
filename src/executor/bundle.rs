//! `atlas.toml`: what a bundle says of itself.

use std::{fs, io, path::Path};

use serde::Deserialize;

use super::Mode;
use crate::types::OutputKind;

/// The manifest's name inside the bundle.
pub const MANIFEST: &str = "atlas.toml";
/// The longest manifest read, in bytes; a longer one is refused.
const MAX_MANIFEST: u64 = 64 * 1024;
/// The contract that this node speaks.
pub const CONTRACT: &str = "atlas-script/1";
/// Arguments after the entry point; more are refused.
const MAX_ARGUMENTS: usize = 32;

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest can't be read.
    #[error("`{MANIFEST}` can't be read; a bundle is a directory with an `{MANIFEST}`")]
    Read(#[source] io::Error),
    /// The manifest is too long.
    #[error("`{MANIFEST}` is over {MAX_MANIFEST} bytes")]
    TooLong,
    /// The manifest is no such TOML.
    #[error("`{MANIFEST}`: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// A value can't be used.
    #[error("`{MANIFEST}`: {0}")]
    Value(String),
}

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The contract it was written for: `atlas-script/1`.
    pub contract: String,
    /// A name for people.
    pub name: String,
    /// Its version, for people: its CID is its identity.
    pub version: String,
    /// The script's path inside the bundle, then its arguments.
    pub entry: Vec<String>,
    /// Whether equal inputs give equal bytes on one class of machines. Then it gets one thread and pinned kernels.
    #[serde(default)]
    pub deterministic: bool,
    /// Modes that it knows.
    #[serde(default = "only_train")]
    pub modes: Vec<Mode>,
    /// Most memory that it needs, in MiB; 0 if it does not say.
    #[serde(default)]
    pub peak_memory_mib: u64,
    /// What it needs of Python.
    #[serde(default)]
    pub python: Python,
    /// Data channels that it reads.
    #[serde(default)]
    pub inputs: Inputs,
    /// Files that it writes to `out/`.
    #[serde(default)]
    pub outputs: Outputs,
    /// A tiny job that `script check` runs. The node itself never reads it.
    #[serde(default)]
    pub check: Option<Check>,
}

/// What a bundle needs of Python.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Python {
    /// For example `>=3.11`. For people; an interpreter that is too old fails with exit 69.
    pub requires: String,
    /// Locked packages, for example `numpy==2.4.6`.
    pub packages: Vec<String>,
    /// A directory of the bundle with installed packages (`pip install --target`), which the script can import.
    pub site_packages: Option<String>,
    /// An interpreter inside the bundle, which runs it in place of the node's.
    pub interpreter: Option<String>,
}

/// What a bundle reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Inputs {
    /// Names of channels.
    pub channels: Vec<String>,
}

/// What a bundle writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outputs {
    /// Names of files in `out/`.
    pub files: Vec<String>,
}

/// A tiny job, with which a bundle can be checked without a network. Paths are inside the bundle.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Script and arguments that write an initial model to the path appended to them.
    pub init: Vec<String>,
    /// Script and arguments that write a small data set to the path appended to them.
    pub data: Vec<String>,
    /// The content of `job.json`.
    #[serde(default)]
    pub config: toml::Table,
    /// What its jobs ask for: a model, or a gradient.
    #[serde(default = "model")]
    pub output: OutputKind,
    /// Steps of a round; at least 4.
    #[serde(default = "eight")]
    pub steps: u32,
    /// A request in `serve` mode, if the bundle serves.
    #[serde(default)]
    pub request: Option<toml::Table>,
}

fn only_train() -> Vec<Mode> {
    vec![Mode::Train]
}

fn model() -> OutputKind {
    OutputKind::Model
}

fn eight() -> u32 {
    8
}

impl Bundle {
    /// Reads and checks the manifest of the bundle at `directory`.
    ///
    /// # Errors
    /// If it is missing, too long, mistyped, of another contract, or its entry point leaves the bundle.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(MANIFEST);
        if fs::metadata(&path).map_err(Error::Read)?.len() > MAX_MANIFEST {
            return Err(Error::TooLong);
        }
        let bundle = Self::parse(&fs::read_to_string(&path).map_err(Error::Read)?)?;
        let missing =
            |key, name: &str| Err(Error::Value(format!("`{key}` names `{name}`, which is not in the bundle")));
        if !directory.join(bundle.script()).is_file() {
            return missing("entry", bundle.script());
        }
        match (&bundle.python.interpreter, &bundle.python.site_packages) {
            (Some(name), _) if !directory.join(name).is_file() => missing("python.interpreter", name),
            (_, Some(name)) if !directory.join(name).is_dir() => missing("python.site_packages", name),
            _ => Ok(bundle),
        }
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// As [`Bundle::read`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bundle: Self = toml::from_str(text).map_err(Box::new)?;
        if bundle.contract != CONTRACT {
            return Err(Error::Value(format!("`contract` is `{}`, this node speaks `{CONTRACT}`", bundle.contract)));
        }
        if bundle.entry.is_empty() || bundle.entry.len() > MAX_ARGUMENTS + 1 {
            return Err(Error::Value(format!("`entry` is a script and at most {MAX_ARGUMENTS} arguments")));
        }
        if !stays_inside(bundle.script()) {
            return Err(Error::Value("`entry` must name a file inside the bundle, without `..`".to_owned()));
        }
        let own = [&bundle.python.interpreter, &bundle.python.site_packages];
        if own.into_iter().flatten().any(|path| !stays_inside(path)) {
            return Err(Error::Value("paths in `python` must stay inside the bundle, without `..`".to_owned()));
        }
        if bundle.entry.iter().any(|argument| argument.contains('\0')) {
            return Err(Error::Value("`entry` holds a NUL character".to_owned()));
        }
        Ok(bundle)
    }

    /// The script's path inside the bundle.
    pub fn script(&self) -> &str {
        self.entry.first().map_or("", String::as_str)
    }

    /// The arguments after the script.
    pub fn arguments(&self) -> &[String] {
        self.entry.get(1..).unwrap_or_default()
    }
}

/// Whether a relative path has only plain names in it.
fn stays_inside(path: &str) -> bool {
    let plain = |part| matches!(part, std::path::Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "contract = 'atlas-script/1'\nname = 'a'\nversion = '1'\n";

    #[test]
    fn a_manifest_is_read_and_its_entry_stays_inside() {
        let bundle = Bundle::parse(&format!("{GOOD}entry = ['src/train.py', '--fast']")).unwrap();
        assert_eq!((bundle.script(), bundle.arguments()), ("src/train.py", ["--fast".to_owned()].as_slice()));
        for entry in ["['../train.py']", "['/train.py']", "[]", "['']", "['a/../../b']", "[\"a\\u0000\"]"] {
            assert!(Bundle::parse(&format!("{GOOD}entry = {entry}")).is_err(), "{entry}");
        }
    }

    #[test]
    fn its_own_python_must_be_inside_the_bundle() {
        let with = |python: &str| Bundle::parse(&format!("{GOOD}entry = ['t.py']\n[python]\n{python}"));
        assert_eq!(with("site_packages = 'vendor'").unwrap().python.site_packages.as_deref(), Some("vendor"));
        assert!(with("interpreter = '/usr/bin/python3'").is_err());
        assert!(with("site_packages = '../vendor'").is_err());
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("t.py"), "").unwrap();
        let manifest = format!("{GOOD}entry = ['t.py']\n[python]\ninterpreter = 'python/bin/python3'");
        fs::write(directory.path().join(MANIFEST), manifest).unwrap();
        assert!(Bundle::read(directory.path()).unwrap_err().to_string().contains("python.interpreter"));
    }

    #[test]
    fn unknown_keys_and_other_contracts_are_named() {
        let unknown = Bundle::parse(&format!("{GOOD}entry = ['t.py']\nentrypoint = 3")).unwrap_err();
        assert!(unknown.to_string().contains("entrypoint"));
        let other = Bundle::parse(&GOOD.replace("/1", "/9")).unwrap_err();
        assert!(other.to_string().contains("entry") || other.to_string().contains("contract"));
    }
}
