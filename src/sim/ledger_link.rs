//! What travels between nodes and the ledger.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::{
    Plant,
    chain::{GROUP_COMMIT, IDLE_BLOCK},
    client::{Client, Step},
    edges,
    fault::Lie,
    invariant::{Watch, supply::Money},
    world::{Delivery, Happening, World},
};
use crate::{
    chain::{
        client::Event,
        ledger::TransactionResult,
        records::Changes,
        wire::{Message, Transaction},
    },
    codec,
    node::{
        coordinator::Input,
        edges::{Answer, Request},
    },
    types::{Digest, Signed, TaskStatus},
};

/// A ledger that does not answer is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a block changed, as it travels.
#[derive(Debug)]
pub(super) struct Page {
    /// The height that they follow on.
    pub(super) after: u64,
    pub(super) changes: Changes,
    /// Of their encoding.
    pub(super) digest: Digest,
}

/// What a node asks of the ledger.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    ReadNonce,
    Submit { key: u64, bytes: Vec<u8> },
}

impl World {
    /// Sends what a node's client wants to be sent.
    pub(super) fn drain_client(&mut self, index: usize) {
        let life = self.machines[index].life;
        while let Some(step) = self.machines[index].node.as_mut().and_then(|node| node.client.poll()) {
            let what = match step {
                Step::ReadNonce => Ask::ReadNonce,
                Step::Send { key, bytes } => Ask::Submit { key, bytes },
            };
            let copies = 1 + usize::from(self.loss.happens(self.scenario.network.duplicate_permille));
            for _ in 0..copies {
                let at = self.now + self.one_way();
                let Some(node) = &mut self.machines[index].node else { return };
                node.asked = node.asked.max(at);
                let at = node.asked;
                self.at(at, Happening::AtLedger { machine: index, life, what: what.clone() });
            }
        }
    }

