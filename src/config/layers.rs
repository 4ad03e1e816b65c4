//! What was typed, and where: each setting with the strongest of its sources.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use toml::Value;

use super::{
    Error,
    keys::{KEYS, Key, Kind, nearest},
};

/// The file that `register` leaves for the next start.
const REGISTRATION: &str = "registration.toml";
/// Variables that begin like a setting's and are none: they choose files, or belong to scripts.
const OTHER_VARIABLES: &[&str] = &["ATLAS_DATA_DIR", "ATLAS_CONFIG"];

/// Where a value came from; a later one wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An earlier `register`.
    Registration(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::File(path) | Self::Registration(path) => f.pad(&path.display().to_string()),
            Self::Variable(name) => f.pad(name),
            Self::Flag(name) => f.pad(name),
        }
    }
}

/// A setting with its value, as `config` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// Its value; `None` if nobody set it and there is no default.
    pub value: Option<Value>,
    /// Where the value came from.
    pub source: String,
    /// What it is for.
    pub about: &'static str,
}

/// All values that were given, the strongest of each.
#[derive(Clone, Debug)]
pub struct Layers {
    pub(super) data_dir: PathBuf,
    pub(super) values: BTreeMap<&'static str, (Value, Source)>,
    pub(super) warnings: Vec<String>,
}

impl Layers {
    /// The defaults, for the node of `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        let mut layers = Self { data_dir: data_dir.to_owned(), values: BTreeMap::new(), warnings: Vec::new() };
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let value = parse_value(key.default).expect("a default is TOML, as a test checks");
            layers.values.insert(key.name, (value, Source::Default));
        }
        layers
    }

    /// Adds the file `named`, or `atlas.toml` of the data directory if that is there; then an earlier registration.
    pub fn with_files(mut self, named: Option<&Path>) -> Result<Self, Error> {
        let usual = self.data_dir.join("atlas.toml");
        match named {
            Some(path) => self.add_file(path, Source::File(path.to_owned()))?,
            None if usual.exists() => self.add_file(&usual.clone(), Source::File(usual))?,
            None => {}
        }
        let registration = self.data_dir.join(REGISTRATION);
        if registration.exists() {
            self.add_file(&registration.clone(), Source::Registration(registration))?;
        }
        Ok(self)
    }

    /// Adds the environment, given as pairs.
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        for key in KEYS {
            let own = key.atlas_variable();
            let documented = Some(key.variable.to_owned()).filter(|name| !name.is_empty());
            for name in documented.into_iter().chain([own]) {
                let Some(text) = variables.get(&name).filter(|text| !text.is_empty()) else { continue };
                let source = Source::Variable(name);
                let value = from_text(key, text).ok_or_else(|| mistyped(key, &source))?;
                self.values.insert(key.name, (value, source));
            }
        }
        let known: Vec<String> = KEYS.iter().map(Key::atlas_variable).collect();
        for name in variables.keys().filter(|name| name.starts_with("ATLAS_")) {
            if !known.contains(name) && !OTHER_VARIABLES.contains(&name.as_str()) {
                self.warnings.push(format!("the environment variable {name} is no setting and is ignored"));
            }
        }
        Ok(self)
    }

    /// Adds what flags say.
    #[must_use]
    pub fn with_flags(mut self, flags: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        for (name, value) in flags {
            let flag = Key::find(name).map_or("", |key| key.flag);
            self.values.insert(name, (value, Source::Flag(flag)));
        }
        self
    }

    /// Every setting as it stands, valid or not.
    pub fn settings(&self) -> Vec<Setting> {
        let setting = |key: &Key| {
            let found = self.values.get(key.name);
            Setting {
                key: key.name,
                value: found.map(|(value, _)| value.clone()),
                source: found.map_or_else(|| "not set".to_owned(), |(_, source)| source.to_string()),
                about: key.about,
            }
        };
        KEYS.iter().map(setting).collect()
    }

    fn add_file(&mut self, path: &Path, source: Source) -> Result<(), Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let table: toml::Table =
            text.parse().map_err(|source| Error::Toml { path: path.to_owned(), source: Box::new(source) })?;
        self.add_table(path, &source, "", table)
    }

    fn add_table(&mut self, path: &Path, source: &Source, prefix: &str, table: toml::Table) -> Result<(), Error> {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            match (Key::find(&name), value) {
                (Some(key), value) => {
                    let value = from_file(key, value).ok_or_else(|| mistyped(key, source))?;
                    self.values.insert(key.name, (value, source.clone()));
                }
                (None, Value::Table(inner)) if is_table(&name) => {
                    self.add_table(path, source, &format!("{name}."), inner)?;
                }
                (None, _) => {
                    let suggestion = nearest(&name);
                    return Err(Error::UnknownKey { path: path.to_owned(), key: name, suggestion });
                }
            }
        }
        Ok(())
    }
}

/// Keeps a label and an address for the next start of the node in `data_dir`. What is `None` stays as it was.
pub fn save_registration(data_dir: &Path, node_id: Option<&str>, address: Option<&str>) -> Result<PathBuf, Error> {
    let path = data_dir.join(REGISTRATION);
    let failed = |source| Error::File { path: path.clone(), source };
    let mut node = match fs::read_to_string(&path) {
        Ok(text) => text.parse::<toml::Table>().ok().and_then(|table| table.get("node")?.as_table().cloned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    }
    .unwrap_or_default();
    for (name, text) in [("id", node_id), ("address", address)] {
        if let Some(text) = text {
            node.insert(name.to_owned(), text.into());
        }
    }
    let table = toml::Table::from_iter([("node".to_owned(), Value::Table(node))]);
    let mut file = tempfile::NamedTempFile::new_in(data_dir).map_err(failed)?;
    io::Write::write_all(&mut file, table.to_string().as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

fn is_table(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn mistyped(key: &Key, source: &Source) -> Error {
    let reason = format!("takes {}", key.kind.expected());
    Error::Value { key: Key::find(key.name).map_or("", |key| key.name), source_name: source.to_string(), reason }
}

fn parse_value(text: &str) -> Option<Value> {
    format!("x = {text}").parse::<toml::Table>().ok()?.remove("x")
}

/// A value of the file if it is of the key's kind. One text stands for a list of one.
fn from_file(key: &Key, value: Value) -> Option<Value> {
    match (key.kind, value) {
        (Kind::Text, value @ Value::String(_))
        | (Kind::Integer, value @ Value::Integer(0..))
        | (Kind::Number, value @ (Value::Integer(_) | Value::Float(_)))
        | (Kind::Flag, value @ Value::Boolean(_)) => Some(value),
        (Kind::List, value @ Value::String(_)) => Some(Value::Array(vec![value])),
        (Kind::List, Value::Array(items)) => items.iter().all(Value::is_str).then_some(Value::Array(items)),
        _ => None,
    }
}

/// A value of an environment variable if it is of the key's kind.
fn from_text(key: &Key, text: &str) -> Option<Value> {
    match key.kind {
        Kind::Text => Some(text.into()),
        Kind::List => Some(Value::Array(text.split(',').map(|item| item.trim().into()).collect())),
        Kind::Integer => text.parse().ok().filter(|number| *number >= 0).map(Value::Integer),
        Kind::Number => text.parse().ok().map(Value::Float),
        Kind::Flag => text.parse().ok().map(Value::Boolean),
    }
}
