//! The decisions of the health protocol: when to beat and to whom, whom to suspect, what to answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use libp2p::PeerId;

use super::{
    Config, Event, Input, Standing,
    probing::Helping,
    speed::{Budget, Step, Tests, filler},
    watched::{Due, Watched},
    wire::{MAX_PIECE, PROTOCOL, Request, Response},
};
use crate::{
    gossip::StatusChange,
    identity::{self, Keypair},
    protocol::{self, RequestId, ResponseToken, SendError},
    types::{Beat, Digest, Load, NodeKey, NodeStatus, Signed, Time, rendezvous},
};

type Action = protocol::Action<State>;

/// Nodes watched at once. A node is watched by eight of the others, so eight is usual; this is room for an unlucky
/// or a hostile distribution. When full, those known to be gone are forgotten first, then new ones are refused.
const MAX_WATCHED: usize = 1_024;
/// Beats without an answer to one watcher; further ones are left out until one is answered or times out.
const MAX_UNANSWERED_BEATS: usize = 8;
/// A refutation of one's own death comes no sooner after the last beat than this: rumours are cheap.
const REFUTE_GAP: Duration = Duration::from_secs(1);

/// What an outstanding request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Beat(NodeKey),
    Probe(NodeKey),
    ProbeFor(NodeKey),
    /// A probe made for another; the answer goes back through [`Helping`].
    Help,
    Speed(u64),
}

/// The health of this node and of those that it watches.
#[derive(Debug)]
pub struct State {
    config: Config,
    keypair: Keypair,
    me: NodeKey,
    members: BTreeMap<NodeKey, PeerId>,
    /// The members as candidates for watching this node: the last ones come first.
    ranking: BTreeSet<(Digest, NodeKey)>,
    /// Whom this node beats to.
    watchers: BTreeSet<NodeKey>,
    watched: BTreeMap<NodeKey, Watched>,
    load: Load,
    last_beat: Option<Signed>,
    last_sequence: u64,
    last_beat_at: Time,
    /// `None` once this node has left.
    next_beat: Option<Time>,
    sent: BTreeMap<RequestId, Sent>,
    next_request: u64,
    helping: Helping,
    tests: Tests,
    budget: Budget,
    actions: VecDeque<Action>,
}

impl State {
    /// A node that beats for the first time at `now`. Its sequence continues from `now` in milliseconds, so that it
    /// grows across restarts without being kept.
    pub fn new(config: Config, keypair: Keypair, now: Time) -> Self {
        let me = keypair.node_key();
        Self {
            config,
            keypair,
            me,
            members: BTreeMap::new(),
            ranking: BTreeSet::new(),
            watchers: BTreeSet::new(),
            watched: BTreeMap::new(),
            load: Load::default(),
            last_beat: None,
            last_sequence: 0,
            last_beat_at: now,
            next_beat: Some(now),
            sent: BTreeMap::new(),
            next_request: 0,
            helping: Helping::default(),
            tests: Tests::default(),
            budget: Budget::default(),
            actions: VecDeque::new(),
        }
    }

    /// What this node thinks of `node`; `None` if it doesn't watch it.
    pub fn standing(&self, node: &NodeKey) -> Option<Standing> {
        self.watched.get(node).map(|watched| watched.standing)
    }

    /// Every node that this one watches, with what it thinks of it.
    pub fn watching(&self) -> impl Iterator<Item = (&NodeKey, Standing)> {
        self.watched.iter().map(|(node, watched)| (node, watched.standing))
    }

    /// The nodes that this one beats to.
    pub fn watchers(&self) -> &BTreeSet<NodeKey> {
        &self.watchers
    }

    fn emit(&mut self, event: Event) {
        self.actions.push_back(Action::Event(event));
    }

    fn respond(&mut self, token: ResponseToken, response: Response) {
        self.actions.push_back(Action::Respond { token, response });
    }

    fn request(&mut self, peer: PeerId, request: Request, sent: Sent) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.sent.insert(id, sent);
        self.actions.push_back(Action::Request { peer, id, request });
        id
    }
}

