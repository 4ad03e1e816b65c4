//! `status`: the running node on one screen.

use super::{
    Context, Error,
    output::{bytes, fields, or_dash, percent, seconds, table},
};
use crate::{
    api::{Capacity, CutOff, LedgerStatus, LedgerWay, ResourceStatus, Status},
    clock,
};

pub(super) async fn run(context: &Context) -> Result<(), Error> {
    let status = context.client()?.status().await?;
    Ok(context.output.value(&status, render)?)
}

fn render(status: &Status) -> String {
    let mut text = fields(&[
        ("node", format!("{} ({}), version {}", status.node_id, registration(status), status.version)),
        ("peer", status.peer_id.clone()),
        ("rewards to", status.address.clone().unwrap_or_else(|| format!("{} (own account)", status.account))),
        ("up", format!("{}, process {}, {}", seconds(status.uptime_seconds), status.pid, status.data_dir.display())),
        ("listens on", or_dash((!status.listen.is_empty()).then(|| status.listen.join("\n            ")))),
        ("peers", peers(status)),
        ("resources", resources(&status.resources)),
        ("ledger", ledger(&status.ledger)),
        ("storage", storage(status)),
        ("ipfs", ipfs(status)),
        ("python", python(status)),
    ]);
    for other in &status.job_ledgers {
        text.push_str(&fields(&[("job ledger", ledger(other))]));
    }
    text.push_str(&cut_off(status));
    text.push_str(&protections(status));
    text.push_str(&tasks(status));
    for warning in &status.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn registration(status: &Status) -> &'static str {
    if status.registered { "registered" } else { "not registered yet" }
}

fn peers(status: &Status) -> String {
    match &status.alone {
        Some(reason) => format!("none: {reason}"),
        None => status.peers.to_string(),
    }
}

/// Who misbehaved, one a line.
fn cut_off(status: &Status) -> String {
    let now = clock::now();
    let line = |peer: &CutOff| {
        let left = seconds(peer.until.since(now).as_secs());
        fields(&[("cut off", format!("{} for {left} (time {}): {}", peer.peer_id, peer.times, peer.reason))])
    };
    status.cut_off.iter().map(line).collect()
}

fn resources(resources: &ResourceStatus) -> String {
    let side = |capacity: &Capacity| {
        format!(
            "{:.2} cores, {:.1} GB memory, {:.1} GB disk, {} GPUs",
            capacity.cpu_cores, capacity.memory_gb, capacity.storage_gb, capacity.gpu_count
        )
    };
    let mut text = format!("free {}\n            booked {}", side(&resources.free), side(&resources.booked));
    for note in &resources.notes {
        text.push_str(&format!("\n            {note}"));
    }
    text
}

/// The way to a ledger, in words.
pub(super) fn ledger(ledger: &LedgerStatus) -> String {
    let endpoint = ledger.endpoint.as_deref().unwrap_or("-");
    let way = match ledger.way {
        LedgerWay::Here => "carried by this node".to_owned(),
        LedgerWay::Rpc => format!("over {endpoint}"),
        LedgerWay::Peer => format!("through peer {endpoint}"),
        LedgerWay::Unreachable => format!("unreachable: {}", ledger.reason.as_deref().unwrap_or("no endpoint answers")),
    };
    let lag = ledger.lag.map(|lag| format!(", {lag} behind")).unwrap_or_default();
    let distrusted =
        ledger.distrusted.iter().map(|(endpoint, reason)| format!("\n            not trusted: {endpoint}: {reason}"));
    let distrusted: String = distrusted.collect();
    format!("{} {way}, height {}{lag}, {} waiting to be sent{distrusted}", ledger.id, ledger.height, ledger.outbox)
}

fn storage(status: &Status) -> String {
    let storage = &status.storage;
    if storage.room == 0 && storage.offered == 0 {
        return "none offered to others (--keep-gb)".to_owned();
    }
    let mut text = format!("{} kept for others of {} offered", bytes(storage.used), bytes(storage.offered));
    if storage.room != storage.offered {
        text.push_str(&format!("; {} are to be offered, which the ledger has not taken yet", bytes(storage.room)));
    }
    text
}

fn ipfs(status: &Status) -> String {
    let ipfs = &status.ipfs;
    if ipfs.endpoint.is_empty() {
        return "none configured: what is to be pinned stays here alone (--ipfs-api)".to_owned();
    }
    match (ipfs.answers, &ipfs.reason) {
        (true, _) => format!("{} answers, {} waiting to be pinned", ipfs.endpoint, ipfs.queued),
        (false, Some(reason)) => format!("{} does not answer ({reason}), {} waiting", ipfs.endpoint, ipfs.queued),
        (false, None) => format!("{} does not answer, {} waiting", ipfs.endpoint, ipfs.queued),
    }
}

fn python(status: &Status) -> String {
    match (&status.python.path, &status.python.version) {
        (Some(path), Some(version)) => format!("{version} ({})", path.display()),
        (Some(path), None) => format!("{} does not run; set --python", path.display()),
        (None, _) => "none found, so no work is taken; set --python".to_owned(),
    }
}

fn protections(status: &Status) -> String {
    let (active, missing): (Vec<_>, Vec<_>) = status.protections.iter().partition(|protection| protection.active);
    let names: Vec<&str> = active.iter().map(|protection| protection.name.as_str()).collect();
    let mut text = fields(&[("sandbox", if names.is_empty() { "none".to_owned() } else { names.join(", ") })]);
    for protection in missing {
        text.push_str(&format!("  MISSING {}: {}\n", protection.name, or_dash(protection.reason.as_ref())));
    }
    text
}

fn tasks(status: &Status) -> String {
    let rows: Vec<Vec<String>> = status
        .tasks
        .iter()
        .map(|task| {
            let step = format!("{} / {}", task.round, task.step);
            vec![task.id.to_string(), task.status.to_string(), task.process.clone(), step, percent(task.progress)]
        })
        .collect();
    format!("\n{}", table(&["task", "status", "process", "round / step", "progress"], &rows, "no tasks here"))
}
