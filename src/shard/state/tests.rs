//! States wired back to back in memory, over real stores, with a clock that jumps to the next deadline.

use std::{collections::VecDeque, sync::Arc};

use super::*;
use crate::{
    protocol::{Message as _, State as _},
    shard::{Files, wire},
    store::{BlockStore, Files as _, Quota},
};

const MIB: usize = 1024 * 1024;
/// Steps after which a world that does not come to rest is a failed test.
const MAX_STEPS: usize = 200_000;

struct Node {
    peer: PeerId,
    state: State,
    store: Arc<BlockStore>,
    directory: tempfile::TempDir,
    events: Vec<Event>,
}

impl Node {
    fn new(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlockStore::open(directory.path(), Quota { bytes: 1 << 30 }).unwrap();
        let state = State::new(config, Vec::new());
        Self { peer: PeerId::random(), state, store, directory, events: Vec::new() }
    }

    fn add(&self, length: usize) -> ContentId {
        // Numbered lines: no two chunks are alike.
        let bytes: Vec<u8> = (0_u64..).flat_map(u64::to_be_bytes).take(length).collect();
        Files::new(self.store.clone()).import_bytes(&bytes).unwrap()
    }
}

/// What happens to a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Arrives,
    Fails,
    /// Never answered; the carrier gives up after its time limit.
    Hangs,
    /// Blocks come with a bit flipped.
    Lies,
}

type Network = Box<dyn FnMut(usize, usize, &Request) -> Fate>;

enum Delivery {
    Request { from: usize, to: usize, id: RequestId, request: Request },
    Response { to: usize, from: usize, id: RequestId, result: Result<Response, SendError> },
}

struct World {
    nodes: Vec<Node>,
    now: Time,
    queue: VecDeque<Delivery>,
    later: Vec<(Time, Delivery)>,
    tokens: BTreeMap<ResponseToken, (usize, usize, RequestId)>,
    fate: Network,
    blocks_moved: usize,
}

