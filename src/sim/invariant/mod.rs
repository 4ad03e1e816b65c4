//! What must hold in every simulated world, whatever goes wrong. One file each.
//!
//! Most are checked by what changes (an event of a node, an edge's answer, what a block changed), so that they cost
//! little; those that need the whole world are checked every [`FULL_CHECK`] events and at the end.

mod alive;
mod batches;
mod bounded;
mod checkpoints;
mod ended;
pub(super) mod escrow;
pub(super) mod leases;
mod model;
mod rollback;
mod storage;
pub(super) mod supply;

use std::fmt;

use super::{machine::Machine, scenario::Scenario, world::World};
use crate::{
    api::NodeEvent,
    chain::records::Changes,
    node::edges::Answer,
    types::{Quorum, Time},
};

/// Events between two full checks.
pub(super) const FULL_CHECK: u64 = 10_000;

/// An invariant does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which: the name of its file.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invariant `{}` is broken: {}", self.invariant, self.what)
    }
}

/// All invariants.
#[derive(Debug)]
pub(super) struct Watch {
    leases: leases::Leases,
    batches: batches::Batches,
    escrow: escrow::Escrow,
    checkpoints: checkpoints::Checkpoints,
    model: model::Model,
    rollback: rollback::Rollback,
    alive: alive::Alive,
    pub(super) storage: storage::Storage,
    quorum: Quorum,
}

impl Watch {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            leases: leases::Leases::default(),
            batches: batches::Batches::new(scenario),
            escrow: escrow::Escrow,
            checkpoints: checkpoints::Checkpoints::default(),
            model: model::Model::default(),
            rollback: rollback::Rollback::default(),
            alive: alive::Alive::default(),
            storage: storage::Storage::new(scenario),
            quorum: scenario.job.quorum,
        }
    }

    /// A node says that something happened.
    pub(super) fn on_event(&mut self, node: usize, event: &NodeEvent) -> Result<(), Violation> {
        self.leases.on_event(node, event)?;
        self.rollback.on_event(node, event)
    }

    /// An edge of a node answers.
    pub(super) fn on_answer(&mut self, node: usize, machine: &Machine, answer: &Answer) -> Result<(), Violation> {
        self.storage.on_answer(node, machine, answer)?;
        self.model.on_answer(node, answer, self.quorum)
    }

    /// A block changed something.
    pub(super) fn on_changes(&mut self, changes: &Changes, now: Time) -> Result<(), Violation> {
        self.leases.on_changes(changes)?;
        self.batches.on_changes(changes)?;
        self.escrow.on_changes(changes)?;
        self.checkpoints.on_changes(changes);
        self.alive.on_changes(changes, now);
        self.storage.on_changes(changes)?;
        self.rollback.on_changes(changes)
    }

    /// Everything that time alone can break; once a second.
    pub(super) fn second_check(world: &mut World) -> Result<(), Violation> {
        alive::Alive::check(world)
    }

    /// Everything that needs the whole world, at any time.
    pub(super) fn full_check(world: &mut World) -> Result<(), Violation> {
        Self::second_check(world)?;
        world.watch.leases.check(world)?;
        world.watch.batches.check_cursors(world)?;
        escrow::check_jobs(world)?;
        supply::check(world)?;
        world.watch.checkpoints.check(world)?;
        world.watch.storage.check(world)?;
        bounded::check(world)
    }

    /// Everything, at the end.
    pub(super) fn last_check(world: &mut World) -> Result<(), Violation> {
        Self::full_check(world)?;
        ended::check(world)?;
        world.watch.batches.check(world)?;
        model::check(world)?;
        escrow::check(world)?;
        storage::check_copies(world)?;
        bounded::check_empty(world)
    }
}
