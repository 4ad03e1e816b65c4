//! Identifiers. Each is a distinct type, so that a task can never be passed where a job is meant.

use std::{fmt, str::FromStr};

use cid::Cid;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

/// The index of a task inside its job, which is also the index of its shard.
pub type Slot = u32;
/// One outer step of a job, counted from 0.
pub type Round = u32;
/// One local optimizer step, counted from the start of the job within a slot's round: 0 is the round's start.
pub type Step = u32;
/// Grows by one whenever the holder of a task changes.
pub type Generation = u32;
/// A ledger is named by its chain id, for example `atlas-chain`.
pub type LedgerId = String;

/// A text that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {expected}")]
pub struct ParseIdError {
    /// What was read, cut to 80 characters.
    pub text: String,
    /// What it should have been, with its form.
    pub expected: &'static str,
}

fn parse_error(text: &str, expected: &'static str) -> ParseIdError {
    ParseIdError { text: text.chars().take(80).collect(), expected }
}

/// A fixed number of bytes: a byte string in CBOR, lower-case hexadecimal in JSON and in text.
macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $length:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Reads exactly this many bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(&self.0[..6]))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $length];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| parse_error(text, $expected))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
                    Self::from_slice(&bytes).ok_or_else(|| D::Error::custom(concat!("not a ", $expected)))
                }
            }
        }
    };
}

fixed_bytes!(
    /// A SHA-256 digest.
    Digest, 32, "SHA-256 digest (64 hexadecimal digits)"
);
fixed_bytes!(
    /// An Ed25519 public key (RFC 8032). It is the peer, the ledger account and the signer of a node.
    NodeKey, 32, "node key (64 hexadecimal digits)"
);
fixed_bytes!(
    /// An Ed25519 signature (RFC 8032).
    SignatureBytes, 64, "signature (128 hexadecimal digits)"
);
fixed_bytes!(
    /// A job: SHA-256("atlas/job/v1" ‖ chain id ‖ 0x00 ‖ creator ‖ nonce as u64 big-endian). Unique across ledgers.
    JobId, 32, "job id (64 hexadecimal digits)"
);
fixed_bytes!(
    /// The assignment of a task's round, and the nonce of its receipt. See [`AssignmentId::derive`].
    AssignmentId, 32, "assignment id (64 hexadecimal digits)"
);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// SHA-256 of `domain ‖ 0x00 ‖ part …`. Every part but the last must have a fixed length.
    pub fn of_parts(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(domain.as_bytes());
        hasher.update([0]);
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl JobId {
    /// The id of the job that `creator` submits with its transaction `nonce` on the ledger `chain_id`.
    pub fn derive(chain_id: &str, creator: &NodeKey, nonce: u64) -> Self {
        let parts: [&[u8]; 4] = [chain_id.as_bytes(), &[0], &creator.0, &nonce.to_be_bytes()];
        Self(Digest::of_parts("atlas/job/v1", &parts).0)
    }
}

impl AssignmentId {
    /// H("atlas/assign/v1" ‖ task ‖ round ‖ generation ‖ lease transaction hash): anyone computes it from
    /// committed state, nobody signs it.
    pub fn derive(task: &TaskId, round: Round, generation: Generation, lease_tx: &Digest) -> Self {
        let parts: [&[u8]; 5] =
            [&task.job.0, &task.slot.to_be_bytes(), &round.to_be_bytes(), &generation.to_be_bytes(), &lease_tx.0];
        Self(Digest::of_parts("atlas/assign/v1", &parts).0)
    }
}

/// One slot of a job, for the job's life. As text `{job}-{slot}`; never joined to a path unparsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The slot, which is the shard index.
    pub slot: Slot,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job, self.slot)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({}-{})", hex::encode(&self.job.0[..6]), self.slot)
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = || parse_error(text, "task id (`{job id}-{slot}`)");
        let (job, slot) = text.split_once('-').ok_or_else(error)?;
        let canonical = !slot.starts_with('+') && (slot == "0" || !slot.starts_with('0'));
        if !canonical {
            return Err(error());
        }
        Ok(Self { job: job.parse().map_err(|_| error())?, slot: slot.parse().map_err(|_| error())? })
    }
}

impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let mut bytes = [0; 36];
        bytes[..32].copy_from_slice(&self.job.0);
        bytes[32..].copy_from_slice(&self.slot.to_be_bytes());
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(D::Error::custom);
        }
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        let (job, slot) = bytes.split_at_checked(32).ok_or_else(|| D::Error::custom("a task id has 36 bytes"))?;
        let job = JobId::from_slice(job).ok_or_else(|| D::Error::custom("a task id has 36 bytes"))?;
        let slot = slot.try_into().map_err(|_| D::Error::custom("a task id has 36 bytes"))?;
        Ok(Self { job, slot: Slot::from_be_bytes(slot) })
    }
}

/// The content identifier (CID) of an object: its bytes are what `ipfs add` would name the same.
/// A byte string (the binary CID, without a multibase prefix) in CBOR, text in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub Cid);

impl ContentId {
    /// Reads a binary CID; `None` for bytes that are none, or that have more after it (which the `cid` crate lets pass).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Cid::try_from(bytes).ok().filter(|cid| cid.encoded_len() == bytes.len()).map(Self)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentId({})", self.0)
    }
}

impl FromStr for ContentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Cid::from_str(text).map(Self).map_err(|_| parse_error(text, "CID"))
    }
}

impl Serialize for ContentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0.to_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for ContentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
            Self::from_bytes(&bytes).ok_or_else(|| D::Error::custom("not a binary CID"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_reads_back_what_it_prints_and_nothing_else() {
        let task = TaskId { job: JobId([7; 32]), slot: 12 };
        assert_eq!(task.to_string().parse(), Ok(task));
        let job = JobId([7; 32]);
        for text in
            [format!("{job}"), format!("{job}-"), format!("{job}-01"), format!("{job}-+1"), format!("../{job}-1")]
        {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_a_path_or_nul_or_endless_is_no_id_and_is_said_so_shortly() {
        let long = "a".repeat(10_000);
        let digits = "0".repeat(10_000);
        for text in ["", ".", "..", "/", "../../etc/passwd", "a/b", "\0", "a\0b", "\u{1b}[2J", &long, &digits] {
            let refusals = [
                text.parse::<JobId>().unwrap_err(),
                text.parse::<TaskId>().unwrap_err(),
                text.parse::<Digest>().unwrap_err(),
                text.parse::<NodeKey>().unwrap_err(),
                text.parse::<ContentId>().unwrap_err(),
            ];
            for refusal in refusals.map(|refusal| refusal.to_string()) {
                assert!(refusal.contains("is not a") && refusal.len() < 250, "{refusal}");
            }
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<JobId>(&json).is_err() && serde_json::from_str::<ContentId>(&json).is_err());
        }
        let inside = format!("{}/../{}", "0".repeat(30), "0".repeat(30));
        assert!(inside.parse::<JobId>().is_err() && format!("{inside}-1").parse::<TaskId>().is_err());
        assert!(format!("{}-99999999999", JobId([7; 32])).parse::<TaskId>().is_err());
    }

    #[test]
    fn a_binary_cid_has_nothing_after_it() {
        let cid = crate::store::dag_pb::content_id(0x55, b"block");
        let bytes = cid.0.to_bytes();
        assert_eq!(ContentId::from_bytes(&bytes), Some(cid));
        assert_eq!(ContentId::from_bytes(&[&bytes[..], &[0]].concat()), None);
        let with_more = crate::codec::encode(&serde_bytes::ByteBuf::from([bytes, vec![0; 9]].concat()));
        assert!(crate::codec::decode::<ContentId>(&with_more, 100).is_err());
    }
}
