//! A hostile peer among honest nodes: whatever it does, they stay online to each other and do their work, and it is cut off
//! with a reason.
//!
//! The nodes are real processes. What is bounded in time here is that it ends at all; how much slower honest nodes get is
//! measured by `scripts/hostile`.

use std::{fs, time::Duration};

use atlas_node::{
    api::{CutOff, ShardGet},
    clock,
    identity::Keypair,
};
use libp2p::Multiaddr;
use tokio::task::JoinHandle;

use crate::{
    e2e::{
        lab::{Job, Lab, ONE_TASK, SHORT},
        node::Node,
        wait::{START, until},
    },
    hostile_peer::Attack,
};

/// A node's greatest resident size in MiB, attacked or not: a job's blocks, its ledger and debug code take 100.
const MOST_MIB: u64 = 256;
/// Somebody is cut off by then, on a busy machine too; most are within a second.
const CUT_OFF: Duration = Duration::from_secs(60);
/// SHA-256 of things that nobody has.
const NOWHERE: [&str; 2] = [
    "bafkreiemqpndzewx4bioklzfvhtiegsfny5fxuc3nkjk2vmcpjxiammsti",
    "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e",
];

/// Two nodes that do work, and an attack on the first.
struct Siege {
    lab: Lab,
    attacker: String,
    attack: JoinHandle<()>,
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.attack.abort();
    }
}

impl Siege {
    async fn begin(attack: Attack) -> Self {
        let lab = Lab::mesh(2, ONE_TASK).await;
        let secret = clock::random_bytes();
        let address: Multiaddr = lab.nodes[0].address.parse().unwrap();
        let attacker = Keypair::from_secret(&secret).peer_id().to_string();
        Self { attack: tokio::spawn(attack.run(address, secret)), lab, attacker }
    }

    /// Whoever attacks is cut off; why.
    async fn cut_off(&self) -> CutOff {
        let client = self.lab.nodes[0].client();
        until("the hostile peer is cut off", CUT_OFF, async || {
            client.status().await.ok()?.cut_off.into_iter().find(|cut_off| cut_off.peer_id == self.attacker)
        })
        .await
    }

    /// Work goes on, everybody honest is online, and no memory is eaten.
    async fn honest_nodes_do_their_work(&self) {
        let submitted = self.lab.submit(2, &Job { shards: 2, rounds: 1, ..SHORT }).await;
        self.lab.completed(1, submitted.job_id).await;
        self.lab.all_online(1).await;
        for node in &self.lab.nodes {
            let peers = node.client().peers().await.unwrap();
            for other in self.lab.nodes.iter().filter(|other| other.peer_id != node.peer_id) {
                let found = peers.iter().find(|peer| peer.peer_id == other.peer_id);
                assert!(found.is_some_and(|peer| peer.health == "alive"), "{} lost {}", node.label, other.label);
            }
            let most = most_resident_mib(node);
            assert!(most < MOST_MIB, "{} took {most} MiB", node.label);
            let cut_off = node.client().status().await.unwrap().cut_off;
            let honest = |cut_off: &CutOff| self.lab.nodes.iter().any(|node| node.peer_id == cut_off.peer_id);
            assert!(!cut_off.iter().any(honest), "{} cut off an honest node: {cut_off:?}", node.label);
        }
    }

    /// The whole story: work while it goes on, and an end that has a reason. Returns the reason.
    async fn fails(&self) -> String {
        let (cut_off, ()) = tokio::join!(self.cut_off(), self.honest_nodes_do_their_work());
        let log = self.lab.nodes[0].log();
        let line = log.lines().find(|line| line.contains("a peer is cut off") && line.contains(&self.attacker));
        let line = line.expect("the log says so");
        assert!(line.contains(" WARN ") && line.contains(&cut_off.reason), "{line}");
        let client = self.lab.nodes[0].client();
        until("its connections are closed", CUT_OFF, async || {
            let peers = client.peers().await.ok()?;
            peers.iter().all(|peer| peer.peer_id != self.attacker).then_some(())
        })
        .await;
        let metrics = client.metrics().await.unwrap();
        assert!(metrics.counters["peers_cut_off"] >= 1);
        cut_off.reason
    }
}

