//! One block: its time, its transactions, and what time alone brings about at its end.

use super::{
    BlockResult, Ledger, TransactionResult, governance, jobs, money, nodes, stake, state::State, storage, tasks,
    transaction,
};
use crate::types::Time;

/// Applies the next block.
pub(super) fn apply(ledger: &mut Ledger, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
    let (state, known) = (&mut ledger.state, &ledger.verified);
    advance_clock(state, time);
    let results: Vec<TransactionResult> =
        transactions.iter().map(|bytes| transaction::apply(state, known, bytes)).collect();
    end(state);
    let events = state.take_events();
    ledger.commit();
    BlockResult { height: ledger.height(), time: ledger.time(), app_hash: ledger.app_hash(), results, events }
}

/// Block time never goes back, and live time grows by a bounded step.
fn advance_clock(state: &mut State, time: Time) {
    let mut clock = state.clock();
    let time = time.max(clock.time);
    let step = (time.as_millis() - clock.time.as_millis()).min(state.parameters().live_step_max_millis);
    clock.height += 1;
    clock.time = time;
    clock.live = clock.live.saturating_add(step);
    state.put_clock(clock);
}

fn end(state: &mut State) {
    end_silent(state);
    tasks::end_lapsed(state);
    jobs::end_overdue(state);
    money::release_due(state);
    stake::release_due(state);
    storage::end_over(state);
    // Last: this block ran by the old numbers to its end.
    governance::take_effect(state);
}

/// Nodes that sent no beat for too long go offline.
fn end_silent(state: &mut State) {
    let limit = state.parameters().offline_after_millis;
    while let Some((last_beat, node)) = state.index().most_silent()
        && state.clock().live.saturating_sub(last_beat) > limit
    {
        nodes::go_offline(state, &node, "the node went offline");
    }
}

/// Whether a block made of nothing but time would change something soon: an open job has leases and a deadline, a
/// payout waits for its height, or a node has been silent for a third of the limit and may be gone. An idle ledger
/// whose nodes beat needs no blocks but those that carry the beats.
pub(super) fn has_open_work(state: &State) -> bool {
    let waiting = state.index().next_deadline().is_some() || state.has_payouts();
    waiting || a_node_is_silent(state)
}

fn a_node_is_silent(state: &State) -> bool {
    let tolerated = state.parameters().offline_after_millis / 3;
    let node = state.index().most_silent().and_then(|(_, node)| state.node(&node));
    node.is_some_and(|node| {
        let silence = state.clock().time.as_millis().saturating_sub(node.last_heartbeat.as_millis());
        silence >= tolerated
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{World, spec};
    use crate::types::{Quorum, Time};

    #[test]
    fn block_time_never_goes_back() {
        let mut world = World::of_nodes(1);
        let time = world.ledger.time();
        let result = world.ledger.apply_block(Time::ZERO, &[]);
        assert_eq!((result.time, world.ledger.time()), (time, time));
    }

    #[test]
    fn time_needs_blocks_while_a_job_is_open_or_a_node_is_silent() {
        let mut world = World::of_nodes(2);
        assert!(!world.ledger.has_open_work());
        world.pass(29, &[1]);
        assert!(!world.ledger.has_open_work());
        world.pass(2, &[1]);
        assert!(world.ledger.has_open_work(), "node 2 missed a beat");
        world.pass(62, &[1]);
        assert!(!world.ledger.has_open_work(), "node 2 is offline");
        let job = world.submit(1, spec(1, Quorum::All), 1);
        assert!(world.ledger.has_open_work());
        world.ok(1, crate::chain::wire::Message::CancelJob { job_id: job });
        assert!(!world.ledger.has_open_work());
    }

    #[test]
    fn garbage_gets_a_result_each_and_stops_nothing() {
        let mut world = World::of_nodes(1);
        let results = world.block(1, &[vec![], vec![0xff; 9], vec![0; 600 * 1024]]).results;
        assert!(results.iter().all(|result| result.code == 1 && !result.log.is_empty()));
        assert!(world.ledger.query("/nothing", &[]).is_err());
        assert!(world.ledger.query(crate::chain::wire::query::GET_JOB, &[1]).is_err());
    }
}
