//! Chains whose validators come and go, and what is made up about them.

use std::time::Duration;

use super::{
    block::{Agreed, check_results, check_transactions},
    testing::{CHAIN, Lab, header, set, sign, time_of},
    *,
};
use crate::types::{Digest, Time};

const WEEK: Duration = Duration::from_secs(168 * 3_600);

fn state(beginning: Beginning) -> State {
    State::new(CHAIN.parse().unwrap(), beginning, WEEK)
}

/// Four validators, of which one goes and one comes every ten blocks: after 40 blocks all are others.
fn moving(height: u64) -> Vec<u8> {
    let first = u8::try_from(height / 10).unwrap() + 1;
    (first..first + 4).collect()
}

fn four(_: u64) -> Vec<u8> {
    vec![1, 2, 3, 4]
}

/// Brings what is needed from `lab` until `height` is trusted; the heights that were asked for.
fn walk(state: &mut State, lab: &Lab, height: u64, now: Time) -> Result<Vec<u64>, Refusal> {
    let mut asked = Vec::new();
    loop {
        match state.need(height)? {
            Need::Nothing => return Ok(asked),
            Need::Block(at) => {
                asked.push(at);
                state.take_block(at, lab.block(at), now)?;
            }
            Need::Header(at) => {
                asked.push(at);
                state.take_header(at, lab.block(at).signed_header.header)?;
            }
        }
    }
}

fn hash(lab: &Lab, height: u64) -> Digest {
    super::state::hash_of(&lab.block(height).signed_header.header)
}

#[test]
fn validators_that_all_changed_are_reached_through_blocks_half_way() {
    let lab = Lab::new(120, moving);
    let mut state = state(Beginning::Known { height: 1, hash: hash(&lab, 1) });
    let asked = walk(&mut state, &lab, 120, time_of(121)).unwrap();
    assert_eq!(asked[..3], [1, 120, 60]);
    assert!(asked.len() > 6 && asked.len() < 30, "{asked:?}");
    assert_eq!(state.newest(), Some(120));
    assert_eq!(walk(&mut state, &lab, 120, time_of(121)).unwrap(), Vec::<u64>::new());
}

#[test]
fn equal_validators_are_trusted_in_one_step_and_blocks_below_by_their_links() {
    let lab = Lab::new(50, four);
    let mut state = state(Beginning::FirstSeen);
    assert_eq!(walk(&mut state, &lab, 20, time_of(21)).unwrap(), [20]);
    assert_eq!(walk(&mut state, &lab, 50, time_of(51)).unwrap(), [50]);
    assert_eq!(walk(&mut state, &lab, 47, time_of(51)).unwrap(), [49, 48, 47], "by links");
    assert_eq!(walk(&mut state, &lab, 48, time_of(51)).unwrap(), Vec::<u64>::new());
    let mut other = lab.block(46).signed_header.header;
    other.app_hash = tendermint::AppHash::try_from(vec![0; 32]).unwrap();
    assert_eq!(state.need(46).unwrap(), Need::Header(46));
    let refusal = state.take_header(46, other).unwrap_err();
    assert!(refusal == Refusal::Link { height: 46, next: 47 } && refusal.is_lie());
    assert!(matches!(state.take_header(46, lab.block(45).signed_header.header), Err(Refusal::Height { .. })));
}

