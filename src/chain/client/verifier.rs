//! Believes no endpoint: fetches what the light client needs, and hands on what it has proven.
//!
//! The decisions are `chain::light`'s. What is fetched here from one endpoint is checked against headers that came from any. An answer
//! whose proof is a header that does not exist yet is held until the header comes, and for [`HOLD`] at most.

use std::time::Duration;

use tendermint::block::Header;

use super::{
    Config, Error, Trust,
    connection::{Failure, Rpc},
    facts::{Found, Searched},
    transaction::Outcome,
    trust::TrustFile,
};
use crate::{
    chain::{
        light::{Beginning, LightBlock, Need, Replica, State, Taken, block},
        records::Changes,
    },
    clock,
    types::{Digest, NodeKey, Time},
};

/// How long an answer is held for the header that proves it. A block comes every few seconds; a chain that makes none for so long
/// has stopped, or the endpoint keeps its blocks to itself.
pub(super) const HOLD: Duration = Duration::from_secs(60);
/// The trusted header is kept at most this often: losing a minute of them costs one more step after a restart.
const KEEP_EVERY: Duration = Duration::from_secs(60);
/// Blocks that are looked through for a transaction, from the one at which it was signed on.
const MAX_SEARCH: u64 = 1_000;

/// What is trusted and known of one chain.
pub(super) struct Verifier {
    state: State,
    replica: Replica,
    file: TrustFile,
    /// The operator said where trust begins.
    said: bool,
    /// Height of the header that is on disk, and when it was put there.
    kept: (u64, Time),
    /// When the records that are held were read.
    read_at: Time,
    /// The last block that was looked into: several of our transactions may be in it.
    block: Option<Block>,
}

/// A block whose transactions and results are proven.
struct Block {
    height: u64,
    transactions: Vec<Digest>,
    outcomes: Vec<Outcome>,
}

impl Block {
    fn found(&self, hash: &Digest) -> Option<Found> {
        let position = self.transactions.iter().position(|found| found == hash)?;
        self.outcomes.get(position).map(|outcome| outcome.clone().at(self.height))
    }
}

impl Verifier {
    /// Goes on from what was kept, or from where the operator says.
    pub(super) fn open(config: &Config, trust: &Trust, own: NodeKey) -> Result<Self, Error> {
        let file = TrustFile::new(trust.file.clone());
        let beginning =
            trust.beginning.map_or(Beginning::FirstSeen, |(height, hash)| Beginning::Known { height, hash });
        let chain = config.ledger.parse().map_err(|_| file.damaged("the ledger's name is no chain id"))?;
        let mut state = State::new(chain, beginning, trust.period);
        if let Some(anchor) = file.load()? {
            state.restore(anchor).map_err(|refusal| file.damaged(&refusal.to_string()))?;
        }
        let kept = (state.newest().unwrap_or(0), Time::ZERO);
        let said = trust.beginning.is_some();
        Ok(Self { state, replica: Replica::new(own), file, said, kept, read_at: Time::ZERO, block: None })
    }

    /// Whether this ledger is known to be a chain of validators: then no single host of it is believed.
    pub(super) fn is_begun(&self) -> bool {
        self.said || self.state.newest().is_some()
    }

    /// Height and nonce of the own account, as proven last; none before anything is.
    pub(super) fn nonce(&self) -> Option<u64> {
        self.replica.proven().map(|_| self.replica.nonce())
    }

    /// Height of the newest trusted header, and its hash.
    pub(super) fn newest(&self) -> Option<(u64, tendermint::Hash)> {
        let height = self.state.newest()?;
        self.state.header(height).map(|header| (height, header.hash()))
    }

    /// The newest block that is trusted, whose validators need not be fetched again.
    pub(super) fn anchor(&self) -> Option<&LightBlock> {
        self.state.anchor().map(|anchor| &anchor.block)
    }

    /// Time of the newest block whose records the endpoint in use told.
    pub(super) fn told_until(&self) -> Option<tendermint::Time> {
        let read = self.replica.after()?;
        self.state.header_until(read.saturating_add(1)).map(|header| header.time)
    }

