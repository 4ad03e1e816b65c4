//! Carries the messages of one protocol between a state and the simulated network, as the shim does in the swarm.

use std::collections::BTreeMap;

use bytes::Bytes;
use libp2p::PeerId;

use crate::{
    protocol::{Action, Message, RequestId, ResponseToken, SendError, State},
    types::Time,
};

/// Names a call, unique to the process that makes it.
pub(super) type Call = u64;

/// What travels between two nodes for one call.
#[derive(Clone, Debug)]
pub(super) enum Carried {
    Request(Bytes),
    Response(Bytes),
    /// The other side took it and will not answer.
    Failed(SendError),
}

impl Carried {
    /// Bytes on the wire.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Request(bytes) | Self::Response(bytes) => bytes.len(),
            Self::Failed(_) => 0,
        }
    }
}

/// A message with where it goes.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) peer: PeerId,
    pub(super) protocol: &'static str,
    pub(super) call: Call,
    pub(super) carried: Carried,
    /// When the caller stops waiting, after sending.
    pub(super) timeout_millis: u64,
}

/// A state and its open calls.
#[derive(Debug)]
pub(super) struct Host<S: State> {
    pub(super) state: S,
    sent: BTreeMap<Call, (PeerId, RequestId)>,
    received: BTreeMap<ResponseToken, (PeerId, Call)>,
    next_token: u64,
    next_call: Call,
}

impl<S: State> Host<S> {
    pub(super) fn new(state: S) -> Self {
        Self { state, sent: BTreeMap::new(), received: BTreeMap::new(), next_token: 0, next_call: 0 }
    }

    /// Does what the state wants until it has something for the coordinator.
    pub(super) fn poll(&mut self, now: Time, out: &mut Vec<Frame>) -> Option<S::Event> {
        while let Some(action) = self.state.poll_action() {
            match action {
                Action::Event(event) => return Some(event),
                Action::Request { peer, id, request } => self.request(peer, id, request, now, out),
                Action::Respond { token, response } => {
                    if let Some((peer, call)) = self.received.remove(&token) {
                        out.push(frame::<S>(
                            peer,
                            call,
                            encode(response).map_or_else(Carried::Failed, Carried::Response),
                        ));
                    }
                    self.state.on_answered(token, now);
                }
            }
        }
        None
    }

    fn request(&mut self, peer: PeerId, id: RequestId, request: S::Request, now: Time, out: &mut Vec<Frame>) {
        let call = self.next_call;
        self.next_call += 1;
        match encode(request) {
            Ok(bytes) => {
                self.sent.insert(call, (peer, id));
                out.push(frame::<S>(peer, call, Carried::Request(bytes)));
            }
            Err(error) => self.state.on_response(peer, id, Err(error), now),
        }
    }

    fn fail(&mut self, call: Call, error: SendError, now: Time) {
        if let Some((peer, id)) = self.sent.remove(&call) {
            self.state.on_response(peer, id, Err(error), now);
        }
    }
}

fn frame<S: State>(peer: PeerId, call: Call, carried: Carried) -> Frame {
    Frame { peer, protocol: S::PROTOCOL, call, carried, timeout_millis: S::TIMEOUT_MILLIS }
}

/// The bytes of a message, as one block. One over its limit is not sent: the carrier would close the stream.
fn encode<M: Message>(message: M) -> Result<Bytes, SendError> {
    let segments = message.encode();
    let bytes = if let [only] = segments.as_slice() { only.clone() } else { segments.concat().into() };
    if bytes.len() > M::LIMIT { Err(SendError::Closed) } else { Ok(bytes) }
}

/// What can be done with a host whatever its protocol.
pub(super) trait Carrier {
    /// The protocol's name.
    fn protocol(&self) -> &'static str;
    /// A message came.
    fn on_frame(&mut self, frame: Frame, now: Time, out: &mut Vec<Frame>);
    /// A call of ours has waited long enough, or can't reach its peer.
    fn on_call_failed(&mut self, call: Call, error: SendError, now: Time);
    /// The first connection to a peer opened.
    fn on_connected(&mut self, peer: PeerId, now: Time);
    /// The last connection to a peer closed.
    fn on_disconnected(&mut self, peer: PeerId, now: Time);
    /// The state's time has come, if it has.
    fn on_time(&mut self, now: Time);
    /// When it will.
    fn next_time(&self) -> Option<Time>;
    /// Whether a call of ours waits for its answer.
    fn is_calling(&self, call: Call) -> bool;
    /// Calls under way, both ways.
    fn open_calls(&self) -> usize;
}

impl<S: State> Carrier for Host<S> {
    fn protocol(&self) -> &'static str {
        S::PROTOCOL
    }

    fn on_frame(&mut self, frame: Frame, now: Time, out: &mut Vec<Frame>) {
        let Frame { peer, call, .. } = frame;
        match frame.carried {
            Carried::Request(bytes) => match S::Request::decode(bytes) {
                Ok(request) => {
                    let token = ResponseToken(self.next_token);
                    self.next_token += 1;
                    self.received.insert(token, (peer, call));
                    self.state.on_request(peer, token, request, now);
                }
                Err(_) => out.push(self::frame::<S>(peer, call, Carried::Failed(SendError::Closed))),
            },
            Carried::Response(bytes) => {
                if let Some((peer, id)) = self.sent.remove(&call) {
                    let response = S::Response::decode(bytes).map_err(|error| SendError::Invalid(error.reason));
                    self.state.on_response(peer, id, response, now);
                }
            }
            Carried::Failed(error) => self.fail(call, error, now),
        }
    }

    fn on_call_failed(&mut self, call: Call, error: SendError, now: Time) {
        self.fail(call, error, now);
    }

    fn on_connected(&mut self, peer: PeerId, now: Time) {
        self.state.on_connected(peer, now);
    }

    fn on_disconnected(&mut self, peer: PeerId, now: Time) {
        self.state.on_disconnected(peer, now);
        let lost: Vec<Call> = self.sent.iter().filter(|(_, (to, _))| *to == peer).map(|(call, _)| *call).collect();
        for call in lost {
            self.fail(call, SendError::Closed, now);
        }
        self.received.retain(|_, (from, _)| *from != peer);
    }

    fn on_time(&mut self, now: Time) {
        if self.state.poll_timeout().is_some_and(|at| at <= now) {
            self.state.on_timeout(now);
        }
    }

    fn next_time(&self) -> Option<Time> {
        self.state.poll_timeout()
    }

    fn is_calling(&self, call: Call) -> bool {
        self.sent.contains_key(&call)
    }

    fn open_calls(&self) -> usize {
        self.sent.len() + self.received.len()
    }
}
