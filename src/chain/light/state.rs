//! Which headers are trusted: skipping verification, one step at a time.
//!
//! It begins from one header: that of a height and hash which the operator says, that which was kept, or the first one seen. From
//! there a header is trusted if two thirds of its own validators signed it and enough of those that are trusted did too; if
//! too few of them did, a header half-way is needed first (Tendermint's light client specification, "bisection"). A header shortly
//! below one that is trusted follows from the hashes that link them; one far below is reached from a block that was trusted before
//! it. The rules are the library's (`tendermint-light-client-verifier`).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tendermint::{
    Hash,
    block::{Header, signed_header::SignedHeader},
    chain,
    trust_threshold::TrustThresholdFraction,
    validator,
};
use tendermint_light_client_verifier::{
    ProdVerifier, Verdict, Verifier as _,
    errors::VerificationErrorDetail,
    options::Options,
    types::{TrustedBlockState, UntrustedBlockState},
};

use crate::{
    chain::embedded::tendermint_time,
    types::{Digest, Time},
};

/// How far a validator's clock may be before ours: CometBFT's own light client allows as much (`defaultMaxClockDrift`).
const CLOCK_DRIFT: Duration = Duration::from_secs(10);
/// Headers on the way to one, each half as far as the one before: a chain of 2^63 blocks needs no more.
const MAX_WAITING: usize = 64;
/// Trusted headers that are remembered, by height: about 2 MiB. The lowest are forgotten; they can be had again by their links.
const MAX_HEADERS: usize = 2_400;
/// The farthest header below a trusted one that is fetched by links, one at a time, if there is no other way.
const MAX_BACK: u64 = 1_000;
/// The same, if there is another way: a step from below takes as much as a few links.
const FEW: u64 = 16;
/// Trusted blocks whose validators are remembered, to go on from to what lies between them. The lowest is forgotten: with 150
/// validators they take 1 MiB.
const MAX_RUNGS: usize = 32;
/// From one of them to the next, in blocks.
const RUNG: u64 = 1_000;

/// A header with what it takes to verify it and to go on from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::chain) struct LightBlock {
    /// The header, and who signed it.
    pub signed_header: SignedHeader,
    /// Its validators.
    pub validators: validator::Set,
    /// Those of the next block.
    pub next_validators: validator::Set,
}

/// Where trust begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chain) enum Beginning {
    /// At a header that the operator knows.
    Known {
        /// Its height.
        height: u64,
        /// Its hash.
        hash: Digest,
    },
    /// At the first header that comes.
    FirstSeen,
}

/// The newest trusted header, as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::chain) struct Anchor {
    /// The header and those who sign the next.
    pub block: LightBlock,
    /// Height of the header that trust began from.
    pub began_height: u64,
    /// Its hash.
    pub began_hash: Digest,
}

/// What must be brought before a header is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::chain) enum Need {
    /// Nothing: it is.
    Nothing,
    /// The light block of this height: [`State::take_block`].
    Block(u64),
    /// The header of this height alone: [`State::take_header`].
    Header(u64),
}

/// Why a header is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::chain) enum Refusal {
    #[error("its header of block {wanted} is one of block {found}")]
    Height { wanted: u64, found: u64 },
    #[error("its header of block {height} is of the chain `{found}`, not `{wanted}`")]
    Chain { height: u64, found: String, wanted: String },
    #[error(
        "its header of block {height} has the hash {found}, not {wanted}, which is trusted: that is another chain, or a forgery"
    )]
    Hash { height: u64, found: String, wanted: String },
    #[error("its header of block {height} is not signed by the chain's validators: {reason}")]
    Forged { height: u64, reason: String },
    #[error("its header of block {height} is not the one that block {next} follows on")]
    Link { height: u64, next: u64 },
    #[error(
        "block {height}, from which trust would go on, is older than the trusting period of {hours} h: its validators may have left. Set ledger.trust_height and ledger.trust_hash to a newer block, from a source that you trust"
    )]
    Expired { height: u64, hours: u64 },
    #[error("its header of block {height} is of the future: one of the clocks is wrong")]
    Future { height: u64 },
    #[error("block {height} is too far below those that are trusted: it can't be proven any more")]
    TooFar { height: u64 },
    #[error("too many headers are needed on the way to block {height}")]
    TooMany { height: u64 },
}