#[test]
fn a_header_that_the_validators_did_not_sign_is_refused_and_the_true_one_is_taken_after_it() {
    let lab = Lab::new(12, four);
    let mut state = state(Beginning::FirstSeen);
    walk(&mut state, &lab, 5, time_of(6)).unwrap();
    let (own, strangers) = (set(&[1, 2, 3, 4]), set(&[7, 8, 9]));
    let block = |validators: &tendermint::validator::Set, signers: &[u8], app: Digest| {
        let header = header(10, Some(&lab.block(9)), (validators, validators), app);
        LightBlock {
            signed_header: sign(header, validators, signers),
            validators: validators.clone(),
            next_validators: validators.clone(),
        }
    };
    let lie = Digest::of(b"another state");
    let mut stolen = lab.block(10);
    stolen.signed_header.header.app_hash = tendermint::AppHash::try_from(lie.0.to_vec()).unwrap();
    let mut strange = block(&strangers, &[7, 8, 9], lie);
    strange.next_validators = own.clone();
    let forgeries = [block(&own, &[1, 2], lie), stolen, strange];
    for forgery in forgeries {
        assert_eq!(state.need(10).unwrap(), Need::Block(10));
        let refusal = state.take_block(10, forgery, time_of(11)).unwrap_err();
        assert!(matches!(refusal, Refusal::Forged { height: 10, .. }) && refusal.is_lie(), "{refusal}");
    }
    // Signed by enough of its own validators, of whom the chain knows none: it waits, and the way there shows what it is.
    state.take_block(10, block(&strangers, &[7, 8, 9], lie), time_of(11)).unwrap();
    assert!(state.header(10).is_none());
    let refusal = walk(&mut state, &lab, 10, time_of(11)).unwrap_err();
    assert!(refusal.is_lie(), "{refusal}");
    state.abandon();
    assert_eq!(walk(&mut state, &lab, 10, time_of(11)).unwrap(), [10]);
}

#[test]
fn trust_that_is_older_than_its_period_ends_and_says_what_to_do() {
    let lab = Lab::new(20, four);
    let mut begun = state(Beginning::FirstSeen);
    walk(&mut begun, &lab, 10, time_of(11)).unwrap();
    let late = time_of(11) + WEEK;
    let refusal = walk(&mut begun, &lab, 20, late).unwrap_err();
    assert!(!refusal.is_lie() && refusal == Refusal::Expired { height: 10, hours: 168 }, "{refusal}");
    assert!(refusal.to_string().contains("ledger.trust_height"));
    assert!(matches!(walk(&mut state(Beginning::FirstSeen), &lab, 10, late), Err(Refusal::Expired { .. })));
    let early = Time(time_of(20).0 - 11_000);
    assert_eq!(walk(&mut begun, &lab, 20, early), Err(Refusal::Future { height: 20 }));
}

#[test]
fn a_beginning_that_is_said_or_kept_is_of_this_chain_or_refused() {
    let (lab, other) = (Lab::new(20, four), Lab::new(20, |_| vec![5, 6, 7, 8]));
    let known = Beginning::Known { height: 7, hash: hash(&lab, 7) };
    let refusal = walk(&mut state(known), &other, 10, time_of(11)).unwrap_err();
    assert!(matches!(refusal, Refusal::Hash { height: 7, .. }) && refusal.is_lie(), "{refusal}");
    let mut begun = state(known);
    assert_eq!(walk(&mut begun, &lab, 10, time_of(11)).unwrap(), [7, 10]);
    let anchor = begun.anchor().unwrap().clone();
    assert_eq!((anchor.began_height, anchor.began_hash), (7, hash(&lab, 7)));

    // After a restart it goes on from the newest, and another chain of the same name is refused.
    for beginning in [known, Beginning::FirstSeen] {
        let mut again = state(beginning);
        again.restore(anchor.clone()).unwrap();
        assert_eq!(again.newest(), Some(10));
        assert!(walk(&mut again, &other, 11, time_of(21)).unwrap_err().is_lie());
        again.abandon();
        assert_eq!(walk(&mut again, &lab, 20, time_of(21)).unwrap(), [20]);
    }
    // Another beginning in the settings is the operator's word, and what was kept is not.
    let mut elsewhere = state(Beginning::Known { height: 9, hash: hash(&lab, 9) });
    elsewhere.restore(anchor.clone()).unwrap();
    assert_eq!(elsewhere.newest(), None);
    let mut foreign = State::new("atlas-other".parse().unwrap(), Beginning::FirstSeen, WEEK);
    assert!(matches!(foreign.restore(anchor), Err(Refusal::Chain { .. })));
}

