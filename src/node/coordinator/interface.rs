//! What the coordinator is told and what it says: plain data, so that a run can be recorded and replayed.
//!
//! It decides nothing. What an input means lies in `on_*.rs`; what an output does, in the event loop.

use libp2p::{Multiaddr, PeerId};
use serde::{Deserialize, Serialize};

use super::{GossipId, Host, PeerEvent, Verdict};
use crate::{
    api,
    chain::{client, rpc as ledger_rpc, wire::Message},
    executor, health,
    node::edges,
    proof, shard,
    types::{ContentId, Digest, LedgerId, Signed},
};

/// What happened.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// A person or a tool asks something.
    Command {
        /// Repeated by [`Output::Reply`].
        id: u64,
        /// What.
        command: api::Command,
    },
    /// Connections, addresses and discovery.
    Peer(PeerEvent),
    /// A gossip message.
    Gossip {
        /// Its topic.
        topic: String,
        /// Names the message and its forwarder; repeated by [`Output::GossipVerdict`].
        id: GossipId,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// The host was looked at.
    Host(Box<Host>),
    /// The known-answer run of this host has ended with this root.
    KnownAnswer(Digest),
    /// A ledger's client reports.
    Ledger {
        /// Which ledger.
        ledger: LedgerId,
        /// What.
        event: client::Event,
    },
    /// The executor reports.
    Executor(executor::Event),
    /// The inference protocol reports.
    Inference(executor::inference::Event),
    /// Health reports.
    Health(health::Event),
    /// Proof reports.
    Proof(proof::Event),
    /// Shard reports.
    Shard(shard::Event),
    /// A peer asks a ledger that this node may carry, or a call of ours has its answer.
    LedgerRpc(ledger_rpc::Event),
    /// An edge answers.
    Edge {
        /// As in the request.
        id: u64,
        /// What came out.
        answer: edges::Answer,
    },
    /// The disk lost blocks, which were dropped.
    Rotten,
    /// The operator or the system wants the node to stop.
    Shutdown {
        /// Why.
        reason: String,
    },
    /// Time passed.
    Tick,
}

/// What should happen.
#[derive(Debug)]
pub enum Output {
    /// Answer a command.
    Reply {
        /// As in the command.
        id: u64,
        /// The answer.
        result: Box<Result<api::Reply, api::Error>>,
    },
    /// Tell whoever watches.
    Notify(api::NodeEvent),
    /// Tell the executor.
    Executor(executor::Input),
    /// Tell the inference protocol.
    Inference(executor::inference::Input),
    /// Tell health.
    Health(health::Input),
    /// Tell proof.
    Proof(proof::Input),
    /// Tell shard.
    Shard(shard::Input),
    /// Tell the ledger protocol.
    LedgerRpc(ledger_rpc::Input),
    /// Publish on gossip.
    Publish {
        /// Where.
        topic: String,
        /// What.
        message: Signed,
    },
    /// Join a topic.
    Subscribe(String),
    /// Leave a topic.
    Unsubscribe(String),
    /// Forward a message or not.
    GossipVerdict {
        /// Which.
        id: GossipId,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// Close the connections with a peer and refuse further ones.
    CutOff(PeerId),
    /// Refuse its connections no longer.
    Readmit(PeerId),
    /// Dial an address.
    Dial(Multiaddr),
    /// Remember where a peer is.
    AddAddress {
        /// Who.
        peer: PeerId,
        /// Where.
        address: Multiaddr,
    },
    /// Ask the routing table who provides this.
    FindProviders(ContentId),
    /// Say that this node provides this.
    Provide(ContentId),
    /// Send a transaction.
    Submit {
        /// To which ledger.
        ledger: LedgerId,
        /// Repeated by the client's event.
        id: u64,
        /// What.
        message: Message,
        /// Whether it must survive a restart.
        durable: bool,
    },
    /// Follow a job's ledger through the peer that carries it.
    OpenLedger {
        /// Which.
        ledger: LedgerId,
        /// Who carries it.
        host: PeerId,
    },
    /// Follow a job's ledger no longer.
    CloseLedger(LedgerId),
    /// Work for an edge; exactly one [`Input::Edge`] with this id follows.
    Edge {
        /// Repeated by the answer.
        id: u64,
        /// What.
        request: edges::Request,
    },
    /// Pin a root on Kubo, now or when it answers.
    Pin {
        /// What.
        root: ContentId,
        /// Under which name.
        name: String,
    },
    /// No longer.
    Unpin {
        /// What.
        root: ContentId,
    },
    /// Remember connected peers across restarts.
    RememberPeers(Vec<(PeerId, Multiaddr)>),
    /// Everything is put away: exit.
    Exit,
}
