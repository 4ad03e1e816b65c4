//! What honest nodes feel of a hostile one: round trips on the way of beats and of dispatch, and jobs from `submit` to the
//! launch of their script, quiet and under each attack of `tests/hostile`, on the same nodes in the same run.
//!
//! The attacker is a process of its own with the least priority, so that a machine of two cores shows what the node suffers
//! and not that its cores were taken. It attacks all the while that is measured, cut off or not.

use std::{fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use atlas_node::{
    api::{ShardGet, client::Client},
    clock,
    identity::Keypair,
};
use libp2p::Multiaddr;
use serde::Serialize;
use tokio::process::{Child, Command};

use super::{
    Arguments,
    dispatch::{self, Waits},
    hostile_peer::Attack,
    mesh::Mesh,
    prober::{Probers, RoundTrips},
    report::{number, quantile},
};

/// The word that makes this program the attacker.
pub(crate) const ATTACK: &str = "attack";
/// How long round trips are measured, quiet and attacked.
const WINDOW: Duration = Duration::from_secs(8);
/// Jobs of four tasks, quiet and attacked.
const JOBS: usize = 3;
/// Between two looks whether the attacker is cut off.
const LOOK: Duration = Duration::from_millis(5);

/// Every attack, by its name.
const ATTACKS: [(&str, Attack); 16] = [
    ("gossip-garbage", Attack::GossipGarbage),
    ("gossip-useless", Attack::GossipUseless),
    ("connections", Attack::Connections),
    ("identities", Attack::Identities),
    ("handshakes", Attack::Handshakes),
    ("streams", Attack::Streams),
    ("half-requests", Attack::HalfRequests),
    ("oversize", Attack::Oversize),
    ("oversize-gossip", Attack::OversizeGossip),
    ("forgeries", Attack::Forgeries),
    ("bombs", Attack::Bombs),
    ("nonsense", Attack::Nonsense),
    ("newer-gossip", Attack::NewerGossip),
    ("newer-requests", Attack::NewerRequests),
    ("silence", Attack::Silence),
    ("lies", Attack::Lies),
];

/// The attacks' names, for the command line.
pub(crate) const NAMES: [&str; 16] = {
    let mut names = [""; 16];
    let mut place = 0;
    while place < names.len() {
        names[place] = ATTACKS[place].0;
        place += 1;
    }
    names
};

/// Attacks until it is killed. `words` are the attack, the node's address and the attacker's secret in hexadecimal.
pub(crate) async fn attack(name: &str, address: &str, secret: &str) -> Result<()> {
    let (_, attack) = ATTACKS.iter().find(|(known, _)| *known == name).context("no attack has this name")?;
    let address: Multiaddr = address.parse()?;
    let secret = <[u8; 32]>::try_from(hex::decode(secret)?).ok().context("a secret has 32 bytes")?;
    attack.run(address, secret).await;
    Ok(())
}

/// One row of the table.
#[derive(Debug, Serialize)]
struct Row {
    attack: &'static str,
    quiet: Felt,
    attacked: Felt,
    /// Resident size of the attacked node at most while it was attacked.
    resident_mib: f64,
    /// From the attacker's start until it was cut off, or its address refused; `None` if it was not.
    cut_off_s: Option<f64>,
    why: String,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
struct Felt {
    health_p50: f64,
    health_p99: f64,
    task_p50: f64,
    task_p99: f64,
    launch_p50: f64,
    samples: usize,
}

impl Felt {
    fn new(mut trips: RoundTrips, mut waits: Waits) -> Self {
        for samples in [&mut trips.health, &mut trips.task, &mut waits.dispatched] {
            samples.sort_by(f64::total_cmp);
        }
        Self {
            health_p50: quantile(&trips.health, 0.5),
            health_p99: quantile(&trips.health, 0.99),
            task_p50: quantile(&trips.task, 0.5),
            task_p99: quantile(&trips.task, 0.99),
            launch_p50: quantile(&waits.dispatched, 0.5),
            samples: trips.health.len(),
        }
    }
}

/// Measures each attack that is named, or all, on nodes of its own.
pub(crate) async fn measure(arguments: &Arguments, wanted: &[String]) -> Result<()> {
    if !arguments.json {
        println!(
            "milliseconds; quiet p50/p99, under attack p50/p99, ratio of the p99; `health` is a round trip on /atlas/health/1, `task` \
             one on /atlas/task/1, `launch` a job from submit to launch (p50)\n"
        );
        println!(
            "{:<15} {:>11} {:>12} {:>5}  {:>11} {:>12} {:>5}  {:>13}  {:>5} {:>8}  reason",
            "attack", "health", "attacked", "x", "task", "attacked", "x", "launch", "MiB", "cut off"
        );
    }
    let mut rows = Vec::new();
    for (name, _) in ATTACKS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wish| wish == name)) {
        let row = one(arguments, name).await.with_context(|| format!("`{name}` could not be measured"))?;
        if !arguments.json {
            print(&row);
        }
        rows.push(row);
    }
    if arguments.json {
        println!("{}", serde_json::json!({ "attacks": rows }));
    }
    Ok(())
}

