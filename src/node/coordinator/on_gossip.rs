//! Gossip: each message is checked before it is forwarded, and acted on only as far as the ledger bears it out.

use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{Coordinator, Output};
use crate::{
    api::{NodeEvent, views::peer_text},
    codec,
    conduct::Offence,
    gossip::{
        self, Announcement, AssignmentNotice, JobMessage, JobUpdate, Rollback, StatusChange, TOPIC_ASSIGN,
        TOPIC_HEARTBEAT, TOPIC_JOBS, TOPIC_ROLLBACK,
    },
    health, identity, recovery, round,
    types::{NodeKey, NodeStatus, Signed, SignedError, SignedObject, Time},
    validator,
};

/// Messages older or newer than this are not forwarded: duplicates are remembered no longer.
const MAX_AGE: Duration = gossip::MEMORY;
/// Announcements kept; the oldest goes first. The ledger has them all.
const MAX_ANNOUNCEMENTS: usize = 1_024;
/// Ledgers of single jobs that are followed at once; a further one is left to others.
const MAX_JOB_LEDGERS: usize = 32;

/// Names a gossip message on its way through validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipId {
    /// gossipsub's id.
    pub message: Vec<u8>,
    /// Who forwarded it.
    pub source: PeerId,
}

/// What becomes of a gossip message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Accept,
    /// Don't forward it, and blame nobody: it may be late.
    Ignore,
    /// Don't forward it, and blame who did.
    Reject,
}

impl Coordinator {
    pub(super) fn on_gossip(&mut self, topic: &str, id: GossipId, bytes: &[u8]) {
        self.counters.gossip_bytes_received += bytes.len() as u64;
        let mut verdict = match codec::decode::<Signed>(bytes, gossip::MAX_MESSAGE + gossip::ENVELOPE) {
            Ok(signed) => self.route_gossip(topic, &signed),
            Err(error) => {
                tracing::debug!(topic, source = %id.source, %error, "a malformed gossip message");
                Verdict::Reject
            }
        };
        match verdict {
            Verdict::Reject => self.on_offence(id.source, Offence::Gossip),
            // Whoever has others say too much makes them look like the flood.
            Verdict::Accept if self.forwarded.take(&(), 1, self.now) > 0 => verdict = Verdict::Ignore,
            Verdict::Accept | Verdict::Ignore => {}
        }
        self.output(Output::GossipVerdict { id, verdict });
    }

    fn route_gossip(&mut self, topic: &str, signed: &Signed) -> Verdict {
        match topic {
            TOPIC_JOBS => self.read_gossip(
                signed,
                |message: &Announcement| Some(message.timestamp),
                |this, message| {
                    if let Err(reason) = this.accept_announcement(message) {
                        tracing::debug!(reason, "an announcement was left to others");
                    }
                },
            ),
            TOPIC_ASSIGN => self.read_gossip(
                signed,
                |message: &AssignmentNotice| Some(message.timestamp),
                |_, message| {
                    tracing::debug!(task = %message.task, generation = message.generation, "a task has a holder");
                },
            ),
            TOPIC_ROLLBACK => {
                self.read_gossip(signed, |message: &Rollback| Some(message.timestamp), Self::on_rollback_heard)
            }
            TOPIC_HEARTBEAT => {
                self.read_gossip(signed, |message: &StatusChange| Some(message.timestamp), Self::on_status_heard)
            }
            // A true word on another job does not belong here: who holds that job's tasks would not hear it.
            _ => self.read_gossip(
                signed,
                |message: &JobMessage| (gossip::updates_topic(&message.job) == topic).then_some(message.timestamp),
                Self::on_job_message,
            ),
        }
    }

