//! What a liar signs beside the truth, or in its place: offences that its signature shows.
//!
//! The liar's own node is the honest code. What it sends is changed on its way out, and signed with its key, so that everybody
//! who hears it has the evidence.

use bytes::Bytes;

use super::{
    fault::Lie,
    host::{Call, Carried, Frame},
    machine::Machine,
};
use crate::{
    codec,
    gossip::{self, JobMessage, JobUpdate},
    proof::{self, wire::Request},
    protocol::{Message as _, State as _},
    types::{Digest, Receipt, RoundVote, Signed},
};

/// Calls whose answers nobody waits for count down from here; a node's own count up from 0.
const LAST_CALL: Call = Call::MAX;

/// What leaves the machine in place of a frame.
pub(super) fn frames(machine: &Machine, frame: Frame) -> Vec<Frame> {
    let Carried::Request(bytes) = &frame.carried else { return vec![frame] };
    let Some(lie @ (Lie::Forge | Lie::TwoReceipts)) = machine.lie else { return vec![frame] };
    let Some(receipt) = receipt_of(&frame, bytes) else { return vec![frame] };
    if lie == Lie::Forge {
        let forged = Receipt { in_params_root: Digest::of(&receipt.in_params_root.0), ..receipt };
        return vec![carrying(machine, frame, &forged)];
    }
    let other = Receipt { update_digest: Digest::of(&receipt.update_digest.0), ..receipt };
    let call = LAST_CALL - frame.call;
    let second = carrying(machine, Frame { call, ..frame.clone() }, &other);
    vec![frame, second]
}

fn receipt_of(frame: &Frame, bytes: &Bytes) -> Option<Receipt> {
    if frame.protocol != proof::State::PROTOCOL {
        return None;
    }
    match Request::decode(bytes.clone()) {
        Ok(Request::Receipt(signed)) => signed.open().ok(),
        _ => None,
    }
}

fn carrying(machine: &Machine, frame: Frame, receipt: &Receipt) -> Frame {
    let request = Request::Receipt(machine.keypair.seal(receipt));
    Frame { carried: Carried::Request(request.encode().concat().into()), ..frame }
}

/// What a liar publishes beside a message: a vote for another root of the same updates.
pub(super) fn beside(machine: &Machine, bytes: &Bytes) -> Option<Bytes> {
    if machine.lie != Some(Lie::TwoRoots) {
        return None;
    }
    let signed: Signed = codec::decode(bytes, gossip::MAX_MESSAGE + gossip::ENVELOPE).ok()?;
    let message: JobMessage = signed.open().ok()?;
    let JobUpdate::Proposal { mut outcome, .. } = message.update else { return None };
    outcome.params_root = Digest::of(&outcome.params_root.0);
    let (job, round, digest) = (outcome.job, outcome.round, outcome.digest());
    let vote = machine.keypair.seal(&RoundVote { job, round, outcome: digest, node: machine.keypair.node_key() });
    let update = JobUpdate::Proposal { outcome, vote };
    Some(codec::encode(&machine.keypair.seal(&JobMessage { update, ..message })).into())
}
