//! Storage: content that nodes keep for others, and who holds it now.
//!
//! An owner asks for copies of a DAG, nodes that offer room say that they hold it. What a node holds stands as (node, epoch)
//! in each object, and counts while that is the node's epoch: when a node goes offline its epoch grows, and all that it held
//! has lapsed, however much it was, without a look at any object. Who should hold what, and who repairs, nodes work out for
//! themselves from these records; nothing is assigned here.
//!
//! The ledger can't see a disk. It counts what nodes say, refuses what can't be, and never learns whether a holder still has the bytes.
//! Nobody is paid for room.

use super::{
    Event, Key,
    refusal::{Refusal, check_range, ensure},
    state::State,
    transaction::Context,
};
use crate::{
    chain::records::{Holder, Object, ObjectId},
    types::{ContentId, NodeKey, Time},
};

/// The most copies of an object. Each transaction about it looks at all its holders; and 16 nodes that fail one in ten times,
/// each for itself, all fail once in 10^16.
pub(super) const MAX_COPIES: u32 = 16;
/// The longest time in milliseconds for which an object is asked for at once, a leap year: who has gone for good blocks room
/// no longer. The owner may ask again.
pub(super) const MAX_KEEP_MILLIS: u64 = 366 * 24 * 3600 * 1000;
/// The most room in bytes that a node offers, and the largest object: 2^60, more than any has. Two of them can still be added.
pub(super) const MAX_BYTES: u64 = 1 << 60;
/// The most objects that one block ends; further ones wait for the next. So a block's cost is bounded however many are over
/// together.
const MAX_ENDED: usize = 1_000;
/// SHA2-256 in the table of multihashes: no other content can be fetched from a node.
const SHA2_256: u64 = 0x12;

/// What an owner asks for.
pub(super) struct Wish {
    pub(super) root: ContentId,
    pub(super) bytes: u64,
    pub(super) copies: u32,
    pub(super) until: Time,
}

/// A node says how much room it has for others. Less than it uses takes nothing away, and nothing more is added.
pub(super) fn offer(state: &mut State, context: &Context, bytes: u64) -> Result<Vec<u8>, Refusal> {
    check_range("bytes", bytes, 0, MAX_BYTES)?;
    let node = context.creator;
    state.known_node(&node)?;
    if bytes == 0 {
        lapse(state, &node);
    }
    state.edit_node(&node, |node| node.storage_offered = bytes);
    state.emit(Event::new("storage_offered").with("node_id", node).with("bytes", bytes));
    Ok(Vec::new())
}

/// All that a node held, it holds no longer.
pub(super) fn lapse(state: &mut State, node: &NodeKey) {
    // Who uses nothing holds nothing: an object has at least one byte.
    if state.node(node).is_some_and(|node| node.storage_used > 0) {
        state.edit_node(node, |node| {
            node.storage_epoch += 1;
            node.storage_used = 0;
        });
    }
}

/// An owner asks for copies, or changes what it asked for.
pub(super) fn keep(state: &mut State, context: &Context, wish: &Wish) -> Result<Vec<u8>, Refusal> {
    let now = state.clock().time;
    check_wish(wish, now)?;
    let owner = context.creator;
    let id = ObjectId::of(owner, &wish.root);
    let object = match state.object(&id).cloned() {
        Some(object) => {
            ensure(object.bytes == wish.bytes, || {
                let kept = object.bytes;
                Refusal::conflict(format!("this is kept with {kept} bytes, not {}; release it first", wish.bytes))
            })?;
            trim(state, object, wish.copies)
        }
        None => {
            let most = state.parameters().max_objects;
            ensure(state.index().objects_of(&owner) < most, || {
                Refusal::conflict(format!("{most} objects are kept for this account, the most; release one first"))
            })?;
            Object {
                owner,
                root: wish.root,
                bytes: wish.bytes,
                copies: wish.copies,
                until: wish.until,
                created_at: now,
                holders: Vec::new(),
            }
        }
    };
    state.put_object(&id, Object { copies: wish.copies, until: wish.until, ..object });
    let event = event("object_kept", &owner, &wish.root).with("bytes", wish.bytes).with("copies", wish.copies);
    state.emit(event.with("until", wish.until.as_millis()));
    Ok(Vec::new())
}

fn check_wish(wish: &Wish, now: Time) -> Result<(), Refusal> {
    check_range("bytes", wish.bytes, 1, MAX_BYTES)?;
    check_range("copies", wish.copies, 1, MAX_COPIES)?;
    let hash = wish.root.0.hash();
    ensure(hash.code() == SHA2_256 && hash.size() == 32, || {
        Refusal::invalid("`root` is no CID with a SHA2-256 hash: nobody could fetch it")
    })?;
    let (first, last) = (now.as_millis().saturating_add(1), now.as_millis().saturating_add(MAX_KEEP_MILLIS));
    check_range("until", wish.until.as_millis(), first, last)
}

