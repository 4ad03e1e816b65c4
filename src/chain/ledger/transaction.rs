//! One transaction: who sent it, whether it is next, and which rule it goes to.

use super::{TransactionResult, refusal::Refusal, state::State};
use super::{
    fees, governance, jobs, models, money, nodes, offences, receipts, refusal::ensure, rounds, stake, storage, tasks,
    verdicts,
};
use crate::{
    chain::wire::{MAX_TRANSACTION, Message, Transaction},
    codec,
    types::{Digest, NodeKey, Signed, Verified},
};

/// What the rules know of a transaction besides its message.
pub(super) struct Context {
    /// Who signed it.
    pub(super) creator: NodeKey,
    /// Its nonce.
    pub(super) nonce: u64,
    /// SHA-256 of its bytes: its name on the chain.
    pub(super) hash: Digest,
}

/// An authentic transaction's place in the line of its creator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Who signed it.
    pub creator: NodeKey,
    /// Its nonce.
    pub nonce: u64,
}

/// Whether a transaction may wait for a block.
pub(super) fn check(state: &State, known: &Verified, bytes: &[u8]) -> TransactionResult {
    let checked = open(state, known, bytes).and_then(|(context, message)| {
        let expected = next_nonce(state, &context.creator);
        ensure(context.nonce >= expected, || used_nonce(context.nonce, expected))?;
        fees::check(state, &context.creator, &message)
    });
    checked.map_or_else(TransactionResult::from, |()| TransactionResult::default())
}

/// What a transaction claims, if it is whole, authentic and for this ledger. Looks at no account.
pub(super) fn claim(state: &State, known: &Verified, bytes: &[u8]) -> Result<Claim, Refusal> {
    open(state, known, bytes).map(|(context, _)| Claim { creator: context.creator, nonce: context.nonce })
}

/// Applies a transaction. One that is authentic and next uses its nonce even if its message fails; of a failed
/// message nothing else remains, but the fee, and that a refused receipt is counted.
pub(super) fn apply(state: &mut State, known: &Verified, bytes: &[u8]) -> TransactionResult {
    let (context, message) = match open(state, known, bytes) {
        Ok(opened) => opened,
        Err(refusal) => return refusal.into(),
    };
    let expected = next_nonce(state, &context.creator);
    if context.nonce != expected {
        return used_nonce(context.nonce, expected).into();
    }
    let mut account = state.account(&context.creator).cloned().unwrap_or_default();
    account.nonce = expected.saturating_add(1);
    state.put_account(&context.creator, account);
    if let Err(refusal) = fees::charge(state, &context.creator, &message) {
        return refusal.into();
    }
    state.begin();
    match perform(state, &context, &message) {
        Ok(data) => TransactionResult { data, events: state.take_events(), ..TransactionResult::default() },
        Err(refusal) => {
            state.rollback();
            if let Message::SubmitReceipt { receipt, .. } = &message {
                receipts::count_refused(state, &context, receipt);
            }
            refusal.into()
        }
    }
}

fn open(state: &State, known: &Verified, bytes: &[u8]) -> Result<(Context, Message), Refusal> {
    let signed: Signed =
        codec::decode(bytes, MAX_TRANSACTION).map_err(|error| Refusal::malformed(format!("transaction: {error}")))?;
    // The signature covers the body and not the envelope: without this, anybody could write the envelope in another way and
    // so give a transaction another hash, and with it another lease and other assignments.
    ensure(codec::encode(&signed) == bytes, || Refusal::malformed("transaction: its envelope is not canonical CBOR"))?;
    let transaction: Transaction =
        signed.open_knowing(known).map_err(|error| Refusal::unopened("transaction", &error))?;
    // As a program that does not know the economy refuses its messages: without one, both are one ledger.
    ensure(state.economy().is_some() || !transaction.message.needs_economy(), || {
        Refusal::malformed(
            "transaction: this ledger has no economy and so no such message: money moves where a genesis names one",
        )
    })?;
    ensure(state.parameters().max_objects > 0 || !transaction.message.needs_storage(), || {
        Refusal::malformed(
            "transaction: this ledger has no storage and so no such message: nodes keep content for others where `max_objects` is above 0",
        )
    })?;
    let chain_id = &state.genesis().chain_id;
    ensure(transaction.chain_id == *chain_id, || {
        let theirs: String = transaction.chain_id.chars().take(super::MAX_CHAIN_ID).collect();
        Refusal::chain_id(format!("the transaction is for ledger `{theirs}`, this is `{chain_id}`"))
    })?;
    let context = Context { creator: signed.signer, nonce: transaction.nonce, hash: Digest::of(bytes) };
    Ok((context, transaction.message))
}

