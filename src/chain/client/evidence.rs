//! What a light client asks an endpoint: signed headers, validators, blocks with results, updates, answers with proofs.
//!
//! Everything is taken as it is told, within limits; `verifier` and `chain::light` judge it.

use tendermint::{PublicKey, block::signed_header::SignedHeader, validator, vote};
use tendermint_rpc::{Client as _, Paging};

use super::{
    connection::{Failure, MAX_ANSWER, Rpc, block_height, said, timed},
    proof::{MAX_PROOF, Proven},
    transaction::{FindResults, Outcome},
};
use crate::{
    chain::{light::LightBlock, records::Updates, wire::query},
    codec,
};

/// Validators in a page: the most that CometBFT gives.
const PAGE: usize = 100;
/// Pages of validators: CometBFT allows 10,000 of them (`types.MaxVotesCount`).
const MAX_PAGES: usize = 100;
/// The voting power of all validators together is at most this (CometBFT `types.MaxTotalVotingPower`); the library panics above it.
const MAX_POWER: u64 = i64::MAX as u64 / 8;

impl Rpc {
    /// A header with its signatures; none if there is no such block there.
    pub(super) async fn signed_header(&self, height: u64) -> Result<Option<SignedHeader>, Failure> {
        match timed(self.commit(block_height(height))).await {
            Ok(answer) => Ok(Some(answer.signed_header)),
            Err(failure) if said(&failure).is_some() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// A header with its validators and the next ones, which are taken from `known` where its hashes say so.
    pub(super) async fn light_block(
        &self,
        height: u64,
        known: Option<&LightBlock>,
    ) -> Result<Option<LightBlock>, Failure> {
        let Some(signed_header) = self.signed_header(height).await? else { return Ok(None) };
        let header = &signed_header.header;
        let known: Vec<&validator::Set> =
            known.into_iter().flat_map(|block| [&block.validators, &block.next_validators]).collect();
        let validators = self.validators_of(height, header.validators_hash, &known).await?;
        let known = [&known[..], &[&validators]].concat();
        let next_validators = self.validators_of(height.saturating_add(1), header.next_validators_hash, &known).await?;
        Ok(Some(LightBlock { signed_header, validators, next_validators }))
    }

    async fn validators_of(
        &self,
        height: u64,
        hash: tendermint::Hash,
        known: &[&validator::Set],
    ) -> Result<validator::Set, Failure> {
        if let Some(same) = known.iter().find(|set| set.hash() == hash) {
            return Ok((*same).clone());
        }
        let wrong = || Failure::Validators { height };
        let mut found: Vec<(PublicKey, vote::Power)> = Vec::new();
        for page in 1..=MAX_PAGES {
            let paging =
                Paging::Specific { page_number: page.into(), per_page: u8::try_from(PAGE).unwrap_or(u8::MAX).into() };
            let answer = timed(self.validators(block_height(height), paging)).await?;
            let empty = answer.validators.is_empty();
            // The address is not part of what is hashed, so it is not taken over: it follows from the key.
            found.extend(answer.validators.iter().map(|info| (info.pub_key, info.power)));
            if empty || usize::try_from(answer.total).is_ok_and(|total| found.len() >= total) {
                break;
            }
        }
        let power = found.iter().try_fold(0_u64, |sum, (_, power)| sum.checked_add(power.value()));
        if found.is_empty() || power.is_none_or(|power| power > MAX_POWER) {
            return Err(wrong());
        }
        Ok(validator::Set::without_proposer(
            found.into_iter().map(|(key, power)| validator::Info::new(key, power)).collect(),
        ))
    }

    /// The first block that it has.
    pub(super) async fn earliest(&self) -> Result<u64, Failure> {
        Ok(timed(self.status()).await?.sync_info.earliest_block_height.value())
    }

    /// The last block that it has.
    pub(super) async fn latest(&self) -> Result<u64, Failure> {
        Ok(timed(self.status()).await?.sync_info.latest_block_height.value())
    }

    /// The transactions of a block, and what came of them.
    pub(super) async fn block_with_results(&self, height: u64) -> Result<(Vec<Vec<u8>>, Vec<Outcome>), Failure> {
        let block = timed(self.block(block_height(height))).await?.block;
        let results = timed(tendermint_rpc::Client::perform(self, FindResults::at(block_height(height)))).await?;
        Ok((block.data, results.all()))
    }

    /// A page of all that was written or removed after a height; of everything, if none.
    pub(super) async fn updates(&self, after: Option<u64>) -> Result<Updates, Failure> {
        self.ask_for(query::UPDATES, after.map_or_else(Vec::new, |after| codec::encode(&after))).await
    }

    /// The answer to a query for one record, with its proof; or code and log.
    pub(super) async fn ask_proven(&self, path: &str, data: Vec<u8>) -> Result<Result<Proven, (u32, String)>, Failure> {
        let answer = timed(self.abci_query(Some(path.to_owned()), data, None, true)).await?;
        if answer.code.is_err() {
            return Ok(Err((answer.code.value(), answer.log)));
        }
        let height = answer.height.value();
        let wrong = || Failure::Proof { path: path.chars().take(100).collect(), height };
        let operators = answer.proof.map(|proof| proof.ops).unwrap_or_default();
        let [operator] = &operators[..] else { return Err(wrong()) };
        let proof = codec::decode(&operator.data, MAX_PROOF).map_err(|_| wrong())?;
        if answer.value.len() > MAX_ANSWER {
            return Err(wrong());
        }
        Ok(Ok(Proven { height, value: answer.value, proof }))
    }
}
