//! One block: its time, its transactions, and what time alone brings about at its end.

use super::{BlockResult, Ledger, TransactionResult, jobs, money, nodes, state::State, tasks, transaction};
use crate::types::Time;

/// Applies the next block.
pub(super) fn apply(ledger: &mut Ledger, time: Time, transactions: &[Vec<u8>]) -> BlockResult {
    let state = &mut ledger.state;
    advance_clock(state, time);
    let results: Vec<TransactionResult> = transactions.iter().map(|bytes| transaction::apply(state, bytes)).collect();
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
    let waiting = state.index().next_deadline().is_some() || !state.due_payouts(u64::MAX).is_empty();
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