    /// The endpoint is not asked any more: what only it said is forgotten.
    pub(super) fn leave(&mut self) {
        self.state.abandon();
        self.replica.discard();
        self.block = None;
    }

    /// Tries to trust a block that another endpoint brought, without asking for any in between. False if it takes some.
    pub(super) fn hear(&mut self, block: &LightBlock) -> Result<bool, Failure> {
        let height = block.signed_header.header.height.value();
        if self.state.need(height)? != Need::Block(height) {
            return Ok(self.state.header(height).is_some());
        }
        self.state.abandon();
        let taken = self.state.take_block(height, block.clone(), clock::now());
        self.state.abandon();
        taken?;
        Ok(self.state.header(height).is_some())
    }

    /// Whether a block of a height that is trusted has another hash, and if so, whether the validators signed both.
    pub(super) fn contradicts(&self, block: &LightBlock) -> Option<Contradiction> {
        let height = block.signed_header.header.height.value();
        let trusted = self.state.header(height)?;
        if trusted.hash() == block.signed_header.header.hash() {
            return None;
        }
        Some(if self.state.is_signed_like(block) { Contradiction::Fork } else { Contradiction::Forgery })
    }

    /// The trusted header of a block; none if there is no such block yet.
    pub(super) async fn header(&mut self, rpc: &Rpc, height: u64) -> Result<Option<Header>, Failure> {
        loop {
            match self.state.need(height)? {
                Need::Nothing => return Ok(self.state.header(height).cloned()),
                Need::Block(at) => {
                    let known = self.state.anchor().map(|anchor| &anchor.block);
                    let Some(block) = rpc.light_block(at, known).await? else {
                        return if at == height { Ok(None) } else { Err(Failure::Lacks { height: at }) };
                    };
                    let first = self.state.newest().is_none();
                    self.state.take_block(at, block, clock::now())?;
                    if first {
                        self.tell_beginning();
                    }
                }
                Need::Header(at) => {
                    let Some(signed) = rpc.signed_header(at).await? else {
                        // A witness may be ahead of the endpoint in use by a few blocks; how many are too many is asked elsewhere.
                        let may_come = self.replica.proven().is_none_or(|proven| at > proven);
                        return if may_come { Ok(None) } else { Err(Failure::Lacks { height: at }) };
                    };
                    self.state.take_header(at, signed.header)?;
                }
            }
        }
    }

    fn tell_beginning(&self) {
        let Some(anchor) = self.state.anchor() else { return };
        let (height, hash) = (anchor.began_height, anchor.began_hash);
        if self.said {
            tracing::info!(height, %hash, "trust in the chain begins at the block that the settings name");
        } else {
            tracing::warn!(
                height, %hash,
                "trust in the chain begins at the first block seen; compare its hash with a source that you trust, or set ledger.trust_height and ledger.trust_hash"
            );
        }
    }

