//! Stories of validators who change the numbers of their ledger, and of a ledger from before they could.

use super::super::{
    Key, Ledger, Parameters, Rules,
    entries::Entry,
    testing::{CHAIN, FAUCET, World, check_promises, economy, genesis, id, person, register_message, with_economy},
};
use super::*;
use crate::{
    chain::wire::{Code, Message, query},
    types::Digest,
};

const PARAMETER: &str = "faucet_per_account";

/// A ledger of four validators, persons 101 to 104, with the powers 1, 2, 3 and 3, and two nodes.
fn chain() -> World {
    let powers = BTreeMap::from([(id(101), 1), (id(102), 2), (id(103), 3), (id(104), 3)]);
    let genesis = with_economy(economy());
    let now = genesis.time;
    let mut world = World { ledger: Ledger::with_validators(genesis, powers).unwrap(), now };
    (1..=2).for_each(|number| world.ok(number, register_message()));
    world
}

fn change(world: &World, values: &[(&str, u64)], ahead: u64) -> ParameterChange {
    ParameterChange {
        chain_id: CHAIN.to_owned(),
        values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        from_height: world.ledger.height() + ahead,
    }
}

fn votes(change: &ParameterChange, validators: &[u8]) -> Message {
    let vote = |number: &u8| {
        let vote = ParameterVote { change: change.clone(), validator: id(*number) };
        person(*number).seal(&vote)
    };
    Message::ChangeParameters { votes: validators.iter().map(vote).collect() }
}

/// Sends votes; whether they made the change accepted.
fn voted(world: &mut World, change: &ParameterChange, validators: &[u8]) -> bool {
    let result = world.send(1, votes(change, validators));
    assert_eq!(result.code, 0, "{}", result.log);
    codec::decode(&result.data, 1).unwrap()
}

/// Blocks until this many are made; the kinds of what happened at their ends.
fn until_height(world: &mut World, height: u64) -> Vec<String> {
    let mut kinds = Vec::new();
    while world.ledger.height() < height {
        kinds.extend(world.block(100, &[]).events.into_iter().map(|event| event.kind));
    }
    kinds
}

fn proposals(world: &World) -> Proposals {
    world.query::<Option<Proposals>>(query::GET_RECORD, &Key::Proposals).unwrap_or_default()
}

fn rules(world: &World) -> Option<Rules> {
    world.query(query::GET_RECORD, &Key::Rules)
}

#[test]
fn more_than_two_thirds_change_a_number_from_the_block_that_they_named() {
    let mut world = chain();
    let change = change(&world, &[(PARAMETER, 7), ("economy.transaction_fee", 2)], 5);
    // Two of nine, then five, then eight.
    assert!(!voted(&mut world, &change, &[102]));
    assert!(!voted(&mut world, &change, &[103]));
    let proposal = proposals(&world).open.remove(0);
    assert_eq!((proposal.id, proposal.opened_by, proposal.voters.len()), (change.id(), id(102), 2));
    assert_eq!((proposal.accepted_height, rules(&world)), (None, None));
    assert!(voted(&mut world, &change, &[104]));
    assert_eq!(proposals(&world).open[0].accepted_height, Some(world.ledger.height()));
    // The block before the named one still runs by the old numbers, and ends with the new ones in force.
    let last = change.from_height - 1;
    assert_eq!(until_height(&mut world, last - 1), Vec::<String>::new());
    let newcomer = world.sign(7, register_message());
    let events = world.block(100, &[newcomer]).events;
    assert!(events.iter().any(|event| event.kind == "parameters_changed"), "{events:?}");
    assert_eq!((world.ledger.height(), world.account(7).balance), (last, FAUCET));
    world.ok(8, register_message());
    assert_eq!((world.ledger.height(), world.account(8).balance), (change.from_height, 7));
    world.ok(2, register_message());
    assert_eq!(world.account(2).balance, FAUCET - 2);
    let rules = rules(&world).unwrap();
    assert_eq!((rules.version, rules.since), (2, change.from_height));
    let parameters = Parameters { faucet_per_account: 7, ..genesis().parameters };
    assert_eq!((rules.parameters, rules.economy.transaction_fee), (parameters, 2));
    assert_eq!(world.ledger.genesis().parameters, genesis().parameters, "the genesis is what it was");
    assert!(proposals(&world).open.is_empty());
    let key = Key::Rules;
    assert!(world.ledger.prove(&key).verify(world.ledger.app_hash(), &key));
}

