//! Stories of what a node keeps for others, with a ledger that is a view and a clock that is a number.

use std::{collections::BTreeMap, time::Duration};

use super::keeper::{Keeper, Step};
use crate::{
    chain::{
        records::{Holder, Node, Object, ObjectId},
        wire::Code,
    },
    node::coordinator::view::View,
    types::{ContentId, Load, NodeKey, NodeStatus, Resources, Time, rendezvous},
};

const OWNER: NodeKey = NodeKey([0; 32]);
const SIZE: u64 = 60;
const ROOM: u64 = 100;
/// How long a holder that went offline is waited for.
const COMES_BACK: u64 = 20;

fn keeper(key: NodeKey, room: u64, kept: &[(NodeKey, ContentId)]) -> Keeper {
    Keeper::new(key, room, Duration::from_secs(COMES_BACK), kept)
}

fn root(name: &str) -> ContentId {
    crate::store::dag_pb::content_id(0x55, name.as_bytes())
}

fn node(key: NodeKey) -> Node {
    Node {
        id: key,
        node_id: String::new(),
        address: None,
        status: NodeStatus::Online,
        resources: Resources::default(),
        listen: Vec::new(),
        attributes: BTreeMap::new(),
        reputation: 10_000,
        uptime: 10_000,
        load: Load::default(),
        last_sequence: 0,
        last_heartbeat: Time::ZERO,
        registered_at: Time::ZERO,
        active_tasks: 0,
        rewards: 0,
        storage_offered: if key == OWNER { 0 } else { ROOM },
        storage_used: 0,
        storage_epoch: 0,
    }
}

/// A mesh of nodes with keepers. What they want of the ledger is done at once; fetches succeed unless a node is cut off.
struct Mesh {
    view: View,
    keepers: BTreeMap<NodeKey, Keeper>,
    now: Time,
    /// Nodes whose fetches fail.
    cut_off: Vec<NodeKey>,
    /// Nodes whose fetches bring nothing and don't end.
    stuck: Vec<NodeKey>,
    /// All steps so far, with who took them.
    steps: Vec<(NodeKey, Step)>,
}

impl Mesh {
    /// An owner without room and so many nodes with room for one object.
    fn new(count: u8) -> Self {
        let keys: Vec<NodeKey> = (1..=count).map(|seed| NodeKey([seed; 32])).collect();
        let mut view = View { time: Time(1_000), ..View::default() };
        for key in keys.iter().chain([&OWNER]) {
            view.nodes.insert(*key, node(*key));
        }
        let keepers = keys.iter().map(|key| (*key, keeper(*key, ROOM, &[]))).collect();
        Self { view, keepers, now: Time(1_000), cut_off: Vec::new(), stuck: Vec::new(), steps: Vec::new() }
    }

    fn ask(&mut self, name: &str, copies: u32) -> ObjectId {
        let object = Object {
            owner: OWNER,
            root: root(name),
            bytes: SIZE,
            copies,
            until: Time(u64::MAX),
            created_at: self.now,
            holders: Vec::new(),
        };
        let id = object.id();
        self.view.objects.insert(id, object);
        id
    }

    /// Who should hold an object, first to last.
    fn order(&self, id: &ObjectId) -> Vec<NodeKey> {
        rendezvous::rank(rendezvous::KEEPER, &[&OWNER.0, &id.name.0], self.keepers.keys().copied())
    }

    fn live(&self, id: &ObjectId) -> Vec<NodeKey> {
        super::keeper::holders(&self.view, &self.view.objects[id]).into_iter().collect()
    }

