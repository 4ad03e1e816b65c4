//! Bounded queues stay bounded, and are empty once there is nothing left to do.

use super::{super::world::World, Violation};

const NAME: &str = "bounded";
/// More of one kind than this at once is a leak in a world of one job.
const MOST: usize = 4_096;
/// What an idle node may have open: beats on their way and the watch over others.
const IDLE: usize = 32;

pub(super) fn check(world: &mut World) -> Result<(), Violation> {
    at_most(world, MOST)
}

/// Once the job has ended and the world has settled, next to nothing is open.
pub(super) fn check_empty(world: &mut World) -> Result<(), Violation> {
    at_most(world, IDLE)
}

fn at_most(world: &mut World, most: usize) -> Result<(), Violation> {
    for (index, machine) in world.machines.iter_mut().enumerate() {
        let Some(node) = &mut machine.node else { continue };
        if let Some((kind, count)) = node.open().into_iter().find(|(_, count)| *count > most) {
            return Err(Violation::new(NAME, format!("node {index} has {count} open {kind}, the most is {most}")));
        }
    }
    Ok(())
}