impl Refusal {
    /// Whether an honest endpoint never gives cause for it.
    pub(in crate::chain) fn is_lie(&self) -> bool {
        match self {
            Self::Height { .. } | Self::Chain { .. } | Self::Hash { .. } | Self::Forged { .. } | Self::Link { .. } => {
                true
            }
            Self::Expired { .. } | Self::Future { .. } | Self::TooFar { .. } | Self::TooMany { .. } => false,
        }
    }
}

/// The trust in one chain.
#[derive(Debug)]
pub(in crate::chain) struct State {
    chain: chain::Id,
    options: Options,
    beginning: Beginning,
    anchor: Option<Anchor>,
    /// Blocks that too few of the trusted validators signed, from the one that is wanted down to the lowest.
    waiting: Vec<LightBlock>,
    rungs: BTreeMap<u64, LightBlock>,
    headers: BTreeMap<u64, Header>,
}

impl State {
    /// Nothing is trusted yet.
    pub(in crate::chain) fn new(chain: chain::Id, beginning: Beginning, trusting_period: Duration) -> Self {
        let options = Options {
            // A third of the trusted validators: at least one of them is honest, as long as fewer than a third are not.
            trust_threshold: TrustThresholdFraction::ONE_THIRD,
            trusting_period,
            clock_drift: CLOCK_DRIFT,
        };
        Self {
            chain,
            options,
            beginning,
            anchor: None,
            waiting: Vec::new(),
            rungs: BTreeMap::new(),
            headers: BTreeMap::new(),
        }
    }

    /// Goes on from what was kept. It is left alone if the operator says another beginning than it had.
    pub(in crate::chain) fn restore(&mut self, anchor: Anchor) -> Result<(), Refusal> {
        if let Beginning::Known { height, hash } = self.beginning
            && (height, hash) != (anchor.began_height, anchor.began_hash)
        {
            return Ok(());
        }
        self.check_alone(&anchor.block)?;
        self.trust(anchor.block.clone());
        self.anchor = Some(anchor);
        Ok(())
    }

    /// The newest trusted header, to be kept.
    pub(in crate::chain) fn anchor(&self) -> Option<&Anchor> {
        self.anchor.as_ref()
    }

    /// A trusted header.
    pub(in crate::chain) fn header(&self, height: u64) -> Option<&Header> {
        self.headers.get(&height)
    }

    /// The newest trusted header that is not above `height`.
    pub(in crate::chain) fn header_until(&self, height: u64) -> Option<&Header> {
        self.headers.range(..=height).next_back().map(|(_, header)| header)
    }

    /// Height of the newest trusted header; none before the first.
    pub(in crate::chain) fn newest(&self) -> Option<u64> {
        self.anchor.as_ref().map(|anchor| height_of(&anchor.block))
    }

    /// What comes next until the header of `height` is trusted. The same question is asked again after each answer.
    pub(in crate::chain) fn need(&mut self, height: u64) -> Result<Need, Refusal> {
        if self.headers.contains_key(&height) {
            return Ok(Need::Nothing);
        }
        if self.anchor.is_none() {
            return Ok(Need::Block(match self.beginning {
                Beginning::Known { height, .. } => height,
                Beginning::FirstSeen => height,
            }));
        }
        let above = self.headers.range(height..).next().map(|(above, _)| *above);
        let Some(base) = self.base(height).map(height_of) else {
            return by_links(height, above, MAX_BACK).ok_or(Refusal::TooFar { height });
        };
        if let Some(need) = by_links(height, above, FEW) {
            return Ok(need);
        }
        if self.waiting.first().is_some_and(|wanted| height_of(wanted) != height) {
            self.waiting.clear();
        }
        let Some(lowest) = self.waiting.last() else {
            return Ok(Need::Block(height));
        };
        // The next block after a trusted one never waits, so there is one in between.
        Ok(Need::Block(base + (height_of(lowest) - base) / 2))
    }

