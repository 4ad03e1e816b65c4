//! Shard reports: content arrived, content is held elsewhere, content is wanted.

use super::{Coordinator, Output, Pending};
use crate::{conduct::Offence, identity, recovery, shard::Event, types::NodeKey};

impl Coordinator {
    pub(super) fn on_shard(&mut self, event: Event) {
        match event {
            Event::Fetched { id, received, .. } => self.on_fetch_ended(id, received, None),
            Event::FetchFailed { id, reason } => self.on_fetch_ended(id, 0, Some(reason.to_string())),
            Event::Held { id, peer, .. } => self.on_hold_answered(id, peer, Ok(())),
            Event::HoldFailed { id, peer, reason } => self.on_hold_answered(id, peer, Err(reason.to_string())),
            Event::Holding { root, for_peer, .. } => {
                tracing::debug!(%root, %for_peer, "holding content for a peer");
                self.output(Output::Provide(root));
            }
            Event::WantProviders { id, root } => {
                self.wanting.entry(root).or_default().insert(id);
                self.output(Output::FindProviders(root));
            }
            Event::Misbehaved { peer, blocks } => {
                tracing::warn!(%peer, blocks, "sent bytes that are not what they were asked for as; not asked or served for a while");
                self.on_offence(peer, Offence::Lie { count: blocks });
            }
            Event::Progress { id, bytes_done } => self.on_fetch_progress(id, bytes_done),
            // The event loop hands these to the store; they never come here.
            Event::Edge(request) => tracing::error!(?request, "an edge request reached the coordinator"),
        }
    }

    fn on_hold_answered(&mut self, id: u64, peer: libp2p::PeerId, result: Result<(), String>) {
        match self.take_pending(id) {
            Some(Pending::CheckpointHold { hold, .. }) => {
                let input = match result {
                    Ok(()) => recovery::Input::Held { id: hold },
                    Err(reason) => {
                        tracing::info!(%peer, reason, "a peer does not hold a checkpoint");
                        recovery::Input::HoldFailed { id: hold }
                    }
                };
                self.recovery.handle(input, self.now);
            }
            Some(Pending::SubmissionHold { submission, root, peer }) => {
                self.on_submission_hold(submission, root, peer, result);
            }
            _ => tracing::debug!(%peer, "an answer about content that nobody asked for"),
        }
    }

    /// The peers that may have the content of a job: who submitted it, who said so, who holds its tasks. Connected
    /// ones come first.
    pub(super) fn providers(&self, ledger: &str, job: &crate::types::JobId) -> Vec<libp2p::PeerId> {
        let mut keys = self.holders(ledger, job);
        if let Some(record) = self.ledgers.get(ledger).and_then(|state| state.view.jobs.get(job)) {
            keys.insert(record.creator);
        }
        if let Some(announcement) = self.announcements.get(job) {
            keys.extend(announcement.providers.iter().copied());
        }
        self.peers_to_ask(keys)
    }

    /// These nodes and all connected peers, as whom content may be asked for. Connected ones come first.
    pub(super) fn peers_to_ask(&self, mut keys: std::collections::BTreeSet<NodeKey>) -> Vec<libp2p::PeerId> {
        /// More providers than this are no faster, and each costs a question.
        const MAX_PROVIDERS: usize = 16;
        keys.remove(&self.me);
        let mut peers: Vec<_> = keys.iter().filter_map(identity::peer_id).collect();
        peers.extend(self.peers.keys().copied());
        let mut seen = std::collections::BTreeSet::new();
        peers.retain(|peer| seen.insert(*peer));
        peers.sort_by_key(|peer| !self.connectivity.connected().contains_key(peer));
        peers.truncate(MAX_PROVIDERS);
        peers
    }
}
