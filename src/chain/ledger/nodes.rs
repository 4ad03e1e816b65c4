//! Nodes: registration, beats, and the reputation that follows from them.
//!
//! A node's life is counted in live time, which grows with block time but by a bounded step a block: a ledger that
//! was away for an hour finds every node as it left it.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Event,
    entries::NodeClock,
    money,
    refusal::{Refusal, check_entries, check_name, check_range, check_text, ensure},
    reputation,
    state::State,
    storage, tasks,
    transaction::Context,
};
use crate::{
    chain::{records::Node, wire::MAX_BEATS},
    codec,
    types::{Beat, NodeKey, NodeStatus, Resources, Signed},
};

/// Everything there is, in basis points.
pub(super) const FULL: u32 = 10_000;

/// What a node offers, as it says.
pub(super) struct Offer<'a> {
    pub(super) node_id: &'a str,
    pub(super) address: Option<&'a str>,
    pub(super) resources: &'a Resources,
    pub(super) listen: &'a [String],
    pub(super) attributes: &'a BTreeMap<String, String>,
}

impl Offer<'_> {
    fn check(&self) -> Result<(), Refusal> {
        check_name("node_id", self.node_id)?;
        check_text("address", self.address.unwrap_or_default(), 128)?;
        check_range("addresses in listen", self.listen.len(), 0, 16)?;
        self.listen.iter().try_for_each(|address| check_text("listen", address, 256))?;
        check_entries("attributes", self.attributes)
    }

    fn write_to(&self, node: &mut Node) {
        node.node_id = self.node_id.to_owned();
        node.address = self.address.map(str::to_owned);
        node.resources = *self.resources;
        node.listen = self.listen.to_vec();
        node.attributes.clone_from(self.attributes);
    }
}

/// Registers the creator, or changes what it offers. As good as a beat, because the creator has just signed it.
pub(super) fn register(state: &mut State, context: &Context, offer: &Offer<'_>) -> Result<Vec<u8>, Refusal> {
    offer.check()?;
    let id = context.creator;
    if state.node(&id).is_none() {
        create(state, id);
    }
    state.edit_node(&id, |node| offer.write_to(node));
    mark_alive(state, &id);
    state.emit(
        Event::new("node_registered")
            .with("node_id", id)
            .with("label", offer.node_id)
            .with("address", offer.address.unwrap_or_default()),
    );
    Ok(Vec::new())
}

fn create(state: &mut State, id: NodeKey) {
    let clock = state.clock();
    let node = Node {
        id,
        node_id: String::new(),
        address: None,
        status: NodeStatus::Online,
        resources: Resources::default(),
        listen: Vec::new(),
        attributes: BTreeMap::new(),
        reputation: FULL,
        uptime: FULL,
        load: crate::types::Load::default(),
        last_sequence: 0,
        last_heartbeat: clock.time,
        registered_at: clock.time,
        active_tasks: 0,
        rewards: 0,
        storage_offered: 0,
        storage_used: 0,
        storage_epoch: 0,
    };
    let online_since = Some(clock.live);
    state.put_node(&id, node);
    state.put_node_clock(
        &id,
        NodeClock { registered: clock.live, last_beat: clock.live, online_since, online_before: 0 },
    );
    money::open_faucet(state, &id);
}

/// Verifies the signatures of a batch of beats.
pub(super) fn verify(beats: &[Signed]) -> Result<(), Refusal> {
    check_count(beats)?;
    for (beat, place) in beats.iter().zip(0_u32..) {
        beat.verify::<Beat>().map_err(|error| Refusal::unopened(&format!("beat {place} of the batch"), &error))?;
    }
    Ok(())
}

fn check_count(beats: &[Signed]) -> Result<(), Refusal> {
    check_range("beats", beats.len(), 1, MAX_BEATS)
}

/// Takes a batch of beats. One that is refused does not spoil the others: the batch fails only if none is taken.
/// Answers how many were.
pub(super) fn heartbeat(state: &mut State, context: &Context, beats: &[Signed]) -> Result<Vec<u8>, Refusal> {
    check_count(beats)?;
    let mut taken = 0_u32;
    let mut first_refusal = None;
    for signed in beats {
        match take_beat(state, context, signed) {
            Ok(()) => taken += 1,
            Err(refusal) => first_refusal = first_refusal.or(Some(refusal)),
        }
    }
    match first_refusal {
        Some(refusal) if taken == 0 => Err(refusal),
        _ => Ok(codec::encode(&taken)),
    }
}

