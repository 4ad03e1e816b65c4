//! What this node should keep for others, decided from what the ledger has committed and from what is pinned here.
//!
//! Nobody assigns anything. Of an object that lacks holders each node works out the same order of those with room, the first
//! of them fetch it, and who comes later waits for them to fail. The ledger alone says who holds it: so two that are wrong about
//! the order cost a fetch, and nothing else. A step that fails is taken again after a while, for as long as it is missing.
//!
//! It never fetches, pins or sends by itself: [`Step`]s come out, and each comes back as what became of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    chain::{
        records::{Node, Object, ObjectId},
        wire::Code,
    },
    node::coordinator::view::View,
    types::{ContentId, NodeKey, NodeStatus, Time, doubled, rendezvous},
};

/// From one look at the objects to the next: a repair begins a second after the ledger shows that one is needed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Objects looked at in one look; the next goes on behind them. A node that dies may leave a hundred thousand that lack it.
const MAX_LOOKED: usize = 2_000;
/// Orders of nodes worked out in one look: with a thousand nodes, 32,000 hashes or some 10 ms of the event loop.
const MAX_RANKED: usize = 32;
/// Objects that are fetched at once. More would share one line.
const MAX_FETCHING: usize = 4;
/// Objects that the ledger is told of at once, and so in a second: fewer than the 600 transactions of a node's work that
/// cost nothing in a minute.
const MAX_TELLING: usize = 8;
/// How long those who are first in line have, before the fetch itself: two beats and a few blocks. A guess.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes a second that they have time for: what a slow home line takes, 8 Mbit/s. A guess.
const SLOWEST: u64 = 1024 * 1024;
/// Nobody waits for more than this many before it.
const LAST_TURN: u64 = 64;
/// The first pause after a fetch that failed; it doubles each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1_800);
/// What was said to the ledger is not said again for so long: it is on its way, or was refused for a reason that passes.
const SAY_AGAIN: Duration = Duration::from_secs(15);
/// A ledger that refuses the offer is made it again after this long: it may have no storage, and get it by a vote.
const OFFER_AGAIN: Duration = Duration::from_secs(300);
/// What nobody wants here any more stays so long: an order that was just given may not be in a block.
const LET_GO_AFTER: Duration = Duration::from_secs(60);
/// What is wanted, but by nobody who would count this node, stays so long: others fetch it from here meanwhile.
const LINGER: Duration = Duration::from_secs(3_600);

/// What should be done next. Each is answered by the method of [`Keeper`] that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node::coordinator) enum Step {
    /// Offer this much room: [`Keeper::offered`].
    Offer(u64),
    /// Bring an object here: [`Keeper::fetched`].
    Fetch { id: ObjectId, root: ContentId, providers: Vec<NodeKey> },
    /// More came than its owner said: end its fetch. It is answered as the fetch is.
    Cancel { id: ObjectId },
    /// Make sure that it is whole and at most so large, and pin it: [`Keeper::pinned`].
    Pin { id: ObjectId, root: ContentId, bytes: u64 },
    /// Tell the ledger that it is here: [`Keeper::said`].
    Say { id: ObjectId, root: ContentId },
    /// Tell the ledger that it is given up: [`Keeper::said`].
    Drop { id: ObjectId, root: ContentId },
    /// Keep it no longer: [`Keeper::unpinned`].
    Unpin { id: ObjectId, root: ContentId },
}

/// What is under way for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Fetching,
    Pinning,
    Telling,
    Unpinning,
}

/// An object that is whole and pinned here.
#[derive(Clone, Debug)]
struct Pin {
    root: ContentId,
    /// Bytes that it takes at most; `None` until the ledger tells of an object that was found pinned at the start.
    bytes: Option<u64>,
    /// Since when nobody wants it here.
    unwanted_since: Option<Time>,
    /// The ledger was told of it then.
    told_at: Option<Time>,
}

/// An object that lacks holders and is not here.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// How many it lacked, since when.
    missing: usize,
    since: Time,
    /// Fetches that failed in a row, and when the next may begin.
    failures: u32,
    again: Time,
}

/// What is under way for an object, and what it takes.
#[derive(Clone, Copy, Debug)]
struct Job {
    doing: Doing,
    root: ContentId,
    bytes: u64,
}

