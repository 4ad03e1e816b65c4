//! Jobs, tasks and nodes: their states, and what a job asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ContentId, Digest, Resources};

/// Declares an enumeration whose text form is fixed (it is on the wire, in JSON and on the screen).
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// The word for it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// A task on the ledger. Process states are the executor's own and never stand here.
    TaskStatus {
        /// Waits for a node to take its lease.
        Pending = "pending",
        /// A node holds its lease and has not begun.
        Assigned = "assigned",
        /// Its holder computes, or waits for the round to close.
        InProgress = "in_progress",
        /// Stopped by its holder or the creator; the checkpoint is kept.
        Paused = "paused",
        /// Its holder is gone; becomes pending with the next generation in the same block.
        Rollback = "rollback",
        /// Handed to a named node that has not accepted yet.
        Delegated = "delegated",
        /// All rounds are done.
        Completed = "completed",
        /// Ended with a reason.
        Failed = "failed",
    }
);

words!(
    /// A job on the ledger.
    JobStatus {
        /// Its tasks wait or run.
        Open = "open",
        /// All rounds closed; the result is known.
        Completed = "completed",
        /// Ended with a reason, `cancelled` and `deadline` included.
        Failed = "failed",
    }
);

words!(
    /// A node on the ledger.
    NodeStatus {
        /// Beats arrive.
        Online = "online",
        /// No beat for longer than the limit, or it left.
        Offline = "offline",
        /// Online, with a reputation below half.
        Degraded = "degraded",
        /// Back after having been offline, until its first lease.
        Recovering = "recovering",
    }
);

words!(
    /// What a task does.
    TaskType {
        /// Trains.
        Training = "training",
        /// Answers requests.
        Inference = "inference",
    }
);

words!(
    /// How an update is encoded. See `protocols/update.md`.
    UpdateCodec {
        /// 32-bit floats, exact.
        F32 = "f32",
        /// 8-bit integers with one bf16 scale per 256.
        I8B256 = "i8b256",
    }
);

words!(
    /// How updates become one.
    AggregationRule {
        /// Mean weighted by samples, each update clipped to the median norm.
        NormClippedMean = "norm_clipped_mean",
    }
);

words!(
    /// When a round may close.
    Quorum {
        /// Only with every slot's update.
        All = "all",
        /// With two thirds of them, after a grace.
        TwoThirds = "two_thirds",
    }
);

words!(
    /// Where a job is settled.
    Settle {
        /// On the ledger that the submitter's node is configured with.
        Ledger = "ledger",
        /// On a ledger that the submitter's node carries for this job alone; lost with it.
        None = "none",
    }
);

words!(
    /// What a training script writes.
    OutputKind {
        /// `out/model.safetensors`; the node computes the difference.
        Model = "model",
        /// `out/update.safetensors` or `out/gradients.json`.
        Gradient = "gradient",
    }
);

/// The outer step of rounds.md. Millionths, because the ledger knows no floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OuterStep {
    /// η, the outer learning rate.
    pub learning_rate_micros: u32,
    /// μ, the outer (Nesterov) momentum.
    pub momentum_micros: u32,
}

impl Default for OuterStep {
    /// η 0.7, μ 0.5: rounds.md measured them best for short runs.
    fn default() -> Self {
        Self { learning_rate_micros: 700_000, momentum_micros: 500_000 }
    }
}

/// One shard of a job's data set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardSpec {
    /// CID of the directory that becomes `in/data/train/`.
    pub cid: ContentId,
    /// Bytes of its files.
    pub size: u64,
    /// Records in it.
    pub records: u64,
}

/// What a job asks for, as it stands on the ledger. It fixes the result: who computes must not change what is
/// computed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobSpec {
    /// A name for people, at most 64 characters.
    pub name: String,
    /// Names the model in the ledger's registry, at most 64 characters.
    pub model_id: String,
    /// What its tasks do.
    pub task_type: TaskType,
    /// The script bundle, a directory.
    pub bundle: ContentId,
    /// The initial model, a safetensors file.
    pub model: ContentId,
    /// `params_root` of the initial model, so that anybody knows what the first round's receipts must begin from.
    pub model_root: Digest,
    /// The data set's manifest.
    pub dataset_cid: ContentId,
    /// Held-out data, a directory that no shard shares records with.
    pub held_out: Option<ContentId>,
    /// Fixes every random choice: the shuffle, and each slot's batches.
    pub seed: u64,
    /// Outer steps.
    pub rounds: u32,
    /// Local steps a round, H.
    pub local_steps: u32,
    /// Steps between checkpoints inside a round; 0 for none but the round's end.
    pub checkpoint_every: u32,
    /// Parameters of the script, a JSON object as text, at most 16 KiB. The ledger does not read it.
    pub config: String,
    /// What the script writes.
    pub output: OutputKind,
    /// How updates are encoded.
    pub codec: UpdateCodec,
    /// How updates become one.
    pub rule: AggregationRule,
    /// The outer step.
    pub outer: OuterStep,
    /// When a round may close.
    pub quorum: Quorum,
    /// What one task needs.
    pub resources: Resources,
    /// Longest time for a round in milliseconds, from its opening (or the lease, if later) to its receipt.
    pub round_limit_millis: u64,
    /// The job fails when it is still open this many milliseconds after its submission.
    pub deadline_millis: u64,
    /// Put into escrow at submission, in the ledger's smallest unit.
    pub budget: u64,
    /// Where it is settled.
    pub settle: Settle,
    /// Other nodes that must hold each block of the job before a submission is acknowledged.
    pub copies: u32,
    /// Whether one process stays for all rounds (script contract, "Sessions").
    pub session: bool,
    /// Commitment to the key that shards and held-out data are sealed with ([`super::DataKey::commitment`]); `None` for data that
    /// anybody may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_key: Option<Digest>,
}
