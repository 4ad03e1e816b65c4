//! The flags that set what a configuration file can set too.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::Value;

use super::Error;
use crate::config::Layers;

/// Flags of the settings; each beats the environment, which beats the file.
#[derive(Debug, Default, Args)]
pub(super) struct Settings {
    /// Configuration file. Default: atlas.toml in the data directory, if it is there.
    #[arg(long, value_name = "FILE", env = "ATLAS_CONFIG")]
    config: Option<PathBuf>,
    /// A label for people.
    #[arg(long, value_name = "LABEL")]
    node_id: Option<String>,
    /// A bech32 account for rewards; the node's own if none.
    #[arg(long, value_name = "ACCOUNT")]
    address: Option<String>,
    /// JSON-RPC of the ledger; may be given several times. Default: http://localhost:26657
    #[arg(long, value_name = "URL")]
    chain_rpc: Vec<String>,
    /// A Kubo daemon that is asked to pin, as multiaddr or URL; `none` for none. Default: /ip4/127.0.0.1/tcp/5001
    #[arg(long, value_name = "ADDRESS")]
    ipfs_api: Option<String>,
    /// Multiaddr to listen on; may be given several times. Default: free ports, TCP and QUIC
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Multiaddr to announce beside those that peers observe; may be given several times.
    #[arg(long, value_name = "MULTIADDR")]
    external: Vec<String>,
    /// Multiaddr of a peer to join through; may be given several times.
    #[arg(long, value_name = "MULTIADDR")]
    bootstrap: Vec<String>,
    /// `rpc` to reach a ledger, `embedded` to carry one in this process. Default: rpc
    #[arg(long, value_name = "MODE")]
    ledger: Option<String>,
    /// The chain that is meant. Default: atlas-chain
    #[arg(long, value_name = "ID")]
    chain_id: Option<String>,
    /// Peer that hosts the ledger, asked directly when no --chain-rpc answers. Default: the first that answered
    #[arg(long, value_name = "PEER_ID")]
    ledger_host: Option<String>,
    /// File with the key of a private network.
    #[arg(long, value_name = "FILE")]
    swarm_key: Option<String>,
    /// Find peers on the local network (the default; beats the file).
    #[arg(long, overrides_with = "no_mdns")]
    mdns: bool,
    /// Don't look for peers on the local network.
    #[arg(long)]
    no_mdns: bool,
    /// Ask the router for a port (the default; beats the file).
    #[arg(long, overrides_with = "no_upnp")]
    upnp: bool,
    /// Don't ask the router for a port.
    #[arg(long)]
    no_upnp: bool,
    /// Content goes out at no more than so many megabits a second.
    #[arg(long, value_name = "MBIT")]
    upload_mbit: Option<f64>,
    /// Content is asked for at no more than so many megabits a second.
    #[arg(long, value_name = "MBIT")]
    download_mbit: Option<f64>,
    /// Don't lend GPUs.
    #[arg(long)]
    no_gpu: bool,
    /// Lend at most so many cores; 0 takes no work.
    #[arg(long, value_name = "CORES")]
    cpu_cores: Option<f64>,
    /// Lend at most so much memory, in GB (10^9 bytes).
    #[arg(long, value_name = "GB")]
    memory_gb: Option<f64>,
    /// Lend at most so much disk, in GB (10^9 bytes).
    #[arg(long, value_name = "GB")]
    storage_gb: Option<f64>,
    /// Keep content of others in so much disk, in GB (10^9 bytes). Default: 0
    #[arg(long, value_name = "GB")]
    keep_gb: Option<f64>,
    /// Seconds between two beats. Default: 30
    #[arg(long, value_name = "SECONDS")]
    heartbeat_interval: Option<f64>,
    /// Seconds of silence after which a peer is offline. Default: 90
    #[arg(long, value_name = "SECONDS")]
    heartbeat_timeout: Option<f64>,
    /// The Python interpreter. Default: python3 or python on the path
    #[arg(long, value_name = "PROGRAM")]
    python: Option<String>,
    /// Where tasks have their work directories.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<String>,
    /// Loopback address for the control API beside its Unix socket, for example 127.0.0.1:8081.
    #[arg(long, value_name = "ADDRESS")]
    api: Option<String>,
    /// error, warn, info, debug, trace, or a filter such as `info,atlas_node::executor=debug`. Default: info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Settings {
    /// All settings, from the defaults to these flags.
    pub(super) fn layers(&self, data_dir: &Path) -> Result<Layers, Error> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let layers = Layers::new(data_dir).with_files(self.config.as_deref())?.with_environment(environment)?;
        Ok(layers.with_flags(self.flags()))
    }

    fn flags(&self) -> Vec<(&'static str, Value)> {
        let text = |value: &Option<String>| value.clone().map(Value::String);
        let number = |value: Option<f64>| value.map(Value::Float);
        let list = |values: &[String]| (!values.is_empty()).then(|| values.to_vec().into());
        let switch = |on: bool, off: bool| (on || off).then_some(Value::Boolean(!off));
        let flags = [
            ("node.id", text(&self.node_id)),
            ("node.address", text(&self.address)),
            ("node.chain_rpc_url", list(&self.chain_rpc)),
            ("node.ipfs_api_url", text(&self.ipfs_api)),
            ("network.listen", list(&self.listen)),
            ("network.external", list(&self.external)),
            ("network.bootstrap", list(&self.bootstrap)),
            ("network.swarm_key", text(&self.swarm_key)),
            ("network.mdns", switch(self.mdns, self.no_mdns)),
            ("network.upnp", switch(self.upnp, self.no_upnp)),
            ("network.upload_mbit", number(self.upload_mbit)),
            ("network.download_mbit", number(self.download_mbit)),
            ("ledger.mode", text(&self.ledger)),
            ("ledger.chain_id", text(&self.chain_id)),
            ("ledger.host", text(&self.ledger_host)),
            ("resources.gpu_enabled", switch(false, self.no_gpu)),
            ("resources.cpu_cores", number(self.cpu_cores)),
            ("resources.memory_gb", number(self.memory_gb)),
            ("resources.storage_gb", number(self.storage_gb)),
            ("storage.for_others_gb", number(self.keep_gb)),
            ("heartbeat.interval_seconds", number(self.heartbeat_interval)),
            ("heartbeat.timeout_seconds", number(self.heartbeat_timeout)),
            ("executor.python", text(&self.python)),
            ("executor.work_dir", text(&self.work_dir)),
            ("api.listen", text(&self.api)),
            ("log.level", text(&self.log_level)),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// The label and address that were given as flags.
    pub(super) fn registration(&self) -> (Option<&str>, Option<&str>) {
        (self.node_id.as_deref(), self.address.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Key;

    #[test]
    fn every_flag_names_a_setting_that_names_the_flag() {
        let all = Settings {
            node_id: Some("a".into()),
            chain_rpc: vec!["http://localhost:1".into()],
            no_mdns: true,
            cpu_cores: Some(1.0),
            log_level: Some("info".into()),
            ..Settings::default()
        };
        let flags = all.flags();
        assert_eq!(flags.len(), 5);
        for (name, _) in flags {
            assert!(Key::find(name).is_some_and(|key| !key.flag.is_empty()), "{name}");
        }
    }
}
