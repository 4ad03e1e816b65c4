//! Who waits for whom: calls of this node, and calls of peers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::wire::{MAX_BODY, MAX_RESPONSE, Request, Response};
use crate::{
    protocol::{self, Action, RequestId, ResponseToken, SendError},
    types::{LedgerId, Time},
};

/// Calls of this node that wait for an answer; a further one fails at once. Its ledger clients make a few each.
const MAX_CALLS: usize = 256;
/// Calls of all peers that wait here; a further one is refused.
const MAX_CALLED: usize = 512;
/// Calls of one peer that wait here, so that one can't keep the others out.
const MAX_CALLED_PER_PEER: usize = 32;
/// What CBOR adds to an answer's bytes, at most.
const ENVELOPE: usize = 64;
/// Characters of a reason that go on the wire.
const MAX_REASON: usize = 200;

/// How the protocol behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// A peer's call is refused when the ledger has not answered it for this long. Longer than
    /// `broadcast_tx_commit` takes at most, shorter than the peer waits.
    pub answer_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { answer_within: Duration::from_secs(16) }
    }
}

/// What the coordinator tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// Ask a peer's ledger. Exactly one [`Event::Answered`] with this id follows.
    Call {
        /// Repeated by the answer.
        id: u64,
        /// Whom.
        peer: PeerId,
        /// Which ledger.
        ledger: LedgerId,
        /// The JSON-RPC request.
        body: Vec<u8>,
    },
    /// The answer to an [`Event::Called`]; a reason for the peer if there is none.
    Answer {
        /// Which call.
        token: ResponseToken,
        /// The JSON-RPC answer.
        result: Result<Vec<u8>, String>,
    },
}

/// What the coordinator hears.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A peer asks a ledger that it thinks this node carries. [`Input::Answer`] answers it.
    Called {
        /// Names the call.
        token: ResponseToken,
        /// Who asks.
        peer: PeerId,
        /// Which ledger.
        ledger: LedgerId,
        /// The JSON-RPC request, unread.
        body: Vec<u8>,
    },
    /// A call of this node ended.
    Answered {
        /// Which.
        id: u64,
        /// The JSON-RPC answer.
        result: Result<Vec<u8>, CallError>,
    },
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CallError {
    /// The transport.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The peer said no.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The request is longer than [`MAX_BODY`].
    #[error("a request of {0} bytes is over the limit of {MAX_BODY}")]
    TooLong(usize),
    /// Too many calls wait already; try again when one is answered.
    #[error("{MAX_CALLS} calls to ledgers wait already")]
    Busy,
}

/// The protocol's decisions.
#[derive(Debug)]
pub struct State {
    config: Config,
    calls: BTreeMap<RequestId, u64>,
    next_request: u64,
    called: BTreeMap<ResponseToken, Called>,
    actions: VecDeque<Action<Self>>,
}

/// A peer's call that waits for its answer.
#[derive(Debug)]
struct Called {
    peer: PeerId,
    deadline: Time,
}

impl State {
    /// Nothing waits.
    pub fn new(config: Config) -> Self {
        Self { config, calls: BTreeMap::new(), next_request: 0, called: BTreeMap::new(), actions: VecDeque::new() }
    }

    fn call(&mut self, id: u64, peer: PeerId, ledger: LedgerId, body: Vec<u8>) {
        if body.len() > MAX_BODY {
            return self.answered(id, Err(CallError::TooLong(body.len())));
        }
        if self.calls.len() >= MAX_CALLS {
            return self.answered(id, Err(CallError::Busy));
        }
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.calls.insert(request, id);
        self.actions.push_back(Action::Request { peer, id: request, request: Request { ledger, body } });
    }

    fn answer(&mut self, token: ResponseToken, result: Result<Vec<u8>, String>) {
        // A call that timed out has its answer already.
        if self.called.remove(&token).is_none() {
            return;
        }
        let response = match result {
            Ok(body) if body.len() + ENVELOPE > MAX_RESPONSE => {
                refused(&format!("an answer of {} bytes is over the limit of {MAX_RESPONSE}", body.len()))
            }
            Ok(body) => Response::Ok(body),
            Err(reason) => refused(&reason),
        };
        self.actions.push_back(Action::Respond { token, response });
    }

    fn answered(&mut self, id: u64, result: Result<Vec<u8>, CallError>) {
        self.actions.push_back(Action::Event(Event::Answered { id, result }));
    }

    fn is_full_for(&self, peer: &PeerId) -> bool {
        let of_peer = self.called.values().filter(|called| called.peer == *peer).count();
        self.called.len() >= MAX_CALLED || of_peer >= MAX_CALLED_PER_PEER
    }
}