impl World {
    fn new(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|_| Node::new(Config::default())).collect(),
            now: Time::from_millis(1_000_000),
            queue: VecDeque::new(),
            later: Vec::new(),
            tokens: BTreeMap::new(),
            fate: Box::new(|_, _, _| Fate::Arrives),
            blocks_moved: 0,
        }
    }

    fn tell(&mut self, node: usize, input: Input) {
        self.nodes[node].state.handle(input, self.now);
    }

    fn fetch(&mut self, node: usize, id: u64, root: ContentId, providers: &[usize]) {
        let providers = providers.iter().map(|index| self.nodes[*index].peer).collect();
        self.tell(node, Input::Fetch { id, root, providers });
    }

    /// Runs until `done`, letting time jump when nothing else can happen.
    fn run_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..MAX_STEPS {
            if done(self) {
                return;
            }
            if self.step() {
                continue;
            }
            let deadlines = self.nodes.iter().filter_map(|node| node.state.poll_timeout());
            let next = deadlines.chain(self.later.iter().map(|(at, _)| *at)).min();
            self.now = next.unwrap_or_else(|| panic!("nothing will ever happen, waiting for: {what}")).max(self.now);
            self.fire();
        }
        panic!("the world does not come to rest, waiting for: {what}");
    }

    fn fire(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
        self.later = later;
        let due: Vec<(Time, Delivery)> = due;
        self.queue.extend(due.into_iter().map(|(_, delivery)| delivery));
        for node in &mut self.nodes {
            if node.state.poll_timeout().is_some_and(|at| at <= now) {
                node.state.on_timeout(now);
            }
        }
    }

    /// One action of one node, or one delivery; false if there is none.
    fn step(&mut self) -> bool {
        for index in 0..self.nodes.len() {
            if let Some(action) = self.nodes[index].state.poll_action() {
                self.act(index, action);
                return true;
            }
        }
        let Some(delivery) = self.queue.pop_front() else {
            return false;
        };
        self.deliver(delivery);
        true
    }

    fn act(&mut self, from: usize, action: Action<State>) {
        match action {
            Action::Request { peer, id, request } => {
                let to = self.nodes.iter().position(|node| node.peer == peer).unwrap();
                self.queue.push_back(Delivery::Request { from, to, id, request });
            }
            Action::Respond { token, response } => {
                let (asker, answerer, id) = self.tokens.remove(&token).unwrap();
                self.nodes[answerer].state.on_answered(token, self.now);
                let bytes = response.encode().concat();
                assert!(bytes.len() <= Response::LIMIT);
                let result = Ok(Response::decode(bytes.into()).unwrap());
                self.queue.push_back(Delivery::Response { to: asker, from: answerer, id, result });
            }
            Action::Event(Event::Edge(request)) => {
                let answer = edge::perform(&self.nodes[from].store, request);
                self.tell(from, Input::Edge(answer));
            }
            Action::Event(event) => self.nodes[from].events.push(event),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Request { from, to, id, request } => self.deliver_request(from, to, id, request),
            Delivery::Response { to, from, id, result } => {
                if let Ok(Response::Blocks(slots)) = &result {
                    self.blocks_moved += slots.iter().filter(|slot| matches!(slot, Slot::Present(_))).count();
                }
                let peer = self.nodes[from].peer;
                self.nodes[to].state.on_response(peer, id, result, self.now);
            }
        }
    }

    fn deliver_request(&mut self, from: usize, to: usize, id: RequestId, request: Request) {
        let request = Request::decode(request.encode().concat().into()).unwrap();
        let answer = |result| Delivery::Response { to: from, from: to, id, result };
        match (self.fate)(from, to, &request) {
            Fate::Arrives => {
                let token = ResponseToken(id.0 * 1000 + u64::try_from(from).unwrap());
                self.tokens.insert(token, (from, to, id));
                let peer = self.nodes[from].peer;
                self.nodes[to].state.on_request(peer, token, request, self.now);
            }
            Fate::Fails => self.queue.push_back(answer(Err(SendError::Closed))),
            Fate::Hangs => {
                let at = self.now + Duration::from_millis(State::TIMEOUT_MILLIS);
                self.later.push((at, answer(Err(SendError::Timeout))));
            }
            Fate::Lies => {
                let Request::Get { cids, .. } = request else { panic!("only blocks can lie") };
                let lie = |_: &ContentId| Slot::Present(bytes::Bytes::from_static(b"a lie"));
                self.queue.push_back(answer(Ok(Response::Blocks(cids.iter().map(lie).collect()))));
            }
        }
    }

    fn fetched(&self, node: usize, id: u64) -> bool {
        self.nodes[node].events.iter().any(|event| matches!(event, Event::Fetched { id: done, .. } if *done == id))
    }

    fn failure(&self, node: usize, wanted: u64) -> Option<&FetchFailure> {
        self.nodes[node].events.iter().find_map(|event| match event {
            Event::FetchFailed { id, reason } if *id == wanted => Some(reason),
            _ => None,
        })
    }

    fn assert_same_file(&self, root: &ContentId, one: usize, other: usize) {
        let read = |node: usize| Files::new(self.nodes[node].store.clone()).read(root, 1 << 30).unwrap();
        assert!(read(one) == read(other), "both nodes have the same bytes");
    }
}

#[test]
fn a_dag_is_fetched_whole_and_once() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(20 * MIB + 5);
    world.fetch(1, 7, root, &[0]);
    world.run_until("the fetch", |world| world.fetched(1, 7));
    assert_eq!(world.blocks_moved, 22);
    world.assert_same_file(&root, 0, 1);
    let bytes = world.nodes[1].events.iter().find_map(|event| match event {
        Event::Fetched { bytes, .. } => Some(*bytes),
        _ => None,
    });
    assert_eq!(bytes, Some(world.nodes[1].store.used_bytes()));

    world.fetch(1, 8, root, &[]);
    world.run_until("a fetch of what is here", |world| world.fetched(1, 8));
    assert_eq!(world.blocks_moved, 22);
}

#[test]
fn loss_costs_time_and_nothing_else() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(12 * MIB);
    let mut count = 0;
    world.fate = Box::new(move |_, _, _| {
        count += 1;
        if count % 3 == 0 { Fate::Fails } else { Fate::Arrives }
    });
    world.fetch(1, 1, root, &[0]);
    world.run_until("the fetch", |world| world.fetched(1, 1));
    world.assert_same_file(&root, 0, 1);
}

fn lies(event: &Event) -> Option<u32> {
    if let Event::Misbehaved { blocks, .. } = event { Some(*blocks) } else { None }
}

#[test]
fn a_liar_is_banned_and_the_rest_comes_from_others() {
    let mut world = World::new(3);
    let root = world.nodes[0].add(12 * MIB);
    world.fate = Box::new(|_, to, request| match request {
        Request::Get { .. } if to == 1 => Fate::Lies,
        _ => Fate::Arrives,
    });
    world.fetch(2, 1, root, &[0, 1]);
    world.run_until("the fetch", |world| world.fetched(2, 1));
    world.assert_same_file(&root, 0, 2);
    let liar = world.nodes[1].peer;
    assert!(world.nodes[2].events.iter().any(|event| matches!(event, Event::Misbehaved { peer, .. } if *peer == liar)));
    let told: u32 = world.nodes[2].events.iter().filter_map(lies).sum();
    assert!((1..=16).contains(&told), "what was on its way at the first lie, and no more: {told}");
}