#[test]
fn a_second_block_of_one_height_is_a_fork_only_if_the_validators_signed_it() {
    let lab = Lab::new(10, four);
    let mut state = state(Beginning::FirstSeen);
    walk(&mut state, &lab, 10, time_of(11)).unwrap();
    let own = set(&[1, 2, 3, 4]);
    let another = |signers: &[u8]| {
        let header = header(10, Some(&lab.block(9)), (&own, &own), Digest::of(b"another state"));
        LightBlock { signed_header: sign(header, &own, signers), validators: own.clone(), next_validators: own.clone() }
    };
    assert!(state.is_signed_like(&another(&[1, 2, 3])) && !state.is_signed_like(&another(&[1, 2])));
}

#[test]
fn trusted_headers_are_remembered_up_to_a_limit_and_the_search_below_has_one() {
    let lab = Lab::new(1_205, four);
    let mut state = state(Beginning::FirstSeen);
    walk(&mut state, &lab, 1_205, time_of(1_206)).unwrap();
    assert_eq!(walk(&mut state, &lab, 1_205 - 1_001, time_of(1_206)), Err(Refusal::TooFar { height: 204 }));
    assert_eq!(walk(&mut state, &lab, 1_205 - 1_000, time_of(1_206)).unwrap().len(), 1_000);
}

#[test]
fn a_block_between_two_that_are_trusted_is_reached_from_the_lower_one() {
    let lab = Lab::new(1_200, |height| moving(height % 130));
    let steady = Lab::new(1_200, four);
    for (lab, steps) in [(steady, 1..2), (lab, 2..20)] {
        let mut state = state(Beginning::FirstSeen);
        walk(&mut state, &lab, 5, time_of(6)).unwrap();
        walk(&mut state, &lab, 1_200, time_of(1_201)).unwrap();
        let asked = walk(&mut state, &lab, 125, time_of(1_201)).unwrap();
        assert!(steps.contains(&asked.len()), "{asked:?}");
        assert_eq!(state.newest(), Some(1_200), "the newest stays what it was");
    }
}

#[test]
fn transactions_and_results_are_those_of_their_headers_or_refused() {
    let lab = Lab::new(2, four);
    let (own, next) = (lab.block(1).signed_header.header, lab.block(2).signed_header.header);
    assert_eq!(check_transactions(&own, &[b"transaction".to_vec()]), Ok(()));
    for made_up in [vec![], vec![b"another".to_vec()], vec![b"transaction".to_vec(); 2]] {
        assert_eq!(check_transactions(&own, &made_up), Err(block::Mismatch::Transactions { height: 1 }));
    }
    assert_eq!(check_results(&next, &[Agreed::default()]), Ok(()));
    for made_up in [Agreed { code: 7, ..Agreed::default() }, Agreed { data: vec![1], ..Agreed::default() }] {
        assert_eq!(check_results(&next, &[made_up]), Err(block::Mismatch::Results { height: 1 }));
    }
}

mod replica {
    //! A ledger whose updates come through somebody who lies.

    use super::super::{Replica, Taken, replica::Refusal};
    use crate::{
        chain::{
            ledger::{Genesis, Ledger, Parameters},
            records::{Update, Updates},
            wire::{Message, Transaction, query},
        },
        codec,
        identity::Keypair,
        types::{Digest, Resources, Time},
    };

    fn me() -> Keypair {
        Keypair::from_secret(&[1; 32])
    }

    fn ledger() -> Ledger {
        let genesis = Genesis {
            chain_id: "atlas-lab".to_owned(),
            parameters: Parameters::default(),
            accounts: [(me().node_key(), 500)].into(),
            time: Time(1_000),
            validator: me().node_key(),
            economy: None,
        };
        Ledger::new(genesis).unwrap()
    }

    fn register(ledger: &mut Ledger, secret: u8) {
        let key = Keypair::from_secret(&[secret; 32]);
        let message = Message::RegisterNode {
            node_id: format!("node-{secret}"),
            address: None,
            resources: Resources { cpu_millicores: 1_000, ..Resources::default() },
            listen: Vec::new(),
            attributes: std::collections::BTreeMap::new(),
        };
        let nonce = ledger.next_nonce(&key.node_key());
        let transaction = Transaction { chain_id: "atlas-lab".to_owned(), nonce, attempt: 0, message };
        let result = ledger.apply_block(Time(ledger.time().0 + 1_000), &[codec::encode(&key.seal(&transaction))]);
        assert_eq!(result.results[0].code, 0, "{}", result.results[0].log);
    }

