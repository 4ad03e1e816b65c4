//! Receipts, ours and others': made, checked, attested, settled.

use libp2p::PeerId;

use super::{
    Coordinator, Output, Pending,
    gather::{Next, Purpose},
    work::Phase,
};
use crate::{
    api::{NodeEvent, views::peer_text},
    chain::wire::Message,
    gossip::{JobMessage, JobUpdate, updates_topic},
    identity,
    node::edges,
    proof::{self, Event, Expected, Input, wire::Refused},
    protocol::ResponseToken,
    types::{Attestation, Digest, Metrics, NodeKey, Receipt, Round, Signed, TaskId, UpdateCodec, rendezvous},
};

/// A receipt of another node on its way through the checks.
#[derive(Clone, Debug)]
pub(super) struct CheckReceipt {
    pub(super) token: ResponseToken,
    pub(super) signed: Signed,
    pub(super) receipt: Receipt,
    pub(super) generation: u32,
    pub(super) base_model: crate::types::ContentId,
    pub(super) codec: UpdateCodec,
}

/// A receipt of this node, with what it takes to show and to open it.
#[derive(Clone, Debug)]
pub(super) struct OwnReceipt {
    pub(super) receipt: Signed,
    pub(super) attestation: Signed,
    /// State roots from the round's start to its end.
    pub(super) trace: Vec<Digest>,
    /// What the assignment was derived from.
    pub(super) lease: proof::evidence::Lease,
    /// What was to be computed.
    pub(super) inputs: proof::evidence::Inputs,
}

impl Coordinator {
    pub(super) fn on_proof(&mut self, event: Event) {
        match event {
            Event::Verified { id, peer, attestation } => self.on_verified(id, peer, attestation),
            Event::VerifyFailed { id, peer, reason } => self.on_verify_failed(id, peer, &reason),
            Event::ReceiptAsked { token, receipt, peer } => self.on_receipt_asked(token, peer, receipt),
            Event::Challenged { token, receipt, index, .. } => {
                let result = self.open_trace(&receipt, index);
                self.output(Output::Proof(Input::AnswerChallenge { token, result }));
            }
            Event::Opened { index, peer, .. } => tracing::info!(%peer, index, "a state was opened"),
            Event::ChallengeFailed { peer, reason, .. } => {
                tracing::warn!(%peer, reason = reason.reason, "a state was not opened");
            }
        }
    }

