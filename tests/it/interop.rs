//! A peer of another make in a mesh of real nodes: js-libp2p and `scripts/interop`, written from `protocols/` alone.
//!
//! Each story is one run of the foreign peer, which checks its side and says what happened; the test checks the node's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use atlas_node::{
    api::{NodeEvent, ShardAdd, ShardGet, Task},
    identity,
    types::{ContentId, Digest, NodeStatus, TaskStatus},
};
use futures::{Stream, StreamExt};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::e2e::{
    lab::{Job, Lab, SLOW},
    node::Node,
    wait::{START, until},
};

/// A story ends by itself within this time. It takes half a second on an idle machine.
const STORY: Duration = Duration::from_secs(60);
/// Listens on both transports.
const BOTH: &[&str] = &["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
/// More than one chunk, and a last one that is shorter.
const FILE_BYTES: u32 = 3 * 1024 * 1024 + 5;
/// SHA-256 of something that nobody has.
const NOWHERE: &str = "bafkreiemqpndzewx4bioklzfvhtiegsfny5fxuc3nkjk2vmcpjxiammsti";

// --- the foreign peer -------------------------------------------------------------------------------------------------

/// Node.js, and the directory of a foreign peer below `scripts/`.
pub(crate) fn installed(peer: &str) -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (node, peer) = (root.join(".tools/bin/node"), root.join("scripts").join(peer));
    let installed = node.exists() && peer.join("node_modules/.lock.sha256").exists();
    assert!(installed, "{} is not installed: run scripts/setup --dev", peer.display());
    (node, peer)
}

/// One story under way.
struct Story {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
    heard: String,
}

impl Story {
    /// Starts the foreign peer, which joins the mesh at `address` and begins.
    fn begin(name: &str, address: &str, arguments: &[&str]) -> Self {
        let (node, interop) = installed("interop");
        let mut child = Command::new(node)
            .arg(interop.join("main.js"))
            .args([name, "--peer", address, "--timeout", &STORY.as_secs().to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said, heard: String::new() }
    }

    /// Waits until it is the node's turn; returns what the peer says to that.
    async fn ready(&mut self) -> String {
        while let Some(line) = tokio::time::timeout(STORY, self.said.next_line()).await.expect("a turn").unwrap() {
            if let Some(words) = line.strip_prefix("ready") {
                return words.trim().to_owned();
            }
            self.heard += &format!("{line}\n");
        }
        panic!("the foreign peer ended before it was ready: {}", self.heard);
    }

    /// How it ended, and what happened.
    async fn outcome(mut self) -> (bool, Value) {
        let mut line = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        let end = async {
            stdout.read_to_string(&mut line).await.unwrap();
            while let Some(said) = self.said.next_line().await.unwrap() {
                self.heard += &format!("{said}\n");
            }
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(STORY, end).await.expect("the story ends in time");
        let outcome = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}: {}", self.heard));
        (status.success(), outcome)
    }

    /// What happened in a story that went as the pages say.
    async fn verified(self) -> Value {
        let (success, outcome) = self.outcome().await;
        assert!(success && outcome["verified"] == true, "{outcome:#}");
        outcome
    }
}

/// Where a node can be reached over a transport.
async fn address(node: &Node, transport: &str) -> String {
    let status = node.client().status().await.unwrap();
    let found = status.listen.iter().find(|address| address.contains(transport));
    found.unwrap_or_else(|| panic!("{} listens on {:?}", node.label, status.listen)).clone()
}

// --- one transport each -----------------------------------------------------------------------------------------------

/// Every story of one node, over one transport.
struct Meeting {
    lab: Lab,
    address: String,
    arguments: Vec<String>,
}

impl Meeting {
    async fn new(transport: &str, flags: &[&str], arguments: &[&str]) -> Self {
        let mut lab = Lab::new();
        lab.start("host", flags).await;
        let address = address(&lab.nodes[0], transport).await;
        Self { lab, address, arguments: arguments.iter().map(|&argument| argument.to_owned()).collect() }
    }

    fn host(&self) -> &Node {
        &self.lab.nodes[0]
    }

