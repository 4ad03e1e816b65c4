//! The coordinator, with what it is told and what it says written down if the operator wants that.

use super::coordinator::{Coordinator, Input, Output};
use crate::{
    record::{self, Recorder, Recording},
    types::Time,
};

/// A coordinator that may be recorded. It decides nothing.
pub(super) struct Recorded {
    coordinator: Coordinator,
    recorder: Option<Recorder>,
}

impl Recorded {
    pub(super) fn new(coordinator: Coordinator, recording: Option<&Recording>) -> Self {
        Self { coordinator, recorder: recording.map(|recording| recording.of(record::COORDINATOR)) }
    }

    /// As [`Coordinator::handle`].
    pub(super) fn handle(&mut self, input: Input, now: Time) {
        if let Some(recorder) = &self.recorder {
            recorder.input(now, &input);
        }
        self.coordinator.handle(input, now);
    }

    /// As [`Coordinator::poll_output`].
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        let output = self.coordinator.poll_output();
        match (&self.recorder, &output) {
            (Some(recorder), Some(output)) => recorder.output(output),
            (Some(recorder), None) => recorder.settled(Some(self.coordinator.poll_timeout())),
            (None, _) => {}
        }
        output
    }

    /// As [`Coordinator::poll_timeout`].
    pub(super) fn poll_timeout(&self) -> Time {
        self.coordinator.poll_timeout()
    }
}
