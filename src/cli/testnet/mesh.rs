//! The processes of a test network: one that carries the ledger, and the nodes.

use std::{net::TcpListener, path::PathBuf, time::Duration};

use super::{
    chain::{self, CHAIN_ID, ChainProcess},
    process::NodeProcess,
    view::View,
};
use crate::{
    api::{Run, Status, client::Client},
    cli::Error,
    types::{JobId, Resources},
};

/// Between two looks at a node that starts.
const START_POLL: Duration = Duration::from_millis(50);
/// Seconds between beats: a network of one machine can afford to notice quickly (design: testnet runs with 1 s beats).
const BEAT_SECONDS: &str = "1";
/// More than three beats.
pub(super) const OFFLINE_AFTER: Duration = Duration::from_millis(3_500);
/// Tasks that each node has room for, so that the others can do the work of one that dies.
const TASKS_PER_NODE: u32 = 2;
/// The host of the ledger; of one that is a chain, a node that works on nothing and that the others join through.
const HOST: &str = "ledger";

/// What a test network is made of.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Nodes that work.
    pub(super) nodes: u32,
    /// Their interpreter.
    pub(super) python: Option<PathBuf>,
    /// What they log.
    pub(super) log_level: String,
    /// Where each writes down what it is told, in a directory of its own.
    pub(super) record: Option<PathBuf>,
    /// What one task of the job needs.
    pub(super) task: Resources,
    /// The chain that carries the ledger, if one does.
    pub(super) chain: Option<chain::Settings>,
}

/// A test network.
#[derive(Debug)]
pub(super) struct Mesh {
    settings: Settings,
    directory: PathBuf,
    /// Removed at the end if all is well; one that the user named never is.
    temporary: Option<tempfile::TempDir>,
    chain: Option<ChainProcess>,
    host: Option<NodeProcess>,
    nodes: Vec<NodeProcess>,
}

impl Mesh {
    /// Makes the directory.
    pub(super) fn new(settings: Settings, directory: Option<PathBuf>) -> Result<Self, Error> {
        let (directory, temporary) = match directory {
            Some(directory) => {
                std::fs::create_dir(&directory).map_err(|source| Error::File { path: directory.clone(), source })?;
                (std::path::absolute(&directory).map_err(|source| Error::File { path: directory, source })?, None)
            }
            None => {
                let temporary = tempfile::Builder::new()
                    .prefix("atlas-testnet-")
                    .tempdir()
                    .map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        Ok(Self { settings, directory, temporary, chain: None, host: None, nodes: Vec::new() })
    }

    /// Starts a node, with what all nodes of this network get by their name.
    fn spawn(&self, label: &str, flags: &[String]) -> Result<NodeProcess, Error> {
        let record = self.settings.record.as_ref().map(|directory| directory.join(label).display().to_string());
        let record = record.into_iter().flat_map(|directory| ["--record".to_owned(), directory]);
        let flags: Vec<String> = flags.iter().cloned().chain(record).collect();
        NodeProcess::spawn(label, &self.directory, &flags)
    }

    /// Starts everything; returns when all are connected and registered.
    pub(super) async fn start(&mut self, view: &View) -> Result<(), Error> {
        view.say(&format!("starting a ledger and {} nodes in {}", self.settings.nodes, self.directory.display()));
        let rpc = match &self.settings.chain {
            Some(settings) => self.chain.insert(ChainProcess::start(&self.directory, settings)?).rpc.clone(),
            None => vec![format!("http://127.0.0.1:{}", free_port()?)],
        };
        let host = self.spawn(HOST, &host_flags(&self.settings, &rpc))?;
        let host = self.host.insert(host);
        let status = until(host, |status| !status.listen.is_empty()).await?;
        let bootstrap = status.listen.first().cloned().unwrap_or_default();

        let flags = node_flags(&self.settings, &rpc, &bootstrap);
        for number in 1..=self.settings.nodes {
            let node = self.spawn(&format!("node-{number}"), &flags)?;
            self.nodes.push(node);
        }
        let others = 2.min(self.settings.nodes);
        for node in &mut self.nodes {
            let status = until(node, |status| status.registered && status.peers >= others).await?;
            view.say(&format!("{} is up: {}", node.label(), status.peer_id));
        }
        Ok(())
    }

    /// The node through which jobs are submitted, dead or alive.
    pub(super) fn submitter(&self) -> &NodeProcess {
        &self.nodes[0]
    }

    /// The first node that was not killed.
    pub(super) fn observer(&self) -> Result<&NodeProcess, Error> {
        self.nodes.iter().find(|node| node.is_alive()).ok_or_else(|| Error::JobFailed("no node is left".to_owned()))
    }

    /// The node with this peer id.
    pub(super) fn by_peer(&mut self, peer_id: &str) -> Option<&mut NodeProcess> {
        self.nodes.iter_mut().find(|node| node.peer_id == peer_id)
    }

    /// All processes.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut NodeProcess> {
        self.host.iter_mut().chain(&mut self.nodes)
    }

    /// An error if a process ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.chain.as_mut().map_or(Ok(()), ChainProcess::check)?;
        self.all().try_for_each(NodeProcess::check)
    }

