//! A network of its own for each node, joined by a bridge, so that a cable can be pulled: user and network namespaces, made
//! with what util-linux and iproute2 bring. Nothing of the machine's own network is touched.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

/// Lays cables for as many nodes as its argument says, prints a process in each node's namespace, and ends with its
/// standard input, which is when the test ends.
const LAY: &str = r#"
set -e
ip link set lo up
ip link add bridge type bridge
ip link set bridge up
for number in $(seq "$1"); do
    unshare --net sleep infinity </dev/null >/dev/null &
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do :; done
    ip link add "cable$number" type veth peer name "plug$number"
    ip link set "plug$number" netns $!
    ip link set "cable$number" master bridge up
    nsenter --target $! --net sh -ec "
        ip link set lo up
        ip address add 10.77.0.$number/24 dev plug$number
        ip link set plug$number up"
    echo $!
done
cat >/dev/null
kill $(jobs -p)"#;

/// The namespace with the bridge, and those that hang on it. Dropping it ends them.
pub(super) struct Cables {
    holder: Child,
    /// A process in each node's namespace.
    processes: Vec<String>,
}

impl Cables {
    /// Networks for `count` nodes; `None` where the machine lets nobody make them.
    pub(super) fn lay(count: usize) -> Option<Self> {
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "bash", "-c", LAY, "cables", &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let said = BufReader::new(holder.stdout.take()?).lines();
        let processes: Vec<String> = said.take(count).map_while(Result::ok).collect();
        let cables = Self { holder, processes };
        (cables.processes.len() == count).then_some(cables)
    }

    /// The address of a node.
    pub(super) fn address(node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    /// What to put before a command so that it runs in a node's network.
    pub(super) fn inside(&self, node: usize) -> Vec<String> {
        enter(&self.processes[node])
    }

    /// Cuts a node off, or connects it again.
    pub(super) fn set(&self, node: usize, connected: bool) {
        let (cable, state) = (format!("cable{}", node + 1), if connected { "up" } else { "down" });
        let [program, arguments @ ..] = &enter(&self.holder.id().to_string())[..] else { unreachable!() };
        let done = Command::new(program).args(arguments).args(["ip", "link", "set", &cable, state]).status();
        assert!(done.is_ok_and(|status| status.success()), "{cable} is {state}");
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

fn enter(process: &str) -> Vec<String> {
    ["nsenter", "--preserve-credentials", "--user", "--net", "--target", process].map(str::to_owned).into()
}