    /// Opens a message, which checks that its signer is who it speaks for; checks that it belongs here and is of our time;
    /// then acts on it. `timestamp` is `None` for one that belongs elsewhere.
    fn read_gossip<T: SignedObject>(
        &mut self,
        signed: &Signed,
        timestamp: impl FnOnce(&T) -> Option<Time>,
        act: impl FnOnce(&mut Self, T),
    ) -> Verdict {
        let message = match signed.open::<T>() {
            Ok(message) => message,
            // Rightly signed, and of a form that another version knows: that is nobody's fault.
            Err(SignedError::Body(error)) if error.is_unknown() => return Verdict::Ignore,
            Err(SignedError::Signature) if signed.is_of_next_version::<T>() => return Verdict::Ignore,
            Err(_) => return Verdict::Reject,
        };
        let Some(timestamp) = timestamp(&message) else { return Verdict::Reject };
        if timestamp.since(self.now) > MAX_AGE || self.now.since(timestamp) > MAX_AGE {
            return Verdict::Ignore;
        }
        act(self, message);
        Verdict::Accept
    }

    /// A new job: remembers where its content is, and follows its ledger if it has one of its own.
    pub(super) fn accept_announcement(&mut self, announcement: Announcement) -> Result<(), String> {
        let ledger = announcement.ledger.clone();
        let known = self.ledgers.contains_key(&ledger);
        validator::validate_spec(&self.config.policy, &ledger, &announcement.spec)
            .map_err(|rejection| rejection.to_string())?;
        if !known {
            let host = announcement.ledger_host.as_ref().and_then(identity::peer_id);
            let host = host.ok_or_else(|| format!("ledger `{ledger}` is not reachable from here"))?;
            let me = self.keypair.peer_id();
            let followed = self.ledgers.values().filter(|state| state.host.is_some_and(|host| host != me)).count();
            if followed >= MAX_JOB_LEDGERS {
                return Err("this node follows as many job ledgers as it may".into());
            }
            let now = self.now;
            let state = self.ledger_state(&ledger);
            (state.host, state.changed_at) = (Some(host), now);
            self.output(Output::OpenLedger { ledger: ledger.clone(), host });
        }
        let job = announcement.job;
        if self.announcements.len() >= MAX_ANNOUNCEMENTS
            && let Some(oldest) = self.announcements.iter().min_by_key(|(_, kept)| kept.timestamp).map(|(job, _)| *job)
        {
            self.announcements.remove(&oldest);
        }
        self.announcements.insert(job, announcement);
        self.reconcile_job(&ledger, job);
        Ok(())
    }

    fn on_rollback_heard(&mut self, rollback: Rollback) {
        // Recovery holds it until the ledger agrees that the generation is over.
        self.recovery.handle(recovery::Input::Rollback(Box::new(rollback)), self.now);
    }

    fn on_status_heard(&mut self, change: StatusChange) {
        let event = NodeEvent::NodeStatus { peer_id: peer_text(&change.node), status: change.status };
        // A node's own word on its leaving is final; another's word is a reason to probe, which health does.
        if change.observer == change.node && change.status == NodeStatus::Offline {
            self.set_standing(&change.node, NodeStatus::Offline);
            self.notify(event);
        }
        self.output(Output::Health(health::Input::StatusHeard(change)));
    }

    fn on_job_message(&mut self, message: JobMessage) {
        match message.update {
            JobUpdate::Update { task, round, update_cid, .. } => {
                tracing::debug!(%task, round, %update_cid, "an update is out");
            }
            JobUpdate::Proposal { outcome, vote } => {
                self.look_at_vote(&vote, Some(&outcome));
                let proposal = round::Input::Proposal { from: message.node, outcome, vote };
                self.rounds.handle(proposal, self.now);
            }
            JobUpdate::Vote(vote) => {
                self.look_at_vote(&vote, None);
                self.rounds.handle(round::Input::Vote { vote }, self.now);
            }
        }
    }

    pub(super) fn set_standing(&mut self, node: &NodeKey, status: NodeStatus) {
        if let Some(info) = self.peers.get_mut(&identity::peer_id_of_known(node)) {
            info.standing = Some(status);
        }
    }

    /// Signs and publishes.
    pub(super) fn publish<T: SignedObject>(&mut self, topic: impl Into<String>, message: &T) {
        let message = self.keypair.seal(message);
        self.counters.gossip_bytes_sent += message.body.len() as u64;
        self.output(Output::Publish { topic: topic.into(), message });
    }
}