    fn page(ledger: &Ledger, replica: &Replica) -> Updates {
        let data = replica.after().map_or_else(Vec::new, |after| codec::encode(&after));
        codec::decode(&ledger.query(query::UPDATES, &data).unwrap(), usize::MAX).unwrap()
    }

    /// A replica that has read and proven all.
    fn current(ledger: &Ledger) -> Replica {
        let mut replica = Replica::new(me().node_key());
        assert_eq!(replica.take(page(ledger, &replica)), Ok(Taken::Until(ledger.height())));
        replica.confirm(ledger.app_hash()).unwrap();
        replica
    }

    #[test]
    fn what_is_proven_is_handed_on_once_and_nothing_before() {
        let mut ledger = ledger();
        register(&mut ledger, 1);
        let mut replica = Replica::new(me().node_key());
        assert_eq!(replica.take(page(&ledger, &replica)), Ok(Taken::Until(1)));
        assert_eq!((replica.pending(), replica.proven(), replica.nonce()), (Some(1), None, 0));
        let parts = replica.confirm(ledger.app_hash()).unwrap();
        assert_eq!((parts.len(), parts[0].nodes.len(), parts[0].height, parts[0].time), (1, 1, 1, ledger.time()));
        assert_eq!((replica.pending(), replica.proven(), replica.nonce()), (None, Some(1), 1));
        assert_eq!(replica.take(page(&ledger, &replica)), Ok(Taken::Nothing));
        assert_eq!(replica.confirm(Digest([0; 32])), Ok(Vec::new()));

        register(&mut ledger, 2);
        assert_eq!(replica.take(page(&ledger, &replica)), Ok(Taken::Until(2)));
        let parts = replica.confirm(ledger.app_hash()).unwrap();
        assert_eq!(parts[0].nodes.iter().map(|node| node.node_id.as_str()).collect::<Vec<_>>(), ["node-2"]);
    }

    #[test]
    fn a_value_that_is_flipped_left_out_made_up_or_removed_gives_another_root() {
        let mut ledger = ledger();
        register(&mut ledger, 1);
        register(&mut ledger, 2);
        let whole = page(&ledger, &Replica::new(me().node_key()));
        let places = 0..whole.records.len();
        let flip = |place: usize| {
            let mut page = whole.clone();
            *page.records[place].value.as_mut().unwrap().last_mut().unwrap() ^= 1;
            page
        };
        let drop = |place: usize| {
            let mut page = whole.clone();
            page.records.remove(place);
            page
        };
        let remove = |place: usize| {
            let mut page = whole.clone();
            page.records[place].value = None;
            page
        };
        let mut more = whole.clone();
        more.records.push(Update { key: vec![b'n'; 33], value: Some(vec![0]) });
        let lies = places.flat_map(|place| [flip(place), drop(place), remove(place)]).chain([more]);
        for lie in lies {
            let mut replica = Replica::new(me().node_key());
            replica.take(lie).unwrap();
            let refusal = replica.confirm(ledger.app_hash()).unwrap_err();
            assert!(matches!(refusal, Refusal::Root { height: 2, .. }) && refusal.is_lie(), "{refusal}");
            assert_eq!(replica.proven(), None);
            // An honest one is believed afterwards.
            replica.discard();
            replica.take(page(&ledger, &replica)).unwrap();
            assert_eq!(replica.confirm(ledger.app_hash()).unwrap()[0].nodes.len(), 2);
        }
    }

