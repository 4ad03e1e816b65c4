//! The decisions of content transfer: what to ask of whom, whom to serve, what to hold for others. Pure.
//!
//! A fetch walks the DAG on the disk, asks peers for what is missing, has each block verified and written before it
//! counts, and walks again, until nothing is missing; then the disk is synced and only then is it fetched. So a
//! fetch that was cut off goes on where it was, and one that is complete ends at once.

mod fetch;
mod hold;
mod interface;
mod peers;
mod rate;
mod serve;
mod transfer;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use self::{
    hold::Holds,
    peers::{Asked, Peers},
    rate::Rates,
    serve::Serves,
    transfer::Transfer,
};
pub use self::{
    interface::{Event, FetchFailure, HoldFailure, Input},
    rate::Limits,
};
use super::{
    edge::{self, Done, EdgeId, Hold, Work},
    wire::{Refusal, Request, Response, Slot},
};
use crate::{
    protocol::{self, Action, Budget, RequestId, ResponseToken, SendError},
    types::{Cause, ContentId, Time},
};

/// A piece of disk work without an answer after this time is taken for lost. A sync of 64 MiB on a slow disk takes
/// seconds, a walk over a terabyte's inner nodes too.
const EDGE_LIMIT: Duration = Duration::from_secs(120);
/// A request is given up by the carrier after [`protocol::State::TIMEOUT_MILLIS`]; after this the state does not
/// count on the carrier any more.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Bytes kept for other nodes at most; what goes over it is refused.
    pub hold_bytes: u64,
    /// A fetch to which no block came for this long fails (design: "stall 120 s").
    pub stall: Duration,
    /// How long a peer that sent wrong bytes is not asked and not served.
    pub ban: Duration,
    /// How long a peer may take to hold what it was asked to, beside the time for the bytes at 1 MiB/s.
    pub hold_limit: Duration,
    /// What goes out of blocks.
    pub upload: Limits,
    /// What comes in of blocks.
    pub download: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hold_bytes: 16 << 30,
            stall: Duration::from_secs(120),
            ban: Duration::from_secs(3600),
            hold_limit: Duration::from_secs(60),
            upload: Limits::default(),
            download: Limits::default(),
        }
    }
}

/// What an answer of the disk is for.
#[derive(Debug)]
enum Purpose {
    Walk(ContentId),
    Put { root: ContentId, peer: PeerId, cids: Vec<ContentId> },
    Seal { root: ContentId, holds: Vec<Hold> },
    Read(ResponseToken),
    Has(ResponseToken),
    Release,
}

/// A request that waits for its answer.
#[derive(Debug)]
enum Sent {
    Get { root: ContentId, cids: Vec<ContentId>, asked: Asked, charged: u64 },
    Hold { ask: u64 },
    Held { root: ContentId },
}

/// The state.
#[derive(Debug)]
pub struct State {
    config: Config,
    actions: VecDeque<Action<Self>>,
    transfers: BTreeMap<ContentId, Transfer>,
    peers: Peers,
    serves: Serves,
    downloads: Rates,
    holds: Holds,
    edges: BTreeMap<EdgeId, (Purpose, Time)>,
    requests: BTreeMap<RequestId, (PeerId, Sent, Time)>,
    next_id: u64,
    /// The transfer that was served last; the next round begins after it.
    last_served: Option<ContentId>,
    /// When it was last looked what could be asked. What could begin before is no reason to wake up.
    looked: Time,
}

impl State {
    /// The state of a node that starts, with what it held for others when it stopped ([`edge::holds`]).
    pub fn new(config: Config, holds: Vec<Hold>) -> Self {
        Self {
            config,
            actions: VecDeque::new(),
            transfers: BTreeMap::new(),
            peers: Peers::default(),
            serves: Serves::new(config.upload),
            downloads: Rates::new(config.download),
            holds: Holds::new(holds),
            edges: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_id: 0,
            last_served: None,
            looked: Time::ZERO,
        }
    }

    /// Bytes held for others, and accepted to be held.
    pub fn held_bytes(&self) -> u64 {
        self.holds.bytes()
    }

