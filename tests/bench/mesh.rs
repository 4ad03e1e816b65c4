//! A ledger's host and nodes that are connected to each other and stand on its ledger.

use std::path::Path;

use anyhow::Result;

use super::node::Node;

/// Several nodes on one machine.
pub(crate) struct Mesh {
    pub(crate) host: Node,
    pub(crate) nodes: Vec<Node>,
}

impl Mesh {
    /// Starts `count` nodes and their ledger's host; returns when each is connected to all others and registered.
    pub(crate) async fn start(directory: &Path, count: usize, python: &Path, flags: &[&str]) -> Result<Self> {
        let rpc = format!("http://127.0.0.1:{}", free_port()?);
        let common = [&["--chain-rpc", &rpc], flags].concat();
        let mut host =
            Node::spawn(directory, "host", &[&common[..], &["--ledger", "embedded", "--cpu-cores", "0"]].concat())?;
        let (status, _) = host.ready().await?;
        let python = python.to_string_lossy();
        let bootstrap = status.listen.first().map_or("", String::as_str);
        let own = ["--ledger", "rpc", "--bootstrap", bootstrap, "--cpu-cores", "2", "--python", &python];
        let spawn = |number| Node::spawn(directory, &format!("node-{number}"), &[&common[..], &own].concat());
        let mut nodes = (1..=count).map(spawn).collect::<Result<Vec<_>>>()?;
        for node in nodes.iter_mut().chain([&mut host]) {
            node.until("connected and registered", |status| status.registered && status.peers as usize >= count)
                .await?;
        }
        Ok(Self { host, nodes })
    }

    /// Ends all.
    pub(crate) async fn stop(self) -> Result<()> {
        for node in self.nodes.into_iter().chain([self.host]) {
            node.stop().await?;
        }
        Ok(())
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
