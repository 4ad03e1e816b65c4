//! Keeping content for others, and having others keep it: what the [`Keeper`] decides becomes fetches, pins and
//! transactions on the configured ledger, and their answers go back to it.
//!
//! It acts only while that ledger answers and was read to its end: what is not known can't be missing.

mod keeper;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub(super) use keeper::Keeper;

use self::keeper::{Step, holders, is_unknown};
use super::{Coordinator, Output, Pending, gather::Next, gather::Purpose};
use crate::{
    api::{self, ErrorCode, views::peer_text},
    chain::{
        records::{Object, ObjectId},
        wire::Message,
    },
    node::edges,
    types::{ContentId, NodeStatus},
};

/// Objects in a list for a person: this node's own and those that it holds come first.
const MAX_LISTED: usize = 1_000;

impl Coordinator {
    /// Looks at what is missing, and does it.
    pub(super) fn tend_storage(&mut self) {
        let Some(state) = self.ledgers.get(&self.config.ledger) else { return };
        if state.read && state.connected && self.stopping.is_none() {
            self.keeper.look(&state.view, self.now);
        }
        self.take_steps();
    }

    fn take_steps(&mut self) {
        while let Some(step) = self.keeper.poll_step() {
            self.take_step(step);
        }
    }

    fn take_step(&mut self, step: Step) {
        let ledger = self.config.ledger.clone();
        match step {
            Step::Offer(bytes) => {
                self.submit(&ledger, Message::OfferStorage { bytes }, false, Pending::StorageOffer);
            }
            Step::Fetch { id, root, providers } => {
                tracing::info!(%root, owner = %peer_text(&id.owner), "fetching, to keep it for its owner");
                let peers = self.peers_to_ask(providers.into_iter().collect());
                self.gather(&[(root, Purpose::Content)], &peers, Next::Store(id));
            }
            Step::Cancel { id } => self.cancel_store(&id),
            Step::Pin { id, root, bytes } => {
                let request = edges::Request::Keep { owner: id.owner, root, most: bytes };
                self.edge(request, Pending::StoragePin { id });
            }
            Step::Say { id, root } => {
                // Others that look for it find it here from now on.
                self.output(Output::Provide(root));
                let message = Message::Held { owner: id.owner, root };
                self.submit(&ledger, message, false, Pending::StorageTold { id });
            }
            Step::Drop { id, root } => {
                let message = Message::Dropped { owner: id.owner, root };
                self.submit(&ledger, message, false, Pending::StorageTold { id });
            }
            Step::Unpin { id, root } => {
                self.edge(edges::Request::LetGo { owner: id.owner, root }, Pending::StorageUnpin { id });
            }
        }
    }

    pub(super) fn on_room_offered(&mut self, code: u32, log: &str) {
        if code != 0 {
            let room = self.keeper.room();
            tracing::warn!(room, log, "the ledger did not take the offer of room for others' content");
        }
        self.keeper.offered(code, self.now);
    }

    pub(super) fn on_object_progress(&mut self, id: &ObjectId, bytes: u64) {
        self.keeper.progressed(id, bytes);
        self.take_steps();
    }

    pub(super) fn on_object_fetched(&mut self, id: &ObjectId, failure: Option<&str>) {
        if let Some(reason) = failure {
            tracing::info!(owner = %peer_text(&id.owner), reason, "what should be kept could not be fetched; it is tried again");
        }
        self.keeper.fetched(id, failure.is_none(), self.now);
        self.take_steps();
    }

    pub(super) fn on_object_pinned(&mut self, id: &ObjectId, result: Result<u64, String>) {
        if let Err(reason) = &result {
            tracing::warn!(owner = %peer_text(&id.owner), reason, "what should be kept is not kept");
        }
        self.keeper.pinned(id, result.is_ok(), self.now);
        self.tend_storage();
    }

