//! What a person wants to know of the numbers that a ledger runs by, asked of that ledger.
//!
//! An edge, as `account` is: each question is for one record, and nothing is remembered.

use super::{account::record, ledgers::Ledgers};
use crate::{
    api::{Error, ErrorCode, LedgerParameters, OpenProposal, Reply},
    chain::{
        Key,
        ledger::{Genesis, Rules},
        records::{Proposal, Proposals, Validators},
    },
};

/// The numbers in force and the proposals that are open.
pub(super) async fn parameters(ledgers: &Ledgers, ledger: &str) -> Result<Reply, Error> {
    let [rules, genesis, proposals, validators] = [Key::Rules, Key::Genesis, Key::Proposals, Key::Validators];
    let (rules, genesis, proposals, validators) = tokio::try_join!(
        record::<Rules>(ledgers, ledger, &rules),
        record::<Genesis>(ledgers, ledger, &genesis),
        record::<Proposals>(ledgers, ledger, &proposals),
        record::<Validators>(ledgers, ledger, &validators),
    )?;
    let version = rules.as_ref().map_or(1, |rules| rules.version);
    let in_force = Rules::in_force(rules, genesis.as_ref()).ok_or_else(|| {
        let words = format!("ledger `{ledger}` has no economy: its numbers stand in its genesis for good");
        Error::new(ErrorCode::Conflict, words)
            .with_hint("a chain of `ledger init --economy FILE` has validators who vote")
    })?;
    let validators = validators.unwrap_or_default();
    let values = in_force.values().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let open = proposals.unwrap_or_default().open;
    Ok(Reply::Parameters(Box::new(LedgerParameters {
        ledger: ledger.to_owned(),
        version,
        since: in_force.since,
        values,
        proposals: open.into_iter().map(|proposal| shown(proposal, &validators)).collect(),
        validators: validators.powers,
    })))
}

fn shown(proposal: Proposal, validators: &Validators) -> OpenProposal {
    let powers = proposal.voters.iter().filter_map(|voter| validators.powers.get(voter));
    let power = powers.fold(0, |sum: u64, power| sum.saturating_add(*power));
    OpenProposal {
        id: proposal.id,
        values: proposal.change.values,
        from_height: proposal.change.from_height,
        opened_height: proposal.opened_height,
        voters: proposal.voters.into_iter().collect(),
        power,
        accepted_height: proposal.accepted_height,
    }
}
