//! Verdicts: what an audit found and the ledger can't check itself, on the word of more than two thirds of the validators.
//!
//! The ledger never looks at an audit's evidence. It counts signatures, by the powers with which the chain began, and
//! punishes as it does for evidence that it can check. Whoever makes the blocks can do no less anyway: more than two
//! thirds of the power decide what every block holds.

use super::{
    offences,
    refusal::{Refusal, ensure},
    state::State,
    tally::{self, Tally},
    transaction::Context,
};
use crate::{
    chain::records::OffenceKind,
    codec,
    types::{Digest, JobId, NodeKey, Round, Signed, TaskId, VerdictVote},
};

/// What the votes are about.
type Finding = (NodeKey, JobId, Round, Digest);

/// Takes a verdict, and punishes what it found. Answers what was slashed.
pub(super) fn find(state: &mut State, context: &Context, votes: &[Signed]) -> Result<Vec<u8>, Refusal> {
    let (powers, votes) = tally::open_votes::<VerdictVote>(state, context, votes)?;
    let (node, job, round, evidence) = finding(&votes[0]);
    ensure(votes.iter().all(|vote| finding(vote) == finding(&votes[0])), || {
        Refusal::invalid("the votes are on different findings; each verdict has one")
    })?;
    Tally::of(&powers, votes.iter().map(|vote| &vote.validator)).demand()?;
    let id = offences::named(state, OffenceKind::Verdict, node, TaskId { job, slot: 0 }, round)?;
    let slashed = offences::punish(state, &id, None, evidence)?;
    Ok(codec::encode(&slashed))
}

fn finding(vote: &VerdictVote) -> Finding {
    (vote.node, vote.job, vote.round, vote.evidence)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{
        Key, Ledger,
        testing::{FAUCET, World, digest, economy, genesis, id, person, register_message, spec, with_economy},
    };
    use super::*;
    use crate::{
        chain::{
            records::Validators,
            wire::{Code, Message, query},
        },
        types::Quorum,
    };

    /// A chain of four validators, persons 101 to 104, with the powers 1, 2, 3 and 3, and three nodes; the second has a
    /// stake and holds a task of the first one's job.
    fn chain() -> (World, JobId) {
        let powers = BTreeMap::from([(id(101), 1), (id(102), 2), (id(103), 3), (id(104), 3)]);
        let genesis = with_economy(economy());
        let now = genesis.time;
        let mut world = World { ledger: Ledger::with_validators(genesis, powers).unwrap(), now };
        (1..=3).for_each(|number| world.ok(number, register_message()));
        let job = world.submit(1, spec(1, Quorum::All), 1);
        world.ok(2, Message::Bond { amount: 1_000 });
        world.lease(2, job, 0);
        (world, job)
    }

    fn vote(job: JobId, validator: u8) -> VerdictVote {
        VerdictVote { node: id(2), job, round: 0, evidence: digest("audit"), validator: id(validator) }
    }

    fn verdict(job: JobId, validators: &[u8]) -> Message {
        let votes = validators.iter().map(|number| person(*number).seal(&vote(job, *number))).collect();
        Message::Verdict { votes }
    }

    #[test]
    fn more_than_two_thirds_of_the_power_find_a_node_guilty_once() {
        let (mut world, job) = chain();
        let creator = world.account(1).balance;
        for too_few in [&[103, 104][..], &[101, 102, 103], &[103, 103, 103, 103], &[103, 104, 7]] {
            let words = world.refused(3, Code::Unauthorized, verdict(job, too_few));
            assert!(words.contains("of 9; more than two thirds"), "{words}");
        }
        let result = world.send(3, verdict(job, &[102, 103, 104]));
        assert_eq!(codec::decode::<u64>(&result.data, 9).unwrap(), 500, "{}", result.log);
        let offence = world.offences().remove(0);
        assert_eq!(
            (offence.id.kind, offence.reporter, offence.evidence),
            (OffenceKind::Verdict, None, digest("audit"))
        );
        assert_eq!((offence.to_reporter, offence.to_creator, offence.burned), (0, 150, 350));
        assert_eq!((world.account(3).balance, world.account(1).balance), (FAUCET, creator + 150));
        assert_eq!((world.stake(2).bonded, world.node(2).reputation), (500, 5_000));
        world.refused(3, Code::Conflict, verdict(job, &[101, 102, 103, 104]));
    }

    #[test]
    fn votes_must_be_of_validators_on_one_finding_and_about_what_exists() {
        let (mut world, job) = chain();
        world.refused(3, Code::Invalid, Message::Verdict { votes: vec![] });
        world.refused(3, Code::Invalid, verdict(job, &[101, 102, 103, 104, 104]));
        let mixed = |change: fn(&mut VerdictVote)| {
            let mut other = vote(job, 104);
            change(&mut other);
            let votes = [102, 103].map(|number| person(number).seal(&vote(job, number)));
            Message::Verdict { votes: votes.into_iter().chain([person(104).seal(&other)]).collect() }
        };
        let changes: [fn(&mut VerdictVote); 4] = [
            |vote| vote.node = id(3),
            |vote| vote.job = JobId([0; 32]),
            |vote| vote.round = 1,
            |vote| vote.evidence = digest("another"),
        ];
        for change in changes {
            assert!(world.refused(3, Code::Invalid, mixed(change)).contains("different findings"));
        }
        world.refused(3, Code::Signature, mixed(|vote| vote.validator = id(103)));
        world.refused(3, Code::NotFound, verdict(JobId([7; 32]), &[102, 103, 104]));
        assert_eq!(world.stake(2).bonded, 1_000);
    }

    #[test]
    fn the_validators_are_a_record_of_a_ledger_with_an_economy_alone() {
        let (world, _) = chain();
        let validators: Validators = world.query(query::GET_VALIDATORS, &());
        assert_eq!(validators.powers.values().collect::<Vec<_>>().len(), 4);
        assert!(world.ledger.prove(&Key::Validators).verify(world.ledger.app_hash(), &Key::Validators));
        let powers = BTreeMap::from([(id(101), 1)]);
        let plain = Ledger::with_validators(genesis(), powers).unwrap();
        assert_eq!(plain.app_hash(), Ledger::new(genesis()).unwrap().app_hash());
        // Of a ledger that one process carries, that one is enough.
        let mut alone = World::of_nodes_with(2, economy());
        let job = alone.submit(1, spec(1, Quorum::All), 1);
        alone.ok(1, verdict(job, &[250]));
    }
}
