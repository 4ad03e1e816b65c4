//! What was submitted and is not final yet: nonces, loss, and what to do next. Pure.
//!
//! A submission is signed when its turn comes, with the next nonce of the account. From then on its bytes stay the
//! same until the ledger shows that they can never be included, because only equal bytes are known to be included
//! once. Sends go out one after the other, so that nonces arrive in order; several wait for their block at once.

mod doubt;
mod kept;

use std::{collections::BTreeMap, time::Duration};

pub(super) use super::facts::{Found, Outcome, Refused, Searched, Second, Sent};
use crate::{
    chain::wire::{Code, MAX_TRANSACTION, Message, Transaction},
    codec,
    identity::Keypair,
    types::{Digest, LedgerId, Time},
};
pub(super) use kept::Record;

/// Submissions that may wait; a further one is refused. A node has a few per task and round.
pub(super) const MAX_ENTRIES: usize = 4_096;
/// Signed transactions that wait for their block at once. Few blocks' worth, so that one loss delays little.
const MAX_IN_FLIGHT: usize = 32;
/// A transaction in flight is looked up this often although no block was heard of.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A transaction that is not found for this long was lost on the way and is sent again. A few blocks of a slow chain.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// A transaction whose nonce is used and that is not found for this long: another took its nonce, or it is included and
/// the index will never show it. CometBFT's comes after the block, and what a crash keeps from it is lost. The blocks know.
const SEARCH_AFTER: Duration = Duration::from_secs(5);
/// After a refusal for a passing reason (a full mempool, a full disk) the next try waits for this long.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// A submission that is not durable is given up when it could not be sent for this long: a beat is worth nothing then.
const EPHEMERAL_LIFE: Duration = Duration::from_secs(90);

/// What to do next; each answer goes to the method named after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the account's nonce: [`Outbox::on_account`].
    ReadAccount,
    /// Keep `record`, if there is one, then send: [`Outbox::on_sent`].
    /// It was sent before and came into no block, if `again`.
    Send { key: Key, bytes: Vec<u8>, record: Option<Record>, again: bool },
    /// Look for it on the ledger: [`Outbox::on_looked_up`].
    LookUp { key: Key, hash: Digest },
    /// Look for it in the blocks behind `after` themselves: [`Outbox::on_searched`].
    Search { key: Key, hash: Digest, after: u64 },
}

/// Names a submission inside the outbox, in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(u64);

#[derive(Debug)]
struct Entry {
    id: u64,
    message: Message,
    durable: bool,
    submitted: Time,
    /// The journal has it in its present stage.
    kept: bool,
    /// Signed anew so often.
    attempt: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Signed { nonce: u64, bytes: Vec<u8>, hash: Digest, after: u64, flight: Flight },
}

#[derive(Clone, Copy, Debug)]
enum Flight {
    /// Never left this node.
    New,
    /// To be sent again at `at`; a copy may be under way.
    Again { at: Time },
    /// Waits for its block; lost if it is not found long after `since`.
    Sent { since: Time, look_at: Time },
    /// Another transaction has its nonce, or it is included and the index lags.
    Stale { since: Time, look_at: Time },
    /// The index had its time: the blocks are looked through.
    Missing,
    /// An endpoint that is not believed refused it at `since`: others are asked, or will be at `at`.
    Doubted { since: Time, at: Option<Time> },
}

/// The outbox of one account on one ledger.
#[derive(Debug)]
pub(super) struct Outbox {
    ledger: LedgerId,
    keypair: Keypair,
    entries: BTreeMap<Key, Entry>,
    next_key: u64,
    /// For the next signature; `None` until the account was read.
    next_nonce: Option<u64>,
    /// The last block that was heard of.
    height: u64,
    /// No send before this, after a passing refusal.
    not_before: Time,
    /// An endpoint's word alone never makes bytes worthless: it may send on what it says it refused.
    strict: bool,
    done: Vec<u64>,
}

