//! The executor reports: offers, controls, and what the script processes of this node do.

use super::{Coordinator, Output, Pending, work::Phase};
use crate::{
    api::{self, NodeEvent},
    executor::{Control, ControlReply, Event, FailureKind, Input, Outputs, StopMode},
    gossip::Announcement,
    identity, recovery,
    types::{Generation, Round, Signed, Slot, TaskId, TaskStatus},
};

impl Coordinator {
    pub(super) fn on_executor(&mut self, event: Event) {
        match event {
            Event::Offered { token, announcement, slot, .. } => {
                let result = self.consider_offer(&announcement, slot);
                self.output(Output::Executor(Input::AnswerOffer { token, result }));
            }
            Event::OfferAnswered { id, peer, result } => self.on_offer_answered(id, peer, result),
            Event::ControlAsked { token, peer, task, control: Control::DataKey { generation } } => {
                self.on_data_key_asked(token, &peer, task, generation);
            }
            Event::ControlAsked { token, peer, task, control } => {
                let result = self.consider_control(&peer, task, &control);
                self.output(Output::Executor(Input::AnswerControl { token, result }));
            }
            Event::ControlAnswered { id, result } => self.on_control_answered(id, result),
            Event::Started { task, pid } => tracing::info!(%task, pid, "a script runs"),
            Event::Progress { task, round, step, of, loss } => self.on_progress(task, round, step, of, loss),
            Event::Checkpoint { task, generation, round, step, directory } => {
                if self.held(&task, generation, round).is_some() {
                    let checkpoint =
                        recovery::Input::Checkpoint { task, generation, round, step, directory, round_end: false };
                    self.recovery.handle(checkpoint, self.now);
                }
            }
            Event::Finished { task, generation, round, outputs } => self.on_finished(task, generation, round, *outputs),
            Event::Stopped { task, preempted } => self.on_stopped(task, preempted),
            Event::Failed { task, generation, round, kind, message, .. } => {
                self.on_run_failed(task, generation, round, kind, &message);
            }
            // The event loop hands these to the supervisor; they never come here.
            Event::Edge(request) => tracing::error!(?request, "an edge request reached the coordinator"),
        }
    }

    /// A submitter offers a slot. What it announces is read as if it had come by gossip; the ledger has the last word.
    fn consider_offer(&mut self, signed: &Signed, slot: Slot) -> Result<(), String> {
        let announcement: Announcement = signed.open().map_err(|error| error.to_string())?;
        if announcement.submitter != signed.signer {
            return Err("the announcement is not signed by its submitter".into());
        }
        let task = TaskId { job: announcement.job, slot };
        let (ledger, job) = (announcement.ledger.clone(), announcement.job);
        self.accept_announcement(announcement)?;
        let listed = self.ledgers.get(&ledger).is_some_and(|state| state.view.tasks.contains_key(&task));
        if listed {
            if self.works.contains_key(&task) {
                return Ok(());
            }
            self.validate(&ledger, task)?;
        }
        self.reconcile_job(&ledger, job);
        Ok(())
    }

    fn on_offer_answered(&mut self, id: u64, peer: libp2p::PeerId, result: Result<(), String>) {
        let Some(Pending::Offer { job, slot }) = self.take_pending(id) else { return };
        let task = TaskId { job, slot };
        match result {
            Ok(()) => {
                self.refusals.remove(&task);
            }
            Err(reason) => {
                tracing::info!(%task, %peer, reason, "the offer was refused");
                self.refusals.insert(task, reason);
            }
        }
    }

    /// Only the creator of a job may stop, pause or look into its tasks.
    fn consider_control(&mut self, peer: &libp2p::PeerId, task: TaskId, control: &Control) -> Result<(), String> {
        let creator = self
            .ledger_of(&task.job)
            .and_then(|ledger| self.ledgers.get(&ledger)?.view.jobs.get(&task.job))
            .map(|job| job.creator);
        if creator.is_none() || creator != identity::node_key(peer) {
            return Err("only the creator of the job may do that".into());
        }
        let work = self.works.get(&task).ok_or("this node does not hold the task")?;
        let (generation, mode) = match control {
            Control::Progress | Control::Log { .. } => return Ok(()),
            Control::DataKey { .. } => return Err("a key is asked for by its holder".into()),
            Control::Stop { generation, mode } => (*generation, *mode),
            Control::Pause { generation } => (*generation, StopMode::Checkpoint),
            // The ledger's pause ends with the ledger's resume; there is nothing else to do here.
            Control::Resume { .. } => return Ok(()),
        };
        if work.generation != generation {
            return Err(format!("this node holds generation {}", work.generation));
        }
        self.output(Output::Executor(Input::Stop { task, mode }));
        Ok(())
    }