#[test]
fn a_change_with_too_few_votes_lapses_with_its_block_and_may_be_proposed_again_for_a_later_one() {
    let mut world = chain();
    let early = change(&world, &[(PARAMETER, 7)], 4);
    assert!(!voted(&mut world, &early, &[103, 104]), "six of nine are two thirds and not more");
    assert_eq!(until_height(&mut world, early.from_height - 1), ["parameters_lapsed"]);
    assert_eq!((rules(&world), proposals(&world).open.len()), (None, 0));
    let words = world.refused(1, Code::Stale, votes(&early, &[102]));
    assert!(words.contains("propose it for a later one"), "{words}");
    let later = change(&world, &[(PARAMETER, 7)], 4);
    assert!(voted(&mut world, &later, &[102, 103, 104]), "all at once");
    assert_eq!(until_height(&mut world, later.from_height - 1), ["parameters_changed"]);
}

#[test]
fn who_is_no_validator_votes_twice_or_for_something_else_is_refused_and_nothing_is_counted() {
    let mut world = chain();
    let wanted = change(&world, &[(PARAMETER, 7)], 50);
    assert!(world.refused(1, Code::Unauthorized, votes(&wanted, &[1])).contains("no validator"));
    world.refused(1, Code::Unauthorized, votes(&wanted, &[102, 103, 9]));
    assert_eq!(proposals(&world).open.len(), 0);
    assert!(world.refused(1, Code::Conflict, votes(&wanted, &[102, 102])).contains("already"));
    assert!(!voted(&mut world, &wanted, &[102]));
    for again in [&[102][..], &[103, 102]] {
        assert!(world.refused(2, Code::Conflict, votes(&wanted, again)).contains("already"));
    }
    assert_eq!(proposals(&world).open[0].voters.len(), 1, "of a refused transaction no vote counts");

    world.refused(1, Code::Invalid, Message::ChangeParameters { votes: vec![] });
    world.refused(1, Code::Invalid, votes(&wanted, &[101, 102, 103, 104, 104]));
    let other = ParameterChange { from_height: wanted.from_height + 1, ..wanted.clone() };
    let both = [(&wanted, 103), (&other, 104)];
    let mixed = both
        .map(|(change, number)| person(number).seal(&ParameterVote { change: change.clone(), validator: id(number) }));
    let mixed = Message::ChangeParameters { votes: mixed.to_vec() };
    assert!(world.refused(1, Code::Invalid, mixed).contains("different changes"));
    let forged = person(1).seal(&ParameterVote { change: wanted.clone(), validator: id(103) });
    world.refused(1, Code::Signature, Message::ChangeParameters { votes: vec![forged] });
    let elsewhere = ParameterChange { chain_id: "other".to_owned(), ..wanted.clone() };
    assert!(world.refused(1, Code::ChainId, votes(&elsewhere, &[103])).contains("other"));
    assert!(voted(&mut world, &wanted, &[103, 104]));
    assert!(world.refused(1, Code::Conflict, votes(&wanted, &[101])).contains("was accepted"));
}

#[test]
fn a_change_of_what_is_unknown_out_of_range_or_too_far_away_opens_no_proposal() {
    let mut world = chain();
    let mut refused = |values: &[(&str, u64)], ahead: u64, code: Code, words: &str| {
        let change = change(&world, values, ahead);
        let said = world.refused(1, code, votes(&change, &[104]));
        assert!(said.contains(words), "{values:?} in {ahead} blocks: {said}");
    };
    refused(&[("tax", 1)], 9, Code::Invalid, "`tax` is no parameter");
    refused(&[(PARAMETER, 1), ("audit_window_blocks", 1)], 9, Code::Invalid, "for good");
    refused(&[("max_slots", 0)], 9, Code::Invalid, "`max_slots` is 0");
    refused(&[("economy.offence_penalty", 10_001)], 9, Code::Invalid, "from 0 to 10000");
    refused(&[("economy.reporter_share", 500_000)], 9, Code::Invalid, "together");
    refused(&[], 9, Code::Invalid, "length of values");
    refused(&[(PARAMETER, 1)], 1, Code::Stale, "propose it for a later one");
    refused(&[(PARAMETER, 1)], MAX_NOTICE + 2, Code::Invalid, "from_height");
    let endless = ParameterChange { from_height: u64::MAX, ..change(&world, &[(PARAMETER, 1)], 0) };
    world.refused(1, Code::Invalid, votes(&endless, &[104]));
    assert_eq!((proposals(&world).open.len(), rules(&world)), (0, None));
}