    /// Transfers under way.
    pub fn transfers(&self) -> usize {
        self.transfers.len()
    }

    fn event(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn respond(&mut self, token: ResponseToken, response: Response) {
        self.actions.push_back(Action::Respond { token, response });
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn work(&mut self, purpose: Purpose, work: Work, now: Time) {
        let id = EdgeId(self.next_id());
        self.edges.insert(id, (purpose, now + EDGE_LIMIT));
        self.event(Event::Edge(edge::Request { id, work }));
    }

    fn send(&mut self, peer: PeerId, sent: Sent, request: Request, now: Time) -> RequestId {
        let id = RequestId(self.next_id());
        self.requests.insert(id, (peer, sent, now + REQUEST_LIMIT));
        self.actions.push_back(Action::Request { peer, id, request });
        id
    }

    fn ban(&mut self, peer: PeerId, blocks: u32, now: Time) {
        self.event(Event::Misbehaved { peer, blocks });
        self.peers.ban(peer, now + self.config.ban);
        self.give_up_requests(peer, now);
    }

    /// Asks others for what `peer` was asked for, without waiting for it.
    fn give_up_requests(&mut self, peer: PeerId, now: Time) {
        let asked = |of: PeerId, sent: &Sent, _| of == peer && matches!(sent, Sent::Get { .. });
        self.end_requests(asked, &|| SendError::Closed, now);
    }

    /// Ends those requests that `ends` chooses by whom they ask, for what, and until when.
    fn end_requests(&mut self, ends: impl Fn(PeerId, &Sent, Time) -> bool, why: &dyn Fn() -> SendError, now: Time) {
        let chosen = self.requests.iter().filter(|(_, (peer, sent, until))| ends(*peer, sent, *until));
        let ids: Vec<RequestId> = chosen.map(|(id, _)| *id).collect();
        for id in ids {
            self.on_result(id, Err(why()), now);
        }
    }

    fn on_edge(&mut self, answer: edge::Answer, now: Time) {
        let Some((purpose, _)) = self.edges.remove(&answer.id) else {
            return;
        };
        match purpose {
            Purpose::Walk(root) => self.on_walked(root, answer.result, now),
            Purpose::Put { root, peer, cids } => self.on_put(root, peer, &cids, answer.result, now),
            Purpose::Seal { root, holds } => self.on_sealed(root, holds, answer.result, now),
            Purpose::Read(token) => self.on_read(token, answer.result),
            Purpose::Has(token) => self.on_has(token, answer.result),
            Purpose::Release => {}
        }
    }

    /// The disk never answered.
    fn on_edge_lost(&mut self, purpose: Purpose, now: Time) {
        match purpose {
            Purpose::Walk(root) | Purpose::Put { root, .. } | Purpose::Seal { root, .. } => {
                self.fail_transfer(root, &|| FetchFailure::EdgeTimeout, now);
            }
            Purpose::Read(token) | Purpose::Has(token) => self.respond(token, Response::Refused(Refusal::Busy)),
            Purpose::Release => {}
        }
    }

    fn on_get(&mut self, peer: PeerId, token: ResponseToken, cids: Vec<ContentId>, budget: u32) {
        if !self.serves.push(peer, token, cids, budget) {
            self.respond(token, Response::Refused(Refusal::Busy));
        }
    }

    /// Begins to read for as many requests as memory allows.
    fn serve(&mut self, now: Time) {
        while let Some(turn) = self.serves.next_turn(now) {
            self.work(Purpose::Read(turn.token), Work::Read { cids: turn.cids, budget: turn.budget }, now);
        }
    }

    fn on_read(&mut self, token: ResponseToken, result: Result<Done, Cause>) {
        let response = match result {
            Ok(Done::Read(slots)) => {
                self.serves.read(token, &slots);
                Response::Blocks(slots)
            }
            _ => Response::Refused(Refusal::Busy),
        };
        self.respond(token, response);
    }

    fn on_has(&mut self, token: ResponseToken, result: Result<Done, Cause>) {
        let response = match result {
            Ok(Done::Has(bits)) => Response::Have(bits),
            _ => Response::Refused(Refusal::Busy),
        };
        self.respond(token, response);
    }

    fn on_result(&mut self, id: RequestId, result: Result<Response, SendError>, now: Time) {
        let Some((peer, sent, _)) = self.requests.remove(&id) else {
            return;
        };
        match sent {
            Sent::Get { root, cids, asked, charged } => {
                self.settle_download(peer, charged, &result, now);
                self.on_blocks(peer, id, root, &cids, asked, result, now);
            }
            Sent::Hold { ask } => self.on_hold_answer(ask, result, now),
            Sent::Held { root } => self.on_notice_answer(root, peer, result, now),
        }
    }

    fn on_late(&mut self, now: Time) {
        self.end_requests(|_, _, until| until <= now, &|| SendError::Timeout, now);
        let late: Vec<EdgeId> = self.edges.iter().filter(|(_, (_, at))| *at <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((purpose, _)) = self.edges.remove(&id) {
                self.on_edge_lost(purpose, now);
            }
        }
    }

    /// Begins all that can begin.
    fn advance(&mut self, now: Time) {
        self.looked = now;
        self.serve(now);
        self.advance_holds(now);
        self.advance_transfers(now);
    }
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = "/atlas/shard/1";
    /// 2 MiB at 50 kB/s. Shorter than the stall, so that a fetch can turn to another peer before it fails.
    const TIMEOUT_MILLIS: u64 = 45_000;
    /// Both ways together: a full window each way, and room for messages about holds.
    const MAX_STREAMS: usize = 64;
    /// Small blocks are asked for four at a time, as fast as the line brings them.
    const STREAMS: Budget = Budget { start: 4_000, burst: 20_000, per_minute: 300_000 };

    fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Fetch { id, root, providers } => self.on_fetch(id, root, providers, now),
            Input::AddProviders { id, providers } => self.on_providers(id, providers),
            Input::Cancel { id } => self.on_cancel(id, now),
            Input::AskHold { id, root, size, peer } => self.on_ask_hold(id, root, size, peer, now),
            Input::Release { root, peer } => self.on_release(root, peer, now),
            Input::Edge(answer) => self.on_edge(answer, now),
        }
        self.advance(now);
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        match request {
            _ if self.peers.is_banned(&peer, now) => self.respond(token, Response::Refused(Refusal::Banned)),
            Request::Get { cids, budget } => self.on_get(peer, token, cids, budget),
            Request::Have { cids } => self.work(Purpose::Has(token), Work::Has { cids }, now),
            Request::Hold { root, size } => self.on_hold(peer, token, root, size, now),
            Request::Held { root } => self.on_held(peer, token, root),
        }
        self.advance(now);
    }

