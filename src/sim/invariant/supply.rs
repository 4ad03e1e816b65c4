//! No money is made or lost on the ledger, whoever bonds, pays, is paid or is punished: what all records hold is the supply, and
//! the supply is what the faucet gave less what was burned.

use super::{super::world::World, Violation};

const NAME: &str = "supply";

/// Money by where the ledger's records have it, in the smallest unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::sim) struct Money {
    pub(in crate::sim) balances: u64,
    pub(in crate::sim) escrow: u64,
    pub(in crate::sim) waiting: u64,
    pub(in crate::sim) stakes: u64,
    /// What the ledger says that all of them are.
    pub(in crate::sim) supply: u64,
    /// Nobody's any more.
    pub(in crate::sim) burned: u64,
}

/// Every record, on a ledger with an economy. (Where there is none, `escrow` sees all that moves.)
pub(super) fn check(world: &World) -> Result<(), Violation> {
    if world.scenario.ledger.economy.is_none() {
        return Ok(());
    }
    let money = world.money();
    let Money { balances, escrow, waiting, stakes, supply, burned } = money;
    let given = world.view.nodes.len() as u64 * world.scenario.ledger.faucet;
    if balances + escrow + waiting + stakes == supply && supply + burned == given {
        return Ok(());
    }
    Err(Violation::new(NAME, format!("the faucet gave {given}, and there is {money:?}")))
}