    /// Asks every living node for its counters. One that does not answer keeps those it told last.
    pub(super) async fn refresh_metrics(&mut self) {
        for node in self.all().filter(|node| node.is_alive()) {
            if let Ok(client) = node.client()
                && let Ok(metrics) = client.metrics().await
            {
                node.metrics = metrics;
            }
        }
    }

    /// The script processes that living nodes started, each with the peer id of its node.
    pub(super) async fn runs(&self) -> Vec<(String, Run)> {
        let mut all = Vec::new();
        for node in self.nodes.iter().filter(|node| node.is_alive()) {
            if let Ok(client) = node.client()
                && let Ok(runs) = client.runs().await
            {
                all.extend(runs.into_iter().map(|run| (node.peer_id.clone(), run)));
            }
        }
        all
    }

    /// Ends every process, in order where they obey. The directory stays if something failed.
    pub(super) async fn stop(mut self, view: &View, failed: bool) {
        self.all().filter(|node| node.is_alive()).for_each(NodeProcess::ask_to_stop);
        for node in self.all() {
            if !node.finish().await {
                view.say(&format!("{} did not stop and was killed", node.label()));
            }
        }
        // The nodes said goodbye on it.
        if let Some(chain) = self.chain.take()
            && !chain.stop().await
        {
            view.say("the ledger did not stop and was killed");
        }
        if let Some(temporary) = self.temporary.filter(|_| failed) {
            view.say(&format!("logs are in {}", temporary.keep().display()));
        }
    }

    /// What to type while the network is kept up.
    pub(super) fn how_to_play(&self, job: JobId) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| "atlas-node".into());
        let node = |index: usize| self.nodes[index.min(self.nodes.len() - 1)].data_dir().display().to_string();
        format!(
            "the network stays up until Ctrl-C. In another terminal:\n  \
             {program} --data-dir {first} status\n  \
             {program} --data-dir {second} peers\n  \
             {program} --data-dir {first} jobs show {job}\n  \
             {program} --data-dir {first} infer --job {job} --input @FILE",
            program = program.display(),
            first = node(0),
            second = node(1),
        )
    }
}

/// Waits until the node answers and its status is as wanted. The caller sets the limit.
async fn until(node: &mut NodeProcess, wanted: impl Fn(&Status) -> bool) -> Result<Status, Error> {
    loop {
        node.check()?;
        if let Ok(client) = Client::connect(node.data_dir())
            && let Ok(status) = client.status().await
            && wanted(&status)
        {
            node.remember_client(client);
            node.peer_id.clone_from(&status.peer_id);
            return Ok(status);
        }
        tokio::time::sleep(START_POLL).await;
    }
}

fn common_flags(settings: &Settings, rpc: &[String]) -> Vec<String> {
    let offline_after = OFFLINE_AFTER.as_secs_f64().to_string();
    let fixed = [
        ["--listen", "/ip4/127.0.0.1/tcp/0"],
        ["--ipfs-api", "none"],
        ["--heartbeat-interval", BEAT_SECONDS],
        ["--heartbeat-timeout", &offline_after],
        ["--log-level", &settings.log_level],
    ];
    let ledger = rpc.iter().flat_map(|url| ["--chain-rpc", url]);
    let chain = settings.chain.iter().flat_map(|_| ["--chain-id", CHAIN_ID]);
    // On loopback neither finds anything but other people's nodes.
    let rest = ledger.chain(chain).chain(["--no-mdns", "--no-upnp", "--no-gpu"]);
    fixed.into_iter().flatten().chain(rest).map(str::to_owned).collect()
}

fn host_flags(settings: &Settings, rpc: &[String]) -> Vec<String> {
    let mode = if settings.chain.is_some() { "rpc" } else { "embedded" };
    let own = ["--ledger", mode, "--cpu-cores", "0"].map(str::to_owned);
    common_flags(settings, rpc).into_iter().chain(own).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a task needs less than 2⁵³ bytes")]
fn node_flags(settings: &Settings, rpc: &[String], bootstrap: &str) -> Vec<String> {
    let room = |amount: u64, unit: f64| (f64::from(TASKS_PER_NODE) * amount as f64 / unit).to_string();
    let mut flags = common_flags(settings, rpc);
    let own = [
        ["--ledger", "rpc"],
        ["--bootstrap", bootstrap],
        ["--cpu-cores", &room(settings.task.cpu_millicores, 1e3)],
        ["--memory-gb", &room(settings.task.memory_bytes, 1e9)],
        ["--storage-gb", &room(settings.task.storage_bytes, 1e9)],
    ];
    flags.extend(own.into_iter().flatten().map(str::to_owned));
    if let Some(python) = &settings.python {
        flags.extend(["--python".to_owned(), python.display().to_string()]);
    }
    flags
}

/// A port that is free now. Another program may take it before the ledger does; then the start fails and says so.
fn free_port() -> Result<u16, Error> {
    let failed = |source| Error::File { path: "127.0.0.1:0".into(), source };
    Ok(TcpListener::bind("127.0.0.1:0").map_err(failed)?.local_addr().map_err(failed)?.port())
}