    /// Reads updates until those up to a block are whole; false if nothing happened, or what is held waits for its proof.
    pub(super) async fn read(&mut self, rpc: &Rpc) -> Result<bool, Failure> {
        while self.replica.pending().is_none() {
            let page = rpc.updates(self.replica.after()).await?;
            match self.replica.take(page)? {
                Taken::More => {}
                Taken::Nothing => return Ok(false),
                Taken::Until(_) => {
                    self.read_at = clock::now();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What is held, if the header that proves it is there.
    pub(super) async fn confirm(&mut self, rpc: &Rpc) -> Result<Option<Vec<Changes>>, Failure> {
        let Some(height) = self.replica.pending() else { return Ok(None) };
        let Some(header) = self.header(rpc, height.saturating_add(1)).await? else {
            let late = clock::now().since(self.read_at) > HOLD;
            return if late { Err(Failure::Withheld { height }) } else { Ok(None) };
        };
        Ok(Some(self.replica.confirm(app_hash(&header)?)?))
    }

    /// The app hash after a block; none if the header that holds it is not there yet.
    pub(super) async fn app_hash_after(&mut self, rpc: &Rpc, height: u64) -> Result<Option<Digest>, Failure> {
        let header = self.header(rpc, height.saturating_add(1)).await?;
        header.as_ref().map(app_hash).transpose()
    }

    /// A transaction that is in a block, proven; none also while its proof is not there yet.
    pub(super) async fn find(&mut self, rpc: &Rpc, hash: &Digest) -> Result<Option<Found>, Failure> {
        let Some(told) = rpc.find(hash).await? else { return Ok(None) };
        // Not before the records after it are: what is read of the account then has it too.
        if self.replica.proven().is_none_or(|proven| told.height > proven) {
            return Ok(None);
        }
        match self.block(rpc, told.height).await? {
            None => Ok(None),
            Some(block) => block.found(hash).map(Some).ok_or(Failure::Placed { height: told.height }),
        }
    }

    /// Looks for a transaction in the blocks behind `after`, each of them proven. It is absent only if its `nonce` is used.
    pub(super) async fn search(
        &mut self,
        rpc: &Rpc,
        hash: &Digest,
        after: u64,
        nonce: u64,
    ) -> Result<Searched, Failure> {
        let first = rpc.earliest().await?;
        if first > after.saturating_add(1) {
            return Ok(Searched::Unknown { reason: super::connection::gone(after, first) });
        }
        let last = self.replica.proven().unwrap_or(0).min(after.saturating_add(MAX_SEARCH));
        for height in after.saturating_add(1)..=last {
            match self.block(rpc, height).await? {
                Some(block) => {
                    if let Some(found) = block.found(hash) {
                        return Ok(Searched::Found(found));
                    }
                }
                None => return Ok(Searched::Open),
            }
        }
        let used = self.replica.nonce() > nonce;
        Ok(if used { Searched::Absent } else { Searched::Open })
    }

    /// A block, proven; none if the next one is not there yet.
    async fn block(&mut self, rpc: &Rpc, height: u64) -> Result<Option<&Block>, Failure> {
        if self.block.as_ref().is_none_or(|block| block.height != height) {
            let Some(next) = self.header(rpc, height.saturating_add(1)).await? else { return Ok(None) };
            let Some(own) = self.header(rpc, height).await? else { return Ok(None) };
            let (transactions, outcomes) = rpc.block_with_results(height).await?;
            block::check_transactions(&own, &transactions)?;
            block::check_results(&next, &outcomes.iter().map(Outcome::agreed).collect::<Vec<_>>())?;
            let transactions = transactions.iter().map(|bytes| Digest::of(bytes)).collect();
            self.block = Some(Block { height, transactions, outcomes });
        }
        Ok(self.block.as_ref())
    }

    /// Puts the newest trusted header on disk, if that was long ago or `at_once`.
    pub(super) async fn keep(&mut self, at_once: bool) {
        let (Some(anchor), now) = (self.state.anchor(), clock::now()) else { return };
        let height = anchor.block.signed_header.header.height.value();
        let (kept, at) = self.kept;
        if height == kept || !at_once && kept != 0 && now.since(at) < KEEP_EVERY {
            return;
        }
        let (file, anchor) = (self.file.clone(), anchor.clone());
        let saved = tokio::task::spawn_blocking(move || file.save(&anchor)).await;
        match saved {
            Ok(Ok(())) => self.kept = (height, now),
            Ok(Err(error)) => tracing::warn!(%error, "the trusted header can't be kept; is the disk full?"),
            Err(_) => {}
        }
    }
}

/// Two blocks of one height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contradiction {
    /// More than a third of the validators signed both.
    Fork,
    /// The other is not signed.
    Forgery,
}

fn app_hash(header: &Header) -> Result<Digest, Failure> {
    let height = header.height.value();
    Digest::from_slice(header.app_hash.as_bytes()).ok_or(Failure::OtherApplication { height })
}