/// This node's own beats.
impl State {
    fn change_members(&mut self, joined: Vec<(NodeKey, PeerId)>, left: &[NodeKey]) {
        for (node, peer) in joined.into_iter().filter(|(node, _)| *node != self.me) {
            self.members.insert(node, peer);
            self.ranking.insert((self.score(&node), node));
        }
        for node in left {
            self.members.remove(node);
            self.ranking.remove(&(self.score(node), *node));
        }
        let chosen = self.ranking.iter().rev().take(self.config.watchers).map(|(_, node)| *node).collect();
        let before = std::mem::replace(&mut self.watchers, chosen);
        // A new watcher does not wait a whole interval to hear of this node.
        let new: Vec<_> = self.watchers.difference(&before).copied().collect();
        for watcher in new {
            self.beat_to(watcher);
        }
    }

    fn score(&self, candidate: &NodeKey) -> Digest {
        rendezvous::score(rendezvous::WATCHER, &[&self.me.0], candidate)
    }

    fn beat(&mut self, leaving: bool, now: Time) {
        self.last_sequence = now.as_millis().max(self.last_sequence + 1);
        self.last_beat_at = now;
        self.next_beat = if leaving { None } else { Some(now + self.config.beat_interval) };
        let beat = Beat { node: self.me, sequence: self.last_sequence, timestamp: now, load: self.load, leaving };
        let signed = self.keypair.seal(&beat);
        self.last_beat = Some(signed.clone());
        self.emit(Event::BeatDue(signed));
        let watchers: Vec<_> = self.watchers.iter().copied().collect();
        for watcher in watchers {
            self.beat_to(watcher);
        }
    }

    fn beat_to(&mut self, watcher: NodeKey) {
        let unanswered = self.sent.values().filter(|sent| **sent == Sent::Beat(watcher)).count();
        let peer = self.members.get(&watcher).copied();
        if let (Some(peer), Some(beat)) = (peer, self.last_beat.clone())
            && unanswered < MAX_UNANSWERED_BEATS
        {
            self.request(peer, Request::Beat(beat), Sent::Beat(watcher));
        }
    }

    fn leave(&mut self, now: Time) {
        if self.next_beat.is_some() {
            self.beat(true, now);
            self.depart();
        }
    }

    /// Says so once nobody has still to answer the last beat.
    fn depart(&mut self) {
        let waits = self.sent.values().any(|sent| matches!(sent, Sent::Beat(_)));
        if self.next_beat.is_none() && !waits {
            self.emit(Event::Departed);
        }
    }

    /// Somebody said that this node is dead.
    fn refute(&mut self, now: Time) {
        if let Some(next) = &mut self.next_beat {
            *next = (*next).min(now.max(self.last_beat_at + REFUTE_GAP.min(self.config.beat_interval)));
        }
    }
}

/// The nodes that beat to this one.
impl State {
    fn on_beat(&mut self, peer: PeerId, signed: Signed, now: Time) -> Result<(), String> {
        let beat: Beat = match signed.open() {
            Ok(beat) => beat,
            Err(error) => {
                if error.is_forgery() && !signed.is_of_next_version::<Beat>() {
                    self.emit(Event::Forged { peer });
                }
                return Err(error.to_string());
            }
        };
        if identity::node_key(&peer) != Some(beat.node) {
            return Err("a beat counts only from the node itself".into());
        }
        let Some(watched) = self.watched.get_mut(&beat.node) else {
            self.make_room()?;
            self.watched.insert(beat.node, Watched::new(peer, beat.sequence, now));
            self.on_new_beat(None, beat, signed);
            return Ok(());
        };
        // Each request has a stream of its own: an older beat may come after the leaving one.
        if beat.sequence > watched.last_sequence {
            let before = watched.beat(beat.sequence, now);
            self.on_new_beat(Some(before), beat, signed);
        }
        Ok(())
    }

    fn on_new_beat(&mut self, before: Option<Standing>, beat: Beat, signed: Signed) {
        let Beat { node, sequence: last_sequence, load, leaving, .. } = beat;
        self.emit(Event::BeatHeard { node, load, beat: signed });
        if leaving {
            self.mark_left(node, last_sequence, before);
            return;
        }
        match before {
            Some(Standing::Online) => {}
            Some(Standing::Suspected) => self.emit(Event::Cleared { node }),
            None | Some(Standing::Offline | Standing::Left) => {
                self.emit(Event::Online { node, before, last_sequence });
            }
        }
    }

    fn mark_left(&mut self, node: NodeKey, last_sequence: u64, before: Option<Standing>) {
        if let Some(watched) = self.watched.get_mut(&node) {
            watched.standing = Standing::Left;
            watched.last_sequence = last_sequence;
        }
        if before != Some(Standing::Left) {
            self.emit(Event::Left { node, last_sequence });
        }
    }