/// The object without lapsed holders, and with at most so many others: those that came last go.
fn trim(state: &mut State, mut object: Object, copies: u32) -> Object {
    prune(state, &mut object);
    while object.holders.len() > usize::try_from(copies).unwrap_or(usize::MAX)
        && let Some(holder) = object.holders.pop()
    {
        give_back(state, &holder.node, object.bytes);
    }
    object
}

/// Forgets the holders that hold it no longer.
fn prune(state: &State, object: &mut Object) {
    object.holders.retain(|holder| holder.is_live(state.node(&holder.node)));
}

/// The object as it is now: without the holders that hold it no longer.
fn present(state: &State, id: &ObjectId) -> Result<Object, Refusal> {
    let mut object = state.known_object(id)?.clone();
    prune(state, &mut object);
    Ok(object)
}

/// A live holder's room is free again.
fn give_back(state: &mut State, node: &NodeKey, bytes: u64) {
    state.edit_node(node, |node| node.storage_used -= bytes);
}

/// A node says that it holds an object.
pub(super) fn hold(
    state: &mut State,
    context: &Context,
    owner: &NodeKey,
    root: &ContentId,
) -> Result<Vec<u8>, Refusal> {
    let id = ObjectId::of(*owner, root);
    let mut object = present(state, &id)?;
    ensure(object.until > state.clock().time, || Refusal::stale("this object is over; nobody holds it any more"))?;
    check_holder(state, &context.creator, &object)?;
    let epoch = state.edit_node(&context.creator, |node| {
        node.storage_used += object.bytes;
        node.storage_epoch
    });
    object.holders.push(Holder { node: context.creator, epoch });
    state.put_object(&id, object);
    state.emit(event("object_held", owner, root).with("node_id", context.creator));
    Ok(Vec::new())
}

/// Whether a node may become a holder of an object that has only live ones.
fn check_holder(state: &State, creator: &NodeKey, object: &Object) -> Result<(), Refusal> {
    let node = state.known_node(creator)?;
    let online = state.node_clock(creator).is_some_and(|clock| clock.online_since.is_some());
    ensure(online, || Refusal::unauthorized("an offline node holds nothing; send a beat first"))?;
    ensure(object.owner != *creator, || {
        Refusal::unauthorized("the owner's own copy is none that others keep; another node must hold it")
    })?;
    ensure(object.holders.iter().all(|holder| holder.node != *creator), || {
        Refusal::conflict("this node holds it already")
    })?;
    let copies = object.copies;
    ensure(object.holders.len() < usize::try_from(copies).unwrap_or(usize::MAX), || {
        Refusal::conflict(format!("{copies} nodes hold it, as many as its owner asked for"))
    })?;
    let (offered, used) = (node.storage_offered, node.storage_used);
    ensure(used.saturating_add(object.bytes) <= offered, || {
        let bytes = object.bytes;
        Refusal::conflict(format!("{bytes} bytes do not fit: the node offers {offered}, {used} are used; offer more"))
    })
}

/// A node gives up what it holds.
pub(super) fn drop_held(
    state: &mut State,
    context: &Context,
    owner: &NodeKey,
    root: &ContentId,
) -> Result<Vec<u8>, Refusal> {
    let id = ObjectId::of(*owner, root);
    let mut object = present(state, &id)?;
    let before = object.holders.len();
    object.holders.retain(|holder| holder.node != context.creator);
    ensure(object.holders.len() < before, || Refusal::not_found("this node does not hold it"))?;
    give_back(state, &context.creator, object.bytes);
    state.put_object(&id, object);
    state.emit(event("object_dropped", owner, root).with("node_id", context.creator));
    Ok(Vec::new())
}

/// An owner asks for an object no more.
pub(super) fn release(state: &mut State, context: &Context, root: &ContentId) -> Result<Vec<u8>, Refusal> {
    let id = ObjectId::of(context.creator, root);
    state.known_object(&id)?;
    end(state, &id, "object_released");
    Ok(Vec::new())
}

/// Ends what is asked for no longer, the longest over first.
pub(super) fn end_over(state: &mut State) {
    for _ in 0..MAX_ENDED {
        let over = state.index().next_object_over().filter(|(until, _)| *until <= state.clock().time);
        let Some((_, id)) = over else { return };
        end(state, &id, "object_over");
    }
}

fn end(state: &mut State, id: &ObjectId, kind: &str) {
    let Ok(object) = present(state, id) else { return };
    state.remove(&Key::Object(*id));
    object.holders.iter().for_each(|holder| give_back(state, &holder.node, object.bytes));
    state.emit(event(kind, &object.owner, &object.root));
}

fn event(kind: &str, owner: &NodeKey, root: &ContentId) -> Event {
    Event::new(kind).with("owner", owner).with("root", root)
}