#[test]
fn a_validator_has_one_proposal_open_that_it_began_and_votes_for_those_of_others() {
    let mut world = chain();
    let [first, second] = [1, 2].map(|value| change(&world, &[(PARAMETER, value)], 30));
    assert!(!voted(&mut world, &first, &[104]));
    assert!(world.refused(1, Code::Conflict, votes(&second, &[104])).contains("open already"));
    assert!(!voted(&mut world, &second, &[104, 103]), "who has none open begins it");
    let opened: BTreeSet<NodeKey> = proposals(&world).open.iter().map(|proposal| proposal.opened_by).collect();
    assert_eq!(opened, BTreeSet::from([id(103), id(104)]));
    until_height(&mut world, first.from_height);
    let third = change(&world, &[(PARAMETER, 3)], 30);
    assert!(!voted(&mut world, &third, &[104]), "those that lapsed are not open");
}

#[test]
fn changes_of_one_block_are_made_in_turn_and_one_that_is_none_any_more_is_dropped_with_words() {
    let mut world = chain();
    // Both are sound alone: the shares are 200,000 and 300,000, and together at most 500,000.
    let height = world.ledger.height() + 20;
    let mut both = [("economy.reporter_share", 150_000), ("economy.reporter_share", 50_000)].map(|value| {
        let other = ("economy.creator_share", 350_000);
        ParameterChange { from_height: height, ..change(&world, &[value, other], 0) }
    });
    both[1].values = BTreeMap::from([("economy.reporter_share".to_owned(), 200_000)]);
    both.iter().for_each(|change| assert!(voted(&mut world, change, &[102, 103, 104])));
    let kinds = until_height(&mut world, height - 1);
    let first_is_whole = both[0].id() < both[1].id();
    let expected =
        if first_is_whole { ["parameters_changed", "parameters_dropped"] } else { ["parameters_changed"; 2] };
    assert_eq!(kinds, expected);
    let economy = rules(&world).unwrap().economy;
    assert_eq!((economy.reporter_share, economy.creator_share), (150_000, 350_000));
}

#[test]
fn a_shorter_unbonding_time_lets_nobody_overtake_and_a_restored_ledger_does_the_same() {
    let mut world = chain();
    world.ok(1, Message::Bond { amount: 100 });
    world.ok(1, Message::Unbond { amount: 10 });
    let first = world.stake(1).unbonding[0].releases_at;
    let change = change(&world, &[("economy.unbonding_millis", 1_000), ("economy.max_unbondings", 1)], 3);
    assert!(voted(&mut world, &change, &[102, 103, 104]));
    let mut restored = Ledger::restore(&world.ledger.snapshot()).unwrap();
    until_height(&mut world, change.from_height);
    for _ in restored.height()..world.ledger.height() {
        restored.apply_block(restored.time() + std::time::Duration::from_millis(100), &[]);
    }
    assert_eq!((restored.app_hash(), restored.height()), (world.ledger.app_hash(), world.ledger.height()));
    world.ok(1, Message::Unbond { amount: 20 });
    let waiting = world.stake(1).unbonding;
    assert_eq!((waiting.len(), waiting[0].amount, waiting[0].releases_at), (1, 30, first), "it joins those before it");
    world.ok(2, Message::Bond { amount: 5 });
    world.ok(2, Message::Unbond { amount: 5 });
    world.block(1_000, &[]);
    assert_eq!((world.stake(2).unbonding.len(), world.stake(1).unbonding.len()), (0, 1));
}