    #[test]
    fn an_old_state_a_doubled_record_and_an_endless_beginning_are_refused() {
        let mut ledger = ledger();
        register(&mut ledger, 1);
        let old = page(&ledger, &Replica::new(me().node_key()));
        register(&mut ledger, 2);
        let mut replica = current(&ledger);
        assert_eq!(replica.take(old), Err(Refusal::Back { from: 2, to: 1 }));
        let mut twice = page(&ledger, &Replica::new(me().node_key()));
        twice.records.push(twice.records[0].clone());
        assert_eq!(Replica::new(me().node_key()).take(twice), Err(Refusal::Twice));
        let anew = Updates { whole: true, ..page(&ledger, &Replica::new(me().node_key())) };
        assert_eq!(replica.take(anew.clone()), Ok(Taken::Until(2)));
        assert_eq!(replica.take(anew), Err(Refusal::Anew));
        replica.discard();
        assert_eq!((replica.after(), replica.nonce()), (Some(2), 1), "what was proven stays");
    }

    #[test]
    fn more_than_can_be_held_is_refused_before_it_is_kept() {
        let mut replica = Replica::new(me().node_key());
        let mut last = Ok(Taken::More);
        for number in 0..5_u64 {
            let record = Update { key: number.to_be_bytes().to_vec(), value: Some(vec![0; 60 << 20]) };
            last = replica.take(Updates { height: number, more: true, whole: false, records: vec![record] });
        }
        assert_eq!(last, Err(Refusal::Flood));
        assert!(!Refusal::Flood.is_lie());
        let mut replica = Replica::new(me().node_key());
        let empty = |height| Updates { height, more: true, whole: false, records: Vec::new() };
        let refusal = (0..).find_map(|height| replica.take(empty(height)).err()).unwrap();
        assert_eq!(refusal, Refusal::Flood, "pages without an end are one too");
        replica.discard();
        replica.take(empty(7)).unwrap();
        assert_eq!(replica.take(empty(7)), Err(Refusal::Back { from: 7, to: 7 }));
    }

    proptest::proptest! {
        #[test]
        fn any_updates_at_all_are_held_or_refused(
            pages in proptest::collection::vec(
                (0..6_u64, proptest::bool::ANY, proptest::bool::ANY, proptest::collection::vec((0..4_u8, 0..3_u8), 0..5)), 0..12,
            ),
        ) {
            let ledger = ledger();
            let mut replica = current(&ledger);
            for (height, more, whole, records) in pages {
                let record = |(key, value): (u8, u8)| Update { key: vec![b'x', key], value: (value > 0).then_some(vec![value]) };
                let page = Updates { height, more, whole, records: records.into_iter().map(record).collect() };
                if replica.take(page).is_ok() && replica.pending().is_some() {
                    proptest::prop_assert!(replica.confirm(Digest([9; 32])).is_err());
                }
                replica.discard();
            }
            proptest::prop_assert_eq!(replica.proven(), Some(0));
        }
    }

    #[test]
    fn a_lie_after_many_true_blocks_costs_what_was_read_with_it_alone() {
        let mut ledger = ledger();
        register(&mut ledger, 1);
        let mut replica = current(&ledger);
        register(&mut ledger, 2);
        let mut lie = page(&ledger, &replica);
        lie.records[0].value = Some(vec![0xf6]);
        replica.take(lie).unwrap();
        assert!(replica.confirm(ledger.app_hash()).unwrap_err().is_lie());
        replica.discard();
        assert_eq!((replica.after(), replica.proven()), (Some(1), Some(1)));
        replica.take(page(&ledger, &replica)).unwrap();
        let parts = replica.confirm(ledger.app_hash()).unwrap();
        assert_eq!((parts.len(), parts[0].nodes.len()), (1, 1), "what was proven before is not read again");
    }

    #[test]
    fn a_reader_of_long_gaps_and_of_every_block_comes_to_the_same_root() {
        let mut ledger = ledger();
        let mut every = current(&ledger);
        let mut rare = current(&ledger);
        for secret in 1..30 {
            register(&mut ledger, secret);
            every.take(page(&ledger, &every)).unwrap();
            every.confirm(ledger.app_hash()).unwrap();
        }
        rare.take(page(&ledger, &rare)).unwrap();
        assert_eq!(rare.confirm(ledger.app_hash()).unwrap()[0].nodes.len(), 29);
        assert_eq!((every.proven(), rare.proven()), (Some(29), Some(29)));
    }
}