fn most_resident_mib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_floods_gossip_with_garbage_is_cut_off() {
    let reason = Siege::begin(Attack::GossipGarbage).await.fails().await;
    assert!(reason.contains("gossip"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_floods_gossip_with_useless_words_is_cut_off_and_whoever_forwarded_some_is_not() {
    let reason = Siege::begin(Attack::GossipUseless).await.fails().await;
    assert!(reason.contains("gossip message(s) over the budget"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_connects_again_and_again_is_cut_off() {
    let reason = Siege::begin(Attack::Connections).await.fails().await;
    assert!(reason.contains("connection(s) over the budget"), "{reason}");
}

/// Nobody is cut off, for nobody comes twice: their address is refused.
async fn address_is_refused(attack: Attack) {
    let siege = Siege::begin(attack).await;
    let refused = until("the address is refused", CUT_OFF, async || {
        let log = siege.lab.nodes[0].log();
        log.lines().find(|line| line.contains("connections from an address are refused")).map(str::to_owned)
    });
    let (line, ()) = tokio::join!(refused, siege.honest_nodes_do_their_work());
    assert!(line.contains(" WARN ") && line.contains("address=127.0.0.1"), "{line}");
    let lines = siege.lab.nodes[0].log().matches("connections from an address are refused").count();
    assert!(lines <= 2, "once a minute: {lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_connects_as_ever_new_peers_is_refused() {
    address_is_refused(Attack::Identities).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_whose_connections_never_say_who_they_are_is_refused() {
    address_is_refused(Attack::Handshakes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_opens_streams_without_end_is_cut_off() {
    let reason = Siege::begin(Attack::Streams).await.fails().await;
    assert!(reason.contains("stream(s) of /atlas/") && reason.contains("over the budget"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_leaves_its_requests_unfinished_is_cut_off() {
    let reason = Siege::begin(Attack::HalfRequests).await.fails().await;
    assert!(reason.contains("unfinished request(s)"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_messages_are_a_byte_too_long_is_cut_off() {
    let reason = Siege::begin(Attack::Oversize).await.fails().await;
    assert!(reason.contains("over the limit"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_gossip_is_a_byte_too_long_is_cut_off() {
    let reason = Siege::begin(Attack::OversizeGossip).await.fails().await;
    assert!(reason.contains("gossip stream(s) begun again, as after a message over the limit"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_forges_the_beats_of_another_is_cut_off() {
    let reason = Siege::begin(Attack::Forgeries).await.fails().await;
    assert!(reason.contains("forged message(s) of /atlas/health/1"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_announces_messages_of_four_gigabytes_is_cut_off() {
    let reason = Siege::begin(Attack::Bombs).await.fails().await;
    assert!(reason.contains("over the limit"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_nonsense_is_cut_off() {
    let reason = Siege::begin(Attack::Nonsense).await.fails().await;
    assert!(reason.contains("malformed message(s)"), "{reason}");
}

/// Asks the first node for content that nobody has, once the hostile peer is there to be asked.
async fn ask_for_nothing(siege: &Siege) -> Vec<JoinHandle<()>> {
    let client = siege.lab.nodes[0].client();
    until("the hostile peer is connected", START, async || {
        client.peers().await.ok()?.into_iter().find(|peer| peer.peer_id == siege.attacker)
    })
    .await;
    let ask = |cid: &&str| {
        let (client, cid) = (siege.lab.nodes[0].client(), cid.parse().unwrap());
        tokio::spawn(async move {
            let _ = client.shard_get(&ShardGet::keep(cid)).await;
        })
    };
    NOWHERE.iter().map(ask).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_gives_other_blocks_than_it_was_asked_for_is_cut_off() {
    let siege = Siege::begin(Attack::Lies).await;
    let asked = ask_for_nothing(&siege).await;
    let reason = siege.fails().await;
    assert!(reason.contains("block(s) that are not what their name says"), "{reason}");
    asked.iter().for_each(JoinHandle::abort);
}

/// Who is newer says some hundred things that a node can't read while it does its work, and is no enemy.
async fn is_no_enemy(newer: Attack) {
    let siege = Siege::begin(newer).await;
    siege.honest_nodes_do_their_work().await;
    let client = siege.lab.nodes[0].client();
    assert_eq!(client.status().await.unwrap().cut_off, []);
    let peers = client.peers().await.unwrap();
    assert!(peers.iter().any(|peer| peer.peer_id == siege.attacker), "it is still connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_gossip_is_of_a_newer_version_is_not_cut_off() {
    is_no_enemy(Attack::NewerGossip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_requests_are_of_a_newer_version_is_not_cut_off() {
    is_no_enemy(Attack::NewerRequests).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_answers_holds_nobody_up_and_is_not_taken_for_an_enemy() {
    let siege = Siege::begin(Attack::Silence).await;
    let asked = ask_for_nothing(&siege).await;
    siege.honest_nodes_do_their_work().await;
    assert_eq!(siege.lab.nodes[0].client().status().await.unwrap().cut_off, []);
    asked.iter().for_each(JoinHandle::abort);
}