/// What this node keeps for others.
#[derive(Debug)]
pub(in crate::node::coordinator) struct Keeper {
    me: NodeKey,
    /// Bytes of room that its operator gives.
    room: u64,
    /// How long a holder that went offline is waited for, while half of the copies are there.
    comes_back: Duration,
    pins: BTreeMap<ObjectId, Pin>,
    jobs: BTreeMap<ObjectId, Job>,
    waits: BTreeMap<ObjectId, Wait>,
    steps: VecDeque<Step>,
    offering: bool,
    offer_again: Time,
    looked_at: Option<Time>,
    /// Bytes that lay here for others at the last look, and that the ledger does not count.
    uncounted: u64,
    /// The last object of the last look.
    cursor: Option<ObjectId>,
}

/// An object as this node sees it.
struct Sight<'a> {
    object: &'a Object,
    live: BTreeSet<NodeKey>,
    /// Holders that it lacks.
    missing: usize,
}

impl Keeper {
    /// A keeper that finds these objects pinned, by owner and root.
    pub(in crate::node::coordinator) fn new(
        me: NodeKey,
        room: u64,
        comes_back: Duration,
        kept: &[(NodeKey, ContentId)],
    ) -> Self {
        let pin = |(owner, root): &(NodeKey, ContentId)| (ObjectId::of(*owner, root), Pin::new(*root, None));
        Self {
            me,
            room,
            comes_back,
            pins: kept.iter().map(pin).collect(),
            jobs: BTreeMap::new(),
            waits: BTreeMap::new(),
            steps: VecDeque::new(),
            offering: false,
            offer_again: Time::ZERO,
            looked_at: None,
            uncounted: 0,
            cursor: None,
        }
    }

    /// The next thing to do.
    pub(in crate::node::coordinator) fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    /// Bytes of room that the operator gives.
    pub(in crate::node::coordinator) fn room(&self) -> u64 {
        self.room
    }

    /// Compares what the ledger has committed with what is here. The view must be current.
    pub(in crate::node::coordinator) fn look(&mut self, view: &View, now: Time) {
        if self.looked_at.is_some_and(|at| now.since(at) < LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(now);
        let Some(own) = view.nodes.get(&self.me).filter(|node| node.status != NodeStatus::Offline) else { return };
        if own.storage_offered != self.room && !self.offering && now >= self.offer_again {
            self.offering = true;
            self.steps.push_back(Step::Offer(self.room));
        }
        for id in self.pins.keys().copied().collect::<Vec<_>>() {
            self.look_at_pin(view, own, id, now);
        }
        self.uncounted = self.uncounted(view);
        self.look_at_objects(view, own, now);
        self.waits.retain(|id, _| view.objects.contains_key(id));
    }

    /// The ledger took the offer, or not.
    pub(in crate::node::coordinator) fn offered(&mut self, code: u32, now: Time) {
        self.offering = false;
        // What was committed shows in the next changes.
        self.offer_again = now + if code == 0 { SAY_AGAIN } else { OFFER_AGAIN };
    }

    /// More of an object came.
    pub(in crate::node::coordinator) fn progressed(&mut self, id: &ObjectId, bytes: u64) {
        if self.jobs.get(id).is_some_and(|job| job.doing == Doing::Fetching && bytes > job.bytes) {
            self.steps.push_back(Step::Cancel { id: *id });
        }
    }

    /// A fetch ended; true if all of it is here.
    pub(in crate::node::coordinator) fn fetched(&mut self, id: &ObjectId, whole: bool, now: Time) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if whole {
            job.doing = Doing::Pinning;
            self.steps.push_back(Step::Pin { id: *id, root: job.root, bytes: job.bytes });
        } else {
            self.jobs.remove(id);
            self.fail(id, now);
        }
    }

    /// The disk looked at an object; true if it is whole, no larger than it may be, and pinned.
    pub(in crate::node::coordinator) fn pinned(&mut self, id: &ObjectId, done: bool, now: Time) {
        let Some(job) = self.jobs.remove(id) else { return };
        if done {
            self.waits.remove(id);
            self.pins.insert(*id, Pin::new(job.root, Some(job.bytes)));
            self.looked_at = None;
        } else {
            self.fail(id, now);
        }
    }

    /// This node's own object was pinned here, until others hold it.
    pub(in crate::node::coordinator) fn own(&mut self, root: ContentId) {
        self.pins.insert(ObjectId::of(self.me, &root), Pin::new(root, None));
    }

    /// The ledger was told of an object.
    pub(in crate::node::coordinator) fn said(&mut self, id: &ObjectId, now: Time) {
        self.jobs.remove(id);
        match self.pins.get_mut(id) {
            Some(pin) => pin.told_at = Some(now),
            None => self.waits.entry(*id).or_default().again = now + SAY_AGAIN,
        }
    }

