//! Money is neither made nor lost: what a job put in is in its escrow, paid or returned.

use super::{super::world::World, Violation};
use crate::{
    chain::records::{Changes, Job},
    types::JobStatus,
};

const NAME: &str = "escrow";

/// Looks at every job that changes.
#[derive(Debug, Default)]
pub(in crate::sim) struct Escrow;

impl Escrow {
    pub(in crate::sim) fn on_changes(&mut self, changes: &Changes) -> Result<(), Violation> {
        changes.jobs.iter().try_for_each(check_job)
    }
}

fn check_job(job: &Job) -> Result<(), Violation> {
    let (budget, paid) = (job.spec.budget, job.paid);
    let expected = if job.status == JobStatus::Open { budget.saturating_sub(paid) } else { 0 };
    if paid <= budget && job.escrow == expected {
        return Ok(());
    }
    let what = format!("a job with budget {budget} that is {} paid {paid} and has {} left", job.status, job.escrow);
    Err(Violation::new(NAME, what))
}

/// Every job, whether it changed or not.
pub(super) fn check_jobs(world: &World) -> Result<(), Violation> {
    world.view.jobs.values().try_for_each(check_job)
}

/// At the end (of a ledger without an economy) all money is where the faucet put it, or where it was paid to. Rewards that still wait for their audit
/// window make the sum smaller, and only they.
pub(super) fn check(world: &World) -> Result<(), Violation> {
    if world.scenario.ledger.economy.is_some() {
        return Ok(());
    }
    let nodes = world.view.nodes.len() as u64;
    let balances: u64 = world.view.nodes.keys().map(|node| world.chain.account(node).balance).sum();
    let in_escrow: u64 = world.view.jobs.values().map(|job| job.escrow).sum();
    let paid: u64 = world.view.jobs.values().map(|job| job.paid).sum();
    let rewarded: u64 = world.view.nodes.values().map(|node| node.rewards).sum();
    let supply = nodes * world.scenario.ledger.faucet;
    let waiting = paid.saturating_sub(rewarded);
    if balances + in_escrow + waiting == supply && rewarded <= paid {
        return Ok(());
    }
    let what = format!(
        "{nodes} accounts got {supply}; there are {balances} in accounts, {in_escrow} in escrow and {waiting} waiting"
    );
    Err(Violation::new(NAME, what))
}
