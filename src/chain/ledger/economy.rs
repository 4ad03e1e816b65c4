//! The numbers of stake, offences, reputation and fees.
//!
//! A genesis may do without them: its ledger then has no stake and no fees, knows none of their messages, and its state
//! is what it was before they existed. Here are numbers and their ranges alone; the rules lie in `stake`, `offences`,
//! `reputation` and `fees`.

use serde::{Deserialize, Serialize};

use super::{genesis::GenesisError, nodes::FULL};
use crate::chain::records::OffenceKind;

/// Everything there is, in millionths.
pub(super) const MILLIONTHS: u32 = 1_000_000;
/// The most unbondings of a node at a time that a genesis may allow: so many are looked through at each slash.
pub(super) const MAX_UNBONDINGS: u32 = 1_000;

/// What a ledger with an economy runs by. They stand in the genesis beside its parameters; [`super::Rules`]
/// says how they change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Economy {
    /// Milliseconds of block time from an `Unbond` until its money is in the balance again. So long an offence can still
    /// be punished. The default, 21 days, is that of most chains with stake.
    pub unbonding_millis: u64,
    /// The most unbondings that one node waits for; another is refused until one is released. 7, as most chains have.
    pub max_unbondings: u32,
    /// Bonded stake without which a node gets no lease, in the smallest unit.
    pub min_stake: u64,
    /// Millionths of a node's stake that two receipts with different results for one assignment cost. The default of
    /// this and the next is what most chains take for two signed blocks of one height: 5%.
    pub slash_two_receipts: u32,
    /// Millionths that two signed roots for one set of updates cost.
    pub slash_two_roots: u32,
    /// Millionths that a receipt costs which contradicts what the ledger has committed.
    pub slash_forged_receipt: u32,
    /// Millionths that a verdict of the validators costs.
    pub slash_verdict: u32,
    /// Millionths of what is slashed that go to who reported it. With the creator's share at most one half: who reports
    /// itself through another account, in a job of its own, loses the other half all the same.
    pub reporter_share: u32,
    /// Millionths of what is slashed that go to the job's creator. 0 by default: a creator who earns from a slash has a
    /// reason to write scripts that provoke one. The rest is burned.
    pub creator_share: u32,
    /// Basis points of its reputation that an offence costs a node.
    pub offence_penalty: u32,
    /// Milliseconds of live time in which a node's past loses half of its weight for its reputation. 0: nothing is ever
    /// forgotten, and reputation is the uptime of the whole life.
    pub reputation_half_life_millis: u64,
    /// Whether a round's rewards are divided by work × reputation. Otherwise they are divided by work, and what a
    /// reputation below the full one takes away stays in the job's escrow.
    pub shares_by_reputation: bool,
    /// What a transaction costs its creator, in the smallest unit. It is burned.
    pub transaction_fee: u64,
    /// Transactions of a registered node's work that cost nothing, in each minute of live time. Ten a second are far
    /// more than a node with a thousand tasks sends. A guess.
    pub free_per_minute: u32,
}

impl Default for Economy {
    fn default() -> Self {
        Self {
            unbonding_millis: 21 * 24 * 3600 * 1000,
            max_unbondings: 7,
            min_stake: 0,
            slash_two_receipts: 50_000,
            slash_two_roots: 50_000,
            slash_forged_receipt: 50_000,
            slash_verdict: 50_000,
            reporter_share: 100_000,
            creator_share: 0,
            offence_penalty: 5_000,
            reputation_half_life_millis: 0,
            shares_by_reputation: false,
            transaction_fee: 0,
            free_per_minute: 600,
        }
    }
}

impl Economy {
    /// Millionths of a stake that an offence of this kind costs.
    pub(super) fn slash(&self, kind: OffenceKind) -> u32 {
        match kind {
            OffenceKind::TwoReceipts => self.slash_two_receipts,
            OffenceKind::TwoRoots => self.slash_two_roots,
            OffenceKind::ForgedReceipt => self.slash_forged_receipt,
            OffenceKind::Verdict => self.slash_verdict,
        }
    }

