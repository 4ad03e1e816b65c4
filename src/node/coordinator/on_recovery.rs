//! Recovery wants: checkpoints stored, held by another node, and then said on the ledger.

use super::{Coordinator, Output, Pending, work::Phase};
use crate::{
    api::{NodeEvent, views::peer_text},
    gossip::{AssignmentNotice, Rollback, TOPIC_ASSIGN, TOPIC_ROLLBACK},
    identity,
    node::edges,
    recovery::{Input, Output as RecoveryOutput, edge::Kept},
    shard,
    types::{CheckpointRef, ContentId, Generation, NodeKey, TaskId, TaskStatus},
};

/// Why a checkpoint of this node is pinned in its block store.
const PIN_REASON: &str = "checkpoint";

impl Coordinator {
    /// Does what the recovery state wants.
    pub(super) fn drain_recovery(&mut self) {
        while let Some(output) = self.recovery.poll_output() {
            match output {
                RecoveryOutput::Edge(request) => {
                    self.edge(edges::Request::Recovery(Box::new(request)), Pending::Keep);
                }
                RecoveryOutput::Pin { root } => {
                    self.edge(edges::Request::Pin { root, reason: PIN_REASON, keep: true }, Pending::Pin);
                }
                RecoveryOutput::Unpin { root } => {
                    self.edge(edges::Request::Pin { root, reason: PIN_REASON, keep: false }, Pending::Pin);
                }
                RecoveryOutput::AskHold { id, root, size, peer, .. } => self.ask_hold(id, root, size, &peer),
                RecoveryOutput::Acknowledged { task, generation, reference, kept, holder, round_end } => {
                    self.on_acknowledged(task, generation, reference, *kept, &holder, round_end);
                }
                RecoveryOutput::KeepFailed { task, reason } => {
                    tracing::warn!(%task, reason, "a checkpoint could not be kept");
                    if self.works.get(&task).is_some_and(|work| work.phase == Phase::Finishing) {
                        self.attempt_failed(task, &reason);
                    }
                }
                RecoveryOutput::ApplyRollback(rollback) => self.on_rollback(&rollback),
                RecoveryOutput::Drained => self.checkpoints_drained(),
            }
        }
    }

    fn ask_hold(&mut self, hold: u64, root: ContentId, size: u64, node: &NodeKey) {
        match identity::peer_id(node) {
            Some(peer) => {
                let id = self.wait_for(Pending::CheckpointHold { hold, peer: *node });
                self.output(Output::Shard(shard::Input::AskHold { id, root, size, peer }));
            }
            None => self.recovery.handle(Input::HoldFailed { id: hold }, self.now),
        }
    }

    /// Tells recovery who may be asked to hold checkpoints: connected nodes that stand on a ledger.
    pub(super) fn name_holders(&mut self) {
        let ledgers: Vec<String> = self.ledgers.keys().cloned().collect();
        let peers: std::collections::BTreeSet<NodeKey> =
            ledgers.iter().flat_map(|ledger| self.connected_members(ledger)).collect();
        self.recovery.handle(Input::Peers(peers.into_iter().collect()), self.now);
    }

    /// A checkpoint is durable here and held elsewhere: the ledger may know. At the round's end the update is next.
    fn on_acknowledged(
        &mut self,
        task: TaskId,
        generation: Generation,
        reference: CheckpointRef,
        kept: Kept,
        holder: &NodeKey,
        round_end: bool,
    ) {
        let Some(work) = self.held(&task, generation, reference.round) else { return };
        // The checkpoint of a script that was paused is held elsewhere only after the ledger heard of the pause.
        let status = if work.phase == Phase::Paused { TaskStatus::Paused } else { TaskStatus::InProgress };
        self.notify(NodeEvent::Checkpoint {
            task,
            round: reference.round,
            step: reference.step,
            cid: reference.cid,
            holder: peer_text(holder),
        });
        self.output(Output::Provide(reference.cid));
        self.report(task, status, Some(reference), None);
        if round_end {
            let name = format!("checkpoint-{task}-{}", reference.round);
            self.output(Output::Pin { root: reference.cid, name });
            if let Some(root) = self.pinned.insert(task, reference.cid) {
                self.output(Output::Unpin { root });
            }
            let trained = kept.model;
            if let Some(work) = self.works.get_mut(&task) {
                work.kept = Some((reference, kept));
            }
            self.package(task, reference.round, trained);
        }
    }

    /// A generation is over: what runs for it stops, what was derived from it is forgotten.
    fn on_rollback(&mut self, rollback: &Rollback) {
        let task = rollback.task_id;
        self.notify(NodeEvent::Rollback {
            task,
            void_generation: rollback.void_generation,
            checkpoint_cid: rollback.checkpoint.map(|reference| reference.cid),
        });
        if self.works.get(&task).is_some_and(|work| work.generation <= rollback.void_generation) {
            self.drop_work(task, true);
        }
    }

    /// Tells the mesh that this node holds a task now; and, if another held it before, that what that one did since its
    /// last checkpoint is void.
    pub(super) fn tell_assignment(&mut self, task: TaskId) {
        let Some(work) = self.works.get(&task) else { return };
        let (ledger, generation) = (work.ledger.clone(), work.generation);
        let notice = AssignmentNotice { ledger, task, generation, node: self.me, timestamp: self.now };
        self.publish(TOPIC_ASSIGN, &notice);
        let reassigned = self.ledgers.get(&notice.ledger).and_then(|state| state.view.tasks.get(&task));
        if reassigned.is_some_and(|record| record.reassigned > 0) {
            self.tell_rollback(task, generation - 1);
        }
    }

    /// Tells the mesh that a task goes back to its last checkpoint: all of `void_generation` and before is void.
    pub(super) fn tell_rollback(&mut self, task: TaskId, void_generation: Generation) {
        let Some(work) = self.works.get(&task) else { return };
        let record = self.ledgers.get(&work.ledger).and_then(|state| state.view.tasks.get(&task));
        let rollback = Rollback {
            event_type: "task_rollback".into(),
            ledger: work.ledger.clone(),
            task_id: task,
            job_id: task.job,
            shard_id: task.slot,
            node_id: self.me,
            void_generation,
            checkpoint: record.and_then(|record| record.checkpoint),
            timestamp: self.now,
        };
        self.publish(TOPIC_ROLLBACK, &rollback);
    }
}
