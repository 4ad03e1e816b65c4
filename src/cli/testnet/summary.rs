//! What became of a run, counted from ledger records, process histories and transport counters.

use serde::Serialize;

use super::{evaluate::Answers, moment::Victim, watch::Ended};
use crate::{
    api::{JobDetail, Run},
    cli::output::{bytes, fields, or_dash},
    types::{ContentId, Digest, JobStatus, TaskId, TaskStatus},
};

/// The line that `testnet --json` ends with.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    ok: bool,
    nodes: u32,
    rounds: usize,
    accuracy: Option<f64>,
    loss: Option<f64>,
    tasks: Tasks,
    batches: Batches,
    receipts: Receipts,
    resumed: Vec<Resumed>,
    model_cid: Option<ContentId>,
    model_root: Option<Digest>,
    app_hash: Option<Digest>,
    bytes: Bytes,
    inference_ms: Latency,
    seconds: f64,
    /// What is not as it should be; `ok` is that there is nothing.
    #[serde(skip)]
    complaints: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Tasks {
    completed: usize,
    failed: usize,
    reassigned: u32,
}

/// From round records: expected = applied + skipped.
#[derive(Debug, Serialize)]
struct Batches {
    expected: u64,
    applied: u64,
    skipped: u64,
}

#[derive(Debug, Serialize)]
struct Receipts {
    verified: u32,
    refused: u32,
}

/// A process that continued on one node what another had begun.
#[derive(Debug, Serialize)]
struct Resumed {
    task: TaskId,
    round: u32,
    from_step: u32,
    checkpoint_cid: Option<ContentId>,
}

/// Received by all nodes together, so that each byte counts once.
#[derive(Debug, Serialize)]
struct Bytes {
    shards: u64,
    updates: u64,
    gossip: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
}

impl Summary {
    /// Counts. `runs` are the script processes of the living nodes, each with the peer id of its node.
    pub(super) fn new(
        nodes: u32,
        ended: &Ended,
        answers: &Answers,
        runs: &[(String, Run)],
        seconds: f64,
        min_accuracy: Option<f64>,
    ) -> Self {
        let detail = &ended.detail;
        let mut summary = Self {
            ok: false,
            nodes,
            rounds: detail.rounds.len(),
            accuracy: answers.accuracy(),
            loss: detail.rounds.last().and_then(|round| round.loss),
            tasks: Tasks {
                completed: count(detail, TaskStatus::Completed),
                failed: count(detail, TaskStatus::Failed),
                reassigned: detail.tasks.iter().map(|task| task.reassigned).sum(),
            },
            batches: batches(detail),
            receipts: Receipts {
                verified: detail.rounds.iter().map(|round| round.verified).sum(),
                refused: detail.tasks.iter().map(|task| task.refused_receipts).sum(),
            },
            resumed: resumed(runs),
            model_cid: detail.job.result_cid,
            model_root: detail.job.model_root,
            app_hash: detail.app_hash,
            bytes: Bytes {
                shards: ended.bytes.shards.received,
                updates: ended.bytes.updates.received,
                gossip: ended.bytes.gossip.received,
            },
            inference_ms: Latency { p50: answers.latency(0.50), p99: answers.latency(0.99) },
            seconds: (seconds * 1e3).round() / 1e3,
            complaints: Vec::new(),
        };
        summary.complaints = complaints(&summary, ended, answers, min_accuracy);
        summary.ok = summary.complaints.is_empty();
        summary
    }

    /// What is not as it should be.
    pub(super) fn complaint(&self) -> Option<String> {
        (!self.ok).then(|| self.complaints.join("\n"))
    }

    /// The table that people read.
    pub(super) fn render(&self) -> String {
        let milliseconds = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.2} ms")));
        let mut text = fields(&[
            ("nodes", self.nodes.to_string()),
            ("rounds closed", self.rounds.to_string()),
            ("loss", or_dash(self.loss.map(|loss| format!("{loss:.4}")))),
            ("held-out accuracy", or_dash(self.accuracy.map(|accuracy| format!("{accuracy:.4}")))),
            (
                "tasks",
                format!(
                    "{} completed, {} failed, {} reassigned",
                    self.tasks.completed, self.tasks.failed, self.tasks.reassigned
                ),
            ),
            (
                "batches",
                format!(
                    "{} expected, {} applied, {} skipped",
                    self.batches.expected, self.batches.applied, self.batches.skipped
                ),
            ),
            (
                "receipts",
                format!("{} verified by another node, {} refused", self.receipts.verified, self.receipts.refused),
            ),
            (
                "bytes moved",
                format!(
                    "{} shards, {} updates, {} gossip",
                    bytes(self.bytes.shards),
                    bytes(self.bytes.updates),
                    bytes(self.bytes.gossip)
                ),
            ),
            (
                "inference",
                format!("p50 {}, p99 {}", milliseconds(self.inference_ms.p50), milliseconds(self.inference_ms.p99)),
            ),
            ("model", or_dash(self.model_cid)),
            ("model root", or_dash(self.model_root)),
            ("app hash", or_dash(self.app_hash)),
            ("seconds", format!("{:.1}", self.seconds)),
        ]);
        for resumed in &self.resumed {
            let Resumed { task, round, from_step, checkpoint_cid } = resumed;
            text.push_str(&format!(
                "resumed: slot {} in round {round} from step {from_step}, checkpoint {}\n",
                task.slot,
                or_dash(*checkpoint_cid)
            ));
        }
        text
    }
}

