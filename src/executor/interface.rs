//! What the coordinator and the executor say to each other.

use std::path::PathBuf;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{
    FailureKind, Outputs, ProgressReport, RunSpec, StopMode,
    edge::{self, Answer},
};
use crate::{
    protocol::ResponseToken,
    types::{Generation, Round, Signed, Slot, Step, TaskId},
};

/// What a peer may want of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Stop it.
    Stop {
        /// The generation that is meant.
        generation: Generation,
        /// How.
        mode: StopMode,
    },
    /// Checkpoint it, stop it and keep its lease.
    Pause {
        /// The generation that is meant.
        generation: Generation,
    },
    /// Go on.
    Resume {
        /// The generation that is meant.
        generation: Generation,
    },
    /// The key of its data, for whoever holds it.
    DataKey {
        /// The generation of the asking node's lease.
        generation: Generation,
    },
    /// How far is it?
    Progress,
    /// What did it print?
    Log {
        /// Offset of the first byte; `None` for the last `max` bytes.
        from: Option<u64>,
        /// Most bytes.
        max: u32,
    },
}

/// The answer to a [`Control`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ControlReply {
    /// It was done.
    Done,
    /// The key of its data, sealed to this node.
    DataKey {
        /// [`super::SEALED_DATA_KEY`] bytes.
        sealed: Vec<u8>,
    },
    /// How far it is.
    Progress(ProgressReport),
    /// Part of the log.
    Log {
        /// Offset of the first byte.
        from: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// What the coordinator tells the executor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Input {
    /// Offer a slot to a peer; [`Event::OfferAnswered`] follows.
    Offer {
        /// Repeated by the event.
        id: u64,
        /// To whom.
        peer: PeerId,
        /// A signed [`crate::gossip::Announcement`].
        announcement: Signed,
        /// The slot.
        slot: Slot,
    },
    /// The decision on an [`Event::Offered`].
    AnswerOffer {
        /// Of the event.
        token: ResponseToken,
        /// Taken, or in words why not.
        result: Result<(), String>,
    },
    /// Ask something about a task of a peer, or of this node (`peer` is `None`); [`Event::ControlAnswered`] follows.
    /// This node's own tasks answer [`Control::Progress`] and [`Control::Log`] alone.
    Ask {
        /// Repeated by the event.
        id: u64,
        /// Whom; `None` for this node.
        peer: Option<PeerId>,
        /// The task.
        task: TaskId,
        /// What.
        control: Control,
    },
    /// The decision on an [`Event::ControlAsked`] about [`Control::DataKey`].
    AnswerDataKey {
        /// Of the event.
        token: ResponseToken,
        /// The key, sealed to the asking node, or in words why not.
        result: Result<Vec<u8>, String>,
    },
    /// The decision on any other [`Event::ControlAsked`]. After `Ok`, progress and logs are answered by the executor itself; a
    /// stop is not done by it: tell it to [`Input::Stop`].
    AnswerControl {
        /// Of the event.
        token: ResponseToken,
        /// Granted, or in words why not.
        result: Result<(), String>,
    },
    /// Run one round. Ends in [`Event::Finished`], [`Event::Failed`] or, if stopped, [`Event::Stopped`]. The same round
    /// and generation again changes nothing; another one takes the place of a running one, silently.
    Run(Box<RunSpec>),
    /// Stop a task. Always ends in [`Event::Stopped`].
    Stop {
        /// The task.
        task: TaskId,
        /// How.
        mode: StopMode,
    },
    /// Ask a running task for a checkpoint now.
    CheckpointNow {
        /// The task.
        task: TaskId,
    },
    /// The task is no longer this node's: kill what lives, remove what it left on disk (not its log). No event follows.
    Forget {
        /// The task.
        task: TaskId,
    },
    /// The host reports.
    Edge(Answer),
}

/// What the executor tells the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A peer offers a slot; answer with [`Input::AnswerOffer`].
    Offered {
        /// For the answer.
        token: ResponseToken,
        /// Who.
        peer: PeerId,
        /// A signed [`crate::gossip::Announcement`], not checked yet.
        announcement: Signed,
        /// The slot.
        slot: Slot,
    },
    /// What became of an [`Input::Offer`].
    OfferAnswered {
        /// Of the input.
        id: u64,
        /// Of whom.
        peer: PeerId,
        /// Taken, or in words why not.
        result: Result<(), String>,
    },
    /// A peer wants something of a task; decide whether it may, and answer with [`Input::AnswerControl`], or
    /// [`Input::AnswerDataKey`] where that is wanted.
    ControlAsked {
        /// For the answer.
        token: ResponseToken,
        /// Who.
        peer: PeerId,
        /// The task.
        task: TaskId,
        /// What.
        control: Control,
    },
    /// What became of an [`Input::Ask`].
    ControlAnswered {
        /// Of the input.
        id: u64,
        /// The answer, or in words why there is none.
        result: Result<ControlReply, String>,
    },
    /// A process runs.
    Started {
        /// The task.
        task: TaskId,
        /// The launcher's process id on this host.
        pid: u32,
    },
    /// Steps were done.
    Progress {
        /// The task.
        task: TaskId,
        /// The round.
        round: Round,
        /// Steps done in it.
        step: Step,
        /// Steps of the round.
        of: Step,
        /// The loss, if the script said one.
        loss: Option<f64>,
    },
    /// A checkpoint lies in `directory`, out of the script's reach. It stays until the task's next run but one begins.
    Checkpoint {
        /// The task.
        task: TaskId,
        /// The generation that made it.
        generation: Generation,
        /// The round.
        round: Round,
        /// Steps of the round that it contains.
        step: Step,
        /// Where it is.
        directory: PathBuf,
    },
    /// A run is done.
    Finished {
        /// The task.
        task: TaskId,
        /// The generation that did it.
        generation: Generation,
        /// The round.
        round: Round,
        /// What it left.
        outputs: Box<Outputs>,
    },
    /// The answer to [`Input::Stop`].
    Stopped {
        /// The task.
        task: TaskId,
        /// Whether it ended in order: it saved a checkpoint or had nothing left to do.
        preempted: bool,
    },
    /// A run failed on this node, for good.
    Failed {
        /// The task.
        task: TaskId,
        /// The generation that failed.
        generation: Generation,
        /// The round.
        round: Round,
        /// Why, as a word.
        kind: FailureKind,
        /// Why, in words.
        message: String,
        /// Process starts in this generation.
        attempts: u32,
    },
    /// Have the host do this.
    Edge(edge::Request),
}
