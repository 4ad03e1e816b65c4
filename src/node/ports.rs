//! The free ports that this node got, asked for again after a restart: peers remember addresses, so a node that moved at
//! each start would be lost to them.
//!
//! Only ports that the operator left open (`tcp/0`) are chosen here. One that is taken meanwhile is given up for a free one.

use std::{collections::BTreeMap, fs, path::PathBuf};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// The longest file read: a line for each of four kinds of address. A longer one is not ours and is ignored.
const MAX_BYTES: u64 = 1_024;

/// The file, a line `kind port` for each kind of address.
pub(super) struct Ports {
    path: PathBuf,
    known: BTreeMap<String, u16>,
}

impl Ports {
    /// What the file holds; lines that are none of ours are skipped.
    pub(super) fn load(path: PathBuf) -> Self {
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
        let text = if small { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let parse = |line: &str| {
            let (kind, port) = line.split_once(' ')?;
            Some((kind.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
        };
        Self { known: text.lines().filter_map(parse).collect(), path }
    }

    /// `address` with the port that it had last time; `None` if it names a port itself or is new.
    pub(super) fn last(&self, address: &Multiaddr) -> Option<Multiaddr> {
        let (kind, 0) = kind_and_port(address)? else { return None };
        let port = *self.known.get(&kind)?;
        let with_port = |part| match part {
            Protocol::Tcp(_) => Protocol::Tcp(port),
            Protocol::Udp(_) => Protocol::Udp(port),
            other => other,
        };
        Some(address.iter().map(with_port).collect())
    }

    /// This node listens at `address`. Loopback and other interfaces share the port of the address asked for.
    pub(super) fn note(&mut self, address: &Multiaddr) {
        let Some((kind, port)) = kind_and_port(address) else { return };
        if port == 0 || self.known.insert(kind, port) == Some(port) {
            return;
        }
        let text: String = self.known.iter().map(|(kind, port)| format!("{kind} {port}\n")).collect();
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let temporary = path.with_extension("new");
            if let Err(error) = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)) {
                tracing::warn!(path = %path.display(), %error, "the ports could not be remembered");
            }
        });
    }
}

/// For example `ip4/tcp` and the port; `None` for an address without one.
fn kind_and_port(address: &Multiaddr) -> Option<(String, u16)> {
    let mut parts = address.iter();
    let family = match parts.next()? {
        Protocol::Ip4(_) => "ip4",
        Protocol::Ip6(_) => "ip6",
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some((format!("{family}/tcp"), port)),
        Protocol::Udp(port) => Some((format!("{family}/udp"), port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn a_free_port_is_asked_for_again_and_a_chosen_one_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ports");
        fs::write(&path, "ip4/tcp 4001\nip4/udp 4002\nip6/tcp 0\nnonsense\n").unwrap();
        let ports = Ports::load(path);
        assert_eq!(ports.last(&address("/ip4/0.0.0.0/tcp/0")), Some(address("/ip4/0.0.0.0/tcp/4001")));
        let quic = ports.last(&address("/ip4/0.0.0.0/udp/0/quic-v1"));
        assert_eq!(quic, Some(address("/ip4/0.0.0.0/udp/4002/quic-v1")));
        assert_eq!(ports.last(&address("/ip4/0.0.0.0/tcp/9")), None);
        assert_eq!(ports.last(&address("/ip6/::/tcp/0")), None);
    }

    #[test]
    fn a_file_that_is_not_ours_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ports");
        fs::write(&path, vec![b'x'; 10_000]).unwrap();
        assert!(Ports::load(path).known.is_empty());
        assert!(Ports::load(directory.path().join("none")).known.is_empty());
    }
}