    fn make_room(&mut self) -> Result<(), String> {
        if self.watched.len() < MAX_WATCHED {
            return Ok(());
        }
        let gone = self.watched.iter().find(|(_, watched)| watched.is_gone()).map(|(node, _)| *node);
        let gone = gone.ok_or_else(|| format!("{MAX_WATCHED} nodes are watched here already"))?;
        self.watched.remove(&gone);
        Ok(())
    }

    /// Any message from a node shows that it is there.
    fn sign_of_life(&mut self, node: NodeKey, now: Time) {
        let Some(watched) = self.watched.get_mut(&node) else {
            return;
        };
        let before = watched.alive(now);
        let last_sequence = watched.last_sequence;
        match before {
            Standing::Online | Standing::Left => {}
            Standing::Suspected => self.emit(Event::Cleared { node }),
            Standing::Offline => self.emit(Event::Online { node, before: Some(before), last_sequence }),
        }
    }

    fn on_status(&mut self, change: &StatusChange, now: Time) {
        if change.status != NodeStatus::Offline {
            return;
        }
        if change.node == self.me {
            self.refute(now);
            return;
        }
        let Some(watched) = self.watched.get_mut(&change.node) else {
            return;
        };
        if change.observer == change.node && change.last_sequence >= watched.last_sequence {
            let before = watched.standing;
            self.mark_left(change.node, change.last_sequence, Some(before));
        } else if watched.standing == Standing::Online && watched.silence(now) > self.config.beat_interval {
            // A rumour is a reason to probe, and only where a beat is missing here too.
            watched.suspect(&self.config, now);
            self.on_due(change.node, Due::Suspect);
        }
    }

    fn check_watched(&mut self, now: Time) {
        let due: Vec<_> = self
            .watched
            .iter_mut()
            .map(|(node, watched)| (*node, watched.due(&self.config, now)))
            .filter(|(_, due)| *due != Due::Nothing)
            .collect();
        for (node, due) in due {
            self.on_due(node, due);
        }
    }

    fn on_due(&mut self, node: NodeKey, due: Due) {
        let Some(watched) = self.watched.get(&node) else {
            return;
        };
        let (peer, last_sequence) = (watched.peer, watched.last_sequence);
        match due {
            Due::Nothing => {}
            Due::Suspect => {
                self.emit(Event::Suspected { node });
                self.request(peer, Request::Probe, Sent::Probe(node));
                self.ask_helpers(node);
            }
            Due::Probe => {
                self.request(peer, Request::Probe, Sent::Probe(node));
            }
            Due::Declare => self.emit(Event::Offline { node, last_sequence }),
        }
    }

    /// Asks others that are not themselves in doubt.
    fn ask_helpers(&mut self, node: NodeKey) {
        let trusted = |candidate: &&NodeKey| {
            **candidate != node && self.standing(candidate).is_none_or(|standing| standing == Standing::Online)
        };
        let candidates: Vec<_> = self.members.keys().filter(trusted).copied().collect();
        let parts: [&[u8]; 2] = [&node.0, &self.me.0];
        for helper in rendezvous::first(rendezvous::PROBER, &parts, self.config.helpers, candidates) {
            let peer = self.members[&helper];
            self.request(peer, Request::ProbeFor { node }, Sent::ProbeFor(node));
        }
    }
}

/// Answers to others.
impl State {
    fn answer(&mut self, peer: PeerId, request: Request, now: Time) -> Response {
        match request {
            Request::Beat(signed) => match self.on_beat(peer, signed, now) {
                Ok(()) => Response::Noted,
                Err(reason) => Response::Refused { reason },
            },
            Request::Probe => {
                let watched = identity::node_key(&peer).is_some_and(|node| self.beats_to(&node));
                Response::Alive { sequence: self.last_sequence, watched }
            }
            Request::ProbeFor { .. } => Response::Alive { sequence: self.last_sequence, watched: true },
            Request::Ping { nonce } => Response::Pong { nonce },
            Request::Download { bytes } => self.serve_download(bytes as usize, now),
            Request::Upload(data) => self.take_upload(data.len(), now),
        }
    }

    fn beats_to(&self, node: &NodeKey) -> bool {
        self.next_beat.is_some() && self.watchers.contains(node)
    }