fn count(detail: &JobDetail, status: TaskStatus) -> usize {
    detail.tasks.iter().filter(|task| task.status == status).count()
}

fn batches(detail: &JobDetail) -> Batches {
    let steps = u64::from(detail.job.local_steps);
    let slots = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    Batches {
        expected: detail.rounds.iter().map(|round| slots(round.applied.len() + round.skipped.len()) * steps).sum(),
        applied: detail.rounds.iter().map(|round| round.batches).sum(),
        skipped: detail.rounds.iter().map(|round| slots(round.skipped.len()) * steps).sum(),
    }
}

fn resumed(runs: &[(String, Run)]) -> Vec<Resumed> {
    let elsewhere = |(node, run): &&(String, Run)| {
        run.from_step > 0 && run.checkpoint_node.as_ref().is_some_and(|writer| writer != node)
    };
    let resumed = |(_, run): &(String, Run)| Resumed {
        task: run.task,
        round: run.round,
        from_step: run.from_step,
        checkpoint_cid: run.checkpoint_cid,
    };
    runs.iter().filter(elsewhere).map(resumed).collect()
}

fn complaints(summary: &Summary, ended: &Ended, answers: &Answers, min_accuracy: Option<f64>) -> Vec<String> {
    let detail = &ended.detail;
    let mut complaints = Vec::new();
    let mut complain = |wrong: bool, text: String| {
        if wrong {
            complaints.push(text);
        }
    };
    let job_error = || detail.job.error.clone().unwrap_or_else(|| "no reason given".to_owned());
    complain(detail.job.status != JobStatus::Completed, format!("the job failed: {}", job_error()));
    let (completed, all) = (summary.tasks.completed, detail.tasks.len());
    complain(completed != all, format!("{completed} of {all} tasks completed"));
    let Batches { expected, applied, skipped } = summary.batches;
    complain(
        expected != applied + skipped,
        format!("{expected} batches were expected, {applied} applied, {skipped} skipped"),
    );
    let receipts: usize = detail.rounds.iter().map(|round| round.applied.len()).sum();
    let verified = summary.receipts.verified;
    complain(
        verified as usize != receipts,
        format!("{verified} of {receipts} applied receipts were verified by another node"),
    );
    let own = answers.answered_by_the_asker();
    complain(own > 0, format!("{own} questions were answered by the node that asked"));
    complain(
        answers.failed > 0,
        format!("{} questions were not answered: {}", answers.failed, or_dash(answers.reason.as_ref())),
    );
    if let Some(least) = min_accuracy {
        let reached = summary.accuracy.is_some_and(|accuracy| accuracy >= least);
        complain(!reached, format!("the held-out accuracy is {}, below {least}", or_dash(summary.accuracy)));
    }
    complain(
        ended.wanted.is_some() && ended.killed.is_none(),
        "no moment came to kill: no checkpoint inside a round was held by another node before the round's receipt; \
         set `checkpoint_every` below `local_steps`, or make a round longer"
            .to_owned(),
    );
    if let (Some(killed), Some(Victim::Worker | Victim::Aggregator)) = (&ended.killed, ended.wanted) {
        let from_there = |resumed: &Resumed| resumed.task == killed.task && resumed.round == killed.round;
        complain(
            !summary.resumed.iter().any(from_there),
            format!("task {} was not resumed from a checkpoint of round {}", killed.task, killed.round),
        );
    }
    complaints
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        api::{BytesMoved, Job, Round, Task},
        types::{JobId, Settle, TaskType, Time},
    };

    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    /// A completed job of two slots (`creator` and `worker`), two rounds of ten steps.
    pub(in crate::cli::testnet) fn detail() -> JobDetail {
        let cid: ContentId = CID.parse().unwrap();
        let id = JobId([1; 32]);
        let task = |slot: u32, holder: &str| Task {
            id: TaskId { job: id, slot },
            job_id: id,
            shard_id: slot,
            shard_cid: None,
            node_id: Some(holder.into()),
            status: TaskStatus::Completed,
            progress: 1.0,
            task_type: TaskType::Training,
            generation: 1,
            cursor: 2,
            round: 2,
            checkpoint_cid: None,
            checkpoint_round: None,
            checkpoint_step: None,
            receipt: false,
            refused_receipts: 0,
            reassigned: 0,
            waiting: None,
            created_at: Time(1),
            started_at: None,
            completed_at: None,
            error: None,
        };
        let round = |round: u32| Round {
            round,
            params_root: Digest([2; 32]),
            model_cid: cid,
            applied: BTreeMap::from([(0, "creator".to_owned()), (1, "worker".to_owned())]),
            skipped: vec![],
            batches: 20,
            verified: 2,
            loss: Some(0.5),
            closer: "worker".into(),
            votes: 2,
            height: 9,
            closed_at: Time(2),
        };
        let job = Job {
            id,
            name: "digits".into(),
            model_id: "digits".into(),
            dataset_cid: cid,
            held_out_cid: Some(cid),
            data_key: None,
            bundle_cid: cid,
            config: serde_json::json!({}),
            status: JobStatus::Completed,
            paused: false,
            progress: 1.0,
            tasks: 2,
            round: 2,
            rounds: 2,
            local_steps: 10,
            creator: "creator".into(),
            ledger: "atlas-chain".into(),
            settle: Settle::Ledger,
            escrow: 0,
            budget: 0,
            paid: 0,
            deadline: Time(9),
            model_root: Some(Digest([2; 32])),
            model_cid: cid,
            result_cid: Some(cid),
            created_at: Time(1),
            updated_at: Time(2),
            error: None,
        };
        JobDetail {
            job,
            tasks: vec![task(0, "creator"), task(1, "worker")],
            rounds: vec![round(0), round(1)],
            app_hash: None,
        }
    }

    fn ended(detail: JobDetail) -> Ended {
        Ended { detail, bytes: BytesMoved::default(), wanted: None, killed: None }
    }

    fn summary(ended: &Ended, runs: &[(String, Run)]) -> Summary {
        Summary::new(2, ended, &Answers::default(), runs, 1.0, None)
    }

    #[test]
    fn a_run_without_a_fault_is_ok_and_has_every_field_of_the_line() {
        let summary = summary(&ended(detail()), &[]);
        assert_eq!(summary.complaint(), None);
        let json = serde_json::to_value(&summary).unwrap();
        let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = [
            "ok",
            "nodes",
            "rounds",
            "accuracy",
            "loss",
            "tasks",
            "batches",
            "receipts",
            "resumed",
            "model_cid",
            "model_root",
            "app_hash",
            "bytes",
            "inference_ms",
            "seconds",
        ];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(json["batches"], serde_json::json!({"expected": 40, "applied": 40, "skipped": 0}));
    }

    #[test]
    fn a_lost_batch_an_unverified_receipt_or_an_open_task_is_told() {
        let broken: [fn(&mut JobDetail); 3] = [
            |detail| detail.rounds[0].batches = 19,
            |detail| detail.rounds[1].verified = 1,
            |detail| detail.tasks[0].status = TaskStatus::Failed,
        ];
        for (break_it, expected) in broken.into_iter().zip(["39 applied", "3 of 4", "1 of 2 tasks"]) {
            let mut detail = detail();
            break_it(&mut detail);
            let complaint = summary(&ended(detail), &[]).complaint().unwrap();
            assert!(complaint.contains(expected), "{complaint}");
        }
    }

    #[test]
    fn a_kill_that_never_came_or_was_not_resumed_is_a_failure() {
        let mut run = ended(detail());
        run.wanted = Some(Victim::Worker);
        assert!(summary(&run, &[]).complaint().unwrap().contains("no moment"));

        let task = TaskId { job: JobId([1; 32]), slot: 1 };
        run.killed = Some(super::super::moment::Moment {
            peer_id: "worker".into(),
            task,
            round: 1,
            step: 5,
            checkpoint: CID.parse().unwrap(),
        });
        assert!(summary(&run, &[]).complaint().unwrap().contains("not resumed"));

        let resumed = Run {
            task,
            round: 1,
            generation: 2,
            attempt: 1,
            from_step: 5,
            checkpoint_cid: Some(CID.parse().unwrap()),
            checkpoint_node: Some("worker".into()),
            started_at: Time(1),
            outcome: None,
        };
        let restarted = Run { checkpoint_node: Some("creator".into()), ..resumed.clone() };
        let own = [("creator".to_owned(), restarted)];
        assert!(summary(&run, &own).complaint().is_some(), "a restart on the same node is no resume elsewhere");
        assert_eq!(summary(&run, &[("creator".to_owned(), resumed)]).complaint(), None);
    }
}
