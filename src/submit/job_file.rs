//! The job file: what a researcher writes.
//!
//! ```toml
//! name = "digits"                    # for people, at most 64 characters
//! bundle = "../bundles/digits"       # the script: a directory or a CID
//! model = "digits-init.safetensors"  # the initial model: a safetensors file or a CID
//! seed = 7                           # fixes the shuffle and every batch
//! rounds = 20                        # outer steps
//! local_steps = 100                  # optimizer steps of each worker in a round
//!
//! # Everything from here on may be left out; the values shown are the defaults.
//! model_id = "digits"                # in the ledger's registry; the name if not set
//! checkpoint_every = 0               # steps between checkpoints inside a round; 0: only at its end
//! shards = 1                         # pieces of the data set, which is also the number of tasks
//! session = false                    # one process for all rounds of a task
//! output = "model"                   # or "gradient", by the script contract
//! settle = "ledger"                  # or "none": a ledger that this node carries for the job alone
//! quorum = "all"                     # or "two_thirds", after a grace
//! copies = 2                         # other nodes that hold everything before `submit` returns
//! round_limit = "10m"                # longest time for a round
//! deadline = "1d"                    # the job fails when it is still open then
//! budget = 1000000                   # into escrow, in the ledger's smallest unit
//!
//! [data]
//! path = "digits.csv"                # a file or a CID; required
//! format = "lines"                   # a record is a line; or "fixed": a record has `record_bytes` bytes
//! header = false                     # the first line is repeated in every shard
//! held_out = 0.0                     # the part of the records that no shard gets, for evaluation
//!
//! [outer]                            # the outer step of joint training
//! learning_rate = 0.7
//! momentum = 0.5
//!
//! [update]
//! codec = "i8b256"                   # or "f32"
//! rule = "norm_clipped_mean"
//!
//! [resources]                        # what one task needs
//! cpu_cores = 1.0
//! memory_gb = 1.0                    # 1 GB is 10⁹ bytes
//! storage_gb = 1.0
//! gpu_count = 0
//!
//! [config]                           # parameters of the script, handed to it as JSON
//! hidden = 128
//! ```
//!
//! One more table has no defaults and is read by `testnet` alone: how the held-out records, lines of comma-separated numbers, become
//! questions.
//!
//! ```toml
//! [evaluation]
//! label_column = 64                  # the right answer, counted from 0; the other columns are the question
//! input = "pixels"                   # wraps the question in an object; without it the question is a plain list
//! ```
//!
//! Relative paths start at the directory of the job file. A text that reads as a CID is one; write `./` before a
//! file that is named like one.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Error, duration};
use crate::types::{
    AggregationRule, ContentId, OuterStep, OutputKind, Quorum, Resources, Settle, TaskType, UpdateCodec,
};

/// Names are on the ledger.
const MAX_NAME: usize = 64;
/// The ledger keeps a job's parameters with the job ([`crate::types::JobSpec::config`]).
const MAX_CONFIG: usize = 16 * 1024;
/// A transaction holds a job of a thousand shards.
const MAX_SHARDS: u32 = 1_000;
/// A guess: nobody asks for more, and a mistyped number is found out.
const MAX_ROUNDS: u32 = 100_000;
/// Likewise.
const MAX_LOCAL_STEPS: u32 = 10_000_000;
/// A checkpoint carries the state roots of its round ([`crate::types::CheckpointManifest::trace`]).
const MAX_CHECKPOINTS: u32 = 255;
/// More copies than this protect no better.
const MAX_COPIES: u32 = 16;

