//! Stories of storage: who may hold what, and when it lapses; and that the sums hold whatever people send.

use proptest::prelude::*;

use super::{
    Economy, Genesis, Ledger, Parameters,
    storage::{MAX_BYTES, MAX_COPIES, MAX_KEEP_MILLIS},
    testing::{FAUCET, World, content, economy, genesis, id},
};
use crate::{
    chain::{
        records::{Holder, Object, ObjectId},
        wire::{Code, Message, query},
    },
    codec,
    types::{ContentId, NodeStatus, Time},
};

const OWNER: u8 = 1;
const HOUR: u64 = 3_600_000;

fn offer(bytes: u64) -> Message {
    Message::OfferStorage { bytes }
}

fn keep(world: &World, name: &str, bytes: u64, copies: u32) -> Message {
    let until = Time::from_millis(world.now.as_millis() + 24 * HOUR);
    Message::Keep { root: content(name), bytes, copies, until }
}

fn held(name: &str) -> Message {
    Message::Held { owner: id(OWNER), root: content(name) }
}

fn dropped(name: &str) -> Message {
    Message::Dropped { owner: id(OWNER), root: content(name) }
}

fn release(name: &str) -> Message {
    Message::Release { root: content(name) }
}

/// Five nodes, of which all but the owner offer 100 bytes; `model` of 60 bytes is asked for in two copies.
fn world() -> World {
    let mut world = World::of_nodes(5);
    (2..=5).for_each(|number| world.ok(number, offer(100)));
    let wish = keep(&world, "model", 60, 2);
    world.ok(OWNER, wish);
    world
}

fn live(world: &World, name: &str) -> Vec<u8> {
    let object = world.object(OWNER, content(name)).unwrap();
    let live: Vec<_> = object.live(|node| world.ledger.state.node(node)).collect();
    (1..=9).filter(|number| live.contains(&id(*number))).collect()
}

fn used(world: &World, number: u8) -> u64 {
    world.node(number).storage_used
}

fn leave(world: &mut World, number: u8) {
    let beats = vec![world.beat(number, true)];
    world.ok(OWNER, Message::UpdateHeartbeat { beats });
}

#[test]
fn two_nodes_hold_what_an_owner_asked_two_copies_of_and_a_third_is_refused() {
    let mut world = world();
    world.ok(2, held("model"));
    world.ok(3, held("model"));
    let object = world.object(OWNER, content("model")).unwrap();
    let holders = [2, 3].map(|number| Holder { node: id(number), epoch: 0 });
    assert_eq!((object.holders, object.bytes, object.copies), (holders.to_vec(), 60, 2));
    assert_eq!([2, 3, 4].map(|number| used(&world, number)), [60, 60, 0]);
    assert!(world.refused(4, Code::Conflict, held("model")).contains("2 nodes hold it"));
    assert!(world.refused(2, Code::Conflict, held("model")).contains("already"));
}

#[test]
fn when_a_holder_goes_offline_all_it_held_lapses_at_once_and_another_takes_its_place() {
    let mut world = world();
    let wish = keep(&world, "data", 40, 2);
    world.ok(OWNER, wish);
    for name in ["model", "data"] {
        world.ok(2, held(name));
        world.ok(3, held(name));
    }
    // Silence is as good as a word.
    world.pass(91, &[1, 3, 4, 5]);
    assert_eq!((world.node(2).status, world.node(2).storage_epoch, used(&world, 2)), (NodeStatus::Offline, 1, 0));
    assert_eq!((live(&world, "model"), live(&world, "data")), (vec![3], vec![3]));
    assert!(world.refused(2, Code::Unauthorized, held("model")).contains("offline"));
    world.ok(4, held("model"));
    assert_eq!(live(&world, "model"), [3, 4]);
    // Who comes back finds its place taken; where none took it, it holds again.
    world.pass(1, &[1, 2, 3, 4, 5]);
    world.refused(2, Code::Conflict, held("model"));
    world.ok(2, held("data"));
    assert_eq!((live(&world, "data"), used(&world, 2)), (vec![2, 3], 40));
    assert_eq!(world.object(OWNER, content("data")).unwrap().holders.len(), 2, "the lapsed one is forgotten");
}

