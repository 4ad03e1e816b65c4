//! What the first node has others keep: its content, the order to keep it, and who keeps it.

use super::{
    chance::Chance,
    content,
    machine::Machine,
    scenario::{Scenario, Storage},
    world::World,
};
use crate::{
    api::{Command, StorageKeep},
    chain::records::ObjectId,
    node::coordinator::Input,
};

/// The first order to keep something has this command id; the job's submission has a smaller one.
const FIRST_ORDER: u64 = 1_000;
/// Content is asked for so long: longer than any world lasts.
const KEEP_SECONDS: u64 = 30 * 24 * 3600;

/// The content of an object.
fn bytes(scenario: &Scenario, storage: &Storage, number: u32) -> Vec<u8> {
    let mut chance = Chance::new(scenario.seed, &format!("object {number}"));
    let words = (0..storage.object_bytes.div_ceil(8)).flat_map(|_| chance.bits().to_be_bytes());
    words.take(storage.object_bytes).collect()
}

/// Puts it where it is owned.
pub(super) fn store(scenario: &Scenario, machine: &Machine) {
    if let Some(storage) = &scenario.storage {
        for number in 0..storage.objects {
            machine.store.import(&bytes(scenario, storage, number));
        }
    }
}

/// The command that asks for copies of an object.
pub(super) fn order(number: u32) -> u64 {
    FIRST_ORDER + u64::from(number)
}

/// The name of an object.
pub(super) fn id(world: &World, storage: &Storage, number: u32) -> ObjectId {
    let root = content::name(&bytes(&world.scenario, storage, number));
    ObjectId::of(world.machines[0].keypair.node_key(), &root)
}

impl World {
    /// The owner asks for copies of all.
    pub(super) fn ask_to_keep(&mut self) {
        let Some(storage) = self.scenario.storage else { return };
        for number in 0..storage.objects {
            let cid = content::name(&bytes(&self.scenario, &storage, number));
            let command = Command::StorageKeep(StorageKeep { cid, copies: storage.copies, seconds: KEEP_SECONDS });
            let input = Input::Command { id: order(number), command };
            self.with_node(0, |node, now, out| node.input(input, now, out));
        }
    }

    /// The machine of an object's first live holder.
    pub(super) fn keeper(&self, number: u32) -> Option<usize> {
        let storage = self.scenario.storage.as_ref()?;
        let object = self.view.objects.get(&id(self, storage, number))?;
        let first = object.live(|node| self.view.nodes.get(node)).next()?;
        self.index_of_key(&first)
    }
}
