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
//! sealed = false                     # true: only holders of the job's tasks and the submitter can read the records
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

use super::{Error, typed::Typed, typed::check_counts};
use crate::types::{
    AggregationRule, ContentId, OuterStep, OutputKind, Quorum, Resources, Settle, TaskType, UpdateCodec,
};

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
    /// Only nodes that hold a task of the job, and the submitter, may read it.
    pub sealed: bool,
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

    /// Content that must lie in the block store before [`super::prepare()`].
    pub fn needs(&self) -> Vec<ContentId> {
        let cid = |content: &Content| match content {
            Content::Cid(cid) => Some(*cid),
            Content::Path(_) => None,
        };
        [&self.bundle, &self.model, &self.data.source].into_iter().filter_map(cid).collect()
    }

    /// Checks again what the command line may override.
    pub(super) fn check_counts(&self) -> Result<(), Error> {
        check_counts(self.shards, self.copies)
    }
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
    fn the_job_files_that_come_along_are_valid() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/jobs");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")) {
            let text = std::fs::read_to_string(&file).unwrap();
            JobFile::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
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
    fn every_number_refuses_negative_nan_text_and_too_much_by_its_key() {
        const FULL: &str = "name='n'\nbundle='b'\nmodel='m'\nseed=1\nrounds=2\nlocal_steps=10\ncheckpoint_every=1\nshards=1\n\
                            copies=1\nbudget=1\n[data]\npath='d'\nformat='fixed'\nrecord_bytes=4\nheld_out=0.1\n\
                            [outer]\nlearning_rate=0.7\nmomentum=0.5\n[resources]\ncpu_cores=1.0\nmemory_gb=1.0\n\
                            storage_gb=1.0\ngpu_count=0\n[evaluation]\nlabel_column=3\n";
        JobFile::parse(FULL).unwrap();
        let numbers = FULL.lines().filter(|line| line.ends_with(|last: char| last.is_ascii_digit()));
        let mut keys = 0;
        for line in numbers {
            let (key, _) = line.split_once('=').unwrap();
            for value in
                ["-1", "-0.5", "nan", "-inf", "inf", "'1'", "[1]", "true", "1e300", "99999999999999999999", "{}"]
            {
                let text = FULL.replace(line, &format!("{key}={value}"));
                let message = JobFile::parse(&text).expect_err(&format!("{key}={value}")).to_string();
                assert!(message.contains(key), "{key}={value}: {message}");
            }
            keys += 1;
        }
        assert_eq!(keys, 16, "every number of the file");
    }

    #[test]
    fn every_required_key_is_missed_by_its_name_and_nonsense_is_refused_with_its_line() {
        for key in ["name", "bundle", "model", "seed", "rounds", "local_steps"] {
            let rest: String =
                LEAST.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
            let message = JobFile::parse(&format!("{rest}{DATA}")).expect_err(key).to_string();
            assert!(message.contains(&format!("missing field `{key}`")), "{message}");
        }
        assert!(JobFile::parse(LEAST).unwrap_err().to_string().contains("missing field `data`"));
        assert!(JobFile::parse(&format!("{LEAST}[data]\n")).unwrap_err().to_string().contains("missing field `path`"));
        let (long, deep) = ("x".repeat(10_000), "[".repeat(100_000));
        for (text, expected) in [
            (LEAST.replace("'digits'", &format!("'{long}'")), "`name` has 1 to 64 printable characters"),
            (LEAST.replace("'digits'", "\"a\\u0000b\""), "`name` has 1 to 64 printable characters"),
            (LEAST.replace("'digits'", "\"\\u001b[2J\""), "`name` has 1 to 64 printable characters"),
            (LEAST.replace("'digits'", "''"), "`name` has 1 to 64 printable characters"),
            (LEAST.replace("'digits'", "7"), "line 1"),
            (LEAST.replace("'b'", "''"), "`bundle` is a path or a CID"),
            (format!("x = {deep}"), "line 1"),
            (format!("{LEAST}rounds = 3"), "duplicate key"),
            ("\0\0\0".to_owned(), "line 1"),
            ("{\"name\": \"json\"}".to_owned(), "line 1"),
        ] {
            let message = JobFile::parse(&format!("{text}\n{DATA}")).unwrap_err().to_string();
            assert!(message.contains(expected) && message.len() < 1_000_000, "{expected}: {message:.300}");
        }
        let large = format!("{LEAST}{DATA}[config]\ntext = '{}'", "x".repeat(20_000));
        assert!(JobFile::parse(&large).unwrap_err().to_string().contains("`config` is over 16384 bytes"));
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
