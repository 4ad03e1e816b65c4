//! What a node costs that has nothing to do.

use std::time::Duration;

use anyhow::Result;
use atlas_node::clock;

use super::{
    Arguments,
    mesh::{Mesh, free_port},
    node::Node,
    report::Report,
};

/// Long enough for several beats of the slowest timers, of which the ledger's is one a second.
const WINDOW: Duration = Duration::from_secs(20);
/// What follows a start (identify, speed tests, registration) is over by then.
const SETTLE: Duration = Duration::from_secs(10);
/// A window is long, so there are fewer.
const MOST_RUNS: u32 = 3;

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let runs = arguments.runs.min(MOST_RUNS);
    let directory = tempfile::tempdir()?;
    let rpc = format!("http://127.0.0.1:{}", free_port()?);
    let python = arguments.python.to_string_lossy().into_owned();
    let flags = ["--ledger", "embedded", "--chain-rpc", &rpc, "--python", &python];
    let mut alone = Node::spawn(directory.path(), "alone", &flags)?;
    alone.ready().await?;
    watch(&[("alone, ledger carried", &alone)], runs, report).await?;
    alone.stop().await?;

    let mesh = Mesh::start(directory.path(), 3, &arguments.python, &[]).await?;
    watch(&[("host of the ledger, 3 peers", &mesh.host), ("node, 3 peers", &mesh.nodes[1])], runs, report).await?;
    mesh.stop().await
}

/// Looks at all nodes in the same windows.
async fn watch(nodes: &[(&str, &Node)], runs: u32, report: &mut Report) -> Result<()> {
    let mut samples = vec![(Vec::new(), Vec::new()); nodes.len()];
    tokio::time::sleep(SETTLE).await;
    for _ in 0..runs {
        let cpu = nodes.iter().map(|(_, node)| node.cpu_seconds()).collect::<Result<Vec<_>>>()?;
        let began = clock::now();
        tokio::time::sleep(WINDOW).await;
        let seconds = clock::now().since(began).as_secs_f64();
        for (((_, node), before), (shares, sizes)) in nodes.iter().zip(cpu).zip(&mut samples) {
            shares.push((node.cpu_seconds()? - before) / seconds * 100.0);
            sizes.push(node.resident_mib()?[0]);
        }
    }
    for ((name, node), (shares, sizes)) in nodes.iter().zip(samples) {
        report.add(format!("{name}: processor"), "% core", &shares, "<= 0.3");
        report.add(format!("{name}: resident"), "MiB", &sizes, "<= 25");
        report.add(format!("{name}: resident at most"), "MiB", &[node.resident_mib()?[1]], "");
    }
    Ok(())
}
