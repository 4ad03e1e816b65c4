//! The libp2p shim around a protocol's [`State`]: carries messages, keeps one timer, decides nothing.

use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::Future;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    request_response::{
        self, InboundRequestId, Message as Carried, OutboundFailure, OutboundRequestId, ProtocolSupport,
    },
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use tokio::time::Sleep;

use super::{
    Action, Call, RequestId, ResponseToken, SendError, State,
    frame::{self, Codec, Fault, Incoming},
    metered::Metered,
};
use crate::{
    clock,
    conduct::{Offence, Reporter},
    record::{Recorder, Recording},
    types::Time,
};

/// A protocol in the swarm.
pub struct Behaviour<S: State> {
    state: S,
    carrier: Carrier<S>,
    reporter: Reporter,
    sent: HashMap<OutboundRequestId, RequestId>,
    received: HashMap<ResponseToken, (InboundRequestId, request_response::ResponseChannel<S::Response>)>,
    /// Answers on their way to the network.
    answering: HashMap<InboundRequestId, ResponseToken>,
    next_token: u64,
    /// When it fires, and the timer itself.
    timer: Option<(Time, Pin<Box<Sleep>>)>,
    waker: Option<Waker>,
    recorder: Option<Recorder>,
}

impl<S: State> Behaviour<S> {
    /// The shim around `state`, which tells nobody of bad messages and is not recorded.
    pub fn new(state: S) -> Self {
        Self::watched(state, Reporter::silent(), None)
    }

    /// The shim around `state`, which reports peers that send what is no message, or too much. What it tells the state,
    /// and hears, goes into `recording`.
    pub fn watched(state: S, reporter: Reporter, recording: Option<&Recording>) -> Self {
        let config = request_response::Config::default()
            .with_request_timeout(Duration::from_millis(S::TIMEOUT_MILLIS))
            .with_max_concurrent_streams(S::MAX_STREAMS);
        let protocols = [(StreamProtocol::new(S::PROTOCOL), ProtocolSupport::Full)];
        let carrier = request_response::Behaviour::with_codec(Codec::default(), protocols, config);
        Self {
            state,
            carrier: Metered::new(carrier, S::PROTOCOL, S::STREAMS, reporter.clone()),
            reporter,
            sent: HashMap::new(),
            received: HashMap::new(),
            answering: HashMap::new(),
            next_token: 0,
            timer: None,
            waker: None,
            recorder: recording.map(|recording| recording.of(S::PROTOCOL)),
        }
    }