/// A job file whose every value is in its range.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFile {
    /// For people.
    pub name: String,
    /// In the ledger's registry.
    pub model_id: String,
    /// What its tasks do.
    pub task_type: TaskType,
    /// The script bundle, a directory.
    pub bundle: Content,
    /// The initial model, a file.
    pub model: Content,
    /// The data set and how it is cut.
    pub data: Data,
    /// Fixes every random choice.
    pub seed: u64,
    /// Outer steps.
    pub rounds: u32,
    /// Local steps a round.
    pub local_steps: u32,
    /// Steps between checkpoints; 0 for none inside a round.
    pub checkpoint_every: u32,
    /// Pieces of the data set.
    pub shards: u32,
    /// One process for all rounds.
    pub session: bool,
    /// What the script writes.
    pub output: OutputKind,
    /// Where it settles.
    pub settle: Settle,
    /// When a round may close.
    pub quorum: Quorum,
    /// Other nodes that hold everything.
    pub copies: u32,
    /// Longest time for a round.
    pub round_limit: Duration,
    /// When the job fails if it is still open.
    pub deadline: Duration,
    /// Into escrow.
    pub budget: u64,
    /// The outer step.
    pub outer: OuterStep,
    /// How updates are encoded.
    pub codec: UpdateCodec,
    /// How updates become one.
    pub rule: AggregationRule,
    /// What one task needs.
    pub resources: Resources,
    /// Parameters of the script: a JSON object with sorted keys.
    pub config: String,
    /// How held-out records become questions.
    pub evaluation: Option<Evaluation>,
}

/// How held-out records become questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// The column with the right answer, counted from 0.
    pub label_column: usize,
    /// The name under which the other columns stand in the question; `None` for a plain list.
    pub input: Option<String>,
    /// The first line is none of the records.
    pub header: bool,
}

/// Where content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file or directory, relative to the job file unless absolute.
    Path(PathBuf),
    /// Content by name.
    Cid(ContentId),
}

/// The data set and how it is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// A file.
    pub source: Content,
    /// What a record is.
    pub records: Records,
    /// The part that no shard gets, in basis points.
    pub held_out: u32,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// A line; with `header`, the first is repeated in every shard.
    Lines {
        /// There is a header.
        header: bool,
    },
    /// So many bytes.
    Fixed {
        /// How many.
        bytes: u32,
    },
}

impl JobFile {
    /// Reads and checks the text of a job file.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let typed: Typed = toml::from_str(text).map_err(Box::new)?;
        typed.check()
    }

    /// Content that must lie in the block store before [`super::prepare`].
    pub fn needs(&self) -> Vec<ContentId> {
        let cid = |content: &Content| match content {
            Content::Cid(cid) => Some(*cid),
            Content::Path(_) => None,
        };
        [&self.bundle, &self.model, &self.data.source].into_iter().filter_map(cid).collect()
    }

    /// Checks again what the command line may override.
    pub(super) fn check_counts(&self) -> Result<(), Error> {
        within("shards", self.shards, 1, MAX_SHARDS)?;
        within("copies", self.copies, 0, MAX_COPIES)?;
        Ok(())
    }
}

