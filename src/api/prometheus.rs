//! Metrics in Prometheus' text format (version 0.0.4).

use std::fmt::{Display, Write};

use super::{Metrics, Traffic};

/// The text that `/metrics` answers.
pub(super) fn render(metrics: &Metrics) -> String {
    let mut text = String::new();
    gauge(&mut text, "uptime_seconds", "Seconds since the node started.", metrics.uptime_seconds);
    gauge(&mut text, "peers", "Connected peers.", metrics.peers);
    gauge(&mut text, "ledger_height", "Height of the ledger view.", metrics.ledger_height);
    gauge(&mut text, "booked_cpu_cores", "CPU cores held by tasks.", metrics.booked.cpu_cores);
    gauge(&mut text, "free_cpu_cores", "CPU cores left.", metrics.free.cpu_cores);
    gauge(&mut text, "booked_memory_gb", "Gigabytes of memory held by tasks.", metrics.booked.memory_gb);
    gauge(&mut text, "free_memory_gb", "Gigabytes of memory left.", metrics.free.memory_gb);
    header(&mut text, "bytes_total", "counter", "Bytes moved, by what they were.");
    let bytes = &metrics.bytes;
    for (kind, traffic) in
        [("shards", bytes.shards), ("updates", bytes.updates), ("gossip", bytes.gossip), ("total", bytes.total)]
    {
        traffic_lines(&mut text, kind, traffic);
    }
    for (name, value) in &metrics.counters {
        let name = format!("{name}_total");
        header(&mut text, &name, "counter", "See the documentation of the node.");
        line(&mut text, &name, "", value);
    }
    text
}

fn traffic_lines(text: &mut String, kind: &str, traffic: Traffic) {
    line(text, "bytes_total", &format!("{{kind=\"{kind}\",direction=\"received\"}}"), traffic.received);
    line(text, "bytes_total", &format!("{{kind=\"{kind}\",direction=\"sent\"}}"), traffic.sent);
}

fn gauge(text: &mut String, name: &str, help: &str, value: impl Display) {
    header(text, name, "gauge", help);
    line(text, name, "", value);
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP atlas_{name} {help}\n# TYPE atlas_{name} {kind}").expect("a string takes every text");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl Display) {
    writeln!(text, "atlas_{name}{labels} {value}").expect("a string takes every text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_with_a_number() {
        let mut metrics = Metrics { peers: 3, ..Metrics::default() };
        metrics.bytes.updates.sent = 17;
        metrics.counters.insert("receipts_refused".into(), 2);
        let text = render(&metrics);
        assert!(text.contains("atlas_peers 3\n"));
        assert!(text.contains("atlas_bytes_total{kind=\"updates\",direction=\"sent\"} 17\n"));
        assert!(text.contains("atlas_receipts_refused_total 2\n"));
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("atlas_") && value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
