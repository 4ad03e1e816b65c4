//! The job file as it is typed, and the way from there to a [`JobFile`] whose every value is in its range.

use std::time::Duration;

use serde::Deserialize;

use super::{Content, Data, Error, Evaluation, JobFile, Records, duration};
use crate::types::{AggregationRule, OuterStep, OutputKind, Quorum, Resources, Settle, TaskType, UpdateCodec};

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

/// What was typed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
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
    #[serde(default)]
    sealed: bool,
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
    /// Checks every value.
    pub(super) fn check(self) -> Result<JobFile, Error> {
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
        check_counts(self.shards, self.copies)?;
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
            shards: self.shards,
            session: self.session,
            output: self.output,
            settle: self.settle,
            quorum: self.quorum,
            copies: self.copies,
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
        Ok(Data { source: content("data.path", &self.path)?, records, held_out, sealed: self.sealed })
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

/// Checks the two counts that the command line may override.
pub(super) fn check_counts(shards: u32, copies: u32) -> Result<(), Error> {
    within("shards", shards, 1, MAX_SHARDS)?;
    within("copies", copies, 0, MAX_COPIES)?;
    Ok(())
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