    fn serve_download(&mut self, bytes: usize, now: Time) -> Response {
        if bytes > MAX_PIECE {
            return Response::Refused { reason: format!("a piece has at most {MAX_PIECE} bytes") };
        }
        if self.budget.take(bytes as u64, now) { Response::Data(filler(bytes)) } else { Response::Busy }
    }

    fn take_upload(&mut self, bytes: usize, now: Time) -> Response {
        if !self.budget.take(bytes as u64, now) {
            return Response::Busy;
        }
        Response::Received { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }
    }

    /// Probes a known node for another; others are not dialled for whoever asks.
    fn help(&mut self, token: ResponseToken, node: NodeKey, now: Time) {
        let peer = self.members.get(&node).copied();
        let Some(peer) = peer.filter(|_| self.helping.has_room()) else {
            self.respond(token, Response::NotReached);
            return;
        };
        let id = self.request(peer, Request::Probe, Sent::Help);
        self.helping.begin(id, token, now);
    }

    fn drive_tests(&mut self) {
        while let Some(step) = self.tests.poll() {
            match step {
                Step::Send { peer, test, request } => {
                    self.request(peer, request, Sent::Speed(test));
                }
                Step::Done { id, peer, result: Ok(speed) } => self.emit(Event::SpeedMeasured { id, peer, speed }),
                Step::Done { id, peer, result: Err(error) } => self.emit(Event::SpeedFailed { id, peer, error }),
            }
        }
    }
}

impl protocol::State for State {
    type Request = Request;
    type Response = Response;
    type Input = Input;
    type Event = Event;

    const PROTOCOL: &'static str = PROTOCOL;
    /// A piece of the speed test at 1 Mbit/s takes 8 s. Probes have shorter deadlines of their own.
    const TIMEOUT_MILLIS: u64 = 10_000;
    /// Beats, probes and four pieces; a stranger can make this node hold 32 MiB a connection and no more.
    const MAX_STREAMS: usize = 32;
    /// A beat a second in a lab, probes on behalf of others, and a speed test of some tens of pieces.
    const STREAMS: protocol::Budget = protocol::Budget { start: 200, burst: 400, per_minute: 1_200 };

    fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Members { joined, left } => self.change_members(joined, &left),
            Input::Load(load) => self.load = load,
            Input::Leave => self.leave(now),
            Input::MeasureSpeed { id, peer } => self.tests.measure(id, peer, now),
            Input::StatusHeard(change) => self.on_status(&change, now),
        }
        self.drive_tests();
    }

    fn on_request(&mut self, peer: PeerId, token: ResponseToken, request: Request, now: Time) {
        if let Some(node) = identity::node_key(&peer) {
            self.sign_of_life(node, now);
        }
        match request {
            Request::ProbeFor { node } if node != self.me => self.help(token, node, now),
            request => {
                let response = self.answer(peer, request, now);
                self.respond(token, response);
            }
        }
    }

    fn on_response(&mut self, peer: PeerId, id: RequestId, result: Result<Response, SendError>, now: Time) {
        let Some(sent) = self.sent.remove(&id) else {
            return;
        };
        if let (Ok(_), Some(node)) = (&result, identity::node_key(&peer)) {
            self.sign_of_life(node, now);
        }
        match (sent, result) {
            (Sent::Probe(node), Ok(Response::Alive { watched: false, .. })) => {
                self.watched.remove(&node);
            }
            (Sent::ProbeFor(node), Ok(Response::Alive { .. })) => self.sign_of_life(node, now),
            (Sent::Help, result) => {
                if let Some((token, response)) = self.helping.on_answer(id, result) {
                    self.respond(token, response);
                }
            }
            (Sent::Speed(test), result) => self.tests.on_answer(test, result, now),
            (Sent::Beat(_), _) => self.depart(),
            (Sent::Probe(_) | Sent::ProbeFor(_), _) => {}
        }
        self.drive_tests();
    }

    fn on_timeout(&mut self, now: Time) {
        if self.next_beat.is_some_and(|at| now >= at) {
            self.beat(false, now);
        }
        self.check_watched(now);
        while let Some(token) = self.helping.expired(now) {
            self.respond(token, Response::NotReached);
        }
        self.tests.on_timeout(now);
        self.drive_tests();
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Time> {
        let watched = self.watched.values().filter_map(|watched| watched.deadline(&self.config));
        watched.chain(self.next_beat).chain(self.helping.deadline()).chain(self.tests.deadline()).min()
    }
}
