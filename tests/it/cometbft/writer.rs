//! Somebody who writes on the ledger, through the client that nodes use.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use atlas_node::{
    chain::{
        client::{Client, Config, Endpoint, Event, Handle, Poll, Trust},
        wire::Message,
    },
    identity::Keypair,
    types::{ContentId, Digest},
};
use tokio::sync::mpsc::Receiver;

use super::chain::{CHAIN_ID, SOON};

/// An account with a client.
pub(super) struct Writer {
    handle: Handle,
    events: Receiver<Event>,
    next: u64,
    open: BTreeSet<u64>,
    /// What was acknowledged: the block of each transaction.
    pub(super) committed: BTreeMap<Digest, u64>,
    /// Endpoints that were named, and what for.
    pub(super) distrusted: Vec<(String, String)>,
    /// The models that the client told of.
    pub(super) models: BTreeSet<String>,
}

impl Writer {
    /// The account of `secret`, whose outbox is in `directory`.
    pub(super) fn new(directory: &Path, secret: u8, urls: &[String]) -> Self {
        Self::with(directory, secret, urls, None)
    }

    /// The same, which believes no endpoint if there is a `trust`.
    pub(super) fn with(directory: &Path, secret: u8, urls: &[String], trust: Option<Trust>) -> Self {
        let config = Config {
            ledger: CHAIN_ID.to_owned(),
            validator: None,
            endpoints: urls.iter().cloned().map(Endpoint::Http).collect(),
            outbox_dir: directory.join(format!("outbox-{secret}")),
            poll: Poll::default(),
            trust,
        };
        let (handle, events) = Client::start(config, &Keypair::from_secret(&[secret; 32])).unwrap();
        Self {
            handle,
            events,
            next: 0,
            open: BTreeSet::new(),
            committed: BTreeMap::new(),
            distrusted: Vec::new(),
            models: BTreeSet::new(),
        }
    }

    /// The client.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until the client has told what is looked for.
    pub(super) async fn until_told(&mut self, what: &str, told: impl Fn(&Self) -> bool) {
        let limit = tokio::time::Instant::now() + SOON;
        while !told(self) {
            let event = tokio::time::timeout_at(limit, self.events.recv()).await;
            self.on_event(event.unwrap_or_else(|_| panic!("not in time: {what}")).expect("the client runs"));
        }
    }

    /// Submits so many messages, each of which can succeed once only.
    pub(super) fn submit(&mut self, count: usize) {
        for _ in 0..count {
            let message = Message::RegisterModel {
                name: "load".to_owned(),
                version: format!("{}-{}", self.handle.first_free_id(), self.next),
                cid: content(),
                metadata: BTreeMap::new(),
            };
            self.handle.submit(self.next, message, true).unwrap();
            self.open.insert(self.next);
            self.next += 1;
        }
    }

    /// Submits one message and waits until it is in a block: its code and answer.
    pub(super) async fn order(&mut self, message: Message) -> (u32, Vec<u8>) {
        let own = self.next;
        self.next += 1;
        self.handle.submit(own, message, true).unwrap();
        let limit = tokio::time::Instant::now() + SOON;
        loop {
            let event = tokio::time::timeout_at(limit, self.events.recv()).await.expect("it is in a block in time");
            match event.expect("the client runs") {
                Event::Committed { id, code, data, .. } if id == own => return (code, data),
                event => self.on_event(event),
            }
        }
    }

    /// How many submissions are not acknowledged yet.
    pub(super) fn waiting(&self) -> usize {
        self.open.len()
    }

    /// Takes what the client has to tell, without waiting.
    pub(super) fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.on_event(event);
        }
    }

    /// Waits until all but `left` submissions are acknowledged.
    pub(super) async fn until_acknowledged(&mut self, left: usize) {
        let limit = tokio::time::Instant::now() + SOON;
        while self.open.len() > left {
            let event = tokio::time::timeout_at(limit, self.events.recv()).await;
            let event =
                event.unwrap_or_else(|_| panic!("{} transactions were not acknowledged in time", self.open.len()));
            self.on_event(event.expect("the client runs"));
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Committed { id, code, log, height, hash, .. } => {
                assert_eq!(code, 0, "{log}");
                assert!(self.open.remove(&id), "{id} was acknowledged twice");
                assert!(self.committed.insert(hash, height).is_none(), "two submissions are one transaction");
            }
            Event::Rejected { id, reason } => panic!("{id} was refused: {reason}"),
            Event::Distrusted { endpoint, reason } => self.distrusted.push((endpoint, reason)),
            Event::Changes(changes) => self.models.extend(changes.models.into_iter().map(|model| model.id)),
            Event::Connected { .. } | Event::Disconnected { .. } => {}
        }
    }
}

fn content() -> ContentId {
    "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap()
}
