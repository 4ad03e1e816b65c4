//! From what was typed to what is used: every value is checked here and nowhere after.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol, pnet::PreSharedKey};
use toml::Value;

use super::{Caps, Config, Error, Executor, Heartbeat, Layers, Ledger, LedgerMode, Network, Place, Rate, Source};
use crate::types::Digest;

/// The longest label (it is on the ledger).
const MAX_LABEL: usize = 64;
/// More of a resource than any machine has: keeps the conversion to integers exact.
const MAX_AMOUNT: f64 = 1e9;
/// The least bytes a second for content, 0.1 Mbit/s: a block of 1 MiB then takes 84 s, and its stream is given up.
const LEAST_RATE: u64 = 12_500;

impl Layers {
    /// Checks everything, makes the data directory if it is missing, and says what to change if anything is wrong.
    pub fn resolve(mut self, exit_with_parent: bool) -> Result<Config, Error> {
        make_data_directory(&self.data_dir)?;
        let data_dir = fs::canonicalize(&self.data_dir)
            .map_err(|source| Error::DataDirectory { path: self.data_dir.clone(), source })?;
        Ok(Config {
            node_id: self.label()?,
            address: self.address(),
            ledger: self.ledger()?,
            ipfs_api: self.ipfs_api()?,
            network: self.network()?,
            resources: self.caps()?,
            keeps: self.amount("storage.for_others_gb", 1e9)?.unwrap_or_default(),
            heartbeat: self.heartbeat()?,
            executor: self.executor(&data_dir)?,
            place: self.place()?,
            api: self.parsed("api.listen", "is no address; for example 127.0.0.1:8081")?,
            log_level: self.log_level()?,
            exit_with_parent,
            warnings: self.warnings,
            data_dir,
        })
    }

    fn label(&self) -> Result<Option<String>, Error> {
        let label = self.text("node.id");
        match label {
            // Control characters would write over other people's terminals.
            Some(label) if !(1..=MAX_LABEL).contains(&label.chars().count()) || label.chars().any(char::is_control) => {
                Err(self.wrong("node.id", format!("a label has 1 to {MAX_LABEL} printable characters")))
            }
            label => Ok(label.map(str::to_owned)),
        }
    }

    /// The documented example of an address is no valid one, so a bad address warns instead of failing.
    fn address(&mut self) -> Option<String> {
        let address = self.text("node.address").filter(|text| !text.is_empty())?.to_owned();
        if let Err(reason) = check_address(&address) {
            self.warnings.push(format!("{reason}; rewards stay in the node's own account"));
            return None;
        }
        Some(address)
    }

    fn ledger(&self) -> Result<Ledger, Error> {
        let mode = match self.text("ledger.mode").unwrap_or_default() {
            "rpc" => LedgerMode::Rpc,
            "embedded" => LedgerMode::Embedded,
            other => return Err(self.wrong("ledger.mode", format!("`{other}` is neither `rpc` nor `embedded`"))),
        };
        let rpc: Vec<String> = self.list("node.chain_rpc_url").map(str::to_owned).collect();
        if rpc.is_empty() {
            return Err(self.wrong("node.chain_rpc_url", "needs at least one URL"));
        }
        for url in &rpc {
            self.check_url("node.chain_rpc_url", url)?;
        }
        let chain_id = self.text("ledger.chain_id").unwrap_or_default().to_owned();
        // Tendermint's own limit (`chain::id`): at most 50 characters. It names a directory too, which `..` is not.
        if tendermint::chain::Id::from_str(&chain_id).is_err() || chain_id.starts_with('.') {
            return Err(
                self.wrong("ledger.chain_id", "has 1 to 50 letters, digits, `-`, `_` or `.`, and begins with no `.`")
            );
        }
        Ok(Ledger {
            mode,
            rpc,
            chain_id,
            host: self.parsed("ledger.host", "is no peer id, such as 12D3KooW…")?,
            trust: self.trust()?,
            trusting_period: self.trusting_period()?,
            accept: self.list("ledgers.accept").map(str::to_owned).collect(),
            stake: self.integer("ledger.stake"),
            faucet_per_account: self.integer("ledger.faucet_per_account"),
        })
    }