/// Checks everything before it changes anything.
fn take_beat(state: &mut State, context: &Context, signed: &Signed) -> Result<(), Refusal> {
    let beat: Beat = signed.open_within(context.vouched).map_err(|error| Refusal::unopened("beat", &error))?;
    let node = state.known_node(&beat.node)?;
    ensure(beat.sequence > node.last_sequence, || {
        Refusal::stale(format!("beat {} is not newer than {}", beat.sequence, node.last_sequence))
    })?;
    let now = state.clock().time;
    let skew = beat.timestamp.since(now).max(now.since(beat.timestamp));
    ensure(skew <= Duration::from_millis(state.parameters().beat_skew_millis), || {
        let seconds = skew.as_secs();
        Refusal::invalid(format!("the node's clock is {seconds} s off the ledger's; set the node's clock"))
    })?;
    state.edit_node(&beat.node, |node| {
        node.load = beat.load;
        node.last_sequence = beat.sequence;
    });
    mark_alive(state, &beat.node);
    if beat.leaving {
        go_offline(state, &beat.node, "the node left");
    }
    let status = state.known_node(&beat.node)?.status;
    state.emit(Event::new("heartbeat_updated").with("node_id", beat.node).with("status", status));
    Ok(())
}

/// A node gave a sign of life in this block.
fn mark_alive(state: &mut State, id: &NodeKey) {
    let clock = state.clock();
    state.edit_node_clock(id, |node| {
        node.last_beat = clock.live;
        node.online_since = node.online_since.or(Some(clock.live));
    });
    state.edit_node(id, |node| node.last_heartbeat = clock.time);
    assess(state, id);
}

/// Ends a node's presence: frees its tasks, lets what it holds for others lapse, and stops counting its uptime at its last beat.
pub(super) fn go_offline(state: &mut State, id: &NodeKey, reason: &str) {
    let held: Vec<_> = state.index().held_by(id).collect();
    for task in held {
        tasks::release(state, &task, reason);
    }
    storage::lapse(state, id);
    reputation::end_presence(state, id);
    state.edit_node_clock(id, |clock| {
        let online = clock.online_since.take().map_or(0, |since| clock.last_beat.saturating_sub(since));
        clock.online_before = clock.online_before.saturating_add(online);
    });
    assess(state, id);
}

/// A returned node proved itself by taking a lease.
pub(super) fn end_recovery(state: &mut State, id: &NodeKey) {
    if state.node(id).is_some_and(|node| node.status == NodeStatus::Recovering) {
        state.edit_node(id, |node| node.status = NodeStatus::Online);
        state.emit(status_updated(id, NodeStatus::Online));
    }
    assess(state, id);
}

/// As [`assess`], for a node that may not be registered.
pub(super) fn assess_known(state: &mut State, id: &NodeKey) -> Result<(), Refusal> {
    state.known_node(id)?;
    assess(state, id);
    Ok(())
}

/// Brings uptime, reputation and status of a node up to this block.
pub(super) fn assess(state: &mut State, id: &NodeKey) {
    let Some(clock) = state.node_clock(id) else {
        return;
    };
    let online = clock.online_since.is_some();
    let (uptime, reputation) = reputation::measure(state, id, clock);
    let before = state.known_node(id).map_or(NodeStatus::Offline, |node| node.status);
    let status = match (online, before) {
        (false, _) => NodeStatus::Offline,
        (true, NodeStatus::Offline | NodeStatus::Recovering) => NodeStatus::Recovering,
        (true, _) if reputation < reputation::HALF => NodeStatus::Degraded,
        (true, _) => NodeStatus::Online,
    };
    state.edit_node(id, |node| {
        node.uptime = uptime;
        node.reputation = reputation;
        node.status = status;
    });
    if status != before {
        state.emit(status_updated(id, status));
    }
}