#[test]
fn without_an_economy_there_is_nobody_to_vote_and_the_message_is_unknown() {
    let mut world = World::of_nodes(1);
    let change = change(&world, &[(PARAMETER, 7)], 9);
    let transaction = world.sign(1, votes(&change, &[250]));
    let result = world.block(1, &[transaction]).results.remove(0);
    assert_eq!(result.code, Code::Malformed as u32, "{}", result.log);
    // The host of an embedded ledger is its one validator.
    let mut alone = World::of_nodes_with(1, economy());
    let change = ParameterChange { from_height: alone.ledger.height() + 3, ..change };
    assert!(voted(&mut alone, &change, &[250]));
    until_height(&mut alone, change.from_height);
    assert_eq!(rules(&alone).unwrap().parameters.faucet_per_account, 7);
}

/// A ledger with an economy and four validators, as the last program wrote it that knew no votes: format 1, version 1.
const VERSION_1: &[u8] = include_bytes!("version-1-economy.snapshot");
/// Its app hash, and what it becomes with its numbers in a record of their own: `protocols/ledger-state.md` has both.
const ROOTS: [&str; 2] = [
    "57927b8b72188e93ebbcda197a91d0b249387b76d856fd5d7c03dbc9097c8733",
    "666f5d06acaf680e04876efd636ad207cd371cf0afd0837a0aad800c5b4ada17",
];

fn records(ledger: &Ledger) -> BTreeMap<Key, Entry> {
    ledger.state.entries().map(|(key, entry)| (key.clone(), entry.clone())).collect()
}

#[test]
fn a_state_of_version_1_is_read_as_it_was_and_of_version_2_it_has_the_same_records_and_its_numbers() {
    let mut ledger = Ledger::restore(VERSION_1).unwrap();
    assert_eq!(ledger.app_hash().to_string(), ROOTS[0], "to read a state is not to change it");
    check_promises(&ledger);
    let before = records(&ledger);
    let own = rules::in_force(&ledger.state).unwrap();
    ledger.state.put_rules(own);
    ledger.commit();
    assert_eq!(ledger.app_hash().to_string(), ROOTS[1]);
    let mut after = records(&ledger);
    let Some(Entry::Rules(rules)) = after.remove(&Key::Rules) else { panic!("it has numbers of its own") };
    assert_eq!(after, before);
    assert_eq!((rules.parameters, Some(rules.economy)), (ledger.genesis().parameters, ledger.genesis().economy));
    assert_eq!(Ledger::restore(&ledger.snapshot()).unwrap().app_hash(), ledger.app_hash());
}

#[test]
fn a_ledger_that_began_before_there_were_votes_changes_its_numbers_by_one() {
    let ledger = Ledger::restore(VERSION_1).unwrap();
    let now = ledger.time();
    let mut world = World { ledger, now };
    let change = change(&world, &[(PARAMETER, 9)], 3);
    assert!(voted(&mut world, &change, &[102, 103, 104]));
    assert_eq!(rules(&world), None, "it is of version 1 until then");
    until_height(&mut world, change.from_height);
    assert_eq!(rules(&world).map(|rules| (rules.version, rules.since)), Some((2, change.from_height)));
    world.ok(9, register_message());
    assert_eq!(world.account(9).balance, 9);
}

/// A snapshot as another program might write it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    format: u32,
    version: u32,
    app_hash: Digest,
    records: Vec<(Key, Entry, u64)>,
}

#[test]
fn a_snapshot_of_a_later_version_or_with_a_version_that_its_records_have_not_is_refused_in_words() {
    let mut world = chain();
    let change = change(&world, &[(PARAMETER, 7)], 2);
    assert!(voted(&mut world, &change, &[102, 103, 104]));
    let whole: Written = codec::decode(&world.ledger.snapshot(), usize::MAX).unwrap();
    assert_eq!((whole.format, whole.version), (2, 2), "the votes' own block was the last before it");
    let refused = |format: u32, version: u32| {
        let records = whole.records.clone();
        let written = Written { format, version, app_hash: whole.app_hash, records };
        Ledger::restore(&codec::encode(&written)).unwrap_err().to_string()
    };
    assert!(refused(3, 2).contains("format 3") && refused(0, 2).contains("format 0"));
    assert!(refused(2, 3).contains("use a newer program"));
    assert!(refused(2, 1).contains("states version 1") && refused(1, 1).contains("states version 1"));
}
