//! Fixed keys and values.

use atlas_node::{
    chain::records,
    identity::Keypair,
    store::dag_pb::{self, DAG_PB, RAW},
    types::{
        AggregationRule, AppliedSlot, AssignmentId, Attestation, Beat, CheckpointManifest, CheckpointRef, ContentId,
        Digest, JobId, JobSpec, Load, Metrics, NodeKey, OuterStep, OutputKind, Quorum, Receipt, Resources,
        RoundOutcome, RoundVote, Settle, ShardSpec, SignatureBytes, Signed, SignedObject, TaskId, TaskType, Time,
        UpdateCodec,
    },
};
use ed25519_dalek::Signer as _;

/// 9 October 2025.
pub(super) const NOW: Time = Time(1_760_000_000_000);

/// The person with this number; its secret is 32 bytes of it.
pub(super) fn keypair(number: u8) -> Keypair {
    Keypair::from_secret(&[number; 32])
}

pub(super) fn key(number: u8) -> NodeKey {
    keypair(number).node_key()
}

pub(super) fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// A file of one block.
pub(super) fn cid(text: &str) -> ContentId {
    dag_pb::content_id(RAW, text.as_bytes())
}

/// A directory.
pub(super) fn directory(text: &str) -> ContentId {
    dag_pb::content_id(DAG_PB, text.as_bytes())
}

pub(super) fn job() -> JobId {
    JobId::derive(super::super::decode::CHAIN, &key(1), 0)
}

pub(super) fn task(slot: u32) -> TaskId {
    TaskId { job: job(), slot }
}

pub(super) fn beat() -> Beat {
    let load = Load { cpu_millicores_booked: 1_500, memory_bytes_booked: 1 << 30, active_tasks: 2 };
    Beat { node: key(1), sequence: NOW.as_millis(), timestamp: NOW, load, leaving: false }
}

pub(super) fn resources() -> Resources {
    Resources { cpu_millicores: 1_000, memory_bytes: 256 << 20, storage_bytes: 1 << 30, gpu_count: 0 }
}

pub(crate) fn spec() -> JobSpec {
    JobSpec {
        name: "digits".into(),
        model_id: "digits-mlp".into(),
        task_type: TaskType::Training,
        bundle: directory("bundle"),
        model: cid("model"),
        model_root: digest("model root"),
        dataset_cid: cid("manifest"),
        held_out: Some(directory("held out")),
        seed: 42,
        rounds: 5,
        local_steps: 60,
        checkpoint_every: 20,
        config: r#"{"learning_rate":0.1}"#.into(),
        output: OutputKind::Model,
        codec: UpdateCodec::I8B256,
        rule: AggregationRule::NormClippedMean,
        outer: OuterStep::default(),
        quorum: Quorum::TwoThirds,
        resources: resources(),
        round_limit_millis: 300_000,
        deadline_millis: 3_600_000,
        budget: 100_000,
        settle: Settle::Ledger,
        copies: 2,
        session: true,
        data_key: None,
    }
}

pub(crate) fn shards() -> Vec<ShardSpec> {
    (0..2)
        .map(|slot| ShardSpec { cid: directory(&format!("shard {slot}")), size: 54_321, records: 700 + slot })
        .collect()
}

pub(super) fn reference() -> CheckpointRef {
    CheckpointRef { cid: directory("checkpoint"), round: 3, step: 60 }
}

pub(crate) fn receipt() -> Receipt {
    Receipt {
        assignment: AssignmentId::derive(&task(1), 3, 1, &digest("lease")),
        task: task(1),
        round: 3,
        node: key(2),
        timestamp: NOW,
        class_id: digest("class"),
        kat_root: Digest([0; 32]),
        in_params_root: digest("in"),
        in_opt_root: Digest([0; 32]),
        trace_root: digest("trace"),
        segments: 3,
        out_state_root: digest("out"),
        out_opt_root: digest("optimizer"),
        update_digest: digest("update"),
        update_cid: cid("update"),
        update_length: 5_432,
        checkpoint: reference(),
        computation_hash: digest("computation"),
        metrics: Metrics {
            iterations: 60,
            samples: 1_920,
            loss_micros: 312_500,
            wall_millis: 4_000,
            cpu_millis: 3_900,
            memory_bytes: 64 << 20,
            gpu_count: 0,
        },
    }
}

