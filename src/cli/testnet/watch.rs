//! Follows a job to its end, and kills one process on the way if asked.

use std::time::Duration;

use super::{
    mesh::Mesh,
    moment::{self, Moment, Victim},
    view::View,
};
use crate::{
    api::{BytesMoved, JobDetail, Traffic, views},
    cli::{Error, output::short},
    clock, identity,
    types::{Digest, JobId, JobStatus, NodeKey, Time},
};

/// Between two looks at the job. The moment for a kill lasts a fraction of a round, about a second.
const POLL: Duration = Duration::from_millis(30);
/// Between two looks at every node's counters.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// A node that is asked while its ledger view is between two ledger hosts may fail for a moment; longer is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A job at its end.
#[derive(Debug)]
pub(super) struct Ended {
    /// The job with its tasks and rounds.
    pub(super) detail: JobDetail,
    /// Bytes that all nodes received; those of a killed node as it told them last.
    pub(super) bytes: BytesMoved,
    /// Whom it was asked to kill.
    pub(super) wanted: Option<Victim>,
    /// Who was killed, and when.
    pub(super) killed: Option<Moment>,
}

/// Watches until the job ends.
pub(super) async fn until_end(
    mesh: &mut Mesh,
    job: JobId,
    victim: Option<Victim>,
    view: &View,
) -> Result<Ended, Error> {
    let mut killed = None;
    let mut next_metrics = Time::ZERO;
    let mut answered = clock::now();
    loop {
        mesh.check()?;
        let Some(detail) = ask(mesh, job, &mut answered).await? else { continue };
        if let Some(victim) = victim.filter(|_| killed.is_none())
            && let Some(moment) = moment::find(&detail, victim, aggregator(&detail).as_deref())
        {
            strike(mesh, &moment, view).await?;
            killed = Some(moment);
            continue;
        }
        if clock::now() >= next_metrics || detail.job.status != JobStatus::Open {
            mesh.refresh_metrics().await;
            next_metrics = clock::now() + METRICS_INTERVAL;
        }
        let bytes = total_bytes(mesh);
        view.show(&detail, &bytes);
        if detail.job.status != JobStatus::Open {
            return Ok(Ended { detail, bytes, wanted: victim, killed });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The job as the first living node sees it; `None` if it does not answer just now.
async fn ask(mesh: &Mesh, job: JobId, answered: &mut Time) -> Result<Option<JobDetail>, Error> {
    match mesh.observer()?.client()?.job(job).await {
        Ok(detail) => {
            *answered = clock::now();
            Ok(Some(detail))
        }
        Err(error) if clock::now().since(*answered) > PATIENCE => Err(error.into()),
        Err(_) => {
            tokio::time::sleep(POLL).await;
            Ok(None)
        }
    }
}

async fn strike(mesh: &mut Mesh, moment: &Moment, view: &View) -> Result<(), Error> {
    let node = mesh
        .by_peer(&moment.peer_id)
        .ok_or_else(|| Error::JobFailed(format!("{} is no node of this network", moment.peer_id)))?;
    node.kill().await?;
    view.say(&format!(
        "killed {} (SIGKILL) in task {}-{}, round {}, after step {} (checkpoint {})",
        node.label(),
        short(&moment.task.job.to_string()),
        moment.task.slot,
        moment.round,
        moment.step,
        moment.checkpoint,
    ));
    Ok(())
}

/// The peer that combines the open round: the highest SHA-256(domain ‖ job ‖ round ‖ node) among the holders.
fn aggregator(detail: &JobDetail) -> Option<String> {
    let keys = detail.tasks.iter().filter_map(|task| task.node_id.as_ref()?.parse().ok());
    let holders = keys.filter_map(|peer| identity::node_key(&peer));
    let rank = |node: &NodeKey| {
        let parts: [&[u8]; 3] = [&detail.job.id.0, &detail.job.round.to_be_bytes(), &node.0];
        Digest::of_parts("atlas/aggregator/v1", &parts)
    };
    holders.max_by_key(rank).map(|node| views::peer_text(&node))
}

fn total_bytes(mesh: &mut Mesh) -> BytesMoved {
    let add = |sum: Traffic, one: Traffic| Traffic { received: sum.received + one.received, sent: sum.sent + one.sent };
    mesh.all().map(|node| node.metrics.bytes).fold(BytesMoved::default(), |sum, one| BytesMoved {
        shards: add(sum.shards, one.shards),
        updates: add(sum.updates, one.updates),
        gossip: add(sum.gossip, one.gossip),
        total: add(sum.total, one.total),
    })
}
