//! Content between two real nodes over a line that is far or lossy.

use std::{fs, path::Path};

use atlas_node::{
    api::{ShardAdd, ShardGet},
    clock,
};

use crate::{
    e2e::{
        lab::{Lab, free_port},
        node::Node,
    },
    link::{End, Line, Link},
};

const MIB: usize = 1024 * 1024;
/// What is moved: five seconds of the line.
const CONTENT: usize = 64 * MIB;
/// The share of the line that it has to take, start and all, on a machine that does other things too; on an idle one it takes
/// twice as much. A window that does not grow takes 0.08 of a line of 200 ms, and a congestion control that takes each loss for
/// a full queue 0.03 of a lossy one.
const SHARE: f64 = 0.3;

/// A node at one end of a line that listens at `transport` alone.
async fn start(lab: &mut Lab, label: &str, end: &End, transport: &str, flags: &[&str]) -> usize {
    // No ledger answers: content moves without one.
    let rpc = format!("http://127.0.0.1:{}", free_port());
    let flags = [&["--ledger", "rpc", "--chain-rpc", &rpc, "--storage-gb", "1"], flags].concat();
    let mut node = Node::new(lab.path(), label, &flags);
    node.within_listening(end.within.clone(), format!("/ip4/{}/{transport}", end.address));
    node.start().await;
    lab.nodes.push(node);
    lab.nodes.len() - 1
}

/// Bytes of which no two blocks are alike.
fn write_content(path: &Path) {
    let bytes: Vec<u8> = (0_u64..).flat_map(u64::to_be_bytes).take(CONTENT).collect();
    fs::write(path, bytes).unwrap();
}

/// The share of the line that a fetch from one end to the other takes; `None` where there can be no line.
async fn share_of(line: Line, transport: &str) -> Option<f64> {
    let link = Link::lay(&line).unwrap()?;
    let mut lab = Lab::new();
    let content = lab.path().join("content");
    write_content(&content);
    let giver = start(&mut lab, "giver", &link.left, transport, &[]).await;
    let bootstrap = lab.nodes[giver].address.clone();
    let taker = start(&mut lab, "taker", &link.right, transport, &["--bootstrap", &bootstrap]).await;
    lab.nodes[taker].until_status("it is connected", |status| status.peers > 0).await;
    let added = lab.nodes[giver].client().shard_add(&ShardAdd { path: content.clone(), car: false }).await.unwrap();
    let began = clock::now();
    let client = lab.nodes[taker].client();
    client.shard_get(&ShardGet::keep(added.cid)).await.unwrap();
    let seconds = clock::now().since(began).as_secs_f64();
    let copy = lab.path().join("copy");
    client.shard_get(&ShardGet::to(added.cid, copy.clone())).await.unwrap();
    assert!(fs::read(copy).unwrap() == fs::read(content).unwrap(), "the content is another");
    drop(lab);
    let told = link.end().unwrap();
    eprintln!("{line:?} {transport}: {seconds:.2} s; {told:?}");
    Some(CONTENT as f64 * 8.0 / seconds / (f64::from(line.mbit) * 1e6))
}

#[tokio::test(flavor = "multi_thread")]
async fn content_fills_a_line_of_200_ms_over_tcp() {
    let line = Line { mbit: 100, rtt_ms: 200, loss: 0.0, seed: 1 };
    let Some(share) = share_of(line, "tcp/0").await else { return };
    assert!(share >= SHARE, "{share:.2} of the line");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_fills_a_lossy_line_over_quic() {
    let line = Line { mbit: 100, rtt_ms: 50, loss: 0.01, seed: 1 };
    let Some(share) = share_of(line, "udp/0/quic-v1").await else { return };
    assert!(share >= SHARE, "{share:.2} of the line");
}