    fn on_response(&mut self, _peer: PeerId, id: RequestId, result: Result<Response, SendError>, now: Time) {
        self.on_result(id, result, now);
        self.advance(now);
    }

    fn on_answered(&mut self, token: ResponseToken, now: Time) {
        self.serves.finished(token);
        self.advance(now);
    }

    fn on_connected(&mut self, peer: PeerId, now: Time) {
        self.peers.connected(&peer);
        self.advance(now);
    }

    fn on_disconnected(&mut self, peer: PeerId, now: Time) {
        self.serves.forget(&peer);
        self.advance(now);
    }

    fn on_timeout(&mut self, now: Time) {
        self.on_late(now);
        self.on_transfers_late(now);
        self.on_asks_late(now);
        self.advance(now);
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let edges = self.edges.values().map(|(_, at)| *at);
        let requests = self.requests.values().map(|(_, _, at)| *at);
        let waits = self.transfer_times().chain(self.holds.times(self.config.hold_limit));
        edges.chain(requests).chain(waits).chain(self.serves.next_time(self.looked)).min()
    }
}

/// Whether the answer to a `Get` is one: a slot for each block.
fn slots(response: Response, asked: usize) -> Option<Vec<Slot>> {
    match response {
        Response::Blocks(slots) if slots.len() == asked => Some(slots),
        _ => None,
    }
}
