//! Who hosts the configured ledger, remembered from the first answer on.
//!
//! A ledger that one machine hosts is signed by that machine's key. Its name alone proves nothing: anybody can carry a
//! ledger of the same name. So the first key seen over `--chain-rpc` is kept (trust on first use, as SSH does with host
//! keys: RFC 4251 §4.1), later another is refused, and when no RPC endpoint answers, exactly that peer is asked.

use std::{fs, io, path::PathBuf, str::FromStr as _};

use libp2p::PeerId;

use crate::{identity, types::NodeKey};

/// The longest file read: a peer id has 52 bytes.
const MAX_BYTES: u64 = 256;

/// The file with the host's peer id.
#[derive(Clone, Debug)]
pub(super) struct KnownHost {
    path: PathBuf,
}

impl KnownHost {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The host's key; `None` before the first answer. A file that holds none is an error: guessing would undo the point.
    pub(super) fn load(&self) -> io::Result<Option<NodeKey>> {
        let text = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > MAX_BYTES => String::new(),
            Ok(_) => fs::read_to_string(&self.path)?,
        };
        let peer = PeerId::from_str(text.trim()).ok().and_then(|peer| identity::node_key(&peer));
        let wrong = || io::Error::other("holds no peer id; remove it, and the next host is remembered");
        peer.map(Some).ok_or_else(wrong)
    }

    /// Remembers a host. Failing costs the protection, not the node.
    pub(super) fn save(&self, host: &NodeKey) {
        let Some(peer) = identity::peer_id(host) else { return };
        let temporary = self.path.with_extension("new");
        let written = fs::write(&temporary, format!("{peer}\n")).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the ledger's host could not be remembered");
        }
    }

    /// Where it is kept, for messages.
    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Keypair;

    #[test]
    fn a_host_is_remembered_and_a_file_of_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHost::new(directory.path().join("atlas-chain.host"));
        assert_eq!(known.load().unwrap(), None);
        let host = Keypair::from_secret(&[3; 32]).node_key();
        known.save(&host);
        assert_eq!(known.load().unwrap(), Some(host));
        fs::write(known.path(), "somebody").unwrap();
        assert!(known.load().unwrap_err().to_string().contains("remove it"));
    }
}
