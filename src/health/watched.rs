//! One watched node: from the last sign of life to suspicion to the declaration.

use std::time::Duration;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::types::Time;

/// What this node thinks of one that it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Standing {
    /// It beats, or answered a probe.
    Online,
    /// Its beats stopped; probes are out.
    Suspected,
    /// Neither a beat nor an answer, directly or through others, within the time for it.
    Offline,
    /// It said that it stops.
    Left,
}

/// What is to be done about a watched node at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// Suspect it and probe it, directly and through others.
    Suspect,
    /// Probe it directly once more.
    Probe,
    Declare,
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) peer: PeerId,
    pub(super) last_sequence: u64,
    pub(super) standing: Standing,
    /// The last sign of life.
    heard_at: Time,
    suspected_at: Time,
    next_probe: Time,
}

impl Watched {
    /// A node first heard of by its beat `sequence`.
    pub(super) fn new(peer: PeerId, sequence: u64, now: Time) -> Self {
        let standing = Standing::Online;
        Self { peer, last_sequence: sequence, standing, heard_at: now, suspected_at: now, next_probe: now }
    }

    /// When [`Watched::due`] is something next; `None` while nothing is awaited of the node.
    pub(super) fn deadline(&self, config: &Config) -> Option<Time> {
        match self.standing {
            Standing::Online => Some(self.heard_at + config.suspect_after()),
            Standing::Suspected => Some(self.next_probe.min(self.suspected_at + config.probe_window)),
            Standing::Offline | Standing::Left => None,
        }
    }

    /// Moves on to `now`.
    pub(super) fn due(&mut self, config: &Config, now: Time) -> Due {
        if self.deadline(config).is_none_or(|deadline| now < deadline) {
            return Due::Nothing;
        }
        if self.standing == Standing::Online {
            self.suspect(config, now);
            return Due::Suspect;
        }
        if now >= self.suspected_at + config.probe_window {
            self.standing = Standing::Offline;
            return Due::Declare;
        }
        self.next_probe = now + config.probe_interval;
        Due::Probe
    }

    /// Begins the suspicion, before its time if others have reason to.
    pub(super) fn suspect(&mut self, config: &Config, now: Time) {
        self.standing = Standing::Suspected;
        self.suspected_at = now;
        self.next_probe = now + config.probe_interval;
    }

    /// A sign of life; returns what it was thought to be before. One that left stays so until a newer beat.
    pub(super) fn alive(&mut self, now: Time) -> Standing {
        let before = self.standing;
        if before != Standing::Left {
            self.heard_at = now;
            self.standing = Standing::Online;
        }
        before
    }

    /// A beat newer than all before; returns what it was thought to be before.
    pub(super) fn beat(&mut self, sequence: u64, now: Time) -> Standing {
        let before = self.standing;
        self.last_sequence = sequence;
        self.heard_at = now;
        self.standing = Standing::Online;
        before
    }

    /// How long there has been no sign of life.
    pub(super) fn silence(&self, now: Time) -> Duration {
        now.since(self.heard_at)
    }

    /// Whether nothing is awaited of it, so that it can be forgotten when there is no room.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.standing, Standing::Offline | Standing::Left)
    }
}
