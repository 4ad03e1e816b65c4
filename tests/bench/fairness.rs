//! Beats and dispatch while content moves as fast as it can: bulk yields.

use std::time::Duration;

use anyhow::Result;
use atlas_node::api::ShardGet;

use super::{
    Arguments,
    node::Node,
    prober::{Probers, RoundTrips},
    report::Report,
    shard::{import, without_ledger, write_synced},
};

/// How long it is looked at a quiet node.
const QUIET: Duration = Duration::from_secs(5);
/// Between two looks whether the transfer is done.
const SLICE: Duration = Duration::from_millis(200);
/// MiB of content: some seconds of transfer.
const CONTENT: u32 = 4_096;

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let content = directory.path().join("content");
    write_synced(&content, CONTENT)?;
    let settings = without_ledger(arguments)?;
    let flags = settings.iter().map(String::as_str).collect::<Vec<_>>();
    let mut giver = Node::spawn(directory.path(), "giver", &flags)?;
    let address = giver.ready().await?.0.listen.first().cloned().unwrap_or_default();
    let (cid, _) = import(&giver, content).await?;
    let mut taker = Node::spawn(directory.path(), "taker", &[&flags[..], &["--bootstrap", &address]].concat())?;
    let taking = taker.ready().await?.0.listen.first().cloned().unwrap_or_default();
    taker.settled(1).await?;
    let probers = [Probers::start(&address.parse()?)?, Probers::start(&taking.parse()?)?];
    // The first look is while they connect.
    let mut quiet = Vec::new();
    for _ in 0..2 {
        let (giving, taking) = tokio::join!(probers[0].measure(QUIET), probers[1].measure(QUIET));
        quiet = vec![giving, taking];
    }
    tell(report, "quiet", &quiet, "");
    let client = taker.client()?;
    let transfer = tokio::spawn(async move { client.shard_get(&ShardGet::keep(cid)).await });
    let mut felt = vec![RoundTrips::default(); 2];
    while !transfer.is_finished() {
        let (giving, taking) = tokio::join!(probers[0].measure(SLICE), probers[1].measure(SLICE));
        for (all, more) in felt.iter_mut().zip([giving, taking]) {
            all.health.extend(more.health);
            all.task.extend(more.task);
        }
    }
    transfer.await??;
    tell(report, "transfer", &felt, "<= 100");
    taker.stop().await?;
    giver.stop().await
}

/// What giver and taker felt.
fn tell(report: &mut Report, when: &str, felt: &[RoundTrips], target: &'static str) {
    for (name, felt) in ["giver", "taker"].iter().zip(felt) {
        report.quantiles(&format!("{name}, {when}, beat"), "ms", &felt.health, ["", target]);
        report.quantiles(&format!("{name}, {when}, dispatch"), "ms", &felt.task, ["", target]);
    }
}
