//! From `exec` to a node that answers its control socket and can be dialled.

use anyhow::Result;

use super::{Arguments, mesh::free_port, node::Node, report::Report};

/// Starts are short: more of them cost little.
const RUNS: u32 = 2;

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let python = arguments.python.to_string_lossy().into_owned();
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for run in 0..arguments.runs * RUNS {
        let rpc = format!("http://127.0.0.1:{}", free_port()?);
        for samples in [&mut first, &mut again] {
            let flags = ["--ledger", "embedded", "--chain-rpc", &rpc, "--python", &python];
            let mut node = Node::spawn(directory.path(), &format!("node-{run}"), &flags)?;
            samples.push(node.ready().await?.1);
            node.stop().await?;
        }
    }
    report.add("first start to ready, ledger carried", "ms", &first, "<= 200");
    report.add("later start to ready, ledger carried", "ms", &again, "<= 200");
    Ok(())
}
