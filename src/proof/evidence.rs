//! Evidence about a receipt that anybody can check offline: `atlas-node proof verify FILE`.
//!
//! A file is one [`Evidence`], as CBOR or as JSON (told apart by the first character, `{`). In JSON, digests, keys,
//! signatures and signed bodies are hexadecimal and CIDs are text. What is absent is not checked, and the report says so.

use serde::{Deserialize, Serialize};

use super::{seed::seed, trace};
use crate::{
    codec,
    tensor::{checkpoint, root},
    types::{
        AssignmentId, Attestation, CheckpointManifest, ContentId, Digest, Generation, Receipt, RoundOutcome, RoundVote,
        Signed,
    },
};

/// The longest evidence file in bytes: a receipt, a manifest, a trace, an outcome of 1,000 slots and its votes, in
/// hexadecimal. A longer one is refused before it is read.
pub const MAX_EVIDENCE_BYTES: usize = 4 * 1024 * 1024;

/// What an evidence file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Always 1.
    pub version: u32,
    /// The signed [`Receipt`].
    pub receipt: Signed,
    /// Another node's signed [`Attestation`] of it.
    #[serde(default)]
    pub attestation: Option<Signed>,
    /// The lease that the assignment was derived from, as the ledger has it.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// What the worker was to compute, as the ledger has it.
    #[serde(default)]
    pub inputs: Option<Inputs>,
    /// The signed [`CheckpointManifest`] of the round's end, which carries the trace.
    #[serde(default)]
    pub checkpoint: Option<Signed>,
    /// The round's record.
    #[serde(default)]
    pub round: Option<RoundEvidence>,
}

/// The lease of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The task's generation.
    pub generation: Generation,
    /// Hash of the transaction that took the lease.
    pub transaction: Digest,
}

/// What a worker was to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The script bundle.
    pub bundle: ContentId,
    /// The slot's shard.
    pub shard: ContentId,
    /// `job.seed`.
    pub job_seed: u64,
    /// Rounds of the slot applied before.
    pub cursor: u32,
}

/// A closed round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundEvidence {
    /// What came out.
    pub outcome: RoundOutcome,
    /// Signed [`RoundVote`]s for it.
    pub votes: Vec<Signed>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
}

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It does not; why.
    Fails(String),
    /// The evidence lacks what it takes; what.
    NotChecked(&'static str),
}

/// What `proof verify` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The receipt, if it could be read.
    pub receipt: Option<Receipt>,
    /// Everything that was looked at, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// True if nothing failed. What was not checked is no failure, and no proof either.
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|check| !matches!(check.verdict, Verdict::Fails(_)))
    }
}

/// Why a file is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too long.
    #[error("the file has {0} bytes; evidence has at most {MAX_EVIDENCE_BYTES}")]
    TooLong(usize),
    /// Not the CBOR.
    #[error("the file is not evidence in CBOR")]
    Cbor(#[from] codec::Error),
    /// Not the JSON.
    #[error("the file is not evidence in JSON")]
    Json(#[from] serde_json::Error),
    /// A later format.
    #[error("the evidence has version {0}; this program reads version 1")]
    Version(u32),
}

impl Evidence {
    /// Evidence of a receipt alone; the other parts are added by who has them.
    pub fn of_receipt(receipt: Signed) -> Self {
        Self { version: 1, receipt, attestation: None, lease: None, inputs: None, checkpoint: None, round: None }
    }

    /// Reads a file's bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(Error::TooLong(bytes.len()));
        }
        let json = bytes.trim_ascii_start().starts_with(b"{");
        let evidence: Self =
            if json { serde_json::from_slice(bytes)? } else { codec::decode(bytes, MAX_EVIDENCE_BYTES)? };
        if evidence.version == 1 { Ok(evidence) } else { Err(Error::Version(evidence.version)) }
    }
}

/// Reads and checks the bytes of an evidence file.
pub fn verify_file(bytes: &[u8]) -> Result<Report, Error> {
    Ok(verify(&Evidence::parse(bytes)?))
}