    /// A node's heartbeats stop, and the ledger says so.
    fn kill(&mut self, key: NodeKey) {
        self.keepers.remove(&key);
        let node = self.view.nodes.get_mut(&key).unwrap();
        (node.status, node.storage_used) = (NodeStatus::Offline, 0);
        node.storage_epoch += 1;
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + Duration::from_secs(1);
            for key in self.keepers.keys().copied().collect::<Vec<_>>() {
                self.turn(key);
            }
        }
    }

    fn turn(&mut self, key: NodeKey) {
        let mut keeper = self.keepers.remove(&key).unwrap();
        keeper.look(&self.view, self.now);
        while let Some(step) = keeper.poll_step() {
            self.steps.push((key, step.clone()));
            match step {
                Step::Offer(bytes) => {
                    self.view.nodes.get_mut(&key).unwrap().storage_offered = bytes;
                    keeper.offered(0, self.now);
                }
                Step::Fetch { .. } if self.stuck.contains(&key) => {}
                Step::Fetch { id, .. } => keeper.fetched(&id, !self.cut_off.contains(&key), self.now),
                Step::Cancel { id } => keeper.fetched(&id, false, self.now),
                Step::Pin { id, bytes, .. } => keeper.pinned(&id, bytes >= SIZE, self.now),
                Step::Say { id, .. } => {
                    self.hold(key, &id);
                    keeper.said(&id, self.now);
                }
                Step::Drop { id, .. } => {
                    let object = self.view.objects.get_mut(&id).unwrap();
                    object.holders.retain(|holder| holder.node != key);
                    self.view.nodes.get_mut(&key).unwrap().storage_used -= SIZE;
                    keeper.said(&id, self.now);
                }
                Step::Unpin { id, .. } => keeper.unpinned(&id, true),
            }
        }
        self.keepers.insert(key, keeper);
    }

    /// As the ledger does it: it refuses more holders than copies, and more than there is room for.
    fn hold(&mut self, key: NodeKey, id: &ObjectId) {
        let live = self.live(id);
        let Some(object) = self.view.objects.get_mut(id) else { return };
        let node = self.view.nodes.get_mut(&key).unwrap();
        let fits = node.storage_used + object.bytes <= node.storage_offered;
        if live.len() < object.copies as usize && !live.contains(&key) && fits {
            node.storage_used += object.bytes;
            object.holders.retain(|holder| live.contains(&holder.node));
            object.holders.push(Holder { node: key, epoch: node.storage_epoch });
        }
    }

    fn taken(&self, kind: fn(&Step) -> bool) -> Vec<NodeKey> {
        self.steps.iter().filter(|(_, step)| kind(step)).map(|(key, _)| *key).collect()
    }
}

fn is_fetch(step: &Step) -> bool {
    matches!(step, Step::Fetch { .. })
}

fn is_unpin(step: &Step) -> bool {
    matches!(step, Step::Unpin { .. })
}

fn sorted(keys: &[NodeKey]) -> Vec<NodeKey> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys
}

#[test]
fn the_first_nodes_in_line_fetch_pin_and_tell_and_nobody_else_does_anything() {
    let mut mesh = Mesh::new(6);
    let id = mesh.ask("model", 2);
    mesh.pass(5);
    let first = sorted(&mesh.order(&id)[..2]);
    assert_eq!(mesh.live(&id), first);
    assert_eq!(sorted(&mesh.taken(is_fetch)), first);
    let kinds: Vec<_> = mesh.steps.iter().filter(|(key, _)| *key == first[0]).map(|(_, step)| step).collect();
    assert!(matches!(kinds[..], [Step::Fetch { .. }, Step::Pin { .. }, Step::Say { .. }]), "{kinds:?}");
    let Step::Fetch { providers, .. } = kinds[0] else { unreachable!() };
    assert!(providers.contains(&OWNER));
    mesh.pass(3_600);
    assert_eq!(mesh.steps.len(), 6, "all is as it should be: nothing more is done");
}

