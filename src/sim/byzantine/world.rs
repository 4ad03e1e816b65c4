//! A chain from height to height: who sends, who proposes, who votes, what is decided, who dies and comes back.

use std::{collections::BTreeMap, num::NonZeroU64, path::Path, time::Duration};

use bytes::Bytes;
use tendermint_proto::v0_38::{
    abci::{RequestInitChain, ValidatorUpdate},
    crypto::{PublicKey, public_key::Sum},
    types::{BlockParams, ConsensusParams},
};

use super::{
    super::chance::Chance,
    Counts, Plant, Violation,
    invariant::{Watch, in_a_block},
    liar::{self, Known, pick},
    people::{CHAIN_ID, COUNT, People},
    validator::{Block, Validator, timestamp},
    wishes::View,
};
use crate::{
    chain::ledger::{Economy, Genesis, Parameters},
    identity::Keypair,
    types::{Digest, NodeKey, Time},
};

const BEGIN: Time = Time::from_millis(1_700_000_000_000);
/// Blocks of a world in which anything happens.
const HEIGHTS: u64 = 24;
/// Blocks after that, of honest proposers alone, within which everything must be in a block.
const CALM: u64 = 8;
/// A block must be decided within so many rounds: there are at most 7 validators, and a vote that is withheld comes the
/// next time with an even chance.
const MAX_ROUNDS: usize = 80;
/// The power of each validator.
const POWER: usize = 10;
/// A balance that each account begins with.
const BALANCE: u64 = 1_000_000_000;
/// And what it gets when it registers a node.
const FAUCET: u64 = 5_000_000;
/// How far an honest clock is from true time.
const SKEW_MILLIS: u64 = 30_000;

/// Where a replica dies, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    None,
    BeforeFinalize,
    BeforeCommit,
    /// CometBFT alone, which asks for the same block again.
    OfCometBft,
    AfterCommit,
}

/// A decided proposal.
struct Decided {
    time: Time,
    transactions: Vec<Bytes>,
}

pub(super) struct World {
    chance: Chance,
    people: People,
    honest: Vec<Validator>,
    /// Validators that lie.
    liars: usize,
    /// Liars have more than a third of the power and decide what they like now and then.
    lawless: bool,
    /// `block.max_bytes` of the chain.
    max_bytes: usize,
    init: RequestInitChain,
    chain: Vec<Block>,
    old: Vec<Bytes>,
    view: View,
    watch: Watch,
    counts: Counts,
    verdicts: Vec<u8>,
    now: Time,
    plant: Option<Plant>,
}

impl World {
    pub(super) fn new(seed: u64, directory: &Path, plant: Option<Plant>) -> Self {
        let mut chance = Chance::new(seed, "byzantine");
        let (count, liars) = if chance.happens(700) { (4, 1) } else { (7, 2) };
        let economy = chance.happens(600);
        let people = People::new(economy);
        let max_bytes = usize::try_from(chance.within(4_000..=40_000)).unwrap_or(4_000);
        let mut validator = |number| {
            let every = NonZeroU64::new(chance.within(2..=9)).unwrap_or(NonZeroU64::MIN);
            let mut validator = Validator::new(number, directory, every);
            let skew = i64::try_from(chance.within(0..=2 * SKEW_MILLIS)).unwrap_or(0);
            validator.skew_millis = skew - i64::try_from(SKEW_MILLIS).unwrap_or(0);
            validator
        };
        let honest = (liars..count).map(&mut validator).collect();
        let given = BALANCE * COUNT as u64;
        Self {
            lawless: chance.happens(200),
            init: init_chain(&people, count, max_bytes),
            chance,
            people,
            honest,
            liars,
            max_bytes,
            chain: Vec::new(),
            old: Vec::new(),
            view: View::default(),
            watch: Watch::new(given, FAUCET, plant),
            counts: Counts::default(),
            verdicts: Vec::new(),
            now: BEGIN,
            plant,
        }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.honest.len() + self.liars, self.liars)
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Of everything that was decided and came of it.
    pub(super) fn digest(&self) -> Digest {
        let outcomes = self.chain.iter().filter_map(|block| Some(block.outcome.as_ref()?.app_hash.to_vec()));
        let parts: Vec<Vec<u8>> = outcomes.chain([self.verdicts.clone()]).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        Digest::of_parts("atlas/sim/byzantine", &parts)
    }