/// Checks everything that the evidence allows to check.
pub fn verify(evidence: &Evidence) -> Report {
    let receipt = match evidence.receipt.open::<Receipt>() {
        Ok(receipt) => receipt,
        Err(error) => {
            let check = Check { name: "the receipt is signed", verdict: Verdict::Fails(error.to_string()) };
            return Report { receipt: None, checks: vec![check] };
        }
    };
    let lacks = |what| move || Verdict::NotChecked(what);
    let checks = vec![
        Check { name: "the receipt is signed by its worker", verdict: Verdict::Holds },
        Check {
            name: "the assignment is that of the task, round and lease",
            verdict: evidence
                .lease
                .map_or_else(lacks("no lease in the evidence"), |lease| assignment(&receipt, &lease)),
        },
        Check {
            name: "it computed what it was to compute",
            verdict: evidence
                .inputs
                .map_or_else(lacks("no inputs in the evidence"), |inputs| computation(&receipt, &inputs)),
        },
        Check {
            name: "another node attested it",
            verdict: evidence
                .attestation
                .as_ref()
                .map_or_else(lacks("no attestation in the evidence"), |signed| attestation(evidence, &receipt, signed)),
        },
        Check {
            name: "the trace leads from the round's start to the end state",
            verdict: evidence
                .checkpoint
                .as_ref()
                .map_or_else(lacks("no checkpoint in the evidence"), |signed| trace_of(&receipt, signed)),
        },
        Check {
            name: "the round applied it, and its holders agreed",
            verdict: evidence
                .round
                .as_ref()
                .map_or_else(lacks("no round in the evidence"), |round| applied(&receipt, round)),
        },
    ];
    Report { receipt: Some(receipt), checks }
}

fn holds(right: bool, fault: &str) -> Verdict {
    if right { Verdict::Holds } else { Verdict::Fails(fault.to_owned()) }
}

/// The first fault, or that it holds.
fn first_fault<const N: usize>(faults: [(bool, &str); N]) -> Verdict {
    faults.into_iter().find(|(wrong, _)| *wrong).map_or(Verdict::Holds, |(_, fault)| Verdict::Fails(fault.to_owned()))
}

fn assignment(receipt: &Receipt, lease: &Lease) -> Verdict {
    let derived = AssignmentId::derive(&receipt.task, receipt.round, lease.generation, &lease.transaction);
    holds(derived == receipt.assignment, "the receipt names another assignment")
}

fn computation(receipt: &Receipt, inputs: &Inputs) -> Verdict {
    let expected = super::Expected {
        task: receipt.task,
        round: receipt.round,
        generation: 0,
        lease_tx: Digest([0; 32]),
        holder: receipt.node,
        in_params_root: receipt.in_params_root,
        in_opt_root: receipt.in_opt_root,
        bundle: inputs.bundle,
        shard: inputs.shard,
        seed: seed(inputs.job_seed, receipt.task.slot, inputs.cursor),
        local_steps: receipt.checkpoint.step,
    };
    let right = expected.computation_hash(&receipt.out_state_root) == receipt.computation_hash;
    holds(right, "the receipt is for another bundle, shard or seed")
}

fn attestation(evidence: &Evidence, receipt: &Receipt, signed: &Signed) -> Verdict {
    match signed.open::<Attestation>() {
        Ok(attestation) => first_fault([
            (attestation.receipt != evidence.receipt.digest(), "it is of another receipt"),
            (attestation.verifier == receipt.node, "the worker attested its own receipt"),
        ]),
        Err(error) => Verdict::Fails(error.to_string()),
    }
}

fn trace_of(receipt: &Receipt, signed: &Signed) -> Verdict {
    let manifest = match signed.open::<CheckpointManifest>() {
        Ok(manifest) => manifest,
        Err(error) => return Verdict::Fails(error.to_string()),
    };
    if let Err(error) = checkpoint::check_manifest(&manifest, &manifest.cid) {
        return Verdict::Fails(error.to_string());
    }
    let start = root::start_root(&receipt.in_params_root, &receipt.in_opt_root);
    first_fault([
        (manifest.node != receipt.node, "the checkpoint is another node's"),
        (
            manifest.task != receipt.task || manifest.epoch != receipt.round,
            "the checkpoint is of another task or round",
        ),
        (manifest.iteration != receipt.checkpoint.step, "the checkpoint is not that of the round's end"),
        (manifest.state_root != receipt.out_state_root, "the checkpoint's state is not the receipt's"),
        (manifest.opt_root != receipt.out_opt_root, "the checkpoint's optimizer state is not the receipt's"),
        (manifest.trace.len() != receipt.segments as usize + 1, "the trace has another number of segments"),
        (manifest.trace.first() != Some(&start), "the trace begins elsewhere"),
        (trace::root(&manifest.trace) != receipt.trace_root, "the trace is not the committed one"),
    ])
}