    /// The highest block below `height` that one can go on from.
    fn base(&self, height: u64) -> Option<&LightBlock> {
        let newest = self.anchor.as_ref().map(|anchor| &anchor.block).filter(|block| height_of(block) < height);
        newest.or_else(|| self.rungs.range(..height).next_back().map(|(_, block)| block))
    }

    /// Takes the header that [`Need::Header`] asked for.
    pub(in crate::chain) fn take_header(&mut self, height: u64, header: Header) -> Result<(), Refusal> {
        let found = header.height.value();
        if found != height {
            return Err(Refusal::Height { wanted: height, found });
        }
        let next = height.saturating_add(1);
        let linked = self.headers.get(&next).and_then(|next| next.last_block_id).map(|id| id.hash);
        if linked != Some(header.hash()) {
            return Err(Refusal::Link { height, next });
        }
        self.remember(header);
        Ok(())
    }

    /// Takes the block that [`Need::Block`] asked for.
    pub(in crate::chain) fn take_block(&mut self, height: u64, block: LightBlock, now: Time) -> Result<(), Refusal> {
        let found = height_of(&block);
        if found != height {
            return Err(Refusal::Height { wanted: height, found });
        }
        if self.anchor.is_none() {
            return self.begin(block, now);
        }
        let Some(trust) = self.verify(&block, now)? else {
            return Err(Refusal::TooFar { height });
        };
        match trust {
            Trust::Enough => self.advance(block, now),
            Trust::TooLittle if self.waiting.len() >= MAX_WAITING => Err(Refusal::TooMany { height }),
            Trust::TooLittle => {
                self.waiting.push(block);
                Ok(())
            }
        }
    }

    /// Whoever was asked gave no good answer: another is asked from the start.
    pub(in crate::chain) fn abandon(&mut self) {
        self.waiting.clear();
    }

    /// Whether the chain's validators could have signed this block at the height of a trusted one: a fork, if it has another
    /// hash. It is a forgery otherwise.
    pub(in crate::chain) fn is_signed_like(&self, block: &LightBlock) -> bool {
        let trusted = self.headers.get(&height_of(block));
        trusted.is_some_and(|trusted| trusted.validators_hash == block.signed_header.header.validators_hash)
            && self.check_alone(block).is_ok()
    }

    fn begin(&mut self, block: LightBlock, now: Time) -> Result<(), Refusal> {
        self.check_alone(&block)?;
        let (height, hash) = (height_of(&block), hash_of(&block.signed_header.header));
        if let Beginning::Known { hash: wanted, .. } = self.beginning
            && hash != wanted
        {
            return Err(Refusal::Hash { height, found: hash.to_string(), wanted: wanted.to_string() });
        }
        let time = block.signed_header.header.time;
        let (now, limit) = (tendermint_time(now), tendermint_time(now + self.options.clock_drift));
        if time.checked_add(self.options.trusting_period).is_none_or(|end| end <= now) {
            return Err(self.expired(height));
        }
        if time > limit {
            return Err(Refusal::Future { height });
        }
        self.trust(block.clone());
        self.anchor = Some(Anchor { block, began_height: height, began_hash: hash });
        Ok(())
    }

    /// A block is trusted: so may be those that waited for it.
    fn advance(&mut self, block: LightBlock, now: Time) -> Result<(), Refusal> {
        self.trust(block);
        while let Some(lowest) = self.waiting.pop() {
            if let Some(Trust::Enough) = self.verify(&lowest, now)? {
                self.trust(lowest);
            } else {
                self.waiting.push(lowest);
                break;
            }
        }
        Ok(())
    }