    /// Goes through the world's life.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        for place in 0..self.honest.len() {
            self.start(place)?;
        }
        for _ in 0..HEIGHTS {
            self.height(false)?;
        }
        for _ in 0..CALM {
            self.height(true)?;
        }
        match self.people.stuck() {
            None => Ok(()),
            Some((who, nonce)) => {
                let what = format!("transaction {nonce} of person {who} is in no block after {CALM} honest ones");
                Err(Violation::new("liveness", what))
            }
        }
    }

    /// One block. In the end it is `calm`: nobody new dies, all honest ones are up, and liars keep quiet.
    fn height(&mut self, calm: bool) -> Result<(), Violation> {
        self.now = self.now + Duration::from_millis(self.chance.within(200..=3_000));
        for place in 0..self.honest.len() {
            if !self.honest[place].is_up() && (calm || self.chance.happens(350)) {
                self.start(place)?;
            }
        }
        if !calm {
            self.people.act(&self.view, self.now, &mut self.chance);
        }
        self.gossip(calm)?;
        let Decided { time, transactions } = self.decide(calm)?;
        let height = self.chain.len() as u64 + 1;
        self.chain.push(Block { height, time, transactions, outcome: None });
        self.counts.blocks += 1;
        self.deliver(calm)?;
        let block = self.chain.last().expect("one was pushed");
        let witness = self.honest.iter().find(|validator| validator.height == height && validator.is_up());
        let witness = witness.expect("somebody stays up");
        let changes = self.watch.on_block(&self.people, block, witness, &mut self.counts)?;
        self.view.on_changes(changes);
        self.old.extend(block.transactions.iter().filter(|bytes| self.people.claim(bytes).is_some()).cloned());
        self.people.on_committed(&self.watch.next);
        for validator in self.honest.iter_mut().filter(|validator| validator.is_up()) {
            validator.recheck(block)?;
        }
        Ok(())
    }

    fn down(&self) -> usize {
        self.honest.iter().filter(|validator| !validator.is_up()).count()
    }

    /// Transactions reach the mempools in different orders, some late, some twice; old, forged and endless ones too.
    fn gossip(&mut self, calm: bool) -> Result<(), Violation> {
        let mut sent = self.people.waiting();
        if !calm {
            let cheat = self.people.key(self.people.cheat());
            let next = self.watch.next.get(&cheat).copied().unwrap_or(0);
            sent.extend(self.people.tricks(next, &mut self.chance));
            let again = pick(&mut self.chance, self.old.len().max(1));
            sent.extend(self.old.get(again).cloned());
            sent.extend(sent.first().map(|bytes| bytes.slice(..bytes.len() - 1)));
        }
        for place in 0..self.honest.len() {
            if !self.honest[place].is_up() {
                continue;
            }
            let turn = pick(&mut self.chance, sent.len().max(1));
            let (behind, ahead) = sent.split_at(turn.min(sent.len()));
            for bytes in ahead.iter().chain(behind) {
                if calm || !self.chance.happens(250) {
                    self.offer(place, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn offer(&mut self, place: usize, bytes: &Bytes) -> Result<(), Violation> {
        let validator = &mut self.honest[place];
        if validator.mempool.contains(bytes) {
            return Ok(());
        }
        let code = validator.check(bytes)?;
        let taken = code == 0 || self.plant == Some(Plant::Replayed);
        let lawful = self.watch.may_wait(&self.people, bytes);
        if taken != lawful {
            let what = format!("a transaction that {} wait got code {code}", if lawful { "may" } else { "may not" });
            return Err(Violation::new("mempool", what));
        }
        if taken {
            validator.mempool.push(bytes.clone());
        } else {
            self.counts.kept_out += 1;
        }
        Ok(())
    }

    /// Goes through rounds until a proposal has more than two thirds of the power.
    fn decide(&mut self, calm: bool) -> Result<Decided, Violation> {
        let count = self.honest.len() + self.liars;
        for round in 0..MAX_ROUNDS {
            let proposer = (self.chain.len() + round) % count;
            let lies = proposer < self.liars;
            if lies && calm {
                continue;
            }
            let proposal = if lies { Some(self.lie()?) } else { self.honest_proposal(proposer)? };
            let Some(transactions) = proposal else { continue };
            let accepted = self.vote(&transactions)?;
            let length: usize = transactions.iter().map(|bytes| in_a_block(bytes.len())).sum();
            let willing = if lies || calm || self.chance.happens(500) { self.liars } else { 0 };
            let quorum = 3 * (accepted + willing) > 2 * count;
            let forced = lies && self.lawless && self.chance.happens(300);
            // CometBFT itself takes no longer block.
            if length <= self.max_bytes && (quorum || forced) {
                let time = if forced { self.false_time() } else { self.median_time(willing > 0)? };
                return Ok(Decided { time, transactions });
            }
            if lies {
                self.counts.refused += u64::from(!quorum);
            }
            if self.down() > 0 && self.chance.happens(200) {
                let place = self.honest.iter().position(|validator| !validator.is_up()).expect("one is down");
                self.start(place)?;
            }
        }
        Err(Violation::new("liveness", format!("no block within {MAX_ROUNDS} rounds")))
    }

    fn lie(&mut self) -> Result<Vec<Bytes>, Violation> {
        let witness = self.honest.iter().find(|validator| validator.is_up()).expect("somebody stays up");
        let honest = witness.prepare(self.max_bytes, witness.mempool.clone())?;
        let known = Known { honest, old: &self.old, next: &self.watch.next };
        Ok(liar::propose(&mut self.people, known, &mut self.chance))
    }

    /// What an honest validator proposes; nothing if it is down.
    fn honest_proposal(&mut self, proposer: usize) -> Result<Option<Vec<Bytes>>, Violation> {
        let validator = &self.honest[proposer - self.liars];
        if !validator.is_up() {
            return Ok(None);
        }
        let mut waiting = validator.mempool.clone();
        if self.plant == Some(Plant::Censored) {
            let censored = self.people.key(0);
            waiting.retain(|bytes| self.people.claim(bytes).is_none_or(|claim| claim.creator != censored));
        }
        let proposal = validator.prepare(self.max_bytes, waiting)?;
        let length: usize = proposal.iter().map(|bytes| in_a_block(bytes.len())).sum();
        if length > self.max_bytes || !self.watch.is_lawful(&self.people, &proposal) {
            let what = format!(
                "validator {proposer} proposes {} transactions of {length} bytes against the rules",
                proposal.len()
            );
            return Err(Violation::new("proposals", what));
        }
        Ok(Some(proposal))
    }

    /// How many honest validators accept a proposal.
    fn vote(&mut self, proposal: &[Bytes]) -> Result<usize, Violation> {
        let lawful = self.watch.is_lawful(&self.people, proposal);
        let (height, mut accepted) = (self.chain.len() as u64 + 1, 0);
        for validator in self.honest.iter().filter(|validator| validator.is_up()) {
            let accepts = validator.process(height, proposal)? || self.plant == Some(Plant::Credulous);
            if accepts != lawful {
                let (verb, word) = if accepts { ("accepts", "unlawful") } else { ("refuses", "lawful") };
                let what =
                    format!("validator {} {verb} a proposal for block {height} that is {word}", validator.number);
                return Err(Violation::new("proposals", what));
            }
            accepted += usize::from(accepts);
        }
        self.verdicts.push(u8::try_from(accepted).unwrap_or(u8::MAX));
        Ok(accepted)
    }

    /// The median of the votes for the block before, weighted by power, as CometBFT computes it; liars vote with any time.
    fn median_time(&mut self, with_liars: bool) -> Result<Time, Violation> {
        let last = self.chain.last().map_or(BEGIN, |block| block.time.max(BEGIN));
        let clock = |skew: i64| Time(self.now.as_millis().saturating_add_signed(skew));
        let earliest = last + Duration::from_millis(1);
        let honest = self.honest.iter().filter(|validator| validator.is_up());
        let mut votes: Vec<Time> = honest.map(|validator| clock(validator.skew_millis).max(earliest)).collect();
        let (low, high) = (votes.iter().min().copied(), votes.iter().max().copied());
        for _ in 0..if with_liars { self.liars } else { 0 } {
            votes.push([Time::ZERO, Time(self.chance.within(0..=253_402_300_799_000))][pick(&mut self.chance, 2)]);
        }
        votes.sort_unstable();
        let mut left = votes.len() * POWER / 2;
        let mut time = votes[0];
        for vote in votes {
            time = vote;
            if left <= POWER {
                break;
            }
            left -= POWER;
        }
        if Some(time) < low || Some(time) > high || time <= last {
            return Err(Violation::new("time", format!("{time} is not between honest clocks")));
        }
        Ok(time)
    }

    /// What liars who decide alone give as time: an hour off, or the epoch.
    fn false_time(&mut self) -> Time {
        let hour = Duration::from_secs(3_600);
        [Time::ZERO, self.now - hour, self.now][pick(&mut self.chance, 3)]
    }

    /// All honest replicas that are up apply the last block; some die meanwhile.
    fn deliver(&mut self, calm: bool) -> Result<(), Violation> {
        let allowed = if self.liars == 1 { 1 } else { 2 };
        for place in 0..self.honest.len() {
            if !self.honest[place].is_up() {
                continue;
            }
            let may_die = !calm && self.down() < allowed;
            let death = if may_die { self.death() } else { Death::None };
            self.deliver_to(place, death)?;
        }
        Ok(())
    }

    fn death(&mut self) -> Death {
        match self.chance.within(0..=39) {
            0 => Death::BeforeFinalize,
            1 | 2 => Death::BeforeCommit,
            3 => Death::OfCometBft,
            4 => Death::AfterCommit,
            _ => Death::None,
        }
    }

    fn deliver_to(&mut self, place: usize, death: Death) -> Result<(), Violation> {
        let block = self.chain.last_mut().expect("a block was decided");
        let validator = &mut self.honest[place];
        if death != Death::BeforeFinalize {
            let last = self.plant == Some(Plant::Reordered) && place == 1 && block.outcome.is_some();
            if last { validator.finalize_reversed(block)? } else { validator.finalize(block)? }
        }
        match death {
            Death::OfCometBft => {
                // CometBFT hands over the same block again, to the ledger that has applied it.
                validator.mempool.clear();
                self.counts.replayed += validator.start(&self.init, &mut self.chain)?;
                return Ok(());
            }
            Death::None | Death::AfterCommit => validator.commit()?,
            Death::BeforeFinalize | Death::BeforeCommit => {}
        }
        if death != Death::None {
            validator.crash();
            self.counts.crashes += 1;
            self.counts.between += u64::from(death == Death::BeforeCommit);
            // Somebody must be there to answer for this block.
            if self.honest.iter().all(|validator| !validator.is_up()) {
                self.start(place)?;
            }
        }
        Ok(())
    }

    /// Starts a replica that is down; perhaps something happened to its disk meanwhile.
    fn start(&mut self, place: usize) -> Result<(), Violation> {
        let fail = |error: std::io::Error| Violation::new("start", error.to_string());
        match self.chance.within(0..=9) {
            0 | 1 => self.damage(place).map_err(fail)?,
            2 if !self.chain.is_empty() => {
                self.honest[place].lose_disk().map_err(fail)?;
                self.counts.damaged += 1;
                self.restore(place)?;
            }
            _ => {}
        }
        self.counts.replayed += self.honest[place].start(&self.init, &mut self.chain)?;
        Ok(())
    }

    fn restore(&mut self, place: usize) -> Result<(), Violation> {
        let giver = self.honest.iter().position(|validator| validator.is_up());
        let Some(giver) = giver else { return Ok(()) };
        let [taker, giver] = self.honest.get_disjoint_mut([place, giver]).expect("one is up and one is not");
        self.counts.restored += u64::from(taker.restore(giver, &self.chain)?);
        Ok(())
    }

    /// A bit of the newest snapshot flips, or its end is lost.
    fn damage(&mut self, place: usize) -> std::io::Result<()> {
        let Some(file) = self.honest[place].files().into_iter().next() else { return Ok(()) };
        let mut bytes = std::fs::read(&file)?;
        let at = pick(&mut self.chance, bytes.len().max(1));
        if self.chance.happens(500) {
            bytes.truncate(at);
        } else {
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << self.chance.within(0..=7));
        }
        self.counts.damaged += 1;
        std::fs::write(&file, bytes)
    }
}

/// How CometBFT begins the chain.
fn init_chain(people: &People, count: usize, max_bytes: usize) -> RequestInitChain {
    let key = |number: usize| Keypair::from_secret(&[100 + u8::try_from(number).unwrap_or(0); 32]).node_key();
    let economy = Economy {
        min_stake: 1_000,
        transaction_fee: 7,
        free_per_minute: 5,
        slash_two_receipts: 200_000,
        reporter_share: 300_000,
        creator_share: 100_000,
        unbonding_millis: 10_000,
        ..Economy::default()
    };
    let genesis = Genesis {
        chain_id: CHAIN_ID.to_owned(),
        parameters: Parameters {
            faucet_per_account: FAUCET,
            audit_window_blocks: 3,
            ..Parameters::with_offline_after(15_000)
        },
        accounts: people.all.iter().map(|person| (person.keypair.node_key(), BALANCE)).collect::<BTreeMap<_, _>>(),
        time: BEGIN,
        validator: key(0),
        economy: people.economy.then_some(economy),
    };
    let block = BlockParams { max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX), max_gas: -1 };
    let validator = |key: NodeKey| {
        let key = PublicKey { sum: Some(Sum::Ed25519(key.0.to_vec())) };
        ValidatorUpdate { pub_key: Some(key), power: i64::try_from(POWER).unwrap_or(1) }
    };
    RequestInitChain {
        time: Some(timestamp(BEGIN)),
        chain_id: CHAIN_ID.to_owned(),
        consensus_params: Some(ConsensusParams { block: Some(block), ..ConsensusParams::default() }),
        validators: (0..count).map(|number| validator(key(number))).collect(),
        app_state_bytes: serde_json::to_vec(&genesis).expect("a genesis is JSON").into(),
        initial_height: 1,
    }
}