#[test]
fn what_a_liar_was_asked_for_is_asked_of_others_at_once() {
    let mut world = World::new(3);
    let root = world.nodes[0].add(20 * MIB);
    let bytes = Files::new(world.nodes[0].store.clone()).read(&root, 20 * MIB).unwrap();
    Files::new(world.nodes[1].store.clone()).import_bytes(&bytes).unwrap();
    let mut asked = 0;
    world.fate = Box::new(move |_, to, _| {
        asked += usize::from(to == 1);
        match (to, asked) {
            (1, 2) => Fate::Lies,
            (1, 3..) => Fate::Hangs,
            _ => Fate::Arrives,
        }
    });
    let began = world.now;
    world.fetch(2, 1, root, &[0, 1]);
    world.run_until("fetched", |world| world.fetched(2, 1));
    assert!(world.nodes[2].events.iter().any(|event| lies(event).is_some()), "it was asked, and lied");
    assert_eq!(world.now, began, "nobody was waited for");
}

#[test]
fn what_a_hanging_peer_was_asked_for_is_brought_by_another() {
    let mut world = World::new(3);
    let root = world.nodes[0].add(12 * MIB);
    world.fate = Box::new(|_, to, _| if to == 1 { Fate::Hangs } else { Fate::Arrives });
    let began = world.now;
    world.fetch(2, 1, root, &[0, 1]);
    world.run_until("the fetch", |world| world.fetched(2, 1));
    let took = world.now.since(began);
    assert!(took < Duration::from_secs(10), "it did not wait for the time limit: {took:?}");
}

#[test]
fn a_fetch_goes_on_after_a_restart_and_moves_nothing_twice() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(20 * MIB);
    world.fetch(1, 1, root, &[0]);
    world.run_until("half of it", |world| world.nodes[1].store.used_bytes() > 10 << 20);
    let before = world.nodes[1].store.used_bytes();

    // The process dies: its state is gone, its store is opened anew.
    let peer = world.nodes[1].peer;
    let old = std::mem::replace(&mut world.nodes[1], Node::new(Config::default()));
    let Node { store, directory, .. } = old;
    drop(store);
    let store = BlockStore::open(directory.path(), Quota { bytes: 1 << 30 }).unwrap();
    assert_eq!(store.used_bytes(), before);
    world.nodes[1] = Node { peer, state: State::new(Config::default(), vec![]), store, directory, events: vec![] };
    world.queue.clear();
    world.tokens.clear();
    world.nodes[0].state = State::new(Config::default(), vec![]);

    world.blocks_moved = 0;
    world.fetch(1, 2, root, &[0]);
    world.run_until("the rest", |world| world.fetched(1, 2));
    let had = usize::try_from(before).unwrap() / MIB;
    assert!(world.blocks_moved <= 21 - had, "{} blocks came, {had} were here", world.blocks_moved);
    world.assert_same_file(&root, 0, 1);
}

#[test]
fn providers_are_called_for_and_found_later() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(3 * MIB);
    world.fetch(1, 1, root, &[]);
    let called = |world: &World| world.nodes[1].events.iter().any(|event| matches!(event, Event::WantProviders { .. }));
    world.run_until("the call", called);
    let providers = vec![world.nodes[0].peer];
    world.tell(1, Input::AddProviders { id: 1, providers });
    world.run_until("the fetch", |world| world.fetched(1, 1));
}

#[test]
fn a_peer_that_is_still_fetching_is_asked_again() {
    let mut world = World::new(3);
    let root = world.nodes[0].add(5 * MIB);
    world.fetch(2, 1, root, &[1]);
    let called = |world: &World| world.nodes[2].events.iter().any(|event| matches!(event, Event::WantProviders { .. }));
    world.run_until("that the peer has nothing", called);
    world.fetch(1, 2, root, &[0]);
    world.run_until("both", |world| world.fetched(1, 2) && world.fetched(2, 1));
}

#[test]
fn a_fetch_that_nobody_can_serve_ends_when_its_blocks_come_another_way() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(3 * MIB);
    world.fate = Box::new(|_, _, _| Fate::Fails);
    world.fetch(1, 1, root, &[0]);
    let wanted = |event: &Event| matches!(event, Event::WantProviders { .. });
    world.run_until("the call", |world| world.nodes[1].events.iter().any(wanted));
    // As `shard add --car` does.
    assert_eq!(world.nodes[1].add(3 * MIB), root);
    world.run_until("the end", |world| world.fetched(1, 1));
}