    /// The block that the operator knows.
    fn trust(&self) -> Result<Option<(u64, Digest)>, Error> {
        let hash = self.text("ledger.trust_hash").filter(|text| !text.is_empty());
        match (self.value("ledger.trust_height").is_some(), hash) {
            (false, None) => Ok(None),
            (true, Some(hash)) => {
                let bytes = hex::decode(hash).ok().and_then(|bytes| Digest::from_slice(&bytes));
                let hash =
                    bytes.ok_or_else(|| self.wrong("ledger.trust_hash", "is no hash of 64 hexadecimal digits"))?;
                match self.integer("ledger.trust_height") {
                    0 => Err(self.wrong("ledger.trust_height", "is no height of a block: the first has 1")),
                    height => Ok(Some((height, hash))),
                }
            }
            (true, None) => Err(self.wrong("ledger.trust_height", "needs `ledger.trust_hash` beside it")),
            (false, Some(_)) => Err(self.wrong("ledger.trust_hash", "needs `ledger.trust_height` beside it")),
        }
    }

    /// A year at most: validators are held to account for much less.
    fn trusting_period(&self) -> Result<Duration, Error> {
        let hours = self.within("ledger.trusting_hours", 0.1, 8_760.0)?;
        let hours = hours.ok_or_else(|| self.wrong("ledger.trusting_hours", "takes hours"))?;
        Ok(Duration::from_secs_f64(hours * 3_600.0))
    }

    fn ipfs_api(&self) -> Result<Option<String>, Error> {
        let text = self.text("node.ipfs_api_url").unwrap_or_default();
        if text.is_empty() || text == "none" {
            return Ok(None);
        }
        if text.starts_with('/') {
            Multiaddr::from_str(text).map_err(|error| self.wrong("node.ipfs_api_url", format!("`{text}`: {error}")))?;
        } else {
            self.check_url("node.ipfs_api_url", text)?;
        }
        Ok(Some(text.to_owned()))
    }

    fn network(&mut self) -> Result<Network, Error> {
        let swarm_key = self.swarm_key()?;
        let mut listen: Vec<Multiaddr> =
            self.parsed_list("network.listen", "is no multiaddr, such as /ip4/0.0.0.0/tcp/4001")?;
        if swarm_key.is_some() {
            // A pre-shared key protects TCP alone (libp2p's pnet).
            if listen.iter().any(is_quic) && self.source("network.listen") != Some(&Source::Default) {
                return Err(self.wrong("network.listen", "a private network (swarm key) can't use QUIC; listen on TCP"));
            }
            listen.retain(|address| !is_quic(address));
        }
        if listen.is_empty() {
            return Err(self.wrong("network.listen", "needs at least one address"));
        }
        Ok(Network {
            listen,
            external: self.parsed_list("network.external", "is no multiaddr")?,
            bootstrap: self
                .parsed_list("network.bootstrap", "is no multiaddr, such as /ip4/192.0.2.1/tcp/4001/p2p/12D3…")?,
            swarm_key,
            mdns: self.flag("network.mdns"),
            upnp: self.flag("network.upnp"),
            allow: self.parsed_list("network.allow", "is no peer id")?,
            block: self.parsed_list("network.block", "is no peer id")?,
            max_connections: u32::try_from(self.integer("network.max_connections"))
                .ok()
                .filter(|count| *count > 0)
                .ok_or_else(|| self.wrong("network.max_connections", "takes 1 to 4294967295"))?,
            upload: self.rate("network.upload_mbit", "network.upload_mbit_per_peer")?,
            download: self.rate("network.download_mbit", "network.download_mbit_per_peer")?,
        })
    }

    fn swarm_key(&mut self) -> Result<Option<PreSharedKey>, Error> {
        let usual = self.data_dir.join("swarm.key");
        let path = match self.text("network.swarm_key").filter(|text| !text.is_empty()) {
            Some(text) => PathBuf::from(text),
            None if usual.exists() => usual,
            None => return Ok(None),
        };
        let text = fs::read_to_string(&path)
            .map_err(|error| self.wrong("network.swarm_key", format!("{}: {error}", path.display())))?;
        let key = PreSharedKey::from_str(text.trim_end()).map_err(|error| {
            let form = "three lines: /key/swarm/psk/1.0.0/, /base16/, 64 hexadecimal digits";
            self.wrong("network.swarm_key", format!("{}: {error}; it has {form}", path.display()))
        })?;
        Ok(Some(key))
    }

