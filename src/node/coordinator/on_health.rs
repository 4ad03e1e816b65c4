//! Health reports: our beats are due, others come and go, a path was measured.

use super::{Coordinator, Output, Pending};
use crate::{
    api::{NodeEvent, views::peer_text},
    chain::wire::Message,
    conduct::Offence,
    gossip::{StatusChange, TOPIC_HEARTBEAT},
    health::{self, Event},
    network,
    types::{Load, NodeKey, NodeStatus, Signed},
};

impl Coordinator {
    pub(super) fn on_health(&mut self, event: Event) {
        match event {
            Event::BeatDue(beat) => self.on_beat_due(&beat),
            Event::BeatHeard { .. } => {}
            Event::Forged { peer } => {
                self.on_offence(peer, Offence::Forged { protocol: health::wire::PROTOCOL.into() })
            }
            Event::Departed => self.on_departed(),
            Event::Suspected { node } => tracing::info!(node = %peer_text(&node), "suspected: its beats stopped"),
            Event::Cleared { node } => tracing::info!(node = %peer_text(&node), "alive after all"),
            Event::Offline { node, last_sequence } => self.tell_status(node, NodeStatus::Offline, last_sequence),
            Event::Left { node, last_sequence } => self.tell_status(node, NodeStatus::Offline, last_sequence),
            Event::Online { node, before, last_sequence } => {
                // A first beat is no change of status; a return is.
                if before.is_some() {
                    self.tell_status(node, NodeStatus::Online, last_sequence);
                } else {
                    self.set_standing(&node, NodeStatus::Online);
                }
            }
            Event::SpeedMeasured { id, peer, speed } => {
                self.take_pending(id);
                self.network.handle(network::Input::Measured { peer, speed }, self.now);
            }
            Event::SpeedFailed { id, peer, error } => {
                self.take_pending(id);
                tracing::debug!(%peer, %error, "the path was not measured");
                self.network.handle(network::Input::NotMeasured { peer }, self.now);
            }
        }
    }

    /// Our beat goes to every ledger on which this node stands.
    fn on_beat_due(&mut self, beat: &Signed) {
        let ledgers: Vec<String> = self
            .ledgers
            .iter()
            .filter(|(_, state)| state.connected && state.view.nodes.contains_key(&self.me))
            .map(|(ledger, _)| ledger.clone())
            .collect();
        for ledger in ledgers {
            let message = Message::UpdateHeartbeat { beats: vec![beat.clone()] };
            self.submit(&ledger, message, false, Pending::Beat);
        }
        self.report_inference();
        let booked = self.resources.booked();
        let load = Load {
            cpu_millicores_booked: booked.cpu_millicores,
            memory_bytes_booked: booked.memory_bytes,
            active_tasks: u32::try_from(self.works.len()).unwrap_or(u32::MAX),
        };
        self.output(Output::Health(health::Input::Load(load)));
    }

    /// Tells the mesh that a node which this one watches came or went.
    fn tell_status(&mut self, node: NodeKey, status: NodeStatus, last_sequence: u64) {
        self.set_standing(&node, status);
        self.notify(NodeEvent::NodeStatus { peer_id: peer_text(&node), status });
        let change = StatusChange { node, status, observer: self.me, last_sequence, timestamp: self.now };
        self.publish(TOPIC_HEARTBEAT, &change);
    }
}
