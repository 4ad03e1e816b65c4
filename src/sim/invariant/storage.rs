//! Content that others keep: no node keeps more than it lends, neither on its disk nor as the ledger counts it; and in the end
//! each object has as many holders as its owner asked for, which are up and have all of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        machine::Machine,
        scenario::{Scenario, Storage as Wish},
        storage::{id, order},
        world::World,
    },
    Violation,
};
use crate::{
    chain::records::{Changes, Node, Object, ObjectId},
    node::{coordinator::view::View, edges::Answer},
    types::NodeKey,
};

const NAME: &str = "storage";

/// Who has ever held each object.
#[derive(Debug, Default)]
pub(in crate::sim) struct Storage {
    /// Bytes that each node lends.
    room: u64,
    held: BTreeMap<ObjectId, BTreeSet<NodeKey>>,
}

impl Storage {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self { room: scenario.storage.map_or(0, |storage| storage.room_bytes), held: BTreeMap::new() }
    }

    pub(super) fn on_changes(&mut self, changes: &Changes) -> Result<(), Violation> {
        for object in &changes.objects {
            let holders = object.holders.iter().map(|holder| holder.node);
            self.held.entry(object.id()).or_default().extend(holders);
        }
        changes.nodes.iter().try_for_each(|node| self.check_node(node))
    }

    fn check_node(&self, node: &Node) -> Result<(), Violation> {
        let (used, offered) = (node.storage_used, node.storage_offered);
        if used <= offered && offered <= self.room {
            return Ok(());
        }
        let (name, room) = (node.id, self.room);
        Err(Violation::new(NAME, format!("node {name} lends {room} bytes, offers {offered}, and {used} are counted")))
    }

    /// A node pinned something, perhaps.
    pub(super) fn on_answer(&self, node: usize, machine: &Machine, answer: &Answer) -> Result<(), Violation> {
        match answer {
            Answer::Kept(Ok(_)) => self.check_disk(node, machine),
            _ => Ok(()),
        }
    }

    fn check_disk(&self, node: usize, machine: &Machine) -> Result<(), Violation> {
        let me = machine.keypair.node_key();
        let others = machine.kept().into_iter().filter(|(owner, _)| *owner != me);
        let kept: usize = others.filter_map(|(_, root)| machine.store.get(&root)).map(|bytes| bytes.len()).sum();
        if kept as u64 <= self.room {
            return Ok(());
        }
        Err(Violation::new(NAME, format!("node {node} keeps {kept} bytes for others and lends {}", self.room)))
    }

    /// All that the ledger counts, and all that lies on disks.
    pub(super) fn check(&self, world: &World) -> Result<(), Violation> {
        if world.scenario.storage.is_none() {
            return Ok(());
        }
        let view = &world.view;
        for node in view.nodes.values() {
            let held = view.objects.values().filter(|object| live(view, object).contains(&node.id));
            let (held, used): (u64, u64) = (held.map(|object| object.bytes).sum(), node.storage_used);
            if held != used {
                let what = format!("node {} holds objects of {held} bytes, and {used} are counted", node.id);
                return Err(Violation::new(NAME, what));
            }
        }
        world.machines.iter().enumerate().try_for_each(|(index, machine)| self.check_disk(index, machine))
    }

    /// How many nodes took the place of another.
    pub(in crate::sim) fn repaired(&self, view: &View) -> u32 {
        let more = |(id, held): (&ObjectId, &BTreeSet<NodeKey>)| {
            let copies = view.objects.get(id).map_or(0, |object| object.copies);
            u32::try_from(held.len()).unwrap_or(u32::MAX).saturating_sub(copies)
        };
        self.held.iter().map(more).sum()
    }
}

fn live(view: &View, object: &Object) -> BTreeSet<NodeKey> {
    object.live(|node| view.nodes.get(node)).collect()
}

/// At the end each object has its copies.
pub(super) fn check_copies(world: &World) -> Result<(), Violation> {
    let Some(wish) = &world.scenario.storage else { return Ok(()) };
    (0..wish.objects).try_for_each(|number| check_object(world, wish, number))
}

fn check_object(world: &World, wish: &Wish, number: u32) -> Result<(), Violation> {
    let Some(object) = world.view.objects.get(&id(world, wish, number)) else {
        let answer = world.answer(order(number));
        return Err(Violation::new(NAME, format!("object {number} never reached the ledger: {answer}")));
    };
    let holders = live(&world.view, object);
    let whole = holders.iter().filter_map(|holder| world.index_of_key(holder)).filter(|index| {
        let machine = &world.machines[*index];
        machine.node.is_some()
            && machine.kept().contains(&(object.owner, object.root))
            && machine.store.is_durable(&object.root)
    });
    let (counted, whole, copies) = (holders.len(), whole.count(), wish.copies as usize);
    if counted == copies && whole == copies {
        return Ok(());
    }
    let what = format!(
        "object {number} shall have {copies} copies: {counted} are counted, and {whole} lie on nodes that are up"
    );
    Err(Violation::new(NAME, what))
}
