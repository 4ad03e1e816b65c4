//! What the four protocol modules have in common: a pure state that talks request and response.
//!
//! `executor`, `health`, `proof` and `shard` each implement [`State`]; [`behaviour::Behaviour`] is the one
//! libp2p shim around any of them. It holds no policy: it carries messages and a timer, and tells
//! [`crate::conduct`] of peers that send what is no message of the protocol, or too much.

pub mod behaviour;
pub mod frame;
pub mod metered;

use bytes::Bytes;
use libp2p::PeerId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use crate::conduct::Budget;
use crate::types::Time;

/// A message on the wire.
///
/// Its `serde` form is that of recordings ([`crate::record`]); what goes on the wire is [`Message::encode`].
pub trait Message: Sized + Send + std::fmt::Debug + Serialize + DeserializeOwned + 'static {
    /// The longest encoding in bytes; a longer frame is refused before it is read.
    const LIMIT: usize;
    /// The byte of an answer that is laid at an address from which a disk takes it as it is ([`crate::types::ALIGNMENT`]).
    const ALIGNED_AT: usize = 0;

    /// The encoding, as segments written one after the other, so that a block is never copied behind a header.
    fn encode(self) -> Vec<Bytes>;

    /// Reads exactly one message. May keep slices of `bytes`.
    fn decode(bytes: Bytes) -> Result<Self, DecodeError>;
}

/// A message that is its CBOR encoding, at most `$limit` bytes of it.
macro_rules! cbor_message {
    ($name:ty, $limit:expr) => {
        impl $crate::protocol::Message for $name {
            const LIMIT: usize = $limit;

            fn encode(self) -> Vec<bytes::Bytes> {
                vec![$crate::codec::encode(&self).into()]
            }

            fn decode(bytes: bytes::Bytes) -> Result<Self, $crate::protocol::DecodeError> {
                Ok($crate::codec::decode(&bytes, Self::LIMIT)?)
            }
        }
    };
}
pub(crate) use cbor_message;

/// Bytes that are no message of their protocol.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct DecodeError {
    /// What is wrong, for the log.
    pub reason: String,
    /// The bytes are well formed, but no message that this version knows. A newer one may: no reason to distrust the peer.
    pub unknown: bool,
}

impl DecodeError {
    /// Bytes that no version would write.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), unknown: false }
    }

    /// A message of a kind, or with a word, that this version does not know.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), unknown: true }
    }
}

impl From<crate::codec::Error> for DecodeError {
    fn from(error: crate::codec::Error) -> Self {
        Self { reason: error.to_string(), unknown: error.is_unknown() }
    }
}

/// Names a request that this node made; unique within the state that made it. The answer repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Names a request that a peer made; the answer goes back through it, at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResponseToken(pub u64);

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SendError {
    /// The peer could not be reached.
    #[error("the peer could not be reached")]
    Unreachable,
    /// The connection closed before the answer came.
    #[error("the connection closed before the answer")]
    Closed,
    /// The connection stands, but the peer ended the stream before the answer came.
    #[error("the peer ended the stream before the answer")]
    Reset,
    /// No answer within the protocol's time limit.
    #[error("no answer in time")]
    Timeout,
    /// The peer does not speak this protocol.
    #[error("the peer does not speak this protocol")]
    Unsupported,
    /// The answer was no message of the protocol, or over its limit.
    #[error("{0}")]
    Invalid(String),
}

/// What a state wants done.
#[derive(Debug)]
pub enum Action<S: State> {
    /// Send `request` to `peer`; exactly one [`State::on_response`] with this id follows.
    Request {
        /// To whom.
        peer: PeerId,
        /// Repeated by the answer.
        id: RequestId,
        /// What.
        request: S::Request,
    },
    /// Answer the request behind `token`. A token whose peer is gone is silently dropped.
    Respond {
        /// Which request.
        token: ResponseToken,
        /// The answer.
        response: S::Response,
    },
    /// Tell the coordinator.
    Event(S::Event),
}

/// A protocol's decisions. No IO, no clock, no chance, no unordered iteration.
pub trait State: std::fmt::Debug + Send + Sized + 'static {
    /// Requests of the protocol, both ways.
    type Request: Message;
    /// Answers of the protocol, both ways.
    type Response: Message;
    /// What the coordinator tells this state.
    type Input: std::fmt::Debug + Send + Serialize + DeserializeOwned;
    /// What this state tells the coordinator.
    type Event: std::fmt::Debug + Send;

    /// The protocol id, for example `/atlas/task/1`.
    const PROTOCOL: &'static str;
    /// A request without an answer for this many milliseconds fails with [`SendError::Timeout`].
    const TIMEOUT_MILLIS: u64;
    /// Inbound plus outbound streams at once on a connection; a further one waits (ours) or is refused (theirs).
    const MAX_STREAMS: usize;
    /// Streams that one peer may open, all its connections together; one that opens more is reported.
    const STREAMS: Budget;

    /// The coordinator says something.
    fn handle(&mut self, input: Self::Input, now: Time);

    /// A peer asks something. Must sooner or later answer `token`.
    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Self::Request, now: Time);

    /// A request of ours has its answer or will never have one.
    fn on_response(&mut self, peer: PeerId, id: RequestId, result: Result<Self::Response, SendError>, now: Time);

    /// The answer to `token` was handed to the network, or never will be: its memory is free again. Follows each
    /// [`Action::Respond`] exactly once.
    fn on_answered(&mut self, _token: ResponseToken, _now: Time) {}

    /// The first connection to `peer` opened.
    fn on_connected(&mut self, _peer: PeerId, _now: Time) {}

    /// The last connection to `peer` closed.
    fn on_disconnected(&mut self, _peer: PeerId, _now: Time) {}

    /// The time named by [`State::poll_timeout`] has come.
    fn on_timeout(&mut self, now: Time);

    /// The next thing to do, in order; `None` when there is nothing left.
    fn poll_action(&mut self) -> Option<Action<Self>>;

    /// When [`State::on_timeout`] is wanted next.
    fn poll_timeout(&self) -> Option<Time>;
}

/// One thing that a state is told, as data: what [`behaviour::Behaviour`] tells it and a recording keeps.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Call<S: State> {
    /// [`State::handle`].
    Told(S::Input),
    /// [`State::on_request`].
    Requested {
        /// Who asks.
        peer: PeerId,
        /// For the answer.
        token: ResponseToken,
        /// What.
        request: S::Request,
    },
    /// [`State::on_response`].
    Answered {
        /// Who was asked.
        peer: PeerId,
        /// Which request.
        id: RequestId,
        /// The answer.
        result: Result<S::Response, SendError>,
    },
    /// [`State::on_answered`].
    Sent(ResponseToken),
    /// [`State::on_connected`].
    Connected(PeerId),
    /// [`State::on_disconnected`].
    Disconnected(PeerId),
    /// [`State::on_timeout`].
    Due,
}

impl<S: State> Call<S> {
    /// Tells `state`.
    pub fn apply(self, state: &mut S, now: Time) {
        match self {
            Self::Told(input) => state.handle(input, now),
            Self::Requested { peer, token, request } => state.on_request(peer, token, request, now),
            Self::Answered { peer, id, result } => state.on_response(peer, id, result, now),
            Self::Sent(token) => state.on_answered(token, now),
            Self::Connected(peer) => state.on_connected(peer, now),
            Self::Disconnected(peer) => state.on_disconnected(peer, now),
            Self::Due => state.on_timeout(now),
        }
    }
}