#[test]
fn when_a_holder_dies_and_stays_away_the_next_in_line_repairs_from_those_that_are_left() {
    let mut mesh = Mesh::new(6);
    let id = mesh.ask("model", 2);
    mesh.pass(5);
    let order = mesh.order(&id);
    mesh.kill(order[0]);
    let before = mesh.steps.len();
    mesh.pass(COMES_BACK);
    assert_eq!(mesh.steps.len(), before, "it may come back");
    mesh.pass(3);
    assert_eq!(mesh.live(&id), sorted(&order[1..3]));
    let (who, Step::Fetch { providers, .. }) = &mesh.steps[before] else { panic!("{:?}", mesh.steps) };
    assert_eq!((*who, providers.contains(&order[1])), (order[2], true));
    // The owner may be gone too: a holder is left.
    mesh.kill(OWNER);
    mesh.kill(order[1]);
    mesh.pass(COMES_BACK + 3);
    assert_eq!(mesh.live(&id), sorted(&order[2..4]));
    // Of three copies one is left: nobody is waited for.
    mesh.view.objects.get_mut(&id).unwrap().copies = 3;
    mesh.pass(3);
    assert_eq!(mesh.live(&id).len(), 3);
    mesh.kill(order[2]);
    mesh.kill(order[3]);
    mesh.pass(3);
    assert_eq!(mesh.live(&id).len(), 2, "only two nodes are left");
}

#[test]
fn who_is_later_in_line_waits_for_those_before_and_then_does_it() {
    let mut mesh = Mesh::new(4);
    let id = mesh.ask("model", 1);
    let order = mesh.order(&id);
    mesh.stuck = vec![order[0]];
    mesh.pass(58);
    assert_eq!(mesh.taken(is_fetch), [order[0]]);
    mesh.pass(5);
    assert_eq!((mesh.taken(is_fetch), mesh.live(&id)), (order[..2].to_vec(), vec![order[1]]));
}

#[test]
fn a_fetch_that_fails_is_tried_again_ever_more_rarely() {
    let mut mesh = Mesh::new(1);
    let id = mesh.ask("model", 1);
    mesh.cut_off = vec![NodeKey([1; 32])];
    mesh.pass(7_200);
    let fetches = mesh.taken(is_fetch).len();
    // After 15, 30, 60, 120, 240, 480, 960 and 1,800 s, and again after 1,800.
    assert!((8..=11).contains(&fetches), "{fetches}");
    mesh.cut_off.clear();
    mesh.pass(1_801);
    assert_eq!(mesh.live(&id).len(), 1);
}

#[test]
fn nobody_takes_more_than_it_has_room_for() {
    let mut mesh = Mesh::new(2);
    let ids = ["a", "b", "c"].map(|name| mesh.ask(name, 1));
    mesh.pass(600);
    let held = ids.iter().filter(|id| !mesh.live(id).is_empty()).count();
    assert_eq!((held, mesh.taken(is_fetch).len()), (2, 2), "each node has room for one");
    assert!(mesh.view.nodes.values().all(|node| node.storage_used <= node.storage_offered));
}

#[test]
fn what_is_released_or_over_is_let_go_after_a_minute() {
    let mut mesh = Mesh::new(1);
    let id = mesh.ask("model", 1);
    mesh.pass(3);
    mesh.view.objects.remove(&id);
    mesh.view.nodes.get_mut(&NodeKey([1; 32])).unwrap().storage_used = 0;
    mesh.pass(58);
    assert!(mesh.taken(is_unpin).is_empty());
    mesh.pass(5);
    assert_eq!(mesh.taken(is_unpin).len(), 1);

    let id = mesh.ask("data", 1);
    mesh.pass(3);
    mesh.view.time = Time(50_000);
    mesh.view.objects.get_mut(&id).unwrap().until = Time(50_000);
    mesh.pass(65);
    assert_eq!(mesh.taken(is_unpin).len(), 2);
}