fn print(row: &Row) {
    let pair = |p50: f64, p99: f64| format!("{}/{}", number(p50), number(p99));
    let (quiet, attacked) = (&row.quiet, &row.attacked);
    println!(
        "{:<15} {:>11} {:>12} {:>5}  {:>11} {:>12} {:>5}  {:>13}  {:>5} {:>8}  {}",
        row.attack,
        pair(quiet.health_p50, quiet.health_p99),
        pair(attacked.health_p50, attacked.health_p99),
        number(attacked.health_p99 / quiet.health_p99),
        pair(quiet.task_p50, quiet.task_p99),
        pair(attacked.task_p50, attacked.task_p99),
        number(attacked.task_p99 / quiet.task_p99),
        format!("{} > {}", number(quiet.launch_p50), number(attacked.launch_p50)),
        number(row.resident_mib),
        row.cut_off_s.map_or("never".into(), |seconds| format!("{seconds:.2} s")),
        row.why
    );
}

async fn one(arguments: &Arguments, name: &'static str) -> Result<Row> {
    let directory = tempfile::tempdir()?;
    dispatch::lay_out(directory.path())?;
    let mesh = Mesh::start(directory.path(), dispatch::NODES, &arguments.python, &dispatch::FLAGS).await?;
    let clients = mesh.nodes.iter().map(|node| node.client()).collect::<Result<Vec<_>>>()?;
    // The node that carries the ledger: everybody's beats and transactions go through it.
    let address = mesh.host.client()?.status().await?.listen.first().context("it listens")?.clone();
    let probers = Probers::start(&address.parse()?)?;
    // The first job warms caches and is not counted.
    dispatch::one_job(directory.path(), &clients, &mut Waits::default()).await?;
    let quiet = felt(directory.path(), &clients, &probers).await?;

    // Something to lie about: content that nobody has.
    let wish = tokio::spawn(wish(mesh.host.client()?));
    let log = directory.path().join("host.log");
    let before = fs::read_to_string(&log)?.len();
    mesh.host.forget_peak()?;
    let (mut attacker, peer) = start(name, &address)?;
    let watched = tokio::spawn(watch(mesh.host.client()?, peer, log, before));
    let attacked = felt(directory.path(), &clients, &probers).await?;
    let resident_mib = mesh.host.resident_mib()?[1];
    attacker.kill().await?;
    let (cut_off_s, why) =
        if watched.is_finished() { watched.await?? } else { (None, "nothing wrong was done".into()) };
    wish.abort();
    mesh.stop().await?;
    Ok(Row { attack: name, quiet, attacked, resident_mib, cut_off_s, why })
}

/// Round trips, and jobs beside them.
async fn felt(directory: &Path, clients: &[Client], probers: &Probers) -> Result<Felt> {
    let trips = probers.measure(WINDOW).await;
    let mut waits = Waits::default();
    for _ in 0..JOBS {
        dispatch::one_job(directory, clients, &mut waits).await?;
    }
    Ok(Felt::new(trips, waits))
}

/// Asks for content that nobody has, again and again: whoever is connected is asked.
async fn wish(client: Client) {
    let cid = "bafkreiemqpndzewx4bioklzfvhtiegsfny5fxuc3nkjk2vmcpjxiammsti".parse().expect("a CID");
    let wanted = ShardGet::keep(cid);
    loop {
        let _ = tokio::time::timeout(Duration::from_secs(1), client.shard_get(&wanted)).await;
    }
}

fn start(name: &str, address: &str) -> Result<(Child, String)> {
    let secret: [u8; 32] = clock::random_bytes();
    let child = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe()?)
        .args([ATTACK, name, address, &hex::encode(secret)])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok((child, Keypair::from_secret(&secret).peer_id().to_string()))
}

/// Waits until the attacker is cut off or its address refused: seconds, and why.
async fn watch(client: Client, peer: String, log: std::path::PathBuf, before: usize) -> Result<(Option<f64>, String)> {
    let began = clock::now_micros();
    loop {
        let cut_off = client.status().await?.cut_off.into_iter().find(|cut_off| cut_off.peer_id == peer);
        let text = fs::read_to_string(&log)?;
        let refused = text.get(before..).is_some_and(|new| new.contains("connections from an address are refused"));
        let why = cut_off.map(|cut_off| cut_off.reason).or(refused.then(|| "its address is refused".to_owned()));
        if let Some(why) = why {
            return Ok((Some((clock::now_micros() - began) as f64 / 1e6), why));
        }
        tokio::time::sleep(LOOK).await;
    }
}