fn status_updated(id: &NodeKey, status: NodeStatus) -> Event {
    Event::new("node_status_updated").with("node_id", id).with("status", status)
}

/// `part` of `whole` in basis points; all of nothing is everything.
pub(super) fn basis_points(part: u64, whole: u64) -> u32 {
    let share = (u128::from(part) * u128::from(FULL)).checked_div(u128::from(whole));
    share.and_then(|share| u32::try_from(share).ok()).map_or(FULL, |share| share.min(FULL))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{FAUCET, World, id, person, register_message, room, spec};
    use super::*;
    use crate::{
        chain::wire::{Code, Message},
        types::{Quorum, TaskStatus, Time},
    };

    fn beats(beats: Vec<Signed>) -> Message {
        Message::UpdateHeartbeat { beats }
    }

    #[test]
    fn the_faucet_pays_once_and_a_second_registration_only_changes_the_offer() {
        let mut world = World::of_nodes(1);
        let Message::RegisterNode { node_id, address, listen, attributes, .. } = register_message() else {
            unreachable!()
        };
        world.ok(1, Message::RegisterNode { node_id, address, resources: room(9), listen, attributes });
        assert_eq!(world.account(1).balance, FAUCET);
        assert_eq!((world.node(1).resources, world.node(1).reputation), (room(9), FULL));
        let too_long = Message::RegisterNode {
            node_id: "x".repeat(65),
            address: None,
            resources: room(1),
            listen: Vec::new(),
            attributes: BTreeMap::new(),
        };
        assert!(world.refused(1, Code::Invalid, too_long).contains("node_id"));
    }

    #[test]
    fn a_silent_node_goes_offline_after_its_limit_and_its_task_returns_in_that_block() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        world.lease(2, job, 0);
        world.pass(89, &[1]);
        assert_eq!(world.node(2).status, NodeStatus::Online);
        assert_eq!(world.task(job, 0).generation, 1);
        world.now = Time::from_millis(world.now.as_millis() + 1_000);
        let beat = world.sign(1, beats(vec![world.beat(1, false)]));
        let block = world.block(0, &[beat]);
        let task = world.task(job, 0);
        assert_eq!((world.node(2).status, world.node(2).active_tasks), (NodeStatus::Offline, 0));
        assert_eq!((task.status, task.generation, task.holder, task.reassigned), (TaskStatus::Pending, 2, None, 1));
        let statuses: Vec<_> = block
            .events
            .iter()
            .filter(|event| event.kind == "task_status_updated")
            .map(|event| event.attributes.iter().find(|(name, _)| name == "status").unwrap().1.clone())
            .collect();
        assert_eq!(statuses, ["rollback", "pending"]);
    }

    #[test]
    fn a_ledger_that_was_away_for_an_hour_declares_nobody_offline() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        world.lease(2, job, 0);
        world.block(3_600_000, &[]);
        assert_eq!(world.node(2).status, NodeStatus::Online);
        assert_eq!(world.task(job, 0).status, TaskStatus::Assigned);
    }

    #[test]
    fn a_leaving_beat_shows_at_once_and_a_later_beat_brings_the_node_back_as_recovering() {
        let mut world = World::of_nodes(2);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        world.lease(2, job, 0);
        world.pass(100, &[1, 2]);
        let leaving = beats(vec![world.beat(2, true)]);
        world.ok(1, leaving);
        assert_eq!(world.node(2).status, NodeStatus::Offline);
        assert_eq!(world.task(job, 0).status, TaskStatus::Pending);
        let lease = world.lease_message(job, 0);
        assert!(world.refused(2, Code::Unauthorized, lease).contains("offline"));
        world.pass(1, &[1, 2]);
        assert_eq!(world.node(2).status, NodeStatus::Recovering);
        world.lease(2, job, 0);
        assert_eq!(world.node(2).status, NodeStatus::Online);
    }

    #[test]
    fn reputation_is_uptime_and_halves_below_half() {
        let mut world = World::of_nodes(2);
        world.pass(100, &[1, 2]);
        world.pass(300, &[1]);
        world.pass(1, &[1, 2]);
        let node = world.node(2);
        // 100 of 401 seconds, and what a block of registration adds.
        assert!((2_400..2_600).contains(&node.uptime), "{}", node.uptime);
        assert_eq!(node.reputation, node.uptime / 2);
        let job = world.submit(1, spec(1, Quorum::All), 1);
        world.lease(2, job, 0);
        assert_eq!(world.node(2).status, NodeStatus::Degraded);
        assert_eq!((world.node(1).status, world.node(1).reputation), (NodeStatus::Online, FULL));
    }

    #[test]
    fn a_beat_counts_only_if_it_is_its_own_nodes_newer_and_of_this_time() {
        let mut world = World::of_nodes(2);
        let good = world.beat(2, false);
        world.ok(1, beats(vec![good.clone()]));
        assert!(world.refused(1, Code::Stale, beats(vec![good.clone()])).contains("not newer"));
        let beat = |node, sequence, timestamp| Beat {
            node,
            sequence,
            timestamp,
            load: crate::types::Load::default(),
            leaving: false,
        };
        let forged = person(1).seal(&beat(id(2), u64::MAX, world.now));
        world.refused(1, Code::Signature, beats(vec![forged.clone()]));
        let hoarded = person(2).seal(&beat(id(2), u64::MAX, world.now + Duration::from_secs(3_600)));
        assert!(world.refused(1, Code::Invalid, beats(vec![hoarded])).contains("clock"));
        let stranger = person(7).seal(&beat(id(7), 1, world.now));
        world.refused(1, Code::NotFound, beats(vec![stranger]));
        let tampered = Signed { body: [good.body, vec![0]].concat(), ..good };
        world.refused(1, Code::Signature, beats(vec![tampered]));
        // One good beat in a bad batch is taken all the same.
        let batch = beats(vec![forged, world.beat(1, false)]);
        let result = world.send(2, batch);
        assert_eq!((result.code, codec::decode::<u32>(&result.data, 9).unwrap()), (0, 1));
    }

    #[test]
    fn a_batch_with_a_forged_beat_does_not_wait_for_a_block_and_one_that_waited_is_not_verified_again() {
        let mut world = World::of_nodes(2);
        let good = world.sign(1, beats(vec![world.beat(1, false), world.beat(2, false)]));
        assert!(!world.ledger.is_verified(&good));
        assert_eq!(world.ledger.check(&good).code, 0);
        assert!(world.ledger.is_verified(&good));
        assert_eq!(world.block(100, &[good]).results[0].code, 0);
        let tampered = Signed { signer: id(1), ..world.beat(2, false) };
        let bad = world.sign(1, beats(vec![world.beat(1, false), tampered]));
        for _ in 0..2 {
            let refused = world.ledger.check(&bad);
            assert_eq!(refused.code, Code::Signature as u32);
            assert!(refused.log.contains("beat 1 of the batch"), "{}", refused.log);
            assert_eq!(world.ledger.claim(&bad).unwrap_err(), refused);
            assert!(!world.ledger.is_verified(&bad));
        }
        // In a block, each beat counts by itself.
        let result = world.block(100, &[bad]).results.remove(0);
        assert_eq!((result.code, codec::decode::<u32>(&result.data, 9).unwrap()), (0, 1));
        let crowd = world.sign(1, beats(vec![world.beat(1, false); MAX_BEATS + 1]));
        assert_eq!(world.ledger.check(&crowd).code, Code::Invalid as u32);
    }

    #[test]
    fn a_thousand_beats_fit_into_one_transaction() {
        let mut world = World::of_nodes(1);
        let beat = |index: u64| {
            let load =
                crate::types::Load { cpu_millicores_booked: u64::MAX, memory_bytes_booked: u64::MAX, active_tasks: 9 };
            let timestamp = world.now;
            person(1).seal(&Beat { node: id(1), sequence: u64::MAX - 2_000 + index, timestamp, load, leaving: false })
        };
        let message = beats((0..1_000).map(beat).collect());
        assert!(world.sign(1, message.clone()).len() < crate::chain::wire::MAX_TRANSACTION);
        let result = world.send(1, message);
        assert_eq!(codec::decode::<u32>(&result.data, 9).unwrap(), 1_000, "{}", result.log);
    }
}