    /// An object is kept here no longer, unless the disk failed.
    pub(in crate::node::coordinator) fn unpinned(&mut self, id: &ObjectId, done: bool) {
        self.jobs.remove(id);
        if done {
            self.pins.remove(id);
        }
    }

    /// The disk lost part of this content, and nobody has it: others must not count on it.
    pub(in crate::node::coordinator) fn lost(&mut self, root: ContentId) {
        let lost = self.pins.iter().filter(|(id, pin)| pin.root == root && !self.jobs.contains_key(id));
        for id in lost.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.begin(id, root, 0, Doing::Unpinning, Step::Unpin { id, root });
        }
    }

    fn look_at_pin(&mut self, view: &View, own: &Node, id: ObjectId, now: Time) {
        let Some(pin) = self.pins.get(&id).filter(|_| !self.jobs.contains_key(&id)) else { return };
        let (root, told_at) = (pin.root, pin.told_at);
        let silent = told_at.is_none_or(|at| now.since(at) >= SAY_AGAIN);
        let sight = sight(view, &id);
        let stays = match &sight {
            None => Some(LET_GO_AFTER),
            Some(sight) if sight.object.owner == self.me => (sight.missing == 0).then_some(LET_GO_AFTER),
            Some(sight) if sight.live.contains(&self.me) => {
                if own.storage_used > self.room && silent && self.count(&[Doing::Telling]) == 0 {
                    // One at a time: the room that it frees shows only when the ledger says so.
                    self.begin(id, root, 0, Doing::Telling, Step::Drop { id, root });
                }
                None
            }
            Some(sight) if sight.missing == 0 => Some(LET_GO_AFTER),
            Some(sight) if self.has_room(own, sight.object.bytes) => {
                if silent && self.count(&[Doing::Telling]) < MAX_TELLING {
                    self.begin(id, root, sight.object.bytes, Doing::Telling, Step::Say { id, root });
                }
                None
            }
            Some(_) => Some(LINGER),
        };
        let Some(pin) = self.pins.get_mut(&id) else { return };
        pin.bytes = sight.as_ref().map(|sight| sight.object.bytes).or(pin.bytes);
        let Some(stays) = stays else {
            pin.unwanted_since = None;
            return;
        };
        let since = *pin.unwanted_since.get_or_insert(now);
        if now.since(since) >= stays && !self.jobs.contains_key(&id) {
            self.begin(id, root, 0, Doing::Unpinning, Step::Unpin { id, root });
        }
    }

    fn count(&self, kinds: &[Doing]) -> usize {
        self.jobs.values().filter(|job| kinds.contains(&job.doing)).count()
    }

    /// The objects behind the last one that was looked at, in a circle.
    fn look_at_objects(&mut self, view: &View, own: &Node, now: Time) {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let cursor = self.cursor;
        let behind = view.objects.range((cursor.map_or(Unbounded, Excluded), Unbounded));
        let before = cursor.map(|cursor| view.objects.range((Unbounded, Included(cursor))));
        let mut ranked = 0;
        for (id, _) in behind.chain(before.into_iter().flatten()).take(MAX_LOOKED) {
            if ranked == MAX_RANKED || self.count(&[Doing::Fetching, Doing::Pinning]) >= MAX_FETCHING {
                return;
            }
            self.cursor = Some(*id);
            if !self.pins.contains_key(id) && !self.jobs.contains_key(id) {
                ranked += usize::from(self.look_at_missing(view, own, *id, now));
            }
        }
    }

    /// Looks at an object that is not pinned here. True if the order of nodes was worked out.
    fn look_at_missing(&mut self, view: &View, own: &Node, id: ObjectId, now: Time) -> bool {
        let Some(sight) = sight(view, &id) else { return false };
        let (root, bytes) = (sight.object.root, sight.object.bytes);
        let wait = self.waits.get(&id).copied().unwrap_or_default();
        if sight.live.contains(&self.me) {
            // The ledger counts on a copy that is not here: the disk was lost.
            if now >= wait.again && self.count(&[Doing::Telling]) < MAX_TELLING {
                self.begin(id, root, 0, Doing::Telling, Step::Drop { id, root });
            }
            return false;
        }
        if sight.missing == 0 || sight.object.owner == self.me {
            self.waits.remove(&id);
            return false;
        }
        let since = if wait.missing == sight.missing { wait.since } else { now };
        self.waits.insert(id, Wait { missing: sight.missing, since, ..wait });
        if now < wait.again || !self.has_room(own, bytes.saturating_add(self.uncounted)) {
            return false;
        }
        let turn = turn(view, &sight, own);
        let patience = PATIENCE + Duration::from_secs(bytes / SLOWEST);
        let first = if sight.may_come_back() { self.comes_back } else { Duration::ZERO };
        if now.since(since) >= first + patience.saturating_mul(turn) {
            let providers = sight.live.iter().copied().chain([sight.object.owner]).collect();
            self.begin(id, root, bytes, Doing::Fetching, Step::Fetch { id, root, providers });
        }
        true
    }

    /// Whether so much fits beside what the ledger counts and what is on its way.
    fn has_room(&self, own: &Node, bytes: u64) -> bool {
        let coming: u64 = self.jobs.values().map(|job| job.bytes).fold(0, u64::saturating_add);
        let taken = own.storage_used.saturating_add(coming).saturating_add(bytes);
        taken <= self.room.min(own.storage_offered)
    }

    /// What lies here for others and is not let go, or not told, yet. As long as the size of any of it is not known, it may be
    /// all that there is room for.
    fn uncounted(&self, view: &View) -> u64 {
        let counted = |id: &ObjectId| {
            let mut holders = view.objects.get(id).into_iter().flat_map(|object| &object.holders);
            holders.any(|holder| holder.node == self.me && holder.is_live(view.nodes.get(&self.me)))
        };
        // What is being told stands among what is on its way.
        let coming = |id: &ObjectId| self.jobs.get(id).is_some_and(|job| job.bytes > 0);
        let here = self.pins.iter().filter(|(id, _)| id.owner != self.me && !coming(id) && !counted(id));
        here.map(|(_, pin)| pin.bytes.unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }

    fn begin(&mut self, id: ObjectId, root: ContentId, bytes: u64, doing: Doing, step: Step) {
        self.jobs.insert(id, Job { doing, root, bytes });
        self.steps.push_back(step);
    }

    fn fail(&mut self, id: &ObjectId, now: Time) {
        let wait = self.waits.entry(*id).or_default();
        let pause = doubled(FIRST_PAUSE, wait.failures, LONGEST_PAUSE);
        wait.failures = wait.failures.saturating_add(1);
        wait.again = now + pause;
    }
}

