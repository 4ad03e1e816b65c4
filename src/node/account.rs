//! What a person wants to know of this node's money, asked of its ledger.
//!
//! An edge: it asks, and puts the answers together. Each question is for one record, so that a client that believes no
//! endpoint has a proof of each answer. Nothing here is remembered, and nothing is ordered.

use futures::future::try_join_all;
use serde::de::DeserializeOwned;

use super::{edges::Terms, ledgers::Ledgers};
use crate::{
    api::{self, Error, ErrorCode, Reply},
    chain::{
        Key,
        ledger::{Genesis, Payout, Rules},
        records::{Account, Stake},
        wire::query,
    },
    codec, identity,
    types::{NodeKey, words},
};

/// The longest record in bytes: a genesis with a million accounts.
const MAX_RECORD: usize = 64 * 1024 * 1024;
/// Rounds whose rewards are asked for at once, the newest: an audit window has twenty blocks as a rule, and a node closes
/// a few rounds in each at most. Of older ones it is not said what waits.
const MAX_ASKED: usize = 256;

/// Balance, stake and nonce of an account.
pub(super) async fn wallet(ledgers: &Ledgers, ledger: &str, account: &NodeKey) -> Result<Reply, Error> {
    let key = Key::Stake(*account);
    let (found, stake) = tokio::try_join!(
        ask::<Account>(ledgers, ledger, query::GET_ACCOUNT, codec::encode(account)),
        record::<Stake>(ledgers, ledger, &key),
    )?;
    let Stake { bonded, unbonding } = stake.unwrap_or_default();
    let unbonding = unbonding.iter().map(|one| api::Unbonding { amount: one.amount, releases_at: one.releases_at });
    Ok(Reply::Wallet(api::Wallet {
        address: identity::address(account),
        key: *account,
        ledger: ledger.to_owned(),
        balance: found.balance,
        bonded,
        unbonding: unbonding.collect(),
        nonce: found.nonce,
    }))
}

/// What a ledger asks of nodes, and what this one has bonded there.
pub(super) async fn terms(ledgers: &Ledgers, ledger: &str, node: &NodeKey) -> Result<Terms, String> {
    let key = Key::Stake(*node);
    let (genesis, rules, stake) = tokio::try_join!(
        record::<Genesis>(ledgers, ledger, &Key::Genesis),
        record::<Rules>(ledgers, ledger, &Key::Rules),
        record::<Stake>(ledgers, ledger, &key),
    )
    .map_err(|error| words(&error))?;
    let economy = Rules::in_force(rules, genesis.as_ref()).map(|rules| rules.economy);
    Ok(Terms {
        economy: economy.is_some(),
        min_stake: economy.map_or(0, |economy| economy.min_stake),
        bonded: stake.map_or(0, |stake| stake.bonded),
    })
}

/// Completes what is known of a node's rewards: when each round is due, and what waits for that.
pub(super) async fn rewards(ledgers: &Ledgers, node: &NodeKey, known: api::Rewards) -> Result<Reply, Error> {
    let mut rewards = known;
    let genesis: Option<Genesis> = record(ledgers, &rewards.ledger, &Key::Genesis).await?;
    let window = genesis.map_or(0, |genesis| genesis.parameters.audit_window_blocks);
    for round in &mut rewards.rounds {
        round.due = round.height.saturating_add(window);
    }
    let open: Vec<usize> =
        (0..rewards.rounds.len()).filter(|index| rewards.rounds[*index].due > rewards.height).collect();
    let asked = open.into_iter().take(MAX_ASKED).map(|index| waiting(ledgers, &rewards, index, node));
    let amounts = try_join_all(asked).await?;
    for (index, amount) in amounts {
        rewards.rounds[index].waiting = Some(amount);
    }
    rewards.waiting = rewards.rounds.iter().filter_map(|round| round.waiting).fold(0, u64::saturating_add);
    Ok(Reply::Rewards(Box::new(rewards)))
}

/// What waits for the node of one round in the list, beside its place there.
async fn waiting(
    ledgers: &Ledgers,
    rewards: &api::Rewards,
    index: usize,
    node: &NodeKey,
) -> Result<(usize, u64), Error> {
    let round = &rewards.rounds[index];
    let payout: Option<Payout> =
        record(ledgers, &rewards.ledger, &Key::Payout(round.due, round.job, round.round)).await?;
    let share = payout.and_then(|payout| payout.shares.get(node).copied());
    Ok((index, share.unwrap_or(0)))
}

/// The record under a key, if there is one.
pub(super) async fn record<T: DeserializeOwned>(
    ledgers: &Ledgers,
    ledger: &str,
    key: &Key,
) -> Result<Option<T>, Error> {
    ask(ledgers, ledger, query::GET_RECORD, codec::encode(key)).await
}

async fn ask<T: DeserializeOwned>(ledgers: &Ledgers, ledger: &str, path: &str, data: Vec<u8>) -> Result<T, Error> {
    let unavailable = |reason: String| {
        Error::new(ErrorCode::Unavailable, reason).with_hint("see `atlas-node status` for the way to the ledger")
    };
    let answer = ledgers.query(ledger, path, data).await.map_err(unavailable)?;
    codec::decode(&answer, MAX_RECORD).map_err(|error| unavailable(words(&error)))
}