    pub(super) fn with_client(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Client, &mut super::client::Journal) -> Option<Event>,
    ) {
        let machine = &mut self.machines[index];
        let Some(node) = &mut machine.node else { return };
        if let Some(event) = act(&mut node.client, &mut machine.journal) {
            self.ledger_event(index, event);
        }
        self.drain_client(index);
    }

    fn ledger_event(&mut self, index: usize, event: Event) {
        let input = Input::Ledger { ledger: super::workload::CHAIN_ID.to_owned(), event };
        self.with_node(index, |node, now, out| node.input(input, now, out));
    }

    /// A node's question arrives, if the ledger can be reached; it is repeated otherwise.
    pub(super) fn at_ledger(&mut self, machine: usize, life: u64, what: Ask) {
        if !self.reaches_ledger(machine) {
            if self.machines[machine].life == life {
                self.after(ASK_AGAIN, Happening::AtLedger { machine, life, what });
            }
            return;
        }
        match what {
            Ask::ReadNonce => {
                let nonce = self.chain.account(&self.machines[machine].keypair.node_key()).nonce;
                let at = self.now + self.one_way();
                self.at(at, Happening::Reaches { machine, life, what: Delivery::Nonce(nonce) });
            }
            Ask::Submit { key, bytes } => {
                if self.plant == Some(Plant::NoClose) && is_close(&bytes) {
                    return;
                }
                if self.chain.take(self.sender(machine, life, key), bytes) {
                    self.after(GROUP_COMMIT, Happening::Block);
                }
            }
        }
    }

    pub(super) fn make_block(&mut self) {
        if self.chain.away_until > self.now {
            return self.at(self.chain.away_until, Happening::Block);
        }
        let replayer =
            self.machines.iter().position(|machine| machine.lie == Some(Lie::Replay) && machine.node.is_some());
        let overheard = replayer.map(|node| (node, self.chain.overheard(node)));
        let block = self.chain.make_block(self.now);
        if let Some((node, transactions)) = overheard {
            self.chain.replay(node, transactions);
        }
        self.record.block(&block.result);
        for ((sender, hash), result) in block.senders.into_iter().zip(block.result.results) {
            tracing::debug!(
                millis = self.millis(),
                node = sender.node,
                code = result.code,
                log = result.log,
                "transaction"
            );
            let what = Delivery::Result { key: sender.key, height: block.result.height, hash, result };
            let at = self.now + self.one_way();
            self.at(at, Happening::Reaches { machine: sender.node, life: sender.life, what });
        }
        self.read_block();
        let mut pages = BTreeMap::new();
        for index in 0..self.machines.len() {
            self.tell(index, &mut pages);
        }
    }

    /// What the edge of a node answers; nothing if there is no node.
    pub(super) fn edge_answer(&self, index: usize, request: Request) -> Option<Answer> {
        let machine = &self.machines[index];
        let node = machine.node.as_ref()?;
        Some(match request {
            Request::Terms { node, .. } if self.reaches_ledger(index) => Answer::Terms(Ok(self.chain.terms(&node))),
            Request::Terms { .. } => Answer::Terms(Err("the ledger can't be reached".to_owned())),
            request => edges::perform(machine, &node.scripts, request),
        })
    }

    /// Where the ledger's money is.
    pub(super) fn money(&self) -> Money {
        let mut money = self.chain.money();
        if self.plant == Some(Plant::StakeLost) {
            money.stakes /= 2;
        }
        money
    }

    pub(super) fn on_ledger_second(&mut self) {
        if self.chain.away_until <= self.now && self.chain.wants_block() {
            self.make_block();
        }
        if self.violation.is_none() {
            self.violation = Watch::second_check(self).err();
        }
        self.after(IDLE_BLOCK, Happening::LedgerSecond);
    }

    /// Sends a node the changes that it was not told, in order.
    fn tell(&mut self, index: usize, pages: &mut BTreeMap<u64, Rc<Page>>) {
        loop {
            let reached = self.reaches_ledger(index);
            let delay = self.one_way();
            let (now, height) = (self.now, self.chain.height());
            let Some(node) = &mut self.machines[index].node else { return };
            if !reached || !node.connected || node.told.is_some_and(|(told, _)| told >= height) {
                return;
            }
            let (told, last) = node.told.unwrap_or((0, now));
            let page = Rc::clone(pages.entry(told).or_insert_with(|| Rc::new(self.chain.page(told))));
            let arrives = (now + delay).max(last);
            node.told = Some((page.changes.height, arrives));
            self.reach(index, arrives, Delivery::Changes(page));
        }
    }

    /// Once a second a node's client looks whether the ledger answers.
    pub(super) fn on_node_second(&mut self, index: usize) {
        let reached = self.reaches_ledger(index);
        let Some(node) = &mut self.machines[index].node else { return };
        let news = std::mem::replace(&mut node.connected, reached) != reached;
        if news && reached {
            node.client.on_connected();
            self.ledger_event(
                index,
                Event::Connected { endpoint: "simulated".to_owned(), through_peer: false, host: None },
            );
        } else if news {
            self.ledger_event(index, Event::Disconnected { reason: "the ledger does not answer".to_owned() });
        }
        self.tell(index, &mut BTreeMap::new());
        self.reach(index, self.now + ASK_AGAIN, Delivery::LedgerSecond);
    }

    pub(super) fn on_result(&mut self, index: usize, key: u64, height: u64, hash: Digest, result: TransactionResult) {
        if !self.reaches_ledger(index) {
            let what = Delivery::Result { key, height, hash, result };
            return self.reach(index, self.now + ASK_AGAIN, what);
        }
        self.with_client(index, |client, journal| client.on_result(journal, key, height, hash, result));
    }

    pub(super) fn on_changes(&mut self, index: usize, page: Rc<Page>) {
        let reached = self.reaches_ledger(index);
        let Some(node) = &mut self.machines[index].node else { return };
        // An answer that is lost, or comes out of turn, is asked for again from where the node stands.
        if !reached || page.after != node.height {
            node.told = Some((node.height, self.now));
            return;
        }
        node.height = page.changes.height;
        let mut changes = page.changes.clone();
        if self.plant == Some(Plant::ForgedHolder) {
            let me = self.machines[index].keypair.node_key();
            let assigned = changes.tasks.iter_mut().filter(|task| task.status == TaskStatus::Assigned);
            assigned.for_each(|task| task.holder = Some(me));
        }
        match self.plant {
            Some(Plant::LapseUnseen) => changes.nodes.iter_mut().for_each(|node| node.storage_epoch = 0),
            Some(Plant::RoomUnseen) => changes.nodes.iter_mut().for_each(|node| node.storage_used = 0),
            _ => {}
        }
        self.ledger_event(index, Event::Changes(Box::new(changes)));
    }
}

fn is_close(bytes: &[u8]) -> bool {
    let signed = codec::decode::<Signed>(bytes, bytes.len()).ok();
    let transaction = signed.and_then(|signed| signed.open::<Transaction>().ok());
    transaction.is_some_and(|transaction| matches!(transaction.message, Message::CloseRound { .. }))
}