#[test]
fn a_fetch_without_progress_fails_with_its_reason() {
    let mut world = World::new(2);
    let root = crate::store::dag_pb::content_id(crate::store::dag_pb::RAW, b"nowhere");
    let began = world.now;
    world.fetch(1, 1, root, &[0]);
    world.run_until("the failure", |world| world.failure(1, 1).is_some());
    assert!(matches!(world.failure(1, 1), Some(FetchFailure::Stalled(_))));
    assert!(world.now.since(began) >= Config::default().stall);
    assert_eq!(world.nodes[1].state.transfers(), 0);
}

#[test]
fn two_fetches_of_one_root_share_a_transfer_and_cancelling_one_leaves_the_other() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(6 * MIB);
    for id in [1, 2, 3] {
        world.fetch(1, id, root, &[0]);
    }
    world.tell(1, Input::Cancel { id: 2 });
    world.run_until("both", |world| world.fetched(1, 1) && world.fetched(1, 3));
    assert!(matches!(world.failure(1, 2), Some(FetchFailure::Cancelled)));
    assert_eq!(world.blocks_moved, 7);
}

fn held(world: &World, node: usize, wanted: u64) -> bool {
    world.nodes[node].events.iter().any(|event| matches!(event, Event::Held { id, .. } if *id == wanted))
}

#[test]
fn a_peer_holds_what_it_is_asked_to_and_says_so_though_messages_are_lost() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(5 * MIB);
    let mut count = 0;
    world.fate = Box::new(move |_, _, request| match request {
        Request::Hold { .. } | Request::Held { .. } => {
            count += 1;
            if count % 2 == 1 { Fate::Fails } else { Fate::Arrives }
        }
        _ => Fate::Arrives,
    });
    let peer = world.nodes[1].peer;
    world.tell(0, Input::AskHold { id: 4, root, size: 5 * MIB as u64, peer });
    world.run_until("the word", |world| held(world, 0, 4));
    world.assert_same_file(&root, 0, 1);
    let asker = world.nodes[0].peer;
    assert_eq!(edge::holds(&world.nodes[1].store), [Hold { root, peer: asker, size: 5 * MIB as u64 }]);
    assert_eq!(world.nodes[1].state.held_bytes(), 5 * MIB as u64);
    let holding = |event: &Event| matches!(event, Event::Holding { for_peer, .. } if *for_peer == asker);
    assert!(world.nodes[1].events.iter().any(holding));

    world.tell(1, Input::Release { root, peer: asker });
    world.run_until("the release", |world| world.nodes[1].store.pins().is_empty());
    assert_eq!(world.nodes[1].state.held_bytes(), 0);
}

#[test]
fn a_word_that_was_lost_with_the_process_is_said_again() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(MIB);
    world.fate = Box::new(|_, _, request| match request {
        Request::Held { .. } => Fate::Hangs,
        _ => Fate::Arrives,
    });
    let peer = world.nodes[1].peer;
    world.tell(0, Input::AskHold { id: 4, root, size: MIB as u64, peer });
    world.run_until("it is held", |world| !edge::holds(&world.nodes[1].store).is_empty());
    let holds = edge::holds(&world.nodes[1].store);
    world.nodes[1].state = State::new(Config::default(), holds);
    world.queue.clear();
    world.later.clear();
    world.fate = Box::new(|_, _, _| Fate::Arrives);
    world.run_until("the word", |world| held(world, 0, 4));
}

#[test]
fn a_hold_over_the_quota_is_refused() {
    let mut world = World::new(2);
    world.nodes[1] = Node::new(Config { hold_bytes: 1000, ..Config::default() });
    let root = world.nodes[0].add(5000);
    let peer = world.nodes[1].peer;
    world.tell(0, Input::AskHold { id: 4, root, size: 5000, peer });
    let refused =
        |event: &Event| matches!(event, Event::HoldFailed { id: 4, reason: HoldFailure::Refused(Refusal::NoRoom), .. });
    world.run_until("the refusal", |world| world.nodes[0].events.iter().any(refused));
}

#[test]
fn a_hold_that_is_larger_than_told_is_given_up() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(12 * MIB);
    let peer = world.nodes[1].peer;
    world.tell(0, Input::AskHold { id: 4, root, size: 10, peer });
    let failed = |event: &Event| matches!(event, Event::HoldFailed { id: 4, reason: HoldFailure::Deadline, .. });
    world.run_until("the failure", |world| world.nodes[0].events.iter().any(failed));
    assert!(edge::holds(&world.nodes[1].store).is_empty());
    assert!(world.nodes[1].store.used_bytes() < 12 << 20);
}