#[test]
fn a_node_that_was_away_tells_again_what_it_has_or_lets_it_go_if_others_took_its_place() {
    let mut mesh = Mesh::new(3);
    let id = mesh.ask("model", 1);
    mesh.pass(3);
    let [holder] = mesh.live(&id)[..] else { panic!("one holds it") };
    // It was gone for a moment, and nobody repaired it meanwhile: the process starts again with its pins.
    mesh.kill(holder);
    mesh.view.nodes.get_mut(&holder).unwrap().status = NodeStatus::Recovering;
    mesh.keepers.insert(holder, keeper(holder, ROOM, &[(OWNER, root("model"))]));
    let before = mesh.taken(is_fetch).len();
    mesh.turn(holder);
    assert_eq!((mesh.live(&id), mesh.taken(is_fetch).len()), (vec![holder], before));
    // It was gone for longer.
    mesh.kill(holder);
    mesh.pass(3);
    assert!(!mesh.live(&id).is_empty() && mesh.live(&id) != [holder]);
    mesh.view.nodes.get_mut(&holder).unwrap().status = NodeStatus::Recovering;
    mesh.keepers.insert(holder, keeper(holder, ROOM, &[(OWNER, root("model"))]));
    mesh.pass(65);
    assert_eq!(mesh.taken(is_unpin), [holder]);
}

#[test]
fn a_node_that_is_back_takes_nothing_new_before_it_let_go_what_others_took_over() {
    let mut mesh = Mesh::new(2);
    let taken_over = mesh.ask("model", 1);
    mesh.pass(3);
    let [holder] = mesh.live(&taken_over)[..] else { panic!("one holds it") };
    mesh.kill(holder);
    mesh.pass(3);
    let back = |mesh: &mut Mesh, kept: &str| {
        mesh.view.nodes.get_mut(&holder).unwrap().status = NodeStatus::Recovering;
        mesh.keepers.insert(holder, keeper(holder, ROOM, &[(OWNER, root(kept))]));
    };
    back(&mut mesh, "model");
    let wanted = mesh.ask("data", 1);
    mesh.pass(55);
    assert_eq!(mesh.live(&wanted), [], "both are more than it gives, and the other node is full");
    mesh.pass(10);
    assert_eq!((mesh.live(&wanted), mesh.taken(is_unpin)), (vec![holder], vec![holder]));

    // What it finds pinned was released while it was away, and nobody tells how large it is.
    mesh.kill(holder);
    mesh.pass(3);
    back(&mut mesh, "released");
    mesh.pass(55);
    assert_eq!(mesh.live(&wanted), []);
    mesh.pass(10);
    assert_eq!(mesh.live(&wanted), [holder]);
}

#[test]
fn a_node_without_the_content_that_the_ledger_counts_on_says_so_and_fetches_it_again() {
    let mut mesh = Mesh::new(2);
    let id = mesh.ask("model", 2);
    mesh.pass(3);
    let first = NodeKey([1; 32]);
    mesh.keepers.insert(first, keeper(first, ROOM, &[]));
    mesh.turn(first);
    assert_eq!(mesh.live(&id), [NodeKey([2; 32])], "its disk was lost");
    mesh.pass(20);
    assert_eq!(mesh.live(&id).len(), 2);
    // Part of it rotted, and nobody had it.
    mesh.keepers.get_mut(&first).unwrap().lost(root("model"));
    mesh.pass(2);
    assert_eq!(mesh.taken(|step| matches!(step, Step::Drop { .. })), [first, first]);
}

#[test]
fn an_operator_who_gives_less_room_gives_up_objects_one_by_one_and_keeps_them_until_others_have_them() {
    let mut mesh = Mesh::new(3);
    let ids = ["a", "b"].map(|name| mesh.ask(name, 1));
    mesh.pass(120);
    let holder = mesh.live(&ids[0])[0];
    let kept = ["a", "b"].iter().zip(&ids).filter(|(_, id)| mesh.live(id) == [holder]);
    let pins: Vec<_> = kept.map(|(name, _)| (OWNER, root(name))).collect();
    mesh.keepers.insert(holder, keeper(holder, SIZE - 1, &pins));
    mesh.pass(3);
    assert_eq!(mesh.view.nodes[&holder].storage_offered, SIZE - 1);
    assert_ne!(mesh.live(&ids[0]), [holder]);
    mesh.pass(130);
    assert!(ids.iter().all(|id| mesh.live(id).len() == 1 && mesh.live(id) != [holder]));
    assert!(mesh.taken(is_unpin).contains(&holder));
}