    pub(super) fn check(&self) -> Result<(), GenesisError> {
        let never_zero = [
            (self.unbonding_millis, "economy.unbonding_millis"),
            (u64::from(self.max_unbondings), "economy.max_unbondings"),
        ];
        if let Some((_, name)) = never_zero.into_iter().find(|(value, _)| *value == 0) {
            return Err(GenesisError::Zero(name));
        }
        let shares = self.reporter_share.saturating_add(self.creator_share);
        let at_most = [
            (self.max_unbondings, MAX_UNBONDINGS, "economy.max_unbondings"),
            (self.slash_two_receipts, MILLIONTHS, "economy.slash_two_receipts"),
            (self.slash_two_roots, MILLIONTHS, "economy.slash_two_roots"),
            (self.slash_forged_receipt, MILLIONTHS, "economy.slash_forged_receipt"),
            (self.slash_verdict, MILLIONTHS, "economy.slash_verdict"),
            (shares, MILLIONTHS / 2, "economy.reporter_share and economy.creator_share together"),
            (self.offence_penalty, FULL, "economy.offence_penalty"),
        ];
        let wrong = at_most.into_iter().find(|(value, most, _)| value > most);
        wrong.map_or(Ok(()), |(value, most, name)| Err(GenesisError::TooLarge { name, value, most }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Genesis, Ledger,
        testing::{World, economy, genesis, id, with_economy},
    };
    use super::*;
    use crate::{
        chain::wire::{Code, Message},
        codec,
    };

    fn refused(economy: Economy) -> GenesisError {
        Ledger::new(Genesis { economy: Some(economy), ..genesis() }).unwrap_err()
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_by_their_names() {
        let default = Economy::default();
        assert_eq!(refused(Economy { unbonding_millis: 0, ..default }), GenesisError::Zero("economy.unbonding_millis"));
        let too_large = [
            (Economy { max_unbondings: 1_001, ..default }, "max_unbondings"),
            (Economy { slash_two_roots: 1_000_001, ..default }, "slash_two_roots"),
            (Economy { reporter_share: 500_001, ..default }, "reporter_share"),
            (Economy { reporter_share: 250_000, creator_share: 250_001, ..default }, "creator_share"),
            (Economy { reporter_share: 1, creator_share: u32::MAX, ..default }, "creator_share"),
            (Economy { offence_penalty: 10_001, ..default }, "offence_penalty"),
        ];
        for (economy, name) in too_large {
            assert!(refused(economy).to_string().contains(name), "{economy:?}");
        }
        Ledger::new(with_economy(default)).unwrap();
    }

    #[test]
    fn a_genesis_without_an_economy_is_written_as_it_always_was() {
        let plain = codec::encode(&genesis());
        assert!(!plain.windows(7).any(|window| window == b"economy"));
        assert!(!serde_json::to_string(&genesis()).unwrap().contains("economy"));
        let read: Genesis = codec::decode(&plain, 10_000).unwrap();
        assert_eq!((read.economy, read.parameters), (None, genesis().parameters));
        let with: Genesis = codec::decode(&codec::encode(&with_economy(economy())), 10_000).unwrap();
        assert_eq!(with, with_economy(economy()));
        let unknown = serde_json::to_string(&with).unwrap().replace("\"min_stake\"", "\"tax\"");
        assert!(serde_json::from_str::<Genesis>(&unknown).unwrap_err().to_string().contains("unknown field `tax`"));
    }

    /// A program from before the economy could not decode its messages; a ledger without one takes them for as little.
    #[test]
    fn a_ledger_without_an_economy_refuses_its_messages_as_unknown_and_their_nonces_stay() {
        let mut world = World::of_nodes(1);
        let nonce = world.account(1).nonce;
        let app_hash = Ledger::new(genesis()).unwrap().app_hash();
        for message in
            [Message::Bond { amount: 1 }, Message::Unbond { amount: 1 }, Message::Send { to: id(2), amount: 1 }]
        {
            let transaction = world.sign(1, message);
            assert_eq!(world.ledger.check(&transaction).code, Code::Malformed as u32);
            let result = world.block(1, &[transaction]).results.remove(0);
            assert!(result.code == Code::Malformed as u32 && result.log.contains("no economy"), "{}", result.log);
        }
        assert_eq!(world.account(1).nonce, nonce);
        assert_ne!(Ledger::new(with_economy(Economy::default())).unwrap().app_hash(), app_hash);
    }
}
