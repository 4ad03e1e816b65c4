//! One taker, several sources: three that are each limited, and one of three that lies.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Result, ensure};
use atlas_node::{api::ShardGet, clock, types::ContentId};

use super::{
    Arguments, hostile_peer,
    node::Node,
    report::Report,
    shard::{import, seconds_since, without_ledger, write_synced},
};

/// 20 MB/s, in Mbit/s.
const LIMIT: &str = "160";
/// MiB of content: five seconds of one limited source.
const LIMITED: u32 = 96;
/// MiB of content for sources without a limit.
const FREE: u32 = 512;

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    limited(arguments, report).await?;
    with_a_liar(arguments, report).await
}

async fn limited(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let sources = Sources::start(arguments, LIMITED, 3, &["--upload-mbit", LIMIT]).await?;
    let (mut one, mut three) = (vec![], vec![]);
    for run in 0..arguments.runs {
        one.push(f64::from(LIMITED) / sources.fetch(&format!("one-{run}"), 1, None).await?);
        three.push(f64::from(LIMITED) / sources.fetch(&format!("three-{run}"), 3, None).await?);
    }
    report.add("one of 20 MB/s", "MiB/s", &one, "");
    report.add("three of 20 MB/s", "MiB/s", &three, "");
    report.ratio("three to one", &three, &one, ">= 2.8");
    Ok(())
}

async fn with_a_liar(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let sources = Sources::start(arguments, FREE, 2, &[]).await?;
    let blocks = Arc::new(hostile_peer::blocks_of(&fs::read(sources.directory.path().join("content"))?));
    let (mut two, mut lied_to) = (vec![], vec![]);
    // The first pass warms caches and is not counted.
    for run in 0..=arguments.runs {
        let honest = sources.fetch(&format!("two-{run}"), 2, None).await?;
        let attacked = sources.fetch(&format!("lied-to-{run}"), 2, Some(Arc::clone(&blocks))).await?;
        if run > 0 {
            two.push(honest);
            lied_to.push(attacked);
        }
    }
    report.add("two honest ones", "s", &two, "");
    report.add("and one that lies in every tenth block", "s", &lied_to, "");
    report.ratio("with to without the liar", &lied_to, &two, "<= 1.3");
    Ok(())
}

/// Nodes with the same content.
struct Sources {
    directory: tempfile::TempDir,
    flags: Vec<String>,
    nodes: Vec<Node>,
    addresses: Vec<String>,
    cid: ContentId,
}

impl Sources {
    async fn start(arguments: &Arguments, mib: u32, count: usize, more: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let content = directory.path().join("content");
        write_synced(&content, mib)?;
        let flags = without_ledger(arguments)?;
        let giving = [&flags.iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat();
        let (mut nodes, mut addresses, mut cid) = (vec![], vec![], None);
        for number in 0..count {
            let mut node = Node::spawn(directory.path(), &format!("source-{number}"), &giving)?;
            addresses.extend(node.ready().await?.0.listen.into_iter().next());
            cid = Some(import(&node, content.clone()).await?.0);
            nodes.push(node);
        }
        let cid = cid.ok_or_else(|| anyhow::anyhow!("no source"))?;
        Ok(Self { directory, flags, nodes, addresses, cid })
    }

    /// A new node fetches from the first `count` of them, and from one that lies if there are blocks for it. In seconds.
    async fn fetch(&self, label: &str, count: usize, lies: Option<Arc<hostile_peer::seeder::Blocks>>) -> Result<f64> {
        ensure!(count <= self.nodes.len(), "there are not so many sources");
        let bootstraps = self.addresses[..count].iter().flat_map(|address| ["--bootstrap", address]);
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).chain(bootstraps).collect();
        let mut taker = Node::spawn(self.directory.path(), label, &flags)?;
        let address = taker.ready().await?.0.listen.into_iter().next().unwrap_or_default();
        let liar = match lies {
            None => None,
            Some(blocks) => {
                let seed =
                    hostile_peer::seed(address.parse()?, clock::random_bytes(), blocks, hostile_peer::EVERY_TENTH);
                Some(tokio::spawn(seed))
            }
        };
        let sources = u32::try_from(count)? + u32::from(liar.is_some());
        taker.settled(sources).await?;
        let began = clock::now_micros();
        taker.client()?.shard_get(&ShardGet::keep(self.cid)).await?;
        let seconds = seconds_since(began);
        if let Some(liar) = liar {
            let status = taker.client()?.status().await?;
            ensure!(!status.cut_off.is_empty(), "who lied was not cut off");
            liar.abort();
        }
        taker.stop().await?;
        forget(self.directory.path(), label);
        Ok(seconds)
    }
}

/// Runs are many here: what they stored goes.
fn forget(directory: &Path, label: &str) {
    if let Err(error) = fs::remove_dir_all(directory.join(label)) {
        eprintln!("{label} could not be deleted: {error}");
    }
}
