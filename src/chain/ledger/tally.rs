//! How much of the validators' power stands behind something.
//!
//! Each validator counts once, by the power in the record of validators; a stranger counts nothing. More than two thirds
//! are needed, as for a block: fewer could not have made one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    refusal::{Refusal, check_range, ensure},
    state::State,
    transaction::Context,
};
use crate::types::{NodeKey, Signed, SignedObject};

/// Opens votes that validators signed, of which there may be as many as validators. Answers the powers beside them.
pub(super) fn open_votes<T: SignedObject>(
    state: &State,
    context: &Context,
    votes: &[Signed],
) -> Result<(BTreeMap<NodeKey, u64>, Vec<T>), Refusal> {
    let powers = state.validators().map(|validators| validators.powers.clone()).unwrap_or_default();
    check_range("votes", votes.len(), 1, powers.len())?;
    let open = |vote: &Signed| vote.open_within(context.vouched).map_err(|error| Refusal::unopened("vote", &error));
    let votes = votes.iter().map(open).collect::<Result<_, _>>()?;
    Ok((powers, votes))
}

/// A count of votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    given: u128,
    all: u128,
}

impl Tally {
    /// The count of these voters.
    pub(super) fn of<'a>(powers: &BTreeMap<NodeKey, u64>, voters: impl IntoIterator<Item = &'a NodeKey>) -> Self {
        let voters: BTreeSet<&NodeKey> = voters.into_iter().collect();
        let given = voters.into_iter().filter_map(|voter| powers.get(voter)).map(|power| u128::from(*power)).sum();
        Self { given, all: powers.values().map(|power| u128::from(*power)).sum() }
    }

    /// More than two thirds.
    pub(super) fn is_enough(self) -> bool {
        3 * self.given > 2 * self.all
    }

    /// Refuses two thirds or less.
    pub(super) fn demand(self) -> Result<(), Refusal> {
        ensure(self.is_enough(), || {
            Refusal::unauthorized(format!("the votes have a power of {self}; more than two thirds are needed"))
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.given, self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_two_thirds_are_too_few_and_nobody_counts_twice() {
        let [a, b, c, stranger] = [1, 2, 3, 9].map(|number| NodeKey([number; 32]));
        let powers = BTreeMap::from([(a, 1), (b, 1), (c, 1)]);
        let enough = |voters: &[NodeKey]| Tally::of(&powers, voters).is_enough();
        assert!(!enough(&[]) && !enough(&[a, b]) && !enough(&[a, a, b]) && !enough(&[a, b, stranger]));
        assert!(enough(&[a, b, c]));
        assert_eq!(Tally::of(&powers, &[a, a, stranger]).to_string(), "1 of 3");
        // Powers add up beyond 64 bits, and nobody has none of nothing.
        let huge = BTreeMap::from([(a, u64::MAX), (b, u64::MAX), (c, u64::MAX)]);
        assert!(!Tally::of(&huge, &[a, b]).is_enough() && Tally::of(&huge, &[a, b, c]).is_enough());
        assert!(!Tally::of(&BTreeMap::new(), &[a]).is_enough());
    }
}