    /// What a receipt for the open round of a task must say.
    fn expected(&self, ledger: &str, task: TaskId) -> Result<Expected, &'static str> {
        let view = &self.ledgers.get(ledger).ok_or("its ledger is not followed here")?.view;
        let record = view.tasks.get(&task).ok_or("the task is not known here")?;
        let job = view.jobs.get(&task.job).ok_or("the job is not known here")?;
        let shard = job.shards.get(task.slot as usize).ok_or("the job has no such slot")?;
        Ok(Expected {
            task,
            round: job.round,
            generation: record.generation,
            lease_tx: record.lease_tx,
            holder: record.holder.ok_or("the task has no holder")?,
            in_params_root: job.model_root.unwrap_or(job.spec.model_root),
            in_opt_root: record.opt_root,
            bundle: job.spec.bundle,
            shard: shard.cid,
            seed: proof::seed::seed(job.spec.seed, task.slot, record.cursor),
            local_steps: job.spec.local_steps,
        })
    }

    /// The state root that the trace of a held task's open round begins with.
    pub(super) fn start_root(&self, ledger: &str, task: TaskId) -> Option<Digest> {
        self.expected(ledger, task).ok().map(|expected| expected.start_root())
    }

    /// Both halves of a finished round are here (the update, and the checkpoint with another node): signs the receipt.
    pub(super) fn try_receipt(&mut self, task: TaskId) {
        let Some(work) = self.works.get(&task).filter(|work| work.phase == Phase::Finishing) else { return };
        let (Some(package), Some((reference, kept)), Some(outputs)) = (&work.package, &work.kept, &work.outputs) else {
            return;
        };
        let expected = match self.expected(&work.ledger, task) {
            Ok(expected) if expected.holder == self.me && expected.round == work.round => expected,
            Ok(_) => return,
            Err(reason) => return self.attempt_failed(task, reason),
        };
        let receipt = proof::Work {
            timestamp: self.now,
            class_id: self.config.facts.class_id,
            kat_root: self.config.facts.kat_root,
            trace: kept.trace.clone(),
            out_opt_root: kept.opt_root,
            update_digest: package.update_digest,
            update_cid: package.update_cid,
            update_length: package.update_length,
            checkpoint: *reference,
            metrics: metrics(outputs),
        };
        match proof::build(&expected, receipt) {
            Ok(receipt) => {
                let signed = self.keypair.seal(&receipt);
                if let Some(work) = self.works.get_mut(&task) {
                    work.receipt = Some(signed);
                    work.phase = Phase::Proving;
                }
                self.ask_verifier(task);
            }
            Err(refusal) => self.attempt_failed(task, &format!("the receipt can't be made: {refusal}")),
        }
    }

    /// Asks the next node in line to check the receipt. Holders of the job come first: they need the update anyway.
    pub(super) fn ask_verifier(&mut self, task: TaskId) {
        let Some(work) = self.works.get(&task) else { return };
        let Some(receipt) = work.receipt.clone() else { return };
        let (ledger, round) = (work.ledger.clone(), work.round);
        let parts: [&[u8]; 3] = [&task.job.0, &task.slot.to_be_bytes(), &round.to_be_bytes()];
        let holders = self.holders(&ledger, &task.job);
        let others = self.connected_members(&ledger);
        let (near, far): (Vec<NodeKey>, Vec<NodeKey>) = others.into_iter().partition(|node| holders.contains(node));
        let order = rendezvous::rank(rendezvous::VERIFIER, &parts, near).into_iter().chain(rendezvous::rank(
            rendezvous::VERIFIER,
            &parts,
            far,
        ));
        let next = order.into_iter().find(|node| !work.verifiers_tried.contains(node));
        let Some((node, peer)) = next.and_then(|node| Some((node, identity::peer_id(&node)?))) else {
            if let Some(work) = self.works.get_mut(&task) {
                work.verifiers_tried.clear();
                work.retry_at = Some(self.now + super::work::VERIFY_PAUSE);
            }
            return;
        };
        if let Some(work) = self.works.get_mut(&task) {
            work.verifiers_tried.insert(node);
            work.retry_at = None;
        }
        let id = self.wait_for(Pending::Verify { task, round, peer: node });
        self.output(Output::Proof(Input::Verify { id, peer, receipt }));
    }

    fn on_verified(&mut self, id: u64, peer: PeerId, attestation: Signed) {
        let Some(Pending::Verify { task, round, .. }) = self.take_pending(id) else { return };
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.round != round || work.phase != Phase::Proving {
            return;
        }
        let Some(receipt) = work.receipt.clone() else { return };
        work.phase = Phase::Settling;
        let ledger = work.ledger.clone();
        let trace = work.kept.as_ref().map(|(_, kept)| kept.trace.clone()).unwrap_or_default();
        if let Some((lease, inputs)) = self.evidence(&ledger, task) {
            let own = OwnReceipt { receipt: receipt.clone(), attestation: attestation.clone(), trace, lease, inputs };
            self.remember_receipt(task, round, own);
        }
        self.notify(NodeEvent::ReceiptVerified { task, round, verifier: peer.to_string() });
        let message = Message::SubmitReceipt { receipt, attestation };
        self.submit(&ledger, message, true, Pending::Receipt { task, round });
    }

    fn on_verify_failed(&mut self, id: u64, peer: PeerId, reason: &Refused) {
        let Some(Pending::Verify { task, round, .. }) = self.take_pending(id) else { return };
        tracing::info!(%task, round, %peer, reason = reason.reason, "the receipt was not attested");
        if !self.is_proving(task, round) {
            return;
        }
        if !reason.retryable {
            self.notify(NodeEvent::ReceiptRefused { task, round, reason: reason.reason.clone() });
        }
        self.ask_verifier(task);
    }

    /// The node that was asked to check a receipt is gone: the next in line is asked.
    pub(super) fn on_verifier_gone(&mut self, task: TaskId, round: Round) {
        if self.is_proving(task, round) {
            self.ask_verifier(task);
        }
    }

    fn is_proving(&self, task: TaskId, round: Round) -> bool {
        self.works.get(&task).is_some_and(|work| work.round == round && work.phase == Phase::Proving)
    }

    pub(super) fn on_receipt_answered(&mut self, task: TaskId, round: Round, code: u32, log: &str) {
        if code == 0 {
            return self.on_receipt_stands(task);
        }
        if self.works.get(&task).is_some_and(|work| work.round == round && work.phase == Phase::Settling) {
            self.notify(NodeEvent::ReceiptRefused { task, round, reason: log.to_owned() });
            self.attempt_failed(task, &format!("the ledger refused the receipt: {log}"));
        }
    }

    /// The receipt is on the ledger: from now on others may see the update.
    pub(super) fn on_receipt_stands(&mut self, task: TaskId) {
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.phase != Phase::Settling {
            return;
        }
        work.phase = Phase::Waiting;
        let round = work.round;
        let (Some(receipt), Some(package)) = (&work.receipt, &work.package) else { return };
        let update = JobUpdate::Update { task, round, update_cid: package.update_cid, receipt: receipt.digest() };
        let message = JobMessage { job: task.job, node: self.me, timestamp: self.now, update };
        self.publish(updates_topic(&task.job), &message);
    }

    /// Another node asks for its receipt to be checked: fetches what it speaks of, then looks at every byte.
    fn on_receipt_asked(&mut self, token: ResponseToken, peer: PeerId, signed: Signed) {
        self.look_at_receipt(&signed);
        let check = match self.read_receipt(token, signed) {
            Ok(check) => check,
            Err(refused) => return self.output(Output::Proof(Input::AnswerReceipt { token, result: Err(refused) })),
        };
        let wanted = [
            (check.receipt.update_cid, Purpose::Update),
            (check.receipt.checkpoint.cid, Purpose::Content),
            (check.base_model, Purpose::Content),
        ];
        self.gather(&wanted, &[peer], Next::CheckReceipt(Box::new(check)));
    }

    fn read_receipt(&self, token: ResponseToken, signed: Signed) -> Result<CheckReceipt, Refused> {
        let receipt: Receipt = signed.open().map_err(|error| Refused::never(error.to_string()))?;
        let task = receipt.task;
        let ledger = self.ledger_of(&task.job).ok_or_else(|| Refused::later("the job is not known here yet"))?;
        let expected = self.expected(&ledger, task).map_err(Refused::later)?;
        let view = &self.ledgers.get(&ledger).ok_or_else(|| Refused::later("its ledger is not followed here"))?.view;
        proof::check_receipt(&signed, &expected).map_err(|refusal| {
            // This node's view may be a block behind the worker's: only what a newer block can't change is final.
            Refused::later(refusal.to_string())
        })?;
        let job = view.jobs.get(&task.job).ok_or_else(|| Refused::later("the job is not known here yet"))?;
        Ok(CheckReceipt {
            token,
            signed,
            receipt,
            generation: expected.generation,
            base_model: job.model_cid,
            codec: job.spec.codec,
        })
    }

    pub(super) fn start_receipt_check(&mut self, check: CheckReceipt) {
        let request = proof::edge::Request {
            id: 0,
            receipt: check.receipt.clone(),
            generation: check.generation,
            base_model: check.base_model,
            codec: check.codec,
            now: self.now,
        };
        self.edge(edges::Request::Proof(Box::new(request)), Pending::CheckUpdate(Box::new(check)));
    }

    pub(super) fn on_receipt_checked(&mut self, check: CheckReceipt, result: Result<(), Refused>) {
        let token = check.token;
        let result = match result {
            Ok(()) => {
                let receipt = check.signed.digest();
                let attestation = Attestation { receipt, verifier: self.me, timestamp: self.now };
                self.counters.receipts_verified += 1;
                Ok(self.keypair.seal(&attestation))
            }
            Err(refused) => {
                let (task, round) = (check.receipt.task, check.receipt.round);
                tracing::warn!(%task, round, worker = %peer_text(&check.receipt.node), refusal = refused.reason, "a receipt was refused");
                self.counters.receipts_refused += 1;
                self.notify(NodeEvent::ReceiptRefused { task, round, reason: refused.reason.clone() });
                Err(refused)
            }
        };
        self.output(Output::Proof(Input::AnswerReceipt { token, result }));
    }

    pub(super) fn refuse_receipt(&mut self, token: ResponseToken, reason: &str) {
        let refused = Refused::later(format!("what the receipt speaks of could not be fetched: {reason}"));
        self.output(Output::Proof(Input::AnswerReceipt { token, result: Err(refused) }));
    }

    /// Opens one state of an own trace: its root, the path to the receipt's trace root, and its checkpoint.
    fn open_trace(&self, receipt: &Digest, index: u32) -> Result<proof::wire::Opening, Refused> {
        let own = self.receipts.iter().find(|(_, own)| own.receipt.digest() == *receipt);
        let ((task, round), own) = own.ok_or_else(|| Refused::never("this node has no such receipt"))?;
        let no_entry = || Refused::never("the trace has no such entry");
        let state_root = *own.trace.get(index as usize).ok_or_else(no_entry)?;
        let path = proof::trace::path(&own.trace, index).ok_or_else(no_entry)?;
        let boundaries = self.recovery.boundaries(task, *round);
        let checkpoint = boundaries.iter().find(|boundary| boundary.index == index).map(|boundary| boundary.checkpoint);
        Ok(proof::wire::Opening { state_root, path, checkpoint })
    }

    /// What the ledger says of a held task, for whoever checks its receipt later.
    fn evidence(&self, ledger: &str, task: TaskId) -> Option<(proof::evidence::Lease, proof::evidence::Inputs)> {
        let view = &self.ledgers.get(ledger)?.view;
        let (record, job) = (view.tasks.get(&task)?, view.jobs.get(&task.job)?);
        let lease = proof::evidence::Lease { generation: record.generation, transaction: record.lease_tx };
        let inputs = proof::evidence::Inputs {
            bundle: job.spec.bundle,
            shard: job.shards.get(task.slot as usize)?.cid,
            job_seed: job.spec.seed,
            cursor: record.cursor,
        };
        Some((lease, inputs))
    }

    fn remember_receipt(&mut self, task: TaskId, round: Round, own: OwnReceipt) {
        /// Receipts kept to be shown, 1 KiB each; those of the lowest task and round go first.
        const MAX_RECEIPTS: usize = 4_096;
        if self.receipts.len() >= MAX_RECEIPTS {
            self.receipts.pop_first();
        }
        self.receipts.insert((task, round), own);
    }

    /// Connected nodes that stand on a ledger, other than this one.
    pub(super) fn connected_members(&self, ledger: &str) -> Vec<NodeKey> {
        let connected = self.peers.keys().filter_map(identity::node_key);
        connected.filter(|node| *node != self.me && self.is_present(ledger, node)).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a float beyond an integer's range saturates, as wanted")]
fn metrics(outputs: &crate::executor::Outputs) -> Metrics {
    let loss = outputs.loss.filter(|loss| loss.is_finite()).map_or(i64::MAX, |loss| (loss * 1e6).round() as i64);
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Metrics {
        iterations: outputs.steps,
        samples: outputs.samples,
        loss_micros: loss,
        wall_millis: millis(outputs.wall),
        cpu_millis: millis(outputs.cpu),
        memory_bytes: outputs.memory_bytes,
        gpu_count: 0,
    }
}