#[test]
fn a_node_that_holds_nothing_keeps_its_epoch_and_one_that_takes_its_offer_back_holds_nothing() {
    let mut world = world();
    leave(&mut world, 5);
    assert_eq!(world.node(5).storage_epoch, 0);
    world.ok(2, held("model"));
    world.ok(2, offer(0));
    assert_eq!((live(&world, "model"), used(&world, 2), world.node(2).storage_epoch), (vec![], 0, 1));
    assert!(world.refused(2, Code::Conflict, held("model")).contains("do not fit"));
    world.refused(2, Code::NotFound, dropped("model"));
    world.ok(2, offer(60));
    world.ok(2, held("model"));
    // Less room than is used takes nothing away.
    world.ok(2, offer(10));
    assert_eq!((live(&world, "model"), used(&world, 2)), (vec![2], 60));
}

#[test]
fn who_may_not_hold_an_object_is_told_why() {
    let mut world = world();
    assert!(world.refused(2, Code::NotFound, held("nothing")).contains("does not exist"));
    world.ok(OWNER, offer(100));
    assert!(world.refused(OWNER, Code::Unauthorized, held("model")).contains("own copy"));
    world.refused(9, Code::NotFound, held("model"));
    world.refused(9, Code::NotFound, offer(5));
    assert!(world.refused(2, Code::Invalid, offer(MAX_BYTES + 1)).contains("bytes"));
    let wish = keep(&world, "large", 41, 2);
    world.ok(OWNER, wish);
    world.ok(2, held("model"));
    let text = world.refused(2, Code::Conflict, held("large"));
    assert!(text.contains("offers 100, 60 are used"), "{text}");
    world.ok(2, dropped("model"));
    world.ok(2, held("large"));
    assert!(world.refused(3, Code::NotFound, dropped("large")).contains("does not hold"));
    world.refused(3, Code::NotFound, dropped("nothing"));
}

#[test]
fn what_nobody_could_keep_is_not_asked_for() {
    let mut world = world();
    let now = world.now.as_millis();
    let wish =
        |bytes, copies, until| Message::Keep { root: content("x"), bytes, copies, until: Time::from_millis(until) };
    for (message, field) in [
        (wish(0, 1, now + HOUR), "bytes"),
        (wish(MAX_BYTES + 1, 1, now + HOUR), "bytes"),
        (wish(1, 0, now + HOUR), "copies"),
        (wish(1, MAX_COPIES + 1, now + HOUR), "copies"),
        (wish(1, 1, now), "until"),
        (wish(1, 1, now + MAX_KEEP_MILLIS + HOUR), "until"),
        (wish(1, 1, u64::MAX), "until"),
    ] {
        assert!(world.refused(OWNER, Code::Invalid, message).contains(field));
    }
    let identity = multihash::Multihash::wrap(0, b"inline").unwrap();
    let root = ContentId(cid::Cid::new_v1(0x55, identity));
    let inline = Message::Keep { root, bytes: 6, copies: 1, until: Time::from_millis(now + HOUR) };
    assert!(world.refused(OWNER, Code::Invalid, inline).contains("SHA2-256"));
}

#[test]
fn an_account_asks_for_so_many_objects_and_for_another_when_one_is_released() {
    let mut world = world();
    for name in ["b", "c", "d"] {
        let wish = keep(&world, name, 1, 1);
        world.ok(OWNER, wish);
    }
    let fifth = keep(&world, "e", 1, 1);
    assert!(world.refused(OWNER, Code::Conflict, fifth).contains("4 objects"));
    let again = keep(&world, "d", 1, 3);
    world.ok(OWNER, again);
    // Another account, which is no node, has its own four.
    let foreign = keep(&world, "d", 1, 1);
    world.ok(200, foreign);
    world.refused(2, Code::NotFound, release("d"));
    world.ok(OWNER, release("d"));
    let fifth = keep(&world, "e", 1, 1);
    world.ok(OWNER, fifth);
    let by_root: Vec<Object> = world.query(query::GET_OBJECTS_BY_ROOT, &content("d"));
    assert_eq!(by_root.iter().map(|object| object.owner).collect::<Vec<_>>(), [id(200)]);
    let by_owner: Vec<Object> = world.query(query::GET_OBJECTS_BY_OWNER, &id(OWNER));
    let mut all: Vec<Object> = codec::decode(&world.ledger.query(query::LIST_OBJECTS, &[]).unwrap(), 10_000).unwrap();
    assert_eq!((by_owner.len(), all.len()), (4, 5));
    let rest: Vec<Object> = world.query(query::LIST_OBJECTS, &all[0].id());
    assert_eq!(rest, all.split_off(1));
}

