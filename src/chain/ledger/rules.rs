//! The numbers that a ledger runs by: which of them its validators may change, in which range, and the record of those
//! in force.
//!
//! They stand in the genesis. The first change that takes effect puts all of them into a record of their own, and with it
//! the state is of version 2; until then it is of version 1 and what it was before there were changes, to the byte. Here
//! are names, ranges and that step alone; `governance` counts votes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Economy, Genesis, Parameters,
    economy::{MAX_UNBONDINGS, MILLIONTHS},
    nodes::FULL,
    refusal::{Refusal, check_range},
    state::State,
};

/// The version of a state whose numbers were changed. One without [`Rules`] is of version 1.
pub(super) const STATE_VERSION: u32 = 2;

const DAY: u64 = 24 * 3600 * 1000;

/// The numbers in force, since validators changed one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The version of the ledger's state.
    pub version: u32,
    /// The first block that ran by them.
    pub since: u64,
    /// In place of those of the genesis.
    pub parameters: Parameters,
    /// In place of that of the genesis.
    pub economy: Economy,
}

impl Rules {
    /// Those of a genesis, in force from the first block on; `None` if it has no economy, and so nobody who could vote.
    pub fn of(genesis: &Genesis) -> Option<Self> {
        let economy = genesis.economy?;
        Some(Self { version: STATE_VERSION, since: 1, parameters: genesis.parameters, economy })
    }

    /// Those in force: the `changed` ones, or those of the genesis.
    pub fn in_force(changed: Option<Self>, genesis: Option<&Genesis>) -> Option<Self> {
        changed.or_else(|| Self::of(genesis?))
    }

    /// The numbers that validators may change, by name.
    pub fn values(&self) -> BTreeMap<&'static str, u64> {
        NUMBERS.iter().map(|number| (number.name, (number.get)(self))).collect()
    }

    /// The same with other values, in force from a block on.
    pub(super) fn with(mut self, values: &BTreeMap<String, u64>, since: u64) -> Result<Self, Refusal> {
        for (name, value) in values {
            let number = NUMBERS.iter().find(|number| number.name == name).ok_or_else(|| unchangeable(name))?;
            check_range(number.name, *value, number.least, number.most)?;
            (number.set)(&mut self, *value);
        }
        let sound = self.parameters.check().and_then(|()| self.economy.check());
        sound.map_err(|error| Refusal::invalid(error.to_string()))?;
        Ok(Self { since, ..self })
    }
}

/// What is in force; a refusal if nothing can change.
pub(super) fn in_force(state: &State) -> Result<Rules, Refusal> {
    Rules::in_force(state.rules().copied(), Some(state.genesis())).ok_or_else(|| {
        Refusal::conflict("this ledger has no economy: its numbers stand in its genesis for good, and nobody votes")
    })
}

fn unchangeable(name: &str) -> Refusal {
    let name: String = name.chars().take(80).collect();
    match FIXED.iter().find(|(fixed, _)| *fixed == name) {
        Some((_, why)) => Refusal::invalid(format!("`{name}` stands in the genesis for good: {why}")),
        None => Refusal::invalid(format!("`{name}` is no parameter of this ledger")),
    }
}

/// What no vote changes, and why.
const FIXED: &[(&str, &str)] = &[
    ("audit_window_blocks", "rewards that wait are found by it"),
    ("economy.reputation_half_life_millis", "what it made of each node's past can't be worked out again"),
];

/// A number that validators may change.
struct Number {
    name: &'static str,
    least: u64,
    most: u64,
    get: fn(&Rules) -> u64,
    set: fn(&mut Rules, u64),
}

/// A type that a number has in its record. The range of each fits its type.
trait Kind: Copy {
    fn read(self) -> u64;
    fn made(value: u64) -> Self;
}

impl Kind for u64 {
    fn read(self) -> u64 {
        self
    }

    fn made(value: u64) -> Self {
        value
    }
}

impl Kind for u32 {
    fn read(self) -> u64 {
        u64::from(self)
    }

    fn made(value: u64) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }
}

impl Kind for bool {
    fn read(self) -> u64 {
        u64::from(self)
    }

    fn made(value: u64) -> Self {
        value != 0
    }
}

macro_rules! numbers {
    ($($name:literal in $least:expr, $most:expr => $part:ident.$field:ident;)+) => {
        const NUMBERS: &[Number] = &[$(Number {
            name: $name,
            least: $least,
            most: $most,
            get: |rules| Kind::read(rules.$part.$field),
            set: |rules, value| rules.$part.$field = Kind::made(value),
        },)+];
    };
}