fn refused(reason: &str) -> Response {
    Response::Refused { reason: reason.chars().take(MAX_REASON).collect() }
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = "/atlas/ledger-rpc/1";
    const TIMEOUT_MILLIS: u64 = 20_000;
    const MAX_STREAMS: usize = 64;

    fn handle(&mut self, input: Input, _now: Time) {
        match input {
            Input::Call { id, peer, ledger, body } => self.call(id, peer, ledger, body),
            Input::Answer { token, result } => self.answer(token, result),
        }
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        if self.is_full_for(&peer) {
            let response = refused("too many calls wait here; try again");
            self.actions.push_back(Action::Respond { token, response });
            return;
        }
        self.called.insert(token, Called { peer, deadline: now + self.config.answer_within });
        let Request { ledger, body } = request;
        self.actions.push_back(Action::Event(Event::Called { token, peer, ledger, body }));
    }

    fn on_response(&mut self, _: PeerId, id: RequestId, result: Result<Response, SendError>, _: Time) {
        let Some(id) = self.calls.remove(&id) else {
            return;
        };
        let result = match result {
            Ok(Response::Ok(body)) => Ok(body),
            Ok(Response::Refused { reason }) => Err(CallError::Refused(reason.chars().take(MAX_REASON).collect())),
            Err(error) => Err(CallError::Send(error)),
        };
        self.answered(id, result);
    }

    fn on_disconnected(&mut self, peer: PeerId, _: Time) {
        // Nobody is there to hear these answers.
        self.called.retain(|_, called| called.peer != peer);
    }

    fn on_timeout(&mut self, now: Time) {
        let late: Vec<_> =
            self.called.iter().filter(|(_, called)| called.deadline <= now).map(|(token, _)| *token).collect();
        for token in late {
            self.answer(token, Err("the ledger did not answer in time".to_owned()));
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.called.values().map(|called| called.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::State as _;

    fn state() -> State {
        State::new(Config::default())
    }

    fn request() -> Request {
        Request { ledger: "atlas-test".to_owned(), body: b"{}".to_vec() }
    }

    fn call(state: &mut State, id: u64) {
        let Request { ledger, body } = request();
        state.handle(Input::Call { id, peer: PeerId::random(), ledger, body }, Time(0));
    }

    #[test]
    fn a_call_has_exactly_one_answer() {
        let mut state = state();
        call(&mut state, 7);
        let Some(Action::Request { peer, id, .. }) = state.poll_action() else { panic!("no request") };
        state.on_response(peer, id, Ok(Response::Ok(b"[]".to_vec())), Time(1));
        state.on_response(peer, id, Err(SendError::Timeout), Time(2));
        let Some(Action::Event(event)) = state.poll_action() else { panic!("no event") };
        assert_eq!(event, Event::Answered { id: 7, result: Ok(b"[]".to_vec()) });
        assert!(state.poll_action().is_none());
    }

    #[test]
    fn calls_beyond_the_limit_fail_at_once() {
        let mut state = state();
        for id in 0..=MAX_CALLS as u64 {
            call(&mut state, id);
        }
        let last = std::iter::from_fn(|| state.poll_action()).last();
        assert!(matches!(last, Some(Action::Event(Event::Answered { result: Err(CallError::Busy), .. }))));
    }

    #[test]
    fn a_peer_that_asks_too_much_is_refused_and_others_are_not() {
        let mut state = state();
        let (greedy, modest) = (PeerId::random(), PeerId::random());
        for token in 0..=MAX_CALLED_PER_PEER as u64 {
            state.on_request(greedy, ResponseToken(token), request(), Time(0));
        }
        state.on_request(modest, ResponseToken(1_000), request(), Time(0));
        let actions: Vec<_> = std::iter::from_fn(|| state.poll_action()).collect();
        let refusals = actions.iter().filter(|action| matches!(action, Action::Respond { .. })).count();
        assert_eq!(refusals, 1);
        assert!(matches!(actions.last(), Some(Action::Event(Event::Called { peer, .. })) if *peer == modest));
    }

    #[test]
    fn a_ledger_that_does_not_answer_is_said_so_once() {
        let mut state = state();
        state.on_request(PeerId::random(), ResponseToken(1), request(), Time(0));
        assert!(matches!(state.poll_action(), Some(Action::Event(Event::Called { .. }))));
        let deadline = state.poll_timeout().unwrap();
        state.on_timeout(deadline);
        assert!(matches!(state.poll_action(), Some(Action::Respond { response: Response::Refused { .. }, .. })));
        state.handle(Input::Answer { token: ResponseToken(1), result: Ok(Vec::new()) }, deadline);
        assert!(state.poll_action().is_none() && state.poll_timeout().is_none());
    }

    #[test]
    fn an_answer_that_is_too_long_is_refused_with_words() {
        let mut state = state();
        state.on_request(PeerId::random(), ResponseToken(1), request(), Time(0));
        state.poll_action();
        state.handle(Input::Answer { token: ResponseToken(1), result: Ok(vec![0; MAX_RESPONSE]) }, Time(1));
        assert!(matches!(state.poll_action(), Some(Action::Respond { response: Response::Refused { .. }, .. })));
    }
}