#[test]
fn an_owner_that_says_less_than_it_has_gets_nothing_kept() {
    let mut mesh = Mesh::new(1);
    let id = mesh.ask("model", 1);
    mesh.view.objects.get_mut(&id).unwrap().bytes = SIZE - 1;
    let key = NodeKey([1; 32]);
    mesh.stuck = vec![key];
    mesh.pass(1);
    // Twice a second a fetch tells what is here.
    let keeper = mesh.keepers.get_mut(&key).unwrap();
    keeper.progressed(&id, SIZE - 1);
    assert_eq!(keeper.poll_step(), None);
    keeper.progressed(&id, SIZE);
    assert_eq!(keeper.poll_step(), Some(Step::Cancel { id }));
    keeper.fetched(&id, false, mesh.now);
    mesh.stuck.clear();
    mesh.pass(60);
    assert_eq!(mesh.live(&id), [], "the disk looks at it once more before it is pinned");
    assert!(mesh.taken(is_fetch).len() <= 4);
}

#[test]
fn an_owner_keeps_its_own_copy_until_others_hold_it() {
    let mut mesh = Mesh::new(2);
    mesh.keepers.insert(OWNER, keeper(OWNER, 0, &[]));
    mesh.keepers.get_mut(&OWNER).unwrap().own(root("model"));
    mesh.pass(30);
    let id = mesh.ask("model", 2);
    mesh.cut_off = vec![NodeKey([1; 32])];
    mesh.pass(600);
    assert_eq!((mesh.live(&id).len(), mesh.taken(is_unpin)), (1, vec![]));
    mesh.cut_off.clear();
    mesh.pass(1_000);
    assert_eq!((mesh.live(&id).len(), mesh.taken(is_unpin)), (2, vec![OWNER]));
}

#[test]
fn a_ledger_that_refuses_the_offer_is_asked_again_after_minutes() {
    let mut keeper = keeper(OWNER, ROOM, &[]);
    let mut view = View::default();
    view.nodes.insert(OWNER, node(OWNER));
    let mut offers = 0;
    for second in 1..=600 {
        let now = Time::from_millis(second * 1_000);
        keeper.look(&view, now);
        while let Some(step) = keeper.poll_step() {
            assert_eq!(step, Step::Offer(ROOM));
            offers += 1;
            keeper.offered(Code::Malformed as u32, now);
        }
    }
    assert_eq!(offers, 2);
}

/// A node that died held very many; what each look costs is bounded, and the mesh comes round to all of them.
#[test]
fn very_many_objects_that_lack_a_holder_are_all_repaired_a_few_at_a_time() {
    let mut mesh = Mesh::new(4);
    for node in mesh.view.nodes.values_mut().filter(|node| node.id != OWNER) {
        node.storage_offered = u64::MAX / 4;
    }
    let keys: Vec<NodeKey> = mesh.keepers.keys().copied().collect();
    for key in &keys {
        mesh.keepers.insert(*key, keeper(*key, u64::MAX / 4, &[]));
    }
    let ids: Vec<ObjectId> = (0..300).map(|number| mesh.ask(&number.to_string(), 2)).collect();
    mesh.pass(1);
    assert!(mesh.taken(is_fetch).len() <= 16, "four at once each");
    mesh.pass(200);
    assert!(ids.iter().all(|id| mesh.live(id).len() == 2));
    mesh.kill(keys[0]);
    mesh.pass(200);
    assert!(ids.iter().all(|id| mesh.live(id).len() == 2));
}
