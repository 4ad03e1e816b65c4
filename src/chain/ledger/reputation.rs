//! Reputation: what a node's past says of it, in integers.
//!
//! Without an economy, and with one that forgets nothing, it is the uptime of the whole life, halved below half. With a
//! half-life all that the past counts for halves once in each: presence, work settled, leases lost, the penalty of an
//! offence. Nothing is written when time passes: a [`Standing`] says how things were at a moment, and whoever reads it
//! works out what is left of that. So a block costs nothing here, however many nodes there are.

use super::{
    entries::NodeClock,
    nodes::{FULL, basis_points},
    state::State,
};
use crate::{chain::records::Standing, types::NodeKey};

/// Below this uptime, reputation is halved, and a node below this reputation is degraded (origin).
pub(super) const HALF: u32 = 5_000;
/// The weight of an endless presence: what a node's time is counted in where it fades.
const ENDLESS: u64 = 1 << 32;
/// One settled round of a task, or one lost lease: counts are kept in millionths so that they can fade.
const ONE: u64 = 1_000_000;
/// 2^(-1/2), 2^(-1/4), … in parts of 2^32, rounded: what is left after half, a quarter, … of a half-life.
const ROOTS: [u64; 16] = [
    3_037_000_500,
    3_611_622_603,
    3_938_502_376,
    4_112_874_773,
    4_202_935_003,
    4_248_701_965,
    4_271_771_996,
    4_283_353_945,
    4_289_156_690,
    4_292_061_010,
    4_293_513_907,
    4_294_240_540,
    4_294_603_903,
    4_294_785_595,
    4_294_876_445,
    4_294_921_870,
];

/// What is left of `value` after `elapsed` milliseconds: half of it after each half-life, and in between as a smooth
/// curve, so that looking often changes nothing. A half-life of 0 forgets nothing.
fn faded(value: u64, elapsed: u64, half_life: u64) -> u64 {
    let Some(halvings) = elapsed.checked_div(half_life) else { return value };
    if halvings >= u64::from(u64::BITS) {
        return 0;
    }
    // The rest of the elapsed time in 2^16 parts of a half-life: below 2^16.
    let rest = (u128::from(elapsed % half_life) << ROOTS.len()) / u128::from(half_life);
    let roots = ROOTS.iter().enumerate().filter(|(index, _)| rest >> (ROOTS.len() - 1 - index) & 1 == 1);
    let left = roots.fold(u128::from(value >> halvings), |left, (_, root)| (left * u128::from(*root)) >> 32);
    u64::try_from(left).unwrap_or(value)
}

/// What a presence of so long weighs at its end.
fn presence(length: u64, half_life: u64) -> u64 {
    ENDLESS - faded(ENDLESS, length, half_life)
}

fn half_life(state: &State) -> u64 {
    state.economy().map_or(0, |economy| economy.reputation_half_life_millis)
}

/// A node's standing as it is now.
pub(super) fn standing(state: &State, id: &NodeKey) -> Standing {
    let (half_life, now) = (half_life(state), state.clock().live);
    let kept = state.standing(id).copied().unwrap_or_default();
    let elapsed = now.saturating_sub(kept.at);
    let left = |value| faded(value, elapsed, half_life);
    Standing {
        at: now,
        presence: left(kept.presence),
        settled: left(kept.settled),
        lost: left(kept.lost),
        penalty: left(kept.penalty),
    }
}

/// Uptime and reputation of a node in basis points.
pub(super) fn measure(state: &State, id: &NodeKey, clock: &NodeClock) -> (u32, u32) {
    let (half_life, now) = (half_life(state), state.clock().live);
    if state.economy().is_none() {
        let uptime = whole_life(clock, now);
        return (uptime, halved(uptime));
    }
    let standing = standing(state, id);
    let (uptime, reliability) = if half_life == 0 {
        (whole_life(clock, now), FULL)
    } else {
        let present = clock.online_since.map_or(0, |since| presence(now.saturating_sub(since), half_life));
        let known = presence(now.saturating_sub(clock.registered), half_life);
        let online = standing.presence.saturating_add(present).min(known);
        (basis_points(online, known), reliability(&standing))
    };
    let innocence = FULL - u32::try_from(standing.penalty / (ONE / u64::from(FULL))).unwrap_or(FULL).min(FULL);
    (uptime, times(times(halved(uptime), reliability), innocence))
}

