//! Peers remembered across restarts: a small file, written whole. Losing it costs a bootstrap, nothing more.

use std::{fs, path::PathBuf};

use libp2p::{Multiaddr, PeerId};

use super::coordinator::MAX_REMEMBERED;

/// The longest file read: [`MAX_REMEMBERED`] lines with room. A longer one is not ours and is ignored.
const MAX_BYTES: u64 = 64 * 1024;

/// The file.
pub(super) struct Remembered {
    path: PathBuf,
    last: Vec<(PeerId, Multiaddr)>,
}

impl Remembered {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, last: Vec::new() }
    }

    /// What the file holds; lines that are no `peer address` are skipped.
    pub(super) fn load(&self) -> Vec<(PeerId, Multiaddr)> {
        let small = fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() <= MAX_BYTES);
        let text = if small { fs::read_to_string(&self.path).unwrap_or_default() } else { String::new() };
        let parse = |line: &str| {
            let (peer, address) = line.split_once(' ')?;
            Some((peer.parse().ok()?, address.parse().ok()?))
        };
        text.lines().filter_map(parse).take(MAX_REMEMBERED).collect()
    }

    /// Writes the list in a task of its own, if it changed.
    pub(super) fn save(&mut self, peers: Vec<(PeerId, Multiaddr)>) {
        if peers == self.last {
            return;
        }
        let text: String = peers.iter().map(|(peer, address)| format!("{peer} {address}\n")).collect();
        let path = self.path.clone();
        self.last = peers;
        tokio::task::spawn_blocking(move || {
            let temporary = path.with_extension("new");
            if let Err(error) = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)) {
                tracing::warn!(path = %path.display(), %error, "known peers could not be remembered");
            }
        });
    }
}