/// The nonce that the creator's next transaction must have.
pub(super) fn next_nonce(state: &State, creator: &NodeKey) -> u64 {
    state.account(creator).map_or(0, |account| account.nonce)
}

fn used_nonce(nonce: u64, expected: u64) -> Refusal {
    Refusal::nonce(format!("nonce {nonce} is not the next; expected {expected}"))
}

/// Each rule gives the answer that goes into the result's data.
fn perform(state: &mut State, context: &Context, message: &Message) -> Result<Vec<u8>, Refusal> {
    match message {
        Message::RegisterNode { node_id, address, resources, listen, attributes } => {
            let offer = nodes::Offer { node_id, address: address.as_deref(), resources, listen, attributes };
            nodes::register(state, context, &offer)
        }
        Message::UpdateHeartbeat { beats } => nodes::heartbeat(state, beats),
        Message::SubmitJob { spec, shards } => jobs::submit(state, context, spec, shards),
        Message::CreateTask { job_id, shard } => jobs::create_task(state, context, job_id, shard),
        Message::TakeLease { task_id, generation } => tasks::take_lease(state, context, task_id, *generation),
        Message::UpdateTaskStatus { task_id, generation, status, progress, checkpoint, delegate, error } => {
            let report = tasks::Report {
                status: *status,
                progress: *progress,
                checkpoint: checkpoint.as_ref(),
                delegate: delegate.as_ref(),
                error: error.as_deref(),
            };
            tasks::update_status(state, context, task_id, *generation, &report)
        }
        Message::SubmitReceipt { receipt, attestation } => receipts::submit(state, receipt, attestation),
        Message::CloseRound { outcome, votes } => rounds::close(state, context, outcome, votes),
        Message::CancelJob { job_id } => jobs::cancel(state, context, job_id),
        Message::PauseJob { job_id, paused } => jobs::pause(state, context, job_id, *paused),
        Message::RegisterModel { name, version, cid, metadata } => {
            models::register(state, context, models::Entry { name, version, cid: *cid, metadata })
        }
        Message::ReportInference { job_id, answered, failed, round } => {
            let report = models::Answers { answered: *answered, failed: *failed, round: *round };
            models::report_inference(state, context, job_id, &report)
        }
        Message::Bond { amount } => stake::bond(state, context, *amount),
        Message::Unbond { amount } => stake::unbond(state, context, *amount),
        Message::Send { to, amount } => money::send(state, context, to, *amount),
        Message::ReportOffence { evidence } => offences::report(state, context, evidence),
        Message::Verdict { votes } => verdicts::find(state, votes),
        Message::ChangeParameters { votes } => governance::vote(state, votes),
        Message::OfferStorage { bytes } => storage::offer(state, context, *bytes),
        Message::Keep { root, bytes, copies, until } => {
            let wish = storage::Wish { root: *root, bytes: *bytes, copies: *copies, until: *until };
            storage::keep(state, context, &wish)
        }
        Message::Held { owner, root } => storage::hold(state, context, owner, root),
        Message::Dropped { owner, root } => storage::drop_held(state, context, owner, root),
        Message::Release { root } => storage::release(state, context, root),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        chain::{ledger::Genesis, wire::Code},
        identity::Keypair,
        types::{NodeKey, Resources, Time},
    };

    #[test]
    fn an_envelope_that_somebody_wrote_in_another_way_is_refused() {
        let host = Keypair::from_secret(&[1; 32]);
        let genesis = Genesis {
            chain_id: "test".into(),
            parameters: crate::chain::ledger::Parameters::default(),
            accounts: BTreeMap::new(),
            time: Time::from_millis(1),
            validator: NodeKey([0; 32]),
            economy: None,
        };
        let mut ledger = crate::chain::ledger::Ledger::new(genesis).unwrap();
        let message = Message::RegisterNode {
            node_id: "one".into(),
            address: None,
            resources: Resources::default(),
            listen: Vec::new(),
            attributes: BTreeMap::new(),
        };
        let transaction = Transaction { chain_id: "test".into(), nonce: 0, attempt: 0, message };
        let canonical = codec::encode(&host.seal(&transaction));
        // A map of three pairs, as a head of one byte and as a head of two: the same value, another hash.
        assert_eq!(canonical[0], 0xa3);
        let another = [&[0xb8, 0x03], &canonical[1..]].concat();
        let result = ledger.apply_block(Time::from_millis(2), &[another.clone(), canonical]);
        assert_eq!(ledger.check(&another).code, Code::Malformed as u32);
        assert_eq!((result.results[0].code, result.results[1].code), (Code::Malformed as u32, Code::Ok as u32));
    }
}