    pub(super) fn on_object_told(&mut self, id: &ObjectId, code: u32, log: &str) {
        if code != 0 {
            tracing::info!(owner = %peer_text(&id.owner), log, "the ledger does not count what is kept here");
        }
        if is_unknown(code)
            && let Some(state) = self.ledgers.get_mut(&self.config.ledger)
        {
            // It was released while this node was away for longer than the ledger remembers.
            state.view.objects.remove(id);
        }
        self.keeper.said(id, self.now);
    }

    pub(super) fn on_object_let_go(&mut self, id: &ObjectId, result: Result<(), String>) {
        if let Err(reason) = &result {
            tracing::warn!(owner = %peer_text(&id.owner), reason, "what nobody wants kept could not be let go");
        }
        self.keeper.unpinned(id, result.is_ok());
    }

    /// The disk lost part of this, and nobody has it.
    pub(super) fn on_object_lost(&mut self, root: ContentId) {
        self.keeper.lost(root);
        self.take_steps();
    }

    /// A person wants others to keep content: it is brought here first, if it is not.
    pub(super) fn on_keep_asked(&mut self, command: u64, request: api::StorageKeep) {
        if !self.ledgers.get(&self.config.ledger).is_some_and(|state| state.connected) {
            return self.ledger_is_away(command);
        }
        let peers = self.peers_to_ask(Default::default());
        self.gather(&[(request.cid, Purpose::Content)], &peers, Next::Keep { command, request });
    }

    /// It is here, and must stay until others hold it.
    pub(super) fn pin_own_object(&mut self, command: u64, request: api::StorageKeep) {
        let pin = edges::Request::Keep { owner: self.me, root: request.cid, most: u64::MAX };
        self.edge(pin, Pending::StorageKeep { command, request });
    }

    /// It is pinned here: others may be asked.
    pub(super) fn ask_to_keep(&mut self, command: u64, request: &api::StorageKeep, pinned: Result<u64, String>) {
        let api::StorageKeep { cid, copies, seconds } = *request;
        let bytes = match pinned {
            Ok(bytes) => bytes,
            Err(reason) => {
                let message = format!("the content is not whole here: {reason}");
                return self.reply_error(command, ErrorCode::NotFound, message);
            }
        };
        self.keeper.own(cid);
        let until = self.now + Duration::from_secs(seconds);
        let done = format!("asked that {copies} nodes keep {cid}; `atlas-node storage ls` shows who does");
        self.order_of_ledger(command, Message::Keep { root: cid, bytes, copies, until }, done);
    }

    pub(super) fn on_release_asked(&mut self, command: u64, request: &api::StorageRelease) {
        let done = format!("nobody is asked any more to keep {}", request.cid);
        self.order_of_ledger(command, Message::Release { root: request.cid }, done);
    }

    pub(super) fn objects_reply(&self) -> Vec<api::StoredObject> {
        let Some(state) = self.ledgers.get(&self.config.ledger) else { return Vec::new() };
        let shown = |object: &Object| api::StoredObject {
            cid: object.root,
            owner: peer_text(&object.owner),
            bytes: object.bytes,
            copies: object.copies,
            holders: holders(&state.view, object).iter().map(peer_text).collect(),
            until: object.until,
            created_at: object.created_at,
        };
        let concerns_me = |object: &&Object| object.owner == self.me || holders(&state.view, object).contains(&self.me);
        let (mine, others): (Vec<&Object>, Vec<&Object>) = state.view.objects.values().partition(concerns_me);
        mine.into_iter().chain(others).take(MAX_LISTED).map(shown).collect()
    }

    /// What this node's record says, which is what others go by.
    pub(super) fn storage_status(&self) -> api::StorageStatus {
        let state = self.ledgers.get(&self.config.ledger);
        let node = state.and_then(|state| state.view.nodes.get(&self.me));
        let counted = node.filter(|node| node.status != NodeStatus::Offline);
        api::StorageStatus {
            room: self.keeper.room(),
            offered: node.map_or(0, |node| node.storage_offered),
            used: counted.map_or(0, |node| node.storage_used),
        }
    }
}
