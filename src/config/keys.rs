//! The table of settings: the one place where a setting has its name.

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// Several texts; in the environment, separated by commas.
    List,
    /// A whole number, not negative.
    Integer,
    /// A finite number, not negative unless the setting says otherwise.
    Number,
    /// `true` or `false`.
    Flag,
}

impl Kind {
    /// What it takes, in words.
    pub const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::List => "a list of texts",
            Self::Integer => "a whole number that is not negative",
            Self::Number => "a number",
            Self::Flag => "true or false",
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file, with dots between tables.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The default as TOML; empty for none.
    pub default: &'static str,
    /// A documented environment variable beside `ATLAS_{NAME}`; empty for none.
    pub variable: &'static str,
    /// The flag of `start`; empty for none.
    pub flag: &'static str,
    /// What it is for.
    pub about: &'static str,
}

impl Key {
    /// The setting with this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// `ATLAS_NETWORK_LISTEN` for `network.listen`.
    pub fn atlas_variable(&self) -> String {
        format!("ATLAS_{}", self.name.replace('.', "_").to_uppercase())
    }
}

const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    variable: &'static str,
    flag: &'static str,
    about: &'static str,
) -> Key {
    Key { name, kind, default, variable, flag, about }
}

/// Every setting, in the order in which `config` shows them.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node.id", Kind::Text, "", "NODE_ID", "--node-id", "A label for people, at most 64 characters."),
    key("node.address", Kind::Text, "", "NODE_ADDRESS", "--address", "A bech32 account for rewards; the node's own if none."),
    key("node.chain_rpc_url", Kind::List, "['http://localhost:26657']", "CHAIN_RPC_URL", "--chain-rpc", "JSON-RPC of the ledger; several are tried in order."),
    key("node.ipfs_api_url", Kind::Text, "'/ip4/127.0.0.1/tcp/5001'", "IPFS_API_URL", "--ipfs-api", "A Kubo daemon (multiaddr or URL) that is asked to pin; `none` for none."),
    // Caps on what is lent; without one, what cgroup and affinity leave.
    key("resources.cpu_cores", Kind::Number, "", "", "--cpu-cores", "At most so many cores are lent; 0 takes no work."),
    key("resources.gpu_enabled", Kind::Flag, "true", "", "--no-gpu", "Lend GPUs."),
    key("resources.memory_gb", Kind::Number, "", "", "--memory-gb", "At most so much memory is lent (1 GB is 10^9 bytes)."),
    key("resources.storage_gb", Kind::Number, "", "", "--storage-gb", "At most so much disk is lent."),
    key("storage.for_others_gb", Kind::Number, "0", "", "--keep-gb", "So much disk holds content that others ask the network to keep; 0 for none. At most 90% of the room for blocks."),
    // 30 s and 90 s are the network's documented numbers.
    key("heartbeat.interval_seconds", Kind::Number, "30", "", "--heartbeat-interval", "Between two beats."),
    key("heartbeat.timeout_seconds", Kind::Number, "90", "", "--heartbeat-timeout", "Silence after which a peer is offline."),
    // Free ports, so that a second node on one machine starts too.
    key("network.listen", Kind::List, "['/ip4/0.0.0.0/tcp/0', '/ip4/0.0.0.0/udp/0/quic-v1']", "", "--listen", "Multiaddrs to listen on."),
    key("network.external", Kind::List, "[]", "", "--external", "Multiaddrs to announce beside those that peers observe."),
    key("network.bootstrap", Kind::List, "[]", "", "--bootstrap", "Multiaddrs of peers to join through."),
    key("network.swarm_key", Kind::Text, "", "", "--swarm-key", "File with the key of a private network; `swarm.key` in the data directory if it is there."),
    key("network.mdns", Kind::Flag, "true", "", "--no-mdns", "Find peers on the local network."),
    key("network.upnp", Kind::Flag, "true", "", "--no-upnp", "Ask the router for a port."),
    key("network.allow", Kind::List, "[]", "", "", "If not empty, only these peers are talked to."),
    key("network.block", Kind::List, "[]", "", "", "Peers never talked to."),
    // About 50 KiB a connection with Noise and Yamux: 25 MiB at the limit. A guess at what a home router stands.
    key("network.max_connections", Kind::Integer, "512", "", "", "Connections at once."),
    // Beats, tasks and gossip are small and not counted: a limit that starved them would cost the node its leases.
    key("network.upload_mbit", Kind::Number, "", "", "--upload-mbit", "Content goes out at no more than so many megabits (10^6 bits) a second, to all peers together."),
    key("network.upload_mbit_per_peer", Kind::Number, "", "", "", "The same, to one peer."),
    key("network.download_mbit", Kind::Number, "", "", "--download-mbit", "Content is asked for at no more than so many megabits a second, of all peers together."),
    key("network.download_mbit_per_peer", Kind::Number, "", "", "", "The same, of one peer."),
    key("ledger.mode", Kind::Text, "'rpc'", "", "--ledger", "`rpc` to reach a ledger, `embedded` to carry one in this process."),
    key("ledger.chain_id", Kind::Text, "'atlas-chain'", "", "--chain-id", "The chain that is meant; any other is refused."),
    key("ledger.host", Kind::Text, "", "", "--ledger-host", "Peer id of the node that hosts the ledger; asked directly when no `--chain-rpc` answers. The first that answers is remembered."),
    // Without both, trust begins at the first block seen, and the log says so.
    key("ledger.trust_height", Kind::Integer, "", "", "", "A block of the chain that you know: what RPC endpoints say is verified from it on. Needs `trust_hash`."),
    key("ledger.trust_hash", Kind::Text, "", "", "", "The hash of that block, in hexadecimal, from a source that you trust."),
    // What CometBFT's light client has, and half of the evidence's age in a genesis of `ledger init`.
    key("ledger.trusting_hours", Kind::Number, "168", "", "", "How long a verified block is trusted without a newer one. At most half of the `evidence.max_age_duration` of the chain's genesis (336 h by `ledger init`)."),
    key("ledger.stake", Kind::Integer, "0", "", "", "What this node bonds by itself where the ledger gives leases only for stake: at most this, in the ledger's smallest unit. More is bonded with `wallet bond`."),
    key("ledger.faucet_per_account", Kind::Integer, "1000000000000", "", "", "An embedded ledger credits this to each account that registers."),
    key("ledgers.accept", Kind::List, "['*']", "", "", "Chain ids whose jobs this node works for; `*` for all."),
    key("executor.python", Kind::Text, "", "", "--python", "The interpreter; otherwise `python3` or `python` on the path."),
    key("executor.work_dir", Kind::Text, "", "WORK_DIR", "--work-dir", "Where tasks have their work directories; `work` in the data directory if not set."),
    key("executor.stall_seconds", Kind::Number, "120", "", "", "Silence of a script that counts as a hang."),
    key("executor.grace_seconds", Kind::Number, "30", "", "", "From SIGTERM to SIGKILL of a script."),
    key("place.country", Kind::Text, "", "", "", "Where the node stands: a two-letter code. Never looked up unless `place.lookup_url` is set."),
    key("place.region", Kind::Text, "", "", "", "Likewise."),
    key("place.city", Kind::Text, "", "", "", "Likewise."),
    key("place.latitude", Kind::Number, "", "", "", "Likewise, in degrees."),
    key("place.longitude", Kind::Number, "", "", "", "Likewise, in degrees."),
    key("place.lookup_url", Kind::Text, "", "", "", "A service that is asked where this node stands."),
    key("api.listen", Kind::Text, "", "", "--api", "Loopback address of the control API beside its Unix socket, for example 127.0.0.1:8081."),
    key("log.level", Kind::Text, "'info'", "", "--log-level", "error, warn, info, debug, trace, or a filter such as `info,atlas_node::executor=debug`."),
];

