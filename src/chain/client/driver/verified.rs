//! The driver on a ledger whose endpoints are not believed: nothing is told before it is proven, and who lies is named.
//!
//! A fault of an endpoint ends its connection. It is not shut out: what it says is proven as everybody's is, so it is used again when
//! nobody else answers, or after [`DISTRUST`].

use std::time::Duration;

use tokio::sync::oneshot;

use super::{Command, Driver, End, Stopped};
use crate::{
    chain::client::{
        Endpoint, Event,
        connection::{Failure, Opened, Rpc},
        facts::{Found, Searched},
        outbox,
        verifier::Contradiction,
        witness::Opinion,
    },
    clock,
    types::{Digest, Time},
};

/// An endpoint with a fault comes after all others for so long.
const DISTRUST: Duration = Duration::from_secs(600);
/// Queries that wait for the header that proves their answer; a further one fails.
const MAX_ASKED: usize = 64;
/// A query waits for that header for so long: some blocks of a slow chain.
const ASKED: Duration = Duration::from_secs(20);

/// A query that waits for the app hash after a block.
#[derive(Debug)]
pub(super) struct Asked {
    height: u64,
    until: Time,
    answer: oneshot::Sender<Digest>,
}

/// A proven block of another endpoint, to be compared with what the one in use says next.
pub(super) struct Suspicion {
    other: String,
    time: tendermint::Time,
}

impl Driver {
    /// Whether what the present endpoint says is proven.
    pub(super) fn verifies(&self) -> bool {
        self.verifier.is_some() && !self.believes_host
    }

    /// An endpoint answers: is it to be believed, because one machine hosts the ledger?
    pub(super) fn meet(&mut self, opened: &Opened) -> Result<(), Failure> {
        let Some(verifier) = &self.verifier else { return Ok(()) };
        if opened.host.is_some() && verifier.is_begun() {
            return Err(Failure::Hosted { ledger: self.config.ledger.clone() });
        }
        self.believes_host = opened.host.is_some();
        if self.believes_host {
            tracing::info!(
                ledger = self.config.ledger,
                "one machine hosts this ledger: its word is taken, and no chain is verified"
            );
        }
        self.outbox.be_strict(self.verifies());
        Ok(())
    }

    /// The ways in the order in which they are tried: those with a fault last.
    pub(super) fn in_order(&mut self) -> Vec<Endpoint> {
        let now = clock::now();
        self.distrusted.retain(|_, (until, _)| *until > now);
        let mut endpoints = self.config.endpoints.clone();
        endpoints.sort_by_key(|endpoint| self.distrusted.contains_key(&endpoint.name()));
        endpoints
    }

    /// An endpoint is not used any more, for this reason.
    pub(super) async fn part(&mut self, endpoint: &Endpoint, failure: &Failure) -> Result<(), Stopped> {
        if let Some(verifier) = &mut self.verifier {
            verifier.leave();
        }
        if failure.is_fault() { self.distrust(endpoint, failure).await } else { Ok(()) }
    }

    /// Where all ways have a fault, none is tried again at once: each would answer at once, and lie again.
    pub(super) async fn pause_among_liars(&mut self) -> Result<(), Stopped> {
        if self.config.endpoints.iter().all(|endpoint| self.distrusted.contains_key(&endpoint.name())) {
            let until = clock::now() + self.backoff.next(clock::random_bytes());
            self.wait_disconnected(until).await?;
        }
        Ok(())
    }

    /// Names an endpoint and its fault.
    pub(super) async fn distrust(&mut self, endpoint: &Endpoint, failure: &Failure) -> Result<(), Stopped> {
        let (name, reason) = (endpoint.name(), failure.to_string());
        let known = self.distrusted.insert(name.clone(), (clock::now() + DISTRUST, reason.clone()));
        if known.is_some_and(|(_, known)| known == reason) {
            return Ok(());
        }
        tracing::warn!(
            ledger = self.config.ledger,
            endpoint = name,
            reason,
            "an endpoint of the ledger is not to be trusted; others are used first"
        );
        self.tell(Event::Distrusted { endpoint: name, reason }).await
    }

    /// Hands on what is proven now, and reads what comes next; true if something was proven.
    pub(super) async fn fetch_verified(&mut self, rpc: &Rpc) -> Result<bool, End> {
        let Some(verifier) = &mut self.verifier else { return Ok(false) };
        let proven = verifier.confirm(rpc).await?;
        let news = proven.is_some();
        for changes in proven.into_iter().flatten() {
            self.height = changes.height;
            self.outbox.on_height(changes.height);
            self.told = true;
            self.tell(Event::Changes(Box::new(changes))).await?;
        }
        let Some(verifier) = &mut self.verifier else { return Ok(news) };
        verifier.read(rpc).await?;
        verifier.keep(false).await;
        let height = self.height;
        self.way
            .send_if_modified(|way| way.as_mut().is_ok_and(|way| std::mem::replace(&mut way.height, height) != height));
        self.weigh_suspicion()?;
        Ok(news)
    }

    fn weigh_suspicion(&mut self) -> Result<(), End> {
        let (Some(Suspicion { other, time }), Some(verifier)) = (self.suspicion.take(), &self.verifier) else {
            return Ok(());
        };
        let behind = verifier.told_until().and_then(|told| time.duration_since(told).ok()).unwrap_or_default();
        let limit = self.config.trust.as_ref().map_or(Duration::MAX, |trust| trust.stale_after);
        if behind >= limit {
            return Err(End::Failure(Failure::Stale { other, seconds: behind.as_secs() }));
        }
        Ok(())
    }