    fn on_control_answered(&mut self, id: u64, result: Result<ControlReply, String>) {
        match self.take_pending(id) {
            Some(Pending::Log { command, task }) => self.on_log(command, task, result),
            Some(Pending::DataKey { task, generation, giver }) => self.on_data_key(task, generation, giver, result),
            _ => {}
        }
    }

    fn on_log(&mut self, command: u64, task: TaskId, result: Result<ControlReply, String>) {
        match result {
            Ok(ControlReply::Log { from, bytes }) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines = text.lines().map(str::to_owned).collect();
                self.reply(command, api::Reply::Logs(api::Logs { task, lines, truncated: from > 0 }));
            }
            Ok(_) => self.reply_error(command, api::ErrorCode::Internal, "the executor answered something else"),
            Err(reason) => self.reply_error(command, api::ErrorCode::NotFound, reason),
        }
    }

    fn on_progress(&mut self, task: TaskId, round: Round, step: u32, of: u32, loss: Option<f64>) {
        let Some(work) = self.works.get_mut(&task).filter(|work| work.round == round) else { return };
        work.step = work.step.max(step);
        self.notify(NodeEvent::Progress { task, round, step, of, loss });
    }

    /// The script is done with its round: its end is kept, here and with another node.
    fn on_finished(&mut self, task: TaskId, generation: Generation, round: Round, outputs: Outputs) {
        if self.held(&task, generation, round).is_none_or(|work| work.phase != Phase::Running) {
            return;
        }
        self.runs.end(task, round, "done");
        self.notify(NodeEvent::RunEnded { task, round, outcome: "done".into() });
        let Some(directory) = outputs.checkpoint.clone() else {
            return self.attempt_failed(task, "the script wrote no model");
        };
        let Some(work) = self.works.get_mut(&task) else { return };
        work.phase = Phase::Finishing;
        work.step = u32::try_from(outputs.steps).unwrap_or(u32::MAX);
        let step = work.step;
        work.outputs = Some(outputs);
        let checkpoint = recovery::Input::Checkpoint { task, generation, round, step, directory, round_end: true };
        self.recovery.handle(checkpoint, self.now);
    }

    fn on_stopped(&mut self, task: TaskId, preempted: bool) {
        let Some(work) = self.works.get_mut(&task) else { return };
        if work.phase != Phase::Stopping {
            return;
        }
        let round = work.round;
        let outcome = if preempted { "stopped with a checkpoint" } else { "stopped" };
        self.runs.end(task, round, outcome);
        self.notify(NodeEvent::RunEnded { task, round, outcome: outcome.into() });
        if self.stopping.is_some() {
            // Its last checkpoint is being kept; `tend_shutdown` hands the task back when that is done.
            return;
        }
        if let Some(work) = self.works.get_mut(&task) {
            work.phase = Phase::Paused;
        }
        self.report(task, TaskStatus::Paused, None, None);
    }

    fn on_run_failed(&mut self, task: TaskId, generation: Generation, round: Round, kind: FailureKind, message: &str) {
        if self.held(&task, generation, round).is_none() {
            return;
        }
        let outcome = format!("{kind}: {message}");
        self.runs.end(task, round, &outcome);
        self.notify(NodeEvent::RunEnded { task, round, outcome: outcome.clone() });
        match kind {
            // No node can do better: the task ends here, with the reason.
            kind if kind.is_fatal() => self.hand_back(task, TaskStatus::Failed, Some(outcome)),
            FailureKind::MissingResource | FailureKind::Launch => {
                self.hand_back(task, TaskStatus::Rollback, Some(outcome));
            }
            _ => self.attempt_failed(task, &outcome),
        }
    }
}