fn applied(receipt: &Receipt, round: &RoundEvidence) -> Verdict {
    let outcome = &round.outcome;
    let digest = outcome.digest();
    let applied = outcome.applied.iter().any(|applied| {
        applied.slot == receipt.task.slot
            && applied.update_digest == receipt.update_digest
            && applied.samples == receipt.metrics.samples
    });
    let right = |signed: &Signed| signed.open::<RoundVote>().is_ok_and(|vote| vote.outcome == digest);
    first_fault([
        (outcome.job != receipt.task.job || outcome.round != receipt.round, "it is another job or round"),
        (!applied, "the round did not apply this update"),
        (round.votes.is_empty() || !round.votes.iter().all(right), "a vote is not for this outcome"),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        identity::Keypair,
        proof::testing::{NOW, Worker},
        types::AppliedSlot,
    };

    fn evidence() -> Evidence {
        let worker = Worker::default();
        let (receipt, expected) = (worker.receipt(), worker.expected());
        let (signed, verifier) = (worker.keypair().seal(&receipt), Keypair::from_secret(&[8; 32]));
        let attestation = Attestation { receipt: signed.digest(), verifier: verifier.node_key(), timestamp: NOW };
        let trace = [expected.start_root(), worker.middle, receipt.out_state_root];
        let applied = AppliedSlot {
            slot: receipt.task.slot,
            update_digest: receipt.update_digest,
            node: receipt.node,
            samples: receipt.metrics.samples,
        };
        let outcome = RoundOutcome {
            job: receipt.task.job,
            round: receipt.round,
            params_root: Digest([1; 32]),
            momentum_root: Digest([2; 32]),
            model_cid: receipt.update_cid,
            momentum_cid: receipt.update_cid,
            applied: vec![applied],
            skipped: vec![],
        };
        let vote =
            RoundVote { job: outcome.job, round: outcome.round, outcome: outcome.digest(), node: verifier.node_key() };
        Evidence {
            attestation: Some(verifier.seal(&attestation)),
            lease: Some(Lease { generation: expected.generation, transaction: expected.lease_tx }),
            inputs: Some(Inputs { bundle: expected.bundle, shard: expected.shard, job_seed: 1, cursor: 3 }),
            checkpoint: Some(worker.keypair().seal(&worker.manifest(&trace, receipt.update_cid))),
            round: Some(RoundEvidence { votes: vec![verifier.seal(&vote)], outcome }),
            ..Evidence::of_receipt(signed)
        }
    }

    #[test]
    fn honest_evidence_holds_as_cbor_and_as_json() {
        let evidence = evidence();
        for bytes in [codec::encode(&evidence), serde_json::to_vec_pretty(&evidence).unwrap()] {
            let report = verify_file(&bytes).unwrap();
            assert!(report.checks.iter().all(|check| check.verdict == Verdict::Holds), "{report:?}");
            assert_eq!(report.checks.len(), 6);
        }
    }

    #[test]
    fn what_is_absent_is_reported_as_not_checked() {
        let report = verify(&Evidence::of_receipt(evidence().receipt));
        assert!(report.holds());
        let unchecked = report.checks.iter().filter(|check| matches!(check.verdict, Verdict::NotChecked(_)));
        assert_eq!(unchecked.count(), 5);
    }

    #[test]
    fn each_part_that_lies_is_named() {
        type Change = fn(&mut Evidence);
        let changes: [(usize, Change); 6] = [
            (0, |evidence| evidence.receipt.signature.0[0] ^= 1),
            (1, |evidence| evidence.lease.as_mut().unwrap().generation += 1),
            (2, |evidence| evidence.inputs.as_mut().unwrap().job_seed += 1),
            (3, |evidence| {
                let worker = Worker::default().keypair();
                let own =
                    Attestation { receipt: evidence.receipt.digest(), verifier: worker.node_key(), timestamp: NOW };
                evidence.attestation = Some(worker.seal(&own));
            }),
            (4, |evidence| {
                let worker = Worker::default();
                let trace = [worker.expected().start_root(), Digest([1; 32]), worker.receipt().out_state_root];
                let manifest = worker.manifest(&trace, worker.receipt().update_cid);
                evidence.checkpoint = Some(worker.keypair().seal(&manifest));
            }),
            (5, |evidence| evidence.round.as_mut().unwrap().outcome.params_root = Digest([9; 32])),
        ];
        for (place, change) in changes {
            let mut evidence = evidence();
            change(&mut evidence);
            let report = verify(&evidence);
            assert!(matches!(report.checks[place].verdict, Verdict::Fails(_)), "{place}: {report:?}");
            assert!(!report.holds());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = verify_file(&bytes);
        }
    }
}