// The ranges keep a ledger from a number with which it could not go on, or be voted back: they are wide, and guesses.
numbers! {
    "faucet_per_account" in 0, u64::MAX => parameters.faucet_per_account;
    "offline_after_millis" in 1_000, DAY => parameters.offline_after_millis;
    "beat_skew_millis" in 1_000, DAY => parameters.beat_skew_millis;
    "live_step_max_millis" in 1, DAY => parameters.live_step_max_millis;
    "lease_millis" in 1_000, 30 * DAY => parameters.lease_millis;
    "delegate_millis" in 1_000, DAY => parameters.delegate_millis;
    "base_reward" in 0, u64::MAX => parameters.base_reward;
    "task_failures" in 1, 1_000 => parameters.task_failures;
    "failure_pause_millis" in 0, DAY => parameters.failure_pause_millis;
    // A close of a thousand slots with its votes is as large as a transaction may be.
    "max_slots" in 1, 1_000 => parameters.max_slots;
    "max_rounds" in 1, 100_000_000 => parameters.max_rounds;
    "max_round_limit_millis" in 1_000, 30 * DAY => parameters.max_round_limit_millis;
    "max_deadline_millis" in 1_000, 3_650 * DAY => parameters.max_deadline_millis;
    "max_open_jobs" in 1, 1_000_000 => parameters.max_open_jobs;
    "max_objects" in 0, 1_000_000 => parameters.max_objects;
    "economy.unbonding_millis" in 1, 3_650 * DAY => economy.unbonding_millis;
    "economy.max_unbondings" in 1, MAX_UNBONDINGS as u64 => economy.max_unbondings;
    "economy.min_stake" in 0, u64::MAX => economy.min_stake;
    "economy.slash_two_receipts" in 0, MILLIONTHS as u64 => economy.slash_two_receipts;
    "economy.slash_two_roots" in 0, MILLIONTHS as u64 => economy.slash_two_roots;
    "economy.slash_forged_receipt" in 0, MILLIONTHS as u64 => economy.slash_forged_receipt;
    "economy.slash_verdict" in 0, MILLIONTHS as u64 => economy.slash_verdict;
    "economy.reporter_share" in 0, MILLIONTHS as u64 / 2 => economy.reporter_share;
    "economy.creator_share" in 0, MILLIONTHS as u64 / 2 => economy.creator_share;
    "economy.offence_penalty" in 0, FULL as u64 => economy.offence_penalty;
    "economy.shares_by_reputation" in 0, 1 => economy.shares_by_reputation;
    // With more there might be nobody who can pay for the vote that lowers it.
    "economy.transaction_fee" in 0, 1_000_000_000_000 => economy.transaction_fee;
    "economy.free_per_minute" in 0, 1_000_000 => economy.free_per_minute;
}

#[cfg(test)]
mod tests {
    use super::super::{
        GenesisError,
        testing::{economy, genesis, with_economy},
    };
    use super::*;
    use crate::chain::wire::Code;

    fn rules() -> Rules {
        Rules::of(&with_economy(Economy { shares_by_reputation: true, ..economy() })).unwrap()
    }

    fn changed(values: &[(&str, u64)]) -> Result<Rules, Refusal> {
        let values: BTreeMap<String, u64> = values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        rules().with(&values, 40)
    }

    fn refused(values: &[(&str, u64)]) -> String {
        let refusal = changed(values).unwrap_err();
        assert_eq!(refusal.code, Code::Invalid);
        refusal.text
    }

    /// Each number of parameters and economy, by its name there.
    fn all(rules: &Rules) -> BTreeMap<String, u64> {
        let of = |prefix: &str, value: serde_json::Value| {
            let fields = value.as_object().unwrap().clone();
            let number =
                |value: &serde_json::Value| value.as_u64().unwrap_or_else(|| u64::from(value.as_bool().unwrap()));
            fields.iter().map(|(name, value)| (format!("{prefix}{name}"), number(value))).collect::<Vec<_>>()
        };
        let own = of("", serde_json::to_value(rules.parameters).unwrap());
        // It is left out where it is 0.
        let left_out = [("max_objects".to_owned(), u64::from(rules.parameters.max_objects))];
        own.into_iter().chain(left_out).chain(of("economy.", serde_json::to_value(rules.economy).unwrap())).collect()
    }

    #[test]
    fn each_number_of_a_genesis_can_be_voted_or_is_fixed_and_a_vote_changes_it_alone() {
        let before = all(&rules());
        let fixed: Vec<&str> = FIXED.iter().map(|(name, _)| *name).collect();
        let votable: Vec<&str> = NUMBERS.iter().map(|number| number.name).collect();
        assert_eq!(before.len(), fixed.len() + votable.len());
        assert!(before.keys().all(|name| fixed.contains(&&**name) || votable.contains(&&**name)));
        for number in NUMBERS {
            assert_eq!(rules().values()[number.name], before[number.name]);
            let others = [number.least, number.most.min(u64::from(u32::MAX)), number.least + 1];
            let value = others.into_iter().find(|value| *value != before[number.name]).unwrap();
            let after = changed(&[(number.name, value)]).unwrap();
            assert_eq!((after.since, after.version), (40, STATE_VERSION));
            let mut expected = before.clone();
            expected.insert(number.name.to_owned(), value);
            assert_eq!(all(&after), expected);
        }
    }

    #[test]
    fn what_is_unknown_fixed_or_out_of_its_range_is_refused_by_name() {
        assert!(refused(&[("tax", 1)]).contains("`tax` is no parameter"));
        assert!(refused(&[("economy.base_reward", 1)]).contains("no parameter"));
        assert!(refused(&[("x".repeat(5_000).as_str(), 1)]).len() < 200);
        assert!(refused(&[("audit_window_blocks", 1)]).contains("for good"));
        assert!(refused(&[("offline_after_millis", 0)]).contains("from 1000"));
        assert!(refused(&[("economy.slash_verdict", 1_000_001)]).contains("economy.slash_verdict"));
        assert!(refused(&[("economy.transaction_fee", u64::MAX)]).contains("transaction_fee"));
        for number in NUMBERS {
            for value in [number.least.checked_sub(1), number.most.checked_add(1)].into_iter().flatten() {
                assert!(refused(&[(number.name, value)]).contains(number.name), "{value}");
            }
        }
        // Each is in its range, and both together are not.
        let shares = [("economy.reporter_share", 300_000), ("economy.creator_share", 300_000)];
        assert!(refused(&shares).contains("together"));
        let sound = genesis().parameters.check();
        assert_eq!(sound, Ok::<(), GenesisError>(()));
    }
}
