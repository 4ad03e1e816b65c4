//! The way from whoever notices misbehaviour to the place that counts it.

use libp2p::PeerId;
use tokio::sync::mpsc;

use super::Offence;

/// Reports that wait for the event loop. A further one is dropped: a thousand of them have cut off whoever they are about.
const MAX_WAITING: usize = 1_024;

/// Who did what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub peer: PeerId,
    /// What.
    pub offence: Offence,
}

/// Tells of offences. Never waits, and never fails whoever reports.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Option<mpsc::Sender<Report>>);

impl Reporter {
    /// A reporter, and where its reports come out.
    pub fn new() -> (Self, mpsc::Receiver<Report>) {
        let (sender, reports) = mpsc::channel(MAX_WAITING);
        (Self(Some(sender)), reports)
    }

    /// One that nobody listens to: for a protocol without a node around it.
    pub fn silent() -> Self {
        Self(None)
    }

    /// Says that `peer` did this.
    pub fn report(&self, peer: PeerId, offence: Offence) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(Report { peer, offence });
        }
    }
}
