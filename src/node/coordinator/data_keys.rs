//! The keys of sealed data: whom this node asks for one, and whom it gives one.
//!
//! There is no keeper of keys: whoever has the key of a job gives it to whoever holds a task of that job, as the ledger says at
//! that moment, and to nobody else. So a job goes on while its submitter is away. The keys themselves never come here: edges seal,
//! open and keep them, and what is named is their commitment.

use libp2p::PeerId;

use super::{Coordinator, Output, Pending, work::Phase};
use crate::{
    executor::{Control, ControlReply, Input, data_key_purpose},
    identity,
    node::edges,
    protocol::ResponseToken,
    types::{Digest, Generation, JobStatus, NodeKey, TaskId, TaskStatus},
};

impl Coordinator {
    /// Asks the next node that may have the key of a held task's data: its creator first, then those who hold its other tasks.
    pub(super) fn ask_data_key(&mut self, task: TaskId) {
        let Some(work) = self.works.get(&task) else { return };
        let (ledger, generation) = (work.ledger.clone(), work.generation);
        let creator = self.ledgers.get(&ledger).and_then(|state| state.view.jobs.get(&task.job)).map(|job| job.creator);
        let others = self.holders(&ledger, &task.job);
        let mut givers = creator.into_iter().chain(others).filter(|giver| *giver != self.me);
        let next = givers.find(|giver| !work.key_asked.contains(giver));
        drop(givers);
        let Some((giver, peer)) = next.and_then(|giver| Some((giver, identity::peer_id(&giver)?))) else {
            return self
                .attempt_failed(task, "nobody who has the key of its sealed data gives it; is the submitter there?");
        };
        if let Some(work) = self.works.get_mut(&task) {
            work.key_asked.insert(giver);
        }
        let id = self.wait_for(Pending::DataKey { task, generation, giver });
        let control = Control::DataKey { generation };
        self.output(Output::Executor(Input::Ask { id, peer: Some(peer), task, control }));
    }

    /// A node that was asked for a key has answered.
    pub(super) fn on_data_key(
        &mut self,
        task: TaskId,
        generation: Generation,
        giver: NodeKey,
        result: Result<ControlReply, String>,
    ) {
        match result {
            Ok(ControlReply::DataKey { sealed }) => {
                let Some(commitment) = self.data_key_of(task) else { return };
                let purpose = data_key_purpose(&task, generation);
                let request = edges::Request::OpenDataKey { sealed, purpose, commitment };
                self.edge(request, Pending::OpenDataKey { task, generation, giver });
            }
            Ok(_) => self.on_no_data_key(task, generation, giver, "it answered another question"),
            Err(reason) => self.on_no_data_key(task, generation, giver, &reason),
        }
    }

    /// A key was opened and kept, or is not the one that the job names.
    pub(super) fn on_data_key_opened(
        &mut self,
        task: TaskId,
        generation: Generation,
        giver: NodeKey,
        result: Result<Digest, String>,
    ) {
        match result {
            Ok(commitment) => {
                self.data_keys.insert(commitment);
                if self.awaits_data_key(task, generation) {
                    self.run(task);
                }
            }
            Err(reason) => self.on_no_data_key(task, generation, giver, &reason),
        }
    }

    fn on_no_data_key(&mut self, task: TaskId, generation: Generation, giver: NodeKey, reason: &str) {
        tracing::info!(%task, %giver, reason, "the key of the data was not given");
        if self.awaits_data_key(task, generation) {
            self.ask_data_key(task);
        }
    }

    fn awaits_data_key(&self, task: TaskId, generation: Generation) -> bool {
        let waits = |work: &super::work::Work| work.phase == Phase::Fetching && work.loading == 0;
        self.works.get(&task).is_some_and(|work| work.generation == generation && waits(work))
    }

    /// The commitment to the key that the data of a task is sealed with.
    fn data_key_of(&self, task: TaskId) -> Option<Digest> {
        let ledger = self.ledger_of(&task.job)?;
        self.ledgers.get(&ledger)?.view.jobs.get(&task.job)?.spec.data_key
    }

    /// A peer asks for the key of a task's data.
    pub(super) fn on_data_key_asked(
        &mut self,
        token: ResponseToken,
        peer: &PeerId,
        task: TaskId,
        generation: Generation,
    ) {
        match self.may_have_data_key(peer, task, generation) {
            Ok((to, commitment)) => {
                let purpose = data_key_purpose(&task, generation);
                let request = edges::Request::SealDataKey { commitment, to, purpose };
                self.edge(request, Pending::SealDataKey { token });
            }
            Err(reason) => self.answer_data_key(token, Err(reason.to_owned())),
        }
    }

    /// Who holds the task now, under this generation, may have its key if it is here.
    fn may_have_data_key(
        &self,
        peer: &PeerId,
        task: TaskId,
        generation: Generation,
    ) -> Result<(NodeKey, Digest), &'static str> {
        let ledger = self.ledger_of(&task.job).ok_or("its ledger is not followed here")?;
        let view = &self.ledgers.get(&ledger).ok_or("its ledger is not followed here")?.view;
        let job = view.jobs.get(&task.job).ok_or("the job is not known here")?;
        let record = view.tasks.get(&task).ok_or("the task is not known here")?;
        let asking = identity::node_key(peer).ok_or("the peer's key is not Ed25519")?;
        let held = matches!(record.status, TaskStatus::Assigned | TaskStatus::InProgress | TaskStatus::Paused);
        if job.status != JobStatus::Open || !held || record.holder != Some(asking) || record.generation != generation {
            return Err("as this node knows the ledger, the asking node does not hold the task under this generation");
        }
        let commitment = job.spec.data_key.ok_or("the data of the job is not sealed")?;
        if !self.data_keys.contains(&commitment) {
            return Err("this node does not have the key itself");
        }
        Ok((asking, commitment))
    }

    pub(super) fn answer_data_key(&mut self, token: ResponseToken, result: Result<Vec<u8>, String>) {
        self.output(Output::Executor(Input::AnswerDataKey { token, result }));
    }

    /// A job has ended: its key is no longer this node's, unless it made it.
    pub(super) fn forget_data_key(&mut self, ledger: &str, job: &crate::types::JobId) {
        let Some(record) = self.ledgers.get(ledger).and_then(|state| state.view.jobs.get(job)) else { return };
        let (creator, commitment) = (record.creator, record.spec.data_key);
        if let Some(commitment) = commitment.filter(|key| creator != self.me && self.data_keys.remove(key)) {
            self.edge(edges::Request::ForgetDataKey { commitment }, Pending::ForgetDataKey);
        }
    }
}
