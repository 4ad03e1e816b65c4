//! The running node: its parts are made here, in order, and put away in order.
//!
//! `event_loop` owns the swarm and routes; `coordinator` decides; `edges` and `ledgers` do what takes time. Nothing else
//! knows all of them.

mod account;
mod beginning;
pub mod coordinator;
pub mod edges;
mod event_loop;
mod host;
pub(crate) mod keeping;
mod ledger_host;
pub mod ledgers;
mod parameters;
mod ports;
mod recorded;
mod remembered;
mod scrub;
pub mod traffic;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use libp2p::{metrics::Registry, multiaddr::Protocol};
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
};

pub use self::beginning::Beginning;
use self::{
    coordinator::Input,
    edges::Edges,
    event_loop::{EventLoop, Parts},
    ledgers::Ledgers,
    ports::Ports,
    recorded::Recorded,
    remembered::Remembered,
};
use crate::types::words;
use crate::{
    api, chain,
    chain::embedded,
    clock,
    conduct::Reporter,
    config::{self, Config, LedgerMode},
    executor, health,
    identity::Keypair,
    ipfs, network, proof,
    record::{self, Recording},
    recovery, resource, round,
    shard::{self, Files},
    store::{
        self, BlockStore,
        blocks::Quota,
        data_keys::{self, DataKeys},
        key_file,
    },
    swarm,
    types::Digest,
    validator,
};

/// Inputs that wait for the event loop: what edges and ledgers report. They wait when it is full.
const INPUT_QUEUE: usize = 1_024;
/// At beats of this interval or faster the node is on one machine or in one lab: turns and pauses are short there.
const LAB_BEAT: Duration = Duration::from_secs(5);
/// The part of the lent disk that blocks may fill; the rest is for work directories, logs and records.
const BLOCK_SHARE: u64 = 4;

/// Percent of the room for blocks that others' content may fill: what this node's own work needs stays free. A guess.
const OTHERS_PERCENT: u64 = 90;
/// Heartbeat time-outs for which a holder of others' content that went offline is waited for: six minutes by default, in which
/// most machines have started again. A guess.
pub(crate) const COMES_BACK: u32 = 4;