/// Basis points of its registered life that a node was online.
fn whole_life(clock: &NodeClock, live: u64) -> u32 {
    let registered = live.saturating_sub(clock.registered);
    let present = clock.online_since.map_or(0, |since| live.saturating_sub(since));
    let online = clock.online_before.saturating_add(present).min(registered);
    basis_points(online, registered)
}

fn halved(uptime: u32) -> u32 {
    if uptime < HALF { uptime / 2 } else { uptime }
}

/// Of the tasks that a node took lately, how many it settled. One settled round is given to everybody: a first lease that
/// is lost halves it, and a new node begins at the full one.
fn reliability(standing: &Standing) -> u32 {
    let settled = standing.settled.saturating_add(ONE);
    basis_points(settled, settled.saturating_add(standing.lost))
}

/// The product of two numbers in basis points.
fn times(one: u32, other: u32) -> u32 {
    u32::try_from(u64::from(one) * u64::from(other) / u64::from(FULL)).unwrap_or(FULL)
}

/// A node's presence ended with its last beat.
pub(super) fn end_presence(state: &mut State, id: &NodeKey) {
    let (half_life, now) = (half_life(state), state.clock().live);
    let Some(NodeClock { last_beat, online_since: Some(since), .. }) = state.node_clock(id).copied() else {
        return;
    };
    if half_life > 0 {
        let ended = presence(last_beat.saturating_sub(since), half_life);
        let ended = faded(ended, now.saturating_sub(last_beat), half_life);
        edit(state, id, |standing| standing.presence = standing.presence.saturating_add(ended).min(ENDLESS));
    }
}

/// A round settled the work of this node on one task.
pub(super) fn settled(state: &mut State, id: &NodeKey) {
    if half_life(state) > 0 {
        edit(state, id, |standing| standing.settled = standing.settled.saturating_add(ONE));
    }
}

/// A lease of this node lapsed because it made no progress in time. What a node hands back or reports as failed is not
/// held against it: that may be the script's fault.
pub(super) fn lost(state: &mut State, id: &NodeKey) {
    if half_life(state) > 0 {
        edit(state, id, |standing| standing.lost = standing.lost.saturating_add(ONE));
    }
}

/// An offence costs so many basis points of what reputation was left.
pub(super) fn punish(state: &mut State, id: &NodeKey, basis_points: u32) {
    edit(state, id, |standing| {
        let left = ONE.saturating_sub(standing.penalty);
        let cost = u128::from(left) * u128::from(basis_points) / u128::from(FULL);
        standing.penalty = standing.penalty.saturating_add(u64::try_from(cost).unwrap_or(left)).min(ONE);
    });
}