    /// Hears a witness, and asks the next. True if what the endpoint in use says must be looked at now.
    pub(super) async fn tend_witness(&mut self, used: &str) -> Result<bool, End> {
        let mut suspects = false;
        match self.witness.answer().await {
            Some((other, Ok(opinion))) => suspects = self.judge(used, &other, &opinion).await?,
            Some((other, Err(failure))) if failure.is_fault() => self.distrust(&other, &failure).await?,
            Some((other, Err(failure))) => tracing::debug!(%other, %failure, "a witness has no opinion"),
            None => {}
        }
        if let Some(verifier) = &self.verifier
            && let Some((height, _)) = verifier.newest()
        {
            self.witness.ask(&self.config, used, height, verifier.anchor());
        }
        Ok(suspects)
    }

    async fn judge(&mut self, used: &str, other: &Endpoint, opinion: &Opinion) -> Result<bool, Stopped> {
        let Some(verifier) = &mut self.verifier else { return Ok(false) };
        let same = opinion.same.as_ref().and_then(|block| Some((block, verifier.contradicts(block)?)));
        if let Some((block, contradiction)) = same {
            let header = &block.signed_header.header;
            let height = header.height.value();
            let failure = match contradiction {
                Contradiction::Forgery => {
                    Failure::Contradicts { height, hash: header.hash().to_string(), other: used.to_owned() }
                }
                Contradiction::Fork => {
                    tracing::error!(height, one = used, other = %other, "the chain's validators signed two blocks of one height");
                    Failure::Fork { height, other: used.to_owned() }
                }
            };
            self.distrust(other, &failure).await?;
            return Ok(false);
        }
        let Some(newest) = &opinion.newest else { return Ok(false) };
        match verifier.hear(newest) {
            Ok(true) => {
                let time = newest.signed_header.header.time;
                self.suspicion = Some(Suspicion { other: other.to_string(), time });
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(failure) => {
                if failure.is_fault() {
                    self.distrust(other, &failure).await?;
                }
                Ok(false)
            }
        }
    }

    /// A query waits for the app hash after a block.
    pub(super) fn on_asked(&mut self, height: u64, answer: oneshot::Sender<Digest>) {
        // Dropping it tells the one who asks.
        if self.asked.len() < MAX_ASKED {
            self.asked.push(Asked { height, until: clock::now() + ASKED, answer });
        }
    }

    /// Answers the queries whose header is there.
    pub(super) async fn answer_asked(&mut self, rpc: &Rpc) -> Result<(), End> {
        let now = clock::now();
        for asked in std::mem::take(&mut self.asked) {
            let Some(verifier) = &mut self.verifier else { return Ok(()) };
            if asked.until < now || asked.answer.is_closed() {
                continue;
            }
            match verifier.app_hash_after(rpc, asked.height).await? {
                // Whoever asked may have gone.
                Some(app_hash) => drop(asked.answer.send(app_hash)),
                None => self.asked.push(asked),
            }
        }
        Ok(())
    }

    /// Gives the outbox the account's nonce, if it is known.
    pub(super) async fn read_account(&mut self, rpc: &Rpc) -> Result<(), End> {
        match self.verifier.as_ref().filter(|_| !self.believes_host) {
            None => {
                let nonce = rpc.nonce(&self.account).await?;
                self.outbox.on_account(nonce);
            }
            Some(verifier) => match verifier.nonce() {
                Some(nonce) => self.outbox.on_account(nonce),
                None => self.outbox.on_no_account(clock::now()),
            },
        }
        Ok(())
    }

    pub(super) async fn find(&mut self, rpc: &Rpc, hash: &Digest) -> Result<Option<Found>, Failure> {
        match self.verifier.as_mut().filter(|_| !self.believes_host) {
            None => rpc.find(hash).await,
            Some(verifier) => verifier.find(rpc, hash).await,
        }
    }

    pub(super) async fn search(
        &mut self,
        rpc: &Rpc,
        key: outbox::Key,
        hash: &Digest,
        after: u64,
    ) -> Result<Searched, Failure> {
        let nonce = self.outbox.nonce_of(key).unwrap_or(u64::MAX);
        match self.verifier.as_mut().filter(|_| !self.believes_host) {
            None => rpc.search(hash, after).await,
            Some(verifier) => verifier.search(rpc, hash, after, nonce).await,
        }
    }

    /// A query caught the endpoint in use.
    pub(super) fn on_caught(&mut self, endpoint: String, reason: String) {
        self.caught = Some((endpoint, reason));
    }

    /// Ends the connection if a query caught this endpoint.
    pub(super) fn weigh_caught(&mut self, used: &str) -> Result<(), End> {
        match self.caught.take() {
            Some((endpoint, reason)) if endpoint == used => Err(End::Failure(Failure::Caught { reason })),
            _ => Ok(()),
        }
    }

    /// Takes what comes from queries; anything else comes back.
    pub(super) fn on_query(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::AppHash { height, answer } => self.on_asked(height, answer),
            Command::Caught { endpoint, reason } => self.on_caught(endpoint, reason),
            other => return Some(other),
        }
        None
    }
}
