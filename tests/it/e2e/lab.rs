//! A few nodes on loopback, and small jobs for them.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use atlas_node::{
    api::{JobDetail, Submit, Submitted},
    types::{JobId, JobStatus},
};

use super::{
    node::Node,
    wait::{JOB, START, until},
};
use crate::executor::host::bundles;

/// A task of [`Job`] needs so many cores; a node that lends as many has room for one.
pub(crate) const ONE_TASK: &[&str] = &["--cpu-cores", "0.5", "--memory-gb", "1", "--storage-gb", "1"];

/// A directory with nodes in it. Dropping it ends them.
pub(crate) struct Lab {
    // Before the directory: nodes are ended before it is removed.
    pub(crate) nodes: Vec<Node>,
    /// What a further node of a mesh is started with.
    joining: Vec<String>,
    directory: tempfile::TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let joining = Vec::new();
        Self { nodes: Vec::new(), joining, directory: tempfile::Builder::new().prefix("atlas-e2e-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts one more node; returns its place.
    pub(crate) async fn start(&mut self, label: &str, flags: &[&str]) -> usize {
        let mut node = Node::new(self.path(), label, flags);
        node.start().await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// A node that carries a ledger, and `others` nodes that know its address, each with `flags`: all connected to each
    /// other and registered.
    pub(crate) async fn mesh(others: usize, flags: &[&str]) -> Self {
        let mut lab = Self::new();
        let rpc = format!("http://127.0.0.1:{}", free_port());
        lab.start("n0", &[&["--ledger", "embedded", "--chain-rpc", &rpc], flags].concat()).await;
        let bootstrap = lab.nodes[0].address.clone();
        lab.joining = ["--chain-rpc", &rpc, "--bootstrap", &bootstrap].map(str::to_owned).to_vec();
        let flags = [&["--chain-rpc", &rpc, "--bootstrap", &bootstrap], flags].concat();
        for number in 1..=others {
            let mut node = Node::new(lab.path(), &format!("n{number}"), &flags);
            node.spawn();
            lab.nodes.push(node);
        }
        for node in &mut lab.nodes {
            let all = u32::try_from(others).unwrap();
            let status = node
                .until_status("it is registered and knows the others", |status| {
                    status.registered && status.peers >= all && !status.listen.is_empty()
                })
                .await;
            node.peer_id = status.peer_id;
            node.address = status.listen[0].clone();
        }
        lab
    }

    /// Starts one more node of the mesh, and waits until it is registered; returns its place.
    pub(crate) async fn join(&mut self, label: &str, flags: &[&str]) -> usize {
        let joining: Vec<&str> = self.joining.iter().map(String::as_str).collect();
        let flags = [&joining[..], flags].concat();
        let mut node = Node::new(self.directory.path(), label, &flags);
        node.start().await;
        node.until_status("it is registered", |status| status.registered).await;
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Submits a job through a node.
    pub(crate) async fn submit(&self, node: usize, job: &Job) -> Submitted {
        self.submit_file(node, &job.write(&self.path().join("job"))).await
    }

    /// Submits a job file through a node.
    pub(crate) async fn submit_file(&self, node: usize, file: &Path) -> Submitted {
        let request = Submit {
            job_file: fs::read_to_string(file).unwrap(),
            base_directory: file.parent().unwrap().to_owned(),
            shards: None,
            copies: None,
        };
        self.nodes[node].client().submit(&request).await.unwrap_or_else(|error| panic!("submit: {error}"))
    }

    /// The job, as a node sees it, once it is as wanted.
    pub(crate) async fn until_job(
        &self,
        node: usize,
        job: JobId,
        what: &str,
        wanted: impl Fn(&JobDetail) -> bool,
    ) -> JobDetail {
        until(what, JOB, async || {
            let detail = self.nodes[node].client().job(job).await.ok()?;
            assert_ne!(detail.job.status, JobStatus::Failed, "{:?}", detail.job.error);
            wanted(&detail).then_some(detail)
        })
        .await
    }

    /// The job at its end, with every batch applied exactly once.
    pub(crate) async fn completed(&self, node: usize, job: JobId) -> JobDetail {
        let detail =
            self.until_job(node, job, "the job completes", |detail| detail.job.status == JobStatus::Completed).await;
        assert_eq!(detail.rounds.len(), detail.job.rounds as usize);
        for round in &detail.rounds {
            assert_eq!(round.applied.len(), detail.tasks.len(), "round {} applies every slot", round.round);
            assert_eq!(round.batches, u64::from(detail.job.local_steps) * detail.tasks.len() as u64);
            assert_eq!(round.verified as usize, detail.tasks.len(), "round {}: every receipt is verified", round.round);
        }
        assert!(detail.job.result_cid.is_some());
        detail
    }

    /// Waits until `observer` sees every node present on the ledger. One that came back is `recovering` until it takes a task.
    pub(crate) async fn all_online(&self, observer: usize) {
        let client = self.nodes[observer].client();
        until("every node is online on the ledger", START, async || {
            let nodes = client.nodes().await.ok()?;
            let online = nodes.iter().filter(|node| node.status != atlas_node::types::NodeStatus::Offline).count();
            (online == self.nodes.len()).then_some(())
        })
        .await;
    }
}

/// A job that fits a plane through points, in the standard library of Python.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) shards: u32,
    pub(crate) rounds: u32,
    pub(crate) local_steps: u32,
    pub(crate) checkpoint_every: u32,
    /// How long a step lasts at least.
    pub(crate) pace_ms: u32,
    pub(crate) settle: &'static str,
    pub(crate) copies: u32,
    pub(crate) session: bool,
    pub(crate) sealed: bool,
}

/// Short: a round takes as long as its process takes to start.
pub(crate) const SHORT: Job = Job {
    shards: 2,
    rounds: 2,
    local_steps: 20,
    checkpoint_every: 0,
    pace_ms: 0,
    settle: "ledger",
    copies: 1,
    session: false,
    sealed: false,
};

/// Slow: a round takes three seconds, with a checkpoint each 0.4 s, so that a test finds its moment inside one.
pub(crate) const SLOW: Job = Job { shards: 3, rounds: 3, local_steps: 60, checkpoint_every: 8, pace_ms: 50, ..SHORT };

impl Job {
    /// Writes everything that the job needs into `directory`; returns the job file.
    pub(crate) fn write(&self, directory: &Path) -> PathBuf {
        let bundle = directory.join("bundle");
        fs::create_dir_all(&bundle).unwrap();
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/e2e/bundle");
        for (from, name) in [(&own, "atlas.toml"), (&own, "train.py"), (&bundles().join("digits"), "atlas_script.py")] {
            fs::copy(from.join(name), bundle.join(name)).unwrap();
        }
        fs::write(directory.join("init.safetensors"), initial_model()).unwrap();
        fs::write(directory.join("points.csv"), points()).unwrap();
        let file = directory.join("job.toml");
        fs::write(&file, self.text()).unwrap();
        file
    }

    /// The job file.
    pub(crate) fn text(&self) -> String {
        let Self { shards, rounds, local_steps, checkpoint_every, pace_ms, settle, copies, session, sealed } = self;
        format!(
            "name = 'plane'\nbundle = 'bundle'\nmodel = 'init.safetensors'\nseed = 11\nrounds = {rounds}\n\
             local_steps = {local_steps}\ncheckpoint_every = {checkpoint_every}\nshards = {shards}\n\
             session = {session}\nsettle = '{settle}'\ncopies = {copies}\nround_limit = '5m'\ndeadline = '1h'\n\
             budget = 1000\n[data]\npath = 'points.csv'\nheld_out = 0.25\nsealed = {sealed}\n\
             [resources]\ncpu_cores = 0.5\nmemory_gb = 0.5\nstorage_gb = 0.5\n[config]\npace_ms = {pace_ms}\n"
        )
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One tensor of three zeros: two slopes and a height.
fn initial_model() -> Vec<u8> {
    let mut header = br#"{"plane":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#.to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &[0; 12]].concat()
}

/// 64 points of the plane 2·x − y + 1/2.
fn points() -> String {
    let coordinate = |number: u32, factor: u32| f64::from(number * factor % 17) / 8.0 - 1.0;
    let point = |number| {
        let (x, y) = (coordinate(number, 5), coordinate(number, 11));
        format!("{x},{y},{}\n", 2.0 * x - y + 0.5)
    };
    (0..64).map(point).collect()
}