pub(super) fn attestation() -> Attestation {
    Attestation { receipt: keypair(2).seal(&receipt()).digest(), verifier: key(3), timestamp: NOW }
}

pub(super) fn manifest() -> CheckpointManifest {
    CheckpointManifest {
        task: task(1),
        generation: 1,
        epoch: 3,
        iteration: 40,
        node: key(2),
        cid: directory("state"),
        size: 9_876,
        state_root: digest("state 2"),
        opt_root: Digest([0; 32]),
        trace: vec![digest("state 0"), digest("state 1"), digest("state 2")],
        timestamp: NOW,
    }
}

pub(super) fn outcome() -> RoundOutcome {
    let applied = |slot, node| AppliedSlot { slot, update_digest: digest("update"), node, samples: 1_920 };
    RoundOutcome {
        job: job(),
        round: 3,
        params_root: digest("next"),
        momentum_root: digest("momentum"),
        model_cid: cid("next model"),
        momentum_cid: cid("next momentum"),
        applied: vec![applied(0, key(2)), applied(2, key(3))],
        skipped: vec![1],
    }
}

pub(super) fn vote(number: u8) -> RoundVote {
    RoundVote { job: job(), round: 3, outcome: outcome().digest(), node: key(number) }
}

pub(super) fn node_record() -> records::Node {
    records::Node {
        id: key(1),
        node_id: "one".into(),
        address: None,
        status: atlas_node::types::NodeStatus::Recovering,
        resources: resources(),
        listen: vec!["/ip4/192.0.2.1/tcp/4001".into()],
        attributes: [("region".into(), "north".into()), ("city".into(), "Zürich".into())].into(),
        reputation: 10_000,
        uptime: 9_950,
        load: beat().load,
        last_sequence: 7,
        last_heartbeat: NOW,
        registered_at: Time(1_759_000_000_000),
        active_tasks: 2,
        rewards: 12_345,
        storage_offered: 0,
        storage_used: 0,
        storage_epoch: 0,
    }
}

/// Whose word an object is; of what speaks for nobody, the first person's.
pub(super) fn keypair_of<T: SignedObject>(object: &T) -> Keypair {
    let speaker = object.speaker().unwrap_or(key(1));
    (1..=9).map(keypair).find(|pair| pair.node_key() == speaker).expect("objects speak for the persons of the samples")
}

/// `body` signed as an object of this kind, whatever it is.
pub(super) fn sign<T: SignedObject>(pair: &Keypair, body: &[u8]) -> Signed {
    Signed { body: body.to_vec(), signer: pair.node_key(), signature: signature(pair, T::DOMAIN, body) }
}

pub(super) fn signature(pair: &Keypair, domain: &str, body: &[u8]) -> SignatureBytes {
    SignatureBytes(pair.signing_key().sign(&[domain.as_bytes(), &[0], body].concat()).to_bytes())
}

/// The same signature with the group's order added to S.
pub(super) fn unreduced(signature: &SignatureBytes) -> SignatureBytes {
    // The order of edwards25519's group, little-endian (RFC 8032, 5.1).
    const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let order = hex::decode(ORDER).unwrap();
    let mut bytes = signature.0;
    let mut carry = 0;
    for (byte, added) in bytes[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(added) + carry;
        let [low, high] = sum.to_le_bytes();
        (*byte, carry) = (low, u16::from(high));
    }
    SignatureBytes(bytes)
}

/// The neutral element: every multiple of it is itself.
pub(super) fn weak_key() -> NodeKey {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    NodeKey(bytes)
}

/// R neutral, S zero: without the strict rules it fits every message of [`weak_key`].
pub(super) fn weak_signature() -> SignatureBytes {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    SignatureBytes(bytes)
}

/// Bytes that are no point: y = 2 has no x on the curve.
pub(super) fn no_key() -> NodeKey {
    let mut bytes = [0; 32];
    bytes[0] = 2;
    NodeKey(bytes)
}