/// What was typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    name: String,
    model_id: Option<String>,
    #[serde(rename = "type", default = "training")]
    task_type: TaskType,
    bundle: String,
    model: String,
    data: TypedData,
    seed: u64,
    rounds: u32,
    local_steps: u32,
    #[serde(default)]
    checkpoint_every: u32,
    #[serde(default = "one")]
    shards: u32,
    #[serde(default)]
    session: bool,
    #[serde(default = "model_output")]
    output: OutputKind,
    #[serde(default = "on_ledger")]
    settle: Settle,
    #[serde(default = "all")]
    quorum: Quorum,
    #[serde(default = "two")]
    copies: u32,
    #[serde(default = "ten_minutes")]
    round_limit: String,
    #[serde(default = "one_day")]
    deadline: String,
    #[serde(default = "one_million")]
    budget: u64,
    #[serde(default)]
    outer: TypedOuter,
    #[serde(default)]
    update: TypedUpdate,
    #[serde(default)]
    resources: TypedResources,
    #[serde(default)]
    config: toml::Table,
    evaluation: Option<TypedEvaluation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedEvaluation {
    label_column: usize,
    input: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedData {
    path: String,
    #[serde(default = "lines")]
    format: String,
    #[serde(default)]
    header: bool,
    record_bytes: Option<u32>,
    #[serde(default)]
    held_out: f64,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TypedOuter {
    learning_rate: f64,
    momentum: f64,
}

impl Default for TypedOuter {
    fn default() -> Self {
        let OuterStep { learning_rate_micros, momentum_micros } = OuterStep::default();
        Self { learning_rate: f64::from(learning_rate_micros) / 1e6, momentum: f64::from(momentum_micros) / 1e6 }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TypedUpdate {
    codec: UpdateCodec,
    rule: AggregationRule,
}

impl Default for TypedUpdate {
    fn default() -> Self {
        Self { codec: UpdateCodec::I8B256, rule: AggregationRule::NormClippedMean }
    }
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TypedResources {
    cpu_cores: f64,
    memory_gb: f64,
    storage_gb: f64,
    gpu_count: u32,
}

impl Default for TypedResources {
    fn default() -> Self {
        Self { cpu_cores: 1.0, memory_gb: 1.0, storage_gb: 1.0, gpu_count: 0 }
    }
}

fn training() -> TaskType {
    TaskType::Training
}

fn model_output() -> OutputKind {
    OutputKind::Model
}

fn on_ledger() -> Settle {
    Settle::Ledger
}

fn all() -> Quorum {
    Quorum::All
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn ten_minutes() -> String {
    "10m".to_owned()
}

fn one_day() -> String {
    "1d".to_owned()
}

fn one_million() -> u64 {
    1_000_000
}

fn lines() -> String {
    "lines".to_owned()
}

impl Typed {
    fn check(self) -> Result<JobFile, Error> {
        let name = label("name", self.name)?;
        let model_id = self.model_id.map_or_else(|| Ok(name.clone()), |id| label("model_id", id))?;
        if self.task_type != TaskType::Training {
            return Err(Error::value(
                "type",
                "is `training`; a trained model answers `infer` without a job of its own",
            ));
        }
        let rounds = within("rounds", self.rounds, 1, MAX_ROUNDS)?;
        let local_steps = within("local_steps", self.local_steps, 1, MAX_LOCAL_STEPS)?;
        let round_limit = length_of_time("round_limit", &self.round_limit)?;
        let deadline = length_of_time("deadline", &self.deadline)?;
        if deadline < round_limit {
            return Err(Error::value("deadline", "must not be shorter than `round_limit`"));
        }
        let header = self.data.header;
        let evaluation =
            self.evaluation.map(|TypedEvaluation { label_column, input }| Evaluation { label_column, input, header });
        Ok(JobFile {
            name,
            model_id,
            task_type: self.task_type,
            bundle: content("bundle", &self.bundle)?,
            model: content("model", &self.model)?,
            data: self.data.check()?,
            seed: self.seed,
            rounds,
            local_steps,
            checkpoint_every: checkpoint_interval(self.checkpoint_every, local_steps)?,
            shards: within("shards", self.shards, 1, MAX_SHARDS)?,
            session: self.session,
            output: self.output,
            settle: self.settle,
            quorum: self.quorum,
            copies: within("copies", self.copies, 0, MAX_COPIES)?,
            round_limit,
            deadline,
            budget: self.budget,
            outer: OuterStep {
                learning_rate_micros: millionths("outer.learning_rate", self.outer.learning_rate, 10.0)?,
                momentum_micros: millionths("outer.momentum", self.outer.momentum, 0.999_999)?,
            },
            codec: self.update.codec,
            rule: self.update.rule,
            resources: self.resources.check()?,
            config: config_text(self.config)?,
            evaluation,
        })
    }
}

impl TypedData {
    fn check(self) -> Result<Data, Error> {
        let records = match (self.format.as_str(), self.record_bytes) {
            ("lines", None) => Records::Lines { header: self.header },
            ("lines", Some(_)) => return Err(Error::value("data.record_bytes", "is only for `format = \"fixed\"`")),
            ("fixed", _) if self.header => return Err(Error::value("data.header", "is only for `format = \"lines\"`")),
            ("fixed", Some(bytes)) if bytes > 0 => Records::Fixed { bytes },
            ("fixed", _) => return Err(Error::value("data.record_bytes", "says how long a record is, at least 1")),
            (other, _) => return Err(Error::value("data.format", format!("`{other}` is neither `lines` nor `fixed`"))),
        };
        let held_out = scaled("data.held_out", self.held_out, 0.9, 10_000.0)?;
        let held_out = u32::try_from(held_out).expect("at most 9,000");
        Ok(Data { source: content("data.path", &self.path)?, records, held_out })
    }
}

impl TypedResources {
    fn check(&self) -> Result<Resources, Error> {
        let resources = Resources {
            cpu_millicores: scaled("resources.cpu_cores", self.cpu_cores, 10_000.0, 1e3)?,
            memory_bytes: scaled("resources.memory_gb", self.memory_gb, 1e6, 1e9)?,
            storage_bytes: scaled("resources.storage_gb", self.storage_gb, 1e6, 1e9)?,
            gpu_count: within("resources.gpu_count", self.gpu_count, 0, 1_024)?,
        };
        if resources.cpu_millicores == 0 {
            return Err(Error::value("resources.cpu_cores", "is at least 0.001: a task needs some time to compute"));
        }
        if resources.memory_bytes == 0 {
            return Err(Error::value("resources.memory_gb", "is more than 0: a task needs some memory"));
        }
        Ok(resources)
    }
}

fn label(key: &str, text: String) -> Result<String, Error> {
    let good = (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    if good { Ok(text) } else { Err(Error::value(key, format!("has 1 to {MAX_NAME} printable characters"))) }
}

fn content(key: &str, text: &str) -> Result<Content, Error> {
    if text.is_empty() {
        return Err(Error::value(key, "is a path or a CID"));
    }
    Ok(text.parse().map_or_else(|_| Content::Path(text.into()), Content::Cid))
}

fn within(key: &str, number: u32, least: u32, most: u32) -> Result<u32, Error> {
    let good = (least..=most).contains(&number);
    if good { Ok(number) } else { Err(Error::value(key, format!("takes {least} to {most}"))) }
}

fn checkpoint_interval(every: u32, local_steps: u32) -> Result<u32, Error> {
    if every > local_steps {
        return Err(Error::value("checkpoint_every", "is at most `local_steps`"));
    }
    if every > 0 && local_steps / every > MAX_CHECKPOINTS {
        return Err(Error::value("checkpoint_every", format!("makes more than {MAX_CHECKPOINTS} checkpoints a round")));
    }
    Ok(every)
}

fn length_of_time(key: &str, text: &str) -> Result<Duration, Error> {
    // Ten years, so that sums of times never overflow.
    let good = |length: &Duration| (1..=315_360_000).contains(&length.as_secs());
    duration::parse(text).filter(good).ok_or_else(|| {
        Error::value(key, format!("`{text}` is no length of time such as \"90s\", \"5m\", \"2h\", \"1d\""))
    })
}

/// `number`, between 0 and `most`, in `1/unit`s. NaN is in no range.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10¹⁵")]
fn scaled(key: &str, number: f64, most: f64, unit: f64) -> Result<u64, Error> {
    if !(0.0..=most).contains(&number) {
        return Err(Error::value(key, format!("is a number between 0 and {most}")));
    }
    Ok((number * unit).round() as u64)
}

fn millionths(key: &str, number: f64, most: f64) -> Result<u32, Error> {
    scaled(key, number, most, 1e6).map(|micros| u32::try_from(micros).expect("at most 10 million"))
}

fn config_text(config: toml::Table) -> Result<String, Error> {
    let text = json("config", toml::Value::Table(config))?.to_string();
    if text.len() > MAX_CONFIG {
        return Err(Error::value("config", format!("is over {MAX_CONFIG} bytes; put data into the bundle")));
    }
    Ok(text)
}

/// TOML has numbers and times that JSON has not; they are refused rather than changed.
fn json(key: &str, value: toml::Value) -> Result<serde_json::Value, Error> {
    use toml::Value;
    Ok(match value {
        Value::String(text) => text.into(),
        Value::Integer(number) => number.into(),
        Value::Float(number) if number.is_finite() => number.into(),
        Value::Float(_) => return Err(Error::value(key, "is not a finite number")),
        Value::Boolean(truth) => truth.into(),
        Value::Datetime(_) => return Err(Error::value(key, "is a date, which JSON has not; write it as a text")),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| json(key, item));
            items.collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Table(table) => {
            let entries = table.into_iter().map(|(name, value)| {
                let value = json(&format!("{key}.{name}"), value)?;
                Ok((name, value))
            });
            serde_json::Value::Object(entries.collect::<Result<_, Error>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = 'digits'\nbundle = 'b'\nmodel = 'm'\nseed = 7\nrounds = 2\nlocal_steps = 10\n";
    const DATA: &str = "[data]\npath = 'd.csv'\n";

    fn parse(top: &str, rest: &str) -> Result<JobFile, Error> {
        JobFile::parse(&format!("{LEAST}{top}\n{DATA}{rest}"))
    }

    #[test]
    fn the_documented_job_file_is_valid_and_shows_the_defaults() {
        let source = include_str!("job_file.rs");
        let documented: String = source
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| line.trim_start_matches("//!").to_owned() + "\n")
            .collect();
        let documented = JobFile::parse(&documented).unwrap();
        let least = JobFile::parse(
            "name='digits'\nbundle='../bundles/digits'\nmodel='digits-init.safetensors'\nseed=7\nrounds=20\n\
             local_steps=100\ndata.path='digits.csv'\nconfig.hidden=128",
        );
        assert_eq!(documented, least.unwrap());
        assert_eq!(documented.config, "{\"hidden\":128}");
    }

    #[test]
    fn whatever_is_wrong_is_named_by_its_key() {
        for (top, rest, expected) in [
            ("colour = 1", "", "colour"),
            ("rounds = 3", "", "rounds"),
            ("seed = -1", "", "seed"),
            ("shards = 0", "", "shards"),
            ("shards = 1.5", "", "shards = 1.5"),
            ("shards = 1001", "", "1 to 1000"),
            ("checkpoint_every = 11", "", "checkpoint_every"),
            ("round_limit = '5'", "", "round_limit"),
            ("deadline = '9m'", "", "deadline"),
            ("quorum = 'most'", "", "most"),
            ("settle = 'later'", "", "later"),
            ("type = 'inference'", "", "type"),
            ("copies = 17", "", "copies"),
            ("budget = -1", "", "budget = -1"),
            ("model_id = ''", "", "model_id"),
            ("", "held_out = nan", "data.held_out"),
            ("", "held_out = 1.0", "data.held_out"),
            ("", "format = 'csv'", "data.format"),
            ("", "format = 'fixed'", "data.record_bytes"),
            ("", "record_bytes = 4", "data.record_bytes"),
            ("", "format = 'fixed'\nrecord_bytes = 4\nheader = true", "data.header"),
            ("", "[outer]\nlearning_rate = -0.1", "outer.learning_rate"),
            ("", "[outer]\nmomentum = 1.0", "outer.momentum"),
            ("", "[update]\ncodec = 'f16'", "f16"),
            ("", "[resources]\ncpu_cores = inf", "resources.cpu_cores"),
            ("", "[resources]\nmemory_gb = 0", "resources.memory_gb"),
            ("", "[config]\nx = { y = nan }", "config.x.y"),
            ("", "[config]\nwhen = 2026-01-01", "config.when"),
        ] {
            let message = parse(top, rest).expect_err(&format!("{top} {rest}")).to_string();
            assert!(message.contains(expected), "{top} {rest}: {message}");
        }
        let missing = JobFile::parse("name = 'x'").unwrap_err().to_string();
        assert!(missing.contains("missing field"), "{missing}");
    }

    #[test]
    fn a_text_that_reads_as_a_cid_is_one_and_must_be_fetched_first() {
        let cid = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
        let job = JobFile::parse(&format!("{LEAST}data.path = '{cid}'")).unwrap();
        assert_eq!(job.needs(), [cid.parse().unwrap()]);
        let job = JobFile::parse(&format!("{LEAST}data.path = './{cid}'")).unwrap();
        assert!(job.needs().is_empty());
    }
}
