//! Edges answer.

use super::{Coordinator, Output, Pending};
use crate::{chain::rpc as ledger_rpc, node::edges::Answer, recovery, round};

impl Coordinator {
    pub(super) fn on_edge(&mut self, id: u64, answer: Answer) {
        let Some(pending) = self.take_pending(id) else { return };
        match (answer, pending) {
            (Answer::Recovery(answer), pending) => self.on_recovery_answer(*answer, &pending),
            (Answer::Round(answer), pending) => self.on_round_answer(*answer, &pending),
            (Answer::Proof(answer), Pending::CheckUpdate(check)) => self.on_receipt_checked(*check, answer.result),
            (Answer::Prepared(result), Pending::Prepare { submission }) => self.on_prepared(submission, result),
            (Answer::Carried(result), Pending::CarryLedger { submission }) => {
                self.on_ledger_carried(submission, result)
            }
            (Answer::Files(result), Pending::Files { command }) => {
                self.output(Output::Reply { id: command, result: Box::new(result) });
            }
            (Answer::Directory(made), Pending::Directory { job, part, name }) => {
                self.on_directory(job, part, name, made)
            }
            (Answer::DataKey(result), Pending::OpenDataKey { task, generation, giver }) => {
                self.on_data_key_opened(task, generation, giver, result);
            }
            (Answer::SealedDataKey(result), Pending::SealDataKey { token }) => self.answer_data_key(token, result),
            (Answer::DataKey(Err(reason)), Pending::ForgetDataKey) => {
                tracing::warn!(reason, "the key of an ended job could not be removed");
            }
            (Answer::DataKey(Ok(_)), Pending::ForgetDataKey) => {}
            (Answer::Roots(roots), Pending::Provide) => self.on_roots_to_provide(&roots),
            (Answer::Roots(roots), Pending::Repair) => self.on_roots_to_repair(&roots),
            (Answer::Terms(result), Pending::Terms { ledger }) => self.on_terms(&ledger, result),
            (Answer::Kept(result), Pending::StoragePin { id }) => self.on_object_pinned(&id, result),
            (Answer::Kept(result), Pending::StorageKeep { command, request }) => {
                self.ask_to_keep(command, &request, result);
            }
            (Answer::LetGo(result), Pending::StorageUnpin { id }) => self.on_object_let_go(&id, result),
            (Answer::Pinned(Err(reason)), _) => tracing::warn!(reason, "a checkpoint's pin could not be changed"),
            (Answer::Pinned(Ok(())), _) => {}
            (answer, pending) => tracing::error!(?answer, ?pending, "an edge answered something else"),
        }
    }

    fn on_recovery_answer(&mut self, answer: recovery::edge::Answer, pending: &Pending) {
        match (answer, pending) {
            (recovery::edge::Answer::Loaded { result, .. }, Pending::LoadCheckpoint { task, purpose }) => {
                self.on_checkpoint_loaded(
                    *task,
                    *purpose,
                    result.map(|loaded| *loaded).map_err(|error| error.to_string()),
                );
            }
            (answer, _) => self.recovery.handle(recovery::Input::Edge(answer), self.now),
        }
    }

    fn on_round_answer(&mut self, answer: round::edge::Answer, pending: &Pending) {
        match (answer, pending) {
            (round::edge::Answer::Packaged { result, .. }, Pending::Package { task, round }) => {
                self.on_packaged(*task, *round, result);
            }
            (answer, _) => {
                if let round::edge::Answer::Aggregated { job, round, result: Err(error), .. } = &answer {
                    tracing::warn!(%job, round, error = %error.cause, "the round could not be aggregated");
                }
                self.rounds.handle(round::Input::Edge(answer), self.now);
            }
        }
    }

    pub(super) fn on_ledger_rpc(&mut self, event: ledger_rpc::Event) {
        // The event loop serves both directions; they never come here.
        tracing::error!(?event, "a ledger call reached the coordinator");
    }
}