impl Outbox {
    pub(super) fn new(ledger: LedgerId, keypair: Keypair) -> Self {
        Self {
            ledger,
            keypair,
            entries: BTreeMap::new(),
            next_key: 0,
            next_nonce: None,
            height: 0,
            not_before: Time::ZERO,
            strict: false,
            done: Vec::new(),
        }
    }

    fn insert(&mut self, id: u64, message: Message, attempt: u32, stage: Stage, now: Time) {
        let entry = Entry { id, message, durable: true, submitted: now, kept: true, attempt, stage };
        self.entries.insert(Key(self.next_key), entry);
        self.next_key += 1;
    }

    /// Takes a submission.
    pub(super) fn submit(&mut self, id: u64, message: Message, durable: bool, now: Time) -> Result<(), Refused> {
        if self.is_full() {
            return Err(Refused::Full);
        }
        if self.entries.values().any(|entry| entry.id == id) {
            return Err(Refused::Duplicate);
        }
        self.insert(id, message, 0, Stage::Waiting, now);
        if let Some(mut last) = self.entries.last_entry() {
            last.get_mut().durable = durable;
            last.get_mut().kept = !durable;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES
    }

    /// A new connection: nonces may have moved, and what is in flight may have arrived.
    pub(super) fn on_connected(&mut self, now: Time) {
        self.next_nonce = None;
        self.not_before = Time::ZERO;
        self.look_now(now);
        for entry in self.entries.values_mut() {
            // Another endpoint may never have heard of it; equal bytes twice do no harm.
            match &mut entry.stage {
                Stage::Signed { flight: Flight::Sent { since, .. }, .. } => *since = Time::ZERO,
                Stage::Signed { flight: Flight::Doubted { at, .. }, .. } => *at = Some(now),
                _ => {}
            }
        }
    }

    /// Whether what comes back is proven, all but refusals.
    pub(super) fn be_strict(&mut self, strict: bool) {
        self.strict = strict;
    }

    /// The nonce that a submission was signed with.
    pub(super) fn nonce_of(&self, key: Key) -> Option<u64> {
        match self.entries.get(&key)?.stage {
            Stage::Signed { nonce, .. } => Some(nonce),
            Stage::Waiting => None,
        }
    }

    /// The account can't be read yet.
    pub(super) fn on_no_account(&mut self, now: Time) {
        self.not_before = now + TRY_AGAIN;
    }

    /// The ledger is at this block.
    pub(super) fn on_height(&mut self, height: u64) {
        self.height = self.height.max(height);
    }

    /// A block came: what is in flight may be in it.
    pub(super) fn look_now(&mut self, now: Time) {
        for entry in self.entries.values_mut() {
            if let Stage::Signed { flight: Flight::Sent { look_at, .. } | Flight::Stale { look_at, .. }, .. } =
                &mut entry.stage
            {
                *look_at = now;
            }
        }
    }

    /// The next thing to do on a connection; `None` until [`Outbox::wake_at`].
    pub(super) fn next_step(&mut self, now: Time) -> Option<Step> {
        self.look_up(now).or_else(|| self.send(now))
    }

    fn look_up(&self, now: Time) -> Option<Step> {
        self.entries.iter().find_map(|(key, entry)| match &entry.stage {
            Stage::Signed { hash, flight: Flight::Sent { look_at, .. } | Flight::Stale { look_at, .. }, .. }
                if *look_at <= now =>
            {
                Some(Step::LookUp { key: *key, hash: *hash })
            }
            Stage::Signed { hash, after, flight: Flight::Missing, .. } => {
                Some(Step::Search { key: *key, hash: *hash, after: *after })
            }
            _ => None,
        })
    }

    fn send(&mut self, now: Time) -> Option<Step> {
        if now < self.not_before {
            return None;
        }
        let (full, doubts) = (self.is_flight_full(), self.doubts());
        // In order: a later nonce never overtakes an earlier one.
        let (key, entry) = self.entries.iter_mut().find(|(_, entry)| match &entry.stage {
            Stage::Waiting => !full && !doubts,
            Stage::Signed { flight: Flight::New, .. } => !doubts,
            Stage::Signed { flight: Flight::Again { at } | Flight::Doubted { at: Some(at), .. }, .. } => *at <= now,
            Stage::Signed { .. } => false,
        })?;
        if matches!(entry.stage, Stage::Waiting) {
            let Some(nonce) = &mut self.next_nonce else {
                return Some(Step::ReadAccount);
            };
            entry.stage = sign(&self.keypair, &self.ledger, *nonce, self.height, entry);
            entry.kept = !entry.durable;
            *nonce += 1;
        }
        let Stage::Signed { bytes, after, flight, .. } = &entry.stage else {
            return None;
        };
        let record = (!entry.kept).then(|| Record::Signed { id: entry.id, bytes: bytes.clone(), after: *after });
        Some(Step::Send { key: *key, bytes: bytes.clone(), record, again: matches!(flight, Flight::Again { .. }) })
    }

    fn is_flight_full(&self) -> bool {
        self.entries.values().filter(|entry| matches!(entry.stage, Stage::Signed { .. })).count() >= MAX_IN_FLIGHT
    }

    /// The account's nonce on the ledger.
    pub(super) fn on_account(&mut self, nonce: u64) {
        let in_flight = self.entries.values().filter_map(|entry| match &entry.stage {
            Stage::Signed { flight: Flight::Stale { .. } | Flight::Missing, .. } | Stage::Waiting => None,
            Stage::Signed { nonce, .. } => Some(*nonce + 1),
        });
        self.next_nonce = Some(in_flight.fold(nonce, u64::max));
    }

    /// What came of a [`Step::Send`].
    pub(super) fn on_sent(&mut self, key: Key, sent: Sent, now: Time) -> Option<Outcome> {
        let entry = self.entries.get_mut(&key)?;
        let Stage::Signed { flight, .. } = &mut entry.stage else {
            return None;
        };
        let first = matches!(flight, Flight::New);
        let strict = self.strict;
        match sent {
            Sent::Impossible { .. } if strict => flight.doubt(now),
            Sent::Refused { code, .. } if strict && code != Code::Nonce as u32 => flight.doubt(now),
            Sent::Accepted => *flight = Flight::Sent { since: now, look_at: now + LOOK_AGAIN },
            // It may be there: a look comes first on the next connection.
            Sent::Unknown => *flight = Flight::Sent { since: Time::ZERO, look_at: now },
            Sent::NotNow => self.not_before = now + TRY_AGAIN,
            Sent::Impossible { reason } => return self.reject(key, reason),
            Sent::Refused { code, .. } if first && !strict && code == Code::Nonce as u32 => self.sign_again(key),
            Sent::Refused { code, log } if first && code != Code::Nonce as u32 => {
                self.next_nonce = None;
                return self.reject(key, format!("{log} (code {code})"));
            }
            // A copy that left earlier may be the reason: only the ledger knows.
            Sent::Refused { .. } => {
                self.next_nonce = None;
                *flight = Flight::Stale { since: now, look_at: now };
            }
        }
        None
    }

    /// What came of a [`Step::LookUp`].
    pub(super) fn on_looked_up(&mut self, key: Key, found: Option<Found>, now: Time) -> Option<Outcome> {
        match found {
            // Included out of turn; such a transaction does nothing and uses no nonce.
            Some(found) if found.code == Code::Nonce as u32 => self.sign_again(key),
            Some(found) => return self.commit(key, found),
            None => self.on_missing(key, now),
        }
        None
    }

    fn commit(&mut self, key: Key, found: Found) -> Option<Outcome> {
        let entry = self.remove(key)?;
        let Stage::Signed { hash, .. } = entry.stage else {
            return None;
        };
        Some(Outcome::Committed { id: entry.id, hash, found })
    }

    fn on_missing(&mut self, key: Key, now: Time) {
        let Some(Entry { stage: Stage::Signed { flight, .. }, .. }) = self.entries.get_mut(&key) else {
            return;
        };
        match flight {
            Flight::Sent { since, .. } if now.since(*since) >= LOST_AFTER => *flight = Flight::Again { at: now },
            Flight::Stale { since, .. } if now.since(*since) >= SEARCH_AFTER => *flight = Flight::Missing,
            Flight::Sent { look_at, .. } | Flight::Stale { look_at, .. } => *look_at = now + LOOK_AGAIN,
            Flight::New | Flight::Again { .. } | Flight::Missing | Flight::Doubted { .. } => {}
        }
    }

    /// What came of a [`Step::Search`].
    pub(super) fn on_searched(&mut self, key: Key, searched: Searched, now: Time) -> Option<Outcome> {
        match searched {
            Searched::Found(found) => return self.on_looked_up(key, Some(found), now),
            Searched::Absent => self.sign_again(key),
            Searched::Open => {
                if let Some(Entry { stage: Stage::Signed { flight, .. }, .. }) = self.entries.get_mut(&key) {
                    *flight = Flight::Again { at: now + LOST_AFTER };
                }
            }
            Searched::Unknown { reason } => return self.reject(key, reason),
        }
        None
    }

    /// These bytes can never be included: the message gets new ones, with the nonce that the account is at.
    fn sign_again(&mut self, key: Key) {
        self.next_nonce = None;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.stage = Stage::Waiting;
            entry.attempt += 1;
        }
    }

