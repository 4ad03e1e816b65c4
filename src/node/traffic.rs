//! Bytes as the transport counted them.

use libp2p::metrics::Registry;

use crate::api::Traffic;

/// Everything received and sent on all connections since the start.
pub fn total(registry: &Registry) -> Traffic {
    let mut text = String::new();
    if prometheus_client::encoding::text::encode(&mut text, registry).is_err() {
        return Traffic::default();
    }
    let sum = |direction: &str| {
        let counters = text.lines().filter(|line| line.starts_with("libp2p_bandwidth") && line.contains(direction));
        counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    Traffic { received: sum("\"Inbound\""), sent: sum("\"Outbound\"") }
}