fn edit(state: &mut State, id: &NodeKey, edit: impl FnOnce(&mut Standing)) {
    let mut standing = standing(state, id);
    edit(&mut standing);
    state.put_standing(id, standing);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{
        Economy,
        testing::{World, economy, id, spec},
    };
    use super::*;
    use crate::{
        chain::wire::{Message, query},
        types::{JobSpec, NodeStatus, Quorum, TaskStatus},
    };

    const HOUR: u64 = 3_600_000;

    fn fading() -> Economy {
        Economy { reputation_half_life_millis: HOUR, ..economy() }
    }

    #[test]
    fn the_roots_are_those_of_two() {
        let mut squared = ENDLESS as f64 / 2.0;
        for root in ROOTS {
            squared = (squared * ENDLESS as f64).sqrt();
            assert!((squared - root as f64).abs() <= 1.0, "{root} is not {squared}");
        }
    }

    #[test]
    fn half_is_left_after_a_half_life_and_everything_without_one() {
        assert_eq!(
            [0, 1, 2, 3, 40].map(|halvings| faded(1 << 40, halvings * HOUR, HOUR)),
            [1 << 40, 1 << 39, 1 << 38, 1 << 37, 1]
        );
        assert_eq!((faded(7, u64::MAX, 0), faded(u64::MAX, u64::MAX, 1), faded(0, 5, HOUR)), (7, 0, 0));
        assert_eq!(faded(1_000_000, HOUR / 2, HOUR), 707_106);
        assert_eq!(faded(u64::MAX, 1, u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn what_fades_in_two_steps_fades_as_in_one(
            value in 0..ENDLESS, first in 0..9 * HOUR, second in 0..9 * HOUR, half_life in 1_000..3 * HOUR,
        ) {
            let one = faded(value, first + second, half_life);
            let two = faded(faded(value, first, half_life), second, half_life);
            // Each step rounds by at most 1 in 2^16 half-lives, and down.
            prop_assert!(one.abs_diff(two) <= (value >> 14) + 40, "{one} and {two}");
            prop_assert!(one <= value && faded(value, first + second + half_life, half_life) <= one);
        }
    }

    #[test]
    fn an_absence_is_forgotten_with_time_and_the_whole_life_where_nothing_is() {
        let world = |economy| {
            let mut world = World::of_nodes_with(2, economy);
            world.pass(60, &[1, 2]);
            world.pass(180, &[1]);
            world.pass(720, &[1, 2]);
            world
        };
        let forgetful = world(Economy { reputation_half_life_millis: HOUR / 20, ..economy() });
        let other = world(economy());
        let (fading, whole) = (forgetful.node(2), other.node(2));
        assert_eq!((forgetful.node(1).uptime, other.node(1).uptime), (FULL, FULL));
        // 3 of 16 minutes absent; by their end, the absence is four half-lives old.
        assert!((8_100..8_200).contains(&whole.uptime), "{}", whole.uptime);
        assert!((9_500..9_700).contains(&fading.uptime), "{}", fading.uptime);
        assert_eq!(fading.reputation, fading.uptime);
    }

    #[test]
    fn a_lost_lease_costs_half_and_settled_work_makes_up_for_it() {
        let mut world = World::of_nodes_with(3, fading());
        let short = JobSpec { round_limit_millis: 10_000, budget: 0, ..spec(1, Quorum::All) };
        let job = world.submit(1, short, 1);
        world.lease(2, job, 0);
        world.pass(12, &[1, 2, 3]);
        assert_eq!(world.task(job, 0).holder, None, "the lease lapsed");
        world.pass(1, &[1, 2, 3]);
        assert!((4_990..5_020).contains(&world.node(2).reputation), "{}", world.node(2).reputation);
        assert_eq!(world.node(2).uptime, FULL);
        let job = world.submit(1, JobSpec { budget: 0, ..spec(3, Quorum::All) }, 1);
        world.lease(2, job, 0);
        for _ in 0..3 {
            world.prove(2, 1, job, 0);
            world.close(job, &[2]);
        }
        world.pass(1, &[1, 2, 3]);
        // Four of five.
        assert!((7_990..8_030).contains(&world.node(2).reputation), "{}", world.node(2).reputation);
        let standing: Standing = world.query(query::GET_STANDING, &id(2));
        assert!(standing.settled > 2_980_000 && standing.settled <= 3_000_000, "{standing:?}");
        assert!(standing.lost > 980_000 && standing.lost < 1_000_000, "{standing:?}");
    }

    #[test]
    fn what_is_handed_back_failed_or_handed_over_in_vain_is_not_held_against_a_node() {
        let mut world = World::of_nodes_with(3, fading());
        let job = world.submit(1, JobSpec { budget: 0, ..spec(1, Quorum::All) }, 1);
        for status in [TaskStatus::Rollback, TaskStatus::Failed, TaskStatus::Delegated] {
            world.lease(2, job, 0);
            let started = world.report(job, 0, TaskStatus::InProgress);
            world.ok(2, started);
            let Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, error, .. } =
                world.report(job, 0, status)
            else {
                unreachable!()
            };
            let delegate = Some(id(3));
            world.ok(
                2,
                Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, delegate, error },
            );
            world.pass(70, &[1, 2, 3]);
            assert_eq!(world.task(job, 0).holder, None, "{status}");
        }
        assert_eq!((world.ledger.state.standing(&id(2)), world.node(2).reputation), (None, FULL));
    }

    #[test]
    fn a_penalty_halves_what_is_left_and_fades() {
        let mut world = World::of_nodes_with(1, fading());
        let reputation = |world: &mut World| {
            world.pass(1, &[1]);
            world.node(1).reputation
        };
        punish(&mut world.ledger.state, &id(1), 5_000);
        assert!((5_000..5_010).contains(&reputation(&mut world)));
        punish(&mut world.ledger.state, &id(1), 5_000);
        assert!((2_500..2_520).contains(&reputation(&mut world)));
        assert_eq!(world.node(1).status, NodeStatus::Degraded);
        world.pass(3_600, &[1]);
        assert!((6_240..6_270).contains(&reputation(&mut world)), "{}", world.node(1).reputation);
        let mut unforgiving = World::of_nodes_with(1, economy());
        punish(&mut unforgiving.ledger.state, &id(1), 10_000);
        unforgiving.pass(100, &[1]);
        assert_eq!(unforgiving.node(1).reputation, 0);
    }
}
