//! What the operator sets: file < registration < environment < flags, validated once, then trusted.
//!
//! One table ([`keys::KEYS`]) names every setting with its type, default, environment variable and flag. [`Layers`]
//! collects what was typed and remembers where; [`Layers::resolve`] turns it into a [`Config`] or says which flag, variable or key to
//! change. Nothing after this module reads the environment or doubts a value.

pub mod keys;
mod layers;
mod resolve;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use libp2p::{Multiaddr, PeerId, pnet::PreSharedKey};

use crate::types::Digest;

pub use layers::{Layers, Setting, Source, save_registration};
pub use resolve::check_address;

/// Everything a node is told before it starts. All of it is valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the node keeps its key, blocks, records and logs; exists, mode 0700.
    pub data_dir: PathBuf,
    /// A label for people; `None` for one made from the peer id.
    pub node_id: Option<String>,
    /// A valid bech32 account for rewards; `None` for the node's own.
    pub address: Option<String>,
    /// How the ledger is reached or carried.
    pub ledger: Ledger,
    /// The Kubo daemon, a multiaddr or URL; `None` to ask none.
    pub ipfs_api: Option<String>,
    /// The mesh.
    pub network: Network,
    /// What is lent.
    pub resources: Caps,
    /// Bytes of room for content of others.
    pub keeps: u64,
    /// The pulse.
    pub heartbeat: Heartbeat,
    /// Running scripts.
    pub executor: Executor,
    /// Where the node stands, as its operator says.
    pub place: Place,
    /// Loopback address of the control API beside its Unix socket.
    pub api: Option<SocketAddr>,
    /// For the log on stderr: a level, or a filter as `tracing-subscriber` reads it.
    pub log_level: String,
    /// End when standard input ends: what a launcher sets, so that its own death ends its nodes.
    pub exit_with_parent: bool,
    /// What the operator should know of these settings; shown in the log and in `status`.
    pub warnings: Vec<String>,
}

/// Where the ledger is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerMode {
    /// This process carries it, for one machine or one lab, and serves it at the first RPC address.
    Embedded,
    /// JSON-RPC of a chain, or of another node that carries one.
    Rpc,
}

/// How the ledger is reached or carried.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Where it is.
    pub mode: LedgerMode,
    /// JSON-RPC endpoints, tried in order; at least one.
    pub rpc: Vec<String>,
    /// The chain id; any other chain is refused.
    pub chain_id: String,
    /// The peer that hosts it, if the operator says; otherwise the first that answers is remembered.
    pub host: Option<PeerId>,
    /// Height and hash of a block that the operator knows; otherwise trust begins at the first block seen.
    pub trust: Option<(u64, Digest)>,
    /// How long a verified block is trusted without a newer one.
    pub trusting_period: Duration,
    /// Chain ids whose jobs this node works for; `*` for all.
    pub accept: Vec<String>,
    /// What the node bonds by itself at most, where leases need stake; in the smallest unit.
    pub stake: u64,
    /// What an embedded ledger credits to each account that registers, in the smallest unit.
    pub faucet_per_account: u64,
}

/// The mesh.
#[derive(Clone, Debug)]
pub struct Network {
    /// Addresses to listen on; at least one.
    pub listen: Vec<Multiaddr>,
    /// Addresses announced beside what peers observe.
    pub external: Vec<Multiaddr>,
    /// Peers to join through; may be empty.
    pub bootstrap: Vec<Multiaddr>,
    /// The key of a private network. TCP alone: there is no QUIC with it.
    pub swarm_key: Option<PreSharedKey>,
    /// Find peers on the local network.
    pub mdns: bool,
    /// Ask the router for a port.
    pub upnp: bool,
    /// If not empty, no other peer is talked to.
    pub allow: Vec<PeerId>,
    /// Peers never talked to.
    pub block: Vec<PeerId>,
    /// Connections at once.
    pub max_connections: u32,
    /// Content that goes out.
    pub upload: Rate,
    /// Content that comes in.
    pub download: Rate,
}

/// Bytes of content a second at most; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// With all peers together.
    pub total: Option<u64>,
    /// With one peer.
    pub per_peer: Option<u64>,
}

/// Upper limits to what is lent; `None` for what the machine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Thousandths of a core.
    pub cpu_millicores: Option<u64>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes.
    pub storage_bytes: Option<u64>,
    /// Lend GPUs.
    pub gpu_enabled: bool,
}

/// The pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two beats.
    pub interval: Duration,
    /// Silence after which a peer is offline; at least two intervals.
    pub timeout: Duration,
}

/// Running scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// The interpreter; `None` for the first of `python3` and `python` on the path.
    pub python: Option<PathBuf>,
    /// Where tasks have their work directories.
    pub work_dir: PathBuf,
    /// Silence of a script that counts as a hang.
    pub stall: Duration,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

/// Where a node stands. Empty unless the operator says or opts in to a look-up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// ISO 3166-1 alpha-2, by convention.
    pub country: Option<String>,
    /// For people.
    pub region: Option<String>,
    /// For people.
    pub city: Option<String>,
    /// Degrees, −90 to 90.
    pub latitude: Option<f64>,
    /// Degrees, −180 to 180.
    pub longitude: Option<f64>,
    /// A service that answers `{country, region, city, latitude, longitude}` about the caller; asked only if set.
    pub lookup_url: Option<String>,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("the configuration file {} can't be read; give another --config", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is no TOML", .path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// There is no such setting.
    #[error("{}: there is no setting `{key}`{}", .path.display(), .suggestion.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default())]
    UnknownKey {
        /// In which file.
        path: PathBuf,
        /// What was written.
        key: String,
        /// The nearest that exists.
        suggestion: Option<&'static str>,
    },
    /// A value is not what its setting takes.
    #[error("{source_name} (`{key}`): {reason}")]
    Value {
        /// The setting.
        key: &'static str,
        /// Where the value came from: the flag, variable or file to change.
        source_name: String,
        /// What is wrong, and what it should be.
        reason: String,
    },
    /// The data directory can't be used.
    #[error("the data directory {} can't be used; give another --data-dir", .path.display())]
    DataDirectory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither a flag nor the environment tells where files go.
    #[error("no data directory: give --data-dir (HOME is not set)")]
    NoDataDirectory,
}