    /// Tells the state something.
    pub fn handle(&mut self, input: S::Input) {
        self.call(Call::Told(input), clock::now());
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn call(&mut self, call: Call<S>, now: Time) {
        if let Some(recorder) = &self.recorder {
            recorder.input(now, &call);
        }
        call.apply(&mut self.state, now);
    }

    fn next_action(&mut self) -> Option<Action<S>> {
        let action = self.state.poll_action();
        match (&self.recorder, &action) {
            (Some(recorder), Some(action)) => recorder.output(action),
            (Some(recorder), None) => recorder.settled(self.state.poll_timeout()),
            (None, _) => {}
        }
        action
    }

    /// The state, to be looked at.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Does what the state wants until it wants nothing; `Some` at an event for the coordinator.
    fn drain_state(&mut self) -> Option<S::Event> {
        while let Some(action) = self.next_action() {
            match action {
                Action::Request { peer, id, request } => {
                    let outbound = self.carrier.send_request(&peer, Incoming::Good(request));
                    self.sent.insert(outbound, id);
                }
                Action::Respond { token, response } => self.respond(token, response),
                Action::Event(event) => return Some(event),
            }
        }
        None
    }

    fn respond(&mut self, token: ResponseToken, response: S::Response) {
        let Some((inbound, channel)) = self.received.remove(&token) else {
            return self.call(Call::Sent(token), clock::now());
        };
        self.answering.insert(inbound, token);
        // A failure means that the peer is gone, which the carrier reports by itself.
        let _ = self.carrier.send_response(channel, response);
    }

    /// A request that can't be read gets no answer: its channel was dropped, which closes the stream.
    fn on_fault(&self, peer: PeerId, fault: &Fault) {
        tracing::debug!(%peer, protocol = S::PROTOCOL, %fault, "a message was refused");
        let protocol = S::PROTOCOL;
        let offence = match fault {
            Fault::Oversize { .. } => Offence::Oversize { protocol: protocol.into() },
            Fault::Decode(error) if !error.unknown => Offence::Malformed { protocol: protocol.into() },
            Fault::Stalled { .. } => Offence::Stalled { protocol: protocol.into() },
            // A newer version's word, a line that broke, our own want of memory, an older peer: nobody's fault.
            Fault::Decode(_) | Fault::Cut { .. } | Fault::Busy | Fault::Unsupported => return,
        };
        self.reporter.report(peer, offence);
    }

    fn on_carrier_event(&mut self, event: request_response::Event<Incoming<S::Request>, S::Response>) {
        let now = clock::now();
        match event {
            request_response::Event::Message {
                peer,
                message: Carried::Request { request: Incoming::Bad(fault), .. },
                ..
            } => self.on_fault(peer, &fault),
            request_response::Event::Message {
                peer,
                message: Carried::Request { request: Incoming::Good(request), channel, request_id },
                ..
            } => {
                let token = ResponseToken(self.next_token);
                self.next_token += 1;
                self.received.insert(token, (request_id, channel));
                self.call(Call::Requested { peer, token, request }, now);
            }
            request_response::Event::Message { peer, message: Carried::Response { request_id, response }, .. } => {
                if let Some(id) = self.sent.remove(&request_id) {
                    self.call(Call::Answered { peer, id, result: Ok(response) }, now);
                }
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                if let OutboundFailure::Io(error) = &error
                    && let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>())
                {
                    self.on_fault(peer, fault);
                }
                if let Some(id) = self.sent.remove(&request_id) {
                    self.call(Call::Answered { peer, id, result: Err(send_error(error)) }, now);
                }
            }
            request_response::Event::InboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, protocol = S::PROTOCOL, %error, "an inbound request failed");
                self.received.retain(|_, (inbound, _)| *inbound != request_id);
                self.on_answered(request_id, now);
            }
            request_response::Event::ResponseSent { request_id, .. } => {
                self.on_answered(request_id, now);
            }
        }
    }

    fn on_answered(&mut self, inbound: InboundRequestId, now: Time) {
        if let Some(token) = self.answering.remove(&inbound) {
            self.call(Call::Sent(token), now);
        }
    }

    /// Fires or re-arms the timer; true if the state moved.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(at) = self.state.poll_timeout() else {
            self.timer = None;
            return false;
        };
        if self.timer.as_ref().is_none_or(|(armed, _)| *armed != at) {
            let deadline = tokio::time::Instant::from_std(clock::instant_at(at));
            self.timer = Some((at, Box::pin(tokio::time::sleep_until(deadline))));
        }
        let Some((_, timer)) = &mut self.timer else {
            return false;
        };
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        let now = clock::now();
        // The two clocks round differently: the state is never called before its time.
        self.call(Call::Due, now.max(at));
        true
    }
}

fn send_error(error: OutboundFailure) -> SendError {
    match error {
        OutboundFailure::DialFailure => SendError::Unreachable,
        OutboundFailure::Timeout => SendError::Timeout,
        OutboundFailure::ConnectionClosed => SendError::Closed,
        OutboundFailure::UnsupportedProtocols => SendError::Unsupported,
        OutboundFailure::Io(error) if frame::is_unsupported(&error) => SendError::Unsupported,
        OutboundFailure::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            SendError::Invalid(error.to_string())
        }
        OutboundFailure::Io(_) => SendError::Reset,
    }
}

type Carrier<S> = Metered<request_response::Behaviour<Codec<S>>>;

impl<S: State> NetworkBehaviour for Behaviour<S> {
    type ConnectionHandler = <Carrier<S> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = S::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.carrier.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.carrier.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.carrier.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.carrier.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(established) if established.other_established == 0 => {
                self.call(Call::Connected(established.peer_id), clock::now());
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.call(Call::Disconnected(closed.peer_id), clock::now());
            }
            _ => {}
        }
        self.carrier.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.carrier.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.drain_state() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            if let Poll::Ready(action) = self.carrier.poll(cx) {
                match action {
                    ToSwarm::GenerateEvent(event) => self.on_carrier_event(event),
                    other => {
                        return Poll::Ready(other.map_out(|_| unreachable!("events are handled above")));
                    }
                }
            } else if !self.poll_timer(cx) {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }
}