    fn trust(&mut self, block: LightBlock) {
        let height = height_of(&block);
        self.remember(block.signed_header.header.clone());
        let last = self.rungs.range(..=height).next_back().map(|(last, _)| *last);
        if !self.waiting.is_empty() || last.is_none_or(|last| height >= last.saturating_add(RUNG)) {
            self.rungs.insert(height, block.clone());
        }
        if self.rungs.len() > MAX_RUNGS {
            self.rungs.pop_first();
        }
        if let Some(anchor) = &mut self.anchor
            && height > height_of(&anchor.block)
        {
            anchor.block = block;
        }
    }

    fn remember(&mut self, header: Header) {
        let height = header.height.value();
        self.headers.insert(height, header);
        // The one that has just come stays, be it the lowest: it is what was asked for, or leads there.
        let spare = self.headers.keys().copied().find(|other| *other != height);
        if let Some(spare) = spare.filter(|_| self.headers.len() > MAX_HEADERS) {
            self.headers.remove(&spare);
        }
    }

    /// None if there is no block to go on from.
    fn verify(&self, block: &LightBlock, now: Time) -> Result<Option<Trust>, Refusal> {
        let Some(base) = self.base(height_of(block)) else { return Ok(None) };
        let header = &base.signed_header.header;
        let trusted = TrustedBlockState {
            chain_id: &self.chain,
            header_time: header.time,
            height: header.height,
            next_validators: &base.next_validators,
            next_validators_hash: header.next_validators_hash,
        };
        let verdict = ProdVerifier::default().verify_update_header(
            untrusted(block),
            trusted,
            &self.options,
            tendermint_time(now),
        );
        self.judge(height_of(block), verdict).map(Some)
    }

    /// What can be said of a block without any other: its parts belong together, and two thirds of its validators signed it.
    fn check_alone(&self, block: &LightBlock) -> Result<(), Refusal> {
        let (verifier, height) = (ProdVerifier::default(), height_of(block));
        let found = &block.signed_header.header.chain_id;
        if *found != self.chain {
            return Err(Refusal::Chain { height, found: found.to_string(), wanted: self.chain.to_string() });
        }
        for verdict in [verifier.verify_validator_sets(&untrusted(block)), verifier.verify_commit(&untrusted(block))] {
            self.judge(height, verdict)?;
        }
        Ok(())
    }

    fn judge(&self, height: u64, verdict: Verdict) -> Result<Trust, Refusal> {
        match verdict {
            Verdict::Success => Ok(Trust::Enough),
            Verdict::NotEnoughTrust(_) => Ok(Trust::TooLittle),
            Verdict::Invalid(VerificationErrorDetail::NotWithinTrustPeriod(_)) => {
                Err(self.expired(self.base(height).map_or(height, height_of)))
            }
            Verdict::Invalid(VerificationErrorDetail::HeaderFromTheFuture(_)) => Err(Refusal::Future { height }),
            Verdict::Invalid(detail) => {
                Err(Refusal::Forged { height, reason: detail.to_string().chars().take(300).collect() })
            }
        }
    }

    fn expired(&self, height: u64) -> Refusal {
        Refusal::Expired { height, hours: self.options.trusting_period.as_secs() / 3_600 }
    }
}

/// The next link down to `height`, if it is at most `most` below a trusted header.
fn by_links(height: u64, above: Option<u64>, most: u64) -> Option<Need> {
    let above = above.filter(|above| above - height <= most)?;
    Some(Need::Header(above - 1))
}

enum Trust {
    Enough,
    TooLittle,
}

fn untrusted(block: &LightBlock) -> UntrustedBlockState<'_> {
    UntrustedBlockState {
        signed_header: &block.signed_header,
        validators: &block.validators,
        next_validators: Some(&block.next_validators),
    }
}

fn height_of(block: &LightBlock) -> u64 {
    block.signed_header.header.height.value()
}

/// The hash of a header, as one of our digests.
pub(in crate::chain) fn hash_of(header: &Header) -> Digest {
    match header.hash() {
        Hash::Sha256(hash) => Digest(hash),
        // A header always has one.
        Hash::None => Digest([0; 32]),
    }
}