    fn caps(&self) -> Result<Caps, Error> {
        Ok(Caps {
            cpu_millicores: self.amount("resources.cpu_cores", 1e3)?,
            memory_bytes: self.amount("resources.memory_gb", 1e9)?,
            storage_bytes: self.amount("resources.storage_gb", 1e9)?,
            gpu_enabled: self.flag("resources.gpu_enabled"),
        })
    }

    fn heartbeat(&self) -> Result<Heartbeat, Error> {
        let interval = self.seconds("heartbeat.interval_seconds", 0.1)?;
        let timeout = self.seconds("heartbeat.timeout_seconds", 0.1)?;
        if timeout < interval * 2 {
            return Err(self.wrong("heartbeat.timeout_seconds", "must be at least twice heartbeat.interval_seconds"));
        }
        Ok(Heartbeat { interval, timeout })
    }

    fn executor(&self, data_dir: &Path) -> Result<Executor, Error> {
        let python = self.text("executor.python").filter(|text| !text.is_empty()).map(PathBuf::from);
        let work_dir = self.text("executor.work_dir").filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(Executor {
            python,
            work_dir: work_dir.unwrap_or_else(|| data_dir.join("work")),
            stall: self.seconds("executor.stall_seconds", 1.0)?,
            grace: self.seconds("executor.grace_seconds", 0.1)?,
        })
    }

    fn place(&self) -> Result<Place, Error> {
        let lookup_url = self.text("place.lookup_url").map(str::to_owned);
        if let Some(url) = &lookup_url {
            self.check_url("place.lookup_url", url)?;
        }
        Ok(Place {
            country: self.text("place.country").map(str::to_owned),
            region: self.text("place.region").map(str::to_owned),
            city: self.text("place.city").map(str::to_owned),
            latitude: self.within("place.latitude", -90.0, 90.0)?,
            longitude: self.within("place.longitude", -180.0, 180.0)?,
            lookup_url,
        })
    }

    fn log_level(&self) -> Result<String, Error> {
        let text = self.text("log.level").unwrap_or_default();
        tracing_subscriber::EnvFilter::try_new(text)
            .map_err(|error| self.wrong("log.level", format!("`{text}`: {error}")))?;
        Ok(text.to_owned())
    }

    fn source(&self, key: &'static str) -> Option<&Source> {
        self.values.get(key).map(|(_, source)| source)
    }

    fn wrong(&self, key: &'static str, reason: impl Into<String>) -> Error {
        let source_name = self.source(key).unwrap_or(&Source::Default).to_string();
        Error::Value { key, source_name, reason: reason.into() }
    }

    fn value(&self, key: &'static str) -> Option<&Value> {
        self.values.get(key).map(|(value, _)| value)
    }

    fn text(&self, key: &'static str) -> Option<&str> {
        self.value(key).and_then(Value::as_str)
    }

    fn flag(&self, key: &'static str) -> bool {
        self.value(key).and_then(Value::as_bool).unwrap_or_default()
    }