    fn reject(&mut self, key: Key, reason: String) -> Option<Outcome> {
        let entry = self.remove(key)?;
        Some(Outcome::Rejected { id: entry.id, reason })
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        if entry.durable {
            self.done.push(entry.id);
        }
        Some(entry)
    }

    /// Gives up what is neither durable nor fresh, and never left this node.
    pub(super) fn expire(&mut self, now: Time) -> Option<Outcome> {
        let (key, _) = self.entries.iter().find(|(_, entry)| {
            !entry.durable
                && now.since(entry.submitted) >= EPHEMERAL_LIFE
                && matches!(entry.stage, Stage::Waiting | Stage::Signed { flight: Flight::New, .. })
        })?;
        self.reject(*key, format!("not sent within {} s; it was not to be kept longer", EPHEMERAL_LIFE.as_secs()))
    }

    /// When [`Outbox::next_step`] has something to do by time alone.
    pub(super) fn wake_at(&self) -> Option<Time> {
        // While the limit is reached, a block is what ends the wait.
        let (full, doubts) = (self.is_flight_full(), self.doubts());
        let wakes = self.entries.values().filter_map(|entry| match &entry.stage {
            Stage::Waiting => (!full && !doubts).then_some(self.not_before),
            Stage::Signed { flight: Flight::New, .. } => (!doubts).then_some(self.not_before),
            Stage::Signed { flight: Flight::Doubted { at, .. }, .. } => at.map(|at| at.max(self.not_before)),
            Stage::Signed { flight: Flight::Again { at }, .. } => Some((*at).max(self.not_before)),
            Stage::Signed { flight: Flight::Sent { look_at, .. } | Flight::Stale { look_at, .. }, .. } => {
                Some(*look_at)
            }
            Stage::Signed { flight: Flight::Missing, .. } => Some(Time::ZERO),
        });
        wakes.min()
    }

    /// Can a message of this size be a transaction at all?
    pub(super) fn fits(message: &Message) -> bool {
        codec::encode(message).len() + 256 <= MAX_TRANSACTION
    }
}

fn sign(keypair: &Keypair, ledger: &LedgerId, nonce: u64, after: u64, entry: &Entry) -> Stage {
    let (attempt, message) = (entry.attempt, entry.message.clone());
    let bytes = codec::encode(&keypair.seal(&Transaction { chain_id: ledger.clone(), nonce, attempt, message }));
    Stage::Signed { nonce, hash: Digest::of(&bytes), bytes, after, flight: Flight::New }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