/// The setting whose name is nearest to `name`, if any is near: a third of its letters may differ.
pub fn nearest(name: &str) -> Option<&'static str> {
    let last = |key: &'static str| key.rsplit('.').next().unwrap_or(key);
    let distance = |key: &&'static Key| edit_distance(name, key.name).min(edit_distance(name, last(key.name)));
    let best = KEYS.iter().min_by_key(distance)?;
    (distance(&best) <= 2.max(name.len() / 3)).then_some(best.name)
}

/// Letters to insert, remove or replace to get from one text to the other (Levenshtein).
pub fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_key_finds_the_one_that_was_meant() {
        assert_eq!(nearest("network.listne"), Some("network.listen"));
        assert_eq!(nearest("listen"), Some("network.listen"));
        assert_eq!(nearest("node.chain_rpc"), Some("node.chain_rpc_url"));
        assert_eq!(nearest("colour"), None);
    }

    #[test]
    fn every_default_is_of_its_kind() {
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            let table: toml::Table = format!("x = {}", key.default).parse().unwrap();
            let fits = match key.kind {
                Kind::Text => table["x"].is_str(),
                Kind::List => table["x"].is_array(),
                Kind::Integer => table["x"].is_integer(),
                Kind::Number => table["x"].is_integer() || table["x"].is_float(),
                Kind::Flag => table["x"].is_bool(),
            };
            assert!(fits, "{}", key.name);
        }
    }
}