    fn integer(&self, key: &'static str) -> u64 {
        self.value(key).and_then(Value::as_integer).and_then(|number| number.try_into().ok()).unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "the range is checked by each caller")]
    fn number(&self, key: &'static str) -> Option<f64> {
        match self.value(key)? {
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    fn list(&self, key: &'static str) -> impl Iterator<Item = &str> {
        self.value(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    fn parsed<T: FromStr>(&self, key: &'static str, what: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.text(key).filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.wrong(key, format!("`{text}` {what}")))
    }

    fn parsed_list<T: FromStr>(&self, key: &'static str, what: &str) -> Result<Vec<T>, Error> {
        self.list(key).map(|text| text.parse().map_err(|_| self.wrong(key, format!("`{text}` {what}")))).collect()
    }

    fn within(&self, key: &'static str, least: f64, most: f64) -> Result<Option<f64>, Error> {
        match self.number(key) {
            // NaN is in no range.
            Some(number) if !(least..=most).contains(&number) => {
                Err(self.wrong(key, format!("{number} is not between {least} and {most}")))
            }
            number => Ok(number),
        }
    }

    /// An amount of a resource in `unit`s, as an integer.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10¹⁸")]
    fn amount(&self, key: &'static str, unit: f64) -> Result<Option<u64>, Error> {
        Ok(self.within(key, 0.0, MAX_AMOUNT)?.map(|number| (number * unit).round() as u64))
    }

    fn rate(&self, total: &'static str, per_peer: &'static str) -> Result<Rate, Error> {
        Ok(Rate { total: self.bytes_a_second(total)?, per_peer: self.bytes_a_second(per_peer)? })
    }

    /// Of a setting in megabits a second. None at all is a mistake: a node that moves no content can do nothing.
    fn bytes_a_second(&self, key: &'static str) -> Result<Option<u64>, Error> {
        let rate = self.amount(key, 1e6 / 8.0)?;
        if rate.is_some_and(|rate| rate < LEAST_RATE) {
            return Err(self.wrong(key, "takes 0.1 or more; leave it out for no limit"));
        }
        Ok(rate)
    }

    fn seconds(&self, key: &'static str, least: f64) -> Result<Duration, Error> {
        let seconds = self.within(key, least, 86_400.0)?.ok_or_else(|| self.wrong(key, "takes seconds"))?;
        Ok(Duration::from_secs_f64(seconds))
    }

    fn check_url(&self, key: &'static str, text: &str) -> Result<(), Error> {
        let parsed = reqwest::Url::parse(text).map_err(|error| self.wrong(key, format!("`{text}`: {error}")))?;
        let web = matches!(parsed.scheme(), "http" | "https") && parsed.has_host();
        web.then_some(()).ok_or_else(|| self.wrong(key, format!("`{text}` is no http or https URL")))
    }
}

/// Why a text is no account that rewards can go to.
pub fn check_address(address: &str) -> Result<(), String> {
    match bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(address) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the address `{address}` is no valid bech32 account ({error})")),
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Quic | Protocol::QuicV1))
}

fn make_data_directory(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::DataDirectory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let writable = tempfile::Builder::new().prefix(".probe-").tempfile_in(path);
    writable.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::save_registration;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn with_file(text: &str) -> (tempfile::TempDir, Result<Config, Error>) {
        let directory = directory();
        fs::write(directory.path().join("atlas.toml"), text).unwrap();
        let config = Layers::new(directory.path()).with_files(None).and_then(|layers| layers.resolve(false));
        (directory, config)
    }

    #[test]
    fn with_nothing_but_defaults_the_settings_are_valid_and_the_documented_ones() {
        let directory = directory();
        let config = Layers::new(&directory.path().join("new/node")).resolve(false).unwrap();
        assert_eq!(config.ledger.rpc, ["http://localhost:26657"]);
        assert_eq!(config.ipfs_api.as_deref(), Some("/ip4/127.0.0.1/tcp/5001"));
        assert_eq!(config.heartbeat, Heartbeat { interval: Duration::from_secs(30), timeout: Duration::from_secs(90) });
        assert!(config.data_dir.is_dir() && config.warnings.is_empty());
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_a_registration_which_beats_the_file() {
        let directory = directory();
        fs::write(directory.path().join("atlas.toml"), "node = { id = 'file', ipfs_api_url = 'none' }").unwrap();
        let layers = || Layers::new(directory.path()).with_files(None).unwrap();
        let label = |layers: Layers| layers.resolve(false).unwrap().node_id.unwrap();
        assert_eq!(label(layers()), "file");
        save_registration(directory.path(), Some("registered"), None).unwrap();
        assert_eq!(label(layers()), "registered");
        let environment = [("NODE_ID".to_owned(), "environment".to_owned())];
        let layers = || layers().with_environment(environment.clone()).unwrap();
        assert_eq!(label(layers()), "environment");
        assert_eq!(label(layers().with_flags([("node.id", "flag".into())])), "flag");
        assert_eq!(layers().resolve(false).unwrap().ipfs_api, None);
        let shown = layers().settings().into_iter().find(|setting| setting.key == "node.id").unwrap();
        assert_eq!((shown.value, shown.source), (Some("environment".into()), "NODE_ID".to_owned()));
    }

    #[test]
    fn a_registration_adds_to_the_one_before() {
        let directory = directory();
        save_registration(directory.path(), Some("node-1"), None).unwrap();
        let address = crate::identity::address(&crate::types::NodeKey([7; 32]));
        save_registration(directory.path(), None, Some(&address)).unwrap();
        let config = Layers::new(directory.path()).with_files(None).unwrap().resolve(false).unwrap();
        assert_eq!((config.node_id.as_deref(), config.address), (Some("node-1"), Some(address)));
    }

    #[test]
    fn the_documented_address_is_no_valid_one_and_only_warns() {
        let (_directory, config) = with_file("node.address = 'cosmos1abc123'");
        let config = config.unwrap();
        assert_eq!(config.address, None);
        assert!(config.warnings[0].contains("own account"), "{:?}", config.warnings);
    }

    #[test]
    fn whatever_is_wrong_is_named_with_the_place_to_change_it() {
        let long = format!("node.id = '{}'", "x".repeat(10_000));
        let deep = format!("node.id = {}", "[".repeat(100_000));
        for (text, expected) in [
            ("node.idd = 'x'", "did you mean `node.id`"),
            ("nodes = 1", "no setting `nodes`"),
            ("node.id = 1", "takes a text"),
            ("resources.cpu_cores = -1", "not between 0"),
            ("resources.memory_gb = nan", "not between 0"),
            ("storage.for_others_gb = -1", "not between 0"),
            ("network.listen = 'here'", "no multiaddr"),
            ("network.listen = []", "at least one address"),
            ("network.bootstrap = [1]", "takes a list of texts"),
            ("network.max_connections = 0", "takes 1 to"),
            ("network.upload_mbit = 0", "0.1 or more"),
            ("network.download_mbit_per_peer = -1", "not between 0"),
            ("network.swarm_key = '/nonexistent'", "No such file"),
            ("heartbeat.interval_seconds = 0", "not between"),
            ("heartbeat.timeout_seconds = 31", "twice"),
            ("ledger.mode = 'cosmos'", "neither"),
            ("ledger.chain_id = ''", "1 to 50"),
            ("ledger.trust_height = 5", "needs `ledger.trust_hash`"),
            ("ledger.trust_hash = 'ab'", "needs `ledger.trust_height`"),
            ("ledger = { trust_height = 5, trust_hash = 'ab' }", "64 hexadecimal digits"),
            ("ledger.trusting_hours = 0", "not between 0.1"),
            ("ledger.chain_id = '..'", "begins with no `.`"),
            ("ledger.chain_id = 'a/b'", "1 to 50"),
            ("ledger.faucet_per_account = -1", "not negative"),
            ("ledger.stake = -1", "not negative"),
            ("node.id = ''", "1 to 64"),
            ("node.id = \"a\\u0000\"", "printable"),
            ("node.id = \"\\u001b[2J\"", "printable"),
            ("node.chain_rpc_url = 'localhost:26657'", "no http"),
            ("node.ipfs_api_url = '/ip4/1'", "/ip4/1"),
            ("api.listen = '8081'", "no address"),
            ("place.latitude = 91.0", "between -90 and 90"),
            ("log.level = 'a=b=c'", "a=b=c"),
            ("x = ", "no TOML"),
            (long.as_str(), "1 to 64"),
            (deep.as_str(), "no TOML"),
        ] {
            let (_directory, config) = with_file(text);
            let message = config.map(|_| ()).expect_err(text).to_string();
            assert!(message.contains(expected) && message.contains("atlas.toml"), "{text}: {message}");
        }
    }

    #[test]
    fn a_private_network_listens_on_tcp_alone() {
        let directory = directory();
        let key = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "ab".repeat(32));
        fs::write(directory.path().join("swarm.key"), key).unwrap();
        let config = Layers::new(directory.path()).resolve(false).unwrap();
        assert!(config.network.swarm_key.is_some());
        assert!(!config.network.listen.iter().any(is_quic));
        let typed = [("network.listen", Value::Array(vec!["/ip4/0.0.0.0/udp/0/quic-v1".into()]))];
        let refused = Layers::new(directory.path()).with_flags(typed).resolve(false).unwrap_err();
        assert!(refused.to_string().contains("--listen"), "{refused}");
    }

    #[test]
    fn a_variable_that_is_no_setting_is_told() {
        let directory = directory();
        let variables = [("ATLAS_NETWORK_LISTNE".to_owned(), "x".to_owned())];
        let config = Layers::new(directory.path()).with_environment(variables).unwrap().resolve(false).unwrap();
        assert!(config.warnings[0].contains("ATLAS_NETWORK_LISTNE"));
    }
}