#[test]
fn an_owner_may_ask_for_fewer_copies_or_longer_and_never_for_another_size() {
    let mut world = world();
    world.ok(2, held("model"));
    world.ok(3, held("model"));
    let other = keep(&world, "model", 61, 2);
    assert!(world.refused(OWNER, Code::Conflict, other).contains("60 bytes"));
    let fewer = keep(&world, "model", 60, 1);
    world.ok(OWNER, fewer);
    assert_eq!((live(&world, "model"), used(&world, 2), used(&world, 3)), (vec![2], 60, 0));
    let more = keep(&world, "model", 60, 3);
    world.ok(OWNER, more);
    world.ok(4, held("model"));
    assert_eq!(live(&world, "model"), [2, 4]);
}

#[test]
fn an_object_that_is_released_or_over_is_gone_and_its_holders_have_their_room_again() {
    let mut world = world();
    let wish = keep(&world, "data", 40, 1);
    world.ok(OWNER, wish);
    world.ok(2, held("model"));
    world.ok(2, held("data"));
    let height = world.ledger.height();
    world.ok(OWNER, release("model"));
    assert_eq!((world.object(OWNER, content("model")), used(&world, 2)), (None, 40));
    let until = world.object(OWNER, content("data")).unwrap().until;
    world.block(until.as_millis() - world.now.as_millis() - 1, &[]);
    assert!(world.object(OWNER, content("data")).is_some());
    let result = world.block(1, &[]);
    assert!(result.events.iter().any(|event| event.kind == "object_over"));
    assert_eq!((world.object(OWNER, content("data")), used(&world, 2)), (None, 0));
    // A reader that was away hears of both.
    let changes = world.changes(height);
    let names = ["model", "data"].map(|name| ObjectId::of(id(OWNER), &content(name)));
    assert_eq!(changes.gone.len(), 2);
    assert!(names.iter().all(|name| changes.gone.contains(name)) && changes.objects.is_empty());
    assert!(world.changes(world.ledger.height()).gone.is_empty());
}

#[test]
fn a_block_ends_at_most_a_thousand_objects_and_a_restored_ledger_the_same_ones() {
    let parameters = Parameters { max_objects: 1_100, ..genesis().parameters };
    let mut world = World::with(Genesis { parameters, ..genesis() });
    let until = Time::from_millis(world.now.as_millis() + HOUR);
    let wish = |number: u64| Message::Keep { root: content(&number.to_string()), bytes: 1, copies: 1, until };
    let wishes: Vec<_> = (0..1_100).map(|number| world.sign_with(OWNER, number, wish(number))).collect();
    assert!(world.block(1, &wishes).results.iter().all(|result| result.code == 0));
    let mut restored = Ledger::restore(&world.ledger.snapshot()).unwrap();
    for left in [100, 0] {
        world.block(HOUR, &[]);
        assert_eq!(world.ledger.state.objects_of(id(OWNER)).count(), left);
        assert_eq!(restored.apply_block(world.now, &[]).app_hash, world.ledger.app_hash());
    }
}

#[test]
fn a_ledger_without_storage_refuses_its_messages_as_unknown_and_is_written_as_it_always_was() {
    let parameters = Parameters { max_objects: 0, ..genesis().parameters };
    let plain = Genesis { parameters, ..genesis() };
    assert!(!codec::encode(&plain).windows(11).any(|window| window == b"max_objects"));
    let mut world = World::with(plain);
    world.ok(2, super::testing::register_message());
    let node = codec::encode(&world.node(2));
    for field in ["storage_offered", "storage_used", "storage_epoch"] {
        assert!(!node.windows(field.len()).any(|window| window == field.as_bytes()), "{field}");
    }
    let nonce = world.account(2).nonce;
    for message in [offer(1), keep(&world, "x", 1, 1), held("x"), dropped("x"), release("x")] {
        let transaction = world.sign(2, message);
        let result = world.block(1, &[transaction]).results.remove(0);
        assert!(result.code == Code::Malformed as u32 && result.log.contains("no storage"), "{}", result.log);
    }
    assert_eq!(world.account(2).nonce, nonce);
}

