//! `peers` and `nodes`: who is connected, and who is registered.

use super::{
    Context, Error,
    output::{ago, or_dash, short, table},
};
use crate::{
    api::{Node, Peer},
    clock,
};

pub(super) async fn peers(context: &Context) -> Result<(), Error> {
    let peers = context.client()?.peers().await?;
    Ok(context.output.value(&peers, |peers| {
        let row = |peer: &Peer| {
            vec![
                peer.peer_id.clone(),
                or_dash(peer.node_id.as_ref()),
                peer.health.clone(),
                or_dash(peer.latency_ms.map(|latency| format!("{latency:.1} ms"))),
                peer.direction.clone(),
                or_dash(peer.addresses.first()),
            ]
        };
        let header = ["peer", "label", "health", "round trip", "direction", "address"];
        table(&header, &peers.iter().map(row).collect::<Vec<_>>(), "no peers; `status` says why")
    })?)
}

pub(super) async fn nodes(context: &Context) -> Result<(), Error> {
    let nodes = context.client()?.nodes().await?;
    let now = clock::now();
    Ok(context.output.value(&nodes, |nodes| {
        let row = |node: &Node| {
            vec![
                node.node_id.clone(),
                short(&node.id),
                node.status.to_string(),
                format!("{:.1}", node.reputation),
                format!("{:.1}%", node.uptime_percent),
                ago(node.last_heartbeat, now),
                node.active_tasks.to_string(),
                node.rewards.to_string(),
            ]
        };
        let header = ["label", "peer", "status", "reputation", "uptime", "last beat", "tasks", "rewards"];
        table(&header, &nodes.iter().map(row).collect::<Vec<_>>(), "no nodes are registered")
    })?)
}