/// Why a node ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was told to: a signal, the control API, or the end of its parent.
    Asked,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its key.
    #[error(transparent)]
    Key(#[from] key_file::Error),
    /// Its block store.
    #[error(transparent)]
    Store(#[from] store::blocks::Error),
    /// The keys of sealed data can't be read.
    #[error("the keys of sealed data can't be used")]
    DataKeys(#[from] data_keys::Error),
    /// Its machine.
    #[error(transparent)]
    Resources(#[from] resource::DetectError),
    /// The ledger that it should carry.
    #[error(transparent)]
    Embedded(#[from] embedded::Error),
    /// The ledger that it should follow.
    #[error(transparent)]
    Ledger(#[from] ledgers::Error),
    /// Its control API.
    #[error(transparent)]
    Api(#[from] api::server::Error),
    /// Its swarm.
    #[error(transparent)]
    Swarm(#[from] swarm::Error),
    /// An address to listen on.
    #[error("this node can't listen on {address}: {reason}; choose another --listen")]
    Listen {
        /// Which.
        address: String,
        /// The transport's words.
        reason: String,
    },
    /// The address of the ledger that it should carry.
    #[error("the address of the embedded ledger is not usable: {reason}; change --chain-rpc")]
    LedgerAddress {
        /// Why.
        reason: String,
    },
    /// Its directories.
    #[error("{} can't be used; change --data-dir or WORK_DIR", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address of the Kubo daemon.
    #[error(transparent)]
    IpfsEndpoint(#[from] ipfs::endpoint::Error),
    /// Its recording.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// What is to be pinned.
    #[error(transparent)]
    Pinner(#[from] ipfs::pinner::Error),
}

/// Runs a node until it is told to stop. What its deciding parts are told goes into a recording in `record`.
pub async fn run(mut config: Config, record: Option<&Path>) -> Result<ExitReason, Error> {
    let key_file = config.data_dir.join("node.key");
    let keypair = key_file::load_or_create(&key_file)?;
    let recording = record.map(|directory| Recording::create(directory, clock::now())).transpose()?;
    tracing::info!(peer_id = %keypair.peer_id(), data_dir = %config.data_dir.display(), "starting");
    let detected = detect(&config).await?;
    let quota = Quota { bytes: detected.resources.storage_bytes.max(1 << 30) / BLOCK_SHARE * (BLOCK_SHARE - 1) };
    let store = BlockStore::open(&config.data_dir.join("blocks"), quota)?;
    let files = Arc::new(Files::new(Arc::clone(&store)));
    let (input_sender, inputs) = mpsc::channel(INPUT_QUEUE);
    let (ledgers, peer_calls) =
        Ledgers::new(keypair.clone(), config.data_dir.join("ledgers"), input_sender.clone(), recording.clone());
    open_ledger(&config, &keypair, &ledgers, recording.as_ref()).await?;

    let keys = Arc::new(DataKeys::open(&config.data_dir.join("data-keys"))?);
    let (supervisor, process_reports) = supervisor(&config, &files, &keys)?;
    let (worker_sender, worker_reports) = mpsc::channel(INPUT_QUEUE);
    let workers = executor::inference::edge::Workers::new(&supervisor, worker_sender);
    let pinner = pinner(&config, &store)?;
    let (keeps, kept) = (room_for_others(&mut config, quota), keeping::kept(&store));
    let remembered = Remembered::new(config.data_dir.join("peers"));
    let beginning = Beginning {
        node: keypair.node_key(),
        key_file,
        at: clock::now(),
        coordinator: coordinator::Config {
            keeps,
            kept,
            ..coordinator_config(&config, &keypair, &detected, &remembered, keys.commitments())
        },
        executor: executor::Config::default(),
        inference: executor::inference::Config::default(),
        health: health::Config::with_beats(config.heartbeat.interval, config.heartbeat.timeout),
        proof: proof::Config::default(),
        shard: shard_config(&config.network),
        holds: shard::edge::holds(&store),
        ledger_rpc: chain::rpc::Config::default(),
    };
    if let Some(recording) = &recording {
        recording.of(record::NODE).begin(&beginning);
    }
    let coordinator = Recorded::new(beginning.coordinator(&keypair), recording.as_ref());
    host::examine(&supervisor, detected.resources, config.data_dir.join("known-answer"), input_sender.clone());
    let mut registry = Registry::default();
    let (reporter, offences) = Reporter::new();
    let swarm_config = swarm_config(&config, reporter, recording.clone());
    let mut swarm = swarm::build(&keypair, &swarm_config, states(&beginning, &keypair), &mut registry)?;
    let ports = Ports::load(config.data_dir.join("ports"));
    listen(&mut swarm, &config, &ports)?;

    let (request_sender, requests) = mpsc::channel(api::REQUEST_QUEUE);
    let (events, _) = broadcast::channel(api::EVENT_QUEUE);
    let api_config = api::server::Config { data_dir: config.data_dir.clone(), tcp: config.api };
    let server = api::server::start(&api_config, request_sender, events.clone()).await?;
    watch_signals(input_sender.clone(), config.exit_with_parent);
    look_up_place(&config, input_sender.clone());

    let recovery = recovery::edge::Context {
        files: Arc::<Files>::clone(&files),
        keypair: keypair.clone(),
        staging: directory(config.data_dir.join("staging"))?,
    };
    tokio::spawn(scrub::patrol(Arc::clone(&store), input_sender.clone()));
    let edges = Edges::new(files, keys, recovery, ledgers.clone(), input_sender.clone());
    let parts = Parts {
        swarm,
        coordinator,
        edges,
        ledgers,
        store,
        supervisor,
        workers,
        pinner,
        remembered,
        ports,
        registry,
        events,
        inputs,
        requests,
        peer_calls,
        process_reports,
        worker_reports,
        offences,
    };
    EventLoop::new(parts).run().await;
    server.stop().await;
    if let Some(recording) = recording {
        recording.finish();
    }
    Ok(ExitReason::Asked)
}

/// Looks at the machine off the runtime's threads: a GPU driver may take seconds.
async fn detect(config: &Config) -> Result<resource::Detected, Error> {
    let caps = resource::Caps {
        cpu_millicores: config.resources.cpu_millicores,
        memory_bytes: config.resources.memory_bytes,
        storage_bytes: config.resources.storage_bytes,
        gpu_enabled: config.resources.gpu_enabled,
    };
    let data_dir = config.data_dir.clone();
    let detected =
        tokio::task::spawn_blocking(move || resource::detect(&resource::Machine::default(), &data_dir, &caps));
    match detected.await {
        Ok(detected) => Ok(detected?),
        Err(error) => Err(Error::Directory { path: config.data_dir.clone(), source: io::Error::other(error) }),
    }
}

/// Carries the configured ledger, or follows it over its RPC endpoints.
async fn open_ledger(
    config: &Config,
    keypair: &Keypair,
    ledgers: &Ledgers,
    recording: Option<&Recording>,
) -> Result<(), Error> {
    let chain_id = &config.ledger.chain_id;
    match config.ledger.mode {
        LedgerMode::Rpc => {
            ledgers.follow_configured(&config.ledger)?;
        }
        LedgerMode::Embedded => {
            let address = embedded_address(config)?;
            let genesis = embedded::lab_genesis(
                chain_id.clone(),
                keypair.node_key(),
                config.ledger.faucet_per_account,
                config.heartbeat.timeout,
            );
            let directory = config.data_dir.join("ledgers").join(chain_id).join("chain");
            let listener = embedded::listen(address).await?;
            let (keypair, path, recording) = (keypair.clone(), directory.clone(), recording.cloned());
            let start = move || embedded::Embedded::start(&path, genesis, &keypair, recording.as_ref());
            let started = tokio::task::spawn_blocking(start).await;
            let embedded =
                started.map_err(|error| Error::Directory { path: directory, source: io::Error::other(error) })??;
            let served = Arc::clone(&embedded);
            tokio::spawn(async move {
                if let Err(error) = served.serve(listener).await {
                    tracing::error!(%error, "the embedded ledger is no longer served");
                }
            });
            ledgers.carried(chain_id, embedded).map_err(ledgers::Error::Client)?;
        }
    }
    Ok(())
}

fn embedded_address(config: &Config) -> Result<std::net::SocketAddr, Error> {
    let url = config.ledger.rpc.first().map_or("", String::as_str);
    let wrong = |reason: String| Error::LedgerAddress { reason };
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(format!("`{url}`: {error}")))?;
    let addresses = parsed.socket_addrs(|| Some(26657)).map_err(|error| wrong(format!("`{url}`: {error}")))?;
    // `localhost` may name ::1 first on a host without IPv6.
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
    address.copied().ok_or_else(|| wrong(format!("`{url}` names no address")))
}

fn directory(path: PathBuf) -> Result<PathBuf, Error> {
    match fs::create_dir_all(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::Directory { path, source }),
    }
}

type Reports<T> = mpsc::Receiver<T>;

fn executor_config(config: &Config) -> Result<executor::edge::Config, Error> {
    let work_dir = directory(config.executor.work_dir.clone())?;
    let mut executor =
        executor::edge::Config::new(work_dir.clone()).map_err(|source| Error::Directory { path: work_dir, source })?;
    if let Some(python) = &config.executor.python {
        executor.python.clone_from(python);
    }
    Ok(executor)
}

fn supervisor(
    config: &Config,
    files: &Arc<Files>,
    keys: &Arc<DataKeys>,
) -> Result<(executor::edge::Supervisor, Reports<executor::edge::Answer>), Error> {
    let (sender, reports) = mpsc::channel(INPUT_QUEUE);
    let executor = executor_config(config)?;
    let path = executor.directory.clone();
    let supervisor = executor::edge::Supervisor::start(executor, Arc::<Files>::clone(files), Arc::clone(keys), sender)
        .map_err(|source| Error::Directory { path, source })?;
    Ok((supervisor, reports))
}

fn pinner(config: &Config, store: &Arc<BlockStore>) -> Result<Option<ipfs::Pinner>, Error> {
    let Some(endpoint) = &config.ipfs_api else { return Ok(None) };
    let endpoint: ipfs::Endpoint = endpoint.parse()?;
    Ok(Some(ipfs::Pinner::start(endpoint, Arc::clone(store), &config.data_dir.join("pins"))?))
}

fn coordinator_config(
    config: &Config,
    keypair: &Keypair,
    detected: &resource::Detected,
    remembered: &Remembered,
    data_keys: BTreeSet<Digest>,
) -> coordinator::Config {
    let lab = config.heartbeat.interval <= LAB_BEAT;
    let label = config.node_id.clone().unwrap_or_else(|| {
        let peer = keypair.peer_id().to_string();
        format!("node-{}", &peer[peer.len().saturating_sub(8)..])
    });
    let place = &config.place;
    coordinator::Config {
        label,
        address: config.address.clone(),
        lends: detected.resources,
        ledger: config.ledger.chain_id.clone(),
        policy: validator::Policy::accepting(&config.ledger.accept),
        bootstrap: config.network.bootstrap.clone(),
        remembered: remembered.load(),
        data_keys,
        place: network::Place {
            country: place.country.clone(),
            region: place.region.clone(),
            city: place.city.clone(),
            latitude: place.latitude,
            longitude: place.longitude,
        },
        facts: host::facts(config, detected),
        rounds: if lab { round::Config::testnet() } else { round::Config::default() },
        recovery: recovery::Config::default(),
        kubo: config.ipfs_api.is_some(),
        stake: config.ledger.stake,
        keeps: 0,
        comes_back: config.heartbeat.timeout * COMES_BACK,
        kept: Vec::new(),
        shutdown_grace: config.executor.grace,
    }
}

/// What the operator gives, as far as blocks have room.
fn room_for_others(config: &mut Config, quota: Quota) -> u64 {
    let most = quota.bytes / 100 * OTHERS_PERCENT;
    if config.keeps > most {
        config.warnings.push(format!(
            "{} bytes are offered for content of others (`storage.for_others_gb`), and there is room for {most}: no more is offered; raise `resources.storage_gb` or free some disk",
            config.keeps
        ));
    }
    config.keeps.min(most)
}

fn shard_config(network: &config::Network) -> shard::Config {
    let limits = |rate: config::Rate| shard::Limits { total: rate.total, per_peer: rate.per_peer };
    shard::Config { upload: limits(network.upload), download: limits(network.download), ..shard::Config::default() }
}

fn swarm_config(config: &Config, reporter: Reporter, recording: Option<Recording>) -> swarm::Config {
    let lab = config.heartbeat.interval <= LAB_BEAT;
    swarm::Config {
        mdns: config.network.mdns,
        upnp: config.network.upnp,
        swarm_key: config.network.swarm_key,
        gossip_heartbeat: if lab { Duration::from_millis(200) } else { Duration::from_secs(1) },
        max_connections: config.network.max_connections,
        max_memory: swarm::MAX_MEMORY,
        allow: config.network.allow.clone(),
        block: config.network.block.clone(),
        reporter,
        recording,
    }
}

fn states(beginning: &Beginning, keypair: &Keypair) -> swarm::States {
    swarm::States {
        executor: beginning.executor(),
        inference: beginning.inference(),
        health: beginning.health(keypair),
        proof: beginning.proof(),
        shard: beginning.shard(),
        ledger_rpc: beginning.ledger_rpc(),
    }
}

fn listen(swarm: &mut libp2p::Swarm<swarm::Behaviour>, config: &Config, ports: &Ports) -> Result<(), Error> {
    for address in &config.network.listen {
        let quic = address.iter().any(|part| matches!(part, Protocol::QuicV1));
        if quic && config.network.swarm_key.is_some() {
            tracing::warn!(%address, "not listened on: a private network (swarm key) covers TCP alone");
            continue;
        }
        if ports.last(address).is_some_and(|last| swarm.listen_on(last).is_ok()) {
            continue;
        }
        swarm
            .listen_on(address.clone())
            .map_err(|error| Error::Listen { address: address.to_string(), reason: error.to_string() })?;
    }
    for address in &config.network.external {
        swarm.add_external_address(address.clone());
    }
    Ok(())
}

/// Asks the service that the operator opted in to where this node stands. Nothing depends on the answer.
fn look_up_place(config: &Config, inputs: mpsc::Sender<Input>) {
    let Some(url) = config.place.lookup_url.clone() else { return };
    tokio::spawn(async move {
        match network::look_up(&url).await {
            Ok(place) => {
                let _ = inputs.send(Input::Peer(coordinator::PeerEvent::Placed(place))).await;
            }
            Err(error) => tracing::warn!(url, error = words(&error), "the place could not be looked up"),
        }
    });
}

/// Turns signals and the end of a parent into inputs. A second signal ends the process at once.
fn watch_signals(inputs: mpsc::Sender<Input>, exit_with_parent: bool) {
    for (kind, name) in [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM")] {
        let inputs = inputs.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    let mut told = false;
                    while signals.recv().await.is_some() {
                        if told {
                            std::process::exit(130);
                        }
                        told = true;
                        let _ = inputs.send(Input::Shutdown { reason: name.into() }).await;
                    }
                });
            }
            Err(error) => tracing::error!(name, %error, "the signal can't be watched"),
        }
    }
    if exit_with_parent {
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while tokio::io::stdin().read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            let _ = inputs.send(Input::Shutdown { reason: "the parent ended".into() }).await;
        });
    }
}