#[test]
fn where_transactions_cost_an_owner_pays_for_each_wish_and_a_holder_works_for_nothing() {
    let mut world = World::of_nodes_with(2, Economy { transaction_fee: 7, free_per_minute: 100, ..economy() });
    let wish = keep(&world, "model", 60, 1);
    world.ok(OWNER, wish);
    world.ok(2, offer(100));
    world.ok(2, held("model"));
    world.ok(2, dropped("model"));
    world.ok(OWNER, release("model"));
    assert_eq!([1, 2].map(|number| world.account(number).balance), [FAUCET - 14, FAUCET]);
}

/// What somebody does next; numbers are folded into what exists.
#[derive(Clone, Debug)]
enum Act {
    Offer(u64),
    Keep { name: u8, copies: u32, hours: u64 },
    Held { owner: u8, name: u8 },
    Dropped { owner: u8, name: u8 },
    Release { name: u8 },
    Leave,
    Beat,
    Wait { millis: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let name = || 0..6_u8;
    let owner = || 1..4_u8;
    prop_oneof![
        2 => prop_oneof![Just(0), 0..300_u64].prop_map(Act::Offer),
        4 => (name(), 0..4_u32, 0..5_u64).prop_map(|(name, copies, hours)| Act::Keep { name, copies, hours }),
        12 => (owner(), name()).prop_map(|(owner, name)| Act::Held { owner, name }),
        3 => (owner(), name()).prop_map(|(owner, name)| Act::Dropped { owner, name }),
        1 => name().prop_map(|name| Act::Release { name }),
        1 => Just(Act::Leave),
        3 => Just(Act::Beat),
        1 => (0..4 * HOUR).prop_map(|millis| Act::Wait { millis }),
    ]
}

fn message(world: &World, who: u8, act: &Act) -> Option<Message> {
    let root = |name: &u8| content(&name.to_string());
    Some(match act {
        Act::Offer(bytes) => offer(*bytes),
        Act::Keep { name, copies, hours } => {
            let until = Time::from_millis(world.now.as_millis() + hours * HOUR);
            Message::Keep { root: root(name), bytes: 10 + u64::from(*name) * 20, copies: *copies, until }
        }
        Act::Held { owner, name } => Message::Held { owner: id(*owner), root: root(name) },
        Act::Dropped { owner, name } => Message::Dropped { owner: id(*owner), root: root(name) },
        Act::Release { name } => Message::Release { root: root(name) },
        Act::Leave => Message::UpdateHeartbeat { beats: vec![world.beat(who, true)] },
        Act::Beat => Message::UpdateHeartbeat { beats: vec![world.beat(who, false)] },
        Act::Wait { .. } => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each block checks that a node uses the sum of what it holds live, and that no object has too many holders.
    #[test]
    fn whatever_people_send_a_node_uses_the_sum_of_what_it_holds_and_replay_and_snapshot_agree(
        acts in proptest::collection::vec((1..6_u8, act()), 1..150),
        cut in 0..150_usize,
    ) {
        let mut world = World::of_nodes(5);
        (1..=5).for_each(|number| world.ok(number, offer(200)));
        let mut restored: Option<Ledger> = None;
        for (index, (who, act)) in acts.iter().enumerate() {
            if index == cut {
                restored = Some(Ledger::restore(&world.ledger.snapshot()).unwrap());
            }
            let millis = if let Act::Wait { millis } = act { *millis } else { 500 };
            let transactions: Vec<_> = message(&world, *who, act).map(|message| world.sign(*who, message)).into_iter().collect();
            let result = world.block(millis, &transactions);
            if let Some(restored) = &mut restored {
                prop_assert_eq!(&restored.apply_block(world.now, &transactions), &result);
            }
        }
    }
}

#[test]
#[should_panic(expected = "left == right")]
fn room_that_is_used_for_nothing_would_be_noticed() {
    let mut world = world();
    world.ledger.state.edit_node(&id(2), |node| node.storage_used = 1);
    world.block(1, &[]);
}