#[test]
fn an_unreachable_holder_is_named_as_such() {
    let mut world = World::new(2);
    let root = world.nodes[0].add(10);
    world.fate = Box::new(|_, _, _| Fate::Fails);
    let peer = world.nodes[1].peer;
    world.tell(0, Input::AskHold { id: 4, root, size: 10, peer });
    let failed =
        |event: &Event| matches!(event, Event::HoldFailed { reason: HoldFailure::Unreachable(SendError::Closed), .. });
    world.run_until("the failure", |world| world.nodes[0].events.iter().any(failed));
}

#[test]
fn one_seedless_run_is_like_the_other() {
    let run = || {
        let mut world = World::new(2);
        world.nodes[0].peer = crate::identity::Keypair::from_secret(&[1; 32]).peer_id();
        world.nodes[1].peer = crate::identity::Keypair::from_secret(&[2; 32]).peer_id();
        let root = world.nodes[0].add(9 * MIB);
        world.fetch(1, 1, root, &[0]);
        world.run_until("the fetch", |world| world.fetched(1, 1));
        format!("{:?}", world.nodes[1].events)
    };
    assert_eq!(run(), run());
}

#[test]
fn wire_limits_fit_what_the_state_sends() {
    let block = bytes::Bytes::from(vec![0; crate::store::dag_pb::MAX_BLOCK_BYTES]);
    let response = Response::Blocks(vec![Slot::Present(block.clone()), Slot::Present(block)]);
    let length: usize = response.encode().iter().map(bytes::Bytes::len).sum();
    assert!(length <= Response::LIMIT && wire::MAX_ANSWER_BYTES < length);
}

/// Virtual time that node 0 takes to fetch `length` bytes from nodes with these settings; its own are `fetching`.
fn time_to_fetch(length: usize, seeders: &[Config], fetching: Config) -> Duration {
    let mut world = World::new(0);
    world.nodes.push(Node::new(fetching));
    world.nodes.extend(seeders.iter().map(|config| Node::new(*config)));
    let roots: Vec<ContentId> = world.nodes[1..].iter().map(|node| node.add(length)).collect();
    let began = world.now;
    world.fetch(0, 1, roots[0], &(1..=seeders.len()).collect::<Vec<_>>());
    world.run_until("the fetch", |world| world.fetched(0, 1));
    world.now.since(began)
}

/// Bytes a second.
const LIMIT: u64 = 20_000_000;

fn seconds(bytes: usize, limit: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / limit as f64)
}

#[test]
fn three_seeders_with_a_limit_each_give_three_times_as_much_as_one() {
    let length = 60 * MIB;
    let limited = Config { upload: Limits { total: Some(LIMIT), per_peer: None }, ..Config::default() };
    let one = time_to_fetch(length, &[limited], Config::default());
    let three = time_to_fetch(length, &[limited; 3], Config::default());
    let alone = seconds(length, LIMIT);
    assert!((alone.mul_f64(0.9)..alone.mul_f64(1.1)).contains(&one), "{one:?} where {alone:?} is the limit");
    assert!(one >= three.mul_f64(2.8), "{one:?} with one, {three:?} with three");
}

#[test]
fn who_fetches_has_a_limit_too_of_all_peers_and_of_each() {
    let length = 40 * MIB;
    let total = Config { download: Limits { total: Some(LIMIT), per_peer: None }, ..Config::default() };
    let each = Config { download: Limits { total: None, per_peer: Some(LIMIT) }, ..Config::default() };
    let seeders = [Config::default(); 2];
    let alone = seconds(length, LIMIT);
    for (config, expected) in [(total, alone), (each, alone / 2)] {
        let took = time_to_fetch(length, &seeders, config);
        assert!(
            (expected.mul_f64(0.8)..expected.mul_f64(1.2)).contains(&took),
            "{took:?} where {expected:?} is the limit"
        );
    }
}

#[test]
fn a_slow_uplink_is_shared_fairly_and_nothing_is_given_up() {
    // A block of 1 MiB takes 8 s; the carrier gives a request up after 45.
    let slow = Config { upload: Limits { total: Some(131_072), per_peer: None }, ..Config::default() };
    let took = time_to_fetch(6 * MIB, &[slow], Config::default());
    assert!(took < Duration::from_secs(60), "{took:?} where 48 s is the limit");
}