impl Sight<'_> {
    /// A holder went offline and would have all of it when it is back: a machine that starts again must not cost the mesh a
    /// copy of its disk. Where fewer than half of the copies are left, nobody is waited for.
    fn may_come_back(&self) -> bool {
        let lapsed = self.object.holders.len() > self.live.len();
        lapsed && self.live.len() >= self.missing
    }
}

impl Pin {
    fn new(root: ContentId, bytes: Option<u64>) -> Self {
        Self { root, bytes, unwanted_since: None, told_at: None }
    }
}

/// Whether a refusal says that the ledger does not have the object.
pub(in crate::node::coordinator) fn is_unknown(code: u32) -> bool {
    code == Code::NotFound as u32 || code == Code::Stale as u32
}

/// Who holds an object now.
pub(in crate::node::coordinator) fn holders(view: &View, object: &Object) -> BTreeSet<NodeKey> {
    object.live(|node| view.nodes.get(node)).collect()
}

/// The object, unless it is over or unknown.
fn sight<'a>(view: &'a View, id: &ObjectId) -> Option<Sight<'a>> {
    let object = view.objects.get(id).filter(|object| object.until > view.time)?;
    let live = holders(view, object);
    let missing = usize::try_from(object.copies).unwrap_or(usize::MAX).saturating_sub(live.len());
    Some(Sight { object, live, missing })
}

/// How many times others' patience this node waits: 0 for those who are first, as many as the object lacks.
fn turn(view: &View, sight: &Sight<'_>, own: &Node) -> u32 {
    let object = sight.object;
    let name = ObjectId::name_of(&object.root);
    let score = |node: &NodeKey| rendezvous::score(rendezvous::KEEPER, &[&object.owner.0, &name.0], node);
    let mine = (score(&own.id), own.id);
    let candidate = |node: &&Node| {
        let room = node.storage_offered.saturating_sub(node.storage_used) >= object.bytes;
        room && node.status != NodeStatus::Offline && node.id != object.owner && !sight.live.contains(&node.id)
    };
    let others = view.nodes.values().filter(candidate).filter(|node| node.id != own.id);
    let before = others.filter(|node| (score(&node.id), node.id) > mine).count();
    let turn = if before < sight.missing { 0 } else { before - sight.missing + 1 };
    u32::try_from((turn as u64).min(LAST_TURN)).unwrap_or(u32::MAX)
}
