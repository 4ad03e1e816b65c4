//! Pause, resume and cancel: the creator's rights over a running job, and nobody else's.

use atlas_node::types::{JobStatus, TaskStatus};

use super::{
    lab::{Job, Lab, SLOW},
    node::processes_of,
    wait::{START, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn its_creator_pauses_resumes_and_cancels_a_job_and_nobody_else_may() {
    let lab = Lab::mesh(1, &[]).await;
    let submitted = lab.submit(1, &Job { shards: 2, rounds: 50, ..SLOW }).await;
    let job = submitted.job_id;
    let scripts = || {
        let all = processes_of(lab.path());
        all.into_iter().filter(|(_, command)| command.contains("train.py")).count()
    };
    lab.until_job(0, job, "both tasks run", |detail| {
        detail.tasks.iter().all(|task| task.status == TaskStatus::InProgress)
    })
    .await;

    let stranger = lab.nodes[0].client();
    for refused in [stranger.pause(job).await, stranger.resume(job).await, stranger.cancel(job).await] {
        let words = refused.unwrap_err().to_string();
        assert!(words.contains("is not the sender's"), "{words}");
    }

    let creator = lab.nodes[1].client();
    creator.pause(job).await.unwrap();
    lab.until_job(0, job, "both tasks are paused", |detail| {
        detail.job.paused && detail.tasks.iter().all(|task| task.status == TaskStatus::Paused)
    })
    .await;
    until("no script runs while the job is paused", START, async || (scripts() == 0).then_some(())).await;

    creator.resume(job).await.unwrap();
    let round = lab.nodes[0].client().job(job).await.unwrap().job.round;
    lab.until_job(0, job, "the job goes on", |detail| !detail.job.paused && detail.job.round > round).await;

    creator.cancel(job).await.unwrap();
    let observer = lab.nodes[0].client();
    let ended = until("the job is cancelled", START, async || {
        let job = observer.job(job).await.ok()?.job;
        (job.status != JobStatus::Open).then_some(job)
    })
    .await;
    assert_eq!((ended.status, ended.error.as_deref()), (JobStatus::Failed, Some("cancelled")));
    assert_eq!((ended.escrow, ended.result_cid), (0, None));
    until("no script outlives its job", START, async || (scripts() == 0).then_some(())).await;
    until("what was booked is free again", START, async || {
        let status = lab.nodes[0].client().status().await.ok()?;
        (status.resources.booked.cpu_cores == 0.0 && status.tasks.is_empty()).then_some(())
    })
    .await;
    let again = creator.cancel(job).await.unwrap_err().to_string();
    assert!(again.contains("is failed"), "{again}");
}