    fn begin(&self, name: &str, arguments: &[&str]) -> Story {
        let own = self.arguments.iter().map(String::as_str);
        Story::begin(name, &self.address, &own.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }

    /// A file of bytes that tell each place, and each `seed`.
    fn file(&self, name: &str, seed: u32) -> PathBuf {
        let path = self.lab.path().join(name);
        let words = (0..FILE_BYTES.div_ceil(4)).flat_map(|place| (place ^ seed << 24).to_be_bytes());
        fs::write(&path, words.take(FILE_BYTES as usize).collect::<Vec<u8>>()).unwrap();
        path
    }

    async fn every_story(&self) {
        self.identifies().await;
        self.beats().await;
        self.fetches().await;
        self.offers().await;
        self.asks_to_hold().await;
        self.refuses().await;
    }

    async fn identifies(&self) {
        let said = self.begin("identify", &[]).verified().await;
        assert_eq!(said["remote"], self.host().peer_id);
        assert_eq!(said["agent"], concat!("atlas-node/", env!("CARGO_PKG_VERSION")));
    }

    async fn beats(&self) {
        let mut events = self.host().events().await;
        let mut story = self.begin("beat", &[]);
        let name = story.ready().await;
        let client = self.host().client();
        let peer = until("the node knows who joined it", START, async || {
            let peers = client.peers().await.unwrap();
            peers.into_iter().find(|peer| peer.peer_id == name && peer.agent.is_some())
        })
        .await;
        assert_eq!((peer.agent.as_deref(), &*peer.direction), (Some("atlas-interop/1.0.0"), "inbound"));

        let told = story.verified().await;
        assert_eq!(told["peer_id"], name);
        let host = identity::node_key(&self.host().peer_id.parse().unwrap()).unwrap();
        assert_eq!(told["heard"]["node"], host.to_string());
        until_offline(&mut events, &name).await;
    }

    async fn fetches(&self) {
        let file = self.file("fetched", 1);
        let added = self.add(&file).await;
        let read = self.begin("fetch", &["--cid", &added.to_string()]).verified().await;
        assert_eq!(read["size"], FILE_BYTES);
        assert_eq!(read["files"][""]["sha256"], Digest::of(&fs::read(&file).unwrap()).to_string());

        let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("protocols");
        let added = self.add(&pages).await;
        let read = self.begin("fetch", &["--cid", &added.to_string()]).verified().await;
        let page = Digest::of(&fs::read(pages.join("shard.md")).unwrap()).to_string();
        assert_eq!(read["files"]["shard.md"]["sha256"], page);
    }

    async fn offers(&self) {
        let file = self.file("offered", 2);
        let mut story = self.begin("offer", &["--path", file.to_str().unwrap()]);
        let cid: ContentId = story.ready().await.parse().unwrap();
        let to = self.lab.path().join("taken");
        self.host().client().shard_get(&ShardGet::to(cid, to.clone())).await.unwrap();
        assert!(fs::read(&to).unwrap() == fs::read(&file).unwrap(), "the node wrote other bytes");
        let offered = story.verified().await;
        assert_eq!(offered["given"], offered["blocks"], "nobody else has them");
        assert_eq!(self.add(&file).await, cid, "both make the same DAG of a file");
    }

    async fn asks_to_hold(&self) {
        let file = self.file("held", 3);
        let held = self.begin("hold", &["--path", file.to_str().unwrap()]).verified().await;
        let shards = self.host().client().shards().await.unwrap();
        let shard = shards.iter().find(|shard| held["cid"] == shard.cid.to_string()).expect("the node keeps it");
        assert!(shard.size >= u64::from(FILE_BYTES), "{shard:?}");
        assert!(shard.pins.iter().any(|reason| reason.contains(held["peer_id"].as_str().unwrap())), "{shard:?}");
    }

    async fn refuses(&self) {
        let mut story = self.begin("refuse", &["--cid", NOWHERE]);
        story.ready().await;
        let client = self.host().client();
        // It waits for somebody who has it, longer than the story lasts.
        let nowhere = ShardGet::keep(NOWHERE.parse().unwrap());
        let wanting = client.shard_get(&nowhere);
        let refused = tokio::select! {
            refused = story.verified() => refused,
            got = wanting => panic!("what nobody has can't be had: {got:?}"),
        };
        assert!(refused["refused"].as_object().unwrap().len() >= 15, "{refused:#}");
    }

    async fn add(&self, path: &Path) -> ContentId {
        let add = ShardAdd { path: path.to_owned(), car: false };
        self.host().client().shard_add(&add).await.unwrap().cid
    }
}

/// Waits until a node reports that a peer took leave.
async fn until_offline(events: &mut (impl Stream<Item = NodeEvent> + Unpin), peer: &str) {
    let told = async {
        while let Some(event) = events.next().await {
            if matches!(&event, NodeEvent::NodeStatus { peer_id, status: NodeStatus::Offline } if peer_id == peer) {
                return;
            }
        }
        panic!("the events ended");
    };
    tokio::time::timeout(START, told).await.expect("that the peer left is told");
}

/// A key of a private network, in a file.
fn swarm_key(directory: &Path, name: &str, byte: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", byte.repeat(32))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_peer_gives_and_takes_over_tcp() {
    Meeting::new("/tcp/", BOTH, &[]).await.every_story().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_peer_gives_and_takes_over_quic() {
    Meeting::new("/quic-v1", BOTH, &[]).await.every_story().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_peer_gives_and_takes_in_a_private_network_and_strangers_stay_outside() {
    let keys = tempfile::tempdir().unwrap();
    let key = swarm_key(keys.path(), "swarm.key", "5a");
    let meeting = Meeting::new("/tcp/", &["--swarm-key", &key], &["--swarm-key", &key]).await;
    meeting.every_story().await;

    let other = swarm_key(keys.path(), "other.key", "5b");
    for arguments in [&[][..], &["--swarm-key", &other]] {
        let (success, outcome) = Story::begin("identify", &meeting.address, arguments).outcome().await;
        assert!(!success && outcome["verified"] == false, "{outcome}");
    }
}

#[tokio::test]
async fn a_foreign_peer_reads_the_vectors_and_refuses_what_no_node_sends() {
    let (node, interop) = installed("interop");
    let tests = ["test.js", "vectors.js"].map(|name| interop.join(name));
    let output = Command::new(node).args(["--test", "--test-reporter=tap"]).args(tests).output();
    let output = tokio::time::timeout(STORY, output).await.expect("its tests end in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

// --- a mesh -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_peer_hears_of_a_job_of_who_took_it_and_of_what_went_back() {
    let lab = Lab::mesh(2, BOTH).await;
    let kinds = "announcement,assignment-notice,rollback,status-change";
    let mut stories = Vec::new();
    for transport in ["/tcp/", "/quic-v1"] {
        let mut story = Story::begin("listen", &address(&lab.nodes[0], transport).await, &["--kinds", kinds]);
        story.ready().await;
        stories.push(story);
    }

    let submitted = lab.submit(1, &Job { rounds: 50, ..SLOW }).await;
    let (job, leaver) = (submitted.job_id, &lab.nodes[2]);
    let held = |task: &&Task| task.node_id.as_ref() == Some(&leaver.peer_id) && task.status == TaskStatus::InProgress;
    let before = lab.until_job(0, job, "each node works", |detail| detail.tasks.iter().any(|task| held(&task))).await;
    leaver.ask_to_stop();

    let key = |node: &Node| identity::node_key(&node.peer_id.parse().unwrap()).unwrap().to_string();
    for story in stories {
        let told = story.verified().await;
        let heard = |kind: &str| told["heard"][kind].as_array().unwrap().clone();
        // It is said again when others hold the content.
        for announcement in heard("announcement") {
            assert_eq!(announcement["job"], job.to_string());
            assert_eq!(announcement["submitter"], key(&lab.nodes[1]));
            assert_eq!(announcement["spec"]["name"], "plane");
            assert_eq!(announcement["shards"].as_array().unwrap().len(), before.tasks.len());
        }

        let is_of_job = |task: &Value| task.as_str().unwrap().starts_with(&job.to_string());
        assert!(heard("assignment-notice").iter().all(|notice| is_of_job(&notice["task"])), "{told:#}");
        let rollback = &heard("rollback")[0];
        assert!(is_of_job(&rollback["task_id"]), "{rollback:#}");
        let task = before.tasks.iter().find(|task| rollback["shard_id"] == task.shard_id).unwrap();
        assert!(held(&task), "what the leaver held went back, not {task:?}");
        assert_eq!(rollback["void_generation"], task.generation);
        let goodbye = |change: &Value| change["node"] == key(leaver) && change["status"] == "offline";
        assert!(heard("status-change").iter().any(goodbye), "{told:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_foreign_peer_says_reaches_nodes_that_it_is_not_connected_to() {
    let lab = Lab::mesh(1, BOTH).await;
    for transport in ["/tcp/", "/quic-v1"] {
        let mut events = lab.nodes[1].events().await;
        let said = Story::begin("speak", &address(&lab.nodes[0], transport).await, &[]).verified().await;
        until_offline(&mut events, said["peer_id"].as_str().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_found_out_and_who_comes_later_with_the_truth_is_asked() {
    let meeting = Meeting::new("/tcp/", BOTH, &[]).await;
    let (file, to) = (meeting.file("doubted", 4), meeting.lab.path().join("true"));
    let path = file.to_str().unwrap();
    let mut liar = meeting.begin("lie", &["--path", path]);
    let cid: ContentId = liar.ready().await.parse().unwrap();

    let client = meeting.host().client();
    let request = ShardGet::to(cid, to.clone());
    let getting = client.shard_get(&request);
    let others = async {
        assert_eq!(liar.verified().await["times"], 1, "a liar is asked once");
        meeting.begin("offer", &["--path", path]).verified().await
    };
    let (got, _) = tokio::join!(getting, others);
    got.unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(&file).unwrap(), "the node wrote other bytes");
    let log = fs::read_to_string(meeting.lab.path().join("host.log")).unwrap();
    assert!(log.contains("sent bytes that are not what they were asked for as"), "{log}");
    assert!(log.contains("a peer is cut off") && log.contains("not what their name says"), "{log}");
    until("the liar is gone", START, async || client.peers().await.unwrap().is_empty().then_some(())).await;
}
