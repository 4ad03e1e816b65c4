//! `proof`: fetches receipts from the node, and checks them without it.

use std::{fs, path::PathBuf};

use clap::Subcommand;
use serde::Serialize;

use super::{Context, Error, output::fields};
use crate::{
    api, codec,
    types::{Attestation, Receipt, Signed, TaskId},
};

/// The longest encoding of a signed receipt or attestation: its body's limit and the signature around it.
const MAX_SIGNED: usize = 8 * 1024;

/// Receipts.
#[derive(Debug, Subcommand)]
pub(super) enum Proof {
    /// Fetch the receipt of a task's round with its attestation; the output is what `verify` reads.
    Get {
        /// The task, `{job}-{slot}`.
        task: TaskId,
        /// The round.
        round: u32,
    },
    /// Check a receipt offline: signatures, that another node than the worker attested it, that both speak of the same.
    Verify {
        /// A file that `proof get --json` wrote.
        file: PathBuf,
    },
}

impl Proof {
    pub(super) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Get { task, round } => {
                let proof = context.client()?.proof(task, round).await?;
                Ok(context.output.value(&proof, |proof| {
                    serde_json::to_string_pretty(proof).expect("a proof is plain data with text keys") + "\n"
                })?)
            }
            Self::Verify { file } => {
                let text = fs::read_to_string(&file).map_err(|source| Error::File { path: file, source })?;
                let proof: api::Proof = serde_json::from_str(&text).map_err(|error| {
                    Error::Input(format!("the file is no proof as `proof get --json` writes it: {error}"))
                })?;
                let verified = verify(&proof)?;
                Ok(context.output.value(&verified, render)?)
            }
        }
    }
}

/// What a check found to be true.
#[derive(Debug, Serialize)]
struct Verified {
    valid: bool,
    task: TaskId,
    round: u32,
    worker: String,
    /// Who attested; `None` if the file has no attestation.
    verifier: Option<String>,
}

fn verify(proof: &api::Proof) -> Result<Verified, Error> {
    let signed = decode(&proof.signed_receipt, "receipt")?;
    let receipt: Receipt = signed.open().map_err(|error| Error::Failed(format!("the receipt is refused: {error}")))?;
    ensure(receipt.node == signed.signer, "the receipt is not signed by the worker that it names")?;
    ensure(receipt == proof.receipt, "the readable receipt is not the one that was signed")?;
    let verifier = proof.signed_attestation.as_deref().map(|text| check_attestation(text, &signed)).transpose()?;
    Ok(Verified {
        valid: true,
        task: receipt.task,
        round: receipt.round,
        worker: api::views::peer_text(&receipt.node),
        verifier,
    })
}

fn check_attestation(text: &str, receipt: &Signed) -> Result<String, Error> {
    let signed = decode(text, "attestation")?;
    let attestation: Attestation =
        signed.open().map_err(|error| Error::Failed(format!("the attestation is refused: {error}")))?;
    ensure(attestation.verifier == signed.signer, "the attestation is not signed by the verifier that it names")?;
    ensure(attestation.verifier != receipt.signer, "the worker attested its own receipt")?;
    ensure(attestation.receipt == receipt.digest(), "the attestation is about another receipt")?;
    Ok(api::views::peer_text(&attestation.verifier))
}

fn decode(text: &str, what: &str) -> Result<Signed, Error> {
    let bytes =
        hex::decode(text).map_err(|error| Error::Failed(format!("the signed {what} is no hexadecimal: {error}")))?;
    codec::decode(&bytes, MAX_SIGNED)
        .map_err(|error| Error::Failed(format!("the signed {what} is no CBOR of one: {error}")))
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), Error> {
    holds.then_some(()).ok_or_else(|| Error::Failed(otherwise.to_owned()))
}

fn render(verified: &Verified) -> String {
    let attested = match &verified.verifier {
        Some(verifier) => format!("by {verifier}"),
        None => "by nobody: this proves who says it, not that it was checked".to_owned(),
    };
    fields(&[
        ("valid", "signatures and bindings hold".to_owned()),
        ("task", format!("{}, round {}", verified.task, verified.round)),
        ("worker", verified.worker.clone()),
        ("attested", attested),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::Keypair,
        types::{AssignmentId, CheckpointRef, ContentId, Digest, JobId, Metrics, Time},
    };

    fn receipt(worker: &Keypair) -> Receipt {
        let cid = ContentId("bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku".parse().unwrap());
        let digest = Digest([1; 32]);
        Receipt {
            assignment: AssignmentId([2; 32]),
            task: TaskId { job: JobId([3; 32]), slot: 1 },
            round: 4,
            node: worker.node_key(),
            timestamp: Time(5),
            class_id: digest,
            kat_root: digest,
            in_params_root: digest,
            in_opt_root: digest,
            trace_root: digest,
            segments: 1,
            out_state_root: digest,
            out_opt_root: digest,
            update_digest: digest,
            update_cid: cid,
            update_length: 10,
            checkpoint: CheckpointRef { cid, round: 4, step: 9 },
            computation_hash: digest,
            metrics: Metrics::default(),
        }
    }

    fn proof(worker: &Keypair, verifier: &Keypair) -> api::Proof {
        let receipt = receipt(worker);
        let signed = worker.seal(&receipt);
        let attestation = Attestation { receipt: signed.digest(), verifier: verifier.node_key(), timestamp: Time(6) };
        api::Proof {
            receipt,
            signed_receipt: hex::encode(codec::encode(&signed)),
            signed_attestation: Some(hex::encode(codec::encode(&verifier.seal(&attestation)))),
        }
    }

    #[test]
    fn a_receipt_that_another_node_attested_is_valid() {
        let (worker, verifier) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
        let verified = verify(&proof(&worker, &verifier)).unwrap();
        assert_eq!(verified.verifier, Some(verifier.peer_id().to_string()));
    }

    #[test]
    fn whoever_attests_oneself_or_edits_the_file_is_found_out() {
        let (worker, verifier) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
        let good = proof(&worker, &verifier);
        let own = proof(&worker, &worker);
        let edited = api::Proof { receipt: Receipt { round: 5, ..good.receipt.clone() }, ..good.clone() };
        let other = Receipt { round: 9, ..receipt(&worker) };
        let swapped = api::Proof {
            signed_receipt: hex::encode(codec::encode(&worker.seal(&other))),
            receipt: other,
            ..good.clone()
        };
        let foreign = api::Proof { signed_receipt: hex::encode(codec::encode(&verifier.seal(&good.receipt))), ..good };
        for (proof, expected) in
            [(own, "its own"), (edited, "readable"), (swapped, "another receipt"), (foreign, "not signed by")]
        {
            let error = verify(&proof).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
